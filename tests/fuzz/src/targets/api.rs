//! Requests to the content control manager's API, through its routes down to its database.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use ccm::api::operations::{
    Accepted, AuditRequest, CheckpointRequest, DiffAdded, DiffReport, DiffRequest, HotRequest, MendRequest,
    OperationError, Operations, PublishRequest, RemoveRequest, RestoreRequest, RollbackRequest, SwitchRequest,
};
use ccm::api::{ApiState, router};
use ccm::store::{Checkpoint, Role, RunState, ServerRecord, Store};
use ccm::trust::Trust;
use ccm::trust::enrol::TokenGrant;
use common::credential::Roles;
use common::digest::{Digest, Version};
use common::ids::{RunNumber, SegmentName, ServerId};
use common::keys::SecretKey;
use common::time::WallTime;
use futures_util::future::BoxFuture;
use http_body_util::{BodyExt as _, Full};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE};
use hyper::service::Service as _;
use hyper::{Request, StatusCode};
use hyper_util::service::TowerToHyperService;
use tokio::sync::watch;
use transfer::tls::Peer;

use super::Renewed;
use super::chunks::request;
use crate::{Shape, Target};

/// The server whose certificate requests come with.
const SERVER: ServerId = ServerId([9; 16]);
const NOW: WallTime = WallTime(1_900_000_000_000);
/// Inputs after which a manager begins anew, so that what one input did is not hidden by all before it.
const LIFE: u64 = 4_096;
/// What stands for a token that admits servers.
const TOKEN: &[u8] = b"@TOKEN@";
const REQUEST: &str = include_str!("../samples/request.pem");

/// Accepts everything.
struct Fake {
    changes: watch::Sender<u64>,
}

const ACCEPTED: Accepted = Accepted { run: RunNumber(7), state: RunState::Queued };

impl Operations for Fake {
    fn move_segment(&self, _: SegmentName, _: SocketAddr) -> Result<(), OperationError> {
        Ok(())
    }
    fn publish(&self, _: PublishRequest) -> BoxFuture<'_, Result<Accepted, OperationError>> {
        Box::pin(async { Ok(ACCEPTED) })
    }
    fn rollback(&self, _: RollbackRequest) -> BoxFuture<'_, Result<Accepted, OperationError>> {
        Box::pin(async { Ok(ACCEPTED) })
    }
    fn restore(&self, _: RestoreRequest) -> BoxFuture<'_, Result<Accepted, OperationError>> {
        Box::pin(async { Ok(ACCEPTED) })
    }
    fn audit(&self, _: AuditRequest) -> BoxFuture<'_, Result<Accepted, OperationError>> {
        Box::pin(async { Ok(ACCEPTED) })
    }
    fn mend(&self, _: MendRequest) -> BoxFuture<'_, Result<Accepted, OperationError>> {
        Box::pin(async { Ok(ACCEPTED) })
    }
    fn remove(&self, _: RemoveRequest) -> BoxFuture<'_, Result<Accepted, OperationError>> {
        Box::pin(async { Ok(ACCEPTED) })
    }
    fn hot(&self, _: HotRequest) -> BoxFuture<'_, Result<Accepted, OperationError>> {
        Box::pin(async { Ok(ACCEPTED) })
    }
    fn switch(&self, _: SwitchRequest) -> BoxFuture<'_, Result<Accepted, OperationError>> {
        Box::pin(async { Ok(ACCEPTED) })
    }
    fn rest(&self, _: RunNumber, _: bool) -> BoxFuture<'_, Result<(), OperationError>> {
        Box::pin(async { Ok(()) })
    }
    fn checkpoint(&self, request: CheckpointRequest) -> BoxFuture<'_, Result<Checkpoint, OperationError>> {
        Box::pin(async move {
            let name = request.name.unwrap_or_else(|| "made-up".parse().expect("good"));
            let version = Version(Digest([1; 32]));
            let group = "all".parse().expect("good");
            Ok(Checkpoint { site: request.site, group, name, version, created: NOW, run: None })
        })
    }
    fn diff(&self, request: DiffRequest) -> BoxFuture<'_, Result<DiffReport, OperationError>> {
        Box::pin(async move {
            Ok(DiffReport {
                site: request.site,
                group: "all".parse().expect("good"),
                base: None,
                result: Version(Digest([2; 32])),
                added: vec![DiffAdded { path: "index.html".to_owned(), size: 3 }],
                changed: Vec::new(),
                removed: Vec::new(),
                moved: Vec::new(),
                attributes: Vec::new(),
                content_bytes: 3,
            })
        })
    }
    fn cancel(&self, run: RunNumber) -> BoxFuture<'_, Result<(), OperationError>> {
        Box::pin(async move { Err(OperationError::not_found("no-run", format!("there is no run {run}"))) })
    }
    fn online(&self) -> BTreeSet<ServerId> {
        BTreeSet::new()
    }
    fn timetable_changed(&self) {}
    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

fn assets(path: &str) -> Option<(Cow<'static, [u8]>, &'static str)> {
    (path == "index.html").then_some((Cow::Borrowed(b"<html>".as_slice()), "text/html; charset=utf-8"))
}

struct Manager {
    _folder: tempfile::TempDir,
    state: ApiState,
    /// Of each role, the lowest first.
    bearers: Vec<String>,
    join: String,
}

impl Manager {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a directory");
        let store = Store::in_memory().expect("a database");
        let server = ServerRecord {
            id: SERVER,
            name: "web9".parse().expect("good"),
            segment: "s1".parse().expect("good"),
            roles: Roles { server: true, leader: true },
            control_key: SecretKey::from_bytes(&[2; 32]).public(),
            location: String::new(),
            enrolled: NOW,
            last_seen: None,
            info: None,
        };
        store.segment_or_create(&server.segment, [3; 32]).expect("it is new");
        store.enrol(&server).expect("it is new");
        let (trust, _) = Trust::open_or_create(folder.path(), store.clone(), NOW).expect("keys are made");
        let roles = [Role::Viewer, Role::Publisher, Role::Operator, Role::Admin];
        let bearer = |role| trust.create_api_token("fuzz", role, None, NOW).expect("a token");
        let bearers = roles.map(bearer).into();
        let lifetime = std::time::Duration::from_secs(3_600);
        let grant = TokenGrant { segment: None, uses: 1_000_000, lifetime, roles: None };
        let join = trust.create_join_token(grant, NOW).expect("a token").token;
        let operations = Arc::new(Fake { changes: watch::Sender::new(0) });
        let mut state = ApiState::new(store, Arc::new(trust), operations, assets);
        state.clock = || NOW;
        Self { _folder: folder, state, bearers, join }
    }

    /// The first byte says who asks: nobody, or one of each role.
    fn request(&self, input: &[u8]) -> Option<(Request<Full<Bytes>>, bool)> {
        let (who, rest) = input.split_first()?;
        let rest = match rest.windows(TOKEN.len()).position(|window| window == TOKEN) {
            Some(at) => [&rest[..at], self.join.as_bytes(), &rest[at + TOKEN.len()..]].concat(),
            None => rest.to_vec(),
        };
        let mut request = request(&rest)?;
        let bearer = usize::from(*who).checked_rem(5).and_then(|who| self.bearers.get(who.checked_sub(1)?));
        if let Some(bearer) = bearer {
            let value = format!("Bearer {bearer}").parse().expect("digits");
            request.headers_mut().insert("authorization", value);
        }
        // As whoever came over TLS: a server.
        request.extensions_mut().insert(Peer::Server(SERVER));
        let is_public = ["/api/v1/roster", "/api/v1/root", "/api/v1/enroll", "/api/v1/login"]
            .contains(&request.uri().path())
            || !request.uri().path().starts_with("/api/");
        let may = is_public || bearer.is_some() || request.headers().contains_key("cookie");
        request.headers_mut().entry(CONTENT_TYPE).or_insert("application/json".parse().expect("a word"));
        Some((request, may))
    }
}

fn samples() -> Vec<Vec<u8>> {
    let site = r#"{"name":"www","staging":"/srv/staging","live":"/srv/www/{server}","exclude":["*.log"],"wan":"star"}"#;
    let csr = serde_json::to_string(REQUEST).expect("text");
    let key = "07".repeat(32);
    let enroll = format!(
        r#"{{"token":"@TOKEN@","name":"web1","segment":"s1","csr":{csr},"control_key":"{key}","roles":{{"server":true,"leader":true}},"location":"rack 4"}}"#
    );
    let orders: [(u8, &str, &str); 29] = [
        (4, "POST /api/v1/sites", site),
        (4, "GET /api/v1/sites?limit=5", ""),
        (4, "GET /api/v1/sites/www", ""),
        (4, "DELETE /api/v1/sites/www", ""),
        (4, "POST /api/v1/groups", r#"{"site":"www","name":"g","segment":"s1"}"#),
        (4, "DELETE /api/v1/sites/www/groups/g", ""),
        (2, "POST /api/v1/sites/www/diff", r#"{"group":"all","text":true}"#),
        (2, "POST /api/v1/sites/www/publish", r#"{"group":"all","quorum":"80%","adopt":true,"timeout_seconds":60}"#),
        (2, "POST /api/v1/sites/www/rollback", r#"{"quorum":"2"}"#),
        (3, "POST /api/v1/sites/www/checkpoints", r#"{"name":"before"}"#),
        (2, "POST /api/v1/sites/www/checkpoints/before/restore", "{}"),
        (1, "GET /api/v1/runs?site=www&state=queued&limit=3", ""),
        (1, "GET /api/v1/runs/7", ""),
        (2, "POST /api/v1/runs/7/cancel", ""),
        (
            3,
            "POST /api/v1/schedules",
            r#"{"name":"n","site":"www","action":"publish","cron":"30 3 * * 1-5","zone":"UTC"}"#,
        ),
        (
            3,
            "POST /api/v1/schedules",
            r#"{"name":"n","site":"www","action":"restore","checkpoint":"before","at":"2031-01-01T00:00:00Z"}"#,
        ),
        (3, "POST /api/v1/schedules/n/pause", ""),
        (3, "POST /api/v1/schedules/n/skip", ""),
        (1, "GET /api/v1/servers?segment=s1", ""),
        (4, "DELETE /api/v1/servers/02020202020202020202020202020202", ""),
        (
            4,
            "POST /api/v1/tokens",
            r#"{"segment":"s1","uses":3,"ttl_seconds":60,"roles":{"server":true,"leader":false}}"#,
        ),
        (4, "DELETE /api/v1/tokens/0123456789abcdef", ""),
        (0, "POST /api/v1/login", r#"{"user":"nobody","password":"x"}"#),
        (0, "POST /api/v1/enroll", &enroll),
        (0, "GET /api/v1/root", ""),
        (0, "POST /api/v1/roster", r#"{"control":"10.0.0.9:7000"}"#),
        (0, "GET /assets/../index.html", ""),
        (1, "GET /api/v1/events\nlast-event-id: 3", ""),
        (0, "GET /api/v1/me\ncookie: pressrun_session=0123456789abcdef.07", ""),
    ];
    orders.into_iter().map(|(who, head, body)| [&[who], head.as_bytes(), b"\n\n", body.as_bytes()].concat()).collect()
}

/// Requests as text (see `chunk-request`), behind a byte that says who asks.
pub(super) fn api() -> Target {
    let mut managers = Renewed::every(LIFE, Manager::start);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    Target {
        name: "api",
        what: "requests to the API, through to the database",
        bytes_max: 4_096,
        samples: samples(),
        check: Box::new(move |input| {
            let manager = managers.next();
            let Some((request, may)) = manager.request(input) else { return Shape::refused(&"not a request") };
            let path: String = request.uri().path().split('/').take(4).collect();
            let method = request.method().clone();
            let service = TowerToHyperService::new(router(manager.state.clone()));
            let (parts, body) = runtime.block_on(async {
                let answer = service.call(request).await.expect("there is always an answer");
                let (parts, body) = answer.into_parts();
                let is_stream = parts.headers.get(CONTENT_TYPE).is_some_and(|kind| kind == "text/event-stream");
                let body = match is_stream {
                    true => Bytes::new(),
                    false => body.collect().await.expect("it is in memory").to_bytes(),
                };
                (parts, body)
            });
            assert!(!parts.status.is_server_error(), "{}: {}", parts.status, String::from_utf8_lossy(&body));
            assert!(may || !parts.status.is_success(), "{method} {path} is answered to nobody");
            let length = parts.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
            assert!(method == "HEAD" || length.is_none_or(|length: usize| length == body.len()));
            let kind = parts.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("").to_owned();
            let mut code = String::new();
            if kind.contains("json") && method != "HEAD" {
                let document: serde_json::Value = serde_json::from_slice(&body).expect("what is called JSON is JSON");
                if kind.contains("problem") {
                    assert_eq!(document["status"], parts.status.as_u16());
                    code = document["code"].as_str().expect("problems have a code").to_owned();
                }
            }
            let shape = (code, path, status_word(parts.status), kind);
            if parts.status.is_success() { Shape::decoded(&shape) } else { Shape::refused(&shape) }
        }),
    }
}

/// A status without digits, which do not count.
fn status_word(status: StatusCode) -> &'static str {
    status.canonical_reason().unwrap_or("?")
}
