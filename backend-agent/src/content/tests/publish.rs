//! Prepare, commit, inventory.

use common::assignment::{Effect, Kind};
use common::outcome::{Outcome, RefusalCode};

use super::fixture::*;

#[test]
fn a_first_publish_fills_an_empty_directory() {
    let mut site = Site::new();
    assert_eq!(site.trees().state().live, None);
    site.publish(&TreeContent::default(), &first(), Style::Whole);
    let state = site.trees().state();
    assert_eq!((state.live, state.backup, state.prepared), (Some(first().version()), None, None));
    assert_eq!(state.sequence.0, 2);
    assert_eq!(site.reopen().state(), state, "the state outlives the process");
    assert_eq!(site.trees().live_manifest().unwrap().unwrap(), first().manifest());
}

#[test]
fn a_missing_live_directory_is_made_only_when_asked() {
    let mut site = Site::without_live();
    let (_, file) = site.prepare_file(&TreeContent::default(), &first(), Style::Whole);
    assert_eq!(refusal(&site.handle(&file)), RefusalCode::LiveMissing);
    assert!(!site.live.exists());
    site.policy.create = true;
    let number = site.prepare(&TreeContent::default(), &first(), Style::Whole);
    assert!(!site.live.exists(), "preparing does not make it");
    assert_eq!(site.commit(number, first().version()), Outcome::Committed { version: first().version() });
    assert_eq!(site.live_content(), first());
}

#[test]
fn a_change_moves_deletes_edits_and_relinks_exactly() {
    let mut site = Site::with(&first());
    let logo = inode(&site.live.join("img/logo.png"));
    site.publish(&first(), &second(), Style::Delta);
    assert_eq!(inode(&site.live.join("img/logo.png")), logo, "what did not change is not written again");
    assert_eq!(TreeContent::read(&site.backup(), &[]), first(), "the old tree is the backup");
    site.publish(&second(), &first(), Style::Delta);
    assert_eq!(site.trees().state().backup, Some(second().version()));
}

#[test]
fn preparing_leaves_live_as_it_is_and_shares_no_inode_that_it_changes() {
    let mut site = Site::with(&first());
    site.prepare(&first(), &second(), Style::Delta);
    assert_eq!(site.live_content(), first());
    for changed in ["index.html", "page.html", "run.cgi"] {
        let (live, temp) = (site.live.join(changed), site.temp().join(changed));
        assert_ne!(inode(&live), inode(&temp), "{changed}");
        std::fs::write(temp, "overwritten in place").unwrap();
    }
    assert_eq!(site.live_content(), first());
}

#[test]
fn unchanged_files_are_hashed_once_however_often_is_published() {
    let mut site = Site::with(&first());
    site.publish(&first(), &second(), Style::Delta);
    site.publish(&second(), &first(), Style::Delta);
    site.trees().clean().unwrap();
    site.reopen();
    let third = first().file("more", "more");
    site.publish(&first(), &third, Style::Delta);
    assert_eq!(site.trees().index.hashed, 1, "only the new file was read");
}

#[test]
fn an_altered_file_in_live_is_noticed_even_with_its_time_put_back() {
    for touched in ["img/logo.png", "page.html"] {
        let mut site = Site::with(&first());
        let at = site.live.join(touched);
        let mut bytes = std::fs::read(&at).unwrap();
        bytes[1000] ^= 0x20;
        std::fs::write(&at, bytes).unwrap();
        set_mtime(&at, 1_700_000_000);
        let before = site.live_content();
        let (_, file) = site.prepare_file(&first(), &second(), Style::Delta);
        assert_eq!(refusal(&site.handle(&file)), RefusalCode::ResultMismatch, "{touched}");
        assert!(site.nothing_staged());
        assert_eq!(site.live_content(), before);
        assert_eq!(site.trees().state().sequence.0, 2, "a refusal does not use up the sequence");
    }
}

#[test]
fn a_link_or_nothing_in_place_of_a_published_entry_is_never_followed() {
    let outside = tempfile::tempdir().unwrap();
    std::fs::create_dir(outside.path().join("deep")).unwrap();
    std::fs::write(outside.path().join("logo.png"), noise(1, 5000)).unwrap();
    for what in ["file", "directory", "gone"] {
        let mut site = Site::with(&first());
        match what {
            "file" => {
                std::fs::remove_file(site.live.join("img/logo.png")).unwrap();
                std::os::unix::fs::symlink(outside.path().join("logo.png"), site.live.join("img/logo.png")).unwrap();
            }
            "directory" => {
                std::fs::remove_dir_all(site.live.join("img")).unwrap();
                std::os::unix::fs::symlink(outside.path(), site.live.join("img")).unwrap();
            }
            _ => std::fs::remove_file(site.live.join("img/logo.png")).unwrap(),
        }
        let (_, file) = site.prepare_file(&first(), &second(), Style::Delta);
        assert_eq!(refusal(&site.handle(&file)), RefusalCode::ResultMismatch, "{what}");
        assert!(site.nothing_staged());
    }
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 2);
}

#[test]
fn an_unpublished_directory_is_adopted_only_when_asked_and_only_differences_are_sent() {
    let mut old = TreeContent::default();
    for n in 0..100_u32 {
        old = old.file(&format!("page-{n}.html"), noise(n + 10, 2000));
    }
    let new = old.clone().file("page-7.html", "changed").file("page-8.html", noise(999, 10));
    let mut site = Site::new();
    old.put(&site.live);

    let (_, file) = site.prepare_file(&TreeContent::default(), &new, Style::Whole);
    assert_eq!(refusal(&site.handle(&file)), RefusalCode::LiveNotEmpty);

    site.policy.adopt = true;
    let (commands_to_new, _) = commands(&TreeContent::default(), &new, Style::Local);
    let inventory = signed(site.draft(Kind::Inventory), Effect::of_order(new.version()), &commands_to_new, &[]);
    let outcome = site.handle(&inventory);
    let changed: Vec<u32> = (0_u32..)
        .zip(&commands_to_new)
        .filter(|(_, command)| matches!(command.path().as_str(), "page-7.html" | "page-8.html"))
        .map(|(at, _)| at)
        .collect();
    let Outcome::Missing(runs) = outcome else { panic!("{outcome:?}") };
    let listed: Vec<u32> = runs.iter().flat_map(|(first, count)| *first..first + count).collect();
    assert_eq!(listed, changed);
    assert!(site.nothing_staged());
    let hashed = site.trees().index.hashed;
    assert!((98..=100).contains(&hashed), "{hashed} files hashed");

    // All content taken for present: refused by name of what is not.
    let (_, file) = site.prepare_file(&TreeContent::default(), &new, Style::Local);
    assert_eq!(refusal(&site.handle(&file)), RefusalCode::ContentMissing);

    let number = site.prepare_mixed(&new, &["page-7.html", "page-8.html"]);
    assert_eq!(site.trees().index.hashed - hashed, 2, "adoption hashes each file once");
    assert_eq!(site.commit(number, new.version()), Outcome::Committed { version: new.version() });
    assert_eq!(site.live_content(), new);
    assert_eq!(TreeContent::read(&site.backup(), &[]), old);
    assert_eq!(site.undo(number), Outcome::Undone { version: None });
    assert_eq!(site.live_content(), old, "what was adopted comes back whole");
}

#[test]
fn content_is_found_in_the_backup_too() {
    let mut site = Site::with(&first());
    site.publish(&first(), &second(), Style::Delta);
    site.publish(&TreeContent::default(), &first(), Style::Local);
    assert_eq!(
        refusal(&{
            let (_, file) = site.prepare_file(&TreeContent::default(), &first().file("x", "nowhere"), Style::Local);
            site.handle(&file)
        }),
        RefusalCode::ContentMissing
    );
    assert!(site.nothing_staged());
}

#[test]
fn a_newer_prepare_takes_the_place_of_an_uncommitted_one() {
    let mut site = Site::with(&first());
    let old = site.prepare(&first(), &second(), Style::Delta);
    let third = first().file("third", "3");
    let new = site.prepare(&first(), &third, Style::Delta);
    assert_eq!(site.trees().state().prepared, Some((new, third.version())));
    assert_eq!(refusal(&site.commit(old, second().version())), RefusalCode::NotPrepared);
    assert_eq!(site.commit(new, third.version()), Outcome::Committed { version: third.version() });
    assert_eq!(site.live_content(), third);
}

#[test]
fn what_comes_twice_is_answered_twice_and_done_once() {
    let mut site = Site::with(&first());
    let (number, prepare) = site.prepare_file(&first(), &second(), Style::Delta);
    let prepared = Outcome::Prepared { version: second().version() };
    assert_eq!(site.handle(&prepare), prepared);
    let staged = inode(&site.temp());
    assert_eq!(site.handle(&prepare), prepared);
    assert_eq!(inode(&site.temp()), staged);
    let commit = site.order_file(Kind::Commit { prepared: number }, second().version());
    let committed = Outcome::Committed { version: second().version() };
    assert_eq!(site.handle(&commit), committed);
    site.reopen();
    assert_eq!(site.handle(&commit), committed);
    assert_eq!(site.handle(&prepare), prepared);
    assert_eq!(site.commit(number, second().version()), committed, "another commit of the same");
    assert_eq!(inode(&site.live.canonicalize().unwrap()), staged);
}

#[test]
fn a_commit_after_its_deadline_is_refused() {
    let mut site = Site::with(&first());
    let number = site.prepare(&first(), &second(), Style::Delta);
    let commit = site.order_file(Kind::Commit { prepared: number }, second().version());
    let deadline = NOW.after(std::time::Duration::from_secs(60));
    site.now = common::time::WallTime(deadline.0 + 1);
    assert_eq!(refusal(&site.handle(&commit)), RefusalCode::NotPrepared);
    assert_eq!(site.live_content(), first());
    let now = site.now;
    assert_eq!(site.trees().drop_expired(deadline), Ok(None));
    assert_eq!(site.trees().drop_expired(now), Ok(Some(number)));
    assert!(site.nothing_staged());
    site.now = deadline;
    assert_eq!(refusal(&site.handle(&commit)), RefusalCode::NotPrepared, "nothing is prepared any more");
}

#[test]
fn a_commit_on_the_last_moment_is_in_time() {
    let mut site = Site::with(&first());
    let number = site.prepare(&first(), &second(), Style::Delta);
    site.now = NOW.after(std::time::Duration::from_secs(60));
    assert_eq!(site.commit(number, second().version()), Outcome::Committed { version: second().version() });
}

#[test]
fn an_unknown_base_version_is_refused_with_both_versions_named() {
    let mut site = Site::with(&first());
    let third = first().file("x", "y");
    let (_, file) = site.prepare_file(&third, &second(), Style::Delta);
    let outcome = site.handle(&file);
    assert_eq!(refusal(&outcome), RefusalCode::BaseMismatch);
    let Outcome::Refused(refused) = outcome else { unreachable!("checked above") };
    assert!(refused.reason.contains(&third.version().to_string()), "{}", refused.reason);
    assert!(refused.reason.contains(&first().version().to_string()), "{}", refused.reason);
}

#[test]
fn live_is_never_missing_for_whoever_opens_it_during_swaps() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let mut site = Site::with(&first());
    site.publish(&first(), &second(), Style::Delta);
    let page = site.live.join("index.html");
    let done = AtomicBool::new(false);
    let opened = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut opened = 0_u32;
            while !done.load(Ordering::Relaxed) {
                let text = std::fs::read_to_string(&page).expect("it is always there");
                assert!(text == "<h1>one</h1>" || text == "<h1>two</h1>", "{text:?}");
                opened += 1;
            }
            opened
        });
        for to in [first(), second()].iter().cycle().take(60) {
            let (number, file) = site.rollback_file(to.version());
            assert!(matches!(site.handle(&file), Outcome::Prepared { .. }));
            site.commit(number, to.version());
        }
        done.store(true, Ordering::Relaxed);
        reader.join()
    });
    assert!(opened.expect("no open failed") > 60, "the reader was there all the time");
}
