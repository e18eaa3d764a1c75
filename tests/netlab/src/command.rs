//! Running the machine's own network tools.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// Why the lab could not be built or changed.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// Not started by root.
    #[error("a lab of network namespaces can only be made by root: run ./scripts/test (or sudo) instead")]
    NotRoot,
    /// A tool cannot be started.
    #[error("{tool} cannot be run (is its Debian package installed?)")]
    Tool {
        /// The tool.
        tool: String,
        /// Why not.
        source: io::Error,
    },
    /// A tool refused.
    #[error("{command} failed: {stderr}")]
    Refused {
        /// What was asked for.
        command: String,
        /// What it said.
        stderr: String,
    },
    /// A tool's answer has not the expected form.
    #[error("the answer of {command} is not understood")]
    Answer {
        /// What was asked for.
        command: String,
    },
    /// A file of the lab cannot be used.
    #[error("{} cannot be used", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// More than the addresses allow.
    #[error("a lab has 1 to 99 segments of 1 to 200 servers, not {segments} of {servers}")]
    Size {
        /// Segments asked for.
        segments: u8,
        /// Servers per segment asked for.
        servers: u8,
    },
    /// No lab of that name is up.
    #[error("no lab is up: start one with `netlab up`")]
    NotUp,
}

/// Runs a tool to its end and gives its standard output.
pub(crate) fn run(tool: &str, args: &[&str], input: &str) -> Result<String, LabError> {
    let command = || format!("{tool} {}", args.join(" "));
    let failed = |source| LabError::Tool { tool: tool.to_owned(), source };
    let mut child = Command::new(tool)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A tool that ends before it has read its input says why on its standard error.
        stdin.write_all(input.as_bytes()).ok();
    }
    let Output { status, stdout, stderr } = child.wait_with_output().map_err(failed)?;
    if status.success() {
        Ok(String::from_utf8_lossy(&stdout).into_owned())
    } else {
        let stderr = String::from_utf8_lossy(&stderr).trim().to_owned();
        Err(LabError::Refused { command: command(), stderr })
    }
}

/// Runs `ip` with one command a line, in a namespace or outside.
pub(crate) fn ip_batch(namespace: Option<&str>, lines: &str) -> Result<(), LabError> {
    match namespace {
        Some(namespace) => run("ip", &["-n", namespace, "-batch", "-"], lines),
        None => run("ip", &["-batch", "-"], lines),
    }
    .map(drop)
}

/// Runs a tool inside a namespace.
pub(crate) fn inside(namespace: &str, tool: &str, args: &[&str], input: &str) -> Result<String, LabError> {
    run("ip", &[&["netns", "exec", namespace, tool], args].concat(), input)
}
