//! A file system that keeps no order between changes of names: what ext4, XFS and Btrfs never do, because a
//! later flush of anything takes earlier renames with it, and what the rules that they follow allow.
//!
//! Each flush of a directory is there so that one change in it lasts before something else does. So for each:
//! the change that it is the first to make last is lost, by a system call that does nothing and says that it
//! succeeded, and everything after it happened, up to each later moment until another flush would have made
//! it last. In one of these states a promise must be broken; else nobody needs that flush. One that is
//! missed in one operation and not in another, where a later flush of everything comes before anything
//! depends on it, is needed. What follows such a flush of excluded paths is about what others do to them
//! meanwhile: that is the course `uploads` of the power cuts.

use crate::error::{Result, RigError};
use crate::kill::Scope;
use crate::operation::Operation;
use crate::shapes::Shape;
use crate::strace::{Call, Effect, Ended, Injection, Order};

/// Whether a flush is missed.
#[derive(Debug)]
pub struct Missed {
    /// Which flush it is among those of an operation.
    pub place: String,
    /// Which flush, in words.
    pub flush: String,
    /// The first promise that was broken without it, `None` if nobody misses it.
    pub by: Option<String>,
    /// States that were looked at.
    pub states: u32,
}

fn is_flush(call: &Call) -> bool {
    matches!(call.name.as_str(), "fsync" | "syncfs")
}

fn covers(flush: &Call, change: &Call) -> bool {
    flush.name == "syncfs" || flush.paths.iter().any(|path| change.paths.contains(path))
}

/// Leaves out each flush of a directory in an operation that switches live, in turn.
///
/// # Errors
/// When the rig fails.
pub fn operation(scope: &Scope<'_>, operation: Operation) -> Result<Vec<Missed>> {
    let mut rig = scope.rig(Shape::Mixed, operation)?;
    for _ in 0..2 {
        // What is done only the first time is not to be looked at.
        let case = rig.begin()?;
        let report = rig.stepper.plain(&Order::new(&rig.site.root, Some(&case.assignment.bytes)))?;
        rig.check(&case, &Ended::Reported(report))?;
    }
    let case = rig.begin()?;
    let (calls, report) = rig.stepper.names(&Order::new(&rig.site.root, Some(&case.assignment.bytes)))?;
    rig.check(&case, &Ended::Reported(report))?;
    let mut found = Vec::new();
    let end = calls.iter().position(|call| call.name == "syncfs").unwrap_or(calls.len());
    for (at, flush) in calls[..end].iter().enumerate().filter(|(_, call)| is_flush(call)) {
        let place = format!("{:?} {} {}", scope.way, flush.name, flush.nth);
        let mut missed =
            Missed { place, flush: format!("{:?} {operation:?}: {flush}", scope.way), by: None, states: 0 };
        let mut lost = 0;
        for (before, change) in calls[..at].iter().enumerate().filter(|(_, call)| !is_flush(call)) {
            let is_first = !calls[before..at].iter().any(|other| is_flush(other) && covers(other, change));
            // Trees that are put aside are nobody's promise.
            if !is_first || !covers(flush, change) {
                continue;
            }
            lost += 1;
            let lose = Injection { call: change.name.clone(), nth: change.nth, and_later: false, effect: Effect::Skip };
            let later = calls[at + 1..].iter().filter(|call| is_flush(call));
            let mut ends: Vec<Option<&Call>> = Vec::new();
            let mut is_covered = false;
            for call in later {
                ends.push(Some(call));
                is_covered = covers(call, change);
                if is_covered {
                    break;
                }
            }
            if !is_covered {
                ends.push(None);
            }
            for end in ends {
                let case = rig.begin()?;
                let order = Order::new(&rig.site.root, Some(&case.assignment.bytes));
                let ended = rig.stepper.lose(&order, &lose, end)?;
                missed.states += 1;
                match rig.check(&case, &ended) {
                    Ok(()) => {}
                    Err(RigError::Violation(what)) => {
                        missed.by.get_or_insert_with(|| format!("{change} lost: {what}"));
                        rig = scope.rig(Shape::Mixed, operation)?;
                    }
                    Err(error @ (RigError::Io { .. } | RigError::Setup { .. })) => return Err(error),
                }
            }
        }
        // A file's content is flushed for its own sake; what is left out there shows on real file systems.
        if lost > 0 {
            found.push(missed);
        }
    }
    Ok(found)
}
