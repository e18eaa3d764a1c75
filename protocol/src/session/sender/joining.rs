//! Data on a channel of its own is held back until those who shall hear it listen there.
//!
//! Members join the channel when they hear the announcement, and greet. The leader holds the data back until
//! every one of them was heard, or for [`SenderConfig::join_wait`]: who is dead delays the others by no more
//! than that, and who is late is mended like any that lost the first frames.
//!
//! A session that asks first has nothing to hold back: it sends only what members say they lack, and who says
//! that has joined.
//!
//! [`SenderConfig::join_wait`]: super::super::SenderConfig::join_wait

use common::time::Timestamp;

use super::Sender;

impl Sender {
    /// Holds the data back until the members have joined its channel. To be said right after
    /// [`Sender::new`], and not of a session that asks first.
    #[must_use]
    pub fn once_joined(mut self) -> Self {
        if !self.over {
            self.withheld = Some(std::mem::take(&mut self.available));
            self.joined_by = Some(self.started_at + self.config.join_wait);
        }
        self
    }

    /// Lets the data go when everybody was heard, or has been waited for long enough.
    pub(super) fn release_if_joined(&mut self, now: Timestamp) {
        let Some(joined_by) = self.joined_by else { return };
        if joined_by > now && self.members.anyone_unheard() {
            return;
        }
        self.joined_by = None;
        if let Some(withheld) = self.withheld.take() {
            self.offer(withheld, now);
        }
    }
}
