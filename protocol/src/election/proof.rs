//! Whose announcements count: those of a leader that has answered this server since it last had none.
//!
//! An announcement is proven to be its sender's, and heard once. It may still be old: who overheard it can
//! play it to a server that did not hear it, or that was started again and has forgotten what it heard, and
//! a leader that lost its memory meanwhile does not lead what it says. So the first announcement of an epoch
//! is answered with a number that this server draws for that one question, and counts when the leader repeats
//! the number within a short time: an answer that was lost on its way is as old as any other when it is played.
//! Nothing of it outlives the loss of a leader.
//!
//! A claim that makes a leader reopen the vote is asked about in the same way. All other claims count at once:
//! an old one holds up a vote a little, or is answered.
//!
//! Rejected: keeping the highest start of every sender on disk. It does not help a server that never heard
//! the sender, and costs a write for each.

use std::collections::BTreeMap;
use std::time::Duration;

use common::ids::ServerId;
use common::time::Timestamp;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::{LeaderAnnouncement, Message};

/// Most leaders whose answers are remembered; there are more only when somebody plays with a segment.
const LEADERS_MAX: usize = 64;
/// Segments up to this size ask all at once: their datagrams fit any socket buffer.
const CROWD: u32 = 32;
/// In larger ones, over which time the questions are spread for each member, and at most.
const SPREAD_PER_MEMBER: Duration = Duration::from_micros(200);
const SPREAD_MAX: Duration = Duration::from_millis(200);

/// Which leaders have answered.
#[derive(Debug, Clone)]
pub(super) struct Proof {
    /// Apart from the election's own chance, so that a question does not shift its waits.
    rng: ChaCha8Rng,
    /// How long an answer may take.
    patience: Duration,
    /// What each leader led when it answered.
    answered: BTreeMap<ServerId, u64>,
    /// Whom to ask, and when.
    asks: BTreeMap<ServerId, Timestamp>,
    /// Who was asked and has not answered: with which number, and until when its answer counts.
    asked: BTreeMap<ServerId, (u64, Timestamp)>,
    /// The largest segment that a leader spoke of.
    members: u32,
}

impl Proof {
    pub(super) fn new(seed: u64, patience: Duration) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(1);
        Self { rng, patience, answered: BTreeMap::new(), asks: BTreeMap::new(), asked: BTreeMap::new(), members: 0 }
    }

    /// The server has no leader any more.
    pub(super) fn forget(&mut self) {
        self.answered.clear();
        self.asks.clear();
        self.asked.clear();
    }

    /// The question to a server that said something which may be old.
    pub(super) fn ask(&mut self, server: ServerId, now: Timestamp) -> Message {
        if self.asked.len() >= LEADERS_MAX {
            self.asked.clear();
        }
        let number = self.rng.next_u64();
        self.asked.insert(server, (number, now + self.patience));
        Message::Verify { number }
    }

    /// A server has answered. Whether it is the answer to the last question to it, in time and for the first
    /// time.
    pub(super) fn is_answer(&mut self, server: ServerId, number: u64, now: Timestamp) -> bool {
        let is_answer = self.asked.get(&server).is_some_and(|(asked, until)| *asked == number && now <= *until);
        if is_answer {
            self.asked.remove(&server);
        }
        is_answer
    }

    /// A leader that answered leads this.
    pub(super) fn believe(&mut self, said: &LeaderAnnouncement) {
        if self.answered.len() >= LEADERS_MAX {
            self.answered.clear();
        }
        self.asks.remove(&said.priority.server);
        self.answered.insert(said.priority.server, said.epoch);
    }

    /// An announcement has arrived. Whether it counts; otherwise its sender is asked.
    pub(super) fn admits(&mut self, heard: &LeaderAnnouncement, now: Timestamp) -> bool {
        let leader = heard.priority.server;
        if self.answered.get(&leader) == Some(&heard.epoch) {
            self.members = self.members.max(heard.members);
            return true;
        }
        if self.asks.len() < LEADERS_MAX && !self.asks.contains_key(&leader) {
            let at = now + self.spread();
            self.asks.insert(leader, at);
        }
        false
    }

    /// The next question that is due, and to whom. It is said once: the next announcement asks again.
    pub(super) fn due(&mut self, now: Timestamp) -> Option<(ServerId, Message)> {
        let (leader, _) = self.asks.iter().find(|(_, at)| **at <= now)?;
        let leader = *leader;
        self.asks.remove(&leader);
        Some((leader, self.ask(leader, now)))
    }

    pub(super) fn poll_timeout(&self) -> Option<Timestamp> {
        self.asks.values().min().copied()
    }

    fn spread(&mut self) -> Duration {
        if self.members <= CROWD {
            return Duration::ZERO;
        }
        let span = (SPREAD_PER_MEMBER * self.members).min(SPREAD_MAX);
        let micros = u64::try_from(span.as_micros()).unwrap_or(u64::MAX).saturating_add(1);
        Duration::from_micros(self.rng.next_u64() % micros)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Standing;
    use super::*;

    const NOW: Timestamp = Timestamp(1_000);

    fn id(number: u8) -> ServerId {
        ServerId([number; 16])
    }

    fn announcement(leader: u8, epoch: u64, members: u32) -> LeaderAnnouncement {
        LeaderAnnouncement { epoch, priority: Standing::default().priority(id(leader), false, 0), members }
    }

    fn asked(proof: &mut Proof, now: Timestamp) -> Vec<(ServerId, u64)> {
        let number = |(to, message)| {
            let Message::Verify { number } = message else { panic!("not a question: {message:?}") };
            (to, number)
        };
        std::iter::from_fn(|| proof.due(now)).map(number).collect()
    }

    fn proof(seed: u64) -> Proof {
        Proof::new(seed, Duration::from_micros(10))
    }

    fn at(micros: u64) -> Timestamp {
        NOW + Duration::from_micros(micros)
    }

    /// The number with which a leader is asked because of an announcement.
    fn asked_by(proof: &mut Proof, leader: u8, epoch: u64) -> u64 {
        assert!(!proof.admits(&announcement(leader, epoch, 1), NOW));
        let [(to, number)] = asked(proof, NOW)[..] else { panic!("one is asked") };
        assert_eq!(to, id(leader));
        number
    }

    fn answer(proof: &mut Proof, leader: u8, epoch: u64, number: u64, now: Timestamp) -> bool {
        let is_answer = proof.is_answer(id(leader), number, now);
        if is_answer {
            proof.believe(&announcement(leader, epoch, 1));
        }
        is_answer
    }

    #[test]
    fn an_announcement_counts_after_its_leader_has_repeated_the_number() {
        let mut proof = proof(1);
        let number = asked_by(&mut proof, 3, 7);
        assert_eq!(asked(&mut proof, NOW), [], "once for each announcement");
        assert!(!answer(&mut proof, 3, 7, number ^ 1, NOW), "a wrong number proves nothing");
        assert!(!answer(&mut proof, 4, 7, number, NOW), "nor does the right one from another");
        assert!(!proof.admits(&announcement(3, 7, 1), NOW));
        assert!(answer(&mut proof, 3, 7, number, at(10)));
        assert!(proof.admits(&announcement(3, 7, 1), NOW));
        assert!(!proof.admits(&announcement(3, 8, 1), NOW), "another epoch is another question");
        assert!(!proof.admits(&announcement(4, 7, 1), NOW), "and so is another leader");
    }

    #[test]
    fn an_answer_counts_once_in_time_and_only_to_the_last_question() {
        let mut proof = proof(1);
        let first = asked_by(&mut proof, 3, 7);
        let second = asked_by(&mut proof, 3, 7);
        assert!(!answer(&mut proof, 3, 7, first, NOW), "an older question");
        assert!(!answer(&mut proof, 3, 7, second, at(11)), "too late");
        assert!(answer(&mut proof, 3, 7, second, at(10)));
        assert!(!answer(&mut proof, 3, 7, second, at(10)), "a second time");
    }

    #[test]
    fn what_was_asked_and_answered_before_the_leader_was_lost_counts_for_nothing_after_it() {
        let mut proof = proof(1);
        let answered = asked_by(&mut proof, 3, 7);
        assert!(answer(&mut proof, 3, 7, answered, NOW));
        let open = asked_by(&mut proof, 4, 8);
        proof.forget();
        assert!(!proof.admits(&announcement(3, 7, 1), NOW));
        assert!(!answer(&mut proof, 4, 8, open, NOW));
    }

    #[test]
    fn every_start_draws_numbers_of_its_own() {
        assert_ne!(asked_by(&mut proof(1), 3, 7), asked_by(&mut proof(2), 3, 7));
    }

    #[test]
    fn the_members_of_a_large_segment_do_not_all_ask_at_once() {
        for (members, at_once) in [(CROWD, true), (500, false)] {
            let mut proof = proof(1);
            proof.believe(&announcement(3, 7, members));
            assert!(proof.admits(&announcement(3, 7, members), NOW));
            assert!(!proof.admits(&announcement(4, 8, 1), NOW));
            let at = proof.poll_timeout().expect("it asks");
            assert_eq!(at == NOW, at_once);
            assert!(at <= NOW + SPREAD_PER_MEMBER * members);
        }
    }

    #[test]
    fn memory_is_bounded_however_many_leaders_there_seem_to_be() {
        let mut proof = proof(1);
        for leader in 0..=255 {
            proof.admits(&announcement(leader, 1, 1), NOW);
            assert!(proof.asks.len() <= LEADERS_MAX);
        }
        for leader in 0..=255 {
            proof.ask(id(leader), NOW);
            proof.believe(&announcement(leader, 1, 1));
            assert!(proof.answered.len() <= LEADERS_MAX && proof.asked.len() <= LEADERS_MAX);
        }
    }
}
