//! One target of `pressrun-fuzz` under libFuzzer, which keeps an input when it takes a branch that none took
//! before. `scripts/fuzz --guided` builds and runs it.
//!
//! Which target: `PRESSRUN_FUZZ_TARGET`. Where its samples are written before libFuzzer reads its corpus:
//! `PRESSRUN_FUZZ_SAMPLES`, when that is set.

#![no_main]

use std::cell::RefCell;
use std::path::Path;

use libfuzzer_sys::{Corpus, fuzz_target};
use pressrun_fuzz::{Target, keep, limit_memory, targets};

/// More than any input may cost, with what libFuzzer keeps itself.
const MEMORY_BYTES: u64 = 1 << 30;

thread_local! {
    static TARGET: RefCell<Target> = RefCell::new(target());
}

fn target() -> Target {
    let name = std::env::var("PRESSRUN_FUZZ_TARGET").expect("PRESSRUN_FUZZ_TARGET names a target");
    let found = targets::one(&name);
    found.unwrap_or_else(|| panic!("there is no target {name}; scripts/fuzz --list names them"))
}

fn begin() {
    limit_memory(MEMORY_BYTES).expect("the kernel limits");
    if let Some(directory) = std::env::var_os("PRESSRUN_FUZZ_SAMPLES") {
        TARGET.with_borrow(|target| keep(Path::new(&directory), &target.samples).expect("samples can be written"));
    }
}

fuzz_target!(init: begin(), |input: &[u8]| -> Corpus {
    TARGET.with_borrow_mut(|target| {
        if input.len() > target.bytes_max {
            return Corpus::Reject;
        }
        (target.check)(input);
        Corpus::Keep
    })
});
