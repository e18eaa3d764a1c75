//! A run's assignments on their way: sent out, waited for, and shown; the commit after the decision,
//! and the undo when too few follow.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::assignment::Kind;
use common::digest::Version;
use common::ids::{AssignmentNumber, ServerId};
use common::manifest::Manifest;
use common::outcome::{Outcome, RefusalCode};

use super::{COMMIT_LIFE, Execution, Stop, TICK};
use crate::engine::hub::Progress;
use crate::engine::order::Body;
use crate::engine::{EngineError, now};
use crate::store::RunState;

/// How long an undo is waited for. Servers that cannot be reached hear of the wanted version when
/// they return.
const UNDO_LIFE: Duration = ORDER_LIFE;
/// How long an order is waited for that servers carry out in a moment.
pub(super) const ORDER_LIFE: Duration = Duration::from_secs(15);
/// Once the quorum has prepared, the others get as long again, and at least this. Ten seconds: longer
/// than it takes to elect a leader, shorter than anybody wants to wait for one slow disk.
const STRAGGLER_WAIT_MIN: Duration = Duration::from_secs(10);

impl Execution {
    /// Sends the prepare assignment out and waits until every server prepared, refused or is lost.
    pub(super) async fn prepare(&mut self, quorum: usize) -> Result<Vec<ServerId>, Stop> {
        let Some(number) = self.resume.prepare else { return Ok(Vec::new()) };
        if let Some(staged) = &self.resume.staged {
            // An earlier run has prepared them.
            return Ok(staged.clone());
        }
        let alone = self.request.autonomous.then_some(self.result()?);
        self.recorder.start("wan", now());
        self.save();
        self.engine.send_out_unless(number, self.wan(), self.is_asked_to_rest())?;
        let mut quorum_after: Option<Duration> = None;
        let done = move |progress: &Progress, elapsed: Duration| {
            if progress.outcomes.values().filter(|outcome| follows(outcome, alone)).count() >= quorum {
                quorum_after.get_or_insert(elapsed);
            }
            progress.answered || quorum_after.is_some_and(|after| elapsed > after + after.max(STRAGGLER_WAIT_MIN))
        };
        let progress = self.wait_while(number, self.decision_life(), done).await?;
        let prepared: Vec<ServerId> = progress
            .outcomes
            .iter()
            .filter(|(_, outcome)| follows(outcome, alone))
            .map(|(server, _)| *server)
            .collect();
        for server in prepared.iter().filter(|_| alone.is_some()) {
            self.engine.hub.set_live(*server, &self.site.name, number, alone);
        }
        for server in &progress.unanswered {
            let online = self.engine.hub.online().contains_key(server);
            let (state, reason) = if online {
                ("failed", "was slower than the others and was not waited for; it is synchronised after this run")
            } else {
                ("offline", "fell silent before it had prepared")
            };
            self.recorder.server(*server, state, Some(reason.into()));
        }
        for phase in ["wan", "multicast", "prepare"] {
            self.recorder.end_if_open(phase, now());
        }
        self.enough(prepared.len(), quorum, if alone.is_some() { "live with it" } else { "prepared" })?;
        Ok(prepared)
    }

    /// Waits for a delivery, showing its progress, until `done`, the time is over or somebody cancels.
    pub(super) async fn wait(
        &mut self,
        number: AssignmentNumber,
        life: Duration,
        mut done: impl FnMut(&Progress) -> bool,
    ) -> Result<Progress, Stop> {
        self.wait_while(number, life, |progress, _| done(progress)).await
    }

    /// As [`Self::wait`]; `done` is also told how long it has been waited, rests not counted.
    async fn wait_while(
        &mut self,
        number: AssignmentNumber,
        life: Duration,
        mut done: impl FnMut(&Progress, Duration) -> bool,
    ) -> Result<Progress, Stop> {
        let mut changes = self.engine.hub.changes();
        let (begun, rested) = (tokio::time::Instant::now(), self.rested);
        let is_prepare = self.resume.prepare == Some(number);
        loop {
            changes.mark_unchanged();
            let progress = self.engine.hub.progress(number).ok_or(EngineError::NoAssignment { number })?;
            if is_prepare {
                self.show(&progress);
            }
            let elapsed = begun.elapsed().saturating_sub(self.rested.saturating_sub(rested));
            if done(&progress, elapsed) {
                return Ok(progress);
            }
            if self.resume.commit.is_none() && self.resume.end.is_none() && self.cancel.load(Ordering::Relaxed) {
                return Err(Stop::End(RunState::Cancelled, "cancelled before the decision; live is unchanged".into()));
            }
            if self.rest_if_asked(Some(number)).await {
                continue;
            }
            if elapsed >= life {
                if self.resume.commit.is_some() || self.resume.end.is_some() {
                    return Ok(progress);
                }
                let message = format!("not prepared within {} s; live is unchanged", life.as_secs());
                return Err(Stop::End(RunState::Timeout, message));
            }
            let _either = tokio::time::timeout(TICK, changes.changed()).await;
        }
    }

    fn show(&mut self, progress: &Progress) {
        let segments = progress.sessions.len() as u64;
        if progress.everywhere && self.recorder.is_open("wan") {
            let holders = self.segments_reached();
            self.recorder.end("wan", self.run.assignment_bytes * holders, now());
            self.recorder.start("multicast", now());
        }
        let sent: u64 = progress.sessions.values().map(|(stats, _)| stats.sent_bytes).sum();
        let sessions_over = segments > 0 && progress.sessions.values().all(|(_, finished)| *finished);
        if self.recorder.is_open("multicast") && (sessions_over || progress.answered) {
            self.recorder.end("multicast", sent, now());
            self.recorder.start("prepare", now());
        }
        self.recorder.set_bytes("multicast", sent);
        let names = self.engine.names();
        for (segment, (stats, finished)) in &progress.sessions {
            let leader = self.engine.hub.segments().get(segment).and_then(|(id, _)| names.get(id).cloned());
            self.recorder.session(segment, leader, stats, *finished);
        }
        for (server, frames) in &progress.overflows {
            let what = format!(
                "its kernel dropped {frames} frames because they were not read in time; if that happens often, raise \
                 net.core.rmem_max there"
            );
            self.recorder.warn(*server, &what);
        }
        for (server, outcome) in &progress.outcomes {
            match outcome {
                Outcome::Prepared { .. } => self.recorder.server(*server, "prepared", None),
                Outcome::Refused(refusal) => self.recorder.server(*server, "failed", Some(refusal.reason.clone())),
                Outcome::Committed { .. } => self.recorder.server(*server, "committed", None),
                Outcome::CommittedHookFailed { reason, .. } => {
                    self.recorder.server(*server, "committed", Some(reason.clone()));
                    self.recorder.warn(*server, reason);
                }
                Outcome::Received | Outcome::Missing(_) | Outcome::Undone { .. } | Outcome::Audited(_) => (),
            }
        }
        if self.recorder.take_changed() {
            self.save();
        }
    }

    fn segments_reached(&self) -> u64 {
        self.members.iter().map(|member| &member.segment).collect::<BTreeSet<_>>().len() as u64
    }

    /// The decision has fallen: commits, and undoes when too few follow.
    pub(super) async fn commit(&mut self, quorum: usize) -> Result<(RunState, String), Stop> {
        let Some(number) = self.resume.commit else { return Err(EngineError::NoResult { run: self.run.run }.into()) };
        self.engine.send_out(number, self.wan())?;
        let cancel = self.cancel.clone();
        let done = move |progress: &Progress| progress.answered || cancel.load(Ordering::Relaxed);
        let progress = self.wait(number, COMMIT_LIFE, done).await?;
        let result = self.result()?;
        let committed: Vec<ServerId> = progress
            .outcomes
            .iter()
            .filter(|(_, outcome)| outcome.committed() == Some(result))
            .map(|(server, _)| *server)
            .collect();
        for server in &committed {
            self.recorder.server(*server, "committed", None);
            self.engine.hub.set_live(*server, &self.site.name, number, Some(result));
        }
        for (server, outcome) in &progress.outcomes {
            if let Outcome::Refused(refusal) = outcome {
                self.recorder.server(*server, "failed", Some(refusal.reason.clone()));
            }
            if let Outcome::CommittedHookFailed { reason, .. } = outcome {
                self.recorder.server(*server, "committed", Some(reason.clone()));
                self.recorder.warn(*server, reason);
            }
        }
        for server in &progress.unanswered {
            self.recorder.server(*server, "offline", Some("did not confirm the commit".into()));
        }
        // Whoever was told that the run is going to stop can rely on it, also when all have switched.
        let too_late = self.resume.discard.is_some();
        if self.cancel.load(Ordering::Relaxed) && !too_late {
            let message = "cancelled while it was being committed: undone everywhere".to_owned();
            return self.abort(RunState::RolledBack, message).await;
        }
        if committed.len() < quorum && !too_late {
            let message = format!(
                "{} of {} servers committed, the quorum is {quorum}: undone everywhere",
                committed.len(),
                self.members.len()
            );
            return self.abort(RunState::RolledBack, message).await;
        }
        if self.discards() {
            self.discard(&committed).await?;
        }
        self.finish(&committed)
    }

    /// Records that the run is to be undone, then undoes it.
    pub(super) async fn abort(&mut self, state: RunState, message: String) -> Result<(RunState, String), Stop> {
        self.resume.end = Some((state, message));
        self.decide()?;
        self.undo().await
    }

    /// Brings every server back to what it had before this run.
    pub(super) async fn undo(&mut self) -> Result<(RunState, String), Stop> {
        let (state, message) = self.resume.end.clone().ok_or(EngineError::NoResult { run: self.run.run })?;
        let Some(prepare) = self.resume.prepare else { return Ok((state, message)) };
        let number = match self.resume.undo {
            Some(number) => number,
            None => {
                let record =
                    self.engine.store.assignment(prepare)?.ok_or(EngineError::NoAssignment { number: prepare })?;
                let before = self.engine.store.view(&self.site.name, &self.group.name)?;
                let version = before.map_or_else(|| Manifest::default().version(), |view| view.version);
                let version = self.run.base.filter(|_| self.own().is_some()).unwrap_or(version);
                let body = Body::Order(Kind::Undo { prepared: prepare });
                let frame = self.frame(version);
                self.engine.seal(&frame, &body, &record.targets, None, &self.cancel)?.number
            }
        };
        self.resume.undo = Some(number);
        self.decide()?;
        self.engine.send_out(number, self.wan())?;
        let progress = self.wait(number, UNDO_LIFE, |progress| progress.answered).await?;
        for (server, outcome) in &progress.outcomes {
            match outcome {
                Outcome::Undone { version } => {
                    self.engine.hub.set_live(*server, &self.site.name, number, *version);
                    self.recorder.undone(*server);
                }
                Outcome::Refused(refusal) if refusal.code != RefusalCode::NotPrepared => {
                    self.recorder.server(*server, "failed", Some(refusal.reason.clone()));
                }
                Outcome::Refused(_)
                | Outcome::Received
                | Outcome::Missing(_)
                | Outcome::Prepared { .. }
                | Outcome::Committed { .. }
                | Outcome::CommittedHookFailed { .. }
                | Outcome::Audited(_) => (),
            }
        }
        Ok((state, message))
    }
}

/// Whether a server is where its run wants it before the decision: prepared, or live with `alone` already.
fn follows(outcome: &Outcome, alone: Option<Version>) -> bool {
    match alone {
        Some(version) => outcome.committed() == Some(version),
        None => matches!(outcome, Outcome::Prepared { .. }),
    }
}
