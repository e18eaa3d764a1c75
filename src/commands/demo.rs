//! A whole fleet on this machine.

use std::path::PathBuf;

use crate::demo::{self, Plan};
use crate::exit::{CommandError, Exit};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Working directory, empty or missing; left out, a temporary one that is removed at the end
    dir: Option<PathBuf>,
    /// Network segments
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=8))]
    segments: u8,
    /// Servers in each segment
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=16))]
    servers: u8,
    /// End and clean up after the last step, without leaving the console up
    #[arg(long)]
    once: bool,
    /// Print what happened as JSON at the end; progress goes to standard error
    #[arg(long)]
    pub(crate) json: bool,
}

pub(super) async fn run(args: Args) -> Result<Exit, CommandError> {
    let Args { dir, segments, servers, once, json } = args;
    demo::run(Plan { dir, segments, servers, once, json }).await.map_err(Box::new)?;
    Ok(Exit::Done)
}
