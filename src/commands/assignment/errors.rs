//! Why an assignment was not made, shown or applied.

use std::io;
use std::path::PathBuf;

use backend_agent::content::OpenError;
use ccm::ingest::build::BuildError;
use ccm::ingest::scan::ScanError;
use common::assignment::AssignmentError;
use common::exclude::ExcludeError;
use common::outcome::Refusal;

use crate::exit::Exit;

/// Why an assignment was not made, shown or applied.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AssignmentCommandError {
    /// A file cannot be read.
    #[error("{} cannot be read", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A key file holds no key.
    #[error("{} holds no publish key: an epoch, a space and 64 hexadecimal digits are expected", path.display())]
    Key {
        /// Which.
        path: PathBuf,
    },
    /// A file that should say whom to believe does not.
    #[error("{} does not say which publish keys to believe: {what}", path.display())]
    Trust {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// A pattern is none.
    #[error("an exclude pattern cannot be used")]
    Exclude(#[from] ExcludeError),
    /// A directory cannot be read.
    #[error("{} cannot be taken for content", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        source: Box<ScanError>,
    },
    /// It cannot be built.
    #[error("{} cannot be made", path.display())]
    Build {
        /// The output.
        path: PathBuf,
        /// Why.
        source: Box<BuildError>,
    },
    /// It is no assignment to act upon.
    #[error("{} cannot be used", path.display())]
    Assignment {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<AssignmentError>,
    },
    /// It is one that only means something within a run.
    #[error("{} is no assignment to be applied by hand: it orders {kind}", path.display())]
    Kind {
        /// The file.
        path: PathBuf,
        /// What it orders.
        kind: &'static str,
    },
    /// The live directory cannot be worked on.
    #[error("{} cannot be worked on", path.display())]
    Open {
        /// The live directory.
        path: PathBuf,
        /// Why.
        source: Box<OpenError>,
    },
    /// It was refused.
    #[error("{} is left as it is: {}", live.display(), refusal.reason)]
    Refused {
        /// The live directory.
        live: PathBuf,
        /// Why.
        refusal: Refusal,
    },
    /// Stopped from outside.
    #[error("interrupted")]
    Interrupted,
}

impl AssignmentCommandError {
    /// The exit code.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Exclude(_) => Exit::Usage,
            Self::Assignment { source, .. } if matches!(**source, AssignmentError::Signature(_)) => Exit::NotAuthorised,
            Self::Open { source, .. } if matches!(**source, OpenError::Locked { .. }) => Exit::Conflict,
            Self::Read { .. }
            | Self::Key { .. }
            | Self::Trust { .. }
            | Self::Directory { .. }
            | Self::Build { .. }
            | Self::Assignment { .. }
            | Self::Kind { .. }
            | Self::Open { .. }
            | Self::Refused { .. }
            | Self::Interrupted => Exit::Failed,
        }
    }
}
