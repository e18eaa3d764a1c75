//! How long history is kept.

use std::time::Duration;

use common::time::WallTime;
use rusqlite::params;

use super::row::integer;
use super::{Doing as _, Store, StoreError};

/// Bounds of the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Finished runs kept, with their assignments and outcomes. Default 2,000: years of publishing
    /// twice a day, some megabytes. Runs that are live or hold a checkpoint stay beyond it.
    pub runs_max: u32,
    /// Snapshots kept per site and group. Default 20: each keeps the content of a version.
    pub snapshots_max: u32,
    /// How long spent join tokens stay listed. Default a week: to see who used them.
    pub spent_tokens: Duration,
}

impl Default for Retention {
    fn default() -> Self {
        Self { runs_max: 2000, snapshots_max: 20, spent_tokens: Duration::from_secs(7 * 24 * 3600) }
    }
}

impl Store {
    /// Forgets what lies beyond the bounds, and sessions and API tokens whose time is over. Nothing
    /// that is live, unfinished or a checkpoint is touched.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn prune(&self, retention: &Retention, now: WallTime) -> Result<(), StoreError> {
        const DOING: &str = "forgetting old history";
        let spent = now.0.saturating_sub(u64::try_from(retention.spent_tokens.as_millis()).unwrap_or(u64::MAX));
        self.transaction(DOING, |tx| {
            tx.execute(
                "DELETE FROM snapshots WHERE run IN (SELECT run FROM (SELECT run, row_number() OVER \
                 (PARTITION BY site, content_group ORDER BY run DESC) AS age FROM snapshots) WHERE age > ?1)",
                params![retention.snapshots_max],
            )
            .doing(DOING)?;
            tx.execute(
                "DELETE FROM runs WHERE final = 1 \
                 AND number NOT IN (SELECT number FROM runs WHERE final = 1 ORDER BY number DESC LIMIT ?1) \
                 AND number NOT IN (SELECT run FROM views) AND number NOT IN (SELECT run FROM staged) AND number NOT IN (SELECT run FROM snapshots) \
                 AND number NOT IN (SELECT run FROM checkpoints WHERE run IS NOT NULL)",
                params![retention.runs_max],
            )
            .doing(DOING)?;
            tx.execute("DELETE FROM jobs WHERE number NOT IN (SELECT job FROM runs)", params![]).doing(DOING)?;
            tx.execute("DELETE FROM sessions WHERE expires <= ?1", params![integer(now.0)]).doing(DOING)?;
            tx.execute("DELETE FROM api_tokens WHERE expires <= ?1", params![integer(now.0)]).doing(DOING)?;
            tx.execute("DELETE FROM join_tokens WHERE expires <= ?1", params![integer(spent)]).doing(DOING)?;
            Ok(())
        })
    }
}
