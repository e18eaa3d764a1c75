//! What is planned from, and what a plan is.
//!
//! [`plan`] plans everything; [`plan_changes`] looks only at those standing copy operations that touch a
//! region in which something changed; [`plan_region`] gives what one region's sites do among themselves,
//! and its imports (001 claims 5 to 7).
//! All three give the same copy operations for what they cover. [`Precomputed`] is a plan that was made before
//! it is needed, and is dropped when anything it was made from has changed (001 claim 8).

use std::collections::BTreeSet;

use common::time::Timestamp;

use crate::calendar::WeekSecond;
use crate::cost::Weights;
use crate::demand::Demand;
use crate::grant::Selector;
use crate::mesh::{self, Extent};
use crate::network::{Network, RegionId, SiteId};

/// Everything that a plan depends on, apart from the plan before.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// Sites and resources; what has failed is marked in it.
    pub network: &'a Network,
    /// Objects on their way.
    pub demands: &'a [Demand],
    /// For each resource, the share of failures among recent transfers, in thousandths; empty for none.
    pub fault_permille: &'a [u32],
    /// Sources and destinations that shall not be put together now: such a transfer was replaced lately.
    pub apart: &'a BTreeSet<(SiteId, SiteId)>,
    /// Sites that lack chunks of a demand (by its place in `demands`) and have nothing to fetch them from.
    pub starving: &'a BTreeSet<(usize, SiteId)>,
    /// What costs what.
    pub weights: &'a Weights,
    /// When.
    pub now: Timestamp,
    /// When, by the clock that calendars follow.
    pub week_second: WeekSecond,
}

/// One copy operation of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Edge {
    /// Which demand, by its place in [`Inputs::demands`].
    pub demand: usize,
    /// Which chunks.
    pub selector: Selector,
    /// Who asks.
    pub destination: SiteId,
    /// Who serves.
    pub source: SiteId,
    /// How fast.
    pub rate_bytes_per_sec: u64,
}

/// Who shall copy what from whom: edges in their own order, no two for the same destination and chunks
/// unless a starving site gets a second source.
pub type Plan = Vec<Edge>;

/// Plans everything, keeping what it can of what stands (001 claim 5).
#[must_use]
pub fn plan(inputs: &Inputs<'_>, standing: &[Edge]) -> Plan {
    mesh::run(inputs, standing, Extent::All)
}

/// The same plan, made with less work (001 claim 6): `standing` must be what was planned before, and nothing
/// but what concerns sites of these regions may have changed since: who is connected, who lacks what,
/// who is to be kept apart.
#[must_use]
pub fn plan_changes(inputs: &Inputs<'_>, standing: &[Edge], changed: &BTreeSet<RegionId>) -> Plan {
    mesh::run(inputs, standing, Extent::Changed(changed))
}

/// The copy operations whose destination is in this region (001 claim 7), as they are before anything
/// is left over: without sources in other regions beyond the one that feeds it, and without what
/// makes transfers faster when others need nothing.
#[must_use]
pub fn plan_region(inputs: &Inputs<'_>, standing: &[Edge], region: RegionId) -> Plan {
    let mut plan = mesh::run(inputs, standing, Extent::Inside(region));
    let inside = |site: SiteId| inputs.network.site(site).is_some_and(|known| known.region == region);
    plan.retain(|edge| inside(edge.destination));
    plan
}

/// A plan made ahead (001 claim 8), with copies of everything it was made from.
#[derive(Debug, Clone)]
pub struct Precomputed {
    network: Network,
    demands: Vec<Demand>,
    fault_permille: Vec<u32>,
    apart: BTreeSet<(SiteId, SiteId)>,
    starving: BTreeSet<(usize, SiteId)>,
    weights: Weights,
    capacities: Vec<u64>,
    standing: Vec<Edge>,
    plan: Plan,
}

impl Precomputed {
    /// Plans ahead.
    #[must_use]
    pub fn new(inputs: &Inputs<'_>, standing: &[Edge]) -> Self {
        Self {
            network: inputs.network.clone(),
            demands: inputs.demands.to_vec(),
            fault_permille: inputs.fault_permille.to_vec(),
            apart: inputs.apart.clone(),
            starving: inputs.starving.clone(),
            weights: *inputs.weights,
            capacities: mesh::capacities(inputs),
            standing: standing.to_vec(),
            plan: plan(inputs, standing),
        }
    }

    /// The plan, if nothing has changed since: it is then the one that [`plan`] would make. Time may
    /// pass as long as no window of a calendar opens or closes.
    #[must_use]
    pub fn take(self, inputs: &Inputs<'_>, standing: &[Edge]) -> Option<Plan> {
        let same = self.network == *inputs.network
            && self.demands == inputs.demands
            && self.fault_permille == inputs.fault_permille
            && self.apart == *inputs.apart
            && self.starving == *inputs.starving
            && self.weights == *inputs.weights
            && self.standing == standing
            && self.capacities == mesh::capacities(inputs);
        same.then_some(self.plan)
    }
}
