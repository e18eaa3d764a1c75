//! The planner's rules, one by one, on fleets small enough to look at.

use std::collections::BTreeSet;

use common::digest::Digest;
use common::time::Timestamp;
use planner::calendar::{Calendar, WeekSecond};
use planner::check;
use planner::chunks::ChunkSet;
use planner::cost::Weights;
use planner::demand::Demand;
use planner::faults::Faults;
use planner::grant::Selector;
use planner::network::{Component, Network, SiteId};
use planner::plan::{Edge, Inputs, Plan, plan};
use planner::policy::WanPolicy;
use planner::tree::{Next, TreePlan};

const SOURCE: SiteId = SiteId(0);

/// Sites with these ways up and down, divided among so many regions; the source is the first and has a
/// region of its own when there is more than one.
fn network(regions: u32, rates: &[u64]) -> Network {
    let mut network = Network::default();
    let ids: Vec<_> = (0..=regions).map(|_| network.add_region(None, None)).collect();
    for (number, rate) in rates.iter().enumerate() {
        let region = if number == 0 || regions == 1 { ids[0] } else { ids[1 + number % regions as usize] };
        network.add_site(region, None, Calendar::always(*rate), Calendar::always(*rate)).expect("added above");
    }
    network
}

fn demand(network: &Network, policy: WanPolicy) -> Demand {
    let mut demand = Demand::new(Digest::of(b"object"), policy, 64, if policy == WanPolicy::Mesh { 4 } else { 1 });
    demand.report(SOURCE, ChunkSet::full(64));
    (1..network.sites().len()).for_each(|site| demand.want(SiteId(u32::try_from(site).expect("few"))));
    demand
}

#[derive(Default)]
struct Circumstances {
    apart: BTreeSet<(SiteId, SiteId)>,
    starving: BTreeSet<(usize, SiteId)>,
    fault_permille: Vec<u32>,
}

fn planned(network: &Network, demand: &Demand, standing: &[Edge], circumstances: &Circumstances) -> Plan {
    let demands = std::slice::from_ref(demand);
    let inputs = Inputs {
        network,
        demands,
        fault_permille: &circumstances.fault_permille,
        apart: &circumstances.apart,
        starving: &circumstances.starving,
        weights: &Weights::default(),
        now: Timestamp(0),
        week_second: WeekSecond(0),
    };
    let plan = plan(&inputs, standing);
    assert_eq!(check::structure(network, demands, &plan), []);
    assert_eq!(check::plan_capacity(network, &plan, WeekSecond(0)), []);
    plan
}

fn received(plan: &[Edge], site: u32) -> u64 {
    plan.iter().filter(|edge| edge.destination == SiteId(site)).map(|edge| edge.rate_bytes_per_sec).sum()
}

#[test]
fn equal_sites_all_receive_at_the_full_rate_and_every_way_up_is_used() {
    let network = network(1, &[100; 21]);
    let plan = planned(&network, &demand(&network, WanPolicy::Mesh), &[], &Circumstances::default());
    assert!((1..=20).all(|site| received(&plan, site) == 100));
    assert_eq!(plan.iter().filter(|edge| edge.source == SOURCE).count(), 4, "the source sends each chunk once");
}

#[test]
fn each_region_gets_one_copy_of_each_class() {
    let network = network(4, &[100; 33]);
    let demand = demand(&network, WanPolicy::Mesh);
    let plan = planned(&network, &demand, &[], &Circumstances::default());
    let copies = check::copies_into_regions(&network, std::slice::from_ref(&demand), &plan);
    assert_eq!(copies.into_values().collect::<Vec<_>>(), [1000; 4]);
    assert!((1..=32).all(|site| received(&plan, site) == 100));
}

#[test]
fn slow_sites_are_paced_at_their_own_rate_and_pass_nothing_on_to_fast_ones() {
    let rates: Vec<u64> = (0..=40).map(|site| if site % 10 == 9 { 1_000 } else { 10_000 }).collect();
    let network = network(1, &rates);
    let plan = planned(&network, &demand(&network, WanPolicy::Mesh), &[], &Circumstances::default());
    for site in 1..=40 {
        let is_slow = rates[site as usize] == 1_000;
        let expected = if is_slow { 1_000..=1_000 } else { 9_600..=10_000 };
        assert!(expected.contains(&received(&plan, site)), "site {site} receives {}", received(&plan, site));
    }
    let slow = |site: SiteId| rates[site.0 as usize] == 1_000;
    assert!(plan.iter().all(|edge| !slow(edge.source) || slow(edge.destination)));
}

#[test]
fn in_a_star_only_who_had_it_at_first_serves() {
    let network = network(1, &[100; 5]);
    let plan = planned(&network, &demand(&network, WanPolicy::Star), &[], &Circumstances::default());
    assert!(plan.iter().all(|edge| edge.source == SOURCE && edge.rate_bytes_per_sec == 25), "{plan:?}");
    assert_eq!(plan.len(), 4);
}

#[test]
fn who_lost_its_source_gets_another_and_all_others_keep_theirs() {
    let mut network = network(1, &[100; 21]);
    let demand = demand(&network, WanPolicy::Mesh);
    let before = planned(&network, &demand, &[], &Circumstances::default());
    network.site_mut(SiteId(1)).expect("added").online = false;
    let after = planned(&network, &demand, &before, &Circumstances::default());
    assert!((2..=20).all(|site| received(&after, site) == 100));
    let kept = before.iter().filter(|edge| ![edge.source, edge.destination].contains(&SiteId(1)));
    let lost = kept.clone().filter(|edge| !after.contains(edge)).count();
    assert!(lost <= 4, "{lost} of {} had to change places", kept.count());
}

#[test]
fn a_replaced_transfer_is_not_planned_again() {
    let network = network(1, &[100; 11]);
    let demand = demand(&network, WanPolicy::Mesh);
    let before = planned(&network, &demand, &[], &Circumstances::default());
    let replaced = before.iter().find(|edge| edge.source != SOURCE).expect("sites serve each other");
    let pair = (replaced.source, replaced.destination);
    let circumstances = Circumstances { apart: [pair].into(), ..Circumstances::default() };
    let after = planned(&network, &demand, &before, &circumstances);
    assert!(after.iter().all(|edge| (edge.source, edge.destination) != pair));
    assert_eq!(received(&after, replaced.destination.0), 100);
}

#[test]
fn who_starves_gets_a_second_source_for_any_chunk() {
    // Two hold a half each, nobody holds all: no tree has a root.
    let network = network(1, &[100; 3]);
    let mut demand = demand(&network, WanPolicy::Mesh);
    demand.want(SOURCE);
    demand.report(SOURCE, ChunkSet::prefix(64, 32));
    demand.report_chunk(SiteId(1), 40);
    let circumstances = Circumstances { starving: [(0, SiteId(2))].into(), ..Circumstances::default() };
    let plan = planned(&network, &demand, &[], &circumstances);
    let help: Vec<&Edge> = plan.iter().filter(|edge| edge.selector == Selector::Any).collect();
    assert_eq!(help.iter().map(|edge| edge.destination).collect::<Vec<_>>(), [SiteId(2)]);
}

#[test]
fn nothing_is_planned_over_what_has_failed_and_a_suspect_is_avoided() {
    let mut network = network(1, &[100; 9]);
    let demand = demand(&network, WanPolicy::Mesh);
    let mut faults = Faults::default();
    for destination in [2, 3, 4] {
        faults.failed(Timestamp(0), SiteId(1), SiteId(destination));
    }
    let fault_permille = faults.shares_permille(Timestamp(0), &network);
    assert!(fault_permille.iter().any(|share| *share > 0));
    faults.mark(Timestamp(0), &mut network);
    let failed = network.resources().iter().filter(|resource| resource.failed).map(|resource| resource.component);
    assert_eq!(failed.collect::<Vec<_>>(), [Component::SiteUp(SiteId(1))]);
    let plan = planned(&network, &demand, &[], &Circumstances { fault_permille, ..Circumstances::default() });
    assert!(plan.iter().all(|edge| edge.source != SiteId(1)));
    assert!(received(&plan, 1) > 0, "it can still receive");
}

#[test]
fn the_tree_of_002_is_booked_beside_everything_else() {
    let network = network(1, &[100; 4]);
    let demand = demand(&network, WanPolicy::Tree);
    let online: BTreeSet<SiteId> = (1..4).map(SiteId).collect();
    let mut tree = TreePlan::new(demand.object, SOURCE, (1..4).map(SiteId).collect(), 1);
    assert!(matches!(tree.ask_next(SOURCE, &online), Next::Serve(SiteId(1), _)));
    let under_way: Vec<Edge> = tree.edges(&network, 0).collect();
    assert_eq!(planned(&network, &demand, &under_way, &Circumstances::default()), under_way);
}
