//! What was seen, as a table and as JSON.

use serde_json::{Value, json};

use crate::scenario::{Goal, Scenario};
use crate::tools::Seen;

/// One program in one row.
pub(crate) struct Line {
    /// The program.
    pub(crate) tool: &'static str,
    /// What was seen, or why nothing was.
    pub(crate) result: Result<Vec<Seen>, String>,
}

/// The figures of one program in one row.
struct Figures {
    /// Seconds until the last receiver had it; of the fast ones, where one is slow.
    seconds: f64,
    /// Seconds until the slow one had it.
    slow_seconds: Option<f64>,
    sent: f64,
    returned: f64,
    sender_ns_per_byte: f64,
    receiver_ns_per_byte: f64,
    missing: usize,
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers.get(numbers.len() / 2).copied().unwrap_or(f64::NAN)
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn figures(scenario: &Scenario, all: &[Seen]) -> Figures {
    let fast = usize::from(scenario.receivers) - usize::from(scenario.has_straggler());
    let last = |seconds: &[Option<f64>]| seconds.iter().flatten().copied().fold(0.0, f64::max);
    let of = |figure: &dyn Fn(&Seen) -> f64| median(all.iter().map(figure).collect());
    let bytes = scenario.bytes as f64;
    let received = bytes * f64::from(scenario.receivers);
    Figures {
        seconds: of(&|seen| last(&seen.seconds[..fast])),
        slow_seconds: scenario.has_straggler().then(|| of(&|seen| last(&seen.seconds[fast..]))),
        sent: of(&|seen| seen.sent_bytes as f64 / bytes),
        returned: of(&|seen| seen.returned_bytes as f64 / bytes),
        sender_ns_per_byte: of(&|seen| seen.sender_cpu * 1e9 / bytes),
        receiver_ns_per_byte: of(&|seen| seen.receiver_cpu * 1e9 / received),
        missing: all
            .iter()
            .map(|seen| seen.seconds.iter().filter(|seconds| seconds.is_none()).count())
            .max()
            .unwrap_or(0),
    }
}

fn bound(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
}

/// Prints a row.
pub(crate) fn print(scenario: &Scenario, lines: &[Line]) {
    let rate = scenario.rate.map_or("unshaped".to_owned(), |rate| format!("{} Mbit/s", rate.bits_per_sec / 1_000_000));
    println!(
        "\n{}: {} receivers, {} bytes, {rate}, lost: {:?}",
        scenario.name, scenario.receivers, scenario.bytes, scenario.loss
    );
    println!(
        "  {:<22} {:>9} {:>7} {:>7} {:>7} {:>7} {:>6} {:>6} {:>8} {:>8}",
        "", "seconds", "×limit", "goal", "sent", "goal", "slow", "goal", "send ns", "recv ns"
    );
    let Goal { time, slow_time, sent, millis } = scenario.goal;
    for line in lines {
        let all = match &line.result {
            Ok(all) => all,
            Err(reason) => {
                println!("  {:<22} {reason}", line.tool);
                continue;
            }
        };
        let figures = figures(scenario, all);
        let limit = scenario.limit_seconds();
        let goal = time.or(millis);
        let ratio = limit.map(|limit| figures.seconds / limit).or(millis.map(|_| figures.seconds * 1000.0));
        let slow = figures.slow_seconds.zip(limit).map(|(slow, limit)| slow / limit);
        println!(
            "  {:<22} {:>9.4} {:>7} {:>7} {:>7.3} {:>7} {:>6} {:>6} {:>8.2} {:>8.2}{}",
            line.tool,
            figures.seconds,
            bound(ratio, 3),
            bound(goal, 2),
            figures.sent,
            bound(sent, 2),
            bound(slow, 2),
            bound(slow_time, 2),
            figures.sender_ns_per_byte,
            figures.receiver_ns_per_byte,
            if figures.missing > 0 { format!("  {} receivers without it", figures.missing) } else { String::new() },
        );
    }
}

/// A row for machines.
pub(crate) fn json(scenario: &Scenario, lines: &[Line]) -> Value {
    let tools: Vec<Value> = lines
        .iter()
        .map(|line| match &line.result {
            Err(reason) => json!({ "tool": line.tool, "failed": reason }),
            Ok(all) => {
                let figures = figures(scenario, all);
                json!({
                    "tool": line.tool,
                    "runs": all.len(),
                    "seconds": figures.seconds,
                    "slow_seconds": figures.slow_seconds,
                    "time_ratio": scenario.limit_seconds().map(|limit| figures.seconds / limit),
                    "sent_ratio": figures.sent,
                    "returned_ratio": figures.returned,
                    "sender_cpu_ns_per_byte": figures.sender_ns_per_byte,
                    "receiver_cpu_ns_per_byte": figures.receiver_ns_per_byte,
                    "receivers_without": figures.missing,
                    "overflows": all.last().and_then(|seen| seen.overflows),
                    "notes": all.last().map(|seen| seen.notes.clone()),
                })
            }
        })
        .collect();
    let Goal { time, slow_time, sent, millis } = scenario.goal;
    json!({
        "row": scenario.name,
        "receivers": scenario.receivers,
        "bytes": scenario.bytes,
        "rate_bits_per_sec": scenario.rate.map(|rate| rate.bits_per_sec),
        "slow_bits_per_sec": scenario.slow_rate.map(|rate| rate.bits_per_sec),
        "lost": format!("{:?}", scenario.loss),
        "goal": { "time_ratio": time, "slow_time_ratio": slow_time, "sent_ratio": sent, "milliseconds": millis },
        "tools": tools,
    })
}
