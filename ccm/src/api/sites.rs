//! Hosted sites and their content groups.

use std::net::SocketAddr;
use std::path::{Component, Path, PathBuf};

use axum::extract::State;
use axum::http::StatusCode;
use common::assignment::Extra;
use common::channel;
use common::exclude::Exclude;
use common::ids::{GroupName, SegmentName, ServerName, SiteName};
use serde::{Deserialize, Serialize};

use super::ApiState;
use super::extract::{Answer, Args, Body, Params, answer, blocking, items, name, nothing, ok};
use super::problem::Problem;
use crate::engine::wan;
use crate::store::{Group, Selector, Site, Store, StoreError, Thing, rfc3339};

/// Longest time that what a publish removes can be asked to linger: a week. Pages are not open for longer.
const LINGER_SECONDS_MAX: u32 = 7 * 24 * 3600;

/// The group of a site that has none: every server that is enrolled.
pub(super) const IMPLICIT_GROUP: &str = "all";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SiteBody {
    name: SiteName,
    staging: String,
    live: String,
    exclude: Option<Vec<String>>,
    wan: Option<String>,
    #[serde(default)]
    extra: Extra,
    #[serde(default)]
    linger_seconds: u32,
}

#[derive(Serialize)]
struct SiteView {
    name: SiteName,
    staging: String,
    live: String,
    exclude: Vec<String>,
    wan: String,
    extra: Extra,
    linger_seconds: u32,
    created: String,
    groups: Vec<GroupView>,
}

#[derive(Serialize)]
struct GroupView {
    name: GroupName,
    site: SiteName,
    servers: Vec<ServerName>,
    segment: Option<SegmentName>,
    all: bool,
    channel: Option<SocketAddr>,
    version: Option<String>,
    published: Option<String>,
}

fn site_view(store: &Store, site: Site) -> Result<SiteView, StoreError> {
    let groups = store.groups(Some(&site.name))?.into_iter().map(|group| group_view(store, group));
    Ok(SiteView {
        groups: groups.collect::<Result<_, _>>()?,
        staging: site.staging.to_string_lossy().into_owned(),
        name: site.name,
        live: site.live,
        exclude: site.exclude,
        wan: site.wan,
        extra: site.extra,
        linger_seconds: site.linger_seconds,
        created: rfc3339::to_text(site.created),
    })
}

fn group_view(store: &Store, group: Group) -> Result<GroupView, StoreError> {
    let view = store.view(&group.site, &group.name)?;
    let channel = store.channel(&group.site, &group.name)?;
    let members = store.members_of(&group)?.into_iter().map(|server| server.name).collect();
    let (segment, all) = match group.selector {
        Selector::Servers(_) => (None, false),
        Selector::Segment(segment) => (Some(segment), false),
        Selector::All => (None, true),
    };
    Ok(GroupView {
        name: group.name,
        site: group.site,
        servers: members,
        segment,
        all,
        channel,
        version: view.as_ref().map(|view| view.version.to_string()),
        published: view.map(|view| rfc3339::to_text(view.published)),
    })
}

/// The site of that name, or a problem that says what to do next.
pub(super) fn known_site(store: &Store, text: &str) -> Result<Site, Problem> {
    let site: SiteName = name(text)?;
    store.site(&site)?.ok_or_else(|| Problem::unknown(Thing::Site, site.as_str()))
}

/// A group that a request names: known, or the implicit one of a site that has none.
pub(super) fn known_group(
    store: &Store,
    site: &SiteName,
    group: Option<GroupName>,
) -> Result<Option<GroupName>, Problem> {
    let Some(group) = group else { return Ok(None) };
    let implicit = group.as_str() == IMPLICIT_GROUP && store.groups(Some(site))?.is_empty();
    if !implicit && store.group(site, &group)?.is_none() {
        return Err(Problem::unknown(Thing::Group, group.as_str()));
    }
    Ok(Some(group))
}

pub(super) async fn create_site(State(state): State<ApiState>, Body(body): Body<SiteBody>) -> Answer {
    let now = (state.clock)();
    let site = Site {
        name: body.name,
        staging: check_staging(&body.staging)?,
        live: check_live(body.live)?,
        exclude: body.exclude.unwrap_or_default(),
        wan: body.wan.unwrap_or_else(|| "auto".to_owned()),
        extra: body.extra,
        linger_seconds: check_linger(body.linger_seconds)?,
        created: now,
    };
    Exclude::new(&site.exclude).map_err(|e| Problem::invalid("bad-exclude", e.to_string()))?;
    if wan::policy_named(&site.wan).is_none() {
        let detail = format!("{:?} is no way across the WAN: there are auto, star and tree", site.wan);
        return Err(Problem::invalid("bad-wan", detail));
    }
    let view = blocking(move || {
        state.store.create_site(&site)?;
        site_view(&state.store, site)
    })
    .await?;
    answer(StatusCode::CREATED, &view)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PolicyBody {
    extra: Option<Extra>,
    linger_seconds: Option<u32>,
}

/// Changes what was said; what was not said stays. Runs that were accepted before take it over when they begin.
pub(super) async fn set_policy(
    State(state): State<ApiState>,
    Args(site): Args<String>,
    Body(body): Body<PolicyBody>,
) -> Answer {
    let linger_seconds = body.linger_seconds.map(check_linger).transpose()?;
    let view = blocking(move || {
        let known = known_site(&state.store, &site)?;
        let extra = body.extra.unwrap_or(known.extra);
        let linger_seconds = linger_seconds.unwrap_or(known.linger_seconds);
        state.store.set_site_policy(&known.name, extra, linger_seconds)?;
        let view = site_view(&state.store, Site { extra, linger_seconds, ..known })?;
        Ok::<_, Problem>(view)
    })
    .await?;
    ok(&view)
}

fn check_linger(seconds: u32) -> Result<u32, Problem> {
    if seconds > LINGER_SECONDS_MAX {
        let detail = format!("what is removed can linger for {LINGER_SECONDS_MAX} seconds (a week) at most");
        return Err(Problem::invalid("bad-linger", detail));
    }
    Ok(seconds)
}

fn check_staging(text: &str) -> Result<PathBuf, Problem> {
    check_directory(text, "bad-staging", "staging")
}

fn check_live(text: String) -> Result<String, Problem> {
    check_directory(&text, "bad-live", "live")?;
    if text.replace("{server}", "").contains(['{', '}']) {
        let detail = format!("the live directory {text:?} may hold {{server}}, and no other braces");
        return Err(Problem::invalid("bad-live", detail));
    }
    Ok(text)
}

/// What holds for every directory that an administrator names.
fn check_directory(text: &str, code: &'static str, which: &str) -> Result<PathBuf, Problem> {
    let bad = |why: &str| Err(Problem::invalid(code, format!("the {which} directory {text:?} {why}")));
    let path = Path::new(text);
    if !path.is_absolute() {
        return bad("must be an absolute path");
    }
    if text.chars().any(char::is_control) {
        return bad("must not hold control characters");
    }
    if path.components().any(|part| part == Component::ParentDir) {
        return bad("must not hold '..'");
    }
    if path.parent().is_none() {
        return bad("must not be the root directory");
    }
    Ok(path.to_owned())
}

pub(super) async fn list_sites(State(state): State<ApiState>) -> Answer {
    let views = blocking(move || {
        let sites = state.store.sites()?.into_iter().map(|site| site_view(&state.store, site));
        sites.collect::<Result<Vec<_>, StoreError>>()
    })
    .await?;
    items(&views)
}

pub(super) async fn show_site(State(state): State<ApiState>, Args(site): Args<String>) -> Answer {
    let view = blocking(move || {
        let site = known_site(&state.store, &site)?;
        site_view(&state.store, site).map_err(Problem::from)
    })
    .await?;
    ok(&view)
}

pub(super) async fn delete_site(State(state): State<ApiState>, Args(site): Args<String>) -> Answer {
    let site: SiteName = name(&site)?;
    blocking(move || state.store.delete_site(&site)).await?;
    nothing()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GroupBody {
    name: GroupName,
    site: SiteName,
    servers: Option<Vec<ServerName>>,
    segment: Option<SegmentName>,
    #[serde(default)]
    all: bool,
    /// Group address and port; left out, the first publish chooses one.
    channel: Option<String>,
}

pub(super) async fn create_group(State(state): State<ApiState>, Body(body): Body<GroupBody>) -> Answer {
    let selector = match (body.servers, body.segment, body.all) {
        (Some(servers), None, false) if !servers.is_empty() => Selector::Servers(servers),
        (None, Some(segment), false) => Selector::Segment(segment),
        (None, None, true) => Selector::All,
        (Some(_) | None, Some(_) | None, true | false) => {
            let detail = "a group is made of exactly one of: servers (at least one), segment, all";
            return Err(Problem::invalid("bad-selector", detail));
        }
    };
    let channel = body.channel.as_deref().map(channel::parse).transpose();
    let channel = channel.map_err(|e| Problem::invalid("bad-channel", e.to_string()))?;
    let group = Group { site: body.site, name: body.name, selector };
    let view = blocking(move || {
        check_selector(&state.store, &group.selector)?;
        state.store.create_group(&group, channel)?;
        group_view(&state.store, group).map_err(Problem::from)
    })
    .await?;
    answer(StatusCode::CREATED, &view)
}

/// A mistyped name would make a group that is quietly too small.
fn check_selector(store: &Store, selector: &Selector) -> Result<(), Problem> {
    match selector {
        Selector::Servers(names) => {
            for name in names {
                let server = store.server_named(name)?.ok_or_else(|| Problem::unknown(Thing::Server, name.as_str()))?;
                if !server.roles.server {
                    let detail = format!("{name} does not hold content: it was enrolled as a leader only");
                    return Err(Problem::invalid("not-a-server", detail));
                }
            }
            Ok(())
        }
        Selector::Segment(segment) => {
            let known = store.segment(segment)?;
            known.map(|_| ()).ok_or_else(|| Problem::unknown(Thing::Segment, segment.as_str()))
        }
        Selector::All => Ok(()),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GroupsQuery {
    site: Option<String>,
}

pub(super) async fn list_groups(State(state): State<ApiState>, Params(query): Params<GroupsQuery>) -> Answer {
    let views = blocking(move || {
        let site = query.site.map(|site| known_site(&state.store, &site)).transpose()?;
        let groups = state.store.groups(site.as_ref().map(|site| &site.name))?;
        let views = groups.into_iter().map(|group| group_view(&state.store, group));
        views.collect::<Result<Vec<_>, _>>().map_err(Problem::from)
    })
    .await?;
    items(&views)
}

pub(super) async fn show_group(State(state): State<ApiState>, Args(args): Args<(String, String)>) -> Answer {
    let view = blocking(move || {
        let site = known_site(&state.store, &args.0)?;
        let group: GroupName = name(&args.1)?;
        let known = state.store.group(&site.name, &group)?;
        let known = known.ok_or_else(|| Problem::unknown(Thing::Group, group.as_str()))?;
        group_view(&state.store, known).map_err(Problem::from)
    })
    .await?;
    ok(&view)
}

pub(super) async fn delete_group(State(state): State<ApiState>, Args(args): Args<(String, String)>) -> Answer {
    blocking(move || {
        let site = known_site(&state.store, &args.0)?;
        let group: GroupName = name(&args.1)?;
        state.store.delete_group(&site.name, &group).map_err(Problem::from)
    })
    .await?;
    nothing()
}
