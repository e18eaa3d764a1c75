//! What a tree holds besides what was published, and that is neither excluded: what somebody put there by
//! hand, and files that a publish removed and that can still be reached for a while.
//!
//! Both come along to the next tree in the way of excluded paths ([`super::excluded`]): to the patterns of
//! the site each adds one that matches just it, and these go through journal, swap and recovery with
//! the others. So nothing else has to know of them.
//!
//! **Files that nobody published** are looked for when something is prepared, and the site's policy
//! ([`Extra`]) says what becomes of them.
//!
//! **Files that linger.** A page that a visitor has open asks for assets that the next version does not
//! have. With a window such files stay in the new tree, as the same inodes, until it is over:
//!
//! 1. Preparing writes the removed paths into the file `lingering`, then excludes them. Nothing says yet
//!    that the new tree will be live.
//! 2. When it is, and the thread is idle, the end of the window is written beside each path ([`SiteTrees::sweep`]).
//! 3. When that has come, the file is taken out of live, then its pattern out of the journal, then its path
//!    out of `lingering`. Each step can be repeated, so a crash between two of them costs nothing.
//!
//! A path counts as lingering only while the live version does not have it and the journal's patterns do.
//! So a file that is published again, or comes back by an undo, is never taken away; its path is forgotten.
//! A path that is forgotten is taken out of the backup too, which is then again exactly the version that
//! it was, for a rollback.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::fd::AsFd as _;
use std::time::Duration;

use common::assignment::{Extra, Header};
use common::exclude::{Exclude, PATTERNS_MAX, TREE_PATTERNS_MAX, pattern_of};
use common::manifest::{Entry, Manifest};
use common::path::ContentPath;
use common::time::WallTime;
use rustix::fs::{AtFlags, FileType};
use serde::{Deserialize, Serialize};

use super::SiteTrees;
use super::errors::ContentError;
use super::excluded::Rule;
use super::fault::Point;
use super::journal::{Place, write_sealed};
use super::local::child;
use super::trees::{Tree, is_directory, list, remove};

/// Name, in the state directory, of the list of what lingers.
pub(super) const LINGERING: &str = "lingering";
/// Most paths that are left alone besides those that the site excludes.
const LEFT_MAX: usize = TREE_PATTERNS_MAX - PATTERNS_MAX;

/// Until when something can still be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Term {
    seconds: u32,
    /// `None` as long as the tree that it lingers in was not seen to be live.
    until: Option<WallTime>,
}

/// What lingers, by path.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Lingering {
    paths: BTreeMap<ContentPath, Term>,
}

impl SiteTrees {
    /// The header with the patterns of what comes along besides what the site excludes, when `result`
    /// follows what is live. `backup` is the tree that comes, if it is one that was live before.
    pub(super) fn with_left_alone(
        &mut self,
        header: &Header,
        live: Option<&Tree>,
        backup: Option<(&Tree, &Manifest)>,
        result: &Manifest,
    ) -> Result<Header, ContentError> {
        let mut header = header.clone();
        let is_plain = header.extra == Extra::Remove && header.linger_seconds == 0 && self.lingering.paths.is_empty();
        let Some(live) = live.filter(|_| !is_plain) else { return Ok(header) };
        let version = self.body().live.version;
        let old = match version {
            Some(version) => self.manifest(version)?,
            None => Manifest::default(),
        };
        let plain = Exclude::new(&header.live.exclude)?;
        let mut patterns = BTreeSet::new();
        match header.extra {
            Extra::Remove => {}
            Extra::Keep => {
                for (tree, manifest) in [Some((live, &old)), backup].into_iter().flatten() {
                    let extras = self.extras(tree, manifest, &plain)?;
                    patterns.extend(extras.iter().map(pattern_of));
                }
            }
            // Whether a directory that nobody published is taken over has been asked for and answered.
            Extra::Fail if version.is_none() => {}
            Extra::Fail => {
                if let Some(first) = self.extras(live, &old, &plain)?.into_iter().next() {
                    return Err(ContentError::Extra { path: first.to_string() });
                }
            }
        }
        patterns.extend(self.note_lingering(header.linger_seconds, &old, result)?);
        if patterns.len() > LEFT_MAX {
            return Err(ContentError::TooMuchExtra { count: patterns.len(), max: LEFT_MAX });
        }
        header.live.exclude.extend(patterns);
        Ok(header)
    }

    /// What a tree holds that neither its manifest has nor the patterns exclude, nor lingers there; of a
    /// directory only itself.
    fn extras(&self, tree: &Tree, manifest: &Manifest, plain: &Exclude) -> Result<Vec<ContentPath>, ContentError> {
        let rule = Rule { exclude: plain, manifest };
        let mut found = Vec::new();
        self.extras_below(tree, &rule, None, &mut found)?;
        Ok(found)
    }

    /// Returns whether there is something here that is not excluded.
    fn extras_below(
        &self,
        tree: &Tree,
        rule: &Rule<'_>,
        at: Option<&ContentPath>,
        found: &mut Vec<ContentPath>,
    ) -> Result<bool, ContentError> {
        let here = at.map_or_else(|| "the tree's root".to_owned(), ToString::to_string);
        let directory = tree.directory(at).map_err(ContentError::io("opening", &here))?;
        let (mut excluded, mut own) = (false, false);
        for (name, kind) in list(directory.as_fd()).map_err(ContentError::io("listing", &here))? {
            let Some(path) = child(at, &name) else {
                return Err(ContentError::ExtraName { name: name.to_string_lossy().into_owned(), at: here });
            };
            let is_directory = kind == FileType::Directory;
            if rule.excludes(&path, is_directory) || self.lingering.paths.contains_key(&path) {
                excluded = true;
                continue;
            }
            let is_published = rule.manifest.entries.contains_key(&path);
            if is_published {
                own = true;
                if is_directory {
                    self.extras_below(tree, rule, Some(&path), found)?;
                }
                continue;
            }
            let mut inside = Vec::new();
            if is_directory && !self.extras_below(tree, rule, Some(&path), &mut inside)? {
                excluded = true;
                continue;
            }
            own = true;
            found.push(path);
        }
        // An empty directory is somebody's, too.
        Ok(own || !excluded)
    }

    /// Notes what `result` removes, and gives the patterns of all that lingers beside it.
    fn note_lingering(&mut self, seconds: u32, old: &Manifest, result: &Manifest) -> Result<Vec<String>, ContentError> {
        let mut next = self.lingering.clone();
        if seconds > 0 {
            let removed = old.entries.iter().filter(|(path, entry)| {
                !matches!(entry, Entry::Directory { .. }) && !result.entries.contains_key(*path)
            });
            for (path, _) in removed {
                if next.paths.len() >= LEFT_MAX && !next.paths.contains_key(path) {
                    tracing::warn!(site = %self.site, max = LEFT_MAX, "more is removed than can linger; the rest goes at once");
                    break;
                }
                next.paths.insert(path.clone(), Term { seconds, until: None });
            }
        }
        if next != self.lingering {
            self.write_lingering(next)?;
        }
        let lingers = |path: &&ContentPath| !result.entries.contains_key(*path) && has_place(result, path);
        Ok(self.lingering.paths.keys().filter(lingers).map(pattern_of).collect())
    }

    fn write_lingering(&mut self, next: Lingering) -> Result<(), ContentError> {
        self.fault.at(Point::WriteJournal).map_err(ContentError::io("writing", LINGERING))?;
        write_sealed(self.state.as_fd(), LINGERING, &next, true).map_err(ContentError::io("writing", LINGERING))?;
        self.lingering = next;
        Ok(())
    }

    /// When there is something to do for [`Self::sweep`]; `None` when nothing lingers.
    #[must_use]
    pub fn sweep_due(&self) -> Option<WallTime> {
        self.lingering.paths.values().map(|term| term.until.unwrap_or(WallTime(0))).min()
    }

    /// Begins the windows of what lingers in live, and takes away what has lingered for long enough.
    pub(super) fn sweep(&mut self, now: WallTime) -> Result<(), ContentError> {
        if self.lingering.paths.is_empty() || self.journal.swap.is_some() {
            return Ok(());
        }
        let live = self.body().live.clone();
        let manifest = match live.version {
            Some(version) => self.manifest(version)?,
            None => Manifest::default(),
        };
        let patterns: BTreeSet<&str> = live.exclude.iter().map(String::as_str).collect();
        let mut next = self.lingering.clone();
        let (mut over, mut forgotten) = (BTreeSet::new(), BTreeSet::new());
        for (path, term) in &mut next.paths {
            if !manifest.entries.contains_key(path) && patterns.contains(pattern_of(path).as_str()) {
                let until = *term.until.get_or_insert_with(|| now.after(Duration::from_secs(term.seconds.into())));
                if until <= now {
                    over.insert(path.clone());
                }
            } else if self.body().prepared.is_none() {
                // Published again, or what removed it was undone.
                forgotten.insert(path.clone());
            }
        }
        if !over.is_empty() || !forgotten.is_empty() {
            self.take_away(Place::Live, &manifest, &over)?;
            if let Some(version) = self.body().backup.as_ref().and_then(|backup| backup.version) {
                let kept = self.manifest(version)?;
                self.take_away(Place::Backup, &kept, &over)?;
                self.take_away(Place::Backup, &kept, &forgotten)?;
            }
            rustix::fs::syncfs(&self.state)
                .map_err(|error| ContentError::io("making durable", "what was taken away")(error.into()))?;
            next.paths.retain(|path, _| !over.contains(path) && !forgotten.contains(path));
        }
        if !over.is_empty() {
            let gone: BTreeSet<String> = over.iter().map(pattern_of).collect();
            let mut body = self.body().clone();
            body.live.exclude.retain(|pattern| !gone.contains(pattern));
            self.write_body(body)?;
            tracing::info!(site = %self.site, files = over.len(), "files that were removed have lingered for long enough");
        }
        if next != self.lingering {
            self.write_lingering(next)?;
        }
        Ok(())
    }

    /// Takes files that its manifest does not have out of a tree, and directories that are empty then.
    fn take_away(
        &mut self,
        place: Place,
        manifest: &Manifest,
        paths: &BTreeSet<ContentPath>,
    ) -> Result<(), ContentError> {
        let Some(tree) = self.open_place(place)? else { return Ok(()) };
        for path in paths.iter().filter(|path| !manifest.entries.contains_key(*path)) {
            let failed = || ContentError::io("taking away", path);
            let Some(stat) = tree.stat(path).map_err(failed())? else { continue };
            if is_directory(&stat) {
                // Not what lingered: somebody put it there.
                continue;
            }
            self.fault.at(Point::Discard).map_err(failed())?;
            let parent = tree.parent(path).map_err(failed())?;
            remove(parent.as_fd(), OsStr::new(path.file_name()), &mut self.index).map_err(failed())?;
            let mut above = path.parent();
            while let Some(directory) = above.filter(|directory| !manifest.entries.contains_key(directory)) {
                let Ok(parent) = tree.parent(&directory) else { break };
                // One that somebody else uses is not empty.
                if rustix::fs::unlinkat(&*parent, directory.file_name(), AtFlags::REMOVEDIR).is_err() {
                    break;
                }
                above = directory.parent();
            }
        }
        Ok(())
    }
}

/// Whether something can stand at the path beside the tree: nothing above it is anything but a directory.
fn has_place(result: &Manifest, path: &ContentPath) -> bool {
    let mut above = path.parent();
    while let Some(directory) = above {
        match result.entries.get(&directory) {
            Some(Entry::File { .. } | Entry::Symlink { .. }) => return false,
            Some(Entry::Directory { .. }) => return true,
            None => above = directory.parent(),
        }
    }
    true
}
