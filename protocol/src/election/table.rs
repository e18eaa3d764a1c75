//! The table of states and inputs in `docs/protocol.md`, a check for each cell. Announcements are those of
//! leaders that have answered; see `proof`.

use std::time::Duration;

use common::credential::Roles;
use common::ids::ServerId;
use common::time::Timestamp;

use super::machine::State;
use super::{Config, Election, LeaderAnnouncement, LeaderClaim, Message, Output, Priority, Standing};

const START: Timestamp = Timestamp(1_000_000_000);
/// The highest epoch that the server obeyed, in the states that no election has led to yet.
const OWN: u64 = 5 << 32;

fn id(number: u8) -> ServerId {
    ServerId([number; 16])
}

fn priority(server: u8, preassigned: u8) -> Priority {
    Standing { preassigned, ..Standing::default() }.priority(id(server), false, 0)
}

fn letter(election: &Election) -> char {
    match election.state {
        State::Unknown { .. } => 'U',
        State::Conceding { .. } => 'C',
        State::VotingOpen { .. } => 'V',
        State::Leading { .. } => 'L',
        State::Known { .. } => 'K',
    }
}

fn drain(election: &mut Election) -> String {
    let word = |output: Output| match output {
        Output::Send(Message::Announcement(_)) => "LA",
        Output::Send(Message::Claim(_)) => "LC",
        Output::Send(Message::Resign { .. }) => "resign",
        Output::Send(Message::Query { .. }) => "query",
        Output::Send(Message::Probe { .. }) => "probe",
        Output::Send(Message::Heard { .. }) => "heard",
        Output::Send(Message::HandOver { .. }) => "hand-over",
        Output::Send(Message::Challenge { .. }) => "challenge",
        Output::Send(Message::Verify { .. } | Message::Verified { .. } | Message::Claiming { .. }) => {
            "to all what is for one"
        }
        Output::SendTo { .. } => "to one",
        Output::PersistEpoch(_) => "durable",
        Output::BecameLeader { .. } => "leads",
        Output::Follows { .. } => "follows",
        Output::LostLeader => "lost",
    };
    let said: Vec<&str> = std::iter::from_fn(|| election.poll_output()).map(word).collect();
    said.join(" ")
}

/// A server in a state, the epoch that it obeyed last, the one that it claims or concedes to, and a time
/// at which nothing of it is due and nothing was said a moment ago.
fn in_state(state: char, config: &Config) -> (Election, u64, u64, Timestamp) {
    let standing = Standing { preassigned: 5, ..Standing::default() };
    let mut election = Election::new(id(7), Roles::default(), standing, OWN, config.clone(), 1, START);
    let hear = |election: &mut Election, message| {
        election.take(id(3), Roles::default(), &message, START);
    };
    let mut now = START;
    let (mut obeyed, mut claimed) = (OWN, OWN);
    match state {
        'U' => {}
        'C' => {
            claimed = 6 << 32;
            hear(&mut election, Message::Claim(LeaderClaim { epoch: claimed, priority: priority(3, 9), seen: 0 }));
        }
        'K' => {
            (obeyed, claimed) = (6 << 32, 6 << 32);
            let lead = LeaderAnnouncement { epoch: obeyed, priority: priority(3, 1), members: 1 };
            hear(&mut election, Message::Announcement(lead));
        }
        _ => {
            while letter(&election) != state {
                now = election.poll_timeout().expect("a candidate has timers");
                election.handle_timeout(now);
            }
            if let State::VotingOpen { epoch, .. } = election.state {
                claimed = epoch;
            }
            if let State::Leading { epoch, .. } = election.state {
                (obeyed, claimed) = (epoch, epoch);
            }
            now = now + config.answer_gap;
        }
    }
    drain(&mut election);
    assert_eq!(letter(&election), state);
    (election, obeyed, claimed, now)
}

fn input(name: &str, epoch: u64, claimed: u64) -> (ServerId, Message) {
    let announcement =
        |from: u8, epoch| Message::Announcement(LeaderAnnouncement { epoch, priority: priority(from, 1), members: 1 });
    let claim = |from: u8, strength, epoch, seen| {
        Message::Claim(LeaderClaim { epoch, priority: priority(from, strength), seen })
    };
    let round = 1 << 32;
    let (from, message) = match name {
        "LA lower" => (4, announcement(4, epoch - round)),
        "LA lower, own leader" => (3, announcement(3, epoch - round)),
        "LA same" => (4, announcement(4, epoch)),
        "LA same, own leader" => (3, announcement(3, epoch)),
        "LA higher" => (4, announcement(4, epoch + round)),
        "LC stronger, older" => (4, claim(4, 10, claimed - round, 0)),
        "LC stronger, same" => (4, claim(4, 10, claimed, 0)),
        "LC stronger, newer" => (4, claim(4, 10, claimed + round, 0)),
        "LC weaker, older" => (4, claim(4, 1, claimed - round, 0)),
        "LC weaker, same" => (4, claim(4, 1, claimed, 0)),
        "LC weaker, newer" => (4, claim(4, 1, claimed + round, 0)),
        "LC newer, own leader" => (3, claim(3, 1, claimed + round, 0)),
        "LC that has seen more" => (4, claim(4, 1, claimed + round, epoch + round)),
        "query" => (4, Message::Query { seen: 0 }),
        "query that has seen more" => (4, Message::Query { seen: epoch + round }),
        "query, own leader" => (3, Message::Query { seen: epoch }),
        "resign" => (4, Message::Resign { epoch }),
        "resign, own leader" => (3, Message::Resign { epoch }),
        "probe" => (4, Message::Probe { leader: id(3), epoch }),
        "heard" => (4, Message::Heard { leader: id(3), epoch }),
        "hand-over to this" => (3, Message::HandOver { epoch, to: id(7) }),
        "hand-over to another" => (3, Message::HandOver { epoch, to: id(4) }),
        "challenge" => (4, Message::Challenge { epoch, priority: priority(4, 10) }),
        other => panic!("no such input: {other}"),
    };
    (id(from), message)
}

/// What a state becomes, what is said at once, and whether it will ask who leads.
fn cell(state: char, name: &str, config: &Config) -> String {
    let (mut election, obeyed, claimed, now) = in_state(state, config);
    if name == "time" {
        // What is not due yet (a question, a repetition) is not what ends the state.
        for _ in 0..20 {
            let at = election.poll_timeout().expect("every state has a time");
            election.handle_timeout(at);
            let said = drain(&mut election);
            if letter(&election) != state || said == "LA" {
                return format!("{} {said}", letter(&election)).trim_end().to_owned();
            }
        }
        panic!("{state} never ends");
    }
    let (from, message) = input(name, obeyed, claimed);
    election.take(from, Roles::default(), &message, now + Duration::from_micros(1));
    let said = drain(&mut election);
    let asks = if election.asks() { " ask" } else { "" };
    format!("{} {said}{asks}", letter(&election)).trim_end().to_owned()
}

const INPUTS: [&str; 24] = [
    "LA lower",
    "LA lower, own leader",
    "LA same",
    "LA same, own leader",
    "LA higher",
    "LC stronger, older",
    "LC stronger, same",
    "LC stronger, newer",
    "LC weaker, older",
    "LC weaker, same",
    "LC weaker, newer",
    "LC newer, own leader",
    "LC that has seen more",
    "query",
    "query that has seen more",
    "query, own leader",
    "resign",
    "resign, own leader",
    "probe",
    "heard",
    "hand-over to this",
    "hand-over to another",
    "challenge",
    "time",
];

fn table(config: &Config) -> String {
    let mut table = String::new();
    for name in INPUTS {
        table += name;
        for state in ['U', 'C', 'V', 'L', 'K'] {
            table += " | ";
            table += &cell(state, name, config);
        }
        table += "\n";
    }
    table
}

#[test]
fn every_state_does_what_the_table_says_with_every_input() {
    let config = Config { preempt_after: Some(Duration::from_secs(30)), ..Config::lan() };
    assert_eq!(table(&config), include_str!("table.txt"));
}
