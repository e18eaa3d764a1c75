use super::*;

fn interface(name: &str, address: [u8; 4]) -> Interface {
    Interface { name: name.into(), address: address.into(), prefix_bits: 24, is_up: true, has_multicast: true }
}

fn peer(number: u8) -> PeerSeen {
    PeerSeen {
        name: format!("web{number}"),
        address: SocketAddr::from(([10, 0, 0, number], 4000)),
        answered: true,
        heard_probes: 20,
        last_probe: 20,
        transport: Some(Transport::Auto),
        burst: Some(Burst { sent: 500, received: 500, bytes_per_sec: 1_000_000 }),
        fresh: None,
    }
}

fn healthy() -> Observations {
    Observations {
        transport: Transport::Auto,
        interface: interface("eth0", [10, 0, 0, 1]),
        other_interfaces: vec![interface("eth1", [10, 9, 0, 1])],
        send_error: None,
        buffer_wanted_bytes: 1_000,
        buffer_granted_bytes: 1_000,
        buffer_drops: 0,
        bridges: Vec::new(),
        drop_rules: Vec::new(),
        rules_readable: true,
        own_agent: true,
        probes: 20,
        peers: vec![peer(2), peer(3)],
    }
}

fn deaf(peer: &mut PeerSeen) {
    (peer.heard_probes, peer.last_probe) = (0, 0);
}

fn mute(peer: &mut PeerSeen) {
    peer.burst = Some(Burst { sent: 500, received: 0, bytes_per_sec: 0 });
}

fn silent(peer: &mut PeerSeen) {
    deaf(peer);
    (peer.answered, peer.burst, peer.transport) = (false, None, None);
}

fn rule(hook: &str) -> DropRule {
    DropRule { hook: hook.into(), place: "inet filter".into(), rule: "ip daddr 224.0.0.0/4 drop".into() }
}

fn bridge(snooping: bool, querier: bool) -> Bridge {
    Bridge { name: "br0".into(), snooping, querier }
}

fn both(seen: &mut Observations, change: impl Fn(&mut PeerSeen)) {
    seen.peers.iter_mut().for_each(change);
}

/// The codes of what is found after a change to a healthy segment.
fn codes(change: impl Fn(&mut Observations)) -> Vec<&'static str> {
    let mut seen = healthy();
    change(&mut seen);
    diagnose(&seen).iter().map(Finding::code).collect()
}

#[test]
fn nothing_is_found_where_nothing_is_wrong() {
    type Change = fn(&mut Observations);
    let harmless: [(&str, Change); 7] = [
        ("healthy", |_| ()),
        ("a bridge that snoops, and multicast passes", |seen| seen.bridges.push(bridge(true, false))),
        ("a rule that drops something else, for multicast passes", |seen| seen.drop_rules.push(rule("input"))),
        ("a peer had no time for a burst", |seen| seen.peers[0].burst = None),
        ("by unicast nothing is multicast", |seen| {
            seen.transport = Transport::Unicast;
            seen.buffer_granted_bytes = 1;
            both(seen, |peer| {
                deaf(peer);
                peer.burst = None;
            });
        }),
        ("peers that shall not multicast are no sign", |seen| {
            both(seen, |peer| {
                deaf(peer);
                (peer.burst, peer.transport) = (None, Some(Transport::Unicast));
            });
        }),
        ("a little loss is usual", |seen| {
            seen.peers[0].burst = Some(Burst { sent: 500, received: 491, bytes_per_sec: 1 });
            seen.peers[1].heard_probes = 15;
        }),
    ];
    for (what, change) in harmless {
        assert_eq!(codes(change), [""; 0], "{what}");
    }
}

#[test]
fn each_cause_is_named_by_what_it_does() {
    type Change = fn(&mut Observations);
    let causes: [(&str, &[&str], Change); 24] = [
        ("the switch forgets everybody, and knows who has just joined", &["snooping-without-querier"], |seen| {
            both(seen, deaf);
            both(seen, mute);
            seen.peers[0].fresh = Some(Burst { sent: 500, received: 499, bytes_per_sec: 1 });
        }),
        ("a rule against all UDP", &["firewall"], |seen| {
            seen.drop_rules = vec![rule("input")];
            both(seen, silent);
        }),
        ("down", &["interface-down"], |seen| seen.interface.is_up = false),
        ("no flag", &["interface-without-multicast"], |seen| seen.interface.has_multicast = false),
        ("no route", &["cannot-send"], |seen| seen.send_error = Some("Network is unreachable".into())),
        ("a rule refuses", &["firewall"], |seen| {
            seen.send_error = Some("Operation not permitted".into());
            seen.drop_rules = vec![rule("forward"), rule("output")];
        }),
        ("buffers", &["buffer-limit", "buffer-overflow"], |seen| {
            seen.buffer_granted_bytes = 999;
            seen.buffer_drops = 1;
        }),
        ("no agent here", &["no-agent"], |seen| seen.own_agent = false),
        ("nobody else is known", &["nobody-known"], |seen| seen.peers.clear()),
        ("one is away", &["silent"], |seen| silent(&mut seen.peers[0])),
        ("all are on another network", &["wrong-interface"], |seen| {
            seen.interface.address = [10, 8, 0, 1].into();
            seen.other_interfaces = vec![interface("eth1", [10, 0, 0, 1])];
            both(seen, silent);
        }),
        ("they answer by another network", &["wrong-interface"], |seen| {
            seen.interface.address = [10, 8, 0, 1].into();
            seen.other_interfaces = vec![interface("eth1", [10, 0, 0, 1])];
            both(seen, deaf);
        }),
        ("a router between", &["ttl"], |seen| {
            seen.peers[1].address = SocketAddr::from(([10, 7, 0, 3], 4000));
            deaf(&mut seen.peers[1]);
            mute(&mut seen.peers[1]);
        }),
        ("rule for what comes in", &["firewall"], |seen| {
            seen.drop_rules = vec![rule("output"), rule("input")];
            both(seen, mute);
        }),
        ("rule for what goes out", &["firewall"], |seen| {
            seen.drop_rules = vec![rule("input"), rule("postrouting")];
            both(seen, deaf);
        }),
        ("rules for both", &["firewall", "firewall"], |seen| {
            seen.drop_rules = vec![rule("input"), rule("output")];
            both(seen, deaf);
            both(seen, mute);
        }),
        ("own bridge forgets", &["snooping-without-querier"], |seen| {
            seen.bridges = vec![bridge(false, false), bridge(true, false)];
            both(seen, deaf);
        }),
        ("the switch forgets who joined long ago", &["snooping-without-querier"], |seen| both(seen, deaf)),
        ("it stops after a while", &["snooping-without-querier"], |seen| {
            both(seen, |peer| (peer.heard_probes, peer.last_probe) = (9, 9));
        }),
        ("nothing passes", &["multicast-not-carried"], |seen| {
            both(seen, deaf);
            both(seen, mute);
        }),
        ("a bridge that asks is not the cause", &["multicast-not-carried"], |seen| {
            seen.bridges = vec![bridge(true, true)];
            both(seen, deaf);
            both(seen, mute);
        }),
        ("only inwards, and no rule is seen", &["blocked"], |seen| both(seen, mute)),
        ("one server keeps it out and in", &["blocked", "blocked"], |seen| {
            deaf(&mut seen.peers[0]);
            mute(&mut seen.peers[0]);
        }),
        ("losses", &["loss", "loss"], |seen| {
            seen.peers[0].burst = Some(Burst { sent: 500, received: 490, bytes_per_sec: 1 });
            seen.peers[1].heard_probes = 14;
        }),
    ];
    for (what, expected, change) in causes {
        assert_eq!(codes(change), expected, "{what}");
    }
}

#[test]
fn a_rule_is_blamed_only_for_the_direction_that_it_stands_in_the_way_of() {
    let inward = codes(|seen| {
        seen.drop_rules = vec![rule("output"), rule("forward")];
        both(seen, mute);
    });
    assert_eq!(inward, ["blocked"]);
}

#[test]
fn one_server_that_does_not_hear_is_where_to_look_and_not_the_network() {
    let mut seen = healthy();
    deaf(&mut seen.peers[1]);
    let [Finding::Blocked { direction: Direction::Outward, peers, here: false, .. }] = &diagnose(&seen)[..] else {
        panic!("{:?}", diagnose(&seen))
    };
    assert_eq!(peers, &["web3"]);
}

#[test]
fn every_finding_says_what_is_wrong_and_what_to_do_and_names_whom_and_what() {
    let mut seen = healthy();
    seen.bridges = vec![bridge(true, false)];
    both(&mut seen, deaf);
    let view = diagnose(&seen)[0].view();
    assert!(view.says.contains("br0") && view.says.contains("web2, web3"), "{}", view.says);
    assert!(view.next.contains("mcast_querier 1"), "{}", view.next);
    let many: Vec<String> = (1..=10).map(|n| format!("web{n}")).collect();
    let says = Finding::Silent { peers: many }.view().says;
    assert!(says.contains("from web1, ") && says.contains("web8 and 2 others"), "{says}");
}
