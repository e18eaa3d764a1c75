//! `pressrun-wan-simulator --sites 100`: one scenario, its outcome as JSON on standard output.

use clap::Parser;
use pressrun_wan_simulator::{Scenario, run};

/// A fleet in virtual time, and how near the planner comes to the bound
#[derive(Debug, Parser)]
struct Args {
    #[command(flatten)]
    scenario: Scenario,
}

fn main() {
    let args = Args::parse();
    let outcome = run(&args.scenario);
    println!("{}", serde_json::to_string_pretty(&outcome).expect("numbers and text become JSON"));
}
