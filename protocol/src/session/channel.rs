//! Which data channel an object's frames take.

use std::net::SocketAddr;

use common::ticket::Ticket;

use super::SYMBOL_BYTES;
use super::receiver::BURST_SYMBOLS;

/// Longest object that takes the segment's own channel, in bytes: one burst of symbols of the default length.
const SHARED_BYTES_MAX: u64 = BURST_SYMBOLS as u64 * SYMBOL_BYTES as u64;

/// The channel of the object's content group, which members must join first; `None` for the segment's own,
/// where everybody listens.
///
/// What is sent in one burst takes the segment's own: to join a channel for it would take longer than to send
/// it, and 90 KB cost those whom they do not concern little.
#[must_use]
pub fn channel_of(ticket: &Ticket) -> Option<SocketAddr> {
    ticket.channel.filter(|_| ticket.length > SHARED_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::super::simulation::ticket;
    use super::*;

    #[test]
    fn what_fits_one_burst_takes_the_segments_own_channel_and_all_else_its_groups() {
        let channel = SocketAddr::from(([239, 192, 1, 2], 30_000));
        let of = |length, channel| channel_of(&Ticket { length, channel, ..ticket() });
        assert_eq!(of(8_192, Some(channel)), None);
        assert_eq!(of(SHARED_BYTES_MAX, Some(channel)), None);
        assert_eq!(of(SHARED_BYTES_MAX + 1, Some(channel)), Some(channel));
        assert_eq!(of(1_000_000, None), None);
    }
}
