//! Data channels of content groups on a real switch: who is not in the group hears nothing of it.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use netlab::farm::{Farm, FarmSpec, Run, SITE};
use netlab::trees::{self, Plan};
use netlab::{Host, Rate};

/// What control messages may take beside an assignment.
const CONTROL_BYTES: u64 = 128 * 1024;
const PATIENCE: Duration = Duration::from_secs(120);

/// Makes a group of servers.
fn group(farm: &Farm, name: &str, hosts: &[Host], more: &[&str]) {
    let hosts = hosts.iter().map(Host::to_string).collect::<Vec<_>>().join(",");
    let create = ["group", "create", name, "--site", SITE, "--servers", &hosts];
    farm.cli(&[&create, more].concat()).expect_code(0);
}

/// The channel that the CCM gave a group.
fn channel(farm: &Farm, name: &str) -> String {
    let groups = farm.cli(&["group", "list", "--site", SITE]).expect_code(0);
    let items = groups.json["items"].as_array().expect("a list");
    let group = items.iter().find(|group| group["name"] == name).expect("the group is listed");
    group["channel"].as_str().unwrap_or_else(|| panic!("{name} has no channel: {group}")).to_owned()
}

/// Whether a server has joined the group address of a channel at present.
fn has_joined(farm: &Farm, host: Host, channel: &str) -> bool {
    let address = channel.rsplit_once(':').expect("address and port").0.to_owned();
    let mut command = farm.lab().command(host, "ip");
    let output = command.args(["maddress", "show", "dev", "eth0"]).output().expect("ip runs");
    String::from_utf8_lossy(&output.stdout).split_whitespace().any(|word| word == address)
}

#[test]
fn servers_outside_a_content_group_receive_none_of_its_data_and_two_groups_are_served_side_by_side() {
    let spec = FarmSpec::of(env!("CARGO_BIN_EXE_pressrun"), 1, 5).snooping().lan_rate(Rate::mbit(80));
    let farm = Farm::start(spec, &[]);
    // The leader hears from the CCM what all others are sent; it belongs to neither group.
    let leader = farm.leader_of(1).expect("a leader");
    let others: Vec<Host> = farm.hosts().into_iter().filter(|host| *host != leader).collect();
    let (east, west) = others.split_at(2);
    group(&farm, "east", east, &[]);
    group(&farm, "west", west, &["--channel", "239.195.7.7:31000"]);
    trees::generate(&farm.staging(), Plan { seed: 1, bytes: 8_000_000, file_bytes: 100_000 }).expect("staging");

    let before = farm.meter();
    let one = farm.publish(&["--group", "east"]).done();
    let bytes = one.assignment_bytes();
    farm.assert_live(east, &farm.staging());
    for host in east {
        let heard = farm.heard_since(*host, &before);
        assert!(heard >= bytes, "{host} of the group heard {heard} bytes of {bytes}");
    }
    for host in west {
        let heard = farm.heard_since(*host, &before);
        assert!(heard <= CONTROL_BYTES, "{host}, of the other group, heard {heard} bytes of {bytes}");
        // For `cargo test --test channels -- --nocapture`.
        println!("{host} heard {heard} bytes of an assignment of {bytes} that is not for it");
    }
    let east_channel = channel(&farm, "east");
    assert!(east_channel.starts_with("239.19"), "{east_channel}");
    for host in farm.hosts() {
        assert!(!has_joined(&farm, host, &east_channel), "{host} still listens to {east_channel}");
    }

    farm.publish(&["--group", "west"]).done();
    assert_eq!(channel(&farm, "west"), "239.195.7.7:31000");
    trees::generate(&farm.staging().join("more"), Plan { seed: 2, bytes: 8_000_000, file_bytes: 100_000 })
        .expect("staging");
    let before = farm.meter();
    let runs = ["east", "west"].map(|group| farm.publish_start(&["--group", group]));
    let mut listened = BTreeSet::new();
    let both = farm.wait_for(PATIENCE, || {
        for (hosts, channel) in [(east, east_channel.as_str()), (west, "239.195.7.7:31000")] {
            for host in &others {
                if has_joined(&farm, *host, channel) {
                    assert!(hosts.contains(host), "{host} listens to {channel}");
                    listened.insert(*host);
                }
            }
        }
        runs.iter().all(|run| farm.run_show(*run).is_final()).then_some(())
    });
    assert!(both.is_some(), "the runs do not end");
    let [one, other] = runs.map(|run| farm.run_show(run).done());
    assert!(other.word("started") < one.word("ended"), "one waited for the other: {one}\n{other}");
    assert!(!listened.is_empty(), "nobody was seen to listen");
    for host in &others {
        let heard = farm.heard_since(*host, &before);
        let most = one.assignment_bytes().max(other.assignment_bytes()) * 115 / 100 + CONTROL_BYTES;
        assert!(heard <= most, "{host} heard {heard} bytes, more than one group's assignment");
    }
    farm.assert_live(&others, &farm.staging());
}

#[test]
fn servers_that_have_ipv6_only_are_published_to_by_multicast() {
    let spec = FarmSpec::of(env!("CARGO_BIN_EXE_pressrun"), 1, 3).ipv6().agents("[lan]\nfamily = \"ipv6\"\n");
    let farm = Farm::start(spec, &[]);
    trees::generate(&farm.staging(), Plan { seed: 3, bytes: 4_000_000, file_bytes: 50_000 }).expect("staging");
    let before = farm.meter();
    let run = farm.publish(&[]).done();
    farm.assert_live(&farm.hosts(), &farm.staging());
    let (bytes, sent) = (run.assignment_bytes(), farm.segment_sent_since(1, &before));
    println!("an assignment of {bytes} took {sent} bytes of the segment over IPv6");
    assert!(sent >= bytes, "{sent} bytes cannot have carried {bytes}");
    assert!(sent <= bytes * 110 / 100 + CONTROL_BYTES, "{sent} bytes for {bytes}: not by multicast");
}

#[test]
fn sessions_side_by_side_share_the_highest_rate_that_the_administrator_allows() {
    // 2 MB/s for both together.
    let spec = FarmSpec::of(env!("CARGO_BIN_EXE_pressrun"), 1, 3).agents("[sender]\nrate_max = \"16mbit\"\n");
    let farm = Farm::start(spec, &[]);
    let leader = farm.leader_of(1).expect("a leader");
    let others: Vec<Host> = farm.hosts().into_iter().filter(|host| *host != leader).collect();
    group(&farm, "east", &others[..1], &[]);
    group(&farm, "west", &others[1..], &[]);
    trees::generate(&farm.staging(), Plan { seed: 4, bytes: 3_000_000, file_bytes: 100_000 }).expect("staging");
    let started = std::time::Instant::now();
    let runs = ["east", "west"].map(|group| farm.publish_start(&["--group", group]));
    let runs = runs.map(|run| farm.wait_final(run, PATIENCE).done());
    let seconds = started.elapsed().as_secs_f64();
    let bytes: u64 = runs.iter().map(Run::assignment_bytes).sum();
    println!("{bytes} bytes of two sessions took {seconds:.2} s at 2 MB/s");
    assert!(seconds >= bytes as f64 / 2_000_000.0 * 0.95, "{bytes} bytes within {seconds} s: more than 2 MB/s");
    farm.assert_live(&others, &farm.staging());
}

#[test]
fn a_segment_moves_to_another_control_channel_and_a_server_that_was_down_finds_it_there() {
    let to = "239.195.9.9:20001";
    let mut farm = Farm::start(FarmSpec::of(env!("CARGO_BIN_EXE_pressrun"), 1, 4), &[]);
    trees::generate(&farm.staging(), Plan { seed: 5, bytes: 500_000, file_bytes: 20_000 }).expect("staging");
    farm.publish(&[]).done();
    let away = farm.follower_of(1);
    farm.kill_agent(away);
    farm.wait_state(away, "offline", PATIENCE);

    farm.cli(&["segment", "move", "s9", "--control", to]).expect_code(1);
    farm.cli(&["segment", "move", "s1", "--control", to]).expect_code(0);
    let mut writes = farm.log_writes();
    let here: Vec<Host> = farm.hosts().into_iter().filter(|host| *host != away).collect();
    let has_moved = |farm: &Farm, host: Host| farm.log(&host.to_string()).contains("control channel is another one");
    let moved =
        netlab::wait::wait_for(&mut writes, PATIENCE, || here.iter().all(|host| has_moved(&farm, *host)).then_some(()));
    assert!(moved.is_some(), "the segment does not move");
    for host in &here {
        assert!(has_joined(&farm, *host, to), "{host} does not listen to {to}");
    }
    // The one that is away follows later.
    let _run = farm.publish(&[]).ends(3, "partial");
    farm.assert_live(&here, &farm.staging());

    // It knows nothing of the move: the leader says where it is at the channel that the cluster implies.
    farm.start_agent(away);
    farm.wait_state(away, "online", PATIENCE);
    trees::change(&farm.staging(), 6, 0.3).expect("staging");
    farm.publish(&["--quorum", "100%"]).done();
    farm.assert_live(&farm.hosts(), &farm.staging());
    // Until it has heard that, it is reached by copies.
    let came = netlab::wait::wait_for(&mut writes, PATIENCE, || has_moved(&farm, away).then_some(()));
    assert!(came.is_some() && has_joined(&farm, away, to), "{away} does not come");

    // All remember it.
    for host in farm.hosts() {
        farm.kill_agent(host);
    }
    for host in farm.hosts() {
        farm.start_agent(host);
    }
    farm.wait_online();
    for host in farm.hosts() {
        assert!(has_joined(&farm, host, to), "{host} begins where it was");
    }
}

/// Fragments of packets that a server has sent.
fn fragments(farm: &Farm, host: Host) -> u64 {
    let mut command = farm.lab().command(host, "cat");
    let output = command.arg("/proc/net/snmp").output().expect("cat runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut rows = text.lines().filter(|line| line.starts_with("Ip:")).map(|line| line.split_whitespace());
    let (names, values) = (rows.next().expect("names"), rows.next().expect("values"));
    let found = names.zip(values).find(|(name, _)| *name == "FragCreates");
    found.and_then(|(_, value)| value.parse().ok()).expect("the kernel counts fragments")
}

#[test]
fn frames_are_as_long_as_what_reaches_every_member_and_never_fragmented() {
    let farm = Farm::start(FarmSpec::of(env!("CARGO_BIN_EXE_pressrun"), 1, 3), &[]);
    let leader = farm.leader_of(1).expect("a leader");
    // What frames cost beside the assignment: 40 bytes for each symbol.
    let cost = |seed: u64| {
        fs::remove_dir_all(farm.staging()).expect("removes");
        trees::generate(&farm.staging(), Plan { seed, bytes: 16_000_000, file_bytes: 100_000 }).expect("staging");
        let before = farm.meter();
        let run = farm.publish(&["--quorum", "100%"]).done();
        farm.assert_live(&farm.hosts(), &farm.staging());
        let cost = farm.sent_since(leader, &before).saturating_sub(run.assignment_bytes());
        println!("{cost} bytes beside an assignment of {}", run.assignment_bytes());
        assert_eq!(fragments(&farm, leader), 0);
        cost
    };
    let usual = cost(1);
    let mut writes = farm.log_writes();
    let mut leader_says = |words: &str| {
        let said = || farm.log(&leader.to_string()).contains(words).then_some(());
        assert!(netlab::wait::wait_for(&mut writes, PATIENCE, said).is_some(), "{leader} does not say: {words}");
    };

    // All interfaces take long packets, and the switch does not forward them to one server.
    let behind = farm.follower_of(1);
    farm.lab().set_mtu(1, 9_000).expect("links take longer packets");
    farm.lab().set_port_mtu(behind, 1_500).expect("a port does not");
    leader_says("these members get none");
    let stuck = cost(2);
    assert!(stuck > usual / 2, "{stuck} bytes of headers although a port takes 1,500 only, {usual} before");

    farm.lab().set_port_mtu(behind, 9_000).expect("now it does");
    farm.lab().set_server_mtu(behind, 8_000).expect("and its interface is another");
    leader_says("long packets reach all members");
    let long = cost(3);
    assert!(long < usual / 2, "{long} bytes of headers with an MTU of 8,000, {usual} with 1,500");

    farm.lab().set_server_mtu(behind, 1_500).expect("a link takes shorter ones");
    let mut mixed = cost(12);
    for seed in 13..22 {
        if mixed > usual / 2 {
            break;
        }
        mixed = cost(seed);
    }
    assert!(mixed > usual / 2, "{mixed} bytes of headers although one server takes 1,500 only");
}
