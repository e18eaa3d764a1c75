//! Large objects are multicast while they arrive: the members need not wait until the leader has it all.
//!
//! Every chunk is verified before its bytes are passed on. Should the rest be delayed, the session waits for it;
//! should it come from elsewhere, the session goes on.

use std::fs::File;
use std::sync::Mutex;

use common::digest::Digest;
use group_leader::audience::Audience;
use group_leader::forward::Arriving;
use tokio::sync::mpsc;
use transfer::store::Assembler;

use super::leading::{Active, Session};
use super::{Agent, Event};

/// How much more must have arrived before it is told again.
const STEP_BYTES: u64 = 1 << 20;

/// The beginning of an object that is still on its way.
#[derive(Debug)]
pub(crate) struct Early {
    /// The file that is being filled.
    pub(crate) file: File,
    /// So much is there from its first byte on, verified.
    pub(crate) whole_bytes: u64,
}

/// Tells the agent from a fetch how far that is.
pub(super) fn teller(events: mpsc::Sender<Event>) -> impl Fn(&Assembler) + Send + Sync {
    let told = Mutex::new(0);
    move |assembler| {
        let whole_bytes = assembler.whole_bytes();
        let object = assembler.table().root();
        let mut told = told.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if whole_bytes < *told + STEP_BYTES && whole_bytes < assembler.table().length() {
            return;
        }
        match assembler.reader() {
            // When the agent is busy it hears of the next step.
            Ok(file) => {
                if events.try_send(Event::Arriving { object, early: Early { file, whole_bytes } }).is_ok() {
                    *told = whole_bytes;
                }
            }
            Err(error) => tracing::warn!(%object, %error, "what has arrived cannot be passed on before the rest"),
        }
    }
}

impl Agent {
    /// More of an object is here. At its leader, it is passed on.
    pub(super) fn arriving(&mut self, object: Digest, early: Early) {
        let now = self.clock.now();
        let own = self.identity.server;
        let Some(leading) = &mut self.leading else { return };
        let Some(Arriving { signed, ticket, spread }) = leading.forward.arriving(object) else { return };
        if let Some(active) = leading.active.get_mut(&object) {
            if let Some(Session { distribution, .. }) = &mut active.session {
                distribution.available(early.whole_bytes, now);
            }
            active.early = Some(early);
            return;
        }
        let audience = Audience::new(ticket.targets.iter().copied().filter(|target| *target != own), spread);
        let channel = self.channels.addresses.data;
        let mut active = Active { early: Some(early), ..Active::new(audience, signed, ticket, channel, now) };
        active.offers.hold();
        leading.active.insert(object, active);
        self.serve_audience(object);
    }
}
