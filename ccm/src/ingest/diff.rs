//! What is different between two trees, for people to look at before anything is sent.

use std::collections::BTreeMap;

use common::digest::Digest;
use common::manifest::Manifest;
use common::path::ContentPath;
use serde::Serialize;

use super::compare::{Changes, same_but_for_mode};
use super::content::file_digest;

/// The difference of two trees. Every path is in one list; all lists are in path order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Diff {
    /// Entries that are new, and were not moved here.
    pub added: Vec<ContentPath>,
    /// Files of other content, links of another target, entries of another type.
    pub changed: Vec<ContentPath>,
    /// Entries that are gone, and were not moved elsewhere.
    pub removed: Vec<ContentPath>,
    /// Files of the same content that are gone from the first path and new at the second. Empty
    /// files are not taken for moved.
    pub moved: Vec<(ContentPath, ContentPath)>,
    /// Directories and files of which only the permission bits differ.
    pub attributes: Vec<ContentPath>,
    /// Bytes of content that no file of the old tree has, each content counted once.
    pub content_bytes: u64,
}

impl Diff {
    /// The difference as people look at it.
    #[must_use]
    pub fn of(changes: &Changes) -> Self {
        let mut diff = Self::default();
        let mut unknown: BTreeMap<Digest, u64> = BTreeMap::new();
        for (path, before, after) in changes.each() {
            match (before, after) {
                (None, Some(_)) => diff.added.push(path.clone()),
                (Some(_), None) => diff.removed.push(path.clone()),
                (Some(before), Some(after)) if same_but_for_mode(before, after) => diff.attributes.push(path.clone()),
                (Some(_), Some(_)) => diff.changed.push(path.clone()),
                (None, None) => {}
            }
            let content = after.and_then(file_digest);
            if let Some((size, digest)) = content.filter(|content| before.and_then(file_digest) != Some(*content))
                && !changes.known.contains_key(&digest)
            {
                unknown.insert(digest, size);
            }
        }
        find_moves(&mut diff, &changes.old, &changes.new);
        diff.content_bytes = unknown.values().sum();
        diff
    }

    /// Whether both trees are the same version.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.added.is_empty()
            && self.changed.is_empty()
            && self.removed.is_empty()
            && self.moved.is_empty()
            && self.attributes.is_empty()
    }
}

/// Pairs removed and added files of the same content, those of the same name first.
fn find_moves(diff: &mut Diff, old: &Manifest, new: &Manifest) {
    let content = |tree: &Manifest, path: &ContentPath| {
        tree.entries.get(path).and_then(file_digest).filter(|(size, _)| *size > 0).map(|(_, digest)| digest)
    };
    let mut sources: BTreeMap<Digest, Vec<ContentPath>> = BTreeMap::new();
    for path in &diff.removed {
        if let Some(digest) = content(old, path) {
            sources.entry(digest).or_default().push(path.clone());
        }
    }
    let mut targets: BTreeMap<Digest, Vec<ContentPath>> = BTreeMap::new();
    for path in &diff.added {
        if let Some(digest) = content(new, path).filter(|digest| sources.contains_key(digest)) {
            targets.entry(digest).or_default().push(path.clone());
        }
    }
    for (digest, mut targets) in targets {
        let Some(sources) = sources.get_mut(&digest) else { continue };
        for by_name in [true, false] {
            targets.retain(|to| {
                let fits = |from: &ContentPath| !by_name || from.file_name() == to.file_name();
                let Some(at) = sources.iter().position(fits) else { return true };
                diff.moved.push((sources.remove(at), to.clone()));
                false
            });
        }
    }
    diff.moved.sort();
    let mut from: Vec<&ContentPath> = diff.moved.iter().map(|(from, _)| from).collect();
    from.sort();
    diff.removed.retain(|path| from.binary_search(&path).is_err());
    let mut to: Vec<&ContentPath> = diff.moved.iter().map(|(_, to)| to).collect();
    to.sort();
    diff.added.retain(|path| to.binary_search(&path).is_err());
}

#[cfg(test)]
mod tests {
    use common::manifest::Entry;

    use super::*;
    use crate::ingest::compare::compare;
    use crate::ingest::content::ContentError;
    use crate::ingest::tree::Tree;

    fn diff(old: &Manifest, new: &Manifest) -> Diff {
        Diff::of(&compare::<ContentError>(Some(old), Tree::entries(new).unwrap()).unwrap())
    }

    fn path(text: &str) -> ContentPath {
        text.parse().unwrap()
    }

    fn file(content: &[u8]) -> Entry {
        Entry::File { mode: 0o644, size: content.len() as u64, digest: Digest::of(content), mtime: 0 }
    }

    fn tree(entries: &[(&str, Entry)]) -> Manifest {
        Manifest { entries: entries.iter().map(|(at, entry)| (path(at), entry.clone())).collect() }
    }

    #[test]
    fn every_kind_of_difference_has_its_list() {
        let dir = |mode| Entry::Directory { mode };
        let link = |target: &str| Entry::Symlink { target: target.into() };
        let old = tree(&[
            ("d", dir(0o755)),
            ("d/same", file(b"same")),
            ("edited", file(b"before")),
            ("gone", file(b"gone")),
            ("here", file(b"wanders")),
            ("link", link("edited")),
            ("mode", file(b"mode")),
            ("shape", file(b"shape")),
        ]);
        let mut other_mode = file(b"mode");
        if let Entry::File { mode, .. } = &mut other_mode {
            *mode = 0o600;
        }
        let new = tree(&[
            ("d", dir(0o700)),
            ("d/same", file(b"same")),
            ("d/there", file(b"wanders")),
            ("edited", file(b"after!")),
            ("fresh", file(b"fresh")),
            ("link", link("fresh")),
            ("mode", other_mode),
            ("shape", dir(0o755)),
        ]);
        let found = diff(&old, &new);
        assert_eq!(found.added, [path("fresh")]);
        assert_eq!(found.changed, [path("edited"), path("link"), path("shape")]);
        assert_eq!(found.removed, [path("gone")]);
        assert_eq!(found.moved, [(path("here"), path("d/there"))]);
        assert_eq!(found.attributes, [path("d"), path("mode")]);
        assert_eq!(found.content_bytes, 11, "after! and fresh; what moved is known");
        assert!(!found.is_empty());
        assert!(diff(&old, &old).is_empty());
    }

    #[test]
    fn moved_files_are_paired_by_name_first_and_each_only_once() {
        let old = tree(&[("a", file(b"x")), ("b", file(b"x")), ("e", file(b""))]);
        let new = tree(&[
            ("d", Entry::Directory { mode: 0o755 }),
            ("d/b", file(b"x")),
            ("d/c", file(b"x")),
            ("d/d", file(b"x")),
            ("f", file(b"")),
        ]);
        let found = diff(&old, &new);
        assert_eq!(found.moved, [(path("a"), path("d/c")), (path("b"), path("d/b"))]);
        assert_eq!(found.added, [path("d"), path("d/d"), path("f")]);
        assert_eq!(found.removed, [path("e")]);
        assert_eq!(found.content_bytes, 0);
    }
}
