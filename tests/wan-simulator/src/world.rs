//! The fleet in motion: what each site holds, what is on its way, and what happens next.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::time::Duration;

use common::digest::Digest;
use planner::chunks::ChunkSet;
use planner::demand::Demand;
use planner::grant::{Book, Grant, GrantId};
use planner::network::{Network, SiteId};
use planner::pick::{Source, View, pick};
use planner::plan::Edge;
use planner::policy::WanPolicy;

use crate::meter::Meter;
use crate::outcome::Outcome;
use crate::scenario::{Scenario, SitePlan, bound_seconds};

mod control;

/// After how long without a word a leader counts as gone, in microseconds.
const SILENCE: u64 = 3_000_000;
/// After how long without a chunk, with nothing asked for, a leader says that it starves.
const STARVES: u64 = 6_000_000;
/// How long a source and a destination are kept apart after a transfer was replaced.
const APART: u64 = 30_000_000;
/// Verifying a chunk: 5 GB/s.
const VERIFY_BYTES_PER_MICRO: u64 = 5_000;
/// Bytes of messages, with the headers of what carries them.
mod size {
    pub(super) const REQUEST: u64 = 420;
    pub(super) const ANSWER: u64 = 300;
    pub(super) const HAVE: u64 = 90;
    pub(super) const GRANT: u64 = 240;
    pub(super) const RENEWAL: u64 = 96;
    pub(super) const ORDER: u64 = 80;
    pub(super) const REPORT: u64 = 110;
    pub(super) const REPORT_EDGE: u64 = 16;
    pub(super) const REPORT_CHUNK: u64 = 3;
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A grant reaches both sites.
    Granted(u64),
    /// The destination hears what the source holds.
    Snapshot(u64, Vec<u32>),
    /// The destination hears of one chunk more.
    Learn(u64, u32),
    /// A chunk is there and verified.
    Arrive(u64, u32),
    /// A new rate reaches both sites.
    Rate(u64, u64),
    /// A grant's end reaches both sites.
    Withdrawn(u64),
    /// The CCM hears that nothing flows any more.
    Stopped(u64),
    /// The CCM hears that the new rate is kept.
    Confirmed(u64),
    /// The destination hears that its source is gone.
    SourceGone(u64),
    /// A way up falls to a tenth.
    Falls(u32),
    /// The CCM plans.
    Tick,
}

#[derive(Debug)]
struct Leader {
    held: ChunkSet,
    fetching: ChunkSet,
    doubled: ChunkSet,
    sources: Vec<u64>,
    serves: Vec<u64>,
    unreported: VecDeque<(u64, u32)>,
    last_arrival: u64,
    complete_at: Option<u64>,
    dies_at: u64,
    known_gone: bool,
    up: u64,
    granted_up: u64,
}

#[derive(Debug)]
struct Transfer {
    grant: Grant,
    rate: u64,
    known: ChunkSet,
    asked: Vec<u32>,
    free_at: u64,
    ended: bool,
    /// Since when it has been far below its rate.
    slow_since: Option<u64>,
}

/// Transfers by the number of their grant; numbers are given in order, and each once.
#[derive(Debug, Default)]
struct Transfers(Vec<Option<Box<Transfer>>>);

impl Transfers {
    fn get(&self, id: u64) -> Option<&Transfer> {
        self.0.get(id as usize)?.as_deref()
    }

    fn get_mut(&mut self, id: u64) -> Option<&mut Transfer> {
        self.0.get_mut(id as usize)?.as_deref_mut()
    }

    fn remove(&mut self, id: u64) -> Option<Box<Transfer>> {
        self.0.get_mut(id as usize)?.take()
    }

    fn insert(&mut self, id: u64, transfer: Transfer) {
        if self.0.len() <= id as usize {
            self.0.resize_with(id as usize + 1, || None);
        }
        self.0[id as usize] = Some(Box::new(transfer));
    }

    fn iter(&self) -> impl Iterator<Item = (u64, &Transfer)> {
        (0..).zip(&self.0).filter_map(|(id, transfer)| Some((id, transfer.as_deref()?)))
    }
}

/// A fleet with one object on its way.
#[derive(Debug)]
pub struct World<'a> {
    scenario: &'a Scenario,
    fleet: Vec<SitePlan>,
    network: Network,
    demands: Vec<Demand>,
    book: Book,
    leaders: Vec<Leader>,
    transfers: Transfers,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    sequence: u64,
    now: u64,
    meter: Meter,
    apart: BTreeMap<(SiteId, SiteId), u64>,
    /// Whether anything has happened that a new plan could answer.
    changed: bool,
    last_plan: Vec<Edge>,
    incomplete: usize,
    control: u64,
    payload: u64,
    crossed: Vec<u64>,
    outcome: Outcome,
}

impl<'a> World<'a> {
    /// At the moment in which the source has the object.
    #[must_use]
    pub fn new(scenario: &'a Scenario) -> Self {
        let fleet = scenario.fleet();
        let network = scenario.network(&fleet);
        let chunks = scenario.chunks();
        let policy = WanPolicy::Auto.resolve(scenario.sites as usize, chunks);
        let classes = if policy == WanPolicy::Mesh { scenario.classes } else { 1 };
        let mut demand = Demand::new(Digest::of(b"object"), policy, chunks, classes);
        demand.report(Scenario::SOURCE, ChunkSet::full(chunks));
        let leaders: Vec<Leader> = fleet
            .iter()
            .zip(0u32..)
            .map(|(site, number)| {
                let is_source = number == Scenario::SOURCE.0;
                if !is_source {
                    demand.want(SiteId(number));
                }
                Leader {
                    held: if is_source { ChunkSet::full(chunks) } else { ChunkSet::empty(chunks) },
                    fetching: ChunkSet::empty(chunks),
                    doubled: ChunkSet::empty(chunks),
                    sources: Vec::new(),
                    serves: Vec::new(),
                    unreported: VecDeque::new(),
                    last_arrival: 0,
                    complete_at: is_source.then_some(0),
                    dies_at: site.dies_at.unwrap_or(u64::MAX),
                    known_gone: false,
                    up: site.up,
                    granted_up: 0,
                }
            })
            .collect();
        let survivors = |site: &SitePlan| site.dies_at.is_none();
        let capacities =
            network.resources().iter().map(|resource| resource.calendar.rate_bytes_per_sec as f64).collect();
        let outcome = Outcome {
            sites: scenario.sites,
            bound_s: bound_seconds(scenario, &fleet, survivors),
            last_s: None,
            ratio: None,
            fast_ratio: None,
            died: 0,
            verified_fetched_twice: 0,
            arrived_twice: 0,
            copies_into_region: 0.0,
            control_share: 0.0,
            over_capacity: 0.0,
            violations: Vec::new(),
            plans: 0,
            grants: 0,
            longest_plan_ms: 0.0,
            depth: 0,
        };
        let mut world = Self {
            scenario,
            crossed: vec![0; network.region_count()],
            network,
            demands: vec![demand],
            book: Book::default(),
            incomplete: leaders.len() - 1,
            leaders,
            transfers: Transfers::default(),
            events: BinaryHeap::new(),
            sequence: 0,
            now: 0,
            meter: Meter::new(capacities),
            apart: BTreeMap::new(),
            changed: true,
            last_plan: Vec::new(),
            control: 0,
            payload: 0,
            outcome,
            fleet,
        };
        for (number, site) in (0u32..).zip(&world.fleet.clone()) {
            if let Some(at) = site.falls_at {
                world.at(at, Event::Falls(number));
            }
        }
        world.at(0, Event::Tick);
        world
    }

    fn at(&mut self, time: u64, event: Event) {
        self.sequence += 1;
        self.events.push(Reverse((time.max(self.now), self.sequence, event)));
    }

    fn later(&mut self, event: Event) {
        self.at(self.now + self.latency(), event);
    }

    fn latency(&self) -> u64 {
        self.scenario.latency_ms * 1000
    }

    /// Runs until every site that lives has the object, or until far beyond any use.
    #[must_use]
    pub fn run(mut self) -> Outcome {
        let end = (self.outcome.bound_s * 20e6) as u64 + 600_000_000;
        while let Some(Reverse((time, _, event))) = self.events.pop() {
            self.now = time;
            if self.incomplete == 0 || time > end {
                break;
            }
            self.handle(event);
        }
        self.finish()
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Tick => self.tick(),
            Event::Granted(id) => self.granted(id),
            Event::Snapshot(id, chunks) => {
                if let Some(transfer) = self.transfers.get_mut(id) {
                    for chunk in chunks {
                        transfer.known.insert(chunk);
                    }
                }
                self.ask(id);
            }
            Event::Learn(id, chunk) => {
                if let Some(transfer) = self.transfers.get_mut(id) {
                    transfer.known.insert(chunk);
                }
                self.ask(id);
            }
            Event::Arrive(id, chunk) => self.arrive(id, chunk),
            Event::Rate(id, rate) => {
                let Some(transfer) = self.transfers.get_mut(id) else { return };
                let before = transfer.rate;
                transfer.rate = rate;
                let (site, kept_at) = (transfer.grant.source, transfer.free_at.max(self.now));
                let leader = &mut self.leaders[site.0 as usize];
                leader.granted_up = leader.granted_up + rate - before;
                self.at(kept_at + self.latency(), Event::Confirmed(id));
            }
            Event::Withdrawn(id) => {
                let Some(transfer) = self.transfers.get_mut(id) else { return };
                transfer.ended = true;
                let stops_at = transfer.free_at.max(self.now);
                self.at(stops_at + 2 * self.latency(), Event::Stopped(id));
            }
            Event::Stopped(id) => {
                self.book.stopped(GrantId(id));
                self.changed = true;
                self.forget(id);
            }
            Event::Confirmed(id) => self.book.rate_confirmed(GrantId(id)),
            Event::SourceGone(id) => self.forget(id),
            Event::Falls(site) => {
                let leader = &mut self.leaders[site as usize];
                leader.up /= 10;
                let up = self.network.up(SiteId(site)).0 as usize;
                self.meter.set_capacity(up, f64::MAX);
            }
        }
    }

    /// The transfer ends; what was under way by it is missing again.
    fn forget(&mut self, id: u64) {
        let Some(transfer) = self.transfers.remove(id) else { return };
        let source = &mut self.leaders[transfer.grant.source.0 as usize];
        source.serves.retain(|other| *other != id);
        source.granted_up -= transfer.rate;
        let destination = transfer.grant.destination.0 as usize;
        let leader = &mut self.leaders[destination];
        leader.sources.retain(|other| *other != id);
        for chunk in transfer.asked {
            leader.fetching.remove(chunk);
        }
        for other in leader.sources.clone() {
            self.ask(other);
        }
    }

    fn granted(&mut self, id: u64) {
        let Some(standing) = self.book.get(GrantId(id)) else { return };
        let grant = standing.grant;
        let (source, destination) = (grant.source.0 as usize, grant.destination.0 as usize);
        if self.leaders[source].dies_at <= self.now || self.leaders[destination].dies_at <= self.now {
            return;
        }
        self.transfers.insert(
            id,
            Transfer {
                grant,
                rate: grant.rate_bytes_per_sec,
                known: ChunkSet::empty(self.scenario.chunks()),
                asked: Vec::new(),
                free_at: self.now,
                ended: false,
                slow_since: None,
            },
        );
        self.leaders[source].serves.push(id);
        self.leaders[source].granted_up += grant.rate_bytes_per_sec;
        self.leaders[destination].sources.push(id);
        let held: Vec<u32> = self.leaders[source].held.iter().filter(|chunk| grant.selector.admits(*chunk)).collect();
        self.control += size::HAVE + u64::from(self.scenario.chunks()) / 8;
        self.later(Event::Snapshot(id, held));
    }

    /// Asks for chunks as long as the transfer's pipe is not full.
    fn ask(&mut self, id: u64) {
        let latency = self.latency();
        loop {
            let Some(transfer) = self.transfers.get(id) else { return };
            let (source, destination) = (transfer.grant.source, transfer.grant.destination);
            let leader = &self.leaders[destination.0 as usize];
            let in_flight = 2 * latency * transfer.rate / 1_000_000;
            let window = in_flight.div_ceil(self.scenario.chunk_bytes) as usize + 1;
            if transfer.ended || transfer.asked.len() >= window || leader.dies_at <= self.now {
                return;
            }
            let sources: Vec<Source<'_>> = leader
                .sources
                .iter()
                .filter_map(|other| self.transfers.get(*other))
                .map(|other| Source { selector: other.grant.selector, held: &other.known, asked: &other.asked })
                .collect();
            let Some(place) = leader.sources.iter().position(|other| *other == id) else { return };
            let (held, fetching, doubled) = (&leader.held, &leader.fetching, &leader.doubled);
            let Some(pick) = pick(&View { held, fetching, doubled, sources: &sources, start: 0 }, place) else {
                return;
            };
            if leader.held.contains(pick.chunk) {
                self.outcome.verified_fetched_twice += 1;
            }
            let leader = &mut self.leaders[destination.0 as usize];
            if pick.is_duplicate {
                leader.doubled.insert(pick.chunk);
            } else {
                leader.fetching.insert(pick.chunk);
            }
            self.send(id, pick.chunk, source, destination);
        }
    }

    /// The source sends a chunk, after those that were asked for before, at the rate of the grant, or
    /// at its part of what the source has when that is less than what was granted.
    fn send(&mut self, id: u64, chunk: u32, source: SiteId, destination: SiteId) {
        let latency = self.latency();
        let from = &self.leaders[source.0 as usize];
        let Some(transfer) = self.transfers.get_mut(id) else { return };
        let rate = if from.granted_up > from.up {
            u64::try_from(u128::from(transfer.rate) * u128::from(from.up) / u128::from(from.granted_up)).unwrap_or(1)
        } else {
            transfer.rate
        };
        if rate * 2 < transfer.rate {
            transfer.slow_since.get_or_insert(self.now);
        } else {
            transfer.slow_since = None;
        }
        let bytes = self.scenario.chunk_bytes.min(self.scenario.bytes - u64::from(chunk) * self.scenario.chunk_bytes);
        let begins = (self.now + latency).max(transfer.free_at);
        let ends = begins + bytes * 1_000_000 / rate.max(1);
        transfer.free_at = ends;
        transfer.asked.push(chunk);
        self.control += size::REQUEST + size::ANSWER;
        let path = self.network.path(source, destination);
        for resource in path.resources() {
            self.meter.enter(resource.0 as usize, begins, ends, rate as f64 / 1e6);
        }
        self.at(ends + latency + bytes / VERIFY_BYTES_PER_MICRO, Event::Arrive(id, chunk));
    }

    fn arrive(&mut self, id: u64, chunk: u32) {
        let Some(transfer) = self.transfers.get_mut(id) else { return };
        let (source, destination) = (transfer.grant.source, transfer.grant.destination);
        let sent_at = self.now - self.scenario.latency_ms * 1000;
        // What was on its way when the source died is there only in part.
        if self.leaders[source.0 as usize].dies_at < sent_at || self.leaders[destination.0 as usize].dies_at <= self.now
        {
            return;
        }
        transfer.asked.retain(|other| *other != chunk);
        let leader = &mut self.leaders[destination.0 as usize];
        leader.fetching.remove(chunk);
        leader.last_arrival = self.now;
        self.payload += self.scenario.chunk_bytes;
        let regions = [source, destination].map(|site| self.network.site(site).map(|known| known.region));
        if let [Some(from), Some(to)] = regions
            && from != to
        {
            self.crossed[to.0 as usize] += self.scenario.chunk_bytes;
        }
        if !leader.held.insert(chunk) {
            self.outcome.arrived_twice += 1;
        } else {
            leader.unreported.push_back((self.now, chunk));
            if leader.held.is_full() {
                leader.complete_at = Some(self.now);
                self.incomplete -= 1;
            }
            for other in leader.serves.clone() {
                if self.transfers.get(other).is_some_and(|other| other.grant.selector.admits(chunk)) {
                    self.control += size::HAVE;
                    self.later(Event::Learn(other, chunk));
                }
            }
        }
        self.ask(id);
    }

    fn finish(mut self) -> Outcome {
        self.meter.advance(self.now + Duration::from_secs(2).as_micros() as u64);
        let last = |counts: &dyn Fn(&SitePlan) -> bool| {
            let counted = self.leaders.iter().zip(&self.fleet).skip(1).filter(|(_, site)| counts(site));
            counted.map(|(leader, _)| leader.complete_at).try_fold(0, |last, at| at.map(|at| last.max(at)))
        };
        let survives = |site: &SitePlan| site.dies_at.is_none();
        let is_fast = |site: &SitePlan| site.dies_at.is_none() && !site.is_slow;
        self.outcome.last_s = last(&survives).map(|at| at as f64 / 1e6);
        self.outcome.ratio = self.outcome.last_s.map(|last| last / self.outcome.bound_s);
        let fast_bound = bound_seconds(self.scenario, &self.fleet, is_fast);
        self.outcome.fast_ratio = last(&is_fast).map(|at| at as f64 / 1e6 / fast_bound);
        let most = self.crossed.iter().copied().max().unwrap_or(0);
        let whole = u64::from(self.scenario.chunks()) * self.scenario.chunk_bytes;
        self.outcome.copies_into_region = most as f64 / whole as f64;
        self.outcome.control_share = self.control as f64 / self.payload.max(1) as f64;
        self.outcome.over_capacity = self.meter.worst();
        self.outcome
    }
}
