//! Pressrun: publishes a content tree to a fleet of web servers; all of them switch, or none does.
//!
//! In reading order: [`commands`] (what can be asked for, one file each), [`client`] (how the
//! content control manager is found and asked), [`view`] (its answers), [`follow`] (waiting for a
//! run), [`output`] (tables), [`exit`] (how a command ends), [`demo`] (a whole fleet on this
//! machine).
//!
//! Absences: no rule of publishing lives here. Apart from `ccm`, `agent` and `assignment`, which
//! hand their flags to their crates, every command is a client of the API and can do nothing that the API cannot.

mod client;
mod commands;
mod demo;
mod exit;
mod follow;
mod output;
mod stop;
mod view;

use std::process::ExitCode;

use clap::Parser as _;

use commands::Cli;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let json = cli.command.is_json();
    let result = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(commands::run(cli.command)),
        Err(source) => Err(exit::CommandError::Runtime { source }),
    };
    match result {
        Ok(exit) => exit.into(),
        // Whoever reads our output has read enough.
        Err(error) if error.is_closed_pipe() => exit::Exit::Done.into(),
        Err(error) => {
            exit::report(&error, json);
            error.exit().into()
        }
    }
}
