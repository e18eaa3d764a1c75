//! The control channel and the data channel of a network segment: sockets, sealing, credentials.
//!
//! Control datagrams are filtered by the segment's group key first (cheap, keeps outsiders out) and
//! believed by the sender's own signature and credential ([`envelope`]). Data frames are sealed
//! with a key of their session ([`frames`]) and travel by the batch ([`data`]). What `pressrun doctor` says
//! is kept apart from both ([`doctor`]). Addresses follow from
//! cluster and segment ([`sockets`]).
//!
//! Absences: no rule of a protocol lives here; nothing here knows what a message means.

pub mod data;
pub mod doctor;
pub mod envelope;
pub mod frames;
pub mod port;
pub mod sockets;
