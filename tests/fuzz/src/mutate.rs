//! Changes that break formats: bits, lengths, ends, repetitions, parts of other inputs.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

/// Numbers at which lengths and counters go wrong, as the variable-length form has them.
const NUMBERS: [u64; 12] =
    [0, 1, 2, 0x7f, 0x80, 0xff, 0x3fff, 0xffff, 1 << 31, u32::MAX as u64, u64::MAX / 2, u64::MAX];
/// Bytes of the same kind.
const BYTES: [u8; 8] = [0, 1, 2, 0x7f, 0x80, 0xfe, 0xff, b'/'];
/// Most changes that are made at once.
const CHANGES_MAX: u64 = 6;

/// Makes inputs of others.
#[derive(Debug)]
pub struct Mutator(ChaCha8Rng);

impl Mutator {
    /// Everything that it does follows from the seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end.max(1)).unwrap_or(u64::MAX);
        usize::try_from(self.0.next_u64() % end).unwrap_or(0)
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        let at = self.below(from.len());
        from.get(at)
    }

    /// The next input, of at most so many bytes.
    pub fn next(&mut self, sources: &[Vec<u8>], bytes_max: usize) -> Vec<u8> {
        let mut input = self.pick(sources).cloned().unwrap_or_default();
        // One change more often than many, which mostly break the first thing that is looked at.
        let changes = 1 + (self.0.next_u64() % CHANGES_MAX).min(self.0.next_u64() % CHANGES_MAX);
        for _ in 0..changes {
            self.change(&mut input, sources);
        }
        input.truncate(bytes_max);
        input
    }

    fn change(&mut self, input: &mut Vec<u8>, sources: &[Vec<u8>]) {
        let at = self.below(input.len());
        let span = 1 + self.below(16.min(input.len().saturating_sub(at)));
        let end = (at + span).min(input.len());
        match self.below(11) {
            0 | 1 => {
                let bit = self.below(8);
                if let Some(byte) = input.get_mut(at) {
                    *byte ^= 1 << bit;
                }
            }
            2 => {
                let value = self.pick(&BYTES).copied().unwrap_or_default();
                if let Some(byte) = input.get_mut(at) {
                    *byte = value;
                }
            }
            3 => {
                let step = if self.below(2) == 0 { 1_u8 } else { 0xff };
                if let Some(byte) = input.get_mut(at) {
                    *byte = byte.wrapping_add(step);
                }
            }
            4 => input.truncate(at),
            5 => drop(input.drain(at..end)),
            6 => {
                let again = input.get(at..end).unwrap_or_default().to_vec();
                input.splice(at..at, again);
            }
            7 => {
                let number = variable_length(self.pick(&NUMBERS).copied().unwrap_or_default());
                let replaced = if self.below(2) == 0 { at } else { (at + 1).min(input.len()) };
                input.splice(at..replaced, number);
            }
            8 => {
                let number = self.pick(&NUMBERS).copied().unwrap_or_default().to_le_bytes();
                let width = [2, 4, 8][self.below(3)];
                for (byte, value) in input.iter_mut().skip(at).zip(&number[..width]) {
                    *byte = *value;
                }
            }
            9 => {
                let random: Vec<u8> = (0..span).map(|_| self.0.next_u64().to_le_bytes()[0]).collect();
                input.splice(at..at, random);
            }
            _ => {
                let other = self.pick(sources).cloned().unwrap_or_default();
                let from = self.below(other.len());
                input.truncate(at);
                input.extend_from_slice(other.get(from..).unwrap_or_default());
            }
        }
    }
}

/// Seven bits in each byte, the lowest first.
fn variable_length(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = number.to_le_bytes()[0] & 0x7f;
        number >>= 7;
        if number == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_inputs_within_the_length() {
        let sources = vec![b"something".to_vec(), vec![0; 100], Vec::new()];
        let inputs = |seed| {
            let mut mutator = Mutator::new(seed);
            (0..1_000).map(|_| mutator.next(&sources, 64)).collect::<Vec<_>>()
        };
        assert_eq!(inputs(1), inputs(1));
        assert_ne!(inputs(1), inputs(2));
        assert!(inputs(3).iter().all(|input| input.len() <= 64));
    }

    #[test]
    fn numbers_have_the_form_that_the_decoder_reads() {
        for number in NUMBERS {
            assert_eq!(postcard::from_bytes(&variable_length(number)), Ok(number));
        }
    }
}
