//! What a run shows of itself: phases, segments, servers.

use std::collections::BTreeMap;

use common::audit::AuditReport;
use common::control::SessionStats;
use common::ids::{SegmentName, ServerId, ServerName};
use common::time::WallTime;

use crate::store::{Phase, Run, RunSegment, RunServer, ServerRecord};

/// State of a server of which nothing was heard yet.
const WAITING: &str = "waiting";

/// Collects what a run shows. Times come from the caller.
#[derive(Debug)]
pub(super) struct Recorder {
    phases: Vec<Phase>,
    segments: BTreeMap<SegmentName, RunSegment>,
    servers: BTreeMap<ServerId, RunServer>,
    warnings: Vec<String>,
    changed: bool,
}

impl Recorder {
    /// Goes on with what the run shows already.
    pub(super) fn new(run: &Run, members: &[ServerRecord]) -> Self {
        let known: BTreeMap<&ServerName, &RunServer> = run.servers.iter().map(|entry| (&entry.server, entry)).collect();
        let servers = members
            .iter()
            .map(|member| {
                let entry = known.get(&member.name).map_or_else(
                    || RunServer {
                        server: member.name.clone(),
                        segment: member.segment.clone(),
                        state: WAITING.to_owned(),
                        reason: None,
                        audit: None,
                    },
                    |entry| (*entry).clone(),
                );
                (member.id, entry)
            })
            .collect();
        Self {
            phases: run.phases.clone(),
            segments: run.segments.iter().map(|entry| (entry.segment.clone(), entry.clone())).collect(),
            servers,
            warnings: run.warnings.clone(),
            changed: false,
        }
    }

    /// Writes everything into the run.
    pub(super) fn write(&self, run: &mut Run) {
        run.phases.clone_from(&self.phases);
        run.segments = self.segments.values().cloned().collect();
        run.servers = self.servers.values().cloned().collect();
        run.warnings.clone_from(&self.warnings);
    }

    /// Whether anything changed since this was last asked.
    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    fn phase(&mut self, name: &str) -> Option<&mut Phase> {
        self.phases.iter_mut().find(|phase| phase.name == name)
    }

    /// A phase begins, unless it has begun before a restart.
    pub(super) fn start(&mut self, name: &str, at: WallTime) {
        if self.phase(name).is_none() {
            self.phases.push(Phase { name: name.to_owned(), started: at, ended: None, seconds: None, bytes: 0 });
            self.changed = true;
        }
    }

    /// Whether the phase has begun and not ended.
    pub(super) fn is_open(&mut self, name: &str) -> bool {
        self.phase(name).is_some_and(|phase| phase.ended.is_none())
    }

    /// A phase ends having moved so many bytes.
    pub(super) fn end(&mut self, name: &str, bytes: u64, at: WallTime) {
        self.set_bytes(name, bytes);
        self.end_if_open(name, at);
    }

    /// A phase ends, if it is open.
    pub(super) fn end_if_open(&mut self, name: &str, at: WallTime) {
        if let Some(phase) = self.phase(name)
            && phase.ended.is_none()
        {
            phase.ended = Some(at);
            phase.seconds = Some(at.0.saturating_sub(phase.started.0) as f64 / 1000.0);
            self.changed = true;
        }
    }

    /// Bytes that a phase moved so far.
    pub(super) fn set_bytes(&mut self, name: &str, bytes: u64) {
        if let Some(phase) = self.phase(name) {
            phase.bytes = bytes;
        }
    }

    /// The run is over, and so is every phase.
    pub(super) fn close_phases(&mut self, at: WallTime) {
        let open: Vec<String> =
            self.phases.iter().filter(|phase| phase.ended.is_none()).map(|phase| phase.name.clone()).collect();
        for name in open {
            self.end_if_open(&name, at);
        }
    }

    /// Where a server stands.
    pub(super) fn server(&mut self, server: ServerId, state: &str, reason: Option<String>) {
        if let Some(entry) = self.servers.get_mut(&server)
            && (entry.state != state || entry.reason != reason)
        {
            entry.state = state.to_owned();
            entry.reason = reason;
            self.changed = true;
        }
    }

    /// What a server found in its live tree.
    pub(super) fn audit(&mut self, server: ServerId, report: AuditReport) {
        if let Some(entry) = self.servers.get_mut(&server) {
            entry.audit = Some(report);
            self.changed = true;
        }
    }

    /// What a server found, if it said so.
    pub(super) fn audited(&self, server: ServerId) -> Option<&AuditReport> {
        self.servers.get(&server)?.audit.as_ref()
    }

    /// Whether nothing was said of a server yet.
    pub(super) fn is_waiting(&self, server: ServerId) -> bool {
        self.stands(server, WAITING)
    }

    /// Whether a server stands there.
    pub(super) fn stands(&self, server: ServerId, state: &str) -> bool {
        self.servers.get(&server).is_some_and(|entry| entry.state == state)
    }

    /// How many servers stand there.
    pub(super) fn count(&self, state: &str) -> usize {
        self.servers.values().filter(|entry| entry.state == state).count()
    }

    /// How many servers there are.
    pub(super) fn servers(&self) -> usize {
        self.servers.len()
    }

    /// Something about a server that an administrator should know, though the run goes on.
    pub(super) fn warn(&mut self, server: ServerId, what: &str) {
        let Some(entry) = self.servers.get(&server) else { return };
        let warning = format!("{}: {what}", entry.server);
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
            self.changed = true;
        }
    }

    /// The server is back at what it had. Why it failed before, if it did, stays.
    pub(super) fn undone(&mut self, server: ServerId) {
        if let Some(entry) = self.servers.get_mut(&server)
            && entry.state != "failed"
        {
            entry.state = "undone".to_owned();
            entry.reason = None;
            self.changed = true;
        }
    }

    /// How the multicast session of a segment stands.
    pub(super) fn session(
        &mut self,
        segment: &SegmentName,
        leader: Option<ServerName>,
        stats: &SessionStats,
        finished: bool,
    ) {
        let entry = RunSegment {
            segment: segment.clone(),
            leader,
            state: if finished { "done" } else { "sending" }.to_owned(),
            sent_bytes: stats.sent_bytes,
            passes: stats.passes,
            repaired: stats.repaired_symbols,
        };
        if self.segments.get(segment) != Some(&entry) {
            self.segments.insert(segment.clone(), entry);
            self.changed = true;
        }
    }

    /// The distinct reasons why servers are not with the rest, for one line.
    pub(super) fn reasons(&self) -> String {
        let reasons: Vec<String> = self
            .servers
            .values()
            .filter_map(|entry| entry.reason.as_ref().map(|reason| format!("{}: {reason}", entry.server)))
            .take(3)
            .collect();
        if reasons.is_empty() { String::new() } else { format!(" ({})", reasons.join("; ")) }
    }
}
