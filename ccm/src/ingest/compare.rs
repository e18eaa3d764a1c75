//! What is different between two trees, in memory for what is different alone.
//!
//! Both are told in path order and one entry at a time; what is equal on both sides is forgotten at once.
//! The one comparison there is: for people who look before they publish ([`super::diff`]), for the version that
//! a publish makes ([`super::scan`]), and for the steps that lead there ([`super::plan`]).

use std::collections::{BTreeMap, BTreeSet};

use common::digest::Digest;
use common::manifest::{Entry, Manifest};
use common::path::ContentPath;

use super::content::{ContentError, file_digest};
use super::tree::{Tree, bytes_of, paired};

/// What is different between two trees.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// The part of the old tree that goes or changes: a tree of its own only with the rest of it.
    pub old: Manifest,
    /// The part of the new tree that comes or has changed.
    pub new: Manifest,
    /// The contents among those that `new` needs which the old tree has anywhere, with the last file that
    /// has them.
    pub known: BTreeMap<Digest, ContentPath>,
    /// Sum of the file sizes of the whole new tree, in bytes.
    pub content_bytes: u64,
}

impl Changes {
    /// Whether both trees are the same version.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.old.entries.is_empty() && self.new.entries.is_empty()
    }

    /// All paths at which something is different, in order, with what was and what comes.
    pub(super) fn each(&self) -> impl Iterator<Item = (&ContentPath, Option<&Entry>, Option<&Entry>)> {
        let (mut old, mut new) = (self.old.entries.iter().peekable(), self.new.entries.iter().peekable());
        std::iter::from_fn(move || {
            let before = match (old.peek(), new.peek()) {
                (Some((before, _)), Some((after, _))) if before > after => None,
                (Some(_), _) => old.next(),
                (None, _) => None,
            };
            let Some((path, before)) = before else { return new.next().map(|(path, after)| (path, None, Some(after))) };
            Some((path, Some(before), new.next_if(|(after, _)| *after == path).map(|(_, after)| after)))
        })
    }
}

/// Compares a tree with the one that it follows on; without one everything is new. Modification times are
/// not compared: they are not part of the version.
///
/// # Errors
/// When one of the trees cannot be read.
pub fn compare<E>(
    old: Option<&dyn Tree>,
    new: impl Iterator<Item = Result<(ContentPath, Entry), E>>,
) -> Result<Changes, E>
where
    E: From<ContentError>,
{
    let mut changes = Changes::default();
    // Changed in more than permission bits.
    let mut contents = BTreeSet::new();
    let nothing = Manifest::default();
    let before = old.unwrap_or(&nothing).entries()?;
    for pair in paired(before, new) {
        let pair = pair?;
        if let Some(after) = &pair.after {
            changes.content_bytes = changes.content_bytes.saturating_add(bytes_of(after));
        }
        match (&pair.before, &pair.after) {
            (Some(before), Some(after)) if before.same_version(after) => continue,
            (Some(before), Some(after)) if same_but_for_mode(before, after) => {}
            (_, after) => contents.extend(after.as_ref().and_then(file_digest).map(|(_, digest)| digest)),
        }
        if let Some(before) = pair.before {
            changes.old.entries.insert(pair.path.clone(), before);
        }
        if let Some(after) = pair.after {
            changes.new.entries.insert(pair.path, after);
        }
    }
    // Content may also be that of a file that stays as it is.
    if let Some(old) = old.filter(|_| !contents.is_empty()) {
        for entry in old.entries()? {
            let (path, entry) = entry?;
            if let Some((_, digest)) = file_digest(&entry)
                && contents.contains(&digest)
            {
                changes.known.insert(digest, path);
            }
        }
    }
    Ok(changes)
}

/// Whether the entries differ in nothing of the version but, possibly, their permission bits.
pub(super) fn same_but_for_mode(old: &Entry, new: &Entry) -> bool {
    match (old, new) {
        (Entry::Directory { .. }, Entry::Directory { .. }) => true,
        (Entry::File { size, digest, .. }, Entry::File { size: new_size, digest: new_digest, .. }) => {
            size == new_size && digest == new_digest
        }
        (Entry::Symlink { target }, Entry::Symlink { target: new_target }) => target == new_target,
        (Entry::Directory { .. } | Entry::File { .. } | Entry::Symlink { .. }, _) => false,
    }
}

#[cfg(test)]
#[path = "compare_tests.rs"]
mod tests;
