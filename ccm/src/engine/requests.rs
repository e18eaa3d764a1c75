//! What people and schedules ask for: checked here, then recorded as a run that waits its turn.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::digest::Version;
use common::ids::{CheckpointName, GroupName, RunNumber, ServerId, ServerName, SiteName};

use super::quorum::Quorum;
use super::run::RunRequest;
use super::{Engine, EngineError, blocking, lock, now};
use crate::ingest::compare::Changes;
use crate::store::{Checkpoint, Effects, Group, Run, RunKind, RunState, Selector, Site};

/// The group of a site for which none was made: every server.
pub const IMPLICIT_GROUP: &str = "all";

/// A comparison of staging with what is published.
#[derive(Debug)]
pub struct Comparison {
    /// The group it is about.
    pub group: GroupName,
    /// What is published, if anything is.
    pub base: Option<Version>,
    /// What staging holds.
    pub result: Version,
    /// What is different.
    pub changes: Changes,
}

impl Engine {
    pub(super) fn site(&self, site: &SiteName) -> Result<Site, EngineError> {
        self.store.site(site)?.ok_or_else(|| EngineError::NoSite { site: site.clone() })
    }

    /// The group a request means; makes the implicit one at the first use.
    pub(super) fn group_for(&self, site: &Site, group: Option<&GroupName>) -> Result<Group, EngineError> {
        if group.is_none() && self.store.groups(Some(&site.name))?.is_empty() {
            let name = IMPLICIT_GROUP.parse().expect("the implicit group's name is a name");
            self.store.create_group(&Group { site: site.name.clone(), name, selector: Selector::All }, None)?;
        }
        self.group(&site.name, group)
    }

    /// The servers that a run is for; its request makes sense.
    pub(super) fn servers_for(
        &self,
        site: &Site,
        group: &Group,
        request: &RunRequest,
    ) -> Result<Vec<ServerId>, EngineError> {
        self.check_quorum(request)?;
        self.named(site, group, &[])
    }

    pub(super) fn check_quorum(&self, request: &RunRequest) -> Result<(), EngineError> {
        let checked: Result<Option<Quorum>, _> = request.quorum.as_deref().map(str::parse).transpose();
        Ok(checked.map(drop)?)
    }

    /// There is a version to go back to.
    pub(super) fn require_previous(&self, site: &Site, group: &Group) -> Result<(), EngineError> {
        let view = self.store.view(&site.name, &group.name)?;
        if view.and_then(|view| view.previous).is_none() {
            return Err(EngineError::NothingToRollBack { site: site.name.clone(), group: group.name.clone() });
        }
        Ok(())
    }

    /// The version that a checkpoint kept.
    pub(super) fn checkpoint_version(&self, site: &Site, name: &CheckpointName) -> Result<Version, EngineError> {
        let checkpoint = self.store.checkpoint(&site.name, name)?;
        let missing = || EngineError::NoCheckpoint { site: site.name.clone(), name: name.to_string() };
        Ok(checkpoint.ok_or_else(missing)?.version)
    }

    fn enqueue(&self, site: &Site, group: &Group, kind: RunKind, request: &RunRequest) -> Result<Run, EngineError> {
        let servers = self.servers_for(site, group, request)?;
        self.accept(site, group, kind, request, &servers)
    }

    pub(super) fn accept(
        &self,
        site: &Site,
        group: &Group,
        kind: RunKind,
        request: &RunRequest,
        servers: &[ServerId],
    ) -> Result<Run, EngineError> {
        let request = serde_json::to_value(request).expect("plain data");
        let run = self.store.create_run(&site.name, &group.name, kind, &request, servers, now())?;
        self.wake.notify_one();
        self.tell_run(&run);
        Ok(run)
    }

    /// Publishes what staging holds.
    ///
    /// # Errors
    /// When the site, the group or the quorum cannot be used, or staging is not a directory.
    pub fn request_publish(
        &self,
        site: &SiteName,
        group: Option<&GroupName>,
        request: &RunRequest,
    ) -> Result<Run, EngineError> {
        let site = self.site(site)?;
        let group = self.group_for(&site, group)?;
        self.enqueue(&site, &group, RunKind::Publish, request)
    }

    /// Goes back to the version before the present one.
    ///
    /// # Errors
    /// When there is none.
    pub fn request_rollback(
        &self,
        site: &SiteName,
        group: Option<&GroupName>,
        request: &RunRequest,
    ) -> Result<Run, EngineError> {
        let site = self.site(site)?;
        let group = self.group_for(&site, group)?;
        self.require_previous(&site, &group)?;
        self.enqueue(&site, &group, RunKind::Rollback, request)
    }

    /// Looks whether live trees are the version that they should be; repairs them if asked.
    ///
    /// # Errors
    /// When nothing was published to the group yet.
    pub fn request_audit(
        &self,
        site: &SiteName,
        group: Option<&GroupName>,
        request: &RunRequest,
    ) -> Result<Run, EngineError> {
        let site = self.site(site)?;
        let group = self.group_for(&site, group)?;
        let request = self.auditing(&site, &group, request)?;
        self.enqueue(&site, &group, RunKind::Audit, &request)
    }

    /// The request of an audit with what a repair needs to know.
    pub(super) fn auditing(&self, site: &Site, group: &Group, request: &RunRequest) -> Result<RunRequest, EngineError> {
        self.require_published(site, group)?;
        Ok(RunRequest {
            full: request.full,
            repair: request.repair,
            timeout_seconds: request.timeout_seconds,
            schedule: request.schedule.clone(),
            ..self.mending(&site.name, &group.name)?
        })
    }

    /// Brings servers to what the group has live: those that have something else, or, to replicate, all
    /// of them with everything. `servers` names some of the group; empty: all.
    ///
    /// # Errors
    /// When nothing was published to the group yet, or a server is not in it.
    pub fn request_mending(
        &self,
        site: &SiteName,
        group: Option<&GroupName>,
        servers: &[ServerName],
        replicate: bool,
    ) -> Result<Run, EngineError> {
        let site = self.site(site)?;
        let group = self.group_for(&site, group)?;
        self.require_published(&site, &group)?;
        let request = RunRequest { named: !servers.is_empty(), ..self.mending(&site.name, &group.name)? };
        let chosen = self.named(&site, &group, servers)?;
        let kind = if replicate { RunKind::Replicate } else { RunKind::Synchronize };
        self.accept(&site, &group, kind, &request, &chosen)
    }

    /// The version that a group has.
    pub(super) fn require_published(&self, site: &Site, group: &Group) -> Result<Version, EngineError> {
        let view = self.store.view(&site.name, &group.name)?;
        let never = || EngineError::NeverPublished { site: site.name.clone(), group: group.name.clone() };
        Ok(view.ok_or_else(never)?.version)
    }

    /// Keeps the published version under a name.
    ///
    /// # Errors
    /// When nothing was published, or the name is taken.
    pub fn create_checkpoint(
        &self,
        site: &SiteName,
        group: Option<&GroupName>,
        name: Option<CheckpointName>,
    ) -> Result<Checkpoint, EngineError> {
        let site = self.site(site)?;
        let group = self.group_for(&site, group)?;
        let view = self
            .store
            .view(&site.name, &group.name)?
            .ok_or_else(|| EngineError::NeverPublished { site: site.name.clone(), group: group.name.clone() })?;
        let name = match name {
            Some(name) => name,
            None => format!("run-{}", view.run).parse().expect("a number after a word is a name"),
        };
        let checkpoint = Checkpoint {
            site: site.name,
            group: group.name,
            name,
            version: view.version,
            created: now(),
            run: Some(view.run),
        };
        self.store.create_checkpoint(&checkpoint)?;
        self.bump();
        Ok(checkpoint)
    }

    /// Publishes the version that a checkpoint kept.
    ///
    /// # Errors
    /// When there is no such checkpoint.
    pub fn request_restore(
        &self,
        site: &SiteName,
        group: Option<&GroupName>,
        name: &CheckpointName,
        request: RunRequest,
    ) -> Result<Run, EngineError> {
        let site = self.site(site)?;
        let group = self.group_for(&site, group)?;
        let request = RunRequest { version: Some(self.checkpoint_version(&site, name)?), ..request };
        self.enqueue(&site, &group, RunKind::Restore, &request)
    }

    /// Stops a run: before its decision nothing changes, after it what has switched is switched back.
    ///
    /// # Errors
    /// When there is no such run, or it is over.
    pub fn request_cancel(&self, number: RunNumber) -> Result<Run, EngineError> {
        let mut run = self.store.run(number)?.ok_or(EngineError::NoRun { run: number })?;
        if run.state.is_final() {
            return Err(EngineError::TooLate { run: number, why: "it is over" });
        }
        self.store.request_cancel(number)?;
        lock(&self.cancels).entry(number).or_default().store(true, Ordering::Relaxed);
        if run.state == RunState::Queued || (run.state == RunState::Paused && run.started.is_none()) {
            run.state = RunState::Cancelled;
            run.message = "cancelled before it began".to_owned();
            run.ended = Some(now());
            self.store.finish_run(&run, &Effects::default())?;
        }
        self.wake.notify_one();
        self.tell_run(&run);
        Ok(run)
    }

    /// Lets a run rest, or go on. While it rests nothing new is sent, no session begins and nothing is
    /// committed; what has arrived stays where it is.
    ///
    /// # Errors
    /// When there is no such run, it is over, or its commit or undo is under way.
    pub fn request_rest(&self, number: RunNumber, rest: bool) -> Result<Run, EngineError> {
        let mut run = self.store.run(number)?.ok_or(EngineError::NoRun { run: number })?;
        let what = if rest { "paused" } else { "resumed" };
        if run.state.is_final() {
            return Err(EngineError::CannotRest { run: number, what, why: "it is over" });
        }
        if rest && self.is_decided(number)? {
            let why = "it is being committed or undone; `pressrun run cancel` takes a commit back";
            return Err(EngineError::CannotRest { run: number, what, why });
        }
        self.store.set_paused(number, rest)?;
        lock(&self.rests).entry(number).or_default().store(rest, Ordering::Relaxed);
        // One that has not begun has nobody else to say so.
        if run.started.is_none() {
            let (state, message) =
                if rest { (RunState::Paused, resting(number)) } else { (RunState::Queued, String::new()) };
            run.state = state;
            run.message = message;
            self.store.save_run(&run, None)?;
        }
        self.wake.notify_one();
        self.tell_run(&run);
        Ok(run)
    }

    /// Whether a run has decided to commit or to undo.
    fn is_decided(&self, number: RunNumber) -> Result<bool, EngineError> {
        let unfinished = self.store.unfinished_runs()?.into_iter().find(|(run, ..)| run.run == number);
        let resume = unfinished.and_then(|(_, _, resume)| resume).unwrap_or_default();
        Ok(["commit", "end", "undo"].iter().any(|decision| !resume[*decision].is_null()))
    }

    /// What a publish would change.
    ///
    /// # Errors
    /// When the site or group is unknown, or staging cannot be read.
    pub async fn compare(
        self: &Arc<Self>,
        site: &SiteName,
        group: Option<&GroupName>,
    ) -> Result<Comparison, EngineError> {
        let site = self.site(site)?;
        let group = self.group_for(&site, group)?;
        let base = self.store.view(&site.name, &group.name)?.map(|view| view.version);
        let engine = self.clone();
        blocking(move || {
            let scanned = engine.scan(&site, &AtomicBool::new(false))?;
            let published = base.map(|version| engine.content.tree(version)).transpose()?;
            let failed = |source| EngineError::of_scanned(&site.name, source);
            let changes = scanned.changes(published.as_ref()).map_err(failed)?;
            let result = scanned.version(published.as_ref(), &changes).map_err(failed)?;
            Ok(Comparison { group: group.name, base, result, changes })
        })
        .await
    }

    /// Published contents, for the text of differences.
    #[must_use]
    pub fn content(&self) -> &crate::ingest::content::ContentStore {
        &self.content
    }
}

/// What a run that rests says of itself.
pub(super) fn resting(run: RunNumber) -> String {
    format!("paused; `pressrun run resume {run}` lets it go on")
}
