//! A run as the API shows it and as it is stored: one execution of a job.

use common::audit::AuditReport;
use common::digest::Version;
use common::ids::{GroupName, JobNumber, RunNumber, SegmentName, ServerName, SiteName};
use common::time::WallTime;
use serde::{Deserialize, Serialize};

use super::rfc3339;

/// What a run is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunKind {
    /// The staging tree goes live.
    Publish,
    /// Servers that missed a run are brought to what is live.
    Synchronize,
    /// Back to the version before.
    Rollback,
    /// Back to a checkpoint.
    Restore,
    /// Live trees are compared with the version that they should be, and repaired if asked.
    Audit,
    /// What is live is sent whole, whatever the servers have.
    Replicate,
    /// The site's content is taken off servers.
    Remove,
    /// Some paths of staging go live on some servers.
    Hot,
    /// What is staged goes live, or the backup.
    Switch,
}

impl RunKind {
    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Synchronize => "synchronize",
            Self::Rollback => "rollback",
            Self::Restore => "restore",
            Self::Audit => "audit",
            Self::Replicate => "replicate",
            Self::Remove => "remove",
            Self::Hot => "hot",
            Self::Switch => "switch",
        }
    }
}

/// Where a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunState {
    /// Waits for its turn.
    Queued,
    /// Under way.
    Running,
    /// Rests until somebody resumes or cancels it.
    Paused,
    /// Over: every server follows.
    Done,
    /// Over: the quorum follows, some servers failed.
    Partial,
    /// Over: nothing changed anywhere.
    Failed,
    /// Over: what had switched was switched back.
    RolledBack,
    /// Over: somebody cancelled it.
    Cancelled,
    /// Over: its time was up before the quorum had prepared.
    Timeout,
}

impl RunState {
    /// Whether nothing more will happen.
    #[must_use]
    pub fn is_final(self) -> bool {
        match self {
            Self::Queued | Self::Running | Self::Paused => false,
            Self::Done | Self::Partial | Self::Failed | Self::RolledBack | Self::Cancelled | Self::Timeout => true,
        }
    }
}

/// A stretch of a run: ingest, build, wan, multicast, prepare, commit or finish.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Phase {
    /// Which.
    pub name: String,
    /// When it began.
    #[serde(with = "rfc3339")]
    pub started: WallTime,
    /// When it ended.
    #[serde(with = "rfc3339::option")]
    pub ended: Option<WallTime>,
    /// How long it took, in seconds.
    pub seconds: Option<f64>,
    /// Bytes that it read or sent.
    pub bytes: u64,
}

/// What a run does on one network segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunSegment {
    /// The segment.
    pub segment: SegmentName,
    /// Its group leader, if it has one.
    pub leader: Option<ServerName>,
    /// For people.
    pub state: String,
    /// Payload bytes put on its data channel, repairs included.
    pub sent_bytes: u64,
    /// Passes over the data: 1 when nothing was lost.
    pub passes: u32,
    /// Symbols sent again.
    pub repaired: u64,
}

/// What a run does on one server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunServer {
    /// The server.
    pub server: ServerName,
    /// Its segment.
    pub segment: SegmentName,
    /// For people and programs: waiting, received, prepared, committed, undone, failed…
    pub state: String,
    /// Why it failed, for people.
    pub reason: Option<String>,
    /// For an audit: what was found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit: Option<AuditReport>,
}

/// A run, whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Its number.
    pub run: RunNumber,
    /// The job it executes.
    pub job: JobNumber,
    /// The hosted site.
    pub site: SiteName,
    /// The content group.
    pub group: GroupName,
    /// What for.
    pub kind: RunKind,
    /// Where it stands.
    pub state: RunState,
    /// When it was asked for.
    #[serde(with = "rfc3339")]
    pub created: WallTime,
    /// When it left the queue.
    #[serde(with = "rfc3339::option")]
    pub started: Option<WallTime>,
    /// When it was over.
    #[serde(with = "rfc3339::option")]
    pub ended: Option<WallTime>,
    /// From start to end, in seconds.
    pub seconds: Option<f64>,
    /// One sentence about where it stands.
    pub message: String,
    /// The version it started from.
    pub base: Option<Version>,
    /// The version it leads to.
    pub result: Option<Version>,
    /// Length of its content assignment in bytes.
    pub assignment_bytes: u64,
    /// In the order they began.
    pub phases: Vec<Phase>,
    /// The segments that take part.
    pub segments: Vec<RunSegment>,
    /// The servers that take part.
    pub servers: Vec<RunServer>,
    /// How many servers must follow.
    pub quorum: u32,
    /// What its owner should look at.
    pub warnings: Vec<String>,
}

/// A run in one line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunSummary {
    /// Its number.
    pub run: RunNumber,
    /// The job it executes.
    pub job: JobNumber,
    /// The hosted site.
    pub site: SiteName,
    /// The content group.
    pub group: GroupName,
    /// What for.
    pub kind: RunKind,
    /// Where it stands.
    pub state: RunState,
    /// When it was asked for.
    #[serde(with = "rfc3339")]
    pub created: WallTime,
    /// When it left the queue.
    #[serde(with = "rfc3339::option")]
    pub started: Option<WallTime>,
    /// When it was over.
    #[serde(with = "rfc3339::option")]
    pub ended: Option<WallTime>,
    /// From start to end, in seconds.
    pub seconds: Option<f64>,
    /// One sentence about where it stands.
    pub message: String,
}

impl From<&Run> for RunSummary {
    fn from(run: &Run) -> Self {
        Self {
            run: run.run,
            job: run.job,
            site: run.site.clone(),
            group: run.group.clone(),
            kind: run.kind,
            state: run.state,
            created: run.created,
            started: run.started,
            ended: run.ended,
            seconds: run.seconds,
            message: run.message.clone(),
        }
    }
}
