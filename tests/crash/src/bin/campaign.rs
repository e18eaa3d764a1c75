//! The campaigns, whole: `campaign kill`, `errors`, `readers`, `uploads`, `power`, `speed`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use crash::error::Result;
use crash::failing;
use crash::kill::{self, Scope, Tally};
use crash::operation::Operation;
use crash::shapes::Shape;

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
