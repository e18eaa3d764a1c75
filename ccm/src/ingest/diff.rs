//! What is different between two trees, for people to look at before anything is sent.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use common::digest::Digest;
use common::manifest::{Entry, Manifest};
use common::path::ContentPath;
use serde::Serialize;

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

/// Compares two trees. Modification times are not compared: they are not part of the version.
#[must_use]
pub fn diff(old: &Manifest, new: &Manifest) -> Diff {
    let mut diff = Diff::default();
    let mut unknown: BTreeMap<Digest, u64> = BTreeMap::new();
    for (path, before, after) in paired(old, new) {
        match (before, after) {
            (None, Some(_)) => diff.added.push(path.clone()),
            (Some(_), None) => diff.removed.push(path.clone()),
            (Some(before), Some(after)) if before.same_version(after) => {}
            (Some(before), Some(after)) if same_but_for_mode(before, after) => diff.attributes.push(path.clone()),
            (Some(_), Some(_)) => diff.changed.push(path.clone()),
            (None, None) => {}
        }
        if let Some((size, digest)) = after.and_then(file_digest)
            && before.and_then(file_digest) != Some((size, digest))
        {
            unknown.insert(digest, size);
        }
    }
    find_moves(&mut diff, old, new);
    for (_, _, digest) in old.files() {
        unknown.remove(digest);
    }
    diff.content_bytes = unknown.values().sum();
    diff
}

/// Goes through two trees side by side, in path order.
pub(super) fn paired<'a>(
    old: &'a Manifest,
    new: &'a Manifest,
) -> impl Iterator<Item = (&'a ContentPath, Option<&'a Entry>, Option<&'a Entry>)> {
    let (mut old, mut new) = (old.entries.iter().peekable(), new.entries.iter().peekable());
    std::iter::from_fn(move || {
        let order = match (old.peek(), new.peek()) {
            (Some((before, _)), Some((after, _))) => before.cmp(after),
            (Some(_), None) => Ordering::Less,
            (None, _) => Ordering::Greater,
        };
        match order {
            Ordering::Less => old.next().map(|(path, before)| (path, Some(before), None)),
            Ordering::Greater => new.next().map(|(path, after)| (path, None, Some(after))),
            Ordering::Equal => {
                let before = old.next().map(|(_, before)| before);
                new.next().map(|(path, after)| (path, before, Some(after)))
            }
        }
    })
}

/// Gives the files of `new` that are unchanged from `old` their old modification times. Servers keep
/// unchanged files as they are; a tree to be recorded as published, or sent whole to a server that
/// joins later, has to say the same.
pub fn keep_times(old: &Manifest, new: &mut Manifest) {
    let mut old = old.entries.iter().peekable();
    for (path, entry) in &mut new.entries {
        while old.next_if(|(before, _)| *before < path).is_some() {}
        if let Some((_, before)) = old.next_if(|(before, _)| *before == path)
            && (before.same_version(entry) || same_but_for_mode(before, entry))
            && let Entry::File { mtime, .. } = entry
            && let Entry::File { mtime: settled, .. } = before
        {
            *mtime = *settled;
        }
    }
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
    use super::*;

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

    #[test]
    fn times_of_unchanged_files_are_kept_and_are_no_difference() {
        let timed = |content: &[u8], mtime| match file(content) {
            Entry::File { mode, size, digest, .. } => Entry::File { mode, size, digest, mtime },
            other @ (Entry::Directory { .. } | Entry::Symlink { .. }) => other,
        };
        let old = tree(&[("a", timed(b"a", 1)), ("b", timed(b"b", 1))]);
        let mut new = tree(&[("a", timed(b"a", 2)), ("b", timed(b"B", 2))]);
        assert_eq!(diff(&old, &new).changed, [path("b")]);
        keep_times(&old, &mut new);
        assert_eq!(new, tree(&[("a", timed(b"a", 1)), ("b", timed(b"B", 2))]));
    }
}
