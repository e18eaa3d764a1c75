//! A farm of real processes on a lab: one CCM, an agent on every server, and beside each agent a
//! real nginx that serves the live directory.
//!
//! It is a fixture: what goes wrong in it is a failed test, so it panics with a sentence. While a
//! panic unwinds it prints the ends of all logs and keeps them. One farm stands on the machine at a
//! time, so that one test's load is not another test's fault.
//!
//! The processes are killed when the thread that started them ends: start a farm and its agents on
//! the thread of the test.

mod agents;
mod client;
mod events;
mod place;
mod run;
mod visitors;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::address::{Host, Rate};
use crate::lab::{Counters, Lab, Spec};
use crate::multicast::Cut;
use crate::process::Process;
use crate::trees::{self, Comparison};
use crate::wait::{Changes, wait_for};

pub use client::{CliResult, RunningCli};
pub use place::Frozen;
pub use run::{Phase, Run, ServerReport};
pub use visitors::Visitors;

use place::Place;

/// The port on which the CCM listens for agents and clients.
pub const CCM_PORT: u16 = 7443;
/// The name of the hosted site that a farm has.
pub const SITE: &str = "site";
/// Longest time that a process of the farm takes until it answers.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// What a farm shall be like.
#[derive(Debug, Clone)]
pub struct FarmSpec {
    /// The network.
    pub lab: Spec,
    /// The product's binary.
    pub binary: PathBuf,
    /// Servers whose root is a file system of its own with so many bytes.
    pub small_disks: BTreeMap<Host, u64>,
    /// What the agents' configuration file says; without it they have none.
    pub agents: Option<String>,
    /// Whether the web servers remember open files, and go on serving what was there before.
    pub webs_remember: bool,
    /// Servers that do not hear multicast, or are not heard, from the start.
    pub cuts: BTreeMap<Host, Cut>,
}

impl FarmSpec {
    /// Segments and servers on perfect links.
    #[must_use]
    pub fn of(binary: impl Into<PathBuf>, segments: u8, servers: u8) -> Self {
        Self {
            lab: Spec::of(segments, servers),
            binary: binary.into(),
            small_disks: BTreeMap::new(),
            agents: None,
            webs_remember: false,
            cuts: BTreeMap::new(),
        }
    }

    /// With switches that forward no multicast.
    #[must_use]
    pub fn without_multicast(mut self) -> Self {
        self.cuts = self.lab.servers().map(|server| (server, Cut::Inward)).collect();
        self
    }

    /// With a server that does not hear multicast, or is not heard.
    #[must_use]
    pub fn multicast_cut(mut self, host: Host, cut: Cut) -> Self {
        self.cuts.insert(host, cut);
        self
    }

    /// With web servers that remember open files for a minute.
    #[must_use]
    pub fn webs_remember(mut self) -> Self {
        self.webs_remember = true;
        self
    }

    /// With a configuration file for all agents.
    #[must_use]
    pub fn agents(mut self, configuration: impl Into<String>) -> Self {
        self.agents = Some(configuration.into());
        self
    }

    /// With switches that send multicast only to those who joined.
    #[must_use]
    pub fn snooping(mut self) -> Self {
        self.lab.snooping = true;
        self
    }

    /// With servers that have addresses of IPv6 only.
    #[must_use]
    pub fn ipv6(mut self) -> Self {
        self.lab.ipv6 = true;
        self
    }

    /// With segments' WAN links of a rate.
    #[must_use]
    pub fn wan_rate(mut self, rate: Rate) -> Self {
        self.lab.wan_rate = Some(rate);
        self
    }

    /// With servers' links of a rate.
    #[must_use]
    pub fn lan_rate(mut self, rate: Rate) -> Self {
        self.lab.lan_rate = Some(rate);
        self
    }

    /// With a small disk on one server.
    #[must_use]
    pub fn small_disk(mut self, host: Host, bytes: u64) -> Self {
        self.small_disks.insert(host, bytes);
        self
    }
}

/// What agents log: as much as this process was told to, and which data channels they join and leave, because
/// nothing else tells a test when that has happened.
fn agents_log() -> String {
    let usual = std::env::var("RUST_LOG").unwrap_or_else(|_| "info".to_owned());
    format!("{usual},pressrun_lan_channel::joined=debug")
}

/// What the links have carried at one moment.
#[derive(Debug, Clone)]
pub struct Meter {
    wan: BTreeMap<u8, Counters>,
    lan: BTreeMap<Host, Counters>,
}

/// A farm that is up.
#[derive(Debug)]
pub struct Farm {
    // In the order in which they go: processes, network, files, and then the next farm may stand.
    ccm: Option<Process>,
    agents: BTreeMap<Host, Process>,
    webs: BTreeMap<Host, Process>,
    lab: Lab,
    place: Place,
    binary: PathBuf,
    tokens: BTreeMap<u8, String>,
    _alone: File,
}

impl Farm {
    /// Starts everything, creates [`SITE`] with the given further arguments of `site create`, and
    /// waits until all servers are online.
    ///
    /// # Panics
    /// When something does not start.
    #[must_use]
    pub fn start(spec: FarmSpec, site_arguments: &[&str]) -> Self {
        let farm = Self::start_without_site(spec);
        farm.create_site(site_arguments);
        farm
    }

    /// As [`Farm::start`], without the site.
    ///
    /// # Panics
    /// When something does not start.
    #[must_use]
    pub fn start_without_site(spec: FarmSpec) -> Self {
        let FarmSpec { lab, binary, small_disks, agents, webs_remember, cuts } = spec;
        let alone = place::alone();
        let place = Place::make().expect("a farm has a directory");
        let lab = Lab::up(lab).unwrap_or_else(|error| panic!("the farm has no network: {error}"));
        for (server, cut) in cuts {
            lab.set_multicast_cut(server, cut).unwrap_or_else(|error| panic!("the switch does as it likes: {error}"));
        }
        let mut farm = Self {
            ccm: None,
            agents: BTreeMap::new(),
            webs: BTreeMap::new(),
            lab,
            place,
            binary,
            tokens: BTreeMap::new(),
            _alone: alone,
        };
        if let Some(agents) = agents {
            fs::write(farm.agent_config(), agents).expect("agents have a configuration");
        }
        for host in farm.hosts() {
            fs::create_dir_all(farm.root(host)).expect("a server has a root");
            if let Some(bytes) = small_disks.get(&host) {
                farm.place.mount_small_disk(&farm.root(host), *bytes);
            }
            fs::create_dir_all(farm.live(host)).expect("a server has a live directory");
            farm.start_web(host, webs_remember);
        }
        fs::create_dir_all(farm.staging()).expect("the CCM has a staging directory");
        farm.start_ccm();
        for segment in 1..=farm.lab.spec().segments {
            let uses = farm.lab.spec().servers.to_string();
            let name = format!("s{segment}");
            let answer = farm.cli(&["token", "create", "--segment", &name, "--uses", &uses]).expect_code(0);
            let token = answer.json["token"].as_str();
            let token = token.unwrap_or_else(|| panic!("token create gave no token: {answer}"));
            farm.tokens.insert(segment, token.to_owned());
        }
        for host in farm.hosts() {
            farm.start_agent(host);
        }
        farm.wait_online();
        farm
    }

    /// Creates [`SITE`] with further arguments.
    ///
    /// # Panics
    /// When it is refused.
    pub fn create_site(&self, arguments: &[&str]) {
        let (staging, live) = (self.staging(), self.place.servers().join("{server}/www"));
        let (staging, live) = (staging.to_string_lossy(), live.to_string_lossy());
        let create = ["site", "create", SITE, "--staging", &staging, "--live", &live];
        self.cli(&[&create, arguments].concat()).expect_code(0);
    }

    /// The network.
    #[must_use]
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// All servers.
    #[must_use]
    pub fn hosts(&self) -> Vec<Host> {
        self.lab.spec().servers().collect()
    }

    /// The staging tree of [`SITE`].
    #[must_use]
    pub fn staging(&self) -> PathBuf {
        self.place.path().join("staging")
    }

    /// A directory of the test's own, gone with the farm.
    #[must_use]
    pub fn scratch(&self, name: &str) -> PathBuf {
        self.place.path().join("scratch").join(name)
    }

    /// The data directory of the CCM.
    #[must_use]
    pub fn ccm_data(&self) -> PathBuf {
        self.place.path().join("ccm")
    }

    /// Below what a server's agent may write.
    #[must_use]
    pub fn root(&self, host: Host) -> PathBuf {
        self.place.servers().join(host.to_string())
    }

    /// The live directory of [`SITE`] on a server.
    #[must_use]
    pub fn live(&self, host: Host) -> PathBuf {
        self.root(host).join("www")
    }

    /// Where a server's agent keeps the tree that was live before, beside the live directory.
    #[must_use]
    pub fn backup(&self, host: Host) -> PathBuf {
        self.root(host).join(".www.pressrun/backup")
    }

    /// Where a server's web server answers.
    #[must_use]
    pub fn web(&self, host: Host) -> SocketAddr {
        SocketAddr::from((host.address(), 80))
    }

    /// Starts the CCM and waits until it answers.
    ///
    /// It runs as root without root's power over file modes, as a service of its own user would.
    ///
    /// # Panics
    /// When it does not.
    pub fn start_ccm(&mut self) {
        let listen = self.ccm_address().to_string();
        let mut command = self.lab.command(Host::Ccm, "setpriv");
        command
            .args(["--bounding-set=-dac_override,-dac_read_search", "--"])
            .arg(&self.binary)
            .args(["ccm", "--data"])
            .arg(self.ccm_data())
            .args(["--listen", &listen, "--console", "127.0.0.1:0"]);
        // A file of a former start must not be taken for the new one's.
        fs::remove_file(self.ccm_data().join("ccm.address")).ok();
        fs::create_dir_all(self.ccm_data()).expect("the CCM has a directory");
        let changes = Changes::of([self.ccm_data()]).expect("it can be watched");
        let mut ccm = self.place.start("ccm", &mut command);
        let mut changes = changes.or(ccm.end().expect("it has been started"));
        let listens = wait_for(&mut changes, START_PATIENCE, || {
            let ended = ccm.ended().ok().flatten();
            assert!(ended.is_none(), "the CCM ended: {ended:?}");
            // It says where it listens as soon as it does.
            self.ccm_data().join("ccm.address").exists().then_some(())
        });
        listens.expect("the CCM listens");
        self.ccm = Some(ccm);
        let _status = self.cli(&["status"]).expect_code(0);
    }

    fn ccm_address(&self) -> SocketAddr {
        let address =
            if self.lab.spec().ipv6 { Host::Ccm.address6().into() } else { IpAddr::from(Host::Ccm.address()) };
        SocketAddr::new(address, CCM_PORT)
    }

    /// Kills the CCM as `kill -9`.
    pub fn kill_ccm(&mut self) {
        self.ccm = None;
    }

    /// The command of a server's agent under another name, data directory or token.
    #[must_use]
    pub fn agent_command(&self, host: Host, name: &str, data: &Path, token: &str) -> Command {
        let ccm = format!("https://{}", self.ccm_address());
        let mut command = self.lab.command(host, &self.binary);
        command
            .args(["agent", "--data"])
            .arg(data)
            .args(["--ccm", &ccm, "--token", token, "--name", name, "--segment", &segment_of(host), "--root"])
            .arg(self.root(host))
            .args(["--interface", "eth0"])
            .env("RUST_LOG", agents_log());
        let config = self.agent_config();
        if config.exists() {
            command.arg("--config").arg(config);
        }
        command
    }

    /// Where the agents' configuration file is, if they have one.
    #[must_use]
    pub fn agent_config(&self) -> PathBuf {
        self.place.path().join("agent.toml")
    }

    /// The token with which the servers of a segment have joined; it has no uses left.
    #[must_use]
    pub fn token(&self, segment: u8) -> &str {
        &self.tokens[&segment]
    }

    /// Starts the agent of a server, always with the command line of its first start.
    pub fn start_agent(&mut self, host: Host) {
        let Host::Server(segment, _) = host else { panic!("{host} is no server") };
        let (name, data) = (host.to_string(), self.agent_data(host));
        let mut command = self.agent_command(host, &name, &data, self.token(segment));
        let process = self.place.start(&name, &mut command);
        self.agents.insert(host, process);
    }

    /// The data directory of a server's agent.
    #[must_use]
    pub fn agent_data(&self, host: Host) -> PathBuf {
        self.place.path().join("agents").join(host.to_string())
    }

    /// Kills the agent of a server as `kill -9`; its web server stays.
    pub fn kill_agent(&mut self, host: Host) {
        self.agents.remove(&host);
    }

    fn start_web(&mut self, host: Host, remembers: bool) {
        let own = self.place.path().join("nginx").join(host.to_string());
        fs::create_dir_all(&own).expect("nginx has a directory");
        let (own_path, live) = (own.display(), self.live(host));
        let live = live.display();
        // A web server of a single process cannot read its configuration again.
        let (processes, cache) = if remembers {
            ("user root;\nworker_processes 1", "max=1000 inactive=60s; open_file_cache_valid 60s")
        } else {
            ("master_process off", "off")
        };
        let configuration = format!(
            "daemon off;\n{processes};\npid {own_path}/pid;\nerror_log {own_path}/error.log;\n\
             events {{ worker_connections 256; }}\n\
             http {{\n access_log off;\n sendfile on;\n open_file_cache {cache};\n\
             client_body_temp_path {own_path}/body;\n proxy_temp_path {own_path}/proxy;\n\
             fastcgi_temp_path {own_path}/fastcgi;\n uwsgi_temp_path {own_path}/uwsgi;\n\
             scgi_temp_path {own_path}/scgi;\n\
             server {{ listen 80 backlog=512; root {live}; }}\n}}\n"
        );
        let file = own.join("nginx.conf");
        fs::write(&file, configuration).expect("nginx has a configuration");
        // Debian keeps it where only root's path leads.
        let program = Path::new("/usr/sbin/nginx");
        let program = if program.exists() { program } else { Path::new("nginx") };
        let mut command = self.lab.command(host, program);
        command.arg("-p").arg(&own).arg("-c").arg(&file).arg("-e").arg(own.join("error.log"));
        let pid = own.join("pid");
        fs::remove_file(&pid).ok();
        let changes = Changes::of([&own]).expect("it can be watched");
        let mut web = self.place.start(&format!("{host}.nginx"), &mut command);
        let mut changes = changes.or(web.end().expect("it has been started"));
        let listens = wait_for(&mut changes, START_PATIENCE, || {
            let ended = web.ended().ok().flatten();
            assert!(ended.is_none(), "nginx on {host} ended (is Debian's package nginx installed?): {ended:?}");
            // Written when its sockets listen.
            pid.exists().then_some(())
        });
        listens.unwrap_or_else(|| panic!("nginx on {host} does not listen"));
        self.webs.insert(host, web);
    }

    /// A page as a server's web server gives it.
    ///
    /// # Errors
    /// As [`crate::hammer::fetch`].
    pub fn page(&self, host: Host, path: &str) -> Result<Vec<u8>, String> {
        let (web, path) = (self.web(host), path.to_owned());
        let fetch = self.lab.thread(host, move || crate::hammer::fetch(web, &path));
        fetch.expect("a thread").join().expect("a visitor does not panic")
    }

    /// How the live tree of a server differs from a tree, leaving out some paths.
    ///
    /// # Panics
    /// When a tree cannot be read.
    #[must_use]
    pub fn live_differences(&self, host: Host, expected: &Path, passed_over: &[&str]) -> Vec<String> {
        let passed_over = passed_over.iter().map(PathBuf::from).collect();
        let comparison = Comparison { passed_over, ..Comparison::default() };
        trees::differences(expected, &self.live(host), &comparison)
            .unwrap_or_else(|error| panic!("the live tree of {host} cannot be compared: {error}"))
    }

    /// Checks that the live trees of servers equal a tree in paths, bytes, modes and links.
    ///
    /// # Panics
    /// When one does not; names the first differences.
    pub fn assert_live(&self, hosts: &[Host], expected: &Path) {
        for host in hosts {
            let differences = self.live_differences(*host, expected, &[]);
            let first = &differences[..differences.len().min(10)];
            assert!(
                first.is_empty(),
                "{host} differs from {} in {}: {first:#?}",
                expected.display(),
                differences.len()
            );
        }
    }

    /// Waits until the live tree of a server equals a tree.
    ///
    /// # Panics
    /// When it does not in that time; names the first differences.
    pub fn wait_live(&self, host: Host, expected: &Path, within: Duration) {
        let mut last = Vec::new();
        let live = self.live(host);
        let mut switches = Changes::of(live.parent()).expect("the place of the live directory can be watched");
        let equal = wait_for(&mut switches, within, || {
            // While it is exchanged a path may vanish between two looks at it: looked at again.
            let compared = trees::differences(expected, &live, &Comparison::default());
            last = compared.unwrap_or_else(|error| vec![error.to_string()]);
            last.is_empty().then_some(())
        });
        last.truncate(10);
        assert!(equal.is_some(), "{host} does not become {}: {last:#?}", expected.display());
    }

    /// What all links have carried until now.
    #[must_use]
    pub fn meter(&self) -> Meter {
        let segments = 1..=self.lab.spec().segments;
        let wan = segments.map(|segment| (segment, self.lab.wan_counters(segment).expect("the link counts")));
        let lan = self.hosts().into_iter().map(|host| (host, self.lan(host)));
        Meter { wan: wan.collect(), lan: lan.collect() }
    }

    fn lan(&self, host: Host) -> Counters {
        let Host::Server(segment, server) = host else { panic!("{host} is no server") };
        self.lab.lan_counters(segment, server).expect("the link counts")
    }

    /// What a segment's WAN link has carried since a reading, in both directions together.
    #[must_use]
    pub fn wan_since(&self, segment: u8, meter: &Meter) -> u64 {
        let carried = self.lab.wan_counters(segment).expect("the link counts").since(meter.wan[&segment]);
        carried.rx_bytes + carried.tx_bytes
    }

    /// What a server has heard from its LAN since a reading.
    #[must_use]
    pub fn heard_since(&self, host: Host, meter: &Meter) -> u64 {
        self.lan(host).since(meter.lan[&host]).rx_bytes
    }

    /// What a server has sent to its LAN since a reading.
    #[must_use]
    pub fn sent_since(&self, host: Host, meter: &Meter) -> u64 {
        self.lan(host).since(meter.lan[&host]).tx_bytes
    }

    /// What all servers of a segment have sent to their LAN since a reading.
    #[must_use]
    pub fn segment_sent_since(&self, segment: u8, meter: &Meter) -> u64 {
        let hosts = self.hosts().into_iter().filter(|host| matches!(host, Host::Server(of, _) if *of == segment));
        hosts.map(|host| self.sent_since(host, meter)).sum()
    }

    /// Lets no directory entry of a server's root be renamed, as a full journal or a wrong mount would:
    /// its agent can stage, but not swap. Ends when the result is dropped.
    ///
    /// # Panics
    /// When the file system knows no such attribute.
    #[must_use]
    pub fn freeze(&self, host: Host) -> Frozen {
        Frozen::of(&self.root(host))
    }

    /// Starts a process whose output goes to a log of the farm.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start_process(&self, log: &str, command: &mut Command) -> Process {
        self.place.start(log, command)
    }

    /// What a log of the farm holds: `ccm`, the name of a server, or one given to
    /// [`Farm::start_process`].
    #[must_use]
    pub fn log(&self, name: &str) -> String {
        self.place.log(name)
    }

    /// Whether `diff -r`, which knows nothing of us, sees two trees as equal; else what it says.
    ///
    /// # Panics
    /// When it cannot be run.
    #[must_use]
    pub fn diff_r(&self, one: &Path, other: &Path) -> Option<String> {
        let mut diff = Command::new("diff");
        diff.args(["-r", "--no-dereference", "--brief"]).arg(one).arg(other).stdin(Stdio::null());
        let output = diff.output().expect("diff runs");
        let said = [output.stdout, output.stderr].concat();
        (!output.status.success()).then(|| String::from_utf8_lossy(&said).into_owned())
    }
}

/// The name of a server's segment.
fn segment_of(host: Host) -> String {
    match host {
        Host::Server(segment, _) | Host::Router(segment) => format!("s{segment}"),
        Host::Ccm | Host::Wan => panic!("{host} is in no segment"),
    }
}
