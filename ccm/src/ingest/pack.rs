//! Turning file contents into blocks: the cheaper of a delta against an old file and the data.
//!
//! Contents are read in bounded pieces by one thread, which also checks their digests, and packed by
//! a small crew. Deltas come first; what a delta does not clearly win is packed as it is and
//! compared; small files that remain are packed together, similar ones side by side.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use common::assignment::{BlockInfo, Codec, Content, DeltaWindow, Extent, pack};
use common::digest::Digest;
use common::path::ContentPath;

use super::Progress;
use super::build::BuildError;
use super::content::{ContentError, ContentStore, io_error};
use super::kinship::Old;
use super::spool::Spool;

/// Largest stretch of a file in one block.
const PIECE_BYTES_MAX: usize = 8 << 20;
/// Longest reference of one window: the stretch of equal length and what may have shifted around it.
const REFERENCE_BYTES_MAX: u64 = 16 << 20;
/// Largest group of small files in one block; files up to this length are small. A server unpacks a
/// whole block to get at one file.
const GROUP_BYTES_MAX: u64 = 1 << 20;
/// A file below this length is shorter than what a delta costs besides its bytes.
const DELTA_SIZE_MIN: u64 = 128;
/// A delta is taken without comparison when it is this many times smaller than the file: text seldom
/// packs better than that.
const CLEARLY_SMALLER: u64 = 8;
/// What a row of the block table and a window take, at most, in bytes.
const WINDOW_COST: u64 = 64;
/// Up to this much is worth the best packing; beyond it time counts.
const SMALL_TOTAL_BYTES: u64 = 8 << 20;
const LEVEL_SMALL: i32 = 9;
const LEVEL_LARGE: i32 = 5;
/// Smallest window that zstd knows.
const WINDOW_LOG_MIN: u32 = 10;
/// Less than this is packed at once, without threads.
const ALONE_BYTES_MAX: u64 = 256 << 10;
/// Number of packing threads. A third, the caller's, reads.
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
    /// The old file it was probably made from.
    pub(super) ancestor: Option<Old<'a>>,
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

/// Packs the contents into the spool. In the answer, block numbers are the spool's slots; slots that
/// no content names are to be left out.
pub(super) fn pack_contents(
    wanted: &[Wanted<'_>],
    store: &ContentStore,
    spool: &Mutex<Spool>,
    watch: &mut Watch<'_>,
) -> Result<BTreeMap<Digest, Content>, BuildError> {
    let total: u64 = wanted.iter().map(|wanted| wanted.size).sum();
    watch.state = Progress { files_total: wanted.len() as u64, bytes_total: total, ..Progress::default() };
    (watch.progress)(watch.state);
    let crew = Crew {
        spool,
        level: if total < SMALL_TOTAL_BYTES { LEVEL_SMALL } else { LEVEL_LARGE },
        threads: if total <= ALONE_BYTES_MAX { 0 } else { CREW },
    };

    let mut deltas = BTreeMap::new();
    crew.work(|submit| {
        for wanted in wanted.iter().filter(|wanted| wanted.size >= DELTA_SIZE_MIN) {
            if let Some(windows) = submit_delta(wanted, store, spool, submit, watch)? {
                deltas.insert(wanted.digest, windows);
            }
        }
        Ok(())
    })?;

    let mut contents = BTreeMap::new();
    let mut compared = Vec::new();
    let mut small = Vec::new();
    crew.work(|submit| {
        for wanted in wanted {
            let delta = deltas.remove(&wanted.digest).zip(wanted.ancestor).map(|(windows, old)| Delta {
                bytes: cost(spool, windows.iter().map(|window| window.block)) + old.path.as_str().len() as u64,
                content: Content::Delta { base: old.path.clone(), windows },
            });
            match delta {
                Some(delta) if delta.bytes * CLEARLY_SMALLER <= wanted.size => {
                    contents.insert(wanted.digest, delta.content);
                }
                Some(delta) => {
                    watch.state.bytes_total += wanted.size;
                    compared.push((wanted, delta, submit_data(wanted, store, spool, submit, watch)?));
                }
                None if wanted.size > GROUP_BYTES_MAX => {
                    let extents = submit_data(wanted, store, spool, submit, watch)?;
                    contents.insert(wanted.digest, Content::Blocks(extents));
                }
                None => small.push(wanted),
            }
        }
        Ok(())
    })?;
    for (wanted, delta, extents) in compared {
        if delta.bytes <= cost(spool, extents.iter().map(|extent| extent.block)) {
            contents.insert(wanted.digest, delta.content);
        } else if wanted.size > GROUP_BYTES_MAX {
            contents.insert(wanted.digest, Content::Blocks(extents));
        } else {
            watch.state.bytes_total += wanted.size;
            small.push(wanted);
        }
    }

    crew.work(|submit| submit_groups(&mut small, store, spool, submit, watch, &mut contents))?;
    watch.state.files_done = watch.state.files_total;
    (watch.progress)(watch.state);
    Ok(contents)
}

struct Delta {
    content: Content,
    bytes: u64,
}

/// What these blocks take in the file.
fn cost(spool: &Mutex<Spool>, slots: impl Iterator<Item = u32>) -> u64 {
    let spool = lock(spool);
    slots.map(|slot| u64::from(spool.info(slot as usize).packed_bytes) + WINDOW_COST).sum()
}

/// Has a file packed by its differences from its ancestor. `None` if it has no ancestor whose content
/// is at hand and sound.
fn submit_delta(
    wanted: &Wanted<'_>,
    store: &ContentStore,
    spool: &Mutex<Spool>,
    submit: &mut Submit<'_>,
    watch: &mut Watch<'_>,
) -> Result<Option<Vec<DeltaWindow>>, BuildError> {
    let Some(old) = wanted.ancestor else { return Ok(None) };
    let reference = match Reference::open(old, store, watch) {
        Ok(reference) => reference,
        Err(BuildError::Content(error @ (ContentError::Missing { .. } | ContentError::Damaged { .. }))) => {
            tracing::warn!(path = %old.path, %error, "no delta can be made from an old file");
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let mut windows = Vec::new();
    read_pieces(wanted, store, watch, |offset, raw| {
        let (base_offset, reference) = reference.stretch_for(offset, &raw, wanted.size)?;
        let slot = lock(spool).reserve();
        windows.push(DeltaWindow {
            block: u32::try_from(slot).map_err(|_| BuildError::too_many_blocks(slot))?,
            base_offset,
            base_length: u32::try_from(reference.len()).expect("cut to the longest reference"),
        });
        submit(Job { slot, raw, reference: Some(reference), store: false })
    })?;
    Ok(Some(windows))
}

/// Has a file packed in blocks of its own.
fn submit_data(
    wanted: &Wanted<'_>,
    store: &ContentStore,
    spool: &Mutex<Spool>,
    submit: &mut Submit<'_>,
    watch: &mut Watch<'_>,
) -> Result<Vec<Extent>, BuildError> {
    let mut extents = Vec::new();
    let packed_already = is_packed_already(wanted.path);
    read_pieces(wanted, store, watch, |_, raw| {
        let slot = lock(spool).reserve();
        extents.push(extent(slot, 0, raw.len())?);
        submit(Job { slot, raw, reference: None, store: packed_already })
    })?;
    Ok(extents)
}

/// Has small files packed together: of the same kind, and by path within it.
fn submit_groups(
    small: &mut [&Wanted<'_>],
    store: &ContentStore,
    spool: &Mutex<Spool>,
    submit: &mut Submit<'_>,
    watch: &mut Watch<'_>,
    contents: &mut BTreeMap<Digest, Content>,
) -> Result<(), BuildError> {
    small.sort_by_key(|wanted| (is_packed_already(wanted.path), extension(wanted.path), wanted.path));
    let mut rest = &*small;
    while let Some(first) = rest.first() {
        let store_it = is_packed_already(first.path);
        let mut bytes = 0;
        let fits = |wanted: &&&Wanted<'_>| {
            bytes += wanted.size;
            bytes <= GROUP_BYTES_MAX && is_packed_already(wanted.path) == store_it
        };
        let count = rest.iter().take_while(fits).count().max(1);
        let (group, others) = rest.split_at(count);
        rest = others;

        let slot = lock(spool).reserve();
        let mut raw = Vec::new();
        for wanted in group {
            let begin = raw.len();
            read_pieces(wanted, store, watch, |_, piece| {
                raw.extend_from_slice(&piece);
                Ok(())
            })?;
            contents.insert(wanted.digest, Content::Blocks(vec![extent(slot, begin, raw.len() - begin)?]));
        }
        submit(Job { slot, raw, reference: None, store: store_it })?;
    }
    Ok(())
}

fn extent(slot: usize, offset: usize, length: usize) -> Result<Extent, BuildError> {
    Ok(Extent {
        block: u32::try_from(slot).map_err(|_| BuildError::too_many_blocks(slot))?,
        offset: u32::try_from(offset).expect("within a block"),
        length: u32::try_from(length).expect("within a block"),
    })
}

/// Reads a content in pieces, each with its offset, and checks it as a whole.
fn read_pieces(
    wanted: &Wanted<'_>,
    store: &ContentStore,
    watch: &mut Watch<'_>,
    mut each: impl FnMut(u64, Vec<u8>) -> Result<(), BuildError>,
) -> Result<(), BuildError> {
    let digest = wanted.digest;
    let damaged = || BuildError::from(ContentError::Damaged { digest });
    let file = store.open_content(digest)?;
    let mut hasher = blake3::Hasher::new();
    let mut offset = 0;
    while offset < wanted.size {
        let length = (wanted.size - offset).min(PIECE_BYTES_MAX as u64);
        let mut raw = Vec::with_capacity(usize::try_from(length).expect("a piece is short"));
        (&file).take(length).read_to_end(&mut raw).map_err(io_error("read", &store.content_path(digest)))?;
        if raw.len() as u64 != length {
            return Err(damaged());
        }
        hasher.update(&raw);
        watch.bytes(raw.len())?;
        // What is known to be wrong goes no further; of a longer file the last piece tells.
        if offset + length == wanted.size && Digest::from(hasher.finalize()) != digest {
            return Err(damaged());
        }
        each(offset, raw)?;
        offset += length;
    }
    Ok(())
}

/// An old file that windows refer to.
struct Reference {
    file: File,
    size: u64,
    error_path: std::path::PathBuf,
    /// All of it, if it is short enough to be the reference of every window.
    whole: Option<Arc<Vec<u8>>>,
}

impl Reference {
    /// Opens an old file and checks it: a delta against damaged content would be refused by every
    /// server, and only there.
    fn open(old: Old<'_>, store: &ContentStore, watch: &Watch<'_>) -> Result<Self, BuildError> {
        let file = store.open_content(old.digest)?;
        let error_path = store.content_path(old.digest);
        let mut hasher = blake3::Hasher::new();
        let mut whole = (old.size <= REFERENCE_BYTES_MAX).then(Vec::new);
        let mut buffer = vec![0; usize::try_from(old.size.clamp(1, 1 << 20)).expect("clamped")];
        let mut length = 0;
        loop {
            let count = match (&file).read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(io_error("read", &error_path)(error).into()),
            };
            hasher.update(&buffer[..count]);
            length += count as u64;
            if length > old.size {
                break;
            }
            if let Some(whole) = &mut whole {
                whole.extend_from_slice(&buffer[..count]);
            }
            watch.check()?;
        }
        if length != old.size || Digest::from(hasher.finalize()) != old.digest {
            return Err(ContentError::Damaged { digest: old.digest }.into());
        }
        Ok(Self { file, size: old.size, error_path, whole: whole.map(Arc::new) })
    }

    /// The stretch of the old file for the piece at `offset` of a new one of `new_size` bytes: around
    /// the same distance from the beginning, or from the end if more of the piece is found there.
    fn stretch_for(&self, offset: u64, raw: &[u8], new_size: u64) -> Result<(u64, Arc<Vec<u8>>), BuildError> {
        if let Some(whole) = &self.whole {
            return Ok((0, Arc::clone(whole)));
        }
        // How much later the old bytes stand when the ends are laid over each other.
        let shift = i128::from(self.size) - i128::from(new_size);
        let shift = if self.agreement(offset, shift, raw) > self.agreement(offset, 0, raw) { shift } else { 0 };
        let margin = (REFERENCE_BYTES_MAX - PIECE_BYTES_MAX as u64) / 2;
        let aligned = i128::from(offset) + shift - i128::from(margin);
        let start =
            u64::try_from(aligned.max(0)).expect("below the length of a file").min(self.size - REFERENCE_BYTES_MAX);
        let mut stretch = vec![0; usize::try_from(REFERENCE_BYTES_MAX).expect("a constant")];
        self.file.read_exact_at(&mut stretch, start).map_err(io_error("read", &self.error_path))?;
        Ok((start, Arc::new(stretch)))
    }

    /// How many of a few samples of `raw`, a piece at `offset`, stand `shift` bytes later in the old
    /// file.
    fn agreement(&self, offset: u64, shift: i128, raw: &[u8]) -> usize {
        const SAMPLES: usize = 16;
        let mut found = [0; 32];
        (0..SAMPLES)
            .filter(|sample| {
                let at = raw.len() / SAMPLES * sample;
                let Some(sample) = raw.get(at..at + found.len()) else { return false };
                let Ok(there) = u64::try_from(i128::from(offset) + at as i128 + shift) else { return false };
                self.file.read_exact_at(&mut found, there).is_ok() && found == sample
            })
            .count()
    }
}

fn extension(path: &ContentPath) -> &str {
    path.file_name().rsplit_once('.').map_or("", |(_, extension)| extension)
}

fn is_packed_already(path: &ContentPath) -> bool {
    PACKED_EXTENSIONS.iter().any(|packed| packed.eq_ignore_ascii_case(extension(path)))
}

/// A block to be packed.
struct Job {
    slot: usize,
    raw: Vec<u8>,
    reference: Option<Arc<Vec<u8>>>,
    /// Keep it as it is: it is packed already.
    store: bool,
}

type Submit<'a> = dyn FnMut(Job) -> Result<(), BuildError> + 'a;

/// Those who pack.
struct Crew<'a> {
    spool: &'a Mutex<Spool>,
    level: i32,
    threads: usize,
}

impl Crew<'_> {
    /// Packs all that `produce` submits. Only as many blocks are in memory as there are threads, one
    /// that waits and one that is read.
    fn work(&self, produce: impl FnOnce(&mut Submit<'_>) -> Result<(), BuildError>) -> Result<(), BuildError> {
        if self.threads == 0 {
            return produce(&mut |job| self.pack(job));
        }
        let failure = Mutex::new(None);
        let (send, receive) = sync_channel::<Job>(1);
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
        let (info, packed) = if job.store {
            let bytes = u32::try_from(job.raw.len()).expect("a piece is short");
            let digest = Digest::of(&job.raw);
            (BlockInfo { codec: Codec::Stored, packed_bytes: bytes, raw_bytes: bytes, digest }, job.raw)
        } else {
            match &job.reference {
                Some(reference) => pack_against(&job.raw, reference, self.level),
                None => pack(&job.raw, None, self.level),
            }
            .map_err(|source| BuildError::Pack { source })?
        };
        lock(self.spool).fill(job.slot, info, &packed).map_err(|source| BuildError::Spool { source })
    }
}

/// Packs a block of codec [`Codec::ZstdPrefix`], with long-distance matching whatever the length: in
/// text with many repetitions the ordinary search gives up before it has gone back as far as the
/// stretch that a piece was made from.
fn pack_against(raw: &[u8], reference: &[u8], level: i32) -> io::Result<(BlockInfo, Vec<u8>)> {
    let both = raw.len() + reference.len();
    let mut encoder = zstd::stream::write::Encoder::with_ref_prefix(Vec::new(), level, reference)?;
    encoder.window_log(both.next_power_of_two().ilog2().max(WINDOW_LOG_MIN))?;
    encoder.long_distance_matching(true)?;
    encoder.set_pledged_src_size(Some(raw.len() as u64))?;
    encoder.include_contentsize(true)?;
    encoder.write_all(raw)?;
    let packed = encoder.finish()?;
    let info = BlockInfo {
        codec: Codec::ZstdPrefix,
        packed_bytes: u32::try_from(packed.len()).map_err(|_| io::ErrorKind::FileTooLarge)?,
        raw_bytes: u32::try_from(raw.len()).expect("a piece is short"),
        digest: Digest::of(&packed),
    };
    Ok((info, packed))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic of another thread is passed on when the scope ends; until then it disturbs nothing.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
