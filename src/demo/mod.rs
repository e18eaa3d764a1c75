//! A whole fleet on this machine: a content control manager and agents as processes of their own,
//! a site, a publish, a change, its publish, a rollback, each of them checked on every server.
//!
//! In reading order: the steps, in this file; the processes ([`fleet`]); the site ([`content`]);
//! the comparison of trees ([`compare`]), which shares nothing with what it checks; what is said at
//! the end ([`report`]).
//!
//! Every wait has an end, and every process ends with this one: on return, on a panic, on a signal,
//! and, because each has a pipe of ours as its input, even when this one is killed.

mod compare;
mod content;
mod fleet;
mod report;

use common::errors::chain;
use std::fs;
use std::io::{self, IsTerminal as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use serde_json::{Value, json};

use crate::client::{Answer, Client, ClientArgs, ClientError, Place, PlaceError};
use crate::exit::CommandError;
use crate::output::{bytes, print};
use crate::view::{Accepted, Diff, Items, Run, Segment, Server, Token};
use crate::{follow, stop};
use fleet::Fleet;
use report::{Report, Step};

/// The name of the demonstration's site.
const SITE: &str = "demo";

/// How long all servers may take to join and find their leaders.
const ONLINE_MAX: Duration = Duration::from_secs(60);

/// How long a run may take.
const RUN_MAX: Duration = Duration::from_secs(120);

/// How often the fleet is looked at.
const POLL: Duration = Duration::from_millis(200);

/// Most differences of a tree that are named.
const DIFFERENCES_MAX: usize = 5;

/// What is asked for.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Working directory; `None`: a temporary one.
    pub(crate) dir: Option<PathBuf>,
    /// Network segments.
    pub(crate) segments: u8,
    /// Servers in each.
    pub(crate) servers: u8,
    /// Whether to end after the last step.
    pub(crate) once: bool,
    /// Whether the report is for programs.
    pub(crate) json: bool,
}

/// Why the demonstration did not go as it should.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DemoError {
    /// A file or directory of ours.
    #[error("{} cannot be {action}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The working directory is somebody's.
    #[error("{} is not empty; name an empty or a missing directory", path.display())]
    NotEmpty {
        /// The directory.
        path: PathBuf,
    },
    /// A process cannot be started.
    #[error("the process of {name} cannot be started")]
    Spawn {
        /// Whose.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// A process ended by itself.
    #[error("the process of {name} ended with {status}; the end of its log:\n{log}")]
    Ended {
        /// Whose.
        name: String,
        /// How.
        status: ExitStatus,
        /// What it said last.
        log: String,
    },
    /// Something did not happen in time.
    #[error("{what} within {} s; the end of the log:\n{log}", within.as_secs())]
    NotInTime {
        /// What.
        what: String,
        /// In what time.
        within: Duration,
        /// What the process that matters said last.
        log: String,
    },
    /// Signals cannot be had.
    #[error("signals cannot be received")]
    Signals(#[source] io::Error),
    /// Somebody stopped it.
    #[error("stopped before the end; everything that was started has ended")]
    Stopped,
    /// The content control manager left no address.
    #[error("the content control manager cannot be asked")]
    Place(#[from] PlaceError),
    /// It refused, or did not answer.
    #[error("{what} failed; the end of the content control manager's log:\n{log}")]
    Asking {
        /// What was asked for.
        what: String,
        /// Why.
        source: Box<ClientError>,
        /// What it said last.
        log: String,
    },
    /// A run did not end well.
    #[error("{what} ended {state}: {message}; the end of the content control manager's log:\n{log}")]
    Run {
        /// What for.
        what: &'static str,
        /// How it ended.
        state: String,
        /// What it says about it.
        message: String,
        /// What the content control manager said last.
        log: String,
    },
    /// A live tree is not what it should be.
    #[error("after {what}, {} is not what it should be: {}", live.display(), differences.join("; "))]
    Differs {
        /// After what.
        what: &'static str,
        /// The tree.
        live: PathBuf,
        /// The first differences.
        differences: Vec<String>,
    },
    /// Nobody takes our output.
    #[error("standard output cannot be written: {0}")]
    Output(String),
}

/// Adds the path to an error of a file.
fn at<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> DemoError + 'a {
    move |source| DemoError::File { action, path: path.to_owned(), source }
}

/// Does all of it.
///
/// # Errors
/// [`DemoError`]; all processes have ended then.
pub(crate) async fn run(plan: Plan) -> Result<(), DemoError> {
    let stop = stop::requested(false).map_err(DemoError::Signals)?;
    tokio::pin!(stop);
    let place = Workplace::make(plan.dir.as_deref())?;
    let mut fleet = Fleet::new(place.path.clone());
    let steps = demonstrate(&plan, &place, &mut fleet);
    let result = tokio::select! {
        result = steps => result,
        () = &mut stop => Err(DemoError::Stopped),
    };
    let result = match result {
        Ok(report) => finish(&plan, &report, &mut fleet, stop).await,
        Err(error) => Err(error),
    };
    fleet.stop().await;
    result
}

/// Tells what happened, and stays while somebody may want to look at the console.
async fn finish(
    plan: &Plan,
    report: &Report,
    fleet: &mut Fleet,
    stop: impl Future<Output = ()>,
) -> Result<(), DemoError> {
    let text = if plan.json { report.to_json().to_string() } else { report.to_text() };
    output(&text)?;
    if plan.once {
        return Ok(());
    }
    if !plan.json {
        output(&report.invitation())?;
    }
    tokio::select! {
        () = stop => Ok(()),
        error = fleet.wait_for_end() => Err(error),
    }
}

fn output(text: &str) -> Result<(), DemoError> {
    print(text).map_err(|error| DemoError::Output(chain(&error)))
}

/// The working directory; a temporary one goes with this.
struct Workplace {
    path: PathBuf,
    temporary: bool,
}

impl Workplace {
    fn make(given: Option<&Path>) -> Result<Self, DemoError> {
        let temporary = given.is_none();
        let path = match given {
            Some(path) => std::path::absolute(path).map_err(at("used", path))?,
            None => std::env::temp_dir().join(format!("pressrun-demo-{:016x}", rand::random::<u64>())),
        };
        // Private: the administrator's token is in it.
        fs::DirBuilder::new().recursive(!temporary).mode(0o700).create(&path).map_err(at("made", &path))?;
        if fs::read_dir(&path).map_err(at("read", &path))?.next().is_some() {
            return Err(DemoError::NotEmpty { path });
        }
        Ok(Self { path, temporary })
    }

    fn staging(&self) -> PathBuf {
        self.path.join("staging")
    }

    fn live(&self, server: &str) -> PathBuf {
        self.path.join("servers").join(server).join("www")
    }
}

impl Drop for Workplace {
    fn drop(&mut self) {
        if self.temporary {
            // What cannot be removed is in the system's directory for such things.
            fs::remove_dir_all(&self.path).ok();
        }
    }
}

/// Who speaks to the content control manager, and tells people about it.
struct Story<'a> {
    client: Client,
    fleet: &'a mut Fleet,
    place: &'a Workplace,
    servers: Vec<String>,
    loud: bool,
    json: bool,
}

async fn demonstrate(plan: &Plan, place: &Workplace, fleet: &mut Fleet) -> Result<Report, DemoError> {
    // Progress is for people: in the text itself, or beside the JSON when somebody looks on.
    let loud = !plan.json || io::stderr().is_terminal();
    say(plan.json, loud, &format!("Working in {}", place.path.display()))?;
    let door = fleet.start_ccm().await?;
    say(plan.json, loud, "The content control manager is up.")?;

    let args = ClientArgs { data: Some(fleet.ccm_data()), ..ClientArgs::default() };
    let place_of_ccm = Place::find(&args, |_| None)?;
    let client = Client::new(place_of_ccm).await.map_err(|source| fleet.asking("finding it", source))?;
    let mut story = Story { client, fleet, place, servers: Vec::new(), loud, json: plan.json };
    story.start_servers(plan.segments, plan.servers, &door.url).await?;

    let mut report = Report::new(plan.segments, story.servers.len(), door);
    content::generate(&place.staging()).map_err(at("filled", &place.staging()))?;
    let live = place.live("{server}");
    let site = json!({ "name": SITE, "staging": place.staging(), "live": live, "exclude": [], "wan": "auto" });
    story.post("creating the site", "/sites", &site).await?;

    let first = place.path.join("first-version");
    content::copy(&place.staging(), &first).map_err(at("copied to", &first))?;
    report.add(story.step("the first publish", "publish", json!({ "group": null }), &place.staging()).await?);

    content::change(&place.staging()).map_err(at("changed", &place.staging()))?;
    let diff = story.post("the diff", &format!("/sites/{SITE}/diff"), &json!({ "group": null, "text": false })).await?;
    let diff: Diff = story.read("the diff", &diff)?;
    let (added, changed, removed, moved) = (diff.added.len(), diff.changed.len(), diff.removed.len(), diff.moved.len());
    let new = bytes(diff.content_bytes);
    story.say(&format!(
        "The site was edited: {added} added, {changed} changed, {removed} removed, {moved} moved; {new} of content is new."
    ))?;
    report.add(story.step("publishing the change", "publish", json!({ "group": null }), &place.staging()).await?);
    report.add(story.step("the rollback", "rollback", json!({ "group": null }), &first).await?);
    Ok(report)
}

fn say(json: bool, loud: bool, text: &str) -> Result<(), DemoError> {
    match (loud, json) {
        (false, true | false) => {}
        (true, true) => eprintln!("{text}"),
        (true, false) => output(text)?,
    }
    Ok(())
}

impl Story<'_> {
    fn say(&self, text: &str) -> Result<(), DemoError> {
        say(self.json, self.loud, text)
    }

    async fn post(&self, what: &str, path: &str, body: &Value) -> Result<Answer, DemoError> {
        self.client.post_scanning(path, body).await.map_err(|source| self.fleet.asking(what, source))
    }

    fn read<T: serde::de::DeserializeOwned>(&self, what: &str, answer: &Answer) -> Result<T, DemoError> {
        answer.read().map_err(|source| self.fleet.asking(what, source))
    }

    async fn items<T: serde::de::DeserializeOwned>(&self, what: &str, path: &str) -> Result<Vec<T>, DemoError> {
        let answer = self.client.get(path).await.map_err(|source| self.fleet.asking(what, source))?;
        Ok(self.read::<Items<T>>(what, &answer)?.items)
    }

    /// Starts an agent for every server and waits until all of them are there and led.
    async fn start_servers(&mut self, segments: u8, servers: u8, ccm: &str) -> Result<(), DemoError> {
        for segment in 1..=segments {
            let segment_name = format!("s{segment}");
            let token = json!({ "segment": segment_name, "uses": servers, "ttl_seconds": 3600, "roles": null });
            let token = self.post("making a join token", "/tokens", &token).await?;
            let token: Token = self.read("making a join token", &token)?;
            for server in 1..=servers {
                let name = format!("s{segment}w{server}");
                let live = self.place.live(&name);
                fs::create_dir_all(&live).map_err(at("made", &live))?;
                self.fleet.start_agent(&name, &segment_name, ccm, &token.token)?;
                self.servers.push(name);
            }
        }
        let looking = async {
            loop {
                self.fleet.check()?;
                let known: Vec<Server> = self.items("listing the servers", "/servers").await?;
                let led: Vec<Segment> = self.items("listing the segments", "/segments").await?;
                let online = |name: &String| known.iter().any(|it| it.server == *name && it.state == "online");
                let leaders = led.iter().filter(|segment| segment.leader.is_some()).count();
                if self.servers.iter().all(online) && leaders >= usize::from(segments) {
                    return Ok::<_, DemoError>(leaders);
                }
                tokio::time::sleep(POLL).await;
            }
        };
        // Bound before the match, so that nothing of the fleet is still in use afterwards.
        let looked = tokio::time::timeout(ONLINE_MAX, looking).await;
        match looked {
            Ok(result) => {
                let leaders = result?;
                self.say(&format!(
                    "{} servers are online in {leaders} segments, each with its leader.",
                    self.servers.len()
                ))
            }
            Err(_) => Err(self.not_online().await),
        }
    }

    /// Which server is missing, with the end of its log.
    async fn not_online(&self) -> DemoError {
        let known: Vec<Server> = match self.items("listing the servers", "/servers").await {
            Ok(known) => known,
            Err(error) => return error,
        };
        let online = |name: &&String| known.iter().any(|it| it.server == **name && it.state == "online");
        let (there, missing): (Vec<&String>, Vec<&String>) = self.servers.iter().partition(online);
        let (what, name) = match missing.first() {
            Some(name) => (format!("{name} and {} others did not come online", missing.len() - 1), name.as_str()),
            None => ("no leader was elected in some segment".to_owned(), there.first().map_or("ccm", |name| name)),
        };
        DemoError::NotInTime { what, within: ONLINE_MAX, log: self.fleet.log_tail(name) }
    }

    /// One run, waited for and checked on every server.
    async fn step(
        &mut self,
        what: &'static str,
        action: &str,
        body: Value,
        expected: &Path,
    ) -> Result<Step, DemoError> {
        let answer = self.post(what, &format!("/sites/{SITE}/{action}"), &body).await?;
        let accepted: Accepted = self.read(what, &answer)?;
        let (answer, run) = match follow::run(&self.client, accepted.run, Some(RUN_MAX)).await {
            Ok(followed) => followed,
            Err(CommandError::Client(source)) => return Err(self.fleet.asking(what, source)),
            Err(error) => {
                let log = self.fleet.log_tail(fleet::CCM);
                return Err(DemoError::NotInTime { what: chain(&error), within: RUN_MAX, log });
            }
        };
        self.fleet.check()?;
        if run.state != "done" {
            let log = self.fleet.log_tail(fleet::CCM);
            return Err(DemoError::Run { what, message: reasons(&run), state: run.state, log });
        }
        for server in &self.servers {
            let live = self.place.live(server);
            let mut differences = compare::differences(expected, &live).map_err(at("compared", &live))?;
            if !differences.is_empty() {
                differences.truncate(DIFFERENCES_MAX);
                return Err(DemoError::Differs { what, live, differences });
            }
        }
        let checked = self.servers.len();
        self.say(&format!("After {what}, {checked} live trees are as they should be, byte for byte."))?;
        let document = self.read(what, &answer)?;
        Ok(Step { what, run, document, checked })
    }
}

/// What a run says about itself, and about its servers.
fn reasons(run: &Run) -> String {
    let own = run.message.clone().unwrap_or_default();
    let servers = run.servers.iter().filter_map(|it| Some(format!("{}: {}", it.server, it.reason.as_ref()?)));
    std::iter::once(own).chain(servers).collect::<Vec<_>>().join("; ")
}
