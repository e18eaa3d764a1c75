//! How much a resource may carry, by the time of the week.
//!
//! A grant outlives the moment in which it is made. What counts for it is the least capacity between
//! then and its end, so that a window that closes is respected from its first second.

/// Minutes of a week.
pub const WEEK_MINUTES: u32 = 7 * 24 * 60;
/// Seconds of a week.
pub const WEEK_SECONDS: u32 = WEEK_MINUTES * 60;

/// A second of the week in the place whose clock the windows follow: 0 is Monday, 00:00:00.
/// Time zones are the caller's business.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct WeekSecond(pub u32);

/// A stretch of the week in which another capacity holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// First minute of the week. A window may run over the end of the week.
    pub from_minute: u32,
    /// How many minutes it lasts.
    pub minutes: u32,
    /// What may be carried meanwhile; zero closes the resource.
    pub rate_bytes_per_sec: u64,
}

impl Window {
    fn holds_at(&self, second: u32) -> bool {
        let from = self.from_minute % WEEK_MINUTES * 60;
        (second + WEEK_SECONDS - from) % WEEK_SECONDS < self.minutes.min(WEEK_MINUTES) * 60
    }
}

/// The administrator's limits for one resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Calendar {
    /// What holds outside all windows.
    pub rate_bytes_per_sec: u64,
    /// Where windows overlap, the lowest rate holds.
    pub windows: Vec<Window>,
}

impl Calendar {
    /// The same at all times.
    #[must_use]
    pub fn always(rate_bytes_per_sec: u64) -> Self {
        Self { rate_bytes_per_sec, windows: Vec::new() }
    }

    /// What holds in this second.
    #[must_use]
    pub fn at(&self, second: WeekSecond) -> u64 {
        let second = second.0 % WEEK_SECONDS;
        let inside = self.windows.iter().filter(|window| window.holds_at(second));
        inside.map(|window| window.rate_bytes_per_sec).min().unwrap_or(self.rate_bytes_per_sec)
    }

    /// The least that holds in any second of the next `seconds`.
    #[must_use]
    pub fn least_within(&self, from: WeekSecond, seconds: u32) -> u64 {
        if self.windows.is_empty() {
            return self.rate_bytes_per_sec;
        }
        // It changes only where a window begins or ends.
        let from = from.0 % WEEK_SECONDS;
        let edges = self.windows.iter().flat_map(|window| {
            let begins = window.from_minute % WEEK_MINUTES * 60;
            [begins, (begins + window.minutes.min(WEEK_MINUTES) * 60) % WEEK_SECONDS]
        });
        edges
            .filter(|edge| (edge + WEEK_SECONDS - from) % WEEK_SECONDS <= seconds)
            .chain([from])
            .map(|second| self.at(WeekSecond(second)))
            .min()
            .unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nights() -> Calendar {
        // Monday 22:00 to Tuesday 06:00, and a closed hour from Sunday 23:30 to Monday 00:30.
        let windows = vec![
            Window { from_minute: 22 * 60, minutes: 8 * 60, rate_bytes_per_sec: 900 },
            Window { from_minute: 6 * 24 * 60 + 23 * 60 + 30, minutes: 60, rate_bytes_per_sec: 0 },
        ];
        Calendar { rate_bytes_per_sec: 100, windows }
    }

    #[test]
    fn a_window_holds_from_its_first_second_to_its_last_and_over_the_end_of_the_week() {
        let at = |day: u32, hour: u32, minute: u32, second: u32| {
            nights().at(WeekSecond(((day * 24 + hour) * 60 + minute) * 60 + second))
        };
        assert_eq!((at(0, 21, 59, 59), at(0, 22, 0, 0)), (100, 900));
        assert_eq!((at(1, 5, 59, 59), at(1, 6, 0, 0)), (900, 100));
        assert_eq!((at(6, 23, 29, 59), at(6, 23, 30, 0), at(0, 0, 29, 59), at(0, 0, 30, 0)), (100, 0, 0, 100));
    }

    #[test]
    fn what_counts_is_the_least_until_the_grant_ends() {
        let tuesday_six = (24 + 6) * 3600;
        assert_eq!(nights().least_within(WeekSecond(tuesday_six - 11), 10), 900);
        assert_eq!(nights().least_within(WeekSecond(tuesday_six - 10), 10), 100);
        assert_eq!(nights().least_within(WeekSecond(WEEK_SECONDS - 1805), 10), 0);
    }

    #[test]
    fn the_least_of_a_stretch_is_what_a_look_at_each_second_finds() {
        let calendar = nights();
        for from in (0..WEEK_SECONDS).step_by(977) {
            let seen = (0..=40).map(|later| calendar.at(WeekSecond(from + later))).min();
            assert_eq!(Some(calendar.least_within(WeekSecond(from), 40)), seen, "from second {from}");
        }
    }
}
