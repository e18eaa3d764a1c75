//! The command line against a content control manager that says what each test tells it to: exit
//! codes, the API's JSON passed on as it is, what is asked for, and whom the token is shown to.

mod assignment;
mod fake;

use common::digest::Digest;
use serde_json::{Value, json};

use fake::{Fake, TOKEN, run};

const RUN: &str = "GET /api/v1/runs/7?wait=20";
const PUBLISH: &str = "POST /api/v1/sites/www/publish";
const ACCEPTED: &str = r#"{"run":7,"state":"queued"}"#;

fn problem(status: u16, detail: &str) -> String {
    json!({ "type": "about:blank", "title": "T", "status": status, "detail": detail, "code": "some-code", "run": 3 })
        .to_string()
}

fn finished(state: &str) -> String {
    json!({
        "run": 7, "site": "www", "group": "all", "kind": "publish", "state": state, "seconds": 1.5,
        "message": "as it went", "phases": [{"name": "build", "seconds": 0.5, "bytes": 10}],
        "servers": [{"server": "s1w1", "segment": "s1", "state": "failed", "reason": "no space left"}],
    })
    .to_string()
}

#[test]
fn the_json_of_the_api_is_passed_on_byte_for_byte() {
    let body = r#"{"zeta":1,  "alpha":[1.50,"é"], "servers":{"online":3}}"#;
    let fake = Fake::start().answers("GET /api/v1/status", 200, body);
    let ended = fake.run_json(&["status"]);
    assert_eq!((ended.code, ended.out.trim_end(), ended.err.as_str()), (0, body, ""));
    assert_eq!(fake.asked()[0].token, TOKEN);
}

#[test]
fn events_are_told_as_they_come_until_the_api_refuses() {
    let stream =
        ": hello\n\nid: 5\nevent: run\ndata: {\"run\":7,\"state\":\"done\"}\n\nid: 6\nevent: fleet\ndata: {}\n\n";
    let fake = Fake::start().answers("GET /api/v1/events", 200, stream);
    let fake = fake.answers("GET /api/v1/events", 401, &problem(401, "the token ran out"));
    let ended = fake.run_json(&["events"]);
    assert_eq!(ended.code, 5, "{ended:?}");
    let lines: Vec<Value> = ended.out.lines().map(|line| serde_json::from_str(line).expect("JSON lines")).collect();
    let kinds: Vec<_> = lines.iter().map(|line| (line["kind"].as_str(), line["id"].as_i64())).collect();
    assert_eq!(kinds, [(Some("following"), Some(0)), (Some("run"), Some(5)), (Some("fleet"), Some(6))]);
    assert_eq!(lines[1]["data"], json!({ "run": 7, "state": "done" }));
    assert!(ended.err.contains("the token ran out"), "{ended:?}");
}

#[test]
fn people_get_tables() {
    let body = r#"{"items":[{"server":"s1w1","segment":"s1","state":"online","leader":true,"sites":[],
        "disk_free_bytes":5000000000}]}"#;
    let fake = Fake::start().answers("GET /api/v1/servers", 200, body);
    let ended = fake.run(&["servers"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    let lines: Vec<&str> = ended.out.lines().collect();
    assert!(lines[0].starts_with("SERVER  SEGMENT  STATE"), "{ended:?}");
    assert!(lines[1].starts_with("s1w1") && lines[1].contains("online") && lines[1].contains("5.0 GB"), "{ended:?}");
}

#[test]
fn every_refusal_has_its_exit_code_and_says_what_the_api_says() {
    for (status, code) in [(400, 1), (401, 5), (403, 5), (404, 1), (409, 6), (422, 1), (500, 1)] {
        let fake = Fake::start().answers(PUBLISH, status, &problem(status, "because of the moon"));
        let people = fake.run(&["publish", "www"]);
        assert_eq!(people.code, code, "{people:?}");
        assert!(people.out.is_empty() && people.err.contains("because of the moon"), "{people:?}");
        let program = fake.run_json(&["publish", "www"]);
        assert_eq!(program.code, code, "{program:?}");
        let told: Value = serde_json::from_str(&program.err).expect("JSON on standard error");
        assert_eq!((&told["code"], &told["run"]), (&json!("some-code"), &json!(3)), "{program:?}");
    }
}

#[test]
fn the_way_a_run_ends_is_the_exit_code_of_whoever_waits_for_it() {
    for (state, code) in
        [("done", 0), ("failed", 1), ("partial", 3), ("rolled-back", 4), ("cancelled", 1), ("timeout", 7)]
    {
        let fake = Fake::start().answers(PUBLISH, 202, ACCEPTED).answers(RUN, 200, &finished("running")).answers(
            RUN,
            200,
            &finished(state),
        );
        let ended = fake.run_json(&["publish", "www", "--wait"]);
        assert_eq!((ended.code, ended.err.as_str()), (code, ""), "{state}: {ended:?}");
        assert_eq!(ended.out.trim_end(), finished(state), "the whole run, as it ended");
        let people = fake.run(&["run", "wait", "7"]);
        assert_eq!(people.code, code, "{state}: {people:?}");
        assert!(people.out.contains("no space left") && people.out.contains("build"), "{people:?}");
    }
}

#[test]
fn without_waiting_a_run_is_told_when_it_is_accepted() {
    let fake = Fake::start().answers(PUBLISH, 202, ACCEPTED);
    let ended = fake.run_json(&["publish", "www"]);
    assert_eq!((ended.code, ended.out.trim_end()), (0, ACCEPTED));
    let people = fake.run(&["publish", "www"]);
    assert!(people.out.contains("pressrun run wait 7"), "{people:?}");
}

#[test]
fn flags_reach_the_api() {
    let fake = Fake::start().answers(PUBLISH, 202, ACCEPTED).answers("POST /api/v1/sites", 201, r#"{"name":"www"}"#);
    let publish = ["publish", "www", "--group", "g", "--quorum", "80%", "--adopt", "--create-live", "--timeout", "5m"];
    assert_eq!(fake.run(&[&publish[..], &["--commit", "autonomous"]].concat()).code, 0);
    assert_eq!(fake.run(&["publish", "www", "--stage-only"]).code, 0);
    let site = ["site", "create", "www", "--staging", "content", "--live", "/srv/{server}/www", "--exclude", "*.tmp"];
    let created = fake.run(&site);
    assert_eq!(created.code, 0, "{created:?}");
    let bodies: Vec<Value> = fake.asked().into_iter().map(|asked| asked.body).collect();
    let full = json!({
        "group": "g", "quorum": "80%", "adopt": true, "create_live": true, "timeout_seconds": 300, "stage_only": false,
        "commit": "autonomous",
    });
    assert_eq!(bodies[0], full);
    let plain = json!({
        "group": null, "quorum": null, "adopt": false, "create_live": false, "timeout_seconds": null,
        "stage_only": true, "commit": "coordinated",
    });
    assert_eq!(bodies[1], plain);
    let staging = std::env::current_dir().unwrap().join("content");
    let site = json!({
        "name": "www", "staging": staging, "live": "/srv/{server}/www", "exclude": ["*.tmp"], "wan": "auto",
    });
    assert_eq!(bodies[2], site);
}

#[test]
fn what_an_audit_found_is_told_by_server_and_path_and_drift_is_3() {
    let audit = "POST /api/v1/sites/www/audit";
    let counts = json!({ "changed": 1, "extra": 30 });
    let findings = json!([
        { "difference": "changed", "path": "index.html" },
        { "difference": "extra", "path": "by-hand\u{1b}[2J.html" },
    ]);
    let run = json!({
        "run": 7, "site": "www", "group": "all", "kind": "audit", "state": "partial",
        "message": "of 2 servers: 1 clean, 1 drifted",
        "servers": [
            { "server": "s1w1", "segment": "s1", "state": "clean", "audit": { "counts": {}, "findings": [] } },
            { "server": "s1w2", "segment": "s1", "state": "drifted", "reason": "1 changed, 30 extra",
              "audit": { "counts": counts, "findings": findings } },
        ],
    });
    let fake = Fake::start().answers(audit, 202, ACCEPTED).answers(RUN, 200, &run.to_string());
    let people = fake.run(&["audit", "www", "--full", "--repair", "--timeout", "5m", "--wait"]);
    assert_eq!(people.code, 3, "{people:?}");
    let has_line = |words: &[&str]| people.out.lines().any(|line| words.iter().all(|word| line.contains(word)));
    assert!(has_line(&["s1w2", "changed", "index.html"]) && has_line(&["s1w2", "and 29 more"]), "{people:?}");
    assert!(!people.out.contains('\u{1b}'), "a file's name does not steer the terminal: {people:?}");
    let asked = json!({ "group": null, "full": true, "repair": true, "timeout_seconds": 300 });
    assert_eq!(fake.asked()[0].body, asked);
    assert_eq!(fake.run(&["audit", "www"]).code, 0, "accepted");
}

#[test]
fn what_mends_servers_names_them_and_a_policy_says_only_what_changes() {
    let (synchronize, replicate) = ("POST /api/v1/sites/www/synchronize", "POST /api/v1/sites/www/replicate");
    let fake = Fake::start().answers(synchronize, 202, ACCEPTED).answers(replicate, 202, ACCEPTED).answers(
        "POST /api/v1/sites/www/policy",
        200,
        r#"{"name":"www","extra":"keep"}"#,
    );
    assert_eq!(fake.run(&["synchronize", "www"]).code, 0);
    assert_eq!(fake.run(&["replicate", "www", "--server", "s1w1", "--server", "s1w2", "--group", "g"]).code, 0);
    assert_eq!(fake.run(&["site", "set", "www", "--extra", "keep"]).code, 0);
    assert_eq!(fake.run(&["site", "set", "www", "--linger", "10m"]).code, 0);
    assert_eq!(fake.run(&["site", "set", "www", "--linger", "0s", "--extra", "fail"]).code, 0);
    assert_eq!(fake.run(&["site", "set", "www"]).code, 2, "nothing is to be changed");
    let bodies: Vec<Value> = fake.asked().into_iter().map(|asked| asked.body).collect();
    let expected = [
        json!({ "group": null, "servers": [] }),
        json!({ "group": "g", "servers": ["s1w1", "s1w2"] }),
        json!({ "extra": "keep", "linger_seconds": null }),
        json!({ "extra": null, "linger_seconds": 600 }),
        json!({ "extra": "fail", "linger_seconds": 0 }),
    ];
    assert_eq!(bodies, expected);
}

#[test]
fn content_is_taken_off_servers_only_when_somebody_confirms_it() {
    let remove = "POST /api/v1/sites/www/remove";
    let fake = Fake::start().answers(remove, 202, ACCEPTED);
    let unconfirmed = fake.run(&["remove", "www", "--group", "all"]);
    assert_eq!(unconfirmed.code, 2, "{unconfirmed:?}");
    for words in ["every server of group all", "backups go, too", "--yes"] {
        assert!(unconfirmed.err.contains(words), "{words}: {unconfirmed:?}");
    }
    assert_eq!(fake.asked(), []);
    assert_eq!(fake.run(&["remove", "www", "--yes"]).code, 2, "from whom?");
    assert_eq!(fake.run(&["remove", "www", "--server", "s1w1", "--keep-content", "--yes"]).code, 0);
    let asked = json!({ "group": null, "servers": ["s1w1"], "keep_content": true, "quorum": null });
    assert_eq!(fake.asked()[0].body, asked);
}

#[test]
fn what_is_for_single_servers_names_them_or_their_number() {
    let (hot, switch) = ("POST /api/v1/sites/www/hot", "POST /api/v1/sites/www/switch");
    let fake = Fake::start().answers(hot, 202, ACCEPTED).answers(switch, 202, ACCEPTED);
    assert_eq!(fake.run(&["hot", "www", "index.html", "news", "--servers", "2"]).code, 0);
    assert_eq!(fake.run(&["hot", "www", "index.html", "--server", "s1w1", "--quorum", "1"]).code, 0);
    assert_eq!(fake.run(&["switch", "www", "--server", "s1w1"]).code, 0);
    assert_eq!(fake.run(&["switch", "www", "--quorum", "100%"]).code, 0);
    for wrong in
        [&["hot", "www", "x"][..], &["hot", "www", "--servers", "2"], &["hot", "www", "../x", "--servers", "2"]]
    {
        assert_eq!(fake.run(wrong).code, 2, "{wrong:?}");
    }
    let bodies: Vec<Value> = fake.asked().into_iter().map(|asked| asked.body).collect();
    let expected = [
        json!({ "group": null, "paths": ["index.html", "news"], "servers": [], "count": 2, "quorum": null }),
        json!({ "group": null, "paths": ["index.html"], "servers": ["s1w1"], "count": null, "quorum": "1" }),
        json!({ "group": null, "servers": ["s1w1"], "quorum": null }),
        json!({ "group": null, "servers": [], "quorum": "100%" }),
    ];
    assert_eq!(bodies, expected);
}

#[test]
fn a_run_is_paused_and_resumed_by_its_number() {
    let (pause, resume) = ("POST /api/v1/runs/7/pause", "POST /api/v1/runs/7/resume");
    let fake = Fake::start().answers(pause, 202, r#"{"run":7,"state":"running"}"#).answers(resume, 202, ACCEPTED);
    let paused = fake.run(&["run", "pause", "7"]);
    assert!(paused.code == 0 && paused.out.contains("pressrun run resume 7"), "{paused:?}");
    assert_eq!(fake.run_json(&["run", "resume", "7"]).out.trim_end(), ACCEPTED);
    let over = Fake::start().answers(pause, 409, &problem(409, "run 7 cannot be paused: it is over"));
    assert_eq!(over.run(&["run", "pause", "7"]).code, 6);
}

#[test]
fn a_join_token_is_printed_alone_for_people_and_by_name_for_programs() {
    let body = r#"{"id":"i","token":"prt1.i.s.d","expires":"2026-01-01T00:00:00.000Z"}"#;
    let fake = Fake::start().answers("POST /api/v1/tokens", 201, body);
    assert_eq!(fake.run(&["token", "create", "--segment", "s1", "--ttl", "2h"]).out, "prt1.i.s.d\n");
    let program: Value = serde_json::from_str(&fake.run_json(&["token", "create"]).out).unwrap();
    assert_eq!(program["token"], "prt1.i.s.d");
    let asked = fake.asked();
    assert_eq!(asked[0].body, json!({ "segment": "s1", "uses": 1, "ttl_seconds": 7200, "roles": null }));
    assert_eq!(asked[1].body["ttl_seconds"], 3600);
}

#[test]
fn what_is_deleted_without_an_answer_is_named() {
    let fake = Fake::start().answers("DELETE /api/v1/sites/www/checkpoints/old", 204, "");
    let program = fake.run_json(&["checkpoint", "delete", "www", "old"]);
    assert_eq!((program.code, program.out.as_str()), (0, "{\"deleted\":\"old\"}\n"));
}

#[test]
fn a_ccm_that_is_not_there_is_named_with_what_to_do() {
    let mut fake = Fake::start();
    fake.stop();
    let ended = fake.run(&["status"]);
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(ended.err.contains(&fake.url()) && ended.err.contains("is `pressrun ccm` running?"), "{ended:?}");
}

#[test]
fn a_ccm_of_another_cluster_gets_no_token() {
    let (fake, other) = (Fake::start(), Fake::start());
    let ended = fake.run(&["status", "--ca", other.ca().to_str().unwrap()]);
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(ended.err.contains("is not the content control manager of this cluster"), "{ended:?}");
    assert_eq!(fake.asked(), []);
}

#[test]
fn a_server_of_the_cluster_that_plays_the_ccm_gets_no_token() {
    let fake =
        Fake::start_as("pressrun://server/0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f").answers("GET /api/v1/status", 200, "{}");
    let ended = fake.run(&["status"]);
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(ended.err.contains("is not the content control manager of this cluster"), "{ended:?}");
    assert_eq!(fake.asked(), []);
}

#[test]
fn the_digest_of_the_root_document_is_enough_to_recognise_a_cluster() {
    let fake = Fake::start();
    let root = json!({ "cluster": "00", "ca": std::fs::read_to_string(fake.ca()).unwrap() }).to_string();
    let fake = fake.answers("GET /api/v1/root", 200, &root).answers("GET /api/v1/status", 200, "{}");
    let environment = [("PRESSRUN_CCM", fake.url()), ("PRESSRUN_TOKEN", "from-outside".to_owned())];
    let environment = environment.each_ref().map(|(name, value)| (*name, value.as_str()));
    let right = run(&["status", "--json", "--ca", &Digest::of(root.as_bytes()).to_string()], &environment);
    assert_eq!((right.code, right.out.as_str()), (0, "{}\n"), "{right:?}");
    let wrong = run(&["status", "--json", "--ca", &Digest::of(b"another").to_string()], &environment);
    assert_eq!(wrong.code, 1, "{wrong:?}");
    let tokens: Vec<String> = fake.asked().into_iter().map(|asked| asked.token).collect();
    assert_eq!(tokens, ["", "from-outside", ""], "the document is asked for without the token");
}

#[test]
fn nobody_to_ask_is_a_matter_of_usage() {
    let ended = run(&["status"], &[]);
    assert_eq!(ended.code, 2, "{ended:?}");
    assert!(ended.err.contains("--data DIR") && ended.err.contains("PRESSRUN_CCM"), "{ended:?}");
}

#[test]
fn an_answer_that_is_no_json_is_an_error_for_people() {
    let fake = Fake::start().answers("GET /api/v1/status", 200, "<html>");
    let ended = fake.run(&["status"]);
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(ended.err.contains("/api/v1/status"), "{ended:?}");
}

#[test]
fn a_ccm_that_is_too_busy_is_asked_again() {
    let fake =
        Fake::start().answers(RUN, 503, &problem(503, "too many requests wait")).answers(RUN, 200, &finished("done"));
    let ended = fake.run_json(&["run", "wait", "7"]);
    assert_eq!(ended.code, 0, "{ended:?}");
}

#[test]
fn waiting_ends_when_its_own_time_is_up_and_the_run_goes_on() {
    let fake = Fake::start().answers("GET /api/v1/runs/7?wait=1", 200, &finished("running")).answers(
        "GET /api/v1/runs/7?wait=0",
        200,
        &finished("running"),
    );
    let ended = fake.run_json(&["run", "wait", "7", "--timeout", "1s"]);
    assert_eq!(ended.code, 7, "{ended:?}");
    let told: Value = serde_json::from_str(&ended.err).unwrap();
    assert_eq!(told["run"], 7);
    assert!(fake.asked().iter().all(|asked| !asked.line.contains("cancel")));
}
