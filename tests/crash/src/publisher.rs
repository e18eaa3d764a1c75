//! The CCM's side: assignments from its real builder, numbered and signed.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use ccm::ingest::build::{BuildRequest, build};
use ccm::ingest::content::ContentStore;
use ccm::ingest::level::Level;
use ccm::ingest::order::build_order;
use common::assignment::{Draft, Extra, Kind, LivePolicy};
use common::digest::{Digest, Version};
use common::ids::{AssignmentNumber, ClusterId, RunNumber, Sequence, ServerId};
use common::keys::{PublishKey, PublishKeys, SecretKey};
use common::time::WallTime;

use crate::error::{Result, RigError};
use crate::tree::{Item, Tree};

/// The cluster of all rigs.
pub const CLUSTER: ClusterId = ClusterId([1; 16]);
/// The server of all rigs.
pub const OWN: ServerId = ServerId([2; 16]);
/// The time in all rigs.
pub const NOW: WallTime = WallTime(1_000_000);

fn key() -> PublishKey {
    PublishKey { epoch: 1, key: SecretKey::from_bytes(&[9; 32]) }
}

/// What servers trust.
#[must_use]
pub fn keys() -> PublishKeys {
    PublishKeys { keys: vec![(1, key().key.public())] }
}

/// A finished assignment.
#[derive(Debug, Clone)]
pub struct Assignment {
    /// Its number.
    pub number: AssignmentNumber,
    /// The whole file.
    pub bytes: Vec<u8>,
}

/// Makes assignments for one site.
#[derive(Debug)]
pub struct Publisher {
    store: ContentStore,
    dir: PathBuf,
    next: u64,
    /// About the live directory, in every assignment to come.
    pub policy: LivePolicy,
}

impl Publisher {
    /// With its content in a directory of its own.
    ///
    /// # Errors
    /// When the store cannot be made there.
    pub fn new(dir: &Path) -> Result<Self> {
        let store =
            ContentStore::open(&dir.join("content")).map_err(|error| RigError::setup("making a store", error))?;
        Ok(Self { store, dir: dir.to_owned(), next: 1, policy: LivePolicy::default() })
    }

    fn draft(&mut self, kind: Kind) -> Draft {
        let number = self.next;
        self.next += 1;
        Draft {
            cluster: CLUSTER,
            site: "shop".parse().expect("a good name"),
            group: "all".parse().expect("a good name"),
            number: AssignmentNumber(number),
            run: RunNumber(1),
            kind,
            sequence: Sequence(number),
            targets: vec![OWN],
            live: self.policy.clone(),
            created: WallTime(0),
            expires: NOW.after(Duration::from_secs(3600)),
            extra: Extra::Remove,
            linger_seconds: 0,
        }
    }

    /// From one tree to another; from whatever there is with `None`.
    ///
    /// # Errors
    /// When the builder refuses.
    pub fn prepare(&mut self, from: Option<&Tree>, to: &Tree) -> Result<Assignment> {
        let failed = |error: &dyn std::error::Error| RigError::setup("building an assignment", error);
        for item in from.into_iter().chain([to]).flat_map(|tree| tree.0.values()) {
            if let Item::File(_, _, bytes) = item
                && !self.store.contains(Digest::of(bytes))
            {
                self.store.put_bytes(bytes).map_err(|error| failed(&error))?;
            }
        }
        let draft = self.draft(Kind::Prepare);
        let number = draft.number;
        let (base, result) = (from.map(Tree::manifest), to.manifest());
        let base = base.as_ref().map(|base| base as &dyn ccm::ingest::tree::Tree);
        let request = BuildRequest { draft, base, result: &result, needed: None, level: Level::default() };
        let output = self.dir.join("assignment");
        build(&request, &self.store, &key(), &output, &|_| {}, &AtomicBool::new(false))
            .map_err(|error| failed(&error))?;
        let bytes = std::fs::read(&output).map_err(RigError::io("reading an assignment"))?;
        Ok(Assignment { number, bytes })
    }

    fn order(&mut self, kind: Kind, result: Version) -> Assignment {
        let draft = self.draft(kind);
        Assignment { number: draft.number, bytes: build_order(draft, result, &key()) }
    }

    /// Puts what was prepared live.
    pub fn commit(&mut self, prepared: AssignmentNumber, version: Version) -> Assignment {
        self.order(Kind::Commit { prepared }, version)
    }

    /// Takes back what was prepared or committed.
    pub fn undo(&mut self, prepared: AssignmentNumber) -> Assignment {
        self.order(Kind::Undo { prepared }, Tree::default().version())
    }

    /// Prepares going back to the backup.
    pub fn rollback(&mut self, to: Version) -> Assignment {
        self.order(Kind::Rollback, to)
    }
}
