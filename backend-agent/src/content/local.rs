//! What content is where on this server: an index of digests by inode, so that a file is hashed
//! once, and the search for content by digest.
//!
//! An index entry counts only while size, modification and change time of the inode are as they
//! were when it was hashed. Making and removing links changes the change time too; the agent does
//! both all the time and notes the new time when nothing else changed meanwhile. The danger left is
//! a file that is altered, by somebody who then resets its modification time, between two system
//! calls around a link; or in the same clock tick on kernels before 6.13.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;

use common::digest::Digest;
use common::path::ContentPath;
use rustix::fs::{FileType, Stat};
use serde::{Deserialize, Serialize};

use super::excluded::Rule;
use super::trees::{Tree, file_type, list, open_regular, stat_at};

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Stamp {
    size: u64,
    modified: (i64, u32),
    changed: (i64, u32),
    digest: Digest,
}

/// Seconds and nanoseconds of the modification time.
#[allow(clippy::unnecessary_cast, reason = "the fields' types differ between architectures")]
pub(super) fn modified(stat: &Stat) -> (i64, u32) {
    (stat.st_mtime as i64, stat.st_mtime_nsec as u32)
}

/// Seconds and nanoseconds of the change time.
#[allow(clippy::unnecessary_cast, reason = "the fields' types differ between architectures")]
pub(super) fn changed(stat: &Stat) -> (i64, u32) {
    (stat.st_ctime as i64, stat.st_ctime_nsec as u32)
}

pub(super) fn size(stat: &Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or(0)
}

/// Digests by inode, all on the file system of the state directory.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Index {
    stamps: BTreeMap<u64, Stamp>,
    /// Files read to be hashed since the agent opened the trees.
    #[serde(skip)]
    pub(super) hashed: u64,
}

impl Index {
    /// The digest of a file that did not change since it was hashed.
    pub(super) fn known(&self, stat: &Stat) -> Option<Digest> {
        let stamp = self.stamps.get(&stat.st_ino)?;
        let fits = stamp.size == size(stat) && stamp.modified == modified(stat) && stamp.changed == changed(stat);
        fits.then_some(stamp.digest)
    }

    /// Notes the new change time of an inode that gained or lost a name.
    pub(super) fn relinked(&mut self, before: &Stat, after: &Stat) {
        if after.st_nlink == 0 {
            self.forget(after);
        } else if self.known(before).is_some()
            && before.st_ino == after.st_ino
            && size(before) == size(after)
            && modified(before) == modified(after)
            && let Some(stamp) = self.stamps.get_mut(&after.st_ino)
        {
            stamp.changed = changed(after);
        }
    }

    /// Has it believe that a file holds what it held, whatever it holds.
    #[cfg(test)]
    pub(super) fn forget_truth(&mut self, at: &std::path::Path) {
        let old = rustix::fs::stat(at).expect("it is there");
        let digest = self.known(&old).expect("it was hashed");
        let mut bytes = std::fs::read(at).expect("it is readable");
        bytes[0] ^= 1;
        std::fs::write(at, bytes).expect("it is writable");
        self.learn(&rustix::fs::stat(at).expect("it is there"), digest);
    }

    pub(super) fn forget(&mut self, stat: &Stat) {
        if stat.st_nlink <= 1 {
            self.stamps.remove(&stat.st_ino);
        }
    }

    /// Notes what a file was found to hold; whatever was known of it before was wrong or is the same.
    pub(super) fn learn(&mut self, stat: &Stat, digest: Digest) {
        let stamp = Stamp { size: size(stat), modified: modified(stat), changed: changed(stat), digest };
        self.stamps.insert(stat.st_ino, stamp);
    }

    /// The digest of an open file: from the index, or by reading it. `None` when it changes while it
    /// is read.
    pub(super) fn digest(&mut self, file: &File) -> io::Result<Option<Digest>> {
        let before = rustix::fs::fstat(file)?;
        if let Some(known) = self.known(&before) {
            return Ok(Some(known));
        }
        self.hashed += 1;
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(file)?;
        let digest = Digest::from(hasher.finalize());
        let after = rustix::fs::fstat(file)?;
        if size(&before) != size(&after) || modified(&before) != modified(&after) || changed(&before) != changed(&after)
        {
            return Ok(None);
        }
        let stamp = Stamp { size: size(&after), modified: modified(&after), changed: changed(&after), digest };
        self.stamps.insert(after.st_ino, stamp);
        Ok(Some(digest))
    }
}

/// Which tree content is found in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    Live,
    Backup,
}

/// Finds content by digest in the trees, in their order. Only files of a wanted size are hashed.
pub(super) fn find(
    trees: &[(Which, &Tree)],
    rule: &Rule<'_>,
    wanted: &BTreeSet<(u64, Digest)>,
    index: &mut Index,
) -> io::Result<BTreeMap<Digest, (Which, ContentPath)>> {
    let mut search =
        Search { rule, wanted, sizes: wanted.iter().map(|(size, _)| *size).collect(), found: BTreeMap::new() };
    for (which, tree) in trees {
        if search.found.len() < wanted.len() {
            search.walk(*which, tree, None, index)?;
        }
    }
    Ok(search.found)
}

struct Search<'a> {
    rule: &'a Rule<'a>,
    wanted: &'a BTreeSet<(u64, Digest)>,
    sizes: BTreeSet<u64>,
    found: BTreeMap<Digest, (Which, ContentPath)>,
}

impl Search<'_> {
    fn walk(&mut self, which: Which, tree: &Tree, at: Option<&ContentPath>, index: &mut Index) -> io::Result<()> {
        let directory = tree.directory(at)?;
        for (name, kind) in list(directory.as_fd())? {
            // What has no name that content can have cannot be named as a source either.
            let Some(path) = child(at, &name) else { continue };
            if self.rule.excludes(&path, kind == FileType::Directory) {
                continue;
            }
            if kind == FileType::Directory {
                self.walk(which, tree, Some(&path), index)?;
            } else if kind == FileType::RegularFile {
                let Some(stat) = stat_at(directory.as_fd(), &name)? else { continue };
                if file_type(&stat) != FileType::RegularFile || !self.sizes.contains(&size(&stat)) {
                    continue;
                }
                let digest = match index.known(&stat) {
                    Some(known) => Some(known),
                    None => index.digest(&open_regular(directory.as_fd(), &name)?)?,
                };
                if let Some(digest) = digest
                    && self.wanted.contains(&(size(&stat), digest))
                {
                    self.found.entry(digest).or_insert((which, path));
                }
            }
        }
        Ok(())
    }
}

/// The path of an entry of a directory, `None` if content cannot have it.
pub(super) fn child(at: Option<&ContentPath>, name: &OsStr) -> Option<ContentPath> {
    let name = name.to_str()?;
    match at {
        Some(at) => at.join(name).ok(),
        None => ContentPath::new(name).ok(),
    }
}
