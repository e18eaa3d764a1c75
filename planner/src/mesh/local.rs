//! Step 2: within a region, whoever has no source gets one from a site of the region.
//!
//! Fast sites come before slow ones, and among equals those with most left to give: they stand near
//! the root and serve many, the others are leaves. The next class finds the way up of the former used
//! and those of the latter free, and so the trees become disjoint in who serves.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::ops::RangeInclusive;

use super::{CANDIDATES_MAX, KEEP_BELOW_PERMILLE, Work};
use crate::network::{RegionId, SiteId};

/// Rooted sites that may have something left to give, nearest to the root first.
struct Open {
    sites: Vec<SiteId>,
    /// Before it, all are used up.
    head: usize,
    /// The rate for which they were collected.
    rate: u64,
}

impl Work<'_> {
    pub(super) fn local(&mut self, object: usize, class: u32, region: RegionId, tier: &RangeInclusive<u64>) {
        let sites = &self.regions[region.0 as usize];
        let mut orphans: Vec<(Reverse<u64>, Reverse<u64>, u16, SiteId)> = sites
            .iter()
            .copied()
            .filter(|site| tier.contains(&self.objects[object].share(*site)) && self.is_orphan(object, class, *site))
            .map(|site| {
                let share = self.objects[object].share(site);
                let serves = self.allowance(object, class, site) / share.max(1);
                (Reverse(share), Reverse(serves), self.rank(site), site)
            })
            .collect();
        if orphans.is_empty() {
            return;
        }
        orphans.sort_unstable();
        let mut queue: VecDeque<SiteId> = orphans.into_iter().map(|(_, _, _, site)| site).collect();
        let mut open = Open { sites: Vec::new(), head: 0, rate: u64::MAX };
        let mut without = Vec::new();
        while let Some(orphan) = queue.pop_front() {
            let rate = self.objects[object].share(orphan);
            if rate == 0 {
                continue;
            }
            // Sites with little left are not worth a look for a large share, and are for a small one.
            if rate < open.rate / 2 || open.rate == u64::MAX {
                open = self.open(object, class, region, rate);
            }
            if let Some(source) = self.cheapest(object, class, &mut open, orphan, rate) {
                let mut rooted = Vec::new();
                self.attach(object, class, (source, orphan), rate, |site| rooted.push(site));
                self.append(object, class, region, &mut open, rooted);
            } else {
                without.push(orphan);
            }
        }
        for orphan in without {
            self.change_places(object, class, region, orphan);
            let tree = self.objects[object].tree(class);
            if !tree.is_rooted(orphan) && tree.has_children(orphan) {
                self.displace(object, class, region, orphan);
            }
        }
    }

    fn can_serve(&self, object: usize, class: u32, site: SiteId, rate: u64) -> bool {
        let tree = self.objects[object].tree(class);
        tree.is_rooted(site)
            && (tree.depth(site) == 0
                || (self.objects[object].relays && tree.rate(site) * 1000 >= rate * KEEP_BELOW_PERMILLE))
            && self.inputs.network.site(site).is_some_and(|known| known.online)
            && self.allowance(object, class, site) >= rate
    }

    fn open(&self, object: usize, class: u32, region: RegionId, rate: u64) -> Open {
        let tree = self.objects[object].tree(class);
        let sites = self.regions[region.0 as usize].iter().copied();
        let mut sites: Vec<SiteId> = sites.filter(|site| self.can_serve(object, class, *site, rate)).collect();
        sites.sort_by_key(|site| (tree.depth(*site), *site));
        Open { sites, head: 0, rate }
    }

    fn append(&self, object: usize, class: u32, region: RegionId, open: &mut Open, rooted: Vec<SiteId>) {
        let tree = self.objects[object].tree(class);
        for site in rooted {
            let is_here = self.inputs.network.site(site).is_some_and(|known| known.region == region);
            if is_here && self.can_serve(object, class, site, open.rate) {
                let depth = tree.depth(site);
                let place = open.sites[open.head..].partition_point(|other| tree.depth(*other) <= depth);
                open.sites.insert(open.head + place, site);
            }
        }
    }

    /// The cheapest of the nearest candidates; what is used up leaves the list.
    fn cheapest(&self, object: usize, class: u32, open: &mut Open, orphan: SiteId, rate: u64) -> Option<SiteId> {
        let mut best: Option<(u64, SiteId)> = None;
        let (mut place, mut seen) = (open.head, 0);
        while place < open.sites.len() && seen < CANDIDATES_MAX {
            let source = open.sites[place];
            let depth = self.objects[object].tree(class).depth(source);
            if best.is_some_and(|(least, _)| self.inputs.weights.at_depth(u32::from(depth)) >= least) {
                break;
            }
            if self.allowance(object, class, source) < rate {
                // Those before it move up by one, so that the rest of the list stays where it is.
                open.sites.copy_within(open.head..place, open.head + 1);
                open.head += 1;
                place += 1;
                continue;
            }
            seen += 1;
            if let Some(score) = self.score(object, class, source, orphan, rate)
                && best.is_none_or(|(least, _)| score < least)
            {
                best = Some((score, source));
            }
            place += 1;
        }
        best.map(|(_, source)| source)
    }

    /// Nobody rooted has anything left, but the orphan, or somebody below it, has: it takes the place
    /// of a leaf, and the leaf goes below it.
    fn change_places(&mut self, object: usize, class: u32, region: RegionId, orphan: SiteId) {
        let rate = self.objects[object].share(orphan);
        let network = self.inputs.network;
        let tree = self.objects[object].tree(class);
        let mut below = vec![orphan];
        let mut place = 0;
        let giver = loop {
            let Some(site) = below.get(place).copied() else { return };
            let here = network.site(site).is_some_and(|known| known.region == region);
            if here && self.objects[object].relays && self.ledger.free(network.up(site)) >= rate {
                break site;
            }
            below.extend(tree.children(site));
            place += 1;
        };
        let leaf = self.regions[region.0 as usize].iter().copied().find(|leaf| {
            tree.is_rooted(*leaf)
                && !tree.has_children(*leaf)
                && tree.rate(*leaf) >= rate
                && self.objects[object].share(*leaf) <= self.ledger.free(network.up(giver))
                && tree.source(*leaf).is_some_and(|source| {
                    network.site(source).is_some_and(|known| known.region == region)
                        && !self.inputs.apart.contains(&(source, orphan))
                        && !self.inputs.apart.contains(&(giver, *leaf))
                })
        });
        let Some((leaf, source)) = leaf.and_then(|leaf| Some((leaf, tree.source(leaf)?))) else { return };
        let before = tree.rate(leaf);
        self.detach(object, class, leaf);
        if self.attach(object, class, (source, orphan), rate, |_| ()) {
            let share = self.objects[object].share(leaf);
            self.attach(object, class, (giver, leaf), share, |_| ());
        } else {
            self.attach(object, class, (source, leaf), before, |_| ());
        }
    }

    /// There is not enough for all. Who serves others comes before who serves nobody: it takes the
    /// place of a leaf, which is left without.
    fn displace(&mut self, object: usize, class: u32, region: RegionId, orphan: SiteId) {
        let rate = self.objects[object].share(orphan);
        let network = self.inputs.network;
        let tree = self.objects[object].tree(class);
        let leaf = self.regions[region.0 as usize].iter().copied().find_map(|leaf| {
            let source = tree.source(leaf)?;
            let may = tree.is_rooted(leaf)
                && !tree.has_children(leaf)
                && tree.rate(leaf) >= rate
                && network.site(source).is_some_and(|known| known.region == region)
                && !self.inputs.apart.contains(&(source, orphan));
            may.then_some((leaf, source))
        });
        let Some((leaf, source)) = leaf else { return };
        let before = self.objects[object].tree(class).rate(leaf);
        self.detach(object, class, leaf);
        if !self.attach(object, class, (source, orphan), rate, |_| ()) {
            self.attach(object, class, (source, leaf), before, |_| ());
        }
    }
}
