//! An adversary on the segment. It has the segment's key and a credential of its own, hears everything that is
//! multicast, and is in no session: it forges, damages and repeats data frames and control datagrams.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use common::keys::Signed;
use common::ticket::Ticket;
use lan_channel::data::FrameBatch;
use lan_channel::envelope::TAG_BYTES as CONTROL_TAG_BYTES;
use lan_channel::frames::FrameKey;
use lan_channel::secrets::{SessionName, SessionSecret};
use protocol::session::{FrameFlags, FrameHeader, HEADER_BYTES, LOWER_HEADER_BYTES, Message, Poll, Roll, Status};
use serde_json::json;
use tokio::sync::mpsc;

use crate::party::{CastError, Channel, EPOCH, LEADER, Party, server};
use crate::{ForgeArguments, say};

/// Its number: no member has it.
const NUMBER: u16 = u16::MAX;
/// Most recorded frames that it keeps, and control datagrams.
const FRAMES_MAX: usize = 4096;
const SAID_MAX: usize = 256;
/// How often it looks what it may send.
const TICK: Duration = Duration::from_millis(1);
/// One of so many frames that it makes itself is as long as a symbol, and would be taken for one.
const FULL_ONE_IN: u64 = 8;
/// Longest payload of the others: short ones cost their hearers most for each byte sent.
const FORGED_BYTES_MAX: u64 = 128;

/// What it has sent, by kind.
#[derive(Debug, Default, Clone, Copy)]
struct Sent {
    forged: u64,
    damaged: u64,
    repeated: u64,
    said: u64,
    bytes: u64,
}

struct Adversary {
    party: Party,
    batch: FrameBatch,
    frames: VecDeque<Vec<u8>>,
    /// Control datagrams, and where from.
    said: VecDeque<Vec<u8>>,
    leader: Option<SocketAddr>,
    ticket: Option<(u32, Signed<Ticket>)>,
    sent: Sent,
}

/// Sends while the last line of standard input was `go`, until there is none any more.
pub(crate) async fn run(arguments: &ForgeArguments) -> Result<(), CastError> {
    let mut adversary = Adversary {
        party: Party::join(&arguments.party, NUMBER)?,
        batch: FrameBatch::default(),
        frames: VecDeque::new(),
        said: VecDeque::new(),
        leader: None,
        ticket: None,
        sent: Sent::default(),
    };
    let mut words = lines_of_input();
    let mut ticks = tokio::time::interval(TICK);
    let (mut goes, mut budget) = (false, 0.0);
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    let budget_per_tick = arguments.rate_bytes_per_sec as f64 * TICK.as_secs_f64();
    say(&json!({ "event": "ready" }));
    loop {
        tokio::select! {
            word = words.recv() => match word {
                Some(word) => {
                    goes = word == "go";
                    let Sent { forged, damaged, repeated, said, bytes } = adversary.sent;
                    say(&json!({
                        "event": "heard", "forged": forged, "damaged": damaged, "repeated": repeated, "said": said,
                        "bytes": bytes,
                    }));
                }
                None => return Ok(()),
            },
            _ = ticks.tick() => {
                adversary.record();
                // What it could not send in time is not made up for in a burst.
                budget = if goes { (budget + budget_per_tick).min(budget_per_tick * 20.0) } else { 0.0 };
                while budget > 0.0 && !adversary.frames.is_empty() {
                    #[expect(clippy::cast_precision_loss, reason = "a length")]
                    let bytes = adversary.send_one() as f64;
                    budget -= bytes;
                }
            }
        }
    }
}

fn lines_of_input() -> mpsc::UnboundedReceiver<String> {
    let (heard, lines) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            // Fails only when the process ends.
            heard.send(line).ok();
        }
    });
    lines
}

impl Adversary {
    /// Keeps the latest of what is sent on the segment.
    fn record(&mut self) {
        let Self { party, batch, frames, .. } = self;
        while party.channels.data_receive.take(batch, |frame| {
            // Its own come back to it as well.
            if frame.len() > HEADER_BYTES + 256 {
                frames.push_back(frame.to_vec());
            }
        }) > 0
        {}
        while self.frames.len() > FRAMES_MAX {
            self.frames.pop_front();
        }
        while let Some(heard) = self.party.hear_raw(Channel::Multicast) {
            if heard.said.as_ref().is_some_and(|(sender, _)| *sender == server(LEADER)) {
                self.leader = Some(heard.from);
                if let Some((_, Message::Announce { session, ticket, .. })) = heard.said {
                    self.ticket = Some((session, ticket));
                }
                self.said.push_back(heard.datagram);
            }
        }
        while self.said.len() > SAID_MAX {
            self.said.pop_front();
        }
    }

    /// Sends something bad. Returns its length on the wire.
    fn send_one(&mut self) -> u64 {
        let Sent { forged, damaged, repeated, said, .. } = self.sent;
        match (forged + damaged + repeated + said) % 20 {
            0..=12 => {
                self.sent.forged += 1;
                let frame = self.forged();
                self.send_frame(&frame)
            }
            13..=15 => {
                self.sent.damaged += 1;
                let mut frame = self.recorded();
                flip_a_bit(&mut frame);
                self.send_frame(&frame)
            }
            16 | 17 => {
                self.sent.repeated += 1;
                let frame = self.recorded();
                self.send_frame(&frame)
            }
            _ => {
                self.sent.said += 1;
                self.speak()
            }
        }
    }

    fn recorded(&self) -> Vec<u8> {
        self.frames[chance(self.frames.len() as u64) as usize].clone()
    }

    /// A frame of the session that is under way, with whatever would do harm, sealed as well as it can.
    fn forged(&self) -> Vec<u8> {
        let latest = self.frames.back().expect("some were recorded");
        let Ok((header, _)) = FrameHeader::decode(latest) else { return self.recorded() };
        let bytes = match chance(FULL_ONE_IN) {
            0 => u64::from(header.payload_bytes),
            _ => 1 + chance(FORGED_BYTES_MAX),
        };
        let payload = vec![7; bytes as usize];
        let flags = chance(8);
        let header = FrameHeader {
            flags: FrameFlags { poll: flags & 1 != 0, last: flags & 2 != 0, spent: flags & 4 != 0, ..header.flags },
            sequence: header.sequence.saturating_add(chance(5000) as u32),
            payload_bytes: u16::try_from(payload.len()).expect("short"),
            ..header
        };
        let name = SessionName { session: header.session, leader: server(LEADER), epoch: EPOCH };
        let key = FrameKey::derive(&self.party.segment_key, SessionSecret(rand::random()), name);
        let mut frame = Vec::new();
        key.seal(&header.encode(), header.sequence, &payload, &mut frame);
        frame
    }

    /// Says something: in its own name what only a leader may say, or in the leader's name without its key,
    /// or what the leader said before.
    fn speak(&mut self) -> u64 {
        let Some(session) = self.ticket.as_ref().map(|(session, _)| *session) else { return 1 };
        match chance(6) {
            0 => self.say(Message::Close { session, failed: Vec::new() }),
            1 => self.say(Message::Poll(Poll {
                session,
                poll: u32::MAX,
                pass: 1,
                sent_through: u32::MAX,
                reply_window_micros: 1,
                roll: Roll::Complete(Vec::new()),
            })),
            2 => self.announce(),
            3 => {
                let status = Status {
                    session,
                    poll: u32::MAX,
                    received: 0,
                    highest: 1,
                    held: 0,
                    missing: vec![(0, 1000)],
                    deficits: Vec::new(),
                    more: false,
                    complete: false,
                };
                let to = self.leader.map(|address| (server(LEADER), address));
                self.party.say(to, Message::Status(status));
                400
            }
            kind => {
                let Some(old) = self.said.get(chance(self.said.len().max(1) as u64) as usize) else { return 1 };
                let mut datagram = old.clone();
                if kind == 4 {
                    let tagged = datagram.len() - CONTROL_TAG_BYTES;
                    flip_a_bit(&mut datagram[tagged / 2..tagged]);
                    let tag = blake3::keyed_hash(&self.party.segment_key.0, &datagram[..tagged]);
                    datagram[tagged..].copy_from_slice(&tag.as_bytes()[..CONTROL_TAG_BYTES]);
                }
                self.party.send_raw(&datagram, self.party.channels.addresses.control);
                wire(&datagram)
            }
        }
    }

    /// Announces what the leader announces, with a secret of its own.
    fn announce(&mut self) -> u64 {
        let Some((session, signed)) = self.ticket.clone() else { return 1 };
        let Ok(ticket) = signed.verify(&self.party.publish_keys) else { return 1 };
        let session = session ^ (1 + chance(1000) as u32);
        let name = SessionName { session, leader: self.party.id, epoch: EPOCH };
        let grants = self.party.grants(&ticket, name, SessionSecret(rand::random()));
        let geometry = protocol::session::Geometry::new(ticket.length, protocol::session::SYMBOL_BYTES);
        let Ok(geometry) = geometry else { return 1 };
        let layout = geometry.layout(1);
        self.say(Message::Announce { session, ticket: signed, table_bytes: 0, layout, epoch: EPOCH, grants })
    }

    fn say(&mut self, message: Message) -> u64 {
        self.party.say(None, message);
        // About what the short ones take, with credential, signature and tag.
        400
    }

    fn send_frame(&mut self, frame: &[u8]) -> u64 {
        self.party.send_raw(frame, self.party.channels.addresses.data);
        self.sent.bytes += wire(frame);
        wire(frame)
    }
}

fn wire(datagram: &[u8]) -> u64 {
    (datagram.len() + LOWER_HEADER_BYTES) as u64
}

fn chance(below: u64) -> u64 {
    rand::random::<u64>() % below.max(1)
}

fn flip_a_bit(bytes: &mut [u8]) {
    let at = chance(bytes.len() as u64) as usize;
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= 1 << chance(8);
    }
}
