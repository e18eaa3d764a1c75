//! What the administrator of this server decides on the spot, without a control manager: that the live
//! tree is a published version, and that what is prepared goes live.

use common::digest::Version;
use common::exclude::Exclude;
use common::ids::AssignmentNumber;
use common::manifest::Manifest;
use common::outcome::{Outcome, Refusal};

use super::SiteTrees;
use super::check::{check, found_in};
use super::errors::ContentError;
use super::excluded::Rule;
use super::journal::{Before, Body, Live, write_sealed};

impl SiteTrees {
    /// Takes the live tree for a version, if it is that in every byte: what another tool brought there
    /// can then be changed by an assignment that starts from it. Nothing happens when a version is known
    /// to be live already.
    ///
    /// # Errors
    /// A refusal that names what is different, or what failed.
    pub fn take_for(&mut self, version: Version, exclude: &[String]) -> Result<(), Refusal> {
        self.try_take_for(version, exclude).map_err(|error| error.refusal())
    }

    fn try_take_for(&mut self, version: Version, patterns: &[String]) -> Result<(), ContentError> {
        self.finish_swap()?;
        if self.body().live.version.is_some() {
            return Ok(());
        }
        let Some(live) = self.open_live()? else { return Err(self.live_missing()) };
        let exclude = Exclude::new(patterns)?;
        let empty = Manifest::default();
        let found = found_in(&live, &Rule { exclude: &exclude, manifest: &empty }, &mut self.index)?;
        if found.version() != version {
            return Err(ContentError::BaseMismatch { expected: version, found: Some(found.version()) });
        }
        // Entries that only hold what is excluded belong to nobody; the rule needs the manifest to tell.
        check(&live, &Rule { exclude: &exclude, manifest: &found }, &mut self.index)?;
        write_sealed(std::os::fd::AsFd::as_fd(&self.manifests), &version.to_string(), &found, true)
            .map_err(ContentError::io("storing", "the manifest"))?;
        let live = Live { version: Some(version), from: None, before: Before::Unknown, exclude: patterns.to_vec() };
        let body = Body { live, ..self.body().clone() };
        self.write_body(body)?;
        self.save_index();
        Ok(())
    }

    /// Brings a prepared tree live on the word of this server's administrator, who takes the place of the
    /// commit that a control manager would send.
    pub fn commit_by_hand(&mut self, prepared: AssignmentNumber) -> Outcome {
        let committed = self.finish_swap().and_then(|()| {
            let live = &self.body().live;
            match live.version.filter(|_| live.from == Some(prepared)) {
                Some(version) => Ok(Outcome::Committed { version }),
                None => self.bring_prepared_live(prepared, None, |_, _| ()),
            }
        });
        committed.unwrap_or_else(|error| Outcome::Refused(error.refusal()))
    }
}
