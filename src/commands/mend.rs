//! Bringing servers to what is live in their group: what they lack of it, or all of it.

use common::ids::{GroupName, ServerName, SiteName};
use serde_json::json;

use super::Session;
use crate::client::ClientArgs;
use crate::exit::{CommandError, EXIT_CODES, Exit};

#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Args {
    /// The site
    site: SiteName,
    /// Content group; needed only when the site has several
    #[arg(long, value_name = "GROUP")]
    group: Option<GroupName>,
    /// Only these servers of the group; may be repeated
    #[arg(long = "server", value_name = "SERVER")]
    servers: Vec<ServerName>,
    /// Wait until the run is over; the exit code then says how it ended
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// `how` is the last word of the address: `synchronize` or `replicate`.
pub(super) async fn run(args: Args, how: &str) -> Result<Exit, CommandError> {
    let session = Session::open(&args.client).await?;
    let body = json!({ "group": args.group, "servers": args.servers });
    session.start_run(&format!("/sites/{}/{how}", args.site), &body, args.wait).await
}
