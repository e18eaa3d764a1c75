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
    /// How long a server that does not hear its leader waits for somebody who does, before it gives the
    /// leader up. Must be longer than [`Config::answer_gap`], over which the answers are spread. Zero
    /// asks nobody: 002's way, and a server that hears nobody then takes the lead from one that is heard
    /// by all others.
    pub probe: Duration,
    /// After how long a much stronger server asks a living leader to hand over to it
    /// ([`Priority::is_much_stronger_than`](super::Priority::is_much_stronger_than)), and how often it
    /// asks. `None` by default: a change of leader costs more than it gains. All servers of a segment
    /// should have the same policy; the leader's decides.
    pub preempt_after: Option<Duration>,
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
    /// It paces what is done again and again, which would be done without a pause.
    #[error("{timer} ({value:?}) must be at least {REPEATED_MIN:?}: what it paces would be repeated without a pause")]
    TooShort {
        /// Name of the timer.
        timer: &'static str,
        /// Its value.
        value: Duration,
    },
}

/// Shortest timer that may pace what is repeated. No segment needs it as short; machines count time in
/// microseconds and wait for parts of their timers, so that below some of them a machine would never sleep.
pub const REPEATED_MIN: Duration = ms(1);

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

impl Config {
    /// For a local network: a leader within a second of a cold start, and a dead one replaced within one.
    #[must_use]
    pub fn lan() -> Self {
        Self {
            announce_interval: ms(200),
            answer_gap: ms(20),
            silence_max: ms(650),
            startup_listen: ms(250),
            claim_wait_min: ms(0),
            claim_wait_max: ms(90),
            vote: ms(150),
            concede: ms(300),
            reclaim: Duration::from_secs(30),
            probe: ms(40),
            preempt_after: None,
            claims_reopen_vote: false,
        }
    }

    /// For demonstrations and tests: a dead leader is replaced within 300 milliseconds. Needs machines
    /// that are never held up for longer than that.
    #[must_use]
    pub fn fast() -> Self {
        Self {
            announce_interval: ms(60),
            answer_gap: ms(5),
            silence_max: ms(190),
            startup_listen: ms(100),
            claim_wait_min: ms(0),
            claim_wait_max: ms(30),
            vote: ms(50),
            concede: ms(110),
            reclaim: Duration::from_secs(10),
            probe: ms(15),
            preempt_after: None,
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
            probe: Duration::ZERO,
            preempt_after: None,
            claims_reopen_vote: true,
        }
    }

    /// Longest time from a leader's last sign of life to the announcement of the next one, when no
    /// message is lost.
    #[must_use]
    pub fn replacement_max(&self) -> Duration {
        self.silence_max + self.probe + self.claim_wait_max + self.vote
    }

    /// Checks the relations that the machine relies on.
    ///
    /// # Errors
    /// [`ConfigError`] names both timers of the relation that does not hold, or one that is too short.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let relations = [
            ("twice announce_interval", self.announce_interval * 2, "silence_max", self.silence_max),
            ("answer_gap", self.answer_gap, "announce_interval", self.announce_interval),
            ("claim_wait_max", self.claim_wait_max, "vote", self.vote),
            ("claim_wait_min", self.claim_wait_min, "claim_wait_max", self.claim_wait_max),
            ("vote", self.vote, "concede", self.concede),
        ];
        let answers = (!self.probe.is_zero()).then_some(("answer_gap", self.answer_gap, "probe", self.probe));
        shorter(&relations)?;
        shorter(answers.as_slice())?;
        paces(&[("announce_interval", self.announce_interval), ("vote", self.vote)])?;
        paces(self.preempt_after.map(|wait| ("preempt_after", wait)).as_slice())
    }
}

/// Checks that each timer that paces what is repeated is at least [`REPEATED_MIN`]; each follows its name.
///
/// # Errors
/// The first that is not.
pub fn paces(timers: &[(&'static str, Duration)]) -> Result<(), ConfigError> {
    match timers.iter().find(|(_, value)| *value < REPEATED_MIN) {
        Some(&(timer, value)) => Err(ConfigError::TooShort { timer, value }),
        None => Ok(()),
    }
}

/// Checks that each first timer is shorter than its second one; each follows its name.
///
/// # Errors
/// The first pair that is not.
pub fn shorter(relations: &[(&'static str, Duration, &'static str, Duration)]) -> Result<(), ConfigError> {
    match relations.iter().find(|(_, shorter, _, longer)| shorter >= longer) {
        Some(&(shorter, shorter_value, longer, longer_value)) => {
            Err(ConfigError::NotShorter { shorter, shorter_value, longer, longer_value })
        }
        None => Ok(()),
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::lan()
    }
}
