//! How members of a large session keep from answering all at once.
//!
//! In a small one everybody answers every question. In a large one a member waits for a random time,
//! short for few and long for most, and stays silent when meanwhile the leader's plan
//! ([`Message::Plan`](super::Message::Plan)) covers what it lacks: those who lack most speak, the leader
//! repeats to all what it is going to send, and that silences the rest (as NORM's members are silenced
//! by each other's requests; here the leader's word is heard by all, while requests are unicast). Few
//! answer by lot though they lack nothing, so that the leader knows how the rate is borne. Who is asked
//! by name always answers.

use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::Rng as _;

/// Sessions of more members than this suppress answers. 32: so many small datagrams in a millisecond
/// are no burden.
pub const MEMBERS_ANSWERING_MAX: u16 = 32;
/// Shortest window of a large session: many times the way to the leader and back, for silence comes by
/// its word.
const WINDOW_MIN: Duration = Duration::from_millis(10);
const WINDOW_MAX: Duration = Duration::from_millis(100);
const WINDOW_PER_MEMBER: Duration = Duration::from_micros(20);
/// Nobody answers sooner: until then reordered frames arrive, and the leader's plan.
const DELAY_MIN: Duration = Duration::from_millis(1);
/// So many answer a frame's question by lot, on the average.
const BY_LOT: u64 = 3;

/// The members of a large session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Large {
    members: u16,
}

impl Large {
    /// `None` when the session is small.
    pub(super) fn of(members: u16) -> Option<Self> {
        (members > MEMBERS_ANSWERING_MAX).then_some(Self { members })
    }

    /// Over what time answers are spread.
    pub(super) fn window(self) -> Duration {
        (WINDOW_PER_MEMBER * u32::from(self.members)).clamp(WINDOW_MIN, WINDOW_MAX)
    }

    /// When to acknowledge. All may be complete at the same moment, and each must say so.
    pub(super) fn acknowledgement_delay(self, chance: &mut ChaCha8Rng) -> Duration {
        let spread = WINDOW_PER_MEMBER * u32::from(self.members);
        spread.min(WINDOW_MAX).mul_f64(f64::from(chance.next_u32()) / f64::from(u32::MAX))
    }

    /// Whether a member that lacks so many symbols of a block is about to raise what will be sent, when
    /// `usual` were sent the last time.
    pub(super) fn lacks_most(self, lacking: u32, usual: u32) -> bool {
        lacking >= usual - usual / 8
    }

    /// When to speak, if nothing makes it superfluous: those who lack most before all others. The times
    /// are exponentially dense towards the end: of however many members, few come in the beginning (RFC
    /// 5401 shows the form).
    pub(super) fn delay(self, lacks_most: bool, chance: &mut ChaCha8Rng) -> Duration {
        let lambda = f64::from(self.members).ln() + 1.0;
        let part = f64::from(chance.next_u32()) / f64::from(u32::MAX);
        let share = (part * lambda.exp_m1()).ln_1p() / lambda;
        let half = if lacks_most { 0.0 } else { 0.5 };
        DELAY_MIN + (self.window() - DELAY_MIN).mul_f64((half + share / 2.0).clamp(0.0, 1.0))
    }

    /// Whether this member answers by lot.
    pub(super) fn is_drawn(self, chance: &mut ChaCha8Rng) -> bool {
        chance.next_u64() % u64::from(self.members) < BY_LOT
    }

    /// How many are asked by name at once: as many answers as the leader takes in a pass, and half of it.
    pub(super) fn named_at_once(self) -> usize {
        2 * self.members.ilog2() as usize
    }
}

#[cfg(test)]
mod tests {
    use rand_chacha::rand_core::SeedableRng as _;

    use super::*;

    #[test]
    fn of_however_many_members_few_speak_first() {
        assert_eq!(Large::of(MEMBERS_ANSWERING_MAX), None);
        let mut chance = ChaCha8Rng::seed_from_u64(1);
        for members in [50, 200, 1000, 60_000] {
            let large = Large::of(members).expect("many");
            let delays: Vec<Duration> = (0..members).map(|_| large.delay(true, &mut chance)).collect();
            assert!(delays.iter().all(|delay| (DELAY_MIN..=large.window()).contains(delay)));
            let latest = *delays.iter().max().expect("some");
            assert!((0..100).all(|_| large.delay(false, &mut chance) >= latest), "the others come later");
            let first = *delays.iter().min().expect("some");
            let soon = delays.iter().filter(|delay| **delay < first + large.window() / 40).count();
            assert!(soon <= 8, "{soon} of {members} at once");
            let drawn = (0..members).filter(|_| large.is_drawn(&mut chance)).count();
            assert!(drawn <= 10, "{drawn} of {members} by lot");
        }
        let large = Large::of(1000).expect("many");
        assert_eq!([6, 7, 8, 9].map(|lacking| large.lacks_most(lacking, 8)), [false, true, true, true]);
        assert!(large.lacks_most(0, 0), "nobody knows yet");
        assert_eq!(Large::of(1000).map(Large::window), Some(Duration::from_millis(20)));
        assert_eq!(Large::of(1000).map(Large::named_at_once), Some(18));
    }
}
