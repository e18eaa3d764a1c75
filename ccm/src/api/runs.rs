//! Publishing and what else becomes a run; checkpoints; following runs.

use std::collections::BTreeSet;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use common::digest::Version;
use common::ids::{CheckpointName, GroupName, RunNumber, ServerName, SiteName};
use common::path::ContentPath;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout_at};

use super::ApiState;
use super::extract::{Answer, Args, Body, Params, answer, blocking, items, name, nothing, ok};
use super::operations::{
    Accepted, AuditRequest, CheckpointRequest, DiffRequest, HotRequest, MendRequest, PublishRequest, RemoveRequest,
    RestoreRequest, RollbackRequest, SwitchRequest,
};
use super::problem::Problem;
use super::sites::{known_group, known_site};
use crate::engine::own::Whom;
use crate::engine::quorum::{Quorum, QuorumError};
use crate::store::{Checkpoint, Run, Thing, rfc3339};

/// Longest that a request waits for a run, in seconds; clients ask again.
const WAIT_SECONDS_MAX: u64 = 600;

/// Longest that a run may be given, in seconds: a week.
const TIMEOUT_SECONDS_MAX: u64 = 7 * 24 * 3600;

/// Most paths of a hot publish: whoever names more means a publish.
const HOT_PATHS_MAX: usize = 1000;

/// How many runs are listed when nobody says how many.
const RUNS_DEFAULT: usize = 50;

/// Most runs that are listed at once.
const RUNS_MAX: usize = 1000;

/// Checks the site and the group that a request names.
async fn target(
    state: &ApiState,
    site: String,
    group: Option<GroupName>,
) -> Result<(SiteName, Option<GroupName>), Problem> {
    let store = state.store.clone();
    blocking(move || {
        let site = known_site(&store, &site)?.name;
        let group = known_group(&store, &site, group)?;
        Ok::<_, Problem>((site, group))
    })
    .await
}

pub(super) fn quorum(text: Option<&str>) -> Result<Option<Quorum>, Problem> {
    text.map(str::parse).transpose().map_err(|e: QuorumError| Problem::invalid("bad-quorum", e.to_string()))
}

fn run_timeout(seconds: Option<u64>) -> Result<Option<Duration>, Problem> {
    if seconds.is_some_and(|seconds| !(1..=TIMEOUT_SECONDS_MAX).contains(&seconds)) {
        return Err(Problem::invalid("bad-timeout", format!("a run takes 1 to {TIMEOUT_SECONDS_MAX} seconds")));
    }
    Ok(seconds.map(Duration::from_secs))
}

fn accepted(accepted: &Accepted) -> Answer {
    answer(StatusCode::ACCEPTED, accepted)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DiffBody {
    group: Option<GroupName>,
    #[serde(default)]
    text: bool,
}

pub(super) async fn diff(
    State(state): State<ApiState>,
    Args(site): Args<String>,
    Body(body): Body<DiffBody>,
) -> Answer {
    let (site, group) = target(&state, site, body.group).await?;
    ok(&state.operations.diff(DiffRequest { site, group, text: body.text }).await?)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PublishBody {
    group: Option<GroupName>,
    quorum: Option<String>,
    #[serde(default)]
    adopt: bool,
    #[serde(default)]
    create_live: bool,
    timeout_seconds: Option<u64>,
    #[serde(default)]
    stage_only: bool,
    #[serde(default)]
    commit: Commit,
}

/// Who decides when what is staged goes live.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Commit {
    /// The CCM, when enough servers have prepared.
    #[default]
    Coordinated,
    /// Each server, as soon as it has.
    Autonomous,
}

pub(super) async fn publish(
    State(state): State<ApiState>,
    Args(site): Args<String>,
    Body(body): Body<PublishBody>,
) -> Answer {
    let quorum = quorum(body.quorum.as_deref())?;
    let timeout = run_timeout(body.timeout_seconds)?;
    let (site, group) = target(&state, site, body.group.clone()).await?;
    let PublishBody { adopt, create_live, stage_only, commit, .. } = body;
    let autonomous = commit == Commit::Autonomous;
    if stage_only && autonomous {
        let detail = "what is only staged does not go live by itself: give either \"stage_only\" or \"commit\"";
        return Err(Problem::invalid("bad-commit", detail));
    }
    let request = PublishRequest { site, group, quorum, adopt, create_live, timeout, stage_only, autonomous };
    accepted(&state.operations.publish(request).await?)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BackBody {
    group: Option<GroupName>,
    quorum: Option<String>,
}

pub(super) async fn rollback(
    State(state): State<ApiState>,
    Args(site): Args<String>,
    Body(body): Body<BackBody>,
) -> Answer {
    let quorum = quorum(body.quorum.as_deref())?;
    let (site, group) = target(&state, site, body.group).await?;
    accepted(&state.operations.rollback(RollbackRequest { site, group, quorum }).await?)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AuditBody {
    group: Option<GroupName>,
    #[serde(default)]
    full: bool,
    #[serde(default)]
    repair: bool,
    timeout_seconds: Option<u64>,
}

pub(super) async fn audit(
    State(state): State<ApiState>,
    Args(site): Args<String>,
    Body(body): Body<AuditBody>,
) -> Answer {
    let timeout = run_timeout(body.timeout_seconds)?;
    let (site, group) = target(&state, site, body.group).await?;
    let request = AuditRequest { site, group, full: body.full, repair: body.repair, timeout };
    accepted(&state.operations.audit(request).await?)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MendBody {
    group: Option<GroupName>,
    #[serde(default)]
    servers: Vec<ServerName>,
}

pub(super) async fn synchronize(state: State<ApiState>, site: Args<String>, body: Body<MendBody>) -> Answer {
    mend(state, site, body, false).await
}

pub(super) async fn replicate(state: State<ApiState>, site: Args<String>, body: Body<MendBody>) -> Answer {
    mend(state, site, body, true).await
}

async fn mend(
    State(state): State<ApiState>,
    Args(site): Args<String>,
    Body(body): Body<MendBody>,
    replicate: bool,
) -> Answer {
    let (site, group) = target(&state, site, body.group).await?;
    let request = MendRequest { site, group, servers: body.servers, replicate };
    accepted(&state.operations.mend(request).await?)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RemoveBody {
    group: Option<GroupName>,
    #[serde(default)]
    servers: Vec<ServerName>,
    #[serde(default)]
    keep_content: bool,
    quorum: Option<String>,
}

/// Content is removed only from what somebody has named.
pub(super) fn named_to_be_removed(group: Option<&GroupName>, servers: &[ServerName]) -> Result<(), Problem> {
    if group.is_none() && servers.is_empty() {
        let detail = "say from which servers the content is to be removed: \"servers\" by name, or a whole \"group\"";
        return Err(Problem::invalid("no-servers", detail));
    }
    Ok(())
}

pub(super) async fn remove(
    State(state): State<ApiState>,
    Args(site): Args<String>,
    Body(body): Body<RemoveBody>,
) -> Answer {
    let quorum = quorum(body.quorum.as_deref())?;
    named_to_be_removed(body.group.as_ref(), &body.servers)?;
    let (site, group) = target(&state, site, body.group).await?;
    let RemoveBody { servers, keep_content, .. } = body;
    accepted(&state.operations.remove(RemoveRequest { site, group, servers, keep_content, quorum }).await?)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct HotBody {
    group: Option<GroupName>,
    paths: Vec<String>,
    #[serde(default)]
    servers: Vec<ServerName>,
    /// How many servers; those with the least load are taken.
    count: Option<u32>,
    quorum: Option<String>,
}

/// The paths of a hot publish, in good form and not too many.
pub(super) fn hot_paths(paths: &[String]) -> Result<BTreeSet<ContentPath>, Problem> {
    if paths.is_empty() || paths.len() > HOT_PATHS_MAX {
        let detail = format!("a hot publish takes 1 to {HOT_PATHS_MAX} paths; for more there is `pressrun publish`");
        return Err(Problem::invalid("bad-paths", detail));
    }
    let path = |text: &String| {
        let path = text.trim_end_matches('/').parse::<ContentPath>();
        path.map_err(|error| Problem::invalid("bad-path", format!("{text:?} is no path of content: {error}")))
    };
    paths.iter().map(path).collect()
}

/// For which servers a hot publish is.
pub(super) fn whom(servers: Vec<ServerName>, count: Option<u32>) -> Result<Whom, Problem> {
    match (servers, count) {
        (servers, None) if !servers.is_empty() => Ok(Whom::Named(servers)),
        (servers, Some(count)) if servers.is_empty() && count > 0 => Ok(Whom::LeastBusy(count)),
        (_, Some(_) | None) => {
            let detail = "say for which servers: either \"servers\" by name, or a \"count\" of at least 1";
            Err(Problem::invalid("no-servers", detail))
        }
    }
}

pub(super) async fn hot(State(state): State<ApiState>, Args(site): Args<String>, Body(body): Body<HotBody>) -> Answer {
    let quorum = quorum(body.quorum.as_deref())?;
    let paths = hot_paths(&body.paths)?;
    let whom = whom(body.servers, body.count)?;
    let (site, group) = target(&state, site, body.group).await?;
    accepted(&state.operations.hot(HotRequest { site, group, whom, paths, quorum }).await?)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SwitchBody {
    group: Option<GroupName>,
    #[serde(default)]
    servers: Vec<ServerName>,
    quorum: Option<String>,
}

pub(super) async fn switch(
    State(state): State<ApiState>,
    Args(site): Args<String>,
    Body(body): Body<SwitchBody>,
) -> Answer {
    let quorum = quorum(body.quorum.as_deref())?;
    let (site, group) = target(&state, site, body.group).await?;
    accepted(&state.operations.switch(SwitchRequest { site, group, servers: body.servers, quorum }).await?)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CheckpointBody {
    name: Option<CheckpointName>,
    group: Option<GroupName>,
}

#[derive(Serialize)]
struct CheckpointView {
    name: CheckpointName,
    group: GroupName,
    version: Version,
    created: String,
    run: Option<RunNumber>,
}

impl From<Checkpoint> for CheckpointView {
    fn from(checkpoint: Checkpoint) -> Self {
        Self {
            name: checkpoint.name,
            group: checkpoint.group,
            version: checkpoint.version,
            created: rfc3339::to_text(checkpoint.created),
            run: checkpoint.run,
        }
    }
}

async fn find_checkpoint(
    state: &ApiState,
    site: &SiteName,
    name: &CheckpointName,
) -> Result<Option<Checkpoint>, Problem> {
    let (store, site, name) = (state.store.clone(), site.clone(), name.clone());
    blocking(move || store.checkpoint(&site, &name)).await
}

pub(super) async fn create_checkpoint(
    State(state): State<ApiState>,
    Args(site): Args<String>,
    Body(body): Body<CheckpointBody>,
) -> Answer {
    let (site, group) = target(&state, site, body.group).await?;
    if let Some(name) = &body.name
        && find_checkpoint(&state, &site, name).await?.is_some()
    {
        return Err(Problem::exists(Thing::Checkpoint, name.as_str()));
    }
    let request = CheckpointRequest { site, group, name: body.name };
    let checkpoint = state.operations.checkpoint(request).await?;
    answer(StatusCode::CREATED, &CheckpointView::from(checkpoint))
}

pub(super) async fn list_checkpoints(State(state): State<ApiState>, Args(site): Args<String>) -> Answer {
    let checkpoints = blocking(move || {
        let site = known_site(&state.store, &site)?;
        state.store.checkpoints(&site.name).map_err(Problem::from)
    })
    .await?;
    items(&checkpoints.into_iter().map(CheckpointView::from).collect::<Vec<_>>())
}

pub(super) async fn delete_checkpoint(State(state): State<ApiState>, Args(args): Args<(String, String)>) -> Answer {
    blocking(move || {
        let site = known_site(&state.store, &args.0)?;
        let checkpoint: CheckpointName = name(&args.1)?;
        state.store.delete_checkpoint(&site.name, &checkpoint).map_err(Problem::from)
    })
    .await?;
    nothing()
}

pub(super) async fn restore(
    State(state): State<ApiState>,
    Args(args): Args<(String, String)>,
    Body(body): Body<BackBody>,
) -> Answer {
    let quorum = quorum(body.quorum.as_deref())?;
    let checkpoint: CheckpointName = name(&args.1)?;
    let (site, group) = target(&state, args.0, body.group).await?;
    if find_checkpoint(&state, &site, &checkpoint).await?.is_none() {
        return Err(Problem::unknown(Thing::Checkpoint, checkpoint.as_str()));
    }
    accepted(&state.operations.restore(RestoreRequest { site, checkpoint, group, quorum }).await?)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RunsQuery {
    site: Option<String>,
    limit: Option<usize>,
}

pub(super) async fn list_runs(State(state): State<ApiState>, Params(query): Params<RunsQuery>) -> Answer {
    let limit = query.limit.unwrap_or(RUNS_DEFAULT).clamp(1, RUNS_MAX);
    // Runs outlive their site, so that the site need not be known any more.
    let site: Option<SiteName> = query.site.as_deref().map(name).transpose()?;
    items(&blocking(move || state.store.runs(site.as_ref(), limit)).await?)
}

async fn known_run(state: &ApiState, number: RunNumber) -> Result<Run, Problem> {
    let store = state.store.clone();
    let run = blocking(move || store.run(number)).await?;
    run.ok_or_else(|| Problem::unknown(Thing::Run, &number.to_string()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RunQuery {
    wait: Option<u64>,
}

pub(super) async fn show_run(
    State(state): State<ApiState>,
    Args(number): Args<u64>,
    Params(query): Params<RunQuery>,
) -> Answer {
    let number = RunNumber(number);
    let Some(seconds) = query.wait.filter(|seconds| *seconds > 0) else {
        return ok(&known_run(&state, number).await?);
    };
    let until = Instant::now() + Duration::from_secs(seconds.min(WAIT_SECONDS_MAX));
    let mut changes = state.operations.changes();
    let mut place = None;
    loop {
        // Seen before the run is read: a change in between wakes us again.
        changes.borrow_and_update();
        let run = known_run(&state, number).await?;
        if run.state.is_final() {
            return ok(&run);
        }
        if place.is_none() {
            place = Some(state.limits.follower()?);
        }
        match timeout_at(until, changes.changed()).await {
            Ok(Ok(())) => (),
            Ok(Err(_)) | Err(_) => return ok(&known_run(&state, number).await?),
        }
    }
}

pub(super) async fn cancel(State(state): State<ApiState>, Args(number): Args<u64>) -> Answer {
    let number = RunNumber(number);
    let run = known_run(&state, number).await?;
    if run.state.is_final() {
        let detail = format!("run {number} is over; what it brought live can be rolled back with `pressrun rollback`");
        return Err(Problem::new(StatusCode::CONFLICT, "run-is-over", detail).with_run(Some(number)));
    }
    state.operations.cancel(number).await?;
    let run = known_run(&state, number).await?;
    accepted(&Accepted { run: number, state: run.state })
}

pub(super) async fn pause(state: State<ApiState>, number: Args<u64>) -> Answer {
    rest(state, number, true).await
}

pub(super) async fn resume(state: State<ApiState>, number: Args<u64>) -> Answer {
    rest(state, number, false).await
}

async fn rest(State(state): State<ApiState>, Args(number): Args<u64>, rest: bool) -> Answer {
    let number = RunNumber(number);
    known_run(&state, number).await?;
    state.operations.rest(number, rest).await?;
    let run = known_run(&state, number).await?;
    accepted(&Accepted { run: number, state: run.state })
}
