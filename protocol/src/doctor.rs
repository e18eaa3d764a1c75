//! Finding out whether multicast works: what `pressrun doctor` says to the agents of its segment, and how
//! they answer. Pure.
//!
//! The doctor multicasts probes and asks each agent by unicast how many it heard; then it has them, one
//! after another, multicast a short burst of test frames, which it counts. In: messages of servers whose
//! identity is proven, with the way they came, time, chance. Out: answers, and bursts to be sent. Holds:
//! one burst at a time, bounded, some seconds after the last, and only for who has shown that it hears
//! this agent's answers, so that no datagram that is played again starts one. Leaves to others: sockets,
//! and what the figures mean.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use common::ids::ServerId;
use common::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::reach::{Transport, Way};

/// Most frames of a burst.
pub const BURST_FRAMES_MAX: u32 = 2_000;
/// Longest time in which a burst is sent.
pub const BURST_TIME_MAX: Duration = Duration::from_secs(1);
/// Longest frame of a burst, in bytes: what fits a datagram of an Ethernet.
pub const BURST_FRAME_BYTES_MAX: u16 = 1_400;
/// Shortest, in bytes: what a frame is known by.
pub const BURST_FRAME_BYTES_MIN: u16 = 64;
/// Time between the end of a burst and the next one.
pub const BURST_GAP: Duration = Duration::from_secs(2);
/// Most probes of one check that are counted.
const PROBES_MAX: usize = 256;
/// Most checks at once; the one heard longest ago gives way.
const CHECKS_MAX: usize = 8;
/// How long a nonce is good.
const NONCE_LIFE: Duration = Duration::from_secs(30);
/// Most answers in a second, to all together.
const ANSWERS_PER_SECOND: u32 = 200;

/// What doctor and agents say. Grows at the end only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// Doctor, by multicast to all or by unicast to one.
    Probe {
        /// Names the check; random.
        check: u64,
        /// Counts the probes of a check that are multicast, from 1; 0 by unicast.
        number: u32,
    },
    /// Agent to the doctor, by unicast: to each probe by unicast, and to the first by multicast.
    Answer(Answer),
    /// Doctor to an agent, by unicast: multicast a burst.
    Burst {
        /// The check.
        check: u64,
        /// From the agent's last answer.
        nonce: u64,
        /// How many frames.
        frames: u32,
        /// Of how many bytes each.
        frame_bytes: u16,
        /// To a group that only the doctor has joined, a moment ago, and not to the data channel's.
        fresh: bool,
    },
    /// Agent to the doctor: no burst now.
    Busy {
        /// The check.
        check: u64,
    },
    /// Agent to the doctor: the burst is over.
    Sent {
        /// The check.
        check: u64,
        /// Frames that were sent.
        frames: u32,
    },
}

/// What an agent says of a check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The check.
    pub check: u64,
    /// How the probe came that is answered.
    pub way: Way,
    /// Probes of the check that came by multicast.
    pub heard: u32,
    /// The number of the last of them; 0 before the first.
    pub last: u32,
    /// How the agent reaches others.
    pub transport: Transport,
    /// To be quoted by who wants a burst.
    pub nonce: u64,
}

/// What the driver carries out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Say this to the server whose message was handled last, where that came from.
    Reply(Message),
    /// Multicast test frames, evenly over [`BURST_TIME_MAX`] at most; then [`Responder::burst_over`].
    Burst {
        /// The check.
        check: u64,
        /// How many frames.
        frames: u32,
        /// Of how many bytes each.
        frame_bytes: u16,
        /// To a group of the check's own.
        fresh: bool,
    },
}

#[derive(Debug)]
struct Check {
    check: u64,
    heard_at: Timestamp,
    heard: BTreeSet<u32>,
    nonce: Option<(u64, Timestamp)>,
}

/// An agent's side.
#[derive(Debug)]
pub struct Responder {
    transport: Transport,
    checks: BTreeMap<ServerId, Check>,
    is_sending: bool,
    next_burst_at: Timestamp,
    second: Timestamp,
    answers: u32,
    outputs: VecDeque<Output>,
}

impl Responder {
    /// An agent that reaches others in this way.
    #[must_use]
    pub fn new(transport: Transport) -> Self {
        Self {
            transport,
            checks: BTreeMap::new(),
            is_sending: false,
            next_burst_at: Timestamp::ZERO,
            second: Timestamp::ZERO,
            answers: 0,
            outputs: VecDeque::new(),
        }
    }

    /// A message of a server, and how it came. `chance` is random, another one each time.
    pub fn handle_message(&mut self, from: ServerId, way: Way, message: &Message, chance: u64, now: Timestamp) {
        match message {
            Message::Probe { check, number } => self.probed(from, way, (*check, *number), chance, now),
            Message::Burst { check, nonce, frames, frame_bytes, fresh } => {
                let burst = Output::Burst {
                    check: *check,
                    frames: (*frames).min(BURST_FRAMES_MAX),
                    frame_bytes: (*frame_bytes).clamp(BURST_FRAME_BYTES_MIN, BURST_FRAME_BYTES_MAX),
                    fresh: *fresh,
                };
                self.burst(from, (*check, *nonce), burst, now);
            }
            // What agents say is for doctors.
            Message::Answer(_) | Message::Busy { .. } | Message::Sent { .. } => {}
        }
    }

    fn probed(&mut self, from: ServerId, way: Way, (check, number): (u64, u32), chance: u64, now: Timestamp) {
        if self.checks.get(&from).is_none_or(|known| known.check != check) {
            if self.checks.len() >= CHECKS_MAX && !self.checks.contains_key(&from) {
                let oldest = self.checks.iter().min_by_key(|(_, check)| check.heard_at).map(|(server, _)| *server);
                self.checks.retain(|server, _| Some(*server) != oldest);
            }
            let new = Check { check, heard_at: now, heard: BTreeSet::new(), nonce: None };
            self.checks.insert(from, new);
        }
        let Some(known) = self.checks.get_mut(&from) else { return };
        known.heard_at = now;
        let is_first = known.heard.is_empty();
        if way == Way::Multicast && number > 0 && known.heard.len() < PROBES_MAX {
            known.heard.insert(number);
        }
        if way == Way::Multicast && !is_first {
            return;
        }
        let answer = Answer {
            check,
            way,
            heard: u32::try_from(known.heard.len()).unwrap_or(u32::MAX),
            last: known.heard.last().copied().unwrap_or(0),
            transport: self.transport,
            nonce: chance,
        };
        known.nonce = Some((chance, now));
        if self.may_answer(now) {
            self.outputs.push_back(Output::Reply(Message::Answer(answer)));
        }
    }

    fn may_answer(&mut self, now: Timestamp) -> bool {
        if now.since(self.second) >= Duration::from_secs(1) {
            (self.second, self.answers) = (now, 0);
        }
        self.answers += 1;
        self.answers <= ANSWERS_PER_SECOND
    }

    fn burst(&mut self, from: ServerId, (check, nonce): (u64, u64), burst: Output, now: Timestamp) {
        let known = self.checks.get_mut(&from).filter(|known| known.check == check);
        let Some(known) = known else { return };
        // Each nonce is good once, and says that who asks has heard the answer it was in.
        if known.nonce.take_if(|(good, at)| *good == nonce && now.since(*at) < NONCE_LIFE).is_none() {
            return;
        }
        let may = !self.is_sending && now >= self.next_burst_at && self.transport != Transport::Unicast;
        if !may {
            self.outputs.push_back(Output::Reply(Message::Busy { check }));
            return;
        }
        self.is_sending = true;
        self.outputs.push_back(burst);
    }

    /// The burst was sent, or could not be.
    pub fn burst_over(&mut self, now: Timestamp) {
        self.is_sending = false;
        self.next_burst_at = now + BURST_GAP;
    }

    /// What to do next, until `None`.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCTOR: ServerId = ServerId([1; 16]);
    const OTHER: ServerId = ServerId([2; 16]);

    fn ms(milliseconds: u64) -> Timestamp {
        Timestamp(milliseconds * 1_000)
    }

    fn drain(responder: &mut Responder) -> Vec<Output> {
        std::iter::from_fn(|| responder.poll_output()).collect()
    }

    fn probe(responder: &mut Responder, way: Way, number: u32, nonce: u64, now: Timestamp) -> Vec<Output> {
        responder.handle_message(DOCTOR, way, &Message::Probe { check: 7, number }, nonce, now);
        drain(responder)
    }

    fn ask(responder: &mut Responder, from: ServerId, nonce: u64, now: Timestamp) -> Vec<Output> {
        let burst = Message::Burst { check: 7, nonce, frames: 9_999, frame_bytes: 9_999, fresh: true };
        responder.handle_message(from, Way::Unicast, &burst, 0, now);
        drain(responder)
    }

    fn answer(way: Way, heard: u32, last: u32, nonce: u64) -> Output {
        Output::Reply(Message::Answer(Answer { check: 7, way, heard, last, transport: Transport::Auto, nonce }))
    }

    #[test]
    fn probes_by_multicast_are_counted_each_once_and_the_first_is_answered() {
        let mut responder = Responder::new(Transport::Auto);
        assert_eq!(probe(&mut responder, Way::Multicast, 1, 10, ms(0)), [answer(Way::Multicast, 1, 1, 10)]);
        assert_eq!(probe(&mut responder, Way::Multicast, 3, 11, ms(1)), []);
        assert_eq!(probe(&mut responder, Way::Multicast, 3, 12, ms(2)), [], "the same, played again");
        assert_eq!(probe(&mut responder, Way::Unicast, 0, 13, ms(3)), [answer(Way::Unicast, 2, 3, 13)]);
    }

    #[test]
    fn a_burst_is_bounded_and_asked_for_with_a_nonce_that_is_good_once_and_not_for_long() {
        let mut responder = Responder::new(Transport::Auto);
        assert_eq!(ask(&mut responder, DOCTOR, 0, ms(0)), [], "nobody has answered it");
        probe(&mut responder, Way::Unicast, 0, 10, ms(0));
        assert_eq!(ask(&mut responder, OTHER, 10, ms(1)), [], "another's nonce");
        assert_eq!(ask(&mut responder, DOCTOR, 11, ms(1)), [], "a guess");
        let burst =
            Output::Burst { check: 7, frames: BURST_FRAMES_MAX, frame_bytes: BURST_FRAME_BYTES_MAX, fresh: true };
        assert_eq!(ask(&mut responder, DOCTOR, 10, ms(1)), [burst]);
        assert_eq!(ask(&mut responder, DOCTOR, 10, ms(5_000)), [], "played again");
        responder.burst_over(ms(1_000));
        probe(&mut responder, Way::Unicast, 0, 12, ms(5_000));
        assert_eq!(ask(&mut responder, DOCTOR, 12, ms(35_000)), [], "too late");
    }

    #[test]
    fn there_is_one_burst_at_a_time_and_a_pause_after_it() {
        let mut responder = Responder::new(Transport::Auto);
        let busy = [Output::Reply(Message::Busy { check: 7 })];
        for (at, nonce, may) in [(0, 1, true), (500, 2, false), (2_999, 3, false), (3_000, 4, true)] {
            probe(&mut responder, Way::Unicast, 0, nonce, ms(at));
            let said = ask(&mut responder, DOCTOR, nonce, ms(at));
            assert_eq!(said == busy, !may, "at {at}: {said:?}");
            if at == 500 {
                responder.burst_over(ms(1_000));
            }
        }
    }

    #[test]
    fn an_agent_that_shall_not_multicast_sends_no_burst() {
        let mut responder = Responder::new(Transport::Unicast);
        probe(&mut responder, Way::Unicast, 0, 1, ms(0));
        assert_eq!(ask(&mut responder, DOCTOR, 1, ms(0)), [Output::Reply(Message::Busy { check: 7 })]);
    }

    #[test]
    fn a_flood_of_probes_is_answered_within_bounds_and_remembered_within_bounds() {
        let mut responder = Responder::new(Transport::Auto);
        let mut answers = 0;
        for n in 0..1_000_u32 {
            let [high, low] = (n as u16).to_be_bytes();
            let mut id = [0; 16];
            (id[0], id[1]) = (high, low);
            responder.handle_message(ServerId(id), Way::Unicast, &Message::Probe { check: 1, number: n }, 0, ms(1));
            answers += drain(&mut responder).len();
        }
        assert_eq!(answers, ANSWERS_PER_SECOND as usize);
        assert!(responder.checks.len() <= CHECKS_MAX);
        for number in 1..1_000 {
            responder.handle_message(DOCTOR, Way::Multicast, &Message::Probe { check: 1, number }, 0, ms(2));
        }
        assert!(responder.checks[&DOCTOR].heard.len() <= PROBES_MAX);
    }
}
