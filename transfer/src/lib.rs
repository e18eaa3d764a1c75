//! Moving objects between sites.
//!
//! In reading order: how an object is cut and checked ([`chunk`]), where objects lie and how
//! unfinished ones survive a crash ([`store`]), who is at the other end of a connection ([`tls`], [`unproven`]),
//! one HTTP/1.1 connection ([`http`]), handing objects out ([`server`]) and getting them
//! ([`fetch`]).
//!
//! Absences: no hosted sites, no assignments, no servers' roles. An object here is a digest and a
//! length; whether somebody may have it is asked of the caller.

pub mod chunk;
pub mod decoders;
pub mod fetch;
pub mod http;
pub mod server;
pub mod store;
mod task;
#[cfg(test)]
mod test_pki;
#[cfg(test)]
mod test_site;
pub mod tls;
pub mod unproven;
