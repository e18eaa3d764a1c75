//! How fast the leader sends: a token bucket, and the rule that moves its rate by what is delivered.
//!
//! The rate grows while the worst member hears nearly everything and is cut when it loses much.
//! Loss that a cut does not change is not congestion: then the cut is undone and that share of loss
//! is taken for granted for a while. Without this rule random loss would drive the rate down to
//! nothing, as it does with senders that follow TCP's equation.

use std::time::Duration;

use common::time::Timestamp;

use super::friendly::{Fairness, Friendly};

/// Bounds and start of the rate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateConfig {
    /// Rate at the start, in bytes per second on the wire. Default 50,000,000: under half of 1 Gbit/s,
    /// and doubled within a second where nothing is lost.
    pub rate_bytes_per_sec: u64,
    /// Lowest rate. Default 1,000,000: a slow member never brings the segment to a halt.
    pub rate_bytes_per_sec_min: u64,
    /// The administrator's cap. Default none.
    pub rate_bytes_per_sec_max: Option<u64>,
    /// Whether the session yields to other traffic. Default [`Fairness::Fast`].
    pub fairness: Fairness,
    /// Whether reports move the rate. Default true; false keeps the start's.
    pub adaptive: bool,
    /// Most frames sent at once. Default 64: 90 KB, which the smallest socket buffers in use hold. At rates that
    /// bring more than that in [`BUCKET`], so many at once: timers are no finer, and the rate would never be reached.
    pub burst_frames_max: u32,
}

impl Default for RateConfig {
    fn default() -> Self {
        Self {
            rate_bytes_per_sec: 50_000_000,
            rate_bytes_per_sec_min: 1_000_000,
            rate_bytes_per_sec_max: None,
            fairness: Fairness::Fast,
            adaptive: true,
            burst_frames_max: 64,
        }
    }
}

/// What the bucket holds at least: what the rate brings in this time. A driver's timer that is due in less than a
/// millisecond may be a millisecond late.
pub const BUCKET: Duration = Duration::from_millis(2);

/// Loss up to this share (parts per million) lets the rate grow.
const LOSS_PPM_GROW_MAX: u32 = 2_000;
/// Loss above this share cuts the rate.
const LOSS_PPM_HOLD_MAX: u32 = 20_000;
/// What the rate grows by with each judgement, as a part of itself, until something is lost for the first time.
const RAMP_PART: u64 = 4;
/// Up to this rate only: 1 Gbit/s. Beyond it members may be the slowest part, and one that is sent far more than it
/// can take does not even answer.
const RAMP_BYTES_PER_SEC_MAX: u64 = 125_000_000;
/// And from then on.
const GROWTH_PART: u64 = 20;
/// How long loss that a cut did not change is taken for granted.
const FLOOR_FOR: Duration = Duration::from_secs(2);
const MICROS: u64 = 1_000_000;

/// The rate and its bucket.
#[derive(Debug)]
pub struct Rate {
    config: RateConfig,
    rate_bytes_per_sec: u64,
    /// Bytes times a million, so that no rate is too slow for its clock.
    tokens: u64,
    tokens_max: u64,
    filled_at: Timestamp,
    /// Worst loss reported since the last judgement.
    worst_ppm: Option<u32>,
    /// Loss that is not the rate's fault, and until when that is believed.
    floor_ppm: u32,
    floor_until: Timestamp,
    /// The rate before the last cut, and the loss that caused it.
    cut: Option<(u64, u32)>,
    /// Nothing has been lost yet: the link may be many times as fast as the start.
    ramping: bool,
    /// The next reports still speak of frames sent at the former rate.
    settling: bool,
    frame_bytes: u32,
    /// What is known of the path, if the session yields to others on it.
    friendly: Option<Friendly>,
    /// What the leader's other sessions leave to this one.
    share_bytes_per_sec: Option<u64>,
}

impl Rate {
    /// A full bucket for frames of up to `frame_bytes`.
    #[must_use]
    pub fn new(config: RateConfig, frame_bytes: u32, now: Timestamp) -> Self {
        let tokens_max = u64::from(frame_bytes) * u64::from(config.burst_frames_max.max(1)) * MICROS;
        let mut rate = Self {
            rate_bytes_per_sec: 0,
            tokens: tokens_max,
            tokens_max,
            filled_at: now,
            worst_ppm: None,
            floor_ppm: 0,
            floor_until: now,
            cut: None,
            ramping: true,
            settling: false,
            frame_bytes,
            friendly: (config.fairness == Fairness::TcpFriendly).then(Friendly::default),
            share_bytes_per_sec: None,
            config,
        };
        rate.set(rate.config.rate_bytes_per_sec);
        rate
    }

    /// The present rate in bytes per second on the wire.
    #[must_use]
    pub fn bytes_per_sec(&self) -> u64 {
        let share = self.share_bytes_per_sec.unwrap_or(u64::MAX);
        // At a standstill nobody would report what would set it going again.
        self.rate_bytes_per_sec.min(share).max(1)
    }

    /// The rate that the session would have by itself, in bytes per second on the wire.
    #[must_use]
    pub fn wanted_bytes_per_sec(&self) -> u64 {
        self.rate_bytes_per_sec
    }

    /// What the leader's other sessions leave to this one from here on; `None`: there is no limit.
    pub fn set_share(&mut self, bytes_per_sec: Option<u64>, now: Timestamp) {
        if self.share_bytes_per_sec != bytes_per_sec {
            self.fill(now);
            self.share_bytes_per_sec = bytes_per_sec;
        }
    }

    /// An answer came so long after its question, of which at least `held` was the member's own delay.
    pub fn answered(&mut self, after: Duration, held: Duration) {
        if let Some(friendly) = &mut self.friendly {
            friendly.answered(after, held);
        }
    }

    fn set(&mut self, rate_bytes_per_sec: u64) {
        let max = self.config.rate_bytes_per_sec_max.unwrap_or(u64::MAX / (16 * MICROS)).max(1);
        // The administrator's cap is above the floor's authority.
        self.rate_bytes_per_sec = rate_bytes_per_sec.max(self.config.rate_bytes_per_sec_min).clamp(1, max);
    }

    /// Lets time fill the bucket.
    pub fn fill(&mut self, now: Timestamp) {
        let micros = u64::try_from(now.since(self.filled_at).as_micros()).unwrap_or(u64::MAX);
        let bucket = self.bytes_per_sec().saturating_mul(BUCKET.as_micros() as u64).max(self.tokens_max);
        self.tokens = self.tokens.saturating_add(self.bytes_per_sec().saturating_mul(micros)).min(bucket);
        self.filled_at = self.filled_at.max(now);
    }

    /// Takes a frame's bytes out of the bucket if they are there.
    pub fn take(&mut self, bytes: u32) -> bool {
        let cost = u64::from(bytes) * MICROS;
        let enough = self.tokens >= cost;
        if enough {
            self.tokens -= cost;
        }
        enough
    }

    /// When the bucket will hold this many bytes.
    #[must_use]
    pub fn ready_at(&self, bytes: u64) -> Timestamp {
        let cost = bytes.saturating_mul(MICROS).min(self.tokens_max);
        self.filled_at + Duration::from_micros(cost.saturating_sub(self.tokens).div_ceil(self.bytes_per_sec()))
    }

    /// A member lost this share of what was sent in the last while.
    pub fn observe(&mut self, loss_ppm: u32) {
        self.worst_ppm = Some(self.worst_ppm.map_or(loss_ppm, |worst| worst.max(loss_ppm)));
    }

    /// Moves the rate by the reports since the last judgement, if there were any.
    pub fn judge(&mut self, now: Timestamp) {
        let Some(worst_ppm) = self.worst_ppm.take() else { return };
        if !self.config.adaptive {
            return;
        }
        self.follow(worst_ppm, now);
        if let Some(friendly) = &mut self.friendly {
            friendly.lost(worst_ppm);
            if let Some(cap) = friendly.cap_bytes_per_sec(self.frame_bytes) {
                self.set(self.rate_bytes_per_sec.min(cap));
            }
        }
    }

    /// All who answered before have ceased to: perhaps they are kept so busy that they cannot. It is as with a
    /// network that loses everything, and once they are heard again the rate is searched for anew.
    pub fn unanswered(&mut self) {
        if self.config.adaptive {
            self.set(self.rate_bytes_per_sec / 2);
            self.cut = None;
            self.ramping = true;
        }
    }

    /// Moves the rate by what is delivered.
    fn follow(&mut self, worst_ppm: u32, now: Timestamp) {
        if self.settling {
            self.settling = false;
            return;
        }
        if now >= self.floor_until {
            self.floor_ppm = 0;
        }
        if let Some((before, caused_by_ppm)) = self.cut.take()
            && worst_ppm.abs_diff(caused_by_ppm) <= caused_by_ppm / 5
        {
            self.set(before);
            self.floor_ppm = worst_ppm;
            self.floor_until = now + FLOOR_FOR;
            self.settling = true;
            return;
        }
        let excess_ppm = worst_ppm.saturating_sub(self.floor_ppm);
        self.ramping &= excess_ppm <= LOSS_PPM_GROW_MAX;
        // A rate that is not used says nothing about a higher one.
        let is_used = self.rate_bytes_per_sec <= self.bytes_per_sec();
        if excess_ppm <= LOSS_PPM_GROW_MAX {
            if !is_used {
                return;
            }
            let leaps = self.ramping && self.rate_bytes_per_sec < RAMP_BYTES_PER_SEC_MAX;
            let part = if leaps { RAMP_PART } else { GROWTH_PART };
            self.set(self.rate_bytes_per_sec + self.rate_bytes_per_sec / part);
        } else if excess_ppm > LOSS_PPM_HOLD_MAX {
            self.cut = Some((self.rate_bytes_per_sec, worst_ppm));
            let delivered_ppm = u64::from(1_000_000 - worst_ppm.min(1_000_000));
            self.set(self.rate_bytes_per_sec / 1_000 * delivered_ppm / 1_000 * 95 / 100);
            self.settling = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(config: RateConfig) -> Rate {
        Rate::new(config, 1000, Timestamp::ZERO)
    }

    fn at(millis: u64) -> Timestamp {
        Timestamp(millis * 1000)
    }

    fn judge(rate: &mut Rate, loss_ppm: u32, now: Timestamp) -> u64 {
        rate.observe(loss_ppm);
        rate.judge(now);
        rate.bytes_per_sec()
    }

    #[test]
    fn a_timer_that_is_a_millisecond_late_each_time_costs_a_fast_link_nothing() {
        for rate_bytes_per_sec in [50_000_000, 125_000_000, 1_250_000_000] {
            let mut rate = rate(RateConfig { rate_bytes_per_sec, ..RateConfig::default() });
            let (mut sent, mut now) = (0, Timestamp::ZERO);
            while now < at(1000) {
                rate.fill(now);
                while rate.take(1000) {
                    sent += 1000;
                }
                now = rate.ready_at(16_000) + Duration::from_millis(1);
            }
            assert!(sent >= rate_bytes_per_sec / 100 * 99, "{sent} bytes in a second of {rate_bytes_per_sec}");
        }
    }

    #[test]
    fn a_burst_is_bounded_and_then_the_rate_holds() {
        let mut rate = rate(RateConfig { rate_bytes_per_sec: 1_000_000, ..RateConfig::default() });
        rate.fill(at(60_000));
        assert_eq!((0..1000).take_while(|_| rate.take(1000)).count(), 64);
        assert_eq!(rate.ready_at(1000), Timestamp(60_001_000));
        rate.fill(Timestamp(60_000_999));
        assert!(!rate.take(1000));
        rate.fill(Timestamp(60_001_000));
        assert!(rate.take(1000));
    }

    #[test]
    fn the_rate_grows_without_loss_holds_at_some_and_falls_at_much() {
        let mut rate = rate(RateConfig::default());
        assert_eq!(judge(&mut rate, 2_001, at(10)), 50_000_000);
        assert_eq!(judge(&mut rate, 0, at(20)), 52_500_000);
        assert_eq!(judge(&mut rate, 2_000, at(30)), 55_125_000);
        assert_eq!(judge(&mut rate, 20_000, at(40)), 55_125_000);
        assert!(judge(&mut rate, 100_000, at(50)) < 50_000_000);
    }

    #[test]
    fn until_something_is_lost_the_rate_grows_by_a_quarter_each_time() {
        let mut rate = rate(RateConfig::default());
        assert_eq!(judge(&mut rate, 0, at(10)), 62_500_000);
        assert_eq!(judge(&mut rate, 2_000, at(20)), 78_125_000);
        assert_eq!(judge(&mut rate, 3_000, at(30)), 78_125_000);
        assert_eq!(judge(&mut rate, 0, at(40)), 82_031_250);

        let mut fast = self::rate(RateConfig { rate_bytes_per_sec: 124_000_000, ..RateConfig::default() });
        assert_eq!(judge(&mut fast, 0, at(10)), 155_000_000);
        assert_eq!(judge(&mut fast, 0, at(20)), 162_750_000, "beyond 1 Gbit/s by a twentieth");
    }

    #[test]
    fn when_all_fall_silent_the_rate_is_halved_and_searched_for_anew() {
        let mut rate = rate(RateConfig::default());
        judge(&mut rate, 3_000, at(0));
        rate.unanswered();
        rate.unanswered();
        assert_eq!(rate.bytes_per_sec(), 12_500_000);
        assert_eq!(judge(&mut rate, 0, at(10)), 15_625_000, "by a quarter");
    }

    #[test]
    fn without_reports_the_rate_stays() {
        let mut rate = rate(RateConfig::default());
        rate.judge(at(10));
        assert_eq!(rate.bytes_per_sec(), 50_000_000);
    }

    #[test]
    fn a_cut_that_changes_nothing_is_undone_and_that_loss_is_taken_for_granted() {
        let mut rate = rate(RateConfig::default());
        assert!(judge(&mut rate, 50_000, at(0)) < 50_000_000);
        let cut = rate.bytes_per_sec();
        assert_eq!(judge(&mut rate, 50_000, at(50)), cut, "these reports are from before the cut");
        assert_eq!(judge(&mut rate, 55_000, at(100)), 50_000_000);
        judge(&mut rate, 55_000, at(150));
        for millis in [200, 1000, 2000] {
            assert!(judge(&mut rate, 50_000, at(millis)) >= 50_000_000);
        }
        let before = rate.bytes_per_sec();
        assert!(judge(&mut rate, 50_000, at(2200)) < before, "tested again after a while");
    }

    #[test]
    fn a_cut_that_helps_stays() {
        let mut rate = rate(RateConfig::default());
        let cut = judge(&mut rate, 200_000, at(0));
        judge(&mut rate, 200_000, at(50));
        assert_eq!(judge(&mut rate, 10_000, at(100)), cut);
    }

    #[test]
    fn the_rate_stays_within_floor_and_cap_and_the_cap_is_the_stronger() {
        let mut slow = rate(RateConfig::default());
        for round in 0..200u32 {
            judge(&mut slow, 300_000 + (round % 3) * 200_000, at(u64::from(round) * 50));
        }
        assert!(slow.bytes_per_sec() >= 1_000_000);
        let mut capped = rate(RateConfig { rate_bytes_per_sec_max: Some(60_000_000), ..RateConfig::default() });
        for round in 0..100 {
            judge(&mut capped, 0, at(round * 50));
        }
        assert_eq!(capped.bytes_per_sec(), 60_000_000);
        let low = rate(RateConfig { rate_bytes_per_sec_max: Some(500_000), ..RateConfig::default() });
        assert_eq!(low.bytes_per_sec(), 500_000);
    }
}
