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
//!
//! In reading order: the steps (this file), what is sent ([`assign`]), how it is sent and answered
//! ([`deliver`]), what remains ([`finish`]); what an audit does before that ([`audit`]), and what is
//! different for single servers ([`own`]); how a run rests ([`rest`]).

mod assign;
mod audit;
mod deliver;
mod finish;
mod own;
mod rest;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::assignment::{Kind, LivePolicy};
use common::digest::Version;
use common::errors::chain;
use common::ids::{AssignmentNumber, ScheduleName, ServerId};
use common::path::ContentPath;
use planner::policy::WanPolicy;
use serde::{Deserialize, Serialize};

use super::order::{Body, Frame};
use super::quorum::Quorum;
use super::record::Recorder;
use super::wan;
use super::{Engine, EngineError, now};
use crate::store::{Effects, Group, Run, RunKind, RunState, ServerRecord, Site};

/// How long servers have to commit once the decision has fallen. 15 s: an election and a slow disk
/// fit in; live trees differ for no longer.
const COMMIT_LIFE: Duration = Duration::from_secs(15);
/// How far clocks of servers may differ from the CCM's before they take a commit for late.
const CLOCK_SKEW_MAX: Duration = Duration::from_secs(30);
/// How long a run may take until its decision when its request says nothing.
const DECISION_LIFE: Duration = Duration::from_secs(3600);
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
    /// The version to go to, for a restore; the one that servers are to have, for what mends them; the one
    /// to start from, for a hot publish.
    #[serde(default)]
    pub version: Option<Version>,
    /// For an audit: read every file.
    #[serde(default)]
    pub full: bool,
    /// For an audit: bring what has drifted back.
    #[serde(default)]
    pub repair: bool,
    /// Whether what is mended is a version of the servers' own, and not the group's.
    #[serde(default)]
    pub own: bool,
    /// Whether the servers were named, and not taken because they are of the group.
    #[serde(default)]
    pub named: bool,
    /// For a hot publish: what of staging goes live.
    #[serde(default)]
    pub paths: BTreeSet<ContentPath>,
    /// For a removal: what was live stays as the backup.
    #[serde(default)]
    pub keep_content: bool,
    /// For a publish: stage it, and leave bringing it live to a switch.
    #[serde(default)]
    pub stage_only: bool,
    /// For a publish: each server goes live by itself as soon as it can.
    #[serde(default)]
    pub autonomous: bool,
    /// The schedule that asked for it.
    #[serde(default)]
    pub schedule: Option<ScheduleName>,
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
    #[serde(default)]
    audit: Option<AssignmentNumber>,
    /// The order to drop backups.
    #[serde(default)]
    discard: Option<AssignmentNumber>,
    /// Servers on which `prepare` was staged by an earlier run.
    #[serde(default)]
    staged: Option<Vec<ServerId>>,
    /// Servers that an audit found drifted and that are being repaired.
    #[serde(default)]
    repair: Option<Vec<ServerId>>,
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
    /// Whether the run shall rest.
    rest: Arc<AtomicBool>,
    /// How long it has rested since it was taken up.
    rested: Duration,
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
            failed.message = chain(&error);
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
        // Those that a synchronization left alone before a restart.
        members.retain(|member| !recorder.stands(member.id, assign::CURRENT) && !recorder.stands(member.id, own::OWN));
        let (cancel, rest) = (engine.cancel_flag(run.run), engine.rest_flag(run.run));
        let rested = Duration::ZERO;
        Ok(Self { engine, run, request, resume, site, group, members, recorder, cancel, rest, rested })
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
            Err(Stop::Error(error)) => (RunState::Failed, chain(&error)),
        };
        if !self.run.state.is_final() {
            let effects = self.after_undo(state, &message);
            self.end(state, message, &effects);
        }
        let Resume { inventory, prepare, commit, undo, audit, discard, .. } = self.resume;
        for number in [inventory, prepare, commit, undo, audit, discard].into_iter().flatten() {
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
        if self.resume.prepare.is_none() {
            self.rest_if_asked(None).await;
            if self.cancel.load(Ordering::Relaxed) {
                return Err(Stop::End(RunState::Cancelled, "cancelled before anything was sent".to_owned()));
            }
        }
        if self.run.kind == RunKind::Audit
            && let Some(ended) = self.audit().await?
        {
            return Ok(ended);
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
            Err(Stop::End(state, message)) => {
                let (state, message) = self.unless_live(state, message);
                return self.abort(state, message).await;
            }
            Err(error) => return Err(error),
        };
        if self.request.stage_only {
            return self.finish_staged(&prepared);
        }
        if self.request.autonomous {
            return self.finish(&prepared);
        }
        self.rest_if_asked(None).await;
        let Some(prepare) = self.resume.prepare else {
            return Err(EngineError::EmptyGroup { site: self.site.name.clone(), group: self.group.name.clone() }.into());
        };
        self.recorder.start("commit", now());
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
            extra: self.site.extra,
            linger_seconds: if self.takes_off() { 0 } else { self.site.linger_seconds },
        }
    }

    fn wan(&self) -> WanPolicy {
        wan::policy_named(&self.site.wan).unwrap_or(WanPolicy::Auto)
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

    fn decision_life(&self) -> Duration {
        self.request.timeout_seconds.map_or(DECISION_LIFE, Duration::from_secs)
    }
}
