//! Tokens that servers join with.

use std::time::Duration;

use common::ids::SegmentName;
use serde_json::json;

use super::{Asked, Session, duration};
use crate::client::path_part;
use crate::exit::{CommandError, Exit};
use crate::output::{or_dash, plain, time};
use crate::view::Token;

pub(crate) type Args = Asked<Action>;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Action {
    /// Make a token; it is shown this once
    Create {
        /// Admit servers to this network segment only
        #[arg(long, value_name = "NAME")]
        segment: Option<SegmentName>,
        /// How many servers may join with it
        #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        uses: u32,
        /// How long it is good for
        #[arg(long, value_name = "TIME", default_value = "1h", value_parser = duration)]
        ttl: Duration,
    },
    /// List the tokens that are still good for something
    List,
    /// Delete a token: nobody joins with it any more; servers that did stay
    Delete {
        /// The token's id, as `token list` shows it
        id: String,
    },
}

pub(super) async fn run(args: Args) -> Result<Exit, CommandError> {
    let session = Session::open(&args.client).await?;
    match args.action {
        Action::Create { segment, uses, ttl } => {
            let body = json!({ "segment": segment, "uses": uses, "ttl_seconds": ttl.as_secs(), "roles": null });
            let answer = session.client.post("/tokens", &body).await?;
            // The token alone, so that it can be taken by `$(…)`.
            session.show(&answer, |token: Token| plain(&token.token))
        }
        Action::List => {
            let answer = session.client.get("/tokens").await?;
            let titles = ["ID", "SEGMENT", ">USES LEFT", ">OF", "EXPIRES (UTC)"];
            session.show_list(&answer, &titles, "There are no join tokens.", |token: Token| {
                let Token { id, segment, uses, uses_left, expires, .. } = token;
                vec![id, or_dash(segment.as_deref()), uses_left.to_string(), uses.to_string(), time(&expires)]
            })
        }
        Action::Delete { id } => {
            session.client.delete(&format!("/tokens/{}", path_part(&id))).await?;
            session.show_deleted("join token", &id)
        }
    }
}
