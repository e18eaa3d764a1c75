//! Which data channel a content group gets. Pure; what is taken already the store knows.

use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;

use common::ids::{ClusterId, GroupName, SiteName};

/// Ports of data channels: below the usual ephemeral range, and apart from those of segments
/// (20,000 to 30,000), so that no group's channel is a segment's.
const PORT_FIRST: u16 = 30_000;
/// How many there are.
const PORTS: u32 = 2_000;

/// Where the channels of content groups are taken from.
///
/// Default: organisation-local scope, 239.192.0.0/14 (RFC 2365), 260,000 groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChannelRange {
    first: u32,
    /// How many addresses, a power of two.
    addresses: u64,
}

/// Why a text is no range of channels.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no range of multicast addresses; say one within 239.0.0.0/8, as 239.192.0.0/14")]
pub struct RangeError {
    /// The text.
    pub text: String,
}

impl Default for ChannelRange {
    fn default() -> Self {
        Self { first: Ipv4Addr::new(239, 192, 0, 0).to_bits(), addresses: 1 << 18 }
    }
}

impl FromStr for ChannelRange {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Self, RangeError> {
        let range = || {
            let (address, bits) = text.split_once('/')?;
            let (address, bits): (Ipv4Addr, u32) = (address.parse().ok()?, bits.parse().ok()?);
            // Administratively scoped (RFC 2365): the others are somebody's.
            if address.octets()[0] != 239 || !(8..=32).contains(&bits) {
                return None;
            }
            let addresses = 1_u64 << (32 - bits);
            (u64::from(address.to_bits()) % addresses == 0).then_some(Self { first: address.to_bits(), addresses })
        };
        range().ok_or_else(|| RangeError { text: text.to_owned() })
    }
}

impl ChannelRange {
    /// The channels that a group may get, all of the range, the one to try first at the front: it follows from
    /// the group, so that a database that was lost leads to the same channels again.
    pub fn candidates(
        self,
        cluster: ClusterId,
        site: &SiteName,
        group: &GroupName,
    ) -> impl Iterator<Item = SocketAddr> + use<> {
        let mut hasher = blake3::Hasher::new_derive_key("pressrun group channels 1");
        hasher.update(&cluster.0);
        // A name has no slash.
        hasher.update(format!("{site}/{group}").as_bytes());
        let hash = hasher.finalize();
        let [a, b, c, d, e, f, ..] = *hash.as_bytes();
        let start = u64::from(u32::from_le_bytes([a, b, c, d]));
        let port = u32::from(u16::from_le_bytes([e, f]));
        let Self { first, addresses } = self;
        (0..u64::from(PORTS)).flat_map(move |round| {
            let offset = u32::try_from(round).unwrap_or(0);
            let port = PORT_FIRST + u16::try_from((port + offset) % PORTS).unwrap_or(0);
            (0..addresses).map(move |step| {
                let step = u32::try_from((start + step) % addresses).unwrap_or(0);
                SocketAddr::from((Ipv4Addr::from_bits(first + step), port))
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn candidates(range: &str, group: &str) -> impl Iterator<Item = SocketAddr> {
        let range: ChannelRange = range.parse().expect("a range");
        range.candidates(ClusterId([1; 16]), &"www".parse().expect("good"), &group.parse().expect("good"))
    }

    #[test]
    fn a_group_gets_a_channel_of_the_range_and_always_the_same() {
        let first = |group| candidates("239.192.0.0/14", group).next().expect("many");
        assert_eq!(first("east"), first("east"));
        assert_ne!(first("east"), first("west"));
        for group in ["east", "west", "north"] {
            let channel = first(group);
            common::channel::check(channel).expect("a channel");
            let std::net::IpAddr::V4(address) = channel.ip() else { panic!("{channel}") };
            assert!(address.octets()[0] == 239 && (192..196).contains(&address.octets()[1]), "{channel}");
            assert!((30_000..32_000).contains(&channel.port()), "{channel}");
        }
    }

    #[test]
    fn every_channel_of_a_small_range_is_offered_once() {
        let all: Vec<SocketAddr> = candidates("239.1.2.4/30", "east").collect();
        let distinct: BTreeSet<SocketAddr> = all.iter().copied().collect();
        assert_eq!((all.len(), distinct.len()), (4 * 2_000, 4 * 2_000));
        let addresses: BTreeSet<_> = all[..4].iter().map(SocketAddr::ip).collect();
        assert_eq!(addresses.len(), 4, "other addresses before other ports");
        assert_eq!(
            candidates("239.1.2.3/32", "east").next().map(|channel| channel.ip().to_string()),
            Some("239.1.2.3".into())
        );
    }

    #[test]
    fn ranges_that_are_somebody_elses_or_begin_in_between_are_refused() {
        for text in
            ["239.192.0.0", "224.0.0.0/24", "10.0.0.0/8", "239.192.0.1/24", "239.0.0.0/7", "239.0.0.0/33", "x/8"]
        {
            let error = text.parse::<ChannelRange>().expect_err(text);
            assert!(error.to_string().contains(text), "{error}");
        }
        assert_eq!("239.192.0.0/14".parse(), Ok(ChannelRange::default()));
    }
}
