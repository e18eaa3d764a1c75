//! What the last scan found out, so that the next one reads only what may have changed.
//!
//! The index is a cache: a lost, damaged or foreign one costs time and nothing else. It is trusted
//! as far as a file's stamp goes (see [`Stamp::is_settled`]).

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use common::digest::Digest;
use serde::{Deserialize, Serialize};

/// First bytes of the index file: the format and its version.
const MAGIC: &[u8; 8] = b"PRINDEX1";
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

/// What is known of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Indexed {
    /// Its stamp when it was read.
    pub(super) stamp: Stamp,
    /// The digest of its content then.
    pub(super) digest: Digest,
}

/// Files by path.
pub(crate) type Index = BTreeMap<Box<str>, Indexed>;

/// Reads the index. A missing or damaged one is empty.
pub(super) fn load(path: &Path) -> Index {
    match fs::read(path) {
        Ok(bytes) => parse(&bytes).unwrap_or_else(|| {
            tracing::warn!(path = %path.display(), "the scan index is damaged: every file is read again");
            Index::default()
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Index::default(),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "the scan index cannot be read: every file is read again");
            Index::default()
        }
    }
}

/// Writes the index, whole or not at all. It is not flushed: a power cut costs a full scan.
pub(super) fn save(path: &Path, index: &Index) -> io::Result<()> {
    let bytes = to_bytes(index);
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    fs::write(&partial, bytes)?;
    fs::rename(&partial, path)
}

/// The index as its file has it.
pub(crate) fn to_bytes(index: &Index) -> Vec<u8> {
    let body = postcard::to_stdvec(index).expect("the index is plain data");
    let mut bytes = Vec::with_capacity(body.len() + 40);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&Digest::of(&body).0);
    bytes.extend_from_slice(&body);
    bytes
}

/// Reads what [`to_bytes`] made; `None` when it is damaged.
pub(crate) fn parse(bytes: &[u8]) -> Option<Index> {
    let (digest, body) = bytes.strip_prefix(MAGIC)?.split_first_chunk::<32>()?;
    if Digest::of(body).0 != *digest {
        return None;
    }
    match postcard::take_from_bytes::<Index>(body) {
        Ok((index, [])) => Some(index),
        Ok(_) | Err(_) => None,
    }
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
        assert_eq!(load(&path), Index::default());
        let index: Index = [("a".into(), Indexed { stamp: stamp((1, 2), (3, 4)), digest: Digest::of(b"a") })].into();
        save(&path, &index).unwrap();
        assert_eq!(load(&path), index);
        let good = fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&path, &bad).unwrap();
            assert_eq!(load(&path), Index::default(), "byte {at} flipped");
            fs::write(&path, &good[..at]).unwrap();
            assert_eq!(load(&path), Index::default(), "cut to {at} bytes");
        }
    }
}
