//! What sites shall have, and what they say they have (001 claims 1, 9 to 12, 28).
//!
//! The CCM sends each site a wanted set: objects with versions. The site says of each how much it
//! has; what it lacks is the difference, which both can compute.

use std::collections::BTreeMap;

use common::digest::Digest;

use crate::chunks::ChunkSet;
use crate::network::SiteId;
use crate::policy::WanPolicy;

/// What a site shall have: names with the version that is wanted (001 claim 9).
pub type WantedSet = BTreeMap<Digest, u64>;

/// What a site says of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectState {
    /// Which version of it.
    pub version: u64,
    /// How many bytes of it are stored.
    pub stored_bytes: u64,
    /// Which chunks, each of them verified.
    pub held: ChunkSet,
    /// Whether the source has said that the object will not grow any more.
    pub is_final: bool,
}

/// What a site says it has.
pub type SiteState = BTreeMap<Digest, ObjectState>;

/// The objects of which a site lacks something: those that it does not have in the version that is
/// wanted, whole and final (001 claim 12).
#[must_use]
pub fn lacks(wanted: &WantedSet, state: &SiteState) -> Vec<Digest> {
    let has = |object: &Digest, version: u64| {
        state.get(object).is_some_and(|state| state.version == version && state.is_final && state.held.is_full())
    };
    wanted.iter().filter(|(object, version)| !has(object, **version)).map(|(object, _)| *object).collect()
}

/// Most classes into which the chunks of an object are divided.
pub const CLASSES_MAX: u32 = 16;

/// One site's part in one object.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Presence {
    wanted: bool,
    held: ChunkSet,
    by_class: [u32; CLASSES_MAX as usize],
}

/// An object on its way, and what every site has of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Demand {
    /// Which object.
    pub object: Digest,
    /// How it spreads.
    pub policy: WanPolicy,
    /// Lower goes first.
    pub priority: u8,
    chunks: u32,
    classes: u32,
    is_final: bool,
    presence: Vec<Option<Box<Presence>>>,
}

impl Demand {
    /// An object of so many chunks. Chunks are divided into `classes` by the remainder of their
    /// number; each class has a tree of its own.
    #[must_use]
    pub fn new(object: Digest, policy: WanPolicy, chunks: u32, classes: u32) -> Self {
        let classes = classes.clamp(1, CLASSES_MAX).min(chunks.max(1));
        Self { object, policy, priority: 0, chunks, classes, is_final: true, presence: Vec::new() }
    }

    /// Of how many chunks it consists so far.
    #[must_use]
    pub fn chunks(&self) -> u32 {
        self.chunks
    }

    /// Into how many classes its chunks are divided.
    #[must_use]
    pub fn classes(&self) -> u32 {
        self.classes
    }

    fn presence_mut(&mut self, site: SiteId) -> &mut Presence {
        if self.presence.len() <= site.index() {
            self.presence.resize(site.index() + 1, None);
        }
        let chunks = self.chunks;
        self.presence[site.index()].get_or_insert_with(|| {
            Box::new(Presence { wanted: false, held: ChunkSet::empty(chunks), by_class: [0; CLASSES_MAX as usize] })
        })
    }

    fn presence(&self, site: SiteId) -> Option<&Presence> {
        self.presence.get(site.index())?.as_deref()
    }

    /// The site shall have the object.
    pub fn want(&mut self, site: SiteId) {
        self.presence_mut(site).wanted = true;
    }

    /// The site need not have the object any more.
    pub fn unwant(&mut self, site: SiteId) {
        self.presence_mut(site).wanted = false;
    }

    /// The site holds these chunks: the state it reports (001 claims 1 and 28).
    pub fn report(&mut self, site: SiteId, held: ChunkSet) {
        let classes = self.classes;
        let presence = self.presence_mut(site);
        presence.by_class = [0; CLASSES_MAX as usize];
        for chunk in held.iter() {
            presence.by_class[(chunk % classes) as usize] += 1;
        }
        presence.held = held;
    }

    /// The site holds one chunk more: the revised state it reports.
    pub fn report_chunk(&mut self, site: SiteId, chunk: u32) {
        let class = (chunk % self.classes) as usize;
        let presence = self.presence_mut(site);
        if presence.held.insert(chunk) {
            presence.by_class[class] += 1;
        }
    }

    /// The object has grown at its generator (001 claim 29); with `is_final` for the last time (001
    /// claim 21). What sites hold stays held.
    pub fn grow(&mut self, chunks: u32, is_final: bool) {
        self.chunks = self.chunks.max(chunks);
        self.is_final = is_final;
        for presence in self.presence.iter_mut().flatten() {
            presence.held.grow(chunks);
        }
    }

    /// Whether the site wants the object and lacks a chunk, or may come to lack one.
    #[must_use]
    pub fn lacks(&self, site: SiteId) -> bool {
        self.presence(site)
            .is_some_and(|presence| presence.wanted && !(self.is_final && presence.held.len() == self.chunks))
    }

    /// Whether the site wants the object and lacks a chunk of this class, or may come to lack one.
    #[must_use]
    pub fn lacks_class(&self, site: SiteId, class: u32) -> bool {
        self.presence(site).is_some_and(|presence| {
            presence.wanted && !(self.is_final && presence.by_class[class as usize] == self.class_chunks(class))
        })
    }

    /// Whether the site has all chunks of this class that there are.
    #[must_use]
    pub fn holds_class(&self, site: SiteId, class: u32) -> bool {
        self.presence(site).is_some_and(|presence| presence.by_class[class as usize] == self.class_chunks(class))
    }

    /// Whether the site has all chunks that there are.
    #[must_use]
    pub fn holds(&self, site: SiteId) -> bool {
        self.presence(site).is_some_and(|presence| presence.held.len() == self.chunks)
    }

    /// How many chunks of a class the site holds.
    #[must_use]
    pub fn held_of_class(&self, site: SiteId, class: u32) -> u32 {
        self.presence(site).map_or(0, |presence| presence.by_class[class as usize])
    }

    /// What the site holds; `None` when nothing was ever said.
    #[must_use]
    pub fn held(&self, site: SiteId) -> Option<&ChunkSet> {
        self.presence(site).map(|presence| &presence.held)
    }

    /// How many chunks are missing, all sites together.
    #[must_use]
    pub fn remaining(&self) -> u64 {
        let wanting = self.presence.iter().flatten().filter(|presence| presence.wanted);
        wanting.map(|presence| u64::from(self.chunks.saturating_sub(presence.held.len()))).sum()
    }

    /// How many chunks a class has.
    #[must_use]
    pub fn class_chunks(&self, class: u32) -> u32 {
        (self.chunks + self.classes - 1 - class) / self.classes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_lacks_what_it_has_in_another_version_in_part_or_not_for_good() {
        let object = |name: &str| Digest::of(name.as_bytes());
        let state = |version, held, is_final| ObjectState { version, stored_bytes: 0, held, is_final };
        let wanted = WantedSet::from(["whole", "old", "part", "growing", "absent"].map(|name| (object(name), 2)));
        let site = SiteState::from([
            (object("whole"), state(2, ChunkSet::full(3), true)),
            (object("old"), state(1, ChunkSet::full(3), true)),
            (object("part"), state(2, ChunkSet::prefix(3, 2), true)),
            (object("growing"), state(2, ChunkSet::full(3), false)),
        ]);
        let mut expected = ["old", "part", "growing", "absent"].map(object);
        expected.sort();
        assert_eq!(lacks(&wanted, &site), expected);
    }

    #[test]
    fn classes_divide_the_chunks_and_are_complete_one_by_one() {
        let mut demand = Demand::new(Digest::of(b"o"), WanPolicy::Mesh, 10, 4);
        assert_eq!((0..4).map(|class| demand.class_chunks(class)).collect::<Vec<_>>(), [3, 3, 2, 2]);
        let site = SiteId(2);
        demand.want(site);
        for chunk in [2, 6, 6] {
            demand.report_chunk(site, chunk);
        }
        assert!(demand.holds_class(site, 2) && !demand.lacks_class(site, 2) && demand.lacks_class(site, 3));
        demand.report(site, ChunkSet::full(10));
        assert!(demand.holds(site) && !demand.lacks(site));
    }

    #[test]
    fn of_an_object_that_still_grows_everybody_lacks_something() {
        let mut demand = Demand::new(Digest::of(b"o"), WanPolicy::Mesh, 4, 2);
        let site = SiteId(0);
        demand.want(site);
        demand.report(site, ChunkSet::full(4));
        demand.grow(4, false);
        assert!(demand.lacks_class(site, 0) && demand.holds_class(site, 0));
        demand.grow(6, true);
        assert!(demand.lacks(site));
        assert_eq!(demand.held_of_class(site, 0), 2);
        demand.report(site, ChunkSet::full(6));
        assert!(!demand.lacks(site));
    }
}
