//! Prints what a multicast session costs on a simulated segment, by members and loss, in virtual time and
//! with the code that runs on real ones.
//!
//! `cargo run --release -p pressrun-protocol --example session-table [MiB [members]]`: objects of 64 MiB
//! and up to 1,000 members by default.

// The names that the simulation finds in its parent.
use pressrun_protocol::session::*;

#[path = "../src/session/simulation.rs"]
#[allow(dead_code, reason = "the tests look at more of it")]
mod simulation;

use simulation::{Plan, id};

const MIB: u64 = 1 << 20;
/// 100 Mbit/s, as in the laboratory.
const RATE_BYTES_PER_SEC: u64 = 12_500_000;

struct Case {
    name: &'static str,
    members: usize,
    loss_ppm: u32,
    burst: u32,
    straggler: bool,
    scheme: Scheme,
}

#[derive(Clone, Copy)]
enum Scheme {
    Default,
    ParityAtEndOfPass,
    NamedInStream,
    /// Named symbols, at the end of each pass.
    Of002,
}

impl Scheme {
    fn name(self) -> &'static str {
        match self {
            Self::Default => "parity, in stream",
            Self::ParityAtEndOfPass => "parity, end of pass",
            Self::NamedInStream => "named, in stream",
            Self::Of002 => "named, end of pass (002)",
        }
    }

    fn configure(self, config: &mut SenderConfig) {
        let (fec, repair) = match self {
            Self::Default => (true, Repair::InStream),
            Self::ParityAtEndOfPass => (true, Repair::EndOfPass),
            Self::NamedInStream => (false, Repair::InStream),
            Self::Of002 => (false, Repair::EndOfPass),
        };
        (config.fec, config.repair) = (fec, repair);
        config.rate.rate_bytes_per_sec = RATE_BYTES_PER_SEC;
        config.rate.adaptive = false;
    }
}

fn cases() -> Vec<Case> {
    let case = |name: &'static str, members: usize, loss_ppm: u32| Case {
        name,
        members,
        loss_ppm,
        burst: 1,
        straggler: false,
        scheme: Scheme::Default,
    };
    let mut cases = vec![
        case("0 %", 16, 0),
        case("1 %", 16, 10_000),
        case("5 %", 16, 50_000),
        Case { burst: 10, ..case("5 %, bursts of 10", 16, 50_000) },
        Case { straggler: true, ..case("one at 30 %, others 0 %", 16, 0) },
    ];
    for scheme in [Scheme::ParityAtEndOfPass, Scheme::NamedInStream, Scheme::Of002] {
        cases.push(Case { scheme, ..case("1 %", 16, 10_000) });
        cases.push(Case { scheme, ..case("5 %", 16, 50_000) });
    }
    for members in [50, 200, 1000] {
        cases.push(case("1 %", members, 10_000));
        cases.push(case("5 %", members, 50_000));
    }
    cases
}

fn main() {
    let mut numbers = std::env::args().skip(1).filter_map(|argument| argument.parse::<u64>().ok());
    let bytes = numbers.next().unwrap_or(64) * MIB;
    let members_max = numbers.next().map_or(usize::MAX, |members| members as usize);
    let limit_secs = bytes as f64 / RATE_BYTES_PER_SEC as f64;
    println!("Object of {} MiB at 100 Mbit/s.", bytes / MIB);
    println!(
        "| members | loss | scheme | sent / size | time / limit | passes | reports besides acknowledgements | a pass | 4 log2 N |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for case in cases().into_iter().filter(|case| case.members <= members_max) {
        let mut plan = Plan { bytes, loss_ppm: case.loss_ppm, burst: case.burst, ..Plan::of(case.members, 1, 1) };
        case.scheme.configure(&mut plan.config);
        if case.straggler {
            plan.straggler = Some((3, 300_000));
        }
        let outcome = plan.run();
        let last = outcome.completed_at.values().max().map_or(0.0, |at| at.0 as f64 / 1e6);
        assert_eq!(outcome.completed_at.len() + outcome.failed.len(), case.members, "nobody is forgotten");
        assert!(outcome.failed.keys().all(|failed| case.straggler && *failed == id(3)), "{:?}", outcome.failed);
        println!(
            "| {} | {} | {} | {:.4} | {:.4} | {} | {} | {:.1} | {:.1} |",
            case.members,
            case.name,
            case.scheme.name(),
            outcome.sent_ratio(),
            last / limit_secs,
            outcome.stats.passes,
            outcome.feedback,
            f64::from(outcome.feedback) / f64::from(outcome.stats.passes),
            4.0 * (case.members as f64).log2(),
        );
    }
}
