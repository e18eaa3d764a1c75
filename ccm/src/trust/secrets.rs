//! Secrets that are handed out once: their text forms, their digests, comparing them.
//!
//! A secret has 256 random bits, so a plain digest of it cannot be turned back; it is looked up by
//! its public part and compared in constant time.

use common::digest::Digest;
use common::hex::{hex, parse_hex};

/// Begins a join token.
const JOIN_PREFIX: &str = "prt1";

/// Begins an API token.
const API_PREFIX: &str = "pra1";

/// A secret and the public part it is found by.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    /// 16 hexadecimal digits.
    pub id: String,
    bytes: [u8; 32],
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secret({})", self.id)
    }
}

impl Secret {
    /// A fresh one.
    #[must_use]
    pub fn generate() -> Self {
        Self { id: hex(&rand::random::<[u8; 8]>()), bytes: rand::random() }
    }

    /// What is kept of it.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        *blake3::hash(&self.bytes).as_bytes()
    }

    /// Whether this is the secret of which `kept` was kept, in constant time.
    #[must_use]
    pub fn fits(&self, kept: &[u8; 32]) -> bool {
        // `blake3::Hash` compares in constant time.
        blake3::hash(&self.bytes) == blake3::Hash::from_bytes(*kept)
    }

    fn parse_parts(id: &str, secret: &str) -> Option<Self> {
        parse_hex::<8>(id).ok()?;
        Some(Self { id: id.to_owned(), bytes: parse_hex(secret).ok()? })
    }

    /// As an API token: `pra1.<id>.<secret>`.
    #[must_use]
    pub fn to_api_token(&self) -> String {
        format!("{API_PREFIX}.{}.{}", self.id, hex(&self.bytes))
    }

    /// Reads an API token.
    #[must_use]
    pub fn from_api_token(text: &str) -> Option<Self> {
        let (id, secret) = text.strip_prefix(API_PREFIX)?.strip_prefix('.')?.split_once('.')?;
        Self::parse_parts(id, secret)
    }

    /// As a session cookie's value: `<id>.<secret>`.
    #[must_use]
    pub fn to_cookie(&self) -> String {
        format!("{}.{}", self.id, hex(&self.bytes))
    }

    /// Reads a session cookie's value.
    #[must_use]
    pub fn from_cookie(text: &str) -> Option<Self> {
        let (id, secret) = text.split_once('.')?;
        Self::parse_parts(id, secret)
    }

    /// As a join token: `prt1.<id>.<secret>.<digest of the root document>`.
    #[must_use]
    pub fn to_join_token(&self, root: &Digest) -> String {
        format!("{JOIN_PREFIX}.{}.{}.{root}", self.id, hex(&self.bytes))
    }

    /// Reads a join token.
    #[must_use]
    pub fn from_join_token(text: &str) -> Option<(Self, Digest)> {
        let (id, rest) = text.strip_prefix(JOIN_PREFIX)?.strip_prefix('.')?.split_once('.')?;
        let (secret, root) = rest.split_once('.')?;
        Some((Self::parse_parts(id, secret)?, root.parse().ok()?))
    }
}

/// A password that can be read aloud: five groups of five letters and digits without look-alikes,
/// 125 random bits.
#[must_use]
pub fn make_password() -> String {
    const LETTERS: &[u8; 32] = b"abcdefghijkmnopqrstuvwxyz2345678";
    let bytes: [u8; 25] = rand::random();
    let letters: Vec<char> = bytes.iter().map(|byte| char::from(LETTERS[usize::from(byte % 32)])).collect();
    letters.chunks(5).map(|group| group.iter().collect::<String>()).collect::<Vec<_>>().join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_survives_each_of_its_text_forms_and_no_other() {
        let secret = Secret::generate();
        let root = Digest([5; 32]);
        assert_eq!(Secret::from_api_token(&secret.to_api_token()), Some(secret.clone()));
        assert_eq!(Secret::from_cookie(&secret.to_cookie()), Some(secret.clone()));
        assert_eq!(Secret::from_join_token(&secret.to_join_token(&root)), Some((secret.clone(), root)));
        assert_eq!(Secret::from_api_token(&secret.to_join_token(&root)), None);
        assert_eq!(Secret::from_join_token(&secret.to_api_token()), None);
        for bad in ["", ".", "pra1", "pra1.", "pra1..", "pra1.zz.zz", "prt1.0.0.0", "\u{e4}.\u{e4}"] {
            assert_eq!(Secret::from_api_token(bad), None);
            assert_eq!(Secret::from_cookie(bad), None);
            assert_eq!(Secret::from_join_token(bad), None);
        }
    }

    #[test]
    fn only_the_secret_itself_fits_what_was_kept_of_it() {
        let secret = Secret::generate();
        assert!(secret.fits(&secret.digest()));
        let other = Secret { id: secret.id.clone(), ..Secret::generate() };
        assert!(!other.fits(&secret.digest()));
        assert!(!format!("{secret:?}").contains(&hex(&secret.bytes)));
    }

    #[test]
    fn passwords_differ_and_can_be_read_aloud() {
        let password = make_password();
        assert_eq!(password.len(), 29);
        assert_ne!(password, make_password());
    }
}
