//! The leader's side of the reports.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use common::ids::{AssignmentNumber, ServerId};
use common::outcome::{Outcome, Report};
use common::time::Timestamp;

use super::parts::{self, Assembly};
use super::{ASSIGNMENTS_MAX, Ask, Config, Destination, Event, Known, Message, Output, PARTS_MAX, Rejected};
use crate::registration::MEMBERS_MAX;

/// Acknowledgements in one datagram: 16 bytes of server and at most 20 of numbers each.
const ACKS_PER_MESSAGE: usize = 28;
/// Servers listed in one request.
const LISTED_PER_MESSAGE: usize = 60;
/// Outcomes in parts that are put together at the same time, for each server.
const ARRIVING_MAX: usize = 4;
/// Bytes of outcomes kept for each server. An outcome beyond it is passed on and not kept.
const KEPT_BYTES_MAX: usize = 2 * super::OUTCOME_BYTES_MAX;

#[derive(Debug)]
struct Held {
    serial: u64,
    outcome: Outcome,
    bytes: usize,
}

#[derive(Debug, Default)]
struct OfServer {
    held: BTreeMap<AssignmentNumber, Held>,
    arriving: BTreeMap<AssignmentNumber, (u64, Assembly)>,
}

/// What the members of a segment reported. Feed, then drain [`Collector::poll_output`] until `None`,
/// then sleep until [`Collector::poll_timeout`].
#[derive(Debug, Default)]
pub struct Collector {
    epoch: u64,
    config: Config,
    servers: BTreeMap<ServerId, OfServer>,
    /// News that no event has told.
    news: BTreeMap<(AssignmentNumber, ServerId), Outcome>,
    news_at: Option<Timestamp>,
    news_last: Option<Timestamp>,
    acks: BTreeMap<(ServerId, AssignmentNumber), u64>,
    acks_at: Option<Timestamp>,
    acks_last: Option<Timestamp>,
    incomplete: BTreeSet<(ServerId, AssignmentNumber)>,
    incomplete_at: Option<Timestamp>,
    outputs: VecDeque<Output>,
}

impl Collector {
    /// A leader of this epoch that knows nothing yet.
    #[must_use]
    pub fn new(epoch: u64, config: Config) -> Self {
        Self { epoch, config, ..Self::default() }
    }

    /// The election gave this leader a higher epoch; what it knows it knows.
    pub fn renew(&mut self, epoch: u64) {
        self.epoch = epoch;
    }

    /// A message from a server whose identity is proven; the leader's own reports come this way too.
    ///
    /// # Errors
    /// [`Rejected`] when it makes no sense. Only the sender's own reports can be concerned.
    pub fn handle_message(&mut self, from: ServerId, message: &Message, now: Timestamp) -> Result<(), Rejected> {
        let reports = matches!(message, Message::Reports(_) | Message::Part { .. });
        if reports && !self.servers.contains_key(&from) && self.servers.len() >= MEMBERS_MAX {
            return Err(Rejected::TooManyServers { from });
        }
        match message {
            Message::Reports(items) => {
                for item in items {
                    let bytes = parts::encoded(&item.outcome).map_or(0, |bytes| bytes.len());
                    self.on_outcome(from, item.assignment, item.serial, &item.outcome, bytes, now);
                }
            }
            Message::Part { assignment, serial, part, parts, bytes } => {
                self.on_part(from, *assignment, *serial, (*part, *parts), bytes, now)?;
            }
            // What leaders say; the election settles who is one.
            Message::Ack { .. } | Message::PartsHeld { .. } | Message::Ask(_) => (),
        }
        self.handle_timeout(now);
        Ok(())
    }

    /// Everything that is known, by server and assignment: to be told again when an uplink was lost.
    #[must_use]
    pub fn all(&self) -> Vec<Report> {
        let reports = self.servers.iter().flat_map(|(server, known)| {
            known.held.iter().map(|(assignment, held)| Report {
                server: *server,
                assignment: *assignment,
                outcome: held.outcome.clone(),
            })
        });
        reports.collect()
    }

    /// Nobody is interested in this assignment any more.
    pub fn forget(&mut self, assignment: AssignmentNumber) {
        for known in self.servers.values_mut() {
            known.held.remove(&assignment);
            known.arriving.remove(&assignment);
        }
    }

    /// The server does not belong to the segment any more.
    pub fn forget_server(&mut self, server: ServerId) {
        self.servers.remove(&server);
    }

    /// Asks those of `expected` for a report on `assignment` that have not reported: each of them
    /// when they are at most half, else all at once, naming whichever half is smaller (claims 66-68).
    /// Whether and how often to ask again is the caller's to bound.
    pub fn ask(&mut self, assignment: AssignmentNumber, expected: &BTreeSet<ServerId>) {
        let has_reported =
            |server: &&ServerId| self.servers.get(*server).is_some_and(|known| known.held.contains_key(&assignment));
        let (reported, missing): (Vec<ServerId>, Vec<ServerId>) =
            expected.iter().copied().partition(|s| has_reported(&s));
        if missing.len() * 2 <= expected.len() {
            for server in missing {
                let ask = Ask { assignment, after: None, until: None, listed_reported: false, listed: vec![server] };
                self.outputs.push_back(Output::Send { to: Destination::Server(server), message: Message::Ask(ask) });
            }
            return;
        }
        let listed_reported = reported.len() < missing.len();
        let mut rest = if listed_reported { reported.as_slice() } else { missing.as_slice() };
        let mut after = None;
        loop {
            let (listed, others) = rest.split_at(rest.len().min(LISTED_PER_MESSAGE));
            let until = if others.is_empty() { None } else { listed.last().copied() };
            let ask = Ask { assignment, after, until, listed_reported, listed: listed.to_vec() };
            self.outputs.push_back(Output::Send { to: Destination::Segment, message: Message::Ask(ask) });
            if until.is_none() {
                return;
            }
            (after, rest) = (until, others);
        }
    }

    /// Does what is due. Harmless when called early.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        if self.news_at.is_some_and(|at| at <= now) {
            self.news_at = None;
            self.news_last = Some(now);
            let news = std::mem::take(&mut self.news);
            let reports =
                news.into_iter().map(|((assignment, server), outcome)| Report { server, assignment, outcome });
            self.outputs.push_back(Output::Event(Event::Reports(reports.collect())));
        }
        if self.acks_at.is_some_and(|at| at <= now) {
            self.acks_at = None;
            self.acks_last = Some(now);
            self.say_acks();
        }
        if self.incomplete_at.is_some_and(|at| at <= now) {
            self.incomplete_at = None;
            for (server, assignment) in std::mem::take(&mut self.incomplete) {
                let known = self.servers.get(&server).and_then(|known| known.arriving.get(&assignment));
                let Some((serial, assembly)) = known else { continue };
                let message =
                    Message::PartsHeld { epoch: self.epoch, assignment, serial: *serial, held: assembly.bitmap() };
                self.outputs.push_back(Output::Send { to: Destination::Server(server), message });
            }
        }
    }

    /// When [`Collector::handle_timeout`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        [self.news_at, self.acks_at, self.incomplete_at].into_iter().flatten().min()
    }

    /// The next thing to carry out.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn on_outcome(
        &mut self,
        from: ServerId,
        assignment: AssignmentNumber,
        serial: u64,
        outcome: &Outcome,
        bytes: usize,
        now: Timestamp,
    ) {
        let known = self.servers.entry(from).or_default();
        let held = known.held.get(&assignment).map(|held| held.serial);
        self.acks.insert((from, assignment), held.map_or(serial, |held| held.max(serial)));
        let earliest = self.acks_last.map_or(now, |last| last + self.config.gather);
        self.acks_at.get_or_insert(earliest.max(now));
        if held.is_some_and(|held| held >= serial) {
            return;
        }
        let before = known.held.insert(assignment, Held { serial, outcome: outcome.clone(), bytes });
        while known.held.len() > ASSIGNMENTS_MAX
            || known.held.values().map(|held| held.bytes).sum::<usize>() > KEPT_BYTES_MAX
        {
            known.held.pop_first();
        }
        if before.is_none_or(|before| before.outcome != *outcome) {
            self.news.insert((assignment, from), outcome.clone());
            let earliest = self.news_last.map_or(now, |last| last + self.config.gather);
            self.news_at.get_or_insert(earliest.max(now));
        }
    }

    fn on_part(
        &mut self,
        from: ServerId,
        assignment: AssignmentNumber,
        serial: u64,
        (part, parts): (u16, u16),
        bytes: &[u8],
        now: Timestamp,
    ) -> Result<(), Rejected> {
        if !parts::plausible(part, parts, bytes.len(), PARTS_MAX) {
            return Err(Rejected::BadParts { from, assignment });
        }
        let known = self.servers.entry(from).or_default();
        if let Some(held) = known.held.get(&assignment)
            && held.serial >= serial
        {
            let held = held.serial;
            self.acks.insert((from, assignment), held);
            let earliest = self.acks_last.map_or(now, |last| last + self.config.gather);
            self.acks_at.get_or_insert(earliest.max(now));
            return Ok(());
        }
        let arriving = known.arriving.get(&assignment).map(|(serial, _)| *serial);
        if arriving.is_some_and(|arriving| arriving > serial) {
            return Ok(());
        }
        if arriving.is_none_or(|arriving| arriving < serial) {
            known.arriving.insert(assignment, (serial, Assembly::new(parts)));
            if known.arriving.len() > ARRIVING_MAX {
                known.arriving.pop_first();
            }
        }
        let Some((_, assembly)) = known.arriving.get_mut(&assignment) else { return Ok(()) };
        let Some(whole) = assembly.add(part, parts, bytes) else {
            self.incomplete.insert((from, assignment));
            self.incomplete_at.get_or_insert(now + self.config.gather);
            return Ok(());
        };
        known.arriving.remove(&assignment);
        let outcome: Outcome = parts::decoded(&whole).ok_or(Rejected::Unreadable { from, assignment })?;
        self.on_outcome(from, assignment, serial, &outcome, whole.len(), now);
        Ok(())
    }

    /// To one server when all are for it, else to all together.
    fn say_acks(&mut self) {
        let acks = std::mem::take(&mut self.acks);
        let first = acks.keys().next().map(|(server, _)| *server);
        let last = acks.keys().next_back().map(|(server, _)| *server);
        let to = match first {
            Some(server) if first == last => Destination::Server(server),
            Some(_) | None => Destination::Segment,
        };
        let known: Vec<_> =
            acks.into_iter().map(|((server, assignment), serial)| Known { server, assignment, serial }).collect();
        for known in known.chunks(ACKS_PER_MESSAGE) {
            self.outputs
                .push_back(Output::Send { to, message: Message::Ack { epoch: self.epoch, known: known.to_vec() } });
        }
    }
}
