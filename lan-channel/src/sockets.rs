//! The sockets of a server on its segment, and the addresses that cluster and segment imply.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};

use common::channel::over_ipv6;
use common::ids::{ClusterId, SegmentName};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::net::UdpSocket;

use crate::data::{DataReceiver, DataSender};
use crate::interface::{Attachment, Family, is_link_local};
use crate::port::{Hears, Wishes};

/// How many routers multicast passes when nothing else is said: none, it stays on the segment.
pub const TTL_DEFAULT: u32 = 1;
/// Receive buffer asked for on the data channel: what arrives in a fifth of a second at 1 Gbit/s, while
/// the process is kept from running.
pub const DATA_BUFFER_BYTES: usize = 32 << 20;
/// Receive buffer asked for on the control channel.
const CONTROL_BUFFER_BYTES: usize = 1 << 20;
/// Send buffer of the control channel.
const SEND_BUFFER_BYTES: usize = 1 << 20;
/// Send buffer of the data channel, twice of which the kernel grants. Small, so that a full link slows
/// the sender before the queue below the socket drops anything, and so that a question is heard
/// soon. Large enough that a link of 100 Mbit/s does not run dry while the sender waits for the processor: the
/// kernel counts a frame of 1,396 bytes as 2,304, so 512 KiB leave in 3 ms at 1 Gbit/s and in 26 ms at 100 Mbit/s.
const DATA_SEND_BUFFER_BYTES: usize = 256 << 10;

/// The multicast addresses of a segment. Organisation-local scope (RFC 2365, 239.192/14), derived,
/// so that nothing needs to be configured and clusters do not meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChannelAddresses {
    /// Where control datagrams go.
    pub control: SocketAddr,
    /// Where data frames go that have no channel of their own.
    pub data: SocketAddr,
}

impl ChannelAddresses {
    /// The addresses of a segment of a cluster, over IPv4.
    #[must_use]
    pub fn of(cluster: ClusterId, segment: &SegmentName) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("pressrun channel addresses 1");
        hasher.update(&cluster.0);
        hasher.update(segment.as_str().as_bytes());
        let hash = hasher.finalize();
        let hash = hash.as_bytes();
        let group = |at: usize| Ipv4Addr::new(239, 192 + (hash[at] & 3), hash[at + 1], hash[at + 2].clamp(1, 254));
        // Below the usual ephemeral range, so that a client port never takes it.
        let port = 20_000 + u16::from_le_bytes([hash[6], hash[7]]) % 10_000;
        Self { control: SocketAddr::from((group(0), port)), data: SocketAddr::from((group(3), port + 1)) }
    }

    /// The same over this version of IP.
    #[must_use]
    pub fn in_family(self, family: Family) -> Self {
        let translated = |channel| in_family(channel, family).unwrap_or(channel);
        Self { control: translated(self.control), data: translated(self.data) }
    }

    /// The version of IP that they use.
    #[must_use]
    pub fn family(&self) -> Family {
        Family::of(self.control.ip())
    }

    /// Where the frames of a session go: to the channel that its ticket names, if the segment can have it,
    /// else to the segment's own.
    #[must_use]
    pub fn data_for(&self, channel: Option<SocketAddr>) -> SocketAddr {
        channel.and_then(|channel| in_family(channel, self.family())).unwrap_or(self.data)
    }
}

/// The channel over this version of IP; `None` when there is none, for not every group of IPv6 has one of
/// IPv4.
fn in_family(channel: SocketAddr, family: Family) -> Option<SocketAddr> {
    match (channel.ip(), family) {
        (IpAddr::V4(_), Family::Ipv4) | (IpAddr::V6(_), Family::Ipv6) => Some(channel),
        (IpAddr::V4(group), Family::Ipv6) => Some(SocketAddr::from((over_ipv6(group), channel.port()))),
        (IpAddr::V6(_), Family::Ipv4) => None,
    }
}

/// Why the segment cannot be joined.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// No such interface, or it has no address of the segment's version of IP.
    #[error("the interface {interface:?} does not exist or has no {} address; see `ip addr`", family.as_str())]
    Interface {
        /// What was asked for.
        interface: String,
        /// The version of IP.
        family: Family,
    },
    /// More than one could be meant.
    #[error("there are several network interfaces: say with --interface which is the segment's ({interfaces})")]
    Several {
        /// Those there are.
        interfaces: String,
    },
    /// The interfaces cannot be listed.
    #[error("the network interfaces cannot be listed")]
    Interfaces(#[source] io::Error),
    /// A socket cannot be made.
    #[error("cannot {what} on {address}")]
    Socket {
        /// What was tried.
        what: &'static str,
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
}

/// A server's sockets on its segment.
#[derive(Debug)]
pub struct Channels {
    /// Receives control multicast.
    pub control_multicast: UdpSocket,
    /// Sends all control datagrams and receives those sent to this server alone.
    pub control_unicast: UdpSocket,
    /// Receives data frames.
    pub data_receive: DataReceiver,
    /// Sends data frames.
    pub data_send: DataSender,
    /// Where multicast goes.
    pub addresses: ChannelAddresses,
    /// Where this server is on the segment.
    pub attachment: Attachment,
    /// What the kernel really gave as receive buffer of the data channel, in bytes of datagrams.
    pub data_buffer_bytes: usize,
}

impl Channels {
    /// Joins the segment by the interface with this name or address. What is multicast stays on the segment.
    ///
    /// # Errors
    /// [`ChannelError`] names interface or socket.
    pub fn join(interface: &str, addresses: ChannelAddresses) -> Result<Self, ChannelError> {
        Self::join_with(Attachment::find(interface, addresses.family())?, addresses, Wishes::default())
    }

    /// The same with other sockets than usual.
    ///
    /// # Errors
    /// [`ChannelError`] names the socket.
    pub fn join_with(
        attachment: Attachment,
        addresses: ChannelAddresses,
        wishes: Wishes,
    ) -> Result<Self, ChannelError> {
        let Wishes { port, hears, ttl } = wishes;
        let control_multicast = control_receiver(addresses.control, &attachment, hears == Hears::All)?;
        let data_receive = data_receiver(addresses.data, &attachment, hears != Hears::Nothing)?;
        let data_buffer_bytes = data_receive.buffer_bytes();
        if hears != Hears::Nothing && data_buffer_bytes < DATA_BUFFER_BYTES {
            tracing::warn!(
                asked_bytes = DATA_BUFFER_BYTES,
                granted_bytes = data_buffer_bytes,
                limit = "net.core.rmem_max",
                "the kernel limits the receive buffer of the data channel: frames are lost when this server is busy"
            );
        }
        let data_send = sender(&attachment, 0, ttl, DATA_SEND_BUFFER_BYTES)?;
        let data_send = DataSender::new(data_send, scoped(addresses.data, &attachment))
            .map_err(|source| ChannelError::Socket { what: "send by the batch", address: addresses.data, source })?;
        let (port, any_other) = port.wish(addresses);
        let control_unicast = match sender(&attachment, port, ttl, SEND_BUFFER_BYTES) {
            Err(ChannelError::Socket { source, .. }) if any_other && source.kind() == io::ErrorKind::AddrInUse => {
                sender(&attachment, 0, ttl, SEND_BUFFER_BYTES)
            }
            opened => opened,
        }?;
        let addresses = ChannelAddresses {
            control: scoped(addresses.control, &attachment),
            data: scoped(addresses.data, &attachment),
        };
        Ok(Self {
            control_multicast,
            control_unicast,
            data_receive,
            data_send,
            addresses,
            attachment,
            data_buffer_bytes,
        })
    }

    /// This server's own address, with a port.
    #[must_use]
    pub fn own(&self, port: u16) -> SocketAddr {
        at(&self.attachment, port)
    }
}

/// A socket that receives what is said on a control channel.
pub(crate) fn control_receiver(
    channel: SocketAddr,
    attachment: &Attachment,
    joins: bool,
) -> Result<UdpSocket, ChannelError> {
    control_socket(channel, attachment, joins)
}

/// The receiving end of a data channel.
pub(crate) fn data_receiver(
    channel: SocketAddr,
    attachment: &Attachment,
    joins: bool,
) -> Result<DataReceiver, ChannelError> {
    let socket = multicast_receiver(channel, attachment, DATA_BUFFER_BYTES, joins)?;
    let buffer_bytes = granted(&socket);
    DataReceiver::new(socket, buffer_bytes).map_err(|source| ChannelError::Socket {
        what: "receive by the batch",
        address: channel,
        source,
    })
}

/// This server's own address.
fn at(attachment: &Attachment, port: u16) -> SocketAddr {
    scoped(SocketAddr::from((attachment.own, port)), attachment)
}

/// The address; one that means something on one link only says that it is the attachment's.
#[must_use]
pub fn scoped(address: SocketAddr, attachment: &Attachment) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) if is_link_local(address.ip()) => {
            SocketAddr::V6(SocketAddrV6::new(*v6.ip(), v6.port(), 0, attachment.index))
        }
        SocketAddr::V4(_) | SocketAddr::V6(_) => address,
    }
}

/// Listens to a group of its own.
///
/// # Errors
/// [`ChannelError::Socket`].
pub fn listen_to(group: SocketAddr, attachment: &Attachment) -> Result<UdpSocket, ChannelError> {
    control_socket(group, attachment, true)
}

fn control_socket(channel: SocketAddr, attachment: &Attachment, joins: bool) -> Result<UdpSocket, ChannelError> {
    let socket = multicast_receiver(channel, attachment, CONTROL_BUFFER_BYTES, joins)?;
    UdpSocket::from_std(socket).map_err(|source| not_listening(channel, source))
}

fn not_listening(channel: SocketAddr, source: io::Error) -> ChannelError {
    ChannelError::Socket { what: "listen to multicast", address: channel, source }
}

/// What the kernel gave as receive buffer, of which it counts its own share as much again.
fn granted(socket: &std::net::UdpSocket) -> usize {
    socket2::SockRef::from(socket).recv_buffer_size().unwrap_or(0) / 2
}

/// A socket of the attachment's version of IP.
fn socket(attachment: &Attachment) -> io::Result<Socket> {
    let domain = match attachment.own {
        IpAddr::V4(_) => Domain::IPV4,
        IpAddr::V6(_) => Domain::IPV6,
    };
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    if attachment.own.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

fn multicast_receiver(
    channel: SocketAddr,
    attachment: &Attachment,
    buffer_bytes: usize,
    joins: bool,
) -> Result<std::net::UdpSocket, ChannelError> {
    let attempt = || {
        let socket = socket(attachment)?;
        // Several agents on one machine (a demonstration, a test) hear the same channel.
        socket.set_reuse_address(true)?;
        // An administrator's process may go beyond rmem_max; for others the kernel caps it there.
        if rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, buffer_bytes).is_err() {
            socket.set_recv_buffer_size(buffer_bytes).ok();
        }
        match (channel.ip(), attachment.own) {
            (IpAddr::V4(group), IpAddr::V4(own)) => {
                socket.set_multicast_all_v4(false)?;
                socket.bind(&SockAddr::from(channel))?;
                if joins {
                    socket.join_multicast_v4(&group, &own)?;
                }
            }
            (IpAddr::V6(group), IpAddr::V6(_)) => {
                socket.set_multicast_all_v6(false)?;
                socket.bind(&SockAddr::from(scoped(channel, attachment)))?;
                if joins {
                    socket.join_multicast_v6(&group, attachment.index)?;
                }
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {
                return Err(io::ErrorKind::AddrNotAvailable.into());
            }
        }
        socket.set_nonblocking(true)?;
        Ok(socket.into())
    };
    attempt().map_err(|source| not_listening(channel, source))
}

fn sender(attachment: &Attachment, port: u16, ttl: u32, buffer_bytes: usize) -> Result<UdpSocket, ChannelError> {
    let own = at(attachment, port);
    let attempt = || {
        let socket = socket(attachment)?;
        match own {
            SocketAddr::V4(own) => {
                socket.set_multicast_if_v4(own.ip())?;
                socket.set_multicast_ttl_v4(ttl)?;
                socket.set_multicast_loop_v4(true)?;
            }
            SocketAddr::V6(_) => {
                socket.set_multicast_if_v6(attachment.index)?;
                socket.set_multicast_hops_v6(ttl)?;
                socket.set_multicast_loop_v6(true)?;
            }
        }
        socket.set_send_buffer_size(buffer_bytes).ok();
        socket.set_recv_buffer_size(CONTROL_BUFFER_BYTES).ok();
        socket.bind(&SockAddr::from(own))?;
        socket.set_nonblocking(true)?;
        UdpSocket::from_std(socket.into())
    };
    attempt().map_err(|source| ChannelError::Socket { what: "open a socket", address: own, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn heard_by_all(one: &str, other: &str, family: Family) {
        let addresses = ChannelAddresses::of(ClusterId::random(), &"s1".parse().expect("good")).in_family(family);
        let one = Channels::join(one, addresses).expect("joins");
        let other = Channels::join(other, addresses).expect("joins");
        one.control_unicast.send_to(b"hello", addresses.control).await.expect("sends");
        let mut buffer = [0; 16];
        for listener in [&one, &other] {
            let (length, _) = listener.control_multicast.recv_from(&mut buffer).await.expect("hears");
            assert_eq!(&buffer[..length], b"hello");
        }
    }

    #[tokio::test]
    async fn what_one_says_all_on_the_segment_hear() {
        heard_by_all("lo", "127.0.0.1", Family::Ipv4).await;
    }

    #[test]
    fn the_channel_that_a_ticket_names_is_taken_where_the_segment_can_have_it() {
        let own = ChannelAddresses::of(ClusterId([1; 16]), &"s1".parse().expect("good"));
        let channel = |text: &str| Some(text.parse().expect("an address"));
        assert_eq!(own.data_for(None), own.data);
        assert_eq!(own.data_for(channel("239.1.2.3:5000")).to_string(), "239.1.2.3:5000");
        assert_eq!(own.data_for(channel("[ff18::1]:5000")), own.data, "IPv4 has no such group");
        let over_ipv6 = own.in_family(Family::Ipv6);
        assert_eq!(over_ipv6.data_for(channel("239.1.2.3:5000")).to_string(), "[ff18::7072:ef01:203]:5000");
        assert_eq!(over_ipv6.data_for(channel("[ff18::1]:5000")).to_string(), "[ff18::1]:5000");
        assert_eq!(over_ipv6.control.port(), own.control.port());
        assert!(over_ipv6.control.ip().is_multicast() && over_ipv6.control.is_ipv6());
    }

    #[test]
    fn clusters_and_segments_do_not_meet() {
        let segment = "s1".parse().expect("good");
        let one = ChannelAddresses::of(ClusterId([1; 16]), &segment);
        assert_eq!(one, ChannelAddresses::of(ClusterId([1; 16]), &segment));
        assert_ne!(one, ChannelAddresses::of(ClusterId([2; 16]), &segment));
        assert_ne!(one, ChannelAddresses::of(ClusterId([1; 16]), &"s2".parse().expect("good")));
    }

    #[test]
    fn a_missing_interface_is_named() {
        let error = Channels::join("nowhere0", ChannelAddresses::of(ClusterId([1; 16]), &"s".parse().expect("good")));
        assert!(matches!(error, Err(ChannelError::Interface { interface, .. }) if interface == "nowhere0"));
    }
}
