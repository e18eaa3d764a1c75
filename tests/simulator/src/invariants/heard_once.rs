//! No datagram is heard twice by one process, whoever plays it again.

use std::collections::{BTreeMap, BTreeSet};

use common::ids::ServerId;

use super::Invariant;
use crate::facts::Fact;
use crate::world::World;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct HeardOnce {
    heard: BTreeMap<ServerId, BTreeSet<(ServerId, u64, u64)>>,
}

impl Invariant for HeardOnce {
    fn name(&self) -> &'static str {
        "a datagram is heard once"
    }

    fn check(&mut self, facts: &[Fact], _: &World) -> Result<(), String> {
        for fact in facts {
            match fact {
                Fact::Started { server, .. } => {
                    self.heard.remove(server);
                }
                Fact::Heard { server, datagram } if !self.heard.entry(*server).or_default().insert(*datagram) => {
                    return Err(format!("{server} hears {datagram:?} a second time"));
                }
                _ => {}
            }
        }
        Ok(())
    }
}
