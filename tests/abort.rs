//! A run that is cancelled, in each of its phases: every live tree stays on one version, and what the
//! run had staged, received in part or listened to goes.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use netlab::farm::{Farm, FarmSpec, Run};
use netlab::hold::{Hold, held_at};
use netlab::trees::{self, Plan};
use netlab::wait::{Changes, wait_for};
use netlab::{Host, Rate};

const PATIENCE: Duration = Duration::from_secs(60);
/// What a segment has sent when a session is well under way.
const MID_SESSION_BYTES: u64 = 3_000_000;

/// Agents that can be held up before they have prepared, and after they have switched, by a hold beside their trees.
fn holds() -> String {
    let [before, after] = ["$PRESSRUN_DIRECTORY/../../hold-before", "$PRESSRUN_DIRECTORY/../hold-after"].map(held_at);
    format!(
        "[hooks]\ntimeout = \"60s\"\nbefore = [[\"/bin/sh\", \"-c\", '{before}']]\n\
         after = [[\"/bin/sh\", \"-c\", '{after}']]\n"
    )
}

fn farm(spec: impl FnOnce(FarmSpec) -> FarmSpec) -> (Farm, PathBuf) {
    let farm = Farm::start(spec(FarmSpec::of(env!("CARGO_BIN_EXE_pressrun"), 2, 2)), &[]);
    let old = farm.scratch("old");
    trees::generate(&old, Plan { seed: 1, bytes: 200_000, file_bytes: 10_000 }).expect("a tree");
    trees::replace(&old, &farm.staging()).expect("staging");
    farm.publish(&[]).done();
    (farm, old)
}

fn stage_large(farm: &Farm) {
    let large = Plan { seed: 2, bytes: 20_000_000, file_bytes: 200_000 };
    trees::generate(&farm.staging().join("large"), large).expect("staging");
}

/// The multicast groups that a server listens to.
fn groups(farm: &Farm, host: Host) -> BTreeSet<String> {
    let listed = farm.lab().command(host, "cat").arg("/proc/net/igmp").output().expect("cat runs");
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    // Lines of groups begin with the address in hexadecimal digits.
    let group = |line: &str| Some(line.split_whitespace().next()?.to_owned()).filter(|word| word.len() == 8);
    text.lines().filter_map(group).collect()
}

fn listed(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// What a server still has of a run that is over: a staged tree, an object in part.
fn left_over(farm: &Farm, host: Host) -> Vec<String> {
    let state = farm.live(host).with_file_name(".www.pressrun");
    let mut left: Vec<String> = listed(&state).into_iter().filter(|name| name == "temp").collect();
    left.extend(listed(&farm.agent_data(host).join("spool")));
    let objects = listed(&farm.agent_data(host).join("objects"));
    left.extend(objects.into_iter().filter(|name| name.ends_with(".partial") || name.ends_with(".bitmap")));
    left
}

/// Cancels a run and waits for its end.
fn cancel(farm: &Farm, run: u64) -> Run {
    farm.cli(&["run", "cancel", &run.to_string()]).expect_code(0);
    farm.wait_final(run, PATIENCE)
}

/// Every server has the old version and nothing of the new one, and the next publish goes out.
fn assert_as_before(farm: &Farm, old: &Path, before: &[BTreeSet<String>]) {
    farm.assert_live(&farm.hosts(), old);
    for host in farm.hosts() {
        let (data, place) = (farm.agent_data(host), farm.live(host).with_file_name(".www.pressrun"));
        let mut changes = Changes::of([data.join("spool"), data.join("objects"), place]).expect("watched");
        let mut left = Vec::new();
        let gone = wait_for(&mut changes, PATIENCE, || {
            left = left_over(farm, host);
            left.is_empty().then_some(())
        });
        assert!(gone.is_some(), "{host} still has {left:?}");
    }
    let mut writes = farm.log_writes();
    let left = wait_for(&mut writes, PATIENCE, || (all_groups(farm) == before).then_some(()));
    assert!(left.is_some(), "data channels are still listened to: {:?}, before {before:?}", all_groups(farm));
    farm.publish(&["--quorum", "100%"]).done();
    farm.assert_live(&farm.hosts(), &farm.staging());
}

fn all_groups(farm: &Farm) -> Vec<BTreeSet<String>> {
    farm.hosts().into_iter().map(|host| groups(farm, host)).collect()
}

#[test]
fn cancelled_on_the_wan() {
    let (farm, old) = farm(|spec| spec.wan_rate(Rate::mbit(24)));
    let before = all_groups(&farm);
    stage_large(&farm);
    let meter = farm.meter();
    let run = farm.publish_start(&[]);
    let under_way = farm.wait_for(PATIENCE, || (farm.wan_since(1, &meter) > MID_SESSION_BYTES).then_some(()));
    assert!(under_way.is_some(), "{}", farm.run_show(run));
    let ended = cancel(&farm, run);
    assert_eq!(ended.state(), "cancelled", "{ended}");
    farm.lab().set_wan_rate(1, None).expect("fast");
    farm.lab().set_wan_rate(2, None).expect("fast");
    assert_as_before(&farm, &old, &before);
}

#[test]
fn cancelled_in_the_multicast_session() {
    let (farm, old) = farm(|spec| spec.lan_rate(Rate::mbit(24)));
    let before = all_groups(&farm);
    stage_large(&farm);
    let meter = farm.meter();
    let run = farm.publish_start(&[]);
    farm.wait_in_session(run, 1, &meter, MID_SESSION_BYTES);
    let ended = cancel(&farm, run);
    assert_eq!(ended.state(), "cancelled", "{ended}");
    for segment in [1, 2] {
        farm.lab().set_lan_rate(segment, None).expect("fast");
    }
    assert_as_before(&farm, &old, &before);
}

#[test]
fn cancelled_when_some_have_prepared() {
    let (farm, old) = farm(|spec| spec.agents(holds()));
    let before = all_groups(&farm);
    trees::change(&farm.staging(), 3, 0.3).expect("staging");
    let held = farm.follower_of(2);
    let hold = Hold::at(farm.live(held).with_file_name("hold-before")).expect("holds");
    let run = farm.publish_start(&["--quorum", "100%"]);
    let prepared = farm.wait_for(PATIENCE, || {
        let shown = farm.run_show(run);
        let prepared = shown.json["servers"].as_array()?.iter().filter(|server| server["state"] == "prepared").count();
        (prepared == farm.hosts().len() - 1).then_some(())
    });
    assert!(prepared.is_some(), "{}", farm.run_show(run));
    farm.cli(&["run", "cancel", &run.to_string()]).expect_code(0);
    drop(hold);
    let ended = farm.wait_final(run, PATIENCE);
    assert_eq!(ended.state(), "cancelled", "{ended}");
    assert_as_before(&farm, &old, &before);
}

#[test]
fn cancelled_when_some_have_switched() {
    let (farm, old) = farm(|spec| spec.agents(holds()));
    let before = all_groups(&farm);
    trees::change(&farm.staging(), 3, 0.3).expect("staging");
    let held = farm.follower_of(2);
    let hold = Hold::at(farm.live(held).with_file_name("hold-after")).expect("holds");
    let run = farm.publish_start(&["--quorum", "100%"]);
    let mut switches = Changes::of([farm.live(held).parent().expect("a parent")]).expect("watched");
    let switched = wait_for(&mut switches, PATIENCE, || {
        trees::differences(&farm.staging(), &farm.live(held), &Default::default()).ok()?.is_empty().then_some(())
    });
    assert!(switched.is_some(), "{}", farm.run_show(run));
    farm.cli(&["run", "cancel", &run.to_string()]).expect_code(0);
    drop(hold);
    let ended = farm.wait_final(run, PATIENCE);
    assert_eq!(ended.state(), "rolled-back", "{ended}");
    for host in farm.hosts() {
        farm.wait_live(host, &old, PATIENCE);
    }
    assert_as_before(&farm, &old, &before);
}
