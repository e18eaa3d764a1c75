//! Directories as they are, without a store or an index: for assignments that are made by hand.
//!
//! Contents are read where they lie and checked against their digests by whoever reads them, so that a
//! file that changes meanwhile stops the work and is never taken for what it was.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use common::digest::Digest;
use common::exclude::Exclude;
use common::manifest::Manifest;
use common::path::ContentPath;
use rustix::io::Errno;

use super::content::{ContentError, ContentSource};
use super::index::{Index, Stamp};
use super::scan::{ScanError, ScanLimits};
use super::walk::{self, Rules};
use super::walked::Suspect;

/// How often a file is read that changes meanwhile.
const READS_MAX: u32 = 3;

/// A directory whose files were all read once.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    root: OwnedFd,
    manifest: Manifest,
    places: BTreeMap<Digest, ContentPath>,
}

impl Directory {
    /// Reads a directory.
    ///
    /// # Errors
    /// [`ScanError`] names an entry that cannot be published or read.
    pub fn read(path: &Path, exclude: &Exclude, limits: &ScanLimits, cancel: &AtomicBool) -> Result<Self, ScanError> {
        let mut walked = walk::walk(path, Rules { exclude, limits, cancel }, &|_, _| Ok(None))?;
        let suspects = walked.suspects(usize::MAX)?;
        let read = read_all(&walked.root, &suspects, limits.threads, cancel)?;
        for (suspect, (stamp, mode, digest)) in suspects.iter().zip(read) {
            walked.settle(suspect, stamp, mode, digest);
        }
        let manifest = Manifest { entries: walked.entries(&Index::default()).collect::<Result<_, _>>()? };
        let places = manifest.files().map(|(path, _, digest)| (*digest, path.clone())).collect();
        Ok(Self { path: path.to_owned(), root: walked.root, manifest, places })
    }

    /// What it consists of.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }
}

/// A file as it was when it was read.
type Read = (Stamp, u32, Digest);

fn read_all(root: &OwnedFd, files: &[Suspect], threads: usize, cancel: &AtomicBool) -> Result<Vec<Read>, ScanError> {
    let next = AtomicUsize::new(0);
    let first_error = Mutex::new(None);
    let mut read: Vec<(usize, Read)> = std::thread::scope(|scope| {
        let work = || {
            let mut done = Vec::new();
            while !cancel.load(Ordering::Relaxed) && lock(&first_error).is_none() {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some(found) = files.get(at) else { break };
                match read_file(root, &found.path) {
                    Ok(read) => done.push((at, read)),
                    Err(error) => {
                        lock(&first_error).get_or_insert(error);
                    }
                }
            }
            done
        };
        let workers: Vec<_> = (0..threads.clamp(1, files.len().max(1))).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("reading does not panic")).collect()
    });
    if let Some(error) = first_error.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    if cancel.load(Ordering::Relaxed) {
        return Err(ScanError::Cancelled);
    }
    read.sort_unstable_by_key(|(at, _)| *at);
    Ok(read.into_iter().map(|(_, read)| read).collect())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // A single assignment is made under it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read_file(root: &OwnedFd, path: &ContentPath) -> Result<Read, ScanError> {
    let unreadable = |source| ScanError::Unreadable { path: path.to_string(), source };
    for _ in 0..READS_MAX {
        let file = match walk::open_file(root, path) {
            Ok(file) => File::from(file),
            // It was a regular file when the walk passed, and is something else.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO) => continue,
            Err(errno) => return Err(unreadable(errno.into())),
        };
        let Some(before) = walk::stat_open(file.as_fd()).map_err(unreadable)? else { continue };
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(&file).map_err(unreadable)?;
        let (stamp, mode) = before;
        if walk::stat_open(file.as_fd()).map_err(unreadable)? == Some(before) && hasher.count() == stamp.size {
            return Ok((stamp, mode, hasher.finalize().into()));
        }
    }
    Err(ScanError::Changing { path: path.clone() })
}

/// Several directories, looked through in order.
impl ContentSource for &[&Directory] {
    fn open_content(&self, digest: Digest) -> Result<File, ContentError> {
        for directory in *self {
            let Some(path) = directory.places.get(&digest) else { continue };
            return walk::open_file(&directory.root, path).map(File::from).map_err(|errno| match errno {
                Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO => ContentError::Missing { digest },
                errno => ContentError::Io { action: "open", path: self.place(digest), source: errno.into() },
            });
        }
        Err(ContentError::Missing { digest })
    }

    fn place(&self, digest: Digest) -> PathBuf {
        let found =
            self.iter().find_map(|directory| Some(directory.path.join(directory.places.get(&digest)?.as_str())));
        found.unwrap_or_else(|| digest.to_string().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_its_manifest_and_gives_its_contents() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("d")).unwrap();
        for (name, content) in [("a", "one"), ("d/b", "two"), ("d/skipped.tmp", "three")] {
            std::fs::write(dir.path().join(name), content).unwrap();
        }
        let exclude = Exclude::new(&["*.tmp".to_owned()]).unwrap();
        let cancel = AtomicBool::new(false);
        let read = Directory::read(dir.path(), &exclude, &ScanLimits::default(), &cancel).unwrap();
        let paths: Vec<&str> = read.manifest().entries.keys().map(ContentPath::as_str).collect();
        assert_eq!(paths, ["a", "d", "d/b"]);
        let source = &[&read][..];
        let opened = source.open_content(Digest::of(b"two")).unwrap();
        assert_eq!(std::io::read_to_string(opened).unwrap(), "two");
        assert_eq!(source.place(Digest::of(b"two")), dir.path().join("d/b"));
        assert!(matches!(source.open_content(Digest::of(b"three")), Err(ContentError::Missing { .. })));
        std::fs::remove_file(dir.path().join("a")).unwrap();
        assert!(matches!(source.open_content(Digest::of(b"one")), Err(ContentError::Missing { .. })));
        cancel.store(true, Ordering::Relaxed);
        let stopped = Directory::read(dir.path(), &exclude, &ScanLimits::default(), &cancel);
        assert!(matches!(stopped, Err(ScanError::Cancelled)));
    }
}
