//! Operations in a process of their own, killed or failed at a system call of choice.
//!
//! The calls of one run are counted by name between the marks that the process leaves; then a run is
//! repeated with a fault at the n-th call of a name. Only calls of that name stop for the tracer.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Result, RigError, ensure};
use crate::site::Way;
use crate::step::Report;

/// Asked for before the operation begins.
pub const BEGINS: &str = "/crash-step-begins";
/// Asked for when it has ended.
pub const ENDS: &str = "/crash-step-ends";

/// Calls by name: how many before the operation, how many during it.
pub type Calls = BTreeMap<String, (u32, u32)>;

/// What happens at the chosen call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// The process is killed before the call does anything.
    Kill,
    /// The call does nothing and returns this error.
    Fail(&'static str),
    /// The call does nothing and says that it succeeded.
    Skip,
}

/// A fault to come.
#[derive(Debug, Clone)]
pub struct Injection {
    /// The system call's name.
    pub call: String,
    /// Which of them, from 1 at the start of the process.
    pub nth: u32,
    /// Whether all later calls of that name meet it too.
    pub and_later: bool,
    /// What happens.
    pub effect: Effect,
}

impl std::fmt::Display for Injection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} at {} {}{}", self.effect, self.call, self.nth, if self.and_later { " and later" } else { "" })
    }
}

/// How a process ended.
#[derive(Debug)]
pub enum Ended {
    /// By the injected signal.
    Killed,
    /// Regularly.
    Reported(Report),
    /// In any other way, which is a fault of its own.
    Broke(String),
}

/// A call that changes names, or flushes.
#[derive(Debug, Clone)]
pub struct Call {
    /// Its name.
    pub name: String,
    /// Which of that name, from 1 at the start of the process.
    pub nth: u32,
    /// What the descriptors that it is given are of.
    pub paths: Vec<String>,
    /// The names that it is given.
    pub names: Vec<String>,
}

impl std::fmt::Display for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let short = |path: &String| path.rsplit('/').next().unwrap_or_default().to_owned();
        let paths: Vec<_> = self.paths.iter().map(short).collect();
        write!(f, "{} {} {} {}", self.name, self.nth, paths.join(" "), self.names.join(" "))
    }
}

/// What an operation is given.
#[derive(Debug, Clone)]
pub struct Order<'a> {
    /// The site's root.
    pub root: &'a Path,
    /// What is carried out; without it the trees are only opened.
    pub assignment: Option<&'a [u8]>,
    /// A file that somebody writes right after the switch.
    pub late: Option<PathBuf>,
}

impl<'a> Order<'a> {
    /// Without somebody who writes.
    #[must_use]
    pub fn new(root: &'a Path, assignment: Option<&'a [u8]>) -> Self {
        Self { root, assignment, late: None }
    }
}

/// Starts operations in processes.
#[derive(Debug, Clone)]
pub struct Stepper {
    program: PathBuf,
    /// For assignments and traces; not the directory of the site.
    work: PathBuf,
    way: Way,
}

impl Stepper {
    /// With the program `crash-step` and a directory for its assignments.
    #[must_use]
    pub fn new(program: &Path, work: &Path, way: Way) -> Self {
        Self { program: program.to_owned(), work: work.to_owned(), way }
    }

    /// Live is a link where file systems cannot exchange: these do not.
    fn without_exchange(&self) -> Option<String> {
        (self.way == Way::Symlink).then(|| "--inject=renameat2:error=EINVAL".to_owned())
    }

    fn trace_file(&self) -> PathBuf {
        self.work.join("trace")
    }

    fn start(&self, options: &[String], order: &Order<'_>) -> Result<Ended> {
        let mut command = Command::new("strace");
        command.args(options).arg("-o").arg(self.trace_file()).arg(&self.program);
        self.end(command, order)
    }

    fn end(&self, mut command: Command, order: &Order<'_>) -> Result<Ended> {
        let answer = self.work.join("answer");
        command.arg(self.way.word()).arg(order.root).arg(&answer);
        if let Some(bytes) = order.assignment {
            let path = self.work.join("order");
            std::fs::write(&path, bytes).map_err(RigError::io("writing an assignment"))?;
            command.arg(path).args(&order.late);
        }
        let output = command.output().map_err(RigError::io("starting strace or crash-step"))?;
        if output.status.signal() == Some(9) {
            return Ok(Ended::Killed);
        }
        let text = std::fs::read(&answer).map_err(RigError::io("reading an answer"))?;
        match serde_json::from_slice(&text) {
            Ok(report) if output.status.success() => Ok(Ended::Reported(report)),
            Ok(_) | Err(_) => {
                Ok(Ended::Broke(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr))))
            }
        }
    }

    /// Runs an operation without any fault.
    ///
    /// # Errors
    /// When the process cannot be started or breaks.
    pub fn plain(&self, order: &Order<'_>) -> Result<Report> {
        match self.end(Command::new(&self.program), order)? {
            Ended::Reported(report) => Ok(report),
            ended @ (Ended::Killed | Ended::Broke(_)) => Err(RigError::Violation(format!("a plain run: {ended:?}"))),
        }
    }

    /// Runs an operation and counts its calls.
    ///
    /// # Errors
    /// When strace is not there, or the operation breaks.
    pub fn count(&self, root: &Path, assignment: Option<&[u8]>) -> Result<(Calls, Report)> {
        let options: Vec<_> = std::iter::once("-qq".to_owned()).chain(self.without_exchange()).collect();
        let ended = self.start(&options, &Order::new(root, assignment))?;
        let Ended::Reported(report) = ended else {
            return Err(RigError::setup("counting system calls", format!("{ended:?}")));
        };
        let trace = std::fs::read(self.trace_file()).map_err(RigError::io("reading the trace"))?;
        let mut calls = Calls::new();
        let mut during = false;
        for line in String::from_utf8_lossy(&trace).lines() {
            if line.contains(ENDS) {
                break;
            }
            let Some((name, _)) = line.split_once('(') else { continue };
            let counts = calls.entry(name.to_owned()).or_default();
            if during {
                counts.1 += 1;
            } else {
                counts.0 += 1;
            }
            during |= line.contains(BEGINS);
        }
        calls.retain(|_, (_, during)| *during > 0);
        Ok((calls, report))
    }

    /// Runs an operation with a fault.
    ///
    /// # Errors
    /// When strace cannot be started.
    pub fn inject(&self, order: &Order<'_>, injection: &Injection) -> Result<Ended> {
        let call = &injection.call;
        let effect = match injection.effect {
            Effect::Kill => "signal=KILL".to_owned(),
            Effect::Fail(error) => format!("error={error}"),
            Effect::Skip => "retval=0".to_owned(),
        };
        let later = if injection.and_later { "+" } else { "" };
        let mut options = vec![
            "-qq".to_owned(),
            format!("--trace={call}"),
            format!("--inject={call}:{effect}:when={}{later}", injection.nth),
        ];
        if let Some(option) = self.without_exchange().filter(|_| call != "renameat2") {
            options[1] = format!("--trace={call},renameat2");
            options.push(option);
        }
        // With the filter only calls of that name stop, but no signal is sent before them.
        if injection.effect != Effect::Kill {
            options.extend(["-f", "--seccomp-bpf"].map(str::to_owned));
        }
        self.start(&options, order)
    }

    /// Runs an operation and lists, in order, its changes of the names that promises are about (the journal's
    /// and live's) and its flushes.
    ///
    /// # Errors
    /// When strace is not there, or the operation breaks.
    pub fn names(&self, order: &Order<'_>) -> Result<(Vec<Call>, Report)> {
        let calls = "--trace=renameat,renameat2,symlinkat,unlinkat,fsync,syncfs";
        let options: Vec<_> =
            ["-qq", "-y", calls].map(str::to_owned).into_iter().chain(self.without_exchange()).collect();
        let ended = self.start(&options, order)?;
        let Ended::Reported(report) = ended else {
            return Err(RigError::setup("listing changes of names", format!("{ended:?}")));
        };
        let trace = std::fs::read_to_string(self.trace_file()).map_err(RigError::io("reading the trace"))?;
        let mut numbers = BTreeMap::new();
        let mut found = Vec::new();
        for line in trace.lines() {
            let Some((name, rest)) = line.split_once('(') else { continue };
            let nth = *numbers.entry(name.to_owned()).and_modify(|nth| *nth += 1).or_insert(1);
            let between = |open, close| {
                rest.split(open).skip(1).filter_map(move |piece: &str| Some(piece.split_once(close)?.0.to_owned()))
            };
            let paths: Vec<String> = between('<', '>').collect();
            let names: Vec<String> = rest.split('"').skip(1).step_by(2).map(str::to_owned).collect();
            let is_flush = matches!(name, "fsync" | "syncfs");
            let matters = names.iter().any(|name| name == "shop" || name == "journal");
            if is_flush || matters && rest.ends_with("= 0") {
                found.push(Call { name: name.to_owned(), nth, paths, names });
            }
        }
        Ok((found, report))
    }

    /// Runs an operation of which one change is lost, and that is killed at a later flush if one is given.
    ///
    /// # Errors
    /// When strace cannot be started.
    pub fn lose(&self, order: &Order<'_>, lost: &Injection, end: Option<&Call>) -> Result<Ended> {
        let mut calls = vec![lost.call.clone()];
        let mut options = vec!["-qq".to_owned(), format!("--inject={}:retval=0:when={}", lost.call, lost.nth)];
        if let Some(end) = end {
            calls.push(end.name.clone());
            options.push(format!("--inject={}:signal=KILL:when={}", end.name, end.nth));
        }
        if let Some(option) = self.without_exchange().filter(|_| lost.call != "renameat2") {
            calls.push("renameat2".to_owned());
            options.push(option);
        }
        options.push(format!("--trace={}", calls.join(",")));
        self.start(&options, order)
    }

    /// Runs an operation and lists its flushes: the call, and the last name of what it flushes.
    ///
    /// # Errors
    /// When strace is not there, or the operation breaks.
    pub fn flushes(&self, order: &Order<'_>) -> Result<Vec<(String, String)>> {
        let options = ["-qq", "-y", "--trace=fsync,syncfs"].map(str::to_owned);
        let ended = self.start(&options, order)?;
        ensure(matches!(ended, Ended::Reported(_)), || format!("listing flushes: {ended:?}"))?;
        let trace = std::fs::read_to_string(self.trace_file()).map_err(RigError::io("reading the trace"))?;
        let flush = |line: &str| {
            let (call, rest) = line.split_once('(')?;
            let (_, path) = rest.split_once('<')?;
            let (path, _) = path.split_once('>')?;
            let name = Path::new(path).file_name()?.to_string_lossy().into_owned();
            Some((call.to_owned(), name))
        };
        Ok(trace.lines().filter_map(flush).collect())
    }
}
