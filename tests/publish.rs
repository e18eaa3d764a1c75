//! The main job on real input: real releases, published to a fleet of real processes on a network
//! of namespaces, compared file by file and as a real web server gives them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use netlab::farm::{Farm, FarmSpec, Meter, Run, SITE, Visitors};
use netlab::releases::{self, Pair};
use netlab::trees::{self, Plan};
use netlab::{Host, Rate};

/// What control messages may take beside an assignment.
const CONTROL_BYTES: u64 = 64 * 1024;
const PATIENCE: Duration = Duration::from_secs(120);
/// Pages that each visitor goes round.
const PAGES: usize = 12;

fn two_segments_of_three() -> FarmSpec {
    FarmSpec::of(env!("CARGO_BIN_EXE_pressrun"), 2, 3)
}

/// The two releases, unpacked beside the farm.
fn unpack(farm: &Farm, pair: &Pair) -> (PathBuf, PathBuf) {
    let unpack = |release: &releases::Release| {
        let into = farm.scratch(release.version);
        release.unpack(&into).unwrap_or_else(|error| panic!("{error}: {:?}", std::error::Error::source(&error)));
        into
    };
    (unpack(&pair.before), unpack(&pair.after))
}

fn stage(farm: &Farm, tree: &Path) {
    trees::replace(tree, &farm.staging()).expect("staging is written");
}

/// Every live tree equals the tree, every server reports the version, every web server serves it.
fn assert_everywhere(farm: &Farm, tree: &Path, version: &str, pages: &[String]) {
    farm.assert_live(&farm.hosts(), tree);
    for host in farm.hosts() {
        assert_eq!(farm.diff_r(tree, &farm.live(host)), None, "{host}");
        for page in pages {
            let served = farm.page(host, page).unwrap_or_else(|reason| panic!("{host} {page}: {reason}"));
            assert!(served == fs::read(tree.join(&page[1..])).expect("a file"), "{host} serves another {page}");
        }
    }
    for (host, live) in farm.live_versions() {
        assert_eq!(live.as_deref(), Some(version), "{host}");
    }
}

/// Each WAN link and each LAN carried the assignment once, whatever the number of servers.
fn assert_carried_once(farm: &Farm, run: &Run, before: &Meter) {
    let bytes = run.assignment_bytes();
    for segment in 1..=farm.lab().spec().segments {
        let wan = farm.wan_since(segment, before);
        assert!(wan >= bytes, "segment {segment}: an assignment of {bytes} cannot have come in {wan} bytes");
        assert!(wan <= bytes * 105 / 100 + CONTROL_BYTES, "segment {segment}: {wan} bytes of WAN for {bytes}");
        let lan = farm.segment_sent_since(segment, before);
        // The figures, for `cargo test --test publish -- --nocapture`.
        let (over_wan, over_lan) = (wan as f64 / bytes as f64, lan as f64 / bytes as f64);
        println!("segment {segment}: assignment {bytes}, WAN {wan} ({over_wan:.3} x), LAN {lan} ({over_lan:.3} x)");
        assert!(lan <= bytes * 110 / 100 + CONTROL_BYTES, "segment {segment}: {lan} bytes of LAN for {bytes}");
        let told = run.json["segments"].as_array().into_iter().flatten();
        let told = told.filter(|told| told["segment"] == format!("s{segment}")).map(|told| told["sent_bytes"].as_u64());
        assert_eq!(told.collect::<Vec<_>>(), vec![Some(bytes)], "what the run tells of segment {segment}: {run}");
    }
}

fn result_of(run: &Run) -> String {
    run.word("result").unwrap_or_else(|| panic!("no result version: {run}")).to_owned()
}

/// Release A, then B; back to A, and B once more; visitors on every server from A on.
fn two_releases_reach_every_server(pair: &Pair) {
    let farm = Farm::start(two_segments_of_three(), &[]);
    let (a, b) = unpack(&farm, pair);
    let pages = trees::common_pages(&a, &b, PAGES).expect("pages");

    stage(&farm, &a);
    let before = farm.meter();
    let first = farm.publish(&[]).done();
    assert_carried_once(&farm, &first, &before);
    let version_a = result_of(&first);
    assert_everywhere(&farm, &a, &version_a, &pages);

    let visitors = Visitors::start(&farm, &farm.hosts(), pages.clone());
    stage(&farm, &b);
    let before = farm.meter();
    let second = farm.publish(&[]).done();
    // Visitors stay on the servers: what they ask for crosses no link.
    assert_carried_once(&farm, &second, &before);
    let version_b = result_of(&second);
    assert_ne!(version_a, version_b);
    assert_everywhere(&farm, &b, &version_b, &pages);
    assert!(
        second.assignment_bytes() < first.assignment_bytes() / 2,
        "a delta of {} bytes to a release of {}",
        second.assignment_bytes(),
        first.assignment_bytes()
    );

    let back = farm.run(&["rollback", SITE]).done();
    assert_eq!(result_of(&back), version_a);
    assert_everywhere(&farm, &a, &version_a, &pages);

    let again = farm.publish(&[]).done();
    assert_eq!(again.word("base"), Some(version_a.as_str()), "{again}");
    assert_everywhere(&farm, &b, &version_b, &pages);
    assert!(
        again.assignment_bytes() <= second.assignment_bytes() * 110 / 100 + 4096,
        "B's delta was {}, and after a rollback is {}",
        second.assignment_bytes(),
        again.assignment_bytes()
    );
    visitors.end(&[&a, &b]);
}

#[test]
fn two_releases_of_swagger_ui_reach_every_server_and_no_visitor_notices() {
    two_releases_reach_every_server(&releases::SWAGGER_UI);
}

#[test]
fn two_releases_of_bootstrap_reach_every_server_and_no_visitor_notices() {
    two_releases_reach_every_server(&releases::BOOTSTRAP);
}

#[test]
fn two_releases_of_mathjax_reach_every_server_and_no_visitor_notices() {
    two_releases_reach_every_server(&releases::MATHJAX);
}

#[test]
fn servers_that_are_asked_again_while_they_prepare_are_not_sent_anything_again() {
    // So often that the question falls into the run.
    let spec = two_segments_of_three().agents("[lan]\nask_again = \"100ms\"\n");
    let farm = Farm::start(spec, &[]);
    trees::generate(&farm.staging(), Plan { seed: 4, bytes: 6_000_000, file_bytes: 1_500 }).expect("staging");
    let before = farm.meter();
    let run = farm.publish(&[]).done();
    let prepare = run.phases().into_iter().find(|phase| phase.name == "prepare").expect("a phase");
    assert!(prepare.seconds.is_some_and(|seconds| seconds > 0.15), "nobody was asked while preparing: {run}");
    assert_carried_once(&farm, &run, &before);
    farm.assert_live(&farm.hosts(), &farm.staging());
}

#[test]
fn the_document_s_own_way_of_repairing_publishes_over_a_lossy_segment_too() {
    let agents = "[sender]\nfec = false\nrepair = \"end-of-pass\"\n";
    let farm = Farm::start(FarmSpec::of(env!("CARGO_BIN_EXE_pressrun"), 1, 3).agents(agents), &[]);
    for host in farm.hosts() {
        farm.lab().set_loss(host, Some(0.02)).expect("a rule");
    }
    trees::generate(&farm.staging(), Plan { seed: 5, bytes: 6_000_000, file_bytes: 60_000 }).expect("staging");
    let run = farm.publish(&[]).done();
    let told = &run.json["segments"][0];
    assert!(told["passes"].as_u64() > Some(1) && told["repaired"].as_u64() > Some(0), "{told}");
    farm.assert_live(&farm.hosts(), &farm.staging());
}

#[test]
fn every_phase_of_a_run_is_told_in_order_with_its_times() {
    let farm = Farm::start(FarmSpec::of(env!("CARGO_BIN_EXE_pressrun"), 1, 2), &[]);
    trees::generate(&farm.staging(), Plan { seed: 1, bytes: 500_000, file_bytes: 20_000 }).expect("staging");
    let run = farm.publish(&[]).done();
    let phases = run.phases();
    let names: Vec<&str> = phases.iter().map(|phase| phase.name.as_str()).collect();
    assert_eq!(names, ["ingest", "build", "wan", "multicast", "prepare", "commit", "finish"], "{run}");
    for phase in &phases {
        assert!(phase.started.is_some() && phase.ended >= phase.started, "{phase:?} of {run}");
        assert!(phase.seconds.is_some_and(|seconds| (0.0..60.0).contains(&seconds)), "{phase:?} of {run}");
    }
    let starts: Vec<&Option<String>> = phases.iter().map(|phase| &phase.started).collect();
    assert!(starts.is_sorted(), "{run}");
    let listed = farm.cli(&["runs"]).expect_code(0);
    assert_eq!(listed.json["items"][0]["run"], run.number(), "{listed}");
    for host in farm.hosts() {
        assert!(run.server(&host.to_string()).is_some(), "{host} is missing in {run}");
    }
}

#[test]
fn nothing_is_sent_when_nothing_has_changed() {
    let farm = Farm::start(FarmSpec::of(env!("CARGO_BIN_EXE_pressrun"), 1, 2), &[]);
    trees::generate(&farm.staging(), Plan { seed: 2, bytes: 4_000_000, file_bytes: 50_000 }).expect("staging");
    let first = farm.publish(&[]).done();
    let before = farm.meter();
    let second = farm.publish(&[]).done();
    assert_eq!(second.word("result"), first.word("result"));
    assert!(farm.wan_since(1, &before) < CONTROL_BYTES);
    farm.assert_live(&farm.hosts(), &farm.staging());
}

#[test]
fn moved_files_and_new_modes_cross_the_wan_as_names_only() {
    let farm = Farm::start(FarmSpec::of(env!("CARGO_BIN_EXE_pressrun"), 1, 2), &[]);
    let staging = farm.staging();
    trees::generate(&staging, Plan { seed: 3, bytes: 6_000_000, file_bytes: 60_000 }).expect("staging");
    farm.publish(&[]).done();
    fs::rename(staging.join("part-0000"), staging.join("moved")).expect("moves");
    let (file, _) = trees::files(&staging).expect("files").pop_last().expect("a file");
    let file = staging.join(file);
    trees::write(&file, &fs::read(&file).expect("reads"), 0o755).expect("a new mode");
    let before = farm.meter();
    farm.publish(&[]).done();
    assert!(farm.wan_since(1, &before) < 2 * CONTROL_BYTES, "{} bytes", farm.wan_since(1, &before));
    farm.assert_live(&farm.hosts(), &staging);
}

#[test]
fn a_server_that_is_removed_is_left_as_it_is_by_later_publishes() {
    let farm = Farm::start(FarmSpec::of(env!("CARGO_BIN_EXE_pressrun"), 1, 3), &[]);
    let kept = farm.scratch("kept");
    trees::generate(&kept, Plan { seed: 1, bytes: 100_000, file_bytes: 20_000 }).expect("a tree");
    stage(&farm, &kept);
    farm.publish(&[]).done();
    let removed = farm.follower_of(1);
    farm.cli(&["server", "remove", &removed.to_string()]).expect_code(0);
    farm.cli(&["server", "remove", &removed.to_string()]).expect_code(1);
    trees::change(&farm.staging(), 2, 0.5).expect("staging");
    let run = farm.publish(&["--quorum", "100%"]).done();
    assert!(run.server(&removed.to_string()).is_none(), "{run}");
    let others: Vec<_> = farm.hosts().into_iter().filter(|host| *host != removed).collect();
    farm.assert_live(&others, &farm.staging());
    farm.assert_live(&[removed], &kept);
    assert!(!farm.servers().contains_key(&removed.to_string()), "{:#?}", farm.servers());
}

#[test]
fn a_checkpoint_is_restored_after_later_releases() {
    let farm = Farm::start(two_segments_of_three(), &[]);
    let tree = |seed| {
        let path = farm.scratch(&format!("tree-{seed}"));
        trees::generate(&path, Plan { seed, bytes: 1_000_000, file_bytes: 20_000 }).expect("a tree");
        path
    };
    let kept = tree(1);
    stage(&farm, &kept);
    let first = farm.publish(&[]).done();
    let checkpoint = farm.cli(&["checkpoint", "create", SITE]).expect_code(0);
    let name = checkpoint.json["name"].as_str().unwrap_or_else(|| panic!("no name: {checkpoint}")).to_owned();
    // Two releases later the tree is no server's backup any more.
    for seed in [2, 3] {
        let other = tree(seed);
        stage(&farm, &other);
        farm.publish(&[]).done();
        farm.assert_live(&farm.hosts(), &other);
    }
    let listed = farm.cli(&["checkpoint", "list", SITE]).expect_code(0);
    assert!(listed.stdout.contains(&name), "{listed}");
    let restored = farm.run(&["checkpoint", "restore", SITE, &name]).done();
    assert_eq!(restored.word("result"), first.word("result"), "{restored}");
    farm.assert_live(&farm.hosts(), &kept);
    farm.cli(&["checkpoint", "delete", SITE, &name]).expect_code(0);
    let listed = farm.cli(&["checkpoint", "list", SITE]).expect_code(0);
    assert!(!listed.stdout.contains(&name), "{listed}");
}

#[test]
fn excluded_paths_are_not_published_and_left_alone_on_the_servers() {
    let farm = Farm::start(two_segments_of_three(), &["--exclude", "uploads"]);
    let content = Plan { seed: 4, bytes: 300_000, file_bytes: 10_000 };
    trees::generate(&farm.staging(), content).expect("staging");
    let published = farm.scratch("published");
    trees::copy(&farm.staging(), &published).expect("a copy");
    fs::create_dir(farm.staging().join("uploads")).expect("makes");
    trees::write(&farm.staging().join("uploads/draft.txt"), b"never sent", 0o644).expect("writes");
    let first = farm.publish(&[]).done();
    for host in farm.hosts() {
        assert_eq!(farm.live_differences(host, &published, &["uploads"]), Vec::<String>::new(), "{host}");
        let uploads = farm.live(host).join("uploads");
        assert!(!uploads.join("draft.txt").exists(), "{host}");
        fs::create_dir_all(&uploads).expect("a server keeps uploads");
        trees::write(&uploads.join("visitor.txt"), host.to_string().as_bytes(), 0o640).expect("uploads");
    }
    trees::change(&farm.staging().join("part-0000"), 5, 0.2).expect("changes");
    trees::replace(&farm.staging(), &published).expect("a copy");
    fs::remove_dir_all(published.join("uploads")).expect("removes");
    let second = farm.publish(&[]).done();
    assert_ne!(first.word("result"), second.word("result"));
    for host in farm.hosts() {
        assert_eq!(farm.live_differences(host, &published, &["uploads"]), Vec::<String>::new(), "{host}");
        let kept = fs::read(farm.live(host).join("uploads/visitor.txt"));
        assert_eq!(kept.ok(), Some(host.to_string().into_bytes()), "{host}");
        let page = farm.page(host, "/uploads/visitor.txt");
        assert_eq!(page, Ok(host.to_string().into_bytes()), "{host}");
    }
    // What is excluded is in no version: a change of it alone is no change.
    trees::write(&farm.staging().join("uploads/draft.txt"), b"written anew", 0o644).expect("writes");
    let third = farm.publish(&[]).done();
    assert_eq!(second.word("result"), third.word("result"));
}

#[test]
fn groups_of_one_site_are_published_side_by_side_and_each_has_its_own_base() {
    // Slow enough that one publish is under way when the other begins.
    let farm = Farm::start(two_segments_of_three().wan_rate(Rate::mbit(16)), &[]);
    for (group, segment) in [("east", "s1"), ("west", "s2")] {
        farm.cli(&["group", "create", group, "--site", SITE, "--segment", segment]).expect_code(0);
    }
    let of = |segment: u8| -> Vec<Host> {
        farm.hosts().into_iter().filter(|host| matches!(host, Host::Server(of, _) if *of == segment)).collect()
    };
    let (east, west) = (of(1), of(2));
    let (a, b) = (farm.scratch("a"), farm.scratch("b"));
    trees::generate(&a, Plan { seed: 6, bytes: 1_000_000, file_bytes: 30_000 }).expect("a tree");
    trees::copy(&a, &b).expect("a copy");
    trees::generate(&b.join("more"), Plan { seed: 7, bytes: 8_000_000, file_bytes: 100_000 }).expect("a tree");

    stage(&farm, &a);
    let first = farm.publish(&["--group", "east"]).done();
    let version_a = result_of(&first);
    for host in &west {
        assert_eq!(fs::read_dir(farm.live(*host)).expect("a directory").count(), 0, "{host} is of the other group");
    }
    farm.publish(&["--group", "west"]).done();
    farm.assert_live(&farm.hosts(), &a);

    stage(&farm, &b);
    let one = farm.publish(&["--group", "east"]).done();
    farm.assert_live(&east, &b);
    farm.assert_live(&west, &a);
    assert_eq!(one.word("base"), Some(version_a.as_str()));
    let other = farm.publish(&["--group", "west"]).done();
    assert_eq!(other.word("base"), Some(version_a.as_str()), "the base of one group moved with the other: {other}");
    farm.assert_live(&west, &b);

    trees::change(&b, 8, 0.6).expect("changes");
    stage(&farm, &b);
    let one = farm.publish_start(&["--group", "east"]);
    let other = farm.publish_start(&["--group", "west"]);
    let [one, other] = [one, other].map(|run| farm.wait_final(run, PATIENCE));
    for run in [&one, &other] {
        assert_eq!(run.state(), "done", "{run}");
    }
    assert!(other.word("started") < one.word("ended"), "one waited for the other: {one}\n{other}");
    farm.assert_live(&farm.hosts(), &b);
}

#[test]
fn a_diff_tells_what_a_publish_would_do_and_changes_nothing() {
    let farm = Farm::start(FarmSpec::of(env!("CARGO_BIN_EXE_pressrun"), 1, 2), &[]);
    let staging = farm.staging();
    for name in ["changed.txt", "moved.txt", "removed.txt"] {
        trees::write(&staging.join(name), format!("the first {name}\n").as_bytes(), 0o644).expect("writes");
    }
    farm.publish(&[]).done();
    let published = farm.scratch("published");
    trees::copy(&staging, &published).expect("a copy");
    trees::write(&staging.join("changed.txt"), b"the second\n", 0o644).expect("writes");
    trees::write(&staging.join("added.txt"), b"new\n", 0o644).expect("writes");
    fs::rename(staging.join("moved.txt"), staging.join("there.txt")).expect("moves");
    fs::remove_file(staging.join("removed.txt")).expect("removes");
    let diff = farm.cli(&["diff", SITE, "--text"]).expect_code(0);
    let names = |kind: &str, member: &str| -> Vec<String> {
        let items = diff.json[kind].as_array().into_iter().flatten();
        items.filter_map(|item| Some(item[member].as_str()?.to_owned())).collect()
    };
    assert_eq!(names("added", "path"), ["added.txt"], "{diff}");
    assert_eq!(names("changed", "path"), ["changed.txt"], "{diff}");
    assert_eq!(names("removed", "path"), ["removed.txt"], "{diff}");
    assert_eq!((names("moved", "from"), names("moved", "to")), (vec!["moved.txt".into()], vec!["there.txt".into()]));
    assert!(names("changed", "text").iter().any(|text| text.contains("+the second")), "{diff}");
    farm.assert_live(&farm.hosts(), &published);
}
