//! What travels on the control channel: one of these in each datagram.

use serde::{Deserialize, Serialize};

use crate::{direct, election, jumbo, reach, registration, relocation, reports, session};

/// A message of one of the protocols. Grows at the end only.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Control {
    /// Who leads.
    Election(election::Message),
    /// Who is a member.
    Registration(registration::Message),
    /// What became of assignments.
    Reports(reports::Message),
    /// A multicast session.
    Session {
        /// What is said.
        message: session::Message,
        /// Port of the sender's chunk server, at the address the datagram comes from: where a member
        /// gets what a session did not bring.
        transfer_port: u16,
    },
    /// Who hears what is multicast.
    Reach(reach::Message),
    /// Objects for who does not.
    Direct(direct::Message),
    /// Where the control channel is.
    Relocation(relocation::Message),
    /// Whether long packets pass.
    Jumbo(jumbo::Message),
}
