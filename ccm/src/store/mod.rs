//! What the content control manager knows and must not forget: one SQLite database.
//!
//! Methods are domain operations in one transaction each; no SQL leaves this module. Durable when a
//! method returns: write-ahead log with a sync at every commit. Methods block for the time of a disk
//! sync, so asynchronous callers use a blocking thread.
//!
//! In reading order: sites, groups and what is live there ([`sites`]), the groups' data channels ([`channels`]),
//! the fleet ([`fleet`], [`roster`]), runs
//! ([`model`], [`runs`]) with their assignments and outcomes ([`assignments`]), versions that single servers
//! have and what is staged ([`own`]), what happens by itself
//! ([`schedules`]), tokens, users and sessions ([`access`]), events ([`events`]), and how long history is kept ([`retention`]).
//!
//! Leaves to others: the content itself (files, by digest), the making of keys and secrets
//! (`trust`), deciding anything.

pub mod access;
pub mod assignments;
pub mod channels;
pub mod error;
pub mod events;
pub mod fleet;
pub mod model;
pub mod own;
pub mod retention;
pub mod rfc3339;
pub mod roster;
mod row;
pub mod runs;
pub mod schedules;
pub mod sites;
#[cfg(test)]
mod tests;

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior, params};

pub use access::{ApiToken, JoinToken, Role, Session, User};
pub use assignments::AssignmentRecord;
pub use error::{StoreError, Thing};
pub use events::Event;
pub use fleet::{Segment, SegmentLeader, ServerRecord};
pub use model::{Phase, Run, RunKind, RunSegment, RunServer, RunState, RunSummary};
pub use own::{Own, OwnVersion, Staged, StagedChange};
pub use retention::Retention;
pub use roster::ControlAddress;
pub use runs::{Effects, HoldChange, Snapshot};
pub use schedules::{Action, Hold, Last, Otherwise, Passed, Schedule};
pub use sites::{Checkpoint, Group, Selector, Site, View};

mod embedded {
    refinery::embed_migrations!("src/store/migrations");
}

/// How long a statement waits for another process that holds the database (a backup, for instance).
const BUSY_WAIT: Duration = Duration::from_secs(10);

/// The database. Clones share one connection; its lock makes every method atomic.
#[derive(Clone)]
pub struct Store {
    connection: Arc<Mutex<Connection>>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Store")
    }
}

/// Puts the name of an operation to a failed statement.
trait Doing<T> {
    fn doing(self, doing: &'static str) -> Result<T, StoreError>;
}

impl<T> Doing<T> for rusqlite::Result<T> {
    fn doing(self, doing: &'static str) -> Result<T, StoreError> {
        self.map_err(|source| StoreError::Sql { doing, source })
    }
}

impl Store {
    /// Opens the database, creating it readable by its owner only, and brings it to this version's
    /// form.
    ///
    /// # Errors
    /// [`StoreError::Create`], [`StoreError::Open`], [`StoreError::Migrate`].
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(path)
            .map_err(|source| StoreError::Create { path: path.to_owned(), source })?;
        let open = |source| StoreError::Open { path: path.to_owned(), source };
        let connection = Connection::open(path).map_err(open)?;
        connection.pragma_update(None, "journal_mode", "WAL").map_err(open)?;
        connection.pragma_update(None, "synchronous", "FULL").map_err(open)?;
        Self::prepare(connection)
    }

    /// A database that lives as long as its last clone, for tests.
    ///
    /// # Errors
    /// [`StoreError::Open`], [`StoreError::Migrate`].
    pub fn in_memory() -> Result<Self, StoreError> {
        let open = |source| StoreError::Open { path: ":memory:".into(), source };
        Self::prepare(Connection::open_in_memory().map_err(open)?)
    }

    fn prepare(mut connection: Connection) -> Result<Self, StoreError> {
        connection.busy_timeout(BUSY_WAIT).doing("being opened")?;
        connection.pragma_update(None, "foreign_keys", true).doing("being opened")?;
        embedded::migrations::runner().run(&mut connection).map_err(|source| StoreError::Migrate(Box::new(source)))?;
        Ok(Self { connection: Arc::new(Mutex::new(connection)) })
    }

    /// The connection. A panic of another thread cannot leave a half transaction behind: it was
    /// rolled back when it unwound.
    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `work` in one transaction that is kept only if it succeeds.
    fn transaction<T>(
        &self,
        doing: &'static str,
        work: impl FnOnce(&Transaction<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut connection = self.lock();
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).doing(doing)?;
        let result = work(&transaction)?;
        transaction.commit().doing(doing)?;
        Ok(result)
    }

    /// A value kept under a key of the program's own choice.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn meta(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.lock()
            .query_row("SELECT value FROM meta WHERE key = ?1", params![key], |row| row.get(0))
            .optional()
            .doing("reading a setting")
    }

    /// Keeps a value under a key, replacing what was there.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn set_meta(&self, key: &str, value: &[u8]) -> Result<(), StoreError> {
        self.lock()
            .execute(
                "INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                params![key, value],
            )
            .doing("writing a setting")?;
        Ok(())
    }
}
