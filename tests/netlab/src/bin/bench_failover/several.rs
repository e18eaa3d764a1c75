//! Several segments at once, each a farm of its own by a process of its own: for timers so slow that nearly all of
//! the time is waiting.

use std::error::Error;
use std::fs;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::{Arguments, Row};

/// Runs this program several times side by side, each with its share of the times, and puts what they saw
/// together.
///
/// # Errors
/// When one cannot be started, fails, or does not say what it saw.
pub(crate) fn run(arguments: &Arguments) -> Result<Vec<Row>, Box<dyn Error>> {
    let places = tempfile::Builder::new().prefix("pressrun-failover-").tempdir()?;
    let mut running: Vec<(Child, _)> = Vec::new();
    for number in 0..arguments.farms {
        // A directory for temporary files of its own: in that of the others only one farm may stand at a time.
        let place = places.path().join(number.to_string());
        fs::create_dir(&place)?;
        let share = |times: u32| (times / arguments.farms + u32::from(number < times % arguments.farms)).to_string();
        let json = place.join("seen.json");
        let mut command = Command::new(std::env::current_exe()?);
        command.env("TMPDIR", &place).arg("--binary").arg(fs::canonicalize(&arguments.binary)?);
        command.args(["--kills", &share(arguments.kills), "--hand-overs", &share(arguments.hand_overs)]);
        command.args(["--partitions", &share(arguments.partitions), "--servers", &arguments.servers.to_string()]);
        command.args(["--preset", arguments.preset.name(), "--json"]).arg(&json).stdout(Stdio::null());
        running.push((command.spawn()?, json));
    }
    let mut rows = arguments.rows();
    for (mut child, json) in running {
        // It fails when its own part misses a goal, too: only all together count.
        child.wait()?;
        let seen: Value = serde_json::from_slice(&fs::read(json)?)?;
        for row in &mut rows {
            let of_it = seen["rows"].as_array().into_iter().flatten().filter(|one| one["leader"] == row.leader);
            row.seconds.extend(of_it.flat_map(|one| one["seconds"].as_array()).flatten().filter_map(Value::as_f64));
        }
    }
    for row in &rows {
        if row.seconds.len() != row.times as usize {
            return Err(
                format!("{} of {} times were seen of leaders {}", row.seconds.len(), row.times, row.leader).into()
            );
        }
    }
    Ok(rows)
}
