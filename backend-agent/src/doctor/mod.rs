//! `pressrun doctor`: whether multicast works on this server's segment, between whom, at which rate and
//! loss, and why not.
//!
//! It opens the segment's sockets itself, beside a running agent, and speaks with the agent's identity in
//! datagrams of its own ([`lan_channel::doctor`]). Agents answer what they heard, and one after another
//! multicast a short burst that is counted here ([`protocol::doctor`]). What that and the server itself
//! show ([`local`]) becomes findings in a pure function ([`diagnose`]).

pub mod diagnose;
pub mod finding;
mod local;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use common::errors::chain;
use common::ids::{SegmentName, ServerId, ServerName};
use common::keys::SecretKey;
use lan_channel::data::FrameBatch;
use lan_channel::doctor::{DoctorChannel, fresh_group, is_of_doctor};
use lan_channel::port::{ControlPort, Hears, Wishes};
use lan_channel::sockets::{ChannelAddresses, ChannelError, Channels, DATA_BUFFER_BYTES, scoped};
use protocol::doctor::{Answer, BURST_GAP, BURST_TIME_MAX, Message};
pub use protocol::reach::Transport;
use serde::Serialize;
use tokio::net::UdpSocket;
use tokio::time::Instant;

use crate::agent::moving;
use crate::identity::{Identity, IdentityError};
use crate::lan::Lan;
use crate::peers::Peers;
use crate::worker::wall_time;
use diagnose::{Burst, Observations, PeerSeen, diagnose};
use finding::FindingView;

/// Probes that are multicast.
const PROBES: u32 = 20;
/// Share of the time that is for probes, in percent; the rest is for bursts.
const PROBE_PERCENT: u32 = 40;
/// How often an agent is asked that does not answer, or may not send yet.
const ASKED_MAX: u32 = 3;
/// How long answers may take.
const ANSWER_WAIT: Duration = Duration::from_millis(300);
/// How long frames of a burst may arrive after it is said to be over.
const LATE_FRAMES: Duration = Duration::from_millis(100);
/// Frames of a burst: 1.2 MB/s for half a second.
const BURST_FRAMES: u32 = 500;
const BURST_FRAME_BYTES: u16 = 1_200;
const DATAGRAM_BYTES_MAX: usize = 65_536;
/// Most other servers that are looked at.
const PEERS_MAX: usize = 1_000;

/// What to examine.
#[derive(Debug, Clone)]
pub struct Options {
    /// The agent's data directory.
    pub data: PathBuf,
    /// What its configuration says of the segment.
    pub lan: Lan,
    /// Interface of the segment, by name or address. `None`: the only one there is besides loopback.
    pub interface: Option<String>,
    /// How long it may take.
    pub time: Duration,
}

/// Why nothing could be examined.
#[derive(Debug, thiserror::Error)]
pub enum DoctorError {
    /// The identity cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// There is none.
    #[error("no server is enrolled in {}; say with --data where its agent keeps its identity", data.display())]
    NotEnrolled {
        /// The data directory.
        data: PathBuf,
    },
    /// The segment's channels could not be joined.
    #[error("the segment's channels could not be joined")]
    Channels(#[from] ChannelError),
    /// Something of the system failed.
    #[error("{what} failed")]
    System {
        /// What.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// This server.
    pub server: ServerName,
    /// Its segment.
    pub segment: SegmentName,
    /// Everything that was observed.
    pub observations: Observations,
    /// What is wrong, with what to do.
    pub findings: Vec<FindingView>,
}

/// Examines the segment of the server whose data directory this is.
///
/// # Errors
/// [`DoctorError`] when nothing could be examined; what is wrong is no error.
pub async fn examine(options: &Options) -> Result<Report, DoctorError> {
    let data = &options.data;
    let identity = Identity::load(data)?.ok_or_else(|| DoctorError::NotEnrolled { data: data.clone() })?;
    let system = |what| move |source| DoctorError::System { what, source };
    let (transport, network) = (options.lan.transport, &options.lan.network);
    let family = network.family;
    let attachment = network.attachment(options.interface.as_deref())?;
    let began = network.addresses(ChannelAddresses::of(identity.cluster, &identity.segment));
    // The segment may have been moved since.
    let control = moving::remembered(data).map_or(began.control, |(_, channel)| channel);
    let addresses = ChannelAddresses { control, ..began };
    let hears = if transport == Transport::Unicast { Hears::Nothing } else { Hears::All };
    let wishes = Wishes { port: ControlPort::Any, hears, ttl: network.ttl };
    let drops_before = local::buffer_drops(family);
    let channels = Channels::join_with(attachment, addresses, wishes)?;
    let mut interfaces = local::interfaces(family).map_err(system("listing the interfaces"))?;
    let here = &channels.attachment;
    let at = interfaces.iter().position(|(interface, _)| interface.address == here.own && interface.name == here.name);
    let gone = || ChannelError::Interface { interface: here.name.clone(), family };
    let (own, _) = interfaces.remove(at.ok_or_else(gone)?);

    let own_address = channels.control_unicast.local_addr().map_err(system("listening to the segment"))?;
    let mut peers = Peers::new(identity.server, own_address, options.lan.peers.clone());
    peers.load(data);
    let mut examination = Examination::new(&identity, channels, transport, &peers);
    // Where the agent of this server listens, if no other on this machine was first; perhaps by another
    // interface.
    let (port, _) = options.lan.port.wish(began);
    let all = interfaces.iter().map(|(interface, _)| interface).chain([&own]);
    let here = &examination.channels.attachment;
    examination.own_agent = all.map(|interface| scoped(SocketAddr::new(interface.address, port), here)).collect();
    let reread = |peers: &mut Peers| peers.load(data);
    examination.run(options.time, &mut peers, reread).await.map_err(system("listening to the segment"))?;

    let (drop_rules, rules_readable) = local::drop_rules(family);
    let observations = Observations {
        transport,
        send_error: examination.send_error.take(),
        buffer_wanted_bytes: DATA_BUFFER_BYTES,
        buffer_granted_bytes: examination.channels.data_buffer_bytes,
        buffer_drops: local::buffer_drops(family).saturating_sub(drops_before),
        bridges: local::bridges(&own.name),
        interface: own,
        other_interfaces: interfaces.into_iter().filter(|(_, is_loopback)| !is_loopback).map(|(i, _)| i).collect(),
        drop_rules,
        rules_readable,
        own_agent: examination.own_agent_answers,
        probes: examination.probes,
        peers: examination.peers_seen(),
    };
    let findings = diagnose(&observations).iter().map(finding::Finding::view).collect();
    Ok(Report { server: identity.name, segment: identity.segment, observations, findings })
}

/// What is known of another server.
#[derive(Debug)]
struct Seen {
    name: String,
    address: SocketAddr,
    answer: Option<Answer>,
    /// It has answered before, and shall say what it has heard by now.
    is_asked: bool,
    burst: Option<Burst>,
    fresh: Option<Burst>,
}

/// Test frames of the burst that is awaited.
#[derive(Debug, Default)]
struct Frames {
    numbers: BTreeSet<u32>,
    bytes: u64,
    first: Option<Instant>,
    last: Option<Instant>,
    /// That the sender says it has sent.
    sent: Option<u32>,
    is_refused: bool,
}

struct Examination {
    channels: Channels,
    doctor: DoctorChannel,
    key: SecretKey,
    own: ServerId,
    /// Where the agent of this server may be.
    own_agent: Vec<SocketAddr>,
    own_agent_answers: bool,
    transport: Transport,
    check: u64,
    probes: u32,
    send_error: Option<String>,
    peers: BTreeMap<ServerId, Seen>,
    /// Addresses at which nobody has answered yet, of whom no more is known.
    addresses: BTreeSet<SocketAddr>,
    frames: Frames,
    /// Who is sending them.
    bursts: Option<ServerId>,
    /// Hears a group of this check's own, where the segment's are not heard.
    fresh: Option<UdpSocket>,
    batch: FrameBatch,
}

impl Examination {
    fn new(identity: &Identity, channels: Channels, transport: Transport, known: &Peers) -> Self {
        let doctor = identity.doctor_channel();
        let mut examination = Self {
            own_agent: Vec::new(),
            channels,
            doctor,
            key: identity.control_key.clone(),
            own: identity.server,
            own_agent_answers: false,
            transport,
            check: rand::random(),
            probes: 0,
            send_error: None,
            peers: BTreeMap::new(),
            addresses: BTreeSet::new(),
            frames: Frames::default(),
            bursts: None,
            fresh: None,
            batch: FrameBatch::default(),
        };
        examination.learn(known);
        examination
    }

    /// These servers may be there, too.
    fn learn(&mut self, known: &Peers) {
        for (server, address) in known.targets().into_iter().take(PEERS_MAX) {
            match server {
                Some(server) => {
                    let name = known.name_of(server).map_or_else(|| address.to_string(), ToString::to_string);
                    let seen = Seen { name, address, answer: None, is_asked: false, burst: None, fresh: None };
                    self.peers.entry(server).or_insert(seen);
                }
                None => {
                    self.addresses.insert(address);
                }
            }
        }
    }

    /// `reread` fills in what the agent has noted of the others by now.
    async fn run(&mut self, time: Duration, known: &mut Peers, reread: impl Fn(&mut Peers)) -> io::Result<()> {
        // A socket that nobody has waited for yet refuses at first.
        self.channels.control_unicast.writable().await?;
        let begin = Instant::now();
        let probe_time = time * PROBE_PERCENT / 100;
        for number in 1..=PROBES {
            if self.transport != Transport::Unicast {
                self.probe_all(number);
            }
            // The first may be lost.
            if number == 1 || number == PROBES / 2 || number == PROBES {
                // Of an agent that has just started more is known from moment to moment.
                reread(known);
                self.learn(known);
                self.probe_each(false);
            }
            self.listen_until(begin + probe_time * number / PROBES).await?;
        }
        self.ask_all().await?;
        if self.transport != Transport::Unicast {
            self.take_bursts(begin + time).await?;
        }
        Ok(())
    }

    fn probe_all(&mut self, number: u32) {
        let group = self.channels.addresses.control;
        self.probes += 1;
        match self.say(None, group, &Message::Probe { check: self.check, number }) {
            Ok(()) => {}
            // Lost like any other.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => self.send_error = Some(error.to_string()),
        }
    }

    /// Asks by unicast those who have not answered yet, or all.
    fn probe_each(&mut self, all: bool) {
        let mut to: Vec<(Option<ServerId>, SocketAddr)> = self.addresses.iter().map(|at| (None, *at)).collect();
        let known = self.peers.iter().filter(|(_, peer)| all || peer.answer.is_none());
        to.extend(known.map(|(server, peer)| (Some(*server), peer.address)));
        if !self.own_agent_answers {
            to.extend(self.own_agent.iter().map(|address| (Some(self.own), *address)));
        }
        for (server, address) in to {
            let probe = Message::Probe { check: self.check, number: 0 };
            // One that cannot be reached does not answer, and that is what is found.
            self.say(server, address, &probe).ok();
        }
    }

    fn say(&self, server: Option<ServerId>, to: SocketAddr, message: &Message) -> io::Result<()> {
        let body = postcard::to_stdvec(message).expect("messages are plain data");
        let datagram = self.doctor.seal(&self.key, server, &body);
        self.channels.control_unicast.try_send_to(&datagram, to).map(drop)
    }

    /// Has those who answered send a burst each, one after another, as long as there is time.
    async fn take_bursts(&mut self, end: Instant) -> io::Result<()> {
        let senders: Vec<ServerId> = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.answer.as_ref().is_some_and(|answer| answer.transport != Transport::Unicast))
            .map(|(server, _)| *server)
            .collect();
        for server in senders {
            if Instant::now() >= end {
                break;
            }
            let burst = self.take_burst(server, false).await?;
            if let Some(peer) = self.peers.get_mut(&server) {
                peer.burst = burst;
            }
        }
        self.take_fresh_burst().await
    }

    /// Where somebody is not heard: whether it is by a group that was joined a moment ago. Of one, for
    /// there may be many.
    async fn take_fresh_burst(&mut self) -> io::Result<()> {
        let is_mute = |peer: &Seen| peer.burst.is_some_and(|burst| burst.received == 0);
        let Some(server) = self.peers.iter().find(|(_, peer)| is_mute(peer)).map(|(server, _)| *server) else {
            return Ok(());
        };
        let group = fresh_group(self.check, self.channels.addresses);
        match lan_channel::sockets::listen_to(group, &self.channels.attachment) {
            Ok(socket) => self.fresh = Some(socket),
            Err(error) => {
                tracing::warn!(error = chain(&error), "another group cannot be listened to");
                return Ok(());
            }
        }
        self.listen_until(Instant::now() + BURST_GAP).await?;
        let burst = self.take_burst(server, true).await?;
        if let Some(peer) = self.peers.get_mut(&server) {
            peer.fresh = burst;
        }
        Ok(())
    }

    /// Asks all what they have heard by now, those again whose answer is late or was lost.
    async fn ask_all(&mut self) -> io::Result<()> {
        for peer in self.peers.values_mut() {
            peer.is_asked = peer.answer.is_some();
        }
        self.probe_each(true);
        for _ in 0..ASKED_MAX {
            self.listen_until(Instant::now() + ANSWER_WAIT).await?;
            let late = self.peers.iter().filter(|(_, peer)| peer.is_asked);
            let late: Vec<(ServerId, SocketAddr)> = late.map(|(server, peer)| (*server, peer.address)).collect();
            if late.is_empty() {
                break;
            }
            for (server, address) in late {
                self.say(Some(server), address, &Message::Probe { check: self.check, number: 0 }).ok();
            }
        }
        Ok(())
    }

    /// One burst of one server, which is asked again when it may not send one yet; `None` when it does not say
    /// that it sent one.
    async fn take_burst(&mut self, server: ServerId, fresh: bool) -> io::Result<Option<Burst>> {
        for tries in 1..=ASKED_MAX {
            if tries > 1 || fresh {
                // The answer whose nonce it quoted was used up.
                self.ask_all().await?;
            }
            let burst = self.try_burst(server, fresh).await?;
            if burst.is_some() || tries == ASKED_MAX {
                return Ok(burst);
            }
            self.listen_until(Instant::now() + BURST_GAP).await?;
        }
        Ok(None)
    }

    async fn try_burst(&mut self, server: ServerId, fresh: bool) -> io::Result<Option<Burst>> {
        let Some(peer) = self.peers.get(&server) else { return Ok(None) };
        let Some(nonce) = peer.answer.as_ref().map(|answer| answer.nonce) else { return Ok(None) };
        let (check, frames, frame_bytes, address) = (self.check, BURST_FRAMES, BURST_FRAME_BYTES, peer.address);
        self.frames = Frames::default();
        self.bursts = Some(server);
        if self.say(Some(server), address, &Message::Burst { check, nonce, frames, frame_bytes, fresh }).is_err() {
            return Ok(None);
        }
        let patience = Instant::now() + BURST_TIME_MAX + ANSWER_WAIT;
        while self.frames.sent.is_none() && !self.frames.is_refused && Instant::now() < patience {
            self.listen_until((Instant::now() + LATE_FRAMES).min(patience)).await?;
        }
        self.listen_until(Instant::now() + LATE_FRAMES).await?;
        self.bursts = None;
        Ok(self.frames.burst())
    }

    async fn listen_until(&mut self, until: Instant) -> io::Result<()> {
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
        loop {
            while let Ok((length, from)) = self.channels.control_unicast.try_recv_from(&mut buffer) {
                self.hear(&buffer[..length], from);
            }
            // Only taken, so that it does not overflow: agents answer by unicast.
            while self.channels.control_multicast.try_recv_from(&mut buffer).is_ok() {}
            self.take_frames();
            let fresh = async {
                match &self.fresh {
                    Some(fresh) => fresh.readable().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                ready = fresh => ready?,
                ready = self.channels.control_unicast.readable() => ready?,
                ready = self.channels.control_multicast.readable() => ready?,
                ready = self.channels.data_receive.readable() => ready?,
                () = tokio::time::sleep_until(until) => return Ok(()),
            }
        }
    }

    fn take_frames(&mut self) {
        let Self { channels, batch, doctor, check, frames, fresh, .. } = self;
        let mut count = |frame: &[u8]| {
            if let Some((of, number)) = doctor.open_frame(frame)
                && of == *check
                && number <= BURST_FRAMES
                && frames.numbers.insert(number)
            {
                let now = Instant::now();
                frames.bytes += frame.len() as u64;
                frames.first.get_or_insert(now);
                frames.last = Some(now);
            }
        };
        while channels.data_receive.take(batch, |frame| count(frame)) > 0 {}
        if let Some(fresh) = fresh {
            let mut buffer = [0; 2048];
            while let Ok((length, _)) = fresh.try_recv_from(&mut buffer) {
                count(&buffer[..length]);
            }
        }
    }

    fn hear(&mut self, datagram: &[u8], from: SocketAddr) {
        if !is_of_doctor(datagram) {
            return;
        }
        let (sender, body) = match self.doctor.open(datagram, wall_time()) {
            Ok(opened) => opened,
            Err(error) => return tracing::debug!(%from, error = chain(&error), "an answer is not believed"),
        };
        let Ok(message) = postcard::from_bytes::<Message>(&body) else { return };
        let is_burst = self.bursts == Some(sender.server);
        match message {
            Message::Answer(answer) if answer.check == self.check => {
                self.addresses.remove(&from);
                if sender.server == self.own {
                    self.own_agent_answers = true;
                } else if self.peers.contains_key(&sender.server) || self.peers.len() < PEERS_MAX {
                    let name = sender.name.to_string();
                    let seen = Seen {
                        name: name.clone(),
                        address: from,
                        answer: None,
                        is_asked: false,
                        burst: None,
                        fresh: None,
                    };
                    let seen = self.peers.entry(sender.server).or_insert(seen);
                    (seen.name, seen.address) = (name, from);
                    // What was answered earlier may arrive later.
                    if seen.answer.as_ref().is_none_or(|known| known.heard <= answer.heard) {
                        seen.is_asked = false;
                        seen.answer = Some(answer);
                    }
                }
            }
            Message::Busy { check } if check == self.check && is_burst => self.frames.is_refused = true,
            Message::Sent { check, frames } if check == self.check && is_burst => self.frames.sent = Some(frames),
            Message::Answer(_)
            | Message::Busy { .. }
            | Message::Sent { .. }
            | Message::Probe { .. }
            | Message::Burst { .. } => {}
        }
    }

    fn peers_seen(&self) -> Vec<PeerSeen> {
        let known = self.peers.values().map(|peer| PeerSeen {
            name: peer.name.clone(),
            address: peer.address,
            answered: peer.answer.is_some(),
            heard_probes: peer.answer.as_ref().map_or(0, |answer| answer.heard),
            last_probe: peer.answer.as_ref().map_or(0, |answer| answer.last),
            transport: peer.answer.as_ref().map(|answer| answer.transport),
            burst: peer.burst,
            fresh: peer.fresh,
        });
        let unknown = self.addresses.iter().map(|address| PeerSeen {
            name: address.to_string(),
            address: *address,
            answered: false,
            heard_probes: 0,
            last_probe: 0,
            transport: None,
            burst: None,
            fresh: None,
        });
        let mut peers: Vec<PeerSeen> =
            known.chain(unknown).filter(|peer| !self.own_agent.contains(&peer.address)).collect();
        peers.sort_by(|one, other| one.name.cmp(&other.name));
        peers
    }
}

impl Frames {
    /// What arrived of what was sent; `None` when the sender did not say that it sent any.
    fn burst(&self) -> Option<Burst> {
        let sent = self.sent.filter(|sent| *sent > 0)?;
        let received = u32::try_from(self.numbers.len()).unwrap_or(u32::MAX).min(sent);
        let time = match (self.first, self.last) {
            (Some(first), Some(last)) => last - first,
            (Some(_) | None, None) | (None, Some(_)) => Duration::ZERO,
        };
        let bytes_per_sec = match u64::try_from(time.as_millis()) {
            Ok(millis) if millis > 0 => self.bytes * 1_000 / millis,
            Ok(_) | Err(_) => 0,
        };
        Some(Burst { sent, received, bytes_per_sec })
    }
}
