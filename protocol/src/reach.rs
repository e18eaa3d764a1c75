//! Who hears what this server multicasts, and so who needs a copy of it by unicast.
//!
//! A network may carry no multicast, carry it in one direction only, or keep it from a single server.
//! None of that shows in what is sent; it shows in what others say they heard. So the leader multicasts
//! a *beacon*, which travels in no other way, and every member that hears it says so by unicast. A member
//! that is alive and does not answer several in a row is *deaf*: it gets a copy of everything that is
//! said to all, and objects from the leader's chunk server. The beacon names the deaf, so that the others
//! know for whom to copy what they say themselves; they know nothing better of their own multicast.
//!
//! In: whom this server leads or follows, messages with the way they came, time. Out: messages, and who
//! begins or ceases to be deaf. Holds: in a segment whose multicast works nothing is copied, but for
//! servers that nobody has heard of; where it does not, everything is. Leaves to others: addresses,
//! sending, and what is in the copies.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use common::ids::ServerId;
use common::time::Timestamp;
use serde::{Deserialize, Serialize};

/// Most deaf servers that a beacon names; when there are more, everything is copied to everybody.
pub const DEAF_NAMED_MAX: usize = 16;
/// Most servers and addresses that are remembered.
const REMEMBERED_MAX: usize = 4096;

/// How a segment's servers reach each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// By multicast, and by unicast those who do not hear it.
    #[default]
    Auto,
    /// By multicast only.
    Multicast,
    /// By unicast only; nothing is multicast.
    Unicast,
}

/// The way that a datagram came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Way {
    /// To the segment's group.
    Multicast,
    /// To this server's own address.
    Unicast,
}

/// Who does not hear the leader's multicast.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Deaf {
    /// These, in ascending order; at most [`DEAF_NAMED_MAX`].
    These(Vec<ServerId>),
    /// More than can be named.
    Many,
}

impl Deaf {
    fn includes(&self, server: Option<ServerId>) -> bool {
        match self {
            Self::These(deaf) => server.is_none_or(|server| deaf.contains(&server)),
            Self::Many => true,
        }
    }
}

/// What leader and members say. Grows at the end only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// Leader to all, by multicast and never otherwise: who hears this says so.
    Beacon {
        /// Rises with each.
        number: u32,
        /// Who does not hear them.
        deaf: Deaf,
    },
    /// Member to its leader: heard.
    Heard {
        /// Which.
        number: u32,
    },
}

/// Times of the beacon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Between beacons while all answer. Default 2 s: how long a network that ceases to carry multicast
    /// goes unnoticed.
    pub interval: Duration,
    /// Between beacons while somebody's answer is missing. Default 100 ms.
    pub hasty: Duration,
    /// So many beacons in a row unanswered, by one that is alive, make it deaf. Default 6: where a fifth
    /// of all datagrams is lost each way, one that hears is taken for deaf once in five hundred times,
    /// and hears again with its next answer.
    pub unanswered_max: u32,
    /// How long those of a large segment who have lost their leader, or have just started, speak by
    /// multicast only. Default 1 s: longer than an election takes where multicast works.
    pub patience: Duration,
    /// Up to so many servers nobody waits for that: the copies that all make for all are few. Default 32.
    pub few: usize,
    /// A leader sends copies to a server that is silent and no member once in this time. Default 1 s, and
    /// 20 ms for each server there is, if that is longer.
    pub silent_interval: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(2),
            hasty: Duration::from_millis(100),
            unanswered_max: 6,
            patience: Duration::from_secs(1),
            few: 32,
            silent_interval: Duration::from_secs(1),
        }
    }
}

/// A server that was heard within this time is not silent.
const AWAKE: Duration = Duration::from_secs(5);
/// Share of `silent_interval` for each server.
const SILENT_PER_SERVER: Duration = Duration::from_millis(20);
/// How old an answered beacon may be, in beacons.
const ANSWER_AGE_MAX: u32 = 16;

/// What the driver carries out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send this to the segment's group, without copies.
    Multicast(Message),
    /// Send this to one server.
    Send {
        /// To whom.
        to: ServerId,
        /// What.
        message: Message,
    },
    /// At the leader: this member is alive and does not hear what is multicast.
    Deaf(ServerId),
    /// At the leader: it hears it.
    Hears(ServerId),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ear {
    /// Has not answered yet, and is not known to be deaf.
    Untried,
    Hears,
    Deaf,
}

#[derive(Debug)]
struct Listener {
    ear: Ear,
    /// Beacons in a row that it did not answer.
    unanswered: u32,
    /// When the first of them was sent.
    unanswered_since: Timestamp,
}

#[derive(Debug)]
struct Office {
    members: BTreeMap<ServerId, Listener>,
    /// The last beacon; 0 before the first.
    number: u32,
    beacon_at: Option<Timestamp>,
    last_at: Option<Timestamp>,
}

#[derive(Debug)]
enum Role {
    Alone,
    Member { leader: ServerId, beacon_at: Option<Timestamp> },
    Leader(Office),
}

/// Who hears what. The module's documentation tells how.
#[derive(Debug)]
pub struct Reach {
    transport: Transport,
    config: Config,
    role: Role,
    /// Since when this server has its role.
    since: Timestamp,
    /// Who was deaf when a beacon last said so; `None` before the first.
    deaf: Option<Deaf>,
    /// When each server was last heard.
    heard_at: BTreeMap<ServerId, Timestamp>,
    /// When a copy was last sent to a silent server.
    tried_at: BTreeMap<SocketAddr, Timestamp>,
    outputs: VecDeque<Output>,
}

impl Reach {
    /// A server that has just started.
    #[must_use]
    pub fn new(transport: Transport, config: Config, now: Timestamp) -> Self {
        Self {
            transport,
            config,
            role: Role::Alone,
            since: now,
            deaf: None,
            heard_at: BTreeMap::new(),
            tried_at: BTreeMap::new(),
            outputs: VecDeque::new(),
        }
    }

    /// How it was told to reach others.
    #[must_use]
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// There is no leader.
    pub fn leaderless(&mut self, now: Timestamp) {
        if !matches!(self.role, Role::Alone) {
            self.role = Role::Alone;
            self.since = now;
        }
    }

    /// This server follows.
    pub fn follows(&mut self, leader: ServerId, now: Timestamp) {
        let same = matches!(self.role, Role::Member { leader: old, .. } if old == leader);
        if !same {
            self.role = Role::Member { leader, beacon_at: None };
            self.since = now;
        }
    }

    /// This server leads.
    pub fn leads(&mut self, now: Timestamp) {
        if !matches!(self.role, Role::Leader(_)) {
            self.role = Role::Leader(Office { members: BTreeMap::new(), number: 0, beacon_at: None, last_at: None });
            self.since = now;
        }
    }

    /// At the leader: its members, itself left out.
    pub fn members(&mut self, members: impl IntoIterator<Item = ServerId>, now: Timestamp) {
        let Role::Leader(office) = &mut self.role else { return };
        let mut old = std::mem::take(&mut office.members);
        for server in members {
            let listener = old.remove(&server).unwrap_or_else(|| {
                // What the leader before found out saves the time to find it out again.
                let deaf = self.deaf.as_ref().is_some_and(|deaf| deaf.includes(Some(server)));
                let ear = if deaf { Ear::Deaf } else { Ear::Untried };
                Listener { ear, unanswered: 0, unanswered_since: now }
            });
            office.members.insert(server, listener);
        }
        if self.transport == Transport::Auto {
            office.hasten(&self.config, now);
        }
    }

    /// A datagram of this server was believed.
    pub fn heard(&mut self, from: ServerId, now: Timestamp) {
        if self.heard_at.len() >= REMEMBERED_MAX && !self.heard_at.contains_key(&from) {
            self.heard_at.clear();
        }
        self.heard_at.insert(from, now);
    }

    /// A message of a server, and how it came.
    pub fn handle_message(&mut self, from: ServerId, way: Way, message: &Message, now: Timestamp) {
        match message {
            Message::Beacon { number, deaf } => {
                let Role::Member { leader, beacon_at } = &mut self.role else { return };
                if *leader == from && way == Way::Multicast && self.transport == Transport::Auto {
                    *beacon_at = Some(now);
                    self.deaf = Some(bounded(deaf));
                    let message = Message::Heard { number: *number };
                    self.outputs.push_back(Output::Send { to: from, message });
                }
            }
            Message::Heard { number } => {
                let Role::Leader(office) = &mut self.role else { return };
                if office.answered(from, *number) {
                    self.outputs.push_back(Output::Hears(from));
                    self.deaf = Some(office.deaf());
                }
            }
        }
    }

    /// When to call [`Reach::handle_timeout`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        match &self.role {
            Role::Leader(office) if self.transport == Transport::Auto => office.beacon_at,
            Role::Leader(_) | Role::Member { .. } | Role::Alone => None,
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        if self.poll_timeout().is_none_or(|at| at > now) {
            return;
        }
        let Role::Leader(office) = &mut self.role else { return };
        let newly_deaf = office.judge(&self.config, &self.heard_at);
        self.outputs.extend(newly_deaf.iter().copied().map(Output::Deaf));
        let deaf = office.deaf();
        self.deaf = Some(deaf.clone());
        if office.members.is_empty() {
            office.beacon_at = None;
            return;
        }
        // After each beacon comes a look at who has answered: another one at once, or much later.
        let rests_until = office.last_at.map(|last| last + self.config.interval);
        let may_rest = newly_deaf.is_empty() && !office.is_hasty();
        if let Some(until) = rests_until.filter(|until| *until > now && may_rest) {
            office.beacon_at = Some(until);
            return;
        }
        office.number = office.number.wrapping_add(1).max(1);
        office.last_at = Some(now);
        for listener in office.members.values_mut() {
            if listener.unanswered == 0 {
                listener.unanswered_since = now;
            }
            // Taken back by the answer.
            listener.unanswered = listener.unanswered.saturating_add(1);
        }
        office.beacon_at = Some(now + self.config.hasty);
        self.outputs.push_back(Output::Multicast(Message::Beacon { number: office.number, deaf }));
    }

    /// What to do next, until `None`.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// At the leader: whether a member gets objects by unicast.
    #[must_use]
    pub fn is_served_by_unicast(&self, server: ServerId) -> bool {
        match (self.transport, &self.role) {
            (Transport::Unicast, Role::Leader(_) | Role::Member { .. } | Role::Alone) => true,
            (Transport::Auto, Role::Leader(office)) => {
                office.members.get(&server).is_some_and(|listener| listener.ear == Ear::Deaf)
            }
            (Transport::Auto, Role::Member { .. } | Role::Alone)
            | (Transport::Multicast, Role::Leader(_) | Role::Member { .. } | Role::Alone) => false,
        }
    }

    /// Whether all that is known says that multicast reaches everybody. Without a leader nothing is known.
    #[must_use]
    pub fn is_whole(&self, now: Timestamp) -> bool {
        match (self.transport, &self.role) {
            (Transport::Multicast, _) => true,
            (Transport::Unicast, _) | (Transport::Auto, Role::Alone) => false,
            (Transport::Auto, Role::Member { beacon_at, .. }) => {
                self.is_recent(*beacon_at, now) && self.deaf == Some(Deaf::These(Vec::new()))
            }
            (Transport::Auto, Role::Leader(office)) => {
                !office.members.is_empty() && office.members.values().all(|listener| listener.ear == Ear::Hears)
            }
        }
    }

    /// Whether something that is said to all needs a copy to this address. `server` is whose it is, where
    /// that is known; `servers` how many addresses there are.
    pub fn needs_copy(
        &mut self,
        server: Option<ServerId>,
        address: SocketAddr,
        servers: usize,
        now: Timestamp,
    ) -> bool {
        let may_not_hear = match self.transport {
            Transport::Multicast => false,
            Transport::Unicast => true,
            Transport::Auto => self.may_not_hear(server, servers, now),
        };
        may_not_hear && self.is_worth_it(server, address, servers, now)
    }

    fn may_not_hear(&self, server: Option<ServerId>, servers: usize, now: Timestamp) -> bool {
        match &self.role {
            Role::Leader(office) => {
                let listener = server.and_then(|server| office.members.get(&server));
                listener.map_or_else(|| self.unknown(server, servers, now), |listener| listener.ear != Ear::Hears)
            }
            Role::Member { beacon_at, .. } if self.is_recent(*beacon_at, now) => {
                self.deaf.as_ref().is_none_or(|deaf| deaf.includes(server))
            }
            Role::Member { .. } | Role::Alone => self.unknown(server, servers, now),
        }
    }

    /// Nothing is known of now: for a while what was known before stands.
    fn unknown(&self, server: Option<ServerId>, servers: usize, now: Timestamp) -> bool {
        let is_new = now.since(self.since) < self.config.patience;
        match &self.deaf {
            Some(deaf) if is_new => deaf.includes(server),
            Some(_) => true,
            None => !is_new || servers <= self.config.few,
        }
    }

    fn is_recent(&self, beacon_at: Option<Timestamp>, now: Timestamp) -> bool {
        beacon_at.is_some_and(|at| now.since(at) < self.config.interval * 3)
    }

    /// A leader speaks often, and does not go on at those who may not even run.
    fn is_worth_it(&mut self, server: Option<ServerId>, address: SocketAddr, servers: usize, now: Timestamp) -> bool {
        let Role::Leader(office) = &self.role else { return true };
        let is_awake = server.is_some_and(|server| {
            office.members.contains_key(&server) || self.heard_at.get(&server).is_some_and(|at| now.since(*at) < AWAKE)
        });
        if is_awake {
            return true;
        }
        let servers = u32::try_from(servers).unwrap_or(u32::MAX);
        let interval = self.config.silent_interval.max(SILENT_PER_SERVER.saturating_mul(servers));
        if self.tried_at.get(&address).is_some_and(|at| now.since(*at) < interval) {
            return false;
        }
        if self.tried_at.len() >= REMEMBERED_MAX {
            self.tried_at.clear();
        }
        self.tried_at.insert(address, now);
        true
    }
}

impl Office {
    /// The next beacon comes as soon as it may.
    fn hasten(&mut self, config: &Config, now: Timestamp) {
        if self.members.is_empty() {
            self.beacon_at = None;
            return;
        }
        if self.is_hasty() || self.beacon_at.is_none() {
            let soonest = self.last_at.map_or(now, |last| (last + config.hasty).max(now));
            self.beacon_at = Some(self.beacon_at.map_or(soonest, |at| at.min(soonest)));
        }
    }

    /// Whether the answer of somebody is missing who may hear.
    fn is_hasty(&self) -> bool {
        self.members.values().any(|listener| match listener.ear {
            Ear::Untried => true,
            Ear::Hears => listener.unanswered > 0,
            Ear::Deaf => false,
        })
    }

    /// Returns whether that is news.
    fn answered(&mut self, from: ServerId, number: u32) -> bool {
        let age = self.number.wrapping_sub(number);
        if number == 0 || age > ANSWER_AGE_MAX {
            return false;
        }
        let Some(listener) = self.members.get_mut(&from) else { return false };
        listener.unanswered = 0;
        std::mem::replace(&mut listener.ear, Ear::Hears) != Ear::Hears
    }

    /// Those who are deaf from here on: alive, and without an answer to one beacon after another.
    fn judge(&mut self, config: &Config, heard_at: &BTreeMap<ServerId, Timestamp>) -> BTreeSet<ServerId> {
        let mut deaf = BTreeSet::new();
        for (server, listener) in &mut self.members {
            let is_alive = heard_at.get(server).is_some_and(|at| *at >= listener.unanswered_since);
            if listener.ear != Ear::Deaf && listener.unanswered >= config.unanswered_max && is_alive {
                listener.ear = Ear::Deaf;
                deaf.insert(*server);
            }
        }
        deaf
    }

    fn deaf(&self) -> Deaf {
        let deaf: Vec<ServerId> =
            self.members.iter().filter(|(_, listener)| listener.ear == Ear::Deaf).map(|(server, _)| *server).collect();
        if deaf.len() > DEAF_NAMED_MAX { Deaf::Many } else { Deaf::These(deaf) }
    }
}

fn bounded(deaf: &Deaf) -> Deaf {
    match deaf {
        Deaf::These(named) if named.len() <= DEAF_NAMED_MAX => Deaf::These(named.clone()),
        Deaf::These(_) | Deaf::Many => Deaf::Many,
    }
}
