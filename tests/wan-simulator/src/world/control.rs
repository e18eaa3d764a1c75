//! The CCM's side of the simulation: what it hears from leaders, when it plans, and what it orders.

use super::{APART, Event, Leader, SILENCE, STARVES, World, size};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use common::time::Timestamp;
use planner::calendar::WeekSecond;
use planner::check;
use planner::cost::Weights;
use planner::issue::{note, orders, standing_edges};
use planner::network::{Component, SiteId};
use planner::plan::{Edge, Inputs, plan};

impl World<'_> {
    /// The CCM hears what leaders said a moment ago, plans, and says what is to be done.
    pub(super) fn tick(&mut self) {
        self.meter.advance(self.now);
        self.hear();
        let now = Timestamp(self.now);
        let week_second = WeekSecond(u32::try_from(self.now / 1_000_000 % 604_800).unwrap_or(0));
        let starving = self.starving();
        let apart: BTreeSet<(SiteId, SiteId)> = self.apart.keys().copied().collect();
        if self.changed || !starving.is_empty() {
            let began = Instant::now();
            let weights = Weights::default();
            let inputs = Inputs {
                network: &self.network,
                demands: &self.demands,
                fault_permille: &[],
                apart: &apart,
                starving: &starving,
                weights: &weights,
                now,
                week_second,
            };
            self.last_plan = plan(&inputs, &standing_edges(&self.demands, &self.book));
            self.outcome.longest_plan_ms = self.outcome.longest_plan_ms.max(began.elapsed().as_secs_f64() * 1e3);
            self.outcome.plans += 1;
            if self.outcome.plans == 1 {
                self.outcome.depth = depth(&self.last_plan, self.leaders.len());
            }
            self.changed = false;
            if self.scenario.check {
                let mut found = check::structure(&self.network, &self.demands, &self.last_plan);
                found.extend(check::plan_capacity(&self.network, &self.last_plan, week_second));
                self.outcome.violations.extend(found.iter().map(ToString::to_string));
            }
        }
        let orders = orders(&self.network, &self.demands, &self.book, &self.last_plan, now, week_second);
        note(&mut self.book, &orders);
        if self.scenario.check {
            let found = check::over_capacity(&self.network, &self.book, now, week_second);
            self.outcome.violations.extend(found.iter().map(ToString::to_string));
        }
        self.changed |= orders.waiting > 0;
        self.outcome.grants += orders.grant.len() as u64;
        self.control += size::GRANT * orders.grant.len() as u64
            + size::RENEWAL * orders.renew.len() as u64
            + size::ORDER * (orders.withdraw.len() + orders.change.len()) as u64;
        for grant in orders.grant {
            self.later(Event::Granted(grant.id.0));
        }
        for (id, rate) in orders.change {
            self.later(Event::Rate(id.0, rate));
        }
        for id in orders.withdraw {
            self.later(Event::Withdrawn(id.0));
            // Both ends must have heard of the grant for its end to mean something.
            if self.transfers.get(id.0).is_none() {
                self.at(self.now + 2 * self.latency() + 1, Event::Stopped(id.0));
            }
        }
        self.at(self.now + self.scenario.tick_ms * 1000, Event::Tick);
    }

    /// What leaders reported until a moment ago, and who has not been heard of for too long.
    fn hear(&mut self) {
        let heard = self.now.saturating_sub(self.latency());
        for (number, leader) in (0u32..).zip(&mut self.leaders) {
            let site = SiteId(number);
            if leader.dies_at <= self.now {
                if !leader.known_gone && leader.dies_at + SILENCE <= self.now {
                    leader.known_gone = true;
                    if leader.complete_at.is_none() {
                        self.incomplete -= 1;
                        self.outcome.died += 1;
                    }
                    if let Some(known) = self.network.site_mut(site) {
                        known.online = false;
                    }
                    self.book.site_gone(site);
                    self.changed = true;
                }
                continue;
            }
            if leader.complete_at.is_none() || !leader.unreported.is_empty() {
                self.control += size::REPORT + size::REPORT_EDGE * leader.sources.len() as u64;
            }
            while leader.unreported.front().is_some_and(|(at, _)| *at <= heard) {
                let Some((_, chunk)) = leader.unreported.pop_front() else { break };
                self.control += size::REPORT_CHUNK;
                self.demands[0].report_chunk(site, chunk);
                let class = chunk % self.demands[0].classes();
                self.changed |= self.demands[0].holds_class(site, class);
            }
        }
        let (mut gone, mut slow) = (Vec::new(), Vec::new());
        for (id, transfer) in self.transfers.iter() {
            let (source, destination) = (transfer.grant.source, transfer.grant.destination);
            if [source, destination].iter().any(|site| self.leaders[site.0 as usize].known_gone) {
                gone.push(id);
            } else if transfer.slow_since.is_some_and(|since| since + SILENCE <= self.now) {
                slow.push((source, destination));
            }
        }
        for id in gone {
            self.later(Event::SourceGone(id));
        }
        for (source, destination) in slow {
            // Half of what was granted for three seconds: it is replaced, and the source's way is
            // booked no further than it was seen to carry.
            self.apart.insert((source, destination), self.now + APART);
            let carried = self.leaders[source.0 as usize].up;
            if let Some(resource) = self.network.resource_mut(Component::SiteUp(source)) {
                resource.measured_bytes_per_sec = Some(carried);
            }
            self.changed = true;
        }
        let now = self.now;
        self.apart.retain(|_, until| *until > now);
        self.book.forget_ended(Timestamp(now));
    }

    fn starving(&self) -> BTreeSet<(usize, SiteId)> {
        let heard = self.now.saturating_sub(self.latency());
        let starves = |leader: &Leader| {
            leader.complete_at.is_none()
                && leader.dies_at > self.now
                && leader.fetching.is_empty()
                && leader.last_arrival + STARVES < heard
                && leader.last_arrival > 0
        };
        (0u32..)
            .zip(&self.leaders)
            .filter(|(_, leader)| starves(leader))
            .map(|(number, _)| (0, SiteId(number)))
            .collect()
    }
}

/// Steps from the source to the farthest site, over all classes.
fn depth(plan: &[Edge], sites: usize) -> u32 {
    let sources: BTreeMap<_, SiteId> =
        plan.iter().map(|edge| ((edge.selector, edge.destination), edge.source)).collect();
    let steps = |edge: &Edge| {
        let mut at = edge.destination;
        let mut steps = 0;
        while let Some(source) = sources.get(&(edge.selector, at)).filter(|_| steps <= sites) {
            at = *source;
            steps += 1;
        }
        steps
    };
    u32::try_from(plan.iter().map(steps).max().unwrap_or(0)).unwrap_or(u32::MAX)
}
