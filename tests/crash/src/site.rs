//! One hosted site in a directory of its own, and what may be left in it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use backend_agent::content::{OpenError, SiteTrees};
use common::outcome::SiteState;

use crate::error::{Result, RigError, ensure};

/// Where a site's trees are.
#[derive(Debug, Clone)]
pub struct Site {
    /// The agent's root.
    pub root: PathBuf,
    /// The live directory.
    pub live: PathBuf,
    /// The state directory beside it.
    pub state: PathBuf,
}

impl Site {
    /// Below an agent's root. Nothing is made.
    #[must_use]
    pub fn at(root: &Path) -> Self {
        Self { root: root.to_owned(), live: root.join("shop"), state: root.join(".shop.pressrun") }
    }

    /// Opens the trees as the agent does.
    ///
    /// # Errors
    /// As [`SiteTrees::open`].
    pub fn open(&self) -> std::result::Result<SiteTrees, OpenError> {
        let (site, server) = ("shop".parse().expect("a good name"), "web1".parse().expect("a good name"));
        SiteTrees::open(&site, &server, &self.live, std::slice::from_ref(&self.root))
    }

    /// That nothing is in the directories but what the state has a use for.
    ///
    /// # Errors
    /// A violation that names the litter.
    pub fn check_litter(&self, state: &SiteState, staged: bool) -> Result<()> {
        let around = names(&self.root)?;
        let stray: Vec<_> = around.iter().filter(|name| *name != "shop" && *name != ".shop.pressrun").collect();
        ensure(stray.is_empty(), || format!("litter beside the trees: {stray:?}"))?;

        let mut allowed: BTreeSet<String> =
            ["journal", "manifests", "index", "trash", "lock"].into_iter().map(str::to_owned).collect();
        if state.backup.is_some() {
            allowed.insert("backup".to_owned());
        }
        if staged {
            allowed.insert("temp".to_owned());
        }
        let found = names(&self.state)?;
        let stray: Vec<_> = found.difference(&allowed).collect();
        ensure(stray.is_empty(), || format!("litter in the state directory: {stray:?}"))?;
        let trash = names(&self.state.join("trash"))?;
        ensure(trash.is_empty(), || format!("litter in the trash: {trash:?}"))?;
        let needed: BTreeSet<String> = [state.live, state.backup, state.prepared.map(|(_, version)| version)]
            .into_iter()
            .flatten()
            .map(|version| version.to_string())
            .collect();
        let manifests = names(&self.state.join("manifests"))?;
        ensure(manifests == needed, || format!("manifests {manifests:?}, needed are {needed:?}"))
    }
}

fn names(dir: &Path) -> Result<BTreeSet<String>> {
    let failed = || RigError::io(format!("listing {}", dir.display()));
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(dir).map_err(failed())? {
        names.insert(entry.map_err(failed())?.file_name().to_string_lossy().into_owned());
    }
    Ok(names)
}
