//! What leader and members say to each other about a session on the control channel.
//!
//! Every message fits one control datagram: lists are cut to [`LIST_BYTES_MAX`], and what was cut
//! is said the next time round.

use common::ids::ServerId;
use common::keys::Signed;
use common::ticket::Ticket;
use serde::{Deserialize, Serialize};

use super::geometry::Layout;
use super::grant::Grant;
use super::ranges::RangeSet;

/// Most bytes of a list in a message, in the binary form of the control channel (postcard).
///
/// 1,000, so that with its other fields a message stays below 1,100 bytes and, signed, below the
/// smallest MTU in use.
pub const LIST_BYTES_MAX: usize = 1000;

/// Most identities in a list: 16 bytes each.
const LIST_IDS_MAX: usize = LIST_BYTES_MAX / 16;

/// Whom a poll addresses, by whichever list is shorter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Roll {
    /// These are known to be complete; everybody else reports.
    Complete(Vec<ServerId>),
    /// These report; everybody else may rest.
    Waiting(Vec<ServerId>),
}

impl Roll {
    /// The shorter way to say it. A list of the complete may be cut: then some of them answer again,
    /// and nobody is left out.
    pub(super) fn of<'a>(
        complete: impl ExactSizeIterator<Item = &'a ServerId>,
        waiting: impl ExactSizeIterator<Item = &'a ServerId>,
    ) -> Self {
        if waiting.len() <= complete.len() && waiting.len() <= LIST_IDS_MAX {
            Self::Waiting(waiting.copied().collect())
        } else {
            Self::Complete(complete.copied().take(LIST_IDS_MAX).collect())
        }
    }

    /// Whether this server shall report.
    #[must_use]
    pub fn asks(&self, server: ServerId) -> bool {
        match self {
            Self::Complete(list) => !list.contains(&server),
            Self::Waiting(list) => list.contains(&server),
        }
    }
}

/// A member's report (002: a request to repeat what is missing; an empty one acknowledges).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The session.
    pub session: u32,
    /// The last [`Poll`] heard; 0 when none was.
    pub poll: u32,
    /// Data frames of this session heard, each once. With `highest` it tells the loss.
    pub received: u64,
    /// Highest sequence heard; 0 when none was.
    pub highest: u32,
    /// Symbols held.
    pub held: u32,
    /// What is missing of that which was sent: (first, count), ascending, apart; cut to what fits.
    /// With parity only of the blocks that parity can mend no more.
    pub missing: Vec<(u32, u32)>,
    /// What is missing of the other blocks that were sent whole: (block, how many symbols), ascending;
    /// any of the block's symbols do, of the object or of parity. Cut to what fits.
    pub deficits: Vec<(u32, u32)>,
    /// The rest of this report follows in another message.
    pub more: bool,
    /// Whether the object is whole, verified and durable.
    pub complete: bool,
}

/// The leader asks for reports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Poll {
    /// The session.
    pub session: u32,
    /// Counts the polls of a session from 1.
    pub poll: u32,
    /// The pass that is over.
    pub pass: u8,
    /// All symbols below this were sent at least once, or nobody was said to need them.
    pub sent_through: u32,
    /// Answers are spread over this many microseconds.
    pub reply_window_micros: u32,
    /// Who shall answer.
    pub roll: Roll,
}

/// A message about a multicast session. Grows at the end only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// Leader, multicast: this object is being sent. The stream is the chunk table, then the object.
    Announce {
        /// Random; names the session.
        session: u32,
        /// What is sent and for whom, in the CCM's words.
        ticket: Signed<Ticket>,
        /// Length of the chunk table ahead of the object, in bytes.
        table_bytes: u64,
        /// How the stream is cut, and for how many.
        layout: Layout,
        /// The leader's epoch.
        epoch: u64,
        /// The session's secret, for each member in its own form. Who finds none waits to be announced to
        /// again.
        grants: Vec<Grant>,
    },
    /// Member, unicast.
    Status(Status),
    /// Leader, multicast.
    Poll(Poll),
    /// Leader, multicast: the session is over.
    Close {
        /// The session.
        session: u32,
        /// Those that were not brought to the end; cut to what fits.
        failed: Vec<ServerId>,
    },
    /// Member, unicast: cannot take part.
    Decline {
        /// The session.
        session: u32,
        /// Why, for people; short.
        reason: String,
    },
    /// Leader, multicast, to many members: what it is going to send anyhow. Those whom that mends need
    /// not report.
    Plan {
        /// The session.
        session: u32,
        /// (block, how many parity symbols of it will be sent after this), ascending; cut to what fits.
        parity: Vec<(u32, u32)>,
    },
    /// Member, unicast, before it says that it is complete: its kernel dropped frames because it did not read
    /// them in time. Tells a machine that is too busy, or whose buffers are too small, from a bad network.
    Overflow {
        /// The session.
        session: u32,
        /// How many frames since the session began, those of others included.
        frames: u64,
    },
}

impl Message {
    /// The session it is about.
    #[must_use]
    pub fn session(&self) -> u32 {
        match self {
            Self::Announce { session, .. }
            | Self::Close { session, .. }
            | Self::Decline { session, .. }
            | Self::Plan { session, .. }
            | Self::Overflow { session, .. } => *session,
            Self::Status(status) => status.session,
            Self::Poll(poll) => poll.session,
        }
    }

    pub(super) fn close<'a>(session: u32, failed: impl Iterator<Item = &'a ServerId>) -> Self {
        Self::Close { session, failed: failed.copied().take(LIST_IDS_MAX).collect() }
    }
}

/// The first gaps of `held` within this run, as pairs of first and count.
pub(super) fn gaps(held: &RangeSet, within: std::ops::Range<u32>) -> impl Iterator<Item = (u32, u32)> + '_ {
    held.gaps(within).map(|gap| (gap.start, gap.end - gap.start))
}

/// Takes as many pairs from the front as fit a message in which `used` bytes of lists are taken already.
pub(super) fn take_what_fits(pairs: &mut impl Iterator<Item = (u32, u32)>, used: &mut usize) -> Vec<(u32, u32)> {
    let mut taken = Vec::new();
    while *used + PAIR_BYTES_MAX <= LIST_BYTES_MAX {
        let Some((first, count)) = pairs.next() else { break };
        *used += pair_bytes((first, count));
        taken.push((first, count));
    }
    taken
}

/// Whether the lists of a report are so long that more of them may have been cut.
pub(super) fn may_be_cut(status: &Status) -> bool {
    let bytes: usize = status.missing.iter().chain(&status.deficits).map(|pair| pair_bytes(*pair)).sum();
    bytes + PAIR_BYTES_MAX > LIST_BYTES_MAX
}

const PAIR_BYTES_MAX: usize = 10;

fn pair_bytes((first, count): (u32, u32)) -> usize {
    varint_bytes(first) + varint_bytes(count)
}

/// Length of a number in the binary form: seven bits to a byte.
fn varint_bytes(number: u32) -> usize {
    let bits = (u32::BITS - number.leading_zeros()).max(1) as usize;
    bits.div_ceil(7)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_list_is_cut_to_what_fits_a_message_and_goes_on_in_the_next() {
        let mut held = RangeSet::new();
        for symbol in (0..2_000_000).step_by(2) {
            held.insert(symbol..symbol + 1);
        }
        let status = |missing: Vec<(u32, u32)>| Status {
            session: 1,
            poll: 0,
            received: 0,
            highest: 0,
            held: 0,
            missing,
            deficits: Vec::new(),
            more: false,
            complete: false,
        };
        let mut pairs = gaps(&held, 0..2_000_000);
        let first = take_what_fits(&mut pairs, &mut 0);
        assert_eq!(&first[..2], &[(1, 1), (3, 1)]);
        let bytes: usize = first.iter().map(|pair| pair_bytes(*pair)).sum();
        assert!((LIST_BYTES_MAX - 20..=LIST_BYTES_MAX).contains(&bytes), "{bytes} bytes of gaps");
        let next = first.last().expect("many").0 + 2;
        assert_eq!(take_what_fits(&mut pairs, &mut 990)[..], [(next, 1)]);
        assert_eq!(take_what_fits(&mut pairs, &mut 991)[..], []);
        assert!(may_be_cut(&status(first)));
        assert!(!may_be_cut(&status(vec![(1, 1), (3, 1)])));
        for (number, bytes) in [(0, 1), (127, 1), (128, 2), (16_383, 2), (16_384, 3), (u32::MAX, 5)] {
            assert_eq!(varint_bytes(number), bytes, "of {number}");
        }
    }

    #[test]
    fn a_poll_lists_whichever_half_is_shorter_and_leaves_nobody_out() {
        let ids: Vec<ServerId> = (0..200).map(|n| ServerId([n; 16])).collect();
        assert_eq!(Roll::of(ids[..3].iter(), ids[3..4].iter()), Roll::Waiting(vec![ids[3]]));
        assert_eq!(Roll::of(ids[..1].iter(), ids[1..4].iter()), Roll::Complete(vec![ids[0]]));
        let cut = Roll::of(ids[..100].iter(), ids[100..].iter());
        assert!(matches!(&cut, Roll::Complete(list) if list.len() == LIST_IDS_MAX));
        assert!(ids[100..].iter().all(|id| cut.asks(*id)));
    }
}
