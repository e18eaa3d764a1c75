//! The control channels that a server listens to: one, and two while its segment moves.

use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Poll;

use tokio::net::UdpSocket;

use crate::interface::Attachment;
use crate::sockets::{ChannelError, control_receiver};

/// The control channels that are listened to at present.
#[derive(Debug)]
pub struct ControlChannels {
    attachment: Attachment,
    /// Whether any is listened to.
    multicast: bool,
    joined: BTreeMap<SocketAddr, Arc<UdpSocket>>,
}

impl ControlChannels {
    /// None yet; and none ever, if the server is to have nothing to do with multicast.
    #[must_use]
    pub fn new(attachment: Attachment, multicast: bool) -> Self {
        Self { attachment, multicast, joined: BTreeMap::new() }
    }

    /// Listens to these channels, and to no others. Returns those that cannot be listened to, and why.
    pub fn keep(&mut self, wanted: &BTreeSet<SocketAddr>) -> Vec<(SocketAddr, ChannelError)> {
        self.joined.retain(|channel, _| wanted.contains(channel));
        let mut failed = Vec::new();
        for channel in wanted.iter().filter(|_| self.multicast) {
            if self.joined.contains_key(channel) {
                continue;
            }
            match control_receiver(*channel, &self.attachment, true) {
                Ok(socket) => drop(self.joined.insert(*channel, Arc::new(socket))),
                Err(error) => failed.push((*channel, error)),
            }
        }
        failed
    }

    /// The sockets, each with its channel.
    #[must_use]
    pub fn sockets(&self) -> Vec<(SocketAddr, Arc<UdpSocket>)> {
        self.joined.iter().map(|(channel, socket)| (*channel, socket.clone())).collect()
    }

    /// Waits until a datagram is here on some channel; for ever when none is listened to.
    ///
    /// # Errors
    /// When a socket cannot be waited for.
    pub async fn readable(&self) -> io::Result<()> {
        poll_fn(|context| {
            for socket in self.joined.values() {
                if let Poll::Ready(ready) = socket.poll_recv_ready(context) {
                    return Poll::Ready(ready);
                }
            }
            Poll::Pending
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use common::ids::ClusterId;

    use super::*;
    use crate::sockets::{ChannelAddresses, Channels};

    #[tokio::test]
    async fn what_is_said_on_a_channel_is_heard_while_it_is_listened_to() {
        let addresses = ChannelAddresses::of(ClusterId::random(), &"s1".parse().expect("good"));
        let sender = Channels::join("lo", addresses).expect("joins");
        let mut member = ControlChannels::new(sender.attachment.clone(), true);
        let port = u16::try_from(20_000 + std::process::id() % 10_000).expect("small");
        let [old, new] = [3, 4].map(|last| SocketAddr::from(([239, 195, 77, last], port)));
        assert!(member.keep(&[old, new].into()).is_empty());
        for channel in [old, new] {
            sender.control_unicast.send_to(channel.to_string().as_bytes(), channel).await.expect("sends");
        }
        let mut buffer = [0; 32];
        for (channel, socket) in member.sockets() {
            socket.readable().await.expect("it can be waited for");
            let (length, _) = socket.try_recv_from(&mut buffer).expect("it is here");
            assert_eq!(&buffer[..length], channel.to_string().as_bytes());
        }
        assert!(member.keep(&[new].into()).is_empty());
        assert_eq!(member.sockets().len(), 1);
        assert_eq!(member.sockets()[0].0, new);

        let mut without = ControlChannels::new(sender.attachment.clone(), false);
        assert!(without.keep(&[new].into()).is_empty());
        assert!(without.sockets().is_empty(), "joining would be said by multicast");
    }
}
