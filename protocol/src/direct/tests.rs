use super::*;

const ONE: ServerId = ServerId([1; 16]);
const TWO: ServerId = ServerId([2; 16]);

fn ms(milliseconds: u64) -> Timestamp {
    Timestamp(milliseconds * 1_000)
}

fn drain(offers: &mut Offers) -> Vec<Output> {
    std::iter::from_fn(|| offers.poll_output()).collect()
}

#[test]
fn an_offer_is_repeated_ever_more_slowly_until_it_is_answered() {
    let mut offers = Offers::default();
    offers.offer(ONE, ms(0));
    offers.offer(ONE, ms(1));
    assert_eq!(drain(&mut offers), [Output::Offer(ONE)], "once, however often it is asked for");
    let mut at = Vec::new();
    for _ in 0..7 {
        let due = offers.poll_timeout().expect("it is repeated");
        offers.handle_timeout(due);
        assert_eq!(drain(&mut offers), [Output::Offer(ONE)]);
        at.push(due.0 / 1_000);
    }
    assert_eq!(at, [50, 150, 350, 750, 1_550, 2_550, 3_550]);
}

#[test]
fn who_fetches_is_asked_again_now_and_then_until_it_holds_the_object() {
    let mut offers = Offers::default();
    offers.offer(ONE, ms(0));
    drain(&mut offers);
    offers.handle_answer(ONE, &Answer::Fetches, ms(10));
    assert_eq!(offers.poll_timeout(), Some(ms(2_010)));
    offers.handle_timeout(ms(2_010));
    assert_eq!(drain(&mut offers), [Output::Offer(ONE)]);
    assert_eq!(offers.poll_timeout(), Some(ms(4_010)));
    offers.handle_answer(ONE, &Answer::Holds, ms(3_000));
    assert_eq!(drain(&mut offers), [Output::Served(ONE)]);
    assert_eq!((offers.poll_timeout(), offers.is_idle(), offers.served()), (None, true, [ONE].as_slice()));
    offers.handle_answer(ONE, &Answer::Holds, ms(3_001));
    assert_eq!(drain(&mut offers), [], "an answer that comes twice says nothing new");
}

#[test]
fn who_declines_or_is_gone_is_left_alone_and_others_are_not() {
    let mut offers = Offers::default();
    offers.offer(ONE, ms(0));
    offers.offer(TWO, ms(0));
    drain(&mut offers);
    offers.handle_answer(ONE, &Answer::Declines("maintenance: away".into()), ms(5));
    assert_eq!(drain(&mut offers), [Output::Declined(ONE, "maintenance: away".into())]);
    offers.handle_timeout(ms(60));
    assert_eq!(drain(&mut offers), [Output::Offer(TWO)]);
    offers.withdraw(TWO);
    assert!(offers.is_idle() && offers.served().is_empty());
}

#[test]
fn what_is_still_on_its_way_to_the_leader_is_offered_when_it_is_whole() {
    let mut offers = Offers::default();
    offers.hold();
    offers.offer(ONE, ms(0));
    offers.offer(TWO, ms(0));
    offers.withdraw(TWO);
    offers.handle_timeout(ms(5_000));
    assert_eq!((drain(&mut offers), offers.poll_timeout()), (vec![], None), "it could not be fetched");
    assert!(!offers.is_idle(), "it is not forgotten");
    offers.release(ms(6_000));
    assert_eq!((drain(&mut offers), offers.poll_timeout()), (vec![Output::Offer(ONE)], Some(ms(6_050))));
    offers.release(ms(6_001));
    assert_eq!(drain(&mut offers), [], "once");
}
