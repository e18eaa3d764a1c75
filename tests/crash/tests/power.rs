//! A share of the power cuts, on ext4. They need root, FUSE and loop devices: without them the tests
//! say so and pass, as the parts that need them run where there are.

use std::path::Path;
use std::process::Command;

use crash::power::plan::Course;
use crash::power::{FileSystem, Omission, Recording, Scene};
use crash::shapes::Shape;
use crash::site::Way;

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

fn record(dir: &Path, way: Way, course: Course, omission: Option<&Omission>) -> Recording {
    let program = Path::new(env!("CARGO_BIN_EXE_crash-step"));
    let scene = Scene { program, file_system: FileSystem::Ext4, way, course, shape: Shape::Mixed };
    Recording::make(dir, &scene, omission).unwrap_or_else(|error| panic!("{}", error.chain()))
}

#[test]
fn after_a_power_cut_live_is_whole_what_was_acknowledged_is_there_and_the_next_job_works() {
    if !inside() {
        return;
    }
    for (way, course, states) in [
        (Way::Exchange, Course::Orders, 60),
        (Way::Symlink, Course::Orders, 30),
        (Way::Exchange, Course::Uploads, 30),
        (Way::Symlink, Course::Interrupted, 30),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let tally = record(dir.path(), way, course, None).replay(None, states, 11, 5).unwrap();
        assert!(tally.violations.is_empty(), "{way:?} {course:?}: {:#?}", tally.violations);
        assert_eq!(tally.interruptions, u32::try_from(states).unwrap());
    }
}

#[test]
fn a_flush_that_is_left_out_is_missed() {
    if !inside() {
        return;
    }
    let omission = Omission::All { call: "syncfs" };
    let dir = tempfile::tempdir().unwrap();
    let tally =
        record(dir.path(), Way::Exchange, Course::Orders, Some(&omission)).replay(Some(&omission), 60, 11, 1).unwrap();
    assert!(!tally.violations.is_empty(), "the rig would not notice");
}
