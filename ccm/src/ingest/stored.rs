//! Trees as the content store keeps them: one file for each version, written and read entry by entry.
//!
//! The layout is in docs/formats.md. A file is checked as a whole when it is opened; what it says is checked
//! entry by entry, each time.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _, SeekFrom, Write};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use common::digest::Version;
use common::manifest::{Entry, Manifest, Root, Shape};
use common::path::ContentPath;

use super::content::{ContentError, io_error};
use super::tree::{Entries, Tree};

/// First bytes of a stored tree: the format and its version.
const MAGIC: &[u8; 8] = b"PRMANIF1";
/// Magic number and checksum.
const HEAD_BYTES: usize = MAGIC.len() + 32;
/// This much is read or written at once.
const PORTION_BYTES: usize = 64 << 10;

/// A version that the content store has, whose file was whole when it was opened.
#[derive(Debug)]
pub struct StoredTree {
    version: Version,
    path: PathBuf,
    file: File,
}

impl StoredTree {
    /// The version in this file.
    pub(super) fn open(version: Version, path: PathBuf) -> Result<Self, ContentError> {
        let file = File::open(&path).map_err(|source| {
            if source.kind() == io::ErrorKind::NotFound {
                ContentError::ManifestMissing { version }
            } else {
                ContentError::Io { action: "open", path: path.clone(), source }
            }
        })?;
        if !is_sound(&file).map_err(io_error("read", &path))? {
            return Err(ContentError::ManifestDamaged { version });
        }
        Ok(Self { version, path, file })
    }

    /// The whole of it in memory.
    ///
    /// # Errors
    /// [`ContentError`] when it cannot be read.
    pub fn manifest(&self) -> Result<Manifest, ContentError> {
        Ok(Manifest { entries: self.entries()?.collect::<Result<_, _>>()? })
    }
}

impl Tree for StoredTree {
    fn version(&self) -> Version {
        self.version
    }

    fn entries(&self) -> Result<Entries<'_>, ContentError> {
        let from = At { file: &self.file, offset: HEAD_BYTES as u64 };
        Ok(Box::new(Telling::begin(from).map(|entry| {
            entry.map_err(|broken| match broken {
                Broken::Unread(source) => ContentError::Io { action: "read", path: self.path.clone(), source },
                Broken::Damaged => ContentError::ManifestDamaged { version: self.version },
            })
        })))
    }
}

/// A file that is read from a place on, whoever else reads it.
struct At<'a> {
    file: &'a File,
    offset: u64,
}

impl Read for At<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.offset)?;
        self.offset += count as u64;
        Ok(count)
    }
}

/// Whether a file has the checksum that it says.
fn is_sound(file: &File) -> io::Result<bool> {
    let mut head = [0; HEAD_BYTES];
    let mut from = At { file, offset: 0 };
    match from.read_exact(&mut head) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
        Err(error) => return Err(error),
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(BufReader::with_capacity(1 << 18, from))?;
    let (magic, digest) = head.split_at(MAGIC.len());
    Ok(magic == MAGIC && hasher.finalize().as_bytes()[..] == *digest)
}

/// Why the next entry cannot be told.
#[derive(Debug)]
enum Broken {
    /// The file cannot be read.
    Unread(io::Error),
    /// What was read is no tree, or ends too early or late.
    Damaged,
}

/// The entries of a stored tree, from its first byte behind the checksum on.
struct Telling<R> {
    from: R,
    /// Entries to come; `None` before the first was asked for.
    left: Option<u64>,
    /// Bytes that were read, and how many of them were understood.
    portion: Vec<u8>,
    understood: usize,
    before: Option<ContentPath>,
    shape: Shape,
    over: bool,
}

impl<R: Read> Telling<R> {
    fn begin(from: R) -> Self {
        let (left, portion, before) = (None, Vec::new(), None);
        Self { from, left, portion, understood: 0, before, shape: Shape::default(), over: false }
    }

    fn entry(&mut self) -> Result<Option<(ContentPath, Entry)>, Broken> {
        let left = match self.left {
            Some(left) => left,
            None => self.take()?,
        };
        let Some(rest) = left.checked_sub(1) else {
            // Nothing follows.
            let ends = self.understood == self.portion.len() && self.read()? == 0;
            return if ends { Ok(None) } else { Err(Broken::Damaged) };
        };
        self.left = Some(rest);
        let (path, entry): (ContentPath, Entry) = self.take()?;
        let follows = self.before.as_ref().is_none_or(|before| *before < path);
        if !follows || self.shape.add(&path, &entry).is_err() {
            return Err(Broken::Damaged);
        }
        self.before = Some(path.clone());
        Ok(Some((path, entry)))
    }

    /// What comes next.
    fn take<T: serde::de::DeserializeOwned>(&mut self) -> Result<T, Broken> {
        loop {
            if let Ok((taken, rest)) = postcard::take_from_bytes(&self.portion[self.understood..]) {
                self.understood = self.portion.len() - rest.len();
                return Ok(taken);
            }
            // Cut off, or wrong; the end of the file decides.
            if self.read()? == 0 {
                return Err(Broken::Damaged);
            }
        }
    }

    /// Reads on: how many bytes more there are.
    fn read(&mut self) -> Result<usize, Broken> {
        self.portion.drain(..self.understood);
        self.understood = 0;
        (&mut self.from).take(PORTION_BYTES as u64).read_to_end(&mut self.portion).map_err(Broken::Unread)
    }
}

impl<R: Read> Iterator for Telling<R> {
    type Item = Result<(ContentPath, Entry), Broken>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        let entry = self.entry().transpose();
        self.over = !matches!(entry, Some(Ok(_)));
        entry
    }
}

/// Writes a tree, entry by entry.
struct Writer<W> {
    to: W,
    hasher: blake3::Hasher,
    root: Root,
    /// Entries that were announced.
    count: u64,
    waiting: Vec<u8>,
}

impl<W: Write> Writer<W> {
    /// Begins a tree of so many entries.
    fn begin(mut to: W, count: u64) -> io::Result<Self> {
        to.write_all(&[0; HEAD_BYTES])?;
        let waiting = postcard::to_stdvec(&count).expect("a number is plain data");
        Ok(Self { to, hasher: blake3::Hasher::new(), root: Root::default(), count, waiting })
    }

    /// Writes the next entry.
    fn add(&mut self, path: &ContentPath, entry: &Entry) -> io::Result<()> {
        self.root.add(path, entry);
        let waiting = std::mem::take(&mut self.waiting);
        self.waiting = postcard::to_extend(&(path, entry), waiting).expect("an entry is plain data");
        if self.waiting.len() < PORTION_BYTES { Ok(()) } else { self.pass_on() }
    }

    fn pass_on(&mut self) -> io::Result<()> {
        self.hasher.update(&self.waiting);
        self.to.write_all(&self.waiting)?;
        self.waiting.clear();
        Ok(())
    }

    /// What was written to, what has to stand at its beginning, and the version.
    ///
    /// # Panics
    /// When not as many entries came as were announced.
    fn finish(mut self) -> io::Result<(W, Vec<u8>, Version)> {
        self.pass_on()?;
        assert_eq!(self.root.entries(), self.count, "as many entries as the tree said that it has");
        let head = [MAGIC.as_slice(), self.hasher.finalize().as_bytes()].concat();
        Ok((self.to, head, self.root.version()))
    }
}

/// Writes a stored tree into a file that is empty.
pub(super) fn write<E>(
    file: &mut File,
    count: u64,
    entries: impl Iterator<Item = Result<(ContentPath, Entry), E>>,
    failed: impl Fn(io::Error) -> E,
) -> Result<Version, E> {
    let mut writer = Writer::begin(&mut *file, count).map_err(&failed)?;
    for entry in entries {
        let (path, entry) = entry?;
        writer.add(&path, &entry).map_err(&failed)?;
    }
    let (file, head, version) = writer.finish().map_err(&failed)?;
    let begun = file.seek(SeekFrom::Start(0)).and_then(|_| file.write_all(&head));
    begun.map(|()| version).map_err(&failed)
}

/// A stored tree that is in memory, each of its entries read and written again; `None` when it is damaged.
pub(crate) fn reread(bytes: &[u8]) -> Option<Vec<u8>> {
    let (digest, body) = bytes.strip_prefix(MAGIC)?.split_first_chunk::<32>()?;
    if blake3::hash(body) != *digest {
        return None;
    }
    let entries: Vec<(ContentPath, Entry)> = Telling::begin(body).collect::<Result<_, _>>().ok()?;
    let mut writer = Writer::begin(Vec::new(), entries.len() as u64).ok()?;
    entries.iter().try_for_each(|(path, entry)| writer.add(path, entry)).ok()?;
    let (mut again, head, _) = writer.finish().ok()?;
    again[..head.len()].copy_from_slice(&head);
    Some(again)
}
