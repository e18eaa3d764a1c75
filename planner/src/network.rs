//! The sites, what they are connected by, and which resources a transfer between two of them uses.
//!
//! A resource is anything whose bandwidth is limited and shared: a site's way up and down, the
//! borders of a region, a named link between regions, a rack's way up and down. Sites, regions,
//! racks and links are numbered in the order in which they are added.

use std::collections::BTreeMap;
use std::fmt;

use crate::calendar::{Calendar, WeekSecond};

/// A place with a group leader, or the content control manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SiteId(pub u32);
/// Sites whose connections among themselves cost little, beside those to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RegionId(pub u32);
/// Sites of a region that share a way up and down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RackId(pub u32);
/// A named link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LinkId(pub u32);

impl SiteId {
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// A resource, by what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Component {
    /// What a site sends.
    SiteUp(SiteId),
    /// What a site receives.
    SiteDown(SiteId),
    /// What leaves a rack.
    RackOut(RackId),
    /// What enters a rack.
    RackIn(RackId),
    /// A named link, in the direction for which it was added.
    Link(LinkId),
    /// What leaves a region.
    RegionOut(RegionId),
    /// What enters a region.
    RegionIn(RegionId),
    /// What a site multicasts on its own segment. No transfer between sites uses it.
    Lan(SiteId),
}

/// The number of a resource in its network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ResourceId(pub u32);

impl ResourceId {
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// One resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// What it is.
    pub component: Component,
    /// What the administrator allows.
    pub calendar: Calendar,
    /// What it was seen to be able to carry, where that is less; `None` while unknown.
    pub measured_bytes_per_sec: Option<u64>,
    /// Named as failed by the fault counters: nothing is booked on it.
    pub failed: bool,
}

/// What is known about a site; also 002's sort keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteTraits {
    /// Where it is, as text that sorts near places together (a time zone, a country and town).
    pub location: String,
    /// Processor power, any scale, more is better.
    pub cpu: u32,
    /// Measured round trip from the CCM, in microseconds.
    pub rtt_micros: u32,
    /// Transfers that went well, in thousandths.
    pub reliability_permille: u16,
    /// How many networks away it is.
    pub hops: u16,
    /// The administrator's order: lower comes first.
    pub rank: u16,
}

impl Default for SiteTraits {
    fn default() -> Self {
        Self { location: String::new(), cpu: 0, rtt_micros: 0, reliability_permille: 1000, hops: 0, rank: 0 }
    }
}

/// A site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// Where it belongs.
    pub region: RegionId,
    /// Its rack, if the rack's connection is shared and limited.
    pub rack: Option<RackId>,
    /// Whether its leader is connected.
    pub online: bool,
    /// What is known about it.
    pub traits: SiteTraits,
    up: ResourceId,
    down: ResourceId,
    lan: Option<ResourceId>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Border {
    inward: Option<ResourceId>,
    outward: Option<ResourceId>,
}

/// Most resources that one transfer uses: up, rack, border, four links, border, rack, down.
pub const PATH_RESOURCES_MAX: usize = 10;
/// Most named links between two regions.
pub const LINKS_MAX: usize = 4;

/// The resources that a transfer from one site to another uses.
#[derive(Debug, Clone, Copy)]
pub struct Path {
    resources: [ResourceId; PATH_RESOURCES_MAX],
    length: usize,
}

impl Path {
    fn push(&mut self, resource: Option<ResourceId>) {
        if let Some(resource) = resource {
            self.resources[self.length] = resource;
            self.length += 1;
        }
    }

    /// The resources from the source to the destination.
    #[must_use]
    pub fn resources(&self) -> &[ResourceId] {
        &self.resources[..self.length]
    }
}

/// Why a network cannot be as it was described.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// A region that was not added.
    #[error("there is no region {}", .0.0)]
    UnknownRegion(RegionId),
    /// A rack that was not added.
    #[error("there is no rack {}", .0.0)]
    UnknownRack(RackId),
    /// A rack of another region.
    #[error("rack {} is not in region {}", .rack.0, .region.0)]
    RackElsewhere {
        /// Which rack.
        rack: RackId,
        /// The site's region.
        region: RegionId,
    },
    /// A link that was not added.
    #[error("there is no link {}", .0.0)]
    UnknownLink(LinkId),
    /// More links between two regions than [`LINKS_MAX`].
    #[error("{links} links between two regions, {LINKS_MAX} at most")]
    TooManyLinks {
        /// As given.
        links: usize,
    },
}

/// All sites and resources.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Network {
    sites: Vec<Site>,
    regions: Vec<Border>,
    racks: Vec<(RegionId, Border)>,
    links: Vec<ResourceId>,
    routes: BTreeMap<(RegionId, RegionId), Vec<LinkId>>,
    resources: Vec<Resource>,
}

fn number(count: usize) -> u32 {
    u32::try_from(count).expect("a fleet has fewer than 2^32 parts")
}

impl Network {
    fn resource_for(&mut self, component: Component, calendar: Option<Calendar>) -> Option<ResourceId> {
        let calendar = calendar?;
        let id = ResourceId(number(self.resources.len()));
        self.resources.push(Resource { component, calendar, measured_bytes_per_sec: None, failed: false });
        Some(id)
    }

    /// Adds a region; a border without a calendar is not limited.
    pub fn add_region(&mut self, inward: Option<Calendar>, outward: Option<Calendar>) -> RegionId {
        let region = RegionId(number(self.regions.len()));
        let inward = self.resource_for(Component::RegionIn(region), inward);
        let outward = self.resource_for(Component::RegionOut(region), outward);
        self.regions.push(Border { inward, outward });
        region
    }

    /// Adds a rack to a region.
    pub fn add_rack(
        &mut self,
        region: RegionId,
        inward: Option<Calendar>,
        outward: Option<Calendar>,
    ) -> Result<RackId, NetworkError> {
        self.regions.get(region.0 as usize).ok_or(NetworkError::UnknownRegion(region))?;
        let rack = RackId(number(self.racks.len()));
        let inward = self.resource_for(Component::RackIn(rack), inward);
        let outward = self.resource_for(Component::RackOut(rack), outward);
        self.racks.push((region, Border { inward, outward }));
        Ok(rack)
    }

    /// Adds a named link, for one direction.
    pub fn add_link(&mut self, calendar: Calendar) -> LinkId {
        let link = LinkId(number(self.links.len()));
        let resource = self.resource_for(Component::Link(link), Some(calendar));
        self.links.extend(resource);
        link
    }

    /// Says which links lie between two regions, in this direction.
    pub fn route(&mut self, from: RegionId, to: RegionId, links: Vec<LinkId>) -> Result<(), NetworkError> {
        for region in [from, to] {
            self.regions.get(region.0 as usize).ok_or(NetworkError::UnknownRegion(region))?;
        }
        if links.len() > LINKS_MAX {
            return Err(NetworkError::TooManyLinks { links: links.len() });
        }
        if let Some(unknown) = links.iter().find(|link| link.0 as usize >= self.links.len()) {
            return Err(NetworkError::UnknownLink(*unknown));
        }
        self.routes.insert((from, to), links);
        Ok(())
    }

    /// Adds a site that is online.
    pub fn add_site(
        &mut self,
        region: RegionId,
        rack: Option<RackId>,
        up: Calendar,
        down: Calendar,
    ) -> Result<SiteId, NetworkError> {
        self.regions.get(region.0 as usize).ok_or(NetworkError::UnknownRegion(region))?;
        if let Some(rack) = rack {
            let (home, _) = self.racks.get(rack.0 as usize).ok_or(NetworkError::UnknownRack(rack))?;
            if *home != region {
                return Err(NetworkError::RackElsewhere { rack, region });
            }
        }
        let site = SiteId(number(self.sites.len()));
        let id = ResourceId(number(self.resources.len()));
        for (component, calendar) in [(Component::SiteUp(site), up), (Component::SiteDown(site), down)] {
            self.resource_for(component, Some(calendar));
        }
        let down = ResourceId(id.0 + 1);
        let traits = SiteTraits::default();
        self.sites.push(Site { region, rack, online: true, traits, up: id, down, lan: None });
        Ok(site)
    }

    /// Limits what a site multicasts on its segment.
    pub fn limit_lan(&mut self, site: SiteId, calendar: Calendar) {
        let resource = self.resource_for(Component::Lan(site), Some(calendar));
        if let Some(site) = self.sites.get_mut(site.index()) {
            site.lan = resource;
        }
    }

    /// How fast a site may multicast in this second; `None` when that is not limited.
    #[must_use]
    pub fn lan_bytes_per_sec(&self, site: SiteId, second: WeekSecond) -> Option<u64> {
        let lan = self.sites.get(site.index())?.lan?;
        Some(self.resources[lan.index()].calendar.at(second))
    }

    /// All sites in the order of their numbers.
    #[must_use]
    pub fn sites(&self) -> &[Site] {
        &self.sites
    }

    /// A site; `None` for a number that was never given.
    #[must_use]
    pub fn site(&self, site: SiteId) -> Option<&Site> {
        self.sites.get(site.index())
    }

    /// A site, to change what is known about it.
    pub fn site_mut(&mut self, site: SiteId) -> Option<&mut Site> {
        self.sites.get_mut(site.index())
    }

    /// How many regions there are.
    #[must_use]
    pub fn region_count(&self) -> usize {
        self.regions.len()
    }

    /// All resources in the order of their numbers.
    #[must_use]
    pub fn resources(&self) -> &[Resource] {
        &self.resources
    }

    /// A resource, to change its calendar or what was measured of it.
    pub fn resource_mut(&mut self, component: Component) -> Option<&mut Resource> {
        self.resources.iter_mut().find(|resource| resource.component == component)
    }

    pub(crate) fn mark_failed(&mut self, failed: impl Fn(Component) -> bool) {
        for resource in &mut self.resources {
            resource.failed = failed(resource.component);
        }
    }

    /// What a site sends by.
    #[must_use]
    pub fn up(&self, site: SiteId) -> ResourceId {
        self.sites[site.index()].up
    }

    /// What a site receives by.
    #[must_use]
    pub fn down(&self, site: SiteId) -> ResourceId {
        self.sites[site.index()].down
    }

    /// What enters a region by, where that is limited.
    #[must_use]
    pub fn region_in(&self, region: RegionId) -> Option<ResourceId> {
        self.regions[region.0 as usize].inward
    }

    /// What a transfer uses. Both sites must be of this network.
    #[must_use]
    pub fn path(&self, source: SiteId, destination: SiteId) -> Path {
        let (from, to) = (&self.sites[source.index()], &self.sites[destination.index()]);
        let mut path = Path { resources: [from.up; PATH_RESOURCES_MAX], length: 0 };
        path.push(Some(from.up));
        let racks_differ = from.rack != to.rack || from.region != to.region;
        if let (true, Some(rack)) = (racks_differ, from.rack) {
            path.push(self.racks[rack.0 as usize].1.outward);
        }
        if from.region != to.region {
            path.push(self.regions[from.region.0 as usize].outward);
            for link in self.routes.get(&(from.region, to.region)).into_iter().flatten() {
                path.push(self.links.get(link.0 as usize).copied());
            }
            path.push(self.regions[to.region.0 as usize].inward);
        }
        if let (true, Some(rack)) = (racks_differ, to.rack) {
            path.push(self.racks[rack.0 as usize].1.inward);
        }
        path.push(Some(to.down));
        path
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SiteUp(site) => write!(f, "the way up of site {}", site.0),
            Self::SiteDown(site) => write!(f, "the way down of site {}", site.0),
            Self::RackOut(rack) => write!(f, "the way out of rack {}", rack.0),
            Self::RackIn(rack) => write!(f, "the way into rack {}", rack.0),
            Self::Link(link) => write!(f, "link {}", link.0),
            Self::RegionOut(region) => write!(f, "the way out of region {}", region.0),
            Self::RegionIn(region) => write!(f, "the way into region {}", region.0),
            Self::Lan(site) => write!(f, "the segment of site {}", site.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transfer_uses_what_lies_between_its_ends_and_nothing_else() {
        let mut network = Network::default();
        let cap = || Calendar::always(10);
        let near = network.add_region(Some(cap()), Some(cap()));
        let far = network.add_region(Some(cap()), None);
        let rack = network.add_rack(near, Some(cap()), Some(cap())).expect("known");
        let link = network.add_link(cap());
        network.route(near, far, vec![link]).expect("all are known");
        let racked = network.add_site(near, Some(rack), cap(), cap()).expect("known");
        let mate = network.add_site(near, Some(rack), cap(), cap()).expect("known");
        let free = network.add_site(near, None, cap(), cap()).expect("known");
        let abroad = network.add_site(far, None, cap(), cap()).expect("known");
        let names = |from, to| {
            let path = network.path(from, to);
            path.resources().iter().map(|id| network.resources()[id.index()].component).collect::<Vec<_>>()
        };
        use Component::{Link, RackIn, RackOut, RegionIn, RegionOut, SiteDown, SiteUp};
        assert_eq!(names(racked, mate), [SiteUp(racked), SiteDown(mate)]);
        assert_eq!(names(racked, free), [SiteUp(racked), RackOut(rack), SiteDown(free)]);
        assert_eq!(
            names(racked, abroad),
            [SiteUp(racked), RackOut(rack), RegionOut(near), Link(link), RegionIn(far), SiteDown(abroad)]
        );
        assert_eq!(names(abroad, racked), [SiteUp(abroad), RegionIn(near), RackIn(rack), SiteDown(racked)]);
    }

    #[test]
    fn what_was_never_added_is_refused_by_name() {
        let mut network = Network::default();
        let region = network.add_region(None, None);
        let unknown = RegionId(9);
        let cap = || Calendar::always(1);
        assert_eq!(network.add_site(unknown, None, cap(), cap()), Err(NetworkError::UnknownRegion(unknown)));
        assert_eq!(network.add_site(region, Some(RackId(0)), cap(), cap()), Err(NetworkError::UnknownRack(RackId(0))));
        let other = network.add_region(None, None);
        let rack = network.add_rack(other, None, None).expect("known");
        let elsewhere = Err(NetworkError::RackElsewhere { rack, region });
        assert_eq!(network.add_site(region, Some(rack), cap(), cap()), elsewhere);
        assert_eq!(network.route(region, region, vec![LinkId(1)]), Err(NetworkError::UnknownLink(LinkId(1))));
    }
}
