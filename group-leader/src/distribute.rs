//! One multicast session as the leader's driver sees it: symbols read from the object's file, sealed,
//! and handed to the data channel.
//!
//! What is sent when is the session machine's business ([`protocol::session`]); this only carries it
//! out.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use common::control::SessionStats;
use common::ids::ServerId;
use common::time::Timestamp;
use lan_channel::envelope::SegmentKey;
use lan_channel::frames::FrameKey;
use protocol::session::codec::Encoder;
use protocol::session::{Announcement, Content, Frame, Geometry, Message, Sender, SenderConfig, SenderOutput, Status};

/// Frames that are made ready in one go, so that other work gets its turn between.
const BURST_FRAMES: usize = 128;

/// A session under way.
#[derive(Debug)]
pub struct Distribution {
    sender: Sender,
    key: FrameKey,
    file: File,
    /// A frame that the socket did not take yet.
    unsent: Option<Vec<u8>>,
    outputs: VecDeque<SenderOutput>,
    encoder: Encoder,
    symbol: Vec<u8>,
    finished: bool,
}

/// How the data channel took a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It is on its way, or lost like any other.
    Yes,
    /// The socket is full; offer it again.
    Full,
}

impl Distribution {
    /// Starts a session for these members. The object's file is complete.
    #[must_use]
    #[expect(clippy::too_many_arguments, reason = "what a session is made of, from one caller")]
    pub fn start(
        config: SenderConfig,
        announcement: Announcement,
        geometry: Geometry,
        file: File,
        leader: ServerId,
        segment_key: &SegmentKey,
        members: &[ServerId],
        now: Timestamp,
    ) -> Self {
        let key = FrameKey::derive(segment_key, announcement.session, leader, announcement.epoch);
        let length = geometry.length();
        let sender = Sender::new(config, announcement, geometry, members.iter().copied(), length, now);
        Self {
            sender,
            key,
            file,
            unsent: None,
            outputs: VecDeque::new(),
            encoder: Encoder::default(),
            symbol: Vec::new(),
            finished: false,
        }
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

    /// A member comes late.
    pub fn join(&mut self, server: ServerId, now: Timestamp) {
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

    /// Sends what may be sent now. Returns whether the caller shall come back soon though no timeout
    /// says so: the socket is full, or a burst is over.
    pub fn send_frames(&mut self, now: Timestamp, mut send: impl FnMut(&[u8]) -> Taken) -> bool {
        if let Some(frame) = self.unsent.take()
            && send(&frame) == Taken::Full
        {
            self.unsent = Some(frame);
            return true;
        }
        for _ in 0..BURST_FRAMES {
            let Some(frame) = self.sender.poll_frame(now) else { return false };
            if let Err(error) = self.fill_symbol(&frame) {
                // A frame that is not sent counts as lost; a file that cannot be read ends the
                // session by its members' falling silent.
                tracing::error!(%error, "the object of a session cannot be read");
                continue;
            }
            let mut datagram = Vec::with_capacity(self.symbol.len() + 64);
            self.key.seal(&frame.header.encode(), frame.header.sequence, &self.symbol, &mut datagram);
            if send(&datagram) == Taken::Full {
                self.unsent = Some(datagram);
                return true;
            }
        }
        true
    }

    /// Reads or makes what a frame carries.
    fn fill_symbol(&mut self, frame: &Frame) -> io::Result<()> {
        match frame.content {
            Content::Stream { offset } => {
                self.symbol.resize(usize::from(frame.header.payload_bytes), 0);
                self.file.read_exact_at(&mut self.symbol, offset)
            }
            Content::Parity { block, index, count } => {
                let file = &self.file;
                let read = |offset, symbol: &mut [u8]| file.read_exact_at(symbol, offset);
                let parity = self.encoder.parity(self.sender.geometry(), (block, index, count), read)?;
                self.symbol.clear();
                self.symbol.extend_from_slice(parity);
                Ok(())
            }
        }
    }

    /// When [`Distribution::timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        self.sender.poll_timeout()
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
        Message::Status(_) | Message::Decline { .. } => true,
        Message::Announce { .. } | Message::Poll(_) | Message::Close { .. } | Message::Plan { .. } => false,
    }
}
