//! `pressrun-fuzz --minutes 10 [TARGET…]`: tries decoders with damaged and invented input.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use pressrun_fuzz::{Target, Until, limit_memory, run, targets};

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
    /// first the next time
    #[arg(long)]
    corpus: Option<PathBuf>,
    /// Tries one input, in hexadecimal, and nothing else
    #[arg(long, requires = "targets")]
    input: Option<String>,
    /// More memory than this, in MiB, ends the process
    #[arg(long, default_value_t = 512)]
    memory: u64,
    /// Names the targets
    #[arg(long)]
    list: bool,
}

fn kept(directory: &Path) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok);
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths.iter().filter_map(|path| fs::read(path).ok()).collect()
}

fn keep(directory: &Path, inputs: &[Vec<u8>]) -> std::io::Result<()> {
    fs::create_dir_all(directory)?;
    for input in inputs {
        fs::write(directory.join(&common::digest::Digest::of(input).to_string()[..16]), input)?;
    }
    Ok(())
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u32> = text.chars().map(|digit| digit.to_digit(16)).collect::<Option<_>>()?;
    digits.chunks(2).map(|pair| u8::try_from(pair.first()? << 4 | pair.get(1)?).ok()).collect()
}

fn main() -> ExitCode {
    let args = Args::parse();
    let all = targets::all();
    if args.list {
        all.iter().for_each(|target| println!("{:<14} {}", target.name, target.what));
        return ExitCode::SUCCESS;
    }
    if let Some(unknown) = args.targets.iter().find(|name| all.iter().all(|target| target.name != name.as_str())) {
        eprintln!("pressrun-fuzz: there is no target {unknown}");
        return ExitCode::from(2);
    }
    if let Err(error) = limit_memory(args.memory << 20) {
        eprintln!("pressrun-fuzz: memory cannot be limited: {error}");
        return ExitCode::from(2);
    }
    let chosen =
        all.into_iter().filter(|target| args.targets.is_empty() || args.targets.iter().any(|it| it == target.name));
    let mut failed = false;
    for mut target in chosen {
        failed |= !try_target(&args, &mut target);
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn try_target(args: &Args, target: &mut Target) -> bool {
    let directory = args.corpus.as_ref().map(|corpus| corpus.join(target.name));
    let mut more = directory.as_deref().map(kept).unwrap_or_default();
    let mut until = Until::Elapsed(Duration::from_secs_f64(args.minutes * 60.0));
    if let Some(input) = &args.input {
        let Some(input) = unhex(input) else {
            eprintln!("pressrun-fuzz: the input is not hexadecimal");
            return false;
        };
        more = vec![input];
        until = Until::Inputs(1);
    }
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
