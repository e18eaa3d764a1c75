//! Runs for single servers, staging without a commit, and commits without waiting.

use common::digest::Version;
use common::ids::ServerName;
use common::manifest::Manifest;

use super::*;
use crate::engine::own::Whom;
use crate::store::Own;

fn web(number: u8) -> Vec<ServerName> {
    vec![format!("web{number}").parse().expect("good")]
}

fn nothing() -> Version {
    Manifest::default().version()
}

impl Fleet {
    /// What servers are to have for themselves.
    fn own(&self) -> Vec<(u8, Own, Version)> {
        let own = self.engine.store.own_versions(None).expect("reads");
        own.into_values().map(|own| (own.server.0[0], own.own, own.version)).collect()
    }

    async fn published(servers: u8) -> (Self, Run) {
        let fleet = Self::new(servers);
        let run = fleet.end_of(fleet.publish().run).await;
        assert_eq!(run.state, RunState::Done, "{}", run.message);
        (fleet, run)
    }

    async fn hot(&self, whom: Whom, path: &str) -> Run {
        let paths = [path.parse().expect("good")].into();
        let run = self.engine.request_hot(&site(), None, &whom, paths, RunRequest::default()).expect("accepted");
        self.end_of(run.run).await
    }

    async fn remove(&self, servers: &[ServerName], request: &RunRequest) -> Run {
        self.end_of(self.engine.request_remove(&site(), None, servers, request).expect("accepted").run).await
    }

    async fn switch(&self, servers: &[ServerName]) -> Run {
        let run = self.engine.request_switch(&site(), None, servers, &RunRequest::default()).expect("accepted");
        self.end_of(run.run).await
    }

    fn since(&self, count: usize) -> Vec<&'static str> {
        self.orders().split_off(count)
    }

    /// What the manager thinks that it has to bring servers to.
    fn stale(&self) -> Vec<ServerId> {
        let wanted = self.engine.wanted().expect("reads");
        let stale =
            wanted.into_iter().filter(|((site, id), wanted)| self.engine.hub.live(*id, site) != Some(wanted.version));
        stale.map(|((_, id), _)| id).collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn content_is_removed_from_the_servers_that_are_named_and_the_next_publish_brings_it_back() {
    let (fleet, published) = Fleet::published(3).await;
    let run = fleet.remove(&web(2), &RunRequest::default()).await;
    assert_eq!((run.state, run.message.as_str()), (RunState::Done, "taken off 1 server"));
    assert_eq!(run.result, Some(nothing()));
    assert_eq!(fleet.since(2), ["prepare", "commit", "discard"]);
    assert_eq!(fleet.own(), [(2, Own::Removed, nothing())]);
    assert_eq!(fleet.view().map(|view| view.version), published.result, "the group has what it had");
    assert_eq!(fleet.stale(), [], "nobody brings it back by itself");

    let next = fleet.end_of(fleet.publish().run).await;
    assert_eq!((next.state, next.servers.len()), (RunState::Done, 3), "{}", next.message);
    assert_eq!(fleet.since(5), ["inventory", "prepare", "commit"], "whichever base each has");
    assert_eq!((fleet.own(), fleet.stale()), (vec![], vec![]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removal_that_is_undone_or_keeps_the_content_drops_no_backup() {
    let (fleet, _) = Fleet::published(3).await;
    let keep = RunRequest { keep_content: true, ..RunRequest::default() };
    fleet.remove(&web(1), &keep).await;
    assert_eq!(fleet.since(2), ["prepare", "commit"]);
    assert_eq!(fleet.own(), [(1, Own::RemovedKept, nothing())]);
    fleet.behave(
        |server, header| {
            if matches!(header.kind, Kind::Commit { .. }) { Some(refuse()) } else { obedient(server, header) }
        },
    );
    let run = fleet.remove(&web(2), &RunRequest::default()).await;
    assert_eq!(run.state, RunState::RolledBack, "{}", run.message);
    assert_eq!(fleet.since(4), ["prepare", "commit", "undo"]);
    assert_eq!(fleet.own(), [(1, Own::RemovedKept, nothing())]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_was_emptied_by_hand_is_not_published_to_by_schedules() {
    let (fleet, _) = Fleet::published(2).await;
    let run = fleet.remove(&[], &RunRequest::default()).await;
    assert_eq!((run.state, run.message.as_str()), (RunState::Done, "taken off 2 servers"));
    let holds = fleet.engine.store.holds().expect("reads");
    assert_eq!(holds.iter().map(|hold| hold.run).collect::<Vec<_>>(), [run.run]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hot_publish_changes_only_the_named_paths_and_only_on_the_chosen_servers() {
    let (fleet, published) = Fleet::published(3).await;
    fleet.stage("two");
    fs::write(fleet.directory.path().join("staging/other.html"), "other").expect("writes");
    let run = fleet.hot(Whom::Named(web(2)), "index.html").await;
    assert_eq!((run.state, run.message.as_str()), (RunState::Done, "live on 1 server"));
    assert_eq!(run.base, published.result);
    let result = run.result.expect("a result");
    let files: Vec<String> = fleet
        .engine
        .content
        .tree(result)
        .and_then(|tree| tree.manifest())
        .expect("kept")
        .entries
        .into_keys()
        .map(|path| path.to_string())
        .collect();
    assert_eq!(files, ["index.html"], "what was not named is as it was");
    assert_eq!((fleet.own(), fleet.stale()), (vec![(2, Own::Hot, result)], vec![]));
    assert_eq!(fleet.view().map(|view| view.version), published.result);

    let left = fleet.engine.request_mending(&site(), None, &[], false).expect("accepted");
    let left = fleet.end_of(left.run).await;
    assert_eq!((left.state, left.servers[1].state.as_str()), (RunState::Done, "own-version"), "{}", left.message);
    assert_eq!(fleet.since(4), [""; 0], "nothing was sent");
    let back = fleet.engine.request_mending(&site(), None, &web(2), false).expect("accepted");
    let back = fleet.end_of(back.run).await;
    assert_eq!((back.state, back.result), (RunState::Done, published.result), "{}", back.message);
    assert_eq!((fleet.own(), fleet.stale()), (vec![], vec![]));

    let missing = fleet.hot(Whom::Named(web(2)), "none.html").await;
    assert_eq!(missing.state, RunState::Failed);
    assert!(missing.message.contains("none.html is neither in staging nor live"), "{}", missing.message);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hot_publish_starts_from_what_its_servers_have_and_refuses_different_ones() {
    let (fleet, _) = Fleet::published(3).await;
    fleet.stage("two");
    let first = fleet.hot(Whom::Named(web(2)), "index.html").await;
    fs::write(fleet.directory.path().join("staging/other.html"), "other").expect("writes");
    let second = fleet.hot(Whom::Named(web(2)), "other.html").await;
    assert_eq!(second.base, first.result);
    let names = [web(1), web(2)].concat();
    let ask = |whom| {
        let paths = ["index.html".parse().expect("good")].into();
        fleet.engine.request_hot(&site(), None, &whom, paths, RunRequest::default())
    };
    assert!(matches!(ask(Whom::Named(names)), Err(EngineError::DifferentVersions { .. })));
    assert!(matches!(ask(Whom::LeastBusy(3)), Err(EngineError::TooFewServers { wanted: 3, found: 2 })));
    let run = fleet.hot(Whom::LeastBusy(1), "index.html").await;
    assert_eq!(run.servers.len(), 1);
    assert_ne!(run.servers[0].server, web(2)[0], "one that has its own is not taken");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_audit_holds_servers_against_their_own_versions_and_repairs_these() {
    let (fleet, published) = Fleet::published(2).await;
    fleet.stage("two");
    let hot = fleet.hot(Whom::Named(web(2)), "index.html").await.result;
    let repaired = Arc::new(AtomicBool::new(false));
    let seen = repaired.clone();
    fleet.behave(move |server, header| {
        if matches!(header.kind, Kind::Commit { .. }) {
            assert_eq!((server, Some(header.result)), (self::server(2), hot), "only its own version comes back");
            seen.store(true, Ordering::Relaxed);
        }
        let Some(Outcome::Audited(mut report)) = obedient(server, header) else { return obedient(server, header) };
        report.version = if server == self::server(2) { hot } else { published.result };
        if server == self::server(2) && !seen.load(Ordering::Relaxed) {
            report.note(Difference::Changed, "index.html".to_owned());
        }
        Some(Outcome::Audited(report))
    });
    let audit = |repair| {
        let request = RunRequest { repair, ..RunRequest::default() };
        fleet.engine.request_audit(&site(), None, &request).expect("accepted").run
    };
    let found = fleet.end_of(audit(false)).await;
    let states: Vec<&str> = found.servers.iter().map(|server| server.state.as_str()).collect();
    assert_eq!(states, ["clean", "drifted"], "{}", found.message);
    let ordered = fleet.end_of(audit(true)).await;
    let reason = ordered.servers[1].reason.clone().unwrap_or_default();
    assert!(reason.ends_with("repairs its own version"), "{reason}");
    let number = fleet.engine.store.runs(None, 1).expect("reads")[0].run;
    let repair = fleet.end_of(number).await;
    assert_eq!((repair.kind, repair.state, repair.result), (RunKind::Audit, RunState::Done, hot), "{}", repair.message);
    let clean = fleet.end_of(audit(false)).await;
    assert_eq!(clean.state, RunState::Done, "{}", clean.message);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_only_staged_goes_live_with_a_switch_and_nothing_is_sent_again() {
    let (fleet, first) = Fleet::published(3).await;
    fleet.stage("two");
    let request = RunRequest { stage_only: true, ..RunRequest::default() };
    let staged = fleet.engine.request_publish(&site(), None, &request).expect("accepted");
    let staged = fleet.end_of(staged.run).await;
    assert_eq!(staged.state, RunState::Done);
    assert!(staged.message.starts_with("staged on 3 of 3 servers, live is unchanged"), "{}", staged.message);
    assert_eq!(fleet.since(2), ["prepare"]);
    assert_eq!(fleet.view().map(|view| view.version), first.result);

    let switched = fleet.switch(&[]).await;
    assert_eq!((switched.state, switched.result), (RunState::Done, staged.result), "{}", switched.message);
    assert_eq!(fleet.since(3), ["commit"]);
    let view = fleet.view().expect("advanced");
    assert_eq!((Some(view.version), view.previous), (staged.result, first.result));

    let back = fleet.switch(&[]).await;
    assert_eq!((back.state, back.result), (RunState::Done, first.result), "{}", back.message);
    assert_eq!(fleet.since(4), ["rollback", "commit"], "nothing is staged: the backup");
    assert_eq!(fleet.engine.store.holds().expect("reads").len(), 1, "who goes back by hand means it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switch_needs_its_quorum_of_servers_that_hold_what_is_staged_and_is_undone_without_commits() {
    let (fleet, first) = Fleet::published(3).await;
    fleet.stage("two");
    let request = RunRequest { stage_only: true, ..RunRequest::default() };
    fleet.end_of(fleet.engine.request_publish(&site(), None, &request).expect("accepted").run).await;
    fleet.behave(|server, header| {
        if matches!(header.kind, Kind::Commit { .. } if server != self::server(1)) {
            Some(refuse())
        } else {
            obedient(server, header)
        }
    });
    let run = fleet.switch(&[]).await;
    assert_eq!(run.state, RunState::RolledBack, "{}", run.message);
    assert_eq!(fleet.since(3), ["commit", "undo"]);
    assert_eq!(fleet.view().map(|view| view.version), first.result);
    let nothing = fleet.engine.request_switch(&site(), None, &[], &RunRequest::default());
    assert!(matches!(nothing, Err(EngineError::NothingToSwitch { .. })), "the undo dropped what was staged");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_named_switches_to_its_backup_and_back() {
    let (fleet, first) = Fleet::published(2).await;
    fleet.stage("two");
    let second = fleet.end_of(fleet.publish().run).await;
    let run = fleet.switch(&web(2)).await;
    assert_eq!((run.state, run.result), (RunState::Done, first.result), "{}", run.message);
    assert_eq!(fleet.own(), [(2, Own::Switched, first.result.expect("a result"))]);
    assert_eq!(fleet.view().map(|view| view.version), second.result);
    assert_eq!(fleet.stale(), []);
    let back = fleet.switch(&web(2)).await;
    assert_eq!((back.state, back.result), (RunState::Done, second.result), "{}", back.message);
    assert_eq!((fleet.own(), fleet.stale()), (vec![], vec![]));
}

fn by_itself() -> RunRequest {
    RunRequest { autonomous: true, ..RunRequest::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_an_autonomous_commit_one_server_that_fails_holds_up_nobody() {
    let fleet = Fleet::new(5);
    fleet.behave(|server, header| {
        if matches!(header.kind, Kind::Alone if server == self::server(5)) {
            Some(refuse())
        } else {
            obedient(server, header)
        }
    });
    let run = fleet.engine.request_publish(&site(), None, &by_itself()).expect("accepted");
    let run = fleet.end_of(run.run).await;
    assert_eq!(run.state, RunState::Partial);
    assert!(run.message.starts_with("live on 4 of 5 servers (web5: the disk is full"), "{}", run.message);
    assert_eq!(fleet.orders()[..1], ["alone"]);
    assert!(!fleet.orders()[..1].contains(&"commit"));
    assert_eq!(fleet.view().map(|view| view.version), run.result);
    assert_eq!(fleet.stale(), [server(5)], "which is then synchronised");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_an_autonomous_commit_too_few_are_undone_where_they_went_live() {
    let fleet = Fleet::new(3);
    fleet.behave(|server, header| {
        if matches!(header.kind, Kind::Alone if server != self::server(1)) {
            Some(refuse())
        } else {
            obedient(server, header)
        }
    });
    let run = fleet.engine.request_publish(&site(), None, &by_itself()).expect("accepted");
    let run = fleet.end_of(run.run).await;
    assert_eq!(run.state, RunState::RolledBack, "{}", run.message);
    assert_eq!(fleet.orders(), ["alone", "undo"]);
    assert_eq!(fleet.view(), None);
}
