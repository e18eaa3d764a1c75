//! Staging: from a checked assignment to a complete tree in temp.
//!
//! Plans first (where each file's content comes from, what space that takes), then writes. Nothing
//! in live is written: files are either the same inode as in live, with all attributes equal, or new.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Seek, Write as _};

use common::assignment::{AssignmentReader, Base, Command, Content, Extent, UNKNOWN_DIGEST};
use common::digest::Digest;
use common::manifest::{Entry, Manifest};
use common::path::ContentPath;
use rustix::fs::FileType;

use super::blocks::{Blocks, OldFiles};
use super::check::altered;
use super::errors::ContentError;
use super::excluded::Rule;
use super::fault::{Fault, Point};
use super::local::{self, Index, Which, size};
use super::trees::{Tree, clone_file, file_type, finish_file, has_attributes};

/// The trees that content may come from.
pub(super) struct Sources {
    pub(super) live: Option<Tree>,
    pub(super) backup: Option<Tree>,
}

impl Sources {
    fn tree(&self, which: Which) -> Option<&Tree> {
        match which {
            Which::Live => self.live.as_ref(),
            Which::Backup => self.backup.as_ref(),
        }
    }

    fn all(&self) -> Vec<(Which, &Tree)> {
        [Which::Live, Which::Backup].into_iter().filter_map(|which| Some((which, self.tree(which)?))).collect()
    }
}

/// Where a file's content comes from.
enum Origin {
    /// Another name for the same inode.
    Link(Which, ContentPath),
    /// The same bytes with other attributes.
    Clone(Which, ContentPath),
    /// Data blocks.
    Blocks(Vec<Extent>),
}

struct PlannedFile {
    path: ContentPath,
    mode: u32,
    mtime: i64,
    size: u64,
    origin: Origin,
}

/// What staging will do.
pub(super) struct Plan {
    files: Vec<PlannedFile>,
}

impl Plan {
    /// Bytes that are written in any case, and bytes that are copied where blocks cannot be shared.
    pub(super) fn bytes(&self) -> (u64, u64) {
        self.files.iter().fold((0, 0), |(written, copied), file| match file.origin {
            Origin::Link(..) => (written, copied),
            Origin::Clone(..) => (written, copied.saturating_add(file.size)),
            Origin::Blocks(_) => (written.saturating_add(file.size), copied),
        })
    }
}

/// Decides for every file of the result where its content comes from.
pub(super) fn plan(
    result: &Manifest,
    commands: &[Command],
    base: Base,
    sources: &Sources,
    rule: &Rule<'_>,
    index: &mut Index,
) -> Result<Plan, ContentError> {
    let written = written_files(commands);
    let local = match base {
        Base::Any => {
            let wanted = wanted_locally(result, &written);
            local::find(&sources.all(), rule, &wanted, index)
                .map_err(ContentError::io("looking for content in", "the live and backup trees"))?
        }
        Base::Version(_) => BTreeMap::new(),
    };
    let mut files = Vec::new();
    for (path, entry) in &result.entries {
        let Entry::File { mode, size, digest, mtime } = entry else { continue };
        let attributes = Attributes { mode: *mode, mtime: *mtime, size: *size };
        let origin = match written.get(path) {
            None => present(sources, Which::Live, path, path, &attributes)?,
            Some(Content::Copy { from }) => present(sources, Which::Live, from, path, &attributes)?,
            Some(Content::Blocks(extents)) => Origin::Blocks(extents.clone()),
            Some(Content::Local) if *size == 0 => Origin::Blocks(Vec::new()),
            Some(Content::Local) => {
                if same_in_live(sources, path, &attributes, digest, index) {
                    present(sources, Which::Live, path, path, &attributes)?
                } else {
                    let (which, from) =
                        local.get(digest).ok_or_else(|| ContentError::ContentMissing { path: path.clone() })?;
                    present(sources, *which, from, path, &attributes)?
                }
            }
        };
        files.push(PlannedFile { path: path.clone(), mode: *mode, mtime: *mtime, size: *size, origin });
    }
    Ok(Plan { files })
}

struct Attributes {
    mode: u32,
    mtime: i64,
    size: u64,
}

/// The last content given for each path.
fn written_files(commands: &[Command]) -> BTreeMap<&ContentPath, &Content> {
    let mut written = BTreeMap::new();
    for command in commands {
        match command {
            Command::WriteFile { path, content, .. } => {
                written.insert(path, content);
            }
            Command::Remove { path } | Command::MakeDirectory { path, .. } | Command::MakeSymlink { path, .. } => {
                written.remove(path);
            }
            Command::SetMode { .. } => {}
        }
    }
    written
}

fn wanted_locally(result: &Manifest, written: &BTreeMap<&ContentPath, &Content>) -> BTreeSet<(u64, Digest)> {
    let is_local = |path| matches!(written.get(path), Some(Content::Local));
    result
        .files()
        .filter(|(path, size, _)| *size > 0 && is_local(*path))
        .map(|(_, size, digest)| (size, *digest))
        .collect()
}

/// Whether live has just this content at just this path, as far as the index knows.
fn same_in_live(
    sources: &Sources,
    path: &ContentPath,
    attributes: &Attributes,
    digest: &Digest,
    index: &Index,
) -> bool {
    let stat = sources.live.as_ref().and_then(|live| live.stat(path).ok().flatten());
    stat.is_some_and(|stat| {
        file_type(&stat) == FileType::RegularFile
            && size(&stat) == attributes.size
            && index.known(&stat).is_some_and(|known| known == *digest)
    })
}

fn present(
    sources: &Sources,
    which: Which,
    from: &ContentPath,
    to: &ContentPath,
    attributes: &Attributes,
) -> Result<Origin, ContentError> {
    let stat = match sources.tree(which) {
        Some(tree) => tree.stat(from).map_err(ContentError::io("reading", from))?,
        None => None,
    };
    let Some(stat) = stat else { return Err(altered(from, "it is missing")) };
    if file_type(&stat) != FileType::RegularFile {
        return Err(altered(from, "it is no file"));
    }
    if size(&stat) != attributes.size {
        return Err(altered(if from == to { to } else { from }, "its length differs"));
    }
    // Somebody else's file could be altered by them behind the back of every tree it stands in.
    let is_own = stat.st_uid == rustix::process::geteuid().as_raw();
    if is_own && has_attributes(&stat, attributes.mode, attributes.mtime) {
        Ok(Origin::Link(which, from.clone()))
    } else {
        Ok(Origin::Clone(which, from.clone()))
    }
}

/// Which commands' content is nowhere here, as ascending runs of indexes.
pub(super) fn missing(
    commands: &[Command],
    sources: &Sources,
    rule: &Rule<'_>,
    index: &mut Index,
) -> Result<Vec<(u32, u32)>, ContentError> {
    let wanted = commands
        .iter()
        .filter_map(|command| match command {
            Command::WriteFile { size, digest: Some(digest), .. } if *size > 0 => Some((*size, *digest)),
            Command::WriteFile { .. }
            | Command::MakeDirectory { .. }
            | Command::MakeSymlink { .. }
            | Command::SetMode { .. }
            | Command::Remove { .. } => None,
        })
        .collect();
    let found = local::find(&sources.all(), rule, &wanted, index)
        .map_err(ContentError::io("looking for content in", "the live and backup trees"))?;
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for (at, command) in (0_u32..).zip(commands) {
        let Command::WriteFile { size, digest, .. } = command else { continue };
        if *size == 0 || digest.is_some_and(|digest| found.contains_key(&digest)) {
            continue;
        }
        match runs.last_mut() {
            Some((first, count)) if *first + *count == at => *count += 1,
            Some(_) | None => runs.push((at, 1)),
        }
    }
    Ok(runs)
}

/// Carries out the plan in an empty tree. Directories' permission bits are set by
/// [`finish_directories`], when nothing more is to be written.
#[expect(clippy::too_many_arguments, reason = "what staging is made of, from one caller")]
pub(super) fn write<R: Read + Seek>(
    plan: Plan,
    result: &Manifest,
    temp: &Tree,
    sources: &Sources,
    reader: &mut AssignmentReader<R>,
    old: &OldFiles<'_>,
    index: &mut Index,
    fault: &mut dyn Fault,
) -> Result<(), ContentError> {
    for (path, entry) in &result.entries {
        match entry {
            Entry::Directory { .. } => {
                fault.at(Point::StageEntry).map_err(ContentError::io("staging", path))?;
                temp.make_directory(path).map_err(ContentError::io("making the directory", path))?;
            }
            Entry::Symlink { target } => {
                fault.at(Point::StageEntry).map_err(ContentError::io("staging", path))?;
                temp.make_symlink(path, target).map_err(ContentError::io("making the link", path))?;
            }
            Entry::File { .. } => {}
        }
    }
    let mut files = plan.files;
    // In the order of the data; everything that needs none comes first, in path order.
    files.sort_by_key(|file| match &file.origin {
        Origin::Link(..) | Origin::Clone(..) => None,
        Origin::Blocks(extents) => extents.first().map(|extent| (extent.block, extent.offset)),
    });
    let mut blocks = Blocks::new(reader, old);
    for file in &files {
        fault.at(Point::StageEntry).map_err(ContentError::io("staging", &file.path))?;
        match &file.origin {
            Origin::Link(which, from) => link(sources, *which, from, temp, file, index)?,
            Origin::Clone(which, from) => copy(sources, *which, from, temp, file)?,
            Origin::Blocks(extents) => write_blocks(extents, temp, file, &mut blocks, index)?,
        }
    }
    Ok(())
}

fn tree<'a>(sources: &'a Sources, which: Which, path: &ContentPath) -> Result<&'a Tree, ContentError> {
    sources.tree(which).ok_or_else(|| altered(path, "it is missing"))
}

fn link(
    sources: &Sources,
    which: Which,
    from: &ContentPath,
    temp: &Tree,
    file: &PlannedFile,
    index: &mut Index,
) -> Result<(), ContentError> {
    let failed = || ContentError::io("linking", &file.path);
    let source = tree(sources, which, from)?;
    let before = source.stat(from).map_err(failed())?.ok_or_else(|| altered(from, "it is missing"))?;
    let from_parent = source.parent(from).map_err(failed())?;
    let to_parent = temp.parent(&file.path).map_err(failed())?;
    let linked = super::trees::link(
        std::os::fd::AsFd::as_fd(&*from_parent),
        from.file_name().as_ref(),
        std::os::fd::AsFd::as_fd(&*to_parent),
        file.path.file_name().as_ref(),
    );
    if linked.is_err() {
        // Too many links, or a file system without them.
        return copy(sources, which, from, temp, file);
    }
    let after = temp.stat(&file.path).map_err(failed())?.ok_or_else(|| altered(&file.path, "it is missing"))?;
    index.relinked(&before, &after);
    Ok(())
}

fn copy(
    sources: &Sources,
    which: Which,
    from: &ContentPath,
    temp: &Tree,
    file: &PlannedFile,
) -> Result<(), ContentError> {
    let failed = || ContentError::io("copying", &file.path);
    let mut old = tree(sources, which, from)?.read_file(from).map_err(failed())?;
    let mut new = temp.create_file(&file.path).map_err(failed())?;
    clone_file(&mut old, &mut new).map_err(failed())?;
    finish_file(&new, file.mode, file.mtime).map_err(failed())
}

fn write_blocks<R: Read + Seek>(
    extents: &[Extent],
    temp: &Tree,
    file: &PlannedFile,
    blocks: &mut Blocks<'_, R>,
    index: &mut Index,
) -> Result<(), ContentError> {
    let failed = || ContentError::io("writing", &file.path);
    let mut new = temp.create_file(&file.path).map_err(failed())?;
    let mut left = file.size;
    for extent in extents {
        let raw = blocks.get(extent.block, &file.path, index)?;
        let start = extent.offset as usize;
        let piece = start.checked_add(extent.length as usize).and_then(|end| raw.get(start..end));
        let piece = piece.ok_or_else(|| altered(&file.path, "it is to be made of more than a block has"))?;
        left = shrink(left, piece.len(), file)?;
        new.write_all(piece).map_err(failed())?;
    }
    finish_file(&new, file.mode, file.mtime).map_err(failed())
}

/// No file grows beyond its size, whatever its pieces say.
fn shrink(left: u64, bytes: usize, file: &PlannedFile) -> Result<u64, ContentError> {
    left.checked_sub(bytes as u64).ok_or_else(|| altered(&file.path, "its pieces are longer than it"))
}

/// The result with the digests that show now that the data is there.
pub(super) fn complete(result: &Manifest, temp: &Tree, index: &mut Index) -> Result<Manifest, ContentError> {
    let mut complete = result.clone();
    for (path, entry) in &mut complete.entries {
        let Entry::File { digest, .. } = entry else { continue };
        if *digest == UNKNOWN_DIGEST {
            let failed = || ContentError::io("reading", path);
            let file = temp.read_file(path).map_err(failed())?;
            let found = index.digest(&file).map_err(failed())?;
            *digest = found.ok_or_else(|| altered(path, "it changes while it is read"))?;
        }
    }
    Ok(complete)
}

/// Why what was staged is not what was signed: an old file that was altered, if there is one.
pub(super) fn why_different<R: Read + Seek>(
    reader: &AssignmentReader<R>,
    old: &OldFiles<'_>,
    index: &mut Index,
) -> Result<Option<ContentError>, ContentError> {
    for (block, info) in (0_u32..).zip(reader.blocks()) {
        if let Some(altered) = old.altered(block, &info.reference, index)? {
            return Ok(Some(altered));
        }
    }
    Ok(None)
}

/// Gives directories their permission bits, innermost first.
pub(super) fn finish_directories(result: &Manifest, temp: &Tree, root_mode: u32) -> Result<(), ContentError> {
    for (path, entry) in result.entries.iter().rev() {
        if let Entry::Directory { mode } = entry {
            temp.set_directory_mode(path, *mode).map_err(ContentError::io("setting the mode of", path))?;
        }
    }
    temp.set_root_mode(root_mode).map_err(ContentError::io("setting the mode of", "the tree"))
}
