//! Addresses of multicast channels: which can be one, and the same group over IPv6.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Lowest port of a channel: those below are for services that a system knows by their numbers.
pub const PORT_MIN: u16 = 1024;

/// Why an address is no channel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChannelAddressError {
    /// Something else than ADDRESS:PORT.
    #[error("{text:?} is no channel; say ADDRESS:PORT, as 239.192.1.2:30000 or [ff18::1]:30000")]
    Form {
        /// What it was.
        text: String,
    },
    /// One server's address.
    #[error("{address} is no multicast address; channels are within 239.0.0.0/8 or ff00::/8")]
    NotMulticast {
        /// The address.
        address: IpAddr,
    },
    /// Every switch sends these everywhere, and hosts use them for themselves.
    #[error("{address} belongs to the network itself (224.0.0.0/24 and ff01::/16); take one within 239.0.0.0/8")]
    Reserved {
        /// The address.
        address: IpAddr,
    },
    /// A system's port.
    #[error("the port {port} is below {PORT_MIN}")]
    Port {
        /// The port.
        port: u16,
    },
}

/// The channel that a text names.
///
/// # Errors
/// [`ChannelAddressError`].
pub fn parse(text: &str) -> Result<SocketAddr, ChannelAddressError> {
    let address = text.parse().map_err(|_| ChannelAddressError::Form { text: text.to_owned() })?;
    check(address).map(|()| address)
}

/// Whether this can be a channel.
///
/// # Errors
/// [`ChannelAddressError`] when not.
pub fn check(channel: SocketAddr) -> Result<(), ChannelAddressError> {
    let address = channel.ip();
    if !address.is_multicast() {
        return Err(ChannelAddressError::NotMulticast { address });
    }
    let reserved = match address {
        IpAddr::V4(address) => address.octets()[..3] == [224, 0, 0],
        IpAddr::V6(address) => address.segments()[0] & 0xf == 1,
    };
    if reserved {
        return Err(ChannelAddressError::Reserved { address });
    }
    if channel.port() < PORT_MIN {
        return Err(ChannelAddressError::Port { port: channel.port() });
    }
    Ok(())
}

/// The group that stands for this one on a segment that uses IPv6: `ff18::7072:` and the four bytes.
///
/// Organisation-local and transient (RFC 4291); a group's number begins with its highest bit set, as those
/// that are not assigned by hand do (RFC 3307).
#[must_use]
pub fn over_ipv6(group: Ipv4Addr) -> Ipv6Addr {
    let [a, b, c, d] = group.octets();
    let high = u16::from_be_bytes([a, b]);
    let low = u16::from_be_bytes([c, d]);
    Ipv6Addr::new(0xff18, 0, 0, 0, 0, 0x7072, high, low)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_is_a_multicast_address_that_the_network_does_not_need_itself() {
        for good in ["239.192.1.2:30000", "224.0.1.5:1024", "[ff18::1]:5000", "[ff12::5]:65535"] {
            assert_eq!(parse(good), Ok(good.parse().expect("an address")), "{good}");
        }
        for (bad, why) in [
            ("239.192.1.2", "is no channel"),
            ("10.0.0.1:5000", "10.0.0.1 is no multicast address"),
            ("[fe80::1]:5000", "fe80::1 is no multicast address"),
            ("224.0.0.5:5000", "belongs to the network itself"),
            ("[ff01::5]:5000", "belongs to the network itself"),
            ("239.192.1.2:1023", "the port 1023 is below 1024"),
        ] {
            let error = parse(bad).expect_err(bad).to_string();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }

    #[test]
    fn every_group_has_one_of_its_own_over_ipv6() {
        let group = over_ipv6(Ipv4Addr::new(239, 192, 1, 2));
        assert_eq!(group, "ff18::7072:efc0:102".parse::<Ipv6Addr>().expect("an address"));
        assert!(group.is_multicast());
    }
}
