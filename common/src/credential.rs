//! A server's membership, as the CCM vouches for it to the other servers of the segment.
//!
//! TLS certificates prove a server to the CCM and to leaders of other segments; on the control
//! channel, where one datagram must suffice, this compact form does.

use serde::{Deserialize, Serialize};

use crate::ids::{ClusterId, SegmentName, ServerId, ServerName};
use crate::keys::{PublicKey, Statement};
use crate::time::WallTime;

/// What a server may be on its segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Roles {
    /// Holds content and serves it.
    pub server: bool,
    /// May stand for election as group leader.
    pub leader: bool,
}

impl Default for Roles {
    /// Both: every web server can lead.
    fn default() -> Self {
        Self { server: true, leader: true }
    }
}

/// Who a server is. Signed by the CCM's publish key at enrolment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credential {
    /// The cluster.
    pub cluster: ClusterId,
    /// The server.
    pub server: ServerId,
    /// Its name.
    pub name: ServerName,
    /// Where it belongs.
    pub segment: SegmentName,
    /// What it may be there.
    pub roles: Roles,
    /// Signs its control messages.
    pub key: PublicKey,
    /// Not believed after this.
    pub expires: WallTime,
}

impl Statement for Credential {
    const DOMAIN: &'static str = "pressrun credential 1";
}
