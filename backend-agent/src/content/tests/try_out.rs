//! Trees are tried out before they count as prepared.

use std::sync::mpsc;

use common::assignment::Kind;
use common::outcome::{Outcome, RefusalCode};

use super::fixture::*;
use crate::hooks::HookFailed;

fn failed() -> HookFailed {
    HookFailed::Start { program: "/bin/try".to_owned(), source: std::io::ErrorKind::NotFound.into() }
}

#[test]
fn the_staged_tree_is_shown_whole_with_its_version_before_it_counts() {
    let mut site = Site::with(&first());
    let (shown, seen) = mpsc::channel();
    let show = move |tree: &std::path::Path, version| {
        shown.send((TreeContent::read(tree, &[]), version)).expect("the test listens");
        Ok(())
    };
    site.trees().set_try_out(Box::new(show));
    let number = site.prepare(&first(), &second(), Style::Delta);
    assert_eq!(seen.try_recv(), Ok((second(), second().version())));
    assert_eq!(site.commit(number, second().version()), Outcome::Committed { version: second().version() });
    assert!(seen.try_recv().is_err(), "a commit shows nothing");
    let back = site.order_file(Kind::Rollback, first().version());
    assert_eq!(site.handle(&back), Outcome::Prepared { version: first().version() });
    assert_eq!(seen.try_recv(), Ok((first(), first().version())), "the backup is tried out, too");
}

#[test]
fn what_does_not_pass_is_not_prepared_and_can_be_tried_again() {
    let mut site = Site::with(&first());
    site.trees().set_try_out(Box::new(|_, _| Err(failed())));
    let (_, file) = site.prepare_file(&first(), &second(), Style::Delta);
    assert_eq!(refusal(&site.handle(&file)), RefusalCode::HookFailed);
    assert_eq!(site.trees().state().prepared, None);
    assert!(!site.state.join("temp").exists());
    assert_eq!(site.live_content(), first());
    site.trees().set_try_out(Box::new(|_, _| Ok(())));
    site.publish(&first(), &second(), Style::Delta);
    assert_eq!(site.live_content(), second());
}

#[test]
fn what_a_hook_does_to_the_tree_does_not_go_live() {
    let mut site = Site::with(&first());
    let alter = |tree: &std::path::Path, _| {
        std::fs::write(tree.join("index.html"), "altered").expect("writes");
        Ok(())
    };
    site.trees().set_try_out(Box::new(alter));
    let (_, file) = site.prepare_file(&first(), &second(), Style::Delta);
    assert_eq!(refusal(&site.handle(&file)), RefusalCode::ResultMismatch);
    let add = |tree: &std::path::Path, _| {
        std::fs::write(tree.join("left-behind.log"), "a line").expect("writes");
        Ok(())
    };
    site.trees().set_try_out(Box::new(add));
    let (_, file) = site.prepare_file(&first(), &second(), Style::Delta);
    assert_eq!(refusal(&site.handle(&file)), RefusalCode::ResultMismatch);
    assert_eq!(site.live_content(), first());
}
