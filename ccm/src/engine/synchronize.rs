//! Servers that missed something are brought up to date by runs of their own, as soon as they are
//! there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::digest::Version;
use common::errors::chain;
use common::ids::{GroupName, ServerId, SiteName};

use super::run::RunRequest;
use super::{Engine, EngineError, now};
use crate::store::RunKind;

/// How often the fleet is compared with what is wanted.
const INTERVAL: Duration = Duration::from_secs(1);
/// First pause after an attempt that did not help; doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_secs(5);
/// Longest pause between attempts.
const RETRY_MAX: Duration = Duration::from_secs(600);

#[derive(Debug)]
struct Attempt {
    version: Version,
    pause: Duration,
    not_before: Instant,
}

type Attempts = BTreeMap<(SiteName, ServerId), Attempt>;

/// Watches the fleet for as long as the CCM runs.
pub(super) async fn run(engine: Arc<Engine>) {
    let mut attempts = Attempts::new();
    let mut ticks = tokio::time::interval(INTERVAL);
    loop {
        ticks.tick().await;
        if let Err(error) = synchronize(&engine, &mut attempts) {
            tracing::error!(error = chain(&error), "stale servers cannot be looked for");
        }
    }
}

fn synchronize(engine: &Arc<Engine>, attempts: &mut Attempts) -> Result<(), EngineError> {
    let online = engine.hub.online();
    if online.is_empty() {
        return Ok(());
    }
    let busy = busy(engine)?;
    let at = Instant::now();
    let mut stale: BTreeMap<(SiteName, GroupName, Version, bool), Vec<ServerId>> = BTreeMap::new();
    for ((site, server), wanted) in engine.wanted()? {
        let key = (site, server);
        if !online.contains_key(&server) || busy.contains(&key) {
            continue;
        }
        if engine.hub.live(server, &key.0) == Some(wanted.version) {
            attempts.remove(&key);
            continue;
        }
        let due =
            attempts.get(&key).is_none_or(|attempt| attempt.version != wanted.version || attempt.not_before <= at);
        if due {
            stale.entry((key.0, wanted.group, wanted.version, wanted.own)).or_default().push(server);
        }
    }
    for ((site, group, version, own), servers) in stale {
        for server in &servers {
            let attempt = attempts.entry((site.clone(), *server)).or_insert(Attempt {
                version,
                pause: RETRY_MIN / 2,
                not_before: at,
            });
            attempt.pause = if attempt.version == version { (attempt.pause * 2).min(RETRY_MAX) } else { RETRY_MIN };
            attempt.version = version;
            attempt.not_before = at + attempt.pause;
        }
        let request = RunRequest { version: Some(version), own, ..engine.mending(&site, &group)? };
        let request = serde_json::to_value(&request).expect("plain data");
        let run = engine.store.create_run(&site, &group, RunKind::Synchronize, &request, &servers, now())?;
        tracing::info!(run = %run.run, %site, servers = servers.len(), "stale servers are brought up to date");
        engine.wake.notify_one();
        engine.tell_run(&run);
    }
    Ok(())
}

impl Engine {
    /// The request of a run that brings servers to what the group has already: each that comes along counts,
    /// and what was allowed when the version was published is allowed for them.
    pub(super) fn mending(&self, site: &SiteName, group: &GroupName) -> Result<RunRequest, EngineError> {
        let published = self.store.view(site, group)?.and_then(|view| self.store.run_request(view.run).ok()?);
        let published: RunRequest =
            published.and_then(|request| serde_json::from_value(request).ok()).unwrap_or_default();
        Ok(RunRequest {
            quorum: Some("1".to_owned()),
            create_live: published.create_live,
            adopt: published.adopt,
            ..RunRequest::default()
        })
    }
}

/// Servers that an unfinished run takes care of.
fn busy(engine: &Engine) -> Result<BTreeSet<(SiteName, ServerId)>, EngineError> {
    let mut busy = BTreeSet::new();
    for (run, _, _) in engine.store.unfinished_runs()? {
        debug_assert!(!run.state.is_final());
        for server in engine.store.run_servers(run.run)? {
            busy.insert((run.site.clone(), server));
        }
    }
    Ok(busy)
}
