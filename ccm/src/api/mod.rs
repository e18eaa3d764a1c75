//! The CCM's HTTP API and the console's files.
//!
//! Everything a person or program can do goes through here; commands and console are clients. In
//! reading order: who may call what ([`guard`]), what is asked of the engine ([`operations`]), how
//! errors are said ([`problem`]), then the routes by subject.
//!
//! Leaves to others: listeners and TLS (the router is served as it is on both), carrying runs out
//! ([`operations::Operations`]), making the console's files (`assets`).

mod access;
mod console;
pub mod events;
mod extract;
pub mod fleet;
pub mod guard;
mod limits;
pub mod operations;
pub mod problem;
mod roster;
mod runs;
mod schedules;
mod sites;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::SystemTime;

use axum::extract::DefaultBodyLimit;
use axum::http::Method;
use axum::{Router, middleware};
use common::time::WallTime;

use crate::store::Store;
use crate::trust::Trust;
use guard::{Permission, Routes};
use operations::Operations;

pub use events::{FLEET_EVENT, RUN_EVENT, add_fleet_event, add_run_event};

/// Largest body of a request, in bytes.
pub const BODY_BYTES_MAX: usize = 1 << 20;

/// Finds one of the console's files by its path (`index.html`, `assets/…`): bytes and media type.
pub type Assets = fn(&str) -> Option<(Cow<'static, [u8]>, &'static str)>;

/// What the routes work with. Clones share everything but [`ApiState::https`].
#[derive(Clone)]
pub struct ApiState {
    /// What the CCM knows.
    pub store: Store,
    /// Who is who.
    pub trust: Arc<Trust>,
    /// Carries out what is accepted.
    pub operations: Arc<dyn Operations>,
    /// The console's files.
    pub assets: Assets,
    /// Whether this listener speaks TLS: session cookies are then for TLS only.
    pub https: bool,
    /// Tells the time.
    pub clock: fn() -> WallTime,
    limits: Arc<limits::Limits>,
}

impl ApiState {
    /// State for a plain loopback listener with the system's clock.
    #[must_use]
    pub fn new(store: Store, trust: Arc<Trust>, operations: Arc<dyn Operations>, assets: Assets) -> Self {
        Self { store, trust, operations, assets, https: false, clock: system_clock, limits: Arc::default() }
    }

    /// The same for a listener that speaks TLS.
    #[must_use]
    pub fn for_https(self) -> Self {
        Self { https: true, ..self }
    }
}

/// The system's wall clock.
#[must_use]
pub fn system_clock() -> WallTime {
    SystemTime::now().into()
}

/// All routes, ready to be served.
pub fn router(state: ApiState) -> Router {
    routes(state)
        .finish()
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .layer(middleware::map_response(console::add_security_headers))
}

fn routes(state: ApiState) -> Routes {
    use Permission::{Admin, Operate, Public, Publish, Server, View};
    let (get, post, delete) = (Method::GET, Method::POST, Method::DELETE);
    Routes::new(state)
        .route(get.clone(), "/", Public, console::index)
        .route(get.clone(), "/assets/{*path}", Public, console::asset)
        .route(get.clone(), "/favicon.ico", Public, console::favicon_ico)
        .route(get.clone(), "/favicon.svg", Public, console::favicon_svg)
        .route(get.clone(), "/livez", Public, console::livez)
        .route(get.clone(), "/readyz", Public, console::readyz)
        .route(get.clone(), "/api/v1/root", Public, access::root)
        .route(post.clone(), "/api/v1/enroll", Public, access::enroll)
        .route(post.clone(), "/api/v1/roster", Server, roster::exchange)
        .route(post.clone(), "/api/v1/login", Public, access::login)
        .route(post.clone(), "/api/v1/logout", View, access::logout)
        .route(get.clone(), "/api/v1/me", View, access::me)
        .route(post.clone(), "/api/v1/tokens", Admin, access::create_token)
        .route(get.clone(), "/api/v1/tokens", Admin, access::list_tokens)
        .route(delete.clone(), "/api/v1/tokens/{id}", Admin, access::delete_token)
        .route(post.clone(), "/api/v1/sites", Operate, sites::create_site)
        .route(get.clone(), "/api/v1/sites", View, sites::list_sites)
        .route(get.clone(), "/api/v1/sites/{site}", View, sites::show_site)
        .route(delete.clone(), "/api/v1/sites/{site}", Operate, sites::delete_site)
        .route(post.clone(), "/api/v1/groups", Operate, sites::create_group)
        .route(get.clone(), "/api/v1/groups", View, sites::list_groups)
        .route(get.clone(), "/api/v1/sites/{site}/groups/{group}", View, sites::show_group)
        .route(delete.clone(), "/api/v1/sites/{site}/groups/{group}", Operate, sites::delete_group)
        .route(post.clone(), "/api/v1/sites/{site}/diff", Publish, runs::diff)
        .route(post.clone(), "/api/v1/sites/{site}/publish", Publish, runs::publish)
        .route(post.clone(), "/api/v1/sites/{site}/rollback", Publish, runs::rollback)
        .route(post.clone(), "/api/v1/sites/{site}/audit", Publish, runs::audit)
        .route(post.clone(), "/api/v1/sites/{site}/synchronize", Publish, runs::synchronize)
        .route(post.clone(), "/api/v1/sites/{site}/replicate", Publish, runs::replicate)
        .route(post.clone(), "/api/v1/sites/{site}/remove", Operate, runs::remove)
        .route(post.clone(), "/api/v1/sites/{site}/hot", Publish, runs::hot)
        .route(post.clone(), "/api/v1/sites/{site}/switch", Publish, runs::switch)
        .route(post.clone(), "/api/v1/sites/{site}/policy", Operate, sites::set_policy)
        .route(post.clone(), "/api/v1/sites/{site}/checkpoints", Operate, runs::create_checkpoint)
        .route(get.clone(), "/api/v1/sites/{site}/checkpoints", View, runs::list_checkpoints)
        .route(delete.clone(), "/api/v1/sites/{site}/checkpoints/{name}", Operate, runs::delete_checkpoint)
        .route(post.clone(), "/api/v1/sites/{site}/checkpoints/{name}/restore", Publish, runs::restore)
        .route(get.clone(), "/api/v1/runs", View, runs::list_runs)
        .route(get.clone(), "/api/v1/runs/{run}", View, runs::show_run)
        .route(post.clone(), "/api/v1/runs/{run}/cancel", Publish, runs::cancel)
        .route(post.clone(), "/api/v1/runs/{run}/pause", Publish, runs::pause)
        .route(post.clone(), "/api/v1/runs/{run}/resume", Publish, runs::resume)
        .route(post.clone(), "/api/v1/schedules", Operate, schedules::create)
        .route(get.clone(), "/api/v1/schedules", View, schedules::list)
        .route(get.clone(), "/api/v1/schedules/{schedule}", View, schedules::show)
        .route(delete.clone(), "/api/v1/schedules/{schedule}", Operate, schedules::delete)
        .route(post.clone(), "/api/v1/schedules/{schedule}/pause", Operate, schedules::pause)
        .route(post.clone(), "/api/v1/schedules/{schedule}/resume", Operate, schedules::resume)
        .route(post.clone(), "/api/v1/schedules/{schedule}/skip", Operate, schedules::skip)
        .route(get.clone(), "/api/v1/holds", View, schedules::list_holds)
        .route(delete.clone(), "/api/v1/sites/{site}/groups/{group}/hold", Publish, schedules::release)
        .route(get.clone(), "/api/v1/servers", View, fleet::list_servers)
        .route(delete, "/api/v1/servers/{server}", Admin, fleet::remove_server)
        .route(get.clone(), "/api/v1/segments", View, fleet::list_segments)
        .route(post, "/api/v1/segments/{segment}/move", Admin, fleet::move_segment)
        .route(get.clone(), "/api/v1/status", View, fleet::show_status)
        .route(get, "/api/v1/events", View, events::follow)
}
