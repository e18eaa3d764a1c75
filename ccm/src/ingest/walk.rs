//! Walking the staging tree: names, types and stamps, no contents.
//!
//! Several threads take a directory each. Every directory is opened below the root, through no link,
//! so that nothing outside the tree is ever looked at, whatever changes meanwhile. Of a directory whose
//! files are all as the index has them nothing is kept but where the index has them.

use std::cmp::Ordering as Order;
use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use common::exclude::Exclude;
use common::manifest::MODE_MASK;
use common::path::{ContentPath, PathError, symlink_is_contained};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, RawDir, ResolveFlags, Statx, StatxFlags};
use rustix::io::Errno;

use super::index::{Place, Stamp};
use super::scan::{ScanError, ScanLimits};
use super::walked::{Files, Found, Listed, Other, Walked};

/// As many directories must be waiting before other threads are started: fewer are looked through
/// sooner than these are there.
const ALONE_DIRECTORIES_MAX: usize = 16;
/// Names are asked for in portions of this many bytes.
const NAMES_BYTES: usize = 32 << 10;

/// Recognises the files of a directory, by the directory's path: sets the digests of those that are
/// known, and says where the index has them when it has exactly these.
pub(super) type Recall<'a> = dyn Fn(&str, &mut [Found]) -> Result<Option<Place>, ScanError> + Sync + 'a;

/// What a walk accepts and leaves out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules<'a> {
    pub(super) exclude: &'a Exclude,
    pub(super) limits: &'a ScanLimits,
    pub(super) cancel: &'a AtomicBool,
}

pub(super) fn walk(staging: &Path, rules: Rules<'_>, recall: &Recall<'_>) -> Result<Walked, ScanError> {
    // The staging directory itself may be a link: that is how its administrator names it.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, staging, flags, Mode::empty()).map_err(|errno| match errno {
        Errno::NOTDIR => ScanError::StagingNotDirectory { path: staging.to_owned() },
        errno => ScanError::Staging { path: staging.to_owned(), source: errno.into() },
    })?;
    let walker = Walker {
        root: &root,
        rules,
        recall,
        entries: AtomicUsize::new(0),
        content_bytes: AtomicU64::new(0),
        work: Mutex::new(Work {
            waiting: vec![Task { number: 0, path: None, mode: 0 }],
            directories: vec![None],
            ..Work::default()
        }),
        more: Condvar::new(),
    };
    walker.work_on(Some(ALONE_DIRECTORIES_MAX));
    if !walker.lock().waiting.is_empty() {
        std::thread::scope(|scope| {
            for _ in 1..rules.limits.threads.max(1) {
                scope.spawn(|| walker.work_on(None));
            }
            walker.work_on(None);
        });
    }
    let work = walker.work.into_inner().unwrap_or_else(PoisonError::into_inner);
    if let Some(Refusal { at, error }) = work.refusal {
        // The root has no path within itself; it has the one it was given by.
        return Err(match (at.is_empty(), error) {
            (true, ScanError::Unreadable { source, .. }) => ScanError::Staging { path: staging.to_owned(), source },
            (_, error) => error,
        });
    }
    let directories = work.directories.into_iter();
    let directories = directories.map(|listed| listed.expect("without a refusal all were listed")).collect();
    let entries = walker.entries.into_inner() as u64;
    Ok(Walked { root, directories, entries })
}

/// A directory to be listed.
struct Task {
    number: usize,
    path: Option<ContentPath>,
    mode: u32,
}

#[derive(Default)]
struct Work {
    /// The last is taken first, so that few wait.
    waiting: Vec<Task>,
    /// Threads that may add to what waits.
    busy: usize,
    directories: Vec<Option<Listed>>,
    /// The first in path order, of those that were come by.
    refusal: Option<Refusal>,
}

/// Why a tree cannot be published.
struct Refusal {
    /// The entry's path, lossy. What is not about an entry comes before all others.
    at: String,
    error: ScanError,
}

impl Refusal {
    fn of_all(error: ScanError) -> Self {
        Self { at: String::new(), error }
    }
}

/// Paths as [`ContentPath`] orders them, acceptable or not.
fn in_order(one: &str, other: &str) -> Order {
    one.split('/').cmp(other.split('/'))
}

/// What came of listing one directory.
struct Listing {
    others: Vec<(Box<str>, Inside)>,
    files: Files,
    refusal: Option<Refusal>,
}

/// What a directory holds beside files, when it was just listed.
enum Inside {
    Directory { mode: u32 },
    Symlink(String),
}

struct Walker<'a> {
    root: &'a OwnedFd,
    rules: Rules<'a>,
    recall: &'a Recall<'a>,
    entries: AtomicUsize,
    content_bytes: AtomicU64,
    work: Mutex<Work>,
    more: Condvar,
}

impl Walker<'_> {
    fn lock(&self) -> MutexGuard<'_, Work> {
        // A panic of another thread is passed on when the scope ends; until then it disturbs nothing.
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lists what waits until nothing does, or as much waits as is given.
    fn work_on(&self, waiting_max: Option<usize>) {
        let mut work = self.lock();
        loop {
            if waiting_max.is_some_and(|max| work.waiting.len() > max) {
                return;
            }
            match work.waiting.pop() {
                Some(task) if work.refusal.as_ref().is_some_and(|refusal| comes_after(&task, refusal)) => {}
                Some(task) => {
                    work.busy += 1;
                    drop(work);
                    let listing = self.list(&task);
                    work = self.lock();
                    work.busy -= 1;
                    enter(&mut work, task, listing);
                    self.more.notify_all();
                }
                None if work.busy == 0 => {
                    self.more.notify_all();
                    return;
                }
                None => work = self.more.wait(work).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    fn list(&self, task: &Task) -> Listing {
        let mut listing = Listing { others: Vec::new(), files: Files::Listed(Vec::new()), refusal: None };
        let mut files = Vec::new();
        let path = task.path.as_ref();
        if let Err(refusal) = self.entries_of(path, &mut listing.others, &mut files) {
            listing.refusal = Some(refusal);
        }
        match (self.recall)(path.map_or("", ContentPath::as_str), &mut files) {
            Ok(Some(place)) if listing.refusal.is_none() => listing.files = Files::Indexed(place),
            Ok(_) => {
                // A name that the index has is one that content may have.
                let unknown = files.iter().filter(|found| found.digest.is_none());
                let refusal = unknown.map(|found| (found, join(path, &found.name))).find_map(|(found, joined)| {
                    let error = ScanError::Name { source: joined.err()? };
                    Some(Refusal { at: shown(path, found.name.as_bytes()), error })
                });
                // Files come before what was refused of this directory, or nothing was.
                listing.refusal = first(refusal, listing.refusal.take());
                listing.files = Files::Listed(files);
            }
            Err(error) => listing.refusal = Some(Refusal::of_all(error)),
        }
        listing
    }

    /// Everything in a directory, up to the first entry that cannot be published.
    fn entries_of(
        &self,
        path: Option<&ContentPath>,
        others: &mut Vec<(Box<str>, Inside)>,
        files: &mut Vec<Found>,
    ) -> Result<(), Refusal> {
        let unreadable = |errno: Errno| {
            let path = path.map(ToString::to_string).unwrap_or_default();
            Refusal { at: path.clone(), error: ScanError::Unreadable { path, source: errno.into() } }
        };
        let directory = match path {
            None => rustix::io::fcntl_dupfd_cloexec(self.root, 0),
            Some(path) => open_below(self.root, path, OFlags::RDONLY | OFlags::DIRECTORY),
        };
        let directory = directory.map_err(unreadable)?;
        // Ending in NUL, one after the other.
        let mut names = Vec::new();
        let mut begins = Vec::new();
        let mut portion = [MaybeUninit::uninit(); NAMES_BYTES];
        let mut reading = RawDir::new(directory.as_fd(), &mut portion);
        while let Some(entry) = reading.next() {
            let entry = entry.map_err(unreadable)?;
            let name = entry.file_name();
            if name != c"." && name != c".." {
                begins.push(names.len());
                names.extend_from_slice(name.to_bytes_with_nul());
            }
        }
        let name = |begin: usize| CStr::from_bytes_until_nul(&names[begin..]).expect("each ends in NUL");
        // In path order, so that the same tree is always refused for the same entry.
        begins.sort_unstable_by_key(|begin| name(*begin));
        // A directory that changes meanwhile may tell of an entry twice.
        begins.dedup_by_key(|begin| name(*begin));
        for begin in begins {
            if self.rules.cancel.load(Ordering::Relaxed) {
                return Err(Refusal::of_all(ScanError::Cancelled));
            }
            let name = name(begin);
            self.entry(directory.as_fd(), path, name, others, files).map_err(|error| {
                if matches!(error, ScanError::TooManyEntries { .. } | ScanError::TooLarge { .. }) {
                    return Refusal::of_all(error);
                }
                Refusal { at: shown(path, name.to_bytes()), error }
            })?;
        }
        Ok(())
    }

    fn entry(
        &self,
        directory: BorrowedFd<'_>,
        parent: Option<&ContentPath>,
        raw_name: &CStr,
        others: &mut Vec<(Box<str>, Inside)>,
        files: &mut Vec<Found>,
    ) -> Result<(), ScanError> {
        let Rules { exclude, limits, .. } = self.rules;
        let shown = || shown(parent, raw_name.to_bytes());
        let name = raw_name.to_str().map_err(|_| ScanError::Name { source: PathError::NotUtf8 { path: shown() } })?;
        let path = || join(parent, name).map_err(|source| ScanError::Name { source });
        let unreadable = |errno: Errno| ScanError::Unreadable { path: shown(), source: errno.into() };
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let found = match rustix::fs::statx(directory, raw_name, flags, StatxFlags::BASIC_STATS) {
            Ok(found) => found,
            // Removed since the directory was listed: as if the scan had come a moment later.
            Err(Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(unreadable(errno)),
        };
        let kind = file_type(&found);
        if !exclude.is_empty() && exclude.matches(&path()?, kind == FileType::Directory) {
            return Ok(());
        }
        if self.entries.fetch_add(1, Ordering::Relaxed) >= limits.entries_max {
            return Err(ScanError::TooManyEntries { max: limits.entries_max });
        }
        let mode = u32::from(found.stx_mode) & MODE_MASK;
        match kind {
            FileType::RegularFile => {
                let before = self.content_bytes.fetch_add(found.stx_size, Ordering::Relaxed);
                if before.saturating_add(found.stx_size) > limits.content_bytes_max {
                    return Err(ScanError::TooLarge { max: limits.content_bytes_max });
                }
                files.push(Found { name: name.into(), mode, stamp: stamp(&found), digest: None });
            }
            FileType::Directory => {
                path()?;
                others.push((name.into(), Inside::Directory { mode }));
            }
            FileType::Symlink => {
                let path = path()?;
                let target = rustix::fs::readlinkat(directory, raw_name, Vec::new()).map_err(unreadable)?;
                let target = target.into_string().map_err(|error| ScanError::LinkNotUtf8 {
                    path: path.clone(),
                    target: error.into_cstring().to_string_lossy().into_owned(),
                })?;
                if !symlink_is_contained(&path, &target) {
                    return Err(ScanError::LinkEscapes { path, target });
                }
                others.push((name.into(), Inside::Symlink(target)));
            }
            FileType::Fifo => return Err(ScanError::Kind { path: path()?, kind: "a named pipe" }),
            FileType::Socket => return Err(ScanError::Kind { path: path()?, kind: "a socket" }),
            FileType::CharacterDevice | FileType::BlockDevice => {
                return Err(ScanError::Kind { path: path()?, kind: "a device" });
            }
            FileType::Unknown => return Err(ScanError::Kind { path: path()?, kind: "of an unknown type" }),
        }
        Ok(())
    }
}

/// Whether all that is below a directory comes after what was refused.
fn comes_after(task: &Task, refusal: &Refusal) -> bool {
    refusal.at.is_empty() || task.path.as_ref().is_some_and(|path| in_order(path.as_str(), &refusal.at).is_gt())
}

fn first(one: Option<Refusal>, other: Option<Refusal>) -> Option<Refusal> {
    match (one, other) {
        (Some(one), Some(other)) if in_order(&one.at, &other.at).is_gt() => Some(other),
        (Some(one), Some(_) | None) => Some(one),
        (None, other) => other,
    }
}

/// Takes note of a listed directory, and of those in it that are to be listed.
fn enter(work: &mut Work, task: Task, listing: Listing) {
    work.refusal = first(work.refusal.take(), listing.refusal);
    let mut others = Vec::with_capacity(listing.others.len());
    for (name, inside) in listing.others {
        let other = match inside {
            Inside::Symlink(target) => Other::Symlink(target),
            Inside::Directory { mode } => {
                let number = work.directories.len();
                let path = join(task.path.as_ref(), &name).expect("it was joined when it was found");
                work.directories.push(None);
                work.waiting.push(Task { number, path: Some(path), mode });
                Other::Directory(number)
            }
        };
        others.push((name, other));
    }
    let path = task.path.map_or_else(Box::default, |path| path.as_str().into());
    work.directories[task.number] = Some(Listed { path, mode: task.mode, others, files: listing.files });
}

fn join(parent: Option<&ContentPath>, name: &str) -> Result<ContentPath, PathError> {
    parent.map_or_else(|| ContentPath::new(name), |parent| parent.join(name))
}

fn shown(parent: Option<&ContentPath>, raw_name: &[u8]) -> String {
    let name = String::from_utf8_lossy(raw_name);
    parent.map_or_else(|| name.to_string(), |parent| format!("{parent}/{name}"))
}

/// Opens a file that the walk found: below the root, through no link, without waiting for what may
/// have become a pipe.
pub(super) fn open_file(root: &OwnedFd, path: &ContentPath) -> Result<OwnedFd, Errno> {
    open_below(root, path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)
}

fn open_below(root: &OwnedFd, path: &ContentPath, flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(root, path.as_str(), flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty(), resolve)
}

/// Stamp and mode of an open file; `None` if it is no regular file.
pub(super) fn stat_open(file: BorrowedFd<'_>) -> io::Result<Option<(Stamp, u32)>> {
    let found = rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)?;
    let regular = file_type(&found) == FileType::RegularFile;
    Ok(regular.then(|| (stamp(&found), u32::from(found.stx_mode) & MODE_MASK)))
}

/// The stamp of a directory at a path of our own.
pub(super) fn stat_directory(path: &Path) -> io::Result<Stamp> {
    Ok(stamp(&rustix::fs::statx(CWD, path, AtFlags::empty(), StatxFlags::BASIC_STATS)?))
}

fn file_type(found: &Statx) -> FileType {
    FileType::from_raw_mode(found.stx_mode.into())
}

fn stamp(found: &Statx) -> Stamp {
    Stamp {
        device: (found.stx_dev_major, found.stx_dev_minor),
        inode: found.stx_ino,
        size: found.stx_size,
        mtime: (found.stx_mtime.tv_sec, found.stx_mtime.tv_nsec),
        ctime: (found.stx_ctime.tv_sec, found.stx_ctime.tv_nsec),
    }
}
