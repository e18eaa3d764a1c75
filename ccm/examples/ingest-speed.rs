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
use common::manifest::Manifest;
use common::time::WallTime;
use pressrun_ccm::ingest::build::{BuildRequest, build};
use pressrun_ccm::ingest::compare::compare;
use pressrun_ccm::ingest::content::ContentStore;
use pressrun_ccm::ingest::diff::{Diff, diff, keep_times};
use pressrun_ccm::ingest::directory::Directory;
use pressrun_ccm::ingest::level::Level;
use pressrun_ccm::ingest::scan::{ScanLimits, ScanRequest, scan};

/// Files of one directory.
const DIRECTORY_FILES: usize = 100;
/// Longer than the scan's margin, within which it does not believe a file's stamp.
const SETTLED_AFTER: Duration = Duration::from_millis(2200);

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        ["scan", dir, files, repetitions] => beside_rsync(Path::new(dir), files, repetitions),
        ["once", dir, version, way] => once(Path::new(dir), version, way),
        ["build", base, target, level, repetitions] => package(Path::new(base), Path::new(target), level, repetitions),
        ["memory", dir, files] => memory(Path::new(dir), files),
        _ => {
            eprintln!(
                "usage: ingest-speed scan DIR FILES REPETITIONS | memory DIR FILES | build BASE TARGET LEVEL REPETITIONS"
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

    /// Makes the tree and scans it twice: once to take its contents, and once, when it has rested, to
    /// believe its stamps.
    fn make(dir: &Path, files: usize) -> Result<(Self, Version), Failure> {
        let bench = Self::at(dir)?;
        for number in 0..files {
            let directory = bench.staging.join(format!("section-{:04}", number / DIRECTORY_FILES));
            if number % DIRECTORY_FILES == 0 {
                fs::create_dir_all(&directory)?;
            }
            let mut file = fs::File::create(directory.join(format!("page-{number:07}.html")))?;
            writeln!(file, "<html><body><p>This is page {number}.</p></body></html>")?;
        }
        let first = bench.scan()?;
        let version = bench.store.put_manifest(&first)?;
        std::thread::sleep(SETTLED_AFTER);
        bench.scan()?;
        Ok((bench, version))
    }

    fn with_request<T>(&self, act: impl FnOnce(&ScanRequest<'_>) -> T) -> T {
        let exclude = Exclude::default();
        act(&ScanRequest {
            staging: &self.staging,
            exclude: &exclude,
            limits: ScanLimits::default(),
            index_file: &self.index,
        })
    }

    fn scan(&self) -> Result<Manifest, Failure> {
        let cancel = AtomicBool::new(false);
        Ok(self.with_request(|request| scan(request, &self.store, &|_| (), &cancel))?.manifest)
    }

    /// What a publish does until it knows what has changed since `version` was published: the scan, the
    /// published tree, the difference.
    fn scan_and_diff(&self, version: Version) -> Result<[Duration; 3], Failure> {
        let began = Instant::now();
        let mut new = self.scan()?;
        let scanned = began.elapsed();
        let old = self.store.manifest(version)?;
        let loaded = began.elapsed();
        keep_times(&old, &mut new);
        nothing(&diff(&old, &new))?;
        Ok([scanned, loaded - scanned, began.elapsed() - loaded])
    }

    /// The same without either tree in memory.
    fn compare(&self, version: Version) -> Result<Duration, Failure> {
        let began = Instant::now();
        nothing(&self.with_request(|request| {
            let cancel = AtomicBool::new(false);
            compare(request, &self.store, version, &|_| (), &cancel)
        })?)?;
        Ok(began.elapsed())
    }
}

fn nothing(found: &Diff) -> Result<(), Failure> {
    if found.is_empty() { Ok(()) } else { Err("nothing was changed, and something is different".into()) }
}

fn beside_rsync(dir: &Path, files: &str, repetitions: &str) -> Result<(), Failure> {
    let (files, repetitions): (usize, usize) = (files.parse()?, repetitions.parse()?);
    let (bench, version) = Bench::make(dir, files)?;
    let copy = dir.join("copy");
    run(Command::new("cp").arg("-a").arg(&bench.staging).arg(&copy))?;
    let mut ratios = [Vec::new(), Vec::new()];
    // The first time warms the caches of all.
    for turn in 0..=repetitions {
        let parts = bench.scan_and_diff(version)?;
        let compared = bench.compare(version)?;
        let began = Instant::now();
        let from = format!("{}/", bench.staging.display());
        run(Command::new("rsync").arg("-an").arg(from).arg(format!("{}/", copy.display())))?;
        let theirs = began.elapsed();
        let [scanned, loaded, differed] = parts;
        println!(
            "scan {scanned:.1?}, published tree {loaded:.1?}, difference {differed:.1?}; compare {compared:.1?}; \
             rsync -an {theirs:.1?}"
        );
        if turn > 0 {
            for (ratios, ours) in ratios.iter_mut().zip([parts.iter().sum::<Duration>(), compared]) {
                ratios.push(ours.as_secs_f64() / theirs.as_secs_f64());
            }
        }
    }
    let [whole, compared] = ratios.map(|mut ratios| {
        ratios.sort_by(f64::total_cmp);
        ratios[ratios.len() / 2]
    });
    println!(
        "{files} files, nothing changed, median of rsync's time: {whole:.3} with both trees in memory, {compared:.3} without (goal 0.6)"
    );
    Ok(())
}

/// The peak of a process that scans and compares once.
fn once(dir: &Path, version: &str, way: &str) -> Result<(), Failure> {
    let bench = Bench::at(dir)?;
    let version = Version(version.parse()?);
    let before = peak()?;
    let took = if way == "compare" { bench.compare(version)? } else { bench.scan_and_diff(version)?.iter().sum() };
    println!("{} {took:?}", peak()? - before);
    Ok(())
}

fn memory(dir: &Path, files: &str) -> Result<(), Failure> {
    let files: u64 = files.parse()?;
    let ways = ["compare", "whole"];
    let mut peaks = [Vec::new(), Vec::new()];
    for files in [files / 2, files] {
        let dir = dir.join(files.to_string());
        fs::create_dir_all(&dir)?;
        let (bench, version) = Bench::make(&dir, usize::try_from(files)?)?;
        drop(bench);
        for (way, peaks) in ways.into_iter().zip(&mut peaks) {
            let version = version.to_string();
            let output = Command::new(std::env::current_exe()?).arg("once").arg(&dir).args([&version, way]).output()?;
            let text = String::from_utf8(output.stdout)?;
            let (bytes, time) = text.trim().split_once(' ').ok_or("the process of its own has failed")?;
            let bytes: u64 = bytes.parse()?;
            println!("{files} files, {way}: {:.1} MiB, {time}", bytes as f64 / f64::from(1 << 20));
            peaks.push(bytes);
        }
    }
    for (way, peaks) in ways.into_iter().zip(peaks) {
        let more = (peaks[1] - peaks[0]) / (files - files / 2);
        println!("{way}: {more} bytes for each file more (goal 100)");
    }
    Ok(())
}

/// Builds the package that leads from one tree to the other, from trees whose digests are known: what a
/// content control manager does after its scan.
fn package(base: &Path, target: &Path, level: &str, repetitions: &str) -> Result<(), Failure> {
    let (level, repetitions): (Level, u32) = (level.parse()?, repetitions.parse()?);
    let (exclude, cancel) = (Exclude::default(), AtomicBool::new(false));
    let read = |path: &Path| Directory::read(path, &exclude, &ScanLimits::default(), &cancel);
    let (base, target) = (read(base)?, read(target)?);
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
    let changed = diff(base.manifest(), target.manifest()).content_bytes;
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
