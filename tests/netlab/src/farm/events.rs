//! What the CCM tells of itself, as a signal to look again.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Instant;

use super::{Farm, START_PATIENCE};
use crate::address::Host;
use crate::process::Process;
use crate::wait::Signal;

/// Follows `pressrun events`; every line is a reason to look again. Outlives a restart of the CCM,
/// as the command does.
#[derive(Debug)]
pub(super) struct Events {
    lines: Receiver<String>,
    /// Killed with this; its end ends the thread that reads it.
    _process: Process,
}

impl Farm {
    /// Everything that happens from now on.
    ///
    /// # Panics
    /// When the CCM does not tell.
    pub(super) fn events(&self) -> Events {
        let mut command = self.lab.command(Host::Ccm, &self.binary);
        command.args(["events", "--json", "--data"]).arg(self.ccm_data());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = Process::start(&mut command).unwrap_or_else(|error| panic!("no client: {error}"));
        let output = BufReader::new(process.stdout().expect("a pipe"));
        let (tell, lines) = mpsc::channel();
        thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| tell.send(line)));
        let first = lines.recv_timeout(START_PATIENCE);
        assert!(first.as_ref().is_ok_and(|line| line.contains("following")), "no events: {first:?}");
        Events { lines, _process: process }
    }
}

impl Signal for Events {
    fn wait(&mut self, until: Instant) {
        let left = until.saturating_duration_since(Instant::now());
        let heard = self.lines.recv_timeout(left);
        assert!(heard != Err(mpsc::RecvTimeoutError::Disconnected), "the events have ended");
        // All that was told until now is looked at in one go.
        while self.lines.try_recv().is_ok() {}
    }
}
