//! What can be wrong with a segment, in words, each with what to do next.

use serde::Serialize;

/// Which way datagrams do not pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// From others to this server.
    Inward,
    /// From this server to others.
    Outward,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// The interface is down.
    InterfaceDown {
        /// Which.
        interface: String,
    },
    /// The interface does not carry multicast by its own flags.
    InterfaceWithoutMulticast {
        /// Which.
        interface: String,
    },
    /// The kernel refuses to send multicast.
    CannotSend {
        /// By which interface.
        interface: String,
        /// Its words.
        reason: String,
    },
    /// The other servers are on another network than the interface's.
    WrongInterface {
        /// The one that is used.
        interface: String,
        /// The one that reaches them.
        better: String,
        /// Whom.
        peers: Vec<String>,
    },
    /// They are behind a router, which multicast of a segment does not cross.
    BehindRouter {
        /// Who.
        peers: Vec<String>,
    },
    /// A rule on this server drops multicast.
    Firewall {
        /// At which hook.
        hook: String,
        /// In which table and chain.
        place: String,
        /// The rule.
        rule: String,
    },
    /// A bridge or switch forwards multicast only to those who joined, and nobody asks who has.
    SnoopingWithoutQuerier {
        /// The bridge, if it is on this server.
        bridge: Option<String>,
        /// Whom it does not reach.
        peers: Vec<String>,
    },
    /// All answer by unicast, and no multicast passes in either direction.
    NotCarried {
        /// Who.
        peers: Vec<String>,
        /// Whether rules of this server can be ruled out.
        rules_readable: bool,
    },
    /// Multicast does not pass in one direction, between this server and these.
    Blocked {
        /// Which direction.
        direction: Direction,
        /// Who.
        peers: Vec<String>,
        /// Whether the cause is near this server; else near those.
        here: bool,
        /// Whether rules of this server can be ruled out.
        rules_readable: bool,
    },
    /// Multicast is lost.
    Loss {
        /// Between this server and whom.
        peer: String,
        /// Which direction.
        direction: Direction,
        /// How much, in thousandths.
        per_mille: u32,
        /// At which rate of arrival, if that was measured.
        bytes_per_sec: Option<u64>,
    },
    /// The kernel gives a smaller receive buffer than is wanted.
    BufferLimit {
        /// It gives, in bytes.
        granted_bytes: usize,
        /// Wanted, in bytes.
        wanted_bytes: usize,
    },
    /// The kernel dropped datagrams for want of buffers while this was looked at.
    BufferOverflow {
        /// How many.
        datagrams: u64,
    },
    /// These do not answer at all.
    Silent {
        /// Who.
        peers: Vec<String>,
    },
    /// This server's own agent does not answer.
    NoAgent,
    /// No other server is known, so nothing was found out about any.
    NobodyKnown,
}

/// A finding as programs get it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FindingView {
    /// For programs.
    pub code: &'static str,
    /// What is wrong.
    pub says: String,
    /// What to do.
    pub next: String,
}

impl Finding {
    /// For programs; stays the same from release to release.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::InterfaceDown { .. } => "interface-down",
            Self::InterfaceWithoutMulticast { .. } => "interface-without-multicast",
            Self::CannotSend { .. } => "cannot-send",
            Self::WrongInterface { .. } => "wrong-interface",
            Self::BehindRouter { .. } => "ttl",
            Self::Firewall { .. } => "firewall",
            Self::SnoopingWithoutQuerier { .. } => "snooping-without-querier",
            Self::NotCarried { .. } => "multicast-not-carried",
            Self::Blocked { .. } => "blocked",
            Self::Loss { .. } => "loss",
            Self::BufferLimit { .. } => "buffer-limit",
            Self::BufferOverflow { .. } => "buffer-overflow",
            Self::Silent { .. } => "silent",
            Self::NoAgent => "no-agent",
            Self::NobodyKnown => "nobody-known",
        }
    }

    /// What is wrong, and what to do next.
    #[must_use]
    pub fn view(&self) -> FindingView {
        FindingView { code: self.code(), says: self.says(), next: self.next() }
    }

    fn says(&self) -> String {
        match self {
            Self::InterfaceDown { interface } => format!("The interface {interface} is down."),
            Self::InterfaceWithoutMulticast { interface } => {
                format!("The interface {interface} does not carry multicast: it lacks the flag MULTICAST.")
            }
            Self::CannotSend { interface, reason } => {
                format!("Multicast cannot be sent by {interface}: {reason}.")
            }
            Self::WrongInterface { interface, better, peers } => {
                format!("The segment's interface is {interface}, and {} can be reached by {better} only.", list(peers))
            }
            Self::BehindRouter { peers } => format!(
                "{} answer by unicast from another network: there is a router between, and multicast with a time to \
                 live of 1 does not cross it.",
                list(peers)
            ),
            Self::Firewall { hook, place, rule } => {
                format!("A rule of this server drops multicast at the hook {hook}: \"{rule}\" in {place}.")
            }
            Self::SnoopingWithoutQuerier { bridge: Some(bridge), peers } => format!(
                "The bridge {bridge} snoops on IGMP and nobody asks who has joined, so that it forgets who has: \
                 multicast does not pass between this server and {}.",
                list(peers)
            ),
            Self::SnoopingWithoutQuerier { bridge: None, peers } => format!(
                "Multicast passes to who has just joined and not to {}: likely a switch snoops on IGMP, and nobody \
                 asks who has joined, so that it forgets.",
                list(peers)
            ),
            Self::NotCarried { peers, rules_readable } => format!(
                "Multicast passes in no direction between this server and {}, who answer by unicast: likely the network \
                 does not carry it (a filter, or IGMP snooping without a querier){}.",
                list(peers),
                unread(*rules_readable)
            ),
            Self::Blocked { direction: Direction::Inward, peers, here: true, rules_readable } => format!(
                "This server hears the multicast of nobody, and {} hear that of this server: likely a firewall{}.",
                list(peers),
                unread(*rules_readable)
            ),
            Self::Blocked { direction: Direction::Inward, peers, .. } => format!(
                "The multicast of {} does not arrive here, though others' does: likely a firewall on the way out \
                 there, or the port of the switch.",
                list(peers)
            ),
            Self::Blocked { direction: Direction::Outward, peers, .. } => format!(
                "{} do not hear the multicast of this server, though they answer by unicast: likely a firewall there, \
                 or the port of the switch.",
                list(peers)
            ),
            Self::Loss { peer, direction, per_mille, bytes_per_sec } => {
                let (from, to) = match direction {
                    Direction::Inward => (peer.as_str(), "this server"),
                    Direction::Outward => ("this server", peer.as_str()),
                };
                let rate = bytes_per_sec.map(|rate| format!(" at {:.1} MB/s", rate as f64 / 1e6)).unwrap_or_default();
                format!("Of the multicast from {from} to {to}, {}.{} % is lost{rate}.", per_mille / 10, per_mille % 10)
            }
            Self::BufferLimit { granted_bytes, wanted_bytes } => format!(
                "The kernel gives a receive buffer of {granted_bytes} bytes where {wanted_bytes} are wanted: frames are \
                 lost whenever this server is busy for a moment."
            ),
            Self::BufferOverflow { datagrams } => format!(
                "The kernel dropped {datagrams} datagrams for want of receive buffers while this was looked at."
            ),
            Self::Silent { peers } => format!("No answer, neither by multicast nor by unicast, from {}.", list(peers)),
            Self::NoAgent => "The agent of this server does not answer.".to_owned(),
            Self::NobodyKnown => {
                "No other server of the segment is known here, so whether multicast works was not found out.".to_owned()
            }
        }
    }

    fn next(&self) -> String {
        match self {
            Self::InterfaceDown { interface } => format!("Bring it up: `ip link set {interface} up`."),
            Self::InterfaceWithoutMulticast { interface } => format!(
                "`ip link set {interface} multicast on`; where the network has none (most tunnels and clouds), say \
                 transport = \"unicast\" in the agents' configuration."
            ),
            Self::CannotSend { .. } => {
                "See `ip route get 239.192.0.1` and the rules for output; `ip route add 224.0.0.0/4 dev IF` gives \
                 multicast a route."
                    .to_owned()
            }
            Self::WrongInterface { better, .. } => format!("Start the agent with `--interface {better}`."),
            Self::BehindRouter { .. } => {
                "Make them a segment of their own (`--segment` at enrolment), or put them on this network. Until then \
                 they are served by unicast with transport = \"auto\"."
                    .to_owned()
            }
            Self::Firewall { .. } => {
                "Accept UDP to 239.192.0.0/14, and UDP from the segment's servers, ahead of that rule.".to_owned()
            }
            Self::SnoopingWithoutQuerier { bridge: Some(bridge), .. } => format!(
                "Have it ask: `ip link set {bridge} type bridge mcast_querier 1`, or have it not snoop: `ip link set \
                 {bridge} type bridge mcast_snooping 0`."
            ),
            Self::SnoopingWithoutQuerier { bridge: None, .. } => {
                "Switch on an IGMP querier on the switch or the router of this network, or switch snooping off there."
                    .to_owned()
            }
            Self::NotCarried { .. } => {
                "Ask who runs the switch for IGMP snooping with a querier, and for filters of multicast; look at the \
                 servers' firewalls. Where there is none to be had, say transport = \"unicast\"."
                    .to_owned()
            }
            Self::Blocked { here: true, .. } => {
                "Look at this server's firewall (`nft list ruleset` as root), and at its port of the switch.".to_owned()
            }
            Self::Blocked { here: false, peers, .. } => {
                format!("Run `pressrun doctor` on {}, as root, and look at their ports of the switch.", list(peers))
            }
            Self::Loss { .. } => {
                "Look at the link's errors and speed (`ip -s link`, `ethtool`), at the switch's limits for multicast, \
                 and at what else uses the network."
                    .to_owned()
            }
            Self::BufferLimit { wanted_bytes, .. } => format!(
                "`sysctl -w net.core.rmem_max={wanted_bytes}`, and the same in /etc/sysctl.d; then start the agent \
                 again."
            ),
            Self::BufferOverflow { .. } => {
                "See which program is behind (`ss -uam`), raise net.core.rmem_max, or give this server fewer other \
                 tasks."
                    .to_owned()
            }
            Self::Silent { .. } => {
                "See whether their agents run (`pressrun servers`), and whether UDP between these servers is let \
                 through. A server that is gone for good: `pressrun server remove NAME`."
                    .to_owned()
            }
            Self::NoAgent => "Start it, or look at its log; what this found holds without it, too.".to_owned(),
            Self::NobodyKnown => {
                "If there are others, see that the agent reaches the content control manager, which tells it where \
                 they are, and run this again in half a minute; or name one: `[lan] peers`."
                    .to_owned()
            }
        }
    }
}

fn unread(rules_readable: bool) -> &'static str {
    if rules_readable { "" } else { "; this server's own rules could not be read, so run this as root" }
}

/// Names as people list them; a long list is cut.
fn list(names: &[String]) -> String {
    const SHOWN: usize = 8;
    let mut text = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text += &format!(" and {} others", names.len() - SHOWN);
    }
    text
}
