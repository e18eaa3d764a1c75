//! 002's store-and-forward tree: whole objects from leader to leader, in a sorted order.
//!
//! The leaders stand in a list, sorted by what is known of them or by the administrator. The first of
//! the list is notified: get the object from the CCM, then hand it to that leader. Whoever holds the
//! object and has handed it on asks for the next, and is given a leader or told that there is none;
//! so the number of holders doubles with every round. A leader that could not get it, or is gone, is
//! served anew, and so are those that were to get it from there.
//!
//! In: who holds, who asks, who is lost. Out: notifications, and the copy operations under way, as
//! edges that the [plan](crate::plan) books beside everything else. Holds: a leader has one source at
//! a time.

use std::collections::{BTreeMap, BTreeSet};

use common::digest::Digest;

use crate::grant::Selector;
use crate::network::{Network, SiteId};
use crate::plan::Edge;

/// By what the list is sorted. What comes first counts first, the next decides among equals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SortKey {
    /// Processor power, most first.
    Cpu,
    /// Location, so that near places stand together.
    Location,
    /// Measured round trip from the CCM, shortest first.
    RoundTrip,
    /// What the site can send, most first.
    Rate,
    /// Transfers that went well, most first.
    Reliability,
    /// Networks between it and the CCM, fewest first.
    Hops,
    /// The administrator's numbers, lowest first.
    Rank,
}

/// 002's own order: "sorted according to the CPU power (fastest first) and the location".
pub const SEED_ORDER: [SortKey; 2] = [SortKey::Cpu, SortKey::Location];

/// The leaders in the order in which they are served: those of the administrator's static list first,
/// as they stand there, then the others sorted.
#[must_use]
pub fn sorted(network: &Network, leaders: &BTreeSet<SiteId>, keys: &[SortKey], fixed: &[SiteId]) -> Vec<SiteId> {
    let mut order: Vec<SiteId> = Vec::with_capacity(leaders.len());
    for site in fixed.iter().filter(|site| leaders.contains(site)) {
        if !order.contains(site) {
            order.push(*site);
        }
    }
    let listed: BTreeSet<SiteId> = order.iter().copied().collect();
    let mut others: Vec<SiteId> = leaders.iter().copied().filter(|site| !listed.contains(site)).collect();
    others.sort_by(|a, b| {
        let (Some(left), Some(right)) = (network.site(*a), network.site(*b)) else { return a.cmp(b) };
        let rate = |site: SiteId| network.resources()[network.up(site).index()].calendar.rate_bytes_per_sec;
        let by = |key: &SortKey| match key {
            SortKey::Cpu => right.traits.cpu.cmp(&left.traits.cpu),
            SortKey::Location => left.traits.location.cmp(&right.traits.location),
            SortKey::RoundTrip => left.traits.rtt_micros.cmp(&right.traits.rtt_micros),
            SortKey::Rate => rate(*b).cmp(&rate(*a)),
            SortKey::Reliability => right.traits.reliability_permille.cmp(&left.traits.reliability_permille),
            SortKey::Hops => left.traits.hops.cmp(&right.traits.hops),
            SortKey::Rank => left.traits.rank.cmp(&right.traits.rank),
        };
        keys.iter().map(by).find(|order| order.is_ne()).unwrap_or_else(|| a.cmp(b))
    });
    order.extend(others);
    order
}

/// How many a holder serves at once: one, which is 002's scheme, but for an object of one chunk the
/// square root of the leaders, as two levels of many short transfers take less than many levels.
#[must_use]
pub fn fan_out_for(leaders: usize, chunks: u32) -> usize {
    if chunks > 1 { 1 } else { leaders.isqrt().max(1) }
}

/// What a leader is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Notification {
    /// Which object there is.
    pub object: Digest,
    /// From whom to get it.
    pub source: SiteId,
    /// To whom to hand it then.
    pub next: Option<SiteId>,
    /// Whether nobody is left after this leader, so that it need not ask.
    pub last: bool,
}

/// What a holder that asks whom to serve next is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// This leader, with the notification that is for it.
    Serve(SiteId, Notification),
    /// Nobody: all have the object or are being served.
    Nobody,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    /// Somebody was told to serve it next.
    Promised(SiteId),
    Fetching(SiteId),
    Holds,
}

/// One object on its way along the tree.
#[derive(Debug, Clone)]
pub struct TreePlan {
    object: Digest,
    origin: SiteId,
    order: Vec<SiteId>,
    fan_out: usize,
    states: BTreeMap<SiteId, State>,
}

impl TreePlan {
    /// An object that the origin holds, for these leaders in this order; each holder serves up to
    /// `fan_out` at once.
    #[must_use]
    pub fn new(object: Digest, origin: SiteId, order: Vec<SiteId>, fan_out: usize) -> Self {
        let states = order.iter().filter(|site| **site != origin).map(|site| (*site, State::Waiting)).collect();
        Self { object, origin, order, fan_out: fan_out.max(1), states }
    }

    /// A holder, the origin included, asks whom to serve next. Of those online the one that was
    /// promised to it, or else the first that waits. What a notification calls the next is therefore a
    /// hint, with which the two may greet each other early; the answer here decides.
    pub fn ask_next(&mut self, holder: SiteId, online: &BTreeSet<SiteId>) -> Next {
        let holds = holder == self.origin || self.states.get(&holder) == Some(&State::Holds);
        if !holds || self.serving(holder) >= self.fan_out {
            return Next::Nobody;
        }
        let promised = self.first(online, |state| state == State::Promised(holder));
        // Rather than do nothing, it takes who was promised to somebody that is not there yet.
        let free = || self.first(online, |state| state == State::Waiting);
        let taken = || self.first(online, |state| matches!(state, State::Promised(_)));
        let Some(site) = promised.or_else(free).or_else(taken) else { return Next::Nobody };
        self.states.insert(site, State::Fetching(holder));
        let waits = self.first(online, |state| state == State::Waiting);
        // With more than one at once, whoever is free first takes the next.
        let next = waits.filter(|_| self.fan_out == 1);
        if let Some(next) = next {
            self.states.insert(next, State::Promised(site));
        }
        let last = waits.is_none();
        Next::Serve(site, Notification { object: self.object, source: holder, next, last })
    }

    fn first(&self, online: &BTreeSet<SiteId>, is: impl Fn(State) -> bool) -> Option<SiteId> {
        let known = |site: &SiteId| self.states.get(site).is_some_and(|state| is(*state));
        self.order.iter().copied().find(|site| online.contains(site) && known(site))
    }

    fn serving(&self, source: SiteId) -> usize {
        self.states.values().filter(|state| **state == State::Fetching(source)).count()
    }

    /// A leader holds the object: its receipt.
    pub fn holds(&mut self, site: SiteId) {
        if let Some(state) = self.states.get_mut(&site) {
            *state = State::Holds;
        }
    }

    /// A leader is gone, is a new one, or could not get the object: it waits again, and with it whoever
    /// it served or was to serve.
    pub fn lost(&mut self, site: SiteId) {
        for (other, state) in &mut self.states {
            if *other == site || *state == State::Fetching(site) || *state == State::Promised(site) {
                *state = State::Waiting;
            }
        }
    }

    /// The leaders whose receipts are there.
    pub fn receipts(&self) -> impl Iterator<Item = SiteId> {
        self.states.iter().filter(|(_, state)| **state == State::Holds).map(|(site, _)| *site)
    }

    /// Whether all have it.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.states.values().all(|state| *state == State::Holds)
    }

    /// The copy operations under way. Given to the planner as standing, they are kept in the plan where
    /// they fit; each holder's way up is divided among those it may serve at once.
    pub fn edges(&self, network: &Network, demand: usize) -> impl Iterator<Item = Edge> {
        let rate = |resource: crate::network::ResourceId| {
            let resource = &network.resources()[resource.index()];
            resource.measured_bytes_per_sec.unwrap_or(u64::MAX).min(resource.calendar.rate_bytes_per_sec)
        };
        let fan_out = self.fan_out as u64;
        self.states.iter().filter_map(move |(destination, state)| {
            let State::Fetching(source) = *state else { return None };
            let rate_bytes_per_sec = (rate(network.up(source)) / fan_out).min(rate(network.down(*destination)));
            let selector = Selector::WholeFrom { first: 0 };
            Some(Edge { demand, selector, destination: *destination, source, rate_bytes_per_sec })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calendar::Calendar;

    const CCM: SiteId = SiteId(0);

    fn leaders(count: u32) -> Vec<SiteId> {
        (1..=count).map(SiteId).collect()
    }

    /// Rounds in which every holder serves as many as it may, and each transfer takes one round.
    fn rounds(count: u32, fan_out: usize) -> u32 {
        let online: BTreeSet<SiteId> = leaders(count).into_iter().collect();
        let mut plan = TreePlan::new(Digest::of(b"o"), CCM, leaders(count), fan_out);
        let mut rounds = 0;
        while !plan.is_complete() {
            let holders: Vec<SiteId> = plan.receipts().chain([CCM]).collect();
            let mut under_way = Vec::new();
            for holder in holders {
                while let Next::Serve(site, _) = plan.ask_next(holder, &online) {
                    under_way.push(site);
                }
            }
            under_way.into_iter().for_each(|site| plan.holds(site));
            rounds += 1;
        }
        rounds
    }

    #[test]
    fn with_fan_out_one_all_have_it_after_the_rounds_of_002() {
        for count in 1..=200u32 {
            assert_eq!(rounds(count, 1), (count + 1).next_power_of_two().ilog2(), "{count} leaders");
        }
    }

    #[test]
    fn with_the_square_root_two_rounds_reach_everybody() {
        assert_eq!(rounds(1000, fan_out_for(1000, 1)), 2, "31, and 32 × 31 more");
        assert_eq!(rounds(100, fan_out_for(100, 1)), 2);
        assert_eq!(fan_out_for(1000, 2), 1);
    }

    #[test]
    fn a_notification_names_the_source_and_the_next_and_the_last_is_told_so() {
        // 002, Fig. 7: the first gets it from the CCM and already knows whom to serve.
        let online: BTreeSet<SiteId> = leaders(3).into_iter().collect();
        let mut plan = TreePlan::new(Digest::of(b"o"), CCM, leaders(3), 1);
        let told = |source, next, last| Notification { object: Digest::of(b"o"), source, next, last };
        assert_eq!(plan.ask_next(CCM, &online), Next::Serve(SiteId(1), told(CCM, Some(SiteId(2)), false)));
        assert_eq!(plan.ask_next(CCM, &online), Next::Nobody, "it serves one at a time");
        plan.holds(SiteId(1));
        assert_eq!(plan.ask_next(CCM, &online), Next::Serve(SiteId(3), told(CCM, None, true)));
        assert_eq!(plan.ask_next(SiteId(1), &online), Next::Serve(SiteId(2), told(SiteId(1), None, true)));
        assert_eq!(plan.ask_next(SiteId(2), &online), Next::Nobody, "who does not hold it serves nobody");
        plan.holds(SiteId(3));
        plan.holds(SiteId(2));
        assert_eq!(plan.ask_next(CCM, &online), Next::Nobody);
        assert!(plan.is_complete());
    }

    #[test]
    fn who_was_served_by_or_promised_to_a_lost_leader_is_served_anew() {
        let online: BTreeSet<SiteId> = leaders(3).into_iter().collect();
        let mut plan = TreePlan::new(Digest::of(b"o"), CCM, leaders(3), 1);
        plan.ask_next(CCM, &online);
        plan.lost(SiteId(1));
        let without: BTreeSet<SiteId> = [SiteId(2), SiteId(3)].into();
        assert!(matches!(plan.ask_next(CCM, &without), Next::Serve(SiteId(2), _)), "it had been promised to the first");
    }

    #[test]
    fn the_list_is_sorted_by_the_keys_and_the_administrators_list_comes_first() {
        let mut network = Network::default();
        let region = network.add_region(None, None);
        for (cpu, location, rtt_micros) in
            [(0, "", 0), (4, "Boston", 9), (8, "London", 5), (4, "Athens", 7), (2, "Oslo", 1)]
        {
            let cap = || Calendar::always(1);
            let site = network.add_site(region, None, cap(), cap()).expect("known");
            let traits = &mut network.site_mut(site).expect("just added").traits;
            (traits.cpu, traits.location, traits.rtt_micros) = (cpu, location.to_owned(), rtt_micros);
        }
        let all: BTreeSet<SiteId> = leaders(4).into_iter().collect();
        let order = |keys: &[SortKey], fixed: &[u32]| {
            let fixed: Vec<SiteId> = fixed.iter().copied().map(SiteId).collect();
            sorted(&network, &all, keys, &fixed).into_iter().map(|site| site.0).collect::<Vec<_>>()
        };
        assert_eq!(order(&SEED_ORDER, &[]), [2, 3, 1, 4]);
        assert_eq!(order(&[SortKey::RoundTrip], &[]), [4, 2, 3, 1]);
        assert_eq!(order(&SEED_ORDER, &[4, 9, 1]), [4, 1, 2, 3]);
    }

    #[test]
    fn copy_operations_under_way_share_the_way_up_of_their_source() {
        let mut network = Network::default();
        let region = network.add_region(None, None);
        for _ in 0..3 {
            network.add_site(region, None, Calendar::always(100), Calendar::always(80)).expect("known");
        }
        let online: BTreeSet<SiteId> = leaders(2).into_iter().collect();
        let mut plan = TreePlan::new(Digest::of(b"o"), CCM, leaders(2), 2);
        plan.ask_next(CCM, &online);
        plan.ask_next(CCM, &online);
        let rates: Vec<u64> = plan.edges(&network, 0).map(|edge| edge.rate_bytes_per_sec).collect();
        assert_eq!(rates, [50, 50]);
    }
}
