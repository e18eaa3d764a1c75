//! The disk as a file that a loop device can stand on: the few requests of the kernel's FUSE protocol
//! that one file of fixed length needs.
//!
//! The file is opened for direct access, so that every write and flush of the file system above
//! arrives here, in order, before it is acknowledged there.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use rustix::mount::{MountFlags, UnmountFlags};

use super::disk::Disk;
use crate::error::{Result, RigError};

/// Name of the file.
pub const IMAGE: &str = "image";

const WRITE_BYTES_MAX: usize = 1 << 20;
const REQUEST_HEADER_BYTES: usize = 40;
const ROOT_NODE: u64 = 1;
const IMAGE_NODE: u64 = 2;

/// Error numbers of Linux, as the protocol wants them.
const ENOENT: i32 = 2;
const ENOSYS: i32 = 38;

/// Kinds of requests.
mod request {
    pub(super) const LOOKUP: u32 = 1;
    pub(super) const FORGET: u32 = 2;
    pub(super) const GETATTR: u32 = 3;
    pub(super) const SETATTR: u32 = 4;
    pub(super) const OPEN: u32 = 14;
    pub(super) const READ: u32 = 15;
    pub(super) const WRITE: u32 = 16;
    pub(super) const RELEASE: u32 = 18;
    pub(super) const FSYNC: u32 = 20;
    pub(super) const FLUSH: u32 = 25;
    pub(super) const INIT: u32 = 26;
    pub(super) const OPENDIR: u32 = 27;
    pub(super) const RELEASEDIR: u32 = 29;
    pub(super) const INTERRUPT: u32 = 36;
    pub(super) const DESTROY: u32 = 38;
    pub(super) const BATCH_FORGET: u32 = 42;
}

/// A disk that is served until this is dropped.
#[derive(Debug)]
pub struct Served {
    /// The disk.
    pub disk: Arc<Mutex<Disk>>,
    mounted: PathBuf,
    server: Option<JoinHandle<()>>,
}

impl Served {
    /// Serves a disk in an empty directory. Needs the right to mount.
    ///
    /// # Errors
    /// When FUSE is not there or may not be used.
    pub fn start(disk: Disk, dir: &Path) -> Result<Self> {
        let device =
            OpenOptions::new().read(true).write(true).open("/dev/fuse").map_err(RigError::io("opening FUSE"))?;
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0,allow_other", device.as_raw_fd());
        let options = std::ffi::CString::new(options).expect("no zeros in it");
        let flags = MountFlags::NODEV | MountFlags::NOSUID;
        rustix::mount::mount("disk", dir, "fuse.disk", flags, options.as_c_str())
            .map_err(|error| RigError::io("mounting FUSE")(error.into()))?;
        let disk = Arc::new(Mutex::new(disk));
        let shared = Arc::clone(&disk);
        let server = std::thread::spawn(move || serve(device, &shared));
        Ok(Self { disk, mounted: dir.to_owned(), server: Some(server) })
    }

    /// The file that is the disk.
    #[must_use]
    pub fn image(&self) -> PathBuf {
        self.mounted.join(IMAGE)
    }

    /// The disk, for a look or a change in between.
    pub fn with<T>(&self, change: impl FnOnce(&mut Disk) -> T) -> T {
        change(&mut self.disk.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Err(error) = rustix::mount::unmount(&self.mounted, UnmountFlags::DETACH) {
            eprintln!("{} stays mounted: {error}", self.mounted.display());
        } else if let Some(server) = self.server.take() {
            // Ends when the last user of the file is gone; a panic of its was printed.
            let _ = server.join();
        }
    }
}

/// Answers until the file system is unmounted.
fn serve(mut device: File, disk: &Mutex<Disk>) {
    let mut buffer = vec![0; WRITE_BYTES_MAX + 8192];
    loop {
        let length = match device.read(&mut buffer) {
            Ok(length) => length,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            // An unmounted device says so by an error.
            Err(_) => return,
        };
        if length < REQUEST_HEADER_BYTES {
            return;
        }
        let message = &buffer[..length];
        let (kind, unique, node) = (u32_at(message, 4), u64_at(message, 8), u64_at(message, 16));
        let body = &message[REQUEST_HEADER_BYTES..];
        let answer = {
            let mut disk = disk.lock().unwrap_or_else(PoisonError::into_inner);
            answer(kind, node, body, &mut disk)
        };
        let Some(answer) = answer else { continue };
        let (error, body) = match answer {
            Ok(body) => (0, body),
            Err(error) => (-error, Vec::new()),
        };
        let mut reply = Vec::with_capacity(16 + body.len());
        reply.extend_from_slice(&u32::try_from(16 + body.len()).expect("answers are short").to_le_bytes());
        reply.extend_from_slice(&error.to_le_bytes());
        reply.extend_from_slice(&unique.to_le_bytes());
        reply.extend_from_slice(&body);
        // Whoever asked may be gone; then nobody wants the answer.
        let _ = device.write_all(&reply);
    }
}

/// The body of an answer, an error number, or nothing where none is expected.
fn answer(kind: u32, node: u64, body: &[u8], disk: &mut Disk) -> Option<std::result::Result<Vec<u8>, i32>> {
    Some(Ok(match kind {
        request::INIT => init(),
        request::LOOKUP if body.strip_suffix(&[0]) == Some(IMAGE.as_bytes()) => {
            let mut entry = Vec::new();
            words(&mut entry, &[IMAGE_NODE, 0, 0, 0, 0]);
            entry.extend_from_slice(&attributes(IMAGE_NODE, disk.bytes));
            entry
        }
        request::LOOKUP => return Some(Err(ENOENT)),
        request::GETATTR | request::SETATTR => {
            let mut found = Vec::new();
            words(&mut found, &[0, 0]);
            found.extend_from_slice(&attributes(node, disk.bytes));
            found
        }
        // Handle 0, and direct access.
        request::OPEN => [&0_u64.to_le_bytes()[..], &1_u32.to_le_bytes(), &[0; 4]].concat(),
        request::OPENDIR => vec![0; 16],
        request::READ => disk.read(u64_at(body, 8), u32_at(body, 16) as usize),
        request::WRITE => {
            let (offset, length) = (u64_at(body, 8), u32_at(body, 16));
            disk.write(offset, &body[40..40 + length as usize]);
            [length.to_le_bytes(), [0; 4]].concat()
        }
        request::FSYNC => {
            disk.flush();
            Vec::new()
        }
        request::RELEASE | request::RELEASEDIR | request::FLUSH | request::DESTROY => Vec::new(),
        request::FORGET | request::BATCH_FORGET | request::INTERRUPT => return None,
        _ => return Some(Err(ENOSYS)),
    }))
}

fn init() -> Vec<u8> {
    /// Asynchronous reads, large writes, their length in pages.
    const FLAGS: u32 = 1 | 1 << 5 | 1 << 22;
    let mut out = Vec::new();
    for word in [7, 31, 1 << 16, FLAGS] {
        out.extend_from_slice(&u32::to_le_bytes(word));
    }
    out.extend_from_slice(&[16, 0, 12, 0]);
    out.extend_from_slice(&u32::try_from(WRITE_BYTES_MAX).expect("it is small").to_le_bytes());
    out.extend_from_slice(&1_u32.to_le_bytes());
    let pages = u16::try_from(WRITE_BYTES_MAX / 4096).expect("it is small");
    out.extend_from_slice(&pages.to_le_bytes());
    out.resize(64, 0);
    out
}

fn attributes(node: u64, bytes: u64) -> Vec<u8> {
    let (size, mode, links) = if node == ROOT_NODE { (0, 0o040_700, 2) } else { (bytes, 0o100_600, 1) };
    let mut out = Vec::new();
    words(&mut out, &[node, size, size / 512, 0, 0, 0]);
    for word in [0, 0, 0, mode, links, 0, 0, 0, 4096, 0] {
        out.extend_from_slice(&u32::to_le_bytes(word));
    }
    out
}

fn words(out: &mut Vec<u8>, words: &[u64]) {
    for word in words {
        out.extend_from_slice(&word.to_le_bytes());
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
