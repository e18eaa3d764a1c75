//! The leader's side of a multicast session: sends each symbol once, and again what is asked for,
//! until every member has acknowledged or failed.
//!
//! **The calling contract.** After [`Sender::new`] and after every input (`handle_*`, [`available`],
//! [`add_member`], [`member_gone`]), with one `now` that never goes back:
//!
//! 1. drain [`poll_output`] until `None` and carry each [`Output`] out in that order;
//! 2. call [`poll_frame`] until `None`; for each frame make what [`Frame::content`] says, seal it
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
//! over, and then sent once, however many asked: of each block as much parity as the member that lacks
//! most of it, and by name what parity cannot mend. During the first pass repairs take at most every
//! `repair_every`-th frame, after it all. When nothing is left to send, a poll by message asks those
//! who have not acknowledged. With nothing lost no step waits for a timer.
//!
//! In a large session a round lasts for its whole window, and whatever raises what will be sent is told to
//! all at once, so that those whom it mends need not ask (`suppression`).
//!
//! One that loses far more than the others is set aside: it hears what they hear, and what it lacks is
//! sent when they are complete, or left to unicast.
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

mod asking;
mod joining;

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use common::control::SessionStats;
use common::ids::ServerId;
use common::keys::Signed;
use common::ticket::Ticket;
use common::time::Timestamp;

use super::deficits::{Deficits, Forecast};
use super::frame::{Carried, FrameFlags, FrameHeader, HEADER_BYTES, LOWER_HEADER_BYTES, TAG_BYTES};
use super::grant::Grant;
use super::members::{Failure, Members};
use super::message::{Message, Status, may_be_cut};
use super::rate::Rate;
use super::refusal::{Sent, StatusRefused};
use super::requests::Requests;
use super::sender_config::{Repair, SenderConfig};
use super::suppression::Large;
use super::{Geometry, SYMBOL_BYTES_MAX};

/// How many of the last polls are remembered with the sequence they followed.
const POLLS_KEPT: usize = 64;
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
    /// The session's secret for the first members ([`Sender::grant`] for later ones).
    pub grants: Vec<Grant>,
}

/// A frame to be sealed and sent on the data channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// Its header; names sequence and length of the payload.
    pub header: FrameHeader,
    /// Where its payload comes from.
    pub content: Content,
}

/// Where the payload of a frame comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// The stream (chunk table, then object).
    Stream {
        /// Where it begins, in bytes.
        offset: u64,
    },
    /// The code ([`Encoder`](super::codec::Encoder)).
    Parity {
        /// Of this block.
        block: u32,
        /// Which of its parity symbols.
        index: u8,
        /// How many of them, from this one on, are going to be sent: they are best made together.
        count: u8,
    },
}

/// What to send next.
#[derive(Debug, Clone, Copy)]
enum Next {
    First(u32),
    Named(u32),
    Parity { block: u32, index: u8, count: u8 },
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
    /// When it was asked, and over what time answers are spread.
    asked: (Timestamp, Duration),
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
    /// So many may be sent as soon as the members have joined the data's channel.
    withheld: Option<u32>,
    /// Until when to wait for them to do so.
    joined_by: Option<Timestamp>,
    requests: Requests,
    deficits: Deficits,
    /// The worst loss that was measured so far, in parts per million.
    measured_ppm: Option<u32>,
    /// So many blocks were sent whole when members of a large session were last asked.
    asked_blocks: u32,
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
    /// `available_bytes` may be sent. The object is cut into blocks when the configuration asks for parity.
    /// Without members it is finished at once.
    #[must_use]
    pub fn new(
        config: SenderConfig,
        announcement: Announcement,
        geometry: Geometry,
        members: impl IntoIterator<Item = ServerId>,
        available_bytes: u64,
        now: Timestamp,
    ) -> Self {
        let geometry = if config.fec { geometry.with_blocks() } else { geometry };
        let frame_bytes_max = u32::from(geometry.symbol_bytes().min(SYMBOL_BYTES_MAX)) + FRAME_OVERHEAD_BYTES;
        let mut sender = Self {
            rate: Rate::new(config.rate.clone(), frame_bytes_max, now),
            members: Members::new(members, now),
            announcement,
            geometry,
            started_at: now,
            available: geometry.symbols_within(available_bytes),
            withheld: None,
            joined_by: None,
            requests: Requests::default(),
            deficits: Deficits::default(),
            measured_ppm: None,
            asked_blocks: 0,
            firsts: 0,
            pass: 1,
            sequence: 0,
            sent_bytes: 0,
            repaired_symbols: 0,
            round: None,
            polls: 0,
            recent_polls: VecDeque::new(),
            poll_at: now + config.poll_interval,
            quiet_interval: Duration::ZERO,
            announce: None,
            offered_at: now,
            over: false,
            outputs: VecDeque::new(),
            config,
        };
        sender.quiet_interval = sender.first_quiet_interval();
        if sender.members.anyone_waits() {
            sender.announce_anew(now);
            if !sender.has_data() {
                sender.poll_at = now + sender.quiet_interval;
            }
        }
        sender.finish_if_done(now);
        sender
    }

    /// Asks before anything is sent, because the members may hold the object already, or much of it: they
    /// were served before, by this leader or another. What is available counts as sent, and only what
    /// they say they lack is sent. To be said right after [`Sender::new`].
    #[must_use]
    pub fn asking_first(mut self) -> Self {
        self.requests.assume_sent(self.available);
        self.poll_at = self.started_at + self.quiet_interval;
        self
    }

    /// Only so many bytes of the stream may be sent yet. To be said right after [`Sender::new`].
    #[must_use]
    pub fn so_far(mut self, bytes: u64) -> Self {
        self.available = self.geometry.symbols_within(bytes).min(self.available);
        if self.available == 0 {
            self.poll_at = self.started_at + self.quiet_interval;
        }
        self
    }

    /// How the object is cut.
    #[must_use]
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Whether members suppress each other's reports.
    fn large(&self) -> Option<Large> {
        Large::of(self.announced_members()).filter(|_| self.geometry.is_coded())
    }

    /// How much longer an answer is waited for because all members answer at one moment. In a large session
    /// they do not.
    fn patience(&self) -> Duration {
        match self.large() {
            Some(_) => Duration::ZERO,
            None => self.config.patience_per_member * u32::from(self.announced_members()),
        }
    }

    /// How long after all was sent a message asks.
    fn first_quiet_interval(&self) -> Duration {
        self.config.reply_window + self.config.reply_hold + self.patience()
    }

    fn announced_members(&self) -> u16 {
        u16::try_from(self.members.count()).unwrap_or(u16::MAX)
    }

    /// So many bytes of the stream may be sent, from its start; fewer than before change nothing.
    pub fn available(&mut self, bytes: u64, now: Timestamp) {
        let available = self.geometry.symbols_within(bytes);
        match &mut self.withheld {
            Some(withheld) => *withheld = available.max(*withheld),
            None => self.offer(available, now),
        }
    }

    fn offer(&mut self, available: u32, now: Timestamp) {
        if available > self.available {
            self.available = available;
            self.poll_at = self.poll_at.min(now + self.config.poll_interval);
            self.quiet_interval = self.first_quiet_interval();
        }
    }

    /// The session's secret for a server that is about to be [added](Sender::add_member), or comes back.
    pub fn grant(&mut self, grant: Grant) {
        let grants = &mut self.announcement.grants;
        grants.retain(|old| !old.is_for_whom(&grant));
        grants.push(grant);
    }

    /// A server that came to the segment takes part too, and gets what it missed as repairs. Also takes
    /// back a member that failed. Returns whether it is waited for from here on: not when it was already,
    /// and not when the session is over.
    pub fn add_member(&mut self, server: ServerId, now: Timestamp) -> bool {
        let added = !self.over && self.members.join(server, now);
        if added {
            self.announce_anew(now);
            self.quiet_interval = self.first_quiet_interval();
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
        if heard.completed {
            self.outputs.push_back(Output::MemberComplete(from));
        }
        self.release_if_joined(now);
        // Up to here the member had the chance to hear everything.
        let heard_through = status.highest.max(self.sequence_at(status.poll));
        let wants = heard.served && self.want(from, status, heard_through);
        if let Some(round) = &mut self.round {
            round.cut |= heard.served && !status.more && may_be_cut(status);
            if !heard.waiting || (heard_through >= round.sequence && !status.more) {
                let (asked_at, window) = round.asked;
                if round.awaited.contains(&from) {
                    // Members answer in the later half of the window.
                    self.rate.answered(now.since(asked_at), window / 2);
                }
                self.answered(from, now);
            }
        } else if self.any_wanted() {
            // Unasked, or late: others may be about to ask for the same.
            let window = self.large().map_or(self.config.reply_window, Large::window);
            self.open_round(window, self.members.attentive(), now);
            self.answered(from, now);
        }
        if wants && self.large().is_some() {
            self.push_plan();
        }
        self.finish_if_done(now);
        Ok(())
    }

    /// Joins what a member asks for. Returns whether that is more than is on its way or planned.
    fn want(&mut self, from: ServerId, status: &Status, heard_through: u32) -> bool {
        let mut wants = self.requests.want(&status.missing, heard_through);
        for (block, deficit) in status.deficits.iter().copied() {
            let symbols = self.geometry.block_symbols(block);
            // The common case: the block was sent whole before the member spoke.
            let is_old = symbols.clone().last().is_none_or(|last| self.requests.were_sent_by(last, heard_through));
            let sent_since = if is_old { 0 } else { self.requests.on_their_way(symbols.clone(), heard_through) };
            // Named repairs of the block mend those who lack just these, which shows when they are sent.
            let on_their_way = sent_since + self.requests.repairs_among(symbols);
            wants |= self.deficits.want(block, deficit, on_their_way, heard_through);
        }
        if wants {
            self.members.asks(from);
        }
        wants
    }

    fn any_wanted(&self) -> bool {
        self.requests.any_wanted() || self.deficits.any_wanted()
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
            geometry: self.geometry,
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

    fn open_round(&mut self, reply_window: Duration, awaited: BTreeSet<ServerId>, now: Timestamp) {
        let closes_at = now + reply_window + self.config.reply_hold;
        // In a large session those who are silent need nothing more, so the round lasts for its time.
        let awaited = if self.large().is_some() { BTreeSet::new() } else { awaited };
        let asked = (now, reply_window);
        self.round = Some(Round { sequence: self.sequence, asked, awaited, closes_at, cut: false });
    }

    /// What was asked for is sent next, in a new pass.
    fn close_round(&mut self, now: Timestamp) {
        let cut = self.round.take().is_some_and(|round| round.cut);
        let losses = self.members.losses();
        if let Some(worst_ppm) = losses.worst_ppm {
            self.rate.observe(worst_ppm);
            self.measured_ppm = self.measured_ppm.max(Some(worst_ppm));
        } else if self.large().is_none() && self.members.all_fell_silent() {
            self.rate.unanswered();
        }
        self.rate.judge(now);
        if !losses.set_aside.is_empty() {
            // Most of what is planned is for them. The others ask anew.
            self.requests.cancel();
            self.deficits.cancel();
        }
        let geometry = self.geometry;
        // Within the stream what is lost of the repairs is asked for again before the end.
        let is_end = self.requests.sent_through() == geometry.symbols();
        let block_symbols = |block| geometry.block_length(block);
        let forecast = Forecast { block_symbols: &block_symbols, measured_ppm: self.measured_ppm };
        if self.requests.close_round() | self.deficits.close_round(is_end.then_some(&forecast)) {
            self.pass = self.pass.saturating_add(1);
            for server in self.members.passes(self.config.fruitless_passes_max) {
                self.fail(server, Failure::Fruitless, now);
            }
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
        let next = self.next()?;
        let payload_bytes = match next {
            Next::First(symbol) | Next::Named(symbol) => self.geometry.payload_bytes(symbol),
            Next::Parity { block, .. } => self.geometry.parity_bytes(block),
        };
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
        let (carried, content) = match next {
            Next::First(symbol) => {
                self.requests.sent_first(sequence);
                self.firsts = self.firsts.saturating_add(1);
                self.offered_at = now;
                (Carried::Symbol(symbol), Content::Stream { offset: self.geometry.offset(symbol) })
            }
            Next::Named(symbol) => {
                self.requests.sent_again(symbol, sequence);
                (Carried::Symbol(symbol), Content::Stream { offset: self.geometry.offset(symbol) })
            }
            Next::Parity { block, index, count } => {
                self.deficits.sent(block, sequence);
                (Carried::Parity { block, index }, Content::Parity { block, index, count })
            }
        };
        let repair = !matches!(next, Next::First(_));
        if repair {
            self.repaired_symbols += 1;
            self.firsts = 0;
        }
        let last = self.requests.sent_through() == self.geometry.symbols();
        let ended = last && !self.has_repairs();
        let poll = ended || self.is_time_to_ask(now);
        if poll {
            self.ask_by_frame(ended, now);
        }
        // A repair is flagged by its pass, and the first repairs come with the second.
        let pass = if repair { u8::try_from(self.pass).unwrap_or(u8::MAX).max(2) } else { 1 };
        let header = FrameHeader {
            flags: FrameFlags { poll, repair, last, spent: ended },
            pass,
            key_id: self.announcement.key_id,
            session: self.announcement.session,
            epoch: (self.announcement.epoch & u64::from(u32::MAX)) as u32,
            sequence,
            carried,
            payload_bytes,
            send_time: (now.0 / 16 % (1 << 16)) as u16,
        };
        Some(Frame { header, content })
    }

    /// What to send next: repairs of the first blocks first.
    fn next(&self) -> Option<Next> {
        let first = Some(self.requests.sent_through()).filter(|symbol| *symbol < self.available);
        let repair_due = match self.config.repair {
            Repair::InStream => first.is_none() || self.firsts + 1 >= self.config.repair_every,
            Repair::EndOfPass => first.is_none(),
        };
        if !repair_due {
            return first.map(Next::First);
        }
        let named = self.requests.first_repair();
        let parity = self.deficits.first();
        let named_block = named.and_then(|symbol| self.geometry.block_of(symbol));
        match (named, parity) {
            (Some(symbol), Some((block, ..))) if named_block.is_none_or(|named| named <= block) => {
                Some(Next::Named(symbol))
            }
            (_, Some((block, sent, pending))) => {
                let parity_symbols = self.geometry.parity_symbols().max(1);
                // When all parity was sent it begins anew; who still lacks much names what it lacks.
                let index = sent % parity_symbols;
                let count = u8::try_from(pending.min(parity_symbols - index)).unwrap_or(u8::MAX);
                Some(Next::Parity { block, index: u8::try_from(index).unwrap_or(u8::MAX), count })
            }
            (Some(symbol), None) => Some(Next::Named(symbol)),
            (None, None) => first.map(Next::First),
        }
    }

    fn has_repairs(&self) -> bool {
        self.requests.repairs() > 0 || !self.deficits.is_spent()
    }

    fn has_data(&self) -> bool {
        self.requests.sent_through() < self.available || self.has_repairs()
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
        [overdue_at, closes_at, self.announce_at(), self.joined_by, Some(next)].into_iter().flatten().min()
    }

    /// When to repeat the announcement.
    fn announce_at(&self) -> Option<Timestamp> {
        self.announce.filter(|_| self.members.anyone_unaware()).map(|(at, _)| at)
    }

    /// When there is enough in the bucket for the frames of one wake-up.
    fn frames_at(&self) -> Timestamp {
        let firsts = self.available.saturating_sub(self.requests.sent_through());
        let left = u64::from(firsts) + u64::from(self.requests.repairs()) + u64::from(self.deficits.pending());
        let at_once = (u64::from(self.config.rate.burst_frames_max) / WAKE_SHARE).clamp(1, left.max(1));
        self.rate.ready_at(at_once * u64::from(u32::from(self.geometry.symbol_bytes()) + FRAME_OVERHEAD_BYTES))
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        if self.over {
            return;
        }
        if let Some((at, interval)) = self.announce.filter(|_| self.members.anyone_unaware())
            && at <= now
        {
            let interval_max = self.config.announce_interval_max;
            // Of many, most are not heard before their acknowledgement.
            let interval_max = if self.large().is_some() { interval_max * 10 } else { interval_max };
            let interval = (interval * 4).min(interval_max);
            self.announce = Some((now + interval, interval));
            self.push_announcement();
        }
        self.release_if_joined(now);
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
            self.release_if_joined(now);
            self.answered(server, now);
            self.finish_if_done(now);
        }
    }

    fn finish_if_done(&mut self, now: Timestamp) {
        if !self.over
            && let Some(server) = self.members.take_back(self.geometry.symbols())
            && self.members.fail(server, Failure::Straggling)
        {
            self.outputs.push_back(Output::MemberFailed(server, Failure::Straggling));
        }
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

    /// The rate at which the session would send by itself what it has to send at present, in bytes per second
    /// on the wire; 0 while it has nothing to send.
    #[must_use]
    pub fn wanted_bytes_per_sec(&self) -> u64 {
        if self.over || !self.has_data() { 0 } else { self.rate.wanted_bytes_per_sec() }
    }

    /// What the leader's other sessions leave to this one from here on, in bytes per second on the wire.
    pub fn set_share(&mut self, bytes_per_sec: Option<u64>, now: Timestamp) {
        self.rate.set_share(bytes_per_sec, now);
    }

    /// The present rate in bytes per second on the wire, headers included.
    #[must_use]
    pub fn rate_bytes_per_sec(&self) -> u64 {
        self.rate.bytes_per_sec()
    }
}
