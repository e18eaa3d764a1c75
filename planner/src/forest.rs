//! The tree of one class of chunks: who receives it from whom.
//!
//! Only structure; capacities are the [ledger](crate::ledger)'s. A site is *rooted* when following
//! its sources leads to a site that holds the whole class. Everything that attaches keeps this
//! acyclic: a source must be rooted, a destination must not be.

use crate::network::SiteId;

/// No site.
const NONE: u32 = u32::MAX;
/// Not rooted.
const UNROOTED: u16 = u16::MAX;

/// Sources, rates and depths of all sites for one class.
#[derive(Debug, Clone)]
pub(crate) struct Tree {
    source: Vec<u32>,
    rate: Vec<u64>,
    depth: Vec<u16>,
    /// How many steps the one from its source counts for.
    steps: Vec<u16>,
    first_child: Vec<u32>,
    next_sibling: Vec<u32>,
}

impl Tree {
    pub(crate) fn of_sites(sites: usize) -> Self {
        Self {
            source: vec![NONE; sites],
            rate: vec![0; sites],
            depth: vec![UNROOTED; sites],
            steps: vec![1; sites],
            first_child: vec![NONE; sites],
            next_sibling: vec![NONE; sites],
        }
    }

    pub(crate) fn source(&self, site: SiteId) -> Option<SiteId> {
        some(self.source[site.index()])
    }

    pub(crate) fn rate(&self, site: SiteId) -> u64 {
        self.rate[site.index()]
    }

    pub(crate) fn set_rate(&mut self, site: SiteId, rate: u64) {
        self.rate[site.index()] = rate;
    }

    pub(crate) fn is_rooted(&self, site: SiteId) -> bool {
        self.depth[site.index()] != UNROOTED
    }

    /// Steps from a holder, slow ones counted for several; meaningful for rooted sites.
    pub(crate) fn depth(&self, site: SiteId) -> u16 {
        self.depth[site.index()]
    }

    pub(crate) fn has_children(&self, site: SiteId) -> bool {
        self.first_child[site.index()] != NONE
    }

    /// Whether a site holds the class and nobody has it from there.
    pub(crate) fn is_unserved_root(&self, site: SiteId) -> bool {
        self.depth[site.index()] == 0 && !self.has_children(site)
    }

    pub(crate) fn children(&self, site: SiteId) -> impl Iterator<Item = SiteId> + '_ {
        std::iter::successors(some(self.first_child[site.index()]), |child| some(self.next_sibling[child.index()]))
    }

    /// Makes one site the source of another that has none. Depths are left as they are. A slow step
    /// delays what is below by more than one chunk at the stream's rate, and so counts for several.
    pub(crate) fn attach(&mut self, child: SiteId, source: SiteId, rate: u64, steps: u16) {
        debug_assert!(self.source(child).is_none(), "a site has one source for each class");
        self.steps[child.index()] = steps;
        self.source[child.index()] = source.0;
        self.rate[child.index()] = rate;
        self.next_sibling[child.index()] = self.first_child[source.index()];
        self.first_child[source.index()] = child.0;
    }

    /// Takes a site's source away. Its subtree is rooted no more.
    pub(crate) fn detach(&mut self, child: SiteId) {
        let Some(source) = self.source(child) else { return };
        let follows = self.next_sibling[child.index()];
        if self.first_child[source.index()] == child.0 {
            self.first_child[source.index()] = follows;
        } else {
            let before = self.children(source).find(|sibling| self.next_sibling[sibling.index()] == child.0);
            if let Some(before) = before {
                self.next_sibling[before.index()] = follows;
            }
        }
        self.source[child.index()] = NONE;
        self.next_sibling[child.index()] = NONE;
        self.rate[child.index()] = 0;
        self.mark(child, UNROOTED, |_| ());
    }

    /// A holder is rooted, and with it everything below.
    pub(crate) fn root(&mut self, holder: SiteId) {
        self.mark(holder, 0, |_| ());
    }

    /// A site is rooted if its source is, and with it everything below; `visit` hears of each.
    pub(crate) fn follow(&mut self, site: SiteId, visit: impl FnMut(SiteId)) {
        if let Some(source) = self.source(site).filter(|source| self.is_rooted(*source)) {
            let depth = self.deeper(self.depth(source), site);
            self.mark(site, depth, visit);
        }
    }

    fn deeper(&self, depth: u16, site: SiteId) -> u16 {
        if depth == UNROOTED { UNROOTED } else { depth.saturating_add(self.steps[site.index()]).min(UNROOTED - 1) }
    }

    fn mark(&mut self, top: SiteId, depth: u16, mut visit: impl FnMut(SiteId)) {
        let mut pending = vec![(top, depth)];
        while let Some((site, depth)) = pending.pop() {
            if self.depth[site.index()] == depth {
                continue;
            }
            self.depth[site.index()] = depth;
            visit(site);
            let mut child = self.first_child[site.index()];
            while let Some(id) = some(child) {
                pending.push((id, self.deeper(depth, id)));
                child = self.next_sibling[id.index()];
            }
        }
    }
}

fn some(site: u32) -> Option<SiteId> {
    (site != NONE).then_some(SiteId(site))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hangs_below_is_rooted_and_unrooted_with_its_top() {
        let mut tree = Tree::of_sites(5);
        let [a, b, c, d, e] = [0, 1, 2, 3, 4].map(SiteId);
        tree.attach(c, b, 5, 1);
        tree.attach(d, b, 5, 1);
        tree.attach(e, d, 1, 5);
        tree.root(a);
        tree.attach(b, a, 5, 1);
        let mut seen = 0;
        tree.follow(b, |_| seen += 1);
        assert_eq!((seen, tree.depth(d), tree.depth(e)), (4, 2, 7), "the last step is five times slower");
        tree.detach(c);
        assert!(!tree.is_rooted(c) && tree.is_rooted(d));
        tree.detach(b);
        assert!([b, d, e].iter().all(|site| !tree.is_rooted(*site)) && tree.is_rooted(a));
        assert_eq!(tree.children(b).collect::<Vec<_>>(), [d]);
        assert!(!tree.has_children(a));
    }
}
