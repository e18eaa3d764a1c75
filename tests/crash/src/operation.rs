//! What is interrupted, and what must be true after any interruption.

use std::fs;
use std::path::{Path, PathBuf};

use common::ids::AssignmentNumber;
use common::outcome::{Outcome, RefusalCode};
use tempfile::TempDir;

use crate::error::{Result, RigError, ensure};
use crate::publisher::{Assignment, Publisher};
use crate::shapes::Shape;
use crate::site::{Site, Way};
use crate::step::{Report, step};
use crate::strace::{Ended, Stepper};
use crate::tree::Tree;

/// What the interpreter is doing when it is interrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Operation {
    /// Stages a change of the live version.
    Prepare,
    /// Stages a whole tree, whatever is live.
    PrepareWhole,
    /// Stages a tree in place of one that was staged before.
    Supersede,
    /// Puts a staged tree live.
    Commit,
    /// Prepares going back to the backup.
    PrepareRollback,
    /// Puts the backup live.
    CommitRollback,
    /// Drops a staged tree.
    UndoPrepared,
    /// Takes a commit back.
    UndoCommit,
    /// Makes a live directory where none was.
    FirstCommit,
    /// Takes that back.
    UndoFirst,
}

impl Operation {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Prepare,
        Self::PrepareWhole,
        Self::Supersede,
        Self::Commit,
        Self::PrepareRollback,
        Self::CommitRollback,
        Self::UndoPrepared,
        Self::UndoCommit,
        Self::FirstCommit,
        Self::UndoFirst,
    ];

    /// Those that switch live.
    pub const SWAPS: [Self; 5] =
        [Self::Commit, Self::CommitRollback, Self::UndoCommit, Self::FirstCommit, Self::UndoFirst];

    fn starts_without_live(self) -> bool {
        matches!(self, Self::FirstCommit | Self::UndoFirst)
    }
}

/// One operation to be interrupted.
#[derive(Debug, Clone)]
pub struct Case {
    /// What is handled.
    pub assignment: Assignment,
    /// Live before it.
    pub old: Option<Tree>,
    /// Live after it.
    pub new: Option<Tree>,
    /// What it answers when nothing interrupts it.
    pub outcome: Outcome,
}

/// A site on which one operation is interrupted again and again. What is left by one interruption is
/// what the next one finds.
#[derive(Debug)]
pub struct Rig {
    /// The site.
    pub site: Site,
    /// Processes for its operations.
    pub stepper: Stepper,
    /// Whether an assignment that was refused may have used up its sequence number: when the file
    /// system fails for good in the middle.
    pub spends: bool,
    operation: Operation,
    publisher: Publisher,
    versions: [Tree; 2],
    live: Option<usize>,
    backup: Option<usize>,
    prepared: Option<AssignmentNumber>,
    committed: Option<AssignmentNumber>,
    _dirs: [TempDir; 2],
}

/// What publishing leaves alone in rigs that have it.
const UPLOADS: [(&str, &str); 3] = [("cat.jpg", "cat"), ("2026/dog.jpg", "dog"), ("2026/-rf", "option")];

impl Rig {
    /// A fresh site below `dir`, for one operation. `scale` is the number of files in the shape of many.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new(dir: &Path, program: &Path, way: Way, shape: Shape, operation: Operation, scale: usize) -> Result<Self> {
        let temporary = || tempfile::tempdir_in(dir).map_err(RigError::io("making a directory"));
        let (root, work) = (temporary()?, temporary()?);
        let site = Site::at(root.path(), way);
        let mut publisher = Publisher::new(work.path())?;
        if operation.starts_without_live() {
            publisher.policy.create = true;
        } else {
            site.make_live()?;
            publisher.policy.exclude = vec!["/uploads/".to_owned()];
        }
        let stepper = Stepper::new(program, work.path(), way);
        let mut rig = Self {
            site,
            stepper,
            spends: false,
            operation,
            publisher,
            versions: shape.versions(scale),
            live: None,
            backup: None,
            prepared: None,
            committed: None,
            _dirs: [root, work],
        };
        if !operation.starts_without_live() {
            rig.publish(0)?;
            for (name, text) in UPLOADS {
                let at = rig.site.live.join("uploads").join(name);
                let parent = at.parent().expect("it is in a directory").to_owned();
                fs::create_dir_all(parent).and_then(|()| fs::write(at, text)).map_err(RigError::io("uploading"))?;
            }
            rig.publish(1)?;
        }
        Ok(rig)
    }

    fn here(&self, assignment: &Assignment) -> Result<Outcome> {
        match step(&self.site, Some(&assignment.bytes), None) {
            Report::Answered(outcome) => Ok(outcome),
            report @ (Report::NotOpened(_) | Report::Opened) => {
                Err(RigError::Violation(format!("without any fault: {report:?}")))
            }
        }
    }

    fn must(&self, assignment: &Assignment, expected: &Outcome) -> Result<()> {
        let outcome = self.here(assignment)?;
        ensure(outcome == *expected, || format!("without any fault it answers {outcome:?}, expected {expected:?}"))
    }

    fn other(&self) -> usize {
        self.live.map_or(0, |live| 1 - live)
    }

    fn live_tree(&self) -> Option<Tree> {
        self.live.map(|live| self.versions[live].clone())
    }

    fn prepare_assignment(&mut self, to: usize, whole: bool) -> Result<Assignment> {
        let from = self.live_tree().filter(|_| !whole);
        self.publisher.prepare(from.as_ref(), &self.versions[to])
    }

    /// Prepares and notes it.
    fn stage(&mut self, to: usize) -> Result<AssignmentNumber> {
        let assignment = self.prepare_assignment(to, false)?;
        self.must(&assignment, &Outcome::Prepared { version: self.versions[to].version() })?;
        self.prepared = Some(assignment.number);
        Ok(assignment.number)
    }

    fn stage_backup(&mut self, to: usize) -> Result<AssignmentNumber> {
        let version = self.versions[to].version();
        let assignment = self.publisher.rollback(version);
        self.must(&assignment, &Outcome::Prepared { version })?;
        self.prepared = Some(assignment.number);
        Ok(assignment.number)
    }

    fn publish(&mut self, to: usize) -> Result<AssignmentNumber> {
        let number = self.stage(to)?;
        let version = self.versions[to].version();
        let commit = self.publisher.commit(number, version);
        self.must(&commit, &Outcome::Committed { version })?;
        self.note_commit(number, to);
        Ok(number)
    }

    fn note_commit(&mut self, number: AssignmentNumber, to: usize) {
        self.backup = self.live;
        self.live = Some(to);
        self.prepared = None;
        self.committed = Some(number);
    }

    fn note_back(&mut self) {
        std::mem::swap(&mut self.live, &mut self.backup);
        self.prepared = None;
        self.committed = None;
        if self.operation.starts_without_live() {
            self.backup = None;
        }
    }

    fn take_back(&mut self, number: AssignmentNumber, version: Option<usize>) -> Result<()> {
        let undo = self.publisher.undo(number);
        self.must(&undo, &Outcome::Undone { version: version.map(|at| self.versions[at].version()) })
    }

    /// Brings the site to where the operation is next.
    ///
    /// # Errors
    /// A violation when what should simply work does not.
    pub fn begin(&mut self) -> Result<Case> {
        if let Some(number) = self.prepared.take() {
            self.take_back(number, self.live)?;
        }
        let operation = self.operation;
        if operation == Operation::FirstCommit
            && let Some(number) = self.committed
        {
            self.take_back(number, None)?;
            self.note_back();
        }
        let (old, to) = (self.live_tree(), self.other());
        let (next, version) = (self.versions[to].clone(), self.versions[to].version());
        let prepared = Outcome::Prepared { version };
        let committed = Outcome::Committed { version };
        Ok(match operation {
            Operation::Prepare | Operation::PrepareWhole => {
                let assignment = self.prepare_assignment(to, operation == Operation::PrepareWhole)?;
                Case { assignment, new: old.clone(), old, outcome: prepared }
            }
            Operation::Supersede => {
                self.stage(to)?;
                let assignment = self.prepare_assignment(to, false)?;
                Case { assignment, new: old.clone(), old, outcome: prepared }
            }
            Operation::Commit | Operation::FirstCommit => {
                let number = self.stage(to)?;
                Case { assignment: self.publisher.commit(number, version), old, new: Some(next), outcome: committed }
            }
            Operation::PrepareRollback => {
                Case { assignment: self.publisher.rollback(version), new: old.clone(), old, outcome: prepared }
            }
            Operation::CommitRollback => {
                let number = self.stage_backup(to)?;
                Case { assignment: self.publisher.commit(number, version), old, new: Some(next), outcome: committed }
            }
            Operation::UndoPrepared => {
                let number = self.stage(to)?;
                let outcome = Outcome::Undone { version: old.as_ref().map(Tree::version) };
                Case { assignment: self.publisher.undo(number), new: old.clone(), old, outcome }
            }
            Operation::UndoCommit => {
                let number = self.publish(to)?;
                let outcome = Outcome::Undone { version: old.as_ref().map(Tree::version) };
                Case { assignment: self.publisher.undo(number), old: Some(next), new: old, outcome }
            }
            Operation::UndoFirst => {
                let number = if self.live.is_some() { self.committed } else { Some(self.publish(to)?) };
                let number = number.ok_or_else(|| RigError::setup("undoing a first publish", "there was none"))?;
                let old = self.live_tree();
                Case {
                    assignment: self.publisher.undo(number),
                    old,
                    new: None,
                    outcome: Outcome::Undone { version: None },
                }
            }
        })
    }

    /// The operation is through.
    fn note(&mut self, case: &Case) {
        let number = case.assignment.number;
        match self.operation {
            Operation::Prepare | Operation::PrepareWhole | Operation::Supersede | Operation::PrepareRollback => {
                self.prepared = Some(number);
            }
            Operation::Commit | Operation::CommitRollback | Operation::FirstCommit => {
                let (prepared, to) = (self.prepared.take(), self.other());
                if let Some(prepared) = prepared {
                    self.note_commit(prepared, to);
                }
            }
            Operation::UndoPrepared => self.prepared = None,
            Operation::UndoCommit | Operation::UndoFirst => self.note_back(),
        }
    }

    /// What live is: whether it is the new tree. Read without the interpreter.
    fn look(&self, case: &Case) -> Result<bool> {
        let live = Tree::read(&self.site.live, &["uploads"])
            .map_err(|error| RigError::Violation(format!("live cannot be read: {error}")))?;
        if !self.operation.starts_without_live() && !self.site.is_between_renames()? {
            let uploads = self.site.live.join("uploads");
            for (name, text) in UPLOADS {
                let found = fs::read_to_string(uploads.join(name));
                ensure(found.as_ref().is_ok_and(|found| found == text), || format!("uploads/{name} is {found:?}"))?;
            }
        }
        if live == case.old {
            return Ok(false);
        }
        ensure(live == case.new, || {
            let tree = |tree: &Option<Tree>| tree.clone().unwrap_or_default();
            let to_old = tree(&live).difference(&tree(&case.old)).unwrap_or_else(|| "whether it is there".to_owned());
            let to_new = tree(&live).difference(&tree(&case.new)).unwrap_or_else(|| "whether it is there".to_owned());
            format!("live is neither the old tree ({to_old}) nor the new one ({to_new})")
        })?;
        Ok(true)
    }

    /// After an interruption of whatever kind, with what was reported before it, if anything: live is
    /// one of the trees and the report true, recovery brings a consistent state without switching,
    /// the same assignment leads to its end, and nothing is left lying about.
    ///
    /// # Errors
    /// A violation, in words.
    pub fn check(&mut self, case: &Case, ended: &Ended) -> Result<()> {
        let is_new = self.look(case)?;
        match ended {
            Ended::Killed | Ended::Reported(Report::NotOpened(_) | Report::Opened) => {}
            Ended::Reported(Report::Answered(Outcome::Refused(refusal))) => {
                ensure(!is_new || case.old == case.new, || {
                    format!("refused ({}), yet live is the new tree", refusal.reason)
                })?;
            }
            Ended::Reported(Report::Answered(outcome)) => {
                ensure(*outcome == case.outcome, || format!("answered {outcome:?}, expected {:?}", case.outcome))?;
                ensure(is_new || case.old == case.new, || format!("answered {outcome:?}, yet live is the old tree"))?;
            }
            Ended::Broke(how) => return Err(RigError::Violation(format!("the process broke: {how}"))),
        }
        let mut trees = self
            .site
            .open()
            .map_err(|error| RigError::Violation(format!("cannot be opened again: {}", error.refusal().reason)))?;
        ensure(self.look(case)? == is_new, || "opening switched live".to_owned())?;
        let state = trees.state();
        let expected = if is_new { &case.new } else { &case.old };
        ensure(state.live == expected.as_ref().map(Tree::version), || {
            format!("the state says that {:?} is live", state.live)
        })?;
        if let Some((_, version)) = state.prepared {
            let place = match self.operation {
                Operation::PrepareRollback | Operation::CommitRollback => "backup",
                Operation::Prepare
                | Operation::PrepareWhole
                | Operation::Supersede
                | Operation::Commit
                | Operation::UndoPrepared
                | Operation::UndoCommit
                | Operation::FirstCommit
                | Operation::UndoFirst => "temp",
            };
            let read = |at: &PathBuf| Tree::read(at, &["uploads"]).ok().flatten().map(|tree| tree.version());
            let staged: Vec<_> = self.site.others(place).iter().map(read).collect();
            ensure(staged.contains(&Some(version)), || {
                format!("said to be prepared: {version}, but {place} is {staged:?}")
            })?;
        }
        let spent = state.sequence;
        drop(trees);
        let again = self.here(&case.assignment)?;
        if let Outcome::Refused(refusal) = &again
            && matches!(ended, Ended::Reported(Report::Answered(Outcome::Refused(_))))
            && refusal.code == RefusalCode::Sequence
            && self.spends
        {
            // Nothing could be written any more, not even that it did not happen: the number is
            // spent, and the next assignment has a higher one.
            ensure(!is_new && spent.0 == case.assignment.number.0, || format!("{refusal:?}"))?;
            return Ok(());
        }
        ensure(again == case.outcome, || format!("done again it answers {again:?}, expected {:?}", case.outcome))?;
        ensure(self.look(case)? || case.old == case.new, || "done again, live is not the new tree".to_owned())?;
        self.note(case);
        trees = self.site.open().map_err(|error| RigError::Violation(error.refusal().reason))?;
        trees.clean().map_err(|refusal| RigError::Violation(format!("cannot be cleaned: {}", refusal.reason)))?;
        let staged = self.prepared.is_some() && self.operation != Operation::PrepareRollback;
        self.site.check_litter(&trees.state(), staged)
    }
}
