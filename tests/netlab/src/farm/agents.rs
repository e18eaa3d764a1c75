//! Agents beyond starting and killing: what they log, and how they stop when they are told to.

use std::path::PathBuf;
use std::time::Duration;

use super::{Farm, START_PATIENCE};
use crate::address::Host;
use crate::wait::{Changes, wait_for};

impl Farm {
    /// The log of a server's agent.
    #[must_use]
    pub fn agent_log(&self, host: Host) -> PathBuf {
        self.place.logs().join(format!("{host}.log"))
    }

    /// Says when one of the farm's processes has written into its log.
    ///
    /// # Panics
    /// When the logs cannot be watched.
    #[must_use]
    pub fn log_writes(&self) -> Changes {
        Changes::of_contents([self.place.logs()]).expect("the logs can be watched")
    }

    /// Tells the agent of a server to stop, as a service manager does.
    ///
    /// # Panics
    /// When it does not run.
    pub fn tell_agent_to_stop(&mut self, host: Host) {
        self.agents.get_mut(&host).unwrap_or_else(|| panic!("no agent runs on {host}")).terminate();
    }

    /// Waits until an agent that was told to stop has ended.
    ///
    /// # Panics
    /// When it does not in that time.
    pub fn wait_agent_stopped(&mut self, host: Host, within: Duration) {
        let Some(mut agent) = self.agents.remove(&host) else { return };
        assert!(agent.wait(within).is_some(), "the agent on {host} does not stop");
    }

    /// Waits until the agent of a server has noted where so many others are, for when it starts again.
    ///
    /// # Panics
    /// When it does not.
    pub fn wait_addresses_noted(&self, host: Host, others: usize) {
        let data = self.agent_data(host);
        let mut changes = Changes::of([&data]).expect("its directory can be watched");
        let noted = wait_for(&mut changes, START_PATIENCE, || {
            let text = std::fs::read_to_string(data.join("peers.json")).ok()?;
            let peers: Vec<serde_json::Value> = serde_json::from_str(&text).ok()?;
            (peers.len() >= others).then_some(())
        });
        assert!(noted.is_some(), "the agent on {host} does not note where {others} others are");
    }
}
