//! Runs that rest.

use common::ids::AssignmentNumber;

use super::*;

impl Fleet {
    /// Waits until a run says so of itself.
    async fn until(&self, run: RunNumber, state: RunState) -> Run {
        let mut changes = self.engine.changes();
        let reached = async {
            loop {
                changes.mark_unchanged();
                let run = self.engine.store.run(run).expect("reads").expect("is there");
                if run.state == state {
                    return run;
                }
                changes.changed().await.expect("the engine lives");
            }
        };
        tokio::time::timeout(Duration::from_secs(30), reached).await.expect("it comes to that")
    }

    async fn until_ordered(&self, order: &str) {
        let mut changes = self.engine.changes();
        tokio::time::timeout(Duration::from_secs(30), async {
            while !self.orders().contains(&order) {
                tokio::time::timeout(Duration::from_millis(50), changes.changed()).await.ok();
            }
        })
        .await
        .expect("it comes to that");
    }
}

/// Answers nothing until it may.
fn once(may: &Arc<AtomicBool>) -> impl Fn(ServerId, &Header) -> Option<Outcome> + Send + Sync + 'static {
    let may = may.clone();
    move |server, header| may.load(Ordering::Relaxed).then(|| obedient(server, header)).flatten()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_a_run_rests_nothing_is_sent_or_committed_and_then_it_goes_on() {
    let fleet = Fleet::new(2);
    let may = Arc::new(AtomicBool::new(false));
    fleet.behave(once(&may));
    let run = fleet.publish().run;
    fleet.until_ordered("prepare").await;
    fleet.engine.request_rest(run, true).expect("can rest");
    let rests = fleet.until(run, RunState::Paused).await;
    assert_eq!(rests.message, format!("paused; `pressrun run resume {run}` lets it go on"));
    // Who was told before it rested may still answer.
    may.store(true, Ordering::Relaxed);
    fleet.connect(2);
    assert_eq!(fleet.orders(), ["prepare"], "a new leader is told nothing");

    fleet.engine.request_rest(run, false).expect("goes on");
    assert_eq!(fleet.end_of(run).await.state, RunState::Done);
    assert_eq!(fleet.orders(), ["prepare", "prepare", "commit"]);
    let over = fleet.engine.request_rest(run, true).expect_err("it is over");
    assert!(matches!(over, EngineError::CannotRest { .. }), "{over}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_rests_does_so_when_the_ccm_starts_again() {
    let fleet = Fleet::new(2);
    fleet.behave(once(&Arc::default()));
    let run = fleet.publish().run;
    fleet.until_ordered("prepare").await;
    fleet.engine.request_rest(run, true).expect("can rest");
    fleet.until(run, RunState::Paused).await;
    let (store, directory) = (fleet.engine.store.clone(), fleet.directory);
    let again = Fleet::over(directory, store, 2);
    let mut changes = again.engine.changes();
    tokio::time::timeout(Duration::from_secs(30), async {
        while again.engine.hub.progress(AssignmentNumber(1)).is_none() {
            tokio::time::timeout(Duration::from_millis(50), changes.changed()).await.ok();
        }
    })
    .await
    .expect("it is taken up, so that leaders may keep what they have");
    again.until(run, RunState::Paused).await;
    assert_eq!(again.orders(), [""; 0]);
    again.engine.request_rest(run, false).expect("goes on");
    assert_eq!(again.end_of(run).await.state, RunState::Done);
    assert_eq!(again.orders(), ["prepare", "commit"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_rests_can_be_cancelled_and_one_that_has_not_begun_does_not_begin() {
    let fleet = Fleet::new(2);
    let may = Arc::new(AtomicBool::new(false));
    fleet.behave(once(&may));
    let (first, second) = (fleet.publish().run, fleet.publish().run);
    fleet.until_ordered("prepare").await;
    fleet.engine.request_rest(first, true).expect("can rest");
    let waits = fleet.engine.request_rest(second, true).expect("can rest");
    assert_eq!((waits.state, waits.started), (RunState::Paused, None));
    fleet.until(first, RunState::Paused).await;
    may.store(true, Ordering::Relaxed);
    fleet.engine.request_cancel(first).expect("can be cancelled");
    assert_eq!(fleet.end_of(first).await.state, RunState::Cancelled);
    assert_eq!(fleet.orders(), ["prepare", "undo"]);
    assert_eq!(fleet.until(second, RunState::Paused).await.started, None, "its turn comes when it is resumed");
    fleet.engine.request_rest(second, false).expect("goes on");
    assert_eq!(fleet.end_of(second).await.state, RunState::Done);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_is_being_committed_does_not_rest() {
    let fleet = Fleet::new(2);
    fleet.behave(
        |server, header| {
            if matches!(header.kind, Kind::Commit { .. }) { None } else { obedient(server, header) }
        },
    );
    let run = fleet.publish().run;
    fleet.until_ordered("commit").await;
    let refused = fleet.engine.request_rest(run, true).expect_err("too late");
    assert!(refused.to_string().contains("it is being committed"), "{refused}");
}
