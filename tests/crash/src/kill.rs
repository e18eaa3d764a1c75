//! Killed before every system call of every operation, and of the recovery after it.

use std::path::Path;

use crate::error::{Result, RigError};
use crate::operation::{Operation, Rig};
use crate::shapes::Shape;
use crate::site::Way;
use crate::strace::{Calls, Effect, Ended, Injection, Order};

/// What a campaign did and found.
#[derive(Debug, Default)]
pub struct Tally {
    /// Interruptions that took place.
    pub interruptions: u32,
    /// Broken promises, each with where.
    pub violations: Vec<String>,
}

impl Tally {
    /// Notes the end of one interruption. After a violation the site is not to be trusted.
    ///
    /// # Errors
    /// Whatever is no violation.
    pub fn note(&mut self, place: impl FnOnce() -> String, result: Result<()>) -> Result<bool> {
        self.interruptions += 1;
        match result {
            Ok(()) => Ok(true),
            Err(RigError::Violation(what)) => {
                self.violations.push(format!("{}: {what}", place()));
                Ok(false)
            }
            Err(error @ (RigError::Io { .. } | RigError::Setup { .. })) => Err(error),
        }
    }

    /// Adds another one's.
    pub fn add(&mut self, other: Self) {
        self.interruptions += other.interruptions;
        self.violations.extend(other.violations);
    }
}

/// Where and how much.
#[derive(Debug, Clone, Copy)]
pub struct Scope<'a> {
    /// The program `crash-step`.
    pub program: &'a Path,
    /// Where sites are made.
    pub dir: &'a Path,
    /// How live is switched.
    pub way: Way,
    /// Number of files in the shape of many.
    pub scale: usize,
    /// Every how many-th point is taken; 1 for all.
    pub stride: u32,
    /// Violations after which to stop.
    pub violations_max: usize,
}

impl Scope<'_> {
    pub(crate) fn rig(&self, shape: Shape, operation: Operation) -> Result<Rig> {
        Rig::new(self.dir, self.program, self.way, shape, operation, self.scale)
    }
}

/// Calls that change what is on disk. Between two of them it makes no difference to recovery where
/// the process is killed.
const CHANGES: [&str; 14] = [
    "openat2",
    "mkdirat",
    "linkat",
    "symlinkat",
    "renameat",
    "renameat2",
    "unlinkat",
    "fchmod",
    "fchmodat",
    "fchown",
    "utimensat",
    "write",
    "fsync",
    "syncfs",
];

/// Kills one operation at each of its system calls.
///
/// # Errors
/// When the rig fails.
pub fn operation(scope: &Scope<'_>, shape: Shape, operation: Operation) -> Result<Tally> {
    let mut tally = Tally::default();
    let mut rig = scope.rig(shape, operation)?;
    let calls = count(&mut rig)?;
    let mut turn = 0;
    for (call, (before, _)) in &calls {
        let mut nth = before + 1;
        loop {
            turn += 1;
            if turn % scope.stride == 0 {
                let case = rig.begin()?;
                let injection = Injection { call: call.clone(), nth, and_later: false, effect: Effect::Kill };
                let ended =
                    rig.stepper.inject(&Order::new(&rig.site.root, Some(&case.assignment.bytes)), &injection)?;
                let checked = rig.check(&case, &ended);
                if matches!(ended, Ended::Reported(_)) {
                    // There is no such call any more.
                    checked?;
                    break;
                }
                if !tally.note(|| format!("{:?}, {shape:?}, {operation:?}, {injection}", scope.way), checked)? {
                    if tally.violations.len() >= scope.violations_max {
                        return Ok(tally);
                    }
                    rig = scope.rig(shape, operation)?;
                }
            } else if nth > before + calls[call].1 {
                break;
            }
            nth += 1;
        }
    }
    Ok(tally)
}

/// Runs an operation to its end, counting.
fn count(rig: &mut Rig) -> Result<Calls> {
    // What is done only the first time is not to be counted.
    for _ in 0..2 {
        let case = rig.begin()?;
        let (_, report) = rig.stepper.count(&rig.site.root, Some(&case.assignment.bytes))?;
        rig.check(&case, &Ended::Reported(report))?;
    }
    let case = rig.begin()?;
    let (calls, report) = rig.stepper.count(&rig.site.root, Some(&case.assignment.bytes))?;
    rig.check(&case, &Ended::Reported(report))?;
    Ok(calls)
}

/// Kills one operation at each call that changes something, and then its recovery at each of its
/// calls.
///
/// # Errors
/// When the rig fails.
pub fn recovery(scope: &Scope<'_>, shape: Shape, operation: Operation) -> Result<Tally> {
    let mut tally = Tally::default();
    let mut rig = scope.rig(shape, operation)?;
    let calls = count(&mut rig)?;
    let mut turn = 0;
    for (call, (before, during)) in calls.iter().filter(|(call, _)| CHANGES.contains(&call.as_str())) {
        for nth in before + 1..=before + during {
            let first = Injection { call: call.clone(), nth, and_later: false, effect: Effect::Kill };
            // How much there is to recover from here.
            let case = rig.begin()?;
            let Ended::Killed =
                rig.stepper.inject(&Order::new(&rig.site.root, Some(&case.assignment.bytes)), &first)?
            else {
                let report = Ended::Killed;
                rig.check(&case, &report)?;
                continue;
            };
            let (recovering, _) = rig.stepper.count(&rig.site.root, None)?;
            rig.check(&case, &Ended::Killed)?;
            for (call, (before, during)) in &recovering {
                for nth in before + 1..=before + during {
                    turn += 1;
                    if turn % scope.stride != 0 {
                        continue;
                    }
                    let case = rig.begin()?;
                    rig.stepper.inject(&Order::new(&rig.site.root, Some(&case.assignment.bytes)), &first)?;
                    let second = Injection { call: call.clone(), nth, and_later: false, effect: Effect::Kill };
                    let ended = rig.stepper.inject(&Order::new(&rig.site.root, None), &second)?;
                    let checked = rig.check(&case, &ended);
                    let place =
                        || format!("{:?}, {shape:?}, {operation:?}, {first}, then recovery, {second}", scope.way);
                    if !tally.note(place, checked)? {
                        if tally.violations.len() >= scope.violations_max {
                            return Ok(tally);
                        }
                        rig = scope.rig(shape, operation)?;
                    }
                }
            }
        }
    }
    Ok(tally)
}
