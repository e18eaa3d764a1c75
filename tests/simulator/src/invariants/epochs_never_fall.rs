//! What a disk holds of epochs never falls, unless the disk is lost; and a server that may lead obeys
//! no epoch below one that it obeyed.

use std::collections::BTreeMap;

use common::ids::ServerId;

use super::Invariant;
use crate::facts::Fact;
use crate::world::World;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct EpochsNeverFall {
    highest: BTreeMap<ServerId, u64>,
}

impl Invariant for EpochsNeverFall {
    fn name(&self) -> &'static str {
        "epochs never fall"
    }

    fn check(&mut self, facts: &[Fact], world: &World) -> Result<(), String> {
        for fact in facts {
            let (server, epoch, rises) = match fact {
                Fact::Forgot { server } => {
                    self.highest.remove(server);
                    continue;
                }
                Fact::Persisted { server, epoch } => (server, epoch, true),
                Fact::Leads { server, epoch } => (server, epoch, false),
                Fact::Follows { server, epoch, .. } => {
                    // A server that may not lead yields in the end to a leader that is behind.
                    if !world.servers.get(server).is_some_and(|server| server.roles.leader) {
                        continue;
                    }
                    (server, epoch, false)
                }
                _ => continue,
            };
            let highest = self.highest.entry(*server).or_default();
            if *epoch < *highest || (rises && *epoch == *highest) {
                return Err(format!("{server} goes from {highest:#x} to {epoch:#x}"));
            }
            *highest = *epoch;
        }
        Ok(())
    }
}
