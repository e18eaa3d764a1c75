//! Why the store could not do what was asked.

use std::io;
use std::path::PathBuf;

use common::ids::RunNumber;

/// The kinds of things that the store keeps by name, for error messages and problem codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Thing {
    /// A hosted site.
    Site,
    /// A content group.
    Group,
    /// A server.
    Server,
    /// A network segment.
    Segment,
    /// A run.
    Run,
    /// A checkpoint.
    Checkpoint,
    /// A schedule.
    Schedule,
    /// A join token.
    JoinToken,
    /// A user of the console.
    User,
    /// A data channel.
    Channel,
}

impl Thing {
    /// How it is called in a sentence and, with this spelling, in problem codes.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Site => "site",
            Self::Group => "group",
            Self::Server => "server",
            Self::Segment => "segment",
            Self::Run => "run",
            Self::Checkpoint => "checkpoint",
            Self::Schedule => "schedule",
            Self::JoinToken => "token",
            Self::User => "user",
            Self::Channel => "channel",
        }
    }
}

impl std::fmt::Display for Thing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why the store could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database file could not be created with the permissions that its secrets need.
    #[error("cannot create the database {path}")]
    Create {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The database could not be opened.
    #[error("cannot open the database {path}")]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// The tables could not be brought to this version's form.
    #[error("cannot bring the database to the form of this version of pressrun")]
    Migrate(#[source] Box<refinery::Error>),
    /// A statement failed, or a row is not what this program wrote.
    #[error("the database failed while {doing}")]
    Sql {
        /// What was being done.
        doing: &'static str,
        /// Why.
        source: rusqlite::Error,
    },
    /// A value has no stored form.
    #[error("{what} cannot be written into the database")]
    Encode {
        /// The value.
        what: &'static str,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The name is taken.
    #[error("there already is a {thing} called {name}")]
    Exists {
        /// What kind.
        thing: Thing,
        /// The name.
        name: String,
    },
    /// There is none of that name.
    #[error("there is no {thing} called {name}")]
    Unknown {
        /// What kind.
        thing: Thing,
        /// The name or number.
        name: String,
    },
    /// It takes part in a run that is not over.
    #[error("the {thing} {name} takes part in run {run}, which is not over")]
    Busy {
        /// What kind.
        thing: Thing,
        /// The name.
        name: String,
        /// The oldest such run.
        run: RunNumber,
    },
    /// A run that is over was to be made unfinished again.
    #[error("run {run} is over and cannot be taken up again")]
    RunIsFinal {
        /// The run.
        run: RunNumber,
    },
    /// A join token admits nobody any more.
    #[error("the join token {id} {}", if *.expired { "has expired" } else { "is used up" })]
    TokenSpent {
        /// The token's id.
        id: String,
        /// Whether its time is over; else its uses are.
        expired: bool,
    },
}
