//! The member's side of a multicast session: takes what it hears, asks for what it misses.
//!
//! In: headers of frames that the driver has opened, messages of the leader, time, and the driver's
//! word about digests. Out: reports, and that every symbol is here. **One input, then drain
//! [`Receiver::poll_output`], then sleep until [`Receiver::poll_timeout`].**
//!
//! A symbol counts as held as soon as it is accepted, so the driver must write each accepted one. Of
//! parity the driver keeps what is accepted, too, until the machine says that the block can be restored:
//! then it does that at once, and says how it went.
//!
//! `Complete` only means that all symbols are held; the leader hears of it after the driver has
//! verified the object, made it durable and said so with [`Receiver::confirm`].

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use common::ids::ServerId;
use common::replay::Window;
use common::time::Timestamp;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

use super::Geometry;
use super::codec::Restoration;
use super::frame::{Carried, FrameHeader};
use super::holdings::Holdings;
use super::message::{Message, Poll, Status, take_what_fits};
use super::ranges::RangeSet;
use super::suppression::Large;

/// Most messages that one report is cut into.
const REPORT_PARTS_MAX: usize = 16;
/// A member of a large session that hears nothing reports unasked after so many windows.
const UNASKED_WINDOWS: u32 = 3;

/// Symbols of an object that is verified in no time: the sender's largest burst.
pub(super) const BURST_SYMBOLS: u32 = 64;

/// While it is verified the answer waits for so many windows: with the default as long as a round is open.
const BURST_WINDOWS: u32 = 6;

/// The times of a receiver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceiverConfig {
    /// Answers to a frame's POLL flag are spread over this. Default 1 ms: enough for the members of
    /// a small segment not to answer in one instant, and for reordered frames to arrive.
    pub reply_window: Duration,
    /// Longest window that a poll may ask for. Default 100 ms.
    pub reply_window_max: Duration,
    /// Silence after which an incomplete member reports unasked. Default 20 ms: the poll was lost.
    pub unasked_after: Duration,
    /// Longest interval of unasked reports, each twice the one before. Default 500 ms.
    pub unasked_interval_max: Duration,
    /// Silence after which the session is given up. Default 3 s: fifteen announcements.
    pub idle_max: Duration,
    /// How many POLL flags a member answers after it is complete. Default 3: the first may be lost,
    /// and the leader asks by name in the end. In large sessions none: there it always asks by name.
    pub repeated_acknowledgements: u32,
    /// How many members the announcement counts. Default 1. In large sessions members suppress each
    /// other's reports.
    pub members: u16,
}

impl Default for ReceiverConfig {
    fn default() -> Self {
        Self {
            reply_window: Duration::from_millis(1),
            reply_window_max: Duration::from_millis(100),
            unasked_after: Duration::from_millis(20),
            unasked_interval_max: Duration::from_millis(500),
            idle_max: Duration::from_secs(3),
            repeated_acknowledgements: 3,
            members: 1,
        }
    }
}

/// What became of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepted {
    /// New: write its payload at the symbol's offset.
    Symbol(u32),
    /// New parity: keep its payload until the block is restored or the session is over.
    Parity {
        /// The block.
        block: u32,
        /// Which of its parity symbols.
        index: u8,
    },
    /// Held already, or of no use.
    Duplicate,
}

/// Why a frame is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It belongs to another session.
    #[error("the frame belongs to session {actual:#010x}, not to {expected:#010x}")]
    Session {
        /// This session.
        expected: u32,
        /// The frame's.
        actual: u32,
    },
    /// This transmission was heard before, or is too old to tell.
    #[error("transmission {sequence} was heard before")]
    Replay {
        /// Its number.
        sequence: u32,
    },
    /// The object has no such symbol.
    #[error("the frame carries symbol {symbol} of an object of {symbols}")]
    Symbol {
        /// The frame's symbol.
        symbol: u32,
        /// How many there are.
        symbols: u32,
    },
    /// The object has no such block, or no such parity of it.
    #[error("the frame carries parity {index} of block {block}, which the object does not have")]
    Parity {
        /// The frame's block.
        block: u32,
        /// Which of its parity symbols.
        index: u8,
    },
    /// The payload is not as long as that symbol is.
    #[error("{carried:?} arrived with {actual} bytes, it has {expected}")]
    Length {
        /// What it carries.
        carried: Carried,
        /// How long it is.
        expected: u16,
        /// How long the payload was.
        actual: usize,
    },
    /// The session is over.
    #[error("the session is over")]
    Over,
}

/// What the driver shall do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send to the leader.
    Unicast(Message),
    /// Enough of a block is here: restore what is missing of it ([`restore`](super::codec::restore)),
    /// write that, and say [`Receiver::restored`] or [`Receiver::not_restored`].
    Restore(Restoration),
    /// Every symbol is held. Verify what is not verified yet, make it durable, then
    /// [`Receiver::confirm`]; or [`Receiver::mark_bad`] what is wrong.
    Complete,
    /// Nothing was heard for too long; the object is incomplete. Keep what is held.
    Abandoned,
    /// The session is over: closed by the leader, or silent after this member was complete.
    Closed {
        /// Whether the object is whole and confirmed here.
        complete: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Symbols are missing. Reports unasked at `unasked_at`, and waits `unasked_interval` after that.
    Gathering {
        unasked_at: Timestamp,
        unasked_interval: Duration,
    },
    /// The driver verifies.
    Verifying,
    /// The driver confirmed; so many POLL flags are still answered.
    Confirmed {
        acknowledgements_left: u32,
    },
    Over,
}

/// The polls heard so far are to be answered.
#[derive(Debug, Clone, Copy)]
struct Answer {
    at: Timestamp,
    /// About the symbols below this. Later ones may still be on their way.
    through: u32,
    /// Also when the leader's plan covers what is lacking, or nothing is.
    in_any_case: bool,
}

/// A member's side of one session.
#[derive(Debug)]
pub struct Receiver {
    config: ReceiverConfig,
    me: ServerId,
    session: u32,
    geometry: Geometry,
    large: Option<Large>,
    state: State,
    holdings: Holdings,
    received: u64,
    highest: u32,
    /// Which transmissions were heard: what somebody recorded and plays again counts for nothing.
    transmissions: Window,
    sent_through: u32,
    poll: u32,
    answer: Option<Answer>,
    /// What the leader said it is going to send: block, and how much parity.
    plan: BTreeMap<u32, u32>,
    /// The most parity that it was going to send of a block in this round, and in the one before: about
    /// what those lack who lack most.
    most_planned: (u32, u32),
    /// When anything of this session was last heard from the leader.
    heard_at: Timestamp,
    delays: ChaCha8Rng,
    outputs: VecDeque<Output>,
}

impl Receiver {
    /// Takes part in a session as the member `me`, holding nothing yet.
    #[must_use]
    pub fn new(
        config: ReceiverConfig,
        me: ServerId,
        session: u32,
        geometry: Geometry,
        seed: u64,
        now: Timestamp,
    ) -> Self {
        let large = Large::of(config.members).filter(|_| geometry.is_coded());
        let mut receiver = Self {
            state: State::Verifying,
            config,
            me,
            session,
            geometry,
            large,
            holdings: Holdings::new(geometry),
            received: 0,
            highest: 0,
            transmissions: Window::default(),
            sent_through: 0,
            poll: 0,
            answer: None,
            plan: BTreeMap::new(),
            most_planned: (0, 0),
            heard_at: now,
            delays: ChaCha8Rng::seed_from_u64(seed),
            outputs: VecDeque::new(),
        };
        receiver.gather(now);
        receiver.check_whole();
        receiver
    }

    /// Takes part as a member that has the object already, verified and durable: it says so at once.
    #[must_use]
    pub fn already_complete(
        config: ReceiverConfig,
        me: ServerId,
        session: u32,
        geometry: Geometry,
        seed: u64,
        now: Timestamp,
    ) -> Self {
        let mut receiver = Self::new(config, me, session, geometry, seed, now);
        receiver.mark_have(0, geometry.symbols());
        receiver.outputs.clear();
        receiver.confirm(now);
        receiver
    }

    /// Says that this member listens on the data channel, so that the leader need not wait for it. In a
    /// large session after a random time.
    pub fn greet(&mut self, now: Timestamp) {
        if !matches!(self.state, State::Gathering { .. }) {
            return;
        }
        match self.large {
            None => self.report(self.sent_through),
            Some(large) => {
                let at = now + large.acknowledgement_delay(&mut self.delays);
                self.answer = Some(Answer { at, through: self.sent_through, in_any_case: true });
            }
        }
    }

    /// What is held, for the journal.
    #[must_use]
    pub fn held(&self) -> &RangeSet {
        self.holdings.held()
    }

    /// A frame whose seal was opened and whose epoch is the leader's.
    ///
    /// # Errors
    /// [`Refused`] when it is not part of this object's session; nothing changes then.
    pub fn handle_frame(
        &mut self,
        header: &FrameHeader,
        payload_bytes: usize,
        now: Timestamp,
    ) -> Result<Accepted, Refused> {
        if header.session != self.session {
            return Err(Refused::Session { expected: self.session, actual: header.session });
        }
        let expected = self.expected_bytes(header.carried)?;
        if payload_bytes != usize::from(expected) {
            return Err(Refused::Length { carried: header.carried, expected, actual: payload_bytes });
        }
        if self.state == State::Over {
            return Err(Refused::Over);
        }
        if !self.transmissions.take(0, header.sequence.into()) {
            return Err(Refused::Replay { sequence: header.sequence });
        }
        self.heard(now);
        self.received += 1;
        self.highest = self.highest.max(header.sequence);
        let accepted = match header.carried {
            Carried::Symbol(symbol) => {
                if !header.flags.repair {
                    self.sent_through = self.sent_through.max(symbol + 1);
                }
                let new = self.holdings.insert(symbol);
                self.holdings.settle(symbol);
                if new { Accepted::Symbol(symbol) } else { Accepted::Duplicate }
            }
            Carried::Parity { block, index } => {
                let new = self.holdings.insert_parity(block, index);
                if new { Accepted::Parity { block, index } } else { Accepted::Duplicate }
            }
        };
        if header.flags.last {
            self.sent_through = self.geometry.symbols();
        }
        if header.flags.spent {
            self.plan.clear();
        }
        self.check_restorable(header.carried);
        self.check_whole();
        if header.flags.poll {
            self.handle_poll_flag(now);
        }
        Ok(accepted)
    }

    fn expected_bytes(&self, carried: Carried) -> Result<u16, Refused> {
        match carried {
            Carried::Symbol(symbol) if symbol < self.geometry.symbols() => Ok(self.geometry.payload_bytes(symbol)),
            Carried::Symbol(symbol) => Err(Refused::Symbol { symbol, symbols: self.geometry.symbols() }),
            Carried::Parity { block, index } => {
                let is_there = block < self.geometry.block_count() && u32::from(index) < self.geometry.parity_symbols();
                is_there.then(|| self.geometry.parity_bytes(block)).ok_or(Refused::Parity { block, index })
            }
        }
    }

    fn check_restorable(&mut self, carried: Carried) {
        let block = match carried {
            Carried::Symbol(symbol) => self.geometry.block_of(symbol),
            Carried::Parity { block, .. } => Some(block),
        };
        if let Some(restoration) = block.and_then(|block| self.holdings.restoration(block)) {
            self.outputs.push_back(Output::Restore(restoration));
        }
    }

    fn handle_poll_flag(&mut self, now: Timestamp) {
        match (&mut self.state, self.large) {
            // Its confirmation, which is about to come, says more.
            (State::Verifying, None) if self.geometry.symbols() <= BURST_SYMBOLS => {
                self.answer_within(self.config.reply_window * BURST_WINDOWS, now);
            }
            (State::Gathering { .. } | State::Verifying, None) => self.answer_within(self.config.reply_window, now),
            (State::Gathering { .. } | State::Verifying, Some(large)) => {
                let in_any_case = large.is_drawn(&mut self.delays);
                if self.most_planned.0 > 0 {
                    self.most_planned = (0, self.most_planned.0);
                }
                self.answer_in_turn(large, in_any_case, now);
            }
            (State::Confirmed { acknowledgements_left }, None) if *acknowledgements_left > 0 => {
                *acknowledgements_left -= 1;
                self.answer_within(self.config.reply_window, now);
            }
            (State::Confirmed { .. } | State::Over, _) => (),
        }
    }

    /// A message of the leader. Those of other sessions, and of other members, are passed over.
    pub fn handle_message(&mut self, message: &Message, now: Timestamp) {
        if message.session() != self.session || self.state == State::Over {
            return;
        }
        match message {
            Message::Announce { .. } => self.heard_at = now,
            Message::Poll(poll) => self.handle_poll(poll, now),
            Message::Plan { parity, .. } => {
                self.plan = parity.iter().copied().collect();
                let most = self.plan.values().max().copied().unwrap_or(0);
                self.most_planned.0 = self.most_planned.0.max(most);
            }
            Message::Close { .. } => self.close(),
            Message::Status(_) | Message::Decline { .. } | Message::Overflow { .. } => (),
        }
    }

    fn handle_poll(&mut self, poll: &Poll, now: Timestamp) {
        self.heard(now);
        self.poll = self.poll.max(poll.poll);
        self.sent_through = self.sent_through.max(poll.sent_through.min(self.geometry.symbols()));
        // It is asked so when nothing is left to send.
        self.plan.clear();
        let confirmed = matches!(self.state, State::Confirmed { .. });
        // A leader that takes an incomplete member for complete is told otherwise.
        if poll.roll.asks(self.me) || (!confirmed && matches!(poll.roll, super::Roll::Complete(_))) {
            let window = Duration::from_micros(u64::from(poll.reply_window_micros));
            self.answer_within(window.min(self.config.reply_window_max), now);
        } else if let (State::Gathering { .. }, Some(large)) = (self.state, self.large) {
            self.answer_in_turn(large, false, now);
        }
    }

    /// Answers in the later half of the window: until then reordered frames arrive, and nobody who
    /// lost nothing waits for it, for confirmation is reported unasked.
    fn answer_within(&mut self, window: Duration, now: Timestamp) {
        let half_micros = u64::try_from(window.as_micros() / 2).unwrap_or(u64::MAX - 1);
        let delay =
            Duration::from_micros(half_micros) + Duration::from_micros(self.delays.next_u64() % (half_micros + 1));
        let at = self.answer.map_or(now + delay, |answer| answer.at.min(now + window));
        self.answer = Some(Answer { at, through: self.sent_through, in_any_case: true });
    }

    /// Answers as one of many: if by then nothing makes it superfluous.
    fn answer_in_turn(&mut self, large: Large, in_any_case: bool, now: Timestamp) {
        let most = self.holdings.lacking(self.sent_through).deficits.iter().map(|(_, count)| *count).max();
        let lacks_most = large.lacks_most(most.unwrap_or(0), self.most_planned.1);
        let delay = large.delay(lacks_most, &mut self.delays);
        let at = self.answer.map_or(now + delay, |answer| answer.at);
        let in_any_case = in_any_case || self.answer.is_some_and(|answer| answer.in_any_case);
        self.answer = Some(Answer { at, through: self.sent_through, in_any_case });
    }

    /// The missing symbols of this block were restored and written.
    pub fn restored(&mut self, block: u32) {
        self.holdings.restored(block);
        self.check_whole();
    }

    /// The block could not be restored or written: its parity is of no use, and its symbols are asked for
    /// by name.
    pub fn not_restored(&mut self, block: u32) {
        self.holdings.taint(block);
    }

    /// These symbols are here from before (journal, or a local copy).
    pub fn mark_have(&mut self, first: u32, count: u32) {
        let end = first.saturating_add(count).min(self.geometry.symbols());
        self.holdings.insert_run(first.min(end), end);
        self.check_whole();
    }

    /// These symbols are wrong (their chunk's digest) or could not be written: they are missing again.
    ///
    /// Without effect once the object is confirmed: the leader has the driver's word by then.
    pub fn mark_bad(&mut self, first: u32, count: u32, now: Timestamp) {
        match self.state {
            State::Gathering { .. } | State::Verifying => (),
            State::Confirmed { .. } | State::Over => return,
        }
        let end = first.saturating_add(count).min(self.geometry.symbols());
        if self.holdings.remove(first.min(end), end) > 0 {
            self.gather(now);
            self.answer_within(self.config.reply_window, now);
        }
    }

    /// The object is whole, verified and durable: the leader may know.
    ///
    /// Without effect when symbols are missing: what was marked bad meanwhile is not whole.
    pub fn confirm(&mut self, now: Timestamp) {
        if self.state == State::Verifying {
            self.state = State::Confirmed { acknowledgements_left: self.config.repeated_acknowledgements };
            match self.large {
                None => self.report(self.sent_through),
                Some(large) => {
                    let at = now + large.acknowledgement_delay(&mut self.delays);
                    self.answer = Some(Answer { at, through: self.sent_through, in_any_case: true });
                }
            }
        }
    }

    /// What to do next, until `None`.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call [`Receiver::handle_timeout`] at the latest.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        let idle_at = self.heard_at + self.config.idle_max;
        let own = match self.state {
            State::Gathering { unasked_at, .. } => Some(unasked_at.min(idle_at)),
            State::Verifying => None,
            State::Confirmed { .. } => Some(idle_at),
            State::Over => return None,
        };
        own.into_iter().chain(self.answer.map(|answer| answer.at)).min()
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        let idle = self.heard_at + self.config.idle_max <= now;
        match self.state {
            State::Gathering { .. } if idle => {
                self.state = State::Over;
                self.outputs.push_back(Output::Abandoned);
            }
            State::Confirmed { .. } if idle => self.close(),
            State::Gathering { unasked_at, unasked_interval } if unasked_at <= now => {
                let unasked_interval = (unasked_interval * 2).min(self.config.unasked_interval_max);
                self.state = State::Gathering { unasked_at: now + unasked_interval, unasked_interval };
                match self.large {
                    None => self.report(self.sent_through),
                    Some(large) => {
                        self.plan.clear();
                        self.answer_in_turn(large, false, now);
                    }
                }
            }
            State::Gathering { .. } | State::Verifying | State::Confirmed { .. } | State::Over => (),
        }
        if let Some(Answer { at, through, in_any_case }) = self.answer
            && self.state != State::Over
            && at <= now
        {
            if in_any_case || !self.is_covered(through) {
                self.report(through);
            }
            self.answer = None;
        }
    }

    /// Whether what the leader is going to send mends all that is lacking.
    fn is_covered(&self, through: u32) -> bool {
        let lacking = self.holdings.lacking(through);
        let is_planned = |(block, count): &(u32, u32)| self.plan.get(block).is_some_and(|planned| planned >= count);
        lacking.named.is_empty() && lacking.deficits.iter().all(is_planned)
    }

    fn heard(&mut self, now: Timestamp) {
        self.heard_at = now;
        if matches!(self.state, State::Gathering { .. }) {
            self.gather(now);
        }
    }

    fn gather(&mut self, now: Timestamp) {
        let windows = self.large.map_or(Duration::ZERO, |large| large.window() * UNASKED_WINDOWS);
        let unasked_interval = self.config.unasked_after.max(windows);
        self.state = State::Gathering { unasked_at: now + unasked_interval, unasked_interval };
    }

    fn check_whole(&mut self) {
        if matches!(self.state, State::Gathering { .. }) && self.holdings.is_whole() {
            self.state = State::Verifying;
            self.outputs.push_back(Output::Complete);
        }
    }

    fn close(&mut self) {
        let complete = matches!(self.state, State::Confirmed { .. });
        self.state = State::Over;
        self.answer = None;
        self.outputs.push_back(Output::Closed { complete });
    }

    /// Says where this member stands, and what it misses below `through`; one report answers everything
    /// asked before it. What does not fit one message goes on in the next.
    fn report(&mut self, through: u32) {
        self.answer = None;
        let lacking = self.holdings.lacking(through);
        let mut named = lacking.named.into_iter().peekable();
        let mut deficits = lacking.deficits.into_iter().peekable();
        for part in 1..=REPORT_PARTS_MAX {
            let mut used = 0;
            let missing = take_what_fits(&mut named, &mut used);
            let deficits_here = take_what_fits(&mut deficits, &mut used);
            let more = part < REPORT_PARTS_MAX && (named.peek().is_some() || deficits.peek().is_some());
            self.outputs.push_back(Output::Unicast(Message::Status(Status {
                session: self.session,
                poll: self.poll,
                received: self.received,
                highest: self.highest,
                held: self.holdings.worth(),
                missing,
                deficits: deficits_here,
                more,
                complete: matches!(self.state, State::Confirmed { .. }),
            })));
            if !more {
                break;
            }
        }
    }
}
