//! Every order of events within bounds, for three and four servers: timers fire and datagrams arrive in
//! any order, or are lost, and one server may start again at any moment.
//!
//! **What is abstracted.** Each server has a clock of its own, which jumps to its next timer when that
//! one is chosen; how far the clocks are apart is not bounded. Of a state's times only their order
//! counts. At most [`INBOX_MAX`] datagrams wait for a server; further ones push out the oldest, which is
//! a loss. States that are equal in that sense are looked at once. What is explored is the machine
//! itself, not a model of it; but announcements count without an answer, for nobody plays old ones.
//!
//! **What is shown** of every state reached: no epoch is led by two servers; who is followed led that
//! epoch; nothing is used that is not durable; and when the network is good from there on, there is one
//! leader soon.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use common::credential::Roles;
use common::ids::ServerId;
use common::time::Timestamp;

use super::machine::State;
use super::{Config, Election, Message, Output, Standing};

/// Datagrams that wait for one server.
const INBOX_MAX: usize = 2;
/// How long agreement may take on a good network.
const AGREEMENT_MAX: Duration = Duration::from_secs(12);

fn id(number: usize) -> ServerId {
    ServerId([u8::try_from(number + 1).expect("few"); 16])
}

#[derive(Clone)]
struct Server {
    election: Election,
    now: Timestamp,
    durable: u64,
    inbox: VecDeque<(ServerId, Message)>,
}

#[derive(Clone)]
struct Joint {
    servers: Vec<Server>,
    led: BTreeMap<u64, ServerId>,
    restarts_left: u32,
}

fn start(number: usize, durable: u64, seed: u64, now: Timestamp) -> Election {
    let standing = Standing { cpus: 1 << number, ..Standing::default() };
    Election::new(id(number), Roles::default(), standing, durable, Config::lan(), seed, now)
}

impl Joint {
    fn fresh(count: usize) -> Self {
        let now = Timestamp(1_000_000_000);
        let server =
            |number| Server { election: start(number, 0, number as u64, now), now, durable: 0, inbox: VecDeque::new() };
        let mut joint = Self { servers: (0..count).map(server).collect(), led: BTreeMap::new(), restarts_left: 1 };
        for number in 0..count {
            joint.drain(number, INBOX_MAX);
        }
        joint
    }

    /// Carries outputs out; what does not hold is a panic that says what.
    fn drain(&mut self, number: usize, inbox_max: usize) {
        while let Some(output) = self.servers[number].election.poll_output() {
            let server = &mut self.servers[number];
            match output {
                Output::PersistEpoch(epoch) => {
                    assert!(epoch > server.durable, "durable epochs rise");
                    server.durable = epoch;
                }
                Output::BecameLeader { epoch } => {
                    assert_eq!(server.durable, epoch, "an epoch is durable before it is led");
                    let other = self.led.insert(epoch, id(number));
                    assert_eq!(other, None, "{epoch:#x} is led twice");
                }
                Output::Follows { leader, epoch } => {
                    assert!(server.durable >= epoch, "an epoch is durable before it is obeyed");
                    assert_eq!(self.led.get(&epoch), Some(&leader), "who is followed led that epoch");
                }
                Output::LostLeader => (),
                Output::SendTo { .. } => unreachable!("nobody has to prove anything here"),
                Output::Send(message) => {
                    for (other, receiver) in self.servers.iter_mut().enumerate() {
                        if other != number && !receiver.inbox.contains(&(id(number), message)) {
                            receiver.inbox.push_back((id(number), message));
                            while receiver.inbox.len() > inbox_max {
                                receiver.inbox.pop_front();
                            }
                        }
                    }
                }
            }
        }
    }

    fn fire(&mut self, number: usize, inbox_max: usize) {
        let server = &mut self.servers[number];
        if let Some(at) = server.election.poll_timeout() {
            server.now = server.now.max(at);
            server.election.handle_timeout(server.now);
            self.drain(number, inbox_max);
        }
    }

    fn deliver(&mut self, number: usize, which: usize, inbox_max: usize) {
        let server = &mut self.servers[number];
        if let Some((from, message)) = server.inbox.remove(which) {
            server.election.heard_from_leader(from, server.now);
            server.election.take(from, Roles::default(), &message, server.now);
            self.drain(number, inbox_max);
        }
    }

    fn restart(&mut self, number: usize) {
        let server = &mut self.servers[number];
        server.election = start(number, server.durable, 100 + number as u64, server.now);
        server.inbox.clear();
        self.drain(number, INBOX_MAX);
    }

    fn next(&self) -> Vec<Self> {
        let mut next = Vec::new();
        let mut after = |change: &dyn Fn(&mut Self)| {
            let mut joint = self.clone();
            change(&mut joint);
            next.push(joint);
        };
        for number in 0..self.servers.len() {
            after(&|joint| joint.fire(number, INBOX_MAX));
            for which in 0..self.servers[number].inbox.len() {
                after(&|joint| joint.deliver(number, which, INBOX_MAX));
            }
            if self.restarts_left > 0 {
                after(&|joint| {
                    joint.restarts_left -= 1;
                    joint.restart(number);
                });
            }
        }
        next
    }

    /// What makes this state another one than that, as the module says.
    fn key(&self) -> String {
        let mut key = format!("{};", self.restarts_left);
        for server in &self.servers {
            let mut times = BTreeSet::new();
            let text = format!("{:?}", server.election.state);
            collect_times(&text, &mut times);
            let ranks: BTreeMap<u64, usize> = times.iter().enumerate().map(|(rank, at)| (*at, rank)).collect();
            key += &with_ranks(&text, &ranks);
            let asks = server.election.asks();
            key += &format!("|{:x}|{asks}|{:?};", server.durable, server.inbox);
        }
        key
    }

    fn agreed(&self) -> bool {
        let leader = self.servers[0].election.leader();
        leader.is_some()
            && self.servers.iter().all(|server| server.election.leader() == leader)
            && self.servers.iter().any(|server| server.election.is_leader())
    }

    /// From here on the network is good and clocks go equally fast.
    fn agrees_in_the_end(mut self) -> bool {
        let began: Vec<Timestamp> = self.servers.iter().map(|server| server.now).collect();
        let mut elapsed = Duration::ZERO;
        while elapsed < AGREEMENT_MAX {
            if self.agreed() {
                return true;
            }
            if let Some(number) = self.servers.iter().position(|server| !server.inbox.is_empty()) {
                self.deliver(number, 0, usize::MAX);
                continue;
            }
            let due =
                self.servers.iter().enumerate().filter_map(|(number, server)| {
                    Some((server.election.poll_timeout()?.since(began[number]), number))
                });
            let Some((at, number)) = due.min() else { return false };
            elapsed = elapsed.max(at);
            for (server, began) in self.servers.iter_mut().zip(&began) {
                server.now = server.now.max(*began + elapsed);
            }
            self.fire(number, usize::MAX);
        }
        self.agreed()
    }
}

/// All times in the text of a state.
fn collect_times(text: &str, times: &mut BTreeSet<u64>) {
    times.extend(text.split("Timestamp(").skip(1).filter_map(|rest| rest.split(')').next()?.parse::<u64>().ok()));
}

fn with_ranks(text: &str, ranks: &BTreeMap<u64, usize>) -> String {
    let mut parts = text.split("Timestamp(");
    let mut ranked = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (number, rest) = part.split_once(')').unwrap_or((part, ""));
        let rank = number.parse().ok().and_then(|at: u64| ranks.get(&at));
        ranked += &format!("t{rank:?}{rest}");
    }
    ranked
}

/// Looks at every state within `steps` of `first`; returns how many there are.
fn explore(first: Joint, steps: usize) -> usize {
    let mut seen = BTreeSet::from([first.key()]);
    let mut level = vec![first];
    for _ in 0..steps {
        let mut next_level = Vec::new();
        for joint in &level {
            for next in joint.next() {
                if seen.insert(next.key()) {
                    assert!(next.clone().agrees_in_the_end(), "no leader is ever agreed upon from {}", next.key());
                    next_level.push(next);
                }
            }
        }
        level = next_level;
    }
    seen.len()
}

fn settled(count: usize) -> Joint {
    let mut joint = Joint::fresh(count);
    while !joint.agreed() {
        if let Some(number) = joint.servers.iter().position(|server| !server.inbox.is_empty()) {
            joint.deliver(number, 0, usize::MAX);
        } else {
            let next = |server: &Server| server.election.poll_timeout().expect("all have timers");
            let number = (0..count).min_by_key(|number| next(&joint.servers[*number])).expect("there are servers");
            let now = next(&joint.servers[number]);
            for server in &mut joint.servers {
                server.now = server.now.max(now);
            }
            joint.fire(number, usize::MAX);
        }
    }
    joint
}

#[test]
fn three_servers_never_lead_one_epoch_twice_and_always_find_a_leader() {
    let fresh = explore(Joint::fresh(3), 8);
    let led = explore(settled(3), 8);
    println!("{fresh} states from a cold start, {led} from an agreed leader");
    assert!(fresh > 1_000 && led > 1_000, "{fresh} and {led} states are too few to show anything");
}

#[test]
fn four_servers_never_lead_one_epoch_twice_and_always_find_a_leader() {
    let fresh = explore(Joint::fresh(4), 5);
    let led = explore(settled(4), 5);
    println!("{fresh} states from a cold start, {led} from an agreed leader");
    assert!(fresh > 500 && led > 500, "{fresh} and {led} states are too few to show anything");
}

#[test]
fn states_are_told_apart_by_the_order_of_their_times_only() {
    let state =
        |at: u64| State::Leading { epoch: 1, announced_at: Timestamp(5), announce_at: Timestamp(at), opening: 0 };
    let key = |state: State| {
        let text = format!("{state:?}");
        let mut times = BTreeSet::new();
        collect_times(&text, &mut times);
        with_ranks(&text, &times.iter().enumerate().map(|(rank, at)| (*at, rank)).collect())
    };
    assert_eq!(key(state(6)), key(state(9)));
    assert_ne!(key(state(6)), key(state(5)));
}
