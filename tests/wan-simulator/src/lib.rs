//! Whole fleets in virtual time: the code of [`planner`], and leaders that choose chunks with it,
//! against the bound that no way of distributing can beat.
//!
//! In: a [`Scenario`]. Out: an [`Outcome`] with the times, the bound, what crossed which border, and
//! whether anything was ever over its capacity. Nothing here reads a clock but for the time that the
//! planner itself takes, which influences nothing.
//!
//! What is simulated: each chunk of each transfer at the rate of its grant, or less when the ways of
//! its source or destination cannot carry what was granted on them; the latency of every message,
//! request and chunk; verification before anything is passed on; leaders that die without a word.
//! What is not: TCP's way to its rate, loss, disks.

pub mod meter;
pub mod outcome;
pub mod scenario;
pub mod world;

pub use outcome::Outcome;
pub use scenario::Scenario;

/// Runs a scenario to its end.
#[must_use]
pub fn run(scenario: &Scenario) -> Outcome {
    world::World::new(scenario).run()
}
