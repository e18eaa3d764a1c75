use std::collections::BTreeSet;
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
    fn online(&self) -> BTreeSet<ServerId> {
        self.store.servers().unwrap().into_iter().map(|server| server.id).collect()
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

/// A path of the route with values that name nothing.
fn example(route: &RouteEntry) -> String {
    let mut path = route.path.clone();
    for (variable, value) in [
        ("{site}", "none"),
        ("{group}", "none"),
        ("{name}", "none"),
        ("{run}", "99"),
        ("{id}", "none"),
        ("{server}", "none"),
        ("{*path}", "none.js"),
    ] {
        path = path.replace(variable, value);
    }
    path
}

#[tokio::test]
async fn every_route_asks_for_its_permission_before_anything_else() {
    let ccm = ccm();
    let table = routes(ccm.state.clone()).table;
    assert!(table.len() >= 37, "the table holds all routes");
    let good = ccm.token(Role::Admin);
    let forged = format!("{}{}", &good[..good.len() - 1], if good.ends_with('0') { '1' } else { '0' });
    for route in table {
        let (method, path) = (route.method.as_str(), example(&route));
        let send = async |headers: &[(&str, &str)]| ccm.send(request(method, &path, headers, Value::Null)).await;
        // What follows goes on for an hour; that it begins is seen in its own test.
        let is_stream = path.ends_with("/events");
        let Some(needed) = route.permission.role() else {
            let code = send(&[]).await.body["code"].as_str().unwrap_or("").to_owned();
            assert!(!["unauthorized", "forbidden"].contains(&code.as_str()), "{method} {path}");
            continue;
        };
        assert_eq!(send(&[]).await.problem(), (401, "unauthorized"), "{method} {path}");
        let wrong = format!("Bearer {forged}");
        for wrong in [wrong.as_str(), "Bearer ", "Basic YWRtaW46YWRtaW4=", "nonsense"] {
            let reply = send(&[("authorization", wrong)]).await;
            assert_eq!(reply.problem(), (401, "bad-token"), "{method} {path} {wrong}");
            assert_eq!(reply.headers[header::WWW_AUTHENTICATE], "Bearer");
        }
        let cookie = "pressrun_session=0000000000000000.00";
        assert_eq!(send(&[("cookie", cookie)]).await.problem(), (401, "session-over"), "{method} {path}");

        let below = [Role::Viewer, Role::Publisher, Role::Operator].into_iter().filter(|role| *role < needed);
        for role in below {
            let bearer = format!("Bearer {}", ccm.token(role));
            assert_eq!(send(&[("authorization", &bearer)]).await.problem(), (403, "forbidden"), "{method} {path}");
        }
        if is_stream {
            continue;
        }
        for role in [needed, Role::Admin] {
            let bearer = format!("Bearer {}", ccm.token(role));
            let status = send(&[("authorization", &bearer)]).await.status;
            let refused = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN, StatusCode::INTERNAL_SERVER_ERROR];
            assert!(!refused.contains(&status), "{method} {path} as {role:?}: {status}");
        }
    }
    assert!(ccm.fake.asked().is_empty(), "nothing was asked of the engine");
}

#[tokio::test]
async fn changes_need_more_than_the_right_to_look() {
    for route in routes(ccm().state).table {
        let is_login = ["/api/v1/enroll", "/api/v1/login", "/api/v1/logout"].contains(&route.path.as_str());
        if !route.method.is_safe() && !is_login {
            assert!(route.permission > Permission::View, "{route:?}");
        }
    }
}

#[tokio::test]
async fn unknown_addresses_and_methods_are_problems_too() {
    let ccm = ccm();
    assert_eq!(ccm.send(request("GET", "/api/v2", &[], Value::Null)).await.problem(), (404, "no-route"));
    assert_eq!(ccm.admin("PATCH", "/api/v1/sites", Value::Null).await.problem(), (405, "no-method"));
    assert_eq!(ccm.admin("GET", "/api/v1/runs/x", Value::Null).await.problem(), (400, "bad-path"));
    assert_eq!(ccm.admin("GET", "/api/v1/runs?limit=x", Value::Null).await.problem(), (400, "bad-query"));
}

#[tokio::test]
async fn bodies_are_json_of_known_members_and_bounded() {
    let ccm = ccm();
    let bearer = format!("Bearer {}", ccm.token(Role::Admin));
    let post = |media: &str, body: String| {
        let builder = Request::builder().method("POST").uri("/api/v1/tokens").header("authorization", &bearer);
        builder.header("content-type", media).body(Body::from(body)).unwrap()
    };
    let json = "application/json; charset=utf-8";
    assert_eq!(ccm.send(post("text/plain", "{\"uses\":1}".to_owned())).await.problem(), (415, "not-json"));
    assert_eq!(ccm.send(post(json, "{".to_owned())).await.problem(), (400, "bad-json"));
    assert_eq!(ccm.send(post(json, "{\"use\":1}".to_owned())).await.problem(), (422, "bad-request"));
    let large = format!("{{\"segment\":\"{}\"}}", "x".repeat(BODY_BYTES_MAX));
    assert_eq!(ccm.send(post(json, large)).await.problem(), (413, "too-large"));
    assert_eq!(ccm.send(post(json, String::new())).await.status, StatusCode::CREATED);
}

#[tokio::test]
async fn a_site_is_checked_shown_and_removed() {
    let ccm = ccm().with_site().await;
    let shown = ccm.call(Role::Viewer, "GET", "/api/v1/sites/www", Value::Null).await;
    let expected = json!({
        "name": "www", "staging": "/srv/staging", "live": "/srv/www/{server}", "exclude": [], "wan": "auto",
        "created": "2030-03-17T17:46:40.500Z", "groups": [],
    });
    assert_eq!(shown.body, expected);
    assert_eq!(ccm.admin("GET", "/api/v1/sites", Value::Null).await.body, json!({"items": [expected]}));

    let good = json!({"name": "blog", "staging": "/srv/blog", "live": "/srv/blog"});
    for (member, value, code) in [
        ("name", json!("www"), (409, "exists")),
        ("name", json!("-rf"), (422, "bad-request")),
        ("staging", json!("srv/blog"), (422, "bad-staging")),
        ("staging", json!("/srv/../etc"), (422, "bad-staging")),
        ("staging", json!("/"), (422, "bad-staging")),
        ("live", json!("srv/blog"), (422, "bad-live")),
        ("live", json!("/srv/{server}/../etc"), (422, "bad-live")),
        ("live", json!("/srv/{host}"), (422, "bad-live")),
        ("live", json!("/srv/a\nb"), (422, "bad-live")),
        ("live", json!("/"), (422, "bad-live")),
        ("wan", json!("ring"), (422, "bad-wan")),
        ("exclude", json!(["[z-a]"]), (422, "bad-exclude")),
    ] {
        let mut body = good.clone();
        body[member] = value;
        let reply = ccm.admin("POST", "/api/v1/sites", body.clone()).await;
        assert_eq!(reply.problem(), code, "{body}");
    }
    assert_eq!(ccm.admin("POST", "/api/v1/sites", good).await.status, StatusCode::CREATED);

    let run = ccm.queue_run();
    let busy = ccm.admin("DELETE", "/api/v1/sites/www", Value::Null).await;
    assert_eq!((busy.problem(), &busy.body["run"]), ((409, "busy"), &json!(run.run.0)));
    ccm.state.store.save_run(&Run { state: RunState::Cancelled, ..run }, None).unwrap();
    assert_eq!(ccm.admin("DELETE", "/api/v1/sites/www", Value::Null).await.status, StatusCode::NO_CONTENT);
    let gone = ccm.admin("GET", "/api/v1/sites/www", Value::Null).await;
    assert_eq!(gone.problem(), (404, "unknown-site"));
    assert!(gone.body["detail"].as_str().unwrap().contains("pressrun site create"));
    assert_eq!(ccm.admin("DELETE", "/api/v1/sites/www", Value::Null).await.problem(), (404, "unknown-site"));
}

#[tokio::test]
async fn a_group_is_made_of_known_servers_a_segment_or_all() {
    let ccm = ccm().with_site().await;
    assert_eq!(ccm.enrol("web1").await.status, StatusCode::OK);
    let create = async |selector: Value| {
        let mut body = json!({"name": "g", "site": "www"});
        body.as_object_mut().unwrap().extend(selector.as_object().unwrap().clone());
        ccm.admin("POST", "/api/v1/groups", body).await
    };
    for selector in [json!({}), json!({"servers": []}), json!({"segment": "s1", "all": true})] {
        assert_eq!(create(selector).await.problem(), (422, "bad-selector"));
    }
    assert_eq!(create(json!({"servers": ["web9"]})).await.problem(), (404, "unknown-server"));
    assert_eq!(create(json!({"segment": "s9"})).await.problem(), (404, "unknown-segment"));
    assert_eq!(create(json!({"site": "none", "all": true})).await.problem(), (404, "unknown-site"));

    let made = create(json!({"servers": ["web1"], "segment": null, "all": false})).await;
    assert_eq!(made.status, StatusCode::CREATED);
    let expected = json!({
        "name": "g", "site": "www", "servers": ["web1"], "segment": null, "all": false,
        "version": null, "published": null,
    });
    assert_eq!(made.body, expected);
    assert_eq!(create(json!({"all": true})).await.problem(), (409, "exists"));
    assert_eq!(ccm.admin("GET", "/api/v1/groups?site=www", Value::Null).await.body["items"], json!([expected]));
    assert_eq!(ccm.admin("GET", "/api/v1/groups?site=x", Value::Null).await.problem(), (404, "unknown-site"));
    assert_eq!(ccm.admin("GET", "/api/v1/sites/www", Value::Null).await.body["groups"], json!([expected]));
    assert_eq!(ccm.admin("GET", "/api/v1/sites/www/groups/g", Value::Null).await.body, expected);
    assert_eq!(ccm.admin("DELETE", "/api/v1/sites/www/groups/g", Value::Null).await.status, StatusCode::NO_CONTENT);
    let gone = ccm.admin("GET", "/api/v1/sites/www/groups/g", Value::Null).await;
    assert_eq!(gone.problem(), (404, "unknown-group"));
}

#[tokio::test]
async fn orders_reach_the_engine_as_they_were_given() {
    let ccm = ccm().with_site().await;
    let accepted = json!({"run": 7, "state": "queued"});
    let body = json!({"group": "all", "quorum": "80%", "adopt": true, "create_live": false, "timeout_seconds": 60});
    let reply = ccm.call(Role::Publisher, "POST", "/api/v1/sites/www/publish", body).await;
    assert_eq!((reply.status, reply.body), (StatusCode::ACCEPTED, accepted.clone()));
    let site = SiteName::new("www").unwrap();
    let group = Some(GroupName::new("all").unwrap());
    let expected = PublishRequest {
        site: site.clone(),
        group,
        quorum: Some(Quorum::Percent(80)),
        adopt: true,
        create_live: false,
        timeout: Some(Duration::from_secs(60)),
    };
    assert_eq!(ccm.fake.asked().pop(), Some(format!("{expected:?}")));

    let nulls = json!({"group": null, "quorum": null, "adopt": false, "create_live": false, "timeout_seconds": null});
    assert_eq!(ccm.admin("POST", "/api/v1/sites/www/publish", nulls).await.status, StatusCode::ACCEPTED);
    assert_eq!(ccm.admin("POST", "/api/v1/sites/www/rollback", Value::Null).await.body, accepted);
    let expected = RollbackRequest { site, group: None, quorum: None };
    assert_eq!(ccm.fake.asked().pop(), Some(format!("{expected:?}")));
    let diff = ccm.admin("POST", "/api/v1/sites/www/diff", json!({"group": null, "text": true})).await;
    assert_eq!(diff.body["added"], json!([{"path": "index.html", "size": 3}]));
    assert_eq!(diff.body["result"], json!("02".repeat(32)));
}

#[tokio::test]
async fn orders_that_make_no_sense_do_not_reach_the_engine() {
    let ccm = ccm().with_site().await;
    for (path, body, code) in [
        ("none/publish", json!({}), (404, "unknown-site")),
        ("none/rollback", json!({}), (404, "unknown-site")),
        ("none/diff", json!({}), (404, "unknown-site")),
        ("none/checkpoints", json!({}), (404, "unknown-site")),
        ("-x/publish", json!({}), (422, "bad-name")),
        ("www/publish", json!({"group": "none"}), (404, "unknown-group")),
        ("www/publish", json!({"quorum": "0"}), (422, "bad-quorum")),
        ("www/publish", json!({"quorum": "101%"}), (422, "bad-quorum")),
        ("www/publish", json!({"timeout_seconds": 0}), (422, "bad-timeout")),
        ("www/publish", json!({"quorom": "3"}), (422, "bad-request")),
        ("www/rollback", json!({"quorum": "most"}), (422, "bad-quorum")),
        ("www/checkpoints/none/restore", json!({}), (404, "unknown-checkpoint")),
    ] {
        let reply = ccm.admin("POST", &format!("/api/v1/sites/{path}"), body.clone()).await;
        assert_eq!(reply.problem(), code, "{path} {body}");
    }
    assert!(ccm.fake.asked().is_empty());
}

#[tokio::test]
async fn what_the_engine_refuses_is_said_with_its_code_and_run() {
    let ccm = ccm().with_site().await;
    let refusal = OperationError::conflict("conflict", "run 3 publishes to the same servers", Some(RunNumber(3)));
    *ccm.fake.refuse.lock().unwrap() = Some(refusal);
    let reply = ccm.admin("POST", "/api/v1/sites/www/publish", json!({})).await;
    assert_eq!((reply.problem(), &reply.body["run"]), ((409, "conflict"), &json!(3)));
    assert_eq!(reply.body["title"], json!("Conflict"));
    assert_eq!(reply.body["type"], json!("about:blank"));
}

#[tokio::test]
async fn checkpoints_are_made_listed_restored_and_removed() {
    let ccm = ccm().with_site().await;
    let path = "/api/v1/sites/www/checkpoints";
    let made = ccm.call(Role::Operator, "POST", path, json!({"name": "v1", "group": null})).await;
    assert_eq!((made.status, &made.body["name"]), (StatusCode::CREATED, &json!("v1")));
    assert_eq!(made.body["version"], json!("01".repeat(32)));
    assert_eq!(ccm.admin("POST", path, json!({})).await.body["name"], json!("made-up"));
    let kept = Checkpoint {
        site: SiteName::new("www").unwrap(),
        group: GroupName::new("all").unwrap(),
        name: CheckpointName::new("v1").unwrap(),
        version: Version(Digest([1; 32])),
        created: now(),
        run: Some(RunNumber(4)),
    };
    ccm.state.store.create_checkpoint(&kept).unwrap();
    assert_eq!(ccm.admin("POST", path, json!({"name": "v1"})).await.problem(), (409, "exists"));
    assert_eq!(ccm.admin("GET", path, Value::Null).await.body["items"][0]["run"], json!(4));
    let restore = ccm.call(Role::Publisher, "POST", &format!("{path}/v1/restore"), json!({"quorum": "2"})).await;
    assert_eq!(restore.status, StatusCode::ACCEPTED);
    assert_eq!(ccm.admin("DELETE", &format!("{path}/v1"), Value::Null).await.status, StatusCode::NO_CONTENT);
    let again = ccm.admin("DELETE", &format!("{path}/v1"), Value::Null).await;
    assert_eq!(again.problem(), (404, "unknown-checkpoint"));
}

#[tokio::test]
async fn runs_are_listed_shown_and_cancelled() {
    let ccm = ccm().with_site().await;
    let (first, second) = (ccm.queue_run(), ccm.queue_run());
    let list = ccm.call(Role::Viewer, "GET", "/api/v1/runs?site=www&limit=1", Value::Null).await;
    assert_eq!(list.body["items"].as_array().unwrap().len(), 1);
    assert_eq!(list.body["items"][0]["run"], json!(second.run.0));
    assert_eq!(ccm.admin("GET", "/api/v1/runs?site=gone", Value::Null).await.body, json!({"items": []}));
    let shown = ccm.admin("GET", "/api/v1/runs/1", Value::Null).await;
    assert_eq!(shown.body, serde_json::to_value(&first).unwrap());
    assert_eq!(ccm.admin("GET", "/api/v1/runs/9", Value::Null).await.problem(), (404, "unknown-run"));

    let cancelled = ccm.call(Role::Publisher, "POST", "/api/v1/runs/1/cancel", Value::Null).await;
    assert_eq!((cancelled.status, &cancelled.body["run"]), (StatusCode::ACCEPTED, &json!(1)));
    assert!(ccm.state.store.cancel_requested(first.run).unwrap());
    ccm.state.store.save_run(&Run { state: RunState::Done, ..first }, None).unwrap();
    let over = ccm.admin("POST", "/api/v1/runs/1/cancel", Value::Null).await;
    assert_eq!((over.problem(), &over.body["run"]), ((409, "run-is-over"), &json!(1)));
    assert_eq!(ccm.admin("POST", "/api/v1/runs/9/cancel", Value::Null).await.problem(), (404, "unknown-run"));
}

#[tokio::test]
async fn waiting_for_a_run_ends_when_it_is_over() {
    let ccm = ccm().with_site().await;
    let run = ccm.queue_run();
    let wait = ccm.admin("GET", "/api/v1/runs/1?wait=600", Value::Null);
    let finish = async {
        while ccm.fake.changes.receiver_count() == 0 {
            tokio::task::yield_now().await;
        }
        ccm.fake.bump();
        ccm.state.store.save_run(&Run { state: RunState::Partial, ..run }, None).unwrap();
        ccm.fake.bump();
    };
    let (reply, ()) = tokio::join!(wait, finish);
    assert_eq!(reply.body["state"], json!("partial"));
}

#[tokio::test]
async fn waiting_for_a_run_ends_when_its_time_is_over() {
    let ccm = ccm().with_site().await;
    ccm.queue_run();
    let begun = std::time::Instant::now();
    let reply = ccm.admin("GET", "/api/v1/runs/1?wait=1", Value::Null).await;
    assert_eq!(reply.body["state"], json!("queued"));
    assert!(begun.elapsed() >= Duration::from_secs(1));
}

#[tokio::test]
async fn the_root_document_is_served_byte_for_byte() {
    let ccm = ccm();
    let reply = ccm.send(request("GET", "/api/v1/root", &[], Value::Null)).await;
    assert_eq!(reply.bytes, ccm.state.trust.root());
    let token = ccm.admin("POST", "/api/v1/tokens", json!({})).await.body["token"].as_str().unwrap().to_owned();
    assert!(token.ends_with(&format!(".{}", Digest::of(&reply.bytes))));
}

#[tokio::test]
async fn a_server_enrols_with_a_token_that_is_then_used_up() {
    let ccm = ccm();
    let ttl = json!({"segment": "s1", "uses": 1, "ttl_seconds": 60, "roles": null});
    let made = ccm.admin("POST", "/api/v1/tokens", ttl).await;
    assert_eq!(made.status, StatusCode::CREATED);
    assert_eq!(made.body["expires"], json!("2030-03-17T17:47:40.500Z"));
    let token = made.body["token"].as_str().unwrap();
    let enroll = async |body: Value| ccm.send(request("POST", "/api/v1/enroll", &[], body)).await;

    let mut bad = enroll_body(token, "web1");
    bad["control_key"] = json!("07");
    assert_eq!(enroll(bad).await.problem(), (422, "bad-control-key"));
    let mut bad = enroll_body(token, "web1");
    bad["csr"] = json!("nonsense");
    assert_eq!(enroll(bad).await.problem(), (422, "bad-csr"));
    let mut bad = enroll_body(token, "web1");
    bad["segment"] = json!("s2");
    assert_eq!(enroll(bad).await.problem(), (403, "token-segment"));
    let mut bad = enroll_body(token, "web1");
    bad["location"] = json!("rack\n4");
    assert_eq!(enroll(bad).await.problem(), (422, "bad-location"));
    assert_eq!(enroll(enroll_body("prt1.x", "web1")).await.problem(), (401, "token-invalid"));

    let reply = enroll(enroll_body(token, "web1")).await;
    assert_eq!(reply.status, StatusCode::OK, "{}", reply.body);
    assert_eq!(reply.body["root"], serde_json::from_slice::<Value>(ccm.state.trust.root()).unwrap());
    assert_eq!(reply.body["segment_key"].as_str().unwrap().len(), 64);
    assert!(reply.body["certificate"].as_str().unwrap().starts_with("-----BEGIN CERTIFICATE-----"));
    let credential = reply.body["credential"].as_str().unwrap();
    let bytes: Vec<u8> = credential
        .as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect();
    let signed: common::keys::Signed<common::credential::Credential> = postcard::from_bytes(&bytes).unwrap();
    let credential = signed.verify(&ccm.state.trust.publish_keys()).unwrap();
    assert_eq!(json!(credential.server.to_string()), reply.body["server"]);

    assert_eq!(enroll(enroll_body(token, "web2")).await.problem(), (403, "token-used-up"));
    let list = ccm.admin("GET", "/api/v1/tokens", Value::Null).await;
    assert_eq!(list.body["items"][0]["uses_left"], json!(0));
    assert!(!String::from_utf8(list.bytes).unwrap().contains(token.split('.').nth(2).unwrap()));
    let path = format!("/api/v1/tokens/{}", made.body["id"].as_str().unwrap());
    assert_eq!(ccm.admin("DELETE", &path, Value::Null).await.status, StatusCode::NO_CONTENT);
    assert_eq!(ccm.admin("DELETE", &path, Value::Null).await.problem(), (404, "unknown-token"));
    assert_eq!(enroll(enroll_body(token, "web2")).await.problem(), (401, "token-invalid"));
    assert_eq!(ccm.enrol("web1").await.problem(), (409, "exists"));
}

#[tokio::test]
async fn an_expired_token_admits_nobody() {
    let mut ccm = ccm();
    let made = ccm.admin("POST", "/api/v1/tokens", json!({"ttl_seconds": 1})).await;
    ccm.state.clock = || WallTime(now().0 + 1000);
    let body = enroll_body(made.body["token"].as_str().unwrap(), "web1");
    let late = ccm.send(request("POST", "/api/v1/enroll", &[], body)).await;
    assert_eq!(late.problem(), (403, "token-expired"));
}

#[tokio::test]
async fn a_token_has_bounds() {
    let ccm = ccm();
    for (body, code) in [
        (json!({"uses": 0}), "bad-uses"),
        (json!({"uses": 10001}), "bad-uses"),
        (json!({"ttl_seconds": 0}), "bad-ttl"),
        (json!({"ttl_seconds": 31536001}), "bad-ttl"),
        (json!({"roles": {"server": false, "leader": false}}), "no-role"),
    ] {
        assert_eq!(ccm.admin("POST", "/api/v1/tokens", body).await.problem(), (422, code));
    }
}

#[tokio::test]
async fn servers_segments_and_status_say_what_is_so() {
    let ccm = ccm().with_site().await;
    assert_eq!(ccm.enrol("web1").await.status, StatusCode::OK);
    let server = ccm.state.store.server_named(&ServerName::new("web1").unwrap()).unwrap().unwrap();
    ccm.state.store.save_leader(&SegmentName::new("s1").unwrap(), Some((server.id, 3))).unwrap();
    let run = Run { state: RunState::Done, ..ccm.queue_run() };
    let site = SiteName::new("www").unwrap();
    let group = GroupName::new("all").unwrap();
    let wanted = vec![(site, group, server.id, Version(Digest([5; 32])))];
    ccm.state.store.finish_run(&run, &crate::store::Effects { wanted, ..Default::default() }).unwrap();
    ccm.queue_run();

    let servers = ccm.call(Role::Viewer, "GET", "/api/v1/servers", Value::Null).await.body;
    let web1 = &servers["items"][0];
    assert_eq!((&web1["server"], &web1["state"], &web1["leader"]), (&json!("web1"), &json!("stale"), &json!(true)));
    assert_eq!(web1["id"], json!(server.id.to_string()));
    let expected = json!([{"site": "www", "live": null, "backup": null, "sequence": 0, "stale": true}]);
    assert_eq!(web1["sites"], expected);
    let segments = ccm.admin("GET", "/api/v1/segments", Value::Null).await.body;
    let expected = json!({"segment": "s1", "leader": "web1", "epoch": 3, "servers": 1, "online": 1});
    assert_eq!(segments["items"], json!([expected]));
    let status = ccm.admin("GET", "/api/v1/status", Value::Null).await.body;
    assert_eq!(status["servers"], json!({"online": 0, "offline": 0, "stale": 1}));
    assert_eq!((&status["segments"], &status["sites"]), (&json!(1), &json!(1)));
    assert_eq!(status["runs"], json!({"queued": 1, "running": 0}));
    assert_eq!(status["last_run"]["run"], json!(2));
    assert_eq!(status["cluster"], json!(ccm.state.trust.cluster().to_string()));

    let away = fleet::servers(&ccm.state.store, &BTreeSet::new()).unwrap();
    assert_eq!((away[0].state, away[0].leader), (fleet::ServerState::Offline, false));
    assert_eq!(fleet::segments(&ccm.state.store, &BTreeSet::new()).unwrap()[0].leader, None);
    assert_eq!(ccm.admin("DELETE", "/api/v1/servers/web1", Value::Null).await.status, StatusCode::NO_CONTENT);
    assert_eq!(ccm.admin("DELETE", "/api/v1/servers/web1", Value::Null).await.problem(), (404, "unknown-server"));
}

#[tokio::test]
async fn a_login_opens_the_console_and_its_writes_come_from_its_own_pages() {
    let ccm = ccm();
    let cookie = ccm.login().await;
    let send = async |method: &str, path: &str, origin: Option<&str>| {
        let mut headers = vec![("cookie", cookie.as_str())];
        headers.extend(origin.map(|origin| ("origin", origin)));
        ccm.send(request(method, path, &headers, Value::Null)).await
    };
    assert_eq!(send("GET", "/api/v1/me", None).await.body, json!({"user": "admin", "role": "admin"}));
    let foreign = ["https://evil.example", "null", "https://ccm.example", "https://ccm.example:7443.evil.example"];
    for origin in [None].into_iter().chain(foreign.map(Some)) {
        assert_eq!(send("POST", "/api/v1/tokens", origin).await.problem(), (403, "bad-origin"), "{origin:?}");
    }
    let own = Some("https://ccm.example:7443");
    assert_eq!(send("POST", "/api/v1/tokens", own).await.status, StatusCode::CREATED);
    let logout = send("POST", "/api/v1/logout", own).await;
    assert_eq!(logout.status, StatusCode::NO_CONTENT);
    assert!(logout.headers[header::SET_COOKIE].to_str().unwrap().contains("Max-Age=0"));
    assert_eq!(send("GET", "/api/v1/me", None).await.problem(), (401, "session-over"));
}

#[tokio::test]
async fn the_session_cookie_is_out_of_reach_for_scripts_and_other_sites() {
    let mut ccm = ccm();
    let cookie = async |ccm: &Ccm| {
        let body = json!({"user": "admin", "password": ccm.password});
        let reply = ccm.send(request("POST", "/api/v1/login", &[], body)).await;
        reply.headers[header::SET_COOKIE].to_str().unwrap().to_owned()
    };
    let plain = cookie(&ccm).await;
    assert!(plain.starts_with("pressrun_session=") && plain.contains("; HttpOnly; SameSite=Strict;"));
    assert!(!plain.contains("Secure"));
    ccm.state = ccm.state.clone().for_https();
    assert!(cookie(&ccm).await.ends_with("; Secure"));
}

#[tokio::test]
async fn guessing_passwords_is_slowed_down() {
    let mut ccm = ccm();
    let login = async |ccm: &Ccm, user: &str, password: &str, origin: &[(&str, &str)]| {
        let body = json!({"user": user, "password": password});
        ccm.send(request("POST", "/api/v1/login", origin, body)).await
    };
    let foreign = login(&ccm, "admin", &ccm.password, &[("origin", "https://evil.example")]).await;
    assert_eq!(foreign.problem(), (403, "bad-origin"));
    for _ in 0..5 {
        assert_eq!(login(&ccm, "admin", "guess", &[]).await.problem(), (401, "wrong-password"));
    }
    let slowed = login(&ccm, "admin", &ccm.password, &[]).await;
    assert_eq!(slowed.problem(), (429, "too-many-logins"));
    assert_eq!(slowed.headers[header::RETRY_AFTER], "60");
    assert_eq!(login(&ccm, "other", "guess", &[]).await.problem(), (401, "wrong-password"));
    ccm.state.clock = || WallTime(now().0 + 60_000);
    assert_eq!(login(&ccm, "admin", &ccm.password, &[]).await.status, StatusCode::OK);
}

#[tokio::test]
async fn events_are_replayed_and_followed() {
    let ccm = ccm().with_site().await;
    let run = ccm.queue_run();
    let first = add_run_event(&ccm.state.store, &run, now()).unwrap();
    let cluster = ccm.state.trust.cluster().to_string();
    add_fleet_event(&ccm.state.store, &cluster, &BTreeSet::new(), now()).unwrap();

    let bearer = format!("Bearer {}", ccm.token(Role::Viewer));
    let after = (first - 1).to_string();
    let headers = [("authorization", bearer.as_str()), ("last-event-id", after.as_str())];
    let service = TowerToHyperService::new(router(ccm.state.clone()));
    let response = service.call(request("GET", "/api/v1/events", &headers, Value::Null)).await.unwrap();
    assert_eq!(response.headers()[header::CONTENT_TYPE], "text/event-stream");
    let mut body = response.into_body();
    let mut next =
        async || String::from_utf8(body.frame().await.unwrap().unwrap().into_data().unwrap().to_vec()).unwrap();
    let event = next().await;
    assert!(event.contains("event: run\n") && event.contains(&format!("id: {first}\n")), "{event}");
    let data = event.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(data).unwrap()["state"], json!("queued"));
    assert!(next().await.contains("event: fleet\n"));

    let later = async {
        tokio::task::yield_now().await;
        add_run_event(&ccm.state.store, &Run { state: RunState::Running, ..run }, now()).unwrap();
        ccm.fake.bump();
    };
    let (event, ()) = tokio::join!(next(), later);
    assert!(event.contains("\"state\":\"running\""), "{event}");

    let bad = [("authorization", bearer.as_str()), ("last-event-id", "x")];
    let reply = ccm.send(request("GET", "/api/v1/events", &bad, Value::Null)).await;
    assert_eq!(reply.problem(), (400, "bad-event-id"));
}

#[tokio::test]
async fn the_console_is_served_with_strict_headers() {
    let ccm = ccm();
    let get = async |path: &str| ccm.send(request("GET", path, &[], Value::Null)).await;
    let index = get("/").await;
    assert_eq!(index.bytes, b"<html>");
    assert_eq!(index.headers[header::CONTENT_TYPE], "text/html; charset=utf-8");
    assert_eq!(get("/assets/app.js").await.bytes, b"1");
    assert_eq!(get("/assets/none.js").await.problem(), (404, "no-file"));
    let root = get("/api/v1/root").await;
    assert_eq!(root.headers[header::CACHE_CONTROL], "no-store");
    let refused = get("/api/v1/sites").await;
    for reply in [index, root, refused] {
        let policy = reply.headers[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'") && policy.contains("frame-ancestors 'none'"));
        assert!(!policy.contains("unsafe"));
        assert_eq!(reply.headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
    }
    assert_eq!(get("/livez").await.status, StatusCode::OK);
    assert_eq!(get("/readyz").await.status, StatusCode::OK);
}
