//! What the API asks of the part that carries runs out.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use common::digest::Version;
use common::ids::{CheckpointName, GroupName, RunNumber, SegmentName, ServerId, ServerName, SiteName};
use common::path::ContentPath;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::engine::own::Whom;
use crate::engine::quorum::Quorum;
use crate::store::{Checkpoint, RunState};

/// Bring the staging tree live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublishRequest {
    /// The site; it exists.
    pub site: SiteName,
    /// The group; `None`: the site's only one, or the implicit `all`.
    pub group: Option<GroupName>,
    /// How many servers must follow; `None`: the default.
    pub quorum: Option<Quorum>,
    /// Whether live directories that another tool filled are taken over.
    pub adopt: bool,
    /// Whether missing live directories are made.
    pub create_live: bool,
    /// How long servers may take to prepare; `None`: the default.
    pub timeout: Option<Duration>,
    /// Whether it is only staged, and a switch brings it live later.
    pub stage_only: bool,
    /// Whether each server goes live by itself as soon as it can, without waiting for the others.
    pub autonomous: bool,
}

/// Take a site's content off servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoveRequest {
    /// The site; it exists.
    pub site: SiteName,
    /// As for a publish.
    pub group: Option<GroupName>,
    /// Which servers of the group; empty: all.
    pub servers: Vec<ServerName>,
    /// Whether what was live stays on the servers as their backup.
    pub keep_content: bool,
    /// As for a publish, of these servers.
    pub quorum: Option<Quorum>,
}

/// Bring some paths of staging live on some servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HotRequest {
    /// The site; it exists.
    pub site: SiteName,
    /// As for a publish.
    pub group: Option<GroupName>,
    /// Which servers.
    pub whom: Whom,
    /// Files and directories of staging; at least one.
    pub paths: BTreeSet<ContentPath>,
    /// As for a publish, of these servers.
    pub quorum: Option<Quorum>,
}

/// Bring live what is staged, or the backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SwitchRequest {
    /// The site; it exists.
    pub site: SiteName,
    /// As for a publish.
    pub group: Option<GroupName>,
    /// Only these servers of the group, to their backup; empty: all.
    pub servers: Vec<ServerName>,
    /// As for a publish.
    pub quorum: Option<Quorum>,
}

/// Go back to the version before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RollbackRequest {
    /// The site; it exists.
    pub site: SiteName,
    /// As for a publish.
    pub group: Option<GroupName>,
    /// As for a publish.
    pub quorum: Option<Quorum>,
}

/// Go back to a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreRequest {
    /// The site; it exists.
    pub site: SiteName,
    /// The checkpoint; it exists.
    pub checkpoint: CheckpointName,
    /// As for a publish; `None`: the checkpoint's own.
    pub group: Option<GroupName>,
    /// As for a publish.
    pub quorum: Option<Quorum>,
}

/// Look whether live trees are what they should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRequest {
    /// The site; it exists.
    pub site: SiteName,
    /// As for a publish.
    pub group: Option<GroupName>,
    /// Whether every file is read.
    pub full: bool,
    /// Whether what has drifted is brought back.
    pub repair: bool,
    /// How long servers may take to look; `None`: the default.
    pub timeout: Option<Duration>,
}

/// Bring servers to what is live in their group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MendRequest {
    /// The site; it exists.
    pub site: SiteName,
    /// As for a publish.
    pub group: Option<GroupName>,
    /// Which servers of the group; empty: all.
    pub servers: Vec<ServerName>,
    /// Whether all content is sent, whatever they have; else only those that have something else live get
    /// what they lack.
    pub replicate: bool,
}

/// Keep what is live under a label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointRequest {
    /// The site; it exists.
    pub site: SiteName,
    /// As for a publish.
    pub group: Option<GroupName>,
    /// The label, not taken yet; `None`: one is made up.
    pub name: Option<CheckpointName>,
}

/// Show what a publish would change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiffRequest {
    /// The site; it exists.
    pub site: SiteName,
    /// As for a publish.
    pub group: Option<GroupName>,
    /// Whether changed texts are shown line by line.
    pub text: bool,
}

/// A run that was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// Its number.
    pub run: RunNumber,
    /// Where it stands.
    pub state: RunState,
}

/// A file that a publish would add.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiffAdded {
    /// Path below the site's root.
    pub path: String,
    /// In bytes.
    pub size: u64,
}

/// A file whose content a publish would change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiffChanged {
    /// Path below the site's root.
    pub path: String,
    /// In bytes.
    pub size: u64,
    /// In bytes, of what is live.
    pub old_size: u64,
    /// Unified diff, when asked for and both are text of a reasonable size.
    pub text: Option<String>,
}

/// A path that a publish would remove, or change in nothing but its attributes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiffPath {
    /// Path below the site's root.
    pub path: String,
}

/// A file that a publish would find under another path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiffMoved {
    /// Where it is live.
    pub from: String,
    /// Where it would be.
    pub to: String,
}

/// What a publish would change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiffReport {
    /// The site.
    pub site: SiteName,
    /// The group it was compared with.
    pub group: GroupName,
    /// What is live; `None` before the first publish.
    pub base: Option<Version>,
    /// What would be.
    pub result: Version,
    /// By path.
    pub added: Vec<DiffAdded>,
    /// By path.
    pub changed: Vec<DiffChanged>,
    /// By path.
    pub removed: Vec<DiffPath>,
    /// By new path.
    pub moved: Vec<DiffMoved>,
    /// By path.
    pub attributes: Vec<DiffPath>,
    /// Bytes of content that no server has yet.
    pub content_bytes: u64,
}

/// Why an operation was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct OperationError {
    /// HTTP status: 400, 404, 409, 422, 500, 503…
    pub status: u16,
    /// For programs, in kebab case.
    pub code: &'static str,
    /// For people: what is wrong, with what, and what to do about it.
    pub detail: String,
    /// The run that stands in the way.
    pub run: Option<RunNumber>,
}

impl OperationError {
    /// What was asked for is not there (404).
    #[must_use]
    pub fn not_found(code: &'static str, detail: impl Into<String>) -> Self {
        Self { status: 404, code, detail: detail.into(), run: None }
    }

    /// What was asked for does not go together with what is (409).
    #[must_use]
    pub fn conflict(code: &'static str, detail: impl Into<String>, run: Option<RunNumber>) -> Self {
        Self { status: 409, code, detail: detail.into(), run }
    }

    /// What was asked for makes no sense (422).
    #[must_use]
    pub fn refused(code: &'static str, detail: impl Into<String>) -> Self {
        Self { status: 422, code, detail: detail.into(), run: None }
    }

    /// Our own failure (500). The detail is shown to the caller.
    #[must_use]
    pub fn failed(detail: impl Into<String>) -> Self {
        Self { status: 500, code: "internal", detail: detail.into(), run: None }
    }
}

/// Carries out what the API accepts. The API has checked forms, names and permissions before.
pub trait Operations: Send + Sync {
    /// Accepts a publish: durable and queued when this is done.
    fn publish(&self, request: PublishRequest) -> BoxFuture<'_, Result<Accepted, OperationError>>;

    /// Accepts a rollback.
    fn rollback(&self, request: RollbackRequest) -> BoxFuture<'_, Result<Accepted, OperationError>>;

    /// Accepts a restore.
    fn restore(&self, request: RestoreRequest) -> BoxFuture<'_, Result<Accepted, OperationError>>;

    /// Accepts an audit.
    fn audit(&self, request: AuditRequest) -> BoxFuture<'_, Result<Accepted, OperationError>>;

    /// Accepts bringing servers to what their group has.
    fn mend(&self, request: MendRequest) -> BoxFuture<'_, Result<Accepted, OperationError>>;

    /// Accepts taking content off servers.
    fn remove(&self, request: RemoveRequest) -> BoxFuture<'_, Result<Accepted, OperationError>>;

    /// Accepts a hot publish.
    fn hot(&self, request: HotRequest) -> BoxFuture<'_, Result<Accepted, OperationError>>;

    /// Accepts a switch.
    fn switch(&self, request: SwitchRequest) -> BoxFuture<'_, Result<Accepted, OperationError>>;

    /// Lets a run that is not over rest, or go on.
    fn rest(&self, run: RunNumber, rest: bool) -> BoxFuture<'_, Result<(), OperationError>>;

    /// Makes a checkpoint.
    fn checkpoint(&self, request: CheckpointRequest) -> BoxFuture<'_, Result<Checkpoint, OperationError>>;

    /// Compares staging with what is live.
    fn diff(&self, request: DiffRequest) -> BoxFuture<'_, Result<DiffReport, OperationError>>;

    /// Asks a run that is not over to stop.
    fn cancel(&self, run: RunNumber) -> BoxFuture<'_, Result<(), OperationError>>;

    /// Tells the leader of a segment to move it to another control channel.
    fn move_segment(&self, segment: SegmentName, control: SocketAddr) -> Result<(), OperationError>;

    /// The servers that are alive at this moment.
    fn online(&self) -> BTreeSet<ServerId>;

    /// A schedule is new or changed: the clock looks at it again.
    fn timetable_changed(&self);

    /// Changes its value after every change of a run or of the fleet, and after the event that tells
    /// of it is in the store.
    fn changes(&self) -> watch::Receiver<u64>;
}
