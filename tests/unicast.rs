//! Segments whose network carries no multicast, or keeps it from some.

use std::path::PathBuf;
use std::time::Duration;

use netlab::farm::{Farm, FarmSpec, SITE};
use netlab::trees::{self, Plan};
use netlab::{Cut, Host};

/// Longest time that the farm may take for anything.
const PATIENCE: Duration = Duration::from_secs(120);
/// Addresses that an administrator wrote down.
const BY_HAND: &str = "[lan]\ntransport = \"unicast\"\nport = 4001\n\
     peers = [\"10.77.1.11:4001\", \"10.77.1.12:4001\", \"10.77.1.13:4001\"]\n";

fn spec(servers: u8) -> FarmSpec {
    FarmSpec::of(env!("CARGO_BIN_EXE_pressrun"), 1, servers)
}

fn stage(farm: &Farm, name: &str, plan: Plan) -> PathBuf {
    let tree = farm.scratch(name);
    trees::generate(&tree, plan).expect("a tree");
    trees::replace(&tree, &farm.staging()).expect("staging");
    tree
}

/// Publishes two trees, goes back to the first, and has another server lead when the leader is killed.
fn assert_it_works(farm: &mut Farm) {
    let first = stage(farm, "first", Plan { seed: 1, bytes: 2_000_000, file_bytes: 20_000 });
    farm.publish(&["--quorum", "100%"]).done();
    farm.assert_live(&farm.hosts(), &first);
    let second = stage(farm, "second", Plan { seed: 2, bytes: 2_000_000, file_bytes: 20_000 });
    farm.publish(&["--quorum", "100%"]).done();
    farm.assert_live(&farm.hosts(), &second);
    farm.run(&["rollback", SITE, "--quorum", "100%"]).done();
    farm.assert_live(&farm.hosts(), &first);

    let leader = farm.leader_of(1).expect("a leader");
    farm.kill_agent(leader);
    let elected = farm.wait_for(PATIENCE, || farm.leader_of(1).filter(|elected| *elected != leader));
    assert!(elected.is_some(), "nobody follows {leader}: {:#?}", farm.servers());
    farm.wait_state(leader, "offline", PATIENCE);
    let third = stage(farm, "third", Plan { seed: 3, bytes: 500_000, file_bytes: 20_000 });
    let ended = farm.publish(&[]);
    assert!(matches!(ended.state(), "done" | "partial"), "{ended}");
    let others: Vec<Host> = farm.hosts().into_iter().filter(|host| *host != leader).collect();
    farm.assert_live(&others, &third);
    farm.start_agent(leader);
    farm.wait_live(leader, &third, PATIENCE);
}

#[test]
fn a_segment_whose_switch_forwards_no_multicast_elects_publishes_and_goes_back() {
    let mut farm = Farm::start(spec(3).without_multicast(), &[]);
    assert_it_works(&mut farm);
}

/// Moves the segment, and waits until all these servers say that it has moved.
fn move_to(farm: &Farm, channel: &str) {
    let mut writes = farm.log_writes();
    farm.cli(&["segment", "move", "s1", "--control", channel]).expect_code(0);
    let moved = netlab::wait::wait_for(&mut writes, PATIENCE, || {
        let says = |host: &Host| farm.log(&host.to_string()).contains("control channel is another one");
        farm.hosts().iter().all(says).then_some(())
    });
    assert!(moved.is_some(), "the segment does not move");
}

#[test]
fn a_segment_that_moves_takes_along_who_hears_no_multicast_and_that_one_finds_it_again() {
    let deaf = Host::Server(1, 2);
    let mut farm = Farm::start(spec(4).multicast_cut(deaf, Cut::BothWays), &[]);
    move_to(&farm, "239.195.9.9:20001");
    let first = stage(&farm, "first", Plan { seed: 1, bytes: 500_000, file_bytes: 20_000 });
    farm.publish(&["--quorum", "100%"]).done();
    farm.assert_live(&farm.hosts(), &first);
    // It has forgotten where that was.
    farm.kill_agent(deaf);
    farm.wait_state(deaf, "offline", PATIENCE);
    std::fs::remove_file(farm.agent_data(deaf).join("control-channel")).expect("it was noted");
    farm.start_agent(deaf);
    farm.wait_state(deaf, "online", PATIENCE);
    let second = stage(&farm, "second", Plan { seed: 2, bytes: 500_000, file_bytes: 20_000 });
    farm.publish(&["--quorum", "100%"]).done();
    farm.assert_live(&farm.hosts(), &second);
}

#[test]
fn over_ipv6_by_unicast_servers_elect_publish_and_move() {
    let agents = "[lan]\nfamily = \"ipv6\"\ntransport = \"unicast\"\n";
    let mut farm = Farm::start(spec(3).ipv6().agents(agents), &[]);
    move_to(&farm, "[ff18::9]:20001");
    assert_it_works(&mut farm);
}

#[test]
fn by_unicast_everything_works_and_no_multicast_packet_is_sent() {
    let mut farm = Farm::start(spec(3).agents("[lan]\ntransport = \"unicast\"\n"), &[]);
    let hosts = farm.hosts();
    for host in &hosts {
        farm.kill_agent(*host);
        farm.lab().count_multicast(*host).expect("counted");
    }
    for host in &hosts {
        farm.wait_state(*host, "offline", PATIENCE);
        farm.start_agent(*host);
    }
    farm.wait_online();
    assert_it_works(&mut farm);
    for host in hosts {
        assert_eq!(farm.lab().multicast_packets(host).expect("counted"), 0, "{host} multicasts");
    }
}

#[test]
fn a_server_that_alone_is_cut_from_multicast_is_served_by_unicast_at_once_and_the_others_by_multicast() {
    for cut in [Cut::Inward, Cut::BothWays] {
        let deaf = Host::Server(1, 2);
        let farm = Farm::start(spec(4).multicast_cut(deaf, cut), &[]);
        let small = stage(&farm, "small", Plan { seed: 1, bytes: 100_000, file_bytes: 10_000 });
        farm.publish(&["--quorum", "100%"]).done();
        farm.assert_live(&farm.hosts(), &small);
        let large = stage(&farm, "large", Plan { seed: 2, bytes: 20_000_000, file_bytes: 200_000 });
        let before = farm.meter();
        let run = farm.publish(&["--quorum", "100%"]).done();
        farm.assert_live(&farm.hosts(), &large);
        let leader = farm.leader_of(1).expect("a leader");
        let (object, sent) = (run.assignment_bytes(), farm.sent_since(leader, &before));
        if leader == deaf && cut == Cut::BothWays {
            assert!(sent > object * 5 / 2, "nobody hears {leader}, which sent {sent} bytes for {object}");
        } else if leader == deaf {
            assert!(sent < object * 3 / 2, "all hear {leader}, which sent {sent} bytes for {object}");
        } else {
            // Once for those who hear it and once for the one that does not.
            assert!(sent < object * 5 / 2, "{leader} sent {sent} bytes for {object}");
            assert!(sent > object * 3 / 2, "{leader} sent {sent} bytes for {object}");
        }
        for host in farm.hosts() {
            let log = farm.log(&host.to_string());
            assert!(!log.contains("what the session did not bring"), "{host} waited for a session:\n{log}");
        }
        farm.run(&["rollback", SITE, "--quorum", "100%"]).done();
        farm.assert_live(&farm.hosts(), &small);
    }
}

#[test]
fn servers_find_each_other_by_addresses_though_the_ccm_is_down() {
    // First by what the CCM said before, then by what the administrator wrote down.
    for agents in ["[lan]\ntransport = \"unicast\"\n", BY_HAND] {
        let mut farm = Farm::start(spec(3).agents(agents), &[]);
        let hosts = farm.hosts();
        if agents != BY_HAND {
            hosts.iter().for_each(|host| farm.wait_addresses_noted(*host, 2));
        }
        farm.kill_ccm();
        for host in &hosts {
            farm.kill_agent(*host);
            if agents == BY_HAND {
                // There is none where nothing was known yet.
                std::fs::remove_file(farm.agent_data(*host).join("peers.json")).ok();
            }
        }
        let follows = |farm: &Farm| {
            let logs = hosts.iter().map(|host| farm.log(&host.to_string()));
            logs.map(|log| log.matches("follows a group leader").count()).sum::<usize>()
        };
        let before = follows(&farm);
        let mut writes = farm.log_writes();
        for host in &hosts {
            farm.start_agent(*host);
        }
        let two = netlab::wait::wait_for(&mut writes, PATIENCE, || (follows(&farm) >= before + 2).then_some(()));
        two.expect("two of three follow the third");
        farm.start_ccm();
        farm.wait_online();
        let tree = stage(&farm, "tree", Plan { seed: 1, bytes: 100_000, file_bytes: 10_000 });
        farm.publish(&["--quorum", "100%"]).done();
        farm.assert_live(&hosts, &tree);
    }
}

#[test]
fn a_network_that_ceases_to_carry_multicast_while_agents_run_is_noticed() {
    let farm = Farm::start(spec(3), &[]);
    let first = stage(&farm, "first", Plan { seed: 1, bytes: 100_000, file_bytes: 10_000 });
    farm.publish(&["--quorum", "100%"]).done();
    farm.assert_live(&farm.hosts(), &first);
    let mut writes = farm.log_writes();
    farm.lab().set_multicast_off(1).expect("the switch obeys");
    let deaf = || {
        let logs = farm.hosts().into_iter().map(|host| farm.log(&host.to_string()));
        logs.map(|log| log.matches("does not hear what is multicast").count()).sum::<usize>()
    };
    netlab::wait::wait_for(&mut writes, PATIENCE, || (deaf() >= 2).then_some(())).expect("two are deaf");
    let second = stage(&farm, "second", Plan { seed: 2, bytes: 2_000_000, file_bytes: 20_000 });
    farm.publish(&["--quorum", "100%"]).done();
    farm.assert_live(&farm.hosts(), &second);
}
