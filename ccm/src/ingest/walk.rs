//! Walking the staging tree: names, types and stamps, no contents.
//!
//! Every directory is opened by one component on its parent's descriptor, without following links,
//! so that nothing outside the tree is ever looked at, whatever changes meanwhile.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use common::exclude::Exclude;
use common::manifest::{Entry, MODE_MASK};
use common::path::{ContentPath, PathError, symlink_is_contained};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Statx, StatxFlags};
use rustix::io::Errno;

use super::index::Stamp;
use super::scan::{ScanError, ScanLimits};

/// A regular file of the staging tree.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) path: ContentPath,
    pub(super) mode: u32,
    pub(super) stamp: Stamp,
}

/// The staging tree apart from its contents.
#[derive(Debug)]
pub(super) struct Walked {
    /// The tree's root, held open.
    pub(super) root: OwnedFd,
    /// Directories and links.
    pub(super) others: BTreeMap<ContentPath, Entry>,
    /// Files, in path order.
    pub(super) files: Vec<Found>,
}

pub(super) fn walk(
    staging: &Path,
    exclude: &Exclude,
    limits: &ScanLimits,
    cancel: &AtomicBool,
) -> Result<Walked, ScanError> {
    // The staging directory itself may be a link: that is how its administrator names it.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, staging, flags, Mode::empty()).map_err(|errno| match errno {
        Errno::NOTDIR => ScanError::StagingNotDirectory { path: staging.to_owned() },
        errno => ScanError::Staging { path: staging.to_owned(), source: errno.into() },
    })?;
    let mut walker = Walker { exclude, limits, cancel, others: BTreeMap::new(), files: Vec::new(), content_bytes: 0 };
    let entries = walker.directory(root.as_fd(), None);
    // The root has no path within itself; it has the one it was given by.
    match entries {
        Err(ScanError::Unreadable { path, source }) if path.is_empty() => {
            return Err(ScanError::Staging { path: staging.to_owned(), source });
        }
        entries => entries?,
    }
    Ok(Walked { root, others: walker.others, files: walker.files })
}

struct Walker<'a> {
    exclude: &'a Exclude,
    limits: &'a ScanLimits,
    cancel: &'a AtomicBool,
    others: BTreeMap<ContentPath, Entry>,
    files: Vec<Found>,
    content_bytes: u64,
}

impl Walker<'_> {
    fn directory(&mut self, directory: BorrowedFd<'_>, path: Option<&ContentPath>) -> Result<(), ScanError> {
        let unreadable = |errno: Errno| ScanError::Unreadable {
            path: path.map(ToString::to_string).unwrap_or_default(),
            source: errno.into(),
        };
        let mut names = Vec::new();
        for entry in Dir::read_from(directory).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(name.to_vec());
            }
        }
        // In path order, so that the same tree is always refused for the same entry.
        names.sort_unstable();
        for name in names {
            if self.cancel.load(Ordering::Relaxed) {
                return Err(ScanError::Cancelled);
            }
            self.entry(directory, path, &name)?;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        directory: BorrowedFd<'_>,
        parent: Option<&ContentPath>,
        raw_name: &[u8],
    ) -> Result<(), ScanError> {
        let shown = || {
            let name = String::from_utf8_lossy(raw_name);
            parent.map_or_else(|| name.to_string(), |parent| format!("{parent}/{name}"))
        };
        let name = std::str::from_utf8(raw_name)
            .map_err(|_| ScanError::Name { source: PathError::NotUtf8 { path: shown() } })?;
        let path = match parent {
            Some(parent) => parent.join(name),
            None => ContentPath::new(name),
        }
        .map_err(|source| ScanError::Name { source })?;

        let unreadable = |errno: Errno| ScanError::Unreadable { path: path.to_string(), source: errno.into() };
        let found = match stat(directory, name) {
            Ok(found) => found,
            // Removed since the directory was listed: as if the scan had come a moment later.
            Err(Errno::NOENT) => return Ok(()),
            Err(errno) => return Err(unreadable(errno)),
        };
        let kind = file_type(&found);
        if self.exclude.matches(&path, kind == FileType::Directory) {
            return Ok(());
        }
        let entries = self.others.len() + self.files.len() + 1;
        if entries > self.limits.entries_max {
            return Err(ScanError::TooManyEntries { max: self.limits.entries_max });
        }
        let mode = u32::from(found.stx_mode) & MODE_MASK;
        match kind {
            FileType::RegularFile => {
                self.content_bytes = self.content_bytes.saturating_add(found.stx_size);
                if self.content_bytes > self.limits.content_bytes_max {
                    return Err(ScanError::TooLarge { max: self.limits.content_bytes_max });
                }
                self.files.push(Found { path, mode, stamp: stamp(&found) });
            }
            FileType::Directory => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let inner = rustix::fs::openat(directory, name, flags, Mode::empty()).map_err(unreadable)?;
                self.others.insert(path.clone(), Entry::Directory { mode });
                self.directory(inner.as_fd(), Some(&path))?;
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(directory, name, Vec::new()).map_err(unreadable)?;
                let target = target.into_string().map_err(|error| ScanError::LinkNotUtf8 {
                    path: path.clone(),
                    target: error.into_cstring().to_string_lossy().into_owned(),
                })?;
                if !symlink_is_contained(&path, &target) {
                    return Err(ScanError::LinkEscapes { path, target });
                }
                self.others.insert(path, Entry::Symlink { target });
            }
            FileType::Fifo => return Err(ScanError::Kind { path, kind: "a named pipe" }),
            FileType::Socket => return Err(ScanError::Kind { path, kind: "a socket" }),
            FileType::CharacterDevice | FileType::BlockDevice => {
                return Err(ScanError::Kind { path, kind: "a device" });
            }
            FileType::Unknown => return Err(ScanError::Kind { path, kind: "of an unknown type" }),
        }
        Ok(())
    }
}

/// Opens a file that the walk found: below the root, through no link, without waiting for what may
/// have become a pipe.
pub(super) fn open_file(root: &OwnedFd, path: &ContentPath) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(root, path.as_str(), flags, Mode::empty(), resolve)
}

/// Stamp and mode of an open file; `None` if it is no regular file.
pub(super) fn stat_open(file: BorrowedFd<'_>) -> io::Result<Option<(Stamp, u32)>> {
    let found = rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS)?;
    let regular = file_type(&found) == FileType::RegularFile;
    Ok(regular.then(|| (stamp(&found), u32::from(found.stx_mode) & MODE_MASK)))
}

fn stat(directory: BorrowedFd<'_>, name: &str) -> Result<Statx, Errno> {
    rustix::fs::statx(directory, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS)
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
