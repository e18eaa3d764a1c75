//! Which steps lead from one tree to another. Pure: trees in, steps out, in the order of execution.
//!
//! A step that writes a file says only where its content is known to be; turning the rest into data
//! is packing.

use common::assignment::{Command, Content};
use common::digest::Digest;
use common::manifest::Entry;
use common::path::ContentPath;

use super::compare::{Changes, same_but_for_mode};
use super::content::ContentError;
use super::tree::Tree;

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
                let digest = (content == Content::Local).then_some(digest);
                Command::WriteFile { path, mode, mtime, size, digest, content }
            }
        }
    }
}

/// The steps from one tree to the other: first what goes, contents before their directories; then what
/// comes or changes, directories before their contents. An entry of another type goes and comes.
pub(super) fn changes(changes: &Changes) -> Vec<Step> {
    let in_base = |digest: &Digest| changes.known.get(digest).map(|from| Content::Copy { from: from.clone() });
    let mut gone = Vec::new();
    let mut steps = Vec::new();
    for (path, before, after) in changes.each() {
        let stays = before.zip(after).is_some_and(|(before, after)| same_type(before, after));
        if before.is_some() && !stays {
            gone.push(Step::Ready(Command::Remove { path: path.clone() }));
        }
        let Some(entry) = after else { continue };
        match before.filter(|_| stays) {
            Some(before) if same_but_for_mode(before, entry) => match entry {
                Entry::Directory { mode } | Entry::File { mode, .. } => {
                    steps.push(Step::Ready(Command::SetMode { path: path.clone(), mode: *mode }));
                }
                // A link has no mode, and would be no change.
                Entry::Symlink { .. } => {}
            },
            Some(_) | None => steps.push(make(path, entry, in_base)),
        }
    }
    gone.into_iter().rev().chain(steps).collect()
}

/// The steps that make the whole of `result`, one for each entry, in path order. Files for which
/// `local` answers true are taken for present on the server.
pub(super) fn whole(result: &dyn Tree, local: impl Fn(&Digest) -> bool) -> Result<Vec<Step>, ContentError> {
    let step = |(path, entry)| make(&path, &entry, |digest| local(digest).then_some(Content::Local));
    result.entries()?.map(|entry| entry.map(step)).collect()
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
                Some(content) => {
                    let digest = (content == Content::Local).then_some(digest);
                    Step::Ready(Command::WriteFile { path, mode, mtime, size, digest, content })
                }
                None => Step::Write { path, mode, mtime, size, digest },
            }
        }
    }
}

fn same_type(one: &Entry, other: &Entry) -> bool {
    std::mem::discriminant(one) == std::mem::discriminant(other)
}
