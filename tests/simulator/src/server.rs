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
use protocol::election::{Mode, Standing};
use protocol::message::Control;
use protocol::participant::{Beginning, Output, Participant, Timers};
use protocol::registration::Destination;
use protocol::reports;

use crate::facts::{Fact, revision_of};
use crate::network::Datagram;

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

/// A server that runs.
#[derive(Debug)]
pub struct Running {
    id: ServerId,
    boot: u64,
    counter: u64,
    part: Participant,
    windows: BTreeMap<ServerId, Window>,
    /// What it sends and what it did, to be carried out by the world.
    sent: Vec<(Destination, Control)>,
    facts: Vec<Fact>,
    /// The question that it was just told to ask, until it is said.
    asks: Option<Fact>,
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
        mtu: None,
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
        let beginning = Beginning {
            info: info.clone(),
            standing,
            mode: Mode::Elected,
            roster: None,
            epoch: disk.epoch,
            boot,
            seed,
        };
        let mut running = Self {
            id,
            boot,
            counter: 0,
            part: Participant::new(beginning, timers.clone(), now).expect("short"),
            windows: BTreeMap::new(),
            sent: Vec::new(),
            asks: None,
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
        // What a machine rejects it rejects without effect; the invariants would see one.
        let before = self.part.pending();
        self.part.handle_message(datagram.sender, roles, &message, now).ok();
        if let Control::Reports(reports::Message::Ack { epoch, .. }) = message
            && self.part.pending() < before
        {
            let follows = self.part.leader();
            self.facts.push(Fact::Acknowledged { server: self.id, by: (datagram.sender, epoch), follows });
        }
    }

    /// Does what is due.
    pub fn wake(&mut self, now: Timestamp) {
        self.part.handle_timeout(now);
    }

    /// When [`Running::wake`] has something to do, by the server's own clock.
    #[must_use]
    pub fn wakes_at(&self) -> Option<Timestamp> {
        self.part.poll_timeout()
    }

    /// Has something to report.
    ///
    /// # Panics
    /// Never: simulated outcomes fit.
    pub fn submit(&mut self, assignment: AssignmentNumber, outcome: Outcome, now: Timestamp) {
        let report = Report { server: self.id, assignment, outcome };
        self.facts.push(Fact::Submitted { report: report.clone() });
        self.part.submit(report, now).expect("it is this server's and fits");
    }

    /// Something about this server has changed.
    ///
    /// # Panics
    /// Never: descriptions of simulated servers are short.
    pub fn change(&mut self, now: Timestamp) {
        let mut info = self.part.info().clone();
        info.disk_free_bytes += 1;
        self.facts.push(Fact::Described { info: info.clone() });
        self.part.update(info, now).expect("short");
    }

    /// The content control manager wants to know what became of an assignment.
    pub fn ask(&mut self, assignment: AssignmentNumber) {
        if !self.is_leader() {
            return;
        }
        // What a leader asks itself does not take the network, and would not be seen here.
        let mut expected: BTreeSet<ServerId> = self.members().iter().map(|member| member.server).collect();
        expected.remove(&self.id);
        let known = self.known();
        let has = |server: &&ServerId| {
            known.iter().any(|report| report.server == **server && report.assignment == assignment)
        };
        let (reported, missing): (Vec<ServerId>, Vec<ServerId>) = expected.iter().copied().partition(|s| has(&s));
        self.part.ask(assignment, &expected);
        self.asks = Some(Fact::Asks { expected: expected.len(), reported, missing, said: Vec::new() });
    }

    /// Stops as an agent does that is told to.
    pub fn stop(&mut self, now: Timestamp) {
        self.part.stop(now);
    }

    /// Carries out what the machines have put out, until nobody has anything more to say.
    pub fn pump(&mut self, disk: &mut Disk, now: Timestamp) {
        let server = self.id;
        while let Some(output) = self.part.poll_output(now) {
            match output {
                Output::Send { to, message } => {
                    if let (Some(Fact::Asks { said, .. }), Control::Reports(reports::Message::Ask(ask))) =
                        (&mut self.asks, &message)
                    {
                        said.push((to, ask.clone()));
                    }
                    self.sent.push((to, message));
                }
                Output::PersistEpoch(epoch) => {
                    disk.epoch = epoch;
                    self.facts.push(Fact::Persisted { server, epoch });
                }
                Output::Leads { epoch } => self.facts.push(Fact::Leads { server, epoch }),
                Output::Follows { leader, epoch } => self.facts.push(Fact::Follows { server, leader, epoch }),
                Output::Leaderless => self.facts.push(Fact::Leaderless { server }),
                Output::Confirmed { leader, epoch } => {
                    let revision = revision_of(self.part.info());
                    self.facts.push(Fact::Confirmed { server, leader, epoch, revision });
                }
                Output::Reports(reports) => {
                    if let Some((_, epoch)) = self.leader() {
                        self.facts.push(Fact::Told { leader: server, epoch, reports });
                    }
                }
                Output::Members(_) | Output::SegmentFull { .. } | Output::Unheard(_) | Output::OwnRejected(_) => {}
            }
        }
        self.facts.extend(self.asks.take());
        if let Some((_, epoch)) = self.leader().filter(|_| self.is_leader()) {
            self.facts.push(Fact::Members { leader: server, epoch, members: self.members() });
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
        self.part.leader()
    }

    /// Whether it leads.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.part.is_leader()
    }

    /// Whether its registration stands.
    #[must_use]
    pub fn is_confirmed(&self) -> bool {
        self.part.is_confirmed()
    }

    /// Reports that no leader in office has acknowledged.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.part.pending()
    }

    /// What it says about itself.
    #[must_use]
    pub fn info(&self) -> &MemberInfo {
        self.part.info()
    }

    /// As a leader: the outcomes that it knows.
    #[must_use]
    pub fn known(&self) -> Vec<Report> {
        self.part.reports()
    }

    /// As a leader: who is registered.
    #[must_use]
    pub fn members(&self) -> Vec<MemberInfo> {
        self.part.members()
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
