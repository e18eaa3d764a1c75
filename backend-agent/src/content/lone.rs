//! Orders that one server carries out to their end without waiting for the others of its group: to keep
//! nothing but what is live, and to bring live what it has just staged.

use common::assignment::Header;
use common::outcome::Outcome;
use common::time::WallTime;

use super::SiteTrees;
use super::errors::ContentError;
use super::journal::Before;

impl SiteTrees {
    /// Drops the backup, what is staged and what lingers. Content that was taken off this server is then
    /// not on its disk any more; nothing is left to go back to.
    ///
    /// The outcome is remembered only when all of it is gone, so that an order that failed halfway is
    /// carried out again.
    pub(super) fn keep_live_only(&mut self, header: &Header) -> Result<Outcome, ContentError> {
        let found = self.body().live.version;
        if found != Some(header.result) {
            return Err(ContentError::BaseMismatch { expected: header.result, found });
        }
        let mut body = self.body().clone();
        body.forget_prepared();
        body.backup = None;
        body.live.before = Before::Unknown;
        self.write_body(body)?;
        // What it left behind is about to go.
        self.left_behind = None;
        // At the end of time everything has lingered for long enough.
        self.sweep(WallTime(u64::MAX))?;
        self.tidy()?;
        self.empty_trash()?;
        rustix::fs::syncfs(&self.state)
            .map_err(|error| ContentError::io("making durable", "that the backup is gone")(error.into()))?;
        let outcome = Outcome::Committed { version: header.result };
        let mut body = self.body().clone();
        body.remember(header.number, header.sequence, &outcome);
        self.write_body(body)?;
        Ok(outcome)
    }

    /// Brings live what this assignment has staged.
    pub(super) fn bring_alone_live(&mut self, header: &Header) -> Result<Outcome, ContentError> {
        self.bring_prepared_live(header.number, Some(header.result), |after, outcome| {
            after.remember(header.number, header.sequence, outcome);
        })
    }
}
