//! What a publish would change.

use std::fmt::Write as _;

use common::ids::{GroupName, SiteName};
use serde_json::json;

use super::Session;
use crate::client::ClientArgs;
use crate::exit::{CommandError, Exit};
use crate::output::{bytes, plain, version};
use crate::view::Diff;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The site
    site: SiteName,
    /// Content group; needed only when the site has several
    #[arg(long)]
    group: Option<GroupName>,
    /// Show changed texts line by line
    #[arg(long)]
    text: bool,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

pub(super) async fn run(args: Args) -> Result<Exit, CommandError> {
    let session = Session::open(&args.client).await?;
    let body = json!({ "group": args.group, "text": args.text });
    let answer = session.client.post_scanning(&format!("/sites/{}/diff", args.site), &body).await?;
    session.show(&answer, |diff: Diff| describe(&diff))
}

/// Keeps tabs, which texts have; nothing else that steers a terminal.
fn text_line(line: &str) -> String {
    line.split('\t').map(plain).collect::<Vec<_>>().join("\t")
}

fn describe(diff: &Diff) -> String {
    let mut text = String::new();
    let mut line = |line: std::fmt::Arguments<'_>| writeln!(text, "{line}").expect("writing to a string");
    for entry in &diff.added {
        line(format_args!("added    {} ({})", plain(&entry.path), bytes(entry.size)));
    }
    for entry in &diff.changed {
        let (old, new) = (bytes(entry.old_size), bytes(entry.size));
        line(format_args!("changed  {} ({old} to {new})", plain(&entry.path)));
        for changed in entry.text.iter().flat_map(|text| text.lines()) {
            line(format_args!("    {}", text_line(changed)));
        }
    }
    for entry in &diff.moved {
        line(format_args!("moved    {} to {}", plain(&entry.from), plain(&entry.to)));
    }
    for entry in &diff.removed {
        line(format_args!("removed  {}", plain(&entry.path)));
    }
    for entry in &diff.attributes {
        line(format_args!("mode     {}", plain(&entry.path)));
    }
    let (site, group) = (plain(&diff.site), plain(&diff.group));
    let (base, result) = (version(diff.base.as_deref()), version(Some(&diff.result)));
    if diff.base.as_ref() == Some(&diff.result) {
        line(format_args!("Nothing to publish: {site} ({group}) is live as it is in staging, version {result}."));
    } else {
        let counts = format!(
            "{} added, {} changed, {} moved, {} removed, {} with other attributes",
            diff.added.len(),
            diff.changed.len(),
            diff.moved.len(),
            diff.removed.len(),
            diff.attributes.len()
        );
        line(format_args!(
            "{site} ({group}), version {base} to {result}: {counts}; {} of new content.",
            bytes(diff.content_bytes)
        ));
    }
    text
}
