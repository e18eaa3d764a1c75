//! A member in a session: sealed frames and messages of its leader, in any order, up to the file.

use std::time::Duration;

use backend_agent::receive::{Announced, Event, Receptions};
use common::digest::Digest;
use common::ids::ServerId;
use common::time::Timestamp;
use lan_channel::envelope::SegmentKey;
use lan_channel::frames::FrameKey;
use lan_channel::secrets::{SessionName, SessionSecret};
use protocol::session::codec::Encoder;
use protocol::session::{Carried, FrameFlags, FrameHeader, Geometry, Layout, Message};

use super::segment::ticket;
use crate::{Shape, Target};

const LEADER: ServerId = ServerId([1; 16]);
const MEMBER: ServerId = ServerId([3; 16]);
const SESSION: u32 = 7;
const EPOCH: u64 = 1 << 32;
const KEY: SegmentKey = SegmentKey([3; 32]);
const SECRET: SessionSecret = SessionSecret([5; 16]);
const OBJECT_BYTES: u64 = 10_000;
const SYMBOL_BYTES: u16 = 512;
/// Most steps of one input.
const STEPS_MAX: usize = 200;
/// Most that is said because of one step.
const EVENTS_MAX: usize = 16;

fn object() -> Vec<u8> {
    (0..OBJECT_BYTES).map(|at| at.to_le_bytes()[0].wrapping_mul(37) ^ at.to_le_bytes()[1]).collect()
}

/// How objects are cut: by name, in blocks as leaders cut them, in small blocks side by side, in blocks of one.
const LAYOUTS: [(u8, u8); 4] = [(0, 0), (20, 1), (3, 4), (1, 2)];

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    fn take(&mut self, bytes: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(bytes.min(self.0.len()));
        self.0 = rest;
        taken
    }
}

/// What one frame carries, and whether it is what a leader would send.
fn frame(input: &mut Input<'_>, geometry: &Geometry, session: u32, object: &[u8], how: u8) -> (Vec<u8>, bool) {
    let (number, flags, pass) = (input.byte(), input.byte(), input.byte());
    let is_parity = how & 1 != 0;
    let read = |offset: u64, buffer: &mut [u8]| -> Result<(), ()> {
        let at = usize::try_from(offset).map_err(|_| ())?;
        buffer.copy_from_slice(object.get(at..at + buffer.len()).ok_or(())?);
        Ok(())
    };
    let mut honest = true;
    let (carried, mut payload) = if is_parity {
        let block = u32::from(number % 16);
        let index = input.byte();
        let there = block < geometry.block_count() && u32::from(index) < geometry.parity_symbols();
        let made = there.then(|| Encoder::default().parity(geometry, (block, index, 1), read).map(<[u8]>::to_vec));
        (Carried::Parity { block, index }, made.and_then(Result::ok).unwrap_or_else(|| vec![0; 512]))
    } else {
        let symbol = u32::from(number % 32);
        let mut payload = vec![0; usize::from(geometry.payload_bytes(symbol.min(geometry.symbols() - 1)))];
        read(geometry.offset(symbol), &mut payload).ok();
        (Carried::Symbol(symbol), payload)
    };
    if how & 2 != 0 {
        // Not what it should be: other bytes, or another length.
        honest = false;
        let change = input.byte();
        match change % 4 {
            0 => payload.truncate(usize::from(change)),
            1 => payload.resize(payload.len() + usize::from(change), change),
            2 | 3 => payload.iter_mut().take(1).for_each(|byte| *byte ^= change),
            _ => unreachable!("a number below four"),
        }
    }
    let sequence = u32::from_le_bytes([input.byte(), input.byte(), 0, 0]);
    let header = FrameHeader {
        flags: FrameFlags {
            poll: flags & 1 != 0,
            repair: flags & 2 != 0 || is_parity,
            last: flags & 4 != 0,
            spent: flags & 8 != 0,
        },
        pass,
        key_id: 0,
        session,
        epoch: 0,
        sequence,
        carried,
        payload_bytes: u16::try_from(payload.len()).unwrap_or(u16::MAX),
        send_time: 0,
    };
    let mut sealed = Vec::new();
    let key = FrameKey::derive(&KEY, SECRET, SessionName { session, leader: LEADER, epoch: EPOCH });
    key.seal(&header.encode(), sequence, &payload, &mut sealed);
    if how & 4 != 0 {
        // Damaged on its way: it does not open, or has another session.
        let at = usize::from(input.byte()) % sealed.len();
        sealed[at] ^= input.byte();
    }
    (sealed, honest)
}

/// The first byte says how the object is cut, then come steps: frames, messages of the leader, time.
pub(super) fn reception() -> Target {
    let directory = tempfile::tempdir().expect("a directory");
    let mut receptions = Receptions::new(directory.path(), MEMBER, KEY).expect("an empty directory");
    let (object, session, mut now) = (object(), SESSION, Timestamp(1_000_000));
    let ticket =
        common::ticket::Ticket { object: Digest::of(&object), length: OBJECT_BYTES, targets: vec![MEMBER], ..ticket() };
    let all: Vec<u8> = (0..20).flat_map(|symbol| [0, symbol, 0, 1, symbol + 1, 0]).collect();
    let with_losses: Vec<u8> = (0..20)
        .filter(|symbol| symbol % 3 != 0)
        .flat_map(|symbol| [0, symbol, 0, 1, symbol + 1, 0])
        .chain((0..7).flat_map(|parity| [1, 0, 2, 2, parity, parity + 30, 0]))
        .collect();
    Target {
        name: "reception",
        what: "frames that are rightly sealed and messages of a leader, and the file that a member makes of them",
        bytes_max: 2_048,
        samples: vec![
            [&[0_u8], all.as_slice()].concat(),
            [&[1_u8], all.as_slice()].concat(),
            [&[1_u8], with_losses.as_slice()].concat(),
            [&[2_u8], with_losses.as_slice(), &[9, 200, 0, 0]].concat(),
            vec![3, 2, 0, 0, 1, 6, 1, 0, 4, 3, 0, 1, 2, 0, 9, 9],
        ],
        check: Box::new(move |input| {
            // Lives as long as what is received into it.
            let _here = &directory;
            let mut input = Input(input);
            let (block_symbols, lanes) = LAYOUTS[usize::from(input.byte()) % LAYOUTS.len()];
            let layout = Layout { symbol_bytes: SYMBOL_BYTES, block_symbols, lanes, members: 2 };
            let geometry = Geometry::announced(OBJECT_BYTES, layout).expect("leaders may cut like that");
            let announced = Announced {
                session,
                ticket: ticket.clone(),
                layout,
                table_bytes: 0,
                leader: LEADER,
                epoch: EPOCH,
                secret: SECRET,
            };
            receptions.begin(announced, false, 1, now).expect("there is room");
            let (mut honest, mut said, mut complete, mut steps) = (true, 0, false, 0);
            while !input.0.is_empty() && steps < STEPS_MAX && receptions.knows(session) {
                steps += 1;
                match input.byte() {
                    how @ 0..8 => {
                        let (mut sealed, is_honest) = frame(&mut input, &geometry, session, &object, how);
                        honest &= is_honest;
                        receptions.frame(&mut sealed, now);
                        receptions.settle(now);
                    }
                    8 => {
                        let length = usize::from(input.byte());
                        if let Ok(message) = postcard::from_bytes::<Message>(input.take(length)) {
                            receptions.message(LEADER, &message, now);
                        }
                    }
                    _ => {
                        now = now + Duration::from_millis(u64::from(input.byte()));
                        receptions.timeout(now);
                    }
                }
                let before = said;
                while let Some(event) = receptions.poll_event() {
                    said += 1;
                    match event {
                        Event::Say { .. } | Event::Incomplete { .. } => {}
                        Event::Verify { path, growth, .. } => {
                            drop(growth);
                            let bytes = std::fs::read(path).expect("the file is there");
                            complete = true;
                            if honest {
                                assert!(bytes == object, "true frames made something else");
                            }
                            match bytes == object {
                                true => receptions.confirm(session, now),
                                false => receptions.fail(session, "another object"),
                            }
                        }
                    }
                }
                assert!(said - before <= EVENTS_MAX, "one step costs {} messages", said - before);
            }
            // An hour is longer than any session is waited for.
            now = now + Duration::from_secs(3_600);
            receptions.timeout(now);
            receptions.fail(session, "over");
            while receptions.poll_event().is_some() {}
            assert!(receptions.poll_timeout().is_none(), "nothing is left of it");
            receptions.forget(ticket.object);
            let shape = (lanes, honest, complete, said.min(40), steps.min(40));
            let shape = format!("{shape:?}").bytes().map(|byte| char::from(byte | 0x40)).collect::<String>();
            if complete { Shape::decoded(&shape) } else { Shape::refused(&shape) }
        }),
    }
}
