//! The seam through which tests stop the interpreter or make the system fail at every step.

use std::io;

/// A step of the work, named after what happens next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Point {
    /// An entry is about to be staged.
    StageEntry,
    /// All is staged and is about to be compared with what was signed.
    CheckStaged,
    /// The staged tree is about to be made durable.
    SyncStaged,
    /// The manifest is about to be stored.
    StoreManifest,
    /// The journal is about to be written to its new file.
    WriteJournal,
    /// The new journal is about to take the place of the old one.
    ReplaceJournal,
    /// Live is about to be switched.
    Switch,
    /// Live was switched and the original excluded directories are about to follow.
    FollowSwitch,
    /// Live was switched and its directory is about to be made durable.
    SyncSwitch,
    /// Excluded paths are about to be moved to the tree that is live.
    SettleExcluded,
    /// The tree that was live is about to become the backup.
    KeepBackup,
    /// A tree that is not needed is about to be removed.
    Discard,
}

/// Called at every [`Point`]. An error is treated as one of the system's; a panic is a crash.
pub trait Fault: Send {
    /// Lets the step happen, or fails it.
    ///
    /// # Errors
    /// Whatever failure the step should have.
    fn at(&mut self, point: Point) -> io::Result<()>;
}

/// Lets everything happen.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoFault;

impl Fault for NoFault {
    fn at(&mut self, _point: Point) -> io::Result<()> {
        Ok(())
    }
}
