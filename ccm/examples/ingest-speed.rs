//! How fast staging trees are compared and change packages built, by the library calls that a publish makes.
//!
//! `scripts/bench scan` runs `ingest-speed scan`, beside `rsync -an` between two trees on the same file
//! system, and `ingest-speed memory`; `scripts/bench rate` runs `ingest-speed build`. Times are of the clock, and
//! of the processors where it says so. Memory is what the kernel has seen as the peak of a process of its
//! own, for two numbers of files, so that what every process takes cancels out.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use common::assignment::{Draft, Extra, Kind, LivePolicy};
use common::digest::Version;
use common::exclude::Exclude;
use common::ids::{AssignmentNumber, ClusterId, RunNumber, Sequence, ServerId};
use common::keys::PublishKey;
use common::time::WallTime;
use pressrun_ccm::ingest::build::{BuildRequest, build};
use pressrun_ccm::ingest::compare::compare;
use pressrun_ccm::ingest::content::{ContentError, ContentStore};
use pressrun_ccm::ingest::diff::Diff;
use pressrun_ccm::ingest::directory::Directory;
use pressrun_ccm::ingest::level::Level;
use pressrun_ccm::ingest::scan::{Scan, ScanLimits, ScanRequest, scan};
use pressrun_ccm::ingest::stored::StoredTree;
use pressrun_ccm::ingest::tree::Tree;

/// So many files are changed for the last row.
const CHANGED: usize = 100;
/// The second tree of rsync's is a copy of so many files at most, and links to more: file systems in memory have
/// room for three million files, and the content store has one, too.
const COPIED_MAX: usize = 500_000;
/// Longer than the scan's margin, within which it does not believe a file's stamp.
const SETTLED_AFTER: Duration = Duration::from_millis(2200);

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        ["scan", dir, files, each, repetitions] => beside_rsync(Path::new(dir), files, each, repetitions),
        ["once", dir, version] => once(Path::new(dir), version),
        ["build", base, target, level, repetitions] => package(Path::new(base), Path::new(target), level, repetitions),
        ["memory", dir, files, each] => memory(Path::new(dir), files, each),
        _ => {
            eprintln!(
                "usage: ingest-speed scan DIR FILES FILES-OF-A-DIRECTORY REPETITIONS | \
                 memory DIR FILES FILES-OF-A-DIRECTORY | build BASE TARGET LEVEL REPETITIONS"
            );
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ingest-speed: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A staging tree, the content store and the index of its last scan, below one directory.
struct Bench {
    staging: PathBuf,
    index: PathBuf,
    store: ContentStore,
}

impl Bench {
    fn at(dir: &Path) -> Result<Self, Failure> {
        let store = ContentStore::open(&dir.join("store"))?;
        Ok(Self { staging: dir.join("staging"), index: dir.join("index"), store })
    }

    /// Makes the tree and publishes it, and scans it again when it has rested, to believe its stamps.
    fn make(dir: &Path, files: usize, each: usize, copy: Option<&Path>) -> Result<(Self, StoredTree), Failure> {
        let bench = Self::at(dir)?;
        for number in 0..files {
            let path = bench.page(number, each);
            if number % each == 0 {
                fs::create_dir_all(path.parent().ok_or("every page is in a directory")?)?;
            }
            let mut file = fs::File::create(path)?;
            writeln!(file, "<html><body><p>This is page {number}.</p></body></html>")?;
        }
        if let Some(copy) = copy {
            // A link changes the stamp of what it is to.
            let how = if files > COPIED_MAX { "-al" } else { "-a" };
            run(Command::new("cp").arg(how).arg(&bench.staging).arg(copy))?;
        }
        let began = Instant::now();
        let published = bench.scan()?.keep(&bench.store, None)?.0;
        println!("{files} files in directories of {each}, first published in {:.1?}", began.elapsed());
        std::thread::sleep(SETTLED_AFTER);
        bench.scan()?;
        Ok((bench, published))
    }

    fn page(&self, number: usize, each: usize) -> PathBuf {
        self.staging.join(format!("section-{:04}/page-{number:07}.html", number / each))
    }

    fn scan(&self) -> Result<Scan, Failure> {
        let (exclude, cancel) = (Exclude::default(), AtomicBool::new(false));
        let request = ScanRequest {
            staging: &self.staging,
            exclude: &exclude,
            limits: ScanLimits::default(),
            index_file: &self.index,
        };
        Ok(scan(&request, &self.store, &|_| (), &cancel)?)
    }

    /// What a publish does until it knows which version it makes: the scan, the comparison with what is
    /// published, and the record of what came out.
    fn publish(&self, published: Version) -> Result<([Duration; 2], StoredTree), Failure> {
        let began = Instant::now();
        let found = self.scan()?;
        let scanned = began.elapsed();
        let (kept, _) = found.keep(&self.store, Some(&self.store.tree(published)?))?;
        Ok(([scanned, began.elapsed() - scanned], kept))
    }

    /// What is shown before a publish.
    fn preview(&self, published: Version) -> Result<(Duration, Diff), Failure> {
        let began = Instant::now();
        let diff = Diff::of(&self.scan()?.changes(Some(&self.store.tree(published)?))?);
        Ok((began.elapsed(), diff))
    }
}

fn beside_rsync(dir: &Path, files: &str, each: &str, repetitions: &str) -> Result<(), Failure> {
    let (files, each, repetitions): (usize, usize, usize) = (files.parse()?, each.parse()?, repetitions.parse()?);
    let copy = dir.join("copy");
    let (bench, published) = Bench::make(dir, files, each, Some(&copy))?;
    let version = published.version();
    let mut ratios = [Vec::new(), Vec::new()];
    // The first time warms the caches of all.
    for turn in 0..=repetitions {
        let (parts, kept) = bench.publish(version)?;
        let (shown, diff) = bench.preview(version)?;
        if kept.version() != version || !diff.is_empty() {
            return Err("nothing was changed, and something is different".into());
        }
        let began = Instant::now();
        let from = format!("{}/", bench.staging.display());
        run(Command::new("rsync").arg("-an").arg(from).arg(format!("{}/", copy.display())))?;
        let theirs = began.elapsed();
        let [scanned, compared] = parts;
        println!(
            "publish: scan {scanned:.1?}, comparison and record {compared:.1?}; preview {shown:.1?}; \
             rsync -an {theirs:.1?}"
        );
        if turn > 0 {
            for (ratios, ours) in ratios.iter_mut().zip([parts.iter().sum::<Duration>(), shown]) {
                ratios.push(ours.as_secs_f64() / theirs.as_secs_f64());
            }
        }
    }
    let [publish, preview] = ratios.map(|mut ratios| {
        ratios.sort_by(f64::total_cmp);
        ratios[ratios.len() / 2]
    });
    println!(
        "{files} files, nothing changed, median of rsync's time: publish {publish:.3}, preview {preview:.3} (goal 0.6)"
    );
    for number in (0..files).step_by(files.div_ceil(CHANGED)) {
        fs::write(bench.page(number, each), "edited")?;
    }
    let ([scanned, compared], kept) = bench.publish(version)?;
    if kept.version() == version {
        return Err("files were changed, and nothing is different".into());
    }
    println!("{CHANGED} files changed: publish: scan {scanned:.1?}, comparison and record {compared:.1?}");
    Ok(())
}

/// The peak of a process that does once what a publish does.
fn once(dir: &Path, version: &str) -> Result<(), Failure> {
    let bench = Bench::at(dir)?;
    let before = peak()?;
    let (took, _) = bench.publish(Version(version.parse()?))?;
    println!("{} {:?}", peak()? - before, took.iter().sum::<Duration>());
    Ok(())
}

fn memory(dir: &Path, files: &str, each: &str) -> Result<(), Failure> {
    let (files, each): (u64, usize) = (files.parse()?, each.parse()?);
    let mut peaks = Vec::new();
    for files in [files / 2, files] {
        let dir = dir.join(files.to_string());
        fs::create_dir_all(&dir)?;
        let (bench, published) = Bench::make(&dir, usize::try_from(files)?, each, None)?;
        println!("the first publish and all before it: {:.1} MiB", peak()? as f64 / f64::from(1 << 20));
        let version = published.version().to_string();
        drop(bench);
        let output = Command::new(std::env::current_exe()?).arg("once").arg(&dir).arg(&version).output()?;
        let text = String::from_utf8(output.stdout)?;
        let (bytes, time) = text.trim().split_once(' ').ok_or("the process of its own has failed")?;
        let bytes: u64 = bytes.parse()?;
        println!("{files} files, published unchanged: {:.1} MiB, {time}", bytes as f64 / f64::from(1 << 20));
        peaks.push(bytes);
        fs::remove_dir_all(&dir)?;
    }
    let more = peaks[1].saturating_sub(peaks[0]) / (files - files / 2);
    println!("published unchanged: {more} bytes for each file more (goal 100)");
    Ok(())
}

/// Builds the package that leads from one tree to the other, from trees whose digests are known: what a
/// content control manager does after its scan.
fn package(base: &Path, target: &Path, level: &str, repetitions: &str) -> Result<(), Failure> {
    let (level, repetitions): (Level, u32) = (level.parse()?, repetitions.parse()?);
    let (exclude, cancel) = (Exclude::default(), AtomicBool::new(false));
    let read = |path: &Path| Directory::read(path, &exclude, &ScanLimits::default(), &cancel);
    let (began, before) = (Instant::now(), worked()?);
    let (base, target) = (read(base)?, read(target)?);
    println!("reading both trees took {:.3?}, {:.3?} of processors", began.elapsed(), worked()? - before);
    let draft = Draft {
        cluster: ClusterId([0; 16]),
        site: "site".parse()?,
        group: "all".parse()?,
        number: AssignmentNumber(1),
        run: RunNumber(1),
        kind: Kind::Prepare,
        sequence: Sequence(1),
        targets: vec![ServerId([0; 16])],
        live: LivePolicy { directory: String::new(), create: false, adopt: false, exclude: Vec::new() },
        created: WallTime(0),
        expires: WallTime(0),
        extra: Extra::default(),
        linger_seconds: 0,
    };
    let request = BuildRequest { draft, base: Some(base.manifest()), result: target.manifest(), needed: None, level };
    let output = tempfile::tempdir()?;
    let key = PublishKey::of_nobody();
    let (began, worked) = (Instant::now(), worked()?);
    let mut length = 0;
    for _ in 0..repetitions {
        let output = output.path().join("assignment");
        length = build(&request, &&[&base, &target][..], &key, &output, &|_| (), &cancel)?.length;
    }
    let (took, worked) = (began.elapsed() / repetitions, (self::worked()? - worked) / repetitions);
    let changes = compare::<ContentError>(Some(base.manifest()), Tree::entries(target.manifest())?)?;
    let changed = Diff::of(&changes).content_bytes;
    let rate = changed as f64 / worked.as_secs_f64() / 1e6;
    println!("{changed} bytes changed: {length} bytes, {took:.3?}, {worked:.3?} of processors, {rate:.0} MB/s a core");
    Ok(())
}

/// Time that processors have worked for this process. The kernel counts it in hundredths of seconds.
fn worked() -> Result<Duration, Failure> {
    let status = fs::read_to_string("/proc/self/stat")?;
    let fields = status.rsplit(')').next().ok_or("no fields")?;
    let mut hundredths = 0;
    for field in fields.split_whitespace().skip(11).take(2) {
        hundredths += field.parse::<u64>()?;
    }
    Ok(Duration::from_millis(hundredths * 10))
}

/// Most memory that this process has held, in bytes.
fn peak() -> Result<u64, Failure> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).ok_or("no VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? << 10)
}

fn run(command: &mut Command) -> Result<(), Failure> {
    let status = command.stdout(Stdio::null()).status()?;
    if status.success() { Ok(()) } else { Err(format!("{command:?}: {status}").into()) }
}
