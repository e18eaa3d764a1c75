//! One multicast session as the leader's driver sees it: symbols read from the object's file, sealed,
//! and handed to the data channel by the batch.
//!
//! What is sent when is the session machine's business ([`protocol::session`]); this only carries it
//! out.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use common::control::SessionStats;
use common::ids::ServerId;
use common::time::Timestamp;
use lan_channel::data::{FrameSink, Taken};
use lan_channel::frames::FrameKey;
use protocol::session::codec::Encoder;
use protocol::session::{
    Announcement, Content, Frame, Geometry, Grant, HEADER_BYTES, Message, Sender, SenderConfig, SenderOutput, Status,
    TAG_BYTES,
};

/// Frames that are made ready in one go, so that other work gets its turn between.
const BURST_FRAMES: usize = 128;
/// How much of the object is read at a time while symbols go out in order, in bytes.
const WINDOW_BYTES: usize = 256 << 10;
/// After what time a full socket is tried again though nobody said that it has room.
const FULL_PAUSE: Duration = Duration::from_millis(2);

/// A session under way.
#[derive(Debug)]
pub struct Distribution {
    sender: Sender,
    key: FrameKey,
    object: Window,
    encoder: Encoder,
    batch: Batch,
    symbol_bytes: u16,
    outputs: VecDeque<SenderOutput>,
    finished: bool,
    /// When the socket was last found full, as long as it is.
    full_at: Option<Timestamp>,
}

/// When frames are to be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// When [`Distribution::poll_timeout`] says, or after the next input.
    WhenDue,
    /// At once, after other work has had its turn.
    Soon,
    /// When the socket takes frames again.
    WhenWritable,
}

/// Frames that go out in one piece.
#[derive(Debug, Default)]
struct Batch {
    datagrams: Vec<u8>,
    frames: usize,
    /// Length of all but the last, which may be shorter.
    frame_bytes: usize,
}

impl Batch {
    /// Offers what there is; `false` when the socket is full, and it stays.
    fn offer(&mut self, sink: &mut impl FrameSink) -> bool {
        if self.frames > 0 && sink.offer(&self.datagrams, self.frame_bytes) == Taken::Full {
            return false;
        }
        self.datagrams.clear();
        self.frames = 0;
        true
    }

    /// Seals a frame behind the others. Returns whether more may follow in this piece.
    fn push(&mut self, key: &FrameKey, frame: &Frame, symbol: &[u8]) -> bool {
        let before = self.datagrams.len();
        key.seal(&frame.header.encode(), frame.header.sequence, symbol, &mut self.datagrams);
        let bytes = self.datagrams.len() - before;
        if self.frames == 0 {
            self.frame_bytes = bytes;
        }
        self.frames += 1;
        bytes == self.frame_bytes
    }
}

/// The object's file, of which a stretch is kept in memory while symbols go out in order.
#[derive(Debug)]
struct Window {
    file: File,
    /// So much of the file is filled; beyond it nothing may be read.
    filled_bytes: u64,
    offset: u64,
    bytes: Vec<u8>,
}

impl Window {
    /// These bytes of the object. `ahead`: those that follow are likely to be wanted next.
    fn read(&mut self, offset: u64, bytes: usize, ahead: bool) -> io::Result<&[u8]> {
        let start = offset.checked_sub(self.offset).and_then(|start| usize::try_from(start).ok());
        let held = start.filter(|start| start.saturating_add(bytes) <= self.bytes.len());
        let start = match held {
            Some(start) => start,
            None => {
                let filled = usize::try_from(self.filled_bytes.saturating_sub(offset)).unwrap_or(usize::MAX);
                self.fill(offset, if ahead { WINDOW_BYTES.min(filled).max(bytes) } else { bytes })?;
                0
            }
        };
        let end = start + bytes;
        self.bytes.get(start..end).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    fn fill(&mut self, offset: u64, bytes: usize) -> io::Result<()> {
        self.offset = offset;
        self.bytes.resize(bytes, 0);
        let mut filled = 0;
        while filled < bytes {
            match self.file.read_at(&mut self.bytes[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.bytes.clear();
                    return Err(error);
                }
            }
        }
        self.bytes.truncate(filled);
        Ok(())
    }
}

impl Distribution {
    /// Starts a session for these members, whose frames are sealed with this key. The object's file is complete.
    #[must_use]
    pub fn start(
        config: SenderConfig,
        announcement: Announcement,
        geometry: Geometry,
        file: File,
        key: FrameKey,
        members: &[ServerId],
        now: Timestamp,
    ) -> Self {
        let length = geometry.length();
        let sender = Sender::new(config, announcement, geometry, members.iter().copied(), length, now);
        let object = Window { file, filled_bytes: length, offset: 0, bytes: Vec::new() };
        Self {
            sender,
            key,
            object,
            encoder: Encoder::default(),
            batch: Batch::default(),
            symbol_bytes: geometry.symbol_bytes(),
            outputs: VecDeque::new(),
            finished: false,
            full_at: None,
        }
    }

    /// Asks the members what they hold before anything is sent. To be said right after
    /// [`Distribution::start`].
    #[must_use]
    pub fn asking_first(self) -> Self {
        Self { sender: self.sender.asking_first(), ..self }
    }

    /// Only so many bytes of the object are here yet, and more will come ([`Distribution::available`]). To be
    /// said before [`Distribution::asking_first`], and before anything is sent.
    #[must_use]
    pub fn so_far(self, bytes: u64) -> Self {
        let object = Window { filled_bytes: bytes, ..self.object };
        Self { sender: self.sender.so_far(bytes), object, ..self }
    }

    /// So many bytes of the object are here by now.
    pub fn available(&mut self, bytes: u64, now: Timestamp) {
        self.object.filled_bytes = self.object.filled_bytes.max(bytes);
        self.sender.available(bytes, now);
    }

    /// Holds the data back until the members have joined its channel. To be said right after
    /// [`Distribution::start`], and not where the members are asked first.
    #[must_use]
    pub fn once_joined(self) -> Self {
        Self { sender: self.sender.once_joined(), ..self }
    }

    /// A member's report.
    pub fn status(&mut self, from: ServerId, status: &Status, now: Timestamp) {
        if let Err(error) = self.sender.handle_status(from, status, now) {
            tracing::debug!(server = %from, %error, "a report about a session is not taken");
        }
    }

    /// A member does not take part.
    pub fn decline(&mut self, from: ServerId, now: Timestamp) {
        self.sender.handle_decline(from, now);
    }

    /// A member comes late, or comes back. `grant`: how it learns the session's secret.
    pub fn join(&mut self, server: ServerId, grant: Option<Grant>, now: Timestamp) {
        if let Some(grant) = grant {
            self.sender.grant(grant);
        }
        self.sender.add_member(server, now);
    }

    /// A member is gone.
    pub fn gone(&mut self, server: ServerId, now: Timestamp) {
        self.sender.member_gone(server, now);
    }

    /// Time has passed.
    pub fn timeout(&mut self, now: Timestamp) {
        if self.sender.poll_timeout().is_some_and(|at| at <= now) {
            self.sender.handle_timeout(now);
        }
    }

    /// The next thing to be carried out. Messages come before the frames that follow them.
    pub fn poll_output(&mut self) -> Option<SenderOutput> {
        let output = self.outputs.pop_front().or_else(|| self.sender.poll_output());
        if matches!(output, Some(SenderOutput::Finished(_))) {
            self.finished = true;
        }
        output
    }

    /// Sends what may be sent now. Returns when to come back.
    pub fn send_frames(&mut self, now: Timestamp, mut sink: impl FrameSink) -> Next {
        self.full_at = None;
        // A piece that the socket refused.
        if !self.batch.offer(&mut sink) {
            return self.full(now);
        }
        let mut made = 0;
        while made < BURST_FRAMES {
            let is_due = self.fill_batch(now, &sink, &mut made);
            if !self.batch.offer(&mut sink) {
                return self.full(now);
            }
            if !is_due {
                return Next::WhenDue;
            }
        }
        Next::Soon
    }

    fn full(&mut self, now: Timestamp) -> Next {
        self.full_at = Some(now);
        Next::WhenWritable
    }

    /// Makes frames ready for one piece. Returns whether more may be due.
    fn fill_batch(&mut self, now: Timestamp, sink: &impl FrameSink, made: &mut usize) -> bool {
        loop {
            let Some(frame) = self.sender.poll_frame(now) else { return false };
            *made += 1;
            let symbol_bytes = usize::from(frame.header.payload_bytes);
            let symbol = match frame.content {
                Content::Stream { offset } => self.object.read(offset, symbol_bytes, !frame.header.flags.repair),
                Content::Parity { block, index, count } => {
                    let file = &self.object.file;
                    let read = |offset, symbol: &mut [u8]| file.read_exact_at(symbol, offset);
                    self.encoder.parity(self.sender.geometry(), (block, index, count), read)
                }
            };
            let symbol = match symbol {
                Ok(symbol) => symbol,
                Err(error) => {
                    // A frame that is not sent counts as lost; a file that cannot be read ends the
                    // session by its members' falling silent.
                    tracing::error!(%error, "the object of a session cannot be read");
                    return true;
                }
            };
            let more_may_follow = self.batch.push(&self.key, &frame, symbol);
            let is_short = symbol_bytes < usize::from(self.symbol_bytes);
            let frames_max = sink.frames_max(HEADER_BYTES + usize::from(self.symbol_bytes) + TAG_BYTES);
            if is_short || !more_may_follow || self.batch.frames >= frames_max {
                return true;
            }
        }
    }

    /// The rate at which the session would send by itself; 0 while it has nothing to send.
    #[must_use]
    pub fn wanted_bytes_per_sec(&self) -> u64 {
        self.sender.wanted_bytes_per_sec()
    }

    /// What other sessions leave to this one from here on, in bytes per second on the wire.
    pub fn set_share(&mut self, bytes_per_sec: Option<u64>, now: Timestamp) {
        self.sender.set_share(bytes_per_sec, now);
    }

    /// When [`Distribution::timeout`] is due, and then [`Distribution::send_frames`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        let at = self.sender.poll_timeout()?;
        // Frames that are due do not go out sooner for being asked after a full socket again.
        Some(self.full_at.map_or(at, |full_at| at.max(full_at + FULL_PAUSE)))
    }

    /// Length of its symbols.
    #[must_use]
    pub fn symbol_bytes(&self) -> u16 {
        self.symbol_bytes
    }

    /// Whether the session is over.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// Figures so far.
    #[must_use]
    pub fn stats(&self, now: Timestamp) -> SessionStats {
        self.sender.stats(now)
    }
}

/// A message of the session channel that only a leader takes.
#[must_use]
pub fn is_for_leader(message: &Message) -> bool {
    match message {
        Message::Status(_) | Message::Decline { .. } | Message::Overflow { .. } => true,
        Message::Announce { .. } | Message::Poll(_) | Message::Close { .. } | Message::Plan { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn window(bytes: &[u8]) -> Window {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(bytes).expect("written");
        Window { file, filled_bytes: bytes.len() as u64, offset: 0, bytes: Vec::new() }
    }

    #[test]
    fn symbols_are_read_in_any_order_as_they_stand_in_the_file() {
        let bytes: Vec<u8> = (0..700_000u32).map(|n| (n / 7) as u8).collect();
        let mut window = window(&bytes);
        for (offset, ahead) in [(0, true), (1000, true), (699_000, false), (1000, true), (261_500, true), (500, false)]
        {
            let read = window.read(offset as u64, 1000, ahead).expect("within the file");
            assert_eq!(read, &bytes[offset..offset + 1000], "at {offset}");
        }
        assert!(window.read(699_500, 1000, true).is_err(), "beyond the end");
        assert_eq!(window.read(699_500, 500, true).expect("within the file"), &bytes[699_500..]);
    }

    #[test]
    fn nothing_is_read_ahead_that_has_not_arrived_yet() {
        let mut window = Window { filled_bytes: 2000, ..window(&[0; 700_000]) };
        assert_eq!(window.read(0, 1000, true).expect("within the file"), &[0; 1000]);
        assert_eq!(window.read(1000, 1000, true).expect("within the file"), &[0; 1000]);
        window.file.write_all_at(&[7; 698_000], 2000).expect("written");
        window.filled_bytes = 700_000;
        assert_eq!(window.read(2000, 1000, true).expect("within the file"), &[7; 1000]);
        assert_eq!(window.read(3000, 1000, true).expect("within the file"), &[7; 1000]);
    }

    /// Takes so many pieces, then is full.
    struct Sink<'a> {
        pieces: &'a mut Vec<(Vec<u8>, usize)>,
        room: usize,
    }

    impl FrameSink for Sink<'_> {
        fn frames_max(&self, _: usize) -> usize {
            5
        }

        fn offer(&mut self, frames: &[u8], frame_bytes: usize) -> Taken {
            if self.room == 0 {
                return Taken::Full;
            }
            self.room -= 1;
            self.pieces.push((frames.to_vec(), frame_bytes));
            Taken::Yes
        }
    }

    fn distribution(length: usize) -> Distribution {
        use common::keys::{PublishKey, SecretKey, Signed};
        use lan_channel::envelope::SegmentKey;
        use lan_channel::secrets::{SessionName, SessionSecret};
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(&vec![7; length]).expect("written");
        let ticket = common::ticket::Ticket {
            cluster: common::ids::ClusterId([1; 16]),
            site: "site".parse().expect("good"),
            assignment: common::ids::AssignmentNumber(1),
            run: common::ids::RunNumber(1),
            object: common::digest::Digest::of(&[]),
            length: length as u64,
            chunk_bytes: 65_536,
            targets: vec![ServerId([2; 16])],
            expires: common::time::WallTime(u64::MAX),
            channel: None,
        };
        let key = PublishKey { epoch: 1, key: SecretKey::from_bytes(&[1; 32]) };
        let ticket = Signed::sign(&ticket, &key);
        let announcement = Announcement { session: 1, epoch: 1, key_id: 0, ticket, table_bytes: 0, grants: Vec::new() };
        let geometry = Geometry::new(length as u64, 1000).expect("fits");
        let members = [ServerId([2; 16])];
        let name = SessionName { session: 1, leader: ServerId([1; 16]), epoch: 1 };
        let key = FrameKey::derive(&SegmentKey([9; 32]), SessionSecret([8; 16]), name);
        Distribution::start(SenderConfig::default(), announcement, geometry, file, key, &members, Timestamp::ZERO)
    }

    #[test]
    fn frames_go_out_in_pieces_and_none_is_lost_when_the_socket_is_full() {
        let mut distribution = distribution(12_300);
        let mut pieces = Vec::new();
        let mut send = |room: usize| distribution.send_frames(Timestamp::ZERO, Sink { pieces: &mut pieces, room });
        assert_eq!(send(1), Next::WhenWritable);
        assert_eq!(send(0), Next::WhenWritable);
        assert_eq!(send(9), Next::WhenDue);
        let frame_bytes = HEADER_BYTES + 1000 + TAG_BYTES;
        let lengths: Vec<usize> = pieces.iter().map(|(datagrams, _)| datagrams.len()).collect();
        assert_eq!(lengths, [5 * frame_bytes, 5 * frame_bytes, 2 * frame_bytes + HEADER_BYTES + 300 + TAG_BYTES]);
        let mut sequences = Vec::new();
        for (datagrams, bytes) in &pieces {
            assert_eq!(*bytes, frame_bytes);
            for frame in datagrams.chunks(*bytes) {
                let (header, _) = protocol::session::FrameHeader::decode(frame).expect("a frame");
                sequences.push(header.sequence);
            }
        }
        assert_eq!(sequences, (1..=13).collect::<Vec<u32>>());
    }

    #[test]
    fn a_full_socket_is_not_asked_again_and_again() {
        let mut distribution = distribution(1_000_000);
        let mut pieces = Vec::new();
        let now = Timestamp(5_000);
        assert_eq!(distribution.send_frames(now, Sink { pieces: &mut pieces, room: 0 }), Next::WhenWritable);
        assert_eq!(distribution.poll_timeout(), Some(now + FULL_PAUSE));
    }
}
