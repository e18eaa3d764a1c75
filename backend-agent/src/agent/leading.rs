//! What the group leader does besides: keep the roster, collect reports, talk to the CCM, store and
//! forward, distribute.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use common::control::{ALPN, SessionStats, ToCcm, ToLeader};
use common::digest::Digest;
use common::errors::chain;
use common::fleet::{MemberInfo, SegmentReport};
use common::ids::{SegmentName, ServerId};
use common::keys::Signed;
use common::outcome::{Outcome, Report};
use common::ticket::Ticket;
use common::time::Timestamp;
use group_leader::audience::{Audience, Change};
use group_leader::distribute::{Distribution, Next};
use group_leader::forward::{Action, Forward};
use group_leader::uplink::{self, Connect, Uplink};
use lan_channel::envelope::SegmentKey;
use lan_channel::frames::FrameKey;
use lan_channel::secrets::{SessionName, SessionSecret};
use protocol::direct::{self, Offers};
use protocol::session::shares::{fair_shares, first_share};
use protocol::session::{Announcement, Geometry, SenderConfig, SenderOutput, Status, channel_of};
use tokio::sync::mpsc;
use transfer::tls::Peer;

use super::early::Early;
use super::granting::Granting;
use super::member::resolve;
use super::{Agent, Event};
use crate::identity::Identity;
use crate::lan::Lan;

/// How often the CCM hears how a session stands.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);
/// How often the CCM hears of the segment though nothing changed.
const REPORT_INTERVAL: Duration = Duration::from_secs(5);
/// Which of the segment's keys seals frames: there is one as yet.
const KEY_ID: u8 = 0;

/// A multicast session that this server leads.
pub(super) struct Session {
    name: SessionName,
    secret: SessionSecret,
    pub(super) distribution: Distribution,
}

/// An object under distribution.
pub(super) struct Active {
    pub(super) signed: Signed<Ticket>,
    pub(super) ticket: Ticket,
    pub(super) audience: Audience,
    pub(super) session: Option<Session>,
    /// Where the session's frames go.
    pub(super) channel: SocketAddr,
    /// For those who do not hear multicast.
    pub(super) offers: Offers,
    /// As long as the object is still on its way to this server.
    pub(super) early: Option<Early>,
    /// Figures of the last session.
    pub(super) stats: SessionStats,
    pub(super) progress_at: Timestamp,
}

impl Active {
    /// Not served yet, and on the segment's own data channel until a session has another.
    pub(super) fn new(
        audience: Audience,
        signed: Signed<Ticket>,
        ticket: Ticket,
        channel: SocketAddr,
        now: Timestamp,
    ) -> Self {
        let stats = SessionStats { object_bytes: ticket.length, ..SessionStats::default() };
        let offers = Offers::default();
        Self { signed, ticket, audience, session: None, channel, offers, early: None, stats, progress_at: now }
    }
}

/// Everything that only a leader has.
pub(super) struct Leading {
    server: ServerId,
    segment: SegmentName,
    segment_key: SegmentKey,
    epoch: u64,
    pub(super) forward: Forward,
    uplink: Uplink,
    pub(super) active: BTreeMap<Digest, Active>,
    members: Vec<MemberInfo>,
    next_session: u32,
    report_at: Timestamp,
    ask_again: Duration,
    ask_again_at: Timestamp,
    /// The object whose frames filled the socket last.
    last_sent: Digest,
    /// What all sessions together may send, in bytes per second on the wire.
    rate_max: Option<u64>,
}

/// How the uplink reaches the CCM.
pub(super) fn connector(identity: &transfer::tls::Identity, ccm: String) -> Result<Connect, transfer::tls::TlsError> {
    let config = transfer::tls::client_config(Some(identity), identity.authority(), &[ALPN])?;
    Ok(Arc::new(move || {
        let (config, ccm) = (config.clone(), ccm.clone());
        Box::pin(async move {
            let address = resolve(&ccm).await?;
            let stream = transfer::tls::connect(&config, address, Peer::Ccm).await.map_err(std::io::Error::other)?;
            Ok(Box::new(stream) as Box<dyn uplink::Stream>)
        })
    }))
}

impl Leading {
    #[expect(clippy::too_many_arguments, reason = "what a leader begins with, from one caller")]
    pub(super) fn start(
        identity: &Identity,
        epoch: u64,
        own: &MemberInfo,
        members: Vec<MemberInfo>,
        lan: &Lan,
        connect: Connect,
        events: mpsc::Sender<uplink::Event>,
        first_session: u32,
        now: Timestamp,
    ) -> Self {
        let hello = ToCcm::Hello { transfer_address: own.transfer_address, software: own.software.clone() };
        Self {
            server: identity.server,
            segment: identity.segment.clone(),
            segment_key: identity.segment_key,
            epoch,
            forward: Forward::new(identity.publish_keys.clone()),
            uplink: Uplink::start(connect, hello, events),
            active: BTreeMap::new(),
            members,
            next_session: first_session,
            report_at: now,
            ask_again: lan.ask_again,
            ask_again_at: now + lan.ask_again,
            last_sent: Digest([0; 32]),
            rate_max: lan.sender.rate.rate_bytes_per_sec_max,
        }
    }

    /// Leads on under a higher epoch. Sessions under way keep the one they were announced with.
    pub(super) fn renew(&mut self, epoch: u64, now: Timestamp) {
        self.epoch = epoch;
        self.report_at = now;
    }

    /// Objects whose session is over and whose audience has not answered in full, when it is time to ask
    /// anew.
    fn unanswered(&mut self, now: Timestamp) -> Vec<Digest> {
        if now < self.ask_again_at {
            return Vec::new();
        }
        self.ask_again_at = now + self.ask_again;
        let idle = self.active.iter_mut().filter(|(_, active)| active.session.is_none());
        idle.filter_map(|(object, active)| active.audience.retry().then_some(*object)).collect()
    }

    /// Whether any object is being distributed.
    pub(super) fn is_distributing(&self) -> bool {
        self.active.values().any(|active| active.session.is_some() || !active.offers.is_idle())
    }

    /// What is to be done about an offer.
    pub(super) fn offer_output(&mut self) -> Option<(Digest, direct::Output)> {
        self.active.iter_mut().find_map(|(object, active)| Some((*object, active.offers.poll_output()?)))
    }

    pub(super) fn say(&self, message: ToCcm) {
        self.uplink.say(message);
    }

    /// Whether the object is being distributed.
    pub(super) fn holds(&self, object: Digest) -> bool {
        self.active.contains_key(&object)
    }

    pub(super) fn status(&mut self, from: ServerId, status: &Status, now: Timestamp) {
        if let Some(distribution) = self.session(status.session) {
            distribution.status(from, status, now);
        }
    }

    pub(super) fn decline(&mut self, from: ServerId, session: u32, now: Timestamp) {
        if let Some(distribution) = self.session(session) {
            distribution.decline(from, now);
        }
    }

    /// A member's kernel dropped frames of a session: an administrator should know.
    pub(super) fn overflow(&mut self, server: ServerId, session: u32, frames: u64) {
        let of_session = |active: &&Active| active.session.as_ref().is_some_and(|it| it.name.session == session);
        let Some(active) = self.active.values().find(of_session) else { return };
        tracing::warn!(%server, assignment = %active.ticket.assignment, frames, "a member's kernel dropped frames");
        self.uplink.say(ToCcm::Overflow { assignment: active.ticket.assignment, server, frames });
    }

    /// Divides what may be sent among the sessions that have something to send.
    fn share_rate(&mut self, now: Timestamp) {
        let Some(total) = self.rate_max else { return };
        let sessions = self.active.values_mut().filter_map(|active| active.session.as_mut());
        let mut sending: Vec<&mut Distribution> =
            sessions.map(|session| &mut session.distribution).filter(|it| it.wanted_bytes_per_sec() > 0).collect();
        let wants: Vec<u64> = sending.iter().map(|distribution| distribution.wanted_bytes_per_sec()).collect();
        for (distribution, share) in sending.iter_mut().zip(fair_shares(total, &wants)) {
            distribution.set_share(Some(share), now);
        }
    }

    /// How a new session begins: beside others, with a share of the rate at the start.
    fn sender_config(&self, config: &SenderConfig) -> SenderConfig {
        let others = self.active.values().filter_map(|active| active.session.as_ref());
        let sending = others.filter(|session| session.distribution.wanted_bytes_per_sec() > 0).count() as u64;
        let mut config = config.clone();
        config.rate.rate_bytes_per_sec = first_share(config.rate.rate_bytes_per_sec, sending);
        config
    }

    /// All objects; those after the one that filled the socket last come first, so that none keeps it
    /// for itself.
    fn in_turn(&self) -> Vec<Digest> {
        let later = self.active.range((Bound::Excluded(self.last_sent), Bound::Unbounded));
        later.chain(self.active.range(..=self.last_sent)).map(|(object, _)| *object).collect()
    }

    fn session(&mut self, session: u32) -> Option<&mut Distribution> {
        self.active.values_mut().find_map(|active| match &mut active.session {
            Some(of) if of.name.session == session => Some(&mut of.distribution),
            Some(_) | None => None,
        })
    }

    pub(super) fn poll_timeout(&self) -> Option<Timestamp> {
        let sessions = self.active.values().filter_map(|active| {
            let distribution = &active.session.as_ref()?.distribution;
            Some(distribution.poll_timeout().map_or(active.progress_at, |at| at.min(active.progress_at)))
        });
        let offers = self.active.values().filter_map(|active| active.offers.poll_timeout());
        let own = [self.report_at, self.ask_again_at];
        sessions.chain(offers).chain(own).min()
    }

    pub(super) fn timeout(&mut self, now: Timestamp) {
        for active in self.active.values_mut() {
            active.offers.handle_timeout(now);
            let Some(Session { distribution, .. }) = &mut active.session else { continue };
            distribution.timeout(now);
            if active.progress_at <= now {
                active.progress_at = now + PROGRESS_INTERVAL;
                let stats = together(&active.stats, distribution.stats(now));
                self.uplink.say(ToCcm::Session { assignment: active.ticket.assignment, stats, finished: false });
            }
        }
        if self.report_at <= now {
            self.report_segment(now);
        }
    }

    fn report_segment(&mut self, now: Timestamp) {
        self.report_at = now + REPORT_INTERVAL;
        self.uplink.say(ToCcm::Segment(SegmentReport {
            segment: self.segment.clone(),
            epoch: self.epoch,
            leader: self.server,
            members: self.members.clone(),
        }));
    }

    /// Says everything again that the CCM must know of.
    fn say_all(&mut self, reports: Vec<Report>, now: Timestamp) {
        self.report_segment(now);
        self.forward.reconnected();
        if !reports.is_empty() {
            self.uplink.say(ToCcm::Reports(reports));
        }
    }

    fn members_changed(&mut self, members: Vec<MemberInfo>, now: Timestamp) -> Vec<Digest> {
        self.members = members;
        self.report_segment(now);
        self.active.keys().copied().collect()
    }

    /// Members that answered need nothing more.
    fn heard_reports(&mut self, heard: &[Report]) {
        for report in heard {
            if report.outcome == Outcome::Received {
                continue;
            }
            for active in self.active.values_mut() {
                if active.ticket.assignment == report.assignment {
                    active.audience.answered(report.server);
                    active.offers.withdraw(report.server);
                }
            }
        }
    }
}

/// What the sessions of an object came to: one that follows asks first, and may have nothing to send.
fn together(earlier: &SessionStats, later: SessionStats) -> SessionStats {
    let mut complete = earlier.complete.clone();
    complete.extend(later.complete.iter().filter(|server| !earlier.complete.contains(server)));
    SessionStats {
        object_bytes: later.object_bytes,
        sent_bytes: earlier.sent_bytes + later.sent_bytes,
        passes: earlier.passes.max(later.passes),
        repaired_symbols: earlier.repaired_symbols + later.repaired_symbols,
        complete,
        failed: later.failed,
        millis: earlier.millis + later.millis,
    }
}

impl Agent {
    pub(super) fn uplink_event(&mut self, event: uplink::Event) {
        let now = self.clock.now();
        let Some(leading) = &mut self.leading else { return };
        match event {
            uplink::Event::Connected => {
                tracing::info!("connected to the content control manager");
                leading.say_all(self.part.reports(), now);
            }
            uplink::Event::Disconnected => {}
            uplink::Event::Message(message) => match *message {
                ToLeader::Notify(notification) => self.notified(notification, None),
                ToLeader::Next { object, next } => leading.forward.handle_next(object, next),
                ToLeader::Drop { object } => {
                    if let Some(dropped) = leading.active.remove(&object) {
                        self.part.forget(dropped.ticket.assignment);
                    }
                    leading.forward.drop_object(object);
                }
                ToLeader::Rest { object } => self.let_rest(object),
                ToLeader::Pong => {}
                ToLeader::MoveControl { to } => self.order_move(to),
                ToLeader::ReportSegment => leading.report_segment(now),
            },
        }
    }

    pub(super) fn pump_leading(&mut self) -> bool {
        self.pump_forward() | self.pump_sessions() | self.pump_offers()
    }

    fn pump_forward(&mut self) -> bool {
        let mut any = false;
        while let Some(action) = self.leading.as_mut().and_then(|leading| leading.forward.poll_action()) {
            any = true;
            match action {
                Action::Say(message) => self.say_ccm(message),
                Action::Store { ticket, bytes } => match self.objects.put_bytes(&bytes) {
                    Ok(object) => {
                        self.pay(object, &Ok(()));
                        if let Some(leading) = &mut self.leading {
                            leading.forward.stored(object);
                        }
                    }
                    Err(error) => {
                        tracing::error!(assignment = %ticket.assignment, error = chain(&error), "an object cannot be stored");
                    }
                },
                Action::Fetch { ticket, source } => {
                    if self.fetching.insert(ticket.object) {
                        self.fetch(ticket, source);
                    }
                }
                Action::Forward { object, to, notification } => {
                    let (fetcher, events) = (self.fetcher.clone(), self.events.clone());
                    // The CCM is never served by a leader.
                    let Some(server) = to.server else { continue };
                    tokio::spawn(async move {
                        let served = fetcher.notify(&to, &notification, FORWARD_WAIT).await;
                        let result = served.map_err(|error| chain(&error));
                        // Fails only when the agent has stopped.
                        events.send(Event::Forwarded { object, to: server, result }).await.ok();
                    });
                }
                Action::Distribute { signed, ticket, spread } => self.distribute(signed, &ticket, spread),
                Action::Remove { object } => self.remove_unless_applying(object),
            }
        }
        any
    }

    fn remove_unless_applying(&mut self, object: Digest) {
        // What this server still works on goes later, with what it has applied.
        if self.spent.iter().any(|(_, spent)| *spent == object) || self.applying.is_empty() {
            self.spent.retain(|(_, spent)| *spent != object);
            if let Err(error) = self.objects.remove(object) {
                tracing::debug!(%object, error = chain(&error), "an object could not be removed");
            }
        }
    }

    fn say_ccm(&mut self, message: ToCcm) {
        if let Some(leading) = &self.leading {
            leading.uplink.say(message);
        }
    }

    /// The object is here: this server applies it if it is for it, and the members are served.
    fn distribute(&mut self, signed: Signed<Ticket>, ticket: &Ticket, spread: bool) {
        let now = self.clock.now();
        let object = ticket.object;
        self.apply(ticket.clone());
        let own = self.identity.server;
        if let Some(leading) = &mut self.leading {
            let reported = self.part.reports();
            let targets = ticket.targets.iter().copied().filter(|target| *target != own);
            let channel = self.channels.addresses.data;
            let active = leading
                .active
                .entry(object)
                .or_insert_with(|| Active::new(Audience::new(targets, spread), signed, ticket.clone(), channel, now));
            active.early = None;
            active.offers.release(now);
            if let Some(Session { distribution, .. }) = &mut active.session {
                distribution.available(ticket.length, now);
            }
            leading.heard_reports(&reported);
            // The CCM may not have heard what was reported before.
            let reports: Vec<Report> =
                reported.into_iter().filter(|report| report.assignment == ticket.assignment).collect();
            if !reports.is_empty() {
                leading.uplink.say(ToCcm::Reports(reports));
            }
        }
        self.serve_audience(object);
        self.say_if_nobody(object);
    }

    /// Without members to serve the session is over before it began; the CCM hears so.
    fn say_if_nobody(&mut self, object: Digest) {
        let Some(leading) = &self.leading else { return };
        if let Some(active) = leading.active.get(&object)
            && active.session.is_none()
            && active.offers.is_idle()
        {
            let stats = active.stats.clone();
            leading.uplink.say(ToCcm::Session { assignment: active.ticket.assignment, stats, finished: true });
        }
    }

    /// Members that came or went since the object was last looked at join a session or leave it.
    pub(super) fn serve_audience(&mut self, object: Digest) {
        let now = self.clock.now();
        let Some(leading) = &mut self.leading else { return };
        let config = leading.sender_config(&self.config.lan.sender);
        let Some(active) = leading.active.get_mut(&object) else { return };
        let Change { join, gone, asks_first } =
            active.audience.members(leading.members.iter().map(|member| member.server));
        for server in &gone {
            active.offers.withdraw(*server);
        }
        let (by_unicast, join): (Vec<ServerId>, Vec<ServerId>) =
            join.into_iter().partition(|server| self.reach.is_served_by_unicast(*server));
        for server in by_unicast {
            active.offers.offer(server, now);
        }
        let mut granting = Granting { pairs: &mut self.pairs, opener: &self.opener };
        if let Some(Session { name, secret, distribution }) = &mut active.session {
            for server in gone {
                distribution.gone(server, now);
            }
            for server in join {
                distribution.join(server, granting.grant(&active.ticket, server, *name, *secret), now);
            }
            return;
        }
        if join.is_empty() {
            return;
        }
        let opened = match &active.early {
            Some(early) => early.file.try_clone().map_err(|error| chain(&error)),
            None => self.objects.open_object(object).map_err(|error| chain(&error)),
        };
        let file = match opened {
            Ok(file) => file,
            Err(error) => {
                tracing::error!(%object, error, "an object to distribute cannot be opened");
                return;
            }
        };
        let others = leading.members.iter().map(|member| member.server).filter(|server| *server != leading.server);
        let symbol_bytes = self.jumbo.symbol_bytes(others.filter(|server| !self.reach.is_served_by_unicast(*server)));
        let geometry = match Geometry::new(active.ticket.length, symbol_bytes) {
            Ok(geometry) => geometry,
            Err(error) => {
                tracing::error!(%object, %error, "an object cannot be distributed");
                return;
            }
        };
        leading.next_session = leading.next_session.wrapping_add(1);
        let name = SessionName { session: leading.next_session, leader: leading.server, epoch: leading.epoch };
        let secret = SessionSecret(rand::random());
        let announcement = Announcement {
            session: name.session,
            epoch: name.epoch,
            key_id: KEY_ID,
            ticket: active.signed.clone(),
            table_bytes: 0,
            grants: join.iter().filter_map(|server| granting.grant(&active.ticket, *server, name, secret)).collect(),
        };
        let key = FrameKey::derive(&leading.segment_key, secret, name);
        let distribution = Distribution::start(config, announcement, geometry, file, key, &join, now);
        let addresses = self.channels.addresses;
        active.channel = addresses.data_for(channel_of(&active.ticket));
        let distribution = match &active.early {
            Some(early) => distribution.so_far(early.whole_bytes),
            None => distribution,
        };
        let distribution = if asks_first {
            distribution.asking_first()
        } else if active.channel == addresses.data {
            distribution
        } else {
            distribution.once_joined()
        };
        active.progress_at = now + PROGRESS_INTERVAL;
        active.session = Some(Session { name, secret, distribution });
    }

    /// Members that were served and have not answered, or were given up, are asked again.
    pub(super) fn ask_again(&mut self, now: Timestamp) {
        let objects = self.leading.as_mut().map(|leading| leading.unanswered(now)).unwrap_or_default();
        for object in objects {
            self.serve_audience(object);
        }
    }

    /// Members came, went, or said something new about themselves.
    pub(super) fn members_changed(&mut self, members: Vec<MemberInfo>) {
        let now = self.clock.now();
        let own = self.identity.server;
        if self.leading.is_some() {
            // Before there is anything to say: a session of many shall not wait for it.
            for key in members.iter().filter_map(|member| self.opener.key_of(member.server)) {
                self.pairs.prepare(key);
            }
        }
        self.reach.members(members.iter().map(|member| member.server).filter(|server| *server != own), now);
        self.probe_long_packets(&members);
        let objects = match &mut self.leading {
            Some(leading) => leading.members_changed(members, now),
            None => Vec::new(),
        };
        for object in objects {
            self.serve_audience(object);
        }
    }

    /// Members have said what became of assignments.
    pub(super) fn heard_reports(&mut self, heard: Vec<Report>) {
        if let Some(leading) = &mut self.leading {
            leading.heard_reports(&heard);
            leading.uplink.say(ToCcm::Reports(heard));
        }
    }

    fn pump_sessions(&mut self) -> bool {
        let mut any = false;
        let objects: Vec<Digest> = match &self.leading {
            Some(leading) => leading.active.keys().copied().collect(),
            None => return false,
        };
        for object in objects {
            while let Some(output) = self.session_output(object) {
                any = true;
                self.carry_out(object, output);
            }
        }
        any
    }

    fn session_output(&mut self, object: Digest) -> Option<SenderOutput> {
        let active = self.leading.as_mut()?.active.get_mut(&object)?;
        active.session.as_mut()?.distribution.poll_output()
    }

    fn carry_out(&mut self, object: Digest, output: SenderOutput) {
        let active = self.leading.as_mut().and_then(|leading| leading.active.get_mut(&object));
        match output {
            SenderOutput::Multicast(message) => self.say_session(None, message),
            SenderOutput::MemberComplete(server) => {
                if let Some(active) = active {
                    active.audience.served(server);
                }
            }
            SenderOutput::MemberFailed(server, _) if self.reach.is_served_by_unicast(server) => {
                if let Some(active) = active {
                    active.offers.offer(server, self.clock.now());
                }
            }
            SenderOutput::MemberFailed(server, failure) => {
                tracing::warn!(%server, ?failure, "a member is not served by multicast");
                if let Some(active) = active {
                    active.audience.failed(server);
                    let symbol_bytes = active.session.as_ref().map_or(0, |it| it.distribution.symbol_bytes());
                    if self.jumbo.failed(symbol_bytes, failure) {
                        tracing::warn!("something on the segment no longer carries the long frames that it did");
                    }
                }
            }
            SenderOutput::Finished(stats) => {
                if let Some(active) = active {
                    active.session = None;
                    let stats = together(&active.stats, stats);
                    active.stats = stats.clone();
                    active.audience.session_over();
                    let assignment = active.ticket.assignment;
                    self.say_ccm(ToCcm::Session { assignment, stats, finished: true });
                }
                self.serve_audience(object);
            }
        }
    }

    /// Sends the frames that are due. Returns when more are to be sent.
    pub(super) fn send_frames(&mut self) -> Next {
        let now = self.clock.now();
        let Some(leading) = &mut self.leading else { return Next::WhenDue };
        leading.share_rate(now);
        let mut next = Next::WhenDue;
        for object in leading.in_turn() {
            let Some(active) = leading.active.get_mut(&object) else { continue };
            let Some(Session { distribution, .. }) = &mut active.session else { continue };
            match distribution.send_frames(now, self.channels.data_send.to(active.channel)) {
                Next::WhenDue => {}
                Next::Soon => next = Next::Soon,
                Next::WhenWritable => {
                    leading.last_sent = object;
                    return Next::WhenWritable;
                }
            }
        }
        next
    }
}

/// How long another leader may take to fetch what it is notified of.
const FORWARD_WAIT: Duration = Duration::from_secs(3600);
