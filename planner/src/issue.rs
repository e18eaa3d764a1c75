//! From what stands to what is planned, without a moment in which anything is over its capacity.
//!
//! A plan says what shall be; what stands may be flowing until its destination has said that it
//! stopped. So a new grant is given only when it fits beside everything that may still flow, and
//! otherwise waits for the next time.

use std::collections::BTreeMap;
use std::time::Duration;

use common::digest::Digest;
use common::time::Timestamp;

use crate::calendar::WeekSecond;
use crate::demand::Demand;
use crate::grant::{Book, GRANT_LIFETIME, Grant, GrantId, Selector};
use crate::ledger::Ledger;
use crate::network::{Network, SiteId};
use crate::plan::Edge;

/// Once less than this is left, a grant is renewed. Half its life: one renewal may be lost.
const RENEW_BEFORE: Duration = Duration::from_secs(GRANT_LIFETIME.as_secs() / 2);

/// What is to be told to sites.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Orders {
    /// Grants that end now; the destination says when it has stopped.
    pub withdraw: Vec<GrantId>,
    /// Grants whose rate changes; of a lower one the destination says when it keeps to it.
    pub change: Vec<(GrantId, u64)>,
    /// New grants.
    pub grant: Vec<Grant>,
    /// Grants that last longer, and until when.
    pub renew: Vec<(GrantId, Timestamp)>,
    /// How many planned copy operations wait for something to stop.
    pub waiting: usize,
}

/// What stands, as a plan sees it. Withdrawn grants are no part of it.
#[must_use]
pub fn standing_edges(demands: &[Demand], book: &Book) -> Vec<Edge> {
    let places: BTreeMap<Digest, usize> =
        demands.iter().enumerate().map(|(place, demand)| (demand.object, place)).collect();
    let mut edges: Vec<Edge> = book
        .standing()
        .filter(|standing| !standing.withdrawn)
        .filter_map(|standing| {
            let Grant { source, destination, selector, rate_bytes_per_sec, .. } = standing.grant;
            let demand = *places.get(&standing.grant.object)?;
            Some(Edge { demand, selector, destination, source, rate_bytes_per_sec })
        })
        .collect();
    edges.sort_unstable();
    edges
}

/// What has to be said so that what stands becomes what is planned.
#[must_use]
pub fn orders(
    network: &Network,
    demands: &[Demand],
    book: &Book,
    plan: &[Edge],
    now: Timestamp,
    week_second: WeekSecond,
) -> Orders {
    let mut orders = Orders::default();
    let mut ledger = Ledger::open(network, week_second, GRANT_LIFETIME);
    book.occupy(network, &mut ledger);
    let ends_at = now + GRANT_LIFETIME;
    type Key = (Digest, Selector, SiteId, SiteId);
    let mut wanted: Vec<(Key, u64)> = plan
        .iter()
        .map(|edge| {
            let object = demands[edge.demand].object;
            ((object, edge.selector, edge.destination, edge.source), edge.rate_bytes_per_sec)
        })
        .collect();
    wanted.sort_unstable();
    let mut stands = vec![false; wanted.len()];
    for standing in book.standing().filter(|standing| !standing.withdrawn) {
        let Grant { id, source, destination, object, selector, rate_bytes_per_sec, .. } = standing.grant;
        let key = (object, selector, destination, source);
        let Ok(place) = wanted.binary_search_by(|(other, _)| other.cmp(&key)) else {
            orders.withdraw.push(id);
            continue;
        };
        stands[place] = true;
        let rate = wanted[place].1;
        let path = network.path(source, destination);
        let more = rate.saturating_sub(standing.booked_bytes_per_sec);
        if rate != rate_bytes_per_sec && ledger.book(&path, more).is_ok() {
            orders.change.push((id, rate));
        }
        // What may still flow faster than it shall was booked for a time when that was allowed.
        if standing.grant.ends_at <= now + RENEW_BEFORE && rate >= standing.booked_bytes_per_sec {
            orders.renew.push((id, ends_at));
        }
    }
    let mut next = book.next_id();
    for (((object, selector, destination, source), rate_bytes_per_sec), stands) in wanted.into_iter().zip(stands) {
        if stands {
            continue;
        }
        if ledger.book(&network.path(source, destination), rate_bytes_per_sec).is_err() {
            orders.waiting += 1;
            continue;
        }
        let id = GrantId(next);
        next += 1;
        orders.grant.push(Grant { id, source, destination, object, selector, rate_bytes_per_sec, ends_at });
    }
    orders
}

/// Notes what is told to sites. The driver calls it before it tells them.
pub fn note(book: &mut Book, orders: &Orders) {
    orders.withdraw.iter().for_each(|id| book.withdraw(*id));
    orders.change.iter().for_each(|(id, rate)| book.change(*id, *rate));
    orders.renew.iter().for_each(|(id, ends_at)| book.renew(*id, *ends_at));
    orders.grant.iter().for_each(|grant| book.add(*grant));
}
