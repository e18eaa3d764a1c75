//! Files that nobody published, and files that linger after they were removed.

use std::fs;
use std::time::Duration;

use common::assignment::{Extra, Kind};
use common::outcome::{Outcome, RefusalCode};
use common::time::WallTime;

use super::fixture::*;

const WINDOW: u32 = 600;

impl Site {
    /// A rollback, prepared and committed.
    fn roll_back(&mut self, to: &TreeContent) {
        let (number, file) = self.rollback_file(to.version());
        assert_eq!(self.handle(&file), Outcome::Prepared { version: to.version() });
        assert_eq!(self.commit(number, to.version()), Outcome::Committed { version: to.version() });
    }

    /// As a publish, whatever else live holds.
    fn bring(&mut self, from: &TreeContent, to: &TreeContent) {
        let number = self.prepare(from, to, Style::Delta);
        assert_eq!(self.commit(number, to.version()), Outcome::Committed { version: to.version() });
    }

    fn sweep(&mut self) {
        let now = self.now;
        self.trees().take_away_lingering(now).unwrap();
    }

    fn later(&mut self, seconds: u64) {
        self.now = WallTime(self.now.0).after(Duration::from_secs(seconds));
    }

    fn is_clean(&mut self) -> bool {
        let draft = self.draft(Kind::Audit { full: true });
        let file = signed(draft, common::assignment::Effect::of_order(first().version()), &[], &[]);
        let outcome = self.handle(&file);
        let Outcome::Audited(report) = outcome else { panic!("no audit: {outcome:?}") };
        report.is_clean()
    }
}

fn with_extras(extra: Extra) -> Site {
    let mut site = Site::with(&first());
    site.extra = extra;
    fs::write(site.live.join("by-hand.txt"), "mine").unwrap();
    fs::create_dir(site.live.join("img/mine")).unwrap();
    fs::write(site.live.join("img/mine/cat [1].jpg "), "cat").unwrap();
    site
}

/// What [`with_extras`] put beside a tree.
fn and_extras(tree: TreeContent) -> TreeContent {
    tree.file_with("by-hand.txt", "mine", 0o644, -1).dir("img/mine").file_with(
        "img/mine/cat [1].jpg ",
        "cat",
        0o644,
        -1,
    )
}

#[test]
fn what_nobody_published_does_not_come_along_unless_the_site_says_so() {
    let mut site = with_extras(Extra::Remove);
    site.bring(&first(), &second());
    assert_eq!(site.live_content(), second());
}

#[test]
fn where_the_site_keeps_it_what_nobody_published_comes_along_through_publish_rollback_and_undo() {
    let mut site = with_extras(Extra::Keep);
    site.bring(&first(), &second());
    assert_eq!(site.live_content(), and_extras(second()));
    site.roll_back(&first());
    assert_eq!(site.live_content(), and_extras(first()));
    let number = site.prepare(&first(), &second(), Style::Delta);
    fs::write(site.live.join("img/mine/late"), "late").unwrap();
    assert_eq!(site.commit(number, second().version()), Outcome::Committed { version: second().version() });
    assert!(site.live.join("img/mine/late").exists(), "what is put into a kept directory meanwhile comes along");
    assert!(matches!(site.undo(number), Outcome::Undone { version } if version == Some(first().version())));
    assert!(site.live.join("by-hand.txt").exists() && site.live.join("img/mine/late").exists());
    fs::remove_file(site.live.join("by-hand.txt")).unwrap();
    site.bring(&first(), &second());
    assert!(!site.live.join("by-hand.txt").exists(), "what was taken away does not come back");
}

#[test]
fn what_is_kept_and_then_published_is_what_was_published() {
    let mut site = with_extras(Extra::Keep);
    let third = second().file("by-hand.txt", "published").dir("img/mine");
    site.bring(&first(), &third);
    assert_eq!(fs::read(site.live.join("by-hand.txt")).unwrap(), b"published");
    assert_eq!(fs::read(site.live.join("img/mine/cat [1].jpg ")).unwrap(), b"cat");
    assert!(site.is_clean());
}

#[test]
fn where_the_site_fails_a_server_with_what_nobody_published_does_not_prepare_and_says_what_it_found() {
    let mut site = with_extras(Extra::Fail);
    let (_, file) = site.prepare_file(&first(), &second(), Style::Delta);
    let outcome = site.handle(&file);
    assert_eq!(refusal(&outcome), RefusalCode::ExtraContent);
    assert!(matches!(&outcome, Outcome::Refused(refusal) if refusal.reason.contains("by-hand.txt")), "{outcome:?}");
    assert!(site.nothing_staged() && site.live_content() == and_extras(first()));
    fs::remove_file(site.live.join("by-hand.txt")).unwrap();
    fs::remove_dir_all(site.live.join("img/mine")).unwrap();
    site.publish(&first(), &second(), Style::Delta);
}

#[test]
fn what_is_excluded_is_nothing_that_nobody_published() {
    let mut site = Site::new();
    site.policy.exclude = vec!["*.log".to_owned()];
    site.extra = Extra::Fail;
    site.publish(&TreeContent::default(), &first(), Style::Whole);
    fs::create_dir(site.live.join("logs")).unwrap();
    fs::write(site.live.join("logs/today.log"), "line").unwrap();
    site.bring(&first(), &second());
    assert_eq!(fs::read(site.live.join("logs/today.log")).unwrap(), b"line");
}

fn with_window() -> Site {
    let mut site = Site::with(&first());
    site.linger_seconds = WINDOW;
    site
}

/// What [`second`] removes of [`first`].
const REMOVED: &str = "img/deep/a.txt";

#[test]
fn what_a_publish_removes_can_be_reached_for_the_window_and_then_goes() {
    let mut site = with_window();
    site.bring(&first(), &second());
    site.sweep();
    assert_eq!(site.live_content(), second().dir("img/deep").file(REMOVED, "a"));
    assert!(site.is_clean(), "what lingers is no drift");
    site.later(u64::from(WINDOW) - 1);
    site.sweep();
    assert!(site.live.join(REMOVED).exists(), "the window is not over");
    site.later(1);
    site.sweep();
    assert_eq!(site.live_content(), second(), "with the directory that was there for it");
    assert!(site.is_clean() && site.trees().sweep_due().is_none());
    fs::create_dir(site.live.join("img/deep")).unwrap();
    fs::write(site.live.join(REMOVED), "by hand").unwrap();
    assert!(!site.is_clean(), "from then on it is as any other file");
}

#[test]
fn without_a_window_nothing_lingers() {
    let mut site = Site::with(&first());
    site.publish(&first(), &second(), Style::Delta);
    assert!(site.trees().sweep_due().is_none() && !site.state.join("lingering").exists());
}

#[test]
fn the_window_outlives_the_next_publish_and_a_restart() {
    let mut site = with_window();
    site.bring(&first(), &second());
    site.sweep();
    site.later(300);
    let third = second().without("new/file");
    site.bring(&second(), &third);
    site.reopen();
    site.sweep();
    let lingering = third.clone().dir("img/deep").file(REMOVED, "a").file("new/file", "new");
    assert_eq!(site.live_content(), lingering);
    site.later(300);
    site.reopen();
    site.sweep();
    assert_eq!(site.live_content(), third.clone().file("new/file", "new"), "each has its own window");
    site.later(300);
    site.sweep();
    assert_eq!(site.live_content(), third);
}

#[test]
fn what_is_published_again_within_the_window_stays() {
    let mut site = with_window();
    site.bring(&first(), &second());
    site.sweep();
    let again = second().dir("img/deep").file(REMOVED, "another a");
    site.bring(&second(), &again);
    site.sweep();
    site.later(10 * u64::from(WINDOW));
    site.sweep();
    assert_eq!(site.live_content(), again);
    assert!(site.is_clean());
    site.roll_back(&second());
}

#[test]
fn a_rollback_within_the_window_finds_its_backup_whole_and_has_a_window_of_its_own() {
    let mut site = with_window();
    site.bring(&first(), &second());
    site.sweep();
    site.roll_back(&first());
    site.sweep();
    let lingering = first().file("moved.txt", "a").dir("new").file("new/file", "new");
    assert_eq!(site.live_content(), lingering);
    assert!(site.is_clean());
    // And forth again: what lingered in the backup was no part of it.
    site.roll_back(&second());
    site.sweep();
    site.later(2 * u64::from(WINDOW));
    site.sweep();
    assert_eq!(site.live_content(), second());
    assert!(site.is_clean());
    site.roll_back(&first());
}

#[test]
fn a_rollback_after_the_window_finds_its_backup_whole() {
    let mut site = with_window();
    let third = second().without("new/file");
    site.bring(&first(), &second());
    site.sweep();
    site.bring(&second(), &third);
    site.later(2 * u64::from(WINDOW));
    // Begins one window and ends the other.
    site.sweep();
    site.later(2 * u64::from(WINDOW));
    site.sweep();
    assert_eq!(site.live_content(), third);
    site.roll_back(&second());
    site.sweep();
    assert_eq!(site.live_content(), second(), "nothing was removed by going back, and nothing lingers");
}

#[test]
fn an_undo_ends_a_window_that_its_publish_began() {
    let mut site = with_window();
    let number = site.prepare(&first(), &second(), Style::Delta);
    assert_eq!(site.commit(number, second().version()), Outcome::Committed { version: second().version() });
    assert!(matches!(site.undo(number), Outcome::Undone { version } if version == Some(first().version())));
    site.sweep();
    site.later(2 * u64::from(WINDOW));
    site.sweep();
    assert!(site.live.join(REMOVED).exists(), "it is published");
    assert!(site.trees().sweep_due().is_none() && site.is_clean());
}

#[test]
fn a_file_that_lingers_where_the_next_version_has_something_else_gives_way() {
    let mut site = with_window();
    let third = first().without(REMOVED).without("img/deep").file("img/deep", "a file for the directory");
    site.bring(&first(), &third);
    site.sweep();
    assert_eq!(site.live_content(), third);
}

#[test]
fn a_sweep_that_is_interrupted_anywhere_is_finished_by_the_next_one() {
    struct Failing(u32);
    impl crate::content::Fault for Failing {
        fn at(&mut self, _: crate::content::Point) -> std::io::Result<()> {
            match self.0.checked_sub(1) {
                Some(left) => self.0 = left,
                None => return Err(std::io::Error::other("planted")),
            }
            Ok(())
        }
    }
    for steps in 0.. {
        let mut site = with_window();
        site.bring(&first(), &second());
        site.sweep();
        site.later(u64::from(WINDOW));
        let now = site.now;
        let swept = site.reopen_with(Failing(steps)).take_away_lingering(now);
        let is_over = swept.is_ok();
        assert!(site.is_clean(), "after {steps} steps");
        site.reopen();
        site.sweep();
        assert_eq!(site.live_content(), second(), "after {steps} steps");
        assert!(site.trees().sweep_due().is_none() && site.is_clean());
        site.roll_back(&first());
        if is_over {
            assert!(steps >= 3, "there was something to interrupt");
            return;
        }
    }
}
