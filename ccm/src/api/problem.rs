//! Errors as the API says them: `application/problem+json` (RFC 9457) with a code for programs and a
//! sentence for people that says what to do next.

use std::error::Error;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use common::errors::chain;
use common::ids::RunNumber;
use serde_json::{Map, Value};

use super::operations::OperationError;
use crate::store::{StoreError, Thing};
use crate::trust::TrustError;
use crate::trust::enrol::EnrolError;

/// An answer that says what went wrong.
#[derive(Debug, Clone, PartialEq)]
pub struct Problem {
    status: StatusCode,
    code: String,
    detail: String,
    more: Map<String, Value>,
    retry_after_seconds: Option<u64>,
}

impl Problem {
    pub(super) fn new(status: StatusCode, code: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { status, code: code.into(), detail: detail.into(), more: Map::new(), retry_after_seconds: None }
    }

    /// The request cannot be read (400).
    pub(super) fn bad(code: &str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, detail)
    }

    /// The request can be read and makes no sense (422).
    pub(super) fn invalid(code: &str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, code, detail)
    }

    /// There is none of that name (404).
    pub(super) fn unknown(thing: Thing, name: &str) -> Self {
        let next = match thing {
            Thing::Site => "`pressrun site list` shows those there are, `pressrun site create` adds one",
            Thing::Group => "`pressrun group list` shows those there are, `pressrun group create` adds one",
            Thing::Server => "`pressrun servers` shows those that are enrolled",
            Thing::Segment => "`pressrun segments` shows those there are; a segment comes with its first server",
            Thing::Run => "`pressrun runs` shows those there were",
            Thing::Checkpoint => "`pressrun checkpoint list` shows those there are",
            Thing::Schedule => "`pressrun schedule list` shows those there are",
            Thing::JoinToken => "`pressrun token list` shows those there are",
            Thing::User => "the first start of the CCM makes the user admin",
            Thing::Channel => "`pressrun group list` shows the channel of each content group",
        };
        let detail = format!("there is no {thing} called {name}; {next}");
        Self::new(StatusCode::NOT_FOUND, format!("unknown-{thing}"), detail)
    }

    /// The name is taken (409).
    pub(super) fn exists(thing: Thing, name: &str) -> Self {
        Self::new(StatusCode::CONFLICT, "exists", format!("there already is a {thing} called {name}"))
    }

    /// Our own failure (500): the log has all of it, the answer nothing that could help a stranger.
    pub(super) fn internal(error: &(dyn Error + 'static)) -> Self {
        tracing::error!(error = chain(error), "a request failed");
        let detail = "the CCM could not do this; its log says why";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail)
    }

    pub(super) fn with_run(mut self, run: Option<RunNumber>) -> Self {
        if let Some(run) = run {
            self.more.insert("run".to_owned(), run.0.into());
        }
        self
    }

    pub(super) fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after_seconds = Some(seconds);
        self
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut body = Map::new();
        body.insert("type".to_owned(), "about:blank".into());
        body.insert("title".to_owned(), self.status.canonical_reason().unwrap_or("Error").into());
        body.insert("status".to_owned(), self.status.as_u16().into());
        body.insert("detail".to_owned(), self.detail.into());
        body.insert("code".to_owned(), self.code.into());
        body.extend(self.more);
        let mut response = (self.status, Value::Object(body).to_string()).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(seconds) = self.retry_after_seconds {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match &error {
            StoreError::Exists { thing, name } => Self::exists(*thing, name),
            StoreError::Unknown { thing, name } => Self::unknown(*thing, name),
            StoreError::Busy { run, .. } => {
                let detail = format!("{error}; wait for it or cancel it with `pressrun run cancel {run}`");
                Self::new(StatusCode::CONFLICT, "busy", detail).with_run(Some(*run))
            }
            StoreError::RunIsFinal { run } => {
                Self::new(StatusCode::CONFLICT, "run-is-over", error.to_string()).with_run(Some(*run))
            }
            StoreError::TokenSpent { expired, .. } => {
                let code = if *expired { "token-expired" } else { "token-used-up" };
                Self::new(StatusCode::FORBIDDEN, code, error.to_string())
            }
            StoreError::Create { .. }
            | StoreError::Open { .. }
            | StoreError::Migrate(_)
            | StoreError::Sql { .. }
            | StoreError::Encode { .. } => Self::internal(&error),
        }
    }
}

impl From<TrustError> for Problem {
    fn from(error: TrustError) -> Self {
        match error {
            TrustError::Store(error) => error.into(),
            TrustError::File { .. }
            | TrustError::Damaged { .. }
            | TrustError::Certificate { .. }
            | TrustError::Password { .. } => Self::internal(&error),
        }
    }
}

impl From<OperationError> for Problem {
    fn from(error: OperationError) -> Self {
        let status = StatusCode::from_u16(error.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if status.is_server_error() {
            tracing::error!(code = error.code, error = %error.detail, "an operation failed");
        }
        Self::new(status, error.code, error.detail).with_run(error.run)
    }
}

impl From<EnrolError> for Problem {
    fn from(error: EnrolError) -> Self {
        let (status, code) = match &error {
            EnrolError::TokenInvalid => (StatusCode::UNAUTHORIZED, "token-invalid"),
            EnrolError::TokenExpired { .. } => (StatusCode::FORBIDDEN, "token-expired"),
            EnrolError::TokenUsedUp { .. } => (StatusCode::FORBIDDEN, "token-used-up"),
            EnrolError::TokenSegment { .. } => (StatusCode::FORBIDDEN, "token-segment"),
            EnrolError::TokenRoles { .. } => (StatusCode::FORBIDDEN, "token-roles"),
            EnrolError::NoSegment => (StatusCode::UNPROCESSABLE_ENTITY, "no-segment"),
            EnrolError::NoRole => (StatusCode::UNPROCESSABLE_ENTITY, "no-role"),
            EnrolError::NameTaken { .. } => (StatusCode::CONFLICT, "exists"),
            EnrolError::Request { source, .. } => {
                let detail = format!("{error}: {source}");
                return Self::invalid("bad-csr", detail);
            }
            EnrolError::Store(store) => return Self::internal(store),
        };
        Self::new(status, code, error.to_string())
    }
}
