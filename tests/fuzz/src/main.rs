//! `pressrun-fuzz --minutes 10 [TARGET…]`: tries decoders with damaged and invented input.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use pressrun_fuzz::{CORPUS, Target, Until, keep, kept, limit_memory, run, targets};

/// Damaged and invented input for decoders
#[derive(Debug, Parser)]
struct Args {
    /// Which; all when none is named
    targets: Vec<String>,
    /// For each target
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// Everything follows from it
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where the inputs that brought something new are kept, a directory for each target; they are tried
    /// first the next time, as those in tests/fuzz/corpus always are
    #[arg(long)]
    corpus: Option<PathBuf>,
    /// Tries one input, in hexadecimal, and nothing else
    #[arg(long, requires = "targets", conflicts_with = "file")]
    input: Option<String>,
    /// Tries one input, the content of a file, and nothing else
    #[arg(long, requires = "targets")]
    file: Option<PathBuf>,
    /// More memory than this, in MiB, ends the process
    #[arg(long, default_value_t = 512)]
    memory: u64,
    /// Names the targets, with the longest input worth trying, in bytes
    #[arg(long)]
    list: bool,
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u32> = text.chars().map(|digit| digit.to_digit(16)).collect::<Option<_>>()?;
    digits.chunks(2).map(|pair| u8::try_from(pair.first()? << 4 | pair.get(1)?).ok()).collect()
}

fn main() -> ExitCode {
    let args = Args::parse();
    if args.list {
        for Target { name, bytes_max, what, .. } in targets::all() {
            println!("{name:<14} {bytes_max:>6} {what}");
        }
        return ExitCode::SUCCESS;
    }
    if let Some(unknown) = args.targets.iter().find(|name| targets::names().all(|known| known != name.as_str())) {
        eprintln!("pressrun-fuzz: there is no target {unknown}");
        return ExitCode::from(2);
    }
    if let Err(error) = limit_memory(args.memory << 20) {
        eprintln!("pressrun-fuzz: memory cannot be limited: {error}");
        return ExitCode::from(2);
    }
    let chosen = targets::names().filter(|name| args.targets.is_empty() || args.targets.iter().any(|it| it == name));
    let mut failed = false;
    for mut target in chosen.filter_map(targets::one) {
        failed |= !try_target(&args, &mut target);
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// What is tried before anything is made of it: the one input that was asked for, or what was kept.
fn given(args: &Args, target: &Target) -> Result<Vec<Vec<u8>>, String> {
    let read = |path: &Path, error: std::io::Error| format!("{} cannot be read: {error}", path.display());
    if let Some(input) = &args.input {
        return Ok(vec![unhex(input).ok_or("the input is not hexadecimal")?]);
    }
    if let Some(path) = &args.file {
        return Ok(vec![std::fs::read(path).map_err(|error| read(path, error))?]);
    }
    let mut given = Vec::new();
    for corpus in [Some(Path::new(CORPUS)), args.corpus.as_deref()].into_iter().flatten() {
        let directory = corpus.join(target.name);
        given.extend(kept(&directory).map_err(|error| read(&directory, error))?);
    }
    Ok(given)
}

fn try_target(args: &Args, target: &mut Target) -> bool {
    let more = match given(args, target) {
        Ok(more) => more,
        Err(what) => {
            eprintln!("pressrun-fuzz: {what}");
            return false;
        }
    };
    let directory = args.corpus.as_ref().map(|corpus| corpus.join(target.name));
    let until = match args.input.is_some() || args.file.is_some() {
        true => Until::Inputs(1),
        false => Until::Elapsed(Duration::from_secs_f64(args.minutes * 60.0)),
    };
    match run(target, &more, args.seed, until) {
        Ok(summary) => {
            println!(
                "{:<14} {:>10} inputs, {:>10} decoded, {:>5} shapes",
                target.name, summary.inputs, summary.decoded, summary.shapes
            );
            match directory.map(|directory| keep(&directory, &summary.kept)) {
                Some(Err(error)) => {
                    eprintln!("pressrun-fuzz: the corpus of {} cannot be written: {error}", target.name);
                    false
                }
                Some(Ok(())) | None => true,
            }
        }
        Err(failure) => {
            println!("{failure}");
            println!("replay: cargo run -p pressrun-fuzz -- {} --input …", failure.target);
            false
        }
    }
}
