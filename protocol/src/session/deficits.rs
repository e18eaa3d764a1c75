//! How much parity each block still needs: the most that any member lacks.
//!
//! Each parity symbol mends another loss at each member, so a block is sent as many as the member that
//! lacks most of it, and not as many as all lack together. A report that was made before some parity
//! could be heard is counted as if it had been: what was sent after it, and what is to be sent, is taken
//! off. For this the sequences of parity transmissions are kept, four bytes for each.

use std::collections::{BTreeMap, BTreeSet};

/// What a block was sent and is to be sent.
#[derive(Debug, Default)]
struct Block {
    /// Sequences of its parity transmissions.
    sent: Vec<u32>,
    /// Of earlier rounds, to be sent.
    pending: u32,
    /// Asked for in the present round, beyond that.
    wanted: u32,
}

/// Parity that is asked for and sent.
#[derive(Debug, Default)]
pub(super) struct Deficits {
    blocks: BTreeMap<u32, Block>,
    pending: BTreeSet<u32>,
    wanted: BTreeSet<u32>,
}

/// What is known of the loss that parity will meet on its way.
pub(super) struct Forecast<'a> {
    /// How many symbols a block has.
    pub(super) block_symbols: &'a dyn Fn(u32) -> u32,
    /// The worst loss that was measured in this session, in parts per million, if any was.
    pub(super) measured_ppm: Option<u32>,
}

impl Forecast<'_> {
    /// Extra parity for the share of it that will be lost, too: as much as is expected, and one deviation.
    /// The share is what the block has lost so far, for loss comes in bursts; but who was away for a while
    /// lacks half a block without anything being lost, so it is at most twice of what was measured.
    fn margin(&self, block: u32, short: u32, sent: u32) -> u32 {
        let lost = f64::from(sent + short);
        let of_block = lost / (f64::from((self.block_symbols)(block)) + lost);
        let measured = self.measured_ppm.map_or(1.0, |ppm| 2.0 * f64::from(ppm) / 1e6);
        let expected = f64::from(short) * of_block.min(measured);
        (expected + expected.sqrt()).ceil() as u32
    }
}

impl Deficits {
    /// A member lacks so many symbols of a block; `on_their_way` of the object's own may still reach it,
    /// and of parity what was sent after the sequence `heard_through`. Returns whether it lacks more than
    /// is on its way or to be sent already.
    pub(super) fn want(&mut self, block: u32, deficit: u32, on_their_way: u32, heard_through: u32) -> bool {
        let state = self.blocks.entry(block).or_default();
        let later = state.sent.iter().rev().take_while(|sequence| **sequence > heard_through).count();
        let later = u32::try_from(later).unwrap_or(u32::MAX);
        let short = deficit.saturating_sub(on_their_way.saturating_add(later).saturating_add(state.pending));
        if short > 0 {
            state.wanted = state.wanted.max(short);
            self.wanted.insert(block);
        }
        short > 0
    }

    /// Whether anything is asked for in the present round.
    pub(super) fn any_wanted(&self) -> bool {
        !self.wanted.is_empty()
    }

    /// The round is over: what was wanted is to be sent, and with a forecast extra parity for what will be
    /// lost of it. Returns whether anything was wanted.
    pub(super) fn close_round(&mut self, forecast: Option<&Forecast<'_>>) -> bool {
        let wanted = std::mem::take(&mut self.wanted);
        for block in &wanted {
            let state = self.blocks.entry(*block).or_default();
            let sent = u32::try_from(state.sent.len()).unwrap_or(u32::MAX);
            let extra = forecast.map_or(0, |forecast| forecast.margin(*block, state.wanted, sent));
            state.pending += std::mem::take(&mut state.wanted) + extra;
            self.pending.insert(*block);
        }
        !wanted.is_empty()
    }

    /// The first block that parity is to be sent of, how many times it was sent before, and how many are
    /// to be sent.
    pub(super) fn first(&self) -> Option<(u32, u32, u32)> {
        let block = *self.pending.first()?;
        let state = self.blocks.get(&block)?;
        Some((block, u32::try_from(state.sent.len()).unwrap_or(u32::MAX), state.pending))
    }

    /// Parity of this block was sent.
    pub(super) fn sent(&mut self, block: u32, sequence: u32) {
        let state = self.blocks.entry(block).or_default();
        state.sent.push(sequence);
        state.pending = state.pending.saturating_sub(1);
        if state.pending == 0 {
            self.pending.remove(&block);
        }
    }

    /// Whether nothing is to be sent.
    pub(super) fn is_spent(&self) -> bool {
        self.pending.is_empty()
    }

    /// How many parity symbols are to be sent.
    pub(super) fn pending(&self) -> u32 {
        self.pending.iter().filter_map(|block| self.blocks.get(block)).map(|state| state.pending).sum()
    }

    /// Nothing is to be sent that was asked for so far.
    pub(super) fn cancel(&mut self) {
        for block in std::mem::take(&mut self.pending).into_iter().chain(std::mem::take(&mut self.wanted)) {
            let state = self.blocks.entry(block).or_default();
            (state.pending, state.wanted) = (0, 0);
        }
    }

    /// What is to be sent of each block, this round's wants included.
    pub(super) fn plan(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        let blocks: BTreeSet<u32> = self.pending.union(&self.wanted).copied().collect();
        blocks.into_iter().filter_map(|block| {
            let state = self.blocks.get(&block)?;
            Some((block, state.pending + state.wanted))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXACTLY: Option<&Forecast<'_>> = None;

    #[test]
    fn a_block_is_sent_as_much_as_the_member_that_lacks_most_of_it() {
        let mut deficits = Deficits::default();
        for (block, lacking) in [(4, 2), (4, 7), (4, 5), (1, 1)] {
            assert!(deficits.want(block, lacking, 0, 10));
        }
        assert_eq!(deficits.plan().collect::<Vec<_>>(), vec![(1, 1), (4, 7)]);
        assert!(deficits.close_round(EXACTLY));
        assert_eq!((deficits.pending(), deficits.first()), (8, Some((1, 0, 1))));
        deficits.sent(1, 11);
        assert_eq!(deficits.first(), Some((4, 0, 7)), "older blocks first");
        assert!(!deficits.close_round(EXACTLY));
    }

    #[test]
    fn what_is_on_its_way_or_planned_is_not_asked_for_twice() {
        let mut deficits = Deficits::default();
        deficits.want(0, 5, 0, 10);
        deficits.close_round(EXACTLY);
        deficits.sent(0, 11);
        deficits.sent(0, 12);
        assert!(!deficits.want(0, 5, 0, 10), "two were sent after it spoke, three are to be sent");
        assert!(!deficits.want(0, 3, 0, 12));
        assert!(!deficits.want(0, 4, 1, 12), "one of the block's own is on its way");
        assert!(deficits.want(0, 4, 0, 12), "it lost one");
        deficits.close_round(EXACTLY);
        assert_eq!(deficits.first(), Some((0, 2, 4)));
        deficits.cancel();
        assert!(deficits.is_spent());
        assert!(deficits.want(0, 1, 0, 12));
    }

    #[test]
    fn at_the_end_some_more_is_sent_for_what_will_be_lost_of_it() {
        let mut deficits = Deficits::default();
        let unknown = Forecast { block_symbols: &|_| 200, measured_ppm: None };
        deficits.want(0, 10, 0, 10);
        deficits.close_round(Some(&unknown));
        assert_eq!(deficits.pending(), 10 + 2);
        assert_eq!([unknown.margin(0, 1, 0), unknown.margin(0, 20, 0)], [1, 4]);
    }

    #[test]
    fn who_was_away_and_not_on_a_bad_line_is_sent_no_more_than_it_lacks() {
        let forecast = |ppm| Forecast { block_symbols: &|_| 200, measured_ppm: Some(ppm) };
        assert_eq!(forecast(0).margin(0, 100, 0), 0);
        assert_eq!(forecast(10_000).margin(0, 100, 0), 2 + 2, "one in a hundred is lost, at the worst two");
        assert_eq!(forecast(300_000).margin(0, 20, 0), 4, "this block fared better");
    }
}
