//! Holding a server's hook up, for as long as a test wants.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, mkfifoat, open};

/// What a shell does to be held while there is a [`Hold`] at this path, an expression of the shell.
#[must_use]
pub fn held_at(path: &str) -> String {
    // It waits in the open for somebody who writes. Where the hold was let go in between there is nothing to open.
    format!("if [ -p \"{path}\" ]; then read _ < \"{path}\" || true; fi")
}

/// A pipe that whoever runs [`held_at`] waits at. Dropped, it lets them go on.
#[derive(Debug)]
pub struct Hold(PathBuf);

impl Hold {
    /// Holds up who passes here.
    ///
    /// # Errors
    /// When there is something already, or nothing can be made.
    pub fn at(path: impl AsRef<Path>) -> io::Result<Self> {
        mkfifoat(CWD, path.as_ref(), Mode::RUSR | Mode::WUSR)?;
        Ok(Self(path.as_ref().to_owned()))
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // Opened for both, it waits for nobody; who waits for a writer goes on, and reads an end when this
        // one is closed, after the name is gone.
        let writer = open(&self.0, OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty());
        fs::remove_file(&self.0).ok();
        drop(writer);
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::Duration;

    use super::*;
    use crate::process::Process;

    fn passer(path: &Path) -> Process {
        let script = held_at(&path.to_string_lossy());
        Process::start(Command::new("sh").args(["-c", &script])).expect("sh runs")
    }

    #[test]
    fn who_passes_is_held_until_the_hold_is_dropped_and_not_after() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("hold");
        let hold = Hold::at(&path).expect("made");
        assert!(Hold::at(&path).is_err(), "one at a time");
        let mut held = passer(&path);
        assert!(held.wait(Duration::from_millis(300)).is_none(), "it waits");
        drop(hold);
        assert!(held.wait(Duration::from_secs(60)).expect("it goes on").success());
        assert!(passer(&path).wait(Duration::from_secs(60)).expect("nothing holds it").success());
    }
}
