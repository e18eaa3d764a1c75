//! Moving a segment to another control channel, and finding the channel that it was moved to.
//!
//! The leader says where to, again and again, until every registered member has said that it listens there too;
//! then it goes there itself, and its members leave the old channel when they hear it on the new one. Nobody
//! leaves a channel before its leader is heard on the other, so a move that fails half-way leaves the segment
//! where it was.
//!
//! Every move has a [`Version`], which rises. A member obeys a higher one only, and remembers it, so that an old
//! order that is played again moves nobody.
//!
//! Members that do not hear multicast get copies of what the leader says, on whichever channel it says it. They
//! cannot tell where it speaks; so it says *here* when it has arrived, and now and then.
//!
//! A server that was away begins where it last was; without a leader there it tries the *places* in turn: the
//! one it remembers, the configured, and the one that cluster and segment imply. A leader that is somewhere else
//! than at one of its places says there, now and then, where it is. So two halves of a segment that came to be on
//! two channels meet again: of two leaders the one of the lower epoch follows the other's word, and the election
//! decides the rest.
//!
//! In: what the election and the registration say about who leads whom, messages, and on which channel the
//! leader is heard. Out: which channels to listen to, where to speak, what to remember, and messages. The calling
//! contract is that of all machines ([`crate`]). Leaves to others: sockets, and whose word is believed: senders
//! are proven, and that a mover may lead was looked at.

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use common::ids::ServerId;
use common::time::Timestamp;
use serde::{Deserialize, Serialize};

/// Orders moves: of two, the later one counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Version {
    /// The epoch of the leader that ordered it.
    pub epoch: u64,
    /// Counts the moves of an epoch.
    pub number: u32,
}

/// What servers say to each other about a move. Grows at the end only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// Leader, to all: listen there too, and say so; or: there I am.
    Move {
        /// Which move.
        version: Version,
        /// The control channel.
        to: SocketAddr,
    },
    /// Member, to the leader: it listens there too.
    Moved {
        /// Which move.
        version: Version,
    },
    /// Leader, to all, on the channel where it is: this is the one. For those whom it reaches by copies, who
    /// cannot hear where it speaks.
    Here {
        /// Its last move.
        version: Version,
        /// The control channel.
        on: SocketAddr,
    },
}

/// The times of moves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// How often the leader repeats an order that some member has not acknowledged. Default 200 ms, as often as
    /// it announces itself.
    pub repeat: Duration,
    /// How long it does so. Default 30 s: a dead member is no member after a few seconds; one that is alive and
    /// does not obey cannot listen there.
    pub order_max: Duration,
    /// How long a server without a leader stays on a channel before it tries the next. Default 5 s: several
    /// times what an election takes.
    pub search_after: Duration,
    /// How often a leader says where it is, at its other places and where it is. Default 5 s.
    pub beacon_interval: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            repeat: Duration::from_millis(200),
            order_max: Duration::from_secs(30),
            search_after: Duration::from_secs(5),
            beacon_interval: Duration::from_secs(5),
        }
    }
}

/// Where the segment may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Places {
    /// Where this server last was, and by which move.
    pub remembered: Option<(Version, SocketAddr)>,
    /// Where the administrator says.
    pub configured: Option<SocketAddr>,
    /// Where cluster and segment imply.
    pub derived: SocketAddr,
}

/// What the driver shall do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Listen to these control channels, and to no others.
    Listen(BTreeSet<SocketAddr>),
    /// What is said to all goes to this channel from here on.
    Speak(SocketAddr),
    /// Make this durable: where to begin after the next start.
    Remember(Version, SocketAddr),
    /// Say this to all on this channel.
    Say {
        /// The channel.
        on: SocketAddr,
        /// What.
        message: Message,
    },
    /// Say this to one.
    Tell {
        /// To whom.
        to: ServerId,
        /// What.
        message: Message,
    },
    /// The segment has moved, as far as this server knows.
    Moved(SocketAddr),
    /// At the leader: the order is taken back, because these members have not obeyed.
    Abandoned {
        /// Where to it was.
        to: SocketAddr,
        /// Who.
        missing: BTreeSet<ServerId>,
    },
}

/// Why a move is not ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// Only the leader moves a segment.
    #[error("this server does not lead its segment")]
    NotLeader,
    /// There is one channel at a time.
    #[error("the segment is on {channel} already")]
    Already {
        /// The channel.
        channel: SocketAddr,
    },
    /// An order is under way.
    #[error("the segment is being moved to {to}")]
    UnderWay {
        /// Where to.
        to: SocketAddr,
    },
}

/// An order of this leader that not everybody has acknowledged.
#[derive(Debug)]
struct Order {
    version: Version,
    to: SocketAddr,
    obeyed: BTreeSet<ServerId>,
    repeat_at: Timestamp,
    ends_at: Timestamp,
}

#[derive(Debug)]
enum Role {
    /// There is no leader; the next place is tried at `next_at`.
    Leaderless { next_at: Timestamp },
    /// Follows this leader.
    Follows { leader: ServerId, epoch: u64 },
    /// Leads these members.
    Leads { epoch: u64, members: BTreeSet<ServerId>, order: Option<Order>, beacon_at: Timestamp },
}

/// One server's part in moves. The module's documentation has the rules.
#[derive(Debug)]
pub struct Relocation {
    me: ServerId,
    config: Config,
    places: Vec<SocketAddr>,
    current: SocketAddr,
    version: Version,
    /// Where this server listens too, because it was told that the segment moves there.
    joining: Option<(Version, SocketAddr)>,
    role: Role,
    outputs: VecDeque<Output>,
}

impl Relocation {
    /// A server that has just started. It listens to [`Relocation::channel`] and speaks there.
    #[must_use]
    pub fn new(me: ServerId, places: Places, config: Config, now: Timestamp) -> Self {
        let remembered = places.remembered.map(|(_, channel)| channel);
        let mut in_turn: Vec<SocketAddr> = Vec::new();
        for place in remembered.into_iter().chain(places.configured).chain([places.derived]) {
            if !in_turn.contains(&place) {
                in_turn.push(place);
            }
        }
        let current = in_turn.first().copied().unwrap_or(places.derived);
        let role = Role::Leaderless { next_at: now + config.search_after };
        let version = places.remembered.map_or(Version::default(), |(version, _)| version);
        Self { me, config, places: in_turn, current, version, joining: None, role, outputs: VecDeque::new() }
    }

    /// Where this server speaks.
    #[must_use]
    pub fn channel(&self) -> SocketAddr {
        self.current
    }

    /// This server leads from here on, or under another epoch.
    pub fn leads(&mut self, epoch: u64, now: Timestamp) {
        match &mut self.role {
            Role::Leads { epoch: led, .. } => *led = epoch,
            Role::Leaderless { .. } | Role::Follows { .. } => {
                self.stay();
                let beacon_at = now + self.config.beacon_interval;
                self.role = Role::Leads { epoch, members: BTreeSet::new(), order: None, beacon_at };
            }
        }
    }

    /// This server follows from here on.
    pub fn follows(&mut self, leader: ServerId, epoch: u64) {
        if matches!(self.role, Role::Leads { .. }) {
            // Its order dies with its office; another leader's word that it heard still counts.
            self.listen();
        }
        self.role = Role::Follows { leader, epoch };
    }

    /// There is no leader.
    pub fn leaderless(&mut self, now: Timestamp) {
        if !matches!(self.role, Role::Leaderless { .. }) {
            self.role = Role::Leaderless { next_at: now + self.config.search_after };
            self.listen();
        }
    }

    /// At the leader: who is registered.
    pub fn members(&mut self, registered: impl IntoIterator<Item = ServerId>, now: Timestamp) {
        let own = self.me;
        if let Role::Leads { members, .. } = &mut self.role {
            *members = registered.into_iter().filter(|server| *server != own).collect();
            self.complete_if_obeyed(now);
        }
    }

    /// The administrator wants the segment to be on this channel.
    ///
    /// # Errors
    /// [`OrderError`].
    pub fn order(&mut self, to: SocketAddr, now: Timestamp) -> Result<(), OrderError> {
        let Role::Leads { epoch, order, .. } = &mut self.role else { return Err(OrderError::NotLeader) };
        if let Some(order) = order {
            return Err(OrderError::UnderWay { to: order.to });
        }
        if self.current == to {
            return Err(OrderError::Already { channel: to });
        }
        let version = next(self.version, *epoch);
        *order = Some(Order {
            version,
            to,
            obeyed: BTreeSet::new(),
            repeat_at: now + self.config.repeat,
            ends_at: now + self.config.order_max,
        });
        self.listen();
        self.outputs.push_back(Output::Say { on: self.current, message: Message::Move { version, to } });
        self.complete_if_obeyed(now);
        Ok(())
    }

    /// A message of a server that is proven to be who it says. `may_lead`: whether it may order anything.
    pub fn handle_message(&mut self, from: ServerId, may_lead: bool, message: &Message, now: Timestamp) {
        match message {
            Message::Move { version, to } if may_lead && from != self.me => self.told(from, *version, *to),
            Message::Moved { version } => self.obeyed(from, *version, now),
            Message::Here { version, on } if may_lead => self.found(from, *version, *on),
            Message::Move { .. } | Message::Here { .. } => (),
        }
    }

    /// The leader that is followed says where it is. One that hears it there knows that already.
    fn found(&mut self, from: ServerId, version: Version, on: SocketAddr) {
        let follows = matches!(self.role, Role::Follows { leader, .. } if leader == from);
        if follows && version > self.version && on != self.current {
            self.arrive(version, on);
        }
    }

    fn told(&mut self, from: ServerId, version: Version, to: SocketAddr) {
        let concerns = match &self.role {
            // Another leader's word counts when that leads later: it was elected where this server is not.
            Role::Follows { leader, epoch } => *leader == from || version.epoch > *epoch,
            Role::Leaderless { .. } => true,
            Role::Leads { epoch, .. } if version.epoch < *epoch && to != self.current => {
                // An earlier leader of the other half of the segment: it is told to come here.
                self.version = next(self.version.max(version), *epoch);
                let message = Message::Move { version: self.version, to: self.current };
                self.outputs.push_back(Output::Remember(self.version, self.current));
                self.outputs.push_back(Output::Say { on: to, message });
                false
            }
            Role::Leads { epoch, .. } => version.epoch > *epoch,
        };
        if !concerns || version < self.version {
            return;
        }
        if to == self.current {
            if version > self.version {
                // A leader that came here, or an order that was taken back.
                self.joining = None;
                self.listen();
                self.remember(version);
            }
        } else if version > self.joining.map_or(self.version, |(joining, _)| joining) {
            self.joining = Some((version, to));
            self.listen();
        } else if self.joining != Some((version, to)) {
            return;
        }
        self.outputs.push_back(Output::Tell { to: from, message: Message::Moved { version } });
    }

    fn obeyed(&mut self, from: ServerId, version: Version, now: Timestamp) {
        if let Role::Leads { order: Some(order), .. } = &mut self.role
            && order.version == version
        {
            order.obeyed.insert(from);
            self.complete_if_obeyed(now);
        }
    }

    fn complete_if_obeyed(&mut self, now: Timestamp) {
        let Role::Leads { members, order, beacon_at, .. } = &mut self.role else { return };
        let Some(Order { version, to, .. }) =
            order.take_if(|order| members.iter().all(|member| order.obeyed.contains(member)))
        else {
            return;
        };
        // Who was away hears of it at once, and then now and then.
        *beacon_at = now + self.config.repeat;
        self.arrive(version, to);
        self.outputs.push_back(Output::Say { on: to, message: Message::Here { version, on: to } });
    }

    /// The leader that this server follows is heard on this channel.
    pub fn heard_leader_on(&mut self, leader: ServerId, channel: SocketAddr) {
        let follows = matches!(self.role, Role::Follows { leader: followed, .. } if followed == leader);
        if let Some((version, to)) = self.joining.filter(|(_, to)| follows && *to == channel) {
            self.arrive(version, to);
        }
    }

    fn arrive(&mut self, version: Version, to: SocketAddr) {
        self.joining = None;
        if !self.places.contains(&self.current) {
            self.places.push(self.current);
        }
        self.current = to;
        if !self.places.contains(&to) {
            self.places.insert(0, to);
        }
        self.outputs.push_back(Output::Speak(to));
        self.listen();
        self.remember(version);
        self.outputs.push_back(Output::Moved(to));
    }

    fn remember(&mut self, version: Version) {
        self.version = version;
        self.outputs.push_back(Output::Remember(version, self.current));
    }

    /// Forgets where it was told to go.
    fn stay(&mut self) {
        if self.joining.take().is_some() {
            self.listen();
        }
    }

    fn listen(&mut self) {
        let ordered = match &self.role {
            Role::Leads { order, .. } => order.as_ref().map(|order| order.to),
            Role::Leaderless { .. } | Role::Follows { .. } => None,
        };
        let joining = self.joining.map(|(_, to)| to);
        self.outputs.push_back(Output::Listen([self.current].into_iter().chain(joining).chain(ordered).collect()));
    }

    /// When to call [`Relocation::handle_timeout`] at the latest.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        match &self.role {
            Role::Leaderless { next_at } => (self.places.len() > 1 || self.joining.is_some()).then_some(*next_at),
            Role::Follows { .. } => None,
            Role::Leads { order, beacon_at, .. } => {
                let beacon_at = (self.places.len() > 1).then_some(*beacon_at);
                order.as_ref().map(|order| order.repeat_at.min(order.ends_at)).into_iter().chain(beacon_at).min()
            }
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        match &mut self.role {
            Role::Leaderless { next_at } if *next_at <= now => {
                *next_at = now + self.config.search_after;
                self.try_next_place();
            }
            Role::Leads { epoch, members, order, beacon_at } => {
                if let Some(Order { to, obeyed, .. }) = order.take_if(|order| order.ends_at <= now) {
                    let missing = members.difference(&obeyed).copied().collect();
                    // Those who obeyed are told to forget it.
                    self.version = next(next(self.version, *epoch), *epoch);
                    let message = Message::Move { version: self.version, to: self.current };
                    self.outputs.push_back(Output::Remember(self.version, self.current));
                    self.outputs.push_back(Output::Say { on: self.current, message });
                    self.outputs.push_back(Output::Abandoned { to, missing });
                    self.listen();
                } else if let Some(order) = order.as_mut().filter(|order| order.repeat_at <= now) {
                    order.repeat_at = now + self.config.repeat;
                    let message = Message::Move { version: order.version, to: order.to };
                    self.outputs.push_back(Output::Say { on: self.current, message });
                } else if *beacon_at <= now {
                    *beacon_at = now + self.config.beacon_interval;
                    let version = self.version.max(Version { epoch: *epoch, number: 0 });
                    self.beacon(version);
                }
            }
            Role::Leaderless { .. } | Role::Follows { .. } => (),
        }
    }

    /// Says at the other places where the segment is, and here for those whom copies reach.
    fn beacon(&mut self, version: Version) {
        for place in self.places.iter().filter(|place| **place != self.current) {
            let message = Message::Move { version, to: self.current };
            self.outputs.push_back(Output::Say { on: *place, message });
        }
        let message = Message::Here { version, on: self.current };
        self.outputs.push_back(Output::Say { on: self.current, message });
    }

    fn try_next_place(&mut self) {
        let told = self.joining.take().map(|(_, to)| to);
        let at = self.places.iter().position(|place| *place == self.current);
        let next = at.map_or(0, |at| (at + 1) % self.places.len());
        let next = told.unwrap_or(self.places[next]);
        self.current = next;
        self.outputs.push_back(Output::Speak(next));
        self.listen();
    }

    /// What to do next, until `None`.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }
}

/// The move after this one, ordered in this epoch.
fn next(version: Version, epoch: u64) -> Version {
    if version.epoch >= epoch {
        Version { number: version.number.saturating_add(1), ..version }
    } else {
        Version { epoch, number: 1 }
    }
}
