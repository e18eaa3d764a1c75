//! The member's side of multicast sessions as its driver sees it: frames opened, symbols written into
//! a spool file, and what is missing remembered from one session to the next.
//!
//! What is asked for when is the session machine's business ([`protocol::session`]). Bytes are
//! believed only when the whole file has the digest of its ticket, which the caller checks.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::decline::DeclineCode;
use common::digest::Digest;
use common::ids::ServerId;
use common::ticket::Ticket;
use common::time::Timestamp;
use lan_channel::envelope::SegmentKey;
use lan_channel::frames::FrameKey;
use protocol::session::{
    Accepted, FrameHeader, Geometry, HEADER_BYTES, Message, Receiver, ReceiverConfig, ReceiverOutput,
};

/// Frames kept for a session that is not announced yet: the announcement travels on another socket
/// and may be overtaken.
const EARLY_BYTES_MAX: usize = 4 << 20;
/// How long they are kept.
const EARLY_LIFE: Duration = Duration::from_millis(500);
/// Sessions at once. A leader runs few; more are refused.
const SESSIONS_MAX: usize = 64;

/// What an announcement says, with the ticket believed.
#[derive(Debug, Clone)]
pub struct Announced {
    /// The session.
    pub session: u32,
    /// What is sent.
    pub ticket: Ticket,
    /// Length of a symbol in bytes.
    pub symbol_bytes: u16,
    /// Bytes of a chunk table ahead of the object.
    pub table_bytes: u64,
    /// The leader.
    pub leader: ServerId,
    /// Its epoch.
    pub epoch: u64,
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
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// Send to the leader of the session.
    Say {
        /// The leader.
        leader: ServerId,
        /// What.
        message: Message,
    },
    /// Every byte is here: verify the file, take it into the store, then
    /// [`Receptions::confirm`] or [`Receptions::fail`].
    Complete {
        /// The session.
        session: u32,
        /// Its ticket.
        ticket: Ticket,
        /// The leader, in case it does not verify.
        leader: ServerId,
        /// The spool file.
        path: PathBuf,
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
    /// `None` when the object was here before the session.
    file: Option<File>,
    /// The object was taken into the store; the spool file is gone.
    confirmed: bool,
}

/// What an ended session left behind.
#[derive(Debug)]
struct Remains {
    symbol_bytes: u16,
    held: Vec<(u32, u32)>,
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
    early: VecDeque<(Timestamp, Vec<u8>)>,
    early_bytes: usize,
    events: VecDeque<Event>,
}

impl Receptions {
    /// Receives into this directory, which is emptied: what an earlier process left is not known to
    /// be whole.
    ///
    /// # Errors
    /// When it cannot be made or emptied.
    pub fn new(directory: &Path, me: ServerId, segment_key: SegmentKey) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        for entry in fs::read_dir(directory)? {
            fs::remove_file(entry?.path())?;
        }
        Ok(Self {
            directory: directory.to_owned(),
            me,
            segment_key,
            config: ReceiverConfig::default(),
            sessions: BTreeMap::new(),
            remains: BTreeMap::new(),
            early: VecDeque::new(),
            early_bytes: 0,
            events: VecDeque::new(),
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

    /// A session that is for this member begins. `here` says that the object is in the store already.
    ///
    /// # Errors
    /// [`Declined`].
    pub fn begin(&mut self, announced: Announced, here: bool, seed: u64, now: Timestamp) -> Result<(), Declined> {
        if announced.table_bytes != 0 {
            return Err(Declined::Table);
        }
        let geometry = Geometry::new(announced.ticket.length, announced.symbol_bytes)?;
        // A new session for the same object replaces the old one: its leader is gone.
        let object = announced.ticket.object;
        let old: Vec<u32> = self
            .sessions
            .iter()
            .filter(|(_, reception)| reception.announced.ticket.object == object)
            .map(|(session, _)| *session)
            .collect();
        for session in old {
            self.end(session);
        }
        if self.sessions.len() >= SESSIONS_MAX {
            return Err(Declined::Busy);
        }
        let begin = if here { Receiver::already_complete } else { Receiver::new };
        let mut receiver = begin(self.config.clone(), self.me, announced.session, geometry, seed, now);
        let file = if here {
            None
        } else {
            let path = self.path(object);
            let is_there = fs::metadata(&path).is_ok_and(|metadata| metadata.len() == announced.ticket.length);
            let file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&path)
                .map_err(Declined::Spool)?;
            file.set_len(announced.ticket.length).map_err(Declined::Spool)?;
            if let Some(remains) = self.remains.remove(&object)
                && remains.symbol_bytes == announced.symbol_bytes
                && is_there
            {
                for (first, count) in remains.held {
                    receiver.mark_have(first, count);
                }
            }
            Some(file)
        };
        let key = FrameKey::derive(&self.segment_key, announced.session, announced.leader, announced.epoch);
        let session = announced.session;
        self.sessions.insert(session, Reception { announced, key, receiver, file, confirmed: false });
        self.drain(session);
        self.replay_early(session, now);
        Ok(())
    }

    fn path(&self, object: Digest) -> PathBuf {
        self.directory.join(format!("{object}.part"))
    }

    fn replay_early(&mut self, session: u32, now: Timestamp) {
        let early = std::mem::take(&mut self.early);
        self.early_bytes = 0;
        for (at, datagram) in early {
            match FrameHeader::decode(&datagram) {
                Ok((header, _)) if header.session == session => self.frame(&datagram, now),
                Ok(_) | Err(_) => {
                    self.early_bytes += datagram.len();
                    self.early.push_back((at, datagram));
                }
            }
        }
    }

    /// A datagram of the data channel.
    pub fn frame(&mut self, datagram: &[u8], now: Timestamp) {
        let Ok((header, sealed)) = FrameHeader::decode(datagram) else { return };
        let Some(reception) = self.sessions.get_mut(&header.session) else {
            self.keep_early(datagram, now);
            return;
        };
        let mut sealed = sealed.to_vec();
        let Some(payload) = reception.key.open(&datagram[..HEADER_BYTES], header.sequence, &mut sealed) else {
            tracing::debug!(session = header.session, "a frame is not made with the session's key");
            return;
        };
        match reception.receiver.handle_frame(&header, payload.len(), now) {
            Ok(Accepted::Symbol(symbol)) => {
                let offset = u64::from(symbol) * u64::from(reception.announced.symbol_bytes);
                if let Some(file) = &reception.file
                    && let Err(error) = file.write_all_at(payload, offset)
                {
                    tracing::error!(%error, "a symbol cannot be written");
                    reception.receiver.mark_bad(symbol, 1, now);
                }
            }
            Ok(Accepted::Duplicate) => {}
            Err(error) => tracing::debug!(%error, "a frame is refused"),
        }
        self.drain(header.session);
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
            self.drain(session);
        }
    }

    /// The object is verified and durable.
    pub fn confirm(&mut self, session: u32) {
        if let Some(reception) = self.sessions.get_mut(&session) {
            reception.receiver.confirm();
            reception.confirmed = true;
            self.drain(session);
        }
    }

    /// The object did not verify, or could not be kept: this session is of no use any more.
    pub fn fail(&mut self, session: u32, reason: &str) {
        if let Some(reception) = self.sessions.remove(&session) {
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
            self.drain(session);
        }
    }

    /// The object is not wanted any more.
    pub fn forget(&mut self, object: Digest) {
        self.remains.remove(&object);
        if let Err(error) = fs::remove_file(self.path(object))
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, "a spool file could not be removed");
        }
    }

    fn drain(&mut self, session: u32) {
        loop {
            let Some(reception) = self.sessions.get_mut(&session) else { return };
            let leader = reception.announced.leader;
            let ticket = || reception.announced.ticket.clone();
            match reception.receiver.poll_output() {
                None => return,
                Some(ReceiverOutput::Unicast(message)) => self.events.push_back(Event::Say { leader, message }),
                Some(ReceiverOutput::Complete) => {
                    if reception.file.is_some() {
                        let ticket = ticket();
                        let path = self.path(ticket.object);
                        self.events.push_back(Event::Complete { session, ticket, leader, path });
                    } else {
                        reception.receiver.confirm();
                    }
                }
                Some(ReceiverOutput::Abandoned) => {
                    let ticket = ticket();
                    self.end(session);
                    self.events.push_back(Event::Incomplete { ticket, leader });
                }
                Some(ReceiverOutput::Closed { complete }) => {
                    let ticket = ticket();
                    self.end(session);
                    if !complete {
                        self.events.push_back(Event::Incomplete { ticket, leader });
                    }
                }
            }
        }
    }

    /// Ends a session and keeps in mind what it brought.
    fn end(&mut self, session: u32) {
        if let Some(reception) = self.sessions.remove(&session)
            && reception.file.is_some()
            && !reception.confirmed
        {
            let held = reception.receiver.held().runs().map(|range| (range.start, range.end - range.start)).collect();
            let symbol_bytes = reception.announced.symbol_bytes;
            self.remains.insert(reception.announced.ticket.object, Remains { symbol_bytes, held });
        }
    }
}
