//! The leader's side of a multicast session: sends each symbol once, and again what is asked for,
//! until every member has acknowledged or failed.
//!
//! **The calling contract.** After [`Sender::new`] and after every input (`handle_*`, [`available`],
//! [`add_member`], [`member_gone`]), with one `now` that never goes back:
//!
//! 1. drain [`poll_output`] until `None` and carry each [`Output`] out in that order;
//! 2. call [`poll_frame`] until `None`; for each frame read its bytes at [`Frame::offset`], seal them
//!    with the encoded header as additional data and its sequence as nonce, and send it. A frame that
//!    was handed out counts as sent, so one that cannot be sent is simply lost, and mended like any;
//! 3. drain [`poll_output`] again, for a frame may have asked something;
//! 4. sleep until [`poll_timeout`] or the next input; when the time is reached, call
//!    [`handle_timeout`].
//!
//! After [`Output::Finished`] the machine says nothing more. The announcement is the first output
//! and data may follow it at once; as the two travel on different sockets, a member's driver keeps
//! the first frames of a session it does not know yet for a moment.
//!
//! **How it goes.** The first pass sends the symbols in order, as far as they are available. Now and
//! then, and always at the end of what there is to send, a frame asks for reports. Such a question
//! opens a *round*: what is asked for is joined until everybody has answered or the round's time is
//! over, and then sent once, however many asked. During the first pass repairs take at most every
//! `repair_every`-th frame, after it all. When nothing is left to send, a poll by message asks those
//! who have not acknowledged. With nothing lost no step waits for a timer.
//!
//! A symbol is asked for rightly only by a member that had the chance to hear its last transmission:
//! one that has heard a later sequence, or a poll that was sent later.
//!
//! [`available`]: Sender::available
//! [`add_member`]: Sender::add_member
//! [`member_gone`]: Sender::member_gone
//! [`handle_timeout`]: Sender::handle_timeout
//! [`poll_output`]: Sender::poll_output
//! [`poll_frame`]: Sender::poll_frame
//! [`poll_timeout`]: Sender::poll_timeout

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use common::control::SessionStats;
use common::ids::ServerId;
use common::keys::Signed;
use common::ticket::Ticket;
use common::time::Timestamp;

use super::frame::{FrameFlags, FrameHeader, HEADER_BYTES, LOWER_HEADER_BYTES, TAG_BYTES};
use super::members::{Failure, Members};
use super::message::{Message, Poll, Roll, Status, may_be_cut};
use super::rate::Rate;
use super::refusal::{Sent, StatusRefused};
use super::requests::Requests;
use super::sender_config::SenderConfig;
use super::{Geometry, SYMBOL_BYTES_MAX};

/// How many of the last polls are remembered with the sequence they followed.
const POLLS_KEPT: usize = 64;
/// Answers to a poll by message are spread over this much for each member asked.
const REPLY_WINDOW_PER_MEMBER: Duration = Duration::from_micros(20);
/// Longest window asked for; what receivers accept by default.
const REPLY_WINDOW_MAX: Duration = Duration::from_millis(100);
/// Share of a full bucket that is waited for before frames are sent again, so that one wake-up sends
/// several: one over this.
const WAKE_SHARE: u64 = 4;
const FRAME_OVERHEAD_BYTES: u32 = (HEADER_BYTES + TAG_BYTES + LOWER_HEADER_BYTES) as u32;

/// What a session says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    /// Random; names the session. Never used twice under one epoch, for the frames' key hangs on it.
    pub session: u32,
    /// The leader's epoch.
    pub epoch: u64,
    /// Which of the segment's keys seals the frames.
    pub key_id: u8,
    /// What is sent and for whom.
    pub ticket: Signed<Ticket>,
    /// Length of the chunk table ahead of the object, in bytes; part of the geometry's length.
    pub table_bytes: u64,
}

/// A frame to be sealed and sent on the data channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// Its header; names symbol, sequence and length of the payload.
    pub header: FrameHeader,
    /// Where its payload begins in the stream (chunk table, then object), in bytes.
    pub offset: u64,
}

/// What the driver shall do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send to the segment on the control channel: an announcement, a poll, or the close.
    Multicast(Message),
    /// This member holds the object, verified and durable. Said once for each.
    MemberComplete(ServerId),
    /// This member is waited for no longer. May be followed by its `MemberComplete`, when it was
    /// only silent and is heard again before the end.
    MemberFailed(ServerId, Failure),
    /// Every member is complete or has failed; the last output.
    Finished(SessionStats),
}

/// A question is out; what is asked for is joined until this is over.
#[derive(Debug)]
struct Round {
    /// A report that knows of this sequence is an answer.
    sequence: u32,
    /// Those whose answers are still waited for.
    awaited: BTreeSet<ServerId>,
    /// When to stop waiting.
    closes_at: Timestamp,
    /// Whether some answer had more to say than fits.
    cut: bool,
}

/// The leader's side of one session. The module's documentation has the calling contract.
#[derive(Debug)]
pub struct Sender {
    config: SenderConfig,
    announcement: Announcement,
    geometry: Geometry,
    members: Members,
    rate: Rate,
    started_at: Timestamp,
    /// The first symbols of the object, as many as may be sent.
    available: u32,
    requests: Requests,
    /// First transmissions since the last repair.
    firsts: u32,
    pass: u32,
    sequence: u32,
    sent_bytes: u64,
    repaired_symbols: u64,
    round: Option<Round>,
    polls: u32,
    /// The last polls with the sequence they followed.
    recent_polls: VecDeque<(u32, u32)>,
    /// When to ask next: by the next frame, or by message when there is none to send.
    poll_at: Timestamp,
    quiet_interval: Duration,
    /// When to repeat the announcement, and the interval after that.
    announce: Option<(Timestamp, Duration)>,
    /// When something new was last sent.
    offered_at: Timestamp,
    over: bool,
    outputs: VecDeque<Output>,
}

impl Sender {
    /// Begins a session: of the stream (chunk table, then object) that `geometry` describes, the first
    /// `available_bytes` may be sent. Without members it is finished at once.
    #[must_use]
    pub fn new(
        config: SenderConfig,
        announcement: Announcement,
        geometry: Geometry,
        members: impl IntoIterator<Item = ServerId>,
        available_bytes: u64,
        now: Timestamp,
    ) -> Self {
        let frame_bytes_max = u32::from(geometry.symbol_bytes().min(SYMBOL_BYTES_MAX)) + FRAME_OVERHEAD_BYTES;
        let mut sender = Self {
            rate: Rate::new(config.rate.clone(), frame_bytes_max, now),
            members: Members::new(members, now),
            announcement,
            geometry,
            started_at: now,
            available: geometry.symbols_within(available_bytes),
            requests: Requests::default(),
            firsts: 0,
            pass: 1,
            sequence: 0,
            sent_bytes: 0,
            repaired_symbols: 0,
            round: None,
            polls: 0,
            recent_polls: VecDeque::new(),
            poll_at: now + config.poll_interval,
            quiet_interval: config.reply_window + config.reply_hold,
            announce: None,
            offered_at: now,
            over: false,
            outputs: VecDeque::new(),
            config,
        };
        if sender.members.anyone_waits() {
            sender.announce_anew(now);
            if !sender.has_data() {
                sender.poll_at = now + sender.quiet_interval;
            }
        }
        sender.finish_if_done(now);
        sender
    }

    /// So many bytes of the stream may be sent, from its start; fewer than before change nothing.
    pub fn available(&mut self, bytes: u64, now: Timestamp) {
        let available = self.geometry.symbols_within(bytes);
        if available > self.available {
            self.available = available;
            self.poll_at = self.poll_at.min(now + self.config.poll_interval);
            self.quiet_interval = self.config.reply_window + self.config.reply_hold;
        }
    }

    /// A server that came to the segment takes part too, and gets what it missed as repairs. Also takes
    /// back a member that failed. Returns whether it is waited for from here on: not when it was already,
    /// and not when the session is over.
    pub fn add_member(&mut self, server: ServerId, now: Timestamp) -> bool {
        let added = !self.over && self.members.join(server, now);
        if added {
            self.announce_anew(now);
            self.quiet_interval = self.config.reply_window + self.config.reply_hold;
            self.poll_at = self.poll_at.min(now + self.quiet_interval);
        }
        added
    }

    /// A server left the segment.
    pub fn member_gone(&mut self, server: ServerId, now: Timestamp) {
        self.fail(server, Failure::Gone, now);
    }

    /// A member cannot take part ([`Message::Decline`]).
    pub fn handle_decline(&mut self, from: ServerId, now: Timestamp) {
        self.fail(from, Failure::Declined, now);
    }

    /// A member's report, from the server that the control channel has authenticated.
    ///
    /// # Errors
    /// [`StatusRefused`] when no member of this session can have said that; nothing changes then.
    pub fn handle_status(&mut self, from: ServerId, status: &Status, now: Timestamp) -> Result<(), StatusRefused> {
        self.check(from, status)?;
        let Some(heard) = self.members.hear(from, status, now) else { return Err(StatusRefused::Stranger { from }) };
        if let Some(loss_ppm) = heard.loss_ppm {
            self.rate.observe(loss_ppm);
        }
        if heard.completed {
            self.outputs.push_back(Output::MemberComplete(from));
        }
        // Up to here the member had the chance to hear everything.
        let heard_through = status.highest.max(self.sequence_at(status.poll));
        if heard.waiting {
            self.requests.want(&status.missing, heard_through);
        }
        if let Some(round) = &mut self.round {
            round.cut |= heard.waiting && may_be_cut(&status.missing);
            if !heard.waiting || heard_through >= round.sequence {
                self.answered(from, now);
            }
        } else if self.requests.any_wanted() {
            // Unasked, or late: others may be about to ask for the same.
            self.open_round(self.config.reply_window, now);
            self.answered(from, now);
        }
        self.finish_if_done(now);
        Ok(())
    }

    fn check(&self, from: ServerId, status: &Status) -> Result<(), StatusRefused> {
        if self.over {
            return Err(StatusRefused::Over);
        }
        if !self.members.knows(from) {
            return Err(StatusRefused::Stranger { from });
        }
        let sent = Sent {
            session: self.announcement.session,
            sequence: self.sequence,
            polls: self.polls,
            symbols: self.geometry.symbols(),
            sent_through: self.requests.sent_through(),
        };
        sent.check(from, status)
    }

    /// The sequence that this poll followed; 0 when that is forgotten.
    fn sequence_at(&self, poll: u32) -> u32 {
        self.recent_polls.iter().find(|(recent, _)| *recent == poll).map_or(0, |(_, sequence)| *sequence)
    }

    fn answered(&mut self, from: ServerId, now: Timestamp) {
        let Some(round) = &mut self.round else { return };
        if round.awaited.remove(&from) && round.awaited.is_empty() {
            self.close_round(now);
        }
    }

    fn open_round(&mut self, reply_window: Duration, now: Timestamp) {
        let closes_at = now + reply_window + self.config.reply_hold;
        self.round = Some(Round { sequence: self.sequence, awaited: self.members.attentive(), closes_at, cut: false });
    }

    /// What was asked for is sent next, in a new pass.
    fn close_round(&mut self, now: Timestamp) {
        let cut = self.round.take().is_some_and(|round| round.cut);
        self.rate.judge(now);
        if self.requests.close_round() {
            self.pass = self.pass.saturating_add(1);
        }
        if cut {
            self.poll_at = self.poll_at.min(now + self.config.poll_interval / 4);
        }
    }

    /// The next frame to send, if it is time for one.
    pub fn poll_frame(&mut self, now: Timestamp) -> Option<Frame> {
        if self.over {
            return None;
        }
        let (symbol, repair) = self.next_symbol()?;
        let payload_bytes = self.geometry.payload_bytes(symbol);
        self.rate.fill(now);
        if !self.rate.take(u32::from(payload_bytes) + FRAME_OVERHEAD_BYTES) {
            return None;
        }
        let Some(sequence) = self.sequence.checked_add(1) else {
            for server in self.members.waiting() {
                self.fail(server, Failure::Exhausted, now);
            }
            return None;
        };
        self.sequence = sequence;
        self.sent_bytes += u64::from(payload_bytes);
        if repair {
            self.requests.sent_again(symbol, sequence);
            self.repaired_symbols += 1;
            self.firsts = 0;
        } else {
            self.requests.sent_first(sequence);
            self.firsts = self.firsts.saturating_add(1);
            self.offered_at = now;
        }
        let last = self.requests.sent_through() == self.geometry.symbols();
        let ended = last && self.requests.repairs() == 0;
        let poll = ended || self.poll_at <= now;
        if poll {
            self.ask_by_frame(ended, now);
        }
        // A repair is flagged by its pass, and the first repairs come with the second.
        let pass = if repair { u8::try_from(self.pass).unwrap_or(u8::MAX).max(2) } else { 1 };
        let header = FrameHeader {
            flags: FrameFlags { poll, repair, last },
            pass,
            key_id: self.announcement.key_id,
            session: self.announcement.session,
            epoch: (self.announcement.epoch & u64::from(u32::MAX)) as u32,
            sequence,
            symbol,
            payload_bytes,
            send_time: (now.0 / 16 % (1 << 16)) as u16,
        };
        Some(Frame { header, offset: self.geometry.offset(symbol) })
    }

    /// The symbol to send next, and whether it is a repair.
    fn next_symbol(&self) -> Option<(u32, bool)> {
        let first = Some(self.requests.sent_through()).filter(|symbol| *symbol < self.available);
        let repair_due = first.is_none() || self.firsts + 1 >= self.config.repair_every;
        let repair = self.requests.first_repair().filter(|_| repair_due);
        repair.map(|symbol| (symbol, true)).or(first.map(|symbol| (symbol, false)))
    }

    fn has_data(&self) -> bool {
        self.requests.sent_through() < self.available || self.requests.repairs() > 0
    }

    /// The frame that was just numbered asks.
    fn ask_by_frame(&mut self, ended: bool, now: Timestamp) {
        self.members.asked();
        self.open_round(self.config.reply_window, now);
        self.quiet_interval = self.config.reply_window + self.config.reply_hold;
        self.poll_at = now + if ended { self.quiet_interval } else { self.config.poll_interval };
        // A member may hear the frames and have answered its share of flags; by name it always answers.
        let suspects = self.members.suspects();
        if !suspects.is_empty() {
            self.push_poll(&suspects, self.config.reply_window);
        }
    }

    fn ask_by_message(&mut self, now: Timestamp) {
        let waiting = self.members.waiting();
        let members = u32::try_from(waiting.len()).unwrap_or(u32::MAX);
        let reply_window = REPLY_WINDOW_PER_MEMBER
            .saturating_mul(members)
            .clamp(self.config.reply_window.min(REPLY_WINDOW_MAX), REPLY_WINDOW_MAX);
        self.push_poll(&waiting, reply_window);
        self.members.asked();
        self.open_round(reply_window, now);
        let stalled = self.requests.sent_through() < self.geometry.symbols();
        let interval_max = if stalled { self.config.stall_poll_interval_max } else { self.config.poll_interval_max };
        self.quiet_interval = (self.quiet_interval * 3 / 2).min(interval_max);
        self.poll_at = now + self.quiet_interval.max(reply_window + self.config.reply_hold);
    }

    fn push_poll(&mut self, asked: &[ServerId], reply_window: Duration) {
        self.polls = self.polls.saturating_add(1);
        self.recent_polls.push_front((self.polls, self.sequence));
        self.recent_polls.truncate(POLLS_KEPT);
        let complete = self.members.complete();
        self.outputs.push_back(Output::Multicast(Message::Poll(Poll {
            session: self.announcement.session,
            poll: self.polls,
            pass: u8::try_from(self.pass).unwrap_or(u8::MAX),
            sent_through: self.requests.sent_through(),
            reply_window_micros: u32::try_from(reply_window.as_micros()).unwrap_or(u32::MAX),
            roll: Roll::of(complete.iter(), asked.iter()),
        })));
    }

    /// Announces, and again after growing intervals.
    fn announce_anew(&mut self, now: Timestamp) {
        self.push_announcement();
        self.announce = Some((now + self.config.announce_interval, self.config.announce_interval));
    }

    fn push_announcement(&mut self) {
        self.outputs.push_back(Output::Multicast(Message::Announce {
            session: self.announcement.session,
            ticket: self.announcement.ticket.clone(),
            table_bytes: self.announcement.table_bytes,
            symbol_bytes: self.geometry.symbol_bytes(),
            epoch: self.announcement.epoch,
        }));
    }

    /// What to do next, until `None`.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call [`Sender::handle_timeout`], and then [`Sender::poll_frame`], at the latest. `None`
    /// when the session is over. A time that is past means at once.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        if self.over {
            return None;
        }
        let next = if self.has_data() { self.frames_at() } else { self.poll_at };
        let config = &self.config;
        let overdue_at = self.members.overdue_at(config.silence_min, config.progress_max, self.offered_at);
        let closes_at = self.round.as_ref().map(|round| round.closes_at);
        [overdue_at, closes_at, self.announce_at(), Some(next)].into_iter().flatten().min()
    }

    /// When to repeat the announcement.
    fn announce_at(&self) -> Option<Timestamp> {
        self.announce.filter(|_| self.members.anyone_unheard()).map(|(at, _)| at)
    }

    /// When there is enough in the bucket for the frames of one wake-up.
    fn frames_at(&self) -> Timestamp {
        let firsts = self.available.saturating_sub(self.requests.sent_through());
        let left = u64::from(firsts) + u64::from(self.requests.repairs());
        let at_once = (u64::from(self.config.rate.burst_frames_max) / WAKE_SHARE).clamp(1, left.max(1));
        self.rate.ready_at(at_once * u64::from(u32::from(self.geometry.symbol_bytes()) + FRAME_OVERHEAD_BYTES))
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        if self.over {
            return;
        }
        if let Some((at, interval)) = self.announce.filter(|_| self.members.anyone_unheard())
            && at <= now
        {
            let interval = (interval * 4).min(self.config.announce_interval_max);
            self.announce = Some((now + interval, interval));
            self.push_announcement();
        }
        if self.round.as_ref().is_some_and(|round| round.closes_at <= now) {
            self.close_round(now);
        }
        if self.poll_at <= now && !self.has_data() {
            self.ask_by_message(now);
        }
        let config = &self.config;
        for (server, failure) in self.members.overdue(config.silence_min, config.progress_max, self.offered_at, now) {
            self.fail(server, failure, now);
        }
    }

    fn fail(&mut self, server: ServerId, failure: Failure, now: Timestamp) {
        if !self.over && self.members.fail(server, failure) {
            self.outputs.push_back(Output::MemberFailed(server, failure));
            self.answered(server, now);
            self.finish_if_done(now);
        }
    }

    fn finish_if_done(&mut self, now: Timestamp) {
        if self.over || self.members.anyone_waits() {
            return;
        }
        self.over = true;
        let failed = self.members.failed();
        self.outputs.push_back(Output::Multicast(Message::close(self.announcement.session, failed.iter())));
        self.outputs.push_back(Output::Finished(self.stats(now)));
    }

    /// What was done so far, for progress.
    #[must_use]
    pub fn stats(&self, now: Timestamp) -> SessionStats {
        SessionStats {
            object_bytes: self.geometry.length(),
            sent_bytes: self.sent_bytes,
            passes: self.pass,
            repaired_symbols: self.repaired_symbols,
            complete: self.members.complete(),
            failed: self.members.failed(),
            millis: u64::try_from(now.since(self.started_at).as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// The present rate in bytes per second on the wire, headers included.
    #[must_use]
    pub fn rate_bytes_per_sec(&self) -> u64 {
        self.rate.bytes_per_sec()
    }
}
