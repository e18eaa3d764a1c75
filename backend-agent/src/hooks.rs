//! Hooks: what a server's administrator has run before a staged tree may go live, and after live was
//! switched: a look at a configuration, the reload of a web server, an installer.
//!
//! Only what this server's own configuration file names is run. Nothing that comes over the network can
//! name a program, or add an argument to one. A hook gets what it is about in its environment, and
//! nothing else of the agent's own:
//!
//! | Variable | |
//! |---|---|
//! | `PRESSRUN_SITE` | name of the hosted site |
//! | `PRESSRUN_DIRECTORY` | the staged tree before, the live directory after |
//! | `PRESSRUN_VERSION` | version of that tree, 64 hexadecimal digits |
//! | `PRESSRUN_MOMENT` | `before` or `after` |
//!
//! Leaves to others: when which moment is, and what a failure leads to.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use common::digest::Version;
use common::ids::SiteName;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use serde::Deserialize;

use crate::settings::Time;

/// Where programs of hooks find others.
const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// How long a hook may take when nothing else is said. A run waits 15 s for all to have committed.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Longest time that can be given to a hook that runs after the switch: what all of them take together is
/// waited for by the run.
const TIMEOUT_MAX: Duration = Duration::from_secs(600);
/// What of a hook's output is told.
const TAIL_BYTES: u64 = 1_000;

/// When hooks run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// The tree is staged and not yet looked at for the last time. A hook that fails keeps this server
    /// from being prepared.
    Before,
    /// Live was switched: by a publish, a rollback, or an undo. A hook that fails is told, and takes
    /// nothing back.
    After,
}

impl Moment {
    fn word(self) -> &'static str {
        match self {
            Self::Before => "before",
            Self::After => "after",
        }
    }
}

/// Programs with their arguments, in the order in which they run.
type Commands = Vec<Vec<String>>;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Set {
    before: Commands,
    after: Commands,
}

/// All hooks of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hooks {
    timeout: Duration,
    general: Set,
    /// Sites that have their own instead.
    sites: BTreeMap<SiteName, Set>,
}

impl Default for Hooks {
    fn default() -> Self {
        Self { timeout: TIMEOUT, general: Set::default(), sites: BTreeMap::new() }
    }
}

/// What the configuration file says about hooks cannot be.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum HooksError {
    /// A hook without a program.
    #[error("[hooks] {moment} has an empty command; say [\"/path/to/program\", \"argument\", …]")]
    Empty {
        /// `before` or `after`.
        moment: &'static str,
    },
    /// Which program it is would hang on the environment.
    #[error("[hooks] {moment} runs {program:?}: the program must be an absolute path")]
    NotAbsolute {
        /// `before` or `after`.
        moment: &'static str,
        /// What was said.
        program: String,
    },
    /// No time, or more than there can be.
    #[error("[hooks] timeout must be more than 0s and at most {} s", TIMEOUT_MAX.as_secs())]
    Timeout,
}

/// What became of a hook that did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum HookFailed {
    /// It could not be run.
    #[error("the hook {program} cannot be run")]
    Start {
        /// The program.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// It failed.
    #[error("the hook {program} failed with {status}{}", said(tail))]
    Status {
        /// The program.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// The last that it said.
        tail: String,
    },
    /// It took too long and was killed.
    #[error("the hook {program} was stopped after {} s{}", timeout.as_secs_f64(), said(tail))]
    TooLong {
        /// The program.
        program: String,
        /// How long it might have taken.
        timeout: Duration,
        /// The last that it said.
        tail: String,
    },
}

fn said(tail: &str) -> String {
    if tail.is_empty() { String::new() } else { format!(": {tail}") }
}

/// The section of the configuration file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct HooksSection {
    timeout: Option<Time>,
    before: Commands,
    after: Commands,
    site: BTreeMap<SiteName, SetSection>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct SetSection {
    before: Commands,
    after: Commands,
}

impl HooksSection {
    pub(crate) fn into_hooks(self) -> Result<Hooks, HooksError> {
        let timeout = self.timeout.map_or(TIMEOUT, |Time(timeout)| timeout);
        if timeout.is_zero() || timeout > TIMEOUT_MAX {
            return Err(HooksError::Timeout);
        }
        let general = checked(self.before, self.after)?;
        let sites = self.site.into_iter().map(|(site, set)| Ok((site, checked(set.before, set.after)?)));
        Ok(Hooks { timeout, general, sites: sites.collect::<Result<_, HooksError>>()? })
    }
}

fn checked(before: Commands, after: Commands) -> Result<Set, HooksError> {
    for (moment, commands) in [("before", &before), ("after", &after)] {
        for command in commands {
            let program = command.first().ok_or(HooksError::Empty { moment })?;
            if !Path::new(program).is_absolute() {
                return Err(HooksError::NotAbsolute { moment, program: program.clone() });
            }
        }
    }
    Ok(Set { before, after })
}

impl Hooks {
    fn of(&self, site: &SiteName, moment: Moment) -> &Commands {
        let set = self.sites.get(site).unwrap_or(&self.general);
        match moment {
            Moment::Before => &set.before,
            Moment::After => &set.after,
        }
    }

    /// Whether a site has hooks at this moment.
    #[must_use]
    pub fn has(&self, site: &SiteName, moment: Moment) -> bool {
        !self.of(site, moment).is_empty()
    }

    /// Runs them one after the other, up to the first that fails.
    ///
    /// # Errors
    /// [`HookFailed`]; those after it were not run.
    pub fn run(
        &self,
        site: &SiteName,
        moment: Moment,
        directory: &Path,
        version: Option<Version>,
    ) -> Result<(), HookFailed> {
        for command in self.of(site, moment) {
            let Some((program, arguments)) = command.split_first() else { continue };
            let mut command = Command::new(program);
            command.args(arguments).env_clear().env("PATH", SEARCH_PATH).env("LANG", "C.UTF-8");
            command.env("PRESSRUN_SITE", site.as_str()).env("PRESSRUN_DIRECTORY", directory);
            command.env("PRESSRUN_MOMENT", moment.word());
            command.env("PRESSRUN_VERSION", version.map(|version| version.to_string()).unwrap_or_default());
            tracing::info!(%site, program, moment = moment.word(), "a hook runs");
            run(program, &mut command, self.timeout)?;
        }
        Ok(())
    }
}

fn run(program: &str, command: &mut Command, timeout: Duration) -> Result<(), HookFailed> {
    let failed = |source| HookFailed::Start { program: program.to_owned(), source };
    // A file, not a pipe: what a hook leaves running in the background may hold it open for ever.
    let output = File::from(memfd_create("hook", MemfdFlags::CLOEXEC).map_err(|error| failed(error.into()))?);
    let for_child = || output.try_clone().map(Stdio::from).map_err(failed);
    command.current_dir("/").stdin(Stdio::null()).stdout(for_child()?).stderr(for_child()?).process_group(0);
    let mut child = command.spawn().map_err(failed)?;
    let ended = wait(&mut child, timeout).map_err(failed)?;
    let tail = tail(&output).unwrap_or_default();
    match ended {
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(HookFailed::Status { program: program.to_owned(), status, tail }),
        None => Err(HookFailed::TooLong { program: program.to_owned(), timeout, tail }),
    }
}

/// Waits for a process, and kills its group when it takes too long; then `None`.
fn wait(child: &mut Child, timeout: Duration) -> io::Result<Option<ExitStatus>> {
    let pid = Pid::from_child(child);
    let end = pidfd_open(pid, PidfdFlags::empty())?;
    let deadline = Instant::now() + timeout;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(&end, PollFlags::IN)], Some(&left)) {
            Ok(0) => break,
            Ok(_) => return child.wait().map(Some),
            Err(Errno::INTR) => (),
            Err(error) => return Err(error.into()),
        }
    }
    // One that has just ended has no group any more.
    kill_process_group(pid, Signal::KILL).ok();
    child.wait()?;
    Ok(None)
}

/// The last that was said, in one line.
fn tail(output: &File) -> io::Result<String> {
    let mut output = output;
    let length = output.metadata()?.len();
    output.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    output.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    Ok(lines.join(" | "))
}

#[cfg(test)]
mod tests {
    use common::digest::Digest;
    use common::errors::chain;

    use super::*;

    fn hooks(text: &str) -> Result<Hooks, HooksError> {
        toml::from_str::<HooksSection>(text).expect("a section").into_hooks()
    }

    fn shell(site: &str, moment: Moment, script: &str) -> Result<(), HookFailed> {
        let text = format!("timeout = \"2s\"\n{} = [[\"/bin/sh\", \"-c\", '''{script}''']]", moment.word());
        run_all(&hooks(&text).expect("hooks"), site, moment)
    }

    fn run_all(hooks: &Hooks, site: &str, moment: Moment) -> Result<(), HookFailed> {
        let version = Version(Digest::of(b"tree"));
        hooks.run(&site.parse().expect("a name"), moment, Path::new("/srv/www/shop"), Some(version))
    }

    #[test]
    fn a_hook_is_told_what_it_is_about_and_nothing_of_the_agent() {
        let expected = Version(Digest::of(b"tree"));
        let script = format!(
            "test \"$PRESSRUN_SITE\" = shop && test \"$PRESSRUN_DIRECTORY\" = /srv/www/shop && \
             test \"$PRESSRUN_MOMENT\" = after && test \"$PRESSRUN_VERSION\" = {expected} && \
             test \"$(pwd)\" = / && test \"$(env | grep -c CARGO)\" = 0"
        );
        assert!(std::env::vars().any(|(name, _)| name.contains("CARGO")), "there is something to leave out");
        shell("shop", Moment::After, &script).expect("all is as it should be");
    }

    #[test]
    fn who_fails_is_told_with_its_last_words_and_those_after_it_are_not_run() {
        let failed = shell("shop", Moment::Before, "echo first; echo no such directive >&2; exit 3").unwrap_err();
        let told = "the hook /bin/sh failed with exit status: 3: first | no such directive";
        assert_eq!(chain(&failed), told);
        let marker = tempfile::tempdir().expect("a directory");
        let path = marker.path().join("ran");
        let two = format!("after = [[\"/bin/false\"], [\"/usr/bin/touch\", \"{}\"]]", path.display());
        assert!(run_all(&hooks(&two).expect("hooks"), "shop", Moment::After).is_err());
        assert!(!path.exists());
        let missing = run_all(&hooks("after = [[\"/nowhere/x\"]]").expect("hooks"), "shop", Moment::After);
        assert_eq!(
            chain(&missing.unwrap_err()),
            "the hook /nowhere/x cannot be run: No such file or directory (os error 2)"
        );
    }

    #[test]
    fn who_takes_too_long_is_stopped_with_all_that_it_started() {
        let script = "echo waiting; sh -c 'echo $$; exec sleep 1000' & wait";
        let failed = shell("shop", Moment::After, script).unwrap_err();
        let HookFailed::TooLong { tail, .. } = &failed else { panic!("{failed}") };
        let child = tail.split(" | ").last().and_then(|pid| pid.parse().ok()).and_then(Pid::from_raw);
        let child = child.unwrap_or_else(|| panic!("{tail:?}"));
        // It dies in its own time, and is collected by whoever does that here.
        let end = match pidfd_open(child, PidfdFlags::empty()) {
            Err(gone) => return assert_eq!(gone, Errno::SRCH),
            Ok(end) => end,
        };
        let patience = Timespec { tv_sec: 60, tv_nsec: 0 };
        assert_eq!(poll(&mut [PollFd::new(&end, PollFlags::IN)], Some(&patience)), Ok(1), "it lives on");
    }

    #[test]
    fn what_a_hook_leaves_running_is_not_waited_for() {
        let place = tempfile::tempdir().expect("a directory");
        let pid = place.path().join("pid");
        // It keeps the hook's output open for longer than a hook may take.
        shell("shop", Moment::After, &format!("sleep 1000 & echo $! > {}", pid.display())).expect("it has ended");
        let left = std::fs::read_to_string(pid).expect("a number").trim().parse().ok().and_then(Pid::from_raw);
        rustix::process::kill_process(left.expect("a process"), Signal::KILL).expect("it runs");
    }

    #[test]
    fn a_site_of_its_own_hooks_has_no_others() {
        let hooks = hooks("after = [[\"/bin/false\"]]\n[site.shop]\nbefore = [[\"/bin/true\"]]").expect("hooks");
        assert!(run_all(&hooks, "shop", Moment::After).is_ok());
        assert!(run_all(&hooks, "blog", Moment::After).is_err());
        let (shop, blog) = ("shop".parse().expect("a name"), "blog".parse().expect("a name"));
        assert!(hooks.has(&shop, Moment::Before) && !hooks.has(&shop, Moment::After));
        assert!(!hooks.has(&blog, Moment::Before) && hooks.has(&blog, Moment::After));
    }

    #[test]
    fn what_cannot_be_run_is_refused_at_the_start() {
        assert_eq!(hooks("before = [[]]"), Err(HooksError::Empty { moment: "before" }));
        let program = "nginx".to_owned();
        assert_eq!(hooks("after = [[\"nginx\"]]"), Err(HooksError::NotAbsolute { moment: "after", program }));
        let program = "./x".to_owned();
        let of_a_site = hooks("[site.shop]\nafter = [[\"./x\"]]");
        assert_eq!(of_a_site, Err(HooksError::NotAbsolute { moment: "after", program }));
        for timeout in ["0s", "601s"] {
            assert_eq!(hooks(&format!("timeout = \"{timeout}\"")), Err(HooksError::Timeout));
        }
        assert_eq!(hooks(""), Ok(Hooks::default()));
    }
}
