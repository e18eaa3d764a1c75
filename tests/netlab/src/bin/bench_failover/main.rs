//! How long a segment of real agents is without a leader when its leader is killed, and when it stops.
//!
//! The clock starts just before the signal is sent, and stops at the line with which another agent logs
//! that it leads; it announces that in the same turn. Then the former leader is started again, and the next
//! one is killed when all follow one leader and the CCM knows it.
//!
//! Also: how long two leaders last after a leader that was cut off is back, and whether anybody is elected while
//! the link is full for long.

mod saturated;
mod several;
mod view;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use netlab::Host;
use netlab::farm::{Farm, FarmSpec};
use netlab::moment::Moment;
use netlab::wait::{Changes, wait_for};
use pressrun_netlab as netlab;
use serde_json::{Value, json};
use view::{Said, View};

/// Longest time until another leads; beyond that something is broken.
const PATIENCE: Duration = Duration::from_secs(90);
/// Goal of a clean hand-over.
const HAND_OVER_GOAL: f64 = 0.050;
/// Goal of one leader after a partition has healed.
const HEALED_GOAL: f64 = 3.0;

/// Timers of the segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Preset {
    Lan,
    Fast,
    Seed,
}

impl Preset {
    fn name(self) -> &'static str {
        match self {
            Self::Lan => "lan",
            Self::Fast => "fast",
            Self::Seed => "seed",
        }
    }

    fn configuration(self) -> &'static str {
        match self {
            Self::Lan => "[lan]\npreset = \"lan\"\n",
            Self::Fast => "[lan]\npreset = \"fast\"\n",
            Self::Seed => "[lan]\npreset = \"seed\"\n",
        }
    }

    /// The goal of the 99th percentile, in seconds. For `seed` the sum of its timers and a second.
    fn goal(self) -> f64 {
        match self {
            Self::Lan => 1.0,
            Self::Fast => 0.350,
            Self::Seed => 5.0 + 10.0 + 12.0 + 1.0,
        }
    }
}

/// Measures how long a segment is without a leader.
#[derive(Debug, Parser)]
struct Arguments {
    /// The product's binary
    #[arg(long)]
    binary: PathBuf,
    /// How often the leader is killed
    #[arg(long, default_value_t = 200)]
    kills: u32,
    /// How often the leader is told to stop
    #[arg(long, default_value_t = 50)]
    hand_overs: u32,
    /// How often the leader is cut off, and joined again when another leads
    #[arg(long, default_value_t = 20)]
    partitions: u32,
    /// For how many minutes objects are multicast one after the other over a full link of 10 Mbit/s; not a
    /// single election may come of it
    #[arg(long, default_value_t = 0)]
    saturated: u64,
    /// Servers of the segment
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(2..=32))]
    servers: u8,
    /// Segments that are tried at once, each for its share of the times
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=32), conflicts_with = "saturated")]
    farms: u32,
    /// Timers
    #[arg(long, value_enum, default_value_t = Preset::Lan)]
    preset: Preset,
    /// Also write the results to this file, as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

impl Arguments {
    /// What is to be measured.
    fn rows(&self) -> Vec<Row> {
        let row = |leader, end, times, goal| Row { leader, end, times, goal, seconds: Vec::new() };
        vec![
            row("killed", End::Killed, self.kills, self.preset.goal()),
            row("stopped", End::Stopped, self.hand_overs, HAND_OVER_GOAL),
            row("cut off", End::CutOff, self.partitions, HEALED_GOAL),
        ]
    }
}

/// What was seen of leaders that end in one way.
#[derive(Debug)]
struct Row {
    leader: &'static str,
    end: End,
    times: u32,
    /// Of the 99th percentile, in seconds.
    goal: f64,
    seconds: Vec<f64>,
}

impl Row {
    /// Prints it and gives it as JSON, with whether the goal was reached; nothing where nothing was tried.
    fn report(&self) -> Option<(Value, bool)> {
        let Self { leader, times, goal, seconds, end: _ } = self;
        let [median, p99, worst] = summary(seconds)?;
        let is_reached = p99 <= *goal;
        let word = if is_reached { "reached" } else { "missed" };
        println!("{leader:<8} {times:>5} {median:>8.3} {p99:>8.3} {worst:>8.3} {goal:>8.3}  {word}");
        let json = json!({
            "leader": leader, "times": times, "median_seconds": median, "p99_seconds": p99, "worst_seconds": worst,
            "goal_seconds": goal, "goal_reached": is_reached, "seconds": seconds,
        });
        Some((json, is_reached))
    }
}

/// How a leader ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Killed,
    Stopped,
    /// Its network ends, for a while.
    CutOff,
}

/// The segment under test.
struct Bench {
    farm: Farm,
    writes: Changes,
    view: View,
}

impl Bench {
    fn start(arguments: &Arguments) -> Self {
        let spec = FarmSpec::of(&arguments.binary, 1, arguments.servers).agents(arguments.preset.configuration());
        let farm = Farm::start_without_site(spec);
        let view = View::of(farm.hosts().into_iter().map(|host| (host, farm.agent_log(host))));
        Self { writes: farm.log_writes(), farm, view }
    }

    /// Waits until all follow one leader and the CCM knows it, and has heard of its members.
    fn settle(&mut self) -> Host {
        let Self { farm, writes, view } = self;
        let settled = wait_for(writes, PATIENCE, || {
            view.news();
            view.settled()
        });
        let leader = settled.unwrap_or_else(|| panic!("no leader is agreed upon: {view:?}"));
        let known = farm.wait_for(PATIENCE, || (farm.leader_of(1) == Some(leader)).then_some(()));
        known.unwrap_or_else(|| panic!("the CCM does not know that {leader} leads"));
        leader
    }

    /// Cuts the leader off until another leads; gives the seconds from its return until all follow one.
    fn heal(&mut self) -> f64 {
        let leader = self.settle();
        self.farm.lab().set_cut_off(leader, true).expect("a host can be cut off");
        let Self { farm, writes, view } = self;
        let led = wait_for(writes, PATIENCE, || {
            view.news().iter().any(|(_, host, said)| *host != leader && matches!(said, Said::Leads(_))).then_some(())
        });
        led.unwrap_or_else(|| panic!("nobody leads without {leader}: {view:?}"));
        let began = Moment::now();
        farm.lab().set_cut_off(leader, false).expect("a host can be joined again");
        let one = wait_for(writes, PATIENCE, || {
            let last = view.news().last().map(|(at, ..)| *at);
            last.filter(|_| view.settled().is_some())?.seconds_since(began)
        });
        one.unwrap_or_else(|| panic!("two lead after {leader} is back: {view:?}"))
    }

    fn measure(&mut self, end: End) -> f64 {
        match end {
            End::Killed => self.replace(false),
            End::Stopped => self.replace(true),
            End::CutOff => self.heal(),
        }
    }

    /// Ends the leader, gently or not; gives the seconds until another led.
    fn replace(&mut self, gently: bool) -> f64 {
        let leader = self.settle();
        let began = Moment::now();
        if gently {
            self.farm.tell_agent_to_stop(leader);
        } else {
            self.farm.kill_agent(leader);
        }
        let Self { farm, writes, view } = self;
        let first = wait_for(writes, PATIENCE, || {
            view.news().into_iter().find_map(|(at, host, said)| match said {
                Said::Leads(_) if host != leader => at.seconds_since(began),
                Said::Leads(_) | Said::Follows(_) | Said::Nobody => None,
            })
        });
        let first = first.unwrap_or_else(|| panic!("nobody leads after {leader}: {view:?}"));
        if gently {
            farm.wait_agent_stopped(leader, PATIENCE);
        }
        farm.start_agent(leader);
        first
    }
}

/// Middle, nearly worst and worst, in seconds, by nearest rank. Nothing of nothing.
fn summary(seconds: &[f64]) -> Option<[f64; 3]> {
    let mut sorted = seconds.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = |percent: usize| sorted.get((sorted.len() * percent).div_ceil(100).checked_sub(1)?).copied();
    Some([rank(50)?, rank(99)?, rank(100)?])
}

fn load() -> String {
    fs::read_to_string("/proc/loadavg").unwrap_or_default().split(' ').take(3).collect::<Vec<_>>().join(" ")
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let load_before = load();
    let began = Instant::now();
    println!("{:<8} {:>5} {:>8} {:>8} {:>8} {:>8}  seconds", "leader", "times", "median", "p99", "worst", "goal");
    let mut saturated = Value::Null;
    let mut reached = true;
    let rows = if arguments.farms > 1 {
        match several::run(&arguments) {
            Ok(rows) => rows,
            Err(error) => {
                eprintln!("bench-failover: {error}");
                return ExitCode::FAILURE;
            }
        }
    } else {
        let mut bench = Bench::start(&arguments);
        let mut rows = arguments.rows();
        for row in &mut rows {
            row.seconds = (0..row.times).map(|_| bench.measure(row.end)).collect();
        }
        if arguments.saturated > 0 {
            let seen = bench.saturate(Duration::from_secs(60 * arguments.saturated));
            println!("{seen}");
            reached &= seen.elections == 0;
            saturated = seen.json();
        }
        rows
    };
    let reports: Vec<(Value, bool)> = rows.iter().filter_map(Row::report).collect();
    reached &= reports.iter().all(|(_, is_reached)| *is_reached);
    println!("load {load_before} before, {} after; {:.0?} in all", load(), began.elapsed());
    if let Some(path) = &arguments.json {
        let rows: Vec<Value> = reports.into_iter().map(|(json, _)| json).collect();
        let result = json!({ "preset": arguments.preset.name(), "servers": arguments.servers,
                "segments": arguments.farms, "load_before": load_before, "rows": rows, "saturated": saturated });
        if let Err(error) = fs::write(path, format!("{result:#}\n")) {
            eprintln!("bench-failover: {} cannot be written: {error}", path.display());
            return ExitCode::FAILURE;
        }
    }
    if reached { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_by_nearest_rank() {
        let hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(summary(&hundred), Some([50.0, 99.0, 100.0]));
        assert_eq!(summary(&[]), None);
    }
}
