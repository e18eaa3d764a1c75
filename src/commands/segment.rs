//! One network segment.

use std::net::SocketAddr;

use common::ids::SegmentName;
use serde::Deserialize;
use serde_json::json;

use super::{Asked, Session};
use crate::client::path_part;
use crate::exit::{CommandError, Exit};
use crate::output::plain;

pub(crate) type Args = Asked<Action>;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Action {
    /// Move a segment to another control channel; its leader tells its members, and goes last
    Move {
        /// The segment's name, as `pressrun segments` shows it
        segment: SegmentName,
        /// Multicast address and port, as 239.192.1.2:20000
        #[arg(long, value_name = "ADDRESS:PORT", value_parser = common::channel::parse)]
        control: SocketAddr,
    },
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Ordered {
    segment: String,
    control: String,
}

pub(super) async fn run(args: Args) -> Result<Exit, CommandError> {
    let session = Session::open(&args.client).await?;
    match args.action {
        Action::Move { segment, control } => {
            let path = format!("/segments/{}/move", path_part(segment.as_str()));
            let answer = session.client.post(&path, &json!({ "control": control })).await?;
            session.show(&answer, |ordered: Ordered| {
                let Ordered { segment, control } = ordered;
                format!("The leader of {} was told to move it to {}.", plain(&segment), plain(&control))
            })
        }
    }
}
