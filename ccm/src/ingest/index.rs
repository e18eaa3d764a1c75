//! What the last scan found out, so that the next one reads only what may have changed.
//!
//! The index is a cache: a lost, damaged or foreign one costs time and nothing else. It is trusted
//! as far as a file's stamp goes (see [`Stamp::is_settled`]). It is kept by directories and read by
//! them, so that a tree of any size needs memory for its directories alone; formats.md has its layout.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use common::digest::Digest;
use serde::{Deserialize, Serialize};

/// First bytes of the index file: the format and its version.
const MAGIC: &[u8; 8] = b"PRINDEX2";
/// Magic number and checksum.
const HEAD_BYTES: u64 = 40;
/// How long before a scan a file must have rested for its stamp to be believed: longer than the
/// coarsest time stamps of file systems in use (FAT: two seconds).
pub(super) const SETTLED_AFTER: Duration = Duration::from_secs(2);

/// What changes when a file changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stamp {
    /// Device, major and minor number.
    pub(super) device: (u32, u32),
    /// Inode.
    pub(super) inode: u64,
    /// Length in bytes.
    pub(super) size: u64,
    /// Modification time: seconds and nanoseconds since 1970.
    pub(super) mtime: (i64, u32),
    /// Change time, likewise.
    pub(super) ctime: (i64, u32),
}

impl Stamp {
    /// Whether the next change is certain to show: a file written twice within one tick of the file
    /// system's clock, the second time after it was read, looks as if nothing had happened.
    pub(super) fn is_settled(&self, scan_began: SystemTime) -> bool {
        let began = match scan_began.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(since) => i128::try_from(since.as_nanos()).unwrap_or(i128::MAX),
            Err(_) => return false,
        };
        let nanos = |(seconds, nanos): (i64, u32)| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
        let margin = i128::try_from(SETTLED_AFTER.as_nanos()).expect("a constant of seconds");
        // A change time ahead of our clock is recent by some other clock. A modification time ahead
        // of it was set by hand, which the change time shows.
        nanos(self.ctime) < began - margin && (nanos(self.mtime) - began).abs() > margin
    }
}

/// What is known of one file of a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Row<'a> {
    /// Its name.
    pub(super) name: &'a str,
    /// Its permission bits when it was read.
    pub(super) mode: u32,
    /// Its stamp then.
    pub(super) stamp: Stamp,
    /// The digest of its content then.
    pub(super) digest: Digest,
}

/// The directories of the store that contents are kept in, by number, and what they looked like when
/// all contents that the index names were in them; `None` where that may not show the next change.
pub(super) type Shards = Vec<Option<Stamp>>;

/// Where the rows of a directory are in the index file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    offset: u64,
    length: u32,
}

/// Directories by their paths.
type Directories = BTreeMap<Box<str>, Place>;

/// The rows of all directories that have files, by their paths; the root's path is empty.
#[derive(Debug, Default)]
pub(crate) struct Index {
    bytes: Kept,
    pub(super) shards: Shards,
    directories: Directories,
}

/// Where the bytes of an index are. The file was checked when it was opened.
#[derive(Debug, Default)]
enum Kept {
    #[default]
    Nowhere,
    File(File),
    Memory(Vec<u8>),
}

impl Index {
    /// Number of directories that have rows.
    pub(super) fn len(&self) -> usize {
        self.directories.len()
    }

    /// Where the rows of a directory are.
    pub(super) fn place(&self, directory: &str) -> Option<Place> {
        self.directories.get(directory).copied()
    }

    /// The bytes of a directory's rows, for [`rows`].
    pub(super) fn read(&self, place: Place) -> io::Result<Vec<u8>> {
        let mut rows = vec![0; place.length as usize];
        match &self.bytes {
            Kept::Nowhere => return Err(io::ErrorKind::NotFound.into()),
            Kept::File(file) => file.read_exact_at(&mut rows, place.offset)?,
            Kept::Memory(bytes) => {
                let begin = usize::try_from(place.offset).expect("it is in memory");
                rows.copy_from_slice(&bytes[begin..begin + place.length as usize]);
            }
        }
        Ok(rows)
    }
}

/// Reads the rows of a directory, which are in the order of their names; `None` when they are damaged.
pub(super) fn rows(mut bytes: &[u8]) -> Option<Vec<Row<'_>>> {
    let mut rows: Vec<Row<'_>> = Vec::new();
    while !bytes.is_empty() {
        let (row, rest) = first_row(bytes)?;
        if rows.last().is_some_and(|before| before.name >= row.name) {
            return None;
        }
        rows.push(row);
        bytes = rest;
    }
    Some(rows)
}

/// Reads the first of some rows, and what follows it; `None` when it is damaged.
pub(super) fn first_row(bytes: &[u8]) -> Option<(Row<'_>, &[u8])> {
    postcard::take_from_bytes(bytes).ok()
}

/// Adds a row behind those that are there.
pub(super) fn add_row(rows: &mut Vec<u8>, row: &Row<'_>) {
    *rows = postcard::to_extend(row, std::mem::take(rows)).expect("a row is plain data");
}

/// Reads the index. A missing or damaged one is empty.
pub(super) fn load(path: &Path) -> Index {
    let unread = |error: io::Error| {
        tracing::warn!(path = %path.display(), %error, "the scan index cannot be read: every file is read again");
        Index::default()
    };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Index::default(),
        Err(error) => return unread(error),
    };
    match table(BufReader::with_capacity(1 << 18, &file)) {
        Ok(Some((shards, directories))) => Index { bytes: Kept::File(file), shards, directories },
        Ok(None) => {
            tracing::warn!(path = %path.display(), "the scan index is damaged: every file is read again");
            Index::default()
        }
        Err(error) => unread(error),
    }
}

/// Reads an index that is in memory; `None` when it is damaged.
pub(crate) fn parse(bytes: &[u8]) -> Option<Index> {
    let (shards, directories) = table(bytes).ok()??;
    Some(Index { bytes: Kept::Memory(bytes.to_owned()), shards, directories })
}

/// Checks an index and notes where its rows are; `None` when it is damaged.
fn table(mut from: impl Read) -> io::Result<Option<(Shards, Directories)>> {
    let mut head = [0; HEAD_BYTES as usize];
    if !fill(&mut from, &mut head)? || !head.starts_with(MAGIC) {
        return Ok(None);
    }
    let mut hashing = Hashing { of: from, hasher: blake3::Hasher::new(), passed: HEAD_BYTES };
    let Some(shards) = hashing.block()? else { return Ok(None) };
    let Some(shards) = postcard::from_bytes::<Shards>(&shards).ok() else { return Ok(None) };
    let mut directories = Directories::new();
    while let Some(length) = hashing.length()? {
        let Some(path) = hashing.bytes(length)? else { return Ok(None) };
        let Some(path) = String::from_utf8(path).ok() else { return Ok(None) };
        let Some(length) = hashing.length()? else { return Ok(None) };
        let place = Place { offset: hashing.passed, length };
        if !hashing.skip(length)? || directories.insert(path.into(), place).is_some() {
            return Ok(None);
        }
    }
    let sound = hashing.hasher.finalize().as_bytes()[..] == head[MAGIC.len()..];
    Ok(sound.then_some((shards, directories)))
}

/// Counts and hashes what is read.
struct Hashing<R> {
    of: R,
    hasher: blake3::Hasher,
    passed: u64,
}

impl<R: Read> Hashing<R> {
    fn pass(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.passed += bytes.len() as u64;
    }

    /// A length, if there is one.
    fn length(&mut self) -> io::Result<Option<u32>> {
        let mut length = [0; 4];
        if !fill(&mut self.of, &mut length)? {
            return Ok(None);
        }
        self.pass(&length);
        Ok(Some(u32::from_le_bytes(length)))
    }

    fn block(&mut self) -> io::Result<Option<Vec<u8>>> {
        match self.length()? {
            Some(length) => self.bytes(length),
            None => Ok(None),
        }
    }

    /// That many bytes, if they are there. No more memory is taken than there are bytes.
    fn bytes(&mut self, length: u32) -> io::Result<Option<Vec<u8>>> {
        let mut bytes = Vec::new();
        (&mut self.of).take(length.into()).read_to_end(&mut bytes)?;
        self.pass(&bytes);
        Ok((bytes.len() as u64 == u64::from(length)).then_some(bytes))
    }

    fn skip(&mut self, length: u32) -> io::Result<bool> {
        let mut buffer = [0; 1 << 14];
        let mut left = length as usize;
        while left > 0 {
            let part = left.min(buffer.len());
            if !fill(&mut self.of, &mut buffer[..part])? {
                return Ok(false);
            }
            self.pass(&buffer[..part]);
            left -= part;
        }
        Ok(true)
    }
}

/// Fills a buffer; `false` when there is not as much.
fn fill(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match from.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// Writes the body of an index: directories in any order, each once.
pub(super) struct Writer<W: Write> {
    to: W,
    hasher: blake3::Hasher,
}

impl<W: Write> Writer<W> {
    fn begin(mut to: W, shards: &Shards) -> io::Result<Self> {
        to.write_all(&[0; HEAD_BYTES as usize])?;
        let mut writer = Self { to, hasher: blake3::Hasher::new() };
        writer.block(&postcard::to_stdvec(shards).expect("stamps are plain data"))?;
        Ok(writer)
    }

    /// Adds a directory with its rows, if it has any.
    pub(super) fn directory(&mut self, path: &str, rows: &[u8]) -> io::Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        self.block(path.as_bytes())?;
        self.block(rows)
    }

    fn block(&mut self, bytes: &[u8]) -> io::Result<()> {
        let length = u32::try_from(bytes.len()).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
        for part in [&length.to_le_bytes(), bytes] {
            self.hasher.update(part);
            self.to.write_all(part)?;
        }
        Ok(())
    }

    /// What was written to, and what has to stand at its beginning.
    fn finish(self) -> (W, Vec<u8>) {
        (self.to, [MAGIC.as_slice(), self.hasher.finalize().as_bytes()].concat())
    }
}

/// Writes the index, whole or not at all. It is not flushed: a power cut costs a full scan.
pub(super) fn save(
    path: &Path,
    shards: &Shards,
    write: impl FnOnce(&mut Writer<BufWriter<File>>) -> io::Result<()>,
) -> io::Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let mut writer = Writer::begin(BufWriter::with_capacity(1 << 18, File::create(&partial)?), shards)?;
    write(&mut writer)?;
    let (to, head) = writer.finish();
    let file = to.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.write_all_at(&head, 0)?;
    fs::rename(&partial, path)
}

/// The index as its file has it, each of its rows read and written again; `None` when some are damaged.
pub(crate) fn to_bytes(index: &Index) -> Option<Vec<u8>> {
    let mut writer = Writer::begin(Vec::new(), &index.shards).ok()?;
    for (path, place) in &index.directories {
        let read = index.read(*place).ok()?;
        let mut again = Vec::new();
        rows(&read)?.iter().for_each(|row| add_row(&mut again, row));
        writer.directory(path, &again).ok()?;
    }
    let (mut bytes, head) = writer.finish();
    bytes[..head.len()].copy_from_slice(&head);
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(mtime: (i64, u32), ctime: (i64, u32)) -> Stamp {
        Stamp { device: (8, 1), inode: 5, size: 3, mtime, ctime }
    }

    #[test]
    fn a_stamp_counts_only_when_the_file_had_rested() {
        let began = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        assert!(stamp((900, 0), (997, 999_999_999)).is_settled(began));
        for (mtime, ctime) in [
            ((900, 0), (998, 0)),
            ((900, 0), (1000, 0)),
            ((900, 0), (2000, 0)),
            ((998, 0), (900, 0)),
            ((1001, 0), (900, 0)),
        ] {
            assert!(!stamp(mtime, ctime).is_settled(began), "modified {mtime:?}, changed {ctime:?}");
        }
        assert!(stamp((5000, 0), (900, 0)).is_settled(began), "a time far ahead, set long ago");
    }

    #[test]
    fn a_damaged_index_is_an_empty_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("index");
        assert_eq!(load(&path).len(), 0);
        let row = Row { name: "a", mode: 0o644, stamp: stamp((1, 2), (3, 4)), digest: Digest::of(b"a") };
        let mut bytes = Vec::new();
        add_row(&mut bytes, &row);
        save(&path, &vec![Some(stamp((5, 6), (7, 8))), None], |writer| {
            writer.directory("", &bytes)?;
            writer.directory("d/e", &bytes)
        })
        .unwrap();
        let index = load(&path);
        assert_eq!((index.len(), index.shards.len()), (2, 2));
        for directory in ["", "d/e"] {
            let read = index.read(index.place(directory).unwrap()).unwrap();
            assert_eq!(rows(&read).unwrap(), [row]);
        }
        assert_eq!(index.place("d"), None);
        let good = fs::read(&path).unwrap();
        assert_eq!(to_bytes(&index).unwrap(), good);
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&path, &bad).unwrap();
            assert_eq!(load(&path).len(), 0, "byte {at} flipped");
            fs::write(&path, &good[..at]).unwrap();
            assert_eq!(load(&path).len(), 0, "cut to {at} bytes");
        }
    }

    #[test]
    fn rows_out_of_order_are_damaged() {
        let row = |name| Row { name, mode: 0, stamp: stamp((1, 2), (3, 4)), digest: Digest::of(b"a") };
        for names in [["b", "a"], ["a", "a"]] {
            let mut bytes = Vec::new();
            names.iter().for_each(|name| add_row(&mut bytes, &row(name)));
            assert_eq!(rows(&bytes), None);
        }
    }
}
