//! Applying an assignment to a live directory of this machine.

use std::path::{Path, PathBuf};
use std::time::Instant;

use backend_agent::content::{SiteTrees, TreePolicy};
use backend_agent::identity::{PublishKeyText, publish_keys};
use common::assignment::{AssignmentReader, Base, Kind, Limits};
use common::hex::HexError;
use common::ids::{ClusterId, ServerId};
use common::keys::{PublishKey, PublishKeys};
use common::outcome::Outcome;
use serde::Deserialize;
use serde_json::json;

use super::{Answer, AssignmentCommandError, WHOEVER, kind, now, open_file, read_text, wrong_assignment};
use crate::output::{plain, seconds};

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
pub(super) struct ApplyArgs {
    /// The assignment
    file: PathBuf,
    /// The live directory
    #[arg(long, value_name = "DIR")]
    live: PathBuf,
    #[command(flatten)]
    belief: Belief,
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

pub(super) fn apply(args: &ApplyArgs) -> Result<Answer, AssignmentCommandError> {
    let began = Instant::now();
    let believed = believed(&args.belief)?;
    let reader = AssignmentReader::open(open_file(&args.file)?, &believed.keys, &Limits::default())
        .map_err(wrong_assignment(&args.file))?;
    let header = reader.header().clone();
    drop(reader);
    match header.kind {
        Kind::Prepare | Kind::Rollback => {}
        Kind::Inventory
        | Kind::Commit { .. }
        | Kind::Undo { .. }
        | Kind::Audit { .. }
        | Kind::Discard
        | Kind::Alone => {
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
    let mut trees = SiteTrees::open(&header.site, &here, &live, &roots, TreePolicy::default()).map_err(opened)?;
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
            Outcome::Received
            | Outcome::Missing(_)
            | Outcome::Prepared { .. }
            | Outcome::Undone { .. }
            | Outcome::Audited(_) => {
                unreachable!("a commit is done or refused")
            }
        },
        Outcome::Refused(refusal) => return Err(refused(refusal)),
        Outcome::Received
        | Outcome::Missing(_)
        | Outcome::Committed { .. }
        | Outcome::Audited(_)
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
