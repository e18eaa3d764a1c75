//! A disk in memory that writes down what happens to it, and can be put into every state that a
//! power cut may leave.
//!
//! A flush makes all writes before it last. Of those after the last flush any may be there or not,
//! each page of them for itself, in any combination.

use std::collections::BTreeMap;

/// Bytes that a power cut does not tear.
pub const PAGE_BYTES: usize = 4096;

type Pages = BTreeMap<u64, Box<[u8; PAGE_BYTES]>>;

/// What happened to a disk, in order.
#[derive(Debug, Clone)]
pub enum Event {
    /// Bytes were written at an offset.
    Write(u64, Vec<u8>),
    /// Everything before it was made to last.
    Flush,
    /// Something was acknowledged to the world outside.
    Mark,
}

/// The disk.
#[derive(Debug, Default)]
pub struct Disk {
    /// Its length in bytes.
    pub bytes: u64,
    base: Pages,
    over: Option<Pages>,
    log: Option<Vec<Event>>,
}

impl Disk {
    /// An empty one. Pages take memory when they are written.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        Self { bytes, ..Self::default() }
    }

    /// From here on everything is written down.
    pub fn record(&mut self) {
        self.log = Some(Vec::new());
    }

    /// The disk as it is now, without what was written down, and that.
    #[must_use]
    pub fn take_log(&mut self) -> Vec<Event> {
        self.log.take().unwrap_or_default()
    }

    /// A copy of all that is on it.
    #[must_use]
    pub fn image(&self) -> Self {
        Self { bytes: self.bytes, base: self.base.clone(), over: None, log: None }
    }

    /// Notes that something was acknowledged.
    pub fn mark(&mut self) {
        if let Some(log) = &mut self.log {
            log.push(Event::Mark);
        }
    }

    /// A flush.
    pub fn flush(&mut self) {
        if let Some(log) = &mut self.log {
            log.push(Event::Flush);
        }
    }

    /// A write.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        if let Some(log) = &mut self.log {
            log.push(Event::Write(offset, bytes.to_vec()));
        }
        for (at, piece) in pieces(offset, bytes) {
            let (number, within) = (at / PAGE_BYTES as u64, (at % PAGE_BYTES as u64) as usize);
            let empty = || Box::new([0; PAGE_BYTES]);
            let page = match &mut self.over {
                Some(over) => {
                    over.entry(number).or_insert_with(|| self.base.get(&number).cloned().unwrap_or_else(empty))
                }
                None => self.base.entry(number).or_insert_with(empty),
            };
            page[within..within + piece.len()].copy_from_slice(piece);
        }
    }

    /// What is there.
    #[must_use]
    pub fn read(&self, offset: u64, length: usize) -> Vec<u8> {
        let length = usize::try_from(self.bytes.saturating_sub(offset)).map_or(length, |left| left.min(length));
        let mut bytes = vec![0; length];
        let mut done = 0;
        while done < length {
            let at = offset + done as u64;
            let (number, within) = (at / PAGE_BYTES as u64, (at % PAGE_BYTES as u64) as usize);
            let count = (PAGE_BYTES - within).min(length - done);
            let page = self.over.as_ref().and_then(|over| over.get(&number)).or_else(|| self.base.get(&number));
            if let Some(page) = page {
                bytes[done..done + count].copy_from_slice(&page[within..within + count]);
            }
            done += count;
        }
        bytes
    }

    /// Begins a trial: what is written from here on is forgotten by the next trial.
    pub fn trial(&mut self) {
        self.over = Some(Pages::new());
    }

    /// Ends trials; what is written stays.
    pub fn end_trials(&mut self) {
        self.over = None;
    }
}

/// A write in pieces that each lie within a page.
pub fn pieces(offset: u64, bytes: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = offset + done as u64;
        let count = (PAGE_BYTES - (at % PAGE_BYTES as u64) as usize).min(bytes.len() - done);
        let piece = &bytes[done..done + count];
        done += count;
        (count > 0).then_some((at, piece))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trial_leaves_no_trace() {
        let mut disk = Disk::new(1 << 20);
        disk.write(5000, b"lasting");
        disk.trial();
        disk.write(5003, b"XXXX");
        assert_eq!(disk.read(5000, 7), b"lasXXXX");
        disk.trial();
        assert_eq!(disk.read(5000, 7), b"lasting");
        disk.end_trials();
        assert_eq!(disk.read((1 << 20) - 2, 10), [0, 0]);
    }

    #[test]
    fn pieces_end_where_pages_end() {
        let bytes = vec![7; 10_000];
        let found: Vec<_> = pieces(4000, &bytes).map(|(at, piece)| (at, piece.len())).collect();
        assert_eq!(found, [(4000, 96), (4096, 4096), (8192, 4096), (12_288, 1712)]);
    }
}
