//! What is here already of an object that is fetched: a session brought it before it ended.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use crate::store::{Assembler, StoreError};

/// Bytes of an object that are in a file already, each where it belongs. They need not be right: chunks are
/// verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beginning {
    /// The file.
    pub path: PathBuf,
    /// Where it holds something, ascending. May go beyond the object's end.
    pub ranges: Vec<Range<u64>>,
}

impl Beginning {
    /// Whether it holds all of these bytes.
    fn covers(&self, bytes: &Range<u64>, length: u64) -> bool {
        let at = self.ranges.partition_point(|range| range.end.min(length) < bytes.end);
        self.ranges.get(at).is_some_and(|range| range.start <= bytes.start)
    }

    /// Takes over the chunks that it holds whole and that are right. What cannot be read is fetched.
    pub(super) fn take_over(&self, assembler: &Assembler, length: u64) -> Result<(), StoreError> {
        let Ok(file) = File::open(&self.path) else { return Ok(()) };
        let mut buffer = Vec::new();
        for chunk in assembler.missing() {
            let Some(range) = assembler.table().range(chunk).filter(|range| self.covers(range, length)) else {
                continue;
            };
            let Ok(bytes) = usize::try_from(range.end - range.start) else { continue };
            buffer.resize(bytes, 0);
            if file.read_exact_at(&mut buffer, range.start).is_ok() {
                assembler.write_chunk(chunk, &buffer)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_chunks_that_are_held_whole_count() {
        let beginning = Beginning { path: PathBuf::new(), ranges: vec![0..100, 150..400] };
        let covers = |bytes: Range<u64>| beginning.covers(&bytes, 390);
        assert!(covers(0..100) && covers(40..60) && covers(150..390) && covers(200..300));
        assert!(!covers(50..101) && !covers(100..150) && !covers(140..160) && !covers(60..200));
        assert!(!covers(300..391), "beyond the object's end");
    }
}
