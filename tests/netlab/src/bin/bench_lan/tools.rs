//! The programs under comparison, each run on the same network with the same file.

use std::fs::{self, File};
use std::io::Read as _;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use pressrun_netlab::lab::Lab;
use pressrun_netlab::wait::{Changes, wait_for};
use pressrun_netlab::{Host, LabError, Rate};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use serde_json::Value;

use crate::scenario::{SENDER, Scenario};
use crate::watch::{Watched, all_ended};

/// Longest time for a program to be ready.
const READY: Duration = Duration::from_secs(20);
/// Longest time for a file: so many times what the links allow, and this on top.
const PATIENCE_TIMES: f64 = 6.0;
/// See [`PATIENCE_TIMES`].
const PATIENCE: Duration = Duration::from_secs(30);
/// Times that a peer is run where the median counts.
const PEER_REPEATS_MAX: u32 = 11;
/// Bytes of a frame of ours on the wire without and with the Ethernet header.
const FRAME_BYTES: (u64, u64) = (1396, 1410);
/// Socket buffers for the peers that take a size, in bytes.
const PEER_BUFFER_BYTES: &str = "4194304";

/// Debian's own, which has Debian's libtorrent.
const PYTHON: &str = "/usr/bin/python3";
/// A peer of the swarm.
const PEER_SCRIPT: &str = include_str!("bittorrent-peer.py");

/// Where udpcast's two sides find each other.
const RENDEZVOUS: &str = "239.1.2.3";
/// Longest time until a file is as it shall be after its receiver said so: UFTP closes it later.
const CLOSING: Duration = Duration::from_secs(2);

/// A program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Tool {
    /// Ours; finds the rate by itself.
    Pressrun,
    /// Ours at the rate of the links.
    PressrunFixed,
    /// UFTP at the rate of the links, without encryption.
    Uftp,
    /// udp-sender and udp-receiver.
    Udpcast,
    /// One rsync for each receiver, all at once.
    Rsync,
    /// A swarm of libtorrent, in which each knows all others.
    Bittorrent,
}

impl Tool {
    /// Its name in the table.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Pressrun => "pressrun",
            Self::PressrunFixed => "pressrun, fixed rate",
            Self::Uftp => "uftp",
            Self::Udpcast => "udpcast",
            Self::Rsync => "rsync, parallel",
            Self::Bittorrent => "bittorrent",
        }
    }

    /// Whether there is something to learn from it in this row.
    pub(crate) fn applies_to(self, scenario: &Scenario) -> bool {
        match self {
            Self::Pressrun | Self::Uftp => true,
            Self::PressrunFixed => scenario.rate.is_some(),
            // Losses are of multicast only, so it would not notice.
            Self::Rsync => scenario.loss == crate::scenario::Loss::None && scenario.bytes <= 64 << 20,
            Self::Bittorrent => scenario.loss == crate::scenario::Loss::None && scenario.bytes > 1 << 20,
            Self::Udpcast => scenario.bytes > 1 << 20,
        }
    }
}

/// What was seen of one file.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    /// When each receiver had it, in seconds; `None` of those that never did.
    pub(crate) seconds: Vec<Option<f64>>,
    /// Bytes that the sender put on the wire, link headers included.
    pub(crate) sent_bytes: u64,
    /// Bytes that came back to it.
    pub(crate) returned_bytes: u64,
    /// Processor time of the sender, in seconds.
    pub(crate) sender_cpu: f64,
    /// Processor time of all receivers, in seconds.
    pub(crate) receiver_cpu: f64,
    /// Frames that receivers' kernels dropped, where it is known.
    pub(crate) overflows: Option<u64>,
    /// What else the program said of it.
    pub(crate) notes: Value,
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ToolError {
    /// The network failed.
    #[error("the network failed")]
    Lab(#[from] LabError),
    /// A file or a process failed.
    #[error("{what} failed")]
    System { what: &'static str, source: std::io::Error },
    /// It was not ready in time.
    #[error("{what} was not ready in time")]
    NotReady { what: &'static str },
    /// It did not finish in time.
    #[error("not finished after {seconds:.0} s")]
    Stalled { seconds: f64 },
    /// A receiver has something else than what was sent.
    #[error("receiver {receiver} has another file than was sent")]
    Wrong { receiver: usize },
}

/// Where and what.
pub(crate) struct Bench<'a> {
    pub(crate) lab: &'a Lab,
    pub(crate) scenario: &'a Scenario,
    /// A directory in memory.
    pub(crate) directory: &'a Path,
    /// The file to send.
    pub(crate) file: &'a Path,
    /// The program `lan-cast`.
    pub(crate) lan_cast: &'a Path,
}

/// The counters of the sender's link and the processor times, before.
struct Before {
    counters: pressrun_netlab::Counters,
    sender_cpu: f64,
    receiver_cpu: f64,
}

impl Bench<'_> {
    /// Runs a program, as often as the row wants it.
    pub(crate) fn run(&self, tool: Tool) -> Result<Vec<Seen>, ToolError> {
        let repeats = self.scenario.repeats;
        let several = |run: &dyn Fn() -> Result<Seen, ToolError>| {
            (0..repeats.min(PEER_REPEATS_MAX)).map(|_| run()).collect::<Result<Vec<Seen>, ToolError>>()
        };
        match tool {
            Tool::Pressrun => self.pressrun(None),
            Tool::PressrunFixed => self.pressrun(self.scenario.rate),
            Tool::Uftp => self.uftp(),
            Tool::Udpcast => several(&|| self.udpcast()),
            Tool::Rsync => several(&|| self.rsync()),
            Tool::Bittorrent => several(&|| self.bittorrent()),
        }
    }

    fn patience(&self) -> Duration {
        PATIENCE + Duration::from_secs_f64(self.scenario.limit_seconds().unwrap_or(5.0) * PATIENCE_TIMES)
    }

    fn start(&self, host: Host, program: &Path, args: &[&str]) -> Result<Watched, ToolError> {
        self.start_command(self.lab.command(host, program).args(args))
    }

    fn start_command(&self, command: &mut Command) -> Result<Watched, ToolError> {
        command.current_dir(self.directory);
        Watched::start(command).map_err(|source| ToolError::System { what: "starting a program", source })
    }

    fn before(&self, sender: Option<&Watched>, receivers: &[Watched]) -> Result<Before, ToolError> {
        Ok(Before {
            counters: self.lab.lan_counters(1, 1)?,
            sender_cpu: sender.map_or(0.0, Watched::cpu_seconds),
            receiver_cpu: cpu_seconds(receivers),
        })
    }

    fn seen(
        &self,
        before: &Before,
        seconds: Vec<Option<f64>>,
        senders: &[Watched],
        receivers: &[Watched],
    ) -> Result<Seen, ToolError> {
        let carried = self.lab.lan_counters(1, 1)?.since(before.counters);
        Ok(Seen {
            seconds,
            sent_bytes: carried.tx_bytes,
            returned_bytes: carried.rx_bytes,
            sender_cpu: cpu_seconds(senders) - before.sender_cpu,
            receiver_cpu: cpu_seconds(receivers) - before.receiver_cpu,
            overflows: None,
            notes: Value::Null,
        })
    }

    fn pressrun(&self, rate: Option<Rate>) -> Result<Vec<Seen>, ToolError> {
        let word = if rate.is_some() { "fixed" } else { "adaptive" };
        // Who is left behind fetches the rest.
        let identities = match self.scenario.has_straggler() {
            true => Some(self.place(&format!("identities-{word}"))?.to_string_lossy().into_owned()),
            false => None,
        };
        let mut receivers = Vec::new();
        for (number, host) in (1..).zip(self.scenario.hosts()) {
            let (number, directory) = (i32::to_string(&number), self.place(&format!("ours-{number}"))?);
            let directory = directory.to_string_lossy();
            let mut args =
                vec!["receive", "--interface", "eth0", "--word", word, "--number", &number, "--directory", &directory];
            args.extend(identities.iter().flat_map(|place| ["--identities", place]));
            receivers.push(self.start(host, self.lan_cast, &args)?);
        }
        let ready = Instant::now() + READY;
        if receivers.iter().any(|receiver| receiver.hear_until("ready", ready).is_none()) {
            return Err(ToolError::NotReady { what: "a receiver" });
        }
        let mut command = self.lab.command(SENDER, self.lan_cast);
        command.args(["send", "--interface", "eth0", "--word", word]);
        command.args(["--members", &receivers.len().to_string()]);
        command.args(identities.iter().flat_map(|place| ["--identities", place]));
        if self.scenario.repeats > 1 {
            command.args(["--bytes", &self.scenario.bytes.to_string()]);
            command.args(["--sessions", &self.scenario.repeats.to_string()]);
        } else {
            command.arg("--file").arg(self.file);
        }
        if let Some(rate) = rate {
            let bytes_per_sec = rate.bits_per_sec / 8 * FRAME_BYTES.0 / FRAME_BYTES.1;
            command.args(["--rate-bytes-per-sec", &bytes_per_sec.to_string()]);
        }
        let mut sender = self.start_command(&mut command)?;
        let mut all = Vec::new();
        for _ in 0..self.scenario.repeats {
            if sender.hear_until("ready", Instant::now() + READY + PATIENCE).is_none() {
                return Err(ToolError::NotReady { what: "the sender" });
            }
            let before = self.before(Some(&sender), &receivers)?;
            let began = Instant::now();
            sender.tell("go");
            let patience = self.patience();
            let Some(heard) = sender.hear_until("finished", Instant::now() + patience) else {
                return Err(ToolError::Stalled { seconds: patience.as_secs_f64() });
            };
            let mut seconds = vec![None; receivers.len()];
            for said in heard.iter().filter(|said| said["event"] == "complete") {
                let member = said["member"].as_u64().and_then(|member| usize::try_from(member).ok());
                if let Some(seconds) = member.and_then(|member| seconds.get_mut(member.checked_sub(1)?)) {
                    *seconds = said["micros"].as_f64().map(|micros| micros / 1e6);
                }
            }
            let left_behind = seconds.iter_mut().zip(&receivers).filter(|(seconds, _)| seconds.is_none());
            for (seconds, receiver) in left_behind.filter(|_| identities.is_some()) {
                *seconds = receiver.hear_until("fetched", began + patience).map(|_| began.elapsed().as_secs_f64());
            }
            let mut seen = self.seen(&before, seconds, std::slice::from_ref(&sender), &receivers)?;
            seen.notes = heard.last().cloned().unwrap_or_default();
            // What they look up to say so belongs to no session, also not to the next.
            let over = receivers.iter().map(|receiver| {
                let said = receiver.hear_until("over", Instant::now() + Duration::from_secs(1))?;
                said.last()?["overflows"].as_u64()
            });
            seen.overflows = over.collect::<Vec<_>>().into_iter().sum();
            all.push(seen);
        }
        Ok(all)
    }

    fn uftp(&self) -> Result<Vec<Seen>, ToolError> {
        let (mut receivers, mut markers, mut files) = (Vec::new(), Vec::new(), Vec::new());
        let mut ids = Vec::new();
        for (number, host) in (1..).zip(self.scenario.hosts()) {
            let place = self.place(&format!("uftp-{number}"))?;
            let (marker, script) = (place.join("done"), place.join("done.sh"));
            let text = format!("#!/bin/sh\n: > {}\n", marker.display());
            fs::write(&script, text).map_err(system("writing a script"))?;
            fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).map_err(system("writing a script"))?;
            let (id, to, script) = (format!("0x{number:08x}"), place.to_string_lossy(), script.to_string_lossy());
            let args = ["-d", "-I", "eth0", "-D", &to, "-U", &id, "-B", PEER_BUFFER_BYTES, "-s", &script];
            receivers.push(self.start(host, Path::new("uftpd"), &args)?);
            files.push(place.join("object"));
            markers.push(marker);
            ids.push(id);
        }
        self.wait_ready(&receivers, "UFTP version")?;
        let rate = match self.scenario.rate {
            // A hundredth is left for its other messages.
            Some(rate) => (rate.bits_per_sec / 1000 * 99 / 100).to_string(),
            None => "-1".to_owned(),
        };
        let (ids, file) = (ids.join(","), self.file.to_string_lossy());
        let args = ["-R", &rate, "-I", "eth0", "-B", PEER_BUFFER_BYTES, "-H", &ids, &file];
        let mut all = Vec::new();
        for _ in 0..self.scenario.repeats.min(PEER_REPEATS_MAX) {
            for path in markers.iter().chain(&files) {
                fs::remove_file(path).ok();
            }
            let mut marked = watch(markers.iter().filter_map(|marker| marker.parent()))?;
            let before = self.before(None, &receivers)?;
            let start = Instant::now();
            let mut sender = self.start(SENDER, Path::new("uftp"), &args)?;
            let mut seconds = vec![None; markers.len()];
            // What a receiver did not get by then it never does; the others count.
            let _all = wait_for(&mut marked, self.patience(), || {
                for (marker, seconds) in markers.iter().zip(&mut seconds) {
                    if seconds.is_none() && marker.exists() {
                        *seconds = Some(start.elapsed().as_secs_f64());
                    }
                }
                seconds.iter().all(Option::is_some).then_some(())
            });
            if !all_ended([&mut sender], start + self.patience()) {
                return Err(ToolError::Stalled { seconds: self.patience().as_secs_f64() });
            }
            all.push(self.seen(&before, seconds, std::slice::from_ref(&sender), &receivers)?);
            self.compare(&files)?;
        }
        Ok(all)
    }

    fn udpcast(&self) -> Result<Seen, ToolError> {
        let (mut receivers, mut files) = (Vec::new(), Vec::new());
        for (number, host) in (1..).zip(self.scenario.hosts()) {
            let file = self.place(&format!("udpcast-{number}"))?.join("object");
            let to = file.to_string_lossy();
            let args =
                ["--file", &to, "--interface", "eth0", "--nokbd", "--no-progress", "--mcast-rdv-address", RENDEZVOUS];
            receivers.push(self.start(host, Path::new("udp-receiver"), &args)?);
            files.push(file);
        }
        self.wait_ready(&receivers, "UDP receiver for")?;
        let (file, members) = (self.file.to_string_lossy(), receivers.len().to_string());
        let mut args = vec!["--file", &file, "--interface", "eth0", "--nokbd", "--no-progress", "--full-duplex"];
        args.extend(["--min-receivers", &members, "--mcast-rdv-address", RENDEZVOUS]);
        let rate = self.scenario.rate.map(|rate| format!("{}k", rate.bits_per_sec / 1000 * 97 / 100));
        args.extend(rate.iter().flat_map(|rate| ["--max-bitrate", rate]));
        let before = self.before(None, &[])?;
        let start = Instant::now();
        let mut sender = self.start(SENDER, Path::new("udp-sender"), &args)?;
        if !all_ended(receivers.iter_mut().chain([&mut sender]), start + self.patience()) {
            return Err(ToolError::Stalled { seconds: self.patience().as_secs_f64() });
        }
        let seconds = ends(&receivers, start);
        let seen = self.seen(&before, seconds, std::slice::from_ref(&sender), &receivers)?;
        self.compare(&files)?;
        Ok(seen)
    }

    fn rsync(&self) -> Result<Seen, ToolError> {
        let place = self.place("rsync")?;
        let config = place.join("rsyncd.conf");
        let from = self.file.parent().unwrap_or(self.directory);
        let text = format!("uid = 0\ngid = 0\nuse chroot = no\n[files]\npath = {}\nread only = yes\n", from.display());
        fs::write(&config, text).map_err(system("writing a configuration"))?;
        let option = format!("--config={}", config.display());
        // The bench listens, and hands each connection to a daemon of its own.
        let listening = self.lab.thread(SENDER, || TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)))?;
        let listener = listening.join().expect("binding does not panic").map_err(system("listening"))?;
        set_socket_timeout(&listener, Timeout::Recv, Some(READY)).map_err(|error| system("listening")(error.into()))?;
        let port = listener.local_addr().map_err(system("listening"))?.port();
        let name = self.file.file_name().unwrap_or_default().to_string_lossy();
        let source = format!("rsync://{}:{port}/files/{name}", SENDER.address());
        let before = self.before(None, &[])?;
        let start = Instant::now();
        let (mut receivers, mut files) = (Vec::new(), Vec::new());
        for (number, host) in (1..).zip(self.scenario.hosts()) {
            let file = self.place(&format!("rsync-{number}"))?.join("object");
            let to = file.to_string_lossy().into_owned();
            receivers.push(self.start(host, Path::new("rsync"), &["--whole-file", "--inplace", &source, &to])?);
            files.push(file);
        }
        let mut daemons = Vec::new();
        for _ in &receivers {
            let (connection, _) = listener.accept().map_err(system("connecting to the rsync daemon"))?;
            let mut command = self.lab.command(SENDER, Path::new("rsync"));
            command.args(["--daemon", &option]);
            let daemon = Watched::start_on(&mut command, Stdio::from(OwnedFd::from(connection)));
            daemons.push(daemon.map_err(system("starting a program"))?);
        }
        // All copies share the sender's link.
        let patience = self.patience() * u32::from(self.scenario.receivers);
        if !all_ended(receivers.iter_mut().chain(&mut daemons), start + patience) {
            return Err(ToolError::Stalled { seconds: patience.as_secs_f64() });
        }
        let seconds = ends(&receivers, start);
        let seen = self.seen(&before, seconds, &daemons, &receivers)?;
        self.compare(&files)?;
        Ok(seen)
    }

    fn bittorrent(&self) -> Result<Seen, ToolError> {
        let python = Path::new(PYTHON);
        let (script, torrent) = (self.directory.join("peer.py"), self.directory.join("torrent"));
        fs::write(&script, PEER_SCRIPT).map_err(system("writing a script"))?;
        let (script, torrent) = (script.to_string_lossy(), torrent.to_string_lossy());
        let mut made = self.start(SENDER, python, &[&script, "make", &self.file.to_string_lossy(), &torrent])?;
        if !all_ended([&mut made], Instant::now() + READY) {
            return Err(ToolError::NotReady { what: "the description" });
        }
        let join = |host: Host, directory: &Path| {
            let directory = directory.to_string_lossy();
            self.start(host, python, &[&script, "join", &torrent, &directory, &host.address().to_string()])
        };
        let mut sender = join(SENDER, self.file.parent().unwrap_or(self.directory))?;
        let (mut receivers, mut files) = (Vec::new(), Vec::new());
        for (number, host) in (1..).zip(self.scenario.hosts()) {
            let place = self.place(&format!("bittorrent-{number}"))?;
            receivers.push(join(host, &place)?);
            files.push(place.join(self.file.file_name().unwrap_or_default()));
        }
        let ready = Instant::now() + READY;
        if receivers.iter().chain([&sender]).any(|peer| peer.hear_until("ready", ready).is_none()) {
            return Err(ToolError::NotReady { what: "a peer" });
        }
        let before = self.before(Some(&sender), &receivers)?;
        sender.tell("");
        // Each connects to those before it, and to the sender.
        let mut known = SENDER.address().to_string();
        for (receiver, host) in receivers.iter_mut().zip(self.scenario.hosts()) {
            receiver.tell(&known);
            known += &format!(" {}", host.address());
        }
        let patience = self.patience();
        let over = Instant::now() + patience;
        let mut seconds = Vec::new();
        for receiver in &receivers {
            let Some(heard) = receiver.hear_until("finished", over) else {
                return Err(ToolError::Stalled { seconds: patience.as_secs_f64() });
            };
            seconds.push(heard.last().and_then(|said| said["micros"].as_f64()).map(|micros| micros / 1e6));
        }
        let seen = self.seen(&before, seconds, std::slice::from_ref(&sender), &receivers)?;
        self.compare(&files)?;
        Ok(seen)
    }

    /// An empty directory.
    fn place(&self, name: &str) -> Result<PathBuf, ToolError> {
        let path = self.directory.join(name);
        if path.exists() {
            fs::remove_dir_all(&path).map_err(system("emptying a directory"))?;
        }
        fs::create_dir_all(&path).map_err(system("making a directory"))?;
        Ok(path)
    }

    /// Waits until every receiver says what it says once it has joined the group.
    fn wait_ready(&self, receivers: &[Watched], remark: &str) -> Result<(), ToolError> {
        let deadline = Instant::now() + READY;
        if receivers.iter().all(|receiver| receiver.remarks(remark, deadline)) {
            Ok(())
        } else {
            Err(ToolError::NotReady { what: "a receiver" })
        }
    }

    fn compare(&self, files: &[PathBuf]) -> Result<(), ToolError> {
        for (receiver, file) in (1..).zip(files) {
            let mut written = watch(file.parent())?;
            let same = wait_for(&mut written, CLOSING, || is_same(self.file, file).ok().filter(|same| *same));
            if same.is_none() {
                return Err(ToolError::Wrong { receiver });
            }
        }
        Ok(())
    }
}

fn watch<'a>(directories: impl IntoIterator<Item = &'a Path>) -> Result<Changes, ToolError> {
    Changes::of(directories).map_err(system("watching a directory"))
}

fn system(what: &'static str) -> impl Fn(std::io::Error) -> ToolError {
    move |source| ToolError::System { what, source }
}

/// Processor time of all, in seconds.
fn cpu_seconds(processes: &[Watched]) -> f64 {
    processes.iter().map(Watched::cpu_seconds).sum()
}

/// When each ended well, in seconds.
fn ends(receivers: &[Watched], start: Instant) -> Vec<Option<f64>> {
    let well = |receiver: &Watched| receiver.ended.filter(|(_, well)| *well);
    receivers.iter().map(|receiver| well(receiver).map(|(at, _)| at.duration_since(start).as_secs_f64())).collect()
}

fn is_same(one: &Path, other: &Path) -> std::io::Result<bool> {
    let (mut one, mut other) = (File::open(one)?, File::open(other)?);
    let (mut left, mut right) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    if one.metadata()?.len() != other.metadata()?.len() {
        return Ok(false);
    }
    loop {
        let read = one.read(&mut left)?;
        if read == 0 {
            return Ok(true);
        }
        other.read_exact(&mut right[..read])?;
        if left[..read] != right[..read] {
            return Ok(false);
        }
    }
}
