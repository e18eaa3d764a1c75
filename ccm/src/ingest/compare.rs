//! What has changed in a staging tree since a version was published, in memory for what has changed alone.
//!
//! The staging tree is told by the walk and the index, the version by its stored manifest, both in path
//! order and one entry at a time. What is equal on both sides is forgotten at once.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::SystemTime;

use common::digest::{Digest, Version};
use common::manifest::{Entry, Manifest};
use common::path::ContentPath;

use super::Progress;
use super::content::{ContentError, ContentStore, MANIFEST_MAGIC, file_digest, io_error};
use super::diff::{Diff, diff};
use super::scan::{Looked, ScanError, ScanRequest, look};

/// Of a stored manifest this much is read at once.
const PORTION_BYTES: u64 = 64 << 10;

/// Scans a staging tree, as [`super::scan::scan`] does, and compares it with a version that is kept.
///
/// # Errors
/// [`ScanError`], as for a scan; [`ScanError::Store`] also when the version's manifest is missing or damaged.
pub fn compare(
    request: &ScanRequest<'_>,
    store: &ContentStore,
    version: Version,
    progress: &dyn Fn(Progress),
    cancel: &AtomicBool,
) -> Result<Diff, ScanError> {
    let Looked { walked, index, .. } = look(request, store, SystemTime::now(), progress, cancel)?;
    let mut published = Published::open(store, version)?;
    let (mut old, mut new) = (Manifest::default(), Manifest::default());
    let mut before = published.next()?;
    walked.each(&index, &mut |path, entry| {
        while let Some((gone, was)) = before.take_if(|(before, _)| *before < path) {
            old.entries.insert(gone, was);
            before = published.next()?;
        }
        match before.take_if(|(before, _)| *before == path) {
            Some((at, was)) => {
                before = published.next()?;
                if !was.same_version(&entry) {
                    old.entries.insert(at, was);
                    new.entries.insert(path, entry);
                }
            }
            None => {
                new.entries.insert(path, entry);
            }
        }
        Ok(())
    })?;
    while let Some((gone, was)) = before {
        old.entries.insert(gone, was);
        before = published.next()?;
    }

    let mut found = diff(&old, &new);
    let mut unknown: BTreeMap<Digest, u64> =
        new.entries.values().filter_map(file_digest).map(|(size, digest)| (digest, size)).collect();
    // Content may also be that of a file that stays as it is.
    if !unknown.is_empty() {
        let mut published = Published::open(store, version)?;
        while let Some((_, entry)) = published.next()? {
            if let Some((_, digest)) = file_digest(&entry) {
                unknown.remove(&digest);
            }
        }
    }
    found.content_bytes = unknown.values().sum();
    Ok(found)
}

/// The entries of a stored manifest. Its checksum was found right.
struct Published {
    version: Version,
    path: PathBuf,
    file: File,
    /// Entries to come.
    left: u64,
    /// Bytes that were read, and how many of them were understood.
    portion: Vec<u8>,
    understood: usize,
}

impl Published {
    fn open(store: &ContentStore, version: Version) -> Result<Self, ContentError> {
        let path = store.manifest_path(version);
        let mut file = File::open(&path).map_err(|source| {
            if source.kind() == io::ErrorKind::NotFound {
                ContentError::ManifestMissing { version }
            } else {
                ContentError::Io { action: "open", path: path.clone(), source }
            }
        })?;
        let sound = is_sound(&mut file).map_err(io_error("read", &path))?;
        let mut published = Self { version, path, file, left: 0, portion: Vec::new(), understood: 0 };
        if !sound {
            return Err(published.damaged());
        }
        published.left = published.take()?.ok_or_else(|| published.damaged())?;
        Ok(published)
    }

    fn damaged(&self) -> ContentError {
        ContentError::ManifestDamaged { version: self.version }
    }

    fn next(&mut self) -> Result<Option<(ContentPath, Entry)>, ContentError> {
        let Some(left) = self.left.checked_sub(1) else { return Ok(None) };
        self.left = left;
        let entry = self.take()?;
        entry.map(Some).ok_or_else(|| self.damaged())
    }

    /// What comes next; `None` when the rest is nothing of the kind.
    fn take<T: serde::de::DeserializeOwned>(&mut self) -> Result<Option<T>, ContentError> {
        loop {
            if let Ok((taken, rest)) = postcard::take_from_bytes(&self.portion[self.understood..]) {
                self.understood = self.portion.len() - rest.len();
                return Ok(Some(taken));
            }
            // Cut off, or wrong; the end of the file decides.
            self.portion.drain(..self.understood);
            self.understood = 0;
            let portion = (&self.file).take(PORTION_BYTES).read_to_end(&mut self.portion);
            if portion.map_err(io_error("read", &self.path))? == 0 {
                return Ok(None);
            }
        }
    }
}

/// Whether a manifest file has the checksum that it says. Leaves it at the beginning of what that covers.
fn is_sound(file: &mut File) -> io::Result<bool> {
    let mut head = [0; MANIFEST_MAGIC.len() + 32];
    match file.read_exact(&mut head) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
        Err(error) => return Err(error),
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(BufReader::with_capacity(1 << 18, &*file))?;
    file.seek(SeekFrom::Start(head.len() as u64))?;
    let (magic, digest) = head.split_at(MANIFEST_MAGIC.len());
    Ok(magic == MANIFEST_MAGIC && hasher.finalize().as_bytes()[..] == *digest)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use common::exclude::Exclude;

    use super::*;
    use crate::ingest::scan::{ScanLimits, scan};

    struct Bench {
        dir: tempfile::TempDir,
        store: ContentStore,
        exclude: Exclude,
    }

    impl Bench {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let store = ContentStore::open(&dir.path().join("store")).unwrap();
            Self { dir, store, exclude: Exclude::default() }
        }

        fn staging(&self) -> PathBuf {
            self.dir.path().join("staging")
        }

        fn write(&self, path: &str, content: &str) {
            let path = self.staging().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }

        fn with_request<T>(&self, act: impl FnOnce(&ScanRequest<'_>) -> T) -> T {
            let (staging, index_file) = (self.staging(), self.dir.path().join("index"));
            let (exclude, limits) = (&self.exclude, ScanLimits::default());
            act(&ScanRequest { staging: &staging, exclude, limits, index_file: &index_file })
        }

        fn scan(&self) -> Manifest {
            let cancel = AtomicBool::new(false);
            self.with_request(|request| scan(request, &self.store, &|_| (), &cancel)).unwrap().manifest
        }

        fn compare(&self, version: Version) -> Result<Diff, ScanError> {
            let cancel = AtomicBool::new(false);
            self.with_request(|request| compare(request, &self.store, version, &|_| (), &cancel))
        }

        fn stored(&self, version: Version) -> PathBuf {
            self.dir.path().join(Path::new("store/manifests")).join(version.to_string())
        }
    }

    #[test]
    fn what_is_found_is_the_difference_of_the_two_trees() {
        let bench = Bench::new();
        for n in 0..3000 {
            bench.write(&format!("d{:02}/some-page-with-a-name-{n}.html", n % 60), &format!("page {n}"));
        }
        let old = bench.scan();
        let version = bench.store.put_manifest(&old).unwrap();
        assert!(fs::metadata(bench.stored(version)).unwrap().len() > 3 * PORTION_BYTES);
        assert_eq!(bench.compare(version).unwrap(), Diff::default());

        bench.write("a-first.html", "the first of all");
        bench.write("z/last.html", "the last of all");
        bench.write("d07/copy.html", "page 1");
        bench.write("d08/some-page-with-a-name-8.html", "edited");
        fs::remove_dir_all(bench.staging().join("d09")).unwrap();
        let page = |path: &str| bench.staging().join(path);
        fs::rename(page("d59/some-page-with-a-name-59.html"), page("d00/renamed.html")).unwrap();
        std::os::unix::fs::symlink("d00", page("link")).unwrap();
        let found = bench.compare(version).unwrap();
        let new = bench.scan();
        assert_eq!(found, diff(&old, &new));
        assert_eq!((found.moved.len(), found.changed.len(), found.removed.len()), (1, 1, 51));
        assert_eq!(found.content_bytes, 16 + 15 + 6);
    }

    #[test]
    fn a_version_that_is_missing_or_damaged_is_named() {
        let bench = Bench::new();
        bench.write("a", "one");
        bench.write("b", "two");
        let version = bench.store.put_manifest(&bench.scan()).unwrap();
        let stored = bench.stored(version);
        let good = fs::read(&stored).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            for bad in [&bad, &good[..at]] {
                fs::write(&stored, bad).unwrap();
                let error = bench.compare(version).expect_err("it is damaged");
                let damaged = matches!(error, ScanError::Store(ContentError::ManifestDamaged { version: named }) if named == version);
                assert!(damaged, "byte {at}: {error:?}");
            }
        }
        fs::remove_file(&stored).unwrap();
        let error = bench.compare(version).expect_err("it is gone");
        assert!(matches!(error, ScanError::Store(ContentError::ManifestMissing { .. })), "{error:?}");
    }
}
