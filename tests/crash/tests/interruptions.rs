//! A share of the campaigns: every n-th point of some of the operations. The whole of them is
//! `scripts/campaign`.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crash::kill::{self, Scope, Tally};
use crash::operation::Operation;
use crash::shapes::Shape;
use crash::site::Way;
use crash::{failing, lost, readers, uploads};

/// One test at a time: between its fork and its exec, a process that one test starts holds what
/// another has open, the lock of its trees among them.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// In memory where there is such a place: crashes of a process lose nothing there.
fn place() -> std::path::PathBuf {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() }
}

fn scope(dir: &Path, way: Way, stride: u32) -> Scope<'_> {
    Scope { program: Path::new(env!("CARGO_BIN_EXE_crash-step")), dir, way, scale: 20, stride, violations_max: 5 }
}

fn check(tally: &Tally, at_least: u32) {
    assert!(tally.violations.is_empty(), "{:#?}", tally.violations);
    assert!(tally.interruptions >= at_least, "only {} interruptions", tally.interruptions);
}

#[test]
fn killed_anywhere_while_preparing_live_is_the_old_tree_and_the_next_try_works() {
    let _alone = alone();
    let dir = place();
    check(&kill::operation(&scope(&dir, Way::Exchange, 20), Shape::Mixed, Operation::Prepare).unwrap(), 30);
    check(&kill::operation(&scope(&dir, Way::Exchange, 20), Shape::Large, Operation::Supersede).unwrap(), 15);
    check(&kill::operation(&scope(&dir, Way::Symlink, 40), Shape::Mixed, Operation::Prepare).unwrap(), 15);
}

#[test]
fn killed_anywhere_while_switching_live_is_the_old_tree_or_the_new_one_and_the_next_try_works() {
    let _alone = alone();
    let dir = place();
    for (way, stride) in [(Way::Exchange, 10), (Way::Symlink, 15)] {
        for operation in Operation::SWAPS {
            check(&kill::operation(&scope(&dir, way, stride), Shape::Mixed, operation).unwrap(), 4);
        }
    }
}

#[test]
fn killed_anywhere_while_recovering_from_being_killed_the_next_recovery_works() {
    let _alone = alone();
    let dir = place();
    check(&kill::recovery(&scope(&dir, Way::Exchange, 150), Shape::Mixed, Operation::Commit).unwrap(), 30);
    check(&kill::recovery(&scope(&dir, Way::Symlink, 300), Shape::Mixed, Operation::Commit).unwrap(), 10);
}

#[test]
fn with_any_call_failing_live_is_what_was_reported_and_the_next_try_works() {
    let _alone = alone();
    let dir = place();
    for way in Way::ALL {
        let scope = scope(&dir, way, 120);
        for operation in [Operation::Prepare, Operation::Commit, Operation::UndoCommit, Operation::FirstCommit] {
            check(&failing::operation(&scope, Shape::Mixed, operation, &failing::ERRORS, false).unwrap(), 3);
        }
        check(&failing::operation(&scope, Shape::Mixed, Operation::Commit, &["EIO"], true).unwrap(), 2);
    }
}

#[test]
fn a_flush_of_a_directory_that_is_left_out_breaks_a_promise_where_nothing_else_keeps_the_order() {
    let _alone = alone();
    let dir = place();
    for way in Way::ALL {
        // Without excluded paths, and with them, where a flush of everything follows the switch.
        for (operation, missed) in [(Operation::FirstCommit, 2), (Operation::UndoFirst, 2), (Operation::Commit, 1)] {
            let flushes = lost::operation(&scope(&dir, way, 1), operation).unwrap();
            assert_eq!(flushes.len(), 2, "the intention and the switch are flushed: {flushes:?}");
            for flush in &flushes[..missed] {
                assert!(flush.by.is_some(), "nobody misses {}, in {} states", flush.flush, flush.states);
            }
        }
    }
}

#[test]
fn readers_see_no_failed_open_and_no_mixture_during_swaps() {
    let _alone = alone();
    for way in Way::ALL {
        let found = readers::run(&place(), way, 100_000, 200).unwrap();
        check(&found.tally, 200);
        assert!(
            found.by_path > 1000 && found.pinned > 1000,
            "both kinds of readers read: {found:?}",
            found = (found.by_path, found.pinned)
        );
    }
}

#[test]
fn a_process_that_writes_into_uploads_during_swaps_loses_nothing() {
    let _alone = alone();
    for way in Way::ALL {
        let found = uploads::run(&place(), way, Path::new(env!("CARGO_BIN_EXE_campaign")), 60, 7).unwrap();
        check(&found.tally, 60);
        assert!(found.operations > 1000, "only {} operations", found.operations);
    }
}
