//! Whether live still is what was signed: a look at the whole tree that changes nothing.
//!
//! The danger: somebody edits, adds or deletes a file on one server, or a disk loses a bit, and nobody
//! learns of it until visitors do. The version that live should be was verified when it was prepared,
//! so its stored manifest is what was signed; each entry of live is held against it. The quick way
//! believes the index for files whose size, times and inode are as they were when they were last read,
//! as preparing does; the full way reads every byte, and corrects the index where it was wrong, so that
//! a repair does not take a damaged file for a good one.
//!
//! An audit of a large tree takes minutes, and the interpreter's thread has commits of other sites to
//! carry out within seconds. So it is done in slices, between which the thread does what else there is;
//! it ends with an error when live was switched meanwhile. What is excluded is outside, and with the
//! policy [`Extra::Keep`] so is what nobody published.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::AsFd as _;
use std::path::PathBuf;

use common::assignment::{Extra, Header};
use common::audit::{AuditReport, Difference};
use common::digest::Digest;
use common::exclude::Exclude;
use common::ids::{ClusterId, ServerId};
use common::manifest::Entry;
use common::outcome::{Outcome, Refusal};
use common::path::ContentPath;
use common::time::WallTime;
use rustix::fs::{FileType, Stat};

use super::SiteTrees;
use super::errors::ContentError;
use super::local::{Index, changed, child, modified, size};
use super::trees::{Tree, file_type, list, open_regular, stat_at};

/// Bytes that are read of a file at once; between two such pieces the thread may do something else.
/// 1 MiB: a millisecond or a few of an ordinary disk.
const PIECE_BYTES: usize = 1 << 20;

/// An audit under way.
pub(crate) struct Audit {
    full: bool,
    keeps_extra: bool,
    /// What live leaves alone: as the last publish said, and as the site says by now.
    excludes: [Exclude; 2],
    /// `None` when there is no live directory.
    tree: Option<Tree>,
    /// Of live's root, when it began.
    inode: Option<u64>,
    /// What should be there and was not come across yet.
    expected: BTreeMap<ContentPath, Entry>,
    /// The directory at hand, below those that it is in.
    directories: Vec<Directory>,
    reading: Option<Reading>,
    report: AuditReport,
}

/// A directory that is being gone through.
struct Directory {
    /// `None`: the root.
    path: Option<ContentPath>,
    names: VecDeque<OsString>,
    /// Whether something here is excluded, and whether something is not.
    holds: (bool, bool),
    is_extra: bool,
}

/// A file that is being read.
struct Reading {
    path: ContentPath,
    file: File,
    before: Stat,
    hasher: blake3::Hasher,
    expected: Digest,
    mode: u32,
}

impl SiteTrees {
    /// Begins an audit that somebody signed; [`Self::continue_audit`] does the work.
    ///
    /// # Errors
    /// The refusal to report: it is not for this server, is old, or what live should be is not known.
    pub(crate) fn begin_audit(
        &mut self,
        header: &Header,
        full: bool,
        cluster: ClusterId,
        own: ServerId,
        now: WallTime,
    ) -> Result<Audit, Refusal> {
        self.try_begin_audit(header, full, cluster, own, now).map_err(|error| error.refusal())
    }

    fn try_begin_audit(
        &mut self,
        header: &Header,
        full: bool,
        cluster: ClusterId,
        own: ServerId,
        now: WallTime,
    ) -> Result<Audit, ContentError> {
        self.check_address(header, cluster, own)?;
        self.check_order(header, now)?;
        self.finish_swap()?;
        self.settle_stragglers();
        let live = self.body().live.clone();
        let expected = match live.version {
            Some(version) => self.manifest(version)?.entries,
            None => BTreeMap::new(),
        };
        // Before the first publish whatever is there is nobody's business.
        let tree = if live.version.is_some() { self.open_live()? } else { None };
        let mut audit = Audit {
            full,
            keeps_extra: header.extra == Extra::Keep,
            excludes: [Exclude::of_tree(&live.exclude)?, Exclude::new(&header.live.exclude)?],
            tree,
            inode: self.live_inode()?,
            expected,
            directories: Vec::new(),
            reading: None,
            report: AuditReport { version: live.version, full, ..AuditReport::default() },
        };
        if let Some(tree) = &audit.tree {
            let names = names(tree, None).map_err(ContentError::io("listing", self.live_path.display()))?;
            audit.directories.push(Directory { path: None, names, holds: (false, false), is_extra: false });
        }
        Ok(audit)
    }

    /// Goes on with an audit while `more` says so. The outcome, when it has come to its end.
    pub(crate) fn continue_audit(&mut self, audit: &mut Audit, mut more: impl FnMut() -> bool) -> Option<Outcome> {
        let same = self
            .live_inode()
            .and_then(|inode| if inode == audit.inode { Ok(()) } else { Err(ContentError::SwitchedMeanwhile) });
        if let Err(error) = same {
            return Some(Outcome::Refused(error.refusal()));
        }
        while audit.step(&mut self.index) {
            if !more() {
                return None;
            }
        }
        self.save_index();
        for path in std::mem::take(&mut audit.expected).into_keys() {
            audit.report.note(Difference::Missing, path.to_string());
        }
        tracing::info!(site = %self.site, full = audit.full, found = %audit.report, "live was compared with its version");
        Some(Outcome::Audited(std::mem::take(&mut audit.report)))
    }

    /// An audit at one go.
    pub(super) fn audit(&mut self, header: &Header, full: bool, now: WallTime) -> Result<Outcome, ContentError> {
        let own = header.targets.first().copied().unwrap_or(ServerId([0; 16]));
        let mut audit = self.try_begin_audit(header, full, header.cluster, own, now)?;
        Ok(self.continue_audit(&mut audit, || true).unwrap_or(Outcome::Received))
    }
}

fn names(tree: &Tree, at: Option<&ContentPath>) -> io::Result<VecDeque<OsString>> {
    Ok(list(tree.directory(at)?.as_fd())?.into_iter().map(|(name, _)| name).collect())
}

impl Audit {
    /// Looks at the next entry, or the next piece of a file. False when there is nothing left.
    fn step(&mut self, index: &mut Index) -> bool {
        if let Some(reading) = self.reading.take() {
            self.read_on(reading, index);
            return true;
        }
        let Some(directory) = self.directories.last_mut() else { return false };
        let Some(name) = directory.names.pop_front() else {
            self.leave();
            return true;
        };
        let at = directory.path.clone();
        self.report.entries += 1;
        match child(at.as_ref(), &name) {
            Some(path) => self.look(path, &name, index),
            None => {
                // A name that no content can have: nobody published it.
                let shown = PathBuf::from(at.as_ref().map_or("", ContentPath::as_str)).join(&name);
                self.own();
                self.extra(shown.to_string_lossy().into_owned());
            }
        }
        true
    }

    /// A directory is done with.
    fn leave(&mut self) {
        let Some(Directory { path, holds: (excluded, own), is_extra, .. }) = self.directories.pop() else { return };
        if !is_extra {
            return;
        }
        // One that holds nothing but excluded entries stays for their sake.
        if excluded && !own {
            self.excluded();
        } else {
            self.own();
            self.extra(path.map_or_else(String::new, |path| path.to_string()));
        }
    }

    fn own(&mut self) {
        if let Some(directory) = self.directories.last_mut() {
            directory.holds.1 = true;
        }
    }

    fn excluded(&mut self) {
        if let Some(directory) = self.directories.last_mut() {
            directory.holds.0 = true;
        }
    }

    fn extra(&mut self, path: String) {
        if !self.keeps_extra {
            self.report.note(Difference::Extra, path);
        }
    }

    fn note(&mut self, difference: Difference, path: &ContentPath) {
        self.report.note(difference, path.to_string());
    }

    fn look(&mut self, path: ContentPath, name: &OsStr, index: &mut Index) {
        let parent = path.parent();
        let found = match &self.tree {
            Some(tree) => tree.directory(parent.as_ref()).and_then(|directory| {
                let stat = stat_at(directory.as_fd(), name)?;
                Ok((directory, stat))
            }),
            None => return,
        };
        let (directory, stat) = match found {
            Ok((directory, Some(stat))) => (directory, stat),
            // Gone since it was listed: missing, if it should be there.
            Ok((_, None)) => return,
            Err(_) => {
                self.own();
                self.expected.remove(&path);
                return self.note(Difference::Unreadable, &path);
            }
        };
        let kind = file_type(&stat);
        let is_directory = kind == FileType::Directory;
        let Some(expected) = self.expected.remove(&path) else {
            if self.excludes.iter().any(|exclude| !exclude.is_empty() && exclude.covers(&path, is_directory)) {
                return self.excluded();
            }
            if is_directory {
                return self.enter(path, true);
            }
            self.own();
            return self.extra(path.to_string());
        };
        self.own();
        let has_mode = |mode: u32| stat.st_mode & 0o7777 == mode;
        match (kind, expected) {
            (FileType::Directory, Entry::Directory { mode }) => {
                if !has_mode(mode) {
                    self.note(Difference::Mode, &path);
                }
                self.enter(path, false);
            }
            (FileType::RegularFile, Entry::File { mode, size: length, digest, .. }) => {
                if size(&stat) != length {
                    return self.note(Difference::Changed, &path);
                }
                match index.known(&stat).filter(|_| !self.full) {
                    Some(known) if known != digest => self.note(Difference::Changed, &path),
                    Some(_) => {
                        if !has_mode(mode) {
                            self.note(Difference::Mode, &path);
                        }
                    }
                    None => match open_regular(directory.as_fd(), name) {
                        Ok(file) => self.read(path, file, digest, mode),
                        Err(_) => self.note(Difference::Unreadable, &path),
                    },
                }
            }
            (FileType::Symlink, Entry::Symlink { target }) => {
                match rustix::fs::readlinkat(directory.as_fd(), name, Vec::new()) {
                    Ok(found) if found.as_bytes() == target.as_bytes() => {}
                    Ok(_) => self.note(Difference::Changed, &path),
                    Err(_) => self.note(Difference::Unreadable, &path),
                }
            }
            (FileType::Directory, Entry::File { .. } | Entry::Symlink { .. }) => {
                self.note(Difference::Kind, &path);
                // What it holds is extra; the directory itself was just named.
                self.enter(path, false);
            }
            (
                FileType::RegularFile
                | FileType::Symlink
                | FileType::Fifo
                | FileType::Socket
                | FileType::CharacterDevice
                | FileType::BlockDevice
                | FileType::Unknown,
                Entry::Directory { .. } | Entry::File { .. } | Entry::Symlink { .. },
            ) => self.note(Difference::Kind, &path),
        }
    }

    fn enter(&mut self, path: ContentPath, is_extra: bool) {
        let listed = self.tree.as_ref().map(|tree| names(tree, Some(&path)));
        match listed {
            Some(Ok(names)) => {
                self.directories.push(Directory { path: Some(path), names, holds: (false, false), is_extra });
            }
            Some(Err(_)) => self.note(Difference::Unreadable, &path),
            None => {}
        }
    }

    fn read(&mut self, path: ContentPath, file: File, expected: Digest, mode: u32) {
        match rustix::fs::fstat(&file) {
            Ok(before) => {
                let hasher = blake3::Hasher::new();
                self.reading = Some(Reading { path, file, before, hasher, expected, mode });
            }
            Err(_) => self.note(Difference::Unreadable, &path),
        }
    }

    /// Reads the next piece of a file; at its end, looks what it is.
    fn read_on(&mut self, mut reading: Reading, index: &mut Index) {
        let mut piece = Vec::with_capacity(PIECE_BYTES);
        match reading.file.by_ref().take(PIECE_BYTES as u64).read_to_end(&mut piece) {
            Ok(0) => self.was_read(reading, index),
            Ok(_) => {
                reading.hasher.update(&piece);
                self.reading = Some(reading);
            }
            Err(_) => self.note(Difference::Unreadable, &reading.path),
        }
    }

    fn was_read(&mut self, reading: Reading, index: &mut Index) {
        let Reading { path, file, before, hasher, expected, mode } = reading;
        let digest = Digest::from(hasher.finalize());
        let Ok(after) = rustix::fs::fstat(&file) else { return self.note(Difference::Unreadable, &path) };
        let is_same =
            (size(&before), modified(&before), changed(&before)) == (size(&after), modified(&after), changed(&after));
        if is_same {
            index.learn(&after, digest);
        }
        if digest != expected || !is_same {
            // What is written to while it is read is being changed.
            self.note(Difference::Changed, &path);
        } else if after.st_mode & 0o7777 != mode {
            self.note(Difference::Mode, &path);
        }
    }
}
