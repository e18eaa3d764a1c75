//! Any fleet, any state of it, any sequence of events: nothing is over its capacity, every plan makes
//! sense, and planning in full, by what changed, and by region agree.

use std::collections::BTreeSet;
use std::time::Duration;

use common::digest::Digest;
use common::time::Timestamp;
use planner::calendar::{Calendar, WeekSecond, Window};
use planner::check;
use planner::chunks::ChunkSet;
use planner::cost::Weights;
use planner::demand::Demand;
use planner::grant::{Book, GrantId};
use planner::issue::{note, orders, standing_edges};
use planner::network::{Component, Network, RegionId, SiteId};
use planner::plan::{Edge, Inputs, Plan, Precomputed, plan, plan_changes, plan_region};
use planner::policy::WanPolicy;
use proptest::prelude::*;

#[derive(Debug, Clone)]
struct Fleet {
    network: Network,
    demands: Vec<Demand>,
    apart: BTreeSet<(SiteId, SiteId)>,
    starving: BTreeSet<(usize, SiteId)>,
}

impl Fleet {
    fn inputs<'a>(&'a self, weights: &'a Weights, seconds: u32) -> Inputs<'a> {
        Inputs {
            network: &self.network,
            demands: &self.demands,
            fault_permille: &[],
            apart: &self.apart,
            starving: &self.starving,
            weights,
            now: Timestamp(u64::from(seconds) * 1_000_000),
            week_second: WeekSecond(seconds),
        }
    }

    fn plan(&self, standing: &[Edge], seconds: u32) -> Plan {
        plan(&self.inputs(&Weights::default(), seconds), standing)
    }

    fn sites(&self) -> u32 {
        u32::try_from(self.network.sites().len()).expect("few")
    }
}

fn calendar() -> impl Strategy<Value = Calendar> {
    let window = (0u32..3, 1u32..3, 0u64..200).prop_map(|(from_minute, minutes, rate_bytes_per_sec)| Window {
        from_minute,
        minutes,
        rate_bytes_per_sec,
    });
    (1u64..400, prop::collection::vec(window, 0..2))
        .prop_map(|(rate_bytes_per_sec, windows)| Calendar { rate_bytes_per_sec, windows })
}

prop_compose! {
    fn fleets()(
        borders in prop::collection::vec((prop::option::of(calendar()), prop::option::of(calendar())), 1..4),
        racks in prop::collection::vec(prop::option::of(calendar()), 0..2),
        links in prop::collection::vec(calendar(), 0..2),
        sites in prop::collection::vec((0u32..4, prop::option::of(0u32..2), calendar(), calendar()), 2..24),
        objects in prop::collection::vec((1u32..40, 1u32..6, 0u8..2, 0u8..3), 1..4),
        holdings in prop::collection::vec((0u32..24, any::<u64>(), 0u8..4), 0..40),
    ) -> Fleet {
        let mut network = Network::default();
        let regions: Vec<RegionId> =
            borders.into_iter().map(|(inward, outward)| network.add_region(inward, outward)).collect();
        let racks: Vec<_> = racks
            .into_iter()
            .zip(&regions)
            .map(|(cap, region)| (*region, network.add_rack(*region, cap.clone(), cap).expect("known")))
            .collect();
        let links: Vec<_> = links.into_iter().map(|cap| network.add_link(cap)).collect();
        if regions.len() > 1 {
            network.route(regions[0], regions[1], links).expect("all known");
        }
        for (region, rack, up, down) in sites {
            let region = regions[region as usize % regions.len()];
            let rack = rack.and_then(|rack| racks.get(rack as usize));
            let rack = rack.filter(|(home, _)| *home == region).map(|(_, rack)| *rack);
            network.add_site(region, rack, up, down).expect("all known");
        }
        let count = u32::try_from(network.sites().len()).expect("few");
        let demands = objects.into_iter().zip(0u32..).map(|((chunks, classes, priority, policy), number)| {
            let policy = [WanPolicy::Mesh, WanPolicy::Star, WanPolicy::Mesh][policy as usize];
            let mut demand = Demand::new(Digest::of(&number.to_le_bytes()), policy, chunks, classes);
            demand.priority = priority;
            demand.report(SiteId(0), ChunkSet::full(chunks));
            (1..count).for_each(|site| demand.want(SiteId(site)));
            for (site, chunk_bits, what) in &holdings {
                let site = SiteId(site % count);
                match what {
                    0 => demand.report(site, ChunkSet::full(chunks)),
                    1 => demand.unwant(site),
                    _ => (0..chunks.min(64)).filter(|chunk| chunk_bits >> chunk & 1 == 1)
                        .for_each(|chunk| demand.report_chunk(site, chunk)),
                }
            }
            demand
        }).collect();
        Fleet { network, demands, apart: BTreeSet::new(), starving: BTreeSet::new() }
    }
}

#[derive(Debug, Clone)]
enum Happening {
    Chunk(u32, u32, u32),
    Complete(u32, u32),
    Gone(u32),
    Back(u32),
    Starves(u32, u32),
    Apart(u32, u32),
    Measured(u32, u64),
    Confirm(u64),
    Stop(u64),
    Seconds(u32),
}

fn happenings() -> impl Strategy<Value = Vec<Happening>> {
    let one = prop_oneof![
        4 => (0u32..4, 0u32..24, 0u32..40).prop_map(|(object, site, chunk)| Happening::Chunk(object, site, chunk)),
        1 => (0u32..4, 0u32..24).prop_map(|(object, site)| Happening::Complete(object, site)),
        1 => (0u32..24).prop_map(Happening::Gone),
        1 => (0u32..24).prop_map(Happening::Back),
        1 => (0u32..4, 0u32..24).prop_map(|(object, site)| Happening::Starves(object, site)),
        1 => (0u32..24, 0u32..24).prop_map(|(source, destination)| Happening::Apart(source, destination)),
        1 => (0u32..24, 1u64..300).prop_map(|(site, rate)| Happening::Measured(site, rate)),
        3 => (0u64..60).prop_map(Happening::Confirm),
        3 => (0u64..60).prop_map(Happening::Stop),
        2 => (1u32..70).prop_map(Happening::Seconds),
    ];
    prop::collection::vec(one, 1..40)
}

fn happens(fleet: &mut Fleet, book: &mut Book, seconds: &mut u32, what: &Happening) {
    let count = fleet.sites();
    let objects = u32::try_from(fleet.demands.len()).expect("few");
    let site = |number: u32| SiteId(number % count);
    match *what {
        Happening::Chunk(object, number, chunk) => {
            fleet.demands[(object % objects) as usize].report_chunk(site(number), chunk);
        }
        Happening::Complete(object, number) => {
            let demand = &mut fleet.demands[(object % objects) as usize];
            demand.report(site(number), ChunkSet::full(demand.chunks()));
        }
        Happening::Gone(number) => {
            fleet.network.site_mut(site(number)).expect("known").online = false;
            book.site_gone(site(number));
        }
        Happening::Back(number) => fleet.network.site_mut(site(number)).expect("known").online = true,
        Happening::Starves(object, number) => {
            fleet.starving.insert(((object % objects) as usize, site(number)));
        }
        Happening::Apart(source, destination) => {
            fleet.apart.insert((site(source), site(destination)));
        }
        Happening::Measured(number, rate) => {
            let up = fleet.network.resource_mut(Component::SiteUp(site(number))).expect("known");
            up.measured_bytes_per_sec = Some(rate);
        }
        Happening::Confirm(id) => book.rate_confirmed(GrantId(id)),
        // Only what was withdrawn stops by itself.
        Happening::Stop(id) if book.get(GrantId(id)).is_some_and(|standing| standing.withdrawn) => {
            book.stopped(GrantId(id));
        }
        Happening::Stop(_) => (),
        Happening::Seconds(passed) => *seconds += passed,
    }
}

fn without_rates(plan: &[Edge]) -> BTreeSet<(usize, planner::grant::Selector, SiteId, SiteId)> {
    plan.iter().map(|edge| (edge.demand, edge.selector, edge.destination, edge.source)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::default())]

    #[test]
    fn whatever_happens_nothing_is_over_its_capacity_and_every_plan_makes_sense(
        fleet in fleets(), happenings in happenings(),
    ) {
        let (mut fleet, mut book, mut seconds) = (fleet, Book::default(), 0);
        for happening in &happenings {
            happens(&mut fleet, &mut book, &mut seconds, happening);
            let now = Timestamp(u64::from(seconds) * 1_000_000);
            book.forget_ended(now);
            let plan = fleet.plan(&standing_edges(&fleet.demands, &book), seconds);
            prop_assert_eq!(check::structure(&fleet.network, &fleet.demands, &plan), []);
            prop_assert_eq!(check::plan_capacity(&fleet.network, &plan, WeekSecond(seconds)), []);
            let orders = orders(&fleet.network, &fleet.demands, &book, &plan, now, WeekSecond(seconds));
            note(&mut book, &orders);
            let over = check::over_capacity(&fleet.network, &book, now, WeekSecond(seconds));
            prop_assert_eq!(over, [], "after {:?}", happening);
        }
    }

    #[test]
    fn a_plan_is_kept_when_nothing_changes_and_planning_by_changes_agrees_with_planning_in_full(
        fleet in fleets(), happening in happenings(),
    ) {
        let first = fleet.plan(&[], 0);
        let again = fleet.plan(&first, 0);
        let changed_nowhere = plan_changes(&fleet.inputs(&Weights::default(), 0), &again, &BTreeSet::new());
        let in_full = fleet.plan(&again, 0);
        prop_assert_eq!(&changed_nowhere, &in_full);

        let (mut fleet, mut book, mut seconds) = (fleet, Book::default(), 0);
        let site = match happening[0] {
            Happening::Chunk(_, site, _) | Happening::Complete(_, site) | Happening::Gone(site) | Happening::Back(site) => site,
            Happening::Starves(..)
            | Happening::Apart(..)
            | Happening::Measured(..)
            | Happening::Confirm(_)
            | Happening::Stop(_)
            | Happening::Seconds(_) => return Ok(()),
        };
        happens(&mut fleet, &mut book, &mut seconds, &happening[0]);
        let region = fleet.network.site(SiteId(site % fleet.sites())).expect("known").region;
        let inputs_weights = Weights::default();
        let inputs = fleet.inputs(&inputs_weights, 0);
        prop_assert_eq!(plan_changes(&inputs, &again, &[region].into()), plan(&inputs, &again));
    }

    #[test]
    fn the_plan_of_a_region_is_what_the_whole_plan_has_for_it(fleet in fleets()) {
        let weights = Weights::default();
        let inputs = fleet.inputs(&weights, 0);
        // What is crowded out by something more important is planned anew as a whole.
        prop_assume!(fleet.demands.iter().all(|demand| demand.priority == fleet.demands[0].priority));
        let whole = without_rates(&plan(&inputs, &[]));
        for region in 0..fleet.network.region_count() {
            let part = plan_region(&inputs, &[], RegionId(u32::try_from(region).expect("few")));
            for edge in without_rates(&part) {
                prop_assert!(whole.contains(&edge), "{edge:?} is in the region's plan only");
            }
        }
    }

    #[test]
    fn a_plan_made_ahead_is_used_as_long_as_nothing_has_changed(fleet in fleets()) {
        let weights = Weights::default();
        let ahead = || Precomputed::new(&fleet.inputs(&weights, 600), &[]);
        prop_assert_eq!(ahead().take(&fleet.inputs(&weights, 607), &[]), Some(fleet.plan(&[], 607)));
        let mut changed = fleet.clone();
        let site = changed.network.site_mut(SiteId(1)).expect("two at least");
        site.online = false;
        prop_assert_eq!(ahead().take(&changed.inputs(&weights, 607), &[]), None);
        let mut reported = fleet.clone();
        let demand = &mut reported.demands[0];
        demand.report(SiteId(1), ChunkSet::empty(demand.chunks()));
        demand.report_chunk(SiteId(1), 0);
        prop_assume!(reported.demands != fleet.demands);
        prop_assert_eq!(ahead().take(&reported.inputs(&weights, 607), &[]), None);
    }
}

#[test]
fn a_window_that_closes_is_respected_before_it_closes() {
    let mut network = Network::default();
    let region = network.add_region(None, None);
    let closing = Calendar {
        rate_bytes_per_sec: 100,
        windows: vec![Window { from_minute: 1, minutes: 1, rate_bytes_per_sec: 40 }],
    };
    network.add_site(region, None, closing, Calendar::always(100)).expect("known");
    network.add_site(region, None, Calendar::always(100), Calendar::always(100)).expect("known");
    let mut demand = Demand::new(Digest::of(b"o"), WanPolicy::Mesh, 8, 1);
    demand.report(SiteId(0), ChunkSet::full(8));
    demand.want(SiteId(1));
    let fleet = Fleet { network, demands: vec![demand], apart: BTreeSet::new(), starving: BTreeSet::new() };
    let rate = |seconds: u32| fleet.plan(&[], seconds).iter().map(|edge| edge.rate_bytes_per_sec).sum::<u64>();
    assert_eq!((rate(0), rate(48), rate(49), rate(60)), (100, 100, 40, 40));
    let lifetime = planner::grant::GRANT_LIFETIME;
    assert_eq!(lifetime, Duration::from_secs(10), "a grant given in second 48 has ended by 60, with a second to spare");
}

#[test]
fn a_more_important_object_takes_the_place_of_a_less_important_one() {
    let mut network = Network::default();
    let region = network.add_region(None, None);
    for _ in 0..3 {
        network.add_site(region, None, Calendar::always(100), Calendar::always(100)).expect("known");
    }
    let demand = |name: &str, priority| {
        let mut demand = Demand::new(Digest::of(name.as_bytes()), WanPolicy::Mesh, 40, 4);
        demand.priority = priority;
        demand.report(SiteId(0), ChunkSet::full(40));
        [1, 2].into_iter().for_each(|site| demand.want(SiteId(site)));
        demand
    };
    let mut fleet =
        Fleet { network, demands: vec![demand("slow", 5)], apart: BTreeSet::new(), starving: BTreeSet::new() };
    let before = fleet.plan(&[], 0);
    assert_eq!(before.len(), 8);
    fleet.demands.push(demand("urgent", 1));
    let after = fleet.plan(&before, 0);
    let urgent: u64 = after.iter().filter(|edge| edge.demand == 1).map(|edge| edge.rate_bytes_per_sec).sum();
    assert_eq!(urgent, 200, "{after:?}");
}
