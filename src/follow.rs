//! Waiting for a run, and showing how far it is.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, IsTerminal as _};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::client::{Answer, Client};
use crate::exit::CommandError;
use crate::output::{bytes, plain, seconds};
use crate::view::Run;

/// How long the content control manager is asked to keep us waiting at a time.
const WAIT: Duration = Duration::from_secs(20);

/// The same while somebody looks on.
const WAIT_WATCHED: Duration = Duration::from_secs(1);

/// How long a content control manager may be away, for instance to be upgraded, while we wait for
/// what it does: its runs survive.
pub(crate) const AWAY_MAX: Duration = Duration::from_secs(60);

/// How soon it is asked again after it was not there.
pub(crate) const RETRY: Duration = Duration::from_millis(500);

/// Waits until a run is over, at most `limit`.
///
/// # Errors
/// [`CommandError::StillRunning`], or [`CommandError::Client`] when the content control manager
/// refuses, or is away for longer than it may be.
pub(crate) async fn run(client: &Client, number: u64, limit: Option<Duration>) -> Result<(Answer, Run), CommandError> {
    let watched = io::stderr().is_terminal();
    let progress = Progress::new(watched, number);
    let started = Instant::now();
    let mut answered = Instant::now();
    loop {
        let left = limit.map(|limit| limit.saturating_sub(started.elapsed()));
        let wait = if watched { WAIT_WATCHED } else { WAIT };
        // Whole seconds are what the API takes; the last fraction is asked for without waiting.
        let wait = Duration::from_secs(left.map_or(wait, |left| left.min(wait)).as_secs());
        let path = format!("/runs/{number}?wait={}", wait.as_secs());
        match client.get_waiting(&path, wait).await {
            Ok(answer) => {
                answered = Instant::now();
                let run: Run = answer.read()?;
                if run.is_final() {
                    return Ok((answer, run));
                }
                progress.show(&run);
                if let (Some(limit), Some(left)) = (limit, left)
                    && left < Duration::from_secs(1)
                {
                    let seconds = limit.as_secs();
                    return Err(CommandError::StillRunning { run: number, state: run.state, seconds });
                }
            }
            Err(error) if error.is_passing() && answered.elapsed() < AWAY_MAX => {
                progress.say("the content control manager does not answer; asking again");
                tokio::time::sleep(RETRY).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// A few lines on the terminal; nothing when standard error is none.
struct Progress {
    bar: Option<ProgressBar>,
}

impl Progress {
    fn new(watched: bool, number: u64) -> Self {
        let bar = watched.then(|| {
            let style = ProgressStyle::with_template("{spinner:.cyan} {msg}").expect("a fixed, good template");
            let bar = ProgressBar::new_spinner().with_style(style);
            bar.set_message(format!("run {number}"));
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Self { bar }
    }

    fn say(&self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(text.to_owned());
        }
    }

    fn show(&self, run: &Run) {
        if self.bar.is_some() {
            self.say(&status(run));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Where a run stands: what it does, how long its phases took, how far its servers are.
fn status(run: &Run) -> String {
    let mut text = format!("run {}: {} of {} ({}), {}", run.run, run.kind, run.site, run.group, run.state);
    for phase in &run.phases {
        let took = phase.seconds.map_or_else(|| "…".to_owned(), seconds);
        write!(text, "\n  {} {took}", phase.name).expect("writing to a string");
        if let Some(count) = phase.bytes.filter(|count| *count > 0) {
            write!(text, ", {}", bytes(count)).expect("writing to a string");
        }
    }
    let mut states: BTreeMap<&str, usize> = BTreeMap::new();
    for server in &run.servers {
        *states.entry(&server.state).or_default() += 1;
    }
    if !states.is_empty() {
        let counts: Vec<String> = states.iter().map(|(state, count)| format!("{count} {state}")).collect();
        write!(text, "\n  servers: {}", counts.join(", ")).expect("writing to a string");
    }
    for server in run.servers.iter().filter(|server| server.reason.is_some()).take(5) {
        let reason = server.reason.as_deref().unwrap_or_default();
        write!(text, "\n  {} {}: {reason}", server.server, server.state).expect("writing to a string");
    }
    text.lines().map(plain).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_names_phases_counts_servers_and_gives_reasons() {
        let run: Run = serde_json::from_value(serde_json::json!({
            "run": 7, "kind": "publish", "site": "www", "group": "all", "state": "running",
            "phases": [{"name": "build", "seconds": 0.25, "bytes": 1200}, {"name": "wan", "bytes": 0}],
            "servers": [{"server": "a", "state": "prepared"}, {"server": "b", "state": "prepared"},
                        {"server": "c", "state": "failed", "reason": "no space\u{7}"}],
        }))
        .unwrap();
        let expected = "run 7: publish of www (all), running\n  build 250 ms, 1.2 KB\n  wan …\n  \
                        servers: 1 failed, 2 prepared\n  c failed: no space\u{fffd}";
        assert_eq!(status(&run), expected);
    }
}
