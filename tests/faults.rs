//! Faults in the middle of runs: whatever is killed, the farm ends whole, and by itself.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use netlab::farm::{Farm, FarmSpec, SITE};
use netlab::trees::{self, Plan};
use netlab::{Host, Rate};

/// Longest time until a run has ended, or a server is up to date again, after a fault.
const PATIENCE: Duration = Duration::from_secs(120);
/// What a segment has sent when a session is well under way.
const MID_SESSION_BYTES: u64 = 3_000_000;

/// LANs that take several seconds for [`large`], so that a fault falls into the middle.
fn slow_farm() -> Farm {
    Farm::start(FarmSpec::of(env!("CARGO_BIN_EXE_pressrun"), 2, 3).lan_rate(Rate::mbit(24)), &[])
}

/// Stages a small tree, publishes it, and gives a copy of it.
fn publish_small(farm: &Farm) -> PathBuf {
    let old = farm.scratch("old");
    trees::generate(&old, Plan { seed: 1, bytes: 200_000, file_bytes: 10_000 }).expect("a tree");
    trees::replace(&old, &farm.staging()).expect("staging");
    farm.publish(&[]).done();
    farm.assert_live(&farm.hosts(), &old);
    old
}

/// Adds to staging what takes a slow LAN several seconds.
fn stage_large(farm: &Farm) {
    let large = Plan { seed: 2, bytes: 20_000_000, file_bytes: 200_000 };
    trees::generate(&farm.staging().join("large"), large).expect("staging");
}

fn others(farm: &Farm, than: Host) -> Vec<Host> {
    farm.hosts().into_iter().filter(|host| *host != than).collect()
}

#[test]
fn when_the_leader_is_killed_in_a_session_another_is_elected_and_the_run_completes() {
    let mut farm = slow_farm();
    publish_small(&farm);
    stage_large(&farm);
    let leader = farm.leader_of(1).expect("a leader");
    let before = farm.meter();
    let run = farm.publish_start(&["--quorum", "5"]);
    farm.wait_in_session(run, 1, &before, MID_SESSION_BYTES);
    farm.kill_agent(leader);
    let elected = farm.wait_for(PATIENCE, || farm.leader_of(1).filter(|elected| *elected != leader));
    assert!(elected.is_some(), "nobody follows {leader}: {:#?}", farm.servers());
    let ended = farm.wait_final(run, PATIENCE);
    assert!(matches!(ended.state(), "done" | "partial"), "{ended}");
    farm.assert_live(&others(&farm, leader), &farm.staging());
    farm.start_agent(leader);
    farm.wait_live(leader, &farm.staging(), PATIENCE);
}

#[test]
fn when_a_server_is_killed_the_run_ends_by_quorum_and_the_server_catches_up_when_it_returns() {
    let mut farm = slow_farm();
    let old = publish_small(&farm);
    stage_large(&farm);
    let killed = farm.follower_of(1);
    let before = farm.meter();
    let run = farm.publish_start(&["--quorum", "5"]);
    farm.wait_in_session(run, 1, &before, MID_SESSION_BYTES);
    farm.kill_agent(killed);
    let ended = farm.wait_final(run, PATIENCE);
    assert_eq!(ended.state(), "partial", "{ended}");
    let report = ended.server(&killed.to_string()).unwrap_or_else(|| panic!("nothing of {killed}: {ended}"));
    assert!(!report.reason.is_empty(), "no reason for {killed}: {ended}");
    farm.assert_live(&others(&farm, killed), &farm.staging());
    farm.assert_live(&[killed], &old);
    farm.wait_state(killed, "stale", PATIENCE);
    farm.start_agent(killed);
    farm.wait_live(killed, &farm.staging(), PATIENCE);
    farm.wait_state(killed, "online", PATIENCE);
    let versions = farm.live_versions();
    assert!(versions.values().all(|version| version.is_some() && *version == versions[&killed]), "{versions:?}");
}

#[test]
fn a_server_that_is_cut_off_during_a_run_catches_up_when_it_is_joined_again() {
    let farm = slow_farm();
    publish_small(&farm);
    stage_large(&farm);
    let cut = farm.follower_of(2);
    let before = farm.meter();
    let run = farm.publish_start(&["--quorum", "5"]);
    farm.wait_in_session(run, 2, &before, MID_SESSION_BYTES);
    farm.lab().set_cut_off(cut, true).expect("cut");
    let ended = farm.wait_final(run, PATIENCE);
    assert_eq!(ended.state(), "partial", "{ended}");
    farm.lab().set_cut_off(cut, false).expect("joined");
    farm.wait_live(cut, &farm.staging(), PATIENCE);
}

#[test]
fn when_the_ccm_is_killed_in_a_run_and_started_again_the_run_completes() {
    let mut farm = slow_farm();
    publish_small(&farm);
    stage_large(&farm);
    let before = farm.meter();
    let run = farm.publish_start(&[]);
    farm.wait_in_session(run, 1, &before, MID_SESSION_BYTES);
    farm.kill_ccm();
    farm.start_ccm();
    let ended = farm.wait_final(run, PATIENCE);
    assert_eq!(ended.state(), "done", "{ended}");
    farm.assert_live(&farm.hosts(), &farm.staging());
    // What it knew before it was killed it knows: the next run is a small delta.
    trees::write(&farm.staging().join("next.txt"), b"next", 0o644).expect("staging");
    farm.wait_online();
    let next = farm.publish(&[]).done();
    assert_eq!(next.word("base"), ended.word("result"));
    assert!(next.assignment_bytes() < 100_000, "{next}");
}

#[test]
fn a_run_that_is_accepted_just_before_the_ccm_is_killed_is_not_lost() {
    let mut farm = Farm::start(FarmSpec::of(env!("CARGO_BIN_EXE_pressrun"), 1, 2), &[]);
    publish_small(&farm);
    trees::write(&farm.staging().join("next.txt"), b"next", 0o644).expect("staging");
    let run = farm.publish_start(&[]);
    farm.kill_ccm();
    farm.start_ccm();
    let ended = farm.wait_final(run, PATIENCE);
    assert_eq!(ended.state(), "done", "{ended}");
    farm.assert_live(&farm.hosts(), &farm.staging());
}

#[test]
fn a_commit_that_misses_its_quorum_leaves_no_server_on_the_new_version() {
    let farm = Farm::start(FarmSpec::of(env!("CARGO_BIN_EXE_pressrun"), 2, 3), &[]);
    let old = publish_small(&farm);
    let before = farm.live_versions();
    trees::change(&farm.staging(), 3, 0.3).expect("staging");
    let unable = farm.follower_of(2);
    let frozen = farm.freeze(unable);
    let run = farm.publish(&["--quorum", "100%"]);
    assert!(matches!((run.state(), run.code), ("rolled-back", 4) | ("failed", 1)), "{run}");
    farm.assert_live(&farm.hosts(), &old);
    let report = run.server(&unable.to_string()).unwrap_or_else(|| panic!("nothing of {unable}: {run}"));
    assert!(!report.reason.is_empty(), "no reason for {unable}: {run}");
    assert_eq!(farm.live_versions(), before);
    drop(frozen);
    // The farm is whole: the same content goes out as if nothing had been.
    farm.publish(&["--quorum", "100%"]).done();
    farm.assert_live(&farm.hosts(), &farm.staging());
}

#[test]
fn a_server_killed_before_it_is_prepared_keeps_a_full_quorum_from_switching_anybody() {
    let mut farm = slow_farm();
    let old = publish_small(&farm);
    stage_large(&farm);
    let killed = farm.follower_of(1);
    let before = farm.meter();
    let run = farm.publish_start(&["--quorum", "100%"]);
    farm.wait_in_session(run, 1, &before, MID_SESSION_BYTES);
    farm.kill_agent(killed);
    let ended = farm.wait_final(run, PATIENCE);
    assert!(matches!(ended.state(), "failed" | "rolled-back" | "timeout"), "{ended}");
    farm.assert_live(&farm.hosts(), &old);
}

#[test]
fn of_two_publishes_at_once_the_second_waits_or_is_refused_by_the_name_of_the_first() {
    let farm = slow_farm();
    publish_small(&farm);
    stage_large(&farm);
    let publish = || farm.cli_start(&["publish", SITE, "--wait"]);
    let both = [publish(), publish()].map(netlab::farm::RunningCli::finish);
    let ended_well = both.iter().filter(|result| result.code == 0).count();
    for result in &both {
        match result.code {
            0 => assert_eq!(farm.outcome(result).state(), "done", "{result}"),
            6 => {
                let first = both.iter().find(|other| other.code == 0).and_then(|other| other.json["run"].as_u64());
                let first = first.unwrap_or_else(|| panic!("both are refused: {both:#?}"));
                assert!(result.said().contains(&first.to_string()), "run {first} is not named: {result}");
                assert!(result.said().contains("conflict"), "{result}");
            }
            _ => panic!("{result}"),
        }
    }
    assert!(ended_well >= 1);
    farm.assert_live(&farm.hosts(), &farm.staging());
    let runs = farm.cli(&["runs"]).expect_code(0);
    let open = runs.json["items"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|run| matches!(run["state"].as_str(), Some("queued" | "running")));
    assert_eq!(open, None);
}

#[test]
fn an_agent_killed_and_started_at_rest_is_online_again_with_what_it_had() {
    let mut farm = Farm::start(FarmSpec::of(env!("CARGO_BIN_EXE_pressrun"), 1, 2), &[]);
    let old = publish_small(&farm);
    let host = farm.follower_of(1);
    let version = farm.live_versions();
    farm.kill_agent(host);
    farm.wait_state(host, "offline", PATIENCE);
    farm.start_agent(host);
    farm.wait_state(host, "online", PATIENCE);
    assert_eq!(farm.live_versions(), version);
    farm.assert_live(&[host], &old);
    assert!(fs::read_dir(farm.agent_data(host)).expect("a directory").count() > 0);
}
