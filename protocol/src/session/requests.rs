//! What was sent when, and what of it members want again.
//!
//! A symbol is wanted again only by a member that had the chance to hear its last transmission; a
//! request that was on its way while the symbol was repeated counts for nothing. For this the sequence
//! of each symbol's last transmission is kept: four bytes for each symbol sent.

use super::ranges::RangeSet;

/// The requests of a session.
#[derive(Debug, Default)]
pub(super) struct Requests {
    /// Sequence of the last transmission of each symbol that was sent, from the first.
    last_sent: Vec<u32>,
    /// Sequence of the last transmission of any that was sent again.
    last_repeated: u32,
    /// Asked for in the present round.
    wanted: RangeSet,
    /// Of earlier rounds, to be sent again.
    repairing: RangeSet,
}

impl Requests {
    /// All symbols below this were sent.
    pub(super) fn sent_through(&self) -> u32 {
        u32::try_from(self.last_sent.len()).unwrap_or(u32::MAX)
    }

    /// The next symbol was sent for the first time.
    pub(super) fn sent_first(&mut self, sequence: u32) {
        self.last_sent.push(sequence);
    }

    /// The symbols below this count as sent before the first sequence.
    pub(super) fn assume_sent(&mut self, symbols: u32) {
        self.last_sent.resize(symbols as usize, 0);
    }

    /// A symbol was sent again.
    pub(super) fn sent_again(&mut self, symbol: u32, sequence: u32) {
        self.repairing.remove(symbol..symbol + 1);
        self.last_repeated = sequence;
        if let Some(last_sent) = self.last_sent.get_mut(symbol as usize) {
            *last_sent = sequence;
        }
    }

    /// Whether anything is asked for in the present round.
    pub(super) fn any_wanted(&self) -> bool {
        !self.wanted.is_empty()
    }

    /// The first symbol to be sent again.
    pub(super) fn first_repair(&self) -> Option<u32> {
        self.repairing.first()
    }

    /// How many symbols are to be sent again.
    pub(super) fn repairs(&self) -> u32 {
        self.repairing.count()
    }

    /// Joins what a member misses, as far as it had the chance to hear it: it heard, or was asked after,
    /// everything up to the sequence `heard_through`. Returns whether anything is missing that is neither
    /// on its way nor to be sent again already.
    pub(super) fn want(&mut self, missing: &[(u32, u32)], heard_through: u32) -> bool {
        let mut new = Vec::new();
        let mut asks = false;
        for (first, count) in missing.iter().copied() {
            for gap in self.repairing.gaps(first..first.saturating_add(count)) {
                let mut from = gap.start;
                let sent = self.last_sent.get(gap.start as usize..gap.end as usize).unwrap_or_default();
                for (symbol, sequence) in gap.clone().zip(sent) {
                    if *sequence > heard_through {
                        new.push(from..symbol);
                        from = symbol + 1;
                    }
                }
                new.push(from..gap.end);
            }
        }
        for run in new {
            asks |= !run.is_empty();
            self.wanted.insert(run);
        }
        asks
    }

    /// How many of these symbols were last sent after `heard_through`: one who heard no further may still
    /// get them.
    pub(super) fn on_their_way(&self, symbols: impl Iterator<Item = u32>, heard_through: u32) -> u32 {
        let sent = symbols.filter_map(|symbol| self.last_sent.get(symbol as usize));
        u32::try_from(sent.filter(|sequence| **sequence > heard_through).count()).unwrap_or(u32::MAX)
    }

    /// How many of these symbols are to be sent again.
    pub(super) fn repairs_among(&self, symbols: impl Iterator<Item = u32>) -> u32 {
        if self.repairing.is_empty() {
            return 0;
        }
        u32::try_from(symbols.filter(|symbol| self.repairing.contains(*symbol)).count()).unwrap_or(u32::MAX)
    }

    /// Whether this symbol and all before it were last sent by then.
    pub(super) fn were_sent_by(&self, symbol: u32, heard_through: u32) -> bool {
        self.last_repeated <= heard_through
            && self.last_sent.get(symbol as usize).is_some_and(|sequence| *sequence <= heard_through)
    }

    /// Nothing is to be sent again.
    pub(super) fn cancel(&mut self) {
        self.wanted = RangeSet::new();
        self.repairing = RangeSet::new();
    }

    /// The round is over: what was wanted is to be sent again. Returns whether that was anything.
    pub(super) fn close_round(&mut self) -> bool {
        let wanted = std::mem::take(&mut self.wanted);
        for run in wanted.runs() {
            self.repairing.insert(run);
        }
        !wanted.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(symbols: u32) -> Requests {
        let mut requests = Requests::default();
        (1..=symbols).for_each(|sequence| requests.sent_first(sequence));
        requests
    }

    fn repairs(requests: &mut Requests) -> Vec<u32> {
        requests.close_round();
        requests.repairing.runs().flatten().collect()
    }

    #[test]
    fn what_several_ask_for_is_sent_again_once() {
        let mut requests = sent(10);
        requests.want(&[(2, 2), (7, 1)], 10);
        requests.want(&[(3, 3)], 10);
        assert_eq!(repairs(&mut requests), vec![2, 3, 4, 5, 7]);
        requests.want(&[(2, 6)], 10);
        assert_eq!(repairs(&mut requests), vec![2, 3, 4, 5, 6, 7]);
        assert!(!requests.close_round());
    }

    #[test]
    fn a_request_of_one_that_had_no_chance_to_hear_the_last_transmission_counts_for_nothing() {
        let mut requests = sent(10);
        requests.want(&[(0, 10)], 6);
        assert_eq!(repairs(&mut requests), vec![0, 1, 2, 3, 4, 5]);
        for (symbol, sequence) in (0..6).zip(11..) {
            requests.sent_again(symbol, sequence);
        }
        assert_eq!(requests.repairs(), 0);
        requests.want(&[(0, 10)], 13);
        assert_eq!(repairs(&mut requests), vec![0, 1, 2, 6, 7, 8, 9], "3, 4 and 5 are on their way");
    }
}
