//! The fleet as it is: servers, segments, and all of it in one line.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use axum::extract::State;
use axum::http::StatusCode;
use common::channel;
use common::credential::Roles;
use common::digest::Version;
use common::ids::{SegmentName, ServerId, ServerName, SiteName};
use serde::{Deserialize, Serialize};

use super::ApiState;
use super::extract::{Answer, Args, Body, answer, blocking, items, name, nothing, ok};
use super::problem::Problem;
use crate::store::{Own, RunState, RunSummary, ServerRecord, Store, StoreError, Thing, rfc3339};

/// How a server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServerState {
    /// Alive, and live is what it should be.
    Online,
    /// Not heard of.
    Offline,
    /// Alive, and some site is not the version it should be.
    Stale,
}

/// What a server holds of a site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerSite {
    /// The site.
    pub site: SiteName,
    /// What is live, as last reported.
    pub live: Option<Version>,
    /// What is in the backup, as last reported.
    pub backup: Option<Version>,
    /// The server's high-water mark.
    pub sequence: u64,
    /// Whether live is another version than it should be.
    pub stale: bool,
    /// Why it is to have another version than its group; `None`: it is to have its group's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own: Option<Own>,
}

/// A server for people and programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerView {
    /// Its name.
    pub server: ServerName,
    /// Its identity, in hexadecimal digits.
    pub id: String,
    /// Its segment.
    pub segment: SegmentName,
    /// How it is.
    pub state: ServerState,
    /// Whether it leads its segment.
    pub leader: bool,
    /// What it may be.
    pub roles: Roles,
    /// What it holds.
    pub sites: Vec<ServerSite>,
    /// Free space below its roots, in bytes.
    pub disk_free_bytes: Option<u64>,
    /// Processors.
    pub cpus: Option<u16>,
    /// Load average of the last minute, in hundredths.
    pub load_percent: Option<u32>,
    /// Version of pressrun it runs.
    pub software: Option<String>,
    /// Where it stands.
    pub location: String,
    /// When it was last reported.
    pub last_seen: Option<String>,
}

/// A segment for people and programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentView {
    /// Its name.
    pub segment: SegmentName,
    /// Its group leader, while it is alive.
    pub leader: Option<ServerName>,
    /// The highest epoch that was reported.
    pub epoch: u64,
    /// Servers that are enrolled in it.
    pub servers: usize,
    /// Of these, alive.
    pub online: usize,
}

/// Servers by state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerCounts {
    /// See [`ServerState::Online`].
    pub online: usize,
    /// See [`ServerState::Offline`].
    pub offline: usize,
    /// See [`ServerState::Stale`].
    pub stale: usize,
}

/// Runs that are not over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunCounts {
    /// Waiting for their turn, or paused.
    pub queued: usize,
    /// Under way.
    pub running: usize,
}

/// Everything in one line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the CCM.
    pub version: String,
    /// The cluster, in hexadecimal digits.
    pub cluster: String,
    /// Servers by state.
    pub servers: ServerCounts,
    /// How many segments.
    pub segments: usize,
    /// How many sites.
    pub sites: usize,
    /// Runs that are not over.
    pub runs: RunCounts,
    /// The newest run.
    pub last_run: Option<RunSummary>,
}

/// All servers, by name, given which are alive.
///
/// # Errors
/// [`StoreError`].
pub fn servers(store: &Store, online: &BTreeSet<ServerId>) -> Result<Vec<ServerView>, StoreError> {
    let own = store.own_versions(None)?;
    let mut wanted: BTreeMap<ServerId, BTreeMap<SiteName, Version>> = BTreeMap::new();
    for (site, _, server, version) in store.all_wanted()? {
        wanted.entry(server).or_default().insert(site, version);
    }
    let leaders: BTreeSet<ServerId> = store.leaders()?.into_iter().filter_map(|segment| segment.leader).collect();
    let nothing = BTreeMap::new();
    let view = |server: ServerRecord| {
        let is_online = online.contains(&server.id);
        let is_leader = is_online && leaders.contains(&server.id);
        let wanted = wanted.get(&server.id).unwrap_or(&nothing);
        let id = server.id;
        let mut view = server_view(server, wanted, is_online, is_leader);
        for site in &mut view.sites {
            site.own = own.get(&(site.site.clone(), id)).map(|own| own.own);
        }
        view
    };
    Ok(store.servers()?.into_iter().map(view).collect())
}

fn server_view(
    server: ServerRecord,
    wanted: &BTreeMap<SiteName, Version>,
    is_online: bool,
    is_leader: bool,
) -> ServerView {
    let mut sites: BTreeMap<SiteName, ServerSite> = wanted
        .keys()
        .map(|site| {
            let nothing =
                ServerSite { site: site.clone(), live: None, backup: None, sequence: 0, stale: true, own: None };
            (site.clone(), nothing)
        })
        .collect();
    for held in server.info.iter().flat_map(|info| &info.sites) {
        let stale = wanted.get(&held.site).is_some_and(|wanted| held.live != Some(*wanted));
        let site = ServerSite {
            site: held.site.clone(),
            live: held.live,
            backup: held.backup,
            sequence: held.sequence.0,
            stale,
            own: None,
        };
        sites.insert(held.site.clone(), site);
    }
    let state = match (is_online, sites.values().any(|site| site.stale)) {
        (false, true | false) => ServerState::Offline,
        (true, true) => ServerState::Stale,
        (true, false) => ServerState::Online,
    };
    let info = server.info.as_ref();
    ServerView {
        id: server.id.to_string(),
        segment: server.segment,
        state,
        leader: is_leader,
        roles: server.roles,
        sites: sites.into_values().collect(),
        disk_free_bytes: info.map(|info| info.disk_free_bytes),
        cpus: info.map(|info| info.cpus),
        load_percent: info.map(|info| info.load_percent),
        software: info.map(|info| info.software.clone()),
        location: server.location,
        last_seen: server.last_seen.map(rfc3339::to_text),
        server: server.name,
    }
}

/// All segments, by name, given which servers are alive.
///
/// # Errors
/// [`StoreError`].
pub fn segments(store: &Store, online: &BTreeSet<ServerId>) -> Result<Vec<SegmentView>, StoreError> {
    let servers = store.servers()?;
    let view = |segment: crate::store::SegmentLeader| {
        let leader = segment.leader.filter(|leader| online.contains(leader));
        let name_of = |id| servers.iter().find(|server| server.id == id).map(|server| server.name.clone());
        let members = || servers.iter().filter(|server| server.segment == segment.segment);
        SegmentView {
            leader: leader.and_then(name_of),
            epoch: segment.epoch,
            servers: members().count(),
            online: members().filter(|server| online.contains(&server.id)).count(),
            segment: segment.segment.clone(),
        }
    };
    Ok(store.leaders()?.into_iter().map(view).collect())
}

/// Everything in one line, given which servers are alive.
///
/// # Errors
/// [`StoreError`].
pub fn status(store: &Store, cluster: &str, online: &BTreeSet<ServerId>) -> Result<Status, StoreError> {
    let mut counts = ServerCounts::default();
    for server in servers(store, online)? {
        match server.state {
            ServerState::Online => counts.online += 1,
            ServerState::Offline => counts.offline += 1,
            ServerState::Stale => counts.stale += 1,
        }
    }
    let mut runs = RunCounts::default();
    for (run, _, _) in store.unfinished_runs()? {
        if matches!(run.state, RunState::Queued | RunState::Paused) {
            runs.queued += 1;
        } else {
            runs.running += 1;
        }
    }
    Ok(Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        cluster: cluster.to_owned(),
        servers: counts,
        segments: store.segments()?.len(),
        sites: store.sites()?.len(),
        runs,
        last_run: store.runs(None, 1)?.pop(),
    })
}

pub(super) async fn list_servers(State(state): State<ApiState>) -> Answer {
    let online = state.operations.online();
    items(&blocking(move || servers(&state.store, &online)).await?)
}

pub(super) async fn remove_server(State(state): State<ApiState>, Args(server): Args<String>) -> Answer {
    let server: ServerName = name(&server)?;
    blocking(move || {
        let record = state.store.server_named(&server)?;
        let record = record.ok_or_else(|| Problem::unknown(Thing::Server, server.as_str()))?;
        state.store.remove_server(&record.id).map_err(Problem::from)
    })
    .await?;
    nothing()
}

pub(super) async fn list_segments(State(state): State<ApiState>) -> Answer {
    let online = state.operations.online();
    items(&blocking(move || segments(&state.store, &online)).await?)
}

pub(super) async fn show_status(State(state): State<ApiState>) -> Answer {
    let online = state.operations.online();
    let cluster = state.trust.cluster().to_string();
    ok(&blocking(move || status(&state.store, &cluster, &online)).await?)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MoveBody {
    control: String,
}

#[derive(Serialize)]
struct MoveView {
    segment: SegmentName,
    control: SocketAddr,
}

/// The leader is told; the segment has moved when every member has said that it listens there.
pub(super) async fn move_segment(
    State(state): State<ApiState>,
    Args(segment): Args<String>,
    Body(body): Body<MoveBody>,
) -> Answer {
    let segment: SegmentName = name(&segment)?;
    let control = channel::parse(&body.control).map_err(|e| Problem::invalid("bad-channel", e.to_string()))?;
    let (store, known) = (state.store.clone(), segment.clone());
    let found = blocking(move || store.segment(&known)).await?;
    found.ok_or_else(|| Problem::unknown(Thing::Segment, segment.as_str()))?;
    state.operations.move_segment(segment.clone(), control)?;
    answer(StatusCode::ACCEPTED, &MoveView { segment, control })
}
