//! What is not needed any more goes: old history, contents that no kept version names, objects of
//! runs that a crash cut off.

use common::errors::chain;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::{Engine, EngineError, blocking, now};
use crate::store::Retention;

/// How often. An hour: disks fill slowly, and the work is small when there is nothing to do.
const INTERVAL: Duration = Duration::from_secs(3600);
/// Objects younger than this stay: they may be on their way into a record.
const OBJECT_AGE_MIN: Duration = Duration::from_secs(3600);

/// Tidies up for as long as the CCM runs.
pub(super) async fn run(engine: Arc<Engine>) {
    let mut ticks = tokio::time::interval(INTERVAL);
    loop {
        ticks.tick().await;
        let engine = engine.clone();
        if let Err(error) = blocking(move || tidy(&engine)).await {
            tracing::error!(error = chain(&error), "what is not needed any more could not be removed");
        }
    }
}

fn tidy(engine: &Engine) -> Result<(), EngineError> {
    engine.store.prune(&Retention::default(), now())?;
    // No scan begins while this is held; a run whose scan is over is unfinished and seen below. So
    // nothing that a run relies on is taken away.
    let _no_scan = engine.scanning.write().unwrap_or_else(PoisonError::into_inner);
    if !engine.store.unfinished_runs()?.is_empty() {
        return Ok(());
    }
    let freed = engine.content.collect_garbage(engine.store.versions_in_use()?.into_iter())?;
    let objects = engine.objects.clean_complete(OBJECT_AGE_MIN)?;
    if freed.files > 0 || !objects.is_empty() {
        let (files, bytes) = (freed.files, freed.bytes);
        tracing::info!(files, bytes, objects = objects.len(), "what was not needed any more is removed");
    }
    Ok(())
}
