//! Bringing a staging tree live.

use std::time::Duration;

use common::ids::SiteName;
use serde_json::json;

use super::{RunArgs, Session, duration};
use crate::client::ClientArgs;
use crate::exit::{CommandError, EXIT_CODES, Exit};

#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Args {
    /// The site
    site: SiteName,
    #[command(flatten)]
    run: RunArgs,
    /// Take over live directories that something else has filled; what is in them becomes the
    /// version to roll back to
    #[arg(long)]
    adopt: bool,
    /// Make live directories that are missing
    #[arg(long)]
    create_live: bool,
    /// How long servers may take to prepare before the run is given up
    #[arg(long, value_name = "TIME", value_parser = duration)]
    timeout: Option<Duration>,
    /// Only stage it; `pressrun switch` brings it live, within a day
    #[arg(long)]
    stage_only: bool,
    /// Who decides when it goes live
    #[arg(long, value_enum, default_value_t = Commit::Coordinated, conflicts_with = "stage_only")]
    commit: Commit,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// Who decides when what is staged goes live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Commit {
    /// All servers together, when enough of them have staged it
    Coordinated,
    /// Each server by itself, as soon as it has staged it
    Autonomous,
}

pub(super) async fn run(args: Args) -> Result<Exit, CommandError> {
    let session = Session::open(&args.client).await?;
    let body = json!({
        "group": args.run.group,
        "quorum": args.run.quorum,
        "adopt": args.adopt,
        "create_live": args.create_live,
        "timeout_seconds": args.timeout.map(|timeout| timeout.as_secs()),
        "stage_only": args.stage_only,
        "commit": args.commit,
    });
    session.start_run(&format!("/sites/{}/publish", args.site), &body, args.run.wait).await
}
