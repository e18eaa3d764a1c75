//! One operation of the interpreter: open the trees, carry out an assignment.

use std::io::Cursor;
use std::path::Path;

use common::outcome::Outcome;
use serde::{Deserialize, Serialize};

use crate::publisher::{CLUSTER, NOW, OWN, keys};
use crate::site::Site;

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// The trees could not be opened.
    NotOpened(String),
    /// They were opened, which was all.
    Opened,
    /// What the interpreter answered.
    Answered(Outcome),
}

/// Opens the trees below a root, and carries out an assignment if there is one.
#[must_use]
pub fn step(root: &Path, assignment: Option<&[u8]>) -> Report {
    match (Site::at(root).open(), assignment) {
        (Err(error), _) => Report::NotOpened(error.refusal().reason),
        (Ok(_), None) => Report::Opened,
        (Ok(mut trees), Some(bytes)) => Report::Answered(trees.handle(Cursor::new(bytes), CLUSTER, OWN, &keys(), NOW)),
    }
}
