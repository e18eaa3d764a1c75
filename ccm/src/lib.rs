//! The content control manager: store, ingest, runs, WAN planner, API, authentication
