//! A back-end server: the content interpreter and the member side of the LAN protocols, and the
//! agent that runs both, with the group leader's part while this server leads.
//!
//! In reading order: [`config`], [`settings`] and [`lan`] (what its administrator says), [`identity`] and
//! [`enroll`] (who this server is), [`peers`] and [`roster`] (who else is there, and where), [`agent`] (the task that drives everything), [`receive`] (multicast
//! sessions), [`worker`] (the interpreter's thread), [`content`] (the interpreter itself), [`hooks`] (what
//! is run before and after), [`doctor`] (whether multicast works); [`decoders`] for whoever tries the readers by
//! themselves.

pub mod agent;
pub mod config;
pub mod content;
pub mod decoders;
pub mod doctor;
pub mod enroll;
pub mod hooks;
pub mod identity;
pub mod lan;
pub mod network;
pub mod peers;
pub mod receive;
pub mod roster;
pub mod settings;
mod speed;
mod spool;
pub mod worker;
