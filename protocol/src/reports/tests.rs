//! A leader and its members in virtual time, with loss by seed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use common::digest::{Digest, Version};
use common::ids::{AssignmentNumber, ServerId};
use common::outcome::{Outcome, Refusal, RefusalCode, Report};
use common::time::Timestamp;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::{
    ASSIGNMENTS_MAX, Collector, Config, Destination, Event, Item, Known, Message, Output, Rejected, Reporter,
    SubmitError, parts,
};

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn id(number: u16) -> ServerId {
    let [high, low] = number.to_be_bytes();
    ServerId([high, low, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9])
}

fn prepared(number: u64) -> Outcome {
    Outcome::Prepared { version: Version(Digest::of(&number.to_le_bytes())) }
}

fn committed(number: u64) -> Outcome {
    Outcome::Committed { version: Version(Digest::of(&number.to_le_bytes())) }
}

fn missing(runs: u32) -> Outcome {
    Outcome::Missing((0..runs).map(|run| (run * 7, run % 5 + 1)).collect())
}

fn report(server: u16, assignment: u64, outcome: Outcome) -> Report {
    Report { server: id(server), assignment: AssignmentNumber(assignment), outcome }
}

/// Server 1 leads first; every server can be told to follow another collector.
struct Segment {
    rng: ChaCha8Rng,
    now: Timestamp,
    loss_percent: u64,
    leader: ServerId,
    collector: Collector,
    reporters: BTreeMap<ServerId, Reporter>,
    flying: BTreeMap<(Timestamp, u64), (ServerId, ServerId, Message)>,
    sent: u64,
    datagrams: u64,
    news: Vec<(Timestamp, Vec<Report>)>,
}

impl Segment {
    fn of_servers(count: u16, loss_percent: u64, seed: u64) -> Self {
        let mut segment = Self {
            rng: ChaCha8Rng::seed_from_u64(seed),
            now: Timestamp(7_000_000),
            loss_percent,
            leader: id(1),
            collector: Collector::new(1, Config::default()),
            reporters: BTreeMap::new(),
            flying: BTreeMap::new(),
            sent: 0,
            datagrams: 0,
            news: Vec::new(),
        };
        for number in 1..=count {
            let seed = segment.rng.next_u64();
            segment.reporters.insert(id(number), Reporter::new(id(number), 0, Config::default(), seed));
        }
        segment.elect(1, 1);
        segment
    }

    fn elect(&mut self, leader: u16, epoch: u64) {
        self.leader = id(leader);
        self.collector = Collector::new(epoch, Config::default());
        let now = self.now;
        for reporter in self.reporters.values_mut() {
            reporter.follows(id(leader), epoch, now);
        }
        self.drain();
    }

    fn submit(&mut self, report: Report) {
        let now = self.now;
        self.reporters.get_mut(&report.server).expect("known").submit(report, now).expect("fits");
        self.drain();
    }

    fn pending(&self) -> usize {
        self.reporters.values().map(Reporter::pending).sum()
    }

    fn drain(&mut self) {
        let mut said = Vec::new();
        while let Some(output) = self.collector.poll_output() {
            said.push((self.leader, output));
        }
        for (server, reporter) in &mut self.reporters {
            while let Some(output) = reporter.poll_output() {
                said.push((*server, output));
            }
        }
        for (from, output) in said {
            match output {
                Output::Event(Event::Reports(reports)) => self.news.push((self.now, reports)),
                Output::Event(Event::Unheard(assignment)) => panic!("{assignment} unheard"),
                Output::Send { to, message } => self.send(from, to, &message),
            }
        }
    }

    fn send(&mut self, from: ServerId, to: Destination, message: &Message) {
        let bytes = parts::encoded(message).expect("encodes").len();
        assert!(bytes <= 1_100, "{bytes} bytes do not fit a datagram");
        self.datagrams += 1;
        let receivers: Vec<_> = match to {
            Destination::Server(server) => vec![server],
            Destination::Segment => self.reporters.keys().copied().collect(),
        };
        for to in receivers {
            if to == from || self.rng.next_u64() % 100 >= self.loss_percent {
                self.sent += 1;
                let delay = Duration::from_micros(100 + self.rng.next_u64() % 1_000);
                self.flying.insert((self.now + delay, self.sent), (from, to, message.clone()));
            }
        }
    }

    fn run_for(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            let arrival = self.flying.keys().next().map(|(at, _)| *at);
            let timers = self.reporters.values().map(Reporter::poll_timeout).chain([self.collector.poll_timeout()]);
            let Some(next) = arrival.into_iter().chain(timers.flatten().min()).min().filter(|at| *at <= end) else {
                break;
            };
            self.now = self.now.max(next);
            if arrival == Some(next) {
                let (_, (from, to, message)) = self.flying.pop_first().expect("an arrival");
                if to == self.leader {
                    self.collector.handle_message(from, &message, self.now).expect("honest members");
                }
                self.reporters.get_mut(&to).expect("known").handle_message(from, &message, self.now);
            } else {
                self.collector.handle_timeout(self.now);
                for reporter in self.reporters.values_mut() {
                    reporter.handle_timeout(self.now);
                }
            }
            self.drain();
        }
        self.now = end;
    }

    fn told(&self) -> Vec<Report> {
        self.news.iter().flat_map(|(_, reports)| reports.clone()).collect()
    }
}

#[test]
fn a_report_reaches_the_leaders_news_in_one_passage_and_is_acknowledged_in_another() {
    let mut segment = Segment::of_servers(3, 0, 1);
    segment.submit(report(2, 5, prepared(1)));
    segment.run_for(Duration::from_micros(1_200));
    assert_eq!(segment.told(), [report(2, 5, prepared(1))]);
    segment.run_for(ms(2));
    assert_eq!(segment.pending(), 0);
    assert_eq!(segment.datagrams, 2);
    segment.run_for(ms(60_000));
    assert_eq!(segment.datagrams, 2, "and nothing is said again");
}

#[test]
fn reports_of_six_servers_are_told_within_ten_milliseconds_and_acknowledged_together() {
    let mut segment = Segment::of_servers(6, 0, 2);
    for number in 1..=6 {
        segment.submit(report(number, 5, committed(1)));
    }
    segment.run_for(ms(12));
    assert_eq!(segment.told().len(), 6);
    assert!(segment.news.len() <= 2, "the first at once, the others together");
    segment.run_for(ms(3));
    assert_eq!(segment.pending(), 0, "the leader's own one too");
    assert_eq!(segment.datagrams, 8);
}

#[test]
fn whatever_is_lost_every_last_outcome_arrives_and_each_is_told_once() {
    for seed in 0..200 {
        let mut segment = Segment::of_servers(6, seed % 31, seed);
        let mut last = BTreeMap::new();
        for step in 0..60 {
            let number = u16::try_from(1 + segment.rng.next_u64() % 6).expect("small");
            let assignment = 1 + segment.rng.next_u64() % 4;
            let outcome = match step % 4 {
                // All differ: one that comes back after another may be told again.
                0 => Outcome::Refused(Refusal { code: RefusalCode::Io, reason: format!("step {step}") }),
                1 => prepared(step),
                2 => missing(3_000 + u32::try_from(step).expect("small")),
                _ => committed(step),
            };
            let report = report(number, assignment, outcome);
            last.insert((report.server, report.assignment), report.clone());
            segment.submit(report);
            let pause = ms(segment.rng.next_u64() % 150);
            segment.run_for(pause);
        }
        segment.run_for(ms(30_000));
        assert_eq!(segment.pending(), 0, "seed {seed}");
        let known: Vec<_> = last.into_values().collect();
        assert_eq!(segment.collector.all(), known, "seed {seed}");
        let told = segment.told();
        for report in &known {
            let of_it: Vec<_> =
                told.iter().filter(|t| (t.server, t.assignment) == (report.server, report.assignment)).collect();
            assert_eq!(of_it.last(), Some(&report), "seed {seed}");
            assert!(of_it.windows(2).all(|two| two[0] != two[1]), "seed {seed}: told twice");
        }
    }
}

#[test]
fn a_new_leader_learns_everything_that_is_kept_and_nothing_that_is_forgotten() {
    for seed in 0..50 {
        let mut segment = Segment::of_servers(4, seed % 31, seed);
        for number in 1..=4 {
            for assignment in 1..=100 {
                segment.submit(report(number, assignment, committed(assignment)));
            }
            segment.submit(report(number, 101, missing(5_000)));
        }
        segment.run_for(ms(20_000));
        for reporter in segment.reporters.values_mut() {
            reporter.forget(AssignmentNumber(7));
        }
        segment.elect(2, 2);
        segment.run_for(ms(20_000));
        assert_eq!(segment.collector.all().len(), 4 * 100, "seed {seed}");
        assert!(segment.collector.all().iter().all(|report| report.assignment != AssignmentNumber(7)));
        assert_eq!(segment.pending(), 0, "seed {seed}");
    }
}

#[test]
fn a_new_leader_hears_the_newest_outcome_at_once_and_is_not_flooded() {
    let mut segment = Segment::of_servers(2, 0, 3);
    for assignment in 1..=200 {
        segment.submit(report(2, assignment, committed(assignment)));
    }
    segment.run_for(ms(1_000));
    segment.news.clear();
    let before = segment.datagrams;
    segment.elect(1, 2);
    assert_eq!(segment.datagrams, before + 1);
    segment.run_for(ms(2));
    assert!(segment.told().contains(&report(2, 200, committed(200))));
    segment.run_for(ms(500));
    assert_eq!(segment.told().len(), 200);
}

#[test]
fn an_outcome_of_a_quarter_of_a_megabyte_arrives_soon_and_a_larger_one_is_refused() {
    for (loss_percent, bound) in [(0, 100), (20, 4_000)] {
        let mut segment = Segment::of_servers(2, loss_percent, 4);
        let outcome = missing(60_000);
        segment.submit(report(2, 9, outcome.clone()));
        segment.run_for(ms(bound));
        assert_eq!(segment.told(), [report(2, 9, outcome)]);
    }
    let mut reporter = Reporter::new(id(2), 0, Config::default(), 1);
    let error = reporter.submit(report(2, 9, missing(90_000)), Timestamp(1)).expect_err("too large");
    assert!(matches!(error, SubmitError::TooLarge { assignment: AssignmentNumber(9), .. }));
    let error = reporter.submit(report(3, 9, Outcome::Received), Timestamp(1)).expect_err("not ours");
    assert_eq!(error, SubmitError::OtherServer { assignment: AssignmentNumber(9), server: id(3) });
}

#[test]
fn an_outcome_that_a_later_one_overtook_changes_nothing() {
    let mut collector = Collector::new(1, Config::default());
    let item = |serial, outcome| Item { assignment: AssignmentNumber(3), serial, outcome };
    let mut says = |item, at| {
        collector.handle_message(id(4), &Message::Reports(vec![item]), Timestamp(at)).expect("makes sense");
        std::iter::from_fn(|| collector.poll_output()).collect::<Vec<_>>()
    };
    let ack = Known { server: id(4), assignment: AssignmentNumber(3), serial: 8 };
    let ack = Output::Send { to: Destination::Server(id(4)), message: Message::Ack { epoch: 1, known: vec![ack] } };
    let news = Output::Event(Event::Reports(vec![report(4, 3, committed(1))]));
    assert_eq!(says(item(8, committed(1)), 1_000_000), [news, ack.clone()]);
    assert_eq!(says(item(7, prepared(1)), 2_000_000), std::slice::from_ref(&ack));
    assert_eq!(says(item(8, committed(1)), 3_000_000), [ack]);
}

#[test]
fn a_server_whose_clock_went_back_is_heard_all_the_same() {
    let mut segment = Segment::of_servers(2, 0, 5);
    segment.reporters.insert(id(2), Reporter::new(id(2), 1_000, Config::default(), 1));
    let now = segment.now;
    segment.reporters.get_mut(&id(2)).expect("known").follows(id(1), 1, now);
    segment.submit(report(2, 1, prepared(1)));
    segment.run_for(ms(50));
    segment.reporters.insert(id(2), Reporter::new(id(2), 5, Config::default(), 1));
    segment.reporters.get_mut(&id(2)).expect("known").follows(id(1), 1, segment.now);
    segment.submit(report(2, 1, committed(1)));
    segment.run_for(ms(50));
    assert_eq!(segment.told(), [report(2, 1, prepared(1)), report(2, 1, committed(1))]);
    assert_eq!(segment.pending(), 0);
}

#[test]
fn a_reporter_keeps_the_newest_outcomes_and_names_what_nobody_heard() {
    let mut reporter = Reporter::new(id(2), 0, Config::default(), 1);
    for assignment in 0..=ASSIGNMENTS_MAX as u64 {
        reporter.submit(report(2, assignment, Outcome::Received), Timestamp(1)).expect("fits");
    }
    assert_eq!(reporter.pending(), ASSIGNMENTS_MAX);
    assert_eq!(reporter.poll_output(), Some(Output::Event(Event::Unheard(AssignmentNumber(0)))));
    assert_eq!(reporter.poll_timeout(), None, "without a leader there is nobody to tell");
}

#[test]
fn missing_reports_are_asked_for_one_by_one_when_few_and_by_the_shorter_list_when_many() {
    let mut collector = Collector::new(1, Config::default());
    let expected: BTreeSet<_> = (1..=300).map(id).collect();
    let item = Item { assignment: AssignmentNumber(3), serial: 1, outcome: Outcome::Received };
    let message = Message::Reports(vec![item]);
    for (reported, messages, to_all) in [(100, 2, true), (140, 3, true), (298, 2, false)] {
        for number in 1..=reported {
            collector.handle_message(id(number), &message, Timestamp(1)).expect("makes sense");
        }
        while collector.poll_output().is_some() {}
        collector.ask(AssignmentNumber(3), &expected);
        let asks: Vec<_> = std::iter::from_fn(|| collector.poll_output()).collect();
        assert_eq!(asks.len(), messages);
        let mut asked = BTreeSet::new();
        for ask in asks {
            let Output::Send { to, message: Message::Ask(ask) } = ask else { panic!("unexpected {ask:?}") };
            assert_eq!(to == Destination::Segment, to_all);
            assert!(parts::encoded(&Message::Ask(ask.clone())).expect("encodes").len() <= 1_100);
            assert_eq!(ask.listed_reported, to_all);
            asked.extend(expected.iter().filter(|server| ask.asks(**server)).copied());
        }
        assert_eq!(asked, expected.iter().filter(|server| **server > id(reported)).copied().collect());
    }
}

#[test]
fn who_is_asked_says_it_again_and_who_is_not_keeps_silent() {
    let mut segment = Segment::of_servers(3, 0, 6);
    for number in 1..=3 {
        segment.submit(report(number, 5, committed(1)));
    }
    segment.run_for(ms(100));
    segment.collector.forget(AssignmentNumber(5));
    segment.collector.ask(AssignmentNumber(5), &[id(2), id(3)].into_iter().collect());
    segment.drain();
    segment.run_for(ms(80));
    assert_eq!(segment.collector.all().len(), 3, "nobody is listed as heard, so all that have one say it");
    let before = segment.datagrams;
    segment.collector.ask(AssignmentNumber(5), &[id(2), id(3)].into_iter().collect());
    segment.drain();
    segment.run_for(ms(1_000));
    assert_eq!(segment.datagrams, before);
}

#[test]
fn parts_that_cannot_be_and_what_cannot_be_read_are_refused_by_name() {
    let mut collector = Collector::new(1, Config::default());
    let assignment = AssignmentNumber(3);
    let mut says = |part, parts, bytes: &[u8]| {
        let message = Message::Part { assignment, serial: 4, part, parts, bytes: bytes.to_vec() };
        collector.handle_message(id(9), &message, Timestamp(2))
    };
    for (part, parts) in [(0, 0), (1, 1), (0, 257)] {
        assert_eq!(says(part, parts, &[]), Err(Rejected::BadParts { from: id(9), assignment }));
    }
    assert_eq!(says(0, 1, &[250, 1]), Err(Rejected::Unreadable { from: id(9), assignment }));
    let refused = Outcome::Refused(Refusal { code: RefusalCode::Io, reason: "x".repeat(1_500) });
    let bytes = parts::encoded(&refused).expect("encodes");
    assert_eq!(says(0, 2, &bytes[..1_000]), Ok(()));
    assert_eq!(says(1, 2, &bytes[1_000..]), Ok(()));
    assert_eq!(collector.all(), [Report { server: id(9), assignment, outcome: refused }]);
}

#[test]
fn messages_keep_their_bytes() {
    let server = ServerId([0xab; 16]);
    let assignment = AssignmentNumber(300);
    let id = "ab".repeat(16);
    let ask = super::Ask { assignment, after: None, until: Some(server), listed_reported: true, listed: vec![server] };
    let samples = [
        (
            Message::Reports(vec![Item { assignment, serial: 7, outcome: Outcome::Missing(vec![(1, 2)]) }]),
            "0001ac020701010102".to_owned(),
        ),
        (Message::Part { assignment, serial: 7, part: 1, parts: 2, bytes: vec![9] }, "01ac020701020109".to_owned()),
        (Message::Ack { epoch: 9, known: vec![Known { server, assignment, serial: 7 }] }, format!("020901{id}ac0207")),
        (Message::PartsHeld { epoch: 9, assignment, serial: 7, held: vec![3] }, "0309ac02070103".to_owned()),
        (Message::Ask(ask), format!("04ac020001{id}0101{id}")),
    ];
    for (message, bytes) in samples {
        let encoded = parts::encoded(&message).expect("encodes");
        let hex: String = encoded.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, bytes, "{message:?}");
    }
}

#[test]
fn acknowledgements_of_a_leaders_earlier_epoch_count_for_nothing_in_its_next_one() {
    let now = Timestamp(1_000_000);
    let mut reporter = Reporter::new(id(4), 10, Config::default(), 1);
    reporter.follows(id(1), 8, now);
    reporter.submit(report(4, 3, committed(1)), now).expect("fits");
    let ack = |epoch| Message::Ack {
        epoch,
        known: vec![Known { server: id(4), assignment: AssignmentNumber(3), serial: 11 }],
    };
    reporter.handle_message(id(1), &ack(7), now);
    assert_eq!(reporter.pending(), 1);
    reporter.handle_message(id(1), &ack(8), now);
    assert_eq!(reporter.pending(), 0);
}

#[test]
fn presets_are_valid() {
    for preset in [Config::lan(), Config::seed()] {
        assert_eq!(preset.validate(), Ok(()));
    }
    let broken = Config { gather: Duration::from_millis(50), ..Config::lan() };
    let error = broken.validate().expect_err("repeats before it was gathered");
    assert_eq!(error.to_string(), "twice gather (100ms) must be shorter than repeat_min (100ms)");
}
