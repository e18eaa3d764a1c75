//! Paths that publishing leaves alone.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind, panic_any};

use common::assignment::Kind;
use common::outcome::{Outcome, RefusalCode};

use super::fixture::*;
use crate::content::{Fault, Point};

const OUTSIDE: [&str; 2] = ["uploads", "access.log"];

fn site_with_uploads() -> Site {
    let mut site = Site::new();
    site.policy.exclude = vec!["/uploads/".into(), "*.log".into()];
    site.publish(&TreeContent::default(), &first(), Style::Whole);
    std::fs::create_dir_all(site.live.join("uploads/2026")).unwrap();
    std::fs::write(site.live.join("uploads/cat.jpg"), "cat").unwrap();
    std::fs::write(site.live.join("uploads/2026/dog.jpg"), "dog").unwrap();
    std::fs::write(site.live.join("access.log"), "line 1\n").unwrap();
    std::fs::write(site.live.join("img/deep.log"), "deep\n").unwrap();
    site
}

fn managed(site: &Site) -> TreeContent {
    let mut content = TreeContent::read(&site.live, &OUTSIDE);
    content.0.retain(|path, _| !path.as_str().ends_with(".log"));
    content
}

fn read(site: &Site, name: &str) -> String {
    std::fs::read_to_string(site.live.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn they_keep_inode_and_content_through_swaps_undo_and_rollback() {
    let mut site = site_with_uploads();
    let names = ["uploads", "uploads/cat.jpg", "uploads/2026", "uploads/2026/dog.jpg", "access.log", "img/deep.log"];
    let inodes = names.map(|name| inode(&site.live.join(name)));
    let check = |site: &Site, expected: &TreeContent| {
        assert_eq!(managed(site), *expected);
        assert_eq!(names.map(|name| inode(&site.live.join(name))), inodes);
        assert_eq!(read(site, "uploads/2026/dog.jpg"), "dog");
    };
    let number = site.prepare(&first(), &second(), Style::Delta);
    check(&site, &first());
    site.commit(number, second().version());
    check(&site, &second());
    let number = site.prepare(&second(), &first(), Style::Delta);
    site.commit(number, first().version());
    check(&site, &first());
    assert_eq!(site.undo(number), Outcome::Undone { version: Some(second().version()) });
    check(&site, &second());
    let (number, file) = site.rollback_file(first().version());
    assert_eq!(site.handle(&file), Outcome::Prepared { version: first().version() });
    site.commit(number, first().version());
    check(&site, &first());
    site.trees().clean().unwrap();
    check(&site, &first());
}

#[test]
fn what_is_written_to_them_between_prepare_and_commit_is_there_afterwards() {
    let mut site = site_with_uploads();
    let mut log = File::options().append(true).open(site.live.join("access.log")).unwrap();
    let number = site.prepare(&first(), &second(), Style::Delta);
    log.write_all(b"line 2\n").unwrap();
    std::fs::write(site.live.join("uploads/new.jpg"), "new").unwrap();
    std::fs::remove_file(site.live.join("uploads/cat.jpg")).unwrap();
    std::fs::create_dir(site.live.join("uploads/2027")).unwrap();
    std::fs::write(site.live.join("uploads/2027/late.jpg"), "late").unwrap();
    std::fs::write(site.live.join("uploads/2026/dog.tmp"), "a better dog").unwrap();
    std::fs::rename(site.live.join("uploads/2026/dog.tmp"), site.live.join("uploads/2026/dog.jpg")).unwrap();
    std::fs::write(site.live.join("other.log"), "other").unwrap();
    site.commit(number, second().version());
    log.write_all(b"line 3\n").unwrap();
    assert_eq!(managed(&site), second());
    assert_eq!(read(&site, "access.log"), "line 1\nline 2\nline 3\n");
    assert_eq!(read(&site, "uploads/new.jpg"), "new");
    assert_eq!(read(&site, "uploads/2027/late.jpg"), "late");
    assert_eq!(read(&site, "uploads/2026/dog.jpg"), "a better dog");
    assert_eq!(read(&site, "other.log"), "other");
    assert!(!site.live.join("uploads/cat.jpg").exists(), "what was deleted stays deleted");
}

/// Writes like a web application at the worst moments: between the mirroring and the switch, and
/// between the switch and the moving of the original directories.
struct Writer {
    live: std::path::PathBuf,
    crash: bool,
}

struct Crash;

impl Fault for Writer {
    fn at(&mut self, point: Point) -> std::io::Result<()> {
        let uploads = self.live.join("uploads");
        match point {
            Point::Switch => {
                std::fs::write(uploads.join("before"), "before").unwrap();
                std::fs::write(self.live.join("before.log"), "before").unwrap();
                std::fs::write(self.live.join("rotated"), "rotated before").unwrap();
                std::fs::rename(self.live.join("rotated"), self.live.join("access.log")).unwrap();
            }
            Point::SettleExcluded => {
                std::fs::write(uploads.join("after"), "after").unwrap();
                std::fs::create_dir(uploads.join("dir")).unwrap();
                std::fs::write(uploads.join("dir/after"), "after").unwrap();
                std::fs::write(uploads.join("tmp"), "after").unwrap();
                std::fs::rename(uploads.join("tmp"), uploads.join("cat.jpg")).unwrap();
                if self.crash {
                    panic_any(Crash);
                }
            }
            Point::StageEntry
            | Point::CheckStaged
            | Point::SyncStaged
            | Point::StoreManifest
            | Point::WriteJournal
            | Point::ReplaceJournal
            | Point::FollowSwitch
            | Point::SyncSwitch
            | Point::KeepBackup
            | Point::Discard => {}
        }
        Ok(())
    }
}

#[test]
fn what_is_written_to_them_in_the_middle_of_a_swap_is_there_afterwards() {
    for crash in [false, true] {
        let mut site = site_with_uploads();
        let number = site.prepare(&first(), &second(), Style::Delta);
        let commit = site.order_file(Kind::Commit { prepared: number }, second().version());
        let uploads = inode(&site.live.join("uploads"));
        let mut trees = site.reopen_with(Writer { live: site.live.clone(), crash });
        let outcome =
            catch_unwind(AssertUnwindSafe(|| trees.handle(std::io::Cursor::new(&commit), CLUSTER, OWN, &keys(), NOW)));
        assert_eq!(outcome.is_err(), crash);
        drop(trees);
        site.reopen();
        assert_eq!(site.handle(&commit), Outcome::Committed { version: second().version() });
        assert_eq!(inode(&site.live.join("uploads")), uploads);
        for (name, text) in [
            ("uploads/before", "before"),
            ("uploads/after", "after"),
            ("uploads/dir/after", "after"),
            ("uploads/cat.jpg", "after"),
            ("uploads/2026/dog.jpg", "dog"),
            ("before.log", "before"),
            ("access.log", "rotated before"),
        ] {
            assert_eq!(read(&site, name), text, "{name}, crash: {crash}");
        }
        site.trees().clean().unwrap();
        assert_eq!(read(&site, "uploads/dir/after"), "after");
    }
}

#[test]
fn directories_that_the_new_version_drops_stay_for_what_they_hold() {
    let mut site = site_with_uploads();
    let to = TreeContent::default().file("index.html", "only");
    let number = site.prepare(&first(), &to, Style::Delta);
    site.commit(number, to.version());
    assert_eq!(read(&site, "img/deep.log"), "deep\n");
    assert!(!site.live.join("img/logo.png").exists());
    let number = site.prepare(&to, &first(), Style::Delta);
    site.commit(number, first().version());
    assert_eq!(managed(&site), first());
    assert_eq!(read(&site, "img/deep.log"), "deep\n");
}

#[test]
fn a_version_that_needs_their_place_is_refused() {
    let mut site = site_with_uploads();
    let to = TreeContent::default().file("img", "a file now");
    let (_, file) = site.prepare_file(&first(), &to, Style::Delta);
    assert_eq!(refusal(&site.handle(&file)), RefusalCode::ResultMismatch);
    assert!(site.nothing_staged());
}

#[test]
fn a_directory_with_nothing_else_counts_as_empty() {
    let mut site = Site::new();
    std::fs::create_dir(site.live.join("uploads")).unwrap();
    std::fs::write(site.live.join("uploads/x"), "x").unwrap();
    let (_, file) = site.prepare_file(&TreeContent::default(), &first(), Style::Whole);
    assert_eq!(refusal(&site.handle(&file)), RefusalCode::LiveNotEmpty);
    site.policy.exclude = vec!["/uploads/".into()];
    let number = site.prepare(&TreeContent::default(), &first(), Style::Whole);
    site.commit(number, first().version());
    assert_eq!(read(&site, "uploads/x"), "x");
}

#[test]
fn undoing_a_first_publish_leaves_them_in_place() {
    let mut site = Site::without_live();
    site.policy.create = true;
    site.policy.exclude = vec!["/uploads/".into()];
    let number = site.publish(&TreeContent::default(), &first(), Style::Whole);
    std::fs::create_dir(site.live.join("uploads")).unwrap();
    std::fs::write(site.live.join("uploads/x"), "x").unwrap();
    assert_eq!(site.undo(number), Outcome::Undone { version: None });
    assert_eq!(read(&site, "uploads/x"), "x");
    assert_eq!(TreeContent::read(&site.live, &["uploads"]), TreeContent::default());
    site.trees().clean().unwrap();
    assert_eq!(read(&site, "uploads/x"), "x");
}

#[test]
fn links_and_odd_names_among_them_are_carried_and_never_followed() {
    use std::os::unix::ffi::OsStrExt as _;
    let mut site = site_with_uploads();
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), "secret").unwrap();
    std::os::unix::fs::symlink(outside.path(), site.live.join("uploads/out")).unwrap();
    let odd = site.live.join("uploads").join(std::ffi::OsStr::from_bytes(b"\xff odd"));
    std::fs::write(&odd, "odd").unwrap();
    let number = site.prepare(&first(), &second(), Style::Delta);
    assert!(std::fs::symlink_metadata(site.temp().join("uploads/out")).unwrap().is_symlink());
    site.commit(number, second().version());
    let mut text = String::new();
    File::open(&odd).unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "odd");
    site.prepare(&second(), &first(), Style::Delta);
    site.trees().clean().unwrap();
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1);
}

/// Works on the mirrored directory in the moment in which it is live.
struct InBetween {
    live: std::path::PathBuf,
    held: std::sync::Arc<std::sync::Mutex<Option<File>>>,
    crash: bool,
}

impl Fault for InBetween {
    fn at(&mut self, point: Point) -> std::io::Result<()> {
        let uploads = self.live.join("uploads");
        if point == Point::Switch {
            std::fs::remove_file(uploads.join("mirrored")).unwrap();
            std::fs::rename(uploads.join("mirrored.tmp"), uploads.join("final")).unwrap();
        }
        if point != Point::FollowSwitch {
            return Ok(());
        }
        std::fs::write(uploads.join("new"), "new").unwrap();
        std::fs::rename(uploads.join("cat.tmp"), uploads.join("tom.jpg")).unwrap();
        std::fs::rename(uploads.join("2026"), uploads.join("2027")).unwrap();
        std::fs::remove_file(uploads.join("unwanted")).unwrap();
        std::fs::remove_dir_all(uploads.join("unwanted.d")).unwrap();
        std::fs::create_dir(uploads.join("empty.d")).unwrap();
        *self.held.lock().unwrap() = Some(File::open(uploads).unwrap());
        if self.crash {
            panic_any(Crash);
        }
        Ok(())
    }
}

#[test]
fn what_is_done_to_them_while_their_mirror_is_live_is_done() {
    for crash in [false, true] {
        let mut site = site_with_uploads();
        let uploads = site.live.join("uploads");
        std::fs::write(uploads.join("cat.tmp"), "tom").unwrap();
        for name in ["unwanted", "mirrored", "mirrored.tmp"] {
            std::fs::write(uploads.join(name), "").unwrap();
        }
        std::fs::create_dir_all(uploads.join("unwanted.d/deep")).unwrap();
        std::fs::write(uploads.join("unwanted.d/deep/x"), "").unwrap();
        let number = site.prepare(&first(), &second(), Style::Delta);
        let commit = site.order_file(Kind::Commit { prepared: number }, second().version());
        let held = std::sync::Arc::default();
        let between = InBetween { live: site.live.clone(), held: std::sync::Arc::clone(&held), crash };
        let mut trees = site.reopen_with(between);
        let outcome =
            catch_unwind(AssertUnwindSafe(|| trees.handle(std::io::Cursor::new(&commit), CLUSTER, OWN, &keys(), NOW)));
        assert_eq!(outcome.is_err(), crash);
        if crash {
            drop(trees);
            trees = site.open().unwrap();
        }
        for (name, text) in [("new", "new"), ("tom.jpg", "tom"), ("2027/dog.jpg", "dog"), ("cat.jpg", "cat")] {
            assert_eq!(read(&site, &format!("uploads/{name}")), text, "crash: {crash}");
        }
        let names = |dir: &std::path::Path| -> Vec<String> {
            let names = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
            let mut names: Vec<String> = names.collect();
            names.sort();
            names
        };
        assert_eq!(names(&uploads), ["2027", "cat.jpg", "empty.d", "final", "new", "tom.jpg"], "crash: {crash}");

        // Somebody still has the mirrored directory open; and what came along was removed since.
        std::fs::remove_file(uploads.join("new")).unwrap();
        let held = held.lock().unwrap().take().unwrap();
        let late = std::os::fd::AsRawFd::as_raw_fd(&held);
        std::fs::write(format!("/proc/self/fd/{late}/late"), "late").unwrap();
        trees.clean().unwrap();
        assert_eq!(names(&uploads), ["2027", "cat.jpg", "empty.d", "final", "late", "tom.jpg"], "crash: {crash}");
    }
}

#[test]
fn a_switch_that_is_taken_back_takes_them_back_too() {
    struct Unsynced;
    impl Fault for Unsynced {
        fn at(&mut self, point: Point) -> std::io::Result<()> {
            if point == Point::SyncSwitch { Err(std::io::ErrorKind::Other.into()) } else { Ok(()) }
        }
    }
    let mut site = site_with_uploads();
    let uploads = inode(&site.live.join("uploads"));
    let number = site.prepare(&first(), &second(), Style::Delta);
    let commit = site.order_file(Kind::Commit { prepared: number }, second().version());
    site.trees = Some(site.reopen_with(Unsynced));
    refusal(&site.handle(&commit));
    assert_eq!(managed(&site), first());
    assert_eq!(inode(&site.live.join("uploads")), uploads);
    site.reopen();
    assert_eq!(inode(&site.live.join("uploads")), uploads);
    assert_eq!(site.handle(&commit), Outcome::Committed { version: second().version() });
    assert_eq!(inode(&site.live.join("uploads")), uploads);
}

#[test]
fn what_is_put_late_into_a_mirror_follows_also_after_a_rollback_was_prepared() {
    let mut site = site_with_uploads();
    let number = site.prepare(&first(), &second(), Style::Delta);
    site.commit(number, second().version());
    let held = File::open(site.backup().join("uploads")).unwrap();
    let (number, file) = site.rollback_file(first().version());
    assert_eq!(site.handle(&file), Outcome::Prepared { version: first().version() });
    let late = std::os::fd::AsRawFd::as_raw_fd(&held);
    std::fs::write(format!("/proc/self/fd/{late}/late"), "late").unwrap();
    std::fs::remove_file(site.live.join("uploads/cat.jpg")).unwrap();
    site.commit(number, first().version());
    assert_eq!(read(&site, "uploads/late"), "late");
    assert!(!site.live.join("uploads/cat.jpg").exists(), "what was deleted stays deleted");
}
