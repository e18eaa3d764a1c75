//! Data blocks: how bytes are packed. Every block is checked by digest before it is unpacked, and
//! unpacks to exactly its declared length or is refused.

use std::io::Write as _;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// Largest unpacked block, in bytes: what a server must hold in memory to apply one.
pub const BLOCK_RAW_BYTES_MAX: u32 = 64 << 20;

/// Longest reference of a block, in bytes: it is held in memory beside the block.
pub const REFERENCE_BYTES_MAX: u32 = 64 << 20;

/// How a block is packed. Grows at the end only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Codec {
    /// As it is.
    Stored,
    /// One zstd frame.
    Zstd,
    /// One zstd frame that refers to old bytes.
    ZstdPrefix,
}

/// Old bytes that a block refers to: files of the base tree by number, counting regular files only, in path
/// order from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stretch {
    /// Whole files that follow each other.
    Files {
        /// Number of the first.
        first: u32,
        /// How many.
        count: u32,
    },
    /// A part of one file.
    Part {
        /// Its number.
        file: u32,
        /// First byte.
        offset: u64,
        /// Number of bytes.
        length: u32,
    },
}

/// A row of the block table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockInfo {
    /// How it is packed.
    pub codec: Codec,
    /// Length in the file, in bytes.
    pub packed_bytes: u32,
    /// Length unpacked, in bytes, at most [`BLOCK_RAW_BYTES_MAX`].
    pub raw_bytes: u32,
    /// Digest of the packed bytes.
    pub digest: Digest,
    /// What it refers to, laid end to end, at most [`REFERENCE_BYTES_MAX`] bytes. Empty but for
    /// [`Codec::ZstdPrefix`].
    pub reference: Vec<Stretch>,
}

/// A window that holds both a reference and a block of the largest size.
const WINDOW_LOG_MAX: u32 = 27;

/// Packs bytes, with old bytes as reference if there are any. Falls back to storing them when packing
/// gains nothing and there is no reference. The row does not say yet where the reference is from.
///
/// # Errors
/// Only when the compressor cannot get memory.
///
/// # Panics
/// When `raw` is longer than [`BLOCK_RAW_BYTES_MAX`] or `reference` than [`REFERENCE_BYTES_MAX`]: the
/// builder cuts before it packs.
pub fn pack(raw: &[u8], reference: Option<&[u8]>, level: i32) -> std::io::Result<(BlockInfo, Vec<u8>)> {
    assert!(raw.len() <= BLOCK_RAW_BYTES_MAX as usize, "a block is cut before it is packed");
    let (codec, packed) = match reference {
        Some(reference) => {
            assert!(reference.len() <= REFERENCE_BYTES_MAX as usize, "a reference is cut before it is used");
            let mut encoder = zstd::stream::write::Encoder::with_ref_prefix(Vec::new(), level, reference)?;
            encoder
                .window_log((raw.len() + reference.len()).max(1024).next_power_of_two().ilog2().min(WINDOW_LOG_MAX))?;
            encoder.long_distance_matching(raw.len() + reference.len() > 4 << 20)?;
            encoder.include_contentsize(true)?;
            encoder.write_all(raw)?;
            (Codec::ZstdPrefix, encoder.finish()?)
        }
        None => {
            let packed = zstd::bulk::compress(raw, level)?;
            if packed.len() < raw.len() { (Codec::Zstd, packed) } else { (Codec::Stored, raw.to_vec()) }
        }
    };
    Ok((BlockInfo::of(codec, &packed, raw.len()), packed))
}

impl BlockInfo {
    /// The row of a packed block of `raw_bytes`, without a reference.
    ///
    /// # Panics
    /// When either is longer than 4 GiB.
    #[must_use]
    pub fn of(codec: Codec, packed: &[u8], raw_bytes: usize) -> Self {
        Self {
            codec,
            packed_bytes: u32::try_from(packed.len()).expect("a block is short"),
            raw_bytes: u32::try_from(raw_bytes).expect("a block is short"),
            digest: Digest::of(packed),
            reference: Vec::new(),
        }
    }
}

/// Unpacks a block whose digest was checked. `None` when it does not unpack to exactly its declared
/// length, or a reference is given where none belongs (or the other way round).
#[must_use]
pub fn unpack(info: &BlockInfo, packed: Vec<u8>, reference: Option<&[u8]>) -> Option<Vec<u8>> {
    let raw_bytes = info.raw_bytes as usize;
    if info.raw_bytes > BLOCK_RAW_BYTES_MAX || packed.len() != info.packed_bytes as usize {
        return None;
    }
    let raw = match (info.codec, reference) {
        (Codec::Stored, None) => packed,
        (Codec::Zstd, None) => zstd::bulk::decompress(&packed, raw_bytes).ok()?,
        (Codec::ZstdPrefix, Some(reference)) => {
            let mut context = zstd::zstd_safe::DCtx::create();
            context.ref_prefix(reference).ok()?;
            // At once and to its place: no window is needed beside it, and more than declared has no room.
            let mut raw = Vec::with_capacity(raw_bytes);
            context.decompress(&mut raw, &packed).ok()?;
            raw
        }
        (Codec::Stored | Codec::Zstd, Some(_)) | (Codec::ZstdPrefix, None) => return None,
    };
    (raw.len() == raw_bytes).then_some(raw)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_survive_packing_and_a_reference_makes_an_edit_small() {
        let old: Vec<u8> = (0..200_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        let mut new = old.clone();
        new[400_000] ^= 1;
        let (info, packed) = pack(&new, Some(&old), 3).expect("packs");
        assert!(packed.len() < 2000, "{} bytes for one flipped bit", packed.len());
        assert_eq!(unpack(&info, packed.clone(), Some(&old)), Some(new.clone()));
        assert_eq!(unpack(&info, packed, None), None);

        let (info, packed) = pack(&new, None, 3).expect("packs");
        assert_eq!(info.codec, Codec::Stored, "noise is not packed");
        assert_eq!(unpack(&info, packed, None), Some(new));
    }

    #[test]
    fn a_block_that_unpacks_to_another_length_is_refused() {
        let (info, packed) = pack(&[7; 10_000], None, 3).expect("packs");
        for raw_bytes in [0, 9_999, 10_001, u32::MAX] {
            assert_eq!(unpack(&BlockInfo { raw_bytes, ..info.clone() }, packed.clone(), None), None);
        }
    }
}
