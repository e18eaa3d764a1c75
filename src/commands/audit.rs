//! Whether live trees still are what was signed, and bringing them back.

use std::time::Duration;

use common::ids::{GroupName, SiteName};
use serde_json::json;

use super::{Session, duration};
use crate::client::ClientArgs;
use crate::exit::{CommandError, Exit};

/// What the exit codes say of an audit; the others are as for every command.
const EXIT_CODES: &str = "Exit codes with --wait:
  0  every server's live tree is what was signed, or is again
  1  nothing was looked at, or nothing could be repaired, for a reason that is printed
  3  a server has drifted, or is not known to be clean
  7  out of time";

#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Args {
    /// The site
    site: SiteName,
    /// Content group; needed only when the site has several
    #[arg(long, value_name = "GROUP")]
    group: Option<GroupName>,
    /// Read every file, instead of only those that look as if they had been touched
    #[arg(long)]
    full: bool,
    /// Bring servers that have drifted back to the version that they should have
    #[arg(long)]
    repair: bool,
    /// Wait until the audit is over, and show what it found; the exit code then says how it ended
    #[arg(long)]
    wait: bool,
    /// How long servers may take to look
    #[arg(long, value_name = "TIME", value_parser = duration)]
    timeout: Option<Duration>,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

pub(super) async fn run(args: Args) -> Result<Exit, CommandError> {
    let session = Session::open(&args.client).await?;
    let body = json!({
        "group": args.group,
        "full": args.full,
        "repair": args.repair,
        "timeout_seconds": args.timeout.map(|timeout| timeout.as_secs()),
    });
    session.start_run(&format!("/sites/{}/audit", args.site), &body, args.wait).await
}
