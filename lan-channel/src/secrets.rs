//! The secret of a multicast session, and how its members come to know it.
//!
//! The leader draws a secret for every session and says it in the announcement, to each member in a form
//! that only that member can read. The frames' key hangs on it: whoever has the segment's key alone, as
//! every server of the segment does, can neither read what goes to another content group nor make a frame
//! that its servers take.

use std::collections::BTreeMap;
use std::fmt;

use common::ids::ServerId;
use common::keys::{PairKey, PublicKey, SecretKey};

const PURPOSE: &str = "pressrun session secret 1";
/// Most servers whose shared keys are kept: as many as the largest segment has, four times.
const PAIRS_MAX: usize = 4096;

/// Known to the leader and the members of one session.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SessionSecret(pub [u8; 16]);

impl fmt::Debug for SessionSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionSecret(..)")
    }
}

/// What a session is known by; no two have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionName {
    /// Its number.
    pub session: u32,
    /// Who leads it.
    pub leader: ServerId,
    /// In which epoch.
    pub epoch: u64,
}

impl SessionName {
    pub(crate) fn to_bytes(self) -> [u8; 28] {
        let mut bytes = [0; 28];
        bytes[..4].copy_from_slice(&self.session.to_le_bytes());
        bytes[4..20].copy_from_slice(&self.leader.0);
        bytes[20..].copy_from_slice(&self.epoch.to_le_bytes());
        bytes
    }
}

/// The keys that this server shares with one other each. Agreeing on one takes some 50 us, so they are kept.
#[derive(Debug)]
pub struct PairKeys {
    own: SecretKey,
    pairs: BTreeMap<PublicKey, PairKey>,
}

impl PairKeys {
    /// The keys of the server with this signature key.
    #[must_use]
    pub fn new(own: SecretKey) -> Self {
        Self { own, pairs: BTreeMap::new() }
    }

    /// Agrees with this server now, so that it need not be done when there is no time.
    pub fn prepare(&mut self, other: &PublicKey) {
        self.with(other);
    }

    /// The secret as only the owner of this key can read it. `None` when nobody can own that key.
    #[must_use]
    pub fn hide(&mut self, to: &PublicKey, name: SessionName, secret: SessionSecret) -> Option<[u8; 16]> {
        let mask = self.with(to)?.mask(PURPOSE, &name.to_bytes());
        Some(std::array::from_fn(|at| secret.0[at] ^ mask[at]))
    }

    /// The secret that the leader, who has this key, has hidden. The announcement's signature vouches for it.
    #[must_use]
    pub fn reveal(&mut self, from: &PublicKey, name: SessionName, hidden: [u8; 16]) -> Option<SessionSecret> {
        self.hide(from, name, SessionSecret(hidden)).map(SessionSecret)
    }

    /// The key shared with the owner of this one. `None` when nobody can own that.
    pub fn with(&mut self, other: &PublicKey) -> Option<&PairKey> {
        if !self.pairs.contains_key(other) {
            let pair = self.own.agree(other)?;
            if self.pairs.len() >= PAIRS_MAX {
                self.pairs.clear();
            }
            self.pairs.insert(*other, pair);
        }
        self.pairs.get(other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_reads_the_secret_that_was_hidden_for_it_and_for_this_session() {
        let [leader, member, other] = [1, 2, 3].map(|n| SecretKey::from_bytes(&[n; 32]));
        let name = SessionName { session: 7, leader: ServerId([1; 16]), epoch: 3 };
        let secret = SessionSecret([9; 16]);
        let hidden = PairKeys::new(leader.clone()).hide(&member.public(), name, secret).expect("a key");
        let reveal =
            |who: &SecretKey, name| PairKeys::new(who.clone()).reveal(&leader.public(), name, hidden).expect("a key");
        assert_eq!(reveal(&member, name), secret);
        assert_ne!(reveal(&other, name), secret);
        assert_ne!(reveal(&member, SessionName { session: 8, ..name }), secret);
        assert_ne!(reveal(&member, SessionName { epoch: 4, ..name }), secret);
        assert_ne!(reveal(&member, SessionName { leader: ServerId([2; 16]), ..name }), secret);
    }
}
