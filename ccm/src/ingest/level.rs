//! How much work is put into making an assignment small.

use std::io;
use std::str::FromStr;

use common::assignment::{BlockInfo, Codec};
use zstd::zstd_safe::{self, CCtx, CParameter};

/// How much work is put into making an assignment small.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Level {
    /// The fewest bytes.
    Small,
    /// Few bytes, soon. The default.
    #[default]
    Balanced,
    /// For huge changes: as fast as disks and networks.
    Fast,
}

/// A level that there is not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the level is small, balanced or fast, not {found:?}")]
pub struct LevelError {
    found: String,
}

impl FromStr for Level {
    type Err = LevelError;

    fn from_str(text: &str) -> Result<Self, LevelError> {
        match text {
            "small" => Ok(Self::Small),
            "balanced" => Ok(Self::Balanced),
            "fast" => Ok(Self::Fast),
            _ => Err(LevelError { found: text.to_owned() }),
        }
    }
}

/// Up to this length, old and new bytes together, the best packing takes no time worth saving.
const BEST_BYTES_MAX: usize = 256 << 10;
/// Longest stretch that zstd encodes as one, one byte short of the length from which it looks for places to
/// cut it in smaller ones. Bytes that repeat old bytes are few numbers however they look, and every cut costs
/// more than these.
const UNCUT_BYTES: u32 = (128 << 10) - 1;
/// Smallest and largest window of zstd that is used; the largest holds the longest block and reference.
const WINDOW_LOG_MIN: u32 = 10;
const WINDOW_LOG_MAX: u32 = 27;

/// Longest block where few bytes count.
const BLOCK_BYTES_MAX: usize = 16 << 20;
/// Less is not divided among threads: each block has to find for itself what others have found.
const BLOCK_PART_BYTES_MIN: usize = 4 << 20;

impl Level {
    /// Longest block, unpacked, when so many bytes are to be packed by so many threads.
    pub(super) fn block_bytes_max(self, bytes: u64, threads: usize) -> usize {
        let part = usize::try_from(bytes).unwrap_or(usize::MAX).div_ceil(threads.max(1));
        match self {
            Self::Small => BLOCK_BYTES_MAX,
            // One long block and a short one would be packed by one thread.
            Self::Balanced => part.clamp(BLOCK_PART_BYTES_MIN, BLOCK_BYTES_MAX),
            Self::Fast => 4 << 20,
        }
    }

    /// Longest reference of a block: its old version and half as much again from elsewhere.
    pub(super) fn reference_bytes_max(self) -> u64 {
        match self {
            Self::Small | Self::Balanced => 28 << 20,
            Self::Fast => 7 << 20,
        }
    }

    /// Old bytes that are looked at to find what `bytes` of changed files come from, beyond their old
    /// versions.
    pub(super) fn search_bytes(self, bytes: u64) -> u64 {
        match self {
            Self::Small => 16 * bytes + (256 << 20),
            Self::Balanced => 4 * bytes + (64 << 20),
            Self::Fast => 2 * bytes + (16 << 20),
        }
    }

    /// How many kinds of old files are looked at: what is gone, of the same kind, any.
    pub(super) fn search_classes(self) -> usize {
        match self {
            Self::Small => 3,
            Self::Balanced => 2,
            Self::Fast => 1,
        }
    }

    /// Packs a block into `packed`, whatever was in it. An empty reference is none; of a block that gains
    /// nothing it is not used, and the block is to be stored as it is. What the reference consists of is not
    /// in the row yet.
    pub(super) fn pack(self, raw: &[u8], reference: &[u8], packed: &mut Vec<u8>) -> io::Result<BlockInfo> {
        let both = raw.len() + reference.len();
        let window_log = both.next_power_of_two().ilog2().clamp(WINDOW_LOG_MIN, WINDOW_LOG_MAX);
        let best = both <= BEST_BYTES_MAX;
        let mut parameters = vec![
            CParameter::WindowLog(window_log),
            CParameter::ContentSizeFlag(true),
            // Whatever the length: in text with many repetitions the ordinary search gives up before it has
            // gone back as far as what the bytes were made from.
            CParameter::EnableLongDistanceMatching(true),
        ];
        match self {
            Self::Small | Self::Balanced if best => parameters.push(CParameter::CompressionLevel(19)),
            // The search of many candidates for each position gains little where the old version is at
            // hand, and takes most of the time.
            Self::Small => parameters.extend([CParameter::CompressionLevel(19), CParameter::SearchLog(3)]),
            // The nearest match is better than the longest, as long as that is not very long.
            Self::Balanced => parameters.extend([CParameter::CompressionLevel(12), CParameter::LdmMinMatch(512)]),
            Self::Fast => parameters.extend([
                CParameter::CompressionLevel(1),
                // What is not in the old bytes is looked for nearby only: the table stays in the cache.
                CParameter::HashLog(15),
                CParameter::LdmMinMatch(64),
            ]),
        }
        let failed = |code| io::Error::other(zstd_safe::get_error_name(code));
        let mut context = CCtx::create();
        for parameter in parameters {
            context.set_parameter(parameter).map_err(failed)?;
        }
        if !reference.is_empty() {
            context.set_parameter(CParameter::MaxBlockSize(UNCUT_BYTES)).map_err(failed)?;
            context.ref_prefix(reference).map_err(failed)?;
        }
        packed.clear();
        packed.reserve(zstd_safe::compress_bound(raw.len()));
        context.compress2(packed, raw).map_err(failed)?;
        if packed.len() >= raw.len() {
            return Ok(BlockInfo::of(Codec::Stored, raw, raw.len()));
        }
        let codec = if reference.is_empty() { Codec::Zstd } else { Codec::ZstdPrefix };
        Ok(BlockInfo::of(codec, packed, raw.len()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Text and noise by turns, which looks as if it were worth cutting.
    fn mixture() -> Vec<u8> {
        let mut noise = vec![0; 4 << 20];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        for text in noise.chunks_mut(20_000).step_by(2) {
            text.iter_mut().for_each(|byte| *byte = b'a' + *byte % 7);
        }
        noise
    }

    #[test]
    fn a_few_edits_in_megabytes_cost_hundreds_of_bytes_at_every_level() {
        let old = mixture();
        let mut new = old.clone();
        new.iter_mut().skip(100_000).step_by(400_000).for_each(|byte| *byte ^= 1);
        for level in [Level::Small, Level::Balanced, Level::Fast] {
            let mut packed = Vec::new();
            let info = level.pack(&new, &old, &mut packed).unwrap();
            assert!(packed.len() < 600, "{level:?}: {} bytes", packed.len());
            assert!(common::assignment::unpack(&info, packed, Some(&old)) == Some(new.clone()), "{level:?}");
        }
    }

    #[test]
    fn what_gains_nothing_is_stored_and_refers_to_nothing() {
        let mut noise = vec![0; 10_000];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        for level in [Level::Small, Level::Balanced, Level::Fast] {
            for reference in [&b""[..], &[7; 5000]] {
                let info = level.pack(&noise, reference, &mut Vec::new()).unwrap();
                assert_eq!((info.codec, info.packed_bytes as usize), (Codec::Stored, noise.len()), "{level:?}");
            }
        }
    }
}
