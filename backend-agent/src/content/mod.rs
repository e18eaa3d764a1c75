//! The content interpreter: carries out assignments on the trees of one hosted site.
//!
//! In: assignment files, as they came from whomever, and the wall clock's time. Out: outcomes, each
//! of them true and durable before it is returned. Holds: live always is one complete tree, the old
//! one or the new one, through any crash; no byte reaches it that the publish key did not sign for
//! this cluster and site, in its order. Leaves to others: how assignments arrive, hooks after a swap,
//! reporting, when to audit.
//!
//! Beside the live directory `example` stands the state directory `.example.pressrun`:
//! ```text
//! journal     the state, replaced as a whole (journal.rs)
//! manifests/  what the trees consist of, by version
//! index       digests of files by inode; only saves work (local.rs)
//! lingering   files that were removed and can still be reached (leftover.rs)
//! temp/       the tree being staged, or staged and waiting for its commit
//! backup/     the tree that was live before; where live is a link both stand beside it (places.rs)
//! trash/      trees that are not needed; removed when there is time
//! lock        held while the trees are open
//! ```
//! Source: 002, "Content interpreter" and the live, temp and backup directories of back-end servers.

mod audit;
mod blocks;
mod by_hand;
mod check;
mod errors;
mod excluded;
mod fault;
mod journal;
mod leftover;
mod local;
mod lone;
mod open;
mod places;
mod policy;
mod prepare;
mod stage;
mod swap;
#[cfg(test)]
mod tests;
mod trees;

use std::ffi::OsString;
use std::io::{Read, Seek};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use common::assignment::{AssignmentReader, Header, Kind, Limits};
use common::digest::Version;
use common::ids::{AssignmentNumber, ClusterId, ServerId, SiteName};
use common::keys::PublishKeys;
use common::manifest::Manifest;
use common::outcome::{Outcome, Refusal, SiteState};
use common::time::WallTime;

use crate::hooks::HookFailed;

use errors::ContentError;
use journal::{Body, Lasts, Place, Swap};
use trees::remove;

pub(crate) use audit::Audit;
pub(crate) use journal::{Journal, seal, unseal};
pub(crate) use local::Index;

pub use errors::OpenError;
pub use fault::{Fault, NoFault, Point};
pub use places::Switch;
pub(crate) use policy::ContentSection;
pub use policy::{TreePolicies, TreePolicy};

const INDEX: &str = "index";

/// The trees of one hosted site on this server, held open and locked.
///
/// Blocking: every method does file work on the calling thread.
pub struct SiteTrees {
    site: SiteName,
    /// For messages only; work goes through the descriptors.
    live_path: PathBuf,
    live_name: OsString,
    policy: TreePolicy,
    /// The directory around live.
    parent: OwnedFd,
    state: OwnedFd,
    manifests: OwnedFd,
    trash: OwnedFd,
    /// Held for its lock.
    _lock: OwnedFd,
    journal: Journal,
    /// Whether there was no journal before.
    is_first: bool,
    /// The last swap, for what is put into its mirrored directories late.
    left_behind: Option<Swap>,
    /// Whether that was not looked at yet when there was time.
    stragglers_due: bool,
    index: Index,
    /// Files that were removed and can still be reached.
    lingering: leftover::Lingering,
    fault: Box<dyn Fault>,
    /// Whether the file system shares blocks between files, once it was tried.
    shares_blocks: Option<bool>,
    try_out: Option<TryOut>,
}

/// Tries a staged tree out before it may count as prepared: given where it lies, and its version. It is
/// compared with what was signed only afterwards, so that nothing that is done to it there goes live.
pub type TryOut = Box<dyn FnMut(&Path, Version) -> Result<(), HookFailed> + Send>;

impl std::fmt::Debug for SiteTrees {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SiteTrees").field("site", &self.site).field("live", &self.live_path).finish_non_exhaustive()
    }
}

impl SiteTrees {
    /// What is there: versions, what is prepared, the high-water mark.
    #[must_use]
    pub fn state(&self) -> SiteState {
        self.journal.state()
    }

    /// The live directory.
    #[must_use]
    pub fn live_path(&self) -> &Path {
        &self.live_path
    }

    /// The manifest of the live tree, for audits: what should be there. `None` before the first
    /// publish.
    ///
    /// # Errors
    /// When the stored manifest cannot be read or is damaged.
    pub fn live_manifest(&self) -> std::io::Result<Option<Manifest>> {
        match self.body().live.version {
            Some(version) => self.read_manifest(version),
            None => Ok(None),
        }
    }

    /// Carries out an assignment. What it returns is durable; a refusal says that live was not
    /// touched and that nothing of the assignment stays. The same assignment again gives the same
    /// outcome without being carried out again, except after a refusal, whose cause may have passed.
    ///
    /// `own` is this server's id, `cluster` its cluster, `now` the time that expiry is judged by.
    pub fn handle<R: Read + Seek>(
        &mut self,
        assignment: R,
        cluster: ClusterId,
        own: ServerId,
        keys: &PublishKeys,
        now: WallTime,
    ) -> Outcome {
        match self.try_handle(assignment, cluster, own, keys, now) {
            Ok(outcome) => outcome,
            Err(error) => {
                let refusal = error.refusal();
                tracing::warn!(site = %self.site, code = ?refusal.code, reason = refusal.reason, "assignment refused");
                Outcome::Refused(refusal)
            }
        }
    }

    fn live_missing(&self) -> ContentError {
        ContentError::LiveMissing { live: self.live_path.clone() }
    }

    fn try_handle<R: Read + Seek>(
        &mut self,
        assignment: R,
        cluster: ClusterId,
        own: ServerId,
        keys: &PublishKeys,
        now: WallTime,
    ) -> Result<Outcome, ContentError> {
        let mut reader = AssignmentReader::open(assignment, keys, &Limits::default())?;
        let header = reader.header().clone();
        self.check_address(&header, cluster, own)?;
        self.finish_swap()?;
        self.settle_stragglers();
        let known = self.body().outcome_of(header.number, header.sequence).cloned();
        if let Some(outcome) = known {
            // Staged, and then a crash: what goes live by itself goes on.
            let halfway = header.kind == Kind::Alone && matches!(outcome, Outcome::Prepared { .. });
            return if halfway { self.bring_alone_live(&header) } else { Ok(outcome) };
        }
        match header.kind {
            Kind::Prepare => {
                self.check_order(&header, now)?;
                self.prepare(&header, &mut reader)
            }
            Kind::Inventory => {
                self.check_order(&header, now)?;
                self.inventory(&header, reader.commands())
            }
            Kind::Rollback => {
                self.check_order(&header, now)?;
                self.prepare_rollback(&header)
            }
            Kind::Commit { prepared } => self.commit(&header, prepared, now),
            Kind::Undo { prepared } => self.undo(&header, prepared, now),
            Kind::Audit { full } => self.audit(&header, full, now),
            Kind::Discard => {
                self.check_order(&header, now)?;
                self.keep_live_only(&header)
            }
            Kind::Alone => {
                self.check_order(&header, now)?;
                self.prepare(&header, &mut reader)?;
                self.bring_alone_live(&header)
            }
        }
    }

    /// Removes what is not needed any more. Called before staging; worth calling when there is time.
    ///
    /// # Errors
    /// The refusal that the next assignment might meet for the same reason.
    pub fn clean(&mut self) -> Result<(), Refusal> {
        if self.stragglers_due {
            self.settle_stragglers();
        }
        self.empty_trash().map_err(|error| error.refusal())
    }

    /// Takes away what has lingered for long enough; worth calling at [`Self::sweep_due`].
    ///
    /// # Errors
    /// Why it could not; it is tried again.
    pub fn take_away_lingering(&mut self, now: WallTime) -> Result<(), Refusal> {
        self.sweep(now).map_err(|error| error.refusal())
    }

    /// Drops a prepared tree that nobody decided on in time. Returns its assignment.
    ///
    /// # Errors
    /// When that cannot be made durable; it stays prepared then.
    pub fn drop_expired(&mut self, now: WallTime) -> Result<Option<AssignmentNumber>, Refusal> {
        let Some(prepared) = &self.body().prepared else { return Ok(None) };
        if now <= prepared.expires {
            return Ok(None);
        }
        let number = prepared.number;
        self.drop_prepared().map_err(|error| error.refusal())?;
        Ok(Some(number))
    }

    /// Puts a seam for failures under all further work. For tests.
    #[must_use]
    pub fn with_fault(mut self, fault: Box<dyn Fault>) -> Self {
        self.fault = fault;
        self
    }

    /// Has staged trees tried out from here on.
    pub fn set_try_out(&mut self, try_out: TryOut) {
        self.try_out = Some(try_out);
    }

    /// Tries out the tree at a place.
    fn try_out(&mut self, place: Place, version: Version) -> Result<(), ContentError> {
        let path = self.place_path(place)?;
        let (Some(path), Some(try_out)) = (path, &mut self.try_out) else { return Ok(()) };
        Ok(try_out(&path, version)?)
    }

    /// It is for this site of this cluster, and for this server.
    fn check_address(&self, header: &Header, cluster: ClusterId, own: ServerId) -> Result<(), ContentError> {
        if header.site != self.site {
            return Err(ContentError::WrongSite { expected: self.site.clone(), found: header.site.clone() });
        }
        if header.cluster != cluster {
            return Err(ContentError::WrongCluster { expected: cluster, found: header.cluster });
        }
        if !header.targets.contains(&own) {
            return Err(ContentError::NotATarget { own });
        }
        Ok(())
    }

    fn check_order(&self, header: &Header, now: WallTime) -> Result<(), ContentError> {
        let mark = self.body().sequence;
        if header.sequence <= mark {
            return Err(ContentError::Sequence { found: header.sequence, mark });
        }
        if now > header.expires {
            return Err(ContentError::Expired { expires: header.expires, now });
        }
        Ok(())
    }

    fn body(&self) -> &Body {
        self.journal.current()
    }

    /// Makes a state the durable one. Not while a swap is pending.
    fn write_body(&mut self, body: Body) -> Result<(), ContentError> {
        let journal = Journal { body, swap: None };
        if let Err(error) = self.put_journal(&journal, Lasts::Now) {
            // It may be in its place all the same, and would be believed when the trees are opened again.
            if let Err(second) = self.put_journal(&self.journal.clone(), Lasts::Now) {
                tracing::warn!(site = %self.site, error = %second, "the journal cannot be put back");
            }
            return Err(ContentError::io("writing", "the journal")(error));
        }
        self.journal = journal;
        Ok(())
    }

    fn put_journal(&mut self, journal: &Journal, lasts: Lasts) -> std::io::Result<()> {
        journal.write(self.state.as_fd(), &mut *self.fault, self.is_first, lasts)?;
        self.is_first = false;
        Ok(())
    }

    fn read_manifest(&self, version: Version) -> std::io::Result<Option<Manifest>> {
        journal::read_sealed(self.manifests.as_fd(), &version.to_string())
    }

    /// The manifest of a version that must be there.
    fn manifest(&self, version: Version) -> Result<Manifest, ContentError> {
        let doing = "reading the manifest of";
        self.read_manifest(version)
            .and_then(|found| found.ok_or_else(|| std::io::ErrorKind::NotFound.into()))
            .map_err(ContentError::io(doing, version))
    }

    fn empty_trash(&mut self) -> Result<(), ContentError> {
        let failed = || ContentError::io("removing", "what is not needed");
        for (name, _) in trees::list(self.trash.as_fd()).map_err(failed())? {
            self.fault.at(Point::Discard).map_err(failed())?;
            remove(self.trash.as_fd(), &name, &mut self.index).map_err(failed())?;
        }
        let needed: Vec<String> = self.body().versions().map(|version| version.to_string()).collect();
        for (name, _) in trees::list(self.manifests.as_fd()).map_err(failed())? {
            if !needed.iter().any(|needed| name == needed.as_str()) {
                remove(self.manifests.as_fd(), &name, &mut self.index).map_err(failed())?;
            }
        }
        self.save_index();
        Ok(())
    }

    /// The index only saves work, so failing to save it is no failure.
    fn save_index(&self) {
        if let Err(error) = journal::write_sealed(self.state.as_fd(), INDEX, &self.index, false) {
            tracing::warn!(site = %self.site, %error, "the index of content cannot be saved");
        }
    }
}

impl Journal {
    /// The state as it is: a swap in memory has switched live.
    fn current(&self) -> &Body {
        self.swap.as_ref().map_or(&self.body, |swap| &swap.after)
    }

    fn state(&self) -> SiteState {
        let body = self.current();
        SiteState {
            site: body.site.clone(),
            live: body.live.version,
            backup: body.backup.as_ref().and_then(|backup| backup.version),
            prepared: body.prepared.as_ref().map(|prepared| (prepared.number, prepared.version)),
            sequence: body.sequence,
        }
    }
}
