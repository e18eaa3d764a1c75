//! The file that a session fills: symbols at their offsets, parity beside it, and a note of what is held.
//!
//! The note lets an agent that was killed go on where it was. It may
//! claim what a power cut took: bytes are believed only when the whole file has its digest, and what has
//! not is fetched anew.

mod parity;
mod stretch;
mod writer;

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use common::digest::Digest;
use protocol::session::codec::{Restoration, Unsolvable, restore};
use protocol::session::{Geometry, RangeSet};
use serde::{Deserialize, Serialize};

use parity::Parity;
use stretch::Stretch;
pub use writer::Growth;
pub(crate) use writer::WriteError;
use writer::Writer;

/// What an object's unfinished file is called.
const PART: &str = "part";
/// What the note of what is held of it is called.
const HELD: &str = "held";
/// How old a note may be that is gone on with.
const NOTE_LIFE: Duration = Duration::from_secs(3600);
const NOTE_VERSION: u8 = 1;
/// Longest note that is read, in bytes: a million runs.
const NOTE_BYTES_MAX: u64 = 10 << 20;

/// What is held of an object that no session brings at present.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Remains {
    version: u8,
    /// Length of the object, in bytes.
    length: u64,
    /// Length of its symbols, in bytes.
    pub(crate) symbol_bytes: u16,
    /// Runs of symbols: first and count.
    pub(crate) held: Vec<(u32, u32)>,
}

impl Remains {
    pub(crate) fn of(geometry: &Geometry, held: &RangeSet) -> Self {
        let held = held.runs().map(|run| (run.start, run.end - run.start)).collect();
        Self { version: NOTE_VERSION, length: geometry.length(), symbol_bytes: geometry.symbol_bytes(), held }
    }

    /// Reads a note; `None` when it is damaged or of a later version.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let remains: Self = postcard::from_bytes(bytes).ok()?;
        (remains.version == NOTE_VERSION).then_some(remains)
    }
}

/// Why a block could not be restored.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RestoreError {
    /// A file could not be read or written.
    #[error("the spool file cannot be read or written")]
    Io(#[from] io::Error),
    /// What was kept back could not be written.
    #[error("the block's symbols are not all in the file")]
    Write(#[from] WriteError),
    /// Wrong parity was asked for.
    #[error("the block is not one to be restored so")]
    Unsolvable(#[from] Unsolvable),
}

/// The file of a session under way.
#[derive(Debug)]
pub(crate) struct Spool {
    writer: Writer,
    geometry: Geometry,
    parity: Parity,
    stretch: Stretch,
}

/// Where an object's file is.
pub(crate) fn part_path(directory: &Path, object: Digest) -> PathBuf {
    directory.join(format!("{object}.{PART}"))
}

fn note_path(directory: &Path, object: Digest) -> PathBuf {
    directory.join(format!("{object}.{HELD}"))
}

impl Spool {
    /// Opens an object's file, or makes it. Returns also whether it was there and may hold something.
    pub(crate) fn open(directory: &Path, object: Digest, geometry: &Geometry) -> io::Result<(Self, bool)> {
        let path = part_path(directory, object);
        let was_there = fs::metadata(&path).is_ok_and(|metadata| metadata.len() == geometry.length());
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(&path)?;
        file.set_len(geometry.length())?;
        Ok((
            Self {
                writer: Writer::new(file),
                geometry: *geometry,
                parity: Parity::new(directory),
                stretch: Stretch::default(),
            },
            was_there,
        ))
    }

    /// Takes a symbol; it may be kept back until [`Spool::flush`].
    pub(crate) fn write_symbol(&mut self, symbol: u32, payload: &[u8]) -> Result<(), WriteError> {
        self.stretch.written(self.geometry.offset(symbol), payload);
        self.writer.write(self.geometry.offset(symbol), payload)
    }

    /// Writes what was kept back.
    pub(crate) fn flush(&mut self) -> Result<(), WriteError> {
        self.writer.flush()
    }

    /// Of what is held, so much as is there without a gap is ready to be verified.
    pub(crate) fn grown(&mut self, held: &RangeSet) {
        let symbols = self.geometry.symbols();
        let whole = held.gaps(0..symbols).next().map_or(symbols, |gap| gap.start);
        self.writer.grown(self.geometry.offset(whole).min(self.geometry.length()));
    }

    /// Whether much has come that a verifier does not know of.
    pub(crate) fn is_worth_telling(&self) -> bool {
        self.writer.is_worth_telling()
    }

    /// Tells the verifier how much there is; the first time it is made.
    pub(crate) fn tell(&mut self) -> io::Result<Option<Growth>> {
        self.writer.tell()
    }

    pub(crate) fn write_parity(&mut self, block: u32, index: u8, payload: &[u8]) -> io::Result<()> {
        self.parity.keep(&self.geometry, (block, index), payload)
    }

    /// Writes what is missing of a block, made of what is here of it.
    pub(crate) fn restore(&mut self, restoration: &Restoration) -> Result<(), RestoreError> {
        self.writer.flush()?;
        let (parity, object) = (&self.parity, self.writer.file());
        self.stretch.cover(object, &self.geometry, restoration.block)?;
        let stretch = &self.stretch;
        restore::<RestoreError>(
            &self.geometry,
            restoration,
            |offset, symbol| {
                match stretch.get(offset, symbol.len()) {
                    Some(read) => symbol.copy_from_slice(read),
                    None => object.read_exact_at(symbol, offset)?,
                }
                Ok(())
            },
            |index, symbol| Ok(parity.read(&self.geometry, (restoration.block, index), symbol)?),
            |offset, symbol| Ok(object.write_all_at(symbol, offset)?),
        )?;
        self.parity.used_up(restoration.block);
        Ok(())
    }
}

/// Notes what is held, for an agent that starts again.
pub(crate) fn note(directory: &Path, object: Digest, remains: &Remains) -> io::Result<()> {
    let bytes = postcard::to_stdvec(remains).map_err(io::Error::other)?;
    let path = note_path(directory, object);
    let new = path.with_extension("new");
    fs::write(&new, bytes)?;
    fs::rename(&new, &path)
}

/// The note is of no use any more.
pub(crate) fn forget_note(directory: &Path, object: Digest) {
    remove(&note_path(directory, object));
}

/// The object is not wanted any more.
pub(crate) fn forget(directory: &Path, object: Digest) {
    remove(&part_path(directory, object));
    forget_note(directory, object);
}

fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "a spool file could not be removed");
    }
}

/// What an earlier process left and noted lately. Everything else in the directory is removed.
pub(crate) fn clean(directory: &Path) -> io::Result<Vec<(Digest, Remains)>> {
    fs::create_dir_all(directory)?;
    let mut left = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let object = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse::<Digest>().ok());
        let is_note = path.extension().is_some_and(|extension| extension == HELD);
        match object {
            Some(object) if is_note => left.extend(read_note(&path, directory, object).map(|note| (object, note))),
            Some(_) if path.extension().is_some_and(|extension| extension == PART) => {}
            Some(_) | None => fs::remove_file(path)?,
        }
    }
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let belongs = |object: &Digest| path == part_path(directory, *object) || path == note_path(directory, *object);
        if !left.iter().any(|(object, _)| belongs(object)) {
            fs::remove_file(path)?;
        }
    }
    Ok(left)
}

fn read_note(path: &Path, directory: &Path, object: Digest) -> Option<Remains> {
    let metadata = fs::metadata(path).ok()?;
    let age = SystemTime::now().duration_since(metadata.modified().ok()?).unwrap_or_default();
    if age > NOTE_LIFE || metadata.len() > NOTE_BYTES_MAX {
        return None;
    }
    let remains = Remains::read(&fs::read(path).ok()?)?;
    let part = fs::metadata(part_path(directory, object)).ok()?;
    (part.len() == remains.length).then_some(remains)
}

#[cfg(test)]
mod tests {
    use protocol::session::SYMBOL_BYTES;
    use protocol::session::codec::Encoder;

    use super::*;

    fn geometry(symbols: u64) -> Geometry {
        Geometry::new(symbols * u64::from(SYMBOL_BYTES), SYMBOL_BYTES).expect("fits").with_blocks()
    }

    #[test]
    fn what_an_earlier_process_noted_is_gone_on_with_and_everything_else_is_removed() {
        let directory = tempfile::tempdir().expect("a directory");
        let directory = directory.path();
        let (good, unnoted, gone) = (Digest([1; 32]), Digest([2; 32]), Digest([3; 32]));
        let mut held = RangeSet::new();
        held.insert(2..5);
        let remains = Remains::of(&geometry(9), &held);
        for object in [good, unnoted] {
            assert!(!Spool::open(directory, object, &geometry(9)).expect("it can be made").1);
        }
        note(directory, good, &remains).expect("it can be written");
        note(directory, gone, &remains).expect("it can be written");
        fs::write(directory.join("rubbish"), b"?").expect("it can be written");
        assert_eq!(clean(directory).expect("it can be read"), vec![(good, remains.clone())]);
        assert_eq!(fs::read_dir(directory).expect("it can be read").count(), 2);
        assert!(Spool::open(directory, good, &geometry(9)).expect("it can be opened").1);
        note(directory, good, &Remains { version: 2, ..remains }).expect("it can be written");
        assert_eq!(clean(directory).expect("it can be read"), vec![], "a form of a later version");
        assert_eq!(fs::read_dir(directory).expect("it can be read").count(), 0);
    }

    #[test]
    fn a_block_is_restored_of_what_came_after_the_blocks_beside_it_were() {
        let directory = tempfile::tempdir().expect("a directory");
        let geometry = geometry(1600);
        let object: Vec<u8> = (0..geometry.length()).map(|at| (at * 7 / 11 % 251) as u8).collect();
        let bytes = |symbol: u32| &object[geometry.offset(symbol) as usize..][..usize::from(SYMBOL_BYTES)];
        let (mut spool, _) = Spool::open(directory.path(), Digest([1; 32]), &geometry).expect("it can be made");
        // One symbol of each of the first two blocks is lost, and another of the second is late.
        let (lost, lost_beside, late) = (0, 1, 9);
        for symbol in (0..1600).filter(|symbol| ![lost, lost_beside, late].contains(symbol)) {
            spool.write_symbol(symbol, bytes(symbol)).expect("written");
        }
        let mut encoder = Encoder::default();
        let mut restore = |spool: &mut Spool, block: u32, missing: u32| {
            let read = |offset: u64, buffer: &mut [u8]| -> io::Result<()> {
                buffer.copy_from_slice(&object[offset as usize..][..buffer.len()]);
                Ok(())
            };
            let parity = encoder.parity(&geometry, (block, 0, 1), read).expect("it can be read");
            spool.write_parity(block, 0, parity).expect("written");
            let restoration = Restoration { block, missing: vec![missing], parity: vec![0] };
            spool.restore(&restoration).expect("it can be restored");
        };
        restore(&mut spool, 0, lost);
        spool.write_symbol(late, bytes(late)).expect("written");
        restore(&mut spool, 1, lost_beside);
        let file = fs::read(part_path(directory.path(), Digest([1; 32]))).expect("there");
        assert!(file == object);
    }
}
