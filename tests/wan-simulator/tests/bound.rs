//! How near to the bound fleets come, in virtual time. The larger ones: `scripts/bench wan-simulated`.

use clap::Parser;
use pressrun_wan_simulator::{Outcome, Scenario, run};

#[derive(Parser)]
struct Args {
    #[command(flatten)]
    scenario: Scenario,
}

/// Runs with the checker looking on; what holds always is looked at here.
fn simulate(arguments: &str) -> Outcome {
    let arguments = ["test", "--check"].into_iter().chain(arguments.split_whitespace());
    let outcome = run(&Args::parse_from(arguments).scenario);
    assert!(outcome.violations.is_empty(), "{:?}", outcome.violations);
    assert!(outcome.over_capacity <= 1.02, "{outcome:?}");
    assert_eq!(outcome.verified_fetched_twice, 0);
    assert!(outcome.control_share < 0.003, "{outcome:?}");
    outcome
}

fn ratio(outcome: &Outcome) -> f64 {
    outcome.ratio.expect("every site that lives has the object")
}

#[test]
fn ten_equal_sites_are_done_within_a_twentieth_of_the_bound() {
    assert!(ratio(&simulate("--sites 10")) <= 1.05);
}

#[test]
fn a_hundred_equal_sites_are_done_within_eight_per_cent_of_the_bound() {
    assert!(ratio(&simulate("--sites 100")) <= 1.08);
}

#[test]
fn slow_sites_are_never_idle_and_hold_nobody_up() {
    for sites in [10, 100] {
        let outcome = simulate(&format!("--sites {sites} --slow-percent 10"));
        assert!(ratio(&outcome) <= 1.02, "{outcome:?}");
        assert!(outcome.fast_ratio.is_some_and(|ratio| ratio <= 1.15), "{outcome:?}");
    }
}

#[test]
fn when_a_twentieth_dies_half_way_the_others_are_done_within_fifteen_per_cent() {
    let outcome = simulate("--sites 100 --killed-percent 5");
    assert_eq!(outcome.died, 5);
    assert!(ratio(&outcome) <= 1.15, "{outcome:?}");
}

#[test]
fn each_border_is_crossed_by_one_copy() {
    let outcome = simulate("--sites 100 --regions 10 --region-mbit 100");
    assert!(outcome.copies_into_region <= 1.02, "{outcome:?}");
    assert!(ratio(&outcome) <= 1.15, "{outcome:?}");
}

#[test]
fn a_source_whose_way_up_falls_to_a_tenth_is_replaced_and_all_get_the_object() {
    assert!(ratio(&simulate("--sites 50 --bytes 200000000 --falling-percent 4")) <= 2.0);
}

#[test]
fn the_same_seed_gives_the_same_figures() {
    let seconds = |seed: u32| {
        let arguments = format!("--sites 20 --bytes 50000000 --least-factor 0.5 --seed {seed}");
        simulate(&arguments).last_s
    };
    assert_eq!(seconds(3), seconds(3));
    assert_ne!(seconds(3), seconds(4));
}
