//! Waiting: always for something, and woken by what brings it about; never for a while.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, Reader, WatchFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// Says when to look again.
pub trait Signal {
    /// Sleeps until something may have changed since the last call, or the time is there.
    fn wait(&mut self, until: Instant);
}

/// Looks at a condition, and again whenever the signal says so, until it gives something or the time
/// is over. The signal is older than the first look, so that nothing is missed.
pub fn wait_for<T>(signal: &mut impl Signal, within: Duration, mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + within;
    loop {
        if let Some(found) = condition() {
            return Some(found);
        }
        if Instant::now() >= deadline {
            return None;
        }
        signal.wait(deadline);
    }
}

/// The end of a process.
#[derive(Debug)]
pub struct End(OwnedFd);

impl End {
    /// Of this process.
    ///
    /// # Errors
    /// When there is none with this id.
    pub fn of(pid: Pid) -> io::Result<Self> {
        Ok(Self(pidfd_open(pid, PidfdFlags::empty())?))
    }
}

impl Signal for End {
    fn wait(&mut self, until: Instant) {
        readable(&[&self.0], until);
    }
}

/// Changes among the entries of directories, by rename, creation, removal or writing; and, if asked
/// for, the end of a process that is to make them.
#[derive(Debug)]
pub struct Changes {
    inotify: OwnedFd,
    end: Option<End>,
}

impl Changes {
    /// Of directories.
    ///
    /// # Errors
    /// When one cannot be watched.
    pub fn of<P: AsRef<Path>>(directories: impl IntoIterator<Item = P>) -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let what = WatchFlags::CREATE | WatchFlags::MOVE | WatchFlags::DELETE | WatchFlags::CLOSE_WRITE;
        for directory in directories {
            inotify::add_watch(&inotify, directory.as_ref(), what)?;
        }
        Ok(Self { inotify, end: None })
    }

    /// And the end of a process.
    #[must_use]
    pub fn or(self, end: End) -> Self {
        Self { end: Some(end), ..self }
    }
}

impl Signal for Changes {
    fn wait(&mut self, until: Instant) {
        match &self.end {
            Some(End(end)) => readable(&[&self.inotify, end], until),
            None => readable(&[&self.inotify], until),
        }
        // What has happened by now is looked at in one go.
        let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(&self.inotify, &mut buffer);
        while reader.next().is_ok() {}
    }
}

/// Sleeps until one of these processes has ended, or the time is there. With one that had ended
/// before it does not sleep.
pub fn any_end<'a>(ends: impl IntoIterator<Item = &'a End>, until: Instant) {
    let descriptors: Vec<&OwnedFd> = ends.into_iter().map(|End(end)| end).collect();
    readable(&descriptors, until);
}

/// Sleeps until one of them has something to read, or the time is there.
fn readable(descriptors: &[&OwnedFd], until: Instant) {
    let mut polled: Vec<PollFd<'_>> =
        descriptors.iter().map(|one| PollFd::from_borrowed_fd(one.as_fd(), PollFlags::IN)).collect();
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).expect("tests wait for less than centuries");
        match poll(&mut polled, Some(&left)) {
            Err(Errno::INTR) => (),
            Ok(_) => return,
            Err(error) => panic!("descriptors cannot be waited for: {error}"),
        }
    }
}
