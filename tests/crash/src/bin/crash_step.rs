//! One operation of the interpreter, in a process that may be killed:
//! `crash-step WAY ROOT ANSWER [ASSIGNMENT [LATE]]`. Without an assignment the trees are only opened, which is recovery.
//!
//! What lies between the two questions for files that are never there is what counts: before them
//! the process starts, after them it writes its report to the
//! file ANSWER, by a call that the interpreter does not use: that one must not fail with the others.

use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use clap::ValueEnum as _;
use crash::site::{Site, Way};
use crash::step::step;
use crash::strace::{BEGINS, ENDS};

fn main() {
    let mut arguments = std::env::args_os().skip(1);
    let way = arguments.next().expect("a way of switching is given");
    let way = Way::from_str(&way.to_string_lossy(), false).expect("there is such a way");
    let root = arguments.next().expect("a root is given");
    let answer = arguments.next().expect("a file for the answer is given");
    let answer = std::fs::File::create(answer).expect("the answer can be written");
    let assignment = arguments.next().map(|path| std::fs::read(path).expect("the assignment is there"));
    // Somebody writes this file right after the switch.
    let late = arguments.next().map(PathBuf::from);
    // These only leave a mark in a trace; nothing is there to be found.
    let _ = std::fs::symlink_metadata(BEGINS);
    let report = step(&Site::at(Path::new(&root), way), assignment.as_deref(), late);
    let _ = std::fs::symlink_metadata(ENDS);
    let text = serde_json::to_vec(&report).expect("a report is plain data");
    answer.write_all_at(&text, 0).expect("the answer can be written");
}
