//! What is done on a file system whose power is cut: three courses that between them flush everything that
//! is ever flushed.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use common::outcome::Outcome;

use crate::error::{Result, RigError};
use crate::publisher::{Assignment, Publisher};
use crate::strace::{Effect, Injection};
use crate::tree::Tree;

/// A course.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Course {
    /// First publish, change, rollback, undo, and a change that is given up: every kind of order.
    Orders,
    /// Two publishes and a rollback beside a directory that is left alone, and into which somebody writes:
    /// also in the moment when live was switched and its original is not back.
    Uploads,
    /// Commits that are killed right after the switch, and what opening the trees makes of them.
    Interrupted,
}

impl Course {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Orders, Self::Uploads, Self::Interrupted];
}

/// How a step is done.
#[derive(Debug, Clone)]
pub enum Act {
    /// An assignment is carried out.
    Order,
    /// It is carried out while somebody writes this file at the moment of the switch.
    OrderWith(&'static str),
    /// A process that carries it out is killed, and another is given it again.
    AfterKill(Injection),
    /// Somebody writes this file into the live tree, and makes it durable.
    Write(&'static str),
    /// Somebody deletes it, and makes that durable.
    Delete(&'static str),
}

/// One step.
#[derive(Debug, Clone)]
pub struct Planned {
    /// Steps of one kind flush the same things.
    pub kind: &'static str,
    /// How it is done.
    pub act: Act,
    /// What is carried out; for what others do, what comes next.
    pub assignment: Assignment,
    /// What is answered.
    pub outcome: Outcome,
    /// Live when it is through: none, or one of the versions.
    pub live: Option<usize>,
    /// Files that somebody wrote and that are there when it is through.
    pub written: BTreeSet<&'static str>,
}

const CAT: &str = "uploads/cat.jpg";
const LATE: &str = "uploads/late.jpg";

struct Plan<'a> {
    publisher: &'a mut Publisher,
    versions: &'a [Tree; 2],
    steps: Vec<Planned>,
    live: Option<usize>,
    written: BTreeSet<&'static str>,
}

impl Plan<'_> {
    fn add(&mut self, kind: &'static str, act: Act, assignment: Assignment, outcome: Outcome) {
        let (live, written) = (self.live, self.written.clone());
        self.steps.push(Planned { kind, act, assignment, outcome, live, written });
    }

    /// Prepares a version and commits it.
    fn publish(&mut self, to: usize, kinds: [&'static str; 2], commit: Act) -> Result<Assignment> {
        let version = self.versions[to].version();
        let prepare = self.publisher.prepare(self.live.map(|live| &self.versions[live]), &self.versions[to])?;
        self.add(kinds[0], Act::Order, prepare.clone(), Outcome::Prepared { version });
        self.commit(to, &prepare, kinds[1], commit);
        Ok(prepare)
    }

    fn commit(&mut self, to: usize, prepare: &Assignment, kind: &'static str, act: Act) {
        let version = self.versions[to].version();
        self.live = Some(to);
        if let Act::OrderWith(name) = act {
            self.written.insert(name);
        }
        let commit = self.publisher.commit(prepare.number, version);
        self.add(kind, act, commit, Outcome::Committed { version });
    }

    fn roll_back(&mut self, to: usize, kinds: [&'static str; 2]) -> Assignment {
        let version = self.versions[to].version();
        let prepare = self.publisher.rollback(version);
        self.add(kinds[0], Act::Order, prepare.clone(), Outcome::Prepared { version });
        self.commit(to, &prepare, kinds[1], Act::Order);
        prepare
    }

    fn undo(&mut self, of: &Assignment, to: Option<usize>, kind: &'static str) {
        self.live = to;
        let version = to.map(|to| self.versions[to].version());
        let undo = self.publisher.undo(of.number);
        self.add(kind, Act::Order, undo, Outcome::Undone { version });
    }
}

/// The steps of a course.
///
/// # Errors
/// When an assignment cannot be built.
pub fn plan(course: Course, publisher: &mut Publisher, versions: &[Tree; 2]) -> Result<Vec<Planned>> {
    publisher.policy.create = true;
    if course == Course::Uploads {
        publisher.policy.exclude = vec!["/uploads/".to_owned()];
    }
    let mut plan = Plan { publisher, versions, steps: Vec::new(), live: None, written: BTreeSet::new() };
    match course {
        Course::Orders => {
            let unknown = plan.publisher.prepare(None, &versions[0])?;
            plan.undo(&unknown, None, "undo of the unknown");
            let first = plan.publish(0, ["first prepare", "first commit"], Act::Order)?;
            plan.undo(&first, None, "undo of the first");
            plan.publish(0, ["first prepare", "first commit"], Act::Order)?;
            plan.publish(1, ["prepare", "commit"], Act::Order)?;
            plan.roll_back(0, ["rollback", "its commit"]);
            let again = plan.publish(1, ["prepare", "commit"], Act::Order)?;
            plan.undo(&again, Some(0), "undo of a commit");
            let given_up = plan.publisher.prepare(Some(&versions[0]), &versions[1])?;
            let version = versions[1].version();
            plan.add("prepare", Act::Order, given_up.clone(), Outcome::Prepared { version });
            plan.undo(&given_up, Some(0), "undo of what is prepared");
            // What is live already.
            let back = plan.publisher.rollback(versions[0].version());
            let version = versions[0].version();
            plan.add("rollback to live", Act::Order, back.clone(), Outcome::Prepared { version });
            plan.commit(0, &back, "commit of what is live", Act::Order);
        }
        Course::Uploads => {
            plan.publish(0, ["first prepare", "first commit"], Act::Order)?;
            let next = plan.publisher.prepare(Some(&versions[0]), &versions[1])?;
            let version = versions[1].version();
            plan.written.insert(CAT);
            plan.add("upload", Act::Write(CAT), next.clone(), Outcome::Prepared { version });
            plan.add("prepare beside uploads", Act::Order, next.clone(), Outcome::Prepared { version });
            plan.commit(1, &next, "commit beside uploads", Act::OrderWith(LATE));
            let back = plan.publisher.rollback(versions[0].version());
            let version = versions[0].version();
            plan.written.remove(LATE);
            plan.add("deletion", Act::Delete(LATE), back.clone(), Outcome::Prepared { version });
            plan.add("rollback beside uploads", Act::Order, back.clone(), Outcome::Prepared { version });
            plan.commit(0, &back, "its commit beside uploads", Act::Order);
        }
        Course::Interrupted => {
            plan.publish(0, ["first prepare", "first commit"], Act::Order)?;
            // The third flush of a commit is the one after the switch.
            let kill = Injection { call: "fsync".to_owned(), nth: 3, and_later: false, effect: Effect::Kill };
            plan.publish(1, ["prepare", "recovery"], Act::AfterKill(kill.clone()))?;
            let back = plan.publisher.rollback(versions[0].version());
            let version = versions[0].version();
            plan.add("rollback", Act::Order, back.clone(), Outcome::Prepared { version });
            plan.commit(0, &back, "recovery", Act::AfterKill(kill));
            plan.publish(1, ["prepare", "commit"], Act::Order)?;
        }
    }
    Ok(plan.steps)
}

/// Lets somebody write into, or delete from, the live tree.
///
/// # Errors
/// When that does not work.
pub fn by_others(act: &Act, live: &Path) -> Result<()> {
    let failed = || RigError::io("changing the live tree");
    let (name, done) = match act {
        Act::Order | Act::OrderWith(_) | Act::AfterKill(_) => return Ok(()),
        Act::Write(name) => {
            let at = live.join(name);
            let parent = at.parent().expect("it is in a directory");
            (name, fs::create_dir_all(parent).and_then(|()| write_durably(&at)))
        }
        Act::Delete(name) => (name, fs::remove_file(live.join(name))),
    };
    done.map_err(failed())?;
    let at = live.join(name);
    for directory in at.ancestors().skip(1).take_while(|directory| directory.starts_with(live)) {
        fs::File::open(directory).and_then(|directory| directory.sync_data()).map_err(failed())?;
    }
    Ok(())
}

/// Writes a file and makes it and its name durable.
///
/// # Errors
/// When that does not work.
pub fn write_durably(at: &Path) -> std::io::Result<()> {
    use std::io::Write as _;
    let mut file = fs::File::create(at)?;
    file.write_all(WRITTEN)?;
    // Not the calls of which some are left out: those are the interpreter's.
    file.sync_data()?;
    fs::File::open(at.parent().unwrap_or(at))?.sync_data()
}

/// What others write.
pub const WRITTEN: &[u8] = b"written by somebody else";
