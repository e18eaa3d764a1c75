//! One server's part input by input, and whole segments whose datagrams get lost.

use std::collections::BTreeMap;

use super::*;

const OWN: ServerId = ServerId([9; 16]);

fn at(millis: u64) -> Timestamp {
    Timestamp(millis * 1000)
}

fn id(number: u8) -> ServerId {
    ServerId([number; 16])
}

fn channel(last: u8) -> SocketAddr {
    SocketAddr::from(([239, 192, 0, last], 20_000))
}

/// Where cluster and segment imply.
const DERIVED: u8 = 1;

fn places(remembered: Option<(Version, u8)>, configured: Option<u8>) -> Places {
    Places {
        remembered: remembered.map(|(version, last)| (version, channel(last))),
        configured: configured.map(channel),
        derived: channel(DERIVED),
    }
}

fn server() -> Relocation {
    Relocation::new(OWN, places(None, None), Config::default(), at(0))
}

fn version(epoch: u64, number: u32) -> Version {
    Version { epoch, number }
}

fn order(epoch: u64, number: u32, to: u8) -> Message {
    Message::Move { version: version(epoch, number), to: channel(to) }
}

fn obeyed(epoch: u64, number: u32) -> Message {
    Message::Moved { version: version(epoch, number) }
}

fn outputs(server: &mut Relocation) -> Vec<Output> {
    std::iter::from_fn(|| server.poll_output()).collect()
}

fn listen(to: &[u8]) -> Output {
    Output::Listen(to.iter().copied().map(channel).collect())
}

fn say(on: u8, message: Message) -> Output {
    Output::Say { on: channel(on), message }
}

fn tell(to: ServerId, message: Message) -> Output {
    Output::Tell { to, message }
}

fn here(epoch: u64, number: u32, on: u8) -> Message {
    Message::Here { version: version(epoch, number), on: channel(on) }
}

/// What a leader says that has moved its segment: besides, that it is there, for those whom copies reach.
fn arrives_first(epoch: u64, number: u32, to: u8) -> Vec<Output> {
    arrives(epoch, number, to).into_iter().chain([say(to, here(epoch, number, to))]).collect()
}

/// What a server says that arrives on a channel by a move.
fn arrives(epoch: u64, number: u32, to: u8) -> Vec<Output> {
    vec![
        Output::Speak(channel(to)),
        listen(&[to]),
        Output::Remember(version(epoch, number), channel(to)),
        Output::Moved(channel(to)),
    ]
}

#[test]
fn the_leader_repeats_its_order_until_all_registered_members_have_obeyed_and_goes_last() {
    let mut leader = server();
    assert_eq!(leader.order(channel(2), at(0)), Err(OrderError::NotLeader));
    leader.leads(5, at(0));
    leader.members([OWN, id(1), id(2)], at(0));
    assert_eq!(leader.order(channel(DERIVED), at(0)), Err(OrderError::Already { channel: channel(DERIVED) }));
    assert_eq!(leader.order(channel(2), at(0)), Ok(()));
    assert_eq!(leader.order(channel(3), at(0)), Err(OrderError::UnderWay { to: channel(2) }));
    assert_eq!(outputs(&mut leader), [listen(&[1, 2]), say(1, order(5, 1, 2))]);
    leader.handle_message(id(1), false, &obeyed(5, 1), at(1));
    leader.handle_message(id(1), false, &obeyed(5, 1), at(1));
    leader.handle_message(id(2), false, &obeyed(4, 1), at(1));
    assert_eq!(outputs(&mut leader), [], "one has not obeyed this order");
    assert_eq!(leader.poll_timeout(), Some(at(200)));
    leader.handle_timeout(at(200));
    assert_eq!(outputs(&mut leader), [say(1, order(5, 1, 2))]);
    leader.handle_message(id(2), false, &obeyed(5, 1), at(201));
    assert_eq!(outputs(&mut leader), arrives_first(5, 1, 2));
    assert_eq!(leader.channel(), channel(2));
}

#[test]
fn a_member_that_is_gone_is_not_waited_for_and_one_that_came_is() {
    let mut leader = server();
    leader.leads(5, at(0));
    leader.members([id(1), id(2)], at(0));
    leader.order(channel(2), at(0)).expect("it leads");
    outputs(&mut leader);
    leader.handle_message(id(1), false, &obeyed(5, 1), at(1));
    leader.members([id(1), id(3)], at(2));
    assert_eq!(outputs(&mut leader), []);
    leader.members([id(1)], at(3));
    assert_eq!(outputs(&mut leader), arrives_first(5, 1, 2));

    let mut alone = server();
    alone.leads(5, at(0));
    alone.order(channel(2), at(0)).expect("it leads");
    assert_eq!(outputs(&mut alone)[2..], arrives_first(5, 1, 2), "nobody to wait for");
}

#[test]
fn an_order_that_somebody_cannot_obey_is_taken_back_and_those_who_did_forget_it() {
    let mut leader = server();
    leader.leads(5, at(0));
    leader.members([id(1), id(2)], at(0));
    leader.order(channel(2), at(0)).expect("it leads");
    leader.handle_message(id(1), false, &obeyed(5, 1), at(1));
    outputs(&mut leader);
    leader.handle_timeout(at(30_000));
    let abandoned = Output::Abandoned { to: channel(2), missing: [id(2)].into() };
    let taken_back = Output::Remember(version(5, 2), channel(1));
    assert_eq!(outputs(&mut leader), [taken_back, say(1, order(5, 2, 1)), abandoned, listen(&[1])]);

    let mut member = server();
    member.follows(id(7), 5);
    member.handle_message(id(7), true, &order(5, 1, 2), at(1));
    outputs(&mut member);
    member.handle_message(id(7), true, &order(5, 2, 1), at(30_000));
    let forgets = [listen(&[1]), Output::Remember(version(5, 2), channel(1)), tell(id(7), obeyed(5, 2))];
    assert_eq!(outputs(&mut member), forgets);
    member.handle_message(id(7), true, &order(5, 1, 2), at(30_001));
    assert_eq!(outputs(&mut member), [], "an order that was taken back is old");
}

#[test]
fn a_member_listens_to_both_channels_until_it_hears_its_leader_on_the_new_one() {
    let mut member = server();
    member.follows(id(7), 5);
    outputs(&mut member);
    member.handle_message(id(7), true, &order(5, 1, 2), at(1));
    assert_eq!(outputs(&mut member), [listen(&[1, 2]), tell(id(7), obeyed(5, 1))]);
    member.handle_message(id(7), true, &order(5, 1, 2), at(200));
    assert_eq!(outputs(&mut member), [tell(id(7), obeyed(5, 1))], "its word may have been lost");
    member.heard_leader_on(id(7), channel(1));
    member.heard_leader_on(id(8), channel(2));
    assert_eq!(outputs(&mut member), [], "that is not its leader on the new channel");
    member.heard_leader_on(id(7), channel(2));
    assert_eq!(outputs(&mut member), arrives(5, 1, 2));
    member.handle_message(id(7), true, &order(5, 1, 2), at(400));
    assert_eq!(outputs(&mut member), [tell(id(7), obeyed(5, 1))], "the leader may not have heard it");
}

#[test]
fn a_member_that_gets_copies_only_goes_where_its_leader_says_that_it_is() {
    let mut deaf = server();
    deaf.follows(id(7), 5);
    deaf.handle_message(id(7), true, &order(5, 1, 2), at(1));
    outputs(&mut deaf);
    for (from, may_lead, message) in
        [(id(7), false, here(5, 1, 2)), (id(8), true, here(5, 1, 2)), (id(7), true, here(0, 0, 2))]
    {
        deaf.handle_message(from, may_lead, &message, at(2));
        assert_eq!(outputs(&mut deaf), [], "{from} {may_lead} {message:?}");
    }
    deaf.handle_message(id(7), true, &here(5, 1, 2), at(3));
    assert_eq!(outputs(&mut deaf), arrives(5, 1, 2));
    deaf.handle_message(id(7), true, &here(5, 1, 2), at(4));
    assert_eq!(outputs(&mut deaf), [], "it is there");
    deaf.handle_message(id(7), true, &here(5, 1, 3), at(5));
    assert_eq!(outputs(&mut deaf), [], "that is no later move");

    let mut newcomer = server();
    newcomer.follows(id(7), 5);
    newcomer.handle_message(id(7), true, &here(5, 1, 2), at(1));
    assert_eq!(outputs(&mut newcomer), arrives(5, 1, 2), "it was away when the segment moved");
}

#[test]
fn nobody_is_moved_by_who_may_not_lead_by_another_leader_or_by_an_old_order() {
    let remembered = Some((version(5, 3), 2));
    let mut member = Relocation::new(OWN, places(remembered, None), Config::default(), at(0));
    member.follows(id(7), 6);
    for (from, may_lead, message) in [
        (id(7), false, order(6, 9, 3)),
        (id(8), true, order(6, 9, 3)),
        (id(8), true, order(5, 9, 3)),
        (id(7), true, order(5, 3, 3)),
        (id(7), true, order(5, 2, 3)),
        (id(7), true, order(4, 9, 3)),
        (OWN, true, order(9, 9, 3)),
    ] {
        member.handle_message(from, may_lead, &message, at(1));
        assert_eq!(outputs(&mut member), [], "{from} {may_lead} {message:?}");
    }
    member.handle_message(id(8), true, &order(7, 0, 3), at(1));
    assert_eq!(outputs(&mut member)[0], listen(&[2, 3]), "a later leader is somewhere else");
}

#[test]
fn a_server_without_a_leader_tries_the_remembered_the_configured_and_the_implied_channel_in_turn() {
    let mut lost = Relocation::new(OWN, places(Some((version(5, 3), 2)), Some(3)), Config::default(), at(0));
    assert_eq!(lost.channel(), channel(2));
    let mut tried = Vec::new();
    for _ in 0..4 {
        let next = lost.poll_timeout().expect("it goes on");
        lost.handle_timeout(next);
        tried.push((next.0 / 1_000_000, lost.channel()));
        assert_eq!(outputs(&mut lost), [Output::Speak(lost.channel()), Output::Listen([lost.channel()].into())]);
    }
    assert_eq!(tried, [(5, channel(3)), (10, channel(1)), (15, channel(2)), (20, channel(3))]);
    lost.follows(id(7), 5);
    assert_eq!(lost.poll_timeout(), None, "it has found one");

    let mut told = server();
    assert_eq!(told.poll_timeout(), None, "there is one place only");
    told.handle_message(id(7), true, &order(5, 1, 4), at(1));
    outputs(&mut told);
    told.handle_timeout(at(5_000));
    assert_eq!(told.channel(), channel(4), "where it was told that the leader is comes first");
}

#[test]
fn a_leader_says_at_its_other_places_where_it_is_and_an_earlier_one_comes() {
    let mut later = Relocation::new(OWN, places(Some((version(5, 3), 2)), None), Config::default(), at(0));
    later.leads(8, at(0));
    outputs(&mut later);
    assert_eq!(later.poll_timeout(), Some(at(5_000)));
    later.handle_timeout(at(5_000));
    assert_eq!(outputs(&mut later), [say(1, order(8, 0, 2)), say(2, here(8, 0, 2))]);

    let mut earlier = server();
    earlier.leads(7, at(0));
    earlier.handle_message(OWN, true, &order(8, 0, 2), at(1));
    assert_eq!(outputs(&mut earlier), [], "its own word");
    earlier.handle_message(id(3), true, &order(8, 0, 2), at(1));
    assert_eq!(outputs(&mut earlier), [listen(&[1, 2]), tell(id(3), obeyed(8, 0))]);
    earlier.follows(id(3), 8);
    outputs(&mut earlier);
    earlier.heard_leader_on(id(3), channel(2));
    assert_eq!(outputs(&mut earlier), arrives(8, 0, 2));

    let mut latest = server();
    latest.leads(9, at(0));
    latest.handle_message(id(3), true, &order(8, 0, 2), at(1));
    let come = [Output::Remember(version(9, 1), channel(1)), say(2, order(9, 1, 1))];
    assert_eq!(outputs(&mut latest), come, "the earlier leader is told to come");
}

/// A segment of servers that follow one leader, and the datagrams between them.
struct Segment {
    servers: BTreeMap<ServerId, Relocation>,
    listens: BTreeMap<ServerId, BTreeSet<SocketAddr>>,
    speaks: BTreeMap<ServerId, SocketAddr>,
    remembers: BTreeMap<ServerId, (Version, SocketAddr)>,
    leader: ServerId,
    chance: u64,
    /// Of a hundred datagrams, so many are lost.
    loss: u64,
}

impl Segment {
    fn of(servers: u8, loss: u64, seed: u64) -> Self {
        let ids: Vec<ServerId> = (1..=servers).map(id).collect();
        let mut segment = Self {
            servers: BTreeMap::new(),
            listens: ids.iter().map(|id| (*id, [channel(DERIVED)].into())).collect(),
            speaks: ids.iter().map(|id| (*id, channel(DERIVED))).collect(),
            remembers: BTreeMap::new(),
            leader: id(1),
            chance: seed,
            loss,
        };
        for server in &ids {
            let mut machine = Relocation::new(*server, places(None, None), Config::default(), at(0));
            if *server == segment.leader {
                machine.leads(5, at(0));
                machine.members(ids.iter().copied(), at(0));
            } else {
                machine.follows(segment.leader, 5);
            }
            segment.servers.insert(*server, machine);
        }
        segment
    }

    fn is_lost(&mut self) -> bool {
        self.chance = self.chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.chance >> 33) % 100 < self.loss
    }

    /// Carries out what all say at this moment, the leader's announcement among it.
    fn step(&mut self, now: Timestamp) {
        let ids: Vec<ServerId> = self.servers.keys().copied().collect();
        for server in &ids {
            let machine = self.servers.get_mut(server).expect("it is there");
            if machine.poll_timeout().is_some_and(|at| at <= now) {
                machine.handle_timeout(now);
            }
        }
        let announced_on = self.speaks[&self.leader];
        for server in ids.iter().filter(|server| **server != self.leader).copied().collect::<Vec<_>>() {
            if self.listens[&server].contains(&announced_on) && !self.is_lost() {
                let leader = self.leader;
                self.servers.get_mut(&server).expect("it is there").heard_leader_on(leader, announced_on);
            }
        }
        while ids.iter().any(|server| self.carry_out(*server, now)) {}
    }

    fn carry_out(&mut self, server: ServerId, now: Timestamp) -> bool {
        let Some(output) = self.servers.get_mut(&server).and_then(Relocation::poll_output) else { return false };
        match output {
            Output::Listen(to) => drop(self.listens.insert(server, to)),
            Output::Speak(on) => drop(self.speaks.insert(server, on)),
            Output::Remember(version, channel) => drop(self.remembers.insert(server, (version, channel))),
            Output::Say { on, message } => {
                for hearer in self.servers.keys().copied().filter(|hearer| *hearer != server).collect::<Vec<_>>() {
                    if self.listens[&hearer].contains(&on) && !self.is_lost() {
                        let machine = self.servers.get_mut(&hearer).expect("it is there");
                        machine.handle_message(server, true, &message, now);
                    }
                }
            }
            Output::Tell { to, message } => {
                if !self.is_lost() {
                    self.servers.get_mut(&to).expect("it is there").handle_message(server, true, &message, now);
                }
            }
            Output::Moved(_) => (),
            Output::Abandoned { .. } => panic!("all can obey"),
        }
        // Nobody loses its leader by a move.
        let leader_on = self.speaks[&self.leader];
        for (server, listens) in &self.listens {
            assert!(listens.contains(&leader_on), "{server} does not hear its leader on {leader_on}");
        }
        true
    }
}

#[test]
fn whatever_is_lost_the_whole_segment_moves_and_at_no_moment_does_anybody_miss_its_leader() {
    for seed in 0..200 {
        let mut segment = Segment::of(6, seed % 60, seed);
        segment.servers.get_mut(&id(1)).expect("it is there").order(channel(2), at(0)).expect("it leads");
        for step in 0..150 {
            segment.step(at(step * 200));
        }
        for server in segment.servers.values() {
            assert_eq!(server.channel(), channel(2), "seed {seed}");
        }
        assert!(segment.listens.values().all(|listens| *listens == [channel(2)].into()), "seed {seed}");
        assert!(segment.remembers.values().all(|it| *it == (version(5, 1), channel(2))), "seed {seed}");
        assert_eq!(segment.remembers.len(), 6, "seed {seed}");
    }
}
