//! Which component of the network is to blame for transfers that fail (001 claims 16 and 17).
//!
//! A failed transfer counts against everything on its path; one that went well speaks for all of it.
//! A component is named as failed when enough failures with enough different counterparts went over
//! it, and it did not carry as many transfers well meanwhile. Of several that could explain the same
//! failures, the one that explains most is named, among equals the most particular: a site before
//! its rack, a link before the border behind it. What it explains counts against no other.
//!
//! A chunk that is complete and wrong is its sender's fault alone, as nothing unverified is passed on.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use common::time::Timestamp;

use crate::network::{Component, Network, SiteId};

/// When a component counts as failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FaultConfig {
    /// How many failures name a component (001's "predetermined number"). Default 3: fewer would
    /// blame for chance, more cost time in which a broken link is still used.
    pub failures_min: usize,
    /// With how many different counterparts. Default 2: one counterpart alone could be the culprit itself.
    pub counterparts_min: usize,
    /// How long a failure is remembered, and in which time successes count half. Default 5 min.
    pub memory: Duration,
    /// After how many wrong chunks a sender is named. Default 2.
    pub wrong_chunks_max: u32,
}

impl Default for FaultConfig {
    fn default() -> Self {
        Self { failures_min: 3, counterparts_min: 2, memory: Duration::from_secs(300), wrong_chunks_max: 2 }
    }
}

/// Failures that are remembered at most; the oldest is forgotten first.
const FAILURES_MAX: usize = 4096;
/// One success, in the unit in which successes fade.
const SUCCESS: u64 = 1000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Failure {
    at: Timestamp,
    source: SiteId,
    destination: SiteId,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Successes {
    amount: u64,
    at: Timestamp,
}

/// The counters of all components.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Faults {
    config: FaultConfig,
    failures: VecDeque<Failure>,
    successes: BTreeMap<Component, Successes>,
    wrong_chunks: BTreeMap<SiteId, u32>,
}

impl Faults {
    /// Counters at zero.
    #[must_use]
    pub fn new(config: FaultConfig) -> Self {
        Self { config, ..Self::default() }
    }

    /// A transfer failed, stalled, or was far below its rate without a reason at its source.
    pub fn failed(&mut self, now: Timestamp, source: SiteId, destination: SiteId) {
        if self.failures.len() == FAILURES_MAX {
            self.failures.pop_front();
        }
        self.failures.push_back(Failure { at: now, source, destination });
    }

    /// A transfer went well.
    pub fn succeeded(&mut self, now: Timestamp, network: &Network, source: SiteId, destination: SiteId) {
        let memory = self.config.memory;
        for component in components(network, source, destination) {
            let successes = self.successes.entry(component).or_default();
            let faded = fade(*successes, now, memory);
            *successes = Successes { amount: faded + SUCCESS, at: now };
        }
    }

    /// A site sent a chunk that is complete and wrong; true when it is to be dropped for it.
    pub fn wrong_chunk(&mut self, sender: SiteId) -> bool {
        let count = self.wrong_chunks.entry(sender).or_default();
        *count += 1;
        *count >= self.config.wrong_chunks_max
    }

    /// How many transfers over a component failed lately (001 claim 17's count).
    #[must_use]
    pub fn count(&self, now: Timestamp, network: &Network, component: Component) -> usize {
        self.recent(now)
            .filter(|failure| components(network, failure.source, failure.destination).contains(&component))
            .count()
    }

    /// The components that have failed.
    #[must_use]
    pub fn named(&self, now: Timestamp, network: &Network) -> BTreeSet<Component> {
        let liars = self.wrong_chunks.iter().filter(|(_, count)| **count >= self.config.wrong_chunks_max);
        let mut named: BTreeSet<Component> = liars.map(|(site, _)| Component::SiteUp(*site)).collect();
        let mut open: Vec<(Failure, Vec<Component>)> = self
            .recent(now)
            .map(|failure| (*failure, components(network, failure.source, failure.destination)))
            .collect();
        open.retain(|(_, path)| !path.iter().any(|component| named.contains(component)));
        while let Some(worst) = self.worst(now, &open) {
            named.insert(worst);
            open.retain(|(_, path)| !path.contains(&worst));
        }
        named
    }

    fn worst(&self, now: Timestamp, open: &[(Failure, Vec<Component>)]) -> Option<Component> {
        let mut against: BTreeMap<Component, (usize, BTreeSet<(SiteId, SiteId)>)> = BTreeMap::new();
        for (failure, path) in open {
            for component in path {
                let (count, counterparts) = against.entry(*component).or_default();
                *count += 1;
                counterparts.insert((failure.source, failure.destination));
            }
        }
        against
            .into_iter()
            .filter(|(component, (count, counterparts))| {
                let good = self.successes.get(component).map_or(0, |good| fade(*good, now, self.config.memory));
                *count >= self.config.failures_min
                    && counterparts.len() >= self.config.counterparts_min
                    && *count as u64 * SUCCESS >= good
            })
            .max_by_key(|(component, (count, _))| (*count, std::cmp::Reverse((breadth(*component), *component))))
            .map(|(component, _)| component)
    }

    fn recent(&self, now: Timestamp) -> impl Iterator<Item = &Failure> {
        self.failures.iter().filter(move |failure| now.since(failure.at) < self.config.memory)
    }

    /// For each resource, which share of its recent transfers failed, in thousandths.
    #[must_use]
    pub fn shares_permille(&self, now: Timestamp, network: &Network) -> Vec<u32> {
        let mut counts: BTreeMap<Component, u64> = BTreeMap::new();
        for failure in self.recent(now) {
            for component in components(network, failure.source, failure.destination) {
                *counts.entry(component).or_default() += SUCCESS;
            }
        }
        if counts.is_empty() {
            return vec![0; network.resources().len()];
        }
        let share = |component: Component| {
            let failed = counts.get(&component).copied().unwrap_or(0);
            let good = self.successes.get(&component).map_or(0, |good| fade(*good, now, self.config.memory));
            // One success is assumed, so that a single failure does not condemn.
            u32::try_from(failed * 1000 / (failed + good + SUCCESS)).unwrap_or(1000)
        };
        network.resources().iter().map(|resource| share(resource.component)).collect()
    }

    /// Marks in the network what has failed, so that nothing is booked on it.
    pub fn mark(&self, now: Timestamp, network: &mut Network) {
        let named = self.named(now, network);
        network.mark_failed(|component| named.contains(&component));
    }
}

/// What is left of earlier successes: half after each stretch of memory, in between in a straight line.
fn fade(successes: Successes, now: Timestamp, memory: Duration) -> u64 {
    let memory = u64::try_from(memory.as_micros()).unwrap_or(u64::MAX).max(1);
    let passed = u64::try_from(now.since(successes.at).as_micros()).unwrap_or(u64::MAX);
    let halves = passed / memory;
    if halves >= u64::from(u64::BITS) {
        return 0;
    }
    let whole = successes.amount >> halves;
    whole - u64::try_from(u128::from(whole / 2) * u128::from(passed % memory) / u128::from(memory)).unwrap_or(0)
}

fn components(network: &Network, source: SiteId, destination: SiteId) -> Vec<Component> {
    if network.site(source).is_none() || network.site(destination).is_none() {
        return Vec::new();
    }
    let path = network.path(source, destination);
    path.resources().iter().map(|resource| network.resources()[resource.index()].component).collect()
}

/// How much a component stands for: the more particular, the lower.
fn breadth(component: Component) -> u8 {
    match component {
        Component::SiteUp(_) | Component::SiteDown(_) | Component::Lan(_) => 0,
        Component::RackOut(_) | Component::RackIn(_) => 1,
        Component::Link(_) => 2,
        Component::RegionOut(_) | Component::RegionIn(_) => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calendar::Calendar;
    use crate::network::LinkId;

    /// Three regions of four sites; the first two are joined by a named link.
    fn network() -> Network {
        let mut network = Network::default();
        let cap = || Calendar::always(100);
        let regions: Vec<_> = (0..3).map(|_| network.add_region(Some(cap()), Some(cap()))).collect();
        let link = network.add_link(cap());
        network.route(regions[0], regions[1], vec![link]).expect("known");
        for site in 0..12 {
            network.add_site(regions[site / 4], None, cap(), cap()).expect("known");
        }
        network
    }

    const NOW: Timestamp = Timestamp(1_000_000);

    #[test]
    fn a_faulty_link_among_healthy_ones_is_named_and_nothing_beside_it() {
        let network = network();
        let mut faults = Faults::default();
        for (source, destination) in [(0, 4), (1, 5), (2, 6)] {
            faults.failed(NOW, SiteId(source), SiteId(destination));
            faults.succeeded(NOW, &network, SiteId(source), SiteId(8));
        }
        assert_eq!(faults.named(NOW, &network), [Component::Link(LinkId(0))].into());
        assert_eq!(faults.count(NOW, &network, Component::Link(LinkId(0))), 3);
    }

    #[test]
    fn a_site_that_fails_everybody_is_named_and_those_it_failed_are_not() {
        let network = network();
        let mut faults = Faults::default();
        for destination in [1, 2, 3, 8] {
            faults.failed(NOW, SiteId(0), SiteId(destination));
        }
        assert_eq!(faults.named(NOW, &network), [Component::SiteUp(SiteId(0))].into());
    }

    #[test]
    fn below_the_predetermined_number_or_with_one_counterpart_nobody_is_named() {
        let network = network();
        let mut faults = Faults::default();
        faults.failed(NOW, SiteId(0), SiteId(1));
        faults.failed(NOW, SiteId(0), SiteId(2));
        assert!(faults.named(NOW, &network).is_empty(), "two failures");
        let mut faults = Faults::default();
        for _ in 0..5 {
            faults.failed(NOW, SiteId(0), SiteId(1));
        }
        assert!(faults.named(NOW, &network).is_empty(), "one pair alone says nothing of either");
    }

    #[test]
    fn as_many_successes_clear_a_component_and_old_failures_are_forgotten() {
        let network = network();
        let mut faults = Faults::default();
        for destination in [1, 2, 3] {
            faults.failed(NOW, SiteId(0), SiteId(destination));
        }
        let later = NOW + FaultConfig::default().memory;
        assert!(faults.named(later, &network).is_empty());
        for _ in 0..4 {
            faults.succeeded(NOW, &network, SiteId(0), SiteId(1));
        }
        assert!(faults.named(NOW, &network).is_empty());
    }

    #[test]
    fn wrong_chunks_are_their_senders_fault_alone() {
        let network = network();
        let mut faults = Faults::default();
        assert!(!faults.wrong_chunk(SiteId(3)));
        assert!(faults.wrong_chunk(SiteId(3)));
        assert_eq!(faults.named(NOW, &network), [Component::SiteUp(SiteId(3))].into());
    }
}
