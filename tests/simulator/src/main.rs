//! `pressrun-simulator --seeds 0..2000`: runs seeds and says which one fails, and how to see it again.

use std::num::ParseIntError;
use std::ops::Range;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use pressrun_simulator::run::{Failure, Summary, run};

/// Whole segments in virtual time, by seed
#[derive(Debug, Parser)]
struct Args {
    /// Seeds to run, as FIRST..END
    #[arg(long, value_parser = seeds, default_value = "0..2000")]
    seeds: Range<u64>,
    /// Seeds at the same time
    #[arg(long, default_value_t = 2)]
    jobs: u64,
    /// Write everything that happens to standard error
    #[arg(long)]
    trace: bool,
    /// Go on after failures, up to this many
    #[arg(long, default_value_t = 1)]
    failures: usize,
}

fn seeds(text: &str) -> Result<Range<u64>, String> {
    let (first, end) = text.split_once("..").ok_or("say FIRST..END, such as 0..2000")?;
    let number = |text: &str| text.parse().map_err(|error: ParseIntError| error.to_string());
    Ok(number(first)?..number(end)?)
}

fn main() -> ExitCode {
    let args = Args::parse();
    let began = Instant::now();
    let next = AtomicU64::new(args.seeds.start);
    let failed = AtomicU64::new(0);
    let work = || {
        let mut results: Vec<Result<Summary, Failure>> = Vec::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= args.seeds.end || failed.load(Ordering::Relaxed) >= args.failures as u64 {
                return results;
            }
            let result = run(seed, args.trace);
            if let Err(failure) = &result {
                failed.fetch_add(1, Ordering::Relaxed);
                println!("{failure}");
            }
            results.push(result);
        }
    };
    let results: Vec<Result<Summary, Failure>> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..args.jobs.max(1)).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("a worker that panics has found a bug")).collect()
    });
    let good: Vec<Summary> = results.iter().filter_map(|result| result.as_ref().ok().copied()).collect();
    let steps: u64 = good.iter().map(|summary| summary.steps).sum();
    let delivered: u64 = good.iter().map(|summary| summary.delivered).sum();
    let time: Duration = good.iter().map(|summary| summary.virtual_time).sum();
    let slowest = good.iter().map(|summary| summary.healed_within).max().unwrap_or_default();
    println!(
        "{} seeds, {} failed; {steps} inputs, {delivered} datagrams, {:.1} h of virtual time, \
         well again within {slowest:.1?} at most; {:.1?} of real time",
        results.len(),
        results.len() - good.len(),
        time.as_secs_f64() / 3_600.0,
        began.elapsed()
    );
    if good.len() == results.len() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
