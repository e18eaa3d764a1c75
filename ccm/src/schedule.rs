//! When something is due: an instant, or a pattern of cron in a time zone.
//!
//! Pure: it is told what time it is. Patterns are those of cron with five fields, and `L`, `#` and
//! `W`. When clocks are put forward, what would fall into the gap happens at its end; when they are
//! put back, a fixed time happens once, and what happens every few minutes goes on through both
//! hours (002 leaves it open; this is what Vixie's cron does).
//!
//! Leaves to others: what is done then (`engine::timetable`), and keeping it (`store::schedules`).

use std::fmt;
use std::str::FromStr as _;

use common::time::WallTime;
use croner::Cron;
use jiff::Zoned;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use crate::store::rfc3339;

/// Longest pattern, in bytes: lists of all minutes fit.
const PATTERN_BYTES_MAX: usize = 256;

/// When.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// Once.
    At(#[serde(with = "rfc3339")] WallTime),
    /// Again and again.
    Cron {
        /// Minute, hour, day of the month, month, day of the week.
        pattern: String,
        /// Name of the time zone, as `Europe/Vienna`.
        zone: String,
    },
}

/// Why a rule says nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// The pattern is none.
    #[error("{pattern:?} is no cron pattern of minute, hour, day, month and weekday, such as \"30 3 * * 1-5\": {why}")]
    Pattern {
        /// As given.
        pattern: String,
        /// What is wrong with it.
        why: String,
    },
    /// Nobody knows the zone.
    #[error("{zone:?} is no time zone such as Europe/Vienna or UTC")]
    Zone {
        /// As given.
        zone: String,
    },
    /// It never happens again.
    #[error("{rule} does not happen any more")]
    Never {
        /// The rule in words.
        rule: String,
    },
}

impl Rule {
    /// Checks it.
    ///
    /// # Errors
    /// [`RuleError`]; also when there is nothing after `now`.
    pub fn check(&self, now: WallTime) -> Result<(), RuleError> {
        if self.next_after(now)?.is_none() {
            return Err(RuleError::Never { rule: self.to_string() });
        }
        Ok(())
    }

    /// The first time after `now`; `None` when there is none.
    ///
    /// # Errors
    /// [`RuleError`] when pattern or zone cannot be used.
    pub fn next_after(&self, now: WallTime) -> Result<Option<WallTime>, RuleError> {
        match self {
            Self::At(at) => Ok(Some(*at).filter(|at| *at > now)),
            Self::Cron { pattern, zone } => {
                let (cron, zone) = (cron(pattern)?, time_zone(zone)?);
                let next = zoned(now, zone).and_then(|now| cron.find_next_occurrence(&now, false).ok());
                // A pattern such as the 30th of February has none.
                Ok(next.and_then(|next| u64::try_from(next.timestamp().as_millisecond()).ok()).map(WallTime))
            }
        }
    }

    /// The next times after `now`, `count` at most.
    ///
    /// # Errors
    /// As [`Rule::next_after`].
    pub fn upcoming(&self, now: WallTime, count: usize) -> Result<Vec<WallTime>, RuleError> {
        let mut times = Vec::new();
        let mut last = now;
        while times.len() < count
            && let Some(next) = self.next_after(last)?
        {
            times.push(next);
            last = next;
        }
        Ok(times)
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(at) => write!(f, "At {}", rfc3339::to_text(*at)),
            Self::Cron { pattern, zone } => match cron(pattern) {
                Ok(cron) => write!(f, "{}, {zone}", cron.describe().trim_end_matches('.')),
                Err(_) => write!(f, "{pattern}, {zone}"),
            },
        }
    }
}

fn cron(pattern: &str) -> Result<Cron, RuleError> {
    let error = |why: String| RuleError::Pattern { pattern: pattern.chars().take(80).collect(), why };
    if pattern.len() > PATTERN_BYTES_MAX {
        return Err(error("it is too long".to_owned()));
    }
    if pattern.split_whitespace().count() != 5 {
        return Err(error("it does not have five fields".to_owned()));
    }
    Cron::from_str(pattern).map_err(|e| error(e.to_string()))
}

fn time_zone(zone: &str) -> Result<TimeZone, RuleError> {
    TimeZone::get(zone).map_err(|_| RuleError::Zone { zone: zone.chars().take(80).collect() })
}

/// The time on a clock in the zone; `None` beyond what the calendar holds.
fn zoned(time: WallTime, zone: TimeZone) -> Option<Zoned> {
    let millis = i64::try_from(time.0).ok()?;
    Some(jiff::Timestamp::from_millisecond(millis).ok()?.to_zoned(zone))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "what goes wrong is a failed test")]

    use super::*;

    fn at(text: &str) -> WallTime {
        rfc3339::from_text(text).unwrap()
    }

    fn rule(pattern: &str, zone: &str) -> Rule {
        Rule::Cron { pattern: pattern.to_owned(), zone: zone.to_owned() }
    }

    fn times(rule: &Rule, after: &str, count: usize) -> Vec<String> {
        rule.upcoming(at(after), count).unwrap().into_iter().map(rfc3339::to_text).collect()
    }

    #[test]
    fn an_instant_happens_once() {
        let rule = Rule::At(at("2030-01-01T00:00:00Z"));
        assert_eq!(times(&rule, "2029-12-31T23:59:59.999Z", 5), ["2030-01-01T00:00:00.000Z"]);
        assert!(times(&rule, "2030-01-01T00:00:00Z", 5).is_empty());
        assert!(matches!(rule.check(at("2031-01-01T00:00:00Z")), Err(RuleError::Never { .. })));
    }

    #[test]
    fn a_pattern_is_read_on_the_clock_of_its_zone() {
        let weekdays = rule("30 3 * * 1-5", "Europe/Vienna");
        // A Friday in winter, then the Monday after.
        let expected = ["2026-01-16T02:30:00.000Z", "2026-01-19T02:30:00.000Z"];
        assert_eq!(times(&weekdays, "2026-01-16T00:00:00Z", 2), expected);
    }

    #[test]
    fn a_time_in_the_gap_of_spring_happens_at_its_end_and_once() {
        // Vienna, 29 March 2026: 02:00 becomes 03:00 at 01:00 UTC.
        let daily = rule("30 2 * * *", "Europe/Vienna");
        let expected = ["2026-03-28T01:30:00.000Z", "2026-03-29T01:00:00.000Z", "2026-03-30T00:30:00.000Z"];
        assert_eq!(times(&daily, "2026-03-27T12:00:00Z", 3), expected);
    }

    #[test]
    fn a_fixed_time_in_the_repeated_hour_of_autumn_happens_once() {
        // Vienna, 25 October 2026: 03:00 becomes 02:00 at 01:00 UTC.
        let daily = rule("30 2 * * *", "Europe/Vienna");
        let expected = ["2026-10-25T00:30:00.000Z", "2026-10-26T01:30:00.000Z"];
        assert_eq!(times(&daily, "2026-10-24T12:00:00Z", 2), expected);
    }

    #[test]
    fn what_happens_every_half_hour_goes_on_through_both_hours_of_autumn() {
        let often = rule("*/30 * * * *", "Europe/Vienna");
        let found = times(&often, "2026-10-24T23:59:00Z", 5);
        let expected = ["00:00", "00:30", "01:00", "01:30", "02:00"].map(|time| format!("2026-10-25T{time}:00.000Z"));
        assert_eq!(found, expected);
    }

    #[test]
    fn what_is_no_rule_is_refused_by_name() {
        let now = at("2026-01-01T00:00:00Z");
        for bad in ["", "* * * *", "* * * * * *", "61 * * * *", "x * * * *"] {
            assert!(matches!(rule(bad, "UTC").check(now), Err(RuleError::Pattern { .. })), "{bad}");
        }
        assert!(matches!(rule("* * * * *", "Mars/Olympus").check(now), Err(RuleError::Zone { .. })));
        assert!(matches!(rule("0 0 30 2 *", "UTC").check(now), Err(RuleError::Never { .. })));
    }

    #[test]
    fn people_read_it_in_words() {
        assert!(rule("30 3 * * 1", "UTC").to_string().contains("Monday"), "{}", rule("30 3 * * 1", "UTC"));
    }
}
