//! A ticket: the CCM's signed word that an object is an assignment, for whom, and what it is made of.
//!
//! It travels ahead of the object: leaders and members take nothing into their spool that no ticket
//! announces, and every byte that arrives is held against the ticket's object digest.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::ids::{AssignmentNumber, ClusterId, RunNumber, ServerId, SiteName};
use crate::keys::Statement;
use crate::time::WallTime;

/// Announces one assignment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    /// The cluster.
    pub cluster: ClusterId,
    /// The hosted site it is about.
    pub site: SiteName,
    /// The assignment.
    pub assignment: AssignmentNumber,
    /// The run it belongs to.
    pub run: RunNumber,
    /// BLAKE3 of the whole assignment file: the object's name.
    pub object: Digest,
    /// Length of the object in bytes.
    pub length: u64,
    /// Unit of verification in bytes, a power of two from 65,536 on. Each aligned stretch of this
    /// length is a chunk with a digest of its own in the object's chunk table.
    pub chunk_bytes: u32,
    /// The servers that shall apply it, in ascending order.
    pub targets: Vec<ServerId>,
    /// Worth nothing after this.
    pub expires: WallTime,
    /// The data channel of its content group: group address and port. `None`: the segment's own.
    pub channel: Option<SocketAddr>,
}

impl Statement for Ticket {
    const DOMAIN: &'static str = "pressrun ticket 2";
}
