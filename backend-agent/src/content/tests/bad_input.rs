//! What must be refused, and must leave everything as it is.

use std::io::Cursor;
use std::path::Path;

use common::assignment::{AssignmentReader, Command, Content, Effect, Header, Kind, Limits};
use common::digest::Digest;
use common::ids::{ClusterId, ServerId};
use common::outcome::{Outcome, RefusalCode};

use super::SWITCH;
use super::fixture::*;
use crate::content::{Fault, OpenError, Point, SiteTrees, Switch, TreePolicy};

#[test]
fn a_flipped_bit_anywhere_is_refused_and_changes_nothing() {
    let mut site = Site::with(&first());
    let (_, file) = site.prepare_file(&first(), &first().file("small", "small thing"), Style::Delta);
    let state = site.trees().state();
    for at in 0..file.len() {
        let mut damaged = file.clone();
        damaged[at] ^= 1 << (at % 8);
        assert_eq!(refusal(&site.handle(&damaged)), RefusalCode::BadAssignment, "byte {at}");
        assert!(site.nothing_staged(), "byte {at}");
    }
    assert_eq!(site.trees().state(), state);
    assert_eq!(site.live_content(), first());
    assert!(matches!(site.handle(&file), Outcome::Prepared { .. }), "the whole one is still good");
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let mut site = Site::with(&first());
    let (_, file) = site.prepare_file(&first(), &second(), Style::Delta);
    for length in (0..file.len()).step_by(7) {
        assert_eq!(refusal(&site.handle(&file[..length])), RefusalCode::BadAssignment, "cut to {length}");
    }
    assert_eq!(site.live_content(), first());
}

#[test]
fn an_assignment_for_somebody_else_is_refused() {
    let mut site = Site::with(&first());
    let (_, other_target) = site.prepare_file_with(&first(), &second(), Style::Delta, |draft, _| {
        draft.targets = vec![ServerId([3; 16])];
    });
    assert_eq!(refusal(&site.handle(&other_target)), RefusalCode::BadAssignment);
    let (_, other_cluster) = site.prepare_file_with(&first(), &second(), Style::Delta, |draft, _| {
        draft.cluster = ClusterId([9; 16]);
    });
    assert_eq!(refusal(&site.handle(&other_cluster)), RefusalCode::BadAssignment);
    let (_, other_site) = site.prepare_file_with(&first(), &second(), Style::Delta, |draft, _| {
        draft.site = "blog".parse().unwrap();
    });
    assert_eq!(refusal(&site.handle(&other_site)), RefusalCode::BadAssignment);
    assert!(site.nothing_staged());
}

#[test]
fn what_is_not_above_the_high_water_mark_is_refused() {
    let mut site = Site::with(&first());
    let mark = site.trees().state().sequence;
    for sequence in [0, mark.0] {
        let (_, file) = site.prepare_file_with(&first(), &second(), Style::Delta, |draft, _| {
            draft.sequence.0 = sequence;
        });
        assert_eq!(refusal(&site.handle(&file)), RefusalCode::Sequence);
    }
    let (_, file) = site.prepare_file_with(&first(), &second(), Style::Delta, |draft, _| draft.sequence.0 = mark.0 + 1);
    assert!(matches!(site.handle(&file), Outcome::Prepared { .. }));
}

#[test]
fn what_has_expired_is_refused() {
    let mut site = Site::with(&first());
    let (_, file) = site.prepare_file_with(&first(), &second(), Style::Delta, |draft, _| draft.expires.0 = NOW.0 - 1);
    assert_eq!(refusal(&site.handle(&file)), RefusalCode::Expired);
    let (_, file) = site.prepare_file_with(&first(), &second(), Style::Delta, |draft, _| draft.expires = NOW);
    assert!(matches!(site.handle(&file), Outcome::Prepared { .. }));
}

#[test]
fn a_result_that_is_not_what_the_commands_lead_to_is_refused() {
    let mut site = Site::with(&first());
    let (_, file) =
        site.prepare_file_with(&first(), &second(), Style::Delta, |_, effect| effect.result = first().version());
    assert_eq!(refusal(&site.handle(&file)), RefusalCode::BadAssignment);
    let (_, file) = site.prepare_file_with(&first(), &second(), Style::Delta, |_, effect| effect.result_bytes += 1);
    assert_eq!(refusal(&site.handle(&file)), RefusalCode::BadAssignment);
}

#[test]
fn content_with_another_digest_than_its_command_says_is_refused() {
    let mut site = Site::with(&first());
    let to = first().file("lie", "what was signed");
    let (commands, _) = commands(&first(), &to, Style::Delta);
    let lie = common::assignment::pack(b"what was packed", None, 3).unwrap();
    let file = site.change_file(&to.manifest(), &commands, &[lie]);
    assert_eq!(refusal(&site.handle(&file)), RefusalCode::ResultMismatch);
    assert!(site.nothing_staged());
}

/// Replaces text in a tree's commands where the types would not let it be written, and signs that.
fn forged(site: &mut Site, name: &str, with: &str) -> Vec<u8> {
    forged_with(site, name, with, |_, _| ())
}

/// [`forged`], with another header or another length of the block table.
fn forged_with(site: &mut Site, name: &str, with: &str, change: impl FnOnce(&mut Header, &mut u64)) -> Vec<u8> {
    assert_eq!(name.len(), with.len());
    let commands = vec![Command::WriteFile {
        path: path(name),
        mode: 0o644,
        mtime: 0,
        size: 0,
        digest: None,
        content: Content::Blocks(vec![]),
    }];
    let header = site.order_file(Kind::Prepare, first().version());
    let header = AssignmentReader::open(Cursor::new(header), &keys(), &Limits::default());
    let header = header.unwrap().header().clone();
    let mut raw = common::assignment::encode_commands(&commands, &[]);
    let at = raw.windows(name.len()).position(|window| window == name.as_bytes()).unwrap();
    raw[at..at + name.len()].copy_from_slice(with.as_bytes());
    // A stored frame: magic, one segment, raw block.
    let mut packed = vec![0x28, 0xb5, 0x2f, 0xfd, 0x20, u8::try_from(raw.len()).unwrap()];
    let block = (u32::try_from(raw.len()).unwrap() << 3) | 1;
    packed.extend_from_slice(&block.to_le_bytes()[..3]);
    packed.extend_from_slice(&raw);
    // The same for an empty table.
    let table = [0x28, 0xb5, 0x2f, 0xfd, 0x20, 1, 9, 0, 0, 0];
    let mut header = Header {
        commands: 1,
        commands_packed_bytes: packed.len() as u64,
        commands_raw_bytes: raw.len() as u64,
        commands_digest: Digest::of(&packed),
        blocks_digest: Digest::of(&table),
        ..header
    };
    let mut table_bytes = table.len() as u64;
    change(&mut header, &mut table_bytes);
    let header = postcard::to_stdvec(&header).unwrap();
    let signature = key().key.sign(common::assignment::HEADER_DOMAIN, &header);
    let mut file = Vec::from(common::assignment::MAGIC);
    file.extend_from_slice(&common::assignment::FORMAT.to_le_bytes());
    file.extend_from_slice(&u32::try_from(header.len()).unwrap().to_le_bytes());
    file.extend_from_slice(&header);
    file.extend_from_slice(&1_u32.to_le_bytes());
    file.extend_from_slice(&signature.0);
    file.extend_from_slice(&packed);
    file.extend_from_slice(&table_bytes.to_le_bytes());
    file.extend_from_slice(&table);
    file
}

#[test]
fn signed_lengths_and_counts_that_are_not_true_are_refused_however_large() {
    type Change = fn(&mut Header, &mut u64, u64);
    let parts: [(&str, Change); 7] = [
        ("commands", |header, _, value| header.commands = u32::try_from(value).unwrap_or(u32::MAX)),
        ("packed commands", |header, _, value| header.commands_packed_bytes = value),
        ("unpacked commands", |header, _, value| header.commands_raw_bytes = value),
        ("blocks", |header, _, value| header.blocks = u32::try_from(value).unwrap_or(u32::MAX)),
        ("data", |header, _, value| header.data_bytes = value),
        ("block table", |_, table_bytes, value| *table_bytes = value),
        // The two that sum up a tree are compared with what the commands lead to.
        ("content", |header, _, value| header.result_bytes = value),
    ];
    let mut site = Site::new();
    for value in [(1 << 31) - 1, (1 << 32) - 1, 1 << 32, 1 << 63, u64::MAX - 1, u64::MAX] {
        for (part, change) in parts {
            let file = forged_with(&mut site, "abc", "abc", |header, table| change(header, table, value));
            let Outcome::Refused(refused) = site.handle(&file) else { panic!("{part} of {value} was accepted") };
            assert_eq!(refused.code, RefusalCode::BadAssignment, "{part} of {value}: {}", refused.reason);
        }
        // That of the header itself stands before everything that is signed.
        let mut file = forged(&mut site, "abc", "abc");
        file[10..14].copy_from_slice(&u32::try_from(value).unwrap_or(u32::MAX).to_le_bytes());
        assert_eq!(refusal(&site.handle(&file)), RefusalCode::BadAssignment, "a header of {value}");
    }
    assert!(site.nothing_staged());
}

/// The order of the group that Ed25519 signs in.
const ED25519_ORDER: [u8; 32] = [
    0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
];

#[test]
fn a_signature_in_another_form_than_the_one_it_has_is_refused() {
    let mut site = Site::with(&first());
    let (_, file) = site.prepare_file(&first(), &second(), Style::Delta);
    let header_bytes = u32::from_le_bytes(file[10..14].try_into().unwrap()) as usize;
    let at = 14 + header_bytes + 4;

    // Its second half is a number modulo the order; with the order added it means the same.
    let mut same_again = file.clone();
    let mut carry = 0;
    for (byte, order) in same_again[at + 32..at + 64].iter_mut().zip(ED25519_ORDER) {
        let sum = u16::from(*byte) + u16::from(order) + carry;
        (*byte, carry) = (sum.to_le_bytes()[0], sum >> 8);
    }
    assert_eq!(carry, 0, "the sum has room");
    assert_eq!(refusal(&site.handle(&same_again)), RefusalCode::BadAssignment);

    // The neutral point and zero, which prove nothing.
    let mut small = file.clone();
    small[at..at + 64].fill(0);
    small[at] = 1;
    assert_eq!(refusal(&site.handle(&small)), RefusalCode::BadAssignment);
    assert!(site.nothing_staged());
    assert!(matches!(site.handle(&file), Outcome::Prepared { .. }), "the whole one is still good");
}

#[test]
fn names_that_leave_the_tree_are_refused_even_when_signed() {
    let mut site = Site::new();
    // The forgery itself works: a good name is read and fails only for its result.
    let good = forged(&mut site, "abc/def", "abc-def");
    let Outcome::Refused(refused) = site.handle(&good) else { panic!("the result is wrong") };
    assert!(refused.reason.contains("lead to version"), "{}", refused.reason);
    for bad in ["../evil", "/ab/def", "a/../b/", "a//defg", "abc/de\0", "..", "./a"] {
        let name = "x".repeat(bad.len());
        let file = forged(&mut site, &name, bad);
        let Outcome::Refused(refused) = site.handle(&file) else { panic!("{bad:?} was accepted") };
        assert_eq!(refused.code, RefusalCode::BadAssignment);
        assert!(refused.reason.contains("malformed"), "{bad:?}: {}", refused.reason);
    }
    // Live and its state, and where live is a link, its tree.
    let expected = if SWITCH == Switch::Symlink { 3 } else { 2 };
    assert_eq!(std::fs::read_dir(site.root.path()).unwrap().count(), expected);
}

#[test]
fn links_that_leave_the_tree_and_entries_below_links_are_refused() {
    let mut site = Site::new();
    let link = |target: &str| Command::MakeSymlink { path: path("link"), target: target.to_owned() };
    let below = Command::WriteFile {
        path: path("link/file"),
        mode: 0o644,
        mtime: 0,
        size: 0,
        digest: None,
        content: Content::Blocks(vec![]),
    };
    let setuid = Command::MakeDirectory { path: path("d"), mode: 0o4755 };
    for commands in [vec![link("/etc")], vec![link("../..")], vec![link("."), below], vec![setuid]] {
        let effect = Effect::of_order(first().version());
        let file = signed(site.draft(Kind::Prepare), effect, &commands, &[]);
        assert_eq!(refusal(&site.handle(&file)), RefusalCode::BadAssignment, "{commands:?}");
    }
}

fn open_at(live: &Path, root: &Path) -> Result<SiteTrees, OpenError> {
    SiteTrees::open(&"shop".parse().unwrap(), &"web1".parse().unwrap(), live, &[root.to_owned()], TreePolicy::default())
}

#[test]
fn a_live_directory_outside_the_roots_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (root, other) = (dir.path().join("www"), dir.path().join("www-other"));
    std::fs::create_dir_all(root.join("sub")).unwrap();
    std::fs::create_dir(&other).unwrap();
    std::os::unix::fs::symlink(&other, root.join("escape")).unwrap();
    std::os::unix::fs::symlink(&other, root.join("link")).unwrap();
    for outside in [
        root.clone(),
        other.join("shop"),
        root.join("escape/shop"),
        root.join("../shop"),
        root.join("link"),
        "/".into(),
    ] {
        let error = open_at(&outside, &root).expect_err("is outside");
        assert_eq!(error.code(), RefusalCode::OutsideRoots, "{outside:?}");
    }
    assert!(open_at(Path::new("shop"), &root).is_err(), "a relative path depends on where the agent was started");
    assert_eq!(std::fs::read_dir(&other).unwrap().count(), 0, "nothing was made there");
    open_at(&root.join("sub/shop"), &root).expect("is inside");
    open_at(&root.join("sub/../{server}"), &root).expect("is inside");
    assert!(root.join(".web1.pressrun").is_dir());
}

#[test]
fn trees_are_held_by_one_process_at_a_time_and_for_one_site() {
    let mut site = Site::with(&first());
    site.trees();
    assert!(matches!(site.open(), Err(OpenError::Locked { .. })));
    let (server, roots) = ("web1".parse().unwrap(), [site.root.path().to_owned()]);
    let state = SiteTrees::read_state(&"shop".parse().unwrap(), &server, &site.live, &roots).unwrap().unwrap();
    assert_eq!(state, site.trees().state(), "reading the state needs no lock");
    site.trees = None;
    let policy = TreePolicy { switch: SWITCH };
    let other = SiteTrees::open(&"blog".parse().unwrap(), &server, &site.live, &roots, policy);
    assert!(matches!(other, Err(OpenError::OtherSite { .. })));
    site.remove_live();
    let state = SiteTrees::read_state(&"shop".parse().unwrap(), &server, &site.live, &roots).unwrap();
    assert!(state.is_some(), "nor a live directory");
    let nowhere = SiteTrees::read_state(&"shop".parse().unwrap(), &server, &site.root.path().join("no"), &roots);
    assert_eq!(nowhere.unwrap(), None);
}

#[test]
fn a_damaged_journal_is_named_and_nothing_is_applied() {
    let mut site = Site::with(&first());
    site.trees = None;
    let journal = site.state.join("journal");
    let live = site.live_content();
    let good = std::fs::read(&journal).unwrap();
    for at in (0..good.len()).step_by(5) {
        let mut damaged = good.clone();
        damaged[at] ^= 0x10;
        std::fs::write(&journal, damaged).unwrap();
        let error = site.open().expect_err("is damaged");
        assert!(matches!(error, OpenError::Journal { .. }), "byte {at}: {error}");
    }
    assert_eq!(site.live_content(), live);
}

/// Fails every step of one kind from the n-th on.
struct Fails(Point, u32, std::io::ErrorKind);

impl Fault for Fails {
    fn at(&mut self, point: Point) -> std::io::Result<()> {
        if point != self.0 {
            return Ok(());
        }
        if self.1 > 0 {
            self.1 -= 1;
            return Ok(());
        }
        Err(self.2.into())
    }
}

#[test]
fn a_full_disk_at_any_step_of_staging_leaves_nothing_and_says_so() {
    for (point, after) in [
        (Point::StageEntry, 0),
        (Point::StageEntry, 6),
        (Point::CheckStaged, 0),
        (Point::SyncStaged, 0),
        (Point::StoreManifest, 0),
        (Point::WriteJournal, 0),
        (Point::ReplaceJournal, 0),
    ] {
        let mut site = Site::with(&first());
        let (_, file) = site.prepare_file(&first(), &second(), Style::Delta);
        site.trees = Some(site.reopen_with(Fails(point, after, std::io::ErrorKind::StorageFull)));
        assert_eq!(refusal(&site.handle(&file)), RefusalCode::NoSpace, "{point:?}");
        assert!(site.nothing_staged(), "{point:?}");
        assert_eq!(site.live_content(), first());
        site.reopen();
        assert!(matches!(site.handle(&file), Outcome::Prepared { .. }), "{point:?}: works once there is space");
    }
}

#[test]
fn a_failure_before_live_is_switched_durably_leaves_the_old_tree_and_one_after_it_the_new() {
    for (point, nth) in
        [(Point::WriteJournal, 0), (Point::ReplaceJournal, 0), (Point::Switch, 0), (Point::SyncSwitch, 0)]
    {
        let mut site = Site::with(&first());
        let number = site.prepare(&first(), &second(), Style::Delta);
        let commit = site.order_file(Kind::Commit { prepared: number }, second().version());
        site.trees = Some(site.reopen_with(Fails(point, nth, std::io::ErrorKind::Other)));
        refusal(&site.handle(&commit));
        assert_eq!(site.live_content(), first(), "{point:?}");
        assert_eq!(site.trees().state().live, Some(first().version()), "{point:?}");
        site.reopen();
        assert_eq!(site.handle(&commit), Outcome::Committed { version: second().version() }, "{point:?}");
        assert_eq!(site.live_content(), second());
    }
    for (point, nth) in [(Point::WriteJournal, 1), (Point::ReplaceJournal, 1), (Point::KeepBackup, 0)] {
        let mut site = Site::with(&first());
        let number = site.prepare(&first(), &second(), Style::Delta);
        let commit = site.order_file(Kind::Commit { prepared: number }, second().version());
        site.trees = Some(site.reopen_with(Fails(point, nth, std::io::ErrorKind::Other)));
        assert_eq!(site.handle(&commit), Outcome::Committed { version: second().version() }, "{point:?}");
        assert_eq!(site.trees().state().live, Some(second().version()), "{point:?}");
        assert_eq!(site.live_content(), second(), "{point:?}");
        let state = site.trees().state();
        assert_eq!(site.reopen().state(), state, "{point:?}: it is finished when opened again");
        site.publish(&second(), &first(), Style::Delta);
    }
}

#[test]
fn more_than_fits_is_refused_before_anything_is_staged() {
    let mut site = Site::with(&first());
    let (_, file) =
        site.prepare_file_with(&first(), &second(), Style::Delta, |_, effect| effect.space_bytes = u64::MAX);
    let Outcome::Refused(refused) = site.handle(&file) else { panic!("it cannot fit") };
    assert_eq!(refused.code, RefusalCode::NoSpace);
    assert!(refused.reason.contains("are needed"), "{}", refused.reason);
    assert!(site.nothing_staged());
}

#[test]
fn a_disk_that_fills_while_staging_is_refused_and_cleaned() {
    on_a_mounted_disk("size=512k", on_a_small_disk);
}

fn on_a_small_disk(dir: &Path) {
    let mut site = Site::at(tempfile::tempdir_in(dir).unwrap());
    site.make_live();
    site.publish(&TreeContent::default(), &first(), Style::Whole);
    let big = first().file("big", noise(3, 400 << 10)).file("big2", noise(4, 200 << 10));
    // More than there is at all.
    let (_, file) = site.prepare_file(&first(), &big, Style::Delta);
    assert_eq!(refusal(&site.handle(&file)), RefusalCode::NoSpace);
    assert!(site.nothing_staged());
    assert_eq!(site.live_content(), first());
    // Filled by somebody else behind the check.
    struct Fill(std::path::PathBuf);
    impl Fault for Fill {
        fn at(&mut self, point: Point) -> std::io::Result<()> {
            if point == Point::StageEntry {
                // Fails once it is full, which is what it is for.
                let _ = std::fs::write(&self.0, vec![1; 1 << 20]);
            }
            Ok(())
        }
    }
    let (_, file) = site.prepare_file(&first(), &second().file("big", noise(3, 30 << 10)), Style::Delta);
    let filler = site.root.path().join("filler");
    site.trees = Some(site.reopen_with(Fill(filler.clone())));
    assert_eq!(refusal(&site.handle(&file)), RefusalCode::NoSpace);
    assert!(site.nothing_staged());
    assert_eq!(site.live_content(), first());
    std::fs::remove_file(filler).unwrap();
    site.reopen();
    assert!(matches!(site.handle(&file), Outcome::Prepared { .. }));
}

#[test]
fn a_stranger_s_signature_is_refused() {
    let mut site = Site::with(&first());
    let (_, file) = site.prepare_file(&first(), &second(), Style::Delta);
    let nobody = common::keys::PublishKeys::default();
    let outcome = site.trees().handle(Cursor::new(file), CLUSTER, OWN, &nobody, NOW);
    assert_eq!(refusal(&outcome), RefusalCode::BadAssignment);
}
