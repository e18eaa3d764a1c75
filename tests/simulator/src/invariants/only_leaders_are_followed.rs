//! Who is followed has led that very epoch and may lead: a member that was taken over becomes leader
//! by nothing that it says.

use std::collections::BTreeSet;

use common::ids::ServerId;

use super::Invariant;
use crate::facts::Fact;
use crate::world::World;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct OnlyLeadersAreFollowed {
    led: BTreeSet<(ServerId, u64)>,
}

impl Invariant for OnlyLeadersAreFollowed {
    fn name(&self) -> &'static str {
        "only leaders are followed"
    }

    fn check(&mut self, facts: &[Fact], world: &World) -> Result<(), String> {
        for fact in facts {
            match fact {
                Fact::Leads { server, epoch } => {
                    self.led.insert((*server, *epoch));
                    if !world.servers.get(server).is_some_and(|server| server.roles.leader) {
                        return Err(format!("{server} leads and may not"));
                    }
                }
                Fact::Follows { server, leader, epoch } if !self.led.contains(&(*leader, *epoch)) => {
                    return Err(format!("{server} follows {leader}, who never led {epoch:#x}"));
                }
                _ => {}
            }
        }
        Ok(())
    }
}
