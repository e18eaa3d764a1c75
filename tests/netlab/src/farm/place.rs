//! Where a farm keeps its files: made, swept, and kept when a test has failed.

use std::cell::RefCell;
use std::fs::{self, File};
use std::io;
use std::panic;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use rustix::process::{Pid, test_kill_process};

use crate::command::run;
use crate::process::Process;

/// Names of directories that go with their process: this, its id, a counter.
const OWNED: &str = "pressrun-farm-";
/// Names of directories that a failed test has left.
const FAILED: &str = "pressrun-failed-";
/// What of each log is printed when a test fails.
const TAIL_LINES: usize = 40;
/// Set to keep everything that a failed farm has written, not only the logs.
const KEEP: &str = "PRESSRUN_TEST_KEEP";

thread_local! {
    /// Why this thread panicked.
    static FAILURE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Remembers why a test fails, so that it can be said below the logs, too: who reads the end of a
/// long output finds it there.
fn remember_failures() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |failure| {
            FAILURE.replace(failure.to_string());
            usual(failure);
        }));
    });
}

/// Waits until no other farm stands on this machine; the next one waits until the result is dropped.
pub(super) fn alone() -> File {
    let path = std::env::temp_dir().join("pressrun-farm.lock");
    let file = File::options().create(true).append(true).open(&path);
    let file = file.unwrap_or_else(|error| panic!("{} cannot be opened: {error}", path.display()));
    file.lock().unwrap_or_else(|error| panic!("{} cannot be locked: {error}", path.display()));
    file
}

/// The directory of a farm.
#[derive(Debug)]
pub(super) struct Place {
    path: PathBuf,
}

impl Place {
    /// Makes it, after removing those of processes that are gone.
    pub(super) fn make() -> io::Result<Self> {
        static COUNTER: AtomicU32 = AtomicU32::new(1);
        remember_failures();
        let parent = fs::canonicalize(std::env::temp_dir())?;
        sweep(&parent)?;
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("{OWNED}{}-{number}", std::process::id()));
        let place = Self { path };
        fs::create_dir_all(place.logs())?;
        fs::create_dir_all(place.path.join("scratch"))?;
        Ok(place)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where the servers' roots are.
    pub(super) fn servers(&self) -> PathBuf {
        self.path.join("servers")
    }

    pub(super) fn logs(&self) -> PathBuf {
        self.path.join("logs")
    }

    /// What a log holds.
    pub(super) fn log(&self, name: &str) -> String {
        let bytes = fs::read(self.logs().join(format!("{name}.log"))).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Starts a process that appends its output to a log.
    pub(super) fn start(&self, log: &str, command: &mut Command) -> Process {
        let path = self.logs().join(format!("{log}.log"));
        let file = File::options().create(true).append(true).open(&path);
        let file = file.unwrap_or_else(|error| panic!("{} cannot be opened: {error}", path.display()));
        let errors = file.try_clone().expect("a descriptor is to be had");
        command.stdin(Stdio::null()).stdout(file).stderr(errors);
        Process::start(command).unwrap_or_else(|error| panic!("{log} cannot be started: {error}"))
    }

    /// Makes a directory a file system of its own.
    pub(super) fn mount_small_disk(&self, at: &Path, bytes: u64) {
        assert!(at.starts_with(&self.path), "{} is not in the farm", at.display());
        let options = format!("size={bytes},mode=0755");
        let mounted = run("mount", &["-t", "tmpfs", "-o", &options, "tmpfs", &at.to_string_lossy()], "");
        mounted.unwrap_or_else(|error| panic!("no small disk: {error}"));
    }

    fn print_tails(&self) {
        let mut logs: Vec<PathBuf> =
            fs::read_dir(self.logs()).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect();
        logs.sort();
        for path in logs.iter().filter(|path| path.extension().is_some_and(|end| end == "log")) {
            let text = String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
            let lines: Vec<&str> = text.lines().collect();
            if lines.is_empty() {
                continue;
            }
            let first = lines.len().saturating_sub(TAIL_LINES);
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            eprintln!("--- {name}, from line {} of {} on", first + 1, lines.len());
            for line in &lines[first..] {
                eprintln!("{line}");
            }
        }
    }

    /// Keeps the logs of a failed test, or everything if so asked.
    fn keep(&self) -> io::Result<PathBuf> {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy().replace(OWNED, FAILED);
        let kept = self.path.with_file_name(name);
        if kept.exists() {
            fs::remove_dir_all(&kept)?;
        }
        if std::env::var_os(KEEP).is_some() {
            fs::rename(&self.path, &kept)?;
        } else {
            fs::create_dir_all(&kept)?;
            fs::rename(self.logs(), kept.join("logs"))?;
            remove(&self.path)?;
        }
        Ok(kept)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let done = if thread::panicking() {
            self.print_tails();
            let kept = self.keep().map(|kept| eprintln!("--- kept in {}", kept.display()));
            FAILURE.with_borrow(|failure| eprintln!("--- {failure}"));
            kept
        } else {
            remove(&self.path)
        };
        if let Err(error) = done {
            // A second panic while one unwinds would abort and hide the first.
            eprintln!("{} cannot be removed: {error}", self.path.display());
        }
    }
}

/// Removes the directories of processes that are gone.
fn sweep(parent: &Path) -> io::Result<()> {
    for entry in fs::read_dir(parent)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(OWNED).and_then(|rest| rest.split('-').next()?.parse().ok());
        let Some(owner) = owner.and_then(Pid::from_raw) else { continue };
        if test_kill_process(owner) == Err(rustix::io::Errno::SRCH) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

/// Removes a farm's directory with what is mounted in it, frozen or not.
fn remove(path: &Path) -> io::Result<()> {
    for mount in fs::read_to_string("/proc/self/mounts")?.lines() {
        // The farm's own paths have no character that the kernel writes in another way.
        let at = mount.split(' ').nth(1).unwrap_or_default();
        if Path::new(at).starts_with(path) {
            run("umount", &["--lazy", at], "").map_err(io::Error::other)?;
        }
    }
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let roots = fs::read_dir(path.join("servers"))?.filter_map(Result::ok);
            roots.for_each(|root| set_frozen(&root.path(), false).unwrap_or_default());
            fs::remove_dir_all(path)
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn set_frozen(path: &Path, frozen: bool) -> io::Result<()> {
    run("chattr", &[if frozen { "+i" } else { "-i" }, &path.to_string_lossy()], "").map(drop).map_err(io::Error::other)
}

/// A directory in which nothing can be made, renamed or removed; what is in its subdirectories is
/// free. Dropping it ends that.
#[derive(Debug)]
pub struct Frozen {
    path: PathBuf,
}

impl Frozen {
    pub(super) fn of(path: &Path) -> Self {
        set_frozen(path, true).unwrap_or_else(|error| panic!("{} cannot be frozen: {error}", path.display()));
        Self { path: path.to_owned() }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        if let Err(error) = set_frozen(&self.path, false) {
            eprintln!("{} stays frozen: {error}", self.path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_test_leaves_is_swept_with_its_mounts_and_frozen_directories() {
        let parent = tempfile::tempdir().expect("a directory");
        let mut ended = Command::new("true").spawn().expect("true");
        let left = parent.path().join(format!("{OWNED}{}-1", ended.id()));
        ended.wait().expect("ends");
        let own = parent.path().join(format!("{OWNED}{}-1", std::process::id()));
        fs::create_dir_all(&own).expect("makes");
        let [disk, frozen] = ["s1w1", "s1w2"].map(|name| left.join("servers").join(name));
        fs::create_dir_all(&disk).expect("makes");
        fs::create_dir_all(frozen.join("www")).expect("makes");
        let place = Place { path: left.clone() };
        place.mount_small_disk(&disk, 1 << 20);
        std::mem::forget(place);
        std::mem::forget(Frozen::of(&frozen));
        assert!(fs::rename(frozen.join("www"), frozen.join("other")).is_err(), "it is frozen");
        sweep(parent.path()).expect("sweeps");
        assert!(!left.exists() && own.exists());
    }
}
