//! Which data channel an object's frames take.

use std::net::SocketAddr;

use common::ticket::Ticket;

use super::Geometry;

/// The channel of the object's content group, which members must join first; `None` for the segment's own,
/// where everybody listens.
///
/// What fits one frame takes the segment's own: to join a channel for it would be more datagrams, and more
/// waiting, than the frame is.
#[must_use]
pub fn channel_of(ticket: &Ticket, geometry: &Geometry) -> Option<SocketAddr> {
    ticket.channel.filter(|_| geometry.symbols() > 1)
}

#[cfg(test)]
mod tests {
    use super::super::SYMBOL_BYTES;
    use super::super::simulation::ticket;
    use super::*;

    #[test]
    fn what_fits_one_frame_takes_the_segments_own_channel_and_all_else_its_groups() {
        let channel = SocketAddr::from(([239, 192, 1, 2], 30_000));
        let geometry = |length: u64| Geometry::new(length, SYMBOL_BYTES).expect("fits");
        let own = Ticket { channel: Some(channel), ..ticket() };
        assert_eq!(channel_of(&own, &geometry(u64::from(SYMBOL_BYTES))), None);
        assert_eq!(channel_of(&own, &geometry(u64::from(SYMBOL_BYTES) + 1)), Some(channel));
        let without = Ticket { channel: None, ..own };
        assert_eq!(channel_of(&without, &geometry(1_000_000)), None);
    }
}
