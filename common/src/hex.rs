//! Bytes as hexadecimal digits.

use std::fmt::Write as _;

/// Why a text is not an identifier or digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {digits} hexadecimal digits")]
pub struct HexError {
    text: String,
    digits: usize,
}

/// Bytes as lower-case digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string succeeds");
        text
    })
}

/// Digits as bytes; `None` for anything else.
#[must_use]
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |c: u8| (c as char).to_digit(16);
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let byte = |[high, low]: &[u8; 2]| u8::try_from(digit(*high)? * 16 + digit(*low)?).ok();
    if rest.is_empty() { pairs.iter().map(byte).collect() } else { None }
}

/// Reads exactly `2 * N` digits.
///
/// # Errors
/// [`HexError`] when length or digits differ.
pub fn parse_hex<const N: usize>(text: &str) -> Result<[u8; N], HexError> {
    let error = || HexError { text: text.chars().take(80).collect(), digits: 2 * N };
    if text.len() != 2 * N {
        return Err(error());
    }
    unhex(text).and_then(|bytes| bytes.try_into().ok()).ok_or_else(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back_from_their_digits() {
        let bytes: Vec<u8> = (0..=255).collect();
        assert_eq!(unhex(&hex(&bytes)), Some(bytes.clone()));
        assert_eq!(unhex(&hex(&bytes).to_uppercase()), Some(bytes));
        assert_eq!(unhex(""), Some(Vec::new()));
        assert_eq!(parse_hex::<2>("0aFf"), Ok([0x0a, 0xff]));
    }

    #[test]
    fn anything_else_is_refused() {
        for bad in ["a", "0g", "+1", "é", "0 "] {
            assert_eq!(unhex(bad), None, "{bad}");
        }
        for bad in ["", "0aff0", "0aff00", "0afg", "é1é"] {
            let error = parse_hex::<2>(bad).expect_err("not four digits");
            assert_eq!(error.to_string(), format!("{bad:?} is not 4 hexadecimal digits"));
        }
    }
}
