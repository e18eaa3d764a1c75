//! The content control manager.

pub mod ingest;
