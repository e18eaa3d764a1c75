//! From what was observed to what is wrong and what to do: a pure function.
//!
//! A symptom is who hears whom. A cause is named from what this server can see of itself where that
//! explains the symptom; else from the symptom's form, and then it is said to be likely. What could be
//! wrong and does no harm is not reported.

#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};

use protocol::reach::Transport;
use serde::Serialize;

use super::finding::{Direction, Finding};

/// Loss from this on is a finding, in parts per thousand of a burst.
pub const LOSS_PER_MILLE_MIN: u32 = 20;
/// A peer that heard fewer of our probes than this share of them, in percent, loses them.
const PROBES_HEARD_PERCENT_MIN: u32 = 75;

/// An interface of this server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
    /// How many bits of the address name its network.
    pub prefix_bits: u8,
    /// Whether it is up.
    pub is_up: bool,
    /// Whether it carries multicast at all.
    pub has_multicast: bool,
}

impl Interface {
    fn reaches(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(address)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix_bits.min(32))).unwrap_or(0);
                own.to_bits() & mask == address.to_bits() & mask
            }
            (IpAddr::V6(own), IpAddr::V6(address)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix_bits.min(128))).unwrap_or(0);
                own.to_bits() & mask == address.to_bits() & mask
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

/// A bridge of this server that the segment's datagrams pass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Bridge {
    /// Its name.
    pub name: String,
    /// Whether it forwards multicast to those only who were heard to join.
    pub snooping: bool,
    /// Whether it asks who has joined.
    pub querier: bool,
}

/// A rule of this server that may drop multicast.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DropRule {
    /// Where: `input`, `output`, `prerouting` and so on.
    pub hook: String,
    /// Table and chain.
    pub place: String,
    /// The rule, or the chain's policy.
    pub rule: String,
}

/// Test frames of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Burst {
    /// That it sent.
    pub sent: u32,
    /// That arrived.
    pub received: u32,
    /// At which rate they arrived, in bytes per second.
    pub bytes_per_sec: u64,
}

impl Burst {
    fn lost_per_mille(self) -> u32 {
        let lost = u64::from(self.sent.saturating_sub(self.received)) * 1_000;
        u32::try_from(lost / u64::from(self.sent.max(1))).unwrap_or(1_000)
    }
}

/// Another server, as it was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PeerSeen {
    /// Its name, or its address where nothing better is known.
    pub name: String,
    /// Where it was asked, or answered from.
    pub address: SocketAddr,
    /// Whether it answered.
    pub answered: bool,
    /// How many of our probes by multicast it heard.
    pub heard_probes: u32,
    /// The number of the last of them.
    pub last_probe: u32,
    /// How it reaches others.
    pub transport: Option<Transport>,
    /// What it sent by multicast; `None` when it did not say that it sent any.
    pub burst: Option<Burst>,
    /// The same to a group that this server had just joined; only asked for where nothing else arrives.
    pub fresh: Option<Burst>,
}

impl PeerSeen {
    /// Whether it hears us.
    #[must_use]
    pub fn hears_us(&self) -> bool {
        self.heard_probes > 0
    }

    /// Whether we hear it; `None` when it sent nothing.
    #[must_use]
    pub fn is_heard(&self) -> Option<bool> {
        self.burst.map(|burst| burst.received > 0)
    }
}

/// Everything that was observed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Observations {
    /// How this server is told to reach others.
    pub transport: Transport,
    /// The segment's interface.
    pub interface: Interface,
    /// The others, but for the loopback.
    pub other_interfaces: Vec<Interface>,
    /// Why multicast could not be sent.
    pub send_error: Option<String>,
    /// Receive buffer that was asked for, in bytes.
    pub buffer_wanted_bytes: usize,
    /// And that the kernel gave.
    pub buffer_granted_bytes: usize,
    /// Datagrams that the kernel dropped for want of buffers meanwhile, of any program here.
    pub buffer_drops: u64,
    /// Bridges that the segment's datagrams pass here.
    pub bridges: Vec<Bridge>,
    /// Rules here that may drop multicast.
    pub drop_rules: Vec<DropRule>,
    /// Whether the rules could be read.
    pub rules_readable: bool,
    /// Whether the agent of this server answered.
    pub own_agent: bool,
    /// Probes that were multicast.
    pub probes: u32,
    /// The other servers.
    pub peers: Vec<PeerSeen>,
}

/// What is wrong, most certain first; empty when nothing is.
#[must_use]
pub fn diagnose(seen: &Observations) -> Vec<Finding> {
    let mut findings = local(seen);
    let silent: Vec<&PeerSeen> = seen.peers.iter().filter(|peer| !peer.answered).collect();
    let answering: Vec<&PeerSeen> = seen.peers.iter().filter(|peer| peer.answered).collect();
    if !silent.is_empty() {
        let peers = names(&silent);
        match wrong_interface(seen, &silent) {
            Some(better) if answering.is_empty() => findings.push(Finding::WrongInterface {
                interface: seen.interface.name.clone(),
                better: better.name.clone(),
                peers,
            }),
            Some(_) | None => {
                // A rule against all UDP keeps answers out, too.
                let rule = seen.drop_rules.iter().find(|rule| direction_of(rule).is_some());
                let rule = rule.filter(|_| answering.is_empty() && seen.send_error.is_none());
                findings.push(rule.map_or(Finding::Silent { peers }, firewall));
            }
        }
    }
    // Who is told not to multicast is no sign of anything.
    let multicasts = seen.transport != Transport::Unicast && seen.send_error.is_none();
    let measured: Vec<&PeerSeen> =
        answering.into_iter().filter(|peer| multicasts && peer.transport != Some(Transport::Unicast)).collect();
    findings.extend(reachability(seen, &measured));
    findings
}

fn local(seen: &Observations) -> Vec<Finding> {
    let mut findings = Vec::new();
    let interface = &seen.interface;
    let name = || interface.name.clone();
    if !interface.is_up {
        findings.push(Finding::InterfaceDown { interface: name() });
    } else if !interface.has_multicast && !interface.address.is_loopback() && seen.transport != Transport::Unicast {
        findings.push(Finding::InterfaceWithoutMulticast { interface: name() });
    }
    if let Some(reason) = &seen.send_error {
        let rule = seen.drop_rules.iter().find(|rule| direction_of(rule) == Some(Direction::Outward));
        findings.push(match rule {
            Some(rule) => firewall(rule),
            None => Finding::CannotSend { interface: name(), reason: reason.clone() },
        });
    }
    if seen.transport != Transport::Unicast && seen.buffer_granted_bytes < seen.buffer_wanted_bytes {
        findings.push(Finding::BufferLimit {
            granted_bytes: seen.buffer_granted_bytes,
            wanted_bytes: seen.buffer_wanted_bytes,
        });
    }
    if seen.buffer_drops > 0 {
        findings.push(Finding::BufferOverflow { datagrams: seen.buffer_drops });
    }
    if !seen.own_agent {
        findings.push(Finding::NoAgent);
    }
    if seen.peers.is_empty() {
        findings.push(Finding::NobodyKnown);
    }
    findings
}

/// The interface by which these servers are reached, when it is not the segment's.
fn wrong_interface<'a>(seen: &'a Observations, peers: &[&PeerSeen]) -> Option<&'a Interface> {
    let reached_by = |interface: &Interface| peers.iter().all(|peer| interface.reaches(peer.address.ip()));
    if reached_by(&seen.interface) {
        return None;
    }
    seen.other_interfaces.iter().find(|interface| interface.is_up && reached_by(interface))
}

/// What the multicast of those tells who answer by unicast.
fn reachability(seen: &Observations, peers: &[&PeerSeen]) -> Vec<Finding> {
    if peers.is_empty() {
        return Vec::new();
    }
    let deaf: Vec<&PeerSeen> = peers.iter().copied().filter(|peer| !peer.hears_us()).collect();
    let mute: Vec<&PeerSeen> = peers.iter().copied().filter(|peer| peer.is_heard() == Some(false)).collect();
    if deaf.is_empty() && mute.is_empty() {
        return losses(seen, peers);
    }
    let afflicted: Vec<&PeerSeen> =
        peers.iter().copied().filter(|peer| !peer.hears_us() || peer.is_heard() == Some(false)).collect();
    if let Some(better) = wrong_interface(seen, &afflicted) {
        let (interface, better) = (seen.interface.name.clone(), better.name.clone());
        return vec![Finding::WrongInterface { interface, better, peers: names(&afflicted) }];
    }
    let routed: Vec<&PeerSeen> =
        afflicted.iter().copied().filter(|peer| !seen.interface.reaches(peer.address.ip())).collect();
    if !routed.is_empty() {
        return vec![Finding::BehindRouter { peers: names(&routed) }];
    }
    let mut findings = Vec::new();
    let nobody_hears_us = deaf.len() == peers.len();
    let heard = peers.iter().filter(|peer| peer.is_heard() == Some(true)).count();
    let nobody_is_heard = heard == 0 && !mute.is_empty();
    for (direction, applies) in [(Direction::Inward, nobody_is_heard), (Direction::Outward, nobody_hears_us)] {
        let rule = seen.drop_rules.iter().find(|rule| direction_of(rule) == Some(direction));
        if let Some(rule) = rule.filter(|_| applies) {
            findings.push(firewall(rule));
        }
    }
    if !findings.is_empty() {
        return findings;
    }
    // A group joined a moment ago gets through and the segment's does not: it was forgotten who is in it.
    let forgotten: Vec<&PeerSeen> =
        mute.iter().copied().filter(|peer| peer.fresh.is_some_and(|burst| burst.received > 0)).collect();
    let snooping = seen.bridges.iter().find(|bridge| bridge.snooping && !bridge.querier);
    match (nobody_hears_us, nobody_is_heard, snooping) {
        (true, _, Some(bridge)) | (_, true, Some(bridge)) => {
            vec![Finding::SnoopingWithoutQuerier { bridge: Some(bridge.name.clone()), peers: names(&afflicted) }]
        }
        // Joining a moment ago is why this server still hears: the switch has forgotten that the others did.
        (true, false, None) if heard > 0 => {
            vec![Finding::SnoopingWithoutQuerier { bridge: None, peers: names(&deaf) }]
        }
        (_, _, None) if !forgotten.is_empty() => {
            vec![Finding::SnoopingWithoutQuerier { bridge: None, peers: names(&forgotten) }]
        }
        (true, _, None) if peers.len() > 1 || nobody_is_heard => {
            vec![Finding::NotCarried { peers: names(&afflicted), rules_readable: seen.rules_readable }]
        }
        (false, true, None) => {
            vec![Finding::Blocked {
                direction: Direction::Inward,
                peers: names(&mute),
                here: true,
                rules_readable: seen.rules_readable,
            }]
        }
        (_, false, _) | (true, true, None) => some_are_blocked(seen, &deaf, &mute),
    }
}

/// Some are reached and some are not: what keeps them apart is near those.
fn some_are_blocked(seen: &Observations, deaf: &[&PeerSeen], mute: &[&PeerSeen]) -> Vec<Finding> {
    [(Direction::Outward, deaf), (Direction::Inward, mute)]
        .into_iter()
        .filter(|(_, peers)| !peers.is_empty())
        .map(|(direction, peers)| Finding::Blocked {
            direction,
            peers: names(peers),
            here: false,
            rules_readable: seen.rules_readable,
        })
        .collect()
}

/// All hear each other; not everything, perhaps.
fn losses(seen: &Observations, peers: &[&PeerSeen]) -> Vec<Finding> {
    let stopped: Vec<&PeerSeen> = peers.iter().copied().filter(|peer| peer.last_probe <= seen.probes / 2).collect();
    if !stopped.is_empty() {
        let bridge = seen.bridges.iter().find(|bridge| bridge.snooping && !bridge.querier);
        let bridge = bridge.map(|bridge| bridge.name.clone());
        return vec![Finding::SnoopingWithoutQuerier { bridge, peers: names(&stopped) }];
    }
    let inward = peers.iter().filter_map(|peer| {
        let burst = peer.burst.filter(|burst| burst.lost_per_mille() >= LOSS_PER_MILLE_MIN)?;
        Some(Finding::Loss {
            peer: peer.name.clone(),
            direction: Direction::Inward,
            per_mille: burst.lost_per_mille(),
            bytes_per_sec: Some(burst.bytes_per_sec),
        })
    });
    let outward = peers.iter().filter(|peer| peer.heard_probes * 100 < seen.probes * PROBES_HEARD_PERCENT_MIN);
    let outward = outward.map(|peer| Finding::Loss {
        peer: peer.name.clone(),
        direction: Direction::Outward,
        per_mille: (seen.probes - peer.heard_probes) * 1_000 / seen.probes.max(1),
        bytes_per_sec: None,
    });
    inward.chain(outward).collect()
}

fn firewall(rule: &DropRule) -> Finding {
    Finding::Firewall { hook: rule.hook.clone(), place: rule.place.clone(), rule: rule.rule.clone() }
}

/// Which direction a rule stands in the way of; `None` for one that this server's own datagrams do not pass.
fn direction_of(rule: &DropRule) -> Option<Direction> {
    match rule.hook.as_str() {
        "prerouting" | "input" | "ingress" => Some(Direction::Inward),
        "output" | "postrouting" | "egress" => Some(Direction::Outward),
        _ => None,
    }
}

fn names(peers: &[&PeerSeen]) -> Vec<String> {
    peers.iter().map(|peer| peer.name.clone()).collect()
}
