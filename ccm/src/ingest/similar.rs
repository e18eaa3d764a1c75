//! Which old bytes help to say new ones in few: found by content, whatever files are called.
//!
//! A sketch of some bytes is the hashes of a sample of their short stretches; which stretches are in
//! the sample is decided by the stretches themselves, so that equal bytes give equal samples wherever
//! they stand. Old files are cut into units; of a block's new bytes the units are chosen that cover
//! most of its sketch, the best first, each counted only for what those before it left. A renamed
//! bundle finds its ancestor, a split one both halves, and near-copies are not taken twice.

use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

/// Bytes of a stretch that is hashed.
const STRETCH_BYTES: usize = 32;
/// Parts of some bytes that are gone through side by side.
const LANES: usize = 4;
/// Of 2 to the power of this many stretches, one is in the sample: as a rule, and at least.
const RATE_BITS_MIN: u32 = 8;
/// Most hashes that are kept of all old bytes together; beyond it the sample is thinned.
const HASHES_MAX: u64 = 4 << 20;
/// A hash that more units share says nothing about where bytes come from.
const OWNERS_MAX: usize = 8;
/// A unit must cover this part of its own sketch, in percent, to be worth what reading it costs.
const GAIN_PERCENT_MIN: usize = 3;

/// How stretches are sampled.
#[derive(Debug)]
pub(super) struct Sampling {
    gear: [u32; 256],
    mask: u32,
}

impl Sampling {
    /// For this many old bytes.
    pub(super) fn for_bytes(bytes: u64) -> Self {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let gear = std::array::from_fn(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            // The halves of a product are as good as each other here.
            (state.wrapping_mul(0x2545_f491_4f6c_dd1d) & u64::from(u32::MAX)) as u32
        });
        let mut bits = RATE_BITS_MIN;
        while bytes >> bits > HASHES_MAX {
            bits += 1;
        }
        // The rolling hash depends on the last 32 bytes; its highest bits, on all of them alike.
        Self { gear, mask: ((1 << bits) - 1) << (u32::BITS - bits) }
    }

    /// The sketch of some bytes.
    pub(super) fn sketch(&self, bytes: &[u8]) -> Vec<u64> {
        let mut sketch = Vec::with_capacity(bytes.len() >> RATE_BITS_MIN);
        // Each sum waits for the one before it, and a processor has room for several: parts of long
        // bytes are gone through side by side.
        let part = bytes.len() / LANES;
        let begins: [usize; LANES] = std::array::from_fn(|lane| lane * part);
        let parts = begins.map(|begin| &bytes[begin..begin + part]);
        // The first has nothing before it.
        let mut sums = begins.map(|begin| self.sum(&bytes[begin.saturating_sub(STRETCH_BYTES - 1)..begin]));
        let mut look = |sum: u32, at: usize| {
            if sum & self.mask == 0 && at + 1 >= STRETCH_BYTES {
                sketch.push(hash(&bytes[at + 1 - STRETCH_BYTES..=at]));
            }
        };
        let [one, two, three, four] = parts;
        for (at, (((one, two), three), four)) in one.iter().zip(two).zip(three).zip(four).enumerate() {
            for (lane, byte) in [one, two, three, four].into_iter().enumerate() {
                sums[lane] = self.next(sums[lane], *byte);
                look(sums[lane], begins[lane] + at);
            }
        }
        for (at, byte) in bytes.iter().enumerate().skip(LANES * part) {
            sums[LANES - 1] = self.next(sums[LANES - 1], *byte);
            look(sums[LANES - 1], at);
        }
        sketch
    }

    fn next(&self, sum: u32, byte: u8) -> u32 {
        (sum << 1).wrapping_add(self.gear[usize::from(byte)])
    }

    fn sum(&self, bytes: &[u8]) -> u32 {
        bytes.iter().fold(0, |sum, byte| self.next(sum, *byte))
    }
}

/// A stretch as one number: of strangers a few in a million million agree.
fn hash(stretch: &[u8]) -> u64 {
    stretch.chunks_exact(8).fold(0, |hash, word| {
        let word = u64::from_le_bytes(word.try_into().expect("eight bytes"));
        (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
    })
}

/// A unit of old bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unit {
    /// The old file, by number.
    pub(super) file: u32,
    /// First byte.
    pub(super) offset: u64,
    /// Number of bytes.
    pub(super) length: u32,
    /// Number of hashes in its sketch.
    hashes: u32,
}

/// Sketches of old units.
#[derive(Debug, Default)]
pub(super) struct Known {
    units: Vec<Unit>,
    /// Hash and unit; in order once it is [`Known::finish`]ed.
    owners: Vec<(u64, u32)>,
}

impl Known {
    /// Adds a unit with its sketch.
    pub(super) fn add(&mut self, file: u32, offset: u64, length: u32, mut sketch: Vec<u64>) {
        let number = u32::try_from(self.units.len()).expect("fewer units than bytes of old files");
        sketch.sort_unstable();
        sketch.dedup();
        self.units.push(Unit { file, offset, length, hashes: u32::try_from(sketch.len()).expect("a unit is short") });
        self.owners.extend(sketch.into_iter().map(|hash| (hash, number)));
    }

    /// Makes what was added ready to be asked.
    pub(super) fn finish(&mut self) {
        self.owners.sort_unstable();
    }

    fn owners_of(&self, hash: u64) -> impl Iterator<Item = u32> {
        let begin = self.owners.partition_point(|(other, _)| *other < hash);
        self.owners[begin..].iter().take_while(move |(other, _)| *other == hash).take(OWNERS_MAX).map(|(_, unit)| *unit)
    }

    /// Whether a twentieth of a sketch is known.
    pub(super) fn knows(&self, sketch: &[u64]) -> bool {
        let found = sketch.iter().filter(|hash| self.owners_of(**hash).next().is_some()).count();
        found > 0 && found * 20 >= sketch.len()
    }

    /// The units that help to say bytes with this sketch, in `bytes_max` together. Those of `first`
    /// (files of which these are new versions) are taken before others if they help at all.
    pub(super) fn choose(&self, mut sketch: Vec<u64>, first: &BTreeSet<u32>, bytes_max: u64) -> Vec<Unit> {
        sketch.sort_unstable();
        sketch.dedup();
        // Which hashes no chosen unit covers yet, and for each unit which it covers.
        let mut open = vec![true; sketch.len()];
        let mut owned: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
        let mut owners = &self.owners[..];
        for (at, hash) in sketch.iter().enumerate() {
            owners = &owners[advance(owners, *hash)..];
            for (_, unit) in owners.iter().take_while(|(other, _)| other == hash).take(OWNERS_MAX) {
                owned.entry(*unit).or_default().push(at);
            }
        }
        let mut chosen = Vec::new();
        let mut left = bytes_max;
        let mut take = |unit: u32, hashes: &[usize], open: &mut Vec<bool>| {
            let unit = self.units[unit as usize];
            if let Some(rest) = left.checked_sub(u64::from(unit.length)) {
                left = rest;
                chosen.push(unit);
                for at in hashes {
                    open[*at] = false;
                }
            }
        };
        for (unit, hashes) in &owned {
            if first.contains(&self.units[*unit as usize].file) {
                take(*unit, hashes, &mut open);
            }
        }
        owned.retain(|unit, _| !first.contains(&self.units[*unit as usize].file));
        let mut heap: BinaryHeap<(usize, u32)> = owned.iter().map(|(unit, hashes)| (hashes.len(), *unit)).collect();
        while let Some((_, number)) = heap.pop() {
            let hashes = &owned[&number];
            let gain = hashes.iter().filter(|at| open[**at]).count();
            // What it would gain may have become less since it was last looked at.
            if heap.peek().is_some_and(|(next, _)| *next > gain) {
                heap.push((gain, number));
                continue;
            }
            let worth = gain * 100 >= GAIN_PERCENT_MIN * self.units[number as usize].hashes as usize;
            if gain > 0 && worth {
                take(number, hashes, &mut open);
            }
        }
        chosen
    }
}

/// How many of these come before a hash. As a rule few: in steps that double, then by halves.
fn advance(owners: &[(u64, u32)], hash: u64) -> usize {
    let mut step = 1;
    while owners.get(step).is_some_and(|(other, _)| *other < hash) {
        step *= 2;
    }
    let begin = step / 2;
    begin + owners[begin..owners.len().min(step + 1)].partition_point(|(other, _)| *other < hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(seed: u64, bytes: usize) -> Vec<u8> {
        let mut noise = vec![0; bytes];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut noise);
        noise
    }

    fn known(sampling: &Sampling, files: &[&[u8]]) -> Known {
        let mut known = Known::default();
        for (number, bytes) in (0..).zip(files) {
            known.add(number, 0, u32::try_from(bytes.len()).unwrap(), sampling.sketch(bytes));
        }
        known.finish();
        known
    }

    fn chosen(known: &Known, sketch: Vec<u64>, first: &[u32], bytes_max: u64) -> Vec<u32> {
        let units = known.choose(sketch, &first.iter().copied().collect(), bytes_max);
        units.into_iter().map(|unit| unit.file).collect()
    }

    #[test]
    fn about_one_stretch_in_256_is_in_a_sketch_and_fewer_of_huge_trees() {
        let bytes = noise(1, 1 << 20);
        let count = Sampling::for_bytes(0).sketch(&bytes).len();
        assert!((3600..4600).contains(&count), "{count}");
        let thin = Sampling::for_bytes(16 << 30).sketch(&bytes).len();
        assert!((180..340).contains(&thin), "{thin}");
    }

    #[test]
    fn bytes_find_where_they_come_from_wherever_they_stand() {
        let sampling = Sampling::for_bytes(0);
        let files = [noise(1, 60_000), noise(2, 60_000), noise(3, 60_000)];
        let known = known(&sampling, &[&files[0], &files[1], &files[2]]);
        let made_of_two = [&noise(9, 777)[..], &files[2][..30_000], b"new", &files[0][..20_000]].concat();
        assert_eq!(chosen(&known, sampling.sketch(&made_of_two), &[], 1 << 20), [2, 0]);
        assert_eq!(chosen(&known, sampling.sketch(&made_of_two), &[0], 1 << 20), [0, 2], "its old version first");
        assert_eq!(chosen(&known, sampling.sketch(&made_of_two), &[], 100_000), [2], "no more than there is room for");
        assert_eq!(chosen(&known, sampling.sketch(&noise(5, 60_000)), &[1], 1 << 20), [0_u32; 0]);
    }

    #[test]
    fn a_sketch_is_that_of_every_stretch_wherever_bytes_are_parted() {
        let sampling = Sampling::for_bytes(0);
        let bytes = noise(3, 9_001);
        for length in [0, 1, 31, 32, 33, 63, 127, 128, 200, 1000, 9_001] {
            let bytes = &bytes[..length];
            let one_by_one = bytes.windows(STRETCH_BYTES).filter(|stretch| sampling.sum(stretch) & sampling.mask == 0);
            let mut expected: Vec<u64> = one_by_one.map(hash).collect();
            let mut sketch = sampling.sketch(bytes);
            expected.sort_unstable();
            sketch.sort_unstable();
            assert_eq!(sketch, expected, "{length} bytes");
        }
    }

    #[test]
    fn advancing_stops_at_the_first_that_is_not_before() {
        let owners: Vec<(u64, u32)> = [2, 4, 4, 6, 8, 8, 8, 10].iter().map(|hash| (*hash, 0)).collect();
        for length in 0..=owners.len() {
            for hash in 0..12 {
                let expected = owners[..length].partition_point(|(other, _)| *other < hash);
                assert_eq!(advance(&owners[..length], hash), expected, "{hash} among {length}");
            }
        }
    }

    #[test]
    fn a_near_copy_of_what_is_taken_is_not_taken_too() {
        let sampling = Sampling::for_bytes(0);
        let one = noise(1, 100_000);
        let other = [&one[..99_000], &noise(2, 1000)[..]].concat();
        let known = known(&sampling, &[&one, &other]);
        assert_eq!(chosen(&known, sampling.sketch(&one), &[], 1 << 30), [0]);
    }
}
