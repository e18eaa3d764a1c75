//! Grants: the only thing that lets one site copy from another.
//!
//! A grant ends by itself, so that what a lost content control manager has booked frees itself.
//! What stands is kept in a [`Book`], which counts a grant as booked until the destination has said
//! that it stopped, or until it has ended: a grant that is only withdrawn may still be flowing.

use std::collections::BTreeMap;
use std::time::Duration;

use common::digest::Digest;
use common::time::Timestamp;

use crate::ledger::Ledger;
use crate::network::{Network, SiteId};

/// The number of a grant; never used twice by one CCM.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct GrantId(pub u64);

/// Which chunks a destination may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Selector {
    /// Any chunk; the destination chooses the rarest first.
    Any,
    /// Chunks whose number leaves this remainder.
    Residue {
        /// The remainder.
        class: u32,
        /// What is divided by; at least 1.
        classes: u32,
    },
    /// The chunks `first..end`.
    Run {
        /// The first chunk.
        first: u32,
        /// The chunk after the last.
        end: u32,
    },
    /// The whole object in order, from this chunk on (002's way of forwarding).
    WholeFrom {
        /// The first chunk.
        first: u32,
    },
}

impl Selector {
    /// Whether the grant is about this chunk.
    #[must_use]
    pub fn admits(self, chunk: u32) -> bool {
        match self {
            Self::Any => true,
            Self::Residue { class, classes } => chunk % classes.max(1) == class,
            Self::Run { first, end } => (first..end).contains(&chunk),
            Self::WholeFrom { first } => chunk >= first,
        }
    }

    /// Whether some chunk is admitted by both.
    #[must_use]
    pub fn overlaps(self, other: Self, chunks: u32) -> bool {
        match (self, other) {
            (Self::Residue { class, classes }, Self::Residue { class: other, classes: same }) if classes == same => {
                class == other
            }
            (Self::Any | Self::Residue { .. } | Self::Run { .. } | Self::WholeFrom { .. }, _) => {
                (0..chunks).any(|chunk| self.admits(chunk) && other.admits(chunk))
            }
        }
    }
}

/// Who may copy what from whom, how fast, and until when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// Its number.
    pub id: GrantId,
    /// Who serves.
    pub source: SiteId,
    /// Who asks.
    pub destination: SiteId,
    /// Of which object.
    pub object: Digest,
    /// Which of its chunks.
    pub selector: Selector,
    /// What is booked for it, and what the source keeps to.
    pub rate_bytes_per_sec: u64,
    /// From then on the source refuses.
    pub ends_at: Timestamp,
}

/// A grant that stands, and what is still booked for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// As last told to both sites.
    pub grant: Grant,
    /// What its destination may still be using: more than the grant says until a lower rate is confirmed.
    pub booked_bytes_per_sec: u64,
    /// Withdrawn, not yet confirmed.
    pub withdrawn: bool,
}

/// All grants that stand.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Book {
    grants: BTreeMap<GrantId, Standing>,
    next: u64,
}

impl Book {
    /// Every grant that may still flow, withdrawn ones included, by number.
    pub fn standing(&self) -> impl Iterator<Item = &Standing> {
        self.grants.values()
    }

    /// One grant.
    #[must_use]
    pub fn get(&self, id: GrantId) -> Option<&Standing> {
        self.grants.get(&id)
    }

    /// How many grants may still flow.
    #[must_use]
    pub fn len(&self) -> usize {
        self.grants.len()
    }

    /// Whether nothing flows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.grants.is_empty()
    }

    pub(crate) fn next_id(&self) -> u64 {
        self.next
    }

    pub(crate) fn add(&mut self, grant: Grant) {
        self.next = self.next.max(grant.id.0 + 1);
        let booked_bytes_per_sec = grant.rate_bytes_per_sec;
        self.grants.insert(grant.id, Standing { grant, booked_bytes_per_sec, withdrawn: false });
    }

    pub(crate) fn withdraw(&mut self, id: GrantId) {
        if let Some(standing) = self.grants.get_mut(&id) {
            standing.withdrawn = true;
        }
    }

    pub(crate) fn change(&mut self, id: GrantId, rate_bytes_per_sec: u64) {
        if let Some(standing) = self.grants.get_mut(&id) {
            standing.grant.rate_bytes_per_sec = rate_bytes_per_sec;
            standing.booked_bytes_per_sec = standing.booked_bytes_per_sec.max(rate_bytes_per_sec);
        }
    }

    pub(crate) fn renew(&mut self, id: GrantId, ends_at: Timestamp) {
        if let Some(standing) = self.grants.get_mut(&id) {
            standing.grant.ends_at = ends_at;
        }
    }

    /// The destination has stopped, or is known to be gone, or its source is: nothing flows any more.
    pub fn stopped(&mut self, id: GrantId) {
        self.grants.remove(&id);
    }

    /// The destination keeps to the rate that it was last told.
    pub fn rate_confirmed(&mut self, id: GrantId) {
        if let Some(standing) = self.grants.get_mut(&id) {
            standing.booked_bytes_per_sec = standing.grant.rate_bytes_per_sec;
        }
    }

    /// Forgets what has ended by itself.
    pub fn forget_ended(&mut self, now: Timestamp) {
        self.grants.retain(|_, standing| standing.grant.ends_at > now);
    }

    /// A site is gone: nothing flows from it or to it.
    pub fn site_gone(&mut self, site: SiteId) {
        self.grants.retain(|_, standing| standing.grant.source != site && standing.grant.destination != site);
    }

    /// Books everything that may flow.
    pub(crate) fn occupy(&self, network: &Network, ledger: &mut Ledger) {
        for standing in self.grants.values() {
            let path = network.path(standing.grant.source, standing.grant.destination);
            ledger.occupy(&path, standing.booked_bytes_per_sec);
        }
    }
}

/// How long a grant lasts unless it is renewed. Default 10 s: a CCM that comes back sooner finds the
/// transfers going on, one that does not leaves nothing booked. Shorter means more renewals.
pub const GRANT_LIFETIME: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(id: u64, rate_bytes_per_sec: u64) -> Grant {
        Grant {
            id: GrantId(id),
            source: SiteId(0),
            destination: SiteId(1),
            object: Digest::of(b"object"),
            selector: Selector::Any,
            rate_bytes_per_sec,
            ends_at: Timestamp(10),
        }
    }

    #[test]
    fn a_lowered_or_withdrawn_grant_stays_booked_until_that_is_confirmed() {
        let mut book = Book::default();
        book.add(grant(0, 100));
        book.change(GrantId(0), 40);
        assert_eq!(book.get(GrantId(0)).map(|standing| standing.booked_bytes_per_sec), Some(100));
        book.rate_confirmed(GrantId(0));
        assert_eq!(book.get(GrantId(0)).map(|standing| standing.booked_bytes_per_sec), Some(40));
        book.withdraw(GrantId(0));
        assert_eq!(book.len(), 1);
        book.stopped(GrantId(0));
        assert!(book.is_empty());
        assert_eq!(book.next_id(), 1, "its number is not given again");
    }

    #[test]
    fn a_grant_ends_by_itself() {
        let mut book = Book::default();
        book.add(grant(3, 1));
        book.forget_ended(Timestamp(9));
        assert_eq!(book.len(), 1);
        book.forget_ended(Timestamp(10));
        assert!(book.is_empty());
    }

    #[test]
    fn selectors_admit_their_chunks_and_overlap_where_one_chunk_is_in_both() {
        let even = Selector::Residue { class: 0, classes: 2 };
        let odd = Selector::Residue { class: 1, classes: 2 };
        assert!(even.admits(4) && !even.admits(5));
        assert!(!even.overlaps(odd, 100) && even.overlaps(even, 100));
        assert!(even.overlaps(Selector::Run { first: 1, end: 3 }, 100));
        assert!(!even.overlaps(Selector::Run { first: 1, end: 2 }, 100));
        assert!(odd.overlaps(Selector::WholeFrom { first: 98 }, 100));
        assert!(!odd.overlaps(Selector::WholeFrom { first: 99 }, 99));
    }
}
