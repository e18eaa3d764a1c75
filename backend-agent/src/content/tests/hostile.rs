//! Assignments that are signed and still wrong, and third parties that change the trees under the
//! interpreter's hands. Each is refused by name and leaves live as it is.

use std::path::{Path, PathBuf};

use common::assignment::{BlockInfo, Command, Content, Extent, Stretch, pack};
use common::digest::Digest;
use common::manifest::Entry;
use common::outcome::{Outcome, RefusalCode};

use super::SWITCH;
use super::fixture::*;
use crate::content::{Fault, Point, Switch};

fn file(at: &str, size: u64, digest: Digest, content: Content) -> Command {
    Command::WriteFile { path: path(at), mode: 0o644, mtime: 0, size, digest: Some(digest), content }
}

/// Signs commands that change the first tree, with a header that fits what they say they lead to.
fn change(site: &mut Site, commands: &[Command], blocks: &[Packed]) -> Vec<u8> {
    let mut result = first().manifest();
    for command in commands {
        if let Command::WriteFile { path, mode, mtime, size, digest: Some(digest), .. } = command {
            let entry = Entry::File { mode: *mode, size: *size, digest: *digest, mtime: *mtime };
            result.entries.insert(path.clone(), entry);
        }
    }
    site.change_file(&result, commands, blocks)
}

/// Refused with this code and these words, with live and state as they were.
fn assert_refused(site: &mut Site, file: &[u8], code: RefusalCode, words: &str) {
    let before = site.live_content();
    let outcome = site.handle(file);
    assert_eq!(refusal(&outcome), code, "{outcome:?}");
    let Outcome::Refused(refused) = outcome else { unreachable!("checked above") };
    assert!(refused.reason.contains(words), "{:?} does not say {words:?}", refused.reason);
    assert!(site.nothing_staged());
    assert_eq!(site.live_content(), before);
}

/// Cases 10, 11, 28: pieces that lie outside of what they are cut from, also where sums wrap.
#[test]
fn pieces_outside_of_their_block_or_old_file_are_refused() {
    let mut site = Site::with(&first());
    let digest = Digest::of(b"12345");
    for (offset, length) in [(0, 6), (5, 1), (6, 0), (u32::MAX, 2), (1, u32::MAX)] {
        let block = pack(b"12345", None, 3).unwrap();
        let content = Content::Blocks(vec![Extent { block: 0, offset, length }]);
        let bytes = change(&mut site, &[file("x", 5, digest, content)], &[block]);
        assert_refused(&mut site, &bytes, RefusalCode::ResultMismatch, "more than a block has");
    }
    let content = Content::Blocks(vec![Extent { block: 7, offset: 0, length: 1 }]);
    let bytes = change(&mut site, &[file("x", 1, digest, content)], &[]);
    assert_refused(&mut site, &bytes, RefusalCode::BadAssignment, "x");

    let old = noise(1, 5000);
    let file_of = |wanted: &str| {
        let position = first().manifest().files().position(|(path, _, _)| path.as_str() == wanted);
        u32::try_from(position.expect("it is in the tree")).unwrap()
    };
    for (offset, length) in [(1, 5000), (5000, 1), (u64::MAX, 2), (1 << 62, 100), (0, u32::MAX)] {
        let (info, packed) = pack(b"12345", Some(&old), 3).unwrap();
        let reference = vec![Stretch::Part { file: file_of("img/logo.png"), offset, length }];
        let content = Content::Blocks(vec![Extent { block: 0, offset: 0, length: 5 }]);
        let block = (BlockInfo { reference, ..info }, packed);
        let bytes = change(&mut site, &[file("x", 5, digest, content)], &[block]);
        assert_refused(&mut site, &bytes, RefusalCode::BadAssignment, "refers to what the base does not have");
    }
}

/// A reference that is there and is not what the block was packed against.
#[test]
fn a_block_that_was_packed_against_other_old_bytes_is_refused() {
    let mut site = Site::with(&first());
    let new = [noise(1, 5000), b"more".to_vec()].concat();
    let number = |wanted: &str| first().manifest().files().position(|(path, _, _)| path.as_str() == wanted);
    for (name, length) in [("page.html", 3000), ("img/logo.png", 4000)] {
        let (info, packed) = pack(&new, Some(&noise(1, 5000)), 3).unwrap();
        assert!(packed.len() < 100, "nearly all of it stands in the reference");
        let reference = vec![Stretch::Part { file: u32::try_from(number(name).unwrap()).unwrap(), offset: 0, length }];
        let content = Content::Blocks(vec![Extent { block: 0, offset: 0, length: 5004 }]);
        let command = file("x", 5004, Digest::of(&new), content);
        let bytes = change(&mut site, &[command], &[(BlockInfo { reference, ..info }, packed)]);
        let before = site.live_content();
        let code = refusal(&site.handle(&bytes));
        assert!(matches!(code, RefusalCode::ResultMismatch | RefusalCode::BadAssignment), "{name}: {code:?}");
        assert_eq!(site.live_content(), before);
        assert!(site.nothing_staged());
    }
}

/// Case 29: a block that is larger unpacked than it says, and a file made of more than its size.
#[test]
fn what_unpacks_to_more_than_was_declared_is_stopped_there() {
    let mut site = Site::with(&first());
    let bomb = vec![0; 4 << 20];
    let (mut info, packed) = pack(&bomb, None, 3).unwrap();
    assert!(packed.len() < 2000, "it is a bomb");
    info.raw_bytes = 1000;
    let extent = Extent { block: 0, offset: 0, length: 1000 };
    let command = file("x", 1000, Digest::of(&bomb[..1000]), Content::Blocks(vec![extent]));
    let bytes = change(&mut site, &[command], &[(info, packed)]);
    assert_refused(&mut site, &bytes, RefusalCode::BadAssignment, "x");

    let again = Extent { block: 0, offset: 0, length: 5 };
    let content = Content::Blocks(vec![again; 1000]);
    let bytes = change(&mut site, &[file("x", 5, Digest::of(b"12345"), content)], &[pack(b"12345", None, 3).unwrap()]);
    assert_refused(&mut site, &bytes, RefusalCode::ResultMismatch, "longer than it");
    let less = file("x", 9, Digest::of(b"12345"), Content::Blocks(vec![again]));
    let bytes = change(&mut site, &[less], &[pack(b"12345", None, 3).unwrap()]);
    assert_refused(&mut site, &bytes, RefusalCode::ResultMismatch, "x");
}

/// Cases 23 to 26: entries in each other's way, and removals of what is not there.
#[test]
fn commands_that_contradict_each_other_or_the_tree_are_refused() {
    let mut site = Site::with(&first());
    let empty = |at: &str| file(at, 0, Digest::of(b""), Content::Blocks(vec![]));
    let directory = |at: &str| Command::MakeDirectory { path: path(at), mode: 0o755 };
    let remove = |at: &str| Command::Remove { path: path(at) };
    for (commands, words) in [
        (vec![directory("d"), directory("d")], "is in the way"),
        (vec![directory("d"), empty("d")], "is in the way"),
        (vec![empty("d"), directory("d")], "is in the way"),
        (vec![empty("d"), empty("d/below")], "is no directory"),
        (vec![empty("nowhere/x")], "lies in no directory"),
        (vec![remove("nothing")], "is not there"),
        (vec![remove("img")], "lies in no directory"),
        (vec![Command::SetMode { path: path("img/current"), mode: 0o777 }], "is not there to be changed"),
        (vec![Command::SetMode { path: path("img"), mode: 0o4755 }], "content must not have"),
        (vec![Command::SetMode { path: path("img"), mode: 0o100_644 }], "content must not have"),
        (vec![Command::SetMode { path: path("img"), mode: u32::MAX }], "content must not have"),
    ] {
        let bytes = site.change_file(&first().manifest(), &commands, &[]);
        assert_refused(&mut site, &bytes, RefusalCode::BadAssignment, words);
    }
}

/// Case 60: sizes that no disk has, without the data for them.
#[test]
fn sizes_beyond_the_limit_or_the_disk_are_refused_before_anything_is_staged() {
    let mut site = Site::with(&first());
    for (size, code, words) in [
        (u64::MAX, RefusalCode::BadAssignment, "limit"),
        (8 << 60, RefusalCode::BadAssignment, "limit"),
        (8 << 40, RefusalCode::NoSpace, "are needed"),
    ] {
        let bytes = change(&mut site, &[file("x", size, Digest::of(b""), Content::Blocks(vec![]))], &[]);
        assert_refused(&mut site, &bytes, code, words);
    }
}

/// Case 61: times at the ends of what can be written down. File systems hold less; what they make of
/// it is not part of a version.
#[test]
fn times_out_of_all_bounds_harm_nothing() {
    for mtime in [i64::MIN, -1, i64::MAX] {
        let mut site = Site::with(&first());
        let command = Command::WriteFile {
            path: path("x"),
            mode: 0o644,
            mtime,
            size: 0,
            digest: Some(Digest::of(b"")),
            content: Content::Blocks(vec![]),
        };
        let bytes = change(&mut site, &[command], &[]);
        match site.handle(&bytes) {
            Outcome::Prepared { .. } => {}
            outcome @ (Outcome::Refused(_)
            | Outcome::Received
            | Outcome::Missing(_)
            | Outcome::Committed { .. }
            | Outcome::Audited(_)
            | Outcome::CommittedHookFailed { .. }
            | Outcome::Undone { .. }) => assert_eq!(refusal(&outcome), RefusalCode::Io, "{mtime}"),
        }
        assert_eq!(site.live_content(), first());
    }
}

/// Cases 47, 48, 50: names that mean something elsewhere mean nothing here.
#[test]
fn names_of_the_agent_s_own_files_and_links_to_themselves_are_content_like_any_other() {
    let mut site = Site::with(&first());
    let to = first()
        .dir(".shop.pressrun")
        .file(".shop.pressrun/journal", "not the journal")
        .dir("temp")
        .dir("backup")
        .file("lock", "")
        .file("passing", "")
        .link("itself", "itself")
        .link("ring-a", "ring-b")
        .link("ring-b", "ring-a");
    site.publish(&first(), &to, Style::Delta);
    site.publish(&to, &first(), Style::Delta);
}

/// Case 55: what is neither file nor directory in the place of a published file is not waited for.
#[test]
fn a_pipe_or_device_in_live_is_named_and_never_opened() {
    for device in [false, true] {
        let mut site = Site::with(&first());
        let at = site.live.join("page.html");
        std::fs::remove_file(&at).unwrap();
        let arguments: &[&str] = if device { &["c", "1", "3"] } else { &["p"] };
        let made = std::process::Command::new("mknod").arg(&at).args(arguments).status().unwrap();
        if !made.success() {
            eprintln!("skipped: no device can be made here");
            continue;
        }
        let (_, file) = site.prepare_file(&first(), &second(), Style::Delta);
        let outcome = site.handle(&file);
        assert_eq!(refusal(&outcome), RefusalCode::ResultMismatch, "{outcome:?}");
        assert!(site.nothing_staged());
    }
}

/// Puts a link to a directory outside in the place of one being staged, as soon as it is there.
struct Flips {
    temp: PathBuf,
    outside: PathBuf,
}

impl Fault for Flips {
    fn at(&mut self, point: Point) -> std::io::Result<()> {
        let target = self.temp.join("img");
        if point == Point::StageEntry && target.is_dir() && !target.is_symlink() {
            std::fs::rename(&target, self.temp.with_file_name("away")).unwrap();
            std::os::unix::fs::symlink(&self.outside, &target).unwrap();
        }
        Ok(())
    }
}

/// Case 62.
#[test]
fn a_directory_swapped_for_a_link_while_it_is_staged_leads_nowhere() {
    let outside = tempfile::tempdir().unwrap();
    std::fs::create_dir(outside.path().join("deep")).unwrap();
    let mut site = Site::new();
    let (_, file) = site.prepare_file(&TreeContent::default(), &first(), Style::Whole);
    let temp = site.temp();
    let flips = Flips { temp: temp.clone(), outside: outside.path().to_owned() };
    site.trees = Some(site.reopen_with(flips));
    refusal(&site.handle(&file));
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 1, "nothing was made outside");
    assert_eq!(std::fs::read_dir(outside.path().join("deep")).unwrap().count(), 0);
    assert_eq!(site.live_content(), TreeContent::default());
    std::fs::remove_dir_all(temp.with_file_name("away")).unwrap();
    site.reopen();
    assert!(matches!(site.handle(&file), Outcome::Prepared { .. }));
}

/// Case 64.
#[test]
fn live_replaced_by_a_link_between_prepare_and_commit_is_not_switched() {
    let mut site = Site::with(&first());
    let number = site.prepare(&first(), &second(), Style::Delta);
    let elsewhere = site.root.path().join("elsewhere");
    std::fs::rename(&site.live, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &site.live).unwrap();
    assert_eq!(refusal(&site.commit(number, second().version())), RefusalCode::ResultMismatch);
    assert_eq!(std::fs::read_link(&site.live).unwrap(), elsewhere);
    assert_eq!(TreeContent::read(&elsewhere, &[]), first());
    std::fs::remove_file(&site.live).unwrap();
    std::fs::rename(&elsewhere, &site.live).unwrap();
    assert_eq!(site.commit(number, second().version()), Outcome::Committed { version: second().version() });
    assert_eq!(site.live_content(), second());
}

/// Case 59.
#[test]
fn immutable_files_in_live_are_copied_and_an_immutable_live_stays() {
    let chattr = |flag: &str, at: &Path| {
        let done = std::process::Command::new("chattr").arg(flag).arg(at).output();
        done.is_ok_and(|output| output.status.success())
    };
    let mut site = Site::with(&first());
    let logo = site.live.join("img/logo.png");
    if !chattr("+i", &logo) {
        eprintln!("skipped: nothing can be made immutable here");
        return;
    }
    let number = site.prepare(&first(), &second(), Style::Delta);
    // What is switched: live itself, or its entry in the directory around it.
    let switched = match SWITCH {
        Switch::Exchange => site.live.clone(),
        Switch::Symlink => site.root.path().to_owned(),
    };
    assert!(chattr("-i", &logo) && chattr("+i", &switched));
    let outcome = site.commit(number, second().version());
    assert_eq!(refusal(&outcome), RefusalCode::CannotExchange, "{outcome:?}");
    assert_eq!(site.live_content(), first());
    assert!(chattr("-i", &switched));
    assert_eq!(site.commit(number, second().version()), Outcome::Committed { version: second().version() });
    assert_eq!(site.live_content(), second());
}

/// Cases 63, 65, 66.
#[test]
fn mounts_in_the_way_and_file_systems_that_take_nothing_are_refused() {
    on_a_mounted_disk("size=4m,nr_inodes=60", among_mounts);
}

fn mount(arguments: &[&str], at: &Path) {
    assert!(std::process::Command::new("mount").args(arguments).arg(at).status().unwrap().success(), "{arguments:?}");
}

fn unmount(at: &Path) {
    assert!(std::process::Command::new("umount").arg(at).status().unwrap().success(), "{}", at.display());
}

fn among_mounts(dir: &Path) {
    let mut site = Site::at(tempfile::tempdir_in(dir).unwrap());
    site.make_live();
    site.publish(&TreeContent::default(), &first(), Style::Whole);
    let (_, file) = site.prepare_file(&first(), &second(), Style::Delta);

    // Live as a mount point, which is another file system too.
    mount(&["-t", "tmpfs", "tmpfs"], &site.live);
    assert_eq!(refusal(&site.handle(&file)), RefusalCode::CannotExchange);
    unmount(&site.live);

    // A directory of live hidden under another file system.
    mount(&["-t", "tmpfs", "tmpfs"], &site.live.join("img"));
    assert_eq!(refusal(&site.handle(&file)), RefusalCode::ResultMismatch);
    unmount(&site.live.join("img"));

    // The staged tree hidden, between prepare and commit.
    assert!(matches!(site.handle(&file), Outcome::Prepared { .. }));
    let number = common::ids::AssignmentNumber(site.next - 1);
    mount(&["-t", "tmpfs", "tmpfs"], &site.temp());
    assert!(matches!(site.commit(number, second().version()), Outcome::Refused(_)));
    unmount(&site.temp());
    assert_eq!(site.live_content(), first());

    // Read-only.
    site.trees = None;
    mount(&["-o", "remount,ro"], dir);
    assert!(site.open().is_err());
    assert_eq!(site.live_content(), first());
    mount(&["-o", "remount,rw"], dir);

    // More entries than inodes.
    let many = (0..60).fold(first(), |tree, at| tree.file(&format!("file-{at}"), "x"));
    let (_, file) = site.prepare_file(&first(), &many, Style::Delta);
    let outcome = site.handle(&file);
    assert_eq!(refusal(&outcome), RefusalCode::NoSpace, "{outcome:?}");
    assert!(site.nothing_staged());
    assert_eq!(site.live_content(), first());
    site.publish(&first(), &second(), Style::Delta);
}
