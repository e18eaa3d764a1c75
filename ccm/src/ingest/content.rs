//! File contents and manifests of every version that the CCM can still publish or go back to, named
//! by digest.
//!
//! `content/ab/<digest>` holds one file's bytes, `manifests/<version>` one tree, `incoming/` what is
//! being written. A file gets its name only after its bytes are durable, so that a name in `content`
//! is a promise even after a power cut. Leaves to others: which versions are worth keeping.
//!
//! Used by one process at a time: what is relied upon is kept from the garbage collection by its
//! age, and by a lock within the process.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use common::digest::{Digest, Version};
use common::manifest::{Entry, Manifest};
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, UTIME_NOW};

/// How long something that nothing refers to is kept: longer than anything lies between a scan and
/// the record of the run it was made for.
pub const GRACE: Duration = Duration::from_secs(3600);
/// Up to this length a file passes through memory, so that content that is here already is never
/// written again.
const IN_MEMORY_BYTES_MAX: u64 = 8 << 20;
/// Up to this many files are made durable one by one; beyond it, by one flush of the file system.
const SYNC_EACH_MAX: usize = 16;
/// First bytes of a stored manifest: the format and its version.
const MANIFEST_MAGIC: &[u8; 8] = b"PRMANIF1";

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

/// Why a source was not taken into the store.
#[derive(Debug)]
pub(super) enum TakeError {
    /// The source cannot be read.
    Source(io::Error),
    /// The store cannot take it.
    Store(ContentError),
    /// Stopped on request.
    Stopped,
}

impl From<ContentError> for TakeError {
    fn from(error: ContentError) -> Self {
        Self::Store(error)
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

    /// Keeps a manifest, durably. A manifest of the same version that is here already stays as it is:
    /// its modification times, which the version does not cover, are those the servers got.
    ///
    /// # Errors
    /// [`ContentError::Io`] names the place in the store.
    pub fn put_manifest(&self, manifest: &Manifest) -> Result<Version, ContentError> {
        let version = manifest.version();
        let path = self.manifest_path(version);
        if fs::read(&path).is_ok_and(|bytes| sound_body(&bytes).is_some()) {
            let _ages = self.ages();
            return match touch(&path) {
                Ok(()) => Ok(version),
                Err(source) => Err(ContentError::Io { action: "touch", path, source }),
            };
        }
        let body = postcard::to_stdvec(manifest).expect("a manifest is plain data");
        let (incoming, mut file) = self.incoming()?;
        let written = file
            .write_all(MANIFEST_MAGIC)
            .and_then(|()| file.write_all(&Digest::of(&body).0))
            .and_then(|()| file.write_all(&body))
            .and_then(|()| file.sync_all())
            .map_err(io_error("write", &incoming))
            .and_then(|()| {
                let _ages = self.ages();
                fs::rename(&incoming, &path).map_err(io_error("rename to", &path))
            });
        if let Err(error) = written {
            discard(&incoming);
            return Err(error);
        }
        self.sync_directory(&self.root.join("manifests"))?;
        Ok(version)
    }

    /// Reads a manifest and checks it against its version.
    ///
    /// # Errors
    /// [`ContentError::ManifestMissing`], [`ContentError::ManifestDamaged`], or [`ContentError::Io`]
    /// when it cannot be read.
    pub fn manifest(&self, version: Version) -> Result<Manifest, ContentError> {
        let path = self.manifest_path(version);
        let bytes = fs::read(&path).map_err(|source| {
            if source.kind() == io::ErrorKind::NotFound {
                ContentError::ManifestMissing { version }
            } else {
                ContentError::Io { action: "read", path, source }
            }
        })?;
        parse_manifest(&bytes)
            .filter(|manifest| manifest.check().is_ok() && manifest.version() == version)
            .ok_or(ContentError::ManifestDamaged { version })
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
            used.extend(self.manifest(*version)?.files().map(|(_, _, digest)| *digest));
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

    /// A batch of contents that become durable, and visible, together.
    pub(super) fn batch(&self) -> Batch<'_> {
        Batch { store: self, clones: AtomicBool::new(true), pending: Mutex::new(BTreeMap::new()) }
    }

    fn ages(&self) -> MutexGuard<'_, ()> {
        // It guards no data, so a panic elsewhere leaves nothing half done behind it.
        self.ages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn content_path(&self, digest: Digest) -> PathBuf {
        let hex = digest.to_string();
        self.root.join("content").join(&hex[..2]).join(hex)
    }

    fn manifest_path(&self, version: Version) -> PathBuf {
        self.root.join("manifests").join(version.to_string())
    }

    fn incoming(&self) -> Result<(PathBuf, File), ContentError> {
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

    fn sync_directory(&self, path: &Path) -> Result<(), ContentError> {
        File::open(path).and_then(|directory| directory.sync_all()).map_err(io_error("flush", path))
    }

    fn sync_all(&self) -> Result<(), ContentError> {
        File::open(&self.root)
            .and_then(|root| rustix::fs::syncfs(&root).map_err(io::Error::from))
            .map_err(io_error("flush", &self.root))
    }
}

/// Contents on their way into the store. Dropped without [`Batch::commit`], they are discarded.
#[derive(Debug)]
pub(super) struct Batch<'store> {
    store: &'store ContentStore,
    /// Whether the file system shares extents between source and store; found out by the first
    /// large file.
    clones: AtomicBool,
    pending: Mutex<BTreeMap<Digest, PathBuf>>,
}

impl Batch<'_> {
    /// Takes what `source` holds from its present position (its beginning) to its end. `size` is a
    /// hint. `on_bytes` hears of progress and says whether to go on.
    pub(super) fn take(
        &self,
        source: &File,
        size: u64,
        on_bytes: &mut dyn FnMut(u64) -> bool,
    ) -> Result<(Digest, u64), TakeError> {
        let reader = source;
        let mut beginning = Vec::with_capacity(usize::try_from(size.min(IN_MEMORY_BYTES_MAX)).unwrap_or(0) + 1);
        if size <= IN_MEMORY_BYTES_MAX {
            reader.take(IN_MEMORY_BYTES_MAX + 1).read_to_end(&mut beginning).map_err(TakeError::Source)?;
            if beginning.len() as u64 <= IN_MEMORY_BYTES_MAX {
                let length = beginning.len() as u64;
                if !on_bytes(length) {
                    return Err(TakeError::Stopped);
                }
                return Ok((self.take_bytes(&beginning)?, length));
            }
        }
        let (path, file) = self.store.incoming()?;
        match self.copy(source, &beginning, &path, &file, on_bytes) {
            Ok((digest, length)) => {
                drop(file);
                self.add(digest, length, path)?;
                Ok((digest, length))
            }
            Err(error) => {
                discard(&path);
                Err(error)
            }
        }
    }

    /// Takes bytes that are at hand.
    pub(super) fn take_bytes(&self, bytes: &[u8]) -> Result<Digest, ContentError> {
        let digest = Digest::of(bytes);
        if self.pending().contains_key(&digest) || self.store.hold(digest, bytes.len() as u64)? {
            return Ok(digest);
        }
        let (path, mut file) = self.store.incoming()?;
        if let Err(error) = file.write_all(bytes) {
            discard(&path);
            return Err(io_error("write", &path)(error));
        }
        self.add(digest, bytes.len() as u64, path)?;
        Ok(digest)
    }

    /// Makes everything taken durable and gives it its name.
    pub(super) fn commit(self) -> Result<(), ContentError> {
        let pending = std::mem::take(&mut *self.pending());
        if pending.is_empty() {
            return Ok(());
        }
        let few = pending.len() <= SYNC_EACH_MAX;
        let named = (|| {
            if few {
                for path in pending.values() {
                    File::open(path).and_then(|file| file.sync_all()).map_err(io_error("flush", path))?;
                }
            } else {
                self.store.sync_all()?;
            }
            let _ages = self.store.ages();
            for (digest, path) in &pending {
                let named = self.store.content_path(*digest);
                fs::rename(path, &named).map_err(io_error("rename to", &named))?;
            }
            Ok(())
        })();
        if let Err(error) = named {
            pending.values().for_each(|path| discard(path));
            return Err(error);
        }
        if few {
            let shards: BTreeSet<PathBuf> = pending
                .keys()
                .filter_map(|digest| self.store.content_path(*digest).parent().map(Path::to_owned))
                .collect();
            shards.iter().try_for_each(|shard| self.store.sync_directory(shard))
        } else {
            self.store.sync_all()
        }
    }

    /// Copies a large source: by sharing its extents where the file system can, byte by byte
    /// elsewhere. `beginning` was read from it already.
    fn copy(
        &self,
        source: &File,
        beginning: &[u8],
        path: &Path,
        mut file: &File,
        on_bytes: &mut dyn FnMut(u64) -> bool,
    ) -> Result<(Digest, u64), TakeError> {
        let cloned = self.clones.load(Ordering::Relaxed) && rustix::fs::ioctl_ficlone(file, source).is_ok();
        let mut reader = source;
        let mut hasher = blake3::Hasher::new();
        let mut length = 0;
        if cloned {
            // The clone stands still while it is read; the source may not.
            reader = file;
        } else {
            self.clones.store(false, Ordering::Relaxed);
            hasher.update(beginning);
            file.write_all(beginning).map_err(io_error("write", path))?;
            length = beginning.len() as u64;
        }
        let mut buffer = vec![0; 1 << 20];
        loop {
            let count = match reader.read(&mut buffer) {
                Ok(0) => return Ok((hasher.finalize().into(), length)),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(TakeError::Source(error)),
            };
            hasher.update(&buffer[..count]);
            if !cloned {
                file.write_all(&buffer[..count]).map_err(io_error("write", path))?;
            }
            length += count as u64;
            if !on_bytes(count as u64) {
                return Err(TakeError::Stopped);
            }
        }
    }

    fn add(&self, digest: Digest, length: u64, path: PathBuf) -> Result<(), ContentError> {
        if self.store.hold(digest, length)? {
            discard(&path);
            return Ok(());
        }
        if let Some(same) = self.pending().insert(digest, path) {
            discard(&same);
        }
        Ok(())
    }

    fn pending(&self) -> MutexGuard<'_, BTreeMap<Digest, PathBuf>> {
        // Each change is a single insertion, so a panic elsewhere leaves it whole.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        self.pending().values().for_each(|path| discard(path));
    }
}

pub(super) fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ContentError {
    move |source| ContentError::Io { action, path: path.to_owned(), source }
}

/// Removes a file that has no name yet. What stays behind is cleared away when the store is opened.
fn discard(path: &Path) {
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

fn parse_manifest(bytes: &[u8]) -> Option<Manifest> {
    match postcard::take_from_bytes::<Manifest>(sound_body(bytes)?) {
        Ok((manifest, [])) => Some(manifest),
        Ok(_) | Err(_) => None,
    }
}

/// The part of a stored manifest that its checksum covers, if the checksum fits.
fn sound_body(bytes: &[u8]) -> Option<&[u8]> {
    let (digest, body) = bytes.strip_prefix(MANIFEST_MAGIC)?.split_first_chunk::<32>()?;
    (Digest::of(body).0 == *digest).then_some(body)
}

/// Length and digest of a file; `None` for what has no content.
pub(super) fn file_digest(entry: &Entry) -> Option<(u64, Digest)> {
    match entry {
        Entry::File { size, digest, .. } => Some((*size, *digest)),
        Entry::Directory { .. } | Entry::Symlink { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(files: &[(&str, &[u8])]) -> Manifest {
        let entry = |content: &[u8]| Entry::File {
            mode: 0o644,
            size: content.len() as u64,
            digest: Digest::of(content),
            mtime: 5,
        };
        Manifest { entries: files.iter().map(|(path, content)| (path.parse().unwrap(), entry(content))).collect() }
    }

    fn make_old(path: &Path) {
        let long_ago = SystemTime::now() - 2 * GRACE;
        File::open(path).unwrap().set_modified(long_ago).unwrap();
    }

    #[test]
    fn what_was_put_is_found_by_its_digest_also_after_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("source");
        fs::write(&source, b"hello").unwrap();
        let large = vec![7; usize::try_from(IN_MEMORY_BYTES_MAX).unwrap() + 9];
        let large_source = dir.path().join("large");
        fs::write(&large_source, &large).unwrap();

        let store = ContentStore::open(&dir.path().join("store")).unwrap();
        assert_eq!(store.put_file(&source).unwrap(), (Digest::of(b"hello"), 5));
        assert_eq!(store.put_file(&large_source).unwrap(), (Digest::of(&large), large.len() as u64));
        assert_eq!(store.put_file(&large_source).unwrap(), (Digest::of(&large), large.len() as u64));
        let store = ContentStore::open(&dir.path().join("store")).unwrap();
        assert!(store.contains(Digest::of(b"hello")));
        assert_eq!(store.read(Digest::of(b"hello")).unwrap(), b"hello");
        assert_eq!(store.read(Digest::of(&large)).unwrap(), large);
        let absent = Digest::of(b"other");
        assert!(matches!(store.open_content(absent), Err(ContentError::Missing { digest }) if digest == absent));
        assert_eq!(list(&dir.path().join("store/incoming")).unwrap(), Vec::<PathBuf>::new());
    }

    #[test]
    fn a_batch_that_is_not_committed_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = ContentStore::open(dir.path()).unwrap();
        let batch = store.batch();
        let digest = batch.take_bytes(b"half").unwrap();
        assert!(!store.contains(digest), "a name is given only after the flush");
        drop(batch);
        assert!(!store.contains(digest));
        assert_eq!(list(&dir.path().join("incoming")).unwrap(), Vec::<PathBuf>::new());
    }

    #[test]
    fn many_files_are_taken_in_one_batch() {
        let dir = tempfile::tempdir().unwrap();
        let store = ContentStore::open(dir.path()).unwrap();
        let batch = store.batch();
        let digests: Vec<Digest> =
            (0..3 * SYNC_EACH_MAX).map(|n| batch.take_bytes(&n.to_le_bytes()).unwrap()).collect();
        batch.commit().unwrap();
        assert!(digests.iter().all(|digest| store.contains(*digest)));
    }

    #[test]
    fn damaged_content_and_manifests_are_named_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let store = ContentStore::open(dir.path()).unwrap();
        let digest = store.put_bytes(b"good").unwrap();
        fs::write(store.content_path(digest), b"evil").unwrap();
        assert!(matches!(store.read(digest), Err(ContentError::Damaged { digest: named }) if named == digest));

        let version = store.put_manifest(&tree(&[("a", b"1")])).unwrap();
        let path = store.manifest_path(version);
        let good = fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&path, bad).unwrap();
            assert!(matches!(store.manifest(version), Err(ContentError::ManifestDamaged { .. })), "byte {at} flipped");
        }
        assert_eq!(store.put_manifest(&tree(&[("a", b"1")])).unwrap(), version);
        assert_eq!(store.manifest(version).unwrap(), tree(&[("a", b"1")]), "a damaged one is replaced");
    }

    #[test]
    fn the_first_manifest_of_a_version_keeps_its_times() {
        let dir = tempfile::tempdir().unwrap();
        let store = ContentStore::open(dir.path()).unwrap();
        let first = tree(&[("a", b"1")]);
        let mut second = first.clone();
        for entry in second.entries.values_mut() {
            if let Entry::File { mtime, .. } = entry {
                *mtime = 99;
            }
        }
        let version = store.put_manifest(&first).unwrap();
        assert_eq!(store.put_manifest(&second).unwrap(), version);
        assert_eq!(store.manifest(version).unwrap(), first);
    }

    #[test]
    fn garbage_is_what_no_kept_version_names_and_what_is_old() {
        let dir = tempfile::tempdir().unwrap();
        let store = ContentStore::open(dir.path()).unwrap();
        let contents: [&[u8]; 4] = [b"kept", b"dropped", b"young", b"of a young manifest"];
        let digests = contents.map(|content| store.put_bytes(content).unwrap());
        let kept = store.put_manifest(&tree(&[("a", contents[0])])).unwrap();
        let dropped = store.put_manifest(&tree(&[("a", contents[1])])).unwrap();
        let young = store.put_manifest(&tree(&[("a", contents[3])])).unwrap();
        for digest in [digests[0], digests[1], digests[3]] {
            make_old(&store.content_path(digest));
        }
        make_old(&store.manifest_path(kept));
        make_old(&store.manifest_path(dropped));

        let freed = store.collect_garbage([kept].into_iter()).unwrap();
        assert_eq!(freed.files, 2, "the dropped content and its manifest");
        assert_eq!(digests.map(|digest| store.contains(digest)), [true, false, true, true]);
        assert!(store.manifest(kept).is_ok() && store.manifest(young).is_ok());
        assert!(matches!(store.manifest(dropped), Err(ContentError::ManifestMissing { .. })));
    }

    #[test]
    fn content_that_is_relied_upon_again_is_young_again() {
        let dir = tempfile::tempdir().unwrap();
        let store = ContentStore::open(dir.path()).unwrap();
        let digest = store.put_bytes(b"again").unwrap();
        make_old(&store.content_path(digest));
        assert!(store.hold(digest, 5).unwrap());
        assert_eq!(store.collect_garbage(std::iter::empty()).unwrap(), Freed::default());
        assert!(store.contains(digest));
    }

    #[test]
    fn nothing_is_removed_when_a_kept_manifest_cannot_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let store = ContentStore::open(dir.path()).unwrap();
        let digest = store.put_bytes(b"precious").unwrap();
        make_old(&store.content_path(digest));
        let lost = tree(&[("a", b"precious")]).version();
        assert!(matches!(
            store.collect_garbage([lost].into_iter()),
            Err(ContentError::ManifestMissing { version }) if version == lost
        ));
        assert!(store.contains(digest));
    }
}
