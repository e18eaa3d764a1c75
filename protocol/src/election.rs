//! Election of one group leader among the servers of a network segment (002, "election", Fig. 5,
//! claims 25-37).
//!
//! In: messages of the control channel and the passing of time. Out: messages and changes of role.
//! Holds: no epoch is ever led by two servers; after any disturbance all servers that hear each
//! other follow one leader. Leaves to others: sockets, clocks, disk, proof of who sent a message;
//! what a leader then does.
//!
//! **Epochs.** A number that rises with every change of leader. Its upper half counts rounds of
//! voting, its lower half is the claimant's strength and a tag drawn at its start: two servers that
//! win the same round, in two halves of a divided segment or because claims were lost, therefore
//! lead *different* epochs. Of two leaders the one with the lower epoch steps down at once; of the
//! same round that is the weaker one. Claims of one round are decided by priority.
//!
//! Departs from Fig. 5, because leaders are meant to change only when needed:
//! - A leader that hears a claim answers with an announcement, and the claimant follows it (claim
//!   35: a candidate that hears an announcement knows its leader). The document's own rule, where
//!   the leader reopens the vote, is [`Config::claims_reopen_vote`].
//! - A server without a leader asks ([`Message::Query`]) and does not wait for the next
//!   announcement; the question names the highest epoch it ever obeyed, so that a leader which is
//!   behind takes a higher one.
//! - A leader that stops says so ([`Message::Resign`]), and names who leads next if it knows one
//!   ([`Message::HandOver`]).
//! - A server that does not hear its leader asks the others first ([`Message::Probe`]): its own ears may
//!   be what fails.
//! - A much stronger server takes over only by policy, and without a vote ([`Message::Challenge`]).
//! - An announcement may be an old one that somebody plays again. It counts when its leader has answered
//!   this server ([`Message::Verify`]); so does a claim, where it would end a leadership.

mod config;
#[cfg(test)]
mod exhaustive;
mod machine;
mod priority;
mod proof;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod table;
#[cfg(test)]
mod tests;

use common::ids::ServerId;
use serde::{Deserialize, Serialize};

pub use config::{Config, ConfigError, REPEATED_MIN, paces, shorter};
pub use machine::Election;
pub use priority::{Priority, SCORE_MAX, Standing, successor};

/// Highest round believed. Far above what elections can reach (one a second for sixty years), and
/// far enough below the end of the number that a damaged or hostile message cannot exhaust it.
pub const ROUND_MAX: u32 = u32::MAX / 2;

/// The round of voting that an epoch was won in: the part of it that people can read.
#[must_use]
pub fn epoch_round(epoch: u64) -> u32 {
    u32::try_from(epoch >> 32).unwrap_or(u32::MAX)
}

/// What servers say to each other about who leads. Goes to the whole segment unless it says otherwise.
/// Grows at the end only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// "I lead" (LA).
    Announcement(LeaderAnnouncement),
    /// "I would lead" (LC).
    Claim(LeaderClaim),
    /// "I stop leading", or claiming, of my own will.
    Resign {
        /// The epoch that is led or claimed.
        epoch: u64,
    },
    /// "Who leads?"
    Query {
        /// The highest epoch that the sender led or obeyed.
        seen: u64,
    },
    /// "I do not hear our leader: does anybody?" Said before a server gives a leader up, so that one
    /// that is deaf to it does not disturb those that hear it.
    Probe {
        /// Whom the sender follows.
        leader: ServerId,
        /// Its epoch.
        epoch: u64,
    },
    /// "I hear it": it announced itself to the sender a short while ago. Answers a probe.
    Heard {
        /// Who is heard.
        leader: ServerId,
        /// Its epoch.
        epoch: u64,
    },
    /// "I stop leading, and that one leads from here on." It does so at once, without a vote.
    HandOver {
        /// The epoch that is led no more.
        epoch: u64,
        /// Who leads next.
        to: ServerId,
    },
    /// "I am so much stronger that I should lead": a leader whose policy allows it hands over.
    Challenge {
        /// The leader's epoch.
        epoch: u64,
        /// The challenger, and how strong it is.
        priority: Priority,
    },
    /// "Do you lead, or claim?" Said to one server, because of an announcement or a claim of it.
    Verify {
        /// Drawn by the sender, and of no other meaning.
        number: u64,
    },
    /// "I do." Said to one server that asked.
    Verified {
        /// What is announced at that moment.
        announcement: LeaderAnnouncement,
        /// What was asked with.
        number: u64,
    },
    /// "I claim." Said to one server that asked.
    Claiming {
        /// What is claimed at that moment.
        claim: LeaderClaim,
        /// What was asked with.
        number: u64,
    },
}

/// Leader alive (LA): sent regularly by the leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaderAnnouncement {
    /// What is led.
    pub epoch: u64,
    /// The leader, and how strong it is.
    pub priority: Priority,
    /// How many members are registered with it, itself included.
    pub members: u32,
}

/// Leader claim (LC): sent by a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaderClaim {
    /// What it would lead.
    pub epoch: u64,
    /// The candidate, and how strong it is.
    pub priority: Priority,
    /// The highest epoch that it led or obeyed.
    pub seen: u64,
}

/// What the driver carries out, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Send this to the segment.
    Send(Message),
    /// Send this to one server.
    SendTo {
        /// Whom.
        to: ServerId,
        /// What.
        message: Message,
    },
    /// Make this durable before the next output is carried out; hand it to [`Election::new`] at the
    /// next start.
    PersistEpoch(u64),
    /// This server leads. Also said when it leads already and takes a higher epoch.
    BecameLeader {
        /// What it leads.
        epoch: u64,
    },
    /// This server follows.
    Follows {
        /// Whom.
        leader: ServerId,
        /// The leader's epoch.
        epoch: u64,
    },
    /// There is no leader; if this server was it, it is so no more.
    LostLeader,
}

/// How a leader is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// By vote.
    #[default]
    Elected,
    /// The administrator says who leads (002: "a group leader may be pre-assigned"). There is no vote
    /// and no other leader; while that server is down there is none.
    Fixed {
        /// Who; `None` while only its name is known, see [`Election::leader_is`].
        leader: Option<ServerId>,
    },
}

/// Why a message counts for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// It speaks for another server than the one that sent it.
    #[error("{from} speaks for {named}")]
    NotTheSender {
        /// Who sent it.
        from: ServerId,
        /// Whom it names.
        named: ServerId,
    },
    /// The sender's credential does not let it lead.
    #[error("{from} may not lead")]
    MayNotLead {
        /// Who sent it.
        from: ServerId,
    },
    /// The administrator has named another leader.
    #[error("{from} is not the leader that the administrator named")]
    NotNamed {
        /// Who sent it.
        from: ServerId,
    },
    /// Its epoch is beyond [`ROUND_MAX`].
    #[error("the epoch {epoch} of {from} is out of range")]
    EpochOutOfRange {
        /// Who sent it.
        from: ServerId,
        /// What it names.
        epoch: u64,
    },
}
