//! Signatures: who may order content onto servers, and what is signed how.
//!
//! Every signature covers a domain line first, so that a signature made for one purpose is never
//! valid for another. Verification is strict (no small-order keys, no malleable encodings).

use std::fmt;
use std::marker::PhantomData;

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use ed25519_dalek::{Signer as _, SigningKey};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// A public Ed25519 key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PublicKey(pub [u8; 32]);

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// An Ed25519 signature.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature(pub [u8; 64]);

impl Serialize for Signature {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let halves: ([u8; 32], [u8; 32]) =
            (self.0[..32].try_into().expect("half of 64 bytes"), self.0[32..].try_into().expect("half of 64 bytes"));
        halves.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Signature {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (first, second) = <([u8; 32], [u8; 32])>::deserialize(deserializer)?;
        let mut bytes = [0; 64];
        bytes[..32].copy_from_slice(&first);
        bytes[32..].copy_from_slice(&second);
        Ok(Self(bytes))
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signature(..)")
    }
}

/// A signature that does not fit: the bytes were altered, or another key signed them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not fit: altered, or signed by a key that is not trusted here")]
pub struct BadSignature;

impl PublicKey {
    /// Checks a signature over `message` in `domain`.
    ///
    /// # Errors
    /// [`BadSignature`], without saying why: there is nothing to learn from it.
    pub fn verify(&self, domain: &str, message: &[u8], signature: &Signature) -> Result<(), BadSignature> {
        let (commitment, _) = signature.0.split_first_chunk::<32>().ok_or(BadSignature)?;
        if is_of_small_order(&self.0) || is_of_small_order(commitment) {
            return Err(BadSignature);
        }
        let key = UnparsedPublicKey::new(&ED25519, &self.0);
        key.verify(&to_be_signed(domain, message), &signature.0).map_err(|_| BadSignature)
    }
}

/// The second coordinates of the eight points of small order, little endian: 0, 1, those of order eight, and -1;
/// and 0 and 1 once more, as numbers above the field's prime.
const SMALL_ORDER: [[u8; 32]; 7] = {
    const fn number(first: u8, middle: u8, last: u8) -> [u8; 32] {
        let mut bytes = [middle; 32];
        bytes[0] = first;
        bytes[31] = last;
        bytes
    }
    [
        number(0, 0, 0),
        number(1, 0, 0),
        [
            0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0, 0xd5, 0xdf,
            0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
        ],
        [
            0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f, 0x2a, 0x20,
            0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
        ],
        number(0xec, 0xff, 0x7f),
        number(0xed, 0xff, 0x7f),
        number(0xee, 0xff, 0x7f),
    ]
};

/// Whether this is an encoding of a point of small order: as a key it would fit signatures of many messages.
fn is_of_small_order(encoding: &[u8; 32]) -> bool {
    let mut second = *encoding;
    // The last bit is the sign of the first coordinate.
    second[31] &= 0x7f;
    SMALL_ORDER.contains(&second)
}

/// What is signed: the digest of the domain and the message, both delimited.
fn to_be_signed(domain: &str, message: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("pressrun signature 1");
    hasher.update(&(domain.len() as u64).to_le_bytes());
    hasher.update(domain.as_bytes());
    hasher.update(message);
    *hasher.finalize().as_bytes()
}

/// A secret Ed25519 key. Never printed.
#[derive(Clone)]
pub struct SecretKey(SigningKey);

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey(of {:?})", self.public())
    }
}

impl SecretKey {
    /// A fresh key from the operating system's random source.
    #[must_use]
    pub fn generate() -> Self {
        Self::from_bytes(&rand::random())
    }

    /// A stored key.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(bytes))
    }

    /// For storing it.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    /// Signs `message` in `domain`.
    #[must_use]
    pub fn sign(&self, domain: &str, message: &[u8]) -> Signature {
        Signature(self.0.sign(&to_be_signed(domain, message)).to_bytes())
    }
}

/// What two servers know and nobody else. Agreed upon by their keys alone, without a word said.
#[derive(Clone)]
pub struct PairKey([u8; 32]);

impl fmt::Debug for PairKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PairKey(..)")
    }
}

impl PairKey {
    /// Sixteen bytes that only the two can make, different for every purpose and occasion. What is combined
    /// with them by exclusive or is hidden from all others, once for each occasion; and who tells them for a
    /// message that is the occasion is one of the two.
    #[must_use]
    pub fn mask(&self, purpose: &str, occasion: &[u8]) -> [u8; 16] {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(&(purpose.len() as u64).to_le_bytes());
        hasher.update(purpose.as_bytes());
        hasher.update(occasion);
        let mut mask = [0; 16];
        hasher.finalize_xof().fill(&mut mask);
        mask
    }
}

impl SecretKey {
    /// The key that this server and the owner of `other` share: X25519 (RFC 7748) between the Montgomery
    /// forms of their signature keys. `None` when `other` is no key that anybody can have.
    ///
    /// One key for signing and for this is sound for these two uses (Thormarker, *On using the same key pair
    /// for Ed25519 and an X25519 based KEM*, 2021), and servers need no second one.
    #[must_use]
    pub fn agree(&self, other: &PublicKey) -> Option<PairKey> {
        let theirs = ed25519_dalek::VerifyingKey::from_bytes(&other.0).ok().filter(|key| !key.is_weak())?;
        let shared = theirs.to_montgomery().mul_clamped(self.0.to_scalar_bytes());
        let own = self.public();
        let mut hasher = blake3::Hasher::new_derive_key("pressrun pair key 1");
        hasher.update(shared.as_bytes());
        hasher.update(&own.min(*other).0);
        hasher.update(&own.max(*other).0);
        Some(PairKey(*hasher.finalize().as_bytes()))
    }
}

/// The CCM's public publish keys by key epoch, as a server trusts them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishKeys {
    /// Epoch and key; a handful at most (the present one, and the last during its overlap).
    pub keys: Vec<(u32, PublicKey)>,
}

impl PublishKeys {
    /// Checks a signature made with the key of this epoch.
    ///
    /// # Errors
    /// [`BadSignature`] when the epoch is unknown or the signature does not fit.
    pub fn verify(&self, epoch: u32, domain: &str, message: &[u8], signature: &Signature) -> Result<(), BadSignature> {
        let (_, key) = self.keys.iter().find(|(known, _)| *known == epoch).ok_or(BadSignature)?;
        key.verify(domain, message, signature)
    }
}

/// The CCM's publish key with its epoch.
#[derive(Debug, Clone)]
pub struct PublishKey {
    /// Counts rotations from 1.
    pub epoch: u32,
    /// The key.
    pub key: SecretKey,
}

impl PublishKey {
    /// The key that everybody knows, so that a file signed with it is protected from damage and from
    /// nothing else. Its epoch is 0, which no publish key has; nobody trusts it who was not told to.
    #[must_use]
    pub fn of_nobody() -> Self {
        Self { epoch: 0, key: SecretKey::from_bytes(b"the publish key of nobody at all") }
    }
}

/// Something that is signed by the publish key: the exact bytes that were signed are kept and only
/// read after the check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signed<T> {
    bytes: Vec<u8>,
    epoch: u32,
    signature: Signature,
    #[serde(skip)]
    content: PhantomData<fn() -> T>,
}

/// A type that the publish key signs.
pub trait Statement: Serialize + DeserializeOwned {
    /// Names the purpose; different for every type.
    const DOMAIN: &'static str;
}

/// Why a signed statement is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StatementError {
    /// See [`BadSignature`].
    #[error(transparent)]
    Signature(#[from] BadSignature),
    /// Rightly signed, yet this program cannot read it: another format version.
    #[error("a rightly signed {domain} cannot be read: it was made by another version of pressrun")]
    Unreadable {
        /// The statement's domain.
        domain: &'static str,
    },
}

impl<T: Statement> Signed<T> {
    /// Signs a statement.
    ///
    /// # Panics
    /// Never: the statements are plain data, which always has a binary form.
    #[must_use]
    pub fn sign(statement: &T, key: &PublishKey) -> Self {
        let bytes = postcard::to_stdvec(statement).expect("plain data has a binary form");
        let signature = key.key.sign(T::DOMAIN, &bytes);
        Self { bytes, epoch: key.epoch, signature, content: PhantomData }
    }

    /// Checks the signature, then reads the statement.
    ///
    /// # Errors
    /// [`StatementError`] when it is not signed by a trusted key or not readable.
    pub fn verify(&self, keys: &PublishKeys) -> Result<T, StatementError> {
        keys.verify(self.epoch, T::DOMAIN, &self.bytes, &self.signature)?;
        let (statement, rest) =
            postcard::take_from_bytes(&self.bytes).map_err(|_| StatementError::Unreadable { domain: T::DOMAIN })?;
        if rest.is_empty() { Ok(statement) } else { Err(StatementError::Unreadable { domain: T::DOMAIN }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Order(u32);
    impl Statement for Order {
        const DOMAIN: &'static str = "order";
    }

    #[test]
    fn keys_of_small_order_sign_nothing() {
        for second in SMALL_ORDER {
            for sign in [0, 0x80] {
                let mut encoding = second;
                encoding[31] |= sign;
                if let Ok(key) = ed25519_dalek::VerifyingKey::from_bytes(&encoding) {
                    assert!(key.is_weak(), "{encoding:02x?}");
                }
                // With the neutral element for a commitment and 0 for the rest, it would fit everything.
                let mut signature = [0; 64];
                signature[0] = 1;
                assert_eq!(PublicKey(encoding).verify("order", b"any", &Signature(signature)), Err(BadSignature));
            }
        }
        let own = SecretKey::from_bytes(&[7; 32]);
        assert!(!is_of_small_order(&own.public().0));
        let mut signature = own.sign("order", b"message");
        assert_eq!(own.public().verify("order", b"message", &signature), Ok(()));
        signature.0[..32].copy_from_slice(&SMALL_ORDER[1]);
        assert_eq!(own.public().verify("order", b"message", &signature), Err(BadSignature));
    }

    #[test]
    fn a_signature_has_one_form() {
        let own = SecretKey::from_bytes(&[7; 32]);
        let signature = own.sign("order", b"message");
        // The same number above the order of the group (RFC 8032, section 5.1.7).
        let order: [u8; 32] = [
            0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0x00, 0x00,
            0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x10,
        ];
        let (mut other, mut carry) = (signature, 0);
        for (byte, more) in other.0[32..].iter_mut().zip(order) {
            let sum = u16::from(*byte) + u16::from(more) + carry;
            (*byte, carry) = ((sum & 0xff) as u8, sum >> 8);
        }
        assert_eq!(own.public().verify("order", b"message", &other), Err(BadSignature));
    }

    #[test]
    fn a_statement_is_believed_only_as_it_was_signed_and_in_its_epoch() {
        let key = PublishKey { epoch: 3, key: SecretKey::from_bytes(&[7; 32]) };
        let keys = PublishKeys { keys: vec![(3, key.key.public())] };
        let signed = Signed::sign(&Order(5), &key);
        assert_eq!(signed.verify(&keys), Ok(Order(5)));

        let other_epoch = PublishKeys { keys: vec![(4, key.key.public())] };
        assert!(signed.verify(&other_epoch).is_err());
        let mut altered = signed.clone();
        altered.bytes[0] ^= 1;
        assert!(altered.verify(&keys).is_err());
    }

    #[test]
    fn two_servers_share_a_key_that_no_third_can_make() {
        let [one, two, three] = [1, 2, 3].map(|n| SecretKey::from_bytes(&[n; 32]));
        let mask = |by: &SecretKey, with: &SecretKey, purpose: &str, occasion: &[u8]| {
            by.agree(&with.public()).expect("a key").mask(purpose, occasion)
        };
        let shared = mask(&one, &two, "a", b"1");
        assert_eq!(mask(&two, &one, "a", b"1"), shared);
        for other in [
            mask(&one, &three, "a", b"1"),
            mask(&three, &two, "a", b"1"),
            mask(&one, &two, "b", b"1"),
            mask(&one, &two, "a", b"2"),
            mask(&one, &two, "a1", b""),
        ] {
            assert_ne!(other, shared);
        }
    }

    #[test]
    fn nothing_is_shared_with_a_key_that_nobody_has() {
        let own = SecretKey::from_bytes(&[1; 32]);
        // Points of small order: what is shared with them is known to everybody.
        let mut identity = [0; 32];
        identity[0] = 1;
        for weak in [identity, [0; 32]] {
            assert!(own.agree(&PublicKey(weak)).is_none(), "{weak:?}");
        }
    }

    #[test]
    fn a_signature_for_one_purpose_is_void_for_another() {
        let key = SecretKey::from_bytes(&[7; 32]);
        let signature = key.sign("purpose a", b"message");
        assert_eq!(key.public().verify("purpose a", b"message", &signature), Ok(()));
        assert_eq!(key.public().verify("purpose b", b"message", &signature), Err(BadSignature));
        assert_eq!(key.public().verify("purpose ", b"amessage", &signature), Err(BadSignature));
    }
}
