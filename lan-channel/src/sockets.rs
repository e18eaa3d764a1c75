//! The sockets of a server on its segment, and the addresses that cluster and segment imply.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};

use common::ids::{ClusterId, SegmentName};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::net::UdpSocket;

use crate::data::{DataReceiver, DataSender};
use crate::port::Wishes;

/// Time to live of what is multicast: it stays on the segment.
const TTL: u32 = 1;
/// Receive buffer asked for on the data channel: what arrives in a fifth of a second at 1 Gbit/s, while
/// the process is kept from running.
pub const DATA_BUFFER_BYTES: usize = 32 << 20;
/// Receive buffer asked for on the control channel.
const CONTROL_BUFFER_BYTES: usize = 1 << 20;
/// Send buffer of the control channel.
const SEND_BUFFER_BYTES: usize = 1 << 20;
/// Send buffer of the data channel, twice of which the kernel grants. Small, so that a full link slows
/// the sender before the queue below the socket drops anything, and so that a question is heard
/// soon: 256 KiB leave in 2 ms at 1 Gbit/s and in 21 ms at 100 Mbit/s.
const DATA_SEND_BUFFER_BYTES: usize = 128 << 10;

/// The multicast addresses of a segment. Organisation-local scope (RFC 2365, 239.192/14), derived,
/// so that nothing needs to be configured and clusters do not meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChannelAddresses {
    /// Where control datagrams go.
    pub control: SocketAddrV4,
    /// Where data frames go.
    pub data: SocketAddrV4,
}

impl ChannelAddresses {
    /// The addresses of a segment of a cluster.
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
        Self { control: SocketAddrV4::new(group(0), port), data: SocketAddrV4::new(group(3), port + 1) }
    }
}

/// Why the segment cannot be joined.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// No such interface, or it has no IPv4 address.
    #[error("the interface {interface:?} does not exist or has no IPv4 address; see `ip -4 addr`")]
    Interface {
        /// What was asked for.
        interface: String,
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
    /// This server's own address on the segment.
    pub own: Ipv4Addr,
    /// What the kernel really gave as receive buffer of the data channel, in bytes of datagrams.
    pub data_buffer_bytes: usize,
}

impl Channels {
    /// Joins the segment by the interface with this name or address.
    ///
    /// # Errors
    /// [`ChannelError`] names interface or socket.
    pub fn join(interface: &str, addresses: ChannelAddresses) -> Result<Self, ChannelError> {
        Self::join_with(interface, addresses, Wishes::default())
    }

    /// The same with other sockets than usual.
    ///
    /// # Errors
    /// [`ChannelError`] names interface or socket.
    pub fn join_with(interface: &str, addresses: ChannelAddresses, wishes: Wishes) -> Result<Self, ChannelError> {
        let own = interface_address(interface)?;
        let control_multicast = multicast_receiver(addresses.control, own, CONTROL_BUFFER_BYTES, wishes.multicast)?;
        let data_receive = multicast_receiver(addresses.data, own, DATA_BUFFER_BYTES, wishes.multicast)?;
        let data_buffer_bytes = granted(&data_receive);
        if wishes.multicast && data_buffer_bytes < DATA_BUFFER_BYTES {
            tracing::warn!(
                asked_bytes = DATA_BUFFER_BYTES,
                granted_bytes = data_buffer_bytes,
                limit = "net.core.rmem_max",
                "the kernel limits the receive buffer of the data channel: frames are lost when this server is busy"
            );
        }
        let failed = |what, address| move |source| ChannelError::Socket { what, address, source };
        let data = SocketAddr::V4(addresses.data);
        let data_send = sender(own, 0, DATA_SEND_BUFFER_BYTES)?;
        let (port, any_other) = wishes.port.wish(addresses);
        let control_unicast = match sender(own, port, SEND_BUFFER_BYTES) {
            Err(ChannelError::Socket { source, .. }) if any_other && source.kind() == io::ErrorKind::AddrInUse => {
                sender(own, 0, SEND_BUFFER_BYTES)
            }
            opened => opened,
        }?;
        Ok(Self {
            control_multicast,
            control_unicast,
            data_receive: DataReceiver::new(data_receive).map_err(failed("receive by the batch", data))?,
            data_send: DataSender::new(data_send, data).map_err(failed("send by the batch", data))?,
            addresses,
            own,
            data_buffer_bytes,
        })
    }
}

/// Listens to a group of its own.
///
/// # Errors
/// [`ChannelError::Socket`].
pub fn listen_to(group: SocketAddrV4, own: Ipv4Addr) -> Result<UdpSocket, ChannelError> {
    multicast_receiver(group, own, CONTROL_BUFFER_BYTES, true)
}

/// What the kernel gave as receive buffer, of which it counts its own share as much again.
fn granted(socket: &UdpSocket) -> usize {
    socket2::SockRef::from(socket).recv_buffer_size().unwrap_or(0) / 2
}

/// The IPv4 address of an interface given by name, or by the address itself.
///
/// # Errors
/// [`ChannelError`] when there is none.
pub fn interface_address(interface: &str) -> Result<Ipv4Addr, ChannelError> {
    let interfaces = if_addrs::get_if_addrs().map_err(ChannelError::Interfaces)?;
    interfaces
        .iter()
        .filter_map(|candidate| match candidate.ip() {
            IpAddr::V4(address) => Some((candidate.name.as_str(), address)),
            IpAddr::V6(_) => None,
        })
        .find(|(name, address)| *name == interface || address.to_string() == interface)
        .map(|(_, address)| address)
        .ok_or_else(|| ChannelError::Interface { interface: interface.to_owned() })
}

/// The interface to use when none is named: the only one besides the loopback, or the loopback when
/// there is no other.
///
/// # Errors
/// [`ChannelError::Several`] when there is a choice: a guess could put a server on the wrong network.
pub fn default_interface() -> Result<Ipv4Addr, ChannelError> {
    let interfaces = if_addrs::get_if_addrs().map_err(ChannelError::Interfaces)?;
    let addresses: Vec<(String, Ipv4Addr)> = interfaces
        .into_iter()
        .filter_map(|candidate| match candidate.ip() {
            IpAddr::V4(address) => Some((candidate.name, address)),
            IpAddr::V6(_) => None,
        })
        .collect();
    only_interface(&addresses)
}

fn only_interface(addresses: &[(String, Ipv4Addr)]) -> Result<Ipv4Addr, ChannelError> {
    let others: Vec<&(String, Ipv4Addr)> = addresses.iter().filter(|(_, address)| !address.is_loopback()).collect();
    match others.as_slice() {
        [(_, address)] => Ok(*address),
        [] => addresses
            .first()
            .map(|(_, address)| *address)
            .ok_or_else(|| ChannelError::Interface { interface: "(any)".into() }),
        several => {
            let names: Vec<String> = several.iter().map(|(name, address)| format!("{name} ({address})")).collect();
            Err(ChannelError::Several { interfaces: names.join(", ") })
        }
    }
}

fn multicast_receiver(
    address: SocketAddrV4,
    own: Ipv4Addr,
    buffer_bytes: usize,
    joins: bool,
) -> Result<UdpSocket, ChannelError> {
    let attempt = || {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        // Several agents on one machine (a demonstration, a test) hear the same channel.
        socket.set_reuse_address(true)?;
        socket.set_multicast_all_v4(false)?;
        // An administrator's process may go beyond rmem_max; for others the kernel caps it there.
        if rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, buffer_bytes).is_err() {
            socket.set_recv_buffer_size(buffer_bytes).ok();
        }
        socket.bind(&SockAddr::from(address))?;
        if joins {
            socket.join_multicast_v4(address.ip(), &own)?;
        }
        socket.set_nonblocking(true)?;
        UdpSocket::from_std(socket.into())
    };
    attempt().map_err(|source| ChannelError::Socket { what: "listen to multicast", address: address.into(), source })
}

fn sender(own: Ipv4Addr, port: u16, buffer_bytes: usize) -> Result<UdpSocket, ChannelError> {
    let address = SocketAddrV4::new(own, port);
    let attempt = || {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        socket.set_multicast_if_v4(&own)?;
        socket.set_multicast_ttl_v4(TTL)?;
        socket.set_multicast_loop_v4(true)?;
        socket.set_send_buffer_size(buffer_bytes).ok();
        socket.set_recv_buffer_size(CONTROL_BUFFER_BYTES).ok();
        socket.bind(&SockAddr::from(address))?;
        socket.set_nonblocking(true)?;
        UdpSocket::from_std(socket.into())
    };
    attempt().map_err(|source| ChannelError::Socket { what: "open a socket", address: address.into(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_name_the_only_interface_is_taken_and_a_choice_is_left_to_the_administrator() {
        let interface = |name: &str, address: [u8; 4]| (name.to_owned(), Ipv4Addr::from(address));
        let (loopback, one, two) =
            (interface("lo", [127, 0, 0, 1]), interface("eth0", [10, 0, 0, 1]), interface("eth1", [10, 0, 1, 1]));
        let only = only_interface(&[loopback.clone(), one.clone()]).expect("the only one");
        assert_eq!(only, one.1);
        assert_eq!(only_interface(std::slice::from_ref(&loopback)).expect("no other"), loopback.1);
        let refused = only_interface(&[loopback, one, two]).expect_err("a choice");
        assert!(refused.to_string().contains("eth0 (10.0.0.1), eth1 (10.0.1.1)"), "{refused}");
    }

    #[tokio::test]
    async fn what_one_says_all_on_the_segment_hear() {
        let addresses = ChannelAddresses::of(ClusterId::random(), &"s1".parse().expect("good"));
        let one = Channels::join("lo", addresses).expect("joins");
        let other = Channels::join("127.0.0.1", addresses).expect("joins");
        one.control_unicast.send_to(b"hello", addresses.control).await.expect("sends");
        let mut buffer = [0; 16];
        for listener in [&one, &other] {
            let (length, _) = listener.control_multicast.recv_from(&mut buffer).await.expect("hears");
            assert_eq!(&buffer[..length], b"hello");
        }
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
        assert!(matches!(error, Err(ChannelError::Interface { interface }) if interface == "nowhere0"));
    }
}
