//! Old files as references: cut into units, sketched, and read when they are chosen.
//!
//! What is referred to was checked against its digest first: a delta against damaged content would be
//! refused by every server, and only there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::sync::Arc;

use common::assignment::Stretch;
use common::digest::Digest;
use common::path::ContentPath;

use super::build::BuildError;
use super::compare::Changes;
use super::content::{ContentError, ContentSource, file_digest, io_error};
use super::level::Level;
use super::pack::{Wanted, Watch, extension};
use super::similar::{Known, Sampling, Unit};
use super::tree::Tree;

/// Longest unit. Shorter files are units whole.
const UNIT_BYTES_MAX: u64 = 1 << 20;
/// An old version up to this length is the reference of its new version without being sketched where
/// time counts most.
const UNSKETCHED_BYTES_MAX: u64 = 4 << 20;

/// Where time counts most, of so many new bytes the first so many are sketched.
const FAST_WINDOW_BYTES: usize = 64 << 10;
const FAST_SKETCHED_BYTES: usize = 16 << 10;
/// And of so many old bytes, of files longer than the first.
const FAST_OLD_WINDOW_BYTES: usize = 48 << 10;

/// Up to this length a file may have too short a sketch to say whether it helps.
const SILENT_BYTES_MAX: u64 = 8 << 10;

/// The tree that an assignment starts from, and what is different in the one it leads to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Before<'a> {
    pub(super) base: &'a dyn Tree,
    pub(super) changes: &'a Changes,
}

/// A file of the base tree.
#[derive(Debug)]
struct Old {
    path: ContentPath,
    size: u64,
    digest: Digest,
}

/// Those files of the base tree that are looked at. A file's number is its place among all of them.
#[derive(Debug, Default)]
struct Chosen {
    files: BTreeMap<u32, Old>,
    /// Old versions, by path.
    versions: BTreeMap<ContentPath, u32>,
    /// Those to be sketched, in order.
    candidates: Vec<u32>,
}

/// The old files that are of use, by number.
pub(super) struct OldFiles<'a> {
    source: &'a dyn ContentSource,
    chosen: Chosen,
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
    /// Sketches those files of the base that `wanted` contents may come from.
    pub(super) fn sketch(
        before: Option<Before<'_>>,
        wanted: &[Wanted<'_>],
        source: &'a dyn ContentSource,
        level: Level,
        watch: &Watch<'_>,
    ) -> Result<Self, BuildError> {
        let chosen = match before {
            Some(before) => before.choose(wanted, level)?,
            None => Chosen::default(),
        };
        let candidates = chosen.candidates.clone();
        let bytes = candidates.iter().map(|number| chosen.files[number].size).sum();
        let mut old = Self {
            source,
            chosen,
            level,
            sampling: Arc::new(Sampling::for_bytes(bytes)),
            known: Known::default(),
            sound: BTreeSet::new(),
            unusable: BTreeSet::new(),
            unit: Vec::new(),
        };
        for number in candidates {
            watch.check()?;
            old.sketch_file(number, watch)?;
        }
        old.known.finish();
        Ok(old)
    }

    /// The number of the old version of a file.
    pub(super) fn at(&self, path: &ContentPath) -> Option<u32> {
        self.chosen.versions.get(path).copied()
    }

    fn size(&self, number: u32) -> u64 {
        self.chosen.files[&number].size
    }

    /// Whether a new version of this file is to be sketched, too.
    pub(super) fn is_sketched(&self, before: Option<u32>) -> bool {
        before.is_none_or(|before| is_sketched(self.level, self.size(before)))
    }

    fn sketch_file(&mut self, number: u32, watch: &Watch<'_>) -> Result<(), BuildError> {
        let mut units = Vec::new();
        let sampling = Arc::clone(&self.sampling);
        let level = self.level;
        let read = self.read_through(number, watch, |offset, bytes| {
            units.push((offset, bytes.len(), sketch_old(&sampling, level, bytes)));
        })?;
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
        let old = &self.chosen.files[&number];
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
            let size = self.size(*number);
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
                add(&mut stretches, file, self.size(file), offset, length);
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
        let sound = self.sound.contains(&number);
        let whole = offset == 0 && u64::from(length) == self.size(number);
        if !sound && !whole && !self.read_through(number, watch, |_, _| ())? {
            return Ok(false);
        }
        if self.unusable.contains(&number) {
            return Ok(false);
        }
        let begin = into.len();
        let old = &self.chosen.files[&number];
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
        tracing::warn!(path = %self.chosen.files[&number].path, error = %reason, "an old file is no reference");
        self.unusable.insert(number);
        Ok(false)
    }
}

/// The sketch of a unit. Where time counts most it is that of a third of a long one. The windows of old bytes
/// and of new ones are of different lengths, so that wherever bytes have moved to some are in both.
fn sketch_old(sampling: &Sampling, level: Level, bytes: &[u8]) -> Vec<u64> {
    match level {
        Level::Fast if bytes.len() > FAST_WINDOW_BYTES => bytes
            .chunks(FAST_OLD_WINDOW_BYTES)
            .flat_map(|window| sampling.sketch(&window[..window.len().min(FAST_SKETCHED_BYTES)]))
            .collect(),
        Level::Small | Level::Balanced | Level::Fast => sampling.sketch(bytes),
    }
}

/// Whether an old version of this size is sketched.
fn is_sketched(level: Level, size: u64) -> bool {
    level != Level::Fast || size > UNSKETCHED_BYTES_MAX
}

impl Before<'_> {
    /// The files that are worth a look: old versions; when there are files without one, what is gone,
    /// then files of the same kinds, then others, as far as the level allows.
    fn choose(self, wanted: &[Wanted<'_>], level: Level) -> Result<Chosen, ContentError> {
        let Changes { old, new, .. } = self.changes;
        let (mut versions, mut kinds, mut bytes) = (Vec::new(), BTreeSet::new(), 0);
        for wanted in wanted {
            bytes += wanted.size;
            match old.entries.get(wanted.path).and_then(file_digest) {
                Some((size, _)) => versions.push((wanted.path, size)),
                None => {
                    kinds.insert(extension(wanted.path));
                }
            }
        }
        let mut budget = level.search_bytes(bytes);
        let mut fits = |size: u64| {
            let rest = budget.checked_sub(size).filter(|_| size > 0);
            budget = rest.unwrap_or(budget);
            rest.is_some()
        };
        let mut taken: BTreeSet<&ContentPath> = versions.iter().map(|(path, _)| *path).collect();
        let mut gone = Vec::new();
        if !kinds.is_empty() {
            for (path, size, _) in old.files().filter(|(path, ..)| !new.entries.contains_key(path)) {
                if !taken.contains(path) && fits(size) {
                    gone.push(path);
                }
            }
        }
        taken.extend(&gone);

        let (mut files, mut alike, mut others) = (BTreeMap::new(), Vec::new(), Vec::new());
        let classes = if kinds.is_empty() { 1 } else { level.search_classes() };
        let mut numbers = BTreeMap::new();
        if taken.is_empty() && classes == 1 {
            return Ok(Chosen::default());
        }
        self.each_file(|number, file| {
            if let Some(path) = taken.get(&file.path) {
                numbers.insert(*path, number);
                files.insert(number, file);
            } else if classes > 1 && kinds.contains(extension(&file.path)) && fits(file.size) {
                alike.push(number);
                files.insert(number, file);
            }
        })?;
        if classes > 2 {
            self.each_file(|number, file| {
                if !files.contains_key(&number) && fits(file.size) {
                    others.push(number);
                    files.insert(number, file);
                }
            })?;
        }
        let sketched = versions.iter().filter(|(_, size)| is_sketched(level, *size)).map(|(path, _)| *path);
        let known = sketched.chain(gone).filter_map(|path| numbers.get(path).copied());
        let candidates = known.chain(alike).chain(others).collect();
        let versions = versions.iter().filter_map(|(path, _)| Some(((*path).clone(), *numbers.get(path)?))).collect();
        Ok(Chosen { files, versions, candidates })
    }

    /// Tells of all files of the base, with their numbers.
    fn each_file(self, mut each: impl FnMut(u32, Old)) -> Result<(), ContentError> {
        let mut number = 0;
        for entry in self.base.entries()? {
            let (path, entry) = entry?;
            if let Some((size, digest)) = file_digest(&entry) {
                each(number, Old { path, size, digest });
                number += 1;
            }
        }
        Ok(())
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
    old: &Old,
    offset: u64,
    length: u32,
    check: bool,
    into: &mut Vec<u8>,
) -> Result<(), BuildError> {
    let mut file = source.open_content(old.digest)?;
    let begin = into.len();
    into.reserve(length as usize);
    let read = (|| {
        if offset > 0 {
            file.seek(SeekFrom::Start(offset))?;
        }
        (&file).take(u64::from(length)).read_to_end(into)
    })();
    let count = read.map_err(io_error("read", &source.place(old.digest)))?;
    // Whether more follows than there should be makes no difference to what is referred to.
    if count != length as usize || check && Digest::of(&into[begin..]) != old.digest {
        return Err(ContentError::Damaged { digest: old.digest }.into());
    }
    Ok(())
}

fn read_units(
    source: &dyn ContentSource,
    old: &Old,
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
