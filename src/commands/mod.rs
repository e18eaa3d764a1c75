//! What can be asked for on the command line: one file for each command.

pub(crate) mod agent;
pub(crate) mod assignment;
mod audit;
pub(crate) mod ccm;
mod checkpoint;
mod demo;
mod diff;
pub(crate) mod doctor;
mod events;
mod group;
mod hot;
mod mend;
mod publish;
mod remove;
mod rollback;
mod run;
mod runs;
mod schedule;
mod segment;
mod segments;
mod server;
mod servers;
mod site;
mod status;
mod switch;
#[cfg(test)]
mod tests;
mod token;

use std::time::Duration;

use ::ccm::engine::quorum::{Quorum, QuorumError};
use common::ids::GroupName;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::client::{Answer, Client, ClientArgs, Place};
use crate::exit::{CommandError, EXIT_CODES, Exit};
use crate::follow;
use crate::output::{Table, print};
use crate::view::{Accepted, Items};

/// Publishes a content tree to a fleet of web servers: all of them switch, or none does.
#[derive(Debug, clap::Parser)]
#[command(name = "pressrun", version, about, after_help = EXIT_CODES, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// A command.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Start a whole fleet on this machine and publish to it, to see how it works
    Demo(demo::Args),
    /// Run the content control manager
    Ccm(ccm::Args),
    /// Run the agent of a web server
    Agent(agent::Args),
    /// Find out whether multicast works between this server and the others of its segment, and why not
    Doctor(doctor::Args),
    /// Make, show and apply assignments in files, without a network
    Assignment(assignment::Args),
    /// Make, list and delete tokens that servers join with
    Token(token::Args),
    /// Create, list, show and delete hosted sites
    Site(site::Args),
    /// Create, list and delete content groups: the servers of a site that get the same content
    Group(group::Args),
    /// Show what a publish would change
    Diff(diff::Args),
    /// Bring a site's staging tree live
    Publish(publish::Args),
    /// Go back to the version that was live before
    Rollback(rollback::Args),
    /// Look whether live trees still are what was published, and repair them if asked
    Audit(audit::Args),
    /// Bring servers that have something else live to what their group has; this also happens by itself
    Synchronize(mend::Args),
    /// Send servers everything that is live in their group, whatever they have
    Replicate(mend::Args),
    /// Bring some paths of staging live on some servers; the next publish takes these along again
    Hot(hot::Args),
    /// Bring live what `publish --stage-only` has staged; if there is nothing, switch back to the backup
    Switch(switch::Args),
    /// Take a site's content off servers
    Remove(remove::Args),
    /// Keep versions of a site, and go back to them
    Checkpoint(checkpoint::Args),
    /// List runs, newest first
    Runs(runs::Args),
    /// Show a run, wait for it, pause, resume or cancel it
    Run(run::Args),
    /// Publish, roll back and more by themselves: once at a time, or again and again
    Schedule(schedule::Args),
    /// List the servers
    Servers(servers::Args),
    /// Remove a server for good
    Server(server::Args),
    /// List the network segments
    Segments(segments::Args),
    /// Move a network segment to another control channel
    Segment(segment::Args),
    /// Show the whole cluster in a few lines
    Status(status::Args),
    /// Follow what happens, until stopped
    Events(events::Args),
}

impl Command {
    /// Whether output, and so errors, are for programs.
    pub(crate) fn is_json(&self) -> bool {
        match self {
            Self::Demo(args) => args.json,
            Self::Ccm(args) => args.json,
            Self::Agent(_) => false,
            Self::Doctor(args) => args.json,
            Self::Assignment(args) => args.json,
            Self::Token(args) => args.client.json,
            Self::Site(args) => args.client.json,
            Self::Group(args) => args.client.json,
            Self::Diff(args) => args.client.json,
            Self::Publish(args) => args.client.json,
            Self::Rollback(args) => args.client.json,
            Self::Audit(args) => args.client.json,
            Self::Synchronize(args) | Self::Replicate(args) => args.client.json,
            Self::Hot(args) => args.client.json,
            Self::Switch(args) => args.client.json,
            Self::Remove(args) => args.client.json,
            Self::Checkpoint(args) => args.client.json,
            Self::Runs(args) => args.client.json,
            Self::Run(args) => args.client.json,
            Self::Schedule(args) => args.client.json,
            Self::Servers(args) => args.client.json,
            Self::Server(args) => args.client.json,
            Self::Segment(args) => args.client.json,
            Self::Segments(args) => args.client.json,
            Self::Status(args) => args.client.json,
            Self::Events(args) => args.client.json,
        }
    }
}

/// The arguments of a command that has commands of its own, all of which ask the content control manager.
#[derive(Debug, clap::Args)]
pub(crate) struct Asked<Action: clap::Subcommand> {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// Does what was asked for.
///
/// # Errors
/// [`CommandError`] when it was not done; a run that did not end well is no error.
pub(crate) async fn run(command: Command) -> Result<Exit, CommandError> {
    match command {
        Command::Demo(args) => demo::run(args).await,
        Command::Ccm(args) => ccm::run(args).await,
        Command::Agent(args) => agent::run(args).await,
        Command::Doctor(args) => doctor::run(args).await,
        Command::Assignment(args) => assignment::run(args).await,
        Command::Token(args) => token::run(args).await,
        Command::Site(args) => site::run(args).await,
        Command::Group(args) => group::run(args).await,
        Command::Diff(args) => diff::run(args).await,
        Command::Publish(args) => publish::run(args).await,
        Command::Rollback(args) => rollback::run(args).await,
        Command::Audit(args) => audit::run(args).await,
        Command::Synchronize(args) => mend::run(args, "synchronize").await,
        Command::Replicate(args) => mend::run(args, "replicate").await,
        Command::Hot(args) => hot::run(args).await,
        Command::Switch(args) => switch::run(args).await,
        Command::Remove(args) => remove::run(args).await,
        Command::Checkpoint(args) => checkpoint::run(args).await,
        Command::Runs(args) => runs::run(args).await,
        Command::Run(args) => run::run(args).await,
        Command::Schedule(args) => schedule::run(args).await,
        Command::Servers(args) => servers::run(args).await,
        Command::Server(args) => server::run(args).await,
        Command::Segments(args) => segments::run(args).await,
        Command::Segment(args) => segment::run(args).await,
        Command::Status(args) => status::run(args).await,
        Command::Events(args) => events::run(args).await,
    }
}

/// A client, and how its answers are shown.
struct Session {
    client: Client,
    json: bool,
}

impl Session {
    async fn open(args: &ClientArgs) -> Result<Self, CommandError> {
        let place = Place::find(args, |name| std::env::var(name).ok())?;
        Ok(Self { client: Client::new(place).await?, json: args.json })
    }

    /// Shows an answer: as it is for programs, in words for people.
    fn show<T: DeserializeOwned>(
        &self,
        answer: &Answer,
        words: impl FnOnce(T) -> String,
    ) -> Result<Exit, CommandError> {
        let text = if self.json { answer.text() } else { words(answer.read()?) };
        print(&text)?;
        Ok(Exit::Done)
    }

    /// Shows a list; `none` is said of an empty one.
    fn show_list<T: DeserializeOwned>(
        &self,
        answer: &Answer,
        titles: &[&str],
        none: &str,
        row: impl Fn(T) -> Vec<String>,
    ) -> Result<Exit, CommandError> {
        self.show(answer, |list: Items<T>| {
            let mut table = Table::new(titles);
            list.items.into_iter().for_each(|item| table.row(row(item)));
            if table.is_empty() { none.to_owned() } else { table.render() }
        })
    }

    /// Says that something was removed.
    fn show_deleted(&self, kind: &str, name: &str) -> Result<Exit, CommandError> {
        let text =
            if self.json { json!({ "deleted": name }).to_string() } else { format!("The {kind} {name} is deleted.") };
        print(&text)?;
        Ok(Exit::Done)
    }

    /// Orders a run, and waits for it if asked to.
    async fn start_run(&self, path: &str, body: &Value, wait: bool) -> Result<Exit, CommandError> {
        let answer = self.client.post(path, body).await?;
        if !wait {
            return self.show(&answer, |accepted: Accepted| {
                let Accepted { run, state } = accepted;
                format!("Run {run} is {state}. `pressrun run wait {run}` waits for it.")
            });
        }
        let accepted: Accepted = answer.read()?;
        self.await_run(accepted.run, None).await
    }

    /// Waits for a run and shows it; its state makes the exit code.
    async fn await_run(&self, number: u64, limit: Option<Duration>) -> Result<Exit, CommandError> {
        let (answer, run) = follow::run(&self.client, number, limit).await?;
        let exit = Exit::of_run_state(&run.state);
        self.show(&answer, |run| run::describe(&run))?;
        Ok(exit)
    }
}

/// What commands take that make a run.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct RunArgs {
    /// Content group; needed only when the site has several
    #[arg(long, value_name = "GROUP")]
    group: Option<GroupName>,
    /// Wait until the run is over; the exit code then says how it ended
    #[arg(long)]
    wait: bool,
    /// How many servers must follow, as a number or a share: 3, 80%
    #[arg(long, value_name = "N|P%", value_parser = quorum)]
    quorum: Option<String>,
}

/// Checks a quorum here, so that a slip of the finger is a matter of the command line.
fn quorum(text: &str) -> Result<String, QuorumError> {
    text.parse::<Quorum>().map(|_| text.to_owned())
}

/// A duration such as 90s, 5m or 1h30m, of at least a second.
fn duration(text: &str) -> Result<Duration, String> {
    let parsed = text.parse::<jiff::SignedDuration>().map_err(|error| error.to_string());
    let parsed = parsed.map_err(|error| format!("{error}; say for instance 90s, 5m or 1h"))?;
    match Duration::try_from(parsed) {
        Ok(duration) if duration >= Duration::from_secs(1) => Ok(duration),
        Ok(_) | Err(_) => Err("it must be at least 1s".to_owned()),
    }
}
