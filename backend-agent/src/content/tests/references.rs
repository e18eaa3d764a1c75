//! Data that refers to old files, files without a digest of their own, and what is decided by hand.

use common::assignment::{Command, Stretch};
use common::ids::AssignmentNumber;
use common::outcome::{Outcome, RefusalCode};

use super::fixture::*;

/// The first content with one byte of one file changed.
fn edited() -> TreeContent {
    let mut page = noise(2, 3000);
    page[7] ^= 1;
    first().file("page.html", page)
}

/// From the first content to one edit of it, without a digest for any file.
fn edit_without_digests(site: &mut Site) -> (TreeContent, Vec<u8>) {
    let to = edited();
    let (mut commands, blocks) = commands(&first(), &to, Style::Delta);
    for command in &mut commands {
        if let Command::WriteFile { digest, .. } = command {
            *digest = None;
        }
    }
    let file = site.change_file(&to.manifest(), &commands, &blocks);
    (to, file)
}

#[test]
fn digests_that_nobody_said_show_when_the_data_is_there() {
    let mut site = Site::with(&first());
    let (to, file) = edit_without_digests(&mut site);
    assert_eq!(site.handle(&file), Outcome::Prepared { version: to.version() });
}

#[test]
fn data_that_leads_elsewhere_is_refused_though_no_digest_was_said() {
    let mut site = Site::with(&first());
    let to = first().file("lie", "what was signed");
    let (mut commands, _) = commands(&first(), &to, Style::Delta);
    let Some(Command::WriteFile { digest, .. }) = commands.last_mut() else { panic!("a file is written") };
    *digest = None;
    let lie = common::assignment::pack(b"what was packed", None, 3).unwrap();
    let file = site.change_file(&to.manifest(), &commands, &[lie]);
    let Outcome::Refused(refused) = site.handle(&file) else { panic!("it was accepted") };
    assert_eq!(refused.code, RefusalCode::ResultMismatch);
    assert!(refused.reason.contains("what was staged is version"), "{}", refused.reason);
    assert!(site.nothing_staged());
}

#[test]
fn an_old_file_that_was_altered_is_named_when_a_change_does_not_fit_it() {
    let mut site = Site::with(&first());
    let (_, file) = edit_without_digests(&mut site);
    let page = site.live.join("page.html");
    let mut altered = std::fs::read(&page).unwrap();
    altered.iter_mut().for_each(|byte| *byte ^= 1);
    std::fs::write(&page, altered).unwrap();
    let Outcome::Refused(refused) = site.handle(&file) else { panic!("it was accepted") };
    assert_eq!(refused.code, RefusalCode::ResultMismatch);
    assert!(refused.reason.contains("page.html"), "{}", refused.reason);
    assert!(site.nothing_staged());
}

#[test]
fn references_beyond_the_base_or_the_limit_are_refused() {
    let mut site = Site::with(&first());
    for reference in [
        vec![Stretch::Files { first: 99, count: 1 }],
        vec![Stretch::Files { first: 0, count: u32::MAX }],
        vec![Stretch::Files { first: u32::MAX, count: 2 }],
        vec![Stretch::Part { file: 0, offset: u64::MAX, length: 2 }],
        vec![Stretch::Part { file: 0, offset: 0, length: u32::MAX }],
    ] {
        let to = edited();
        let (commands, mut blocks) = commands(&first(), &to, Style::Delta);
        blocks[0].0.reference = reference;
        let file = site.change_file(&to.manifest(), &commands, &blocks);
        let Outcome::Refused(refused) = site.handle(&file) else { panic!("it was accepted") };
        assert_eq!(refused.code, RefusalCode::BadAssignment);
        assert!(refused.reason.contains("refers to what the base does not have"), "{}", refused.reason);
    }
    assert!(site.nothing_staged());
}

#[test]
fn what_another_tool_brought_is_taken_for_a_version_only_if_it_is_that_version() {
    let mut site = Site::with(&first());
    site.trees = None;
    std::fs::remove_dir_all(&site.state).unwrap();
    assert_eq!(site.trees().state().live, None);
    let refused = site.trees().take_for(second().version(), &[]).expect_err("it is another one");
    assert_eq!(refused.code, RefusalCode::BaseMismatch);
    assert_eq!(site.trees().state().live, None);
    site.trees().take_for(first().version(), &[]).expect("it is this one");
    assert_eq!(site.trees().state().live, Some(first().version()));
    let number = site.prepare(&first(), &second(), Style::Delta);
    assert_eq!(site.trees().commit_by_hand(number), Outcome::Committed { version: second().version() });
    assert_eq!(site.live_content(), second());
    assert_eq!(site.trees().commit_by_hand(number), Outcome::Committed { version: second().version() });
    let Outcome::Refused(refused) = site.trees().commit_by_hand(AssignmentNumber(999)) else { panic!("it was not") };
    assert_eq!(refused.code, RefusalCode::NotPrepared);
}
