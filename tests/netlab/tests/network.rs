//! What the test network itself promises.

use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use pressrun_netlab::process::Process;
use pressrun_netlab::{Counters, Host, Lab, Rate, Spec, lab};
use rustix::net::sockopt::set_socket_recv_buffer_size_force;

const GROUP: Ipv4Addr = Ipv4Addr::new(239, 255, 77, 1);
const PORT: u16 = 7707;
const SOON: Duration = Duration::from_secs(10);

/// Whether a connection from one host to another is accepted.
fn reaches(lab: &Lab, from: Host, to: Host) -> bool {
    let (ready, is_ready) = mpsc::channel();
    let accepting = lab
        .thread(to, move || {
            let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("binds");
            ready.send(listener.local_addr().expect("an address").port()).expect("somebody waits");
            listener
        })
        .expect("a thread");
    let port = is_ready.recv_timeout(SOON).expect("listens");
    // The socket stays in its namespace, whoever holds it.
    let _listener = accepting.join().expect("listens");
    let address = SocketAddr::from((to.address(), port));
    let connecting = lab.thread(from, move || TcpStream::connect_timeout(&address, Duration::from_secs(2)).is_ok());
    connecting.expect("a thread").join().expect("connects or not")
}

fn namespaces_with(prefix: &str) -> usize {
    let list = Command::new("ip").args(["netns", "list"]).output().expect("ip");
    String::from_utf8_lossy(&list.stdout).lines().filter(|line| line.starts_with(prefix)).count()
}

/// Listens on a host for datagrams to the group; gives their number at the first silence.
fn listen(lab: &Lab, host: Host) -> (std::thread::JoinHandle<u64>, mpsc::Receiver<()>) {
    let (ready, is_ready) = mpsc::channel();
    let address = host.address();
    let listener = lab
        .thread(host, move || {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT)).expect("binds");
            // Room for all that any test sends, however late this thread gets its turn.
            set_socket_recv_buffer_size_force(&socket, 16 << 20).expect("root may have a large buffer");
            socket.join_multicast_v4(&GROUP, &address).expect("joins");
            socket.set_read_timeout(Some(Duration::from_millis(700))).expect("a timeout");
            ready.send(()).expect("somebody waits");
            let mut heard = 0;
            while socket.recv(&mut [0; 2048]).is_ok() {
                heard += 1;
            }
            heard
        })
        .expect("a thread");
    (listener, is_ready)
}

fn multicast(lab: &Lab, from: Host, datagrams: u32, bytes: usize) {
    lab.thread(from, move || {
        let socket = UdpSocket::bind((from.address(), 0)).expect("binds");
        for _ in 0..datagrams {
            socket.send_to(&vec![7; bytes], (GROUP, PORT)).expect("sends");
        }
    })
    .expect("a thread")
    .join()
    .expect("sends");
}

#[test]
fn every_server_reaches_the_ccm_and_the_servers_of_other_segments() {
    let lab = Lab::up(Spec::of(2, 2)).expect("a lab");
    for server in lab.spec().servers() {
        assert!(reaches(&lab, server, Host::Ccm), "{server} to ccm");
        assert!(reaches(&lab, Host::Ccm, server), "ccm to {server}");
    }
    assert!(reaches(&lab, Host::Server(1, 1), Host::Server(1, 2)));
    assert!(reaches(&lab, Host::Server(1, 1), Host::Server(2, 2)));
}

#[test]
fn a_host_that_is_cut_off_is_reached_by_nobody_until_it_is_joined_again() {
    let lab = Lab::up(Spec::of(1, 2)).expect("a lab");
    let server = Host::Server(1, 2);
    lab.set_cut_off(server, true).expect("cut");
    assert!(!reaches(&lab, Host::Server(1, 1), server));
    lab.set_cut_off(server, false).expect("joined");
    assert!(reaches(&lab, Host::Server(1, 1), server));
}

#[test]
fn multicast_reaches_every_server_of_the_segment_and_nobody_else() {
    let lab = Lab::up(Spec::of(2, 3)).expect("a lab");
    let hosts = [Host::Server(1, 2), Host::Server(1, 3), Host::Server(2, 1), Host::Ccm];
    let listeners: Vec<_> = hosts.map(|host| (host, listen(&lab, host))).into();
    for (_, (_, ready)) in &listeners {
        ready.recv_timeout(SOON).expect("listens");
    }
    multicast(&lab, Host::Server(1, 1), 20, 500);
    for (host, (listener, _)) in listeners {
        let expected = if matches!(host, Host::Server(1, _)) { 20 } else { 0 };
        assert_eq!(listener.join().expect("listens"), expected, "{host}");
    }
}

#[test]
fn the_counters_count_each_link_for_itself() {
    let lab = Lab::up(Spec::of(2, 3)).expect("a lab");
    let lan = |segment, server| lab.lan_counters(segment, server).expect("counters");
    let servers = [(1, 1), (1, 2), (1, 3), (2, 1)];
    let before: Vec<Counters> = servers.map(|(segment, server)| lan(segment, server)).into();
    let wan_before = lab.wan_counters(1).expect("counters");
    multicast(&lab, Host::Server(1, 1), 1000, 1000);
    let after: Vec<Counters> = servers.map(|(segment, server)| lan(segment, server)).into();
    let carried: Vec<Counters> = after.into_iter().zip(before).map(|(after, before)| after.since(before)).collect();
    let once = 1_042_000..1_050_000;
    assert!(once.contains(&carried[0].tx_bytes), "{carried:?}");
    assert!(once.contains(&carried[1].rx_bytes) && once.contains(&carried[2].rx_bytes), "{carried:?}");
    assert!(carried[3].rx_bytes < 5_000, "{carried:?}");
    let wan = lab.wan_counters(1).expect("counters").since(wan_before);
    assert!(wan.rx_bytes + wan.tx_bytes < 5_000, "{wan:?}");
}

#[test]
fn multicast_is_lost_at_the_rate_asked_for_by_each_server_alone() {
    let lab = Lab::up(Spec { lan_loss: Some(0.2), ..Spec::of(1, 3) }).expect("a lab");
    lab.set_loss(Host::Server(1, 3), None).expect("no loss");
    let listeners = [2, 3].map(|server| listen(&lab, Host::Server(1, server)));
    for (_, ready) in &listeners {
        ready.recv_timeout(SOON).expect("listens");
    }
    multicast(&lab, Host::Server(1, 1), 3000, 100);
    let [lossy, whole] = listeners.map(|(listener, _)| listener.join().expect("listens"));
    // Ten standard deviations around the mean.
    assert!((2180..=2620).contains(&lossy), "{lossy} of 3000 at 20 % loss");
    assert_eq!(whole, 3000);
}

#[test]
fn a_slow_link_is_slow() {
    let lab = Lab::up(Spec { lan_rate: Some(Rate::mbit(8)), ..Spec::of(1, 2) }).expect("a lab");
    let (listener, ready) = listen(&lab, Host::Server(1, 2));
    ready.recv_timeout(SOON).expect("listens");
    let before = lab.lan_counters(1, 2).expect("counters");
    let start = std::time::Instant::now();
    multicast(&lab, Host::Server(1, 1), 2000, 1000);
    listener.join().expect("listens");
    let took = start.elapsed();
    let carried = lab.lan_counters(1, 2).expect("counters").since(before).rx_bytes;
    // What fits the bucket goes at once, the rest at 1 MB a second.
    let most = 1_000_000.0 * took.as_secs_f64() + 300_000.0;
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let carried = carried as f64;
    assert!(carried < most, "{carried} bytes in {took:?}");
    lab.set_lan_rate(1, None).expect("fast again");
}

#[test]
fn a_panic_takes_the_lab_and_its_processes_down() {
    let mut found = None;
    let result = catch_unwind(AssertUnwindSafe(|| {
        let lab = Lab::up(Spec::of(1, 1)).expect("a lab");
        let prefix = lab.namespace(Host::Ccm).trim_end_matches("ccm").to_owned();
        let process = Process::start(lab.command(Host::Ccm, "sleep").arg("1000")).expect("sleeps");
        assert_eq!(namespaces_with(&prefix), 4);
        found = Some((prefix, process));
        panic!("as a failing test does");
    }));
    assert!(result.is_err());
    let (prefix, mut process) = found.expect("the lab was up");
    assert_eq!(namespaces_with(&prefix), 0);
    let ended = process.wait(SOON);
    assert!(ended.is_some_and(|status| !status.success()), "{ended:?}");
}

#[test]
fn what_a_killed_process_leaves_is_swept() {
    // A process that has certainly ended, and whose number is not given again so soon.
    let mut ended = Command::new("true").spawn().expect("true");
    let pid = ended.id();
    ended.wait().expect("ends");
    let orphan = format!("pr-{pid}-1-ccm");
    assert!(Command::new("ip").args(["netns", "add", &orphan]).status().expect("ip").success());
    let mut inside = Command::new("ip");
    inside.args(["netns", "exec", &orphan, "sh", "-c", "echo inside; exec sleep 1000"]).stdout(Stdio::piped());
    let mut process = Process::start(&mut inside).expect("sleeps");
    let mut said = String::new();
    BufReader::new(process.stdout().expect("a pipe")).read_line(&mut said).expect("runs in the namespace");
    assert_eq!(said, "inside\n");
    lab::sweep().expect("sweeps");
    assert_eq!(namespaces_with(&orphan), 0);
    assert!(process.wait(SOON).is_some());
}
