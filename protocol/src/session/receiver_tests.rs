//! The member's side alone: exact outputs for exact inputs and times.

use common::ids::ServerId;
use common::time::Timestamp;
use std::time::Duration;

use super::receiver::Output;
use super::*;

const ME: ServerId = ServerId([5; 16]);
const FLAG: FrameFlags = FrameFlags { poll: true, repair: false, last: false, spent: false };
const PLAIN: FrameFlags = FrameFlags { poll: false, repair: false, last: false, spent: false };

fn receiver(symbols: u64) -> Receiver {
    let geometry = Geometry::new(symbols * u64::from(SYMBOL_BYTES), SYMBOL_BYTES).expect("fits");
    Receiver::new(ReceiverConfig::default(), ME, 1, geometry, 1, Timestamp::ZERO)
}

fn at(millis: u64) -> Timestamp {
    Timestamp(millis * 1000)
}

fn header(symbol: u32, flags: FrameFlags) -> FrameHeader {
    FrameHeader {
        flags,
        pass: 1,
        key_id: 1,
        session: 1,
        epoch: 1,
        sequence: symbol + 1,
        carried: Carried::Symbol(symbol),
        payload_bytes: SYMBOL_BYTES,
        send_time: 0,
    }
}

fn hear(receiver: &mut Receiver, symbol: u32, flags: FrameFlags, now: Timestamp) {
    let taken = receiver.handle_frame(&header(symbol, flags), usize::from(SYMBOL_BYTES), now);
    assert!(taken.is_ok(), "{taken:?}");
}

/// The symbol comes once more, as another transmission.
fn hear_again(receiver: &mut Receiver, symbol: u32, now: Timestamp) {
    let header = FrameHeader { sequence: 1000 + symbol, ..header(symbol, PLAIN) };
    let taken = receiver.handle_frame(&header, usize::from(SYMBOL_BYTES), now);
    assert!(taken.is_ok(), "{taken:?}");
}

fn outputs(receiver: &mut Receiver) -> Vec<Output> {
    std::iter::from_fn(|| receiver.poll_output()).collect()
}

fn statuses(receiver: &mut Receiver) -> Vec<Status> {
    let status = |output: Output| match output {
        Output::Unicast(Message::Status(status)) => Some(status),
        Output::Unicast(_) | Output::Restore(_) | Output::Complete | Output::Abandoned | Output::Closed { .. } => None,
    };
    outputs(receiver).into_iter().filter_map(status).collect()
}

fn poll(roll: Roll) -> Message {
    let sent_through = 4;
    Message::Poll(Poll { session: 1, poll: 3, pass: 1, sent_through, reply_window_micros: 4000, roll })
}

#[test]
fn completeness_is_said_only_after_the_driver_confirmed() {
    let mut receiver = receiver(2);
    receiver.confirm(at(0));
    hear(&mut receiver, 0, PLAIN, at(0));
    receiver.confirm(at(0));
    assert_eq!(outputs(&mut receiver), vec![]);
    hear(&mut receiver, 1, FLAG, at(0));
    assert_eq!(outputs(&mut receiver), vec![Output::Complete]);
    receiver.handle_timeout(at(1));
    assert_eq!(statuses(&mut receiver), vec![], "so small an object is about to be confirmed");
    receiver.handle_timeout(at(4));
    let before = statuses(&mut receiver);
    assert_eq!(before.iter().map(|status| (status.held, status.complete)).collect::<Vec<_>>(), vec![(2, false)]);
    receiver.confirm(at(0));
    assert!(statuses(&mut receiver).iter().all(|status| status.complete));
}

#[test]
fn wrong_symbols_are_asked_for_again_until_the_object_is_confirmed() {
    let mut receiver = receiver(3);
    for symbol in 0..3 {
        hear(&mut receiver, symbol, PLAIN, at(0));
    }
    assert_eq!(outputs(&mut receiver), vec![Output::Complete]);
    receiver.mark_bad(1, 9, at(1));
    receiver.confirm(at(0));
    receiver.handle_timeout(at(2));
    let asked = statuses(&mut receiver);
    assert_eq!((asked.len(), asked[0].missing.clone(), asked[0].complete), (1, vec![(1, 2)], false));
    hear_again(&mut receiver, 1, at(3));
    hear_again(&mut receiver, 2, at(3));
    assert_eq!(outputs(&mut receiver), vec![Output::Complete]);
    receiver.confirm(at(0));
    receiver.mark_bad(0, 1, at(4));
    assert_eq!(receiver.held().count(), 3);
}

#[test]
fn a_transmission_that_is_played_again_asks_nothing_counts_nothing_and_brings_nothing() {
    let mut receiver = receiver(10);
    let flagged = header(0, FLAG);
    hear(&mut receiver, 0, FLAG, at(0));
    receiver.handle_timeout(at(10));
    let [first] = statuses(&mut receiver).try_into().expect("one answer");
    let due = receiver.poll_timeout();
    for _ in 0..100 {
        let taken = receiver.handle_frame(&flagged, usize::from(SYMBOL_BYTES), at(11));
        assert_eq!(taken, Err(Refused::Replay { sequence: 1 }));
    }
    assert_eq!(receiver.poll_timeout(), due, "no answer is due");
    receiver.handle_message(&poll(Roll::Waiting(vec![ME])), at(11));
    receiver.handle_timeout(at(15));
    let [second] = statuses(&mut receiver).try_into().expect("one answer");
    assert_eq!((first.received, second.received), (1, 1));
}

#[test]
fn a_flag_is_answered_once_within_the_window_about_what_was_sent_before_it() {
    let mut receiver = receiver(10);
    hear(&mut receiver, 0, PLAIN, at(0));
    hear(&mut receiver, 3, FLAG, at(0));
    hear(&mut receiver, 6, PLAIN, at(0));
    let at_most = at(0) + ReceiverConfig::default().reply_window;
    let answers_at = receiver.poll_timeout().expect("an answer is due");
    assert!(answers_at <= at_most && answers_at >= Timestamp(500), "{answers_at:?}");
    receiver.handle_timeout(answers_at - Duration::from_micros(1));
    assert_eq!(statuses(&mut receiver), vec![]);
    receiver.handle_timeout(answers_at);
    let said = statuses(&mut receiver);
    let expected = Status {
        session: 1,
        poll: 0,
        received: 3,
        highest: 7,
        held: 3,
        missing: vec![(1, 2)],
        deficits: vec![],
        more: false,
        complete: false,
    };
    assert_eq!(said, vec![expected]);
    receiver.handle_timeout(at_most);
    assert_eq!(statuses(&mut receiver), vec![]);
}

#[test]
fn only_those_asked_answer_a_poll_except_an_incomplete_one_that_the_leader_believes_complete() {
    for (roll, answers) in [
        (Roll::Waiting(vec![ME]), 1),
        (Roll::Waiting(vec![]), 0),
        (Roll::Complete(vec![]), 1),
        (Roll::Complete(vec![ME]), 1),
    ] {
        let mut receiver = receiver(10);
        receiver.handle_message(&poll(roll.clone()), at(0));
        receiver.handle_timeout(at(4));
        let said = statuses(&mut receiver);
        assert_eq!(said.len(), answers, "{roll:?}");
        assert!(said.iter().all(|status| status.poll == 3 && status.missing == vec![(0, 4)]));
    }
    let geometry = Geometry::new(10, SYMBOL_BYTES).expect("fits");
    let mut complete = Receiver::already_complete(ReceiverConfig::default(), ME, 1, geometry, 1, at(0));
    assert_eq!(statuses(&mut complete).iter().map(|status| status.complete).collect::<Vec<_>>(), vec![true]);
    complete.handle_message(&poll(Roll::Complete(vec![ME])), at(0));
    complete.handle_timeout(at(4));
    assert_eq!(statuses(&mut complete), vec![]);
    complete.handle_message(&poll(Roll::Waiting(vec![ME])), at(5));
    complete.handle_timeout(at(9));
    assert_eq!(statuses(&mut complete).len(), 1);
}

#[test]
fn a_complete_member_answers_few_flags_so_that_the_leader_hears_those_who_miss_something() {
    let geometry = Geometry::new(10, SYMBOL_BYTES).expect("fits");
    let mut complete = Receiver::already_complete(ReceiverConfig::default(), ME, 1, geometry, 1, at(0));
    outputs(&mut complete);
    let mut answers = 0;
    for (sequence, millis) in (1..).zip((0..1000).step_by(50)) {
        let header = FrameHeader { payload_bytes: 10, sequence, ..header(0, FLAG) };
        let taken = complete.handle_frame(&header, 10, at(millis));
        assert_eq!(taken, Ok(Accepted::Duplicate));
        complete.handle_timeout(at(millis + 1));
        answers += statuses(&mut complete).len();
    }
    assert_eq!(answers, 3);
}

#[test]
fn a_silent_leader_is_asked_ever_more_rarely_and_then_given_up() {
    let mut receiver = receiver(10);
    hear(&mut receiver, 2, PLAIN, at(0));
    let mut asked_at = Vec::new();
    let mut abandoned_at = None;
    while let Some(now) = receiver.poll_timeout() {
        receiver.handle_timeout(now);
        for output in outputs(&mut receiver) {
            match output {
                Output::Unicast(_) => asked_at.push(now.0 / 1000),
                Output::Abandoned => abandoned_at = Some(now),
                Output::Complete | Output::Restore(_) | Output::Closed { .. } => panic!("neither: {output:?}"),
            }
        }
    }
    assert_eq!(asked_at, vec![20, 60, 140, 300, 620, 1120, 1620, 2120, 2620]);
    assert_eq!(abandoned_at, Some(at(3000)));
    let refused = receiver.handle_frame(&header(0, PLAIN), usize::from(SYMBOL_BYTES), at(3001));
    assert_eq!(refused, Err(Refused::Over));
}

#[test]
fn a_frame_that_does_not_belong_here_is_refused_for_its_reason_and_changes_nothing() {
    let mut receiver = receiver(3);
    let mut check = |header: FrameHeader, bytes: usize, refused: Refused| {
        assert_eq!(receiver.handle_frame(&header, bytes, at(0)), Err(refused));
    };
    let bytes = usize::from(SYMBOL_BYTES);
    check(FrameHeader { session: 2, ..header(0, PLAIN) }, bytes, Refused::Session { expected: 1, actual: 2 });
    check(header(3, PLAIN), bytes, Refused::Symbol { symbol: 3, symbols: 3 });
    let short = Refused::Length { carried: Carried::Symbol(1), expected: SYMBOL_BYTES, actual: bytes - 1 };
    check(header(1, PLAIN), bytes - 1, short);
    assert!(receiver.held().is_empty());
}

#[test]
fn symbols_from_a_local_copy_are_not_asked_for() {
    let mut receiver = receiver(10);
    receiver.mark_have(0, 4);
    hear(&mut receiver, 6, FLAG, at(0));
    receiver.handle_timeout(at(1));
    assert_eq!(statuses(&mut receiver)[0].missing, vec![(4, 2)]);
    receiver.mark_have(4, u32::MAX);
    assert_eq!(outputs(&mut receiver), vec![Output::Complete]);
}

#[test]
fn a_close_ends_the_session_and_says_whether_the_object_is_here() {
    let close = Message::Close { session: 1, failed: Vec::new() };
    let mut receiver = receiver(1);
    receiver.handle_message(&Message::Close { session: 2, failed: Vec::new() }, at(0));
    assert_eq!(outputs(&mut receiver), vec![]);
    receiver.handle_message(&close, at(0));
    assert_eq!(outputs(&mut receiver), vec![Output::Closed { complete: false }]);
    assert_eq!(receiver.poll_timeout(), None);
    let mut receiver = self::receiver(1);
    hear(&mut receiver, 0, PLAIN, at(0));
    receiver.confirm(at(0));
    outputs(&mut receiver);
    receiver.handle_message(&close, at(0));
    assert_eq!(outputs(&mut receiver), vec![Output::Closed { complete: true }]);
}

#[test]
fn a_member_greets_when_it_listens_and_one_that_has_the_object_has_said_so_already() {
    let greetings = |receiver: &mut Receiver| -> Vec<(u32, bool)> {
        receiver.greet(at(1));
        let outputs = std::iter::from_fn(|| receiver.poll_output());
        let status = |output| match output {
            Output::Unicast(Message::Status(status)) => Some((status.held, status.complete)),
            Output::Unicast(_) | Output::Restore(_) | Output::Complete | Output::Abandoned | Output::Closed { .. } => {
                None
            }
        };
        outputs.map(|output| status(output).expect("a report")).collect()
    };
    let geometry = Geometry::new(10 * 1328, 1328).expect("fits");
    let mut newcomer = Receiver::new(ReceiverConfig::default(), ME, 1, geometry, 1, at(0));
    assert_eq!(greetings(&mut newcomer), [(0, false)]);
    let mut holder = Receiver::already_complete(ReceiverConfig::default(), ME, 1, geometry, 1, at(0));
    assert_eq!(greetings(&mut holder), [(10, true)], "once");
    let many = ReceiverConfig { members: 500, ..ReceiverConfig::default() };
    let geometry = Geometry::new(1000 * 1328, 1328).expect("fits").with_blocks();
    let mut one_of_many = Receiver::new(many, ME, 1, geometry, 1, at(0));
    assert_eq!(greetings(&mut one_of_many), [], "not all at once");
    let until = one_of_many.poll_timeout().expect("it is going to");
    assert!(until <= at(11), "{until:?}");
    one_of_many.handle_timeout(until);
    assert!(one_of_many.poll_output().is_some());
}
