//! How a command ends: exit codes, errors, and the one place where errors are printed.

use common::errors::chain;
use std::io::{self, Write as _};
use std::process::ExitCode;

use serde_json::{Value, json};

use crate::client::{ClientError, PlaceError};
use crate::commands::agent::AgentCommandError;
use crate::commands::assignment::AssignmentCommandError;
use crate::commands::ccm::CcmCommandError;
use crate::commands::doctor::DoctorCommandError;
use crate::demo::DemoError;
use crate::output::plain;

/// What follows `--help`: the exit codes in one place for people and programs.
pub(crate) const EXIT_CODES: &str = "Exit codes:
  0  done
  1  failed, or refused for a reason that is printed
  2  the command line is wrong
  3  done, and some servers failed: they keep their old content and are brought up to date later
  4  rolled back: servers had begun to switch and were switched back
  5  not authorised
  6  in conflict with something that exists or runs
  7  out of time";

/// An exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Everything that was asked for was done.
    Done = 0,
    /// It was not done; nothing is half done.
    Failed = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// The quorum follows, some servers do not.
    SomeServersFailed = 3,
    /// What had switched was switched back.
    RolledBack = 4,
    /// The token is missing, unknown, or grants too little.
    NotAuthorised = 5,
    /// Something that exists or runs stands in the way.
    Conflict = 6,
    /// It took too long.
    Timeout = 7,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl Exit {
    /// The code for a run that is over.
    pub(crate) fn of_run_state(state: &str) -> Self {
        match state {
            "done" => Self::Done,
            "partial" => Self::SomeServersFailed,
            "rolled-back" => Self::RolledBack,
            "timeout" => Self::Timeout,
            // Failed, cancelled, and what a later content control manager may say.
            _ => Self::Failed,
        }
    }

    /// The code for a refusal by the API.
    pub(crate) fn of_http_status(status: u16) -> Self {
        match status {
            401 | 403 => Self::NotAuthorised,
            409 => Self::Conflict,
            408 | 504 => Self::Timeout,
            _ => Self::Failed,
        }
    }

    /// The word that programs get when nobody gave a better one.
    fn code(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Usage => "usage",
            Self::SomeServersFailed => "some-servers-failed",
            Self::RolledBack => "rolled-back",
            Self::NotAuthorised => "not-authorised",
            Self::Conflict => "conflict",
            Self::Timeout => "timeout",
        }
    }
}

/// Why a command did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    /// No threads, no timers: the machine is out of something.
    #[error("the program cannot start")]
    Runtime {
        /// What is missing.
        source: io::Error,
    },
    /// It is not known where the content control manager is, or how to prove who asks.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// The content control manager did not answer, or refused.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Nobody takes our output.
    #[error("standard output cannot be written")]
    Output(#[source] io::Error),
    /// A path on the command line cannot be made absolute.
    #[error("{path:?} cannot be made an absolute path")]
    Path {
        /// As given.
        path: std::path::PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A time that cannot be read.
    #[error("{text:?} is no time such as 2030-01-31T18:00 in a time zone such as Europe/Vienna")]
    Time {
        /// As given.
        text: String,
        /// What is wrong with it.
        source: jiff::Error,
    },
    /// Nobody said that it shall be done.
    #[error("{effect} Nothing was done: confirm it with --yes")]
    Unconfirmed {
        /// What would have happened.
        effect: String,
    },
    /// A run did not end while somebody waited for it.
    #[error("run {run} is still {state} after {seconds} s; it goes on: `pressrun run wait {run}`")]
    StillRunning {
        /// Which.
        run: u64,
        /// Where it stands.
        state: String,
        /// How long it was waited for.
        seconds: u64,
    },
    /// The content control manager cannot run.
    #[error(transparent)]
    Ccm(#[from] CcmCommandError),
    /// The agent cannot run.
    #[error(transparent)]
    Agent(#[from] AgentCommandError),
    /// The segment was not examined.
    #[error(transparent)]
    Doctor(#[from] DoctorCommandError),
    /// An assignment was not made, shown or applied.
    #[error(transparent)]
    Assignment(#[from] AssignmentCommandError),
    /// The demonstration did not go as it should.
    #[error(transparent)]
    Demo(#[from] Box<DemoError>),
}

impl CommandError {
    /// The exit code.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Place(error) => error.exit(),
            Self::Client(error) => error.exit(),
            Self::StillRunning { .. } => Exit::Timeout,
            Self::Path { .. } | Self::Time { .. } | Self::Unconfirmed { .. } => Exit::Usage,
            Self::Ccm(error) => error.exit(),
            Self::Agent(error) => error.exit(),
            Self::Assignment(error) => error.exit(),
            Self::Runtime { .. } | Self::Output(_) | Self::Doctor(_) | Self::Demo(_) => Exit::Failed,
        }
    }

    /// Whether our output went into a pipe that was closed.
    pub(crate) fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }

    /// The error as a problem document, as the API gives them.
    fn to_json(&self) -> Value {
        if let Self::Client(ClientError::Refused { problem, .. }) = self {
            return problem.document.clone();
        }
        let mut document = json!({
            "type": "about:blank",
            "title": self.exit().code(),
            "detail": chain(self),
            "code": self.exit().code(),
        });
        if let (Self::StillRunning { run, .. }, Value::Object(members)) = (self, &mut document) {
            members.insert("run".to_owned(), (*run).into());
        }
        document
    }
}

/// Prints why a command did not do what it was asked for, on standard error.
pub(crate) fn report(error: &CommandError, json: bool) {
    let text = if json { error.to_json().to_string() } else { format!("error: {}", plain_lines(&chain(error))) };
    // There is nowhere left to complain.
    writeln!(io::stderr(), "{text}").ok();
}

/// Keeps line breaks, and nothing else that steers a terminal.
fn plain_lines(text: &str) -> String {
    text.lines().map(plain).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_final_state_of_a_run_has_its_exit_code() {
        let codes = [("done", 0), ("failed", 1), ("partial", 3), ("rolled-back", 4), ("cancelled", 1), ("timeout", 7)];
        for (state, code) in codes {
            assert_eq!(Exit::of_run_state(state) as u8, code, "{state}");
        }
        assert_eq!(Exit::of_run_state("a state of a later release"), Exit::Failed);
    }

    #[test]
    fn every_refusal_has_its_exit_code() {
        for (status, code) in [(400, 1), (401, 5), (403, 5), (404, 1), (409, 6), (422, 1), (429, 1), (500, 1), (504, 7)]
        {
            assert_eq!(Exit::of_http_status(status) as u8, code, "{status}");
        }
    }

    #[test]
    fn a_cause_is_said_once_even_when_its_effect_repeats_it() {
        let inner = io::Error::other("the disk is gone");
        let error = CommandError::Output(inner);
        assert_eq!(chain(&error), "standard output cannot be written: the disk is gone");
    }
}
