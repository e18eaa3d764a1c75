//! The test network for people: up, look, run something on a host, down.

use std::error::Error;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use clap::{Parser, Subcommand};
use pressrun_netlab::{Host, Lab, LabError, Rate, Spec, lab};

/// A network of namespaces on this machine: a host `ccm`, segments s1, s2, … of servers s1w1, s1w2, …
#[derive(Debug, Parser)]
#[command(name = "netlab")]
struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make the network, in place of a former one.
    Up {
        /// Number of segments.
        #[arg(long, default_value_t = 2)]
        segments: u8,
        /// Number of servers in each.
        #[arg(long, default_value_t = 3)]
        servers: u8,
        /// Rate of each segment's WAN link, e.g. 100mbit.
        #[arg(long)]
        wan_rate: Option<Rate>,
        /// Rate of each server's link, e.g. 1gbit.
        #[arg(long)]
        lan_rate: Option<Rate>,
        /// Share of multicast that each server loses, e.g. 1%.
        #[arg(long, value_parser = share)]
        loss: Option<f64>,
    },
    /// Kill what runs on the network and remove it.
    Down,
    /// List the hosts and what their links have carried.
    Status,
    /// Run a command on a host: netlab exec s1w1 ip address
    Exec {
        /// ccm, wan, s1 (a router) or s1w2 (a server).
        host: Host,
        /// The command and its arguments.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<String>,
    },
}

fn share(text: &str) -> Result<f64, String> {
    let wrong = || format!("{text:?} is no share: write 1% or 0.01");
    let (number, unit) = text.strip_suffix('%').map_or((text, 1.0), |percent| (percent, 100.0));
    let share = number.parse::<f64>().map_err(|_| wrong())? / unit;
    if (0.0..=1.0).contains(&share) { Ok(share) } else { Err(wrong()) }
}

fn main() -> ExitCode {
    match act(Arguments::parse().action) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("netlab: {error}");
            let mut source = error.source();
            while let Some(cause) = source {
                eprintln!("  because: {cause}");
                source = cause.source();
            }
            ExitCode::FAILURE
        }
    }
}

fn act(action: Action) -> Result<(), LabError> {
    match action {
        Action::Up { segments, servers, wan_rate, lan_rate, loss } => {
            Lab::up_standing(Spec { wan_rate, lan_rate, lan_loss: loss, ..Spec::of(segments, servers) })?;
            status()
        }
        Action::Down => Lab::take_down_standing(),
        Action::Status => status(),
        Action::Exec { host, command } => {
            let (_, namespace) =
                Lab::standing_hosts()?.into_iter().find(|(known, _)| *known == host).ok_or(LabError::NotUp)?;
            let source = Command::new("ip").args(["netns", "exec", &namespace]).args(command).exec();
            Err(LabError::Tool { tool: "ip".to_owned(), source })
        }
    }
}

fn status() -> Result<(), LabError> {
    println!("{:<8} {:<14} {:<12} {:>14} {:>14}", "host", "address", "link", "received", "sent");
    for (host, namespace) in Lab::standing_hosts()? {
        let link = match host {
            Host::Ccm | Host::Server(..) => "eth0",
            Host::Wan => "ccm",
            Host::Router(_) => "wan0",
        };
        let carried = lab::counters(&namespace, link)?;
        let address = host.address().to_string();
        println!("{:<8} {address:<14} {link:<12} {:>14} {:>14}", host.to_string(), carried.rx_bytes, carried.tx_bytes);
    }
    Ok(())
}
