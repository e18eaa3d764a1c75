//! From a staging tree to an assignment.
//!
//! In reading order: what a tree is, of any size ([`tree`]); what is there ([`scan`], with `walk`, `walked` and
//! `index` behind it) and where its bytes and trees are kept ([`content`], with `batch` and [`stored`]), or both for
//! a directory as it is ([`directory`]); what is different ([`compare`], for people [`diff`] and [`text`]); which
//! steps lead from one
//! tree to the other (`plan`) and which old files help to say so in few bytes (`old`, with `similar`
//! behind it); the finished file ([`build`], with [`level`], `pack` and `spool` behind it); the assignments without data
//! ([`inventory`], [`order`]).
//!
//! Leaves to others: when any of this happens, what the numbers and targets in the header are, and
//! sending the result.

mod batch;
pub mod build;
pub mod compare;
pub mod content;
pub mod diff;
pub mod directory;
pub(crate) mod index;
pub mod inventory;
pub mod level;
mod old;
pub mod order;
mod pack;
mod plan;
pub mod scan;
mod similar;
mod spool;
pub mod stored;
pub mod text;
pub mod tree;
mod walk;
mod walked;

/// How far a scan or build has come. Totals are those of the work at hand: files that are read or
/// packed, not files that are skipped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Files finished.
    pub files_done: u64,
    /// Files to be worked on.
    pub files_total: u64,
    /// Bytes worked on so far. A file that changes while it is read counts again.
    pub bytes_done: u64,
    /// Bytes to be worked on.
    pub bytes_total: u64,
}
