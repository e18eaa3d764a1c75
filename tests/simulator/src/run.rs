//! One seed from beginning to end.

use std::fmt;
use std::time::Duration;

use common::time::Timestamp;

use crate::invariants::{self, Invariant};
use crate::liveness;
use crate::scenario::Scenario;
use crate::world::World;

/// What did not hold, and how to see it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// Virtual time since the start.
    pub at: Duration,
    /// What should have held.
    pub rule: String,
    /// What was the case.
    pub found: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, at, rule, found } = self;
        writeln!(f, "seed {seed}, after {at:?} of virtual time: broken: {rule}")?;
        writeln!(f, "  {found}")?;
        write!(f, "  replay: cargo run -p pressrun-simulator -- --seeds {seed}..{} --trace", seed + 1)
    }
}

/// What a seed came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// Inputs that servers took.
    pub steps: u64,
    /// Datagrams that arrived.
    pub delivered: u64,
    /// Virtual time that passed.
    pub virtual_time: Duration,
    /// From the end of the faults until the segment was well.
    pub healed_within: Duration,
}

struct Run {
    seed: u64,
    began: Timestamp,
    world: World,
    invariants: Vec<Box<dyn Invariant>>,
    steps: u64,
}

impl Run {
    fn fail(&self, rule: &str, found: String) -> Failure {
        Failure { seed: self.seed, at: self.world.now.since(self.began), rule: rule.to_owned(), found }
    }

    fn check(&mut self) -> Result<(), Failure> {
        self.steps += 1;
        let facts = self.world.take_facts();
        for at in 0..self.invariants.len() {
            let invariant = &mut self.invariants[at];
            if let Err(found) = invariant.check(&facts, &self.world) {
                let name = invariant.name();
                return Err(self.fail(name, found));
            }
        }
        Ok(())
    }

    fn until(&mut self, end: Timestamp) -> Result<(), Failure> {
        while self.world.step(end) {
            self.check()?;
        }
        Ok(())
    }

    /// Whether the segment is well by `end`.
    fn until_well(&mut self, end: Timestamp) -> Result<Option<String>, Failure> {
        loop {
            let missing = liveness::missing(&self.world);
            if missing.is_none() || self.world.now >= end {
                return Ok(missing);
            }
            let soon = self.world.now + Duration::from_millis(20);
            self.until(soon.min(end))?;
        }
    }
}

/// Runs a seed.
///
/// # Errors
/// The first [`Failure`].
pub fn run(seed: u64, trace: bool) -> Result<Summary, Failure> {
    let (mut scenario, mut world) = Scenario::draw(seed);
    world.trace = trace;
    let mut run = Run { seed, began: world.now, world, invariants: invariants::all(), steps: 0 };
    run.check()?;
    for _ in 0..scenario.events {
        let end = scenario.next_event_at(run.world.now);
        run.until(end)?;
        scenario.event(&mut run.world);
        run.check()?;
    }
    scenario.heal(&mut run.world);
    run.check()?;
    let healed = run.world.now;
    if let Some(missing) = run.until_well(healed + scenario.patience)? {
        let rule = format!("the segment is well {:?} after the faults", scenario.patience);
        return Err(run.fail(&rule, missing));
    }
    let healed_within = run.world.now.since(healed);
    // Late datagrams of the faulty time may still disturb; then it stays as it is.
    run.until(run.world.now + scenario.calm)?;
    if let Some(missing) = run.until_well(run.world.now + scenario.patience)? {
        return Err(run.fail("the segment stays well", missing));
    }
    let agreed = run.world.agreed();
    run.until(run.world.now + scenario.calm)?;
    if run.world.agreed() != agreed {
        return Err(run.fail("an undisturbed leader stays", format!("{agreed:?} became {:?}", run.world.agreed())));
    }
    Ok(Summary {
        steps: run.steps,
        delivered: run.world.network.delivered(),
        virtual_time: run.world.now.since(run.began),
        healed_within,
    })
}
