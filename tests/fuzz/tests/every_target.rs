//! Each decoder for a moment with every test run, beginning with all that is kept in `corpus`; `scripts/fuzz` tries
//! them for longer.

use std::path::Path;

use pressrun_fuzz::{CORPUS, Until, kept, limit_memory, run, targets};

/// Inputs for each target.
const INPUTS: u64 = 4_000;
/// Inputs for those that take a while: over TLS, and through a database.
const INPUTS_OF_SLOW: [(&str, u64); 3] = [("chunk-answer", 200), ("leader", 1_000), ("api", 1_000)];
/// Far more than any of these inputs may cost.
const MEMORY_BYTES: u64 = 1 << 30;

#[test]
fn no_decoder_panics_takes_more_memory_or_says_something_else_again() {
    limit_memory(MEMORY_BYTES).expect("the kernel limits");
    let more = usize::try_from(MEMORY_BYTES).expect("fits");
    assert!(Vec::<u8>::new().try_reserve_exact(more).is_err(), "the limit is none");
    for mut target in targets::all() {
        let more = kept(&Path::new(CORPUS).join(target.name)).expect("the corpus is readable");
        let inputs = INPUTS_OF_SLOW.iter().find(|(name, _)| *name == target.name).map_or(INPUTS, |(_, inputs)| *inputs);
        let until = Until::Inputs(inputs + more.len() as u64);
        let summary = run(&mut target, &more, 1, until).unwrap_or_else(|failure| panic!("{failure}"));
        assert!(summary.decoded > 0, "{}: nothing is ever decoded", target.name);
        assert!(summary.shapes >= 5, "{}: {} shapes are too few to show anything", target.name, summary.shapes);
    }
}
