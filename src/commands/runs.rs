//! The list of runs.

use common::ids::SiteName;

use super::Session;
use crate::client::ClientArgs;
use crate::exit::{CommandError, Exit};
use crate::output::{seconds, time};
use crate::view::Run;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Of this site only
    #[arg(long)]
    site: Option<SiteName>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

pub(super) async fn run(args: Args) -> Result<Exit, CommandError> {
    let session = Session::open(&args.client).await?;
    let site = args.site.map(|site| format!("&site={site}")).unwrap_or_default();
    let answer = session.client.get(&format!("/runs?limit={}{site}", args.limit)).await?;
    let titles = [">RUN", "SITE", "GROUP", "KIND", "STATE", "CREATED (UTC)", ">TOOK", "MESSAGE"];
    session.show_list(&answer, &titles, "There have been no runs.", |run: Run| {
        let took = run.seconds.map_or_else(|| "-".to_owned(), seconds);
        let (number, created) = (run.run.to_string(), time(&run.created));
        vec![number, run.site, run.group, run.kind, run.state, created, took, run.message.unwrap_or_default()]
    })
}
