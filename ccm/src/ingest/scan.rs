//! What is in the staging tree.
//!
//! Only files whose stamp differs from the index of the last scan are read; each is read once, on
//! its way into the content store. What cannot be published as it stands is refused by name: a scan
//! never leaves something out unless the site's patterns say so.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::SystemTime;

use common::digest::{Digest, Version};
use common::exclude::Exclude;
use common::manifest::{Entry, Root};
use common::path::{ContentPath, PathError};
use rustix::io::Errno;

use super::Progress;
use super::batch::{Batch, TakeError};
use super::compare::{Changes, compare, same_but_for_mode};
use super::content::{ContentError, ContentStore};
use super::index::{self, Index, Place, Row, Shards, Stamp};
use super::stored::StoredTree;
use super::tree::{Tree, bytes_of, patched};
use super::walk::{self, Rules};
use super::walked::{Files, Found, Suspect, Walked};

/// How often a file is read that changes meanwhile.
const READS_MAX: u32 = 3;
/// Less than this much to read is read at once, without threads.
const ALONE_FILES_MAX: usize = 4;
const ALONE_BYTES_MAX: u64 = 1 << 20;
/// So many files are read before their contents are made durable and what is known of them is noted: what is
/// in memory of a first scan for each file more is its name and stamp.
const SUSPECTS_MAX: usize = 1 << 15;

/// What a scan accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScanLimits {
    /// Number of entries. Default 10 million: what readers of assignments accept as commands.
    pub entries_max: usize,
    /// Content in bytes. Default 16 TiB, likewise.
    pub content_bytes_max: u64,
    /// Number of threads that read and hash. Default one per processor, at least 2 and at most 8:
    /// beyond that the disk is what is waited for.
    pub threads: usize,
}

impl Default for ScanLimits {
    fn default() -> Self {
        let reader = common::assignment::Limits::default();
        Self {
            entries_max: reader.commands_max as usize,
            content_bytes_max: reader.result_bytes_max,
            threads: std::thread::available_parallelism().map_or(2, std::num::NonZero::get).clamp(2, 8),
        }
    }
}

/// What to scan.
#[derive(Debug, Clone, Copy)]
pub struct ScanRequest<'a> {
    /// The staging tree's root directory.
    pub staging: &'a Path,
    /// What is outside of publishing.
    pub exclude: &'a Exclude,
    /// What is accepted.
    pub limits: ScanLimits,
    /// Where the index is kept, one for each staging tree. Its directory must exist, outside of the
    /// staging tree.
    pub index_file: &'a Path,
}

/// A staging tree all of whose files are known, with contents that the store has, durably. It is told entry
/// by entry: what is in memory are its directories, and files that have changed since the scan before.
#[derive(Debug)]
pub struct Scan {
    walked: Walked,
    /// Of the scan before, to which the tree refers.
    index: Index,
    /// Number of files that were read; the others were known from the index.
    pub files_read: u64,
    /// Their bytes.
    pub bytes_read: u64,
}

impl Scan {
    /// Its entries, in path order.
    pub fn entries(&self) -> impl Iterator<Item = Result<(ContentPath, Entry), ScanError>> {
        self.walked.entries(&self.index)
    }

    /// Compares it with what is published, if anything is.
    ///
    /// # Errors
    /// When what is published cannot be read.
    pub fn changes(&self, published: Option<&StoredTree>) -> Result<Changes, ScanError> {
        compare(published.map(|published| published as &dyn Tree), self.entries())
    }

    /// Its version, which is that of `published` if these are the `changes` to it.
    ///
    /// # Errors
    /// [`ScanError::IndexLost`].
    pub fn version(&self, published: Option<&StoredTree>, changes: &Changes) -> Result<Version, ScanError> {
        if let Some(published) = published.filter(|_| changes.is_empty()) {
            return Ok(published.version());
        }
        let mut root = Root::default();
        for entry in self.entries() {
            let (path, entry) = entry?;
            root.add(&path, &entry);
        }
        Ok(root.version())
    }

    /// Keeps it as the version that follows on what is published, if anything is. Gives the sum of its file
    /// sizes, too.
    ///
    /// Files that are unchanged have the modification times they are published with: servers keep them as
    /// they are, and a tree that is sent whole to a server that joins later has to say the same.
    ///
    /// # Errors
    /// When what is published cannot be read, or the store does not take the tree.
    pub fn keep(&self, store: &ContentStore, published: Option<&StoredTree>) -> Result<(StoredTree, u64), ScanError> {
        let Some(published) = published else {
            let mut content_bytes = 0_u64;
            let entries = self.entries().inspect(|entry| {
                if let Ok((_, entry)) = entry {
                    content_bytes = content_bytes.saturating_add(bytes_of(entry));
                }
            });
            let version = store.put_entries(self.walked.entries, entries, ScanError::Store)?;
            return Ok((store.tree(version)?, content_bytes));
        };
        keep_changes(store, published, self.changes(Some(published))?, self.walked.entries)
    }
}

/// Keeps the tree of so many entries that these changes make of what is published; see [`Scan::keep`].
///
/// # Errors
/// When what is published cannot be read, or the store does not take the tree.
pub(crate) fn keep_changes(
    store: &ContentStore,
    published: &StoredTree,
    mut changes: Changes,
    entries: u64,
) -> Result<(StoredTree, u64), ScanError> {
    let version = published.version();
    if changes.is_empty() && store.hold_tree(version)? {
        return Ok((store.tree(version)?, changes.content_bytes));
    }
    keep_times(&mut changes);
    let kept = patched(published.entries()?, &changes.old, &changes.new);
    let version = store.put_entries(entries, kept, |error| error)?;
    Ok((store.tree(version)?, changes.content_bytes))
}

/// Gives files of which only the permission bits have changed their old modification times.
fn keep_times(changes: &mut Changes) {
    for (path, entry) in &mut changes.new.entries {
        if let Some(before) = changes.old.entries.get(path).filter(|before| same_but_for_mode(before, entry))
            && let Entry::File { mtime, .. } = entry
            && let Entry::File { mtime: settled, .. } = before
        {
            *mtime = *settled;
        }
    }
}

/// Why a staging tree cannot be published as it stands.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// The staging tree is missing or unreadable.
    #[error("the staging tree {path} cannot be read", path = path.display())]
    Staging {
        /// Its root.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The staging tree is no directory.
    #[error("the staging tree {path} is not a directory", path = path.display())]
    StagingNotDirectory {
        /// Its root.
        path: PathBuf,
    },
    /// A directory, file or link cannot be read.
    #[error("{path} in the staging tree cannot be read")]
    Unreadable {
        /// Which, relative to the root.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A name that content must not have.
    #[error("an entry of the staging tree has a name that cannot be published")]
    Name {
        /// Which, and what is wrong with it.
        source: PathError,
    },
    /// A symbolic link leads out of the tree.
    #[error("the link {path} points to {target:?}, out of the staging tree")]
    LinkEscapes {
        /// The link.
        path: ContentPath,
        /// Where it points.
        target: String,
    },
    /// A symbolic link's target is not UTF-8.
    #[error("the link {path} points to {target:?}, which is not UTF-8")]
    LinkNotUtf8 {
        /// The link.
        path: ContentPath,
        /// Where it points, with replacement characters.
        target: String,
    },
    /// Neither directory nor file nor link.
    #[error("{path} is {kind}: only directories, files and symbolic links can be published")]
    Kind {
        /// Which.
        path: ContentPath,
        /// What it is.
        kind: &'static str,
    },
    /// A file changed, or went away, every time it was read.
    #[error("{path} keeps changing while it is read: publish when the staging tree rests")]
    Changing {
        /// Which.
        path: ContentPath,
    },
    /// More entries than accepted.
    #[error("the staging tree has more than {max} entries")]
    TooManyEntries {
        /// The limit.
        max: usize,
    },
    /// More content than accepted.
    #[error("the staging tree has more than {max} bytes of content")]
    TooLarge {
        /// The limit.
        max: u64,
    },
    /// The index cannot be written.
    #[error("the scan index {path} cannot be written", path = path.display())]
    Index {
        /// The index file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The index cannot be read any more, after it was checked.
    #[error("the scan index was lost while it was used")]
    IndexLost {
        /// Why.
        source: io::Error,
    },
    /// The content store failed.
    #[error("the content of the staging tree cannot be kept")]
    Store(#[from] ContentError),
    /// Stopped on request.
    #[error("the scan was cancelled")]
    Cancelled,
}

/// Scans a staging tree. When it returns, the contents of all its files are in the store, durably.
///
/// What was read before a failure or a cancellation is kept, so that the next scan goes on from
/// there.
///
/// # Errors
/// [`ScanError`] names the first entry, in path order, that cannot be published, else one that
/// cannot be read.
pub fn scan(
    request: &ScanRequest<'_>,
    store: &ContentStore,
    progress: &dyn Fn(Progress),
    cancel: &AtomicBool,
) -> Result<Scan, ScanError> {
    scan_at(request, store, SystemTime::now(), progress, cancel)
}

/// [`scan`], begun at a given time.
fn scan_at(
    request: &ScanRequest<'_>,
    store: &ContentStore,
    began: SystemTime,
    progress: &dyn Fn(Progress),
    cancel: &AtomicBool,
) -> Result<Scan, ScanError> {
    let index = index::load(request.index_file);
    // As they are before anything is looked for in them.
    let shards = store.shards();
    let recall = |directory: &str, files: &mut [Found]| recall(&index, &shards, store, directory, files);
    let rules = Rules { exclude: request.exclude, limits: &request.limits, cancel };
    let mut walked = walk::walk(request.staging, rules, &recall)?;

    let (files_total, bytes_total) = walked.unknown();
    let mut state = Progress { files_total, bytes_total, ..Progress::default() };
    progress(state);
    let (mut files_read, mut bytes_read) = (0, 0);
    let finished = loop {
        let suspects = walked.suspects(SUSPECTS_MAX)?;
        if suspects.is_empty() {
            break Ok(());
        }
        let mut read: Vec<Option<Read>> = Vec::new();
        read.resize_with(suspects.len(), || None);
        let batch = store.batch();
        let reader = Reader { root: &walked.root, batch: &batch, cancel };
        let finished = reader.read_all(&suspects, request.limits.threads, &mut read, &mut state, progress);
        batch.commit()?;
        for (suspect, read) in suspects.iter().zip(read) {
            if let Some(Read { stamp, mode, digest }) = read {
                files_read += 1;
                bytes_read += stamp.size;
                walked.settle(suspect, stamp, mode, digest);
            }
        }
        if finished.is_err() {
            break finished;
        }
    };
    if !is_as_indexed(&walked, &index, &shards) {
        save(request.index_file, &walked, &index, &shards, began)
            .map_err(|source| ScanError::Index { path: request.index_file.to_owned(), source })?;
    }
    finished?;

    Ok(Scan { walked, index, files_read, bytes_read })
}

/// Finds out which files of a directory are as the index has them, with contents that the store has.
fn recall(
    index: &Index,
    shards: &Shards,
    store: &ContentStore,
    directory: &str,
    files: &mut [Found],
) -> Result<Option<Place>, ScanError> {
    let Some(place) = index.place(directory) else { return Ok(None) };
    let Ok(bytes) = index.read(place) else { return Ok(None) };
    let Some(rows) = index::rows(&bytes) else { return Ok(None) };
    let mut same = rows.len() == files.len();
    let mut rows = rows.into_iter().peekable();
    for found in files {
        while rows.next_if(|row| *row.name < *found.name).is_some() {}
        let row = rows.peek().filter(|row| *row.name == *found.name && row.stamp == found.stamp);
        // Where nothing came or went since the index was made, what was there still is.
        let stands = |row: &Row<'_>| {
            let shard = usize::from(row.digest.0[0]);
            let rests = shards.get(shard).is_some_and(|now| now.is_some() && index.shards.get(shard) == Some(now));
            if rests { Ok(true) } else { store.hold(row.digest, row.stamp.size) }
        };
        match row {
            Some(row) if stands(row)? => {
                same &= row.mode == found.mode;
                found.digest = Some(row.digest);
            }
            Some(_) | None => same = false,
        }
    }
    Ok(same.then_some(place))
}

/// Whether the index says all that is to be said.
fn is_as_indexed(walked: &Walked, index: &Index, shards: &Shards) -> bool {
    let mut indexed = 0;
    for listed in &walked.directories {
        match &listed.files {
            Files::Indexed(_) => indexed += 1,
            Files::Listed(files) if files.is_empty() => {}
            Files::Listed(_) => return false,
        }
    }
    let says_more = |(shard, now): (usize, &Option<Stamp>)| now.is_some() && index.shards.get(shard) != Some(now);
    indexed == index.len() && !shards.iter().enumerate().any(says_more)
}

fn save(path: &Path, walked: &Walked, index: &Index, shards: &Shards, began: SystemTime) -> io::Result<()> {
    index::save(path, shards, |writer| {
        for listed in &walked.directories {
            let rows = match &listed.files {
                Files::Indexed(place) => index.read(*place)?,
                Files::Listed(files) => {
                    let mut rows = Vec::new();
                    for found in files.iter().filter(|found| found.stamp.is_settled(began)) {
                        let Found { name, mode, stamp, digest } = found;
                        if let Some(digest) = *digest {
                            index::add_row(&mut rows, &Row { name, mode: *mode, stamp: *stamp, digest });
                        }
                    }
                    rows
                }
            };
            writer.directory(&listed.path, &rows)?;
        }
        Ok(())
    })
}

/// A file as it was when it was read.
#[derive(Debug)]
struct Read {
    stamp: Stamp,
    mode: u32,
    digest: Digest,
}

/// What a reading thread tells.
enum Told {
    Bytes(u64),
    File(usize, Result<Read, ScanError>),
}

struct Reader<'a> {
    root: &'a OwnedFd,
    batch: &'a Batch<'a>,
    cancel: &'a AtomicBool,
}

impl Reader<'_> {
    /// Reads the suspects, each into its place in `read`. After an error the rest is left out.
    fn read_all(
        &self,
        suspects: &[Suspect],
        threads: usize,
        read: &mut [Option<Read>],
        state: &mut Progress,
        progress: &dyn Fn(Progress),
    ) -> Result<(), ScanError> {
        let bytes: u64 = suspects.iter().map(|suspect| suspect.size).sum();
        if suspects.len() <= ALONE_FILES_MAX && bytes <= ALONE_BYTES_MAX {
            for (suspect, read) in suspects.iter().zip(read) {
                let mut on_bytes = |count| {
                    state.bytes_done += count;
                    !self.cancel.load(Ordering::Relaxed)
                };
                *read = Some(self.read_file(&suspect.path, &mut on_bytes, &|| ())?);
                state.files_done += 1;
                progress(*state);
            }
            return Ok(());
        }

        let next = AtomicUsize::new(0);
        let stop = AtomicBool::new(false);
        let mut first_error = None;
        std::thread::scope(|scope| {
            // Enough to keep the threads from waiting for this one, which only counts.
            let (tell, told) = sync_channel(1024);
            for _ in 0..threads.clamp(1, suspects.len()) {
                let tell = tell.clone();
                let (next, stop) = (&next, &stop);
                scope.spawn(move || self.read_some(suspects, next, stop, &tell));
            }
            drop(tell);
            for told in told {
                match told {
                    Told::Bytes(count) => state.bytes_done += count,
                    Told::File(at, Ok(done)) => {
                        read[at] = Some(done);
                        state.files_done += 1;
                    }
                    Told::File(_, Err(error)) => {
                        stop.store(true, Ordering::Relaxed);
                        first_error.get_or_insert(error);
                    }
                }
                progress(*state);
            }
        });
        match first_error {
            Some(error) => Err(error),
            None if self.cancel.load(Ordering::Relaxed) => Err(ScanError::Cancelled),
            None => Ok(()),
        }
    }

    fn read_some(&self, suspects: &[Suspect], next: &AtomicUsize, stop: &AtomicBool, tell: &SyncSender<Told>) {
        let go_on = || !stop.load(Ordering::Relaxed) && !self.cancel.load(Ordering::Relaxed);
        while go_on() {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(suspect) = suspects.get(at) else { return };
            let mut on_bytes = |count| tell.send(Told::Bytes(count)).is_ok() && go_on();
            let done = self.read_file(&suspect.path, &mut on_bytes, &|| ());
            if tell.send(Told::File(at, done)).is_err() {
                return;
            }
        }
    }

    /// Reads one file, again if it changes meanwhile. `between` is called after each reading.
    fn read_file(
        &self,
        path: &ContentPath,
        on_bytes: &mut dyn FnMut(u64) -> bool,
        between: &dyn Fn(),
    ) -> Result<Read, ScanError> {
        let unreadable = |source: io::Error| ScanError::Unreadable { path: path.to_string(), source };
        for _ in 0..READS_MAX {
            let file = match walk::open_file(self.root, path) {
                Ok(file) => File::from(file),
                // It was a regular file when the walk passed, and is something else.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO) => continue,
                Err(errno) => return Err(unreadable(errno.into())),
            };
            let Some(before) = walk::stat_open(file.as_fd()).map_err(unreadable)? else { continue };
            let (digest, length) = self.batch.take(&file, before.0.size, on_bytes).map_err(|error| match error {
                TakeError::Source(source) => unreadable(source),
                TakeError::Store(error) => error.into(),
                TakeError::Stopped => ScanError::Cancelled,
            })?;
            between();
            let after = walk::stat_open(file.as_fd()).map_err(unreadable)?;
            let (stamp, mode) = before;
            if after == Some(before) && length == stamp.size {
                return Ok(Read { stamp, mode, digest });
            }
        }
        Err(ScanError::Changing { path: path.clone() })
    }
}

#[cfg(test)]
#[path = "scan_tests.rs"]
mod tests;
