//! The network: made, slowed, cut, counted, and always taken down again.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use rustix::thread::LinkNameSpaceType;

use crate::address::{Host, Rate};
use crate::command::{LabError, inside, ip_batch, run};
use crate::multicast::snooping;
use crate::wait::{End, Signal as _};

/// Where iproute2 keeps the names of namespaces.
const NAMESPACES: &str = "/run/netns";
/// Names of labs that belong to a process and end with it: this, its id, a counter, the host.
const OWNED: &str = "pr-";
/// Names of the lab that stands until it is taken down by hand.
const STANDING: &str = "prlab-";

/// What a lab shall be like.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spec {
    /// Number of segments, 1 to 99.
    pub segments: u8,
    /// Number of servers in each, 1 to 200.
    pub servers: u8,
    /// Rate of each segment's WAN link, in both directions. `None`: as fast as the machine.
    pub wan_rate: Option<Rate>,
    /// Rate of each server's link to its LAN, in both directions. `None`: as fast as the machine.
    pub lan_rate: Option<Rate>,
    /// Share of multicast datagrams that each server loses, by its own dice, 0 to 1.
    pub lan_loss: Option<f64>,
    /// Whether the segments' switches look who has joined which group, and send multicast to those only.
    /// Without it they send it everywhere.
    pub snooping: bool,
    /// Whether the servers have addresses of IPv6, and none of IPv4.
    pub ipv6: bool,
}

impl Spec {
    /// Segments and servers on perfect links.
    #[must_use]
    pub const fn of(segments: u8, servers: u8) -> Self {
        Self { segments, servers, wan_rate: None, lan_rate: None, lan_loss: None, snooping: false, ipv6: false }
    }

    /// All servers.
    pub fn servers(&self) -> impl Iterator<Item = Host> + use<> {
        let per_segment = self.servers;
        (1..=self.segments).flat_map(move |segment| (1..=per_segment).map(move |server| Host::Server(segment, server)))
    }

    /// All hosts.
    pub fn hosts(&self) -> impl Iterator<Item = Host> + use<> {
        [Host::Ccm, Host::Wan].into_iter().chain((1..=self.segments).map(Host::Router)).chain(self.servers())
    }
}

/// Bytes that an interface has carried, link headers included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Received by the host (for a WAN link: by the segment).
    pub rx_bytes: u64,
    /// Sent by the host (for a WAN link: by the segment).
    pub tx_bytes: u64,
}

impl Counters {
    /// What was carried since an earlier reading.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self { rx_bytes: self.rx_bytes - earlier.rx_bytes, tx_bytes: self.tx_bytes - earlier.tx_bytes }
    }
}

/// A network that is up. Dropping it kills what runs on it and removes it, also while a panic
/// unwinds; what a killed process leaves behind is removed by the next [`sweep`].
#[derive(Debug)]
pub struct Lab {
    prefix: String,
    spec: Spec,
    remove_on_drop: bool,
}

impl Lab {
    /// Makes a lab that ends with this value, after a [`sweep`].
    ///
    /// # Errors
    /// [`LabError`] when not run by root, a tool is missing, or the kernel refuses.
    pub fn up(spec: Spec) -> Result<Self, LabError> {
        static COUNTER: AtomicU32 = AtomicU32::new(1);
        check(spec)?;
        sweep()?;
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        Self::make(format!("{OWNED}{}-{number}-", std::process::id()), spec, true)
    }

    /// Makes the lab that stands until [`Lab::take_down_standing`], in place of a former one.
    ///
    /// # Errors
    /// As [`Lab::up`].
    pub fn up_standing(spec: Spec) -> Result<Self, LabError> {
        check(spec)?;
        Self::make(STANDING.to_owned(), spec, false)
    }

    /// Removes the standing lab; nothing happens when there is none.
    ///
    /// # Errors
    /// [`LabError`] when a namespace cannot be removed.
    pub fn take_down_standing() -> Result<(), LabError> {
        remove(&namespaces(STANDING)?)
    }

    /// The hosts of the standing lab with their namespaces.
    ///
    /// # Errors
    /// [`LabError::NotUp`] when there is none.
    pub fn standing_hosts() -> Result<Vec<(Host, String)>, LabError> {
        let mut hosts: Vec<(Host, String)> = namespaces(STANDING)?
            .into_iter()
            .filter_map(|name| Some((name.strip_prefix(STANDING)?.parse().ok()?, name)))
            .collect();
        hosts.sort();
        if hosts.is_empty() { Err(LabError::NotUp) } else { Ok(hosts) }
    }

    fn make(prefix: String, spec: Spec, remove_on_drop: bool) -> Result<Self, LabError> {
        remove(&namespaces(&prefix)?)?;
        // Exists before the first namespace does, so that a failure half-way removes them.
        let mut lab = Self { prefix, spec, remove_on_drop: true };
        lab.build()?;
        lab.remove_on_drop = remove_on_drop;
        Ok(lab)
    }

    fn build(&self) -> Result<(), LabError> {
        let lines: String = self.spec.hosts().map(|host| format!("netns add {}\n", self.namespace(host))).collect();
        ip_batch(None, &lines)?;
        for host in self.spec.hosts() {
            let mut settings =
                vec!["-q", "-w", "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1"];
            match host {
                Host::Wan | Host::Router(_) => settings.push("net.ipv4.ip_forward=1"),
                Host::Ccm | Host::Server(..) => (),
            }
            inside(&self.namespace(host), "sysctl", &settings, "")?;
        }
        self.build_wan()?;
        for segment in 1..=self.spec.segments {
            self.build_segment(segment)?;
        }
        if self.spec.ipv6 {
            self.build_ipv6()?;
        }
        for segment in 1..=self.spec.segments {
            self.set_wan_rate(segment, self.spec.wan_rate)?;
            self.set_lan_rate(segment, self.spec.lan_rate)?;
        }
        self.spec.servers().try_for_each(|server| self.set_loss(server, self.spec.lan_loss))
    }

    fn build_wan(&self) -> Result<(), LabError> {
        let ccm = self.namespace(Host::Ccm);
        let mut lines = format!(
            "link set lo up\n\
             link add ccm type veth peer name eth0 netns {ccm}\n\
             address add 10.77.0.1/24 dev ccm\n\
             link set ccm up\n"
        );
        for segment in 1..=self.spec.segments {
            let router = self.namespace(Host::Router(segment));
            let uplink = 100 + segment;
            lines += &format!(
                "link add s{segment} type veth peer name wan0 netns {router}\n\
                 address add 10.77.{uplink}.1/30 dev s{segment}\n\
                 link set s{segment} up\n\
                 route add 10.77.{segment}.0/24 via 10.77.{uplink}.2\n"
            );
        }
        ip_batch(Some(&self.namespace(Host::Wan)), &lines)?;
        ip_batch(
            Some(&ccm),
            "link set lo up\naddress add 10.77.0.2/24 dev eth0\nlink set eth0 up\nroute add default via 10.77.0.1\n",
        )
    }

    fn build_segment(&self, segment: u8) -> Result<(), LabError> {
        let uplink = 100 + segment;
        let snooping = snooping(self.spec.snooping);
        let mut lines = format!(
            "link set lo up\n\
             address add 10.77.{uplink}.2/30 dev wan0\n\
             link set wan0 up\n\
             route add default via 10.77.{uplink}.1\n\
             link add lan0 type bridge mcast_snooping 0\n\
             address add 10.77.{segment}.1/24 dev lan0\n\
             link set lan0 up\n\
             {snooping}"
        );
        for server in 1..=self.spec.servers {
            let namespace = self.namespace(Host::Server(segment, server));
            lines += &format!(
                "link add w{server} type veth peer name eth0 netns {namespace}\n\
                 link set w{server} master lan0\n\
                 link set w{server} up\n"
            );
        }
        ip_batch(Some(&self.namespace(Host::Router(segment))), &lines)?;
        for server in 1..=self.spec.servers {
            let host = Host::Server(segment, server);
            let lines = format!(
                "link set lo up\n\
                 address add {}/24 dev eth0\n\
                 link set eth0 up\n\
                 route add default via 10.77.{segment}.1\n",
                host.address()
            );
            ip_batch(Some(&self.namespace(host)), &lines)?;
        }
        Ok(())
    }

    /// What it was made to be.
    #[must_use]
    pub fn spec(&self) -> Spec {
        self.spec
    }

    /// The name of a host's namespace.
    #[must_use]
    pub fn namespace(&self, host: Host) -> String {
        format!("{}{host}", self.prefix)
    }

    /// Sets the rate of a segment's WAN link in both directions.
    ///
    /// # Errors
    /// [`LabError`] when the kernel refuses.
    pub fn set_wan_rate(&self, segment: u8, rate: Option<Rate>) -> Result<(), LabError> {
        self.set_rate(Host::Router(segment), "wan0", rate)?;
        self.set_rate(Host::Wan, &format!("s{segment}"), rate)
    }

    /// Sets the rate of every server's link to a segment's LAN in both directions.
    ///
    /// # Errors
    /// [`LabError`] when the kernel refuses.
    pub fn set_lan_rate(&self, segment: u8, rate: Option<Rate>) -> Result<(), LabError> {
        (1..=self.spec.servers).try_for_each(|server| self.set_server_rate(segment, server, rate))
    }

    /// Sets the rate of one server's link to its LAN in both directions.
    ///
    /// # Errors
    /// [`LabError`] when the kernel refuses.
    pub fn set_server_rate(&self, segment: u8, server: u8, rate: Option<Rate>) -> Result<(), LabError> {
        self.set_rate(Host::Server(segment, server), "eth0", rate)?;
        self.set_rate(Host::Router(segment), &format!("w{server}"), rate)
    }

    /// Whether a server's link takes several datagrams in one piece. A piece counts as one datagram
    /// where datagrams are lost or counted, so it is switched off where either is to be true.
    ///
    /// # Errors
    /// [`LabError`] when the kernel refuses, or `ethtool` is missing.
    pub fn set_segmentation_offload(&self, server: Host, on: bool) -> Result<(), LabError> {
        let state = if on { "on" } else { "off" };
        let settings = ["-K", "eth0", "tx-udp-segmentation", state];
        inside(&self.namespace(server), "ethtool", &settings, "").map(drop)
    }

    fn set_rate(&self, host: Host, interface: &str, rate: Option<Rate>) -> Result<(), LabError> {
        let namespace = self.namespace(host);
        let Some(rate) = rate else {
            let qdiscs = run("tc", &["-n", &namespace, "qdisc", "show", "dev", interface], "")?;
            if qdiscs.contains("tbf") {
                run("tc", &["-n", &namespace, "qdisc", "del", "dev", interface, "root"], "")?;
            }
            return Ok(());
        };
        let bits = format!("{}bit", rate.bits_per_sec);
        let burst = rate.burst_bytes().to_string();
        let args = [
            "-n", &namespace, "qdisc", "replace", "dev", interface, "root", "tbf", "rate", &bits, "burst", &burst,
            "latency", "50ms",
        ];
        run("tc", &args, "").map(drop)
    }

    /// Leaves a server its LAN only: whoever asks a name server there is told at once that there is
    /// none, and does not wait for it.
    ///
    /// # Errors
    /// [`LabError`] when the kernel refuses.
    pub fn keep_in_lan(&self, server: Host) -> Result<(), LabError> {
        let lines = "route replace unreachable default\nroute replace 224.0.0.0/4 dev eth0\n";
        ip_batch(Some(&self.namespace(server)), lines)
    }

    /// Sets the share of multicast datagrams that a server loses, 0 to 1.
    ///
    /// # Errors
    /// [`LabError`] when the kernel refuses.
    pub fn set_loss(&self, server: Host, loss: Option<f64>) -> Result<(), LabError> {
        let rule = loss.map(|loss| {
            // Rounded to whole millionths.
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 1 million")]
            let millionths = (loss.clamp(0.0, 1.0) * 1_000_000.0).round() as u32;
            format!("numgen random mod 1000000 < {millionths} drop")
        });
        self.set_loss_rule(server, rule.as_deref())
    }

    /// Has a server lose `burst` multicast datagrams in a row out of every `period`. Servers with
    /// different periods lose different ones.
    ///
    /// # Errors
    /// [`LabError`] when the kernel refuses.
    pub fn set_burst_loss(&self, server: Host, burst: u32, period: u32) -> Result<(), LabError> {
        self.set_loss_rule(server, Some(&format!("numgen inc mod {period} < {burst} drop")))
    }

    fn set_loss_rule(&self, server: Host, rule: Option<&str>) -> Result<(), LabError> {
        let namespace = self.namespace(server);
        let mut rules = "table inet pressrun_loss\ndelete table inet pressrun_loss\n".to_owned();
        if let Some(rule) = rule {
            rules += &format!(
                "table inet pressrun_loss {{\n chain ingress {{\n\
                 type filter hook prerouting priority -300; policy accept;\n\
                 ip daddr 224.0.0.0/4 {rule}\n }}\n}}\n"
            );
        }
        if rule.is_some() || inside(&namespace, "nft", &["list", "tables"], "")?.contains("pressrun_loss") {
            inside(&namespace, "nft", &["-f", "-"], &rules)?;
        }
        Ok(())
    }

    /// Cuts a host off from all others, or joins it again. Its processes, addresses and routes stay.
    ///
    /// # Errors
    /// [`LabError`] when the kernel refuses.
    pub fn set_cut_off(&self, host: Host, cut_off: bool) -> Result<(), LabError> {
        let mut rules = "table inet pressrun_cut\ndelete table inet pressrun_cut\n".to_owned();
        if cut_off {
            for (chain, hook, own) in
                [("ingress", "input", "iif"), ("through", "forward", "iif"), ("egress", "output", "oif")]
            {
                rules += &format!(
                    "table inet pressrun_cut {{\n chain {chain} {{\n\
                     type filter hook {hook} priority -300; policy accept;\n {own} != lo drop\n }}\n}}\n"
                );
            }
        }
        inside(&self.namespace(host), "nft", &["-f", "-"], &rules).map(drop)
    }

    /// What a segment's WAN link has carried.
    ///
    /// # Errors
    /// [`LabError`] when there is no such segment.
    pub fn wan_counters(&self, segment: u8) -> Result<Counters, LabError> {
        counters(&self.namespace(Host::Router(segment)), "wan0")
    }

    /// What a server's link to its LAN has carried.
    ///
    /// # Errors
    /// [`LabError`] when there is no such server.
    pub fn lan_counters(&self, segment: u8, server: u8) -> Result<Counters, LabError> {
        counters(&self.namespace(Host::Server(segment, server)), "eth0")
    }

    /// A command that runs on a host and is killed when the thread that starts it ends. Arguments,
    /// environment and files are added by the caller; start it with [`crate::process::Process::start`].
    #[must_use]
    pub fn command(&self, host: Host, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.namespace(host), "setpriv", "--pdeathsig", "KILL", "--"])
            .arg(program.as_ref());
        command
    }

    /// Runs a closure on a thread of this process whose sockets are those of a host.
    ///
    /// # Errors
    /// [`LabError::File`] when there is no such host.
    pub fn thread<T: Send + 'static>(
        &self,
        host: Host,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<JoinHandle<T>, LabError> {
        let path = PathBuf::from(NAMESPACES).join(self.namespace(host));
        let namespace = File::open(&path).map_err(|source| LabError::File { path, source })?;
        Ok(thread::spawn(move || {
            rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                .expect("root may enter a namespace that it made");
            work()
        }))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if !self.remove_on_drop {
            return;
        }
        if let Err(error) = namespaces(&self.prefix).and_then(|names| remove(&names)) {
            // A second panic while one unwinds would abort and hide the first.
            eprintln!("the lab {} could not be removed: {error}", self.prefix);
        }
    }
}

fn check(spec: Spec) -> Result<(), LabError> {
    if !rustix::process::geteuid().is_root() {
        return Err(LabError::NotRoot);
    }
    if !(1..=99).contains(&spec.segments) || !(1..=200).contains(&spec.servers) {
        return Err(LabError::Size { segments: spec.segments, servers: spec.servers });
    }
    Ok(())
}

/// What an interface has carried.
///
/// # Errors
/// [`LabError`] when there is no such namespace or interface.
pub fn counters(namespace: &str, interface: &str) -> Result<Counters, LabError> {
    let args = ["-n", namespace, "-json", "-statistics", "link", "show", "dev", interface];
    let answer = run("ip", &args, "")?;
    let understood = || {
        let links: serde_json::Value = serde_json::from_str(&answer).ok()?;
        let stats = links.get(0)?.get("stats64")?;
        let bytes = |direction: &str| stats.get(direction)?.get("bytes")?.as_u64();
        Some(Counters { rx_bytes: bytes("rx")?, tx_bytes: bytes("tx")? })
    };
    understood().ok_or_else(|| LabError::Answer { command: format!("ip {}", args.join(" ")) })
}

/// Removes the labs of processes that are gone.
///
/// # Errors
/// [`LabError`] when a namespace cannot be removed.
pub fn sweep() -> Result<(), LabError> {
    let orphans: Vec<String> = namespaces(OWNED)?
        .into_iter()
        .filter(|name| {
            let owner = name.strip_prefix(OWNED).and_then(|rest| rest.split('-').next());
            owner.is_some_and(|pid| pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists())
        })
        .collect();
    // Another process may sweep at the same time: what is gone is well.
    for orphan in orphans {
        match remove(std::slice::from_ref(&orphan)) {
            Err(error) if Path::new(NAMESPACES).join(&orphan).exists() => return Err(error),
            Ok(()) | Err(_) => (),
        }
    }
    Ok(())
}

/// Removes the labs of this process, also those that are in use: for a process that is told to end.
///
/// # Errors
/// [`LabError`] when a namespace cannot be removed.
pub fn remove_own() -> Result<(), LabError> {
    remove(&namespaces(&format!("{OWNED}{}-", std::process::id()))?)
}

fn namespaces(prefix: &str) -> Result<Vec<String>, LabError> {
    let path = PathBuf::from(NAMESPACES);
    let list = match std::fs::read_dir(&path) {
        Ok(list) => list,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(LabError::File { path, source }),
    };
    let names = list.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.filter(|name| name.starts_with(prefix)).collect())
}

/// Kills what runs in the namespaces and removes them.
fn remove(names: &[String]) -> Result<(), LabError> {
    for name in names {
        kill_all(name)?;
        run("ip", &["netns", "delete", name], "")?;
    }
    Ok(())
}

fn kill_all(namespace: &str) -> Result<(), LabError> {
    let own = rustix::process::getpid();
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let pids = run("ip", &["netns", "pids", namespace], "")?;
        let alive: Vec<Pid> = pids
            .lines()
            .filter_map(|line| Pid::from_raw(line.trim().parse().ok()?))
            .filter(|pid| *pid != own && !is_zombie(*pid))
            .collect();
        if alive.is_empty() || Instant::now() > deadline {
            return Ok(());
        }
        for pid in alive {
            // Gone in the meantime is well.
            let Ok(mut end) = End::of(pid) else { continue };
            rustix::process::kill_process(pid, Signal::KILL).ok();
            end.wait(deadline);
        }
    }
}

fn is_zombie(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with('Z'))
}
