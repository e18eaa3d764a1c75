//! Who is told the secret of a multicast session, and who reads it. That hiding it takes is
//! [`lan_channel::secrets`]' business.

use common::ids::ServerId;
use common::ticket::Ticket;
use lan_channel::envelope::Opener;
use lan_channel::secrets::{PairKeys, SessionName, SessionSecret};
use protocol::session::Grant;

/// The leader's means of telling.
pub(super) struct Granting<'a> {
    pub(super) pairs: &'a mut PairKeys,
    /// Knows the keys of those who were heard.
    pub(super) opener: &'a Opener,
}

impl Granting<'_> {
    /// What tells this member of the ticket; `None` for one that was never heard.
    pub(super) fn grant(
        &mut self,
        ticket: &Ticket,
        member: ServerId,
        name: SessionName,
        secret: SessionSecret,
    ) -> Option<Grant> {
        let key = self.opener.key_of(member)?;
        let grant = Grant::new(ticket, member, self.pairs.hide(key, name, secret)?);
        if grant.is_none() {
            tracing::warn!(server = %member, assignment = %ticket.assignment, "a member cannot be told the secret of a session");
        }
        grant
    }
}
