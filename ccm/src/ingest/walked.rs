//! What the walk found in a staging tree, until all its contents are known and it can be told as a tree.

use std::io;
use std::iter::Peekable;
use std::os::fd::OwnedFd;

use common::digest::Digest;
use common::manifest::Entry;
use common::path::ContentPath;

use super::index::{Index, Place, Stamp, first_row};
use super::scan::ScanError;

/// A regular file that the index does not know, to be read.
#[derive(Debug)]
pub(super) struct Suspect {
    pub(super) path: ContentPath,
    pub(super) size: u64,
    place: (usize, usize),
}

/// A regular file of the staging tree.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) name: Box<str>,
    pub(super) mode: u32,
    pub(super) stamp: Stamp,
    /// Of its content, when that is known.
    pub(super) digest: Option<Digest>,
}

/// The files of a directory.
#[derive(Debug)]
pub(super) enum Files {
    /// Exactly those that the index has at this place.
    Indexed(Place),
    /// These, in the order of their names.
    Listed(Vec<Found>),
}

/// One directory of the staging tree.
#[derive(Debug)]
pub(super) struct Listed {
    /// Its path; that of the root is empty.
    pub(super) path: Box<str>,
    pub(super) mode: u32,
    /// What it holds beside files, in the order of names.
    pub(super) others: Vec<(Box<str>, Other)>,
    pub(super) files: Files,
}

#[derive(Debug)]
pub(super) enum Other {
    /// A directory, by its number.
    Directory(usize),
    /// A link, with its target.
    Symlink(String),
}

/// The staging tree apart from its contents.
#[derive(Debug)]
pub(super) struct Walked {
    /// The tree's root, held open.
    pub(super) root: OwnedFd,
    /// By number; the root is the first.
    pub(super) directories: Vec<Listed>,
    /// Number of entries in it.
    pub(super) entries: u64,
}

impl Walked {
    /// How many files there are whose content is not known, and how many bytes they have together.
    pub(super) fn unknown(&self) -> (u64, u64) {
        let sizes = self.unknown_files().map(|(_, _, found)| found.stamp.size);
        sizes.fold((0, 0), |(files, bytes), size| (files + 1, bytes + size))
    }

    /// The first files whose content is not known, so many at most.
    pub(super) fn suspects(&self, max: usize) -> Result<Vec<Suspect>, ScanError> {
        let first = self.unknown_files().take(max);
        let suspect = |(place, path, found): ((usize, usize), &str, &Found)| {
            Ok(Suspect { path: below(path, &found.name)?, size: found.stamp.size, place })
        };
        first.map(suspect).collect()
    }

    fn unknown_files(&self) -> impl Iterator<Item = ((usize, usize), &str, &Found)> {
        self.directories.iter().enumerate().flat_map(|(number, listed)| {
            let files = match &listed.files {
                Files::Indexed(_) => [].iter(),
                Files::Listed(files) => files.iter(),
            };
            let unknown = files.enumerate().filter(|(_, found)| found.digest.is_none());
            unknown.map(move |(at, found)| ((number, at), &*listed.path, found))
        })
    }

    /// Takes note of what a suspect was when it was read.
    pub(super) fn settle(&mut self, suspect: &Suspect, stamp: Stamp, mode: u32, digest: Digest) {
        let (number, at) = suspect.place;
        if let Files::Listed(files) = &mut self.directories[number].files {
            let found = &mut files[at];
            (found.stamp, found.mode, found.digest) = (stamp, mode, Some(digest));
        }
    }

    /// All entries in path order. All files must be known.
    pub(super) fn entries<'a>(&'a self, index: &'a Index) -> Telling<'a> {
        Telling { walked: self, index, inside: Vec::new(), next: Some(0) }
    }
}

/// Tells of the entries of a tree, in path order.
pub(super) struct Telling<'a> {
    walked: &'a Walked,
    index: &'a Index,
    /// The directories that are being told, outermost first.
    inside: Vec<Inside<'a>>,
    /// A directory to be told next, by its number.
    next: Option<usize>,
}

/// How far a directory was told.
struct Inside<'a> {
    listed: &'a Listed,
    others: Peekable<std::slice::Iter<'a, (Box<str>, Other)>>,
    files: FilesLeft<'a>,
    /// The next of its files.
    file: Option<(ContentPath, Entry)>,
}

enum FilesLeft<'a> {
    /// Rows of the index, and how many of their bytes were told.
    Rows(Vec<u8>, usize),
    Listed(std::slice::Iter<'a, Found>),
}

impl<'a> Inside<'a> {
    fn begin(listed: &'a Listed, index: &Index) -> Result<Self, ScanError> {
        let files = match &listed.files {
            Files::Indexed(place) => FilesLeft::Rows(index.read(*place).map_err(lost)?, 0),
            Files::Listed(files) => FilesLeft::Listed(files.iter()),
        };
        let mut inside = Self { listed, others: listed.others.iter().peekable(), files, file: None };
        inside.step()?;
        Ok(inside)
    }

    /// Goes on to the next file.
    fn step(&mut self) -> Result<(), ScanError> {
        let file = |name: &str, mode: u32, stamp: &Stamp, digest: Digest| {
            let entry = Entry::File { mode, size: stamp.size, digest, mtime: stamp.mtime.0 };
            Ok::<_, ScanError>(Some((below(&self.listed.path, name)?, entry)))
        };
        self.file = match &mut self.files {
            FilesLeft::Rows(rows, told) if *told == rows.len() => None,
            FilesLeft::Rows(rows, told) => {
                let damaged = || lost(io::ErrorKind::InvalidData.into());
                let (row, rest) = first_row(&rows[*told..]).ok_or_else(damaged)?;
                *told = rows.len() - rest.len();
                file(row.name, row.mode, &row.stamp, row.digest)?
            }
            FilesLeft::Listed(files) => match files.next() {
                None => None,
                Some(found) => {
                    let digest = found.digest.expect("all were read, or an error was returned before");
                    file(&found.name, found.mode, &found.stamp, digest)?
                }
            },
        };
        Ok(())
    }
}

fn lost(source: io::Error) -> ScanError {
    ScanError::IndexLost { source }
}

impl Telling<'_> {
    fn entry(&mut self) -> Result<Option<(ContentPath, Entry)>, ScanError> {
        if let Some(number) = self.next.take() {
            self.inside.push(Inside::begin(&self.walked.directories[number], self.index)?);
        }
        while let Some(inside) = self.inside.last_mut() {
            let file = inside.file.as_ref().map(|(path, _)| path.file_name());
            if let Some((name, other)) = inside.others.next_if(|(other, _)| file.is_none_or(|file| **other < *file)) {
                let path = below(&inside.listed.path, name)?;
                return Ok(Some(match other {
                    Other::Symlink(target) => (path, Entry::Symlink { target: target.clone() }),
                    Other::Directory(number) => {
                        self.next = Some(*number);
                        (path, Entry::Directory { mode: self.walked.directories[*number].mode })
                    }
                }));
            }
            if let Some(file) = inside.file.take() {
                inside.step()?;
                return Ok(Some(file));
            }
            self.inside.pop();
        }
        Ok(None)
    }
}

impl Iterator for Telling<'_> {
    type Item = Result<(ContentPath, Entry), ScanError>;

    fn next(&mut self) -> Option<Self::Item> {
        let entry = self.entry().transpose();
        if !matches!(entry, Some(Ok(_))) {
            self.inside.clear();
        }
        entry
    }
}

/// The path of an entry of a directory, whose own path is empty if it is the root.
fn below(directory: &str, name: &str) -> Result<ContentPath, ScanError> {
    let mut path = String::with_capacity(directory.len() + 1 + name.len());
    if !directory.is_empty() {
        path.push_str(directory);
        path.push('/');
    }
    path.push_str(name);
    ContentPath::new(path).map_err(|source| ScanError::Name { source })
}
