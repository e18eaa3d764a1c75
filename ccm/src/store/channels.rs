//! The data channels of content groups.

use std::net::SocketAddr;

use common::ids::{GroupName, SiteName};
use rusqlite::{OptionalExtension as _, Transaction, params};

use super::error::{StoreError, Thing};
use super::row::checked_option;
use super::sites::removed;
use super::{Doing as _, Store};

const READING: &str = "reading a group's data channel";
const GIVING: &str = "giving a group its data channel";

impl Store {
    /// The data channel of a group; `None` before it was first needed, or when there is no such group.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn channel(&self, site: &SiteName, group: &GroupName) -> Result<Option<SocketAddr>, StoreError> {
        channel(&self.lock(), site, group)
    }

    /// The data channel of a group, for good: the one it has, or the first of these that no other has.
    /// `None` when all are taken.
    ///
    /// # Errors
    /// [`StoreError::Unknown`] when there is no such group.
    pub fn claim_channel(
        &self,
        site: &SiteName,
        group: &GroupName,
        candidates: impl IntoIterator<Item = SocketAddr>,
    ) -> Result<Option<SocketAddr>, StoreError> {
        self.transaction(GIVING, |tx| {
            if let Some(channel) = channel(tx, site, group)? {
                return Ok(Some(channel));
            }
            for candidate in candidates {
                if !is_taken(tx, candidate)? {
                    return give(tx, site, group, candidate).map(|()| Some(candidate));
                }
            }
            Ok(None)
        })
    }
}

/// Gives a group this channel.
///
/// # Errors
/// [`StoreError::Exists`] when another has it; [`StoreError::Unknown`] when there is no such group.
pub(super) fn give_free(
    tx: &Transaction<'_>,
    site: &SiteName,
    group: &GroupName,
    channel: SocketAddr,
) -> Result<(), StoreError> {
    if is_taken(tx, channel)? {
        return Err(StoreError::Exists { thing: Thing::Channel, name: channel.to_string() });
    }
    give(tx, site, group, channel)
}

fn give(tx: &Transaction<'_>, site: &SiteName, group: &GroupName, channel: SocketAddr) -> Result<(), StoreError> {
    let changed = tx
        .execute(
            "UPDATE content_groups SET channel = ?3 WHERE site = ?1 AND name = ?2",
            params![site.as_str(), group.as_str(), channel.to_string()],
        )
        .doing(GIVING)?;
    removed(changed, Thing::Group, group.as_str())
}

fn is_taken(tx: &Transaction<'_>, channel: SocketAddr) -> Result<bool, StoreError> {
    let found = tx
        .query_row("SELECT 1 FROM content_groups WHERE channel = ?1", params![channel.to_string()], |_| Ok(()))
        .optional()
        .doing(GIVING)?;
    Ok(found.is_some())
}

fn channel(
    connection: &rusqlite::Connection,
    site: &SiteName,
    group: &GroupName,
) -> Result<Option<SocketAddr>, StoreError> {
    let found = connection
        .query_row(
            "SELECT channel FROM content_groups WHERE site = ?1 AND name = ?2",
            params![site.as_str(), group.as_str()],
            |row| checked_option(row, 0, |text: String| text.parse::<SocketAddr>()),
        )
        .optional()
        .doing(READING)?;
    Ok(found.flatten())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Group, Selector, Site};

    fn store() -> (Store, SiteName) {
        let store = Store::in_memory().expect("a database");
        let site: SiteName = "www".parse().expect("good");
        store
            .create_site(&Site {
                name: site.clone(),
                staging: "/staging".into(),
                live: "/live".into(),
                exclude: Vec::new(),
                wan: "auto".into(),
                extra: common::assignment::Extra::Remove,
                linger_seconds: 0,
                created: common::time::WallTime(1),
            })
            .expect("a site");
        (store, site)
    }

    fn group(site: &SiteName, name: &str) -> Group {
        Group { site: site.clone(), name: name.parse().expect("good"), selector: Selector::All }
    }

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([239, 192, 0, 1], port))
    }

    #[test]
    fn each_group_has_a_channel_of_its_own_and_keeps_it() {
        let (store, site) = store();
        let [east, west, north] = ["east", "west", "north"].map(|name| group(&site, name));
        for group in [&east, &west, &north] {
            store.create_group(group, None).expect("a group");
        }
        let claim = |group: &Group, ports: &[u16]| {
            store.claim_channel(&site, &group.name, ports.iter().map(|port| at(*port))).expect("a known group")
        };
        assert_eq!(store.channel(&site, &east.name).expect("readable"), None);
        assert_eq!(claim(&east, &[5000, 5001]), Some(at(5000)));
        assert_eq!(claim(&west, &[5000, 5001]), Some(at(5001)));
        assert_eq!(claim(&north, &[5000, 5001]), None, "all are taken");
        assert_eq!(claim(&east, &[7000]), Some(at(5000)));
        assert_eq!(store.channel(&site, &west.name).expect("readable"), Some(at(5001)));
        store.delete_group(&site, &west.name).expect("idle");
        assert_eq!(claim(&north, &[5000, 5001]), Some(at(5001)), "a deleted group's is free again");
        let unknown = store.claim_channel(&site, &west.name, [at(1)]);
        assert!(matches!(unknown, Err(StoreError::Unknown { thing: Thing::Group, .. })), "{unknown:?}");
    }

    #[test]
    fn a_channel_that_another_group_has_is_refused_and_so_is_the_group() {
        let (store, site) = store();
        store.create_group(&group(&site, "east"), Some(at(5000))).expect("free");
        let refused = store.create_group(&group(&site, "west"), Some(at(5000)));
        assert!(matches!(refused, Err(StoreError::Exists { thing: Thing::Channel, .. })), "{refused:?}");
        assert_eq!(store.groups(Some(&site)).expect("readable").len(), 1);
    }
}
