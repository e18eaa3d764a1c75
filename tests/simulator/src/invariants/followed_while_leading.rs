//! Whoever is followed led that epoch after its follower had started, or had lost the leader before: an
//! announcement from before that is an old one, whoever plays it.

use std::collections::BTreeMap;

use common::ids::ServerId;
use common::time::Timestamp;

use super::Invariant;
use crate::facts::Fact;
use crate::world::World;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct FollowedWhileLeading {
    /// When each server was last seen to lead an epoch.
    led_until: BTreeMap<(ServerId, u64), Timestamp>,
    /// Since when each server knows what it knows of leaders.
    since: BTreeMap<ServerId, Timestamp>,
}

impl Invariant for FollowedWhileLeading {
    fn name(&self) -> &'static str {
        "nobody follows an old announcement"
    }

    fn check(&mut self, facts: &[Fact], world: &World) -> Result<(), String> {
        for fact in facts {
            match fact {
                Fact::Started { server, .. } | Fact::Leaderless { server } => {
                    self.since.insert(*server, world.now);
                }
                Fact::Leads { server, epoch } => {
                    self.led_until.insert((*server, *epoch), world.now);
                }
                Fact::Follows { server, leader, epoch } => {
                    let since = self.since.get(server).copied().unwrap_or(Timestamp::ZERO);
                    let until = self.led_until.get(&(*leader, *epoch)).copied().unwrap_or(Timestamp::ZERO);
                    if until < since {
                        let ago = since.since(until);
                        return Err(format!("{server} follows {leader}, which led {epoch:#x} {ago:?} before it asked"));
                    }
                }
                _ => {}
            }
        }
        for (server, running) in world.running().filter(|(_, running)| running.is_leader()) {
            if let Some((_, epoch)) = running.leader() {
                self.led_until.insert((server, epoch), world.now);
            }
        }
        Ok(())
    }
}
