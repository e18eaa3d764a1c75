//! Who of the segment is still to be given an object. Pure.
//!
//! A member is served by one multicast session at a time. Members that come late join the session
//! that runs, or are given one of their own; members that a session gave up help themselves by
//! unicast and are tried again only after they have been away and returned.

use std::collections::BTreeSet;

use common::ids::ServerId;

/// The members that an object is for.
#[derive(Debug, Clone, Default)]
pub struct Audience {
    targets: BTreeSet<ServerId>,
    present: BTreeSet<ServerId>,
    /// Has it, or answered already.
    served: BTreeSet<ServerId>,
    /// Has answered: nothing more is wanted of it.
    answered: BTreeSet<ServerId>,
    failed: BTreeSet<ServerId>,
    in_session: BTreeSet<ServerId>,
    /// Some may hold it though they were not heard to: it was sent before.
    may_hold: bool,
}

/// What changed in who is present.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// To be given the object: they join the session that runs, or a new one.
    pub join: Vec<ServerId>,
    /// In the session, and gone.
    pub gone: Vec<ServerId>,
    /// A session that begins with those who join asks first what they hold.
    pub asks_first: bool,
}

impl Audience {
    /// An object for these servers. `known`: another leader gave it to this server, and so perhaps to the
    /// others.
    #[must_use]
    pub fn new(targets: impl IntoIterator<Item = ServerId>, known: bool) -> Self {
        Self { targets: targets.into_iter().collect(), may_hold: known, ..Self::default() }
    }

    /// The members that are present now. Those named as joining count as being served from here on.
    pub fn members(&mut self, present: impl IntoIterator<Item = ServerId>) -> Change {
        self.present = present.into_iter().collect();
        self.failed.retain(|server| self.present.contains(server));
        let gone: Vec<ServerId> = self.in_session.difference(&self.present).copied().collect();
        for server in &gone {
            self.in_session.remove(server);
        }
        let join: Vec<ServerId> = self
            .targets
            .intersection(&self.present)
            .filter(|server| !self.served.contains(server))
            .filter(|server| !self.failed.contains(server) && !self.in_session.contains(server))
            .copied()
            .collect();
        self.in_session.extend(join.iter().copied());
        let asks_first = self.may_hold;
        self.may_hold |= !join.is_empty();
        Change { join, gone, asks_first }
    }

    /// The member has the object.
    pub fn served(&mut self, server: ServerId) {
        self.in_session.remove(&server);
        self.failed.remove(&server);
        self.served.insert(server);
    }

    /// The member has said what became of the object.
    pub fn answered(&mut self, server: ServerId) {
        self.served(server);
        self.answered.insert(server);
    }

    /// The session gave the member up. One that is gone is served when it returns.
    pub fn failed(&mut self, server: ServerId) {
        self.in_session.remove(&server);
        if self.present.contains(&server) {
            self.failed.insert(server);
        }
    }

    /// Whoever has not answered is to be asked again, whether it was given up or had the object: a
    /// server that was restarted has forgotten that it was told. Without effect on those that a
    /// session serves. Returns whether there is anybody.
    pub fn retry(&mut self) -> bool {
        let before = self.failed.len() + self.served.len();
        self.failed.clear();
        self.served = self.answered.clone();
        self.failed.len() + self.served.len() < before
    }

    /// The session is over; who was still in it is tried again.
    pub fn session_over(&mut self) {
        self.in_session.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(number: u8) -> ServerId {
        ServerId([number; 16])
    }

    #[test]
    fn only_present_targets_are_served_and_each_once() {
        let mut audience = Audience::new([server(1), server(2), server(3)], false);
        assert_eq!(audience.members([server(1), server(2), server(9)]).join, [server(1), server(2)]);
        assert_eq!(audience.members([server(1), server(2)]).join, [], "they are being served");
        audience.served(server(1));
        audience.session_over();
        assert_eq!(audience.members([server(1), server(2)]).join, [server(2)], "the session left it out");
        assert_eq!(audience.members([server(1), server(2), server(3)]).join, [server(3)], "it came late");
    }

    #[test]
    fn a_member_that_was_given_up_is_tried_again_when_it_returns() {
        let mut audience = Audience::new([server(1), server(2)], false);
        audience.members([server(1), server(2)]);
        audience.failed(server(1));
        audience.session_over();
        assert_eq!(audience.members([server(1), server(2)]).join, [server(2)]);
        let change = audience.members([server(2)]);
        assert_eq!((change.join, change.gone), (vec![], vec![]));
        assert_eq!(audience.members([server(1), server(2)]).join, [server(1)]);
    }

    #[test]
    fn whoever_has_not_answered_is_asked_again() {
        let mut audience = Audience::new([server(1), server(2), server(3)], false);
        let all = [server(1), server(2), server(3)];
        audience.members(all);
        audience.served(server(1));
        audience.failed(server(2));
        audience.answered(server(3));
        audience.session_over();
        assert_eq!(audience.members(all).join, []);
        assert!(audience.retry());
        assert_eq!(audience.members(all).join, [server(1), server(2)]);
        assert!(!audience.retry());
    }

    #[test]
    fn only_the_first_session_sends_without_asking_unless_another_leader_was_before() {
        let mut audience = Audience::new([server(1), server(2)], false);
        assert!(!audience.members([]).asks_first);
        assert!(!audience.members([server(1)]).asks_first, "nobody was there before");
        audience.served(server(1));
        audience.session_over();
        assert!(audience.retry());
        assert!(audience.members([server(1), server(2)]).asks_first);
        assert!(Audience::new([server(1)], true).members([server(1)]).asks_first);
    }

    #[test]
    fn a_member_that_left_and_was_given_up_for_it_is_served_when_it_returns() {
        let mut audience = Audience::new([server(1)], false);
        audience.members([server(1)]);
        assert_eq!(audience.members([]).gone, [server(1)]);
        audience.failed(server(1));
        audience.session_over();
        assert_eq!(audience.members([server(1)]).join, [server(1)]);
    }

    #[test]
    fn a_member_that_leaves_in_the_middle_is_named_and_served_when_it_is_back() {
        let mut audience = Audience::new([server(1)], false);
        audience.members([server(1)]);
        assert_eq!(audience.members([]).gone, [server(1)]);
        assert_eq!(audience.members([server(1)]).join, [server(1)]);
    }
}
