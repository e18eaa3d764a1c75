//! How fast each site shall receive an object.
//!
//! All sites that can keep up receive at one rate, the stream's: the greatest at which what all
//! receive together does not exceed what all can send together, and that the holders can feed
//! (Kumar and Ross's bound, turned round). Slower sites are paced at their own rate from the start,
//! so that they are never idle and never hold a fast site's way up.
//!
//! Each class of chunks has its own tree and its share of the rate. A site can serve a whole number
//! of such shares, so the stream's rate is lowered a little where that lets enough shares fit.

use crate::demand::Demand;
use crate::ledger::Ledger;
use crate::network::{Network, SiteId};

/// By how much the stream's rate is lowered in one step while shares are fitted, in ten-thousandths.
const STEP: u64 = 25;
/// How many steps at most: it is lowered by a quarter at most.
const STEPS_MAX: u64 = 100;
/// How many of them so that slow sites need not serve: 4 %.
const STEPS_FOR_SLOW: u64 = 16;

/// What may be used for one object.
#[derive(Debug, Clone)]
pub(crate) struct Shares {
    pub(crate) up: Vec<u64>,
    pub(crate) down: Vec<u64>,
}

impl Shares {
    /// Everything that the ledger allows at all.
    pub(crate) fn all(network: &Network, ledger: &Ledger) -> Self {
        let sites = || (0..network.sites().len()).map(|site| SiteId(u32::try_from(site).unwrap_or(u32::MAX)));
        Self {
            up: sites().map(|site| ledger.capacity(network.up(site))).collect(),
            down: sites().map(|site| ledger.capacity(network.down(site))).collect(),
        }
    }

    /// One of so many equal parts.
    pub(crate) fn part(&self, parts: u64) -> Self {
        let divide = |rates: &[u64]| rates.iter().map(|rate| rate / parts.max(1)).collect();
        Self { up: divide(&self.up), down: divide(&self.down) }
    }

    /// Takes out what an object of higher priority will use: what its sites receive, and of all ways
    /// up the same part.
    pub(crate) fn without(&mut self, rates: &[u64]) {
        let needed: u64 = rates.iter().sum();
        let there: u64 = self.up.iter().sum::<u64>().max(1);
        for (down, rate) in self.down.iter_mut().zip(rates) {
            *down = down.saturating_sub(*rate);
        }
        let left = there.saturating_sub(needed);
        for up in &mut self.up {
            *up = u64::try_from(u128::from(*up) * u128::from(left) / u128::from(there)).unwrap_or(0);
        }
    }
}

/// The rate at which each site shall receive the object; zero for sites that need nothing.
pub(crate) fn targets(network: &Network, ledger: &Ledger, demand: &Demand, shares: &Shares, relays: bool) -> Vec<u64> {
    let mut limits = vec![0; network.sites().len()];
    let (mut sent, mut held, mut senders) = (0, 0, Vec::new());
    let mut fed = vec![false; network.region_count()];
    for (site, known) in (0u32..).map(SiteId).zip(network.sites()).filter(|(_, known)| known.online) {
        let up = shares.up[site.index()];
        let lacks = demand.lacks(site);
        let holds = demand.holds(site) && !lacks;
        if holds {
            held += up;
            fed[known.region.0 as usize] = true;
        }
        if holds || (lacks && relays) {
            sent += up;
            let keeps_up = if holds { u64::MAX } else { shares.down[site.index()] };
            senders.push((up, keeps_up));
        }
        if lacks {
            limits[site.index()] = shares.down[site.index()];
        }
    }
    for (limit, known) in limits.iter_mut().zip(network.sites()) {
        // What no site of the region holds must come in, and is spread from there.
        if let (false, Some(border)) = (fed[known.region.0 as usize], network.region_in(known.region)) {
            *limit = (*limit).min(ledger.capacity(border));
        }
    }
    let fluid = stream_rate(&limits, sent, if held == 0 { u64::MAX } else { held });
    let classes = u64::from(demand.classes());
    let rate = if relays { whole_shares(&limits, &senders, fluid, classes) } else { fluid };
    limits.into_iter().map(|limit| limit.min(rate)).collect()
}

/// The greatest rate that the holders can feed and all senders together can carry.
fn stream_rate(limits: &[u64], sent: u64, held: u64) -> u64 {
    let (mut low, mut high) = (0, held.min(limits.iter().copied().max().unwrap_or(0)));
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        let needed: u64 = limits.iter().map(|limit| limit.min(&middle)).sum();
        if needed <= sent {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    low
}

/// The greatest rate, in steps from the fluid one downwards, at which senders can serve as many
/// whole shares as are needed. Senders are given with what they receive at most.
///
/// At first a little is given up so that slow sites need not serve each other: each step from slow to
/// slow takes as long as a slow chunk. Where that is not enough, what slow ones can send counts too.
fn whole_shares(limits: &[u64], senders: &[(u64, u64)], fluid: u64, classes: u64) -> u64 {
    fitting(limits, senders, fluid, classes, false, STEPS_FOR_SLOW)
        .or_else(|_| fitting(limits, senders, fluid, classes, true, STEPS_MAX))
        .unwrap_or_else(|best| best)
}

/// The greatest rate that fits within so many steps, or else the one that delivers most.
fn fitting(
    limits: &[u64],
    senders: &[(u64, u64)],
    fluid: u64,
    classes: u64,
    slow_serve: bool,
    steps: u64,
) -> Result<u64, u64> {
    let mut best = (0, fluid);
    for step in 0..=steps {
        let rate = fluid - fluid * step * STEP / 10_000;
        let share = rate / classes;
        if share == 0 {
            break;
        }
        let fast = limits.iter().filter(|limit| **limit >= rate).count() as u64 * classes;
        let slow = limits.iter().copied().filter(|limit| (1..rate).contains(limit));
        let (mut slow_needed, mut slow_share) = (0, 0);
        for limit in slow {
            slow_needed += limit;
            slow_share = slow_share.max(limit / classes);
        }
        let may_serve = |receives: u64| slow_serve || receives >= rate;
        let ups = || senders.iter().filter(|(_, receives)| may_serve(*receives)).map(|(up, _)| up);
        let whole: u64 = ups().map(|up| up / share).sum();
        // Of what is left over on each way up, only whole shares of the slower ones can be used.
        let rest: u64 = match slow_share {
            0 => 0,
            part => ups().map(|up| up % share / part * part).sum(),
        };
        let fits = whole >= fast && whole.saturating_sub(fast) * share + rest >= slow_needed;
        if fits {
            return Ok(rate);
        }
        // Where nothing fits, what delivers most.
        let delivered = whole.min(fast) * share;
        if delivered > best.0 {
            best = (delivered, rate);
        }
    }
    Err(best.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_is_as_fast_as_holders_can_feed_and_all_can_carry() {
        assert_eq!(stream_rate(&[100, 100], 300, 100), 100);
        assert_eq!(stream_rate(&[100, 100], 300, 50), 50, "the holder feeds no more");
        assert_eq!(stream_rate(&[100, 100], 120, 100), 60, "together they send 120");
        assert_eq!(stream_rate(&[100, 10], 80, 100), 70, "the slow one takes 10 of it");
    }

    #[test]
    fn the_rate_gives_way_until_slow_sites_find_whole_shares() {
        // 101 senders of 100: all shares of 25 are needed by the 100 fast ones but four, and 20 slow
        // ones need 200 in all.
        let limits: Vec<u64> = std::iter::repeat_n(10_000, 100).chain(std::iter::repeat_n(1_000, 20)).collect();
        let senders = vec![(10_000, 10_000); 101];
        let rate = whole_shares(&limits, &senders, 10_000, 4);
        assert!((9_700..=9_750).contains(&rate), "{rate}: each has 250 left, a share of a slow one");
        assert_eq!(whole_shares(&limits[..100], &senders, 10_000, 4), 10_000);
    }
}
