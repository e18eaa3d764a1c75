//! The API's answers, as far as people are shown them. What a later release adds is passed over,
//! and what an earlier one does not have is empty.

use std::collections::BTreeMap;

use serde::Deserialize;

/// A list.
#[derive(Debug, Deserialize)]
pub(crate) struct Items<T> {
    pub(crate) items: Vec<T>,
}

/// An accepted run.
#[derive(Debug, Deserialize)]
pub(crate) struct Accepted {
    pub(crate) run: u64,
    pub(crate) state: String,
}

/// A run; its summary leaves the later members empty.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Run {
    pub(crate) run: u64,
    pub(crate) site: String,
    pub(crate) group: String,
    pub(crate) kind: String,
    pub(crate) state: String,
    pub(crate) created: String,
    pub(crate) seconds: Option<f64>,
    pub(crate) message: Option<String>,
    pub(crate) base: Option<String>,
    pub(crate) result: Option<String>,
    pub(crate) assignment_bytes: Option<u64>,
    pub(crate) phases: Vec<Phase>,
    pub(crate) segments: Vec<RunSegment>,
    pub(crate) servers: Vec<RunServer>,
    pub(crate) warnings: Vec<String>,
}

impl Run {
    /// Whether nothing more will happen.
    pub(crate) fn is_final(&self) -> bool {
        !matches!(self.state.as_str(), "queued" | "running" | "paused")
    }
}

/// A phase of a run.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Phase {
    pub(crate) name: String,
    pub(crate) started: Option<String>,
    pub(crate) ended: Option<String>,
    pub(crate) seconds: Option<f64>,
    pub(crate) bytes: Option<u64>,
}

/// A run on one network segment.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RunSegment {
    pub(crate) segment: String,
    pub(crate) leader: Option<String>,
    pub(crate) state: String,
    pub(crate) sent_bytes: u64,
    pub(crate) passes: u64,
    pub(crate) repaired: u64,
}

/// A run on one server.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RunServer {
    pub(crate) server: String,
    pub(crate) segment: String,
    pub(crate) state: String,
    pub(crate) reason: Option<String>,
    pub(crate) audit: Option<AuditReport>,
}

/// What a server found in its live tree.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct AuditReport {
    pub(crate) counts: BTreeMap<String, u64>,
    pub(crate) findings: Vec<Finding>,
}

/// One path that is not as it was signed.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Finding {
    pub(crate) difference: String,
    pub(crate) path: String,
}

/// A hosted site.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Site {
    pub(crate) name: String,
    pub(crate) staging: String,
    pub(crate) live: String,
    pub(crate) exclude: Vec<String>,
    pub(crate) wan: String,
    pub(crate) extra: String,
    pub(crate) linger_seconds: u64,
    pub(crate) groups: Vec<Group>,
}

/// A content group.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Group {
    pub(crate) name: String,
    pub(crate) site: String,
    pub(crate) servers: Vec<String>,
    pub(crate) channel: Option<String>,
    pub(crate) version: Option<String>,
    pub(crate) published: Option<String>,
}

/// What a publish would change.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Diff {
    pub(crate) site: String,
    pub(crate) group: String,
    pub(crate) base: Option<String>,
    pub(crate) result: String,
    pub(crate) added: Vec<DiffEntry>,
    pub(crate) changed: Vec<DiffEntry>,
    pub(crate) removed: Vec<DiffEntry>,
    pub(crate) moved: Vec<DiffMoved>,
    pub(crate) attributes: Vec<DiffEntry>,
    pub(crate) content_bytes: u64,
}

/// One path of a diff.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct DiffEntry {
    pub(crate) path: String,
    pub(crate) size: u64,
    pub(crate) old_size: u64,
    pub(crate) text: Option<String>,
}

/// A path that moved.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct DiffMoved {
    pub(crate) from: String,
    pub(crate) to: String,
}

/// A checkpoint.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Checkpoint {
    pub(crate) name: String,
    pub(crate) group: Option<String>,
    pub(crate) version: Option<String>,
    pub(crate) created: String,
    pub(crate) run: Option<u64>,
}

/// A server.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Server {
    pub(crate) server: String,
    pub(crate) segment: String,
    pub(crate) state: String,
    pub(crate) leader: bool,
    pub(crate) sites: Vec<ServerSite>,
    pub(crate) disk_free_bytes: Option<u64>,
    pub(crate) software: Option<String>,
    pub(crate) location: Option<String>,
    pub(crate) last_seen: Option<String>,
}

/// What a server holds of a site.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ServerSite {
    pub(crate) site: String,
    pub(crate) live: Option<String>,
    pub(crate) stale: bool,
}

/// A network segment.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Segment {
    pub(crate) segment: String,
    pub(crate) leader: Option<String>,
    pub(crate) epoch: u64,
    pub(crate) servers: u64,
    pub(crate) online: u64,
}

/// Everything in one line.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Status {
    pub(crate) version: String,
    pub(crate) cluster: String,
    pub(crate) servers: ServerCounts,
    pub(crate) segments: u64,
    pub(crate) sites: u64,
    pub(crate) runs: RunCounts,
    pub(crate) last_run: Option<Run>,
}

/// Servers by state.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ServerCounts {
    pub(crate) online: u64,
    pub(crate) offline: u64,
    pub(crate) stale: u64,
}

/// Runs that are not over.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RunCounts {
    pub(crate) queued: u64,
    pub(crate) running: u64,
}

/// A join token, new or listed.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Token {
    pub(crate) id: String,
    pub(crate) token: String,
    pub(crate) segment: Option<String>,
    pub(crate) uses: u64,
    pub(crate) uses_left: u64,
    pub(crate) expires: String,
}

/// Something that happens by itself.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Schedule {
    pub(crate) name: String,
    pub(crate) site: String,
    pub(crate) group: Option<String>,
    pub(crate) action: String,
    pub(crate) words: String,
    pub(crate) paused: bool,
    pub(crate) due: Option<String>,
    pub(crate) upcoming: Vec<String>,
    pub(crate) last: Option<Last>,
}

/// What an event tells of a schedule.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ScheduleEvent {
    pub(crate) name: String,
    pub(crate) site: String,
    pub(crate) last: Option<Last>,
}

/// What came of a schedule's last time.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Last {
    pub(crate) due: String,
    pub(crate) message: String,
}

/// Why schedules do not publish to a group.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Hold {
    pub(crate) site: String,
    pub(crate) group: String,
    pub(crate) reason: String,
    pub(crate) since: String,
}
