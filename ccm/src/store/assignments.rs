//! Assignments of runs and what became of them on each server.

use std::collections::BTreeMap;

use common::digest::Digest;
use common::ids::{AssignmentNumber, RunNumber, ServerId};
use common::outcome::Outcome;
use common::time::WallTime;
use rusqlite::{OptionalExtension as _, Row, params};

use super::row::{checked, integer, number, server_id, time, to_postcard};
use super::{Doing as _, Store, StoreError};

/// An assignment as it was built and announced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AssignmentRecord {
    /// Its number.
    pub number: AssignmentNumber,
    /// The run it belongs to.
    pub run: RunNumber,
    /// What for: content, commit, undo, inventory…
    pub kind: String,
    /// The object's name; `None` before it is built.
    pub object: Option<Digest>,
    /// Length of the object in bytes.
    pub length: u64,
    /// `postcard` of the signed ticket.
    pub ticket: Option<Vec<u8>>,
    /// The servers that shall apply it.
    pub targets: Vec<ServerId>,
    /// Worth nothing after this.
    pub expires: WallTime,
    /// The object itself, when it is small.
    pub inline: Option<Vec<u8>>,
}

const COLUMNS: &str = "number, run, kind, object, length, ticket, targets, expires, inline";

impl Store {
    /// A number that no assignment had or will have, not even after a crash right now.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn new_assignment_number(&self) -> Result<AssignmentNumber, StoreError> {
        self.lock()
            .query_row(
                "INSERT INTO counters (name, last) VALUES ('assignment', 1) \
                 ON CONFLICT (name) DO UPDATE SET last = last + 1 RETURNING last",
                [],
                |row| number(row, 0).map(AssignmentNumber),
            )
            .doing("numbering an assignment")
    }

    /// Keeps an assignment, replacing what was kept under its number.
    ///
    /// # Errors
    /// [`StoreError::Sql`], also when its run is unknown.
    pub fn save_assignment(&self, assignment: &AssignmentRecord) -> Result<(), StoreError> {
        let targets: Vec<u8> = assignment.targets.iter().flat_map(|server| server.0).collect();
        self.lock()
            .execute(
                "INSERT INTO assignments (number, run, kind, object, length, ticket, targets, expires, inline) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT (number) DO UPDATE SET \
                 run = excluded.run, kind = excluded.kind, object = excluded.object, length = excluded.length, \
                 ticket = excluded.ticket, targets = excluded.targets, expires = excluded.expires, \
                 inline = excluded.inline",
                params![
                    integer(assignment.number.0),
                    integer(assignment.run.0),
                    assignment.kind,
                    assignment.object.map(|object| object.0),
                    integer(assignment.length),
                    assignment.ticket,
                    targets,
                    integer(assignment.expires.0),
                    assignment.inline
                ],
            )
            .doing("keeping an assignment")?;
        Ok(())
    }

    /// One assignment.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn assignment(&self, number: AssignmentNumber) -> Result<Option<AssignmentRecord>, StoreError> {
        self.lock()
            .query_row(
                &format!("SELECT {COLUMNS} FROM assignments WHERE number = ?1"),
                params![integer(number.0)],
                assignment_row,
            )
            .optional()
            .doing("reading an assignment")
    }

    /// The assignments of a run, by number.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn assignments_of(&self, run: RunNumber) -> Result<Vec<AssignmentRecord>, StoreError> {
        let connection = self.lock();
        let mut statement = connection
            .prepare_cached(&format!("SELECT {COLUMNS} FROM assignments WHERE run = ?1 ORDER BY number"))
            .doing("reading a run's assignments")?;
        let rows = statement.query_map(params![integer(run.0)], assignment_row).doing("reading a run's assignments")?;
        rows.collect::<rusqlite::Result<_>>().doing("reading a run's assignments")
    }

    /// Keeps what became of assignments; a later outcome replaces an earlier one. Outcomes of
    /// assignments that are not kept (any more) are passed over: servers may report them late.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn save_outcomes(&self, outcomes: &[(AssignmentNumber, ServerId, Outcome)]) -> Result<(), StoreError> {
        self.transaction("keeping outcomes", |tx| {
            let mut statement = tx
                .prepare_cached(
                    "INSERT INTO outcomes (assignment, server, outcome) SELECT ?1, ?2, ?3 \
                     WHERE EXISTS (SELECT 1 FROM assignments WHERE number = ?1) \
                     ON CONFLICT (assignment, server) DO UPDATE SET outcome = excluded.outcome",
                )
                .doing("keeping outcomes")?;
            for (assignment, server, outcome) in outcomes {
                let outcome = to_postcard("an outcome", outcome)?;
                statement.execute(params![integer(assignment.0), server.0, outcome]).doing("keeping outcomes")?;
            }
            Ok(())
        })
    }

    /// What became of an assignment, by server.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn outcomes(&self, assignment: AssignmentNumber) -> Result<BTreeMap<ServerId, Outcome>, StoreError> {
        let connection = self.lock();
        let mut statement = connection
            .prepare_cached("SELECT server, outcome FROM outcomes WHERE assignment = ?1")
            .doing("reading outcomes")?;
        let rows = statement
            .query_map(params![integer(assignment.0)], |row| {
                Ok((server_id(row, 0)?, checked(row, 1, |bytes: Vec<u8>| postcard::from_bytes(&bytes))?))
            })
            .doing("reading outcomes")?;
        rows.collect::<rusqlite::Result<_>>().doing("reading outcomes")
    }
}

fn assignment_row(row: &Row<'_>) -> rusqlite::Result<AssignmentRecord> {
    Ok(AssignmentRecord {
        number: AssignmentNumber(number(row, 0)?),
        run: RunNumber(number(row, 1)?),
        kind: row.get(2)?,
        object: row.get::<_, Option<[u8; 32]>>(3)?.map(Digest),
        length: number(row, 4)?,
        ticket: row.get(5)?,
        targets: checked(row, 6, |bytes: Vec<u8>| {
            let (ids, rest) = bytes.as_chunks::<16>();
            if rest.is_empty() { Ok(ids.iter().copied().map(ServerId).collect()) } else { Err("a cut server id") }
        })?,
        expires: time(row, 7)?,
        inline: row.get(8)?,
    })
}
