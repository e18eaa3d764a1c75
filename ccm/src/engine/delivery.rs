//! One assignment on its way: over the WAN to the leaders, over the LANs to the servers, and the
//! reports back.
//!
//! In: what leaders say. Out: what is to be said to which leader. Holds: a leader that is new, or
//! came back, hears of the assignment again as long as a server of its segment has not answered, so
//! that no leader's death stops a run. Leaves to others: connections ([`super::hub`]), what the
//! outcomes mean for the run ([`super::run`]).

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use common::control::{Notification, SessionStats, Source, ToLeader};
use common::digest::Digest;
use common::ids::{AssignmentNumber, SegmentName, ServerId};
use common::keys::Signed;
use common::outcome::Outcome;
use common::ticket::Ticket;
use planner::policy::WanPolicy;

use super::wan::WanPlan;

/// A leader as a delivery sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader {
    /// Who leads the segment.
    pub server: ServerId,
    /// Where its chunk server listens.
    pub transfer_address: SocketAddr,
}

/// The leaders that are connected, by segment.
pub type Leaders = BTreeMap<SegmentName, Leader>;

/// What to say to the leaders of which segments.
pub type Says = Vec<(SegmentName, ToLeader)>;

/// One assignment on its way.
#[derive(Debug)]
pub struct Delivery {
    ticket: Signed<Ticket>,
    object: Digest,
    /// The object itself when it rides inside its notification.
    inline: Option<Vec<u8>>,
    ccm_address: SocketAddr,
    targets: BTreeMap<SegmentName, BTreeSet<ServerId>>,
    outcomes: BTreeMap<ServerId, Outcome>,
    /// Servers given up.
    lost: BTreeSet<ServerId>,
    plan: WanPlan,
    sessions: BTreeMap<SegmentName, (SessionStats, bool)>,
    /// Frames that servers' kernels dropped.
    overflows: BTreeMap<ServerId, u64>,
    /// Which leader was last told, to notice a new one.
    told: BTreeMap<SegmentName, ServerId>,
    /// Nobody is told anything until it goes on.
    rests: bool,
}

impl Delivery {
    /// A delivery of a signed assignment to these servers.
    #[must_use]
    pub fn new(
        ticket: Signed<Ticket>,
        object: Digest,
        inline: Option<Vec<u8>>,
        targets: BTreeMap<SegmentName, BTreeSet<ServerId>>,
        policy: WanPolicy,
        ccm_address: SocketAddr,
    ) -> Self {
        // What rides inside the notification has no second way to go.
        let policy = if inline.is_some() { WanPolicy::Star } else { policy };
        let plan = WanPlan::new(targets.keys().cloned().collect(), policy);
        Self {
            ticket,
            object,
            inline,
            ccm_address,
            targets,
            outcomes: BTreeMap::new(),
            lost: BTreeSet::new(),
            plan,
            sessions: BTreeMap::new(),
            overflows: BTreeMap::new(),
            told: BTreeMap::new(),
            rests: false,
        }
    }

    /// Tells nobody of the object any more, and those who were told to leave it alone.
    pub fn rest(&mut self) -> Says {
        self.rests = true;
        let object = self.object;
        self.told.keys().map(|segment| (segment.clone(), ToLeader::Rest { object })).collect()
    }

    /// Goes on: whoever has servers that have not answered is told again, and goes on from what it has.
    pub fn go_on(&mut self, leaders: &Leaders) -> Says {
        self.rests = false;
        for segment in std::mem::take(&mut self.told).into_keys() {
            self.plan.lost(&segment);
        }
        self.serve(leaders)
    }

    /// The object that is delivered.
    #[must_use]
    pub fn object(&self) -> Digest {
        self.object
    }

    /// The present leaders: at the start, and whenever one came, went or changed.
    pub fn leaders_changed(&mut self, leaders: &Leaders) -> Says {
        let vanished: Vec<SegmentName> = self
            .told
            .iter()
            .filter(|(segment, told)| leaders.get(*segment).is_none_or(|leader| leader.server != **told))
            .map(|(segment, _)| segment.clone())
            .collect();
        for segment in vanished {
            self.told.remove(&segment);
            self.plan.lost(&segment);
        }
        self.serve(leaders)
    }

    /// A leader connected anew: what it was told may not have arrived.
    pub fn leader_reconnected(&mut self, segment: &SegmentName, leaders: &Leaders) -> Says {
        if self.told.remove(segment).is_some() {
            self.plan.lost(segment);
        }
        if self.rests {
            // It may be at work on it, and not have heard that it rests.
            return vec![(segment.clone(), ToLeader::Rest { object: self.object })];
        }
        self.serve(leaders)
    }

    fn serve(&mut self, leaders: &Leaders) -> Says {
        if self.rests {
            return Says::new();
        }
        let reachable: BTreeSet<SegmentName> =
            leaders.keys().filter(|segment| self.is_unanswered(segment)).cloned().collect();
        let served = self.plan.serve_from_ccm(&reachable);
        served
            .into_iter()
            .filter_map(|segment| {
                let leader = leaders.get(&segment)?;
                self.told.insert(segment.clone(), leader.server);
                let source = Source { server: None, address: self.ccm_address };
                Some((segment, ToLeader::Notify(self.notification(source))))
            })
            .collect()
    }

    fn notification(&self, source: Source) -> Notification {
        Notification {
            ticket: self.ticket.clone(),
            inline: self.inline.clone(),
            source,
            last: self.plan.nobody_waits(),
        }
    }

    fn is_unanswered(&self, segment: &SegmentName) -> bool {
        self.targets.get(segment).is_some_and(|servers| servers.iter().any(|server| !self.is_resolved(server)))
    }

    fn is_resolved(&self, server: &ServerId) -> bool {
        self.outcomes.contains_key(server) || self.lost.contains(server)
    }

    /// The leader of a segment holds the object, whole and verified.
    pub fn holds(&mut self, segment: &SegmentName, leaders: &Leaders) -> Says {
        self.plan.holds(segment);
        self.serve(leaders)
    }

    /// A leader asks whom to serve next; it is always answered.
    pub fn ask_next(&mut self, segment: &SegmentName, leaders: &Leaders) -> Says {
        let reachable: BTreeSet<SegmentName> = leaders.keys().cloned().collect();
        let next = leaders.get(segment).filter(|_| !self.rests).and_then(|holder| {
            let chosen = self.plan.next_for(segment, &reachable)?;
            let leader = leaders.get(&chosen)?;
            self.told.insert(chosen, leader.server);
            let to = Source { server: Some(leader.server), address: leader.transfer_address };
            let from = Source { server: Some(holder.server), address: holder.transfer_address };
            Some((to, self.notification(from)))
        });
        vec![(segment.clone(), ToLeader::Next { object: self.object, next })]
    }

    /// A leader could not get the object: it is served anew.
    pub fn fetch_failed(&mut self, segment: &SegmentName, leaders: &Leaders) -> Says {
        self.told.remove(segment);
        self.plan.lost(segment);
        self.serve(leaders)
    }

    /// A leader could not hand the object on to this one: it is served anew, by the CCM if need be.
    pub fn forward_failed(&mut self, to: ServerId, leaders: &Leaders) -> Says {
        let segment = leaders.iter().find(|(_, leader)| leader.server == to).map(|(segment, _)| segment.clone());
        segment.map_or_else(Says::new, |segment| self.fetch_failed(&segment, leaders))
    }

    /// The multicast session of a segment moved on.
    pub fn session(&mut self, segment: SegmentName, stats: SessionStats, finished: bool) {
        self.sessions.insert(segment, (stats, finished));
    }

    /// The kernel of a server dropped frames. A leader is believed about targets of its own segment.
    pub fn overflow(&mut self, segment: &SegmentName, server: ServerId, frames: u64) {
        if self.targets.get(segment).is_some_and(|servers| servers.contains(&server)) {
            let most = self.overflows.entry(server).or_default();
            *most = frames.max(*most);
        }
    }

    /// How many frames the kernels of servers dropped in a session.
    #[must_use]
    pub fn overflows(&self) -> &BTreeMap<ServerId, u64> {
        &self.overflows
    }

    /// A server answered. Only targets count, and only the first final answer.
    pub fn report(&mut self, server: ServerId, outcome: Outcome) -> bool {
        let is_target = self.targets.values().any(|servers| servers.contains(&server));
        let is_final = match outcome {
            Outcome::Received => false,
            Outcome::Missing(_)
            | Outcome::Prepared { .. }
            | Outcome::Committed { .. }
            | Outcome::CommittedHookFailed { .. }
            | Outcome::Undone { .. }
            | Outcome::Refused(_)
            | Outcome::Audited(_) => true,
        };
        if is_target && is_final && !self.outcomes.contains_key(&server) {
            self.outcomes.insert(server, outcome);
            return true;
        }
        false
    }

    /// Gives up on a server that has not answered.
    pub fn give_up(&mut self, server: ServerId) {
        if !self.outcomes.contains_key(&server) {
            self.lost.insert(server);
        }
    }

    /// Whether the WAN stage is over.
    #[must_use]
    pub fn is_everywhere(&self) -> bool {
        self.plan.is_complete() || self.is_answered()
    }

    /// Whether every target answered or was given up.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        self.unanswered().next().is_none()
    }

    /// The targets that have not answered, those that were given up included.
    pub fn silent(&self) -> impl Iterator<Item = ServerId> {
        self.targets.values().flatten().copied().filter(|server| !self.outcomes.contains_key(server))
    }

    /// The targets that have not answered yet.
    pub fn unanswered(&self) -> impl Iterator<Item = ServerId> {
        self.targets.values().flatten().copied().filter(|server| !self.is_resolved(server))
    }

    /// The answers so far.
    #[must_use]
    pub fn outcomes(&self) -> &BTreeMap<ServerId, Outcome> {
        &self.outcomes
    }

    /// The multicast sessions so far, with whether they are over.
    #[must_use]
    pub fn sessions(&self) -> &BTreeMap<SegmentName, (SessionStats, bool)> {
        &self.sessions
    }
}

/// Names the assignment a delivery is for.
pub type DeliveryId = AssignmentNumber;

#[cfg(test)]
mod tests {
    use common::digest::Version;
    use common::ids::{ClusterId, RunNumber};
    use common::keys::{PublishKey, SecretKey};
    use common::time::WallTime;

    use super::*;

    fn server(number: u8) -> ServerId {
        ServerId([number; 16])
    }

    fn segment(name: &str) -> SegmentName {
        name.parse().expect("good")
    }

    fn leader(number: u8) -> Leader {
        Leader { server: server(number), transfer_address: SocketAddr::from(([10, 0, 0, number], 7444)) }
    }

    fn delivery(policy: WanPolicy) -> Delivery {
        let key = PublishKey { epoch: 1, key: SecretKey::from_bytes(&[1; 32]) };
        let object = Digest::of(b"object");
        let ticket = Ticket {
            cluster: ClusterId([1; 16]),
            site: "shop".parse().expect("good"),
            assignment: AssignmentNumber(1),
            run: RunNumber(1),
            object,
            length: 6,
            chunk_bytes: 65_536,
            targets: vec![server(1), server(2)],
            expires: WallTime(1),
            channel: None,
        };
        let targets = [(segment("a"), [server(1)].into()), (segment("b"), [server(2)].into())].into();
        let ccm = SocketAddr::from(([10, 0, 0, 99], 7443));
        Delivery::new(Signed::sign(&ticket, &key), object, None, targets, policy, ccm)
    }

    fn notified(says: &Says) -> Vec<&str> {
        says.iter()
            .filter(|(_, message)| matches!(message, ToLeader::Notify(_)))
            .map(|(segment, _)| segment.as_str())
            .collect()
    }

    #[test]
    fn a_new_leader_hears_of_the_assignment_until_its_servers_have_answered() {
        let mut delivery = delivery(WanPolicy::Star);
        let mut leaders: Leaders = [(segment("a"), leader(1)), (segment("b"), leader(2))].into();
        assert_eq!(notified(&delivery.leaders_changed(&leaders)), ["a", "b"]);
        assert_eq!(notified(&delivery.leaders_changed(&leaders)), [""; 0], "each is told once");

        leaders.insert(segment("a"), leader(3));
        assert_eq!(notified(&delivery.leaders_changed(&leaders)), ["a"]);

        delivery.report(server(1), Outcome::Prepared { version: Version(Digest::of(b"")) });
        leaders.insert(segment("a"), leader(4));
        assert_eq!(notified(&delivery.leaders_changed(&leaders)), [""; 0]);
    }

    #[test]
    fn a_holder_that_asks_is_given_the_next_leader_and_itself_as_the_source() {
        let mut delivery = delivery(WanPolicy::Tree);
        let leaders: Leaders = [(segment("a"), leader(1)), (segment("b"), leader(2))].into();
        assert_eq!(notified(&delivery.leaders_changed(&leaders)), ["a"]);
        // The CCM would serve b itself once a is done; here a asks first.
        delivery.plan.holds(&segment("a"));
        let says = delivery.ask_next(&segment("a"), &leaders);
        let [(to, ToLeader::Next { next: Some((target, notification)), .. })] = says.as_slice() else {
            panic!("an answer with a next leader: {says:?}");
        };
        assert_eq!((to.as_str(), target.server), ("a", Some(server(2))));
        assert_eq!(notification.source.server, Some(server(1)));
        assert!(notification.last);
        let says = delivery.ask_next(&segment("a"), &leaders);
        assert!(matches!(says.as_slice(), [(_, ToLeader::Next { next: None, .. })]));
    }

    #[test]
    fn while_it_rests_nobody_is_told_and_then_those_who_have_not_answered_are_told_again() {
        let mut delivery = delivery(WanPolicy::Tree);
        let mut leaders: Leaders = [(segment("a"), leader(1)), (segment("b"), leader(2))].into();
        assert_eq!(notified(&delivery.leaders_changed(&leaders)), ["a"]);
        let says = delivery.rest();
        assert!(matches!(says.as_slice(), [(to, ToLeader::Rest { .. })] if to.as_str() == "a"), "{says:?}");
        assert_eq!(notified(&delivery.holds(&segment("a"), &leaders)), [""; 0]);
        let says = delivery.ask_next(&segment("a"), &leaders);
        assert!(matches!(says.as_slice(), [(_, ToLeader::Next { next: None, .. })]), "no new grant: {says:?}");
        leaders.insert(segment("b"), leader(3));
        assert_eq!(notified(&delivery.leaders_changed(&leaders)), [""; 0]);
        let says = delivery.leader_reconnected(&segment("b"), &leaders);
        assert!(matches!(says.as_slice(), [(_, ToLeader::Rest { .. })]), "{says:?}");

        delivery.report(server(1), Outcome::Prepared { version: Version(Digest::of(b"")) });
        assert_eq!(notified(&delivery.go_on(&leaders)), ["b"], "only who has servers that have not answered");
    }

    #[test]
    fn frames_that_a_kernel_dropped_are_told_by_the_leader_of_its_segment() {
        let mut delivery = delivery(WanPolicy::Star);
        delivery.overflow(&segment("a"), server(1), 7);
        delivery.overflow(&segment("a"), server(1), 3);
        delivery.overflow(&segment("a"), server(2), 9);
        assert_eq!(delivery.overflows(), &BTreeMap::from([(server(1), 7)]));
    }

    #[test]
    fn only_targets_count_and_the_first_answer_stands() {
        let mut delivery = delivery(WanPolicy::Star);
        assert!(!delivery.report(server(9), Outcome::Undone { version: None }));
        assert!(!delivery.report(server(1), Outcome::Received));
        assert!(delivery.report(server(1), Outcome::Undone { version: None }));
        assert!(!delivery.report(server(1), Outcome::Missing(vec![])));
        assert_eq!(delivery.unanswered().collect::<Vec<_>>(), [server(2)]);
        delivery.give_up(server(2));
        assert!(delivery.is_answered());
    }
}
