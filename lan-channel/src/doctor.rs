//! Datagrams and test frames of `pressrun doctor`.
//!
//! The doctor speaks with the identity of the agent beside which it runs. Its datagrams are therefore
//! none of the control channel's: they have a domain of their own, count nothing there, and move no
//! window of what was heard.
//!
//! ```text
//! datagram: 0xd0 · credential length u16 · credential · receiver 16 · body · signature 64 · tag 16
//! frame:    0xd1 · check u64 · number u32 · zeros · tag 16
//! ```
//! Tags are keyed BLAKE3 under the segment's group key over all before them. Nothing here keeps a
//! datagram from being heard twice: what is said is worth nothing the second time.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use common::channel::over_ipv6;
use common::credential::Credential;
use common::ids::{ClusterId, SegmentName, ServerId};
use common::keys::{PublishKeys, SecretKey, Signature, Signed};
use common::time::WallTime;

use crate::envelope::{DATAGRAM_BYTES_MAX, Dropped, SegmentKey};
use crate::interface::Family;
use crate::sockets::ChannelAddresses;

const DATAGRAM: u8 = 0xd0;
const FRAME: u8 = 0xd1;
const DOMAIN: &str = "pressrun doctor datagram 1";
/// Stands for the whole segment where a receiver is named.
const SEGMENT: ServerId = ServerId([0; 16]);
const TAG_BYTES: usize = 16;

/// Whether a datagram may be one of the doctor's.
#[must_use]
pub fn is_of_doctor(datagram: &[u8]) -> bool {
    datagram.first() == Some(&DATAGRAM)
}

/// A group that nobody has joined yet: for test frames that a switch forwards though it has forgotten who
/// is in the others.
#[must_use]
pub fn fresh_group(check: u64, addresses: ChannelAddresses) -> SocketAddr {
    let [a, b, c, ..] = check.to_le_bytes();
    let group = Ipv4Addr::new(239, 192 + (a & 3), b, c.clamp(1, 254));
    let group = match addresses.family() {
        Family::Ipv4 => IpAddr::V4(group),
        Family::Ipv6 => IpAddr::V6(over_ipv6(group)),
    };
    SocketAddr::new(group, addresses.data.port())
}

/// Seals and opens what a doctor and agents say to each other.
#[derive(Debug, Clone)]
pub struct DoctorChannel {
    own: ServerId,
    cluster: ClusterId,
    segment: SegmentName,
    segment_key: SegmentKey,
    credential: Vec<u8>,
    keys: PublishKeys,
}

impl DoctorChannel {
    /// For a server of a segment.
    ///
    /// # Panics
    /// Never: a credential is short plain data.
    #[must_use]
    pub fn new(
        own: ServerId,
        cluster: ClusterId,
        segment: SegmentName,
        segment_key: SegmentKey,
        credential: &Signed<Credential>,
        keys: PublishKeys,
    ) -> Self {
        let credential = postcard::to_stdvec(credential).expect("plain data has a binary form");
        Self { own, cluster, segment, segment_key, credential, keys }
    }

    /// The datagram for a body that is said to one server, or to the whole segment.
    ///
    /// # Panics
    /// Never: the credential's length was made by us and is short.
    #[must_use]
    pub fn seal(&self, key: &SecretKey, to: Option<ServerId>, body: &[u8]) -> Vec<u8> {
        let mut datagram = vec![DATAGRAM];
        datagram.extend_from_slice(&u16::try_from(self.credential.len()).expect("short").to_le_bytes());
        datagram.extend_from_slice(&self.credential);
        datagram.extend_from_slice(&to.unwrap_or(SEGMENT).0);
        datagram.extend_from_slice(body);
        let signature = key.sign(DOMAIN, &datagram);
        datagram.extend_from_slice(&signature.0);
        let tag = self.tag(&datagram);
        datagram.extend_from_slice(&tag);
        datagram
    }

    /// Who said what, if it is believed; also when it was this server's own identity that said it.
    ///
    /// # Errors
    /// [`Dropped`].
    pub fn open(&self, datagram: &[u8], now: WallTime) -> Result<(Credential, Vec<u8>), Dropped> {
        if datagram.len() > DATAGRAM_BYTES_MAX || !is_of_doctor(datagram) {
            return Err(Dropped::Form);
        }
        let tagged = self.tagged(datagram).ok_or(Dropped::Tag)?;
        let (signed, signature) = tagged.split_last_chunk::<64>().ok_or(Dropped::Form)?;
        let (length, rest) = signed.get(1..).and_then(<[u8]>::split_first_chunk::<2>).ok_or(Dropped::Form)?;
        let (credential, rest) = rest.split_at_checked(u16::from_le_bytes(*length).into()).ok_or(Dropped::Form)?;
        let (receiver, body) = rest.split_first_chunk::<16>().ok_or(Dropped::Form)?;
        let sender: Signed<Credential> = postcard::from_bytes(credential).map_err(|_| Dropped::Credential)?;
        let sender = sender.verify(&self.keys).map_err(|_| Dropped::Credential)?;
        if sender.cluster != self.cluster || sender.segment != self.segment || sender.expires < now {
            return Err(Dropped::Credential);
        }
        if ![SEGMENT, self.own].contains(&ServerId(*receiver)) {
            return Err(Dropped::NotForUs);
        }
        sender.key.verify(DOMAIN, signed, &Signature(*signature)).map_err(|_| Dropped::Signature)?;
        Ok((sender, body.to_vec()))
    }

    /// A test frame of so many bytes.
    #[must_use]
    pub fn frame(&self, check: u64, number: u32, bytes: u16) -> Vec<u8> {
        let mut frame = vec![FRAME];
        frame.extend_from_slice(&check.to_le_bytes());
        frame.extend_from_slice(&number.to_le_bytes());
        frame.resize(usize::from(bytes).saturating_sub(TAG_BYTES).max(frame.len()), 0);
        let tag = self.tag(&frame);
        frame.extend_from_slice(&tag);
        frame
    }

    /// Check and number of a test frame that a member of the segment has made.
    #[must_use]
    pub fn open_frame(&self, frame: &[u8]) -> Option<(u64, u32)> {
        if frame.first() != Some(&FRAME) {
            return None;
        }
        let (check, rest) = self.tagged(frame)?.get(1..)?.split_first_chunk::<8>()?;
        let (number, _) = rest.split_first_chunk::<4>()?;
        Some((u64::from_le_bytes(*check), u32::from_le_bytes(*number)))
    }

    fn tag(&self, bytes: &[u8]) -> [u8; TAG_BYTES] {
        let mut tag = [0; TAG_BYTES];
        tag.copy_from_slice(&blake3::keyed_hash(&self.segment_key.0, bytes).as_bytes()[..TAG_BYTES]);
        tag
    }

    /// What is before the tag, if that is right.
    fn tagged<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let (tagged, tag) = bytes.split_last_chunk::<TAG_BYTES>()?;
        let differs = self.tag(tagged).iter().zip(tag).fold(0, |difference, (a, b)| difference | (a ^ b));
        (differs == 0).then_some(tagged)
    }
}

#[cfg(test)]
mod tests {
    use common::keys::PublishKey;

    use super::*;
    use crate::testing::credential;

    const NOW: WallTime = WallTime(1000);

    fn channel(server: u8, segment: &str, segment_key: u8) -> (DoctorChannel, SecretKey) {
        let publish = PublishKey { epoch: 1, key: SecretKey::from_bytes(&[1; 32]) };
        let keys = PublishKeys { keys: vec![(1, publish.key.public())] };
        let key = SecretKey::from_bytes(&[server; 32]);
        let credential = credential(server, segment, &key);
        let (own, cluster, name) = (credential.server, credential.cluster, credential.segment.clone());
        let signed = Signed::sign(&credential, &publish);
        (DoctorChannel::new(own, cluster, name, SegmentKey([segment_key; 32]), &signed, keys), key)
    }

    #[test]
    fn a_member_is_believed_and_so_is_who_shares_its_identity() {
        let ((one, key), (two, _)) = (channel(1, "s1", 3), channel(2, "s1", 3));
        for to in [None, Some(ServerId([2; 16]))] {
            let (sender, body) = two.open(&one.seal(&key, to, b"hello"), NOW).expect("believed");
            assert_eq!((sender.server, body.as_slice()), (ServerId([1; 16]), b"hello".as_slice()));
        }
        assert!(one.open(&one.seal(&key, None, b"own"), NOW).is_ok());
    }

    #[test]
    fn strangers_other_segments_other_receivers_and_expired_members_are_not() {
        let (two, _) = channel(2, "s1", 3);
        let (one, key) = channel(1, "s1", 3);
        let to_other = one.seal(&key, Some(ServerId([8; 16])), b"x");
        assert_eq!(two.open(&to_other, NOW).err(), Some(Dropped::NotForUs));
        let good = one.seal(&key, None, b"x");
        assert_eq!(two.open(&good, WallTime(2001)).err(), Some(Dropped::Credential));
        let (stranger, key) = channel(1, "s1", 4);
        assert_eq!(two.open(&stranger.seal(&key, None, b"x"), NOW).err(), Some(Dropped::Tag));
        let (far, key) = channel(1, "s2", 3);
        assert_eq!(two.open(&far.seal(&key, None, b"x"), NOW).err(), Some(Dropped::Credential));
        let impostor = SecretKey::from_bytes(&[5; 32]);
        assert_eq!(two.open(&one.seal(&impostor, None, b"x"), NOW).err(), Some(Dropped::Signature));
    }

    #[test]
    fn a_flipped_bit_or_a_cut_anywhere_drops_datagram_and_frame() {
        let ((one, key), (two, _)) = (channel(1, "s1", 3), channel(2, "s1", 3));
        let (datagram, frame) = (one.seal(&key, None, b"body"), one.frame(7, 9, 100));
        assert_eq!((two.open_frame(&frame), frame.len()), (Some((7, 9)), 100));
        for at in 0..datagram.len() {
            let mut damaged = datagram.clone();
            damaged[at] ^= 0x10;
            assert!(two.open(&damaged, NOW).is_err() && two.open(&datagram[..at], NOW).is_err(), "byte {at}");
        }
        for at in 0..frame.len() {
            let mut damaged = frame.clone();
            damaged[at] ^= 0x10;
            assert!(two.open_frame(&damaged).is_none() && two.open_frame(&frame[..at]).is_none(), "byte {at}");
        }
        assert!(protocol::session::FrameHeader::decode(&frame).is_err(), "no session takes it for one of its own");
    }
}
