//! The member's side of a multicast session: takes what it hears, asks for what it misses.
//!
//! In: headers of frames that the driver has opened, messages of the leader, time, and the driver's
//! word about digests. Out: reports, and that every symbol is here. **One input, then drain
//! [`Receiver::poll_output`], then sleep until [`Receiver::poll_timeout`].**
//!
//! A symbol counts as held as soon as it is accepted, so the driver must write each accepted one.
//! `Complete` only means that all symbols are held; the leader hears of it after the driver has
//! verified the object, made it durable and said so with [`Receiver::confirm`].

use std::collections::VecDeque;
use std::time::Duration;

use common::ids::ServerId;
use common::time::Timestamp;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

use super::Geometry;
use super::frame::FrameHeader;
use super::message::{Message, Poll, Status, first_gaps};
use super::ranges::RangeSet;

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
    /// and the leader asks by name in the end.
    pub repeated_acknowledgements: u32,
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
        }
    }
}

/// What became of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepted {
    /// New: write its payload at the symbol's offset.
    Symbol(u32),
    /// Held already.
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
    /// The object has no such symbol.
    #[error("the frame carries symbol {symbol} of an object of {symbols}")]
    Symbol {
        /// The frame's symbol.
        symbol: u32,
        /// How many there are.
        symbols: u32,
    },
    /// The payload is not as long as that symbol is.
    #[error("symbol {symbol} arrived with {actual} bytes, it has {expected}")]
    Length {
        /// The symbol.
        symbol: u32,
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

/// A member's side of one session.
#[derive(Debug)]
pub struct Receiver {
    config: ReceiverConfig,
    me: ServerId,
    session: u32,
    geometry: Geometry,
    state: State,
    held: RangeSet,
    received: u64,
    highest: u32,
    sent_through: u32,
    poll: u32,
    /// When to answer the polls heard so far, and about which symbols: those below this. Later ones may
    /// still be on their way.
    answer: Option<(Timestamp, u32)>,
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
        let unasked_interval = config.unasked_after;
        let mut receiver = Self {
            state: State::Gathering { unasked_at: now + unasked_interval, unasked_interval },
            config,
            me,
            session,
            geometry,
            held: RangeSet::new(),
            received: 0,
            highest: 0,
            sent_through: 0,
            poll: 0,
            answer: None,
            heard_at: now,
            delays: ChaCha8Rng::seed_from_u64(seed),
            outputs: VecDeque::new(),
        };
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
        receiver.confirm();
        receiver
    }

    /// What is held, for the journal.
    #[must_use]
    pub fn held(&self) -> &RangeSet {
        &self.held
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
        let symbol = header.symbol;
        if header.session != self.session {
            return Err(Refused::Session { expected: self.session, actual: header.session });
        }
        if symbol >= self.geometry.symbols() {
            return Err(Refused::Symbol { symbol, symbols: self.geometry.symbols() });
        }
        let expected = self.geometry.payload_bytes(symbol);
        if payload_bytes != usize::from(expected) {
            return Err(Refused::Length { symbol, expected, actual: payload_bytes });
        }
        if self.state == State::Over {
            return Err(Refused::Over);
        }
        self.heard(now);
        self.received += 1;
        self.highest = self.highest.max(header.sequence);
        if header.flags.last {
            self.sent_through = self.geometry.symbols();
        } else if !header.flags.repair {
            self.sent_through = self.sent_through.max(symbol + 1);
        }
        let new = self.held.insert(symbol..symbol + 1) == 1;
        if header.flags.poll {
            self.handle_poll_flag(now);
        }
        self.check_whole();
        Ok(if new { Accepted::Symbol(symbol) } else { Accepted::Duplicate })
    }

    fn handle_poll_flag(&mut self, now: Timestamp) {
        match &mut self.state {
            State::Gathering { .. } | State::Verifying => self.answer_within(self.config.reply_window, now),
            State::Confirmed { acknowledgements_left } if *acknowledgements_left > 0 => {
                *acknowledgements_left -= 1;
                self.answer_within(self.config.reply_window, now);
            }
            State::Confirmed { .. } | State::Over => (),
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
            Message::Close { .. } => self.close(),
            Message::Status(_) | Message::Decline { .. } => (),
        }
    }

    fn handle_poll(&mut self, poll: &Poll, now: Timestamp) {
        self.heard(now);
        self.poll = self.poll.max(poll.poll);
        self.sent_through = self.sent_through.max(poll.sent_through.min(self.geometry.symbols()));
        let confirmed = matches!(self.state, State::Confirmed { .. });
        // A leader that takes an incomplete member for complete is told otherwise.
        if poll.roll.asks(self.me) || (!confirmed && matches!(poll.roll, super::Roll::Complete(_))) {
            let window = Duration::from_micros(u64::from(poll.reply_window_micros));
            self.answer_within(window.min(self.config.reply_window_max), now);
        }
    }

    /// Answers in the later half of the window: until then reordered frames arrive, and nobody who
    /// lost nothing waits for it, for confirmation is reported unasked.
    fn answer_within(&mut self, window: Duration, now: Timestamp) {
        let half_micros = u64::try_from(window.as_micros() / 2).unwrap_or(u64::MAX - 1);
        let delay =
            Duration::from_micros(half_micros) + Duration::from_micros(self.delays.next_u64() % (half_micros + 1));
        let at = self.answer.map_or(now + delay, |(at, _)| at);
        self.answer = Some((at, self.sent_through));
    }

    /// These symbols are here from before (journal, or a local copy).
    pub fn mark_have(&mut self, first: u32, count: u32) {
        let end = first.saturating_add(count).min(self.geometry.symbols());
        self.held.insert(first.min(end)..end);
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
        if self.held.remove(first.min(end)..end) > 0 {
            self.gather(now);
            self.answer_within(self.config.reply_window, now);
        }
    }

    /// The object is whole, verified and durable: the leader may know.
    ///
    /// Without effect when symbols are missing: what was marked bad meanwhile is not whole.
    pub fn confirm(&mut self) {
        if self.state == State::Verifying {
            self.state = State::Confirmed { acknowledgements_left: self.config.repeated_acknowledgements };
            self.report(self.sent_through);
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
        own.into_iter().chain(self.answer.map(|(at, _)| at)).min()
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
                self.report(self.sent_through);
            }
            State::Gathering { .. } | State::Verifying | State::Confirmed { .. } | State::Over => (),
        }
        if let Some((at, through)) = self.answer
            && self.state != State::Over
            && at <= now
        {
            self.report(through);
        }
    }

    fn heard(&mut self, now: Timestamp) {
        self.heard_at = now;
        if matches!(self.state, State::Gathering { .. }) {
            self.gather(now);
        }
    }

    fn gather(&mut self, now: Timestamp) {
        let unasked_interval = self.config.unasked_after;
        self.state = State::Gathering { unasked_at: now + unasked_interval, unasked_interval };
    }

    fn check_whole(&mut self) {
        if matches!(self.state, State::Gathering { .. }) && self.held.count() == self.geometry.symbols() {
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
    /// asked before it.
    fn report(&mut self, through: u32) {
        self.answer = None;
        self.outputs.push_back(Output::Unicast(Message::Status(Status {
            session: self.session,
            poll: self.poll,
            received: self.received,
            highest: self.highest,
            held: self.held.count(),
            missing: first_gaps(&self.held, through),
            complete: matches!(self.state, State::Confirmed { .. }),
        })));
    }
}

#[cfg(test)]
mod tests {
    use super::super::{FrameFlags, Roll, SYMBOL_BYTES};
    use super::*;

    const ME: ServerId = ServerId([5; 16]);
    const FLAG: FrameFlags = FrameFlags { poll: true, repair: false, last: false };
    const PLAIN: FrameFlags = FrameFlags { poll: false, repair: false, last: false };

    fn receiver(symbols: u64) -> Receiver {
        let geometry = Geometry::new(symbols * u64::from(SYMBOL_BYTES), SYMBOL_BYTES).expect("fits");
        Receiver::new(ReceiverConfig::default(), ME, 1, geometry, 1, Timestamp::ZERO)
    }

    fn at(millis: u64) -> Timestamp {
        Timestamp(millis * 1000)
    }

    fn header(symbol: u32, flags: FrameFlags) -> FrameHeader {
        FrameHeader {
            flags,
            pass: 1,
            key_id: 1,
            session: 1,
            epoch: 1,
            sequence: symbol + 1,
            symbol,
            payload_bytes: SYMBOL_BYTES,
            send_time: 0,
        }
    }

    fn hear(receiver: &mut Receiver, symbol: u32, flags: FrameFlags, now: Timestamp) {
        let taken = receiver.handle_frame(&header(symbol, flags), usize::from(SYMBOL_BYTES), now);
        assert!(taken.is_ok(), "{taken:?}");
    }

    fn outputs(receiver: &mut Receiver) -> Vec<Output> {
        std::iter::from_fn(|| receiver.poll_output()).collect()
    }

    fn statuses(receiver: &mut Receiver) -> Vec<Status> {
        let status = |output: Output| match output {
            Output::Unicast(Message::Status(status)) => Some(status),
            Output::Unicast(_) | Output::Complete | Output::Abandoned | Output::Closed { .. } => None,
        };
        outputs(receiver).into_iter().filter_map(status).collect()
    }

    fn poll(roll: Roll) -> Message {
        let sent_through = 4;
        Message::Poll(Poll { session: 1, poll: 3, pass: 1, sent_through, reply_window_micros: 4000, roll })
    }

    #[test]
    fn completeness_is_said_only_after_the_driver_confirmed() {
        let mut receiver = receiver(2);
        receiver.confirm();
        hear(&mut receiver, 0, PLAIN, at(0));
        receiver.confirm();
        assert_eq!(outputs(&mut receiver), vec![]);
        hear(&mut receiver, 1, FLAG, at(0));
        assert_eq!(outputs(&mut receiver), vec![Output::Complete]);
        receiver.handle_timeout(at(1));
        let before = statuses(&mut receiver);
        assert_eq!(before.iter().map(|status| (status.held, status.complete)).collect::<Vec<_>>(), vec![(2, false)]);
        receiver.confirm();
        assert!(statuses(&mut receiver).iter().all(|status| status.complete));
    }

    #[test]
    fn wrong_symbols_are_asked_for_again_until_the_object_is_confirmed() {
        let mut receiver = receiver(3);
        for symbol in 0..3 {
            hear(&mut receiver, symbol, PLAIN, at(0));
        }
        assert_eq!(outputs(&mut receiver), vec![Output::Complete]);
        receiver.mark_bad(1, 9, at(1));
        receiver.confirm();
        receiver.handle_timeout(at(2));
        let asked = statuses(&mut receiver);
        assert_eq!((asked.len(), asked[0].missing.clone(), asked[0].complete), (1, vec![(1, 2)], false));
        hear(&mut receiver, 1, PLAIN, at(3));
        hear(&mut receiver, 2, PLAIN, at(3));
        assert_eq!(outputs(&mut receiver), vec![Output::Complete]);
        receiver.confirm();
        receiver.mark_bad(0, 1, at(4));
        assert_eq!(receiver.held().count(), 3);
    }

    #[test]
    fn a_flag_is_answered_once_within_the_window_about_what_was_sent_before_it() {
        let mut receiver = receiver(10);
        hear(&mut receiver, 0, PLAIN, at(0));
        hear(&mut receiver, 3, FLAG, at(0));
        hear(&mut receiver, 6, PLAIN, at(0));
        let at_most = at(0) + ReceiverConfig::default().reply_window;
        let answers_at = receiver.poll_timeout().expect("an answer is due");
        assert!(answers_at <= at_most && answers_at >= Timestamp(500), "{answers_at:?}");
        receiver.handle_timeout(answers_at - Duration::from_micros(1));
        assert_eq!(statuses(&mut receiver), vec![]);
        receiver.handle_timeout(answers_at);
        let said = statuses(&mut receiver);
        let expected =
            Status { session: 1, poll: 0, received: 3, highest: 7, held: 3, missing: vec![(1, 2)], complete: false };
        assert_eq!(said, vec![expected]);
        receiver.handle_timeout(at_most);
        assert_eq!(statuses(&mut receiver), vec![]);
    }

    #[test]
    fn only_those_asked_answer_a_poll_except_an_incomplete_one_that_the_leader_believes_complete() {
        for (roll, answers) in [
            (Roll::Waiting(vec![ME]), 1),
            (Roll::Waiting(vec![]), 0),
            (Roll::Complete(vec![]), 1),
            (Roll::Complete(vec![ME]), 1),
        ] {
            let mut receiver = receiver(10);
            receiver.handle_message(&poll(roll.clone()), at(0));
            receiver.handle_timeout(at(4));
            let said = statuses(&mut receiver);
            assert_eq!(said.len(), answers, "{roll:?}");
            assert!(said.iter().all(|status| status.poll == 3 && status.missing == vec![(0, 4)]));
        }
        let geometry = Geometry::new(10, SYMBOL_BYTES).expect("fits");
        let mut complete = Receiver::already_complete(ReceiverConfig::default(), ME, 1, geometry, 1, at(0));
        assert_eq!(statuses(&mut complete).iter().map(|status| status.complete).collect::<Vec<_>>(), vec![true]);
        complete.handle_message(&poll(Roll::Complete(vec![ME])), at(0));
        complete.handle_timeout(at(4));
        assert_eq!(statuses(&mut complete), vec![]);
        complete.handle_message(&poll(Roll::Waiting(vec![ME])), at(5));
        complete.handle_timeout(at(9));
        assert_eq!(statuses(&mut complete).len(), 1);
    }

    #[test]
    fn a_complete_member_answers_few_flags_so_that_the_leader_hears_those_who_miss_something() {
        let geometry = Geometry::new(10, SYMBOL_BYTES).expect("fits");
        let mut complete = Receiver::already_complete(ReceiverConfig::default(), ME, 1, geometry, 1, at(0));
        outputs(&mut complete);
        let mut answers = 0;
        for millis in (0..1000).step_by(50) {
            let taken = complete.handle_frame(&FrameHeader { payload_bytes: 10, ..header(0, FLAG) }, 10, at(millis));
            assert_eq!(taken, Ok(Accepted::Duplicate));
            complete.handle_timeout(at(millis + 1));
            answers += statuses(&mut complete).len();
        }
        assert_eq!(answers, 3);
    }

    #[test]
    fn a_silent_leader_is_asked_ever_more_rarely_and_then_given_up() {
        let mut receiver = receiver(10);
        hear(&mut receiver, 2, PLAIN, at(0));
        let mut asked_at = Vec::new();
        let mut abandoned_at = None;
        while let Some(now) = receiver.poll_timeout() {
            receiver.handle_timeout(now);
            for output in outputs(&mut receiver) {
                match output {
                    Output::Unicast(_) => asked_at.push(now.0 / 1000),
                    Output::Abandoned => abandoned_at = Some(now),
                    Output::Complete | Output::Closed { .. } => panic!("neither: {output:?}"),
                }
            }
        }
        assert_eq!(asked_at, vec![20, 60, 140, 300, 620, 1120, 1620, 2120, 2620]);
        assert_eq!(abandoned_at, Some(at(3000)));
        let refused = receiver.handle_frame(&header(0, PLAIN), usize::from(SYMBOL_BYTES), at(3001));
        assert_eq!(refused, Err(Refused::Over));
    }

    #[test]
    fn a_frame_that_does_not_belong_here_is_refused_for_its_reason_and_changes_nothing() {
        let mut receiver = receiver(3);
        let mut check = |header: FrameHeader, bytes: usize, refused: Refused| {
            assert_eq!(receiver.handle_frame(&header, bytes, at(0)), Err(refused));
        };
        let bytes = usize::from(SYMBOL_BYTES);
        check(FrameHeader { session: 2, ..header(0, PLAIN) }, bytes, Refused::Session { expected: 1, actual: 2 });
        check(header(3, PLAIN), bytes, Refused::Symbol { symbol: 3, symbols: 3 });
        let short = Refused::Length { symbol: 1, expected: SYMBOL_BYTES, actual: bytes - 1 };
        check(header(1, PLAIN), bytes - 1, short);
        assert!(receiver.held().is_empty());
    }

    #[test]
    fn symbols_from_a_local_copy_are_not_asked_for() {
        let mut receiver = receiver(10);
        receiver.mark_have(0, 4);
        hear(&mut receiver, 6, FLAG, at(0));
        receiver.handle_timeout(at(1));
        assert_eq!(statuses(&mut receiver)[0].missing, vec![(4, 2)]);
        receiver.mark_have(4, u32::MAX);
        assert_eq!(outputs(&mut receiver), vec![Output::Complete]);
    }

    #[test]
    fn a_close_ends_the_session_and_says_whether_the_object_is_here() {
        let close = Message::Close { session: 1, failed: Vec::new() };
        let mut receiver = receiver(1);
        receiver.handle_message(&Message::Close { session: 2, failed: Vec::new() }, at(0));
        assert_eq!(outputs(&mut receiver), vec![]);
        receiver.handle_message(&close, at(0));
        assert_eq!(outputs(&mut receiver), vec![Output::Closed { complete: false }]);
        assert_eq!(receiver.poll_timeout(), None);
        let mut receiver = self::receiver(1);
        hear(&mut receiver, 0, PLAIN, at(0));
        receiver.confirm();
        outputs(&mut receiver);
        receiver.handle_message(&close, at(0));
        assert_eq!(outputs(&mut receiver), vec![Output::Closed { complete: true }]);
    }
}
