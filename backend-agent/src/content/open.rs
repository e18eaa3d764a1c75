//! Opening trees: where they may be, what they are locked with, and what a crash left.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::errors::chain;
use common::ids::{ServerName, SiteName};
use common::outcome::SiteState;
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::errors::{ContentError, OpenError};
use super::fault::NoFault;
use super::journal::{Body, JOURNAL, Journal, Move, Place, new_name, read_sealed, replace};
use super::leftover::{LINGERING, Lingering};
use super::local::Index;
use super::places::{LiveEntry, NEW_LINK, Switch, look, slot_names};
use super::trees::{open_beneath, open_directory, stat_at};
use super::{INDEX, SiteTrees, TreePolicy};

/// What a crash may leave in the state directory, under names that nothing is looked for by.
const PASSING_NAMES: [&str; 7] =
    ["journal.new", "index.new", "lingering.new", NEW_LINK, super::excluded::PASSING, "probe-from", "probe-to"];

/// A live directory that may be worked on.
struct Location {
    live: PathBuf,
    name: OsString,
    state_name: OsString,
    parent: OwnedFd,
}

/// Finds the directory around live, which must be at or below a root once links are resolved.
fn locate(server: &ServerName, live_dir: &Path, roots: &[PathBuf]) -> Result<Location, OpenError> {
    // A path that is not text cannot hold the placeholder.
    let live =
        live_dir.to_str().map_or_else(|| live_dir.to_owned(), |text| text.replace("{server}", server.as_str()).into());
    let outside = || OpenError::OutsideRoots { live: live.clone() };
    let failed = |source| OpenError::Parent { live: live.clone(), source };
    let (Some(parent), Some(name)) = (live.parent(), live.file_name()) else { return Err(outside()) };
    if !live.is_absolute() {
        return Err(outside());
    }
    let parent = parent.canonicalize().map_err(failed)?;
    for root in roots {
        // A root that is not there has nothing below it.
        let Ok(root) = root.canonicalize() else { continue };
        let Ok(below) = parent.strip_prefix(&root) else { continue };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(&root, flags, Mode::empty()).map_err(|error| failed(error.into()))?;
        let parent = if below.as_os_str().is_empty() {
            root
        } else {
            let confined = rustix::fs::ResolveFlags::BENEATH
                | rustix::fs::ResolveFlags::NO_SYMLINKS
                | rustix::fs::ResolveFlags::NO_MAGICLINKS;
            rustix::fs::openat2(&root, below, flags, Mode::empty(), confined).map_err(|error| failed(error.into()))?
        };
        let name = name.to_owned();
        let state_name = state_name(&name);
        return Ok(Location { live, name, state_name, parent });
    }
    Err(outside())
}

/// What the state directory of a live directory is called.
pub(super) fn state_name(live: &OsStr) -> OsString {
    let mut name = OsString::from(".");
    name.push(live);
    name.push(".pressrun");
    name
}

impl Location {
    fn state_error(&self, doing: &'static str) -> impl FnOnce(io::Error) -> OpenError + use<> {
        let live = self.live.clone();
        move |source| OpenError::State { live, doing, source }
    }

    fn look(&self) -> Result<LiveEntry, OpenError> {
        look(self.parent.as_fd(), &self.name).map_err(|source| OpenError::Parent { live: self.live.clone(), source })
    }

    /// That what stands at live's name is what the configured way of switching has there.
    fn check_live(&self, switch: Switch) -> Result<(), OpenError> {
        let live = self.live.clone();
        match (switch, self.look()?) {
            (_, LiveEntry::Nothing)
            | (Switch::Exchange, LiveEntry::Directory { .. })
            | (Switch::Symlink, LiveEntry::OwnLink { inode: Some(_), .. }) => Ok(()),
            (Switch::Exchange, LiveEntry::OwnLink { .. } | LiveEntry::ForeignLink) => {
                Err(OpenError::LiveIsSymlink { live })
            }
            (Switch::Symlink, LiveEntry::Directory { .. }) => {
                let tree = slot_names(&self.name).next().unwrap_or_default();
                Err(OpenError::LiveIsDirectory { live, tree: tree.to_string_lossy().into_owned() })
            }
            (Switch::Symlink, LiveEntry::OwnLink { inode: None, .. } | LiveEntry::ForeignLink) => {
                Err(OpenError::LiveForeignLink { live })
            }
            (Switch::Exchange | Switch::Symlink, LiveEntry::Other) => Err(OpenError::LiveNotDirectory { live }),
        }
    }

    fn check_owner(&self, state: &OwnedFd) -> Result<(), OpenError> {
        let stat = rustix::fs::fstat(state).map_err(|error| self.state_error("reading it")(error.into()))?;
        if stat.st_uid == rustix::process::geteuid().as_raw() {
            Ok(())
        } else {
            Err(OpenError::StateOwner { live: self.live.clone(), owner: stat.st_uid })
        }
    }

    fn read_journal(&self, state: &OwnedFd, site: &SiteName) -> Result<Option<Journal>, OpenError> {
        let journal: Option<Journal> = read_sealed(state.as_fd(), JOURNAL)
            .map_err(|source| OpenError::Journal { live: self.live.clone(), source })?;
        match &journal {
            Some(journal) if journal.body.site != *site => Err(OpenError::OtherSite {
                live: self.live.clone(),
                expected: site.clone(),
                found: journal.body.site.clone(),
            }),
            Some(_) | None => Ok(journal),
        }
    }
}

fn make_directory(dir: &OwnedFd, name: &OsStr) -> io::Result<OwnedFd> {
    match rustix::fs::mkdirat(dir, name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let made = open_directory(dir.as_fd(), name)?;
    rustix::fs::fchmod(&made, Mode::RWXU)?;
    Ok(made)
}

/// How often, and how long apart, a lock is asked for. A program that is being started holds what the
/// starting process has open until it runs, for longer on a busy machine: trees that were just closed
/// look held by another process for that moment.
const LOCK_TRIES: u32 = 40;
const LOCK_PAUSE: Duration = Duration::from_millis(5);

/// Whether the lock was to be had.
fn hold(lock: &OwnedFd) -> io::Result<bool> {
    for _ in 1..LOCK_TRIES {
        match rustix::fs::flock(lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(true),
            Err(Errno::WOULDBLOCK | Errno::INTR) => std::thread::sleep(LOCK_PAUSE),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(false)
}

impl SiteTrees {
    /// Opens and locks the trees of a hosted site, and brings to its end what a crash interrupted.
    /// The live directory itself need not be there: whether it may be made is the first publish's
    /// decision. `{server}` in `live_dir` stands for the server's name; `policy` says whether live is a
    /// directory or a link.
    ///
    /// # Errors
    /// [`OpenError`]: above all when `live_dir` is not strictly below one of `roots` once links in the
    /// way there are resolved, or is not what `policy` says.
    pub fn open(
        site: &SiteName,
        server: &ServerName,
        live_dir: &Path,
        roots: &[PathBuf],
        policy: TreePolicy,
    ) -> Result<Self, OpenError> {
        let location = locate(server, live_dir, roots)?;
        location.check_live(policy.switch)?;
        let failed = |doing| location.state_error(doing);
        let state = make_directory(&location.parent, &location.state_name).map_err(failed("making it"))?;
        location.check_owner(&state)?;
        let flags = OFlags::RDWR | OFlags::CREATE;
        let lock = open_beneath(state.as_fd(), OsStr::new("lock"), flags, Mode::RUSR | Mode::WUSR)
            .map_err(failed("opening its lock"))?;
        if !hold(&lock).map_err(failed("locking it"))? {
            return Err(OpenError::Locked { live: location.live });
        }
        let manifests = make_directory(&state, OsStr::new("manifests")).map_err(failed("making its directories"))?;
        let trash = make_directory(&state, OsStr::new("trash")).map_err(failed("making its directories"))?;
        // What was made here need not last before the first journal does, which sees to that itself.
        let journal = location.read_journal(&state, site)?;
        let is_first = journal.is_none();
        let journal = journal.unwrap_or_else(|| Journal { body: Body::new(site.clone()), swap: None });
        // A damaged index is one that knows nothing.
        let index: Index = read_sealed(state.as_fd(), INDEX).ok().flatten().unwrap_or_default();
        // As with the index: then files that were removed stay until the next publish.
        let lingering: Lingering = read_sealed(state.as_fd(), LINGERING).ok().flatten().unwrap_or_default();
        let mut trees = Self {
            site: site.clone(),
            live_path: location.live,
            live_name: location.name,
            policy,
            parent: location.parent,
            state,
            manifests,
            trash,
            _lock: lock,
            journal,
            is_first,
            left_behind: None,
            stragglers_due: false,
            index,
            lingering,
            fault: Box::new(NoFault),
            shares_blocks: None,
            try_out: None,
        };
        match trees.recover() {
            Ok(()) => Ok(trees),
            Err(error) => {
                Err(OpenError::Recovery { live: trees.live_path.clone(), source: io::Error::other(chain(&error)) })
            }
        }
    }

    /// What the journal says about a site, without lock, work or a live directory. `None` if nothing
    /// was ever done there.
    ///
    /// # Errors
    /// [`OpenError`] as for [`Self::open`].
    pub fn read_state(
        site: &SiteName,
        server: &ServerName,
        live_dir: &Path,
        roots: &[PathBuf],
    ) -> Result<Option<SiteState>, OpenError> {
        let location = locate(server, live_dir, roots)?;
        let state = match open_directory(location.parent.as_fd(), &location.state_name) {
            Ok(state) => state,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(location.state_error("opening it")(error)),
        };
        location.check_owner(&state)?;
        let Some(mut journal) = location.read_journal(&state, site)? else { return Ok(None) };
        if let Some(swap) = &journal.swap {
            let live = match location.look()? {
                LiveEntry::Directory { inode } => Some(inode),
                LiveEntry::OwnLink { inode, .. } => inode,
                LiveEntry::Nothing | LiveEntry::ForeignLink | LiveEntry::Other => None,
            };
            if !swap.step.is_done(live) {
                journal.swap = None;
            }
        }
        Ok(Some(journal.state()))
    }

    /// Gives their names to manifests whose names did not last: what is in them did, before any journal named
    /// them.
    fn name_manifests(&self) -> io::Result<()> {
        let swapped = self.journal.swap.as_ref().map(|swap| swap.after.versions());
        for version in self.journal.body.versions().chain(swapped.into_iter().flatten()) {
            let name = version.to_string();
            if stat_at(self.manifests.as_fd(), OsStr::new(&name))?.is_none()
                && stat_at(self.manifests.as_fd(), OsStr::new(&new_name(&name)))?.is_some()
            {
                replace(self.manifests.as_fd(), &name)?;
            }
        }
        Ok(())
    }

    /// Brings an interrupted swap to its end or to nothing, and puts aside what no record names.
    fn recover(&mut self) -> Result<(), ContentError> {
        self.name_manifests().map_err(ContentError::io("naming", "manifests"))?;
        if let Some(swap) = &self.journal.swap {
            if swap.step.is_done(self.live_inode()?) {
                // The crash may have come before this was durable.
                rustix::fs::fsync(&self.parent)
                    .map_err(|error| ContentError::io("making durable", self.live_path.display())(error.into()))?;
                self.finish_swap()?;
            } else {
                let mut swap = swap.clone();
                self.settle(&mut swap, true)?;
                self.write_body(self.journal.body.clone())?;
            }
        }
        for name in PASSING_NAMES {
            match rustix::fs::unlinkat(&self.state, name, rustix::fs::AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(ContentError::io("removing", name)(error.into())),
            }
        }
        let mut body = self.body().clone();
        if let Some(record) = &body.backup {
            // Of the last swap the journal may last, and not that the tree got its name.
            self.take_for_backup(record.inode)?;
        }
        let backup = self.inode(Place::Backup)?;
        if body.backup.as_ref().is_some_and(|record| Some(record.inode) != backup) {
            tracing::warn!(site = %self.site, "the backup tree is not the one that was kept");
            body.backup = None;
        }
        if let Some(prepared) = &body.prepared {
            let present = match prepared.place {
                Place::Temp => self.inode(Place::Temp)?,
                Place::Backup => backup,
                Place::Live => Some(prepared.inode),
            };
            if present != Some(prepared.inode) {
                tracing::warn!(site = %self.site, number = %prepared.number, "the prepared tree is gone");
                body.forget_prepared();
            }
        }
        if body != *self.body() {
            self.write_body(body)?;
        }
        self.tidy()
    }
}

impl Move {
    /// Whether live was switched, by the inode that is there.
    pub(super) fn is_done(self, live: Option<u64>) -> bool {
        match self {
            Self::Exchange { incoming, .. } | Self::Appear { incoming } => live == Some(incoming),
            Self::Vanish { outgoing } => live != Some(outgoing),
        }
    }
}
