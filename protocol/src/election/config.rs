//! Timers of the election, with presets.

use std::time::Duration;

/// Timers of the election. All servers of a segment use the same ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Between two announcements of the leader. Shorter finds a crash sooner and costs traffic.
    pub announce_interval: Duration,
    /// Least time between two announcements when questions and claims are answered.
    pub answer_gap: Duration,
    /// Longest silence of a leader before its followers start an election. Must be longer than two
    /// [`Config::announce_interval`]; the presets allow three lost announcements (002: "missed three
    /// LAs"; claim 34: five seconds).
    pub silence_max: Duration,
    /// How long a server listens after its start before it thinks of claiming.
    pub startup_listen: Duration,
    /// Wait before a claim of the strongest server.
    pub claim_wait_min: Duration,
    /// Wait before a claim of the weakest server. Must be shorter than [`Config::vote`], else a vote
    /// could close before a stronger server has spoken.
    pub claim_wait_max: Duration,
    /// How long a vote is open (002: 10 to 15 seconds). Claims are repeated meanwhile.
    pub vote: Duration,
    /// How long a server that conceded waits for the winner's announcement. Must be longer than
    /// [`Config::vote`].
    pub concede: Duration,
    /// How long after losing it a former leader has the best claim (002: "recently deposed").
    pub reclaim: Duration,
    /// Whether a claim makes a living leader reopen the vote (claim 35), so that the strongest
    /// server always leads. `false` by default: a change of leader costs more than it gains.
    pub claims_reopen_vote: bool,
}

/// Which relation between timers does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The first must be shorter than the second.
    #[error("{shorter} ({shorter_value:?}) must be shorter than {longer} ({longer_value:?})")]
    NotShorter {
        /// Name of the timer that must be shorter.
        shorter: &'static str,
        /// Its value.
        shorter_value: Duration,
        /// Name of the timer that must be longer.
        longer: &'static str,
        /// Its value.
        longer_value: Duration,
    },
}

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

impl Config {
    /// For a local network: a leader within a second of a cold start, a dead one replaced within
    /// two and a half.
    #[must_use]
    pub fn lan() -> Self {
        Self {
            announce_interval: ms(500),
            answer_gap: ms(50),
            silence_max: ms(1_750),
            startup_listen: ms(300),
            claim_wait_min: ms(0),
            claim_wait_max: ms(300),
            vote: ms(400),
            concede: ms(700),
            reclaim: Duration::from_secs(30),
            claims_reopen_vote: false,
        }
    }

    /// For demonstrations and tests: a dead leader is replaced within 1.2 seconds.
    #[must_use]
    pub fn fast() -> Self {
        Self {
            announce_interval: ms(200),
            answer_gap: ms(20),
            silence_max: ms(700),
            startup_listen: ms(150),
            claim_wait_min: ms(0),
            claim_wait_max: ms(150),
            vote: ms(250),
            concede: ms(450),
            reclaim: Duration::from_secs(10),
            claims_reopen_vote: false,
        }
    }

    /// The timers of 002, in its seconds.
    #[must_use]
    pub fn seed() -> Self {
        Self {
            announce_interval: ms(1_500),
            answer_gap: ms(150),
            silence_max: ms(5_000),
            startup_listen: ms(5_000),
            claim_wait_min: ms(5_000),
            claim_wait_max: ms(10_000),
            vote: ms(12_000),
            concede: ms(20_000),
            reclaim: Duration::from_secs(60),
            claims_reopen_vote: true,
        }
    }

    /// Longest time from a leader's last sign of life to the announcement of the next one, when no
    /// message is lost.
    #[must_use]
    pub fn replacement_max(&self) -> Duration {
        self.silence_max + self.claim_wait_max + self.vote
    }

    /// Checks the relations that the machine relies on.
    ///
    /// # Errors
    /// [`ConfigError`] names both timers of the relation that does not hold.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let relations = [
            ("twice announce_interval", self.announce_interval * 2, "silence_max", self.silence_max),
            ("answer_gap", self.answer_gap, "announce_interval", self.announce_interval),
            ("claim_wait_max", self.claim_wait_max, "vote", self.vote),
            ("claim_wait_min", self.claim_wait_min, "claim_wait_max", self.claim_wait_max),
            ("vote", self.vote, "concede", self.concede),
        ];
        for (shorter, shorter_value, longer, longer_value) in relations {
            if shorter_value >= longer_value {
                return Err(ConfigError::NotShorter { shorter, shorter_value, longer, longer_value });
            }
        }
        Ok(())
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::lan()
    }
}
