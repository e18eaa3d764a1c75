//! An acknowledgement counts only from the leader that is followed, and of its present epoch: a leader that
//! led before may have forgotten what it acknowledged.

use super::Invariant;
use crate::facts::Fact;
use crate::world::World;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct AcknowledgedInOffice;

impl Invariant for AcknowledgedInOffice {
    fn name(&self) -> &'static str {
        "acknowledgements are of the leader in office"
    }

    fn check(&mut self, facts: &[Fact], _: &World) -> Result<(), String> {
        for fact in facts {
            if let Fact::Acknowledged { server, by, follows } = fact
                && *follows != Some(*by)
            {
                return Err(format!("{server} takes the acknowledgement of {by:?}, and follows {follows:?}"));
            }
        }
        Ok(())
    }
}
