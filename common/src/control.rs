//! The control connection: what a group leader and the CCM say to each other.
//!
//! One framed TLS connection per leader (ALPN [`ALPN`]), opened by the leader, kept while it leads.
//! All messages are idempotent: after a lost connection both sides say again what still holds.
//! Enums grow at the end only.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::fleet::SegmentReport;
use crate::ids::{AssignmentNumber, ServerId};
use crate::keys::Signed;
use crate::outcome::Report;
use crate::ticket::Ticket;

/// Protocol name in the TLS handshake; its digit is the protocol's version.
pub const ALPN: &[u8] = b"pressrun-control/2";

/// Largest object that rides inside its notification, in bytes.
pub const INLINE_BYTES_MAX: usize = 8192;

/// Where an object can be fetched from: the CCM or another leader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Whom to expect behind the address, by TLS certificate. `None` is the CCM.
    pub server: Option<ServerId>,
    /// Where its chunk server listens.
    pub address: SocketAddr,
}

/// "An assignment is to be obtained from X" (002, Fig. 7). Comes from the CCM or from a leader that
/// holds the object, and is worth what its ticket's signature is worth.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notification {
    /// What it is.
    pub ticket: Signed<Ticket>,
    /// The whole object, when it is small (at most [`INLINE_BYTES_MAX`]).
    pub inline: Option<Vec<u8>>,
    /// Where to get it.
    pub source: Source,
    /// Whether nobody is left to be served: no need to ask for the next one.
    pub last: bool,
}

/// What became of a multicast session, for people and figures.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionStats {
    /// Length of what was sent, in bytes, table included.
    pub object_bytes: u64,
    /// Payload bytes put on the data channel, repairs included.
    pub sent_bytes: u64,
    /// Passes over the data: 1 when nothing was lost.
    pub passes: u32,
    /// Symbols sent again.
    pub repaired_symbols: u64,
    /// Members that have it all.
    pub complete: Vec<ServerId>,
    /// Members that gave up or fell silent.
    pub failed: Vec<ServerId>,
    /// Duration in milliseconds.
    pub millis: u64,
}

/// From the leader to the CCM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToCcm {
    /// First message: where this leader's chunk server listens.
    Hello {
        /// Reachable by other leaders.
        transfer_address: SocketAddr,
        /// Version of pressrun.
        software: String,
    },
    /// The segment as it is.
    Segment(SegmentReport),
    /// The object is here, whole and verified.
    Holds {
        /// Which.
        object: Digest,
    },
    /// Holds the object; whom shall it serve next? (002: "contacts the CCM for the notification to
    /// forward to the next GL")
    AskNext {
        /// Which.
        object: Digest,
    },
    /// The object could not be had from that source.
    FetchFailed {
        /// Which.
        object: Digest,
        /// From whom.
        source: Source,
        /// Why.
        reason: String,
    },
    /// The multicast session moved on.
    Session {
        /// The assignment it carries.
        assignment: AssignmentNumber,
        /// State so far.
        stats: SessionStats,
        /// Whether it is over.
        finished: bool,
    },
    /// Consolidated reports of members; repeats are harmless.
    Reports(Vec<Report>),
    /// Keeps the connection alive and is answered by [`ToLeader::Pong`].
    Ping,
    /// The leader that was named as the next could not be served.
    ForwardFailed {
        /// The object.
        object: Digest,
        /// Who.
        to: ServerId,
        /// Why.
        reason: String,
    },
    /// A member's kernel dropped frames of the multicast session because they were not read in time.
    Overflow {
        /// The assignment that the session carries.
        assignment: AssignmentNumber,
        /// The member.
        server: ServerId,
        /// How many frames.
        frames: u64,
    },
}

/// From the CCM to the leader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToLeader {
    /// Get this assignment and distribute it.
    Notify(Notification),
    /// Answer to [`ToCcm::AskNext`].
    Next {
        /// The object asked about.
        object: Digest,
        /// The leader to notify, and what to tell it. `None`: nobody is left.
        next: Option<(Source, Notification)>,
    },
    /// Forget this object: its run is over.
    Drop {
        /// Which.
        object: Digest,
    },
    /// Answer to [`ToCcm::Ping`].
    Pong,
    /// Report the segment in full.
    ReportSegment,
    /// Move the segment to another control channel.
    MoveControl {
        /// Group address and port.
        to: SocketAddr,
    },
    /// Leave this object alone until the next notification of it: fetch no more of it, begin no session, pass
    /// it to nobody. What is here of it stays.
    Rest {
        /// Which.
        object: Digest,
    },
}
