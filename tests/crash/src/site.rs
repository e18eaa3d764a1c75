//! One hosted site in a directory of its own, and what may be left in it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use backend_agent::content::{OpenError, SiteTrees, Switch, TreePolicy};
use common::outcome::SiteState;

use crate::error::{Result, RigError, ensure};

/// How live is switched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Way {
    /// Live is a directory that changes places with another.
    Exchange,
    /// Live is a link. Operations in processes of their own find a file system that cannot exchange.
    Symlink,
}

impl Way {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Exchange, Self::Symlink];

    /// What the agent's configuration would say.
    #[must_use]
    pub fn switch(self) -> Switch {
        match self {
            Self::Exchange => Switch::Exchange,
            Self::Symlink => Switch::Symlink,
        }
    }

    /// As an argument of a program.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Exchange => "exchange",
            Self::Symlink => "symlink",
        }
    }
}

/// Where a site's trees are.
#[derive(Debug, Clone)]
pub struct Site {
    /// The agent's root.
    pub root: PathBuf,
    /// The live directory.
    pub live: PathBuf,
    /// The state directory beside it.
    pub state: PathBuf,
    /// How live is switched.
    pub way: Way,
}

impl Site {
    /// Below an agent's root. Nothing is made.
    #[must_use]
    pub fn at(root: &Path, way: Way) -> Self {
        Self { root: root.to_owned(), live: root.join("shop"), state: root.join(".shop.pressrun"), way }
    }

    /// Makes an empty live tree.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn make_live(&self) -> Result<()> {
        let made = match self.way {
            Way::Exchange => fs::create_dir(&self.live),
            Way::Symlink => {
                let tree = &self.slots()[0];
                fs::create_dir(tree)
                    .and_then(|()| std::os::unix::fs::symlink(tree.file_name().unwrap_or_default(), &self.live))
            }
        };
        made.map_err(RigError::io("making live"))
    }

    fn slots(&self) -> [PathBuf; 3] {
        [1, 2, 3].map(|number| self.root.join(format!(".shop.pressrun.{number}")))
    }

    /// Whether an excluded directory was on its way to live, where a file system that cannot exchange leaves
    /// it away for a moment: it is back when the trees are opened.
    ///
    /// # Errors
    /// When the state directory cannot be listed.
    pub fn is_between_renames(&self) -> Result<bool> {
        Ok(self.way == Way::Symlink && names(&self.state)?.iter().any(|name| name.starts_with("aside-")))
    }

    /// Where trees may stand that are not live: of this name, or wherever links do not point.
    #[must_use]
    pub fn others(&self, name: &str) -> Vec<PathBuf> {
        match self.way {
            Way::Exchange => vec![self.state.join(name)],
            Way::Symlink => {
                let live = fs::read_link(&self.live).ok();
                let live = live.as_deref().and_then(Path::file_name);
                self.slots().into_iter().filter(|slot| slot.file_name() != live && slot.exists()).collect()
            }
        }
    }

    /// Opens the trees as the agent does.
    ///
    /// # Errors
    /// As [`SiteTrees::open`].
    pub fn open(&self) -> std::result::Result<SiteTrees, OpenError> {
        let (site, server) = ("shop".parse().expect("a good name"), "web1".parse().expect("a good name"));
        let policy = TreePolicy { switch: self.way.switch() };
        SiteTrees::open(&site, &server, &self.live, std::slice::from_ref(&self.root), policy)
    }

    /// That nothing is in the directories but what the state has a use for.
    ///
    /// # Errors
    /// A violation that names the litter.
    pub fn check_litter(&self, state: &SiteState, staged: bool) -> Result<()> {
        let around = names(&self.root)?;
        let is_tree = |name: &String| self.way == Way::Symlink && self.slots().contains(&self.root.join(name));
        let (trees, stray): (Vec<_>, Vec<_>) =
            around.iter().filter(|name| *name != "shop" && *name != ".shop.pressrun").partition(|name| is_tree(name));
        ensure(stray.is_empty(), || format!("litter beside the trees: {stray:?}"))?;

        let mut allowed: BTreeSet<String> =
            ["journal", "manifests", "index", "trash", "lock"].into_iter().map(str::to_owned).collect();
        match self.way {
            Way::Exchange => {
                if state.backup.is_some() {
                    allowed.insert("backup".to_owned());
                }
                if staged {
                    allowed.insert("temp".to_owned());
                }
            }
            Way::Symlink => {
                // A backup of no version is one all the same, as is the empty tree before a first publish.
                let most = usize::from(self.live.exists()) + 1 + usize::from(staged);
                let least = most - usize::from(state.backup.is_none());
                ensure((least..=most).contains(&trees.len()), || format!("{trees:?} are not {most} trees"))?;
            }
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
