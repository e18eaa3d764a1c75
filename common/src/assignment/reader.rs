//! Reading assignments: nothing is believed before it is checked, nothing is stored before its
//! length is within the limits.

use std::io::{self, Read, Seek, SeekFrom};

use super::wire::decode_commands;
use super::{
    BLOCK_RAW_BYTES_MAX, BlockInfo, Codec, Command, FORMAT, FORMAT_OLDEST, HEADER_DOMAIN, Header, Limits, MAGIC, unpack,
};
use crate::digest::Digest;
use crate::keys::{BadSignature, PublishKeys, Signature};

/// Why a file is not an assignment to be acted upon.
#[derive(Debug, thiserror::Error)]
pub enum AssignmentError {
    /// The file cannot be read.
    #[error("the assignment cannot be read")]
    Read(#[source] io::Error),
    /// The file ends too early.
    #[error("the assignment ends in the middle of its {part}")]
    Truncated {
        /// What was being read.
        part: &'static str,
    },
    /// Not an assignment file.
    #[error("the file is no assignment: its first bytes are wrong")]
    Magic,
    /// Written by another version.
    #[error("the assignment has format {found}, this program reads {FORMAT_OLDEST} to {FORMAT}")]
    Format {
        /// Its format.
        found: u16,
    },
    /// Something is larger than allowed.
    #[error("the assignment's {part} of {found} is over the limit of {max}")]
    Limit {
        /// What is too large.
        part: &'static str,
        /// How large it says it is.
        found: u64,
        /// The limit.
        max: u64,
    },
    /// The header is not signed by a trusted key.
    #[error("the assignment's header is not believed")]
    Signature(#[from] BadSignature),
    /// A part does not have the digest that the header or table gives it.
    #[error("the assignment's {part} is damaged")]
    Damaged {
        /// Which part.
        part: &'static str,
    },
    /// A part is rightly signed and cannot be read or contradicts another part.
    #[error("the assignment's {part} is malformed")]
    Malformed {
        /// Which part.
        part: &'static str,
    },
    /// Bytes follow the last block.
    #[error("{bytes} bytes follow the end of the assignment")]
    TrailingBytes {
        /// How many.
        bytes: u64,
    },
    /// A command names a block that is not there.
    #[error("block {block} of the assignment is asked for, it has {blocks}")]
    NoSuchBlock {
        /// The index.
        block: u32,
        /// How many there are.
        blocks: u32,
    },
}

/// An assignment whose header, commands and block table were checked. Blocks are checked as they
/// are read.
#[derive(Debug)]
pub struct AssignmentReader<R> {
    file: R,
    header: Header,
    epoch: u32,
    commands: Vec<Command>,
    blocks: Vec<BlockInfo>,
    /// Offset of each block in the file.
    offsets: Vec<u64>,
}

impl<R: Read + Seek> AssignmentReader<R> {
    /// Opens an assignment: checks form, limits, signature, commands, block table and length.
    ///
    /// # Errors
    /// [`AssignmentError`] names the part that is wrong.
    pub fn open(file: R, keys: &PublishKeys, limits: &Limits) -> Result<Self, AssignmentError> {
        Self::open_with(file, Some(keys), limits)
    }

    /// Opens an assignment to look at it, whoever signed it. Never to act upon.
    ///
    /// # Errors
    /// As [`Self::open`], but for the signature.
    pub fn open_unchecked(file: R, limits: &Limits) -> Result<Self, AssignmentError> {
        Self::open_with(file, None, limits)
    }

    fn open_with(mut file: R, keys: Option<&PublishKeys>, limits: &Limits) -> Result<Self, AssignmentError> {
        let fixed: [u8; 14] = read_array(&mut file, "first bytes")?;
        if fixed[..8] != MAGIC {
            return Err(AssignmentError::Magic);
        }
        let format = u16::from_le_bytes([fixed[8], fixed[9]]);
        if !(FORMAT_OLDEST..=FORMAT).contains(&format) {
            return Err(AssignmentError::Format { found: format });
        }
        let header_bytes = u32::from_le_bytes([fixed[10], fixed[11], fixed[12], fixed[13]]);
        check_limit("header", header_bytes.into(), limits.header_bytes_max.into())?;
        let mut raw_header = read_vec(&mut file, header_bytes.into(), "header")?;
        let epoch = u32::from_le_bytes(read_array(&mut file, "key epoch")?);
        let signature = Signature(read_array(&mut file, "signature")?);
        if let Some(keys) = keys {
            keys.verify(epoch, HEADER_DOMAIN, &raw_header, &signature)?;
        }
        if format == FORMAT_OLDEST {
            // What nobody published is removed, and what is removed does not linger.
            raw_header.extend_from_slice(&[0, 0]);
        }
        let header: Header = decode(&raw_header, "header")?;

        check_limit("number of commands", header.commands.into(), limits.commands_max.into())?;
        check_limit("packed commands", header.commands_packed_bytes, limits.commands_packed_bytes_max)?;
        check_limit("unpacked commands", header.commands_raw_bytes, limits.commands_raw_bytes_max)?;
        check_limit("number of blocks", header.blocks.into(), limits.blocks_max.into())?;
        check_limit("content", header.result_bytes, limits.result_bytes_max)?;

        let packed = read_vec(&mut file, header.commands_packed_bytes, "commands")?;
        check_digest(&packed, &header.commands_digest, "command section")?;
        let raw_bytes = usize::try_from(header.commands_raw_bytes)
            .map_err(|_| AssignmentError::Malformed { part: "command section" })?;
        let raw = zstd::bulk::decompress(&packed, raw_bytes)
            .map_err(|_| AssignmentError::Malformed { part: "command section" })?;
        if raw.len() != raw_bytes {
            return Err(AssignmentError::Malformed { part: "command section" });
        }

        let table_bytes = u64::from_le_bytes(read_array(&mut file, "block table")?);
        // Packing adds little to what cannot be packed.
        check_limit("block table", table_bytes, limits.blocks_raw_bytes_max)?;
        let table = read_vec(&mut file, table_bytes, "block table")?;
        check_digest(&table, &header.blocks_digest, "block table")?;
        let blocks = read_table(&table, limits)?;
        if blocks.len() != header.blocks as usize
            || blocks.iter().map(|block| u64::from(block.packed_bytes)).sum::<u64>() != header.data_bytes
            || blocks.iter().any(|block| block.raw_bytes > BLOCK_RAW_BYTES_MAX)
            || blocks.iter().any(|block| (block.codec == Codec::ZstdPrefix) == block.reference.is_empty())
        {
            return Err(AssignmentError::Malformed { part: "block table" });
        }
        let commands = decode_commands(&raw, header.commands as usize, &blocks, limits.commands_raw_bytes_max)
            .ok_or(AssignmentError::Malformed { part: "command section" })?;

        let data_start = file.stream_position().map_err(AssignmentError::Read)?;
        let end = file.seek(SeekFrom::End(0)).map_err(AssignmentError::Read)?;
        let expected_end = data_start + header.data_bytes;
        if end < expected_end {
            return Err(AssignmentError::Truncated { part: "data" });
        }
        if end > expected_end {
            return Err(AssignmentError::TrailingBytes { bytes: end - expected_end });
        }
        let offsets = blocks
            .iter()
            .scan(data_start, |next, block| {
                let offset = *next;
                *next += u64::from(block.packed_bytes);
                Some(offset)
            })
            .collect();
        Ok(Self { file, header, epoch, commands, blocks, offsets })
    }

    /// The signed header.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The epoch of the key that it says it was signed with.
    #[must_use]
    pub fn key_epoch(&self) -> u32 {
        self.epoch
    }

    /// The commands, in order.
    #[must_use]
    pub fn commands(&self) -> &[Command] {
        &self.commands
    }

    /// The block table.
    #[must_use]
    pub fn blocks(&self) -> &[BlockInfo] {
        &self.blocks
    }

    /// Reads, checks and unpacks a block. `reference` is what the table says of a block of
    /// codec [`super::Codec::ZstdPrefix`].
    ///
    /// # Errors
    /// [`AssignmentError`] when there is no such block, or it is damaged or malformed.
    pub fn read_block(&mut self, block: u32, reference: Option<&[u8]>) -> Result<Vec<u8>, AssignmentError> {
        let no_such_block = AssignmentError::NoSuchBlock { block, blocks: self.header.blocks };
        let Some((info, offset)) = self.blocks.get(block as usize).zip(self.offsets.get(block as usize)) else {
            return Err(no_such_block);
        };
        self.file.seek(SeekFrom::Start(*offset)).map_err(AssignmentError::Read)?;
        let packed = read_vec(&mut self.file, info.packed_bytes.into(), "data")?;
        check_digest(&packed, &info.digest, "data block")?;
        unpack(info, packed, reference).ok_or(AssignmentError::Malformed { part: "data block" })
    }
}

fn check_limit(part: &'static str, found: u64, max: u64) -> Result<(), AssignmentError> {
    if found > max { Err(AssignmentError::Limit { part, found, max }) } else { Ok(()) }
}

fn read_table(table: &[u8], limits: &Limits) -> Result<Vec<BlockInfo>, AssignmentError> {
    let malformed = || AssignmentError::Malformed { part: "block table" };
    let Ok(Some(raw_bytes)) = zstd::zstd_safe::get_frame_content_size(table) else { return Err(malformed()) };
    check_limit("unpacked block table", raw_bytes, limits.blocks_raw_bytes_max)?;
    let raw_bytes = usize::try_from(raw_bytes).map_err(|_| malformed())?;
    let raw = zstd::bulk::decompress(table, raw_bytes).map_err(|_| malformed())?;
    decode(&raw, "block table")
}

fn check_digest(bytes: &[u8], expected: &Digest, part: &'static str) -> Result<(), AssignmentError> {
    if Digest::of(bytes) == *expected { Ok(()) } else { Err(AssignmentError::Damaged { part }) }
}

fn read_error(error: io::Error, part: &'static str) -> AssignmentError {
    if error.kind() == io::ErrorKind::UnexpectedEof {
        AssignmentError::Truncated { part }
    } else {
        AssignmentError::Read(error)
    }
}

fn read_array<const N: usize>(file: &mut impl Read, part: &'static str) -> Result<[u8; N], AssignmentError> {
    let mut bytes = [0; N];
    file.read_exact(&mut bytes).map_err(|error| read_error(error, part))?;
    Ok(bytes)
}

/// Reads exactly `length` bytes; memory grows with what is really there, not with what is declared.
fn read_vec(file: &mut impl Read, length: u64, part: &'static str) -> Result<Vec<u8>, AssignmentError> {
    let mut bytes = Vec::new();
    file.take(length).read_to_end(&mut bytes).map_err(|error| read_error(error, part))?;
    if bytes.len() as u64 == length { Ok(bytes) } else { Err(AssignmentError::Truncated { part }) }
}

fn decode<T: serde::de::DeserializeOwned>(bytes: &[u8], part: &'static str) -> Result<T, AssignmentError> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        Ok(_) | Err(_) => Err(AssignmentError::Malformed { part }),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::super::{Base, Content, Draft, Effect, Extent, Extra, Kind, LivePolicy, apply, head, pack};
    use super::*;
    use crate::ids::{AssignmentNumber, ClusterId, RunNumber, Sequence, ServerId};
    use crate::keys::{PublishKey, SecretKey};
    use crate::manifest::Manifest;
    use crate::time::WallTime;

    fn key() -> PublishKey {
        PublishKey { epoch: 1, key: SecretKey::from_bytes(&[9; 32]) }
    }

    fn keys() -> PublishKeys {
        PublishKeys { keys: vec![(1, key().key.public())] }
    }

    fn small_assignment() -> Vec<u8> {
        let content = b"hello, hello, hello, hello, hello".as_slice();
        let (block, packed) = pack(content, None, 3).expect("packs");
        let commands = [
            Command::MakeDirectory { path: "d".parse().expect("good"), mode: 0o755 },
            Command::WriteFile {
                path: "d/hello.txt".parse().expect("good"),
                mode: 0o644,
                mtime: 1,
                size: content.len() as u64,
                digest: Some(Digest::of(content)),
                content: Content::Blocks(vec![Extent { block: 0, offset: 0, length: 33 }]),
            },
        ];
        let draft = Draft {
            cluster: ClusterId([1; 16]),
            site: "shop".parse().expect("good"),
            group: "all".parse().expect("good"),
            number: AssignmentNumber(1),
            run: RunNumber(1),
            kind: Kind::Prepare,
            sequence: Sequence(1),
            targets: vec![ServerId([2; 16])],
            live: LivePolicy { directory: "/srv/www/shop".into(), ..LivePolicy::default() },
            created: WallTime(0),
            expires: WallTime(1),
            extra: Extra::Remove,
            linger_seconds: 0,
        };
        let result = apply(&Manifest::default(), &commands).expect("fits");
        let effect = Effect::of_tree(Base::Any, &result, content.len() as u64);
        let mut file = head(draft, effect, &commands, &[block], &key()).expect("packs");
        file.extend_from_slice(&packed);
        file
    }

    /// Opens it and reads every block, as a server does before it believes the whole of it.
    fn read_all(file: &[u8]) -> Result<(), AssignmentError> {
        let mut reader = AssignmentReader::open(Cursor::new(file), &keys(), &Limits::default())?;
        (0..reader.header().blocks).try_for_each(|block| reader.read_block(block, None).map(drop))
    }

    #[test]
    fn what_was_written_is_read() {
        let file = small_assignment();
        let mut reader = AssignmentReader::open(Cursor::new(&file), &keys(), &Limits::default()).expect("opens");
        assert_eq!(reader.commands().len(), 2);
        assert_eq!(reader.read_block(0, None).expect("reads"), b"hello, hello, hello, hello, hello");
        assert!(matches!(reader.read_block(1, None), Err(AssignmentError::NoSuchBlock { block: 1, blocks: 1 })));
    }

    #[test]
    fn a_flipped_bit_anywhere_is_noticed() {
        let file = small_assignment();
        read_all(&file).expect("the whole one is good");
        for at in 0..file.len() {
            for bit in 0..8 {
                let mut damaged = file.clone();
                damaged[at] ^= 1 << bit;
                assert!(read_all(&damaged).is_err(), "bit {bit} of byte {at} flipped");
            }
        }
    }

    #[test]
    fn a_file_cut_anywhere_or_with_more_behind_it_is_refused() {
        let file = small_assignment();
        for length in 0..file.len() {
            assert!(read_all(&file[..length]).is_err(), "cut to {length} bytes");
        }
        let twice = [file.clone(), file.clone()].concat();
        assert!(matches!(read_all(&twice), Err(AssignmentError::TrailingBytes { .. })));
    }

    #[test]
    fn limits_are_named() {
        let file = small_assignment();
        let tight = Limits { commands_max: 1, ..Limits::default() };
        let refused = AssignmentReader::open(Cursor::new(&file), &keys(), &tight);
        assert!(matches!(refused, Err(AssignmentError::Limit { part: "number of commands", found: 2, max: 1 })));
        let stranger = PublishKeys { keys: vec![(1, SecretKey::from_bytes(&[8; 32]).public())] };
        assert!(matches!(
            AssignmentReader::open(Cursor::new(&file), &stranger, &Limits::default()),
            Err(AssignmentError::Signature(_))
        ));
    }
}
