//! The signed part of an assignment.

use serde::{Deserialize, Serialize};

use crate::digest::{Digest, Version};
use crate::ids::{AssignmentNumber, ClusterId, GroupName, RunNumber, Sequence, ServerId, SiteName};
use crate::time::WallTime;

/// What an assignment orders. Grows at the end only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// Stage the result version in temp and wait for the commit.
    Prepare,
    /// Report which files of the result could not be made from local content; stage nothing.
    Inventory,
    /// Put what assignment `prepared` staged live.
    Commit {
        /// The prepared assignment.
        prepared: AssignmentNumber,
    },
    /// Make live what it was before assignment `prepared`; where it is not live yet, drop it.
    Undo {
        /// The prepared assignment.
        prepared: AssignmentNumber,
    },
    /// Stage the backup tree, which must be the result version, and wait for the commit.
    Rollback,
    /// Compare live with the version that it should be, and report how it differs; change nothing.
    Audit {
        /// Read every file, instead of only those whose size, times or inode are not as they were
        /// when they were last read.
        full: bool,
    },
    /// Keep nothing but what is live, which must be the result version: the backup, what is staged and what
    /// lingers go.
    Discard,
    /// Stage the result version and bring it live at once, without waiting for other servers.
    Alone,
}

/// What the live tree must be for an assignment to apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Base {
    /// Exactly this version. Commands change it.
    Version(Version),
    /// Whatever is there: commands describe the whole result, and content may come from what is
    /// found locally by digest (first publish, adoption, synchronise, replicate).
    Any,
}

/// What becomes of what live holds and nobody published: files that somebody put there by hand, or that
/// an application made outside of the excluded paths. Grows at the end only.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Extra {
    /// It does not come along to the next version; until the one after that it is in the backup.
    #[default]
    Remove,
    /// It comes along, and is no drift.
    Keep,
    /// The server does not prepare, and says what it found.
    Fail,
}

impl Extra {
    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Remove => "remove",
            Self::Keep => "keep",
            Self::Fail => "fail",
        }
    }

    /// The one that is written so.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        [Self::Remove, Self::Keep, Self::Fail].into_iter().find(|extra| extra.as_str() == name)
    }
}

/// What to do about the live directory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LivePolicy {
    /// The live directory, absolute; `{server}` stands for the server's name. An agent's own
    /// configuration for the site takes precedence.
    pub directory: String,
    /// Make the directory if it is not there.
    pub create: bool,
    /// Accept content that another tool put there; it becomes the backup.
    pub adopt: bool,
    /// Patterns of paths that are left alone ([`crate::exclude`]).
    pub exclude: Vec<String>,
}

/// The signed part of an assignment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
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
    /// Place in the site's order of assignments; a server acts only above its high-water mark.
    pub sequence: Sequence,
    /// What it starts from.
    pub base: Base,
    /// What it leads to. For [`Kind::Undo`] the version before the run, or the empty tree's.
    pub result: Version,
    /// The servers that shall apply it, in ascending order.
    pub targets: Vec<ServerId>,
    /// About the live directory.
    pub live: LivePolicy,
    /// Entries of the result tree.
    pub result_entries: u64,
    /// Content bytes of the result tree.
    pub result_bytes: u64,
    /// Bytes that a server needs free to stage it, beyond what it has in live.
    pub space_bytes: u64,
    /// Number of commands.
    pub commands: u32,
    /// Length of the packed commands in bytes.
    pub commands_packed_bytes: u64,
    /// Length of the unpacked commands in bytes.
    pub commands_raw_bytes: u64,
    /// Digest of the packed commands.
    pub commands_digest: Digest,
    /// Number of data blocks.
    pub blocks: u32,
    /// Digest of the packed block table.
    pub blocks_digest: Digest,
    /// Length of all packed data blocks in bytes.
    pub data_bytes: u64,
    /// Made at.
    pub created: WallTime,
    /// Refused after this: a commit's deadline, an assignment's time to live.
    pub expires: WallTime,
    /// What becomes of what nobody published. Since format 3.
    pub extra: Extra,
    /// How long files that this removes can still be reached, in seconds; 0: not at all. Since format 3.
    pub linger_seconds: u32,
}

/// What a reader accepts before it stores a byte for it. One place, all bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Header length in bytes. Default 4 MiB: 100,000 targets.
    pub header_bytes_max: u32,
    /// Number of commands. Default 10 million.
    pub commands_max: u32,
    /// Packed commands in bytes. Default 1 GiB.
    pub commands_packed_bytes_max: u64,
    /// Unpacked commands in bytes. Default 4 GiB.
    pub commands_raw_bytes_max: u64,
    /// Number of blocks. Default 4 million.
    pub blocks_max: u32,
    /// Unpacked block table in bytes. Default 1 GiB.
    pub blocks_raw_bytes_max: u64,
    /// Content bytes of the result tree. Default 16 TiB.
    pub result_bytes_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_bytes_max: 4 << 20,
            commands_max: 10_000_000,
            commands_packed_bytes_max: 1 << 30,
            commands_raw_bytes_max: 4 << 30,
            blocks_max: 4 << 20,
            blocks_raw_bytes_max: 1 << 30,
            result_bytes_max: 16 << 40,
        }
    }
}
