//! A leader votes again for the sake of a claim only if the claimant has told it so since it began to lead
//! (002, claim 35, and docs/protocol.md): an old claim ends no leadership.

use std::collections::BTreeSet;

use common::ids::ServerId;
use protocol::election::Message;
use protocol::message::Control;
use protocol::registration::Destination;

use super::Invariant;
use crate::facts::Fact;
use crate::world::World;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct VotesAgainForWhoClaims {
    leading: BTreeSet<ServerId>,
    /// Leaders that were told of a claim.
    told: BTreeSet<ServerId>,
}

impl Invariant for VotesAgainForWhoClaims {
    fn name(&self) -> &'static str {
        "an old claim ends no leadership"
    }

    fn check(&mut self, facts: &[Fact], _: &World) -> Result<(), String> {
        let mut stopped = BTreeSet::new();
        for fact in facts {
            match fact {
                Fact::Leads { server, .. } => {
                    self.leading.insert(*server);
                    self.told.remove(server);
                }
                Fact::Leaderless { server } if self.leading.remove(server) => {
                    stopped.insert(*server);
                }
                Fact::Started { server, .. } | Fact::Follows { server, .. } => {
                    self.leading.remove(server);
                }
                Fact::Said {
                    to: Destination::Server(leader),
                    message: Control::Election(Message::Claiming { .. }),
                    ..
                } => {
                    self.told.insert(*leader);
                }
                Fact::Said { server, message: Control::Election(Message::Claim(_)), .. }
                    if stopped.contains(server) && !self.told.contains(server) =>
                {
                    return Err(format!("{server} led and votes again, and nobody told it that it claims"));
                }
                _ => {}
            }
        }
        Ok(())
    }
}
