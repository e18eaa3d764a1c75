//! What happens to a segment: its servers, its weather and its faults, all drawn from the seed.

use std::time::Duration;

use common::credential::Roles;
use common::ids::{AssignmentNumber, ServerId};
use common::time::Timestamp;
use protocol::election::Standing;
use protocol::participant::Timers;
use protocol::{election, registration};

use crate::chance::Chance;
use crate::network::Weather;
use crate::server::{Running, id, outcome};
use crate::world::World;

/// Assignments that reports are about.
const ASSIGNMENTS: u64 = 6;
/// The adversary's number.
const ADVERSARY: u16 = 666;

/// Everything that the seed decides but the course of events.
#[derive(Debug)]
pub struct Scenario {
    /// The timers of all servers.
    pub timers: Timers,
    /// Longest pause between two events.
    pub pause_max: Duration,
    /// How many events there are.
    pub events: u32,
    /// How long the segment may take until it is well when the faults are over.
    pub patience: Duration,
    /// How long it must stay as it is after that.
    pub calm: Duration,
    /// Whether the adversary goes on when the faults are over.
    pub adversary_stays: bool,
    servers: Vec<ServerId>,
    chance: Chance,
    outcomes: u64,
}

impl Scenario {
    /// Draws a scenario, and the world it happens in.
    #[must_use]
    pub fn draw(seed: u64) -> (Self, World) {
        let mut chance = Chance::new(seed, 0);
        let (election, registration) = match chance.below(5) {
            0 | 1 => (election::Config::lan(), registration::Config::lan()),
            2 | 3 => (election::Config::fast(), registration::Config::fast()),
            _ => (election::Config::seed(), registration::Config::seed()),
        };
        let unit = election.silence_max;
        let patience = election.silence_max * 8 + election.replacement_max() * 6 + registration.silence_max * 2;
        let mut election = election;
        if chance.permille(250) {
            election.preempt_after = Some(unit * 4);
        }
        let calm = election.preempt_after.unwrap_or_default() * 4;
        let timers = Timers { election, registration, ..Timers::default() };
        let mut world = World::new(timers.clone(), seed);
        let count = 2 + u16::try_from(chance.below(7)).unwrap_or(0);
        let servers: Vec<ServerId> = (1..=count).map(id).collect();
        for (index, server) in servers.iter().enumerate() {
            // The first may always lead, or nobody could.
            let roles = Roles { server: true, leader: index == 0 || !chance.permille(150) };
            let standing = Standing {
                preassigned: if chance.permille(150) { 1 + chance.below(3).to_le_bytes()[0] } else { 0 },
                factor: [Standing::FACTOR_NEUTRAL, 0, 200][usize::try_from(chance.below(3)).unwrap_or(0)],
                cpus: 1 << chance.below(7),
                load_percent: u32::try_from(chance.below(400)).unwrap_or(0),
                ..Standing::default()
            };
            world.add(*server, roles, standing);
            if chance.permille(900) {
                world.start(*server);
            }
        }
        if chance.permille(400) {
            world.take_over(id(ADVERSARY), seed);
        }
        let scenario = Self {
            timers,
            pause_max: unit,
            events: 15 + u32::try_from(chance.below(35)).unwrap_or(0),
            patience,
            // Each much stronger server takes over from the one before.
            calm: unit * 5 + calm,
            adversary_stays: chance.permille(500),
            servers,
            chance,
            outcomes: 0,
        };
        (scenario, world)
    }

    /// Until when nothing further happens.
    pub fn next_event_at(&mut self, now: Timestamp) -> Timestamp {
        now + self.chance.between(Duration::ZERO, self.pause_max)
    }

    /// One event.
    pub fn event(&mut self, world: &mut World) {
        let Some(server) = self.chance.pick(&self.servers).copied() else { return };
        let other = self.chance.pick(&self.servers).copied().unwrap_or(server);
        let runs = world.servers.get(&server).is_some_and(|server| server.running.is_some());
        match self.chance.below(22) {
            0 | 1 if runs => world.kill(server),
            2 if runs => world.stop(server),
            0..=2 => world.start(server),
            3 => {
                // As quickly as a supervisor does.
                world.kill(server);
                world.start(server);
            }
            4 => {
                world.kill(server);
                let everything = self.chance.permille(500);
                world.forget(server, everything);
                if self.chance.permille(500) {
                    world.start(server);
                }
            }
            5 => {
                let here: Vec<bool> = self.servers.iter().map(|_| self.chance.permille(500)).collect();
                for (from, from_here) in self.servers.iter().zip(&here) {
                    for (to, to_here) in self.servers.iter().zip(&here) {
                        if from_here != to_here {
                            world.network.blocked.insert((*from, *to));
                        }
                    }
                }
                world.note(format_args!("divided: {here:?}"));
            }
            6 => {
                world.network.blocked.insert((server, other));
                world.note(format_args!("{other} does not hear {server}"));
            }
            7 => {
                world.network.blocked.extend(self.servers.iter().map(|to| (server, *to)));
                world.note(format_args!("nobody hears {server}"));
            }
            8 => {
                world.network.blocked.extend(self.servers.iter().map(|from| (*from, server)));
                world.note(format_args!("{server} hears nobody"));
            }
            9..=11 => {
                world.network.blocked.clear();
                world.note(format_args!("all hear each other"));
            }
            12 | 13 => {
                world.network.weather = Weather::draw(&mut self.chance);
                world.note(format_args!("{:?}", world.network.weather));
            }
            14 => {
                let pause = self.chance.between(Duration::ZERO, self.pause_max * 3);
                world.pause(server, pause);
            }
            15 => {
                let jump = self.chance.between(Duration::ZERO, self.pause_max * 3);
                world.jump(server, jump);
            }
            16 => {
                if let Some(server) = world.servers.get_mut(&server) {
                    server.wall_behind_ms = self.chance.below(100_000);
                }
            }
            17 => world.with(server, Running::change),
            18 => {
                let assignment = AssignmentNumber(1 + self.chance.below(ASSIGNMENTS));
                let leader = world.agreed().map_or(server, |(leader, _)| leader);
                world.with(leader, |running, _| running.ask(assignment));
            }
            _ => {
                for server in self.servers.clone() {
                    if self.chance.permille(500) {
                        self.outcomes += 1;
                        let assignment = AssignmentNumber(1 + self.chance.below(ASSIGNMENTS));
                        world.submit(server, assignment, &outcome(self.outcomes));
                    }
                }
            }
        }
    }

    /// Ends the faults: everything runs, everybody hears everybody.
    pub fn heal(&mut self, world: &mut World) {
        world.note(format_args!("the faults are over"));
        world.network.heal();
        if let Some(adversary) = &mut world.adversary {
            adversary.is_quiet = !self.adversary_stays;
        }
        for server in &self.servers {
            world.start(*server);
        }
    }
}
