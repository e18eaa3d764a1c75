//! What it costs when a server, or the leader, dies when half of an object has been multicast.
//!
//! One segment on slowed links, real agents. Three publishes of new content of the same size: one undisturbed,
//! one in which a member is killed at half and started again at once, one in which the leader is killed at
//! half. Bytes are counted where the leader's link is, times are those of the agents' logs.

mod log;

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use log::{Line, lines};
use netlab::Host;
use netlab::address::Rate;
use netlab::farm::{Farm, FarmSpec};
use netlab::moment::Moment;
use netlab::trees::Dice;
use netlab::wait::wait_for;
use pressrun_netlab as netlab;
use serde_json::json;

/// Longest time of a publish.
const PATIENCE: Duration = Duration::from_secs(180);
/// More than a member lacked may be sent again, as a share of it.
const SENT_AGAIN_GOAL: f64 = 1.02;
/// The rest of a run whose leader died takes so much longer than undisturbed, beside the election.
const REST_GOAL: f64 = 1.05;
/// The goal of an election with the preset that is used.
const FAILOVER_GOAL: f64 = 1.0;

/// Kills a member and a leader when half of an object has been multicast.
#[derive(Debug, Parser)]
struct Arguments {
    /// The product's binary
    #[arg(long)]
    binary: PathBuf,
    /// Servers of the segment
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(3..=16))]
    servers: u8,
    /// Rate of every link of the LAN, in Mbit/s
    #[arg(long, default_value_t = 100)]
    mbit: u64,
    /// Size of the object, in MiB
    #[arg(long, default_value_t = 128)]
    mib: u64,
    /// Also write the results to this file, as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

/// One publish, and when half of it had been sent.
struct Under {
    run: u64,
    half_at: Moment,
    meter: netlab::farm::Meter,
}

struct Bench {
    farm: Farm,
    bytes: u64,
    published: u64,
}

impl Bench {
    fn start(arguments: &Arguments) -> Self {
        let spec = FarmSpec::of(&arguments.binary, 1, arguments.servers).lan_rate(Rate::mbit(arguments.mbit));
        Self { farm: Farm::start(spec, &[]), bytes: arguments.mib << 20, published: 0 }
    }

    fn leader(&self) -> Host {
        let known = self.farm.wait_for(PATIENCE, || self.farm.leader_of(1));
        known.expect("the segment has a leader")
    }

    /// Publishes new content, up to the moment when half of it has been sent.
    fn publish_half(&mut self) -> Under {
        self.published += 1;
        let content = Dice::of(self.published).bytes(self.bytes);
        fs::write(self.farm.staging().join("object"), content).expect("staging");
        let meter = self.farm.meter();
        let run = self.farm.publish_start(&["--quorum", "50%"]);
        self.farm.wait_in_session(run, 1, &meter, self.bytes / 2);
        Under { run, half_at: Moment::now(), meter }
    }

    /// What these servers' logs say from a moment on.
    fn said(&self, hosts: &[Host], from: Moment) -> Vec<(Moment, Host, Line)> {
        let of = |host: Host| lines(&self.farm.agent_log(host)).into_iter().map(move |(at, line)| (at, host, line));
        let mut said: Vec<_> =
            hosts.iter().copied().flat_map(of).filter(|(at, ..)| at.seconds_since(from).is_some()).collect();
        said.sort_by_key(|(at, ..)| *at);
        said
    }

    /// Waits for the end of the run, and gives the seconds from half of it until the last of these servers was
    /// prepared.
    fn rest(&self, under: &Under, hosts: &[Host]) -> f64 {
        let run = self.farm.wait_final(under.run, PATIENCE);
        assert!(matches!(run.state(), "done" | "partial"), "{run}");
        let said = self.said(hosts, under.half_at);
        let prepared = |host: &Host| said.iter().find(|(_, of, line)| of == host && *line == Line::Prepared);
        let seconds = hosts.iter().map(|host| {
            let (at, ..) = prepared(host).unwrap_or_else(|| panic!("{host} was never prepared: {run}"));
            at.seconds_since(under.half_at).expect("later")
        });
        seconds.fold(0.0, f64::max)
    }

    /// What the segment's servers have sent since the publish began.
    fn sent(&self, under: &Under) -> u64 {
        self.farm.segment_sent_since(1, &under.meter)
    }

    fn others(&self, than: Host) -> Vec<Host> {
        self.farm.hosts().into_iter().filter(|host| *host != than).collect()
    }
}

#[expect(clippy::cast_precision_loss, reason = "some megabytes")]
fn ratio(one: u64, other: u64) -> f64 {
    one as f64 / other.max(1) as f64
}

fn word(reached: bool) -> &'static str {
    if reached { "reached" } else { "missed" }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut bench = Bench::start(&arguments);

    let under = bench.publish_half();
    let leader = bench.leader();
    let rest = bench.rest(&under, &bench.others(leader));
    let sent = bench.sent(&under);
    println!("undisturbed: sent {:.4} of the object, the second half took {rest:.2} s", ratio(sent, bench.bytes));

    // A member dies, and comes back at once.
    let member = bench.others(leader)[0];
    let under = bench.publish_half();
    bench.farm.kill_agent(member);
    let mut writes = bench.farm.log_writes();
    bench.farm.start_agent(member);
    let held = wait_for(&mut writes, PATIENCE, || {
        bench.said(&[member], under.half_at).into_iter().find_map(|(.., line)| match line {
            Line::GoesOn { held_bytes } => Some(held_bytes),
            Line::Prepared | Line::Leads => None,
        })
    });
    let sent_before = bench.sent(&under);
    let held = held.unwrap_or_else(|| panic!("{member} does not go on with what it held"));
    let rest_member = bench.rest(&under, &bench.others(leader));
    let overhead = ratio(sent, bench.bytes);
    #[expect(clippy::cast_precision_loss, reason = "some megabytes")]
    let (lacked, again) =
        (sent_before as f64 / overhead - held as f64, (bench.sent(&under) as f64 - sent as f64) / overhead);
    let share = again / lacked;
    let member_reached = share <= SENT_AGAIN_GOAL;
    println!(
        "member killed: came back with {:.1} MB and lacked {:.1} MB of what had been sent; {:.1} MB were sent again, \
         {share:.3} of that ({SENT_AGAIN_GOAL}): {}; the rest took {rest_member:.2} s",
        ratio(held, 1_000_000),
        lacked / 1e6,
        again / 1e6,
        word(member_reached)
    );

    // The leader dies for good.
    let under = bench.publish_half();
    let leader = bench.leader();
    let killed_at = Moment::now();
    bench.farm.kill_agent(leader);
    let started = Instant::now();
    let others = bench.others(leader);
    let rest_leader = bench.rest(&under, &others);
    let leads = bench.said(&others, killed_at).into_iter().find(|(.., line)| *line == Line::Leads);
    let failover = leads.and_then(|(at, ..)| at.seconds_since(killed_at)).expect("another leads");
    let goal = FAILOVER_GOAL.max(failover) + REST_GOAL * rest;
    let leader_reached = rest_leader <= goal;
    println!(
        "leader killed: another led after {failover:.2} s, the others were prepared after {rest_leader:.2} s \
         ({goal:.2}): {}; the run ended after {:.1} s",
        word(leader_reached),
        started.elapsed().as_secs_f64()
    );
    if let Some(path) = &arguments.json {
        let result = json!({
            "servers": arguments.servers, "mbit": arguments.mbit, "bytes": bench.bytes, "rest_seconds": rest,
            "member_killed": { "held_bytes": held, "lacked_bytes": lacked, "sent_again_bytes": again,
                "share": share, "goal": SENT_AGAIN_GOAL, "goal_reached": member_reached, "rest_seconds": rest_member },
            "leader_killed": { "failover_seconds": failover, "rest_seconds": rest_leader, "goal_seconds": goal,
                "goal_reached": leader_reached },
        });
        if let Err(error) = fs::write(path, format!("{result:#}\n")) {
            eprintln!("bench-halfway: {} cannot be written: {error}", path.display());
            return ExitCode::FAILURE;
        }
    }
    if member_reached && leader_reached { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
