//! The chunk table: how each aligned stretch of an object is checked on its own.
//!
//! An object is named by its BLAKE3 digest. BLAKE3 is a tree, so the values of its inner nodes over
//! aligned power-of-two stretches ("chunks") can be listed, and merging the list gives the digest
//! again. The table therefore needs no signature: it is believed exactly when its root is the
//! object's digest. A chunk that agrees with its value is safe to store and to pass on before the
//! rest of the object has arrived.
//!
//! An object of at most one chunk has no inner node to list. Its table is empty and the object
//! digest itself is the check.
//!
//! Leaves to others: where chunks lie (`store`), how they travel (`server`, `fetch`).

use std::io::{self, Read};
use std::ops::Range;

use blake3::hazmat::{self, HasherExt, Mode};
use common::digest::Digest;

/// Smallest chunk in bytes. Below it the table would weigh more than it saves.
pub const CHUNK_BYTES_MIN: u32 = 64 << 10;
/// Largest chunk in bytes. A receiver holds one whole chunk in memory.
pub const CHUNK_BYTES_MAX: u32 = 16 << 20;
/// Most chunks of one object: 1 TiB in chunks of [`CHUNK_BYTES_MAX`].
pub const CHUNKS_MAX: u64 = 1 << 16;
/// Longest packed table in bytes.
pub const TABLE_BYTES_MAX: usize = HEADER_BYTES + 32 * CHUNKS_MAX as usize;

const MAGIC: [u8; 5] = *b"PRCT\x01";
const HEADER_BYTES: usize = MAGIC.len() + 4 + 8;
/// How much of an object is read at a time while it is hashed, in bytes.
const READ_BYTES: usize = 256 << 10;

/// The chunk size for an object of this length, in bytes.
///
/// Small chunks spread and repair sooner, large ones keep the table below 1 MiB up to 512 GiB.
#[must_use]
pub const fn chunk_bytes_for(length: u64) -> u32 {
    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;
    if length <= 64 * MIB {
        64 << 10
    } else if length <= 16 * GIB {
        1 << 20
    } else if length <= 128 * GIB {
        4 << 20
    } else {
        CHUNK_BYTES_MAX
    }
}

/// Why a chunk table cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// Not a power of two between [`CHUNK_BYTES_MIN`] and [`CHUNK_BYTES_MAX`].
    #[error("{chunk_bytes} bytes is no chunk size")]
    ChunkBytes {
        /// As given.
        chunk_bytes: u32,
    },
    /// More than [`CHUNKS_MAX`] chunks.
    #[error("an object of {length} bytes has too many chunks of {chunk_bytes} bytes")]
    TooManyChunks {
        /// Length of the object in bytes.
        length: u64,
        /// Chunk size in bytes.
        chunk_bytes: u32,
    },
    /// The packed form has another version, or is too short or too long for what it says.
    #[error("a packed chunk table of {bytes} bytes is malformed")]
    Malformed {
        /// Length of the packed form.
        bytes: usize,
    },
    /// The table describes another length or chunk size than was announced.
    #[error(
        "the chunk table is for {length} bytes in chunks of {chunk_bytes}, announced were {expected_length} in {expected_chunk_bytes}"
    )]
    Geometry {
        /// What the table says, in bytes.
        length: u64,
        /// What the table says, in bytes.
        chunk_bytes: u32,
        /// What was announced, in bytes.
        expected_length: u64,
        /// What was announced, in bytes.
        expected_chunk_bytes: u32,
    },
    /// The values do not merge into the object's digest.
    #[error("the chunk table has the root {actual}, the object is {expected}")]
    Root {
        /// The object's digest.
        expected: Digest,
        /// What the values merge into.
        actual: Digest,
    },
}

/// The values of an object's chunks. Holds: the values merge into [`ChunkTable::root`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkTable {
    length: u64,
    chunk_bytes: u32,
    /// One per chunk; none for an object of at most one chunk.
    values: Vec<[u8; 32]>,
    root: Digest,
}

fn check_geometry(length: u64, chunk_bytes: u32) -> Result<u64, TableError> {
    if !chunk_bytes.is_power_of_two() || !(CHUNK_BYTES_MIN..=CHUNK_BYTES_MAX).contains(&chunk_bytes) {
        return Err(TableError::ChunkBytes { chunk_bytes });
    }
    let chunks = length.div_ceil(u64::from(chunk_bytes));
    if chunks > CHUNKS_MAX {
        return Err(TableError::TooManyChunks { length, chunk_bytes });
    }
    Ok(chunks)
}

/// The value of the chunk that starts at `offset`. `bytes` must not be empty.
fn value_of(offset: u64, bytes: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(offset);
    hasher.update(bytes);
    hasher.finalize_non_root()
}

/// How many of `count` leaves hang on the left: the largest power of two below `count`.
fn left_count(count: usize) -> usize {
    1 << (count - 1).ilog2()
}

fn merge(values: &[[u8; 32]]) -> [u8; 32] {
    if let [value] = values {
        return *value;
    }
    let (left, right) = values.split_at(left_count(values.len()));
    hazmat::merge_subtrees_non_root(&merge(left), &merge(right), Mode::Hash)
}

/// Root of at least two values.
fn merge_root(values: &[[u8; 32]]) -> Digest {
    let (left, right) = values.split_at(left_count(values.len()));
    hazmat::merge_subtrees_root(&merge(left), &merge(right), Mode::Hash).into()
}

impl ChunkTable {
    /// Reads an object and makes its table. Blocks; holds a small buffer whatever the chunk size.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] around a [`TableError`] for an impossible geometry,
    /// [`io::ErrorKind::UnexpectedEof`] when the reader ends before `length`; else what it says.
    pub fn of(mut reader: impl Read, length: u64, chunk_bytes: u32) -> io::Result<Self> {
        let invalid = |error| io::Error::new(io::ErrorKind::InvalidInput, error);
        let chunks = check_geometry(length, chunk_bytes).map_err(invalid)?;
        let single = chunks <= 1;
        let mut values = Vec::new();
        let mut buffer = vec![0; usize::try_from(length).map_or(READ_BYTES, |length| length.min(READ_BYTES))];
        let mut offset = 0;
        let mut root = Digest::of(&[]);
        while offset < length {
            let end = length.min(offset + u64::from(chunk_bytes));
            let mut hasher = blake3::Hasher::new();
            if !single {
                hasher.set_input_offset(offset);
            }
            while offset < end {
                let step = usize::try_from(end - offset).map_or(READ_BYTES, |left| left.min(READ_BYTES));
                reader.read_exact(&mut buffer[..step])?;
                hasher.update(&buffer[..step]);
                offset += step as u64;
            }
            if single {
                root = hasher.finalize().into();
            } else {
                values.push(hasher.finalize_non_root());
            }
        }
        if !single {
            root = merge_root(&values);
        }
        Ok(Self { length, chunk_bytes, values, root })
    }

    /// The empty table of an object of at most one chunk.
    ///
    /// # Errors
    /// [`TableError::ChunkBytes`] for an impossible chunk size, [`TableError::Malformed`] when the
    /// object has more than one chunk, [`TableError::Root`] when it is said to be empty under
    /// another digest than that of no bytes: no chunk would ever show it.
    pub fn single(digest: Digest, length: u64, chunk_bytes: u32) -> Result<Self, TableError> {
        if check_geometry(length, chunk_bytes)? > 1 {
            return Err(TableError::Malformed { bytes: 0 });
        }
        let nothing = Digest::of(&[]);
        if length == 0 && digest != nothing {
            return Err(TableError::Root { expected: digest, actual: nothing });
        }
        Ok(Self { length, chunk_bytes, values: Vec::new(), root: digest })
    }

    /// The object's digest.
    #[must_use]
    pub fn root(&self) -> Digest {
        self.root
    }

    /// Length of the object in bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Chunk size in bytes. The last chunk may be shorter.
    #[must_use]
    pub fn chunk_bytes(&self) -> u32 {
        self.chunk_bytes
    }

    /// Number of chunks; none for the empty object.
    #[must_use]
    pub fn chunks(&self) -> u32 {
        u32::try_from(self.length.div_ceil(u64::from(self.chunk_bytes))).expect("the constructors bound the chunks")
    }

    /// The bytes of a chunk within the object; `None` when there is no such chunk.
    #[must_use]
    pub fn range(&self, index: u32) -> Option<Range<u64>> {
        let start = u64::from(index) * u64::from(self.chunk_bytes);
        (start < self.length).then(|| start..self.length.min(start + u64::from(self.chunk_bytes)))
    }

    /// Whether these bytes, all of them and no more, are that chunk.
    #[must_use]
    pub fn verify_chunk(&self, index: u32, bytes: &[u8]) -> bool {
        let Some(range) = self.range(index) else { return false };
        if bytes.len() as u64 != range.end - range.start {
            return false;
        }
        match self.values.get(index as usize) {
            Some(value) => value_of(range.start, bytes) == *value,
            None => Digest::of(bytes) == self.root,
        }
    }

    /// The packed form: magic and version, chunk size (`u32`), length (`u64`), then the values; all
    /// numbers little-endian.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + 32 * self.values.len());
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&self.chunk_bytes.to_le_bytes());
        bytes.extend_from_slice(&self.length.to_le_bytes());
        bytes.extend(self.values.iter().flatten());
        bytes
    }

    /// Reads a packed table and holds it against the object it is for.
    ///
    /// An empty table is taken as it is: the object digest checks its only chunk.
    ///
    /// # Errors
    /// [`TableError`] when it is malformed, out of bounds, or its root is not `digest`.
    pub fn from_bytes(bytes: &[u8], digest: Digest) -> Result<Self, TableError> {
        let malformed = || TableError::Malformed { bytes: bytes.len() };
        let rest = bytes.strip_prefix(&MAGIC).ok_or_else(malformed)?;
        let (chunk_bytes, rest) = rest.split_first_chunk().ok_or_else(malformed)?;
        let (length, rest) = rest.split_first_chunk().ok_or_else(malformed)?;
        let (chunk_bytes, length) = (u32::from_le_bytes(*chunk_bytes), u64::from_le_bytes(*length));
        let chunks = check_geometry(length, chunk_bytes)?;
        let (values, trailing) = rest.as_chunks::<32>();
        let expected = if chunks <= 1 { 0 } else { chunks };
        if !trailing.is_empty() || values.len() as u64 != expected {
            return Err(malformed());
        }
        if values.is_empty() {
            return Self::single(digest, length, chunk_bytes);
        }
        let actual = merge_root(values);
        if actual != digest {
            return Err(TableError::Root { expected: digest, actual });
        }
        Ok(Self { length, chunk_bytes, values: values.to_vec(), root: digest })
    }

    /// Whether the table is for this length and chunk size.
    ///
    /// # Errors
    /// [`TableError::Geometry`] when it is not.
    pub fn check_announced(&self, expected_length: u64, expected_chunk_bytes: u32) -> Result<(), TableError> {
        if (self.length, self.chunk_bytes) == (expected_length, expected_chunk_bytes) {
            return Ok(());
        }
        Err(TableError::Geometry {
            length: self.length,
            chunk_bytes: self.chunk_bytes,
            expected_length,
            expected_chunk_bytes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CHUNK: u64 = CHUNK_BYTES_MIN as u64;

    fn content(length: u64) -> Vec<u8> {
        (0..length).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u8).collect()
    }

    fn table(bytes: &[u8]) -> ChunkTable {
        ChunkTable::of(bytes, bytes.len() as u64, CHUNK_BYTES_MIN).unwrap()
    }

    #[test]
    fn the_root_is_the_digest_of_the_whole_at_every_edge() {
        for chunks in 0..10 {
            for around in [-1, 0, 1] {
                let Some(length) = (chunks * CHUNK).checked_add_signed(around) else { continue };
                let bytes = content(length);
                let table = table(&bytes);
                assert_eq!(table.root(), Digest::of(&bytes), "{length} bytes");
                assert_eq!(u64::from(table.chunks()), length.div_ceil(CHUNK));
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn any_table_merges_into_the_digest_and_verifies_only_its_own_chunks(
            length in 0..12 * CHUNK, size in 0..3_u32, flip in any::<prop::sample::Index>(),
        ) {
            let mut bytes = content(length);
            let chunk_bytes = CHUNK_BYTES_MIN << size;
            let table = ChunkTable::of(&bytes[..], length, chunk_bytes).unwrap();
            prop_assert_eq!(table.root(), Digest::of(&bytes));
            prop_assert_eq!(ChunkTable::from_bytes(&table.to_bytes(), table.root()), Ok(table.clone()));
            if length > 0 {
                let at = flip.index(bytes.len());
                bytes[at] ^= 1;
                for index in 0..table.chunks() {
                    let range = table.range(index).unwrap();
                    let hit = range.contains(&(at as u64));
                    let chunk = &bytes[range.start as usize..range.end as usize];
                    prop_assert_eq!(table.verify_chunk(index, chunk), !hit);
                    prop_assert!(!table.verify_chunk(index, &chunk[1..]));
                }
            }
        }

        #[test]
        fn damaged_packed_tables_are_refused(at in any::<prop::sample::Index>(), bit in 0..8_u8) {
            let bytes = content(3 * CHUNK + 5);
            let whole = table(&bytes);
            let mut packed = whole.to_bytes();
            let at = at.index(packed.len());
            packed[at] ^= 1 << bit;
            // The length may change within the last chunk: the announced length catches that.
            let read = ChunkTable::from_bytes(&packed, whole.root());
            prop_assert!(read.and_then(|t| t.check_announced(whole.length(), whole.chunk_bytes())).is_err());
            prop_assert!(ChunkTable::from_bytes(&packed[..at], whole.root()).is_err());
        }
    }

    #[test]
    fn chunks_swapped_with_each_other_do_not_verify() {
        let bytes = content(2 * CHUNK);
        let table = table(&bytes);
        assert!(table.verify_chunk(0, &bytes[..CHUNK as usize]));
        assert!(!table.verify_chunk(1, &bytes[..CHUNK as usize]));
        assert!(!table.verify_chunk(2, &[]));
    }

    #[test]
    fn equal_chunks_at_different_places_have_different_values() {
        let bytes = vec![7; 2 * CHUNK as usize];
        let table = table(&bytes);
        assert_ne!(table.values[0], table.values[1]);
    }

    #[test]
    fn impossible_geometries_are_refused() {
        for chunk_bytes in [0, 1, CHUNK_BYTES_MIN / 2, CHUNK_BYTES_MIN + 1, CHUNK_BYTES_MAX * 2] {
            assert!(ChunkTable::of(&[][..], 0, chunk_bytes).is_err(), "{chunk_bytes}");
        }
        let too_long = CHUNKS_MAX * CHUNK + 1;
        assert!(matches!(check_geometry(too_long, CHUNK_BYTES_MIN), Err(TableError::TooManyChunks { .. })));
        assert!(check_geometry(too_long - 1, CHUNK_BYTES_MIN).is_ok());
    }

    #[test]
    fn chunk_sizes_step_at_their_bounds() {
        let at = |length: u64| (chunk_bytes_for(length), chunk_bytes_for(length + 1));
        assert_eq!(at(64 << 20), (64 << 10, 1 << 20));
        assert_eq!(at(16 << 30), (1 << 20, 4 << 20));
        assert_eq!(at(128 << 30), (4 << 20, 16 << 20));
    }

    #[test]
    fn a_reader_that_ends_early_is_an_error() {
        let error = ChunkTable::of(&[0; 10][..], 11, CHUNK_BYTES_MIN).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn nothing_passes_for_empty_but_the_digest_of_no_bytes() {
        assert!(ChunkTable::single(Digest::of(&[]), 0, CHUNK_BYTES_MIN).is_ok());
        let other = ChunkTable::single(Digest::of(b"x"), 0, CHUNK_BYTES_MIN);
        assert!(matches!(other, Err(TableError::Root { .. })));
    }
}
