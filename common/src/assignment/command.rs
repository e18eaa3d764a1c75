//! What an assignment does to a tree, and the pure function that says what comes out.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::manifest::{Entry, Manifest, ManifestError};
use crate::path::ContentPath;

/// A stretch of an unpacked data block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// Index into the block table.
    pub block: u32,
    /// First byte within the unpacked block.
    pub offset: u32,
    /// Number of bytes.
    pub length: u32,
}

/// Where the content of a written file comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Content {
    /// From data blocks, in order. None for an empty file.
    Blocks(Vec<Extent>),
    /// The same bytes as a file of the base tree: moved or copied.
    Copy {
        /// The old file.
        from: ContentPath,
    },
    /// The server has these bytes already, wherever (only with [`super::Base::Any`], and with a digest).
    Local,
}

/// One step. Paths named as sources always mean the base tree, so the order of steps never decides
/// what is copied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Makes a directory.
    MakeDirectory {
        /// Where; nothing may be there.
        path: ContentPath,
        /// Permission bits.
        mode: u32,
    },
    /// Makes a symbolic link, in place of a file or link if there is one.
    MakeSymlink {
        /// Where.
        path: ContentPath,
        /// Where it points.
        target: String,
    },
    /// Writes a file, in place of a file or link if there is one.
    WriteFile {
        /// Where.
        path: ContentPath,
        /// Permission bits.
        mode: u32,
        /// Modification time, seconds since 1970.
        mtime: i64,
        /// Length in bytes.
        size: u64,
        /// Digest of the content. `None` where it follows from the rest: of a copy it is that of the old
        /// file, and of data it shows when the data is there; the result's version covers it in any case.
        digest: Option<Digest>,
        /// Where the content comes from.
        content: Content,
    },
    /// Changes permission bits of a directory or file.
    SetMode {
        /// Which.
        path: ContentPath,
        /// The new bits.
        mode: u32,
    },
    /// Removes an entry; directories after what they contain.
    Remove {
        /// Which.
        path: ContentPath,
    },
}

impl Command {
    /// The path it changes.
    #[must_use]
    pub fn path(&self) -> &ContentPath {
        match self {
            Self::MakeDirectory { path, .. }
            | Self::MakeSymlink { path, .. }
            | Self::WriteFile { path, .. }
            | Self::SetMode { path, .. }
            | Self::Remove { path } => path,
        }
    }
}

/// Why commands do not fit the tree they are applied to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// Something is where a directory should be made, or a directory where a file should be written.
    #[error("{path} is in the way")]
    Exists {
        /// The entry.
        path: ContentPath,
    },
    /// The entry to change is not there or is a link.
    #[error("{path} is not there to be changed")]
    Missing {
        /// The entry.
        path: ContentPath,
    },
    /// The old file that content should come from is not in the base tree.
    #[error("{path} should be made from {from}, which the base does not have as a file")]
    SourceMissing {
        /// The file to be written.
        path: ContentPath,
        /// The old file.
        from: ContentPath,
    },
    /// The outcome is no tree.
    #[error("the commands do not lead to a content tree")]
    Result(#[from] ManifestError),
}

/// Stands for a digest that shows only when the data is there.
pub const UNKNOWN_DIGEST: Digest = Digest([0; 32]);

/// What the base tree becomes by these commands. For [`super::Base::Any`] the base is empty. Files whose
/// digest neither their command nor the base tells have [`UNKNOWN_DIGEST`].
///
/// # Errors
/// [`ApplyError`] names the first command's path that does not fit; nothing has happened then.
pub fn apply(base: &Manifest, commands: &[Command]) -> Result<Manifest, ApplyError> {
    let result = apply_part(base, commands)?;
    result.check()?;
    Ok(result)
}

/// [`apply`] to that part of a base tree which the commands name, as what they change or copy. What comes
/// out is the part of the result that takes its place; whether the whole is a tree is left to the caller.
///
/// # Errors
/// [`ApplyError`], but for [`ApplyError::Result`].
pub fn apply_part(base: &Manifest, commands: &[Command]) -> Result<Manifest, ApplyError> {
    let mut result = base.clone();
    for command in commands {
        match command {
            Command::MakeDirectory { path, mode } => {
                if result.entries.contains_key(path) {
                    return Err(ApplyError::Exists { path: path.clone() });
                }
                result.entries.insert(path.clone(), Entry::Directory { mode: *mode });
            }
            Command::MakeSymlink { path, target } => {
                refuse_directory(&result, path)?;
                result.entries.insert(path.clone(), Entry::Symlink { target: target.clone() });
            }
            Command::WriteFile { path, mode, mtime, size, digest, content } => {
                refuse_directory(&result, path)?;
                let known = digest_of_source(base, path, *size, content)?;
                let digest = digest.or(known).unwrap_or(UNKNOWN_DIGEST);
                let entry = Entry::File { mode: *mode, size: *size, digest, mtime: *mtime };
                result.entries.insert(path.clone(), entry);
            }
            Command::SetMode { path, mode } => match result.entries.get_mut(path) {
                Some(Entry::Directory { mode: present } | Entry::File { mode: present, .. }) => *present = *mode,
                Some(Entry::Symlink { .. }) | None => return Err(ApplyError::Missing { path: path.clone() }),
            },
            Command::Remove { path } => {
                if result.entries.remove(path).is_none() {
                    return Err(ApplyError::Missing { path: path.clone() });
                }
            }
        }
    }
    Ok(result)
}

fn refuse_directory(tree: &Manifest, path: &ContentPath) -> Result<(), ApplyError> {
    match tree.entries.get(path) {
        Some(Entry::Directory { .. }) => Err(ApplyError::Exists { path: path.clone() }),
        Some(Entry::File { .. } | Entry::Symlink { .. }) | None => Ok(()),
    }
}

/// The digest that follows from where the content comes from.
fn digest_of_source(
    base: &Manifest,
    path: &ContentPath,
    size: u64,
    content: &Content,
) -> Result<Option<Digest>, ApplyError> {
    let from = match content {
        Content::Blocks(_) | Content::Local => return Ok((size == 0).then(|| Digest::of(b""))),
        Content::Copy { from } => from,
    };
    match base.entries.get(from) {
        Some(Entry::File { digest, .. }) => Ok(Some(*digest)),
        Some(Entry::Directory { .. } | Entry::Symlink { .. }) | None => {
            Err(ApplyError::SourceMissing { path: path.clone(), from: from.clone() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> ContentPath {
        text.parse().expect("good path")
    }

    fn write(at: &str, content: Content) -> Command {
        Command::WriteFile { path: path(at), mode: 0o644, mtime: 0, size: 0, digest: None, content }
    }

    #[test]
    fn commands_change_a_tree_or_are_refused_by_name() {
        let empty = Manifest::default();
        let dir = Command::MakeDirectory { path: path("d"), mode: 0o755 };
        let one = apply(&empty, &[dir.clone(), write("d/f", Content::Blocks(vec![]))]).expect("fits");
        assert_eq!(one.entries.len(), 2);

        let moved = [write("g", Content::Copy { from: path("d/f") }), Command::Remove { path: path("d/f") }];
        assert!(apply(&one, &moved).expect("fits").entries.contains_key(&path("g")));

        assert_eq!(apply(&one, &[dir]), Err(ApplyError::Exists { path: path("d") }));
        assert_eq!(apply(&one, &[write("d", Content::Local)]), Err(ApplyError::Exists { path: path("d") }));
        assert_eq!(apply(&one, &[Command::Remove { path: path("x") }]), Err(ApplyError::Missing { path: path("x") }));
        assert_eq!(
            apply(&one, &[write("x", Content::Copy { from: path("d") })]),
            Err(ApplyError::SourceMissing { path: path("x"), from: path("d") })
        );
        // Removing a directory and leaving what it contained is no tree.
        assert!(matches!(apply(&one, &[Command::Remove { path: path("d") }]), Err(ApplyError::Result(_))));
    }
}
