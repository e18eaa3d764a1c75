//! Assignments that carry neither commands nor data: commit, undo, rollback.

use common::assignment::{Draft, Kind, head};
use common::keys::PublishKey;

/// The whole file of an order. Counts and digests of the header are filled in, all else stands as
/// given. A few hundred bytes for a small group.
///
/// # Panics
/// When the kind is one that needs commands, which is the caller's mistake.
#[must_use]
pub fn build_order(header: Draft, key: &PublishKey) -> Vec<u8> {
    match header.kind {
        Kind::Commit { .. } | Kind::Undo { .. } | Kind::Rollback => {}
        Kind::Prepare | Kind::Inventory => panic!("a {:?} has commands and is no order", header.kind),
    }
    head(Draft { space_bytes: 0, ..header }, &[], &[], key).expect("packing nothing takes next to no memory")
}
