//! The processes of the demonstration.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use super::{DemoError, at};
use crate::client::ClientError;
use crate::output::plain;

/// What the content control manager's process is called.
pub(super) const CCM: &str = "ccm";

/// How long the content control manager may take to open its doors: keys are made first.
const START_MAX: Duration = Duration::from_secs(30);

/// How long processes may take to end when they are asked to.
const STOP_MAX: Duration = Duration::from_secs(5);

/// How often running processes are looked at.
const POLL: Duration = Duration::from_millis(500);

/// How much of a log's end is looked at, in bytes, and shown, in lines.
const TAIL_BYTES: u64 = 16 << 10;
const TAIL_LINES: usize = 15;

/// Where a content control manager listens, and how to log in.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Door {
    /// For agents and commands.
    #[serde(rename = "listen")]
    pub(super) url: String,
    /// For browsers.
    pub(super) console: String,
    /// Who logs in.
    pub(super) user: String,
    /// With what.
    pub(super) password: Option<String>,
}

/// The processes. Killed when dropped.
pub(super) struct Fleet {
    directory: PathBuf,
    children: Vec<(String, Child)>,
}

impl Fleet {
    pub(super) fn new(directory: PathBuf) -> Self {
        Self { directory, children: Vec::new() }
    }

    /// The content control manager's data directory.
    pub(super) fn ccm_data(&self) -> PathBuf {
        self.directory.join(CCM)
    }

    fn log(&self, name: &str) -> PathBuf {
        self.directory.join("logs").join(format!("{name}.log"))
    }

    /// This program with other arguments, logging to a file. Its input is a pipe whose end tells it
    /// to stop, so that it does not outlive us.
    fn command(&self, name: &str) -> Result<Command, DemoError> {
        let spawn = |source| DemoError::Spawn { name: name.to_owned(), source };
        let mut command = Command::new(std::env::current_exe().map_err(spawn)?);
        let path = self.log(name);
        let directory = path.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(directory).map_err(at("made", directory))?;
        let log = File::options().create(true).append(true).mode(0o600).open(&path).map_err(at("opened", &path))?;
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log).kill_on_drop(true);
        // A signal from the terminal is for us: we stop them in order.
        command.process_group(0);
        Ok(command)
    }

    fn spawn(&mut self, name: &str, mut command: Command) -> Result<&mut Child, DemoError> {
        let child = command.spawn().map_err(|source| DemoError::Spawn { name: name.to_owned(), source })?;
        self.children.push((name.to_owned(), child));
        let (_, child) = self.children.last_mut().expect("one was just added");
        Ok(child)
    }

    /// Starts the content control manager and waits until its doors are open.
    pub(super) async fn start_ccm(&mut self) -> Result<Door, DemoError> {
        let mut command = self.command(CCM)?;
        command.arg("ccm").arg("--data").arg(self.ccm_data());
        command.args(["--listen", "127.0.0.1:0", "--console", "127.0.0.1:0", "--json", "--stop-with-stdin"]);
        command.stdout(Stdio::piped());
        let child = self.spawn(CCM, command)?;
        let said = child.stdout.take().map(|said| BufReader::new(said).lines());
        let mut said = said.expect("its output was made a pipe");
        let line = tokio::time::timeout(START_MAX, said.next_line()).await;
        let door = match line {
            Ok(Ok(Some(line))) => serde_json::from_str(&line).ok(),
            // It ended, or closed its output: what it logged says why.
            Ok(Ok(None) | Err(_)) => {
                let (_, child) = self.children.last_mut().expect("it was just started");
                let status = tokio::time::timeout(STOP_MAX, child.wait()).await;
                if let Ok(Ok(status)) = status {
                    return Err(DemoError::Ended { name: CCM.to_owned(), status, log: self.log_tail(CCM) });
                }
                None
            }
            Err(_) => None,
        };
        door.ok_or_else(|| DemoError::NotInTime {
            what: "the content control manager did not say where it listens".to_owned(),
            within: START_MAX,
            log: self.log_tail(CCM),
        })
    }

    /// Starts the agent of a server.
    pub(super) fn start_agent(&mut self, name: &str, segment: &str, ccm: &str, token: &str) -> Result<(), DemoError> {
        let mut command = self.command(name)?;
        command.arg("agent").arg("--data").arg(self.directory.join("agents").join(name));
        command.args(["--ccm", ccm, "--name", name, "--segment", segment, "--interface", "lo"]);
        command.arg("--root").arg(self.directory.join("servers").join(name));
        command.arg("--stop-with-stdin");
        // Everybody on the machine can read a command line; a secret is not for it.
        command.env("PRESSRUN_JOIN_TOKEN", token);
        self.spawn(name, command)?;
        Ok(())
    }

    /// Whether all processes still run.
    pub(super) fn check(&mut self) -> Result<(), DemoError> {
        for index in 0..self.children.len() {
            let (name, child) = &mut self.children[index];
            if let Ok(Some(status)) = child.try_wait() {
                let name = name.clone();
                let log = self.log_tail(&name);
                return Err(DemoError::Ended { name, status, log });
            }
        }
        Ok(())
    }

    /// Waits until a process ends that should not.
    pub(super) async fn wait_for_end(&mut self) -> DemoError {
        loop {
            if let Err(error) = self.check() {
                return error;
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// The last lines of a process's log.
    pub(super) fn log_tail(&self, name: &str) -> String {
        let read = || {
            let mut file = File::open(self.log(name))?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
            let mut bytes = Vec::new();
            file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
            std::io::Result::Ok(String::from_utf8_lossy(&bytes).into_owned())
        };
        let text = read().unwrap_or_else(|error| format!("(the log cannot be read: {error})"));
        let lines: Vec<String> = text.lines().map(|line| format!("    {}", plain(line))).collect();
        if lines.is_empty() {
            return "    (it is empty)".to_owned();
        }
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }

    /// An error of asking the content control manager.
    pub(super) fn asking(&self, what: &str, source: ClientError) -> DemoError {
        DemoError::Asking { what: what.to_owned(), source: Box::new(source), log: self.log_tail(CCM) }
    }

    /// Asks all processes to end, agents first, and kills those that do not.
    pub(super) async fn stop(&mut self) {
        for (_, child) in &mut self.children {
            drop(child.stdin.take());
        }
        for (_, mut child) in self.children.drain(..).rev() {
            if tokio::time::timeout(STOP_MAX, child.wait()).await.is_err() {
                // Gone by itself in this very moment is well, too.
                child.kill().await.ok();
            }
        }
    }
}
