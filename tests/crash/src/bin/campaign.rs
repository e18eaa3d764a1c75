//! The campaigns, whole: `campaign kill`, `errors`, `readers`, `uploads`, `power`, `speed`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use crash::error::{Result, RigError};
use crash::kill::{self, Scope, Tally};
use crash::operation::Operation;
use crash::power::plan::Course;
use crash::power::{self, FileSystem, Omission, Recording, Scene};
use crash::shapes::Shape;
use crash::site::Way;
use crash::speed::{self, Load};
use crash::{failing, lost, readers, uploads};

/// Tries to break the content interpreter.
#[derive(Debug, Parser)]
#[command(name = "campaign")]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Args)]
struct Where {
    /// Where sites are made. In memory by default: crashes of a process lose nothing there.
    #[arg(long, default_value = "/dev/shm")]
    dir: PathBuf,
    /// Only this way of switching.
    #[arg(long)]
    way: Vec<Way>,
    /// Only these shapes.
    #[arg(long)]
    shape: Vec<Shape>,
    /// Only these operations.
    #[arg(long)]
    operation: Vec<Operation>,
    /// Number of files in the shape of many.
    #[arg(long, default_value_t = 60)]
    scale: usize,
    /// Every how many-th point is taken.
    #[arg(long, default_value_t = 1)]
    stride: u32,
}

impl Where {
    fn shapes(&self) -> Vec<Shape> {
        if self.shape.is_empty() { Shape::ALL.to_vec() } else { self.shape.clone() }
    }

    /// Everything that is to be interrupted, one after the other.
    fn points<'a>(&'a self, program: &'a Path) -> Vec<(Scope<'a>, Shape, Operation)> {
        let mut points = Vec::new();
        for way in ways(&self.way) {
            for shape in self.shapes() {
                for operation in self.operations() {
                    let (dir, scale, stride) = (self.dir.as_path(), self.scale, self.stride);
                    points.push((Scope { program, dir, way, scale, stride, violations_max: 20 }, shape, operation));
                }
            }
        }
        points
    }

    fn operations(&self) -> Vec<Operation> {
        if self.operation.is_empty() { Operation::ALL.to_vec() } else { self.operation.clone() }
    }
}

#[derive(Debug, Subcommand)]
enum What {
    /// Kills at every system call of every operation, and of recovery.
    Kill {
        #[command(flatten)]
        place: Where,
        /// Leave out the recoveries.
        #[arg(long)]
        no_recovery: bool,
    },
    /// Reads while versions are swapped.
    Readers {
        /// Where the site is made.
        #[arg(long, default_value = "/dev/shm")]
        dir: PathBuf,
        /// Only this way of switching.
        #[arg(long)]
        way: Vec<Way>,
        /// Files to read, at least.
        #[arg(long, default_value_t = 10_000_000)]
        reads: u64,
        /// Swaps to make, at least.
        #[arg(long, default_value_t = 10_000)]
        swaps: u32,
    },
    /// Writes into an excluded directory while versions are swapped.
    Uploads {
        /// Where the site is made.
        #[arg(long, default_value = "/dev/shm")]
        dir: PathBuf,
        /// Only this way of switching.
        #[arg(long)]
        way: Vec<Way>,
        /// Swaps to make.
        #[arg(long, default_value_t = 1000)]
        swaps: u32,
        /// Of the writer's choices.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// The process that writes for `uploads`.
    #[command(hide = true)]
    UploadsWriter {
        /// The directory.
        dir: PathBuf,
        /// Of its choices.
        seed: u64,
    },
    /// Measures preparing, swapping and the disk that trees take.
    Speed {
        /// Where the site is made: a disk, for figures that mean something.
        #[arg(long, default_value = "/var/tmp")]
        dir: PathBuf,
        /// How live is switched.
        #[arg(long, default_value = "exchange")]
        way: Way,
        /// Files of the tree.
        #[arg(long, default_value_t = 25_000)]
        files: usize,
        /// Files that change.
        #[arg(long, default_value_t = 100)]
        changed: usize,
        /// Bytes of a file.
        #[arg(long, default_value_t = 8_000)]
        file_bytes: usize,
        /// Publishes.
        #[arg(long, default_value_t = 10)]
        publishes: usize,
        /// Rollbacks.
        #[arg(long, default_value_t = 200)]
        swaps: usize,
    },
    /// Cuts the power.
    Power {
        /// Where the rig is.
        #[arg(long, default_value = "/dev/shm")]
        dir: PathBuf,
        /// Only this way of switching.
        #[arg(long)]
        way: Vec<Way>,
        /// Only these courses of steps.
        #[arg(long)]
        course: Vec<Course>,
        /// Only these file systems.
        #[arg(long)]
        file_system: Vec<FileSystem>,
        /// Number of states for each file system, course and way of switching.
        #[arg(long, default_value_t = 500)]
        states: usize,
        /// Of the draw of states.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// What is published.
        #[arg(long, default_value = "mixed")]
        shape: Shape,
        /// Leave out flushes, one after the other, and say which are missed.
        #[arg(long)]
        omit: bool,
    },
    /// Loses the change that each flush of a directory is for, on a file system that keeps no order.
    Lost {
        #[command(flatten)]
        place: Where,
    },
    /// Fails every call with every error.
    Errors {
        #[command(flatten)]
        place: Where,
    },
}

fn main() -> ExitCode {
    match run(&Arguments::parse().what) {
        Ok(tally) if tally.violations.is_empty() => ExitCode::SUCCESS,
        Ok(tally) => {
            println!("{} VIOLATIONS", tally.violations.len());
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("campaign: {}", error.chain());
            ExitCode::from(2)
        }
    }
}

/// Those that were said, or both.
fn ways(said: &[Way]) -> Vec<Way> {
    if said.is_empty() { Way::ALL.to_vec() } else { said.to_vec() }
}

fn step_program() -> PathBuf {
    let own = std::env::current_exe().expect("a program knows where it is");
    own.with_file_name("crash-step")
}

/// With one flush left out at a time: each must be missed on some file system.
fn omissions(scene: &Scene<'_>, dir: &Path, all: &[FileSystem], draw: (usize, u64), total: &mut Tally) -> Result<()> {
    let (states, seed) = draw;
    let temporary = || tempfile::tempdir_in(dir).map_err(RigError::io("making a directory"));
    let mut omitted = power::flushes(temporary()?.path(), scene.program, scene.way, scene.course)?;
    omitted.extend(["syncfs", "fsync"].map(|call| Omission::All { call }));
    for omission in omitted {
        let mut missed = false;
        for file_system in all {
            let dir = temporary()?;
            let scene = Scene { file_system: *file_system, ..*scene };
            let recording = Recording::make(dir.path(), &scene, Some(&omission))?;
            let tally = recording.replay(Some(&omission), states, seed, usize::MAX)?;
            missed |= !tally.violations.is_empty();
            println!(
                "{:?} {:?} {file_system:?} without {omission}: {} of {} states are bad{}",
                scene.way,
                scene.course,
                tally.violations.len(),
                tally.interruptions,
                tally.violations.first().map(|first| format!(", the first: {first}")).unwrap_or_default()
            );
            total.interruptions += tally.interruptions;
        }
        if !missed {
            println!("NOBODY MISSES {omission} ({:?}, {:?})", scene.way, scene.course);
            total.violations.push(format!("nobody misses {omission}"));
        }
    }
    Ok(())
}

/// Says what one part came to, as it comes to it.
fn part(name: &str, total: &mut Tally, tally: Tally) {
    println!("{name}: {} interruptions, {} violations", tally.interruptions, tally.violations.len());
    for violation in &tally.violations {
        println!("  {violation}");
    }
    total.add(tally);
}

fn run(what: &What) -> Result<Tally> {
    let mut total = Tally::default();
    let program = step_program();
    match what {
        What::Kill { place, no_recovery } => {
            for (scope, shape, operation) in place.points(&program) {
                let name = format!("{:?} {shape:?} {operation:?}", scope.way);
                part(&name, &mut total, kill::operation(&scope, shape, operation)?);
                if !no_recovery && Operation::SWAPS.contains(&operation) {
                    let tally = kill::recovery(&scope, shape, operation)?;
                    part(&format!("{name}, recovery"), &mut total, tally);
                }
            }
        }
        What::Readers { dir, way, reads, swaps } => {
            for way in ways(way) {
                let found = readers::run(dir, way, *reads, *swaps)?;
                println!(
                    "{} reads by path, {} below pinned directories ({} outlived), switch p99 {:?}",
                    found.by_path, found.pinned, found.outlived, found.exchange_p99
                );
                part(&format!("{way:?} readers"), &mut total, found.tally);
            }
        }
        What::Uploads { dir, way, swaps, seed } => {
            let own = std::env::current_exe().map_err(RigError::io("finding this program"))?;
            for way in ways(way) {
                let found = uploads::run(dir, way, &own, *swaps, *seed)?;
                println!(
                    "{} operations of the writer during {} swaps, {} of them refused, {} deleted files came back",
                    found.operations, found.swaps, found.refused, found.returned
                );
                part(&format!("{way:?} uploads"), &mut total, found.tally);
            }
        }
        What::UploadsWriter { dir, seed } => {
            uploads::write(dir, *seed).map_err(RigError::io("writing"))?;
            return Ok(total);
        }
        What::Speed { dir, way, files, changed, file_bytes, publishes, swaps } => {
            let (files, changed, file_bytes) = (*files, *changed, *file_bytes);
            let load = Load { way: *way, files, changed, file_bytes, publishes: *publishes, swaps: *swaps };
            let measured = speed::measure(dir, &load)?;
            let [live, all] = measured.disk;
            println!("{files} files of {file_bytes} bytes, {changed} changed, in {}", dir.display());
            let [median, longest] = measured.prepare;
            println!("prepare: median {median:?}, longest {longest:?}; processor time {:?}", measured.prepare_worked);
            println!("commit: median {:?}, p99 {:?}", measured.commit[0], measured.commit[1]);
            println!("exchange: median {:?}, p99 {:?}", measured.exchange[0], measured.exchange[1]);
            println!(
                "disk: live {live}, live + backup + temp {all}, which is {:.3} of live and the changes twice",
                all as f64 / (live + 2 * measured.changed_bytes) as f64
            );
            return Ok(total);
        }
        What::Power { dir, way, course, file_system, states, seed, shape, omit } => {
            let all = if file_system.is_empty() { FileSystem::ALL.to_vec() } else { file_system.clone() };
            let courses = if course.is_empty() { Course::ALL.to_vec() } else { course.clone() };
            for way in ways(way) {
                for course in &courses {
                    let scene = Scene { program: &program, file_system: all[0], way, course: *course, shape: *shape };
                    if *omit {
                        omissions(&scene, dir, &all, (*states, *seed), &mut total)?;
                        continue;
                    }
                    for file_system in &all {
                        let dir = tempfile::tempdir_in(dir).map_err(RigError::io("making a directory"))?;
                        let scene = Scene { file_system: *file_system, ..scene };
                        let recording = Recording::make(dir.path(), &scene, None)?;
                        let (writes, flushes) = recording.counts();
                        let tally = recording.replay(None, *states, *seed, 20)?;
                        let name = format!("{way:?} {course:?} {file_system:?}, {writes} writes, {flushes} flushes");
                        part(&name, &mut total, tally);
                    }
                }
            }
        }
        What::Lost { place } => {
            let mut places: BTreeMap<String, bool> = BTreeMap::new();
            for (scope, shape, operation) in place.points(&program) {
                if shape != Shape::Mixed || !Operation::SWAPS.contains(&operation) {
                    continue;
                }
                for missed in lost::operation(&scope, operation)? {
                    total.interruptions += missed.states;
                    println!("{}: {}", missed.flush, missed.by.as_deref().unwrap_or("not missed here"));
                    *places.entry(missed.place).or_default() |= missed.by.is_some();
                }
            }
            for (place, _) in places.into_iter().filter(|(_, is_missed)| !is_missed) {
                println!("NOBODY MISSES {place}");
                total.violations.push(place);
            }
        }
        What::Errors { place } => {
            for (scope, shape, operation) in place.points(&program) {
                let name = format!("{:?} {shape:?} {operation:?}", scope.way);
                let tally = failing::operation(&scope, shape, operation, &failing::ERRORS, false)?;
                part(&name, &mut total, tally);
                let tally = failing::operation(&scope, shape, operation, &["EIO", "ENOSPC"], true)?;
                part(&format!("{name}, from then on"), &mut total, tally);
            }
        }
    }
    println!("in all: {} interruptions, {} violations", total.interruptions, total.violations.len());
    Ok(total)
}
