//! The assignment: commands and data for one run, in a file that a server believes only after it
//! has checked every byte of it.
//!
//! ```text
//! magic "PRESSRUN" · format u16 · header length u32 · header · key epoch u32 · signature 64
//! commands, packed · block table, packed · data blocks
//! ```
//! All integers little endian. The header is signed; it holds the digests of the packed commands
//! and of the block table; the table holds the digest of every packed block. So the signature
//! covers every byte, and each part can be checked before it is read. The digests of single files are
//! left to the version of the result, which covers them all. Layout and history:
//! `docs/formats.md`. Source: 002, Fig. 4 and "Assignments".

mod block;
mod command;
mod header;
mod reader;
mod wire;
mod writer;

pub use block::{BLOCK_RAW_BYTES_MAX, BlockInfo, Codec, REFERENCE_BYTES_MAX, Stretch, pack, unpack};
pub use command::{ApplyError, Command, Content, Extent, UNKNOWN_DIGEST, apply, apply_part};
pub use header::{Base, Extra, Header, Kind, Limits, LivePolicy};
pub use reader::{AssignmentError, AssignmentReader};
pub use wire::encode_commands;
pub use writer::{Draft, Effect, head};

/// First bytes of every assignment file.
pub const MAGIC: [u8; 8] = *b"PRESSRUN";
/// The format version that this program writes.
pub const FORMAT: u16 = 3;
/// The oldest format that it reads: that of format 3 without the last two fields of its header.
pub const FORMAT_OLDEST: u16 = 2;
/// Domain of the header's signature.
pub const HEADER_DOMAIN: &str = "pressrun assignment header 1";
