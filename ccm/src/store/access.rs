//! Who may do what: join tokens, users, API tokens and sessions. Secrets are here only as digests;
//! comparing them is `trust`'s.

use common::credential::Roles;
use common::ids::SegmentName;
use common::time::WallTime;
use rusqlite::{OptionalExtension as _, Row, params};
use serde::{Deserialize, Serialize};

use super::error::{StoreError, Thing};
use super::fleet::{Segment, ServerRecord, ensure_segment, insert_server};
use super::row::{checked_option, integer, json_option, number, text, time, time_option, to_json};
use super::sites::{created, removed};
use super::{Doing as _, Store};

/// Admits servers to the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// Its public part.
    pub id: String,
    /// BLAKE3 of its secret.
    pub secret: [u8; 32],
    /// The only segment it admits to; `None`: any.
    pub segment: Option<SegmentName>,
    /// The most it grants; `None`: any role.
    pub roles: Option<Roles>,
    /// How many servers it was made for.
    pub uses: u32,
    /// How many more it admits.
    pub uses_left: u32,
    /// When it was made.
    pub created: WallTime,
    /// Admits nobody from this on.
    pub expires: WallTime,
}

/// What a user or a token may do; each role may do what the ones before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Look.
    Viewer,
    /// Publish, roll back, restore.
    Publisher,
    /// Set up sites and groups, make and remove checkpoints.
    Operator,
    /// Admit and remove servers.
    Admin,
}

impl Role {
    /// Its stored and printed form.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Publisher => "publisher",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

/// A text that is no role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no role: there are viewer, publisher, operator and admin")]
pub struct RoleError {
    text: String,
}

impl std::str::FromStr for Role {
    type Err = RoleError;
    fn from_str(text: &str) -> Result<Self, RoleError> {
        [Self::Viewer, Self::Publisher, Self::Operator, Self::Admin]
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or_else(|| RoleError { text: text.chars().take(40).collect() })
    }
}

/// A user of the console.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Name at login.
    pub name: String,
    /// The password's argon2id hash in PHC form.
    pub password: String,
    /// What the user may do.
    pub role: Role,
    /// When the user was added.
    pub created: WallTime,
}

/// A program's key to the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiToken {
    /// Its public part.
    pub id: String,
    /// BLAKE3 of its secret.
    pub secret: [u8; 32],
    /// What it is for.
    pub label: String,
    /// What its bearer may do.
    pub role: Role,
    /// When it was made.
    pub created: WallTime,
    /// Worth nothing from this on; `None`: until it is removed.
    pub expires: Option<WallTime>,
}

/// A login to the console.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Its public part.
    pub id: String,
    /// BLAKE3 of its secret.
    pub secret: [u8; 32],
    /// Who logged in.
    pub user: String,
    /// When.
    pub created: WallTime,
    /// Over from this on.
    pub expires: WallTime,
}

const JOIN_COLUMNS: &str = "id, secret, segment, roles, uses, uses_left, created, expires";

impl Store {
    /// Adds a join token.
    ///
    /// # Errors
    /// [`StoreError::Exists`] when the id is taken.
    pub fn create_join_token(&self, token: &JoinToken) -> Result<(), StoreError> {
        let roles = token.roles.as_ref().map(|roles| to_json("a token's roles", roles)).transpose()?;
        let changed = self
            .lock()
            .execute(
                &format!(
                    "INSERT INTO join_tokens ({JOIN_COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) \
                     ON CONFLICT (id) DO NOTHING"
                ),
                params![
                    token.id,
                    token.secret,
                    token.segment.as_ref().map(SegmentName::as_str),
                    roles,
                    token.uses,
                    token.uses_left,
                    integer(token.created.0),
                    integer(token.expires.0)
                ],
            )
            .doing("adding a join token")?;
        created(changed, Thing::JoinToken, &token.id)
    }

    /// One join token.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn join_token(&self, id: &str) -> Result<Option<JoinToken>, StoreError> {
        self.lock()
            .query_row(&format!("SELECT {JOIN_COLUMNS} FROM join_tokens WHERE id = ?1"), params![id], join_row)
            .optional()
            .doing("reading a join token")
    }

    /// All join tokens, newest first.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn join_tokens(&self) -> Result<Vec<JoinToken>, StoreError> {
        let connection = self.lock();
        let mut statement = connection
            .prepare_cached(&format!("SELECT {JOIN_COLUMNS} FROM join_tokens ORDER BY created DESC, id"))
            .doing("reading the join tokens")?;
        let rows = statement.query_map([], join_row).doing("reading the join tokens")?;
        rows.collect::<rusqlite::Result<_>>().doing("reading the join tokens")
    }

    /// Removes a join token.
    ///
    /// # Errors
    /// [`StoreError::Unknown`].
    pub fn delete_join_token(&self, id: &str) -> Result<(), StoreError> {
        let changed =
            self.lock().execute("DELETE FROM join_tokens WHERE id = ?1", params![id]).doing("removing a join token")?;
        removed(changed, Thing::JoinToken, id)
    }

    /// Uses a join token once to add a server, and its segment if it is the first there: all or
    /// nothing.
    ///
    /// # Errors
    /// [`StoreError::Unknown`] or [`StoreError::TokenSpent`] about the token;
    /// [`StoreError::Exists`] when the server's name is taken.
    pub fn enrol_with_token(
        &self,
        token: &str,
        server: &ServerRecord,
        new_segment_key: [u8; 32],
        now: WallTime,
    ) -> Result<Segment, StoreError> {
        self.transaction("enrolling a server", |tx| {
            let (uses_left, expires): (u64, WallTime) = tx
                .query_row("SELECT uses_left, expires FROM join_tokens WHERE id = ?1", params![token], |row| {
                    Ok((number(row, 0)?, time(row, 1)?))
                })
                .optional()
                .doing("enrolling a server")?
                .ok_or_else(|| StoreError::Unknown { thing: Thing::JoinToken, name: token.to_owned() })?;
            let expired = expires <= now;
            if expired || uses_left == 0 {
                return Err(StoreError::TokenSpent { id: token.to_owned(), expired });
            }
            tx.execute("UPDATE join_tokens SET uses_left = uses_left - 1 WHERE id = ?1", params![token])
                .doing("enrolling a server")?;
            let segment = ensure_segment(tx, &server.segment, new_segment_key)?;
            insert_server(tx, server)?;
            Ok(segment)
        })
    }

    /// Adds a user or replaces the password and role of one.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn save_user(&self, user: &User) -> Result<(), StoreError> {
        self.lock()
            .execute(
                "INSERT INTO users (name, password, role, created) VALUES (?1, ?2, ?3, ?4) \
                 ON CONFLICT (name) DO UPDATE SET password = excluded.password, role = excluded.role",
                params![user.name, user.password, user.role.as_str(), integer(user.created.0)],
            )
            .doing("keeping a user")?;
        Ok(())
    }

    /// One user.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn user(&self, name: &str) -> Result<Option<User>, StoreError> {
        self.lock()
            .query_row("SELECT name, password, role, created FROM users WHERE name = ?1", params![name], |row| {
                Ok(User { name: row.get(0)?, password: row.get(1)?, role: text(row, 2)?, created: time(row, 3)? })
            })
            .optional()
            .doing("reading a user")
    }

    /// Adds an API token, replacing the one with its id.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn save_api_token(&self, token: &ApiToken) -> Result<(), StoreError> {
        self.lock()
            .execute(
                "INSERT OR REPLACE INTO api_tokens (id, secret, label, role, created, expires) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                params![
                    token.id,
                    token.secret,
                    token.label,
                    token.role.as_str(),
                    integer(token.created.0),
                    token.expires.map(|time| integer(time.0))
                ],
            )
            .doing("keeping an API token")?;
        Ok(())
    }

    /// One API token.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn api_token(&self, id: &str) -> Result<Option<ApiToken>, StoreError> {
        self.lock()
            .query_row(
                "SELECT id, secret, label, role, created, expires FROM api_tokens WHERE id = ?1",
                params![id],
                |row| {
                    Ok(ApiToken {
                        id: row.get(0)?,
                        secret: row.get(1)?,
                        label: row.get(2)?,
                        role: text(row, 3)?,
                        created: time(row, 4)?,
                        expires: time_option(row, 5)?,
                    })
                },
            )
            .optional()
            .doing("reading an API token")
    }

    /// Removes the API tokens with this label.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn delete_api_tokens_labelled(&self, label: &str) -> Result<(), StoreError> {
        self.lock().execute("DELETE FROM api_tokens WHERE label = ?1", params![label]).doing("removing API tokens")?;
        Ok(())
    }

    /// Adds a session.
    ///
    /// # Errors
    /// [`StoreError::Sql`], also when there is no such user.
    pub fn create_session(&self, session: &Session) -> Result<(), StoreError> {
        self.lock()
            .execute(
                "INSERT INTO sessions (id, secret, user, created, expires) VALUES (?1, ?2, ?3, ?4, ?5)",
                params![
                    session.id,
                    session.secret,
                    session.user,
                    integer(session.created.0),
                    integer(session.expires.0)
                ],
            )
            .doing("adding a session")?;
        Ok(())
    }

    /// One session.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn session(&self, id: &str) -> Result<Option<Session>, StoreError> {
        self.lock()
            .query_row("SELECT id, secret, user, created, expires FROM sessions WHERE id = ?1", params![id], |row| {
                Ok(Session {
                    id: row.get(0)?,
                    secret: row.get(1)?,
                    user: row.get(2)?,
                    created: time(row, 3)?,
                    expires: time(row, 4)?,
                })
            })
            .optional()
            .doing("reading a session")
    }

    /// Ends a session; it may be over already.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn delete_session(&self, id: &str) -> Result<(), StoreError> {
        self.lock().execute("DELETE FROM sessions WHERE id = ?1", params![id]).doing("ending a session")?;
        Ok(())
    }

    /// Ends all sessions of a user, as a new password should.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn delete_sessions_of(&self, user: &str) -> Result<(), StoreError> {
        self.lock().execute("DELETE FROM sessions WHERE user = ?1", params![user]).doing("ending sessions")?;
        Ok(())
    }
}

fn join_row(row: &Row<'_>) -> rusqlite::Result<JoinToken> {
    Ok(JoinToken {
        id: row.get(0)?,
        secret: row.get(1)?,
        segment: checked_option(row, 2, |text: String| text.parse::<SegmentName>())?,
        roles: json_option(row, 3)?,
        uses: row.get(4)?,
        uses_left: row.get(5)?,
        created: time(row, 6)?,
        expires: time(row, 7)?,
    })
}
