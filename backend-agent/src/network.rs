//! Over what network an agent reaches its segment: what an administrator says about addresses.

use std::net::SocketAddr;

use common::channel::ChannelAddressError;
use lan_channel::interface::{Attachment, Family};
use lan_channel::sockets::{ChannelAddresses, ChannelError, TTL_DEFAULT};
use serde::Deserialize;

/// Most links that multicast may be let across.
const TTL_MAX: u32 = 32;

/// The segment's network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// Version of IP. Default IPv4. All servers of a segment use the same.
    pub family: Family,
    /// How many links multicast may cross. Default 1: it stays on the segment. More is for a segment that
    /// spans routers that forward multicast.
    pub ttl: u32,
    /// The control channel. `None`: as cluster and segment imply.
    pub control: Option<SocketAddr>,
}

impl Default for Network {
    fn default() -> Self {
        Self { family: Family::Ipv4, ttl: TTL_DEFAULT, control: None }
    }
}

/// As it is written in the configuration.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum FamilyWord {
    #[default]
    Ipv4,
    Ipv6,
}

impl From<FamilyWord> for Family {
    fn from(word: FamilyWord) -> Self {
        match word {
            FamilyWord::Ipv4 => Self::Ipv4,
            FamilyWord::Ipv6 => Self::Ipv6,
        }
    }
}

/// Why a network cannot be that.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// Multicast that goes nowhere, or everywhere.
    #[error("ttl = {ttl} is not within 1 and {TTL_MAX}")]
    Ttl {
        /// What was said.
        ttl: u32,
    },
    /// The control channel is none.
    #[error("control = \"{control}\" cannot be the control channel")]
    Control {
        /// What was said.
        control: String,
        /// Why not.
        source: ChannelAddressError,
    },
    /// The control channel is of another version of IP.
    #[error("control = \"{control}\" does not fit family = \"{}\"", family.as_str().to_lowercase())]
    Family {
        /// The channel.
        control: SocketAddr,
        /// The version of IP.
        family: Family,
    },
}

impl Network {
    /// Checks it.
    ///
    /// # Errors
    /// [`NetworkError`].
    pub fn validate(&self) -> Result<(), NetworkError> {
        if !(1..=TTL_MAX).contains(&self.ttl) {
            return Err(NetworkError::Ttl { ttl: self.ttl });
        }
        let Some(control) = self.control else { return Ok(()) };
        let named = |source| NetworkError::Control { control: control.to_string(), source };
        common::channel::check(control).map_err(named)?;
        if Family::of(control.ip()) != self.family {
            return Err(NetworkError::Family { control, family: self.family });
        }
        Ok(())
    }

    /// The addresses of the segment, of which these are implied over IPv4.
    #[must_use]
    pub fn addresses(&self, derived: ChannelAddresses) -> ChannelAddresses {
        let derived = derived.in_family(self.family);
        ChannelAddresses { control: self.control.unwrap_or(derived.control), ..derived }
    }

    /// Where a server is on the segment: the interface with this name or address, or the only one there is.
    ///
    /// # Errors
    /// [`ChannelError`] names the interface.
    pub fn attachment(&self, interface: Option<&str>) -> Result<Attachment, ChannelError> {
        match interface {
            Some(interface) => Attachment::find(interface, self.family),
            None => Attachment::only(self.family),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_nowhere_or_everywhere_is_refused() {
        let network = |family, ttl, control: Option<&str>| {
            let control = control.map(|text| text.parse().expect("an address"));
            Network { family, ttl, control }.validate().map_err(|error| error.to_string())
        };
        for (family, ttl, control) in [
            (Family::Ipv4, 1, None),
            (Family::Ipv4, 32, Some("239.1.2.3:5000")),
            (Family::Ipv6, 1, Some("[ff12::7]:5000")),
        ] {
            assert_eq!(network(family, ttl, control), Ok(()));
        }
        for (family, ttl, control, why) in [
            (Family::Ipv4, 0, None, "ttl = 0 is not within 1 and 32"),
            (Family::Ipv4, 33, None, "ttl = 33"),
            (Family::Ipv4, 1, Some("10.0.0.1:5000"), "cannot be the control channel"),
            (Family::Ipv4, 1, Some("[ff18::7]:5000"), "does not fit family = \"ipv4\""),
            (Family::Ipv6, 1, Some("239.1.2.3:5000"), "does not fit family = \"ipv6\""),
        ] {
            let refused = network(family, ttl, control).expect_err(why);
            assert!(refused.contains(why), "{refused}");
        }
    }
}
