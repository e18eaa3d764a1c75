//! Messages on a byte stream: a length of four bytes (little endian), then that many bytes of
//! postcard. Length and form are checked before anything is believed.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Largest message on the control connection between leader and CCM, in bytes. A segment report of
/// 1,000 members with ten sites each stays well below.
pub const MESSAGE_BYTES_MAX: usize = 8 << 20;

/// Why bytes are no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Longer than allowed.
    #[error("a message of {bytes} bytes is longer than the {max} allowed")]
    TooLong {
        /// Its declared length.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// Not readable as what was expected.
    #[error("a message cannot be read: damaged, or from another version of pressrun")]
    Unreadable,
}

/// A message with its length in front, ready to be written.
///
/// # Errors
/// [`FrameError::TooLong`] when the other side would refuse it.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, FrameError> {
    let bytes = postcard::to_extend(message, vec![0; 4]).map_err(|_| FrameError::Unreadable)?;
    let length = bytes.len() - 4;
    if length > MESSAGE_BYTES_MAX {
        return Err(FrameError::TooLong { bytes: length, max: MESSAGE_BYTES_MAX });
    }
    let mut bytes = bytes;
    bytes[..4].copy_from_slice(&u32::try_from(length).map_err(|_| FrameError::Unreadable)?.to_le_bytes());
    Ok(bytes)
}

/// How many bytes follow a length prefix.
///
/// # Errors
/// [`FrameError::TooLong`] before a single byte is stored for it.
pub fn body_length(prefix: [u8; 4]) -> Result<usize, FrameError> {
    let bytes = u32::from_le_bytes(prefix) as usize;
    if bytes > MESSAGE_BYTES_MAX { Err(FrameError::TooLong { bytes, max: MESSAGE_BYTES_MAX }) } else { Ok(bytes) }
}

/// Reads the body of a message; all bytes must be used.
///
/// # Errors
/// [`FrameError::Unreadable`].
pub fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, FrameError> {
    match postcard::take_from_bytes(body) {
        Ok((message, [])) => Ok(message),
        Ok(_) | Err(_) => Err(FrameError::Unreadable),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_survives_and_trailing_bytes_do_not() {
        let bytes = encode(&("hello".to_owned(), 5_u64)).expect("short");
        let prefix = bytes[..4].try_into().expect("four bytes");
        assert_eq!(body_length(prefix), Ok(bytes.len() - 4));
        assert_eq!(decode(&bytes[4..]), Ok(("hello".to_owned(), 5_u64)));
        let mut longer = bytes[4..].to_vec();
        longer.push(0);
        assert_eq!(decode::<(String, u64)>(&longer), Err(FrameError::Unreadable));
        assert!(body_length([0xff; 4]).is_err());
    }
}
