//! Checkpoints: versions of a site that are kept under a name.

use common::ids::{CheckpointName, GroupName, SiteName};
use serde_json::json;

use super::{Asked, RunArgs, Session};
use crate::exit::{CommandError, Exit};
use crate::output::{or_dash, plain, time, version};
use crate::view::Checkpoint;

pub(crate) type Args = Asked<Action>;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Action {
    /// Keep what is live
    Create {
        /// The site
        site: SiteName,
        /// What to call it; left out, a name is made up
        name: Option<CheckpointName>,
        /// Content group; needed only when the site has several
        #[arg(long)]
        group: Option<GroupName>,
    },
    /// List the checkpoints of a site
    List {
        /// The site
        site: SiteName,
    },
    /// Bring a checkpoint live
    Restore {
        /// The site
        site: SiteName,
        /// The checkpoint
        name: CheckpointName,
        #[command(flatten)]
        run: RunArgs,
    },
    /// Delete a checkpoint
    Delete {
        /// The site
        site: SiteName,
        /// The checkpoint
        name: CheckpointName,
    },
}

pub(super) async fn run(args: Args) -> Result<Exit, CommandError> {
    let session = Session::open(&args.client).await?;
    match args.action {
        Action::Create { site, name, group } => {
            let body = json!({ "name": name, "group": group });
            let answer = session.client.post_scanning(&format!("/sites/{site}/checkpoints"), &body).await?;
            session.show(&answer, |checkpoint: Checkpoint| {
                let (name, version) = (plain(&checkpoint.name), version(checkpoint.version.as_deref()));
                format!("The checkpoint {name} of {site} keeps version {}.", plain(&version))
            })
        }
        Action::List { site } => {
            let answer = session.client.get(&format!("/sites/{site}/checkpoints")).await?;
            let titles = ["CHECKPOINT", "GROUP", "VERSION", "RUN", "CREATED (UTC)"];
            let none = "There are no checkpoints. `pressrun checkpoint create` keeps what is live.";
            session.show_list(&answer, &titles, none, |checkpoint: Checkpoint| {
                let Checkpoint { name, group, version: kept, created, run } = checkpoint;
                let run = run.map_or_else(|| "-".to_owned(), |run| run.to_string());
                vec![name, or_dash(group.as_deref()), version(kept.as_deref()), run, time(&created)]
            })
        }
        Action::Restore { site, name, run } => {
            let body = json!({ "group": run.group, "quorum": run.quorum });
            session.start_run(&format!("/sites/{site}/checkpoints/{name}/restore"), &body, run.wait).await
        }
        Action::Delete { site, name } => {
            session.client.delete(&format!("/sites/{site}/checkpoints/{name}")).await?;
            session.show_deleted("checkpoint", name.as_str())
        }
    }
}
