//! Data that is held back: until a member says that it lacks the object, and, on a channel of its own, until
//! those who shall hear it listen there.
//!
//! Members join the channel when they hear the announcement, and greet. The leader holds the data back until
//! every one of them was heard, or for [`SenderConfig::join_wait`]: who is dead delays the others by no more
//! than that, and who is late is mended like any that lost the first frames.
//!
//! [`SenderConfig::join_wait`]: super::super::SenderConfig::join_wait

use common::time::Timestamp;

use super::Sender;

impl Sender {
    /// Holds the data back until the members have joined its channel. To be said right after
    /// [`Sender::new`], with or without [`Sender::asking_first`]: then that is waited for when somebody has
    /// said that it lacks the object.
    #[must_use]
    pub fn once_joined(mut self) -> Self {
        self.joining = true;
        if self.withheld.is_none() && !self.over {
            self.withhold();
            self.joined_by = Some(self.started_at + self.config.join_wait);
        }
        self
    }

    pub(super) fn withhold(&mut self) {
        if self.withheld.is_none() {
            self.withheld = Some(std::mem::take(&mut self.available));
        }
    }

    /// A member lacks the object: the data goes, if need be when all have joined its channel.
    pub(super) fn is_needed(&mut self, now: Timestamp) {
        if self.withheld.is_some() && self.joined_by.is_none() {
            let wait = if self.joining { self.config.join_wait } else { std::time::Duration::ZERO };
            self.joined_by = Some(now + wait);
        }
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
