//! Our multicast session beside other programs, on one network of namespaces with slowed and lossy
//! links.
//!
//! Time runs from the order to send until the last receiver has the whole file: of ours verified,
//! in the object store and acknowledged; of the others as they say themselves, and it is compared
//! afterwards. Files are in memory on both sides. Losses are of multicast only.

mod forged;
mod report;
mod scenario;
mod tools;
mod watch;

use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use pressrun_netlab::trees::Dice;
use pressrun_netlab::{Rate, lab};
use report::Line;
use scenario::Scenario;
use serde_json::json;
use tools::{Bench, Tool};

/// Where files are in memory.
const MEMORY: &str = "/dev/shm";

/// Compares multicast programs on a network of namespaces.
#[derive(Debug, Parser)]
struct Arguments {
    /// The program `lan-cast`.
    #[arg(long, value_parser = |path: &str| std::fs::canonicalize(path))]
    lan_cast: PathBuf,
    /// Only these rows; see --list.
    #[arg(long, value_delimiter = ',')]
    rows: Vec<String>,
    /// Only these programs.
    #[arg(long, value_delimiter = ',')]
    tools: Vec<Tool>,
    /// Slows the links of the rows at 100 Mbit/s to this: for machines that cannot be that many servers
    /// at full rate. Goals are ratios and stay.
    #[arg(long)]
    mbit: Option<u64>,
    /// Instead of the rows: sends so many forged, damaged and repeated frames between the frames of sessions, and
    /// compares with sessions that are left in peace.
    #[arg(long)]
    forged: Option<u64>,
    /// Lists the rows.
    #[arg(long)]
    list: bool,
    /// Also write the result here, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.list {
        scenario::all().iter().for_each(|row| println!("{}", row.name));
        return ExitCode::SUCCESS;
    }
    end_with_signals();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-lan: {}", chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let unknown: Vec<&String> =
        arguments.rows.iter().filter(|name| scenario::all().iter().all(|row| row.name != **name)).collect();
    if !unknown.is_empty() {
        return Err(format!("there is no row {unknown:?}; see --list").into());
    }
    if let Some(frames) = arguments.forged {
        let directory = tempfile::Builder::new().prefix(&own_files()).tempdir_in(MEMORY)?;
        return forged::run(&arguments.lan_cast, directory.path(), frames);
    }
    let load = || fs::read_to_string("/proc/loadavg").unwrap_or_default().trim().to_owned();
    let (load_before, mut rows) = (load(), Vec::new());
    println!("load before: {load_before}");
    for mut row in scenario::all() {
        if row.rate == Some(Rate::mbit(100)) {
            row.rate = arguments.mbit.map(Rate::mbit).or(row.rate);
        }
        if !arguments.rows.is_empty() && !arguments.rows.contains(&row.name) {
            continue;
        }
        let lines = compare(arguments, &row)?;
        report::print(&row, &lines);
        rows.push(report::json(&row, &lines));
    }
    println!("\nload after: {}", load());
    if let Some(path) = &arguments.json {
        let result = json!({ "load_before": load_before, "load_after": load(), "rows": rows });
        fs::write(path, format!("{result:#}\n"))?;
    }
    Ok(())
}

/// Runs every program in one row.
fn compare(arguments: &Arguments, row: &Scenario) -> Result<Vec<Line>, Box<dyn Error>> {
    let directory = tempfile::Builder::new().prefix(&own_files()).tempdir_in(MEMORY)?;
    let source = directory.path().join("source");
    fs::create_dir(&source)?;
    let file = source.join("object");
    fs::write(&file, Dice::of(1).bytes(row.bytes))?;
    let all = [Tool::Pressrun, Tool::PressrunFixed, Tool::Uftp, Tool::Udpcast, Tool::Rsync, Tool::Bittorrent];
    let wanted = |tool: &Tool| arguments.tools.is_empty() || arguments.tools.contains(tool);
    let mut lines = Vec::new();
    for tool in all.into_iter().filter(|tool| wanted(tool) && tool.applies_to(row)) {
        // A fresh network and empty directories for each.
        let lab = row.lab()?;
        let place = directory.path().join("work");
        fs::create_dir(&place)?;
        let bench = Bench { lab: &lab, scenario: row, directory: &place, file: &file, lan_cast: &arguments.lan_cast };
        let result = bench.run(tool).map_err(|error| chain(&error));
        drop(lab);
        fs::remove_dir_all(&place)?;
        lines.push(Line { tool: tool.name(), result });
    }
    Ok(lines)
}

/// A signal ends the process, and what it has made goes first.
fn end_with_signals() {
    std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a small runtime");
        runtime.block_on(async {
            use tokio::signal::unix::{SignalKind, signal};
            let mut interrupt = signal(SignalKind::interrupt()).expect("may be heard");
            let mut terminate = signal(SignalKind::terminate()).expect("may be heard");
            let mut hangup = signal(SignalKind::hangup()).expect("may be heard");
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
        });
        // What holds files open goes with the namespaces it runs in.
        if let Err(error) = lab::remove_own() {
            eprintln!("bench-lan: {}", chain(&error));
        }
        remove_files();
        std::process::exit(130);
    });
}

/// How the names of this process's directories begin.
fn own_files() -> String {
    format!("bench-lan-{}-", std::process::id())
}

fn remove_files() {
    for entry in fs::read_dir(MEMORY).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(&own_files()) {
            fs::remove_dir_all(entry.path()).ok();
        }
    }
}

fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text += &format!(": {error}");
        source = error.source();
    }
    text
}
