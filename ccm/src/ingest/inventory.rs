//! Asking servers what they have: the inventory assignment, and what its answers mean.

use std::collections::BTreeSet;
use std::path::Path;

use common::assignment::{Command, Content, Draft, Kind};
use common::digest::Digest;
use common::keys::PublishKey;
use common::path::ContentPath;

use super::build::{BuildError, Built, Parts, seal};
use super::content::{ContentError, file_digest};
use super::plan::{self, Step};
use super::tree::Tree;

/// Builds an inventory of `result`, durably, at `output`: one command for each entry, in path order,
/// all contents [`Content::Local`], no data, and of the kind that says so.
///
/// # Errors
/// [`BuildError`] when the tree is none that may be published, or the output cannot be written.
pub fn build_inventory(draft: Draft, result: &dyn Tree, key: &PublishKey, output: &Path) -> Result<Built, BuildError> {
    let local = |step: Step| match step.into_command(|_| Content::Local) {
        Command::WriteFile { path, mode, mtime, size, digest, content: _ } => {
            let digest = digest.or_else(|| (size == 0).then(|| Digest::of(b"")));
            Command::WriteFile { path, mode, mtime, size, digest, content: Content::Local }
        }
        other @ (Command::MakeDirectory { .. }
        | Command::MakeSymlink { .. }
        | Command::SetMode { .. }
        | Command::Remove { .. }) => other,
    };
    let commands: Vec<Command> = plan::whole(result, |_| true)?.into_iter().map(local).collect();
    let parts = Parts { commands: &commands, blocks: &[], base: None, result, space_bytes: 0 };
    let draft = Draft { kind: Kind::Inventory, ..draft };
    seal(draft, &parts, &mut |_| Ok(()), key, output)
}

/// An answer to an inventory that does not fit it.
#[derive(Debug, thiserror::Error)]
pub enum MissingError {
    /// Not the answer's fault.
    #[error("the tree that the inventory was of cannot be read")]
    Tree(#[from] ContentError),
    /// Indexes behind the last command.
    #[error("commands {first} to {first} + {count} are reported missing, the inventory has {commands}")]
    OutOfRange {
        /// First index of the run.
        first: u32,
        /// Its length.
        count: u32,
        /// Number of commands.
        commands: u64,
    },
    /// A run that is empty, or begins before the one before it has ended.
    #[error("the run of {count} missing files from {first} on is not behind the run before it")]
    NotAscending {
        /// First index of the run.
        first: u32,
        /// Its length.
        count: u32,
    },
    /// Only contents can be missing.
    #[error("{path} is reported missing and is no file")]
    NotAFile {
        /// The entry.
        path: ContentPath,
    },
}

/// The contents that a server lacks, by the runs (first, count) of command indexes in its answer to
/// [`build_inventory`] of the same `result` ([`common::outcome::Outcome::Missing`]).
///
/// # Errors
/// [`MissingError`] when the answer does not fit; the work is bounded by the size of `result`.
pub fn needed_of(result: &dyn Tree, missing: &[(u32, u32)]) -> Result<BTreeSet<Digest>, MissingError> {
    let mut entries = result.entries()?;
    let mut needed = BTreeSet::new();
    // Index of the entry that the iterator gives next.
    let mut next: u64 = 0;
    for &(first, count) in missing {
        if u64::from(first) < next || count == 0 {
            return Err(MissingError::NotAscending { first, count });
        }
        let end = u64::from(first) + u64::from(count);
        while next < end {
            let (path, entry) = entries.next().ok_or(MissingError::OutOfRange { first, count, commands: next })??;
            if next >= u64::from(first) {
                let (_, digest) = file_digest(&entry).ok_or(MissingError::NotAFile { path })?;
                needed.insert(digest);
            }
            next += 1;
        }
    }
    Ok(needed)
}
