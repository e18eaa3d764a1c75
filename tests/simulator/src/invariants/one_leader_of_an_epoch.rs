//! No epoch is ever led by two servers (002, claim 35: one server becomes "group leader is me").

use std::collections::BTreeMap;

use common::ids::ServerId;

use super::Invariant;
use crate::facts::Fact;
use crate::world::World;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct OneLeaderOfAnEpoch {
    led: BTreeMap<u64, ServerId>,
}

impl Invariant for OneLeaderOfAnEpoch {
    fn name(&self) -> &'static str {
        "no epoch is led by two servers"
    }

    fn check(&mut self, facts: &[Fact], _: &World) -> Result<(), String> {
        for fact in facts {
            if let Fact::Leads { server, epoch } = fact
                && let Some(other) = self.led.insert(*epoch, *server)
            {
                return Err(format!("{epoch:#x} is led by {server} and was led by {other}"));
            }
        }
        Ok(())
    }
}
