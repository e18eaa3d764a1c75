//! What a member holds: symbols, and parity of the blocks that are not whole yet.

use std::collections::{BTreeMap, BTreeSet};

use super::Geometry;
use super::codec::Restoration;
use super::message::gaps;
use super::ranges::RangeSet;

/// A member that lacks more than one symbol in so many of a block names them: that many parity symbols would have to
/// be made, and solved for by each member, and mend little of what others lack.
const NAMED_SHARE: u32 = 4;

/// The parity of a block that is not whole.
#[derive(Debug, Clone, Default)]
struct Parity {
    here: BTreeSet<u8>,
    /// One above the highest heard; the later ones are still to come.
    next: u32,
    /// The block's symbols that are missing.
    missing: u32,
    /// The driver has been told how to restore the block, and has not said yet how that went.
    is_restoring: bool,
}

/// What a report lists.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Lacking {
    /// Runs of symbols that must be sent by name.
    pub(super) named: Vec<(u32, u32)>,
    /// Blocks and how many symbols they lack.
    pub(super) deficits: Vec<(u32, u32)>,
}

/// What a member holds of an object.
#[derive(Debug)]
pub(super) struct Holdings {
    geometry: Geometry,
    held: RangeSet,
    parity: BTreeMap<u32, Parity>,
    /// Blocks with symbols that were found wrong: parity made good use of before may be wrong as well.
    tainted: BTreeSet<u32>,
}

impl Holdings {
    pub(super) fn new(geometry: Geometry) -> Self {
        Self { geometry, held: RangeSet::new(), parity: BTreeMap::new(), tainted: BTreeSet::new() }
    }

    pub(super) fn held(&self) -> &RangeSet {
        &self.held
    }

    pub(super) fn is_whole(&self) -> bool {
        self.held.count() == self.geometry.symbols()
    }

    /// Symbols held, and parity that will stand for as many.
    pub(super) fn worth(&self) -> u32 {
        let parity: u32 = self.parity.values().map(|parity| count(&parity.here).min(parity.missing)).sum();
        self.held.count() + parity
    }

    /// Takes a symbol. Returns whether it is new.
    pub(super) fn insert(&mut self, symbol: u32) -> bool {
        let new = self.held.insert(symbol..symbol + 1) == 1;
        if new
            && let Some(block) = self.geometry.block_of(symbol)
            && let Some(parity) = self.parity.get_mut(&block)
        {
            parity.missing = parity.missing.saturating_sub(1);
        }
        new
    }

    /// Takes a run of symbols that is here already.
    pub(super) fn insert_run(&mut self, first: u32, end: u32) {
        self.held.insert(first..end);
        let blocks: Vec<u32> = self.parity.keys().copied().collect();
        for block in blocks {
            let missing = self.missing(block);
            if missing.is_empty() {
                self.parity.remove(&block);
            } else if let Some(parity) = self.parity.get_mut(&block) {
                parity.missing = count(&missing);
            }
        }
    }

    /// Takes a parity symbol. Returns whether it is of use.
    pub(super) fn insert_parity(&mut self, block: u32, index: u8) -> bool {
        if self.tainted.contains(&block) {
            return false;
        }
        if !self.parity.contains_key(&block) {
            let missing = count(&self.missing(block));
            if missing == 0 {
                return false;
            }
            self.parity.insert(block, Parity { missing, ..Parity::default() });
        }
        let parity = self.parity.entry(block).or_default();
        parity.next = parity.next.max(u32::from(index) + 1);
        parity.here.insert(index)
    }

    fn missing(&self, block: u32) -> Vec<u32> {
        let mut symbols = self.geometry.block_symbols(block);
        let (Some(first), step) = (symbols.next(), symbols.next()) else { return Vec::new() };
        let step = step.map_or(1, |second| second - first);
        let end = first + (self.geometry.block_length(block) - 1) * step + 1;
        let in_block = |run: std::ops::Range<u32>| {
            let start = run.start + (step - (run.start - first) % step) % step;
            (start..run.end).step_by(step as usize)
        };
        self.held.gaps(first..end).flat_map(in_block).collect()
    }

    /// How the block can be restored, once enough of it is here. Said once: what comes in the same batch is of
    /// no use any more.
    pub(super) fn restoration(&mut self, block: u32) -> Option<Restoration> {
        let parity = self.parity.get(&block)?;
        if parity.is_restoring || parity.missing == 0 || count(&parity.here) < parity.missing {
            return None;
        }
        let missing = self.missing(block);
        let parity = self.parity.get_mut(&block)?;
        parity.is_restoring = true;
        let parity = parity.here.iter().copied().take(missing.len()).collect();
        Some(Restoration { block, missing, parity })
    }

    /// The block is whole.
    pub(super) fn restored(&mut self, block: u32) {
        for symbol in self.missing(block) {
            self.held.insert(symbol..symbol + 1);
        }
        self.parity.remove(&block);
    }

    /// Drops a block's parity if the block is whole without it.
    pub(super) fn settle(&mut self, symbol: u32) {
        if let Some(block) = self.geometry.block_of(symbol)
            && self.parity.get(&block).is_some_and(|parity| parity.missing == 0)
        {
            self.parity.remove(&block);
        }
    }

    /// The block cannot be restored: its parity is given up, and its symbols are asked for by name.
    pub(super) fn taint(&mut self, block: u32) {
        self.parity.remove(&block);
        self.tainted.insert(block);
    }

    /// These symbols are wrong. Returns how many of them were held.
    pub(super) fn remove(&mut self, first: u32, end: u32) -> u32 {
        let removed = self.held.remove(first..end);
        if removed > 0 {
            for (block, _) in self.geometry.run_in_blocks(first..end) {
                self.taint(block);
            }
        }
        removed
    }

    /// What is lacking of the first `through` symbols: with parity, of the blocks that lie wholly within
    /// them. Blocks that what is left of their parity cannot mend are named symbol by symbol.
    pub(super) fn lacking(&self, through: u32) -> Lacking {
        if !self.geometry.is_coded() {
            return Lacking { named: gaps(&self.held, 0..through).collect(), deficits: Vec::new() };
        }
        let blocks = self.geometry.blocks_within(through);
        let mut missing = BTreeMap::new();
        for gap in self.held.gaps(0..through) {
            for (block, symbols) in self.geometry.run_in_blocks(gap) {
                if block < blocks {
                    *missing.entry(block).or_insert(0) += symbols;
                }
            }
        }
        let mut deficits = Vec::new();
        let mut named = RangeSet::new();
        for (block, missing) in missing {
            let (here, next) = self.parity.get(&block).map_or((0, 0), |parity| (count(&parity.here), parity.next));
            let lacking = missing.saturating_sub(here);
            let left = self.geometry.parity_symbols().saturating_sub(next);
            let is_much = lacking * NAMED_SHARE > self.geometry.block_length(block);
            if self.tainted.contains(&block) || lacking > left || is_much {
                for symbol in self.missing(block) {
                    named.insert(symbol..symbol + 1);
                }
            } else if lacking > 0 {
                deficits.push((block, lacking));
            }
        }
        let named = named.runs().map(|run| (run.start, run.end - run.start)).collect();
        Lacking { named, deficits }
    }
}

/// Blocks are short.
fn count<'a, T: 'a>(items: impl IntoIterator<Item = &'a T>) -> u32 {
    u32::try_from(items.into_iter().count()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::SYMBOL_BYTES;
    use super::*;

    fn holdings(symbols: u64) -> Holdings {
        let geometry = Geometry::new(symbols * u64::from(SYMBOL_BYTES), SYMBOL_BYTES).expect("fits").with_blocks();
        Holdings::new(geometry)
    }

    #[test]
    fn as_many_parity_symbols_as_are_missing_restore_a_block_and_one_less_does_not() {
        let mut holdings = holdings(400);
        holdings.insert_run(0, 390);
        assert_eq!(holdings.lacking(400).deficits, vec![(0, 5), (1, 5)]);
        for index in 0..4 {
            assert!(holdings.insert_parity(1, index));
            assert!(!holdings.insert_parity(1, index), "heard before");
            assert_eq!(holdings.restoration(1), None);
        }
        assert_eq!(holdings.lacking(400).deficits, vec![(0, 5), (1, 1)]);
        assert_eq!(holdings.worth(), 394);
        assert!(holdings.insert(391));
        let restoration = Restoration { block: 1, missing: vec![393, 395, 397, 399], parity: vec![0, 1, 2, 3] };
        assert_eq!(holdings.restoration(1), Some(restoration));
        assert!(holdings.insert_parity(1, 4));
        assert_eq!(holdings.restoration(1), None, "it is being restored");
        holdings.restored(1);
        assert_eq!((holdings.worth(), holdings.restoration(1)), (395, None));
        assert!(!holdings.insert_parity(1, 9), "of no use any more");
        assert_eq!(holdings.lacking(400), Lacking { named: vec![], deficits: vec![(0, 5)] });
    }

    #[test]
    fn a_block_counts_only_when_it_was_sent_whole() {
        let mut holdings = holdings(3200);
        holdings.insert_run(10, 1700);
        assert_eq!(holdings.lacking(1599), Lacking::default());
        let expected = vec![(0, 2), (1, 2), (2, 1), (3, 1), (4, 1), (5, 1), (6, 1), (7, 1)];
        assert_eq!(holdings.lacking(1601).deficits, expected);
    }

    #[test]
    fn what_parity_cannot_mend_or_is_much_is_named() {
        let mut holdings = holdings(200);
        assert_eq!(holdings.lacking(200).named, vec![(0, 200)], "56 parity symbols are too few");
        holdings.insert_run(51, 200);
        assert_eq!(holdings.lacking(200).named, vec![(0, 51)], "more than a quarter of the block");
        holdings.insert_run(50, 51);
        assert_eq!(holdings.lacking(200).deficits, vec![(0, 50)]);
        holdings.insert_parity(0, 7);
        assert_eq!(holdings.lacking(200).named, vec![(0, 50)], "seven were lost, 48 are left for 49");
        assert_eq!(holdings.remove(100, 101), 1);
        holdings.insert_run(0, 50);
        assert_eq!(holdings.lacking(200), Lacking { named: vec![(100, 1)], deficits: vec![] }, "found wrong");
        assert!(!holdings.insert_parity(0, 9), "parity of it is not believed");
    }
}
