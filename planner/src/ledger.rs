//! What of every resource is booked (001 claim 28).
//!
//! Nothing is booked but through [`Ledger::book`], which refuses what does not fit, so that a ledger
//! over its capacity cannot come about.

use std::time::Duration;

use crate::calendar::WeekSecond;
use crate::network::{Network, Path, ResourceId};

/// What does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("resource {} has {free_bytes_per_sec} B/s left, {asked_bytes_per_sec} were asked for", .resource.0)]
pub struct OverCapacity {
    /// The tightest resource.
    pub resource: ResourceId,
    /// What it has left.
    pub free_bytes_per_sec: u64,
    /// What was asked for.
    pub asked_bytes_per_sec: u64,
}

/// Capacities for the time of one grant, and what is booked of them.
#[derive(Debug, Clone)]
pub struct Ledger {
    capacity: Vec<u64>,
    free: Vec<u64>,
}

impl Ledger {
    /// An empty ledger: each resource's least capacity from this second until grants made in it end.
    #[must_use]
    pub fn open(network: &Network, from: WeekSecond, lifetime: Duration) -> Self {
        let seconds = u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX).saturating_add(1);
        let capacity: Vec<u64> = network
            .resources()
            .iter()
            .map(|resource| {
                if resource.failed {
                    return 0;
                }
                let allowed = resource.calendar.least_within(from, seconds);
                resource.measured_bytes_per_sec.map_or(allowed, |measured| measured.min(allowed))
            })
            .collect();
        Self { free: capacity.clone(), capacity }
    }

    /// What a resource can carry.
    #[must_use]
    pub fn capacity(&self, resource: ResourceId) -> u64 {
        self.capacity[resource.index()]
    }

    /// What is not booked.
    #[must_use]
    pub fn free(&self, resource: ResourceId) -> u64 {
        self.free[resource.index()]
    }

    /// What is not booked anywhere along a path.
    #[must_use]
    pub fn residual(&self, path: &Path) -> u64 {
        path.resources().iter().map(|resource| self.free[resource.index()]).min().unwrap_or(0)
    }

    /// Books a rate on all resources of a path, or on none.
    pub fn book(&mut self, path: &Path, rate_bytes_per_sec: u64) -> Result<(), OverCapacity> {
        let tightest = path.resources().iter().copied().min_by_key(|resource| self.free[resource.index()]);
        if let Some(resource) = tightest
            && self.free[resource.index()] < rate_bytes_per_sec
        {
            return Err(OverCapacity {
                resource,
                free_bytes_per_sec: self.free[resource.index()],
                asked_bytes_per_sec: rate_bytes_per_sec,
            });
        }
        for resource in path.resources() {
            self.free[resource.index()] -= rate_bytes_per_sec;
        }
        Ok(())
    }

    /// Books what flows already, even where a capacity has shrunk below it: then nothing is left.
    pub fn occupy(&mut self, path: &Path, rate_bytes_per_sec: u64) {
        for resource in path.resources() {
            let free = &mut self.free[resource.index()];
            *free = free.saturating_sub(rate_bytes_per_sec);
        }
    }

    /// Gives back what was booked on a path.
    pub fn release(&mut self, path: &Path, rate_bytes_per_sec: u64) {
        for resource in path.resources() {
            let index = resource.index();
            self.free[index] = (self.free[index] + rate_bytes_per_sec).min(self.capacity[index]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calendar::Calendar;

    #[test]
    fn what_does_not_fit_on_one_resource_is_booked_on_none() {
        let mut network = Network::default();
        let region = network.add_region(None, None);
        let cap = Calendar::always;
        let wide = network.add_site(region, None, cap(100), cap(100)).expect("known");
        let narrow = network.add_site(region, None, cap(10), cap(10)).expect("known");
        let mut ledger = Ledger::open(&network, WeekSecond(0), Duration::from_secs(10));
        let path = network.path(wide, narrow);
        let refused = ledger.book(&path, 11).expect_err("the narrow one carries 10");
        assert_eq!((refused.resource, refused.free_bytes_per_sec), (network.down(narrow), 10));
        assert_eq!((ledger.free(network.up(wide)), ledger.free(network.down(narrow))), (100, 10));
        assert_eq!(ledger.book(&path, 10), Ok(()));
        assert_eq!((ledger.residual(&path), ledger.free(network.up(wide))), (0, 90));
        ledger.release(&path, 10);
        assert_eq!(ledger.residual(&path), 10);
    }
}
