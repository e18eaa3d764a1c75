//! What sealing and opening frames costs, on one core.

use std::hint::black_box;
use std::time::{Duration, Instant};

use common::ids::ServerId;
use lan_channel::envelope::SegmentKey;
use lan_channel::frames::FrameKey;
use lan_channel::secrets::{SessionName, SessionSecret};
use protocol::session::{HEADER_BYTES, SYMBOL_BYTES};
use serde_json::json;

use crate::say;

const FRAMES: u32 = 500_000;

pub(crate) fn run() {
    let name = SessionName { session: 1, leader: ServerId([1; 16]), epoch: 1 };
    let key = FrameKey::derive(&SegmentKey([1; 32]), SessionSecret([1; 16]), name);
    let (header, symbol) = ([7; HEADER_BYTES], vec![9; usize::from(SYMBOL_BYTES)]);
    let mut frame = Vec::with_capacity(2048);
    let sealing = timed(|sequence| {
        frame.clear();
        key.seal(&header, sequence, &symbol, &mut frame);
        black_box(&frame);
    });
    frame.clear();
    key.seal(&header, 1, &symbol, &mut frame);
    let opening = timed(|_| {
        let mut copy = frame.clone();
        black_box(key.open(&header, 1, &mut copy[HEADER_BYTES..]).is_some());
    });
    let copying = timed(|_| {
        black_box(frame.clone());
    });
    say(&json!({
        "event": "sealed", "symbol_bytes": SYMBOL_BYTES,
        "seal_ns_per_frame": per_frame(sealing), "open_ns_per_frame": per_frame(opening - copying.min(opening)),
        "seal_share_of_a_core_at_1_gbit": share(sealing),
    }));
}

fn timed(mut work: impl FnMut(u32)) -> Duration {
    let start = Instant::now();
    (1..=FRAMES).for_each(&mut work);
    start.elapsed()
}

fn per_frame(time: Duration) -> f64 {
    time.as_secs_f64() * 1e9 / f64::from(FRAMES)
}

/// The share of one core that this takes at 125 MB of symbols a second.
fn share(time: Duration) -> f64 {
    time.as_secs_f64() / f64::from(FRAMES) * 125e6 / f64::from(SYMBOL_BYTES)
}
