//! Versions that servers have for themselves, and what is staged and waits for its switch.
//!
//! A server is to have its group's version, unless a hot publish, a removal or a switch of single servers
//! gave it another. That stands until the next run that decides for the whole group, or that brings
//! the server back: whoever decided last is whose row is kept.

use std::collections::BTreeMap;

use common::digest::Version;
use common::ids::{AssignmentNumber, GroupName, RunNumber, ServerId, SiteName};
use common::time::WallTime;
use rusqlite::{OptionalExtension as _, Row, Transaction, params};
use serde::{Deserialize, Serialize};

use super::row::{checked, integer, number, server_id, text, time, version};
use super::{Doing as _, Store, StoreError};

/// Why a server has a version of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Own {
    /// Some paths of staging were published to it alone.
    Hot,
    /// The site's content was taken off it; nothing of it stays on its disk.
    Removed,
    /// The site's content was taken off it; what was live is its backup.
    RemovedKept,
    /// It was switched to its backup.
    Switched,
}

impl Own {
    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hot => "hot",
            Self::Removed => "removed",
            Self::RemovedKept => "removed-kept",
            Self::Switched => "switched",
        }
    }

    fn named(name: &str) -> Option<Self> {
        [Self::Hot, Self::Removed, Self::RemovedKept, Self::Switched].into_iter().find(|own| own.as_str() == name)
    }
}

/// A version that a server is to have though its group has another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnVersion {
    /// The site.
    pub site: SiteName,
    /// The group that it was decided for.
    pub group: GroupName,
    /// The server.
    pub server: ServerId,
    /// The version.
    pub version: Version,
    /// Why.
    pub own: Own,
}

/// What is staged on the servers of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Staged {
    /// The site.
    pub site: SiteName,
    /// The group.
    pub group: GroupName,
    /// The version.
    pub version: Version,
    /// The assignment that staged it.
    pub assignment: AssignmentNumber,
    /// Its run.
    pub run: RunNumber,
    /// Servers drop it after this.
    pub expires: WallTime,
}

/// What becomes of what is staged for a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StagedChange {
    /// This is staged.
    Set(Staged),
    /// It is live, or given up.
    Forget(SiteName, GroupName),
}

impl Store {
    /// The servers that are to have a version of their own, of one site or of all.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn own_versions(
        &self,
        site: Option<&SiteName>,
    ) -> Result<BTreeMap<(SiteName, ServerId), OwnVersion>, StoreError> {
        const DOING: &str = "reading the servers' own versions";
        let connection = self.lock();
        let mut statement = connection
            .prepare_cached(
                "SELECT site, content_group, server, version, own FROM wanted \
                 WHERE own IS NOT NULL AND (?1 IS NULL OR site = ?1)",
            )
            .doing(DOING)?;
        let rows = statement.query_map(params![site.map(SiteName::as_str)], own_row).doing(DOING)?;
        rows.map(|row| row.map(|own| ((own.site.clone(), own.server), own)))
            .collect::<rusqlite::Result<_>>()
            .doing(DOING)
    }

    /// What is staged for a group and was not brought live.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn staged(&self, site: &SiteName, group: &GroupName) -> Result<Option<Staged>, StoreError> {
        self.lock()
            .query_row(
                "SELECT site, content_group, version, assignment, run, expires FROM staged \
                 WHERE site = ?1 AND content_group = ?2",
                params![site.as_str(), group.as_str()],
                staged_row,
            )
            .optional()
            .doing("reading what is staged")
    }
}

fn own_row(row: &Row<'_>) -> rusqlite::Result<OwnVersion> {
    Ok(OwnVersion {
        site: text(row, 0)?,
        group: text(row, 1)?,
        server: server_id(row, 2)?,
        version: version(row, 3)?,
        own: checked(row, 4, |text: String| Own::named(&text).ok_or("no reason for a version of its own"))?,
    })
}

fn staged_row(row: &Row<'_>) -> rusqlite::Result<Staged> {
    Ok(Staged {
        site: text(row, 0)?,
        group: text(row, 1)?,
        version: version(row, 2)?,
        assignment: AssignmentNumber(number(row, 3)?),
        run: RunNumber(number(row, 4)?),
        expires: time(row, 5)?,
    })
}

/// What a server is to have; `own` says why that is not what its group has. A server that was removed
/// meanwhile is passed over.
pub(super) fn write_wanted(
    tx: &Transaction<'_>,
    site: &SiteName,
    group: &GroupName,
    server: ServerId,
    version: Version,
    own: Option<Own>,
) -> Result<(), StoreError> {
    tx.prepare_cached(
        "INSERT INTO wanted (site, content_group, server, version, own) SELECT ?1, ?2, ?3, ?4, ?5 \
         WHERE EXISTS (SELECT 1 FROM servers WHERE id = ?3) ON CONFLICT (site, server) DO UPDATE SET \
         content_group = excluded.content_group, version = excluded.version, own = excluded.own",
    )
    .and_then(|mut statement| {
        statement.execute(params![site.as_str(), group.as_str(), server.0, version.0.0, own.map(Own::as_str)])
    })
    .doing("keeping what servers are to have")?;
    Ok(())
}

pub(super) fn write_staged(tx: &Transaction<'_>, change: &StagedChange) -> Result<(), StoreError> {
    const DOING: &str = "keeping what is staged";
    match change {
        StagedChange::Set(staged) => tx.execute(
            "INSERT OR REPLACE INTO staged (site, content_group, version, assignment, run, expires) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![
                staged.site.as_str(),
                staged.group.as_str(),
                staged.version.0.0,
                integer(staged.assignment.0),
                integer(staged.run.0),
                integer(staged.expires.0)
            ],
        ),
        StagedChange::Forget(site, group) => tx.execute(
            "DELETE FROM staged WHERE site = ?1 AND content_group = ?2",
            params![site.as_str(), group.as_str()],
        ),
    }
    .doing(DOING)?;
    Ok(())
}
