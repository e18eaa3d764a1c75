//! Any two trees: publishing leads from one to exactly the other, rollback exactly back. With the
//! CCM's real scan and builder and the real interpreter.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use ccm::ingest::content::ContentStore;
use ccm::ingest::scan::{ScanLimits, ScanRequest, scan};
use common::exclude::Exclude;
use common::manifest::Manifest;
use common::outcome::Outcome;
use common::path::{ContentPath, symlink_is_contained};
use crash::publisher::{CLUSTER, NOW, OWN, Publisher, keys};
use crash::site::{Site, Way};
use crash::tree::{Item, Tree};
use proptest::prelude::*;
use proptest::test_runner::Config;

/// Names, most of them of few kinds so that two trees meet in them.
fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => prop::sample::select(vec!["a", "b", "index.html", "dir", "x.js", "y.css"]).prop_map(str::to_owned),
        2 => prop::sample::select(vec![
            "-rf", "*", "$(id)", "a b", "\"quoted\"", "back\\slash", "e\u{301}", "\u{e9}", "\u{202e}rtl", "\u{200b}", "...", ".hidden",
            "A", "con", "~", "\u{1f600}", "%2e%2e", "CAPS.HTML",
        ]).prop_map(str::to_owned),
        1 => "\\PC{1,12}".prop_filter("no component", |name| !name.contains('/') && name != "." && name != ".."),
        1 => Just("n".repeat(255)),
    ]
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        2 => prop::collection::vec(any::<u8>(), 0..40),
        2 => (0_u8..4, 0_usize..6).prop_map(|(kind, edit)| {
            // Long and alike: deltas, moves and copies.
            let mut long: Vec<u8> = (0..6000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> (8 + kind)) as u8).collect();
            long[edit * 900] ^= 0x55;
            long.truncate(6000 - edit * 7);
            long
        }),
    ]
}

fn item() -> impl Strategy<Value = Item> {
    let mode = prop::sample::select(vec![0o644, 0o600, 0o755, 0o400, 0o777, 0o444, 0o640]);
    let directory = prop::sample::select(vec![0o755, 0o700, 0o711, 0o775, 0o555]);
    prop_oneof![
        3 => directory.prop_map(Item::Directory),
        6 => (mode, prop::sample::select(vec![0, 1, 1_700_000_000_i64, 4_000_000_000]), bytes())
            .prop_map(|(mode, mtime, bytes)| Item::File(mode, mtime, bytes)),
        1 => prop::sample::select(vec!["a", "b/../a", "nowhere", "../a", "dir/index.html", "."])
            .prop_map(|target| Item::Link(target.to_owned())),
    ]
}

/// What is below something that is no directory, or points out of the tree, is left out.
fn tree() -> impl Strategy<Value = Tree> {
    prop::collection::vec((prop::collection::vec(name(), 1..4), item()), 0..14).prop_map(|drawn| {
        let mut entries: BTreeMap<ContentPath, Item> = BTreeMap::new();
        for (names, item) in drawn {
            let Ok(path) = ContentPath::new(names.join("/")) else { continue };
            let mut parents = Vec::new();
            let mut at = path.parent();
            while let Some(parent) = at {
                at = parent.parent();
                parents.push(parent);
            }
            let stands = |parent| !matches!(entries.get(parent), Some(Item::File(..) | Item::Link(_)));
            let contained = match &item {
                Item::Link(target) => symlink_is_contained(&path, target),
                Item::Directory(_) | Item::File(..) => true,
            };
            if entries.contains_key(&path) || !contained || !parents.iter().all(stands) {
                continue;
            }
            for parent in parents {
                entries.entry(parent).or_insert(Item::Directory(0o755));
            }
            entries.insert(path, item);
        }
        Tree(entries)
    })
}

fn handle(site: &Site, bytes: &[u8], expected: &Outcome) {
    let mut trees = site.open().expect("opens");
    let outcome = trees.handle(Cursor::new(bytes), CLUSTER, OWN, &keys(), NOW);
    assert_eq!(outcome, *expected);
}

fn assert_live(site: &Site, expected: &Tree) {
    let live = Tree::read(&site.live, &[]).expect("readable").expect("there");
    assert_eq!(live.difference(expected), None);
}

fn scanned(dir: &Path, tree: &Tree, name: &str) {
    let staging = dir.join(name);
    tree.put(&staging).expect("can be put on disk");
    let store = ContentStore::open(&dir.join("scanned")).expect("a store");
    let exclude = Exclude::new::<&str>(&[]).expect("no patterns");
    let index_file = dir.join("index");
    let request =
        ScanRequest { staging: &staging, exclude: &exclude, limits: ScanLimits::default(), index_file: &index_file };
    let found = scan(&request, &store, &|_| {}, &AtomicBool::new(false)).expect("can be published");
    let entries = found.entries().collect::<Result<_, _>>().expect("can be told");
    assert_eq!(Manifest { entries }, tree.manifest(), "the scan sees what is there");
}

proptest! {
    #![proptest_config(Config { cases: 48, failure_persistence: None, ..Config::default() })]
    #[test]
    fn publishing_leads_exactly_from_one_to_the_other_and_rollback_exactly_back(
        one in tree(),
        two in tree(),
        way in prop::sample::select(Way::ALL.to_vec()),
    ) {
        // In memory where there is such a place: durability is not what is tested.
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a directory");
        scanned(dir.path(), &one, "staging-one");
        scanned(dir.path(), &two, "staging-two");
        std::fs::create_dir(dir.path().join("root")).expect("a root");
        let site = Site::at(&dir.path().join("root"), way);
        let mut publisher = Publisher::new(dir.path()).expect("a publisher");
        publisher.policy.create = true;
        let mut from = None;
        for to in [&one, &two] {
            let version = to.version();
            let prepare = publisher.prepare(from, to).expect("builds");
            handle(&site, &prepare.bytes, &Outcome::Prepared { version });
            if let Some(from) = from {
                assert_live(&site, from);
            }
            let commit = publisher.commit(prepare.number, version);
            handle(&site, &commit.bytes, &Outcome::Committed { version });
            assert_live(&site, to);
            from = Some(to);
        }
        let version = one.version();
        let rollback = publisher.rollback(version);
        handle(&site, &rollback.bytes, &Outcome::Prepared { version });
        let commit = publisher.commit(rollback.number, version);
        handle(&site, &commit.bytes, &Outcome::Committed { version });
        assert_live(&site, &one);
        let undo = publisher.undo(rollback.number);
        handle(&site, &undo.bytes, &Outcome::Undone { version: Some(two.version()) });
        assert_live(&site, &two);
        let mut trees = site.open().expect("opens");
        trees.clean().expect("cleans");
        site.check_litter(&trees.state(), false).expect("no litter");
    }
}
