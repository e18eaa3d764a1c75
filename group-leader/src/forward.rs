//! Store and forward: which object to get from whom, and whom to serve next (002, "Distribution of
//! assignments", Fig. 7). Pure: what is to be done comes out as [`Action`]s.

use std::collections::{BTreeMap, VecDeque};

use common::control::{Notification, Source, ToCcm};
use common::digest::Digest;
use common::ids::ServerId;
use common::keys::{PublishKeys, Signed, StatementError};
use common::ticket::Ticket;
use common::time::WallTime;

/// Assignments under way at once. More are refused until one is dropped; a CCM never has this many.
pub const OBJECTS_MAX: usize = 256;

/// Objects from this length on are multicast while they arrive. Smaller ones are here in a moment, and cost fewer
/// questions when they are sent in one go.
pub const EARLY_BYTES_MIN: u64 = 8 << 20;

/// What the driver shall do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Put these bytes into the store; then [`Forward::stored`].
    Store {
        /// Its ticket.
        ticket: Ticket,
        /// The whole object.
        bytes: Vec<u8>,
    },
    /// Fetch the object into the store; then [`Forward::stored`] or [`Forward::fetch_failed`].
    Fetch {
        /// Its ticket.
        ticket: Ticket,
        /// Where it is.
        source: Source,
    },
    /// Tell the CCM.
    Say(ToCcm),
    /// Send a notification to another leader, and [`Forward::forwarded`] once it has been served.
    Forward {
        /// The object.
        object: Digest,
        /// To whom.
        to: Source,
        /// What.
        notification: Notification,
    },
    /// The object is here: multicast it to the members.
    Distribute {
        /// Its ticket as it was signed, for the announcement.
        signed: Signed<Ticket>,
        /// Its ticket.
        ticket: Ticket,
        /// Members may hold it, or some of it: it was spread in the segment before this leader was told to.
        spread: bool,
    },
    /// The run is over: the object may go.
    Remove {
        /// Which.
        object: Digest,
    },
}

/// What a server has of an object that it is notified of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Here {
    /// Nothing: nobody has sent it into the segment yet.
    Nothing,
    /// Some of it, or it was here: another leader gave it to this server, and so perhaps to the others.
    Something,
    /// All of it, in the store, and so perhaps the others.
    All,
}

/// An object that is passed on while it arrives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arriving {
    /// Its ticket as it was signed, for the announcement.
    pub signed: Signed<Ticket>,
    /// Its ticket.
    pub ticket: Ticket,
    /// As in [`Action::Distribute`].
    pub spread: bool,
}

/// Why a notification is not followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The ticket is not the CCM's.
    #[error("the notification's ticket is not believed")]
    Ticket(#[from] StatementError),
    /// The ticket's time is over.
    #[error("the notification's ticket has expired")]
    Expired,
    /// What rides inside is not the object.
    #[error("the object inside the notification is not what its ticket says")]
    Inline,
    /// Too much under way.
    #[error("{OBJECTS_MAX} assignments are under way already")]
    Busy,
}

#[derive(Debug)]
struct Object {
    signed: Signed<Ticket>,
    ticket: Ticket,
    /// Whether nobody was left to be served when the notification was made.
    last: bool,
    held: bool,
    /// Whether this server had something of it when it was notified.
    spread: bool,
}

/// The objects this leader has been notified of.
#[derive(Debug)]
pub struct Forward {
    keys: PublishKeys,
    objects: BTreeMap<Digest, Object>,
    actions: VecDeque<Action>,
}

impl Forward {
    /// Believes tickets signed by these keys.
    #[must_use]
    pub fn new(keys: PublishKeys) -> Self {
        Self { keys, objects: BTreeMap::new(), actions: VecDeque::new() }
    }

    /// The next thing to do.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// A notification came, from the CCM or from a leader. `here` says what this server has of the object.
    ///
    /// # Errors
    /// [`Refused`]; nothing is done then.
    pub fn handle_notification(
        &mut self,
        notification: Notification,
        here: impl Fn(&Ticket) -> Here,
        now: WallTime,
    ) -> Result<Digest, Refused> {
        let ticket = notification.ticket.verify(&self.keys)?;
        if ticket.expires < now {
            return Err(Refused::Expired);
        }
        let object = ticket.object;
        if let Some(bytes) = &notification.inline
            && (bytes.len() as u64 != ticket.length || Digest::of(bytes) != object)
        {
            return Err(Refused::Inline);
        }
        if self.objects.len() >= OBJECTS_MAX && !self.objects.contains_key(&object) {
            return Err(Refused::Busy);
        }
        let here = here(&ticket);
        let held = here == Here::All;
        let spread = here != Here::Nothing || self.objects.get(&object).is_some_and(|known| known.spread);
        let (signed, last) = (notification.ticket, notification.last);
        self.objects.insert(object, Object { signed, ticket: ticket.clone(), last, held, spread });
        if held {
            self.held(object);
        } else if let Some(bytes) = notification.inline {
            self.actions.push_back(Action::Store { ticket, bytes });
        } else {
            self.actions.push_back(Action::Fetch { ticket, source: notification.source });
        }
        Ok(object)
    }

    /// The object is in the store, verified and durable.
    pub fn stored(&mut self, object: Digest) {
        if let Some(known) = self.objects.get_mut(&object) {
            known.held = true;
            self.held(object);
        }
    }

    fn held(&mut self, object: Digest) {
        let Some(known) = self.objects.get(&object) else { return };
        self.actions.push_back(Action::Say(ToCcm::Holds { object }));
        let (signed, ticket, spread) = (known.signed.clone(), known.ticket.clone(), known.spread);
        let distribute = Action::Distribute { signed, ticket, spread };
        if !known.last {
            self.actions.push_back(Action::Say(ToCcm::AskNext { object }));
        }
        self.actions.push_back(distribute);
    }

    /// Whether the object was announced and is not here yet.
    #[must_use]
    pub fn awaits(&self, object: Digest) -> bool {
        self.objects.get(&object).is_some_and(|known| !known.held)
    }

    /// The beginning of an announced object is here, and it is large: what the members need to be told when
    /// they are sent it while the rest arrives. `None` when nobody waits for it.
    #[must_use]
    pub fn arriving(&self, object: Digest) -> Option<Arriving> {
        let known = self.objects.get(&object)?;
        let is_worth_it = !known.held && known.ticket.length >= EARLY_BYTES_MIN;
        let (signed, ticket, spread) = (&known.signed, &known.ticket, known.spread);
        is_worth_it.then(|| Arriving { signed: signed.clone(), ticket: ticket.clone(), spread })
    }

    /// The object could not be had.
    pub fn fetch_failed(&mut self, object: Digest, source: Source, reason: String) {
        self.objects.remove(&object);
        self.actions.push_back(Action::Say(ToCcm::FetchFailed { object, source, reason }));
    }

    /// The CCM named the next leader to serve, or nobody.
    pub fn handle_next(&mut self, object: Digest, next: Option<(Source, Notification)>) {
        if let Some((to, notification)) = next
            && self.objects.get(&object).is_some_and(|known| known.held)
        {
            self.actions.push_back(Action::Forward { object, to, notification });
        }
    }

    /// The other leader has been served. Ask for the next.
    pub fn forwarded(&mut self, object: Digest) {
        if self.objects.contains_key(&object) {
            self.actions.push_back(Action::Say(ToCcm::AskNext { object }));
        }
    }

    /// The other leader could not be served: the CCM finds it another source.
    pub fn forward_failed(&mut self, object: Digest, to: ServerId, reason: String) {
        self.actions.push_back(Action::Say(ToCcm::ForwardFailed { object, to, reason }));
        self.forwarded(object);
    }

    /// The control connection stands again: say what is here.
    pub fn reconnected(&mut self) {
        let held: Vec<Digest> =
            self.objects.iter().filter(|(_, known)| known.held).map(|(object, _)| *object).collect();
        for object in held {
            self.actions.push_back(Action::Say(ToCcm::Holds { object }));
        }
    }

    /// The run rests: as if the object had not been announced. What is here of it stays.
    pub fn forget(&mut self, object: Digest) {
        self.objects.remove(&object);
    }

    /// The run is over.
    pub fn drop_object(&mut self, object: Digest) {
        self.objects.remove(&object);
        self.actions.push_back(Action::Remove { object });
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use common::ids::{AssignmentNumber, ClusterId, RunNumber};
    use common::keys::{PublishKey, SecretKey};

    use super::*;

    fn key() -> PublishKey {
        PublishKey { epoch: 1, key: SecretKey::from_bytes(&[1; 32]) }
    }

    fn source() -> Source {
        Source { server: None, address: SocketAddr::from(([10, 0, 0, 1], 1)) }
    }

    fn notification(content: &[u8], inline: bool, last: bool) -> Notification {
        let ticket = Ticket {
            cluster: ClusterId([1; 16]),
            site: "shop".parse().expect("good"),
            assignment: AssignmentNumber(1),
            run: RunNumber(1),
            object: Digest::of(content),
            length: content.len() as u64,
            chunk_bytes: 65_536,
            targets: vec![],
            expires: WallTime(10),
            channel: None,
        };
        let inline = inline.then(|| content.to_vec());
        Notification { ticket: Signed::sign(&ticket, &key()), inline, source: source(), last }
    }

    fn forward() -> Forward {
        Forward::new(PublishKeys { keys: vec![(1, key().key.public())] })
    }

    fn drain(forward: &mut Forward) -> Vec<Action> {
        std::iter::from_fn(|| forward.poll_action()).collect()
    }

    #[test]
    fn a_notified_leader_fetches_then_says_so_asks_for_the_next_and_distributes() {
        let mut forward = forward();
        let object = forward
            .handle_notification(notification(b"x", false, false), |_| Here::Nothing, WallTime(1))
            .expect("believed");
        assert!(matches!(drain(&mut forward).as_slice(), [Action::Fetch { .. }]));
        forward.stored(object);
        let actions = drain(&mut forward);
        assert!(matches!(
            actions.as_slice(),
            [Action::Say(ToCcm::Holds { .. }), Action::Say(ToCcm::AskNext { .. }), Action::Distribute { .. }]
        ));
        forward.handle_next(object, Some((source(), notification(b"x", false, true))));
        assert!(matches!(drain(&mut forward).as_slice(), [Action::Forward { .. }]));
        forward.forwarded(object);
        assert!(matches!(drain(&mut forward).as_slice(), [Action::Say(ToCcm::AskNext { .. })]));
        forward.handle_next(object, None);
        assert_eq!(drain(&mut forward), []);
    }

    #[test]
    fn the_last_leader_asks_nobody() {
        let mut forward = forward();
        forward.handle_notification(notification(b"x", false, true), |_| Here::All, WallTime(1)).expect("believed");
        let actions = drain(&mut forward);
        assert!(matches!(actions.as_slice(), [Action::Say(ToCcm::Holds { .. }), Action::Distribute { .. }]));
    }

    #[test]
    fn forged_expired_and_wrong_notifications_do_nothing() {
        let mut forward = forward();
        let mut forged = notification(b"x", false, true);
        let other = PublishKey { epoch: 1, key: SecretKey::from_bytes(&[2; 32]) };
        forged.ticket = Signed::sign(&forged.ticket.verify(&forward.keys).expect("ours"), &other);
        assert!(matches!(forward.handle_notification(forged, |_| Here::Nothing, WallTime(1)), Err(Refused::Ticket(_))));
        let late = notification(b"x", false, true);
        assert_eq!(forward.handle_notification(late, |_| Here::Nothing, WallTime(11)), Err(Refused::Expired));
        let mut wrong = notification(b"x", true, true);
        wrong.inline = Some(b"y".to_vec());
        assert_eq!(forward.handle_notification(wrong, |_| Here::Nothing, WallTime(1)), Err(Refused::Inline));
        assert_eq!(drain(&mut forward), []);
    }

    #[test]
    fn only_a_large_object_that_is_still_on_its_way_is_passed_on_early() {
        let mut forward = forward();
        let small = notification(b"x", false, false);
        let object = forward.handle_notification(small, |_| Here::Nothing, WallTime(1)).expect("believed");
        assert_eq!(forward.arriving(object), None);
        let large = vec![7; EARLY_BYTES_MIN as usize];
        let object = forward
            .handle_notification(notification(&large, false, false), |_| Here::Nothing, WallTime(1))
            .expect("believed");
        assert_eq!(forward.arriving(object).map(|arriving| arriving.ticket.length), Some(EARLY_BYTES_MIN));
        forward.stored(object);
        assert_eq!(forward.arriving(object), None, "it is here");
        assert_eq!(forward.arriving(Digest::of(b"unknown")), None);
    }
}
