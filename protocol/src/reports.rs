//! Status reports from members to their leader (002, "status reporting", claims 66-68).
//!
//! In: what became of assignments, messages, time, whom the election made leader. Out: messages; at
//! the leader, consolidated reports. Holds: as long as some messages pass, the leader in office
//! learns the last outcome of every assignment that its members keep, each outcome once. Leaves to
//! others: the election; proof of who sent a message; what is durable (a member submits again what
//! its journal holds after a restart); quorums; the way to the CCM.
//!
//! Nothing waits on the lossless path: a report leaves when it is submitted, the leader passes it on
//! when it arrives, and only what follows closely is gathered. 002 lets members wait a random time
//! before they report, because hundreds would collide; here a report is one small datagram per
//! member, and members finish at different moments. Chance spreads what is repeated.
//!
//! Outcomes of one assignment are ordered by a serial number that never falls for a server.

mod collector;
mod reporter;
#[cfg(test)]
mod tests;

use std::time::Duration;

use common::ids::{AssignmentNumber, ServerId};
use common::outcome::{Outcome, Report};
use serde::{Deserialize, Serialize};

use crate::election::{ConfigError, paces, shorter};
pub use crate::registration::Destination;
use crate::registration::parts;
pub use collector::Collector;
pub use reporter::Reporter;

/// Assignments that a reporter keeps, and a collector for each server.
pub const ASSIGNMENTS_MAX: usize = 256;
/// Largest outcome, in bytes: some 40,000 runs of missing files. It travels in parts.
pub const OUTCOME_BYTES_MAX: usize = PARTS_MAX * parts::PART_BYTES;
const PARTS_MAX: usize = 256;
/// Bytes of one message's list, and of an item that travels whole.
const LIST_BYTES: usize = 1_000;

/// What members and their leader say to each other. Every message fits one datagram of 1,100 bytes.
/// Grows at the end only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// Member to leader: outcomes that fit.
    Reports(Vec<Item>),
    /// Member to leader: a part of an outcome that does not.
    Part {
        /// About what.
        assignment: AssignmentNumber,
        /// As in [`Item`].
        serial: u64,
        /// Which part, from 0.
        part: u16,
        /// Of how many.
        parts: u16,
        /// That part of the encoded [`Outcome`].
        bytes: Vec<u8>,
    },
    /// Leader to one or all: these outcomes are known.
    Ack {
        /// The leader's epoch: what it knew when it led before, it may have forgotten since.
        epoch: u64,
        /// What is known.
        known: Vec<Known>,
    },
    /// Leader to member: these parts are there.
    PartsHeld {
        /// The leader's epoch.
        epoch: u64,
        /// About what.
        assignment: AssignmentNumber,
        /// As in [`Item`].
        serial: u64,
        /// One bit for each part, the lowest first.
        held: Vec<u8>,
    },
    /// Leader to one or all: say again what became of this.
    Ask(Ask),
}

/// One server's outcome, as the server itself says it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// About what.
    pub assignment: AssignmentNumber,
    /// Rises with every outcome that the server reports.
    pub serial: u64,
    /// What became of it.
    pub outcome: Outcome,
}

/// An outcome that the leader knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// Whose.
    pub server: ServerId,
    /// About what.
    pub assignment: AssignmentNumber,
    /// The newest that is known.
    pub serial: u64,
}

/// A request for reports, or a part of one: it concerns a range of servers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// About what.
    pub assignment: AssignmentNumber,
    /// Concerns servers above this one; from the first when `None`.
    pub after: Option<ServerId>,
    /// Concerns servers up to and including this one; to the last when `None`.
    pub until: Option<ServerId>,
    /// Whether [`Ask::listed`] have reported, and all others are asked; else these are asked.
    pub listed_reported: bool,
    /// Whichever half is smaller (claim 68).
    pub listed: Vec<ServerId>,
}

impl Ask {
    /// Whether a server is asked.
    #[must_use]
    pub fn asks(&self, server: ServerId) -> bool {
        self.after.is_none_or(|after| server > after)
            && self.until.is_none_or(|until| server <= until)
            && self.listed.contains(&server) != self.listed_reported
    }
}

/// What the driver carries out, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send this. What is for this server itself, or for the segment that it is part of, also goes to
    /// its own machines, without the network: a leader reports too.
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
    /// At the leader: news, one report per server and assignment, not said before.
    Reports(Vec<Report>),
    /// At a member: more than [`ASSIGNMENTS_MAX`] assignments; this one's outcome is dropped, and no
    /// leader has acknowledged it.
    Unheard(AssignmentNumber),
}

/// Why an outcome cannot be reported.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// A member speaks for itself only.
    #[error("the report about assignment {assignment} is from {server}, not from this server")]
    OtherServer {
        /// About what.
        assignment: AssignmentNumber,
        /// Whose it is.
        server: ServerId,
    },
    /// Longer than [`OUTCOME_BYTES_MAX`].
    #[error("the outcome of assignment {assignment} takes {bytes} bytes, more than the {OUTCOME_BYTES_MAX} allowed")]
    TooLarge {
        /// About what.
        assignment: AssignmentNumber,
        /// Its encoded length.
        bytes: usize,
    },
    /// It has no binary form.
    #[error("the outcome of assignment {assignment} cannot be encoded")]
    Unencodable {
        /// About what.
        assignment: AssignmentNumber,
    },
}

/// Why a message counts for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// Parts that cannot be: too many, too long, or numbered beyond their count.
    #[error("{from} reports on assignment {assignment} in parts that cannot be")]
    BadParts {
        /// Who sent it.
        from: ServerId,
        /// About what.
        assignment: AssignmentNumber,
    },
    /// All parts are there and are no outcome.
    #[error("the report of {from} on assignment {assignment} cannot be read")]
    Unreadable {
        /// Who sent it.
        from: ServerId,
        /// About what.
        assignment: AssignmentNumber,
    },
    /// Reports of too many servers are kept already.
    #[error("{from} reports, but no more servers can be kept")]
    TooManyServers {
        /// Who sent it.
        from: ServerId,
    },
}

/// Outcomes that one start of a server can report before its numbers reach those of the next start.
const SERIALS_PER_BOOT_BITS: u32 = 14;

/// The serial number that a start of a server begins with. Starts are numbered by boot numbers, which
/// may follow each other by 1 when a clock goes back; serials of an earlier start must lie below, or
/// an outcome of that start would be taken for this one's.
#[must_use]
pub fn first_serial(boot: u64) -> u64 {
    boot.saturating_mul(1 << SERIALS_PER_BOOT_BITS)
}

/// Timers of the reports. They only matter when messages are lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The first repetition comes after a random time between this and twice this; each further one
    /// after twice as long. 100 ms: longer than an acknowledgement can take.
    pub repeat_min: Duration,
    /// Until the wait has reached this.
    pub repeat_max: Duration,
    /// What follows a message or event within this time is gathered into the next one.
    pub gather: Duration,
    /// Members that are asked answer within a random time up to this (002: a few seconds).
    pub answer_spread: Duration,
}

impl Config {
    /// For a local network.
    #[must_use]
    pub fn lan() -> Self {
        Self {
            repeat_min: Duration::from_millis(100),
            repeat_max: Duration::from_millis(2_000),
            gather: Duration::from_millis(10),
            answer_spread: Duration::from_millis(50),
        }
    }

    /// The times of 002: reports at random multiples of a few seconds, answers within one.
    #[must_use]
    pub fn seed() -> Self {
        Self {
            repeat_min: Duration::from_millis(3_000),
            repeat_max: Duration::from_millis(30_000),
            gather: Duration::from_millis(100),
            answer_spread: Duration::from_millis(1_000),
        }
    }

    /// Checks the relations that leader and members rely on.
    ///
    /// # Errors
    /// [`ConfigError`] names both timers of the relation that does not hold, or one that is too short.
    pub fn validate(&self) -> Result<(), ConfigError> {
        shorter(&[
            ("twice gather", self.gather * 2, "repeat_min", self.repeat_min),
            ("repeat_min", self.repeat_min, "repeat_max", self.repeat_max),
            ("answer_spread", self.answer_spread, "repeat_max", self.repeat_max),
        ])?;
        paces(&[("repeat_min", self.repeat_min)])
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::lan()
    }
}
