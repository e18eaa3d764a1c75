//! A server of the segment: its keys, its channels, and the clock.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use common::credential::{Credential, Roles};
use common::ids::{ClusterId, SegmentName, ServerId};
use common::keys::{PublicKey, PublishKey, PublishKeys, SecretKey, Signed};
use common::ticket::Ticket;
use common::time::{Timestamp, WallTime};
use lan_channel::envelope::{Opened, Opener, Sealer, SegmentKey, To};
use lan_channel::secrets::{PairKeys, SessionName, SessionSecret};
use lan_channel::sockets::{ChannelAddresses, ChannelError, Channels};
use protocol::message::Control;
use protocol::session::{Grant, Message};
use tokio::net::UdpSocket;

use crate::PartyArguments;

/// The sender's number; members begin with 1.
pub(crate) const LEADER: u16 = 0;
/// The epoch that the sender leads.
pub(crate) const EPOCH: u64 = 1;
const HOUR_MILLIS: u64 = 3_600_000;
const CONTROL_BYTES_MAX: usize = 65_536;

/// Why there is nothing to measure.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CastError {
    /// The segment cannot be joined.
    #[error("the segment's channels could not be joined")]
    Channels(#[from] ChannelError),
    /// Something of the system failed.
    #[error("{what} failed")]
    System { what: &'static str, source: std::io::Error },
    /// The object store failed.
    #[error("the object store cannot be used")]
    Store(#[from] transfer::store::StoreError),
    /// A certificate cannot be made.
    #[error("a certificate cannot be made")]
    Certificates { source: rcgen::Error },
    /// An identity is of no use.
    #[error("an identity cannot be used")]
    Tls(#[from] transfer::tls::TlsError),
    /// The rest of an object was not to be had.
    #[error("the rest of the object cannot be fetched")]
    Fetch(#[source] Box<transfer::fetch::FetchError>),
    /// The object cannot be cut into symbols.
    #[error("the object cannot be sent")]
    Geometry(#[from] protocol::session::GeometryError),
}

/// The id of a server by its number.
pub(crate) fn server(number: u16) -> ServerId {
    let mut id = [0; 16];
    id[14..].copy_from_slice(&number.to_be_bytes());
    ServerId(id)
}

/// The number of a server.
pub(crate) fn number(server: ServerId) -> u16 {
    u16::from_be_bytes([server.0[14], server.0[15]])
}

/// Counts the process's time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock(Instant);

impl Clock {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn now(self) -> Timestamp {
        Timestamp(u64::try_from(self.0.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// Waits; for ever without a time.
    pub(crate) async fn sleep_until(self, at: Option<Timestamp>) {
        match at {
            Some(at) => {
                let at = self.0 + Duration::from_micros(at.0);
                tokio::time::sleep_until(tokio::time::Instant::from_std(at)).await;
            }
            None => std::future::pending().await,
        }
    }
}

pub(crate) fn wall_time() -> WallTime {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    WallTime(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// One server.
pub(crate) struct Party {
    pub(crate) id: ServerId,
    pub(crate) cluster: ClusterId,
    pub(crate) segment_key: SegmentKey,
    pub(crate) publish_key: PublishKey,
    pub(crate) publish_keys: PublishKeys,
    pub(crate) channels: Channels,
    /// Where this server serves objects, if it does.
    pub(crate) transfer_port: u16,
    sealer: Sealer,
    opener: Opener,
    pairs: PairKeys,
    word: String,
    /// The public keys of others, as their credentials would have told them.
    keys: BTreeMap<ServerId, PublicKey>,
    buffer: Vec<u8>,
}

/// Keys that follow from a word that all parties know.
fn derive(word: &str, purpose: &str, number: u16) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("pressrun lan-cast");
    hasher.update(word.as_bytes());
    hasher.update(purpose.as_bytes());
    hasher.update(&number.to_be_bytes());
    *hasher.finalize().as_bytes()
}

impl Party {
    pub(crate) fn join(arguments: &PartyArguments, number: u16) -> Result<Self, CastError> {
        let derive = |purpose: &str, number: u16| derive(&arguments.word, purpose, number);
        let id = server(number);
        let mut cluster = [0; 16];
        cluster.copy_from_slice(&derive("cluster", 0)[..16]);
        let cluster = ClusterId(cluster);
        let segment: SegmentName = "lan".parse().expect("a good name");
        let segment_key = SegmentKey(derive("segment", 0));
        let publish_key = PublishKey { epoch: 1, key: SecretKey::from_bytes(&derive("publish", 0)) };
        let publish_keys = PublishKeys { keys: vec![(1, publish_key.key.public())] };
        let key = SecretKey::from_bytes(&derive("server", number));
        let credential = Credential {
            cluster,
            server: id,
            name: format!("w{number}").parse().expect("a good name"),
            segment: segment.clone(),
            roles: Roles::default(),
            key: key.public(),
            expires: WallTime(wall_time().0 + HOUR_MILLIS),
        };
        let credential = Signed::sign(&credential, &publish_key);
        let channels = Channels::join(&arguments.interface, ChannelAddresses::of(cluster, &segment))?;
        Ok(Self {
            id,
            cluster,
            segment_key,
            pairs: PairKeys::new(key.clone()),
            word: arguments.word.clone(),
            keys: BTreeMap::new(),
            sealer: Sealer::new(key, segment_key, &credential, wall_time().0),
            opener: Opener::new(id, cluster, segment, segment_key, publish_keys.clone()),
            publish_key,
            publish_keys,
            channels,
            transfer_port: 0,
            buffer: vec![0; CONTROL_BYTES_MAX],
        })
    }

    fn key_of(&mut self, server: ServerId) -> PublicKey {
        let word = &self.word;
        let public = || SecretKey::from_bytes(&derive(word, "server", number(server))).public();
        *self.keys.entry(server).or_insert_with(public)
    }

    /// How these members are told the secret of a session.
    pub(crate) fn grants(&mut self, ticket: &Ticket, name: SessionName, secret: SessionSecret) -> Vec<Grant> {
        let hidden = ticket.targets.iter().filter_map(|member| {
            let key = self.key_of(*member);
            Grant::new(ticket, *member, self.pairs.hide(&key, name, secret)?)
        });
        hidden.collect()
    }

    /// The secret of a session that was announced.
    pub(crate) fn secret(&mut self, grants: &[Grant], ticket: &Ticket, name: SessionName) -> Option<SessionSecret> {
        let key = self.key_of(name.leader);
        self.pairs.reveal(&key, name, Grant::find(grants, ticket, self.id)?)
    }

    /// Says something about a session: to one, or to all.
    pub(crate) fn say(&mut self, to: Option<(ServerId, SocketAddr)>, message: Message) {
        let body =
            postcard::to_stdvec(&Control::Session { message, transfer_port: self.transfer_port }).expect("plain data");
        let key = to.map(|(server, _)| (server, self.key_of(server)));
        let Self { sealer, pairs, .. } = self;
        let datagram = match key.map(|(server, key)| (server, pairs.with(&key))) {
            None => sealer.seal(To::Segment, &body),
            Some((server, None)) => sealer.seal(To::Stranger(server), &body),
            Some((server, Some(pair))) => sealer.seal(To::Peer(server, pair), &body),
        };
        let to = to.map_or(self.channels.addresses.control, |(_, address)| address);
        if let Err(error) = self.channels.control_unicast.try_send_to(&datagram, to) {
            tracing::debug!(%error, "a control datagram was not sent");
        }
    }

    /// Sends a datagram as it is.
    pub(crate) fn send_raw(&self, datagram: &[u8], to: SocketAddr) {
        if let Err(error) = self.channels.control_unicast.try_send_to(datagram, to) {
            tracing::debug!(%error, "a datagram was not sent");
        }
    }

    /// A control datagram as it came, and what it says; `None` when none waits.
    pub(crate) fn hear_raw(&mut self, channel: Channel) -> Option<Raw> {
        let (length, from) = channel.of(&self.channels).try_recv_from(&mut self.buffer).ok()?;
        let datagram = self.buffer[..length].to_vec();
        let opened = self.opener.open(&datagram, wall_time(), &mut self.pairs).ok();
        let said = opened.and_then(|Opened { sender, body }| match postcard::from_bytes(&body) {
            Ok(Control::Session { message, .. }) => Some((sender.server, message)),
            Ok(_) | Err(_) => None,
        });
        Some(Raw { datagram, from, said })
    }

    /// What a control datagram says about a session, from whom, and where that server is and serves objects;
    /// `None` when none waits. Datagrams that are not believed are passed over.
    pub(crate) fn hear(&mut self, channel: Channel) -> Option<(ServerId, Place, Message)> {
        loop {
            let socket = channel.of(&self.channels);
            let (length, from) = socket.try_recv_from(&mut self.buffer).ok()?;
            let Self { opener, pairs, buffer, .. } = self;
            let Ok(Opened { sender, body }) = opener.open(&buffer[..length], wall_time(), pairs) else { continue };
            if let Ok(Control::Session { message, transfer_port }) = postcard::from_bytes(&body) {
                let transfer = SocketAddr::new(from.ip(), transfer_port);
                return Some((sender.server, Place { control: from, transfer }, message));
            }
        }
    }
}

/// A control datagram.
pub(crate) struct Raw {
    pub(crate) datagram: Vec<u8>,
    pub(crate) from: SocketAddr,
    /// Who says what, if it is believed.
    pub(crate) said: Option<(ServerId, Message)>,
}

/// Where another server is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) control: SocketAddr,
    pub(crate) transfer: SocketAddr,
}

/// One of the two control sockets.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Channel {
    Multicast,
    Unicast,
}

impl Channel {
    fn of(self, channels: &Channels) -> &UdpSocket {
        match self {
            Self::Multicast => &channels.control_multicast,
            Self::Unicast => &channels.control_unicast,
        }
    }
}
