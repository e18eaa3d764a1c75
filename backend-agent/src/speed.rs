//! Rates as people write them: `100mbit`.

use serde::Deserialize;

/// Highest rate that can be said: 1 Tbit/s.
const BITS_MAX: f64 = 1e12;

/// A rate, in bytes per second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Speed(pub(crate) u64);

impl<'de> Deserialize<'de> for Speed {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse(&text)
            .ok_or_else(|| serde::de::Error::custom(format!("{text:?} is no rate; say 800kbit, 100mbit or 2.5gbit")))
    }
}

fn parse(text: &str) -> Option<Speed> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(unit_at);
    let bits = match unit.trim_start() {
        "kbit" => 1e3,
        "mbit" => 1e6,
        "gbit" => 1e9,
        _ => return None,
    };
    let bits = number.parse::<f64>().ok()? * bits;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is within the bounds")]
    let bytes = (8.0..=BITS_MAX).contains(&bits).then_some((bits / 8.0) as u64)?;
    Some(Speed(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_bits_per_second_with_a_unit() {
        for (text, bytes) in
            [("800kbit", 100_000), ("100mbit", 12_500_000), ("2.5gbit", 312_500_000), ("1 gbit", 125_000_000)]
        {
            assert_eq!(parse(text), Some(Speed(bytes)), "{text}");
        }
        for text in ["", "100", "100MB", "mbit", "-1mbit", "0mbit", "1001gbit", "1.1.1mbit", "1e9kbit"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
