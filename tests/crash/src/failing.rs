//! Every call that can fail, failing, with every error that a file system has.

use crate::error::Result;
use crate::kill::{Scope, Tally};
use crate::operation::{Operation, Rig};
use crate::shapes::Shape;
use crate::strace::{Effect, Ended, Injection, Order};

/// The errors.
pub const ERRORS: [&str; 7] = ["EIO", "ENOSPC", "EDQUOT", "EROFS", "EMFILE", "ENOMEM", "EINTR"];

/// Calls about memory, threads and signals: when these fail it is the process that ends, which is the
/// other campaign's matter.
const NOT_OF_FILES: [&str; 12] = [
    "mmap",
    "munmap",
    "mremap",
    "brk",
    "mprotect",
    "madvise",
    "rt_sigaction",
    "rt_sigprocmask",
    "sigaltstack",
    "futex",
    "geteuid",
    "getrandom",
];

/// Fails one operation at each of its calls, with each error. `and_later`: the call goes on failing.
///
/// # Errors
/// When the rig fails.
pub fn operation(
    scope: &Scope<'_>,
    shape: Shape,
    operation: Operation,
    errors: &[&'static str],
    and_later: bool,
) -> Result<Tally> {
    let mut tally = Tally::default();
    let mut rig = scope.rig(shape, operation)?;
    rig.spends = and_later;
    let mut calls = rig_calls(&mut rig)?;
    calls.retain(|call, _| !NOT_OF_FILES.contains(&call.as_str()));
    let mut turn = 0;
    for (call, (before, during)) in &calls {
        for nth in before + 1..=before + during {
            for error in errors {
                turn += 1;
                if turn % scope.stride != 0 {
                    continue;
                }
                let case = rig.begin()?;
                let injection = Injection { call: call.clone(), nth, and_later, effect: Effect::Fail(error) };
                let ended =
                    rig.stepper.inject(&Order::new(&rig.site.root, Some(&case.assignment.bytes)), &injection)?;
                let checked = rig.check(&case, &ended);
                let place = || format!("{:?}, {shape:?}, {operation:?}, {injection}", scope.way);
                if !tally.note(place, checked)? {
                    if tally.violations.len() >= scope.violations_max {
                        return Ok(tally);
                    }
                    rig = scope.rig(shape, operation)?;
                    rig.spends = and_later;
                }
            }
        }
    }
    Ok(tally)
}

fn rig_calls(rig: &mut Rig) -> Result<crate::strace::Calls> {
    let case = rig.begin()?;
    let (_, report) = rig.stepper.count(&rig.site.root, Some(&case.assignment.bytes))?;
    rig.check(&case, &Ended::Reported(report))?;
    let case = rig.begin()?;
    let (calls, report) = rig.stepper.count(&rig.site.root, Some(&case.assignment.bytes))?;
    rig.check(&case, &Ended::Reported(report))?;
    Ok(calls)
}
