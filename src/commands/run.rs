//! One run.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::json;

use super::{Asked, Session, duration};
use crate::exit::{CommandError, EXIT_CODES, Exit};
use crate::output::{Table, bytes, or_dash, plain, seconds, version};
use crate::view::{Accepted, Run};

pub(crate) type Args = Asked<Action>;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Action {
    /// Show a run
    Show {
        /// Its number
        run: u64,
    },
    /// Stop a run; what has switched is switched back
    Cancel {
        /// Its number
        run: u64,
    },
    /// Let a run rest: nothing new is sent, and nothing is committed, until it is resumed
    Pause {
        /// Its number
        run: u64,
    },
    /// Let a paused run go on
    Resume {
        /// Its number
        run: u64,
    },
    /// Wait until a run is over; the exit code then says how it ended
    #[command(after_help = EXIT_CODES)]
    Wait {
        /// Its number
        run: u64,
        /// Wait no longer than this; the run goes on
        #[arg(long, value_name = "TIME", value_parser = duration)]
        timeout: Option<Duration>,
    },
}

pub(super) async fn run(args: Args) -> Result<Exit, CommandError> {
    let session = Session::open(&args.client).await?;
    match args.action {
        Action::Show { run } => {
            let answer = session.client.get(&format!("/runs/{run}")).await?;
            session.show(&answer, |run: Run| describe(&run))
        }
        Action::Cancel { run } => {
            let answer = session.client.post(&format!("/runs/{run}/cancel"), &json!({})).await?;
            session.show(&answer, |accepted: Accepted| {
                format!("Run {} is {}, and has been asked to stop.", accepted.run, plain(&accepted.state))
            })
        }
        Action::Pause { run } => {
            let answer = session.client.post(&format!("/runs/{run}/pause"), &json!({})).await?;
            session.show(&answer, |accepted: Accepted| {
                let run = accepted.run;
                format!(
                    "Run {run} is {}, and rests from now on. `pressrun run resume {run}` lets it go on.",
                    plain(&accepted.state)
                )
            })
        }
        Action::Resume { run } => {
            let answer = session.client.post(&format!("/runs/{run}/resume"), &json!({})).await?;
            session.show(&answer, |accepted: Accepted| format!("Run {} goes on.", accepted.run))
        }
        Action::Wait { run, timeout } => session.await_run(run, timeout).await,
    }
}

/// A run for people.
pub(super) fn describe(run: &Run) -> String {
    let mut text = String::new();
    let took = run.seconds.map(|took| format!(" in {}", seconds(took))).unwrap_or_default();
    let Run { run: number, kind, site, group, state, .. } = run;
    let headline = format!("Run {number}: {kind} of {site} to {group} is {state}{took}");
    writeln!(text, "{}", plain(&headline)).expect("writing to a string");
    if let Some(message) = run.message.as_deref().filter(|message| !message.is_empty()) {
        writeln!(text, "{}", plain(message)).expect("writing to a string");
    }
    let (base, result) = (version(run.base.as_deref()), version(run.result.as_deref()));
    let size = run.assignment_bytes.map_or_else(|| "-".to_owned(), bytes);
    writeln!(text, "Version {} to {}, assignment {size}", plain(&base), plain(&result)).expect("writing to a string");
    for warning in &run.warnings {
        writeln!(text, "Warning: {}", plain(warning)).expect("writing to a string");
    }

    let mut phases = Table::new(&["PHASE", ">TOOK", ">BYTES"]);
    for phase in &run.phases {
        let took = match (phase.seconds, &phase.started, &phase.ended) {
            (Some(took), ..) => seconds(took),
            (None, Some(_), None) => "…".to_owned(),
            (None, ..) => "-".to_owned(),
        };
        phases.row([phase.name.clone(), took, phase.bytes.map_or_else(|| "-".to_owned(), bytes)]);
    }
    let mut segments = Table::new(&["SEGMENT", "LEADER", "STATE", ">SENT", ">PASSES", ">REPAIRED"]);
    for segment in &run.segments {
        let leader = or_dash(segment.leader.as_deref());
        let (passes, repaired) = (segment.passes.to_string(), segment.repaired.to_string());
        segments.row([
            segment.segment.clone(),
            leader,
            segment.state.clone(),
            bytes(segment.sent_bytes),
            passes,
            repaired,
        ]);
    }
    let mut servers = Table::new(&["SERVER", "SEGMENT", "STATE", "REASON"]);
    for server in &run.servers {
        let reason = server.reason.clone().unwrap_or_default();
        servers.row([server.server.clone(), server.segment.clone(), server.state.clone(), reason]);
    }
    for table in [phases, segments, servers].iter().filter(|table| !table.is_empty()) {
        text.push('\n');
        text.push_str(&table.render());
    }
    let mut found = Table::new(&["SERVER", "DIFFERENCE", "PATH"]);
    for server in &run.servers {
        let Some(audit) = &server.audit else { continue };
        for finding in &audit.findings {
            found.row([server.server.clone(), finding.difference.clone(), finding.path.clone()]);
        }
        let unnamed = audit.counts.values().sum::<u64>().saturating_sub(audit.findings.len() as u64);
        if unnamed > 0 {
            found.row([server.server.clone(), String::new(), format!("and {unnamed} more")]);
        }
    }
    if !found.is_empty() {
        text.push('\n');
        text.push_str(&found.render());
    }
    text
}
