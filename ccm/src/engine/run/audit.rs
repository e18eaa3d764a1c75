//! An audit: servers compare their live trees with the signed version that these should be; what had
//! drifted is repaired in the same run, if that was asked for.
//!
//! A repair is what a stale server gets: an assignment that describes the whole tree, carries what these
//! servers lack of it, and is prepared, checked and committed as any other. Nobody publishes in between,
//! because it is one run.

use std::collections::BTreeMap;
use std::time::Duration;

use common::assignment::Kind;
use common::audit::AuditReport;
use common::digest::Version;
use common::ids::ServerId;
use common::outcome::Outcome;

use super::{Execution, RunRequest, Stop, TICK};
use crate::engine::order::Body;
use crate::engine::{EngineError, now};
use crate::store::{RunKind, RunState};

/// States of servers in an audit.
const CLEAN: &str = "clean";
const DRIFTED: &str = "drifted";
const REPAIRED: &str = "repaired";

impl Execution {
    /// Whether the run brings servers to what the view says already, so that the view stays.
    pub(super) fn mends(&self) -> bool {
        match self.run.kind {
            RunKind::Synchronize | RunKind::Audit | RunKind::Replicate => true,
            RunKind::Publish
            | RunKind::Rollback
            | RunKind::Restore
            | RunKind::Remove
            | RunKind::Hot
            | RunKind::Switch => false,
        }
    }

    /// Audits. `None`: servers are left to be repaired, and are the members from here on.
    pub(super) async fn audit(&mut self) -> Result<Option<(RunState, String)>, Stop> {
        if self.resume.repair.is_none() {
            let drifted = self.look().await?;
            let drifted = if self.request.repair { self.order_own_repairs(drifted)? } else { Vec::new() };
            if drifted.is_empty() {
                return Ok(Some(self.audited()));
            }
            self.resume.repair = Some(drifted);
            self.decide()?;
        }
        let drifted = self.resume.repair.clone().unwrap_or_default();
        self.members.retain(|member| drifted.contains(&member.id));
        Ok(None)
    }

    /// Asks every server that is there; gives those that drifted.
    async fn look(&mut self) -> Result<Vec<ServerId>, Stop> {
        let view = self.engine.store.view(&self.site.name, &self.group.name)?;
        let never = || EngineError::NeverPublished { site: self.site.name.clone(), group: self.group.name.clone() };
        let version = match self.request.version.filter(|_| self.request.own) {
            Some(own) => own,
            None => view.ok_or_else(never)?.version,
        };
        let expected = self.expected()?;
        self.run.base = Some(version);
        self.run.result = Some(version);
        self.recorder.start("audit", now());
        self.save();
        self.await_members().await;
        let online = self.engine.hub.online();
        let mut targets = Vec::new();
        for member in &self.members {
            if online.contains_key(&member.id) {
                targets.push(member.id);
            } else {
                self.recorder.server(member.id, "offline", Some("was not online and was not looked at".into()));
            }
        }
        if targets.is_empty() {
            let message = "no server of the group is online; nothing was looked at".to_owned();
            return Err(Stop::End(RunState::Failed, message));
        }
        let number = match self.resume.audit {
            Some(number) => number,
            None => {
                let body = Body::Order(Kind::Audit { full: self.request.full });
                self.engine.seal(&self.frame(version), &body, &targets, None, &self.cancel)?.number
            }
        };
        self.resume.audit = Some(number);
        self.decide()?;
        self.engine.send_out(number, self.wan())?;
        let begun = tokio::time::Instant::now();
        let life = self.decision_life();
        let done = move |progress: &crate::engine::hub::Progress| progress.answered || begun.elapsed() >= life;
        // What was found until then is shown, so the wait itself does not time out.
        let progress = self.wait(number, life + 10 * TICK, done).await?;
        let mut drifted = Vec::new();
        for (server, outcome) in progress.outcomes {
            match outcome {
                Outcome::Audited(report) => {
                    let version = expected.get(&server).copied().unwrap_or(version);
                    if self.found(server, version, report.bounded()) {
                        drifted.push(server);
                    }
                }
                Outcome::Refused(refusal) => self.recorder.server(server, "failed", Some(refusal.reason)),
                Outcome::Received
                | Outcome::Missing(_)
                | Outcome::Prepared { .. }
                | Outcome::Committed { .. }
                | Outcome::CommittedHookFailed { .. }
                | Outcome::Undone { .. } => {
                    self.recorder.server(server, "failed", Some("answered something else than was asked".into()));
                }
            }
        }
        for server in targets {
            if self.recorder.is_waiting(server) {
                self.recorder.server(server, "offline", Some(silent(life)));
            }
        }
        self.engine.hub.finish(number);
        self.recorder.end("audit", 0, now());
        self.save();
        Ok(drifted)
    }

    /// One run repairs one version: what drifted from a version of its own gets a run of its own. Gives the
    /// others.
    fn order_own_repairs(&mut self, drifted: Vec<ServerId>) -> Result<Vec<ServerId>, Stop> {
        if self.request.own {
            return Ok(drifted);
        }
        let own = self.engine.own_versions(&self.site.name)?;
        let (of_own, of_group): (Vec<ServerId>, Vec<ServerId>) =
            drifted.into_iter().partition(|server| own.contains_key(server));
        let mut by_version: BTreeMap<Version, Vec<ServerId>> = BTreeMap::new();
        for server in of_own {
            if let Some(own) = own.get(&server) {
                by_version.entry(own.version).or_default().push(server);
            }
        }
        for (version, servers) in by_version {
            let request = RunRequest { own: true, version: Some(version), ..self.request.clone() };
            let run = self.engine.accept(&self.site, &self.group, RunKind::Audit, &request, &servers)?;
            for server in servers {
                let found = self.recorder.audited(server).map(ToString::to_string).unwrap_or_default();
                let reason = format!("{found}; run {} repairs its own version", run.run);
                self.recorder.server(server, DRIFTED, Some(reason));
            }
        }
        Ok(of_group)
    }

    /// Records what a server found; whether it is for a repair.
    fn found(&mut self, server: ServerId, version: Version, report: AuditReport) -> bool {
        let stale = report.version != Some(version);
        let clean = report.is_clean();
        let words = report.to_string();
        let (state, reason) = match (stale, report.version, clean) {
            (true, None, _) => ("stale", Some("has nothing published live; it is synchronised".to_owned())),
            (true, Some(live), true) => ("stale", Some(format!("has version {live} live; it is synchronised"))),
            (true, Some(live), false) => {
                (DRIFTED, Some(format!("{words}, beside that it has version {live} live; it is synchronised")))
            }
            (false, _, true) => (CLEAN, None),
            (false, _, false) => (DRIFTED, Some(words)),
        };
        self.recorder.server(server, state, reason);
        self.recorder.audit(server, report);
        !clean && !stale
    }

    /// A repair was committed on these servers.
    pub(super) fn repaired(&mut self, committed: &[ServerId]) {
        for server in committed {
            let reason = self.recorder.audited(*server).map(|report| format!("had {report}"));
            self.recorder.server(*server, REPAIRED, reason);
        }
    }

    /// How an audit ends: done when every server is clean, or is again.
    pub(super) fn audited(&self) -> (RunState, String) {
        let count = |state| self.recorder.count(state);
        let (clean, drifted, repaired) = (count(CLEAN), count(DRIFTED), count(REPAIRED));
        let rest = self.recorder.servers() - clean - drifted - repaired;
        let mut parts = Vec::new();
        for (count, words) in [
            (clean, "clean"),
            (repaired, "had drifted and repaired"),
            (drifted, "drifted"),
            (rest, "not known to be clean"),
        ] {
            if count > 0 {
                parts.push(format!("{count} {words}"));
            }
        }
        let mut message = format!("of {} servers: {}", self.recorder.servers(), parts.join(", "));
        if drifted > 0 && !self.request.repair {
            message.push_str("; `pressrun audit --repair` brings them back");
        }
        let state = if drifted + rest == 0 { RunState::Done } else { RunState::Partial };
        (state, message)
    }
}

fn silent(life: Duration) -> String {
    format!("did not say what it found (it was given {} s)", life.as_secs())
}
