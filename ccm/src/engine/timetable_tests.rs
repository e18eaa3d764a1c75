//! Schedules on a clock that the test moves: every due time becomes exactly one run or one sentence.

#![allow(clippy::unwrap_used, reason = "what goes wrong is a failed test")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use common::credential::Roles;
use common::digest::Version;
use common::ids::{AssignmentNumber, GroupName, RunNumber, ScheduleName, ServerId, SiteName};
use common::keys::SecretKey;
use common::time::WallTime;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::json;
use transfer::store::ObjectStore;

use super::hub::Hub;
use super::schedule::{Candidate, blocked_by};
use super::{Engine, Parts};
use crate::ingest::content::ContentStore;
use crate::schedule::Rule;
use crate::store::{
    Action, Effects, Hold, HoldChange, Otherwise, RunKind, RunState, Schedule, ServerRecord, Site, Store, View, rfc3339,
};
use crate::trust::Trust;

const MINUTE: u64 = 60_000;

/// A CCM whose runs end when the test says so: nothing of it runs by itself.
struct Desk {
    engine: Arc<Engine>,
    directory: tempfile::TempDir,
}

fn at(text: &str) -> WallTime {
    rfc3339::from_text(text).unwrap()
}

fn site(number: usize) -> SiteName {
    format!("site-{number}").parse().unwrap()
}

impl Desk {
    fn new(sites: usize, servers: u8) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("ccm.db")).unwrap();
        let segment = "s1".parse().unwrap();
        store.segment_or_create(&segment, [7; 32]).unwrap();
        for number in 1..=servers {
            store
                .enrol(&ServerRecord {
                    id: ServerId([number; 16]),
                    name: format!("web{number}").parse().unwrap(),
                    segment: segment.clone(),
                    roles: Roles { server: true, leader: true },
                    control_key: SecretKey::generate().public(),
                    location: String::new(),
                    enrolled: WallTime(1),
                    last_seen: None,
                    info: None,
                })
                .unwrap();
        }
        for number in 0..sites {
            let staging = directory.path().to_owned();
            let live = format!("/srv/www/{number}");
            let created = WallTime(1);
            store
                .create_site(&Site {
                    name: site(number),
                    staging,
                    live,
                    exclude: vec![],
                    wan: "auto".into(),
                    extra: common::assignment::Extra::Remove,
                    linger_seconds: 0,
                    created,
                })
                .unwrap();
        }
        Self { engine: engine_over(&directory, store), directory }
    }

    /// The CCM is killed and started again.
    fn crash(self) -> Self {
        let Self { engine, directory } = self;
        drop(engine);
        let store = Store::open(&directory.path().join("ccm.db")).unwrap();
        Self { engine: engine_over(&directory, store), directory }
    }

    fn add(&self, schedule: &Schedule) {
        self.engine.store.create_schedule(schedule).unwrap();
    }

    fn last(&self, name: &str) -> Option<crate::store::Last> {
        self.engine.store.schedule(&name.parse().unwrap()).unwrap().unwrap().last
    }

    fn unfinished(&self) -> Vec<Candidate> {
        let runs = self.engine.store.unfinished_runs().unwrap();
        let candidate = |run: crate::store::Run| Candidate {
            servers: self.engine.store.run_servers(run.run).unwrap().into_iter().collect(),
            run: run.run,
            site: run.site,
        };
        runs.into_iter().map(|(run, ..)| candidate(run)).collect()
    }

    /// The first site's whole group has a version, and before it had another, or none.
    fn publish(&self, previous: Option<Version>, now: WallTime) {
        let group: GroupName = "all".parse().unwrap();
        let view = View {
            site: site(0),
            group,
            version: common::manifest::Manifest::default().version(),
            assignment: AssignmentNumber(1),
            run: RunNumber(1),
            published: now,
            previous,
        };
        let run = self.engine.store.create_run(&site(0), &view.group, RunKind::Publish, &json!({}), &[], now).unwrap();
        self.finish(run.run, &Effects { view: Some(view), ..Effects::default() });
    }

    fn finish(&self, number: RunNumber, effects: &Effects) {
        let mut run = self.engine.store.run(number).unwrap().unwrap();
        run.state = RunState::Done;
        self.engine.store.finish_run(&run, effects).unwrap();
    }
}

fn engine_over(directory: &tempfile::TempDir, store: Store) -> Arc<Engine> {
    let (trust, _) = Trust::open_or_create(directory.path(), store.clone(), WallTime(1)).unwrap();
    Engine::new(Parts {
        store,
        trust: Arc::new(trust),
        content: ContentStore::open(&directory.path().join("content")).unwrap(),
        objects: Arc::new(ObjectStore::open(directory.path().join("objects")).unwrap()),
        hub: Arc::new(Hub::default()),
        directory: directory.path().to_owned(),
        transfer_address: SocketAddr::from(([127, 0, 0, 1], 1)),
        channels: super::channels::ChannelRange::default(),
    })
    .unwrap()
}

fn schedule(name: &str, site: SiteName, rule: Rule, now: WallTime) -> Schedule {
    Schedule {
        name: name.parse().unwrap(),
        site,
        group: None,
        action: Action::Publish,
        due: rule.next_after(now).unwrap(),
        rule,
        quorum: None,
        conflict: Otherwise::Later,
        missed: Otherwise::Later,
        paused: false,
        created: now,
        last: None,
    }
}

fn cron(pattern: &str) -> Rule {
    Rule::Cron { pattern: pattern.to_owned(), zone: "Europe/Vienna".to_owned() }
}

#[test]
fn a_due_time_becomes_one_run_however_often_it_is_looked_at() {
    let desk = Desk::new(1, 2);
    let start = at("2026-03-01T00:00:00Z");
    desk.add(&schedule("nightly", site(0), cron("0 3 * * *"), start));
    let due = at("2026-03-01T02:00:00Z");
    assert_eq!(desk.engine.pass_due_times(WallTime(due.0 - 1)).unwrap(), Some(due));
    assert!(desk.unfinished().is_empty());
    desk.engine.pass_due_times(due).unwrap();
    let desk = desk.crash();
    let next = desk.engine.pass_due_times(due).unwrap();
    assert_eq!(next, Some(at("2026-03-02T02:00:00Z")));
    assert_eq!(desk.unfinished().len(), 1);
    let last = desk.last("nightly").unwrap();
    assert_eq!((last.due, last.run), (due, Some(desk.unfinished()[0].run)));
}

#[test]
fn times_missed_while_the_ccm_was_away_count_as_one_or_as_none() {
    let desk = Desk::new(2, 1);
    let start = at("2026-03-01T00:00:00Z");
    desk.add(&schedule("later", site(0), cron("0 * * * *"), start));
    desk.add(&Schedule { missed: Otherwise::Skip, ..schedule("skip", site(1), cron("0 * * * *"), start) });
    desk.engine.pass_due_times(at("2026-03-01T05:10:00Z")).unwrap();
    assert_eq!(desk.unfinished().into_iter().map(|run| run.site).collect::<Vec<_>>(), [site(0)]);
    assert!(desk.last("skip").unwrap().message.contains("missed"));
    // A moment's delay is no miss.
    desk.engine.pass_due_times(at("2026-03-01T06:00:05Z")).unwrap();
    assert_eq!(desk.unfinished().iter().filter(|run| run.site == site(1)).count(), 1);
}

#[test]
fn what_is_in_the_way_is_waited_for_or_the_time_is_left_out() {
    let desk = Desk::new(1, 1);
    let start = at("2026-03-01T00:00:00Z");
    desk.add(&schedule("first", site(0), Rule::At(WallTime(start.0 + MINUTE)), start));
    desk.add(&schedule("second", site(0), Rule::At(WallTime(start.0 + 2 * MINUTE)), start));
    let skip = schedule("third", site(0), Rule::At(WallTime(start.0 + 3 * MINUTE)), start);
    desk.add(&Schedule { conflict: Otherwise::Skip, ..skip });
    let next = desk.engine.pass_due_times(WallTime(start.0 + 4 * MINUTE)).unwrap();
    assert_eq!(next, None);
    let runs = desk.unfinished();
    assert_eq!(runs.len(), 2);
    assert_eq!(blocked_by(&runs[1], &runs[..1]), Some(runs[0].run));
    assert_eq!(desk.last("third").unwrap().message, format!("left out: run {} is in the way", runs[0].run));
}

#[test]
fn a_hold_keeps_schedules_from_publishing_until_it_is_lifted() {
    let desk = Desk::new(1, 1);
    let start = at("2026-03-01T00:00:00Z");
    desk.add(&schedule("hourly", site(0), cron("0 * * * *"), start));
    desk.engine.pass_due_times(at("2026-03-01T00:00:00Z")).unwrap();
    desk.engine.pass_due_times(at("2026-03-01T01:00:00Z")).unwrap();
    let run = desk.unfinished()[0].run;
    let group: GroupName = "all".parse().unwrap();
    let hold = Hold { site: site(0), group: group.clone(), run, reason: "rolled back".into(), since: start };
    desk.finish(run, &Effects { hold: Some(HoldChange::Set(hold)), ..Effects::default() });
    desk.engine.pass_due_times(at("2026-03-01T02:00:00Z")).unwrap();
    assert!(desk.unfinished().is_empty());
    assert!(desk.last("hourly").unwrap().message.contains("held: rolled back"));
    assert!(desk.engine.store.lift_hold(&site(0), &group).unwrap());
    desk.engine.pass_due_times(at("2026-03-01T03:00:00Z")).unwrap();
    assert_eq!(desk.unfinished().len(), 1);
}

#[test]
fn what_cannot_be_done_is_said_and_the_next_time_comes() {
    let desk = Desk::new(1, 1);
    let start = at("2026-03-01T00:00:00Z");
    desk.add(&Schedule { action: Action::Rollback, ..schedule("back", site(0), cron("0 * * * *"), start) });
    let next = desk.engine.pass_due_times(at("2026-03-01T01:00:00Z")).unwrap();
    assert_eq!(next, Some(at("2026-03-01T02:00:00Z")));
    assert!(desk.last("back").unwrap().message.starts_with("refused: the site site-0 has no earlier version"));
}

#[test]
fn an_audit_is_due_like_anything_else_and_knows_how_it_is_to_be_done() {
    let desk = Desk::new(1, 1);
    let start = at("2026-03-01T00:00:00Z");
    let action = Action::Audit { full: true, repair: true };
    desk.add(&Schedule { action, ..schedule("nightly", site(0), cron("0 * * * *"), start) });
    desk.engine.pass_due_times(at("2026-03-01T01:00:00Z")).unwrap();
    assert!(desk.last("nightly").unwrap().message.contains("never published"), "{:?}", desk.last("nightly"));
    desk.engine.pass_due_times(at("2026-03-01T02:00:00Z")).unwrap();
    desk.publish(None, start);
    desk.engine.pass_due_times(at("2026-03-01T03:00:00Z")).unwrap();
    let (run, request, _) = desk.engine.store.unfinished_runs().unwrap().remove(0);
    assert_eq!((run.kind, &request["full"], &request["repair"]), (RunKind::Audit, &json!(true), &json!(true)));
    assert_eq!(request["quorum"], json!("1"), "each server that can be repaired is");
}

#[test]
fn a_due_switch_removal_or_hot_publish_is_for_whom_the_schedule_names() {
    let (start, due) = (at("2026-03-01T00:00:00Z"), at("2026-03-01T01:00:00Z"));
    let (one, both) = (vec!["web2".parse().unwrap()], vec![]);
    let [id1, id2] = [1, 2].map(|number| ServerId([number; 16]));
    let paths = BTreeSet::from(["a/b".parse().unwrap()]);
    let hot = |servers, count| Action::Hot { paths: paths.clone(), servers, count };
    let cases = [
        (Action::Switch { servers: both.clone() }, RunKind::Switch, vec![id1, id2], json!(false)),
        (Action::Switch { servers: one.clone() }, RunKind::Switch, vec![id2], json!(true)),
        (Action::Remove { servers: one.clone(), keep_content: true }, RunKind::Remove, vec![id2], json!(true)),
        (Action::Remove { servers: both, keep_content: false }, RunKind::Remove, vec![id1, id2], json!(false)),
        (hot(one.clone(), None), RunKind::Hot, vec![id2], json!(true)),
    ];
    for (action, kind, servers, named) in cases {
        let desk = Desk::new(1, 2);
        desk.publish(Some(Version(common::digest::Digest::of(b"before"))), start);
        desk.add(&Schedule { action: action.clone(), ..schedule("job", site(0), cron("0 * * * *"), start) });
        desk.engine.pass_due_times(due).unwrap();
        let last = desk.last("job");
        let (run, request, _) =
            desk.engine.store.unfinished_runs().unwrap().pop().unwrap_or_else(|| panic!("{last:?}"));
        assert_eq!((run.kind, &request["named"]), (kind, &named), "{action:?}");
        assert_eq!(request["schedule"], json!("job"));
        assert_eq!(desk.engine.store.run_servers(run.run).unwrap(), servers, "{action:?}");
        let keeps = matches!(action, Action::Remove { keep_content: true, .. });
        assert_eq!(request["keep_content"], json!(keeps), "{action:?}");
    }
    // What cannot be done says why, and the next time is tried anew.
    for (action, reason) in [
        (Action::Switch { servers: vec!["web9".parse().unwrap()] }, "web9"),
        (hot(vec![], Some(1)), "0 "),
        (hot(vec!["web9".parse().unwrap()], None), "web9"),
    ] {
        let desk = Desk::new(1, 2);
        desk.publish(None, start);
        desk.add(&Schedule { action, ..schedule("job", site(0), cron("0 * * * *"), start) });
        assert_eq!(desk.engine.pass_due_times(due).unwrap(), Some(at("2026-03-01T02:00:00Z")));
        let last = desk.last("job").unwrap();
        assert!(last.run.is_none() && last.message.starts_with("refused") && last.message.contains(reason), "{last:?}");
    }
    let desk = Desk::new(1, 2);
    desk.add(&Schedule {
        action: Action::Switch { servers: vec![] },
        ..schedule("job", site(0), cron("0 * * * *"), start)
    });
    desk.engine.pass_due_times(due).unwrap();
    assert!(desk.last("job").unwrap().message.starts_with("refused"), "nothing is staged, and nothing was before");
}

/// A week with a change of clocks in it: 500 schedules on 20 sites of 3 servers, runs that take up to
/// 20 minutes, and a CCM that is killed again and again.
#[test]
fn in_a_week_of_500_schedules_and_crashes_every_due_time_is_one_run_and_no_conflict_runs() {
    let mut dice = StdRng::seed_from_u64(7);
    let start = at("2026-03-26T00:00:00Z");
    let end = at("2026-04-02T00:00:00Z");
    let mut desk = Desk::new(20, 3);
    let mut expected: BTreeMap<ScheduleName, Vec<WallTime>> = BTreeMap::new();
    for number in 0..500 {
        let rule = if number % 5 == 0 {
            Rule::At(WallTime(dice.random_range(start.0 + 1..end.0)))
        } else {
            cron(&format!("{} {} * * *", dice.random_range(0..60), dice.random_range(0..24)))
        };
        let name = format!("job-{number}");
        let mut times = rule.upcoming(start, 10).unwrap();
        times.retain(|time| *time < end);
        expected.insert(name.parse().unwrap(), times);
        desk.add(&schedule(&name, site(dice.random_range(0..20)), rule, start));
    }
    let mut now = start;
    let mut running: BTreeMap<RunNumber, WallTime> = BTreeMap::new();
    let mut seen: BTreeMap<ScheduleName, Vec<RunNumber>> = BTreeMap::new();
    let mut all = BTreeSet::new();
    while now < end {
        // A crash between any two steps; the clock stands still for a CCM that is started at once.
        if dice.random_range(0..200) == 0 {
            desk = desk.crash();
        }
        let over: Vec<RunNumber> = running.iter().filter(|(_, until)| **until <= now).map(|(run, _)| *run).collect();
        for run in over {
            running.remove(&run);
            desk.finish(run, &Effects::default());
        }
        let next = desk.engine.pass_due_times(now).unwrap();
        let unfinished = desk.unfinished();
        for (place, run) in unfinished.iter().enumerate() {
            if all.insert(run.run) {
                let request = desk.engine.store.run_request(run.run).unwrap().unwrap();
                let name: ScheduleName = request["schedule"].as_str().unwrap().parse().unwrap();
                seen.entry(name).or_default().push(run.run);
            }
            if !running.contains_key(&run.run) && blocked_by(run, &unfinished[..place]).is_none() {
                running.insert(run.run, WallTime(now.0 + dice.random_range(1..20) * MINUTE));
            }
        }
        // Never two at once on a site: all its runs have the same servers.
        let sites: Vec<&SiteName> =
            unfinished.iter().filter(|run| running.contains_key(&run.run)).map(|run| &run.site).collect();
        assert_eq!(sites.len(), sites.iter().collect::<BTreeSet<_>>().len(), "a conflict runs at {now}");
        let soonest = running.values().copied().chain(next).min().unwrap_or(end);
        now = soonest.max(WallTime(now.0 + 1));
    }
    for (name, times) in &expected {
        let runs = seen.get(name).map_or(0, Vec::len);
        assert_eq!(runs, times.len(), "{name} was due at {times:?}");
    }
}
