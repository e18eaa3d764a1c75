//! Content groups.

use std::net::SocketAddr;

use common::ids::{GroupName, SegmentName, ServerName, SiteName};
use serde_json::json;

use super::{Asked, Session};
use crate::exit::{CommandError, Exit};
use crate::output::{or_dash, plain, time, version};
use crate::view::Group;

pub(crate) type Args = Asked<Action>;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Action {
    /// Create a content group
    #[command(group = clap::ArgGroup::new("members").required(true).args(["servers", "segment", "all"]))]
    Create {
        /// What to call it
        name: GroupName,
        /// Its site
        #[arg(long)]
        site: SiteName,
        /// These servers
        #[arg(long, value_name = "A,B,…", value_delimiter = ',')]
        servers: Option<Vec<ServerName>>,
        /// All servers of a network segment, those of the future included
        #[arg(long, value_name = "NAME")]
        segment: Option<SegmentName>,
        /// All servers, those of the future included
        #[arg(long)]
        all: bool,
        /// Its data channel, as 239.192.1.2:30000; left out, the first publish chooses one
        #[arg(long, value_name = "ADDRESS:PORT", value_parser = common::channel::parse)]
        channel: Option<SocketAddr>,
    },
    /// List content groups
    List {
        /// Of this site only
        #[arg(long)]
        site: Option<SiteName>,
    },
    /// Delete a content group; what is live on its servers stays
    Delete {
        /// Which
        name: GroupName,
        /// Its site
        #[arg(long)]
        site: SiteName,
    },
}

pub(super) async fn run(args: Args) -> Result<Exit, CommandError> {
    let session = Session::open(&args.client).await?;
    match args.action {
        Action::Create { name, site, servers, segment, all, channel } => {
            let body = json!({
                "name": name, "site": site, "servers": servers, "segment": segment, "all": all, "channel": channel,
            });
            let answer = session.client.post("/groups", &body).await?;
            session.show(&answer, |group: Group| {
                let servers = or_dash(Some(&group.servers.join(", ")));
                format!("The group {} of {} is created: {}", plain(&group.name), plain(&group.site), plain(&servers))
            })
        }
        Action::List { site } => {
            let path = site.map_or_else(|| "/groups".to_owned(), |site| format!("/groups?site={site}"));
            let answer = session.client.get(&path).await?;
            let titles = ["SITE", "GROUP", "VERSION", "PUBLISHED (UTC)", "CHANNEL", "SERVERS"];
            let none = "There are no content groups. A site without one publishes to all servers.";
            session.show_list(&answer, &titles, none, |group: Group| {
                let published = group.published.as_deref().map_or_else(|| "-".to_owned(), time);
                let live = version(group.version.as_deref());
                let channel = or_dash(group.channel.as_deref());
                vec![group.site, group.name, live, published, channel, group.servers.join(", ")]
            })
        }
        Action::Delete { name, site } => {
            session.client.delete(&format!("/sites/{site}/groups/{name}")).await?;
            session.show_deleted("group", name.as_str())
        }
    }
}
