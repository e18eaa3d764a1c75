//! How strong a server's claim to lead is.

use std::cmp::{Ordering, Reverse};
use std::time::Duration;

use common::fleet::MemberInfo;
use common::ids::ServerId;
use serde::{Deserialize, Serialize};

/// The strength of a claim, as it is sent. Greater is stronger; fields count in their order, and the
/// server itself decides between equals, so that no two servers are ever equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Priority {
    /// Rank on the administrator's list of pre-assigned leaders, higher first; 0 when not listed.
    pub preassigned: u8,
    /// It led until a short while ago and lost that without stopping: it knows the members best.
    pub led_recently: bool,
    /// The administrator's factor.
    pub factor: u8,
    /// Processors, load, time up, content and members known, as one number up to [`SCORE_MAX`].
    pub score: u16,
    /// The server.
    pub server: ServerId,
}

/// Highest score.
pub const SCORE_MAX: u16 = 500;

impl Priority {
    /// From 0 (weakest) to 255, for the wait before a claim and for epochs of the same round. Orders
    /// as the priority does, but coarsely: close priorities can be equally strong.
    #[must_use]
    pub fn strength(&self) -> u8 {
        let band: u8 = match (self.preassigned, self.led_recently) {
            (0, false) => 0,
            (0, true) => 96,
            (1..=63, _) => 96 + self.preassigned,
            (64.., _) => 159,
        };
        let resources = self.score.min(SCORE_MAX) / (SCORE_MAX / 31);
        band + self.factor / 4 + u8::try_from(resources.min(31)).unwrap_or(31)
    }
}

/// By how much a factor must be greater to make a server much stronger: half of
/// [`Standing::FACTOR_NEUTRAL`].
const FACTOR_MUCH: u8 = 50;

impl Priority {
    /// Whether this server should lead instead of a living leader where the policy allows it: by the
    /// administrator's word only, never by what processors and load come to.
    #[must_use]
    pub fn is_much_stronger_than(&self, leader: &Self) -> bool {
        match self.preassigned.cmp(&leader.preassigned) {
            Ordering::Greater => true,
            Ordering::Equal => self.factor >= leader.factor.saturating_add(FACTOR_MUCH),
            Ordering::Less => false,
        }
    }
}

/// Which of its members a leader that stops hands over to: one that may lead, with most processors, the
/// least loaded first. `None` when there is nobody.
#[must_use]
pub fn successor(leader: ServerId, members: &[MemberInfo]) -> Option<ServerId> {
    let candidates = members.iter().filter(|member| member.roles.leader && member.server != leader);
    let strongest = candidates.max_by_key(|member| (member.cpus, Reverse(member.load_percent), member.server));
    strongest.map(|member| member.server)
}

/// What a server knows about itself that makes it a better or worse leader (002, claim 37). The
/// driver refreshes it now and then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Rank on the administrator's list of pre-assigned leaders, higher first; 0 when not listed.
    pub preassigned: u8,
    /// The administrator's factor; [`Standing::FACTOR_NEUTRAL`] when none is set.
    pub factor: u8,
    /// Processors.
    pub cpus: u16,
    /// Load average of the last minute, in hundredths.
    pub load_percent: u32,
    /// How long it has been up: reliability, as far as a server can know its own.
    pub uptime: Duration,
    /// How much of its content is current, in percent. A newcomer has its own content to get.
    pub content_percent: u8,
}

impl Standing {
    /// The factor of a server that the administrator neither prefers nor avoids.
    pub const FACTOR_NEUTRAL: u8 = 100;

    /// The priority of `server` when it knows so many members.
    #[must_use]
    pub fn priority(&self, server: ServerId, led_recently: bool, members: u32) -> Priority {
        // Doublings count, not processors: 64 instead of 32 is worth what 4 instead of 2 is.
        let cpus = (u16::BITS - self.cpus.leading_zeros()).min(10) * 10;
        let capacity = u32::from(self.cpus.max(1)) * 100;
        let idle = capacity.saturating_sub(self.load_percent).saturating_mul(100) / capacity;
        let minutes_up = u32::try_from(self.uptime.as_secs() / 60).unwrap_or(u32::MAX).min(100);
        let content = u32::from(self.content_percent.min(100));
        let score = cpus + idle + minutes_up + content + members.min(100);
        Priority {
            preassigned: self.preassigned,
            led_recently,
            factor: self.factor,
            score: u16::try_from(score).unwrap_or(SCORE_MAX).min(SCORE_MAX),
            server,
        }
    }
}

impl Default for Standing {
    /// An ordinary server about which nothing is known.
    fn default() -> Self {
        Self {
            preassigned: 0,
            factor: Self::FACTOR_NEUTRAL,
            cpus: 1,
            load_percent: 0,
            uptime: Duration::ZERO,
            content_percent: 100,
        }
    }
}
