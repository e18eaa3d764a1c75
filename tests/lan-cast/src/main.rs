//! The multicast session of a segment by itself, as processes: one sends, the others receive.
//!
//! Everything on the way of the bytes is the product's: session machines, drivers, sockets, sealing,
//! signatures of tickets and control messages, object store. Left out is what decides that there is
//! a session: election, registration, content control manager. Keys follow from a word that both sides
//! are given, so nothing here is secret; this program is for measuring only.
//!
//! Each line of standard output is one JSON object with an `event`. The sender says `ready` and waits for
//! a line of standard input before each session.

mod forge;
mod party;
mod receive;
mod seal;
mod send;
mod unicast;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

/// One multicast session, as processes.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Sends objects to the members, one after the other.
    Send(SendArguments),
    /// Receives whatever is sent, until it is stopped.
    Receive(ReceiveArguments),
    /// Forges, damages and repeats what the others say, as a server of the segment that is in no session.
    Forge(ForgeArguments),
    /// Measures what sealing frames costs.
    Seal,
}

/// What both sides must agree on, and where they are.
#[derive(Debug, Args)]
struct PartyArguments {
    /// Name or address of the interface.
    #[arg(long)]
    interface: String,
    /// A word from which keys, cluster and channels follow.
    #[arg(long, default_value = "lan-cast")]
    word: String,
    /// Where the sender puts certificates for all. With them members that multicast leaves behind fetch the
    /// rest from the sender, which then goes on until its standard input ends.
    #[arg(long)]
    identities: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct SendArguments {
    #[command(flatten)]
    party: PartyArguments,
    /// Number of members, which have the numbers from 1 on.
    #[arg(long)]
    members: u16,
    /// The file to send; else random bytes.
    #[arg(long)]
    file: Option<PathBuf>,
    /// How many random bytes, if there is no file.
    #[arg(long, default_value_t = 8192)]
    bytes: usize,
    /// How many sessions, one after the other; of random bytes each has its own.
    #[arg(long, default_value_t = 1)]
    sessions: u32,
    /// Sends at this rate, headers included, instead of finding one.
    #[arg(long)]
    rate_bytes_per_sec: Option<u64>,
}

#[derive(Debug, Args)]
struct ReceiveArguments {
    #[command(flatten)]
    party: PartyArguments,
    /// This member's number, from 1 on.
    #[arg(long)]
    number: u16,
    /// Where spool and store are, which are made.
    #[arg(long)]
    directory: PathBuf,
    /// Removes each object from the store when its session is over.
    #[arg(long)]
    forget: bool,
}

#[derive(Debug, Args)]
struct ForgeArguments {
    #[command(flatten)]
    party: PartyArguments,
    /// How much it sends, headers included.
    #[arg(long)]
    rate_bytes_per_sec: u64,
}

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error),
    };
    // A task of the runtime's own thread is woken by its reactor without a second thread between.
    let done = runtime.block_on(runtime.spawn(async {
        match arguments.command {
            Command::Send(arguments) => send::run(&arguments).await,
            Command::Receive(arguments) => receive::run(&arguments).await,
            Command::Forge(arguments) => forge::run(&arguments).await,
            Command::Seal => {
                seal::run();
                Ok(())
            }
        }
    }));
    let done = match done {
        Ok(done) => done,
        Err(error) => return fail(&error),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn fail(error: &dyn std::error::Error) -> ExitCode {
    eprint!("lan-cast: {error}");
    let mut source = error.source();
    while let Some(error) = source {
        eprint!(": {error}");
        source = error.source();
    }
    eprintln!();
    ExitCode::FAILURE
}

/// The most memory that this process had of its own at any time, in bytes; what it read of files and wrote into
/// them is the kernel's.
fn most_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kibibytes| kibibytes << 10)
}

/// Tells whoever watches.
fn say(event: &serde_json::Value) {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    // Nobody to tell is no reason to stop.
    writeln!(out, "{event}").and_then(|()| out.flush()).ok();
}
