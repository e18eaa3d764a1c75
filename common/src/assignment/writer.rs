//! Writing assignments: everything before the data blocks is made at once, when they are known.

use serde::Serialize;

use super::{Base, BlockInfo, Command, Extra, FORMAT, HEADER_DOMAIN, Header, Kind, LivePolicy, MAGIC, encode_commands};
use crate::digest::{Digest, Version};
use crate::ids::{AssignmentNumber, ClusterId, GroupName, RunNumber, Sequence, ServerId, SiteName};
use crate::keys::PublishKey;
use crate::manifest::Manifest;
use crate::time::WallTime;

/// What whoever orders an assignment says about it; each field stands in the [`Header`] as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Draft {
    /// The cluster it is for.
    pub cluster: ClusterId,
    /// The hosted site.
    pub site: SiteName,
    /// The content group.
    pub group: GroupName,
    /// Its number.
    pub number: AssignmentNumber,
    /// The run it belongs to.
    pub run: RunNumber,
    /// What it orders.
    pub kind: Kind,
    /// Place in the site's order of assignments.
    pub sequence: Sequence,
    /// The servers that shall apply it, in ascending order.
    pub targets: Vec<ServerId>,
    /// About the live directory.
    pub live: LivePolicy,
    /// Made at.
    pub created: WallTime,
    /// Refused after this.
    pub expires: WallTime,
    /// What becomes of what nobody published.
    pub extra: Extra,
    /// How long files that this removes can still be reached, in seconds; 0: not at all.
    pub linger_seconds: u32,
}

/// What an assignment leads from and to, which whoever builds it knows; each field stands in the
/// [`Header`] as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Effect {
    /// What it starts from.
    pub base: Base,
    /// What it leads to.
    pub result: Version,
    /// Entries of the result tree.
    pub result_entries: u64,
    /// Content bytes of the result tree.
    pub result_bytes: u64,
    /// Bytes that a server needs free to stage it.
    pub space_bytes: u64,
}

impl Effect {
    /// Of an order that brings no tree, and so says nothing of its size.
    #[must_use]
    pub fn of_order(result: Version) -> Self {
        Self { base: Base::Any, result, result_entries: 0, result_bytes: 0, space_bytes: 0 }
    }

    /// Of what makes `result`.
    #[must_use]
    pub fn of_tree(base: Base, result: &Manifest, space_bytes: u64) -> Self {
        Self {
            base,
            result: result.version(),
            result_entries: result.entries.len() as u64,
            result_bytes: result.content_bytes(),
            space_bytes,
        }
    }
}

/// The best for what is short; the longer it is, the more time counts.
const LEVEL_SHORT: i32 = 19;
const LEVEL_MIDDLE: i32 = 9;
const LEVEL_LONG: i32 = 5;
const SHORT_BYTES_MAX: usize = 32 << 10;
const MIDDLE_BYTES_MAX: usize = 1 << 20;

fn compress(raw: &[u8]) -> std::io::Result<Vec<u8>> {
    let level = if raw.len() <= SHORT_BYTES_MAX {
        LEVEL_SHORT
    } else if raw.len() <= MIDDLE_BYTES_MAX {
        LEVEL_MIDDLE
    } else {
        LEVEL_LONG
    };
    zstd::bulk::compress(raw, level)
}

/// The file up to its data: header, signature, packed commands and block table. The packed blocks
/// follow in the order of `blocks`.
///
/// # Errors
/// Only when the compressor cannot get memory.
///
/// # Panics
/// When there are more than `u32::MAX` commands or blocks, which the builder's limits exclude.
pub fn head(
    draft: Draft,
    effect: Effect,
    commands: &[Command],
    blocks: &[BlockInfo],
    key: &PublishKey,
) -> std::io::Result<Vec<u8>> {
    let raw = encode_commands(commands, blocks);
    let packed = compress(&raw)?;
    let table = compress(&postcard::to_stdvec(blocks).expect("the block table is plain data"))?;
    let Draft {
        cluster,
        site,
        group,
        number,
        run,
        kind,
        sequence,
        targets,
        live,
        created,
        expires,
        extra,
        linger_seconds,
    } = draft;
    let Effect { base, result, result_entries, result_bytes, space_bytes } = effect;
    let header = Header {
        cluster,
        site,
        group,
        number,
        run,
        kind,
        sequence,
        base,
        result,
        targets,
        live,
        result_entries,
        result_bytes,
        space_bytes,
        commands: u32::try_from(commands.len()).expect("the builder's limit"),
        commands_packed_bytes: packed.len() as u64,
        commands_raw_bytes: raw.len() as u64,
        commands_digest: Digest::of(&packed),
        blocks: u32::try_from(blocks.len()).expect("the builder's limit"),
        blocks_digest: Digest::of(&table),
        data_bytes: blocks.iter().map(|block| u64::from(block.packed_bytes)).sum(),
        created,
        expires,
        extra,
        linger_seconds,
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
