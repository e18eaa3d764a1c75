//! What a run that went live leaves behind: the view, what is wanted of every server, the snapshot.

use common::ids::ServerId;

use super::{Execution, Stop};
use crate::engine::{EngineError, now};
use crate::store::{Effects, Hold, HoldChange, RunKind, RunState, Snapshot, View};

impl Execution {
    /// What a run leaves behind that is not live: once servers had switched and were switched back,
    /// schedules shall not try the same again.
    pub(super) fn after_undo(&self, state: RunState, message: &str) -> Effects {
        let hold = (state == RunState::RolledBack).then(|| self.set_hold(message));
        Effects { hold, ..Effects::default() }
    }

    fn set_hold(&self, reason: &str) -> HoldChange {
        HoldChange::Set(Hold {
            site: self.site.name.clone(),
            group: self.group.name.clone(),
            run: self.run.run,
            reason: format!("run {}: {reason}", self.run.run),
            since: now(),
        })
    }

    /// Who goes back by hand means it: schedules publish again when it is lifted, or when somebody
    /// publishes by hand. What a schedule does was meant when it was made.
    fn hold_after(&self) -> Option<HoldChange> {
        match (self.run.kind, &self.request.schedule) {
            (RunKind::Rollback, None) => Some(self.set_hold("rolled back")),
            (RunKind::Restore, None) => Some(self.set_hold("restored a checkpoint")),
            (RunKind::Publish, None) => Some(HoldChange::Lift(self.site.name.clone(), self.group.name.clone())),
            (RunKind::Rollback | RunKind::Restore | RunKind::Publish, Some(_))
            | (RunKind::Synchronize | RunKind::Audit | RunKind::Replicate, _) => None,
        }
    }

    pub(super) fn finish(&mut self, committed: &[ServerId]) -> Result<(RunState, String), Stop> {
        self.recorder.end_if_open("commit", now());
        self.recorder.start("finish", now());
        let result = self.result()?;
        let before = self.engine.store.view(&self.site.name, &self.group.name)?;
        let assignment = self.resume.commit.ok_or(EngineError::NoResult { run: self.run.run })?;
        let everybody = committed.len() == self.members.len();
        let wanted =
            self.members.iter().map(|member| (self.site.name.clone(), self.group.name.clone(), member.id, result));
        let effects = if self.mends() {
            // Brings servers to the version that the view has already.
            Effects::default()
        } else {
            Effects {
                view: Some(View {
                    site: self.site.name.clone(),
                    group: self.group.name.clone(),
                    version: result,
                    assignment,
                    run: self.run.run,
                    published: now(),
                    previous: match before {
                        Some(view) if view.version == result => view.previous,
                        Some(view) => Some(view.version),
                        None => None,
                    },
                }),
                wanted: wanted.collect(),
                snapshot: Some(Snapshot {
                    run: self.run.run,
                    site: self.site.name.clone(),
                    group: self.group.name.clone(),
                    version: result,
                    assignment,
                    time: now(),
                }),
                hold: self.hold_after(),
            }
        };
        let (state, message) = if self.run.kind == RunKind::Audit {
            self.repaired(committed);
            self.audited()
        } else if everybody {
            (RunState::Done, format!("live on {}", servers(committed.len())))
        } else {
            let reasons = self.recorder.reasons();
            let message = format!("live on {} of {} servers{reasons}", committed.len(), self.members.len());
            (RunState::Partial, message)
        };
        self.recorder.end("finish", 0, now());
        self.end(state, message.clone(), &effects);
        Ok((state, message))
    }
}

fn servers(count: usize) -> String {
    if count == 1 { "1 server".to_owned() } else { format!("{count} servers") }
}
