//! Moving objects between sites.
//!
//! In reading order: how an object is cut and checked ([`chunk`]), where objects lie and how
//! unfinished ones survive a crash ([`store`]).
//!
//! Absences: no hosted sites, no assignments, no servers' roles. An object here is a digest and a
//! length; whether somebody may have it is asked of the caller.

pub mod chunk;
pub mod store;
