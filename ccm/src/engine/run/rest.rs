//! How a run rests. Nothing new is granted or sent, no multicast session begins and nothing is committed
//! until it is resumed or cancelled; what leaders and servers have of it stays there.
//!
//! A run rests between its steps, and while it waits for servers before its decision. Once it has decided
//! to commit or to undo it does not rest: live trees are not to differ for longer than they must. That it
//! rests is on disk, so a restarted CCM takes it up resting.

use std::sync::atomic::Ordering;

use common::ids::AssignmentNumber;

use super::{Execution, TICK};
use crate::engine::requests::resting;
use crate::store::RunState;

impl Execution {
    /// Rests for as long as somebody wants that; `number`: the delivery that is waited for. Returns whether
    /// it did.
    pub(super) async fn rest_if_asked(&mut self, number: Option<AssignmentNumber>) -> bool {
        let is_decided = self.resume.commit.is_some() || self.resume.end.is_some();
        if is_decided || !self.is_asked_to_rest() {
            return false;
        }
        let begun = tokio::time::Instant::now();
        if let Some(number) = number {
            self.engine.hub.rest(number, true);
        }
        let message = std::mem::replace(&mut self.run.message, resting(self.run.run));
        self.run.state = RunState::Paused;
        self.save();
        tracing::info!(run = %self.run.run, "a run rests");
        let mut changes = self.engine.changes();
        while self.is_asked_to_rest() && !self.cancel.load(Ordering::Relaxed) {
            let _either = tokio::time::timeout(TICK, changes.changed()).await;
        }
        self.run.message = message;
        self.run.state = RunState::Running;
        self.save();
        tracing::info!(run = %self.run.run, "a run goes on");
        if let Some(number) = number.filter(|_| !self.cancel.load(Ordering::Relaxed)) {
            self.engine.hub.rest(number, false);
        }
        self.rested += begun.elapsed();
        true
    }

    pub(super) fn is_asked_to_rest(&self) -> bool {
        self.rest.load(Ordering::Relaxed)
    }
}
