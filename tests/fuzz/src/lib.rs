//! Damaged and invented input for every decoder of what comes from a network or a file.
//!
//! A [`Target`] has samples of what is rightly said and a check of one input. [`run`] changes samples at
//! random, with what breaks formats in mind ([`mutate`]), and keeps what brought something that was not seen
//! before: an error of another kind, a value of another shape. Everything follows from a seed.
//!
//! What must hold: nothing panics; nothing is allocated beyond what a format's limits allow (the process has
//! a limit, [`limit_memory`]); what is decoded and encoded again is decoded to the same.
//!
//! On stable and without instrumentation: what is kept is judged by results, not by the branches taken.

pub mod mutate;
pub mod targets;

use std::collections::BTreeSet;
use std::fmt::{self, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use mutate::Mutator;

/// Most inputs that are kept while a target runs.
const KEPT_MAX: usize = 4_096;
/// How much of a value's text tells its shape, in bytes.
const SHAPE_BYTES: usize = 1_024;
/// Input after which the clock is looked at.
const BETWEEN_LOOKS: u64 = 64;

/// Decodes one input, panics when something does not hold, and tells the input's shape.
pub type Check = Box<dyn FnMut(&[u8]) -> Shape>;

/// A decoder, with all that belongs to trying it.
pub struct Target {
    /// Its name.
    pub name: &'static str,
    /// What it decodes.
    pub what: &'static str,
    /// Longest input worth trying, in bytes.
    pub bytes_max: usize,
    /// What is rightly said.
    pub samples: Vec<Vec<u8>>,
    /// Tries one input.
    pub check: Check,
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What kind of thing came of an input: digits, hexadecimal ones too, and everything far behind do not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Shape {
    hash: u64,
    /// Whether something was decoded.
    pub decoded: bool,
}

struct ShapeText {
    hash: u64,
    left: usize,
}

impl fmt::Write for ShapeText {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes().filter(|byte| !matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            if self.left == 0 {
                return Err(fmt::Error);
            }
            self.left -= 1;
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        Ok(())
    }
}

impl Shape {
    fn of(value: &dyn fmt::Debug, decoded: bool) -> Self {
        let mut text = ShapeText { hash: 0xcbf2_9ce4_8422_2325, left: SHAPE_BYTES };
        // Stops where the text is long enough.
        write!(text, "{value:?}").ok();
        Self { hash: text.hash, decoded }
    }

    /// Of something that was decoded.
    #[must_use]
    pub fn decoded(value: &dyn fmt::Debug) -> Self {
        Self::of(value, true)
    }

    /// Of something that was refused.
    #[must_use]
    pub fn refused(error: &dyn fmt::Debug) -> Self {
        Self::of(error, false)
    }
}

/// When a run ends.
#[derive(Debug, Clone, Copy)]
pub enum Until {
    /// After so many inputs.
    Inputs(u64),
    /// After this time.
    Elapsed(Duration),
}

/// What a run came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Inputs tried.
    pub inputs: u64,
    /// Of them decoded.
    pub decoded: u64,
    /// Shapes seen.
    pub shapes: usize,
    /// Inputs that brought a new shape, samples included.
    pub kept: Vec<Vec<u8>>,
}

/// An input for which something did not hold. The panic's words are on standard error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The target.
    pub target: &'static str,
    /// The input.
    pub input: Vec<u8>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} does not stand this input of {} bytes:", self.target, self.input.len())?;
        self.input.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Tries a target: first all samples and `more` inputs as they are, then what is made of them.
///
/// # Errors
/// The first [`Failure`].
pub fn run(target: &mut Target, more: &[Vec<u8>], seed: u64, until: Until) -> Result<Summary, Failure> {
    let began = Instant::now();
    let mut mutator = Mutator::new(seed);
    let mut shapes = BTreeSet::new();
    let mut summary = Summary { inputs: 0, decoded: 0, shapes: 0, kept: Vec::new() };
    let given: Vec<Vec<u8>> = target.samples.iter().chain(more).cloned().collect();
    let mut given = given.into_iter();
    let mut sources: Vec<Vec<u8>> = target.samples.clone();
    loop {
        let first = given.next();
        let is_given = first.is_some();
        let input = first.unwrap_or_else(|| mutator.next(&sources, target.bytes_max));
        let shape = catch_unwind(AssertUnwindSafe(|| (target.check)(&input)));
        let Ok(shape) = shape else { return Err(Failure { target: target.name, input }) };
        summary.inputs += 1;
        summary.decoded += u64::from(shape.decoded);
        let is_new = shapes.insert(shape);
        if (is_new || is_given) && summary.kept.len() < KEPT_MAX {
            summary.kept.push(input.clone());
            // Many of what is given may be of a form that is not read any more: they are not changed further.
            if is_new {
                sources.push(input);
            }
        }
        let is_over = match until {
            Until::Inputs(inputs) => summary.inputs >= inputs,
            Until::Elapsed(time) => summary.inputs.is_multiple_of(BETWEEN_LOOKS) && began.elapsed() >= time,
        };
        if is_over && given.len() == 0 {
            summary.shapes = shapes.len();
            return Ok(summary);
        }
    }
}

/// Where the repository keeps inputs that reach what others do not, a directory for each target. `scripts/fuzz
/// --guided` makes them.
pub const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/corpus");

/// Writes inputs into a directory, each to a file that is named by its content.
///
/// # Errors
/// When the directory cannot be made or a file cannot be written.
pub fn keep(directory: &Path, inputs: &[Vec<u8>]) -> std::io::Result<()> {
    std::fs::create_dir_all(directory)?;
    for input in inputs {
        std::fs::write(directory.join(&common::digest::Digest::of(input).to_string()[..16]), input)?;
    }
    Ok(())
}

/// The inputs in a directory, in the order of their files' names; none when there is no such directory.
///
/// # Errors
/// When it, or a file in it, cannot be read.
pub fn kept(directory: &Path) -> std::io::Result<Vec<Vec<u8>>> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut paths = entries.map(|entry| entry.map(|entry| entry.path())).collect::<std::io::Result<Vec<_>>>()?;
    paths.sort();
    paths.iter().map(std::fs::read).collect()
}

/// Lets the process have this much memory and no more: an allocation beyond it ends the process.
///
/// # Errors
/// When the kernel refuses.
pub fn limit_memory(bytes: u64) -> std::io::Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Data).maximum;
    Ok(setrlimit(Resource::Data, Rlimit { current: Some(bytes), maximum })?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(check: impl FnMut(&[u8]) -> Shape + 'static) -> Target {
        let samples = vec![b"sample".to_vec()];
        Target { name: "test", what: "nothing", bytes_max: 16, samples, check: Box::new(check) }
    }

    #[test]
    fn a_panic_is_a_failure_with_its_input() {
        let mut target = target(|input| {
            assert!(input.len() < 10, "too long");
            Shape::refused(&"short")
        });
        let failure = run(&mut target, &[], 1, Until::Inputs(100_000)).expect_err("one becomes longer");
        assert!(failure.input.len() >= 10, "{failure}");
        assert_eq!(run(&mut target, &[], 1, Until::Inputs(100_000)), Err(failure), "it is found again");
    }

    #[test]
    fn what_brings_something_new_is_kept_and_changed_further() {
        // Found only by way of inputs that begin like it: at random it would take ages.
        let mut target = target(|input| {
            let right = b"\x00\xff\x7f\x80\x01".iter().zip(input).take_while(|(right, byte)| right == byte).count();
            Shape::of(&["", "x", "xx", "xxx", "xxxx", "xxxxx"][right], right == 5)
        });
        let summary = run(&mut target, &[], 1, Until::Inputs(200_000)).expect("nothing panics");
        assert_eq!((summary.shapes, summary.kept.len()), (6, 6), "{summary:?}");
        assert!(summary.decoded > 0);
    }

    #[test]
    fn what_is_kept_is_read_again_each_once_and_no_directory_holds_nothing() {
        let directory = tempfile::tempdir().expect("a directory");
        let corpus = directory.path().join("target");
        assert_eq!(kept(&corpus).expect("it is not there"), Vec::<Vec<u8>>::new());
        let (one, other) = (b"one".to_vec(), b"other".to_vec());
        keep(&corpus, &[one.clone(), other.clone(), one.clone()]).expect("it can be written");
        let mut again = kept(&corpus).expect("it can be read");
        again.sort();
        assert_eq!(again, [one, other]);
    }

    #[test]
    fn values_that_differ_in_digits_have_one_shape() {
        assert_eq!(Shape::decoded(&(1, [0xab, 3])), Shape::decoded(&(77, [12, 5])));
        assert_ne!(Shape::decoded(&Some(1)), Shape::decoded(&None::<u8>));
        assert_ne!(Shape::decoded(&1), Shape::refused(&1));
    }
}
