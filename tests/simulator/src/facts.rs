//! What happened in one step, as the invariants see it.

use common::fleet::MemberInfo;
use common::ids::ServerId;
use common::outcome::Report;
use protocol::message::Control;
use protocol::registration::Destination;

/// One thing that happened. The servers in it are honest unless it says otherwise.
#[derive(Debug, Clone)]
pub enum Fact {
    /// A server's process began.
    Started {
        /// Which.
        server: ServerId,
        /// The epoch on its disk.
        epoch: u64,
    },
    /// A server lost what its disk held about epochs.
    Forgot {
        /// Which.
        server: ServerId,
    },
    /// An epoch was made durable.
    Persisted {
        /// Where.
        server: ServerId,
        /// Which.
        epoch: u64,
    },
    /// A server leads.
    Leads {
        /// Which.
        server: ServerId,
        /// What.
        epoch: u64,
    },
    /// A server follows.
    Follows {
        /// Which.
        server: ServerId,
        /// Whom.
        leader: ServerId,
        /// The leader's epoch.
        epoch: u64,
    },
    /// A server has no leader, and is none.
    Leaderless {
        /// Which.
        server: ServerId,
    },
    /// A server's registration is confirmed.
    Confirmed {
        /// Which.
        server: ServerId,
        /// By whom.
        leader: ServerId,
        /// The leader's epoch.
        epoch: u64,
        /// The revision of itself that the server describes now; see [`revision_of`].
        revision: u64,
    },
    /// A leader knows these members.
    Members {
        /// The leader.
        leader: ServerId,
        /// Its epoch.
        epoch: u64,
        /// Whom.
        members: Vec<MemberInfo>,
    },
    /// A server describes itself anew, or an adversary describes itself.
    Described {
        /// Itself.
        info: MemberInfo,
    },
    /// A server believed a datagram.
    Heard {
        /// Which server.
        server: ServerId,
        /// Who sealed the datagram, in which of its starts, and which of that start it is.
        datagram: (ServerId, u64, u64),
    },
    /// A server has less to report, because of an acknowledgement.
    Acknowledged {
        /// Which.
        server: ServerId,
        /// By whom, and of which epoch.
        by: (ServerId, u64),
        /// Whom it followed at that moment, and in which epoch.
        follows: Option<(ServerId, u64)>,
    },
    /// A server has something to report.
    Submitted {
        /// What.
        report: Report,
    },
    /// A leader asks for reports.
    Asks {
        /// About what, of whom, and who has reported.
        expected: usize,
        /// Those of them whose report it holds.
        reported: Vec<ServerId>,
        /// Those whose report it lacks.
        missing: Vec<ServerId>,
        /// What it said.
        said: Vec<(Destination, protocol::reports::Ask)>,
    },
    /// A leader tells the content control manager.
    Told {
        /// The leader.
        leader: ServerId,
        /// Its epoch.
        epoch: u64,
        /// What.
        reports: Vec<Report>,
    },
    /// A server said something.
    Said {
        /// Which.
        server: ServerId,
        /// To whom.
        to: Destination,
        /// What.
        message: Control,
        /// Its length on the wire, without the envelope.
        bytes: usize,
    },
    /// A server took one input.
    Took {
        /// Which.
        server: ServerId,
        /// How many datagrams it sent because of it.
        sent: usize,
        /// How often its timers were due at the same instant.
        wakes: u32,
    },
}

/// Simulated servers number their descriptions in the field for free space.
#[must_use]
pub fn revision_of(info: &MemberInfo) -> u64 {
    info.disk_free_bytes
}
