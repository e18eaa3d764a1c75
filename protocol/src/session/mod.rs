//! The multicast session: one object from the group leader to all members of its segment, reliably
//! (002, "Local distribution").
//!
//! The leader sends the object's symbols in order, all members listen, and each says how much it lacks
//! of each block. The leader joins the requests and sends of each block as much parity as the member
//! that lacks most of it; passes repeat until nobody lacks anything. Without parity members name the
//! symbols they miss, and each is sent once more, however many asked: 002's scheme. Members are
//! registered already, so data follows the announcement at once; during a long first pass repair
//! rides in the stream, so that the end needs few further passes.
//!
//! In reading order: the numbers of an object ([`Geometry`]), what is said ([`Message`]), what is
//! sent ([`FrameHeader`]), parity ([`codec`]), the leader's side ([`Sender`]) with its rate ([`rate`]), which may yield to
//! others' ([`friendly`]) and is divided among sessions ([`shares`]), the member's side ([`Receiver`]).
//!
//! Holds: a frame's sequence never repeats within a session; a symbol is repeated only when a member
//! that had the chance to hear its last transmission asks for it; a dead member delays nobody beyond
//! [`SenderConfig::silence_min`]; a member acknowledges only after its driver confirmed that the
//! object is verified and durable.
//!
//! Leaves to others: sealing and opening frames, reading and writing symbols, chunk digests, tickets
//! and their signatures, who is a member, mending failed members by unicast.

mod channel;
pub mod codec;
#[cfg(test)]
mod competition;
mod deficits;
mod frame;
pub mod friendly;
mod geometry;
mod grant;
mod holdings;
mod members;
mod message;
#[cfg(test)]
mod promises;
mod ranges;
pub mod rate;
mod receiver;
#[cfg(test)]
mod receiver_tests;
mod refusal;
mod requests;
#[cfg(test)]
mod scale;
mod sender;
mod sender_config;
#[cfg(test)]
mod sender_tests;
pub mod shares;
#[cfg(test)]
mod simulation;
mod suppression;
mod symbols;

pub use channel::channel_of;
pub use frame::{Carried, FrameFlags, FrameHeader, HEADER_BYTES, HeaderError, LOWER_HEADER_BYTES, TAG_BYTES};
pub use geometry::{BLOCK_SYMBOLS, Geometry, GeometryError, LANES, Layout};
pub use grant::Grant;
pub use members::Failure;
pub use message::{LIST_BYTES_MAX, Message, Poll, Roll, Status};
pub use ranges::RangeSet;
pub use receiver::{Accepted, Output as ReceiverOutput, Receiver, ReceiverConfig, Refused};
pub use refusal::StatusRefused;
pub use sender::{Announcement, Content, Frame, Output as SenderOutput, Sender};
pub use sender_config::{Repair, SenderConfig};
pub use suppression::MEMBERS_ANSWERING_MAX;
pub(crate) use symbols::symbol_bytes_for;

/// Default length of a symbol in bytes.
///
/// 1,328: with header, tag, and the headers of IP and UDP a frame is 1,396 bytes long, which leaves
/// room for IPv6, VLAN tags and a tunnel below an MTU of 1,500. Frames are never fragmented.
pub const SYMBOL_BYTES: u16 = 1328;
/// Shortest symbol in bytes: fits the smallest MTU of IPv4.
pub const SYMBOL_BYTES_MIN: u16 = 512;
/// Longest symbol in bytes: fits jumbo frames of 9,000.
pub const SYMBOL_BYTES_MAX: u16 = 8896;

const _: () = assert!(SYMBOL_BYTES as usize + HEADER_BYTES + TAG_BYTES + LOWER_HEADER_BYTES <= 1400);
const _: () = assert!(SYMBOL_BYTES_MAX as usize + HEADER_BYTES + TAG_BYTES + LOWER_HEADER_BYTES <= 9000);
