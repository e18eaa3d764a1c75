//! How long the symbols of a session are: as long as every member's interface can take.

use super::{Failure, HEADER_BYTES, SYMBOL_BYTES, SYMBOL_BYTES_MAX, SYMBOL_BYTES_MIN, TAG_BYTES};

/// Headers of IPv6 and UDP: the longest that there are below a frame.
const LOWER_BYTES: u32 = 48;
/// Interfaces that carry this much are believed to be meant for jumbo frames, and the default symbol, which leaves
/// room for a tunnel, is not lengthened for less.
const JUMBO_MTU_MIN: u32 = 2_000;

/// How a leader chooses the length of symbols: as long as all interfaces take, until it shows that something between
/// does not carry what they do.
#[derive(Debug, Clone, Copy, Default)]
pub struct SymbolLength {
    gave_long_up: bool,
}

impl SymbolLength {
    /// The length for a session of servers whose interfaces carry packets of these lengths.
    #[must_use]
    pub fn of(self, mtus: impl IntoIterator<Item = Option<u32>>) -> u16 {
        let length = symbol_bytes_for(mtus);
        if self.gave_long_up { length.min(SYMBOL_BYTES) } else { length }
    }

    /// A member was not served with symbols of this length. Returns whether that is why long ones are given up from
    /// here on: it answered, and nothing of what it was sent reached it.
    pub fn failed(&mut self, symbol_bytes: u16, failure: Failure) -> bool {
        let is_deaf = match failure {
            Failure::Fruitless | Failure::Stalled | Failure::Straggling => true,
            Failure::Silent | Failure::Declined | Failure::Gone | Failure::Exhausted => false,
        };
        let gives_up = is_deaf && symbol_bytes > SYMBOL_BYTES && !self.gave_long_up;
        self.gave_long_up |= gives_up;
        gives_up
    }
}

/// The length of symbols when the interfaces of leader and members carry packets of these lengths; one that does
/// not say counts as carrying what every network does.
fn symbol_bytes_for(mtus: impl IntoIterator<Item = Option<u32>>) -> u16 {
    let mtus = mtus.into_iter().map(|mtu| mtu.unwrap_or(0));
    // Nobody: nothing is known.
    let Some(least) = mtus.min() else { return SYMBOL_BYTES };
    if least == 0 {
        return SYMBOL_BYTES;
    }
    let room = least.saturating_sub(LOWER_BYTES + (HEADER_BYTES + TAG_BYTES) as u32);
    let room = u16::try_from(room).unwrap_or(u16::MAX);
    if least >= JUMBO_MTU_MIN { room.min(SYMBOL_BYTES_MAX) } else { room.clamp(SYMBOL_BYTES_MIN, SYMBOL_BYTES) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symbols_are_as_long_as_the_smallest_interface_takes() {
        let of = |mtus: &[u32]| symbol_bytes_for(mtus.iter().copied().map(Some));
        assert_eq!(of(&[1_500, 1_500]), SYMBOL_BYTES);
        assert_eq!(of(&[9_000, 9_000, 9_000]), SYMBOL_BYTES_MAX);
        assert_eq!(of(&[65_536, 65_536]), SYMBOL_BYTES_MAX, "a loopback");
        assert_eq!(of(&[9_000, 1_500, 9_000]), SYMBOL_BYTES, "one does not take more");
        assert_eq!(of(&[4_000, 9_000]), 4_000 - 88);
        assert_eq!(of(&[1_280, 9_000]), 1_280 - 88, "frames are never fragmented");
        assert_eq!(of(&[400]), SYMBOL_BYTES_MIN, "no IPv4 interface takes less");
        assert_eq!(symbol_bytes_for([Some(9_000), None]), SYMBOL_BYTES, "one does not say");
        assert_eq!(symbol_bytes_for([]), SYMBOL_BYTES);
    }

    #[test]
    fn long_symbols_are_given_up_once_when_a_member_answers_and_gets_none_of_them() {
        let mut length = SymbolLength::default();
        let jumbo = || [Some(9_000), Some(9_000)];
        assert!(!length.failed(SYMBOL_BYTES, Failure::Fruitless), "shorter ones would not help it");
        assert!(!length.failed(SYMBOL_BYTES_MAX, Failure::Silent), "it may be dead");
        assert_eq!(length.of(jumbo()), SYMBOL_BYTES_MAX);
        assert!(length.failed(SYMBOL_BYTES_MAX, Failure::Fruitless));
        assert_eq!((length.of(jumbo()), length.of([Some(1_280)])), (SYMBOL_BYTES, 1_280 - 88));
        assert!(!length.failed(SYMBOL_BYTES_MAX, Failure::Fruitless), "that is known");
    }

    #[test]
    fn with_its_headers_no_frame_is_longer_than_the_interface_takes() {
        for mtu in 600..10_000 {
            let symbol = u32::from(symbol_bytes_for([Some(mtu)]));
            assert!(symbol + 88 <= mtu, "{symbol} on {mtu}");
        }
    }
}
