//! Power cuts: the writes and flushes of publishing are recorded below a real file system, and replayed
//! as far as any moment, with any part of what was not flushed by then.
//!
//! Each state is mounted, so the file system recovers first; then the interpreter does. What was
//! acknowledged must be there; live must be one whole tree; the next job must work. Needs root, loop
//! devices, FUSE, and the programs that make the file systems.

pub mod disk;
pub mod fuse;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::outcome::Outcome;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::error::{Result, RigError, ensure};
use crate::kill::Tally;
use crate::publisher::{Assignment, Publisher};
use crate::shapes::Shape;
use crate::site::Site;
use crate::step::{Report, step};
use crate::strace::{Effect, Ended, Injection, Stepper};
use crate::tree::Tree;
use disk::{Disk, Event, pieces};
use fuse::Served;

/// A kind of file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum FileSystem {
    /// ext4.
    Ext4,
    /// XFS.
    Xfs,
    /// Btrfs.
    Btrfs,
}

impl FileSystem {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Ext4, Self::Xfs, Self::Btrfs];

    fn make(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Self::Ext4 => ("mkfs.ext4", &["-q", "-F", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0"]),
            Self::Xfs => ("mkfs.xfs", &["-q", "-f", "-K"]),
            Self::Btrfs => ("mkfs.btrfs", &["-q", "-f", "-K"]),
        }
    }

    fn kind(self) -> (&'static str, &'static str) {
        match self {
            Self::Ext4 => ("ext4", "loop,noatime"),
            Self::Xfs => ("xfs", "loop,noatime,nouuid"),
            Self::Btrfs => ("btrfs", "loop,noatime"),
        }
    }

    /// What its tools make without complaint.
    fn bytes(self) -> u64 {
        match self {
            Self::Ext4 => 64 << 20,
            Self::Xfs => 320 << 20,
            Self::Btrfs => 160 << 20,
        }
    }
}

/// A flush that is left out, to see that it is missed: the `nth` call of this name in every operation,
/// or all of them.
#[derive(Debug, Clone)]
pub struct Omission {
    /// `fsync` or `syncfs`.
    pub call: String,
    /// Which, from 1; all with `None`.
    pub nth: Option<u32>,
}

/// A mounted file system.
struct Mounted(PathBuf);

impl Mounted {
    fn mount(file_system: FileSystem, image: &Path, dir: &Path) -> Result<Self> {
        let (kind, options) = file_system.kind();
        run(Command::new("mount").args(["-t", kind, "-o", options]).arg(image).arg(dir))?;
        Ok(Self(dir.to_owned()))
    }

    fn unmount(self) -> Result<()> {
        run(Command::new("umount").arg(&self.0))?;
        std::mem::forget(self);
        Ok(())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = run(Command::new("umount").arg(&self.0)) {
            eprintln!("{}", error.chain());
        }
    }
}

fn run(command: &mut Command) -> Result<()> {
    let program = format!("{command:?}");
    let output = command.output().map_err(RigError::io(&program))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(RigError::setup(program, String::from_utf8_lossy(&output.stderr).trim()))
    }
}

/// One of the operations in turn.
struct Planned {
    assignment: Assignment,
    outcome: Outcome,
    /// Live when it is through: none, or one of the versions.
    live: Option<usize>,
}

/// First publish, change, rollback, undo, and a change that is given up: every kind of order.
fn plan(publisher: &mut Publisher, versions: &[Tree; 2]) -> Result<Vec<Planned>> {
    let version = |at: usize| versions[at].version();
    let mut plan: Vec<Planned> = Vec::new();
    let mut live = None;
    let mut add = |assignment: Assignment, outcome: Outcome, live: Option<usize>| {
        plan.push(Planned { assignment, outcome, live });
    };
    let mut committed = None;
    for (to, rollback) in [(0, false), (1, false), (0, true), (1, false)] {
        let assignment = if rollback {
            publisher.rollback(version(to))
        } else {
            publisher.prepare(live.map(|live: usize| &versions[live]), &versions[to])?
        };
        let number = assignment.number;
        add(assignment, Outcome::Prepared { version: version(to) }, live);
        live = Some(to);
        add(publisher.commit(number, version(to)), Outcome::Committed { version: version(to) }, live);
        committed = Some(number);
    }
    if let Some(number) = committed {
        live = Some(0);
        add(publisher.undo(number), Outcome::Undone { version: Some(version(0)) }, live);
    }
    let assignment = publisher.prepare(Some(&versions[0]), &versions[1])?;
    let number = assignment.number;
    add(assignment, Outcome::Prepared { version: version(1) }, live);
    add(publisher.undo(number), Outcome::Undone { version: Some(version(0)) }, live);
    Ok(plan)
}

/// Publishing on one file system, with its record of writes and flushes.
pub struct Recording {
    file_system: FileSystem,
    versions: [Tree; 2],
    plan: Vec<Planned>,
    start: Disk,
    events: Vec<Event>,
    dir: PathBuf,
}

impl std::fmt::Debug for Recording {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recording").field("file_system", &self.file_system).finish_non_exhaustive()
    }
}

impl Recording {
    /// Publishes on a fresh file system below `dir`, which must be empty, and records.
    ///
    /// # Errors
    /// When the rig cannot be set up, or publishing does not work.
    pub fn make(
        dir: &Path,
        program: &Path,
        file_system: FileSystem,
        shape: Shape,
        omission: Option<&Omission>,
    ) -> Result<Self> {
        let made = || RigError::io("making directories");
        for name in ["disk", "mounted", "work"] {
            fs::create_dir(dir.join(name)).map_err(made())?;
        }
        let (work, mounted) = (dir.join("work"), dir.join("mounted"));
        let mut publisher = Publisher::new(&work)?;
        publisher.policy.create = true;
        let versions = shape.versions(20);
        let plan = plan(&mut publisher, &versions)?;
        let stepper = Stepper::new(program, &work);

        let served = Served::start(Disk::new(file_system.bytes()), &dir.join("disk"))?;
        let (make, options) = file_system.make();
        run(Command::new(make).args(options).arg(served.image()))?;
        let on = Mounted::mount(file_system, &served.image(), &mounted)?;
        let root = mounted.join("www");
        fs::create_dir(&root).map_err(made())?;
        run(Command::new("sync").arg("-f").arg(&root))?;
        served.with(Disk::record);
        let start = served.with(|disk| disk.image());
        for planned in &plan {
            let bytes = Some(planned.assignment.bytes.as_slice());
            let report = match omission {
                None => stepper.plain(&root, bytes)?,
                Some(omission) => {
                    let (nth, and_later) = (omission.nth.unwrap_or(1), omission.nth.is_none());
                    let injection = Injection { call: omission.call.clone(), nth, and_later, effect: Effect::Skip };
                    match stepper.inject(&root, bytes, &injection)? {
                        Ended::Reported(report) => report,
                        ended @ (Ended::Killed | Ended::Broke(_)) => {
                            return Err(RigError::setup("leaving out a flush", format!("{ended:?}")));
                        }
                    }
                }
            };
            ensure(report == Report::Answered(planned.outcome.clone()), || {
                format!("answers {report:?}, expected {:?}", planned.outcome)
            })?;
            served.with(Disk::mark);
        }
        let events = served.with(Disk::take_log);
        on.unmount()?;
        Ok(Self { file_system, versions, plan, start, events, dir: dir.to_owned() })
    }

    /// Number of writes, flushes.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        let flushes = self.events.iter().filter(|event| matches!(event, Event::Flush)).count();
        let marks = self.events.iter().filter(|event| matches!(event, Event::Mark)).count();
        (self.events.len() - flushes - marks, flushes)
    }

    /// Cuts the power `states` times and looks at what is left. Stops after `violations_max`.
    ///
    /// # Errors
    /// When the rig fails.
    pub fn replay(&self, states: usize, seed: u64, violations_max: usize) -> Result<Tally> {
        let mut chance = ChaCha8Rng::seed_from_u64(seed);
        let mut cuts: Vec<(usize, u64)> =
            (0..states).map(|_| (chance.random_range(0..=self.events.len()), chance.random())).collect();
        cuts.sort_unstable();
        let mut tally = Tally::default();
        let served = Served::start(self.start.image(), &self.dir.join("disk"))?;
        let (mut at, mut flushed, mut done) = (0, 0, 0);
        for (cut, seed) in cuts {
            // What lasts, whatever happens: all up to the last flush.
            for event in &self.events[at..cut] {
                at += 1;
                match event {
                    Event::Write(..) => {}
                    Event::Mark => done += 1,
                    Event::Flush => {
                        let lasting = &self.events[flushed..at];
                        served.with(|disk| {
                            disk.end_trials();
                            apply(disk, lasting, |_| true);
                        });
                        flushed = at;
                    }
                }
            }
            let mut chance = ChaCha8Rng::seed_from_u64(seed);
            // Nothing of it, all of it, or each page as it falls.
            let kept = [0.0, 1.0, 0.5, 0.5, 0.5, 0.1, 0.9][chance.random_range(0..7)];
            served.with(|disk| {
                disk.trial();
                apply(disk, &self.events[flushed..cut], |_| chance.random_bool(kept));
            });
            let place =
                || format!("{:?}, cut at {cut} of {}, {kept} kept, seed {seed}", self.file_system, self.events.len());
            if !tally.note(place, self.check(&served, done))? && tally.violations.len() >= violations_max {
                break;
            }
        }
        Ok(tally)
    }

    /// Mounts what the power cut left and looks.
    fn check(&self, served: &Served, done: usize) -> Result<()> {
        let mounted = self.dir.join("mounted");
        let on = Mounted::mount(self.file_system, &served.image(), &mounted)
            .map_err(|error| RigError::Violation(format!("cannot be mounted: {}", error.chain())))?;
        let checked = self.check_mounted(&Site::at(&mounted.join("www")), done);
        on.unmount()?;
        checked
    }

    fn tree(&self, live: Option<usize>) -> Option<Tree> {
        live.map(|live| self.versions[live].clone())
    }

    fn check_mounted(&self, site: &Site, done: usize) -> Result<()> {
        let before = self.tree(done.checked_sub(1).and_then(|last| self.plan[last].live));
        let next = self.plan.get(done).or(self.plan.last()).expect("the plan is not empty");
        let after = self.tree(next.live);
        let look = || {
            Tree::read(&site.live, &[]).map_err(|error| RigError::Violation(format!("live cannot be read: {error}")))
        };
        let live = look()?;
        ensure(live == before || live == after, || {
            let tree = |tree: &Option<Tree>| tree.clone().unwrap_or_default();
            let difference = tree(&live).difference(&tree(&before)).unwrap_or_else(|| "whether it is there".to_owned());
            format!("after {done} operations live is neither the tree of the last one ({difference}) nor the next's")
        })?;
        let trees = site
            .open()
            .map_err(|error| RigError::Violation(format!("after {done} operations: {}", error.refusal().reason)))?;
        let state = trees.state();
        drop(trees);
        ensure(look()? == live, || "opening switched live".to_owned())?;
        ensure(state.live == live.as_ref().map(Tree::version), || {
            format!("after {done} operations the state says that {:?} is live", state.live)
        })?;
        let acknowledged = done.checked_sub(1).map_or(0, |last| self.plan[last].assignment.number.0);
        ensure(state.sequence.0 >= acknowledged, || {
            format!("{acknowledged} was acknowledged, the high-water mark is {}", state.sequence)
        })?;
        // What was acknowledged is what the next operation builds on.
        let report = step(&site.root, Some(&next.assignment.bytes));
        ensure(report == Report::Answered(next.outcome.clone()), || {
            format!("after {done} operations the next answers {report:?}, expected {:?}", next.outcome)
        })?;
        ensure(look()? == after, || "the next operation does not lead to its tree".to_owned())
    }
}

fn apply(disk: &mut Disk, events: &[Event], mut keep: impl FnMut(u64) -> bool) {
    for event in events {
        if let Event::Write(offset, bytes) = event {
            for (at, piece) in pieces(*offset, bytes) {
                if keep(at) {
                    disk.write(at, piece);
                }
            }
        }
    }
}
