//! Unpacking data blocks, some of which refer to files of the live tree.

use std::io::{Read, Seek};
use std::os::unix::fs::FileExt as _;

use common::assignment::{AssignmentError, AssignmentReader, REFERENCE_BYTES_MAX, Stretch};
use common::digest::Digest;
use common::manifest::Manifest;
use common::path::ContentPath;
use rustix::fs::FileType;

use super::check::altered;
use super::errors::ContentError;
use super::local::Index;
use super::trees::{Tree, file_type};

/// The files that references number: regular files of the base, in path order.
pub(super) struct OldFiles<'a> {
    live: Option<&'a Tree>,
    files: Vec<(&'a ContentPath, u64, &'a Digest)>,
}

/// A part of an old file.
struct Part<'a> {
    path: &'a ContentPath,
    digest: &'a Digest,
    offset: u64,
    length: usize,
}

impl<'a> OldFiles<'a> {
    /// The files of `base`, found in `live`.
    pub(super) fn new(base: &'a Manifest, live: Option<&'a Tree>) -> Self {
        Self { live, files: base.files().collect() }
    }

    /// The parts that stretches mean, within the limit together.
    fn parts(&self, block: u32, stretches: &[Stretch]) -> Result<Vec<Part<'a>>, ContentError> {
        let refused = || ContentError::Reference { block };
        let mut parts = Vec::new();
        let mut left = u64::from(REFERENCE_BYTES_MAX);
        let mut push = |file: u32, range: Option<(u64, u64)>| {
            let (path, size, digest) = *self.files.get(file as usize).ok_or_else(refused)?;
            let (offset, length) = range.unwrap_or((0, size));
            left = left.checked_sub(length).ok_or_else(refused)?;
            let fits = offset.checked_add(length).is_some_and(|end| end <= size);
            let length = usize::try_from(length).ok().filter(|_| fits).ok_or_else(refused)?;
            parts.push(Part { path, digest, offset, length });
            Ok::<(), ContentError>(())
        };
        for stretch in stretches {
            match stretch {
                Stretch::Files { first, count } => {
                    let end = first.checked_add(*count).ok_or_else(refused)?;
                    (*first..end).try_for_each(|file| push(file, None))?;
                }
                Stretch::Part { file, offset, length } => push(*file, Some((*offset, u64::from(*length))))?,
            }
        }
        Ok(parts)
    }

    fn read(&self, block: u32, stretches: &[Stretch]) -> Result<Vec<u8>, ContentError> {
        let live = self.live.ok_or(ContentError::Reference { block })?;
        let parts = self.parts(block, stretches)?;
        let mut reference = Vec::with_capacity(parts.iter().map(|part| part.length).sum());
        for Part { path, offset, length, .. } in parts {
            let failed = || ContentError::io("reading", path);
            let stat = live.stat(path).map_err(failed())?;
            if stat.is_none_or(|stat| file_type(&stat) != FileType::RegularFile) {
                return Err(altered(path, "it is missing"));
            }
            let file = live.read_file(path).map_err(failed())?;
            let begin = reference.len();
            reference.resize(begin + length, 0);
            file.read_exact_at(&mut reference[begin..], offset).map_err(|error| {
                if error.kind() == std::io::ErrorKind::UnexpectedEof {
                    altered(path, "it is shorter than it was")
                } else {
                    failed()(error)
                }
            })?;
        }
        Ok(reference)
    }

    /// The first file that stretches mean which is not as it was published, if there is one: why data
    /// that was rightly signed does not lead to what was signed.
    pub(super) fn altered(
        &self,
        block: u32,
        stretches: &[Stretch],
        index: &mut Index,
    ) -> Result<Option<ContentError>, ContentError> {
        let Some(live) = self.live else { return Ok(None) };
        for Part { path, digest, .. } in self.parts(block, stretches)? {
            let failed = || ContentError::io("reading", path);
            let file = live.read_file(path).map_err(failed())?;
            if index.digest(&file).map_err(failed())? != Some(*digest) {
                return Ok(Some(altered(path, "the change does not fit it")));
            }
        }
        Ok(None)
    }
}

/// Blocks that were unpacked last: small files share one, and come in its order.
pub(super) struct Blocks<'a, R> {
    reader: &'a mut AssignmentReader<R>,
    old: &'a OldFiles<'a>,
    last: Option<(u32, Vec<u8>)>,
}

impl<'a, R: Read + Seek> Blocks<'a, R> {
    /// Of this assignment, against these old files.
    pub(super) fn new(reader: &'a mut AssignmentReader<R>, old: &'a OldFiles<'a>) -> Self {
        Self { reader, old, last: None }
    }

    /// An unpacked block; `path` is the file that it is needed for.
    pub(super) fn get(&mut self, block: u32, path: &ContentPath, index: &mut Index) -> Result<&[u8], ContentError> {
        if self.last.as_ref().is_none_or(|(number, _)| *number != block) {
            // Not both in memory at once.
            self.last = None;
            let stretches = self.reader.blocks().get(block as usize).map_or(Vec::new(), |info| info.reference.clone());
            let reference = if stretches.is_empty() { None } else { Some(self.old.read(block, &stretches)?) };
            let raw = match self.reader.read_block(block, reference.as_deref()) {
                Ok(raw) => raw,
                Err(source) => {
                    // The block's own digest was right, so it may be an old file that does not fit.
                    if matches!(source, AssignmentError::Malformed { .. })
                        && let Some(altered) = self.old.altered(block, &stretches, index)?
                    {
                        return Err(altered);
                    }
                    return Err(ContentError::Block { path: path.clone(), source });
                }
            };
            self.last = Some((block, raw));
        }
        Ok(&self.last.as_ref().expect("it was just put there").1)
    }
}
