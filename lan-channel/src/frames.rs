//! Sealing data frames: AES-256-GCM, the header in clear and authenticated.
//!
//! The key belongs to one session of one leader in one epoch and hangs on the secret that the leader drew for
//! it; the nonce is the frame's transmission number, which never repeats within a session; so no nonce is
//! ever used twice.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use crate::envelope::SegmentKey;
use crate::secrets::{SessionName, SessionSecret};

/// Length of the authentication tag, in bytes.
pub const TAG_BYTES: usize = 16;

/// Seals and opens the frames of one session.
#[derive(Debug)]
pub struct FrameKey(LessSafeKey);

impl FrameKey {
    /// The key of a session.
    ///
    /// # Panics
    /// Never: the derived key has the length that the cipher takes.
    #[must_use]
    pub fn derive(segment_key: &SegmentKey, secret: SessionSecret, name: SessionName) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("pressrun data frame key 2");
        hasher.update(&segment_key.0);
        hasher.update(&secret.0);
        hasher.update(&name.to_bytes());
        let key = UnboundKey::new(&AES_256_GCM, hasher.finalize().as_bytes()).expect("32 bytes are a key");
        Self(LessSafeKey::new(key))
    }

    /// Appends header, sealed payload and tag to `out`. `sequence` must be new in this session.
    ///
    /// # Panics
    /// Never for payloads of datagram size.
    pub fn seal(&self, header: &[u8], sequence: u32, payload: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(header);
        let start = out.len();
        out.extend_from_slice(payload);
        let tag = self
            .0
            .seal_in_place_separate_tag(nonce(sequence), Aad::from(header), &mut out[start..])
            .expect("a datagram is far below the cipher's limit");
        out.extend_from_slice(tag.as_ref());
    }

    /// The payload of a sealed frame, in place; `None` if it was not sealed with this key.
    #[must_use]
    pub fn open<'a>(&self, header: &[u8], sequence: u32, sealed: &'a mut [u8]) -> Option<&'a [u8]> {
        self.0.open_in_place(nonce(sequence), Aad::from(header), sealed).ok().map(|payload| &*payload)
    }
}

fn nonce(sequence: u32) -> Nonce {
    let mut bytes = [0; 12];
    bytes[8..].copy_from_slice(&sequence.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

#[cfg(test)]
mod tests {
    use common::ids::ServerId;

    use super::*;

    const NAME: SessionName = SessionName { session: 5, leader: ServerId([2; 16]), epoch: 3 };

    fn key(segment_key: u8, secret: u8, name: SessionName) -> FrameKey {
        FrameKey::derive(&SegmentKey([segment_key; 32]), SessionSecret([secret; 16]), name)
    }

    #[test]
    fn a_frame_opens_only_whole_and_in_its_own_session() {
        let own = key(1, 4, NAME);
        let mut frame = Vec::new();
        own.seal(b"header", 9, b"payload", &mut frame);
        let (header, sealed) = frame.split_at(6);
        assert_eq!(own.open(header, 9, &mut sealed.to_vec()), Some(b"payload".as_slice()));
        assert_eq!(own.open(header, 8, &mut sealed.to_vec()), None);
        assert_eq!(own.open(b"Header", 9, &mut sealed.to_vec()), None);
        for other in [
            key(9, 4, NAME),
            key(1, 5, NAME),
            key(1, 4, SessionName { session: 6, ..NAME }),
            key(1, 4, SessionName { leader: ServerId([3; 16]), ..NAME }),
            key(1, 4, SessionName { epoch: 4, ..NAME }),
        ] {
            assert_eq!(other.open(header, 9, &mut sealed.to_vec()), None);
        }
    }
}
