//! Which reports a leader cannot have got from an honest member of its session.

use common::ids::ServerId;

use super::geometry::Geometry;
use super::message::Status;

/// Why a report is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StatusRefused {
    /// It belongs to another session.
    #[error("the report belongs to session {actual:#010x}, not to {expected:#010x}")]
    Session {
        /// This session.
        expected: u32,
        /// The report's.
        actual: u32,
    },
    /// Its sender is no member of the session.
    #[error("{from} reports and is no member of the session")]
    Stranger {
        /// Who sent it.
        from: ServerId,
    },
    /// It tells of transmissions or polls that never were.
    #[error("{from} reports to have heard sequence {highest} and poll {poll}, which were not sent yet")]
    Future {
        /// Who sent it.
        from: ServerId,
        /// Highest sequence it names.
        highest: u32,
        /// The poll it names.
        poll: u32,
    },
    /// It says complete and holds less, or holds more than there is.
    #[error("{from} reports to hold {held} symbols of {symbols}, complete: {complete}")]
    Held {
        /// Who sent it.
        from: ServerId,
        /// How many symbols it says to hold.
        held: u32,
        /// How many there are.
        symbols: u32,
        /// Whether it says to be complete.
        complete: bool,
    },
    /// What it misses is not ascending and apart, or was never sent.
    #[error("{from} reports {count} missing symbols from {first} on, which no member can miss there")]
    Missing {
        /// Who sent it.
        from: ServerId,
        /// First symbol of the wrong run.
        first: u32,
        /// Length of the wrong run.
        count: u32,
    },
    /// A block is named out of order, was not sent whole, or cannot lack that much.
    #[error("{from} reports to lack {count} symbols of block {block}, which no member can")]
    Deficit {
        /// Who sent it.
        from: ServerId,
        /// The block.
        block: u32,
        /// How much it says to lack.
        count: u32,
    },
    /// The session is over.
    #[error("the session is over")]
    Over,
}

/// What a session has sent so far, which bounds what can be reported.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sent {
    pub(super) session: u32,
    /// Last sequence used.
    pub(super) sequence: u32,
    /// Last poll sent.
    pub(super) polls: u32,
    pub(super) geometry: Geometry,
    /// All symbols below this were sent.
    pub(super) sent_through: u32,
}

impl Sent {
    pub(super) fn check(&self, from: ServerId, status: &Status) -> Result<(), StatusRefused> {
        if status.session != self.session {
            return Err(StatusRefused::Session { expected: self.session, actual: status.session });
        }
        if status.highest > self.sequence || status.poll > self.polls {
            return Err(StatusRefused::Future { from, highest: status.highest, poll: status.poll });
        }
        let (held, symbols, complete) = (status.held, self.geometry.symbols(), status.complete);
        if held > symbols || (complete && held < symbols) {
            return Err(StatusRefused::Held { from, held, symbols, complete });
        }
        let mut end = 0;
        for (first, count) in status.missing.iter().copied() {
            let next = first.checked_add(count).filter(|next| *next <= self.sent_through);
            match next {
                Some(next) if count > 0 && first >= end => end = next,
                Some(_) | None => return Err(StatusRefused::Missing { from, first, count }),
            }
        }
        let sent_blocks = self.geometry.blocks_within(self.sent_through);
        let mut next = 0;
        for (block, count) in status.deficits.iter().copied() {
            let is_possible = block >= next && block < sent_blocks;
            if !is_possible || count == 0 || count > self.geometry.block_length(block) {
                return Err(StatusRefused::Deficit { from, block, count });
            }
            next = block + 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_that_no_honest_member_can_have_made_is_refused_for_its_reason() {
        let from = ServerId([1; 16]);
        let geometry = Geometry::new(100 * 1328, 1328).expect("fits");
        let sent = Sent { session: 7, sequence: 60, polls: 2, geometry, sent_through: 50 };
        let good = Status {
            session: 7,
            poll: 2,
            received: 1000,
            highest: 60,
            held: 45,
            missing: vec![(0, 2), (2, 1), (48, 2)],
            deficits: Vec::new(),
            more: false,
            complete: false,
        };
        let check = |status: Status, error: StatusRefused| assert_eq!(sent.check(from, &status), Err(error));
        assert_eq!(sent.check(from, &good), Ok(()));
        check(Status { session: 8, ..good.clone() }, StatusRefused::Session { expected: 7, actual: 8 });
        check(Status { highest: 61, ..good.clone() }, StatusRefused::Future { from, highest: 61, poll: 2 });
        check(Status { poll: 3, ..good.clone() }, StatusRefused::Future { from, highest: 60, poll: 3 });
        let held = |held: u32, complete: bool| StatusRefused::Held { from, held, symbols: 100, complete };
        check(Status { held: 101, ..good.clone() }, held(101, false));
        check(Status { held: 99, complete: true, ..good.clone() }, held(99, true));
        for (first, count) in [(1, 1), (48, 0), (48, 3), (u32::MAX, 2)] {
            let missing = vec![(0, 2), (first, count)];
            check(Status { missing, ..good.clone() }, StatusRefused::Missing { from, first, count });
        }
    }
    #[test]
    fn a_deficit_that_no_honest_member_can_have_is_refused() {
        let from = ServerId([1; 16]);
        let geometry = Geometry::new(3200 * 1328, 1328).expect("fits").with_blocks();
        let sent = Sent { session: 7, sequence: 2000, polls: 0, geometry, sent_through: 2000 };
        let check = |deficits: &[(u32, u32)]| {
            let status = Status {
                session: 7,
                poll: 0,
                received: 1,
                highest: 1,
                held: 1,
                missing: Vec::new(),
                deficits: deficits.to_vec(),
                more: false,
                complete: false,
            };
            sent.check(from, &status)
        };
        assert_eq!(check(&[(0, 1), (1, 200), (7, 3)]), Ok(()));
        let refused = |block: u32, count: u32| Err(StatusRefused::Deficit { from, block, count });
        assert_eq!(check(&[(0, 0)]), refused(0, 0));
        assert_eq!(check(&[(0, 201)]), refused(0, 201));
        assert_eq!(check(&[(1, 1), (1, 1)]), refused(1, 1));
        assert_eq!(check(&[(2, 1), (1, 1)]), refused(1, 1));
        assert_eq!(check(&[(8, 1)]), refused(8, 1), "it was not sent whole");
        assert_eq!(check(&[(u32::MAX, 1)]), refused(u32::MAX, 1));
    }
}
