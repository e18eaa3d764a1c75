//! Jobs that single servers are named for, what is staged and switched later, commits without waiting, and
//! runs that rest, on farms of real processes.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use netlab::farm::{Farm, FarmSpec, Run, SITE};
use netlab::trees::{self, Plan};
use netlab::{Host, Rate};
use serde_json::Value;

/// Longest time until a run has ended, or a server has done something by itself.
const PATIENCE: Duration = Duration::from_secs(120);
/// A server does not let a tree pass while a file stands beside its trees.
const REFUSES: &str = r#"
[hooks]
before = [["/bin/sh", "-c", "test ! -e \"$PRESSRUN_DIRECTORY/../../refuse\""]]
"#;

fn published_on(spec: FarmSpec) -> (Farm, PathBuf) {
    let farm = Farm::start(spec, &[]);
    let tree = farm.scratch("tree");
    trees::generate(&tree, Plan { seed: 5, bytes: 300_000, file_bytes: 10_000 }).expect("a tree");
    trees::write(&tree.join("index.html"), b"<h1>one</h1>", 0o644).expect("writes");
    trees::write(&tree.join("about.html"), b"<h1>about</h1>", 0o644).expect("writes");
    trees::replace(&tree, &farm.staging()).expect("staging");
    farm.publish(&[]).done();
    (farm, tree)
}

/// Two segments of two, with a tree live.
fn published() -> (Farm, PathBuf) {
    published_on(FarmSpec::of(env!("CARGO_BIN_EXE_pressrun"), 2, 2))
}

fn others(farm: &Farm, than: Host) -> Vec<Host> {
    farm.hosts().into_iter().filter(|host| *host != than).collect()
}

/// Why a server has a version of its own.
fn own(farm: &Farm, host: Host) -> Option<String> {
    farm.servers()[&host.to_string()]["sites"][0]["own"].as_str().map(ToOwned::to_owned)
}

fn state(run: &Run, host: Host) -> String {
    run.server(&host.to_string()).unwrap_or_else(|| panic!("nothing of {host}: {run}")).state
}

fn is_empty(directory: &Path) -> bool {
    fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_none())
}

#[test]
fn content_is_taken_off_one_server_stays_off_and_comes_back_with_the_next_publish() {
    let (mut farm, tree) = published();
    let host = farm.follower_of(2);
    let name = host.to_string();
    farm.cli(&["remove", SITE, "--server", &name]).expect_code(2);
    farm.assert_live(&farm.hosts(), &tree);
    farm.run(&["remove", SITE, "--server", &name, "--yes"]).done();
    assert!(is_empty(&farm.live(host)), "the directory stays, for the web server, and nothing in it");
    assert!(!farm.backup(host).exists() && is_empty(&farm.backup(host).with_file_name("trash")));
    assert!(farm.page(host, "/index.html").is_err());
    farm.assert_live(&others(&farm, host), &tree);
    assert_eq!(own(&farm, host).as_deref(), Some("removed"));
    farm.wait_state(host, "online", PATIENCE);
    farm.run(&["audit", SITE, "--full"]).done();
    let left = farm.run(&["synchronize", SITE]).done();
    assert_eq!(state(&left, host), "own-version", "{left}");

    let next = farm.publish(&["--quorum", "100%"]).done();
    assert_eq!(next.json["servers"].as_array().map(Vec::len), Some(4), "{next}");
    farm.assert_live(&farm.hosts(), &tree);
    assert_eq!(own(&farm, host), None);

    // One that is away is emptied when it returns.
    let other = farm.follower_of(1);
    farm.kill_agent(host);
    farm.wait_state(host, "offline", PATIENCE);
    let both = ["--server", &name, "--server", &other.to_string(), "--quorum", "1", "--yes"];
    farm.run(&[&["remove", SITE][..], &both].concat()).ends(3, "partial");
    farm.assert_live(&[host], &tree);
    farm.start_agent(host);
    let emptied = farm.wait_for(PATIENCE, || (is_empty(&farm.live(host)) && !farm.backup(host).exists()).then_some(()));
    assert!(emptied.is_some(), "{host} still has its content");
}

#[test]
fn what_a_removal_keeps_comes_back_by_a_switch_and_nothing_is_sent() {
    let (farm, tree) = published();
    let host = farm.follower_of(1);
    let name = host.to_string();
    farm.run(&["remove", SITE, "--server", &name, "--keep-content", "--yes"]).done();
    assert!(is_empty(&farm.live(host)) && farm.backup(host).join("index.html").exists());
    let run = farm.run(&["switch", SITE, "--server", &name]).done();
    assert!(run.assignment_bytes() < 2_000, "{run}");
    farm.assert_live(&farm.hosts(), &tree);
    assert_eq!(own(&farm, host), None, "it has what its group has");
    farm.run(&["audit", SITE]).done();
}

#[test]
fn named_paths_go_live_on_one_server_and_the_next_publish_starts_from_there() {
    let (farm, tree) = published();
    let host = farm.follower_of(2);
    let name = host.to_string();
    trees::write(&farm.staging().join("index.html"), b"<h1>hot</h1>", 0o644).expect("staging");
    fs::create_dir(farm.staging().join("news")).expect("staging");
    trees::write(&farm.staging().join("news/today.html"), b"news", 0o644).expect("staging");
    trees::write(&farm.staging().join("later.html"), b"later", 0o644).expect("staging");
    fs::remove_file(farm.staging().join("about.html")).expect("staging");
    let hot = farm.run(&["hot", SITE, "index.html", "news", "about.html", "--server", &name]).done();
    assert!(hot.assignment_bytes() < 5_000, "only what changed is sent: {hot}");
    let expected = farm.scratch("hot");
    trees::replace(&farm.staging(), &expected).expect("copies");
    fs::remove_file(expected.join("later.html")).expect("was not named");
    farm.assert_live(&[host], &expected);
    farm.assert_live(&others(&farm, host), &tree);
    assert_eq!(own(&farm, host).as_deref(), Some("hot"));
    farm.wait_state(host, "online", PATIENCE);
    farm.run(&["audit", SITE, "--full"]).done();

    // What drifts from it comes back to it.
    fs::write(farm.live(host).join("index.html"), "mine").expect("changes");
    let audited = farm.run(&["audit", SITE, "--repair"]).ends(3, "partial");
    let reason = audited.server(&name).expect("reported").reason;
    let repair = reason.split("run ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
    let repaired = farm.wait_final(repair.unwrap_or_else(|| panic!("no run repairs it: {audited}")), PATIENCE);
    assert_eq!(repaired.state(), "done", "{repaired}");
    farm.assert_live(&[host], &expected);

    let next = farm.publish(&["--quorum", "100%"]).done();
    assert!(next.assignment_bytes() < 100_000, "servers keep what they have: {next}");
    farm.assert_live(&farm.hosts(), &farm.staging());
    assert_eq!(own(&farm, host), None);

    trees::write(&farm.staging().join("index.html"), b"<h1>two</h1>", 0o644).expect("staging");
    let chosen = farm.run(&["hot", SITE, "index.html", "--servers", "2"]).done();
    assert_eq!(chosen.json["servers"].as_array().map(Vec::len), Some(2), "{chosen}");
    let hot = farm.hosts().into_iter().filter(|host| own(&farm, *host).is_some());
    let taken: Vec<Host> = hot.collect();
    farm.assert_live(&taken, &farm.staging());
    let names: Vec<String> = taken.iter().map(ToString::to_string).collect();
    farm.run(&["synchronize", SITE, "--server", &names[0], "--server", &names[1]]).done();
    assert!(farm.hosts().into_iter().all(|host| own(&farm, host).is_none()));
    farm.run(&["audit", SITE]).done();
    farm.cli(&["hot", SITE, "index.html", "--servers", "9"]).expect_code(1);
}

#[test]
fn a_tree_is_staged_now_and_goes_live_later_in_a_moment() {
    let (farm, tree) = published();
    trees::change(&farm.staging(), 3, 0.3).expect("staging");
    let new = farm.scratch("new");
    trees::replace(&farm.staging(), &new).expect("copies");
    let staged = farm.publish(&["--stage-only", "--quorum", "100%"]).done();
    farm.assert_live(&farm.hosts(), &tree);
    // Staging may change: what is staged is what goes live.
    trees::write(&farm.staging().join("later.html"), b"later", 0o644).expect("staging");
    let switched = farm.run(&["switch", SITE, "--quorum", "100%"]).done();
    assert_eq!(switched.word("result"), staged.word("result"));
    farm.assert_live(&farm.hosts(), &new);
    farm.run(&["switch", SITE, "--quorum", "100%"]).done();
    farm.assert_live(&farm.hosts(), &tree);
    farm.run(&["audit", SITE]).done();
}

#[test]
fn with_an_autonomous_commit_a_server_that_fails_holds_up_nobody_and_catches_up() {
    let (farm, tree) = published_on(FarmSpec::of(env!("CARGO_BIN_EXE_pressrun"), 2, 3).agents(REFUSES));
    let failing = farm.follower_of(1);
    let refuse = farm.live(failing).with_file_name("refuse");
    fs::write(&refuse, "").expect("refuses");
    trees::change(&farm.staging(), 3, 0.3).expect("staging");
    let run = farm.publish(&["--commit", "autonomous"]).ends(3, "partial");
    assert!(run.phases().iter().all(|phase| phase.name != "commit"), "nobody waits for a commit: {run}");
    farm.assert_live(&others(&farm, failing), &farm.staging());
    farm.assert_live(&[failing], &tree);
    fs::remove_file(&refuse).expect("lets pass");
    farm.wait_live(failing, &farm.staging(), PATIENCE);
}

fn stage_large(farm: &Farm) {
    let large = Plan { seed: 2, bytes: 20_000_000, file_bytes: 200_000 };
    trees::generate(&farm.staging().join("large"), large).expect("staging");
}

fn pause(farm: &Farm, run: u64) {
    farm.cli(&["run", "pause", &run.to_string()]).expect_code(0);
    let paused = farm.wait_for(PATIENCE, || (farm.run_show(run).state() == "paused").then_some(()));
    assert!(paused.is_some(), "{}", farm.run_show(run));
}

fn resume(farm: &Farm, run: u64) {
    farm.cli(&["run", "resume", &run.to_string()]).expect_code(0);
}

#[test]
fn a_run_is_paused_on_the_wan_keeps_what_arrived_and_survives_the_loss_of_ccm_and_leader() {
    let (mut farm, tree) = published_on(FarmSpec::of(env!("CARGO_BIN_EXE_pressrun"), 2, 2).wan_rate(Rate::mbit(24)));
    stage_large(&farm);
    let meter = farm.meter();
    let run = farm.publish_start(&[]);
    let under_way = farm.wait_for(PATIENCE, || (farm.wan_since(1, &meter) > 6_000_000).then_some(()));
    assert!(under_way.is_some(), "{}", farm.run_show(run));
    pause(&farm, run);
    farm.kill_ccm();
    farm.start_ccm();
    farm.wait_online();
    assert_eq!(farm.run_show(run).state(), "paused");
    let still = farm.meter();
    let leader = farm.leader_of(2).expect("a leader");
    farm.kill_agent(leader);
    let elected = farm.wait_for(PATIENCE, || farm.leader_of(2).filter(|elected| *elected != leader));
    assert!(elected.is_some(), "nobody follows {leader}");
    assert!(farm.wan_since(1, &still) < 1_000_000, "{} bytes while it rested", farm.wan_since(1, &still));
    farm.assert_live(&others(&farm, leader), &tree);
    resume(&farm, run);
    let ended = farm.wait_final(run, PATIENCE);
    assert!(matches!(ended.state(), "done" | "partial"), "{ended}");
    farm.assert_live(&others(&farm, leader), &farm.staging());
    let crossed = farm.wan_since(1, &meter);
    assert!(crossed < 25_000_000, "what had arrived was kept: {crossed} bytes for {}", ended.assignment_bytes());
}

#[test]
fn a_run_is_paused_in_its_session_and_goes_on_or_is_cancelled() {
    let (farm, tree) = published_on(FarmSpec::of(env!("CARGO_BIN_EXE_pressrun"), 2, 2).lan_rate(Rate::mbit(24)));
    stage_large(&farm);
    let meter = farm.meter();
    let run = farm.publish_start(&[]);
    farm.wait_in_session(run, 1, &meter, 3_000_000);
    pause(&farm, run);
    farm.assert_live(&farm.hosts(), &tree);
    resume(&farm, run);
    let ended = farm.wait_final(run, PATIENCE);
    assert_eq!(ended.state(), "done", "{ended}");
    farm.assert_live(&farm.hosts(), &farm.staging());

    let old = farm.scratch("old");
    trees::replace(&farm.staging(), &old).expect("copies");
    let large = Plan { seed: 3, bytes: 20_000_000, file_bytes: 200_000 };
    trees::generate(&farm.staging().join("more"), large).expect("staging");
    let meter = farm.meter();
    let run = farm.publish_start(&[]);
    farm.wait_in_session(run, 1, &meter, 3_000_000);
    pause(&farm, run);
    farm.cli(&["run", "cancel", &run.to_string()]).expect_code(0);
    assert_eq!(farm.wait_final(run, PATIENCE).state(), "cancelled");
    farm.assert_live(&farm.hosts(), &old);
    let none: &Value = &farm.run_show(run).json["ended"];
    assert!(none.is_string(), "it is over");
}
