//! The API in process, with an engine that accepts everything.

mod access;
mod orders;
mod routes;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode, header};
use common::digest::{Digest, Version};
use common::ids::{CheckpointName, GroupName, RunNumber, SegmentName, ServerId, ServerName, SiteName};
use futures_util::future::BoxFuture;
use http_body_util::BodyExt as _;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::guard::RouteEntry;
use super::operations::*;
use super::*;
use crate::engine::own::Whom;
use crate::engine::quorum::Quorum;
use crate::store::{Checkpoint, Role, Run, RunKind, RunState};

/// Half past a second in 2030; tests move it on.
static NOW: AtomicU64 = AtomicU64::new(1_900_000_000_500);

fn now() -> WallTime {
    WallTime(NOW.load(Ordering::SeqCst))
}

/// Accepts everything, remembers what it was asked, and refuses what it is told to.
struct Fake {
    store: Store,
    asked: Mutex<Vec<String>>,
    refuse: Mutex<Option<OperationError>>,
    changes: watch::Sender<u64>,
}

impl Fake {
    fn asked(&self) -> MutexGuard<'_, Vec<String>> {
        self.asked.lock().unwrap()
    }

    fn note<T>(&self, request: String, result: T) -> Result<T, OperationError> {
        self.asked().push(request);
        match self.refuse.lock().unwrap().clone() {
            Some(error) => Err(error),
            None => Ok(result),
        }
    }

    fn bump(&self) {
        self.changes.send_modify(|count| *count += 1);
    }
}

const ACCEPTED: Accepted = Accepted { run: RunNumber(7), state: RunState::Queued };

impl Operations for Fake {
    fn publish(&self, request: PublishRequest) -> BoxFuture<'_, Result<Accepted, OperationError>> {
        Box::pin(async move { self.note(format!("{request:?}"), ACCEPTED) })
    }
    fn rollback(&self, request: RollbackRequest) -> BoxFuture<'_, Result<Accepted, OperationError>> {
        Box::pin(async move { self.note(format!("{request:?}"), ACCEPTED) })
    }
    fn restore(&self, request: RestoreRequest) -> BoxFuture<'_, Result<Accepted, OperationError>> {
        Box::pin(async move { self.note(format!("{request:?}"), ACCEPTED) })
    }
    fn audit(&self, request: AuditRequest) -> BoxFuture<'_, Result<Accepted, OperationError>> {
        Box::pin(async move { self.note(format!("{request:?}"), ACCEPTED) })
    }
    fn mend(&self, request: MendRequest) -> BoxFuture<'_, Result<Accepted, OperationError>> {
        Box::pin(async move { self.note(format!("{request:?}"), ACCEPTED) })
    }
    fn remove(&self, request: RemoveRequest) -> BoxFuture<'_, Result<Accepted, OperationError>> {
        Box::pin(async move { self.note(format!("{request:?}"), ACCEPTED) })
    }
    fn hot(&self, request: HotRequest) -> BoxFuture<'_, Result<Accepted, OperationError>> {
        Box::pin(async move { self.note(format!("{request:?}"), ACCEPTED) })
    }
    fn switch(&self, request: SwitchRequest) -> BoxFuture<'_, Result<Accepted, OperationError>> {
        Box::pin(async move { self.note(format!("{request:?}"), ACCEPTED) })
    }
    fn rest(&self, run: RunNumber, rest: bool) -> BoxFuture<'_, Result<(), OperationError>> {
        Box::pin(async move { self.note(format!("rest {run} {rest}"), ()) })
    }
    fn checkpoint(&self, request: CheckpointRequest) -> BoxFuture<'_, Result<Checkpoint, OperationError>> {
        Box::pin(async move {
            let name = request.name.clone().unwrap_or_else(|| CheckpointName::new("made-up").unwrap());
            let group = GroupName::new("all").unwrap();
            let version = Version(Digest([1; 32]));
            let checkpoint = Checkpoint { site: request.site.clone(), group, name, version, created: now(), run: None };
            self.note(format!("{request:?}"), checkpoint)
        })
    }
    fn diff(&self, request: DiffRequest) -> BoxFuture<'_, Result<DiffReport, OperationError>> {
        Box::pin(async move {
            let report = DiffReport {
                site: request.site.clone(),
                group: GroupName::new("all").unwrap(),
                base: None,
                result: Version(Digest([2; 32])),
                added: vec![DiffAdded { path: "index.html".to_owned(), size: 3 }],
                changed: Vec::new(),
                removed: Vec::new(),
                moved: Vec::new(),
                attributes: Vec::new(),
                content_bytes: 3,
            };
            self.note(format!("{request:?}"), report)
        })
    }
    fn cancel(&self, run: RunNumber) -> BoxFuture<'_, Result<(), OperationError>> {
        Box::pin(async move {
            let _ = self.store.request_cancel(run);
            self.note(format!("cancel {run}"), ())
        })
    }
    fn move_segment(&self, segment: SegmentName, control: SocketAddr) -> Result<(), OperationError> {
        self.note(format!("move {segment} to {control}"), ())
    }
    fn online(&self) -> BTreeSet<ServerId> {
        self.store.servers().unwrap().into_iter().map(|server| server.id).collect()
    }
    fn timetable_changed(&self) {
        self.bump();
    }
    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

struct Ccm {
    _folder: tempfile::TempDir,
    state: ApiState,
    fake: Arc<Fake>,
    password: String,
}

struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    bytes: Vec<u8>,
    body: Value,
}

impl Reply {
    /// Status and problem code.
    fn problem(&self) -> (u16, &str) {
        assert_eq!(self.headers[header::CONTENT_TYPE], "application/problem+json", "{}", self.body);
        assert_eq!(self.body["status"], json!(self.status.as_u16()));
        assert!(self.body["detail"].as_str().is_some_and(|detail| !detail.is_empty()));
        (self.status.as_u16(), self.body["code"].as_str().unwrap())
    }
}

fn test_assets(path: &str) -> Option<(Cow<'static, [u8]>, &'static str)> {
    match path {
        "index.html" => Some((Cow::Borrowed(b"<html>"), "text/html; charset=utf-8")),
        "assets/app.js" => Some((Cow::Borrowed(b"1"), "text/javascript")),
        _ => None,
    }
}

fn ccm() -> Ccm {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::in_memory().unwrap();
    let (trust, created) = Trust::open_or_create(folder.path(), store.clone(), now()).unwrap();
    let fake = Arc::new(Fake {
        store: store.clone(),
        asked: Mutex::default(),
        refuse: Mutex::default(),
        changes: watch::Sender::new(0),
    });
    let mut state = ApiState::new(store, Arc::new(trust), fake.clone(), test_assets);
    state.clock = now;
    Ccm { _folder: folder, state, fake, password: created.unwrap().admin_password }
}

impl Ccm {
    fn token(&self, role: Role) -> String {
        self.state.trust.create_api_token("test", role, None, now()).unwrap()
    }

    async fn send(&self, request: Request<Body>) -> Reply {
        let response = TowerToHyperService::new(router(self.state.clone())).call(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes().to_vec();
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Reply { status: parts.status, headers: parts.headers, bytes, body }
    }

    async fn call(&self, role: Role, method: &str, path: &str, body: Value) -> Reply {
        let bearer = format!("Bearer {}", self.token(role));
        self.send(request(method, path, &[("authorization", &bearer)], body)).await
    }

    async fn admin(&self, method: &str, path: &str, body: Value) -> Reply {
        self.call(Role::Admin, method, path, body).await
    }

    async fn with_site(self) -> Self {
        let site = json!({"name": "www", "staging": "/srv/staging", "live": "/srv/www/{server}"});
        assert_eq!(self.admin("POST", "/api/v1/sites", site).await.status, StatusCode::CREATED);
        self
    }

    /// Enrols a server through the API.
    async fn enrol(&self, name: &str) -> Reply {
        let token = self.admin("POST", "/api/v1/tokens", json!({"segment": "s1"})).await;
        self.send(request("POST", "/api/v1/enroll", &[], enroll_body(token.body["token"].as_str().unwrap(), name)))
            .await
    }

    fn queue_run(&self) -> Run {
        let (site, group) = (SiteName::new("www").unwrap(), GroupName::new("all").unwrap());
        self.state.store.create_run(&site, &group, RunKind::Publish, &json!({}), &[], now()).unwrap()
    }

    async fn login(&self) -> String {
        let body = json!({"user": "admin", "password": self.password});
        let reply = self.send(request("POST", "/api/v1/login", &[], body)).await;
        assert_eq!(reply.status, StatusCode::OK);
        let cookie = reply.headers[header::SET_COOKIE].to_str().unwrap();
        cookie.split(';').next().unwrap().to_owned()
    }
}

#[allow(clippy::needless_pass_by_value, reason = "bodies are written where they are sent")]
fn request(method: &str, path: &str, headers: &[(&str, &str)], body: Value) -> Request<Body> {
    let mut builder = Request::builder().method(method).uri(path).header("host", "ccm.example:7443");
    for (name, value) in headers {
        builder = builder.header(*name, *value);
    }
    if body.is_null() {
        return builder.body(Body::empty()).unwrap();
    }
    builder.header("content-type", "application/json").body(Body::from(body.to_string())).unwrap()
}

fn enroll_body(token: &str, name: &str) -> Value {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let csr = CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
    json!({
        "token": token, "name": name, "segment": "s1", "csr": csr, "control_key": "07".repeat(32),
        "roles": {"server": true, "leader": true}, "location": "rack 4",
    })
}
