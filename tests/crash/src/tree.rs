//! A content tree with its bytes, read and written by means that the interpreter has no part in.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use common::digest::{Digest, Version};
use common::manifest::{Entry, Manifest};
use common::path::ContentPath;

/// What stands at one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// A directory with its permission bits.
    Directory(u32),
    /// A file: permission bits, modification time in seconds, content.
    File(u32, i64, Vec<u8>),
    /// A symbolic link with its target.
    Link(String),
}

/// A whole tree; its root is no entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree(pub BTreeMap<ContentPath, Item>);

/// Modification time of files that do not say.
pub const MTIME: i64 = 1_700_000_000;

fn path(text: &str) -> ContentPath {
    text.parse().expect("the rigs' own paths are good")
}

impl Tree {
    /// With one more directory.
    #[must_use]
    pub fn directory(mut self, at: &str, mode: u32) -> Self {
        self.0.insert(path(at), Item::Directory(mode));
        self
    }

    /// With one more file, or with this one instead.
    #[must_use]
    pub fn file(mut self, at: &str, bytes: impl AsRef<[u8]>) -> Self {
        self.0.insert(path(at), Item::File(0o644, MTIME, bytes.as_ref().to_vec()));
        self
    }

    /// With one more symbolic link.
    #[must_use]
    pub fn link(mut self, at: &str, target: &str) -> Self {
        self.0.insert(path(at), Item::Link(target.to_owned()));
        self
    }

    /// Without an entry and what is below it.
    #[must_use]
    pub fn without(mut self, at: &str) -> Self {
        let gone = path(at);
        self.0.retain(|path, _| *path != gone && !path.is_below(&gone));
        self
    }

    /// What the CCM would call it.
    #[must_use]
    pub fn manifest(&self) -> Manifest {
        let entry = |item: &Item| match item {
            Item::Directory(mode) => Entry::Directory { mode: *mode },
            Item::File(mode, mtime, bytes) => {
                Entry::File { mode: *mode, size: bytes.len() as u64, digest: Digest::of(bytes), mtime: *mtime }
            }
            Item::Link(target) => Entry::Symlink { target: target.clone() },
        };
        Manifest { entries: self.0.iter().map(|(path, item)| (path.clone(), entry(item))).collect() }
    }

    /// Its version.
    #[must_use]
    pub fn version(&self) -> Version {
        self.manifest().version()
    }

    /// What stands in a directory, or in the one that a link leads to, without the top-level names given.
    /// `None` if there is neither.
    ///
    /// # Errors
    /// When something cannot be read, or is nothing that content can be.
    pub fn read(dir: &Path, without: &[&str]) -> io::Result<Option<Self>> {
        match fs::metadata(dir) {
            Ok(meta) if meta.is_dir() => {}
            Ok(_) => return Err(io::Error::other("no directory")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        }
        let mut found = Self::default();
        read_into(dir, None, without, &mut found)?;
        Ok(Some(found))
    }

    /// Puts it on disk, as another tool would.
    ///
    /// # Errors
    /// What the system says.
    pub fn put(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)?;
        for (path, item) in &self.0 {
            let at = dir.join(path.as_str());
            match item {
                Item::Directory(_) => fs::create_dir(&at)?,
                Item::File(mode, mtime, bytes) => {
                    fs::write(&at, bytes)?;
                    let time = UNIX_EPOCH + Duration::from_secs(u64::try_from(*mtime).unwrap_or(0));
                    fs::File::options().write(true).open(&at)?.set_modified(time)?;
                    fs::set_permissions(&at, fs::Permissions::from_mode(*mode))?;
                }
                Item::Link(target) => std::os::unix::fs::symlink(target, &at)?,
            }
        }
        for (path, item) in self.0.iter().rev() {
            if let Item::Directory(mode) = item {
                fs::set_permissions(dir.join(path.as_str()), fs::Permissions::from_mode(*mode))?;
            }
        }
        Ok(())
    }

    /// The first difference to another tree, in words; `None` if they are the same.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Option<String> {
        let short = |item: Option<&Item>| match item {
            None => "nothing".to_owned(),
            Some(Item::Directory(mode)) => format!("a directory of mode {mode:o}"),
            Some(Item::File(mode, mtime, bytes)) => {
                format!("a file of {} bytes {}, mode {mode:o}, time {mtime}", bytes.len(), Digest::of(bytes).short())
            }
            Some(Item::Link(target)) => format!("a link to {target:?}"),
        };
        let paths = self.0.keys().chain(other.0.keys());
        paths
            .filter(|path| self.0.get(*path) != other.0.get(*path))
            .map(|path| format!("{path:?} is {}, expected {}", short(self.0.get(path)), short(other.0.get(path))))
            .next()
    }
}

fn read_into(dir: &Path, at: Option<&ContentPath>, without: &[&str], found: &mut Tree) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().into_string().map_err(|name| io::Error::other(format!("the name {name:?}")))?;
        if at.is_none() && without.contains(&name.as_str()) {
            continue;
        }
        let path = at.map_or_else(|| ContentPath::new(&*name), |at| at.join(&name)).map_err(io::Error::other)?;
        let meta = fs::symlink_metadata(entry.path())?;
        let item = if meta.is_dir() {
            read_into(&entry.path(), Some(&path), without, found)?;
            Item::Directory(meta.mode() & 0o7777)
        } else if meta.is_symlink() {
            let target = fs::read_link(entry.path())?;
            Item::Link(target.into_os_string().into_string().map_err(|_| io::Error::other("no text in a link"))?)
        } else {
            // Published times are whole seconds; anything else is to differ from all of them.
            let mtime = if meta.mtime_nsec() == 0 { meta.mtime() } else { -1 };
            Item::File(meta.mode() & 0o7777, mtime, fs::read(entry.path())?)
        };
        found.0.insert(path, item);
    }
    Ok(())
}
