use std::fs;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use common::digest::Version;
use common::exclude::Exclude;
use common::path::symlink_is_contained;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::*;
use crate::ingest::content::ContentStore;
use crate::ingest::diff::Diff;
use crate::ingest::scan::{Scan, ScanError, ScanLimits, ScanRequest, scan};
use crate::ingest::stored::StoredTree;

struct Bench {
    dir: tempfile::TempDir,
    store: ContentStore,
    exclude: Exclude,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = ContentStore::open(&dir.path().join("store")).unwrap();
        fs::create_dir(dir.path().join("staging")).unwrap();
        Self { dir, store, exclude: Exclude::default() }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join("staging").join(path)
    }

    fn write(&self, path: &str, content: &str) {
        fs::create_dir_all(self.at(path).parent().unwrap()).unwrap();
        fs::write(self.at(path), content).unwrap();
    }

    fn scan(&self) -> Scan {
        let (staging, index_file) = (self.at(""), self.dir.path().join("index"));
        let (exclude, limits) = (&self.exclude, ScanLimits::default());
        let request = ScanRequest { staging: &staging, exclude, limits, index_file: &index_file };
        scan(&request, &self.store, &|_| (), &AtomicBool::new(false)).unwrap()
    }

    fn publish(&self, published: Option<&StoredTree>) -> StoredTree {
        self.scan().keep(&self.store, published).unwrap().0
    }

    fn stored(&self, version: Version) -> PathBuf {
        self.dir.path().join("store/manifests").join(version.to_string())
    }
}

fn all(scan: &Scan) -> Manifest {
    Manifest { entries: scan.entries().collect::<Result<_, _>>().unwrap() }
}

/// A tree with what it has left out, so that its entries are those of a tree.
fn sound(drawn: Vec<(Vec<&'static str>, Entry)>) -> Manifest {
    let mut entries: BTreeMap<ContentPath, Entry> = BTreeMap::new();
    for (names, entry) in drawn {
        let path = ContentPath::new(names.join("/")).unwrap();
        let contained = match &entry {
            Entry::Symlink { target } => symlink_is_contained(&path, target),
            Entry::Directory { .. } | Entry::File { .. } => true,
        };
        let parents: Vec<ContentPath> = std::iter::successors(path.parent(), ContentPath::parent).collect();
        let stand = |parent| !matches!(entries.get(parent), Some(Entry::File { .. } | Entry::Symlink { .. }));
        if contained && parents.iter().all(stand) && !entries.contains_key(&path) {
            for parent in parents {
                entries.entry(parent).or_insert(Entry::Directory { mode: 0o755 });
            }
            entries.insert(path, entry);
        }
    }
    Manifest { entries }
}

fn tree() -> impl Strategy<Value = Manifest> {
    let name = prop::sample::select(vec!["a", "a-", "a.html", "b", "c", "d"]);
    let mode = prop::sample::select(vec![0o644, 0o600]);
    let entry = prop_oneof![
        6 => (mode.clone(), 0_u64..5, 0_i64..3).prop_map(|(mode, content, mtime)| {
            Entry::File { mode, size: content, digest: Digest::of(&content.to_le_bytes()), mtime }
        }),
        2 => mode.prop_map(|mode| Entry::Directory { mode }),
        1 => prop::sample::select(vec!["a", "b", "../a"]).prop_map(|target| Entry::Symlink { target: target.into() }),
    ];
    prop::collection::vec((prop::collection::vec(name, 1..4), entry), 0..40).prop_map(sound)
}

/// What is different, by looking each path of both trees up in the other.
fn by_maps(old: &Manifest, new: &Manifest) -> Changes {
    let differs = |(path, entry): &(&ContentPath, &Entry), other: &Manifest| {
        other.entries.get(path).is_none_or(|there| !there.same_version(entry))
    };
    let part = |one: &Manifest, other: &Manifest| Manifest {
        entries: one
            .entries
            .iter()
            .filter(|entry| differs(entry, other))
            .map(|(p, e)| (p.clone(), e.clone()))
            .collect(),
    };
    let (before, after) = (part(old, new), part(new, old));
    let mut known = BTreeMap::new();
    for (path, entry) in &after.entries {
        let only_mode = before.entries.get(path).is_some_and(|was| same_but_for_mode(was, entry));
        if let Some((_, digest)) = file_digest(entry).filter(|_| !only_mode)
            && let Some((last, ..)) = old.files().filter(|(_, _, there)| **there == digest).last()
        {
            known.insert(digest, last.clone());
        }
    }
    Changes { old: before, new: after, known, content_bytes: new.content_bytes() }
}

#[test]
fn two_streams_tell_what_two_maps_tell() {
    let config = ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() };
    let checked = TestRunner::new(config).run(&(tree(), tree()), |(old, new)| {
        let entries = || Tree::entries(&new).unwrap();
        prop_assert_eq!(compare::<ContentError>(Some(&old), entries()).unwrap(), by_maps(&old, &new));
        let whole = compare::<ContentError>(None, entries()).unwrap();
        prop_assert_eq!(whole, by_maps(&Manifest::default(), &new));
        Ok(())
    });
    checked.unwrap();
}

#[test]
fn trees_that_are_kept_and_read_again_are_the_same_and_differ_in_the_same() {
    let bench = Bench::new();
    let config = ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() };
    let checked = TestRunner::new(config).run(&(tree(), tree()), |(old, new)| {
        let versions = [&old, &new].map(|tree| bench.store.put_tree(tree).unwrap());
        prop_assert_eq!(versions, [old.version(), new.version()]);
        let [before, after] = versions.map(|version| bench.store.tree(version).unwrap());
        prop_assert_eq!(&before.manifest().unwrap(), &old);
        let found = compare::<ContentError>(Some(&before), after.entries().unwrap()).unwrap();
        if versions[0] == versions[1] {
            prop_assert!(found.is_empty(), "the times of the one that was kept first count");
        } else {
            prop_assert_eq!(found, by_maps(&old, &new));
            fs::remove_file(bench.stored(versions[1])).unwrap();
        }
        fs::remove_file(bench.stored(versions[0])).unwrap();
        Ok(())
    });
    checked.unwrap();
}

#[test]
fn what_is_found_and_kept_is_what_staging_holds() {
    let bench = Bench::new();
    for n in 0..3000 {
        bench.write(&format!("d{:02}/some-page-with-a-name-{n}.html", n % 60), &format!("page {n}"));
    }
    let first = bench.publish(None);
    assert!(fs::metadata(bench.stored(first.version())).unwrap().len() > 3 * (64 << 10), "several portions");
    assert_eq!(first.manifest().unwrap(), all(&bench.scan()));
    let unchanged = bench.scan();
    let changes = unchanged.changes(Some(&first)).unwrap();
    assert_eq!(changes, Changes { content_bytes: first.content_bytes().unwrap(), ..Changes::default() });
    assert_eq!(unchanged.version(Some(&first), &changes).unwrap(), first.version());

    bench.write("a-first.html", "the first of all");
    bench.write("z/last.html", "the last of all");
    bench.write("d07/copy.html", "page 1");
    bench.write("d08/some-page-with-a-name-8.html", "edited");
    fs::remove_dir_all(bench.at("d09")).unwrap();
    fs::rename(bench.at("d59/some-page-with-a-name-59.html"), bench.at("d00/renamed.html")).unwrap();
    std::os::unix::fs::symlink("d00", bench.at("link")).unwrap();
    let after = bench.scan();
    let changes = after.changes(Some(&first)).unwrap();
    assert_eq!(changes, by_maps(&first.manifest().unwrap(), &all(&after)));
    let found = Diff::of(&changes);
    assert_eq!((found.moved.len(), found.changed.len(), found.removed.len()), (1, 1, 51));
    assert_eq!(found.content_bytes, 16 + 15 + 6);
    let second = bench.publish(Some(&first));
    assert_eq!(second.version(), all(&after).version());
    assert_eq!(second.version(), after.version(Some(&first), &changes).unwrap());
    assert_eq!(second.manifest().unwrap().entries.len(), all(&after).entries.len());
}

#[test]
fn unchanged_files_keep_the_times_they_were_published_with() {
    use std::os::unix::fs::PermissionsExt as _;
    let bench = Bench::new();
    let times = |tree: &StoredTree| -> Vec<i64> {
        let times = tree.manifest().unwrap().entries.into_values().filter_map(|entry| match entry {
            Entry::File { mtime, .. } => Some(mtime),
            Entry::Directory { .. } | Entry::Symlink { .. } => None,
        });
        times.collect()
    };
    let set = |path: &str, seconds: u64| {
        let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        fs::File::open(bench.at(path)).unwrap().set_modified(time).unwrap();
    };
    for path in ["edited", "mode", "touched"] {
        bench.write(path, "before");
        set(path, 1);
    }
    let first = bench.publish(None);
    assert_eq!(times(&first), [1, 1, 1]);
    set("mode", 2);
    set("touched", 2);
    assert_eq!(times(&bench.publish(Some(&first))), [1, 1, 1]);
    bench.write("edited", "after!");
    set("edited", 2);
    fs::set_permissions(bench.at("mode"), fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(times(&bench.publish(Some(&first))), [2, 1, 1]);
}

#[test]
fn a_version_that_is_missing_or_damaged_is_named() {
    let bench = Bench::new();
    bench.write("a", "one");
    bench.write("b", "two");
    let version = bench.publish(None).version();
    let stored = bench.stored(version);
    let good = fs::read(&stored).unwrap();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        for bad in [&bad, &good[..at]] {
            fs::write(&stored, bad).unwrap();
            let error = bench.store.tree(version).expect_err("it is damaged");
            let damaged = matches!(error, ContentError::ManifestDamaged { version: named } if named == version);
            assert!(damaged, "byte {at}: {error:?}");
        }
    }
    fs::remove_file(&stored).unwrap();
    let error = bench.store.tree(version).expect_err("it is gone");
    assert!(matches!(error, ContentError::ManifestMissing { .. }), "{error:?}");
}

#[test]
fn what_its_checksum_covers_and_is_no_tree_is_damaged_when_it_is_told() {
    let bench = Bench::new();
    bench.write("a", "one");
    let published = bench.publish(None);
    let stored = bench.stored(published.version());
    let row = |path: &str| postcard::to_stdvec(&(path, Entry::Directory { mode: 0o755 })).unwrap();
    let bodies = [
        [vec![2], row("b"), row("a")].concat(),
        [vec![2], row("a"), row("a")].concat(),
        [vec![1], row("d/a")].concat(),
        [vec![1], row("a"), row("b")].concat(),
        [vec![2], row("a")].concat(),
        [vec![1], row("../a")].concat(),
        vec![],
    ];
    for body in bodies {
        fs::write(&stored, [b"PRMANIF1".as_slice(), &Digest::of(&body).0, &body].concat()).unwrap();
        let tree = bench.store.tree(published.version()).expect("its checksum fits");
        let error = bench.scan().changes(Some(&tree)).expect_err("it is no tree");
        assert!(matches!(error, ScanError::Store(ContentError::ManifestDamaged { .. })), "{error:?}");
    }
}
