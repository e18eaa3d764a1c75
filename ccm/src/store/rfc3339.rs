//! Times as people and other programs read them: RFC 3339, UTC, milliseconds.
//!
//! For `#[serde(with = "…")]`; [`option`] is the same for times that may be missing.

use common::time::WallTime;
use serde::{Deserialize as _, Deserializer, Serializer};

/// The text of a time. A time beyond what the calendar holds reads as its last instant.
#[must_use]
pub fn to_text(time: WallTime) -> String {
    let timestamp = i64::try_from(time.0).ok().and_then(|millis| jiff::Timestamp::from_millisecond(millis).ok());
    format!("{:.3}", timestamp.unwrap_or(jiff::Timestamp::MAX))
}

/// Why a text is not a time.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{text:?} is no time such as 2030-01-31T12:00:00.000Z, or lies before 1970")]
pub struct TimeError {
    text: String,
}

/// Reads a time.
///
/// # Errors
/// [`TimeError`] when it is not RFC 3339 or lies before 1970.
pub fn from_text(text: &str) -> Result<WallTime, TimeError> {
    let error = || TimeError { text: text.chars().take(40).collect() };
    let timestamp: jiff::Timestamp = text.parse().map_err(|_| error())?;
    u64::try_from(timestamp.as_millisecond()).map(WallTime).map_err(|_| error())
}

/// Writes it as text.
///
/// # Errors
/// Those of the serializer.
#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
pub fn serialize<S: Serializer>(time: &WallTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&to_text(*time))
}

/// Reads it from text.
///
/// # Errors
/// Those of the deserializer, and [`TimeError`].
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<WallTime, D::Error> {
    from_text(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
}

/// The same for a time that may be missing.
pub mod option {
    use super::{Deserializer, Serializer, WallTime, from_text, to_text};
    use serde::Deserialize as _;

    /// Writes it as text or null.
    ///
    /// # Errors
    /// Those of the serializer.
    #[allow(clippy::ref_option, reason = "serde gives a reference")]
    pub fn serialize<S: Serializer>(time: &Option<WallTime>, serializer: S) -> Result<S::Ok, S::Error> {
        match time {
            Some(time) => serializer.serialize_some(&to_text(*time)),
            None => serializer.serialize_none(),
        }
    }

    /// Reads it from text or null.
    ///
    /// # Errors
    /// Those of the deserializer, and [`super::TimeError`].
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<WallTime>, D::Error> {
        Option::<String>::deserialize(deserializer)?
            .map(|text| from_text(&text).map_err(serde::de::Error::custom))
            .transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_in_utc_with_milliseconds_and_read_back() {
        let time = WallTime(1_900_000_000_007);
        assert_eq!(to_text(time), "2030-03-17T17:46:40.007Z");
        assert_eq!(from_text("2030-03-17T18:46:40.007+01:00").expect("is a time"), time);
        assert_eq!(to_text(WallTime(0)), "1970-01-01T00:00:00.000Z");
        assert!(from_text("1969-12-31T23:59:59Z").is_err());
        assert!(from_text("soon").is_err());
        assert!(to_text(WallTime(u64::MAX)).starts_with("9999-"));
    }
}
