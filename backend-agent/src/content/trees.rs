//! Access to trees: every path is resolved below a held descriptor, no link is ever followed, no
//! mount is ever crossed.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::rc::Rc;

use common::path::ContentPath;
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps};
use rustix::io::Errno;

use super::local::{Index, modified};

/// Deepest nesting of what is walked by descriptors: trees of excluded content and of waste.
const DEPTH_MAX: usize = 256;

const CONFINED: ResolveFlags = ResolveFlags::BENEATH
    .union(ResolveFlags::NO_SYMLINKS)
    .union(ResolveFlags::NO_MAGICLINKS)
    .union(ResolveFlags::NO_XDEV);

/// Opens a path below a directory. The kernel asks to try again when a rename nearby kept it from
/// being sure.
pub(super) fn open_beneath(dir: BorrowedFd<'_>, path: &OsStr, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
    let mut tries = 0;
    loop {
        match rustix::fs::openat2(dir, path, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, mode, CONFINED) {
            Err(Errno::AGAIN | Errno::INTR) if tries < 64 => tries += 1,
            result => return Ok(result?),
        }
    }
}

/// Opens a directory for reading its entries.
pub(super) fn open_directory(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<OwnedFd> {
    open_beneath(dir, name, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
}

/// What stands at a name, `None` if nothing. A link is not followed.
pub(super) fn stat_at(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<Option<Stat>> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

pub(super) fn file_type(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

pub(super) fn is_directory(stat: &Stat) -> bool {
    file_type(stat) == FileType::Directory
}

/// The names in a directory, sorted, with their types.
pub(super) fn list(dir: BorrowedFd<'_>) -> io::Result<Vec<(OsString, FileType)>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        let name = OsStr::from_bytes(name).to_owned();
        let mut kind = entry.file_type();
        if kind == FileType::Unknown {
            // Some file systems do not say; gone again by then means there is nothing to list.
            let Some(stat) = stat_at(dir, &name)? else { continue };
            kind = file_type(&stat);
        }
        names.push((name, kind));
    }
    names.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(names)
}

/// Links what stands at one name to another, whatever it is but a directory.
pub(super) fn link(from: BorrowedFd<'_>, from_name: &OsStr, to: BorrowedFd<'_>, to_name: &OsStr) -> io::Result<()> {
    Ok(rustix::fs::linkat(from, from_name, to, to_name, AtFlags::empty())?)
}

/// Whether an error says that a path does not lead anywhere below its tree.
pub(super) fn leads_nowhere(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV))
}

/// The root of a live, temp or backup tree.
pub(super) struct Tree {
    root: Rc<OwnedFd>,
    /// The directory last used: neighbours in path order share it.
    recent: RefCell<Option<(ContentPath, Rc<OwnedFd>)>>,
}

impl Tree {
    /// Opens a tree by its name in a directory. Its root may be a mount point only if `dir` says so
    /// by being on the same mount.
    pub(super) fn open(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<Self> {
        Ok(Self { root: Rc::new(open_directory(dir, name)?), recent: RefCell::new(None) })
    }

    /// The same, `None` if nothing is there.
    pub(super) fn find(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<Option<Self>> {
        match Self::open(dir, name) {
            Ok(tree) => Ok(Some(tree)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    pub(super) fn root_stat(&self) -> io::Result<Stat> {
        Ok(rustix::fs::fstat(&self.root)?)
    }

    /// A directory of the tree.
    pub(super) fn directory(&self, path: Option<&ContentPath>) -> io::Result<Rc<OwnedFd>> {
        let Some(path) = path else { return Ok(Rc::clone(&self.root)) };
        if let Some((recent, fd)) = &*self.recent.borrow()
            && recent == path
        {
            return Ok(Rc::clone(fd));
        }
        let fd = Rc::new(open_directory(self.root(), OsStr::new(path.as_str()))?);
        *self.recent.borrow_mut() = Some((path.clone(), Rc::clone(&fd)));
        Ok(fd)
    }

    /// The directory that an entry lies in.
    pub(super) fn parent(&self, path: &ContentPath) -> io::Result<Rc<OwnedFd>> {
        self.directory(path.parent().as_ref())
    }

    /// What stands at a path; `None` if nothing, or if the way there is not made of directories.
    pub(super) fn stat(&self, path: &ContentPath) -> io::Result<Option<Stat>> {
        match self.parent(path) {
            Ok(parent) => stat_at(parent.as_fd(), OsStr::new(path.file_name())),
            Err(error) if leads_nowhere(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Opens a regular file for reading; anything else is an error.
    pub(super) fn read_file(&self, path: &ContentPath) -> io::Result<File> {
        open_regular(self.parent(path)?.as_fd(), OsStr::new(path.file_name()))
    }

    /// Makes a file that was not there, readable by nobody else until its mode is set.
    pub(super) fn create_file(&self, path: &ContentPath) -> io::Result<File> {
        let parent = self.parent(path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        Ok(open_beneath(parent.as_fd(), OsStr::new(path.file_name()), flags, Mode::RUSR | Mode::WUSR)?.into())
    }

    /// Makes a directory, usable only by the agent until its mode is set.
    pub(super) fn make_directory(&self, path: &ContentPath) -> io::Result<()> {
        Ok(rustix::fs::mkdirat(self.parent(path)?.as_fd(), path.file_name(), Mode::RWXU)?)
    }

    pub(super) fn make_symlink(&self, path: &ContentPath, target: &str) -> io::Result<()> {
        Ok(rustix::fs::symlinkat(target, self.parent(path)?.as_fd(), path.file_name())?)
    }

    pub(super) fn set_directory_mode(&self, path: &ContentPath, mode: u32) -> io::Result<()> {
        Ok(rustix::fs::fchmod(&*self.directory(Some(path))?, Mode::from_raw_mode(mode))?)
    }

    pub(super) fn set_root_mode(&self, mode: u32) -> io::Result<()> {
        Ok(rustix::fs::fchmod(&self.root, Mode::from_raw_mode(mode))?)
    }
}

/// Opens a regular file without waiting on a pipe or following a link.
pub(super) fn open_regular(dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<File> {
    let fd = open_beneath(dir, name, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY, Mode::empty())?;
    if file_type(&rustix::fs::fstat(&fd)?) == FileType::RegularFile {
        Ok(fd.into())
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"))
    }
}

/// Sets permission bits and modification time of a file that the agent just made.
pub(super) fn finish_file(file: &File, mode: u32, mtime: i64) -> io::Result<()> {
    rustix::fs::fchmod(file, Mode::from_raw_mode(mode))?;
    let time = Timespec { tv_sec: mtime, tv_nsec: 0 };
    Ok(rustix::fs::futimens(file, &Timestamps { last_access: time, last_modification: time })?)
}

/// Removes whatever stands at a name. Links to files that live on elsewhere keep their place in the
/// index, although losing a name changes their times.
pub(super) fn remove(dir: BorrowedFd<'_>, name: &OsStr, index: &mut Index) -> io::Result<()> {
    let Some(stat) = stat_at(dir, name)? else { return Ok(()) };
    remove_found(dir, name, &stat, index, stat.st_dev, 0)
}

fn remove_found(
    dir: BorrowedFd<'_>,
    name: &OsStr,
    stat: &Stat,
    index: &mut Index,
    device: u64,
    depth: usize,
) -> io::Result<()> {
    if !is_directory(stat) {
        return unlink(dir, name, stat, index);
    }
    if stat.st_dev != device {
        return Err(io::Error::other("something is mounted in a tree to be removed"));
    }
    if depth > DEPTH_MAX {
        return Err(io::Error::other("a tree to be removed is nested too deeply"));
    }
    if stat.st_mode & 0o700 != 0o700 {
        rustix::fs::chmodat(dir, name, Mode::RWXU, AtFlags::empty())?;
    }
    let inner = open_directory(dir, name)?;
    for (child, _) in list(inner.as_fd())? {
        if let Some(stat) = stat_at(inner.as_fd(), &child)? {
            remove_found(inner.as_fd(), &child, &stat, index, device, depth + 1)?;
        }
    }
    Ok(rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)?)
}

fn unlink(dir: BorrowedFd<'_>, name: &OsStr, stat: &Stat, index: &mut Index) -> io::Result<()> {
    if stat.st_nlink <= 1 || file_type(stat) != FileType::RegularFile {
        index.forget(stat);
        return Ok(rustix::fs::unlinkat(dir, name, AtFlags::empty())?);
    }
    let held = open_beneath(dir, name, OFlags::PATH, Mode::empty())?;
    let before = rustix::fs::fstat(&held)?;
    rustix::fs::unlinkat(dir, name, AtFlags::empty())?;
    index.relinked(&before, &rustix::fs::fstat(&held)?);
    Ok(())
}

/// Where something stood when it was mirrored: a digest of the original directory, the name, and the
/// inode; for a directory, whose mirror is another inode than it is, without that.
pub(super) fn place_of(original: &Stat, name: &OsStr, stat: &Stat) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&original.st_ino.to_le_bytes());
    hasher.update(&if is_directory(stat) { 0 } else { stat.st_ino }.to_le_bytes());
    hasher.update(name.as_bytes());
    let mut first = [0; 8];
    hasher.finalize_xof().fill(&mut first);
    u64::from_le_bytes(first)
}

/// Makes the directory `to` hold what the directory `from` holds: directories made anew, everything
/// else the same inode. What vanishes while it is read is left out. Notes what stands where.
pub(super) fn mirror_directory(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    index: &mut Index,
    mirrored: &mut BTreeSet<u64>,
    depth: usize,
) -> io::Result<()> {
    if depth > DEPTH_MAX {
        return Err(io::Error::other("excluded directories are nested too deeply"));
    }
    let here = rustix::fs::fstat(from)?;
    let names = list(from)?;
    for (name, _) in list(to)? {
        if names.binary_search_by(|(known, _)| known.cmp(&name)).is_err() {
            remove(to, &name, index)?;
        }
    }
    for (name, _) in &names {
        let Some(stat) = stat_at(from, name)? else {
            // What is left of it from an earlier mirroring would pass for new.
            remove(to, name, index)?;
            continue;
        };
        if stat.st_dev != here.st_dev {
            return Err(io::Error::other("something is mounted in an excluded directory"));
        }
        let there = stat_at(to, name)?;
        if !is_directory(&stat) {
            mirror_entry(from, to, name, &stat, there.as_ref(), index)?;
            // Somebody may have put another inode there between the look and the link.
            if let Some(made) = stat_at(to, name)? {
                mirrored.extend([made.st_ino, place_of(&here, name, &made)]);
            }
            continue;
        }
        let inner = match open_directory(from, name) {
            Ok(inner) => inner,
            Err(error) if leads_nowhere(&error) => {
                remove(to, name, index)?;
                continue;
            }
            Err(error) => return Err(error),
        };
        let made = mirror_directory_entry(to, name, &stat, there.as_ref(), index)?;
        mirrored.extend([rustix::fs::fstat(&made)?.st_ino, place_of(&here, name, &stat)]);
        mirror_directory(inner.as_fd(), made.as_fd(), index, mirrored, depth + 1)?;
    }
    Ok(())
}

/// Makes the directory that stands for one of another tree: same mode and owner.
pub(super) fn mirror_directory_entry(
    to: BorrowedFd<'_>,
    name: &OsStr,
    stat: &Stat,
    there: Option<&Stat>,
    index: &mut Index,
) -> io::Result<OwnedFd> {
    if there.is_some_and(|there| !is_directory(there)) {
        remove(to, name, index)?;
    }
    if !there.is_some_and(is_directory) {
        rustix::fs::mkdirat(to, name, Mode::RWXU)?;
    }
    let made = open_directory(to, name)?;
    let present = rustix::fs::fstat(&made)?;
    if (present.st_uid, present.st_gid) != (stat.st_uid, stat.st_gid) {
        let owner = rustix::fs::Uid::from_raw(stat.st_uid);
        let group = rustix::fs::Gid::from_raw(stat.st_gid);
        match rustix::fs::fchown(&made, Some(owner), Some(group)) {
            // Without the right to give directories away, the agent's own must do until the swap,
            // which puts the original directory in its place.
            Ok(()) | Err(Errno::PERM) => {}
            Err(error) => return Err(error.into()),
        }
    }
    // Giving away clears bits, so the mode comes last.
    rustix::fs::fchmod(&made, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    Ok(made)
}

/// Makes a name in one directory hold the inode that it holds in another.
pub(super) fn mirror_entry(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    name: &OsStr,
    stat: &Stat,
    there: Option<&Stat>,
    index: &mut Index,
) -> io::Result<()> {
    if there.is_some_and(|there| there.st_ino == stat.st_ino && there.st_dev == stat.st_dev) {
        return Ok(());
    }
    if there.is_some() {
        remove(to, name, index)?;
    }
    match link(from, name, to, name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Copies a file within the agent's file systems: shares its blocks where the file system can,
/// else byte by byte. Returns whether blocks are shared.
pub(super) fn clone_file(from: &mut File, to: &mut File) -> io::Result<bool> {
    if rustix::fs::ioctl_ficlone(&*to, &*from).is_ok() {
        return Ok(true);
    }
    io::copy(from, to)?;
    Ok(false)
}

/// Whether a file already has this mode and exactly this modification time.
pub(super) fn has_attributes(stat: &Stat, mode: u32, mtime: i64) -> bool {
    stat.st_mode & 0o7777 == mode && modified(stat) == (mtime, 0)
}
