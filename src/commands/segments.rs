//! The list of network segments.

use super::Session;
use crate::client::ClientArgs;
use crate::exit::{CommandError, Exit};
use crate::output::or_dash;
use crate::view::Segment;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

pub(super) async fn run(args: Args) -> Result<Exit, CommandError> {
    let session = Session::open(&args.client).await?;
    let answer = session.client.get("/segments").await?;
    let titles = ["SEGMENT", "LEADER", ">EPOCH", ">SERVERS", ">ONLINE"];
    let none = "There are no segments: the first server of one makes it.";
    session.show_list(&answer, &titles, none, |segment: Segment| {
        let Segment { segment, leader, epoch, servers, online } = segment;
        vec![segment, or_dash(leader.as_deref()), epoch.to_string(), servers.to_string(), online.to_string()]
    })
}
