//! A stretch of the spool file that is kept in memory for restoring blocks.
//!
//! The blocks of a group are spread over the same stretch, and are restored one after the other while more
//! arrives. So what is written meanwhile is put into the stretch as well, instead of reading it all again.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use protocol::session::Geometry;

/// Longest stretch that is kept, in bytes: a group of blocks of symbols of the usual length, and then some.
const BYTES_MAX: usize = 4 << 20;

/// Bytes of the file from an offset.
#[derive(Debug, Default)]
pub(super) struct Stretch {
    start: u64,
    /// How much of `bytes` is of the file; what lies beyond is left of an earlier stretch.
    length: usize,
    bytes: Vec<u8>,
}

impl Stretch {
    /// The stretch holds the block's group, unless that is longer than is kept.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(super) fn cover(&mut self, file: &File, geometry: &Geometry, block: u32) -> io::Result<()> {
        let group = geometry.group_symbols(block);
        let (from, end) = (geometry.offset(group.start), geometry.offset(group.end).min(geometry.length()));
        if from >= self.start && end <= self.start + self.length as u64 {
            return Ok(());
        }
        self.length = 0;
        let Some(length) = usize::try_from(end - from).ok().filter(|length| *length <= BYTES_MAX) else {
            return Ok(());
        };
        if self.bytes.len() < length {
            self.bytes.resize(length, 0);
        }
        file.read_exact_at(&mut self.bytes[..length], from)?;
        (self.start, self.length) = (from, length);
        Ok(())
    }

    /// These bytes are in the file from now on.
    pub(super) fn written(&mut self, offset: u64, bytes: &[u8]) {
        if let Some(place) = self.place(offset, bytes.len()) {
            self.bytes[place].copy_from_slice(bytes);
        }
    }

    /// So many bytes from an offset, if all are here.
    pub(super) fn get(&self, offset: u64, bytes: usize) -> Option<&[u8]> {
        self.place(offset, bytes).map(|place| &self.bytes[place])
    }

    fn place(&self, offset: u64, bytes: usize) -> Option<std::ops::Range<usize>> {
        let from = usize::try_from(offset.checked_sub(self.start)?).ok()?;
        let end = from.checked_add(bytes)?;
        (end <= self.length).then_some(from..end)
    }
}
