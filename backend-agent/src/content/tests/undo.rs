//! Undo and rollback.

use common::assignment::Kind;
use common::ids::AssignmentNumber;
use common::outcome::{Outcome, RefusalCode};

use super::fixture::*;

fn rollback(site: &mut Site, to: &TreeContent) -> (AssignmentNumber, Outcome) {
    let (number, file) = site.rollback_file(to.version());
    (number, site.handle(&file))
}

#[test]
fn undoing_what_is_only_prepared_drops_it() {
    let mut site = Site::with(&first());
    let number = site.prepare(&first(), &second(), Style::Delta);
    assert_eq!(site.undo(number), Outcome::Undone { version: Some(first().version()) });
    assert!(site.nothing_staged());
    assert_eq!(site.trees().state().prepared, None);
    assert_eq!(refusal(&site.commit(number, second().version())), RefusalCode::NotPrepared);
    assert_eq!(site.live_content(), first());
}

#[test]
fn undoing_a_commit_brings_the_version_before_back() {
    let mut site = Site::with(&first());
    let number = site.publish(&first(), &second(), Style::Delta);
    let undone = Outcome::Undone { version: Some(first().version()) };
    assert_eq!(site.undo(number), undone);
    assert_eq!(site.live_content(), first());
    assert_eq!(site.trees().state().live, Some(first().version()));
    site.reopen();
    assert_eq!(site.undo(number), undone, "again changes nothing");
    assert_eq!(site.live_content(), first());
    assert_eq!(refusal(&site.commit(number, second().version())), RefusalCode::NotPrepared);
    site.publish(&first(), &second(), Style::Delta);
}

#[test]
fn a_repeated_commit_is_not_answered_from_memory_after_its_undo() {
    let mut site = Site::with(&first());
    let (number, prepare) = site.prepare_file(&first(), &second(), Style::Delta);
    site.handle(&prepare);
    let commit = site.order_file(Kind::Commit { prepared: number }, second().version());
    site.handle(&commit);
    site.undo(number);
    assert_eq!(refusal(&site.handle(&commit)), RefusalCode::NotPrepared);
    assert!(matches!(refusal(&site.handle(&prepare)), RefusalCode::Sequence));
    assert_eq!(site.live_content(), first());
}

#[test]
fn an_undo_that_comes_before_its_prepare_and_commit_keeps_them_out() {
    let mut site = Site::with(&first());
    let (number, prepare) = site.prepare_file_with(&first(), &second(), Style::Delta, |draft, _| {
        draft.sequence.0 = 100;
    });
    assert_eq!(site.undo(number), Outcome::Undone { version: Some(first().version()) });
    assert_eq!(refusal(&site.handle(&prepare)), RefusalCode::NotPrepared);
    assert_eq!(refusal(&site.commit(number, second().version())), RefusalCode::NotPrepared);
    assert!(site.nothing_staged());
    assert_eq!(site.live_content(), first());
}

#[test]
fn an_undo_of_an_older_commit_is_refused_and_not_claimed() {
    let mut site = Site::with(&first());
    let older = site.publish(&first(), &second(), Style::Delta);
    let third = second().file("third", "3");
    site.publish(&second(), &third, Style::Delta);
    assert_eq!(refusal(&site.undo(older)), RefusalCode::BackupMissing);
    assert_eq!(site.live_content(), third);
}

#[test]
fn undoing_the_first_publish_leaves_what_was_there_before() {
    let mut site = Site::without_live();
    site.policy.create = true;
    let number = site.publish(&TreeContent::default(), &first(), Style::Whole);
    assert_eq!(site.undo(number), Outcome::Undone { version: None });
    assert!(!site.live.exists());
    assert_eq!(site.reopen().state().live, None);
    site.publish(&TreeContent::default(), &second(), Style::Whole);

    let mut site = Site::new();
    let number = site.publish(&TreeContent::default(), &first(), Style::Whole);
    assert_eq!(site.undo(number), Outcome::Undone { version: None });
    assert_eq!(site.live_content(), TreeContent::default());
}

#[test]
fn an_undo_drops_what_was_prepared_on_top_of_it() {
    let mut site = Site::with(&first());
    let number = site.publish(&first(), &second(), Style::Delta);
    let third = second().file("third", "3");
    let on_top = site.prepare(&second(), &third, Style::Delta);
    assert_eq!(site.undo(number), Outcome::Undone { version: Some(first().version()) });
    assert!(site.nothing_staged());
    assert_eq!(refusal(&site.commit(on_top, third.version())), RefusalCode::NotPrepared);
}

#[test]
fn a_rollback_goes_back_without_data_and_forward_again() {
    let mut site = Site::with(&first());
    site.publish(&first(), &second(), Style::Delta);
    site.reopen();
    for to in [first(), second(), first()] {
        let (number, outcome) = rollback(&mut site, &to);
        assert_eq!(outcome, Outcome::Prepared { version: to.version() });
        assert_eq!(site.commit(number, to.version()), Outcome::Committed { version: to.version() });
        assert_eq!(site.live_content(), to);
        assert_eq!(site.trees().index.hashed, 0, "nothing had to be read");
    }
    assert_eq!(site.trees().state().backup, Some(second().version()));
}

#[test]
fn a_rollback_can_be_undone_before_and_after_its_commit() {
    let mut site = Site::with(&first());
    site.publish(&first(), &second(), Style::Delta);
    let (number, _) = rollback(&mut site, &first());
    assert_eq!(site.undo(number), Outcome::Undone { version: Some(second().version()) });
    assert_eq!(site.trees().state().backup, Some(first().version()), "the backup stays");
    let (number, _) = rollback(&mut site, &first());
    site.commit(number, first().version());
    assert_eq!(site.undo(number), Outcome::Undone { version: Some(second().version()) });
    assert_eq!(site.live_content(), second());
}

#[test]
fn a_rollback_to_anything_but_the_backup_is_refused() {
    let mut site = Site::with(&first());
    let (_, outcome) = rollback(&mut site, &second());
    assert_eq!(refusal(&outcome), RefusalCode::BackupMissing);
    site.publish(&first(), &second(), Style::Delta);
    let (_, outcome) = rollback(&mut site, &first().file("x", "x"));
    assert_eq!(refusal(&outcome), RefusalCode::BackupMissing);
}

#[test]
fn a_rollback_to_an_altered_backup_is_refused() {
    for what in ["altered", "more", "less", "mode"] {
        let mut site = Site::with(&first());
        site.publish(&first(), &second(), Style::Delta);
        let backup = site.backup();
        match what {
            "altered" => {
                std::fs::write(backup.join("index.html"), "<h1>bad</h1>").unwrap();
                set_mtime(&backup.join("index.html"), 1_700_000_000);
            }
            "more" => std::fs::write(backup.join("shell.php"), "").unwrap(),
            "less" => std::fs::remove_file(backup.join("empty")).unwrap(),
            _ => std::fs::set_permissions(
                backup.join("index.html"),
                std::os::unix::fs::PermissionsExt::from_mode(0o4755),
            )
            .unwrap(),
        }
        let (_, outcome) = rollback(&mut site, &first());
        assert_eq!(refusal(&outcome), RefusalCode::ResultMismatch, "{what}");
        assert_eq!(site.live_content(), second());
        assert_eq!(site.trees().state().prepared, None);
    }
}

#[test]
fn a_rollback_to_what_is_live_is_acknowledged_and_drops_what_was_prepared() {
    let mut site = Site::with(&first());
    let live = inode(&site.live);
    site.prepare(&first(), &second(), Style::Delta);
    let (number, outcome) = rollback(&mut site, &first());
    assert_eq!(outcome, Outcome::Prepared { version: first().version() });
    assert!(site.nothing_staged());
    assert_eq!(site.commit(number, first().version()), Outcome::Committed { version: first().version() });
    assert_eq!(inode(&site.live), live);
}

#[test]
fn what_was_live_already_stays_live_when_it_is_undone() {
    let mut site = Site::with(&first());
    let (number, _) = rollback(&mut site, &first());
    let committed = Outcome::Committed { version: first().version() };
    assert_eq!(site.commit(number, first().version()), committed);
    assert_eq!(site.commit(number, first().version()), committed, "asked again under another number");
    assert_eq!(site.undo(number), Outcome::Undone { version: Some(first().version()) });
    assert_eq!(site.live_content(), first());
    assert_eq!(refusal(&site.commit(number, first().version())), RefusalCode::NotPrepared, "it was undone");
}
