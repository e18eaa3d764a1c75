//! What came of a scenario.

use serde::Serialize;

/// Times are in seconds of virtual time from the moment in which the object is there.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// Sites that were to get the object.
    pub sites: u32,
    /// The bound for all of them that did not die.
    pub bound_s: f64,
    /// When the last of them had it; `None` when one never had it.
    pub last_s: Option<f64>,
    /// The latter over the former.
    pub ratio: Option<f64>,
    /// The same for those that are not slow, against the bound for these alone.
    pub fast_ratio: Option<f64>,
    /// Sites that died before they had it.
    pub died: u32,
    /// Chunks that were asked for although they were verified.
    pub verified_fetched_twice: u64,
    /// Chunks that arrived twice.
    pub arrived_twice: u64,
    /// Of each region, what entered it, in copies of the object; the greatest.
    pub copies_into_region: f64,
    /// Bytes of messages over bytes of chunks.
    pub control_share: f64,
    /// The most that any resource carried in any second, over its capacity.
    pub over_capacity: f64,
    /// What the checker found, when it was asked.
    pub violations: Vec<String>,
    /// How often was planned.
    pub plans: u32,
    /// Grants that were given.
    pub grants: u64,
    /// The longest time that planning took, in milliseconds of this machine.
    pub longest_plan_ms: f64,
    /// Steps from the source to the farthest site in the first plan.
    pub depth: u32,
}
