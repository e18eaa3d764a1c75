//! The times and limits of the leader's side, with their defaults and reasons.

use std::time::Duration;

use super::rate::RateConfig;

/// When what members ask for is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repair {
    /// Within the stream, so that the end covers little more than the last losses.
    InStream,
    /// After the whole object was sent, and then pass by pass: 002's scheme. Members are asked only at
    /// the end of a pass, so the rate moves only then.
    EndOfPass,
}

/// The times and limits of a sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SenderConfig {
    /// How fast frames are sent.
    pub rate: RateConfig,
    /// Whether lost symbols are mended by parity, which mends different losses at once. Default true.
    /// False, with [`Repair::EndOfPass`], is 002's scheme: named frames are sent again.
    pub fec: bool,
    /// When repairs are sent. Default [`Repair::InStream`].
    pub repair: Repair,
    /// How many passes in a row may bring a member nothing of what it asks for, before it is left to
    /// unicast. When that is so of all that are not complete, the session ends. Default 10, as in 002.
    pub fruitless_passes_max: u32,
    /// How often a frame asks for reports during the first pass and long repair passes. Default
    /// 50 ms: at 50 MB/s a report that can name some 250 gaps then covers 1,800 frames.
    pub poll_interval: Duration,
    /// Over what time members spread their answers to a frame's POLL flag. Default 1 ms. Must be at
    /// least [`ReceiverConfig::reply_window`](super::ReceiverConfig::reply_window), else their
    /// answers come after the round.
    pub reply_window: Duration,
    /// How long a round stays open beyond the window of its answers. Default 5 ms: many round-trip
    /// times of a LAN. Shorter sends repairs sooner, and twice to members whose answers are late.
    pub reply_hold: Duration,
    /// Longest interval of polls by message while nothing is left to send; they begin at
    /// `reply_window + reply_hold` and the patience for all members, and grow by half each time. Default
    /// 50 ms.
    pub poll_interval_max: Duration,
    /// The same while the next part of the object is not available yet. Default 500 ms: keeps members
    /// from giving the session up ([`ReceiverConfig::idle_max`](super::ReceiverConfig::idle_max)).
    pub stall_poll_interval_max: Duration,
    /// After what time, beside the patience for all members, the announcement is repeated while some
    /// member was never heard. Default 2 ms; each interval is four times the one before.
    pub announce_interval: Duration,
    /// Longest such interval. Default 100 ms.
    pub announce_interval_max: Duration,
    /// How much longer the first announcement and the first question wait for an answer before they are
    /// repeated, for each member. Default 300 us: members that share a machine check the announcement's two
    /// signatures one after the other, and what is said meanwhile has to be checked by each of them too.
    /// Shorter asks those who were about to answer; longer makes those wait who missed the announcement.
    pub patience_per_member: Duration,
    /// During the first pass at most one frame in so many is a repair. Default 4: the end then covers
    /// little more than the last losses, and no member with many losses stops the others.
    pub repair_every: u32,
    /// How long data on a channel of its own is held back at most for members that have not joined it. Default
    /// 100 ms: they join within a millisecond or two, and on a busy machine within some ten; what is sent before
    /// is lost for them, and sent again to all. Only a dead member makes the others wait so long, and is known to
    /// be dead soon.
    pub join_wait: Duration,
    /// Least silence after which a member has failed; it must have left eight polls unanswered too.
    /// Default 1 s: twenty polls. The dead delay the end by this much, and nobody's own completion.
    pub silence_min: Duration,
    /// How long a member may answer without holding more than before while nothing new is sent: one
    /// whose disk is broken, or that never verifies. Default 60 s, which includes the time to make a
    /// large object durable.
    pub progress_max: Duration,
}

impl Default for SenderConfig {
    fn default() -> Self {
        Self {
            rate: RateConfig::default(),
            fec: true,
            repair: Repair::InStream,
            fruitless_passes_max: 10,
            poll_interval: Duration::from_millis(50),
            reply_window: Duration::from_millis(1),
            reply_hold: Duration::from_millis(5),
            poll_interval_max: Duration::from_millis(50),
            stall_poll_interval_max: Duration::from_millis(500),
            announce_interval: Duration::from_millis(2),
            announce_interval_max: Duration::from_millis(100),
            patience_per_member: Duration::from_micros(300),
            repair_every: 4,
            join_wait: Duration::from_millis(100),
            silence_min: Duration::from_secs(1),
            progress_max: Duration::from_secs(60),
        }
    }
}
