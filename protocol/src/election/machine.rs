//! The state machine of one server: its states, its inputs and its timers.

mod act;
mod hear;

use common::credential::Roles;
use common::ids::ServerId;
use common::time::Timestamp;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use std::collections::VecDeque;

use super::proof::Proof;
use super::{Config, LeaderAnnouncement, Message, Mode, Output, Priority, Rejected, Standing};

/// How often a claim is said during a vote, so that one lost datagram decides nothing.
const CLAIMS_PER_VOTE: u32 = 3;
/// Announcements of a new leader that follow each other quickly, for the same reason.
const OPENING_ANNOUNCEMENTS: u8 = 3;
/// How many silences a leader may go without an announcement while other packets of it arrive: it
/// lives, but it may not know (any more) that it leads.
const UNANNOUNCED_SILENCES: u32 = 4;

/// The five states of Fig. 5. Each owns the data that is valid only in it.
#[derive(Debug, Clone, Copy)]
pub(super) enum State {
    /// Group leader unknown.
    Unknown {
        /// When to claim; never, for a server that may not lead.
        claims_at: Option<Timestamp>,
    },
    /// A stronger candidate was heard; its announcement is awaited.
    Conceding { to: Priority, round: u32, until: Timestamp },
    /// Claimed; the vote is open.
    VotingOpen { epoch: u64, decides_at: Timestamp, claimed_at: Timestamp, repeat_at: Timestamp },
    /// Group leader is me.
    Leading { epoch: u64, announced_at: Timestamp, announce_at: Timestamp, opening: u8 },
    /// Group leader known.
    Known {
        leader: ServerId,
        epoch: u64,
        /// How strong it says it is.
        strength: Priority,
        announced_at: Timestamp,
        silent_at: Timestamp,
        unannounced_at: Timestamp,
        /// Nobody is known to hear it: when it is given up.
        gives_up_at: Option<Timestamp>,
        /// When to ask it to hand over.
        challenge_at: Option<Timestamp>,
    },
}

/// One server's part in the election. Feed with `handle_*`, then drain [`Election::poll_output`]
/// until `None`, then sleep until [`Election::poll_timeout`].
#[derive(Debug, Clone)]
pub struct Election {
    server: ServerId,
    may_lead: bool,
    config: Config,
    rng: ChaCha8Rng,
    standing: Standing,
    members: u32,
    /// Highest epoch that this server led or obeyed: what is durable.
    epoch: u64,
    /// Highest epoch that anybody is known to have led.
    led_seen: u64,
    /// Highest round that anybody claimed.
    round_claimed: u32,
    /// Makes epochs of this process its own; 24 bits.
    tag: u32,
    /// When it stopped leading against its will.
    deposed_at: Option<Timestamp>,
    /// It resigned and does not claim until [`Election::stand`].
    retired: bool,
    /// The last resignation heeded, and until when an announcement that it overtook counts for nothing:
    /// who resigned and lost its memory may lead a lower epoch later.
    resigned: Option<(ServerId, u64, Timestamp)>,
    /// A leader that is behind what this server obeyed, and since when it is heard.
    behind: Option<(ServerId, Timestamp)>,
    mode: Mode,
    /// Which leaders have answered this server.
    proof: Proof,
    /// Whom this server hands over to when it stops leading.
    successor: Option<ServerId>,
    /// It distributes something: no moment to hand over to a stronger server.
    is_busy: bool,
    /// When to say that the leader is heard.
    heard_at: Option<Timestamp>,
    /// When to ask who leads.
    query_at: Option<Timestamp>,
    queried_at: Option<Timestamp>,
    pub(super) state: State,
    outputs: VecDeque<Output>,
}

impl Election {
    /// A server that has just started. `epoch` is the last [`Output::PersistEpoch`], 0 at the very
    /// first start; `seed` comes from a good random source and differs at every start.
    #[must_use]
    pub fn new(
        server: ServerId,
        roles: Roles,
        standing: Standing,
        epoch: u64,
        config: Config,
        seed: u64,
        now: Timestamp,
    ) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let proof = Proof::new(seed, config.announce_interval);
        let own =
            server.0.chunks(4).fold(0, |sum, four| four.iter().fold(sum, |s: u32, b| s.rotate_left(8) ^ u32::from(*b)));
        let tag = (rng.next_u32() ^ own) & 0x00ff_ffff;
        let mut election = Self {
            server,
            may_lead: roles.leader,
            config,
            rng,
            standing,
            members: 0,
            epoch,
            led_seen: epoch,
            round_claimed: 0,
            tag,
            deposed_at: None,
            retired: false,
            resigned: None,
            behind: None,
            mode: Mode::Elected,
            proof,
            successor: None,
            is_busy: false,
            heard_at: None,
            query_at: Some(now),
            queried_at: None,
            state: State::Unknown { claims_at: None },
            outputs: VecDeque::new(),
        };
        let first_claim = now + election.config.startup_listen + election.claim_wait(now);
        election.state = State::Unknown { claims_at: election.may_claim().then_some(first_claim) };
        election.handle_timeout(now);
        election
    }

    /// Whom this server follows, or itself when it leads, with the epoch.
    #[must_use]
    pub fn leader(&self) -> Option<(ServerId, u64)> {
        match self.state {
            State::Known { leader, epoch, .. } => Some((leader, epoch)),
            State::Leading { epoch, .. } => Some((self.server, epoch)),
            State::Unknown { .. } | State::Conceding { .. } | State::VotingOpen { .. } => None,
        }
    }

    /// Whether this server leads.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        matches!(self.state, State::Leading { .. })
    }

    /// What this server would claim with.
    #[must_use]
    pub fn priority(&self, now: Timestamp) -> Priority {
        let led_recently = self.is_leader() || self.deposed_at.is_some_and(|at| now.since(at) < self.config.reclaim);
        self.standing.priority(self.server, led_recently, self.members)
    }

    /// What changed about this server; counts from its next message on.
    pub fn set_standing(&mut self, standing: Standing) {
        self.standing = standing;
    }

    /// How the leader is found; by vote when this is never said. To be said before the first input.
    #[must_use]
    pub fn in_mode(mut self, mode: Mode, now: Timestamp) -> Self {
        self.mode = mode;
        if self.may_claim() && mode != Mode::Elected {
            self.state = State::Unknown { claims_at: Some(now + self.config.startup_listen) };
        }
        if let State::Unknown { claims_at: Some(_) } = self.state
            && !self.may_claim()
        {
            self.become_unknown(now);
        }
        self
    }

    /// In [`Mode::Fixed`]: who it is whose name the administrator gave.
    pub fn leader_is(&mut self, leader: ServerId, now: Timestamp) {
        if let Mode::Fixed { leader: ref mut known @ None } = self.mode {
            *known = Some(leader);
            if let State::Unknown { .. } = self.state {
                self.become_unknown(now);
            }
        }
    }

    /// Who shall lead when this server stops leading: see [`successor`](super::successor).
    pub fn set_successor(&mut self, successor: Option<ServerId>) {
        self.successor = successor;
    }

    /// Whether this server distributes something: then it does not hand over to a stronger one.
    pub fn set_busy(&mut self, is_busy: bool) {
        self.is_busy = is_busy;
    }

    /// How many members this server knows, itself included; told in announcements.
    pub fn set_members(&mut self, members: u32) {
        self.members = members;
    }

    /// A message from a server whose identity and roles are proven.
    ///
    /// # Errors
    /// [`Rejected`] when the sender may not say that. Nothing changed then.
    pub fn handle_message(
        &mut self,
        from: ServerId,
        roles: Roles,
        message: &Message,
        now: Timestamp,
    ) -> Result<(), Rejected> {
        if from == self.server {
            return Ok(()); // Our own, come back by multicast.
        }
        hear::check(from, roles, message)?;
        self.check_named(from, message)?;
        if let Message::Announcement(announcement) = message
            && !self.proof.admits(announcement, now)
        {
            self.handle_timeout(now); // Asks, unless it spreads its questions.
            return Ok(());
        }
        self.take(from, roles, message, now);
        Ok(())
    }

    /// A message that may be said and is not an old announcement.
    pub(super) fn take(&mut self, from: ServerId, roles: Roles, message: &Message, now: Timestamp) {
        match *message {
            Message::Announcement(announcement) => self.on_announcement(from, announcement, now),
            Message::Claim(claim) => self.on_claim(from, claim, now),
            Message::Resign { epoch } => self.on_resign(from, epoch, now),
            // Who may not lead could name any epoch and use them all up: its word about them counts for
            // nothing. It yields in the end to a leader that is behind.
            Message::Query { seen } => self.on_query(from, if roles.leader { seen } else { 0 }, now),
            Message::Probe { leader, epoch } => self.on_probe(leader, epoch, now),
            Message::Heard { leader, epoch } => self.on_heard(leader, epoch, now),
            Message::HandOver { epoch, to } => self.on_hand_over(from, epoch, to, now),
            Message::Challenge { epoch, priority } => self.on_challenge(epoch, priority, now),
            Message::Verify { number } => self.on_verify(from, number, now),
            Message::Verified { announcement, number } => {
                if self.proof.is_answer(from, number, now) {
                    self.proof.believe(&announcement);
                    self.on_announcement(from, announcement, now);
                }
            }
            Message::Claiming { claim, number } => {
                if self.proof.is_answer(from, number, now) && self.reopens_for(&claim) {
                    self.reopen_vote(now);
                }
            }
        }
        self.handle_timeout(now);
    }

    /// What a leader says.
    pub(super) fn announcement(&self, now: Timestamp) -> Option<LeaderAnnouncement> {
        let State::Leading { epoch, .. } = self.state else { return None };
        Some(LeaderAnnouncement { epoch, priority: self.priority(now), members: self.members })
    }

    /// Any authenticated packet of a server: if it is the leader, it lives.
    pub fn heard_from_leader(&mut self, from: ServerId, now: Timestamp) {
        if let State::Known { leader, unannounced_at, ref mut silent_at, ref mut gives_up_at, .. } = self.state
            && leader == from
        {
            *silent_at = now + self.config.silence_max;
            if unannounced_at > now {
                *gives_up_at = None;
            }
        }
    }

    /// Stops leading and claiming, and says so, so that another leads without waiting for silence: the
    /// successor at once, if one is known. This server follows from here on, until [`Election::stand`].
    pub fn resign(&mut self, now: Timestamp) {
        self.retired = true;
        match self.state {
            State::Leading { epoch, .. } => match self.successor {
                Some(to) => self.hand_over(epoch, to, now),
                None => {
                    self.say_twice(Message::Resign { epoch });
                    self.lose_leader(now);
                }
            },
            State::VotingOpen { epoch, .. } => {
                self.say_twice(Message::Resign { epoch });
                self.become_unknown(now);
            }
            State::Unknown { .. } => self.become_unknown(now),
            State::Conceding { .. } | State::Known { .. } => (),
        }
    }

    /// Takes part again after [`Election::resign`].
    pub fn stand(&mut self, now: Timestamp) {
        self.retired = false;
        if let State::Unknown { claims_at: None } = self.state {
            self.become_unknown(now);
        }
    }

    /// Does what is due. Harmless when called early.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        match self.state {
            State::Unknown { claims_at: Some(at) } if at <= now => self.claim(now),
            State::Conceding { until, .. } if until <= now => self.become_unknown(now),
            State::VotingOpen { epoch, decides_at, .. } if decides_at <= now => self.lead(epoch, now),
            State::VotingOpen { epoch, repeat_at, .. } if repeat_at <= now => self.send_claim(epoch, now),
            State::Leading { announce_at, .. } if announce_at <= now => self.announce(now),
            State::Known { gives_up_at: Some(at), .. } if at <= now => self.lose_leader(now),
            State::Known { silent_at, unannounced_at, gives_up_at: None, .. }
                if silent_at.min(unannounced_at) <= now =>
            {
                self.miss_leader(now);
            }
            State::Known { challenge_at: Some(at), .. } if at <= now => self.challenge(now),
            State::Unknown { .. }
            | State::Conceding { .. }
            | State::VotingOpen { .. }
            | State::Leading { .. }
            | State::Known { .. } => (),
        }
        if self.heard_at.is_some_and(|at| at <= now) {
            self.heard_at = None;
            if let State::Known { leader, epoch, .. } = self.state {
                self.send(Message::Heard { leader, epoch });
            }
        }
        if self.query_at.is_some_and(|at| at <= now) {
            self.ask(now);
        }
        while let Some((to, message)) = self.proof.due(now) {
            self.outputs.push_back(Output::SendTo { to, message });
        }
    }

    /// When [`Election::handle_timeout`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        let state = match self.state {
            State::Unknown { claims_at } => claims_at,
            State::Conceding { until, .. } => Some(until),
            State::VotingOpen { decides_at, repeat_at, .. } => Some(decides_at.min(repeat_at)),
            State::Leading { announce_at, .. } => Some(announce_at),
            State::Known { silent_at, unannounced_at, gives_up_at, challenge_at, .. } => {
                let given_up = gives_up_at.unwrap_or_else(|| silent_at.min(unannounced_at));
                Some(challenge_at.map_or(given_up, |at| at.min(given_up)))
            }
        };
        [state, self.heard_at, self.query_at, self.proof.poll_timeout()].into_iter().flatten().min()
    }

    /// Whether it will ask who leads.
    #[cfg(test)]
    pub(super) fn asks(&self) -> bool {
        self.query_at.is_some()
    }

    /// The next thing to carry out.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }
}
