//! The network of one segment: what is sent arrives at each receiver by itself, or does not.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use common::ids::ServerId;
use common::time::Timestamp;

use crate::chance::Chance;

/// A datagram as the envelope proves it: who sent it, which of its datagrams it is, what it says.
#[derive(Debug, Clone)]
pub struct Datagram {
    /// Who sealed it.
    pub sender: ServerId,
    /// Which start of the sender.
    pub boot: u64,
    /// Which datagram of that start.
    pub counter: u64,
    /// Whom it is said to; the whole segment when `None`.
    pub to: Option<ServerId>,
    /// Its body.
    pub body: Rc<Vec<u8>>,
}

/// How bad the network is. Every receiver suffers by itself.
#[derive(Debug, Clone, Copy)]
pub struct Weather {
    /// Lost, of a thousand, one independent of the other.
    pub loss_permille: u64,
    /// Bursts that begin, of a thousand datagrams; within a burst nine of ten are lost.
    pub burst_permille: u64,
    /// Datagrams after which a burst ends, on average.
    pub burst_length: u64,
    /// Delivered twice, of a thousand.
    pub duplicate_permille: u64,
    /// Damaged, of a thousand. The envelope's tag shows it, so they are lost.
    pub corrupt_permille: u64,
    /// Held up by up to [`Weather::late`], of a thousand: overtaken by many others.
    pub late_permille: u64,
    /// How long those are held up, at most.
    pub late: Duration,
    /// Shortest delay.
    pub delay_min: Duration,
    /// Longest usual delay.
    pub delay_max: Duration,
}

impl Weather {
    /// A quiet switched network.
    #[must_use]
    pub fn fair() -> Self {
        Self {
            loss_permille: 0,
            burst_permille: 0,
            burst_length: 1,
            duplicate_permille: 0,
            corrupt_permille: 0,
            late_permille: 0,
            late: Duration::ZERO,
            delay_min: Duration::from_micros(50),
            delay_max: Duration::from_micros(500),
        }
    }

    /// Something between quiet and hardly usable.
    pub fn draw(chance: &mut Chance) -> Self {
        let mut sometimes = |one_in: u64, end: u64| if chance.below(one_in) == 0 { chance.below(end) } else { 0 };
        Self {
            loss_permille: sometimes(2, 300),
            burst_permille: sometimes(3, 30),
            burst_length: 2 + sometimes(1, 30),
            duplicate_permille: sometimes(2, 200),
            corrupt_permille: sometimes(3, 50),
            late_permille: sometimes(2, 200),
            late: Duration::from_millis(1 + sometimes(1, 400)),
            delay_min: Duration::from_micros(50),
            delay_max: Duration::from_micros(60 + sometimes(1, 5_000)),
        }
    }
}

/// The network.
#[derive(Debug)]
pub struct Network {
    chance: Chance,
    /// How bad it is.
    pub weather: Weather,
    /// From whom to whom nothing passes.
    pub blocked: BTreeSet<(ServerId, ServerId)>,
    in_burst: BTreeSet<ServerId>,
    flying: BTreeMap<(Timestamp, u64), (ServerId, Datagram)>,
    sent: u64,
    delivered: u64,
}

impl Network {
    /// A quiet network.
    #[must_use]
    pub fn new(chance: Chance) -> Self {
        Self {
            chance,
            weather: Weather::fair(),
            blocked: BTreeSet::new(),
            in_burst: BTreeSet::new(),
            flying: BTreeMap::new(),
            sent: 0,
            delivered: 0,
        }
    }

    /// Sends a datagram by way of `from`, who need not be the one that sealed it, to one receiver.
    pub fn send(&mut self, from: ServerId, to: ServerId, datagram: &Datagram, now: Timestamp) {
        if from == to || self.blocked.contains(&(from, to)) {
            return;
        }
        let weather = self.weather;
        if self.in_burst.contains(&to) {
            if self.chance.below(weather.burst_length.max(1)) == 0 {
                self.in_burst.remove(&to);
            }
            if self.chance.permille(900) {
                return;
            }
        } else if weather.burst_permille > 0 && self.chance.permille(weather.burst_permille) {
            self.in_burst.insert(to);
        }
        if self.chance.permille(weather.loss_permille) || self.chance.permille(weather.corrupt_permille) {
            return;
        }
        let copies = 1 + u8::from(self.chance.permille(weather.duplicate_permille));
        for _ in 0..copies {
            let mut delay = self.chance.between(weather.delay_min, weather.delay_max);
            if self.chance.permille(weather.late_permille) {
                delay += self.chance.between(Duration::ZERO, weather.late);
            }
            self.put(now + delay, to, datagram.clone());
        }
    }

    /// Holds a datagram until its receiver listens again.
    pub fn put(&mut self, at: Timestamp, to: ServerId, datagram: Datagram) {
        self.sent += 1;
        self.flying.insert((at, self.sent), (to, datagram));
    }

    /// When the next datagram arrives.
    #[must_use]
    pub fn next_at(&self) -> Option<Timestamp> {
        self.flying.keys().next().map(|(at, _)| *at)
    }

    /// The next datagram that arrives, with its receiver.
    pub fn take(&mut self) -> Option<(ServerId, Datagram)> {
        self.delivered += 1;
        self.flying.pop_first().map(|(_, arrival)| arrival)
    }

    /// How many arrived so far.
    #[must_use]
    pub fn delivered(&self) -> u64 {
        self.delivered
    }

    /// Ends every fault.
    pub fn heal(&mut self) {
        self.weather = Weather::fair();
        self.blocked.clear();
        self.in_burst.clear();
    }
}
