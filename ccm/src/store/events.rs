//! Events: what changed, in order, for those who follow from afar and come back after a pause.

use common::time::WallTime;
use rusqlite::params;
use serde_json::Value;

use super::row::{integer, json, time, to_json};
use super::{Doing as _, Store, StoreError};

/// Most events that are kept. A follower that was away for longer asks for the state instead.
pub const EVENTS_KEPT: i64 = 10_000;

/// Something changed.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Increasing, never reused.
    pub id: i64,
    /// When.
    pub time: WallTime,
    /// What kind: run, fleet.
    pub kind: String,
    /// What is so now.
    pub data: Value,
}

impl Store {
    /// Adds an event and drops the oldest beyond [`EVENTS_KEPT`].
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn add_event(&self, kind: &str, data: &Value, now: WallTime) -> Result<i64, StoreError> {
        let data = to_json("an event", data)?;
        self.transaction("adding an event", |tx| {
            tx.execute(
                "INSERT INTO events (time, kind, data) VALUES (?1, ?2, ?3)",
                params![integer(now.0), kind, data],
            )
            .doing("adding an event")?;
            let id = tx.last_insert_rowid();
            tx.execute("DELETE FROM events WHERE id <= ?1", params![id - EVENTS_KEPT]).doing("adding an event")?;
            Ok(id)
        })
    }

    /// The events after `id`, oldest first, `limit` at most.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn events_after(&self, id: i64, limit: usize) -> Result<Vec<Event>, StoreError> {
        let connection = self.lock();
        let mut statement = connection
            .prepare_cached("SELECT id, time, kind, data FROM events WHERE id > ?1 ORDER BY id LIMIT ?2")
            .doing("reading events")?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = statement
            .query_map(params![id, limit], |row| {
                Ok(Event { id: row.get(0)?, time: time(row, 1)?, kind: row.get(2)?, data: json(row, 3)? })
            })
            .doing("reading events")?;
        rows.collect::<rusqlite::Result<_>>().doing("reading events")
    }

    /// The newest event's id; 0 when there never was one.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn last_event(&self) -> Result<i64, StoreError> {
        self.lock().query_row("SELECT coalesce(max(id), 0) FROM events", [], |row| row.get(0)).doing("reading events")
    }
}
