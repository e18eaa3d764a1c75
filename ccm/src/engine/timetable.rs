//! What happens by itself: lets the due times of schedules pass, each exactly once.
//!
//! A due time becomes a run, or a sentence that says why it did not, in one transaction with the
//! next due time: a CCM that is killed at any point neither loses nor doubles it. Times that passed
//! while the CCM was away count as one.

use std::sync::Arc;
use std::time::Duration;

use common::errors::chain;
use common::ids::{GroupName, RunNumber, ServerId, SiteName};
use common::time::WallTime;

use super::own::{Order, Whom};
use super::schedule::{Candidate, blocked_by};
use super::{Engine, EngineError, RunRequest, now};
use crate::store::{Action, Hold, Otherwise, Passed, RunKind, Schedule};

/// Later than this a due time has been missed: nobody was there to see it.
const MISSED_AFTER: Duration = Duration::from_secs(90);
/// Longest sleep, so that a wall clock that was set is noticed.
const SLEEP_MAX: Duration = Duration::from_secs(30);
/// How many due times pass before new ones are looked for.
const BATCH: usize = 100;

/// Watches the clock.
pub(super) async fn run(engine: Arc<Engine>) {
    loop {
        let passing = engine.clone();
        let next = super::blocking(move || passing.pass_due_times(now())).await;
        let sleep = match next {
            Ok(Some(next)) => Duration::from_millis(next.0.saturating_sub(now().0)).min(SLEEP_MAX),
            Ok(None) => SLEEP_MAX,
            Err(error) => {
                tracing::error!(error = chain(&error), "schedules cannot be looked at");
                SLEEP_MAX
            }
        };
        let _either = tokio::time::timeout(sleep, engine.timetable_changed.notified()).await;
    }
}

impl Engine {
    /// Lets all times pass that are due; gives the next one.
    pub(super) fn pass_due_times(&self, now: WallTime) -> Result<Option<WallTime>, EngineError> {
        loop {
            let due = self.store.due_schedules(now, BATCH)?;
            if due.is_empty() {
                return Ok(self.store.next_due()?);
            }
            for schedule in due {
                self.pass_due_time(&schedule, now)?;
            }
        }
    }

    fn pass_due_time(&self, schedule: &Schedule, now: WallTime) -> Result<(), EngineError> {
        let passed = match self.due_action(schedule, now) {
            Ok(passed) => passed,
            // The next time may do better.
            Err(error) => Passed::Otherwise(format!("refused: {}", chain(&error))),
        };
        // A rule that was good when it was made is good now, unless its zone was abolished.
        let next = schedule.rule.next_after(now).unwrap_or_default();
        let Some((schedule, run)) = self.store.pass_due(schedule, &passed, next, now)? else { return Ok(()) };
        match run {
            Some(run) => {
                tracing::info!(schedule = %schedule.name, run = %run.run, "a schedule became a run");
                self.wake.notify_one();
                self.tell_run(&run);
            }
            None => {
                let message = schedule.last.as_ref().map_or("", |last| last.message.as_str());
                tracing::info!(schedule = %schedule.name, message, "a schedule's time has passed");
            }
        }
        self.tell_schedule(&schedule);
        Ok(())
    }

    /// What is to be done about a due time.
    fn due_action(&self, schedule: &Schedule, now: WallTime) -> Result<Passed, EngineError> {
        let due = schedule.due.unwrap_or(now);
        if due.after(MISSED_AFTER) < now && schedule.missed == Otherwise::Skip {
            return Ok(Passed::Otherwise("missed: the content control manager was away; left out".to_owned()));
        }
        let site = self.site(&schedule.site)?;
        let group = self.group_for(&site, schedule.group.as_ref())?;
        let request = RunRequest {
            quorum: schedule.quorum.clone(),
            schedule: Some(schedule.name.clone()),
            ..RunRequest::default()
        };
        let mut chosen = None;
        let mut of = |(request, servers): Order| {
            chosen = Some(servers);
            request
        };
        let (kind, request) = match &schedule.action {
            Action::Checkpoint => {
                let checkpoint = self.create_checkpoint(&site.name, Some(&group.name), None)?;
                return Ok(Passed::Otherwise(format!("kept as checkpoint {}", checkpoint.name)));
            }
            Action::Publish => (RunKind::Publish, request),
            Action::Audit { full, repair } => {
                let request = RunRequest { full: *full, repair: *repair, ..request };
                (RunKind::Audit, self.auditing(&site, &group, &request)?)
            }
            Action::Switch { servers } => (RunKind::Switch, of(self.switching(&site, &group, servers, &request)?)),
            Action::Remove { servers, keep_content } => {
                let request = RunRequest { keep_content: *keep_content, ..request };
                (RunKind::Remove, of(self.removing(&site, &group, servers, &request)?))
            }
            Action::Hot { paths, servers, count } => {
                let whom = count.map_or_else(|| Whom::Named(servers.clone()), Whom::LeastBusy);
                (RunKind::Hot, of(self.hot(&site, &group, &whom, paths.clone(), request)?))
            }
            Action::Rollback => {
                self.require_previous(&site, &group)?;
                (RunKind::Rollback, request)
            }
            Action::Restore { checkpoint } => {
                let version = self.checkpoint_version(&site, checkpoint)?;
                (RunKind::Restore, RunRequest { version: Some(version), ..request })
            }
        };
        if kind == RunKind::Publish
            && let Some(hold) = self.hold(&schedule.site, &group.name)?
        {
            let message = format!("held: {}; `pressrun schedule release {}` lifts it", hold.reason, schedule.site);
            return Ok(Passed::Otherwise(message));
        }
        let servers = match chosen {
            Some(servers) => servers,
            None => self.servers_for(&site, &group, &request)?,
        };
        if schedule.conflict == Otherwise::Skip
            && let Some(run) = self.in_the_way(&site.name, &servers)?
        {
            return Ok(Passed::Otherwise(format!("left out: run {run} is in the way")));
        }
        let request = serde_json::to_value(&request).expect("plain data");
        Ok(Passed::Run { group: group.name, kind, request, servers })
    }

    /// The unfinished run that a new one would have to wait for.
    fn in_the_way(&self, site: &SiteName, servers: &[ServerId]) -> Result<Option<RunNumber>, EngineError> {
        let mut unfinished = Vec::new();
        for (run, ..) in self.store.unfinished_runs()? {
            let servers = self.store.run_servers(run.run)?.into_iter().collect();
            unfinished.push(Candidate { run: run.run, site: run.site, servers });
        }
        let candidate =
            Candidate { run: RunNumber(u64::MAX), site: site.clone(), servers: servers.iter().copied().collect() };
        Ok(blocked_by(&candidate, &unfinished))
    }

    fn hold(&self, site: &SiteName, group: &GroupName) -> Result<Option<Hold>, EngineError> {
        Ok(self.store.holds()?.into_iter().find(|hold| hold.site == *site && hold.group == *group))
    }
}
