//! What this server says about itself: interfaces, bridges, counters, firewall. Reading only.
//!
//! What cannot be read is taken for absent: the doctor says what it sees, and a server without `nft` has
//! no rules of `nft`. The texts are read by pure functions.

use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use lan_channel::interface::Family;

use super::diagnose::{Bridge, DropRule, Interface};

const NET: &str = "/sys/class/net";
const FLAG_UP: u32 = 0x1;
const FLAG_LOOPBACK: u32 = 0x8;
const FLAG_MULTICAST: u32 = 0x1000;
/// Longest list of rules that is looked through, in bytes.
const RULES_BYTES_MAX: usize = 8 << 20;

/// All interfaces with an address of this version of IP, once for each, with whether it is the loopback.
///
/// # Errors
/// When they cannot be listed.
pub(super) fn interfaces(family: Family) -> io::Result<Vec<(Interface, bool)>> {
    let found = if_addrs::get_if_addrs()?.into_iter().filter(|found| Family::of(found.ip()) == family).map(|found| {
        let prefix_bits = match &found.addr {
            if_addrs::IfAddr::V4(v4) => v4.prefixlen,
            if_addrs::IfAddr::V6(v6) => v6.prefixlen,
        };
        let flags = flags(&found.name);
        let interface = Interface {
            address: found.ip(),
            prefix_bits,
            is_up: flags & FLAG_UP != 0,
            has_multicast: flags & FLAG_MULTICAST != 0,
            name: found.name.clone(),
        };
        let is_loopback = flags & FLAG_LOOPBACK != 0 || found.ip().is_loopback();
        (interface, is_loopback)
    });
    Ok(found.collect())
}

fn flags(interface: &str) -> u32 {
    let text = fs::read_to_string(Path::new(NET).join(interface).join("flags")).unwrap_or_default();
    u32::from_str_radix(text.trim().trim_start_matches("0x"), 16).unwrap_or(0)
}

/// The bridges that datagrams of an interface pass: itself, or the one that it is a port of.
pub(super) fn bridges(interface: &str) -> Vec<Bridge> {
    let port_of = fs::read_link(Path::new(NET).join(interface).join("brport/bridge")).ok();
    let port_of = port_of.and_then(|path| Some(path.file_name()?.to_str()?.to_owned()));
    [Some(interface.to_owned()), port_of].into_iter().flatten().filter_map(bridge).collect()
}

fn bridge(name: String) -> Option<Bridge> {
    let setting = |setting: &str| {
        let text = fs::read_to_string(Path::new(NET).join(&name).join("bridge").join(setting)).ok()?;
        Some(text.trim() != "0")
    };
    let (snooping, querier) = (setting("multicast_snooping")?, setting("multicast_querier")?);
    Some(Bridge { name, snooping, querier })
}

/// Datagrams that the kernel has dropped so far for want of receive buffers.
pub(super) fn buffer_drops(family: Family) -> u64 {
    let read = |file| fs::read_to_string(file).unwrap_or_default();
    match family {
        Family::Ipv4 => buffer_drops_in(&read("/proc/net/snmp")),
        Family::Ipv6 => buffer_drops_in_6(&read("/proc/net/snmp6")),
    }
    .unwrap_or(0)
}

fn buffer_drops_in_6(snmp: &str) -> Option<u64> {
    let mut words = snmp.lines().find_map(|line| line.strip_prefix("Udp6RcvbufErrors"))?.split_whitespace();
    words.next()?.parse().ok()
}

fn buffer_drops_in(snmp: &str) -> Option<u64> {
    let mut udp = snmp.lines().filter_map(|line| line.strip_prefix("Udp:"));
    let (titles, values) = (udp.next()?, udp.next()?);
    let at = titles.split_whitespace().position(|title| title == "RcvbufErrors")?;
    values.split_whitespace().nth(at)?.parse().ok()
}

/// Rules that may drop multicast of this version of IP, and whether they could be read.
pub(super) fn drop_rules(family: Family) -> (Vec<DropRule>, bool) {
    if let Some(text) = answer(&["nft", "/usr/sbin/nft"], &["list", "ruleset"]) {
        return (drop_rules_of_nft(&text, family), true);
    }
    let programs = match family {
        Family::Ipv4 => ["iptables-save", "/usr/sbin/iptables-save"],
        Family::Ipv6 => ["ip6tables-save", "/usr/sbin/ip6tables-save"],
    };
    match answer(&programs, &[]) {
        Some(text) => (drop_rules_of_iptables(&text), true),
        None => (Vec::new(), false),
    }
}

/// What the first of these programs that there is says, if it does its work.
fn answer(programs: &[&str], arguments: &[&str]) -> Option<String> {
    for program in programs {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stderr(Stdio::null());
        match command.output() {
            Ok(output) if output.status.success() && output.stdout.len() <= RULES_BYTES_MAX => {
                return Some(String::from_utf8_lossy(&output.stdout).into_owned());
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Ok(_) | Err(_) => return None,
        }
    }
    None
}

/// Rules of `nft list ruleset` that drop UDP or multicast, and chains that drop what no rule accepts. Jumps
/// are not followed: the chain that is jumped to has no hook of its own, and is named after nothing.
fn drop_rules_of_nft(text: &str, family: Family) -> Vec<DropRule> {
    let (mut table, mut chain, mut hook) = (String::new(), String::new(), String::new());
    let mut found = Vec::new();
    for line in text.lines().map(str::trim) {
        let name = |prefix: &str| Some(line.strip_prefix(prefix)?.trim_end_matches('{').trim().to_owned());
        if let Some(name) = name("table ") {
            table = name;
        } else if let Some(name) = name("chain ") {
            (chain, hook) = (name, String::new());
        } else if let Some(rest) = line.split_once(" hook ").map(|(_, rest)| rest) {
            hook = rest.split_whitespace().next().unwrap_or("").to_owned();
            if line.contains("policy drop") {
                found.push(DropRule {
                    hook: hook.clone(),
                    place: format!("{table} {chain}"),
                    rule: "policy drop".into(),
                });
            }
        } else if !hook.is_empty() && drops_multicast(line, family) {
            found.push(DropRule { hook: hook.clone(), place: format!("{table} {chain}"), rule: line.to_owned() });
        }
    }
    // A rule is a better explanation than a policy.
    found.sort_by_key(|rule| rule.rule == "policy drop");
    found
}

fn drops_multicast(rule: &str, family: Family) -> bool {
    let words: Vec<&str> = rule.split_whitespace().collect();
    let drops = words.iter().any(|word| matches!(*word, "drop" | "reject"));
    let other = match family {
        Family::Ipv4 => "ip6",
        Family::Ipv6 => "ip",
    };
    let is_of_others = words.iter().any(|word| matches!(*word, "tcp" | "icmp" | "icmpv6" | "sctp") || *word == other);
    let concerns = words.iter().any(|word| matches!(*word, "udp" | "multicast") || names_groups(word));
    drops && concerns && !is_of_others
}

/// Whether a word of a rule is an address of groups that a segment may have.
fn names_groups(word: &str) -> bool {
    ["224.", "239.", "ff00:", "ff12:", "ff18:"].iter().any(|beginning| word.starts_with(beginning))
}

/// The same of `iptables-save`.
fn drop_rules_of_iptables(text: &str) -> Vec<DropRule> {
    let mut table = String::new();
    let mut found = Vec::new();
    let hook = |chain: &str| chain.to_ascii_lowercase();
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('*') {
            table = name.to_owned();
            continue;
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [chain, "DROP", ..] if chain.starts_with(':') => {
                let chain = chain.trim_start_matches(':');
                found.push(DropRule {
                    hook: hook(chain),
                    place: format!("{table} {chain}"),
                    rule: "policy drop".into(),
                });
            }
            ["-A", chain, ..] => {
                let drops = words.windows(2).any(|pair| matches!(pair, ["-j", "DROP" | "REJECT"]));
                let concerns =
                    words.iter().any(|word| matches!(*word, "udp" | "multicast" | "MULTICAST") || names_groups(word));
                if drops && concerns {
                    found.push(DropRule {
                        hook: hook(chain),
                        place: format!("{table} {chain}"),
                        rule: line.to_owned(),
                    });
                }
            }
            _ => {}
        }
    }
    found.sort_by_key(|rule| rule.rule == "policy drop");
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_of_dropped_datagrams_is_found_by_its_title() {
        let snmp = "Tcp: A B\nTcp: 1 2\nUdp: InDatagrams NoPorts RcvbufErrors SndbufErrors\nUdp: 9 8 7 6\n\
                    UdpLite: RcvbufErrors\nUdpLite: 5\n";
        assert_eq!(buffer_drops_in(snmp), Some(7));
        for damaged in ["", "Udp: RcvbufErrors", "Udp: A\nUdp: 1", "Udp: RcvbufErrors\nUdp: x"] {
            assert_eq!(buffer_drops_in(damaged), None);
        }
        let snmp6 = "Udp6InErrors                    \t3\nUdp6RcvbufErrors                \t7\n";
        assert_eq!(buffer_drops_in_6(snmp6), Some(7));
        for damaged in ["", "Udp6RcvbufErrors", "Udp6RcvbufErrors x"] {
            assert_eq!(buffer_drops_in_6(damaged), None);
        }
    }

    #[test]
    fn rules_of_nft_that_drop_multicast_are_named_with_hook_and_chain() {
        let text = "table inet filter {\n\tchain input {\n\t\ttype filter hook input priority filter; policy drop;\n\
                    \t\tct state established accept\n\t\ttcp dport 22 accept\n\t\ttcp dport 1 drop\n\
                    \t\tip daddr 224.0.0.0/4 counter packets 3 bytes 9 drop\n\t}\n\tchain other {\n\
                    \t\tip daddr 224.0.0.0/4 drop\n\t}\n\tchain out {\n\
                    \t\ttype filter hook output priority filter; policy accept;\n\t\tmeta pkttype multicast reject\n\
                    \t\tip6 daddr ff00::/8 udp dport 1 drop\n\t}\n}\n";
        let found = drop_rules_of_nft(text, Family::Ipv4);
        let short: Vec<(&str, &str, &str)> =
            found.iter().map(|rule| (rule.hook.as_str(), rule.place.as_str(), rule.rule.as_str())).collect();
        assert_eq!(
            short,
            [
                ("input", "inet filter input", "ip daddr 224.0.0.0/4 counter packets 3 bytes 9 drop"),
                ("output", "inet filter out", "meta pkttype multicast reject"),
                ("input", "inet filter input", "policy drop"),
            ]
        );
        let rules = |family| drop_rules_of_nft(text, family).into_iter().map(|found| found.rule).collect::<Vec<_>>();
        let over_ipv6 = ["meta pkttype multicast reject", "ip6 daddr ff00::/8 udp dport 1 drop", "policy drop"];
        assert_eq!(rules(Family::Ipv6), over_ipv6);
        assert_eq!(drop_rules_of_nft("chain {\n} drop udp", Family::Ipv4), []);
    }

    #[test]
    fn rules_of_iptables_are_read_likewise() {
        let text = "*filter\n:INPUT DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n-A INPUT -p tcp -j DROP\n\
                    -A INPUT -d 239.0.0.0/8 -j DROP\n-A OUTPUT -p udp -j REJECT --reject-with icmp\nCOMMIT\n";
        let found = drop_rules_of_iptables(text);
        let hooks: Vec<&str> = found.iter().map(|rule| rule.hook.as_str()).collect();
        assert_eq!(hooks, ["input", "output", "input"]);
        assert_eq!(found[0].rule, "-A INPUT -d 239.0.0.0/8 -j DROP");
        assert_eq!(found[2].rule, "policy drop");
    }

    #[test]
    fn an_interface_that_there_is_not_has_no_flags_and_no_bridge() {
        assert_eq!((flags("nowhere0"), bridges("nowhere0")), (0, Vec::new()));
        let interfaces = interfaces(Family::Ipv4).expect("listed");
        assert!(interfaces.iter().any(|(interface, is_loopback)| *is_loopback && interface.name == "lo"));
    }
}
