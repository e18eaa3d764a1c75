//! Whether two trees are the same: names, kinds, modes, every byte. Shares nothing with the code
//! that it checks.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Bits of a mode that say who may do what.
const MODE_BITS: u32 = 0o7777;

enum Entry {
    Directory { mode: u32 },
    File { mode: u32, path: PathBuf },
    Symlink { target: PathBuf },
    Other,
}

/// How `actual` differs from `expected`, by path; nothing when they are the same.
pub(super) fn differences(expected: &Path, actual: &Path) -> io::Result<Vec<String>> {
    let (expected, mut actual) = (entries(expected)?, entries(actual)?);
    let mut found = BTreeMap::new();
    for (path, wanted) in expected {
        let difference = match actual.remove(&path) {
            None => Some("is missing"),
            Some(there) => difference(&wanted, &there)?,
        };
        if let Some(difference) = difference {
            found.insert(path, difference);
        }
    }
    found.extend(actual.into_keys().map(|path| (path, "should not be there")));
    Ok(found.into_iter().map(|(path, difference)| format!("{} {difference}", path.display())).collect())
}

fn difference(wanted: &Entry, there: &Entry) -> io::Result<Option<&'static str>> {
    Ok(match (wanted, there) {
        (Entry::Directory { mode: a }, Entry::Directory { mode: b }) => (a != b).then_some("has another mode"),
        (Entry::Symlink { target: a }, Entry::Symlink { target: b }) => (a != b).then_some("leads elsewhere"),
        (Entry::File { mode: a, path: wanted }, Entry::File { mode: b, path: there }) => {
            if a != b {
                Some("has another mode")
            } else {
                (fs::read(wanted)? != fs::read(there)?).then_some("has other bytes")
            }
        }
        (Entry::Directory { .. } | Entry::File { .. } | Entry::Symlink { .. } | Entry::Other, _) => {
            Some("is something else")
        }
    })
}

fn entries(root: &Path) -> io::Result<BTreeMap<PathBuf, Entry>> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![PathBuf::new()];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(root.join(&directory))? {
            let path = directory.join(entry?.file_name());
            let whole = root.join(&path);
            let metadata = fs::symlink_metadata(&whole)?;
            let mode = metadata.mode() & MODE_BITS;
            let kind = metadata.file_type();
            let entry = if kind.is_dir() {
                waiting.push(path.clone());
                Entry::Directory { mode }
            } else if kind.is_file() {
                Entry::File { mode, path: whole }
            } else if kind.is_symlink() {
                Entry::Symlink { target: fs::read_link(&whole)? }
            } else {
                Entry::Other
            };
            found.insert(path, entry);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn every_kind_of_difference_is_seen() {
        let directory = tempfile::tempdir().unwrap();
        let (one, two) = (directory.path().join("one"), directory.path().join("two"));
        for root in [&one, &two] {
            fs::create_dir_all(root.join("dir")).unwrap();
            for name in ["bytes", "mode", "kind", "same", "dir/below"] {
                fs::write(root.join(name), "x").unwrap();
            }
            symlink("same", root.join("link")).unwrap();
        }
        assert_eq!(differences(&one, &two).unwrap(), Vec::<String>::new());
        fs::write(two.join("bytes"), "y").unwrap();
        fs::set_permissions(two.join("mode"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::remove_file(two.join("kind")).unwrap();
        symlink("same", two.join("kind")).unwrap();
        fs::remove_file(two.join("dir/below")).unwrap();
        fs::remove_file(two.join("link")).unwrap();
        symlink("bytes", two.join("link")).unwrap();
        fs::write(two.join("more"), "").unwrap();
        let expected = [
            "bytes has other bytes",
            "dir/below is missing",
            "kind is something else",
            "link leads elsewhere",
            "mode has another mode",
            "more should not be there",
        ];
        assert_eq!(differences(&one, &two).unwrap(), expected);
    }
}
