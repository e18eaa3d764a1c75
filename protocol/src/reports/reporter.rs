//! A member's side of the reports.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use common::ids::{AssignmentNumber, ServerId};
use common::outcome::{Outcome, Report};
use common::time::Timestamp;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::{
    ASSIGNMENTS_MAX, Config, Destination, Event, Item, LIST_BYTES, Message, OUTCOME_BYTES_MAX, Output, SubmitError,
    parts,
};

/// Parts said in one go: half a usual socket buffer.
const PARTS_AT_ONCE: usize = 64;
/// Bytes of an item around its outcome, at most.
const ITEM_BYTES: usize = 24;

#[derive(Debug)]
struct Kept {
    serial: u64,
    outcome: Outcome,
    /// Binary form of the outcome.
    bytes: Vec<u8>,
    acknowledged: bool,
    /// When to say it (again); meaningful while it is not acknowledged.
    say_at: Timestamp,
    wait: Duration,
    /// For an outcome in parts: which ones the leader has, and how many were said at all.
    held: Vec<bool>,
    said: usize,
}

impl Kept {
    fn fits(&self) -> bool {
        self.bytes.len() + ITEM_BYTES <= LIST_BYTES
    }

    fn start_anew(&mut self, say_at: Timestamp, config: &Config) {
        self.acknowledged = false;
        self.say_at = say_at;
        self.wait = config.repeat_min;
        self.said = 0;
        self.held.fill(false);
    }
}

/// What one server has to report. A server that leads reports too: messages to itself go to its own
/// [`Collector`](super::Collector). Feed, then drain [`Reporter::poll_output`] until `None`, then
/// sleep until [`Reporter::poll_timeout`].
#[derive(Debug)]
pub struct Reporter {
    server: ServerId,
    config: Config,
    rng: ChaCha8Rng,
    serial: u64,
    kept: BTreeMap<AssignmentNumber, Kept>,
    leader: Option<(ServerId, u64)>,
    outputs: VecDeque<Output>,
}

impl Reporter {
    /// A server that has nothing to report yet. `first_serial` lies above every serial of earlier
    /// starts; wall-clock microseconds serve (a clock that went back is found out and costs one
    /// exchange with the leader).
    #[must_use]
    pub fn new(server: ServerId, first_serial: u64, config: Config, seed: u64) -> Self {
        Self {
            server,
            config,
            rng: ChaCha8Rng::seed_from_u64(seed),
            serial: first_serial,
            kept: BTreeMap::new(),
            leader: None,
            outputs: VecDeque::new(),
        }
    }

    /// Reports an outcome: at once when there is a leader, until it is acknowledged, and to every
    /// later leader again. Replaces an earlier outcome of the same assignment; the same one again
    /// says nothing.
    ///
    /// # Errors
    /// [`SubmitError`] when it is not this server's or too large. Nothing changed then.
    pub fn submit(&mut self, report: Report, now: Timestamp) -> Result<(), SubmitError> {
        let Report { server, assignment, outcome } = report;
        if server != self.server {
            return Err(SubmitError::OtherServer { assignment, server });
        }
        if self.kept.get(&assignment).is_some_and(|kept| kept.outcome == outcome) {
            return Ok(());
        }
        let bytes = parts::encoded(&outcome).ok_or(SubmitError::Unencodable { assignment })?;
        if bytes.len() > OUTCOME_BYTES_MAX {
            return Err(SubmitError::TooLarge { assignment, bytes: bytes.len() });
        }
        self.serial = self.serial.saturating_add(1);
        let kept = Kept {
            serial: self.serial,
            outcome,
            held: vec![false; usize::from(parts::count(&bytes))],
            bytes,
            acknowledged: false,
            say_at: now,
            wait: self.config.repeat_min,
            said: 0,
        };
        self.kept.insert(assignment, kept);
        if self.kept.len() > ASSIGNMENTS_MAX
            && let Some(oldest) = self.kept.iter().min_by_key(|(_, kept)| kept.serial).map(|(oldest, _)| *oldest)
            && self.kept.remove(&oldest).is_some_and(|kept| !kept.acknowledged)
        {
            self.outputs.push_back(Output::Event(Event::Unheard(oldest)));
        }
        self.handle_timeout(now);
        Ok(())
    }

    /// Nobody is interested in this assignment any more.
    pub fn forget(&mut self, assignment: AssignmentNumber) {
        self.kept.remove(&assignment);
    }

    /// Reports that no leader in office has acknowledged.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.kept.values().filter(|kept| !kept.acknowledged).count()
    }

    /// The election found a leader, which may be this server: it is told everything that is kept,
    /// the newest at once.
    pub fn follows(&mut self, leader: ServerId, epoch: u64, now: Timestamp) {
        if self.leader == Some((leader, epoch)) {
            return;
        }
        self.leader = Some((leader, epoch));
        let mut newest: Vec<_> = self.kept.iter().map(|(assignment, kept)| (kept.serial, *assignment)).collect();
        newest.sort_unstable();
        let mut room = LIST_BYTES;
        for (_, assignment) in newest.into_iter().rev() {
            let later = self.random(self.config.gather * 2, self.config.repeat_min * 3);
            let Some(kept) = self.kept.get_mut(&assignment) else { continue };
            let first = kept.fits() && kept.bytes.len() + ITEM_BYTES <= room;
            // What does not fit the first datagram is spread, so that a new leader is not flooded.
            room = if first { room - kept.bytes.len() - ITEM_BYTES } else { 0 };
            kept.start_anew(if first { now } else { now + later }, &self.config);
        }
        self.handle_timeout(now);
    }

    /// There is no leader.
    pub fn lost_leader(&mut self) {
        self.leader = None;
    }

    /// A message from a server whose identity is proven. Others than the leader are not listened to.
    pub fn handle_message(&mut self, from: ServerId, message: &Message, now: Timestamp) {
        let Some((_, led)) = self.leader.filter(|(leader, _)| *leader == from) else { return };
        match message {
            Message::Ack { epoch, known } if *epoch == led => {
                let own = self.server;
                for known in known.iter().filter(|known| known.server == own) {
                    self.on_known(known.assignment, known.serial, now);
                }
            }
            Message::PartsHeld { epoch, assignment, serial, held } if *epoch == led => {
                self.on_parts_held(*assignment, *serial, held, now);
            }
            Message::Ask(ask) if ask.asks(self.server) => {
                let wait = self.random(Duration::ZERO, self.config.answer_spread);
                if let Some(kept) = self.kept.get_mut(&ask.assignment) {
                    let say_at = if kept.acknowledged { now + wait } else { kept.say_at.min(now + wait) };
                    kept.start_anew(say_at, &self.config);
                }
            }
            // Acknowledgements of another epoch were said when the leader led before, and are late.
            Message::Ack { .. }
            | Message::PartsHeld { .. }
            | Message::Ask(_)
            | Message::Reports(_)
            | Message::Part { .. } => (),
        }
        self.handle_timeout(now);
    }

    /// Says what is due. Harmless when called early.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        if self.poll_timeout().is_none_or(|at| at > now) {
            return;
        }
        // What is due very soon goes with it.
        let due_until = now + self.config.gather;
        let due: Vec<_> = self
            .kept
            .iter()
            .filter(|(_, kept)| !kept.acknowledged && kept.say_at <= due_until)
            .map(|(assignment, _)| *assignment)
            .collect();
        let mut items = Vec::new();
        let mut room = LIST_BYTES;
        for assignment in due {
            let Some(wait) = self.kept.get(&assignment).map(|kept| kept.wait) else { continue };
            let again = self.random(wait, wait * 2);
            let Some(kept) = self.kept.get_mut(&assignment) else { continue };
            kept.say_at = now + again;
            kept.wait = (wait * 2).min(self.config.repeat_max / 2);
            if !kept.fits() {
                self.say_parts(assignment);
                continue;
            }
            let bytes = kept.bytes.len() + ITEM_BYTES;
            let item = Item { assignment, serial: kept.serial, outcome: kept.outcome.clone() };
            if bytes > room {
                let full = std::mem::take(&mut items);
                self.say(Message::Reports(full));
                room = LIST_BYTES;
            }
            room -= bytes;
            items.push(item);
        }
        if !items.is_empty() {
            self.say(Message::Reports(items));
        }
    }

    /// When [`Reporter::handle_timeout`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        self.leader?;
        self.kept.values().filter(|kept| !kept.acknowledged).map(|kept| kept.say_at).min()
    }

    /// The next thing to carry out.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn on_known(&mut self, assignment: AssignmentNumber, serial: u64, now: Timestamp) {
        let Some(kept) = self.kept.get_mut(&assignment) else { return };
        if serial == kept.serial {
            kept.acknowledged = true;
        } else if serial > kept.serial {
            // The leader knows something that seems newer: from before our clock went back.
            self.serial = self.serial.max(serial).saturating_add(1);
            kept.serial = self.serial;
            kept.start_anew(now, &self.config);
        }
    }

    fn on_parts_held(&mut self, assignment: AssignmentNumber, serial: u64, held: &[u8], now: Timestamp) {
        let again = self.random(self.config.repeat_min, self.config.repeat_min * 2);
        let Some(kept) = self.kept.get_mut(&assignment).filter(|kept| kept.serial == serial && !kept.acknowledged)
        else {
            return;
        };
        let before = kept.held.iter().filter(|held| **held).count();
        for (index, place) in kept.held.iter_mut().enumerate() {
            *place |= held.get(index / 8).is_some_and(|byte| byte >> (index % 8) & 1 == 1);
        }
        let after = kept.held.iter().filter(|held| **held).count();
        if after == before {
            return;
        }
        kept.wait = self.config.repeat_min;
        kept.say_at = now + again;
        if kept.said < kept.held.len() {
            self.say_parts(assignment);
        }
    }

    /// Parts that were never said come first, then those that the leader lacks.
    fn say_parts(&mut self, assignment: AssignmentNumber) {
        let Some(kept) = self.kept.get_mut(&assignment) else { return };
        let count = kept.held.len();
        let from = if kept.said < count { kept.said } else { 0 };
        let missing: Vec<usize> = (from..count).filter(|index| !kept.held[*index]).take(PARTS_AT_ONCE).collect();
        if let Some(last) = missing.last() {
            kept.said = kept.said.max(last + 1);
        }
        let serial = kept.serial;
        let parts = parts::count(&kept.bytes);
        let messages: Vec<_> = missing
            .into_iter()
            .filter_map(|index| u16::try_from(index).ok())
            .map(|part| {
                let bytes = parts::part(&kept.bytes, part).to_vec();
                Message::Part { assignment, serial, part, parts, bytes }
            })
            .collect();
        messages.into_iter().for_each(|message| self.say(message));
    }

    fn say(&mut self, message: Message) {
        if let Some((leader, _)) = self.leader {
            self.outputs.push_back(Output::Send { to: Destination::Server(leader), message });
        }
    }

    fn random(&mut self, min: Duration, max: Duration) -> Duration {
        let span = u64::try_from(max.saturating_sub(min).as_micros()).unwrap_or(u64::MAX - 1);
        min + Duration::from_micros(self.rng.next_u64() % (span + 1))
    }
}
