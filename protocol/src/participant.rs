//! A server's part in its segment: election, registration and reports put together as 002 has them.
//!
//! Whoever leads keeps the roster and collects the reports; whoever follows registers with its leader
//! and reports to it; a leader also reports, to itself. The parts know nothing of each other: what one
//! of them finds out about the leader is told to the others here.
//!
//! In: control messages of servers whose identity is proven, time, and what this server is and has to
//! report. Out: messages, what is to be made durable, and changes of what it is. Leaves to others:
//! multicast sessions ([`session`](crate::session)), and what a leader does with members and reports.
//!
//! The calling contract is that of all machines ([`crate`]), with one addition: an
//! [`Output::PersistEpoch`] is carried out before [`Participant::poll_output`] is called again. Where
//! that fails, [`Participant::resign`] is the answer: a leader that forgets its epoch could lead under it
//! twice.

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, VecDeque};

use common::credential::Roles;
use common::fleet::MemberInfo;
use common::ids::{AssignmentNumber, ServerId, ServerName};
use common::outcome::Report;
use common::time::Timestamp;

use crate::election::{self, Election, Mode, Standing};
use crate::message::Control;
use crate::registration::{self, Destination, InfoError, Member, Registrar};
use crate::reports::{self, Collector, Reporter, SubmitError};

/// The timers of the three protocols.
#[derive(Debug, Clone, Default)]
pub struct Timers {
    /// Of the election.
    pub election: election::Config,
    /// Of the registration.
    pub registration: registration::Config,
    /// Of the reports.
    pub reports: reports::Config,
}

/// What a server begins with.
#[derive(Debug, Clone)]
pub struct Beginning {
    /// What it says about itself; names it and its roles.
    pub info: MemberInfo,
    /// What the election weighs.
    pub standing: Standing,
    /// How the leader is found.
    pub mode: Mode,
    /// The only servers that it registers when it leads. `None`: all that come.
    pub roster: Option<BTreeSet<ServerName>>,
    /// The last [`Output::PersistEpoch`]; 0 at the very first start.
    pub epoch: u64,
    /// Higher than at any earlier start: revisions and serial numbers must not fall when a server
    /// starts again.
    pub boot: u64,
    /// From a good random source, and different at every start.
    pub seed: u64,
}

/// What the driver carries out, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Send this.
    Send {
        /// To whom.
        to: Destination,
        /// What.
        message: Control,
    },
    /// Make this epoch durable before anything else is asked for.
    PersistEpoch(u64),
    /// This server leads from here on, or leads on under another epoch.
    Leads {
        /// Under which epoch.
        epoch: u64,
    },
    /// This server follows from here on.
    Follows {
        /// Whom.
        leader: ServerId,
        /// Its epoch.
        epoch: u64,
    },
    /// There is no leader, and this server is none.
    Leaderless,
    /// The leader holds what this server last said about itself.
    Confirmed {
        /// The leader.
        leader: ServerId,
        /// Its epoch.
        epoch: u64,
    },
    /// At the leader: all members that are alive, itself included, in ascending order.
    Members(Vec<MemberInfo>),
    /// At the leader: a server is not taken, because the segment is full.
    SegmentFull {
        /// Who.
        server: ServerId,
    },
    /// At the leader: news, one report per server and assignment, not said before.
    Reports(Vec<Report>),
    /// This assignment's outcome is dropped for want of room, and no leader has acknowledged it.
    Unheard(AssignmentNumber),
    /// The leader that this server is does not take what this server reports.
    OwnRejected(reports::Rejected),
}

/// Why a message counts for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// By the election.
    #[error(transparent)]
    Election(#[from] election::Rejected),
    /// By the registration.
    #[error(transparent)]
    Registration(#[from] registration::Rejected),
    /// By the reports.
    #[error(transparent)]
    Reports(#[from] reports::Rejected),
}

/// What only a leader has.
#[derive(Debug)]
struct Office {
    registrar: Registrar,
    collector: Collector,
}

/// A server's part in its segment. The module's documentation has the calling contract.
#[derive(Debug)]
pub struct Participant {
    info: MemberInfo,
    timers: Timers,
    roster: Option<BTreeSet<ServerName>>,
    election: Election,
    member: Member,
    reporter: Reporter,
    office: Option<Office>,
    outputs: VecDeque<Output>,
}

impl Participant {
    /// A server that has just started.
    ///
    /// # Errors
    /// [`InfoError`] when what it says about itself cannot be said.
    pub fn new(beginning: Beginning, timers: Timers, now: Timestamp) -> Result<Self, InfoError> {
        let Beginning { info, standing, mode, roster, epoch, boot, seed } = beginning;
        let member = Member::new(&info, boot, timers.registration.clone(), seed ^ 1)?;
        let reporter = Reporter::new(info.server, reports::first_serial(boot), timers.reports.clone(), seed ^ 2);
        let election = Election::new(info.server, info.roles, standing, epoch, timers.election.clone(), seed, now);
        let election = election.in_mode(mode, now);
        Ok(Self { info, timers, roster, election, member, reporter, office: None, outputs: VecDeque::new() })
    }

    /// Whom this server follows, or itself when it leads, with the epoch.
    #[must_use]
    pub fn leader(&self) -> Option<(ServerId, u64)> {
        self.election.leader()
    }

    /// Whether this server leads, and has said so ([`Output::Leads`]).
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.office.is_some()
    }

    /// Whether the leader holds what this server last said about itself; true of the leader.
    #[must_use]
    pub fn is_confirmed(&self) -> bool {
        self.is_leader() || self.member.is_confirmed()
    }

    /// How many of its outcomes no leader in office has acknowledged.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.reporter.pending()
    }

    /// What this server says about itself.
    #[must_use]
    pub fn info(&self) -> &MemberInfo {
        &self.info
    }

    /// At the leader: all members that are alive, itself included; else none.
    #[must_use]
    pub fn members(&self) -> Vec<MemberInfo> {
        self.office.as_ref().map(|office| office.registrar.members()).unwrap_or_default()
    }

    /// At the leader: all reports that it knows; else none.
    #[must_use]
    pub fn reports(&self) -> Vec<Report> {
        self.office.as_ref().map(|office| office.collector.all()).unwrap_or_default()
    }

    /// A control message from a server whose identity and roles are proven. One that is for another machine
    /// (a session, [`reach`](crate::reach), [`direct`](crate::direct)) only shows that its sender lives.
    ///
    /// # Errors
    /// [`Rejected`] when the sender may not say that. Nothing changed then but that it is heard.
    pub fn handle_message(
        &mut self,
        from: ServerId,
        roles: Roles,
        message: &Control,
        now: Timestamp,
    ) -> Result<(), Rejected> {
        self.election.heard_from_leader(from, now);
        if let Some(office) = &mut self.office {
            office.registrar.heard_from(from, now);
        }
        match message {
            Control::Election(message) => Ok(self.election.handle_message(from, roles, message, now)?),
            Control::Registration(message) => {
                self.member.handle_message(from, message, now);
                let office = self.office.as_mut();
                Ok(office.map_or(Ok(()), |office| office.registrar.handle_message(from, message, now))?)
            }
            Control::Reports(message) => Ok(self.hear_reports(from, message, now)?),
            Control::Session { .. }
            | Control::Reach(_)
            | Control::Direct(_)
            | Control::Relocation(_)
            | Control::Jumbo(_) => Ok(()),
        }
    }

    fn hear_reports(
        &mut self,
        from: ServerId,
        message: &reports::Message,
        now: Timestamp,
    ) -> Result<(), reports::Rejected> {
        self.reporter.handle_message(from, message, now);
        self.office.as_mut().map_or(Ok(()), |office| office.collector.handle_message(from, message, now))
    }

    /// In [`Mode::Fixed`]: who it is whose name the administrator gave.
    pub fn leader_is(&mut self, leader: ServerId, now: Timestamp) {
        self.election.leader_is(leader, now);
    }

    /// Whether this server distributes something: then it does not hand over to a stronger one.
    pub fn set_busy(&mut self, is_busy: bool) {
        self.election.set_busy(is_busy);
    }

    /// What the election weighs has changed.
    pub fn set_standing(&mut self, standing: Standing) {
        self.election.set_standing(standing);
    }

    /// What this server says about itself has changed.
    ///
    /// # Errors
    /// [`InfoError`] when it cannot be said; what was said before stands then.
    pub fn update(&mut self, info: MemberInfo, now: Timestamp) -> Result<(), InfoError> {
        self.member.update(&info, now)?;
        if let Some(office) = &mut self.office {
            office.registrar.update_own(info.clone(), now)?;
        }
        self.info = info;
        Ok(())
    }

    /// This server has something to report.
    ///
    /// # Errors
    /// [`SubmitError`] when that cannot be reported.
    pub fn submit(&mut self, report: Report, now: Timestamp) -> Result<(), SubmitError> {
        self.reporter.submit(report, now)
    }

    /// At the leader: these servers are to say what became of an assignment.
    pub fn ask(&mut self, assignment: AssignmentNumber, expected: &BTreeSet<ServerId>) {
        if let Some(office) = &mut self.office {
            office.collector.ask(assignment, expected);
        }
    }

    /// At the leader: nobody asks about this assignment any more.
    pub fn forget(&mut self, assignment: AssignmentNumber) {
        if let Some(office) = &mut self.office {
            office.collector.forget(assignment);
        }
    }

    /// Stops leading and claiming, so that another leads.
    pub fn resign(&mut self, now: Timestamp) {
        self.election.resign(now);
    }

    /// Says good-bye, so that nobody waits for silence.
    pub fn stop(&mut self, now: Timestamp) {
        self.member.leave();
        if self.is_leader() {
            // Who registered a moment ago can lead next, too; changes are told with delay.
            self.election.set_successor(election::successor(self.info.server, &self.members()));
        }
        self.resign(now);
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Timestamp) {
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
        if let Some(Office { registrar, collector }) = &mut self.office {
            if due(registrar.poll_timeout()) {
                registrar.handle_timeout(now);
            }
            if due(collector.poll_timeout()) {
                collector.handle_timeout(now);
            }
        }
    }

    /// When to call [`Participant::handle_timeout`] at the latest.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        let office = self.office.as_ref();
        [
            self.election.poll_timeout(),
            self.member.poll_timeout(),
            self.reporter.poll_timeout(),
            office.and_then(|office| office.registrar.poll_timeout()),
            office.and_then(|office| office.collector.poll_timeout()),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// What to do next, until `None`.
    pub fn poll_output(&mut self, now: Timestamp) -> Option<Output> {
        loop {
            if let Some(output) = self.outputs.pop_front() {
                return Some(output);
            }
            if let Some(output) = self.election.poll_output() {
                self.elected(output, now);
            } else if let Some(output) = self.member.poll_output() {
                self.registered(output);
            } else if let Some(output) = self.reporter.poll_output() {
                self.reported(output, now);
            } else if let Some(output) = self.office.as_mut().and_then(|office| office.registrar.poll_output()) {
                self.registered(output);
            } else {
                let output = self.office.as_mut().and_then(|office| office.collector.poll_output())?;
                self.reported(output, now);
            }
        }
    }

    fn elected(&mut self, output: election::Output, now: Timestamp) {
        match output {
            election::Output::Send(message) => self.send(Destination::Segment, Control::Election(message)),
            election::Output::SendTo { to, message } => {
                self.send(Destination::Server(to), Control::Election(message));
            }
            election::Output::PersistEpoch(epoch) => self.outputs.push_back(Output::PersistEpoch(epoch)),
            election::Output::BecameLeader { epoch } => self.lead(epoch, now),
            election::Output::Follows { leader, epoch } => {
                self.office = None;
                self.member.follows(leader, epoch, now);
                self.reporter.follows(leader, epoch, now);
                self.outputs.push_back(Output::Follows { leader, epoch });
            }
            election::Output::LostLeader => {
                self.office = None;
                self.member.lost_leader();
                self.reporter.lost_leader();
                self.outputs.push_back(Output::Leaderless);
            }
        }
    }

    fn lead(&mut self, epoch: u64, now: Timestamp) {
        self.member.lost_leader();
        if let Some(Office { registrar, collector }) = &mut self.office {
            registrar.renew(epoch, now);
            collector.renew(epoch);
        } else {
            // What it says about itself was looked at when it was said.
            let Ok(mut registrar) = Registrar::new(self.info.clone(), epoch, self.timers.registration.clone(), now)
            else {
                return self.resign(now);
            };
            if let Some(roster) = &self.roster {
                registrar.set_roster(roster.clone());
            }
            let collector = Collector::new(epoch, self.timers.reports.clone());
            self.office = Some(Office { registrar, collector });
        }
        self.outputs.push_back(Output::Leads { epoch });
        self.reporter.follows(self.info.server, epoch, now);
    }

    fn registered(&mut self, output: registration::Output) {
        let event = match output {
            registration::Output::Send { to, message } => return self.send(to, Control::Registration(message)),
            registration::Output::Event(event) => event,
        };
        self.outputs.push_back(match event {
            registration::Event::Changed(members) => {
                self.election.set_members(u32::try_from(members.len()).unwrap_or(u32::MAX));
                self.election.set_successor(election::successor(self.info.server, &members));
                Output::Members(members)
            }
            registration::Event::SegmentFull { server } => Output::SegmentFull { server },
            registration::Event::Confirmed { leader, epoch } => Output::Confirmed { leader, epoch },
        });
    }

    fn reported(&mut self, output: reports::Output, now: Timestamp) {
        match output {
            reports::Output::Send { to, message } => self.send_report(to, message, now),
            reports::Output::Event(reports::Event::Reports(reports)) => {
                self.outputs.push_back(Output::Reports(reports));
            }
            reports::Output::Event(reports::Event::Unheard(assignment)) => {
                self.outputs.push_back(Output::Unheard(assignment));
            }
        }
    }

    /// Reports between a server's two halves do not take the network.
    fn send_report(&mut self, to: Destination, message: reports::Message, now: Timestamp) {
        let own = self.info.server;
        if to == Destination::Server(own) || to == Destination::Segment {
            let heard = self.hear_reports(own, &message, now);
            self.outputs.extend(heard.err().map(Output::OwnRejected));
        }
        if to != Destination::Server(own) {
            self.send(to, Control::Reports(message));
        }
    }

    fn send(&mut self, to: Destination, message: Control) {
        self.outputs.push_back(Output::Send { to, message });
    }
}
