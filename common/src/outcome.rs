//! What became of an assignment on one server, as reported up to the CCM.

use serde::{Deserialize, Serialize};

use crate::audit::AuditReport;
use crate::digest::Version;
use crate::ids::{AssignmentNumber, Sequence, ServerId, SiteName};

/// A machine-readable reason for a refusal. Grows at the end only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefusalCode {
    /// The assignment's form, signature or limits are wrong.
    BadAssignment,
    /// Not above the server's high-water mark: replayed or overtaken.
    Sequence,
    /// The live tree is not the version that the assignment starts from.
    BaseMismatch,
    /// The live directory is not there.
    LiveMissing,
    /// The live directory holds content that nobody asked to adopt.
    LiveNotEmpty,
    /// The live directory lies outside the roots that the agent may write below.
    OutsideRoots,
    /// Not enough space or inodes.
    NoSpace,
    /// What was staged is not what was signed: the live tree was altered behind our back, or content
    /// is damaged.
    ResultMismatch,
    /// Content that the assignment takes for present is not there.
    ContentMissing,
    /// Nothing prepared fits this commit, or its deadline has passed.
    NotPrepared,
    /// The version to go back to is not in the backup.
    BackupMissing,
    /// The file system cannot exchange directories there.
    CannotExchange,
    /// Reading or writing failed.
    Io,
    /// The server is taken out of service or does not take part by choice.
    Declined,
    /// The ticket's or assignment's time is over.
    Expired,
    /// A hook of the server's administrator did not let the staged tree pass.
    HookFailed,
    /// Live holds what nobody published, and the site's policy is to fail then, or more than can be kept.
    ExtraContent,
}

/// Why a server did not do what was ordered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// For programs.
    pub code: RefusalCode,
    /// For people: the whole chain of causes, in one line.
    pub reason: String,
}

/// What became of an assignment on one server. A later one replaces an earlier one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// All bytes are there and verified; the work goes on.
    Received,
    /// For an inventory: which files of the manifest the server would need the content of, as
    /// indexes into the assignment's commands, in ascending runs (first, count).
    Missing(Vec<(u32, u32)>),
    /// Staged, verified, durable. Live is untouched.
    Prepared {
        /// The version that a commit would bring live.
        version: Version,
    },
    /// Live is this version now, durably.
    Committed {
        /// The version that is live.
        version: Version,
    },
    /// The undo is done: live is this version (again), nothing is prepared.
    Undone {
        /// The version that is live, `None` if nothing was ever published there.
        version: Option<Version>,
    },
    /// Live is untouched, nothing of it is prepared.
    Refused(Refusal),
    /// As [`Outcome::Committed`], and then a hook of the server's administrator failed.
    CommittedHookFailed {
        /// The version that is live.
        version: Version,
        /// For people: which hook, how, and the last that it said, in one line.
        reason: String,
    },
    /// For an audit: how live differs from what was signed.
    Audited(AuditReport),
}

impl Outcome {
    /// The version that is live because of a commit.
    #[must_use]
    pub fn committed(&self) -> Option<Version> {
        match self {
            Self::Committed { version } | Self::CommittedHookFailed { version, .. } => Some(*version),
            Self::Received
            | Self::Missing(_)
            | Self::Prepared { .. }
            | Self::Undone { .. }
            | Self::Refused(_)
            | Self::Audited(_) => None,
        }
    }
}

/// One server's report about one assignment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Who reports.
    pub server: ServerId,
    /// About what.
    pub assignment: AssignmentNumber,
    /// What became of it.
    pub outcome: Outcome,
}

/// What a server holds of one hosted site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteState {
    /// The site.
    pub site: SiteName,
    /// The version that is live; `None` before the first publish.
    pub live: Option<Version>,
    /// The version in the backup tree.
    pub backup: Option<Version>,
    /// What is staged and waits for its commit.
    pub prepared: Option<(AssignmentNumber, Version)>,
    /// The durable high-water mark: highest sequence that was acted upon.
    pub sequence: Sequence,
}
