//! Runs from request to end, against a fleet that answers as each test says.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::assignment::{AssignmentReader, Base, Header, Kind, Limits};
use common::audit::{AuditReport, Difference};
use common::control::{ToCcm, ToLeader};
use common::credential::Roles;
use common::fleet::{MemberInfo, SegmentReport};
use common::ids::{RunNumber, SegmentName, Sequence, ServerId, SiteName};
use common::keys::SecretKey;
use common::outcome::{Outcome, Refusal, RefusalCode, Report, SiteState};
use transfer::store::ObjectStore;

mod own;
mod rest;

use super::delivery::Leader;
use super::hub::Hub;
use super::{Engine, EngineError, Parts, RunRequest, now};
use crate::ingest::content::ContentStore;
use crate::store::{Group, Run, RunKind, RunState, Selector, ServerRecord, Site, Store};
use crate::trust::Trust;

/// What a server answers to an assignment; `None` for silence.
type Behaviour = dyn Fn(ServerId, &Header) -> Option<Outcome> + Send + Sync;

struct Fleet {
    engine: Arc<Engine>,
    directory: tempfile::TempDir,
    behaviour: Arc<Mutex<Arc<Behaviour>>>,
    /// What was ordered, in order.
    orders: Arc<Mutex<Vec<Kind>>>,
}

fn server(number: u8) -> ServerId {
    ServerId([number; 16])
}

fn site() -> SiteName {
    "shop".parse().expect("good")
}

fn segment() -> SegmentName {
    "s1".parse().expect("good")
}

/// Prepares, commits and undoes whatever it is told.
fn obedient(_server: ServerId, header: &Header) -> Option<Outcome> {
    Some(match header.kind {
        Kind::Prepare | Kind::Rollback => Outcome::Prepared { version: header.result },
        Kind::Inventory => Outcome::Missing(vec![(0, header.commands)]),
        Kind::Commit { .. } | Kind::Discard | Kind::Alone => Outcome::Committed { version: header.result },
        Kind::Undo { .. } => Outcome::Undone { version: None },
        Kind::Audit { full } => {
            Outcome::Audited(AuditReport { version: Some(header.result), full, ..AuditReport::default() })
        }
    })
}

fn nothing_there() -> SiteState {
    SiteState { site: site(), live: None, backup: None, prepared: None, sequence: Sequence(0) }
}

/// What a server has after it has answered so.
fn note_outcome(state: &mut SiteState, header: &Header, outcome: &Outcome) {
    match (header.kind, outcome) {
        (Kind::Discard, Outcome::Committed { .. }) => state.backup = None,
        (_, Outcome::Committed { version }) => {
            state.backup = state.live.replace(*version);
            state.prepared = None;
        }
        (_, Outcome::Prepared { version }) => state.prepared = Some((header.number, *version)),
        (_, Outcome::Undone { .. }) => state.prepared = None,
        (_, _) => return,
    }
    state.sequence = Sequence(header.number.0);
}

fn refuse() -> Outcome {
    Outcome::Refused(Refusal { code: RefusalCode::NoSpace, reason: "the disk is full".into() })
}

impl Fleet {
    /// Servers 1 to `servers` of one segment, led by the first.
    fn new(servers: u8) -> Self {
        Self::over(tempfile::tempdir().expect("a directory"), Store::in_memory().expect("a store"), servers)
    }

    fn over(directory: tempfile::TempDir, store: Store, servers: u8) -> Self {
        let (trust, created) = Trust::open_or_create(directory.path(), store.clone(), now()).expect("trust");
        if created.is_some() {
            for number in 1..=servers {
                store.segment_or_create(&segment(), [7; 32]).expect("a segment");
                store.enrol(&record(number)).expect("enrols");
            }
            let staging = directory.path().join("staging");
            fs::create_dir(&staging).expect("makes");
            fs::write(staging.join("index.html"), "one").expect("writes");
            store
                .create_site(&Site {
                    name: site(),
                    staging,
                    live: "/srv/www/shop".into(),
                    exclude: vec![],
                    wan: "auto".into(),
                    extra: common::assignment::Extra::Remove,
                    linger_seconds: 0,
                    created: now(),
                })
                .expect("a site");
        }
        let engine = Engine::new(Parts {
            store,
            trust: Arc::new(trust),
            content: ContentStore::open(&directory.path().join("content")).expect("content"),
            objects: Arc::new(ObjectStore::open(directory.path().join("objects")).expect("objects")),
            hub: Arc::new(Hub::default()),
            directory: directory.path().to_owned(),
            transfer_address: SocketAddr::from(([127, 0, 0, 1], 1)),
            channels: super::channels::ChannelRange::default(),
        })
        .expect("an engine");
        let fleet =
            Self { engine, directory, behaviour: Arc::new(Mutex::new(Arc::new(obedient))), orders: Arc::default() };
        fleet.connect(servers);
        fleet.engine.start();
        fleet
    }

    fn behave(&self, behaviour: impl Fn(ServerId, &Header) -> Option<Outcome> + Send + Sync + 'static) {
        *self.behaviour.lock().expect("unpoisoned") = Arc::new(behaviour);
    }

    /// A leader that answers for its members.
    fn connect(&self, servers: u8) {
        let leader = Leader { server: server(1), transfer_address: SocketAddr::from(([127, 0, 0, 1], 2)) };
        let hub = self.engine.hub.clone();
        let (connection, mut queue) = hub.connect(leader);
        let objects = self.engine.objects.clone();
        let keys = self.engine.trust.publish_keys();
        let (behaviour, orders) = (self.behaviour.clone(), self.orders.clone());
        let mut live: BTreeMap<ServerId, SiteState> = BTreeMap::new();
        tokio::spawn(async move {
            let segment_report = |live: &BTreeMap<ServerId, SiteState>| {
                let members = (1..=servers).map(|number| member(number, live.get(&server(number)))).collect();
                ToCcm::Segment(SegmentReport { segment: segment(), epoch: 1, leader: server(1), members })
            };
            hub.heard(&segment(), connection, &segment_report(&live));
            while let Some(message) = queue.recv().await {
                let ToLeader::Notify(notification) = message else { continue };
                let ticket = notification.ticket.verify(&keys).expect("signed by the CCM");
                let bytes = match notification.inline {
                    Some(bytes) => bytes,
                    None => fs::read(objects.path(ticket.object)).expect("the object is served"),
                };
                let reader = AssignmentReader::open(std::io::Cursor::new(bytes), &keys, &Limits::default())
                    .expect("a good assignment");
                let header = reader.header().clone();
                orders.lock().expect("unpoisoned").push(header.kind);
                hub.heard(&segment(), connection, &ToCcm::Holds { object: ticket.object });
                let behaviour = behaviour.lock().expect("unpoisoned").clone();
                for target in ticket.targets {
                    let Some(outcome) = behaviour(target, &header) else { continue };
                    let state = live.entry(target).or_insert_with(nothing_there);
                    note_outcome(state, &header, &outcome);
                    let report = Report { server: target, assignment: header.number, outcome };
                    hub.heard(&segment(), connection, &ToCcm::Reports(vec![report]));
                }
                hub.heard(&segment(), connection, &segment_report(&live));
            }
        });
    }

    fn stage(&self, text: &str) {
        fs::write(self.directory.path().join("staging/index.html"), text).expect("writes");
    }

    fn publish(&self) -> Run {
        self.engine.request_publish(&site(), None, &RunRequest::default()).expect("accepted")
    }

    async fn end_of(&self, run: RunNumber) -> Run {
        let mut changes = self.engine.changes();
        let ended = async {
            loop {
                changes.mark_unchanged();
                let run = self.engine.store.run(run).expect("reads").expect("is there");
                if run.state.is_final() {
                    return run;
                }
                changes.changed().await.expect("the engine lives");
            }
        };
        tokio::time::timeout(Duration::from_secs(60), ended).await.expect("the run ends")
    }

    fn orders(&self) -> Vec<&'static str> {
        let orders = self.orders.lock().expect("unpoisoned");
        orders
            .iter()
            .map(|kind| match kind {
                Kind::Prepare => "prepare",
                Kind::Inventory => "inventory",
                Kind::Commit { .. } => "commit",
                Kind::Undo { .. } => "undo",
                Kind::Rollback => "rollback",
                Kind::Audit { .. } => "audit",
                Kind::Discard => "discard",
                Kind::Alone => "alone",
            })
            .collect()
    }

    fn view(&self) -> Option<crate::store::View> {
        self.engine.store.view(&site(), &"all".parse().expect("good")).expect("reads")
    }
}

fn record(number: u8) -> ServerRecord {
    ServerRecord {
        id: server(number),
        name: format!("web{number}").parse().expect("good"),
        segment: segment(),
        roles: Roles::default(),
        control_key: SecretKey::from_bytes(&[number; 32]).public(),
        location: String::new(),
        enrolled: now(),
        last_seen: None,
        info: None,
    }
}

fn member(number: u8, state: Option<&SiteState>) -> MemberInfo {
    MemberInfo {
        mtu: None,
        server: server(number),
        name: format!("web{number}").parse().expect("good"),
        roles: Roles::default(),
        transfer_address: SocketAddr::from(([127, 0, 0, 1], 3)),
        sites: state.cloned().into_iter().collect(),
        disk_free_bytes: 1 << 40,
        cpus: 1,
        load_percent: 0,
        software: String::new(),
        location: String::new(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publish_prepares_commits_and_then_advances_the_view() {
    let fleet = Fleet::new(3);
    let run = fleet.end_of(fleet.publish().run).await;
    assert_eq!((run.state, run.message.as_str()), (RunState::Done, "live on 3 servers"));
    assert_eq!(fleet.orders(), ["prepare", "commit"]);
    assert_eq!(fleet.view().expect("advanced").version, run.result.expect("a result"));
    let phases: Vec<&str> = run.phases.iter().map(|phase| phase.name.as_str()).collect();
    assert_eq!(phases, ["ingest", "build", "wan", "multicast", "prepare", "commit", "finish"]);
    assert!(run.phases.iter().all(|phase| phase.ended.is_some()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_enough_prepared_servers_nothing_is_committed_and_what_prepared_is_undone() {
    let fleet = Fleet::new(3);
    fleet.behave(|server, header| {
        if matches!(header.kind, Kind::Prepare if server != self::server(1)) {
            Some(refuse())
        } else {
            obedient(server, header)
        }
    });
    let run = fleet.end_of(fleet.publish().run).await;
    assert_eq!(run.state, RunState::Failed);
    assert!(run.message.contains("the disk is full"), "{}", run.message);
    assert_eq!(fleet.orders(), ["prepare", "undo"]);
    assert_eq!(fleet.view(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_misses_its_quorum_is_undone_on_every_server() {
    let fleet = Fleet::new(3);
    fleet.behave(|server, header| {
        if matches!(header.kind, Kind::Commit { .. } if server != self::server(1)) {
            Some(refuse())
        } else {
            obedient(server, header)
        }
    });
    let run = fleet.end_of(fleet.publish().run).await;
    assert_eq!(run.state, RunState::RolledBack);
    assert_eq!(fleet.orders(), ["prepare", "commit", "undo"]);
    assert_eq!(fleet.view(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_server_is_brought_up_to_date_by_a_run_of_its_own() {
    let fleet = Fleet::new(5);
    fleet.behave(|server, header| {
        if matches!(header.kind, Kind::Prepare if server == self::server(5) && header.targets.len() > 1) {
            Some(refuse())
        } else {
            obedient(server, header)
        }
    });
    let run = fleet.end_of(fleet.publish().run).await;
    assert_eq!(run.state, RunState::Partial);
    let mut changes = fleet.engine.changes();
    let second = tokio::time::timeout(Duration::from_secs(30), async {
        loop {
            changes.mark_unchanged();
            let runs = fleet.engine.store.runs(None, 10).expect("reads");
            if let Some(run) = runs.iter().find(|run| run.kind == RunKind::Synchronize) {
                return run.run;
            }
            changes.changed().await.expect("the engine lives");
        }
    })
    .await
    .expect("a stale server is noticed");
    let second = fleet.end_of(second).await;
    assert_eq!(second.state, RunState::Done);
    assert_eq!(second.result, run.result);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rollback_goes_to_the_version_before_and_the_next_publish_starts_from_there() {
    let fleet = Fleet::new(2);
    let first = fleet.end_of(fleet.publish().run).await;
    fleet.stage("two");
    let second = fleet.end_of(fleet.publish().run).await;
    assert_eq!(second.base, first.result);
    let back = fleet.engine.request_rollback(&site(), None, &RunRequest::default()).expect("accepted");
    let back = fleet.end_of(back.run).await;
    assert_eq!((back.state, back.result), (RunState::Done, first.result));
    let third = fleet.end_of(fleet.publish().run).await;
    assert_eq!((third.base, third.result), (first.result, second.result));
    assert_eq!(fleet.orders(), ["prepare", "commit", "prepare", "commit", "rollback", "commit", "prepare", "commit"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_publish_to_common_servers_waits_and_says_for_what() {
    let fleet = Fleet::new(2);
    fleet.behave(|_, _| None);
    let first = fleet.publish();
    let second = fleet.publish();
    let waits = async {
        let mut changes = fleet.engine.changes();
        loop {
            changes.mark_unchanged();
            let run = fleet.engine.store.run(second.run).expect("reads").expect("is there");
            if run.message == format!("waits for run {}", first.run) {
                return run.state;
            }
            changes.changed().await.expect("the engine lives");
        }
    };
    let state = tokio::time::timeout(Duration::from_secs(30), waits).await.expect("it says for what it waits");
    assert_eq!(state, RunState::Queued);
    fleet.engine.request_cancel(first.run).expect("can be cancelled");
    assert_eq!(fleet.end_of(first.run).await.state, RunState::Cancelled);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishes_of_one_site_to_disjoint_groups_keep_views_of_their_own() {
    let fleet = Fleet::new(2);
    for (group, server) in [("left", "web1"), ("right", "web2")] {
        let selector = Selector::Servers(vec![server.parse().expect("good")]);
        let group = Group { site: site(), name: group.parse().expect("good"), selector };
        fleet.engine.store.create_group(&group, None).expect("a group");
    }
    let publish = |group: &str| {
        let group = group.parse().expect("good");
        fleet.engine.request_publish(&site(), Some(&group), &RunRequest::default()).expect("accepted").run
    };
    let left = fleet.end_of(publish("left")).await;
    fleet.stage("two");
    let right = fleet.end_of(publish("right")).await;
    assert_eq!((left.base, right.base), (None, None));
    let left_again = fleet.end_of(publish("left")).await;
    assert_eq!(left_again.base, left.result);
    let refused = fleet.engine.request_publish(&site(), None, &RunRequest::default()).expect_err("which?");
    assert!(refused.to_string().contains("left, right"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_goes_on_where_it_was_when_the_ccm_starts_again() {
    let fleet = Fleet::new(2);
    // Nobody answers the commit: the CCM dies with its decision on disk.
    fleet.behave(
        |server, header| {
            if matches!(header.kind, Kind::Commit { .. }) { None } else { obedient(server, header) }
        },
    );
    let run = fleet.publish().run;
    let mut changes = fleet.engine.changes();
    tokio::time::timeout(Duration::from_secs(30), async {
        while !fleet.orders().contains(&"commit") {
            tokio::time::timeout(Duration::from_millis(100), changes.changed()).await.ok();
        }
    })
    .await
    .expect("it comes to the commit");
    let (store, directory) = (fleet.engine.store.clone(), fleet.directory);
    // A second engine over the same store stands for the restarted process.
    let again = Fleet::over(directory, store, 2);
    let ended = again.end_of(run).await;
    assert_eq!(ended.state, RunState::Done);
    assert_eq!(again.orders(), ["commit"], "nothing is done twice");
}

/// Server 2 says that one of its files was changed, until it is given the version again.
fn drifts(repaired: Arc<AtomicBool>) -> impl Fn(ServerId, &Header) -> Option<Outcome> + Send + Sync {
    move |server, header| {
        if server == self::server(2) && matches!(header.kind, Kind::Commit { .. }) {
            repaired.store(true, Ordering::Relaxed);
        }
        let Some(Outcome::Audited(mut report)) = obedient(server, header) else { return obedient(server, header) };
        if server == self::server(2) && !repaired.load(Ordering::Relaxed) {
            report.note(Difference::Changed, "index.html".to_owned());
        }
        Some(Outcome::Audited(report))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_audit_names_what_has_drifted_and_changes_nothing() {
    let fleet = Fleet::new(3);
    let published = fleet.end_of(fleet.publish().run).await;
    fleet.behave(drifts(Arc::default()));
    let request = RunRequest { full: true, ..RunRequest::default() };
    let run = fleet.engine.request_audit(&site(), None, &request).expect("accepted");
    let run = fleet.end_of(run.run).await;
    assert_eq!(run.state, RunState::Partial, "{}", run.message);
    assert!(run.message.starts_with("of 3 servers: 2 clean, 1 drifted; "), "{}", run.message);
    let states: Vec<&str> = run.servers.iter().map(|server| server.state.as_str()).collect();
    assert_eq!(states, ["clean", "drifted", "clean"]);
    let found = run.servers[1].audit.clone().expect("it said what");
    assert!(found.full && found.findings[0].path == "index.html", "{found:?}");
    assert_eq!(fleet.orders().split_off(2), ["audit"]);
    assert_eq!(fleet.view().map(|view| view.run), Some(published.run));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_audit_that_repairs_gives_the_version_to_those_that_had_drifted_and_to_no_others() {
    let fleet = Fleet::new(3);
    let published = fleet.end_of(fleet.publish().run).await;
    let behaviour = drifts(Arc::default());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let noted = asked.clone();
    fleet.behave(move |server, header| {
        if !matches!(header.kind, Kind::Audit { .. }) {
            assert_eq!(header.base, Base::Any);
            noted.lock().expect("unpoisoned").push(server);
        }
        behaviour(server, header)
    });
    let request = RunRequest { repair: true, ..RunRequest::default() };
    let run = fleet.engine.request_audit(&site(), None, &request).expect("accepted");
    let run = fleet.end_of(run.run).await;
    assert_eq!(run.state, RunState::Done, "{}", run.message);
    assert_eq!(run.message, "of 3 servers: 2 clean, 1 had drifted and repaired");
    assert_eq!(fleet.orders().split_off(2), ["audit", "inventory", "prepare", "commit"]);
    assert!(asked.lock().expect("unpoisoned").iter().all(|server| *server == self::server(2)));
    assert_eq!(run.result, published.result);
    assert_eq!(fleet.view().map(|view| view.run), Some(published.run), "what is live everywhere stays what it was");
    let again = fleet.engine.request_audit(&site(), None, &RunRequest::default()).expect("accepted");
    assert_eq!(fleet.end_of(again.run).await.state, RunState::Done);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_not_looked_at_is_not_said_to_be_clean() {
    let fleet = Fleet::new(2);
    fleet.end_of(fleet.publish().run).await;
    fleet.behave(|server, header| if server == self::server(2) { Some(refuse()) } else { obedient(server, header) });
    let run = fleet.engine.request_audit(&site(), None, &RunRequest::default()).expect("accepted");
    let run = fleet.end_of(run.run).await;
    assert_eq!(
        (run.state, run.message.as_str()),
        (RunState::Partial, "of 2 servers: 1 clean, 1 not known to be clean")
    );
    assert_eq!(run.servers[1].reason.as_deref(), Some("the disk is full"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn before_the_first_publish_there_is_nothing_to_audit_or_to_mend() {
    let fleet = Fleet::new(1);
    let refused = fleet.engine.request_audit(&site(), None, &RunRequest::default()).expect_err("nothing there");
    assert!(matches!(refused, EngineError::NeverPublished { .. }), "{refused}");
    for replicate in [false, true] {
        let refused = fleet.engine.request_mending(&site(), None, &[], replicate).expect_err("nothing there");
        assert!(matches!(refused, EngineError::NeverPublished { .. }), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn synchronize_leaves_servers_alone_that_have_the_version() {
    let fleet = Fleet::new(2);
    fleet.end_of(fleet.publish().run).await;
    let run = fleet.engine.request_mending(&site(), None, &[], false).expect("accepted");
    let run = fleet.end_of(run.run).await;
    assert_eq!((run.state, run.message.as_str()), (RunState::Done, "every server had it already"));
    assert_eq!(fleet.orders(), ["prepare", "commit"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicate_sends_everything_to_the_servers_that_are_named_whatever_they_have() {
    let fleet = Fleet::new(3);
    let published = fleet.end_of(fleet.publish().run).await;
    let asked = Arc::new(Mutex::new(Vec::new()));
    let noted = asked.clone();
    fleet.behave(move |server, header| {
        noted.lock().expect("unpoisoned").push((server, header.base, header.blocks));
        obedient(server, header)
    });
    let web3 = ["web3".parse().expect("good")];
    let run = fleet.engine.request_mending(&site(), None, &web3, true).expect("accepted");
    let run = fleet.end_of(run.run).await;
    assert_eq!((run.state, run.result), (RunState::Done, published.result), "{}", run.message);
    assert_eq!(fleet.orders().split_off(2), ["prepare", "commit"], "nobody is asked what it has");
    let asked = asked.lock().expect("unpoisoned");
    assert!(asked.iter().all(|(server, ..)| *server == self::server(3)));
    assert!(asked[0].1 == Base::Any && asked[0].2 > 0, "{asked:?}");
    let stranger = ["nobody".parse().expect("good")];
    let refused = fleet.engine.request_mending(&site(), None, &stranger, true).expect_err("who?");
    assert!(matches!(refused, EngineError::NotInGroup { .. }), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_is_cancelled_while_it_is_being_committed_is_undone_everywhere() {
    let fleet = Fleet::new(3);
    // One of three has switched.
    fleet.behave(|server, header| {
        if matches!(header.kind, Kind::Commit { .. } if server != self::server(1)) {
            None
        } else {
            obedient(server, header)
        }
    });
    let run = fleet.publish().run;
    let mut changes = fleet.engine.changes();
    tokio::time::timeout(Duration::from_secs(30), async {
        while !fleet.orders().contains(&"commit") {
            tokio::time::timeout(Duration::from_millis(100), changes.changed()).await.ok();
        }
    })
    .await
    .expect("it comes to the commit");
    fleet.engine.request_cancel(run).expect("can be cancelled");
    let ended = fleet.end_of(run).await;
    assert_eq!(ended.state, RunState::RolledBack, "{}", ended.message);
    assert!(ended.message.starts_with("cancelled while"), "{}", ended.message);
    assert_eq!(fleet.orders(), ["prepare", "commit", "undo"]);
    assert_eq!(fleet.view(), None);
    let refused = fleet.engine.request_cancel(run).expect_err("it is over");
    assert!(matches!(refused, EngineError::TooLate { .. }), "{refused}");
}
