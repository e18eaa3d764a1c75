//! The header of a data frame: 24 bytes in the clear, authenticated with the sealed payload.
//!
//! ```text
//!  0  version (high 4 bits) and kind (low 4 bits)
//!  1  flags: POLL 1, REPAIR 2, FINAL 4, SPENT 8
//!  2  pass, from 1
//!  3  key id
//!  4  session          u32, all integers big-endian
//!  8  epoch            u32, low half of the leader's epoch
//! 12  sequence         u32, from 1: counts transmissions, never repeats under one key
//! 16  symbol           u32; of parity: block (24 bits), index (8 bits)
//! 20  payload bytes    u16
//! 22  send time        u16, in 16 µs, wraps
//! 24  sealed payload, then 16 bytes of tag
//! ```
//!
//! A frame is read strictly: what a sender of this version cannot have made is refused before
//! anything is decrypted. Kind 1 is a symbol of the object, kind 2 a parity symbol of a block.

use super::SYMBOL_BYTES_MAX;

/// Length of the header in bytes.
pub const HEADER_BYTES: usize = 24;
/// Length of the authentication tag in bytes (AES-256-GCM).
pub const TAG_BYTES: usize = 16;
/// Length of the IPv4 and UDP headers below a frame, in bytes; what pacing adds to each frame.
pub const LOWER_HEADER_BYTES: usize = 28;

const VERSION: u8 = 1;
const KIND_SOURCE: u8 = 1;
const KIND_PARITY: u8 = 2;

/// What a frame asks or tells besides its symbol.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FrameFlags {
    /// Every member that hears it reports, after a short random delay.
    pub poll: bool,
    /// The symbol was sent before.
    pub repair: bool,
    /// Every symbol of the object has been sent at least once, this one included.
    pub last: bool,
    /// Nothing that was asked for is left to send after this frame.
    pub spent: bool,
}

impl FrameFlags {
    const POLL: u8 = 1;
    const REPAIR: u8 = 2;
    const FINAL: u8 = 4;
    const SPENT: u8 = 8;

    fn to_byte(self) -> u8 {
        let bit = |set: bool, bit: u8| if set { bit } else { 0 };
        bit(self.poll, Self::POLL)
            | bit(self.repair, Self::REPAIR)
            | bit(self.last, Self::FINAL)
            | bit(self.spent, Self::SPENT)
    }

    fn from_byte(byte: u8) -> Option<Self> {
        (byte & !(Self::POLL | Self::REPAIR | Self::FINAL | Self::SPENT) == 0).then_some(Self {
            poll: byte & Self::POLL != 0,
            repair: byte & Self::REPAIR != 0,
            last: byte & Self::FINAL != 0,
            spent: byte & Self::SPENT != 0,
        })
    }
}

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carried {
    /// This symbol of the object.
    Symbol(u32),
    /// A parity symbol.
    Parity {
        /// Of this block, below 2^24.
        block: u32,
        /// Which of the block's parity symbols.
        index: u8,
    },
}

impl Carried {
    fn kind_and_number(self) -> (u8, u32) {
        match self {
            Self::Symbol(symbol) => (KIND_SOURCE, symbol),
            Self::Parity { block, index } => (KIND_PARITY, block << 8 | u32::from(index)),
        }
    }
}

/// The header of a data frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// Flags.
    pub flags: FrameFlags,
    /// Which pass over the object sent it: 1 for a symbol's first transmission, more for a repair.
    /// Stays at 255 when there are more.
    pub pass: u8,
    /// Which of the segment's keys sealed it.
    pub key_id: u8,
    /// The session.
    pub session: u32,
    /// Low half of the leader's epoch.
    pub epoch: u32,
    /// Counts transmissions of the session from 1. The nonce, and the measure of loss.
    pub sequence: u32,
    /// What its payload is.
    pub carried: Carried,
    /// Length of the payload, unsealed, in bytes.
    pub payload_bytes: u16,
    /// When it was sent, in 16 µs units of the sender's clock; wraps.
    pub send_time: u16,
}

/// Why a datagram is no data frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Shorter than a header and a tag.
    #[error("a datagram of {bytes} bytes is too short for a data frame")]
    Short {
        /// Length of the datagram.
        bytes: usize,
    },
    /// Another protocol version.
    #[error("the data frame has version {version}, this program reads {VERSION}")]
    Version {
        /// The version it names.
        version: u8,
    },
    /// A kind that this version does not know.
    #[error("the data frame has the unknown kind {kind}")]
    Kind {
        /// The kind it names.
        kind: u8,
    },
    /// A flag that this version does not know.
    #[error("the data frame has unknown flags: {flags:#010b}")]
    Flags {
        /// All its flags.
        flags: u8,
    },
    /// Pass 0, a repair in the first pass, a first transmission in a later one, or parity that is no
    /// repair.
    #[error("the data frame names pass {pass}, which does not go with its kind and repair = {repair}")]
    Pass {
        /// The pass it names.
        pass: u8,
        /// Whether it is flagged as a repair.
        repair: bool,
    },
    /// Transmissions count from 1.
    #[error("the data frame has the sequence number 0")]
    Sequence,
    /// An empty or overlong payload.
    #[error("the data frame names a payload of {payload_bytes} bytes")]
    PayloadBytes {
        /// The length it names.
        payload_bytes: u16,
    },
    /// The datagram is longer or shorter than the header says.
    #[error("the data frame is {bytes} bytes long, its header says {expected}")]
    Length {
        /// Length of the datagram.
        bytes: usize,
        /// What header, payload and tag add up to.
        expected: usize,
    },
}

impl FrameHeader {
    /// The header's bytes: the additional data of the seal, and the start of the datagram.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let (kind, number) = self.carried.kind_and_number();
        bytes[0] = VERSION << 4 | kind;
        bytes[1] = self.flags.to_byte();
        bytes[2] = self.pass;
        bytes[3] = self.key_id;
        bytes[4..8].copy_from_slice(&self.session.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.epoch.to_be_bytes());
        bytes[12..16].copy_from_slice(&self.sequence.to_be_bytes());
        bytes[16..20].copy_from_slice(&number.to_be_bytes());
        bytes[20..22].copy_from_slice(&self.payload_bytes.to_be_bytes());
        bytes[22..24].copy_from_slice(&self.send_time.to_be_bytes());
        bytes
    }

    /// Reads a whole datagram: its header, and the sealed payload with its tag.
    ///
    /// # Errors
    /// [`HeaderError`] for everything that a sender of this version cannot have made.
    pub fn decode(datagram: &[u8]) -> Result<(Self, &[u8]), HeaderError> {
        let short = HeaderError::Short { bytes: datagram.len() };
        let (bytes, sealed) = datagram.split_first_chunk::<HEADER_BYTES>().ok_or(short)?;
        if sealed.len() < TAG_BYTES {
            return Err(short);
        }
        let u32_at = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let u16_at = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let (version, kind) = (bytes[0] >> 4, bytes[0] & 0x0f);
        if version != VERSION {
            return Err(HeaderError::Version { version });
        }
        let number = u32_at(16);
        let carried = match kind {
            KIND_SOURCE => Carried::Symbol(number),
            KIND_PARITY => Carried::Parity { block: number >> 8, index: bytes[19] },
            kind => return Err(HeaderError::Kind { kind }),
        };
        let flags = FrameFlags::from_byte(bytes[1]).ok_or(HeaderError::Flags { flags: bytes[1] })?;
        let header = Self {
            flags,
            pass: bytes[2],
            key_id: bytes[3],
            session: u32_at(4),
            epoch: u32_at(8),
            sequence: u32_at(12),
            carried,
            payload_bytes: u16_at(20),
            send_time: u16_at(22),
        };
        let must_repair = kind == KIND_PARITY;
        if header.pass == 0 || (header.pass > 1) != flags.repair || (must_repair && !flags.repair) {
            return Err(HeaderError::Pass { pass: header.pass, repair: flags.repair });
        }
        if header.sequence == 0 {
            return Err(HeaderError::Sequence);
        }
        if header.payload_bytes == 0 || header.payload_bytes > SYMBOL_BYTES_MAX {
            return Err(HeaderError::PayloadBytes { payload_bytes: header.payload_bytes });
        }
        let expected = HEADER_BYTES + usize::from(header.payload_bytes) + TAG_BYTES;
        if datagram.len() != expected {
            return Err(HeaderError::Length { bytes: datagram.len(), expected });
        }
        Ok((header, sealed))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header() -> FrameHeader {
        FrameHeader {
            flags: FrameFlags { poll: true, repair: true, ..FrameFlags::default() },
            pass: 2,
            key_id: 7,
            session: 0x0102_0304,
            epoch: 5,
            sequence: 0x0a0b_0c0d,
            carried: Carried::Symbol(9),
            payload_bytes: 3,
            send_time: 0x1122,
        }
    }

    fn datagram(header: &FrameHeader) -> Vec<u8> {
        let mut bytes = header.encode().to_vec();
        bytes.resize(HEADER_BYTES + usize::from(header.payload_bytes) + TAG_BYTES, 0xee);
        bytes
    }

    #[test]
    fn the_layout_of_version_1_stays_readable() {
        let golden =
            [0x11, 0x03, 0x02, 0x07, 1, 2, 3, 4, 0, 0, 0, 5, 0x0a, 0x0b, 0x0c, 0x0d, 0, 0, 0, 9, 0, 3, 0x11, 0x22];
        assert_eq!(header().encode(), golden);
        let bytes = datagram(&header());
        let (read, sealed) = FrameHeader::decode(&bytes).expect("a good frame");
        assert_eq!(read, header());
        assert_eq!(sealed, [0xee; 3 + TAG_BYTES]);
        let parity = FrameHeader { carried: Carried::Parity { block: 0x01_0203, index: 4 }, ..header() };
        assert_eq!(parity.encode()[0], 0x12);
        assert_eq!(parity.encode()[16..20], [1, 2, 3, 4]);
        assert_eq!(FrameHeader::decode(&datagram(&parity)).map(|(read, _)| read), Ok(parity));
    }

    #[test]
    fn every_malformed_header_is_refused_for_its_reason() {
        let good = datagram(&header());
        let with = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            bytes
        };
        let check = |bytes: &[u8], error: HeaderError| assert_eq!(FrameHeader::decode(bytes), Err(error));
        check(&[], HeaderError::Short { bytes: 0 });
        check(&good[..HEADER_BYTES + TAG_BYTES - 1], HeaderError::Short { bytes: HEADER_BYTES + TAG_BYTES - 1 });
        check(&with(0, 0x21), HeaderError::Version { version: 2 });
        check(&with(0, 0x01), HeaderError::Version { version: 0 });
        check(&with(0, 0x13), HeaderError::Kind { kind: 3 });
        check(&with(0, 0x10), HeaderError::Kind { kind: 0 });
        for bit in 4..8 {
            check(&with(1, 0x03 | 1 << bit), HeaderError::Flags { flags: 0x03 | 1 << bit });
        }
        check(&with(2, 0), HeaderError::Pass { pass: 0, repair: true });
        check(&with(2, 1), HeaderError::Pass { pass: 1, repair: true });
        check(&with(1, 0x01), HeaderError::Pass { pass: 2, repair: false });
        let first_parity = FrameHeader {
            carried: Carried::Parity { block: 0, index: 0 },
            flags: FrameFlags::default(),
            pass: 1,
            ..header()
        };
        check(&datagram(&first_parity), HeaderError::Pass { pass: 1, repair: false });
        let mut unnumbered = good.clone();
        unnumbered[12..16].fill(0);
        check(&unnumbered, HeaderError::Sequence);
        check(&with(21, 0), HeaderError::PayloadBytes { payload_bytes: 0 });
        check(&with(20, 0xff), HeaderError::PayloadBytes { payload_bytes: 0xff03 });
        check(&with(21, 4), HeaderError::Length { bytes: good.len(), expected: good.len() + 1 });
        check(&[&good[..], &[0]].concat(), HeaderError::Length { bytes: good.len() + 1, expected: good.len() });
        check(&good[..good.len() - 1], HeaderError::Length { bytes: good.len() - 1, expected: good.len() });
    }

    proptest! {
        #[test]
        fn what_is_read_is_exactly_what_would_be_written(
            start in proptest::collection::vec(any::<u8>(), HEADER_BYTES), length in 0usize..100,
        ) {
            let mut bytes = start;
            bytes[0] = 0x11 + (bytes[0] & 1);
            bytes[1] &= 0x0f;
            bytes[20] = 0;
            bytes.resize(HEADER_BYTES + length, 0);
            if let Ok((header, _)) = FrameHeader::decode(&bytes) {
                prop_assert_eq!(&header.encode()[..], &bytes[..HEADER_BYTES]);
            }
        }
    }
}
