//! What the API asks for, in the engine's words.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use common::errors::chain;
use common::ids::{RunNumber, SegmentName, ServerId};
use common::manifest::{Entry, Manifest};
use common::path::ContentPath;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::watch;

use super::requests::Comparison;
use super::{Engine, EngineError, RunRequest, blocking};
use crate::api::operations::{
    Accepted, AuditRequest, CheckpointRequest, DiffAdded, DiffChanged, DiffMoved, DiffPath, DiffReport, DiffRequest,
    HotRequest, MendRequest, OperationError, Operations, PublishRequest, RemoveRequest, RestoreRequest,
    RollbackRequest, SwitchRequest,
};
use crate::engine::quorum::Quorum;
use crate::ingest::compare::Changes;
use crate::ingest::diff::Diff;
use crate::ingest::text::text_hunks;
use crate::store::{Checkpoint, Run};

impl From<EngineError> for OperationError {
    fn from(error: EngineError) -> Self {
        let detail = chain(&error);
        match error {
            EngineError::NoSite { .. } => Self::not_found("no-such-site", detail),
            EngineError::NoGroup { .. } => Self::not_found("no-such-group", detail),
            EngineError::NoCheckpoint { .. } => Self::not_found("no-such-checkpoint", detail),
            EngineError::NoRun { .. } => Self::not_found("no-such-run", detail),
            EngineError::WhichGroup { .. } => Self::refused("which-group", detail),
            EngineError::EmptyGroup { .. } => Self::refused("empty-group", detail),
            EngineError::NothingToRollBack { .. } => Self::refused("nothing-to-roll-back", detail),
            EngineError::NotInGroup { .. } => Self::refused("not-in-group", detail),
            EngineError::NeverPublished { .. } => Self::refused("never-published", detail),
            EngineError::TooFewServers { .. } => Self::refused("too-few-servers", detail),
            EngineError::DifferentVersions { .. } => Self::refused("different-versions", detail),
            EngineError::NothingToSwitch { .. } => Self::refused("nothing-to-switch", detail),
            EngineError::Overlay { .. } => Self::refused("bad-paths", detail),
            EngineError::CannotRest { run, .. } => Self::conflict("cannot-rest", detail, Some(run)),
            EngineError::TooLate { run, .. } => Self::conflict("too-late", detail, Some(run)),
            EngineError::Quorum(_) => Self::refused("bad-quorum", detail),
            EngineError::Scan { .. } => Self::refused("staging-unusable", detail),
            EngineError::Exclude { .. } => Self::refused("bad-exclude", detail),
            EngineError::NoResult { .. }
            | EngineError::NoAssignment { .. }
            | EngineError::Spool { .. }
            | EngineError::Store(_)
            | EngineError::Content(_)
            | EngineError::Build(_)
            | EngineError::Inventory(_)
            | EngineError::Objects(_)
            | EngineError::NoChannel
            | EngineError::Worker => Self::failed(detail),
        }
    }
}

fn accepted(run: Result<Run, EngineError>) -> Result<Accepted, OperationError> {
    let run = run?;
    Ok(Accepted { run: run.run, state: run.state })
}

fn asked(quorum: Option<Quorum>) -> RunRequest {
    RunRequest {
        quorum: quorum.filter(|quorum| *quorum != Quorum::MostServers).map(|quorum| quorum.to_string()),
        ..RunRequest::default()
    }
}

/// The engine as the API sees it.
#[derive(Clone)]
pub struct Desk(pub Arc<Engine>);

impl Operations for Desk {
    fn publish(&self, request: PublishRequest) -> BoxFuture<'_, Result<Accepted, OperationError>> {
        let engine = self.0.clone();
        async move {
            let asked = RunRequest {
                adopt: request.adopt,
                create_live: request.create_live,
                timeout_seconds: request.timeout.map(|timeout| timeout.as_secs()),
                stage_only: request.stage_only,
                autonomous: request.autonomous,
                ..asked(request.quorum)
            };
            let run = blocking(move || engine.request_publish(&request.site, request.group.as_ref(), &asked)).await;
            accepted(run)
        }
        .boxed()
    }

    fn rollback(&self, request: RollbackRequest) -> BoxFuture<'_, Result<Accepted, OperationError>> {
        let engine = self.0.clone();
        async move {
            let asked = asked(request.quorum);
            let run = blocking(move || engine.request_rollback(&request.site, request.group.as_ref(), &asked)).await;
            accepted(run)
        }
        .boxed()
    }

    fn restore(&self, request: RestoreRequest) -> BoxFuture<'_, Result<Accepted, OperationError>> {
        let engine = self.0.clone();
        async move {
            let asked = asked(request.quorum);
            let run = blocking(move || {
                engine.request_restore(&request.site, request.group.as_ref(), &request.checkpoint, asked)
            })
            .await;
            accepted(run)
        }
        .boxed()
    }

    fn audit(&self, request: AuditRequest) -> BoxFuture<'_, Result<Accepted, OperationError>> {
        let engine = self.0.clone();
        async move {
            let asked = RunRequest {
                full: request.full,
                repair: request.repair,
                timeout_seconds: request.timeout.map(|timeout| timeout.as_secs()),
                ..RunRequest::default()
            };
            accepted(blocking(move || engine.request_audit(&request.site, request.group.as_ref(), &asked)).await)
        }
        .boxed()
    }

    fn mend(&self, request: MendRequest) -> BoxFuture<'_, Result<Accepted, OperationError>> {
        let engine = self.0.clone();
        async move {
            let MendRequest { site, group, servers, replicate } = request;
            accepted(blocking(move || engine.request_mending(&site, group.as_ref(), &servers, replicate)).await)
        }
        .boxed()
    }

    fn remove(&self, request: RemoveRequest) -> BoxFuture<'_, Result<Accepted, OperationError>> {
        let engine = self.0.clone();
        async move {
            let RemoveRequest { site, group, servers, keep_content, quorum } = request;
            let asked = RunRequest { keep_content, ..asked(quorum) };
            accepted(blocking(move || engine.request_remove(&site, group.as_ref(), &servers, &asked)).await)
        }
        .boxed()
    }

    fn hot(&self, request: HotRequest) -> BoxFuture<'_, Result<Accepted, OperationError>> {
        let engine = self.0.clone();
        async move {
            let HotRequest { site, group, whom, paths, quorum } = request;
            let asked = asked(quorum);
            accepted(blocking(move || engine.request_hot(&site, group.as_ref(), &whom, paths, asked)).await)
        }
        .boxed()
    }

    fn switch(&self, request: SwitchRequest) -> BoxFuture<'_, Result<Accepted, OperationError>> {
        let engine = self.0.clone();
        async move {
            let SwitchRequest { site, group, servers, quorum } = request;
            let asked = asked(quorum);
            accepted(blocking(move || engine.request_switch(&site, group.as_ref(), &servers, &asked)).await)
        }
        .boxed()
    }

    fn rest(&self, run: RunNumber, rest: bool) -> BoxFuture<'_, Result<(), OperationError>> {
        let engine = self.0.clone();
        async move {
            blocking(move || engine.request_rest(run, rest)).await?;
            Ok(())
        }
        .boxed()
    }

    fn checkpoint(&self, request: CheckpointRequest) -> BoxFuture<'_, Result<Checkpoint, OperationError>> {
        let engine = self.0.clone();
        async move {
            let made =
                blocking(move || engine.create_checkpoint(&request.site, request.group.as_ref(), request.name)).await;
            Ok(made?)
        }
        .boxed()
    }

    fn diff(&self, request: DiffRequest) -> BoxFuture<'_, Result<DiffReport, OperationError>> {
        let engine = self.0.clone();
        async move {
            let comparison = engine.compare(&request.site, request.group.as_ref()).await?;
            let report = blocking(move || Ok(report(&engine, &request, comparison))).await?;
            Ok(report)
        }
        .boxed()
    }

    fn cancel(&self, run: RunNumber) -> BoxFuture<'_, Result<(), OperationError>> {
        let engine = self.0.clone();
        async move {
            blocking(move || engine.request_cancel(run)).await?;
            Ok(())
        }
        .boxed()
    }

    fn move_segment(&self, segment: SegmentName, control: SocketAddr) -> Result<(), OperationError> {
        if self.0.hub.move_control(&segment, control) {
            return Ok(());
        }
        let detail = format!("the segment {segment} has no leader that could be told; `pressrun segments` shows them");
        Err(OperationError::conflict("no-leader", detail, None))
    }

    fn online(&self) -> BTreeSet<ServerId> {
        self.0.hub.online().into_keys().collect()
    }

    fn timetable_changed(&self) {
        self.0.timetable_changed.notify_one();
        self.0.bump();
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes()
    }
}

fn report(engine: &Engine, request: &DiffRequest, comparison: Comparison) -> DiffReport {
    let Comparison { group, base, result, changes } = comparison;
    let diff = Diff::of(&changes);
    let Changes { old, new, .. } = &changes;
    let size = |manifest: &Manifest, path: &ContentPath| match manifest.entries.get(path) {
        Some(Entry::File { size, .. }) => *size,
        Some(Entry::Directory { .. } | Entry::Symlink { .. }) | None => 0,
    };
    let text = |path: &ContentPath| -> Option<String> {
        let digest = |manifest: &Manifest| match manifest.entries.get(path) {
            Some(Entry::File { digest, .. }) => Some(*digest),
            Some(Entry::Directory { .. } | Entry::Symlink { .. }) | None => None,
        };
        text_hunks(engine.content(), digest(old)?, digest(new)?, path)
    };
    let paths = |paths: &[ContentPath]| paths.iter().map(|path| DiffPath { path: path.to_string() }).collect();
    DiffReport {
        site: request.site.clone(),
        group,
        base,
        result,
        added: diff.added.iter().map(|path| DiffAdded { path: path.to_string(), size: size(new, path) }).collect(),
        changed: diff
            .changed
            .iter()
            .map(|path| DiffChanged {
                path: path.to_string(),
                size: size(new, path),
                old_size: size(old, path),
                text: if request.text { text(path) } else { None },
            })
            .collect(),
        removed: paths(&diff.removed),
        moved: diff.moved.iter().map(|(from, to)| DiffMoved { from: from.to_string(), to: to.to_string() }).collect(),
        attributes: paths(&diff.attributes),
        content_bytes: diff.content_bytes,
    }
}
