//! Objects for members that do not hear multicast: the leader offers, the member fetches.
//!
//! In: whom an object is for, what they answer, time. Out: offers, and who has it. Holds: an offer is
//! repeated until it is answered, and now and then until the member says that it holds the object, for
//! one that was started again has forgotten. Leaves to others: who needs this ([`reach`](crate::reach)),
//! and the fetching, which is by HTTP from the leader's chunk server.

#[cfg(test)]
mod tests;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use common::digest::Digest;
use common::ids::ServerId;
use common::keys::Signed;
use common::ticket::Ticket;
use common::time::Timestamp;
use serde::{Deserialize, Serialize};

/// What leader and member say. Grows at the end only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// Leader to a member: this object is for you, and here to be fetched.
    Offer {
        /// What it is.
        ticket: Signed<Ticket>,
        /// Port of the leader's chunk server, at the address the datagram comes from.
        transfer_port: u16,
    },
    /// Member to its leader.
    Answer {
        /// The object that was offered.
        object: Digest,
        /// What becomes of it.
        answer: Answer,
    },
}

/// What becomes of an offer. Grows at the end only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// It is being fetched.
    Fetches,
    /// It is here, verified and durable.
    Holds,
    /// It is not taken, because of this: as in a session's *decline*.
    Declines(String),
}

/// When an offer is repeated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// First repetition of an offer that is not answered, the later ones after twice as long each.
    /// Default 50 ms.
    pub repeat_min: Duration,
    /// Longest time between repetitions. Default 1 s.
    pub repeat_max: Duration,
    /// A member that fetches is asked again after this time. Default 2 s.
    pub ask_interval: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            repeat_min: Duration::from_millis(50),
            repeat_max: Duration::from_secs(1),
            ask_interval: Duration::from_secs(2),
        }
    }
}

/// What the driver carries out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Offer it to this member.
    Offer(ServerId),
    /// This member holds it.
    Served(ServerId),
    /// This member does not take it.
    Declined(ServerId, String),
}

#[derive(Debug)]
struct Offer {
    again_at: Timestamp,
    interval: Duration,
}

/// The offers of one object.
#[derive(Debug, Default)]
pub struct Offers {
    config: Config,
    open: BTreeMap<ServerId, Offer>,
    served: Vec<ServerId>,
    /// Whether the object is still on its way to the leader.
    held: bool,
    outputs: VecDeque<Output>,
}

impl Offers {
    /// With these times.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self { config, ..Self::default() }
    }

    /// This member is to get it. Without effect while it is being offered.
    pub fn offer(&mut self, server: ServerId, now: Timestamp) {
        let interval = self.config.repeat_min;
        if let Entry::Vacant(vacant) = self.open.entry(server) {
            vacant.insert(Offer { again_at: now + interval, interval });
            if !self.held {
                self.outputs.push_back(Output::Offer(server));
            }
        }
    }

    /// Nothing is offered until [`Offers::release`]: the object is not whole, and could not be fetched.
    pub fn hold(&mut self) {
        self.held = true;
    }

    /// The object is whole: who waits for it is offered it. Without effect when nothing was held.
    pub fn release(&mut self, now: Timestamp) {
        if std::mem::take(&mut self.held) {
            for (server, offer) in &mut self.open {
                offer.again_at = now + offer.interval;
                self.outputs.push_back(Output::Offer(*server));
            }
        }
    }

    /// This member is gone, or is served in another way.
    pub fn withdraw(&mut self, server: ServerId) {
        self.open.remove(&server);
    }

    /// A member's answer.
    pub fn handle_answer(&mut self, from: ServerId, answer: &Answer, now: Timestamp) {
        let Some(offer) = self.open.get_mut(&from) else { return };
        match answer {
            Answer::Fetches => {
                offer.interval = self.config.ask_interval;
                offer.again_at = now + offer.interval;
            }
            Answer::Holds => {
                self.open.remove(&from);
                if !self.served.contains(&from) {
                    self.served.push(from);
                }
                self.outputs.push_back(Output::Served(from));
            }
            Answer::Declines(reason) => {
                self.open.remove(&from);
                self.outputs.push_back(Output::Declined(from, reason.clone()));
            }
        }
    }

    /// When to call [`Offers::handle_timeout`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        self.open.values().map(|offer| offer.again_at).min().filter(|_| !self.held)
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        if self.held {
            return;
        }
        for (server, offer) in self.open.iter_mut().filter(|(_, offer)| offer.again_at <= now) {
            offer.interval = (offer.interval * 2).min(self.config.repeat_max.max(offer.interval));
            offer.again_at = now + offer.interval;
            self.outputs.push_back(Output::Offer(*server));
        }
    }

    /// What to do next, until `None`.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Whether nobody is being offered anything.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.open.is_empty()
    }

    /// Those who said that they hold it, in that order.
    #[must_use]
    pub fn served(&self) -> &[ServerId] {
        &self.served
    }
}
