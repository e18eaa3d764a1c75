//! What a fleet looks like and what happens to it.

use clap::Args;
use planner::calendar::Calendar;
use planner::network::{Network, RegionId, SiteId};
use rand::RngExt;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

/// A fleet, an object, and faults.
#[derive(Debug, Clone, Args)]
pub struct Scenario {
    /// Sites that are to get the object
    #[arg(long, default_value_t = 100)]
    pub sites: u32,
    /// Bytes of the object
    #[arg(long, default_value_t = 1_000_000_000)]
    pub bytes: u64,
    /// Bytes of a chunk
    #[arg(long, default_value_t = 1 << 20)]
    pub chunk_bytes: u64,
    /// One way between any two, in milliseconds
    #[arg(long, default_value_t = 50)]
    pub latency_ms: u64,
    /// Up and down of each site and of the source, in Mbit/s
    #[arg(long, default_value_t = 100.0)]
    pub mbit: f64,
    /// Up of each site, where it differs from down
    #[arg(long)]
    pub up_mbit: Option<f64>,
    /// Up of the source, where it differs
    #[arg(long)]
    pub source_mbit: Option<f64>,
    /// Each site's ways are multiplied by a random factor between this and 1
    #[arg(long, default_value_t = 1.0)]
    pub least_factor: f64,
    /// Slow sites, in per cent
    #[arg(long, default_value_t = 0.0)]
    pub slow_percent: f64,
    /// Up and down of slow sites, in Mbit/s
    #[arg(long, default_value_t = 10.0)]
    pub slow_mbit: f64,
    /// Sites that die, in per cent
    #[arg(long, default_value_t = 0.0)]
    pub killed_percent: f64,
    /// When they die, as a part of the bound
    #[arg(long, default_value_t = 0.5)]
    pub killed_at: f64,
    /// Sites whose way up falls to a tenth, in per cent, at a quarter of the bound
    #[arg(long, default_value_t = 0.0)]
    pub falling_percent: f64,
    /// Regions among which sites are divided; the source has one of its own
    #[arg(long, default_value_t = 1)]
    pub regions: u32,
    /// What may enter each region, in Mbit/s; with more than one region
    #[arg(long)]
    pub region_mbit: Option<f64>,
    /// Classes into which chunks are divided
    #[arg(long, default_value_t = 4)]
    pub classes: u32,
    /// How often is planned, in milliseconds
    #[arg(long, default_value_t = 500)]
    pub tick_ms: u64,
    /// For all that is chosen by chance
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Has the checker look at every plan
    #[arg(long)]
    pub check: bool,
}

/// What a site is like besides its place in the network.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SitePlan {
    /// In bytes per second.
    pub up: u64,
    /// In bytes per second.
    pub down: u64,
    /// Far slower than others.
    pub is_slow: bool,
    /// When it dies, in microseconds.
    pub dies_at: Option<u64>,
    /// When its way up falls to a tenth, in microseconds.
    pub falls_at: Option<u64>,
}

/// Bytes per second.
fn bytes(mbit: f64) -> u64 {
    (mbit * 125_000.0) as u64
}

impl Scenario {
    /// How many chunks the object has.
    #[must_use]
    pub fn chunks(&self) -> u32 {
        u32::try_from(self.bytes.div_ceil(self.chunk_bytes)).expect("an object has fewer than 2^32 chunks")
    }

    /// The source, which is the first, and all sites.
    #[must_use]
    pub fn fleet(&self) -> Vec<SitePlan> {
        let mut chance = ChaCha8Rng::seed_from_u64(self.seed);
        let (down, up) = (bytes(self.mbit), bytes(self.up_mbit.unwrap_or(self.mbit)));
        let plain = SitePlan { up, down, is_slow: false, dies_at: None, falls_at: None };
        let source = SitePlan { up: bytes(self.source_mbit.unwrap_or(self.mbit)), ..plain };
        let mut fleet = vec![source];
        fleet.extend((0..self.sites).map(|_| plain));
        if self.least_factor < 1.0 {
            for site in &mut fleet[1..] {
                let factor = chance.random_range(self.least_factor..1.0);
                site.up = (up as f64 * factor) as u64;
                let factor = chance.random_range(self.least_factor..1.0);
                site.down = (down as f64 * factor) as u64;
            }
        }
        let share = |percent: f64| (f64::from(self.sites) * percent / 100.0).round() as usize;
        let mut order: Vec<usize> = (1..=self.sites as usize).collect();
        order.shuffle(&mut chance);
        for site in order.iter().take(share(self.slow_percent)) {
            let rate = bytes(self.slow_mbit);
            fleet[*site] = SitePlan { up: rate, down: rate, is_slow: true, ..plain };
        }
        let bound = bound_seconds(self, &fleet, |_| true);
        order.shuffle(&mut chance);
        for site in order.iter().take(share(self.killed_percent)) {
            fleet[*site].dies_at = Some((bound * self.killed_at * 1e6) as u64);
        }
        order.shuffle(&mut chance);
        for site in order.iter().take(share(self.falling_percent)) {
            fleet[*site].falls_at = Some((bound * 0.25 * 1e6) as u64);
        }
        fleet
    }

    /// The network as the planner is told of it.
    #[must_use]
    pub fn network(&self, fleet: &[SitePlan]) -> Network {
        let mut network = Network::default();
        let home = network.add_region(None, None);
        let border = || self.region_mbit.map(|mbit| Calendar::always(bytes(mbit)));
        let regions: Vec<RegionId> = if self.regions > 1 {
            (0..self.regions).map(|_| network.add_region(border(), None)).collect()
        } else {
            vec![home]
        };
        for (number, site) in fleet.iter().enumerate() {
            let region = if number == 0 { home } else { regions[(number - 1) % regions.len()] };
            network
                .add_site(region, None, Calendar::always(site.up), Calendar::always(site.down))
                .expect("the region was just added");
        }
        network
    }

    /// The source's place.
    pub const SOURCE: SiteId = SiteId(0);
}

/// The time below which these sites cannot all have the object, in seconds: max(S/u_s, S/d_min,
/// N·S/(u_s + Σ u_i)), and what must enter each region.
#[must_use]
pub fn bound_seconds(scenario: &Scenario, fleet: &[SitePlan], counts: impl Fn(&SitePlan) -> bool) -> f64 {
    let size = scenario.bytes as f64;
    let source = fleet[0].up as f64;
    let sites: Vec<&SitePlan> = fleet[1..].iter().filter(|site| counts(site)).collect();
    let slowest = sites.iter().map(|site| site.down).min().unwrap_or(u64::MAX) as f64;
    let together = source + sites.iter().map(|site| site.up as f64).sum::<f64>();
    let border = scenario.region_mbit.map_or(0.0, |mbit| size / bytes(mbit) as f64);
    (size / source).max(size / slowest).max(sites.len() as f64 * size / together).max(border)
}
