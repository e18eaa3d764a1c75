//! The agent of one server: the one task that owns every protocol machine, carries their outputs out
//! and brings them their inputs.
//!
//! In reading order: [`run`] (start, loop, stop), [`member`] (what every server does), [`leading`]
//! (what the group leader does besides), [`reaching`] (how what is said reaches the others), [`moving`] (where
//! the control channel is), [`direct`] (objects for those who do not hear multicast), [`granting`] (who is told a session's secret), [`doctor`] (answers to
//! `pressrun doctor`), [`host`] (what the machine is).
//!
//! No rule of a protocol lives here. Reading trees, hashing files and fetching happen elsewhere and
//! come back as [`Event`]s, so that the loop is never held up.

mod direct;
mod doctor;
mod early;
mod granting;
mod host;
mod leading;
mod member;
pub(crate) mod moving;
mod reaching;
mod resting;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::control::{Notification, Source};
use common::digest::Digest;
use common::errors::chain;
use common::fleet::MemberInfo;
use common::ids::{AssignmentNumber, ServerId};
use common::outcome::{Outcome, SiteState};
use common::ticket::Ticket;
use common::time::Timestamp;
use group_leader::distribute::Next;
use group_leader::forward::Here;
use group_leader::uplink;
use lan_channel::control::ControlChannels;
use lan_channel::data::FrameBatch;
use lan_channel::doctor::DoctorChannel;
use lan_channel::doorbell::Doze;
use lan_channel::envelope::{Opener, Sealer};
use lan_channel::joined::JoinedChannels;
use lan_channel::port::{Hears, Wishes};
use lan_channel::secrets::PairKeys;
use lan_channel::sockets::{ChannelAddresses, Channels};
use protocol::doctor::Responder;
use protocol::election::Mode;
use protocol::jumbo::Jumbo;
use protocol::participant::{Beginning, Participant};
use protocol::reach::{Reach, Transport};
use protocol::registration::InfoError;
use protocol::relocation::{self, Places, Relocation};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use transfer::fetch::Fetcher;
use transfer::server::{ChunkService, Incoming, NotifyFailure};
use transfer::store::ObjectStore;
use transfer::tls::Peer;

use crate::config::{Config, DEFAULT_ROOTS};
use crate::enroll::{EnrollError, enroll, host_and_port};
use crate::identity::{Identity, IdentityError, create_private_dir, write_private};
use crate::lan::{Choice, LanError};
use crate::peers::{Peer as SegmentPeer, Peers};
use crate::receive::Receptions;
use crate::worker::{Done, Scope, Worker};
use leading::Leading;
use reaching::Roster;

/// How often what the machine is (load, disk) is looked at.
const HOST_INTERVAL: Duration = Duration::from_secs(5);
/// Most datagrams of one socket that are handled before the others get their turn.
const DATAGRAMS_PER_TURN: usize = 256;
/// Largest datagram there can be.
const DATAGRAM_BYTES_MAX: usize = 65_536;
/// Outcomes remembered to answer repeats.
const HANDLED_MAX: usize = 256;
/// Objects that an earlier process left behind are kept this long: a run may still be under way.
const LEFT_OVER: Duration = Duration::from_secs(24 * 3600);
/// How long an object is kept after it was applied: a new leader serves the others from it.
const KEEP_APPLIED: Duration = Duration::from_secs(60);

/// Why an agent does not run.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Its identity cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// It could not join.
    #[error(transparent)]
    Enroll(#[from] EnrollError),
    /// The protocols of its segment cannot be driven like that.
    #[error(transparent)]
    Lan(#[from] LanError),
    /// It was enrolled under another name or segment.
    #[error(
        "this server is enrolled as {what} {enrolled}, not {asked}; leave the flag out, or use another data directory"
    )]
    Differs {
        /// Name or segment.
        what: &'static str,
        /// What it is.
        enrolled: String,
        /// What was asked for.
        asked: String,
    },
    /// The segment's channels could not be joined.
    #[error("the segment's channels could not be joined")]
    Channels(#[from] lan_channel::sockets::ChannelError),
    /// TLS could not be set up.
    #[error("TLS could not be set up")]
    Tls(#[from] transfer::tls::TlsError),
    /// The object store cannot be used.
    #[error("the object store cannot be used")]
    Store(#[from] transfer::store::StoreError),
    /// What it would say about itself cannot be said.
    #[error("this server cannot be described to its leader")]
    Info(#[from] InfoError),
    /// Something of the system failed.
    #[error("{what} failed")]
    System {
        /// What.
        what: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// Another agent uses the data directory.
    #[error("another agent uses {}", path.display())]
    InUse {
        /// The data directory.
        path: PathBuf,
    },
}

/// What comes back to the loop from elsewhere.
pub(crate) enum Event {
    /// The interpreter has finished a job.
    Applied(Done),
    /// A received object was verified and taken into the store, or was not.
    Stored { session: u32, ticket: Ticket, leader: ServerId, result: Result<(), String> },
    /// An object was fetched, or was not.
    Fetched { ticket: Ticket, source: Source, result: Result<(), String> },
    /// More of an object that is being fetched is here.
    Arriving { object: Digest, early: early::Early },
    /// Another leader was told and served, or was not.
    Forwarded { object: Digest, to: ServerId, result: Result<(), String> },
    /// The content control manager has said where the other servers are, or has not.
    Roster(Result<Vec<SegmentPeer>, String>),
    /// Test frames were sent.
    BurstOver { asker: doctor::Asker, check: u64, frames: u32 },
}

/// Counts the process's time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock(Instant);

impl Clock {
    pub(crate) fn now(self) -> Timestamp {
        Timestamp(u64::try_from(self.0.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    fn until(self, at: Timestamp) -> tokio::time::Instant {
        tokio::time::Instant::from_std(self.0 + Duration::from_micros(at.0))
    }
}

/// The agent. See the module.
pub(crate) struct Agent {
    config: Config,
    identity: Identity,
    clock: Clock,
    channels: Arc<Channels>,
    /// Which control channels are to be listened to.
    moves: Relocation,
    controls: ControlChannels,
    /// Where what is said to all goes.
    control_channel: SocketAddr,
    /// Data channels of content groups, while sessions need them.
    joined: JoinedChannels,
    sealer: Sealer,
    opener: Opener,
    /// What is said to one other server alone, in the hearing of all.
    pairs: PairKeys,
    doctor: DoctorChannel,
    /// What doctors are told.
    responder: Responder,
    /// Where its chunk server listens.
    transfer_address: SocketAddr,
    ccm_address: String,
    objects: Arc<ObjectStore>,
    fetcher: Arc<Fetcher>,
    connect: uplink::Connect,
    part: Participant,
    receptions: Receptions,
    batch: FrameBatch,
    doze: Doze,
    /// Frames that the kernel has dropped so far.
    overflows: u64,
    /// How many it had dropped when these sessions began.
    overflows_before: BTreeMap<u32, u64>,
    worker: Worker,
    /// Where control datagrams of servers come from, and who else there is.
    peers: Peers,
    /// Where this server hears what is said to it alone.
    own_address: SocketAddr,
    /// Who hears what is multicast.
    reach: Reach,
    jumbo: Jumbo,
    roster: Roster,
    /// Objects that a leader offered and that are being fetched, and which leader.
    offered: BTreeMap<Digest, ServerId>,
    /// Chunk servers of leaders, by what their session messages say.
    leader_transfer: BTreeMap<ServerId, SocketAddr>,
    states: Vec<SiteState>,
    /// Assignments given to the interpreter and not answered yet.
    applying: BTreeSet<AssignmentNumber>,
    /// Assignments being fetched because no session brought them.
    fetching: BTreeSet<Digest>,
    /// To stop those again.
    fetches: BTreeMap<Digest, AbortHandle>,
    handled: BTreeMap<AssignmentNumber, Outcome>,
    /// Objects that were applied, and when.
    spent: VecDeque<(Timestamp, Digest)>,
    host_at: Timestamp,
    leading: Option<Leading>,
    /// Answers owed to other leaders that notified this one.
    owed: BTreeMap<Digest, Vec<oneshot::Sender<Result<(), NotifyFailure>>>>,
    events: mpsc::Sender<Event>,
    uplink_events: mpsc::Sender<uplink::Event>,
}

/// Runs an agent until `stop` resolves. Enrols it first when it is new.
///
/// # Errors
/// [`AgentError`] when it cannot start; once it runs it goes on.
pub async fn run(config: Config, stop: impl Future<Output = ()>) -> Result<(), AgentError> {
    config.lan.validate()?;
    create_private_dir(&config.data)?;
    let _lock = lock(&config.data)?;
    let identity = identity(&config).await?;
    tracing::info!(server = %identity.name, segment = %identity.segment, id = %identity.server, "the agent starts");
    let (mut agent, mut inbox) = Agent::start(config, identity).await?;
    agent.serve(&mut inbox, stop).await;
    agent.stop();
    Ok(())
}

fn lock(data: &std::path::Path) -> Result<std::fs::File, AgentError> {
    let system = |source| AgentError::System { what: "opening the lock file", source };
    let file = std::fs::File::create(data.join("lock")).map_err(system)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(AgentError::InUse { path: data.to_owned() }),
        Err(std::fs::TryLockError::Error(source)) => Err(AgentError::System { what: "taking the lock", source }),
    }
}

async fn identity(config: &Config) -> Result<Identity, AgentError> {
    let Some(mut identity) = Identity::load(&config.data)? else {
        let identity = enroll(config).await?;
        identity.save(&config.data)?;
        tracing::info!(server = %identity.name, id = %identity.server, "enrolled");
        return Ok(identity);
    };
    let differs = |what, enrolled: String, asked: String| AgentError::Differs { what, enrolled, asked };
    if let Some(name) = config.name.as_ref().filter(|name| **name != identity.name) {
        return Err(differs("server", identity.name.to_string(), name.to_string()));
    }
    if let Some(segment) = config.segment.as_ref().filter(|segment| **segment != identity.segment) {
        return Err(differs("a member of segment", identity.segment.to_string(), segment.to_string()));
    }
    if let Some(ccm) = config.ccm.as_ref().filter(|ccm| **ccm != identity.ccm) {
        identity.ccm.clone_from(ccm);
        identity.save(&config.data)?;
    }
    Ok(identity)
}

/// Everything that the loop waits for besides sockets and time.
struct Inbox {
    events: mpsc::Receiver<Event>,
    uplink: mpsc::Receiver<uplink::Event>,
    notifications: mpsc::Receiver<Incoming>,
}

impl Agent {
    async fn start(config: Config, identity: Identity) -> Result<(Self, Inbox), AgentError> {
        let system = |what| move |source| AgentError::System { what, source };
        let clock = Clock(Instant::now());
        let derived = ChannelAddresses::of(identity.cluster, &identity.segment);
        let hears_multicast = config.lan.transport != Transport::Unicast;
        // The control channel, which may be moved, has sockets of its own.
        let hears = if hears_multicast { Hears::Data } else { Hears::Nothing };
        let wishes = Wishes { port: config.lan.port, hears, ttl: config.lan.network.ttl };
        let attachment = config.lan.network.attachment(config.interface.as_deref())?;
        let channels = Channels::join_with(attachment, config.lan.network.addresses(derived), wishes)?;
        let own_address = channels.control_unicast.local_addr().map_err(system("listening to the segment"))?;
        let listen = config.listen.unwrap_or_else(|| channels.own(0));
        let listener = TcpListener::bind(listen).await.map_err(system("listening for other servers"))?;
        let bound = listener.local_addr().map_err(system("listening for other servers"))?;
        let transfer_address = if bound.ip().is_unspecified() { channels.own(bound.port()) } else { bound };

        let objects = Arc::new(ObjectStore::open(config.data.join("objects"))?);
        objects.clean_partials(LEFT_OVER)?;
        objects.clean_complete(LEFT_OVER)?;
        let tls = transfer::tls::Identity::from_pem(&identity.certificate, &identity.key, &identity.ca)?;
        let client_tls = transfer::tls::client_config(Some(&tls), tls.authority(), &[])?;
        let fetcher = Arc::new(Fetcher::new(client_tls.clone(), objects.clone()));
        let (notify, notifications) = mpsc::channel(64);
        let service = Arc::new(ChunkService { store: objects.clone(), may: Arc::new(|_: &Peer, _| true), notify });
        let server_tls = transfer::tls::server_config(&tls, &[], transfer::tls::ClientAuth::Required)?;
        // Ends with the process.
        tokio::spawn(transfer::server::serve(listener, server_tls, service, std::future::pending()));
        let ccm_address = host_and_port(&identity.ccm)?;
        let connect = leading::connector(&tls, ccm_address.clone())?;

        let (events, inbox_events) = mpsc::channel(256);
        let (uplink_events, inbox_uplink) = mpsc::channel(256);
        let roots = if config.roots.is_empty() {
            DEFAULT_ROOTS.iter().map(PathBuf::from).collect()
        } else {
            config.roots.clone()
        };
        let scope = Scope {
            cluster: identity.cluster,
            server: identity.server,
            name: identity.name.clone(),
            keys: identity.publish_keys.clone(),
            roots,
            fixed: config.sites.clone(),
            notes: config.data.join("sites.json"),
            hooks: Arc::new(config.hooks.clone()),
            content: config.content.clone(),
        };
        let done = events.clone();
        let (worker, states) = Worker::start(scope, move |applied| {
            if done.blocking_send(Event::Applied(applied)).is_err() {
                tracing::debug!("an outcome came after the agent had stopped");
            }
        })?;
        let receptions = Receptions::new(&config.data.join("spool"), identity.server, identity.segment_key)
            .map_err(system("preparing the spool"))?
            .with_config(config.lan.receiver.clone());

        let now = clock.now();
        let epoch = read_epoch(&config.data);
        let boot = member::boot_number(&config.data, rand::random())?;
        let mode = match &config.lan.choice {
            Choice::Elected => Mode::Elected,
            Choice::Fixed(leader) => Mode::Fixed { leader: (*leader == identity.name).then_some(identity.server) },
        };
        let beginning = Beginning {
            info: host::info(&config, &identity, transfer_address, channels.attachment.mtu(), states.clone()),
            standing: config.lan.standing(),
            mode,
            roster: config.lan.roster.clone(),
            epoch,
            boot,
            seed: rand::random(),
        };
        let places = Places {
            remembered: moving::remembered(&config.data),
            configured: config.lan.network.control,
            derived: derived.in_family(config.lan.network.family).control,
        };
        let moves = Relocation::new(identity.server, places, relocation::Config::default(), now);
        let control_channel = moves.channel();
        let mut controls = ControlChannels::new(channels.attachment.clone(), hears_multicast);
        if let Some((_, error)) = controls.keep(&[control_channel].into()).pop() {
            return Err(error.into());
        }
        let part = Participant::new(beginning, config.lan.timers.clone(), now)?;
        let mut peers = Peers::new(identity.server, own_address, config.lan.peers.clone());
        peers.load(&config.data);
        let reach = Reach::new(config.lan.transport, protocol::reach::Config::default(), now);
        let sealer = Sealer::new(identity.control_key.clone(), identity.segment_key, &identity.credential, boot);
        let opener = Opener::new(
            identity.server,
            identity.cluster,
            identity.segment.clone(),
            identity.segment_key,
            identity.publish_keys.clone(),
        );
        let pairs = PairKeys::new(identity.control_key.clone());
        let doctor = identity.doctor_channel();
        let responder = Responder::new(config.lan.transport);
        let agent = Self {
            config,
            identity,
            clock,
            moves,
            controls,
            control_channel,
            joined: JoinedChannels::new(channels.attachment.clone()),
            channels: Arc::new(channels),
            sealer,
            opener,
            pairs,
            doctor,
            responder,
            transfer_address,
            ccm_address,
            objects,
            fetcher,
            connect,
            part,
            receptions,
            batch: FrameBatch::default(),
            doze: Doze::default(),
            overflows: 0,
            overflows_before: BTreeMap::new(),
            worker,
            peers,
            own_address,
            reach,
            jumbo: Jumbo::new(protocol::jumbo::Config::default()),
            roster: Roster::new(client_tls),
            offered: BTreeMap::new(),
            leader_transfer: BTreeMap::new(),
            states,
            applying: BTreeSet::new(),
            fetching: BTreeSet::new(),
            fetches: BTreeMap::new(),
            handled: BTreeMap::new(),
            spent: VecDeque::new(),
            host_at: now + HOST_INTERVAL,
            leading: None,
            owed: BTreeMap::new(),
            events,
            uplink_events,
        };
        Ok((agent, Inbox { events: inbox_events, uplink: inbox_uplink, notifications }))
    }

    async fn serve(&mut self, inbox: &mut Inbox, stop: impl Future<Output = ()>) {
        let mut stop = std::pin::pin!(stop);
        let channels = self.channels.clone();
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
        self.pump();
        loop {
            let next = self.send_frames();
            self.pump();
            let wake = self.next_timeout().map(|at| self.clock.until(at));
            let sleep = async {
                match wake {
                    _ if next == Next::Soon => tokio::task::yield_now().await,
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let frames = async {
                match self.doze.until() {
                    Some(at) => tokio::time::sleep_until(self.clock.until(at)).await,
                    // One that cannot be waited for is looked at again by the next time that is due.
                    None => tokio::select! {
                        _ = channels.data_receive.readable() => {}
                        _ = self.joined.readable() => {}
                    },
                }
            };
            tokio::select! {
                () = &mut stop => return,
                Some(event) = inbox.events.recv() => self.event(event),
                Some(event) = inbox.uplink.recv() => self.uplink_event(event),
                Some(incoming) = inbox.notifications.recv() => self.notified(incoming.notification, Some(incoming.answer)),
                _ = channels.control_unicast.readable() => {}
                _ = self.controls.readable() => {}
                () = frames => {}
                _ = channels.data_send.writable(), if next == Next::WhenWritable => {}
                () = sleep => {}
            }
            // What has arrived is heard before silence is concluded from: a process that was not given the
            // processor for a while wakes with its times run out and its leader's announcements unread.
            self.read_own(&channels.control_unicast, &mut buffer);
            self.read_channels(&mut buffer);
            self.drain_data();
            self.timeouts();
            self.pump();
        }
    }

    /// Says good-bye, so that nobody waits for silence.
    fn stop(&mut self) {
        let now = self.clock.now();
        self.part.stop(now);
        self.pump();
        tracing::info!("the agent stops");
    }

    fn next_timeout(&self) -> Option<Timestamp> {
        let leading = self.leading.as_ref().and_then(Leading::poll_timeout);
        let reach = [self.reach.poll_timeout(), self.jumbo.poll_timeout(), self.roster_at()];
        let machines = [
            self.part.poll_timeout(),
            self.moves.poll_timeout(),
            self.receptions.poll_timeout(),
            leading,
            Some(self.host_at),
        ];
        reach.into_iter().chain(machines).flatten().min()
    }

    fn timeouts(&mut self) {
        let now = self.clock.now();
        self.part.handle_timeout(now);
        if self.moves.poll_timeout().is_some_and(|at| at <= now) {
            self.moves.handle_timeout(now);
        }
        if self.receptions.poll_timeout().is_some_and(|at| at <= now) {
            self.receptions.timeout(now);
        }
        if let Some(leading) = &mut self.leading {
            leading.timeout(now);
        }
        self.ask_again(now);
        self.reach.handle_timeout(now);
        self.jumbo.handle_timeout(now);
        self.ask_for_roster(now);
        self.keep_peers(now);
        if self.host_at <= now {
            self.host_at = now + HOST_INTERVAL;
            self.tell_info();
            self.remove_spent(now);
            self.watch_overflows();
        }
    }

    /// Carries out what the machines have put out, until nobody has anything more to say.
    fn pump(&mut self) {
        while self.pump_part()
            | self.pump_reach()
            | self.pump_jumbo()
            | self.pump_moves()
            | self.pump_receptions()
            | self.pump_leading()
        {}
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Applied(done) => self.applied(done),
            Event::Stored { session, ticket, leader, result } => self.stored(session, ticket, leader, result),
            Event::Fetched { ticket, source, result } => self.fetched(ticket, source, &result),
            Event::Arriving { object, early } => self.arriving(object, early),
            Event::Roster(result) => self.roster(result),
            Event::BurstOver { asker, check, frames } => self.burst_over(asker, check, frames),
            Event::Forwarded { object, to, result } => {
                if let Some(leading) = &mut self.leading {
                    match result {
                        Ok(()) => leading.forward.forwarded(object),
                        Err(reason) => {
                            tracing::warn!(%object, %to, reason, "another leader could not be served");
                            leading.forward.forward_failed(object, to, reason);
                        }
                    }
                }
            }
        }
    }

    fn info(&self) -> MemberInfo {
        let mtu = self.channels.attachment.mtu();
        host::info(&self.config, &self.identity, self.transfer_address, mtu, self.states.clone())
    }

    /// A notification from the CCM, or from another leader who wants an answer.
    fn notified(&mut self, notification: Notification, answer: Option<oneshot::Sender<Result<(), NotifyFailure>>>) {
        let objects = self.objects.clone();
        let refuse = |answer: Option<oneshot::Sender<Result<(), NotifyFailure>>>, reason: String| {
            tracing::warn!(reason, "a notification is not followed");
            if let Some(answer) = answer {
                // Nobody waits any more when this fails.
                answer.send(Err(NotifyFailure::Refused(reason))).ok();
            }
        };
        let Some(leading) = &mut self.leading else {
            return refuse(answer, "this server does not lead its segment".to_owned());
        };
        let (handled, applying, receptions) = (&self.handled, &self.applying, &self.receptions);
        let here = |ticket: &Ticket| {
            if objects.contains(ticket.object) {
                Here::All
            } else if handled.contains_key(&ticket.assignment)
                || applying.contains(&ticket.assignment)
                || receptions.has_some_of(ticket.object)
            {
                Here::Something
            } else {
                Here::Nothing
            }
        };
        match leading.forward.handle_notification(notification, here, crate::worker::wall_time()) {
            Ok(object) => {
                if let Some(answer) = answer {
                    if self.objects.contains(object) {
                        answer.send(Ok(())).ok();
                    } else {
                        self.owed.entry(object).or_default().push(answer);
                    }
                }
            }
            Err(error) => refuse(answer, chain(&error)),
        }
    }

    fn pay(&mut self, object: Digest, result: &Result<(), String>) {
        for answer in self.owed.remove(&object).unwrap_or_default() {
            answer.send(result.clone().map_err(NotifyFailure::Failed)).ok();
        }
    }
}

const EPOCH_FILE: &str = "epoch";

/// The highest epoch that this server is known to have led or obeyed; 0 when none is on record.
fn read_epoch(data: &std::path::Path) -> u64 {
    std::fs::read_to_string(data.join(EPOCH_FILE)).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

fn persist_epoch(data: &std::path::Path, epoch: u64) -> Result<(), IdentityError> {
    write_private(&data.join(EPOCH_FILE), epoch.to_string().as_bytes())
}
