//! What an administrator says about the protocols of the segment: a preset, and single timers that
//! differ from it; checked before anything starts.
//!
//! All servers of a segment use the same. What each timer is for and what it costs in either direction is
//! in `docs/configuration.md`. Leaves to others: how it is written down ([`settings`](crate::settings)).

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use common::ids::ServerName;
use lan_channel::interface::Family;
use lan_channel::port::ControlPort;
use protocol::election::{ConfigError, Standing, paces, shorter};
use protocol::participant::Timers;
use protocol::reach::Transport;
use protocol::registration::MEMBERS_MAX;
use protocol::session::rate::RateConfig;
use protocol::session::{ReceiverConfig, SenderConfig};
use protocol::{election, registration, reports};
use serde::Deserialize;

use crate::network::{Network, NetworkError};

/// Everything about the protocols of the segment.
#[derive(Debug, Clone)]
pub struct Lan {
    /// Timers of election, registration and reports.
    pub timers: Timers,
    /// Times and limits of sessions at the leader.
    pub sender: SenderConfig,
    /// Times of sessions at a member.
    pub receiver: ReceiverConfig,
    /// How the leader is found.
    pub choice: Choice,
    /// The only servers that a leader registers. `None`: all that are enrolled in the segment.
    pub roster: Option<BTreeSet<ServerName>>,
    /// Rank on the list of pre-assigned leaders, higher first; 0 when not listed.
    pub rank: u8,
    /// The administrator's factor. `None`: [`Standing::FACTOR_NEUTRAL`].
    pub factor: Option<u8>,
    /// How often a leader asks members anew that were served and have not said what became of it.
    /// Default 5 s: a member that was started again waits no longer than that.
    pub ask_again: Duration,
    /// How the servers of the segment reach each other.
    pub transport: Transport,
    /// Where this server hears what is said to it alone.
    pub port: ControlPort,
    /// Where other servers of the segment hear that, besides those that the content control manager knows.
    pub peers: Vec<SocketAddr>,
    /// Addresses of the segment.
    pub network: Network,
}

impl Default for Lan {
    fn default() -> Self {
        Self {
            timers: Timers::default(),
            sender: SenderConfig::default(),
            receiver: ReceiverConfig::default(),
            choice: Choice::default(),
            roster: None,
            rank: 0,
            factor: None,
            ask_again: Duration::from_secs(5),
            transport: Transport::default(),
            port: ControlPort::default(),
            peers: Vec::new(),
            network: Network::default(),
        }
    }
}

/// How the leader is found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Choice {
    /// By vote.
    #[default]
    Elected,
    /// This server leads, and no other.
    Fixed(ServerName),
}

/// Settings that belong together, by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Preset {
    /// A local network.
    #[default]
    Lan,
    /// A local network of machines that are never held up: a dead leader is replaced within 0.3 s.
    Fast,
    /// The seconds of 002.
    Seed,
}

/// Why protocols cannot be driven so.
#[derive(Debug, thiserror::Error)]
pub enum LanError {
    /// Two timers contradict each other.
    #[error("the timers of [{section}] contradict each other")]
    Timers {
        /// The section of the file, or two of them.
        section: &'static str,
        /// Which.
        source: ConfigError,
    },
    /// The network cannot be that.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The lowest rate is above the highest.
    #[error("[sender] rate_min is {min} bytes per second, and rate_max {max}: it must not be less")]
    Rates {
        /// The lowest.
        min: u64,
        /// The highest.
        max: u64,
    },
    /// A leader that asks without end.
    #[error("ask_again must not be 0s")]
    AskAgain,
    /// An address at which nobody can be reached.
    #[error("{peer} in peers is no address of a server")]
    Peer {
        /// What was said.
        peer: SocketAddr,
    },
    /// An address of another version of IP than the segment's.
    #[error("{peer} in peers does not fit family = \"{}\"", family.as_str().to_lowercase())]
    PeerFamily {
        /// What was said.
        peer: SocketAddr,
        /// The version of IP.
        family: Family,
    },
    /// More addresses than a segment has servers.
    #[error("peers names {peers} addresses; a segment has at most {peers_max} servers")]
    Peers {
        /// How many.
        peers: usize,
        /// How many there may be.
        peers_max: usize,
    },
    /// Port 0.
    #[error("port must not be 0; left out, it is derived")]
    Port,
    /// `election = "fixed"` without `leader`.
    #[error("election = \"fixed\" needs leader = \"NAME\"")]
    NoLeader,
    /// `leader` without `election = "fixed"`.
    #[error(
        "leader = \"{leader}\" has no meaning without election = \"fixed\"; for a preference, give that server a rank"
    )]
    LeaderNotFixed {
        /// The leader that is named.
        leader: ServerName,
    },
    /// The leader is not one of the members.
    #[error("the leader {leader} is not on the roster")]
    LeaderNotOnRoster {
        /// The leader that is named.
        leader: ServerName,
    },
}

impl Lan {
    /// A preset as it is.
    #[must_use]
    pub fn preset(preset: Preset) -> Self {
        let (election, registration, reports) = match preset {
            Preset::Lan => (election::Config::lan(), registration::Config::lan(), reports::Config::lan()),
            Preset::Fast => (election::Config::fast(), registration::Config::fast(), reports::Config::lan()),
            Preset::Seed => (election::Config::seed(), registration::Config::seed(), reports::Config::seed()),
        };
        let mut lan = Self { timers: Timers { election, registration, reports }, ..Self::default() };
        if preset == Preset::Seed {
            // 002: members say what they miss within a second.
            let window = Duration::from_secs(1);
            lan.sender.reply_window = window;
            lan.sender.poll_interval = window * 2;
            lan.sender.poll_interval_max = window * 2;
            lan.sender.silence_min = window * 20;
            lan.receiver.reply_window = window;
            lan.receiver.reply_window_max = window;
            lan.receiver.unasked_after = window * 3;
            lan.receiver.unasked_interval_max = window * 10;
            lan.receiver.idle_max = window * 30;
        }
        lan
    }

    /// Checks all timers, each protocol's against each other and those of one protocol against those of
    /// another.
    ///
    /// # Errors
    /// [`LanError`] names both timers of the relation that does not hold.
    pub fn validate(&self) -> Result<(), LanError> {
        let within = |section| move |source| LanError::Timers { section, source };
        self.timers.election.validate().map_err(within("election"))?;
        self.timers.registration.validate().map_err(within("registration"))?;
        self.timers.reports.validate().map_err(within("reports"))?;
        // A member must not count as gone because its leader was replaced.
        shorter(&[(
            "silence_max of the election",
            self.timers.election.silence_max,
            "silence_max of the registration",
            self.timers.registration.silence_max,
        )])
        .map_err(within("election] and [registration"))?;
        let (sender, receiver) = (&self.sender, &self.receiver);
        shorter(&[
            ("announce_interval", sender.announce_interval, "announce_interval_max", sender.announce_interval_max),
            ("poll_interval_max", sender.poll_interval_max, "silence_min", sender.silence_min),
            ("silence_min", sender.silence_min, "progress_max", sender.progress_max),
        ])
        .map_err(within("sender"))?;
        shorter(&[
            ("unasked_after", receiver.unasked_after, "unasked_interval_max", receiver.unasked_interval_max),
            ("unasked_interval_max", receiver.unasked_interval_max, "idle_max", receiver.idle_max),
        ])
        .map_err(within("receiver"))?;
        paces(&[
            ("poll_interval", sender.poll_interval),
            ("poll_interval_max", sender.poll_interval_max),
            ("stall_poll_interval_max", sender.stall_poll_interval_max),
            ("announce_interval", sender.announce_interval),
        ])
        .map_err(within("sender"))?;
        paces(&[("unasked_after", receiver.unasked_after)]).map_err(within("receiver"))?;
        // Answers must come before the round is over, and a session that waits for more must be heard of.
        shorter(&[
            (
                "reply_window of the receiver",
                receiver.reply_window,
                "reply_window and reply_hold of the sender",
                sender.reply_window + sender.reply_hold,
            ),
            (
                "stall_poll_interval_max of the sender",
                sender.stall_poll_interval_max,
                "idle_max of the receiver",
                receiver.idle_max,
            ),
        ])
        .map_err(within("sender] and [receiver"))?;
        self.network.validate()?;
        let (min, max) = (sender.rate.rate_bytes_per_sec_min, sender.rate.rate_bytes_per_sec_max);
        // The default of the lowest yields to a cap below it: nobody has said it.
        if let Some(max) = max.filter(|max| *max < min && min != RateConfig::default().rate_bytes_per_sec_min) {
            return Err(LanError::Rates { min, max });
        }
        if self.ask_again.is_zero() {
            return Err(LanError::AskAgain);
        }
        if self.port == ControlPort::Fixed(0) {
            return Err(LanError::Port);
        }
        if self.peers.len() > MEMBERS_MAX {
            return Err(LanError::Peers { peers: self.peers.len(), peers_max: MEMBERS_MAX });
        }
        if let Some(peer) = self.peers.iter().find(|peer| !is_a_servers(**peer)) {
            return Err(LanError::Peer { peer: *peer });
        }
        let family = self.network.family;
        if let Some(peer) = self.peers.iter().find(|peer| Family::of(peer.ip()) != family) {
            return Err(LanError::PeerFamily { peer: *peer, family });
        }
        match (&self.choice, &self.roster) {
            (Choice::Fixed(leader), Some(roster)) if !roster.contains(leader) => {
                Err(LanError::LeaderNotOnRoster { leader: leader.clone() })
            }
            (Choice::Fixed(_) | Choice::Elected, _) => Ok(()),
        }
    }

    /// What of a server's standing the administrator says.
    #[must_use]
    pub fn standing(&self) -> Standing {
        Standing {
            preassigned: self.rank,
            factor: self.factor.unwrap_or(Standing::FACTOR_NEUTRAL),
            ..Standing::default()
        }
    }
}

/// Whether a single server can be at an address.
#[must_use]
pub fn is_a_servers(address: SocketAddr) -> bool {
    let ip = address.ip();
    let is_broadcast = match ip {
        std::net::IpAddr::V4(ip) => ip.is_broadcast(),
        std::net::IpAddr::V6(_) => false,
    };
    address.port() != 0 && !ip.is_unspecified() && !ip.is_multicast() && !is_broadcast
}
