//! One control datagram: who sends it, proven, and once.
//!
//! ```text
//! version u8 · credential length u16 · credential · boot u64 · counter u64 · receiver 16 · body · signature 64 · tag 16
//! ```
//! The tag is a keyed BLAKE3 under the segment's group key over all before it; the signature is the
//! sender's own, over all before it. Boot and counter rise strictly per sender, with a small window
//! for reordering, so that nothing is heard twice. The receiver is part of what is signed: what was said
//! to one server cannot be played to another.

use std::collections::BTreeMap;

use common::credential::Credential;
use common::digest::Digest;
use common::ids::{ClusterId, SegmentName, ServerId};
use common::keys::{PublicKey, PublishKeys, SecretKey, Signature, Signed};
use common::replay::Window;
use common::time::WallTime;

const VERSION: u8 = 3;
const DOMAIN: &str = "pressrun control datagram 3";
/// Stands for the whole segment where a receiver is named.
const SEGMENT: ServerId = ServerId([0; 16]);
/// Length of the tag at a datagram's end, in bytes.
pub const TAG_BYTES: usize = 16;
const SIGNATURE_BYTES: usize = 64;
/// Largest control datagram, in bytes. Anything longer is dropped unread.
///
/// 40 KiB: the announcement of an object to 1,000 members, each with its identity and its form of the
/// session's secret.
pub const DATAGRAM_BYTES_MAX: usize = 40 << 10;
/// Most senders remembered: four times the largest segment supported.
const SENDERS_MAX: usize = 4096;

/// The segment's group key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SegmentKey(pub [u8; 32]);

impl std::fmt::Debug for SegmentKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SegmentKey(..)")
    }
}

/// Why a datagram is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Dropped {
    /// Too short, too long, or of another version.
    #[error("not a control datagram of this version")]
    Form,
    /// Not made with the segment's key.
    #[error("not made with this segment's key")]
    Tag,
    /// The credential is not believed: wrong signature, cluster, segment, or expired.
    #[error("the sender's credential is not valid here")]
    Credential,
    /// Not signed by the key that the credential names.
    #[error("not signed by its sender")]
    Signature,
    /// Said to another server.
    #[error("said to another server")]
    NotForUs,
    /// Heard before, or older than what was heard.
    #[error("heard before")]
    Replay,
    /// Our own, come back by multicast.
    #[error("our own")]
    Own,
}

/// Seals what this server says.
#[derive(Debug)]
pub struct Sealer {
    key: SecretKey,
    segment_key: SegmentKey,
    /// The credential in its signed form, ready to be copied.
    credential: Vec<u8>,
    boot: u64,
    counter: u64,
}

impl Sealer {
    /// `boot` must be higher at every start of the process; wall-clock milliseconds serve.
    ///
    /// # Panics
    /// Never: a credential is short plain data.
    #[must_use]
    pub fn new(key: SecretKey, segment_key: SegmentKey, credential: &Signed<Credential>, boot: u64) -> Self {
        let credential = postcard::to_stdvec(credential).expect("plain data has a binary form");
        Self { key, segment_key, credential, boot, counter: 0 }
    }

    /// The datagram for a body that is said to one server, or to the whole segment.
    ///
    /// # Panics
    /// Never: the credential's length was made by us and is short.
    pub fn seal(&mut self, to: Option<ServerId>, body: &[u8]) -> Vec<u8> {
        self.counter += 1;
        let mut datagram = Vec::with_capacity(self.credential.len() + body.len() + 128);
        datagram.push(VERSION);
        datagram.extend_from_slice(&u16::try_from(self.credential.len()).expect("short").to_le_bytes());
        datagram.extend_from_slice(&self.credential);
        datagram.extend_from_slice(&self.boot.to_le_bytes());
        datagram.extend_from_slice(&self.counter.to_le_bytes());
        datagram.extend_from_slice(&to.unwrap_or(SEGMENT).0);
        datagram.extend_from_slice(body);
        let signature = self.key.sign(DOMAIN, &datagram);
        datagram.extend_from_slice(&signature.0);
        let tag = group_tag(&self.segment_key, &datagram);
        datagram.extend_from_slice(&tag);
        datagram
    }
}

fn group_tag(key: &SegmentKey, bytes: &[u8]) -> [u8; TAG_BYTES] {
    let mut tag = [0; TAG_BYTES];
    tag.copy_from_slice(&blake3::keyed_hash(&key.0, bytes).as_bytes()[..TAG_BYTES]);
    tag
}

/// Opens what others say.
#[derive(Debug)]
pub struct Opener {
    own: ServerId,
    cluster: ClusterId,
    segment: SegmentName,
    segment_key: SegmentKey,
    keys: PublishKeys,
    /// Credentials that were believed, by digest, so that each is verified once.
    credentials: BTreeMap<Digest, Credential>,
    /// The keys of those that were heard; as many as in `heard`.
    senders: BTreeMap<ServerId, PublicKey>,
    heard: BTreeMap<ServerId, Window>,
}

/// A datagram that was believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// Who sent it.
    pub sender: Credential,
    /// What it says.
    pub body: Vec<u8>,
}

impl Opener {
    /// Hears the members of one segment.
    #[must_use]
    pub fn new(
        own: ServerId,
        cluster: ClusterId,
        segment: SegmentName,
        segment_key: SegmentKey,
        keys: PublishKeys,
    ) -> Self {
        Self {
            own,
            cluster,
            segment,
            segment_key,
            keys,
            credentials: BTreeMap::new(),
            senders: BTreeMap::new(),
            heard: BTreeMap::new(),
        }
    }

    /// The key of a server that has been heard.
    #[must_use]
    pub fn key_of(&self, server: ServerId) -> Option<&PublicKey> {
        self.senders.get(&server)
    }

    /// Checks a datagram; cheapest check first.
    ///
    /// # Errors
    /// [`Dropped`] says why it is not believed.
    pub fn open(&mut self, datagram: &[u8], now: WallTime) -> Result<Opened, Dropped> {
        if datagram.len() > DATAGRAM_BYTES_MAX || datagram.first() != Some(&VERSION) {
            return Err(Dropped::Form);
        }
        let (tagged, tag) = datagram.split_last_chunk::<TAG_BYTES>().ok_or(Dropped::Form)?;
        if !constant_time_equal(&group_tag(&self.segment_key, tagged), tag) {
            return Err(Dropped::Tag);
        }
        let (signed, signature) = tagged.split_last_chunk::<SIGNATURE_BYTES>().ok_or(Dropped::Form)?;
        let (_, rest) = signed.split_at_checked(1).ok_or(Dropped::Form)?;
        let (length, rest) = rest.split_first_chunk::<2>().ok_or(Dropped::Form)?;
        let (credential, rest) = rest.split_at_checked(u16::from_le_bytes(*length).into()).ok_or(Dropped::Form)?;
        let (boot, rest) = rest.split_first_chunk::<8>().ok_or(Dropped::Form)?;
        let (counter, rest) = rest.split_first_chunk::<8>().ok_or(Dropped::Form)?;
        let (receiver, body) = rest.split_first_chunk::<16>().ok_or(Dropped::Form)?;

        let sender = self.believe(credential, now)?;
        if sender.server == self.own {
            return Err(Dropped::Own);
        }
        if ![SEGMENT, self.own].contains(&ServerId(*receiver)) {
            return Err(Dropped::NotForUs);
        }
        sender.key.verify(DOMAIN, signed, &Signature(*signature)).map_err(|_| Dropped::Signature)?;
        self.note(sender.server, u64::from_le_bytes(*boot), u64::from_le_bytes(*counter))?;
        self.senders.insert(sender.server, sender.key);
        Ok(Opened { sender, body: body.to_vec() })
    }

    fn believe(&mut self, bytes: &[u8], now: WallTime) -> Result<Credential, Dropped> {
        let digest = Digest::of(bytes);
        if let Some(known) = self.credentials.get(&digest) {
            return if known.expires >= now { Ok(known.clone()) } else { Err(Dropped::Credential) };
        }
        let signed: Signed<Credential> = postcard::from_bytes(bytes).map_err(|_| Dropped::Credential)?;
        let credential = signed.verify(&self.keys).map_err(|_| Dropped::Credential)?;
        if credential.cluster != self.cluster || credential.segment != self.segment || credential.expires < now {
            return Err(Dropped::Credential);
        }
        if self.credentials.len() >= SENDERS_MAX {
            self.credentials.clear();
        }
        self.credentials.insert(digest, credential.clone());
        Ok(credential)
    }

    fn note(&mut self, sender: ServerId, boot: u64, counter: u64) -> Result<(), Dropped> {
        if !self.heard.contains_key(&sender) && self.heard.len() >= SENDERS_MAX {
            return Err(Dropped::Replay);
        }
        if self.heard.entry(sender).or_default().take(boot, counter) { Ok(()) } else { Err(Dropped::Replay) }
    }
}

fn constant_time_equal(one: &[u8; TAG_BYTES], other: &[u8; TAG_BYTES]) -> bool {
    one.iter().zip(other).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use common::keys::PublishKey;

    use super::*;
    use crate::testing::credential;

    const NOW: WallTime = WallTime(1000);
    const KEY: SegmentKey = SegmentKey([3; 32]);

    fn publish_key() -> PublishKey {
        PublishKey { epoch: 1, key: SecretKey::from_bytes(&[1; 32]) }
    }

    fn sealer(server: u8, segment: &str, boot: u64) -> Sealer {
        let key = SecretKey::from_bytes(&[server; 32]);
        let credential = credential(server, segment, &key);
        Sealer::new(key, KEY, &Signed::sign(&credential, &publish_key()), boot)
    }

    fn opener() -> Opener {
        let keys = PublishKeys { keys: vec![(1, publish_key().key.public())] };
        Opener::new(ServerId([7; 16]), ClusterId([9; 16]), "s1".parse().expect("good"), KEY, keys)
    }

    #[test]
    fn a_datagram_is_believed_once() {
        let (mut sealer, mut opener) = (sealer(2, "s1", 1), opener());
        let first = sealer.seal(None, b"one");
        let second = sealer.seal(None, b"two");
        assert_eq!(opener.open(&second, NOW).map(|opened| opened.body), Ok(b"two".to_vec()));
        assert_eq!(opener.open(&first, NOW).map(|opened| opened.body), Ok(b"one".to_vec()), "reordered");
        assert_eq!(opener.open(&first, NOW), Err(Dropped::Replay));
        assert_eq!(opener.open(&second, NOW), Err(Dropped::Replay));
    }

    #[test]
    fn what_was_said_to_one_server_is_heard_by_no_other() {
        let (mut sealer, mut opener) = (sealer(2, "s1", 1), opener());
        assert_eq!(opener.open(&sealer.seal(Some(ServerId([8; 16])), b"x"), NOW), Err(Dropped::NotForUs));
        assert!(opener.open(&sealer.seal(Some(ServerId([7; 16])), b"x"), NOW).is_ok());
    }

    #[test]
    fn what_was_sent_before_a_restart_is_void_after_it() {
        let mut opener = opener();
        let old = sealer(2, "s1", 1).seal(None, b"old");
        opener.open(&sealer(2, "s1", 2).seal(None, b"new"), NOW).expect("believed");
        assert_eq!(opener.open(&old, NOW), Err(Dropped::Replay));
    }

    #[test]
    fn strangers_other_segments_expired_members_and_ourselves_are_not_heard() {
        let mut opener = opener();
        assert_eq!(opener.open(&sealer(2, "s2", 1).seal(None, b"x"), NOW), Err(Dropped::Credential));
        assert_eq!(opener.open(&sealer(2, "s1", 1).seal(None, b"x"), WallTime(2001)), Err(Dropped::Credential));
        assert_eq!(opener.open(&sealer(7, "s1", 1).seal(None, b"x"), NOW), Err(Dropped::Own));
        let mut outsider = sealer(2, "s1", 1);
        outsider.segment_key = SegmentKey([4; 32]);
        assert_eq!(opener.open(&outsider.seal(None, b"x"), NOW), Err(Dropped::Tag));
        // An insider who speaks in another's name has the segment key, not the other's own.
        let mut impostor = sealer(2, "s1", 1);
        impostor.key = SecretKey::from_bytes(&[5; 32]);
        assert_eq!(opener.open(&impostor.seal(None, b"x"), NOW), Err(Dropped::Signature));
    }

    #[test]
    fn a_flipped_bit_or_a_cut_anywhere_drops_the_datagram() {
        let datagram = sealer(2, "s1", 1).seal(None, b"body");
        for at in 0..datagram.len() {
            let mut damaged = datagram.clone();
            damaged[at] ^= 0x10;
            assert!(opener().open(&damaged, NOW).is_err(), "byte {at}");
            assert!(opener().open(&datagram[..at], NOW).is_err(), "cut to {at}");
        }
    }
}
