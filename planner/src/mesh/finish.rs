//! Step 3: what is left over is used.

use super::Work;
use crate::grant::Selector;
use crate::network::SiteId;
use crate::plan::Edge;

/// A rate below this part of what it should be is not worth a grant, in one over it.
const LEAST_PART: u64 = 4;
/// A transfer is made faster only by at least this part of its rate, in one over it.
const GAIN_PART: u64 = 10;

impl Work<'_> {
    /// Who found no source in its region takes one anywhere, and if need be a slower one.
    pub(super) fn leftover(&mut self, object: usize, class: u32) {
        let sites = || (0u32..).map(SiteId).take(self.inputs.network.sites().len());
        let orphans: Vec<SiteId> = sites().filter(|site| self.is_orphan(object, class, *site)).collect();
        if orphans.is_empty() {
            return;
        }
        let least = orphans.iter().map(|orphan| self.objects[object].share(*orphan)).min().unwrap_or(0) / LEAST_PART;
        let relays = self.objects[object].relays;
        let may_serve = |work: &Self, site: SiteId| {
            let tree = work.objects[object].tree(class);
            tree.is_rooted(site) && (relays || tree.depth(site) == 0)
        };
        let mut open: Vec<SiteId> = sites()
            .filter(|site| may_serve(self, *site) && self.ledger.free(self.inputs.network.up(*site)) > least)
            .collect();
        for orphan in orphans {
            let full = self.objects[object].share(orphan);
            for rate in [full, full / 2, full / LEAST_PART] {
                let scored = |source: &SiteId| Some((self.score(object, class, *source, orphan, rate)?, *source));
                let Some((_, source)) = open.iter().filter_map(scored).min() else { continue };
                let mut rooted = Vec::new();
                if self.attach(object, class, (source, orphan), rate, |site| rooted.push(site)) {
                    open.extend(rooted.into_iter().filter(|site| relays && *site != source));
                    open.retain(|site| self.ledger.free(self.inputs.network.up(*site)) > least);
                    break;
                }
            }
        }
    }

    /// A starving site gets a second source for any chunk it lacks.
    pub(super) fn help(&mut self, object: usize) {
        let index = self.objects[object].index;
        let starving = self.inputs.starving.range((index, SiteId(0))..=(index, SiteId(u32::MAX)));
        for (_, destination) in starving.copied() {
            let demand = self.objects[object].demand;
            let has_help = self.objects[object].beside.iter().any(|edge| edge.destination == destination);
            if !demand.lacks(destination) || has_help || self.objects[object].classes().is_empty() {
                continue;
            }
            let share = self.objects[object].share(destination);
            for rate in [share, share / 2, share / LEAST_PART].into_iter().filter(|rate| *rate > 0) {
                let sources = (0u32..).map(SiteId).zip(self.inputs.network.sites());
                let best = sources
                    .filter(|(source, known)| known.online && self.could_give(object, *source, destination))
                    .filter_map(|(source, _)| Some((self.score(object, 0, source, destination, rate)?, source)))
                    .min();
                let Some((_, source)) = best else { continue };
                if self.ledger.book(&self.inputs.network.path(source, destination), rate).is_ok() {
                    let selector = Selector::Any;
                    let edge = Edge { demand: index, selector, destination, source, rate_bytes_per_sec: rate };
                    self.objects[object].beside.push(edge);
                    break;
                }
            }
        }
    }

    /// Whether the source holds a chunk that the destination lacks.
    fn could_give(&self, object: usize, source: SiteId, destination: SiteId) -> bool {
        let demand = self.objects[object].demand;
        let Some(held) = demand.held(source) else { return false };
        demand.held(destination).is_none_or(|has| {
            let lacked = held.words().iter().zip(has.words()).any(|(there, here)| there & !here != 0);
            lacked || held.words().len() > has.words().len()
        })
    }

    /// What nobody needs makes transfers faster: classes that lag behind catch up when others are done.
    pub(super) fn faster(&mut self, object: usize) {
        let classes = self.objects[object].classes();
        for site in (0u32..).map(SiteId).take(self.inputs.network.sites().len()) {
            let planned = &self.objects[object];
            let open = classes.clone().filter(|class| planned.demand.lacks_class(site, *class)).count() as u64;
            if open == 0 {
                continue;
            }
            let wanted = planned.rates[site.index()] / open;
            for class in classes.clone() {
                let tree = self.objects[object].tree(class);
                let (Some(source), rate) = (tree.source(site), tree.rate(site)) else { continue };
                if wanted <= rate + rate / GAIN_PART {
                    continue;
                }
                let path = self.inputs.network.path(source, site);
                let more = self.ledger.residual(&path).min(wanted - rate);
                if more > rate / GAIN_PART && self.ledger.book(&path, more).is_ok() {
                    self.objects[object].tree_mut(class).set_rate(site, rate + more);
                }
            }
        }
    }
}
