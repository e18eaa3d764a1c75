//! Runs: asked for, taken up again after a restart, finished in one transaction.

use common::digest::Version;
use common::ids::{AssignmentNumber, GroupName, JobNumber, RunNumber, ServerId, SiteName};
use common::time::WallTime;
use rusqlite::{OptionalExtension as _, Transaction, params};
use serde_json::Value;

use super::error::{StoreError, Thing};
use super::model::{Run, RunKind, RunState, RunSummary};
use super::own::{OwnVersion, StagedChange, write_staged, write_wanted};
use super::row::{integer, json, json_option, server_id, to_json};
use super::schedules::{Hold, delete_hold, write_hold};
use super::sites::{View, removed, require_site};
use super::{Doing as _, Store};

/// An assignment's details, without content: what a finished run left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The run.
    pub run: RunNumber,
    /// The site.
    pub site: SiteName,
    /// The group.
    pub group: GroupName,
    /// What it brought live.
    pub version: Version,
    /// The assignment that did.
    pub assignment: AssignmentNumber,
    /// When.
    pub time: WallTime,
}

/// What a finished run changes beside its own row.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Effects {
    /// What is live now.
    pub view: Option<View>,
    /// What each server should hold now.
    pub wanted: Vec<(SiteName, GroupName, ServerId, Version)>,
    /// What servers should hold though their group has something else.
    pub own: Vec<OwnVersion>,
    /// What is staged for a switch from here on.
    pub staged: Option<StagedChange>,
    /// The snapshot to keep.
    pub snapshot: Option<Snapshot>,
    /// Whether schedules may publish from here on.
    pub hold: Option<HoldChange>,
}

/// Whether schedules may publish to a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HoldChange {
    /// Not until somebody says so.
    Set(Hold),
    /// Again.
    Lift(SiteName, GroupName),
}

impl Store {
    /// Accepts a job to be done once, and its run: queued and durable when this returns.
    ///
    /// # Errors
    /// [`StoreError::Unknown`] when the site is.
    pub fn create_run(
        &self,
        site: &SiteName,
        group: &GroupName,
        kind: RunKind,
        request: &Value,
        servers: &[ServerId],
        now: WallTime,
    ) -> Result<Run, StoreError> {
        self.transaction("accepting a run", |tx| insert_run(tx, site, group, kind, request, servers, now))
    }

    /// One run.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn run(&self, number: RunNumber) -> Result<Option<Run>, StoreError> {
        self.lock()
            .query_row("SELECT document FROM runs WHERE number = ?1", params![integer(number.0)], |row| json(row, 0))
            .optional()
            .doing("reading a run")
    }

    /// What a run was asked for with.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn run_request(&self, number: RunNumber) -> Result<Option<Value>, StoreError> {
        self.lock()
            .query_row(
                "SELECT request FROM jobs JOIN runs ON job = jobs.number WHERE runs.number = ?1",
                params![integer(number.0)],
                |row| json(row, 0),
            )
            .optional()
            .doing("reading a run's request")
    }

    /// The newest runs of one site or of all, newest first.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn runs(&self, site: Option<&SiteName>, limit: usize) -> Result<Vec<RunSummary>, StoreError> {
        let connection = self.lock();
        let mut statement = connection
            .prepare_cached("SELECT document FROM runs WHERE ?1 IS NULL OR site = ?1 ORDER BY number DESC LIMIT ?2")
            .doing("reading the runs")?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = statement
            .query_map(params![site.map(SiteName::as_str), limit], |row| json::<RunSummary>(row, 0))
            .doing("reading the runs")?;
        rows.collect::<rusqlite::Result<_>>().doing("reading the runs")
    }

    /// The runs that are not over, oldest first, each with its request and what was kept to take it
    /// up again.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn unfinished_runs(&self) -> Result<Vec<(Run, Value, Option<Value>)>, StoreError> {
        let connection = self.lock();
        let mut statement = connection
            .prepare_cached("SELECT document, request, resume FROM runs JOIN jobs ON job = jobs.number WHERE final = 0 ORDER BY runs.number")
            .doing("reading the unfinished runs")?;
        let rows = statement
            .query_map([], |row| Ok((json(row, 0)?, json(row, 1)?, json_option(row, 2)?)))
            .doing("reading the unfinished runs")?;
        rows.collect::<rusqlite::Result<_>>().doing("reading the unfinished runs")
    }

    /// Keeps a run as it is now. `resume` replaces what is kept to take it up again; `None` leaves
    /// that as it is, so that a durable decision is never lost by a change of the message.
    ///
    /// # Errors
    /// [`StoreError::Unknown`]; [`StoreError::RunIsFinal`] when it is over and `run` says it is not.
    pub fn save_run(&self, run: &Run, resume: Option<&Value>) -> Result<(), StoreError> {
        self.transaction("keeping a run", |tx| write_run(tx, run, resume))
    }

    /// The servers that a run was accepted for.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn run_servers(&self, number: RunNumber) -> Result<Vec<ServerId>, StoreError> {
        let connection = self.lock();
        let mut statement = connection
            .prepare_cached("SELECT server FROM run_servers WHERE run = ?1 ORDER BY server")
            .doing("reading a run's servers")?;
        let rows = statement
            .query_map(params![integer(number.0)], |row| server_id(row, 0))
            .doing("reading a run's servers")?;
        rows.collect::<rusqlite::Result<_>>().doing("reading a run's servers")
    }

    /// Notes that a run shall be cancelled.
    ///
    /// # Errors
    /// [`StoreError::Unknown`].
    pub fn request_cancel(&self, number: RunNumber) -> Result<(), StoreError> {
        let changed = self
            .lock()
            .execute("UPDATE runs SET cancel = 1 WHERE number = ?1", params![integer(number.0)])
            .doing("cancelling a run")?;
        removed(changed, Thing::Run, &number.to_string())
    }

    /// Whether a run shall be cancelled.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn cancel_requested(&self, number: RunNumber) -> Result<bool, StoreError> {
        let requested = self
            .lock()
            .query_row("SELECT cancel FROM runs WHERE number = ?1", params![integer(number.0)], |row| row.get(0))
            .optional()
            .doing("reading a run")?;
        Ok(requested.unwrap_or(false))
    }

    /// Notes whether a run shall rest.
    ///
    /// # Errors
    /// [`StoreError::Unknown`].
    pub fn set_paused(&self, number: RunNumber, paused: bool) -> Result<(), StoreError> {
        let changed = self
            .lock()
            .execute("UPDATE runs SET paused = ?2 WHERE number = ?1", params![integer(number.0), paused])
            .doing("pausing a run")?;
        removed(changed, Thing::Run, &number.to_string())
    }

    /// Whether a run shall rest.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn is_paused(&self, number: RunNumber) -> Result<bool, StoreError> {
        let paused = self
            .lock()
            .query_row("SELECT paused FROM runs WHERE number = ?1", params![integer(number.0)], |row| row.get(0))
            .optional()
            .doing("reading a run")?;
        Ok(paused.unwrap_or(false))
    }

    /// Ends a run: its row, what is live, what servers should hold and the snapshot change together
    /// or not at all. A wanted version of a server that was removed meanwhile is passed over.
    ///
    /// # Errors
    /// [`StoreError::Unknown`]; [`StoreError::RunIsFinal`] when it is over and `run` says it is not;
    /// [`StoreError::Sql`] when an effect does not fit, and then nothing is changed.
    pub fn finish_run(&self, run: &Run, effects: &Effects) -> Result<(), StoreError> {
        const DOING: &str = "finishing a run";
        self.transaction(DOING, |tx| {
            write_run(tx, run, None)?;
            if let Some(view) = &effects.view {
                tx.execute(
                    "INSERT INTO views (site, content_group, version, assignment, run, published, previous) \
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (site, content_group) DO UPDATE SET \
                     version = excluded.version, assignment = excluded.assignment, run = excluded.run, \
                     published = excluded.published, previous = excluded.previous",
                    params![
                        view.site.as_str(),
                        view.group.as_str(),
                        view.version.0.0,
                        integer(view.assignment.0),
                        integer(view.run.0),
                        integer(view.published.0),
                        view.previous.map(|version| version.0.0)
                    ],
                )
                .doing(DOING)?;
            }
            for (site, group, server, version) in &effects.wanted {
                write_wanted(tx, site, group, *server, *version, None)?;
            }
            for own in &effects.own {
                write_wanted(tx, &own.site, &own.group, own.server, own.version, Some(own.own))?;
            }
            if let Some(change) = &effects.staged {
                write_staged(tx, change)?;
            }
            match &effects.hold {
                Some(HoldChange::Set(hold)) => write_hold(tx, hold)?,
                Some(HoldChange::Lift(site, group)) => {
                    delete_hold(tx, site, group)?;
                }
                None => (),
            }
            if let Some(snapshot) = &effects.snapshot {
                tx.execute(
                    "INSERT OR REPLACE INTO snapshots (run, site, content_group, version, assignment, time) \
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                    params![
                        integer(snapshot.run.0),
                        snapshot.site.as_str(),
                        snapshot.group.as_str(),
                        snapshot.version.0.0,
                        integer(snapshot.assignment.0),
                        integer(snapshot.time.0)
                    ],
                )
                .doing(DOING)?;
            }
            Ok(())
        })
    }
}

/// Accepts a job and its run.
pub(super) fn insert_run(
    tx: &Transaction<'_>,
    site: &SiteName,
    group: &GroupName,
    kind: RunKind,
    request: &Value,
    servers: &[ServerId],
    now: WallTime,
) -> Result<Run, StoreError> {
    let request = to_json("the run's request", request)?;
    require_site(tx, site)?;
    tx.execute(
        "INSERT INTO jobs (site, content_group, kind, request, created) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![site.as_str(), group.as_str(), kind.as_str(), request, integer(now.0)],
    )
    .doing("accepting a job")?;
    let job = JobNumber(tx.last_insert_rowid().unsigned_abs());
    // The document holds the number, which the row has only once it is there.
    tx.execute(
        "INSERT INTO runs (job, site, content_group, final, document) VALUES (?1, ?2, ?3, 0, '')",
        params![integer(job.0), site.as_str(), group.as_str()],
    )
    .doing("accepting a run")?;
    let number = RunNumber(tx.last_insert_rowid().unsigned_abs());
    let run = Run {
        run: number,
        job,
        site: site.clone(),
        group: group.clone(),
        kind,
        state: RunState::Queued,
        created: now,
        started: None,
        ended: None,
        seconds: None,
        message: String::new(),
        base: None,
        result: None,
        assignment_bytes: 0,
        phases: Vec::new(),
        segments: Vec::new(),
        servers: Vec::new(),
        quorum: 0,
        warnings: Vec::new(),
    };
    write_run(tx, &run, None)?;
    let mut statement = tx
        .prepare_cached("INSERT OR IGNORE INTO run_servers (run, server) VALUES (?1, ?2)")
        .doing("accepting a run")?;
    for server in servers {
        statement.execute(params![integer(number.0), server.0]).doing("accepting a run")?;
    }
    Ok(run)
}

fn write_run(tx: &Transaction<'_>, run: &Run, resume: Option<&Value>) -> Result<(), StoreError> {
    let document = to_json("a run", run)?;
    let resume = resume.map(|value| to_json("what takes a run up again", value)).transpose()?;
    let is_final = run.state.is_final();
    let was_final: bool = tx
        .query_row("SELECT final FROM runs WHERE number = ?1", params![integer(run.run.0)], |row| row.get(0))
        .optional()
        .doing("keeping a run")?
        .ok_or_else(|| StoreError::Unknown { thing: Thing::Run, name: run.run.to_string() })?;
    if was_final && !is_final {
        return Err(StoreError::RunIsFinal { run: run.run });
    }
    tx.execute(
        "UPDATE runs SET document = ?2, final = ?3, resume = coalesce(?4, resume) WHERE number = ?1",
        params![integer(run.run.0), document, is_final, resume],
    )
    .doing("keeping a run")?;
    Ok(())
}
