//! Network segments and the servers that enrolled.

use common::credential::Roles;
use common::fleet::MemberInfo;
use common::ids::{SegmentName, ServerId, ServerName};
use common::keys::PublicKey;
use common::time::WallTime;
use rusqlite::{OptionalExtension as _, Row, Transaction, params};

use super::error::{StoreError, Thing};
use super::row::{integer, number, server_id, text, time, time_option, to_postcard};
use super::sites::removed;
use super::{Doing as _, Store};

/// A network segment.
#[derive(Clone, PartialEq, Eq)]
pub struct Segment {
    /// Its name.
    pub name: SegmentName,
    /// Seals its control channel; known to its members.
    pub key: [u8; 32],
}

impl std::fmt::Debug for Segment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Segment({})", self.name)
    }
}

/// A segment's group leader, as it was last reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentLeader {
    /// The segment.
    pub segment: SegmentName,
    /// The leader; `None` when it has none.
    pub leader: Option<ServerId>,
    /// The highest epoch that was reported.
    pub epoch: u64,
}

/// A server that enrolled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerRecord {
    /// Its identity for life.
    pub id: ServerId,
    /// Its name.
    pub name: ServerName,
    /// Where it belongs.
    pub segment: SegmentName,
    /// What it may be there.
    pub roles: Roles,
    /// Signs its control messages and reports.
    pub control_key: PublicKey,
    /// Location given by its administrator; empty when none.
    pub location: String,
    /// When it enrolled.
    pub enrolled: WallTime,
    /// When a leader last reported it.
    pub last_seen: Option<WallTime>,
    /// What was last reported.
    pub info: Option<MemberInfo>,
}

const COLUMNS: &str = "id, name, segment, role_server, role_leader, control_key, location, enrolled, last_seen, info";

impl Store {
    /// One segment.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn segment(&self, name: &SegmentName) -> Result<Option<Segment>, StoreError> {
        self.lock()
            .query_row("SELECT name, key FROM segments WHERE name = ?1", params![name.as_str()], segment_row)
            .optional()
            .doing("reading a segment")
    }

    /// All segments, by name.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn segments(&self) -> Result<Vec<Segment>, StoreError> {
        let connection = self.lock();
        let mut statement =
            connection.prepare_cached("SELECT name, key FROM segments ORDER BY name").doing("reading the segments")?;
        let rows = statement.query_map([], segment_row).doing("reading the segments")?;
        rows.collect::<rusqlite::Result<_>>().doing("reading the segments")
    }

    /// The segment of that name, with its key; `new_key` becomes its key if it was not there.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn segment_or_create(&self, name: &SegmentName, new_key: [u8; 32]) -> Result<Segment, StoreError> {
        self.transaction("adding a segment", |tx| ensure_segment(tx, name, new_key))
    }

    /// Keeps who leads a segment. An epoch below the highest known changes nothing; `None` as the
    /// leader leaves the epoch as it is.
    ///
    /// # Errors
    /// [`StoreError::Unknown`] when there is no such segment.
    pub fn save_leader(&self, segment: &SegmentName, leader: Option<(ServerId, u64)>) -> Result<(), StoreError> {
        let changed = self
            .lock()
            .execute(
                "UPDATE segments SET leader = CASE WHEN ?3 >= epoch OR ?2 IS NULL THEN ?2 ELSE leader END, \
                 epoch = max(epoch, ?3) WHERE name = ?1",
                params![segment.as_str(), leader.map(|(id, _)| id.0), integer(leader.map_or(0, |(_, epoch)| epoch))],
            )
            .doing("keeping a segment's leader")?;
        removed(changed, Thing::Segment, segment.as_str())
    }

    /// Who leads each segment, as last reported.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn leaders(&self) -> Result<Vec<SegmentLeader>, StoreError> {
        let connection = self.lock();
        let mut statement = connection
            .prepare_cached("SELECT name, leader, epoch FROM segments ORDER BY name")
            .doing("reading the leaders")?;
        let rows = statement
            .query_map([], |row| {
                let leader = row.get::<_, Option<[u8; 16]>>(1)?.map(ServerId);
                Ok(SegmentLeader { segment: text(row, 0)?, leader, epoch: number(row, 2)? })
            })
            .doing("reading the leaders")?;
        rows.collect::<rusqlite::Result<_>>().doing("reading the leaders")
    }

    /// Adds a server whose segment is known.
    ///
    /// # Errors
    /// [`StoreError::Exists`] when the name is taken; [`StoreError::Sql`] when the segment is unknown.
    pub fn enrol(&self, server: &ServerRecord) -> Result<(), StoreError> {
        self.transaction("enrolling a server", |tx| insert_server(tx, server))
    }

    /// All servers, by name.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn servers(&self) -> Result<Vec<ServerRecord>, StoreError> {
        let connection = self.lock();
        let mut statement = connection
            .prepare_cached(&format!("SELECT {COLUMNS} FROM servers ORDER BY name"))
            .doing("reading the servers")?;
        let rows = statement.query_map([], server_row).doing("reading the servers")?;
        rows.collect::<rusqlite::Result<_>>().doing("reading the servers")
    }

    /// The server with that identity.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn server(&self, id: &ServerId) -> Result<Option<ServerRecord>, StoreError> {
        self.lock()
            .query_row(&format!("SELECT {COLUMNS} FROM servers WHERE id = ?1"), params![id.0], server_row)
            .optional()
            .doing("reading a server")
    }

    /// The server of that name.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn server_named(&self, name: &ServerName) -> Result<Option<ServerRecord>, StoreError> {
        self.lock()
            .query_row(&format!("SELECT {COLUMNS} FROM servers WHERE name = ?1"), params![name.as_str()], server_row)
            .optional()
            .doing("reading a server")
    }

    /// Removes a server. What keeps its certificate from being believed is its absence from here.
    ///
    /// # Errors
    /// [`StoreError::Unknown`]; [`StoreError::Busy`] while it takes part in a run that is not over.
    pub fn remove_server(&self, id: &ServerId) -> Result<(), StoreError> {
        self.transaction("removing a server", |tx| {
            let run = tx
                .query_row(
                    "SELECT number FROM runs JOIN run_servers ON run = number WHERE final = 0 AND server = ?1 \
                     ORDER BY number LIMIT 1",
                    params![id.0],
                    |row| number(row, 0),
                )
                .optional()
                .doing("removing a server")?;
            if let Some(run) = run {
                let run = common::ids::RunNumber(run);
                return Err(StoreError::Busy { thing: Thing::Server, name: id.to_string(), run });
            }
            tx.execute("UPDATE segments SET leader = NULL WHERE leader = ?1", params![id.0])
                .doing("removing a server")?;
            let changed = tx.execute("DELETE FROM servers WHERE id = ?1", params![id.0]).doing("removing a server")?;
            removed(changed, Thing::Server, &id.to_string())
        })
    }

    /// Keeps what a leader reported of its members. Servers that never enrolled are passed over.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn save_members(&self, members: &[MemberInfo], now: WallTime) -> Result<(), StoreError> {
        self.transaction("keeping a segment's members", |tx| {
            let mut statement = tx
                .prepare_cached("UPDATE servers SET info = ?2, last_seen = ?3 WHERE id = ?1")
                .doing("keeping a segment's members")?;
            for member in members {
                let info = to_postcard("a member's report", member)?;
                statement
                    .execute(params![member.server.0, info, integer(now.0)])
                    .doing("keeping a segment's members")?;
            }
            Ok(())
        })
    }
}

pub(super) fn ensure_segment(
    tx: &Transaction<'_>,
    name: &SegmentName,
    new_key: [u8; 32],
) -> Result<Segment, StoreError> {
    tx.execute(
        "INSERT INTO segments (name, key) VALUES (?1, ?2) ON CONFLICT (name) DO NOTHING",
        params![name.as_str(), new_key],
    )
    .doing("adding a segment")?;
    tx.query_row("SELECT name, key FROM segments WHERE name = ?1", params![name.as_str()], segment_row)
        .doing("adding a segment")
}

pub(super) fn insert_server(tx: &Transaction<'_>, server: &ServerRecord) -> Result<(), StoreError> {
    let info = server.info.as_ref().map(|info| to_postcard("a member's report", info)).transpose()?;
    let changed = tx
        .execute(
            &format!("INSERT INTO servers ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) ON CONFLICT (name) DO NOTHING"),
            params![
                server.id.0,
                server.name.as_str(),
                server.segment.as_str(),
                server.roles.server,
                server.roles.leader,
                server.control_key.0,
                server.location,
                integer(server.enrolled.0),
                server.last_seen.map(|time| integer(time.0)),
                info
            ],
        )
        .doing("enrolling a server")?;
    super::sites::created(changed, Thing::Server, server.name.as_str())
}

fn segment_row(row: &Row<'_>) -> rusqlite::Result<Segment> {
    Ok(Segment { name: text(row, 0)?, key: row.get(1)? })
}

fn server_row(row: &Row<'_>) -> rusqlite::Result<ServerRecord> {
    let id = server_id(row, 0)?;
    // Written by another version of pressrun, a report may be unreadable: the next one, seconds
    // away, replaces it.
    let info = row.get::<_, Option<Vec<u8>>>(9)?.and_then(|bytes| postcard::from_bytes(&bytes).ok());
    Ok(ServerRecord {
        id,
        name: text(row, 1)?,
        segment: text(row, 2)?,
        roles: Roles { server: row.get(3)?, leader: row.get(4)? },
        control_key: PublicKey(row.get(5)?),
        location: row.get(6)?,
        enrolled: time(row, 7)?,
        last_seen: time_option(row, 8)?,
        info,
    })
}
