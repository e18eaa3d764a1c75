//! What an agent's log says about a run.

use std::path::Path;

use pressrun_netlab::moment::{Moment, without_colours};

/// What one line says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Line {
    /// It took part in a session again, and held so much from before.
    GoesOn {
        /// In bytes.
        held_bytes: u64,
    },
    /// It has staged a tree.
    Prepared,
    /// It leads.
    Leads,
}

fn read(line: &str) -> Option<(Moment, Line)> {
    let line = without_colours(line);
    let value = |name: &str| line.split_once(&format!("{name}="))?.1.split_ascii_whitespace().next();
    let said = if line.contains("an object is gone on with") {
        Line::GoesOn { held_bytes: value("held_bytes")?.parse().ok()? }
    } else if line.contains("an assignment was handled") && value("outcome") == Some("\"prepared\"") {
        Line::Prepared
    } else if line.contains("leads the segment") {
        Line::Leads
    } else {
        return None;
    };
    Some((Moment::of_line(&line)?, said))
}

/// All that a log says.
pub(crate) fn lines(path: &Path) -> Vec<(Moment, Line)> {
    let log = std::fs::read(path).unwrap_or_else(|error| panic!("{} cannot be read: {error}", path.display()));
    String::from_utf8_lossy(&log).lines().filter_map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_told_apart() {
        let said = |line: &str| read(line).map(|(_, line)| line);
        let handled = "2026-11-21T16:36:30.105455Z  INFO a: an assignment was handled assignment=4 site=s outcome=";
        assert_eq!(said(&format!("{handled}\"prepared\"")), Some(Line::Prepared));
        assert_eq!(said(&format!("{handled}\"committed\"")), None);
        let on = "2026-11-21T16:36:30.105455Z  INFO a: an object is gone on with object=ab held_bytes=77 bytes=99";
        assert_eq!(said(on), Some(Line::GoesOn { held_bytes: 77 }));
    }
}
