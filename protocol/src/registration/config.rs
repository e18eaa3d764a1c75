//! Timers of the registration, with presets.

use std::time::Duration;

use crate::election::{ConfigError, paces, shorter};

/// Timers of the registration. Leader and members use the same ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Shortest wait before an unconfirmed registration is repeated. Longer than
    /// [`Config::roster_quiet`], else members repeat before the leader could confirm.
    pub repeat_min: Duration,
    /// Longest such wait.
    pub repeat_max: Duration,
    /// Longest random wait of a member that misses itself in the list (claim 41: one second).
    pub missed_wait: Duration,
    /// Between two signs of life of a member.
    pub keep_alive: Duration,
    /// A member that was silent for longer is gone. Three missed signs of life.
    pub silence_max: Duration,
    /// Quiet time after a change before the leader says the list (claim 40; 002: 3 to 5 seconds).
    pub roster_quiet: Duration,
    /// The list is said at the latest this long after a change, however many follow.
    pub roster_delay_max: Duration,
    /// After the last change the list is said again this much later, then regularly.
    pub roster_interval: Duration,
    /// Least time between two [`Event::Changed`](super::Event::Changed); the first is never delayed.
    pub changed_gap: Duration,
    /// In segments of more than 32 known members, those that all register at the same moment spread
    /// over this time for each of them.
    pub spread_per_member: Duration,
}

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

impl Config {
    /// For a local network: a silent member is noticed after three and a half seconds.
    #[must_use]
    pub fn lan() -> Self {
        Self {
            repeat_min: ms(150),
            repeat_max: ms(400),
            missed_wait: ms(100),
            keep_alive: ms(1_000),
            silence_max: ms(3_500),
            roster_quiet: ms(50),
            roster_delay_max: ms(150),
            roster_interval: ms(5_000),
            changed_gap: ms(50),
            spread_per_member: Duration::from_micros(200),
        }
    }

    /// For demonstrations and tests: a silent member is noticed after 1.2 seconds.
    #[must_use]
    pub fn fast() -> Self {
        Self { keep_alive: ms(350), silence_max: ms(1_200), roster_interval: ms(2_000), ..Self::lan() }
    }

    /// The timers of 002, in its seconds.
    #[must_use]
    pub fn seed() -> Self {
        Self {
            repeat_min: ms(5_000),
            repeat_max: ms(10_000),
            missed_wait: ms(1_000),
            keep_alive: ms(5_000),
            silence_max: ms(17_000),
            roster_quiet: ms(3_000),
            roster_delay_max: ms(5_000),
            roster_interval: ms(30_000),
            changed_gap: ms(1_000),
            spread_per_member: ms(2),
        }
    }
}

impl Config {
    /// Checks the relations that leader and members rely on.
    ///
    /// # Errors
    /// [`ConfigError`] names both timers of the relation that does not hold, or one that is too short.
    pub fn validate(&self) -> Result<(), ConfigError> {
        shorter(&[
            ("roster_quiet", self.roster_quiet, "repeat_min", self.repeat_min),
            ("repeat_min", self.repeat_min, "repeat_max", self.repeat_max),
            ("roster_quiet", self.roster_quiet, "roster_delay_max", self.roster_delay_max),
            ("roster_delay_max", self.roster_delay_max, "roster_interval", self.roster_interval),
            ("three times keep_alive", self.keep_alive * 3, "silence_max", self.silence_max),
        ])?;
        paces(&[
            ("repeat_min", self.repeat_min),
            ("keep_alive", self.keep_alive),
            ("roster_interval", self.roster_interval),
        ])
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::lan()
    }
}
