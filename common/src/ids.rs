//! Names that people choose and identifiers that Pressrun chooses.
//!
//! Names are short and plain on purpose: they appear in paths, certificates, logs, URLs and
//! command lines, and must mean the same in all of them without quoting.

use crate::hex::{HexError, parse_hex};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest name, in bytes. 63 is what a DNS label holds, so that a server can be called after its
/// host name.
pub const NAME_BYTES_MAX: usize = 63;

/// Why a string is not a usable name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing was given.
    #[error("a name must not be empty")]
    Empty,
    /// More than [`NAME_BYTES_MAX`] bytes.
    #[error("the name {name:?} is longer than {NAME_BYTES_MAX} characters")]
    TooLong {
        /// The name as given, cut to a printable length.
        name: String,
    },
    /// A character outside `A-Z a-z 0-9 . _ -`, or a first character that is no letter or digit.
    #[error("the name {name:?} may hold only letters, digits, '.', '_' and '-', and starts with a letter or digit")]
    BadCharacter {
        /// The name as given.
        name: String,
    },
}

fn check_name(name: &str) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(NameError::TooLong { name: name.chars().take(NAME_BYTES_MAX).collect() });
    }
    let mut bytes = name.bytes();
    let first_is_good = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric());
    if !first_is_good || !bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')) {
        return Err(NameError::BadCharacter { name: name.to_owned() });
    }
    Ok(())
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// Checks and takes a name.
            ///
            /// # Errors
            /// [`NameError`] when it is empty, too long, or holds a character that would need quoting.
            pub fn new(name: impl Into<String>) -> Result<Self, NameError> {
                let name = name.into();
                check_name(&name)?;
                Ok(Self(name))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(name: &str) -> Result<Self, NameError> {
                Self::new(name)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Self::new(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
            }
        }
    };
}

name_type!(
    /// A hosted site: one content tree that is published as a whole.
    SiteName
);
name_type!(
    /// A content group: the back-end servers of one hosted site that get the same content.
    GroupName
);
name_type!(
    /// A network segment: servers that reach each other by multicast, led by one group leader.
    SegmentName
);
name_type!(
    /// A server, as its administrator calls it.
    ServerName
);
name_type!(
    /// A checkpoint's label.
    CheckpointName
);
name_type!(
    /// Something that happens by itself.
    ScheduleName
);

macro_rules! random_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub [u8; 16]);

        impl $name {
            /// A fresh one from the operating system's random source.
            #[must_use]
            pub fn random() -> Self {
                Self(rand::random())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = HexError;
            fn from_str(text: &str) -> Result<Self, HexError> {
                parse_hex::<16>(text).map(Self)
            }
        }
    };
}

random_id!(
    /// A server's identity for life: chosen by the CCM at enrolment, kept when the server is renamed.
    ServerId
);
random_id!(
    /// The cluster: one CCM and all that enrolled with it.
    ClusterId
);

macro_rules! number_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

number_type!(
    /// A job: what somebody asked for. Counted per cluster from 1.
    JobNumber
);
number_type!(
    /// A run: one execution of a job. Counted per cluster from 1.
    RunNumber
);
number_type!(
    /// An assignment. Counted per cluster from 1; a run can have several (content, commit, undo).
    AssignmentNumber
);
number_type!(
    /// Orders the assignments of one hosted site. Servers keep a durable high-water mark of it.
    Sequence
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_need_quoting_are_refused() {
        for bad in ["", "-rf", ".hidden", "a/b", "a b", "ä", "a\nb", "$(id)", &"x".repeat(64)] {
            assert!(SiteName::new(bad).is_err(), "{bad:?} must be refused");
        }
        for good in ["web1", "www.example.org", "A_b-9", &"x".repeat(63)] {
            assert_eq!(SiteName::new(good).expect("is a good name").as_str(), good);
        }
    }

    #[test]
    fn an_identifier_survives_printing_and_parsing() {
        let id = ServerId([0x0f; 16]);
        assert_eq!(id.to_string().parse::<ServerId>(), Ok(id));
        assert!("0f0f".parse::<ServerId>().is_err());
        assert!("zz0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f".parse::<ServerId>().is_err());
    }
}
