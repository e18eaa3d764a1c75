//! Power cuts: the writes and flushes of publishing are recorded below a real file system, and replayed
//! as far as any moment, with any part of what was not flushed by then.
//!
//! Each state is mounted, so the file system recovers first; then the interpreter does. What was
//! acknowledged must be there; live must be one whole tree; the next job must work. Needs root, loop
//! devices, FUSE, and the programs that make the file systems.

pub mod disk;
pub mod fuse;
pub mod plan;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::error::{Result, RigError, ensure};
use crate::kill::Tally;
use crate::publisher::Publisher;
use crate::shapes::Shape;
use crate::site::{Site, Way};
use crate::step::{Report, step};
use crate::strace::{Effect, Ended, Injection, Order, Stepper};
use crate::tree::Tree;
use disk::{Disk, Event, pieces};
use fuse::Served;
use plan::{Act, Course, Planned};

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
            Self::Ext4 => ("ext4", "noatime"),
            Self::Xfs => ("xfs", "noatime,nouuid"),
            Self::Btrfs => ("btrfs", "noatime"),
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

/// A flush that is left out, to see that it is missed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Omission {
    /// All of this name, in every step.
    All {
        /// `fsync` or `syncfs`.
        call: &'static str,
    },
    /// One, in the steps of one kind.
    One {
        /// The steps' kind.
        kind: &'static str,
        /// `fsync` or `syncfs`.
        call: String,
        /// Which of that name in such a step, from 1.
        nth: u32,
        /// What is flushed, for people.
        what: String,
    },
}

impl Omission {
    fn in_step(&self, step: &Planned) -> Option<Injection> {
        let effect = Effect::Skip;
        match self {
            Self::All { call } => Some(Injection { call: (*call).to_owned(), nth: 1, and_later: true, effect }),
            Self::One { kind, call, nth, .. } => {
                (*kind == step.kind).then(|| Injection { call: call.clone(), nth: *nth, and_later: false, effect })
            }
        }
    }
}

impl std::fmt::Display for Omission {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::All { call } => write!(f, "every {call}"),
            Self::One { kind, call, nth, what } => write!(f, "{kind}: {call} {nth}, of {what}"),
        }
    }
}

/// All flushes of a course, each of which can be left out. Steps of one kind flush the same things.
///
/// # Errors
/// When the course does not work.
pub fn flushes(dir: &Path, program: &Path, way: Way, course: Course) -> Result<Vec<Omission>> {
    let (work, root) = (dir.join("work"), dir.join("www"));
    for name in [&work, &root] {
        fs::create_dir(name).map_err(RigError::io("making directories"))?;
    }
    let versions = Shape::Mixed.versions(20);
    let steps = plan::plan(course, &mut Publisher::new(&work)?, &versions)?;
    let stepper = Stepper::new(program, &work, way);
    let mut found: Vec<Omission> = Vec::new();
    for step in &steps {
        let order = Order::of(step, &root);
        if let Act::Write(_) | Act::Delete(_) = step.act {
            plan::by_others(&step.act, &root.join("shop"))?;
            continue;
        }
        if let Act::AfterKill(injection) = &step.act {
            stepper.inject(&order, injection)?;
        }
        let mut numbers = std::collections::BTreeMap::new();
        for (call, what) in stepper.flushes(&order)? {
            let nth = numbers.entry(call.clone()).or_insert(0);
            *nth += 1;
            let omission = Omission::One { kind: step.kind, call, nth: *nth, what };
            let is_same = |known: &Omission| match (known, &omission) {
                (
                    Omission::One { kind, call, nth, .. },
                    Omission::One { kind: kind_here, call: call_here, nth: nth_here, .. },
                ) => (kind, call, nth) == (kind_here, call_here, nth_here),
                _ => false,
            };
            if !found.iter().any(is_same) {
                found.push(omission);
            }
        }
    }
    Ok(found)
}

/// A mounted file system, and the loop device that it is on.
struct Mounted {
    dir: PathBuf,
    device: String,
}

impl Mounted {
    /// On a device of its own, whose cache holds nothing of what was there before: `mount` would find the one
    /// of the last trial, if it was not taken away yet, and with it pages that are not on the disk any more.
    fn mount(file_system: FileSystem, image: &Path, dir: &Path) -> Result<Self> {
        let (kind, options) = file_system.kind();
        let device = run(Command::new("losetup").args(["--find", "--show"]).arg(image))?.trim().to_owned();
        let mounted = Self { dir: dir.to_owned(), device };
        run(Command::new("blockdev").args(["--flushbufs", &mounted.device]))?;
        if let Err(error) = run(Command::new("mount").args(["-t", kind, "-o", options, &mounted.device]).arg(dir)) {
            run(Command::new("losetup").args(["--detach", &mounted.device]))?;
            std::mem::forget(mounted);
            return Err(error);
        }
        Ok(mounted)
    }

    fn unmount(self) -> Result<()> {
        self.end()?;
        std::mem::forget(self);
        Ok(())
    }

    fn end(&self) -> Result<()> {
        run(Command::new("umount").arg(&self.dir))?;
        run(Command::new("losetup").args(["--detach", &self.device]))?;
        Ok(())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("{}", error.chain());
        }
    }
}

/// Runs a program; returns what it printed.
fn run(command: &mut Command) -> Result<String> {
    let program = format!("{command:?}");
    let output = command.output().map_err(RigError::io(&program))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(RigError::setup(program, String::from_utf8_lossy(&output.stderr).trim()))
    }
}

/// Publishing on one file system, with its record of writes and flushes.
pub struct Recording {
    file_system: FileSystem,
    way: Way,
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

/// What is recorded.
#[derive(Debug, Clone, Copy)]
pub struct Scene<'a> {
    /// The program `crash-step`.
    pub program: &'a Path,
    /// The file system.
    pub file_system: FileSystem,
    /// How live is switched.
    pub way: Way,
    /// What is done.
    pub course: Course,
    /// What is published.
    pub shape: Shape,
}

impl Recording {
    /// Publishes on a fresh file system below `dir`, which must be empty, and records.
    ///
    /// # Errors
    /// When the rig cannot be set up, or publishing does not work.
    pub fn make(dir: &Path, scene: &Scene<'_>, omission: Option<&Omission>) -> Result<Self> {
        let made = || RigError::io("making directories");
        for name in ["disk", "mounted", "work"] {
            fs::create_dir(dir.join(name)).map_err(made())?;
        }
        let (work, mounted) = (dir.join("work"), dir.join("mounted"));
        let Scene { program, file_system, way, course, shape } = *scene;
        let versions = shape.versions(20);
        let plan = plan::plan(course, &mut Publisher::new(&work)?, &versions)?;
        let stepper = Stepper::new(program, &work, way);

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
            carry_out(&stepper, planned, &root, omission)?;
            served.with(Disk::mark);
        }
        let events = served.with(Disk::take_log);
        on.unmount()?;
        Ok(Self { file_system, way, versions, plan, start, events, dir: dir.to_owned() })
    }

    /// Number of writes, flushes.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        let flushes = self.events.iter().filter(|event| matches!(event, Event::Flush)).count();
        let marks = self.events.iter().filter(|event| matches!(event, Event::Mark)).count();
        (self.events.len() - flushes - marks, flushes)
    }

    /// The moments that concern an omission: in the steps that it is in, and in those after them.
    fn moments(&self, omission: Option<&Omission>) -> Vec<usize> {
        let Some(omission @ Omission::One { .. }) = omission else { return (0..=self.events.len()).collect() };
        let is_mark = |event: &Event| matches!(event, Event::Mark);
        let ends: Vec<usize> = (1..).zip(&self.events).filter(|(_, event)| is_mark(event)).map(|(at, _)| at).collect();
        let mut moments = std::collections::BTreeSet::new();
        for (at, _) in self.plan.iter().enumerate().filter(|(_, step)| omission.in_step(step).is_some()) {
            let begin = at.checked_sub(1).map_or(0, |before| ends[before]);
            let end = ends.get(at + 1).or(ends.last()).copied().unwrap_or_default();
            moments.extend(begin..=end);
        }
        moments.into_iter().collect()
    }

    /// Cuts the power `states` times and looks at what is left, where `omission` made a difference if there
    /// is one. Stops after `violations_max`.
    ///
    /// # Errors
    /// When the rig fails.
    pub fn replay(
        &self,
        omission: Option<&Omission>,
        states: usize,
        seed: u64,
        violations_max: usize,
    ) -> Result<Tally> {
        let mut chance = ChaCha8Rng::seed_from_u64(seed);
        let moments = self.moments(omission);
        let mut cuts: Vec<(usize, u64)> =
            (0..states).map(|_| (moments[chance.random_range(0..moments.len())], chance.random())).collect();
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
        let checked = self.check_mounted(&Site::at(&mounted.join("www"), self.way), done);
        on.unmount()?;
        checked
    }

    fn tree(&self, live: Option<usize>) -> Option<Tree> {
        live.map(|live| self.versions[live].clone())
    }

    fn check_mounted(&self, site: &Site, done: usize) -> Result<()> {
        let last = done.checked_sub(1).map(|last| &self.plan[last]);
        let before = self.tree(last.and_then(|last| last.live));
        let next = self.plan.get(done).or(self.plan.last()).expect("the plan is not empty");
        let after = self.tree(next.live);
        let look = || {
            Tree::read(&site.live, &["uploads"])
                .map_err(|error| RigError::Violation(format!("live cannot be read: {error}")))
        };
        let live = look()?;
        ensure(live == before || live == after, || {
            let tree = |tree: &Option<Tree>| tree.clone().unwrap_or_default();
            let difference = tree(&live).difference(&tree(&before)).unwrap_or_else(|| "whether it is there".to_owned());
            format!("after {done} steps live is neither the tree of the last one ({difference}) nor the next's")
        })?;
        let trees = site
            .open()
            .map_err(|error| RigError::Violation(format!("after {done} steps: {}", error.refusal().reason)))?;
        let state = trees.state();
        drop(trees);
        ensure(look()? == live, || "opening switched live".to_owned())?;
        ensure(state.live == live.as_ref().map(Tree::version), || {
            format!("after {done} steps the state says that {:?} is live", state.live)
        })?;
        let none = BTreeSet::new();
        let was = last.map_or(&none, |last| &last.written);
        for name in was.union(&next.written) {
            let found = fs::read(site.live.join(name)).ok();
            let must = was.contains(name) && next.written.contains(name);
            ensure(found.as_deref() == Some(plan::WRITTEN) || !must, || {
                format!("after {done} steps {name}, which somebody wrote and flushed, is {found:?}")
            })?;
        }
        if let Some(earlier) = self.plan[..done]
            .iter()
            .flat_map(|step| &step.written)
            .find(|name| !was.contains(*name) && !next.written.contains(*name) && site.live.join(name).exists())
        {
            return Err(RigError::Violation(format!("after {done} steps {earlier}, which was deleted, is back")));
        }
        let acknowledged =
            self.plan[..done].iter().rev().find(|step| !matches!(step.act, Act::Write(_) | Act::Delete(_)));
        let acknowledged = acknowledged.map_or(0, |step| step.assignment.number.0);
        ensure(state.sequence.0 >= acknowledged, || {
            format!("{acknowledged} was acknowledged, the high-water mark is {}", state.sequence)
        })?;
        // What was acknowledged is what the next step builds on.
        let report = step(site, Some(&next.assignment.bytes), None);
        ensure(report == Report::Answered(next.outcome.clone()), || {
            format!("after {done} steps the next answers {report:?}, expected {:?}", next.outcome)
        })?;
        ensure(look()? == after, || "the next step does not lead to its tree".to_owned())
    }
}

/// Does one step, without what is to be left out.
fn carry_out(stepper: &Stepper, planned: &Planned, root: &Path, omission: Option<&Omission>) -> Result<()> {
    let order = Order::of(planned, root);
    match &planned.act {
        Act::Write(_) | Act::Delete(_) => return plan::by_others(&planned.act, &root.join("shop")),
        Act::AfterKill(injection) => {
            let ended = stepper.inject(&order, injection)?;
            ensure(matches!(ended, Ended::Killed), || format!("not killed: {ended:?}"))?;
        }
        Act::Order | Act::OrderWith(_) => {}
    }
    let report = match omission.and_then(|omission| omission.in_step(planned)) {
        None => stepper.plain(&order)?,
        Some(injection) => match stepper.inject(&order, &injection)? {
            Ended::Reported(report) => report,
            ended @ (Ended::Killed | Ended::Broke(_)) => {
                return Err(RigError::setup("leaving out a flush", format!("{ended:?}")));
            }
        },
    };
    ensure(report == Report::Answered(planned.outcome.clone()), || {
        format!("{}: answers {report:?}, expected {:?}", planned.kind, planned.outcome)
    })
}

impl<'a> Order<'a> {
    fn of(planned: &'a Planned, root: &'a Path) -> Self {
        let late = match planned.act {
            Act::OrderWith(name) => Some(root.join("shop").join(name)),
            Act::Order | Act::AfterKill(_) | Act::Write(_) | Act::Delete(_) => None,
        };
        Self { root, assignment: Some(&planned.assignment.bytes), late }
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
