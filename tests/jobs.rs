//! What can be done besides publishing, on farms of real processes: audits and repairs, what nobody
//! published, files that linger, synchronizing and replicating on demand.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;
use std::time::Duration;

use netlab::Host;
use netlab::farm::{Farm, FarmSpec, Run, SITE};
use netlab::trees::{self, Plan};
use netlab::wait::{Changes, wait_for};
use serde_json::{Value, json};

/// Longest time until a server has done something by itself.
const PATIENCE: Duration = Duration::from_secs(60);

/// Two segments of two, with a tree live that has a file of known text and a link.
fn published(site: &[&str]) -> (Farm, PathBuf) {
    let farm = Farm::start(FarmSpec::of(env!("CARGO_BIN_EXE_pressrun"), 2, 2), site);
    let tree = farm.scratch("tree");
    trees::generate(&tree, Plan { seed: 5, bytes: 300_000, file_bytes: 10_000 }).expect("a tree");
    trees::write(&tree.join("index.html"), b"<h1>one</h1>", 0o644).expect("writes");
    trees::write(&tree.join("about.html"), b"<h1>about</h1>", 0o644).expect("writes");
    symlink("index.html", tree.join("home.html")).expect("links");
    trees::replace(&tree, &farm.staging()).expect("staging");
    farm.publish(&[]).done();
    (farm, tree)
}

fn audit(farm: &Farm, arguments: &[&str]) -> Run {
    farm.run(&[&["audit", SITE], arguments].concat())
}

/// What a run found on a server, as (difference, path), sorted.
fn found(run: &Run, host: Host) -> Vec<(String, String)> {
    let servers = run.json["servers"].as_array().unwrap_or_else(|| panic!("no servers: {run}"));
    let server = servers.iter().find(|server| server["server"] == host.to_string());
    let findings = server.and_then(|server| server["audit"]["findings"].as_array());
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let findings = findings.into_iter().flatten();
    let mut found: Vec<_> = findings.map(|finding| (word(&finding["difference"]), word(&finding["path"]))).collect();
    found.sort();
    found
}

fn state(run: &Run, host: Host) -> String {
    run.server(&host.to_string()).unwrap_or_else(|| panic!("nothing of {host}: {run}")).state
}

/// One of each kind of difference.
fn damage(farm: &Farm, host: Host) -> Vec<(String, String)> {
    let live = farm.live(host);
    fs::write(live.join("index.html"), "<h1>0ne</h1>").expect("changes");
    fs::remove_file(live.join("about.html")).expect("deletes");
    fs::write(live.join("by-hand.html"), "mine").expect("adds");
    fs::remove_file(live.join("home.html")).expect("deletes");
    fs::create_dir(live.join("home.html")).expect("makes");
    let (file, _) = trees::files(&live.join("part-0000")).expect("files").pop_last().expect("a file");
    let mode = PathBuf::from("part-0000").join(file);
    fs::set_permissions(live.join(&mode), fs::Permissions::from_mode(0o600)).expect("sets");
    let found = [
        ("changed", "index.html"),
        ("extra", "by-hand.html"),
        ("kind", "home.html"),
        ("missing", "about.html"),
        ("mode", mode.to_str().expect("text")),
    ];
    found.map(|(difference, path)| (difference.to_owned(), path.to_owned())).into()
}

#[test]
fn an_audit_names_what_was_changed_deleted_and_added_on_one_server_and_a_repair_brings_it_back() {
    let (farm, tree) = published(&[]);
    let clean = audit(&farm, &[]).done();
    assert!(farm.hosts().iter().all(|host| state(&clean, *host) == "clean"), "{clean}");

    let (led, damaged) = (farm.leader_of(1).expect("a leader"), farm.follower_of(2));
    let expected = damage(&farm, damaged);
    for how in [&[][..], &["--full"]] {
        let run = audit(&farm, how).ends(3, "partial");
        assert_eq!(found(&run, damaged), expected, "{run}");
        assert_eq!((state(&run, damaged).as_str(), state(&run, led).as_str()), ("drifted", "clean"));
        assert!(found(&run, led).is_empty(), "{run}");
        let server = run.server(&damaged.to_string()).expect("reported");
        assert_eq!(server.reason, "1 changed, 1 missing, 1 extra, 1 of another kind, 1 with another mode");
    }
    assert!(farm.live(damaged).join("by-hand.html").exists(), "an audit changes nothing");

    let others: Vec<Host> = farm.hosts().into_iter().filter(|host| *host != damaged).collect();
    let inode = |host: &Host| std::os::unix::fs::MetadataExt::ino(&fs::metadata(farm.live(*host)).expect("live"));
    let before: Vec<u64> = others.iter().map(inode).collect();
    let run = audit(&farm, &["--repair"]).done();
    assert_eq!(state(&run, damaged), "repaired", "{run}");
    assert_eq!(found(&run, damaged), expected, "what it had is told: {run}");
    farm.assert_live(&farm.hosts(), &tree);
    assert_eq!(before, others.iter().map(inode).collect::<Vec<_>>(), "the live trees of others were not switched");
    audit(&farm, &["--full"]).done();
    // And it is the version that everybody has: the next publish goes on from there.
    trees::write(&farm.staging().join("next.txt"), b"next", 0o644).expect("staging");
    let next = farm.publish(&["--quorum", "100%"]).done();
    assert!(next.assignment_bytes() < 20_000, "{next}");

    // More than fits into a datagram: all are counted, the first are named.
    for number in 0..300 {
        let name = format!("{number:03}-{}", "x".repeat(180));
        fs::write(farm.live(damaged).join(name), "mine").expect("adds");
    }
    let run = audit(&farm, &[]).ends(3, "partial");
    let server = run.server(&damaged.to_string()).expect("reported");
    assert_eq!((server.reason.as_str(), found(&run, damaged).len()), ("300 extra", 20), "{run}");
}

#[test]
fn an_audit_says_whom_it_could_not_ask_and_a_schedule_can_ask() {
    let (mut farm, _) = published(&[]);
    let gone = farm.follower_of(1);
    farm.kill_agent(gone);
    farm.wait_state(gone, "offline", PATIENCE);
    let run = audit(&farm, &[]).ends(3, "partial");
    assert_eq!(state(&run, gone), "offline", "{run}");
    assert!(run.word("message").is_some_and(|said| said.contains("1 not known to be clean")), "{run}");

    let schedule = ["schedule", "create", "nightly", SITE, "--action", "audit", "--full", "--cron", "* * * * *"];
    let made = farm.cli(&schedule).expect_code(0);
    assert_eq!((&made.json["action"], &made.json["full"]), (&json!("audit"), &json!(true)), "{made}");
    farm.cli(&["schedule", "delete", "nightly"]).expect_code(0);
}

#[test]
fn what_nobody_published_is_kept_refused_or_left_behind_as_the_site_says() {
    let (farm, tree) = published(&["--extra", "keep"]);
    let host = farm.follower_of(1);
    let by_hand = farm.live(host).join("by-hand.html");
    fs::write(&by_hand, "mine").expect("adds");
    audit(&farm, &[]).done();
    trees::write(&farm.staging().join("two.txt"), b"two", 0o644).expect("staging");
    farm.publish(&["--quorum", "100%"]).done();
    assert_eq!(fs::read(&by_hand).expect("kept"), b"mine");
    farm.run(&["rollback", SITE, "--quorum", "100%"]).done();
    assert_eq!(fs::read(&by_hand).expect("kept"), b"mine");

    farm.cli(&["site", "set", SITE, "--extra", "fail"]).expect_code(0);
    let refused = farm.publish(&["--quorum", "100%"]).ends(1, "failed");
    assert!(refused.explanation().contains("by-hand.html"), "{refused}");
    assert!(farm.hosts().iter().all(|host| !farm.live(*host).join("two.txt").exists()), "{refused}");

    farm.cli(&["site", "set", SITE, "--extra", "remove"]).expect_code(0);
    farm.publish(&["--quorum", "100%"]).done();
    assert!(!by_hand.exists());
    farm.assert_live(&farm.hosts(), &farm.staging());
    drop(tree);
}

#[test]
fn what_a_publish_removes_can_be_reached_until_the_window_is_over() {
    let (farm, _) = published(&["--linger", "15s"]);
    fs::remove_file(farm.staging().join("about.html")).expect("removes");
    farm.publish(&["--quorum", "100%"]).done();
    for host in farm.hosts() {
        assert_eq!(farm.page(host, "/about.html").expect("served"), b"<h1>about</h1>", "{host}");
    }
    audit(&farm, &["--full"]).done();
    for host in farm.hosts() {
        let mut changes = Changes::of([farm.live(host)]).expect("watched");
        let gone = wait_for(&mut changes, PATIENCE, || (!farm.live(host).join("about.html").exists()).then_some(()));
        assert!(gone.is_some(), "it still lingers on {host}");
    }
    farm.assert_live(&farm.hosts(), &farm.staging());
    audit(&farm, &["--full"]).done();
    farm.run(&["rollback", SITE, "--quorum", "100%"]).done();
    assert!(farm.hosts().iter().all(|host| farm.live(*host).join("about.html").exists()));
}

#[test]
fn servers_are_brought_to_what_their_group_has_on_demand() {
    let (farm, tree) = published(&[]);
    let nothing = farm.run(&["synchronize", SITE]).done();
    assert_eq!(nothing.word("message"), Some("every server had it already"), "{nothing}");

    let host = farm.follower_of(2);
    damage(&farm, host);
    let run = farm.run(&["replicate", SITE, "--server", &host.to_string()]).done();
    assert!(run.assignment_bytes() > 100_000, "all of it is sent: {run}");
    assert_eq!(run.json["servers"].as_array().map(Vec::len), Some(1), "{run}");
    farm.assert_live(&farm.hosts(), &tree);
    farm.cli(&["replicate", SITE, "--server", "nobody"]).expect_code(1);
}
