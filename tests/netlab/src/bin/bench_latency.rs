//! How long one small change takes from the `publish` command until it is live on every server.
//!
//! The clock starts before the command's process does and stops when the last of all live
//! directories shows the new content. Each run is waited for before the next one begins.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use netlab::farm::{Farm, FarmSpec, SITE};
use netlab::trees::{self, Dice, Plan};
use netlab::wait::{Changes, wait_for};
use pressrun_netlab as netlab;
use serde_json::{Value, json};

/// Longest time for one change; beyond that something is broken.
const PATIENCE: Duration = Duration::from_secs(60);
/// The goal of the median.
const GOAL: Duration = Duration::from_secs(1);
/// The file that changes.
const FILE: &str = "part-0000/changing.html";
/// Its size.
const FILE_BYTES: u64 = 1024;

/// Measures from `publish` to live everywhere, one changed 1 KB file at a time.
#[derive(Debug, Parser)]
struct Arguments {
    /// The product's binary.
    #[arg(long)]
    binary: PathBuf,
    /// Number of measured runs.
    #[arg(long, default_value_t = 50)]
    runs: u32,
    /// Number of segments.
    #[arg(long, default_value_t = 2)]
    segments: u8,
    /// Number of servers in each.
    #[arg(long, default_value_t = 3)]
    servers: u8,
    /// Bytes of the tree in which the file changes.
    #[arg(long, default_value_t = 10_000_000)]
    tree_bytes: u64,
    /// Also write the results to this file, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// Middle, nearly worst and worst of some measurements, in seconds.
#[derive(Debug, Clone, Copy)]
struct Summary {
    median: f64,
    p99: f64,
    worst: f64,
}

impl Summary {
    /// By nearest rank. `None` of nothing.
    fn of(mut seconds: Vec<f64>) -> Option<Self> {
        seconds.sort_by(f64::total_cmp);
        // The smallest value that so many percent do not exceed.
        let rank = |percent: usize| seconds.get((seconds.len() * percent).div_ceil(100).checked_sub(1)?).copied();
        Some(Self { median: rank(50)?, p99: rank(99)?, worst: rank(100)? })
    }

    fn json(self) -> Value {
        json!({ "median_seconds": self.median, "p99_seconds": self.p99, "worst_seconds": self.worst })
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let Arguments { segments, servers, runs, tree_bytes, .. } = arguments;
    let farm = Farm::start(FarmSpec::of(&arguments.binary, segments, servers), &[]);
    trees::generate(&farm.staging(), Plan { seed: 1, bytes: tree_bytes, file_bytes: 20_000 }).expect("staging");
    let mut dice = Dice::of(2);
    fs::write(farm.staging().join(FILE), dice.bytes(FILE_BYTES)).expect("staging");
    farm.publish(&[]).done();

    let mut measured = Measured::default();
    for run in 1..=runs {
        let content = dice.bytes(FILE_BYTES);
        fs::write(farm.staging().join(FILE), &content).expect("staging");
        let mut waiting: Vec<PathBuf> = farm.hosts().into_iter().map(|host| farm.live(host).join(FILE)).collect();
        let places =
            farm.hosts().into_iter().map(|host| farm.live(host)).filter_map(|live| live.parent().map(Path::to_owned));
        let mut switches = Changes::of(places).expect("the places of live directories can be watched");
        let start = Instant::now();
        let publish = farm.cli_start(&["publish", SITE, "--wait"]);
        let live = wait_for(&mut switches, PATIENCE, || {
            waiting.retain(|path| fs::read(path).ok().as_ref() != Some(&content));
            waiting.is_empty().then_some(())
        });
        assert!(live.is_some(), "run {run} is not live: {waiting:?}: {}", publish.finish());
        measured.add("live on every server", start.elapsed().as_secs_f64());
        let publish = publish.finish().expect_code(0);
        measured.add("command ended", start.elapsed().as_secs_f64());
        for phase in farm.outcome(&publish).done().phases() {
            if let Some(seconds) = phase.seconds {
                measured.add(&format!("phase {}", phase.name), seconds);
            }
        }
    }
    report(&arguments, &measured)
}

/// Seconds by what they were spent for, in the order of first mention.
#[derive(Debug, Default)]
struct Measured(Vec<(String, Vec<f64>)>);

impl Measured {
    fn add(&mut self, what: &str, seconds: f64) {
        match self.0.iter_mut().find(|(name, _)| name == what) {
            Some((_, all)) => all.push(seconds),
            None => self.0.push((what.to_owned(), vec![seconds])),
        }
    }
}

/// Prints a table and writes the JSON.
fn report(arguments: &Arguments, measured: &Measured) -> ExitCode {
    let Arguments { segments, servers, runs, tree_bytes, .. } = arguments;
    let summaries: Vec<(&str, Summary)> =
        measured.0.iter().filter_map(|(name, all)| Some((name.as_str(), Summary::of(all.clone())?))).collect();
    let Some((_, everywhere)) = summaries.first() else {
        eprintln!("bench-latency: nothing was measured");
        return ExitCode::FAILURE;
    };
    println!("{runs} runs of one changed file of {FILE_BYTES} bytes in {tree_bytes}, {segments} x {servers} servers");
    println!("{:<28} {:>10} {:>10} {:>10}", "seconds", "median", "p99", "worst");
    for (name, summary) in &summaries {
        println!("{name:<28} {:>10.3} {:>10.3} {:>10.3}", summary.median, summary.p99, summary.worst);
    }
    let reached = everywhere.median <= GOAL.as_secs_f64();
    println!("goal: a median of at most {} s: {}", GOAL.as_secs(), if reached { "reached" } else { "missed" });
    let Some(path) = &arguments.json else { return ExitCode::SUCCESS };
    let rows: serde_json::Map<String, Value> =
        summaries.iter().map(|(name, summary)| ((*name).to_owned(), summary.json())).collect();
    let result = json!({
        "segments": segments, "servers": servers, "runs": runs, "file_bytes": FILE_BYTES, "tree_bytes": tree_bytes,
        "goal_seconds": GOAL.as_secs(), "goal_reached": reached, "summaries": rows,
    });
    match fs::write(path, format!("{result:#}\n")) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-latency: {} cannot be written: {error}", path.display());
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_by_nearest_rank() {
        let of_a_hundred = Summary::of((1..=100).rev().map(f64::from).collect()).expect("not empty");
        assert_eq!((of_a_hundred.median, of_a_hundred.p99, of_a_hundred.worst), (50.0, 99.0, 100.0));
        let of_one = Summary::of(vec![3.0]).expect("not empty");
        assert_eq!((of_one.median, of_one.p99, of_one.worst), (3.0, 3.0, 3.0));
        assert!(Summary::of(Vec::new()).is_none());
    }
}
