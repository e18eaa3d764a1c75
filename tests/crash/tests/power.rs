//! A share of the power cuts, on ext4. They need root, FUSE and loop devices: without them the tests
//! say so and pass, as the parts that need them run where there are.

use std::path::Path;
use std::process::Command;

use crash::power::{FileSystem, Omission, Recording};
use crash::shapes::Shape;

/// Set for the second run of a test, inside a mount namespace of its own.
const INSIDE: &str = "PRESSRUN_TEST_POWER";

/// Whether the test is to go on: it is inside.
fn inside() -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    if !rustix::process::geteuid().is_root() || !Path::new("/dev/fuse").exists() {
        eprintln!("skipped: power cuts need root and FUSE");
        return false;
    }
    let name = std::thread::current().name().expect("the harness names its threads").to_owned();
    let output = Command::new("unshare")
        .args(["-m", "--propagation", "private"])
        .arg(std::env::current_exe().expect("a test knows its program"))
        .args(["--exact", &name])
        .env(INSIDE, "1")
        .output()
        .expect("unshare starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}{}", String::from_utf8_lossy(&output.stderr));
    false
}

fn record(dir: &Path, omission: Option<&Omission>) -> Recording {
    let program = Path::new(env!("CARGO_BIN_EXE_crash-step"));
    Recording::make(dir, program, FileSystem::Ext4, Shape::Mixed, omission)
        .unwrap_or_else(|error| panic!("{}", error.chain()))
}

#[test]
fn after_a_power_cut_live_is_whole_what_was_acknowledged_is_there_and_the_next_job_works() {
    if !inside() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let tally = record(dir.path(), None).replay(60, 11, 5).unwrap();
    assert!(tally.violations.is_empty(), "{:#?}", tally.violations);
    assert_eq!(tally.interruptions, 60);
}

#[test]
fn a_flush_that_is_left_out_is_missed() {
    if !inside() {
        return;
    }
    let omission = Omission { call: "syncfs".to_owned(), nth: None };
    let dir = tempfile::tempdir().unwrap();
    let tally = record(dir.path(), Some(&omission)).replay(60, 11, 1).unwrap();
    assert!(!tally.violations.is_empty(), "the rig would not notice");
}
