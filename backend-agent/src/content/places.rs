//! Where the trees of a site stand, and how live becomes another of them.
//!
//! **Exchange**, the usual way: live is a directory. The tree being staged is `temp` and the one that was
//! live before is `backup`, both in the state directory, and one rename exchanges live with either.
//!
//! **Symlink**, where a file system cannot exchange (NFS, some FUSE file systems, directories from a lower
//! layer of an overlay): live is a symbolic link to one of the trees `.example.pressrun.1` to `.3` beside
//! it, and one rename puts a new link in its place. No tree is ever moved while a record names it, so a
//! program that resolved the link before a switch finds the whole tree under the same name after it.
//! Two of the names are taken, by live and by the backup, the third while something is staged. Which tree
//! is which is told by what the link says and by the inodes in the journal.
//!
//! Which of the two it is is the administrator's decision in the agent's configuration. Neither is ever
//! tried in place of the other: what is configured does not work, or the trees are not such, is an error.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use rustix::fs::{AtFlags, Mode, RenameFlags};
use rustix::io::Errno;
use serde::Deserialize;

use super::errors::ContentError;
use super::fault::Point;
use super::journal::{Move, Place};
use super::open::state_name;
use super::trees::{Tree, is_directory, leads_nowhere, remove, stat_at};
use super::{SiteTrees, check};

/// Tree being staged, or staged and waiting, when live is exchanged.
pub(super) const TEMP: &str = "temp";
/// Tree that was live before, when live is exchanged.
pub(super) const BACKUP: &str = "backup";
/// Name, in the state directory, of a link on its way to live's place.
pub(super) const NEW_LINK: &str = "live.new";

/// How live is switched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Switch {
    /// Live is a directory and changes places with another one, by one rename. The default: web servers
    /// need not follow links, and nothing beside live is visible.
    #[default]
    Exchange,
    /// Live is a symbolic link to one of the trees beside it. For file systems that cannot exchange.
    Symlink,
}

/// How many names there are for trees that a link can point to: live, backup, and one being staged.
const SLOTS: u8 = 3;

/// The names of the trees beside a live directory that is a link.
pub(super) fn slot_names(live: &OsStr) -> impl Iterator<Item = OsString> + use<> {
    let state = state_name(live);
    (1..=SLOTS).map(move |number| {
        let mut name = state.clone();
        name.push(format!(".{number}"));
        name
    })
}

/// What stands at live's name, as far as it can be one of ours.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum LiveEntry {
    Nothing,
    Directory {
        inode: u64,
    },
    /// A link to one of the names for trees. The inode of that tree, if it is there.
    OwnLink {
        name: OsString,
        inode: Option<u64>,
    },
    /// A link to somewhere else.
    ForeignLink,
    Other,
}

/// Looks at live's name.
pub(super) fn look(parent: BorrowedFd<'_>, live: &OsStr) -> io::Result<LiveEntry> {
    let Some(stat) = stat_at(parent, live)? else { return Ok(LiveEntry::Nothing) };
    if is_directory(&stat) {
        return Ok(LiveEntry::Directory { inode: stat.st_ino });
    }
    let target = match rustix::fs::readlinkat(parent, live, Vec::new()) {
        Ok(target) => target,
        Err(Errno::INVAL) => return Ok(LiveEntry::Other),
        Err(error) => return Err(error.into()),
    };
    let target = OsStr::from_bytes(target.to_bytes());
    let Some(name) = slot_names(live).find(|name| name == target) else { return Ok(LiveEntry::ForeignLink) };
    let tree = stat_at(parent, &name)?.filter(is_directory);
    Ok(LiveEntry::OwnLink { name, inode: tree.map(|stat| stat.st_ino) })
}

/// A tree's place: a directory and a name in it.
struct Spot<'a> {
    dir: BorrowedFd<'a>,
    name: OsString,
}

impl SiteTrees {
    fn live_entry(&self) -> Result<LiveEntry, ContentError> {
        look(self.parent.as_fd(), &self.live_name).map_err(ContentError::io("reading", self.live_path.display()))
    }

    /// The name of live's tree in the directory around it; `None` if there is no live tree.
    fn live_tree_name(&self) -> Result<Option<OsString>, ContentError> {
        let altered = |what| check::altered(&self.live_path.display(), what);
        match (self.policy.switch, self.live_entry()?) {
            (_, LiveEntry::Nothing) => Ok(None),
            // What is no directory is told by opening it.
            (Switch::Exchange, _) => Ok(Some(self.live_name.clone())),
            (Switch::Symlink, LiveEntry::OwnLink { name, .. }) => Ok(Some(name)),
            (Switch::Symlink, LiveEntry::Directory { .. } | LiveEntry::ForeignLink | LiveEntry::Other) => {
                Err(altered("it is no link to one of its trees"))
            }
        }
    }

    /// The live tree, `None` if there is no live directory.
    pub(super) fn open_live(&self) -> Result<Option<Tree>, ContentError> {
        let Some(name) = self.live_tree_name()? else { return Ok(None) };
        match Tree::open(self.parent.as_fd(), &name) {
            Ok(tree) => Ok(Some(tree)),
            Err(error) if error.kind() == io::ErrorKind::CrossesDevices => Err(ContentError::LiveIsMountPoint),
            // Gone since, unless it is a link to nothing, which is not what was left there.
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.policy.switch == Switch::Exchange => Ok(None),
            Err(error) if leads_nowhere(&error) => Err(check::altered(&self.live_path.display(), "it is no directory")),
            Err(error) => Err(ContentError::io("opening", self.live_path.display())(error)),
        }
    }

    /// The inode of the live tree's root.
    pub(super) fn live_inode(&self) -> Result<Option<u64>, ContentError> {
        Ok(match self.live_entry()? {
            LiveEntry::Directory { inode } if self.policy.switch == Switch::Exchange => Some(inode),
            LiveEntry::OwnLink { inode, .. } if self.policy.switch == Switch::Symlink => inode,
            LiveEntry::Nothing => None,
            LiveEntry::Directory { .. } | LiveEntry::OwnLink { .. } | LiveEntry::ForeignLink | LiveEntry::Other => {
                return Err(check::altered(&self.live_path.display(), "somebody else put it there"));
            }
        })
    }

    /// The trees that links can point to, other than live: names and inodes.
    fn slots(&self) -> Result<Vec<(OsString, u64)>, ContentError> {
        let live = self.live_tree_name()?;
        let mut found = Vec::new();
        for name in slot_names(&self.live_name).filter(|name| Some(name) != live.as_ref()) {
            let stat = stat_at(self.parent.as_fd(), &name).map_err(ContentError::io("reading", name.display()))?;
            if let Some(stat) = stat.filter(is_directory) {
                found.push((name, stat.st_ino));
            }
        }
        Ok(found)
    }

    /// Where a tree that is not live stands. With links, one that nobody staged yet is nowhere.
    fn spot(&self, place: Place) -> Result<Option<Spot<'_>>, ContentError> {
        let in_state = |name: &str| Some(Spot { dir: self.state.as_fd(), name: name.into() });
        match (self.policy.switch, place) {
            (Switch::Exchange, Place::Temp) => Ok(in_state(TEMP)),
            (Switch::Exchange, Place::Backup) => Ok(in_state(BACKUP)),
            (Switch::Symlink, Place::Temp | Place::Backup) => {
                let backup = self.body().backup.as_ref().map(|backup| backup.inode);
                let is_backup = |inode: u64| backup == Some(inode);
                let mut slots = self.slots()?.into_iter();
                let found = slots.find(|(_, inode)| is_backup(*inode) == (place == Place::Backup));
                Ok(found.map(|(name, _)| Spot { dir: self.parent.as_fd(), name }))
            }
            (_, Place::Live) => Ok(self.live_tree_name()?.map(|name| Spot { dir: self.parent.as_fd(), name })),
        }
    }

    pub(super) fn open_place(&self, place: Place) -> Result<Option<Tree>, ContentError> {
        if place == Place::Live {
            return self.open_live();
        }
        let Some(spot) = self.spot(place)? else { return Ok(None) };
        Tree::find(spot.dir, &spot.name).map_err(ContentError::io("opening", spot.name.display()))
    }

    /// The inode of a tree's root, `None` if there is no such tree.
    pub(super) fn inode(&self, place: Place) -> Result<Option<u64>, ContentError> {
        if place == Place::Live {
            return self.live_inode();
        }
        let Some(spot) = self.spot(place)? else { return Ok(None) };
        let stat = stat_at(spot.dir, &spot.name).map_err(ContentError::io("reading", spot.name.display()))?;
        Ok(stat.map(|stat| stat.st_ino))
    }

    /// A tree that is not live, by the inode of its root.
    pub(super) fn find_tree(&self, inode: u64) -> Result<Option<Tree>, ContentError> {
        for (dir, name) in self.standing()? {
            let stat = stat_at(dir, &name).map_err(ContentError::io("reading", name.display()))?;
            if stat.is_some_and(|stat| stat.st_ino == inode) {
                return Tree::find(dir, &name).map_err(ContentError::io("opening", name.display()));
            }
        }
        Ok(None)
    }

    /// All places where trees that are not live may stand.
    fn standing(&self) -> Result<Vec<(BorrowedFd<'_>, OsString)>, ContentError> {
        Ok(match self.policy.switch {
            Switch::Exchange => [BACKUP, TEMP].map(|name| (self.state.as_fd(), name.into())).into(),
            Switch::Symlink => self.slots()?.into_iter().map(|(name, _)| (self.parent.as_fd(), name)).collect(),
        })
    }

    /// Makes the root of a tree to be staged, where none is.
    pub(super) fn make_temp(&self) -> Result<Tree, ContentError> {
        let spot = match self.policy.switch {
            Switch::Exchange => Spot { dir: self.state.as_fd(), name: TEMP.into() },
            Switch::Symlink => {
                let mut free = None;
                for name in slot_names(&self.live_name) {
                    let stat = stat_at(self.parent.as_fd(), &name);
                    if stat.map_err(ContentError::io("making", name.display()))?.is_none() {
                        free = Some(name);
                        break;
                    }
                }
                let name = free.ok_or_else(|| {
                    let taken = io::Error::new(io::ErrorKind::AlreadyExists, "its three names are taken");
                    ContentError::io("making", "a tree beside live")(taken)
                })?;
                Spot { dir: self.parent.as_fd(), name }
            }
        };
        rustix::fs::mkdirat(spot.dir, &spot.name, Mode::RWXU)
            .map_err(|error| ContentError::io("making", spot.name.display())(error.into()))?;
        Tree::open(spot.dir, &spot.name).map_err(ContentError::io("opening", spot.name.display()))
    }

    /// Where a tree is, for programs of the administrator's. `None` if there is no such tree.
    pub(super) fn place_path(&self, place: Place) -> Result<Option<PathBuf>, ContentError> {
        let Some(spot) = self.spot(place)? else { return Ok(None) };
        Ok(Some(match self.policy.switch {
            Switch::Exchange if place != Place::Live => {
                self.live_path.with_file_name(state_name(&self.live_name)).join(spot.name)
            }
            Switch::Exchange | Switch::Symlink => self.live_path.with_file_name(spot.name),
        }))
    }

    /// Puts a tree where it is removed when there is time.
    pub(super) fn discard(&mut self, place: Place) -> Result<(), ContentError> {
        let Some(inode) = self.inode(place)? else { return Ok(()) };
        let Some(Spot { name, .. }) = self.spot(place)? else { return Ok(()) };
        self.put_aside(self.policy.switch == Switch::Exchange, &name, inode)
    }

    /// After a failure: nothing of what was staged stays. What cannot be removed is found by no record and
    /// put aside when the trees are used next.
    pub(super) fn remove_staged(&mut self) {
        if let Err(error) = self.try_remove_staged() {
            let error = common::errors::chain(&error);
            tracing::warn!(site = %self.site, error, "what was staged cannot be removed yet");
        }
    }

    fn try_remove_staged(&mut self) -> Result<(), ContentError> {
        let Some(Spot { name, .. }) = self.spot(Place::Temp)? else { return Ok(()) };
        let dir = match self.policy.switch {
            Switch::Exchange => self.state.as_fd(),
            Switch::Symlink => self.parent.as_fd(),
        };
        remove(dir, &name, &mut self.index).map_err(ContentError::io("removing", name.display()))
    }

    /// Puts aside trees that no record names.
    pub(super) fn tidy(&mut self) -> Result<(), ContentError> {
        let body = self.body();
        let uses_temp = body.prepared.as_ref().is_some_and(|prepared| prepared.place == Place::Temp);
        let uses_backup = body.backup.is_some();
        match self.policy.switch {
            Switch::Exchange => {
                if !uses_temp {
                    self.discard(Place::Temp)?;
                }
                if !uses_backup {
                    self.discard(Place::Backup)?;
                }
            }
            Switch::Symlink => {
                let prepared = body.prepared.as_ref().filter(|_| uses_temp).map(|prepared| prepared.inode);
                let needed = [prepared, body.backup.as_ref().map(|backup| backup.inode)];
                for (name, inode) in self.slots()? {
                    if !needed.contains(&Some(inode)) {
                        self.put_aside(false, &name, inode)?;
                    }
                }
                // From when live was exchanged.
                for name in [TEMP, BACKUP].map(OsStr::new) {
                    let stat =
                        stat_at(self.state.as_fd(), name).map_err(ContentError::io("reading", name.display()))?;
                    if let Some(stat) = stat {
                        self.put_aside(true, name, stat.st_ino)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Moves a tree to where it is removed when there is time.
    fn put_aside(&mut self, in_state: bool, name: &OsStr, inode: u64) -> Result<(), ContentError> {
        self.fault.at(Point::Discard).map_err(ContentError::io("discarding", name.display()))?;
        let dir = if in_state { &self.state } else { &self.parent };
        rustix::fs::renameat(dir, name, &self.trash, inode.to_string())
            .map_err(|error| ContentError::io("discarding", name.display())(error.into()))
    }

    /// Once live was switched: the tree that was live becomes the backup, in the place of the one that was.
    /// With links that is a matter of the journal alone. Can be repeated.
    pub(super) fn keep_backup(&mut self, step: Move) -> Result<(), ContentError> {
        match (self.policy.switch, step) {
            (Switch::Exchange, Move::Exchange { place: Place::Temp, outgoing, .. }) => self.take_for_backup(outgoing),
            (Switch::Exchange, Move::Appear { .. }) => self.discard(Place::Backup),
            (_, Move::Exchange { .. } | Move::Appear { .. } | Move::Vanish { .. }) => Ok(()),
        }
    }

    /// Makes the tree of this inode the backup if it stands in temp.
    pub(super) fn take_for_backup(&mut self, inode: u64) -> Result<(), ContentError> {
        if self.inode(Place::Temp)? != Some(inode) {
            return Ok(());
        }
        self.discard(Place::Backup)?;
        self.fault.at(Point::KeepBackup).map_err(ContentError::io("keeping", "the backup"))?;
        rustix::fs::renameat(&self.state, TEMP, &self.state, BACKUP)
            .map_err(|error| ContentError::io("keeping", "the backup")(error.into()))
    }

    /// Switches live: one change of a directory entry.
    pub(super) fn switch(&self, step: Move) -> io::Result<()> {
        let live = self.live_name.as_os_str();
        match (self.policy.switch, step) {
            (Switch::Exchange, Move::Exchange { place, .. }) => {
                let name = if place == Place::Temp { TEMP } else { BACKUP };
                Ok(rustix::fs::renameat_with(&self.parent, live, &self.state, name, RenameFlags::EXCHANGE)?)
            }
            (Switch::Exchange, Move::Appear { .. }) => {
                Ok(rustix::fs::renameat_with(&self.state, TEMP, &self.parent, live, RenameFlags::NOREPLACE)?)
            }
            (Switch::Exchange, Move::Vanish { outgoing }) => {
                let name = outgoing.to_string();
                Ok(rustix::fs::renameat_with(&self.parent, live, &self.trash, name, RenameFlags::NOREPLACE)?)
            }
            (Switch::Symlink, Move::Exchange { incoming, .. }) => self.point_live_at(incoming),
            (Switch::Symlink, Move::Appear { incoming }) => self.make_link(incoming),
            (Switch::Symlink, Move::Vanish { .. }) => Ok(rustix::fs::unlinkat(&self.parent, live, AtFlags::empty())?),
        }
    }

    /// Takes a switch back.
    pub(super) fn switch_back(&self, step: Move) -> io::Result<()> {
        let live = self.live_name.as_os_str();
        match (self.policy.switch, step) {
            (Switch::Exchange, Move::Exchange { .. }) => self.switch(step),
            (Switch::Exchange, Move::Appear { .. }) => {
                Ok(rustix::fs::renameat_with(&self.parent, live, &self.state, TEMP, RenameFlags::NOREPLACE)?)
            }
            (Switch::Exchange, Move::Vanish { outgoing }) => {
                let name = outgoing.to_string();
                Ok(rustix::fs::renameat_with(&self.trash, name, &self.parent, live, RenameFlags::NOREPLACE)?)
            }
            (Switch::Symlink, Move::Exchange { outgoing, .. }) => self.point_live_at(outgoing),
            (Switch::Symlink, Move::Appear { .. }) => Ok(rustix::fs::unlinkat(&self.parent, live, AtFlags::empty())?),
            (Switch::Symlink, Move::Vanish { outgoing }) => self.make_link(outgoing),
        }
    }

    /// The name of the tree that has this inode.
    fn slot_of(&self, inode: u64) -> io::Result<OsString> {
        for name in slot_names(&self.live_name) {
            if stat_at(self.parent.as_fd(), &name)?.is_some_and(|stat| is_directory(&stat) && stat.st_ino == inode) {
                return Ok(name);
            }
        }
        Err(io::Error::new(io::ErrorKind::NotFound, "the tree is not there"))
    }

    /// Puts a new link in the place of the one that is live.
    fn point_live_at(&self, inode: u64) -> io::Result<()> {
        let target = self.slot_of(inode)?;
        match rustix::fs::unlinkat(&self.state, NEW_LINK, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        rustix::fs::symlinkat(&target, &self.state, NEW_LINK)?;
        Ok(rustix::fs::renameat(&self.state, NEW_LINK, &self.parent, &self.live_name)?)
    }

    /// Makes the link where there is none.
    fn make_link(&self, inode: u64) -> io::Result<()> {
        Ok(rustix::fs::symlinkat(self.slot_of(inode)?, &self.parent, &self.live_name)?)
    }
}
