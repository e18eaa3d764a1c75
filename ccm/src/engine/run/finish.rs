//! What a run that went live leaves behind: the view, what is wanted of every server, the snapshot.

use common::ids::ServerId;

use super::{Execution, Stop};
use crate::engine::{EngineError, now};
use crate::store::{Effects, RunKind, RunState, Snapshot, View};

impl Execution {
    pub(super) fn finish(&mut self, committed: &[ServerId]) -> Result<(RunState, String), Stop> {
        self.recorder.end_if_open("commit", now());
        self.recorder.start("finish", now());
        let result = self.result()?;
        let before = self.engine.store.view(&self.site.name, &self.group.name)?;
        let assignment = self.resume.commit.ok_or(EngineError::NoResult { run: self.run.run })?;
        let everybody = committed.len() == self.members.len();
        let wanted =
            self.members.iter().map(|member| (self.site.name.clone(), self.group.name.clone(), member.id, result));
        let effects = if self.run.kind == RunKind::Synchronize {
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
            }
        };
        let (state, message) = if everybody {
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
