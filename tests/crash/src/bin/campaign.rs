//! The campaigns, whole: `campaign kill`, `errors`, `readers`, `uploads`, `power`, `speed`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use crash::error::{Result, RigError};
use crash::kill::{self, Scope, Tally};
use crash::operation::Operation;
use crash::power::{FileSystem, Omission, Recording};
use crash::shapes::Shape;
use crash::speed::{self, Load};
use crash::{failing, readers, uploads};

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
        /// Only these file systems.
        #[arg(long)]
        file_system: Vec<FileSystem>,
        /// Number of states on each.
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

fn step_program() -> PathBuf {
    let own = std::env::current_exe().expect("a program knows where it is");
    own.with_file_name("crash-step")
}

/// With one flush left out at a time: those that matter must be missed.
fn omissions(
    program: &std::path::Path,
    dir: &std::path::Path,
    file_system: FileSystem,
    shape: Shape,
    states: usize,
    seed: u64,
    total: &mut Tally,
) -> Result<()> {
    let mut all =
        vec![Omission { call: "syncfs".to_owned(), nth: None }, Omission { call: "fsync".to_owned(), nth: None }];
    all.extend((1..=9).map(|nth| Omission { call: "fsync".to_owned(), nth: Some(nth) }));
    for omission in all {
        let dir = tempfile::tempdir_in(dir).map_err(RigError::io("making a directory"))?;
        let recording = Recording::make(dir.path(), program, file_system, shape, Some(&omission))?;
        let tally = recording.replay(states, seed, usize::MAX)?;
        let which = omission.nth.map_or_else(|| "every".to_owned(), |nth| format!("number {nth}"));
        println!(
            "{file_system:?} without {} {which}: {} of {} states are bad{}",
            omission.call,
            tally.violations.len(),
            tally.interruptions,
            tally.violations.first().map(|first| format!(", the first: {first}")).unwrap_or_default()
        );
        if omission.nth.is_none() && tally.violations.is_empty() {
            total.violations.push(format!("{file_system:?}: nobody misses {}", omission.call));
        }
        total.interruptions += tally.interruptions;
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
    let scope = |place: &Where| -> (PathBuf, usize, u32) { (place.dir.clone(), place.scale, place.stride) };
    match what {
        What::Kill { place, no_recovery } => {
            let (dir, scale, stride) = scope(place);
            let scope = Scope { program: &program, dir: &dir, scale, stride, violations_max: 20 };
            for shape in place.shapes() {
                for operation in place.operations() {
                    part(&format!("{shape:?} {operation:?}"), &mut total, kill::operation(&scope, shape, operation)?);
                    if !no_recovery && Operation::SWAPS.contains(&operation) {
                        let tally = kill::recovery(&scope, shape, operation)?;
                        part(&format!("{shape:?} {operation:?}, recovery"), &mut total, tally);
                    }
                }
            }
        }
        What::Readers { dir, reads, swaps } => {
            let found = readers::run(dir, *reads, *swaps)?;
            println!(
                "{} reads by path, {} below pinned directories ({} outlived), exchange p99 {:?}",
                found.by_path, found.pinned, found.outlived, found.exchange_p99
            );
            part("readers", &mut total, found.tally);
        }
        What::Uploads { dir, swaps, seed } => {
            let own = std::env::current_exe().map_err(RigError::io("finding this program"))?;
            let found = uploads::run(dir, &own, *swaps, *seed)?;
            println!(
                "{} operations of the writer during {} swaps, {} of them refused, {} deleted files came back",
                found.operations, found.swaps, found.refused, found.returned
            );
            part("uploads", &mut total, found.tally);
        }
        What::UploadsWriter { dir, seed } => {
            uploads::write(dir, *seed).map_err(RigError::io("writing"))?;
            return Ok(total);
        }
        What::Speed { dir, files, changed, file_bytes, publishes, swaps } => {
            let (files, changed, file_bytes) = (*files, *changed, *file_bytes);
            let load = Load { files, changed, file_bytes, publishes: *publishes, swaps: *swaps };
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
        What::Power { dir, file_system, states, seed, shape, omit } => {
            let all = if file_system.is_empty() { FileSystem::ALL.to_vec() } else { file_system.clone() };
            for file_system in all {
                if *omit {
                    omissions(&program, dir, file_system, *shape, *states, *seed, &mut total)?;
                    continue;
                }
                let dir = tempfile::tempdir_in(dir).map_err(RigError::io("making a directory"))?;
                let recording = Recording::make(dir.path(), &program, file_system, *shape, None)?;
                let (writes, flushes) = recording.counts();
                let tally = recording.replay(*states, *seed, 20)?;
                part(&format!("{file_system:?}, {writes} writes, {flushes} flushes"), &mut total, tally);
            }
        }
        What::Errors { place } => {
            let (dir, scale, stride) = scope(place);
            let scope = Scope { program: &program, dir: &dir, scale, stride, violations_max: 20 };
            for shape in place.shapes() {
                for operation in place.operations() {
                    let tally = failing::operation(&scope, shape, operation, &failing::ERRORS, false)?;
                    part(&format!("{shape:?} {operation:?}"), &mut total, tally);
                    let tally = failing::operation(&scope, shape, operation, &["EIO", "ENOSPC"], true)?;
                    part(&format!("{shape:?} {operation:?}, from then on"), &mut total, tally);
                }
            }
        }
    }
    println!("in all: {} interruptions, {} violations", total.interruptions, total.violations.len());
    Ok(total)
}
