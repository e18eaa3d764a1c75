//! The control channel and the data channel of a network segment: sockets, sealing, credentials.
//!
//! Control datagrams are filtered by the segment's group key first (cheap, keeps outsiders out) and
//! believed by the sender's own signature and credential ([`envelope`]). Data frames are sealed
//! with a key of their session ([`frames`]), which hangs on a secret
//! that its members are told ([`secrets`]), and travel by the batch ([`data`]), gathered
//! where there are many ([`doorbell`]). What `pressrun doctor` says
//! is kept apart from both ([`doctor`]). Addresses follow from
//! cluster and segment, over IPv4 or IPv6 ([`interface`], [`sockets`], [`port`]); the data channels of content
//! groups are joined and left as sessions need them ([`joined`]); the control channel may be moved ([`control`]).
//!
//! Absences: no rule of a protocol lives here; nothing here knows what a message means.

pub mod control;
pub mod data;
pub mod doctor;
pub mod doorbell;
pub mod envelope;
pub mod frames;
pub mod interface;
pub mod joined;
pub mod port;
pub mod secrets;
pub mod sockets;

#[cfg(test)]
mod testing;
