//! What people read: tables, sizes, durations.

use std::io::{self, Write as _};

use crate::exit::CommandError;

/// Prints to standard output and sees to it that it arrives.
pub(crate) fn print(text: &str) -> Result<(), CommandError> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| if text.ends_with('\n') { Ok(()) } else { out.write_all(b"\n") })
        .and_then(|()| out.flush())
        .map_err(CommandError::Output)
}

/// The text without characters that steer a terminal: much of what is printed was said by other
/// machines.
pub(crate) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// A table with a headline; columns are as wide as their widest cell.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
    right: Vec<bool>,
}

impl Table {
    /// A table with these columns. A title that begins with `>` makes its column flush right.
    pub(crate) fn new(titles: &[&str]) -> Self {
        let right = titles.iter().map(|title| title.starts_with('>')).collect();
        let titles = titles.iter().map(|title| title.trim_start_matches('>').to_owned()).collect();
        Self { rows: vec![titles], right }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| plain(&cell)).collect());
    }

    /// Whether there is nothing but the headline.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.len() == 1
    }

    /// The table as text, without spaces at the ends of lines.
    pub(crate) fn render(&self) -> String {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.right.len()).map(width).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for ((cell, width), right) in row.iter().zip(&widths).zip(&self.right) {
                let padding = " ".repeat(width - cell.chars().count());
                let (before, after) = if *right { (padding.as_str(), "") } else { ("", padding.as_str()) };
                line.push_str(before);
                line.push_str(cell);
                line.push_str(after);
                line.push_str("  ");
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Bytes with a unit, three digits or so.
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KB", "MB", "GB", "TB", "PB"];
    if count < 1000 {
        return format!("{count} B");
    }
    let mut value = count as f64;
    let mut unit = "B";
    for next in UNITS {
        if value < 999.5 {
            break;
        }
        value /= 1000.0;
        unit = next;
    }
    if value < 9.95 { format!("{value:.1} {unit}") } else { format!("{value:.0} {unit}") }
}

/// Seconds in a unit that suits them.
pub(crate) fn seconds(value: f64) -> String {
    if value < 0.9995 {
        format!("{:.0} ms", value * 1000.0)
    } else if value < 99.95 {
        format!("{value:.1} s")
    } else {
        format!("{value:.0} s")
    }
}

/// A time of the API, to the second and without the marks between its parts.
pub(crate) fn time(text: &str) -> String {
    let parsed: Result<jiff::Timestamp, _> = text.parse();
    parsed.map_or_else(|_| text.to_owned(), |time| time.strftime("%Y-%m-%d %H:%M:%S").to_string())
}

/// A value, or a dash.
pub(crate) fn or_dash(text: Option<&str>) -> String {
    text.filter(|text| !text.is_empty()).unwrap_or("-").to_owned()
}

/// The first digits of a version, for people.
pub(crate) fn version(text: Option<&str>) -> String {
    or_dash(text.map(|text| text.get(..8).unwrap_or(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_lines_end_without_spaces() {
        let mut table = Table::new(&["name", ">bytes"]);
        table.row(["a".to_owned(), "1".to_owned()]);
        table.row(["longer".to_owned(), "1000000".to_owned()]);
        assert_eq!(table.render(), "name      bytes\na             1\nlonger  1000000\n");
    }

    #[test]
    fn what_other_machines_say_cannot_steer_the_terminal() {
        let mut table = Table::new(&["location"]);
        table.row(["\u{1b}]0;owned\u{7}".to_owned()]);
        assert!(!table.render().contains(['\u{1b}', '\u{7}']));
    }

    #[test]
    fn sizes_and_durations_have_about_three_digits() {
        let sizes = [0, 999, 1000, 9_949, 9_950, 999_499, 999_500, 1_048_576];
        let sizes: Vec<String> = sizes.into_iter().map(bytes).collect();
        assert_eq!(sizes, ["0 B", "999 B", "1.0 KB", "9.9 KB", "10 KB", "999 KB", "1.0 MB", "1.0 MB"]);
        let durations: Vec<String> = [0.0, 0.0421, 0.9994, 0.9996, 12.34, 100.0].into_iter().map(seconds).collect();
        assert_eq!(durations, ["0 ms", "42 ms", "999 ms", "1.0 s", "12.3 s", "100 s"]);
    }

    #[test]
    fn times_are_shown_to_the_second() {
        assert_eq!(time("2026-03-01T10:20:30.123Z"), "2026-03-01 10:20:30");
        assert_eq!(time("not a time"), "not a time");
    }
}
