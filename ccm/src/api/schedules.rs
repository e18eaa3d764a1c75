//! Schedules, and the holds that keep them from publishing.

use std::collections::BTreeSet;

use axum::extract::State;
use axum::http::StatusCode;
use common::ids::{CheckpointName, GroupName, RunNumber, ScheduleName, ServerName, SiteName};
use common::path::ContentPath;
use common::time::WallTime;
use serde::{Deserialize, Serialize};

use super::ApiState;
use super::extract::{Answer, Args, Body, Params, answer, blocking, items, name, nothing, ok};
use super::problem::Problem;
use super::runs::{hot_paths, named_to_be_removed, quorum, whom};
use super::sites::{known_group, known_site};
use crate::schedule::{Rule, RuleError};
use crate::store::{Action, Hold, Last, Otherwise, Schedule, Thing, rfc3339};

/// How many of the next times are shown.
const UPCOMING: usize = 5;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ScheduleBody {
    name: ScheduleName,
    site: String,
    group: Option<GroupName>,
    action: ActionWord,
    checkpoint: Option<CheckpointName>,
    #[serde(default)]
    full: bool,
    #[serde(default)]
    repair: bool,
    #[serde(default)]
    paths: Vec<String>,
    #[serde(default)]
    servers: Vec<ServerName>,
    count: Option<u32>,
    #[serde(default)]
    keep_content: bool,
    at: Option<String>,
    cron: Option<String>,
    zone: Option<String>,
    quorum: Option<String>,
    #[serde(default)]
    conflict: Otherwise,
    #[serde(default)]
    missed: Otherwise,
}

/// What is done, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum ActionWord {
    Publish,
    Rollback,
    Restore,
    Checkpoint,
    Audit,
    Switch,
    Hot,
    Remove,
}

#[derive(Serialize)]
struct ScheduleView {
    name: ScheduleName,
    site: SiteName,
    group: Option<GroupName>,
    action: ActionWord,
    checkpoint: Option<CheckpointName>,
    full: bool,
    repair: bool,
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    paths: BTreeSet<ContentPath>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    servers: Vec<ServerName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u32>,
    keep_content: bool,
    rule: Rule,
    words: String,
    quorum: Option<String>,
    conflict: Otherwise,
    missed: Otherwise,
    paused: bool,
    created: String,
    due: Option<String>,
    /// The next times as they stand, [`UPCOMING`] at most.
    upcoming: Vec<String>,
    last: Option<Last>,
}

fn view(schedule: Schedule, now: WallTime) -> ScheduleView {
    let (action, checkpoint) = match schedule.action.clone() {
        Action::Publish => (ActionWord::Publish, None),
        Action::Rollback => (ActionWord::Rollback, None),
        Action::Restore { checkpoint } => (ActionWord::Restore, Some(checkpoint)),
        Action::Checkpoint => (ActionWord::Checkpoint, None),
        Action::Audit { .. } => (ActionWord::Audit, None),
        Action::Switch { .. } => (ActionWord::Switch, None),
        Action::Hot { .. } => (ActionWord::Hot, None),
        Action::Remove { .. } => (ActionWord::Remove, None),
    };
    let (mut full, mut repair, mut keep, mut count) = (false, false, false, None);
    let (mut paths, mut servers) = (BTreeSet::new(), Vec::new());
    match schedule.action {
        Action::Audit { full: reads_all, repair: repairs } => (full, repair) = (reads_all, repairs),
        Action::Switch { servers: named } => servers = named,
        Action::Hot { paths: hot, servers: named, count: of } => (paths, servers, count) = (hot, named, of),
        Action::Remove { servers: named, keep_content } => (servers, keep) = (named, keep_content),
        Action::Publish | Action::Rollback | Action::Restore { .. } | Action::Checkpoint => {}
    }
    let due = schedule.due.filter(|_| !schedule.paused);
    // One that was skipped is not among them.
    let later = due.map(|due| schedule.rule.upcoming(due.max(now), UPCOMING - 1).unwrap_or_default());
    ScheduleView {
        words: schedule.rule.to_string(),
        upcoming: due.into_iter().chain(later.unwrap_or_default()).map(rfc3339::to_text).collect(),
        name: schedule.name,
        site: schedule.site,
        group: schedule.group,
        action,
        checkpoint,
        full,
        repair,
        paths,
        servers,
        count,
        keep_content: keep,
        rule: schedule.rule,
        quorum: schedule.quorum,
        conflict: schedule.conflict,
        missed: schedule.missed,
        paused: schedule.paused,
        created: rfc3339::to_text(schedule.created),
        due: due.map(rfc3339::to_text),
        last: schedule.last,
    }
}

impl From<RuleError> for Problem {
    fn from(error: RuleError) -> Self {
        let code = match &error {
            RuleError::Pattern { .. } => "bad-cron",
            RuleError::Zone { .. } => "bad-zone",
            RuleError::Never { .. } => "never-due",
        };
        Self::invalid(code, error.to_string())
    }
}

fn rule(at: Option<String>, cron: Option<String>, zone: Option<String>) -> Result<Rule, Problem> {
    match (at, cron) {
        (Some(at), None) => {
            let at = rfc3339::from_text(&at).map_err(|error| Problem::invalid("bad-time", error.to_string()))?;
            Ok(Rule::At(at))
        }
        (None, Some(pattern)) => Ok(Rule::Cron { pattern, zone: zone.unwrap_or_else(|| "UTC".to_owned()) }),
        (Some(_), Some(_)) | (None, None) => Err(Problem::invalid("bad-rule", "give either \"at\" or \"cron\"")),
    }
}

pub(super) async fn create(State(state): State<ApiState>, Body(body): Body<ScheduleBody>) -> Answer {
    let now = (state.clock)();
    let rule = rule(body.at, body.cron, body.zone)?;
    rule.check(now)?;
    quorum(body.quorum.as_deref())?;
    let action = match (body.action, body.checkpoint) {
        (ActionWord::Publish, None) => Action::Publish,
        (ActionWord::Rollback, None) => Action::Rollback,
        (ActionWord::Checkpoint, None) => Action::Checkpoint,
        (ActionWord::Restore, Some(checkpoint)) => Action::Restore { checkpoint },
        (ActionWord::Restore, None) => {
            return Err(Problem::invalid("no-checkpoint", "say which \"checkpoint\" is to be restored"));
        }
        (ActionWord::Audit, None) => Action::Audit { full: body.full, repair: body.repair },
        (ActionWord::Switch, None) => Action::Switch { servers: body.servers.clone() },
        (ActionWord::Remove, None) => {
            named_to_be_removed(body.group.as_ref(), &body.servers)?;
            Action::Remove { servers: body.servers.clone(), keep_content: body.keep_content }
        }
        (ActionWord::Hot, None) => {
            let paths = hot_paths(&body.paths)?;
            whom(body.servers.clone(), body.count)?;
            Action::Hot { paths, servers: body.servers.clone(), count: body.count }
        }
        (
            ActionWord::Publish
            | ActionWord::Rollback
            | ActionWord::Checkpoint
            | ActionWord::Audit
            | ActionWord::Switch
            | ActionWord::Hot
            | ActionWord::Remove,
            Some(_),
        ) => {
            return Err(Problem::invalid("bad-checkpoint", "only \"restore\" takes a \"checkpoint\""));
        }
    };
    let takes_servers = matches!(body.action, ActionWord::Switch | ActionWord::Hot | ActionWord::Remove);
    if !takes_servers && !body.servers.is_empty() {
        let detail = "only \"switch\", \"hot\" and \"remove\" take \"servers\"; others are for a whole group";
        return Err(Problem::invalid("bad-servers", detail));
    }
    if body.action != ActionWord::Hot && (!body.paths.is_empty() || body.count.is_some()) {
        return Err(Problem::invalid("bad-paths", "only \"hot\" takes \"paths\" and \"count\""));
    }
    if body.action != ActionWord::Remove && body.keep_content {
        return Err(Problem::invalid("bad-keep-content", "only \"remove\" takes \"keep_content\""));
    }
    if body.action != ActionWord::Audit && (body.full || body.repair) {
        return Err(Problem::invalid("bad-audit", "only \"audit\" takes \"full\" and \"repair\""));
    }
    let store = state.store.clone();
    let schedule = blocking(move || {
        let site = known_site(&store, &body.site)?.name;
        let group = known_group(&store, &site, body.group)?;
        if let Action::Restore { checkpoint } = &action
            && store.checkpoint(&site, checkpoint)?.is_none()
        {
            return Err(Problem::unknown(Thing::Checkpoint, checkpoint.as_str()));
        }
        let schedule = Schedule {
            name: body.name,
            site,
            group,
            action,
            due: rule.next_after(now)?,
            rule,
            quorum: body.quorum,
            conflict: body.conflict,
            missed: body.missed,
            paused: false,
            created: now,
            last: None,
        };
        store.create_schedule(&schedule)?;
        Ok::<_, Problem>(schedule)
    })
    .await?;
    state.operations.timetable_changed();
    answer(StatusCode::CREATED, &view(schedule, now))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListParams {
    site: Option<String>,
}

pub(super) async fn list(State(state): State<ApiState>, Params(params): Params<ListParams>) -> Answer {
    let (store, now) = (state.store.clone(), (state.clock)());
    let schedules = blocking(move || {
        let site = params.site.as_deref().map(|site| known_site(&store, site)).transpose()?;
        Ok::<_, Problem>(store.schedules(site.as_ref().map(|site| &site.name))?)
    })
    .await?;
    items(&schedules.into_iter().map(|schedule| view(schedule, now)).collect::<Vec<_>>())
}

pub(super) async fn show(State(state): State<ApiState>, Args(schedule): Args<String>) -> Answer {
    let now = (state.clock)();
    let store = state.store.clone();
    let schedule = blocking(move || {
        let known: ScheduleName = name(&schedule)?;
        store.schedule(&known)?.ok_or_else(|| Problem::unknown(Thing::Schedule, known.as_str()))
    })
    .await?;
    ok(&view(schedule, now))
}

/// What may be changed of a schedule that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Pause,
    Resume,
    Skip,
}

async fn change(state: ApiState, schedule: String, change: Change) -> Answer {
    let now = (state.clock)();
    let store = state.store.clone();
    let schedule = blocking(move || {
        let known: ScheduleName = name(&schedule)?;
        let changed = store.change_schedule(&known, |schedule| match change {
            Change::Pause => schedule.paused = true,
            // What was due while it rested is over.
            Change::Resume => {
                schedule.paused = false;
                schedule.due = schedule.rule.next_after(now).unwrap_or_default();
            }
            Change::Skip => {
                if let Some(due) = schedule.due {
                    schedule.due = schedule.rule.next_after(due).unwrap_or_default();
                    schedule.last = Some(Last { due, run: None, message: "skipped on request".to_owned() });
                }
            }
        })?;
        Ok::<_, Problem>(changed)
    })
    .await?;
    state.operations.timetable_changed();
    ok(&view(schedule, now))
}

pub(super) async fn pause(State(state): State<ApiState>, Args(schedule): Args<String>) -> Answer {
    change(state, schedule, Change::Pause).await
}

pub(super) async fn resume(State(state): State<ApiState>, Args(schedule): Args<String>) -> Answer {
    change(state, schedule, Change::Resume).await
}

pub(super) async fn skip(State(state): State<ApiState>, Args(schedule): Args<String>) -> Answer {
    change(state, schedule, Change::Skip).await
}

pub(super) async fn delete(State(state): State<ApiState>, Args(schedule): Args<String>) -> Answer {
    let store = state.store.clone();
    blocking(move || {
        let known: ScheduleName = name(&schedule)?;
        Ok::<_, Problem>(store.delete_schedule(&known)?)
    })
    .await?;
    state.operations.timetable_changed();
    nothing()
}

#[derive(Serialize)]
struct HoldView {
    site: SiteName,
    group: GroupName,
    run: RunNumber,
    reason: String,
    since: String,
}

impl From<Hold> for HoldView {
    fn from(hold: Hold) -> Self {
        let since = rfc3339::to_text(hold.since);
        Self { site: hold.site, group: hold.group, run: hold.run, reason: hold.reason, since }
    }
}

pub(super) async fn list_holds(State(state): State<ApiState>) -> Answer {
    let store = state.store.clone();
    let holds = blocking(move || Ok::<_, Problem>(store.holds()?)).await?;
    items(&holds.into_iter().map(HoldView::from).collect::<Vec<_>>())
}

pub(super) async fn release(State(state): State<ApiState>, Args((site, group)): Args<(String, String)>) -> Answer {
    let store = state.store.clone();
    blocking(move || {
        let site = known_site(&store, &site)?.name;
        let group: GroupName = name(&group)?;
        if store.lift_hold(&site, &group)? {
            return Ok(());
        }
        let detail =
            format!("schedules of {site} are not held on group {group}; `pressrun schedule holds` shows holds");
        Err(Problem::new(StatusCode::NOT_FOUND, "no-hold", detail))
    })
    .await?;
    nothing()
}
