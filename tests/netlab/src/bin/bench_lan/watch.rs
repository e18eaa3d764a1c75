//! Processes that are watched: what they say, when they end, how much processor time they took.

use std::fs;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use pressrun_netlab::wait::{self, End};
use rustix::process::Pid;
use serde_json::Value;

/// Clock ticks of the kernel's accounts in a second, on every Linux there is.
const TICKS_PER_SEC: f64 = 100.0;

/// A process that runs; killed when dropped.
#[derive(Debug)]
pub(crate) struct Watched {
    child: Child,
    end: End,
    input: Option<ChildStdin>,
    lines: Receiver<Value>,
    remarks: Receiver<String>,
    /// When it ended, and whether well.
    pub(crate) ended: Option<(Instant, bool)>,
    /// Processor time it took before it ended, in seconds.
    cpu_at_end: f64,
}

impl Watched {
    /// Starts it. Each line of its standard output that is JSON can be heard, and each of its standard
    /// error.
    pub(crate) fn start(command: &mut Command) -> std::io::Result<Self> {
        Self::start_on(command, Stdio::piped())
    }

    /// As [`Watched::start`], with another standard input than what it is told.
    pub(crate) fn start_on(command: &mut Command, input: Stdio) -> std::io::Result<Self> {
        let mut child = command.stdin(input).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let end = End::of(Pid::from_child(&child))?;
        let input = child.stdin.take();
        let lines = hear_lines(child.stdout.take(), |line| serde_json::from_str(&line).ok());
        let remarks = hear_lines(child.stderr.take(), Some);
        Ok(Self { child, end, input, lines, remarks, ended: None, cpu_at_end: 0.0 })
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

    /// Waits until it remarks something with these words in it.
    pub(crate) fn remarks(&self, words: &str, deadline: Instant) -> bool {
        loop {
            match self.remarks.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) if line.contains(words) => return true,
                Ok(_) => (),
                Err(_) => return false,
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

/// Waits until all have ended; false when the deadline comes before.
pub(crate) fn all_ended<'a>(processes: impl IntoIterator<Item = &'a mut Watched>, deadline: Instant) -> bool {
    let mut running: Vec<&mut Watched> = processes.into_iter().collect();
    loop {
        running.retain_mut(|process| !process.look());
        if running.is_empty() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        wait::any_end(running.iter().map(|process| &process.end), deadline);
    }
}

/// The lines of an output, as far as they are of use, from a thread of their own.
fn hear_lines<T: Send + 'static>(
    output: Option<impl Read + Send + 'static>,
    read: impl Fn(String) -> Option<T> + Send + 'static,
) -> Receiver<T> {
    let (heard, lines) = mpsc::channel();
    if let Some(output) = output {
        std::thread::spawn(move || {
            // Read to its end though nobody listens any more: a full pipe would hold the process up.
            for line in BufReader::new(output).lines().map_while(Result::ok).filter_map(read) {
                heard.send(line).ok();
            }
        });
    }
    lines
}
