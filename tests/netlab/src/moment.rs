//! Moments of the day, as the logs of agents tell them.

use std::time::{SystemTime, UNIX_EPOCH};

const DAY_MICROS: u64 = 86_400_000_000;

/// A moment of the day, in microseconds since midnight UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

impl Moment {
    /// By the clock that the agents' logs go by.
    #[must_use]
    pub fn now() -> Self {
        let micros = SystemTime::now().duration_since(UNIX_EPOCH).map(|since| since.as_micros()).unwrap_or_default();
        Self(u64::try_from(micros % u128::from(DAY_MICROS)).unwrap_or_default())
    }

    /// From an earlier moment of the last twelve hours until this one, in seconds; nothing when the other
    /// is the later one.
    #[must_use]
    pub fn seconds_since(self, earlier: Self) -> Option<f64> {
        let micros = (self.0 + DAY_MICROS - earlier.0) % DAY_MICROS;
        #[expect(clippy::cast_precision_loss, reason = "a day of microseconds fits")]
        (micros < DAY_MICROS / 2).then(|| micros as f64 / 1e6)
    }

    /// When a line of a log without colours was written: it begins like `2026-01-31T12:34:56.123456Z`.
    #[must_use]
    pub fn of_line(line: &str) -> Option<Self> {
        let (_, time) = line.split_ascii_whitespace().next()?.strip_suffix('Z')?.split_once('T')?;
        let (clock, micros) = time.split_once('.')?;
        let seconds = clock.split(':').try_fold(0, |sum: u64, part| Some(sum * 60 + part.parse::<u64>().ok()?))?;
        Some(Self(seconds * 1_000_000 + format!("{micros:0<6}").parse::<u64>().ok()?))
    }
}

/// A line without what colours it on a terminal.
#[must_use]
pub fn without_colours(line: &str) -> String {
    let mut parts = line.split('\u{1b}');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        plain += part.split_once('m').map_or("", |(_, rest)| rest);
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_begins_with_its_time() {
        let at = Moment::of_line("2026-11-21T16:36:30.105455Z  INFO agent: enrolled");
        assert_eq!(at, Some(Moment(((16 * 60 + 36) * 60 + 30) * 1_000_000 + 105_455)));
        assert_eq!(Moment::of_line("no time here"), None);
    }

    #[test]
    fn times_count_over_midnight_and_not_backwards() {
        let (before, after) = (Moment(DAY_MICROS - 250_000), Moment(250_000));
        assert_eq!(after.seconds_since(before), Some(0.5));
        assert_eq!(before.seconds_since(after), None);
    }
}
