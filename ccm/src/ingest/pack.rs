//! Turning file contents into blocks, with the old bytes that they were made from as references.
//!
//! Files of the same kind are laid end to end, in path order, and cut into blocks; each block is
//! packed against what it comes from ([`super::old`]). One thread reads, checks digests and chooses;
//! a small crew packs.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Mutex, MutexGuard, PoisonError};

use common::assignment::{BlockInfo, Codec, Extent, Stretch};
use common::digest::Digest;
use common::path::ContentPath;

use super::Progress;
use super::build::BuildError;
use super::content::{ContentError, ContentSource, io_error};
use super::level::Level;
use super::old::{Before, OldFiles};
use super::spool::Spool;

/// Largest stretch of a file that is read at once.
const PIECE_BYTES_MAX: usize = 1 << 20;
/// Less than this is packed at once, without threads.
const ALONE_BYTES_MAX: u64 = 256 << 10;
/// Number of packing threads. A third, the caller's, reads. The memory of a build is what these hold.
const CREW: usize = 2;

/// Extensions of files that are packed already.
const PACKED_EXTENSIONS: [&str; 40] = [
    "7z", "aac", "apk", "avif", "br", "bz2", "docx", "epub", "flac", "gif", "gz", "heic", "jar", "jpeg", "jpg", "jxl",
    "lz4", "m4a", "m4v", "mkv", "mov", "mp3", "mp4", "odt", "ogg", "opus", "png", "pptx", "rar", "svgz", "tgz", "txz",
    "webm", "webp", "woff", "woff2", "xlsx", "xz", "zip", "zst",
];

/// A content that the assignment has to bring.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) digest: Digest,
    pub(super) size: u64,
    /// The file it is written to, or the first of them.
    pub(super) path: &'a ContentPath,
}

/// Tells of progress and hears of cancellation.
pub(super) struct Watch<'a> {
    pub(super) progress: &'a dyn Fn(Progress),
    pub(super) cancel: &'a AtomicBool,
    pub(super) state: Progress,
}

impl Watch<'_> {
    fn bytes(&mut self, count: usize) -> Result<(), BuildError> {
        self.state.bytes_done += count as u64;
        (self.progress)(self.state);
        self.check()
    }

    pub(super) fn check(&self) -> Result<(), BuildError> {
        if self.cancel.load(Ordering::Relaxed) { Err(BuildError::Cancelled) } else { Ok(()) }
    }
}

/// Packs the contents into the spool, whose slots are the blocks' numbers. Gives where each content
/// is.
pub(super) fn pack_contents(
    mut wanted: Vec<Wanted<'_>>,
    before: Option<Before<'_>>,
    source: &dyn ContentSource,
    level: Level,
    spool: &Mutex<Spool>,
    watch: &mut Watch<'_>,
) -> Result<BTreeMap<Digest, Vec<Extent>>, BuildError> {
    let total: u64 = wanted.iter().map(|wanted| wanted.size).sum();
    watch.state = Progress { files_total: wanted.len() as u64, bytes_total: total, ..Progress::default() };
    (watch.progress)(watch.state);
    if wanted.is_empty() {
        return Ok(BTreeMap::new());
    }
    let old = OldFiles::sketch(before, &wanted, source, level, watch)?;
    wanted.sort_by_cached_key(|wanted| {
        let path = wanted.path;
        (is_packed_already(path), extension(path), path)
    });
    let threads = if total <= ALONE_BYTES_MAX { 0 } else { CREW };
    let crew = Crew { spool, level, threads, room: Room::default() };
    let mut extents = BTreeMap::new();
    crew.work(|submit| {
        let (open, packed) = (Open::default(), Open::default());
        let block_bytes_max = level.block_bytes_max(total, threads);
        let mut line = Line { block_bytes_max, old, spool, submit, room: &crew.room, open, packed, piece: Vec::new() };
        for wanted in &wanted {
            extents.insert(wanted.digest, line.file(wanted, source, watch)?);
            watch.state.files_done += 1;
        }
        line.finish(watch)
    })?;
    (watch.progress)(watch.state);
    Ok(extents)
}

/// A block that is being filled.
#[derive(Default)]
struct Open {
    slot: Option<u32>,
    raw: Vec<u8>,
    sketch: Vec<u64>,
    /// Old versions of the files in it.
    before: BTreeSet<u32>,
}

/// Lays files end to end and cuts blocks.
struct Line<'a, 'b> {
    block_bytes_max: usize,
    old: OldFiles<'a>,
    spool: &'a Mutex<Spool>,
    submit: &'b mut Submit<'b>,
    /// For what may be packed.
    open: Open,
    /// For what is packed already, and like nothing old: it is stored.
    packed: Open,
    /// Room for a piece of a file, used again and again.
    piece: Vec<u8>,
    room: &'b Room,
}

impl Line<'_, '_> {
    fn file(
        &mut self,
        wanted: &Wanted<'_>,
        source: &dyn ContentSource,
        watch: &mut Watch<'_>,
    ) -> Result<Vec<Extent>, BuildError> {
        let before = self.old.at(wanted.path);
        let packed_already = is_packed_already(wanted.path);
        let sketched = packed_already || self.old.is_sketched(before);
        let mut extents: Vec<Extent> = Vec::new();
        let mut piece = std::mem::take(&mut self.piece);
        let read = read_pieces(wanted, source, watch, &mut piece, |raw, watch| {
            let sketch = if sketched { self.old.sketch_new(raw) } else { Vec::new() };
            let store = packed_already && !self.old.knows(&sketch);
            let open = if store { &mut self.packed } else { &mut self.open };
            if open.raw.len() + raw.len() > self.block_bytes_max {
                let full = std::mem::take(open);
                close(full, store, &mut self.old, self.room, self.submit, watch)?;
            }
            let open = if store { &mut self.packed } else { &mut self.open };
            let slot = match open.slot {
                Some(slot) => slot,
                None => {
                    open.raw = self.room.take();
                    let slot = lock(self.spool).reserve();
                    *open.slot.insert(u32::try_from(slot).map_err(|_| BuildError::too_many_blocks(slot))?)
                }
            };
            let offset = u32::try_from(open.raw.len()).expect("within a block");
            let length = u32::try_from(raw.len()).expect("within a block");
            match extents.last_mut() {
                Some(last) if last.block == slot && last.offset + last.length == offset => last.length += length,
                Some(_) | None => extents.push(Extent { block: slot, offset, length }),
            }
            open.raw.extend_from_slice(raw);
            open.sketch.extend(sketch);
            open.before.extend(before);
            Ok(())
        });
        self.piece = piece;
        read.map(|()| extents)
    }

    fn finish(mut self, watch: &Watch<'_>) -> Result<(), BuildError> {
        close(self.open, false, &mut self.old, self.room, self.submit, watch)?;
        close(self.packed, true, &mut self.old, self.room, self.submit, watch)
    }
}

/// Hands a block on to be packed, with its reference.
fn close(
    full: Open,
    store: bool,
    old: &mut OldFiles<'_>,
    room: &Room,
    submit: &mut Submit<'_>,
    watch: &Watch<'_>,
) -> Result<(), BuildError> {
    let Some(slot) = full.slot else { return Ok(()) };
    let (stretches, reference) =
        if store { (Vec::new(), Vec::new()) } else { old.reference(&full.before, full.sketch, room.take(), watch)? };
    submit(Job { slot: slot as usize, raw: full.raw, stretches, reference, store })
}

/// Reads a content in pieces and checks it as a whole.
fn read_pieces(
    wanted: &Wanted<'_>,
    source: &dyn ContentSource,
    watch: &mut Watch<'_>,
    piece: &mut Vec<u8>,
    mut each: impl FnMut(&[u8], &Watch<'_>) -> Result<(), BuildError>,
) -> Result<(), BuildError> {
    let digest = wanted.digest;
    let damaged = || BuildError::from(ContentError::Damaged { digest });
    let file = source.open_content(digest)?;
    let mut hasher = blake3::Hasher::new();
    let mut offset = 0;
    while offset < wanted.size {
        let length = (wanted.size - offset).min(PIECE_BYTES_MAX as u64);
        piece.clear();
        piece.reserve(usize::try_from(length).expect("a piece is short"));
        (&file).take(length).read_to_end(piece).map_err(io_error("read", &source.place(digest)))?;
        if piece.len() as u64 != length {
            return Err(damaged());
        }
        hasher.update(piece);
        watch.bytes(piece.len())?;
        // What is known to be wrong goes no further; of a longer file the last piece tells.
        if offset + length == wanted.size && Digest::from(hasher.finalize()) != digest {
            return Err(damaged());
        }
        each(piece, watch)?;
        offset += length;
    }
    Ok(())
}

/// What follows the last dot of a file's name.
pub(super) fn extension(path: &ContentPath) -> &str {
    path.file_name().rsplit_once('.').map_or("", |(_, extension)| extension)
}

fn is_packed_already(path: &ContentPath) -> bool {
    let extension = extension(path);
    PACKED_EXTENSIONS.iter().any(|packed| packed.eq_ignore_ascii_case(extension))
}

/// A block to be packed.
struct Job {
    slot: usize,
    raw: Vec<u8>,
    stretches: Vec<Stretch>,
    reference: Vec<u8>,
    /// Keep it as it is: it is packed already.
    store: bool,
}

type Submit<'a> = dyn FnMut(Job) -> Result<(), BuildError> + 'a;

/// Memory of blocks that were packed, for those to come: given back to the system and asked for again it
/// would have to be cleared each time.
#[derive(Default)]
struct Room {
    idle: Mutex<Vec<Vec<u8>>>,
}

impl Room {
    /// An empty buffer.
    fn take(&self) -> Vec<u8> {
        lock(&self.idle).pop().unwrap_or_default()
    }

    fn give_back(&self, mut buffer: Vec<u8>) {
        if buffer.capacity() > 0 {
            buffer.clear();
            lock(&self.idle).push(buffer);
        }
    }
}

/// Those who pack.
struct Crew<'a> {
    spool: &'a Mutex<Spool>,
    level: Level,
    threads: usize,
    room: Room,
}

impl Crew<'_> {
    /// Packs all that `produce` submits. Only as many blocks are in memory as there are threads, and
    /// the one that is read.
    fn work(&self, produce: impl FnOnce(&mut Submit<'_>) -> Result<(), BuildError>) -> Result<(), BuildError> {
        if self.threads == 0 {
            return produce(&mut |job| self.pack(job));
        }
        let failure = Mutex::new(None);
        let (send, receive) = sync_channel::<Job>(0);
        let receive = Mutex::new(receive);
        let produced = std::thread::scope(|scope| {
            for _ in 0..self.threads {
                scope.spawn(|| {
                    loop {
                        let job = lock(&receive).recv();
                        let Ok(job) = job else { return };
                        if let Err(error) = self.pack(job) {
                            lock(&failure).get_or_insert(error);
                        }
                    }
                });
            }
            let produced = produce(&mut |job| match lock(&failure).take() {
                Some(error) => Err(error),
                None => {
                    send.send(job).expect("the receiver outlives the sender");
                    Ok(())
                }
            });
            drop(send);
            produced
        });
        produced?;
        failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    fn pack(&self, job: Job) -> Result<(), BuildError> {
        let Job { slot, raw, stretches, reference, store } = job;
        let mut buffer = self.room.take();
        let (info, packed) = if store {
            (BlockInfo::of(Codec::Stored, &raw, raw.len()), &raw)
        } else {
            let info = self.level.pack(&raw, &reference, &mut buffer).map_err(|source| BuildError::Pack { source })?;
            let packed = if info.codec == Codec::Stored { &raw } else { &buffer };
            let reference = if info.codec == Codec::ZstdPrefix { stretches } else { Vec::new() };
            (BlockInfo { reference, ..info }, packed)
        };
        lock(self.spool).fill(slot, info, packed).map_err(|source| BuildError::Spool { source })?;
        [raw, reference, buffer].into_iter().for_each(|buffer| self.room.give_back(buffer));
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic of another thread is passed on when the scope ends; until then it disturbs nothing.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
