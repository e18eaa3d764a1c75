//! Getting in: the root document, enrolment, join tokens, login.

use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::IntoResponse as _;
use common::credential::Roles;
use common::hex::{hex, parse_hex};
use common::ids::{SegmentName, ServerName};
use common::keys::PublicKey;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::ApiState;
use super::extract::{Answer, Args, Body, answer, blocking, items, nothing, ok};
use super::guard::{SESSION_COOKIE, is_same_origin};
use super::problem::Problem;
use crate::store::{JoinToken, rfc3339};
use crate::trust::enrol::{EnrolRequest, TokenGrant};
use crate::trust::login::{Principal, SESSION_LIFETIME};

/// Longest life of a join token, in seconds: a year.
const TOKEN_SECONDS_MAX: u64 = 365 * 24 * 3600;

/// Most servers that one join token admits.
const TOKEN_USES_MAX: u32 = 10_000;

/// Longest location, in bytes.
const LOCATION_BYTES_MAX: usize = 200;

pub(super) async fn root(State(state): State<ApiState>) -> Answer {
    Ok(([(header::CONTENT_TYPE, "application/json")], state.trust.root().to_vec()).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EnrollBody {
    token: String,
    name: ServerName,
    segment: Option<SegmentName>,
    csr: String,
    control_key: String,
    roles: Option<Roles>,
    #[serde(default)]
    location: String,
}

pub(super) async fn enroll(State(state): State<ApiState>, Body(body): Body<EnrollBody>) -> Answer {
    let control_key = parse_hex(&body.control_key)
        .map_err(|e| Problem::invalid("bad-control-key", format!("the control key: {e}")))?;
    if body.location.len() > LOCATION_BYTES_MAX || body.location.chars().any(char::is_control) {
        let detail = format!("a location is at most {LOCATION_BYTES_MAX} bytes of plain text in one line");
        return Err(Problem::invalid("bad-location", detail));
    }
    let request = EnrolRequest {
        token: body.token,
        name: body.name,
        segment: body.segment,
        csr: body.csr,
        control_key: PublicKey(control_key),
        roles: body.roles.unwrap_or_default(),
        location: body.location,
    };
    let (trust, now) = (state.trust.clone(), (state.clock)());
    let enrolled = blocking(move || trust.enrol(request, now)).await?;
    let credential = postcard::to_stdvec(&enrolled.credential).map_err(|e| Problem::internal(&e))?;
    let root: Value = serde_json::from_slice(state.trust.root()).map_err(|e| Problem::internal(&e))?;
    tracing::info!(server = %enrolled.server, "a server enrolled");
    ok(&json!({
        "server": enrolled.server.to_string(),
        "cluster": enrolled.cluster.to_string(),
        "certificate": enrolled.certificate,
        "credential": hex(&credential),
        "segment_key": hex(&enrolled.segment_key),
        "root": root,
    }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TokenBody {
    segment: Option<SegmentName>,
    uses: Option<u32>,
    ttl_seconds: Option<u64>,
    roles: Option<Roles>,
}

pub(super) async fn create_token(State(state): State<ApiState>, Body(body): Body<TokenBody>) -> Answer {
    let uses = body.uses.unwrap_or(1);
    if !(1..=TOKEN_USES_MAX).contains(&uses) {
        return Err(Problem::invalid("bad-uses", format!("a join token is for 1 to {TOKEN_USES_MAX} servers")));
    }
    let seconds = body.ttl_seconds.unwrap_or(3600);
    if !(1..=TOKEN_SECONDS_MAX).contains(&seconds) {
        let detail = format!("a join token lives for 1 to {TOKEN_SECONDS_MAX} seconds");
        return Err(Problem::invalid("bad-ttl", detail));
    }
    if body.roles.is_some_and(|roles| !roles.server && !roles.leader) {
        return Err(Problem::invalid("no-role", "a join token must grant a role: server or leader"));
    }
    let lifetime = Duration::from_secs(seconds);
    let grant = TokenGrant { segment: body.segment, uses, lifetime, roles: body.roles };
    let (trust, now) = (state.trust.clone(), (state.clock)());
    let token = blocking(move || trust.create_join_token(grant, now)).await?;
    let body = json!({ "id": token.id, "token": token.token, "expires": rfc3339::to_text(token.expires) });
    answer(StatusCode::CREATED, &body)
}

#[derive(Serialize)]
struct TokenView {
    id: String,
    segment: Option<SegmentName>,
    roles: Option<Roles>,
    uses: u32,
    uses_left: u32,
    created: String,
    expires: String,
}

impl From<JoinToken> for TokenView {
    fn from(token: JoinToken) -> Self {
        Self {
            id: token.id,
            segment: token.segment,
            roles: token.roles,
            uses: token.uses,
            uses_left: token.uses_left,
            created: rfc3339::to_text(token.created),
            expires: rfc3339::to_text(token.expires),
        }
    }
}

pub(super) async fn list_tokens(State(state): State<ApiState>) -> Answer {
    let tokens = blocking(move || state.store.join_tokens()).await?;
    items(&tokens.into_iter().map(TokenView::from).collect::<Vec<_>>())
}

pub(super) async fn delete_token(State(state): State<ApiState>, Args(id): Args<String>) -> Answer {
    blocking(move || state.store.delete_join_token(&id)).await?;
    nothing()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LoginBody {
    user: String,
    password: String,
}

pub(super) async fn login(State(state): State<ApiState>, headers: HeaderMap, Body(body): Body<LoginBody>) -> Answer {
    // Another site must not log a browser in under an account of its choice.
    if headers.contains_key(header::ORIGIN) && !is_same_origin(&headers) {
        let detail = "a login must come from the console's own pages";
        return Err(Problem::new(StatusCode::FORBIDDEN, "bad-origin", detail));
    }
    let now = (state.clock)();
    let user: String = body.user.chars().take(64).collect();
    state.limits.begin_login(&user, now)?;
    let place = state.limits.hash().await;
    let (trust, name) = (state.trust.clone(), user.clone());
    let login = blocking(move || {
        let login = trust.login(&name, &body.password, now);
        drop(place);
        login
    })
    .await?;
    let Some(login) = login else {
        return Err(Problem::new(StatusCode::UNAUTHORIZED, "wrong-password", "user or password are wrong"));
    };
    state.limits.login_succeeded(&user);
    let mut response = ok(&who(&login.principal))?;
    let cookie = cookie(&state, &login.cookie, SESSION_LIFETIME.as_secs())?;
    response.headers_mut().insert(header::SET_COOKIE, cookie);
    Ok(response)
}

pub(super) async fn logout(State(state): State<ApiState>, Extension(principal): Extension<Principal>) -> Answer {
    let expired = cookie(&state, "", 0)?;
    if let Some(session) = principal.session {
        let trust = state.trust.clone();
        blocking(move || trust.logout(&session)).await?;
    }
    let mut response = nothing()?;
    response.headers_mut().insert(header::SET_COOKIE, expired);
    Ok(response)
}

pub(super) async fn me(Extension(principal): Extension<Principal>) -> Answer {
    ok(&who(&principal))
}

fn who(principal: &Principal) -> Value {
    json!({ "user": principal.name, "role": principal.role })
}

fn cookie(state: &ApiState, value: &str, seconds: u64) -> Result<HeaderValue, Problem> {
    let secure = if state.https { "; Secure" } else { "" };
    let text = format!("{SESSION_COOKIE}={value}; Path=/; HttpOnly; SameSite=Strict; Max-Age={seconds}{secure}");
    HeaderValue::try_from(text).map_err(|e| Problem::internal(&e))
}
