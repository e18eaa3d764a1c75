//! A run as the CCM tells it.

use std::fmt;

use serde_json::Value;

/// One phase of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Phase {
    /// `ingest`, `build`, `wan`, `multicast`, `prepare`, `commit` or `finish`.
    pub name: String,
    /// When it began.
    pub started: Option<String>,
    /// When it ended.
    pub ended: Option<String>,
    /// How long it took.
    pub seconds: Option<f64>,
}

/// What became of a run on one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerReport {
    /// How far it came.
    pub state: String,
    /// Why no further.
    pub reason: String,
}

/// A run, with how the command that asked for it ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// The command's exit code.
    pub code: i32,
    /// All that the command said.
    pub said: String,
    /// The run; `Null` when the command was refused before there was one.
    pub json: Value,
}

impl Run {
    /// Gives itself back when the command ended with a code and the run in a state.
    ///
    /// # Panics
    /// When they did not, with all that is known.
    #[track_caller]
    pub fn ends(self, code: i32, state: &str) -> Self {
        assert!(self.code == code && self.state() == state, "expected {code}, {state}: {self}");
        self
    }

    /// Checks that all servers have it.
    ///
    /// # Panics
    /// When they have not, with all that is known.
    #[track_caller]
    pub fn done(self) -> Self {
        self.ends(0, "done")
    }

    /// Its number.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.json["run"].as_u64().unwrap_or_else(|| panic!("no number: {self}"))
    }

    /// Its state; empty when there is no run.
    #[must_use]
    pub fn state(&self) -> &str {
        self.json["state"].as_str().unwrap_or_default()
    }

    /// Whether it has ended.
    #[must_use]
    pub fn is_final(&self) -> bool {
        !matches!(self.state(), "" | "queued" | "running" | "paused")
    }

    /// The size of its assignment.
    ///
    /// # Panics
    /// When the CCM does not tell.
    #[must_use]
    pub fn assignment_bytes(&self) -> u64 {
        self.json["assignment_bytes"].as_u64().unwrap_or_else(|| panic!("no assignment_bytes: {self}"))
    }

    /// A member that is a word, such as `base`, `result`, `started`, `ended`.
    #[must_use]
    pub fn word(&self, member: &str) -> Option<&str> {
        self.json[member].as_str()
    }

    /// Its phases in order.
    #[must_use]
    pub fn phases(&self) -> Vec<Phase> {
        let phases = self.json["phases"].as_array().into_iter().flatten();
        let word = |value: &Value| value.as_str().map(str::to_owned);
        phases
            .map(|phase| Phase {
                name: word(&phase["name"]).unwrap_or_default(),
                started: word(&phase["started"]),
                ended: word(&phase["ended"]),
                seconds: phase["seconds"].as_f64(),
            })
            .collect()
    }

    /// What became of it on a server.
    #[must_use]
    pub fn server(&self, name: &str) -> Option<ServerReport> {
        let servers = self.json["servers"].as_array()?;
        let server = servers.iter().find(|server| server["server"] == name)?;
        let word = |member: &str| server[member].as_str().unwrap_or_default().to_owned();
        Some(ServerReport { state: word("state"), reason: word("reason") })
    }

    /// Everything that a person would find about it, to look for words in.
    #[must_use]
    pub fn explanation(&self) -> String {
        format!("{}\n{:#}", self.said, self.json)
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the command ended with {}; {}", self.code, self.explanation())
    }
}
