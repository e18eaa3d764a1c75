//! Hosted sites, their content groups, what is live there, and their checkpoints.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;

use common::assignment::Extra;
use common::digest::Version;
use common::ids::{
    AssignmentNumber, CheckpointName, GroupName, RunNumber, SegmentName, ServerId, ServerName, SiteName,
};
use common::time::WallTime;
use rusqlite::{OptionalExtension as _, Row, Transaction, params};
use serde::{Deserialize, Serialize};

use super::channels::give_free;
use super::error::{StoreError, Thing};
use super::fleet::ServerRecord;
use super::row::{
    checked, integer, json, number, number_option, server_id, text, time, to_json, version, version_option,
};
use super::{Doing as _, Store};

/// A hosted site: one content tree that is published as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// Its name.
    pub name: SiteName,
    /// Where its content is prepared, on the CCM's host.
    pub staging: PathBuf,
    /// Where it is live on the servers; may hold `{server}`.
    pub live: String,
    /// What is never published: patterns in the manner of `.gitignore`.
    pub exclude: Vec<String>,
    /// How its assignments cross the WAN: auto, star, tree or mesh.
    pub wan: String,
    /// What becomes of what servers hold and nobody published.
    pub extra: Extra,
    /// How long files that a publish removes can still be reached, in seconds; 0: not at all.
    pub linger_seconds: u32,
    /// When it was set up.
    pub created: WallTime,
}

/// Who belongs to a content group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Selector {
    /// These servers.
    Servers(Vec<ServerName>),
    /// Every server of a segment.
    Segment(SegmentName),
    /// Every server that is enrolled.
    All,
}

/// A content group: the back-end servers of one hosted site that get the same content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// The site.
    pub site: SiteName,
    /// Its name, unique in the site.
    pub name: GroupName,
    /// Who belongs to it.
    pub selector: Selector,
}

/// What is live in a content group, as the last finished run left it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// The site.
    pub site: SiteName,
    /// The group.
    pub group: GroupName,
    /// What is live.
    pub version: Version,
    /// What brought it there.
    pub assignment: AssignmentNumber,
    /// The run of that assignment.
    pub run: RunNumber,
    /// When.
    pub published: WallTime,
    /// What was live before: where a rollback leads.
    pub previous: Option<Version>,
}

/// A complete safe copy of a site at one version, under a label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The site.
    pub site: SiteName,
    /// The group whose live version it is.
    pub group: GroupName,
    /// Its label, unique in the site.
    pub name: CheckpointName,
    /// The version.
    pub version: Version,
    /// When it was made.
    pub created: WallTime,
    /// The run that brought the version live.
    pub run: Option<RunNumber>,
}

impl Store {
    /// Adds a site.
    ///
    /// # Errors
    /// [`StoreError::Exists`] when the name is taken.
    pub fn create_site(&self, site: &Site) -> Result<(), StoreError> {
        let exclude = to_json("the exclude patterns", &site.exclude)?;
        let changed = self
            .lock()
            .execute(
                "INSERT INTO sites (name, staging, live, exclude, wan, created, extra, linger_seconds) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) \
                 ON CONFLICT (name) DO NOTHING",
                params![
                    site.name.as_str(),
                    site.staging.as_os_str().as_bytes(),
                    site.live,
                    exclude,
                    site.wan,
                    integer(site.created.0),
                    site.extra.as_str(),
                    site.linger_seconds
                ],
            )
            .doing("adding a site")?;
        created(changed, Thing::Site, site.name.as_str())
    }

    /// One site.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn site(&self, name: &SiteName) -> Result<Option<Site>, StoreError> {
        self.lock()
            .query_row(
                "SELECT name, staging, live, exclude, wan, created, extra, linger_seconds FROM sites WHERE name = ?1",
                params![name.as_str()],
                site_row,
            )
            .optional()
            .doing("reading a site")
    }

    /// All sites, by name.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn sites(&self) -> Result<Vec<Site>, StoreError> {
        let connection = self.lock();
        let mut statement = connection
            .prepare_cached(
                "SELECT name, staging, live, exclude, wan, created, extra, linger_seconds FROM sites ORDER BY name",
            )
            .doing("reading the sites")?;
        let rows = statement.query_map([], site_row).doing("reading the sites")?;
        rows.collect::<rusqlite::Result<_>>().doing("reading the sites")
    }

    /// Changes what a site does about what nobody published, and about what a publish removes.
    ///
    /// # Errors
    /// [`StoreError::Unknown`].
    pub fn set_site_policy(&self, name: &SiteName, extra: Extra, linger_seconds: u32) -> Result<(), StoreError> {
        let changed = self
            .lock()
            .execute(
                "UPDATE sites SET extra = ?2, linger_seconds = ?3 WHERE name = ?1",
                params![name.as_str(), extra.as_str(), linger_seconds],
            )
            .doing("changing a site")?;
        removed(changed, Thing::Site, name.as_str())
    }

    /// Removes a site with its groups, views, snapshots and checkpoints. Its runs stay as history.
    ///
    /// # Errors
    /// [`StoreError::Unknown`]; [`StoreError::Busy`] while a run of it is not over.
    pub fn delete_site(&self, name: &SiteName) -> Result<(), StoreError> {
        self.transaction("removing a site", |tx| {
            if let Some(run) = unfinished(tx, name, None)? {
                return Err(StoreError::Busy { thing: Thing::Site, name: name.to_string(), run });
            }
            let changed =
                tx.execute("DELETE FROM sites WHERE name = ?1", params![name.as_str()]).doing("removing a site")?;
            removed(changed, Thing::Site, name.as_str())
        })
    }

    /// Adds a group, with this data channel if one is given.
    ///
    /// # Errors
    /// [`StoreError::Unknown`] when the site is; [`StoreError::Exists`] when the name is taken in it, or the
    /// channel by another group.
    pub fn create_group(&self, group: &Group, channel: Option<SocketAddr>) -> Result<(), StoreError> {
        let selector = to_json("the group's selector", &group.selector)?;
        self.transaction("adding a group", |tx| {
            require_site(tx, &group.site)?;
            let changed = tx
                .execute(
                    "INSERT INTO content_groups (site, name, selector) VALUES (?1, ?2, ?3) \
                     ON CONFLICT (site, name) DO NOTHING",
                    params![group.site.as_str(), group.name.as_str(), selector],
                )
                .doing("adding a group")?;
            created(changed, Thing::Group, group.name.as_str())?;
            channel.map_or(Ok(()), |channel| give_free(tx, &group.site, &group.name, channel))
        })
    }

    /// One group.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn group(&self, site: &SiteName, name: &GroupName) -> Result<Option<Group>, StoreError> {
        self.lock()
            .query_row(
                "SELECT site, name, selector FROM content_groups WHERE site = ?1 AND name = ?2",
                params![site.as_str(), name.as_str()],
                group_row,
            )
            .optional()
            .doing("reading a group")
    }

    /// The groups of one site or of all, by site and name.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn groups(&self, site: Option<&SiteName>) -> Result<Vec<Group>, StoreError> {
        let connection = self.lock();
        let mut statement = connection
            .prepare_cached(
                "SELECT site, name, selector FROM content_groups WHERE ?1 IS NULL OR site = ?1 ORDER BY site, name",
            )
            .doing("reading the groups")?;
        let rows = statement.query_map(params![site.map(SiteName::as_str)], group_row).doing("reading the groups")?;
        rows.collect::<rusqlite::Result<_>>().doing("reading the groups")
    }

    /// Removes a group and what it says is live; the servers keep their content.
    ///
    /// # Errors
    /// [`StoreError::Unknown`]; [`StoreError::Busy`] while a run of it is not over.
    pub fn delete_group(&self, site: &SiteName, name: &GroupName) -> Result<(), StoreError> {
        self.transaction("removing a group", |tx| {
            if let Some(run) = unfinished(tx, site, Some(name))? {
                return Err(StoreError::Busy { thing: Thing::Group, name: name.to_string(), run });
            }
            let key = params![site.as_str(), name.as_str()];
            let changed = tx
                .execute("DELETE FROM content_groups WHERE site = ?1 AND name = ?2", key)
                .doing("removing a group")?;
            removed(changed, Thing::Group, name.as_str())?;
            for sql in [
                "DELETE FROM views WHERE site = ?1 AND content_group = ?2",
                "DELETE FROM wanted WHERE site = ?1 AND content_group = ?2",
                "DELETE FROM snapshots WHERE site = ?1 AND content_group = ?2",
                "DELETE FROM staged WHERE site = ?1 AND content_group = ?2",
            ] {
                tx.execute(sql, key).doing("removing a group")?;
            }
            Ok(())
        })
    }

    /// The enrolled servers of a group that hold content, by name.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn members_of(&self, group: &Group) -> Result<Vec<ServerRecord>, StoreError> {
        let mut servers = self.servers()?;
        servers.retain(|server| {
            server.roles.server
                && match &group.selector {
                    Selector::Servers(names) => names.contains(&server.name),
                    Selector::Segment(segment) => *segment == server.segment,
                    Selector::All => true,
                }
        });
        Ok(servers)
    }

    /// What is live in a group; `None` before its first publish.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn view(&self, site: &SiteName, group: &GroupName) -> Result<Option<View>, StoreError> {
        self.lock()
            .query_row(
                "SELECT site, content_group, version, assignment, run, published, previous FROM views \
                 WHERE site = ?1 AND content_group = ?2",
                params![site.as_str(), group.as_str()],
                view_row,
            )
            .optional()
            .doing("reading what is live")
    }

    /// What is live in the groups of one site or of all.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn views(&self, site: Option<&SiteName>) -> Result<Vec<View>, StoreError> {
        let connection = self.lock();
        let mut statement = connection
            .prepare_cached(
                "SELECT site, content_group, version, assignment, run, published, previous FROM views \
                 WHERE ?1 IS NULL OR site = ?1 ORDER BY site, content_group",
            )
            .doing("reading what is live")?;
        let rows = statement.query_map(params![site.map(SiteName::as_str)], view_row).doing("reading what is live")?;
        rows.collect::<rusqlite::Result<_>>().doing("reading what is live")
    }

    /// The version that each server should hold of a site.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn wanted(&self, site: &SiteName) -> Result<BTreeMap<ServerId, Version>, StoreError> {
        let connection = self.lock();
        let mut statement = connection
            .prepare_cached("SELECT server, version FROM wanted WHERE site = ?1")
            .doing("reading the wanted versions")?;
        let rows = statement
            .query_map(params![site.as_str()], |row| Ok((server_id(row, 0)?, version(row, 1)?)))
            .doing("reading the wanted versions")?;
        rows.collect::<rusqlite::Result<_>>().doing("reading the wanted versions")
    }

    /// As [`Store::wanted`], of all sites, with the group that last decided it.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn all_wanted(&self) -> Result<Vec<(SiteName, GroupName, ServerId, Version)>, StoreError> {
        let connection = self.lock();
        let mut statement = connection
            .prepare_cached("SELECT site, content_group, server, version FROM wanted ORDER BY site, server")
            .doing("reading the wanted versions")?;
        let rows = statement
            .query_map([], |row| Ok((text(row, 0)?, text(row, 1)?, server_id(row, 2)?, version(row, 3)?)))
            .doing("reading the wanted versions")?;
        rows.collect::<rusqlite::Result<_>>().doing("reading the wanted versions")
    }

    /// Adds a checkpoint.
    ///
    /// # Errors
    /// [`StoreError::Unknown`] when the site is; [`StoreError::Exists`] when the label is taken in it.
    pub fn create_checkpoint(&self, checkpoint: &Checkpoint) -> Result<(), StoreError> {
        self.transaction("adding a checkpoint", |tx| {
            require_site(tx, &checkpoint.site)?;
            let changed = tx
                .execute(
                    "INSERT INTO checkpoints (site, name, content_group, version, created, run) \
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (site, name) DO NOTHING",
                    params![
                        checkpoint.site.as_str(),
                        checkpoint.name.as_str(),
                        checkpoint.group.as_str(),
                        checkpoint.version.0.0,
                        integer(checkpoint.created.0),
                        checkpoint.run.map(|run| integer(run.0))
                    ],
                )
                .doing("adding a checkpoint")?;
            created(changed, Thing::Checkpoint, checkpoint.name.as_str())
        })
    }

    /// One checkpoint.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn checkpoint(&self, site: &SiteName, name: &CheckpointName) -> Result<Option<Checkpoint>, StoreError> {
        self.lock()
            .query_row(
                "SELECT site, content_group, name, version, created, run FROM checkpoints \
                 WHERE site = ?1 AND name = ?2",
                params![site.as_str(), name.as_str()],
                checkpoint_row,
            )
            .optional()
            .doing("reading a checkpoint")
    }

    /// The checkpoints of a site, newest first.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn checkpoints(&self, site: &SiteName) -> Result<Vec<Checkpoint>, StoreError> {
        let connection = self.lock();
        let mut statement = connection
            .prepare_cached(
                "SELECT site, content_group, name, version, created, run FROM checkpoints \
                 WHERE site = ?1 ORDER BY created DESC, name",
            )
            .doing("reading the checkpoints")?;
        let rows = statement.query_map(params![site.as_str()], checkpoint_row).doing("reading the checkpoints")?;
        rows.collect::<rusqlite::Result<_>>().doing("reading the checkpoints")
    }

    /// Removes a checkpoint; its content goes when nothing else uses the version.
    ///
    /// # Errors
    /// [`StoreError::Unknown`].
    pub fn delete_checkpoint(&self, site: &SiteName, name: &CheckpointName) -> Result<(), StoreError> {
        let changed = self
            .lock()
            .execute("DELETE FROM checkpoints WHERE site = ?1 AND name = ?2", params![site.as_str(), name.as_str()])
            .doing("removing a checkpoint")?;
        removed(changed, Thing::Checkpoint, name.as_str())
    }

    /// Every version whose content must be kept: live, the one before, checkpoints, snapshots, what
    /// servers should hold, what is staged, and what unfinished runs start from and lead to.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn versions_in_use(&self) -> Result<BTreeSet<Version>, StoreError> {
        let mut versions: BTreeSet<Version> = {
            let connection = self.lock();
            let mut statement = connection
                .prepare_cached(
                    "SELECT version FROM views UNION SELECT previous FROM views WHERE previous IS NOT NULL \
                     UNION SELECT version FROM checkpoints UNION SELECT version FROM snapshots \
                     UNION SELECT version FROM wanted UNION SELECT version FROM staged",
                )
                .doing("collecting the versions in use")?;
            let rows = statement.query_map([], |row| version(row, 0)).doing("collecting the versions in use")?;
            rows.collect::<rusqlite::Result<_>>().doing("collecting the versions in use")?
        };
        for (run, _, _) in self.unfinished_runs()? {
            versions.extend(run.base);
            versions.extend(run.result);
        }
        Ok(versions)
    }
}

/// What an insertion that skips taken names means.
pub(super) fn created(changed: usize, thing: Thing, name: &str) -> Result<(), StoreError> {
    if changed == 0 { Err(StoreError::Exists { thing, name: name.to_owned() }) } else { Ok(()) }
}

/// What a removal or change by name means.
pub(super) fn removed(changed: usize, thing: Thing, name: &str) -> Result<(), StoreError> {
    if changed == 0 { Err(StoreError::Unknown { thing, name: name.to_owned() }) } else { Ok(()) }
}

pub(super) fn require_site(tx: &Transaction<'_>, site: &SiteName) -> Result<(), StoreError> {
    let found = tx
        .query_row("SELECT 1 FROM sites WHERE name = ?1", params![site.as_str()], |_| Ok(()))
        .optional()
        .doing("looking for a site")?;
    removed(usize::from(found.is_some()), Thing::Site, site.as_str())
}

/// The oldest run of the site (and group) that is not over.
fn unfinished(
    tx: &Transaction<'_>,
    site: &SiteName,
    group: Option<&GroupName>,
) -> Result<Option<RunNumber>, StoreError> {
    tx.query_row(
        "SELECT number FROM runs WHERE final = 0 AND site = ?1 AND (?2 IS NULL OR content_group = ?2) \
         ORDER BY number LIMIT 1",
        params![site.as_str(), group.map(GroupName::as_str)],
        |row| number(row, 0).map(RunNumber),
    )
    .optional()
    .doing("looking for unfinished runs")
}

fn site_row(row: &Row<'_>) -> rusqlite::Result<Site> {
    Ok(Site {
        name: text(row, 0)?,
        staging: PathBuf::from(std::ffi::OsString::from_vec(row.get(1)?)),
        live: row.get(2)?,
        exclude: json(row, 3)?,
        wan: row.get(4)?,
        created: time(row, 5)?,
        extra: checked(row, 6, |text: String| Extra::named(&text).ok_or("no policy for what nobody published"))?,
        linger_seconds: row.get(7)?,
    })
}

fn group_row(row: &Row<'_>) -> rusqlite::Result<Group> {
    Ok(Group { site: text(row, 0)?, name: text(row, 1)?, selector: json(row, 2)? })
}

fn view_row(row: &Row<'_>) -> rusqlite::Result<View> {
    Ok(View {
        site: text(row, 0)?,
        group: text(row, 1)?,
        version: version(row, 2)?,
        assignment: AssignmentNumber(number(row, 3)?),
        run: RunNumber(number(row, 4)?),
        published: time(row, 5)?,
        previous: version_option(row, 6)?,
    })
}

fn checkpoint_row(row: &Row<'_>) -> rusqlite::Result<Checkpoint> {
    Ok(Checkpoint {
        site: text(row, 0)?,
        group: text(row, 1)?,
        name: text(row, 2)?,
        version: version(row, 3)?,
        created: time(row, 4)?,
        run: number_option(row, 5)?.map(RunNumber),
    })
}
