//! One run from its request to its last report: ingest, build, wan, multicast, prepare, commit,
//! finish.
//!
//! Every step writes down what it decided before it acts ([`Resume`]), so that a restarted CCM goes
//! on where it was: an assignment that is recorded is sent out again and answered again by servers
//! that have handled it.
//!
//! Holds: the commit goes out only after enough servers have prepared and the decision is on disk;
//! a commit that misses its quorum is undone on every server; the view advances exactly when the
//! quorum has committed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::assignment::{Kind, LivePolicy};
use common::digest::{Digest, Version};
use common::ids::{AssignmentNumber, ServerId};
use common::manifest::Manifest;
use common::outcome::{Outcome, RefusalCode};
use serde::{Deserialize, Serialize};

use super::hub::Progress;
use super::order::{Body, Frame};
use super::quorum::Quorum;
use super::record::Recorder;
use super::wan::WanPolicy;
use super::{Engine, EngineError, now};
use crate::ingest::diff::keep_times;
use crate::ingest::inventory::needed_of;
use crate::store::{Effects, Group, Run, RunKind, RunState, ServerRecord, Site, Snapshot, View};

/// How long servers have to commit once the decision has fallen. 15 s: an election and a slow disk
/// fit in; live trees differ for no longer.
const COMMIT_LIFE: Duration = Duration::from_secs(15);
/// How far clocks of servers may differ from the CCM's before they take a commit for late.
const CLOCK_SKEW_MAX: Duration = Duration::from_secs(30);
/// How long an undo is waited for. Servers that cannot be reached hear of the wanted version when
/// they return.
const UNDO_LIFE: Duration = Duration::from_secs(15);
/// How long a run may take until its decision when its request says nothing.
const DECISION_LIFE: Duration = Duration::from_secs(3600);
/// Once the quorum has prepared, the others get as long again, and at least this. Ten seconds: longer
/// than it takes to elect a leader, shorter than anybody wants to wait for one slow disk.
const STRAGGLER_WAIT_MIN: Duration = Duration::from_secs(10);
/// How often silence of servers, deadlines and cancellation are looked at.
const TICK: Duration = Duration::from_millis(200);

/// What was asked for.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct RunRequest {
    /// The quorum as text; `None` for the default.
    #[serde(default)]
    pub quorum: Option<String>,
    /// Accept live trees that another tool made.
    #[serde(default)]
    pub adopt: bool,
    /// Make live directories that are not there.
    #[serde(default)]
    pub create_live: bool,
    /// Seconds until the decision; `None` for the default.
    #[serde(default)]
    pub timeout_seconds: Option<u64>,
    /// The version to go to, for a restore.
    #[serde(default)]
    pub version: Option<Version>,
}

/// What the run has decided so far.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Resume {
    result: Option<Version>,
    /// Whether the base is open (any) rather than the view's version.
    any_base: bool,
    inventory: Option<AssignmentNumber>,
    prepare: Option<AssignmentNumber>,
    commit: Option<AssignmentNumber>,
    undo: Option<AssignmentNumber>,
    /// Why the run is being undone.
    end: Option<(RunState, String)>,
}

/// A run under way.
pub(super) struct Execution {
    engine: Arc<Engine>,
    run: Run,
    request: RunRequest,
    resume: Resume,
    site: Site,
    group: Group,
    /// The whole group, online or not.
    members: Vec<ServerRecord>,
    recorder: Recorder,
    cancel: Arc<AtomicBool>,
}

/// How an execution stops short of its end.
enum Stop {
    /// Nothing was sent that could go live.
    End(RunState, String),
    Error(EngineError),
}

impl<E: Into<EngineError>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Error(error.into())
    }
}

/// Executes a run to its end. Errors end it, too: as failed, with the reason.
pub(super) async fn execute(engine: Arc<Engine>, run: Run, request: RunRequest, resume: Resume) {
    let number = run.run;
    let mut failed = run.clone();
    match Execution::new(engine.clone(), run, request, resume) {
        Ok(mut execution) => execution.run().await,
        Err(error) => {
            failed.state = RunState::Failed;
            failed.message = super::chain(&error);
            failed.ended = Some(now());
            if let Err(error) = engine.store.finish_run(&failed, &Effects::default()) {
                tracing::error!(run = %number, %error, "the end of a run could not be recorded");
            }
            engine.tell_run(&failed);
        }
    }
}

impl Execution {
    fn new(engine: Arc<Engine>, run: Run, request: RunRequest, resume: Resume) -> Result<Self, EngineError> {
        let site = engine.store.site(&run.site)?.ok_or_else(|| EngineError::NoSite { site: run.site.clone() })?;
        let group = engine.group(&run.site, Some(&run.group))?;
        let mut members = Vec::new();
        for id in engine.store.run_servers(run.run)? {
            members.extend(engine.store.server(&id)?);
        }
        let recorder = Recorder::new(&run, &members);
        let cancel = engine.cancel_flag(run.run);
        Ok(Self { engine, run, request, resume, site, group, members, recorder, cancel })
    }

    async fn run(&mut self) {
        self.run.state = RunState::Running;
        self.run.started.get_or_insert_with(now);
        self.save();
        let is_cancelled = self.cancel.load(Ordering::Relaxed) && self.resume.prepare.is_none();
        let ended = if is_cancelled {
            Err(Stop::End(RunState::Cancelled, "cancelled before it began".to_owned()))
        } else {
            self.steps().await
        };
        let (state, message) = match ended {
            Ok((state, message)) | Err(Stop::End(state, message)) => (state, message),
            // What was interrupted says so as an error of its own.
            Err(Stop::Error(_)) if self.resume.prepare.is_none() && self.cancel.load(Ordering::Relaxed) => {
                (RunState::Cancelled, "cancelled before anything was sent; live is unchanged".to_owned())
            }
            Err(Stop::Error(error)) => (RunState::Failed, super::chain(&error)),
        };
        if !self.run.state.is_final() {
            self.end(state, message, &Effects::default());
        }
        let Resume { inventory, prepare, commit, undo, .. } = self.resume;
        for number in [inventory, prepare, commit, undo].into_iter().flatten() {
            self.engine.hub.finish(number);
            self.engine.forget_object(number);
        }
        self.engine.run_ended(self.run.run);
    }

    fn end(&mut self, state: RunState, message: String, effects: &Effects) {
        self.recorder.close_phases(now());
        self.run.state = state;
        self.run.message = message;
        let ended = now();
        self.run.ended = Some(ended);
        self.run.seconds = self.run.started.map(|started| ended.0.saturating_sub(started.0) as f64 / 1000.0);
        self.recorder.write(&mut self.run);
        tracing::info!(run = %self.run.run, site = %self.run.site, ?state, message = self.run.message, "a run ended");
        if let Err(error) = self.engine.store.finish_run(&self.run, effects) {
            tracing::error!(run = %self.run.run, %error, "the end of a run could not be recorded");
        }
        self.engine.tell_run(&self.run);
    }

    /// Records where the run stands.
    fn save(&mut self) {
        self.recorder.write(&mut self.run);
        let resume = serde_json::to_value(&self.resume).expect("plain data");
        if let Err(error) = self.engine.store.save_run(&self.run, Some(&resume)) {
            tracing::error!(run = %self.run.run, %error, "a run's progress could not be recorded");
        }
        self.engine.tell_run(&self.run);
    }

    /// Records a decision; it must be on disk before anybody acts on it.
    fn decide(&mut self) -> Result<(), EngineError> {
        self.recorder.write(&mut self.run);
        let resume = serde_json::to_value(&self.resume).expect("plain data");
        self.engine.store.save_run(&self.run, Some(&resume))?;
        self.engine.tell_run(&self.run);
        Ok(())
    }

    fn quorum(&self) -> Result<usize, EngineError> {
        let quorum = match &self.request.quorum {
            Some(text) => text.parse().map_err(EngineError::Quorum)?,
            None => Quorum::MostServers,
        };
        Ok(quorum.of(self.members.len()))
    }

    async fn steps(&mut self) -> Result<(RunState, String), Stop> {
        if self.members.is_empty() {
            return Err(EngineError::EmptyGroup { site: self.site.name.clone(), group: self.group.name.clone() }.into());
        }
        let quorum = self.quorum()?;
        self.run.quorum = u32::try_from(quorum).unwrap_or(u32::MAX);
        if self.resume.end.is_some() {
            return self.undo().await;
        }
        if self.resume.commit.is_some() {
            return self.commit(quorum).await;
        }
        if self.resume.prepare.is_none() {
            self.assign(quorum).await?;
        }
        let prepared = match self.prepare(quorum).await {
            Ok(prepared) => prepared,
            Err(Stop::End(state, message)) => return self.abort(state, message).await,
            Err(error) => return Err(error),
        };
        let Some(prepare) = self.resume.prepare else {
            return Err(EngineError::EmptyGroup { site: self.site.name.clone(), group: self.group.name.clone() }.into());
        };
        self.recorder.start("commit", now());
        // From here on a request to cancel is refused; one that came before is heeded.
        self.save();
        if self.cancel.load(Ordering::Relaxed) {
            let message = "cancelled before the decision; live is unchanged".to_owned();
            return self.abort(RunState::Cancelled, message).await;
        }
        let frame = self.frame(self.result()?);
        let body = Body::Order(Kind::Commit { prepared: prepare });
        let sealed = self.engine.seal(&frame, &body, &prepared, Some(COMMIT_LIFE + CLOCK_SKEW_MAX), &self.cancel)?;
        // The decision. From here on the run ends live or undone, whatever happens to this process.
        self.resume.commit = Some(sealed.number);
        self.decide()?;
        self.commit(quorum).await
    }

    fn result(&self) -> Result<Version, EngineError> {
        self.resume.result.ok_or(EngineError::NoResult { run: self.run.run })
    }

    fn frame(&self, result: Version) -> Frame {
        Frame {
            cluster: self.engine.trust.cluster(),
            site: self.site.name.clone(),
            group: self.group.name.clone(),
            run: self.run.run,
            live: LivePolicy {
                directory: self.site.live.clone(),
                create: self.request.create_live,
                adopt: self.request.adopt,
                exclude: self.site.exclude.clone(),
            },
            result,
            wan: self.wan(),
        }
    }

    fn wan(&self) -> WanPolicy {
        WanPolicy::named(&self.site.wan).unwrap_or(WanPolicy::Auto)
    }

    /// Ingest and build: which version, from which base, with what content.
    async fn assign(&mut self, quorum: usize) -> Result<(), Stop> {
        let view = self.engine.store.view(&self.site.name, &self.group.name)?;
        self.run.base = view.as_ref().map(|view| view.version);
        self.recorder.start("ingest", now());
        self.save();
        let result = self.ingest(view.as_ref()).await?;
        self.recorder.end("ingest", result.content_bytes(), now());
        let version = result.version();
        if self.resume.result != Some(version) {
            // What servers said before a restart was about another tree.
            self.resume.inventory = None;
        }
        self.resume.result = Some(version);
        self.run.result = Some(version);

        self.await_members().await;
        let online = self.engine.hub.online();
        let present: Vec<ServerId> =
            self.members.iter().map(|member| member.id).filter(|id| online.contains_key(id)).collect();
        for member in &self.members {
            if !online.contains_key(&member.id) {
                self.recorder.server(member.id, "offline", Some("was not online when the run began".into()));
            }
        }
        let fresh: Vec<ServerId> = match &view {
            Some(view) if self.run.kind != RunKind::Synchronize => present
                .iter()
                .copied()
                .filter(|id| self.engine.hub.live(*id, &self.site.name) == Some(view.version))
                .collect(),
            Some(_) | None => Vec::new(),
        };
        // A base that too few servers have serves nobody: then every server gets what it lacks.
        self.resume.any_base = view.is_none() || fresh.len() < quorum;
        let mut targets = if self.resume.any_base { present } else { fresh };
        for member in &self.members {
            if !targets.contains(&member.id) && online.contains_key(&member.id) {
                let reason = "has another version live; it is synchronised after this run";
                self.recorder.server(member.id, "stale", Some(reason.into()));
            }
        }
        self.enough(targets.len(), quorum, "online")?;

        self.recorder.start("build", now());
        let frame = self.frame(version);
        let is_rollback = self.run.kind == RunKind::Rollback && !self.resume.any_base;
        let sealed = if is_rollback {
            self.engine.seal(&frame, &Body::Order(Kind::Rollback), &targets, None, &self.cancel)?
        } else {
            let needed = if self.resume.any_base && (self.request.adopt || view.is_some()) {
                Some(self.inventory(&frame, &result, &mut targets).await?)
            } else {
                None
            };
            self.enough(targets.len(), quorum, "able to take part")?;
            let base = match (&view, self.resume.any_base) {
                (Some(view), false) => Some(self.engine.content.manifest(view.version)?),
                (Some(_), true) | (None, _) => None,
            };
            self.build(frame, base, result, needed, targets.clone()).await?
        };
        self.run.assignment_bytes = sealed.length;
        self.recorder.end("build", sealed.length, now());
        self.resume.prepare = Some(sealed.number);
        self.decide()?;
        Ok(())
    }

    /// Gives servers that may be back in a moment (a new leader is being elected) the time for it.
    async fn await_members(&self) {
        let ids: Vec<ServerId> = self.members.iter().map(|member| member.id).collect();
        let mut changes = self.engine.hub.changes();
        while self.engine.hub.may_return(&ids) && !self.cancel.load(Ordering::Relaxed) {
            let _either = tokio::time::timeout(TICK, changes.changed()).await;
        }
    }

    fn enough(&self, count: usize, quorum: usize, what: &str) -> Result<(), Stop> {
        if count >= quorum {
            return Ok(());
        }
        let reasons = self.recorder.reasons();
        let message = format!(
            "{count} of {} servers are {what}, the quorum is {quorum}; nothing was changed{reasons}",
            self.members.len()
        );
        Err(Stop::End(RunState::Failed, message))
    }

    async fn ingest(&self, view: Option<&View>) -> Result<Manifest, Stop> {
        let engine = &self.engine;
        match self.run.kind {
            RunKind::Publish => {
                let (engine, site, cancel) = (engine.clone(), self.site.clone(), self.cancel.clone());
                let mut manifest = super::blocking(move || engine.scan(&site, &cancel)).await?;
                if let Some(view) = view {
                    // Times are not part of a version: what is live keeps those it has.
                    keep_times(&self.engine.content.manifest(view.version)?, &mut manifest);
                }
                self.engine.content.put_manifest(&manifest)?;
                Ok(manifest)
            }
            RunKind::Synchronize => {
                let version = view.ok_or(EngineError::NoResult { run: self.run.run })?.version;
                if self.request.version.is_some_and(|wanted| wanted != version) {
                    let message = "another version was published meanwhile".to_owned();
                    return Err(Stop::End(RunState::Cancelled, message));
                }
                Ok(engine.content.manifest(version)?)
            }
            RunKind::Rollback => {
                let previous = view.and_then(|view| view.previous).ok_or_else(|| EngineError::NothingToRollBack {
                    site: self.site.name.clone(),
                    group: self.group.name.clone(),
                })?;
                Ok(engine.content.manifest(previous)?)
            }
            RunKind::Restore => {
                let version = self.request.version.ok_or(EngineError::NoResult { run: self.run.run })?;
                Ok(engine.content.manifest(version)?)
            }
        }
    }

    /// Asks the servers what they lack of the result; those that refuse are out.
    async fn inventory(
        &mut self,
        frame: &Frame,
        result: &Manifest,
        targets: &mut Vec<ServerId>,
    ) -> Result<BTreeSet<Digest>, Stop> {
        let number = match self.resume.inventory {
            Some(number) => number,
            None => self.engine.seal(frame, &Body::Inventory(result), targets, None, &self.cancel)?.number,
        };
        self.resume.inventory = Some(number);
        self.decide()?;
        self.engine.send_out(number, frame.wan)?;
        let progress = self.wait(number, self.decision_life(), |progress| progress.answered).await?;
        let mut needed = BTreeSet::new();
        for (server, outcome) in &progress.outcomes {
            match outcome {
                Outcome::Missing(runs) => match needed_of(result, runs) {
                    Ok(contents) => needed.extend(contents),
                    Err(error) => {
                        self.recorder.server(*server, "failed", Some(super::chain(&error)));
                        targets.retain(|target| target != server);
                    }
                },
                Outcome::Refused(refusal) => self.recorder.server(*server, "failed", Some(refusal.reason.clone())),
                Outcome::Received | Outcome::Prepared { .. } | Outcome::Committed { .. } | Outcome::Undone { .. } => (),
            }
        }
        targets.retain(|target| matches!(progress.outcomes.get(target), Some(Outcome::Missing(_))));
        for server in &progress.unanswered {
            self.recorder.server(*server, "offline", Some("did not say what it has".into()));
        }
        self.engine.hub.finish(number);
        Ok(needed)
    }

    async fn build(
        &self,
        frame: Frame,
        base: Option<Manifest>,
        result: Manifest,
        needed: Option<BTreeSet<Digest>>,
        targets: Vec<ServerId>,
    ) -> Result<super::order::Sealed, Stop> {
        let (engine, cancel) = (self.engine.clone(), self.cancel.clone());
        let sealed = super::blocking(move || {
            let body = Body::Tree { base: base.as_ref(), result: &result, needed };
            engine.seal(&frame, &body, &targets, None, &cancel)
        })
        .await?;
        Ok(sealed)
    }

    fn decision_life(&self) -> Duration {
        self.request.timeout_seconds.map_or(DECISION_LIFE, Duration::from_secs)
    }

    /// Sends the prepare assignment out and waits until every server prepared, refused or is lost.
    async fn prepare(&mut self, quorum: usize) -> Result<Vec<ServerId>, Stop> {
        let Some(number) = self.resume.prepare else { return Ok(Vec::new()) };
        self.recorder.start("wan", now());
        self.save();
        self.engine.send_out(number, self.wan())?;
        let begun = tokio::time::Instant::now();
        let mut quorum_after: Option<Duration> = None;
        let done = move |progress: &Progress| {
            let prepared = progress.outcomes.values().filter(|outcome| matches!(outcome, Outcome::Prepared { .. }));
            if prepared.count() >= quorum {
                quorum_after.get_or_insert_with(|| begun.elapsed());
            }
            progress.answered
                || quorum_after.is_some_and(|after| begun.elapsed() > after + after.max(STRAGGLER_WAIT_MIN))
        };
        let progress = self.wait(number, self.decision_life(), done).await?;
        let prepared: Vec<ServerId> = progress
            .outcomes
            .iter()
            .filter(|(_, outcome)| matches!(outcome, Outcome::Prepared { .. }))
            .map(|(server, _)| *server)
            .collect();
        for server in &progress.unanswered {
            let online = self.engine.hub.online().contains_key(server);
            let (state, reason) = if online {
                ("failed", "was slower than the others and was not waited for; it is synchronised after this run")
            } else {
                ("offline", "fell silent before it had prepared")
            };
            self.recorder.server(*server, state, Some(reason.into()));
        }
        for phase in ["wan", "multicast", "prepare"] {
            self.recorder.end_if_open(phase, now());
        }
        self.enough(prepared.len(), quorum, "prepared")?;
        Ok(prepared)
    }

    /// Waits for a delivery, showing its progress, until `done`, the time is over or somebody cancels.
    async fn wait(
        &mut self,
        number: AssignmentNumber,
        life: Duration,
        mut done: impl FnMut(&Progress) -> bool,
    ) -> Result<Progress, Stop> {
        let mut changes = self.engine.hub.changes();
        let deadline = tokio::time::Instant::now() + life;
        let is_prepare = self.resume.prepare == Some(number);
        loop {
            changes.mark_unchanged();
            let progress = self.engine.hub.progress(number).ok_or(EngineError::NoAssignment { number })?;
            if is_prepare {
                self.show(&progress);
            }
            if done(&progress) {
                return Ok(progress);
            }
            if self.resume.commit.is_none() && self.resume.end.is_none() && self.cancel.load(Ordering::Relaxed) {
                return Err(Stop::End(RunState::Cancelled, "cancelled before the decision; live is unchanged".into()));
            }
            if tokio::time::Instant::now() >= deadline {
                if self.resume.commit.is_some() || self.resume.end.is_some() {
                    return Ok(progress);
                }
                let message = format!("not prepared within {} s; live is unchanged", life.as_secs());
                return Err(Stop::End(RunState::Timeout, message));
            }
            let _either = tokio::time::timeout(TICK, changes.changed()).await;
        }
    }

    fn show(&mut self, progress: &Progress) {
        let segments = progress.sessions.len() as u64;
        if progress.everywhere && self.recorder.is_open("wan") {
            let holders = self.segments_reached();
            self.recorder.end("wan", self.run.assignment_bytes * holders, now());
            self.recorder.start("multicast", now());
        }
        let sent: u64 = progress.sessions.values().map(|(stats, _)| stats.sent_bytes).sum();
        let sessions_over = segments > 0 && progress.sessions.values().all(|(_, finished)| *finished);
        if self.recorder.is_open("multicast") && (sessions_over || progress.answered) {
            self.recorder.end("multicast", sent, now());
            self.recorder.start("prepare", now());
        }
        self.recorder.set_bytes("multicast", sent);
        let names = self.engine.names();
        for (segment, (stats, finished)) in &progress.sessions {
            let leader = self.engine.hub.segments().get(segment).and_then(|(id, _)| names.get(id).cloned());
            self.recorder.session(segment, leader, stats, *finished);
        }
        for (server, outcome) in &progress.outcomes {
            match outcome {
                Outcome::Prepared { .. } => self.recorder.server(*server, "prepared", None),
                Outcome::Refused(refusal) => self.recorder.server(*server, "failed", Some(refusal.reason.clone())),
                Outcome::Received | Outcome::Missing(_) | Outcome::Committed { .. } | Outcome::Undone { .. } => (),
            }
        }
        if self.recorder.take_changed() {
            self.save();
        }
    }

    fn segments_reached(&self) -> u64 {
        self.members.iter().map(|member| &member.segment).collect::<BTreeSet<_>>().len() as u64
    }

    /// The decision has fallen: commits, and undoes when too few follow.
    async fn commit(&mut self, quorum: usize) -> Result<(RunState, String), Stop> {
        let Some(number) = self.resume.commit else { return Err(EngineError::NoResult { run: self.run.run }.into()) };
        self.engine.send_out(number, self.wan())?;
        let progress = self.wait(number, COMMIT_LIFE, |progress| progress.answered).await?;
        let result = self.result()?;
        let committed: Vec<ServerId> = progress
            .outcomes
            .iter()
            .filter(|(_, outcome)| matches!(outcome, Outcome::Committed { version } if *version == result))
            .map(|(server, _)| *server)
            .collect();
        for server in &committed {
            self.recorder.server(*server, "committed", None);
            self.engine.hub.set_live(*server, &self.site.name, number, Some(result));
        }
        for (server, outcome) in &progress.outcomes {
            if let Outcome::Refused(refusal) = outcome {
                self.recorder.server(*server, "failed", Some(refusal.reason.clone()));
            }
        }
        for server in &progress.unanswered {
            self.recorder.server(*server, "offline", Some("did not confirm the commit".into()));
        }
        if committed.len() < quorum {
            let message = format!(
                "{} of {} servers committed, the quorum is {quorum}: undone everywhere",
                committed.len(),
                self.members.len()
            );
            return self.abort(RunState::RolledBack, message).await;
        }
        self.finish(&committed)
    }

    fn finish(&mut self, committed: &[ServerId]) -> Result<(RunState, String), Stop> {
        self.recorder.end_if_open("commit", now());
        self.recorder.start("finish", now());
        let result = self.result()?;
        let before = self.engine.store.view(&self.site.name, &self.group.name)?;
        let assignment = self.resume.commit.ok_or(EngineError::NoResult { run: self.run.run })?;
        let everybody = committed.len() == self.members.len();
        let wanted =
            self.members.iter().map(|member| (self.site.name.clone(), self.group.name.clone(), member.id, result));
        let effects = if self.run.kind == RunKind::Synchronize {
            // Brings servers to the version that the view has already.
            Effects::default()
        } else {
            Effects {
                view: Some(View {
                    site: self.site.name.clone(),
                    group: self.group.name.clone(),
                    version: result,
                    assignment,
                    run: self.run.run,
                    published: now(),
                    previous: match before {
                        Some(view) if view.version == result => view.previous,
                        Some(view) => Some(view.version),
                        None => None,
                    },
                }),
                wanted: wanted.collect(),
                snapshot: Some(Snapshot {
                    run: self.run.run,
                    site: self.site.name.clone(),
                    group: self.group.name.clone(),
                    version: result,
                    assignment,
                    time: now(),
                }),
            }
        };
        let (state, message) = if everybody {
            (RunState::Done, format!("live on {}", servers(committed.len())))
        } else {
            let reasons = self.recorder.reasons();
            let message = format!("live on {} of {} servers{reasons}", committed.len(), self.members.len());
            (RunState::Partial, message)
        };
        self.recorder.end("finish", 0, now());
        self.end(state, message.clone(), &effects);
        Ok((state, message))
    }

    /// Records that the run is to be undone, then undoes it.
    async fn abort(&mut self, state: RunState, message: String) -> Result<(RunState, String), Stop> {
        self.resume.end = Some((state, message));
        self.decide()?;
        self.undo().await
    }

    /// Brings every server back to what it had before this run.
    async fn undo(&mut self) -> Result<(RunState, String), Stop> {
        let (state, message) = self.resume.end.clone().ok_or(EngineError::NoResult { run: self.run.run })?;
        let Some(prepare) = self.resume.prepare else { return Ok((state, message)) };
        let number = match self.resume.undo {
            Some(number) => number,
            None => {
                let record =
                    self.engine.store.assignment(prepare)?.ok_or(EngineError::NoAssignment { number: prepare })?;
                let before = self.engine.store.view(&self.site.name, &self.group.name)?;
                let version = before.map_or_else(|| Manifest::default().version(), |view| view.version);
                let body = Body::Order(Kind::Undo { prepared: prepare });
                let frame = self.frame(version);
                self.engine.seal(&frame, &body, &record.targets, None, &self.cancel)?.number
            }
        };
        self.resume.undo = Some(number);
        self.decide()?;
        self.engine.send_out(number, self.wan())?;
        let progress = self.wait(number, UNDO_LIFE, |progress| progress.answered).await?;
        for (server, outcome) in &progress.outcomes {
            match outcome {
                Outcome::Undone { version } => {
                    self.engine.hub.set_live(*server, &self.site.name, number, *version);
                    self.recorder.undone(*server);
                }
                Outcome::Refused(refusal) if refusal.code != RefusalCode::NotPrepared => {
                    self.recorder.server(*server, "failed", Some(refusal.reason.clone()));
                }
                Outcome::Refused(_)
                | Outcome::Received
                | Outcome::Missing(_)
                | Outcome::Prepared { .. }
                | Outcome::Committed { .. } => (),
            }
        }
        Ok((state, message))
    }
}

fn servers(count: usize) -> String {
    if count == 1 { "1 server".to_owned() } else { format!("{count} servers") }
}

/// The states of a group's servers by name; used where people read.
pub(super) type Names = BTreeMap<ServerId, common::ids::ServerName>;
