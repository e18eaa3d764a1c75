//! How much every resource carries in every second.

/// Length of a bin in microseconds.
const BIN: u64 = 100_000;
/// Bins that are kept: transfers are entered when they are asked for, up to so far ahead.
const BINS: u64 = 256;
/// Bins of the window that is looked at.
const WINDOW: u64 = 10;

/// Bytes by resource and tenth of a second.
#[derive(Debug)]
pub struct Meter {
    capacity: Vec<f64>,
    bytes: Vec<f32>,
    /// The first bin that is not closed.
    open: u64,
    worst: f64,
}

impl Meter {
    /// For resources of these capacities, in bytes per second.
    #[must_use]
    pub fn new(capacity: Vec<f64>) -> Self {
        let bytes = vec![0.0; capacity.len() * BINS as usize];
        Self { capacity, bytes, open: 0, worst: 0.0 }
    }

    /// Enters a transfer.
    pub fn enter(&mut self, resource: usize, from: u64, to: u64, bytes_per_micro: f64) {
        let mut at = from;
        while at < to {
            let bin = at / BIN;
            let end = ((bin + 1) * BIN).min(to);
            if bin >= self.open && bin < self.open + BINS - WINDOW {
                let place = resource * BINS as usize + (bin % BINS) as usize;
                self.bytes[place] += ((end - at) as f64 * bytes_per_micro) as f32;
            }
            at = end;
        }
    }

    /// Time has come so far: looks at every window that has ended.
    pub fn advance(&mut self, now: u64) {
        while (self.open + 1) * BIN <= now {
            for (resource, capacity) in self.capacity.iter().enumerate().filter(|(_, capacity)| **capacity > 0.0) {
                let bins = &mut self.bytes[resource * BINS as usize..(resource + 1) * BINS as usize];
                let sum: f32 = (0..WINDOW).map(|back| bins[((self.open + BINS - back) % BINS) as usize]).sum();
                self.worst = self.worst.max(f64::from(sum) / capacity);
                // What leaves the window makes room for what lies ahead.
                bins[((self.open + BINS - WINDOW + 1) % BINS) as usize] = 0.0;
            }
            self.open += 1;
        }
    }

    /// The most that any resource carried in any second, over its capacity.
    #[must_use]
    pub fn worst(&self) -> f64 {
        self.worst
    }

    /// What a resource can carry changes.
    pub fn set_capacity(&mut self, resource: usize, capacity: f64) {
        self.capacity[resource] = capacity;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_second_is_found_wherever_it_begins() {
        let mut meter = Meter::new(vec![100.0]);
        meter.enter(0, 0, 2_000_000, 90e-6);
        meter.enter(0, 600_000, 1_100_000, 40e-6);
        meter.advance(3_000_000);
        assert!((meter.worst() - 1.1).abs() < 1e-3, "{}", meter.worst());
    }
}
