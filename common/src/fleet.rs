//! Who takes part in a segment, as its leader reports it to the CCM.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::credential::Roles;
use crate::ids::{SegmentName, ServerId, ServerName};
use crate::outcome::SiteState;

/// One server of a segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberInfo {
    /// The server.
    pub server: ServerId,
    /// Its name.
    pub name: ServerName,
    /// What it may be.
    pub roles: Roles,
    /// Where its chunk server listens, for repair by unicast.
    pub transfer_address: SocketAddr,
    /// What it holds, by site.
    pub sites: Vec<SiteState>,
    /// Free space below its roots, in bytes.
    pub disk_free_bytes: u64,
    /// Processors.
    pub cpus: u16,
    /// Load average of the last minute, in hundredths.
    pub load_percent: u32,
    /// Version of pressrun it runs.
    pub software: String,
    /// Location given by its administrator; empty when none.
    pub location: String,
    /// Longest packet that its interface on the segment carries, in bytes; `None` when the system does not
    /// say.
    pub mtu: Option<u32>,
}

/// A segment, complete: it replaces whatever was reported before for the same or an older epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentReport {
    /// The segment.
    pub segment: SegmentName,
    /// The leader's epoch.
    pub epoch: u64,
    /// The leader.
    pub leader: ServerId,
    /// All members that are alive, the leader included.
    pub members: Vec<MemberInfo>,
}
