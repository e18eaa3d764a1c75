//! Which run may start when. The unit of conflict is 002's: the same hosted site and a common
//! server.

use std::collections::BTreeSet;
use std::sync::Arc;

use common::errors::chain;
use common::ids::{RunNumber, ServerId, SiteName};

use super::run::{Resume, RunRequest, execute};
use super::{Engine, EngineError};
use crate::store::RunState;

/// An unfinished run, as far as conflicts go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) run: RunNumber,
    pub(super) site: SiteName,
    pub(super) servers: BTreeSet<ServerId>,
}

/// The earlier run that this one must wait for, if any. `earlier` holds all unfinished runs before
/// it, queued ones included: nobody overtakes.
pub(super) fn blocked_by(candidate: &Candidate, earlier: &[Candidate]) -> Option<RunNumber> {
    earlier
        .iter()
        .find(|other| other.site == candidate.site && !other.servers.is_disjoint(&candidate.servers))
        .map(|other| other.run)
}

/// Starts runs as they become free to go.
pub(super) async fn run(engine: Arc<Engine>) {
    let mut started = BTreeSet::new();
    loop {
        if let Err(error) = start_what_may(&engine, &mut started) {
            tracing::error!(error = chain(&error), "the queue of runs cannot be read");
        }
        engine.wake.notified().await;
    }
}

fn start_what_may(engine: &Arc<Engine>, started: &mut BTreeSet<RunNumber>) -> Result<(), EngineError> {
    let mut earlier: Vec<Candidate> = Vec::new();
    for (mut run, request, resume) in engine.store.unfinished_runs()? {
        let candidate = Candidate {
            run: run.run,
            site: run.site.clone(),
            servers: engine.store.run_servers(run.run)?.into_iter().collect(),
        };
        let blocker = blocked_by(&candidate, &earlier);
        earlier.push(candidate);
        if started.contains(&run.run) {
            continue;
        }
        if run.state == RunState::Paused && run.started.is_none() {
            continue;
        }
        if let Some(blocker) = blocker
            && run.state == RunState::Queued
        {
            let message = format!("waits for run {blocker}");
            if run.message != message {
                run.message = message;
                engine.store.save_run(&run, resume.as_ref())?;
                engine.tell_run(&run);
            }
            continue;
        }
        started.insert(run.run);
        let request: RunRequest = serde_json::from_value(request).unwrap_or_default();
        let resume: Resume = match resume.map(serde_json::from_value).transpose() {
            Ok(resume) => resume.unwrap_or_default(),
            Err(error) => {
                // Beginning anew could undo what was decided.
                tracing::error!(run = %run.run, %error, "what a run has decided cannot be read; it is not taken up");
                run.message = format!("what this run has decided cannot be read: {error}");
                engine.store.save_run(&run, None)?;
                continue;
            }
        };
        run.message = String::new();
        tokio::spawn(execute(engine.clone(), run, request, resume));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(run: u64, site: &str, servers: &[u8]) -> Candidate {
        Candidate {
            run: RunNumber(run),
            site: site.parse().expect("good"),
            servers: servers.iter().map(|server| ServerId([*server; 16])).collect(),
        }
    }

    #[test]
    fn runs_of_one_site_wait_for_each_other_only_when_they_share_a_server() {
        let first = candidate(1, "shop", &[1, 2]);
        assert_eq!(blocked_by(&candidate(2, "shop", &[2, 3]), std::slice::from_ref(&first)), Some(RunNumber(1)));
        assert_eq!(blocked_by(&candidate(2, "shop", &[3]), std::slice::from_ref(&first)), None);
        assert_eq!(blocked_by(&candidate(2, "blog", &[1, 2]), &[first]), None);
    }

    #[test]
    fn nobody_overtakes_a_run_that_waits() {
        let earlier = [candidate(1, "shop", &[1]), candidate(2, "shop", &[1, 2])];
        assert_eq!(blocked_by(&candidate(3, "shop", &[2]), &earlier), Some(RunNumber(2)));
    }
}
