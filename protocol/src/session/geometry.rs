//! How an object is cut: into symbols, and the symbols into the blocks that parity protects.
//!
//! Symbols are sent in the object's order. The blocks of a *group* are interleaved: of `lanes` blocks,
//! the first has every `lanes`-th symbol of the group from its first, the second from its second, and
//! so on. A burst of losses therefore falls on all blocks of a group and not on one, and nothing has
//! to be sent out of order for it.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::{SYMBOL_BYTES_MAX, SYMBOL_BYTES_MIN};

/// Most symbols of a block that an object is cut into.
///
/// 200: with its parity a block has at most 256 symbols, the elements of the field that the code
/// calculates in. Longer blocks cost less parity (5 % lost at 16 members: 8 % at 200, 12 % at 64), and
/// leave fewer parity symbols for those who lose much.
pub const BLOCK_SYMBOLS: u8 = 200;
/// Most blocks that are interleaved. 8: a burst of 46 frames, which one large segment is cut into,
/// takes six symbols of each.
pub const LANES: u8 = 8;
/// Most lanes that an announcement may name.
const LANES_MAX: u8 = 64;
/// Most blocks of an object: a parity frame names its block with 24 bits.
const BLOCKS_MAX: u64 = 1 << 24;

/// How an announcement says how the object is cut, and for how many members.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// Length of a symbol in bytes.
    pub symbol_bytes: u16,
    /// Symbols of a block; 0 when there is no parity: then repair is by name.
    pub block_symbols: u8,
    /// How many blocks are interleaved; 0 when there is no parity.
    pub lanes: u8,
    /// How many members the session is for; many suppress each other's reports.
    pub members: u16,
}

/// How symbols fall into blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Blocks {
    block_symbols: u8,
    lanes: u8,
}

impl Blocks {
    fn group_symbols(self) -> u64 {
        u64::from(self.block_symbols) * u64::from(self.lanes)
    }
}

/// How an object is cut into symbols and blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    length: u64,
    symbol_bytes: u16,
    symbols: u32,
    blocks: Option<Blocks>,
}

/// Why an object cannot be cut like that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GeometryError {
    /// Outside [`SYMBOL_BYTES_MIN`] to [`SYMBOL_BYTES_MAX`].
    #[error("symbols of {symbol_bytes} bytes are outside {SYMBOL_BYTES_MIN} to {SYMBOL_BYTES_MAX}")]
    SymbolBytes {
        /// The length asked for.
        symbol_bytes: u16,
    },
    /// More symbols or blocks than their numbers can count.
    #[error("an object of {length} bytes has too many symbols of {symbol_bytes} bytes")]
    TooLong {
        /// Its length.
        length: u64,
        /// Length of a symbol.
        symbol_bytes: u16,
    },
    /// Blocks that leave no parity, or more lanes than this version reads.
    #[error("blocks of {block_symbols} symbols in {lanes} lanes are not read by this version")]
    Blocks {
        /// Symbols of a block.
        block_symbols: u8,
        /// Blocks that are interleaved.
        lanes: u8,
    },
}

impl Geometry {
    /// An object of `length` bytes in symbols of `symbol_bytes`, without blocks.
    ///
    /// # Errors
    /// [`GeometryError`] when the symbol length is out of bounds or there would be `u32::MAX` symbols
    /// or more.
    pub fn new(length: u64, symbol_bytes: u16) -> Result<Self, GeometryError> {
        if !(SYMBOL_BYTES_MIN..=SYMBOL_BYTES_MAX).contains(&symbol_bytes) {
            return Err(GeometryError::SymbolBytes { symbol_bytes });
        }
        let symbols = u32::try_from(length.div_ceil(u64::from(symbol_bytes))).unwrap_or(u32::MAX);
        if symbols == u32::MAX {
            return Err(GeometryError::TooLong { length, symbol_bytes });
        }
        Ok(Self { length, symbol_bytes, symbols, blocks: None })
    }

    /// The same object in blocks of at most [`BLOCK_SYMBOLS`], as equal as can be, [`LANES`] of them
    /// interleaved. An empty object, or one of more blocks than can be named, stays without.
    #[must_use]
    pub fn with_blocks(self) -> Self {
        let symbols = u64::from(self.symbols);
        let wanted = symbols.div_ceil(u64::from(BLOCK_SYMBOLS));
        if wanted == 0 || wanted + u64::from(LANES) > BLOCKS_MAX {
            return Self { blocks: None, ..self };
        }
        let lanes = wanted.min(u64::from(LANES));
        let groups = symbols.div_ceil(lanes * u64::from(BLOCK_SYMBOLS));
        let block_symbols = symbols.div_ceil(groups * lanes);
        let narrow = |number: u64| u8::try_from(number).unwrap_or(BLOCK_SYMBOLS);
        Self { blocks: Some(Blocks { block_symbols: narrow(block_symbols), lanes: narrow(lanes) }), ..self }
    }

    /// An object of `length` bytes, cut as an announcement says.
    ///
    /// # Errors
    /// [`GeometryError`] when no leader of this version cuts like that.
    pub fn announced(length: u64, layout: Layout) -> Result<Self, GeometryError> {
        let Layout { symbol_bytes, block_symbols, lanes, members: _ } = layout;
        let geometry = Self::new(length, symbol_bytes)?;
        if (block_symbols, lanes) == (0, 0) {
            return Ok(geometry);
        }
        if block_symbols == 0 || block_symbols == u8::MAX || !(1..=LANES_MAX).contains(&lanes) {
            return Err(GeometryError::Blocks { block_symbols, lanes });
        }
        let geometry = Self { blocks: Some(Blocks { block_symbols, lanes }), ..geometry };
        if u64::from(geometry.symbols) / u64::from(block_symbols) + 2 * u64::from(lanes) > BLOCKS_MAX {
            return Err(GeometryError::TooLong { length, symbol_bytes });
        }
        Ok(geometry)
    }

    /// What an announcement to so many members says of this.
    #[must_use]
    pub fn layout(&self, members: usize) -> Layout {
        let (block_symbols, lanes) = self.blocks.map_or((0, 0), |blocks| (blocks.block_symbols, blocks.lanes));
        let members = u16::try_from(members).unwrap_or(u16::MAX);
        Layout { symbol_bytes: self.symbol_bytes, block_symbols, lanes, members }
    }

    /// Length of the object in bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Length of every symbol but the last, in bytes.
    #[must_use]
    pub fn symbol_bytes(&self) -> u16 {
        self.symbol_bytes
    }

    /// Number of symbols.
    #[must_use]
    pub fn symbols(&self) -> u32 {
        self.symbols
    }

    /// Where a symbol begins in the object, in bytes.
    #[must_use]
    pub fn offset(&self, symbol: u32) -> u64 {
        u64::from(symbol) * u64::from(self.symbol_bytes)
    }

    /// Length of a symbol in bytes; 0 when there is no such symbol.
    #[must_use]
    pub fn payload_bytes(&self, symbol: u32) -> u16 {
        let left = self.length.saturating_sub(self.offset(symbol));
        u16::try_from(left).map_or(self.symbol_bytes, |left| left.min(self.symbol_bytes))
    }

    /// The whole symbols within the first `bytes` of the object: what may be sent when so much of it
    /// is here.
    #[must_use]
    pub fn symbols_within(&self, bytes: u64) -> u32 {
        if bytes >= self.length {
            return self.symbols;
        }
        u32::try_from(bytes / u64::from(self.symbol_bytes)).unwrap_or(self.symbols)
    }

    /// The symbols that hold any of these bytes, as (first, count): what a wrong chunk takes with it.
    #[must_use]
    pub fn symbols_of(&self, offset: u64, bytes: u64) -> (u32, u32) {
        let symbol_bytes = u64::from(self.symbol_bytes);
        let end = offset.saturating_add(bytes).min(self.length);
        if offset >= end {
            return (0, 0);
        }
        let number = |symbol: u64| u32::try_from(symbol).unwrap_or(self.symbols).min(self.symbols);
        let first = number(offset / symbol_bytes);
        (first, number(end.div_ceil(symbol_bytes)) - first)
    }

    /// Whether parity protects the object.
    #[must_use]
    pub fn is_coded(&self) -> bool {
        self.blocks.is_some()
    }

    /// Number of blocks; 0 without parity.
    #[must_use]
    pub fn block_count(&self) -> u32 {
        let Some(blocks) = self.blocks else { return 0 };
        let whole = u64::from(self.symbols) / blocks.group_symbols();
        let rest = u64::from(self.symbols) % blocks.group_symbols();
        narrow(whole * u64::from(blocks.lanes) + rest.min(u64::from(blocks.lanes)))
    }

    /// How many parity symbols a block can have; 0 without parity.
    #[must_use]
    pub fn parity_symbols(&self) -> u32 {
        self.blocks.map_or(0, |blocks| 256 - u32::from(blocks.block_symbols))
    }

    /// The block of a symbol; `None` without parity or without such a symbol.
    #[must_use]
    pub fn block_of(&self, symbol: u32) -> Option<u32> {
        let blocks = self.blocks.filter(|_| symbol < self.symbols)?;
        let (group, lane) = (u64::from(symbol) / blocks.group_symbols(), u64::from(symbol) % u64::from(blocks.lanes));
        Some(narrow(group * u64::from(blocks.lanes) + lane))
    }

    /// The symbols of a block in their order; empty without such a block.
    pub fn block_symbols(&self, block: u32) -> impl Iterator<Item = u32> + Clone + use<> {
        let group = self.group_symbols(block);
        let lanes = self.blocks.map_or(1, |blocks| u32::from(blocks.lanes));
        let first = group.start.saturating_add(block % lanes);
        (first..group.end).step_by(lanes as usize)
    }

    /// The symbols of a block's group: its own and those of the blocks that it is interleaved with. None
    /// where there is no such block.
    #[must_use]
    pub fn group_symbols(&self, block: u32) -> Range<u32> {
        match self.blocks.filter(|_| block < self.block_count()) {
            Some(blocks) => {
                let start = u64::from(block / u32::from(blocks.lanes)) * blocks.group_symbols();
                narrow(start)..narrow((start + blocks.group_symbols()).min(u64::from(self.symbols)))
            }
            None => 0..0,
        }
    }

    /// How many symbols a block has.
    #[must_use]
    pub fn block_length(&self, block: u32) -> u32 {
        let symbols = self.block_symbols(block).size_hint().0;
        u32::try_from(symbols).unwrap_or(u32::MAX)
    }

    /// Length of a block's parity symbols in bytes: that of its longest symbol, which is the first.
    #[must_use]
    pub fn parity_bytes(&self, block: u32) -> u16 {
        self.block_symbols(block).next().map_or(0, |symbol| self.payload_bytes(symbol))
    }

    /// The blocks, from the first on, that lie wholly within the first `symbols` symbols: those whose
    /// group does.
    #[must_use]
    pub fn blocks_within(&self, symbols: u32) -> u32 {
        if symbols >= self.symbols {
            return self.block_count();
        }
        self.blocks.map_or(0, |blocks| narrow(u64::from(symbols) / blocks.group_symbols() * u64::from(blocks.lanes)))
    }

    /// How many symbols a run has in each block that it touches, in the order of the blocks.
    pub(super) fn run_in_blocks(&self, run: std::ops::Range<u32>) -> Vec<(u32, u32)> {
        let Some(blocks) = self.blocks else { return Vec::new() };
        let (group_symbols, lanes) = (blocks.group_symbols(), u64::from(blocks.lanes));
        let (mut at, end) = (u64::from(run.start), u64::from(run.end.min(self.symbols)));
        let mut counts = Vec::new();
        while at < end {
            let group = at / group_symbols;
            let stop = end.min((group + 1) * group_symbols);
            for lane in 0..lanes {
                // The numbers below n whose remainder by `lanes` is this lane.
                let below = |n: u64| (n + lanes - 1 - lane) / lanes;
                let count = below(stop - group * group_symbols) - below(at - group * group_symbols);
                if count > 0 {
                    counts.push((narrow(group * lanes + lane), narrow(count)));
                }
            }
            at = stop;
        }
        counts
    }
}

/// Numbers of symbols and blocks fit: [`Geometry::new`] has seen to it.
fn narrow(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::super::SYMBOL_BYTES;
    use super::*;

    #[test]
    fn the_last_symbol_is_as_long_as_what_is_left() {
        let geometry = Geometry::new(2 * 1328 + 5, SYMBOL_BYTES).expect("fits");
        assert_eq!(geometry.symbols(), 3);
        assert_eq!([0, 1, 2, 3].map(|symbol| geometry.payload_bytes(symbol)), [1328, 1328, 5, 0]);
        assert_eq!(geometry.offset(2), 2656);
        assert_eq!([0, 1327, 1328, 2660, 2661].map(|bytes| geometry.symbols_within(bytes)), [0, 0, 1, 2, 3]);
        assert_eq!(geometry.symbols_of(1327, 2), (0, 2));
        assert_eq!(geometry.symbols_of(1328, 9999), (1, 2));
        assert_eq!(geometry.symbols_of(9999, 1), (0, 0));
        assert_eq!(Geometry::new(0, SYMBOL_BYTES).expect("fits").symbols(), 0);
        assert_eq!(Geometry::new(1328, SYMBOL_BYTES).expect("fits").symbols(), 1);
    }

    #[test]
    fn an_object_that_cannot_be_numbered_is_refused() {
        for symbol_bytes in [0, SYMBOL_BYTES_MIN - 1, SYMBOL_BYTES_MAX + 1] {
            assert_eq!(Geometry::new(1, symbol_bytes), Err(GeometryError::SymbolBytes { symbol_bytes }));
        }
        let most = u64::from(u32::MAX - 1) * 1328;
        assert!(Geometry::new(most, SYMBOL_BYTES).is_ok_and(|geometry| !geometry.with_blocks().is_coded()));
        for length in [most + 1, u64::MAX] {
            assert_eq!(Geometry::new(length, SYMBOL_BYTES), Err(GeometryError::TooLong { length, symbol_bytes: 1328 }));
        }
    }

    fn coded(symbols: u64) -> Geometry {
        Geometry::new(symbols * 1328, SYMBOL_BYTES).expect("fits").with_blocks()
    }

    #[test]
    fn blocks_are_as_equal_as_can_be_and_eight_of_them_are_interleaved() {
        let lengths = |symbols: u64| {
            let geometry = coded(symbols);
            (0..geometry.block_count()).map(|block| geometry.block_length(block)).collect::<Vec<_>>()
        };
        assert_eq!(lengths(0), Vec::<u32>::new());
        assert_eq!(lengths(1), vec![1]);
        assert_eq!(lengths(200), vec![200]);
        assert_eq!(lengths(201), vec![101, 100]);
        assert_eq!(lengths(1601).iter().sum::<u32>(), 1601);
        assert_eq!(lengths(1601).len(), 16);
        assert!(lengths(1601).iter().all(|length| (95..=101).contains(length)));
        let geometry = coded(3200);
        assert_eq!(geometry.block_symbols(9).take(3).collect::<Vec<_>>(), vec![1601, 1609, 1617]);
        assert_eq!((geometry.block_of(1609), geometry.block_of(3200)), (Some(9), None));
        assert_eq!([1599, 1600, 3199, 3200].map(|sent| geometry.blocks_within(sent)), [0, 8, 8, 16]);
    }

    #[test]
    fn an_announcement_is_read_back_and_one_that_leaves_no_parity_is_refused() {
        let geometry = coded(12_345);
        assert_eq!(Geometry::announced(geometry.length(), geometry.layout(3)), Ok(geometry));
        let plain = Geometry::new(9, SYMBOL_BYTES).expect("fits");
        assert_eq!(Geometry::announced(9, plain.layout(3)), Ok(plain));
        for (block_symbols, lanes) in [(0, 1), (1, 0), (255, 8), (200, 65)] {
            let layout = Layout { block_symbols, lanes, ..plain.layout(3) };
            assert_eq!(Geometry::announced(9, layout), Err(GeometryError::Blocks { block_symbols, lanes }));
        }
        let layout = Layout { block_symbols: 1, lanes: 1, ..plain.layout(3) };
        assert!(matches!(Geometry::announced(1328 << 24, layout), Err(GeometryError::TooLong { .. })));
    }

    proptest! {
        #[test]
        fn every_symbol_is_in_exactly_one_block(symbols in 1u64..5000, from in 0u32..5000, count in 0u32..4000) {
            let geometry = coded(symbols);
            let mut seen = BTreeMap::new();
            for block in 0..geometry.block_count() {
                let length = geometry.block_length(block);
                prop_assert!((1..=u32::from(BLOCK_SYMBOLS)).contains(&length));
                prop_assert_eq!(length as usize, geometry.block_symbols(block).count());
                for symbol in geometry.block_symbols(block) {
                    prop_assert_eq!(geometry.block_of(symbol), Some(block));
                    prop_assert!(seen.insert(symbol, block).is_none());
                }
            }
            prop_assert_eq!(seen.len() as u64, symbols);
            let mut expected = BTreeMap::new();
            for (_, block) in seen.range(from..from + count) {
                *expected.entry(*block).or_insert(0u32) += 1;
            }
            prop_assert_eq!(geometry.run_in_blocks(from..from + count).into_iter().collect::<BTreeMap<_, _>>(), expected);
            for block in 0..geometry.blocks_within(from.min(symbols as u32)) {
                prop_assert!(geometry.block_symbols(block).all(|symbol| symbol < from));
            }
        }
    }
}
