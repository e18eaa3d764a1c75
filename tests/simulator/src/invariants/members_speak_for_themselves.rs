//! Whoever a leader lists is in the list as it described itself, once, and the leader is in it
//! (002, claims 38 and 42).

use std::collections::{BTreeMap, BTreeSet};

use common::ids::ServerId;

use super::Invariant;
use crate::facts::{Fact, revision_of};
use crate::world::World;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct MembersSpeakForThemselves {
    described: BTreeMap<ServerId, BTreeSet<u64>>,
}

impl Invariant for MembersSpeakForThemselves {
    fn name(&self) -> &'static str {
        "members are listed as they described themselves"
    }

    fn check(&mut self, facts: &[Fact], world: &World) -> Result<(), String> {
        let adversary = world.adversary.as_ref().map(|adversary| adversary.id);
        for fact in facts {
            match fact {
                Fact::Described { info } => {
                    self.described.entry(info.server).or_default().insert(revision_of(info));
                }
                Fact::Members { leader, members, .. } => {
                    if !members.iter().any(|member| member.server == *leader) {
                        return Err(format!("{leader} does not list itself"));
                    }
                    if !members.is_sorted_by(|one, other| one.server < other.server) {
                        return Err(format!("the list of {leader} is not in order"));
                    }
                    // The adversary may describe itself as it likes.
                    for member in members.iter().filter(|member| Some(member.server) != adversary) {
                        let said = self.described.get(&member.server);
                        if !said.is_some_and(|said| said.contains(&revision_of(member))) {
                            return Err(format!("{leader} lists {member:?}, which that never said"));
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}
