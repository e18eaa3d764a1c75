//! Hosted sites.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::ids::SiteName;
use serde_json::json;

use super::{Asked, Session};
use crate::exit::{CommandError, Exit};
use crate::output::{Table, or_dash, plain, time, version};
use crate::view::Site;

pub(crate) type Args = Asked<Action>;

/// How an assignment reaches the network segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Wan {
    /// The content control manager decides
    Auto,
    /// It serves every group leader itself
    Star,
    /// Group leaders serve each other
    Tree,
}

impl Wan {
    fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Star => "star",
            Self::Tree => "tree",
        }
    }
}

/// What becomes of what servers hold and nobody published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Extra {
    /// It does not come along to the next version
    Remove,
    /// It comes along
    Keep,
    /// A server that holds any does not take part in a publish, and says what it found
    Fail,
}

impl Extra {
    fn as_str(self) -> &'static str {
        match self {
            Self::Remove => "remove",
            Self::Keep => "keep",
            Self::Fail => "fail",
        }
    }
}

/// A duration of whole seconds; none at all is one.
fn linger(text: &str) -> Result<Duration, String> {
    if text == "0" || text == "0s" { Ok(Duration::ZERO) } else { super::duration(text) }
}

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Action {
    /// Create a site
    Create {
        /// What to call it
        name: SiteName,
        /// The tree to publish, on the content control manager's host
        #[arg(long, value_name = "DIR")]
        staging: PathBuf,
        /// Where it is live on every server; {server} stands for the server's name
        #[arg(long, value_name = "DIR")]
        live: PathBuf,
        /// Leave out what matches, as in a .gitignore file; may be repeated
        #[arg(long, value_name = "PATTERN", num_args = 1..)]
        exclude: Vec<String>,
        /// How content crosses the WAN
        #[arg(long, value_enum, default_value = "auto")]
        wan: Wan,
        /// What becomes of what servers hold and nobody published; left out, it is removed
        #[arg(long, value_enum)]
        extra: Option<Extra>,
        /// How long files that a publish removes can still be reached, such as 10m; left out, not at all
        #[arg(long, value_name = "TIME", value_parser = linger)]
        linger: Option<Duration>,
    },
    /// Change what a site does about files that nobody published, and about those that a publish removes
    #[command(group = clap::ArgGroup::new("what").required(true).multiple(true).args(["extra", "linger"]))]
    Set {
        /// Which
        name: SiteName,
        /// What becomes of what servers hold and nobody published
        #[arg(long, value_enum)]
        extra: Option<Extra>,
        /// How long files that a publish removes can still be reached, such as 10m; 0s: not at all
        #[arg(long, value_name = "TIME", value_parser = linger)]
        linger: Option<Duration>,
    },
    /// List the sites
    List,
    /// Show a site and its content groups
    Show {
        /// Which
        name: SiteName,
    },
    /// Delete a site; what is live on servers stays
    Delete {
        /// Which
        name: SiteName,
    },
}

/// The path from the root directory on: the content control manager works elsewhere.
fn absolute(path: &Path) -> Result<String, CommandError> {
    let absolute = std::path::absolute(path);
    let absolute = absolute.map_err(|source| CommandError::Path { path: path.to_owned(), source })?;
    absolute.into_os_string().into_string().map_err(|_| CommandError::Path {
        path: path.to_owned(),
        source: std::io::Error::new(std::io::ErrorKind::InvalidData, "it is not UTF-8"),
    })
}

pub(super) async fn run(args: Args) -> Result<Exit, CommandError> {
    let session = Session::open(&args.client).await?;
    match args.action {
        Action::Create { name, staging, live, exclude, wan, extra, linger } => {
            let mut body = json!({
                "name": name, "staging": absolute(&staging)?, "live": live, "exclude": exclude, "wan": wan.as_str(),
            });
            if let Some(extra) = extra {
                body["extra"] = extra.as_str().into();
            }
            if let Some(linger) = linger {
                body["linger_seconds"] = linger.as_secs().into();
            }
            let answer = session.client.post("/sites", &body).await?;
            session.show(&answer, |site: Site| {
                format!("The site {0} is created. `pressrun publish {0} --wait` brings it live.", plain(&site.name))
            })
        }
        Action::Set { name, extra, linger } => {
            let body =
                json!({ "extra": extra.map(Extra::as_str), "linger_seconds": linger.map(|time| time.as_secs()) });
            let answer = session.client.post(&format!("/sites/{name}/policy"), &body).await?;
            session.show(&answer, |site: Site| describe(&site))
        }
        Action::List => {
            let answer = session.client.get("/sites").await?;
            let titles = ["SITE", "STAGING", "LIVE", "GROUPS", "PUBLISHED (UTC)"];
            let none = "There are no sites. `pressrun site create` makes one.";
            session.show_list(&answer, &titles, none, |site: Site| {
                let groups: Vec<_> = site.groups.iter().map(|group| group.name.as_str()).collect();
                let published = site.groups.iter().filter_map(|group| group.published.as_deref()).max();
                let groups = or_dash(Some(&groups.join(", ")));
                vec![
                    site.name.clone(),
                    site.staging.clone(),
                    site.live.clone(),
                    groups,
                    published.map_or_else(|| "-".to_owned(), time),
                ]
            })
        }
        Action::Show { name } => {
            let answer = session.client.get(&format!("/sites/{name}")).await?;
            session.show(&answer, |site: Site| describe(&site))
        }
        Action::Delete { name } => {
            session.client.delete(&format!("/sites/{name}")).await?;
            session.show_deleted("site", name.as_str())
        }
    }
}

fn describe(site: &Site) -> String {
    let mut text = String::new();
    let excluded = or_dash(Some(&site.exclude.join("  ")));
    let lingers = if site.linger_seconds == 0 { "-".to_owned() } else { format!("{} s", site.linger_seconds) };
    let lines = [
        ("Site", &site.name),
        ("Staging", &site.staging),
        ("Live", &site.live),
        ("Excluded", &excluded),
        ("WAN", &site.wan),
        ("Extra", &site.extra),
        ("Lingers", &lingers),
    ];
    for (title, value) in lines {
        writeln!(text, "{title:<10}{}", plain(value)).expect("writing to a string");
    }
    text.push('\n');
    if site.groups.is_empty() {
        text.push_str("No content group: the first publish makes the group `all`, of every server.\n");
        return text;
    }
    let mut table = Table::new(&["GROUP", "VERSION", "PUBLISHED (UTC)", "SERVERS"]);
    for group in &site.groups {
        let published = group.published.as_deref().map_or_else(|| "-".to_owned(), time);
        table.row([group.name.clone(), version(group.version.as_deref()), published, group.servers.join(", ")]);
    }
    text.push_str(&table.render());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relative_staging_directory_is_below_the_directory_of_the_caller() {
        let here = std::env::current_dir().unwrap();
        assert_eq!(Path::new(&absolute(Path::new("content/www")).unwrap()), here.join("content/www"));
        assert_eq!(absolute(Path::new("/srv/staging")).unwrap(), "/srv/staging");
    }
}
