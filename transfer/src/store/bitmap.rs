//! Which chunks of an unfinished object are verified, and its form on disk.
//!
//! On disk: magic and version, object digest, length (`u64`), chunk size (`u32`), the bits (chunk
//! `i` is bit `i % 8` of byte `i / 8`), then BLAKE3 of all before it. Numbers are little-endian. A
//! file that does not check is worth nothing, and the object begins anew.

use common::digest::Digest;

use crate::chunk::ChunkTable;

const MAGIC: [u8; 5] = *b"PRBM\x01";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Bitmap {
    bits: Vec<u8>,
    chunks: u32,
    set: u32,
}

fn head(table: &ChunkTable) -> Vec<u8> {
    let mut head = MAGIC.to_vec();
    head.extend_from_slice(&table.root().0);
    head.extend_from_slice(&table.length().to_le_bytes());
    head.extend_from_slice(&table.chunk_bytes().to_le_bytes());
    head
}

impl Bitmap {
    pub(super) fn empty(chunks: u32) -> Self {
        Self { bits: vec![0; chunks.div_ceil(8) as usize], chunks, set: 0 }
    }

    pub(super) fn has(&self, index: u32) -> bool {
        index < self.chunks && self.bits[index as usize / 8] & (1 << (index % 8)) != 0
    }

    pub(super) fn set(&mut self, index: u32) {
        if index < self.chunks && !self.has(index) {
            self.bits[index as usize / 8] |= 1 << (index % 8);
            self.set += 1;
        }
    }

    pub(super) fn clear(&mut self, index: u32) {
        if self.has(index) {
            self.bits[index as usize / 8] &= !(1 << (index % 8));
            self.set -= 1;
        }
    }

    pub(super) fn missing(&self) -> u32 {
        self.chunks - self.set
    }

    pub(crate) fn to_bytes(&self, table: &ChunkTable) -> Vec<u8> {
        let mut bytes = head(table);
        bytes.extend_from_slice(&self.bits);
        let check = Digest::of(&bytes);
        bytes.extend_from_slice(&check.0);
        bytes
    }

    /// `None` when it is damaged or about another object or geometry.
    pub(crate) fn from_bytes(bytes: &[u8], table: &ChunkTable) -> Option<Self> {
        let (body, check) = bytes.split_last_chunk::<32>()?;
        if Digest::of(body).0 != *check {
            return None;
        }
        let bits = body.strip_prefix(head(table).as_slice())?.to_vec();
        let chunks = table.chunks();
        if bits.len() != chunks.div_ceil(8) as usize {
            return None;
        }
        let set = bits.iter().map(|byte| byte.count_ones()).sum();
        let beyond = (chunks..chunks.next_multiple_of(8)).any(|i| bits[i as usize / 8] & (1 << (i % 8)) != 0);
        (!beyond).then_some(Self { bits, chunks, set })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::CHUNK_BYTES_MIN;

    #[test]
    fn a_bitmap_reads_back_and_every_damage_is_seen() {
        let content = vec![1; 9 * CHUNK_BYTES_MIN as usize + 1];
        let table = ChunkTable::of(&content[..], content.len() as u64, CHUNK_BYTES_MIN).unwrap();
        let mut bitmap = Bitmap::empty(table.chunks());
        bitmap.set(0);
        bitmap.set(9);
        bitmap.set(10);
        assert_eq!(bitmap.missing(), 8);
        let bytes = bitmap.to_bytes(&table);
        assert_eq!(Bitmap::from_bytes(&bytes, &table), Some(bitmap));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 4;
            assert_eq!(Bitmap::from_bytes(&damaged, &table), None, "byte {at}");
            assert_eq!(Bitmap::from_bytes(&bytes[..at], &table), None, "cut at {at}");
        }
    }
}
