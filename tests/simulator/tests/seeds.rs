//! A share of the seeds with every test run; `cargo run -p pressrun-simulator -- --seeds 0..2000` runs
//! more of them, at some 5 ms of processor time each.

use pressrun_simulator::run::run;

#[test]
fn whatever_happens_the_invariants_hold_and_the_segment_is_well_in_the_end() {
    let mut steps = 0;
    for seed in 0..150 {
        match run(seed, false) {
            Ok(summary) => steps += summary.steps,
            Err(failure) => panic!("{failure}"),
        }
    }
    assert!(steps > 100_000, "something happens in a simulation: {steps} inputs");
}

#[test]
fn a_seed_always_comes_to_the_same() {
    for seed in [3, 5, 8] {
        assert_eq!(run(seed, false), run(seed, false));
    }
}
