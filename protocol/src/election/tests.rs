//! One machine: input, time, exact outputs.

use std::time::Duration;

use common::credential::Roles;
use common::ids::ServerId;
use common::time::Timestamp;

use super::{
    Config, ConfigError, Election, LeaderAnnouncement, LeaderClaim, Message, Mode, Output, Priority, ROUND_MAX,
    Rejected, Standing, epoch_round,
};

const START: Timestamp = Timestamp(1_000_000);

fn id(number: u8) -> ServerId {
    ServerId([number; 16])
}

fn at(milliseconds: u64) -> Timestamp {
    START + Duration::from_millis(milliseconds)
}

fn strong(number: u8) -> Priority {
    Standing { preassigned: 5, ..Standing::default() }.priority(id(number), false, 0)
}

fn weak(number: u8) -> Priority {
    Standing { factor: 0, ..Standing::default() }.priority(id(number), false, 0)
}

fn outputs(election: &mut Election) -> Vec<Output> {
    std::iter::from_fn(|| election.poll_output()).collect()
}

/// Announcements that are heard are those of leaders that have answered.
fn hear(election: &mut Election, from: u8, message: Message, when: Timestamp) -> Vec<Output> {
    election.take(id(from), Roles::default(), &message, when);
    outputs(election)
}

fn server(epoch: u64) -> Election {
    let mut election = Election::new(id(7), Roles::default(), Standing::default(), epoch, Config::lan(), 1, START);
    assert_eq!(outputs(&mut election), [Output::Send(Message::Query { seen: epoch })]);
    election
}

fn announcement(epoch: u64, priority: Priority) -> Message {
    Message::Announcement(LeaderAnnouncement { epoch, priority, members: 3 })
}

/// Lets time pass until it leads.
fn leading(epoch: u64) -> (Election, u64, Timestamp) {
    let mut election = server(epoch);
    for _ in 0..20 {
        let now = election.poll_timeout().expect("a candidate has timers");
        election.handle_timeout(now);
        for output in outputs(&mut election) {
            if let Output::BecameLeader { epoch } = output {
                return (election, epoch, now);
            }
        }
    }
    panic!("a lone server leads in the end");
}

#[test]
fn a_lone_server_makes_its_epoch_durable_leads_and_announces() {
    let mut election = server(5 << 32);
    let mut seen = Vec::new();
    while !election.is_leader() {
        let now = election.poll_timeout().expect("a candidate has timers");
        assert!(now <= at(1_000));
        election.handle_timeout(now);
        seen.append(&mut outputs(&mut election));
    }
    let claims = seen.iter().filter(|output| matches!(output, Output::Send(Message::Claim(_)))).count();
    assert!(claims >= 2, "a lost claim is said again");
    let [.., Output::PersistEpoch(durable), Output::BecameLeader { epoch }, Output::Send(Message::Announcement(said))] =
        seen.as_slice()
    else {
        panic!("unexpected outputs {seen:?}");
    };
    assert_eq!((*durable, *epoch), (said.epoch, said.epoch));
    assert_eq!(epoch_round(*epoch), 6);
}

#[test]
fn an_announcement_is_followed_after_its_epoch_is_durable_and_repeated_ones_say_nothing() {
    let mut election = server(0);
    let heard = announcement(9 << 32, weak(3));
    assert_eq!(
        hear(&mut election, 3, heard, at(10)),
        [Output::PersistEpoch(9 << 32), Output::Follows { leader: id(3), epoch: 9 << 32 }]
    );
    assert_eq!(hear(&mut election, 3, heard, at(20)), []);
}

#[test]
fn a_lower_epoch_is_not_obeyed_but_told_of_the_higher_one() {
    let mut election = server(9 << 32);
    assert_eq!(hear(&mut election, 3, announcement(8 << 32, strong(3)), at(200)), []);
    assert_eq!(election.leader(), None);
    let when = election.poll_timeout().expect("it wants to tell");
    assert!(when <= at(400));
    election.handle_timeout(when);
    let said = outputs(&mut election);
    assert!(said.contains(&Output::Send(Message::Query { seen: 9 << 32 })), "{said:?}");
}

#[test]
fn a_leader_that_is_behind_takes_a_higher_epoch() {
    let (mut election, epoch, now) = leading(0);
    let said = hear(&mut election, 3, Message::Query { seen: 9 << 32 }, now);
    let [Output::PersistEpoch(durable), Output::BecameLeader { epoch: renewed }, Output::Send(_)] = said.as_slice()
    else {
        panic!("unexpected outputs {said:?}");
    };
    assert_eq!(durable, renewed);
    assert!(*renewed > 9 << 32 && *renewed > epoch);
}

#[test]
fn a_leader_answers_claims_and_questions_with_an_announcement_but_not_each_one() {
    let (mut election, epoch, now) = leading(0);
    let later = now + Duration::from_millis(60);
    for _ in 0..50 {
        election.handle_timeout(later);
    }
    outputs(&mut election);
    let later = later + Duration::from_millis(400);
    let claim = Message::Claim(LeaderClaim { epoch: 2 << 32, priority: strong(3), seen: 0 });
    let mut said = hear(&mut election, 3, claim, later);
    for _ in 0..20 {
        said.append(&mut hear(&mut election, 4, Message::Query { seen: 0 }, later));
    }
    let [Output::Send(Message::Announcement(answer))] = said.as_slice() else {
        panic!("unexpected outputs {said:?}");
    };
    assert_eq!(answer.epoch, epoch);
    assert!(election.is_leader());
}

#[test]
fn of_two_leaders_the_lower_epoch_steps_down_and_the_higher_one_answers() {
    let (mut election, epoch, now) = leading(0);
    let later = now + Duration::from_millis(400);
    let said = hear(&mut election, 3, announcement(epoch - 1, strong(3)), later);
    assert!(matches!(said.as_slice(), [Output::Send(Message::Announcement(own))] if own.epoch == epoch));
    assert_eq!(
        hear(&mut election, 3, announcement(epoch + 1, weak(3)), later),
        [Output::PersistEpoch(epoch + 1), Output::Follows { leader: id(3), epoch: epoch + 1 }]
    );
}

#[test]
fn two_leaders_of_the_very_same_epoch_vote_again() {
    let (mut election, epoch, now) = leading(0);
    let said = hear(&mut election, 3, announcement(epoch, weak(3)), now);
    let [Output::LostLeader, Output::Send(Message::Claim(claim))] = said.as_slice() else {
        panic!("unexpected outputs {said:?}");
    };
    assert!(epoch_round(claim.epoch) > epoch_round(epoch));
    assert!(claim.priority.led_recently, "a former leader has the better claim");
}

#[test]
fn a_candidate_concedes_to_a_stronger_claim_and_answers_a_weaker_one() {
    for (priority, concedes) in [(strong(3), true), (weak(3), false)] {
        let mut election = server(0);
        let now = election.poll_timeout().expect("it will claim");
        election.handle_timeout(now);
        let said = outputs(&mut election);
        let [Output::Send(Message::Claim(own))] = said.as_slice() else { panic!("unexpected outputs {said:?}") };
        let soon = now + Duration::from_millis(60);
        let claim = Message::Claim(LeaderClaim { epoch: own.epoch, priority, seen: 0 });
        let said = hear(&mut election, 3, claim, soon);
        assert_eq!(said.is_empty(), concedes, "{said:?}");
        let decided = now + Config::lan().vote;
        while election.poll_timeout().is_some_and(|due| due <= decided) {
            election.handle_timeout(decided);
        }
        assert_eq!(election.is_leader(), !concedes);
    }
}

#[test]
fn a_candidate_concedes_to_a_higher_round_however_weak() {
    let mut election = server(0);
    let now = election.poll_timeout().expect("it will claim");
    election.handle_timeout(now);
    outputs(&mut election);
    let claim = Message::Claim(LeaderClaim { epoch: 3 << 32, priority: weak(3), seen: 0 });
    assert_eq!(hear(&mut election, 3, claim, now), []);
    assert_eq!(hear(&mut election, 3, Message::Resign { epoch: 3 << 32 }, now), []);
    let claims = election.poll_timeout().expect("it claims again");
    assert!(claims <= now + Config::lan().claim_wait_max, "whom it conceded to has given up");
}

#[test]
fn any_packet_of_the_leader_counts_as_alive_but_not_for_ever() {
    let mut election = server(0);
    hear(&mut election, 3, announcement(1 << 32, weak(3)), at(0));
    let mut lost_after = None;
    for milliseconds in (0..20_000).step_by(20) {
        election.heard_from_leader(id(3), at(milliseconds));
        election.heard_from_leader(id(4), at(milliseconds));
        election.handle_timeout(at(milliseconds));
        if outputs(&mut election).contains(&Output::LostLeader) {
            lost_after = Some(milliseconds);
            break;
        }
    }
    let silences = Config::lan().silence_max * 4 + Config::lan().probe;
    assert_eq!(lost_after.map(Duration::from_millis), Some(silences));
}

#[test]
fn an_announcement_that_a_resignation_overtook_counts_for_nothing() {
    let mut election = server(0);
    hear(&mut election, 3, announcement(1 << 32, weak(3)), at(0));
    assert_eq!(hear(&mut election, 3, Message::Resign { epoch: 1 << 32 }, at(5)), [Output::LostLeader]);
    assert_eq!(hear(&mut election, 3, announcement(1 << 32, weak(3)), at(6)), []);
    assert_eq!(election.leader(), None);
}

#[test]
fn a_server_that_resigned_follows_and_claims_only_after_it_stands_again() {
    let (mut election, epoch, now) = leading(0);
    election.resign(now);
    let resignation = Output::Send(Message::Resign { epoch });
    assert_eq!(outputs(&mut election), [resignation, resignation, Output::LostLeader]);
    election.handle_timeout(now + Duration::from_secs(60));
    assert!(outputs(&mut election).iter().all(|output| !matches!(output, Output::Send(Message::Claim(_)))));
    let later = now + Duration::from_secs(61);
    election.stand(later);
    assert!(election.poll_timeout().is_some_and(|due| due <= later + Config::lan().claim_wait_max));
}

#[test]
fn nobody_speaks_for_another_leads_without_the_role_or_exhausts_the_epochs() {
    let mut election = server(0);
    let message = announcement(1 << 32, weak(3));
    let both = Roles::default();
    assert_eq!(
        election.handle_message(id(4), both, &message, at(0)),
        Err(Rejected::NotTheSender { from: id(4), named: id(3) })
    );
    let follower = Roles { server: true, leader: false };
    assert_eq!(election.handle_message(id(3), follower, &message, at(0)), Err(Rejected::MayNotLead { from: id(3) }));
    let epoch = u64::from(ROUND_MAX + 1) << 32;
    for message in [
        announcement(epoch, weak(3)),
        Message::Claim(LeaderClaim { epoch: 1 << 32, priority: weak(3), seen: epoch }),
        Message::Query { seen: epoch },
    ] {
        assert_eq!(
            election.handle_message(id(3), both, &message, at(0)),
            Err(Rejected::EpochOutOfRange { from: id(3), epoch })
        );
    }
    assert_eq!(outputs(&mut election), []);
}

#[test]
fn timers_that_contradict_each_other_are_refused_by_name() {
    let config = Config { silence_max: Config::lan().announce_interval * 2, ..Config::lan() };
    assert!(matches!(config.validate(), Err(ConfigError::NotShorter { longer: "silence_max", .. })));
    for preset in [Config::lan(), Config::fast(), Config::seed()] {
        assert_eq!(preset.validate(), Ok(()));
    }
}

#[test]
fn priority_counts_the_list_first_then_recent_leadership_then_the_factor_then_resources() {
    let of = |standing: Standing, recently| standing.priority(id(1), recently, 0);
    let plain = Standing::default();
    let big = Standing { cpus: 64, ..plain };
    let busy = Standing { load_percent: 90, ..plain };
    let preferred = Standing { factor: 101, ..plain };
    let listed = Standing { preassigned: 1, load_percent: 900, ..plain };
    let order =
        [of(busy, false), of(plain, false), of(big, false), of(preferred, false), of(plain, true), of(listed, false)];
    assert!(order.is_sorted(), "{order:?}");
    assert!(of(plain, false) < plain.priority(id(2), false, 0), "the server decides between equals");
    let avoided = Standing { factor: 0, cpus: 64, ..plain };
    let far_apart = [of(avoided, false), of(plain, false), of(plain, true)];
    assert!(far_apart.map(|priority| priority.strength()).is_sorted_by(|a, b| a < b));
}

#[test]
fn a_leader_that_asks_who_leads_has_restarted_and_is_followed_no_longer() {
    let mut election = server(0);
    hear(&mut election, 3, announcement(5 << 32, weak(3)), at(0));
    assert_eq!(hear(&mut election, 3, Message::Query { seen: 4 << 32 }, at(5)), [], "asked before it led");
    assert_eq!(hear(&mut election, 4, Message::Query { seen: 5 << 32 }, at(5)), [], "another server's question");
    assert_eq!(hear(&mut election, 3, Message::Query { seen: 5 << 32 }, at(5)), [Output::LostLeader]);
}

#[test]
fn messages_keep_their_bytes() {
    let priority =
        Priority { preassigned: 1, led_recently: true, factor: 100, score: 300, server: ServerId([0xab; 16]) };
    let samples = [
        (announcement(5, priority), format!("0005{}03", "010164ac02".to_owned() + &"ab".repeat(16))),
        (
            Message::Claim(LeaderClaim { epoch: 6, priority, seen: 5 }),
            format!("0106{}05", "010164ac02".to_owned() + &"ab".repeat(16)),
        ),
        (Message::Resign { epoch: 300 }, "02ac02".to_owned()),
        (Message::Query { seen: 7 }, "0307".to_owned()),
        (Message::Probe { leader: priority.server, epoch: 7 }, format!("04{}07", "ab".repeat(16))),
        (Message::Heard { leader: priority.server, epoch: 7 }, format!("05{}07", "ab".repeat(16))),
        (Message::HandOver { epoch: 7, to: priority.server }, format!("0607{}", "ab".repeat(16))),
        (Message::Challenge { epoch: 7, priority }, format!("0707{}", "010164ac02".to_owned() + &"ab".repeat(16))),
    ];
    for (message, bytes) in samples {
        let encoded = crate::registration::parts::encoded(&message).expect("encodes");
        let hex: String = encoded.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, bytes, "{message:?}");
    }
}

#[test]
fn a_resigned_claim_does_not_make_its_server_unheard_when_it_leads_later() {
    let mut election = server(0);
    hear(&mut election, 3, announcement(1 << 32, weak(3)), at(0));
    assert_eq!(hear(&mut election, 3, Message::Resign { epoch: 2 << 32 | 9 }, at(5)), [Output::LostLeader]);
    assert!(!hear(&mut election, 3, announcement(2 << 32 | 1, weak(3)), at(900)).is_empty());
    assert_eq!(election.leader(), Some((id(3), 2 << 32 | 1)));
}

#[test]
fn who_goes_deaf_to_its_leader_asks_and_stays_when_another_hears_it() {
    let mut election = server(0);
    hear(&mut election, 3, announcement(1 << 32, weak(3)), at(0));
    let mut now = START;
    for _ in 0..20 {
        while !outputs(&mut election).contains(&Output::Send(Message::Probe { leader: id(3), epoch: 1 << 32 })) {
            now = election.poll_timeout().expect("it misses its leader");
            election.handle_timeout(now);
        }
        let heard = Message::Heard { leader: id(3), epoch: 1 << 32 };
        assert_eq!(hear(&mut election, 4, heard, now + Duration::from_millis(5)), []);
        assert_eq!(election.leader(), Some((id(3), 1 << 32)));
    }
    let follower = Roles { server: true, leader: false };
    let heard = Message::Heard { leader: id(3), epoch: 1 << 32 };
    assert_eq!(election.handle_message(id(4), follower, &heard, now), Err(Rejected::MayNotLead { from: id(4) }));
    // Nobody hears it any more.
    now = election.poll_timeout().expect("it misses its leader");
    election.handle_timeout(now);
    assert_eq!(outputs(&mut election).len(), 1, "it asks");
    now = now + Config::lan().probe;
    election.handle_timeout(now);
    assert_eq!(outputs(&mut election), [Output::LostLeader]);
}

#[test]
fn who_hears_the_leader_says_so_once_and_who_does_not_keeps_silent() {
    let probe = Message::Probe { leader: id(3), epoch: 1 << 32 };
    let mut election = server(0);
    hear(&mut election, 3, announcement(1 << 32, weak(3)), at(0));
    hear(&mut election, 4, probe, at(100));
    hear(&mut election, 5, probe, at(100));
    election.handle_timeout(at(100) + Config::lan().answer_gap);
    assert_eq!(outputs(&mut election), [Output::Send(Message::Heard { leader: id(3), epoch: 1 << 32 })]);
    hear(&mut election, 4, probe, at(500));
    election.handle_timeout(at(500) + Config::lan().answer_gap);
    assert_eq!(outputs(&mut election), [], "the last announcement is too old");
}

#[test]
fn a_leader_that_stops_names_its_successor_who_leads_at_once() {
    let (mut leader, epoch, now) = leading(0);
    leader.set_successor(Some(id(4)));
    leader.resign(now);
    let said = Output::Send(Message::HandOver { epoch, to: id(4) });
    assert_eq!(outputs(&mut leader), [said, said, Output::LostLeader]);
    let mut election =
        Election::new(id(4), Roles::default(), Standing::default(), 0, Config::lan(), 2, now - Config::lan().vote);
    outputs(&mut election);
    hear(&mut election, 7, announcement(epoch, weak(7)), now);
    let took = hear(&mut election, 7, Message::HandOver { epoch, to: id(4) }, now);
    let [Output::PersistEpoch(_), Output::BecameLeader { epoch: next }, Output::Send(Message::Announcement(_))] =
        took.as_slice()
    else {
        panic!("unexpected outputs {took:?}");
    };
    assert!(*next > epoch);
    assert_eq!(hear(&mut election, 7, Message::HandOver { epoch, to: id(4) }, now), [], "said twice, done once");
}

#[test]
fn who_waits_for_a_successor_that_is_dead_claims_in_the_end() {
    let mut election = server(0);
    hear(&mut election, 3, announcement(1 << 32, weak(3)), at(0));
    let over = hear(&mut election, 3, Message::HandOver { epoch: 1 << 32, to: id(9) }, at(5));
    assert_eq!(over, [Output::LostLeader]);
    let conceded_until = at(5) + Config::lan().concede;
    assert_eq!(election.poll_timeout(), Some(conceded_until));
    election.handle_timeout(conceded_until);
    assert!(election.poll_timeout().is_some_and(|due| due <= conceded_until + Config::lan().claim_wait_max));
}

#[test]
fn a_much_stronger_server_takes_over_by_policy_only_and_not_from_a_leader_that_distributes() {
    let mut config = Config { preempt_after: Some(Duration::from_secs(30)), ..Config::lan() };
    let challenger = |config: &Config| {
        let standing = Standing { preassigned: 2, ..Standing::default() };
        let mut election = Election::new(id(7), Roles::default(), standing, 0, config.clone(), 1, START);
        outputs(&mut election);
        let mut challenges = 0;
        for milliseconds in (0..61_000).step_by(100) {
            let heard = announcement(1 << 32, Standing::default().priority(id(3), true, 5));
            for output in hear(&mut election, 3, heard, at(milliseconds)) {
                challenges += u32::from(matches!(output, Output::Send(Message::Challenge { .. })));
            }
            election.handle_timeout(at(milliseconds));
            outputs(&mut election);
        }
        challenges
    };
    assert_eq!(challenger(&config), 2);
    assert_eq!(challenger(&Config::lan()), 0);
    for (policy, busy, hands_over) in [(true, false, true), (true, true, false), (false, false, false)] {
        config.preempt_after = policy.then_some(Duration::from_secs(30));
        let mut leader = Election::new(id(7), Roles::default(), Standing::default(), 0, config.clone(), 1, START);
        let mut now = START;
        while !leader.is_leader() {
            now = leader.poll_timeout().expect("a candidate has timers");
            leader.handle_timeout(now);
        }
        outputs(&mut leader);
        leader.set_busy(busy);
        let (_, epoch) = leader.leader().expect("it leads");
        hear(&mut leader, 3, Message::Challenge { epoch, priority: strong(3) }, now);
        assert_eq!(leader.is_leader(), !hands_over, "policy {policy}, busy {busy}");
    }
}

#[test]
fn where_the_leader_is_fixed_it_leads_at_once_and_nobody_else_ever_does() {
    let fixed = |server: u8, leader| {
        Election::new(id(server), Roles::default(), Standing::default(), 4 << 32, Config::lan(), 1, START)
            .in_mode(Mode::Fixed { leader }, START)
    };
    let mut named = fixed(7, Some(id(7)));
    outputs(&mut named);
    let now = named.poll_timeout().expect("it will lead");
    named.handle_timeout(now);
    let said = outputs(&mut named);
    assert!(said.iter().any(|output| matches!(output, Output::BecameLeader { .. })), "{said:?}");
    assert!(!said.iter().any(|output| matches!(output, Output::Send(Message::Claim(_)))), "without a vote: {said:?}");
    assert!(now <= START + Config::lan().startup_listen);

    let mut other = fixed(8, None);
    outputs(&mut other);
    let lead = announcement(5 << 32, weak(7));
    let roles = Roles::default();
    assert_eq!(
        other.handle_message(id(7), roles, &lead, at(1)),
        Err(Rejected::NotNamed { from: id(7) }),
        "its name is not known to be the one"
    );
    other.leader_is(id(7), at(2));
    assert!(!hear(&mut other, 7, lead, at(3)).is_empty());
    let usurper = announcement(9 << 32, strong(3));
    assert_eq!(other.handle_message(id(3), roles, &usurper, at(4)), Err(Rejected::NotNamed { from: id(3) }));
    for milliseconds in (0..20_000).step_by(50) {
        other.handle_timeout(at(10 + milliseconds));
        let said = outputs(&mut other);
        assert!(!said.iter().any(|output| matches!(output, Output::Send(Message::Claim(_)))), "{said:?}");
    }
    assert_eq!(other.leader(), None, "its leader is gone, and there is no other");
}

#[test]
fn who_resigned_and_lost_its_memory_is_heard_again_after_a_silence() {
    let follower = Roles { server: true, leader: false };
    let mut election = Election::new(id(8), follower, Standing::default(), 0, Config::lan(), 1, START);
    outputs(&mut election);
    hear(&mut election, 3, announcement(5 << 32, weak(3)), at(0));
    assert_eq!(hear(&mut election, 3, Message::Resign { epoch: 5 << 32 }, at(5)), [Output::LostLeader]);
    for milliseconds in (200..10_000).step_by(200) {
        hear(&mut election, 3, announcement(1 << 32, weak(3)), at(milliseconds));
    }
    assert_eq!(election.leader(), Some((id(3), 1 << 32)));
}

#[test]
fn what_a_server_without_the_role_has_seen_uses_up_no_epochs_and_it_yields_in_the_end() {
    let follower = Roles { server: true, leader: false };
    let (mut leader, epoch, now) = leading(0);
    let question = Message::Query { seen: u64::from(ROUND_MAX) << 32 };
    leader.handle_message(id(3), follower, &question, now).expect("it may ask");
    assert_eq!(leader.leader(), Some((id(7), epoch)));

    let mut behind = Election::new(id(8), follower, Standing::default(), 9 << 32, Config::lan(), 1, START);
    outputs(&mut behind);
    let mut followed_at = None;
    for milliseconds in (0..10_000).step_by(200) {
        if hear(&mut behind, 7, announcement(1 << 32, weak(7)), at(milliseconds)).is_empty() {
            continue;
        }
        if behind.leader().is_some() {
            followed_at = Some(milliseconds);
            break;
        }
    }
    let patience = Config::lan().silence_max * 4;
    assert!(followed_at.is_some_and(|after| Duration::from_millis(after) >= patience), "{followed_at:?}");
    assert_eq!(behind.leader(), Some((id(7), 1 << 32)));
}

fn sent_to(said: &[Output], to: u8) -> Vec<Message> {
    said.iter()
        .filter_map(|output| match output {
            Output::SendTo { to: receiver, message } => (*receiver == id(to)).then_some(*message),
            Output::Send(_)
            | Output::PersistEpoch(_)
            | Output::BecameLeader { .. }
            | Output::Follows { .. }
            | Output::LostLeader => None,
        })
        .collect()
}

/// As the driver brings it, old or not.
fn arrives(election: &mut Election, from: u8, message: Message, when: Timestamp) -> Vec<Output> {
    election.handle_message(id(from), Roles::default(), &message, when).expect("an honest message");
    outputs(election)
}

#[test]
fn an_old_announcement_takes_nobody_from_a_leader_that_lives() {
    let mut election = server(0);
    hear(&mut election, 3, announcement(1 << 32, weak(3)), at(0));
    // Server 4 led that long ago, and lost its memory since: it does not answer as its leader.
    let old = announcement(2 << 32, weak(4));
    for milliseconds in [5, 10, 15] {
        let said = arrives(&mut election, 4, old, at(milliseconds));
        assert!(matches!(sent_to(&said, 4)[..], [Message::Verify { .. }]), "{said:?}");
        assert_eq!(said.len(), 1, "nothing is made durable and nobody is left: {said:?}");
    }
    assert_eq!(election.leader(), Some((id(3), 1 << 32)));
}

#[test]
fn a_leader_is_followed_when_it_has_answered_and_answers_when_it_leads() {
    let (mut leader, epoch, now) = leading(0);
    let mut election = Election::new(id(4), Roles::default(), Standing::default(), 0, Config::lan(), 2, now);
    outputs(&mut election);
    let own = Standing::default().priority(id(7), true, 0);
    let said = arrives(&mut election, 7, announcement(epoch, own), now);
    let [question @ Message::Verify { .. }] = sent_to(&said, 7)[..] else { panic!("unexpected outputs {said:?}") };
    let said = arrives(&mut leader, 4, question, now);
    let [answer @ Message::Verified { .. }] = sent_to(&said, 4)[..] else { panic!("unexpected outputs {said:?}") };
    assert_eq!(
        arrives(&mut election, 7, answer, now),
        [Output::PersistEpoch(epoch), Output::Follows { leader: id(7), epoch }]
    );
    assert_eq!(arrives(&mut election, 7, announcement(epoch, own), now), [], "asked once for each epoch");
    assert_eq!(arrives(&mut election, 5, question, now), [], "who follows does not answer for its leader");
    // What it answered is worth nothing when it was lost meanwhile.
    assert_eq!(arrives(&mut election, 7, Message::Resign { epoch }, now), [Output::LostLeader]);
    arrives(&mut election, 7, answer, now + Config::lan().silence_max);
    assert_eq!(election.leader(), None);
}

#[test]
fn where_claims_reopen_the_vote_an_old_claim_does_not() {
    let config = Config { claims_reopen_vote: true, ..Config::lan() };
    let mut election = Election::new(id(7), Roles::default(), Standing::default(), 0, config, 1, START);
    while !election.is_leader() {
        let now = election.poll_timeout().expect("a candidate has timers");
        election.handle_timeout(now);
        outputs(&mut election);
    }
    let claim = LeaderClaim { epoch: 9 << 32, priority: strong(3), seen: 0 };
    let said = arrives(&mut election, 3, Message::Claim(claim), at(600));
    let [Message::Verify { number }] = sent_to(&said, 3)[..] else { panic!("unexpected outputs {said:?}") };
    assert!(election.is_leader());
    arrives(&mut election, 3, Message::Claiming { claim, number: number ^ 1 }, at(601));
    assert!(election.is_leader());
    let said = arrives(&mut election, 3, Message::Claiming { claim, number }, at(602));
    assert!(matches!(said[..], [Output::LostLeader, Output::Send(Message::Claim(_))]), "claim 35: {said:?}");
}
