//! Assignments in files: made, looked at and applied without a network, by the code that the content
//! control manager and the agents use.
//!
//! Whose word counts: `build --key` signs with a publish key, and `apply --trust` believes those that a
//! root document or an agent's identity names. Without `--key` an assignment is signed with a key that
//! everybody knows, which protects it from damage only; `apply` takes it when it is told to by
//! `--unsigned`, and never otherwise.

mod apply;
mod build;
mod errors;
mod show;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use common::assignment::{AssignmentError, Kind};
use common::ids::ServerId;
use common::time::WallTime;
use serde_json::Value;

pub(crate) use errors::AssignmentCommandError;

use crate::exit::{CommandError, Exit};
use crate::output::print;

/// The server that an assignment made by hand is for: whoever holds the file.
const WHOEVER: ServerId = ServerId([0; 16]);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
    /// Say everything as JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Make the assignment that turns one directory into another
    Build(build::BuildArgs),
    /// Show what an assignment holds; its signature is not checked
    Show {
        /// The assignment
        file: PathBuf,
    },
    /// Apply an assignment to a live directory of this machine, and switch to the result
    Apply(apply::ApplyArgs),
}

pub(super) async fn run(args: Args) -> Result<Exit, CommandError> {
    let json = args.json;
    let cancel = Arc::new(AtomicBool::new(false));
    let stop = Arc::clone(&cancel);
    // The work holds its thread; what was begun ends at the next piece of a file.
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            stop.store(true, Ordering::Relaxed);
        }
    });
    let work = tokio::task::spawn_blocking(move || match args.action {
        Action::Build(args) => build::make(&args, &cancel),
        Action::Show { file } => show::show(&file),
        Action::Apply(args) => apply::apply(&args),
    });
    let Ok(done) = work.await else { return Err(AssignmentCommandError::Interrupted.into()) };
    let (value, words) = done?;
    print(&if json { value.to_string() } else { words })?;
    Ok(Exit::Done)
}

/// The answer for programs and for people.
type Answer = (Value, String);

fn now() -> WallTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    WallTime(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

fn read_text(path: &Path) -> Result<String, AssignmentCommandError> {
    fs::read_to_string(path).map_err(|source| AssignmentCommandError::Read { path: path.to_owned(), source })
}

fn open_file(path: &Path) -> Result<File, AssignmentCommandError> {
    File::open(path).map_err(|source| AssignmentCommandError::Read { path: path.to_owned(), source })
}

fn wrong_assignment(path: &Path) -> impl FnOnce(AssignmentError) -> AssignmentCommandError {
    move |source| AssignmentCommandError::Assignment { path: path.to_owned(), source: Box::new(source) }
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Prepare => "prepare",
        Kind::Inventory => "inventory",
        Kind::Commit { .. } => "commit",
        Kind::Undo { .. } => "undo",
        Kind::Rollback => "rollback",
        Kind::Audit { .. } => "audit",
        Kind::Discard => "discard",
        Kind::Alone => "alone",
    }
}
