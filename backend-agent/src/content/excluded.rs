//! Paths that publishing leaves alone: uploads, logs, caches.
//!
//! They must be there in every tree that is live, be the same inodes for whoever has them open, and
//! lose nothing that is written while trees change places. So: before a swap, the tree that comes
//! gets hard links to all of them ([`mirror`]); right after it, excluded directories change places
//! once more, so that live has the original ones with whatever was written to them meanwhile
//! ([`Originals::follow`]); and what was done to the mirrored ones in the moment between the two
//! exchanges is done to the original ones ([`settle`]). Within that moment, a few microseconds, an
//! operation that builds on one just before it can fail; nothing that succeeds is lost.
//!
//! What the tree itself contains is never excluded, whatever the patterns say.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::rc::Rc;

use common::exclude::Exclude;
use common::manifest::{Entry, Manifest};
use common::path::ContentPath;
use rustix::fs::{AtFlags, FileType, RenameFlags, Stat};
use rustix::io::Errno;

use super::errors::ContentError;
use super::journal::Carried;
use super::local::{Index, changed, child};
use super::trees::{
    Tree, is_directory, link, list, mirror_directory, mirror_directory_entry, mirror_entry, open_directory, place_of,
    remove, stat_at,
};

/// What is excluded: by the patterns, unless the tree contains it.
pub(super) struct Rule<'a> {
    pub(super) exclude: &'a Exclude,
    pub(super) manifest: &'a Manifest,
}

impl Rule<'_> {
    pub(super) fn excludes(&self, path: &ContentPath, is_directory: bool) -> bool {
        !self.exclude.is_empty() && !self.manifest.entries.contains_key(path) && self.exclude.covers(path, is_directory)
    }
}

/// The excluded entries of a tree whose own directory is not excluded, in path order.
pub(super) fn find(tree: &Tree, rule: &Rule<'_>) -> io::Result<Vec<Carried>> {
    let mut found = Vec::new();
    if !rule.exclude.is_empty() {
        walk(tree, rule, None, &mut found)?;
    }
    Ok(found)
}

fn walk(tree: &Tree, rule: &Rule<'_>, at: Option<&ContentPath>, found: &mut Vec<Carried>) -> io::Result<()> {
    let directory = tree.directory(at)?;
    for (name, kind) in list(directory.as_fd())? {
        let Some(path) = child(at, &name) else { continue };
        let is_directory = kind == FileType::Directory;
        if rule.excludes(&path, is_directory) {
            let Some(stat) = stat_at(directory.as_fd(), &name)? else { continue };
            found.push(Carried { path, inode: stat.st_ino, directory: is_directory });
        } else if is_directory {
            walk(tree, rule, Some(&path), found)?;
        }
    }
    Ok(())
}

/// Makes the tree that comes hold the excluded entries that live holds, and no others. Returns them, and
/// notes the inodes inside of excluded directories.
pub(super) fn mirror(
    live: &Tree,
    coming: &Tree,
    rule: &Rule<'_>,
    index: &mut Index,
    mirrored: &mut BTreeSet<u64>,
) -> Result<Vec<Carried>, ContentError> {
    let present = find(live, rule).map_err(ContentError::io("looking for", "excluded paths"))?;
    for stale in find(coming, rule).map_err(ContentError::io("looking for", "excluded paths"))? {
        if present.binary_search_by(|carried| carried.path.cmp(&stale.path)).is_err() {
            let parent =
                coming.parent(&stale.path).map_err(ContentError::io("opening the directory of", &stale.path))?;
            remove(parent.as_fd(), OsStr::new(stale.path.file_name()), index)
                .map_err(ContentError::io("removing the copy of", &stale.path))?;
        }
    }
    for carried in &present {
        make_parents(live, coming, rule, &carried.path)?;
        mirror_one(live, coming, carried, index, mirrored)
            .map_err(ContentError::io("carrying along", &carried.path))?;
    }
    Ok(present)
}

/// Directories that the tree does not have and that an excluded entry stands in stay with it.
fn make_parents(live: &Tree, coming: &Tree, rule: &Rule<'_>, path: &ContentPath) -> Result<(), ContentError> {
    let Some(parent) = path.parent() else { return Ok(()) };
    make_parents(live, coming, rule, &parent)?;
    match rule.manifest.entries.get(&parent) {
        Some(Entry::Directory { .. }) => return Ok(()),
        Some(Entry::File { .. } | Entry::Symlink { .. }) => {
            return Err(ContentError::ExcludedInTheWay { path: path.to_string() });
        }
        None => {}
    }
    let failed = || ContentError::io("making the directory", &parent);
    if coming.stat(&parent).map_err(failed())?.is_none() {
        let mode = live.stat(&parent).map_err(failed())?.map_or(0o755, |stat| stat.st_mode & 0o777);
        coming.make_directory(&parent).map_err(failed())?;
        coming.set_directory_mode(&parent, mode).map_err(failed())?;
    }
    Ok(())
}

fn mirror_one(
    live: &Tree,
    coming: &Tree,
    carried: &Carried,
    index: &mut Index,
    mirrored: &mut BTreeSet<u64>,
) -> io::Result<()> {
    let name = OsStr::new(carried.path.file_name());
    let from = live.parent(&carried.path)?;
    let to = coming.parent(&carried.path)?;
    let Some(stat) = stat_at(from.as_fd(), name)? else { return Ok(()) };
    let there = stat_at(to.as_fd(), name)?;
    if !is_directory(&stat) {
        return mirror_entry(from.as_fd(), to.as_fd(), name, &stat, there.as_ref(), index);
    }
    if stat.st_dev != live.root_stat()?.st_dev {
        return Err(io::Error::other("something is mounted there"));
    }
    let inner = open_directory(from.as_fd(), name)?;
    let made = mirror_directory_entry(to.as_fd(), name, &stat, there.as_ref(), index)?;
    mirror_directory(inner.as_fd(), made.as_fd(), index, mirrored, 0)
}

/// Original directories with the places, in both trees, that they change between. Opened before the
/// swap, so that nothing but the exchanges themselves stands between it and them.
pub(super) struct Originals(Vec<(Rc<OwnedFd>, Rc<OwnedFd>, OsString, u64)>);

impl Originals {
    pub(super) fn find(live: &Tree, coming: &Tree, carried: &[Carried]) -> io::Result<Self> {
        let directories = carried.iter().filter(|entry| entry.directory);
        let pairs = directories.map(|entry| {
            let name = OsString::from(entry.path.file_name());
            Ok((live.parent(&entry.path)?, coming.parent(&entry.path)?, name, entry.inode))
        });
        pairs.collect::<io::Result<_>>().map(Self)
    }

    /// Brings them to the tree that is live. What cannot be exchanged is left to [`settle`].
    pub(super) fn follow(&self, state: BorrowedFd<'_>) {
        for (from, to, name, inode) in &self.0 {
            if let Err(error) = trade(from.as_fd(), to.as_fd(), name, state, *inode) {
                tracing::debug!(?name, %error, "an excluded directory follows later");
            }
        }
    }
}

/// Gives live the original excluded entries from the tree that went, and brings along what happened
/// to the mirrored ones while they were live. Can be repeated. What it brought is noted in
/// `mirrored`, so that it is not brought again when it was taken away meanwhile. Only with
/// `also_taken` is anything taken away.
pub(super) fn settle(
    live: &Tree,
    gone: &Tree,
    state: BorrowedFd<'_>,
    rule: &Rule<'_>,
    carried: &[Carried],
    mirrored: &mut BTreeSet<u64>,
    also_taken: bool,
) -> io::Result<()> {
    for entry in carried {
        settle_one(live, gone, state, entry, mirrored, also_taken)?;
    }
    // What appeared between the mirroring and the swap.
    for late in find(gone, rule)? {
        if carried.binary_search_by(|known| known.path.cmp(&late.path)).is_err() && live.stat(&late.path)?.is_none() {
            let name = OsStr::new(late.path.file_name());
            let Ok(to) = live.parent(&late.path) else { continue };
            rustix::fs::renameat(gone.parent(&late.path)?.as_fd(), name, to.as_fd(), name)?;
        }
    }
    Ok(())
}

fn settle_one(
    live: &Tree,
    gone: &Tree,
    state: BorrowedFd<'_>,
    entry: &Carried,
    mirrored: &mut BTreeSet<u64>,
    also_taken: bool,
) -> io::Result<()> {
    let name = OsStr::new(entry.path.file_name());
    let (here, there) = (live.parent(&entry.path)?, gone.parent(&entry.path)?);
    let (here, there) = (here.as_fd(), there.as_fd());
    let present = stat_at(here, name)?;
    let original = stat_at(there, name)?;
    if !entry.directory {
        // A writer that replaces the file by a rename may have done so on either side of the swap.
        return match (present, original) {
            (Some(present), Some(original)) if present.st_ino == entry.inode && original.st_ino != entry.inode => {
                put_in_place(there, here, name, state)
            }
            (None, Some(original)) if original.st_ino != entry.inode => link(there, name, here, name),
            (Some(_) | None, Some(_) | None) => Ok(()),
        };
    }
    let is_original = |stat: &Option<Stat>| stat.as_ref().is_some_and(|stat| stat.st_ino == entry.inode);
    if is_original(&original) {
        if present.is_some() {
            trade(there, here, name, state, entry.inode)?;
        } else {
            rustix::fs::renameat(there, name, here, name)?;
        }
    } else if !is_original(&present) {
        return Ok(());
    }
    // What a crash within a trade left aside belongs there.
    let aside = aside_name(entry.inode);
    if stat_at(state, OsStr::new(&aside))?.is_some() && stat_at(there, name)?.is_none() {
        rustix::fs::renameat(state, &aside, there, name)?;
    }
    match stat_at(there, name)? {
        Some(stat) if is_directory(&stat) => {
            let left = open_directory(there, name)?;
            let kept = open_directory(here, name)?;
            bring_along(left.as_fd(), kept.as_fd(), state, mirrored)?;
            if also_taken { take_along(Some(left.as_fd()), kept.as_fd(), mirrored) } else { Ok(()) }
        }
        Some(_) | None => Ok(()),
    }
}

/// Name, in the state directory, of a mirrored directory whose original, of this inode, takes its place.
fn aside_name(inode: u64) -> String {
    format!("aside-{inode}")
}

/// Has an original directory, in `from`, and its mirror, in `to`, change places: by one exchange, or where
/// the file system has none by three renames, between the first two of which nothing stands there. Whoever
/// asks in that moment, a few microseconds, is told so; nothing that was written is lost.
fn trade(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &OsStr, state: BorrowedFd<'_>, inode: u64) -> io::Result<()> {
    match rustix::fs::renameat_with(from, name, to, name, RenameFlags::EXCHANGE) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {}
        result => return Ok(result?),
    }
    let aside = aside_name(inode);
    rustix::fs::renameat(to, name, state, &aside)?;
    rustix::fs::renameat(from, name, to, name)?;
    Ok(rustix::fs::renameat(state, &aside, from, name)?)
}

/// Brings what was put into a mirrored directory while it was live. It takes the place of what stands
/// there from before.
fn bring_along(
    left: BorrowedFd<'_>,
    kept: BorrowedFd<'_>,
    state: BorrowedFd<'_>,
    mirrored: &mut BTreeSet<u64>,
) -> io::Result<()> {
    let original = rustix::fs::fstat(kept)?;
    for (name, kind) in list(left)? {
        let Some(stat) = stat_at(left, &name)? else { continue };
        let place = place_of(&original, &name, &stat);
        let is_new = !mirrored.contains(&place);
        let there = stat_at(kept, &name)?;
        let directory_there = there.as_ref().is_some_and(is_directory);
        if kind == FileType::Directory {
            if directory_there {
                let (left, kept) = (open_directory(left, &name)?, open_directory(kept, &name)?);
                bring_along(left.as_fd(), kept.as_fd(), state, mirrored)?;
            } else if there.is_none() && (is_new || holds_new(open_directory(left, &name)?.as_fd(), mirrored)?) {
                rustix::fs::renameat(left, &name, kept, &name)?;
            }
            continue;
        }
        if is_new && there.is_none() {
            link(left, &name, kept, &name)?;
        } else if is_new
            && !directory_there
            // What was put there after live had the original again is later.
            && there.is_some_and(|there| there.st_ino != stat.st_ino && changed(&there) <= changed(&stat))
        {
            put_in_place(left, kept, &name, state)?;
        }
        if is_new {
            mirrored.insert(place);
        }
    }
    Ok(())
}

fn holds_new(directory: BorrowedFd<'_>, mirrored: &BTreeSet<u64>) -> io::Result<bool> {
    for (name, kind) in list(directory)? {
        let Some(stat) = stat_at(directory, &name)? else { continue };
        if !mirrored.contains(&stat.st_ino)
            || kind == FileType::Directory && holds_new(open_directory(directory, &name)?.as_fd(), mirrored)?
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Takes from the original directory what was taken from the mirrored one while that was live: what
/// was mirrored, is where it was in the original, and is not in the mirror. `left` is `None` below
/// directories that were removed from the mirror. What was taken is forgotten, so that it is not taken
/// again when somebody puts it back.
fn take_along(left: Option<BorrowedFd<'_>>, kept: BorrowedFd<'_>, mirrored: &mut BTreeSet<u64>) -> io::Result<()> {
    let original = rustix::fs::fstat(kept)?;
    for (name, kind) in list(kept)? {
        let Some(stat) = stat_at(kept, &name)? else { continue };
        let place = place_of(&original, &name, &stat);
        if !mirrored.contains(&place) {
            continue;
        }
        let mirror = match left {
            Some(left) => stat_at(left, &name)?,
            None => None,
        };
        if kind != FileType::Directory {
            if mirror.is_none() {
                rustix::fs::unlinkat(kept, &name, AtFlags::empty())?;
                mirrored.remove(&place);
            }
            continue;
        }
        let inner = open_directory(kept, &name)?;
        match (left, mirror.filter(is_directory)) {
            (Some(left), Some(_)) => {
                take_along(Some(open_directory(left, &name)?.as_fd()), inner.as_fd(), mirrored)?;
            }
            (Some(_) | None, _) => {
                take_along(None, inner.as_fd(), mirrored)?;
                match rustix::fs::unlinkat(kept, &name, AtFlags::REMOVEDIR) {
                    // Something may have been put there since.
                    Ok(()) | Err(Errno::NOTEMPTY | Errno::EXIST) => {}
                    Err(error) => return Err(error.into()),
                }
                mirrored.remove(&place);
            }
        }
    }
    Ok(())
}

/// Name, in the state directory, of a link on its way to its place.
pub(super) const PASSING: &str = "passing";

/// Makes `name` in `to` the inode that it is in `from`, without a moment in which it is missing.
fn put_in_place(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &OsStr, state: BorrowedFd<'_>) -> io::Result<()> {
    match rustix::fs::unlinkat(state, PASSING, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    link(from, name, state, OsStr::new(PASSING))?;
    Ok(rustix::fs::renameat(state, PASSING, to, name)?)
}
