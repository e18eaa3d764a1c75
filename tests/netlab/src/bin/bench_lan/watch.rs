//! Processes that are watched: what they say, when they end, how much processor time they took.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Clock ticks of the kernel's accounts in a second, on every Linux there is.
const TICKS_PER_SEC: f64 = 100.0;
/// How often processes are looked at.
const POLL: Duration = Duration::from_millis(1);

/// A process that runs; killed when dropped.
#[derive(Debug)]
pub(crate) struct Watched {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<Value>,
    /// When it ended, and whether well.
    pub(crate) ended: Option<(Instant, bool)>,
    /// Processor time it took before it ended, in seconds.
    cpu_at_end: f64,
}

impl Watched {
    /// Starts it. Each line of its standard output that is JSON can be heard.
    pub(crate) fn start(command: &mut Command) -> std::io::Result<Self> {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let input = child.stdin.take();
        let (heard, lines) = mpsc::channel();
        if let Some(output) = child.stdout.take() {
            std::thread::spawn(move || {
                let lines = BufReader::new(output).lines().map_while(Result::ok);
                for value in lines.filter_map(|line| serde_json::from_str(&line).ok()) {
                    if heard.send(value).is_err() {
                        return;
                    }
                }
            });
        }
        Ok(Self { child, input, lines, ended: None, cpu_at_end: 0.0 })
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Gives it a line.
    pub(crate) fn tell(&mut self, line: &str) {
        if let Some(input) = &mut self.input {
            // One that has ended is found out soon.
            writeln!(input, "{line}").ok();
        }
    }

    /// The next thing that it says, within a time.
    pub(crate) fn hear(&self, within: Duration) -> Option<Value> {
        self.lines.recv_timeout(within).ok()
    }

    /// Hears until it says this event.
    pub(crate) fn hear_until(&self, event: &str, deadline: Instant) -> Option<Vec<Value>> {
        let mut heard = Vec::new();
        loop {
            let said = self.hear(deadline.saturating_duration_since(Instant::now()))?;
            let is_it = said["event"] == event;
            heard.push(said);
            if is_it {
                return Some(heard);
            }
        }
    }

    /// Looks whether it has ended.
    pub(crate) fn look(&mut self) -> bool {
        if self.ended.is_none() {
            // An ended process keeps its account until it is waited for.
            self.cpu_at_end = self.account().unwrap_or(self.cpu_at_end);
            if let Ok(Some(status)) = self.child.try_wait() {
                self.ended = Some((Instant::now(), status.success()));
            }
        }
        self.ended.is_some()
    }

    /// Processor time so far, in seconds.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        if self.ended.is_some() { self.cpu_at_end } else { self.account().unwrap_or(self.cpu_at_end) }
    }

    fn account(&self) -> Option<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).ok()?;
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        // Counted from the state, which is the third: utime is the 14th and stime the 15th.
        let ticks = |at: usize| fields.get(at)?.parse::<f64>().ok();
        Some((ticks(11)? + ticks(12)?) / TICKS_PER_SEC)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        // Already gone is well.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Waits until a condition holds or the deadline has come.
pub(crate) fn until(deadline: Instant, mut condition: impl FnMut() -> bool) -> bool {
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(POLL);
    }
}
