//! What the demonstration says at its end.

use serde_json::{Value, json};

use super::fleet::Door;
use crate::output::{Table, bytes, seconds};
use crate::view::Run;

/// A run that was checked.
pub(super) struct Step {
    /// What for.
    pub(super) what: &'static str,
    /// How it went.
    pub(super) run: Run,
    /// The same, whole.
    pub(super) document: Value,
    /// Live trees that were compared and found right.
    pub(super) checked: usize,
}

/// What happened.
pub(super) struct Report {
    segments: u8,
    servers: usize,
    door: Door,
    steps: Vec<Step>,
}

impl Report {
    pub(super) fn new(segments: u8, servers: usize, door: Door) -> Self {
        Self { segments, servers, door, steps: Vec::new() }
    }

    pub(super) fn add(&mut self, step: Step) {
        self.steps.push(step);
    }

    /// For programs. The password is for people, and not in here.
    pub(super) fn to_json(&self) -> Value {
        let step = |step: &Step| json!({ "step": step.what, "verified_servers": step.checked, "run": step.document });
        json!({
            "ok": true,
            "segments": self.segments,
            "servers": self.servers,
            "ccm": self.door.url,
            "console": self.door.console,
            "steps": self.steps.iter().map(step).collect::<Vec<_>>(),
        })
    }

    /// For people: one line for each run, with the phases it had.
    pub(super) fn to_text(&self) -> String {
        let mut phases: Vec<&str> = Vec::new();
        for phase in self.steps.iter().flat_map(|step| &step.run.phases) {
            if !phases.contains(&phase.name.as_str()) {
                phases.push(&phase.name);
            }
        }
        let mut titles = vec!["STEP".to_owned(), ">ASSIGNMENT".to_owned(), ">TOOK".to_owned()];
        titles.extend(phases.iter().map(|name| format!(">{}", name.to_uppercase())));
        let mut table = Table::new(&titles.iter().map(String::as_str).collect::<Vec<_>>());
        let or_dash = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), seconds);
        for step in &self.steps {
            let size = step.run.assignment_bytes.map_or_else(|| "-".to_owned(), bytes);
            let mut row = vec![step.what.to_owned(), size, or_dash(step.run.seconds)];
            row.extend(phases.iter().map(|name| {
                let phase = step.run.phases.iter().find(|phase| phase.name == *name);
                or_dash(phase.and_then(|phase| phase.seconds))
            }));
            table.row(row);
        }
        let (servers, segments) = (self.servers, self.segments);
        format!("\n{}\nAll {servers} servers in {segments} segments were right after every step.\n", table.render())
    }

    /// How to look at the console.
    pub(super) fn invitation(&self) -> String {
        let Door { console, user, password, .. } = &self.door;
        let login = password.as_deref().unwrap_or("(set before)");
        format!("\nConsole:  {console}\nUser:     {user}\nPassword: {login}\n\nCtrl-C ends everything.\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_has_a_line_for_each_run_and_no_password_for_programs() {
        let door = json!({ "listen": "https://a", "console": "http://b/", "user": "admin", "password": "secret-word" });
        let mut report = Report::new(2, 6, serde_json::from_value(door).unwrap());
        let document = json!({
            "run": 1, "seconds": 1.5, "assignment_bytes": 1200, "phases": [{"name": "build", "seconds": 0.25}],
        });
        let run = serde_json::from_value(document.clone()).unwrap();
        report.add(Step { what: "the first publish", run, document, checked: 6 });
        let text = report.to_text();
        let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
        assert_eq!(lines[0], "STEP               ASSIGNMENT   TOOK   BUILD");
        assert_eq!(lines[1], "the first publish      1.2 KB  1.5 s  250 ms");
        let told = report.to_json();
        assert_eq!((&told["ok"], &told["steps"][0]["verified_servers"]), (&json!(true), &json!(6)));
        assert!(!told.to_string().contains("secret-word"));
        assert!(report.invitation().contains("secret-word"));
    }
}
