//! Hooks of the servers' administrators, with real web servers: what is run before and after the switch,
//! and what their failures lead to.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use netlab::farm::{Farm, FarmSpec, Run, SITE};
use netlab::{Host, trees};

const ONE: Host = Host::Server(1, 1);
/// Longest time that a web server takes to have read its configuration again.
const PATIENCE: Duration = Duration::from_secs(30);

/// Has the web server of the agent that runs it read its configuration again, as `nginx -s reload` does.
const RELOAD: &str = r#"
[hooks]
after = [["/bin/sh", "-c", '''
    server="$(dirname "$PRESSRUN_DIRECTORY")"
    kill -HUP "$(cat "$server/../../nginx/$(basename "$server")/pid")"
''']]
"#;
/// Refuses trees in which a page is broken.
const LOOK: &str = r#"
[hooks]
before = [["/bin/sh", "-c", '! grep -n broken "$PRESSRUN_DIRECTORY/index.html"']]
"#;
/// Fails after a switch to a tree with such a page.
const COMPLAIN: &str = r#"
[hooks]
after = [["/bin/sh", "-c", '! grep -n odd "$PRESSRUN_DIRECTORY/index.html"']]
"#;

fn farm(spec: impl FnOnce(FarmSpec) -> FarmSpec) -> Farm {
    Farm::start(spec(FarmSpec::of(env!("CARGO_BIN_EXE_pressrun"), 1, 2)), &[])
}

fn publish(farm: &Farm, page: &str, arguments: &[&str]) -> Run {
    stage(&farm.staging(), page);
    farm.publish(arguments)
}

fn stage(staging: &Path, page: &str) {
    trees::write(&staging.join("index.html"), page.as_bytes(), 0o644).expect("staging");
}

fn page(farm: &Farm, host: Host) -> String {
    let page = farm.page(host, "/index.html").unwrap_or_else(|reason| panic!("{host}: {reason}"));
    String::from_utf8(page).expect("text")
}

/// The web server was told before the run ended; it hears that in its own time.
fn assert_soon_serves(farm: &Farm, host: Host, text: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let served = farm.page(host, "/index.html");
        if served.as_deref() == Ok(text.as_bytes()) {
            return;
        }
        assert!(Instant::now() < deadline, "{host} still serves {served:?}, not {text}");
    }
}

#[test]
fn a_web_server_that_remembers_open_files_serves_what_is_live_when_a_hook_reloads_it() {
    let farm = farm(|spec| spec.webs_remember().agents(RELOAD));
    publish(&farm, "first", &[]).done();
    for (before, text) in [("first", "second"), ("second", "third")] {
        // Each has the old file open then.
        farm.hosts().into_iter().for_each(|host| assert_soon_serves(&farm, host, before));
        publish(&farm, text, &[]).done();
        farm.hosts().into_iter().for_each(|host| assert_soon_serves(&farm, host, text));
    }
    farm.run(&["rollback", SITE]).done();
    assert_soon_serves(&farm, ONE, "second");
}

#[test]
fn without_a_hook_such_a_web_server_serves_the_old_file() {
    let farm = farm(FarmSpec::webs_remember);
    publish(&farm, "first", &[]).done();
    assert_eq!(page(&farm, ONE), "first");
    publish(&farm, "second", &[]).done();
    assert_eq!(page(&farm, ONE), "first", "this is what the hook is for");
}

#[test]
fn a_tree_that_a_hook_refuses_goes_live_nowhere_and_the_run_says_why() {
    let farm = farm(|spec| spec.agents(LOOK));
    publish(&farm, "first", &[]).done();
    let old = farm.scratch("old");
    trees::replace(&farm.staging(), &old).expect("a copy");
    let run = publish(&farm, "this is broken", &[]);
    assert_eq!((run.state(), run.code), ("failed", 1), "{run}");
    for host in farm.hosts() {
        let report = run.server(&host.to_string()).unwrap_or_else(|| panic!("nothing of {host}: {run}"));
        assert!(report.reason.contains("/bin/sh failed") && report.reason.contains("1:this is broken"), "{run}");
    }
    farm.assert_live(&farm.hosts(), &old);
    publish(&farm, "this is mended", &[]).done();
    farm.assert_live(&farm.hosts(), &farm.staging());
}

#[test]
fn a_hook_that_fails_after_the_switch_is_a_warning_of_the_run_and_takes_nothing_back() {
    let farm = farm(|spec| spec.agents(COMPLAIN));
    let run = publish(&farm, "an odd page", &[]).done();
    let warnings = run.json["warnings"].as_array().expect("a list").clone();
    assert_eq!(warnings.len(), farm.hosts().len(), "{run}");
    for (host, warning) in farm.hosts().iter().zip(&warnings) {
        let warning = warning.as_str().expect("text");
        assert!(warning.contains("/bin/sh failed") && warning.contains("an odd page"), "{host}: {warning}");
    }
    farm.assert_live(&farm.hosts(), &farm.staging());
    assert_eq!(publish(&farm, "a page", &[]).done().json["warnings"].as_array().map(Vec::len), Some(0));
}

#[test]
fn an_agent_that_was_killed_before_its_hook_ended_runs_it_when_it_starts_again() {
    // The first run of the hook waits for a file that is not there yet.
    let hook = r#"
[hooks]
after = [["/bin/sh", "-c", '''
    server="$(dirname "$PRESSRUN_DIRECTORY")"
    echo "$PRESSRUN_VERSION" >> "$server/hooks"
    if test -e "$server/wait"; then exec sleep 1000; fi
''']]
"#;
    let mut farm = farm(|spec| spec.agents(hook));
    let first = publish(&farm, "first", &[]).done();
    let log = farm.root(ONE).join("hooks");
    let ran = || fs::read_to_string(&log).unwrap_or_default().lines().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(ran(), [first.word("result").expect("a version")]);
    fs::write(farm.root(ONE).join("wait"), "").expect("writes");
    stage(&farm.staging(), "second");
    let run = farm.publish_start(&[]);
    let root = farm.root(ONE);
    let mut changes = netlab::wait::Changes::of([&root]).expect("it can be watched");
    let began = netlab::wait::wait_for(&mut changes, PATIENCE, || (ran().len() == 2).then_some(()));
    began.unwrap_or_else(|| panic!("the hook does not run: {:?}", ran()));
    farm.kill_agent(ONE);
    fs::remove_file(root.join("wait")).expect("removes");
    farm.start_agent(ONE);
    let mut changes = netlab::wait::Changes::of([&root]).expect("it can be watched");
    let again = netlab::wait::wait_for(&mut changes, PATIENCE, || (ran().len() == 3).then_some(()));
    again.unwrap_or_else(|| panic!("the hook does not run again: {:?}", ran()));
    let ended = farm.wait_final(run, Duration::from_secs(120));
    let second = ended.word("result").expect("a version").to_owned();
    assert_eq!(ran()[1..], [second.clone(), second], "{ended}");
    farm.wait_live(ONE, &farm.staging(), PATIENCE);
}
