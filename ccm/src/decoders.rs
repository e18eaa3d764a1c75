//! The readers of this crate that nothing outside of it can reach, each by itself: what a CCM finds in its own
//! files. For those who try them with damaged bytes (`tests/fuzz`); the CCM itself does not come by here.
//!
//! Each reads as the CCM does and writes what it understood again; `None` when the bytes are refused.

use crate::ingest::{index, stored};

/// `indexes/SITE`: what the last scan saw.
#[must_use]
pub fn scan_index(bytes: &[u8]) -> Option<Vec<u8>> {
    index::to_bytes(&index::parse(bytes)?)
}

/// One of `content/manifests/`.
#[must_use]
pub fn manifest(bytes: &[u8]) -> Option<Vec<u8>> {
    stored::reread(bytes)
}
