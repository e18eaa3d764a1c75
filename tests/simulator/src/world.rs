//! A segment in time: servers, network, adversary, and the content control manager's ear.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use common::credential::Roles;
use common::ids::{AssignmentNumber, ServerId};
use common::outcome::Outcome;
use common::time::Timestamp;
use protocol::election::Standing;
use protocol::message::Control;
use protocol::participant::Timers;
use protocol::registration::Destination;

use crate::adversary::{self, Adversary};
use crate::chance::Chance;
use crate::facts::Fact;
use crate::network::{Datagram, Network};
use crate::server::{Disk, Running, Server};

/// Longest wait of the adversary between two datagrams, in microseconds.
const ADVERSARY_MICROS_MAX: u64 = 60_000;

/// What the content control manager knows of a segment.
#[derive(Debug, Default)]
pub struct Manager {
    leader: Option<ServerId>,
    /// The last outcome of each server and assignment.
    pub outcomes: BTreeMap<(ServerId, AssignmentNumber), Outcome>,
}

/// Everything there is.
#[derive(Debug)]
pub struct World {
    /// The world's time. Servers have clocks of their own.
    pub now: Timestamp,
    /// All servers, those that are down too.
    pub servers: BTreeMap<ServerId, Server>,
    /// Between them.
    pub network: Network,
    /// Who was taken over.
    pub adversary: Option<Adversary>,
    /// What was reported.
    pub manager: Manager,
    timers: Timers,
    chance: Chance,
    wakes: BTreeMap<ServerId, Timestamp>,
    queue: BTreeSet<(Timestamp, ServerId)>,
    adversary_at: Timestamp,
    /// How often a server was due at one instant.
    repeated: (Option<(ServerId, Timestamp)>, u32),
    facts: Vec<Fact>,
    /// Datagrams sent, and their bytes without the envelope, each multicast counted once.
    pub datagrams: u64,
    /// See [`World::datagrams`].
    pub bytes: u64,
    /// Writes what happens to standard error.
    pub trace: bool,
}

impl World {
    /// An empty segment.
    #[must_use]
    pub fn new(timers: Timers, seed: u64) -> Self {
        let now = Timestamp(1_000_000_000);
        Self {
            now,
            servers: BTreeMap::new(),
            network: Network::new(Chance::new(seed, 1)),
            adversary: None,
            manager: Manager::default(),
            timers,
            chance: Chance::new(seed, 2),
            wakes: BTreeMap::new(),
            queue: BTreeSet::new(),
            adversary_at: now,
            repeated: (None, 0),
            facts: Vec::new(),
            datagrams: 0,
            bytes: 0,
            trace: false,
        }
    }

    /// A server that was never started.
    pub fn add(&mut self, id: ServerId, roles: Roles, standing: Standing) {
        let server = Server {
            roles,
            standing,
            disk: Disk::default(),
            running: None,
            ahead: Duration::ZERO,
            wall_behind_ms: 0,
            paused_until: Timestamp::ZERO,
        };
        self.servers.insert(id, server);
    }

    /// Takes the place of a member that is no server of [`World::servers`].
    pub fn take_over(&mut self, id: ServerId, seed: u64) {
        self.adversary = Some(Adversary::new(id, Chance::new(seed, 3)));
    }

    /// Starts a server's process, if it does not run.
    pub fn start(&mut self, id: ServerId) {
        let seed = self.chance.number();
        let wall_ms = 1_700_000_000_000 + self.now.0 / 1_000;
        let Some(server) = self.servers.get_mut(&id).filter(|server| server.running.is_none()) else { return };
        let wall = wall_ms.saturating_sub(server.wall_behind_ms);
        server.disk.boot = (server.disk.boot + 1).max(wall << 8);
        // A process that starts has a clock of its own.
        let now = self.now + server.ahead;
        server.running = Some(Running::start(id, server.roles, server.standing, &server.disk, &self.timers, seed, now));
        self.note(format_args!("{id} starts"));
        self.settle(id, 0);
    }

    /// Ends a server's process without a word.
    pub fn kill(&mut self, id: ServerId) {
        self.note(format_args!("{id} is killed"));
        if let Some(server) = self.servers.get_mut(&id) {
            server.running = None;
            server.paused_until = Timestamp::ZERO;
        }
        self.sleep(id, None);
    }

    /// Ends a server's process as an administrator does.
    pub fn stop(&mut self, id: ServerId) {
        self.note(format_args!("{id} stops"));
        self.with(id, Running::stop);
        self.kill(id);
    }

    /// What a server's disk holds is lost; it does not run.
    pub fn forget(&mut self, id: ServerId, everything: bool) {
        self.note(format_args!("{id} forgets"));
        if let Some(server) = self.servers.get_mut(&id).filter(|server| server.running.is_none()) {
            server.disk.epoch = 0;
            if everything {
                server.disk.journal.clear();
            }
            self.facts.push(Fact::Forgot { server: id });
        }
    }

    /// Gives one input to a server that runs, and carries out what follows.
    pub fn with(&mut self, id: ServerId, input: impl FnOnce(&mut Running, Timestamp)) {
        self.with_counted(id, 0, input);
    }

    fn with_counted(&mut self, id: ServerId, wakes: u32, input: impl FnOnce(&mut Running, Timestamp)) {
        let Some(server) = self.servers.get_mut(&id) else { return };
        let now = self.now + server.ahead;
        if let Some(running) = &mut server.running {
            input(running, now);
            self.settle(id, wakes);
        }
    }

    /// A server has a new outcome to report; it is durable before it is said.
    pub fn submit(&mut self, id: ServerId, assignment: AssignmentNumber, outcome: &Outcome) {
        if let Some(server) = self.servers.get_mut(&id).filter(|server| server.running.is_some()) {
            server.disk.journal.insert(assignment, outcome.clone());
        }
        self.with(id, |running, now| running.submit(assignment, outcome.clone(), now));
    }

    /// A server's machine stands still for a while, and goes on as if nothing had been.
    pub fn pause(&mut self, id: ServerId, duration: Duration) {
        self.note(format_args!("{id} pauses for {duration:?}"));
        if let Some(server) = self.servers.get_mut(&id) {
            server.paused_until = server.paused_until.max(self.now + duration);
        }
        self.plan(id);
    }

    /// A server's clock jumps.
    pub fn jump(&mut self, id: ServerId, duration: Duration) {
        self.note(format_args!("{id}'s clock jumps by {duration:?}"));
        if let Some(server) = self.servers.get_mut(&id) {
            server.ahead += duration;
        }
        self.plan(id);
    }

    /// Does the next thing that is due, if it is due by `end`. Otherwise time passes until then.
    pub fn step(&mut self, end: Timestamp) -> bool {
        let arrival = self.network.next_at();
        let wake = self.queue.first().copied();
        let adversary = self.adversary.as_ref().filter(|adversary| !adversary.is_quiet).map(|_| self.adversary_at);
        let next = [arrival, wake.map(|(at, _)| at), adversary].into_iter().flatten().min();
        let Some(next) = next.filter(|at| *at <= end) else {
            self.now = end;
            return false;
        };
        self.now = self.now.max(next);
        if arrival == Some(next) {
            self.arrive();
        } else if let Some((_, id)) = wake.filter(|(at, _)| *at == next) {
            self.queue.pop_first();
            self.wakes.remove(&id);
            self.repeated = if self.repeated.0 == Some((id, next)) {
                (self.repeated.0, self.repeated.1 + 1)
            } else {
                (Some((id, next)), 1)
            };
            let wakes = self.repeated.1;
            self.with_counted(id, wakes, Running::wake);
        } else {
            self.misbehave();
        }
        true
    }

    fn arrive(&mut self) {
        let Some((to, datagram)) = self.network.take() else { return };
        let Some(server) = self.servers.get(&to) else { return };
        if server.paused_until > self.now {
            let until = server.paused_until;
            self.network.put(until, to, datagram);
            return;
        }
        let roles = self.servers.get(&datagram.sender).map_or(adversary::ROLES, |sender| sender.roles);
        self.with(to, |running, now| running.hear(&datagram, roles, now));
    }

    fn misbehave(&mut self) {
        self.adversary_at = self.now + Duration::from_micros(1 + self.chance.below(ADVERSARY_MICROS_MAX));
        let Some(mut adversary) = self.adversary.take() else { return };
        let servers: Vec<ServerId> = self.servers.keys().copied().collect();
        let (to, datagram) = adversary.act(&servers);
        for server in servers {
            if to.is_none_or(|to| to == server) {
                self.network.send(adversary.id, server, &datagram, self.now);
            }
        }
        self.adversary = Some(adversary);
    }

    /// Carries out what a server put out after an input.
    fn settle(&mut self, id: ServerId, wakes: u32) {
        let Some(server) = self.servers.get_mut(&id) else { return };
        let local = self.now + server.ahead;
        let Some(running) = &mut server.running else { return };
        running.pump(&mut server.disk, local);
        let sent = running.take_sent();
        let facts = running.take_facts();
        let sealed: Vec<(Destination, Control, Datagram)> = sent
            .into_iter()
            .map(|(to, message)| {
                let body = postcard::to_stdvec(&message).unwrap_or_default();
                let receiver = match to {
                    Destination::Server(server) => Some(server),
                    Destination::Segment => None,
                };
                let to = match to {
                    // Whose address is not known is reached by multicast, as in the agent.
                    Destination::Server(server) if !running.has_heard(server) => Destination::Segment,
                    Destination::Server(_) | Destination::Segment => to,
                };
                let datagram = running.seal(receiver, body);
                (to, message, datagram)
            })
            .collect();
        for fact in &facts {
            self.note_fact(fact);
        }
        self.hear_reports(&facts);
        self.facts.extend(facts);
        self.facts.push(Fact::Took { server: id, sent: sealed.len(), wakes });
        let others: Vec<ServerId> = self.servers.keys().copied().collect();
        for (to, message, datagram) in sealed {
            self.datagrams += 1;
            self.bytes += datagram.body.len() as u64;
            for other in &others {
                if to == Destination::Segment || to == Destination::Server(*other) {
                    self.network.send(id, *other, &datagram, self.now);
                }
            }
            if let Some(adversary) = &mut self.adversary {
                adversary.overhear(&datagram);
            }
            let said = Fact::Said { server: id, to, message, bytes: datagram.body.len() };
            self.note_fact(&said);
            self.facts.push(said);
        }
        self.plan(id);
    }

    /// The manager listens to one leader, and to another when that one leads no more: then it is told
    /// everything that the other knows.
    fn hear_reports(&mut self, facts: &[Fact]) {
        let leads = |server: &ServerId| {
            self.servers.get(server).and_then(|server| server.running.as_ref()).filter(|running| running.is_leader())
        };
        if self.manager.leader.as_ref().and_then(leads).is_none() {
            let next = self.servers.keys().find_map(|server| leads(server).map(|running| (*server, running)));
            self.manager.leader = next.map(|(server, _)| server);
            for report in next.map(|(_, running)| running.known()).unwrap_or_default() {
                self.manager.outcomes.insert((report.server, report.assignment), report.outcome);
            }
        }
        for fact in facts {
            let Fact::Told { leader, reports, .. } = fact else { continue };
            if self.manager.leader == Some(*leader) {
                for report in reports {
                    self.manager.outcomes.insert((report.server, report.assignment), report.outcome.clone());
                }
            }
        }
    }

    fn plan(&mut self, id: ServerId) {
        let at = self.servers.get(&id).and_then(|server| {
            let local = server.running.as_ref()?.wakes_at()?;
            Some((local - server.ahead).max(server.paused_until).max(self.now))
        });
        self.sleep(id, at);
    }

    fn sleep(&mut self, id: ServerId, until: Option<Timestamp>) {
        if let Some(before) = self.wakes.remove(&id) {
            self.queue.remove(&(before, id));
        }
        if let Some(at) = until {
            self.wakes.insert(id, at);
            self.queue.insert((at, id));
        }
    }

    /// What happened since this was last asked.
    pub fn take_facts(&mut self) -> Vec<Fact> {
        std::mem::take(&mut self.facts)
    }

    /// Servers that run.
    pub fn running(&self) -> impl Iterator<Item = (ServerId, &Running)> {
        self.servers.iter().filter_map(|(id, server)| Some((*id, server.running.as_ref()?)))
    }

    /// The one leader that all servers that run follow, itself included.
    #[must_use]
    pub fn agreed(&self) -> Option<(ServerId, u64)> {
        let (_, first) = self.running().next()?;
        let leader = first.leader()?;
        let leads = self.servers.get(&leader.0)?.running.as_ref()?.is_leader();
        (leads && self.running().all(|(_, running)| running.leader() == Some(leader))).then_some(leader)
    }

    /// A line of the trace.
    pub fn note(&self, what: std::fmt::Arguments<'_>) {
        if self.trace {
            let micros = self.now.0 - 1_000_000_000;
            eprintln!("{:>5}.{:06} {what}", micros / 1_000_000, micros % 1_000_000);
        }
    }

    fn note_fact(&self, fact: &Fact) {
        if self.trace && !matches!(fact, Fact::Members { .. } | Fact::Took { .. } | Fact::Heard { .. }) {
            let text = format!("{fact:?}");
            let cut: String = text.chars().take(300).collect();
            self.note(format_args!("{cut}"));
        }
    }
}
