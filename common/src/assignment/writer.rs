//! Writing assignments: everything before the data blocks is made at once, when they are known.

use super::{BlockInfo, Command, FORMAT, HEADER_DOMAIN, Header, MAGIC, encode_commands};
use crate::digest::Digest;
use crate::keys::PublishKey;

/// What the builder says about an assignment; counts and digests are filled in by [`head`].
pub type Draft = Header;

/// The best for what is short; of what is long time counts.
const LEVEL_SHORT: i32 = 19;
const LEVEL_LONG: i32 = 5;
const SHORT_BYTES_MAX: usize = 1 << 20;

fn compress(raw: &[u8]) -> std::io::Result<Vec<u8>> {
    zstd::bulk::compress(raw, if raw.len() <= SHORT_BYTES_MAX { LEVEL_SHORT } else { LEVEL_LONG })
}

/// The file up to its data: header, signature, packed commands and block table. The packed blocks
/// follow in the order of `blocks`.
///
/// # Errors
/// Only when the compressor cannot get memory.
///
/// # Panics
/// When there are more than `u32::MAX` commands or blocks, which the builder's limits exclude.
pub fn head(draft: Draft, commands: &[Command], blocks: &[BlockInfo], key: &PublishKey) -> std::io::Result<Vec<u8>> {
    let raw = encode_commands(commands, blocks);
    let packed = compress(&raw)?;
    let table = compress(&postcard::to_stdvec(blocks).expect("the block table is plain data"))?;
    let header = Header {
        commands: u32::try_from(commands.len()).expect("the builder's limit"),
        commands_packed_bytes: packed.len() as u64,
        commands_raw_bytes: raw.len() as u64,
        commands_digest: Digest::of(&packed),
        blocks: u32::try_from(blocks.len()).expect("the builder's limit"),
        blocks_digest: Digest::of(&table),
        data_bytes: blocks.iter().map(|block| u64::from(block.packed_bytes)).sum(),
        ..draft
    };
    let header = postcard::to_stdvec(&header).expect("the header is plain data");
    let signature = key.key.sign(HEADER_DOMAIN, &header);
    let table_bytes = u64::try_from(table.len()).expect("fits");

    let mut file = Vec::with_capacity(header.len() + packed.len() + table.len() + 100);
    file.extend_from_slice(&MAGIC);
    file.extend_from_slice(&FORMAT.to_le_bytes());
    file.extend_from_slice(&u32::try_from(header.len()).expect("the header is short").to_le_bytes());
    file.extend_from_slice(&header);
    file.extend_from_slice(&key.epoch.to_le_bytes());
    file.extend_from_slice(&signature.0);
    file.extend_from_slice(&packed);
    file.extend_from_slice(&table_bytes.to_le_bytes());
    file.extend_from_slice(&table);
    Ok(file)
}
