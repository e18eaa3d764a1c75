//! What a TCP connection would send on the same path: a cap for sessions that shall yield to others.
//!
//! The equation is TCP's throughput as RFC 5348 (3.1) gives it, of the loss and the round-trip time of the
//! member that is worst off. Two things differ from that document. Members report the share of frames that they
//! lost, not loss events; as one event may lose many frames this overstates the loss, and so errs to the side of
//! yielding. And the round-trip time is that from a question to its answer, less the time that answers are spread
//! over at least: it overstates by what the member took.
//!
//! TCP's equation cannot fill a fast link that loses at random (at 1 % and 1 ms some 15 MB/s), which is why
//! this is a choice and not the rule.

use std::collections::VecDeque;
use std::time::Duration;

/// Whether a session yields to other traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fairness {
    /// The rate follows what is delivered; loss that a cut does not change is not congestion.
    #[default]
    Fast,
    /// As [`Fairness::Fast`], and never above what TCP would send.
    TcpFriendly,
}

/// Weights of the last rounds' losses, the latest first (RFC 5348, 5.4).
const WEIGHTS: [f64; 8] = [1.0, 1.0, 1.0, 1.0, 0.8, 0.6, 0.4, 0.2];
/// No path of a segment answers sooner.
const RTT_MIN: Duration = Duration::from_micros(100);
/// Share of a new sample in the smoothed round-trip time (RFC 5348, 4.3).
const RTT_GAIN: f64 = 0.1;

/// What is known of a path.
#[derive(Debug, Clone, Default)]
pub struct Friendly {
    /// Shares of loss of the last rounds, the latest first.
    losses: VecDeque<f64>,
    rtt_seconds: Option<f64>,
}

impl Friendly {
    /// The worst member lost this share in the round that is over.
    pub fn lost(&mut self, loss_ppm: u32) {
        // Before the first loss there is nothing to average: an idle beginning must not dilute it.
        if loss_ppm > 0 || !self.losses.is_empty() {
            self.losses.push_front(f64::from(loss_ppm.min(1_000_000)) / 1e6);
            self.losses.truncate(WEIGHTS.len());
        }
    }

    /// An answer came so long after its question, of which at least `held` was the member's own delay.
    pub fn answered(&mut self, after: Duration, held: Duration) {
        let sample = after.saturating_sub(held).max(RTT_MIN).as_secs_f64();
        self.rtt_seconds = Some(self.rtt_seconds.map_or(sample, |rtt| rtt + RTT_GAIN * (sample - rtt)));
    }

    /// The most that TCP would send, in bytes per second, of packets of this length; `None` as long as nothing
    /// was lost or no answer was timed.
    #[must_use]
    pub fn cap_bytes_per_sec(&self, packet_bytes: u32) -> Option<u64> {
        let rtt = self.rtt_seconds?;
        let weights: f64 = WEIGHTS.iter().take(self.losses.len()).sum();
        let loss = self.losses.iter().zip(WEIGHTS).map(|(loss, weight)| loss * weight).sum::<f64>() / weights;
        let cap = throughput(f64::from(packet_bytes), rtt, loss);
        // Casting rounds what is too large to the largest number.
        (loss > 0.0).then_some(cap as u64)
    }
}

/// RFC 5348, 3.1, with one packet for each acknowledgement and a retransmission timeout of four round trips.
fn throughput(packet_bytes: f64, rtt: f64, loss: f64) -> f64 {
    let fast = rtt * (2.0 * loss / 3.0).sqrt();
    let timeouts = 4.0 * rtt * (3.0 * (3.0 * loss / 8.0).sqrt()) * loss * (1.0 + 32.0 * loss * loss);
    packet_bytes / (fast + timeouts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn friendly(loss_ppm: u32, rtt: Duration) -> Friendly {
        let mut friendly = Friendly::default();
        (0..WEIGHTS.len()).for_each(|_| friendly.lost(loss_ppm));
        friendly.answered(rtt, Duration::ZERO);
        friendly
    }

    #[test]
    fn the_cap_is_what_the_equation_says() {
        // By hand: 1,396 / (0.01 sqrt(0.02 / 3) + 0.04 · 3 sqrt(0.03 / 8) · 0.01 · 1.0032)
        let cap = friendly(10_000, Duration::from_millis(10)).cap_bytes_per_sec(1396).expect("known");
        assert!((1_565_000..1_570_000).contains(&cap), "{cap}");
        let half_the_time = friendly(10_000, Duration::from_millis(5)).cap_bytes_per_sec(1396).expect("known");
        assert!(half_the_time.abs_diff(2 * cap) <= 2, "{half_the_time}");
        let less_loss = friendly(100, Duration::from_millis(10)).cap_bytes_per_sec(1396).expect("known");
        assert!(less_loss > 10 * cap, "{less_loss}");
    }

    #[test]
    fn without_loss_or_without_a_time_there_is_no_cap() {
        assert_eq!(friendly(0, Duration::from_millis(10)).cap_bytes_per_sec(1396), None);
        let mut untimed = Friendly::default();
        untimed.lost(10_000);
        assert_eq!(untimed.cap_bytes_per_sec(1396), None);
    }

    #[test]
    fn old_losses_fade_and_new_ones_count_at_once() {
        let mut path = friendly(10_000, Duration::from_millis(10));
        let before = path.cap_bytes_per_sec(1396).expect("known");
        path.lost(100_000);
        let after = path.cap_bytes_per_sec(1396).expect("known");
        assert!(after < before * 2 / 3, "{after} of {before}");
        (0..4).for_each(|_| path.lost(0));
        let fading = path.cap_bytes_per_sec(1396).expect("known");
        assert!(fading > after, "{fading}");
        (0..4).for_each(|_| path.lost(0));
        assert_eq!(path.cap_bytes_per_sec(1396), None, "eight rounds without loss");
    }

    #[test]
    fn the_members_own_delay_is_no_part_of_the_way() {
        let mut path = friendly(10_000, Duration::from_millis(1));
        let before = path.cap_bytes_per_sec(1396);
        path.answered(Duration::from_micros(1_500), Duration::from_micros(500));
        assert_eq!(path.cap_bytes_per_sec(1396), before);
        path.answered(Duration::ZERO, Duration::from_secs(1));
        assert!(path.cap_bytes_per_sec(1396) > before, "and never less than nothing");
    }
}
