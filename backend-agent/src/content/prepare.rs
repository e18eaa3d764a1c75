//! Carrying out what changes no live tree: prepare, rollback (up to its commit), inventory.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::{Read, Seek};
use std::os::fd::AsFd as _;

use common::assignment::{AssignmentReader, Base, Command, Header, UNKNOWN_DIGEST, apply};
use common::exclude::Exclude;
use common::manifest::Manifest;
use common::outcome::Outcome;
use rustix::fs::{Mode, OFlags};

use super::SiteTrees;
use super::blocks::OldFiles;
use super::check::{check, first_entry};
use super::errors::ContentError;
use super::excluded::{Rule, mirror};
use super::fault::Point;
use super::journal::{Place, Prepared, replace, write_new};
use super::stage::{self, Plan, Sources};
use super::trees::{Tree, clone_file, open_beneath};

/// Permission bits of a live directory that was made here.
const NEW_ROOT_MODE: u32 = 0o755;

impl SiteTrees {
    pub(super) fn prepare<R: Read + Seek>(
        &mut self,
        header: &Header,
        reader: &mut AssignmentReader<R>,
    ) -> Result<Outcome, ContentError> {
        if self.body().undone.contains(&header.number) {
            return Err(ContentError::WasUndone { prepared: header.number });
        }
        let exclude = Exclude::new(&header.live.exclude)?;
        let base = self.base(header)?;
        let live = self.live_to_start_from(header, &exclude)?;
        let result = apply(&base, reader.commands())?;
        check_result(header, &result)?;
        let plain = exclude;
        let header = &self.with_left_alone(header, live.as_ref(), None, &result)?;
        let exclude = Exclude::of_tree(&header.live.exclude)?;

        // From here on the place for staging is taken from whatever was prepared before.
        self.drop_prepared()?;
        self.tidy()?;
        self.empty_trash()?;
        let sources = Sources { live, backup: self.open_place(Place::Backup)? };
        let rule = Rule { exclude: &exclude, manifest: &result };
        let prepared = self
            .stage(header, &rule, &plain, &base, &sources, reader)
            .and_then(|()| self.record_prepared(header, Place::Temp));
        if prepared.is_err() {
            self.remove_staged();
        }
        self.save_index();
        prepared
    }

    /// The tree that commands change: live's, or nothing.
    fn base(&self, header: &Header) -> Result<Manifest, ContentError> {
        match header.base {
            Base::Any => Ok(Manifest::default()),
            Base::Version(expected) => {
                let found = self.body().live.version;
                if found != Some(expected) {
                    return Err(ContentError::BaseMismatch { expected, found });
                }
                self.manifest(expected)
            }
        }
    }

    fn live_to_start_from(&self, header: &Header, exclude: &Exclude) -> Result<Option<Tree>, ContentError> {
        let Some(live) = self.open_live()? else {
            return match header.base {
                Base::Any if header.live.create => Ok(None),
                Base::Any | Base::Version(_) => Err(self.live_missing()),
            };
        };
        if self.body().live.version.is_none() && !header.live.adopt {
            let rule = Rule { exclude, manifest: &Manifest::default() };
            let first = first_entry(&live, &rule).map_err(ContentError::io("listing", self.live_path.display()))?;
            if let Some(example) = first {
                return Err(ContentError::LiveNotEmpty { live: self.live_path.clone(), example });
            }
        }
        Ok(Some(live))
    }

    /// Makes temp the result, verified and durable.
    fn stage<R: Read + Seek>(
        &mut self,
        header: &Header,
        rule: &Rule<'_>,
        plain: &Exclude,
        base: &Manifest,
        sources: &Sources,
        reader: &mut AssignmentReader<R>,
    ) -> Result<(), ContentError> {
        let result = rule.manifest;
        // Content may come from what comes along beside the tree, as an inventory said.
        let origins = Rule { exclude: plain, manifest: result };
        let plan = stage::plan(result, reader.commands(), header.base, sources, &origins, &mut self.index)?;
        self.check_space(header, &plan, result.entries.len() as u64)?;

        let temp = self.make_temp()?;
        let old = OldFiles::new(base, sources.live.as_ref());
        stage::write(plan, result, &temp, sources, reader, &old, &mut self.index, &mut *self.fault)?;
        let complete = stage::complete(result, &temp, &mut self.index)?;
        let found = complete.version();
        if found != header.result {
            let why = stage::why_different(reader, &old, &mut self.index)?;
            return Err(why.unwrap_or(ContentError::StagedResult { expected: header.result, found }));
        }
        let rule = &Rule { exclude: rule.exclude, manifest: &complete };
        let result = &complete;
        let mut root_mode = NEW_ROOT_MODE;
        if let Some(live) = &sources.live {
            root_mode = live.root_stat().map_err(ContentError::io("reading", "live"))?.st_mode & 0o777;
            mirror(live, &temp, rule, &mut self.index, &mut BTreeSet::new())?;
        }
        stage::finish_directories(result, &temp, root_mode)?;
        self.try_out(Place::Temp, header.result)?;
        self.fault.at(Point::CheckStaged).map_err(ContentError::io("checking", "the staged tree"))?;
        check(&temp, rule, &mut self.index)?;
        // Written before the flush, which makes it last with the tree, and named after it: the name need not
        // last before the journal does, for a manifest without its name is found when trees are opened.
        self.fault.at(Point::StoreManifest).map_err(ContentError::io("storing", "the manifest"))?;
        let name = header.result.to_string();
        write_new(self.manifests.as_fd(), &name, result, false).map_err(ContentError::io("storing", "the manifest"))?;
        self.fault.at(Point::SyncStaged).map_err(ContentError::io("making durable", "the staged tree"))?;
        rustix::fs::syncfs(&self.state)
            .map_err(|error| ContentError::io("making durable", "the staged tree")(error.into()))?;
        replace(self.manifests.as_fd(), &name).map_err(ContentError::io("storing", "the manifest"))
    }

    fn record_prepared(&mut self, header: &Header, place: Place) -> Result<Outcome, ContentError> {
        let Some(inode) = self.inode(place)? else { return Err(ContentError::NotPrepared { prepared: header.number }) };
        let outcome = Outcome::Prepared { version: header.result };
        let mut body = self.body().clone();
        body.forget_prepared();
        body.prepared = Some(Prepared {
            number: header.number,
            version: header.result,
            place,
            inode,
            exclude: header.live.exclude.clone(),
            expires: header.expires,
        });
        body.remember(header.number, header.sequence, &outcome);
        self.write_body(body)?;
        Ok(outcome)
    }

    /// Refuses before a byte is staged what will not fit.
    fn check_space(&mut self, header: &Header, plan: &Plan, inodes: u64) -> Result<(), ContentError> {
        let failed = || ContentError::io("asking for the free space of", "the state directory");
        let space = rustix::fs::fstatvfs(&self.state).map_err(|error| failed()(error.into()))?;
        let (written, copied) = plan.bytes();
        let copied = if copied == 0 || self.shares_blocks() { 0 } else { copied };
        let needed = header.space_bytes.max(written.saturating_add(copied));
        let free = space.f_bavail.saturating_mul(space.f_frsize);
        if needed > free {
            return Err(ContentError::NoSpace { needed, free });
        }
        // File systems that make inodes as they go say that they have none.
        if space.f_files > 0 && inodes > space.f_favail {
            return Err(ContentError::NoInodes { needed: inodes, free: space.f_favail });
        }
        Ok(())
    }

    /// Whether copies take no space, found by trying once.
    fn shares_blocks(&mut self) -> bool {
        if let Some(known) = self.shares_blocks {
            return known;
        }
        let attempt = || -> std::io::Result<bool> {
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC;
            let open = |name| open_beneath(self.state.as_fd(), OsStr::new(name), flags, Mode::RUSR | Mode::WUSR);
            let mut from = std::fs::File::from(open("probe-from")?);
            let mut to = std::fs::File::from(open("probe-to")?);
            std::io::Write::write_all(&mut from, &[1; 4096])?;
            let shares = clone_file(&mut from, &mut to);
            for name in ["probe-from", "probe-to"] {
                rustix::fs::unlinkat(&self.state, name, rustix::fs::AtFlags::empty())?;
            }
            shares
        };
        let shares = attempt().unwrap_or(false);
        self.shares_blocks = Some(shares);
        shares
    }

    /// Forgets what is prepared, durably, and frees its place.
    pub(super) fn drop_prepared(&mut self) -> Result<(), ContentError> {
        if self.body().prepared.is_none() {
            return Ok(());
        }
        let mut body = self.body().clone();
        body.forget_prepared();
        self.write_body(body)?;
        self.tidy()
    }

    /// Prepares going back to the backup, or to what is live already.
    pub(super) fn prepare_rollback(&mut self, header: &Header) -> Result<Outcome, ContentError> {
        let mut header = header.clone();
        if self.body().undone.contains(&header.number) {
            return Err(ContentError::WasUndone { prepared: header.number });
        }
        if let Base::Version(expected) = header.base {
            let found = self.body().live.version;
            if found != Some(expected) {
                return Err(ContentError::BaseMismatch { expected, found });
            }
        }
        let Some(live) = self.open_live()? else { return Err(self.live_missing()) };
        let place = if self.body().live.version == Some(header.result) {
            Place::Live
        } else {
            let found = self.body().backup.as_ref().and_then(|backup| backup.version);
            let missing = ContentError::BackupMissing { wanted: header.result, found };
            let Some(backup) = self.open_place(Place::Backup)? else { return Err(missing) };
            if found != Some(header.result) {
                return Err(missing);
            }
            let manifest = self.manifest(header.result)?;
            header = self.with_left_alone(&header, Some(&live), Some((&backup, &manifest)), &manifest)?;
            let exclude = Exclude::of_tree(&header.live.exclude)?;
            let rule = Rule { exclude: &exclude, manifest: &manifest };
            // The last swap may have left the backup with mirrored directories that somebody still has
            // open: what they put there from here on must still be told from what is mirrored here.
            let mut none = BTreeSet::new();
            let mirrored = self.left_behind.as_mut().map_or(&mut none, |swap| &mut swap.mirrored);
            mirror(&live, &backup, &rule, &mut self.index, mirrored)?;
            self.try_out(Place::Backup, header.result)?;
            check(&backup, &rule, &mut self.index)?;
            self.fault.at(Point::SyncStaged).map_err(ContentError::io("making durable", "the backup"))?;
            rustix::fs::syncfs(&self.state)
                .map_err(|error| ContentError::io("making durable", "the backup")(error.into()))?;
            Place::Backup
        };
        let outcome = self.record_prepared(&header, place)?;
        self.save_index();
        if let Err(error) = self.tidy() {
            tracing::warn!(site = %self.site, error = common::errors::chain(&error), "an old staged tree stays for now");
        }
        Ok(outcome)
    }

    /// Says which content would have to be sent.
    pub(super) fn inventory(&mut self, header: &Header, commands: &[Command]) -> Result<Outcome, ContentError> {
        if header.base != Base::Any {
            return Err(ContentError::InventoryOfChange);
        }
        let exclude = Exclude::new(&header.live.exclude)?;
        let result = apply(&Manifest::default(), commands)?;
        let rule = Rule { exclude: &exclude, manifest: &result };
        let sources = Sources { live: self.open_live()?, backup: self.open_place(Place::Backup)? };
        let missing = stage::missing(commands, &sources, &rule, &mut self.index)?;
        self.save_index();
        Ok(Outcome::Missing(missing))
    }
}

/// Checks what can be checked before there is data: the version only when all digests are known.
fn check_result(header: &Header, result: &Manifest) -> Result<(), ContentError> {
    let found = result.version();
    if found != header.result && result.files().all(|(_, _, digest)| *digest != UNKNOWN_DIGEST) {
        return Err(ContentError::CommandsResult { expected: header.result, found });
    }
    let (found_entries, found_bytes) = (result.entries.len() as u64, result.content_bytes());
    if (found_entries, found_bytes) != (header.result_entries, header.result_bytes) {
        let (entries, bytes) = (header.result_entries, header.result_bytes);
        return Err(ContentError::HeaderCounts { entries, bytes, found_entries, found_bytes });
    }
    Ok(())
}
