//! Objects on disk, named by their digest; unfinished ones survive a crash.
//!
//! In one directory: `<hex>` is a complete object, `<hex>.table` its chunk table, `<hex>.partial`
//! an unfinished one and `<hex>.bitmap` which of its chunks are verified and durable. `*.new` are
//! files being written. A name without suffix appears only by a rename after its bytes were
//! verified and made durable: who sees it may believe it.
//!
//! One process owns a store directory; within it, clones of [`ObjectStore`] and [`Assembler`]
//! share their state. All calls block on the disk: async callers go through
//! `tokio::task::spawn_blocking`.
//!
//! Files with other names in the directory are never touched.

mod assembler;
pub(crate) mod bitmap;
mod files;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use common::digest::Digest;

use crate::chunk::{ChunkTable, chunk_bytes_for};

pub use assembler::Assembler;
use assembler::Inner as AssemblerInner;
use files::{Kind, create_new, parse_name, remove_if_there, sync_dir};

/// Why the store could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk said no.
    #[error("cannot {action} {path}")]
    Io {
        /// A verb.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The object does not fit into the store's limit.
    #[error("no space for object {digest}: it needs {needed_bytes} bytes, {free_bytes} of {bytes_max} are free")]
    Space {
        /// The object.
        digest: Digest,
        /// Its length.
        needed_bytes: u64,
        /// What the limit leaves.
        free_bytes: u64,
        /// The store's limit.
        bytes_max: u64,
    },
    /// The content is not what its name says.
    #[error("{path} has the digest {actual}, expected was {expected}")]
    Digest {
        /// The file.
        path: PathBuf,
        /// The digest it was given under.
        expected: Digest,
        /// The digest of its bytes.
        actual: Digest,
    },
    /// A chunk table for another object, or one under way with another geometry.
    #[error("the chunk table does not fit object {digest} of {length} bytes")]
    TableMismatch {
        /// The object.
        digest: Digest,
        /// Its announced length.
        length: u64,
    },
    /// No such object.
    #[error("object {digest} is not in the store")]
    Missing {
        /// The object.
        digest: Digest,
    },
    /// Bytes outside the object.
    #[error("{bytes} bytes at {offset} lie outside object {digest}")]
    OutOfRange {
        /// The object.
        digest: Digest,
        /// Offset of the first byte.
        offset: u64,
        /// How many.
        bytes: usize,
    },
    /// It cannot be finished yet.
    #[error("object {digest} lacks {missing} chunks")]
    Incomplete {
        /// The object.
        digest: Digest,
        /// How many chunks are not verified.
        missing: u32,
    },
    /// Chunks that had been verified read back differently. They count as missing again.
    #[error("{count} chunks of object {digest} were damaged on disk")]
    Damaged {
        /// The object.
        digest: Digest,
        /// How many chunks.
        count: u32,
    },
    /// The object was removed, or its file could not be made durable; nothing more goes in.
    #[error("object {digest} takes no more data: it was removed or its disk failed")]
    Closed {
        /// The object.
        digest: Digest,
    },
}

impl StoreError {
    fn io<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Self + use<'a> {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }
}

/// A directory of objects. Cheap to clone; clones share everything.
#[derive(Debug, Clone)]
pub struct ObjectStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    dir: PathBuf,
    state: Mutex<State>,
    /// Signalled when an assembler has let go of its files.
    released: Condvar,
}

#[derive(Debug)]
struct State {
    bytes_max: u64,
    /// Bytes booked per object, complete or not.
    booked: BTreeMap<Digest, u64>,
    assemblers: BTreeMap<Digest, Weak<AssemblerInner>>,
    writes: u64,
}

impl State {
    fn book(&mut self, digest: Digest, bytes: u64) -> Result<(), StoreError> {
        let used: u64 = self.booked.iter().filter(|(other, _)| **other != digest).map(|(_, bytes)| bytes).sum();
        let free_bytes = self.bytes_max.saturating_sub(used);
        if bytes > free_bytes {
            return Err(StoreError::Space { digest, needed_bytes: bytes, free_bytes, bytes_max: self.bytes_max });
        }
        self.booked.insert(digest, bytes);
        Ok(())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, digest: Digest, kind: Kind) -> PathBuf {
        self.dir.join(kind.name(digest))
    }

    /// Writes a small file whole or not at all. The directory entry is not yet durable.
    fn replace(&self, digest: Digest, kind: Kind, bytes: &[u8]) -> Result<(), StoreError> {
        let new = self.path(digest, self.new_kind());
        files::write_durably(&new, bytes).map_err(StoreError::io("write", &new))?;
        fs::rename(&new, self.path(digest, kind)).map_err(StoreError::io("rename", &new))
    }

    /// A kind of file name that nobody else uses.
    fn new_kind(&self) -> Kind {
        let mut state = self.lock();
        state.writes += 1;
        Kind::New(state.writes)
    }

    fn sync(&self) -> Result<(), StoreError> {
        sync_dir(&self.dir).map_err(StoreError::io("sync", &self.dir))
    }

    /// The last step of every complete object: its bytes are durable under `from`.
    fn publish(&self, from: &Path, table: &ChunkTable) -> Result<(), StoreError> {
        let digest = table.root();
        if table.chunks() > 1 {
            self.replace(digest, Kind::Table, &table.to_bytes())?;
        }
        fs::rename(from, self.path(digest, Kind::Complete)).map_err(StoreError::io("rename", from))?;
        self.sync()
    }
}

/// A complete or partly complete object, for reading.
pub(crate) struct Readable {
    pub(crate) file: Arc<File>,
    pub(crate) length: u64,
    /// Present while the object is unfinished.
    pub(crate) assembler: Option<Assembler>,
}

impl ObjectStore {
    /// Opens a store and makes the directory where it is missing. Left-overs of a crash that are
    /// worth nothing are removed; partial objects stay.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let dir = dir.into();
        files::create_private_dir(&dir).map_err(StoreError::io("create", &dir))?;
        let mut found: BTreeMap<Digest, Vec<(Kind, u64)>> = BTreeMap::new();
        for entry in fs::read_dir(&dir).map_err(StoreError::io("list", &dir))? {
            let entry = entry.map_err(StoreError::io("list", &dir))?;
            let Some((digest, kind)) = entry.file_name().to_str().and_then(parse_name) else { continue };
            let metadata = entry.metadata().map_err(StoreError::io("inspect", &entry.path()))?;
            if metadata.is_file() {
                found.entry(digest).or_default().push((kind, metadata.len()));
            }
        }
        let mut booked = BTreeMap::new();
        for (digest, kinds) in found {
            let has = |wanted: Kind| kinds.iter().any(|(kind, _)| *kind == wanted);
            let (complete, partial) = (has(Kind::Complete), has(Kind::Partial));
            for (kind, bytes) in kinds {
                let keep = match kind {
                    Kind::Complete => true,
                    Kind::Table => complete,
                    Kind::Partial => !complete,
                    Kind::Bitmap => partial && !complete,
                    Kind::New(_) => false,
                };
                if !keep {
                    let path = dir.join(kind.name(digest));
                    remove_if_there(&path).map_err(StoreError::io("remove", &path))?;
                } else if matches!(kind, Kind::Complete | Kind::Partial) {
                    booked.insert(digest, bytes);
                }
            }
        }
        let state = State { bytes_max: u64::MAX, booked, assemblers: BTreeMap::new(), writes: 0 };
        Ok(Self { shared: Arc::new(Shared { dir, state: Mutex::new(state), released: Condvar::new() }) })
    }

    /// Limits the bytes of all objects, complete and partial at their full length. Without it the
    /// disk is the limit. What is there already stays, even above the limit.
    #[must_use]
    pub fn with_bytes_max(self, bytes_max: u64) -> Self {
        self.shared.lock().bytes_max = bytes_max;
        self
    }

    /// Bytes booked by all objects, partial ones at their full length.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.shared.lock().booked.values().sum()
    }

    /// Whether the object is here, complete.
    #[must_use]
    pub fn contains(&self, digest: Digest) -> bool {
        self.path(digest).is_file()
    }

    /// Where the complete object lies or would lie.
    #[must_use]
    pub fn path(&self, digest: Digest) -> PathBuf {
        self.shared.path(digest, Kind::Complete)
    }

    /// Opens a complete object for reading.
    ///
    /// # Errors
    /// [`StoreError::Missing`] or [`StoreError::Io`].
    pub fn open_object(&self, digest: Digest) -> Result<File, StoreError> {
        let path = self.path(digest);
        File::open(&path).map_err(|source| match source.kind() == io::ErrorKind::NotFound {
            true => StoreError::Missing { digest },
            false => StoreError::Io { action: "open", path, source },
        })
    }

    /// Takes an object from memory. Durable when this returns.
    ///
    /// # Errors
    /// [`StoreError::Space`] or [`StoreError::Io`].
    pub fn put_bytes(&self, bytes: &[u8]) -> Result<Digest, StoreError> {
        let length = bytes.len() as u64;
        let new = self.shared.dir.join(self.shared.new_kind().name(Digest::of(bytes)));
        let table = ChunkTable::of(bytes, length, chunk_bytes_for(length)).map_err(StoreError::io("hash", &new))?;
        let digest = table.root();
        if !self.contains(digest) {
            self.booked(digest, length, || {
                files::write_durably(&new, bytes).map_err(StoreError::io("write", &new))?;
                self.shared.publish(&new, &table)
            })
            .inspect_err(|_| _ = fs::remove_file(&new))?;
        }
        Ok(digest)
    }

    /// Takes a file over: its bytes are verified, and the file is gone from its old place when this
    /// returns. A file of the same file system is renamed, another is copied. Nobody may write to
    /// it meanwhile.
    ///
    /// # Errors
    /// [`StoreError::Digest`] when the content is not `digest`; [`StoreError::Space`];
    /// [`StoreError::Io`].
    pub fn put_file(&self, path: &Path, digest: Digest) -> Result<(), StoreError> {
        let file = File::open(path).map_err(StoreError::io("open", path))?;
        self.put_file_read_by(path, digest, file)
    }

    /// As [`ObjectStore::put_file`], for a file that has its full length and is still being filled:
    /// its bytes are verified as `reader` gives them, from the first to the last, and the reader
    /// waits for those that are not there yet. What it has given must not change any more.
    ///
    /// # Errors
    /// As [`ObjectStore::put_file`]; what the reader says is a [`StoreError::Io`].
    pub fn put_file_read_by(&self, path: &Path, digest: Digest, reader: impl io::Read) -> Result<(), StoreError> {
        let file = File::open(path).map_err(StoreError::io("open", path))?;
        let length = file.metadata().map_err(StoreError::io("inspect", path))?.len();
        let table = ChunkTable::of(reader, length, chunk_bytes_for(length)).map_err(StoreError::io("read", path))?;
        if table.root() != digest {
            return Err(StoreError::Digest { path: path.to_owned(), expected: digest, actual: table.root() });
        }
        if self.contains(digest) {
            return remove_if_there(path).map_err(StoreError::io("remove", path));
        }
        self.booked(digest, length, || {
            file.sync_all().map_err(StoreError::io("sync", path))?;
            let new = self.shared.path(digest, self.shared.new_kind());
            match fs::rename(path, &new) {
                Ok(()) => self.shared.publish(&new, &table),
                Err(error) if error.kind() == io::ErrorKind::CrossesDevices => self.copy_in(path, &new, &table),
                Err(source) => Err(StoreError::Io { action: "rename", path: path.to_owned(), source }),
            }
        })
    }

    fn copy_in(&self, path: &Path, new: &Path, table: &ChunkTable) -> Result<(), StoreError> {
        let copy = || -> io::Result<ChunkTable> {
            let mut to = create_new(new)?;
            io::copy(&mut File::open(path)?, &mut to)?;
            to.sync_all()?;
            ChunkTable::of(File::open(new)?, table.length(), table.chunk_bytes())
        };
        let copied = copy().map_err(StoreError::io("copy", path)).and_then(|copied| match copied == *table {
            true => self.shared.publish(new, table),
            false => Err(StoreError::Digest { path: new.to_owned(), expected: table.root(), actual: copied.root() }),
        });
        copied.inspect_err(|_| _ = fs::remove_file(new))?;
        remove_if_there(path).map_err(StoreError::io("remove", path))
    }

    /// Books space, acts, and gives the space back when that failed.
    fn booked(
        &self,
        digest: Digest,
        bytes: u64,
        act: impl FnOnce() -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let before = {
            let mut state = self.shared.lock();
            let before = state.booked.get(&digest).copied();
            state.book(digest, bytes)?;
            before
        };
        act().inspect_err(|_| {
            let mut state = self.shared.lock();
            match before {
                Some(bytes) => state.booked.insert(digest, bytes),
                None => state.booked.remove(&digest),
            };
        })
    }

    /// The chunk table of a complete object; made and kept when it has none yet.
    ///
    /// # Errors
    /// [`StoreError::Missing`], [`StoreError::Io`], or [`StoreError::Digest`] when the object's
    /// bytes are not what its name says.
    pub fn table(&self, digest: Digest) -> Result<ChunkTable, StoreError> {
        let file = self.open_object(digest)?;
        let path = self.path(digest);
        let length = file.metadata().map_err(StoreError::io("inspect", &path))?.len();
        if let Ok(table) = ChunkTable::single(digest, length, chunk_bytes_for(length)) {
            return Ok(table);
        }
        let kept = fs::read(self.shared.path(digest, Kind::Table)).ok();
        if let Some(table) = kept.and_then(|bytes| ChunkTable::from_bytes(&bytes, digest).ok()) {
            return Ok(table);
        }
        let table = ChunkTable::of(file, length, chunk_bytes_for(length)).map_err(StoreError::io("read", &path))?;
        if table.root() != digest {
            return Err(StoreError::Digest { path, expected: digest, actual: table.root() });
        }
        self.shared.replace(digest, Kind::Table, &table.to_bytes())?;
        Ok(table)
    }

    /// Begins an object or goes on with it where the last durable bitmap says. While an assembler
    /// of the object lives, every call gives another handle of that one.
    ///
    /// Space for the whole object is booked and allocated here. Should the object be complete
    /// already, ask [`ObjectStore::contains`] first: this would begin it anew.
    ///
    /// # Errors
    /// [`StoreError::TableMismatch`] when the table is for another object or length, or another
    /// chunk size is under way; [`StoreError::Space`]; [`StoreError::Io`].
    pub fn partial(&self, digest: Digest, length: u64, table: ChunkTable) -> Result<Assembler, StoreError> {
        if table.root() != digest || table.length() != length {
            return Err(StoreError::TableMismatch { digest, length });
        }
        let mut state = self.shared.lock();
        loop {
            match state.assemblers.get(&digest).map(Weak::upgrade) {
                None => break,
                Some(Some(inner)) => {
                    // The handle may be the last one: it must not be dropped under the lock.
                    drop(state);
                    let fits = *inner.table() == table;
                    let assembler = Assembler::from(inner);
                    return if fits { Ok(assembler) } else { Err(StoreError::TableMismatch { digest, length }) };
                }
                // The last handle is just making its state durable.
                Some(None) => state = self.shared.released.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
        let before = state.booked.get(&digest).copied();
        state.book(digest, length)?;
        match AssemblerInner::open(&self.shared, table) {
            Ok(inner) => {
                let inner = Arc::new(inner);
                state.assemblers.insert(digest, Arc::downgrade(&inner));
                Ok(Assembler::from(inner))
            }
            Err(error) => {
                if before.is_none() {
                    state.booked.remove(&digest);
                }
                Err(error)
            }
        }
    }

    fn active(&self, digest: Digest) -> Option<Assembler> {
        self.shared.lock().assemblers.get(&digest).and_then(Weak::upgrade).map(Assembler::from)
    }

    pub(crate) fn readable(&self, digest: Digest) -> Result<Option<Readable>, StoreError> {
        // A complete object first: an assembler may still be held by those who finished it.
        match self.open_object(digest) {
            Ok(file) => {
                let length = file.metadata().map_err(StoreError::io("inspect", &self.path(digest)))?.len();
                Ok(Some(Readable { file: Arc::new(file), length, assembler: None }))
            }
            Err(StoreError::Missing { .. }) => Ok(self.active(digest).map(|assembler| Readable {
                file: assembler.file(),
                length: assembler.table().length(),
                assembler: Some(assembler),
            })),
            Err(error) => Err(error),
        }
    }

    /// Removes an object, complete or partial. An assembler of it takes no more data. Nothing to
    /// remove is no error.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn remove(&self, digest: Digest) -> Result<(), StoreError> {
        let assembler = self.active(digest);
        // Held until the files are gone, so that no write or commit comes in between.
        let _guard = assembler.as_ref().map(Assembler::close);
        for kind in [Kind::Complete, Kind::Table, Kind::Bitmap, Kind::Partial] {
            let path = self.shared.path(digest, kind);
            remove_if_there(&path).map_err(StoreError::io("remove", &path))?;
        }
        self.shared.sync()?;
        self.shared.lock().booked.remove(&digest);
        Ok(())
    }

    /// Removes partial objects that nobody works on and nothing was written to for `older_than`.
    /// Gives the removed ones.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn clean_partials(&self, older_than: Duration) -> Result<Vec<Digest>, StoreError> {
        let now = SystemTime::now();
        let mut removed = Vec::new();
        let candidates: Vec<Digest> = self.shared.lock().booked.keys().copied().collect();
        for digest in candidates {
            let path = self.shared.path(digest, Kind::Partial);
            let Ok(modified) = fs::metadata(&path).and_then(|metadata| metadata.modified()) else { continue };
            // A file from the future is a clock that was set back: it is not old.
            let old = now.duration_since(modified).is_ok_and(|age| age >= older_than);
            let busy = self.shared.lock().assemblers.contains_key(&digest);
            if old && !busy {
                self.remove(digest)?;
                removed.push(digest);
            }
        }
        Ok(removed)
    }

    /// Removes complete objects that came here `older_than` ago or earlier: left over from work that
    /// a crash cut off. The caller knows that nobody needs them. Gives the removed ones.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn clean_complete(&self, older_than: Duration) -> Result<Vec<Digest>, StoreError> {
        let now = SystemTime::now();
        let mut removed = Vec::new();
        let candidates: Vec<Digest> = self.shared.lock().booked.keys().copied().collect();
        for digest in candidates {
            let Ok(modified) = fs::metadata(self.path(digest)).and_then(|metadata| metadata.modified()) else {
                continue;
            };
            if now.duration_since(modified).is_ok_and(|age| age >= older_than) {
                self.remove(digest)?;
                removed.push(digest);
            }
        }
        Ok(removed)
    }
}

#[cfg(test)]
mod tests;
