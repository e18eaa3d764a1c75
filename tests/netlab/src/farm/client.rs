//! The product's command line, used as an operator on the CCM's host would.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::run::Run;
use super::{Farm, Meter, SITE, START_PATIENCE};
use crate::address::Host;
use crate::process::Process;
use crate::wait::wait_for;

/// Longer than any command takes; one that is still running is hung.
const COMMAND_PATIENCE: Duration = Duration::from_secs(300);

/// How a command ended.
#[derive(Debug, Clone, PartialEq)]
pub struct CliResult {
    /// What was asked for.
    pub arguments: Vec<String>,
    /// The exit code; -1 when a signal ended it.
    pub code: i32,
    /// Its standard output as JSON; `Null` when it is none.
    pub json: Value,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl CliResult {
    /// Gives itself back when it ended as expected.
    ///
    /// # Panics
    /// When it did not, with all it said.
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self}");
        self
    }

    /// All that it said.
    #[must_use]
    pub fn said(&self) -> String {
        format!("{}\n{}", self.stdout, self.stderr)
    }
}

impl fmt::Display for CliResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { arguments, code, stdout, stderr, .. } = self;
        write!(f, "pressrun {} ended with {code}\n{}\n{}", arguments.join(" "), stdout.trim_end(), stderr.trim_end())
    }
}

/// A command that runs while the test goes on.
#[derive(Debug)]
pub struct RunningCli {
    process: Process,
    arguments: Vec<String>,
    /// Without its ending: `.out` and `.err` are the two.
    output: PathBuf,
    journal: PathBuf,
    started: Instant,
}

impl RunningCli {
    /// Waits for its end.
    ///
    /// # Panics
    /// When it does not end.
    #[must_use]
    pub fn finish(mut self) -> CliResult {
        let status = self.process.wait(COMMAND_PATIENCE);
        let read = |end: &str| {
            let bytes = fs::read(self.output.with_extension(end)).unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let (stdout, stderr) = (read("out"), read("err"));
        let json = serde_json::from_str(&stdout).unwrap_or_default();
        let code = status.and_then(|status| status.code()).unwrap_or(-1);
        let result = CliResult { arguments: self.arguments.clone(), code, json, stdout, stderr };
        let seconds = self.started.elapsed().as_secs_f64();
        let journal = File::options().create(true).append(true).open(&self.journal);
        // The journal is for people; a test does not fail for want of it.
        journal.and_then(|mut journal| writeln!(journal, "[{seconds:.3} s] {result}\n")).ok();
        assert!(status.is_some(), "hangs: {result}");
        result
    }
}

impl Farm {
    /// Starts a command of the client with `--data` of the CCM and `--json`.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn cli_start(&self, arguments: &[&str]) -> RunningCli {
        self.cli_start_with(&self.ccm_data(), arguments)
    }

    /// As [`Farm::cli_start`] with another data directory.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn cli_start_with(&self, data: &Path, arguments: &[&str]) -> RunningCli {
        static COUNTER: AtomicU32 = AtomicU32::new(1);
        let output = self.place.logs().join(format!("command-{:05}", COUNTER.fetch_add(1, Ordering::Relaxed)));
        let file = |end: &str| File::create(output.with_extension(end)).expect("an output file");
        let mut command = self.lab.command(Host::Ccm, &self.binary);
        command.args(arguments).arg("--data").arg(data).arg("--json");
        command.stdin(Stdio::null()).stdout(file("out")).stderr(file("err"));
        let started = Instant::now();
        let process = Process::start(&mut command).unwrap_or_else(|error| panic!("no client: {error}"));
        let arguments = arguments.iter().map(ToString::to_string).collect();
        RunningCli { process, arguments, output, journal: self.place.logs().join("commands.log"), started }
    }

    /// Runs a command of the client to its end.
    ///
    /// # Panics
    /// When it does not end.
    #[must_use]
    pub fn cli(&self, arguments: &[&str]) -> CliResult {
        self.cli_start(arguments).finish()
    }

    /// Runs a command that makes a run, with `--wait`, and asks for what came of it.
    ///
    /// # Panics
    /// When the command does not end.
    #[must_use]
    pub fn run(&self, arguments: &[&str]) -> Run {
        let result = self.cli(&[arguments, &["--wait"]].concat());
        self.outcome(&result)
    }

    /// Publishes [`SITE`] with further arguments and waits for the end of the run.
    ///
    /// # Panics
    /// When the command does not end.
    #[must_use]
    pub fn publish(&self, arguments: &[&str]) -> Run {
        self.run(&[&["publish", SITE], arguments].concat())
    }

    /// Begins to publish [`SITE`] with further arguments; gives the number of the run.
    ///
    /// # Panics
    /// When it is refused.
    #[must_use]
    pub fn publish_start(&self, arguments: &[&str]) -> u64 {
        let result = self.cli(&[&["publish", SITE], arguments].concat()).expect_code(0);
        result.json["run"].as_u64().unwrap_or_else(|| panic!("no number of a run: {result}"))
    }

    /// What a run is, joined with how the command that asked for it ended.
    ///
    /// # Panics
    /// When the CCM does not tell.
    #[must_use]
    pub fn outcome(&self, result: &CliResult) -> Run {
        // A run that failed may be told as an error.
        let told: Value = serde_json::from_str(&result.stderr).unwrap_or_default();
        let number = result.json["run"].as_u64().or_else(|| told["run"].as_u64().filter(|_| result.code != 6));
        let json = number.map(|run| self.run_show(run).json).unwrap_or_default();
        Run { code: result.code, said: result.said(), json }
    }

    /// What the CCM knows of a run.
    ///
    /// # Panics
    /// When it does not tell.
    #[must_use]
    pub fn run_show(&self, run: u64) -> Run {
        let result = self.cli(&["run", "show", &run.to_string()]).expect_code(0);
        Run { code: result.code, said: result.said(), json: result.json }
    }

    /// Waits until a run is final, also when the CCM is just being started.
    ///
    /// # Panics
    /// When it is not in that time.
    #[must_use]
    pub fn wait_final(&self, run: u64, within: Duration) -> Run {
        let seconds = format!("{}s", within.as_secs());
        let waited = self.cli(&["run", "wait", &run.to_string(), "--timeout", &seconds]);
        let shown = self.run_show(run);
        assert!(shown.is_final(), "run {run} does not end: {waited}\n{shown}");
        shown
    }

    /// Waits until what the CCM tells of the fleet and its runs meets a condition, which is looked at
    /// after every event.
    ///
    /// # Panics
    /// When the CCM does not tell.
    #[must_use]
    pub fn wait_for<T>(&self, within: Duration, condition: impl FnMut() -> Option<T>) -> Option<T> {
        wait_for(&mut self.events(), within, condition)
    }

    /// Waits until the servers of a segment have sent so many bytes to their LAN for a run: it is in
    /// the middle of its multicast session.
    ///
    /// # Panics
    /// When the run ends before.
    pub fn wait_in_session(&self, run: u64, segment: u8, meter: &Meter, bytes: u64) {
        let sending = self.wait_for(START_PATIENCE, || {
            if self.segment_sent_since(segment, meter) >= bytes {
                return Some(());
            }
            let shown = self.run_show(run);
            assert!(!shown.is_final(), "run {run} ended before it had sent {bytes} bytes: {shown}");
            None
        });
        sending.unwrap_or_else(|| panic!("run {run} sends nothing in segment {segment}: {}", self.run_show(run)));
        let shown = self.run_show(run);
        assert!(!shown.is_final(), "run {run} is too short for this test: {shown}");
    }

    /// The `servers` that the CCM knows, by name.
    ///
    /// # Panics
    /// When it does not tell.
    #[must_use]
    pub fn servers(&self) -> BTreeMap<String, Value> {
        let result = self.cli(&["servers"]).expect_code(0);
        named(&result, "server")
    }

    /// Waits until all servers are online and each segment has its leader.
    ///
    /// # Panics
    /// When they are not.
    pub fn wait_online(&self) {
        let mut seen = None;
        let online = self.wait_for(START_PATIENCE, || {
            let servers = self.servers();
            let online = self
                .hosts()
                .iter()
                .all(|host| servers.get(&host.to_string()).is_some_and(|it| it["state"] == "online"));
            let led = (1..=self.lab.spec().segments).all(|segment| self.leader_of(segment).is_some());
            seen = Some(servers);
            (online && led).then_some(())
        });
        assert!(online.is_some(), "not all servers come online under a leader: {seen:#?}");
    }

    /// Waits until the CCM sees a server in a state, or as stale for [`SITE`] when that is the state.
    ///
    /// # Panics
    /// When it does not.
    pub fn wait_state(&self, host: Host, state: &str, within: Duration) {
        let mut seen = None;
        let reached = self.wait_for(within, || {
            let server = self.servers().remove(&host.to_string()).unwrap_or_default();
            let reached = server["state"] == state || (state == "stale" && site_of(&server)["stale"] == true);
            seen = Some(server);
            reached.then_some(())
        });
        assert!(reached.is_some(), "{host} does not become {state}: {seen:#?}");
    }

    /// The leader of a segment, as the CCM knows it.
    ///
    /// # Panics
    /// When the CCM does not tell.
    #[must_use]
    pub fn leader_of(&self, segment: u8) -> Option<Host> {
        let result = self.cli(&["segments"]).expect_code(0);
        let segments = named(&result, "segment");
        segments.get(&format!("s{segment}"))?["leader"].as_str()?.parse().ok()
    }

    /// A server of a segment that does not lead it.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn follower_of(&self, segment: u8) -> Host {
        let leader = self.leader_of(segment);
        let mut hosts = self.hosts().into_iter();
        let found = hosts.find(|host| matches!(host, Host::Server(of, _) if *of == segment) && Some(*host) != leader);
        found.unwrap_or_else(|| panic!("segment {segment} has no server beside its leader"))
    }

    /// The version of [`SITE`] that each server reports as live.
    ///
    /// # Panics
    /// When the CCM does not tell.
    #[must_use]
    pub fn live_versions(&self) -> BTreeMap<Host, Option<String>> {
        let servers = self.servers();
        let version = |host: Host| site_of(servers.get(&host.to_string())?)["live"].as_str().map(str::to_owned);
        self.hosts().into_iter().map(|host| (host, version(host))).collect()
    }
}

/// The items of a list by one of their members.
fn named(result: &CliResult, member: &str) -> BTreeMap<String, Value> {
    let items = result.json["items"].as_array().unwrap_or_else(|| panic!("no list: {result}"));
    items.iter().filter_map(|item| Some((item[member].as_str()?.to_owned(), item.clone()))).collect()
}

/// What a server reports of [`SITE`]; `Null` when nothing.
fn site_of(server: &Value) -> Value {
    let sites = server["sites"].as_array().into_iter().flatten();
    sites.into_iter().find(|site| site["site"] == SITE).cloned().unwrap_or_default()
}
