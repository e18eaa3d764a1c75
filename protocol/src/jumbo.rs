//! Whether long packets pass between a leader and its members, before anything depends on it.
//!
//! What an interface takes, its server says when it registers; whether the switches between carry as much, nobody
//! says. So a leader whose members all take long packets multicasts a *probe* that is as long as a frame with the
//! longest symbols they take, and is never fragmented; every member that gets it says so. Sessions have long symbols
//! when all their members have said so, and symbols of the usual length before that, and otherwise.
//!
//! In: whom this server leads or follows, messages, time, and how sessions with long symbols failed. Out: messages,
//! and what to log. Holds: no session begins with symbols that are longer than a packet which every member of it has
//! got from this leader. Leaves to others: making a probe as long as it says it is, and sending it unfragmented.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use common::ids::ServerId;
use common::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::reach::Way;
use crate::session::{Failure, HEADER_BYTES, SYMBOL_BYTES, TAG_BYTES, symbol_bytes_for};

/// What leader and members say. Grows at the end only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// Leader to all, by multicast and never otherwise: who gets this says so.
    Probe {
        /// The datagram is as long as a frame with a symbol of so many bytes.
        symbol_bytes: u16,
        /// What makes it so long.
        padding: Vec<u8>,
    },
    /// Member to its leader: a probe came.
    Passed {
        /// As it said.
        symbol_bytes: u16,
    },
}

/// The padding of a probe, in bytes, that makes its datagram as long as a frame with a symbol of so many bytes, when
/// it is of so many bytes without padding.
#[must_use]
pub fn padding_bytes(symbol_bytes: u16, unpadded_bytes: usize) -> usize {
    let frame_bytes = HEADER_BYTES + usize::from(symbol_bytes) + TAG_BYTES;
    let room = frame_bytes.saturating_sub(unpadded_bytes);
    // The number before the padding takes seven bits in a byte, and one byte where there is none.
    room.saturating_sub(usize::from(room > 0x7f))
}

/// Times of the probes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Between probes while an answer is missing. Default 100 ms.
    pub interval: Duration,
    /// So many probes in a row. Default 5: where a tenth of all datagrams is lost each way, all five answers of a
    /// member are missing once in four thousand times, and then its segment has shorter symbols for a while.
    pub tries: u32,
    /// After them, until the next ones. Default 60 s: a switch may be configured anew.
    pub rest: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { interval: Duration::from_millis(100), tries: 5, rest: Duration::from_secs(60) }
    }
}

/// What the driver carries out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Multicast a [`Message::Probe`] with padding, so that its datagram is as long as a frame with a symbol of so
    /// many bytes, in one packet.
    Probe {
        /// The symbol's length.
        symbol_bytes: u16,
    },
    /// Send this to one server.
    Send {
        /// To whom.
        to: ServerId,
        /// What.
        message: Message,
    },
    /// At the leader: all members get long packets from here on.
    Pass {
        /// With symbols of so many bytes.
        symbol_bytes: u16,
    },
    /// At the leader: these members take long packets, and get none of them.
    Stuck {
        /// In ascending order.
        members: Vec<ServerId>,
    },
}

#[derive(Debug, Default)]
struct Office {
    /// What each member's interface takes, and the longest symbols whose probe it got.
    members: BTreeMap<ServerId, (Option<u32>, u16)>,
    /// What the leader's own interface takes.
    own: Option<u32>,
    /// Probes since the last rest.
    tried: u32,
    probe_at: Option<Timestamp>,
    /// A session with long symbols did not reach a member that had got a probe.
    gave_up: bool,
}

#[derive(Debug)]
enum Role {
    Alone,
    Member(ServerId),
    Leader(Office),
}

/// Who gets long packets. The module's documentation tells how.
#[derive(Debug)]
pub struct Jumbo {
    config: Config,
    role: Role,
    outputs: VecDeque<Output>,
}

impl Jumbo {
    /// A server that has just started.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self { config, role: Role::Alone, outputs: VecDeque::new() }
    }

    /// There is no leader.
    pub fn leaderless(&mut self) {
        self.role = Role::Alone;
    }

    /// This server follows.
    pub fn follows(&mut self, leader: ServerId) {
        self.role = Role::Member(leader);
    }

    /// This server leads.
    pub fn leads(&mut self) {
        if !matches!(self.role, Role::Leader(_)) {
            self.role = Role::Leader(Office::default());
        }
    }

    /// At the leader: its members that hear multicast, itself left out, and the longest packets that their
    /// interfaces and its own take.
    pub fn members(
        &mut self,
        own: Option<u32>,
        members: impl IntoIterator<Item = (ServerId, Option<u32>)>,
        now: Timestamp,
    ) {
        let Role::Leader(office) = &mut self.role else { return };
        let mut old = std::mem::take(&mut office.members);
        let mut is_news = office.own != own;
        office.own = own;
        for (server, mtu) in members {
            let (was, passed) = old.remove(&server).unwrap_or((None, 0));
            is_news |= was != mtu;
            office.members.insert(server, (mtu, passed));
        }
        if is_news {
            office.tried = 0;
            office.probe_at = None;
        }
        if office.probe_at.is_none() && !office.untried().is_empty() {
            office.probe_at = Some(now);
        }
    }

    /// A message of a server, and how it came.
    pub fn handle_message(&mut self, from: ServerId, way: Way, message: &Message) {
        match (message, &mut self.role) {
            (Message::Probe { symbol_bytes, .. }, Role::Member(leader)) if *leader == from && way == Way::Multicast => {
                let message = Message::Passed { symbol_bytes: *symbol_bytes };
                self.outputs.push_back(Output::Send { to: from, message });
            }
            (Message::Passed { symbol_bytes }, Role::Leader(office)) => {
                let wanted = office.wanted();
                if let Some((_, passed)) = office.members.get_mut(&from).filter(|_| *symbol_bytes <= wanted) {
                    let before = std::mem::replace(passed, (*passed).max(*symbol_bytes));
                    if before < wanted && wanted > SYMBOL_BYTES && office.untried().is_empty() {
                        office.probe_at = None;
                        self.outputs.push_back(Output::Pass { symbol_bytes: wanted });
                    }
                }
            }
            (Message::Probe { .. } | Message::Passed { .. }, Role::Alone | Role::Member(_) | Role::Leader(_)) => {}
        }
    }

    /// When to call [`Jumbo::handle_timeout`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        match &self.role {
            Role::Leader(office) => office.probe_at,
            Role::Alone | Role::Member(_) => None,
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        if self.poll_timeout().is_none_or(|at| at > now) {
            return;
        }
        let Role::Leader(office) = &mut self.role else { return };
        let untried = office.untried();
        if untried.is_empty() {
            office.probe_at = None;
        } else if office.tried == self.config.tries {
            office.tried = 0;
            office.probe_at = Some(now + self.config.rest);
            self.outputs.push_back(Output::Stuck { members: untried });
        } else {
            office.tried += 1;
            office.probe_at = Some(now + self.config.interval);
            self.outputs.push_back(Output::Probe { symbol_bytes: office.wanted() });
        }
    }

    /// What to do next, until `None`.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// The length of symbols for a session of these servers, in bytes. A server that leads nobody says the usual one.
    #[must_use]
    pub fn symbol_bytes(&self, servers: impl IntoIterator<Item = ServerId>) -> u16 {
        let Role::Leader(office) = &self.role else { return SYMBOL_BYTES };
        let mut mtus = vec![office.own];
        let mut passed = u16::MAX;
        for server in servers {
            if let Some((mtu, its)) = office.members.get(&server) {
                mtus.push(*mtu);
                passed = passed.min(*its);
            } else {
                // Nothing is known of it.
                passed = 0;
            }
        }
        let length = symbol_bytes_for(mtus);
        let is_proven = length <= passed && !office.gave_up;
        if is_proven { length } else { length.min(SYMBOL_BYTES) }
    }

    /// A member was not served with symbols of this length. Returns whether that is why long ones are given up for
    /// as long as this server leads: it answered, and nothing of what it was sent reached it.
    pub fn failed(&mut self, symbol_bytes: u16, failure: Failure) -> bool {
        let Role::Leader(office) = &mut self.role else { return false };
        let is_deaf = match failure {
            Failure::Fruitless | Failure::Stalled | Failure::Straggling => true,
            Failure::Silent | Failure::Declined | Failure::Gone | Failure::Exhausted => false,
        };
        let gives_up = is_deaf && symbol_bytes > SYMBOL_BYTES && !office.gave_up;
        office.gave_up |= gives_up;
        gives_up
    }
}

impl Office {
    /// The symbols that all interfaces take.
    fn wanted(&self) -> u16 {
        symbol_bytes_for(self.members.values().map(|(mtu, _)| *mtu).chain([self.own]))
    }

    /// The members that have not got a probe as long as is wanted; nobody when nothing long is.
    fn untried(&self) -> Vec<ServerId> {
        let wanted = self.wanted();
        if wanted <= SYMBOL_BYTES || self.gave_up {
            return Vec::new();
        }
        self.members.iter().filter(|(_, (_, passed))| *passed < wanted).map(|(server, _)| *server).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::SYMBOL_BYTES_MAX;

    const ONE: ServerId = ServerId([1; 16]);
    const TWO: ServerId = ServerId([2; 16]);
    const LEADER: ServerId = ServerId([9; 16]);

    fn at(millis: u64) -> Timestamp {
        Timestamp(millis * 1000)
    }

    fn leader(mtus: [u32; 2]) -> Jumbo {
        let mut jumbo = Jumbo::new(Config::default());
        jumbo.leads();
        jumbo.members(Some(9_000), [(ONE, Some(mtus[0])), (TWO, Some(mtus[1]))], at(0));
        jumbo
    }

    /// What it does until this time.
    fn run(jumbo: &mut Jumbo, until: Timestamp) -> Vec<Output> {
        while let Some(next) = jumbo.poll_timeout().filter(|next| *next <= until) {
            jumbo.handle_timeout(next);
        }
        std::iter::from_fn(|| jumbo.poll_output()).collect()
    }

    fn passed(jumbo: &mut Jumbo, from: ServerId, symbol_bytes: u16) {
        jumbo.handle_message(from, Way::Unicast, &Message::Passed { symbol_bytes });
    }

    #[test]
    fn symbols_are_long_once_every_member_of_the_session_has_got_a_packet_of_that_length() {
        let mut jumbo = leader([9_000, 9_000]);
        assert_eq!(jumbo.symbol_bytes([ONE, TWO]), SYMBOL_BYTES, "nothing is proven");
        assert_eq!(run(&mut jumbo, at(0)), [Output::Probe { symbol_bytes: SYMBOL_BYTES_MAX }]);
        passed(&mut jumbo, ONE, SYMBOL_BYTES_MAX);
        assert_eq!((jumbo.symbol_bytes([ONE]), jumbo.symbol_bytes([ONE, TWO])), (SYMBOL_BYTES_MAX, SYMBOL_BYTES));
        passed(&mut jumbo, TWO, SYMBOL_BYTES_MAX);
        assert_eq!(run(&mut jumbo, at(10_000)), [Output::Pass { symbol_bytes: SYMBOL_BYTES_MAX }]);
        assert_eq!(jumbo.symbol_bytes([ONE, TWO]), SYMBOL_BYTES_MAX);
        assert_eq!(jumbo.symbol_bytes([ONE, LEADER]), SYMBOL_BYTES, "of that one nothing is known");
    }

    #[test]
    fn a_probe_is_as_long_as_a_frame() {
        for (symbol_bytes, around) in [(SYMBOL_BYTES_MAX, 700), (2_000, 700), (2_000, 1_980), (1_400, 5_000)] {
            let encoded = |padding| {
                let probe = Message::Probe { symbol_bytes, padding: vec![0; padding] };
                postcard::to_stdvec(&probe).expect("plain data").len() + around
            };
            let frame_bytes = HEADER_BYTES + usize::from(symbol_bytes) + TAG_BYTES;
            let unpadded = encoded(0);
            assert_eq!(encoded(padding_bytes(symbol_bytes, unpadded)), frame_bytes.max(unpadded), "{symbol_bytes}");
        }
    }

    #[test]
    fn where_all_have_usual_interfaces_nothing_is_probed() {
        let mut jumbo = leader([1_500, 9_000]);
        assert_eq!(run(&mut jumbo, at(1_000_000)), []);
        assert_eq!(jumbo.symbol_bytes([ONE, TWO]), SYMBOL_BYTES);
        assert_eq!(leader([1_280, 9_000]).symbol_bytes([ONE, TWO]), 1_280 - 88, "short ones need no proof");
    }

    #[test]
    fn who_gets_no_probe_is_named_and_tried_again_after_a_rest() {
        let mut jumbo = leader([9_000, 9_000]);
        let probe = Output::Probe { symbol_bytes: SYMBOL_BYTES_MAX };
        assert_eq!(run(&mut jumbo, at(50)), std::slice::from_ref(&probe));
        passed(&mut jumbo, ONE, SYMBOL_BYTES_MAX);
        let mut rest = vec![probe.clone(); 4];
        rest.push(Output::Stuck { members: vec![TWO] });
        assert_eq!(run(&mut jumbo, at(60_000)), rest);
        assert_eq!(run(&mut jumbo, at(60_500)), [probe]);
        passed(&mut jumbo, TWO, SYMBOL_BYTES_MAX);
        assert_eq!(jumbo.symbol_bytes([ONE, TWO]), SYMBOL_BYTES_MAX);
    }

    #[test]
    fn a_changed_interface_or_a_new_member_is_probed_at_once() {
        let mut jumbo = leader([9_000, 1_500]);
        assert_eq!(run(&mut jumbo, at(100)), []);
        jumbo.members(Some(9_000), [(ONE, Some(9_000)), (TWO, Some(4_000))], at(200));
        assert_eq!(run(&mut jumbo, at(200)), [Output::Probe { symbol_bytes: 4_000 - 88 }]);
        for member in [ONE, TWO] {
            passed(&mut jumbo, member, 4_000 - 88);
        }
        assert_eq!(jumbo.symbol_bytes([ONE, TWO]), 4_000 - 88);
        jumbo.members(Some(9_000), [(ONE, Some(9_000)), (TWO, Some(9_000))], at(300));
        assert_eq!(jumbo.symbol_bytes([ONE, TWO]), SYMBOL_BYTES, "so long a packet was not tried");
    }

    #[test]
    fn a_member_says_so_to_its_leader_and_only_of_what_was_multicast() {
        let probe = Message::Probe { symbol_bytes: 4_000, padding: vec![0; 3_500] };
        let mut jumbo = Jumbo::new(Config::default());
        jumbo.handle_message(LEADER, Way::Multicast, &probe);
        jumbo.follows(LEADER);
        jumbo.handle_message(ONE, Way::Multicast, &probe);
        jumbo.handle_message(LEADER, Way::Unicast, &probe);
        assert_eq!(jumbo.poll_output(), None);
        jumbo.handle_message(LEADER, Way::Multicast, &probe);
        let message = Message::Passed { symbol_bytes: 4_000 };
        assert_eq!(jumbo.poll_output(), Some(Output::Send { to: LEADER, message }));
    }

    #[test]
    fn long_symbols_are_given_up_once_when_a_member_answers_and_gets_none_of_them() {
        let mut jumbo = leader([9_000, 9_000]);
        for member in [ONE, TWO] {
            passed(&mut jumbo, member, SYMBOL_BYTES_MAX);
        }
        assert!(!jumbo.failed(SYMBOL_BYTES, Failure::Fruitless), "shorter ones would not help it");
        assert!(!jumbo.failed(SYMBOL_BYTES_MAX, Failure::Silent), "it may be dead");
        assert_eq!(jumbo.symbol_bytes([ONE, TWO]), SYMBOL_BYTES_MAX);
        assert!(jumbo.failed(SYMBOL_BYTES_MAX, Failure::Fruitless));
        assert_eq!(jumbo.symbol_bytes([ONE, TWO]), SYMBOL_BYTES);
        assert!(!jumbo.failed(SYMBOL_BYTES_MAX, Failure::Fruitless), "that is known");
    }
}
