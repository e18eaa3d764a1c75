use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;

use common::credential::Roles;
use common::digest::{Digest, Version};
use common::fleet::MemberInfo;
use common::ids::{
    AssignmentNumber, CheckpointName, GroupName, RunNumber, SegmentName, ServerId, ServerName, SiteName,
};
use common::keys::PublicKey;
use common::outcome::{Outcome, Refusal, RefusalCode, SiteState};
use common::time::WallTime;
use serde_json::json;

use super::*;

const NOW: WallTime = WallTime(1_900_000_000_000);

fn site_name() -> SiteName {
    SiteName::new("www").unwrap()
}

fn group_name() -> GroupName {
    GroupName::new("all").unwrap()
}

fn version(byte: u8) -> Version {
    Version(Digest([byte; 32]))
}

fn site(name: &str) -> Site {
    Site {
        name: SiteName::new(name).unwrap(),
        staging: "/srv/staging/www".into(),
        live: "/srv/www/{server}".to_owned(),
        exclude: vec!["*.tmp".to_owned()],
        wan: "auto".to_owned(),
        extra: common::assignment::Extra::Remove,
        linger_seconds: 0,
        created: NOW,
    }
}

fn server(number: u8, segment: &str) -> ServerRecord {
    ServerRecord {
        id: ServerId([number; 16]),
        name: ServerName::new(format!("web{number}")).unwrap(),
        segment: SegmentName::new(segment).unwrap(),
        roles: Roles::default(),
        control_key: PublicKey([number; 32]),
        location: "rack 4".to_owned(),
        enrolled: NOW,
        last_seen: None,
        info: None,
    }
}

/// A store with the site `www` and the servers `web1` to `web3`, the third in a segment of its own.
fn store() -> Store {
    let store = Store::in_memory().unwrap();
    store.create_site(&site("www")).unwrap();
    for (number, segment) in [(1, "s1"), (2, "s1"), (3, "s2")] {
        store.segment_or_create(&SegmentName::new(segment).unwrap(), [number; 32]).unwrap();
        store.enrol(&server(number, segment)).unwrap();
    }
    store
}

fn run(store: &Store) -> Run {
    let servers = [ServerId([2; 16]), ServerId([1; 16])];
    store.create_run(&site_name(), &group_name(), RunKind::Publish, &json!({"adopt": true}), &servers, NOW).unwrap()
}

#[test]
fn a_database_on_disk_is_private_and_survives_being_closed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ccm.sqlite");
    let first = Store::open(&path).unwrap();
    first.set_meta("cluster", b"one").unwrap();
    first.set_meta("cluster", b"two").unwrap();
    let number = first.new_assignment_number().unwrap();
    drop(first);

    let again = Store::open(&path).unwrap();
    assert_eq!(again.meta("cluster").unwrap().as_deref(), Some(&b"two"[..]));
    assert_eq!(again.meta("none").unwrap(), None);
    assert!(again.new_assignment_number().unwrap() > number);
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let pragma = |name| again.lock().query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, String>(0)).unwrap();
    assert_eq!(pragma("journal_mode"), "wal");
    let number = |name| again.lock().query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!((number("synchronous"), number("foreign_keys")), (2, 1));
}

#[test]
fn a_database_of_a_later_version_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ccm.sqlite");
    let store = Store::open(&path).unwrap();
    store
        .lock()
        .execute("INSERT INTO refinery_schema_history VALUES (99, 'later', '2030-01-01T00:00:00Z', '1')", [])
        .unwrap();
    drop(store);
    assert!(matches!(Store::open(&path), Err(StoreError::Migrate(_))));
}

#[test]
fn a_site_is_read_back_as_it_was_set_up_and_its_name_is_taken_once() {
    let store = store();
    assert_eq!(store.site(&site_name()).unwrap(), Some(site("www")));
    let taken = store.create_site(&Site { live: "/elsewhere".to_owned(), ..site("www") });
    assert!(matches!(taken, Err(StoreError::Exists { thing: Thing::Site, .. })));
    assert_eq!(store.sites().unwrap(), [site("www")]);
}

#[test]
fn group_members_are_the_enrolled_servers_that_hold_content() {
    let store = store();
    let relay = ServerRecord { roles: Roles { server: false, leader: true }, ..server(4, "s1") };
    store.enrol(&relay).unwrap();
    let names = |selector| {
        let group = Group { site: site_name(), name: group_name(), selector };
        store.members_of(&group).unwrap().iter().map(|s| s.name.to_string()).collect::<Vec<_>>()
    };
    let listed = ["web3", "web4", "web9"].map(|name| ServerName::new(name).unwrap()).to_vec();
    assert_eq!(names(Selector::Servers(listed)), ["web3"]);
    assert_eq!(names(Selector::Segment(SegmentName::new("s1").unwrap())), ["web1", "web2"]);
    assert_eq!(names(Selector::All), ["web1", "web2", "web3"]);
}

#[test]
fn groups_belong_to_a_site_and_go_with_it() {
    let store = store();
    let group = Group { site: site_name(), name: group_name(), selector: Selector::All };
    store.create_group(&group, None).unwrap();
    assert_eq!(store.group(&site_name(), &group_name()).unwrap().as_ref(), Some(&group));
    assert!(matches!(store.create_group(&group, None), Err(StoreError::Exists { thing: Thing::Group, .. })));
    let orphan = Group { site: SiteName::new("none").unwrap(), ..group };
    assert!(matches!(store.create_group(&orphan, None), Err(StoreError::Unknown { thing: Thing::Site, .. })));
    store.delete_site(&site_name()).unwrap();
    assert_eq!(store.groups(None).unwrap(), []);
}

#[test]
fn what_takes_part_in_an_unfinished_run_cannot_be_removed() {
    let store = store();
    store.create_group(&Group { site: site_name(), name: group_name(), selector: Selector::All }, None).unwrap();
    let mut run = run(&store);
    let busy = |result| matches!(result, Err(StoreError::Busy { run, .. }) if run == RunNumber(1));
    assert!(busy(store.delete_site(&site_name())));
    assert!(busy(store.delete_group(&site_name(), &group_name())));
    assert!(busy(store.remove_server(&ServerId([1; 16]))));
    store.remove_server(&ServerId([3; 16])).unwrap();

    run.state = RunState::Failed;
    store.save_run(&run, None).unwrap();
    store.delete_group(&site_name(), &group_name()).unwrap();
    store.delete_site(&site_name()).unwrap();
    store.remove_server(&ServerId([1; 16])).unwrap();
    assert!(store.run(run.run).unwrap().is_some(), "history outlives the site");
}

#[test]
fn a_server_name_is_taken_once_and_reports_are_kept() {
    let store = store();
    let twin = ServerRecord { id: ServerId([9; 16]), ..server(1, "s1") };
    assert!(matches!(store.enrol(&twin), Err(StoreError::Exists { thing: Thing::Server, .. })));

    let info = MemberInfo {
        mtu: None,
        server: ServerId([1; 16]),
        name: ServerName::new("web1").unwrap(),
        roles: Roles::default(),
        transfer_address: "127.0.0.1:7171".parse().unwrap(),
        sites: vec![SiteState {
            site: site_name(),
            live: Some(version(1)),
            backup: None,
            prepared: None,
            sequence: common::ids::Sequence(4),
        }],
        disk_free_bytes: 5,
        cpus: 2,
        load_percent: 30,
        software: "0.1.0".to_owned(),
        location: String::new(),
    };
    let stranger = MemberInfo { server: ServerId([77; 16]), ..info.clone() };
    store.save_members(&[info.clone(), stranger], NOW).unwrap();
    let seen = store.server_named(&info.name).unwrap().unwrap();
    assert_eq!(seen, ServerRecord { last_seen: Some(NOW), info: Some(info), ..server(1, "s1") });
    assert_eq!(store.servers().unwrap().len(), 3);
    assert_eq!(store.server(&ServerId([2; 16])).unwrap(), Some(server(2, "s1")));
}

#[test]
fn a_segment_keeps_its_first_key_and_its_epoch_never_falls() {
    let store = store();
    let segment = SegmentName::new("s1").unwrap();
    assert_eq!(store.segment_or_create(&segment, [50; 32]).unwrap().key, [1; 32]);
    let leader = || store.leaders().unwrap().remove(0);
    store.save_leader(&segment, Some((ServerId([1; 16]), 5))).unwrap();
    store.save_leader(&segment, Some((ServerId([2; 16]), 4))).unwrap();
    assert_eq!((leader().leader, leader().epoch), (Some(ServerId([1; 16])), 5));
    store.save_leader(&segment, None).unwrap();
    assert_eq!((leader().leader, leader().epoch), (None, 5));
    assert!(store.save_leader(&SegmentName::new("s9").unwrap(), None).is_err());
}

#[test]
fn a_run_is_durable_with_its_request_before_anything_is_done() {
    let store = store();
    let made = run(&store);
    assert_eq!((made.run, made.state, made.created), (RunNumber(1), RunState::Queued, NOW));
    assert_eq!(store.run(made.run).unwrap().as_ref(), Some(&made));
    assert_eq!(store.run_request(made.run).unwrap(), Some(json!({"adopt": true})));
    assert_eq!(store.run_servers(made.run).unwrap(), [ServerId([1; 16]), ServerId([2; 16])]);
    let unknown = SiteName::new("none").unwrap();
    let refused = store.create_run(&unknown, &group_name(), RunKind::Publish, &json!({}), &[], NOW);
    assert!(matches!(refused, Err(StoreError::Unknown { thing: Thing::Site, .. })));
    assert_eq!(run(&store).run, RunNumber(2));
}

#[test]
fn a_run_is_shown_as_the_contract_has_it() {
    let store = store();
    let mut run = run(&store);
    run.phases.push(Phase { name: "ingest".to_owned(), started: NOW, ended: None, seconds: None, bytes: 7 });
    run.state = RunState::RolledBack;
    run.ended = Some(NOW);
    run.result = Some(version(0xab));
    let document = serde_json::to_value(&run).unwrap();
    assert_eq!(document["run"], json!(1));
    assert_eq!(document["state"], json!("rolled-back"));
    assert_eq!(document["kind"], json!("publish"));
    assert_eq!(document["ended"], json!("2030-03-17T17:46:40.000Z"));
    assert_eq!(document["started"], json!(null));
    assert_eq!(document["result"], json!("ab".repeat(32)));
    assert_eq!(document["phases"][0]["started"], json!("2030-03-17T17:46:40.000Z"));
    assert_eq!(serde_json::from_value::<Run>(document).unwrap(), run);
}

#[test]
fn unfinished_runs_come_oldest_first_and_keep_their_decision() {
    let store = store();
    let (mut first, second, third) = (run(&store), run(&store), run(&store));
    first.state = RunState::Running;
    store.save_run(&first, Some(&json!({"decided": "commit"}))).unwrap();
    first.message = "committing".to_owned();
    store.save_run(&first, None).unwrap();
    store.save_run(&Run { state: RunState::Cancelled, ..second }, None).unwrap();

    let unfinished = store.unfinished_runs().unwrap();
    assert_eq!(unfinished.iter().map(|(run, _, _)| run.run).collect::<Vec<_>>(), [first.run, third.run]);
    assert_eq!(unfinished[0].0, first);
    assert_eq!(unfinished[0].2, Some(json!({"decided": "commit"})));
    assert_eq!(unfinished[1].2, None);
}

#[test]
fn a_run_that_is_over_stays_over() {
    let store = store();
    let made = run(&store);
    store.save_run(&Run { state: RunState::Cancelled, ..made.clone() }, None).unwrap();
    assert!(matches!(store.save_run(&made, None), Err(StoreError::RunIsFinal { .. })));
    let unknown = Run { run: RunNumber(99), ..made };
    assert!(matches!(store.save_run(&unknown, None), Err(StoreError::Unknown { thing: Thing::Run, .. })));
}

#[test]
fn runs_are_listed_newest_first_per_site_and_limited() {
    let store = store();
    store.create_site(&site("blog")).unwrap();
    let (first, second) = (run(&store), run(&store));
    let blog = SiteName::new("blog").unwrap();
    store.create_run(&blog, &group_name(), RunKind::Rollback, &json!({}), &[], NOW).unwrap();
    let numbers = |site, limit| store.runs(site, limit).unwrap().iter().map(|run| run.run.0).collect::<Vec<_>>();
    assert_eq!(numbers(None, 10), [3, 2, 1]);
    assert_eq!(numbers(None, 2), [3, 2]);
    assert_eq!(numbers(Some(&site_name()), 10), [2, 1]);
    assert_eq!(store.runs(Some(&site_name()), 10).unwrap(), [RunSummary::from(&second), RunSummary::from(&first)]);
}

#[test]
fn a_wish_to_cancel_is_kept() {
    let store = store();
    let run = run(&store);
    assert!(!store.cancel_requested(run.run).unwrap());
    store.request_cancel(run.run).unwrap();
    assert!(store.cancel_requested(run.run).unwrap());
    assert!(store.request_cancel(RunNumber(9)).is_err());
}

#[test]
fn assignments_and_outcomes_are_read_back_and_the_last_outcome_counts() {
    let store = store();
    let run = run(&store);
    let assignment = AssignmentRecord {
        number: store.new_assignment_number().unwrap(),
        run: run.run,
        kind: "content".to_owned(),
        object: Some(Digest([3; 32])),
        length: 9,
        ticket: Some(vec![1, 2]),
        targets: vec![ServerId([1; 16]), ServerId([2; 16])],
        expires: NOW,
        inline: None,
    };
    store.save_assignment(&AssignmentRecord { object: None, ..assignment.clone() }).unwrap();
    store.save_assignment(&assignment).unwrap();
    assert_eq!(store.assignment(assignment.number).unwrap().as_ref(), Some(&assignment));
    assert_eq!(store.assignments_of(run.run).unwrap(), std::slice::from_ref(&assignment));

    let id = ServerId([1; 16]);
    let refused = Outcome::Refused(Refusal { code: RefusalCode::NoSpace, reason: "full".to_owned() });
    store
        .save_outcomes(&[(assignment.number, id, Outcome::Received), (assignment.number, id, refused.clone())])
        .unwrap();
    store.save_outcomes(&[(AssignmentNumber(999), id, Outcome::Received)]).unwrap();
    assert_eq!(store.outcomes(assignment.number).unwrap(), BTreeMap::from([(id, refused)]));
    assert!(store.outcomes(AssignmentNumber(999)).unwrap().is_empty());
}

fn effects(run: &Run) -> Effects {
    let view = View {
        site: site_name(),
        group: group_name(),
        version: version(2),
        assignment: AssignmentNumber(1),
        run: run.run,
        published: NOW,
        previous: Some(version(1)),
    };
    let snapshot = Snapshot {
        run: run.run,
        site: site_name(),
        group: group_name(),
        version: version(2),
        assignment: AssignmentNumber(1),
        time: NOW,
    };
    Effects {
        view: Some(view),
        wanted: vec![(site_name(), group_name(), ServerId([1; 16]), version(2))],
        snapshot: Some(snapshot),
        hold: Some(HoldChange::Set(Hold {
            site: site_name(),
            group: group_name(),
            run: run.run,
            reason: "rolled back".to_owned(),
            since: NOW,
        })),
        own: Vec::new(),
        staged: None,
    }
}

#[test]
fn a_version_of_a_server_s_own_stands_until_somebody_decides_for_its_group() {
    let store = store();
    let (group, server) = (group_name(), ServerId([1; 16]));
    let first = Run { state: RunState::Done, ..run(&store) };
    store.finish_run(&first, &effects(&first)).unwrap();
    let hot = Run { state: RunState::Done, ..run(&store) };
    let own = OwnVersion { site: site_name(), group: group.clone(), server, version: version(7), own: Own::Hot };
    let stranger = OwnVersion { server: ServerId([99; 16]), ..own.clone() };
    let staged = Staged {
        site: site_name(),
        group: group.clone(),
        version: version(8),
        assignment: AssignmentNumber(4),
        run: hot.run,
        expires: NOW,
    };
    let change = Some(StagedChange::Set(staged.clone()));
    let of_own = Effects { own: vec![own.clone(), stranger], staged: change, ..Effects::default() };
    store.finish_run(&hot, &of_own).unwrap();
    assert_eq!(store.own_versions(Some(&site_name())).unwrap(), [((site_name(), server), own)].into());
    assert_eq!(store.wanted(&site_name()).unwrap(), [(server, version(7))].into());
    assert_eq!(store.staged(&site_name(), &group).unwrap(), Some(staged));
    assert_eq!(store.versions_in_use().unwrap(), [version(1), version(2), version(7), version(8)].into());

    let next = Run { state: RunState::Done, ..run(&store) };
    let forget = Some(StagedChange::Forget(site_name(), group.clone()));
    store.finish_run(&next, &Effects { staged: forget, ..effects(&next) }).unwrap();
    assert!(store.own_versions(None).unwrap().is_empty());
    assert_eq!(store.wanted(&site_name()).unwrap(), [(server, version(2))].into());
    assert_eq!(store.staged(&site_name(), &group).unwrap(), None);
}

#[test]
fn that_a_run_shall_rest_is_kept() {
    let store = store();
    let made = run(&store);
    assert!(!store.is_paused(made.run).unwrap());
    store.set_paused(made.run, true).unwrap();
    assert!(store.is_paused(made.run).unwrap());
    store.set_paused(made.run, false).unwrap();
    assert!(!store.is_paused(made.run).unwrap());
    assert!(store.set_paused(RunNumber(99), true).is_err());
}

#[test]
fn finishing_a_run_changes_everything_that_follows_from_it() {
    let store = store();
    let done = Run { state: RunState::Done, ..run(&store) };
    let effects = effects(&done);
    store.finish_run(&done, &effects).unwrap();
    assert_eq!(store.view(&site_name(), &group_name()).unwrap(), effects.view);
    assert_eq!(store.views(None).unwrap().len(), 1);
    assert_eq!(store.holds().unwrap().len(), 1);
    assert_eq!(store.wanted(&site_name()).unwrap(), BTreeMap::from([(ServerId([1; 16]), version(2))]));
    assert_eq!(store.all_wanted().unwrap(), effects.wanted);
    assert_eq!(store.unfinished_runs().unwrap(), []);
    assert_eq!(store.versions_in_use().unwrap(), [version(1), version(2)].into());
}

#[test]
fn a_run_whose_effects_do_not_fit_is_not_finished_at_all() {
    let store = store();
    let made = run(&store);
    let done = Run { state: RunState::Done, ..made.clone() };
    let mut effects = effects(&done);
    effects.snapshot.as_mut().unwrap().site = SiteName::new("none").unwrap();
    assert!(store.finish_run(&done, &effects).is_err());
    assert_eq!(store.run(made.run).unwrap(), Some(made));
    assert_eq!(store.view(&site_name(), &group_name()).unwrap(), None);
    assert!(store.wanted(&site_name()).unwrap().is_empty());
}

#[test]
fn versions_in_use_include_checkpoints_and_unfinished_runs() {
    let store = store();
    let mut running = run(&store);
    running.base = Some(version(4));
    running.result = Some(version(5));
    store.save_run(&running, None).unwrap();
    let checkpoint = Checkpoint {
        site: site_name(),
        group: group_name(),
        name: CheckpointName::new("before").unwrap(),
        version: version(6),
        created: NOW,
        run: Some(running.run),
    };
    store.create_checkpoint(&checkpoint).unwrap();
    assert!(matches!(store.create_checkpoint(&checkpoint), Err(StoreError::Exists { .. })));
    assert_eq!(store.checkpoint(&site_name(), &checkpoint.name).unwrap().as_ref(), Some(&checkpoint));
    assert_eq!(store.checkpoints(&site_name()).unwrap().len(), 1);
    assert_eq!(store.versions_in_use().unwrap(), [version(4), version(5), version(6)].into());
    store.delete_checkpoint(&site_name(), &checkpoint.name).unwrap();
    assert!(store.delete_checkpoint(&site_name(), &checkpoint.name).is_err());
    store.save_run(&Run { state: RunState::Failed, ..running }, None).unwrap();
    assert!(store.versions_in_use().unwrap().is_empty());
}

fn join_token(uses: u32) -> JoinToken {
    JoinToken {
        id: "t1".to_owned(),
        secret: [7; 32],
        segment: Some(SegmentName::new("s9").unwrap()),
        roles: Some(Roles { server: true, leader: false }),
        uses,
        uses_left: uses,
        created: NOW,
        expires: WallTime(NOW.0 + 1000),
    }
}

#[test]
fn a_join_token_admits_as_many_as_it_says_until_it_expires() {
    let store = store();
    store.create_join_token(&join_token(1)).unwrap();
    assert_eq!(store.join_token("t1").unwrap(), Some(join_token(1)));
    let late = store.enrol_with_token("t1", &server(8, "s9"), [1; 32], WallTime(NOW.0 + 1000));
    assert!(matches!(late, Err(StoreError::TokenSpent { expired: true, .. })));
    assert_eq!(store.segment(&SegmentName::new("s9").unwrap()).unwrap(), None);

    // A refused enrolment uses nothing up.
    let twin = ServerRecord { name: ServerName::new("web1").unwrap(), ..server(8, "s9") };
    assert!(matches!(store.enrol_with_token("t1", &twin, [1; 32], NOW), Err(StoreError::Exists { .. })));
    assert_eq!(store.join_token("t1").unwrap().unwrap().uses_left, 1);

    assert_eq!(store.enrol_with_token("t1", &server(8, "s9"), [42; 32], NOW).unwrap().key, [42; 32]);
    let spent = store.enrol_with_token("t1", &server(9, "s9"), [1; 32], NOW);
    assert!(matches!(spent, Err(StoreError::TokenSpent { expired: false, .. })));
    store.delete_join_token("t1").unwrap();
    assert!(store.join_tokens().unwrap().is_empty());
    assert!(store.enrol_with_token("t1", &server(9, "s9"), [1; 32], NOW).is_err());
}

#[test]
fn users_tokens_and_sessions_are_kept_and_ended() {
    let store = store();
    let user = User { name: "admin".to_owned(), password: "hash".to_owned(), role: Role::Admin, created: NOW };
    store.save_user(&user).unwrap();
    assert_eq!(store.user("admin").unwrap(), Some(user));
    let expires = WallTime(NOW.0 + 5);
    let session = Session { id: "a".to_owned(), secret: [1; 32], user: "admin".to_owned(), created: NOW, expires };
    store.create_session(&session).unwrap();
    assert_eq!(store.session("a").unwrap().as_ref(), Some(&session));
    assert!(store.create_session(&Session { user: "nobody".to_owned(), ..session }).is_err());
    let token = ApiToken {
        id: "b".to_owned(),
        secret: [2; 32],
        label: "local".to_owned(),
        role: Role::Viewer,
        created: NOW,
        expires: Some(expires),
    };
    store.save_api_token(&token).unwrap();
    assert_eq!(store.api_token("b").unwrap().as_ref(), Some(&token));

    store.prune(&Retention::default(), NOW).unwrap();
    assert!(store.session("a").unwrap().is_some());
    store.prune(&Retention::default(), expires).unwrap();
    assert!(store.session("a").unwrap().is_none() && store.api_token("b").unwrap().is_none());
}

#[test]
fn events_increase_and_only_the_newest_are_kept() {
    let store = store();
    for number in 1..=events::EVENTS_KEPT + 3 {
        assert_eq!(store.add_event("run", &json!({"n": number}), NOW).unwrap(), number);
    }
    let all = store.events_after(0, usize::MAX).unwrap();
    assert_eq!((all.len() as i64, all[0].id), (events::EVENTS_KEPT, 4));
    let next = store.events_after(10, 2).unwrap();
    assert_eq!(next.iter().map(|event| event.id).collect::<Vec<_>>(), [11, 12]);
    assert_eq!(next[0].data, json!({"n": 11}));
    assert_eq!(store.last_event().unwrap(), events::EVENTS_KEPT + 3);
}

#[test]
fn pruning_keeps_what_is_live_unfinished_or_a_checkpoint() {
    let store = store();
    let live = Run { state: RunState::Done, ..run(&store) };
    store.finish_run(&live, &effects(&live)).unwrap();
    let waiting = run(&store);
    let old = Run { state: RunState::Failed, ..run(&store) };
    store.save_run(&old, None).unwrap();
    let new = Run { state: RunState::Failed, ..run(&store) };
    store.save_run(&new, None).unwrap();
    let retention = Retention { runs_max: 1, snapshots_max: 0, ..Retention::default() };
    store.prune(&retention, NOW).unwrap();
    let kept = store.runs(None, 10).unwrap().iter().map(|run| run.run).collect::<Vec<_>>();
    assert_eq!(kept, [new.run, waiting.run, live.run]);
}
