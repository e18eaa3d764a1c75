//! How a server's sockets on its segment are opened: at which port it is spoken to, and whether it
//! listens to multicast at all.

use std::net::SocketAddr;

use crate::sockets::{ChannelAddresses, TTL_DEFAULT};

/// The port at which a server hears what is said to it alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ControlPort {
    /// Two above that of the control channel, so that nothing needs to be configured; any other when a
    /// server on the same machine has it.
    #[default]
    Derived,
    /// The administrator's word: this one or none.
    Fixed(u16),
    /// Whichever is free: for who is not spoken to first.
    Any,
}

impl ControlPort {
    /// The port to try first, and whether any other will do.
    #[must_use]
    pub fn wish(self, addresses: ChannelAddresses) -> (u16, bool) {
        match self {
            Self::Derived => (derived(addresses.control), true),
            Self::Fixed(port) => (port, false),
            Self::Any => (0, false),
        }
    }
}

fn derived(control: SocketAddr) -> u16 {
    // The next one is that of the data channel.
    control.port().saturating_add(2)
}

/// Which of the segment's own groups a server joins with its sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Hears {
    /// Control and data channel.
    #[default]
    All,
    /// The data channel: the control channel may be moved, and is listened to by
    /// [`ControlChannels`](crate::control::ControlChannels).
    Data,
    /// None. Joining is itself said by multicast, so a server that is to send none does not.
    Nothing,
}

/// What a server wants of its sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wishes {
    /// Where it is spoken to.
    pub port: ControlPort,
    /// What it listens to.
    pub hears: Hears,
    /// How many links what is multicast may cross.
    pub ttl: u32,
}

impl Default for Wishes {
    fn default() -> Self {
        Self { port: ControlPort::default(), hears: Hears::default(), ttl: TTL_DEFAULT }
    }
}

#[cfg(test)]
mod tests {
    use common::ids::ClusterId;

    use super::*;
    use crate::interface::{Attachment, Family};
    use crate::sockets::Channels;

    fn loopback() -> Attachment {
        Attachment::find("lo", Family::Ipv4).expect("there is a loopback")
    }

    fn addresses() -> ChannelAddresses {
        ChannelAddresses::of(ClusterId::random(), &"s1".parse().expect("good"))
    }

    #[test]
    fn the_derived_port_is_none_of_the_channels_own() {
        let addresses = addresses();
        let (port, any_other) = ControlPort::Derived.wish(addresses);
        assert!(any_other && port != addresses.control.port() && port != addresses.data.port());
        assert_eq!(ControlPort::Fixed(4001).wish(addresses), (4001, false));
    }

    #[tokio::test]
    async fn of_several_servers_on_a_machine_the_first_has_the_derived_port_and_a_configured_one_is_not_replaced() {
        let addresses = addresses();
        let (port, _) = ControlPort::Derived.wish(addresses);
        let one = Channels::join("lo", addresses).expect("joins");
        let other = Channels::join("lo", addresses).expect("joins");
        let port_of = |channels: &Channels| channels.control_unicast.local_addr().expect("bound").port();
        assert_eq!(port_of(&one), port);
        assert_ne!(port_of(&other), port);
        let wishes = Wishes { port: ControlPort::Fixed(port), ..Wishes::default() };
        assert!(Channels::join_with(loopback(), addresses, wishes).is_err(), "it is taken");
    }

    #[tokio::test]
    async fn without_multicast_what_is_said_to_the_group_is_not_heard() {
        let addresses = addresses();
        let deaf = [Hears::Data, Hears::Nothing].map(|hears| {
            Channels::join_with(loopback(), addresses, Wishes { hears, ..Wishes::default() }).expect("joins")
        });
        let hears = Channels::join("lo", addresses).expect("joins");
        hears.control_unicast.send_to(b"hello", addresses.control).await.expect("sends");
        let mut buffer = [0; 16];
        hears.control_multicast.recv_from(&mut buffer).await.expect("hears");
        for deaf in deaf {
            assert!(deaf.control_multicast.try_recv_from(&mut buffer).is_err());
        }
    }
}
