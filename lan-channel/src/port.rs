//! How a server's sockets on its segment are opened: at which port it is spoken to, and whether it
//! listens to multicast at all.

use std::net::SocketAddrV4;

use crate::sockets::ChannelAddresses;

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

fn derived(control: SocketAddrV4) -> u16 {
    // The next one is that of the data channel.
    control.port().saturating_add(2)
}

/// What a server wants of its sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wishes {
    /// Where it is spoken to.
    pub port: ControlPort,
    /// Whether it joins the segment's groups. Joining is itself said by multicast, so a server that is to
    /// send none does not.
    pub multicast: bool,
}

impl Default for Wishes {
    fn default() -> Self {
        Self { port: ControlPort::default(), multicast: true }
    }
}

#[cfg(test)]
mod tests {
    use common::ids::ClusterId;

    use super::*;
    use crate::sockets::Channels;

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
        let wishes = Wishes { port: ControlPort::Fixed(port), multicast: true };
        assert!(Channels::join_with("lo", addresses, wishes).is_err(), "it is taken");
    }

    #[tokio::test]
    async fn without_multicast_what_is_said_to_the_group_is_not_heard() {
        let addresses = addresses();
        let deaf = Channels::join_with("lo", addresses, Wishes { multicast: false, ..Wishes::default() });
        let deaf = deaf.expect("joins");
        let hears = Channels::join("lo", addresses).expect("joins");
        hears.control_unicast.send_to(b"hello", addresses.control).await.expect("sends");
        let mut buffer = [0; 16];
        hears.control_multicast.recv_from(&mut buffer).await.expect("hears");
        assert!(deaf.control_multicast.try_recv_from(&mut buffer).is_err());
    }
}
