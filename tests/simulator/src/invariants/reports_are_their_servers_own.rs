//! What a leader tells the content control manager about a server, that server has said.

use std::collections::BTreeSet;

use super::Invariant;
use crate::facts::Fact;
use crate::world::World;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct ReportsAreTheirServersOwn {
    submitted: BTreeSet<String>,
}

impl Invariant for ReportsAreTheirServersOwn {
    fn name(&self) -> &'static str {
        "reports are their servers' own"
    }

    fn check(&mut self, facts: &[Fact], world: &World) -> Result<(), String> {
        let adversary = world.adversary.as_ref().map(|adversary| adversary.id);
        for fact in facts {
            match fact {
                Fact::Submitted { report } => {
                    self.submitted.insert(format!("{report:?}"));
                }
                Fact::Told { leader, reports, .. } => {
                    for report in reports.iter().filter(|report| Some(report.server) != adversary) {
                        if !self.submitted.contains(&format!("{report:?}")) {
                            return Err(format!("{leader} tells {report:?}, which that never said"));
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}
