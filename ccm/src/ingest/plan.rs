//! Which steps lead from one tree to another. Pure: trees in, steps out, in the order of execution.
//!
//! A step that writes a file says only where its content is known to be; turning the rest into data
//! is packing.

use std::collections::BTreeMap;

use common::assignment::{Command, Content};
use common::digest::Digest;
use common::manifest::{Entry, Manifest};
use common::path::ContentPath;

use super::diff::same_but_for_mode;

/// A command whose content, if it writes a file, may still have to be found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Complete as it is.
    Ready(Command),
    /// Writes a file of content that the base does not have.
    Write { path: ContentPath, mode: u32, mtime: i64, size: u64, digest: Digest },
}

impl Step {
    /// The command, with content for a file that has none yet.
    pub(super) fn into_command(self, content: impl FnOnce(&Digest) -> Content) -> Command {
        match self {
            Self::Ready(command) => command,
            Self::Write { path, mode, mtime, size, digest } => {
                let content = content(&digest);
                Command::WriteFile { path, mode, mtime, size, digest, content }
            }
        }
    }
}

/// The steps from `base` to `result`: first what goes, contents before their directories; then what
/// comes or changes, directories before their contents. An entry of another type goes and comes.
pub(super) fn changes(base: &Manifest, result: &Manifest) -> Vec<Step> {
    let mut present: BTreeMap<&Digest, &ContentPath> = BTreeMap::new();
    for (path, _, digest) in base.files() {
        present.entry(digest).or_insert(path);
    }
    let mut steps: Vec<Step> = base
        .entries
        .iter()
        .rev()
        .filter(|(path, entry)| result.entries.get(path).is_none_or(|after| !same_type(entry, after)))
        .map(|(path, _)| Step::Ready(Command::Remove { path: path.clone() }))
        .collect();
    for (path, entry) in &result.entries {
        let before = base.entries.get(path).filter(|before| same_type(before, entry));
        if before.is_some_and(|before| before.same_version(entry)) {
            continue;
        }
        if let Entry::Directory { mode } | Entry::File { mode, .. } = entry
            && before.is_some_and(|before| same_but_for_mode(before, entry))
        {
            steps.push(Step::Ready(Command::SetMode { path: path.clone(), mode: *mode }));
            continue;
        }
        steps.push(make(path, entry, |digest| present.get(digest).map(|from| Content::Copy { from: (*from).clone() })));
    }
    steps
}

/// The steps that make the whole of `result`, one for each entry, in path order. Files for which
/// `local` answers true are taken for present on the server.
pub(super) fn whole(result: &Manifest, local: impl Fn(&Digest) -> bool) -> Vec<Step> {
    let entries = result.entries.iter();
    entries.map(|(path, entry)| make(path, entry, |digest| local(digest).then_some(Content::Local))).collect()
}

fn make(path: &ContentPath, entry: &Entry, known: impl FnOnce(&Digest) -> Option<Content>) -> Step {
    let path = path.clone();
    match entry {
        Entry::Directory { mode } => Step::Ready(Command::MakeDirectory { path, mode: *mode }),
        Entry::Symlink { target } => Step::Ready(Command::MakeSymlink { path, target: target.clone() }),
        Entry::File { mode, size, digest, mtime } => {
            let (mode, size, digest, mtime) = (*mode, *size, *digest, *mtime);
            let content = if size == 0 { Some(Content::Blocks(Vec::new())) } else { known(&digest) };
            match content {
                Some(content) => Step::Ready(Command::WriteFile { path, mode, mtime, size, digest, content }),
                None => Step::Write { path, mode, mtime, size, digest },
            }
        }
    }
}

fn same_type(one: &Entry, other: &Entry) -> bool {
    std::mem::discriminant(one) == std::mem::discriminant(other)
}
