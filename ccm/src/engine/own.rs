//! What gives single servers another version than their group has, as it is asked for: taking content
//! off them, publishing some paths to some of them, switching them to their backup.
//!
//! A server's own version stands until a run decides for the whole group, or somebody names the server to
//! bring it back: the automatic synchronization keeps it there, audits compare with it.

use std::collections::{BTreeMap, BTreeSet};

use common::digest::Version;
use common::ids::{GroupName, ServerId, ServerName, SiteName};
use common::path::ContentPath;

use super::hot::{Candidate, least_busy};
use super::run::RunRequest;
use super::{Engine, EngineError, now};
use crate::store::{Group, OwnVersion, Run, RunKind, Site, Staged};

/// Which servers a hot publish is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whom {
    /// These.
    Named(Vec<ServerName>),
    /// So many: those with the least load of all that are online and have what the group has.
    LeastBusy(u32),
}

/// What a run is for: its request, and the servers.
pub(super) type Order = (RunRequest, Vec<ServerId>);

impl Engine {
    /// Servers of a group by their names; all of them when none is named.
    pub(super) fn named(&self, site: &Site, group: &Group, names: &[ServerName]) -> Result<Vec<ServerId>, EngineError> {
        let members = self.store.members_of(group)?;
        if members.is_empty() {
            return Err(EngineError::EmptyGroup { site: site.name.clone(), group: group.name.clone() });
        }
        if names.is_empty() {
            return Ok(members.into_iter().map(|member| member.id).collect());
        }
        let mut chosen = BTreeSet::new();
        for name in names {
            let member = members.iter().find(|member| member.name == *name);
            let missing = || EngineError::NotInGroup { server: name.clone(), group: group.name.clone() };
            chosen.insert(member.ok_or_else(missing)?.id);
        }
        Ok(chosen.into_iter().collect())
    }

    /// The own versions of servers of a site.
    pub(super) fn own_versions(&self, site: &SiteName) -> Result<BTreeMap<ServerId, OwnVersion>, EngineError> {
        let own = self.store.own_versions(Some(site))?;
        Ok(own.into_iter().map(|((_, server), own)| (server, own)).collect())
    }

    /// What is staged on a group's servers, if its time is not over.
    pub(super) fn staged(&self, site: &SiteName, group: &GroupName) -> Result<Option<Staged>, EngineError> {
        Ok(self.store.staged(site, group)?.filter(|staged| now() <= staged.expires))
    }

    /// Takes a site's content off servers: those that are named, or all of the group.
    ///
    /// # Errors
    /// When nothing was published to the group yet, or a server is not in it.
    pub fn request_remove(
        &self,
        site: &SiteName,
        group: Option<&GroupName>,
        servers: &[ServerName],
        request: &RunRequest,
    ) -> Result<Run, EngineError> {
        let site = self.site(site)?;
        let group = self.group_for(&site, group)?;
        let (request, servers) = self.removing(&site, &group, servers, request)?;
        self.accept(&site, &group, RunKind::Remove, &request, &servers)
    }

    pub(super) fn removing(
        &self,
        site: &Site,
        group: &Group,
        servers: &[ServerName],
        request: &RunRequest,
    ) -> Result<Order, EngineError> {
        self.require_published(site, group)?;
        self.check_quorum(request)?;
        self.order(site, group, servers, request)
    }

    /// The request as one for these servers; for all of the group when none is named.
    fn order(
        &self,
        site: &Site,
        group: &Group,
        names: &[ServerName],
        request: &RunRequest,
    ) -> Result<Order, EngineError> {
        let request = RunRequest { named: !names.is_empty(), ..request.clone() };
        Ok((request, self.named(site, group, names)?))
    }

    /// Publishes some paths of staging to some servers.
    ///
    /// # Errors
    /// When nothing was published to the group yet, a server is not in it, the servers are to have different
    /// versions, or there are not so many to choose from.
    pub fn request_hot(
        &self,
        site: &SiteName,
        group: Option<&GroupName>,
        whom: &Whom,
        paths: BTreeSet<ContentPath>,
        request: RunRequest,
    ) -> Result<Run, EngineError> {
        let site = self.site(site)?;
        let group = self.group_for(&site, group)?;
        let (request, servers) = self.hot(&site, &group, whom, paths, request)?;
        self.accept(&site, &group, RunKind::Hot, &request, &servers)
    }

    pub(super) fn hot(
        &self,
        site: &Site,
        group: &Group,
        whom: &Whom,
        paths: BTreeSet<ContentPath>,
        request: RunRequest,
    ) -> Result<Order, EngineError> {
        let published = self.require_published(site, group)?;
        self.check_quorum(&request)?;
        let own = self.own_versions(&site.name)?;
        let expected = |server: &ServerId| own.get(server).map_or(published, |own| own.version);
        let servers = match whom {
            Whom::Named(names) => self.named(site, group, names)?,
            Whom::LeastBusy(count) => {
                let online = self.hub.online();
                let candidate = |server: ServerId| {
                    let info = online.get(&server)?;
                    let is_current = !own.contains_key(&server) && self.hub.live(server, &site.name) == Some(published);
                    let (name, load_percent, cpus) = (info.name.clone(), info.load_percent, info.cpus);
                    is_current.then_some(Candidate { id: server, name, load_percent, cpus })
                };
                let candidates: Vec<Candidate> =
                    self.named(site, group, &[])?.into_iter().filter_map(candidate).collect();
                let (wanted, found) = (*count as usize, candidates.len());
                least_busy(candidates, wanted).ok_or(EngineError::TooFewServers { wanted, found })?
            }
        };
        let bases: BTreeSet<Version> = servers.iter().map(expected).collect();
        let mut bases = bases.into_iter();
        let (Some(base), None) = (bases.next(), bases.next()) else {
            return Err(EngineError::DifferentVersions { site: site.name.clone() });
        };
        let permissions = self.mending(&site.name, &group.name)?;
        let request = RunRequest {
            version: Some(base),
            paths,
            named: true,
            adopt: permissions.adopt,
            create_live: permissions.create_live,
            ..request
        };
        Ok((request, servers))
    }

    /// Brings live what a publish has staged; if there is nothing, or servers are named, the backup.
    ///
    /// # Errors
    /// When there is nothing to switch to, or a server is not in the group.
    pub fn request_switch(
        &self,
        site: &SiteName,
        group: Option<&GroupName>,
        servers: &[ServerName],
        request: &RunRequest,
    ) -> Result<Run, EngineError> {
        let site = self.site(site)?;
        let group = self.group_for(&site, group)?;
        let (request, servers) = self.switching(&site, &group, servers, request)?;
        self.accept(&site, &group, RunKind::Switch, &request, &servers)
    }

    pub(super) fn switching(
        &self,
        site: &Site,
        group: &Group,
        servers: &[ServerName],
        request: &RunRequest,
    ) -> Result<Order, EngineError> {
        self.check_quorum(request)?;
        if !servers.is_empty() {
            self.require_published(site, group)?;
        } else if self.staged(&site.name, &group.name)?.is_none() && self.require_previous(site, group).is_err() {
            return Err(EngineError::NothingToSwitch { site: site.name.clone(), group: group.name.clone() });
        }
        self.order(site, group, servers, request)
    }
}
