//! What comes in parts: descriptions of members, and outcomes that do not fit a datagram.

use common::fleet::MemberInfo;
use common::ids::AssignmentNumber;
use common::outcome::Outcome;
use pressrun_simulator::server;
use protocol::message::Control;
use protocol::{registration, reports};

use super::segment::{LIFE, Pair};
use super::{Renewed, assert_same_again, encoded};
use crate::{Shape, Target};

/// What a part carries, in bytes.
const PART_BYTES: usize = 1_000;

/// The first byte says of what these are parts, its highest bit that the last one comes first, and its next that
/// one is missing; the rest is cut. Its senders are a server that registers and one that is registered.
pub(super) fn parts() -> Target {
    let mut pairs = Renewed::every(LIFE, Pair::start);
    let mut revision = 1_u64 << 32;
    let info = server::describe(server::id(4), Default::default(), 5);
    let long = MemberInfo { location: "far away ".repeat(150), ..info.clone() };
    let sample = |how: u8, bytes: &[u8]| [&[how], bytes].concat();
    Target {
        name: "parts",
        what: "descriptions of members and outcomes that come in parts",
        bytes_max: 8 << 10,
        samples: vec![
            sample(0, &encoded(&info)),
            sample(0x80, &encoded(&long)),
            sample(1, &encoded(&server::outcome(3))),
            sample(0x41, &encoded(&server::outcome(3))),
            sample(1, &encoded(&server::outcome(1))),
        ],
        check: Box::new(move |input| {
            let Some((how, bytes)) = input.split_first() else { return Shape::refused(&"empty") };
            revision += 1;
            let pair = pairs.next();
            let count = bytes.len().div_ceil(PART_BYTES).max(1);
            let parts = u16::try_from(count).expect("few");
            let mut messages: Vec<Control> = (0..parts)
                .map(|part| {
                    let start = usize::from(part) * PART_BYTES;
                    let bytes = bytes[start.min(bytes.len())..bytes.len().min(start + PART_BYTES)].to_vec();
                    match how & 1 {
                        0 => Control::Registration(registration::Message::Register { revision, part, parts, bytes }),
                        _ => {
                            let assignment = AssignmentNumber(4);
                            Control::Reports(reports::Message::Part {
                                assignment,
                                serial: revision,
                                part,
                                parts,
                                bytes,
                            })
                        }
                    }
                })
                .collect();
            if how & 0x80 != 0 {
                messages.reverse();
            }
            if how & 0x40 != 0 {
                messages.pop();
            }
            for message in messages {
                pair.hear(&encoded(&message));
            }
            let (info, outcome) = (postcard::from_bytes::<MemberInfo>(bytes), postcard::from_bytes::<Outcome>(bytes));
            match (how & 1, info, outcome) {
                (0, Ok(info), _) => {
                    assert_same_again(&info);
                    Shape::decoded(&info)
                }
                (1, _, Ok(outcome)) => {
                    assert_same_again(&outcome);
                    Shape::decoded(&outcome)
                }
                (0, Err(error), _) | (_, _, Err(error)) => Shape::refused(&error),
                (_, _, Ok(_)) => unreachable!("a bit is 0 or 1"),
            }
        }),
    }
}
