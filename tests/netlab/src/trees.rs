//! Content trees of the tests: made from a seed, changed by a share, copied, and compared.
//!
//! A comparison reads every byte of both trees: it must not share an idea with what it checks.

use std::collections::BTreeMap;
use std::fs::{self, File, FileTimes, Permissions};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// What is read at once while comparing.
const BUFFER_BYTES: usize = 128 * 1024;
/// Files per directory of a generated tree.
const FILES_PER_DIRECTORY: u64 = 64;
/// Every so many files of a generated tree one is executable.
const EXECUTABLE_EVERY: u64 = 10;

/// What a comparison looks at beside names, kinds, bytes, modes and symlink targets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Times of last change of files, too.
    pub mtimes: bool,
    /// Paths, relative to the trees, that are passed over together with all below them.
    pub passed_over: Vec<PathBuf>,
}

/// What a generated tree shall be like. The same plan gives the same tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Where the bytes and sizes come from.
    pub seed: u64,
    /// Bytes of all files together.
    pub bytes: u64,
    /// Bytes of one file on average; single ones have between a quarter and seven quarters of it.
    pub file_bytes: u64,
}

/// A generator of the tests' own: small, quick, and the same on every machine (splitmix64).
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// Begins at a seed.
    #[must_use]
    pub const fn of(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub const fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Bytes that no compression makes smaller.
    #[must_use]
    pub fn bytes(&mut self, length: u64) -> Vec<u8> {
        let length = usize::try_from(length).expect("a test's file fits the memory");
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            bytes.extend_from_slice(&self.roll().to_le_bytes());
        }
        bytes.truncate(length);
        bytes
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> io::Error + '_ {
    move |error| io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Makes a tree of files with incompressible bytes, an empty file, an empty directory and a name
/// with a space among them; gives the bytes of all files together.
///
/// # Errors
/// When something cannot be written, with its path.
pub fn generate(root: &Path, plan: Plan) -> io::Result<u64> {
    let mut dice = Dice::of(plan.seed);
    let mut written = 0;
    for number in 0.. {
        if written >= plan.bytes {
            break;
        }
        let size = plan.file_bytes / 4 + dice.roll() % (plan.file_bytes * 3 / 2 + 1);
        let size = size.min(plan.bytes - written).max(1);
        let directory = root.join(format!("part-{:04}", number / FILES_PER_DIRECTORY));
        let path = directory.join(format!("file-{number:06}.bin"));
        fs::create_dir_all(&directory).map_err(at(&directory))?;
        write(&path, &dice.bytes(size), if number % EXECUTABLE_EVERY == 0 { 0o755 } else { 0o644 })?;
        written += size;
    }
    let odd = root.join("odd names");
    fs::create_dir_all(odd.join("empty")).map_err(at(&odd))?;
    write(&odd.join("nothing in it"), b"", 0o644)?;
    write(&odd.join("größe.txt"), b"not ASCII\n", 0o600)?;
    Ok(written + 10)
}

/// Writes a file with a mode that no umask alters.
///
/// # Errors
/// When it cannot be written, with its path.
pub fn write(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    fs::write(path, bytes).and_then(|()| fs::set_permissions(path, Permissions::from_mode(mode))).map_err(at(path))
}

/// Gives new bytes to files picked by the seed until they make up the share (0 to 1) of all bytes;
/// sizes stay. Gives the bytes of the changed files.
///
/// # Errors
/// When the tree cannot be read or written, with the path.
pub fn change(root: &Path, seed: u64, share: f64) -> io::Result<u64> {
    let mut dice = Dice::of(seed);
    let mut files: Vec<(u64, PathBuf, u64)> =
        files(root)?.into_iter().map(|(path, size)| (dice.roll(), path, size)).collect();
    files.sort();
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52 bytes")]
    let wanted = files.iter().map(|(_, _, size)| size).sum::<u64>() as f64 * share;
    let mut changed = 0;
    for (_, path, size) in files {
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52 bytes")]
        if changed as f64 >= wanted {
            break;
        }
        let path = root.join(path);
        fs::write(&path, dice.bytes(size)).map_err(at(&path))?;
        changed += size;
    }
    Ok(changed)
}

/// The regular files of a tree with their sizes, by relative path.
///
/// # Errors
/// When the tree cannot be read, with the path.
pub fn files(root: &Path) -> io::Result<BTreeMap<PathBuf, u64>> {
    let entries = entries(root, &Comparison::default())?;
    Ok(entries.into_iter().filter(|(_, entry)| entry.is_file()).map(|(path, entry)| (path, entry.len())).collect())
}

/// Paths at which a web server serves both trees, each with its leading `/`: at most `count`, small
/// files, those that differ between the trees first.
///
/// # Errors
/// When a tree cannot be read, with the path.
pub fn common_pages(before: &Path, after: &Path, count: usize) -> io::Result<Vec<String>> {
    const PAGE_BYTES_MAX: u64 = 256 * 1024;
    let plain = |path: &Path| {
        let path = path.to_str()?;
        path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/-_.".contains(&byte)).then(|| format!("/{path}"))
    };
    let (old, new) = (files(before)?, files(after)?);
    let mut pages = Vec::new();
    for (path, size) in &new {
        let Some(page) = plain(path) else { continue };
        if *size <= PAGE_BYTES_MAX && old.get(path).is_some_and(|size| *size <= PAGE_BYTES_MAX) {
            pages.push((same_bytes(&before.join(path), &after.join(path))?.is_none(), page));
        }
    }
    pages.sort();
    Ok(pages.into_iter().take(count).map(|(_, page)| page).collect())
}

/// Copies what is in one tree into a directory, which is made if need be: bytes, modes, symlinks
/// and times of last change.
///
/// # Errors
/// When something cannot be read or written, with its path.
pub fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to).map_err(at(to))?;
    for (path, entry) in entries(from, &Comparison::default())? {
        let (source, target) = (from.join(&path), to.join(&path));
        if entry.is_dir() {
            fs::create_dir_all(&target)
                .and_then(|()| fs::set_permissions(&target, entry.permissions()))
                .map_err(at(&target))?;
        } else if entry.is_symlink() {
            fs::read_link(&source).and_then(|link| symlink(link, &target)).map_err(at(&target))?;
        } else {
            // A path may have been a symlink in the target's former life: never written through.
            remove_file(&target)?;
            fs::copy(&source, &target).map_err(at(&source))?;
            let times = FileTimes::new().set_modified(entry.modified()?);
            File::options().append(true).open(&target).and_then(|file| file.set_times(times)).map_err(at(&target))?;
        }
    }
    Ok(())
}

fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(path)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Removes what is in a directory; the directory stays.
///
/// # Errors
/// When something cannot be removed, with its path.
pub fn empty(root: &Path) -> io::Result<()> {
    for entry in fs::read_dir(root).map_err(at(root))? {
        let entry = entry?;
        let path = entry.path();
        let removed = if entry.file_type()?.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(at(&path))?;
    }
    Ok(())
}

/// Makes a directory hold what another holds, and nothing else.
///
/// # Errors
/// When something cannot be read or written, with its path.
pub fn replace(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to).map_err(at(to))?;
    empty(to)?;
    copy(from, to)
}

/// How one tree differs from another, one sentence a difference; empty when they are equal. The
/// mode of the two roots themselves is not compared.
///
/// # Errors
/// When a tree cannot be read, with the path.
pub fn differences(expected: &Path, actual: &Path, comparison: &Comparison) -> io::Result<Vec<String>> {
    let (wanted, mut found) = (entries(expected, comparison)?, entries(actual, comparison)?);
    let mut differences = Vec::new();
    for (path, wanted) in &wanted {
        let name = path.display();
        let Some(found) = found.remove(path) else {
            differences.push(format!("{name}: is missing"));
            continue;
        };
        let (kind, found_kind) = (kind(wanted), kind(&found));
        if kind != found_kind {
            differences.push(format!("{name}: is a {found_kind}, not a {kind}"));
            continue;
        }
        let (a, b) = (expected.join(path), actual.join(path));
        if wanted.is_symlink() {
            let (a, b) = (fs::read_link(&a).map_err(at(&a))?, fs::read_link(&b).map_err(at(&b))?);
            if a != b {
                differences.push(format!("{name}: points to {}, not to {}", b.display(), a.display()));
            }
            continue;
        }
        let (mode, found_mode) = (wanted.mode() & 0o7777, found.mode() & 0o7777);
        if mode != found_mode {
            differences.push(format!("{name}: has mode {found_mode:o}, not {mode:o}"));
        }
        if !wanted.is_file() {
            continue;
        }
        differences.extend(same_bytes(&a, &b)?.map(|difference| format!("{name}: {difference}")));
        if comparison.mtimes && whole_seconds(wanted.modified()?) != whole_seconds(found.modified()?) {
            differences.push(format!("{name}: has another time of last change"));
        }
    }
    differences.extend(found.keys().map(|path| format!("{}: is not expected", path.display())));
    Ok(differences)
}

fn whole_seconds(time: SystemTime) -> Duration {
    Duration::from_secs(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs())
}

fn kind(entry: &fs::Metadata) -> &'static str {
    let kind = entry.file_type();
    match (kind.is_dir(), kind.is_file(), kind.is_symlink()) {
        (true, _, _) => "directory",
        (_, true, _) => "file",
        (_, _, true) => "symlink",
        (false, false, false) => "special file",
    }
}

/// Nothing when two files hold the same bytes, else how they differ.
fn same_bytes(expected: &Path, actual: &Path) -> io::Result<Option<String>> {
    let open = |path: &Path| File::open(path).map_err(at(path));
    let (a, b) = (open(expected)?, open(actual)?);
    let (a_bytes, b_bytes) = (a.metadata()?.len(), b.metadata()?.len());
    if a_bytes != b_bytes {
        return Ok(Some(format!("has {b_bytes} bytes, not {a_bytes}")));
    }
    let (mut a, mut b) = (BufReader::with_capacity(BUFFER_BYTES, a), BufReader::with_capacity(BUFFER_BYTES, b));
    let (mut one, mut other) = (vec![0; BUFFER_BYTES], vec![0; BUFFER_BYTES]);
    let mut offset = 0;
    loop {
        let got = fill(&mut a, &mut one).map_err(at(expected))?;
        fill(&mut b, &mut other).map_err(at(actual))?;
        if let Some(first) = one[..got].iter().zip(&other[..got]).position(|(one, other)| one != other) {
            return Ok(Some(format!("differs from byte {} on", offset + first)));
        }
        if got < one.len() {
            return Ok(None);
        }
        offset += got;
    }
}

fn fill(file: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..])? {
            0 => break,
            got => filled += got,
        }
    }
    Ok(filled)
}

/// Everything below a root, by relative path, directories before what is in them.
fn entries(root: &Path, comparison: &Comparison) -> io::Result<BTreeMap<PathBuf, fs::Metadata>> {
    let mut entries = BTreeMap::new();
    let mut open = vec![PathBuf::new()];
    while let Some(directory) = open.pop() {
        let full = root.join(&directory);
        for entry in fs::read_dir(&full).map_err(at(&full))? {
            let path = directory.join(entry.map_err(at(&full))?.file_name());
            if comparison.passed_over.contains(&path) {
                continue;
            }
            let full = root.join(&path);
            let metadata = fs::symlink_metadata(&full).map_err(at(&full))?;
            if metadata.is_dir() {
                open.push(path.clone());
            }
            entries.insert(path, metadata);
        }
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: Plan = Plan { seed: 7, bytes: 400_000, file_bytes: 3_000 };

    fn two_equal_trees() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let dir = tempfile::tempdir().expect("a directory");
        let (one, other) = (dir.path().join("one"), dir.path().join("other"));
        generate(&one, PLAN).expect("writes");
        symlink("odd names", one.join("link")).expect("links");
        copy(&one, &other).expect("copies");
        (dir, one, other)
    }

    fn compare(one: &Path, other: &Path) -> Vec<String> {
        differences(one, other, &Comparison { mtimes: true, ..Comparison::default() }).expect("reads")
    }

    #[test]
    fn the_same_plan_gives_the_same_tree_of_the_size_asked_for() {
        let dir = tempfile::tempdir().expect("a directory");
        let bytes = generate(&dir.path().join("a"), PLAN).expect("writes");
        generate(&dir.path().join("b"), PLAN).expect("writes");
        assert_eq!(bytes, PLAN.bytes + 10);
        assert_eq!(files(&dir.path().join("a")).expect("reads").values().sum::<u64>(), bytes);
        let none: Vec<String> = Vec::new();
        let found = differences(&dir.path().join("a"), &dir.path().join("b"), &Comparison::default());
        assert_eq!(found.expect("reads"), none);
        generate(&dir.path().join("c"), Plan { seed: 8, ..PLAN }).expect("writes");
        let found = differences(&dir.path().join("a"), &dir.path().join("c"), &Comparison::default());
        assert!(!found.expect("reads").is_empty());
    }

    #[test]
    fn a_copy_is_equal_in_bytes_modes_links_and_times() {
        let (_dir, one, other) = two_equal_trees();
        assert_eq!(compare(&one, &other), Vec::<String>::new());
    }

    #[test]
    fn every_kind_of_difference_is_named() {
        let (_dir, one, other) = two_equal_trees();
        let file = |number: u32| other.join(format!("part-0000/file-{number:06}.bin"));
        let mut bytes = fs::read(file(1)).expect("reads");
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        let modified = fs::metadata(file(1)).and_then(|entry| entry.modified()).expect("a time");
        fs::write(file(1), bytes).expect("writes");
        let times = FileTimes::new().set_modified(modified);
        File::options().append(true).open(file(1)).and_then(|file| file.set_times(times)).expect("sets");
        fs::set_permissions(file(2), Permissions::from_mode(0o640)).expect("sets");
        fs::remove_file(file(3)).expect("removes");
        fs::remove_file(file(4)).and_then(|()| fs::create_dir(file(4))).expect("makes");
        fs::remove_file(other.join("link")).and_then(|()| symlink("elsewhere", other.join("link"))).expect("links");
        fs::write(other.join("extra"), b"").expect("writes");
        let times = FileTimes::new().set_modified(SystemTime::UNIX_EPOCH);
        File::options().append(true).open(file(5)).and_then(|file| file.set_times(times)).expect("sets");
        assert_eq!(
            compare(&one, &other),
            [
                "link: points to elsewhere, not to odd names".to_owned(),
                format!("part-0000/file-000001.bin: differs from byte {last} on"),
                "part-0000/file-000002.bin: has mode 640, not 644".to_owned(),
                "part-0000/file-000003.bin: is missing".to_owned(),
                "part-0000/file-000004.bin: is a directory, not a file".to_owned(),
                "part-0000/file-000005.bin: has another time of last change".to_owned(),
                "extra: is not expected".to_owned(),
            ]
        );
    }

    #[test]
    fn what_is_passed_over_is_not_compared() {
        let (_dir, one, other) = two_equal_trees();
        fs::create_dir(other.join("uploads")).expect("makes");
        fs::write(other.join("uploads/a"), b"a").expect("writes");
        let comparison = Comparison { passed_over: vec!["uploads".into()], ..Comparison::default() };
        assert_eq!(differences(&one, &other, &comparison).expect("reads"), Vec::<String>::new());
        assert_eq!(compare(&one, &other).len(), 2);
    }

    #[test]
    fn one_percent_is_changed_and_the_sizes_stay() {
        let (_dir, one, other) = two_equal_trees();
        let changed = change(&other, 1, 0.01).expect("changes");
        assert!((4_000..=4_000 + 2 * PLAN.file_bytes).contains(&changed), "{changed}");
        let found = differences(&one, &other, &Comparison::default()).expect("reads");
        assert!(!found.is_empty() && found.iter().all(|found| found.contains("differs from byte")), "{found:?}");
        assert_eq!(files(&one).expect("reads"), files(&other).expect("reads"));
    }

    #[test]
    fn a_replaced_tree_keeps_nothing_of_the_former() {
        let (_dir, one, other) = two_equal_trees();
        fs::write(other.join("former"), b"x").expect("writes");
        replace(&one, &other).expect("replaces");
        assert_eq!(compare(&one, &other), Vec::<String>::new());
    }

    #[test]
    fn changed_pages_come_first_among_the_common_ones() {
        let (_dir, one, other) = two_equal_trees();
        fs::write(other.join("part-0001/file-000070.bin"), b"new").expect("writes");
        let pages = common_pages(&one, &other, 3).expect("reads");
        assert_eq!(pages.len(), 3);
        assert_eq!(pages[0], "/part-0001/file-000070.bin");
        assert!(common_pages(&one, &other, 1000).expect("reads").iter().all(|page| !page.contains(' ')));
    }
}
