//! The readers of this crate that nothing outside of it can reach, each by itself. For those who try them with
//! damaged bytes (`tests/fuzz`); nothing else comes by here.

use crate::chunk::ChunkTable;
use crate::store::bitmap::Bitmap;

/// `DIGEST.bitmap`: which chunks of an unfinished object are verified. Read as the store does, and written
/// again as it was understood; `None` when the bytes are refused.
#[must_use]
pub fn bitmap(bytes: &[u8], table: &ChunkTable) -> Option<Vec<u8>> {
    Bitmap::from_bytes(bytes, table).map(|bitmap| bitmap.to_bytes(table))
}
