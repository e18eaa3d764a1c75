//! Runs: what they are made of, from a request to the last report.

pub mod delivery;
pub mod hub;
pub mod quorum;
pub mod wan;
