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
        // An undo drops what was staged, wherever it comes.
        let staged = self.resume.undo.and(self.resume.staged.as_ref()).and_then(|_| self.forget_staged());
        Effects { hold, staged, ..Effects::default() }
    }

    pub(super) fn set_hold(&self, reason: &str) -> HoldChange {
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
            (RunKind::Switch, None) if self.resume.staged.is_none() => Some(self.set_hold("switched to the backup")),
            (RunKind::Publish | RunKind::Switch, None) => {
                Some(HoldChange::Lift(self.site.name.clone(), self.group.name.clone()))
            }
            (RunKind::Rollback | RunKind::Restore | RunKind::Publish | RunKind::Switch, Some(_))
            | (RunKind::Synchronize | RunKind::Audit | RunKind::Replicate | RunKind::Remove | RunKind::Hot, _) => None,
        }
    }

    pub(super) fn finish(&mut self, committed: &[ServerId]) -> Result<(RunState, String), Stop> {
        self.recorder.end_if_open("commit", now());
        self.recorder.start("finish", now());
        let result = self.result()?;
        let before = self.engine.store.view(&self.site.name, &self.group.name)?;
        let alone = self.resume.prepare.filter(|_| self.request.autonomous);
        let assignment = self.resume.commit.or(alone).ok_or(EngineError::NoResult { run: self.run.run })?;
        let everybody = committed.len() == self.members.len();
        let wanted =
            self.members.iter().map(|member| (self.site.name.clone(), self.group.name.clone(), member.id, result));
        let effects = if self.mends() {
            // Brings servers to the version that the view has already: also those that had their own.
            let back = committed.iter().filter(|_| !self.request.own);
            let of = |server: &ServerId| (self.site.name.clone(), self.group.name.clone(), *server, result);
            Effects { wanted: back.map(of).collect(), ..Effects::default() }
        } else if let Some(own) = self.own() {
            self.own_effects(own, result, before.as_ref())
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
                staged: self.forget_staged(),
                own: Vec::new(),
            }
        };
        let (state, message) = if self.run.kind == RunKind::Audit {
            self.repaired(committed);
            self.audited()
        } else if everybody {
            (RunState::Done, format!("{} {}", self.done_words(), servers(committed.len())))
        } else {
            let reasons = self.recorder.reasons();
            let (words, count) = (self.done_words(), committed.len());
            let message = format!("{words} {count} of {} servers{reasons}", self.members.len());
            (RunState::Partial, message)
        };
        self.recorder.end("finish", 0, now());
        self.end(state, message.clone(), &effects);
        Ok((state, message))
    }
}

impl Execution {
    /// What was done to so many servers.
    fn done_words(&self) -> &'static str {
        if self.run.kind == RunKind::Remove { "taken off" } else { "live on" }
    }

    /// An end before the commit is no end without effect when servers go live by themselves: those that did
    /// are brought back.
    pub(super) fn unless_live(&self, state: RunState, message: String) -> (RunState, String) {
        if self.request.autonomous && self.recorder.count("committed") > 0 {
            return (RunState::RolledBack, format!("{message}: undone where it was live"));
        }
        (state, message)
    }
}

fn servers(count: usize) -> String {
    if count == 1 { "1 server".to_owned() } else { format!("{count} servers") }
}
