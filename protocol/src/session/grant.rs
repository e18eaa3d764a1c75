//! Who is told the secret of a session, and how each finds its own.

use common::ids::ServerId;
use common::ticket::Ticket;
use serde::{Deserialize, Serialize};

/// The session's secret for one server, in a form that it alone can read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Which of the ticket's servers. Two bytes instead of the sixteen of its identity: an announcement to a
    /// thousand members is one datagram.
    target: u16,
    /// What it reads.
    hidden: [u8; 16],
}

impl Grant {
    /// For this server; `None` when the ticket does not name it.
    #[must_use]
    pub fn new(ticket: &Ticket, server: ServerId, hidden: [u8; 16]) -> Option<Self> {
        Some(Self { target: place(ticket, server)?, hidden })
    }

    /// What this server reads among the grants of an announcement; `None` when none is for it.
    #[must_use]
    pub fn find(grants: &[Self], ticket: &Ticket, server: ServerId) -> Option<[u8; 16]> {
        let target = place(ticket, server)?;
        grants.iter().find(|grant| grant.target == target).map(|grant| grant.hidden)
    }

    /// Whether both are for the same server.
    pub(super) fn is_for_whom(&self, other: &Self) -> bool {
        self.target == other.target
    }
}

fn place(ticket: &Ticket, server: ServerId) -> Option<u16> {
    // The servers of a ticket are in ascending order.
    ticket.targets.binary_search(&server).ok().and_then(|place| u16::try_from(place).ok())
}

#[cfg(test)]
mod tests {
    use super::super::simulation::ticket;
    use super::*;

    #[test]
    fn a_server_finds_what_is_for_it_and_nothing_else() {
        let [one, two, three] = [1, 2, 3].map(|n| ServerId([n; 16]));
        let ticket = Ticket { targets: vec![one, two], ..ticket() };
        assert_eq!(Grant::new(&ticket, three, [3; 16]), None, "it is not of the ticket");
        let grants = [Grant::new(&ticket, two, [2; 16]).expect("of the ticket")];
        assert_eq!(Grant::find(&grants, &ticket, two), Some([2; 16]));
        assert_eq!(Grant::find(&grants, &ticket, one), None);
        assert_eq!(Grant::find(&grants, &ticket, three), None);
    }
}
