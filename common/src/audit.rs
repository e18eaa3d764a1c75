//! What a look at a live tree found: how it differs from the signed version that it should be.
//!
//! A report counts every difference and names the first ones. How many it names is bounded here, once:
//! reports travel in control datagrams ([`crate::outcome`]), and those of a whole segment in one
//! message to the CCM.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::digest::Version;

/// Most paths of one difference that a report names. Enough to see a pattern; who needs all of them
/// repairs, or looks at the server.
pub const PATHS_MAX: usize = 20;
/// Most bytes of all paths that a report names. 4 KiB: a report travels in five datagrams at most, and
/// those of a segment with 1,000 servers fit into one message to the CCM.
pub const PATH_BYTES_MAX: usize = 4096;

/// How something in a live tree is not what was signed. Grows at the end only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Difference {
    /// A file's bytes, or where a symbolic link leads.
    Changed,
    /// It is not there.
    Missing,
    /// Nobody published it, and it is not excluded.
    Extra,
    /// Something else stands there: a directory for a file, a link for a directory…
    Kind,
    /// Permission bits.
    Mode,
    /// It cannot be read, so nobody knows.
    Unreadable,
}

impl Difference {
    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Changed => "changed",
            Self::Missing => "missing",
            Self::Extra => "extra",
            Self::Kind => "of another kind",
            Self::Mode => "with another mode",
            Self::Unreadable => "unreadable",
        }
    }
}

/// One difference at one path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What.
    pub difference: Difference,
    /// Where, below the live directory; for people. What is no text in it is replaced.
    pub path: String,
}

/// What a server found in its live tree.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditReport {
    /// The signed version that live was compared with; `None` when nothing was ever published there.
    pub version: Option<Version>,
    /// Whether every file was read, instead of only those that look as if they had been touched.
    pub full: bool,
    /// Entries that were looked at.
    pub entries: u64,
    /// How many paths differ how; what is not there is none.
    pub counts: BTreeMap<Difference, u64>,
    /// The first of each, in the order in which they were found.
    pub findings: Vec<Finding>,
}

impl AuditReport {
    /// Whether live is what was signed.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.counts.values().all(|count| *count == 0)
    }

    /// Notes a difference; names it if there is room.
    pub fn note(&mut self, difference: Difference, path: String) {
        let count = self.counts.entry(difference).or_default();
        *count += 1;
        if *count > PATHS_MAX as u64 {
            return;
        }
        let named: usize = self.findings.iter().map(|finding| finding.path.len()).sum();
        if named + path.len() <= PATH_BYTES_MAX {
            self.findings.push(Finding { difference, path });
        }
    }

    /// The same without whatever is over the bounds: a report of somebody else.
    #[must_use]
    pub fn bounded(self) -> Self {
        let mut bounded = Self { counts: BTreeMap::new(), findings: Vec::new(), ..self };
        for Finding { difference, path } in self.findings.into_iter().take(PATHS_MAX * 8) {
            bounded.note(difference, path);
        }
        bounded.counts = self.counts;
        bounded
    }
}

/// The counts in words: `1 changed, 2 missing`.
impl fmt::Display for AuditReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut any = false;
        for (difference, count) in self.counts.iter().filter(|(_, count)| **count > 0) {
            let comma = if any { ", " } else { "" };
            write!(f, "{comma}{count} {}", difference.as_str())?;
            any = true;
        }
        if any { Ok(()) } else { f.write_str("clean") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_counts_everything_and_names_the_first_of_each() {
        let mut report = AuditReport::default();
        assert!(report.is_clean());
        for at in 0..1000 {
            report.note(Difference::Extra, format!("cache/{at}"));
        }
        report.note(Difference::Missing, "index.html".to_owned());
        assert_eq!(report.to_string(), "1 missing, 1000 extra");
        assert_eq!(report.findings.len(), PATHS_MAX + 1, "many of one do not crowd the others out");
        assert_eq!(report.findings.last().map(|last| last.path.as_str()), Some("index.html"));
        assert!(!report.is_clean());
    }

    #[test]
    fn the_paths_of_a_report_are_bounded_whoever_made_it() {
        let long = "x".repeat(3000);
        let findings = vec![Finding { difference: Difference::Changed, path: long }; 500];
        let counts = [(Difference::Changed, 500)].into();
        let bounded = AuditReport { counts, findings, ..AuditReport::default() }.bounded();
        let bytes: usize = bounded.findings.iter().map(|finding| finding.path.len()).sum();
        assert!(bytes <= PATH_BYTES_MAX && bounded.findings.len() <= PATHS_MAX);
        assert_eq!(bounded.counts[&Difference::Changed], 500, "what was counted stays");
    }
}
