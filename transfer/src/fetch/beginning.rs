//! What is here already of an object that is fetched: a session brought it before it ended.

use std::fs::File;
use std::io;
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

    /// What these bytes of an object lack.
    pub(super) fn gaps(&self, bytes: &Range<u64>) -> Vec<Range<u64>> {
        let first = self.ranges.partition_point(|range| range.end <= bytes.start);
        let mut gaps = Vec::new();
        let mut from = bytes.start;
        for range in self.ranges[first..].iter().take_while(|range| range.start < bytes.end) {
            if from < range.start {
                gaps.push(from..range.start);
            }
            from = from.max(range.end);
        }
        if from < bytes.end {
            gaps.push(from..bytes.end);
        }
        gaps
    }

    /// Fills a buffer with the file's bytes from an offset; what the file lacks is zero.
    pub(super) fn read(&self, file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let mut filled = 0;
        while filled < buffer.len() {
            match file.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
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
    fn what_is_lacking_lies_between_what_is_held() {
        let beginning = Beginning { path: PathBuf::new(), ranges: vec![10..20, 20..25, 40..50] };
        let gaps = |bytes: Range<u64>| -> Vec<(u64, u64)> {
            beginning.gaps(&bytes).into_iter().map(|gap| (gap.start, gap.end)).collect()
        };
        assert_eq!(gaps(0..60), [(0, 10), (25, 40), (50, 60)]);
        assert_eq!(gaps(12..45), [(25, 40)]);
        assert_eq!(gaps(15..24), []);
        assert_eq!(gaps(26..30), [(26, 30)]);
        assert_eq!(gaps(60..70), [(60, 70)]);
    }

    #[test]
    fn only_chunks_that_are_held_whole_count() {
        let beginning = Beginning { path: PathBuf::new(), ranges: vec![0..100, 150..400] };
        let covers = |bytes: Range<u64>| beginning.covers(&bytes, 390);
        assert!(covers(0..100) && covers(40..60) && covers(150..390) && covers(200..300));
        assert!(!covers(50..101) && !covers(100..150) && !covers(140..160) && !covers(60..200));
        assert!(!covers(300..391), "beyond the object's end");
    }
}
