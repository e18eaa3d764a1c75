//! File contents and manifests of every version that the CCM can still publish or go back to, named
//! by digest.
//!
//! `content/ab/<digest>` holds one file's bytes, `manifests/<version>` one tree, `incoming/` what is
//! being written. A file gets its name only after its bytes are durable, so that a name in `content`
//! is a promise even after a power cut. Leaves to others: which versions are worth keeping.
//!
//! Used by one process at a time: what is relied upon is kept from the garbage collection by its
//! age, and by a lock within the process; what a scan relied upon, by the run it was made for, during which
//! nothing is collected.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use common::digest::{Digest, Version};
use common::manifest::Entry;
use common::path::ContentPath;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW};

use super::batch::{Batch, TakeError};
use super::index::Shards;
use super::stored::{self, StoredTree};
use super::tree::Tree;
use super::walk::stat_directory;

/// How long something that nothing refers to is kept: longer than anything lies between a scan and
/// the record of the run it was made for.
pub const GRACE: Duration = Duration::from_secs(3600);

/// Why the content store could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// The file system refused.
    #[error("cannot {action} {path}", path = path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// The refusal.
        source: io::Error,
    },
    /// No such content.
    #[error("the content {digest} is not in the store")]
    Missing {
        /// Its digest.
        digest: Digest,
    },
    /// Content is not what its name says.
    #[error("the content {digest} in the store is damaged")]
    Damaged {
        /// The digest it should have.
        digest: Digest,
    },
    /// No such manifest.
    #[error("the manifest of version {version} is not in the store")]
    ManifestMissing {
        /// The version.
        version: Version,
    },
    /// A manifest is not what its name says.
    #[error("the manifest of version {version} in the store is damaged")]
    ManifestDamaged {
        /// The version it should have.
        version: Version,
    },
}

/// What a garbage collection removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Freed {
    /// Number of files, contents and manifests.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Where contents are found by digest.
pub trait ContentSource: Sync {
    /// Opens content for reading. Its bytes are not checked here.
    ///
    /// # Errors
    /// [`ContentError::Missing`], or [`ContentError::Io`] when it cannot be opened.
    fn open_content(&self, digest: Digest) -> Result<File, ContentError>;

    /// Where it is, for messages.
    fn place(&self, digest: Digest) -> PathBuf;
}

impl ContentSource for ContentStore {
    fn open_content(&self, digest: Digest) -> Result<File, ContentError> {
        Self::open_content(self, digest)
    }

    fn place(&self, digest: Digest) -> PathBuf {
        self.content_path(digest)
    }
}

/// The store. Shared by reference between threads.
#[derive(Debug)]
pub struct ContentStore {
    root: PathBuf,
    /// Names of files being written; distinct from those of a process before by its start time.
    names: AtomicU64,
    prefix: u128,
    /// Held while the age of something decides: by the garbage collection between its last look and
    /// the removal, by everybody else while making something young.
    ages: Mutex<()>,
}

impl ContentStore {
    /// Opens the store in `dir`, making it if it is not there, and clears away what a crash left
    /// half written.
    ///
    /// # Errors
    /// [`ContentError::Io`] names the directory that cannot be made or read.
    pub fn open(dir: &Path) -> Result<Self, ContentError> {
        let prefix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        let store = Self { root: dir.to_owned(), names: AtomicU64::new(0), prefix, ages: Mutex::new(()) };
        for part in ["content", "manifests", "incoming"] {
            let path = dir.join(part);
            fs::create_dir_all(&path).map_err(io_error("make", &path))?;
        }
        for shard in 0..=u8::MAX {
            let path = dir.join(format!("content/{shard:02x}"));
            match fs::create_dir(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(io_error("make", &path)(error)),
            }
        }
        store.sync_directory(&dir.join("content"))?;
        store.sync_directory(dir)?;
        let incoming = dir.join("incoming");
        for path in list(&incoming)? {
            fs::remove_file(&path).map_err(io_error("remove", &path))?;
        }
        Ok(store)
    }

    /// Whether this content is here.
    #[must_use]
    pub fn contains(&self, digest: Digest) -> bool {
        self.content_path(digest).is_file()
    }

    /// Opens content for reading. Its bytes are not checked here.
    ///
    /// # Errors
    /// [`ContentError::Missing`], or [`ContentError::Io`] when it cannot be opened.
    pub fn open_content(&self, digest: Digest) -> Result<File, ContentError> {
        let path = self.content_path(digest);
        File::open(&path).map_err(|source| {
            if source.kind() == io::ErrorKind::NotFound {
                ContentError::Missing { digest }
            } else {
                ContentError::Io { action: "open", path, source }
            }
        })
    }

    /// Reads content whole and checks it. For content of bounded length only.
    ///
    /// # Errors
    /// [`ContentError::Missing`], [`ContentError::Damaged`] or [`ContentError::Io`].
    pub fn read(&self, digest: Digest) -> Result<Vec<u8>, ContentError> {
        let mut bytes = Vec::new();
        let path = self.content_path(digest);
        self.open_content(digest)?.read_to_end(&mut bytes).map_err(io_error("read", &path))?;
        if Digest::of(&bytes) == digest { Ok(bytes) } else { Err(ContentError::Damaged { digest }) }
    }

    /// Takes a file's content, durably. Gives its digest and length in bytes.
    ///
    /// # Errors
    /// [`ContentError::Io`] names the file, or the place in the store.
    pub fn put_file(&self, path: &Path) -> Result<(Digest, u64), ContentError> {
        let source = File::open(path).map_err(io_error("open", path))?;
        let batch = self.batch();
        let size = source.metadata().map_err(io_error("read", path))?.len();
        let taken = batch.take(&source, size, &mut |_| true).map_err(|error| match error {
            TakeError::Source(source) => ContentError::Io { action: "read", path: path.to_owned(), source },
            TakeError::Store(error) => error,
            TakeError::Stopped => unreachable!("nobody asked to stop"),
        })?;
        batch.commit()?;
        Ok(taken)
    }

    /// Takes bytes, durably.
    ///
    /// # Errors
    /// [`ContentError::Io`] names the place in the store.
    pub fn put_bytes(&self, bytes: &[u8]) -> Result<Digest, ContentError> {
        let batch = self.batch();
        let digest = batch.take_bytes(bytes)?;
        batch.commit()?;
        Ok(digest)
    }

    /// Keeps a tree, durably. A tree of the same version that is here already stays as it is: its
    /// modification times, which the version does not cover, are those the servers got.
    ///
    /// # Errors
    /// [`ContentError::Io`] names the place in the store; or the tree cannot be read.
    pub fn put_tree(&self, tree: &dyn Tree) -> Result<Version, ContentError> {
        let mut count = 0;
        tree.entries()?.try_for_each(|entry| entry.map(|_| count += 1))?;
        self.put_entries(count, tree.entries()?, |error| error)
    }

    /// [`Self::put_tree`] of so many entries, which come in path order. What fails in the store is told
    /// by `failed`.
    pub(super) fn put_entries<E>(
        &self,
        count: u64,
        entries: impl Iterator<Item = Result<(ContentPath, Entry), E>>,
        failed: impl Fn(ContentError) -> E,
    ) -> Result<Version, E> {
        let (incoming, mut file) = self.incoming().map_err(&failed)?;
        let unwritten = |source| failed(io_error("write", &incoming)(source));
        let named = stored::write(&mut file, count, entries, unwritten)
            .and_then(|version| self.name_tree(version, &incoming, &file).map(|()| version).map_err(&failed));
        if named.is_err() {
            discard(&incoming);
        }
        named
    }

    /// Gives a tree its name, unless that is taken by one that is whole.
    fn name_tree(&self, version: Version, incoming: &Path, file: &File) -> Result<(), ContentError> {
        if self.hold_tree(version)? {
            discard(incoming);
            return Ok(());
        }
        file.sync_all().map_err(io_error("write", incoming))?;
        let path = self.manifest_path(version);
        let ages = self.ages();
        fs::rename(incoming, &path).map_err(io_error("rename to", &path))?;
        drop(ages);
        self.sync_directory(&self.root.join("manifests"))
    }

    /// Whether this version is here and whole; if so it is young again, and so safe from the garbage
    /// collection for what is about to refer to it.
    pub(super) fn hold_tree(&self, version: Version) -> Result<bool, ContentError> {
        match self.tree(version) {
            Ok(_) => {}
            Err(ContentError::ManifestMissing { .. } | ContentError::ManifestDamaged { .. }) => return Ok(false),
            Err(error) => return Err(error),
        }
        let path = self.manifest_path(version);
        let _ages = self.ages();
        match touch(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(io_error("touch", &path)(error)),
        }
    }

    /// A tree that is kept.
    ///
    /// # Errors
    /// [`ContentError::ManifestMissing`], [`ContentError::ManifestDamaged`], or [`ContentError::Io`]
    /// when it cannot be read.
    pub fn tree(&self, version: Version) -> Result<StoredTree, ContentError> {
        StoredTree::open(version, self.manifest_path(version))
    }

    /// Removes manifests that are not to be kept, and contents that no remaining manifest names.
    /// Whatever is younger than [`GRACE`] stays, and what young manifests name stays with them.
    ///
    /// # Errors
    /// When a manifest to be kept cannot be read, nothing is removed. [`ContentError::Io`] names
    /// what cannot be removed.
    pub fn collect_garbage(&self, keep: impl Iterator<Item = Version>) -> Result<Freed, ContentError> {
        let mut versions: BTreeSet<Version> = keep.collect();
        let mut used = BTreeSet::new();
        let old = |path: &Path| -> Result<Option<u64>, ContentError> {
            match fs::metadata(path) {
                Ok(found) => {
                    let changed = found.modified().map_err(io_error("read", path))?;
                    let age = SystemTime::now().duration_since(changed).unwrap_or(Duration::ZERO);
                    Ok((age > GRACE).then_some(found.len()))
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(io_error("read", path)(error)),
            }
        };
        let manifests = list(&self.root.join("manifests"))?;
        for path in &manifests {
            if old(path)?.is_none()
                && let Some(version) = name(path)
            {
                versions.insert(Version(version));
            }
        }
        for version in &versions {
            for entry in self.tree(*version)?.entries()? {
                used.extend(file_digest(&entry?.1).map(|(_, digest)| digest));
            }
        }

        let mut freed = Freed::default();
        let mut remove = |path: &Path| -> Result<(), ContentError> {
            let _ages = self.ages();
            if let Some(bytes) = old(path)? {
                fs::remove_file(path).map_err(io_error("remove", path))?;
                freed.files += 1;
                freed.bytes += bytes;
            }
            Ok(())
        };
        for path in &manifests {
            if name(path).is_some_and(|version| !versions.contains(&Version(version))) {
                remove(path)?;
            }
        }
        for shard in list(&self.root.join("content"))? {
            for path in list(&shard)? {
                if name(&path).is_some_and(|digest| !used.contains(&digest)) {
                    remove(&path)?;
                }
            }
        }
        Ok(freed)
    }

    /// Whether this content is here with this length; if so it is young again, and so safe from
    /// the garbage collection for what is about to refer to it.
    pub(super) fn hold(&self, digest: Digest, size: u64) -> Result<bool, ContentError> {
        let path = self.content_path(digest);
        let found = match fs::metadata(&path) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(io_error("read", &path)(error)),
        };
        if found.len() != size {
            return Ok(false);
        }
        let age = found.modified().ok().and_then(|changed| SystemTime::now().duration_since(changed).ok());
        if age.is_some_and(|age| age > GRACE / 2) {
            let _ages = self.ages();
            match touch(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
                Err(error) => return Err(io_error("touch", &path)(error)),
            }
        }
        Ok(true)
    }

    /// What the directories look like that contents are kept in, by the first byte of digests: as long as
    /// one looks the same, nothing has gone from it. `None` for one that changed so recently that the
    /// next change may not show.
    pub(super) fn shards(&self) -> Shards {
        let now = SystemTime::now();
        let look = |shard: u8| {
            let path = self.root.join(format!("content/{shard:02x}"));
            // What cannot be looked at is found out about when it is needed.
            stat_directory(&path).ok().filter(|stamp| stamp.is_settled(now))
        };
        (0..=u8::MAX).map(look).collect()
    }

    /// A batch of contents that become durable, and visible, together.
    pub(super) fn batch(&self) -> Batch<'_> {
        Batch::new(self)
    }

    pub(super) fn ages(&self) -> MutexGuard<'_, ()> {
        // It guards no data, so a panic elsewhere leaves nothing half done behind it.
        self.ages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn content_path(&self, digest: Digest) -> PathBuf {
        let hex = digest.to_string();
        self.root.join("content").join(&hex[..2]).join(hex)
    }

    pub(super) fn manifest_path(&self, version: Version) -> PathBuf {
        self.root.join("manifests").join(version.to_string())
    }

    pub(super) fn incoming(&self) -> Result<(PathBuf, File), ContentError> {
        let number = self.names.fetch_add(1, Ordering::Relaxed);
        let path = self.root.join("incoming").join(format!("{}-{number}", self.prefix));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(io_error("make", &path))?;
        Ok((path, file))
    }

    pub(super) fn sync_directory(&self, path: &Path) -> Result<(), ContentError> {
        File::open(path).and_then(|directory| directory.sync_all()).map_err(io_error("flush", path))
    }

    pub(super) fn sync_all(&self) -> Result<(), ContentError> {
        File::open(&self.root)
            .and_then(|root| rustix::fs::syncfs(&root).map_err(io::Error::from))
            .map_err(io_error("flush", &self.root))
    }
}

pub(super) fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ContentError {
    move |source| ContentError::Io { action, path: path.to_owned(), source }
}

/// Removes a file that has no name yet. What stays behind is cleared away when the store is opened.
pub(super) fn discard(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        tracing::debug!(path = %path.display(), %error, "a discarded file stays until the store is opened again");
    }
}

fn touch(path: &Path) -> io::Result<()> {
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    let times = Timestamps { last_access: now, last_modification: now };
    Ok(rustix::fs::utimensat(CWD, path, &times, AtFlags::empty())?)
}

fn list(path: &Path) -> Result<Vec<PathBuf>, ContentError> {
    let entries = fs::read_dir(path).map_err(io_error("list", path))?;
    entries.map(|entry| entry.map(|entry| entry.path()).map_err(io_error("list", path))).collect()
}

/// The digest that a file is named by; `None` for files that are not ours, which are left alone.
fn name(path: &Path) -> Option<Digest> {
    path.file_name()?.to_str()?.parse().ok()
}

/// Length and digest of a file; `None` for what has no content.
pub(super) fn file_digest(entry: &Entry) -> Option<(u64, Digest)> {
    match entry {
        Entry::File { size, digest, .. } => Some((*size, *digest)),
        Entry::Directory { .. } | Entry::Symlink { .. } => None,
    }
}

#[cfg(test)]
#[path = "content_tests.rs"]
mod tests;
