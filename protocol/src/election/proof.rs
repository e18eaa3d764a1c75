//! Whose announcements count: those of a leader that has answered this server since it last had none.
//!
//! An announcement is proven to be its sender's, and heard once. It may still be old: who overheard it can
//! play it to a server that did not hear it, or that was started again and has forgotten what it heard, and
//! a leader that lost its memory meanwhile does not lead what it says. So the first announcement of an epoch
//! is answered with a number that this server drew for the purpose, and counts when the leader repeats the
//! number. The number is drawn anew whenever the server loses its leader: no answer outlives that.
//!
//! A claim that makes a leader reopen the vote is asked about in the same way, with a number of its own. All
//! other claims count at once: an old one holds up a vote a little, or is answered.
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
    number: u64,
    /// What each leader led when it answered.
    answered: BTreeMap<ServerId, u64>,
    /// Whom to ask, and when.
    asks: BTreeMap<ServerId, Timestamp>,
    /// The last claimant who was asked, and with which number.
    claimant: Option<(ServerId, u64)>,
    /// The largest segment that a leader spoke of.
    members: u32,
}

impl Proof {
    pub(super) fn new(seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(1);
        let number = rng.next_u64();
        Self { rng, number, answered: BTreeMap::new(), asks: BTreeMap::new(), claimant: None, members: 0 }
    }

    /// The server has no leader any more.
    pub(super) fn forget(&mut self) {
        self.number = self.rng.next_u64();
        self.answered.clear();
        self.asks.clear();
        self.claimant = None;
    }

    /// The question to a claimant.
    pub(super) fn ask_claimant(&mut self, claimant: ServerId) -> Message {
        let number = self.rng.next_u64();
        self.claimant = Some((claimant, number));
        Message::Verify { number }
    }

    /// A claimant has answered. Whether it answered the last question to it, for the first time.
    pub(super) fn claims(&mut self, claimant: ServerId, number: u64) -> bool {
        self.claimant.take_if(|asked| *asked == (claimant, number)).is_some()
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

    /// A leader has answered. Whether it answered what this server asks.
    pub(super) fn answers(&mut self, number: u64, said: &LeaderAnnouncement) -> bool {
        if number != self.number {
            return false;
        }
        if self.answered.len() >= LEADERS_MAX {
            self.answered.clear();
        }
        self.asks.remove(&said.priority.server);
        self.answered.insert(said.priority.server, said.epoch);
        true
    }

    /// The next question that is due, and to whom. It is said once: the next announcement asks again.
    pub(super) fn due(&mut self, now: Timestamp) -> Option<(ServerId, Message)> {
        let (leader, _) = self.asks.iter().find(|(_, at)| **at <= now)?;
        let leader = *leader;
        self.asks.remove(&leader);
        Some((leader, Message::Verify { number: self.number }))
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
        std::iter::from_fn(|| proof.due(now)).map(|(to, message)| (to, number_of(message))).collect()
    }

    fn number_of(question: Message) -> u64 {
        let Message::Verify { number } = question else { panic!("not a question: {question:?}") };
        number
    }

    fn number(proof: &mut Proof) -> u64 {
        assert!(!proof.admits(&announcement(9, 1, 1), NOW));
        asked(proof, NOW)[0].1
    }

    #[test]
    fn an_announcement_counts_after_its_leader_has_repeated_the_number() {
        let mut proof = Proof::new(1);
        assert!(!proof.admits(&announcement(3, 7, 1), NOW));
        let [(to, number)] = asked(&mut proof, NOW)[..] else { panic!("one is asked") };
        assert_eq!(to, id(3));
        assert_eq!(asked(&mut proof, NOW), [], "once for each announcement");
        assert!(!proof.answers(number ^ 1, &announcement(3, 7, 1)));
        assert!(!proof.admits(&announcement(3, 7, 1), NOW), "a wrong number proves nothing");
        assert!(proof.answers(number, &announcement(3, 7, 1)));
        assert!(proof.admits(&announcement(3, 7, 1), NOW));
        assert!(!proof.admits(&announcement(3, 8, 1), NOW), "another epoch is another question");
        assert!(!proof.admits(&announcement(4, 7, 1), NOW), "and so is another leader");
    }

    #[test]
    fn what_was_answered_before_the_leader_was_lost_counts_for_nothing_after_it() {
        let mut proof = Proof::new(1);
        let before = number(&mut proof);
        assert!(proof.answers(before, &announcement(3, 7, 1)));
        proof.forget();
        assert!(!proof.admits(&announcement(3, 7, 1), NOW));
        assert!(!proof.answers(before, &announcement(3, 7, 1)));
        assert_ne!(number(&mut proof), before);
    }

    #[test]
    fn a_claimant_answers_the_last_question_to_it_once() {
        let mut proof = Proof::new(1);
        let ask = |proof: &mut Proof, claimant| number_of(proof.ask_claimant(claimant));
        let first = ask(&mut proof, id(3));
        let second = ask(&mut proof, id(3));
        assert!(!proof.claims(id(3), first));
        assert!(!proof.claims(id(4), second));
        assert!(proof.claims(id(3), second));
        assert!(!proof.claims(id(3), second));
    }

    #[test]
    fn every_start_draws_numbers_of_its_own() {
        assert_ne!(number(&mut Proof::new(1)), number(&mut Proof::new(2)));
    }

    #[test]
    fn the_members_of_a_large_segment_do_not_all_ask_at_once() {
        for (members, at_once) in [(CROWD, true), (500, false)] {
            let mut proof = Proof::new(1);
            let known = number(&mut proof);
            proof.answers(known, &announcement(3, 7, members));
            assert!(proof.admits(&announcement(3, 7, members), NOW));
            assert!(!proof.admits(&announcement(4, 8, 1), NOW));
            let at = proof.poll_timeout().expect("it asks");
            assert_eq!(at == NOW, at_once);
            assert!(at <= NOW + SPREAD_PER_MEMBER * members);
        }
    }

    #[test]
    fn memory_is_bounded_however_many_leaders_there_seem_to_be() {
        let mut proof = Proof::new(1);
        let known = number(&mut proof);
        for leader in 0..=255 {
            proof.admits(&announcement(leader, 1, 1), NOW);
            proof.answers(known, &announcement(leader, 1, 1));
            assert!(proof.answered.len() <= LEADERS_MAX && proof.asks.len() <= LEADERS_MAX);
        }
    }
}
