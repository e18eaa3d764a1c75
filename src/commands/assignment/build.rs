//! Making an assignment of two directories.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use ccm::ingest::Progress;
use ccm::ingest::build::{BuildError, BuildRequest, Built, build};
use ccm::ingest::directory::Directory;
use ccm::ingest::level::Level;
use ccm::ingest::scan::{ScanError, ScanLimits};
use ccm::ingest::tree::Tree;
use ccm::trust::read_publish_key;
use common::assignment::{Draft, Extra, Kind, LivePolicy};
use common::exclude::Exclude;
use common::ids::{AssignmentNumber, ClusterId, RunNumber, Sequence, SiteName};
use common::keys::PublishKey;
use common::manifest::Manifest;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::super::duration;
use super::{Answer, AssignmentCommandError, WHOEVER, now, read_text};
use crate::output::{bytes, plain, seconds};

#[derive(Debug, clap::Args)]
pub(super) struct BuildArgs {
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

pub(super) fn make(args: &BuildArgs, cancel: &AtomicBool) -> Result<Answer, AssignmentCommandError> {
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
        base: base.as_ref().map(|base| base.manifest() as &dyn Tree),
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
        extra: Extra::Remove,
        linger_seconds: 0,
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
