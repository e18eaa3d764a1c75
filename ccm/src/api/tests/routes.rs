//! Permissions, forms and headers of all routes.

use super::*;

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
        ("{segment}", "none"),
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
        if route.permission == Permission::Server {
            let bearer = format!("Bearer {good}");
            for headers in [[].as_slice(), &[("authorization", bearer.as_str())]] {
                assert_eq!(send(headers).await.problem(), (401, "no-certificate"), "{method} {path}");
            }
            continue;
        }
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
