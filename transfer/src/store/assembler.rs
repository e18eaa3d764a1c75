//! One unfinished object: chunks go in in any order, and only verified ones count.
//!
//! Order that makes a crash harmless: bytes are written, then made durable, then the bitmap that
//! counts them is replaced and made durable. A crash therefore loses at most what came since the
//! last commit, and never counts a chunk that is not there. Bytes of a verified chunk are never
//! written again: what was checked, and perhaps passed on already, cannot be altered afterwards by
//! whoever sends datagrams.
//!
//! When the system fails to make bytes durable, their state is unknown and a second try would
//! report success without having written them. The assembler then closes; the next one starts from
//! the last durable bitmap.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use common::digest::Digest;
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use super::bitmap::Bitmap;
use super::files::{Kind, remove_if_there};
use super::{Shared, StoreError};
use crate::chunk::ChunkTable;

/// Commit at the latest after this many verified bytes. More costs fewer syncs, and more data again
/// after a crash. Source: research on the WAN, 4.6.
const COMMIT_BYTES: u64 = 64 << 20;
/// Commit with the first chunk after this time.
const COMMIT_AFTER: Duration = Duration::from_secs(1);

/// A handle of an unfinished object. Clones and repeated [`super::ObjectStore::partial`] calls share
/// one state; when the last goes, what is verified is made durable.
#[derive(Debug, Clone)]
pub struct Assembler {
    inner: Arc<Inner>,
}

impl From<Arc<Inner>> for Assembler {
    fn from(inner: Arc<Inner>) -> Self {
        Self { inner }
    }
}

#[derive(Debug)]
pub(super) struct Inner {
    store: Arc<Shared>,
    table: ChunkTable,
    file: Arc<File>,
    state: Mutex<State>,
}

#[derive(Debug)]
pub(super) struct State {
    bitmap: Bitmap,
    phase: Phase,
    uncommitted_bytes: u64,
    committed_at: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    Finished,
    Closed,
}

impl Inner {
    pub(super) fn open(store: &Arc<Shared>, table: ChunkTable) -> Result<Self, StoreError> {
        let digest = table.root();
        let path = store.path(digest, Kind::Partial);
        let bitmap_path = store.path(digest, Kind::Bitmap);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(StoreError::io("open", &path))?;
        let length = file.metadata().map_err(StoreError::io("inspect", &path))?.len();
        let resumed = fs::read(&bitmap_path)
            .ok()
            .filter(|_| length == table.length())
            .and_then(|bytes| Bitmap::from_bytes(&bytes, &table));
        let bitmap = match resumed {
            Some(bitmap) => bitmap,
            None => {
                // A bitmap about other bytes must be gone before these are.
                remove_if_there(&bitmap_path).map_err(StoreError::io("remove", &bitmap_path))?;
                store.sync()?;
                allocate(&file, table.length()).map_err(|source| {
                    // A file without space would count at its full length after a restart.
                    _ = fs::remove_file(&path);
                    StoreError::Io { action: "allocate", path: path.clone(), source }
                })?;
                Bitmap::empty(table.chunks())
            }
        };
        let state = State { bitmap, phase: Phase::Open, uncommitted_bytes: 0, committed_at: Instant::now() };
        Ok(Self { store: Arc::clone(store), table, file: Arc::new(file), state: Mutex::new(state) })
    }

    pub(super) fn table(&self) -> &ChunkTable {
        &self.table
    }

    fn digest(&self) -> Digest {
        self.table.root()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_open(&self) -> Result<MutexGuard<'_, State>, StoreError> {
        let state = self.lock();
        match state.phase {
            Phase::Open | Phase::Finished => Ok(state),
            Phase::Closed => Err(StoreError::Closed { digest: self.digest() }),
        }
    }

    fn io(&self, action: &'static str) -> impl FnOnce(io::Error) -> StoreError {
        let path = self.store.path(self.digest(), Kind::Partial);
        move |source| StoreError::Io { action, path, source }
    }

    fn read(&self, index: u32) -> Result<Option<Vec<u8>>, StoreError> {
        let Some(range) = self.table.range(index) else { return Ok(None) };
        let mut bytes = vec![0; usize::try_from(range.end - range.start).expect("a chunk fits into memory")];
        self.file.read_exact_at(&mut bytes, range.start).map_err(self.io("read"))?;
        Ok(Some(bytes))
    }

    fn commit(&self, state: &mut State) -> Result<(), StoreError> {
        if state.phase != Phase::Open || state.uncommitted_bytes == 0 {
            return Ok(());
        }
        let commit = || {
            self.file.sync_data().map_err(self.io("sync"))?;
            self.store.replace(self.digest(), Kind::Bitmap, &state.bitmap.to_bytes(&self.table))?;
            self.store.sync()
        };
        match commit() {
            Ok(()) => {
                state.uncommitted_bytes = 0;
                state.committed_at = Instant::now();
                Ok(())
            }
            Err(error) => {
                state.phase = Phase::Closed;
                Err(error)
            }
        }
    }

    fn count(&self, state: &mut State, index: u32, bytes: u64) -> Result<(), StoreError> {
        state.bitmap.set(index);
        state.uncommitted_bytes += bytes;
        if state.uncommitted_bytes >= COMMIT_BYTES || state.committed_at.elapsed() >= COMMIT_AFTER {
            self.commit(state)?;
        }
        Ok(())
    }
}

/// Makes the file exactly this long, with space behind it where the file system can promise it.
fn allocate(file: &File, length: u64) -> io::Result<()> {
    file.set_len(0)?;
    if length == 0 {
        return Ok(());
    }
    match fallocate(file, FallocateFlags::empty(), 0, length) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => file.set_len(length),
        other => Ok(other?),
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let mut state = self.lock();
        if let Err(error) = self.commit(&mut state) {
            tracing::warn!(object = %self.digest(), error = &error as &dyn std::error::Error, "progress lost");
        }
        drop(state);
        self.store.lock().assemblers.remove(&self.digest());
        self.store.released.notify_all();
    }
}

impl Assembler {
    /// The object's chunk table.
    #[must_use]
    pub fn table(&self) -> &ChunkTable {
        &self.inner.table
    }

    pub(crate) fn file(&self) -> Arc<File> {
        Arc::clone(&self.inner.file)
    }

    /// Takes a whole chunk. `false` when the bytes are not that chunk; then nothing was written.
    ///
    /// # Errors
    /// [`StoreError::Io`], or [`StoreError::Closed`].
    pub fn write_chunk(&self, index: u32, bytes: &[u8]) -> Result<bool, StoreError> {
        let Some(range) = self.table().range(index) else { return Ok(false) };
        if !self.table().verify_chunk(index, bytes) {
            return Ok(false);
        }
        let mut state = self.inner.lock_open()?;
        if !state.bitmap.has(index) {
            self.inner.file.write_all_at(bytes, range.start).map_err(self.inner.io("write"))?;
            self.inner.count(&mut state, index, range.end - range.start)?;
        }
        Ok(true)
    }

    /// Takes unverified bytes anywhere in the object, as datagrams bring them. Parts that fall into
    /// verified chunks are dropped. They count once [`Assembler::verify_chunk`] says so.
    ///
    /// # Errors
    /// [`StoreError::OutOfRange`] when a byte lies outside the object; [`StoreError::Io`];
    /// [`StoreError::Closed`].
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), StoreError> {
        let end = offset.checked_add(bytes.len() as u64).filter(|end| *end <= self.table().length());
        let Some(end) = end else {
            return Err(StoreError::OutOfRange { digest: self.inner.digest(), offset, bytes: bytes.len() });
        };
        let chunk_bytes = u64::from(self.table().chunk_bytes());
        let state = self.inner.lock_open()?;
        let mut at = offset;
        while at < end {
            let index = at / chunk_bytes;
            let stop = end.min((index + 1) * chunk_bytes);
            if !u32::try_from(index).is_ok_and(|index| state.bitmap.has(index)) {
                let from = usize::try_from(at - offset).expect("within a slice");
                let to = usize::try_from(stop - offset).expect("within a slice");
                self.inner.file.write_all_at(&bytes[from..to], at).map_err(self.inner.io("write"))?;
            }
            at = stop;
        }
        Ok(())
    }

    /// Reads a chunk back and counts it if it is right.
    ///
    /// # Errors
    /// [`StoreError::Io`] or [`StoreError::Closed`].
    pub fn verify_chunk(&self, index: u32) -> Result<bool, StoreError> {
        // The lock keeps other bytes out between reading and counting.
        let mut state = self.inner.lock_open()?;
        if state.bitmap.has(index) {
            return Ok(true);
        }
        let Some(bytes) = self.inner.read(index)? else { return Ok(false) };
        if !self.table().verify_chunk(index, &bytes) {
            return Ok(false);
        }
        self.inner.count(&mut state, index, bytes.len() as u64)?;
        Ok(true)
    }

    /// Whether the chunk is verified.
    #[must_use]
    pub fn has(&self, index: u32) -> bool {
        self.inner.lock().bitmap.has(index)
    }

    /// The chunks that are not verified, ascending.
    #[must_use]
    pub fn missing(&self) -> Vec<u32> {
        let state = self.inner.lock();
        (0..self.table().chunks()).filter(|index| !state.bitmap.has(*index)).collect()
    }

    /// Bytes from the object's first on that are verified without a gap.
    #[must_use]
    pub fn whole_bytes(&self) -> u64 {
        let state = self.inner.lock();
        let gap = (0..self.table().chunks()).find(|index| !state.bitmap.has(*index));
        gap.and_then(|gap| self.table().range(gap)).map_or(self.table().length(), |range| range.start)
    }

    /// The file that is being filled, for reading what is verified. Stays good when the object is finished.
    ///
    /// # Errors
    /// When the system gives no further handle.
    pub fn reader(&self) -> io::Result<File> {
        self.inner.file.try_clone()
    }

    /// Bytes of all verified chunks.
    #[must_use]
    pub fn verified_bytes(&self) -> u64 {
        let state = self.inner.lock();
        let chunks = (0..self.table().chunks()).filter(|index| state.bitmap.has(*index));
        chunks.filter_map(|index| self.table().range(index)).map(|range| range.end - range.start).sum()
    }

    /// The bytes of a verified chunk; `None` for any other.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn read_chunk(&self, index: u32) -> Result<Option<Vec<u8>>, StoreError> {
        if self.has(index) { self.inner.read(index) } else { Ok(None) }
    }

    /// Whether every chunk is verified.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.inner.lock().bitmap.missing() == 0
    }

    /// Makes durable what is verified so far, without waiting for the usual moment.
    ///
    /// # Errors
    /// [`StoreError::Io`] or [`StoreError::Closed`]; after an error the assembler stays closed.
    pub fn sync(&self) -> Result<(), StoreError> {
        self.inner.commit(&mut *self.inner.lock_open()?)
    }

    /// Turns the partial object into a complete one: makes it durable, reads the whole back against
    /// its digest, renames it. Done twice is done once.
    ///
    /// # Errors
    /// [`StoreError::Incomplete`] when chunks are missing; [`StoreError::Damaged`] when some read
    /// back wrong, which then are missing again; [`StoreError::Io`]; [`StoreError::Closed`].
    pub fn finish(&self) -> Result<(), StoreError> {
        let inner = &self.inner;
        let mut state = inner.lock_open()?;
        if state.phase == Phase::Finished {
            return Ok(());
        }
        let digest = inner.digest();
        match state.bitmap.missing() {
            0 => {}
            missing => return Err(StoreError::Incomplete { digest, missing }),
        }
        inner.file.sync_all().map_err(inner.io("sync")).inspect_err(|_| state.phase = Phase::Closed)?;
        let mut count = 0;
        for index in 0..self.table().chunks() {
            if !inner.read(index)?.is_some_and(|bytes| self.table().verify_chunk(index, &bytes)) {
                state.bitmap.clear(index);
                state.uncommitted_bytes += 1;
                count += 1;
            }
        }
        if count > 0 {
            inner.commit(&mut state)?;
            return Err(StoreError::Damaged { digest, count });
        }
        inner.store.publish(&inner.store.path(digest, Kind::Partial), self.table())?;
        state.phase = Phase::Finished;
        let bitmap = inner.store.path(digest, Kind::Bitmap);
        remove_if_there(&bitmap).map_err(StoreError::io("remove", &bitmap))
    }

    /// Lets nothing more in, and holds the state until the guard goes.
    pub(super) fn close(&self) -> MutexGuard<'_, State> {
        let mut state = self.inner.lock();
        state.phase = Phase::Closed;
        state
    }
}
