//! Finding out whether multicast works on a server's segment, and why not.

use std::path::PathBuf;
use std::time::Duration;

use backend_agent::doctor::diagnose::PeerSeen;
use backend_agent::doctor::{DoctorError, Options, Report, Transport, examine};
use backend_agent::settings::{Settings, SettingsError};

use crate::exit::{CommandError, Exit};
use crate::output::{Table, plain, print};

/// Shortest and longest time that an examination may take, in seconds.
const SECONDS: std::ops::RangeInclusive<i64> = 2..=300;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Where the agent of this server keeps its identity
    #[arg(long, value_name = "DIR", default_value = "/var/lib/pressrun")]
    data: PathBuf,
    /// The agent's configuration file, if it has one
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Network interface of the segment, as the agent is told; needed when there is more than one
    #[arg(long, value_name = "IF")]
    interface: Option<String>,
    /// How long to look; a large segment needs more
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u16).range(SECONDS))]
    seconds: u16,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Why nothing could be examined.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DoctorCommandError {
    /// The configuration cannot be used.
    #[error("the agent's configuration cannot be used")]
    Config(#[source] SettingsError),
    /// The segment cannot be examined.
    #[error("the segment of this server cannot be examined")]
    Examine(#[source] Box<DoctorError>),
}

pub(super) async fn run(args: Args) -> Result<Exit, CommandError> {
    let settings = args.config.as_deref().map(Settings::read).transpose().map_err(DoctorCommandError::Config)?;
    let options = Options {
        data: args.data,
        lan: settings.unwrap_or_default().lan,
        interface: args.interface,
        time: Duration::from_secs(args.seconds.into()),
    };
    let examined = examine(&options).await;
    let report = examined.map_err(|error| DoctorCommandError::Examine(Box::new(error)))?;
    let text = if args.json { serde_json::to_string(&report).expect("plain data") } else { describe(&report) };
    print(&text)?;
    Ok(if report.findings.is_empty() { Exit::Done } else { Exit::Failed })
}

fn describe(report: &Report) -> String {
    let seen = &report.observations;
    let mut text = format!(
        "Server {} in segment {}, by interface {} ({}), transport {}.\n",
        report.server,
        report.segment,
        seen.interface.name,
        seen.interface.address,
        word(seen.transport),
    );
    if seen.peers.is_empty() {
        text += "No other server of the segment is known or answers.\n";
    } else {
        let mut table =
            Table::new(&["SERVER", "ADDRESS", "ANSWERS", ">HEARS US", ">WE HEAR", ">LOST", ">MB/S", "TRANSPORT"]);
        seen.peers.iter().for_each(|peer| table.row(row(peer, seen.probes)));
        text += &table.render();
    }
    if !text.ends_with('\n') {
        text.push('\n');
    }
    for (number, finding) in (1..).zip(&report.findings) {
        text += &format!("\n{number}. {} [{}]\n   {}\n", plain(&finding.says), finding.code, plain(&finding.next));
    }
    if report.findings.is_empty() {
        text += if seen.transport == Transport::Unicast {
            "\nNothing is wrong. Nothing is multicast, because the configuration says so.\n"
        } else {
            "\nNothing is wrong.\n"
        };
    }
    text
}

fn row(peer: &PeerSeen, probes: u32) -> Vec<String> {
    let unknown = || "-".to_owned();
    let per_mille = |sent: u32, received: u32| sent.saturating_sub(received) * 1_000 / sent.max(1);
    let percent = |per_mille: u32| format!("{}.{} %", per_mille / 10, per_mille % 10);
    vec![
        peer.name.clone(),
        peer.address.to_string(),
        if peer.answered { "yes" } else { "no" }.to_owned(),
        if peer.answered && probes > 0 { format!("{}/{probes}", peer.heard_probes) } else { unknown() },
        peer.burst.map_or_else(unknown, |burst| format!("{}/{}", burst.received, burst.sent)),
        peer.burst.map_or_else(unknown, |burst| percent(per_mille(burst.sent, burst.received))),
        peer.burst.map_or_else(unknown, |burst| format!("{:.1}", burst.bytes_per_sec as f64 / 1e6)),
        peer.transport.map_or_else(unknown, |transport| word(transport).to_owned()),
    ]
}

fn word(transport: Transport) -> &'static str {
    match transport {
        Transport::Auto => "auto",
        Transport::Multicast => "multicast",
        Transport::Unicast => "unicast",
    }
}
