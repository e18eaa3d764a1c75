//! What the content interpreter promises, on real directories.

mod audit;
mod bad_input;
mod crash;
mod excluded;
mod fixture;
mod hostile;
mod leftover;
mod lone;
mod places;
mod publish;
mod references;
mod try_out;
mod undo;

/// How live is switched in the tests above.
const SWITCH: super::Switch = super::Switch::Exchange;

/// The same promises where live is a link.
#[path = "tests"]
#[allow(clippy::duplicate_mod, reason = "each promise holds for both ways of switching")]
mod by_link {
    mod audit;
    mod bad_input;
    mod crash;
    mod excluded;
    mod fixture;
    mod hostile;
    mod leftover;
    mod publish;
    mod references;
    mod try_out;
    mod undo;

    const SWITCH: crate::content::Switch = crate::content::Switch::Symlink;
}
