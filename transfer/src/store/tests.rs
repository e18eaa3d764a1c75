use std::io::Read;
use std::os::unix::fs::FileExt;

use super::*;
use crate::chunk::CHUNK_BYTES_MIN;

const CHUNK: usize = CHUNK_BYTES_MIN as usize;

fn content(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i / 7) as u8 ^ (i >> 13) as u8).collect()
}

fn table(bytes: &[u8]) -> ChunkTable {
    ChunkTable::of(bytes, bytes.len() as u64, CHUNK_BYTES_MIN).unwrap()
}

fn begin(store: &ObjectStore, bytes: &[u8]) -> Assembler {
    let table = table(bytes);
    store.partial(table.root(), bytes.len() as u64, table).unwrap()
}

fn chunk(bytes: &[u8], index: u32) -> &[u8] {
    bytes.chunks(CHUNK).nth(index as usize).unwrap()
}

fn read(store: &ObjectStore, digest: Digest) -> Vec<u8> {
    let mut bytes = Vec::new();
    store.open_object(digest).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

/// What a crash at this moment would leave behind.
fn crash_image(dir: &Path, into: &Path) {
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), into.join(entry.file_name())).unwrap();
    }
}

#[test]
fn bytes_come_back_under_their_digest() {
    let dir = tempfile::tempdir().unwrap();
    let store = ObjectStore::open(dir.path()).unwrap();
    for length in [0, 1, CHUNK, 3 * CHUNK + 1] {
        let bytes = content(length);
        let digest = store.put_bytes(&bytes).unwrap();
        assert_eq!(digest, Digest::of(&bytes));
        assert!(store.contains(digest));
        assert_eq!(read(&store, digest), bytes);
        assert_eq!(store.table(digest).unwrap().root(), digest);
        store.put_bytes(&bytes).unwrap();
        store.remove(digest).unwrap();
        assert!(!store.contains(digest));
        assert!(matches!(store.open_object(digest), Err(StoreError::Missing { .. })));
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    assert_eq!(store.used_bytes(), 0);
}

#[test]
fn a_file_is_taken_over_only_under_its_own_digest() {
    let dir = tempfile::tempdir().unwrap();
    let store = ObjectStore::open(dir.path().join("store")).unwrap();
    let bytes = content(2 * CHUNK + 9);
    let path = dir.path().join("given");
    fs::write(&path, &bytes).unwrap();
    let wrong = store.put_file(&path, Digest::of(b"other"));
    assert!(matches!(wrong, Err(StoreError::Digest { .. })));
    assert!(path.exists());
    store.put_file(&path, Digest::of(&bytes)).unwrap();
    assert!(!path.exists());
    assert_eq!(read(&store, Digest::of(&bytes)), bytes);
}

#[test]
fn chunks_in_any_order_make_the_object_and_wrong_ones_do_not_enter() {
    let dir = tempfile::tempdir().unwrap();
    let store = ObjectStore::open(dir.path()).unwrap();
    let bytes = content(4 * CHUNK + 17);
    let assembler = begin(&store, &bytes);
    assert!(!assembler.write_chunk(1, chunk(&bytes, 0)).unwrap());
    assert!(!assembler.write_chunk(9, chunk(&bytes, 0)).unwrap());
    assert_eq!(assembler.missing(), [0, 1, 2, 3, 4]);
    for index in [3, 0, 4, 2] {
        assert!(assembler.write_chunk(index, chunk(&bytes, index)).unwrap());
    }
    assert_eq!(assembler.missing(), [1]);
    assert_eq!(assembler.read_chunk(1).unwrap(), None);
    assert_eq!(assembler.read_chunk(4).unwrap().unwrap(), chunk(&bytes, 4));
    assert!(matches!(assembler.finish(), Err(StoreError::Incomplete { missing: 1, .. })));
    assert!(!store.contains(Digest::of(&bytes)));
    assert!(assembler.write_chunk(1, chunk(&bytes, 1)).unwrap());
    assert_eq!(assembler.verified_bytes(), bytes.len() as u64);
    assembler.finish().unwrap();
    assembler.finish().unwrap();
    assert_eq!(read(&store, Digest::of(&bytes)), bytes);
}

#[test]
fn an_empty_object_is_complete_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = ObjectStore::open(dir.path()).unwrap();
    let assembler = begin(&store, &[]);
    assert!(assembler.is_complete());
    assembler.finish().unwrap();
    assert!(store.contains(Digest::of(&[])));
}

#[test]
fn datagrams_count_once_their_chunk_reads_back_right_and_cannot_alter_it_afterwards() {
    let dir = tempfile::tempdir().unwrap();
    let store = ObjectStore::open(dir.path()).unwrap();
    let bytes = content(2 * CHUNK + 100);
    let assembler = begin(&store, &bytes);
    assert!(!assembler.verify_chunk(0).unwrap());
    for (number, piece) in bytes.chunks(1000).enumerate() {
        assembler.write_at(number as u64 * 1000, piece).unwrap();
    }
    assert!(!assembler.has(0));
    assert!(assembler.verify_chunk(0).unwrap());
    // Across the border of a verified chunk and an open one: only the open one changes.
    assembler.write_at(CHUNK as u64 - 50, &[0xee; 100]).unwrap();
    assert_eq!(assembler.read_chunk(0).unwrap().unwrap(), chunk(&bytes, 0));
    assert!(!assembler.verify_chunk(1).unwrap());
    assert!(assembler.write_chunk(1, chunk(&bytes, 1)).unwrap());
    assert!(assembler.verify_chunk(2).unwrap());
    assert!(matches!(assembler.write_at(bytes.len() as u64, &[1]), Err(StoreError::OutOfRange { .. })));
    assert!(matches!(assembler.write_at(u64::MAX, &[1]), Err(StoreError::OutOfRange { .. })));
    assembler.finish().unwrap();
    assert_eq!(read(&store, Digest::of(&bytes)), bytes);
}

#[test]
fn dropping_and_reopening_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = content(5 * CHUNK);
    for done in 0..5 {
        let store = ObjectStore::open(dir.path()).unwrap();
        let assembler = begin(&store, &bytes);
        assert_eq!(assembler.missing(), (done..5).collect::<Vec<_>>());
        assert!(assembler.write_chunk(done, chunk(&bytes, done)).unwrap());
    }
    let store = ObjectStore::open(dir.path()).unwrap();
    begin(&store, &bytes).finish().unwrap();
    assert_eq!(read(&store, Digest::of(&bytes)), bytes);
}

#[test]
fn a_crash_after_any_chunk_loses_only_what_was_not_committed() {
    let bytes = content(6 * CHUNK + 3);
    let dir = tempfile::tempdir().unwrap();
    let store = ObjectStore::open(dir.path()).unwrap();
    let assembler = begin(&store, &bytes);
    for index in 0..7 {
        assert!(assembler.write_chunk(index, chunk(&bytes, index)).unwrap());
        if index % 2 == 1 {
            assembler.sync().unwrap();
        }
        let image = tempfile::tempdir().unwrap();
        crash_image(dir.path(), image.path());
        fs::write(image.path().join(format!("{}.5.new", Digest::of(&bytes))), "torn").unwrap();
        let after = ObjectStore::open(image.path()).unwrap();
        let resumed = begin(&after, &bytes);
        let committed = u32::from(index % 2 == 1) + index;
        assert!(resumed.missing().len() as u32 <= 7 - committed, "after chunk {index}");
        for index in resumed.missing() {
            assert!(resumed.write_chunk(index, chunk(&bytes, index)).unwrap());
        }
        resumed.finish().unwrap();
        assert_eq!(read(&after, Digest::of(&bytes)), bytes);
    }
}

#[test]
fn a_damaged_bitmap_or_a_cut_partial_begins_anew() {
    let bytes = content(3 * CHUNK);
    for (suffix, damage) in [("bitmap", 60_u64), ("partial", u64::from(CHUNK_BYTES_MIN))] {
        let dir = tempfile::tempdir().unwrap();
        {
            let store = ObjectStore::open(dir.path()).unwrap();
            assert!(begin(&store, &bytes).write_chunk(0, chunk(&bytes, 0)).unwrap());
        }
        let path = dir.path().join(format!("{}.{suffix}", Digest::of(&bytes)));
        File::options().write(true).open(path).unwrap().set_len(damage).unwrap();
        let store = ObjectStore::open(dir.path()).unwrap();
        assert_eq!(begin(&store, &bytes).missing(), [0, 1, 2], "{suffix}");
    }
}

#[test]
fn bytes_that_rot_before_the_end_are_found_and_asked_for_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = ObjectStore::open(dir.path()).unwrap();
    let bytes = content(3 * CHUNK);
    let assembler = begin(&store, &bytes);
    for index in 0..3 {
        assert!(assembler.write_chunk(index, chunk(&bytes, index)).unwrap());
    }
    let path = dir.path().join(format!("{}.partial", Digest::of(&bytes)));
    File::options().write(true).open(path).unwrap().write_all_at(&[0xff; 9], CHUNK as u64 + 4).unwrap();
    assert!(matches!(assembler.finish(), Err(StoreError::Damaged { count: 1, .. })));
    assert_eq!(assembler.missing(), [1]);
    assert!(assembler.write_chunk(1, chunk(&bytes, 1)).unwrap());
    assembler.finish().unwrap();
    assert_eq!(read(&store, Digest::of(&bytes)), bytes);
}

#[test]
fn the_limit_counts_complete_and_partial_objects_and_survives_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let max = 4 * u64::from(CHUNK_BYTES_MIN);
    let (first, second) = (content(3 * CHUNK), content(CHUNK + 1));
    {
        let store = ObjectStore::open(dir.path()).unwrap().with_bytes_max(max);
        let _assembler = begin(&store, &first);
        assert!(matches!(store.put_bytes(&second), Err(StoreError::Space { .. })));
    }
    let store = ObjectStore::open(dir.path()).unwrap().with_bytes_max(max);
    assert_eq!(store.used_bytes(), 3 * u64::from(CHUNK_BYTES_MIN));
    let refused = table(&second);
    assert!(matches!(store.partial(refused.root(), refused.length(), refused), Err(StoreError::Space { .. })));
    store.put_bytes(&second[..CHUNK]).unwrap();
    store.remove(Digest::of(&first)).unwrap();
    store.put_bytes(&second).unwrap();
}

#[test]
fn handles_of_one_object_share_their_chunks_and_removal_closes_them() {
    let dir = tempfile::tempdir().unwrap();
    let store = ObjectStore::open(dir.path()).unwrap();
    let bytes = content(2 * CHUNK);
    let (one, two) = (begin(&store, &bytes), begin(&store, &bytes));
    assert!(one.write_chunk(0, chunk(&bytes, 0)).unwrap());
    assert!(two.has(0));
    store.remove(Digest::of(&bytes)).unwrap();
    assert!(matches!(two.write_chunk(1, chunk(&bytes, 1)), Err(StoreError::Closed { .. })));
    drop((one, two));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    assert_eq!(begin(&store, &bytes).missing(), [0, 1]);
}

#[test]
fn only_old_partials_that_nobody_holds_are_cleaned_and_nobody_elses_files() {
    let dir = tempfile::tempdir().unwrap();
    let store = ObjectStore::open(dir.path()).unwrap();
    let (held, left, whole) = (content(CHUNK), content(CHUNK + 1), content(CHUNK + 2));
    store.put_bytes(&whole).unwrap();
    fs::write(dir.path().join("notes.partial"), "mine").unwrap();
    let holder = begin(&store, &held);
    drop(begin(&store, &left));
    assert_eq!(store.clean_partials(Duration::from_secs(3600)).unwrap(), []);
    assert_eq!(store.clean_partials(Duration::ZERO).unwrap(), [Digest::of(&left)]);
    drop(holder);
    assert_eq!(store.clean_partials(Duration::ZERO).unwrap(), [Digest::of(&held)]);
    assert!(store.contains(Digest::of(&whole)));
    assert!(dir.path().join("notes.partial").exists());
}

#[test]
fn left_over_objects_are_removed_by_age() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = ObjectStore::open(directory.path()).expect("opens");
    let digest = store.put_bytes(b"left over").expect("kept");
    assert_eq!(store.clean_complete(Duration::from_secs(3600)).expect("cleans"), []);
    assert!(store.contains(digest));
    assert_eq!(store.clean_complete(Duration::ZERO).expect("cleans"), [digest]);
    assert!(!store.contains(digest));
    assert_eq!(store.used_bytes(), 0);
}
