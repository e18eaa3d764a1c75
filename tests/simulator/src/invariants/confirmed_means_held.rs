//! A member takes itself for registered only if its leader held, in that epoch, what the member says
//! about itself at that moment.

use std::collections::BTreeSet;

use common::ids::ServerId;

use super::Invariant;
use crate::facts::{Fact, revision_of};
use crate::world::World;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct ConfirmedMeansHeld {
    held: BTreeSet<(ServerId, u64, ServerId, u64)>,
}

impl Invariant for ConfirmedMeansHeld {
    fn name(&self) -> &'static str {
        "who is confirmed was registered"
    }

    fn check(&mut self, facts: &[Fact], _: &World) -> Result<(), String> {
        for fact in facts {
            match fact {
                Fact::Members { leader, epoch, members } => {
                    self.held
                        .extend(members.iter().map(|member| (*leader, *epoch, member.server, revision_of(member))));
                }
                Fact::Confirmed { server, leader, epoch, revision }
                    if !self.held.contains(&(*leader, *epoch, *server, *revision)) =>
                {
                    return Err(format!("{server} is confirmed, and {leader} never held its revision {revision}"));
                }
                _ => {}
            }
        }
        Ok(())
    }
}
