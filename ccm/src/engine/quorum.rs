//! How many servers must follow for a run to count.

use std::fmt;
use std::str::FromStr;

/// The least number of servers that must prepare and commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quorum {
    /// All but a fifth of the group, rounded up, and at least one: a farm is not held up by one
    /// broken server, and does not go live on a minority.
    MostServers,
    /// This many.
    Servers(u32),
    /// This share of the group, rounded up.
    Percent(u8),
}

/// A text that is no quorum.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no quorum: give a number of servers such as 3, or a share such as 80%")]
pub struct QuorumError {
    text: String,
}

impl Quorum {
    /// The number for a group of this many servers; never more than there are, never none.
    #[must_use]
    pub fn of(self, servers: usize) -> usize {
        let wanted = match self {
            Self::MostServers => servers.saturating_sub(servers.div_ceil(5)),
            Self::Servers(count) => count as usize,
            Self::Percent(percent) => (servers * usize::from(percent)).div_ceil(100),
        };
        wanted.clamp(1, servers.max(1))
    }
}

impl FromStr for Quorum {
    type Err = QuorumError;

    fn from_str(text: &str) -> Result<Self, QuorumError> {
        let error = || QuorumError { text: text.chars().take(40).collect() };
        match text.strip_suffix('%') {
            Some(percent) => match percent.parse() {
                Ok(percent @ 1..=100) => Ok(Self::Percent(percent)),
                Ok(_) | Err(_) => Err(error()),
            },
            None => match text.parse() {
                Ok(0) | Err(_) => Err(error()),
                Ok(count) => Ok(Self::Servers(count)),
            },
        }
    }
}

impl fmt::Display for Quorum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MostServers => f.write_str("most servers"),
            Self::Servers(count) => write!(f, "{count}"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_servers_leaves_out_a_fifth_at_the_most() {
        let of = |servers| Quorum::MostServers.of(servers);
        assert_eq!((of(1), of(2), of(3), of(5), of(6), of(100)), (1, 1, 2, 4, 4, 80));
    }

    #[test]
    fn shares_are_rounded_up_and_bounded_by_the_group() {
        assert_eq!(Quorum::Percent(50).of(3), 2);
        assert_eq!(Quorum::Percent(100).of(3), 3);
        assert_eq!(Quorum::Servers(9).of(3), 3);
        assert_eq!(Quorum::Percent(1).of(3), 1);
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "0", "0%", "101%", "-1", "half", "1.5"] {
            assert!(text.parse::<Quorum>().is_err(), "{text:?}");
        }
        assert_eq!("80%".parse(), Ok(Quorum::Percent(80)));
        assert_eq!("3".parse(), Ok(Quorum::Servers(3)));
    }
}
