//! The console's files, the headers that keep browsers strict, and whether the CCM is well.

use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};

use super::ApiState;
use super::extract::{Answer, Args, blocking};
use super::problem::Problem;

/// Scripts, styles and connections of our own only; no frames, no plug-ins, nothing inline.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    img-src 'self' data:; font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'self'; \
    frame-ancestors 'none'";

pub(super) async fn add_security_headers(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (header::HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

fn file(state: &ApiState, path: &str) -> Answer {
    let Some((bytes, media_type)) = (state.assets)(path) else {
        return Err(Problem::new(StatusCode::NOT_FOUND, "no-file", "the console has no such file"));
    };
    let headers = [(header::CONTENT_TYPE, media_type), (header::CACHE_CONTROL, "no-cache")];
    Ok((headers, bytes.into_owned()).into_response())
}

pub(super) async fn index(State(state): State<ApiState>) -> Answer {
    file(&state, "index.html")
}

pub(super) async fn asset(State(state): State<ApiState>, Args(path): Args<String>) -> Answer {
    file(&state, &format!("assets/{path}"))
}

pub(super) async fn favicon_ico(State(state): State<ApiState>) -> Answer {
    file(&state, "favicon.ico")
}

pub(super) async fn favicon_svg(State(state): State<ApiState>) -> Answer {
    file(&state, "favicon.svg")
}

pub(super) async fn livez() -> &'static str {
    "ok\n"
}

/// Ready means that the database answers.
pub(super) async fn readyz(State(state): State<ApiState>) -> Answer {
    match blocking(move || state.store.meta("cluster")).await {
        Ok(Some(_)) => Ok("ok\n".into_response()),
        Ok(None) | Err(_) => {
            let detail = "the database does not answer as it should; the CCM's log says why";
            Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not-ready", detail))
        }
    }
}
