//! A process that does not outlive its owner.

use std::io;
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::wait::{End, wait_for};

/// A running process; killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
}

impl Process {
    /// Starts it.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub fn start(command: &mut Command) -> io::Result<Self> {
        Ok(Self { child: command.spawn()? })
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its standard output, once, when it is a pipe.
    pub fn stdout(&mut self) -> Option<std::process::ChildStdout> {
        self.child.stdout.take()
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// When the kernel cannot say.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// What says that it has ended.
    ///
    /// # Errors
    /// When the kernel cannot say.
    pub fn end(&self) -> io::Result<End> {
        End::of(Pid::from_child(&self.child))
    }

    /// Waits for its end; `None` when it still runs after that time.
    ///
    /// # Panics
    /// When the kernel cannot say.
    pub fn wait(&mut self, within: Duration) -> Option<ExitStatus> {
        // One that has been waited for has no number any more.
        if let Some(status) = self.ended().expect("the kernel knows its children") {
            return Some(status);
        }
        let mut end = self.end().expect("the kernel knows its children");
        wait_for(&mut end, within, || self.child.try_wait().ok().flatten())
    }

    /// Tells it to stop, as a service manager does. One that has ended already is left alone.
    pub fn terminate(&mut self) {
        if self.ended().is_ok_and(|ended| ended.is_none()) {
            kill_process(Pid::from_child(&self.child), Signal::TERM).ok();
        }
    }

    /// Kills it at once, as `kill -9`, and waits until it is gone.
    pub fn kill(&mut self) {
        // Already gone is well.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
