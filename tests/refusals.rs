//! Bad input gets a named error and a documented exit code, and changes nothing.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::PathBuf;
use std::time::Duration;

use netlab::Host;
use netlab::farm::{Farm, FarmSpec, Run, SITE};
use netlab::trees::{self, Plan};

const ONE: Host = Host::Server(1, 1);
const OTHER: Host = Host::Server(1, 2);
/// Longest time until an agent that may not join has said so.
const PATIENCE: Duration = Duration::from_secs(30);

fn spec() -> FarmSpec {
    FarmSpec::of(env!("CARGO_BIN_EXE_pressrun"), 1, 2)
}

/// A farm with something published, and a copy of that.
fn published() -> (Farm, PathBuf) {
    let farm = Farm::start(spec(), &[]);
    let old = farm.scratch("old");
    trees::generate(&old, Plan { seed: 1, bytes: 100_000, file_bytes: 10_000 }).expect("a tree");
    trees::replace(&old, &farm.staging()).expect("staging");
    farm.publish(&[]).done();
    (farm, old)
}

/// It failed, a person finds one of the words, and no live tree is another than before.
#[track_caller]
fn assert_refused(farm: &Farm, run: &Run, words: &[&str], old: &std::path::Path) {
    assert_eq!(run.code, 1, "{run}");
    assert!(matches!(run.state(), "" | "failed"), "{run}");
    let said = run.explanation().to_lowercase();
    for word in words {
        assert!(said.contains(&word.to_lowercase()), "{word:?} is not said: {run}");
    }
    farm.assert_live(&farm.hosts(), old);
}

#[test]
fn a_staging_directory_that_is_gone_is_named() {
    let (farm, old) = published();
    fs::remove_dir_all(farm.staging()).expect("removes");
    assert_refused(&farm, &farm.publish(&[]), &[&farm.staging().to_string_lossy()], &old);
}

#[test]
fn a_staging_directory_that_never_was_is_named() {
    let farm = Farm::start_without_site(spec());
    let live = farm.root(ONE).with_file_name("{server}").join("www");
    let never = farm.scratch("never");
    let (never, live) = (never.to_string_lossy(), live.to_string_lossy());
    let created = farm.cli(&["site", "create", SITE, "--staging", &never, "--live", &live]);
    // Told at once, or at the first publish.
    if created.code == 0 {
        let run = farm.publish(&[]);
        assert_eq!(run.code, 1, "{run}");
        assert!(run.explanation().contains(&*never), "{run}");
    } else {
        assert_eq!(created.code, 1, "{created}");
        assert!(created.said().contains(&*never), "{created}");
    }
}

#[test]
fn a_staging_file_that_cannot_be_read_is_named() {
    let (farm, old) = published();
    let secret = farm.staging().join("secret.txt");
    trees::write(&secret, b"secret", 0o644).expect("writes");
    fs::set_permissions(&secret, Permissions::from_mode(0o000)).expect("sets");
    assert_refused(&farm, &farm.publish(&[]), &["secret.txt"], &old);
    fs::remove_file(&secret).expect("removes");
    let closed = farm.staging().join("closed");
    fs::create_dir(&closed).expect("makes");
    fs::set_permissions(&closed, Permissions::from_mode(0o000)).expect("sets");
    assert_refused(&farm, &farm.publish(&[]), &["closed"], &old);
}

#[test]
fn a_symlink_that_leads_out_of_the_tree_is_named() {
    let (farm, old) = published();
    for target in ["/etc/passwd", "../outside", "part-0000/../../outside"] {
        let link = farm.staging().join("way-out");
        symlink(target, &link).expect("links");
        assert_refused(&farm, &farm.publish(&[]), &["way-out"], &old);
        fs::remove_file(&link).expect("removes");
    }
    // Without the link the same tree is published.
    farm.publish(&[]).done();
}

#[test]
fn a_special_file_in_staging_is_named() {
    let (farm, old) = published();
    let pipe = farm.staging().join("a-pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo runs").success());
    assert_refused(&farm, &farm.publish(&[]), &["a-pipe"], &old);
}

#[test]
fn a_missing_live_directory_is_named_and_made_only_when_asked_for() {
    let farm = Farm::start(spec(), &[]);
    trees::write(&farm.staging().join("index.html"), b"<p>one", 0o644).expect("writes");
    for host in farm.hosts() {
        fs::remove_dir(farm.live(host)).expect("removes");
    }
    let run = farm.publish(&[]);
    assert_eq!((run.code, run.state()), (1, "failed"), "{run}");
    assert!(run.explanation().contains(&*farm.live(ONE).to_string_lossy()), "{run}");
    assert!(farm.hosts().iter().all(|host| !farm.live(*host).exists()));
    farm.publish(&["--create-live"]).done();
    farm.assert_live(&farm.hosts(), &farm.staging());
}

#[test]
fn a_live_directory_with_something_in_it_is_named_and_left_alone_at_the_first_publish() {
    let farm = Farm::start(spec(), &[]);
    trees::write(&farm.staging().join("index.html"), b"<p>one", 0o644).expect("writes");
    for host in farm.hosts() {
        trees::write(&farm.live(host).join("theirs.html"), b"<p>theirs", 0o644).expect("writes");
    }
    let before = farm.scratch("before");
    trees::copy(&farm.live(ONE), &before).expect("a copy");
    let run = farm.publish(&[]);
    assert_refused(&farm, &run, &["adopt"], &before);
}

#[test]
fn a_client_with_a_wrong_token_is_not_authorised() {
    let (farm, old) = published();
    let forged = farm.scratch("forged");
    fs::create_dir_all(forged.join("keys")).expect("makes");
    for name in ["ccm.address", "keys/ca.pem"] {
        fs::copy(farm.ccm_data().join(name), forged.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    let token = fs::read_to_string(farm.ccm_data().join("admin.token")).expect("a token");
    let flipped: String = token.trim_end().chars().rev().map(|c| if c == 'a' { 'b' } else { 'a' }).collect();
    fs::write(forged.join("admin.token"), flipped).expect("writes");
    trees::change(&farm.staging(), 9, 0.5).expect("changes");
    for arguments in [&["status"][..], &["publish", SITE], &["token", "create"], &["rollback", SITE]] {
        farm.cli_start_with(&forged, arguments).finish().expect_code(5);
    }
    farm.assert_live(&farm.hosts(), &old);
    // The right one does it.
    farm.cli(&["status"]).expect_code(0);
}

/// The same token with another last character of one of its parts.
fn altered(token: &str, part: usize) -> String {
    let mut parts: Vec<String> = token.split('.').map(str::to_owned).collect();
    let last = parts[part].pop().expect("a part has characters");
    parts[part].push(if last == '0' { '1' } else { '0' });
    parts.join(".")
}

#[test]
fn an_agent_with_a_wrong_or_used_up_token_does_not_join() {
    let mut farm = Farm::start(spec(), &[]);
    farm.kill_agent(OTHER);
    let used_up = farm.token(1).to_owned();
    let fresh = farm.cli(&["token", "create", "--segment", "s1", "--uses", "1"]).expect_code(0);
    let fresh = fresh.json["token"].as_str().expect("a token").to_owned();
    let wrong = [("secret", altered(&fresh, 2)), ("pin", altered(&fresh, 3)), ("used-up", used_up)];
    for (kind, token) in wrong.into_iter().chain([("none", "nonsense".to_owned())]) {
        let name = format!("intruder-{kind}");
        let mut command = farm.agent_command(OTHER, &name, &farm.scratch(&name), &token);
        let mut agent = farm.start_process(&name, &mut command);
        let status = agent.wait(PATIENCE).unwrap_or_else(|| panic!("an agent with a {kind} token goes on"));
        let code = status.code();
        assert!(matches!(code, Some(1 | 2 | 5)), "{kind}: {status}");
        if matches!(kind, "secret" | "used-up") {
            assert_eq!(code, Some(5), "{kind}");
        }
        let log = farm.log(&name).to_lowercase();
        assert!(log.contains("token") || log.contains("pin") || log.contains("digest"), "{kind}: {log}");
        assert!(!farm.servers().contains_key(&name), "{kind}");
        // A secret is not for logs.
        assert!(!log.contains(token.split('.').nth(2).unwrap_or("nonsense-has-no-secret")), "{kind}: {log}");
    }
    // The one that is right, and has not been used by the attempts with parts of it, still joins.
    let mut command = farm.agent_command(OTHER, "late", &farm.scratch("late"), &fresh);
    let _late = farm.start_process("late", &mut command);
    let joined = farm.wait_for(PATIENCE, || farm.servers().contains_key("late").then_some(()));
    assert!(joined.is_some(), "{:#?}", farm.servers());
}

#[test]
fn a_full_disk_on_one_server_fails_that_server_and_keeps_its_live_tree() {
    let farm = Farm::start(spec().small_disk(OTHER, 4 << 20), &[]);
    let old = farm.scratch("old");
    trees::generate(&old, Plan { seed: 1, bytes: 200_000, file_bytes: 20_000 }).expect("a tree");
    trees::replace(&old, &farm.staging()).expect("staging");
    farm.publish(&[]).done();
    trees::generate(&farm.staging().join("more"), Plan { seed: 2, bytes: 12_000_000, file_bytes: 100_000 })
        .expect("staging");
    let all = farm.publish(&["--quorum", "100%"]);
    assert_eq!((all.code, all.state()), (1, "failed"), "{all}");
    farm.assert_live(&farm.hosts(), &old);
    let some = farm.publish(&["--quorum", "1"]).ends(3, "partial");
    let report = some.server(&OTHER.to_string()).unwrap_or_else(|| panic!("nothing of {OTHER}: {some}"));
    let reason = report.reason.to_lowercase();
    assert!(reason.contains("space") || reason.contains("disk"), "{some}");
    farm.assert_live(&[OTHER], &old);
    farm.assert_live(&[ONE], &farm.staging());
    // What did not fit is not left behind.
    let left = trees::files(&farm.root(OTHER)).expect("files").values().sum::<u64>();
    assert!(left < 1_000_000, "{left} bytes are left on the full disk");
}

#[test]
fn names_that_nobody_knows_are_named() {
    let (farm, old) = published();
    for arguments in [
        &["publish", "unknown-site"][..],
        &["diff", "unknown-site"],
        &["rollback", "unknown-site"],
        &["site", "show", "unknown-site"],
        &["publish", SITE, "--group", "unknown-group"],
        &["checkpoint", "restore", SITE, "unknown-checkpoint"],
        &["run", "show", "999999"],
    ] {
        let result = farm.cli(arguments).expect_code(1);
        let named = arguments.iter().find(|word| word.starts_with("unknown") || **word == "999999");
        assert!(result.said().contains(named.expect("each has one")), "{result}");
    }
    for wrong in [&["publish"][..], &["publish", SITE, "--quorum", "many"], &["no-such-command"]] {
        farm.cli(wrong).expect_code(2);
    }
    farm.assert_live(&farm.hosts(), &old);
}
