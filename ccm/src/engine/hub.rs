//! The leaders that are connected, the servers that are online, and the deliveries under way.
//!
//! One lock, held for bookkeeping only: what is to be said goes into bounded queues of the
//! connections, and whoever waits for a change is woken.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use common::control::{SessionStats, ToCcm, ToLeader};
use common::digest::Version;
use common::fleet::{MemberInfo, SegmentReport};
use common::ids::{AssignmentNumber, SegmentName, Sequence, ServerId, SiteName};
use common::outcome::{Outcome, SiteState};
use tokio::sync::{mpsc, watch};

use super::delivery::{Delivery, Leader, Leaders, Says};

/// How long a server may be missing from its segment before a run stops waiting for it. Longer than
/// an election takes.
pub const SERVER_GRACE: Duration = Duration::from_secs(8);
/// How long after its start the CCM may not have taken every unfinished run up again: until then it
/// does not tell leaders to drop what no run seems to need.
const RESUME_GRACE: Duration = Duration::from_secs(60);
/// How long a server's answer about what is live counts for more than its report. Reports follow
/// within moments; a server that was set back by its administrator is believed after this.
const KNOWN_LIVE_LIFE: Duration = Duration::from_secs(10);
/// Messages that may wait for one leader. A leader that does not read is disconnected.
const QUEUE_MAX: usize = 1024;

/// Counts connections, so that an old one's end is not taken for a new one's.
pub type ConnectionId = u64;

#[derive(Debug)]
struct Link {
    connection: ConnectionId,
    leader: Leader,
    queue: mpsc::Sender<ToLeader>,
    report: Option<SegmentReport>,
}

#[derive(Debug, Default)]
struct State {
    connections: ConnectionId,
    links: BTreeMap<SegmentName, Link>,
    /// Connections that have not said yet what they lead.
    pending: BTreeMap<ConnectionId, Link>,
    deliveries: BTreeMap<AssignmentNumber, Delivery>,
    /// Since when a server that was online, or is waited for, is missing.
    missing_since: BTreeMap<ServerId, Instant>,
    /// What servers were told to make live, until their own report says so.
    known_live: BTreeMap<(ServerId, SiteName), KnownLive>,
}

/// What a server's answer said is live, ahead of its next report.
#[derive(Debug)]
struct KnownLive {
    sequence: Sequence,
    version: Option<Version>,
    since: Instant,
}

/// See the module.
#[derive(Debug)]
pub struct Hub {
    state: Mutex<State>,
    changes: watch::Sender<u64>,
    started: Instant,
}

/// What a delivery has come to.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    /// Every leader holds the object.
    pub everywhere: bool,
    /// Every target answered or was given up.
    pub answered: bool,
    /// The answers.
    pub outcomes: BTreeMap<ServerId, Outcome>,
    /// Sessions by segment, with whether they are over.
    pub sessions: BTreeMap<SegmentName, (SessionStats, bool)>,
    /// Frames that servers' kernels dropped.
    pub overflows: BTreeMap<ServerId, u64>,
    /// Who has not answered, given up or not.
    pub unanswered: BTreeSet<ServerId>,
}

impl Default for Hub {
    fn default() -> Self {
        Self { state: Mutex::default(), changes: watch::channel(0).0, started: Instant::now() }
    }
}

impl Hub {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic while bookkeeping leaves plain data; the next user sees it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    /// Wakes at every change of leaders, servers or deliveries.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// A leader connected. Returns its connection and what is to be written to it. It counts from its
    /// first report of the segment on.
    pub fn connect(&self, leader: Leader) -> (ConnectionId, mpsc::Receiver<ToLeader>) {
        let (queue, messages) = mpsc::channel(QUEUE_MAX);
        let mut state = self.lock();
        state.connections += 1;
        let connection = state.connections;
        state.pending.insert(connection, Link { connection, leader, queue, report: None });
        (connection, messages)
    }

    /// A connection ended. The segment has no leader until another connects.
    pub fn disconnect(&self, segment: &SegmentName, connection: ConnectionId) {
        let mut state = self.lock();
        state.pending.remove(&connection);
        if state.links.get(segment).is_some_and(|link| link.connection == connection) {
            let gone = state.links.remove(segment);
            state.note_missing(gone);
            let says = state.each_delivery(Delivery::leaders_changed);
            state.say(says);
        }
        drop(state);
        self.changed();
    }

    /// What a leader said, except reports of the fleet's state. Returns `false` when the connection
    /// is no longer the segment's.
    pub fn heard(&self, segment: &SegmentName, connection: ConnectionId, message: &ToCcm) -> bool {
        let mut state = self.lock();
        if let ToCcm::Segment(report) = message {
            state.admit(segment, connection, report.epoch);
        }
        if state.links.get(segment).is_none_or(|link| link.connection != connection) {
            // Before its first report a connection counts for nothing; after another took its place
            // it is to end.
            return state.pending.contains_key(&connection);
        }
        let leaders = state.leaders();
        let says = match message {
            ToCcm::Hello { .. } => Says::new(),
            ToCcm::Segment(report) => state.segment_report(segment, report),
            ToCcm::Holds { object } => {
                let is_wanted = state.deliveries_of(*object).next().is_some();
                if !is_wanted && self.started.elapsed() > RESUME_GRACE {
                    vec![(segment.clone(), ToLeader::Drop { object: *object })]
                } else {
                    state.deliveries_of(*object).flat_map(|delivery| delivery.holds(segment, &leaders)).collect()
                }
            }
            ToCcm::AskNext { object } => {
                let answers: Says =
                    state.deliveries_of(*object).flat_map(|delivery| delivery.ask_next(segment, &leaders)).collect();
                if answers.is_empty() {
                    vec![(segment.clone(), ToLeader::Next { object: *object, next: None })]
                } else {
                    answers
                }
            }
            ToCcm::FetchFailed { object, source, reason } => {
                tracing::warn!(%segment, %object, ?source, reason, "a leader could not fetch an object");
                state.deliveries_of(*object).flat_map(|delivery| delivery.fetch_failed(segment, &leaders)).collect()
            }
            ToCcm::ForwardFailed { object, to, reason } => {
                tracing::warn!(%segment, %object, %to, reason, "a leader could not serve another");
                state.deliveries_of(*object).flat_map(|delivery| delivery.forward_failed(*to, &leaders)).collect()
            }
            ToCcm::Session { assignment, stats, finished } => {
                if let Some(delivery) = state.deliveries.get_mut(assignment) {
                    delivery.session(segment.clone(), stats.clone(), *finished);
                }
                Says::new()
            }
            ToCcm::Overflow { assignment, server, frames } => {
                if let Some(delivery) = state.deliveries.get_mut(assignment) {
                    delivery.overflow(segment, *server, *frames);
                }
                Says::new()
            }
            ToCcm::Reports(reports) => {
                for report in reports {
                    if let Some(delivery) = state.deliveries.get_mut(&report.assignment) {
                        delivery.report(report.server, report.outcome.clone());
                    }
                }
                Says::new()
            }
            ToCcm::Ping => vec![(segment.clone(), ToLeader::Pong)],
        };
        state.say(says);
        drop(state);
        self.changed();
        true
    }

    /// Starts a delivery.
    pub fn deliver(&self, assignment: AssignmentNumber, mut delivery: Delivery) {
        let mut state = self.lock();
        let says = delivery.leaders_changed(&state.leaders());
        let present: BTreeSet<ServerId> = state.members().map(|member| member.server).collect();
        let now = Instant::now();
        for target in delivery.unanswered().filter(|target| !present.contains(target)) {
            state.missing_since.entry(target).or_insert(now);
        }
        state.deliveries.insert(assignment, delivery);
        state.say(says);
        drop(state);
        self.changed();
    }

    /// What a delivery has come to. Gives up on targets that have been missing too long.
    #[must_use]
    pub fn progress(&self, assignment: AssignmentNumber) -> Option<Progress> {
        let mut state = self.lock();
        let given_up: Vec<ServerId> = state
            .missing_since
            .iter()
            .filter(|(_, since)| since.elapsed() > SERVER_GRACE)
            .map(|(server, _)| *server)
            .collect();
        let delivery = state.deliveries.get_mut(&assignment)?;
        for server in given_up {
            delivery.give_up(server);
        }
        Some(Progress {
            everywhere: delivery.is_everywhere(),
            answered: delivery.is_answered(),
            outcomes: delivery.outcomes().clone(),
            sessions: delivery.sessions().clone(),
            overflows: delivery.overflows().clone(),
            unanswered: delivery.silent().collect(),
        })
    }

    /// Lets a delivery rest, or go on.
    pub fn rest(&self, assignment: AssignmentNumber, rest: bool) {
        let mut state = self.lock();
        let leaders = state.leaders();
        let Some(delivery) = state.deliveries.get_mut(&assignment) else { return };
        let says = if rest { delivery.rest() } else { delivery.go_on(&leaders) };
        state.say(says);
        drop(state);
        self.changed();
    }

    /// Ends a delivery; leaders may forget the object.
    pub fn finish(&self, assignment: AssignmentNumber) {
        let mut state = self.lock();
        if let Some(delivery) = state.deliveries.remove(&assignment) {
            let object = delivery.object();
            let says = state.links.keys().map(|segment| (segment.clone(), ToLeader::Drop { object })).collect();
            state.say(says);
        }
    }

    /// The servers that are online, with what they last reported.
    #[must_use]
    pub fn online(&self) -> BTreeMap<ServerId, MemberInfo> {
        self.lock().members().map(|member| (member.server, member.clone())).collect()
    }

    /// Whether one of these servers is not online but may be back in a moment: its leader was lost, or
    /// the CCM has just started.
    #[must_use]
    pub fn may_return(&self, servers: &[ServerId]) -> bool {
        let state = self.lock();
        let present: BTreeSet<ServerId> = state.members().map(|member| member.server).collect();
        let is_young = self.started.elapsed() < SERVER_GRACE;
        servers.iter().filter(|server| !present.contains(server)).any(|server| {
            is_young || state.missing_since.get(server).is_some_and(|since| since.elapsed() < SERVER_GRACE)
        })
    }

    /// The version that is live on a server that is online; `None` when it is not online or nothing
    /// is live there.
    #[must_use]
    pub fn live(&self, server: ServerId, site: &SiteName) -> Option<Version> {
        let state = self.lock();
        let member = state.members().find(|member| member.server == server)?;
        let reported = member.sites.iter().find(|candidate| candidate.site == *site);
        let sequence = reported.map_or(Sequence(0), |reported| reported.sequence);
        match state.known_live.get(&(server, site.clone())) {
            Some(known) if known.sequence > sequence && known.since.elapsed() < KNOWN_LIVE_LIFE => known.version,
            Some(_) | None => reported.and_then(|reported| reported.live),
        }
    }

    /// What a server that is online last reported of a site.
    #[must_use]
    pub fn site_state(&self, server: ServerId, site: &SiteName) -> Option<SiteState> {
        let state = self.lock();
        let member = state.members().find(|member| member.server == server)?;
        member.sites.iter().find(|candidate| candidate.site == *site).cloned()
    }

    /// Whether what a server last reported of a site is older than what it has answered.
    #[must_use]
    pub fn report_lags(&self, server: ServerId, site: &SiteName) -> bool {
        let state = self.lock();
        let Some(member) = state.members().find(|member| member.server == server) else { return false };
        let reported = member.sites.iter().find(|candidate| candidate.site == *site);
        let known = state.known_live.get(&(server, site.clone()));
        known.is_some_and(|known| {
            known.since.elapsed() < KNOWN_LIVE_LIFE
                && reported.is_none_or(|reported| reported.sequence < known.sequence)
        })
    }

    /// A server has answered that this is live now, by this assignment.
    pub fn set_live(&self, server: ServerId, site: &SiteName, by: AssignmentNumber, version: Option<Version>) {
        let known = KnownLive { sequence: Sequence(by.0), version, since: Instant::now() };
        self.lock().known_live.insert((server, site.clone()), known);
    }

    /// Tells the leader of a segment to move it to another control channel. Returns whether it has one that
    /// could be told.
    pub fn move_control(&self, segment: &SegmentName, to: SocketAddr) -> bool {
        let mut state = self.lock();
        state.say(vec![(segment.clone(), ToLeader::MoveControl { to })]);
        // One that does not read is disconnected by that.
        state.links.contains_key(segment)
    }

    /// The segments whose leader is connected: leader and epoch.
    #[must_use]
    pub fn segments(&self) -> BTreeMap<SegmentName, (ServerId, u64)> {
        let state = self.lock();
        state
            .links
            .iter()
            .map(|(segment, link)| {
                (segment.clone(), (link.leader.server, link.report.as_ref().map_or(0, |report| report.epoch)))
            })
            .collect()
    }
}

impl State {
    fn members(&self) -> impl Iterator<Item = &MemberInfo> {
        self.links.values().filter_map(|link| link.report.as_ref()).flat_map(|report| &report.members)
    }

    fn leaders(&self) -> Leaders {
        // A leader counts once it has reported its segment: before, nobody knows whom it leads.
        self.links
            .iter()
            .filter(|(_, link)| link.report.is_some())
            .map(|(segment, link)| (segment.clone(), link.leader.clone()))
            .collect()
    }

    /// A connection says what it leads: it takes the segment over unless a higher epoch has it.
    fn admit(&mut self, segment: &SegmentName, connection: ConnectionId, epoch: u64) {
        let Some(link) = self.pending.remove(&connection) else { return };
        let held = self.links.get(segment).and_then(|held| held.report.as_ref()).map_or(0, |report| report.epoch);
        if held > epoch {
            tracing::warn!(%segment, epoch, held, "a leader that was replaced reports; it is not listened to");
            return;
        }
        let before = self.links.insert(segment.clone(), link);
        self.note_missing(before);
    }

    fn deliveries_of(&mut self, object: common::digest::Digest) -> impl Iterator<Item = &mut Delivery> {
        self.deliveries.values_mut().filter(move |delivery| delivery.object() == object)
    }

    fn each_delivery(&mut self, change: impl Fn(&mut Delivery, &Leaders) -> Says) -> Says {
        let leaders = self.leaders();
        self.deliveries.values_mut().flat_map(|delivery| change(delivery, &leaders)).collect()
    }

    fn segment_report(&mut self, segment: &SegmentName, report: &SegmentReport) -> Says {
        let Some(link) = self.links.get_mut(segment) else { return Says::new() };
        let is_first = link.report.is_none();
        let before = link.report.replace(report.clone());
        let present: BTreeSet<ServerId> = report.members.iter().map(|member| member.server).collect();
        let now = Instant::now();
        for member in before.into_iter().flat_map(|report| report.members) {
            if !present.contains(&member.server) {
                self.missing_since.entry(member.server).or_insert(now);
            }
        }
        for server in &present {
            self.missing_since.remove(server);
        }
        if is_first {
            let segment = segment.clone();
            // What an earlier connection was told may not have arrived.
            self.each_delivery(move |delivery, leaders| delivery.leader_reconnected(&segment, leaders))
        } else {
            Says::new()
        }
    }

    fn say(&mut self, says: Says) {
        for (segment, message) in says {
            let Some(link) = self.links.get(&segment) else { continue };
            if link.queue.try_send(message).is_err() {
                tracing::warn!(%segment, "the leader does not read what it is told; disconnecting it");
                // Dropping the queue ends the connection's task; the leader connects anew.
                let dropped = self.links.remove(&segment);
                self.note_missing(dropped);
            }
        }
    }

    /// The members of a link that is gone are missing from now on, until somebody reports them.
    fn note_missing(&mut self, gone: Option<Link>) {
        let now = Instant::now();
        for member in gone.and_then(|link| link.report).into_iter().flat_map(|report| report.members) {
            self.missing_since.entry(member.server).or_insert(now);
        }
    }
}
