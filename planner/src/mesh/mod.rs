//! The plan itself: one tree for each class of chunks of each object, over one ledger.
//!
//! The chunks of an object are divided into classes, and each class spreads along a tree of its own.
//! A site that serves many in one tree serves nobody in the others, so that together the trees use
//! every way up in full, and no tree is deep. What stands is kept where it still fits. Then, in this
//! order:
//!
//! 1. **feed** ([`feed`]): each region that has no way to a class gets one copy of it;
//! 2. **local** ([`local`]): within each region, fast sites before slow ones, those with most to give
//!    near the root, each paced at its own rate;
//! 3. **finish** ([`finish`]): who found nothing near takes what is left anywhere, who starves gets a
//!    second source, and what is still free makes transfers faster.
//!
//! Step 2 looks at one region only, which is what lets a region be planned alone.

mod feed;
mod finish;
mod local;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use crate::cost::Candidate;
use crate::demand::Demand;
use crate::forest::Tree;
use crate::grant::{GRANT_LIFETIME, Selector};
use crate::ledger::Ledger;
use crate::network::{RegionId, SiteId};
use crate::plan::{Edge, Inputs, Plan};
use crate::policy::WanPolicy;
use crate::rates::{Shares, targets};

/// How many candidates are looked at for one copy operation.
pub(crate) const CANDIDATES_MAX: usize = 40;
/// How many objects of one priority are planned at once (000's maximum of active files).
const ACTIVE_MAX: usize = 16;
/// A standing rate is kept up to this part above what it should be, in thousandths.
const KEEP_ABOVE_PERMILLE: u64 = 1020;
/// A standing rate is kept down to this part of what it should be, in thousandths.
const KEEP_BELOW_PERMILLE: u64 = 900;

/// A slow step counts for so many at most.
const STEPS_MAX: u16 = 100;

/// One demand while it is planned.
struct Object<'a> {
    /// Its place in the inputs.
    index: usize,
    demand: &'a Demand,
    /// Whether sites serve what they received.
    relays: bool,
    /// How fast each site shall receive it, all classes together.
    rates: Vec<u64>,
    /// The greatest rate of a class.
    fastest: u64,
    trees: Vec<Tree>,
    /// For each site the classes, one bit each, that it alone has brought into its region: it keeps a
    /// share for each of them until somebody there receives from it.
    keeps: Vec<u32>,
    /// Edges that no tree is about: whole objects (002's tree) and second sources of who starves.
    beside: Vec<Edge>,
}

impl Object<'_> {
    /// None for an object that is not planned in classes.
    fn classes(&self) -> std::ops::Range<u32> {
        0..u32::try_from(self.trees.len()).unwrap_or(u32::MAX)
    }

    fn tree(&self, class: u32) -> &Tree {
        &self.trees[class as usize]
    }

    fn tree_mut(&mut self, class: u32) -> &mut Tree {
        &mut self.trees[class as usize]
    }

    /// The rate for one class.
    fn share(&self, site: SiteId) -> u64 {
        self.rates[site.index()] / u64::from(self.demand.classes())
    }

    /// For how many steps at the stream's rate one at this rate counts.
    fn steps(&self, rate: u64) -> u16 {
        u16::try_from(self.fastest / rate.max(1)).unwrap_or(u16::MAX).clamp(1, STEPS_MAX)
    }

    /// Rates for one class, in steps: what the fastest receive, then each down to half of the one before.
    fn tiers(&self) -> Vec<RangeInclusive<u64>> {
        let shares =
            || self.rates.iter().map(|rate| rate / u64::from(self.demand.classes())).filter(|share| *share > 0);
        let (Some(most), Some(least)) = (shares().max(), shares().min()) else { return Vec::new() };
        let mut tiers = vec![most..=most];
        let mut above = most - 1;
        while above >= least && above > 0 {
            tiers.push(above.div_ceil(2)..=above);
            above = above.div_ceil(2) - 1;
        }
        tiers
    }

    fn is_planned(&self) -> bool {
        !self.trees.is_empty()
    }
}

/// A plan in the making.
struct Work<'a> {
    inputs: &'a Inputs<'a>,
    ledger: Ledger,
    regions: Vec<Vec<SiteId>>,
    /// In the order in which they may take what there is.
    objects: Vec<Object<'a>>,
    extent: Extent<'a>,
}

fn open_ledger(inputs: &Inputs<'_>) -> Ledger {
    Ledger::open(inputs.network, inputs.week_second, GRANT_LIFETIME)
}

/// The capacities that a plan would be made with.
pub(crate) fn capacities(inputs: &Inputs<'_>) -> Vec<u64> {
    let ledger = open_ledger(inputs);
    let resources = 0..u32::try_from(inputs.network.resources().len()).unwrap_or(u32::MAX);
    resources.map(|id| ledger.capacity(crate::network::ResourceId(id))).collect()
}

/// How much is planned.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Extent<'a> {
    /// Everything.
    All,
    /// Everything, but of what stands only that of these regions is looked at.
    Changed(&'a BTreeSet<RegionId>),
    /// The feed of all regions, and the inside of this one.
    Inside(RegionId),
}

/// Makes a plan.
pub(crate) fn run(inputs: &Inputs<'_>, standing: &[Edge], extent: Extent<'_>) -> Plan {
    let mut work = Work::new(inputs, extent);
    work.run(standing);
    if matches!(extent, Extent::Inside(_)) {
        return work.into_plan();
    }
    // A more important object that found no room takes it from less important ones.
    for priority in work.crowded_out(standing) {
        let kept: Vec<Edge> =
            standing.iter().filter(|edge| inputs.demands[edge.demand].priority < priority).copied().collect();
        work = Work::new(inputs, Extent::All);
        work.run(&kept);
    }
    work.into_plan()
}

impl<'a> Work<'a> {
    fn new(inputs: &'a Inputs<'a>, extent: Extent<'a>) -> Self {
        let mut regions = vec![Vec::new(); inputs.network.region_count()];
        for (site, known) in (0u32..).map(SiteId).zip(inputs.network.sites()) {
            regions[known.region.0 as usize].push(site);
        }
        let ledger = open_ledger(inputs);
        let objects = in_order(inputs, &ledger);
        Self { inputs, ledger, regions, objects, extent }
    }

    fn run(&mut self, standing: &[Edge]) {
        let mut by_demand: BTreeMap<usize, Vec<&Edge>> = BTreeMap::new();
        for edge in standing {
            by_demand.entry(edge.demand).or_default().push(edge);
        }
        for object in 0..self.objects.len() {
            let edges = by_demand.remove(&self.objects[object].index).unwrap_or_default();
            self.keep(object, &edges);
        }
        for object in 0..self.objects.len() {
            for class in self.objects[object].classes() {
                self.feed(object, class);
            }
        }
        for region in (0..self.regions.len()).map(|region| RegionId(u32::try_from(region).unwrap_or(u32::MAX))) {
            let is_planned = match self.extent {
                // Where everybody has a source there is nothing to do, changed or not.
                Extent::All | Extent::Changed(_) => true,
                Extent::Inside(only) => only == region,
            };
            if is_planned {
                for object in 0..self.objects.len() {
                    // All classes of the fast ones before the first of the slow ones.
                    for tier in self.objects[object].tiers() {
                        for class in self.objects[object].classes() {
                            self.local(object, class, region, &tier);
                        }
                    }
                }
            }
        }
        if matches!(self.extent, Extent::Inside(_)) {
            return;
        }
        for object in 0..self.objects.len() {
            for class in self.objects[object].classes() {
                self.leftover(object, class);
            }
            self.help(object);
        }
        for object in 0..self.objects.len() {
            self.faster(object);
        }
    }

    /// Whether a standing copy operation need not be looked at again.
    fn is_unchanged(&self, edge: &Edge) -> bool {
        let Extent::Changed(changed) = self.extent else { return false };
        let region = |site: SiteId| self.inputs.network.site(site).map(|known| known.region);
        [edge.source, edge.destination]
            .iter()
            .all(|site| region(*site).is_some_and(|region| !changed.contains(&region)))
    }

    /// Books what stands and still makes sense, and roots what hangs on holders.
    fn keep(&mut self, index: usize, standing: &[&Edge]) {
        let network = self.inputs.network;
        let unchanged: Vec<bool> = standing.iter().map(|edge| self.is_unchanged(edge)).collect();
        let object = &mut self.objects[index];
        let planned = object.is_planned();
        let online = |site: SiteId| network.site(site).is_some_and(|known| known.online);
        for (edge, unchanged) in standing.iter().zip(unchanged) {
            let (source, destination) = (edge.source, edge.destination);
            if unchanged {
                // As it was; what follows only looks at its rate.
            } else if !online(source) || !online(destination) || self.inputs.apart.contains(&(source, destination)) {
                continue;
            }
            let path = network.path(source, destination);
            match edge.selector {
                Selector::Residue { class, classes } if planned => {
                    let kept = unchanged
                        || classes == object.demand.classes()
                            && object.demand.lacks_class(destination, class)
                            && object.tree(class).source(destination).is_none();
                    let wanted = object.share(destination);
                    let is_near = edge.rate_bytes_per_sec * 1000 <= wanted * KEEP_ABOVE_PERMILLE
                        && edge.rate_bytes_per_sec * 1000 >= wanted * KEEP_BELOW_PERMILLE;
                    let rate = if is_near { edge.rate_bytes_per_sec } else { edge.rate_bytes_per_sec.min(wanted) };
                    let rate = rate.min(self.ledger.residual(&path));
                    // Half of what it should be is not worth holding on to.
                    if kept && rate * 2 > edge.rate_bytes_per_sec.min(wanted) && self.ledger.book(&path, rate).is_ok() {
                        let steps = object.steps(rate);
                        object.tree_mut(class).attach(destination, source, rate, steps);
                    }
                }
                Selector::Any | Selector::Run { .. } | Selector::WholeFrom { .. } => {
                    if object.demand.lacks(destination) && self.ledger.book(&path, edge.rate_bytes_per_sec).is_ok() {
                        object.beside.push(**edge);
                    }
                }
                // The object is not planned in classes any more.
                Selector::Residue { .. } => (),
            }
        }
        if planned {
            self.root_holders(index);
        }
    }

    fn root_holders(&mut self, index: usize) {
        let network = self.inputs.network;
        let object = &mut self.objects[index];
        for class in object.classes() {
            for (site, known) in (0u32..).map(SiteId).zip(network.sites()) {
                let lacks = object.demand.lacks_class(site, class);
                let holds = known.online && object.demand.holds_class(site, class) && !lacks;
                if holds {
                    object.tree_mut(class).root(site);
                } else if !lacks || !known.online {
                    // It neither has the class nor will get it: who hangs on it must look elsewhere.
                    let orphans: Vec<SiteId> = object.tree(class).children(site).collect();
                    for orphan in orphans {
                        let path = network.path(site, orphan);
                        self.ledger.release(&path, object.tree(class).rate(orphan));
                        object.tree_mut(class).detach(orphan);
                    }
                }
            }
        }
    }

    /// Whether a site needs a source for a class.
    fn is_orphan(&self, object: usize, class: u32, site: SiteId) -> bool {
        let object = &self.objects[object];
        object.demand.lacks_class(site, class)
            && object.tree(class).source(site).is_none()
            && self.inputs.network.site(site).is_some_and(|known| known.online)
    }

    /// What a copy operation would cost; `None` when it is out of the question or does not fit.
    fn score(&self, object: usize, class: u32, source: SiteId, destination: SiteId, rate: u64) -> Option<u64> {
        if source == destination || self.inputs.apart.contains(&(source, destination)) {
            return None;
        }
        // Who receives a class slower than that cannot pass it on as fast.
        let tree = self.objects[object].tree(class);
        if tree.is_rooted(source) && tree.depth(source) > 0 && tree.rate(source) * 1000 < rate * KEEP_BELOW_PERMILLE {
            return None;
        }
        let network = self.inputs.network;
        let path = network.path(source, destination);
        let (mut use_permille, mut fault_permille) = (0, 0);
        for resource in path.resources() {
            let (capacity, free) = (self.ledger.capacity(*resource), self.ledger.free(*resource));
            if free < rate {
                return None;
            }
            use_permille = ((capacity - free + rate) * 1000 / capacity.max(1)).max(use_permille);
            let share = self.inputs.fault_permille.get(resource.index()).copied().unwrap_or(0);
            fault_permille = share.max(fault_permille);
        }
        let object = &self.objects[object];
        let (from, to) = (network.site(source)?, network.site(destination)?);
        Some(self.inputs.weights.score(&Candidate {
            depth: u32::from(tree.depth(source)),
            use_permille,
            behind: object.demand.held_of_class(source, class) < object.demand.held_of_class(destination, class),
            rtt_micros: from.traits.rtt_micros.abs_diff(to.traits.rtt_micros),
            fault_permille,
            rank: from.traits.rank,
            abroad: from.region != to.region,
        }))
    }

    /// Books and attaches; `visit` hears of each site that is rooted by it. False when it does not fit.
    fn attach(
        &mut self,
        object: usize,
        class: u32,
        (source, destination): (SiteId, SiteId),
        rate: u64,
        visit: impl FnMut(SiteId),
    ) -> bool {
        let network = self.inputs.network;
        let path = network.path(source, destination);
        if rate == 0 || self.ledger.book(&path, rate).is_err() {
            return false;
        }
        let (from, to) = (network.site(source), network.site(destination));
        let is_near = from.zip(to).is_some_and(|(from, to)| from.region == to.region);
        if is_near {
            self.objects[object].keeps[source.index()] &= !(1 << class);
        }
        let steps = self.objects[object].steps(rate);
        let tree = self.objects[object].tree_mut(class);
        tree.attach(destination, source, rate, steps);
        tree.follow(destination, visit);
        true
    }

    /// Gives back and detaches.
    fn detach(&mut self, object: usize, class: u32, site: SiteId) {
        let tree = self.objects[object].tree_mut(class);
        if let Some(source) = tree.source(site) {
            let rate = tree.rate(site);
            tree.detach(site);
            self.ledger.release(&self.inputs.network.path(source, site), rate);
        }
    }

    /// What a holder may give to this class, when later classes wait for their share of it.
    fn allowance(&self, object: usize, class: u32, source: SiteId) -> u64 {
        let free = self.ledger.free(self.inputs.network.up(source));
        let kept = (self.objects[object].keeps[source.index()] & !(1 << class)).count_ones();
        let free = free.saturating_sub(u64::from(kept) * self.objects[object].share(source));
        if self.objects[object].tree(class).depth(source) > 0 {
            return free;
        }
        let unserved = |other: &Object<'_>, from: u32| {
            (from..other.classes().end).filter(|later| other.tree(*later).is_unserved_root(source)).count() as u64
        };
        let planned = &self.objects[object];
        let equals = self.objects[object + 1..].iter().filter(|other| other.demand.priority == planned.demand.priority);
        let later = unserved(planned, class + 1) + equals.map(|other| unserved(other, 0)).sum::<u64>();
        let one = if planned.tree(class).is_unserved_root(source) { planned.fastest.min(free) } else { 0 };
        (free / (later + 1)).max(one)
    }

    /// Priorities whose objects found no room while less important ones have some.
    fn crowded_out(&self, standing: &[Edge]) -> Vec<u8> {
        let sites = || (0..self.inputs.network.sites().len()).map(|site| SiteId(u32::try_from(site).unwrap_or(0)));
        let lowest = standing.iter().map(|edge| self.inputs.demands[edge.demand].priority).max();
        let mut priorities = BTreeSet::new();
        for (index, object) in self.objects.iter().enumerate() {
            let priority = object.demand.priority;
            // Those of the same priority share, and so need not give way to each other.
            if lowest.is_some_and(|lowest| lowest > priority)
                && object.is_planned()
                && object.classes().any(|class| sites().any(|site| self.is_orphan(index, class, site)))
            {
                priorities.insert(priority.saturating_add(1));
            }
        }
        priorities.into_iter().take(1).collect()
    }

    fn into_plan(self) -> Plan {
        let mut plan = Plan::new();
        for object in self.objects {
            for class in 0..u32::try_from(object.trees.len()).unwrap_or(0) {
                let tree = object.tree(class);
                let selector = Selector::Residue { class, classes: object.demand.classes() };
                let sites = (0u32..).map(SiteId).take(self.inputs.network.sites().len());
                plan.extend(sites.filter_map(|destination| {
                    let (demand, rate_bytes_per_sec) = (object.index, tree.rate(destination));
                    let source = tree.source(destination)?;
                    Some(Edge { demand, selector, destination, source, rate_bytes_per_sec })
                }));
            }
            plan.extend(object.beside);
        }
        plan.sort_unstable();
        plan
    }
}

/// The demands in the order in which they are served, with the rates that each may count on.
fn in_order<'a>(inputs: &'a Inputs<'a>, ledger: &Ledger) -> Vec<Object<'a>> {
    let sites = inputs.network.sites().len();
    let mut order: Vec<usize> = (0..inputs.demands.len()).collect();
    // Within a priority, least remaining work first.
    order.sort_by_cached_key(|index| {
        let demand = &inputs.demands[*index];
        (demand.priority, demand.remaining(), demand.object)
    });
    let mut shares = Shares::all(inputs.network, ledger);
    let mut objects: Vec<Object<'a>> = Vec::with_capacity(order.len());
    for same in order.chunk_by(|a, b| inputs.demands[*a].priority == inputs.demands[*b].priority) {
        let is_planned = |index: usize| match inputs.demands[index].policy {
            WanPolicy::Star | WanPolicy::Mesh | WanPolicy::Auto => inputs.demands[index].remaining() > 0,
            WanPolicy::Tree => false,
        };
        let active = same.iter().filter(|index| is_planned(**index)).take(ACTIVE_MAX).count() as u64;
        let part = shares.part(active);
        let mut left = active;
        for index in same {
            let demand = &inputs.demands[*index];
            let mut object = Object {
                index: *index,
                demand,
                relays: true,
                rates: vec![0; sites],
                fastest: 0,
                trees: Vec::new(),
                keeps: vec![0; sites],
                beside: Vec::new(),
            };
            if is_planned(*index) && left > 0 {
                left -= 1;
                object.relays = demand.policy != WanPolicy::Star;
                object.rates = targets(inputs.network, ledger, demand, &part, object.relays);
                object.fastest = object.rates.iter().max().map_or(0, |most| most / u64::from(demand.classes()));
                object.trees = (0..demand.classes()).map(|_| Tree::of_sites(sites)).collect();
                shares.without(&object.rates);
            }
            objects.push(object);
        }
    }
    objects
}
