//! The list of servers.

use super::Session;
use crate::client::ClientArgs;
use crate::exit::{CommandError, Exit};
use crate::output::{bytes, or_dash, time, version};
use crate::view::Server;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

pub(super) async fn run(args: Args) -> Result<Exit, CommandError> {
    let session = Session::open(&args.client).await?;
    let answer = session.client.get("/servers").await?;
    let titles = ["SERVER", "SEGMENT", "STATE", "LEADS", "LIVE", ">DISK FREE", "RELEASE", "LOCATION", "SEEN (UTC)"];
    let none = "No server has joined. `pressrun token create` makes a token to join with.";
    session.show_list(&answer, &titles, none, |server: Server| {
        let live = |site: &crate::view::ServerSite| {
            let mark = if site.stale { " (stale)" } else { "" };
            format!("{} {}{mark}", site.site, version(site.live.as_deref()))
        };
        let sites: Vec<String> = server.sites.iter().map(live).collect();
        vec![
            server.server,
            server.segment,
            server.state,
            if server.leader { "yes" } else { "" }.to_owned(),
            or_dash(Some(&sites.join(", "))),
            server.disk_free_bytes.map_or_else(|| "-".to_owned(), bytes),
            or_dash(server.software.as_deref()),
            or_dash(server.location.as_deref()),
            server.last_seen.as_deref().map_or_else(|| "-".to_owned(), time),
        ]
    })
}
