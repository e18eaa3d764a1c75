//! Why a member does not take part in a session: a word for programs, then a sentence for people.

use std::fmt;
use std::str::FromStr;

/// Why, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DeclineCode {
    /// The object does not fit.
    Space,
    /// Too much is under way; later it may take part.
    Busy,
    /// Its administrator has taken it out of service.
    Maintenance,
    /// The session is of a form that this version does not know.
    Version,
}

impl DeclineCode {
    const ALL: [Self; 4] = [Self::Space, Self::Busy, Self::Maintenance, Self::Version];

    /// The word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Space => "space",
            Self::Busy => "busy",
            Self::Maintenance => "maintenance",
            Self::Version => "version",
        }
    }

    /// Whether it makes sense to offer the same object to the member again without anything being done
    /// about it.
    #[must_use]
    pub fn passes(self) -> bool {
        match self {
            Self::Busy => true,
            Self::Space | Self::Maintenance | Self::Version => false,
        }
    }
}

impl fmt::Display for DeclineCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Longest sentence, in characters. The message is one small datagram.
const DETAIL_MAX: usize = 180;

/// Why a member does not take part, as it is said: `space: the object takes 12 bytes, 7 are free`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decline {
    /// For programs.
    pub code: DeclineCode,
    /// For people, in one line.
    pub detail: String,
}

impl Decline {
    /// A reason; a long sentence is cut.
    #[must_use]
    pub fn new(code: DeclineCode, detail: &str) -> Self {
        Self { code, detail: detail.chars().filter(|c| !c.is_control()).take(DETAIL_MAX).collect() }
    }
}

impl fmt::Display for Decline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.detail)
    }
}

/// Not a reason of this version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a reason begins with space, busy, maintenance or version, and a colon")]
pub struct UnknownReason;

impl FromStr for Decline {
    type Err = UnknownReason;
    fn from_str(text: &str) -> Result<Self, UnknownReason> {
        let (word, detail) = text.split_once(": ").ok_or(UnknownReason)?;
        let code = DeclineCode::ALL.into_iter().find(|code| code.as_str() == word).ok_or(UnknownReason)?;
        Ok(Self::new(code, detail))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_understood_as_it_was_said() {
        for code in DeclineCode::ALL {
            let said = Decline::new(code, "the disk: full");
            assert_eq!(said.to_string().parse(), Ok(said));
        }
        for unknown in ["", "space", "tired: of it", "Space: x"] {
            assert_eq!(unknown.parse::<Decline>(), Err(UnknownReason), "{unknown}");
        }
    }

    #[test]
    fn a_sentence_stays_one_short_line() {
        let said = Decline::new(DeclineCode::Busy, &"ä\n".repeat(500));
        assert_eq!(said.detail, "ä".repeat(DETAIL_MAX));
    }
}
