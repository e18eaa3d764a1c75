//! The LAN protocols of a network segment as pure state machines (002, "Group leaders",
//! "Registration", "Local distribution"): inputs are messages and time, outputs are messages and
//! events.
//!
//! Absences: no tokio, no sockets, no clock, no global randomness, no files. A driver owns those,
//! carries outputs out and decides nothing.
//!
//! **The calling contract of every machine: one input (`handle_*`), then drain `poll_output` until
//! `None`, then sleep until `poll_timeout`, then the next input.**

pub mod direct;
pub mod doctor;
pub mod election;
pub mod jumbo;
pub mod message;
pub mod participant;
pub mod reach;
pub mod registration;
pub mod relocation;
pub mod reports;
pub mod session;
