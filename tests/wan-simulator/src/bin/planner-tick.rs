//! `planner-tick`: how long planning takes for 1,000 leaders with 40 copy operations each.

use std::collections::BTreeSet;

use clap::Parser;
use common::digest::Digest;
use common::time::Timestamp;
use planner::calendar::{Calendar, WeekSecond};
use planner::chunks::ChunkSet;
use planner::cost::Weights;
use planner::demand::Demand;
use planner::grant::Book;
use planner::issue::{note, orders, standing_edges};
use planner::network::{Network, SiteId};
use planner::plan::{Inputs, plan};
use planner::policy::WanPolicy;

/// How long planning takes
#[derive(Debug, Parser)]
struct Args {
    /// Leaders
    #[arg(long, default_value_t = 1000)]
    leaders: u32,
    /// Regions among which they are divided
    #[arg(long, default_value_t = 1)]
    regions: u32,
    /// Objects at the same time, of four classes each
    #[arg(long, default_value_t = 10)]
    objects: u32,
    /// How often each is measured
    #[arg(long, default_value_t = 9)]
    times: u32,
}

struct Fleet {
    network: Network,
    demands: Vec<Demand>,
}

fn fleet(args: &Args) -> Fleet {
    let mut network = Network::default();
    let cap = || Calendar::always(12_500_000);
    let home = network.add_region(None, None);
    let regions: Vec<_> = (1..args.regions).map(|_| network.add_region(None, None)).chain([home]).collect();
    for site in 0..=args.leaders {
        let region = if site == 0 { home } else { regions[site as usize % regions.len()] };
        network.add_site(region, None, cap(), cap()).expect("the region was just added");
    }
    let demands = (0..args.objects).map(|object| {
        let mut demand = Demand::new(Digest::of(&object.to_le_bytes()), WanPolicy::Mesh, 954, 4);
        demand.report(SiteId(0), ChunkSet::full(954));
        (1..=args.leaders).for_each(|site| demand.want(SiteId(site)));
        demand
    });
    Fleet { demands: demands.collect(), network }
}

/// Processor time of this thread so far, in milliseconds: what other programs take does not count.
fn processor_ms() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux keeps this file");
    let nanoseconds: f64 = text.split(' ').next().and_then(|word| word.parse().ok()).expect("it begins with a number");
    nanoseconds / 1e6
}

/// One tick as the CCM does it; how long in milliseconds of processor time.
fn tick(fleet: &Fleet, book: &mut Book, seconds: u32) -> f64 {
    let began = processor_ms();
    let (nobody, none, weights) = (BTreeSet::new(), BTreeSet::new(), Weights::default());
    let (now, week_second) = (Timestamp(u64::from(seconds) * 1_000_000), WeekSecond(seconds));
    let inputs = Inputs {
        network: &fleet.network,
        demands: &fleet.demands,
        fault_permille: &[],
        apart: &nobody,
        starving: &none,
        weights: &weights,
        now,
        week_second,
    };
    let plan = plan(&inputs, &standing_edges(&fleet.demands, book));
    note(book, &orders(&fleet.network, &fleet.demands, book, &plan, now, week_second));
    processor_ms() - began
}

fn main() {
    let args = Args::parse();
    let mut times: [Vec<f64>; 3] = Default::default();
    let (mut edges, mut after) = (0, 0);
    for _ in 0..args.times {
        let mut fleet = fleet(&args);
        let mut book = Book::default();
        times[0].push(tick(&fleet, &mut book, 0));
        edges = book.len();
        times[1].push(tick(&fleet, &mut book, 1));
        for site in (7..=args.leaders).step_by(20) {
            fleet.network.site_mut(SiteId(site)).expect("it was added").online = false;
            book.site_gone(SiteId(site));
        }
        times[2].push(tick(&fleet, &mut book, 2));
        after = book.len();
    }
    let median = |mut times: Vec<f64>| {
        times.sort_by(f64::total_cmp);
        (times[times.len() / 2], times[0])
    };
    let [from_nothing, quiet, twentieth_gone] = times.map(median);
    let outcome = serde_json::json!({
        "leaders": args.leaders,
        "grants": edges,
        "grants_after_a_twentieth_is_gone": after,
        "median_and_least_processor_ms": {
            "from_nothing": from_nothing,
            "nothing_changed": quiet,
            "a_twentieth_of_the_leaders_gone": twentieth_gone,
        },
    });
    println!("{outcome:#}");
}
