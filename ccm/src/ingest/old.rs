//! Old files as references: cut into units, sketched, and read when they are chosen.
//!
//! What is referred to was checked against its digest first: a delta against damaged content would be
//! refused by every server, and only there.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::sync::Arc;

use common::assignment::Stretch;
use common::digest::Digest;
use common::manifest::Manifest;
use common::path::ContentPath;

use super::build::BuildError;
use super::content::{ContentError, ContentSource, io_error};
use super::level::Level;
use super::pack::{Wanted, Watch, extension};
use super::similar::{Known, Sampling, Unit};

/// Longest unit. Shorter files are units whole.
const UNIT_BYTES_MAX: u64 = 1 << 20;
/// An old version up to this length is the reference of its new version without being sketched where
/// time counts most.
const UNSKETCHED_BYTES_MAX: u64 = 4 << 20;

/// Where time counts most, of so many new bytes the first so many are sketched.
const FAST_WINDOW_BYTES: usize = 64 << 10;
const FAST_SKETCHED_BYTES: usize = 16 << 10;

/// Up to this length a file may have too short a sketch to say whether it helps.
const SILENT_BYTES_MAX: u64 = 8 << 10;

/// A file of the base tree.
#[derive(Debug, Clone, Copy)]
pub(super) struct Old<'a> {
    pub(super) path: &'a ContentPath,
    pub(super) size: u64,
    pub(super) digest: Digest,
}

/// The files of the base tree, by number.
pub(super) struct OldFiles<'a> {
    source: &'a dyn ContentSource,
    files: Vec<Old<'a>>,
    level: Level,
    sampling: Arc<Sampling>,
    known: Known,
    /// Known to be what their digests say.
    sound: BTreeSet<u32>,
    /// Missing or damaged.
    unusable: BTreeSet<u32>,
    /// Room for a unit, used again and again.
    unit: Vec<u8>,
}

impl<'a> OldFiles<'a> {
    /// Sketches those files of `base` that `wanted` contents may come from.
    pub(super) fn sketch(
        base: Option<&'a Manifest>,
        result: &Manifest,
        wanted: &[Wanted<'_>],
        source: &'a dyn ContentSource,
        level: Level,
        watch: &Watch<'_>,
    ) -> Result<Self, BuildError> {
        let files: Vec<Old<'a>> = base.map_or(Vec::new(), |base| {
            base.files().map(|(path, size, digest)| Old { path, size, digest: *digest }).collect()
        });
        let mut old = Self {
            source,
            files,
            level,
            sampling: Arc::new(Sampling::for_bytes(0)),
            known: Known::default(),
            sound: BTreeSet::new(),
            unusable: BTreeSet::new(),
            unit: Vec::new(),
        };
        let candidates = old.candidates(result, wanted);
        let bytes = candidates.iter().map(|file| old.files[*file as usize].size).sum();
        old.sampling = Arc::new(Sampling::for_bytes(bytes));
        for file in candidates {
            watch.check()?;
            old.sketch_file(file, watch)?;
        }
        old.known.finish();
        Ok(old)
    }

    /// The number of the file at a path.
    pub(super) fn at(&self, path: &ContentPath) -> Option<u32> {
        let found = self.files.binary_search_by(|old| old.path.cmp(path)).ok()?;
        u32::try_from(found).ok()
    }

    /// Whether a new version of this file is to be sketched, too.
    pub(super) fn is_sketched(&self, before: Option<u32>) -> bool {
        match before {
            Some(before) => self.level != Level::Fast || self.files[before as usize].size > UNSKETCHED_BYTES_MAX,
            None => true,
        }
    }

    /// The files that are worth a look: old versions; when there are files without one, what is gone,
    /// then files of the same kinds, then others, as far as the level allows.
    fn candidates(&self, result: &Manifest, wanted: &[Wanted<'_>]) -> Vec<u32> {
        let (mut chosen, mut taken) = (Vec::new(), BTreeSet::new());
        let mut kinds = BTreeSet::new();
        let mut bytes: u64 = 0;
        for wanted in wanted {
            bytes += wanted.size;
            match self.at(wanted.path) {
                Some(before) => {
                    if taken.insert(before) && self.is_sketched(Some(before)) {
                        chosen.push(before);
                    }
                }
                None => {
                    kinds.insert(extension(wanted.path));
                }
            }
        }
        if kinds.is_empty() {
            return chosen;
        }
        let mut budget = self.level.search_bytes(bytes);
        let is_gone = |old: &Old<'_>| !result.entries.contains_key(old.path);
        let is_same_kind = |old: &Old<'_>| kinds.contains(extension(old.path));
        let is_any = |_: &Old<'_>| true;
        let classes: [&dyn Fn(&Old<'_>) -> bool; 3] = [&is_gone, &is_same_kind, &is_any];
        for class in classes.into_iter().take(self.level.search_classes()) {
            for (number, old) in (0..).zip(&self.files) {
                if taken.contains(&number) || old.size == 0 || !class(old) {
                    continue;
                }
                let Some(rest) = budget.checked_sub(old.size) else { continue };
                budget = rest;
                taken.insert(number);
                chosen.push(number);
            }
        }
        chosen
    }

    fn sketch_file(&mut self, number: u32, watch: &Watch<'_>) -> Result<(), BuildError> {
        let mut units = Vec::new();
        let sampling = Arc::clone(&self.sampling);
        let read = self
            .read_through(number, watch, |offset, bytes| units.push((offset, bytes.len(), sampling.sketch(bytes))))?;
        if read {
            for (offset, length, sketch) in units {
                self.known.add(number, offset, u32::try_from(length).expect("a unit is short"), sketch);
            }
        }
        Ok(())
    }

    /// Reads a whole file, unit by unit, and checks it. `false` when it is no reference.
    fn read_through(
        &mut self,
        number: u32,
        watch: &Watch<'_>,
        mut each: impl FnMut(u64, &[u8]),
    ) -> Result<bool, BuildError> {
        let old = self.files[number as usize];
        if self.unusable.contains(&number) {
            return Ok(false);
        }
        match read_units(self.source, old, watch, &mut self.unit, &mut each) {
            Ok(()) => {
                self.sound.insert(number);
                Ok(true)
            }
            Err(error) => self.give_up(number, error),
        }
    }

    /// The sketch of new bytes. Where time counts most it is that of the beginning of each window: enough
    /// to tell which old units are like them, and those that are like little of them are not worth
    /// reading there.
    pub(super) fn sketch_new(&self, bytes: &[u8]) -> Vec<u64> {
        match self.level {
            Level::Small | Level::Balanced => self.sampling.sketch(bytes),
            Level::Fast => bytes
                .chunks(FAST_WINDOW_BYTES)
                .flat_map(|window| self.sampling.sketch(&window[..window.len().min(FAST_SKETCHED_BYTES)]))
                .collect(),
        }
    }

    /// Whether old bytes are like those of this sketch.
    pub(super) fn knows(&self, sketch: &[u64]) -> bool {
        self.known.knows(sketch)
    }

    /// The old bytes for a block: `before` are the old versions of its files, `sketch` is that of those
    /// of its bytes that are sketched. They are added to `reference`, which is empty.
    pub(super) fn reference(
        &mut self,
        before: &BTreeSet<u32>,
        sketch: Vec<u64>,
        mut reference: Vec<u8>,
        watch: &Watch<'_>,
    ) -> Result<(Vec<Stretch>, Vec<u8>), BuildError> {
        let mut bytes_max = self.level.reference_bytes_max();
        // Files too short for a sketch, or not sketched, say nothing about whether they help.
        let mut parts: BTreeSet<(u32, u64, u32)> = BTreeSet::new();
        for number in before {
            let size = self.files[*number as usize].size;
            let silent = size <= SILENT_BYTES_MAX || !self.is_sketched(Some(*number));
            if silent
                && size > 0
                && let Some(rest) = bytes_max.checked_sub(size)
            {
                bytes_max = rest;
                parts.insert((*number, 0, u32::try_from(size).expect("within the reference")));
            }
        }
        for Unit { file, offset, length, .. } in self.known.choose(sketch, before, bytes_max) {
            parts.insert((file, offset, length));
        }
        let mut stretches = Vec::new();
        for (file, offset, length) in parts {
            if self.read_part(file, offset, length, &mut reference, watch)? {
                add(&mut stretches, file, self.files[file as usize].size, offset, length);
            }
        }
        Ok((stretches, reference))
    }

    fn read_part(
        &mut self,
        number: u32,
        offset: u64,
        length: u32,
        into: &mut Vec<u8>,
        watch: &Watch<'_>,
    ) -> Result<bool, BuildError> {
        let old = self.files[number as usize];
        let sound = self.sound.contains(&number);
        let whole = offset == 0 && u64::from(length) == old.size;
        if !sound && !whole && !self.read_through(number, watch, |_, _| ())? {
            return Ok(false);
        }
        if self.unusable.contains(&number) {
            return Ok(false);
        }
        let begin = into.len();
        match read_stretch(self.source, old, offset, length, !sound && whole, into) {
            Ok(()) => {
                self.sound.insert(number);
                Ok(true)
            }
            Err(error) => {
                into.truncate(begin);
                self.give_up(number, error)
            }
        }
    }

    /// Takes a file for no reference, if that is all that is wrong.
    fn give_up(&mut self, number: u32, error: BuildError) -> Result<bool, BuildError> {
        let BuildError::Content(reason @ (ContentError::Missing { .. } | ContentError::Damaged { .. })) = error else {
            return Err(error);
        };
        tracing::warn!(path = %self.files[number as usize].path, error = %reason, "an old file is no reference");
        self.unusable.insert(number);
        Ok(false)
    }
}

/// Adds a part to what a block refers to, next to the part before it if it follows on.
fn add(stretches: &mut Vec<Stretch>, number: u32, size: u64, offset: u64, length: u32) {
    let whole = offset == 0 && u64::from(length) == size;
    match stretches.last_mut() {
        Some(Stretch::Files { first, count }) if whole && *first + *count == number => *count += 1,
        Some(Stretch::Part { file, offset: begin, length: before })
            if *file == number && *begin + u64::from(*before) == offset =>
        {
            *before += length;
        }
        Some(_) | None if whole => stretches.push(Stretch::Files { first: number, count: 1 }),
        Some(_) | None => stretches.push(Stretch::Part { file: number, offset, length }),
    }
}

/// Adds a part of a file to what was read before. Checks the part against the file's digest if it is all
/// of it.
fn read_stretch(
    source: &dyn ContentSource,
    old: Old<'_>,
    offset: u64,
    length: u32,
    check: bool,
    into: &mut Vec<u8>,
) -> Result<(), BuildError> {
    let mut file = source.open_content(old.digest)?;
    let begin = into.len();
    // One byte more tells whether there is more than there should be.
    let read = (|| {
        file.seek(SeekFrom::Start(offset))?;
        (&file).take(u64::from(length) + u64::from(check)).read_to_end(into)
    })();
    let count = read.map_err(io_error("read", &source.place(old.digest)))?;
    if count != length as usize || check && Digest::of(&into[begin..]) != old.digest {
        return Err(ContentError::Damaged { digest: old.digest }.into());
    }
    Ok(())
}

fn read_units(
    source: &dyn ContentSource,
    old: Old<'_>,
    watch: &Watch<'_>,
    unit: &mut Vec<u8>,
    each: &mut dyn FnMut(u64, &[u8]),
) -> Result<(), BuildError> {
    let file: File = source.open_content(old.digest)?;
    let damaged = || BuildError::from(ContentError::Damaged { digest: old.digest });
    let mut hasher = blake3::Hasher::new();
    let mut offset = 0;
    while offset < old.size {
        watch.check()?;
        unit.clear();
        let length = (old.size - offset).min(UNIT_BYTES_MAX);
        (&file).take(length).read_to_end(unit).map_err(io_error("read", &source.place(old.digest)))?;
        if unit.len() as u64 != length {
            return Err(damaged());
        }
        hasher.update(unit);
        each(offset, unit);
        offset += length;
    }
    let longer = (&file).take(1).read_to_end(unit).map_err(io_error("read", &source.place(old.digest)))? > 0;
    if longer || Digest::from(hasher.finalize()) != old.digest { Err(damaged()) } else { Ok(()) }
}
