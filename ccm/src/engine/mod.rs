//! Runs: from a request to the last server's report.
//!
//! In reading order: what is asked for and refused ([`requests`]; for single servers: [`own`], [`hot`]), which run may start when
//! ([`schedule`]), one run's steps ([`run`]) and what it shows ([`record`]), the assignments it makes
//! ([`order`]) and the data channels they name ([`channels`]), their way over WAN and LAN ([`delivery`], [`wan`]), who is connected ([`hub`]),
//! what happens to servers that missed something ([`synchronize`]), what happens by itself ([`timetable`]), and what is removed when
//! ([`housekeeping`]).
//!
//! Absences: no HTTP, no TLS, no reading of trees.

pub mod channels;
pub mod delivery;
mod hot;
mod housekeeping;
pub mod hub;
pub mod operations;
mod order;
pub mod own;
pub mod quorum;
mod record;
pub mod requests;
mod run;
mod schedule;
mod synchronize;
mod timetable;
#[cfg(test)]
mod timetable_tests;
pub mod wan;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::SystemTime;

use common::errors::chain;
use common::exclude::Exclude;
use common::ids::{AssignmentNumber, GroupName, RunNumber, ServerId, ServerName, SiteName};
use common::time::WallTime;
use tokio::sync::{Notify, watch};
use transfer::store::ObjectStore;

use crate::api::events::{add_fleet_event, add_run_event, add_schedule_event};
use crate::ingest::content::ContentStore;
use crate::ingest::scan::{Scan, ScanError, ScanLimits, ScanRequest, scan};
use crate::store::{Group, Run, Schedule, Site, Store};
use crate::trust::Trust;
use channels::ChannelRange;
use hub::Hub;

pub use run::RunRequest;

/// Everything that executes runs.
pub struct Engine {
    pub(crate) store: Store,
    pub(crate) trust: Arc<Trust>,
    content: ContentStore,
    objects: Arc<ObjectStore>,
    pub(crate) hub: Arc<Hub>,
    /// Where assignments are built.
    spool: PathBuf,
    /// Where scans remember what they saw.
    indexes: PathBuf,
    /// Where leaders fetch from.
    transfer_address: SocketAddr,
    channels: ChannelRange,
    changes: watch::Sender<u64>,
    wake: Notify,
    /// A schedule is new or changed.
    timetable_changed: Notify,
    cancels: Mutex<BTreeMap<RunNumber, Arc<AtomicBool>>>,
    /// Whether runs shall rest.
    rests: Mutex<BTreeMap<RunNumber, Arc<AtomicBool>>>,
    /// Held for reading by scans, and for writing by whoever removes contents.
    scanning: RwLock<()>,
    /// One scan of a site at a time: they share an index.
    scans: Mutex<BTreeMap<SiteName, Arc<Mutex<()>>>>,
}

/// Why something could not be done.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// No such site.
    #[error("there is no site {site}; `pressrun site list` shows those there are")]
    NoSite {
        /// The name.
        site: SiteName,
    },
    /// No such group.
    #[error("the site {site} has no group {group}; `pressrun group list --site {site}` shows those there are")]
    NoGroup {
        /// The site.
        site: SiteName,
        /// The name.
        group: GroupName,
    },
    /// It must be said which group is meant.
    #[error("the site {site} has several groups: say which with --group ({names})")]
    WhichGroup {
        /// The site.
        site: SiteName,
        /// Their names.
        names: String,
    },
    /// Every data channel is some group's.
    #[error("all data channels of the configured range are taken; give the CCM a larger one with --channels")]
    NoChannel,
    /// Nobody to publish to.
    #[error("the group {group} of site {site} has no servers; enrol some, or see `pressrun group list`")]
    EmptyGroup {
        /// The site.
        site: SiteName,
        /// The group.
        group: GroupName,
    },
    /// No version to go back to.
    #[error("the site {site} has no earlier version on group {group} to roll back to")]
    NothingToRollBack {
        /// The site.
        site: SiteName,
        /// The group.
        group: GroupName,
    },
    /// Nothing was published yet.
    #[error("the site {site} was never published to group {group}")]
    NeverPublished {
        /// The site.
        site: SiteName,
        /// The group.
        group: GroupName,
    },
    /// The server is not one of those.
    #[error("the server {server} is not in the group {group}; `pressrun group list` shows who is")]
    NotInGroup {
        /// The server.
        server: ServerName,
        /// The group.
        group: GroupName,
    },
    /// Not so many to choose from.
    #[error(
        "{found} servers are online and have what their group has, {wanted} were asked for; `pressrun servers` shows them"
    )]
    TooFewServers {
        /// How many were asked for.
        wanted: usize,
        /// How many there are.
        found: usize,
    },
    /// One assignment starts from one version.
    #[error(
        "the servers that were named are to have different versions of {site}; name those with the same one at a time \
         (`pressrun servers --json` shows them)"
    )]
    DifferentVersions {
        /// The site.
        site: SiteName,
    },
    /// Nothing is staged, and there is no version before.
    #[error(
        "nothing of {site} is staged on group {group} and no earlier version is known; \
         `pressrun publish {site} --stage-only` stages one"
    )]
    NothingToSwitch {
        /// The site.
        site: SiteName,
        /// The group.
        group: GroupName,
    },
    /// Paths that do not fit.
    #[error("these paths of {site} cannot be published by themselves")]
    Overlay {
        /// The site.
        site: SiteName,
        /// Which, and why.
        source: hot::OverlayError,
    },
    /// A run that is over does not rest.
    #[error("run {run} cannot be {what}: {why}")]
    CannotRest {
        /// The run.
        run: RunNumber,
        /// Paused or resumed.
        what: &'static str,
        /// Why.
        why: &'static str,
    },
    /// No such checkpoint.
    #[error("the site {site} has no checkpoint {name}; `pressrun checkpoint list {site}` shows those there are")]
    NoCheckpoint {
        /// The site.
        site: SiteName,
        /// The name.
        name: String,
    },
    /// No such run.
    #[error("there is no run {run}; `pressrun runs` shows those there are")]
    NoRun {
        /// The number.
        run: RunNumber,
    },
    /// Too late to cancel.
    #[error("run {run} can no longer be cancelled: {why}")]
    TooLate {
        /// The run.
        run: RunNumber,
        /// Why.
        why: &'static str,
    },
    /// The quorum makes no sense.
    #[error("the quorum cannot be used")]
    Quorum(#[from] quorum::QuorumError),
    /// A record is missing that the run needs.
    #[error("run {run} has lost its result; start it again")]
    NoResult {
        /// The run.
        run: RunNumber,
    },
    /// A recorded assignment is missing or unreadable.
    #[error("assignment {number} is not on record")]
    NoAssignment {
        /// The assignment.
        number: AssignmentNumber,
    },
    /// The working directory failed.
    #[error("{path} cannot be used")]
    Spool {
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The database failed.
    #[error("the database failed")]
    Store(#[from] crate::store::StoreError),
    /// The content store failed.
    #[error("the content store failed")]
    Content(#[from] crate::ingest::content::ContentError),
    /// The staging tree cannot be read.
    #[error("the staging tree of {site} cannot be published")]
    Scan {
        /// The site.
        site: SiteName,
        /// Why.
        source: ScanError,
    },
    /// A pattern makes no sense.
    #[error("the exclude patterns of {site} cannot be used")]
    Exclude {
        /// The site.
        site: SiteName,
        /// Why.
        source: common::exclude::ExcludeError,
    },
    /// The assignment could not be built.
    #[error("the assignment could not be built")]
    Build(#[from] crate::ingest::build::BuildError),
    /// A server's word about what it lacks makes no sense.
    #[error("a server's inventory cannot be used")]
    Inventory(#[from] crate::ingest::inventory::MissingError),
    /// The object store failed.
    #[error("the object store failed")]
    Objects(#[from] transfer::store::StoreError),
    /// A worker thread died.
    #[error("a worker of the content control manager died; its log says why")]
    Worker,
}

impl EngineError {
    /// What went wrong with a tree that was scanned. When it is about what is kept already, or is to be kept,
    /// nothing is wrong with the staging tree.
    fn of_scanned(site: &SiteName, source: ScanError) -> Self {
        if let ScanError::Store(source) = source {
            return Self::Content(source);
        }
        Self::Scan { site: site.clone(), source }
    }
}

/// The clock of the control plane.
pub(crate) fn now() -> WallTime {
    SystemTime::now().into()
}

/// Runs something that reads and writes files where it holds up nobody.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, EngineError> + Send + 'static,
) -> Result<T, EngineError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| EngineError::Worker)?
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is behind these locks is plain data, whole at every moment.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where the engine keeps its files, and what it works with.
pub struct Parts {
    /// The database.
    pub store: Store,
    /// Keys.
    pub trust: Arc<Trust>,
    /// Published contents.
    pub content: ContentStore,
    /// Assignments on their way.
    pub objects: Arc<ObjectStore>,
    /// Connections of leaders.
    pub hub: Arc<Hub>,
    /// A directory of its own.
    pub directory: PathBuf,
    /// Where leaders fetch from.
    pub transfer_address: SocketAddr,
    /// Where the data channels of content groups are taken from.
    pub channels: ChannelRange,
}

impl Engine {
    /// Makes the engine; [`Engine::start`] sets it going.
    ///
    /// # Errors
    /// When its directories cannot be made.
    pub fn new(parts: Parts) -> Result<Arc<Self>, EngineError> {
        let spool = parts.directory.join("spool");
        let indexes = parts.directory.join("indexes");
        for path in [&spool, &indexes] {
            std::fs::create_dir_all(path).map_err(|source| EngineError::Spool { path: path.clone(), source })?;
        }
        Ok(Arc::new(Self {
            store: parts.store,
            trust: parts.trust,
            content: parts.content,
            objects: parts.objects,
            hub: parts.hub,
            spool,
            indexes,
            transfer_address: parts.transfer_address,
            channels: parts.channels,
            changes: watch::channel(0).0,
            wake: Notify::new(),
            timetable_changed: Notify::new(),
            cancels: Mutex::default(),
            rests: Mutex::default(),
            scanning: RwLock::default(),
            scans: Mutex::default(),
        }))
    }

    /// Goes on with unfinished runs, then executes what is asked for and keeps servers up to date.
    pub fn start(self: &Arc<Self>) {
        tokio::spawn(schedule::run(self.clone()));
        tokio::spawn(timetable::run(self.clone()));
        tokio::spawn(synchronize::run(self.clone()));
        tokio::spawn(housekeeping::run(self.clone()));
    }

    /// Wakes at every change of a run or of the fleet.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Something that people watch has changed.
    fn bump(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    /// Tells who watches how a run stands now.
    fn tell_run(&self, run: &Run) {
        if let Err(error) = add_run_event(&self.store, run, now()) {
            tracing::error!(run = %run.run, error = chain(&error), "an event could not be recorded");
        }
        self.bump();
    }

    /// Tells who watches how a schedule stands now.
    fn tell_schedule(&self, schedule: &Schedule) {
        if let Err(error) = add_schedule_event(&self.store, schedule, now()) {
            tracing::error!(schedule = %schedule.name, error = chain(&error), "an event could not be recorded");
        }
        self.bump();
    }

    /// Tells who watches how the fleet stands now.
    pub(crate) fn tell_fleet(&self) {
        let online = self.hub.online().into_keys().collect();
        if let Err(error) = add_fleet_event(&self.store, &self.trust.cluster().to_string(), &online, now()) {
            tracing::error!(error = chain(&error), "an event could not be recorded");
        }
        self.bump();
    }

    fn cancel_flag(&self, run: RunNumber) -> Arc<AtomicBool> {
        let flag = lock(&self.cancels).entry(run).or_default().clone();
        if self.store.cancel_requested(run).unwrap_or(false) {
            flag.store(true, Ordering::Relaxed);
        }
        flag
    }

    fn rest_flag(&self, run: RunNumber) -> Arc<AtomicBool> {
        let flag = lock(&self.rests).entry(run).or_default().clone();
        if self.store.is_paused(run).unwrap_or(false) {
            flag.store(true, Ordering::Relaxed);
        }
        flag
    }

    fn run_ended(&self, run: RunNumber) {
        lock(&self.cancels).remove(&run);
        lock(&self.rests).remove(&run);
        self.wake.notify_one();
        self.bump();
    }

    /// The object of a finished assignment is not served any longer.
    fn forget_object(&self, number: AssignmentNumber) {
        let Ok(Some(record)) = self.store.assignment(number) else { return };
        if let (Some(object), None) = (record.object, record.inline)
            && let Err(error) = self.objects.remove(object)
        {
            tracing::warn!(%object, error = chain(&error), "an object that is no longer needed could not be removed");
        }
    }

    /// Names of all servers.
    fn names(&self) -> BTreeMap<ServerId, ServerName> {
        self.store.servers().unwrap_or_default().into_iter().map(|server| (server.id, server.name)).collect()
    }

    /// The group with this name; without a name the only one, or the implicit `all`.
    pub(crate) fn group(&self, site: &SiteName, group: Option<&GroupName>) -> Result<Group, EngineError> {
        if let Some(name) = group {
            return self
                .store
                .group(site, name)?
                .ok_or_else(|| EngineError::NoGroup { site: site.clone(), group: name.clone() });
        }
        let mut groups = self.store.groups(Some(site))?;
        if groups.len() == 1 {
            return Ok(groups.remove(0));
        }
        if let Some(all) = groups.iter().find(|group| group.name.as_str() == requests::IMPLICIT_GROUP) {
            return Ok(all.clone());
        }
        let names: Vec<&str> = groups.iter().map(|group| group.name.as_str()).collect();
        Err(EngineError::WhichGroup { site: site.clone(), names: names.join(", ") })
    }

    /// Looks through the staging tree and takes new content into the store. Blocks.
    fn scan(&self, site: &Site, cancel: &AtomicBool) -> Result<Scan, EngineError> {
        let guard = lock(&self.scans).entry(site.name.clone()).or_default().clone();
        let _one_at_a_time = lock(&guard);
        let _contents_stay = self.scanning.read().unwrap_or_else(PoisonError::into_inner);
        let exclude =
            Exclude::new(&site.exclude).map_err(|source| EngineError::Exclude { site: site.name.clone(), source })?;
        let request = ScanRequest {
            staging: &site.staging,
            exclude: &exclude,
            limits: ScanLimits::default(),
            index_file: &self.indexes.join(site.name.as_str()),
        };
        scan(&request, &self.content, &|_| (), cancel)
            .map_err(|source| EngineError::Scan { site: site.name.clone(), source })
    }

    /// Which servers are to have which version of which site, by what was published to their groups.
    /// The later publish decides for a server that is in several groups of a site.
    pub(crate) fn wanted(&self) -> Result<BTreeMap<(SiteName, ServerId), Wanted>, EngineError> {
        let mut wanted: BTreeMap<(SiteName, ServerId), Wanted> = BTreeMap::new();
        for view in self.store.views(None)? {
            let Some(group) = self.store.group(&view.site, &view.group)? else { continue };
            for server in self.store.members_of(&group)? {
                let (group, version, assignment) = (view.group.clone(), view.version, view.assignment);
                let candidate = Wanted { group, version, assignment, own: false };
                let entry = wanted.entry((view.site.clone(), server.id)).or_insert_with(|| candidate.clone());
                if entry.assignment < candidate.assignment {
                    *entry = candidate;
                }
            }
        }
        for (key, own) in self.store.own_versions(None)? {
            // One that was taken out of the group is to have whatever the groups say that it is in.
            let Some(group) = self.store.group(&own.site, &own.group)? else { continue };
            let is_member = self.store.members_of(&group)?.iter().any(|member| member.id == own.server);
            if let Some(entry) = wanted.get_mut(&key).filter(|_| is_member) {
                entry.group = own.group;
                entry.version = own.version;
                entry.own = true;
            }
        }
        Ok(wanted)
    }
}

/// The version that a server is to have of a site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// By which group.
    pub(crate) group: GroupName,
    /// The version.
    pub(crate) version: common::digest::Version,
    /// The assignment that made it live: a later one is stronger.
    pub(crate) assignment: AssignmentNumber,
    /// Whether it is the server's own, and not what the group has.
    pub(crate) own: bool,
}

#[cfg(test)]
mod tests;
