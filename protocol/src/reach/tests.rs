use super::*;

const LEADER: ServerId = ServerId([1; 16]);
const TWO: ServerId = ServerId([2; 16]);
const THREE: ServerId = ServerId([3; 16]);
const STRANGER: ServerId = ServerId([9; 16]);

fn ms(milliseconds: u64) -> Timestamp {
    Timestamp(milliseconds * 1_000)
}

fn address(server: ServerId) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, server.0[0]], 4000))
}

fn drain(reach: &mut Reach) -> Vec<Output> {
    std::iter::from_fn(|| reach.poll_output()).collect()
}

fn copies(reach: &mut Reach, to: &[ServerId], now: Timestamp) -> Vec<ServerId> {
    to.iter().copied().filter(|server| reach.needs_copy(Some(*server), address(*server), to.len(), now)).collect()
}

/// A leader with two members and those who hear it, over virtual time. All members are alive.
struct Segment {
    reach: Reach,
    now: Timestamp,
    hear: Vec<ServerId>,
    alive: Vec<ServerId>,
    beacons: Vec<u64>,
    news: Vec<Output>,
}

impl Segment {
    fn new(hear: &[ServerId]) -> Self {
        let mut reach = Reach::new(Transport::Auto, Config::default(), ms(0));
        reach.leads(ms(0));
        reach.members([TWO, THREE], ms(0));
        let alive = vec![TWO, THREE];
        Self { reach, now: ms(0), hear: hear.to_vec(), alive, beacons: Vec::new(), news: Vec::new() }
    }

    fn run_until(&mut self, end: Timestamp) {
        loop {
            for server in &self.alive {
                self.reach.heard(*server, self.now);
            }
            for output in drain(&mut self.reach) {
                if let Output::Multicast(Message::Beacon { number, .. }) = output {
                    self.beacons.push(self.now.0 / 1_000);
                    for server in self.hear.clone() {
                        self.reach.handle_message(server, Way::Unicast, &Message::Heard { number }, self.now);
                    }
                } else {
                    self.news.push(output);
                }
            }
            match self.reach.poll_timeout() {
                Some(at) if at <= end => {
                    self.now = at.max(self.now);
                    self.reach.handle_timeout(self.now);
                }
                Some(_) | None => break,
            }
        }
        self.now = end;
        self.news.extend(drain(&mut self.reach));
    }
}

#[test]
fn where_all_answer_the_beacon_nothing_is_copied_and_it_is_rare() {
    let mut segment = Segment::new(&[TWO, THREE]);
    segment.run_until(ms(10_000));
    assert_eq!(copies(&mut segment.reach, &[TWO, THREE], ms(10_000)), []);
    assert!(segment.reach.is_whole(ms(10_000)));
    assert!(segment.beacons.len() <= 7, "{:?}", segment.beacons);
    assert_eq!(segment.news, [Output::Hears(TWO), Output::Hears(THREE)]);
}

#[test]
fn a_member_that_is_alive_and_answers_no_beacon_is_deaf_within_a_second_and_is_served_by_unicast() {
    let mut segment = Segment::new(&[TWO]);
    segment.run_until(ms(1_000));
    assert_eq!(segment.news, [Output::Hears(TWO), Output::Deaf(THREE)]);
    assert!(segment.reach.is_served_by_unicast(THREE) && !segment.reach.is_served_by_unicast(TWO));
    assert_eq!(copies(&mut segment.reach, &[TWO, THREE], ms(1_000)), [THREE]);
    assert!(!segment.reach.is_whole(ms(1_000)));
    let before = segment.beacons.len();
    segment.run_until(ms(11_000));
    assert!(segment.beacons.len() - before <= 6, "one that is deaf hastens nothing: {:?}", segment.beacons);
}

#[test]
fn until_it_has_answered_a_member_gets_copies_and_is_not_taken_for_deaf() {
    let mut reach = Reach::new(Transport::Auto, Config::default(), ms(0));
    reach.leads(ms(0));
    reach.members([TWO], ms(0));
    assert_eq!(copies(&mut reach, &[TWO], ms(0)), [TWO]);
    assert!(!reach.is_served_by_unicast(TWO));
}

#[test]
fn a_member_that_is_dead_is_not_deaf() {
    let mut segment = Segment::new(&[TWO]);
    segment.alive = vec![TWO];
    segment.run_until(ms(30_000));
    assert_eq!(segment.news, [Output::Hears(TWO)]);
}

#[test]
fn a_network_that_ceases_to_carry_multicast_is_noticed_and_so_is_one_that_begins_to() {
    let mut segment = Segment::new(&[TWO, THREE]);
    segment.run_until(ms(5_000));
    segment.hear = vec![TWO];
    segment.news.clear();
    segment.run_until(ms(8_000));
    assert_eq!(segment.news, [Output::Deaf(THREE)]);
    segment.hear = vec![TWO, THREE];
    segment.news.clear();
    segment.run_until(ms(11_000));
    assert_eq!(segment.news, [Output::Hears(THREE)]);
    assert_eq!(copies(&mut segment.reach, &[TWO, THREE], ms(11_000)), []);
}

#[test]
fn a_few_lost_beacons_change_nothing() {
    let mut segment = Segment::new(&[TWO, THREE]);
    segment.run_until(ms(4_100));
    segment.news.clear();
    segment.hear = vec![TWO];
    let next = segment.beacons.len();
    while segment.beacons.len() < next + 4 {
        segment.run_until(Timestamp(segment.now.0 + 50_000));
    }
    segment.hear = vec![TWO, THREE];
    segment.run_until(ms(12_000));
    assert_eq!(segment.news, []);
}

fn member() -> Reach {
    let mut reach = Reach::new(Transport::Auto, Config::default(), ms(0));
    reach.follows(LEADER, ms(0));
    reach
}

fn beacon(deaf: &[ServerId]) -> Message {
    Message::Beacon { number: 4, deaf: Deaf::These(deaf.to_vec()) }
}

#[test]
fn a_member_answers_the_beacon_of_its_leader_if_it_came_by_multicast() {
    let mut reach = member();
    reach.handle_message(LEADER, Way::Unicast, &beacon(&[]), ms(10));
    reach.handle_message(TWO, Way::Multicast, &beacon(&[]), ms(10));
    assert_eq!(drain(&mut reach), [], "played on by somebody, and of a server that does not lead");
    assert!(!reach.is_whole(ms(10)));
    reach.handle_message(LEADER, Way::Multicast, &beacon(&[]), ms(10));
    assert_eq!(drain(&mut reach), [Output::Send { to: LEADER, message: Message::Heard { number: 4 } }]);
    assert!(reach.is_whole(ms(10)));
}

#[test]
fn a_member_copies_what_it_says_to_those_whom_the_beacon_names_also_when_the_leader_is_lost() {
    let mut reach = member();
    reach.handle_message(LEADER, Way::Multicast, &beacon(&[THREE]), ms(10));
    assert_eq!(copies(&mut reach, &[LEADER, TWO, THREE], ms(20)), [THREE]);
    reach.leaderless(ms(1_000));
    assert_eq!(copies(&mut reach, &[LEADER, TWO, THREE], ms(1_500)), [THREE]);
    assert_eq!(
        copies(&mut reach, &[LEADER, TWO, THREE], ms(2_000)),
        [LEADER, TWO, THREE],
        "no leader is found: perhaps nobody hears it any more"
    );
}

#[test]
fn a_member_that_hears_no_beacon_copies_to_all() {
    let mut reach = member();
    assert_eq!(copies(&mut reach, &[LEADER, TWO], ms(1_000)), [LEADER, TWO]);
    reach.handle_message(LEADER, Way::Multicast, &beacon(&[]), ms(1_000));
    assert_eq!(copies(&mut reach, &[LEADER, TWO], ms(6_999)), []);
    assert_eq!(copies(&mut reach, &[LEADER, TWO], ms(7_000)), [LEADER, TWO], "the beacon has ceased");
}

#[test]
fn at_the_start_few_copy_at_once_and_many_wait_for_multicast_to_fail() {
    for (servers, at_once) in [(32, true), (33, false)] {
        let mut reach = Reach::new(Transport::Auto, Config::default(), ms(0));
        assert_eq!(reach.needs_copy(Some(TWO), address(TWO), servers, ms(10)), at_once);
        assert!(reach.needs_copy(Some(TWO), address(TWO), servers, ms(1_000)));
    }
}

#[test]
fn more_deaf_than_can_be_named_means_everybody_and_a_long_list_is_not_believed() {
    let many: Vec<ServerId> = (0..=16).map(|n| ServerId([100 + n; 16])).collect();
    let mut reach = member();
    reach.handle_message(LEADER, Way::Multicast, &beacon(&many), ms(10));
    assert_eq!(copies(&mut reach, &[TWO], ms(20)), [TWO]);
    let mut leader = Reach::new(Transport::Auto, Config::default(), ms(0));
    leader.leads(ms(0));
    leader.members(many.clone(), ms(0));
    let mut last = None;
    while leader.poll_timeout().is_some_and(|at| at <= ms(2_000)) {
        let at = leader.poll_timeout().expect("looked at");
        many.iter().for_each(|server| leader.heard(*server, at));
        leader.handle_timeout(at);
        for output in drain(&mut leader) {
            if let Output::Multicast(Message::Beacon { deaf, .. }) = output {
                last = Some(deaf);
            }
        }
    }
    assert_eq!(last, Some(Deaf::Many));
}

#[test]
fn a_leader_goes_on_at_silent_strangers_rarely() {
    let mut segment = Segment::new(&[TWO, THREE]);
    segment.run_until(ms(2_000));
    assert_eq!(copies(&mut segment.reach, &[STRANGER], ms(2_000)), [STRANGER]);
    assert_eq!(copies(&mut segment.reach, &[STRANGER], ms(2_999)), []);
    assert_eq!(copies(&mut segment.reach, &[STRANGER], ms(3_000)), [STRANGER]);
    segment.reach.heard(STRANGER, ms(3_000));
    assert_eq!(
        copies(&mut segment.reach, &[STRANGER], ms(3_001)),
        [STRANGER],
        "it speaks, so it may be another leader"
    );
}

#[test]
fn by_unicast_everything_is_copied_and_no_beacon_is_sent_and_by_multicast_nothing_is() {
    for (transport, copied) in [(Transport::Unicast, true), (Transport::Multicast, false)] {
        let mut reach = Reach::new(transport, Config::default(), ms(0));
        assert_eq!(!copies(&mut reach, &[TWO], ms(0)).is_empty(), copied);
        reach.leads(ms(0));
        reach.members([TWO], ms(0));
        assert_eq!(!copies(&mut reach, &[TWO], ms(0)).is_empty(), copied);
        assert_eq!((reach.poll_timeout(), reach.is_served_by_unicast(TWO)), (None, copied));
    }
}

#[test]
fn a_new_leader_begins_with_what_the_one_before_had_found_out() {
    let mut reach = member();
    reach.handle_message(LEADER, Way::Multicast, &beacon(&[THREE]), ms(10));
    reach.leads(ms(1_000));
    reach.members([TWO, THREE], ms(1_000));
    assert!(reach.is_served_by_unicast(THREE) && !reach.is_served_by_unicast(TWO));
}
