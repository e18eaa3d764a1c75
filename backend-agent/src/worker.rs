//! The content interpreter on a thread of its own: assignments in, outcomes out, one after another.
//!
//! The worker also remembers which sites this server hosts, so that it can say what is live after a
//! restart before anything is published.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use common::assignment::{AssignmentReader, Header, Kind, Limits};
use common::digest::Version;
use common::errors::chain;
use common::ids::{AssignmentNumber, ClusterId, ServerId, ServerName, SiteName};
use common::keys::PublishKeys;
use common::outcome::{Outcome, Refusal, RefusalCode, SiteState};
use common::ticket::Ticket;
use common::time::WallTime;
use serde::{Deserialize, Serialize};

use crate::content::{Audit, SiteTrees, TreePolicies};
use crate::hooks::{HookFailed, Hooks, Moment};
use crate::identity::{IdentityError, write_private};

/// How often an idle worker looks for what can go.
const TIDY_INTERVAL: Duration = Duration::from_secs(60);
/// Shortest pause before it looks again for files that have lingered for long enough: one that cannot be
/// taken away, or waits for a commit, must not keep the thread busy. 5 s: nobody counts seconds here.
const SWEEP_PAUSE: Duration = Duration::from_secs(5);
/// How long an audit is worked on before somebody else gets a turn. 50 ms: commits have seconds.
const AUDIT_SLICE: Duration = Duration::from_millis(50);

/// An assignment whose object is here, complete and verified.
#[derive(Debug)]
pub struct Job {
    /// What it is.
    pub ticket: Ticket,
    /// Where its file is.
    pub object: PathBuf,
}

/// What became of a job.
#[derive(Debug)]
pub struct Done {
    /// The job's ticket.
    pub ticket: Ticket,
    /// What became of it.
    pub outcome: Outcome,
    /// The prepared assignment that it undid: what there is of that is not wanted any more.
    pub undone: Option<AssignmentNumber>,
    /// What this server holds now, of all sites.
    pub states: Vec<SiteState>,
}

/// Who the worker works for.
pub struct Scope {
    /// The cluster.
    pub cluster: ClusterId,
    /// This server.
    pub server: ServerId,
    /// Its name, which stands for `{server}` in live directories.
    pub name: ServerName,
    /// Keys that assignments are signed with.
    pub keys: PublishKeys,
    /// Directories below which may be written.
    pub roots: Vec<PathBuf>,
    /// Live directories that the agent's configuration fixes.
    pub fixed: BTreeMap<SiteName, PathBuf>,
    /// Where the hosted sites are remembered.
    pub notes: PathBuf,
    /// What is run before and after live is switched.
    pub hooks: Arc<Hooks>,
    /// How the trees of sites are treated.
    pub content: TreePolicies,
}

/// The live directories of hosted sites, as they were last used.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Notes {
    sites: BTreeMap<SiteName, PathBuf>,
    /// The live version for which the hooks after the switch have run; of sites that have such hooks.
    #[serde(default)]
    hooked: BTreeMap<SiteName, Version>,
}

/// The running worker. Dropping it ends the thread after the job at hand.
#[derive(Debug)]
pub struct Worker {
    jobs: mpsc::Sender<Job>,
}

impl Worker {
    /// Starts the thread; what becomes of jobs goes to `done`. Returns what the server holds.
    ///
    /// # Errors
    /// When the thread cannot be started or the notes cannot be read.
    pub fn start(scope: Scope, done: impl Fn(Done) + Send + 'static) -> Result<(Self, Vec<SiteState>), IdentityError> {
        let mut sites = Sites::open(scope)?;
        let states = sites.states();
        let (jobs, queue) = mpsc::channel::<Job>();
        let run = move || {
            sites.after_crashes();
            let mut audits = Audits::new();
            let mut next = queue.recv().ok();
            while let Some(job) = next {
                if let Some((outcome, undone)) = sites.apply(&job, &mut audits) {
                    done(Done { ticket: job.ticket, outcome, undone, states: sites.states() });
                }
                next = loop {
                    match queue.try_recv() {
                        Ok(job) => break Some(job),
                        Err(mpsc::TryRecvError::Disconnected) => break None,
                        Err(mpsc::TryRecvError::Empty) => {}
                    }
                    if !audits.is_empty() {
                        if let Some((ticket, outcome)) = sites.audit_on(&mut audits) {
                            done(Done { ticket, outcome, undone: None, states: sites.states() });
                        }
                        continue;
                    }
                    sites.tidy();
                    match queue.recv_timeout(sites.idle_max()) {
                        Ok(job) => break Some(job),
                        Err(mpsc::RecvTimeoutError::Timeout) => {}
                        Err(mpsc::RecvTimeoutError::Disconnected) => break None,
                    }
                };
            }
        };
        thread::Builder::new().name("interpreter".to_owned()).spawn(run).map_err(|source| IdentityError::File {
            action: "given a thread",
            path: PathBuf::from("interpreter"),
            source,
        })?;
        Ok((Self { jobs }, states))
    }

    /// Queues a job.
    pub fn apply(&self, job: Job) {
        if self.jobs.send(job).is_err() {
            tracing::error!("the interpreter's thread is gone; restart the agent");
        }
    }
}

struct Sites {
    scope: Scope,
    notes: Notes,
    open: BTreeMap<SiteName, SiteTrees>,
}

/// What became of a job, and the prepared assignment that it undid.
type Applied = (Outcome, Option<AssignmentNumber>);

/// Audits under way, each a slice at a time in turn.
type Audits = VecDeque<(Ticket, Audit)>;

impl Sites {
    fn open(scope: Scope) -> Result<Self, IdentityError> {
        let notes = match std::fs::read(&scope.notes) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::warn!(%error, "the notes about hosted sites are unreadable; they are made anew");
                Notes::default()
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Notes::default(),
            Err(source) => {
                return Err(IdentityError::File { action: "read", path: scope.notes, source });
            }
        };
        let mut sites = Self { scope, notes, open: BTreeMap::new() };
        for (site, live) in sites.notes.sites.clone() {
            if let Err(refusal) = sites.trees(&site, &live) {
                tracing::warn!(%site, reason = refusal.reason, "a hosted site cannot be opened");
            }
        }
        Ok(sites)
    }

    fn states(&self) -> Vec<SiteState> {
        self.open.values().map(SiteTrees::state).collect()
    }

    /// How long there is nothing to tidy.
    fn idle_max(&self) -> Duration {
        let now = wall_time();
        let due = self.open.values().filter_map(SiteTrees::sweep_due).min();
        let until_due = due.map(|due| Duration::from_millis(due.0.saturating_sub(now.0)).max(SWEEP_PAUSE));
        until_due.map_or(TIDY_INTERVAL, |due| due.min(TIDY_INTERVAL))
    }

    /// Removes trees that nobody needs, and staged ones whose time is over.
    fn tidy(&mut self) {
        for (site, trees) in &mut self.open {
            let dropped = trees.drop_expired(wall_time());
            if let Ok(Some(assignment)) = dropped {
                tracing::info!(%site, %assignment, "what was prepared was never decided upon and is dropped");
            }
            let swept = trees.take_away_lingering(wall_time());
            for refusal in [dropped.err(), swept.err(), trees.clean().err()].into_iter().flatten() {
                tracing::warn!(%site, reason = refusal.reason, "what is not needed could not be removed");
            }
        }
    }

    /// The trees of a site, opened (and recovered, after a crash) at their first use.
    fn trees(&mut self, site: &SiteName, live: &Path) -> Result<&mut SiteTrees, Refusal> {
        if self.notes.sites.get(site).is_some_and(|known| known != live) {
            self.open.remove(site);
        }
        if !self.open.contains_key(site) {
            let policy = self.scope.content.of(site);
            let mut trees = SiteTrees::open(site, &self.scope.name, live, &self.scope.roots, policy)
                .map_err(|error| error.refusal())?;
            if self.scope.hooks.has(site, Moment::Before) {
                let (hooks, site) = (self.scope.hooks.clone(), site.clone());
                let run = move |staged: &Path, version| hooks.run(&site, Moment::Before, staged, Some(version));
                trees.set_try_out(Box::new(run));
            }
            self.open.insert(site.clone(), trees);
            self.note(site, live);
        }
        self.open
            .get_mut(site)
            .ok_or_else(|| Refusal { code: RefusalCode::Io, reason: format!("the trees of {site} are not open") })
    }

    fn note(&mut self, site: &SiteName, live: &Path) {
        if self.notes.sites.get(site).map(PathBuf::as_path) == Some(live) {
            return;
        }
        self.notes.sites.insert(site.clone(), live.to_owned());
        self.write_notes();
    }

    fn write_notes(&self) {
        let bytes = serde_json::to_vec_pretty(&self.notes).expect("paths and names are plain data");
        if let Err(error) = write_private(&self.scope.notes, &bytes) {
            tracing::warn!(error = chain(&error), "the notes about hosted sites could not be written");
        }
    }

    /// `None` when it is an audit, which goes on from here.
    fn apply(&mut self, job: &Job, audits: &mut Audits) -> Option<Applied> {
        self.try_apply(job, audits).unwrap_or_else(|refusal| {
            tracing::warn!(assignment = %job.ticket.assignment, reason = refusal.reason, "an assignment is refused");
            Some((Outcome::Refused(refusal), None))
        })
    }

    /// Works on the audit whose turn it is; gives it back with its outcome when it is over.
    fn audit_on(&mut self, audits: &mut Audits) -> Option<(Ticket, Outcome)> {
        let (ticket, mut audit) = audits.pop_front()?;
        let Some(trees) = self.open.get_mut(&ticket.site) else {
            let reason = format!("the trees of {} are not open", ticket.site);
            return Some((ticket, Outcome::Refused(Refusal { code: RefusalCode::Io, reason })));
        };
        let until = Instant::now() + AUDIT_SLICE;
        match trees.continue_audit(&mut audit, || Instant::now() < until) {
            Some(outcome) => Some((ticket, outcome)),
            None => {
                audits.push_back((ticket, audit));
                None
            }
        }
    }

    fn try_apply(&mut self, job: &Job, audits: &mut Audits) -> Result<Option<Applied>, Refusal> {
        let refused = |code, reason: String| Refusal { code, reason };
        let open = || {
            File::open(&job.object)
                .map_err(|error| refused(RefusalCode::Io, format!("the assignment's file cannot be opened: {error}")))
        };
        let reader = AssignmentReader::open(open()?, &self.scope.keys, &Limits::default())
            .map_err(|error| refused(RefusalCode::BadAssignment, chain(&error)))?;
        let header = reader.header().clone();
        drop(reader);
        if header.site != job.ticket.site || header.number != job.ticket.assignment {
            let reason = format!(
                "the ticket announced assignment {} of {}, the file is assignment {} of {}",
                job.ticket.assignment, job.ticket.site, header.number, header.site
            );
            return Err(refused(RefusalCode::BadAssignment, reason));
        }
        let site = header.site.clone();
        let live = match self.scope.fixed.get(&site) {
            Some(fixed) => fixed.clone(),
            None => PathBuf::from(header.live.directory.replace("{server}", self.scope.name.as_str())),
        };
        let (cluster, server, keys) = (self.scope.cluster, self.scope.server, self.scope.keys.clone());
        if let Kind::Audit { full } = header.kind {
            let audit = self.trees(&site, &live)?.begin_audit(&header, full, cluster, server, wall_time())?;
            audits.push_back((job.ticket.clone(), audit));
            return Ok(None);
        }
        self.expect_repair(&header);
        let outcome = self.trees(&site, &live)?.handle(open()?, cluster, server, &keys, wall_time());
        let undone = match header.kind {
            Kind::Undo { prepared } if matches!(outcome, Outcome::Undone { .. }) => Some(prepared),
            Kind::Undo { .. }
            | Kind::Prepare
            | Kind::Inventory
            | Kind::Commit { .. }
            | Kind::Rollback
            | Kind::Audit { .. }
            | Kind::Discard
            | Kind::Alone => None,
        };
        let outcome = match (self.after_switch(&site), outcome) {
            (Err(error), Outcome::Committed { version }) => {
                Outcome::CommittedHookFailed { version, reason: chain(&error) }
            }
            (Ok(()) | Err(_), outcome) => outcome,
        };
        Ok(Some((outcome, undone)))
    }

    /// A commit of the version that is live already repairs a tree that had drifted: what the hooks
    /// after the switch ran for is not what will be live, although its version is the same.
    fn expect_repair(&mut self, header: &Header) {
        let Kind::Commit { prepared } = header.kind else { return };
        let Some(state) = self.open.get(&header.site).map(SiteTrees::state) else { return };
        let repairs = state.prepared.is_some_and(|(number, version)| number == prepared && state.live == Some(version));
        if repairs && self.notes.hooked.remove(&header.site).is_some() {
            self.write_notes();
        }
    }

    /// Runs the hooks of switches that an earlier process did not live to see the end of. What fails is in
    /// the log; the run that it belongs to may be over.
    fn after_crashes(&mut self) {
        let sites: Vec<SiteName> = self.open.keys().cloned().collect();
        for site in sites {
            self.after_switch(&site).ok();
        }
    }

    /// Runs the hooks after the switch, if live is not what they last ran for: also when this process was
    /// killed in between, and when a switch was brought to its end after a crash.
    fn after_switch(&mut self, site: &SiteName) -> Result<(), HookFailed> {
        let Some(trees) = self.open.get(site).filter(|_| self.scope.hooks.has(site, Moment::After)) else {
            return Ok(());
        };
        let live = trees.state().live;
        if self.notes.hooked.get(site) == live.as_ref() {
            return Ok(());
        }
        let ran = self.scope.hooks.run(site, Moment::After, trees.live_path(), live);
        if let Err(error) = &ran {
            tracing::error!(%site, error = chain(error), "a hook after the switch failed");
        }
        match live {
            Some(version) => self.notes.hooked.insert(site.clone(), version),
            None => self.notes.hooked.remove(site),
        };
        self.write_notes();
        ran
    }
}

/// The clock by which expiry is judged.
#[must_use]
pub fn wall_time() -> WallTime {
    SystemTime::now().into()
}
