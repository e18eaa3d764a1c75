//! What an administrator says about an agent.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use common::credential::Roles;
use common::ids::{SegmentName, ServerName, SiteName};

use crate::content::TreePolicies;
use crate::hooks::Hooks;
use crate::lan::Lan;

/// Directories below which an agent may write when nothing else is said.
pub const DEFAULT_ROOTS: [&str; 2] = ["/srv/www", "/var/www"];

/// Everything that an agent is told at its start. What the enrolment fixed (name, segment) need not
/// be said again.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where it keeps its identity, its spool and its notes; private to it.
    pub data: PathBuf,
    /// The content control manager, as `https://host:port`. Needed at the first start; later it
    /// replaces the address that is on record.
    pub ccm: Option<String>,
    /// The join token. Needed at the first start only.
    pub token: Option<String>,
    /// The server's name. Needed at the first start; later it must be the same.
    pub name: Option<ServerName>,
    /// Its segment. Needed at the first start; later it must be the same.
    pub segment: Option<SegmentName>,
    /// Directories below which it may write. Default [`DEFAULT_ROOTS`].
    pub roots: Vec<PathBuf>,
    /// Interface of the segment, by name or address. `None`: the only one there is besides loopback.
    pub interface: Option<String>,
    /// Where the server stands; free text, reported to the content control manager.
    pub location: String,
    /// What it may be.
    pub roles: Roles,
    /// Live directories of its own, by site: they take precedence over what the site says.
    pub sites: BTreeMap<SiteName, PathBuf>,
    /// Where its chunk server listens. Default: the segment's interface, any port.
    pub listen: Option<SocketAddr>,
    /// The protocols of its segment.
    pub lan: Lan,
    /// What is run before and after live is switched.
    pub hooks: Hooks,
    /// How the trees of sites are treated.
    pub content: TreePolicies,
}
