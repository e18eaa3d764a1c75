//! Registration of a segment's members with their leader (002, "registration", claims 38-44).
//!
//! In: messages, time, whom the election made leader. Out: messages; to the leader, who is there.
//! Holds: as long as some messages pass, every member that runs is listed, with what it last said
//! about itself, and who falls silent or leaves is not. Leaves to others: the election; proof of who
//! sent a message, and whether name and roles in a [`MemberInfo`](common::fleet::MemberInfo) agree
//! with the sender's credential; what the CCM is told.
//!
//! A member registers at once and repeats until it hears that the leader holds what it said: in the
//! list that the leader multicasts after a quiet interval (claim 40), or in a direct answer to a
//! repetition. List and answers carry a digest of what is held, so that a member sees an outdated
//! registration as well as a missing one. A list is said in parts that each cover a range of
//! identities: a lost part hides nothing but itself.

mod config;
mod member;
pub(crate) mod parts;
mod registrar;
#[cfg(test)]
mod tests;

use common::fleet::MemberInfo;
use common::ids::ServerId;
use serde::{Deserialize, Serialize};

pub use config::Config;
pub use member::Member;
pub use registrar::Registrar;

/// Most members of a segment, the leader included. Twice what segments are designed for.
pub const MEMBERS_MAX: usize = 1_000;
/// Largest description of a member, in bytes: about 400 hosted sites. It travels in parts.
pub const MEMBER_INFO_BYTES_MAX: usize = 64 * parts::PART_BYTES;

/// What members and their leader say to each other. Every message fits one datagram of 1,100 bytes.
/// Grows at the end only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// Member to leader: this is me, or a part of it.
    Register {
        /// Rises with whatever the sender says about itself.
        revision: u64,
        /// Which part, from 0.
        part: u16,
        /// Of how many.
        parts: u16,
        /// That part of the encoded [`MemberInfo`].
        bytes: Vec<u8>,
    },
    /// Member to leader: I am alive, and what I said stands.
    KeepAlive {
        /// Digest of what the sender is.
        digest: u32,
    },
    /// Member to leader: I stop.
    Leave {
        /// The last that the sender said about itself.
        revision: u64,
    },
    /// Leader to all or one: register with me.
    Request {
        /// The leader's epoch.
        epoch: u64,
    },
    /// Leader to member: this is what I hold of you.
    Registered {
        /// The leader's epoch.
        epoch: u64,
        /// What was said last.
        revision: u64,
        /// Digest of it; 0 when the member is counted as gone.
        digest: u32,
    },
    /// Leader to all: these are registered.
    Roster(Roster),
    /// Leader to a member that was silent: are you there? A [`Message::KeepAlive`] answers.
    Probe {
        /// The leader's epoch.
        epoch: u64,
    },
}

/// A part of the list of registered members (002: the report on the control channel).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roster {
    /// The leader's epoch.
    pub epoch: u64,
    /// How many members there are in all parts together.
    pub total: u32,
    /// The part covers identities above this one; from the first when `None`.
    pub after: Option<ServerId>,
    /// The part covers identities up to and including this one; to the last when `None`.
    pub until: Option<ServerId>,
    /// Members in that range in ascending order, each with the digest of what the leader holds.
    pub members: Vec<(ServerId, u32)>,
}

impl Roster {
    /// Whether a server would be listed here if it were registered.
    #[must_use]
    pub fn covers(&self, server: ServerId) -> bool {
        self.after.is_none_or(|after| server > after) && self.until.is_none_or(|until| server <= until)
    }
}

/// Whom a message is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Destination {
    /// One server.
    Server(ServerId),
    /// The whole segment.
    Segment,
}

/// What the driver carries out, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send this.
    Send {
        /// To whom.
        to: Destination,
        /// What.
        message: Message,
    },
    /// Something happened.
    Event(Event),
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// At the leader: all members that are alive, the leader included, in ascending order. Said at
    /// once after a change, and not more often than [`Config::changed_gap`].
    Changed(Vec<MemberInfo>),
    /// At the leader: a server is not taken, because [`MEMBERS_MAX`] are.
    SegmentFull {
        /// Who.
        server: ServerId,
    },
    /// At a member: the leader holds what this server last said about itself.
    Confirmed {
        /// The leader.
        leader: ServerId,
        /// Its epoch.
        epoch: u64,
    },
}

/// What a server says about itself cannot be said.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InfoError {
    /// Longer than [`MEMBER_INFO_BYTES_MAX`].
    #[error("the description of {server} takes {bytes} bytes, more than the {MEMBER_INFO_BYTES_MAX} allowed")]
    TooLarge {
        /// The server.
        server: ServerId,
        /// Its encoded length.
        bytes: usize,
    },
    /// It has no binary form.
    #[error("the description of {server} cannot be encoded")]
    Unencodable {
        /// The server.
        server: ServerId,
    },
}

/// Why a message counts for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// Parts that cannot be: too many, too long, or numbered beyond their count.
    #[error("{from} registers in parts that cannot be")]
    BadParts {
        /// Who sent it.
        from: ServerId,
    },
    /// All parts are there and are no description of a member.
    #[error("the registration of {from} cannot be read")]
    Unreadable {
        /// Who sent it.
        from: ServerId,
    },
    /// The administrator fixed who the members are, and it is not one of them.
    #[error("{from} is not on the fixed roster")]
    NotOnRoster {
        /// Who sent it.
        from: ServerId,
    },
    /// It describes another server.
    #[error("{from} registers {named}")]
    NotTheSender {
        /// Who sent it.
        from: ServerId,
        /// Whom it describes.
        named: ServerId,
    },
}

fn encode(info: &MemberInfo) -> Result<Vec<u8>, InfoError> {
    let bytes = parts::encoded(info).ok_or(InfoError::Unencodable { server: info.server })?;
    if bytes.len() > MEMBER_INFO_BYTES_MAX {
        return Err(InfoError::TooLarge { server: info.server, bytes: bytes.len() });
    }
    Ok(bytes)
}

/// Tells descriptions apart; no protection against forgery, which signatures of datagrams give.
fn digest(bytes: &[u8]) -> u32 {
    let digest = common::digest::Digest::of(bytes).0;
    u32::from_le_bytes([digest[0], digest[1], digest[2], digest[3]]).max(1)
}
