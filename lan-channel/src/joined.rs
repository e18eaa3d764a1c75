//! The data channels of content groups that a server listens to: joined when a session needs one, left when
//! none does, so that frames reach only those they are for.
//!
//! Leaves to others: which session needs which channel.

use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::task::Poll;

use crate::data::{DataReceiver, FrameBatch};
use crate::interface::Attachment;
use crate::sockets::{ChannelError, data_receiver};

/// The channels that are joined at present.
#[derive(Debug)]
pub struct JoinedChannels {
    attachment: Attachment,
    joined: BTreeMap<SocketAddr, DataReceiver>,
    /// Frames that the kernel dropped on channels that were left.
    left_overflows: u64,
}

impl JoinedChannels {
    /// None yet.
    #[must_use]
    pub fn new(attachment: Attachment) -> Self {
        Self { attachment, joined: BTreeMap::new(), left_overflows: 0 }
    }

    /// Joins these channels and leaves all others. Returns those that cannot be joined, and why.
    pub fn keep(&mut self, wanted: &BTreeSet<SocketAddr>) -> Vec<(SocketAddr, ChannelError)> {
        let unwanted: Vec<SocketAddr> =
            self.joined.keys().filter(|channel| !wanted.contains(channel)).copied().collect();
        for channel in unwanted {
            if let Some(receiver) = self.joined.remove(&channel) {
                self.left_overflows += receiver.overflows().unwrap_or(0);
                drop(receiver);
                // Whoever reads this may rely on it that the kernel has left the group.
                tracing::debug!(%channel, "left a data channel");
            }
        }
        let mut failed = Vec::new();
        for channel in wanted {
            if self.joined.contains_key(channel) {
                continue;
            }
            match data_receiver(*channel, &self.attachment, true) {
                Ok(receiver) => {
                    tracing::debug!(%channel, "joins a data channel");
                    self.joined.insert(*channel, receiver);
                }
                Err(error) => failed.push((*channel, error)),
            }
        }
        failed
    }

    /// Waits until a frame is here on some channel; for ever when none is joined.
    ///
    /// # Errors
    /// When a socket cannot be waited for.
    pub async fn readable(&self) -> io::Result<()> {
        poll_fn(|context| {
            for receiver in self.joined.values() {
                if let Poll::Ready(ready) = receiver.poll_readable(context) {
                    return Poll::Ready(ready);
                }
            }
            Poll::Pending
        })
        .await
    }

    /// Takes what has arrived on all channels, as much of each as one call gives. Returns how many frames
    /// that were; 0 when none waits.
    pub fn take(&self, batch: &mut FrameBatch, mut frame: impl FnMut(&mut [u8])) -> usize {
        self.joined.values().map(|receiver| receiver.take(batch, &mut frame)).sum()
    }

    /// How many frames the kernel has dropped because a buffer was full, on all channels that were ever
    /// joined.
    #[must_use]
    pub fn overflows(&self) -> u64 {
        let present: u64 = self.joined.values().filter_map(DataReceiver::overflows).sum();
        self.left_overflows + present
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use common::ids::ClusterId;

    use super::*;
    use crate::data::FrameSink as _;
    use crate::interface::Family;
    use crate::sockets::{ChannelAddresses, Channels};

    #[tokio::test]
    async fn frames_of_a_channel_are_heard_by_those_who_joined_it_as_long_as_they_do() {
        let addresses = ChannelAddresses::of(ClusterId::random(), &"s1".parse().expect("good"));
        let sender = Channels::join("lo", addresses).expect("joins");
        let mut member = JoinedChannels::new(Attachment::find("lo", Family::Ipv4).expect("there is a loopback"));
        // Groups and a port of this process's own.
        let port = u16::try_from(20_000 + std::process::id() % 10_000).expect("small");
        let [east, west] = [1, 2].map(|last| SocketAddr::from(([239, 195, 77, last], port)));
        let send = |channel| {
            let mut sink = sender.data_send.to(channel);
            sink.offer(&[1, 2, 3], 3)
        };
        let mut batch = FrameBatch::default();

        assert!(member.keep(&[east].into()).is_empty());
        // A socket that nobody has waited for yet takes nothing.
        sender.data_send.writable().await.expect("waits");
        send(west);
        send(east);
        member.readable().await.expect("it can be waited for");
        let mut heard = Vec::new();
        assert_eq!(member.take(&mut batch, |frame| heard.push(frame.to_vec())), 1);
        assert_eq!(heard, [[1, 2, 3]]);

        assert!(member.keep(&[west].into()).is_empty());
        send(east);
        send(west);
        member.readable().await.expect("it can be waited for");
        assert_eq!(member.take(&mut batch, |_| ()), 1);
        assert_eq!(member.take(&mut batch, |_| ()), 0);

        assert!(member.keep(&BTreeSet::new()).is_empty());
        send(west);
        let silence = tokio::time::timeout(Duration::from_millis(1), member.readable()).await;
        assert!(silence.is_err(), "nothing is joined");
        assert_eq!(member.overflows(), 0);
    }

    #[test]
    fn a_channel_of_another_version_of_ip_cannot_be_joined() {
        let mut member = JoinedChannels::new(Attachment::find("lo", Family::Ipv4).expect("there is a loopback"));
        let channel: SocketAddr = "[ff18::1]:5000".parse().expect("an address");
        let failed = member.keep(&[channel].into());
        assert!(matches!(failed.as_slice(), [(refused, ChannelError::Socket { .. })] if *refused == channel));
    }
}
