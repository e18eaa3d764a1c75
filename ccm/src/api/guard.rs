//! Who may call what: no route without its permission.
//!
//! [`Routes::route`] is the only way to add a route, and it takes the permission; the check runs
//! before the handler and before the body is read. A bearer token is proof enough. A session cookie
//! is sent by the browser whoever asked for it, so a write with a cookie must also come from a page
//! of the same origin.

use axum::Router;
use axum::extract::{Request, State};
use axum::handler::Handler;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodFilter, on};

use super::ApiState;
use super::extract::blocking;
use super::problem::Problem;
use crate::store::Role;
use crate::trust::login::Principal;
use transfer::tls::Peer;

/// Name of the session cookie.
pub const SESSION_COOKIE: &str = "pressrun_session";

/// What a caller must be allowed to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Permission {
    /// Nothing: anybody may call it.
    Public,
    /// Look.
    View,
    /// Publish, roll back, restore, switch, pause, cancel.
    Publish,
    /// Set up sites and groups, make and remove checkpoints, take content off servers.
    Operate,
    /// Admit and remove servers.
    Admin,
    /// Be a server, by the certificate that it got when it enrolled; no role of a person has it.
    Server,
}

impl Permission {
    /// The least role that has it; `None`: nobody needs one, or none suffices.
    #[must_use]
    pub fn role(self) -> Option<Role> {
        match self {
            Self::Public | Self::Server => None,
            Self::View => Some(Role::Viewer),
            Self::Publish => Some(Role::Publisher),
            Self::Operate => Some(Role::Operator),
            Self::Admin => Some(Role::Admin),
        }
    }
}

/// A route as it was added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteEntry {
    /// The method.
    pub method: Method,
    /// The path, with variables in braces.
    pub path: String,
    /// What a caller needs.
    pub permission: Permission,
}

/// Routes under construction.
pub(super) struct Routes {
    state: ApiState,
    router: Router<ApiState>,
    pub(super) table: Vec<RouteEntry>,
}

impl Routes {
    pub(super) fn new(state: ApiState) -> Self {
        Self { state, router: Router::new(), table: Vec::new() }
    }

    /// Adds a route with the permission it needs.
    pub(super) fn route<H, T>(mut self, method: Method, path: &str, permission: Permission, handler: H) -> Self
    where
        H: Handler<T, ApiState>,
        T: 'static,
    {
        let filter = MethodFilter::try_from(method.clone()).expect("a method that HTTP/1.1 defines");
        let guard = middleware::from_fn_with_state((self.state.clone(), permission), authorize);
        self.router = self.router.route(path, on(filter, handler).route_layer(guard));
        self.table.push(RouteEntry { method, path: path.to_owned(), permission });
        self
    }

    pub(super) fn finish(self) -> Router {
        self.router.fallback(no_route).method_not_allowed_fallback(no_method).with_state(self.state)
    }
}

async fn no_route() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "no-route", "there is nothing at this address; the API is below /api/v1")
}

async fn no_method() -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "no-method", "this address does not take this method")
}

async fn authorize(
    State((state, permission)): State<(ApiState, Permission)>,
    mut request: Request,
    next: Next,
) -> Response {
    if permission == Permission::Server && !matches!(request.extensions().get(), Some(Peer::Server(_))) {
        let detail = "this is for servers, by their certificates";
        return Problem::new(StatusCode::UNAUTHORIZED, "no-certificate", detail).into_response();
    }
    let Some(role) = permission.role() else { return next.run(request).await };
    match identify(&state, request.method(), request.headers()).await {
        Ok(principal) if principal.role >= role => {
            request.extensions_mut().insert(principal);
            next.run(request).await
        }
        Ok(principal) => {
            let detail = format!(
                "{} is a {}; this needs the role {} or more",
                principal.name,
                principal.role.as_str(),
                role.as_str()
            );
            Problem::new(StatusCode::FORBIDDEN, "forbidden", detail).into_response()
        }
        Err(problem) => problem.into_response(),
    }
}

async fn identify(state: &ApiState, method: &Method, headers: &HeaderMap) -> Result<Principal, Problem> {
    let unauthorized = |code, detail: &str| Problem::new(StatusCode::UNAUTHORIZED, code, detail);
    let (trust, now) = (state.trust.clone(), (state.clock)());
    if let Some(header) = headers.get(header::AUTHORIZATION) {
        let token = header.to_str().ok().and_then(|text| text.strip_prefix("Bearer ")).unwrap_or("").trim().to_owned();
        let principal = blocking(move || trust.bearer(&token, now)).await?;
        return principal.ok_or_else(|| unauthorized("bad-token", "the API token is unknown or has expired"));
    }
    let Some(cookie) = session_cookie(headers) else {
        return Err(unauthorized("unauthorized", "log in, or send an API token: Authorization: Bearer …"));
    };
    let principal = blocking(move || trust.session(&cookie, now)).await?;
    let principal = principal.ok_or_else(|| unauthorized("session-over", "the session is over; log in again"))?;
    if !method.is_safe() && !is_same_origin(headers) {
        let detail = "a change with a session must come from the console's own pages";
        return Err(Problem::new(StatusCode::FORBIDDEN, "bad-origin", detail));
    }
    Ok(principal)
}

fn session_cookie(headers: &HeaderMap) -> Option<String> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    cookies
        .flat_map(|value| value.split(';'))
        .find_map(|cookie| cookie.trim().strip_prefix(SESSION_COOKIE)?.strip_prefix('='))
        .map(str::to_owned)
}

/// Whether the page that sent this request came from this very host and port.
pub(super) fn is_same_origin(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let (Some(origin), Some(host)) = (text(header::ORIGIN), text(header::HOST)) else { return false };
    let authority = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
    authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host))
}
