//! Packed blocks until the file they belong to can be written: its block table precedes them.
//!
//! A few stay in memory; more go to a temporary file that has no name, so that nothing is left of it
//! whatever happens.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::PathBuf;

use common::assignment::BlockInfo;

/// Up to this many bytes stay in memory.
const MEMORY_BYTES_MAX: usize = 4 << 20;

/// Blocks by slot. A slot is given out when a block is planned and filled when it is packed, in any
/// order.
#[derive(Debug)]
pub(super) struct Spool {
    /// Where the file is made.
    path: PathBuf,
    slots: Vec<Option<(BlockInfo, u64)>>,
    memory: Vec<u8>,
    file: Option<File>,
    length: u64,
}

impl Spool {
    /// A spool whose file, if one is needed, is made at `path`.
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, slots: Vec::new(), memory: Vec::new(), file: None, length: 0 }
    }

    /// A slot for a block to come.
    pub(super) fn reserve(&mut self) -> usize {
        self.slots.push(None);
        self.slots.len() - 1
    }

    /// The rows of all slots.
    ///
    /// # Panics
    /// When one was never filled.
    pub(super) fn rows(&self) -> Vec<BlockInfo> {
        (0..self.slots.len()).map(|slot| self.info(slot)).collect()
    }

    /// Keeps a packed block.
    pub(super) fn fill(&mut self, slot: usize, info: BlockInfo, packed: &[u8]) -> io::Result<()> {
        if self.file.is_none() && self.memory.len() + packed.len() > MEMORY_BYTES_MAX {
            let file =
                OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(&self.path)?;
            fs::remove_file(&self.path)?;
            file.write_all_at(&self.memory, 0)?;
            self.memory = Vec::new();
            self.file = Some(file);
        }
        match &self.file {
            Some(file) => file.write_all_at(packed, self.length)?,
            None => self.memory.extend_from_slice(packed),
        }
        self.slots[slot] = Some((info, self.length));
        self.length += packed.len() as u64;
        Ok(())
    }

    /// The row of a filled slot.
    ///
    /// # Panics
    /// When the slot was never filled.
    pub(super) fn info(&self, slot: usize) -> BlockInfo {
        self.slots[slot].clone().expect("blocks are asked for after all were packed").0
    }

    /// Writes the packed bytes of a filled slot.
    pub(super) fn copy(&self, slot: usize, to: &mut dyn Write) -> io::Result<()> {
        let filled = self.slots[slot].as_ref();
        let (info, offset) = filled.expect("blocks are asked for after all were packed");
        let (length, offset) = (info.packed_bytes as usize, *offset);
        match &self.file {
            Some(file) => {
                let mut packed = vec![0; length];
                file.read_exact_at(&mut packed, offset)?;
                to.write_all(&packed)
            }
            None => {
                let begin = usize::try_from(offset).expect("it is in memory");
                to.write_all(&self.memory[begin..begin + length])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use common::assignment::pack;

    #[test]
    fn blocks_come_back_from_memory_and_from_the_file_and_no_name_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::new(dir.path().join("spool"));
        let noise = |seed: u8| -> Vec<u8> {
            let mut bytes = vec![0; 3 << 20];
            blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
            bytes
        };
        let slots: Vec<usize> = (0..3).map(|_| spool.reserve()).collect();
        for seed in [2, 0, 1_u8] {
            let (info, packed) = pack(&noise(seed), None, 1).unwrap();
            spool.fill(slots[usize::from(seed)], info, &packed).unwrap();
        }
        assert!(spool.file.is_some());
        for (seed, slot) in (0..).zip(slots) {
            let mut back = Vec::new();
            spool.copy(slot, &mut back).unwrap();
            assert!(back == noise(seed), "block {seed}");
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
