//! The rate on a link that it shares with a TCP connection: with [`Fairness::TcpFriendly`] it yields, with
//! [`Fairness::Fast`] it does not.

use std::time::Duration;

use common::time::Timestamp;

use super::friendly::Fairness;
use super::rate::{Rate, RateConfig};

/// 100 Mbit/s.
const LINK_BYTES_PER_SEC: f64 = 12_500_000.0;
const QUEUE_BYTES_MAX: f64 = 100_000.0;
const RTT: Duration = Duration::from_millis(2);
const PACKET_BYTES: f64 = 1396.0;
const STEP: Duration = Duration::from_millis(1);
/// How often members are asked.
const ROUND_STEPS: u64 = 50;

/// A TCP connection: one packet more for each round trip, half as many after a loss, once for each round trip.
struct Tcp {
    window_packets: f64,
    halved_at: f64,
    /// Packets lost since the last that it noticed: of a packet there is no half to lose.
    lost_packets: f64,
    delivered_bytes: f64,
}

/// What the two deliver of the link in the last half of a minute: ours, TCP's, as shares.
fn shares(fairness: Fairness) -> (f64, f64) {
    let config = RateConfig { fairness, ..RateConfig::default() };
    let mut rate = Rate::new(config, PACKET_BYTES as u32, Timestamp::ZERO);
    let mut tcp = Tcp { window_packets: 10.0, halved_at: 0.0, lost_packets: 0.0, delivered_bytes: 0.0 };
    let (mut queue, mut ours) = (0.0_f64, 0.0);
    let (mut sent, mut lost) = (0.0, 0.0);
    let step = STEP.as_secs_f64();
    let steps = 60_000;
    for n in 0..steps {
        let now = n as f64 * step;
        let rtt = RTT.as_secs_f64() + queue / LINK_BYTES_PER_SEC;
        let arrives = [rate.bytes_per_sec() as f64 * step, tcp.window_packets * PACKET_BYTES / rtt * step];
        let all = arrives[0] + arrives[1];
        queue = (queue + all - LINK_BYTES_PER_SEC * step).max(0.0);
        let dropped = (queue - QUEUE_BYTES_MAX).max(0.0);
        queue -= dropped;
        let kept = 1.0 - dropped / all;
        sent += arrives[0];
        lost += arrives[0] * (1.0 - kept);
        if n >= steps / 2 {
            ours += arrives[0] * kept;
            tcp.delivered_bytes += arrives[1] * kept;
        }
        tcp.lost_packets += arrives[1] * (1.0 - kept) / PACKET_BYTES;
        if tcp.lost_packets >= 1.0 {
            tcp.lost_packets = 0.0;
            if now - tcp.halved_at > rtt {
                tcp.window_packets = (tcp.window_packets / 2.0).max(1.0);
                tcp.halved_at = now;
            }
        } else {
            tcp.window_packets += step / rtt;
        }
        if n % ROUND_STEPS == 0 && n > 0 {
            let window = Duration::from_millis(1);
            rate.answered(Duration::from_secs_f64(rtt) + window, window);
            rate.observe((lost / sent * 1e6) as u32);
            rate.judge(Timestamp(n * 1000));
            (sent, lost) = (0.0, 0.0);
        }
    }
    let link = LINK_BYTES_PER_SEC * step * (steps / 2) as f64;
    (ours / link, tcp.delivered_bytes / link)
}

#[test]
fn a_tcp_friendly_session_leaves_a_tcp_connection_its_share_and_a_fast_one_does_not() {
    let (ours, tcp) = shares(Fairness::TcpFriendly);
    assert!(tcp > 0.4 && ours > 0.3, "TCP has {tcp:.2} of the link, we {ours:.2}");
    let (ours, tcp) = shares(Fairness::Fast);
    assert!(tcp < 0.2 && ours > 0.7, "TCP has {tcp:.2} of the link, we {ours:.2}");
}
