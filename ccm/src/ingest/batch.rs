//! Contents on their way into the store: written first, made durable together, named last.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use common::digest::Digest;

use super::content::{ContentError, ContentStore, discard, io_error};

/// Up to this length a file passes through memory, so that content that is here already is never
/// written again.
pub(super) const IN_MEMORY_BYTES_MAX: u64 = 8 << 20;
/// Up to this many files are made durable one by one; beyond it, by one flush of the file system.
pub(super) const SYNC_EACH_MAX: usize = 16;

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

/// Contents on their way into the store. Dropped without [`Batch::commit`], they are discarded.
#[derive(Debug)]
pub(super) struct Batch<'store> {
    store: &'store ContentStore,
    /// Whether the file system shares extents between source and store; found out by the first
    /// large file.
    clones: AtomicBool,
    pending: Mutex<BTreeMap<Digest, PathBuf>>,
}

impl<'store> Batch<'store> {
    /// An empty batch.
    pub(super) fn new(store: &'store ContentStore) -> Self {
        Self { store, clones: AtomicBool::new(true), pending: Mutex::new(BTreeMap::new()) }
    }

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
