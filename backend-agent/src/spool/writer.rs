//! The bytes of an object that arrives: into its file in long runs, and out again from the first byte
//! to the last for whoever verifies them meanwhile.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;
use std::sync::mpsc;

/// Neighbouring symbols are written together, up to so many bytes.
const PENDING_BYTES_MAX: usize = 256 << 10;
/// How much must have come before it is worth telling a verifier.
const TOLD_BYTES_MIN: u64 = 1 << 20;
/// How much is made durable in one go while the rest arrives, so that little is left for the end.
const SYNC_BYTES: u64 = 64 << 20;

/// Bytes of the object that could not be written.
#[derive(Debug, thiserror::Error)]
#[error("{bytes} bytes at {offset} cannot be written into the spool file")]
pub(crate) struct WriteError {
    /// Where they belong.
    pub(crate) offset: u64,
    /// How many.
    pub(crate) bytes: u64,
    /// What the disk said.
    pub(crate) source: io::Error,
}

/// The writing end.
#[derive(Debug)]
pub(crate) struct Writer {
    file: File,
    /// Where the bytes that are kept back belong.
    offset: u64,
    pending: Vec<u8>,
    /// So much is written without a gap.
    whole: u64,
    /// So much of it the verifier knows of.
    told: u64,
    verifier: Option<mpsc::Sender<u64>>,
}

impl Writer {
    /// The file, to read from.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Fills this file, which has its full length and is open for both ways.
    #[must_use]
    pub(crate) fn new(file: File) -> Self {
        Self { file, offset: 0, pending: Vec::new(), whole: 0, told: 0, verifier: None }
    }

    /// Takes bytes; they may be kept back until [`Writer::flush`].
    ///
    /// # Errors
    /// [`WriteError`] about bytes that were kept back.
    pub(crate) fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<(), WriteError> {
        let follows = offset == self.offset + self.pending.len() as u64;
        let flushed =
            if follows && self.pending.len() + bytes.len() <= PENDING_BYTES_MAX { Ok(()) } else { self.flush() };
        if self.pending.is_empty() {
            self.offset = offset;
        }
        self.pending.extend_from_slice(bytes);
        flushed
    }

    /// Writes what was kept back. What cannot be written is forgotten.
    ///
    /// # Errors
    /// [`WriteError`].
    pub(crate) fn flush(&mut self) -> Result<(), WriteError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let (offset, bytes) = (self.offset, self.pending.len() as u64);
        let written = self.file.write_all_at(&self.pending, offset);
        self.pending.clear();
        written.map_err(|source| WriteError { offset, bytes, source })
    }

    /// So much is there without a gap, and will not change any more. Less than before is not believed.
    pub(crate) fn grown(&mut self, whole: u64) {
        self.whole = self.whole.max(whole);
    }

    /// Whether much has come that the verifier does not know of.
    #[must_use]
    pub(crate) fn is_worth_telling(&self) -> bool {
        self.whole - self.told >= TOLD_BYTES_MIN
    }

    /// Tells the verifier how much there is. The first time it is given to the caller, who must have
    /// it read elsewhere.
    ///
    /// # Errors
    /// When the file cannot be opened a second time.
    pub(crate) fn tell(&mut self) -> io::Result<Option<Growth>> {
        self.told = self.whole;
        if let Some(verifier) = &self.verifier {
            // A verifier that is gone has had enough, and says so itself.
            verifier.send(self.whole).ok();
            return Ok(None);
        }
        let (verifier, told) = mpsc::channel();
        let file = self.file.try_clone()?;
        verifier.send(self.whole).ok();
        self.verifier = Some(verifier);
        Ok(Some(Growth { file, told, known: 0, read: 0, synced: 0, abandoned: false }))
    }
}

/// The reading end: gives the bytes in their order and waits for those that are not there yet.
#[derive(Debug)]
pub struct Growth {
    file: File,
    told: mpsc::Receiver<u64>,
    known: u64,
    read: u64,
    synced: u64,
    abandoned: bool,
}

impl Growth {
    /// How many bytes can be read by now without waiting, counted from the first of the object.
    pub fn here_bytes(&mut self) -> u64 {
        self.known = self.told.try_iter().last().unwrap_or(self.known);
        self.known
    }

    /// Whether reading failed because the session ended first: the rest will not come from it.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        self.abandoned
    }
}

impl Read for Growth {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.known <= self.read {
            let Ok(known) = self.told.recv() else {
                self.abandoned = true;
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the session ended before the object was here",
                ));
            };
            self.known = known;
        }
        if self.known - self.synced >= SYNC_BYTES {
            self.file.sync_data()?;
            self.synced = self.known;
        }
        let here = usize::try_from(self.known - self.read).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.file.read_at(&mut buffer[..here], self.read)?;
        self.read += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writer(length: u64) -> Writer {
        let file = tempfile::tempfile().expect("a file");
        file.set_len(length).expect("its length");
        Writer::new(file)
    }

    #[test]
    fn symbols_in_any_order_end_where_they_belong() {
        let mut writer = writer(2_000_000);
        let bytes: Vec<u8> = (0..2_000_000u32).map(|n| (n / 11) as u8).collect();
        for at in [5, 6, 7, 1, 0, 2].into_iter().chain(8..200).chain([3, 4]) {
            let offset = at * 10_000;
            writer.write(offset as u64, &bytes[offset..offset + 10_000]).expect("written");
        }
        writer.flush().expect("written");
        let mut read = vec![0; bytes.len()];
        writer.file.read_exact_at(&mut read, 0).expect("read");
        assert!(read == bytes);
    }

    #[test]
    fn a_failed_write_names_what_is_missing_and_nothing_else() {
        let read_only = File::open("/dev/null").expect("there");
        let mut writer = Writer::new(read_only);
        writer.write(1000, &[1; 10]).expect("kept back");
        writer.write(1010, &[1; 10]).expect("kept back");
        let error = writer.write(5000, &[1; 30]).expect_err("not writable");
        assert_eq!((error.offset, error.bytes), (1000, 20));
        let error = writer.flush().expect_err("not writable");
        assert_eq!((error.offset, error.bytes), (5000, 30));
        writer.flush().expect("nothing is left");
    }

    #[test]
    fn a_verifier_reads_what_is_there_and_waits_for_the_rest() {
        let mut writer = writer(30);
        writer.write(0, &[1; 10]).expect("kept back");
        writer.flush().expect("written");
        writer.grown(10);
        let mut growth = writer.tell().expect("opened").expect("the first time");
        let mut buffer = [0; 64];
        assert_eq!(growth.read(&mut buffer).expect("there"), 10);
        let rest = std::thread::spawn(move || {
            let mut buffer = [0; 20];
            growth.read_exact(&mut buffer).map(|()| buffer)
        });
        writer.write(10, &[2; 20]).expect("kept back");
        writer.flush().expect("written");
        writer.grown(30);
        assert!(writer.tell().expect("told").is_none());
        assert_eq!(rest.join().expect("reads").expect("there"), [2; 20]);
    }

    #[test]
    fn a_verifier_of_a_session_that_ended_early_says_so() {
        let mut writer = writer(30);
        writer.grown(10);
        let mut growth = writer.tell().expect("opened").expect("the first time");
        drop(writer);
        let mut all = Vec::new();
        assert!(growth.read_to_end(&mut all).is_err());
        assert_eq!((all.len(), growth.is_abandoned()), (10, true));
    }
}
