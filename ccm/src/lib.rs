//! The content control manager.

pub mod api;
pub mod decoders;
pub mod engine;
pub mod ingest;
pub mod leaders;
pub mod schedule;
pub mod server;
pub mod store;
pub mod trust;
