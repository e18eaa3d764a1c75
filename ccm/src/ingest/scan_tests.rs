use std::cell::{Cell, RefCell};
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::time::Duration;

use common::manifest::Manifest;
use rustix::fs::{CWD, FileType, Mode};

use super::*;

/// All of what a scan found.
fn all(scan: &Scan) -> Manifest {
    Manifest { entries: scan.entries().collect::<Result<_, _>>().unwrap() }
}

/// A staging tree, a store and an index in a directory of their own.
struct Bench {
    dir: tempfile::TempDir,
    store: ContentStore,
    exclude: Exclude,
    limits: ScanLimits,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("staging")).unwrap();
        let store = ContentStore::open(&dir.path().join("store")).unwrap();
        Self { dir, store, exclude: Exclude::default(), limits: ScanLimits::default() }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join("staging").join(path)
    }

    fn write(&self, path: &str, content: &[u8]) {
        fs::create_dir_all(self.at(path).parent().unwrap()).unwrap();
        fs::write(self.at(path), content).unwrap();
    }

    /// Scans as if this long had passed since the present.
    fn scan_later(&self, later: Duration) -> Result<Scan, ScanError> {
        let staging = self.dir.path().join("staging");
        let index_file = self.dir.path().join("index");
        let request =
            ScanRequest { staging: &staging, exclude: &self.exclude, limits: self.limits, index_file: &index_file };
        scan_at(&request, &self.store, SystemTime::now() + later, &|_| (), &AtomicBool::new(false))
    }

    /// Scans when everything has rested for long.
    fn scan(&self) -> Result<Scan, ScanError> {
        self.scan_later(Duration::from_secs(60))
    }

    /// The refusal of the tree, with what it says and its source says.
    fn refusal(&self) -> (ScanError, String) {
        let error = self.scan().expect_err("the tree must be refused");
        let mut text = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(inner) = source {
            text = format!("{text}: {inner}");
            source = inner.source();
        }
        (error, text)
    }
}

fn path(text: &str) -> ContentPath {
    text.parse().unwrap()
}

#[test]
fn the_manifest_says_what_is_there_and_the_store_has_it() {
    let bench = Bench::new();
    bench.write("index.html", b"<h1>hello</h1>");
    bench.write("css/a.css", b"");
    fs::create_dir(bench.at("empty")).unwrap();
    symlink("../index.html", bench.at("css/link")).unwrap();
    fs::set_permissions(bench.at("css/a.css"), fs::Permissions::from_mode(0o4640)).unwrap();
    fs::set_permissions(bench.at("empty"), fs::Permissions::from_mode(0o1755)).unwrap();
    let day = SystemTime::UNIX_EPOCH + Duration::from_secs(86400);
    File::open(bench.at("index.html")).unwrap().set_modified(day).unwrap();

    let scan = bench.scan().unwrap();
    let found = all(&scan);
    let paths: Vec<&str> = found.entries.keys().map(ContentPath::as_str).collect();
    assert_eq!(paths, ["css", "css/a.css", "css/link", "empty", "index.html"]);
    assert_eq!(found.entries[&path("empty")], Entry::Directory { mode: 0o755 });
    assert_eq!(found.entries[&path("css/link")], Entry::Symlink { target: "../index.html".into() });
    let Entry::File { mode, size, digest, mtime } = found.entries[&path("index.html")] else {
        panic!("index.html is a file")
    };
    assert_eq!((size, digest, mtime), (14, Digest::of(b"<h1>hello</h1>"), 86400));
    assert_eq!(mode & 0o600, 0o600);
    assert!(
        matches!(found.entries[&path("css/a.css")], Entry::File { mode: 0o640, size: 0, .. }),
        "no set-user-id bit is published"
    );
    assert_eq!(bench.store.read(digest).unwrap(), b"<h1>hello</h1>");
    assert!(bench.store.contains(Digest::of(b"")));
    assert_eq!((scan.files_read, scan.bytes_read), (2, 14));
}

#[test]
fn an_empty_staging_tree_is_an_empty_tree() {
    assert_eq!(all(&Bench::new().scan().unwrap()), Manifest::default());
}

#[test]
fn a_rescan_reads_nothing_and_then_only_what_changed() {
    let bench = Bench::new();
    for n in 0..300 {
        bench.write(&format!("d{}/f{n}", n % 7), format!("content {n}").as_bytes());
    }
    let first = bench.scan().unwrap();
    assert_eq!(first.files_read, 300);
    let second = bench.scan().unwrap();
    assert_eq!((second.files_read, second.bytes_read), (0, 0));
    assert_eq!(all(&second), all(&first));

    bench.write("d3/f3", b"other");
    let third = bench.scan().unwrap();
    assert_eq!((third.files_read, third.bytes_read), (1, 5));
    assert_eq!(all(&third).entries.len(), all(&first).entries.len());
    assert_ne!(all(&third).version(), all(&first).version());
}

#[test]
fn a_file_replaced_by_another_of_equal_length_and_time_is_read() {
    let bench = Bench::new();
    bench.write("a", b"one");
    bench.scan().unwrap();
    let time = fs::metadata(bench.at("a")).unwrap().modified().unwrap();
    bench.write("b", b"two");
    File::open(bench.at("b")).unwrap().set_modified(time).unwrap();
    fs::rename(bench.at("b"), bench.at("a")).unwrap();
    let scan = bench.scan().unwrap();
    assert_eq!(scan.files_read, 1);
    assert_eq!(all(&scan).files().next().unwrap().2, &Digest::of(b"two"));
}

#[test]
fn a_mode_change_shows_without_a_change_of_content() {
    let bench = Bench::new();
    bench.write("a", b"one");
    let before = bench.scan().unwrap();
    fs::set_permissions(bench.at("a"), fs::Permissions::from_mode(0o400)).unwrap();
    let after = bench.scan().unwrap();
    assert_ne!(all(&after).version(), all(&before).version());
    assert!(matches!(all(&after).entries[&path("a")], Entry::File { mode: 0o400, .. }));
}

#[test]
fn a_file_that_was_fresh_when_it_was_read_is_not_trusted_the_next_time() {
    let bench = Bench::new();
    bench.write("a", b"one");
    assert_eq!(bench.scan_later(Duration::ZERO).unwrap().files_read, 1);
    assert_eq!(bench.scan_later(Duration::from_secs(60)).unwrap().files_read, 1, "it was too fresh");
    assert_eq!(bench.scan_later(Duration::from_secs(60)).unwrap().files_read, 0, "it had rested");
}

#[test]
fn a_lost_index_or_lost_content_only_costs_reading() {
    let bench = Bench::new();
    bench.write("a", b"one");
    bench.write("b", b"two");
    let first = bench.scan().unwrap();
    fs::write(bench.dir.path().join("index"), b"garbage").unwrap();
    let second = bench.scan().unwrap();
    assert_eq!((second.files_read, all(&second)), (2, all(&first)));

    let hex = Digest::of(b"one").to_string();
    fs::remove_file(bench.dir.path().join("store/content").join(&hex[..2]).join(&hex)).unwrap();
    let third = bench.scan().unwrap();
    assert_eq!((third.files_read, all(&third)), (1, all(&first)));
    assert_eq!(bench.store.read(Digest::of(b"one")).unwrap(), b"one");
}

#[test]
fn excluded_paths_are_not_in_the_manifest_whatever_they_are() {
    let mut bench = Bench::new();
    bench.exclude = Exclude::new(&["*.log", "/uploads/", "*.sock"]).unwrap();
    bench.write("a.html", b"a");
    bench.write("deep/x.log", b"x");
    bench.write("uploads/me.jpg", b"jpg");
    rustix::fs::mknodat(CWD, bench.at("php.sock"), FileType::Socket, Mode::RWXU, 0).unwrap();
    let scan = bench.scan().unwrap();
    let found = all(&scan);
    let paths: Vec<&str> = found.entries.keys().map(ContentPath::as_str).collect();
    assert_eq!(paths, ["a.html", "deep"]);
}

#[test]
fn links_that_leave_the_tree_are_refused_by_name() {
    for target in ["/etc/passwd", "../../etc", "../.."] {
        let bench = Bench::new();
        fs::create_dir(bench.at("d")).unwrap();
        symlink(target, bench.at("d/evil")).unwrap();
        let (error, text) = bench.refusal();
        assert!(matches!(error, ScanError::LinkEscapes { .. }), "{text}");
        assert!(text.contains("d/evil") && text.contains(target), "{text}");
    }
    let bench = Bench::new();
    symlink(std::ffi::OsStr::from_bytes(b"caf\xe9"), bench.at("latin")).unwrap();
    let (error, text) = bench.refusal();
    assert!(matches!(error, ScanError::LinkNotUtf8 { .. }) && text.contains("latin"), "{text}");
}

#[test]
fn a_link_is_published_as_a_link_and_never_followed() {
    let bench = Bench::new();
    bench.write("real/file", b"x");
    symlink("real", bench.at("alias")).unwrap();
    symlink(".", bench.at("loop")).unwrap();
    let scan = bench.scan().unwrap();
    let found = all(&scan);
    let paths: Vec<&str> = found.entries.keys().map(ContentPath::as_str).collect();
    assert_eq!(paths, ["alias", "loop", "real", "real/file"]);
}

#[test]
fn pipes_and_sockets_are_refused_by_name() {
    for (kind, word) in [(FileType::Fifo, "pipe"), (FileType::Socket, "socket")] {
        let bench = Bench::new();
        fs::create_dir(bench.at("d")).unwrap();
        rustix::fs::mknodat(CWD, bench.at("d/odd"), kind, Mode::RWXU, 0).unwrap();
        let (error, text) = bench.refusal();
        assert!(matches!(error, ScanError::Kind { .. }), "{text}");
        assert!(text.contains("d/odd") && text.contains(word), "{text}");
    }
}

#[test]
fn names_that_content_must_not_have_are_refused_by_name() {
    for name in [b"caf\xe9".as_slice(), b"line\nbreak", b"\x1b[0m"] {
        let bench = Bench::new();
        fs::create_dir(bench.at("d")).unwrap();
        fs::write(bench.at("d").join(std::ffi::OsStr::from_bytes(name)), b"").unwrap();
        let (error, text) = bench.refusal();
        assert!(matches!(error, ScanError::Name { .. }), "{text}");
        assert!(text.contains("d/"), "{text}");
    }
}

#[test]
fn a_missing_staging_tree_or_one_that_is_no_directory_is_named() {
    let bench = Bench::new();
    fs::remove_dir(bench.at("")).unwrap();
    let (error, text) = bench.refusal();
    assert!(matches!(error, ScanError::Staging { .. }) && text.contains("staging"), "{text}");
    fs::write(bench.dir.path().join("staging"), b"a file").unwrap();
    let (error, text) = bench.refusal();
    assert!(matches!(error, ScanError::StagingNotDirectory { .. }) && text.contains("staging"), "{text}");
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    // The memory of a process opens and cannot be read at its beginning, not even by root.
    let bench = Bench::new();
    let batch = bench.store.batch();
    let root = File::open("/proc/self").unwrap().into();
    let reader = Reader { root: &root, batch: &batch, cancel: &AtomicBool::new(false) };
    let error = reader.read_file(&path("mem"), &mut |_| true, &|| ()).expect_err("nothing is mapped at zero");
    assert!(matches!(&error, ScanError::Unreadable { path, .. } if path == "mem"), "{error:?}");
}

#[test]
fn limits_on_entries_and_bytes_are_kept() {
    let mut bench = Bench::new();
    bench.write("a", b"four");
    bench.write("b", b"four");
    bench.limits = ScanLimits { entries_max: 2, content_bytes_max: 8, ..ScanLimits::default() };
    bench.scan().unwrap();
    bench.limits.entries_max = 1;
    assert!(matches!(bench.scan(), Err(ScanError::TooManyEntries { max: 1 })));
    bench.limits = ScanLimits { entries_max: 2, content_bytes_max: 7, ..ScanLimits::default() };
    assert!(matches!(bench.scan(), Err(ScanError::TooLarge { max: 7 })));
}

#[test]
fn a_file_that_changes_while_it_is_read_is_read_again_and_at_last_refused_by_name() {
    let bench = Bench::new();
    let root = File::open(bench.at("")).unwrap().into();
    let batch = bench.store.batch();
    let reader = Reader { root: &root, batch: &batch, cancel: &AtomicBool::new(false) };
    let readings = Cell::new(0_u32);

    bench.write("log", b"");
    let grow_always = || {
        readings.set(readings.get() + 1);
        bench.write("log", &vec![b'x'; readings.get() as usize]);
    };
    let error = reader.read_file(&path("log"), &mut |_| true, &grow_always).expect_err("never rests");
    assert!(matches!(&error, ScanError::Changing { path } if path.as_str() == "log"), "{error:?}");
    assert_eq!(readings.get(), READS_MAX);

    readings.set(0);
    let grow_once = || {
        readings.set(readings.get() + 1);
        if readings.get() == 1 {
            bench.write("log", b"settled");
        }
    };
    let read = reader.read_file(&path("log"), &mut |_| true, &grow_once).unwrap();
    assert_eq!((read.digest, readings.get()), (Digest::of(b"settled"), 2));

    fs::remove_file(bench.at("log")).unwrap();
    let gone = reader.read_file(&path("log"), &mut |_| true, &|| ());
    assert!(matches!(gone, Err(ScanError::Changing { .. })), "{gone:?}");
    symlink("/etc/passwd", bench.at("log")).unwrap();
    let linked = reader.read_file(&path("log"), &mut |_| true, &|| ());
    assert!(matches!(linked, Err(ScanError::Changing { .. })), "{linked:?}");
}

#[test]
fn what_was_read_before_a_cancellation_is_not_read_again() {
    let bench = Bench::new();
    for n in 0..50 {
        bench.write(&format!("f{n}"), format!("content {n}").as_bytes());
    }
    let staging = bench.at("");
    let index_file = bench.dir.path().join("index");
    let request = ScanRequest {
        staging: &staging,
        exclude: &bench.exclude,
        limits: ScanLimits { threads: 1, ..ScanLimits::default() },
        index_file: &index_file,
    };
    let cancel = AtomicBool::new(false);
    let seen = RefCell::new(Vec::new());
    let stop_after_ten = |progress: Progress| {
        seen.borrow_mut().push(progress.files_done);
        if progress.files_done == 10 {
            cancel.store(true, Ordering::Relaxed);
        }
    };
    let later = SystemTime::now() + Duration::from_secs(60);
    let stopped = scan_at(&request, &bench.store, later, &stop_after_ten, &cancel);
    // The thread may have finished before it was told.
    if stopped.is_err() {
        assert!(matches!(stopped, Err(ScanError::Cancelled)), "{stopped:?}");
    }
    assert!(seen.borrow().contains(&10));
    let rest = bench.scan().unwrap();
    assert!(rest.files_read <= 40, "{} files were read again", rest.files_read);
    assert_eq!(rest.entries().count(), 50);
}

#[test]
fn a_tree_of_many_directories_is_the_same_whether_read_or_recalled() {
    let bench = Bench::new();
    for n in 0..400 {
        // Names before and behind those of directories, which their contents follow at once.
        bench.write(&format!("d{:02}/e{}/f{n}", n % 40, n % 3), format!("content {n}").as_bytes());
        bench.write(&format!("d{:02}.html", n % 40), b"beside");
        bench.write(&format!("d{:02}/e", n % 40), b"before");
        bench.write(&format!("d{:02}/e{}.html", n % 40, n % 3), b"between");
    }
    fs::create_dir(bench.at("d07/empty")).unwrap();
    symlink("e0", bench.at("d07/e1-link")).unwrap();
    let read = bench.scan().unwrap();
    let paths: Vec<ContentPath> = all(&read).entries.keys().cloned().collect();
    assert!(paths.is_sorted());
    assert_eq!(paths.len(), 400 + 40 + 40 + 40 + 120 + 120 + 2);
    let recalled = bench.scan().unwrap();
    assert_eq!((recalled.files_read, all(&recalled)), (0, all(&read)));

    bench.write("d03/e0/new", b"new");
    fs::remove_file(bench.at("d07/e")).unwrap();
    fs::remove_dir_all(bench.at("d08")).unwrap();
    fs::rename(bench.at("d09"), bench.at("moved")).unwrap();
    let after = bench.scan().unwrap();
    fs::remove_file(bench.dir.path().join("index")).unwrap();
    assert_eq!(all(&bench.scan().unwrap()), all(&after));
    assert_eq!(after.files_read, 1 + 14, "the new one, and those under another path");
}

#[test]
fn the_first_refusal_in_path_order_is_told_however_many_look() {
    let bench = Bench::new();
    for n in 0..60 {
        bench.write(&format!("d{n:02}/sub/file"), b"x");
        if n % 7 == 5 {
            rustix::fs::mknodat(CWD, bench.at(&format!("d{n:02}/sub/pipe")), FileType::Fifo, Mode::RWXU, 0).unwrap();
        }
    }
    fs::write(bench.at("d05/sub/bad\nname"), b"").unwrap();
    for _ in 0..20 {
        let (_, text) = bench.refusal();
        assert!(text.contains("d05/sub/bad"), "{text}");
    }
    fs::remove_file(bench.at("d05/sub/bad\nname")).unwrap();
    for _ in 0..20 {
        let (_, text) = bench.refusal();
        assert!(text.contains("d05/sub/pipe"), "{text}");
    }
}

#[test]
fn contents_are_looked_for_only_where_something_came_or_went_in_the_store() {
    let bench = Bench::new();
    bench.write("a", b"one");
    bench.scan().unwrap();
    let mut index = index::load(&bench.dir.path().join("index"));
    let hex = Digest::of(b"one").to_string();
    fs::remove_file(bench.dir.path().join("store/content").join(&hex[..2]).join(&hex)).unwrap();
    let (stamp, mode) = walk::stat_open(File::open(bench.at("a")).unwrap().as_fd()).unwrap().unwrap();
    let known = |index: &Index, shards: &Shards| {
        let mut files = [Found { name: "a".into(), mode, stamp, digest: None }];
        recall(index, shards, &bench.store, "", &mut files).unwrap();
        files[0].digest.is_some()
    };
    let as_before: Shards = vec![Some(stamp); 256];
    let changed: Shards = vec![Some(Stamp { size: stamp.size + 1, ..stamp }); 256];
    index.shards = as_before.clone();
    assert!(known(&index, &as_before), "it is believed to be there");
    assert!(!known(&index, &changed) && !known(&index, &vec![None; 256]) && !known(&index, &Vec::new()));
    index.shards = vec![None; 256];
    assert!(!known(&index, &vec![None; 256]), "what may change unseen is not believed");
}
