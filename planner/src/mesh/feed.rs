//! Step 1: each region that has no way to a class gets exactly one copy of it, before anything else.
//!
//! Without it, sites of a region would each fetch the same chunks from afar, and the border would be
//! the bottleneck. Which site of a region imports, and which region exports, changes from class to
//! class: those with most left to give come first, and they have given by then.

use std::cmp::Reverse;

use super::Work;
use crate::network::{RegionId, SiteId};

/// What a source must be able to do to be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Care {
    /// Serve, keep a share for its own region, and not be needed at home otherwise.
    Spare,
    /// Serve, and keep a share for its own region.
    Reserve,
    /// Serve.
    None,
}

impl Work<'_> {
    pub(super) fn feed(&mut self, object: usize, class: u32) {
        self.import(object, class);
        if self.regions.len() > 1 {
            self.keep_shares(object, class);
        }
    }

    /// Whoever has brought a class into a region and serves nobody there yet keeps a share for it.
    fn keep_shares(&mut self, object: usize, class: u32) {
        let network = self.inputs.network;
        for region in 0..self.regions.len() {
            let sites = &self.regions[region];
            if !sites.iter().any(|site| self.is_orphan(object, class, *site)) {
                continue;
            }
            let here = |site: SiteId| network.site(site).is_some_and(|known| known.region.0 as usize == region);
            let tree = self.objects[object].tree(class);
            let entries = sites.iter().copied().filter(|site| {
                tree.source(*site).is_some_and(|source| !here(source)) && !tree.children(*site).any(here)
            });
            let entries: Vec<SiteId> = entries.collect();
            for entry in entries {
                self.objects[object].keeps[entry.index()] |= 1 << class;
            }
        }
    }

    fn import(&mut self, object: usize, class: u32) {
        let mut hungry = self.unfed(object, class);
        if hungry.is_empty() {
            return;
        }
        let mut spare: Vec<u64> = (0..self.regions.len()).map(|region| self.spare(object, region)).collect();
        // Regions that can pass most on come first, near the root.
        hungry.sort_by_key(|(region, entry)| {
            let passes_on = spare[region.0 as usize] / self.objects[object].share(*entry).max(1);
            (Reverse(self.objects[object].share(*entry)), Reverse(passes_on), *region)
        });
        for (_, entry) in hungry {
            let rate = self.objects[object].share(entry);
            let source = [Care::Spare, Care::Reserve, Care::None]
                .into_iter()
                .find_map(|care| self.exporter(object, class, entry, rate, &spare, care));
            let Some(source) = source else { continue };
            if self.attach(object, class, (source, entry), rate, |_| ())
                && let Some(from) = self.inputs.network.site(source)
            {
                let left = &mut spare[from.region.0 as usize];
                *left = left.saturating_sub(rate);
            }
        }
    }

    /// Regions in which nobody is rooted and somebody needs a source, each with the site to import.
    fn unfed(&self, object: usize, class: u32) -> Vec<(RegionId, SiteId)> {
        let tree = self.objects[object].tree(class);
        let up = |site: SiteId| self.allowance(object, class, site);
        let mut unfed = Vec::new();
        for (region, sites) in (0u32..).map(RegionId).zip(&self.regions) {
            if sites.iter().any(|site| tree.is_rooted(*site)) {
                continue;
            }
            let entry = sites.iter().copied().filter(|site| self.is_orphan(object, class, *site)).max_by_key(|site| {
                (self.objects[object].share(*site), up(*site), Reverse(self.rank(*site)), Reverse(*site))
            });
            unfed.extend(entry.map(|entry| (region, entry)));
        }
        unfed
    }

    pub(super) fn rank(&self, site: SiteId) -> u16 {
        self.inputs.network.site(site).map_or(u16::MAX, |known| known.traits.rank)
    }

    /// What a region's sites can send beyond what they have to send each other.
    fn spare(&self, object: usize, region: usize) -> u64 {
        let sites = &self.regions[region];
        let network = self.inputs.network;
        let up: u64 = sites
            .iter()
            .filter(|site| network.site(**site).is_some_and(|known| known.online))
            .map(|site| self.ledger.free(network.up(*site)))
            .sum();
        // Of each object that comes before, and of this one, a class that is in the region reaches all who
        // lack it from within, one that is not reaches all but the one that imports it.
        let mut inside = 0;
        for before in &self.objects[..=object] {
            for class in before.classes() {
                let needy = sites.iter().filter(|site| {
                    before.demand.lacks_class(**site, class) && before.tree(class).source(**site).is_none()
                });
                let (mut all, mut most) = (0, 0);
                for site in needy {
                    all += before.share(*site);
                    most = most.max(before.share(*site));
                }
                let is_here = sites.iter().any(|site| before.tree(class).is_rooted(*site));
                inside += if is_here { all } else { all - most };
            }
        }
        up.saturating_sub(inside)
    }

    fn exporter(
        &self,
        object: usize,
        class: u32,
        entry: SiteId,
        rate: u64,
        spare: &[u64],
        care: Care,
    ) -> Option<SiteId> {
        let tree = self.objects[object].tree(class);
        let home = self.inputs.network.site(entry)?.region;
        let mut best: Option<(u64, SiteId)> = None;
        for (source, known) in (0u32..).map(SiteId).zip(self.inputs.network.sites()) {
            if !known.online || !tree.is_rooted(source) || known.region == home {
                continue;
            }
            if !self.objects[object].relays && tree.depth(source) > 0 {
                continue;
            }
            let own = if care == Care::None { 0 } else { self.needed_at_home(object, class, source, rate) };
            if self.allowance(object, class, source) < rate + own
                || (care == Care::Spare && spare[known.region.0 as usize] < rate)
            {
                continue;
            }
            if let Some(score) = self.score(object, class, source, entry, rate)
                && best.is_none_or(|(least, _)| score < least)
            {
                best = Some((score, source));
            }
        }
        best.map(|(_, source)| source)
    }

    /// What a source keeps for its own region: one share while others there wait for this class.
    fn needed_at_home(&self, object: usize, class: u32, source: SiteId, rate: u64) -> u64 {
        let Some(known) = self.inputs.network.site(source) else { return 0 };
        let waits = |site: &SiteId| *site != source && self.is_orphan(object, class, *site);
        let serves = self.objects[object]
            .tree(class)
            .children(source)
            .any(|child| self.inputs.network.site(child).is_some_and(|below| below.region == known.region));
        let somebody_waits = self.regions[known.region.0 as usize].iter().any(waits);
        if somebody_waits && !serves { rate } else { 0 }
    }
}
