//! Whole segments in virtual time: every protocol machine of every server, driven as the agent drives
//! them, over a network that loses, repeats, reorders, delays and divides, beside an adversary that
//! holds the segment key. Everything follows from one number, the seed.
//!
//! In reading order: a server's machines ([`server`]), the network between them ([`network`]), the
//! adversary ([`adversary`]), all of it together in time ([`world`]), what happens to it ([`scenario`]),
//! what must hold after every step ([`invariants`]) and what must follow when the faults are over
//! ([`liveness`]), and one seed from beginning to end ([`run`]).
//!
//! Absences: no clock, no socket, no thread, no chance but the seed's. Signatures are not computed:
//! the network says truly who sent a datagram, as the envelope does, and the replay window is the
//! envelope's own.

pub mod adversary;
pub mod chance;
pub mod facts;
pub mod invariants;
pub mod liveness;
pub mod network;
pub mod run;
pub mod scenario;
pub mod server;
pub mod world;
