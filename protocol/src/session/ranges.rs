//! A set of symbol numbers, kept as runs: what a member holds, what is still to be sent.
//!
//! Symbols arrive mostly in order and losses are few, so runs stay far smaller than a bitmap of the
//! object would be.

use std::collections::BTreeMap;
use std::ops::Range;

/// A set of symbol numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RangeSet {
    /// First number of each run and the number after its last. Runs neither touch nor overlap.
    runs: BTreeMap<u32, u32>,
    count: u32,
}

impl RangeSet {
    /// The empty set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many numbers are in it.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Whether it holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The smallest number in it.
    #[must_use]
    pub fn first(&self) -> Option<u32> {
        self.runs.keys().next().copied()
    }

    /// Whether it holds this number.
    #[must_use]
    pub fn contains(&self, number: u32) -> bool {
        self.runs.range(..=number).next_back().is_some_and(|(_, end)| number < *end)
    }

    /// Its runs in ascending order.
    pub fn runs(&self) -> impl Iterator<Item = Range<u32>> + '_ {
        self.runs.iter().map(|(start, end)| *start..*end)
    }

    /// Adds a run. Returns how many of its numbers were new.
    pub fn insert(&mut self, range: Range<u32>) -> u32 {
        if range.is_empty() {
            return 0;
        }
        let (mut start, mut end) = (range.start, range.end);
        let mut known = 0;
        // From the back: every run that begins at or before the end and reaches the start is joined.
        while let Some((other_start, other_end)) = self.runs.range(..=end).next_back().map(|(s, e)| (*s, *e)) {
            if other_end < start {
                break;
            }
            self.runs.remove(&other_start);
            known += other_end.min(range.end).saturating_sub(other_start.max(range.start));
            start = start.min(other_start);
            end = end.max(other_end);
        }
        self.runs.insert(start, end);
        let new = (range.end - range.start) - known;
        self.count += new;
        new
    }

    /// Takes a run out. Returns how many of its numbers were in the set.
    pub fn remove(&mut self, range: Range<u32>) -> u32 {
        if range.is_empty() {
            return 0;
        }
        let mut removed = 0;
        while let Some((start, end)) = self.runs.range(..range.end).next_back().map(|(s, e)| (*s, *e)) {
            if end <= range.start {
                break;
            }
            self.runs.remove(&start);
            removed += end.min(range.end) - start.max(range.start);
            if range.end < end {
                self.runs.insert(range.end, end);
            }
            if start < range.start {
                self.runs.insert(start, range.start);
            }
        }
        self.count -= removed;
        removed
    }

    /// Takes the smallest number out.
    pub fn pop_first(&mut self) -> Option<u32> {
        let (start, end) = self.runs.pop_first()?;
        if start + 1 < end {
            self.runs.insert(start + 1, end);
        }
        self.count -= 1;
        Some(start)
    }

    /// The runs of `within` that are not in the set, in ascending order.
    pub fn gaps(&self, within: Range<u32>) -> impl Iterator<Item = Range<u32>> + '_ {
        let before = self.runs.range(..=within.start).next_back();
        let mut at = before.map_or(within.start, |(_, end)| within.start.max(*end));
        let mut later = self.runs.range(within.start.saturating_add(1)..);
        std::iter::from_fn(move || {
            while at < within.end {
                let (start, end) = later.next().map_or((within.end, within.end), |(start, end)| (*start, *end));
                let gap = at..start.min(within.end);
                at = end.max(at);
                if !gap.is_empty() {
                    return Some(gap);
                }
            }
            None
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_does_what_a_plain_set_of_numbers_does(
            steps in proptest::collection::vec((any::<bool>(), 0u32..120, 0u32..30), 0..60),
            from in 0u32..130, length in 0u32..60,
        ) {
            let mut set = RangeSet::new();
            let mut model = BTreeSet::new();
            for (insert, first, count) in steps {
                let range = first..first + count;
                if insert {
                    let new = range.clone().filter(|n| model.insert(*n)).count();
                    prop_assert_eq!(set.insert(range) as usize, new);
                } else {
                    let removed = range.clone().filter(|n| model.remove(n)).count();
                    prop_assert_eq!(set.remove(range) as usize, removed);
                }
                prop_assert_eq!(set.count() as usize, model.len());
                prop_assert_eq!(set.runs().flatten().collect::<BTreeSet<_>>(), model.clone());
                prop_assert_eq!(set.first(), model.first().copied());
            }
            let runs: Vec<_> = set.runs().collect();
            prop_assert!(runs.windows(2).all(|pair| pair[0].end < pair[1].start), "runs never touch: {:?}", runs);
            let within = from..from + length;
            let missing: Vec<u32> = within.clone().filter(|n| !model.contains(n)).collect();
            prop_assert_eq!(set.gaps(within).flatten().collect::<Vec<_>>(), missing);
            for number in 0..160 {
                prop_assert_eq!(set.contains(number), model.contains(&number));
            }
            let first = model.pop_first();
            prop_assert_eq!(set.pop_first(), first);
            prop_assert_eq!(set.runs().flatten().collect::<BTreeSet<_>>(), model);
        }
    }

    #[test]
    fn the_largest_symbol_numbers_are_held_like_any_other() {
        let mut set = RangeSet::new();
        assert_eq!(set.insert(0..u32::MAX), u32::MAX);
        assert_eq!(set.remove(5..6), 1);
        assert_eq!(set.gaps(0..u32::MAX).collect::<Vec<_>>(), vec![5..6]);
    }
}
