//! Running the content control manager.

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;

use ccm::engine::channels::ChannelRange;
use ccm::server::{Config, Ready};
use serde_json::json;

use super::agent::start_log;
use crate::exit::{CommandError, Exit};
use crate::stop;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where it keeps everything; made when it is missing
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Address for agents, commands and the console, over TLS
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:7443")]
    listen: SocketAddr,
    /// Address of the console without TLS; loopback only
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7480")]
    console: SocketAddr,
    /// Where the data channels of content groups are taken from
    #[arg(long, value_name = "RANGE", default_value = "239.192.0.0/14")]
    channels: ChannelRange,
    /// Say where it listens as one line of JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Stop when standard input ends, for a starter that must not leave it behind
    #[arg(long, hide = true)]
    stop_with_stdin: bool,
}

/// Why the content control manager does not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CcmCommandError {
    /// Signals cannot be had.
    #[error("signals cannot be received")]
    Signals(#[source] io::Error),
    /// It cannot start.
    #[error("the content control manager cannot run with {}", data.display())]
    Serve {
        /// Its data directory.
        data: PathBuf,
        /// Why.
        source: Box<ccm::server::ServeError>,
    },
}

impl CcmCommandError {
    /// The exit code.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Signals(_) | Self::Serve { .. } => Exit::Failed,
        }
    }
}

pub(super) async fn run(args: Args) -> Result<Exit, CommandError> {
    start_log();
    let stop = stop::requested(args.stop_with_stdin).map_err(CcmCommandError::Signals)?;
    let json = args.json;
    let config = Config { data: args.data, listen: args.listen, console: args.console, channels: args.channels };
    let data = config.data.clone();
    ccm::server::serve(config, |ready| announce(ready, json), stop)
        .await
        .map_err(|source| CcmCommandError::Serve { data, source: Box::new(source) })?;
    Ok(Exit::Done)
}

/// Says where it listens, and the first password. Never to the log: that is kept, and read by others.
fn announce(ready: &Ready, json: bool) {
    let text = if json {
        json!({
            "listen": format!("https://{}", ready.listen),
            "console": format!("http://{}/", ready.console),
            "user": "admin",
            "password": ready.admin_password,
        })
        .to_string()
    } else {
        let login = match &ready.admin_password {
            Some(password) => format!("\nLog in as admin with {password}; this password is not shown again."),
            None => String::new(),
        };
        format!("Agents and commands: https://{}\nConsole: http://{}/{login}", ready.listen, ready.console)
    };
    let mut out = io::stdout().lock();
    // It serves, whether somebody reads this or not.
    writeln!(out, "{text}").and_then(|()| out.flush()).ok();
}
