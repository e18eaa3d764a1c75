//! What a rig says when it cannot go on, and when what it watches is not as promised.

use std::io;

/// Why a rig stopped.
#[derive(Debug, thiserror::Error)]
pub enum RigError {
    /// The rig itself could not do its work.
    #[error("the rig failed {doing}")]
    Io {
        /// What it was doing.
        doing: String,
        /// What the system says.
        source: io::Error,
    },
    /// The rig was told something that it did not expect.
    #[error("the rig failed {doing}: {said}")]
    Setup {
        /// What it was doing.
        doing: String,
        /// What came instead.
        said: String,
    },
    /// A promise was broken: what the rig is there to find.
    #[error("{0}")]
    Violation(String),
}

impl RigError {
    /// Wraps what the system says about the rig's own work.
    pub fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Io { doing, source }
    }

    /// Something unexpected while the rig prepared.
    #[allow(clippy::needless_pass_by_value, reason = "texts, errors and references to them alike")]
    pub fn setup(doing: impl Into<String>, said: impl ToString) -> Self {
        Self::Setup { doing: doing.into(), said: said.to_string() }
    }

    /// The error with all its causes, in one line.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}

/// What rigs return.
pub type Result<T> = std::result::Result<T, RigError>;

/// A violation, unless the condition holds.
///
/// # Errors
/// [`RigError::Violation`] with the text.
pub fn ensure(holds: bool, what: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(RigError::Violation(what())) }
}
