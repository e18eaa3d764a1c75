//! A leader tells each outcome once, and never an older one after a newer one.

use std::collections::BTreeMap;

use common::ids::{AssignmentNumber, ServerId};
use common::outcome::Outcome;

use super::Invariant;
use crate::facts::Fact;
use crate::world::World;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct ReportsNeverGoBack {
    /// All outcomes in the order in which they were submitted.
    submitted: BTreeMap<(ServerId, AssignmentNumber), Vec<Outcome>>,
    /// Up to where each leader has told them.
    told: BTreeMap<(ServerId, u64, ServerId, AssignmentNumber), usize>,
}

impl Invariant for ReportsNeverGoBack {
    fn name(&self) -> &'static str {
        "reports never go back"
    }

    fn check(&mut self, facts: &[Fact], _: &World) -> Result<(), String> {
        for fact in facts {
            match fact {
                Fact::Submitted { report } => {
                    let outcomes = self.submitted.entry((report.server, report.assignment)).or_default();
                    if outcomes.last() != Some(&report.outcome) {
                        outcomes.push(report.outcome.clone());
                    }
                }
                Fact::Told { leader, epoch, reports } => {
                    for report in reports {
                        let Some(outcomes) = self.submitted.get(&(report.server, report.assignment)) else { continue };
                        let Some(at) = outcomes.iter().rposition(|outcome| *outcome == report.outcome) else {
                            continue;
                        };
                        let key = (*leader, *epoch, report.server, report.assignment);
                        if self.told.insert(key, at).is_some_and(|before| before >= at) {
                            return Err(format!("{leader} tells {report:?} after it told that or something later"));
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}
