//! What travels on a segment: control datagrams, the messages in them, data frames.

use std::rc::Rc;
use std::time::Duration;

use common::credential::{Credential, Roles};
use common::ids::{AssignmentNumber, ClusterId, RunNumber, ServerId};
use common::keys::{PairKey, PublishKey, PublishKeys, SecretKey, Signed};
use common::outcome::Report;
use common::ticket::Ticket;
use common::time::{Timestamp, WallTime};
use lan_channel::envelope::{DATAGRAM_BYTES_MAX, Opener, Sealer, SegmentKey, To};
use lan_channel::secrets::PairKeys;
use pressrun_simulator::network::Datagram;
use pressrun_simulator::server::{self, Disk, Running};
use protocol::election::{self, LeaderAnnouncement, LeaderClaim, Standing};
use protocol::message::Control;
use protocol::participant::Timers;
use protocol::registration::{self, Destination, Roster};
use protocol::session::{
    Announcement, Carried, FrameFlags, FrameHeader, Geometry, Grant, HEADER_BYTES, Layout, Message, Poll, Receiver,
    ReceiverConfig, Roll, SYMBOL_BYTES, Sender, SenderConfig, Status, TAG_BYTES,
};
use protocol::{direct, jumbo, reach, reports};

use super::{Renewed, assert_same_again, encoded};
use crate::{Shape, Target};

const SEGMENT_KEY: SegmentKey = SegmentKey([3; 32]);
/// Lengths of a signature, and of a code, in bytes.
const SIGNATURE_BYTES: usize = 64;
const CODE_BYTES: usize = 16;
const SESSION: u32 = 7;
/// Most that a machine says because of one message.
const ANSWERS_MAX: usize = 64;
/// Inputs after which machines begin anew, so that what one input did is not hidden by all before it.
pub(super) const LIFE: u64 = 512;

pub(super) fn publish_key() -> PublishKey {
    PublishKey { epoch: 1, key: SecretKey::from_bytes(&[1; 32]) }
}

pub(super) fn publish_keys() -> PublishKeys {
    PublishKeys { keys: vec![(1, publish_key().key.public())] }
}

pub(super) fn credential(number: u8) -> Credential {
    Credential {
        cluster: ClusterId([9; 16]),
        server: ServerId([number; 16]),
        name: "web1".parse().expect("good"),
        segment: "s1".parse().expect("good"),
        roles: Roles::default(),
        key: SecretKey::from_bytes(&[number; 32]).public(),
        expires: WallTime(2_000),
    }
}

pub(super) fn ticket() -> Ticket {
    Ticket {
        cluster: ClusterId([9; 16]),
        site: "shop".parse().expect("good"),
        assignment: AssignmentNumber(4),
        run: RunNumber(2),
        object: common::digest::Digest::of(b"object"),
        length: 100_000,
        chunk_bytes: 65_536,
        targets: vec![ServerId([2; 16]), ServerId([3; 16])],
        expires: WallTime(2_000),
        channel: None,
    }
}

/// What a datagram is signed, or coded, for.
const DATAGRAM_DOMAIN: &str = "pressrun control datagram 4";

/// The input is what stands before the tag, and what stands before the signature or code: an insider can make
/// the tag over anything, and the others over anything that names itself.
pub(super) fn datagram() -> Target {
    let signed = Signed::sign(&credential(2), &publish_key());
    let mut sealer = Sealer::new(SecretKey::from_bytes(&[2; 32]), SEGMENT_KEY, &signed, 5);
    let pair = pair();
    let mut sample = |to: To<'_>, body: &[u8]| {
        let mut datagram = sealer.seal(to, body);
        datagram.truncate(datagram.len() - TAG_BYTES);
        datagram
    };
    let samples = vec![
        sample(To::Segment, b"body"),
        sample(To::Peer(ServerId([7; 16]), &pair), &encoded(&messages()[0])),
        sample(To::Stranger(ServerId([7; 16])), &[0; 1_200]),
        sample(To::Peer(ServerId([8; 16]), &pair), b""),
    ];
    Target {
        name: "datagram",
        what: "control datagrams with a right tag, and with a right signature or code too",
        bytes_max: DATAGRAM_BYTES_MAX + 64,
        samples,
        check: Box::new(move |input| {
            open(input.to_vec());
            let coded = &input[..input.len().saturating_sub(CODE_BYTES)];
            open([coded, &pair.mask(DATAGRAM_DOMAIN, coded)].concat());
            let signed = &input[..input.len().saturating_sub(SIGNATURE_BYTES)];
            let signature = SecretKey::from_bytes(&[2; 32]).sign(DATAGRAM_DOMAIN, signed);
            open([signed, &signature.0].concat())
        }),
    }
}

/// The key that the sender shares with the receiver.
fn pair() -> PairKey {
    SecretKey::from_bytes(&[2; 32]).agree(&SecretKey::from_bytes(&[7; 32]).public()).expect("good keys")
}

fn open(mut datagram: Vec<u8>) -> Shape {
    let tag = blake3::keyed_hash(&SEGMENT_KEY.0, &datagram);
    datagram.extend_from_slice(&tag.as_bytes()[..TAG_BYTES]);
    let segment = "s1".parse().expect("good");
    let mut opener = Opener::new(ServerId([7; 16]), ClusterId([9; 16]), segment, SEGMENT_KEY, publish_keys());
    let mut pairs = PairKeys::new(SecretKey::from_bytes(&[7; 32]));
    match opener.open(&datagram, WallTime(1_000), &mut pairs) {
        Ok(opened) => {
            assert_eq!(opened.sender, credential(2), "only who has the key speaks");
            assert!(opener.open(&datagram, WallTime(1_000), &mut pairs).is_err(), "it is heard twice");
            Shape::decoded(&opened)
        }
        Err(error) => Shape::refused(&error),
    }
}

fn messages() -> Vec<Control> {
    let priority = Standing::default().priority(server::id(2), true, 3);
    let announcement = LeaderAnnouncement { epoch: 2 << 32, priority, members: 3 };
    let claim = LeaderClaim { epoch: 3 << 32, priority, seen: 2 << 32 };
    let leader = server::id(1);
    let elections = [
        election::Message::Announcement(announcement),
        election::Message::Claim(claim),
        election::Message::Resign { epoch: 2 << 32 },
        election::Message::Query { seen: 1 << 32 },
        election::Message::Probe { leader, epoch: 1 << 32 },
        election::Message::Heard { leader, epoch: 1 << 32 },
        election::Message::HandOver { epoch: 1 << 32, to: leader },
        election::Message::Challenge { epoch: 1 << 32, priority },
        election::Message::Verify { number: 5 },
        election::Message::Verified { announcement, number: 5 },
        election::Message::Claiming { claim, number: 5 },
    ];
    let info = server::describe(server::id(2), Roles::default(), 5);
    let registrations = [
        registration::Message::Register { revision: 9, part: 0, parts: 1, bytes: encoded(&info) },
        registration::Message::Register { revision: 9, part: 1, parts: 64, bytes: vec![1; 1_000] },
        registration::Message::KeepAlive { digest: 8 },
        registration::Message::Leave { revision: 9 },
        registration::Message::Request { epoch: 1 << 32 },
        registration::Message::Registered { epoch: 1 << 32, revision: 9, digest: 1 },
        registration::Message::Roster(Roster {
            epoch: 1 << 32,
            total: 2,
            after: None,
            until: Some(leader),
            members: vec![(leader, 5), (server::id(2), 6)],
        }),
        registration::Message::Probe { epoch: 1 << 32 },
    ];
    let assignment = AssignmentNumber(4);
    let reports = [
        reports::Message::Reports(vec![reports::Item { assignment, serial: 7, outcome: server::outcome(1) }]),
        reports::Message::Part { assignment, serial: 7, part: 1, parts: 3, bytes: vec![2; 1_000] },
        reports::Message::Ack { epoch: 1 << 32, known: vec![reports::Known { server: leader, assignment, serial: 7 }] },
        reports::Message::PartsHeld { epoch: 1 << 32, assignment, serial: 7, held: vec![255; 4] },
        reports::Message::Ask(reports::Ask {
            assignment,
            after: None,
            until: None,
            listed_reported: true,
            listed: vec![leader],
        }),
    ];
    let mut all: Vec<Control> = Vec::new();
    all.extend(elections.map(Control::Election));
    all.extend(registrations.map(Control::Registration));
    all.extend(reports.map(Control::Reports));
    all.extend(sessions().into_iter().map(|message| Control::Session { message, transfer_port: 7_000 }));
    let deaf = [reach::Deaf::These(vec![leader, server::id(2)]), reach::Deaf::Many];
    all.extend(deaf.map(|deaf| Control::Reach(reach::Message::Beacon { number: 9, deaf })));
    all.push(Control::Reach(reach::Message::Heard { number: 9 }));
    all.push(Control::Jumbo(jumbo::Message::Probe { symbol_bytes: 8_896, padding: vec![0; 300] }));
    all.push(Control::Jumbo(jumbo::Message::Passed { symbol_bytes: 8_896 }));
    let object = common::digest::Digest([4; 32]);
    let answers = [direct::Answer::Fetches, direct::Answer::Holds, direct::Answer::Declines("space: none".into())];
    all.extend(answers.map(|answer| Control::Direct(direct::Message::Answer { object, answer })));
    all
}

/// Decoded, and heard by a leader and by a member that follows it, as from a server that may lead and as
/// from one that may not.
pub(super) fn message() -> Target {
    let mut pairs = Renewed::every(LIFE, Pair::start);
    Target {
        name: "message",
        what: "control messages, and what the machines of a leader and a member make of them",
        bytes_max: DATAGRAM_BYTES_MAX,
        samples: messages().iter().map(encoded).collect(),
        check: Box::new(move |input| match postcard::from_bytes::<Control>(input) {
            Ok(message) => {
                assert_same_again(&message);
                pairs.next().hear(input);
                Shape::decoded(&message)
            }
            Err(error) => Shape::refused(&error),
        }),
    }
}

struct Party {
    running: Running,
    disk: Disk,
}

pub(super) struct Pair {
    leader: Party,
    member: Party,
    now: Timestamp,
    counter: u64,
}

impl Party {
    fn start(number: u16, now: Timestamp) -> Self {
        let disk = Disk { boot: 1 << 20, ..Disk::default() };
        let roles = Roles { server: true, leader: number == 1 };
        let id = server::id(number);
        let running = Running::start(id, roles, Standing::default(), &disk, &Timers::default(), number.into(), now);
        Self { running, disk }
    }

    fn settle(&mut self, now: Timestamp) -> Vec<(Destination, Control)> {
        self.running.pump(&mut self.disk, now);
        self.running.take_facts();
        self.running.take_sent()
    }
}

impl Pair {
    pub(super) fn start() -> Self {
        let now = Timestamp(1_000_000);
        let mut pair = Self { leader: Party::start(1, now), member: Party::start(3, now), now, counter: 0 };
        while !(pair.leader.running.is_leader() && pair.member.running.is_confirmed()) {
            pair.now = pair.now + Duration::from_millis(5);
            let now = pair.now;
            for (from, to) in [(1, 3), (3, 1)] {
                let speaker = if from == 1 { &mut pair.leader } else { &mut pair.member };
                speaker.running.wake(now);
                let said = speaker.settle(now);
                for (_, message) in said {
                    pair.counter += 1;
                    pair.say(from, to, encoded(&message), Roles { server: true, leader: from == 1 });
                }
            }
            assert!(now < Timestamp(60_000_000), "two servers agree soon");
        }
        pair
    }

    fn say(&mut self, from: u16, to: u16, body: Vec<u8>, roles: Roles) {
        let (sender, counter) = (server::id(from), self.counter);
        let datagram = Datagram { sender, boot: 1 << 20, counter, to: None, body: Rc::new(body) };
        let listener = if to == 1 { &mut self.leader } else { &mut self.member };
        listener.running.hear(&datagram, roles, self.now);
        listener.running.pump(&mut listener.disk, self.now);
        listener.running.take_facts();
        listener.running.wake(self.now);
    }

    /// An input, from a third server, and from the leader to the member.
    pub(super) fn hear(&mut self, input: &[u8]) {
        for (from, to, leads) in [(2, 1, true), (2, 3, true), (4, 1, false), (1, 3, true)] {
            self.counter += 1;
            self.now = self.now + Duration::from_millis(1);
            self.say(from, to, input.to_vec(), Roles { server: true, leader: leads });
            let now = self.now;
            for party in [&mut self.leader, &mut self.member] {
                let said = party.settle(now);
                assert!(said.len() <= ANSWERS_MAX, "{} messages because of one", said.len());
            }
        }
        // A report of an outcome that was believed is this server's own.
        let is_own = |report: &Report| [1, 2, 3, 4].map(server::id).contains(&report.server);
        assert!(self.leader.running.known().iter().all(is_own), "somebody is spoken for");
    }
}

fn geometry() -> Geometry {
    Geometry::new(100_000, SYMBOL_BYTES).expect("fits").with_blocks()
}

fn sessions() -> Vec<Message> {
    let status = Status {
        session: SESSION,
        poll: 1,
        received: 30,
        highest: 40,
        held: 30,
        missing: vec![(3, 2), (40, 10)],
        deficits: vec![(0, 4)],
        more: false,
        complete: false,
    };
    let roll = |named: bool| if named { Roll::Waiting(vec![ServerId([3; 16])]) } else { Roll::Complete(Vec::new()) };
    let poll = |named| {
        Message::Poll(Poll {
            session: SESSION,
            poll: 1,
            pass: 1,
            sent_through: 40,
            reply_window_micros: 4_000,
            roll: roll(named),
        })
    };
    vec![
        Message::Announce {
            session: SESSION,
            ticket: Signed::sign(&ticket(), &publish_key()),
            table_bytes: 0,
            layout: geometry().layout(3),
            epoch: 1 << 32,
            grants: Grant::new(&ticket(), ServerId([3; 16]), [7; 16]).into_iter().collect(),
        },
        Message::Status(Status { complete: true, ..status.clone() }),
        Message::Status(status),
        poll(true),
        poll(false),
        Message::Close { session: SESSION, failed: vec![ServerId([3; 16])] },
        Message::Decline { session: SESSION, reason: "busy: later".into() },
        Message::Plan { session: SESSION, parity: vec![(0, 3)] },
        Message::Overflow { session: SESSION, frames: 17 },
    ]
}

/// Messages of a session, heard by its leader and by a member of it.
pub(super) fn session() -> Target {
    let start = || {
        let announcement = Announcement {
            session: SESSION,
            epoch: 1 << 32,
            key_id: 1,
            ticket: Signed::sign(&ticket(), &publish_key()),
            table_bytes: 0,
            grants: Vec::new(),
        };
        let members = [2, 3].map(|number| ServerId([number; 16]));
        let now = Timestamp(1_000_000);
        let mut sender = Sender::new(SenderConfig::default(), announcement, geometry(), members, 100_000, now);
        // Everything is sent, so that everything can be asked for.
        let mut at = now;
        for _ in 0..200 {
            while sender.poll_frame(at).is_some() {}
            while sender.poll_output().is_some() {}
            at = at + Duration::from_millis(1);
            sender.handle_timeout(at);
        }
        let config = ReceiverConfig { members: 2, ..ReceiverConfig::default() };
        (sender, Receiver::new(config, ServerId([3; 16]), SESSION, geometry(), 1, now), at)
    };
    let mut sessions_under_way = Renewed::every(LIFE, start);
    Target {
        name: "session",
        what: "messages of a multicast session, and what its two sides make of them",
        bytes_max: DATAGRAM_BYTES_MAX,
        samples: sessions().iter().map(encoded).collect(),
        check: Box::new(move |input| {
            let message = match postcard::from_bytes::<Message>(input) {
                Ok(message) => message,
                Err(error) => return Shape::refused(&error),
            };
            assert_same_again(&message);
            let (sender, receiver, now) = sessions_under_way.next();
            *now = *now + Duration::from_micros(50);
            let now = *now;
            if let Message::Announce { layout, .. } = &message {
                announced(*layout);
            }
            let refused = match &message {
                Message::Status(status) => sender.handle_status(ServerId([2; 16]), status, now).err(),
                Message::Announce { .. }
                | Message::Poll(_)
                | Message::Close { .. }
                | Message::Decline { .. }
                | Message::Plan { .. }
                | Message::Overflow { .. } => None,
            };
            receiver.handle_message(&message, now);
            receiver.handle_timeout(now);
            sender.handle_timeout(now);
            let frames = std::iter::from_fn(|| sender.poll_frame(now)).take(2_000).count();
            assert!(frames < 2_000, "one message costs {frames} frames");
            let said = std::iter::from_fn(|| sender.poll_output()).count()
                + std::iter::from_fn(|| receiver.poll_output()).count();
            assert!(said <= ANSWERS_MAX, "one message costs {said} messages");
            match refused {
                Some(error) => Shape::refused(&error),
                None => Shape::decoded(&message),
            }
        }),
    }
}

/// A layout that is believed cuts every object so that its symbols cover it.
fn announced(layout: Layout) {
    for length in [0, 1, 1_327, 100_000, u64::MAX] {
        let Ok(geometry) = Geometry::announced(length, layout) else { continue };
        let Some(last) = geometry.symbols().checked_sub(1) else { continue };
        assert_eq!(geometry.offset(last) + u64::from(geometry.payload_bytes(last)), length, "{layout:?}");
        if let Some(block) = geometry.block_of(last) {
            assert!(block < geometry.block_count(), "{layout:?}");
            assert!(geometry.block_symbols(block).any(|symbol| symbol == last), "{layout:?}");
        }
    }
}

pub(super) fn frame_header() -> Target {
    let plain = FrameFlags { poll: false, repair: false, last: false, spent: false };
    let header = |carried, flags| FrameHeader {
        flags,
        pass: 1,
        key_id: 1,
        session: SESSION,
        epoch: 1,
        sequence: 4,
        carried,
        payload_bytes: 20,
        send_time: 3,
    };
    let frame = |header: FrameHeader| [header.encode().as_slice(), &[5; 20 + TAG_BYTES]].concat();
    let config = ReceiverConfig { members: 2, ..ReceiverConfig::default() };
    let mut receiver = Receiver::new(config, ServerId([3; 16]), SESSION, geometry(), 1, Timestamp(1_000_000));
    Target {
        name: "frame",
        what: "headers of data frames, and what a receiver makes of them",
        bytes_max: 2_048,
        samples: vec![
            frame(header(Carried::Symbol(3), plain)),
            frame(header(Carried::Parity { block: 0, index: 9 }, FrameFlags { poll: true, last: true, ..plain })),
        ],
        check: Box::new(move |input| match FrameHeader::decode(input) {
            Ok((header, sealed)) => {
                assert_eq!(header.encode(), input[..HEADER_BYTES], "a header has one form");
                assert_eq!(sealed.len(), input.len() - HEADER_BYTES);
                let taken = receiver.handle_frame(&header, usize::from(header.payload_bytes), Timestamp(1_000_100));
                while receiver.poll_output().is_some() {}
                match taken {
                    Ok(accepted) => Shape::decoded(&(header, accepted)),
                    Err(error) => Shape::decoded(&(header, error)),
                }
            }
            Err(error) => Shape::refused(&error),
        }),
    }
}
