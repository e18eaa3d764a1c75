//! What every server does: take part in the election, register, receive, apply, report.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use common::control::Source;
use common::credential::Credential;
use common::decline::{Decline, DeclineCode};
use common::errors::chain;
use common::ids::ServerId;
use common::keys::Signed;
use common::outcome::{Outcome, Refusal, RefusalCode, Report, SiteState};
use common::ticket::Ticket;
use common::time::Timestamp;
use lan_channel::doctor::is_of_doctor;
use lan_channel::secrets::SessionName;
use protocol::election;
use protocol::jumbo;
use protocol::message::Control;
use protocol::participant::Output;
use protocol::reach::Way;
use protocol::registration::Destination;
use protocol::session::{Grant, Message};
use std::net::SocketAddr;
use tokio::net::UdpSocket;
use transfer::fetch::Beginning;
use transfer::store::Assembler;

use super::leading::Leading;
use super::{Agent, DATAGRAMS_PER_TURN, Event, HANDLED_MAX, KEEP_APPLIED, early, host, persist_epoch};
use crate::identity::{IdentityError, write_private};
use crate::lan::{Choice, Lan};
use crate::receive::{self, Announced};
use crate::worker::{Done, Job, wall_time};

/// Most frames taken before something else gets its turn: more than a receive buffer holds.
const FRAMES_PER_DRAIN: usize = 16_384;
/// While this file is in its data directory, a server takes part in nothing new; the file says why.
const MAINTENANCE_FILE: &str = "maintenance";
/// Pause after a fetch that failed for good.
const FETCH_AGAIN: std::time::Duration = std::time::Duration::from_secs(1);

/// A number that grows with every start, so that old datagrams are not believed again.
pub(super) fn boot_number(data: &Path, chance: u64) -> Result<u64, IdentityError> {
    let path = data.join("boot");
    let last: u64 = std::fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0);
    // A lost file must not start from the beginning again: the clock is ahead of any count of starts.
    let next = (last + 1).max(wall_time().0 << 8 | (chance & 0xff));
    write_private(&path, next.to_string().as_bytes())?;
    Ok(next)
}

/// Objects from this length on are worth looking for frames that the kernel dropped.
const OVERFLOWS_BYTES_MIN: u64 = 4 << 20;

impl Agent {
    /// Reads what waits on a socket: of this channel, or what is said to this server alone.
    pub(super) fn read_control(&mut self, socket: &UdpSocket, channel: Option<SocketAddr>, buffer: &mut [u8]) {
        let way = if channel.is_some() { Way::Multicast } else { Way::Unicast };
        for _ in 0..DATAGRAMS_PER_TURN {
            let Ok((length, from)) = socket.try_recv_from(buffer) else { return };
            if is_of_doctor(&buffer[..length]) {
                self.doctor(&buffer[..length], from, way);
                continue;
            }
            let opened = match self.opener.open(&buffer[..length], wall_time(), &mut self.pairs) {
                Ok(opened) => opened,
                Err(error) => {
                    tracing::trace!(%from, %error, "a control datagram is dropped");
                    continue;
                }
            };
            let message: Control = match postcard::from_bytes(&opened.body) {
                Ok(message) => message,
                Err(error) => {
                    tracing::debug!(%from, %error, "a control message cannot be read");
                    continue;
                }
            };
            // A probe leaves by the socket of frames, where nobody is spoken to.
            if !matches!(message, Control::Jumbo(jumbo::Message::Probe { .. })) {
                self.peers.heard(opened.sender.server, &opened.sender.name, from);
            }
            // What was sent before this message is heard before it: data has a socket of its own, and
            // a question about frames that lie there unread would be answered with "missing".
            self.drain_data();
            let server = opened.sender.server;
            self.control(&opened.sender, from, way, message);
            if let Some(channel) = channel {
                self.moves.heard_leader_on(server, channel);
            }
            self.pump();
        }
    }

    /// Takes every frame that has arrived, whether the reactor knows of it or not.
    pub(super) fn drain_data(&mut self) {
        let mut taken = 0;
        while taken < FRAMES_PER_DRAIN {
            let now = self.clock.now();
            let Self { channels, joined, batch, receptions, .. } = self;
            let own = channels.data_receive.take(batch, |frame| receptions.frame(frame, now));
            let frames = own + joined.take(batch, |frame| receptions.frame(frame, now));
            if frames == 0 {
                break;
            }
            taken += frames;
            receptions.settle(now);
            // Who is sent more than it can take still answers, or it would be thought dead.
            if receptions.poll_timeout().is_some_and(|at| at <= now) {
                receptions.timeout(now);
            }
            self.pump_receptions();
        }
        self.doze.took(taken, self.clock.now());
    }

    /// Looks at how many frames the kernel had to drop, and says when there are more than the last time.
    pub(super) fn watch_overflows(&mut self) {
        let Some(own) = self.channels.data_receive.overflows() else { return };
        let overflows = own + self.joined.overflows();
        if overflows > self.overflows {
            tracing::warn!(
                frames = overflows - self.overflows,
                buffer_bytes = self.channels.data_buffer_bytes,
                "the kernel dropped frames because this server did not read them in time; if that happens often, \
                 net.core.rmem_max should be raised"
            );
        }
        self.overflows = overflows;
    }

    /// The leader hears when the kernel dropped frames during a session, while that is under way.
    ///
    /// Of a small object it does not: looking would take longer than the session did.
    fn tell_overflows(&mut self, session: u32, length: u64, leader: ServerId) {
        let Some(before) = self.overflows_before.remove(&session) else { return };
        if length < OVERFLOWS_BYTES_MIN {
            return;
        }
        self.watch_overflows();
        let frames = self.overflows.saturating_sub(before);
        if frames > 0 {
            self.say_session(Some(leader), Message::Overflow { session, frames });
        }
    }

    fn control(&mut self, sender: &Credential, from: SocketAddr, way: Way, message: Control) {
        let now = self.clock.now();
        let server = sender.server;
        self.reach.heard(server, now);
        if let Choice::Fixed(leader) = &self.config.lan.choice
            && *leader == sender.name
        {
            self.part.leader_is(server, now);
        }
        self.part.set_busy(self.leading.as_ref().is_some_and(Leading::is_distributing));
        if let Err(error) = self.part.handle_message(server, sender.roles, &message, now) {
            tracing::debug!(%server, %error, "a control message is rejected");
        }
        match message {
            Control::Session { message, transfer_port } => {
                let mut transfer = from;
                transfer.set_port(transfer_port);
                self.session(sender, transfer, message, now);
            }
            Control::Reach(message) => self.reach.handle_message(server, way, &message, now),
            Control::Jumbo(message) => self.jumbo.handle_message(server, way, &message),
            Control::Direct(message) => self.direct(sender, from, message, now),
            Control::Relocation(message) => {
                self.moves.handle_message(server, sender.roles.leader, &message, now);
            }
            Control::Election(_) | Control::Registration(_) | Control::Reports(_) => {}
        }
    }

    fn session(&mut self, sender: &Credential, transfer: SocketAddr, message: Message, now: Timestamp) {
        match message {
            Message::Announce { session, ticket, table_bytes, layout, epoch, grants } => {
                self.leader_transfer.insert(sender.server, transfer);
                if self.receptions.knows(session) {
                    let again = Message::Announce { session, ticket, table_bytes, layout, epoch, grants };
                    self.receptions.message(sender.server, &again, now);
                    return;
                }
                // Only who leads distributes. Who has just been elected announces again.
                let leads = self.part.leader().is_some_and(|(leader, _)| leader == sender.server);
                let Some(ticket) = self.believed(sender, &ticket).filter(|_| leads) else { return };
                let name = SessionName { session, leader: sender.server, epoch };
                let hidden = Grant::find(&grants, &ticket, self.identity.server);
                let Some(secret) = hidden.and_then(|hidden| self.pairs.reveal(&sender.key, name, hidden)) else {
                    // The leader announces again when it counts this server among its members.
                    tracing::debug!(leader = %sender.name, session, "a session is announced to others only");
                    return;
                };
                let announced =
                    Announced { session, ticket, layout, table_bytes, leader: sender.server, epoch, secret };
                self.announced(announced, now);
            }
            Message::Poll(_) | Message::Close { .. } | Message::Plan { .. } => {
                self.receptions.message(sender.server, &message, now);
            }
            Message::Status(status) => {
                if let Some(leading) = &mut self.leading {
                    leading.status(sender.server, &status, now);
                }
            }
            Message::Overflow { session, frames } => {
                if let Some(leading) = &mut self.leading {
                    leading.overflow(sender.server, session, frames);
                }
            }
            Message::Decline { session, reason } => {
                let passes = reason.parse::<Decline>().is_ok_and(|decline| decline.code.passes());
                tracing::info!(server = %sender.name, reason, passes, "a member does not take part in a session");
                if let Some(leading) = &mut self.leading {
                    leading.decline(sender.server, session, now);
                }
            }
        }
    }

    /// The ticket, if the CCM signed it, it is still good, and it is for this server.
    pub(super) fn believed(&self, sender: &Credential, ticket: &Signed<Ticket>) -> Option<Ticket> {
        if !sender.roles.leader {
            return None;
        }
        let ticket = match ticket.verify(&self.identity.publish_keys) {
            Ok(ticket) => ticket,
            Err(error) => {
                tracing::warn!(leader = %sender.name, %error, "an announced ticket is not believed");
                return None;
            }
        };
        let is_good = ticket.cluster == self.identity.cluster && ticket.expires >= wall_time();
        (is_good && ticket.targets.binary_search(&self.identity.server).is_ok()).then_some(ticket)
    }

    fn announced(&mut self, announced: Announced, now: Timestamp) {
        let ticket = announced.ticket.clone();
        let (session, leader) = (announced.session, announced.leader);
        let is_handled = self.handled.contains_key(&ticket.assignment);
        let here = is_handled || self.objects.contains(ticket.object);
        let obstacle = if here { None } else { self.obstacle(&ticket) };
        let begun = match obstacle {
            Some(decline) => Err(decline),
            None => self
                .receptions
                .begin(announced, here, rand::random(), now)
                .map_err(|error| Decline::new(error.code(), &chain(&error))),
        };
        if let Err(decline) = begun {
            tracing::warn!(assignment = %ticket.assignment, reason = %decline, "a session is declined");
            self.say_session(Some(leader), Message::Decline { session, reason: decline.to_string() });
            self.refuse(&ticket, &decline);
            return;
        }
        if here {
            self.apply(ticket);
            return;
        }
        // What was last seen: looking takes milliseconds, and the leader waits for this server's greeting.
        self.overflows_before.retain(|session, _| self.receptions.knows(*session));
        self.overflows_before.insert(session, self.overflows);
    }

    /// What keeps this server from taking part in anything new, or in this.
    pub(super) fn obstacle(&self, ticket: &Ticket) -> Option<Decline> {
        if let Ok(why) = std::fs::read_to_string(self.config.data.join(MAINTENANCE_FILE)) {
            let why = why.trim();
            return Some(Decline::new(DeclineCode::Maintenance, if why.is_empty() { "out of service" } else { why }));
        }
        let free = host::free(&self.config.data)?;
        let detail = format!("the object takes {} bytes, {free} are free", ticket.length);
        (free < ticket.length).then(|| Decline::new(DeclineCode::Space, &detail))
    }

    /// The content control manager hears why, unless it passes: then the leader offers it again.
    pub(super) fn refuse(&mut self, ticket: &Ticket, decline: &Decline) {
        let code = match decline.code {
            DeclineCode::Busy => return,
            DeclineCode::Space => RefusalCode::NoSpace,
            DeclineCode::Maintenance | DeclineCode::Version => RefusalCode::Declined,
        };
        let outcome = Outcome::Refused(Refusal { code, reason: decline.to_string() });
        self.report(Report { server: self.identity.server, assignment: ticket.assignment, outcome });
    }

    /// Queues an assignment whose object is in the store, once; repeats are answered from memory.
    pub(super) fn apply(&mut self, ticket: Ticket) {
        if ticket.targets.binary_search(&self.identity.server).is_err() {
            return;
        }
        if let Some(outcome) = self.handled.get(&ticket.assignment) {
            let outcome = outcome.clone();
            if self.objects.contains(ticket.object) {
                // It came once more, or after it had been called off.
                self.spent.push_back((self.clock.now(), ticket.object));
            }
            self.report(Report { server: self.identity.server, assignment: ticket.assignment, outcome });
            return;
        }
        if self.applying.insert(ticket.assignment) {
            let object = self.objects.path(ticket.object);
            self.worker.apply(Job { ticket, object });
        }
    }

    pub(super) fn applied(&mut self, done: Done) {
        let Done { ticket, outcome, undone, states } = done;
        tracing::info!(assignment = %ticket.assignment, site = %ticket.site, outcome = name(&outcome), "an assignment was handled");
        self.applying.remove(&ticket.assignment);
        self.states = states;
        self.handled.insert(ticket.assignment, outcome.clone());
        if let Some(prepared) = undone {
            // What of it is still on its way is not wanted any more, and whoever offers it again hears so.
            self.handled.insert(prepared, outcome.clone());
            self.receptions.call_off(prepared, self.clock.now());
        }
        while self.handled.len() > HANDLED_MAX {
            self.handled.pop_first();
        }
        self.spent.push_back((self.clock.now(), ticket.object));
        self.report(Report { server: self.identity.server, assignment: ticket.assignment, outcome });
        self.tell_info();
    }

    /// A report of this server goes to its leader, which may be itself.
    fn report(&mut self, report: Report) {
        let now = self.clock.now();
        if let Err(error) = self.part.submit(report, now) {
            tracing::error!(error = chain(&error), "an outcome cannot be reported");
        }
    }

    /// Tells leader and CCM what this server is and holds now.
    pub(super) fn tell_info(&mut self) {
        let now = self.clock.now();
        let info = self.info();
        if let Err(error) = self.part.update(info, now) {
            tracing::error!(error = chain(&error), "this server cannot be described to its leader and the CCM");
        }
        let unfinished = self.applying.len() + self.fetching.len();
        self.part.set_standing(standing(&self.config.lan, &self.states, unfinished));
    }

    pub(super) fn remove_spent(&mut self, now: Timestamp) {
        while let Some((at, object)) = self.spent.front().copied() {
            if at + KEEP_APPLIED > now {
                return;
            }
            self.spent.pop_front();
            if self.leading.as_ref().is_some_and(|leading| leading.holds(object)) {
                // Goes when the CCM says that the run is over.
                continue;
            }
            if let Err(error) = self.objects.remove(object) {
                tracing::debug!(%object, error = chain(&error), "an object could not be removed");
            }
        }
    }

    /// Listens to the data channels that sessions need, and to no other.
    fn listen(&mut self) {
        let Some(wanted) = self.receptions.poll_channels() else { return };
        let addresses = self.channels.addresses;
        let channels: BTreeMap<SocketAddr, SocketAddr> =
            wanted.into_iter().map(|channel| (addresses.data_for(Some(channel)), channel)).collect();
        let beside = channels.keys().copied().filter(|channel| *channel != addresses.data).collect();
        for (channel, error) in self.joined.keep(&beside) {
            tracing::error!(%channel, error = chain(&error), "a data channel cannot be joined");
            if let Some(named) = channels.get(&channel) {
                self.receptions.deaf(*named, "its data channel cannot be joined");
            }
        }
    }

    pub(super) fn pump_receptions(&mut self) -> bool {
        let mut any = false;
        self.listen();
        while let Some(event) = self.receptions.poll_event() {
            any = true;
            match event {
                receive::Event::Say { leader, message } => self.say_session(Some(leader), message),
                receive::Event::Verify { session, ticket, leader, path, mut growth } => {
                    let (objects, events) = (self.objects.clone(), self.events.clone());
                    tokio::task::spawn_blocking(move || {
                        let result = objects.put_file_read_by(&path, ticket.object, &mut growth);
                        if growth.is_abandoned() {
                            // The session is over, and what it brought serves the next one.
                            return;
                        }
                        let result = result.map_err(|error| chain(&error));
                        // Fails only when the agent has stopped.
                        events.blocking_send(Event::Stored { session, ticket, leader, result }).ok();
                    });
                }
                receive::Event::Incomplete { ticket, leader } => self.fetch_from_leader(ticket, leader),
            }
        }
        any
    }

    pub(super) fn stored(&mut self, session: u32, ticket: Ticket, leader: ServerId, result: Result<(), String>) {
        match result {
            Ok(()) => {
                self.tell_overflows(session, ticket.length, leader);
                self.receptions.confirm(session, self.clock.now());
                self.apply(ticket);
            }
            Err(reason) => {
                tracing::warn!(assignment = %ticket.assignment, reason, "what a session brought cannot be used");
                self.receptions.fail(session, &reason);
                self.receptions.forget(ticket.object);
                self.fetch_from_leader(ticket, leader);
            }
        }
    }

    /// What multicast did not bring is fetched.
    fn fetch_from_leader(&mut self, ticket: Ticket, leader: ServerId) {
        let is_handled = self.handled.contains_key(&ticket.assignment);
        if is_handled || self.objects.contains(ticket.object) || self.receptions.brings(ticket.object) {
            return;
        }
        let Some(address) = self.leader_transfer.get(&leader).copied() else { return };
        if self.fetching.insert(ticket.object) {
            tracing::info!(assignment = %ticket.assignment, "fetches by unicast what the session did not bring");
            self.fetch(ticket, Source { server: Some(leader), address });
        }
    }

    pub(super) fn fetch(&mut self, ticket: Ticket, source: Source) {
        let beginning = self.receptions.beginning(ticket.object, self.clock.now());
        let (fetcher, events, ccm) = (self.fetcher.clone(), self.events.clone(), self.ccm_address.clone());
        let object = ticket.object;
        let task = tokio::spawn(async move {
            let progress = early::teller(events.clone());
            let result = fetch(&fetcher, &ticket, &source, beginning, &ccm, progress).await;
            if result.is_err() {
                // Who hears of the failure asks again at once.
                tokio::time::sleep(FETCH_AGAIN).await;
            }
            // Fails only when the agent has stopped.
            events.send(Event::Fetched { ticket, source, result }).await.ok();
        });
        self.fetches.insert(object, task.abort_handle());
    }

    pub(super) fn fetched(&mut self, ticket: Ticket, source: Source, result: &Result<(), String>) {
        self.fetching.remove(&ticket.object);
        self.fetches.remove(&ticket.object);
        self.offered_is_here(ticket.object, result.is_ok());
        if let Err(reason) = result {
            tracing::warn!(assignment = %ticket.assignment, source = %source.address, reason, "an object could not be fetched");
        }
        // Whatever it was fetched for: this server may have become the leader meanwhile, or have
        // ceased to be.
        self.pay(ticket.object, result);
        if let Some(leading) = &mut self.leading
            && leading.forward.awaits(ticket.object)
        {
            match result {
                Ok(()) => leading.forward.stored(ticket.object),
                Err(reason) => leading.forward.fetch_failed(ticket.object, source, reason.clone()),
            }
        }
        if result.is_ok() {
            self.receptions.forget(ticket.object);
            self.apply(ticket);
        }
    }

    pub(super) fn say_session(&mut self, to: Option<ServerId>, message: Message) {
        let control = Control::Session { message, transfer_port: self.transfer_address.port() };
        match to {
            Some(server) => self.unicast(server, &control),
            // Who takes part in a session hears multicast.
            None => self.multicast(&control),
        }
    }

    pub(super) fn pump_part(&mut self) -> bool {
        let mut any = false;
        while let Some(output) = self.part.poll_output(self.clock.now()) {
            any = true;
            let now = self.clock.now();
            match output {
                Output::Send { to, message } => self.say(to, &message),
                Output::PersistEpoch(epoch) => {
                    if let Err(error) = persist_epoch(&self.config.data, epoch) {
                        // A leader that forgets its epoch could lead under it twice.
                        tracing::error!(
                            error = chain(&error),
                            "the epoch cannot be recorded; this server does not lead"
                        );
                        self.part.resign(now);
                    }
                }
                Output::Leads { epoch } => {
                    self.moves.leads(epoch, now);
                    self.reach.leads(now);
                    self.jumbo.leads();
                    self.lead(epoch, now);
                }
                Output::Follows { leader, epoch } => {
                    self.moves.follows(leader, epoch);
                    tracing::info!(%leader, epoch, "follows a group leader");
                    self.reach.follows(leader, now);
                    self.jumbo.follows(leader);
                    self.stop_leading();
                }
                Output::Leaderless => {
                    self.moves.leaderless(now);
                    tracing::info!("there is no group leader");
                    self.reach.leaderless(now);
                    self.jumbo.leaderless();
                    self.stop_leading();
                }
                Output::Confirmed { leader, epoch } => tracing::debug!(%leader, epoch, "registered"),
                Output::Members(members) => {
                    self.moves.members(members.iter().map(|member| member.server), now);
                    self.members_changed(members);
                }
                Output::Reports(heard) => self.heard_reports(heard),
                Output::SegmentFull { server } => tracing::warn!(%server, "the segment is full"),
                Output::Unheard(assignment) => {
                    tracing::warn!(%assignment, "an outcome is dropped that no leader has acknowledged");
                }
                Output::OwnRejected(error) => tracing::warn!(%error, "this leader does not take its own report"),
            }
        }
        any
    }

    fn lead(&mut self, epoch: u64, now: Timestamp) {
        tracing::info!(epoch, "leads the segment");
        if let Some(leading) = &mut self.leading {
            // It led already, and had to take a higher epoch.
            leading.renew(epoch, now);
            return;
        }
        let (lan, events, first) = (&self.config.lan, self.uplink_events.clone(), rand::random());
        let members = self.part.members();
        let connect = self.connect.clone();
        let leading =
            Leading::start(&self.identity, epoch, self.part.info(), members, lan, connect, events, first, now);
        self.leading = Some(leading);
    }

    fn stop_leading(&mut self) {
        if self.leading.take().is_some() {
            tracing::info!("leads no more");
        }
    }

    pub(super) fn say(&mut self, to: Destination, message: &Control) {
        match to {
            Destination::Server(server) => self.unicast(server, message),
            Destination::Segment => self.say_to_all(message),
        }
    }
}

async fn fetch(
    fetcher: &Arc<transfer::fetch::Fetcher>,
    ticket: &Ticket,
    source: &Source,
    beginning: Option<Beginning>,
    ccm: &str,
    progress: impl Fn(&Assembler) + Send + Sync,
) -> Result<(), String> {
    let source = match source.server {
        Some(_) => source.clone(),
        // The CCM is where this server knows it: its own idea of its address may be another.
        None => Source { server: None, address: resolve(ccm).await.map_err(|error| error.to_string())? },
    };
    fetcher.fetch_rest(ticket, &source, beginning, progress).await.map_err(|error| chain(&error))
}

/// The first address of a host.
pub(super) async fn resolve(host: &str) -> std::io::Result<SocketAddr> {
    tokio::net::lookup_host(host).await?.next().ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotFound))
}

/// What the election weighs.
fn standing(lan: &Lan, states: &[SiteState], unfinished: usize) -> election::Standing {
    election::Standing {
        cpus: host::cpus(),
        load_percent: host::load_percent(),
        uptime: host::uptime(),
        content_percent: host::content_percent(states, unfinished),
        ..lan.standing()
    }
}

fn name(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Received => "received",
        Outcome::Missing(_) => "inventory",
        Outcome::Prepared { .. } => "prepared",
        Outcome::Committed { .. } => "committed",
        Outcome::CommittedHookFailed { .. } => "committed; a hook failed",
        Outcome::Undone { .. } => "undone",
        Outcome::Refused(_) => "refused",
        Outcome::Audited(_) => "audited",
    }
}
