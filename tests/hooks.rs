//! Hooks of the servers' administrators, with real web servers: what is run before and after the switch,
//! and what their failures lead to.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use netlab::farm::{Farm, FarmSpec, Run, SITE};
use netlab::process::Process;
use netlab::wait::{Changes, wait_for};
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

/// Runs an installer that is part of the content.
const INSTALL: &str = r#"
[hooks]
after = [["/bin/sh", "-c", 'exec /bin/sh "$PRESSRUN_DIRECTORY/install.sh"']]
"#;

#[test]
fn an_installer_that_comes_with_the_content_is_run_by_a_hook_and_its_exit_code_is_in_the_run() {
    let farm = farm(|spec| spec.agents(INSTALL));
    let installer = |script: &str| {
        trees::write(&farm.staging().join("install.sh"), script.as_bytes(), 0o755).expect("staging");
    };
    let installed = |host| fs::read_to_string(farm.root(host).join("installed")).unwrap_or_default();
    installer("echo 1.0 > \"$PRESSRUN_DIRECTORY/../installed\"");
    let run = publish(&farm, "application 1.0", &[]).done();
    assert_eq!(run.json["warnings"].as_array().map(Vec::len), Some(0), "{run}");
    assert!(farm.hosts().into_iter().all(|host| installed(host) == "1.0\n"));
    installer("echo the schema cannot be migrated >&2\nexit 17");
    let run = publish(&farm, "application 1.1", &[]).done();
    let warnings = run.json["warnings"].as_array().expect("a list");
    assert_eq!(warnings.len(), farm.hosts().len(), "{run}");
    for warning in warnings {
        let warning = warning.as_str().expect("text");
        assert!(warning.contains("exit status: 17: the schema cannot be migrated"), "{warning}");
    }
    assert!(farm.hosts().into_iter().all(|host| installed(host) == "1.0\n"));
}

/// Apache and PHP-FPM on one server, as Debian's packages have them, beside its nginx.
struct Apache {
    address: SocketAddr,
    own: PathBuf,
    // Apache asks PHP, so it goes first.
    _apache: Process,
    _php: Process,
}

/// Longest time that a web server takes to start.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// The newest PHP-FPM that is installed.
fn php_program() -> PathBuf {
    let programs = fs::read_dir("/usr/sbin").into_iter().flatten().flatten().map(|entry| entry.path());
    let is_php = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("php-fpm"));
    programs.filter(is_php).max().expect("Debian's package php-fpm is installed")
}

impl Apache {
    /// Started when there is content: Apache opens the files that it is to remember then. Both forget only
    /// when they are told to read their configuration again.
    fn start(farm: &Farm, host: Host) -> Self {
        let own = farm.scratch(&format!("apache-{host}"));
        fs::create_dir_all(&own).expect("a directory");
        let live = farm.live(host);
        // Apache's processes are no root: they must be able to come to the files.
        for directory in live.ancestors().chain(own.ancestors()).take_while(|at| at.parent().is_some()) {
            let mode = fs::metadata(directory).expect("it is there").permissions().mode();
            if mode & 0o055 != 0o055 {
                fs::set_permissions(directory, fs::Permissions::from_mode(mode | 0o055)).expect("its mode can be set");
            }
        }
        let (own_path, live) = (own.display(), live.display());
        let address = SocketAddr::from((host.address(), 8080));
        let php = format!(
            "[global]\nerror_log = {own_path}/php.log\npid = {own_path}/php.pid\ndaemonize = no\n\
             [www]\nuser = root\ngroup = root\nlisten = {own_path}/php.socket\nlisten.mode = 0666\n\
             pm = static\npm.max_children = 1\n"
        );
        let modules = ["mpm_event", "authz_core", "dir", "file_cache", "proxy", "proxy_fcgi"];
        let load = |module: &str| format!("LoadModule {module}_module modules/mod_{module}.so\n");
        let apache = format!(
            "ServerRoot /usr/lib/apache2\nServerName {host}\nListen {address}\nPidFile {own_path}/apache.pid\n\
             DefaultRuntimeDir {own_path}\nMutex file:{own_path}\nErrorLog {own_path}/apache.log\n{modules}\
             User www-data\nGroup www-data\nDocumentRoot {live}\n\
             <Directory {live}>\n Require all granted\n</Directory>\nCacheFile {live}/index.html\n\
             <FilesMatch \\.php$>\n SetHandler \"proxy:unix:{own_path}/php.socket|fcgi://localhost/\"\n</FilesMatch>\n",
            modules = modules.map(load).concat(),
        );
        fs::write(own.join("php.conf"), php).expect("writes");
        fs::write(own.join("apache.conf"), apache).expect("writes");
        let mut command = farm.lab().command(host, php_program());
        command.args(["-R", "-F", "-d", "opcache.validate_timestamps=0"]);
        // It would not keep what is younger than two seconds.
        command.args(["-d", "opcache.file_update_protection=0", "-y"]).arg(own.join("php.conf"));
        let php = started(farm, "php", &mut command, &own.join("php.pid"));
        let mut command = farm.lab().command(host, "/usr/sbin/apache2");
        command.args(["-D", "FOREGROUND", "-f"]).arg(own.join("apache.conf"));
        let apache = started(farm, "apache", &mut command, &own.join("apache.pid"));
        Self { address, own, _apache: apache, _php: php }
    }

    fn page(&self, farm: &Farm, host: Host, path: &str) -> Result<String, String> {
        let (address, path) = (self.address, path.to_owned());
        let fetch = farm.lab().thread(host, move || netlab::hammer::fetch(address, &path)).expect("a thread");
        fetch.join().expect("a visitor does not panic").map(|page| String::from_utf8_lossy(&page).into_owned())
    }

    fn assert_soon_serves(&self, farm: &Farm, host: Host, path: &str, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let served = self.page(farm, host, path);
            if served.as_deref() == Ok(text) {
                return;
            }
            let log = || fs::read_to_string(self.own.join("apache.log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "{path} is still {served:?}, not {text}; {}", log());
        }
    }
}

fn started(farm: &Farm, name: &str, command: &mut Command, pid: &Path) -> Process {
    let own = pid.parent().expect("it is in a directory");
    let changes = Changes::of([own]).expect("it can be watched");
    let mut process = farm.start_process(name, command);
    let mut changes = changes.or(process.end().expect("it has been started"));
    let there = wait_for(&mut changes, START_PATIENCE, || {
        let ended = process.ended().ok().flatten();
        assert!(ended.is_none(), "{name} ended (are Debian's packages apache2 and php-fpm installed?): {ended:?}");
        pid.exists().then_some(())
    });
    there.unwrap_or_else(|| panic!("{name} does not start"));
    process
}

fn stage_application(staging: &Path, release: &str) {
    let script = format!("<?php require 'name.php'; echo '{release} of ', NAME;");
    let included = format!("<?php const NAME = 'shop {release}';");
    for (name, text) in
        [("index.html", release), ("plain.txt", release), ("app.php", &*script), ("name.php", &*included)]
    {
        trees::write(&staging.join(name), text.as_bytes(), 0o644).expect("staging");
    }
}

/// Has Apache and PHP read everything again, as `apachectl graceful` and `systemctl reload php-fpm` do.
const GRACEFUL: &str = r#"
[hooks]
after = [["/bin/sh", "-c", '''
    server="$(dirname "$PRESSRUN_DIRECTORY")"
    own="$server/../../scratch/apache-$(basename "$server")"
    test -e "$own/apache.pid" || exit 0
    kill -USR1 "$(cat "$own/apache.pid")"
    kill -USR2 "$(cat "$own/php.pid")"
''']]
"#;

#[test]
fn apache_with_remembered_files_and_php_that_never_looks_twice_serve_what_is_live_when_hooks_reload_them() {
    let farm = farm(|spec| spec.agents(GRACEFUL));
    stage_application(&farm.staging(), "first");
    farm.publish(&[]).done();
    let apache = Apache::start(&farm, ONE);
    for (before, release) in [("first", "second"), ("second", "third")] {
        // Apache has the file open, PHP has both scripts translated.
        apache.assert_soon_serves(&farm, ONE, "/index.html", before);
        apache.assert_soon_serves(&farm, ONE, "/app.php", &format!("{before} of shop {before}"));
        stage_application(&farm.staging(), release);
        let run = farm.publish(&[]).done();
        assert_eq!(run.json["warnings"].as_array().map(Vec::len), Some(0), "{run}");
        apache.assert_soon_serves(&farm, ONE, "/index.html", release);
        apache.assert_soon_serves(&farm, ONE, "/app.php", &format!("{release} of shop {release}"));
    }
    farm.run(&["rollback", SITE]).done();
    apache.assert_soon_serves(&farm, ONE, "/app.php", "second of shop second");
}

#[test]
fn without_hooks_apache_serves_what_it_does_not_remember_and_php_what_it_translated_before() {
    let farm = farm(|spec| spec);
    stage_application(&farm.staging(), "first");
    farm.publish(&[]).done();
    let apache = Apache::start(&farm, ONE);
    apache.assert_soon_serves(&farm, ONE, "/index.html", "first");
    apache.assert_soon_serves(&farm, ONE, "/app.php", "first of shop first");
    stage_application(&farm.staging(), "second");
    farm.publish(&[]).done();
    let page = |path| apache.page(&farm, ONE, path).expect("a page");
    assert_eq!(page("/plain.txt"), "second", "Apache opens files anew");
    assert_eq!(page("/index.html"), "first", "but not those that it is told to remember");
    assert_eq!(page("/app.php"), "first of shop first", "this is what the hook is for");
}
