//! Parity symbols of blocks that cannot be restored yet.
//!
//! Most are wanted within milliseconds: the last ones are kept in memory, and what is older goes to a file
//! without a name, as sparse as what was lost. It goes when the session does, and memory does not grow with losses.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use protocol::session::Geometry;

/// What is kept in memory of a session, in bytes: the parity of eight blocks of symbols of the usual length of
/// which a seventh was lost.
const RECENT_BYTES_MAX: usize = 384 << 10;

/// How many more than twice those in memory may stand in their order.
const ORDER_SLACK: usize = 64;

/// A block, and which of its parity symbols.
type Place = (u32, u8);

/// The parity that a session has brought and that was not used up.
#[derive(Debug)]
pub(super) struct Parity {
    directory: PathBuf,
    recent: BTreeMap<Place, Vec<u8>>,
    /// Those in memory, the oldest first; some may be used up.
    order: VecDeque<Place>,
    recent_bytes: usize,
    file: Option<File>,
}

impl Parity {
    /// None yet; the file will be made in this directory.
    pub(super) fn new(directory: &Path) -> Self {
        let directory = directory.to_owned();
        Self { directory, recent: BTreeMap::new(), order: VecDeque::new(), recent_bytes: 0, file: None }
    }

    /// Keeps a symbol.
    ///
    /// # Errors
    /// When an older one cannot be written to the file.
    pub(super) fn keep(&mut self, geometry: &Geometry, place: Place, payload: &[u8]) -> io::Result<()> {
        self.recent_bytes += payload.len();
        self.order.push_back(place);
        if let Some(old) = self.recent.insert(place, payload.to_vec()) {
            self.recent_bytes -= old.len();
        }
        while self.recent_bytes > RECENT_BYTES_MAX {
            let Some(oldest) = self.order.pop_front() else { break };
            let Some(symbol) = self.recent.remove(&oldest) else { continue };
            self.recent_bytes -= symbol.len();
            self.file()?.write_all_at(&symbol, offset(geometry, oldest))?;
        }
        Ok(())
    }

    /// Reads a symbol that was kept.
    ///
    /// # Errors
    /// When it cannot be read, or was never kept.
    pub(super) fn read(&self, geometry: &Geometry, place: Place, symbol: &mut [u8]) -> io::Result<()> {
        match (self.recent.get(&place), &self.file) {
            (Some(kept), _) if kept.len() == symbol.len() => symbol.copy_from_slice(kept),
            (Some(_), _) => return Err(io::ErrorKind::UnexpectedEof.into()),
            (None, Some(file)) => file.read_exact_at(symbol, offset(geometry, place))?,
            (None, None) => return Err(io::ErrorKind::NotFound.into()),
        }
        Ok(())
    }

    /// The block is whole: its parity is of no use any more.
    pub(super) fn used_up(&mut self, block: u32) {
        let places: Vec<Place> = self.recent.range((block, 0)..=(block, u8::MAX)).map(|(place, _)| *place).collect();
        for place in places {
            self.recent_bytes -= self.recent.remove(&place).map_or(0, |symbol| symbol.len());
        }
        // Those that were used up are let go together, so that each is looked at a few times at most.
        if self.order.len() > 2 * self.recent.len() + ORDER_SLACK {
            self.order.retain(|place| self.recent.contains_key(place));
        }
    }

    fn file(&mut self) -> io::Result<&File> {
        let file = match self.file.take() {
            Some(file) => file,
            None => {
                let path = self.directory.join("parity");
                let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
                fs::remove_file(&path)?;
                file
            }
        };
        Ok(self.file.insert(file))
    }
}

fn offset(geometry: &Geometry, (block, index): Place) -> u64 {
    let number = u64::from(block) * u64::from(geometry.parity_symbols()) + u64::from(index);
    number * u64::from(geometry.symbol_bytes())
}

#[cfg(test)]
mod tests {
    use protocol::session::SYMBOL_BYTES;

    use super::*;

    #[test]
    fn what_was_kept_is_read_again_from_memory_or_from_the_file_until_its_block_is_whole() {
        let directory = tempfile::tempdir().expect("a directory");
        let geometry = Geometry::new(100_000 * u64::from(SYMBOL_BYTES), SYMBOL_BYTES).expect("fits").with_blocks();
        let symbol = |(block, index): Place| vec![(block * 7 + u32::from(index)) as u8; usize::from(SYMBOL_BYTES)];
        let mut parity = Parity::new(directory.path());
        let all: Vec<Place> = (0..100).flat_map(|block| (0..5).map(move |index| (block, index))).collect();
        for place in &all {
            parity.keep(&geometry, *place, &symbol(*place)).expect("kept");
            assert!(parity.recent_bytes <= RECENT_BYTES_MAX);
        }
        assert!(parity.file.is_some() && !parity.recent.is_empty(), "some in either place");
        let read = |parity: &Parity, place| {
            let mut read = vec![0; usize::from(SYMBOL_BYTES)];
            parity.read(&geometry, place, &mut read).map(|()| read)
        };
        for place in &all {
            assert_eq!(read(&parity, *place).expect("it was kept"), symbol(*place), "{place:?}");
        }
        assert!(read(&parity, (1000, 0)).is_err());
        (0..100).for_each(|block| parity.used_up(block));
        assert!(parity.recent_bytes == 0 && parity.order.len() <= ORDER_SLACK);
        assert_eq!(fs::read_dir(directory.path()).expect("there").count(), 0, "the file has no name");
    }

    #[test]
    fn memory_does_not_grow_while_one_block_waits_and_others_come_and_go() {
        let directory = tempfile::tempdir().expect("a directory");
        let geometry = Geometry::new(100_000 * u64::from(SYMBOL_BYTES), SYMBOL_BYTES).expect("fits").with_blocks();
        let symbol = vec![1; usize::from(SYMBOL_BYTES)];
        let mut parity = Parity::new(directory.path());
        parity.keep(&geometry, (0, 0), &symbol).expect("kept");
        for block in 1..500 {
            (0..5).for_each(|index| parity.keep(&geometry, (block, index), &symbol).expect("kept"));
            parity.used_up(block);
            assert!(parity.order.len() <= 2 * parity.recent.len() + ORDER_SLACK + 5);
        }
        assert_eq!(parity.recent.len(), 1, "the one that waits");
    }
}
