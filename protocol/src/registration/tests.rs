//! A leader and its members in virtual time, with loss by seed.

use std::collections::BTreeMap;
use std::time::Duration;

use common::credential::Roles;
use common::digest::Digest;
use common::fleet::MemberInfo;
use common::ids::{Sequence, ServerId, ServerName, SiteName};
use common::outcome::SiteState;
use common::time::Timestamp;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::{
    Config, Destination, Event, InfoError, MEMBER_INFO_BYTES_MAX, Member, Message, Output, Registrar, Rejected, parts,
};

const EPOCH: u64 = 3 << 32 | 7;

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn id(number: u16) -> ServerId {
    let [high, low] = number.to_be_bytes();
    ServerId([high, low, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14])
}

fn info(number: u16, sites: u16) -> MemberInfo {
    MemberInfo {
        mtu: None,
        server: id(number),
        name: ServerName::new(format!("web{number}")).expect("a good name"),
        roles: Roles::default(),
        transfer_address: ([127, 0, 0, 1], number).into(),
        sites: (0..sites)
            .map(|site| SiteState {
                site: SiteName::new(format!("site{site}.example.org")).expect("a good name"),
                live: Some(common::digest::Version(Digest::of(&site.to_le_bytes()))),
                backup: Some(common::digest::Version(Digest::of(&site.to_be_bytes()))),
                prepared: None,
                sequence: Sequence(5),
            })
            .collect(),
        disk_free_bytes: 1 << 40,
        cpus: 8,
        load_percent: 50,
        software: "0.1.0".to_owned(),
        location: String::new(),
    }
}

fn leader() -> ServerId {
    id(0)
}

/// The leader is server 0; it can be replaced by a fresh one.
struct Segment {
    config: Config,
    rng: ChaCha8Rng,
    now: Timestamp,
    loss_percent: u64,
    registrar: Registrar,
    members: BTreeMap<ServerId, Member>,
    flying: BTreeMap<(Timestamp, u64), (ServerId, ServerId, Message)>,
    sent: u64,
    changes: Vec<(Timestamp, Vec<MemberInfo>)>,
}

impl Segment {
    fn new(config: Config, loss_percent: u64, seed: u64) -> Self {
        let now = Timestamp(5_000_000);
        let registrar = Registrar::new(info(0, 1), EPOCH, config.clone(), now).expect("short");
        let mut segment = Self {
            config,
            rng: ChaCha8Rng::seed_from_u64(seed),
            now,
            loss_percent,
            registrar,
            members: BTreeMap::new(),
            flying: BTreeMap::new(),
            sent: 0,
            changes: Vec::new(),
        };
        segment.drain();
        segment
    }

    fn join(&mut self, info: &MemberInfo, first_revision: u64) {
        let seed = self.rng.next_u64();
        let mut member = Member::new(info, first_revision, self.config.clone(), seed).expect("fits");
        member.follows(leader(), EPOCH, self.now);
        self.members.insert(info.server, member);
        self.drain();
    }

    fn member(&mut self, number: u16) -> &mut Member {
        self.members.get_mut(&id(number)).expect("a member")
    }

    fn drain(&mut self) {
        let mut said = Vec::new();
        while let Some(output) = self.registrar.poll_output() {
            said.push((leader(), output));
        }
        for (server, member) in &mut self.members {
            while let Some(output) = member.poll_output() {
                said.push((*server, output));
            }
        }
        for (from, output) in said {
            match output {
                Output::Event(Event::Changed(members)) => self.changes.push((self.now, members)),
                Output::Event(Event::Confirmed { .. }) => (),
                Output::Event(Event::SegmentFull { server }) => panic!("{server} found no place"),
                Output::Send { to, message } => self.send(from, to, &message),
            }
        }
    }

    fn send(&mut self, from: ServerId, to: Destination, message: &Message) {
        let bytes = parts::encoded(message).expect("encodes").len();
        assert!(bytes <= 1_100, "{bytes} bytes do not fit a datagram");
        let receivers: Vec<_> = match to {
            Destination::Server(server) => vec![server],
            Destination::Segment => self.members.keys().copied().collect(),
        };
        for to in receivers {
            if self.rng.next_u64() % 100 >= self.loss_percent {
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
            let timer =
                self.members.values().map(Member::poll_timeout).chain([self.registrar.poll_timeout()]).flatten().min();
            let Some(next) = arrival.into_iter().chain(timer).min().filter(|at| *at <= end) else { break };
            self.now = self.now.max(next);
            if arrival == Some(next) {
                let (_, (from, to, message)) = self.flying.pop_first().expect("an arrival");
                if to == leader() {
                    self.registrar.handle_message(from, &message, self.now).expect("honest members");
                } else if let Some(member) = self.members.get_mut(&to) {
                    member.handle_message(from, &message, self.now);
                }
            } else {
                self.registrar.handle_timeout(self.now);
                for member in self.members.values_mut() {
                    member.handle_timeout(self.now);
                }
            }
            self.drain();
        }
        self.now = end;
    }

    fn known(&self) -> Vec<ServerId> {
        self.changes.last().expect("said at once").1.iter().map(|member| member.server).collect()
    }

    fn expected(&self) -> Vec<ServerId> {
        [leader()].into_iter().chain(self.members.keys().copied()).collect()
    }
}

#[test]
fn a_join_an_update_and_a_leave_are_visible_at_the_leader_without_waiting_for_a_timer() {
    let mut segment = Segment::new(Config::lan(), 0, 1);
    assert_eq!(segment.known(), [leader()]);
    segment.run_for(ms(1_000));
    segment.join(&info(1, 1), 10);
    segment.run_for(ms(3));
    assert_eq!(segment.known(), [leader(), id(1)]);
    segment.run_for(ms(100));
    assert!(segment.member(1).is_confirmed(), "the list confirms");

    let now = segment.now;
    segment.member(1).update(&info(1, 2), now).expect("fits");
    segment.drain();
    assert!(!segment.member(1).is_confirmed());
    segment.run_for(ms(3));
    assert_eq!(segment.changes.last().expect("changes").1[1].sites.len(), 2);
    segment.run_for(ms(100));
    assert!(segment.member(1).is_confirmed());

    segment.member(1).leave();
    segment.drain();
    segment.run_for(ms(3));
    assert_eq!(segment.known(), [leader()]);
    assert_eq!(segment.changes.len(), 4, "and nothing else was said");
}

#[test]
fn whatever_is_lost_the_registration_settles_without_omissions() {
    for seed in 0..150 {
        let mut segment = Segment::new(Config::lan(), seed % 31, seed);
        for number in 1..=12 {
            segment.join(&info(number, number * 3), 1);
        }
        segment.run_for(ms(4_000));
        assert_eq!(segment.known(), segment.expected(), "seed {seed}");
        let now = segment.now;
        segment.member(5).update(&info(5, 40), now).expect("fits");
        segment.drain();
        segment.run_for(ms(5_000));
        let members = &segment.changes.last().expect("changes").1;
        assert_eq!(members.iter().find(|member| member.server == id(5)), Some(&info(5, 40)), "seed {seed}");
        assert!(segment.member(5).is_confirmed(), "seed {seed}");
    }
}

#[test]
fn a_silent_member_is_dropped_after_its_time_and_others_stay() {
    let mut segment = Segment::new(Config::lan(), 0, 2);
    for number in 1..=3 {
        segment.join(&info(number, 1), 1);
    }
    segment.run_for(ms(10_000));
    segment.members.remove(&id(2));
    segment.run_for(ms(2_400));
    assert!(segment.known().contains(&id(2)));
    segment.run_for(ms(1_600));
    assert_eq!(segment.known(), segment.expected());
    segment.run_for(ms(60_000));
    assert_eq!(segment.known(), segment.expected());
}

#[test]
fn five_hundred_members_register_within_a_second_and_the_leader_is_told_in_few_steps() {
    let mut segment = Segment::new(Config::lan(), 1, 3);
    for number in 1..=500 {
        segment.join(&info(number, 1), 1);
    }
    segment.run_for(ms(1_000));
    assert_eq!(segment.known().len(), 501);
    assert!(segment.changes.len() < 25, "{}", segment.changes.len());
    segment.run_for(ms(1_000));
    assert!(segment.members.values().all(Member::is_confirmed));
}

#[test]
fn a_new_leader_hears_from_all_members() {
    for seed in 0..50 {
        let mut segment = Segment::new(Config::lan(), 20, seed);
        for number in 1..=6 {
            segment.join(&info(number, 1), 1);
        }
        segment.run_for(ms(2_000));
        let epoch = EPOCH + (1 << 32);
        segment.registrar = Registrar::new(info(0, 1), epoch, Config::lan(), segment.now).expect("short");
        let now = segment.now;
        for member in segment.members.values_mut() {
            member.follows(leader(), epoch, now);
        }
        segment.drain();
        segment.run_for(ms(4_000));
        assert_eq!(segment.known(), segment.expected(), "seed {seed}");
        assert!(segment.members.values().all(Member::is_confirmed), "seed {seed}");
    }
}

#[test]
fn a_member_whose_clock_went_back_registers_all_the_same() {
    let mut segment = Segment::new(Config::lan(), 0, 4);
    segment.join(&info(1, 1), 1_000);
    segment.run_for(ms(200));
    segment.join(&info(1, 2), 5);
    segment.run_for(ms(10));
    assert_eq!(segment.changes.last().expect("changes").1[1].sites.len(), 2);
    segment.member(1).leave();
    segment.drain();
    segment.run_for(ms(100));
    segment.join(&info(1, 3), 7);
    segment.run_for(ms(60));
    assert_eq!(segment.changes.last().expect("changes").1[1].sites.len(), 3);
}

#[test]
fn a_registration_that_a_farewell_overtook_brings_nobody_back() {
    let mut registrar = Registrar::new(info(0, 1), EPOCH, Config::lan(), Timestamp(1)).expect("short");
    let bytes = parts::encoded(&info(1, 1)).expect("encodes");
    let register = Message::Register { revision: 4, part: 0, parts: 1, bytes };
    for message in [&register, &Message::Leave { revision: 4 }, &register] {
        registrar.handle_message(id(1), message, Timestamp(2)).expect("makes sense");
    }
    assert_eq!(registrar.count(), 1);
}

#[test]
fn nobody_registers_another_or_sends_parts_that_cannot_be() {
    let mut registrar = Registrar::new(info(0, 1), EPOCH, Config::lan(), Timestamp(1)).expect("short");
    let bytes = parts::encoded(&info(1, 1)).expect("encodes");
    let mut says = |part, parts, bytes: &[u8]| {
        let message = Message::Register { revision: 4, part, parts, bytes: bytes.to_vec() };
        registrar.handle_message(id(9), &message, Timestamp(2))
    };
    assert_eq!(says(0, 1, &bytes), Err(Rejected::NotTheSender { from: id(9), named: id(1) }));
    assert_eq!(says(0, 1, &[1, 2, 3]), Err(Rejected::Unreadable { from: id(9) }));
    for (part, parts) in [(0, 0), (1, 1), (0, 65)] {
        assert_eq!(says(part, parts, &[]), Err(Rejected::BadParts { from: id(9) }));
    }
    assert_eq!(says(0, 1, &[0; 1_001]), Err(Rejected::BadParts { from: id(9) }));
    assert_eq!(registrar.count(), 1);
}

#[test]
fn a_description_that_is_too_large_is_refused_by_name_and_the_largest_one_arrives() {
    let error = Member::new(&info(1, 2_000), 1, Config::lan(), 1).expect_err("too large");
    assert!(matches!(error, InfoError::TooLarge { server, bytes } if server == id(1) && bytes > MEMBER_INFO_BYTES_MAX));
    let mut segment = Segment::new(Config::lan(), 25, 5);
    segment.join(&info(1, 600), 1);
    segment.run_for(ms(5_000));
    assert_eq!(segment.changes.last().expect("changes").1[1], info(1, 600));
}

#[test]
fn messages_keep_their_bytes() {
    let server = ServerId([0xab; 16]);
    let roster = super::Roster { epoch: 5, total: 2, after: None, until: Some(server), members: vec![(server, 300)] };
    let id = "ab".repeat(16);
    let samples = [
        (Message::Register { revision: 300, part: 1, parts: 2, bytes: vec![9, 8] }, "00ac020102020908".to_owned()),
        (Message::KeepAlive { digest: 300 }, "01ac02".to_owned()),
        (Message::Leave { revision: 5 }, "0205".to_owned()),
        (Message::Request { epoch: 5 }, "0305".to_owned()),
        (Message::Registered { epoch: 5, revision: 6, digest: 7 }, "04050607".to_owned()),
        (Message::Roster(roster), format!("0505020001{id}01{id}ac02")),
        (Message::Probe { epoch: 5 }, "0605".to_owned()),
    ];
    for (message, bytes) in samples {
        let encoded = parts::encoded(&message).expect("encodes");
        let hex: String = encoded.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, bytes, "{message:?}");
    }
}

#[test]
fn on_a_fixed_roster_only_its_servers_are_registered() {
    let mut segment = Segment::new(Config::lan(), 0, 3);
    segment.registrar.set_roster([info(1, 1).name].into());
    let register = |number| {
        let bytes = parts::encoded(&info(number, 1)).expect("encodes");
        Message::Register { revision: 1, part: 0, parts: 1, bytes }
    };
    let now = segment.now;
    assert_eq!(segment.registrar.handle_message(id(1), &register(1), now), Ok(()));
    assert_eq!(segment.registrar.handle_message(id(2), &register(2), now), Err(Rejected::NotOnRoster { from: id(2) }));
    assert_eq!(segment.registrar.count(), 2);
}

#[test]
fn timers_that_contradict_each_other_are_refused_by_name() {
    for preset in [Config::lan(), Config::fast(), Config::seed()] {
        assert_eq!(preset.validate(), Ok(()));
    }
    let broken = Config { silence_max: ms(2_000), ..Config::lan() };
    let error = broken.validate().expect_err("two signs of life are too few");
    assert_eq!(error.to_string(), "three times keep_alive (3s) must be shorter than silence_max (2s)");
}
