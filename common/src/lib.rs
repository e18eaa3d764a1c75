//! The words of Pressrun as types: what crosses a crate boundary or a wire is defined here, once.
//!
//! In reading order: who and what things are called ([`ids`], [`path`]), what a tree of content is
//! ([`digest`], [`manifest`], [`exclude`]), what is ordered to be done with it ([`assignment`]),
//! why it is believed ([`keys`], [`credential`], [`ticket`]), who takes part ([`fleet`]), where data travels on a segment ([`channel`]), what
//! came of it ([`outcome`], [`audit`]), how the parts talk ([`control`], [`framing`]), and how things are printed
//! ([`errors`], [`hex`]).
//!
//! Absences: no sockets, no tokio, no files, no clock. Randomness appears only where keys and ids
//! are made.

pub mod assignment;
pub mod audit;
pub mod channel;
pub mod control;
pub mod credential;
pub mod decline;
pub mod digest;
pub mod errors;
pub mod exclude;
pub mod fleet;
pub mod framing;
pub mod hex;
pub mod ids;
pub mod keys;
pub mod manifest;
pub mod outcome;
pub mod path;
pub mod replay;
pub mod ticket;
pub mod time;
