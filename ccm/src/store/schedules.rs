//! Schedules, and the holds that keep them from publishing.

use std::collections::BTreeSet;

use common::ids::{CheckpointName, GroupName, RunNumber, ScheduleName, ServerId, ServerName, SiteName};
use common::path::ContentPath;
use common::time::WallTime;
use rusqlite::{OptionalExtension as _, Transaction, params};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::error::{StoreError, Thing};
use super::model::{Run, RunKind};
use super::row::{integer, json, number, text, time, to_json};
use super::runs::insert_run;
use super::sites::{removed, require_site};
use super::{Doing as _, Store, rfc3339};
use crate::schedule::Rule;

/// What a schedule does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Bring staging live.
    Publish,
    /// Go back to the version before.
    Rollback,
    /// Bring a checkpoint live.
    Restore {
        /// Which.
        checkpoint: CheckpointName,
    },
    /// Keep what is live as a checkpoint.
    Checkpoint,
    /// Compare live trees with the version that they should be.
    Audit {
        /// Whether every file is read.
        full: bool,
        /// Whether what has drifted is brought back.
        repair: bool,
    },
    /// Bring live what is staged, or the backup.
    Switch {
        /// Only these servers, to their backup; empty: all.
        servers: Vec<ServerName>,
    },
    /// Bring some paths of staging live on some servers.
    Hot {
        /// Which paths.
        paths: BTreeSet<ContentPath>,
        /// These servers; empty: by `count`.
        servers: Vec<ServerName>,
        /// So many servers, those with the least load at the time.
        count: Option<u32>,
    },
    /// Take the content off servers.
    Remove {
        /// Which servers; empty: all.
        servers: Vec<ServerName>,
        /// Whether what was live stays as their backup.
        keep_content: bool,
    },
}

/// What a schedule does when something stands in its way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Otherwise {
    /// Do it as soon as possible: behind the run that is in the way, or when the CCM is back.
    #[default]
    Later,
    /// Leave it out this time.
    Skip,
}

/// What came of the last time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Last {
    /// When it was due.
    #[serde(with = "rfc3339")]
    pub due: WallTime,
    /// The run it became.
    pub run: Option<RunNumber>,
    /// One sentence.
    pub message: String,
}

/// Something that happens by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    /// Its name.
    pub name: ScheduleName,
    /// The site.
    pub site: SiteName,
    /// The group; `None`: the site's only one, or the implicit `all`.
    pub group: Option<GroupName>,
    /// What is done.
    pub action: Action,
    /// When.
    pub rule: Rule,
    /// How many servers must follow; `None`: the default.
    pub quorum: Option<String>,
    /// What is done when an earlier run of the same site and servers is not over.
    pub conflict: Otherwise,
    /// What is done when the CCM was not there at the time. Several missed times are one.
    pub missed: Otherwise,
    /// Whether it rests.
    pub paused: bool,
    /// When it was made.
    #[serde(with = "rfc3339")]
    pub created: WallTime,
    /// When it happens next; `None`: it rests, or is over.
    #[serde(with = "rfc3339::option")]
    pub due: Option<WallTime>,
    /// What came of it last.
    pub last: Option<Last>,
}

/// Why schedules do not publish to a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// The site.
    pub site: SiteName,
    /// The group.
    pub group: GroupName,
    /// The run that went back.
    pub run: RunNumber,
    /// What it did, for people.
    pub reason: String,
    /// Since when.
    #[serde(with = "rfc3339")]
    pub since: WallTime,
}

/// How the due time of a schedule passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Passed {
    /// It becomes a run.
    Run {
        /// The group.
        group: GroupName,
        /// What for.
        kind: RunKind,
        /// What with.
        request: Value,
        /// For whom.
        servers: Vec<ServerId>,
    },
    /// It does not; the sentence says what happened instead.
    Otherwise(String),
}

impl Store {
    /// Keeps a new schedule.
    ///
    /// # Errors
    /// [`StoreError::Exists`], [`StoreError::Unknown`] when the site is.
    pub fn create_schedule(&self, schedule: &Schedule) -> Result<(), StoreError> {
        self.transaction("keeping a schedule", |tx| {
            require_site(tx, &schedule.site)?;
            if read_schedule(tx, &schedule.name)?.is_some() {
                return Err(StoreError::Exists { thing: Thing::Schedule, name: schedule.name.to_string() });
            }
            write_schedule(tx, schedule)
        })
    }

    /// Changes a schedule.
    ///
    /// # Errors
    /// [`StoreError::Unknown`].
    pub fn change_schedule(
        &self,
        name: &ScheduleName,
        change: impl FnOnce(&mut Schedule),
    ) -> Result<Schedule, StoreError> {
        self.transaction("changing a schedule", |tx| {
            let mut schedule = read_schedule(tx, name)?
                .ok_or_else(|| StoreError::Unknown { thing: Thing::Schedule, name: name.to_string() })?;
            change(&mut schedule);
            write_schedule(tx, &schedule)?;
            Ok(schedule)
        })
    }

    /// Forgets a schedule. Runs that it made go on.
    ///
    /// # Errors
    /// [`StoreError::Unknown`].
    pub fn delete_schedule(&self, name: &ScheduleName) -> Result<(), StoreError> {
        let changed = self
            .lock()
            .execute("DELETE FROM schedules WHERE name = ?1", params![name.as_str()])
            .doing("deleting a schedule")?;
        removed(changed, Thing::Schedule, name.as_str())
    }

    /// One schedule.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn schedule(&self, name: &ScheduleName) -> Result<Option<Schedule>, StoreError> {
        self.transaction("reading a schedule", |tx| read_schedule(tx, name))
    }

    /// All schedules, of one site or of all, by name.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn schedules(&self, site: Option<&SiteName>) -> Result<Vec<Schedule>, StoreError> {
        let connection = self.lock();
        let mut statement = connection
            .prepare_cached("SELECT document FROM schedules WHERE ?1 IS NULL OR site = ?1 ORDER BY name")
            .doing("reading the schedules")?;
        let rows = statement
            .query_map(params![site.map(SiteName::as_str)], |row| json(row, 0))
            .doing("reading the schedules")?;
        rows.collect::<rusqlite::Result<_>>().doing("reading the schedules")
    }

    /// Schedules that are due, the longest due first, `limit` at most.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn due_schedules(&self, now: WallTime, limit: usize) -> Result<Vec<Schedule>, StoreError> {
        let connection = self.lock();
        let mut statement = connection
            .prepare_cached("SELECT document FROM schedules WHERE due <= ?1 ORDER BY due, name LIMIT ?2")
            .doing("reading the schedules")?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows =
            statement.query_map(params![integer(now.0), limit], |row| json(row, 0)).doing("reading the schedules")?;
        rows.collect::<rusqlite::Result<_>>().doing("reading the schedules")
    }

    /// When the next schedule is due.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn next_due(&self) -> Result<Option<WallTime>, StoreError> {
        self.lock()
            .query_row("SELECT due FROM schedules WHERE due IS NOT NULL ORDER BY due LIMIT 1", [], |row| time(row, 0))
            .optional()
            .doing("reading the schedules")
    }

    /// Lets a due time pass: its run is accepted and the next due time kept, together or not at all.
    /// `None` when that time has passed already, so that nothing happens twice.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn pass_due(
        &self,
        schedule: &Schedule,
        passed: &Passed,
        next: Option<WallTime>,
        now: WallTime,
    ) -> Result<Option<(Schedule, Option<Run>)>, StoreError> {
        self.transaction("letting a schedule's time pass", |tx| {
            let Some(mut current) = read_schedule(tx, &schedule.name)? else { return Ok(None) };
            let Some(due) = current.due.filter(|due| Some(*due) == schedule.due) else { return Ok(None) };
            let (run, message) = match passed {
                Passed::Run { group, kind, request, servers } => {
                    let run = insert_run(tx, &current.site, group, *kind, request, servers, now)?;
                    let message = format!("became run {}", run.run);
                    (Some(run), message)
                }
                Passed::Otherwise(message) => (None, message.clone()),
            };
            current.last = Some(Last { due, run: run.as_ref().map(|run| run.run), message });
            current.due = next;
            write_schedule(tx, &current)?;
            Ok(Some((current, run)))
        })
    }

    /// All holds.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn holds(&self) -> Result<Vec<Hold>, StoreError> {
        let connection = self.lock();
        let mut statement = connection
            .prepare_cached("SELECT site, content_group, run, reason, since FROM holds ORDER BY site, content_group")
            .doing("reading the holds")?;
        let rows = statement
            .query_map([], |row| {
                Ok(Hold {
                    site: text(row, 0)?,
                    group: text(row, 1)?,
                    run: RunNumber(number(row, 2)?),
                    reason: row.get(3)?,
                    since: time(row, 4)?,
                })
            })
            .doing("reading the holds")?;
        rows.collect::<rusqlite::Result<_>>().doing("reading the holds")
    }

    /// Lifts a hold; whether there was one.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn lift_hold(&self, site: &SiteName, group: &GroupName) -> Result<bool, StoreError> {
        self.transaction("lifting a hold", |tx| delete_hold(tx, site, group))
    }
}

pub(super) fn write_hold(tx: &Transaction<'_>, hold: &Hold) -> Result<(), StoreError> {
    tx.execute(
        "INSERT OR REPLACE INTO holds (site, content_group, run, reason, since) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![hold.site.as_str(), hold.group.as_str(), integer(hold.run.0), hold.reason, integer(hold.since.0)],
    )
    .doing("keeping a hold")?;
    Ok(())
}

pub(super) fn delete_hold(tx: &Transaction<'_>, site: &SiteName, group: &GroupName) -> Result<bool, StoreError> {
    let changed = tx
        .execute("DELETE FROM holds WHERE site = ?1 AND content_group = ?2", params![site.as_str(), group.as_str()])
        .doing("lifting a hold")?;
    Ok(changed > 0)
}

fn read_schedule(tx: &Transaction<'_>, name: &ScheduleName) -> Result<Option<Schedule>, StoreError> {
    tx.query_row("SELECT document FROM schedules WHERE name = ?1", params![name.as_str()], |row| json(row, 0))
        .optional()
        .doing("reading a schedule")
}

fn write_schedule(tx: &Transaction<'_>, schedule: &Schedule) -> Result<(), StoreError> {
    let due = schedule.due.filter(|_| !schedule.paused).map(|due| integer(due.0));
    tx.execute(
        "INSERT OR REPLACE INTO schedules (name, site, due, document) VALUES (?1, ?2, ?3, ?4)",
        params![schedule.name.as_str(), schedule.site.as_str(), due, to_json("a schedule", schedule)?],
    )
    .doing("keeping a schedule")?;
    Ok(())
}
