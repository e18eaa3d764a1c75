//! Whether a staged tree is what was signed: the whole of it is walked and compared.

use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;

use common::manifest::{Entry, Manifest};
use common::path::ContentPath;
use rustix::fs::FileType;

use super::errors::ContentError;
use super::excluded::Rule;
use super::local::{Index, child, modified, size};
use super::trees::{Tree, file_type, list, open_regular, stat_at};

/// Reads the tree, apart from what is excluded, and compares it with the rule's manifest. Files
/// that the index does not know as they are get hashed.
///
/// # Errors
/// [`ContentError::Altered`] names the first difference.
pub(super) fn check(tree: &Tree, rule: &Rule<'_>, index: &mut Index) -> Result<(), ContentError> {
    let mut found = Manifest::default();
    walk(tree, rule, None, index, &mut found)?;
    for (path, entry) in &rule.manifest.entries {
        match found.entries.get(path) {
            None => return Err(altered(path, "it is missing")),
            Some(present) if !present.same_version(entry) => return Err(altered(path, "it differs")),
            Some(_) => {}
        }
    }
    // All that should be there is: the versions are the same unless there is more.
    if found.entries.len() == rule.manifest.entries.len() {
        return Ok(());
    }
    let extra = found.entries.keys().find(|path| !rule.manifest.entries.contains_key(path));
    Err(extra.map_or_else(|| altered(&"the tree", "it differs"), |path| altered(path, "nobody published it")))
}

/// What a tree consists of, apart from what is excluded.
pub(super) fn found_in(tree: &Tree, rule: &Rule<'_>, index: &mut Index) -> Result<Manifest, ContentError> {
    let mut found = Manifest::default();
    walk(tree, rule, None, index, &mut found)?;
    Ok(found)
}

pub(super) fn altered(path: &impl ToString, what: &'static str) -> ContentError {
    ContentError::Altered { path: path.to_string(), what }
}

/// Returns whether the directory holds nothing but excluded entries, and at least one of them.
fn walk(
    tree: &Tree,
    rule: &Rule<'_>,
    at: Option<&ContentPath>,
    index: &mut Index,
    found: &mut Manifest,
) -> Result<bool, ContentError> {
    let here = at.map_or_else(|| "the tree's root".to_owned(), ToString::to_string);
    let directory = tree.directory(at).map_err(ContentError::io("opening", &here))?;
    let (mut excluded, mut own) = (false, false);
    for (name, _) in list(directory.as_fd()).map_err(ContentError::io("listing", &here))? {
        let Some(path) = child(at, &name) else {
            return Err(altered(&name.to_string_lossy(), "content cannot have this name"));
        };
        let failed = || ContentError::io("checking", &path);
        let Some(stat) = stat_at(directory.as_fd(), &name).map_err(failed())? else { continue };
        let kind = file_type(&stat);
        if rule.excludes(&path, kind == FileType::Directory) {
            excluded = true;
            continue;
        }
        let entry = match kind {
            FileType::Directory => {
                let only_excluded = walk(tree, rule, Some(&path), index, found)?;
                if only_excluded && !rule.manifest.entries.contains_key(&path) {
                    // It stays for the sake of what it holds.
                    excluded = true;
                    continue;
                }
                Entry::Directory { mode: stat.st_mode & 0o7777 }
            }
            FileType::RegularFile => {
                let known = match index.known(&stat) {
                    Some(known) => Some(known),
                    None => hash(directory.as_fd(), &name, index).map_err(failed())?,
                };
                let Some(digest) = known else { return Err(altered(&path, "it changes while it is read")) };
                Entry::File { mode: stat.st_mode & 0o7777, size: size(&stat), digest, mtime: modified(&stat).0 }
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(directory.as_fd(), &name, Vec::new())
                    .map_err(|error| failed()(error.into()))?;
                let Ok(target) = String::from_utf8(target.into_bytes()) else {
                    return Err(altered(&path, "it points to what is no text"));
                };
                Entry::Symlink { target }
            }
            FileType::Fifo
            | FileType::Socket
            | FileType::CharacterDevice
            | FileType::BlockDevice
            | FileType::Unknown => return Err(altered(&path, "it is neither directory, file nor link")),
        };
        own = true;
        found.entries.insert(path, entry);
    }
    Ok(excluded && !own)
}

fn hash(
    directory: std::os::fd::BorrowedFd<'_>,
    name: &OsStr,
    index: &mut Index,
) -> io::Result<Option<common::digest::Digest>> {
    index.digest(&open_regular(directory, name)?)
}

/// The first entry that is not excluded, `None` when there is no such thing.
pub(super) fn first_entry(tree: &Tree, rule: &Rule<'_>) -> io::Result<Option<String>> {
    first_below(tree, rule, None)
}

fn first_below(tree: &Tree, rule: &Rule<'_>, at: Option<&ContentPath>) -> io::Result<Option<String>> {
    let directory = tree.directory(at)?;
    let (mut excluded, mut own) = (false, None);
    for (name, kind) in list(directory.as_fd())? {
        let Some(path) = child(at, &name) else {
            return Ok(Some(String::from_utf8_lossy(name.as_bytes()).into_owned()));
        };
        if rule.excludes(&path, kind == FileType::Directory) {
            excluded = true;
        } else if kind == FileType::Directory {
            match first_below(tree, rule, Some(&path))? {
                Some(first) => own = own.or(Some(first)),
                None => excluded = true,
            }
        } else {
            return Ok(Some(path.to_string()));
        }
    }
    // An empty directory is somebody's too.
    Ok(own.or_else(|| (!excluded).then(|| at.map(ToString::to_string)).flatten()))
}
