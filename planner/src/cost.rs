//! What one possible copy operation costs (001 claim 30): the lowest score is chosen.
//!
//! All terms are whole numbers and none is negative, so that a search through candidates in rising
//! depth may stop as soon as depth alone costs more than the best seen so far.

/// What each term weighs. The defaults are in micro-hops: a million is one step of store and forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weights {
    /// For each step of store and forward between the destination and a holder of everything: each
    /// delays all chunks by the time of one.
    pub depth: u64,
    /// For the tightest resource on the path being full after the grant. It grows with the square of
    /// its use, so that what is half empty hardly counts and the last free bit is dear.
    pub scarcity: u64,
    /// For a source that has fewer chunks of the class than the destination: it could give nothing yet.
    pub useless: u64,
    /// For each millisecond by which the two are farther from each other than none (their distances
    /// from the CCM differ by so much, so their own is at least that).
    pub rtt_milli: u64,
    /// For a resource on the path all of whose recent transfers failed; less in proportion.
    pub fault: u64,
    /// For each place in the administrator's order.
    pub rank: u64,
    /// For leaving the region.
    pub abroad: u64,
}

impl Default for Weights {
    /// Depth counts most, as it delays everything below. A fault outweighs it. The rest decides among equals.
    fn default() -> Self {
        Self {
            depth: 1_000_000,
            scarcity: 50_000,
            useless: 3_000_000,
            rtt_milli: 2_000,
            fault: 5_000_000,
            rank: 1_000,
            abroad: 500_000,
        }
    }
}

/// What is known about a possible copy operation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Candidate {
    /// Steps of store and forward from a holder of everything to the source.
    pub depth: u32,
    /// Use of the tightest resource on the path after the grant, in thousandths of its capacity.
    pub use_permille: u64,
    /// Whether the source has fewer chunks of the class than the destination.
    pub behind: bool,
    /// By how much the distances from the CCM differ, in microseconds.
    pub rtt_micros: u32,
    /// Share of failures among recent transfers over the worst resource of the path, in thousandths.
    pub fault_permille: u32,
    /// The source's place in the administrator's order.
    pub rank: u16,
    /// Whether the two are in different regions.
    pub abroad: bool,
}

impl Weights {
    /// The score of a candidate; lower is better.
    #[must_use]
    pub fn score(&self, candidate: &Candidate) -> u64 {
        let scarcity = self.scarcity * candidate.use_permille * candidate.use_permille / 1_000_000;
        let useless = if candidate.behind { self.useless } else { 0 };
        let abroad = if candidate.abroad { self.abroad } else { 0 };
        self.at_depth(candidate.depth)
            + scarcity
            + useless
            + self.rtt_milli * u64::from(candidate.rtt_micros) / 1000
            + self.fault * u64::from(candidate.fault_permille) / 1000
            + self.rank * u64::from(candidate.rank)
            + abroad
    }

    /// What depth alone costs: no candidate of this depth scores less.
    #[must_use]
    pub fn at_depth(&self, depth: u32) -> u64 {
        self.depth * u64::from(depth)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_term_makes_a_candidate_dearer_and_a_faulty_path_is_dearer_than_a_detour() {
        let weights = Weights::default();
        let plain = Candidate::default();
        let dearer = [
            Candidate { depth: 1, ..plain },
            Candidate { use_permille: 900, ..plain },
            Candidate { behind: true, ..plain },
            Candidate { rtt_micros: 5_000, ..plain },
            Candidate { fault_permille: 100, ..plain },
            Candidate { rank: 1, ..plain },
            Candidate { abroad: true, ..plain },
        ];
        for candidate in dearer {
            assert!(weights.score(&candidate) > weights.score(&plain), "{candidate:?}");
        }
        let detour = Candidate { depth: 3, ..plain };
        let faulty = Candidate { fault_permille: 800, ..plain };
        assert!(weights.score(&detour) < weights.score(&faulty));
    }

    #[test]
    fn scarcity_is_convex() {
        let weights = Weights::default();
        let at = |use_permille| weights.score(&Candidate { use_permille, ..Candidate::default() });
        assert!(at(1000) - at(900) > at(500) - at(400));
    }
}
