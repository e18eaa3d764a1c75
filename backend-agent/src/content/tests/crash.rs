//! A crash at every step of everything: live is wholly old or wholly new, and the state says which.

use std::panic::{AssertUnwindSafe, catch_unwind, panic_any};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use common::assignment::Kind;
use common::outcome::Outcome;

use super::fixture::*;
use crate::content::{Fault, Point};

/// Stops the process, as far as the trees can tell, before the n-th step.
struct CrashAt {
    left: u32,
    reached: Arc<AtomicU32>,
}

struct Crash;

impl Fault for CrashAt {
    fn at(&mut self, _point: Point) -> std::io::Result<()> {
        self.reached.fetch_add(1, Ordering::Relaxed);
        if self.left == 0 {
            panic_any(Crash);
        }
        self.left -= 1;
        Ok(())
    }
}

/// Runs one assignment with a crash before every one of its steps in turn. Returns the number of
/// steps. `make` brings a site to the state before it; afterwards live must be one of the versions
/// and the same assignment again must lead to `outcome` and to `new`.
fn crash_everywhere(
    make: impl Fn() -> (Site, Vec<u8>),
    old: Option<&TreeContent>,
    new: Option<&TreeContent>,
    outcome: &Outcome,
) -> u32 {
    std::panic::set_hook(Box::new(|info| {
        if info.payload().downcast_ref::<Crash>().is_none() {
            eprintln!("{info}");
        }
    }));
    for step in 0.. {
        let (mut site, file) = make();
        let reached = Arc::new(AtomicU32::new(0));
        let mut trees = site.reopen_with(CrashAt { left: step, reached: Arc::clone(&reached) });
        let result = catch_unwind(AssertUnwindSafe(|| {
            trees.handle(std::io::Cursor::new(&file), CLUSTER, OWN, &keys(), site.now)
        }));
        drop(trees);
        if let Ok(result) = result {
            assert_eq!(result, *outcome);
            assert!(step > 0, "there are steps to crash at");
            return step;
        }
        assert!(reached.load(Ordering::Relaxed) == step + 1);
        let there = site.live.exists().then(|| site.live_content());
        assert!(
            there.as_ref() == old || there.as_ref() == new,
            "step {step}: live is neither the old nor the new tree"
        );
        let state = site.reopen().state();
        let recovered = site.live.exists().then(|| site.live_content());
        assert_eq!(recovered, there, "step {step}: opening does not switch");
        let is_new = there.as_ref() == new && (old != new);
        let expected = if is_new { new } else { old };
        assert_eq!(
            state.live,
            expected.filter(|content| !content.0.is_empty()).map(TreeContent::version),
            "step {step}"
        );
        if let Some((_, version)) = state.prepared {
            let staged = TreeContent::read(&site.temp(), &[]);
            assert_eq!(staged.version(), version, "step {step}: what is said to be prepared is");
        } else {
            assert!(site.nothing_staged(), "step {step}");
        }
        assert_eq!(site.handle(&file), *outcome, "step {step}: again, it is carried out");
        assert_eq!(site.live.exists().then(|| site.live_content()).as_ref(), new, "step {step}");
        let end = site.trees().state();
        site.trees().clean().expect("cleans");
        assert_eq!(std::fs::read_dir(site.state.join("trash")).unwrap().count(), 0);
        assert_eq!(site.reopen().state(), end, "step {step}");
    }
    unreachable!("the loop ends by returning")
}

#[test]
fn while_preparing() {
    let make = || {
        let mut site = Site::with(&first());
        let (_, file) = site.prepare_file(&first(), &second(), Style::Delta);
        (site, file)
    };
    let steps =
        crash_everywhere(make, Some(&first()), Some(&first()), &Outcome::Prepared { version: second().version() });
    assert!(steps >= 15, "{steps} steps");
}

#[test]
fn while_superseding_a_prepared_tree() {
    let make = || {
        let mut site = Site::with(&first());
        site.prepare(&first(), &first().file("x", "x"), Style::Delta);
        let (_, file) = site.prepare_file(&first(), &second(), Style::Delta);
        (site, file)
    };
    crash_everywhere(make, Some(&first()), Some(&first()), &Outcome::Prepared { version: second().version() });
}

#[test]
fn while_committing() {
    let make = || {
        let mut site = Site::with(&second());
        site.publish(&second(), &first(), Style::Delta);
        let prepared = site.prepare(&first(), &second(), Style::Delta);
        let file = site.order_file(Kind::Commit { prepared }, second().version());
        (site, file)
    };
    let steps =
        crash_everywhere(make, Some(&first()), Some(&second()), &Outcome::Committed { version: second().version() });
    assert!(steps >= 7, "{steps} steps");
}

#[test]
fn while_committing_the_first_publish() {
    let make = || {
        let mut site = Site::without_live();
        site.policy.create = true;
        let prepared = site.prepare(&TreeContent::default(), &first(), Style::Whole);
        let file = site.order_file(Kind::Commit { prepared }, first().version());
        (site, file)
    };
    crash_everywhere(make, None, Some(&first()), &Outcome::Committed { version: first().version() });
}

#[test]
fn while_committing_into_an_empty_directory() {
    let make = || {
        let mut site = Site::new();
        let prepared = site.prepare(&TreeContent::default(), &first(), Style::Whole);
        let file = site.order_file(Kind::Commit { prepared }, first().version());
        (site, file)
    };
    let empty = TreeContent::default();
    crash_everywhere(make, Some(&empty), Some(&first()), &Outcome::Committed { version: first().version() });
}

#[test]
fn while_going_live_without_waiting_for_others() {
    let make = || {
        let mut site = Site::with(&second());
        site.publish(&second(), &first(), Style::Delta);
        let (_, file) = site.prepare_file_with(&first(), &second(), Style::Delta, |draft, _| draft.kind = Kind::Alone);
        (site, file)
    };
    let steps =
        crash_everywhere(make, Some(&first()), Some(&second()), &Outcome::Committed { version: second().version() });
    assert!(steps >= 20, "{steps} steps");
}

#[test]
fn while_dropping_all_but_live() {
    let make = || {
        let mut site = Site::with(&first());
        site.publish(&first(), &second(), Style::Delta);
        site.prepare(&second(), &first(), Style::Delta);
        let file = site.order_file(Kind::Discard, second().version());
        (site, file)
    };
    let discarded = Outcome::Committed { version: second().version() };
    assert!(crash_everywhere(make, Some(&second()), Some(&second()), &discarded) >= 5);
}

#[test]
fn while_undoing_a_prepared_tree() {
    let make = || {
        let mut site = Site::with(&first());
        let prepared = site.prepare(&first(), &second(), Style::Delta);
        let file = site.order_file(Kind::Undo { prepared }, first().version());
        (site, file)
    };
    let undone = Outcome::Undone { version: Some(first().version()) };
    crash_everywhere(make, Some(&first()), Some(&first()), &undone);
}

#[test]
fn while_undoing_a_commit() {
    let make = || {
        let mut site = Site::with(&first());
        let prepared = site.publish(&first(), &second(), Style::Delta);
        let file = site.order_file(Kind::Undo { prepared }, first().version());
        (site, file)
    };
    let undone = Outcome::Undone { version: Some(first().version()) };
    crash_everywhere(make, Some(&second()), Some(&first()), &undone);
}

#[test]
fn while_undoing_the_first_publish() {
    let make = || {
        let mut site = Site::without_live();
        site.policy.create = true;
        let prepared = site.publish(&TreeContent::default(), &first(), Style::Whole);
        let file = site.order_file(Kind::Undo { prepared }, TreeContent::default().version());
        (site, file)
    };
    crash_everywhere(make, Some(&first()), None, &Outcome::Undone { version: None });
}

#[test]
fn while_committing_a_rollback() {
    let make = || {
        let mut site = Site::with(&first());
        site.publish(&first(), &second(), Style::Delta);
        let (prepared, file) = site.rollback_file(first().version());
        site.handle(&file);
        let file = site.order_file(Kind::Commit { prepared }, first().version());
        (site, file)
    };
    // Between the rollback's prepare and its commit the backup is what is staged, so the helper's
    // look into temp does not fit; the versions and the trees are compared all the same.
    let (mut site, file) = make();
    assert_eq!(site.handle(&file), Outcome::Committed { version: first().version() });
    for step in 0..20 {
        let (mut site, file) = make();
        let mut trees = site.reopen_with(CrashAt { left: step, reached: Arc::default() });
        let crashed = catch_unwind(AssertUnwindSafe(|| {
            trees.handle(std::io::Cursor::new(&file), CLUSTER, OWN, &keys(), site.now)
        }))
        .is_err();
        drop(trees);
        let live = site.live_content();
        let state = site.reopen().state();
        assert_eq!(state.live, Some(live.version()), "step {step}");
        assert_eq!(TreeContent::read(&site.backup(), &[]).version(), state.backup.unwrap(), "step {step}");
        assert_eq!(site.handle(&file), Outcome::Committed { version: first().version() });
        assert_eq!(site.live_content(), first());
        assert!(crashed || step >= 5, "step {step} is one to crash at");
    }
}
