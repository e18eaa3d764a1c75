//! Sites, groups, runs, checkpoints and the fleet.

use super::*;

#[tokio::test]
async fn a_site_is_checked_shown_and_removed() {
    let ccm = ccm().with_site().await;
    let shown = ccm.call(Role::Viewer, "GET", "/api/v1/sites/www", Value::Null).await;
    let expected = json!({
        "name": "www", "staging": "/srv/staging", "live": "/srv/www/{server}", "exclude": [], "wan": "auto",
        "extra": "remove", "linger_seconds": 0, "created": "2030-03-17T17:46:40.500Z", "groups": [],
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
    assert_eq!(create(json!({"all": true, "channel": "10.0.0.1:5000"})).await.problem(), (422, "bad-channel"));
    assert_eq!(create(json!({"segment": "s9"})).await.problem(), (404, "unknown-segment"));
    assert_eq!(create(json!({"site": "none", "all": true})).await.problem(), (404, "unknown-site"));

    let made = create(json!({"servers": ["web1"], "segment": null, "all": false})).await;
    assert_eq!(made.status, StatusCode::CREATED);
    let expected = json!({
        "name": "g", "site": "www", "servers": ["web1"], "segment": null, "all": false,
        "channel": null, "version": null, "published": null,
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
async fn the_leader_of_a_known_segment_is_told_to_move_it_to_a_channel() {
    let ccm = ccm();
    let order = async |segment: &str, control: &str| {
        let path = format!("/api/v1/segments/{segment}/move");
        ccm.admin("POST", &path, json!({"control": control})).await
    };
    assert_eq!(order("s1", "239.1.2.3:20000").await.problem(), (404, "unknown-segment"));
    assert_eq!(ccm.enrol("web1").await.status, StatusCode::OK);
    assert_eq!(order("s1", "10.0.0.1:20000").await.problem(), (422, "bad-channel"));
    let accepted = order("s1", "239.1.2.3:20000").await;
    assert_eq!(accepted.status, StatusCode::ACCEPTED);
    assert_eq!(accepted.body, json!({"segment": "s1", "control": "239.1.2.3:20000"}));
    assert_eq!(ccm.fake.asked().pop(), Some("move s1 to 239.1.2.3:20000".to_owned()));
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
        stage_only: false,
        autonomous: false,
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
async fn audits_and_what_mends_servers_reach_the_engine_as_they_were_asked_for() {
    let ccm = ccm().with_site().await;
    let site = SiteName::new("www").unwrap();
    let body = json!({"group": "all", "full": true, "repair": true, "timeout_seconds": 60});
    let reply = ccm.call(Role::Publisher, "POST", "/api/v1/sites/www/audit", body).await;
    assert_eq!(reply.status, StatusCode::ACCEPTED);
    let group = Some(GroupName::new("all").unwrap());
    let timeout = Some(Duration::from_secs(60));
    let expected = AuditRequest { site: site.clone(), group, full: true, repair: true, timeout };
    assert_eq!(ccm.fake.asked().pop(), Some(format!("{expected:?}")));
    for (word, replicate) in [("synchronize", false), ("replicate", true)] {
        let path = format!("/api/v1/sites/www/{word}");
        let reply = ccm.call(Role::Publisher, "POST", &path, json!({"servers": ["web1"]})).await;
        assert_eq!(reply.status, StatusCode::ACCEPTED, "{word}");
        let servers = vec!["web1".parse().unwrap()];
        let expected = MendRequest { site: site.clone(), group: None, servers, replicate };
        assert_eq!(ccm.fake.asked().pop(), Some(format!("{expected:?}")));
    }
}

#[tokio::test]
async fn orders_for_single_servers_reach_the_engine_as_they_were_given() {
    let ccm = ccm().with_site().await;
    let site = SiteName::new("www").unwrap();
    let web1: Vec<ServerName> = vec!["web1".parse().unwrap()];
    let asked = async |role, word: &str, body| {
        let reply = ccm.call(role, "POST", &format!("/api/v1/sites/www/{word}"), body).await;
        assert_eq!(reply.status, StatusCode::ACCEPTED, "{word}: {}", reply.body);
        ccm.fake.asked().pop().unwrap()
    };
    let remove = RemoveRequest {
        site: site.clone(),
        group: None,
        servers: web1.clone(),
        keep_content: true,
        quorum: Some(Quorum::Servers(1)),
    };
    let body = json!({"servers": ["web1"], "keep_content": true, "quorum": "1"});
    assert_eq!(asked(Role::Operator, "remove", body).await, format!("{remove:?}"));
    let paths = ["a.html", "news"].map(|path| path.parse().unwrap()).into();
    let hot = HotRequest { site: site.clone(), group: None, whom: Whom::LeastBusy(2), paths, quorum: None };
    let body = json!({"paths": ["news/", "a.html"], "count": 2});
    assert_eq!(asked(Role::Publisher, "hot", body).await, format!("{hot:?}"));
    let hot = HotRequest { whom: Whom::Named(web1.clone()), ..hot };
    let body = json!({"paths": ["news", "a.html"], "servers": ["web1"]});
    assert_eq!(asked(Role::Publisher, "hot", body).await, format!("{hot:?}"));
    let switch = SwitchRequest { site, group: None, servers: web1, quorum: None };
    assert_eq!(asked(Role::Publisher, "switch", json!({"servers": ["web1"]})).await, format!("{switch:?}"));
    for (body, code) in [
        (json!({"paths": [], "count": 1}), (422, "bad-paths")),
        (json!({"paths": vec!["x"; 1001], "count": 1}), (422, "bad-paths")),
        (json!({"paths": ["../etc"], "count": 1}), (422, "bad-path")),
        (json!({"paths": ["x"]}), (422, "no-servers")),
        (json!({"paths": ["x"], "count": 0}), (422, "no-servers")),
        (json!({"paths": ["x"], "count": 1, "servers": ["web1"]}), (422, "no-servers")),
    ] {
        assert_eq!(ccm.admin("POST", "/api/v1/sites/www/hot", body.clone()).await.problem(), code, "{body}");
    }
    assert_eq!(ccm.admin("POST", "/api/v1/sites/www/remove", json!({})).await.problem(), (422, "no-servers"));
    let both = json!({"stage_only": true, "commit": "autonomous"});
    assert_eq!(ccm.admin("POST", "/api/v1/sites/www/publish", both).await.problem(), (422, "bad-commit"));
    assert!(ccm.fake.asked().is_empty());

    let run = ccm.queue_run();
    for (word, rest) in [("pause", true), ("resume", false)] {
        let reply = ccm.call(Role::Publisher, "POST", &format!("/api/v1/runs/{}/{word}", run.run), Value::Null).await;
        assert_eq!(reply.status, StatusCode::ACCEPTED);
        assert_eq!(ccm.fake.asked().pop(), Some(format!("rest {} {rest}", run.run)));
    }
    assert_eq!(ccm.admin("POST", "/api/v1/runs/9/pause", Value::Null).await.problem(), (404, "unknown-run"));
}

#[tokio::test]
async fn the_policy_of_a_site_is_shown_and_changed_bit_by_bit() {
    let ccm = ccm().with_site().await;
    let (site, policy) = ("/api/v1/sites/www", "/api/v1/sites/www/policy");
    let shown = ccm.admin("GET", site, Value::Null).await.body;
    assert_eq!((&shown["extra"], &shown["linger_seconds"]), (&json!("remove"), &json!(0)));
    let changed = ccm.call(Role::Operator, "POST", policy, json!({"extra": "keep"})).await;
    assert_eq!((changed.status, &changed.body["extra"]), (StatusCode::OK, &json!("keep")));
    assert_eq!(ccm.admin("POST", policy, json!({"linger_seconds": 600})).await.status, StatusCode::OK);
    let shown = ccm.admin("GET", site, Value::Null).await.body;
    assert_eq!((&shown["extra"], &shown["linger_seconds"]), (&json!("keep"), &json!(600)));
    let week = json!({"linger_seconds": 7 * 24 * 3600 + 1});
    assert_eq!(ccm.admin("POST", policy, week).await.problem(), (422, "bad-linger"));
    assert_eq!(ccm.admin("POST", policy, json!({"extra": "burn"})).await.problem(), (422, "bad-request"));
    assert_eq!(ccm.admin("POST", "/api/v1/sites/none/policy", json!({})).await.problem(), (404, "unknown-site"));
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
        ("none/audit", json!({}), (404, "unknown-site")),
        ("www/audit", json!({"timeout_seconds": 0}), (422, "bad-timeout")),
        ("www/audit", json!({"deep": true}), (422, "bad-request")),
        ("none/synchronize", json!({}), (404, "unknown-site")),
        ("www/replicate", json!({"servers": ["-"]}), (422, "bad-request")),
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
    let both = async { tokio::join!(wait, finish) };
    let (reply, ()) = tokio::time::timeout(Duration::from_secs(30), both).await.expect("the change ends the wait");
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
