//! One server.

use common::ids::ServerName;

use super::{Asked, Session};
use crate::client::path_part;
use crate::exit::{CommandError, Exit};

pub(crate) type Args = Asked<Action>;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Action {
    /// Remove a server for good: it gets no content any more, and does not lead; what is live on it
    /// stays. Its name can be taken by another that joins with a token
    Remove {
        /// The server's name, as `pressrun servers` shows it
        server: ServerName,
    },
}

pub(super) async fn run(args: Args) -> Result<Exit, CommandError> {
    let session = Session::open(&args.client).await?;
    match args.action {
        Action::Remove { server } => {
            session.client.delete(&format!("/servers/{}", path_part(server.as_str()))).await?;
            session.show_deleted("server", server.as_str())
        }
    }
}
