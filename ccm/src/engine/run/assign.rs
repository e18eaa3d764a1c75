//! Which version a run leads to, from which base, for whom, and the assignment that says so.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use common::assignment::Kind;
use common::digest::{Digest, Version};
use common::errors::chain;
use common::ids::ServerId;
use common::manifest::Manifest;
use common::outcome::Outcome;

use super::{Execution, Stop, TICK};
use crate::engine::order::{Body, Frame, Sealed};
use crate::engine::{EngineError, blocking, now};
use crate::ingest::inventory::{MissingError, needed_of};
use crate::ingest::stored::StoredTree;
use crate::ingest::tree::Tree;
use crate::store::{RunKind, RunState, ServerRecord, View};

/// State of a server that a synchronization left alone.
pub(super) const CURRENT: &str = "current";

impl Execution {
    /// Ingest and build: which version, from which base, with what content.
    pub(super) async fn assign(&mut self, quorum: usize) -> Result<(), Stop> {
        if self.run.kind == RunKind::Switch {
            return self.assign_switch(quorum).await;
        }
        let view = self.engine.store.view(&self.site.name, &self.group.name)?;
        let start = match self.run.kind {
            RunKind::Hot => self.request.version,
            RunKind::Publish
            | RunKind::Synchronize
            | RunKind::Rollback
            | RunKind::Restore
            | RunKind::Audit
            | RunKind::Replicate
            | RunKind::Remove
            | RunKind::Switch => view.as_ref().map(|view| view.version),
        };
        self.run.base = start;
        self.leave_own_alone()?;
        self.recorder.start("ingest", now());
        self.save();
        let (result, content_bytes) = self.ingest(view.as_ref()).await?;
        self.recorder.end("ingest", content_bytes, now());
        let version = result.version();
        if self.resume.result != Some(version) {
            // What servers said before a restart was about another tree.
            self.resume.inventory = None;
        }
        self.resume.result = Some(version);
        self.run.result = Some(version);

        self.await_members().await;
        self.leave_current_alone(version)?;
        let online = self.engine.hub.online();
        let present: Vec<ServerId> =
            self.members.iter().map(|member| member.id).filter(|id| online.contains_key(id)).collect();
        for member in &self.members {
            if !online.contains_key(&member.id) {
                self.recorder.server(member.id, "offline", Some("was not online when the run began".into()));
            }
        }
        let fresh: Vec<ServerId> = match start {
            Some(start) if !self.mends() => {
                present.iter().copied().filter(|id| self.engine.hub.live(*id, &self.site.name) == Some(start)).collect()
            }
            Some(_) | None => Vec::new(),
        };
        // A base that too few servers have serves nobody: then every server gets what it lacks. So it is when
        // some have a version of their own: all switch together, whichever base each has.
        self.resume.any_base = match self.run.kind {
            RunKind::Publish | RunKind::Rollback | RunKind::Restore => {
                start.is_none() || fresh.len() < quorum || self.any_own(&present)?
            }
            RunKind::Remove => true,
            RunKind::Synchronize | RunKind::Audit | RunKind::Replicate | RunKind::Hot | RunKind::Switch => {
                start.is_none() || fresh.len() < quorum
            }
        };
        let mut targets = if self.resume.any_base { present } else { fresh };
        for member in &self.members {
            if !targets.contains(&member.id) && online.contains_key(&member.id) {
                let reason = "has another version live; it is synchronised after this run";
                self.recorder.server(member.id, "stale", Some(reason.into()));
            }
        }
        self.enough(targets.len(), quorum, "online")?;

        self.recorder.start("build", now());
        let frame = self.frame(version);
        let is_rollback = self.run.kind == RunKind::Rollback && !self.resume.any_base;
        let sealed = if is_rollback {
            self.engine.seal(&frame, &Body::Order(Kind::Rollback), &targets, None, &self.cancel)?
        } else {
            let sends_all = matches!(self.run.kind, RunKind::Replicate | RunKind::Remove);
            let asks = !sends_all && (self.request.adopt || view.is_some());
            let needed = if self.resume.any_base && asks {
                Some(self.inventory(&frame, &result, &mut targets).await?)
            } else {
                None
            };
            self.enough(targets.len(), quorum, "able to take part")?;
            let base = match (start, self.resume.any_base) {
                (Some(start), false) => Some(self.engine.content.tree(start)?),
                (Some(_), true) | (None, _) => None,
            };
            self.build(frame, base, result, needed, targets.clone()).await?
        };
        self.run.assignment_bytes = sealed.length;
        self.recorder.end("build", sealed.length, now());
        self.resume.prepare = Some(sealed.number);
        self.decide()?;
        Ok(())
    }

    /// Servers that have the version already are not synchronised; with all of them there is nothing to do.
    fn leave_current_alone(&mut self, version: Version) -> Result<(), Stop> {
        if self.run.kind != RunKind::Synchronize {
            return Ok(());
        }
        let (engine, site) = (&self.engine, &self.site.name);
        let (current, stale): (Vec<ServerRecord>, Vec<ServerRecord>) =
            self.members.drain(..).partition(|member| engine.hub.live(member.id, site) == Some(version));
        for member in &current {
            self.recorder.server(member.id, CURRENT, None);
        }
        self.members = stale;
        if self.members.is_empty() {
            return Err(Stop::End(RunState::Done, "every server had it already".to_owned()));
        }
        Ok(())
    }

    /// Gives servers that may be back in a moment (a new leader is being elected) the time for it.
    pub(super) async fn await_members(&self) {
        let ids: Vec<ServerId> = self.members.iter().map(|member| member.id).collect();
        let mut changes = self.engine.hub.changes();
        while self.engine.hub.may_return(&ids) && !self.cancel.load(Ordering::Relaxed) {
            let _either = tokio::time::timeout(TICK, changes.changed()).await;
        }
    }

    /// The tree that the run leads to, and the sum of its file sizes in bytes.
    async fn ingest(&self, view: Option<&View>) -> Result<(StoredTree, u64), Stop> {
        let published = view.map(|view| view.version);
        let engine = self.engine.clone();
        let version = match self.run.kind {
            RunKind::Publish => {
                let (site, cancel) = (self.site.clone(), self.cancel.clone());
                let kept = blocking(move || {
                    let scanned = engine.scan(&site, &cancel)?;
                    let published = published.map(|version| engine.content.tree(version)).transpose()?;
                    let kept = scanned.keep(&engine.content, published.as_ref());
                    kept.map_err(|source| EngineError::of_scanned(&site.name, source))
                });
                return Ok(kept.await?);
            }
            RunKind::Synchronize | RunKind::Audit | RunKind::Replicate => self.mended(view)?,
            RunKind::Hot => return self.ingest_hot().await,
            RunKind::Remove => engine.content.put_tree(&Manifest::default())?,
            RunKind::Rollback => view.and_then(|view| view.previous).ok_or_else(|| EngineError::NothingToRollBack {
                site: self.site.name.clone(),
                group: self.group.name.clone(),
            })?,
            // A switch makes nothing new.
            RunKind::Restore | RunKind::Switch => {
                self.request.version.ok_or(EngineError::NoResult { run: self.run.run })?
            }
        };
        let kept = blocking(move || {
            let tree = engine.content.tree(version)?;
            let content_bytes = tree.content_bytes()?;
            Ok((tree, content_bytes))
        });
        Ok(kept.await?)
    }

    /// Asks the servers what they lack of the result; those that refuse are out.
    async fn inventory(
        &mut self,
        frame: &Frame,
        result: &StoredTree,
        targets: &mut Vec<ServerId>,
    ) -> Result<BTreeSet<Digest>, Stop> {
        let number = match self.resume.inventory {
            Some(number) => number,
            None => self.engine.seal(frame, &Body::Inventory(result), targets, None, &self.cancel)?.number,
        };
        self.resume.inventory = Some(number);
        self.decide()?;
        self.engine.send_out(number, frame.wan)?;
        let progress = self.wait(number, self.decision_life(), |progress| progress.answered).await?;
        let mut needed = BTreeSet::new();
        for (server, outcome) in &progress.outcomes {
            match outcome {
                Outcome::Missing(runs) => match needed_of(result, runs) {
                    Ok(contents) => needed.extend(contents),
                    Err(MissingError::Tree(error)) => return Err(EngineError::Content(error).into()),
                    Err(error) => {
                        self.recorder.server(*server, "failed", Some(chain(&error)));
                        targets.retain(|target| target != server);
                    }
                },
                Outcome::Refused(refusal) => self.recorder.server(*server, "failed", Some(refusal.reason.clone())),
                Outcome::Received
                | Outcome::Prepared { .. }
                | Outcome::Committed { .. }
                | Outcome::CommittedHookFailed { .. }
                | Outcome::Undone { .. }
                | Outcome::Audited(_) => (),
            }
        }
        targets.retain(|target| matches!(progress.outcomes.get(target), Some(Outcome::Missing(_))));
        for server in &progress.unanswered {
            self.recorder.server(*server, "offline", Some("did not say what it has".into()));
        }
        self.engine.hub.finish(number);
        Ok(needed)
    }

    async fn build(
        &self,
        frame: Frame,
        base: Option<StoredTree>,
        result: StoredTree,
        needed: Option<BTreeSet<Digest>>,
        targets: Vec<ServerId>,
    ) -> Result<Sealed, Stop> {
        let (engine, cancel) = (self.engine.clone(), self.cancel.clone());
        let alone = self.request.autonomous;
        let sealed = blocking(move || {
            let base = base.as_ref().map(|base| base as &dyn Tree);
            let body = Body::Tree { base, result: &result, needed, alone };
            engine.seal(&frame, &body, &targets, None, &cancel)
        })
        .await?;
        Ok(sealed)
    }
}
