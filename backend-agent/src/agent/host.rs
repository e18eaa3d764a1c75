//! What the machine is: told to the leader and the CCM.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use common::fleet::MemberInfo;
use common::outcome::SiteState;

use crate::config::{Config, DEFAULT_ROOTS};
use crate::identity::Identity;

/// This server as its leader shall know it.
pub(super) fn info(
    config: &Config,
    identity: &Identity,
    transfer_address: SocketAddr,
    sites: Vec<SiteState>,
) -> MemberInfo {
    MemberInfo {
        server: identity.server,
        name: identity.name.clone(),
        roles: identity.roles,
        transfer_address,
        sites,
        disk_free_bytes: disk_free(config),
        cpus: cpus(),
        load_percent: load_percent(),
        software: env!("CARGO_PKG_VERSION").to_owned(),
        location: config.location.clone(),
    }
}

/// Processors that this process may use.
pub(super) fn cpus() -> u16 {
    std::thread::available_parallelism().map_or(1, |cpus| u16::try_from(cpus.get()).unwrap_or(u16::MAX))
}

/// Load average of the last minute, in hundredths.
pub(super) fn load_percent() -> u32 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: f64 = text.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0.0);
    (load * 100.0) as u32
}

/// The least free space below any root, in bytes.
fn disk_free(config: &Config) -> u64 {
    let defaults: Vec<PathBuf> = DEFAULT_ROOTS.iter().map(PathBuf::from).collect();
    let roots = if config.roots.is_empty() { &defaults } else { &config.roots };
    roots.iter().filter_map(|root| free(root)).min().unwrap_or(0)
}

fn free(path: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(path).ok()?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}
