//! One server: its machines, driven as the agent drives them, and its disk.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use common::credential::Roles;
use common::digest::{Digest, Version};
use common::fleet::MemberInfo;
use common::ids::{AssignmentNumber, ServerId, ServerName};
use common::outcome::{Outcome, Report};
use common::replay::Window;
use common::time::Timestamp;
use protocol::election::{self, Election, Standing};
use protocol::message::Control;
use protocol::registration::{self, Destination, Member, Registrar};
use protocol::reports::{self, Collector, Reporter};

use crate::facts::{Fact, revision_of};
use crate::network::Datagram;

/// The timers of all machines.
#[derive(Debug, Clone, Default)]
pub struct Timers {
    /// Of the election.
    pub election: election::Config,
    /// Of the registration.
    pub registration: registration::Config,
    /// Of the reports.
    pub reports: reports::Config,
}

/// What outlives the process.
#[derive(Debug, Clone, Default)]
pub struct Disk {
    /// The last epoch made durable.
    pub epoch: u64,
    /// The last start.
    pub boot: u64,
    /// Outcomes that are to be reported, of which the last one for each assignment counts.
    pub journal: BTreeMap<AssignmentNumber, Outcome>,
}

/// What only a leader has.
#[derive(Debug)]
struct Leading {
    epoch: u64,
    registrar: Registrar,
    collector: Collector,
}

/// A server that runs.
#[derive(Debug)]
pub struct Running {
    id: ServerId,
    boot: u64,
    counter: u64,
    timers: Timers,
    election: Election,
    member: Member,
    reporter: Reporter,
    leading: Option<Leading>,
    windows: BTreeMap<ServerId, Window>,
    info: MemberInfo,
    /// What it sends and what it did, to be carried out by the world.
    sent: Vec<(Destination, Control)>,
    facts: Vec<Fact>,
    asks: Vec<(Destination, reports::Ask)>,
}

/// The identity of a server by number.
#[must_use]
pub fn id(number: u16) -> ServerId {
    let [high, low] = number.to_be_bytes();
    ServerId([high, low, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7])
}

/// What a server says about itself the first time.
///
/// # Panics
/// Never: the name is good.
#[must_use]
pub fn describe(server: ServerId, roles: Roles, revision: u64) -> MemberInfo {
    let number = u16::from_be_bytes([server.0[0], server.0[1]]);
    MemberInfo {
        server,
        name: ServerName::new(format!("web{number}")).expect("letters and digits"),
        roles,
        transfer_address: SocketAddr::from((Ipv4Addr::LOCALHOST, number)),
        sites: Vec::new(),
        disk_free_bytes: revision,
        cpus: 4,
        load_percent: 0,
        software: "simulated".to_owned(),
        location: String::new(),
    }
}

/// An outcome that tells itself from others by its number. Every fourth does not fit a datagram.
#[must_use]
pub fn outcome(number: u64) -> Outcome {
    if number % 4 == 3 {
        let runs = u32::try_from(300 + number % 500).unwrap_or(300);
        return Outcome::Missing((0..runs).map(|run| (run * 7, u32::try_from(number % 1_000).unwrap_or(0))).collect());
    }
    Outcome::Prepared { version: Version(Digest::of(&number.to_le_bytes())) }
}

impl Running {
    /// Starts a server: its process begins with what its disk holds.
    ///
    /// # Panics
    /// Never: descriptions of simulated servers are short.
    #[must_use]
    pub fn start(
        id: ServerId,
        roles: Roles,
        standing: Standing,
        disk: &Disk,
        timers: &Timers,
        seed: u64,
        now: Timestamp,
    ) -> Self {
        let info = describe(id, roles, disk.boot << 8);
        let boot = disk.boot;
        let mut running = Self {
            id,
            boot,
            counter: 0,
            timers: timers.clone(),
            election: Election::new(id, roles, standing, disk.epoch, timers.election.clone(), seed, now),
            member: Member::new(&info, boot, timers.registration.clone(), seed ^ 1).expect("short"),
            reporter: Reporter::new(id, reports::first_serial(boot), timers.reports.clone(), seed ^ 2),
            leading: None,
            windows: BTreeMap::new(),
            info: info.clone(),
            sent: Vec::new(),
            asks: Vec::new(),
            facts: vec![Fact::Started { server: id, epoch: disk.epoch }, Fact::Described { info }],
        };
        for (assignment, outcome) in &disk.journal {
            running.submit(*assignment, outcome.clone(), now);
        }
        running
    }

    /// The datagram that carries a body.
    pub fn seal(&mut self, to: Option<ServerId>, body: Vec<u8>) -> Datagram {
        self.counter += 1;
        Datagram { sender: self.id, boot: self.boot, counter: self.counter, to, body: std::rc::Rc::new(body) }
    }

    /// A datagram has arrived.
    pub fn hear(&mut self, datagram: &Datagram, roles: Roles, now: Timestamp) {
        if datagram.sender == self.id || datagram.to.is_some_and(|to| to != self.id) {
            return;
        }
        if !self.windows.entry(datagram.sender).or_default().take(datagram.boot, datagram.counter) {
            return;
        }
        let heard = (datagram.sender, datagram.boot, datagram.counter);
        self.facts.push(Fact::Heard { server: self.id, datagram: heard });
        let Ok(message) = postcard::from_bytes::<Control>(&datagram.body) else { return };
        let from = datagram.sender;
        self.election.heard_from_leader(from, now);
        if let Some(leading) = &mut self.leading {
            leading.registrar.heard_from(from, now);
        }
        // What a machine rejects it rejects without effect; the invariants would see one.
        match message {
            Control::Election(message) => {
                self.election.handle_message(from, roles, &message, now).ok();
            }
            Control::Registration(message) => {
                if let Some(leading) = &mut self.leading {
                    leading.registrar.handle_message(from, &message, now).ok();
                }
                self.member.handle_message(from, &message, now);
            }
            Control::Reports(message) => self.report_message(from, &message, now),
            Control::Session { .. } => {}
        }
    }

    fn report_message(&mut self, from: ServerId, message: &reports::Message, now: Timestamp) {
        if let Some(leading) = &mut self.leading {
            leading.collector.handle_message(from, message, now).ok();
        }
        let before = self.reporter.pending();
        self.reporter.handle_message(from, message, now);
        if let reports::Message::Ack { epoch, .. } = message
            && self.reporter.pending() < before
        {
            let follows = self.election.leader();
            self.facts.push(Fact::Acknowledged { server: self.id, by: (from, *epoch), follows });
        }
    }

    /// Does what is due.
    pub fn wake(&mut self, now: Timestamp) {
        let due = |at: Option<Timestamp>| at.is_some_and(|at| at <= now);
        if due(self.election.poll_timeout()) {
            self.election.handle_timeout(now);
        }
        if due(self.member.poll_timeout()) {
            self.member.handle_timeout(now);
        }
        if due(self.reporter.poll_timeout()) {
            self.reporter.handle_timeout(now);
        }
        if let Some(leading) = &mut self.leading {
            if due(leading.registrar.poll_timeout()) {
                leading.registrar.handle_timeout(now);
            }
            if due(leading.collector.poll_timeout()) {
                leading.collector.handle_timeout(now);
            }
        }
    }

    /// When [`Running::wake`] has something to do, by the server's own clock.
    #[must_use]
    pub fn wakes_at(&self) -> Option<Timestamp> {
        let leading = self.leading.as_ref();
        [
            self.election.poll_timeout(),
            self.member.poll_timeout(),
            self.reporter.poll_timeout(),
            leading.and_then(|leading| leading.registrar.poll_timeout()),
            leading.and_then(|leading| leading.collector.poll_timeout()),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Has something to report.
    ///
    /// # Panics
    /// Never: simulated outcomes fit.
    pub fn submit(&mut self, assignment: AssignmentNumber, outcome: Outcome, now: Timestamp) {
        let report = Report { server: self.id, assignment, outcome };
        self.facts.push(Fact::Submitted { report: report.clone() });
        self.reporter.submit(report, now).expect("it is this server's and fits");
    }

    /// Something about this server has changed.
    ///
    /// # Panics
    /// Never: descriptions of simulated servers are short.
    pub fn change(&mut self, now: Timestamp) {
        self.info.disk_free_bytes += 1;
        self.facts.push(Fact::Described { info: self.info.clone() });
        if let Some(leading) = &mut self.leading {
            leading.registrar.update_own(self.info.clone(), now).expect("short");
        }
        self.member.update(&self.info, now).expect("short");
    }

    /// The content control manager wants to know what became of an assignment.
    pub fn ask(&mut self, assignment: AssignmentNumber, now: Timestamp) {
        let Some(leading) = &mut self.leading else { return };
        let expected: BTreeSet<ServerId> = leading.registrar.members().iter().map(|member| member.server).collect();
        let known = leading.collector.all();
        let has = |server: &&ServerId| {
            known.iter().any(|report| report.server == **server && report.assignment == assignment)
        };
        let (reported, missing): (Vec<ServerId>, Vec<ServerId>) = expected.iter().copied().partition(|s| has(&s));
        leading.collector.ask(assignment, &expected);
        self.pump_collector(now);
        let said = std::mem::take(&mut self.asks);
        self.facts.push(Fact::Asks { expected: expected.len(), reported, missing, said });
    }

    /// Stops as an agent does that is told to.
    pub fn stop(&mut self, now: Timestamp) {
        self.member.leave();
        self.election.resign(now);
    }

    /// Carries out what the machines have put out, until nobody has anything more to say.
    pub fn pump(&mut self, disk: &mut Disk, now: Timestamp) {
        while self.pump_election(disk, now)
            | self.pump_member()
            | self.pump_reporter(now)
            | self.pump_registrar()
            | self.pump_collector(now)
        {}
        if let Some(leading) = &self.leading {
            let members = leading.registrar.members();
            self.election.set_members(u32::try_from(members.len()).unwrap_or(u32::MAX));
            self.election.set_successor(election::successor(self.id, &members));
            self.facts.push(Fact::Members { leader: self.id, epoch: leading.epoch, members });
        }
    }

    fn pump_election(&mut self, disk: &mut Disk, now: Timestamp) -> bool {
        let mut any = false;
        while let Some(output) = self.election.poll_output() {
            any = true;
            let server = self.id;
            match output {
                election::Output::Send(message) => self.sent.push((Destination::Segment, Control::Election(message))),
                election::Output::SendTo { to, message } => {
                    self.sent.push((Destination::Server(to), Control::Election(message)));
                }
                election::Output::PersistEpoch(epoch) => {
                    disk.epoch = epoch;
                    self.facts.push(Fact::Persisted { server, epoch });
                }
                election::Output::BecameLeader { epoch } => self.lead(epoch, now),
                election::Output::Follows { leader, epoch } => {
                    self.leading = None;
                    self.member.follows(leader, epoch, now);
                    self.reporter.follows(leader, epoch, now);
                    self.facts.push(Fact::Follows { server, leader, epoch });
                }
                election::Output::LostLeader => {
                    self.leading = None;
                    self.member.lost_leader();
                    self.reporter.lost_leader();
                    self.facts.push(Fact::Leaderless { server });
                }
            }
        }
        any
    }

    fn lead(&mut self, epoch: u64, now: Timestamp) {
        self.facts.push(Fact::Leads { server: self.id, epoch });
        self.member.lost_leader();
        match &mut self.leading {
            Some(leading) => {
                leading.epoch = epoch;
                leading.registrar.renew(epoch, now);
                leading.collector.renew(epoch);
            }
            None => {
                let registrar = Registrar::new(self.info.clone(), epoch, self.timers.registration.clone(), now);
                let registrar = registrar.expect("short");
                let collector = Collector::new(epoch, self.timers.reports.clone());
                self.leading = Some(Leading { epoch, registrar, collector });
            }
        }
        self.reporter.follows(self.id, epoch, now);
    }

    fn pump_member(&mut self) -> bool {
        let mut any = false;
        while let Some(output) = self.member.poll_output() {
            any = true;
            match output {
                registration::Output::Send { to, message } => self.sent.push((to, Control::Registration(message))),
                registration::Output::Event(registration::Event::Confirmed { leader, epoch }) => {
                    let revision = revision_of(&self.info);
                    self.facts.push(Fact::Confirmed { server: self.id, leader, epoch, revision });
                }
                registration::Output::Event(
                    registration::Event::Changed(_) | registration::Event::SegmentFull { .. },
                ) => {}
            }
        }
        any
    }

    fn pump_reporter(&mut self, now: Timestamp) -> bool {
        let mut any = false;
        while let Some(output) = self.reporter.poll_output() {
            any = true;
            match output {
                reports::Output::Send { to, message } => self.say_report(to, message, now),
                reports::Output::Event(_) => {}
            }
        }
        any
    }

    fn pump_registrar(&mut self) -> bool {
        let mut any = false;
        while let Some(output) = self.leading.as_mut().and_then(|leading| leading.registrar.poll_output()) {
            any = true;
            match output {
                registration::Output::Send { to, message } => self.sent.push((to, Control::Registration(message))),
                registration::Output::Event(_) => {}
            }
        }
        any
    }

    fn pump_collector(&mut self, now: Timestamp) -> bool {
        let mut any = false;
        while let Some(output) = self.leading.as_mut().and_then(|leading| leading.collector.poll_output()) {
            any = true;
            match output {
                reports::Output::Send { to, message } => self.say_report(to, message, now),
                reports::Output::Event(reports::Event::Reports(reports)) => {
                    if let Some(leading) = &self.leading {
                        self.facts.push(Fact::Told { leader: self.id, epoch: leading.epoch, reports });
                    }
                }
                reports::Output::Event(reports::Event::Unheard(_)) => {}
            }
        }
        any
    }

    /// Reports between a server's two halves do not take the network.
    fn say_report(&mut self, to: Destination, message: reports::Message, now: Timestamp) {
        if let reports::Message::Ask(ask) = &message {
            self.asks.push((to, ask.clone()));
        }
        if to == Destination::Server(self.id) || to == Destination::Segment {
            self.report_message(self.id, &message, now);
        }
        if to != Destination::Server(self.id) {
            self.sent.push((to, Control::Reports(message)));
        }
    }

    /// What it sent since this was last asked.
    pub fn take_sent(&mut self) -> Vec<(Destination, Control)> {
        std::mem::take(&mut self.sent)
    }

    /// What it did since this was last asked.
    pub fn take_facts(&mut self) -> Vec<Fact> {
        std::mem::take(&mut self.facts)
    }

    /// Whom it follows, or itself, with the epoch.
    #[must_use]
    pub fn leader(&self) -> Option<(ServerId, u64)> {
        self.election.leader()
    }

    /// Whether it leads.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.leading.is_some()
    }

    /// Whether its registration stands.
    #[must_use]
    pub fn is_confirmed(&self) -> bool {
        self.is_leader() || self.member.is_confirmed()
    }

    /// Reports that no leader in office has acknowledged.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.reporter.pending()
    }

    /// What it says about itself.
    #[must_use]
    pub fn info(&self) -> &MemberInfo {
        &self.info
    }

    /// As a leader: the outcomes that it knows.
    #[must_use]
    pub fn known(&self) -> Vec<Report> {
        self.leading.as_ref().map(|leading| leading.collector.all()).unwrap_or_default()
    }

    /// As a leader: who is registered.
    #[must_use]
    pub fn members(&self) -> Vec<MemberInfo> {
        self.leading.as_ref().map(|leading| leading.registrar.members()).unwrap_or_default()
    }

    /// Whether it has heard this server since it started.
    #[must_use]
    pub fn has_heard(&self, server: ServerId) -> bool {
        self.windows.contains_key(&server)
    }
}

/// The server's own clock may be ahead of the world's.
#[derive(Debug)]
pub struct Server {
    /// What it may be.
    pub roles: Roles,
    /// How strong it is.
    pub standing: Standing,
    /// What outlives its process.
    pub disk: Disk,
    /// Its process.
    pub running: Option<Running>,
    /// How far its monotonic clock is ahead.
    pub ahead: Duration,
    /// How far its wall clock is behind, in milliseconds.
    pub wall_behind_ms: u64,
    /// It does nothing until then: swapped out, or the machine's owner stopped it.
    pub paused_until: Timestamp,
}
