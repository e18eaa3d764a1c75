//! One operation of the interpreter: open the trees, carry out an assignment.

use std::io::Cursor;
use std::path::PathBuf;

use backend_agent::content::{Fault, Point};
use common::outcome::Outcome;
use serde::{Deserialize, Serialize};

use crate::power::plan::write_durably;
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

/// Somebody who writes a file as soon as live was switched.
struct Late(PathBuf);

impl Fault for Late {
    fn at(&mut self, point: Point) -> std::io::Result<()> {
        if point == Point::FollowSwitch {
            write_durably(&self.0)?;
        }
        Ok(())
    }
}

/// Opens the trees of a site, and carries out an assignment if there is one. `late` is written by somebody
/// right after the switch.
#[must_use]
pub fn step(site: &Site, assignment: Option<&[u8]>, late: Option<PathBuf>) -> Report {
    let opened = site.open().map(|trees| match late {
        Some(late) => trees.with_fault(Box::new(Late(late))),
        None => trees,
    });
    match (opened, assignment) {
        (Err(error), _) => Report::NotOpened(error.refusal().reason),
        (Ok(_), None) => Report::Opened,
        (Ok(mut trees), Some(bytes)) => Report::Answered(trees.handle(Cursor::new(bytes), CLUSTER, OWN, &keys(), NOW)),
    }
}
