//! Running the agent of a web server.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use backend_agent::agent::{self, AgentError};
use backend_agent::config::Config;
use backend_agent::enroll::EnrollError;
use backend_agent::settings::{Settings, SettingsError};
use common::credential::Roles;
use common::ids::{SegmentName, ServerName, SiteName};
use tracing_subscriber::EnvFilter;

use crate::client::Url;
use crate::exit::{CommandError, Exit};
use crate::stop;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where it keeps its identity and what it receives; made when it is missing
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// The content control manager, as https://HOST:PORT; needed at the first start
    #[arg(long, value_name = "URL")]
    ccm: Option<Url>,
    /// Join token; needed at the first start [env: PRESSRUN_JOIN_TOKEN]
    #[arg(long, env = "PRESSRUN_JOIN_TOKEN", hide_env = true, value_name = "TOKEN")]
    token: Option<String>,
    /// What to call this server; needed at the first start
    #[arg(long, value_name = "NAME")]
    name: Option<ServerName>,
    /// Its network segment; needed at the first start
    #[arg(long, value_name = "NAME")]
    segment: Option<SegmentName>,
    /// Write below this directory, and nowhere else but in --data; may be repeated
    #[arg(long = "root", value_name = "DIR", default_values = ["/srv/www", "/var/www"])]
    roots: Vec<PathBuf>,
    /// Network interface of the segment; needed when there is more than one
    #[arg(long, value_name = "IF")]
    interface: Option<String>,
    /// Where the server stands, for people
    #[arg(long, value_name = "TEXT", default_value = "")]
    location: String,
    /// What it may be: a server that gets content, a group leader, or both
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["server", "leader"])]
    roles: Vec<Role>,
    /// Keep a site elsewhere than the site says; may be repeated
    #[arg(long = "site", value_name = "SITE=DIR", value_parser = site)]
    sites: Vec<(SiteName, PathBuf)>,
    /// Address for other servers to fetch from; left out, any port of the interface
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// File with hooks and the settings of the segment's protocols (TOML); left out, none and the preset `lan`
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Stop when standard input ends, for a starter that must not leave it behind
    #[arg(long, hide = true)]
    stop_with_stdin: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Role {
    /// Gets content
    Server,
    /// May lead its segment
    Leader,
}

impl Args {
    fn into_config(self) -> Result<Config, SettingsError> {
        let args = self;
        let has = |role| args.roles.contains(&role);
        let Settings { lan, hooks, content } =
            args.config.as_deref().map(Settings::read).transpose()?.unwrap_or_default();
        Ok(Config {
            lan,
            hooks,
            content,
            roles: Roles { server: has(Role::Server), leader: has(Role::Leader) },
            data: args.data,
            ccm: args.ccm.map(|url| url.to_string()),
            token: args.token,
            name: args.name,
            segment: args.segment,
            roots: args.roots,
            interface: args.interface,
            location: args.location,
            sites: args.sites.into_iter().collect(),
            listen: args.listen,
        })
    }
}

fn site(text: &str) -> Result<(SiteName, PathBuf), String> {
    let (site, directory) = text.split_once('=').ok_or("say SITE=DIR, such as www=/srv/www/other")?;
    let site = site.parse().map_err(|error: common::ids::NameError| error.to_string())?;
    let directory = PathBuf::from(directory);
    if directory.is_absolute() {
        Ok((site, directory))
    } else {
        Err("the directory must be an absolute path".to_owned())
    }
}

/// Why an agent does not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AgentCommandError {
    /// Signals cannot be had.
    #[error("signals cannot be received")]
    Signals(#[source] io::Error),
    /// Its configuration cannot be used.
    #[error("the agent's configuration cannot be used")]
    Config(#[source] SettingsError),
    /// It cannot start.
    #[error("the agent cannot run with {}", data.display())]
    Run {
        /// Its data directory.
        data: PathBuf,
        /// Why.
        source: Box<AgentError>,
    },
}

impl AgentCommandError {
    /// The exit code.
    pub(crate) fn exit(&self) -> Exit {
        let Self::Run { source, .. } = self else { return Exit::Failed };
        let AgentError::Enroll(EnrollError::Refused { status, .. }) = source.as_ref() else { return Exit::Failed };
        match status {
            401 | 403 => Exit::NotAuthorised,
            409 => Exit::Conflict,
            _ => Exit::Failed,
        }
    }
}

pub(super) async fn run(args: Args) -> Result<Exit, CommandError> {
    start_log();
    let stop = stop::requested(args.stop_with_stdin).map_err(AgentCommandError::Signals)?;
    let config = args.into_config().map_err(AgentCommandError::Config)?;
    let data = config.data.clone();
    // As a task of its own it runs on the thread that waits for its sockets, and not on the one that started the
    // process: a frame wakes one thread then, and not two.
    let ran = tokio::spawn(agent::run(config, stop)).await.unwrap_or_else(|error| match error.try_into_panic() {
        Ok(panic) => std::panic::resume_unwind(panic),
        // Nobody cancels it.
        Err(_) => Ok(()),
    });
    ran.map_err(|source| AgentCommandError::Run { data, source: Box::new(source) })?;
    Ok(Exit::Done)
}

/// Logs to standard error, as much as `RUST_LOG` says; changes of role and assignments when it says
/// nothing.
pub(super) fn start_log() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    // Nobody else sets a logger in this process.
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).try_init().ok();
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::commands::{Cli, Command};

    fn parse(arguments: &[&str]) -> Result<Config, clap::Error> {
        let cli = Cli::try_parse_from([&["pressrun", "agent", "--data", "/d"], arguments].concat())?;
        let Command::Agent(args) = cli.command else { panic!("another command") };
        Ok(args.into_config().expect("a good configuration"))
    }

    #[test]
    fn an_agent_writes_below_the_usual_directories_of_web_servers_and_has_both_roles() {
        let config = parse(&[]).unwrap();
        assert_eq!(config.roots, [PathBuf::from("/srv/www"), PathBuf::from("/var/www")]);
        assert_eq!(config.roles, Roles { server: true, leader: true });
    }

    #[test]
    fn said_roots_and_roles_replace_the_usual_ones() {
        let config = parse(&["--root", "/a", "--root", "/b", "--roles", "leader"]).unwrap();
        assert_eq!(config.roots, [PathBuf::from("/a"), PathBuf::from("/b")]);
        assert_eq!(config.roles, Roles { server: false, leader: true });
        assert!(parse(&["--roles", "spectator"]).is_err());
    }

    #[test]
    fn a_site_of_its_own_has_a_name_and_an_absolute_directory() {
        let config = parse(&["--site", "www=/srv/x=y"]).unwrap();
        assert_eq!(config.sites["www".parse().as_ref().unwrap()], PathBuf::from("/srv/x=y"));
        for bad in ["www", "www=relative", "a/b=/srv", "=/srv"] {
            assert!(parse(&["--site", bad]).is_err(), "{bad}");
        }
    }
}
