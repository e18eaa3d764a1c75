//! Sessions of which four in five are disturbed by somebody who has the segment's key and a credential of
//! its own, but is in no session.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use pressrun_netlab::lab::{Lab, Spec};
use pressrun_netlab::{Host, Rate};
use serde_json::Value;

use crate::scenario::SENDER;
use crate::watch::Watched;

const RECEIVERS: u8 = 4;
const ADVERSARY: Host = Host::Server(1, RECEIVERS + 2);
/// What the links carry: the session, the adversary, and a little air.
const LINKS: Rate = Rate::mbit(120);
/// What the session sends.
const SESSION: Rate = Rate::mbit(100);
const OBJECT_BYTES: usize = 128 << 20;
/// Most sessions, should the adversary not get through with all it has to send.
const SESSIONS_MAX: u32 = 400;
const PATIENCE: Duration = Duration::from_secs(300);
/// So many disturbed sessions follow one that is left in peace.
const DISTURBED_IN_A_ROW: usize = 4;
/// Share of the session's goodput that may be lost.
const LOSS_MAX: f64 = 0.10;
/// By how much the memory of a receiver may grow once it has seen the adversary.
const GROWTH_BYTES_MAX: u64 = 4 << 20;

/// What receivers said at the end of a session.
struct Over {
    seconds: f64,
    whole: usize,
    memory_bytes: Vec<u64>,
}

/// Runs sessions until the adversary has sent so many frames; fails when what was seen is not what it must be.
pub(crate) fn run(lan_cast: &Path, directory: &Path, frames: u64) -> Result<(), Box<dyn Error>> {
    let lab = Lab::up(Spec { lan_rate: Some(LINKS), ..Spec::of(1, RECEIVERS + 2) })?;
    for server in 1..=RECEIVERS + 2 {
        lab.keep_in_lan(Host::Server(1, server))?;
    }
    let (mut receivers, deadline) = (Vec::new(), || Instant::now() + PATIENCE);
    for number in 1..=RECEIVERS {
        let place = directory.join(number.to_string());
        fs::create_dir(&place)?;
        let mut command = lab.command(Host::Server(1, number + 1), lan_cast);
        command.args(["receive", "--interface", "eth0", "--forget", "--number", &number.to_string(), "--directory"]);
        receivers.push(Watched::start(command.arg(place))?);
    }
    let mut adversary = lab.command(ADVERSARY, lan_cast);
    let forged_bytes_per_sec = SESSION.bits_per_sec / 8 / 10;
    adversary.args(["forge", "--interface", "eth0", "--rate-bytes-per-sec", &forged_bytes_per_sec.to_string()]);
    let mut adversary = Watched::start(&mut adversary)?;
    for process in receivers.iter().chain([&adversary]) {
        process.hear_until("ready", deadline()).ok_or("a process was not ready in time")?;
    }
    let mut sender = lab.command(SENDER, lan_cast);
    sender.args(["send", "--interface", "eth0", "--members", &RECEIVERS.to_string()]);
    sender.args(["--bytes", &OBJECT_BYTES.to_string(), "--sessions", &SESSIONS_MAX.to_string()]);
    sender.args(["--rate-bytes-per-sec", &(SESSION.bits_per_sec / 8).to_string()]);
    let mut sender = Watched::start(&mut sender)?;

    let (mut peaceful, mut disturbed, mut sent) = (Vec::new(), Vec::new(), Value::Null);
    while total(&sent) < frames {
        if disturbed.len() % DISTURBED_IN_A_ROW == 0 {
            peaceful.push(session(&mut sender, &receivers)?);
        }
        adversary.tell("go");
        adversary.hear_until("heard", deadline()).ok_or("the adversary is gone")?;
        disturbed.push(session(&mut sender, &receivers)?);
        adversary.tell("hold");
        sent = adversary.hear_until("heard", deadline()).and_then(|said| said.last().cloned()).unwrap_or_default();
        println!("{} of {frames} frames sent", total(&sent));
    }
    judge(&peaceful, &disturbed, &sent)
}

fn total(sent: &Value) -> u64 {
    ["forged", "damaged", "repeated", "said"].iter().filter_map(|kind| sent[kind].as_u64()).sum()
}

/// One object to all.
fn session(sender: &mut Watched, receivers: &[Watched]) -> Result<Over, Box<dyn Error>> {
    let deadline = || Instant::now() + PATIENCE;
    sender.hear_until("ready", deadline()).ok_or("the sender was not ready in time")?;
    sender.tell("go");
    let heard = sender.hear_until("finished", deadline()).ok_or("a session did not finish in time")?;
    // When each had acknowledged the whole object; who never did took for ever.
    let mut acknowledged = vec![None; receivers.len()];
    for said in heard.iter().filter(|said| said["event"] == "complete") {
        let member = said["member"].as_u64().and_then(|member| usize::try_from(member).ok()?.checked_sub(1));
        if let Some(place) = member.and_then(|member| acknowledged.get_mut(member)) {
            *place = said["micros"].as_f64().map(|micros| micros / 1e6);
        }
    }
    let seconds = acknowledged.iter().fold(0.0, |longest: f64, seconds| longest.max(seconds.unwrap_or(f64::INFINITY)));
    let (mut whole, mut memory_bytes) = (0, Vec::new());
    for (receiver, acknowledged) in receivers.iter().zip(&acknowledged) {
        let said = receiver.hear_until("over", deadline()).ok_or("a receiver does not say how it went")?;
        let over = said.last().cloned().unwrap_or_default();
        whole += usize::from(over["verified"] == true && acknowledged.is_some());
        memory_bytes.push(over["memory_bytes"].as_u64().unwrap_or(u64::MAX));
    }
    Ok(Over { seconds, whole, memory_bytes })
}

fn judge(peaceful: &[Over], disturbed: &[Over], sent: &Value) -> Result<(), Box<dyn Error>> {
    let median = |sessions: &[Over]| {
        let mut seconds: Vec<f64> = sessions.iter().map(|over| over.seconds).collect();
        seconds.sort_by(f64::total_cmp);
        seconds[seconds.len() / 2]
    };
    let (in_peace, under_fire) = (median(peaceful), median(disturbed));
    let lost = 1.0 - in_peace / under_fire;
    let objects = (peaceful.len() + disturbed.len()) * usize::from(RECEIVERS);
    let whole: usize = peaceful.iter().chain(disturbed).map(|over| over.whole).sum();
    // The first disturbed session shows what a receiver needs; what follows must not add to it.
    let growth = disturbed.first().zip(disturbed.last()).map_or(0, |(first, last)| {
        let grown = first.memory_bytes.iter().zip(&last.memory_bytes).map(|(first, last)| last.saturating_sub(*first));
        grown.max().unwrap_or(0)
    });
    println!("sent by the adversary: {sent}");
    println!("{objects} objects received by multicast, {whole} of them whole and verified");
    println!(
        "seconds for an object: {in_peace:.3} in peace, {under_fire:.3} under fire: {:.1} % of the goodput lost",
        lost * 100.0
    );
    let longest = disturbed.iter().map(|over| over.seconds).fold(0.0, f64::max);
    println!("{} sessions in peace, {} under fire, the longest {longest:.3} s", peaceful.len(), disturbed.len());
    println!("a receiver's memory grew by at most {} KiB", growth >> 10);
    if whole != objects {
        return Err("an object was not received by multicast, or not what was sent".into());
    }
    if lost > LOSS_MAX {
        return Err("more of the goodput was lost than may be".into());
    }
    if growth > GROWTH_BYTES_MAX {
        return Err("the adversary costs memory".into());
    }
    Ok(())
}
