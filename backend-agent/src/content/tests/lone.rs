//! Orders that a server carries out without waiting for the others: to keep nothing but what is live, and
//! to go live by itself.

use std::fs;

use common::assignment::Kind;
use common::outcome::{Outcome, RefusalCode};

use super::fixture::*;

fn nothing() -> TreeContent {
    TreeContent::default()
}

/// The site's content is taken off the server; what was live is in the backup yet.
fn taken_off() -> Site {
    let mut site = Site::with(&first());
    site.publish(&first(), &nothing(), Style::Whole);
    site
}

fn discard(site: &mut Site, version: common::digest::Version) -> Outcome {
    let file = site.order_file(Kind::Discard, version);
    site.handle(&file)
}

#[test]
fn content_that_is_taken_off_leaves_an_empty_directory_and_after_the_discard_nothing_on_the_disk() {
    let mut site = Site::with(&first());
    let root_mode = fs::metadata(&site.live).unwrap().permissions();
    site.publish(&first(), &nothing(), Style::Whole);
    assert!(site.state.join("backup/index.html").exists(), "until somebody decides, it can be undone");
    assert_eq!(fs::metadata(&site.live).unwrap().permissions(), root_mode);

    let number = site.prepare(&nothing(), &second(), Style::Whole);
    let version = nothing().version();
    assert_eq!(discard(&mut site, version), Outcome::Committed { version });
    let left: Vec<_> = fs::read_dir(&site.state).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name == "backup" || name == "temp"), "{left:?}");
    assert_eq!(fs::read_dir(site.state.join("trash")).unwrap().count(), 0);
    let state = site.reopen().state();
    assert_eq!((state.live, state.backup, state.prepared), (Some(version), None, None));
    assert_eq!(refusal(&site.commit(number, second().version())), RefusalCode::NotPrepared, "it was not wanted");
    site.publish(&nothing(), &first(), Style::Whole);
}

#[test]
fn what_the_site_excludes_stays_when_its_content_is_taken_off() {
    let mut site = Site::with(&first());
    site.policy.exclude = vec!["uploads/".to_owned()];
    fs::create_dir(site.live.join("uploads")).unwrap();
    fs::write(site.live.join("uploads/cat.jpg"), "cat").unwrap();
    let number = site.prepare(&first(), &nothing(), Style::Whole);
    assert_eq!(site.commit(number, nothing().version()), Outcome::Committed { version: nothing().version() });
    discard(&mut site, nothing().version());
    let expected = nothing().dir("uploads").file_with("uploads/cat.jpg", "cat", 0o644, -1);
    assert_eq!(site.live_content(), expected);
}

#[test]
fn what_lingers_goes_with_the_discard() {
    let mut site = Site::with(&first());
    site.linger_seconds = 600;
    let number = site.prepare(&first(), &nothing(), Style::Whole);
    site.commit(number, nothing().version());
    assert!(site.live.join("index.html").exists(), "it lingers");
    discard(&mut site, nothing().version());
    assert_eq!(site.live_content(), nothing());
    assert_eq!(site.reopen().sweep_due(), None);
}

#[test]
fn only_beside_the_version_that_it_names_is_anything_dropped() {
    let mut site = taken_off();
    assert_eq!(refusal(&discard(&mut site, first().version())), RefusalCode::BaseMismatch);
    assert!(site.state.join("backup/index.html").exists());
    let old = site.order_file(Kind::Discard, nothing().version());
    site.prepare(&nothing(), &second(), Style::Whole);
    assert_eq!(refusal(&site.handle(&old)), RefusalCode::Sequence, "what was staged since is not dropped");
    assert!(!site.nothing_staged());
}

#[test]
fn a_tree_that_goes_live_by_itself_needs_no_commit_and_can_be_undone() {
    let mut site = Site::with(&first());
    let (number, file) = site.prepare_file_with(&first(), &second(), Style::Delta, |draft, _| draft.kind = Kind::Alone);
    let live = Outcome::Committed { version: second().version() };
    assert_eq!(site.handle(&file), live);
    assert_eq!(site.live_content(), second());
    assert_eq!(site.handle(&file), live, "said again, not done again");
    assert_eq!(site.undo(number), Outcome::Undone { version: Some(first().version()) });
    assert_eq!(site.live_content(), first());
}

#[test]
fn what_goes_live_by_itself_is_verified_as_everything_else() {
    let mut site = Site::with(&second());
    let (_, file) = site.prepare_file_with(&first(), &second(), Style::Delta, |draft, _| draft.kind = Kind::Alone);
    assert_eq!(refusal(&site.handle(&file)), RefusalCode::BaseMismatch);
    assert_eq!(site.live_content(), second());
}
