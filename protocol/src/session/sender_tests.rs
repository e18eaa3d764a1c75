//! The leader's side alone: exact outputs for exact inputs and times.

use std::time::Duration;

use common::time::Timestamp;

use super::simulation::{SESSION, announcement, id};
use super::*;

fn at(millis: u64) -> Timestamp {
    Timestamp(millis * 1000)
}

fn sender(members: usize, symbols: u64) -> Sender {
    let bytes = symbols * u64::from(SYMBOL_BYTES);
    let geometry = Geometry::new(bytes, SYMBOL_BYTES).expect("fits");
    Sender::new(
        SenderConfig { fec: false, ..SenderConfig::default() },
        announcement(),
        geometry,
        (0..members).map(id),
        bytes,
        at(0),
    )
}

fn outputs(sender: &mut Sender) -> Vec<SenderOutput> {
    std::iter::from_fn(|| sender.poll_output()).collect()
}

fn frames(sender: &mut Sender, now: Timestamp) -> Vec<FrameHeader> {
    std::iter::from_fn(|| sender.poll_frame(now)).map(|frame| frame.header).collect()
}

fn status(highest: u32, held: u32, missing: Vec<(u32, u32)>) -> Status {
    Status {
        session: SESSION,
        poll: 0,
        received: u64::from(held),
        highest,
        held,
        missing,
        deficits: vec![],
        more: false,
        complete: false,
    }
}

fn complete(symbols: u32) -> Status {
    Status { complete: true, ..status(0, symbols, Vec::new()) }
}

fn is_announcement(output: &SenderOutput) -> bool {
    matches!(output, SenderOutput::Multicast(Message::Announce { .. }))
}

fn polls(outputs: &[SenderOutput]) -> Vec<Poll> {
    let poll = |output: &SenderOutput| match output {
        SenderOutput::Multicast(Message::Poll(poll)) => Some(poll.clone()),
        SenderOutput::Multicast(_)
        | SenderOutput::MemberComplete(_)
        | SenderOutput::MemberFailed(..)
        | SenderOutput::Finished(_) => None,
    };
    outputs.iter().filter_map(poll).collect()
}

/// Wakes the sender whenever it asks for it, until `end`; hands each time's outputs and frames over.
fn run(
    sender: &mut Sender,
    end: Timestamp,
    mut look: impl FnMut(&mut Sender, Timestamp, Vec<SenderOutput>, Vec<FrameHeader>),
) {
    let mut now = at(0);
    for _ in 0..100_000 {
        let mut said = outputs(sender);
        let sent = frames(sender, now);
        said.extend(outputs(sender));
        look(sender, now, said, sent);
        match sender.poll_timeout() {
            Some(next) if next <= end => now = now.max(next),
            Some(_) | None => return,
        }
        sender.handle_timeout(now);
    }
    panic!("the sender wants to be woken again and again at {now:?}");
}

#[test]
fn the_announcement_comes_first_and_is_repeated_until_each_member_was_heard() {
    let mut sender = sender(2, 1);
    assert!(outputs(&mut sender).iter().all(is_announcement));
    let mut announced = Vec::new();
    run(&mut sender, at(500), |sender, now, outputs, _| {
        if outputs.iter().any(is_announcement) {
            announced.push(now.0 / 1000);
        }
        if now == at(310) {
            assert_eq!(sender.handle_status(id(0), &status(1, 1, vec![]), now), Ok(()));
        }
    });
    assert_eq!(announced, vec![2, 10, 42, 142, 242, 342, 442], "one of two was not heard");
    let mut sender = self::sender(1, 1);
    outputs(&mut sender);
    assert_eq!(sender.handle_status(id(0), &status(0, 0, vec![]), at(1)), Ok(()));
    let mut polls_before = 0;
    run(&mut sender, at(500), |_, now, outputs, _| {
        let announced = outputs.iter().any(is_announcement);
        // The frame asked, too.
        assert!(!announced || polls_before >= 5, "at {now:?}: it was heard, and was asked {polls_before} times since");
        polls_before += polls(&outputs).len();
    });
    assert!(polls_before > 6);
}

#[test]
fn one_that_was_heard_and_has_fallen_silent_is_told_of_the_session_again() {
    let mut sender = sender(2, 1);
    outputs(&mut sender);
    for member in 0..2 {
        assert_eq!(sender.handle_status(id(member), &status(0, 0, vec![]), at(1)), Ok(()));
    }
    let (mut announced, mut answers) = (Vec::new(), true);
    run(&mut sender, at(900), |sender, now, outputs, _| {
        if outputs.iter().any(is_announcement) {
            announced.push(now);
        }
        answers &= now < at(400);
        if !polls(&outputs).is_empty() {
            let asked = u8::from(!answers)..2;
            for member in asked {
                assert_eq!(sender.handle_status(id(member.into()), &status(0, 0, vec![]), now), Ok(()));
            }
        }
    });
    assert!(announced.first().is_some_and(|first| *first > at(400)), "{announced:?}");
    assert!((1..=5).contains(&announced.len()), "{announced:?}");
}

#[test]
fn the_last_frame_of_what_there_is_to_send_asks_for_reports() {
    let mut sender = sender(1, 3);
    let flags: Vec<_> = frames(&mut sender, at(0)).iter().map(|header| header.flags).collect();
    let none = FrameFlags::default();
    assert_eq!(flags, vec![none, none, FrameFlags { poll: true, repair: false, last: true, spent: true }]);
    assert_eq!(sender.handle_status(id(0), &status(3, 1, vec![(0, 1), (2, 1)]), at(1)), Ok(()));
    let repairs = frames(&mut sender, at(1));
    let seen: Vec<_> = repairs.iter().map(|header| (header.carried, header.pass, header.sequence)).collect();
    assert_eq!(
        seen,
        vec![(Carried::Symbol(0), 2, 4), (Carried::Symbol(2), 2, 5)],
        "the only member answered, so nothing is held back"
    );
    assert_eq!(repairs[0].flags, FrameFlags { poll: false, repair: true, last: true, spent: false });
    assert_eq!(repairs[1].flags, FrameFlags { poll: true, repair: true, last: true, spent: true });
}

#[test]
fn requests_are_joined_until_all_have_answered_or_the_round_is_over() {
    let mut sender = sender(3, 10);
    assert_eq!(frames(&mut sender, at(0)).len(), 10);
    for member in 0..2 {
        assert_eq!(sender.handle_status(id(member), &status(10, 9, vec![(4, 1)]), at(1)), Ok(()));
        assert_eq!(frames(&mut sender, at(1)), vec![]);
    }
    let announcement_at = Timestamp(2_000 + 3 * 300);
    assert_eq!(sender.poll_timeout(), Some(announcement_at), "the announcement, as one of three was not heard");
    sender.handle_timeout(Timestamp(5_999));
    assert_eq!(frames(&mut sender, Timestamp(5_999)), vec![]);
    sender.handle_timeout(at(6));
    assert_eq!(frames(&mut sender, at(6)).len(), 1);
}

#[test]
fn no_repair_pass_is_held_back_for_a_member_that_leaves_polls_unanswered() {
    let mut sender = sender(2, 10);
    let mut repaired = 0;
    run(&mut sender, at(60), |sender, now, outputs, _| {
        if !polls(&outputs).is_empty() {
            let missing = if now < at(40) { vec![] } else { vec![(4, 1)] };
            assert_eq!(sender.handle_status(id(0), &status(10, 9, missing), now), Ok(()));
            repaired += frames(sender, now).len();
        }
    });
    assert_eq!(repaired, 1);
}

#[test]
fn during_the_first_pass_every_fourth_frame_at_most_is_a_repair() {
    let mut sender = sender(1, 10_000);
    let sent = frames(&mut sender, at(0)).len() as u32;
    assert_eq!(sender.handle_status(id(0), &status(sent, 10, vec![(0, sent - 10)]), at(1)), Ok(()));
    let sent = frames(&mut sender, at(2));
    assert!(sent.len() > 20);
    for four in sent.chunks_exact(4) {
        assert_eq!(four.iter().filter(|header| header.flags.repair).count(), 1);
    }
}

#[test]
fn a_member_that_leaves_flags_unanswered_is_asked_by_name_while_the_stream_goes_on() {
    let mut sender = sender(2, 100_000);
    let mut asked = Vec::new();
    run(&mut sender, at(400), |sender, now, outputs, _| {
        asked.extend(polls(&outputs));
        let highest = u32::try_from(now.0 * 50 / 1396).expect("few");
        let highest = highest.saturating_sub(100);
        assert_eq!(sender.handle_status(id(0), &status(highest, highest, vec![]), now), Ok(()));
    });
    assert!((4..=7).contains(&asked.len()), "{} polls", asked.len());
    assert!(asked.iter().all(|poll| poll.roll.asks(id(1))));
    assert!(asked.iter().all(|poll| poll.sent_through < 100_000));
}

#[test]
fn who_declines_or_leaves_has_failed_and_the_last_of_them_ends_the_session() {
    let mut sender = sender(3, 100);
    outputs(&mut sender);
    sender.handle_decline(id(0), at(1));
    sender.handle_decline(id(0), at(1));
    sender.member_gone(id(9), at(1));
    assert_eq!(outputs(&mut sender), vec![SenderOutput::MemberFailed(id(0), Failure::Declined)]);
    sender.member_gone(id(1), at(2));
    assert_eq!(outputs(&mut sender), vec![SenderOutput::MemberFailed(id(1), Failure::Gone)]);
    assert_eq!(sender.handle_status(id(2), &complete(100), at(3)), Ok(()));
    let stats = sender.stats(at(3));
    assert_eq!((stats.complete.clone(), stats.failed.clone(), stats.millis), (vec![id(2)], vec![id(0), id(1)], 3));
    let close = Message::Close { session: SESSION, failed: vec![id(0), id(1)] };
    let expected =
        vec![SenderOutput::MemberComplete(id(2)), SenderOutput::Multicast(close), SenderOutput::Finished(stats)];
    assert_eq!(outputs(&mut sender), expected);
    assert_eq!((sender.poll_timeout(), frames(&mut sender, at(4))), (None, vec![]));
    assert_eq!(sender.handle_status(id(2), &complete(100), at(5)), Err(StatusRefused::Over));
    assert!(!sender.add_member(id(7), at(5)));
    sender.handle_timeout(at(9999));
    assert_eq!(outputs(&mut sender), vec![]);
}

#[test]
fn without_members_there_is_nothing_to_do() {
    let mut sender = sender(0, 5);
    let said = outputs(&mut sender);
    assert!(matches!(said[..], [SenderOutput::Multicast(Message::Close { .. }), SenderOutput::Finished(_)]));
    assert_eq!(frames(&mut sender, at(0)), vec![]);
}

#[test]
fn a_report_of_a_stranger_or_of_the_future_changes_nothing() {
    let mut sender = sender(1, 5);
    frames(&mut sender, at(0));
    let refused = sender.handle_status(id(9), &complete(5), at(1));
    assert_eq!(refused, Err(StatusRefused::Stranger { from: id(9) }));
    let refused = sender.handle_status(id(0), &status(6, 5, vec![]), at(1));
    assert_eq!(refused, Err(StatusRefused::Future { from: id(0), highest: 6, poll: 0 }));
    outputs(&mut sender);
    sender.handle_timeout(at(2));
    assert!(outputs(&mut sender).iter().all(is_announcement), "the member was not heard");
}

#[test]
fn a_member_that_was_given_up_as_silent_and_turns_out_complete_is_complete() {
    let mut sender = sender(2, 5);
    let mut failed_at = None;
    run(&mut sender, at(1500), |sender, now, outputs, _| {
        assert_eq!(sender.handle_status(id(0), &status(5, 5, vec![]), now), Ok(()));
        if outputs.contains(&SenderOutput::MemberFailed(id(1), Failure::Silent)) {
            failed_at = Some(now);
        }
    });
    let silence_min = SenderConfig::default().silence_min;
    assert_eq!(failed_at, Some(at(0) + silence_min));
    assert_eq!(sender.handle_status(id(1), &complete(5), at(1600)), Ok(()));
    assert_eq!(outputs(&mut sender), vec![SenderOutput::MemberComplete(id(1))]);
}

#[test]
fn one_wake_up_sends_several_frames() {
    let mut sender = sender(1, 10_000);
    let mut wakes = 0_u32;
    run(&mut sender, at(0) + Duration::from_millis(20), |_, _, _, _| wakes += 1);
    assert!(wakes < 60, "{wakes} wake-ups for 700 frames");
}

#[test]
fn at_the_end_of_pass_setting_nothing_is_repeated_or_asked_before_the_whole_object_was_sent() {
    for (repair, repeats_at_once) in [(Repair::EndOfPass, false), (Repair::InStream, true)] {
        let bytes = 5_000 * u64::from(SYMBOL_BYTES);
        let geometry = Geometry::new(bytes, SYMBOL_BYTES).expect("fits");
        let config = SenderConfig { fec: false, repair, ..SenderConfig::default() };
        let mut sender = Sender::new(config, announcement(), geometry, [id(0)], bytes, at(0));
        let (mut early, mut late, mut asked) = (0, 0, 0);
        run(&mut sender, at(200), |sender, now, _, frames| {
            for header in frames {
                let is_early = !header.flags.last;
                early += u32::from(header.flags.repair && is_early);
                late += u32::from(header.flags.repair && !is_early);
                asked += u32::from(header.flags.poll && is_early);
                if header.sequence == 300 || header.flags.poll {
                    let missing = if header.pass == 1 { vec![(7, 3)] } else { vec![] };
                    assert_eq!(sender.handle_status(id(0), &status(header.sequence, 200, missing), now), Ok(()));
                }
            }
        });
        assert_eq!((early > 0, asked > 0), (repeats_at_once, repeats_at_once), "{repair:?}");
        assert!(repeats_at_once || late > 0, "{repair:?}");
    }
}

#[test]
fn a_block_is_sent_as_much_parity_as_the_member_needs_that_lacks_most_of_it() {
    let bytes = 64 * u64::from(SYMBOL_BYTES);
    let geometry = Geometry::new(bytes, SYMBOL_BYTES).expect("fits");
    let mut sender = Sender::new(SenderConfig::default(), announcement(), geometry, (0..3).map(id), bytes, at(0));
    assert_eq!(frames(&mut sender, at(0)).len(), 64);
    for (member, lacking) in [(0, 2), (1, 5), (2, 3)] {
        let lacks = Status { deficits: vec![(0, lacking)], ..status(64, 64 - lacking, vec![]) };
        assert_eq!(sender.handle_status(id(member), &lacks, at(1)), Ok(()));
    }
    let sent: Vec<_> = std::iter::from_fn(|| sender.poll_frame(at(20))).collect();
    let carried: Vec<_> = sent.iter().map(|frame| frame.header.carried).collect();
    // Five, and one for what will be lost of them.
    assert_eq!(carried, (0..6).map(|index| Carried::Parity { block: 0, index }).collect::<Vec<_>>());
    assert_eq!(sent[0].content, Content::Parity { block: 0, index: 0, count: 6 });
    assert!(sent.iter().all(|frame| frame.header.pass == 2 && frame.header.flags.repair));
    let spent: Vec<_> = sent.iter().map(|frame| frame.header.flags.spent).collect();
    assert_eq!(spent, [vec![false; 5], vec![true]].concat());
}

#[test]
fn members_that_may_hold_it_are_asked_and_those_who_do_are_sent_nothing() {
    let mut sender = sender(2, 100).asking_first();
    let mut asked = 0;
    run(&mut sender, at(20), |sender, now, said, sent| {
        assert_eq!(sent, []);
        asked += polls(&said).len();
        if asked == 1 {
            sender.handle_status(id(0), &complete(100), now).expect("a member");
            // It has everything and is still making it durable.
            sender.handle_status(id(1), &status(0, 100, vec![]), now).expect("a member");
        }
    });
    assert!(asked > 1, "the second was asked again");
    sender.handle_status(id(1), &complete(100), at(20)).expect("a member");
    let Some(SenderOutput::Finished(stats)) = outputs(&mut sender).pop() else { panic!("it is not over") };
    assert_eq!((stats.sent_bytes, stats.complete.len()), (0, 2));
}

#[test]
fn of_an_object_that_is_still_arriving_only_what_is_there_is_sent() {
    let mut sender = sender(2, 100).so_far(40 * u64::from(SYMBOL_BYTES) + 5);
    let sent = |sender: &mut Sender, now| frames(sender, now).iter().map(|header| header.carried).collect::<Vec<_>>();
    let symbols = |range: std::ops::Range<u32>| range.map(Carried::Symbol).collect::<Vec<_>>();
    assert_eq!(sent(&mut sender, at(1)), symbols(0..40));
    assert_eq!(sent(&mut sender, at(30)), []);
    sender.available(70 * u64::from(SYMBOL_BYTES), at(30));
    assert_eq!(sent(&mut sender, at(30)), symbols(40..70));
    sender.available(100 * u64::from(SYMBOL_BYTES), at(40));
    let last = frames(&mut sender, at(40));
    assert_eq!(last.len(), 30);
    assert!(last.last().is_some_and(|header| header.flags.last && header.flags.poll));
}

#[test]
fn of_an_arriving_object_that_members_may_hold_what_is_there_is_asked_for_and_the_rest_is_sent() {
    let mut sender = sender(1, 100).so_far(40 * u64::from(SYMBOL_BYTES)).asking_first();
    outputs(&mut sender);
    assert_eq!(frames(&mut sender, at(1)), []);
    sender.available(100 * u64::from(SYMBOL_BYTES), at(2));
    let rest: Vec<_> = frames(&mut sender, at(2)).iter().map(|header| header.carried).collect();
    assert_eq!(rest, (40..100).map(Carried::Symbol).collect::<Vec<_>>());
    sender.handle_status(id(0), &status(60, 60, vec![(0, 5)]), at(3)).expect("a member");
    let mut repairs = Vec::new();
    run(&mut sender, at(50), |_, _, _, frames| repairs.extend(frames.iter().map(|frame| frame.carried)));
    assert_eq!(repairs, (0..5).map(Carried::Symbol).collect::<Vec<_>>());
}

#[test]
fn of_what_members_hold_already_nothing_is_sent_and_of_what_they_lack_all() {
    for (missing, expected) in [((0, 100), 100), ((40, 60), 60), ((99, 1), 1)] {
        let mut sender = sender(3, 100).asking_first();
        let first = outputs(&mut sender);
        assert!(is_announcement(&first[0]));
        assert_eq!(frames(&mut sender, at(1)), []);
        sender.handle_status(id(0), &complete(100), at(1)).expect("a member");
        assert_eq!(frames(&mut sender, at(1)), []);
        sender.available(100 * u64::from(SYMBOL_BYTES), at(1));
        assert_eq!(frames(&mut sender, at(1)), [], "it is not sent because there is more of it");
        sender.handle_status(id(1), &status(0, 0, vec![missing]), at(2)).expect("a member");
        let mut sent = Vec::new();
        run(&mut sender, at(50), |_, _, _, frames| sent.extend(frames.iter().map(|frame| frame.carried)));
        let symbols: Vec<_> = (missing.0..missing.0 + missing.1).map(Carried::Symbol).collect();
        assert_eq!(sent, symbols, "{expected} of 100");
    }
}

/// What is sent at these milliseconds, when members greet at these: (millisecond, member).
fn sent_while_joining(
    sender: &mut Sender,
    greetings: &[(u64, usize)],
    times: std::ops::RangeInclusive<u64>,
) -> Vec<(u64, usize)> {
    let mut sent = Vec::new();
    for millis in times {
        for (_, member) in greetings.iter().filter(|(at, _)| *at == millis) {
            sender.handle_status(id(*member), &status(0, 0, vec![]), at(millis)).expect("a member");
        }
        sender.handle_timeout(at(millis));
        let frames = frames(sender, at(millis)).len();
        if frames > 0 {
            sent.push((millis, frames));
        }
    }
    sent
}

#[test]
fn on_a_channel_of_its_own_data_waits_for_all_to_join_and_no_longer_than_the_wait() {
    let mut all_greet = sender(3, 10).once_joined();
    assert!(is_announcement(&outputs(&mut all_greet)[0]), "it is announced before");
    assert_eq!(sent_while_joining(&mut all_greet, &[(1, 0), (1, 1), (3, 2)], 0..=9), [(3, 10)]);

    let mut one_is_dead = sender(3, 10).once_joined();
    assert_eq!(one_is_dead.poll_timeout().map(|at| at.0 / 1000), Some(2), "the announcement is repeated");
    assert_eq!(sent_while_joining(&mut one_is_dead, &[(1, 0), (1, 1)], 0..=109), [(100, 10)]);

    let mut all_have_it = sender(2, 10).once_joined();
    for member in 0..2 {
        all_have_it.handle_status(id(member), &complete(10), at(1)).expect("a member");
    }
    assert!(matches!(outputs(&mut all_have_it).pop(), Some(SenderOutput::Finished(stats)) if stats.sent_bytes == 0));
}

#[test]
fn who_is_gone_or_declines_is_not_waited_for() {
    let mut sender = sender(3, 10).once_joined();
    sender.handle_decline(id(2), at(1));
    sender.member_gone(id(1), at(1));
    assert_eq!(sent_while_joining(&mut sender, &[(2, 0)], 1..=9), [(2, 10)]);
}

#[test]
fn what_becomes_available_while_members_join_waits_with_the_rest() {
    let mut sender = sender(2, 10).once_joined();
    sender.available(10 * u64::from(SYMBOL_BYTES), at(1));
    assert_eq!(sent_while_joining(&mut sender, &[(1, 0), (3, 1)], 1..=9), [(3, 10)]);
}
