//! Who gets an object from whom: the WAN stage of one assignment, as a pure plan.
//!
//! The leaders stand in a list sorted by priority (002, "Distribution of assignments": CPU,
//! location, administrator's list; here the order in which they are given). Whoever holds the object
//! asks for the next leader to serve and is given the first of the list that nobody serves yet, until
//! the list is used up. Policy `star` lets only the CCM serve; `tree` lets every holder.
//!
//! In: who holds, asks, fails. Out: who is to be notified with which source. Holds: a leader has at
//! most one source at a time; each object goes to a segment once unless a fetch failed.

use std::collections::{BTreeMap, BTreeSet};

use common::ids::SegmentName;
use planner::policy::WanPolicy;

/// Reads the name of a policy that can be carried out; `None` for an unknown one, and for the mesh: a leader
/// fetches whole objects from one source at a time.
#[must_use]
pub fn policy_named(name: &str) -> Option<WanPolicy> {
    WanPolicy::named(name).filter(|policy| *policy != WanPolicy::Mesh)
}

/// Who serves.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Server {
    /// The content control manager.
    Ccm,
    /// The leader of this segment.
    Leader(SegmentName),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Waiting,
    Fetching(Server),
    Holds,
}

/// The WAN stage of one object.
#[derive(Debug)]
pub struct WanPlan {
    order: Vec<SegmentName>,
    state: BTreeMap<SegmentName, State>,
    /// How many the CCM may serve at once.
    ccm_fan_out: usize,
    relays: bool,
}

impl WanPlan {
    /// A plan for these segments, in the order in which they are to be served.
    #[must_use]
    pub fn new(order: Vec<SegmentName>, policy: WanPolicy) -> Self {
        // An object that goes whole is one chunk to the planner's rule.
        let relays = policy.resolve(order.len(), 1) != WanPolicy::Star;
        let ccm_fan_out = if relays { 1 } else { order.len() };
        let state = order.iter().map(|segment| (segment.clone(), State::Waiting)).collect();
        Self { order, state, ccm_fan_out, relays }
    }

    /// The leaders that the CCM shall notify now, each to fetch from the CCM.
    pub fn serve_from_ccm(&mut self, reachable: &BTreeSet<SegmentName>) -> Vec<SegmentName> {
        let busy = self.state.values().filter(|state| **state == State::Fetching(Server::Ccm)).count();
        let chosen: Vec<SegmentName> = self
            .waiting()
            .filter(|segment| reachable.contains(*segment))
            .take(self.ccm_fan_out.saturating_sub(busy))
            .cloned()
            .collect();
        for segment in &chosen {
            self.state.insert(segment.clone(), State::Fetching(Server::Ccm));
        }
        chosen
    }

    /// A leader that holds the object asks whom to serve next.
    pub fn next_for(&mut self, holder: &SegmentName, reachable: &BTreeSet<SegmentName>) -> Option<SegmentName> {
        if !self.relays || self.state.get(holder) != Some(&State::Holds) {
            return None;
        }
        let next = self.waiting().find(|segment| reachable.contains(*segment)).cloned()?;
        self.state.insert(next.clone(), State::Fetching(Server::Leader(holder.clone())));
        Some(next)
    }

    /// The leader of this segment holds the object.
    pub fn holds(&mut self, segment: &SegmentName) {
        if let Some(state) = self.state.get_mut(segment) {
            *state = State::Holds;
        }
    }

    /// The segment has a new leader, or its leader could not fetch: it must be served anew. Segments
    /// that were being served by it wait again, too.
    pub fn lost(&mut self, segment: &SegmentName) {
        let source = Server::Leader(segment.clone());
        for (candidate, state) in &mut self.state {
            let served_by_it = matches!(state, State::Fetching(server) if *server == source);
            if candidate == segment || served_by_it {
                *state = State::Waiting;
            }
        }
    }

    /// Whether every leader holds the object.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.state.values().all(|state| *state == State::Holds)
    }

    /// Whether nobody waits for a source, so that a holder need not ask.
    #[must_use]
    pub fn nobody_waits(&self) -> bool {
        self.waiting().next().is_none()
    }

    fn waiting(&self) -> impl Iterator<Item = &SegmentName> {
        self.order.iter().filter(|segment| self.state.get(*segment) == Some(&State::Waiting))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(number: usize) -> SegmentName {
        format!("s{number}").parse().expect("good name")
    }

    fn segments(count: usize) -> Vec<SegmentName> {
        (0..count).map(segment).collect()
    }

    #[test]
    fn in_a_star_the_ccm_serves_all_and_nobody_relays() {
        let all: BTreeSet<_> = segments(3).into_iter().collect();
        let mut plan = WanPlan::new(segments(3), WanPolicy::Star);
        assert_eq!(plan.serve_from_ccm(&all), segments(3));
        plan.holds(&segment(0));
        assert_eq!(plan.next_for(&segment(0), &all), None);
    }

    #[test]
    fn in_a_tree_every_holder_serves_the_next_of_the_list_and_each_is_served_once() {
        // 002, Fig. 7: the number of holders doubles with every round.
        let all: BTreeSet<_> = segments(7).into_iter().collect();
        let mut plan = WanPlan::new(segments(7), WanPolicy::Tree);
        let mut rounds = 0;
        let mut holders: Vec<SegmentName> = Vec::new();
        let mut served = 0;
        while !plan.is_complete() {
            let mut fetching = plan.serve_from_ccm(&all);
            fetching.extend(holders.iter().filter_map(|holder| plan.next_for(holder, &all)));
            served += fetching.len();
            for segment in fetching {
                plan.holds(&segment);
                holders.push(segment);
            }
            rounds += 1;
            assert!(rounds < 10);
        }
        assert_eq!((rounds, served), (3, 7));
    }

    #[test]
    fn who_was_served_by_a_lost_leader_is_served_anew() {
        let all: BTreeSet<_> = segments(3).into_iter().collect();
        let mut plan = WanPlan::new(segments(3), WanPolicy::Tree);
        assert_eq!(plan.serve_from_ccm(&all), [segment(0)]);
        plan.holds(&segment(0));
        assert_eq!(plan.next_for(&segment(0), &all), Some(segment(1)));
        plan.lost(&segment(0));
        assert_eq!(plan.serve_from_ccm(&all), [segment(0)]);
        plan.holds(&segment(0));
        assert_eq!(plan.next_for(&segment(0), &all), Some(segment(1)));
    }

    #[test]
    fn unreachable_leaders_wait() {
        let mut plan = WanPlan::new(segments(2), WanPolicy::Star);
        assert_eq!(plan.serve_from_ccm(&[segment(1)].into()), [segment(1)]);
        plan.holds(&segment(1));
        assert!(!plan.is_complete());
        assert_eq!(plan.serve_from_ccm(&segments(2).into_iter().collect()), [segment(0)]);
    }
}
