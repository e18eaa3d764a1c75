//! Publishing some paths to some servers.

use common::ids::{ServerName, SiteName};
use common::path::ContentPath;
use serde_json::json;

use super::{RunArgs, Session};
use crate::client::ClientArgs;
use crate::exit::{CommandError, EXIT_CODES, Exit};

#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
#[command(group = clap::ArgGroup::new("whom").required(true).args(["count", "server"]))]
pub(crate) struct Args {
    /// The site
    site: SiteName,
    /// Files and directories, below the staging directory; what is not there any more is removed
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<ContentPath>,
    /// To so many servers: those with the least load that have what their group has
    #[arg(long = "servers", id = "count", value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    count: Option<u32>,
    /// To this server; may be repeated
    #[arg(long, value_name = "SERVER")]
    server: Vec<ServerName>,
    #[command(flatten)]
    run: RunArgs,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

pub(super) async fn run(args: Args) -> Result<Exit, CommandError> {
    let session = Session::open(&args.client).await?;
    let body = json!({
        "group": args.run.group,
        "paths": args.paths,
        "servers": args.server,
        "count": args.count,
        "quorum": args.run.quorum,
    });
    session.start_run(&format!("/sites/{}/hot", args.site), &body, args.run.wait).await
}
