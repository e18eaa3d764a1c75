//! The finished assignment: commands and data in one signed file.
//!
//! Before it is sealed the commands are applied to the base, by the function that servers use: an
//! assignment that does not lead to its result is never written. Leaves to others: the numbers,
//! targets and times in the header.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, PoisonError};

use common::assignment::{
    ApplyError, Base, BlockInfo, Command, Content, Draft, Effect, Limits, UNKNOWN_DIGEST, apply_part, head,
};
use common::digest::{Digest, Version};
use common::keys::PublishKey;
use common::manifest::{Entry, Manifest, Root, Shape};
use common::path::ContentPath;

use super::Progress;
use super::compare::compare;
use super::content::{ContentError, ContentSource, file_digest};
use super::level::Level;
use super::old::Before;
use super::pack::{Wanted, Watch, pack_contents};
use super::plan::{self, Step};
use super::spool::Spool;
use super::tree::{Tree, bytes_of, patched};

/// What file systems give out at once, for the estimate of space.
const FILE_SYSTEM_BLOCK_BYTES: u64 = 4096;

/// What to build.
#[derive(Debug, Clone)]
pub struct BuildRequest<'a> {
    /// What its header says beside base, result, sizes, counts and digests.
    pub draft: Draft,
    /// The tree it starts from; `None` for [`Base::Any`].
    pub base: Option<&'a dyn Tree>,
    /// The tree it leads to.
    pub result: &'a dyn Tree,
    /// Without a base: the contents that servers lack. Only these get data, all others are taken for
    /// present on every server. `None`: all get data. With a base it has no meaning.
    pub needed: Option<&'a BTreeSet<Digest>>,
    /// How much work is put into it.
    pub level: Level,
}

/// A finished assignment file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Built {
    /// Digest of the whole file, which names the object.
    pub object: Digest,
    /// Its length in bytes.
    pub length: u64,
    /// Where it is.
    pub path: PathBuf,
    /// Number of data blocks.
    pub blocks: u32,
    /// Length of the packed data blocks in bytes.
    pub data_bytes: u64,
}

/// Why an assignment could not be built. No output is left.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Content is missing, damaged or unreadable.
    #[error("the content for the assignment is not at hand")]
    Content(#[from] ContentError),
    /// The commands do not fit the base, or lead to no tree.
    #[error("the assignment's commands do not fit its base")]
    Apply(#[from] ApplyError),
    /// The commands lead elsewhere.
    #[error("the assignment would lead to version {found} instead of {expected}")]
    Result {
        /// The version it should lead to.
        expected: Version,
        /// The version it would lead to.
        found: Version,
    },
    /// More than readers accept.
    #[error("the assignment's {part} of {found} is over the limit of {max}")]
    Limit {
        /// What is too large.
        part: &'static str,
        /// How large it is.
        found: u64,
        /// The limit.
        max: u64,
    },
    /// The compressor got no memory.
    #[error("the assignment's data cannot be packed")]
    Pack {
        /// Why.
        source: io::Error,
    },
    /// The temporary file beside the output cannot be written or read.
    #[error("the assignment's data cannot be kept until it is written")]
    Spool {
        /// Why.
        source: io::Error,
    },
    /// The output cannot be written.
    #[error("the assignment {path} cannot be written", path = path.display())]
    Output {
        /// The output.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Stopped on request.
    #[error("the building of the assignment was cancelled")]
    Cancelled,
}

impl BuildError {
    pub(super) fn too_many_blocks(found: usize) -> Self {
        Self::Limit { part: "number of blocks", found: found as u64, max: Limits::default().blocks_max.into() }
    }
}

/// Builds an assignment, durably, at `output`; a file that is there is replaced. Contents that the
/// base lacks must be found in `source`, those of the base should be.
///
/// # Errors
/// [`BuildError`]; nothing is left at `output` that was not there before.
pub fn build(
    request: &BuildRequest<'_>,
    source: &dyn ContentSource,
    key: &PublishKey,
    output: &Path,
    progress: &dyn Fn(Progress),
    cancel: &AtomicBool,
) -> Result<Built, BuildError> {
    let changes = match request.base {
        Some(base) => Some(compare::<BuildError>(Some(base), request.result.entries()?.map(|entry| Ok(entry?)))?),
        None => None,
    };
    let steps = match &changes {
        Some(changes) => plan::changes(changes),
        None => {
            let local = |digest: &Digest| request.needed.is_some_and(|needed| !needed.contains(digest));
            plan::whole(request.result, local)?
        }
    };
    let spool = Mutex::new(Spool::new(beside(output, ".spool")));
    let mut watch = Watch { progress, cancel, state: Progress::default() };
    let before = request.base.zip(changes.as_ref()).map(|(base, changes)| Before { base, changes });
    let extents = pack_contents(wanted(&steps), before, source, request.level, &spool, &mut watch)?;
    drop(changes);
    let spool = spool.into_inner().unwrap_or_else(PoisonError::into_inner);
    let content = |digest: &Digest| Content::Blocks(extents.get(digest).cloned().expect("every content was packed"));
    let mut commands: Vec<Command> = steps.into_iter().map(|step| step.into_command(content)).collect();
    // What needs no data comes first and keeps its order; files come in the order of their data, so that
    // nothing need be said about where that is.
    commands.sort_by_key(place_in_data);
    let blocks = spool.rows();

    let space_bytes = space(&commands);
    let parts = Parts { commands: &commands, blocks: &blocks, base: request.base, result: request.result, space_bytes };
    let mut copy = |to: &mut dyn Write| -> Result<(), BuildError> {
        for slot in 0..blocks.len() {
            watch.check()?;
            spool.copy(slot, to).map_err(|source| BuildError::Output { path: output.to_owned(), source })?;
        }
        Ok(())
    };
    seal(request.draft.clone(), &parts, &mut copy, key, output)
}

/// What an assignment consists of, besides its header and data.
pub(super) struct Parts<'a> {
    pub(super) commands: &'a [Command],
    pub(super) blocks: &'a [BlockInfo],
    pub(super) base: Option<&'a dyn Tree>,
    pub(super) result: &'a dyn Tree,
    /// What a server needs free.
    pub(super) space_bytes: u64,
}

/// Checks, signs and writes an assignment. `copy` writes the packed blocks.
pub(super) fn seal(
    draft: Draft,
    parts: &Parts<'_>,
    copy: &mut dyn FnMut(&mut dyn Write) -> Result<(), BuildError>,
    key: &PublishKey,
    output: &Path,
) -> Result<Built, BuildError> {
    let effect = effect(parts)?;
    let (expected, found) = (parts.result.version(), effect.result);
    if found != expected {
        return Err(BuildError::Result { expected, found });
    }
    let limits = Limits::default();
    check_limit("number of commands", parts.commands.len() as u64, limits.commands_max.into())?;
    check_limit("number of blocks", parts.blocks.len() as u64, limits.blocks_max.into())?;
    check_limit("content", effect.result_bytes, limits.result_bytes_max)?;
    let draft_bytes = postcard::to_stdvec(&draft).expect("a draft is plain data").len();
    // Room for versions, counts and digests.
    check_limit("header", draft_bytes as u64 + 300, limits.header_bytes_max.into())?;

    let head = head(draft, effect, parts.commands, parts.blocks, key).map_err(|source| BuildError::Pack { source })?;
    let partial = beside(output, ".partial");
    let written = write(&partial, &head, copy, output);
    let (object, length) = match written {
        Ok(written) => written,
        Err(error) => {
            // It was never there, or is of no use; the error that counts is the first.
            if let Err(left) = fs::remove_file(&partial) {
                tracing::debug!(path = %partial.display(), error = %left, "a partial assignment is left");
            }
            return Err(error);
        }
    };
    Ok(Built {
        object,
        length,
        path: output.to_owned(),
        blocks: u32::try_from(parts.blocks.len()).expect("checked against the limit"),
        data_bytes: parts.blocks.iter().map(|block| u64::from(block.packed_bytes)).sum(),
    })
}

fn write(
    partial: &Path,
    head: &[u8],
    copy: &mut dyn FnMut(&mut dyn Write) -> Result<(), BuildError>,
    output: &Path,
) -> Result<(Digest, u64), BuildError> {
    let failed = |source| BuildError::Output { path: output.to_owned(), source };
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(partial).map_err(failed)?;
    let mut hashing =
        Hashing { file: BufWriter::with_capacity(1 << 18, file), hasher: blake3::Hasher::new(), length: 0 };
    hashing.write_all(head).map_err(failed)?;
    copy(&mut hashing)?;
    let file = hashing.file.into_inner().map_err(|error| failed(error.into_error()))?;
    file.sync_all().map_err(failed)?;
    fs::rename(partial, output).map_err(failed)?;
    let parent = output.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent).and_then(|parent| parent.sync_all()).map_err(failed)?;
    Ok((hashing.hasher.finalize().into(), hashing.length))
}

/// Counts and hashes what passes.
struct Hashing {
    file: BufWriter<File>,
    hasher: blake3::Hasher,
    length: u64,
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.length += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// What the commands make of the base. Neither tree is in memory, but for what the commands name.
fn effect(parts: &Parts<'_>) -> Result<Effect, BuildError> {
    let Parts { commands, base, result, space_bytes, .. } = *parts;
    let nothing = Manifest::default();
    let old = match base {
        Some(base) => named(base, commands)?,
        None => Manifest::default(),
    };
    let mut new = apply_part(&old, commands)?;
    if new.files().any(|(_, _, digest)| *digest == UNKNOWN_DIGEST) {
        for entry in result.entries()? {
            let (path, entry) = entry?;
            if let Some(Entry::File { digest, .. }) = new.entries.get_mut(&path)
                && *digest == UNKNOWN_DIGEST
                && let Some((_, to_come)) = file_digest(&entry)
            {
                *digest = to_come;
            }
        }
    }

    let (mut root, mut shape, mut result_bytes) = (Root::default(), Shape::default(), 0_u64);
    for entry in patched(base.unwrap_or(&nothing).entries()?, &old, &new) {
        let (path, entry) = entry?;
        shape.add(&path, &entry).map_err(ApplyError::from)?;
        root.add(&path, &entry);
        result_bytes = result_bytes.saturating_add(bytes_of(&entry));
    }
    Ok(Effect {
        base: base.map_or(Base::Any, |base| Base::Version(base.version())),
        result: root.version(),
        result_entries: root.entries(),
        result_bytes,
        space_bytes,
    })
}

/// The part of a tree that commands name. The whole of it is what it says.
fn named(base: &dyn Tree, commands: &[Command]) -> Result<Manifest, BuildError> {
    let mut names: BTreeSet<&ContentPath> = commands.iter().map(Command::path).collect();
    for command in commands {
        if let Command::WriteFile { content: Content::Copy { from }, .. } = command {
            names.insert(from);
        }
    }
    let mut names = names.into_iter().peekable();
    let (mut part, mut root) = (Manifest::default(), Root::default());
    for entry in base.entries()? {
        let (path, entry) = entry?;
        root.add(&path, &entry);
        while names.next_if(|name| **name < path).is_some() {}
        if names.next_if(|name| **name == path).is_some() {
            part.entries.insert(path, entry);
        }
    }
    let version = base.version();
    if root.version() == version { Ok(part) } else { Err(ContentError::ManifestDamaged { version }.into()) }
}

/// The contents to be packed: each once, with the path it is first written to.
fn wanted(steps: &[Step]) -> Vec<Wanted<'_>> {
    let mut first: BTreeMap<Digest, (&ContentPath, u64)> = BTreeMap::new();
    for step in steps {
        match step {
            Step::Ready(_) => {}
            Step::Write { path, size, digest, .. } => {
                first.entry(*digest).or_insert((path, *size));
            }
        }
    }
    first.into_iter().map(|(digest, (path, size))| Wanted { digest, size, path }).collect()
}

/// Where the data of a command begins, as block and offset.
fn place_in_data(command: &Command) -> Option<(u32, u32)> {
    match command {
        Command::WriteFile { content: Content::Blocks(extents), .. } => {
            extents.first().map(|extent| (extent.block, extent.offset))
        }
        Command::WriteFile { content: Content::Copy { .. } | Content::Local, .. }
        | Command::MakeDirectory { .. }
        | Command::MakeSymlink { .. }
        | Command::SetMode { .. }
        | Command::Remove { .. } => None,
    }
}

/// What a server needs free: every file that is written with new or copied bytes, and every new
/// directory, in whole blocks of a file system. Files that are taken for present count nothing, as
/// unchanged files do.
fn space(commands: &[Command]) -> u64 {
    let of = |command: &Command| match command {
        Command::WriteFile { content: Content::Local, .. }
        | Command::MakeSymlink { .. }
        | Command::SetMode { .. }
        | Command::Remove { .. } => 0,
        Command::WriteFile { size, .. } => size.next_multiple_of(FILE_SYSTEM_BLOCK_BYTES),
        Command::MakeDirectory { .. } => FILE_SYSTEM_BLOCK_BYTES,
    };
    commands.iter().map(of).sum()
}

fn check_limit(part: &'static str, found: u64, max: u64) -> Result<(), BuildError> {
    if found > max { Err(BuildError::Limit { part, found, max }) } else { Ok(()) }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

#[cfg(test)]
#[path = "build_tests.rs"]
mod tests;
