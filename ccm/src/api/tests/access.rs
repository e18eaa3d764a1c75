//! Enrolment, tokens and logins.

use super::*;

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
async fn a_server_says_where_it_is_and_learns_where_the_others_of_its_segment_are() {
    let ccm = ccm();
    let id = |reply: Reply| reply.body["server"].as_str().unwrap().parse::<ServerId>().unwrap();
    let (one, two) = (id(ccm.enrol("web1").await), id(ccm.enrol("web2").await));
    let ask = async |server: ServerId, control: &str| {
        let mut request = request("POST", "/api/v1/roster", &[], json!({ "control": control }));
        request.extensions_mut().insert(transfer::tls::Peer::Server(server));
        ccm.send(request).await
    };
    let peer = |server: ServerId, name: &str, control: &str| json!({"server": server.to_string(), "name": name, "control": control});
    let first = ask(one, "10.0.0.1:4001").await;
    assert_eq!(first.body, json!({"peers": [peer(one, "web1", "10.0.0.1:4001")]}));
    let both = json!({"peers": [peer(one, "web1", "10.0.0.1:4001"), peer(two, "web2", "10.0.0.2:4001")]});
    assert_eq!(ask(two, "10.0.0.2:4001").await.body, both);
    let moved = ask(one, "10.0.0.1:4009").await;
    assert_eq!(moved.body["peers"][0], peer(one, "web1", "10.0.0.1:4009"), "it says where it is now");

    for bad in ["0.0.0.0:4001", "239.1.1.1:4001", "10.0.0.1:0", "255.255.255.255:1"] {
        assert_eq!(ask(two, bad).await.problem(), (422, "bad-control-address"), "{bad}");
    }
    assert_eq!(ask(ServerId([9; 16]), "10.0.0.3:4001").await.problem(), (403, "not-enrolled"));
    assert_eq!(ccm.admin("DELETE", "/api/v1/servers/web1", Value::Null).await.status, StatusCode::NO_CONTENT);
    let left = ask(two, "10.0.0.2:4001").await;
    assert_eq!(left.body, json!({"peers": [peer(two, "web2", "10.0.0.2:4001")]}), "who is removed is not named");
}

#[tokio::test]
async fn servers_of_other_segments_are_not_named() {
    let ccm = ccm();
    let token =
        ccm.admin("POST", "/api/v1/tokens", json!({"uses": 2})).await.body["token"].as_str().unwrap().to_owned();
    let mut of_another = enroll_body(&token, "far");
    of_another["segment"] = json!("s2");
    let mut servers = Vec::new();
    for body in [enroll_body(&token, "near"), of_another] {
        let reply = ccm.send(request("POST", "/api/v1/enroll", &[], body)).await;
        servers.push(reply.body["server"].as_str().unwrap().parse::<ServerId>().unwrap());
    }
    for (server, name) in servers.into_iter().zip(["near", "far"]) {
        let mut request = request("POST", "/api/v1/roster", &[], json!({"control": "10.0.0.1:4001"}));
        request.extensions_mut().insert(transfer::tls::Peer::Server(server));
        let reply = ccm.send(request).await;
        assert_eq!(reply.body["peers"].as_array().unwrap().len(), 1, "{name}");
        assert_eq!(reply.body["peers"][0]["name"], json!(name));
    }
}
