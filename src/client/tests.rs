//! Finding the content control manager, and naming things in paths.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use common::digest::Digest;

use super::*;

fn data(directory: &Path, token: &str) {
    fs::create_dir_all(directory.join("keys")).unwrap();
    fs::write(directory.join("ccm.address"), "https://127.0.0.1:7000\n").unwrap();
    fs::write(directory.join("admin.token"), format!("{token}\n")).unwrap();
    fs::write(directory.join("keys/ca.pem"), "the authority").unwrap();
}

fn find(args: &ClientArgs, env: &[(&str, &str)]) -> Result<Place, PlaceError> {
    let env: BTreeMap<&str, &str> = env.iter().copied().collect();
    Place::find(args, |name| env.get(name).map(ToString::to_string))
}

#[test]
fn the_data_directory_says_where_who_and_why() {
    let directory = tempfile::tempdir().unwrap();
    data(directory.path(), "secret");
    let args = ClientArgs { data: Some(directory.path().to_owned()), ..ClientArgs::default() };
    let place = find(&args, &[]).unwrap();
    assert_eq!(place.url.to_string(), "https://127.0.0.1:7000");
    assert_eq!(place.authorization, "Bearer secret");
    assert!(place.authorization.is_sensitive(), "a token is not for logs");
    assert_eq!(place.anchor, Anchor::Authority("the authority".to_owned()));
}

#[test]
fn a_flag_wins_over_the_environment() {
    let (flagged, ambient) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    data(flagged.path(), "flagged");
    data(ambient.path(), "ambient");
    let ambient = ambient.path().to_str().unwrap();
    let env = [("PRESSRUN_DATA", ambient), ("PRESSRUN_CCM", "https://other"), ("PRESSRUN_TOKEN", "other")];
    let args = ClientArgs { data: Some(flagged.path().to_owned()), ..ClientArgs::default() };
    let place = find(&args, &env).unwrap();
    assert_eq!((place.url.host(), place.authorization.to_str().unwrap()), ("127.0.0.1", "Bearer flagged"));
    let place = find(&ClientArgs::default(), &env).unwrap();
    assert_eq!((place.url.host(), place.authorization.to_str().unwrap()), ("other", "Bearer other"));
}

#[test]
fn each_part_can_be_said_alone() {
    let directory = tempfile::tempdir().unwrap();
    data(directory.path(), "secret");
    let digest = Digest::of(b"root").to_string();
    let args = ClientArgs {
        data: Some(directory.path().to_owned()),
        ccm: Some("https://[::1]:9".parse().unwrap()),
        ca: Some(digest),
        ..ClientArgs::default()
    };
    let place = find(&args, &[]).unwrap();
    assert_eq!((place.url.host(), place.url.authority().as_str()), ("::1", "[::1]:9"));
    assert_eq!(place.anchor, Anchor::RootDigest(Digest::of(b"root")));
    assert_eq!(place.authorization, "Bearer secret");
}

#[test]
fn what_is_missing_is_named() {
    let nothing = ClientArgs::default();
    assert!(matches!(find(&nothing, &[]), Err(PlaceError::NoAddress)));
    let address = ("PRESSRUN_CCM", "https://ccm");
    assert!(matches!(find(&nothing, &[address]), Err(PlaceError::NoToken)));
    assert!(matches!(find(&nothing, &[address, ("PRESSRUN_TOKEN", "t")]), Err(PlaceError::NoAuthority)));
    let empty = tempfile::tempdir().unwrap();
    let args = ClientArgs { data: Some(empty.path().to_owned()), ..ClientArgs::default() };
    let error = find(&args, &[]).unwrap_err();
    assert!(error.to_string().contains("pressrun ccm --data"), "{error}");
    assert_eq!(error.exit(), Exit::Failed);
}

#[test]
fn a_token_of_several_lines_is_refused_and_not_repeated() {
    let error = find(
        &ClientArgs { ccm: Some("https://ccm".parse().unwrap()), ..ClientArgs::default() },
        &[("PRESSRUN_TOKEN", "secret\nHost: other"), ("PRESSRUN_CA", "/nowhere")],
    )
    .unwrap_err();
    assert!(matches!(error, PlaceError::BadToken { .. }));
    assert!(!error.to_string().contains("secret"), "{error}");
}

#[test]
fn an_address_is_https_with_a_host_and_perhaps_a_port() {
    for (text, authority) in [
        ("https://ccm.example:1", "ccm.example:1"),
        ("https://10.0.0.1/", "10.0.0.1:7443"),
        ("https://[::1]", "[::1]:7443"),
        ("https://[fe80::1]:80/", "[fe80::1]:80"),
    ] {
        assert_eq!(text.parse::<Url>().unwrap().authority(), authority, "{text}");
    }
    for bad in [
        "",
        "ccm",
        "http://ccm",
        "https://",
        "https:///",
        "https://a/b",
        "https://a:",
        "https://a:0x1",
        "https://a:99999",
        "https://::1",
        "https://[::1",
        "https://[ccm]",
        "https://[::1]80",
        "https://u@h",
        "https://a b",
        "https://a\nb",
    ] {
        assert!(bad.parse::<Url>().is_err(), "{bad:?}");
    }
}

#[test]
fn a_part_of_a_path_stays_one_part() {
    assert_eq!(path_part("a1.b_c"), "a1.b_c");
    assert_eq!(path_part("../x?y#z"), "..%2Fx%3Fy%23z");
    assert_eq!((path_part("."), path_part("..")), ("%2E".to_owned(), "%2E%2E".to_owned()));
}

#[test]
fn a_refusal_says_what_the_api_says() {
    let body = br#"{"title":"Conflict","status":409,"detail":"run 3 publishes www","code":"busy","run":3}"#;
    let problem = Box::new(Problem::read(StatusCode::CONFLICT, body));
    let error = ClientError::Refused { status: 409, problem };
    assert_eq!((error.to_string().as_str(), error.exit()), ("run 3 publishes www", Exit::Conflict));
    let strange = Problem::read(StatusCode::BAD_GATEWAY, b"<html>");
    assert_eq!(strange.sentence(), "Bad Gateway");
}
