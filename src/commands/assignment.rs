//! Assignments in files: made, looked at and applied without a network, by the code that the content
//! control manager and the agents use.
//!
//! Whose word counts: `build --key` signs with a publish key, and `apply --trust` believes those that a
//! root document or an agent's identity names. Without `--key` an assignment is signed with a key that
//! everybody knows, which protects it from damage only; `apply` takes it when it is told to by
//! `--unsigned`, and never otherwise.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use backend_agent::content::{OpenError, SiteTrees};
use backend_agent::identity::{PublishKeyText, publish_keys};
use ccm::ingest::Progress;
use ccm::ingest::build::{BuildError, BuildRequest, Built, build};
use ccm::ingest::directory::Directory;
use ccm::ingest::level::Level;
use ccm::ingest::scan::{ScanError, ScanLimits};
use ccm::trust::read_publish_key;
use common::assignment::{
    AssignmentError, AssignmentReader, Base, Command as Step, Content, Draft, Kind, Limits, LivePolicy,
};
use common::exclude::{Exclude, ExcludeError};
use common::hex::HexError;
use common::ids::{AssignmentNumber, ClusterId, RunNumber, Sequence, ServerId, SiteName};
use common::keys::{PublishKey, PublishKeys};
use common::manifest::Manifest;
use common::outcome::{Outcome, Refusal};
use common::time::WallTime;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Deserialize;
use serde_json::{Value, json};

use super::duration;
use crate::exit::{CommandError, Exit};
use crate::output::{bytes, plain, print, seconds};

/// The server that an assignment made by hand is for: whoever holds the file.
const WHOEVER: ServerId = ServerId([0; 16]);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
    /// Say everything as JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Make the assignment that turns one directory into another
    Build(BuildArgs),
    /// Show what an assignment holds; its signature is not checked
    Show {
        /// The assignment
        file: PathBuf,
    },
    /// Apply an assignment to a live directory of this machine, and switch to the result
    Apply(ApplyArgs),
}

#[derive(Debug, clap::Args)]
struct BuildArgs {
    /// What is live; without it the assignment holds the whole of the target
    #[arg(long, value_name = "DIR")]
    base: Option<PathBuf>,
    /// What shall be live
    #[arg(long, value_name = "DIR")]
    target: PathBuf,
    /// Where the assignment is written
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// How much work is put into making it small: small, balanced or fast
    #[arg(long, value_name = "LEVEL", default_value = "balanced")]
    level: Level,
    /// Sign it with this publish key (keys/publish.key of a content control manager)
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Leave out what matches, as in a .gitignore file; may be repeated
    #[arg(long, value_name = "PATTERN", num_args = 1..)]
    exclude: Vec<String>,
    /// The hosted site that it is for
    #[arg(long, default_value = "site")]
    site: SiteName,
    /// Its place in the site's order; a live directory takes rising ones only [default: the time]
    #[arg(long, value_name = "N")]
    sequence: Option<u64>,
    /// How long it may be applied
    #[arg(long, value_name = "DURATION", default_value = "720h", value_parser = duration)]
    ttl: Duration,
}

#[derive(Debug, clap::Args)]
#[group(id = "belief", required = true, multiple = false)]
struct Belief {
    /// Believe the publish keys that this file names: a cluster's root document, or an agent's
    /// identity.json, which also says which server this is
    #[arg(long, value_name = "FILE", group = "belief")]
    trust: Option<PathBuf>,
    /// Take an assignment that nobody signed
    #[arg(long, group = "belief")]
    unsigned: bool,
}

#[derive(Debug, clap::Args)]
struct ApplyArgs {
    /// The assignment
    file: PathBuf,
    /// The live directory
    #[arg(long, value_name = "DIR")]
    live: PathBuf,
    #[command(flatten)]
    belief: Belief,
}

/// Why an assignment was not made, shown or applied.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AssignmentCommandError {
    /// A file cannot be read.
    #[error("{} cannot be read", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A key file holds no key.
    #[error("{} holds no publish key: an epoch, a space and 64 hexadecimal digits are expected", path.display())]
    Key {
        /// Which.
        path: PathBuf,
    },
    /// A file that should say whom to believe does not.
    #[error("{} does not say which publish keys to believe: {what}", path.display())]
    Trust {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// A pattern is none.
    #[error("an exclude pattern cannot be used")]
    Exclude(#[from] ExcludeError),
    /// A directory cannot be read.
    #[error("{} cannot be taken for content", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        source: Box<ScanError>,
    },
    /// It cannot be built.
    #[error("{} cannot be made", path.display())]
    Build {
        /// The output.
        path: PathBuf,
        /// Why.
        source: Box<BuildError>,
    },
    /// It is no assignment to act upon.
    #[error("{} cannot be used", path.display())]
    Assignment {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<AssignmentError>,
    },
    /// It is one that only means something within a run.
    #[error("{} is no assignment to be applied by hand: it orders {kind}", path.display())]
    Kind {
        /// The file.
        path: PathBuf,
        /// What it orders.
        kind: &'static str,
    },
    /// The live directory cannot be worked on.
    #[error("{} cannot be worked on", path.display())]
    Open {
        /// The live directory.
        path: PathBuf,
        /// Why.
        source: Box<OpenError>,
    },
    /// It was refused.
    #[error("{} is left as it is: {}", live.display(), refusal.reason)]
    Refused {
        /// The live directory.
        live: PathBuf,
        /// Why.
        refusal: Refusal,
    },
    /// Stopped from outside.
    #[error("interrupted")]
    Interrupted,
}

impl AssignmentCommandError {
    /// The exit code.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Exclude(_) => Exit::Usage,
            Self::Assignment { source, .. } if matches!(**source, AssignmentError::Signature(_)) => Exit::NotAuthorised,
            Self::Open { source, .. } if matches!(**source, OpenError::Locked { .. }) => Exit::Conflict,
            Self::Read { .. }
            | Self::Key { .. }
            | Self::Trust { .. }
            | Self::Directory { .. }
            | Self::Build { .. }
            | Self::Assignment { .. }
            | Self::Kind { .. }
            | Self::Open { .. }
            | Self::Refused { .. }
            | Self::Interrupted => Exit::Failed,
        }
    }
}

pub(super) async fn run(args: Args) -> Result<Exit, CommandError> {
    let json = args.json;
    let cancel = std::sync::Arc::new(AtomicBool::new(false));
    let stop = std::sync::Arc::clone(&cancel);
    // The work holds its thread; what was begun ends at the next piece of a file.
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            stop.store(true, Ordering::Relaxed);
        }
    });
    let work = tokio::task::spawn_blocking(move || match args.action {
        Action::Build(args) => make(&args, &cancel),
        Action::Show { file } => show(&file),
        Action::Apply(args) => apply(&args),
    });
    let Ok(done) = work.await else { return Err(AssignmentCommandError::Interrupted.into()) };
    let (value, words) = done?;
    print(&if json { value.to_string() } else { words })?;
    Ok(Exit::Done)
}

/// The answer for programs and for people.
type Answer = (Value, String);

fn now() -> WallTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    WallTime(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

fn make(args: &BuildArgs, cancel: &AtomicBool) -> Result<Answer, AssignmentCommandError> {
    let began = Instant::now();
    let key = match &args.key {
        None => PublishKey::of_nobody(),
        Some(path) => {
            read_publish_key(&read_text(path)?).ok_or_else(|| AssignmentCommandError::Key { path: path.clone() })?
        }
    };
    let exclude = Exclude::new(&args.exclude)?;
    let progress = Shown::new();
    let read = |path: &Path, what| {
        progress.say(what);
        Directory::read(path, &exclude, &ScanLimits::default(), cancel).map_err(|source| {
            if matches!(source, ScanError::Cancelled) {
                return AssignmentCommandError::Interrupted;
            }
            AssignmentCommandError::Directory { path: path.to_owned(), source: Box::new(source) }
        })
    };
    let base = args.base.as_deref().map(|base| read(base, "reading the base")).transpose()?;
    let target = read(&args.target, "reading the target")?;
    let directories: Vec<&Directory> = base.iter().chain([&target]).collect();
    let request = BuildRequest {
        draft: draft(args),
        base: base.as_ref().map(Directory::manifest),
        result: target.manifest(),
        needed: None,
        level: args.level,
    };
    progress.say("packing");
    let built = build(&request, &&directories[..], &key, &args.output, &|state| progress.show(state), cancel);
    let built = built.map_err(|source| {
        if matches!(source, BuildError::Cancelled) {
            return AssignmentCommandError::Interrupted;
        }
        AssignmentCommandError::Build { path: args.output.clone(), source: Box::new(source) }
    })?;
    drop(progress);
    Ok(tell_built(args, &built, target.manifest(), began.elapsed()))
}

fn draft(args: &BuildArgs) -> Draft {
    let now = now();
    let number = args.sequence.unwrap_or(now.0);
    Draft {
        cluster: ClusterId([0; 16]),
        site: args.site.clone(),
        group: "all".parse().expect("a good name"),
        number: AssignmentNumber(number),
        run: RunNumber(0),
        kind: Kind::Prepare,
        sequence: Sequence(number),
        targets: vec![WHOEVER],
        live: LivePolicy {
            directory: String::new(),
            create: args.base.is_none(),
            adopt: args.base.is_none(),
            exclude: args.exclude.clone(),
        },
        created: now,
        expires: now.after(args.ttl),
    }
}

fn tell_built(args: &BuildArgs, built: &Built, target: &Manifest, took: Duration) -> Answer {
    let (result, signed) = (target.version(), args.key.is_some());
    let value = json!({
        "file": args.output, "bytes": built.length, "data_bytes": built.data_bytes, "blocks": built.blocks,
        "digest": built.object.to_string(), "result": result.to_string(), "signed": signed,
        "seconds": took.as_secs_f64(),
    });
    let unsigned =
        if signed { "" } else { "\nNobody signed it: `pressrun assignment apply` takes it with --unsigned only." };
    let words = format!(
        "{}: {}, leads to version {}, made in {}.{unsigned}",
        plain(&args.output.to_string_lossy()),
        bytes(built.length),
        result.0.short(),
        seconds(took.as_secs_f64())
    );
    (value, words)
}

/// Progress for people who look on.
struct Shown(ProgressBar);

impl Shown {
    fn new() -> Self {
        let bar = ProgressBar::new(0);
        // A template of our own is sound; the default would do as well.
        if let Ok(style) = ProgressStyle::with_template("{msg} {bytes}/{total_bytes}") {
            bar.set_style(style);
        }
        Self(bar)
    }

    fn say(&self, what: &'static str) {
        self.0.set_message(what);
    }

    fn show(&self, state: Progress) {
        self.0.set_length(state.bytes_total);
        self.0.set_position(state.bytes_done);
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

fn read_text(path: &Path) -> Result<String, AssignmentCommandError> {
    fs::read_to_string(path).map_err(|source| AssignmentCommandError::Read { path: path.to_owned(), source })
}

fn open_file(path: &Path) -> Result<File, AssignmentCommandError> {
    File::open(path).map_err(|source| AssignmentCommandError::Read { path: path.to_owned(), source })
}

fn wrong_assignment(path: &Path) -> impl FnOnce(AssignmentError) -> AssignmentCommandError {
    move |source| AssignmentCommandError::Assignment { path: path.to_owned(), source: Box::new(source) }
}

fn show(path: &Path) -> Result<Answer, AssignmentCommandError> {
    let length = fs::metadata(path).map_or(0, |found| found.len());
    let reader =
        AssignmentReader::open_unchecked(open_file(path)?, &Limits::default()).map_err(wrong_assignment(path))?;
    let (header, epoch) = (reader.header(), reader.key_epoch());
    let base = match header.base {
        Base::Any => None,
        Base::Version(version) => Some(version.to_string()),
    };
    let steps: Vec<Value> = reader.commands().iter().map(step_value).collect();
    let value = json!({
        "file": path, "bytes": length, "site": header.site, "group": header.group, "kind": kind(header.kind),
        "assignment": header.number.0, "sequence": header.sequence.0, "base": base,
        "result": header.result.to_string(), "result_entries": header.result_entries,
        "result_bytes": header.result_bytes, "space_bytes": header.space_bytes, "data_bytes": header.data_bytes,
        "blocks": reader.blocks().len(), "exclude": header.live.exclude, "created_ms": header.created.0,
        "expires_ms": header.expires.0, "key_epoch": epoch, "unsigned": epoch == PublishKey::of_nobody().epoch,
        "commands": steps,
    });
    let mut words = String::new();
    let mut line = |line: std::fmt::Arguments<'_>| writeln!(words, "{line}").expect("writing to a string");
    line(format_args!("{} {} of {}", kind(header.kind), header.number.0, plain(header.site.as_str())));
    line(format_args!("base     {}", base.as_deref().unwrap_or("any")));
    line(format_args!(
        "result   {} ({} entries, {})",
        header.result,
        header.result_entries,
        bytes(header.result_bytes)
    ));
    line(format_args!(
        "size     {}, of which {} in {} blocks",
        bytes(length),
        bytes(header.data_bytes),
        reader.blocks().len()
    ));
    let unsigned = epoch == PublishKey::of_nobody().epoch;
    if unsigned {
        line(format_args!("signed   by nobody"));
    } else {
        line(format_args!("signed   by a publish key of epoch {epoch}, not checked"));
    }
    for step in reader.commands() {
        line(format_args!("{}", step_words(step)));
    }
    Ok((value, words))
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Prepare => "prepare",
        Kind::Inventory => "inventory",
        Kind::Commit { .. } => "commit",
        Kind::Undo { .. } => "undo",
        Kind::Rollback => "rollback",
    }
}

fn step_value(step: &Step) -> Value {
    match step {
        Step::MakeDirectory { path, mode } => json!({ "make_directory": path.as_str(), "mode": format!("{mode:o}") }),
        Step::MakeSymlink { path, target } => json!({ "make_symlink": path.as_str(), "target": target }),
        Step::SetMode { path, mode } => json!({ "set_mode": path.as_str(), "mode": format!("{mode:o}") }),
        Step::Remove { path } => json!({ "remove": path.as_str() }),
        Step::WriteFile { path, mode, mtime, size, content, .. } => {
            let from = match content {
                Content::Blocks(_) => json!("data"),
                Content::Copy { from } => json!({ "copy_of": from.as_str() }),
                Content::Local => json!("local"),
            };
            let mode = format!("{mode:o}");
            json!({ "write": path.as_str(), "size": size, "mode": mode, "mtime": mtime, "content": from })
        }
    }
}

fn step_words(step: &Step) -> String {
    match step {
        Step::MakeDirectory { path, .. } => format!("  make     {}/", plain(path.as_str())),
        Step::MakeSymlink { path, target } => format!("  link     {} -> {}", plain(path.as_str()), plain(target)),
        Step::SetMode { path, mode } => format!("  mode     {} {mode:o}", plain(path.as_str())),
        Step::Remove { path } => format!("  remove   {}", plain(path.as_str())),
        Step::WriteFile { path, size, content, .. } => match content {
            Content::Copy { from } => format!("  copy     {} from {}", plain(path.as_str()), plain(from.as_str())),
            Content::Blocks(_) | Content::Local => format!("  write    {} ({})", plain(path.as_str()), bytes(*size)),
        },
    }
}

/// What of a root document or an identity says whom to believe, and who is asked.
#[derive(Deserialize)]
struct Trusted {
    cluster: Option<String>,
    server: Option<String>,
    publish_keys: Vec<PublishKeyText>,
}

struct Believed {
    keys: PublishKeys,
    cluster: Option<ClusterId>,
    server: Option<ServerId>,
}

fn believed(belief: &Belief) -> Result<Believed, AssignmentCommandError> {
    let Some(path) = &belief.trust else {
        let nobody = PublishKey::of_nobody();
        let keys = PublishKeys { keys: vec![(nobody.epoch, nobody.key.public())] };
        return Ok(Believed { keys, cluster: None, server: None });
    };
    let wrong = |what: String| AssignmentCommandError::Trust { path: path.clone(), what };
    let trusted: Trusted = serde_json::from_str(&read_text(path)?).map_err(|error| wrong(error.to_string()))?;
    let id = |error: HexError| wrong(error.to_string());
    Ok(Believed {
        keys: publish_keys(&trusted.publish_keys).map_err(wrong)?,
        cluster: trusted.cluster.map(|text| text.parse()).transpose().map_err(id)?,
        server: trusted.server.map(|text| text.parse()).transpose().map_err(id)?,
    })
}

fn apply(args: &ApplyArgs) -> Result<Answer, AssignmentCommandError> {
    let began = Instant::now();
    let believed = believed(&args.belief)?;
    let reader = AssignmentReader::open(open_file(&args.file)?, &believed.keys, &Limits::default())
        .map_err(wrong_assignment(&args.file))?;
    let header = reader.header().clone();
    drop(reader);
    match header.kind {
        Kind::Prepare | Kind::Rollback => {}
        Kind::Inventory | Kind::Commit { .. } | Kind::Undo { .. } => {
            return Err(AssignmentCommandError::Kind { path: args.file.clone(), kind: kind(header.kind) });
        }
    }
    let made_by_hand = header.targets == [WHOEVER];
    let own = believed.server.filter(|_| !made_by_hand).or(header.targets.first().copied()).unwrap_or(WHOEVER);
    let cluster = believed.cluster.filter(|_| !made_by_hand).unwrap_or(header.cluster);

    let opened = |source| AssignmentCommandError::Open { path: args.live.clone(), source: Box::new(source) };
    let live = std::path::absolute(&args.live)
        .map_err(|source| AssignmentCommandError::Read { path: args.live.clone(), source })?;
    // Whoever calls names the directory himself: that is the root that it is allowed to be in.
    let roots: Vec<PathBuf> = live.parent().map(Path::to_owned).into_iter().collect();
    let here = "localhost".parse().expect("a good name");
    let mut trees = SiteTrees::open(&header.site, &here, &live, &roots).map_err(opened)?;
    let refused = |refusal| AssignmentCommandError::Refused { live: args.live.clone(), refusal };
    if let Base::Version(version) = header.base
        && live.exists()
    {
        trees.take_for(version, &header.live.exclude).map_err(refused)?;
    }
    let prepared = trees.handle(open_file(&args.file)?, cluster, own, &believed.keys, now());
    let version = match prepared {
        Outcome::Prepared { .. } => match trees.commit_by_hand(header.number) {
            Outcome::Committed { version } | Outcome::CommittedHookFailed { version, .. } => version,
            Outcome::Refused(refusal) => return Err(refused(refusal)),
            Outcome::Received | Outcome::Missing(_) | Outcome::Prepared { .. } | Outcome::Undone { .. } => {
                unreachable!("a commit is done or refused")
            }
        },
        Outcome::Refused(refusal) => return Err(refused(refusal)),
        Outcome::Received
        | Outcome::Missing(_)
        | Outcome::Committed { .. }
        | Outcome::CommittedHookFailed { .. }
        | Outcome::Undone { .. } => {
            unreachable!("a prepare or rollback is prepared or refused")
        }
    };
    let took = began.elapsed().as_secs_f64();
    let value = json!({
        "live": args.live, "site": header.site, "version": version.to_string(), "assignment": header.number.0,
        "seconds": took,
    });
    let words = format!(
        "{} is version {}, in {}; what was there before is the backup.",
        plain(&args.live.to_string_lossy()),
        version.0.short(),
        seconds(took)
    );
    Ok((value, words))
}
