//! An epoch is durable before it is led, announced or obeyed: a server that is started again must not
//! lead it a second time.

use std::collections::BTreeMap;

use common::ids::ServerId;
use protocol::election::Message;
use protocol::message::Control;

use super::Invariant;
use crate::facts::Fact;
use crate::world::World;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct DurableBeforeUsed {
    durable: BTreeMap<ServerId, u64>,
}

impl Invariant for DurableBeforeUsed {
    fn name(&self) -> &'static str {
        "an epoch is durable before it is used"
    }

    fn check(&mut self, facts: &[Fact], _: &World) -> Result<(), String> {
        for fact in facts {
            let used = match fact {
                Fact::Started { server, epoch } | Fact::Persisted { server, epoch } => {
                    self.durable.insert(*server, *epoch);
                    continue;
                }
                Fact::Leads { server, epoch } | Fact::Follows { server, epoch, .. } => (server, epoch),
                Fact::Said { server, message: Control::Election(Message::Announcement(said)), .. } => {
                    (server, &said.epoch)
                }
                _ => continue,
            };
            let durable = self.durable.get(used.0).copied().unwrap_or(0);
            if durable < *used.1 {
                return Err(format!("{} uses {:#x}, its disk holds {durable:#x}", used.0, used.1));
            }
        }
        Ok(())
    }
}
