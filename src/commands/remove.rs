//! Taking a site's content off servers.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use common::ids::{GroupName, ServerName, SiteName};
use serde_json::json;

use super::{Session, quorum};
use crate::client::ClientArgs;
use crate::exit::{CommandError, EXIT_CODES, Exit};

#[derive(Debug, clap::Args)]
#[command(after_help = EXIT_CODES)]
pub(crate) struct Args {
    /// The site
    site: SiteName,
    /// Content group; without --server, all of its servers
    #[arg(long, value_name = "GROUP", required_unless_present = "servers")]
    group: Option<GroupName>,
    /// This server; may be repeated
    #[arg(long = "server", id = "servers", value_name = "SERVER")]
    servers: Vec<ServerName>,
    /// Keep what was live as the servers' backup: `pressrun switch SITE --server SERVER` brings it back
    #[arg(long)]
    keep_content: bool,
    /// Do not ask; needed when nobody can be asked
    #[arg(long)]
    yes: bool,
    /// Wait until the run is over; the exit code then says how it ended
    #[arg(long)]
    wait: bool,
    /// How many of these servers must follow, as a number or a share: 3, 80%
    #[arg(long, value_name = "N|P%", value_parser = quorum)]
    quorum: Option<String>,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

pub(super) async fn run(args: Args) -> Result<Exit, CommandError> {
    if !args.yes {
        confirm(&effect(&args))?;
    }
    let session = Session::open(&args.client).await?;
    let body = json!({
        "group": args.group,
        "servers": args.servers,
        "keep_content": args.keep_content,
        "quorum": args.quorum,
    });
    session.start_run(&format!("/sites/{}/remove", args.site), &body, args.wait).await
}

/// What is going to happen, in words.
fn effect(args: &Args) -> String {
    let names: Vec<&str> = args.servers.iter().map(ServerName::as_str).collect();
    let from = match (&args.group, names.as_slice()) {
        (Some(group), []) => format!("every server of group {group}"),
        (Some(_) | None, names) => names.join(", "),
    };
    let backup = if args.keep_content {
        "What is live now stays as their backup."
    } else {
        "Their backups go, too: nothing of it stays on their disks but excluded paths."
    };
    format!("This empties the live directories of {} on {from}. {backup}", args.site)
}

/// Asks whoever sits at the terminal.
fn confirm(effect: &str) -> Result<(), CommandError> {
    if !io::stdin().is_terminal() {
        return Err(CommandError::Unconfirmed { effect: effect.to_owned() });
    }
    let mut answer = String::new();
    let asked = write!(io::stderr(), "{effect} Go on? [y/N] ").and_then(|()| io::stdin().lock().read_line(&mut answer));
    match asked {
        Ok(_) if matches!(answer.trim(), "y" | "Y" | "yes") => Ok(()),
        Ok(_) | Err(_) => Err(CommandError::Unconfirmed { effect: effect.to_owned() }),
    }
}
