//! Parts of a request, with refusals in the API's own form.

use std::str::FromStr;

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use common::ids::NameError;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use super::problem::Problem;

/// What a handler returns.
pub(super) type Answer = Result<Response, Problem>;

/// A JSON body. An empty one counts as `{}`, for requests in which everything has a default.
pub(super) struct Body<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let is_json =
            request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).is_some_and(|value| {
                value.split(';').next().unwrap_or("").trim().eq_ignore_ascii_case("application/json")
            });
        let bytes = Bytes::from_request(request, state).await.map_err(|rejection| {
            if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
                let detail = format!("a request may have {} bytes at most", super::BODY_BYTES_MAX);
                Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", detail)
            } else {
                Problem::bad("bad-body", "the request's body could not be received")
            }
        })?;
        let bytes: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
        if !is_json && bytes != b"{}" {
            let detail = "the body must be JSON, with Content-Type: application/json";
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not-json", detail));
        }
        serde_json::from_slice(bytes).map(Self).map_err(|e| match e.classify() {
            serde_json::error::Category::Data => Problem::invalid("bad-request", e.to_string()),
            serde_json::error::Category::Io
            | serde_json::error::Category::Syntax
            | serde_json::error::Category::Eof => Problem::bad("bad-json", e.to_string()),
        })
    }
}

/// Variables of the path.
pub(super) struct Args<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Args<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let path = Path::<T>::from_request_parts(parts, state).await;
        path.map(|Path(args)| Self(args)).map_err(|rejection| Problem::bad("bad-path", rejection.body_text()))
    }
}

/// Parameters after the question mark.
pub(super) struct Params<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let query = Query::<T>::from_request_parts(parts, state).await;
        query.map(|Query(params)| Self(params)).map_err(|rejection| Problem::bad("bad-query", rejection.body_text()))
    }
}

/// A name of any kind.
pub(super) fn name<T: FromStr<Err = NameError>>(text: &str) -> Result<T, Problem> {
    text.parse().map_err(|e: NameError| Problem::invalid("bad-name", e.to_string()))
}

/// Runs what waits for the disk or computes for long beside the asynchronous threads.
pub(super) async fn blocking<T: Send + 'static, E: Into<Problem> + Send + 'static>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, Problem> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(Into::into),
        Err(e) => Err(Problem::internal(&e)),
    }
}

/// An answer with a JSON body.
pub(super) fn answer<T: Serialize>(status: StatusCode, body: &T) -> Answer {
    let body = serde_json::to_vec(body).map_err(|e| Problem::internal(&e))?;
    Ok((status, [(header::CONTENT_TYPE, "application/json")], body).into_response())
}

/// 200 with a JSON body.
pub(super) fn ok<T: Serialize>(body: &T) -> Answer {
    answer(StatusCode::OK, body)
}

/// 200 with a list.
pub(super) fn items<T: Serialize>(items: &[T]) -> Answer {
    ok(&json!({ "items": items }))
}

/// 204.
pub(super) fn nothing() -> Answer {
    Ok(StatusCode::NO_CONTENT.into_response())
}
