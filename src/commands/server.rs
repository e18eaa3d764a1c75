//! One server.

use common::ids::ServerName;

use super::Session;
use crate::client::{ClientArgs, path_part};
use crate::exit::{CommandError, Exit};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
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
