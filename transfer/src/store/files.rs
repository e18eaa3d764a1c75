//! File names of the store, and the few file operations that must be durable.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use common::digest::Digest;

/// What a file of the store is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A complete, verified object.
    Complete,
    /// Its chunk table.
    Table,
    /// An unfinished object.
    Partial,
    /// Which chunks of it are verified and durable.
    Bitmap,
    /// Being written; worth nothing after a crash.
    New(u64),
}

impl Kind {
    pub(super) fn name(self, digest: Digest) -> String {
        match self {
            Self::Complete => digest.to_string(),
            Self::Table => format!("{digest}.table"),
            Self::Partial => format!("{digest}.partial"),
            Self::Bitmap => format!("{digest}.bitmap"),
            Self::New(number) => format!("{digest}.{number}.new"),
        }
    }
}

/// Reads one of our own names; `None` for everybody else's.
pub(super) fn parse_name(name: &str) -> Option<(Digest, Kind)> {
    let (hex, suffix) = match name.split_once('.') {
        Some((hex, suffix)) => (hex, Some(suffix)),
        None => (name, None),
    };
    let digest: Digest = hex.parse().ok()?;
    let kind = match suffix {
        None => Kind::Complete,
        Some("table") => Kind::Table,
        Some("partial") => Kind::Partial,
        Some("bitmap") => Kind::Bitmap,
        Some(other) => Kind::New(other.strip_suffix(".new")?.parse().ok()?),
    };
    (kind.name(digest) == name).then_some((digest, kind))
}

/// Content may be confidential: nobody but the owner looks in.
pub(super) fn create_private_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

pub(super) fn create_new(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
}

pub(super) fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = create_new(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

pub(super) fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_names_are_recognised() {
        let digest = Digest::of(b"x");
        for kind in [Kind::Complete, Kind::Table, Kind::Partial, Kind::Bitmap, Kind::New(3)] {
            assert_eq!(parse_name(&kind.name(digest)), Some((digest, kind)));
        }
        let upper = digest.to_string().to_uppercase();
        for other in ["", "notes.txt", ".partial", &upper, &format!("{digest}.bak"), &format!("{digest}.+1.new")] {
            assert_eq!(parse_name(other), None, "{other}");
        }
    }
}
