//! `pressrun doctor` beside running agents: each cause is laid for real and named, and a healthy segment has
//! none.

use std::process::{Command, Stdio};
use std::time::Duration;

use netlab::farm::{Farm, FarmSpec};
use netlab::{Cut, Host};
use serde_json::Value;

const HERE: Host = Host::Server(1, 1);

/// What the doctor said, and how it ended.
#[derive(Debug)]
struct Said {
    code: Option<i32>,
    report: Value,
    errors: String,
}

impl Said {
    fn codes(&self) -> Vec<&str> {
        let findings = self.report["findings"].as_array().unwrap_or_else(|| panic!("no findings: {}", self.errors));
        findings.iter().filter_map(|finding| finding["code"].as_str()).collect()
    }

    /// Checks that just these causes are named, and that a word is in what is said of the first.
    fn names(&self, codes: &[&str], word: &str) {
        assert_eq!(self.codes(), codes, "{self:#?}");
        assert_eq!(self.code, Some(i32::from(!codes.is_empty())), "{self:#?}");
        let first = &self.report["findings"][0];
        assert!(codes.is_empty() || first["says"].as_str().is_some_and(|says| says.contains(word)), "{self:#?}");
        assert!(codes.is_empty() || first["next"].as_str().is_some_and(|next| !next.is_empty()), "{self:#?}");
    }
}

fn doctor_as(farm: &Farm, wrapper: &[&str], interface: &str) -> Said {
    let program = wrapper.first().copied().unwrap_or(env!("CARGO_BIN_EXE_pressrun"));
    let mut command: Command = farm.lab().command(HERE, program);
    if let Some((_, rest)) = wrapper.split_first() {
        command.args(rest).arg(env!("CARGO_BIN_EXE_pressrun"));
    }
    command.arg("doctor").arg("--data").arg(farm.agent_data(HERE));
    if farm.agent_config().exists() {
        command.arg("--config").arg(farm.agent_config());
    }
    command.args(["--interface", interface, "--seconds", "5", "--json"]).stdin(Stdio::null());
    let output = command.output().expect("the doctor runs");
    Said {
        code: output.status.code(),
        report: serde_json::from_slice(&output.stdout).unwrap_or(Value::Null),
        errors: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn doctor(farm: &Farm) -> Said {
    doctor_as(farm, &[], "eth0")
}

fn farm() -> Farm {
    Farm::start(FarmSpec::of(env!("CARGO_BIN_EXE_pressrun"), 1, 3), &[])
}

/// A table of rules on a server, as its administrator may have.
fn rules(farm: &Farm, host: Host, hook: Option<&str>) {
    let mut rules = "table inet filter\ndelete table inet filter\n".to_owned();
    if let Some(hook) = hook {
        rules += &format!(
            "table inet filter {{\n chain {hook} {{\n type filter hook {hook} priority 0; policy accept;\n\
             ip daddr 224.0.0.0/4 counter drop\n }}\n}}\n"
        );
    }
    farm.lab().nft(host, &rules).expect("the rules are taken");
}

#[test]
fn a_healthy_segment_has_no_finding_and_rates_and_losses_are_measured() {
    let farm = farm();
    let said = doctor(&farm);
    said.names(&[], "");
    let peers = said.report["observations"]["peers"].as_array().expect("peers");
    assert_eq!(peers.len(), 2, "{said:#?}");
    for peer in peers {
        assert_eq!((&peer["answered"], &peer["heard_probes"]), (&Value::Bool(true), &Value::from(20)), "{said:#?}");
        let burst = &peer["burst"];
        assert_eq!((burst["sent"].as_u64(), burst["received"].as_u64()), (Some(500), Some(500)), "{said:#?}");
        assert!(burst["bytes_per_sec"].as_u64() > Some(100_000), "{said:#?}");
    }
    // Nothing of it disturbed the agents: who led still does, and all are there.
    let leader = farm.leader_of(1).expect("a leader");
    farm.publish(&["--quorum", "100%"]).done();
    assert_eq!(farm.leader_of(1), Some(leader));
}

#[test]
fn a_healthy_segment_has_no_finding_over_ipv6_and_where_it_was_moved_to() {
    let spec = FarmSpec::of(env!("CARGO_BIN_EXE_pressrun"), 1, 3).ipv6().agents("[lan]\nfamily = \"ipv6\"\n");
    let farm = Farm::start(spec, &[]);
    doctor(&farm).names(&[], "");
    let mut writes = farm.log_writes();
    farm.cli(&["segment", "move", "s1", "--control", "[ff18::9]:20001"]).expect_code(0);
    let moved = netlab::wait::wait_for(&mut writes, Duration::from_secs(60), || {
        let says = |host: &Host| farm.log(&host.to_string()).contains("control channel is another one");
        farm.hosts().iter().all(says).then_some(())
    });
    assert!(moved.is_some(), "the segment does not move");
    doctor(&farm).names(&[], "");
}

#[test]
fn a_rule_that_drops_multicast_is_named_by_its_hook_here_and_by_its_server_elsewhere() {
    let farm = farm();
    rules(&farm, HERE, Some("input"));
    doctor(&farm).names(&["firewall"], "hook input");
    rules(&farm, HERE, Some("output"));
    doctor(&farm).names(&["firewall"], "hook output");
    rules(&farm, HERE, None);
    let there = Host::Server(1, 3);
    rules(&farm, there, Some("input"));
    doctor(&farm).names(&["blocked"], &there.to_string());
    rules(&farm, there, None);
    doctor(&farm).names(&[], "");
}

#[test]
fn a_switch_that_carries_no_multicast_is_named_and_one_that_does_again_is_not() {
    let farm = farm();
    farm.wait_addresses_noted(HERE, 2);
    farm.lab().set_multicast_off(1).expect("the switch obeys");
    doctor(&farm).names(&["multicast-not-carried"], "answer by unicast");
    for server in farm.hosts() {
        farm.lab().set_multicast_cut(server, Cut::Nothing).expect("the switch obeys");
    }
    doctor(&farm).names(&[], "");
}

#[test]
fn the_wrong_interface_one_without_multicast_and_a_small_buffer_are_named() {
    let mut farm = farm();
    // Without the right to go beyond it, the kernel's limit holds.
    let limited = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"];
    doctor_as(&farm, &limited, "eth0").names(&["buffer-limit"], "receive buffer");

    farm.lab().add_interface(HERE, "other0", "10.99.0.1/24").expect("made");
    doctor_as(&farm, &[], "other0").names(&["wrong-interface"], "eth0");

    farm.kill_agent(HERE);
    doctor(&farm).names(&["no-agent"], "agent");
    farm.kill_agent(Host::Server(1, 2));
    doctor(&farm).names(&["no-agent", "silent"], "agent");
}

#[test]
fn a_bridge_of_the_server_that_snoops_without_a_querier_is_named() {
    let mut farm = farm();
    farm.wait_addresses_noted(HERE, 2);
    farm.lab().set_multicast_off(1).expect("the switch obeys");
    farm.kill_agent(HERE);
    farm.lab().put_on_a_bridge(HERE, "br0").expect("the address moves to a bridge");
    doctor_as(&farm, &[], "br0").names(&["no-agent", "snooping-without-querier"], "agent");
}
