//! What a content tree consists of, and the digest that names exactly that: its version.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use crate::digest::{Digest, Version};
use crate::path::{ContentPath, symlink_is_contained};

/// The permission bits that content may carry: no set-user-id, set-group-id or sticky bit ever
/// reaches a web server by way of content.
pub const MODE_MASK: u32 = 0o777;

/// Hashers of leaves and nodes: their keys are derived once, not for each of a million entries.
static LEAF: LazyLock<blake3::Hasher> = LazyLock::new(|| blake3::Hasher::new_derive_key("pressrun manifest leaf 1"));
static NODE: LazyLock<blake3::Hasher> = LazyLock::new(|| blake3::Hasher::new_derive_key("pressrun manifest node 1"));

/// One directory, file or symbolic link of a content tree, apart from its path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Entry {
    /// A directory.
    Directory {
        /// Permission bits, within [`MODE_MASK`].
        mode: u32,
    },
    /// A regular file.
    File {
        /// Permission bits, within [`MODE_MASK`].
        mode: u32,
        /// Length in bytes.
        size: u64,
        /// BLAKE3 of the content.
        digest: Digest,
        /// Modification time, seconds since 1970. Given to every server alike, so that `ETag` and
        /// `Last-Modified` agree across the farm; not part of the version.
        mtime: i64,
    },
    /// A symbolic link that stays inside the tree.
    Symlink {
        /// Where it points, relative to its own directory.
        target: String,
    },
}

impl Entry {
    /// Whether both are the same as far as the version is concerned (modification time is not).
    #[must_use]
    pub fn same_version(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::File { mode, size, digest, .. },
                Self::File { mode: other_mode, size: other_size, digest: other_digest, .. },
            ) => mode == other_mode && size == other_size && digest == other_digest,
            (Self::Directory { .. } | Self::File { .. } | Self::Symlink { .. }, _) => self == other,
        }
    }

    fn leaf(&self, path: &ContentPath) -> [u8; 32] {
        let mut hasher = LEAF.clone();
        let path = path.as_str().as_bytes();
        hasher.update(&(path.len() as u64).to_le_bytes());
        hasher.update(path);
        match self {
            Self::Directory { mode } => {
                hasher.update(b"d");
                hasher.update(&mode.to_le_bytes());
            }
            Self::File { mode, size, digest, .. } => {
                hasher.update(b"f");
                hasher.update(&mode.to_le_bytes());
                hasher.update(&size.to_le_bytes());
                hasher.update(&digest.0);
            }
            Self::Symlink { target } => {
                hasher.update(b"l");
                hasher.update(&(target.len() as u64).to_le_bytes());
                hasher.update(target.as_bytes());
            }
        }
        *hasher.finalize().as_bytes()
    }
}

/// All entries of a content tree, in path order. The root directory itself is not an entry.
///
/// Deserialising does not check it: call [`Manifest::check`] on what came from outside.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Manifest {
    /// The entries by path.
    pub entries: BTreeMap<ContentPath, Entry>,
}

/// Why a set of entries is no content tree.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// The directory an entry lies in is not there.
    #[error("{path} lies in no directory of the tree")]
    NoParent {
        /// The orphan.
        path: ContentPath,
    },
    /// An entry lies below a file or link.
    #[error("{path} lies below something that is no directory")]
    ParentNotDirectory {
        /// The entry.
        path: ContentPath,
    },
    /// Permission bits outside [`MODE_MASK`].
    #[error("{path} has mode {mode:o}, which content must not have")]
    Mode {
        /// The entry.
        path: ContentPath,
        /// Its mode.
        mode: u32,
    },
    /// A symbolic link that leaves the tree.
    #[error("the link {path} points to {target:?}, out of the tree")]
    LinkEscapes {
        /// The link.
        path: ContentPath,
        /// Its target.
        target: String,
    },
}

impl Manifest {
    /// The version: a Merkle root over path, type, mode, size and content of every entry, in path
    /// order, bound to their count.
    #[must_use]
    pub fn version(&self) -> Version {
        let mut root = Root::default();
        self.entries.iter().for_each(|(path, entry)| root.add(path, entry));
        root.version()
    }

    /// Whether the entries form a tree that may be put on a server.
    ///
    /// # Errors
    /// [`ManifestError`] names the first entry that must not be there.
    pub fn check(&self) -> Result<(), ManifestError> {
        let mut shape = Shape::default();
        self.entries.iter().try_for_each(|(path, entry)| shape.add(path, entry))
    }

    /// Sum of the file sizes, in bytes; of a tree that no disk holds, the largest number.
    #[must_use]
    pub fn content_bytes(&self) -> u64 {
        self.files().fold(0, |sum: u64, (_, size, _)| sum.saturating_add(size))
    }

    /// The regular files: path, size in bytes, digest of the content.
    pub fn files(&self) -> impl Iterator<Item = (&ContentPath, u64, &Digest)> {
        self.entries.iter().filter_map(|(path, entry)| match entry {
            Entry::File { size, digest, .. } => Some((path, *size, digest)),
            Entry::Directory { .. } | Entry::Symlink { .. } => None,
        })
    }
}

/// The version of a tree whose entries come one by one, in path order: what [`Manifest::version`] says
/// of all of them, in memory for a few.
#[derive(Debug, Clone, Default)]
pub struct Root {
    entries: u64,
    /// Of each level, from the leaves up, the node that waits for its right neighbour.
    waiting: Vec<Option<[u8; 32]>>,
}

impl Root {
    /// Adds the next entry.
    pub fn add(&mut self, path: &ContentPath, entry: &Entry) {
        self.entries += 1;
        let mut node = entry.leaf(path);
        for level in &mut self.waiting {
            match level.take() {
                Some(left) => node = join(&left, &node),
                None => {
                    *level = Some(node);
                    return;
                }
            }
        }
        self.waiting.push(Some(node));
    }

    /// Number of entries that were added.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// The version of the tree of all that was added.
    #[must_use]
    pub fn version(&self) -> Version {
        let mut top: Option<[u8; 32]> = None;
        for left in self.waiting.iter().flatten() {
            top = Some(match top {
                Some(right) => join(left, &right),
                // An odd one out moves up unchanged; the count in the root keeps this unambiguous.
                None => *left,
            });
        }
        let mut hasher = blake3::Hasher::new_derive_key("pressrun manifest root 1");
        hasher.update(&self.entries.to_le_bytes());
        hasher.update(&top.unwrap_or([0; 32]));
        Version(hasher.finalize().into())
    }
}

fn join(left: &[u8; 32], right: &[u8; 32]) -> [u8; 32] {
    let mut hasher = NODE.clone();
    hasher.update(left);
    hasher.update(right);
    *hasher.finalize().as_bytes()
}

/// Whether entries that come one by one, in path order, form a tree that may be put on a server: what
/// [`Manifest::check`] says of all of them, in memory for one path.
#[derive(Debug, Clone, Default)]
pub struct Shape {
    /// The last path; all that the next may lie in are beginnings of it.
    last: String,
    /// Where these end, outermost first, and whether they are directories: in path order a directory is
    /// followed at once by what it contains.
    around: Vec<(usize, bool)>,
}

impl Shape {
    /// Takes the next entry.
    ///
    /// # Errors
    /// [`ManifestError`] when it must not be there.
    pub fn add(&mut self, path: &ContentPath, entry: &Entry) -> Result<(), ManifestError> {
        let text = path.as_str();
        let is_within = |end: usize| text.as_bytes().get(end) == Some(&b'/') && text[..end] == self.last[..end];
        while self.around.pop_if(|(end, _)| !is_within(*end)).is_some() {}
        if self.around.len() + 1 < path.components().count() {
            return Err(ManifestError::NoParent { path: path.clone() });
        }
        if self.around.last().is_some_and(|(_, is_directory)| !is_directory) {
            return Err(ManifestError::ParentNotDirectory { path: path.clone() });
        }
        self.last.clear();
        self.last.push_str(text);
        self.around.push((text.len(), matches!(entry, Entry::Directory { .. })));
        match entry {
            Entry::Directory { mode } | Entry::File { mode, .. } if mode & !MODE_MASK != 0 => {
                Err(ManifestError::Mode { path: path.clone(), mode: *mode })
            }
            Entry::Symlink { target } if !symlink_is_contained(path, target) => {
                Err(ManifestError::LinkEscapes { path: path.clone(), target: target.clone() })
            }
            Entry::Directory { .. } | Entry::File { .. } | Entry::Symlink { .. } => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> ContentPath {
        text.parse().expect("good path")
    }

    fn file(content: &[u8]) -> Entry {
        Entry::File { mode: 0o644, size: content.len() as u64, digest: Digest::of(content), mtime: 0 }
    }

    #[test]
    fn every_part_of_an_entry_but_its_time_changes_the_version() {
        let base: Manifest = Manifest { entries: [(path("a"), file(b"one"))].into() };
        let mut touched = base.clone();
        if let Some(Entry::File { mtime, .. }) = touched.entries.get_mut(&path("a")) {
            *mtime = 99;
        }
        assert_eq!(touched.version(), base.version());

        let others = [
            Manifest::default(),
            Manifest { entries: [(path("b"), file(b"one"))].into() },
            Manifest { entries: [(path("a"), file(b"two"))].into() },
            Manifest {
                entries: [(path("a"), Entry::File { mode: 0o600, size: 3, digest: Digest::of(b"one"), mtime: 0 })]
                    .into(),
            },
            Manifest { entries: [(path("a"), Entry::Directory { mode: 0o644 })].into() },
            Manifest { entries: [(path("a"), file(b"one")), (path("b"), file(b"one"))].into() },
        ];
        for other in &others {
            assert_ne!(other.version(), base.version(), "{other:?}");
        }
    }

    /// As docs/formats.md says it, level by level.
    fn by_levels(tree: &Manifest) -> Version {
        let mut level: Vec<[u8; 32]> = tree.entries.iter().map(|(path, entry)| entry.leaf(path)).collect();
        while level.len() > 1 {
            let pairs = level.chunks(2);
            level = pairs.map(|pair| if let [left, right] = pair { join(left, right) } else { pair[0] }).collect();
        }
        let mut hasher = blake3::Hasher::new_derive_key("pressrun manifest root 1");
        hasher.update(&(tree.entries.len() as u64).to_le_bytes());
        hasher.update(level.first().unwrap_or(&[0; 32]));
        Version(hasher.finalize().into())
    }

    #[test]
    fn a_version_made_entry_by_entry_is_that_of_the_levels_of_all_of_them() {
        let mut tree = Manifest::default();
        for number in 0..70_u8 {
            assert_eq!(tree.version(), by_levels(&tree), "{number} entries");
            tree.entries.insert(path(&format!("{number:02}")), file(&[number]));
        }
    }

    #[test]
    fn entries_without_a_directory_around_them_are_no_tree() {
        let orphan = Manifest { entries: [(path("d/a"), file(b""))].into() };
        assert_eq!(orphan.check(), Err(ManifestError::NoParent { path: path("d/a") }));
        let below_file = Manifest { entries: [(path("d"), file(b"")), (path("d/a"), file(b""))].into() };
        assert_eq!(below_file.check(), Err(ManifestError::ParentNotDirectory { path: path("d/a") }));
        let setuid = Manifest { entries: [(path("d"), Entry::Directory { mode: 0o4755 })].into() };
        assert!(matches!(setuid.check(), Err(ManifestError::Mode { .. })));
        let escape = Manifest { entries: [(path("l"), Entry::Symlink { target: "../x".into() })].into() };
        assert!(matches!(escape.check(), Err(ManifestError::LinkEscapes { .. })));
        let dir = || Entry::Directory { mode: 0o755 };
        let beside = [(path("d"), dir()), (path("d/e"), dir()), (path("d/ee"), file(b"")), (path("de/a"), file(b""))];
        assert_eq!(Manifest { entries: beside.into() }.check(), Err(ManifestError::NoParent { path: path("de/a") }));
        let deep = [(path("d"), dir()), (path("d/e"), dir()), (path("d/e/a"), file(b"")), (path("d/f"), file(b""))];
        assert_eq!(Manifest { entries: deep.into() }.check(), Ok(()));
    }
}
