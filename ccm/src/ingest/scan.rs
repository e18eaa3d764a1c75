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

use common::digest::Digest;
use common::exclude::Exclude;
use common::manifest::{Entry, Manifest};
use common::path::{ContentPath, PathError};
use rustix::io::Errno;

use super::Progress;
use super::batch::{Batch, TakeError};
use super::content::{ContentError, ContentStore};
use super::index::{self, Index, Indexed, Stamp};
use super::walk::{self, Found};

/// How often a file is read that changes meanwhile.
const READS_MAX: u32 = 3;
/// Less than this much to read is read at once, without threads.
const ALONE_FILES_MAX: usize = 4;
const ALONE_BYTES_MAX: u64 = 1 << 20;

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

/// What a scan found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    /// The tree.
    pub manifest: Manifest,
    /// Number of files that were read; the others were known from the index.
    pub files_read: u64,
    /// Their bytes.
    pub bytes_read: u64,
    /// Number of files in the tree.
    pub files_total: u64,
    /// Their bytes.
    pub bytes_total: u64,
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
    let known = index::load(request.index_file);
    let walked = walk::walk(request.staging, request.exclude, &request.limits, cancel)?;

    let mut read: Vec<Option<Read>> = Vec::with_capacity(walked.files.len());
    let mut suspects = Vec::new();
    for (at, found) in walked.files.iter().enumerate() {
        let indexed = known.get(found.path.as_str()).filter(|indexed| indexed.stamp == found.stamp);
        read.push(match indexed {
            Some(indexed) if store.hold(indexed.digest, indexed.stamp.size)? => {
                Some(Read { stamp: indexed.stamp, mode: found.mode, digest: indexed.digest })
            }
            Some(_) | None => {
                suspects.push(at);
                None
            }
        });
    }

    let batch = store.batch();
    let reader = Reader { root: &walked.root, batch: &batch, cancel };
    let finished = reader.read_all(&walked.files, &suspects, request.limits.threads, &mut read, progress);
    batch.commit()?;
    let index: Index = walked
        .files
        .iter()
        .zip(&read)
        .filter_map(|(found, read)| Some((found, read.as_ref()?)))
        .filter(|(_, read)| read.stamp.is_settled(began))
        .map(|(found, read)| (found.path.as_str().into(), Indexed { stamp: read.stamp, digest: read.digest }))
        .collect();
    if index != known {
        index::save(request.index_file, &index)
            .map_err(|source| ScanError::Index { path: request.index_file.to_owned(), source })?;
    }
    finished?;

    let size = |at: &usize| read[*at].as_ref().map_or(0, |read| read.stamp.size);
    let files_read = suspects.len() as u64;
    let bytes_read = suspects.iter().map(size).sum();
    let files_total = walked.files.len() as u64;
    let files = walked.files.into_iter().zip(&read).map(|(found, read)| {
        let read = read.as_ref().expect("all were read, or an error was returned above");
        let (size, mtime) = (read.stamp.size, read.stamp.mtime.0);
        (found.path, Entry::File { mode: read.mode, size, digest: read.digest, mtime })
    });
    // From two sorted runs, which is much faster than one by one.
    let manifest = Manifest { entries: walked.others.into_iter().chain(files).collect() };
    let bytes_total = manifest.content_bytes();
    Ok(Scan { manifest, files_read, bytes_read, files_total, bytes_total })
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
        files: &[Found],
        suspects: &[usize],
        threads: usize,
        read: &mut [Option<Read>],
        progress: &dyn Fn(Progress),
    ) -> Result<(), ScanError> {
        let mut state = Progress {
            files_total: suspects.len() as u64,
            bytes_total: suspects.iter().map(|at| files[*at].stamp.size).sum(),
            ..Progress::default()
        };
        progress(state);
        if suspects.len() <= ALONE_FILES_MAX && state.bytes_total <= ALONE_BYTES_MAX {
            for at in suspects {
                let mut on_bytes = |count| {
                    state.bytes_done += count;
                    !self.cancel.load(Ordering::Relaxed)
                };
                read[*at] = Some(self.read_file(&files[*at].path, &mut on_bytes, &|| ())?);
                state.files_done += 1;
                progress(state);
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
                scope.spawn(move || self.read_some(files, suspects, next, stop, &tell));
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
                progress(state);
            }
        });
        match first_error {
            Some(error) => Err(error),
            None if self.cancel.load(Ordering::Relaxed) => Err(ScanError::Cancelled),
            None => Ok(()),
        }
    }

    fn read_some(
        &self,
        files: &[Found],
        suspects: &[usize],
        next: &AtomicUsize,
        stop: &AtomicBool,
        tell: &SyncSender<Told>,
    ) {
        let go_on = || !stop.load(Ordering::Relaxed) && !self.cancel.load(Ordering::Relaxed);
        while go_on() {
            let Some(at) = suspects.get(next.fetch_add(1, Ordering::Relaxed)) else { return };
            let mut on_bytes = |count| tell.send(Told::Bytes(count)).is_ok() && go_on();
            let done = self.read_file(&files[*at].path, &mut on_bytes, &|| ());
            if tell.send(Told::File(*at, done)).is_err() {
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
