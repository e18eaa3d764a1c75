//! Looks over the planner's shoulder: whether what stands is allowed.
//!
//! It shares no code with what plans beyond the description of the network: it adds up itself, second
//! by second, and follows sources by itself.

use std::collections::{BTreeMap, BTreeSet};

use common::digest::Digest;
use common::time::Timestamp;

use crate::calendar::WeekSecond;
use crate::demand::Demand;
use crate::grant::{Book, Selector};
use crate::network::{Component, Network, SiteId};
use crate::plan::Edge;

/// What must not be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// More is booked on a resource than it may carry in some second before the grants end.
    #[error("{component} carries {capacity_bytes_per_sec} B/s {seconds} s from now, {booked_bytes_per_sec} are booked")]
    OverCapacity {
        /// Which resource.
        component: Component,
        /// How long from now.
        seconds: u32,
        /// What it may carry then.
        capacity_bytes_per_sec: u64,
        /// What is booked.
        booked_bytes_per_sec: u64,
    },
    /// Chunks go in a circle, and so nobody in it ever has them.
    #[error("site {} is its own source for class {class} of demand {demand}", .site.0)]
    Circle {
        /// Which demand.
        demand: usize,
        /// Which class.
        class: u32,
        /// A site of the circle.
        site: SiteId,
    },
    /// A site would receive the same chunks twice.
    #[error("site {} has two sources for the same chunks of demand {demand}", .site.0)]
    Twice {
        /// Which demand.
        demand: usize,
        /// Which site.
        site: SiteId,
    },
    /// A site that is not connected, or needs nothing, is in the plan.
    #[error("site {} is in the plan for demand {demand} and has no part in it", .site.0)]
    NoPart {
        /// Which demand.
        demand: usize,
        /// Which site.
        site: SiteId,
    },
}

/// Whether any resource is booked over what its administrator allows in any second until the last
/// grant ends. What was measured is not looked at: it may fall below what flows already.
#[must_use]
pub fn over_capacity(network: &Network, book: &Book, now: Timestamp, second: WeekSecond) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut flows: BTreeMap<Component, Vec<(Timestamp, u64)>> = BTreeMap::new();
    for standing in book.standing() {
        let grant = &standing.grant;
        for resource in network.path(grant.source, grant.destination).resources() {
            let component = network.resources()[resource.index()].component;
            flows.entry(component).or_default().push((grant.ends_at, standing.booked_bytes_per_sec));
        }
    }
    for resource in network.resources() {
        let Some(flows) = flows.get(&resource.component) else { continue };
        let last = flows.iter().map(|(ends_at, _)| *ends_at).max().unwrap_or(now);
        let seconds = u32::try_from(last.since(now).as_secs()).unwrap_or(u32::MAX);
        for later in 0..=seconds {
            let then = now + std::time::Duration::from_secs(later.into());
            let booked: u64 = flows.iter().filter(|(ends_at, _)| *ends_at > then).map(|(_, rate)| rate).sum();
            let allowed = resource.calendar.at(WeekSecond(second.0.wrapping_add(later)));
            if booked > allowed {
                violations.push(Violation::OverCapacity {
                    component: resource.component,
                    seconds: later,
                    capacity_bytes_per_sec: allowed,
                    booked_bytes_per_sec: booked,
                });
                break;
            }
        }
    }
    violations
}

/// Whether a plan fits into what is allowed and was measured now, and uses nothing that has failed.
#[must_use]
pub fn plan_capacity(network: &Network, plan: &[Edge], second: WeekSecond) -> Vec<Violation> {
    let mut used: BTreeMap<u32, u64> = BTreeMap::new();
    for edge in plan {
        for resource in network.path(edge.source, edge.destination).resources() {
            *used.entry(resource.0).or_default() += edge.rate_bytes_per_sec;
        }
    }
    let over = used.into_iter().filter_map(|(id, booked_bytes_per_sec)| {
        let resource = &network.resources()[id as usize];
        let measured = resource.measured_bytes_per_sec.unwrap_or(u64::MAX);
        let usable = if resource.failed { 0 } else { resource.calendar.at(second).min(measured) };
        let component = resource.component;
        (booked_bytes_per_sec > usable).then_some(Violation::OverCapacity {
            component,
            seconds: 0,
            capacity_bytes_per_sec: usable,
            booked_bytes_per_sec,
        })
    });
    over.collect()
}

/// Whether a plan makes sense: no circle, nothing twice, nobody who has no part in it.
#[must_use]
pub fn structure(network: &Network, demands: &[Demand], plan: &[Edge]) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut sources: BTreeMap<(usize, u32, SiteId), SiteId> = BTreeMap::new();
    for edge in plan {
        let demand = &demands[edge.demand];
        let connected = |site: SiteId| network.site(site).is_some_and(|known| known.online);
        for site in [edge.source, edge.destination] {
            let serves =
                site == edge.source && (demand.held(site).is_some_and(|held| !held.is_empty()) || demand.lacks(site));
            let receives = site == edge.destination && demand.lacks(site);
            if !connected(site) || !(serves || receives) {
                violations.push(Violation::NoPart { demand: edge.demand, site });
            }
        }
        if let Selector::Residue { class, .. } = edge.selector
            && sources.insert((edge.demand, class, edge.destination), edge.source).is_some()
        {
            violations.push(Violation::Twice { demand: edge.demand, site: edge.destination });
        }
    }
    for (demand, class, site) in sources.keys().copied() {
        let mut at = site;
        let mut passed = BTreeSet::new();
        while let Some(source) = sources.get(&(demand, class, at)) {
            if !passed.insert(*source) || *source == site {
                violations.push(Violation::Circle { demand, class, site });
                break;
            }
            at = *source;
        }
    }
    violations
}

/// What crosses into each region by a plan, in shares of a whole copy of each object in thousandths:
/// 1,000 is one copy.
#[must_use]
pub fn copies_into_regions(network: &Network, demands: &[Demand], plan: &[Edge]) -> BTreeMap<(Digest, u32), u32> {
    let mut copies = BTreeMap::new();
    for edge in plan {
        let (Some(from), Some(to)) = (network.site(edge.source), network.site(edge.destination)) else { continue };
        if let (true, Selector::Residue { classes, .. }) = (from.region != to.region, edge.selector) {
            *copies.entry((demands[edge.demand].object, to.region.0)).or_default() += 1000 / classes;
        }
    }
    copies
}
