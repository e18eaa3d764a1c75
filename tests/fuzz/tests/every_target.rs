//! Each decoder for a moment with every test run; `scripts/fuzz` tries them for longer.

use pressrun_fuzz::{Until, limit_memory, run, targets};

/// Inputs for each target.
const INPUTS: u64 = 4_000;
/// Far more than any of these inputs may cost.
const MEMORY_BYTES: u64 = 1 << 30;

#[test]
fn no_decoder_panics_takes_more_memory_or_says_something_else_again() {
    limit_memory(MEMORY_BYTES).expect("the kernel limits");
    let more = usize::try_from(MEMORY_BYTES).expect("fits");
    assert!(Vec::<u8>::new().try_reserve_exact(more).is_err(), "the limit is none");
    for mut target in targets::all() {
        let summary = run(&mut target, &[], 1, Until::Inputs(INPUTS)).unwrap_or_else(|failure| panic!("{failure}"));
        assert!(summary.decoded > 0, "{}: nothing is ever decoded", target.name);
        assert!(summary.shapes >= 5, "{}: {} shapes are too few to show anything", target.name, summary.shapes);
    }
}
