//! Leaving an object alone for a while because its run rests.

use common::digest::Digest;

use super::Agent;

impl Agent {
    /// Fetches no more of an object, sends nothing of it, and begins nothing with it until it is notified
    /// again. What is here of it stays in the store, and what members have of it with them: the next
    /// session asks them first.
    pub(super) fn let_rest(&mut self, object: Digest) {
        let Some(leading) = &mut self.leading else { return };
        // As if it had never been heard of, but for its bytes.
        leading.forward.forget(object);
        leading.active.remove(&object);
        if let Some(fetch) = self.fetches.remove(&object) {
            fetch.abort();
            self.fetching.remove(&object);
        }
        tracing::info!(%object, "an object is left alone: its run rests");
    }
}
