//! The multicast session: one object from the group leader to all members of its segment, reliably
//! (002, "Local distribution").
//!
//! The leader sends the object's symbols in order, all members listen, and each says what it is
//! missing. The leader joins the requests and sends each wanted symbol once more in the next pass,
//! however many members asked for it; passes repeat until nobody lacks anything. Members are
//! registered already, so data follows the announcement at once; during a long first pass repair
//! rides in the stream, so that the end needs few further passes.
//!
//! In reading order: the numbers of an object ([`Geometry`]), what is said ([`Message`]), what is
//! sent ([`FrameHeader`]), the leader's side ([`Sender`]) with its rate ([`rate`]), the member's
//! side ([`Receiver`]).
//!
//! Holds: a frame's sequence never repeats within a session; a symbol is repeated only when a member
//! that had the chance to hear its last transmission asks for it; a dead member delays nobody beyond
//! [`SenderConfig::silence_min`]; a member acknowledges only after its driver confirmed that the
//! object is verified and durable.
//!
//! Leaves to others: sealing and opening frames, reading and writing symbols, chunk digests, tickets
//! and their signatures, who is a member, mending failed members by unicast. Repair is by named
//! symbols; parity would be another frame kind, and another way to choose what a repair pass sends.

mod frame;
mod members;
mod message;
#[cfg(test)]
mod promises;
mod ranges;
pub mod rate;
mod receiver;
mod refusal;
mod requests;
mod sender;
mod sender_config;
#[cfg(test)]
mod sender_tests;
#[cfg(test)]
mod simulation;

pub use frame::{FrameFlags, FrameHeader, HEADER_BYTES, HeaderError, LOWER_HEADER_BYTES, TAG_BYTES};
pub use members::Failure;
pub use message::{LIST_BYTES_MAX, Message, Poll, Roll, Status};
pub use ranges::RangeSet;
pub use receiver::{Accepted, Output as ReceiverOutput, Receiver, ReceiverConfig, Refused};
pub use refusal::StatusRefused;
pub use sender::{Announcement, Frame, Output as SenderOutput, Sender};
pub use sender_config::SenderConfig;

/// Default length of a symbol in bytes.
///
/// 1,328: with header, tag, and the headers of IP and UDP a frame is 1,396 bytes long, which leaves
/// room for IPv6, VLAN tags and a tunnel below an MTU of 1,500. Frames are never fragmented.
pub const SYMBOL_BYTES: u16 = 1328;
/// Shortest symbol in bytes: fits the smallest MTU of IPv4.
pub const SYMBOL_BYTES_MIN: u16 = 512;
/// Longest symbol in bytes: fits jumbo frames of 9,000.
pub const SYMBOL_BYTES_MAX: u16 = 8896;

const _: () = assert!(SYMBOL_BYTES as usize + HEADER_BYTES + TAG_BYTES + LOWER_HEADER_BYTES <= 1400);
const _: () = assert!(SYMBOL_BYTES_MAX as usize + HEADER_BYTES + TAG_BYTES + LOWER_HEADER_BYTES <= 9000);

/// How an object is cut into symbols.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    length: u64,
    symbol_bytes: u16,
    symbols: u32,
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
    /// More symbols than their number can count.
    #[error("an object of {length} bytes has too many symbols of {symbol_bytes} bytes")]
    TooLong {
        /// Its length.
        length: u64,
        /// Length of a symbol.
        symbol_bytes: u16,
    },
}

impl Geometry {
    /// An object of `length` bytes in symbols of `symbol_bytes`.
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
        Ok(Self { length, symbol_bytes, symbols })
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
}

#[cfg(test)]
mod tests {
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
        assert!(Geometry::new(most, SYMBOL_BYTES).is_ok());
        for length in [most + 1, u64::MAX] {
            assert_eq!(Geometry::new(length, SYMBOL_BYTES), Err(GeometryError::TooLong { length, symbol_bytes: 1328 }));
        }
    }
}
