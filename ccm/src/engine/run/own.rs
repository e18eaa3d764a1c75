//! What runs do for single servers: which version each is to have, how a switch begins, and dropping what
//! is not to stay on a disk.

use std::collections::BTreeMap;
use std::time::Duration;

use common::assignment::Kind;
use common::digest::Version;
use common::ids::ServerId;
use common::manifest::Manifest;

use super::deliver::ORDER_LIFE;
use super::{Execution, Stop, TICK};
use crate::engine::hot::overlay;
use crate::engine::order::{Body, PREPARE_LIFE};
use crate::engine::{EngineError, blocking, now};
use crate::ingest::compare::compare;
use crate::ingest::scan::{ScanError, keep_changes};
use crate::ingest::stored::StoredTree;
use crate::ingest::tree::Tree;
use crate::store::{Effects, Own, OwnVersion, RunKind, RunState, Staged, StagedChange, View};

/// State of a server that a run for a whole group left alone.
pub(super) const OWN: &str = "own-version";
/// How long a server's report about its trees may lag behind what it has answered. Reports follow within
/// moments.
const REPORT_LAG_MAX: Duration = Duration::from_secs(5);

impl Execution {
    /// The version that a server is to have by what was decided before this run.
    pub(super) fn expected(&self) -> Result<BTreeMap<ServerId, Version>, EngineError> {
        let view = self.engine.store.view(&self.site.name, &self.group.name)?;
        let own = self.engine.own_versions(&self.site.name)?;
        let of = |server: ServerId| {
            Some((server, own.get(&server).map(|own| own.version).or(view.as_ref().map(|view| view.version))?))
        };
        Ok(self.members.iter().filter_map(|member| of(member.id)).collect())
    }

    /// The version that this run brings servers back to.
    pub(super) fn mended(&self, view: Option<&View>) -> Result<Version, Stop> {
        let other = || {
            let message = "another version was published meanwhile".to_owned();
            Stop::End(RunState::Cancelled, message)
        };
        let wanted = if self.request.own {
            let expected = self.expected()?;
            let mut versions = self.members.iter().map(|member| expected.get(&member.id).copied());
            self.request
                .version
                .filter(|version| versions.all(|expected| expected == Some(*version)))
                .ok_or_else(other)?
        } else {
            view.ok_or(EngineError::NoResult { run: self.run.run })?.version
        };
        if self.request.version.is_some_and(|asked| asked != wanted) {
            return Err(other());
        }
        Ok(wanted)
    }

    /// Servers that have a version of their own keep it, unless somebody named them.
    pub(super) fn leave_own_alone(&mut self) -> Result<(), Stop> {
        let takes_all = match self.run.kind {
            RunKind::Synchronize | RunKind::Replicate => !self.request.named && !self.request.own,
            RunKind::Publish
            | RunKind::Rollback
            | RunKind::Restore
            | RunKind::Audit
            | RunKind::Remove
            | RunKind::Hot
            | RunKind::Switch => false,
        };
        if !takes_all {
            return Ok(());
        }
        let own = self.engine.own_versions(&self.site.name)?;
        for member in self.members.extract_if(.., |member| own.contains_key(&member.id)) {
            let reason = "has a version of its own; name it with --server to bring it back to its group's".to_owned();
            self.recorder.server(member.id, OWN, Some(reason));
        }
        if self.members.is_empty() {
            let message = "every server has a version of its own; name those that are to be brought back".to_owned();
            return Err(Stop::End(RunState::Done, message));
        }
        Ok(())
    }

    /// Whether a server that takes part has another version than its group by an earlier decision.
    pub(super) fn any_own(&self, present: &[ServerId]) -> Result<bool, EngineError> {
        let own = self.engine.own_versions(&self.site.name)?;
        Ok(present.iter().any(|server| own.contains_key(server)))
    }

    /// What is published hot: the servers' version with the named paths of staging over it.
    /// And the sum of its file sizes, in bytes.
    pub(super) async fn ingest_hot(&self) -> Result<(StoredTree, u64), Stop> {
        let start = self.request.version.ok_or(EngineError::NoResult { run: self.run.run })?;
        if self.expected()?.values().any(|expected| *expected != start) {
            let message = "another version was published meanwhile".to_owned();
            return Err(Stop::End(RunState::Cancelled, message));
        }
        let (engine, site, cancel) = (self.engine.clone(), self.site.clone(), self.cancel.clone());
        let paths = self.request.paths.clone();
        let kept = blocking(move || {
            let of_scanned = |source| EngineError::of_scanned(&site.name, source);
            let base = engine.content.tree(start)?;
            let scanned = engine.scan(&site, &cancel)?;
            let staging =
                Manifest { entries: scanned.entries().collect::<Result<_, ScanError>>().map_err(of_scanned)? };
            let laid = overlay(&base.manifest()?, &staging, &paths);
            let result = laid.map_err(|source| EngineError::Overlay { site: site.name.clone(), source })?;
            let entries = Tree::entries(&result)?.map(|entry| entry.map_err(ScanError::Store));
            let changes = compare(Some(&base as &dyn Tree), entries).map_err(of_scanned)?;
            keep_changes(&engine.content, &base, changes, result.entries.len() as u64).map_err(of_scanned)
        });
        Ok(kept.await?)
    }

    /// How a switch begins: nothing is built. What is staged already only waits for its commit; servers that
    /// go back to their backup verify it first.
    pub(super) async fn assign_switch(&mut self, quorum: usize) -> Result<(), Stop> {
        let view = self.engine.store.view(&self.site.name, &self.group.name)?;
        self.run.base = view.as_ref().map(|view| view.version);
        self.await_members().await;
        self.await_reports().await;
        let staged = if self.request.named { None } else { self.engine.staged(&self.site.name, &self.group.name)? };
        match staged {
            Some(staged) => self.assign_staged(&staged, quorum),
            None => self.assign_backup(view.as_ref(), quorum),
        }
    }

    fn assign_staged(&mut self, staged: &Staged, quorum: usize) -> Result<(), Stop> {
        let prepared = Some((staged.assignment, staged.version));
        let missing = format!("does not hold what run {} has staged; it is synchronised after this run", staged.run);
        let ready = self.holders(&missing, |state| state.prepared == prepared);
        self.enough(ready.len(), quorum, "holding what is staged")?;
        self.run.result = Some(staged.version);
        self.resume.result = Some(staged.version);
        self.resume.prepare = Some(staged.assignment);
        self.resume.staged = Some(ready);
        self.decide()?;
        Ok(())
    }

    fn assign_backup(&mut self, view: Option<&View>, quorum: usize) -> Result<(), Stop> {
        let version = if self.request.named { self.common_backup()? } else { view.and_then(|view| view.previous) };
        let nothing = || EngineError::NothingToSwitch { site: self.site.name.clone(), group: self.group.name.clone() };
        let version = version.ok_or_else(nothing)?;
        let missing = "does not have that version as its backup".to_owned();
        let targets = self.holders(&missing, |state| state.backup == Some(version));
        self.enough(targets.len(), quorum, "holding that version as their backup")?;
        // The CCM has to know what is live then, for audits and to bring it back.
        self.engine.content.tree(version)?;
        self.run.result = Some(version);
        self.resume.result = Some(version);
        let body = Body::Order(Kind::Rollback);
        let sealed = self.engine.seal(&self.frame(version), &body, &targets, None, &self.cancel)?;
        self.run.assignment_bytes = sealed.length;
        self.resume.prepare = Some(sealed.number);
        self.decide()?;
        Ok(())
    }

    /// The servers of which this is so; the others are recorded as left behind.
    fn holders(&mut self, missing: &str, is_so: impl Fn(&common::outcome::SiteState) -> bool) -> Vec<ServerId> {
        let mut holders = Vec::new();
        for member in &self.members {
            let state = self.engine.hub.site_state(member.id, &self.site.name);
            if state.as_ref().is_some_and(&is_so) {
                holders.push(member.id);
            } else if self.engine.hub.online().contains_key(&member.id) {
                self.recorder.server(member.id, "stale", Some(missing.to_owned()));
            } else {
                self.recorder.server(member.id, "offline", Some("was not online when the run began".into()));
            }
        }
        holders
    }

    /// The version that all of the servers have as their backup.
    fn common_backup(&self) -> Result<Option<Version>, Stop> {
        let mut common: Option<Version> = None;
        for member in &self.members {
            let state = self.engine.hub.site_state(member.id, &self.site.name);
            let Some(backup) = state.and_then(|state| state.backup) else { continue };
            if common.is_some_and(|common| common != backup) {
                let message = "the servers that were named have different versions as their backups; name those with \
                               the same one at a time (`pressrun servers --json` shows them)";
                return Err(Stop::End(RunState::Failed, message.to_owned()));
            }
            common = Some(backup);
        }
        Ok(common)
    }

    /// Waits until what servers report of their trees is not older than what they have answered.
    async fn await_reports(&self) {
        let begun = tokio::time::Instant::now();
        let mut changes = self.engine.hub.changes();
        let lags = || self.members.iter().any(|member| self.engine.hub.report_lags(member.id, &self.site.name));
        while begun.elapsed() < REPORT_LAG_MAX && lags() {
            let _either = tokio::time::timeout(TICK, changes.changed()).await;
        }
    }

    /// Whether the run takes content off servers, so that nothing is to linger there.
    pub(super) fn takes_off(&self) -> bool {
        self.run.kind == RunKind::Remove || matches!(self.mended_own(), Some(Own::Removed | Own::RemovedKept))
    }

    /// Why the servers have the version of their own that this run brings back.
    fn mended_own(&self) -> Option<Own> {
        let first = self.members.first().filter(|_| self.request.own)?;
        Some(self.engine.own_versions(&self.site.name).ok()?.get(&first.id)?.own)
    }

    /// Whether the servers are to keep nothing but what is live once they have it.
    pub(super) fn discards(&self) -> bool {
        match self.run.kind {
            RunKind::Remove => !self.request.keep_content,
            RunKind::Synchronize | RunKind::Audit | RunKind::Replicate => self.mended_own() == Some(Own::Removed),
            RunKind::Publish | RunKind::Rollback | RunKind::Restore | RunKind::Hot | RunKind::Switch => false,
        }
    }

    /// Has the servers that switched drop their backups. Those that do not confirm it are named in a warning.
    pub(super) async fn discard(&mut self, committed: &[ServerId]) -> Result<(), Stop> {
        let result = self.result()?;
        let number = match self.resume.discard {
            Some(number) => number,
            None => {
                let body = Body::Order(Kind::Discard);
                self.engine.seal(&self.frame(result), &body, committed, None, &self.cancel)?.number
            }
        };
        self.resume.discard = Some(number);
        self.decide()?;
        self.engine.send_out(number, self.wan())?;
        let progress = self.wait(number, ORDER_LIFE, |progress| progress.answered).await?;
        for server in committed {
            let outcome = progress.outcomes.get(server);
            if outcome.and_then(common::outcome::Outcome::committed) != Some(result) {
                let what = "did not confirm that it dropped its backup, so the old content may still be on its disk; \
                            the same command again asks it once more";
                self.recorder.warn(*server, what);
            }
        }
        Ok(())
    }

    /// Why servers have a version of their own after this run; `None`: they have their group's.
    pub(super) fn own(&self) -> Option<Own> {
        match self.run.kind {
            RunKind::Remove if self.request.keep_content => Some(Own::RemovedKept),
            RunKind::Remove => Some(Own::Removed),
            RunKind::Hot => Some(Own::Hot),
            RunKind::Switch => self.request.named.then_some(Own::Switched),
            RunKind::Publish
            | RunKind::Rollback
            | RunKind::Restore
            | RunKind::Synchronize
            | RunKind::Audit
            | RunKind::Replicate => None,
        }
    }

    /// What follows for servers that were given a version of their own. It is meant for all of them: those
    /// that missed it are brought to it.
    pub(super) fn own_effects(&self, own: Own, result: Version, view: Option<&View>) -> Effects {
        let (site, group) = (&self.site.name, &self.group.name);
        let servers = self.members.iter().map(|member| member.id);
        let hold = (own == Own::Removed || own == Own::RemovedKept)
            .then_some(())
            .filter(|()| !self.request.named && self.request.schedule.is_none())
            .map(|()| self.set_hold("took the content off its servers"));
        if view.is_some_and(|view| view.version == result) {
            // Back at what the group has.
            let wanted = servers.map(|server| (site.clone(), group.clone(), server, result)).collect();
            return Effects { wanted, hold, ..Effects::default() };
        }
        let of = |server| OwnVersion { site: site.clone(), group: group.clone(), server, version: result, own };
        Effects { own: servers.map(of).collect(), hold, ..Effects::default() }
    }

    /// What is staged is not committed; it waits for its switch.
    pub(super) fn finish_staged(&mut self, prepared: &[ServerId]) -> Result<(RunState, String), Stop> {
        let assignment = self.resume.prepare.ok_or(EngineError::NoResult { run: self.run.run })?;
        let record = self.engine.store.assignment(assignment)?;
        let expires = record.map_or_else(|| now().after(PREPARE_LIFE), |record| record.expires);
        let staged = Staged {
            site: self.site.name.clone(),
            group: self.group.name.clone(),
            version: self.result()?,
            assignment,
            run: self.run.run,
            expires,
        };
        let everybody = prepared.len() == self.members.len();
        let state = if everybody { RunState::Done } else { RunState::Partial };
        let message = format!(
            "staged on {} of {} servers, live is unchanged; `pressrun switch {}` brings it live, until {}{}",
            prepared.len(),
            self.members.len(),
            self.site.name,
            crate::store::rfc3339::to_text(expires),
            if everybody { String::new() } else { self.recorder.reasons() },
        );
        let effects = Effects { staged: Some(StagedChange::Set(staged)), ..Effects::default() };
        self.end(state, message.clone(), &effects);
        Ok((state, message))
    }

    /// Nothing is staged for this group from here on.
    pub(super) fn forget_staged(&self) -> Option<StagedChange> {
        Some(StagedChange::Forget(self.site.name.clone(), self.group.name.clone()))
    }
}
