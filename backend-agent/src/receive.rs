//! The member's side of multicast sessions as its driver sees it: frames opened, symbols written into
//! a spool file, and what is missing remembered from one session to the next.
//!
//! **The calling contract.** Any number of [`Receptions::frame`], then [`Receptions::settle`]; every
//! other input settles by itself. Then drain [`Receptions::poll_event`].
//!
//! What is asked for when is the session machine's business ([`protocol::session`]). Bytes are
//! believed only when the whole file has the digest of its ticket, which the caller checks: of a
//! large object while the rest arrives.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::decline::DeclineCode;
use common::digest::Digest;
use common::errors::chain;
use common::ids::{AssignmentNumber, ServerId};
use common::ticket::Ticket;
use common::time::Timestamp;
use lan_channel::envelope::SegmentKey;
use lan_channel::frames::FrameKey;
use lan_channel::secrets::{SessionName, SessionSecret};
use protocol::session::{
    Accepted, FrameHeader, Geometry, HEADER_BYTES, Layout, Message, Receiver, ReceiverConfig, ReceiverOutput,
    channel_of,
};
use transfer::fetch::Beginning;

pub use crate::spool::Growth;
use crate::spool::{self, Remains, Spool, WriteError};

/// Frames kept for a session that is not announced yet: the announcement travels on another socket
/// and may be overtaken.
const EARLY_BYTES_MAX: usize = 4 << 20;
/// How long they are kept.
const EARLY_LIFE: Duration = Duration::from_millis(500);
/// Sessions at once. A leader runs few; more are refused.
const SESSIONS_MAX: usize = 64;
/// Objects from this length on are verified while they arrive.
const VERIFIED_EARLY_BYTES_MIN: u64 = 4 << 20;
/// How often is noted what is held, for an agent that is killed and starts again.
const NOTE_INTERVAL: Duration = Duration::from_secs(1);

/// What an announcement says, with the ticket believed.
#[derive(Debug, Clone)]
pub struct Announced {
    /// The session.
    pub session: u32,
    /// What is sent.
    pub ticket: Ticket,
    /// How it is cut.
    pub layout: Layout,
    /// Bytes of a chunk table ahead of the object.
    pub table_bytes: u64,
    /// The leader.
    pub leader: ServerId,
    /// Its epoch.
    pub epoch: u64,
    /// The session's secret.
    pub secret: SessionSecret,
}

impl Announced {
    fn name(&self) -> SessionName {
        SessionName { session: self.session, leader: self.leader, epoch: self.epoch }
    }
}

/// Why a session is not taken part in.
#[derive(Debug, thiserror::Error)]
pub enum Declined {
    /// Too many at once.
    #[error("{SESSIONS_MAX} sessions are under way already")]
    Busy,
    /// Its numbers make no sense.
    #[error("the announcement makes no sense")]
    Geometry(#[from] protocol::session::GeometryError),
    /// A form of a later version.
    #[error("the announcement has a chunk table, which this version does not read")]
    Table,
    /// No room, or the disk failed.
    #[error("the spool file cannot be made")]
    Spool(#[source] io::Error),
}

impl Declined {
    /// For the leader's program.
    #[must_use]
    pub fn code(&self) -> DeclineCode {
        match self {
            Self::Busy => DeclineCode::Busy,
            Self::Geometry(_) | Self::Table => DeclineCode::Version,
            Self::Spool(_) => DeclineCode::Space,
        }
    }
}

/// What the caller shall do.
#[derive(Debug)]
pub enum Event {
    /// Send to the leader of the session.
    Say {
        /// The leader.
        leader: ServerId,
        /// What.
        message: Message,
    },
    /// Verify the file as `growth` gives it, take it into the store, then [`Receptions::confirm`] or
    /// [`Receptions::fail`]; elsewhere, for it may take as long as the session does. Comes once in a
    /// session, when the object is complete or a good part of it is here.
    Verify {
        /// The session.
        session: u32,
        /// Its ticket.
        ticket: Ticket,
        /// The leader, in case it does not verify.
        leader: ServerId,
        /// The spool file.
        path: PathBuf,
        /// Reads it from the first byte to the last.
        growth: Growth,
    },
    /// The session ended without giving this member everything.
    Incomplete {
        /// Its ticket.
        ticket: Ticket,
        /// The leader, who still has the object if it is alive.
        leader: ServerId,
    },
}

#[derive(Debug)]
struct Reception {
    announced: Announced,
    key: FrameKey,
    receiver: Receiver,
    geometry: Geometry,
    /// `None` when the object was here before the session.
    file: Option<Spool>,
    /// The data channel that must be listened to for it, besides the segment's own.
    channel: Option<SocketAddr>,
    /// When to note what is held.
    note_at: Timestamp,
    /// The object was taken into the store; the spool file is gone.
    confirmed: bool,
}

impl Reception {
    /// Writes what is kept back, and notes how far the object is here without a gap.
    fn write_out(&mut self, now: Timestamp) {
        let Some(file) = &mut self.file else { return };
        if let Err(error) = file.flush() {
            self.lost(&error, now);
        }
        if let Some(file) = &mut self.file {
            file.grown(self.receiver.held());
        }
    }

    /// Bytes that were heard could not be written.
    fn lost(&mut self, error: &WriteError, now: Timestamp) {
        tracing::error!(%error, reason = %error.source, "symbols cannot be written");
        let (first, count) = self.geometry.symbols_of(error.offset, error.bytes);
        self.receiver.mark_bad(first, count, now);
    }
}

/// All sessions that this member takes part in.
#[derive(Debug)]
pub struct Receptions {
    directory: PathBuf,
    me: ServerId,
    segment_key: SegmentKey,
    config: ReceiverConfig,
    sessions: BTreeMap<u32, Reception>,
    remains: BTreeMap<Digest, Remains>,
    /// Objects that sessions brought a part of, by what they are for.
    unfinished: BTreeMap<AssignmentNumber, Digest>,
    early: VecDeque<(Timestamp, Vec<u8>)>,
    early_bytes: usize,
    /// Sessions of which frames came since they were last settled.
    unsettled: BTreeSet<u32>,
    events: VecDeque<Event>,
    /// Sessions came or went.
    channels_changed: bool,
}

impl Receptions {
    /// Receives into this directory. What an earlier process noted is gone on with when a session brings
    /// it; everything else in the directory is removed.
    ///
    /// # Errors
    /// When it cannot be made or cleaned.
    pub fn new(directory: &Path, me: ServerId, segment_key: SegmentKey) -> io::Result<Self> {
        let remains = spool::clean(directory)?.into_iter().collect();
        Ok(Self {
            directory: directory.to_owned(),
            me,
            segment_key,
            config: ReceiverConfig::default(),
            sessions: BTreeMap::new(),
            remains,
            unfinished: BTreeMap::new(),
            early: VecDeque::new(),
            early_bytes: 0,
            unsettled: BTreeSet::new(),
            events: VecDeque::new(),
            channels_changed: false,
        })
    }

    /// With other times than the default ones.
    #[must_use]
    pub fn with_config(mut self, config: ReceiverConfig) -> Self {
        self.config = config;
        self
    }

    /// The next thing to do.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The data channels to listen to from here on besides the segment's own; `None` when they are the same as
    /// before. To be asked before [`Receptions::poll_event`]: the leader hears that this server listens.
    pub fn poll_channels(&mut self) -> Option<BTreeSet<SocketAddr>> {
        let channels = || self.sessions.values().filter_map(|reception| reception.channel).collect();
        std::mem::take(&mut self.channels_changed).then(channels)
    }

    /// This channel cannot be listened to: what comes on it is to be had in another way.
    pub fn deaf(&mut self, channel: SocketAddr, reason: &str) {
        let on_it = self.sessions.iter().filter(|(_, reception)| reception.channel == Some(channel));
        for session in on_it.map(|(session, _)| *session).collect::<Vec<u32>>() {
            let Some(Reception { announced, .. }) = self.sessions.get(&session) else { continue };
            let (ticket, leader) = (announced.ticket.clone(), announced.leader);
            self.fail(session, reason);
            self.events.push_back(Event::Incomplete { ticket, leader });
        }
    }

    /// Whether the session is taken part in.
    #[must_use]
    pub fn knows(&self, session: u32) -> bool {
        self.sessions.contains_key(&session)
    }

    /// Whether some session brings this object already.
    #[must_use]
    pub fn brings(&self, object: Digest) -> bool {
        self.sessions.values().any(|reception| reception.announced.ticket.object == object)
    }

    /// Whether a session has brought anything of this object, or is about to.
    #[must_use]
    pub fn has_some_of(&self, object: Digest) -> bool {
        self.brings(object) || self.remains.contains_key(&object)
    }

    /// What is here of an object that no session has brought to the end. What it says is written, and not
    /// verified.
    pub fn beginning(&mut self, object: Digest, now: Timestamp) -> Option<Beginning> {
        let reception = self.sessions.values_mut().find(|reception| reception.announced.ticket.object == object);
        let (symbol_bytes, held) = match reception {
            Some(reception) => {
                reception.write_out(now);
                (reception.geometry.symbol_bytes(), Remains::of(&reception.geometry, reception.receiver.held()).held)
            }
            None => {
                let remains = self.remains.get(&object)?;
                (remains.symbol_bytes, remains.held.clone())
            }
        };
        let offset = |symbol: u32| u64::from(symbol) * u64::from(symbol_bytes);
        let ranges: Vec<_> =
            held.into_iter().map(|(first, count)| offset(first)..offset(first.saturating_add(count))).collect();
        (!ranges.is_empty()).then(|| Beginning { path: spool::part_path(&self.directory, object), ranges })
    }

    /// A session that is for this member begins. `here` says that the object is in the store already.
    ///
    /// # Errors
    /// [`Declined`].
    pub fn begin(&mut self, announced: Announced, here: bool, seed: u64, now: Timestamp) -> Result<(), Declined> {
        if announced.table_bytes != 0 {
            return Err(Declined::Table);
        }
        let geometry = Geometry::announced(announced.ticket.length, announced.layout)?;
        // A new session for the same object replaces the old one: its leader is gone.
        let object = announced.ticket.object;
        let old: Vec<u32> = self
            .sessions
            .iter()
            .filter(|(_, reception)| reception.announced.ticket.object == object)
            .map(|(session, _)| *session)
            .collect();
        for session in old {
            self.end(session, now);
        }
        if self.sessions.len() >= SESSIONS_MAX {
            return Err(Declined::Busy);
        }
        let begin = if here { Receiver::already_complete } else { Receiver::new };
        let config = ReceiverConfig { members: announced.layout.members, ..self.config.clone() };
        let mut receiver = begin(config, self.me, announced.session, geometry, seed, now);
        let file = if here {
            None
        } else {
            let (file, was_there) = Spool::open(&self.directory, object, &geometry).map_err(Declined::Spool)?;
            if let Some(remains) = self.remains.remove(&object)
                && remains.symbol_bytes == geometry.symbol_bytes()
                && was_there
            {
                for (first, count) in remains.held {
                    receiver.mark_have(first, count);
                }
                let held_bytes = u64::from(receiver.held().count()) * u64::from(geometry.symbol_bytes());
                tracing::info!(%object, held_bytes, bytes = geometry.length(), "an object is gone on with");
            }
            Some(file)
        };
        let key = FrameKey::derive(&self.segment_key, announced.secret, announced.name());
        let session = announced.session;
        let channel = if here { None } else { channel_of(&announced.ticket) };
        if channel.is_some() {
            receiver.greet(now);
        }
        self.channels_changed = true;
        let note_at = now + NOTE_INTERVAL;
        self.sessions.insert(
            session,
            Reception { announced, key, receiver, geometry, file, channel, note_at, confirmed: false },
        );
        self.drain(session, now);
        self.replay_early(session, now);
        Ok(())
    }

    fn replay_early(&mut self, session: u32, now: Timestamp) {
        let early = std::mem::take(&mut self.early);
        self.early_bytes = 0;
        for (at, mut datagram) in early {
            match FrameHeader::decode(&datagram) {
                Ok((header, _)) if header.session == session => self.frame(&mut datagram, now),
                Ok(_) | Err(_) => {
                    self.early_bytes += datagram.len();
                    self.early.push_back((at, datagram));
                }
            }
        }
        self.settle(now);
    }

    /// A datagram of the data channel, which is opened in place. [`Receptions::settle`] must follow
    /// the last of those at hand.
    pub fn frame(&mut self, datagram: &mut [u8], now: Timestamp) {
        let Ok((header, _)) = FrameHeader::decode(datagram) else { return };
        let Some(reception) = self.sessions.get_mut(&header.session) else {
            self.keep_early(datagram, now);
            return;
        };
        let (clear, sealed) = datagram.split_at_mut(HEADER_BYTES);
        let Some(payload) = reception.key.open(clear, header.sequence, sealed) else {
            tracing::debug!(session = header.session, "a frame is not made with the session's key");
            return;
        };
        match reception.receiver.handle_frame(&header, payload.len(), now) {
            Ok(Accepted::Symbol(symbol)) => {
                if let Some(file) = &mut reception.file
                    && let Err(error) = file.write_symbol(symbol, payload)
                {
                    reception.lost(&error, now);
                }
            }
            Ok(Accepted::Parity { block, index }) => {
                if let Some(file) = &mut reception.file
                    && let Err(error) = file.write_parity(block, index, payload)
                {
                    tracing::error!(%error, "parity cannot be written");
                    reception.receiver.not_restored(block);
                }
            }
            Ok(Accepted::Duplicate) => {}
            Err(error) => tracing::debug!(%error, "a frame is refused"),
        }
        self.unsettled.insert(header.session);
    }

    /// Frames have been heard: what they brought is written, and what follows from them comes about.
    pub fn settle(&mut self, now: Timestamp) {
        while let Some(session) = self.unsettled.pop_first() {
            self.drain(session, now);
            self.note(session, now);
        }
    }

    /// Notes now and then what is held, in case this process is killed.
    fn note(&mut self, session: u32, now: Timestamp) {
        let Some(reception) = self.sessions.get_mut(&session) else { return };
        if reception.note_at > now || reception.file.is_none() || reception.confirmed {
            return;
        }
        reception.note_at = now + NOTE_INTERVAL;
        let remains = Remains::of(&reception.geometry, reception.receiver.held());
        if let Err(error) = spool::note(&self.directory, reception.announced.ticket.object, &remains) {
            tracing::warn!(%error, "what is held of an object cannot be noted");
        }
    }

    fn keep_early(&mut self, datagram: &[u8], now: Timestamp) {
        while let Some((at, oldest)) = self.early.front() {
            if *at + EARLY_LIFE > now && self.early_bytes + datagram.len() <= EARLY_BYTES_MAX {
                break;
            }
            self.early_bytes -= oldest.len();
            self.early.pop_front();
        }
        self.early_bytes += datagram.len();
        self.early.push_back((now, datagram.to_vec()));
    }

    /// A message of a leader about a session that is known.
    pub fn message(&mut self, from: ServerId, message: &Message, now: Timestamp) {
        let session = message.session();
        if let Some(reception) = self.sessions.get_mut(&session)
            && reception.announced.leader == from
        {
            reception.receiver.handle_message(message, now);
            self.drain(session, now);
        }
    }

    /// The object is verified and durable.
    pub fn confirm(&mut self, session: u32, now: Timestamp) {
        if let Some(reception) = self.sessions.get_mut(&session) {
            reception.receiver.confirm(now);
            reception.confirmed = true;
            spool::forget_note(&self.directory, reception.announced.ticket.object);
            self.drain(session, now);
        }
    }

    /// The object did not verify, or could not be kept: this session is of no use any more.
    pub fn fail(&mut self, session: u32, reason: &str) {
        if let Some(reception) = self.sessions.remove(&session) {
            self.channels_changed = true;
            let message = Message::Decline { session, reason: reason.chars().take(200).collect() };
            self.events.push_back(Event::Say { leader: reception.announced.leader, message });
        }
    }

    /// When [`Receptions::timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        self.sessions.values().filter_map(|reception| reception.receiver.poll_timeout()).min()
    }

    /// Time has passed.
    pub fn timeout(&mut self, now: Timestamp) {
        let due: Vec<u32> = self
            .sessions
            .iter()
            .filter(|(_, reception)| reception.receiver.poll_timeout().is_some_and(|at| at <= now))
            .map(|(session, _)| *session)
            .collect();
        for session in due {
            if let Some(reception) = self.sessions.get_mut(&session) {
                reception.receiver.handle_timeout(now);
            }
            self.drain(session, now);
        }
    }

    /// No session is going to bring this object: it comes in another way.
    pub fn abandon(&mut self, object: Digest, now: Timestamp) {
        let of_object = |(session, reception): (&u32, &Reception)| {
            (reception.announced.ticket.object == object && !reception.confirmed).then_some(*session)
        };
        let sessions: Vec<u32> = self.sessions.iter().filter_map(of_object).collect();
        for session in sessions {
            self.end(session, now);
        }
    }

    /// An assignment was undone: sessions that bring it end, and what they brought goes.
    pub fn call_off(&mut self, assignment: AssignmentNumber, now: Timestamp) {
        let objects: BTreeSet<Digest> = self
            .sessions
            .values()
            .map(|reception| &reception.announced.ticket)
            .filter(|ticket| ticket.assignment == assignment)
            .map(|ticket| ticket.object)
            .chain(self.unfinished.remove(&assignment))
            .collect();
        for object in objects {
            self.abandon(object, now);
            self.forget(object);
        }
    }

    /// The object is not wanted any more.
    pub fn forget(&mut self, object: Digest) {
        self.remains.remove(&object);
        self.unfinished.retain(|_, unfinished| *unfinished != object);
        spool::forget(&self.directory, object);
    }

    fn drain(&mut self, session: u32, now: Timestamp) {
        if let Some(reception) = self.sessions.get_mut(&session) {
            reception.write_out(now);
        }
        self.verify_early(session);
        loop {
            let Some(reception) = self.sessions.get_mut(&session) else { return };
            let leader = reception.announced.leader;
            let ticket = || reception.announced.ticket.clone();
            match reception.receiver.poll_output() {
                None => return,
                Some(ReceiverOutput::Unicast(message)) => self.events.push_back(Event::Say { leader, message }),
                Some(ReceiverOutput::Restore(restoration)) => {
                    let restored = reception.file.as_mut().map_or(Ok(()), |file| file.restore(&restoration));
                    match restored {
                        Ok(()) => reception.receiver.restored(restoration.block),
                        Err(error) => {
                            tracing::error!(
                                block = restoration.block,
                                error = chain(&error),
                                "a block cannot be restored"
                            );
                            reception.receiver.not_restored(restoration.block);
                        }
                    }
                }
                Some(ReceiverOutput::Complete) => {
                    if reception.file.is_some() {
                        reception.write_out(now);
                        self.verify(session);
                    } else {
                        reception.receiver.confirm(now);
                    }
                }
                Some(ReceiverOutput::Abandoned) => {
                    let ticket = ticket();
                    self.end(session, now);
                    self.events.push_back(Event::Incomplete { ticket, leader });
                }
                Some(ReceiverOutput::Closed { complete }) => {
                    let ticket = ticket();
                    self.end(session, now);
                    if !complete {
                        self.events.push_back(Event::Incomplete { ticket, leader });
                    }
                }
            }
        }
    }

    /// Has a large object verified as far as it is here without a gap.
    fn verify_early(&mut self, session: u32) {
        let Some(reception) = self.sessions.get_mut(&session) else { return };
        if reception.announced.ticket.length >= VERIFIED_EARLY_BYTES_MIN
            && reception.file.as_ref().is_some_and(Spool::is_worth_telling)
        {
            self.verify(session);
        }
    }

    fn verify(&mut self, session: u32) {
        let Some(reception) = self.sessions.get_mut(&session) else { return };
        let Some(file) = &mut reception.file else { return };
        match file.tell() {
            Ok(None) => {}
            Ok(Some(growth)) => {
                let ticket = reception.announced.ticket.clone();
                let leader = reception.announced.leader;
                let path = spool::part_path(&self.directory, ticket.object);
                self.events.push_back(Event::Verify { session, ticket, leader, path, growth });
            }
            Err(error) => {
                tracing::error!(%error, "a spool file cannot be read");
                self.fail(session, "its spool file cannot be read");
            }
        }
    }

    /// Ends a session and keeps in mind what it brought.
    fn end(&mut self, session: u32, now: Timestamp) {
        self.channels_changed = true;
        if let Some(mut reception) = self.sessions.remove(&session)
            && reception.file.is_some()
            && !reception.confirmed
        {
            reception.write_out(now);
            let object = reception.announced.ticket.object;
            self.unfinished.insert(reception.announced.ticket.assignment, object);
            self.remains.insert(object, Remains::of(&reception.geometry, reception.receiver.held()));
        }
    }
}
