//! One leader and its members on a simulated segment: virtual time, seeded loss (each member's own,
//! common, in bursts), reordering, duplication, death and late arrival. What the session promises on it
//! is in `promises` and `scale`; `examples/session-table.rs` prints figures of it.
//!
//! Checked at every step of every run: a sequence is never used twice, no symbol is repeated and no
//! parity sent without a justified request, no block is restored of less than it takes, nobody is
//! complete whose driver did not confirm, and no member's driver is told of completeness with wrong data.
//!
//! Drivers write and restore in name only; that the code restores is `codec`'s to show.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use common::control::SessionStats;
use common::digest::Digest;
use common::ids::{AssignmentNumber, ClusterId, RunNumber, ServerId, SiteName};
use common::keys::{PublishKey, SecretKey, Signed};
use common::ticket::Ticket;
use common::time::{Timestamp, WallTime};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng as _, SeedableRng as _};

use super::codec::Restoration;
use super::rate::BUCKET;
use super::*;

pub(super) const SESSION: u32 = 77;
/// Headers of Ethernet, IPv4 and UDP below a datagram, in bytes.
const BELOW_BYTES: u64 = 42;
/// About what credential, counters, signature and tag add to a message on the control channel.
const ENVELOPE_BYTES: u64 = 350;

/// A segment and what goes wrong on it.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) seed: u64,
    pub(super) members: usize,
    pub(super) bytes: u64,
    pub(super) latency: Duration,
    /// Each datagram takes up to this much longer: they overtake each other.
    pub(super) jitter: Duration,
    /// Each member loses its own datagrams.
    pub(super) loss_ppm: u32,
    /// One member loses so much instead.
    pub(super) straggler: Option<(usize, u32)>,
    pub(super) second_straggler: Option<(usize, u32)>,
    /// So many frames in a row are lost at once; the share of loss stays.
    pub(super) burst: u32,
    /// All lose the same frames.
    pub(super) shared_loss_ppm: u32,
    /// Each restoration fails with this chance.
    pub(super) restore_fails_ppm: u32,
    /// The member hears what is said and not one frame.
    pub(super) deaf: Option<usize>,
    pub(super) duplicate_ppm: u32,
    /// So many announcements reach nobody.
    pub(super) announcements_lost: u32,
    /// How long a driver verifies.
    pub(super) verify: Duration,
    /// Each verification finds a wrong chunk with this chance.
    pub(super) wrong_ppm: u32,
    /// The member dies at that time.
    pub(super) dies: Option<(usize, Timestamp)>,
    /// The member is restarted: when it dies, when it is back, and for how long before its death nothing that it
    /// received was noted, so that it is lost.
    pub(super) restart: Option<(usize, Timestamp, Timestamp, Duration)>,
    /// The last member comes only then.
    pub(super) late: Option<Timestamp>,
    /// The first member has the object already.
    pub(super) first_has_it: bool,
    /// The object becomes available in so many equal parts, one each `part_interval`.
    pub(super) parts: u64,
    pub(super) part_interval: Duration,
    pub(super) config: SenderConfig,
}

impl Plan {
    pub(super) fn of(members: usize, symbols: u64, seed: u64) -> Self {
        Self {
            seed,
            members,
            bytes: symbols * u64::from(SYMBOL_BYTES) - 100,
            latency: Duration::from_micros(100),
            jitter: Duration::ZERO,
            loss_ppm: 0,
            straggler: None,
            second_straggler: None,
            burst: 1,
            shared_loss_ppm: 0,
            restore_fails_ppm: 0,
            deaf: None,
            duplicate_ppm: 0,
            announcements_lost: 0,
            verify: Duration::from_micros(200),
            wrong_ppm: 0,
            dies: None,
            restart: None,
            late: None,
            first_has_it: false,
            parts: 1,
            part_interval: Duration::ZERO,
            config: SenderConfig::default(),
        }
    }

    pub(super) fn run(self) -> Outcome {
        Segment::new(self).run()
    }
}

/// What a run came to.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) stats: SessionStats,
    pub(super) symbols: u32,
    /// Frames sent.
    pub(super) frames: u32,
    pub(super) completed_at: BTreeMap<ServerId, Timestamp>,
    pub(super) failed: BTreeMap<ServerId, Failure>,
    pub(super) finished_at: Timestamp,
    pub(super) announcements: u32,
    pub(super) polls: u32,
    pub(super) statuses: u32,
    /// Symbols that had been sent and were not held by who came late or back.
    pub(super) lacked: u32,
    /// Reports that reached the leader besides the first acknowledgement of each member.
    pub(super) feedback: u32,
    /// Bytes that the leader put on the wire, headers and messages included.
    pub(super) wire_bytes: u64,
    /// Bytes of the object.
    pub(super) bytes: u64,
}

impl Outcome {
    /// Bytes on the wire over bytes of the object.
    pub(super) fn sent_ratio(&self) -> f64 {
        self.wire_bytes as f64 / self.bytes as f64
    }

    pub(super) fn all_complete(&self, members: usize) -> bool {
        self.failed.is_empty() && self.completed_at.len() == members && self.stats.complete.len() == members
    }
}

#[derive(Debug, Clone)]
enum Event {
    Frame(usize, FrameHeader),
    /// To all at the same moment; each loses it or not.
    FrameToAll(FrameHeader),
    ToMember(usize, Message),
    ToAll(Message),
    ToLeader(usize, Message),
    Verified(usize),
    Available(u64),
    Join(usize),
    Noted(usize),
    Killed(usize),
    WakeLeader,
    WakeMember(usize),
}

#[derive(Debug, Default)]
struct Driver {
    receiver: Option<Receiver>,
    /// Frames that came before the announcement.
    early: VecDeque<FrameHeader>,
    written: RangeSet,
    parity: BTreeMap<u32, BTreeSet<u8>>,
    /// So many of the next frames are lost.
    burst_left: u32,
    /// What it has noted, and goes on with when it is restarted.
    noted: RangeSet,
    verified: bool,
    listening: bool,
    dead: bool,
    /// When it is to be woken.
    wake_at: Option<Timestamp>,
}

struct Segment {
    plan: Plan,
    geometry: Geometry,
    sender: Sender,
    members: Vec<Driver>,
    events: BTreeMap<(Timestamp, u64), Event>,
    event_count: u64,
    wake_leader_at: Option<Timestamp>,
    now: Timestamp,
    chance: ChaCha8Rng,
    sequences: RangeSet,
    last_sent: BTreeMap<u32, u32>,
    /// Sequences of the parity of each block, and how many may rightly be sent.
    parity_sent: BTreeMap<u32, Vec<u32>>,
    parity_due: BTreeMap<u32, u32>,
    wire_bytes: u64,
    feedback: u32,
    /// Symbols that a member rightly asked for since they were last sent.
    asked: BTreeSet<u32>,
    poll_sequences: BTreeMap<u32, u32>,
    announcements: u32,
    polls: u32,
    statuses: u32,
    lacked: u32,
    completed_at: BTreeMap<ServerId, Timestamp>,
    failed: BTreeMap<ServerId, Failure>,
    finished: Option<SessionStats>,
}

pub(super) fn id(member: usize) -> ServerId {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&(member as u64).to_be_bytes());
    ServerId(bytes)
}

fn index(server: ServerId) -> usize {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&server.0[..8]);
    u64::from_be_bytes(bytes) as usize
}

pub(super) fn ticket() -> Ticket {
    Ticket {
        cluster: ClusterId([1; 16]),
        site: SiteName::new("site").expect("a good name"),
        assignment: AssignmentNumber(1),
        run: RunNumber(1),
        object: Digest([2; 32]),
        length: 1,
        chunk_bytes: 65_536,
        targets: Vec::new(),
        expires: WallTime(1),
        channel: None,
    }
}

pub(super) fn announcement() -> Announcement {
    let key = PublishKey { epoch: 1, key: SecretKey::from_bytes(&[3; 32]) };
    Announcement {
        session: SESSION,
        epoch: 0x1_0000_0005,
        key_id: 4,
        ticket: Signed::sign(&ticket(), &key),
        table_bytes: 0,
        grants: Vec::new(),
    }
}

impl Segment {
    fn new(plan: Plan) -> Self {
        let geometry = Geometry::new(plan.bytes, SYMBOL_BYTES).expect("fits");
        let present = plan.members - usize::from(plan.late.is_some());
        let first_part = plan.bytes / plan.parts;
        let sender = Sender::new(
            plan.config.clone(),
            announcement(),
            geometry,
            (0..present).map(id),
            first_part,
            Timestamp::ZERO,
        );
        let mut segment = Self {
            geometry: *sender.geometry(),
            sender,
            members: (0..plan.members).map(|n| Driver { listening: n < present, ..Driver::default() }).collect(),
            events: BTreeMap::new(),
            event_count: 0,
            wake_leader_at: None,
            now: Timestamp::ZERO,
            chance: ChaCha8Rng::seed_from_u64(plan.seed),
            sequences: RangeSet::new(),
            last_sent: BTreeMap::new(),
            parity_sent: BTreeMap::new(),
            parity_due: BTreeMap::new(),
            wire_bytes: 0,
            feedback: 0,
            asked: BTreeSet::new(),
            poll_sequences: BTreeMap::new(),
            announcements: 0,
            polls: 0,
            statuses: 0,
            lacked: 0,
            completed_at: BTreeMap::new(),
            failed: BTreeMap::new(),
            finished: None,
            plan,
        };
        let mut at = Timestamp::ZERO;
        for part in 2..=segment.plan.parts {
            at = at + segment.plan.part_interval;
            let bytes = if part == segment.plan.parts { segment.plan.bytes } else { first_part * part };
            segment.schedule(at, Event::Available(bytes));
        }
        if let Some((member, dies, back, unnoted)) = segment.plan.restart {
            segment.schedule(Timestamp::ZERO + dies.since(Timestamp::ZERO + unnoted), Event::Noted(member));
            segment.schedule(dies, Event::Killed(member));
            segment.schedule(back, Event::Join(member));
        }
        if let Some(at) = segment.plan.late {
            segment.schedule(at, Event::Join(segment.plan.members - 1));
        }
        segment
    }

    fn schedule(&mut self, at: Timestamp, event: Event) {
        self.event_count += 1;
        self.events.insert((at, self.event_count), event);
    }

    fn happens(&mut self, ppm: u32) -> bool {
        self.chance.next_u64() % 1_000_000 < u64::from(ppm)
    }

    /// Whether a member loses what comes next.
    fn loses(&mut self, member: usize) -> bool {
        let stragglers = self.plan.straggler.into_iter().chain(self.plan.second_straggler);
        let own = stragglers.filter(|(straggler, _)| *straggler == member).map(|(_, loss_ppm)| loss_ppm).next();
        let loss_ppm = own.unwrap_or(self.plan.loss_ppm);
        if self.plan.burst <= 1 {
            return self.happens(loss_ppm);
        }
        if self.members[member].burst_left > 0 {
            self.members[member].burst_left -= 1;
            return true;
        }
        // A burst begins so rarely among what is heard that the share of loss comes out.
        let starts_ppm = u64::from(loss_ppm) * 1_000_000 / u64::from(self.plan.burst) / u64::from(1_000_000 - loss_ppm);
        if self.happens(starts_ppm as u32) {
            self.members[member].burst_left = self.plan.burst - 1;
            return true;
        }
        false
    }

    /// Whether all hear what is sent at the same moment.
    fn is_simultaneous(&self) -> bool {
        self.plan.jitter == Duration::ZERO && self.plan.duplicate_ppm == 0
    }

    /// Puts a datagram on the wire to or from one member: lost, late, or twice.
    fn transmit(&mut self, member: usize, event: &Event) {
        if self.loses(member) {
            return;
        }
        let copies = 1 + u32::from(self.happens(self.plan.duplicate_ppm));
        for _ in 0..copies {
            let jitter = self.chance.next_u64() % (self.plan.jitter.as_micros() as u64 + 1);
            self.schedule(self.now + self.plan.latency + Duration::from_micros(jitter), event.clone());
        }
    }

    fn run(mut self) -> Outcome {
        let seed = self.plan.seed;
        self.serve_leader();
        while self.finished.is_none() {
            let ((at, _), event) = self.events.pop_first().unwrap_or_else(|| panic!("seed {seed}: all stand still"));
            assert!(at < Timestamp(600_000_000), "seed {seed}: no end in ten minutes");
            assert!(self.event_count < 20_000_000, "seed {seed}: endless at {at:?}");
            self.now = at;
            self.handle(event);
        }
        Outcome {
            symbols: self.geometry.symbols(),
            frames: self.sequences.count(),
            feedback: self.feedback,
            wire_bytes: self.wire_bytes,
            bytes: self.plan.bytes,
            stats: self.finished.take().expect("just finished"),
            completed_at: self.completed_at,
            failed: self.failed,
            finished_at: self.now,
            announcements: self.announcements,
            polls: self.polls,
            statuses: self.statuses,
            lacked: self.lacked,
        }
    }

    fn is_dead(&mut self, member: usize) -> bool {
        if self.plan.dies.is_some_and(|(dying, at)| dying == member && at <= self.now) {
            self.members[member].dead = true;
        }
        self.members[member].dead
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Frame(member, header) => self.frame_arrives(member, header),
            Event::FrameToAll(header) => {
                for member in 0..self.members.len() {
                    if !self.loses(member) {
                        self.frame_arrives(member, header);
                    }
                }
            }
            Event::ToMember(member, message) => self.message_arrives(member, &message),
            Event::ToAll(message) => {
                for member in 0..self.members.len() {
                    if !self.loses(member) {
                        self.message_arrives(member, &message);
                    }
                }
            }
            Event::Verified(member) => {
                if !self.is_dead(member) {
                    self.verified(member);
                    self.serve_member(member);
                }
            }
            Event::WakeMember(member) => {
                let driver = &mut self.members[member];
                driver.wake_at = driver.wake_at.filter(|at| *at > self.now);
                if !self.is_dead(member) {
                    if let Some(receiver) = &mut self.members[member].receiver
                        && receiver.poll_timeout().is_some_and(|at| at <= self.now)
                    {
                        receiver.handle_timeout(self.now);
                    }
                    self.serve_member(member);
                }
            }
            Event::ToLeader(member, message) => {
                if let Message::Status(status) = &message {
                    self.statuses += 1;
                    if !status.complete || self.completed_at.contains_key(&id(member)) {
                        self.feedback += 1;
                    }
                    self.note_request(status);
                    let taken = self.sender.handle_status(id(member), status, self.now);
                    assert_eq!(taken, Ok(()), "seed {}: an honest report", self.plan.seed);
                }
                self.serve_leader();
            }
            Event::Available(bytes) => {
                self.sender.available(bytes, self.now);
                self.serve_leader();
            }
            Event::Join(member) => {
                self.lacked = self.last_sent.len() as u32 - self.members[member].written.count();
                self.members[member].listening = true;
                assert!(self.sender.add_member(id(member), self.now), "the session still runs");
                self.serve_leader();
            }
            Event::Noted(member) => self.members[member].noted = self.members[member].written.clone(),
            Event::Killed(member) => {
                let noted = std::mem::take(&mut self.members[member].noted);
                self.members[member] = Driver { written: noted, ..Driver::default() };
                self.sender.member_gone(id(member), self.now);
                self.serve_leader();
            }
            Event::WakeLeader => {
                self.wake_leader_at = self.wake_leader_at.filter(|at| *at > self.now);
                if self.sender.poll_timeout().is_some_and(|at| at <= self.now) {
                    self.sender.handle_timeout(self.now);
                }
                self.serve_leader();
            }
        }
    }

    fn frame_arrives(&mut self, member: usize, header: FrameHeader) {
        if !self.is_dead(member) && self.members[member].listening && self.plan.deaf != Some(member) {
            self.deliver_frame(member, header);
            self.serve_member(member);
        }
    }

    fn message_arrives(&mut self, member: usize, message: &Message) {
        if !self.is_dead(member) && self.members[member].listening {
            self.deliver_message(member, message);
            self.serve_member(member);
        }
    }

    fn note_request(&mut self, status: &Status) {
        let chance = status.highest.max(self.poll_sequences.get(&status.poll).copied().unwrap_or(0));
        for (first, count) in &status.missing {
            let rightly = self.last_sent.range(*first..first + count).filter(|(_, sequence)| **sequence <= chance);
            let symbols: Vec<u32> = rightly.map(|(symbol, _)| *symbol).collect();
            self.asked.extend(symbols);
        }
        for (block, deficit) in &status.deficits {
            let sent =
                self.parity_sent.get(block).map_or(0, |sent| sent.partition_point(|sequence| *sequence <= chance));
            let due = self.parity_due.entry(*block).or_default();
            // What it lacks, and for what will be lost of that as much again at most.
            *due = (*due).max(sent as u32 + 2 * deficit + 2);
        }
    }

    fn serve_leader(&mut self) {
        self.drain_leader();
        let mut burst = 0;
        let frame_bytes = usize::from(self.geometry.symbol_bytes()) + HEADER_BYTES + TAG_BYTES + LOWER_HEADER_BYTES;
        let in_a_bucket = self.sender.wanted_bytes_per_sec() * BUCKET.as_micros() as u64 / 1_000_000;
        // What is not the length of a symbol is the object's end.
        let of_the_rate = (in_a_bucket / frame_bytes as u64) as u32 + 1;
        while let Some(frame) = self.sender.poll_frame(self.now) {
            burst += 1;
            self.send_frame(&frame);
        }
        assert!(burst <= self.plan.config.rate.burst_frames_max.max(of_the_rate), "a burst of {burst}");
        self.drain_leader();
        let timeout = self.sender.poll_timeout().map(|at| at.max(self.now));
        if let Some(at) = timeout.filter(|at| self.wake_leader_at.is_none_or(|wake_at| *at < wake_at)) {
            self.wake_leader_at = Some(at);
            self.schedule(at, Event::WakeLeader);
        }
    }

    fn send_frame(&mut self, frame: &Frame) {
        let seed = self.plan.seed;
        let header = frame.header;
        assert!(
            self.sequences.insert(header.sequence..header.sequence + 1) == 1,
            "seed {seed}: sequence {} used twice",
            header.sequence
        );
        let datagram = [&header.encode()[..], &vec![0; usize::from(header.payload_bytes) + TAG_BYTES]].concat();
        assert_eq!(FrameHeader::decode(&datagram).map(|(read, _)| read), Ok(header));
        assert_eq!((header.session, header.epoch, header.key_id), (SESSION, 5, 4));
        match header.carried {
            Carried::Symbol(symbol) => {
                assert_eq!(frame.content, Content::Stream { offset: self.geometry.offset(symbol) });
                let before = self.last_sent.insert(symbol, header.sequence);
                assert_eq!(
                    before.is_some(),
                    header.flags.repair,
                    "seed {seed}: a repair is a symbol that was sent before"
                );
                let asked = self.asked.remove(&symbol);
                assert!(asked || before.is_none(), "seed {seed}: symbol {symbol} repeated, nobody rightly asked");
            }
            Carried::Parity { block, index } => {
                let sent = self.parity_sent.entry(block).or_default();
                sent.push(header.sequence);
                let due = self.parity_due.get(&block).copied().unwrap_or(0);
                assert!(sent.len() as u32 <= due, "seed {seed}: parity of block {block} that nobody rightly asked for");
                let Content::Parity { block: of, index: which, count } = frame.content else { panic!("{frame:?}") };
                assert_eq!((of, which), (block, index));
                assert!(count > 0 && u32::from(index) + u32::from(count) <= self.geometry.parity_symbols());
            }
        }
        self.wire_bytes += datagram.len() as u64 + BELOW_BYTES;
        if self.happens(self.plan.shared_loss_ppm) {
            return;
        }
        if self.is_simultaneous() {
            self.schedule(self.now + self.plan.latency, Event::FrameToAll(header));
        } else {
            for member in 0..self.members.len() {
                self.transmit(member, &Event::Frame(member, header));
            }
        }
    }

    fn drain_leader(&mut self) {
        let seed = self.plan.seed;
        while let Some(output) = self.sender.poll_output() {
            assert!(self.finished.is_none(), "seed {seed}: nothing follows the end");
            match output {
                SenderOutput::Multicast(message) => self.multicast(&message),
                SenderOutput::MemberComplete(server) => {
                    assert!(self.members[index(server)].verified, "seed {seed}: complete and never verified");
                    assert!(self.completed_at.insert(server, self.now).is_none(), "seed {seed}: said once");
                    self.failed.remove(&server);
                }
                SenderOutput::MemberFailed(server, failure) => {
                    assert!(!self.completed_at.contains_key(&server));
                    self.failed.insert(server, failure);
                }
                SenderOutput::Finished(stats) => self.finished = Some(stats),
            }
        }
    }

    fn multicast(&mut self, message: &Message) {
        let body = postcard::to_stdvec(message).expect("it can be written").len() as u64;
        self.wire_bytes += body + ENVELOPE_BYTES + BELOW_BYTES;
        match message {
            Message::Announce { .. } => {
                self.wire_bytes += 16 * self.members.len() as u64;
                self.announcements += 1;
                if self.announcements <= self.plan.announcements_lost {
                    return;
                }
            }
            Message::Poll(poll) => {
                self.polls += 1;
                assert_eq!(poll.poll, self.polls, "polls count from 1");
                self.poll_sequences.insert(poll.poll, self.sequences.count());
            }
            Message::Close { .. }
            | Message::Status(_)
            | Message::Decline { .. }
            | Message::Plan { .. }
            | Message::Overflow { .. } => (),
        }
        if self.is_simultaneous() {
            self.schedule(self.now + self.plan.latency, Event::ToAll(message.clone()));
            return;
        }
        for member in 0..self.members.len() {
            self.transmit(member, &Event::ToMember(member, message.clone()));
        }
    }

    fn deliver_frame(&mut self, member: usize, header: FrameHeader) {
        let driver = &mut self.members[member];
        let Some(receiver) = &mut driver.receiver else {
            driver.early.push_back(header);
            driver.early.truncate(256);
            return;
        };
        match receiver.handle_frame(&header, usize::from(header.payload_bytes), self.now) {
            Ok(Accepted::Symbol(symbol)) => {
                assert_eq!(driver.written.insert(symbol..symbol + 1), 1, "a symbol is accepted once");
            }
            Ok(Accepted::Parity { block, index }) => {
                driver.parity.entry(block).or_default().insert(index);
            }
            Ok(Accepted::Duplicate) => match header.carried {
                Carried::Symbol(symbol) => assert!(driver.written.contains(symbol)),
                Carried::Parity { .. } => (),
            },
            Err(Refused::Over | Refused::Replay { .. }) => (),
            Err(refused) => panic!("seed {}: an honest frame: {refused}", self.plan.seed),
        }
    }

    fn deliver_message(&mut self, member: usize, message: &Message) {
        let now = self.now;
        if let Message::Announce { session, layout, .. } = message
            && self.members[member].receiver.is_none()
        {
            let has_it = self.plan.first_has_it && member == 0;
            let new = if has_it { Receiver::already_complete } else { Receiver::new };
            let seed = self.plan.seed ^ member as u64;
            let config = ReceiverConfig { members: layout.members, ..ReceiverConfig::default() };
            let geometry = Geometry::announced(self.plan.bytes, *layout).expect("fits");
            assert_eq!(geometry, self.geometry);
            let mut receiver = new(config, id(member), *session, geometry, seed, now);
            for run in self.members[member].written.runs() {
                receiver.mark_have(run.start, run.end - run.start);
            }
            let driver = &mut self.members[member];
            driver.receiver = Some(receiver);
            if has_it {
                driver.verified = true;
                driver.written.insert(0..self.geometry.symbols());
            }
            for header in std::mem::take(&mut driver.early) {
                self.deliver_frame(member, header);
                self.serve_member(member);
            }
        }
        if let Some(receiver) = &mut self.members[member].receiver {
            receiver.handle_message(message, now);
        }
    }

    fn verified(&mut self, member: usize) {
        let wrong = self.happens(self.plan.wrong_ppm);
        let symbols = self.geometry.symbols();
        let first = (self.chance.next_u64() % u64::from(symbols.max(1))) as u32;
        let driver = &mut self.members[member];
        let receiver = driver.receiver.as_mut().expect("it asked for verification");
        if wrong {
            let count = 3.min(symbols - first);
            receiver.mark_bad(first, count, self.now);
            assert_eq!(driver.written.remove(first..first + count), count);
        } else {
            assert_eq!(driver.written.count(), symbols, "complete means every symbol was written");
            driver.verified = true;
            receiver.confirm(self.now);
        }
    }

    fn restore(&mut self, member: usize, restoration: &Restoration) {
        let Restoration { block, missing, parity } = restoration;
        let fails = self.happens(self.plan.restore_fails_ppm);
        let driver = &mut self.members[member];
        for symbol in self.geometry.block_symbols(*block) {
            assert_eq!(driver.written.contains(symbol), !missing.contains(&symbol), "what is missing is known");
        }
        let kept = driver.parity.get(block).cloned().unwrap_or_default();
        assert!(parity.iter().all(|index| kept.contains(index)), "the parity was kept");
        assert_eq!(parity.len(), missing.len(), "as much parity as is missing");
        let receiver = driver.receiver.as_mut().expect("it asked for it");
        driver.parity.remove(block);
        if fails {
            receiver.not_restored(*block);
        } else {
            for symbol in missing {
                driver.written.insert(*symbol..*symbol + 1);
            }
            receiver.restored(*block);
        }
    }

    fn serve_member(&mut self, member: usize) {
        while let Some(output) = self.members[member].receiver.as_mut().and_then(Receiver::poll_output) {
            match output {
                ReceiverOutput::Unicast(message) => self.transmit(member, &Event::ToLeader(member, message)),
                ReceiverOutput::Restore(restoration) => self.restore(member, &restoration),
                ReceiverOutput::Complete => self.schedule(self.now + self.plan.verify, Event::Verified(member)),
                ReceiverOutput::Abandoned => panic!("seed {}: given up by {member}", self.plan.seed),
                ReceiverOutput::Closed { complete } => assert_eq!(complete, self.members[member].verified),
            }
        }
        let timeout = self.members[member].receiver.as_ref().and_then(Receiver::poll_timeout);
        let wake_at = self.members[member].wake_at;
        if let Some(at) = timeout.map(|at| at.max(self.now)).filter(|at| wake_at.is_none_or(|wake_at| *at < wake_at)) {
            self.members[member].wake_at = Some(at);
            self.schedule(at, Event::WakeMember(member));
        }
    }
}
