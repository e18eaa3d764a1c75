use common::manifest::Manifest;

use super::super::batch::{IN_MEMORY_BYTES_MAX, SYNC_EACH_MAX};
use super::*;

fn tree(files: &[(&str, &[u8])]) -> Manifest {
    let entry =
        |content: &[u8]| Entry::File { mode: 0o644, size: content.len() as u64, digest: Digest::of(content), mtime: 5 };
    Manifest { entries: files.iter().map(|(path, content)| (path.parse().unwrap(), entry(content))).collect() }
}

fn make_old(path: &Path) {
    let long_ago = SystemTime::now() - 2 * GRACE;
    File::open(path).unwrap().set_modified(long_ago).unwrap();
}

#[test]
fn what_was_put_is_found_by_its_digest_also_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    fs::write(&source, b"hello").unwrap();
    let large = vec![7; usize::try_from(IN_MEMORY_BYTES_MAX).unwrap() + 9];
    let large_source = dir.path().join("large");
    fs::write(&large_source, &large).unwrap();

    let store = ContentStore::open(&dir.path().join("store")).unwrap();
    assert_eq!(store.put_file(&source).unwrap(), (Digest::of(b"hello"), 5));
    assert_eq!(store.put_file(&large_source).unwrap(), (Digest::of(&large), large.len() as u64));
    assert_eq!(store.put_file(&large_source).unwrap(), (Digest::of(&large), large.len() as u64));
    let store = ContentStore::open(&dir.path().join("store")).unwrap();
    assert!(store.contains(Digest::of(b"hello")));
    assert_eq!(store.read(Digest::of(b"hello")).unwrap(), b"hello");
    assert_eq!(store.read(Digest::of(&large)).unwrap(), large);
    let absent = Digest::of(b"other");
    assert!(matches!(store.open_content(absent), Err(ContentError::Missing { digest }) if digest == absent));
    assert_eq!(list(&dir.path().join("store/incoming")).unwrap(), Vec::<PathBuf>::new());
}

#[test]
fn a_batch_that_is_not_committed_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = ContentStore::open(dir.path()).unwrap();
    let batch = store.batch();
    let digest = batch.take_bytes(b"half").unwrap();
    assert!(!store.contains(digest), "a name is given only after the flush");
    drop(batch);
    assert!(!store.contains(digest));
    assert_eq!(list(&dir.path().join("incoming")).unwrap(), Vec::<PathBuf>::new());
}

#[test]
fn many_files_are_taken_in_one_batch() {
    let dir = tempfile::tempdir().unwrap();
    let store = ContentStore::open(dir.path()).unwrap();
    let batch = store.batch();
    let digests: Vec<Digest> = (0..3 * SYNC_EACH_MAX).map(|n| batch.take_bytes(&n.to_le_bytes()).unwrap()).collect();
    batch.commit().unwrap();
    assert!(digests.iter().all(|digest| store.contains(*digest)));
}

#[test]
fn damaged_content_and_manifests_are_named_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let store = ContentStore::open(dir.path()).unwrap();
    let digest = store.put_bytes(b"good").unwrap();
    fs::write(store.content_path(digest), b"evil").unwrap();
    assert!(matches!(store.read(digest), Err(ContentError::Damaged { digest: named }) if named == digest));

    let version = store.put_tree(&tree(&[("a", b"1")])).unwrap();
    let path = store.manifest_path(version);
    let good = fs::read(&path).unwrap();
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(&path, bad).unwrap();
        assert!(matches!(store.tree(version), Err(ContentError::ManifestDamaged { .. })), "byte {at} flipped");
    }
    assert_eq!(store.put_tree(&tree(&[("a", b"1")])).unwrap(), version);
    assert_eq!(store.tree(version).unwrap().manifest().unwrap(), tree(&[("a", b"1")]), "a damaged one is replaced");
}

#[test]
fn the_first_manifest_of_a_version_keeps_its_times() {
    let dir = tempfile::tempdir().unwrap();
    let store = ContentStore::open(dir.path()).unwrap();
    let first = tree(&[("a", b"1")]);
    let mut second = first.clone();
    for entry in second.entries.values_mut() {
        if let Entry::File { mtime, .. } = entry {
            *mtime = 99;
        }
    }
    let version = store.put_tree(&first).unwrap();
    assert_eq!(store.put_tree(&second).unwrap(), version);
    assert_eq!(store.tree(version).unwrap().manifest().unwrap(), first);
}

#[test]
fn garbage_is_what_no_kept_version_names_and_what_is_old() {
    let dir = tempfile::tempdir().unwrap();
    let store = ContentStore::open(dir.path()).unwrap();
    let contents: [&[u8]; 4] = [b"kept", b"dropped", b"young", b"of a young manifest"];
    let digests = contents.map(|content| store.put_bytes(content).unwrap());
    let kept = store.put_tree(&tree(&[("a", contents[0])])).unwrap();
    let dropped = store.put_tree(&tree(&[("a", contents[1])])).unwrap();
    let young = store.put_tree(&tree(&[("a", contents[3])])).unwrap();
    for digest in [digests[0], digests[1], digests[3]] {
        make_old(&store.content_path(digest));
    }
    make_old(&store.manifest_path(kept));
    make_old(&store.manifest_path(dropped));

    let freed = store.collect_garbage([kept].into_iter()).unwrap();
    assert_eq!(freed.files, 2, "the dropped content and its manifest");
    assert_eq!(digests.map(|digest| store.contains(digest)), [true, false, true, true]);
    assert!(store.tree(kept).is_ok() && store.tree(young).is_ok());
    assert!(matches!(store.tree(dropped), Err(ContentError::ManifestMissing { .. })));
}

#[test]
fn content_that_is_relied_upon_again_is_young_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = ContentStore::open(dir.path()).unwrap();
    let digest = store.put_bytes(b"again").unwrap();
    make_old(&store.content_path(digest));
    assert!(store.hold(digest, 5).unwrap());
    assert_eq!(store.collect_garbage(std::iter::empty()).unwrap(), Freed::default());
    assert!(store.contains(digest));
}

#[test]
fn nothing_is_removed_when_a_kept_manifest_cannot_be_read() {
    let dir = tempfile::tempdir().unwrap();
    let store = ContentStore::open(dir.path()).unwrap();
    let digest = store.put_bytes(b"precious").unwrap();
    make_old(&store.content_path(digest));
    let lost = tree(&[("a", b"precious")]).version();
    assert!(matches!(
        store.collect_garbage([lost].into_iter()),
        Err(ContentError::ManifestMissing { version }) if version == lost
    ));
    assert!(store.contains(digest));
}
