//! What the machine is: told to the leader and the CCM.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::fleet::MemberInfo;
use common::outcome::SiteState;

use crate::config::{Config, DEFAULT_ROOTS};
use crate::identity::Identity;

/// This server as its leader shall know it.
pub(super) fn info(
    config: &Config,
    identity: &Identity,
    transfer_address: SocketAddr,
    mtu: Option<u32>,
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
        mtu,
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

/// How long the machine has been up; zero when it does not say.
pub(super) fn uptime() -> Duration {
    let text = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    let seconds = text.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0.0);
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

/// How much of a server's content is current, in percent: of the sites that it knows, those that have
/// something live and for which nothing is being fetched or applied. A newcomer knows none.
pub(super) fn content_percent(states: &[SiteState], unfinished: usize) -> u8 {
    let live = states.iter().filter(|state| state.live.is_some()).count().saturating_sub(unfinished);
    u8::try_from(live * 100 / states.len().max(1)).unwrap_or(100)
}

/// The least free space below any root, in bytes.
fn disk_free(config: &Config) -> u64 {
    let defaults: Vec<PathBuf> = DEFAULT_ROOTS.iter().map(PathBuf::from).collect();
    let roots = if config.roots.is_empty() { &defaults } else { &config.roots };
    roots.iter().filter_map(|root| free(root)).min().unwrap_or(0)
}

/// Free space where a path is, in bytes.
pub(super) fn free(path: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(path).ok()?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}

#[cfg(test)]
mod tests {
    use common::digest::{Digest, Version};
    use common::ids::Sequence;

    use super::*;

    #[test]
    fn content_is_current_that_is_live_and_not_being_replaced() {
        let state = |live: bool| SiteState {
            site: "www".parse().expect("good"),
            live: live.then(|| Version(Digest::of(b"x"))),
            backup: None,
            prepared: None,
            sequence: Sequence(1),
        };
        assert_eq!(content_percent(&[], 0), 0, "a newcomer has everything to get");
        assert_eq!(content_percent(&[state(true), state(true)], 0), 100);
        assert_eq!(content_percent(&[state(true), state(true)], 1), 50);
        assert_eq!(content_percent(&[state(true), state(false)], 0), 50);
        assert_eq!(content_percent(&[state(true)], 5), 0);
    }
}
