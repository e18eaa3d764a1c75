//! Sums of symbols, each times a factor: what all work of the code comes down to.
//!
//! A factor's product with each value of a digit of four bits is looked up for 32 bytes by one instruction
//! (`swizzle`), low and high digit one by one. `fearless_simd` finds out at run time what the processor has, and
//! knows how to do without; no `unsafe` here.

use fearless_simd::{Level, Simd, SimdBase as _, dispatch, u8x16, u8x32};

use super::field::{MULTIPLES, Multiples};

/// Bytes that are worked on at a time: two registers, so that with the sums of [`ROWS_AT_ONCE`] rows and what
/// is looked up nothing needs to go through memory. A symbol of 1,328 bytes is 21 of these, less 16 bytes.
const TILE: usize = 64;
const HALF: usize = TILE / 2;

/// Rows of factors that are worked on at a time, for the same reason.
const ROWS_AT_ONCE: usize = 4;

type Tile = [u8; TILE];

/// Symbols of one length, cut into tiles. The first tiles of all symbols lie side by side, then all second
/// ones: in that order they are read.
pub(super) struct Symbols {
    /// Tiles of each.
    tiles: usize,
    /// For how many symbols there is room.
    room: usize,
    count: usize,
    bytes: Vec<Tile>,
}

impl Symbols {
    /// None yet, of a length in bytes, with room for so many.
    pub(super) fn new(bytes: usize, room: usize) -> Self {
        let tiles = bytes.div_ceil(TILE);
        Self { tiles, room, count: 0, bytes: vec![[0; TILE]; tiles * room] }
    }

    /// Adds one; what it is shorter than the others is zero.
    ///
    /// # Panics
    /// When there is no room for it.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        assert!(self.count < self.room, "there is room for {} symbols", self.room);
        let places = self.bytes.iter_mut().skip(self.count).step_by(self.room);
        for (place, piece) in places.zip(bytes.chunks(TILE)) {
            place[..piece.len()].copy_from_slice(piece);
        }
        self.count += 1;
    }

    /// Writes the bytes of one.
    pub(super) fn store(&self, number: usize, bytes: &mut [u8]) {
        let tiles = self.bytes.iter().skip(number).step_by(self.room.max(1));
        for (tile, piece) in tiles.zip(bytes.chunks_mut(TILE)) {
            piece.copy_from_slice(&tile[..piece.len()]);
        }
    }

    /// The sum of these symbols, each multiplied by its factor, for each row of factors.
    pub(super) fn times(&self, rows: &[Vec<u8>]) -> Self {
        let level = Level::new();
        let mut products = Self::new(self.tiles * TILE, rows.len());
        products.count = rows.len();
        for (group, rows) in rows.chunks(ROWS_AT_ONCE).enumerate() {
            // What each symbol is multiplied by, row by row; rows that there are not count as zeros.
            let factor = |symbol: usize| {
                let of = |row: usize| rows.get(row).and_then(|row| row.get(symbol)).copied().unwrap_or(0);
                std::array::from_fn(|row| &MULTIPLES[usize::from(of(row))])
            };
            let factors: Vec<[&Multiples; ROWS_AT_ONCE]> = (0..self.count).map(factor).collect();
            for at in 0..self.tiles {
                let column = &self.bytes[at * self.room..][..self.count];
                let sums = sums(level, column, &factors, rows.len());
                let places = &mut products.bytes[at * products.room + group * ROWS_AT_ONCE..][..rows.len()];
                places.copy_from_slice(&sums[..rows.len()]);
            }
        }
        products
    }
}

/// The sums of one column of tiles for up to [`ROWS_AT_ONCE`] rows.
fn sums(level: Level, column: &[Tile], factors: &[[&Multiples; ROWS_AT_ONCE]], rows: usize) -> [Tile; ROWS_AT_ONCE] {
    match rows {
        1 => dispatch!(level, simd => sums_with::<_, 1>(simd, column, factors)),
        2 => dispatch!(level, simd => sums_with::<_, 2>(simd, column, factors)),
        3 => dispatch!(level, simd => sums_with::<_, 3>(simd, column, factors)),
        _ => dispatch!(level, simd => sums_with::<_, ROWS_AT_ONCE>(simd, column, factors)),
    }
}

#[inline(always)]
fn sums_with<S: Simd, const ROWS: usize>(
    simd: S,
    column: &[Tile],
    factors: &[[&Multiples; ROWS_AT_ONCE]],
) -> [Tile; ROWS_AT_ONCE] {
    let digit = u8x32::splat(simd, 15);
    let mut sums = [[u8x32::splat(simd, 0); 2]; ROWS];
    for (tile, factors) in column.iter().zip(factors) {
        let halves = [u8x32::from_slice(simd, &tile[..HALF]), u8x32::from_slice(simd, &tile[HALF..])];
        let low = halves.map(|half| half & digit);
        let high = halves.map(|half| half >> 4);
        for (row, sums) in sums.iter_mut().enumerate() {
            let of_low = u8x32::block_splat(u8x16::from_slice(simd, &factors[row].low));
            let of_high = u8x32::block_splat(u8x16::from_slice(simd, &factors[row].high));
            for half in 0..2 {
                sums[half] = sums[half]
                    ^ of_low.swizzle_dyn_within_blocks(low[half])
                    ^ of_high.swizzle_dyn_within_blocks(high[half]);
            }
        }
    }
    let mut tiles = [[0; TILE]; ROWS_AT_ONCE];
    for (tile, [first, second]) in tiles.iter_mut().zip(sums) {
        first.store_slice(&mut tile[..HALF]);
        second.store_slice(&mut tile[HALF..]);
    }
    tiles
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::field::product;
    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_sum_is_what_multiplying_byte_by_byte_gives(
            symbols in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 1..20),
            rows in 0usize..11, seed in any::<u8>(),
        ) {
            let longest = symbols.iter().map(Vec::len).max().unwrap_or(0);
            let mut together = Symbols::new(longest, symbols.len() + 1);
            symbols.iter().for_each(|symbol| together.push(symbol));
            let factor = |row: usize, symbol: usize| (row * 31 + symbol * 7) as u8 ^ seed;
            let rows: Vec<Vec<u8>> =
                (0..rows).map(|row| (0..symbols.len()).map(|symbol| factor(row, symbol)).collect()).collect();
            let products = together.times(&rows);
            for (number, row) in rows.iter().enumerate() {
                let mut sum = vec![0; longest];
                products.store(number, &mut sum);
                for (at, byte) in sum.iter().enumerate() {
                    let expected = symbols.iter().zip(row).fold(0, |sum, (symbol, factor)| {
                        sum ^ product(symbol.get(at).copied().unwrap_or(0), *factor)
                    });
                    prop_assert_eq!(*byte, expected, "byte {} of row {}", at, number);
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "there is room for 1 symbols")]
    fn more_symbols_than_there_is_room_for_are_a_mistake() {
        let mut symbols = Symbols::new(10, 1);
        symbols.push(b"one");
        symbols.push(b"two");
    }
}
