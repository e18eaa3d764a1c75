//! One leader and its members on a simulated segment: virtual time, seeded loss, reordering,
//! duplication, death and late arrival. What the session promises on it is in `promises`.
//!
//! Checked at every step of every run: a sequence is never used twice, no symbol is repeated without
//! a justified request, nobody is complete whose driver did not confirm, and no member's driver is
//! told of completeness with wrong data.

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

use super::*;

pub(super) const SESSION: u32 = 77;

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
    /// All lose the same frames.
    pub(super) shared_loss_ppm: u32,
    pub(super) duplicate_ppm: u32,
    /// So many announcements reach nobody.
    pub(super) announcements_lost: u32,
    /// How long a driver verifies.
    pub(super) verify: Duration,
    /// Each verification finds a wrong chunk with this chance.
    pub(super) wrong_ppm: u32,
    /// The member dies at that time.
    pub(super) dies: Option<(usize, Timestamp)>,
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
            shared_loss_ppm: 0,
            duplicate_ppm: 0,
            announcements_lost: 0,
            verify: Duration::from_micros(200),
            wrong_ppm: 0,
            dies: None,
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
}

impl Outcome {
    pub(super) fn all_complete(&self, members: usize) -> bool {
        self.failed.is_empty() && self.completed_at.len() == members && self.stats.complete.len() == members
    }
}

#[derive(Debug, Clone)]
enum Event {
    Frame(usize, FrameHeader),
    ToMember(usize, Message),
    ToLeader(usize, Message),
    Verified(usize),
    Available(u64),
    Join(usize),
    WakeLeader,
    WakeMember(usize),
}

#[derive(Debug, Default)]
struct Driver {
    receiver: Option<Receiver>,
    /// Frames that came before the announcement.
    early: VecDeque<FrameHeader>,
    written: BTreeSet<u32>,
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
    sequences: BTreeSet<u32>,
    last_sent: BTreeMap<u32, u32>,
    /// Symbols that a member rightly asked for since they were last sent.
    asked: BTreeSet<u32>,
    poll_sequences: BTreeMap<u32, u32>,
    announcements: u32,
    polls: u32,
    statuses: u32,
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

pub(super) fn announcement() -> Announcement {
    let ticket = Ticket {
        cluster: ClusterId([1; 16]),
        site: SiteName::new("site").expect("a good name"),
        assignment: AssignmentNumber(1),
        run: RunNumber(1),
        object: Digest([2; 32]),
        length: 1,
        chunk_bytes: 65_536,
        targets: Vec::new(),
        expires: WallTime(1),
    };
    let key = PublishKey { epoch: 1, key: SecretKey::from_bytes(&[3; 32]) };
    Announcement {
        session: SESSION,
        epoch: 0x1_0000_0005,
        key_id: 4,
        ticket: Signed::sign(&ticket, &key),
        table_bytes: 0,
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
            geometry,
            sender,
            members: (0..plan.members).map(|n| Driver { listening: n < present, ..Driver::default() }).collect(),
            events: BTreeMap::new(),
            event_count: 0,
            wake_leader_at: None,
            now: Timestamp::ZERO,
            chance: ChaCha8Rng::seed_from_u64(plan.seed),
            sequences: BTreeSet::new(),
            last_sent: BTreeMap::new(),
            asked: BTreeSet::new(),
            poll_sequences: BTreeMap::new(),
            announcements: 0,
            polls: 0,
            statuses: 0,
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

    /// Puts a datagram on the wire to one receiver: lost, late, or twice.
    fn transmit(&mut self, event: &Event) {
        if self.happens(self.plan.loss_ppm) {
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
            frames: self.sequences.len() as u32,
            stats: self.finished.take().expect("just finished"),
            completed_at: self.completed_at,
            failed: self.failed,
            finished_at: self.now,
            announcements: self.announcements,
            polls: self.polls,
            statuses: self.statuses,
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
            Event::Frame(member, header) => {
                if !self.is_dead(member) && self.members[member].listening {
                    self.deliver_frame(member, header);
                    self.serve_member(member);
                }
            }
            Event::ToMember(member, message) => {
                if !self.is_dead(member) && self.members[member].listening {
                    self.deliver_message(member, &message);
                    self.serve_member(member);
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
                self.members[member].listening = true;
                assert!(self.sender.add_member(id(member), self.now), "the session still runs");
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

    fn note_request(&mut self, status: &Status) {
        let chance = status.highest.max(self.poll_sequences.get(&status.poll).copied().unwrap_or(0));
        for (first, count) in &status.missing {
            let rightly = self.last_sent.range(*first..first + count).filter(|(_, sequence)| **sequence <= chance);
            let symbols: Vec<u32> = rightly.map(|(symbol, _)| *symbol).collect();
            self.asked.extend(symbols);
        }
    }

    fn serve_leader(&mut self) {
        self.drain_leader();
        let mut burst = 0;
        while let Some(frame) = self.sender.poll_frame(self.now) {
            burst += 1;
            self.send_frame(&frame);
        }
        assert!(burst <= self.plan.config.rate.burst_frames_max, "a burst of {burst}");
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
        assert!(self.sequences.insert(header.sequence), "seed {seed}: sequence {} used twice", header.sequence);
        let datagram = [&header.encode()[..], &vec![0; usize::from(header.payload_bytes) + TAG_BYTES]].concat();
        assert_eq!(FrameHeader::decode(&datagram).map(|(read, _)| read), Ok(header));
        assert_eq!(frame.offset, self.geometry.offset(header.symbol));
        assert_eq!((header.session, header.epoch, header.key_id), (SESSION, 5, 4));
        let before = self.last_sent.insert(header.symbol, header.sequence);
        assert_eq!(before.is_some(), header.flags.repair, "seed {seed}: a repair is a symbol that was sent before");
        let asked = self.asked.remove(&header.symbol);
        assert!(asked || before.is_none(), "seed {seed}: symbol {} repeated, nobody rightly asked", header.symbol);
        if !self.happens(self.plan.shared_loss_ppm) {
            for member in 0..self.members.len() {
                self.transmit(&Event::Frame(member, header));
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
        match message {
            Message::Announce { .. } => {
                self.announcements += 1;
                if self.announcements <= self.plan.announcements_lost {
                    return;
                }
            }
            Message::Poll(poll) => {
                self.polls += 1;
                assert_eq!(poll.poll, self.polls, "polls count from 1");
                self.poll_sequences.insert(poll.poll, self.sequences.last().copied().unwrap_or(0));
            }
            Message::Close { .. } | Message::Status(_) | Message::Decline { .. } => (),
        }
        for member in 0..self.members.len() {
            self.transmit(&Event::ToMember(member, message.clone()));
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
                assert!(driver.written.insert(symbol), "a symbol is accepted once");
            }
            Ok(Accepted::Duplicate) => assert!(driver.written.contains(&header.symbol)),
            Err(Refused::Over) => (),
            Err(refused) => panic!("seed {}: an honest frame: {refused}", self.plan.seed),
        }
    }

    fn deliver_message(&mut self, member: usize, message: &Message) {
        let now = self.now;
        if let Message::Announce { session, .. } = message
            && self.members[member].receiver.is_none()
        {
            let has_it = self.plan.first_has_it && member == 0;
            let new = if has_it { Receiver::already_complete } else { Receiver::new };
            let seed = self.plan.seed ^ member as u64;
            let receiver = new(ReceiverConfig::default(), id(member), *session, self.geometry, seed, now);
            let driver = &mut self.members[member];
            driver.receiver = Some(receiver);
            if has_it {
                driver.verified = true;
                driver.written = (0..self.geometry.symbols()).collect();
            }
            for header in std::mem::take(&mut driver.early) {
                self.deliver_frame(member, header);
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
            (first..first + count).for_each(|symbol| assert!(driver.written.remove(&symbol)));
        } else {
            assert_eq!(driver.written.len(), symbols as usize, "complete means every symbol was written");
            driver.verified = true;
            receiver.confirm();
        }
    }

    fn serve_member(&mut self, member: usize) {
        let mut outputs = Vec::new();
        if let Some(receiver) = &mut self.members[member].receiver {
            outputs.extend(std::iter::from_fn(|| receiver.poll_output()));
        }
        for output in outputs {
            match output {
                ReceiverOutput::Unicast(message) => self.transmit(&Event::ToLeader(member, message)),
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
