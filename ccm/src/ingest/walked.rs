//! What the walk found in a staging tree, until all its contents are known and it can be told as a tree.

use std::io;
use std::os::fd::OwnedFd;

use common::digest::Digest;
use common::manifest::{Entry, Manifest};
use common::path::ContentPath;

use super::index::{Index, Place, Stamp, rows};
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
}

impl Walked {
    /// The files whose content is not known.
    pub(super) fn suspects(&self) -> Result<Vec<Suspect>, ScanError> {
        let mut suspects = Vec::new();
        for (number, listed) in self.directories.iter().enumerate() {
            let Files::Listed(files) = &listed.files else { continue };
            for (at, found) in files.iter().enumerate().filter(|(_, found)| found.digest.is_none()) {
                let path = below(&listed.path, &found.name)?;
                suspects.push(Suspect { path, size: found.stamp.size, place: (number, at) });
            }
        }
        Ok(suspects)
    }

    /// Takes note of what a suspect was when it was read.
    pub(super) fn settle(&mut self, suspect: &Suspect, stamp: Stamp, mode: u32, digest: Digest) {
        let (number, at) = suspect.place;
        if let Files::Listed(files) = &mut self.directories[number].files {
            let found = &mut files[at];
            (found.stamp, found.mode, found.digest) = (stamp, mode, Some(digest));
        }
    }

    /// The tree, all of whose files are known.
    pub(super) fn manifest(&self, index: &Index) -> Result<Manifest, ScanError> {
        // A sorted run, from which a map is made much faster than one by one.
        let mut entries = Vec::new();
        self.each(index, &mut |path, entry| {
            entries.push((path, entry));
            Ok(())
        })?;
        Ok(Manifest { entries: entries.into_iter().collect() })
    }

    /// Tells of all entries in path order. All files must be known.
    pub(super) fn each(
        &self,
        index: &Index,
        tell: &mut dyn FnMut(ContentPath, Entry) -> Result<(), ScanError>,
    ) -> Result<(), ScanError> {
        self.each_below(0, index, tell)
    }

    /// Recursion is bounded by the depth that a path may have.
    fn each_below(
        &self,
        number: usize,
        index: &Index,
        tell: &mut dyn FnMut(ContentPath, Entry) -> Result<(), ScanError>,
    ) -> Result<(), ScanError> {
        let listed = &self.directories[number];
        let mut others = listed.others.iter().peekable();
        let mut until = |name: Option<&str>, tell: &mut dyn FnMut(ContentPath, Entry) -> Result<(), ScanError>| {
            while let Some((other, inside)) = others.next_if(|(other, _)| name.is_none_or(|name| **other < *name)) {
                let path = below(&listed.path, other)?;
                match inside {
                    Other::Symlink(target) => tell(path, Entry::Symlink { target: target.clone() })?,
                    Other::Directory(number) => {
                        tell(path, Entry::Directory { mode: self.directories[*number].mode })?;
                        self.each_below(*number, index, tell)?;
                    }
                }
            }
            Ok::<(), ScanError>(())
        };
        let file = |name: &str, mode: u32, stamp: &Stamp, digest: Digest| {
            let entry = Entry::File { mode, size: stamp.size, digest, mtime: stamp.mtime.0 };
            Ok::<_, ScanError>((below(&listed.path, name)?, entry))
        };
        match &listed.files {
            Files::Indexed(place) => {
                let lost = |source: io::Error| ScanError::IndexLost { source };
                let bytes = index.read(*place).map_err(lost)?;
                let rows = rows(&bytes).ok_or_else(|| lost(io::ErrorKind::InvalidData.into()))?;
                for row in rows {
                    until(Some(row.name), tell)?;
                    let (path, entry) = file(row.name, row.mode, &row.stamp, row.digest)?;
                    tell(path, entry)?;
                }
            }
            Files::Listed(files) => {
                for found in files {
                    until(Some(&found.name), tell)?;
                    let digest = found.digest.expect("all were read, or an error was returned before");
                    let (path, entry) = file(&found.name, found.mode, &found.stamp, digest)?;
                    tell(path, entry)?;
                }
            }
        }
        until(None, tell)
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
