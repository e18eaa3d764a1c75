//! One control datagram: who sends it, proven, and once.
//!
//! ```text
//! kind u8 · credential length u16 · credential · boot u64 · counter u64 · receiver 16 · body
//! · signature 64, or code 16 · tag 16
//! ```
//! The tag is a keyed BLAKE3 under the segment's group key over all before it. What is said to the whole
//! segment is signed by the sender. What is said to one server is proven by a code under the key that the
//! two agree on by their signature keys: nobody else can make it either, and it takes a leader of 500
//! members 1 us to check an answer instead of 60. Who has not heard the other's key yet signs.
//!
//! Boot and counter rise strictly per sender, with a small window for reordering, so that nothing is heard
//! twice. The receiver is part of what is proven: what was said to one server cannot be played to another.

use std::collections::BTreeMap;

use common::credential::Credential;
use common::digest::Digest;
use common::ids::{ClusterId, SegmentName, ServerId};
use common::keys::{PairKey, PublicKey, PublishKeys, SecretKey, Signature, Signed};
use common::replay::Window;
use common::time::WallTime;

use crate::secrets::PairKeys;

const DOMAIN: &str = "pressrun control datagram 4";
/// The first byte of a datagram of this version that ends with the sender's signature.
const SIGNED: u8 = 4;
/// The first byte of one that ends with a code under the key that sender and receiver share.
const CODED: u8 = 5;
/// Stands for the whole segment where a receiver is named.
const SEGMENT: ServerId = ServerId([0; 16]);
/// Length of the tag at a datagram's end, in bytes.
pub const TAG_BYTES: usize = 16;
const SIGNATURE_BYTES: usize = 64;
const CODE_BYTES: usize = 16;
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
    /// Not signed by the key that the credential names, nor proven by the key shared with its owner.
    #[error("not said by its sender")]
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

/// To whom something is said.
#[derive(Debug, Clone, Copy)]
pub enum To<'a> {
    /// All of the segment.
    Segment,
    /// A server whose key has not been heard.
    Stranger(ServerId),
    /// A server, and the key shared with it.
    Peer(ServerId, &'a PairKey),
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

    /// The datagram for a body.
    ///
    /// # Panics
    /// Never: the credential's length was made by us and is short.
    pub fn seal(&mut self, to: To<'_>, body: &[u8]) -> Vec<u8> {
        let (kind, receiver) = match to {
            To::Segment => (SIGNED, SEGMENT),
            To::Stranger(server) => (SIGNED, server),
            To::Peer(server, _) => (CODED, server),
        };
        self.counter += 1;
        let mut datagram = Vec::with_capacity(self.credential.len() + body.len() + 128);
        datagram.push(kind);
        datagram.extend_from_slice(&u16::try_from(self.credential.len()).expect("short").to_le_bytes());
        datagram.extend_from_slice(&self.credential);
        datagram.extend_from_slice(&self.boot.to_le_bytes());
        datagram.extend_from_slice(&self.counter.to_le_bytes());
        datagram.extend_from_slice(&receiver.0);
        datagram.extend_from_slice(body);
        match to {
            To::Segment | To::Stranger(_) => datagram.extend_from_slice(&self.key.sign(DOMAIN, &datagram).0),
            To::Peer(_, pair) => datagram.extend_from_slice(&pair.mask(DOMAIN, &datagram)),
        }
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

    /// Checks a datagram; cheapest check first. `pairs` are this server's.
    ///
    /// # Errors
    /// [`Dropped`] says why it is not believed.
    pub fn open(&mut self, datagram: &[u8], now: WallTime, pairs: &mut PairKeys) -> Result<Opened, Dropped> {
        let proof_bytes = match datagram.first() {
            Some(&SIGNED) => SIGNATURE_BYTES,
            Some(&CODED) => CODE_BYTES,
            Some(_) | None => return Err(Dropped::Form),
        };
        if datagram.len() > DATAGRAM_BYTES_MAX {
            return Err(Dropped::Form);
        }
        let (tagged, tag) = datagram.split_last_chunk::<TAG_BYTES>().ok_or(Dropped::Form)?;
        if !constant_time_equal(&group_tag(&self.segment_key, tagged), tag) {
            return Err(Dropped::Tag);
        }
        let proven_bytes = tagged.len().checked_sub(proof_bytes).ok_or(Dropped::Form)?;
        let (proven, proof) = tagged.split_at(proven_bytes);
        let (_, rest) = proven.split_at_checked(1).ok_or(Dropped::Form)?;
        let (length, rest) = rest.split_first_chunk::<2>().ok_or(Dropped::Form)?;
        let (credential, rest) = rest.split_at_checked(u16::from_le_bytes(*length).into()).ok_or(Dropped::Form)?;
        let (boot, rest) = rest.split_first_chunk::<8>().ok_or(Dropped::Form)?;
        let (counter, rest) = rest.split_first_chunk::<8>().ok_or(Dropped::Form)?;
        let (receiver, body) = rest.split_first_chunk::<16>().ok_or(Dropped::Form)?;

        let sender = self.believe(credential, now)?;
        if sender.server == self.own {
            return Err(Dropped::Own);
        }
        let receiver = ServerId(*receiver);
        if ![SEGMENT, self.own].contains(&receiver) {
            return Err(Dropped::NotForUs);
        }
        let is_proven = if let Ok(signature) = <&[u8; SIGNATURE_BYTES]>::try_from(proof) {
            sender.key.verify(DOMAIN, proven, &Signature(*signature)).is_ok()
        } else if let Ok(code) = <&[u8; CODE_BYTES]>::try_from(proof) {
            // Only two know the key, so nothing that is for all can be proven by it.
            receiver == self.own
                && pairs.with(&sender.key).is_some_and(|pair| constant_time_equal(&pair.mask(DOMAIN, proven), code))
        } else {
            false
        };
        if !is_proven {
            return Err(Dropped::Signature);
        }
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

    /// What server 7 opens with.
    struct Ear(Opener, PairKeys);

    impl Ear {
        fn open(&mut self, datagram: &[u8], now: WallTime) -> Result<Opened, Dropped> {
            self.0.open(datagram, now, &mut self.1)
        }
    }

    fn opener() -> Ear {
        let keys = PublishKeys { keys: vec![(1, publish_key().key.public())] };
        let opener = Opener::new(ServerId([7; 16]), ClusterId([9; 16]), "s1".parse().expect("good"), KEY, keys);
        Ear(opener, PairKeys::new(SecretKey::from_bytes(&[7; 32])))
    }

    /// The key that these two servers share.
    fn pair(one: u8, other: u8) -> PairKey {
        let [one, other] = [one, other].map(|server| SecretKey::from_bytes(&[server; 32]));
        one.agree(&other.public()).expect("good keys")
    }

    #[test]
    fn a_datagram_is_believed_once() {
        let (mut sealer, mut opener) = (sealer(2, "s1", 1), opener());
        let first = sealer.seal(To::Segment, b"one");
        let second = sealer.seal(To::Segment, b"two");
        assert_eq!(opener.open(&second, NOW).map(|opened| opened.body), Ok(b"two".to_vec()));
        assert_eq!(opener.open(&first, NOW).map(|opened| opened.body), Ok(b"one".to_vec()), "reordered");
        assert_eq!(opener.open(&first, NOW), Err(Dropped::Replay));
        assert_eq!(opener.open(&second, NOW), Err(Dropped::Replay));
    }

    #[test]
    fn what_was_said_to_one_server_is_heard_by_no_other() {
        let (mut sealer, mut opener) = (sealer(2, "s1", 1), opener());
        let [own, other] = [7, 8].map(|server| ServerId([server; 16]));
        for datagram in [sealer.seal(To::Stranger(other), b"x"), sealer.seal(To::Peer(other, &pair(2, 8)), b"x")] {
            assert_eq!(opener.open(&datagram, NOW), Err(Dropped::NotForUs));
        }
        for datagram in [sealer.seal(To::Stranger(own), b"x"), sealer.seal(To::Peer(own, &pair(2, 7)), b"x")] {
            assert!(opener.open(&datagram, NOW).is_ok());
        }
    }

    #[test]
    fn only_the_two_who_share_a_key_can_speak_by_it_and_only_to_each_other() {
        let mut opener = opener();
        let own = ServerId([7; 16]);
        // Server 3 has the segment's key and a key that it shares with server 7.
        let forged = sealer(2, "s1", 1).seal(To::Peer(own, &pair(3, 7)), b"x");
        assert_eq!(opener.open(&forged, NOW), Err(Dropped::Signature));
        let to_all = sealer(2, "s1", 1).seal(To::Peer(SEGMENT, &pair(2, 7)), b"x");
        assert_eq!(opener.open(&to_all, NOW), Err(Dropped::Signature), "one of two would speak to all");
        let back = sealer(7, "s1", 1).seal(To::Peer(ServerId([2; 16]), &pair(2, 7)), b"x");
        assert_eq!(opener.open(&back, NOW), Err(Dropped::Own), "played back to who said it");
    }

    #[test]
    fn what_was_sent_before_a_restart_is_void_after_it() {
        let mut opener = opener();
        let old = sealer(2, "s1", 1).seal(To::Segment, b"old");
        opener.open(&sealer(2, "s1", 2).seal(To::Segment, b"new"), NOW).expect("believed");
        assert_eq!(opener.open(&old, NOW), Err(Dropped::Replay));
    }

    #[test]
    fn strangers_other_segments_expired_members_and_ourselves_are_not_heard() {
        let mut opener = opener();
        assert_eq!(opener.open(&sealer(2, "s2", 1).seal(To::Segment, b"x"), NOW), Err(Dropped::Credential));
        assert_eq!(opener.open(&sealer(2, "s1", 1).seal(To::Segment, b"x"), WallTime(2001)), Err(Dropped::Credential));
        assert_eq!(opener.open(&sealer(7, "s1", 1).seal(To::Segment, b"x"), NOW), Err(Dropped::Own));
        let mut outsider = sealer(2, "s1", 1);
        outsider.segment_key = SegmentKey([4; 32]);
        assert_eq!(opener.open(&outsider.seal(To::Segment, b"x"), NOW), Err(Dropped::Tag));
        // An insider who speaks in another's name has the segment key, not the other's own.
        let mut impostor = sealer(2, "s1", 1);
        impostor.key = SecretKey::from_bytes(&[5; 32]);
        assert_eq!(opener.open(&impostor.seal(To::Segment, b"x"), NOW), Err(Dropped::Signature));
    }

    #[test]
    fn a_flipped_bit_or_a_cut_anywhere_drops_the_datagram() {
        let to_one = sealer(2, "s1", 1).seal(To::Peer(ServerId([7; 16]), &pair(2, 7)), b"body");
        for datagram in [sealer(2, "s1", 1).seal(To::Segment, b"body"), to_one] {
            for at in 0..datagram.len() {
                // With the segment's key somebody makes the tag fit.
                let mut damaged = datagram[..datagram.len() - TAG_BYTES].to_vec();
                if let Some(byte) = damaged.get_mut(at) {
                    *byte ^= 0x10;
                    let tag = group_tag(&KEY, &damaged);
                    damaged.extend_from_slice(&tag);
                    assert!(opener().open(&damaged, NOW).is_err(), "byte {at}");
                }
                let mut damaged = datagram.clone();
                damaged[at] ^= 0x10;
                assert!(opener().open(&damaged, NOW).is_err(), "byte {at}, and the tag with it");
                assert!(opener().open(&datagram[..at], NOW).is_err(), "cut to {at}");
            }
        }
    }
}
