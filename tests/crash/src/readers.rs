//! Whoever reads while versions are swapped: no open fails, and through one opened directory no two
//! versions are seen.

use std::fs;
use std::io::{Cursor, Read as _};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use backend_agent::content::{Fault, Point, SiteTrees};
use common::outcome::Outcome;
use rustix::fs::{Mode, OFlags};
use tempfile::TempDir;

use crate::error::{Result, RigError};
use crate::kill::Tally;
use crate::publisher::{Assignment, CLUSTER, NOW, OWN, Publisher, keys};
use crate::site::{Site, Way};
use crate::tree::Tree;

/// How long each exchange took, from before the call until after it.
#[derive(Debug, Clone, Default)]
pub struct Exchanges {
    times: Arc<Mutex<Vec<Duration>>>,
    began: Option<Instant>,
}

impl Exchanges {
    /// The times so far, ascending.
    #[must_use]
    pub fn sorted(&self) -> Vec<Duration> {
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner).clone();
        times.sort_unstable();
        times
    }
}

impl Fault for Exchanges {
    fn at(&mut self, point: Point) -> std::io::Result<()> {
        match point {
            Point::Switch => self.began = Some(Instant::now()),
            Point::FollowSwitch | Point::SyncSwitch => {
                if let Some(began) = self.began.take() {
                    self.times.lock().unwrap_or_else(PoisonError::into_inner).push(began.elapsed());
                }
            }
            Point::StageEntry
            | Point::CheckStaged
            | Point::SyncStaged
            | Point::StoreManifest
            | Point::WriteJournal
            | Point::ReplaceJournal
            | Point::SettleExcluded
            | Point::KeepBackup
            | Point::Discard => {}
        }
        Ok(())
    }
}

/// A site whose two versions are swapped again and again.
#[derive(Debug)]
pub struct Swapper {
    /// The site.
    pub site: Site,
    /// How long the exchanges take.
    pub exchanges: Exchanges,
    /// How long prepares by data and by rollback take, and commits.
    pub times: [Vec<Duration>; 3],
    /// How long the processor worked on each operation, all kinds, in order.
    pub worked: Vec<Duration>,
    publisher: Publisher,
    trees: SiteTrees,
    versions: [Tree; 2],
    live: usize,
    _dirs: [TempDir; 2],
}

impl Swapper {
    /// With both versions published, the second live.
    ///
    /// # Errors
    /// When that fails.
    pub fn new(dir: &Path, way: Way, versions: [Tree; 2], exclude: &[&str]) -> Result<Self> {
        let temporary = || tempfile::tempdir_in(dir).map_err(RigError::io("making a directory"));
        let root = temporary()?;
        // What the CCM does is not what is measured.
        let work = tempfile::tempdir_in("/dev/shm").or_else(|_| temporary())?;
        let site = Site::at(root.path(), way);
        let mut publisher = Publisher::new(work.path())?;
        publisher.policy.create = true;
        publisher.policy.exclude = exclude.iter().map(|pattern| (*pattern).to_owned()).collect();
        let exchanges = Exchanges::default();
        let trees = site.open().map_err(|error| RigError::Violation(error.refusal().reason))?;
        let trees = trees.with_fault(Box::new(exchanges.clone()));
        let times = [const { Vec::new() }; 3];
        let mut swapper = Self {
            site,
            exchanges,
            times,
            worked: Vec::new(),
            publisher,
            trees,
            versions,
            live: 0,
            _dirs: [root, work],
        };
        let first = swapper.publisher.prepare(None, &swapper.versions[0])?;
        swapper.carry_out(&first, 0)?;
        swapper.swap(true)?;
        Ok(swapper)
    }

    fn handle(&mut self, assignment: &Assignment, expected: &Outcome) -> Result<Duration> {
        let (began, worked) = (Instant::now(), worked());
        let outcome = self.trees.handle(Cursor::new(&assignment.bytes), CLUSTER, OWN, &keys(), NOW);
        let took = began.elapsed();
        self.worked.push(self::worked().saturating_sub(worked));
        if outcome == *expected {
            Ok(took)
        } else {
            Err(RigError::Violation(format!("answers {outcome:?}, expected {expected:?}")))
        }
    }

    fn carry_out(&mut self, prepare: &Assignment, to: usize) -> Result<Duration> {
        let version = self.versions[to].version();
        let took = self.handle(prepare, &Outcome::Prepared { version })?;
        let commit = self.publisher.commit(prepare.number, version);
        let committed = self.handle(&commit, &Outcome::Committed { version })?;
        self.times[2].push(committed);
        self.live = to;
        Ok(took)
    }

    /// Brings the other version live: staged anew, or by rolling back.
    ///
    /// # Errors
    /// A violation when it does not work.
    pub fn swap(&mut self, anew: bool) -> Result<()> {
        let to = 1 - self.live;
        let assignment = if anew {
            self.publisher.prepare(Some(&self.versions[self.live]), &self.versions[to])?
        } else {
            let version = self.versions[to].version();
            self.publisher.rollback(version)
        };
        let took = self.carry_out(&assignment, to)?;
        self.times[usize::from(!anew)].push(took);
        Ok(())
    }

    /// Stages the other version and leaves it there.
    ///
    /// # Errors
    /// A violation when it does not work.
    pub fn stage(&mut self) -> Result<()> {
        let to = 1 - self.live;
        let assignment = self.publisher.prepare(Some(&self.versions[self.live]), &self.versions[to])?;
        self.handle(&assignment, &Outcome::Prepared { version: self.versions[to].version() })?;
        Ok(())
    }

    /// Removes what is not needed.
    ///
    /// # Errors
    /// A violation when that does not work.
    pub fn clean(&mut self) -> Result<()> {
        self.trees.clean().map_err(|refusal| RigError::Violation(refusal.reason))
    }
}

/// Time that a processor spent on this thread so far; none where the kernel does not say.
fn worked() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or_default())
}

/// What was read, and what went wrong.
#[derive(Debug, Default)]
pub struct Found {
    /// Files opened by path and read.
    pub by_path: u64,
    /// Files opened below a pinned directory and read.
    pub pinned: u64,
    /// Pinned directories that were gone for good before the reader came to use them.
    pub outlived: u64,
    /// Swaps meanwhile.
    pub swaps: u32,
    /// The 99th percentile of the exchange.
    pub exchange_p99: Duration,
    /// Failed opens and mixed reads.
    pub tally: Tally,
}

const NAMES: [&str; 4] = ["index.html", "a/style.css", "a/b/script.js", "last.html"];

fn versions() -> [Tree; 2] {
    ["one", "two"].map(|version| {
        let empty = Tree::default().directory("a", 0o755).directory("a/b", 0o755);
        NAMES.iter().fold(empty, |tree, name| tree.file(name, format!("{version} {name}")))
    })
}

struct Reading<'a> {
    live: &'a Path,
    done: &'a AtomicBool,
    reads: [AtomicU64; 3],
    wrong: Mutex<Vec<String>>,
}

impl Reading<'_> {
    fn wrong(&self, what: String) {
        let mut wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        if wrong.len() < 20 {
            wrong.push(what);
        }
    }

    fn by_path(&self) {
        let paths = NAMES.map(|name| (name, self.live.join(name)));
        while !self.done.load(Ordering::Relaxed) {
            for (name, path) in &paths {
                match fs::read_to_string(path) {
                    Ok(text) if version_of(&text, name).is_some() => {}
                    Ok(text) => self.wrong(format!("{name} reads {text:?}")),
                    Err(error) => self.wrong(format!("{name} by path: {error}")),
                }
            }
            self.reads[0].fetch_add(NAMES.len() as u64, Ordering::Relaxed);
        }
    }

    fn pinned(&self) {
        while !self.done.load(Ordering::Relaxed) {
            let directory = match open(rustix::fs::CWD, self.live, OFlags::DIRECTORY) {
                Ok(directory) => directory,
                Err(error) => {
                    self.wrong(format!("live: {error}"));
                    continue;
                }
            };
            let mut seen: Option<bool> = None;
            for name in NAMES {
                let mut text = String::new();
                let read = open(&directory, Path::new(name), OFlags::empty())
                    .and_then(|file| fs::File::from(file).read_to_string(&mut text));
                match (read, version_of(&text, name)) {
                    (Ok(_), Some(version)) => {
                        if seen.is_some_and(|seen| seen != version) {
                            self.wrong(format!("{name} is of another version than what was read before it"));
                        }
                        seen = Some(version);
                    }
                    (Ok(_), None) => self.wrong(format!("{name} reads {text:?}")),
                    (Err(_), _) if gone(&directory) => {
                        self.reads[2].fetch_add(1, Ordering::Relaxed);
                        break;
                    }
                    (Err(error), _) => self.wrong(format!("{name} below a pinned directory: {error}")),
                }
            }
            self.reads[1].fetch_add(NAMES.len() as u64, Ordering::Relaxed);
        }
    }
}

/// Whether a tree was removed, or is being removed, since it was opened: a reader that rests for two
/// whole publishes finds nothing.
fn gone(directory: &OwnedFd) -> bool {
    use std::os::fd::AsRawFd as _;
    let at = fs::read_link(format!("/proc/self/fd/{}", directory.as_raw_fd()));
    at.map_or(true, |at| {
        let at = at.to_string_lossy();
        at.ends_with(" (deleted)") || at.contains(".pressrun/trash/")
    })
}

fn open(at: impl std::os::fd::AsFd, path: &Path, flags: OFlags) -> std::io::Result<OwnedFd> {
    Ok(rustix::fs::openat(at, path, flags | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

fn version_of(text: &str, name: &str) -> Option<bool> {
    match text.split_once(' ') {
        Some(("one", rest)) if rest == name => Some(false),
        Some(("two", rest)) if rest == name => Some(true),
        Some(_) | None => None,
    }
}

/// Reads at least `reads` files in all while at least `swaps` swaps are made.
///
/// # Errors
/// When swapping fails.
pub fn run(dir: &Path, way: Way, reads: u64, swaps: u32) -> Result<Found> {
    let mut swapper = Swapper::new(dir, way, versions(), &[])?;
    let done = AtomicBool::new(false);
    let live = swapper.site.live.clone();
    let reading = Reading { live: &live, done: &done, reads: Default::default(), wrong: Mutex::default() };
    let count = |which: usize| reading.reads[which].load(Ordering::Relaxed);
    let mut made = 0;
    let swapped = std::thread::scope(|scope| {
        scope.spawn(|| reading.by_path());
        scope.spawn(|| reading.pinned());
        let mut result = Ok(());
        while result.is_ok() && (made < swaps || count(0) + count(1) < reads) {
            result = swapper.swap(made % 10 == 9);
            made += 1;
        }
        done.store(true, Ordering::Relaxed);
        result
    });
    let [by_path, pinned, outlived] = [0, 1, 2].map(count);
    let violations = reading.wrong.into_inner().unwrap_or_else(PoisonError::into_inner);
    swapped?;
    let exchange_p99 = percentile(&swapper.exchanges.sorted(), 99);
    Ok(Found { by_path, pinned, outlived, swaps: made, exchange_p99, tally: Tally { interruptions: made, violations } })
}

/// A percentile of ascending times.
#[must_use]
pub fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted.get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1))).copied().unwrap_or_default()
}
