//! What outlives a crash: the state of the trees, in one small file that is replaced as a whole.
//!
//! Layout of every file here: 8 bytes of magic, format version as u16 little endian, content in
//! postcard form, BLAKE3 of all that stands before it. A file is written to a new name, made durable,
//! and renamed; so it is there as a whole or as it was before.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};

use common::digest::Version;
use common::ids::{AssignmentNumber, Sequence, SiteName};
use common::outcome::Outcome;
use common::path::ContentPath;
use common::time::WallTime;
use rustix::fs::{Mode, OFlags};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::fault::{Fault, Point};
use super::trees::{open_beneath, open_regular};

const MAGIC: [u8; 8] = *b"PRBESTAT";
const FORMAT: u16 = 1;
const DIGEST_BYTES: usize = 32;
const HEAD_BYTES: usize = 10;

/// How many assignments are remembered: far more than can be on their way at once.
const REMEMBERED_MAX: usize = 64;

/// Where a prepared tree stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Place {
    /// Staged anew.
    Temp,
    /// It is the backup.
    Backup,
    /// It is live already: a commit has nothing to do.
    Live,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Prepared {
    pub(super) number: AssignmentNumber,
    pub(super) version: Version,
    pub(super) place: Place,
    /// Of the tree's root.
    pub(super) inode: u64,
    pub(super) exclude: Vec<String>,
    pub(super) expires: WallTime,
}

/// What stood at live before the commit that brought the present tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Before {
    /// Not known, or not held any more.
    Unknown,
    /// No directory at all.
    Absent,
    /// The backup.
    Backup,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Live {
    /// `None` when what is there was not published.
    pub(super) version: Option<Version>,
    /// The prepared assignment that a commit brought live.
    pub(super) from: Option<AssignmentNumber>,
    pub(super) before: Before,
    pub(super) exclude: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Backup {
    pub(super) version: Option<Version>,
    /// Of the tree's root.
    pub(super) inode: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Handled {
    pub(super) number: AssignmentNumber,
    pub(super) sequence: Sequence,
    pub(super) outcome: Outcome,
}

/// The state between swaps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Body {
    pub(super) site: SiteName,
    pub(super) sequence: Sequence,
    pub(super) live: Live,
    pub(super) backup: Option<Backup>,
    pub(super) prepared: Option<Prepared>,
    /// Prepared assignments that were committed, latest last.
    pub(super) committed: Vec<AssignmentNumber>,
    /// Prepared assignments that were undone, known here or not, latest last.
    pub(super) undone: Vec<AssignmentNumber>,
    /// What became of assignments, latest last. Refusals are not kept: their cause may pass.
    pub(super) handled: Vec<Handled>,
}

impl Body {
    pub(super) fn new(site: SiteName) -> Self {
        Self {
            site,
            sequence: Sequence(0),
            live: Live { version: None, from: None, before: Before::Unknown, exclude: Vec::new() },
            backup: None,
            prepared: None,
            committed: Vec::new(),
            undone: Vec::new(),
            handled: Vec::new(),
        }
    }

    pub(super) fn remember(&mut self, number: AssignmentNumber, sequence: Sequence, outcome: &Outcome) {
        self.sequence = self.sequence.max(sequence);
        self.handled.retain(|handled| handled.number != number);
        push(&mut self.handled, Handled { number, sequence, outcome: outcome.clone() });
    }

    pub(super) fn outcome_of(&self, number: AssignmentNumber, sequence: Sequence) -> Option<&Outcome> {
        let handled = self.handled.iter().find(|handled| handled.number == number && handled.sequence == sequence)?;
        Some(&handled.outcome)
    }

    /// Nothing is prepared any more; that it was is not to be said again.
    pub(super) fn forget_prepared(&mut self) {
        if let Some(prepared) = self.prepared.take() {
            self.handled.retain(|handled| handled.number != prepared.number);
        }
    }

    /// The versions of all trees that there are.
    pub(super) fn versions(&self) -> impl Iterator<Item = Version> {
        let backup = self.backup.as_ref().and_then(|backup| backup.version);
        let prepared = self.prepared.as_ref().map(|prepared| prepared.version);
        [self.live.version, backup, prepared].into_iter().flatten()
    }

    pub(super) fn note_committed(&mut self, number: AssignmentNumber) {
        push(&mut self.committed, number);
    }

    pub(super) fn note_undone(&mut self, number: AssignmentNumber) {
        self.undone.retain(|undone| *undone != number);
        push(&mut self.undone, number);
    }

    /// Live is taken back: what was said about preparing and committing is not to be said again.
    pub(super) fn take_back(&mut self, number: AssignmentNumber) {
        self.prepared = None;
        self.committed.retain(|committed| *committed != number);
        self.handled.retain(|handled| matches!(handled.outcome, Outcome::Undone { .. }));
    }
}

fn push<T>(list: &mut Vec<T>, item: T) {
    if list.len() >= REMEMBERED_MAX {
        list.remove(0);
    }
    list.push(item);
}

/// What a swap does to the directory entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Move {
    /// Live and the tree at a place change places. Inodes of the roots.
    Exchange { place: Place, incoming: u64, outgoing: u64 },
    /// The staged tree becomes live, where nothing was.
    Appear { incoming: u64 },
    /// Live is taken away: before its first publish nothing was there.
    Vanish { outgoing: u64 },
}

/// An excluded entry whose directory is not excluded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Carried {
    pub(super) path: ContentPath,
    /// In the tree that goes.
    pub(super) inode: u64,
    pub(super) directory: bool,
}

/// A swap that has begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Swap {
    pub(super) step: Move,
    pub(super) carried: Vec<Carried>,
    /// Inodes in the mirrored excluded directories, and what stood where when they were mirrored
    /// (`trees::place_of`). Any other was put there, what is missing was taken away, while the mirrored
    /// ones were live.
    pub(super) mirrored: BTreeSet<u64>,
    /// For finding excluded entries in the tree that goes.
    pub(super) exclude: Vec<String>,
    /// The version that comes live, whose manifest says what is not excluded.
    pub(super) version: Option<Version>,
    /// The state once live was switched.
    pub(super) after: Body,
}

/// The journal's content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Journal {
    pub(super) body: Body,
    pub(super) swap: Option<Swap>,
}

/// From when on a journal must be the one that is found after a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lasts {
    /// Before anything else happens.
    Now,
    /// Whenever the directory is made durable next: until then the one before leads to the same state.
    Later,
}

/// Name of the journal in the state directory.
pub(super) const JOURNAL: &str = "journal";

impl Journal {
    /// Makes this the state. `is_first`: there was none before, so the state directory itself and all in
    /// it may be new. Nothing is acknowledged, and no tree is named by anybody, before the first journal is
    /// in its place; one flush of the file system just before that makes all of them last, whoever made
    /// them, and takes the place of the flush of the journal's content.
    pub(super) fn write(
        &self,
        state: BorrowedFd<'_>,
        fault: &mut dyn Fault,
        is_first: bool,
        lasts: Lasts,
    ) -> io::Result<()> {
        fault.at(Point::WriteJournal)?;
        write_new(state, JOURNAL, self, !is_first)?;
        if is_first {
            rustix::fs::syncfs(state)?;
        }
        fault.at(Point::ReplaceJournal)?;
        replace(state, JOURNAL)?;
        match lasts {
            Lasts::Now => Ok(rustix::fs::fsync(state)?),
            Lasts::Later => Ok(()),
        }
    }
}

/// What a file is called until it takes its place.
pub(super) fn new_name(name: &str) -> String {
    format!("{name}.new")
}

/// The bytes of a file that holds this.
pub(crate) fn seal(content: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::from(MAGIC);
    bytes.extend_from_slice(&FORMAT.to_le_bytes());
    let mut bytes = postcard::to_extend(content, bytes).map_err(io::Error::other)?;
    let digest = *blake3::hash(&bytes).as_bytes();
    bytes.extend_from_slice(&digest);
    Ok(bytes)
}

/// Writes what is to take the place of a file, under another name; durably if asked.
pub(super) fn write_new(dir: BorrowedFd<'_>, name: &str, content: &impl Serialize, durable: bool) -> io::Result<()> {
    let bytes = seal(content)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
    let mut file: File = open_beneath(dir, OsStr::new(&new_name(name)), flags, Mode::RUSR | Mode::WUSR)?.into();
    file.write_all(&bytes)?;
    if durable {
        rustix::fs::fsync(file.as_fd())?;
    }
    Ok(())
}

/// Has it take that place.
pub(super) fn replace(dir: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    Ok(rustix::fs::renameat(dir, new_name(name), dir, name)?)
}

/// Writes a file whole or not at all; durably if asked.
pub(super) fn write_sealed(dir: BorrowedFd<'_>, name: &str, content: &impl Serialize, durable: bool) -> io::Result<()> {
    write_new(dir, name, content, durable)?;
    replace(dir, name)?;
    if durable {
        rustix::fs::fsync(dir)?;
    }
    Ok(())
}

/// Reads a file, `None` if it is not there.
///
/// # Errors
/// Also when it is damaged or has another format.
pub(super) fn read_sealed<T: DeserializeOwned>(dir: BorrowedFd<'_>, name: &str) -> io::Result<Option<T>> {
    let mut bytes = Vec::new();
    match open_regular(dir, OsStr::new(name)) {
        Ok(mut file) => file.read_to_end(&mut bytes)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    unseal(&bytes).map(Some)
}

/// What the bytes of a file hold.
///
/// # Errors
/// When they are damaged or have another format.
pub(crate) fn unseal<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    let damaged = |what| io::Error::new(io::ErrorKind::InvalidData, what);
    if bytes.len() < HEAD_BYTES + DIGEST_BYTES || bytes[..8] != MAGIC {
        return Err(damaged("not a state file"));
    }
    let (sealed, digest) = bytes.split_at(bytes.len() - DIGEST_BYTES);
    if blake3::hash(sealed).as_bytes() != digest {
        return Err(damaged("the checksum does not fit"));
    }
    if sealed[8..HEAD_BYTES] != FORMAT.to_le_bytes() {
        return Err(damaged("written by another version of pressrun"));
    }
    match postcard::take_from_bytes(&sealed[HEAD_BYTES..]) {
        Ok((content, [])) => Ok(content),
        Ok(_) | Err(_) => Err(damaged("the content is not readable")),
    }
}
