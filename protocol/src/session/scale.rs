//! What the session promises about many members and much loss, on a simulated segment of the size of a
//! test. `examples/session-table.rs` prints the same for larger objects.
//!
//! The goals speak of bytes on the wire, headers of Ethernet and all messages included, over the bytes
//! of the object: without any loss that is 1.062.

use std::collections::BTreeMap;
use std::time::Duration;

use common::time::Timestamp;

use super::simulation::{Outcome, Plan, id};
use super::*;

const MIB: u64 = 1 << 20;

/// At the rate of 100 Mbit/s, as in the laboratory.
fn plan(members: usize, bytes: u64, loss_ppm: u32, seed: u64) -> Plan {
    let mut plan = Plan { bytes, loss_ppm, ..Plan::of(members, 1, seed) };
    plan.config.rate.rate_bytes_per_sec = 12_500_000;
    plan.config.rate.adaptive = false;
    plan
}

/// The time that the object takes at the rate, without headers and losses.
fn at_the_limit(outcome: &Outcome) -> Duration {
    Duration::from_micros(outcome.bytes * 2 / 25)
}

fn time_ratio(outcome: &Outcome) -> f64 {
    outcome.finished_at.since(Timestamp::ZERO).as_secs_f64() / at_the_limit(outcome).as_secs_f64()
}

#[test]
fn sixteen_members_cost_little_more_than_one_whatever_is_lost() {
    for (loss_ppm, burst, sent_max, time_max) in
        [(0, 1, 1.07, 1.10), (10_000, 1, 1.10, 1.14), (50_000, 1, 1.17, 1.22), (50_000, 10, 1.25, 1.30)]
    {
        for seed in 0..3 {
            let outcome = Plan { burst, ..plan(16, 8 * MIB, loss_ppm, seed) }.run();
            assert!(outcome.all_complete(16), "{:?}", outcome.failed);
            let (sent, time) = (outcome.sent_ratio(), time_ratio(&outcome));
            assert!(sent <= sent_max, "{loss_ppm} ppm in bursts of {burst}, seed {seed}: sent {sent:.4}");
            assert!(time <= time_max, "{loss_ppm} ppm in bursts of {burst}, seed {seed}: time {time:.4}");
        }
    }
}

#[test]
fn one_member_that_loses_three_in_ten_does_not_hold_fifteen_others_up() {
    for seed in 0..3 {
        let outcome = Plan { straggler: Some((3, 300_000)), ..plan(16, 8 * MIB, 0, seed) }.run();
        assert_eq!(outcome.failed, BTreeMap::from([(id(3), Failure::Straggling)]), "seed {seed}");
        assert_eq!(outcome.completed_at.len(), 15);
        let others = *outcome.completed_at.values().max().expect("fifteen");
        let time = others.since(Timestamp::ZERO).as_secs_f64() / at_the_limit(&outcome).as_secs_f64();
        assert!(time <= 1.15, "seed {seed}: the others after {time:.4}");
    }
}

#[test]
fn two_stragglers_are_mended_by_multicast_when_the_others_are_complete() {
    let mut plan = plan(16, 8 * MIB, 0, 1);
    plan.straggler = Some((3, 300_000));
    plan.second_straggler = Some((9, 300_000));
    let outcome = plan.run();
    assert!(outcome.all_complete(16), "{:?}", outcome.failed);
    let times: Vec<_> = outcome.completed_at.iter().filter(|(server, _)| ![id(3), id(9)].contains(server)).collect();
    let others = times.iter().map(|(_, at)| at.since(Timestamp::ZERO)).max().expect("fourteen");
    assert!(others < at_the_limit(&outcome) * 115 / 100, "{others:?}");
}

#[test]
fn hundreds_of_members_cost_little_more_and_few_of_them_speak() {
    for (members, mib, loss_ppm, sent_max) in [
        (50, 4, 10_000, 1.12),
        (50, 4, 50_000, 1.22),
        (200, 4, 10_000, 1.12),
        (200, 4, 50_000, 1.22),
        (1000, 8, 50_000, 1.22),
    ] {
        let outcome = plan(members, mib * MIB, loss_ppm, 7).run();
        assert!(outcome.all_complete(members), "{:?}", outcome.failed);
        let sent = outcome.sent_ratio();
        assert!(sent <= sent_max, "{members} members, {loss_ppm} ppm: sent {sent:.4}");
        let per_pass = f64::from(outcome.feedback) / f64::from(outcome.stats.passes);
        let most = 4.0 * (members as f64).log2();
        assert!(per_pass <= most, "{members} members, {loss_ppm} ppm: {per_pass:.1} reports a pass");
    }
}

#[test]
fn without_parity_and_at_the_end_of_the_pass_it_is_the_scheme_of_002() {
    let mut plan = plan(16, 4 * MIB, 50_000, 3);
    plan.config.fec = false;
    plan.config.repair = Repair::EndOfPass;
    let outcome = plan.run();
    assert!(outcome.all_complete(16), "{:?}", outcome.failed);
    // Sixteen members at 5 %: each symbol is sent 1.60 times; computed, not tuned.
    let expected: f64 = (0..8).map(|m| 1.0 - (1.0 - 0.05_f64.powi(m)).powi(16)).sum();
    let sent = f64::from(outcome.frames) / f64::from(outcome.symbols);
    assert!((sent - expected).abs() < 0.04, "{sent:.3}, computed {expected:.3}");
    assert!((4..=8).contains(&outcome.stats.passes), "{} passes", outcome.stats.passes);
}

#[test]
fn a_member_that_hears_no_frame_is_given_up_after_ten_passes_and_the_others_are_complete() {
    for members in [1, 2, 16] {
        let outcome = Plan { deaf: Some(0), ..plan(members, MIB / 4, 0, 5) }.run();
        assert_eq!(outcome.failed, BTreeMap::from([(id(0), Failure::Fruitless)]), "{members} members");
        assert_eq!(outcome.completed_at.len(), members - 1);
        assert!(outcome.stats.passes <= 13, "{} passes", outcome.stats.passes);
        assert_eq!(outcome.stats.failed, vec![id(0)], "the leader's figures name it");
    }
}

#[test]
fn blocks_that_cannot_be_restored_are_mended_by_name() {
    for seed in 0..20 {
        let plan = Plan { restore_fails_ppm: 500_000, wrong_ppm: 100_000, ..plan(5, MIB, 50_000, seed) };
        let outcome = plan.run();
        assert!(outcome.all_complete(5), "seed {seed}: {:?}", outcome.failed);
    }
}
