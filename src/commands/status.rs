//! The whole cluster in a few lines.

use std::fmt::Write as _;

use super::Session;
use crate::client::ClientArgs;
use crate::exit::{CommandError, Exit};
use crate::output::{plain, time};
use crate::view::Status;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

pub(super) async fn run(args: Args) -> Result<Exit, CommandError> {
    let session = Session::open(&args.client).await?;
    let answer = session.client.get("/status").await?;
    session.show(&answer, |status: Status| describe(&status))
}

fn describe(status: &Status) -> String {
    let mut text = String::new();
    let mut line =
        |title: &str, value: String| writeln!(text, "{title:<10}{}", plain(&value)).expect("writing to a string");
    let servers = &status.servers;
    line("Cluster", format!("{}, pressrun {}", status.cluster, status.version));
    line("Servers", format!("{} online, {} offline, {} stale", servers.online, servers.offline, servers.stale));
    line("Segments", status.segments.to_string());
    line("Sites", status.sites.to_string());
    line("Runs", format!("{} running, {} queued", status.runs.running, status.runs.queued));
    if let Some(run) = &status.last_run {
        line("Last run", format!("{} {} of {}: {}, {}", run.run, run.kind, run.site, run.state, time(&run.created)));
    }
    text
}
