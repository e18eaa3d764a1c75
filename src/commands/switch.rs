//! Bringing live what is staged, or the backup.

use common::ids::{ServerName, SiteName};
use serde_json::json;

use super::{RunArgs, Session};
use crate::client::ClientArgs;
use crate::exit::{CommandError, EXIT_CODES, Exit};

#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Args {
    /// The site
    site: SiteName,
    /// Only this server, to its backup; may be repeated
    #[arg(long = "server", value_name = "SERVER")]
    servers: Vec<ServerName>,
    #[command(flatten)]
    run: RunArgs,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

pub(super) async fn run(args: Args) -> Result<Exit, CommandError> {
    let session = Session::open(&args.client).await?;
    let body = json!({ "group": args.run.group, "servers": args.servers, "quorum": args.run.quorum });
    session.start_run(&format!("/sites/{}/switch", args.site), &body, args.run.wait).await
}
