//! Who is who in the lab: hosts, their addresses, and the words for rates.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A host of the lab; each is a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Host {
    /// The host of the content control manager.
    Ccm,
    /// The WAN between the CCM and the segments.
    Wan,
    /// A segment's router, counted from 1.
    Router(u8),
    /// A server: its segment and its number in it, both counted from 1.
    Server(u8, u8),
}

impl Host {
    /// Its address on the network nearest to its users; the WAN's is the one towards the CCM.
    #[must_use]
    pub fn address(self) -> Ipv4Addr {
        match self {
            Self::Ccm => Ipv4Addr::new(10, 77, 0, 2),
            Self::Wan => Ipv4Addr::new(10, 77, 0, 1),
            Self::Router(segment) => Ipv4Addr::new(10, 77, segment, 1),
            Self::Server(segment, server) => Ipv4Addr::new(10, 77, segment, 10 + server),
        }
    }

    /// The same over IPv6, in a lab that has it.
    #[must_use]
    pub fn address6(self) -> Ipv6Addr {
        let (segment, host) = match self {
            Self::Ccm => (0, 2),
            Self::Wan => (0, 1),
            Self::Router(segment) => (u16::from(segment), 1),
            Self::Server(segment, server) => (u16::from(segment), 10 + u16::from(server)),
        };
        Ipv6Addr::new(0xfd77, 0, 0, segment, 0, 0, 0, host)
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ccm => f.write_str("ccm"),
            Self::Wan => f.write_str("wan"),
            Self::Router(segment) => write!(f, "s{segment}"),
            Self::Server(segment, server) => write!(f, "s{segment}w{server}"),
        }
    }
}

/// A word that names no host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} names no host of a lab: ccm, wan, s1 (a router) or s1w2 (a server)")]
pub struct NoSuchHost(pub String);

impl FromStr for Host {
    type Err = NoSuchHost;

    fn from_str(name: &str) -> Result<Self, NoSuchHost> {
        let error = || NoSuchHost(name.to_owned());
        match name {
            "ccm" => return Ok(Self::Ccm),
            "wan" => return Ok(Self::Wan),
            _ => (),
        }
        let rest = name.strip_prefix('s').ok_or_else(error)?;
        let host = match rest.split_once('w') {
            None => Self::Router(rest.parse().map_err(|_| error())?),
            Some((segment, server)) => {
                Self::Server(segment.parse().map_err(|_| error())?, server.parse().map_err(|_| error())?)
            }
        };
        if host.to_string() == name { Ok(host) } else { Err(error()) }
    }
}

/// How much a link carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rate {
    /// In bits per second.
    pub bits_per_sec: u64,
}

impl Rate {
    /// A rate in units of a million bits per second.
    #[must_use]
    pub const fn mbit(millions: u64) -> Self {
        Self { bits_per_sec: millions * 1_000_000 }
    }

    /// What `tbf` lets through at once: two milliseconds' worth, and never less than what a sender
    /// with segmentation offload hands down in one piece.
    pub(crate) fn burst_bytes(self) -> u64 {
        (self.bits_per_sec / 8 / 500).max(128 * 1024)
    }
}

/// A word that is no rate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no rate: write 100mbit, 1gbit or 512kbit")]
pub struct NoSuchRate(pub String);

impl FromStr for Rate {
    type Err = NoSuchRate;

    fn from_str(text: &str) -> Result<Self, NoSuchRate> {
        let error = || NoSuchRate(text.to_owned());
        let (number, unit) = [("gbit", 1_000_000_000), ("mbit", 1_000_000), ("kbit", 1_000)]
            .into_iter()
            .find_map(|(word, unit)| Some((text.strip_suffix(word)?, unit)))
            .ok_or_else(error)?;
        let number: u64 = number.parse().map_err(|_| error())?;
        match number.checked_mul(unit) {
            None | Some(0) => Err(error()),
            Some(bits_per_sec) => Ok(Self { bits_per_sec }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_read_as_it_is_written() {
        for host in [Host::Ccm, Host::Wan, Host::Router(2), Host::Server(1, 12)] {
            assert_eq!(host.to_string().parse(), Ok(host));
        }
        for wrong in ["", "s", "sw", "s1w", "s01", "S1", "s1w300", "x"] {
            assert_eq!(wrong.parse::<Host>(), Err(NoSuchHost(wrong.to_owned())));
        }
    }

    #[test]
    fn rates_have_units() {
        assert_eq!("100mbit".parse(), Ok(Rate::mbit(100)));
        assert_eq!("1gbit".parse(), Ok(Rate::mbit(1000)));
        for wrong in ["100", "0mbit", "mbit", "99999999999999999gbit"] {
            assert!(wrong.parse::<Rate>().is_err(), "{wrong}");
        }
    }
}
