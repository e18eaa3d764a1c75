//! Why trees cannot be opened, and why an assignment is not carried out.

use std::io;
use std::path::PathBuf;

use common::assignment::{ApplyError, AssignmentError};
use common::digest::Version;
use common::errors::chain;
use common::exclude::ExcludeError;
use common::ids::{AssignmentNumber, ClusterId, Sequence, ServerId, SiteName};
use common::outcome::{Refusal, RefusalCode};
use common::path::ContentPath;
use common::time::WallTime;

use crate::hooks::HookFailed;

/// Why the trees of a hosted site cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The live directory is not strictly below a root that the agent may write below.
    #[error("the live directory {live} does not lie below any of the configured roots")]
    OutsideRoots {
        /// The live directory as configured.
        live: PathBuf,
    },
    /// The live directory is a symbolic link, so that what is switched would not be what is served.
    #[error(
        "the live directory {live} is a symbolic link; the agent's configuration must say `switch = \"symlink\"` for that"
    )]
    LiveIsSymlink {
        /// The live directory as configured.
        live: PathBuf,
    },
    /// Live is to be a link to one of its trees, and is a directory.
    #[error(
        "the live directory {live} is a directory, and its switch is \"symlink\"; make it a link to itself once: in the directory around it, `mv {name} {tree} && ln -s {tree} {name}`",
        name = live.file_name().unwrap_or_default().display()
    )]
    LiveIsDirectory {
        /// The live directory as configured.
        live: PathBuf,
        /// What the tree would be called.
        tree: String,
    },
    /// Live is a link that nobody here made: what it leads to is not this agent's.
    #[error("{live} is a symbolic link to something else than one of its trees")]
    LiveForeignLink {
        /// The live directory as configured.
        live: PathBuf,
    },
    /// Something that is no directory stands where the live directory should be.
    #[error("{live} is no directory")]
    LiveNotDirectory {
        /// The live directory as configured.
        live: PathBuf,
    },
    /// The directory around the live directory is not there or cannot be opened.
    #[error("the directory around {live} cannot be opened")]
    Parent {
        /// The live directory as configured.
        live: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The state directory beside the live directory cannot be made or used.
    #[error("the state directory of {live} cannot be used: {doing}")]
    State {
        /// The live directory as configured.
        live: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// The state directory belongs to somebody else, who could put anything in it.
    #[error("the state directory of {live} belongs to user {owner}, not to this agent")]
    StateOwner {
        /// The live directory as configured.
        live: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// Another process works on these trees.
    #[error("another process holds the trees of {live}")]
    Locked {
        /// The live directory as configured.
        live: PathBuf,
    },
    /// The journal is damaged: the high-water mark is not known, so nothing may be applied.
    #[error("the journal of {live} is damaged")]
    Journal {
        /// The live directory as configured.
        live: PathBuf,
        /// What is wrong with it.
        source: io::Error,
    },
    /// The state belongs to another hosted site.
    #[error("the trees of {live} belong to the site {found}, not to {expected}")]
    OtherSite {
        /// The live directory as configured.
        live: PathBuf,
        /// The site that was asked for.
        expected: SiteName,
        /// The site that the journal names.
        found: SiteName,
    },
    /// A swap that a crash interrupted could not be brought to its end.
    #[error("the interrupted swap of {live} cannot be finished")]
    Recovery {
        /// The live directory as configured.
        live: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

impl OpenError {
    /// The code to report it with.
    #[must_use]
    pub fn code(&self) -> RefusalCode {
        match self {
            Self::OutsideRoots { .. }
            | Self::LiveIsSymlink { .. }
            | Self::LiveIsDirectory { .. }
            | Self::LiveForeignLink { .. }
            | Self::LiveNotDirectory { .. } => RefusalCode::OutsideRoots,
            Self::Parent { source, .. } if source.kind() == io::ErrorKind::NotFound => RefusalCode::LiveMissing,
            Self::State { source, .. } | Self::Recovery { source, .. } if is_full(source) => RefusalCode::NoSpace,
            Self::Parent { .. }
            | Self::State { .. }
            | Self::StateOwner { .. }
            | Self::Locked { .. }
            | Self::Journal { .. }
            | Self::OtherSite { .. }
            | Self::Recovery { .. } => RefusalCode::Io,
        }
    }

    /// It as a refusal, with the whole chain of causes.
    #[must_use]
    pub fn refusal(&self) -> Refusal {
        Refusal { code: self.code(), reason: chain(self) }
    }
}

/// Why an assignment is not carried out. Live is untouched then.
#[derive(Debug, thiserror::Error)]
pub(super) enum ContentError {
    #[error("the assignment is not acceptable")]
    Assignment(#[from] AssignmentError),
    #[error("the assignment is for the site {found}, this is {expected}")]
    WrongSite { expected: SiteName, found: SiteName },
    #[error("the assignment is for the cluster {found}, this server belongs to {expected}")]
    WrongCluster { expected: ClusterId, found: ClusterId },
    #[error("the server {own} is not among the targets")]
    NotATarget { own: ServerId },
    #[error("sequence {found} is not above the high-water mark {mark}")]
    Sequence { found: Sequence, mark: Sequence },
    #[error("the assignment expired at {expires}, it is {now}")]
    Expired { expires: WallTime, now: WallTime },
    #[error("the commit's deadline was {deadline}, it is {now}")]
    CommitTooLate { deadline: WallTime, now: WallTime },
    #[error("it starts from version {expected}, live is {}", describe(.found.as_ref()))]
    BaseMismatch { expected: Version, found: Option<Version> },
    #[error("an inventory must describe the whole tree")]
    InventoryOfChange,
    #[error("the live directory {} does not exist; make it, or publish with --create-live", live.display())]
    LiveMissing { live: PathBuf },
    #[error(
        "the live directory {} holds {example:?}, which was not published from here; publish with --adopt to take the directory over (the old tree is kept as the backup)",
        live.display()
    )]
    LiveNotEmpty { live: PathBuf, example: String },
    #[error("the commands do not fit the tree they start from")]
    Apply(#[from] ApplyError),
    #[error("an exclude pattern cannot be used")]
    Exclude(#[from] ExcludeError),
    #[error("the commands lead to version {found}, the header says {expected}")]
    CommandsResult { expected: Version, found: Version },
    #[error("the tree has {found_entries} entries and {found_bytes} bytes, the header says {entries} and {bytes}")]
    HeaderCounts { entries: u64, bytes: u64, found_entries: u64, found_bytes: u64 },
    #[error("block {block} refers to what the base does not have, or to too much of it")]
    Reference { block: u32 },
    #[error("what was staged is version {found}, the header says {expected}")]
    StagedResult { expected: Version, found: Version },
    #[error("a block for {path} cannot be used")]
    Block { path: ContentPath, source: AssignmentError },
    #[error("{path} is not as it was published: {what}")]
    Altered { path: String, what: &'static str },
    #[error("the excluded {path} stands where the tree has something else")]
    ExcludedInTheWay { path: String },
    #[error(
        "live holds {path}, which nobody published, and the site's policy is to fail then; remove it, or change the policy with `pressrun site set --extra`"
    )]
    Extra { path: String },
    #[error("{name:?} in {at} has a name that content cannot have; it can be neither published nor kept")]
    ExtraName { name: String, at: String },
    #[error(
        "{count} entries that nobody published are more than the {max} that can be kept; exclude the directories that they are in"
    )]
    TooMuchExtra { count: usize, max: usize },
    #[error("{path} is nowhere in the live or backup tree")]
    ContentMissing { path: ContentPath },
    #[error("not enough disk space: {needed} bytes are needed, {free} are free")]
    NoSpace { needed: u64, free: u64 },
    #[error("{needed} inodes are needed, {free} are free")]
    NoInodes { needed: u64, free: u64 },
    #[error("the staged tree did not pass")]
    Hook(#[from] HookFailed),
    #[error("assignment {prepared} is not prepared here")]
    NotPrepared { prepared: AssignmentNumber },
    #[error("assignment {prepared} was undone")]
    WasUndone { prepared: AssignmentNumber },
    #[error("assignment {prepared} staged version {staged}, the commit says {expected}")]
    OtherVersion { prepared: AssignmentNumber, staged: Version, expected: Version },
    #[error("the backup is {}, not version {wanted}", describe(.found.as_ref()))]
    BackupMissing { wanted: Version, found: Option<Version> },
    #[error("the version before assignment {prepared} is not held any more")]
    BeforeMissing { prepared: AssignmentNumber },
    #[error("live was switched while it was looked at; ask for another audit")]
    SwitchedMeanwhile,
    #[error("the live directory is a mount point, or not on the file system of its state directory")]
    LiveIsMountPoint,
    #[error("live and the staged tree cannot be exchanged")]
    CannotExchange(#[source] io::Error),
    #[error("failed {doing} {path}")]
    Io { doing: &'static str, path: String, source: io::Error },
}

fn describe(version: Option<&Version>) -> String {
    version.map_or_else(|| "no published version".to_owned(), Version::to_string)
}

impl ContentError {
    /// Wraps what the system says.
    #[allow(clippy::needless_pass_by_value, reason = "names, paths and references to them alike")]
    pub(super) fn io(doing: &'static str, path: impl ToString) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_string();
        move |source| Self::Io { doing, path, source }
    }

    pub(super) fn code(&self) -> RefusalCode {
        match self {
            Self::Assignment(AssignmentError::Read(_)) | Self::Block { source: AssignmentError::Read(_), .. } => {
                RefusalCode::Io
            }
            Self::Assignment(_)
            | Self::Block { .. }
            | Self::WrongSite { .. }
            | Self::WrongCluster { .. }
            | Self::NotATarget { .. }
            | Self::InventoryOfChange
            | Self::Apply(_)
            | Self::Exclude(_)
            | Self::CommandsResult { .. }
            | Self::HeaderCounts { .. }
            | Self::Reference { .. } => RefusalCode::BadAssignment,
            Self::Sequence { .. } => RefusalCode::Sequence,
            Self::Expired { .. } => RefusalCode::Expired,
            Self::BaseMismatch { .. } => RefusalCode::BaseMismatch,
            Self::LiveMissing { .. } => RefusalCode::LiveMissing,
            Self::LiveNotEmpty { .. } => RefusalCode::LiveNotEmpty,
            Self::Altered { .. } | Self::ExcludedInTheWay { .. } | Self::StagedResult { .. } => {
                RefusalCode::ResultMismatch
            }
            Self::Extra { .. } | Self::ExtraName { .. } | Self::TooMuchExtra { .. } => RefusalCode::ExtraContent,
            Self::ContentMissing { .. } => RefusalCode::ContentMissing,
            Self::NoSpace { .. } | Self::NoInodes { .. } => RefusalCode::NoSpace,
            Self::CommitTooLate { .. }
            | Self::NotPrepared { .. }
            | Self::WasUndone { .. }
            | Self::OtherVersion { .. } => RefusalCode::NotPrepared,
            Self::Hook(_) => RefusalCode::HookFailed,
            Self::BackupMissing { .. } | Self::BeforeMissing { .. } => RefusalCode::BackupMissing,
            Self::CannotExchange(source) | Self::Io { source, .. } if is_full(source) => RefusalCode::NoSpace,
            Self::LiveIsMountPoint | Self::CannotExchange(_) => RefusalCode::CannotExchange,
            Self::SwitchedMeanwhile | Self::Io { .. } => RefusalCode::Io,
        }
    }

    pub(super) fn refusal(&self) -> Refusal {
        Refusal { code: self.code(), reason: chain(self) }
    }
}

/// Out of space, inodes or quota, or over the largest file size.
fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge)
}
