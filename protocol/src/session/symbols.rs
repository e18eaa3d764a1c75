//! How long the symbols of a session can be: as long as every member's interface takes.

use super::{HEADER_BYTES, SYMBOL_BYTES, SYMBOL_BYTES_MAX, SYMBOL_BYTES_MIN, TAG_BYTES};

/// Headers of IPv6 and UDP: the longest that there are below a frame.
const LOWER_BYTES: u32 = 48;
/// Interfaces that carry this much are believed to be meant for jumbo frames, and the default symbol, which leaves
/// room for a tunnel, is not lengthened for less.
const JUMBO_MTU_MIN: u32 = 2_000;

/// The length of symbols when the interfaces of leader and members carry packets of these lengths; one that does
/// not say counts as carrying what every network does.
pub(crate) fn symbol_bytes_for(mtus: impl IntoIterator<Item = Option<u32>>) -> u16 {
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
    fn with_its_headers_no_frame_is_longer_than_the_interface_takes() {
        for mtu in 600..10_000 {
            let symbol = u32::from(symbol_bytes_for([Some(mtu)]));
            assert!(symbol + 88 <= mtu, "{symbol} on {mtu}");
        }
    }
}
