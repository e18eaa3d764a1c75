//! A member that was taken over. It holds the segment key and its own control key: it can say anything
//! in its own name, and say again what others said. It may not lead: its credential does not say so.

use std::collections::VecDeque;
use std::rc::Rc;

use common::credential::Roles;
use common::ids::{AssignmentNumber, ServerId};
use protocol::election::{self, LeaderAnnouncement, LeaderClaim, ROUND_MAX, Standing};
use protocol::message::Control;
use protocol::registration::{self, Roster};
use protocol::reports::{self, Item, Known};

use crate::chance::Chance;
use crate::network::Datagram;
use crate::server::{describe, outcome};

/// Datagrams of others that it keeps.
const KEPT: usize = 256;

/// What its credential says.
pub const ROLES: Roles = Roles { server: true, leader: false };

/// The adversary.
#[derive(Debug)]
pub struct Adversary {
    /// Who it is.
    pub id: ServerId,
    /// It does nothing any more.
    pub is_quiet: bool,
    chance: Chance,
    overheard: VecDeque<Datagram>,
    counter: u64,
}

impl Adversary {
    /// Takes over a member.
    #[must_use]
    pub fn new(id: ServerId, chance: Chance) -> Self {
        Self { id, is_quiet: false, chance, overheard: VecDeque::new(), counter: 0 }
    }

    /// What travels on the segment it hears.
    pub fn overhear(&mut self, datagram: &Datagram) {
        self.overheard.push_back(datagram.clone());
        if self.overheard.len() > KEPT {
            self.overheard.pop_front();
        }
    }

    /// The next datagram that it sends, to all or to one.
    pub fn act(&mut self, servers: &[ServerId]) -> (Option<ServerId>, Datagram) {
        let to = if self.chance.permille(500) { self.chance.pick(servers).copied() } else { None };
        let overheard: Vec<Datagram> = self.overheard.iter().cloned().collect();
        let datagram = match self.chance.below(10) {
            0..3 => match self.chance.pick(&overheard) {
                Some(datagram) => datagram.clone(),
                None => self.say(&[]),
            },
            3 => {
                let mut body =
                    self.chance.pick(&overheard).map(|datagram| datagram.body.as_ref().clone()).unwrap_or_default();
                if !body.is_empty() {
                    let at = usize::try_from(self.chance.below(body.len() as u64)).unwrap_or(0);
                    body[at] ^= 1 << self.chance.below(8);
                }
                self.say(&body)
            }
            4 => {
                let body: Vec<u8> = (0..self.chance.below(60)).map(|_| self.chance.number().to_le_bytes()[0]).collect();
                self.say(&body)
            }
            _ => {
                let message = self.lie(servers);
                self.say(&postcard::to_stdvec(&message).unwrap_or_default())
            }
        };
        (to, datagram)
    }

    fn say(&mut self, body: &[u8]) -> Datagram {
        self.counter += 1;
        Datagram { sender: self.id, boot: 1, counter: self.counter, to: None, body: Rc::new(body.to_vec()) }
    }

    /// The epoch that it heard last, or one made up.
    fn epoch(&mut self) -> u64 {
        let heard = self.overheard.iter().rev().find_map(|datagram| match postcard::from_bytes(&datagram.body) {
            Ok(Control::Election(election::Message::Announcement(said))) => Some(said.epoch),
            Ok(_) | Err(_) => None,
        });
        let heard = heard.unwrap_or(1 << 32);
        match self.chance.below(5) {
            0 => heard,
            1 => heard + 1,
            2 => heard.saturating_add(self.chance.below(8) << 32),
            3 => u64::from(ROUND_MAX) << 32 | 0xffff_ffff,
            _ => self.chance.number() >> self.chance.below(64),
        }
    }

    fn lie(&mut self, servers: &[ServerId]) -> Control {
        let victim = self.chance.pick(servers).copied().unwrap_or(self.id);
        let named = if self.chance.permille(500) { self.id } else { victim };
        let epoch = self.epoch();
        let strong = Standing { preassigned: 255, factor: 255, cpus: 999, ..Standing::default() };
        let priority = strong.priority(named, true, 999);
        let number = self.chance.below(64);
        let assignment = AssignmentNumber(1 + self.chance.below(6));
        match self.chance.below(22) {
            0 => Control::Election(election::Message::Announcement(LeaderAnnouncement { epoch, priority, members: 9 })),
            1 => Control::Election(election::Message::Claim(LeaderClaim { epoch, priority, seen: self.epoch() })),
            2 => Control::Election(election::Message::Resign { epoch }),
            3 | 4 => Control::Election(election::Message::Query { seen: epoch }),
            5 => {
                let bytes = postcard::to_stdvec(&describe(named, ROLES, number)).unwrap_or_default();
                Control::Registration(registration::Message::Register { revision: epoch, part: 0, parts: 1, bytes })
            }
            6 => Control::Registration(registration::Message::Register {
                revision: epoch,
                part: u16::try_from(number).unwrap_or(0),
                parts: 64,
                bytes: vec![1; 900],
            }),
            7 => Control::Registration(registration::Message::KeepAlive { digest: 1 }),
            8 => Control::Registration(registration::Message::Leave { revision: u64::MAX }),
            9 => Control::Registration(registration::Message::Roster(Roster {
                epoch,
                total: 1,
                after: None,
                until: None,
                members: vec![(self.id, 1)],
            })),
            10 => Control::Registration(registration::Message::Registered { epoch, revision: u64::MAX, digest: 0 }),
            11 => Control::Reports(reports::Message::Reports(vec![Item {
                assignment,
                serial: epoch,
                outcome: outcome(1_000 + number),
            }])),
            12 => Control::Reports(reports::Message::Part {
                assignment,
                serial: epoch,
                part: u16::try_from(number).unwrap_or(0),
                parts: 200,
                bytes: vec![2; 1_000],
            }),
            13 => Control::Reports(reports::Message::Ack {
                epoch,
                known: vec![Known { server: victim, assignment, serial: u64::MAX }],
            }),
            14 => {
                Control::Reports(reports::Message::PartsHeld { epoch, assignment, serial: epoch, held: vec![255; 40] })
            }
            15 => Control::Election(election::Message::Probe { leader: victim, epoch }),
            16 => Control::Election(election::Message::Heard { leader: victim, epoch }),
            17 => Control::Election(election::Message::HandOver { epoch, to: named }),
            18 => Control::Election(election::Message::Verify { number: epoch }),
            19 => Control::Election(election::Message::Verified {
                announcement: LeaderAnnouncement { epoch, priority, members: 9 },
                number: self.chance.number(),
            }),
            20 => Control::Election(election::Message::Claiming {
                claim: LeaderClaim { epoch, priority, seen: epoch },
                number: self.chance.number(),
            }),
            _ => Control::Reports(reports::Message::Ask(reports::Ask {
                assignment,
                after: None,
                until: None,
                listed_reported: true,
                listed: Vec::new(),
            })),
        }
    }
}
