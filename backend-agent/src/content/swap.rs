//! Switching live: commit, undo, and bringing a swap to its end.
//!
//! A swap is written to the journal with the state that it leads to, then live is switched by one
//! rename, then that is made durable. From there on it has happened, whatever fails: the rest (moving
//! excluded entries and the tree that went to their places, writing the new state) is repeated until
//! it succeeds, here, at the next assignment, or when the trees are opened again. Whether live was
//! switched is told by the inode of its root.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::AsFd as _;

use common::assignment::Header;
use common::digest::Version;
use common::errors::chain;
use common::exclude::Exclude;
use common::ids::AssignmentNumber;
use common::manifest::Manifest;
use common::outcome::Outcome;
use common::time::WallTime;

use super::SiteTrees;
use super::errors::ContentError;
use super::excluded::{Originals, Rule, find, mirror, settle};
use super::fault::Point;
use super::journal::{Backup, Before, Body, Journal, Lasts, Live, Move, Place, Prepared, Swap};

impl SiteTrees {
    pub(super) fn commit(
        &mut self,
        header: &Header,
        prepared: AssignmentNumber,
        now: WallTime,
    ) -> Result<Outcome, ContentError> {
        if self.body().undone.contains(&prepared) {
            return Err(ContentError::WasUndone { prepared });
        }
        if let Live { version: Some(version), from: Some(from), .. } = self.body().live
            && from == prepared
        {
            return self.record(header, Outcome::Committed { version });
        }
        self.check_sequence(header)?;
        if now > header.expires {
            return Err(ContentError::CommitTooLate { deadline: header.expires, now });
        }
        let is_prepared = self.body().prepared.as_ref().is_some_and(|staged| staged.number == prepared);
        if !is_prepared && self.body().live.version == Some(header.result) {
            return self.record(header, Outcome::Committed { version: header.result });
        }
        self.bring_prepared_live(prepared, Some(header.result), |after, outcome| {
            after.remember(header.number, header.sequence, outcome);
        })
    }

    /// Makes what an assignment prepared live; `expected` is the version that it must be, `note` adds to
    /// the state that this leads to.
    pub(super) fn bring_prepared_live(
        &mut self,
        prepared: AssignmentNumber,
        expected: Option<Version>,
        note: impl FnOnce(&mut Body, &Outcome),
    ) -> Result<Outcome, ContentError> {
        let staged = self.body().prepared.clone().filter(|staged| staged.number == prepared);
        let Some(staged) = staged else { return Err(ContentError::NotPrepared { prepared }) };
        if let Some(expected) = expected.filter(|expected| *expected != staged.version) {
            return Err(ContentError::OtherVersion { prepared, staged: staged.version, expected });
        }
        let outcome = Outcome::Committed { version: staged.version };
        let mut after = self.body().clone();
        after.prepared = None;
        if staged.place != Place::Live {
            // Where nothing changes there is nothing to take back.
            after.note_committed(prepared);
        }
        note(&mut after, &outcome);
        let present = match staged.place {
            Place::Temp | Place::Backup => self.inode(staged.place)?,
            Place::Live => {
                self.write_body(after)?;
                return Ok(outcome);
            }
        };
        if present != Some(staged.inode) {
            return Err(ContentError::NotPrepared { prepared });
        }
        let step = self.bring_live(&staged, &mut after)?;
        self.swap(step, Some(staged.version), staged.exclude, after)?;
        Ok(outcome)
    }

    /// How a prepared tree comes live, and the state that this leads to.
    fn bring_live(&self, staged: &Prepared, after: &mut Body) -> Result<Move, ContentError> {
        let outgoing = self.live_inode()?;
        let before = if outgoing.is_some() { Before::Backup } else { Before::Absent };
        after.backup = outgoing.map(|inode| Backup { version: after.live.version, inode });
        after.live =
            Live { version: Some(staged.version), from: Some(staged.number), before, exclude: staged.exclude.clone() };
        match (outgoing, staged.place) {
            (Some(outgoing), place) => Ok(Move::Exchange { place, incoming: staged.inode, outgoing }),
            (None, Place::Temp) => Ok(Move::Appear { incoming: staged.inode }),
            (None, Place::Backup | Place::Live) => Err(self.live_missing()),
        }
    }

    pub(super) fn undo(
        &mut self,
        header: &Header,
        prepared: AssignmentNumber,
        now: WallTime,
    ) -> Result<Outcome, ContentError> {
        let live = self.body().live.clone();
        let current = Outcome::Undone { version: live.version };
        if self.body().undone.contains(&prepared) {
            return self.record(header, current);
        }
        self.check_order(header, now)?;
        let mut after = self.body().clone();
        after.note_undone(prepared);
        if after.prepared.as_ref().is_some_and(|staged| staged.number == prepared) {
            after.forget_prepared();
            after.remember(header.number, header.sequence, &current);
            self.write_body(after)?;
            if let Err(error) = self.tidy() {
                tracing::warn!(site = %self.site, error = chain(&error), "an undone tree stays for now");
            }
            return Ok(current);
        }
        if live.from != Some(prepared) {
            if after.committed.contains(&prepared) {
                return Err(ContentError::BeforeMissing { prepared });
            }
            // Never heard of: remembered, so that it is not committed when it comes late.
            after.remember(header.number, header.sequence, &current);
            self.write_body(after)?;
            return Ok(current);
        }
        self.take_back(header, prepared, &live, after)
    }

    /// Undoes the commit that brought the present tree.
    fn take_back(
        &mut self,
        header: &Header,
        prepared: AssignmentNumber,
        live: &Live,
        mut after: Body,
    ) -> Result<Outcome, ContentError> {
        let Some(outgoing) = self.live_inode()? else { return Err(self.live_missing()) };
        let (step, version) = match (live.before, after.backup.take()) {
            (Before::Absent, _) => match self.empty_for_excluded(live)? {
                Some(incoming) => {
                    after.backup = Some(Backup { version: live.version, inode: outgoing });
                    (Move::Exchange { place: Place::Temp, incoming, outgoing }, None)
                }
                None => (Move::Vanish { outgoing }, None),
            },
            (Before::Backup, Some(backup)) if self.inode(Place::Backup)? == Some(backup.inode) => {
                after.backup = Some(Backup { version: live.version, inode: outgoing });
                (Move::Exchange { place: Place::Backup, incoming: backup.inode, outgoing }, backup.version)
            }
            (Before::Unknown | Before::Backup, _) => return Err(ContentError::BeforeMissing { prepared }),
        };
        let outcome = Outcome::Undone { version };
        after.take_back(prepared);
        after.live = Live { version, from: None, before: Before::Unknown, exclude: live.exclude.clone() };
        after.remember(header.number, header.sequence, &outcome);
        self.swap(step, version, live.exclude.clone(), after)?;
        Ok(outcome)
    }

    /// Where nothing was before and excluded entries are by now, these must stay: an empty tree comes
    /// live that will hold them. Returns its inode.
    fn empty_for_excluded(&mut self, live: &Live) -> Result<Option<u64>, ContentError> {
        let (manifest, exclude) = self.rule(live.version, &live.exclude)?;
        let rule = Rule { exclude: &exclude, manifest: &manifest };
        let Some(tree) = self.open_live()? else { return Ok(None) };
        if find(&tree, &rule).map_err(ContentError::io("looking for", "excluded paths"))?.is_empty() {
            return Ok(None);
        }
        let failed = || ContentError::io("making", "an empty tree");
        let mode = tree.root_stat().map_err(failed())?.st_mode & 0o777;
        self.discard(Place::Temp)?;
        let empty = self.make_temp()?;
        empty.set_root_mode(mode).map_err(failed())?;
        Ok(Some(empty.root_stat().map_err(failed())?.st_ino))
    }

    /// Notes an outcome that needed no work.
    fn record(&mut self, header: &Header, outcome: Outcome) -> Result<Outcome, ContentError> {
        if header.sequence > self.body().sequence {
            let mut body = self.body().clone();
            body.remember(header.number, header.sequence, &outcome);
            self.write_body(body)?;
        }
        Ok(outcome)
    }

    fn check_sequence(&self, header: &Header) -> Result<(), ContentError> {
        let mark = self.body().sequence;
        if header.sequence > mark { Ok(()) } else { Err(ContentError::Sequence { found: header.sequence, mark }) }
    }

    /// Switches live. An error means that live is what it was.
    fn swap(
        &mut self,
        step: Move,
        version: Option<Version>,
        exclude: Vec<String>,
        after: Body,
    ) -> Result<(), ContentError> {
        // What the last swap left behind may be what is mirrored into.
        self.settle_stragglers();
        self.left_behind = None;
        let mut mirrored = BTreeSet::new();
        let (carried, originals) = match step {
            Move::Exchange { place, .. } => {
                let (manifest, patterns) = self.rule(version, &exclude)?;
                let rule = Rule { exclude: &patterns, manifest: &manifest };
                let (Some(live), Some(coming)) = (self.open_live()?, self.open_place(place)?) else {
                    return Err(self.live_missing());
                };
                let carried = mirror(&live, &coming, &rule, &mut self.index, &mut mirrored)?;
                let originals = Originals::find(&live, &coming, &carried);
                let originals = originals.map_err(ContentError::io("opening the directories of", "excluded paths"))?;
                (carried, Some(originals))
            }
            Move::Appear { .. } | Move::Vanish { .. } => (Vec::new(), None),
        };
        let old = self.journal.body.clone();
        let mut journal =
            Journal { body: old.clone(), swap: Some(Swap { step, carried, mirrored, exclude, version, after }) };
        self.put_journal(&journal, Lasts::Now).map_err(ContentError::io("writing", "the journal"))?;
        let switched = self.fault.at(Point::Switch).and_then(|()| self.switch(step));
        if let Err(error) = switched {
            self.call_off(old);
            return Err(ContentError::CannotExchange(error));
        }
        if let (Some(originals), Some(swap)) = (&originals, &mut journal.swap) {
            if self.fault.at(Point::FollowSwitch).is_ok() {
                originals.follow(self.state.as_fd());
            }
            // At once, for whoever reads back what was just written. It is repeated below, so it may
            // fail here.
            if let Err(error) = self.settle(swap, true) {
                tracing::warn!(site = %self.site, error = chain(&error), "excluded paths are settled later");
            }
        }
        if let Err(error) = self.sync_switch() {
            // Not known to be durable: taken back while that is possible.
            match self.switch_back(step).and_then(|()| Ok(rustix::fs::fsync(&self.parent)?)) {
                Ok(()) => {
                    if let Some(swap) = &mut journal.swap {
                        // The tree that came and the one that went have changed their parts.
                        if let Err(error) = self.settle(swap, true) {
                            tracing::error!(site = %self.site, error = chain(&error), "excluded paths are not back");
                        }
                    }
                    self.call_off(old);
                }
                Err(second) => {
                    tracing::error!(site = %self.site, error = %second, "live cannot be switched back");
                    self.journal = journal;
                }
            }
            return Err(ContentError::io("making durable", self.live_path.display())(error));
        }
        self.journal = journal;
        if let Err(error) = self.finish_swap() {
            tracing::warn!(site = %self.site, error = chain(&error), "live is switched, the rest has to wait");
        }
        Ok(())
    }

    /// Takes a swap out of the journal that did not switch live. When that fails, the next reader
    /// sees by live's inode that it did not happen.
    fn call_off(&mut self, old: Body) {
        if let Err(error) = self.write_body(old) {
            tracing::warn!(site = %self.site, error = chain(&error), "a swap that did not happen stays in the journal");
        }
    }

    fn sync_switch(&mut self) -> io::Result<()> {
        self.fault.at(Point::SyncSwitch)?;
        // One rename changes this directory and the one that the tree came from, both or neither: there is
        // nothing left to flush in the other.
        Ok(rustix::fs::fsync(&self.parent)?)
    }

    /// Brings a swap that switched live to its end. Can be repeated.
    pub(super) fn finish_swap(&mut self) -> Result<(), ContentError> {
        let Some(mut swap) = self.journal.swap.clone() else { return Ok(()) };
        if !swap.exclude.is_empty() {
            self.fault
                .at(Point::SettleExcluded)
                .map_err(ContentError::io("moving excluded paths to", "the live tree"))?;
            self.settle(&mut swap, true)?;
            if !swap.carried.is_empty() {
                rustix::fs::syncfs(&self.state)
                    .map_err(|error| ContentError::io("making durable", "excluded paths")(error.into()))?;
            }
            // What is done there from here on need not be told from what was there before.
            self.journal.swap = Some(swap.clone());
        }
        // Need not last before the journal: a backup that has not got its name is found by its inode.
        self.keep_backup(swap.step)?;
        self.note_end(&swap)?;
        self.left_behind = Some(swap);
        self.stragglers_due = true;
        self.tidy()
    }

    /// Writes the state without the swap.
    ///
    /// It need not last at once: until it does, the journal with the swap is found, and live's inode says
    /// that it happened; bringing it to its end once more changes nothing. Whatever this agent does next and
    /// acknowledges, it notes in a journal that lasts, and what it does until then takes nothing away that the
    /// end of a swap looks for. Excluded directories are the exception: others change them meanwhile, and
    /// what they took away must not be brought from the mirror a second time.
    fn note_end(&mut self, swap: &Swap) -> Result<(), ContentError> {
        if !swap.carried.is_empty() {
            return self.write_body(swap.after.clone());
        }
        let journal = Journal { body: swap.after.clone(), swap: None };
        self.put_journal(&journal, Lasts::Later).map_err(ContentError::io("writing", "the journal"))?;
        self.journal = journal;
        Ok(())
    }

    /// Once more, for whoever held a mirrored directory open across the swap: what was put there since
    /// follows, as long as this process knows what had been there.
    pub(super) fn settle_stragglers(&mut self) {
        self.stragglers_due = false;
        let Some(mut swap) = self.left_behind.take() else { return };
        if let Err(error) = self.settle(&mut swap, false) {
            tracing::warn!(site = %self.site, error = chain(&error), "excluded paths cannot be settled once more");
        }
        self.left_behind = Some(swap);
    }

    /// Gives whichever of the two trees is live the excluded entries. Can be repeated.
    pub(super) fn settle(&mut self, swap: &mut Swap, also_taken: bool) -> Result<(), ContentError> {
        let Move::Exchange { incoming, outgoing, .. } = swap.step else { return Ok(()) };
        if swap.exclude.is_empty() {
            return Ok(());
        }
        let failed = || ContentError::io("moving excluded paths to", "the live tree");
        let (manifest, exclude) = self.rule(swap.version, &swap.exclude)?;
        let rule = Rule { exclude: &exclude, manifest: &manifest };
        let Some(live) = self.open_live()? else { return Ok(()) };
        let gone = if live.root_stat().map_err(failed())?.st_ino == incoming { outgoing } else { incoming };
        let Some(gone) = self.find_tree(gone)? else { return Ok(()) };
        let state = self.state.as_fd();
        settle(&live, &gone, state, &rule, &swap.carried, &mut swap.mirrored, also_taken).map_err(failed())
    }

    /// What decides on exclusion. A tree without a version contains nothing as far as is known.
    fn rule(&self, version: Option<Version>, exclude: &[String]) -> Result<(Manifest, Exclude), ContentError> {
        let manifest = match version {
            Some(version) if !exclude.is_empty() => self.manifest(version)?,
            Some(_) | None => Manifest::default(),
        };
        Ok((manifest, Exclude::of_tree(exclude)?))
    }
}
