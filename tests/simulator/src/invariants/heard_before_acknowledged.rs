//! A leader acknowledges only outcomes that it holds, and a member that has nothing left to say has
//! said it to a leader that holds it.

use protocol::message::Control;
use protocol::reports::Message;

use super::Invariant;
use crate::facts::Fact;
use crate::world::World;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct HeardBeforeAcknowledged;

impl Invariant for HeardBeforeAcknowledged {
    fn name(&self) -> &'static str {
        "an outcome is heard before it is acknowledged"
    }

    fn check(&mut self, facts: &[Fact], world: &World) -> Result<(), String> {
        for fact in facts {
            match fact {
                Fact::Said { server, message: Control::Reports(Message::Ack { known, .. }), .. } => {
                    let Some(leader) = world.servers.get(server).and_then(|server| server.running.as_ref()) else {
                        continue;
                    };
                    let held = leader.known();
                    for known in known {
                        let holds = |report: &common::outcome::Report| {
                            report.server == known.server && report.assignment == known.assignment
                        };
                        if !held.iter().any(holds) {
                            return Err(format!("{server} acknowledges {known:?} and holds nothing of it"));
                        }
                    }
                }
                Fact::Took { server, .. } => {
                    let Some(member) = world.servers.get(server) else { continue };
                    let Some(running) = member.running.as_ref().filter(|running| running.pending() == 0) else {
                        continue;
                    };
                    let Some((leader, epoch)) = running.leader() else { continue };
                    let leading = world.servers.get(&leader).and_then(|server| server.running.as_ref());
                    let Some(leading) = leading.filter(|leading| leading.leader() == Some((leader, epoch))) else {
                        continue;
                    };
                    let held = leading.known();
                    for (assignment, outcome) in &member.disk.journal {
                        let holds = |report: &common::outcome::Report| {
                            report.server == *server && report.assignment == *assignment && report.outcome == *outcome
                        };
                        if !held.iter().any(holds) {
                            return Err(format!(
                                "{server} thinks that {leader} knows what became of {assignment}, and it does not"
                            ));
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}
