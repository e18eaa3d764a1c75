//! Assignments that carry neither commands nor data: commit, undo, rollback, audit, discard.

use common::assignment::{Draft, Effect, Kind, head};
use common::digest::Version;
use common::keys::PublishKey;

/// The whole file of an order that leads to `result`. A few hundred bytes for a small group.
///
/// # Panics
/// When the kind is one that needs commands, which is the caller's mistake.
#[must_use]
pub fn build_order(draft: Draft, result: Version, key: &PublishKey) -> Vec<u8> {
    match draft.kind {
        Kind::Commit { .. } | Kind::Undo { .. } | Kind::Rollback | Kind::Audit { .. } | Kind::Discard => {}
        Kind::Prepare | Kind::Inventory | Kind::Alone => panic!("a {:?} has commands and is no order", draft.kind),
    }
    head(draft, Effect::of_order(result), &[], &[], key).expect("packing nothing takes next to no memory")
}
