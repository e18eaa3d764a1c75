//! The state machine of one server.

use std::collections::VecDeque;
use std::time::Duration;

use common::credential::Roles;
use common::ids::ServerId;
use common::time::Timestamp;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use super::{
    Config, LeaderAnnouncement, LeaderClaim, Message, Output, Priority, ROUND_MAX, Rejected, Standing, epoch_round,
};

/// How often a claim is said during a vote, so that one lost datagram decides nothing.
const CLAIMS_PER_VOTE: u32 = 3;
/// Announcements of a new leader that follow each other quickly, for the same reason.
const OPENING_ANNOUNCEMENTS: u8 = 3;
/// How many silences a leader may go without an announcement while other packets of it arrive: it
/// lives, but it may not know (any more) that it leads.
const UNANNOUNCED_SILENCES: u32 = 4;

/// The five states of Fig. 5. Each owns the data that is valid only in it.
#[derive(Debug, Clone, Copy)]
enum State {
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
    Known { leader: ServerId, epoch: u64, silent_at: Timestamp, unannounced_at: Timestamp },
}

/// One server's part in the election. Feed with `handle_*`, then drain [`Election::poll_output`]
/// until `None`, then sleep until [`Election::poll_timeout`].
#[derive(Debug)]
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
    /// When to ask who leads.
    query_at: Option<Timestamp>,
    queried_at: Option<Timestamp>,
    state: State,
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
        check(from, roles, message)?;
        match *message {
            Message::Announcement(announcement) => self.on_announcement(from, announcement, now),
            Message::Claim(claim) => self.on_claim(from, claim, now),
            Message::Resign { epoch } => self.on_resign(from, epoch, now),
            // Who may not lead could name any epoch and use them all up: its word about them counts for
            // nothing. It yields in the end to a leader that is behind.
            Message::Query { seen } => self.on_query(from, if roles.leader { seen } else { 0 }, now),
        }
        self.handle_timeout(now);
        Ok(())
    }

    /// Any authenticated packet of a server: if it is the leader, it lives.
    pub fn heard_from_leader(&mut self, from: ServerId, now: Timestamp) {
        if let State::Known { leader, ref mut silent_at, .. } = self.state
            && leader == from
        {
            *silent_at = now + self.config.silence_max;
        }
    }

    /// Stops leading and claiming, and says so, so that another is elected without waiting for
    /// silence. This server follows from here on, until [`Election::stand`].
    pub fn resign(&mut self, now: Timestamp) {
        self.retired = true;
        match self.state {
            State::Leading { epoch, .. } | State::VotingOpen { epoch, .. } => {
                // Twice, because nobody is here to repeat it when it is lost.
                self.send(Message::Resign { epoch });
                self.send(Message::Resign { epoch });
                if self.is_leader() {
                    self.outputs.push_back(Output::LostLeader);
                }
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
            State::Known { silent_at, unannounced_at, .. } if silent_at.min(unannounced_at) <= now => {
                self.lose_leader(now);
            }
            State::Unknown { .. }
            | State::Conceding { .. }
            | State::VotingOpen { .. }
            | State::Leading { .. }
            | State::Known { .. } => (),
        }
        if self.query_at.is_some_and(|at| at <= now) {
            self.ask(now);
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
            State::Known { silent_at, unannounced_at, .. } => Some(silent_at.min(unannounced_at)),
        };
        [state, self.query_at].into_iter().flatten().min()
    }

    /// The next thing to carry out.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn on_announcement(&mut self, from: ServerId, heard: LeaderAnnouncement, now: Timestamp) {
        if self.resigned.is_some_and(|(leader, epoch, until)| leader == from && heard.epoch <= epoch && now < until) {
            return;
        }
        self.led_seen = self.led_seen.max(heard.epoch);
        match self.state {
            State::Leading { epoch, .. } if heard.epoch < epoch => self.hasten_announcement(),
            State::Leading { epoch, .. } if heard.epoch == epoch => self.reopen_vote(now),
            State::Known { leader, epoch, .. } if heard.epoch < epoch => {
                // Of the own leader: it restarted and lost its memory. Of another: the own leader
                // answers it.
                if leader == from {
                    self.lose_leader(now);
                    self.ask_soon(now);
                }
            }
            State::Known { leader, epoch, .. } if heard.epoch == epoch && leader != from => (),
            State::Unknown { .. } | State::Conceding { .. } if heard.epoch < self.epoch => {
                if self.yields_to(from, now) {
                    self.follow(from, heard.epoch, now);
                } else {
                    self.ask_soon(now);
                }
            }
            State::VotingOpen { .. } if heard.epoch < self.epoch => self.hasten_claim(),
            State::Leading { .. }
            | State::Known { .. }
            | State::Unknown { .. }
            | State::Conceding { .. }
            | State::VotingOpen { .. } => self.follow(from, heard.epoch, now),
        }
    }

    /// Whether a leader that is behind is to be followed in the end: nobody heeds what a server without
    /// the role says about epochs, so it would be without a leader for ever when all that may lead have
    /// lost their memory.
    fn yields_to(&mut self, leader: ServerId, now: Timestamp) -> bool {
        let patience = self.config.silence_max * UNANNOUNCED_SILENCES;
        match self.behind {
            Some((known, since)) if known == leader => !self.may_lead && now.since(since) >= patience,
            Some(_) | None => {
                self.behind = Some((leader, now));
                false
            }
        }
    }

    fn on_claim(&mut self, from: ServerId, heard: LeaderClaim, now: Timestamp) {
        let round = epoch_round(heard.epoch);
        self.led_seen = self.led_seen.max(heard.seen);
        self.round_claimed = self.round_claimed.max(round);
        if let State::Known { leader, epoch, .. } = self.state
            && leader == from
            && round > epoch_round(epoch)
        {
            self.lose_leader(now); // It gave up what it led and asks for votes.
        }
        let own = self.priority(now);
        let stale = round <= epoch_round(self.epoch);
        match self.state {
            State::Leading { epoch, .. } if self.config.claims_reopen_vote && round >= epoch_round(epoch) => {
                self.reopen_vote(now);
            }
            State::Leading { .. } => self.answer_as_leader(heard.seen, now),
            State::Known { .. } => (), // The own leader lives and answers.
            State::Unknown { .. } if stale => self.ask_soon(now),
            State::Unknown { claims_at } => {
                if heard.priority > own || !self.may_claim() {
                    self.concede(heard.priority, round, now);
                } else {
                    self.claim_within_vote(claims_at, now);
                }
            }
            State::Conceding { to, round: conceded, until } => {
                let stronger = heard.priority > to || from == to.server;
                if round > conceded && heard.priority < own && self.may_claim() {
                    self.claim_within_vote(None, now);
                } else if round > conceded || (round == conceded && stronger) {
                    self.concede(heard.priority, round, now);
                } else {
                    self.state = State::Conceding { to, round: conceded, until };
                }
            }
            State::VotingOpen { epoch, .. } => {
                let voting = epoch_round(epoch).max(self.raise_claim(now));
                if round > voting || (round == voting && heard.priority > own) {
                    self.concede(heard.priority, round, now);
                } else {
                    self.hasten_claim();
                }
            }
        }
    }

    fn on_resign(&mut self, from: ServerId, epoch: u64, now: Timestamp) {
        match self.state {
            State::Known { leader, epoch: followed, .. } if leader == from && epoch >= followed => {
                // What it may have claimed beyond that was never led, and can be led by it later.
                self.resigned = Some((from, followed, now + self.config.silence_max));
                self.lose_leader(now);
            }
            State::Conceding { to, .. } if to.server == from => self.become_unknown(now),
            State::Unknown { .. }
            | State::Conceding { .. }
            | State::VotingOpen { .. }
            | State::Leading { .. }
            | State::Known { .. } => (),
        }
    }

    fn on_query(&mut self, from: ServerId, seen: u64, now: Timestamp) {
        self.led_seen = self.led_seen.max(seen);
        match self.state {
            State::Leading { .. } => self.answer_as_leader(seen, now),
            State::VotingOpen { .. } => {
                self.raise_claim(now);
            }
            // A leader that asks who leads has restarted: what it led is over.
            State::Known { leader, epoch, .. } if leader == from && seen >= epoch => self.lose_leader(now),
            State::Unknown { .. } | State::Conceding { .. } if seen >= self.epoch && self.query_at.is_some() => {
                // The question is asked: one is enough for all.
                self.query_at = (!self.may_claim()).then_some(now + self.config.silence_max);
            }
            State::Known { .. } | State::Unknown { .. } | State::Conceding { .. } => (),
        }
    }

    /// A leader that is behind what others obeyed takes an epoch above it; nobody would hear it else.
    fn answer_as_leader(&mut self, seen: u64, now: Timestamp) {
        match self.state {
            State::Leading { epoch, .. } if seen > epoch => {
                let renewed = self.epoch_of(self.next_round(), now);
                self.lead(renewed, now);
            }
            State::Leading { .. } => self.hasten_announcement(),
            State::Unknown { .. } | State::Conceding { .. } | State::VotingOpen { .. } | State::Known { .. } => (),
        }
    }

    fn may_claim(&self) -> bool {
        self.may_lead && !self.retired
    }

    fn next_round(&self) -> u32 {
        let above_led = epoch_round(self.led_seen.max(self.epoch)).saturating_add(1);
        above_led.max(self.round_claimed).min(ROUND_MAX)
    }

    fn epoch_of(&self, round: u32, now: Timestamp) -> u64 {
        let strength = u64::from(self.priority(now).strength());
        u64::from(round) << 32 | strength << 24 | u64::from(self.tag)
    }

    /// The stronger, the sooner (002: "at an interval determined by how strong a claim the candidate
    /// has"); a tenth of the span is chance, between servers of equal strength.
    fn claim_wait(&mut self, now: Timestamp) -> Duration {
        let span = self.config.claim_wait_max - self.config.claim_wait_min;
        let weakness = 255 - u32::from(self.priority(now).strength());
        let chance = self.random_up_to(span / 10);
        self.config.claim_wait_min + span * 9 / 10 * weakness / 255 + chance
    }

    fn random_up_to(&mut self, max: Duration) -> Duration {
        let micros = u64::try_from(max.as_micros()).unwrap_or(u64::MAX).saturating_add(1);
        Duration::from_micros(self.rng.next_u64() % micros)
    }

    fn send(&mut self, message: Message) {
        self.outputs.push_back(Output::Send(message));
    }

    fn become_unknown(&mut self, now: Timestamp) {
        let claims_at = now + self.claim_wait(now);
        let may_claim = self.may_claim();
        self.state = State::Unknown { claims_at: may_claim.then_some(claims_at) };
        if !may_claim && self.query_at.is_none() {
            self.query_at = Some(now + self.config.silence_max);
        }
    }

    fn lose_leader(&mut self, now: Timestamp) {
        self.outputs.push_back(Output::LostLeader);
        self.become_unknown(now);
    }

    fn concede(&mut self, to: Priority, round: u32, now: Timestamp) {
        self.state = State::Conceding { to, round, until: now + self.config.concede };
    }

    /// A weaker claim was heard: answer while its vote is open, the strongest server first.
    fn claim_within_vote(&mut self, claims_at: Option<Timestamp>, now: Timestamp) {
        let latest = now + self.claim_wait(now);
        self.state = State::Unknown { claims_at: Some(claims_at.map_or(latest, |at| at.min(latest))) };
    }

    fn claim(&mut self, now: Timestamp) {
        let epoch = self.epoch_of(self.next_round(), now);
        if epoch <= self.epoch {
            self.state = State::Unknown { claims_at: None }; // Rounds are used up.
            return;
        }
        self.query_at = None;
        self.state = State::VotingOpen { epoch, decides_at: now + self.config.vote, claimed_at: now, repeat_at: now };
        self.send_claim(epoch, now);
    }

    fn send_claim(&mut self, epoch: u64, now: Timestamp) {
        let priority = self.priority(now);
        let repeat = self.config.vote / CLAIMS_PER_VOTE;
        if let State::VotingOpen { ref mut claimed_at, ref mut repeat_at, .. } = self.state {
            *claimed_at = now;
            *repeat_at = now + repeat;
        }
        self.round_claimed = self.round_claimed.max(epoch_round(epoch));
        self.send(Message::Claim(LeaderClaim { epoch, priority, seen: self.epoch }));
    }

    fn hasten_claim(&mut self) {
        if let State::VotingOpen { claimed_at, ref mut repeat_at, .. } = self.state {
            *repeat_at = (*repeat_at).min(claimed_at + self.config.answer_gap);
        }
    }

    /// Somebody obeyed more than what is claimed here: claim above it, and let all hear it.
    /// Returns the round claimed then, 0 when none is.
    fn raise_claim(&mut self, now: Timestamp) -> u32 {
        if let State::VotingOpen { epoch, .. } = self.state
            && epoch_round(epoch) <= epoch_round(self.led_seen)
        {
            self.claim(now);
        }
        match self.state {
            State::VotingOpen { epoch, .. } => epoch_round(epoch),
            State::Unknown { .. } | State::Conceding { .. } | State::Leading { .. } | State::Known { .. } => 0,
        }
    }

    /// Another server leads the same epoch: no battle of announcements, vote again.
    fn reopen_vote(&mut self, now: Timestamp) {
        self.deposed_at = Some(now);
        self.outputs.push_back(Output::LostLeader);
        self.round_claimed = self.round_claimed.max(self.next_round());
        self.claim(now);
    }

    fn lead(&mut self, epoch: u64, now: Timestamp) {
        if epoch <= self.epoch {
            return;
        }
        self.epoch = epoch;
        self.led_seen = self.led_seen.max(epoch);
        self.query_at = None;
        self.state = State::Leading { epoch, announced_at: now, announce_at: now, opening: OPENING_ANNOUNCEMENTS };
        self.outputs.push_back(Output::PersistEpoch(epoch));
        self.outputs.push_back(Output::BecameLeader { epoch });
        self.announce(now);
    }

    fn announce(&mut self, now: Timestamp) {
        let priority = self.priority(now);
        if let State::Leading { epoch, ref mut announced_at, ref mut announce_at, ref mut opening } = self.state {
            *announced_at = now;
            *opening = opening.saturating_sub(1);
            let wait = if *opening == 0 { self.config.announce_interval } else { self.config.announce_interval / 5 };
            *announce_at = now + wait;
            self.send(Message::Announcement(LeaderAnnouncement { epoch, priority, members: self.members }));
        }
    }

    fn hasten_announcement(&mut self) {
        if let State::Leading { announced_at, ref mut announce_at, .. } = self.state {
            *announce_at = (*announce_at).min(announced_at + self.config.answer_gap);
        }
    }

    fn follow(&mut self, leader: ServerId, epoch: u64, now: Timestamp) {
        let silent_at = now + self.config.silence_max;
        let unannounced_at = now + self.config.silence_max * UNANNOUNCED_SILENCES;
        let before = self.leader();
        if self.is_leader() {
            self.deposed_at = Some(now);
        }
        self.state = State::Known { leader, epoch, silent_at, unannounced_at };
        self.query_at = None;
        self.behind = None;
        if before == Some((leader, epoch)) {
            return;
        }
        if epoch > self.epoch {
            self.epoch = epoch;
            self.outputs.push_back(Output::PersistEpoch(epoch));
        }
        self.outputs.push_back(Output::Follows { leader, epoch });
    }

    /// Somebody leads or claims without knowing how far epochs are: tell, after a short random wait,
    /// because others want to tell the same.
    fn ask_soon(&mut self, now: Timestamp) {
        let wait = self.random_up_to(self.config.announce_interval / 4);
        let earliest = self.queried_at.map_or(now, |at| at + self.config.announce_interval / 2);
        let at = (now + wait).max(earliest);
        self.query_at = Some(self.query_at.map_or(at, |planned| planned.min(at)));
    }

    fn ask(&mut self, now: Timestamp) {
        self.query_at = None;
        if self.leader().is_some() {
            return;
        }
        self.queried_at = Some(now);
        if !self.may_claim() {
            self.query_at = Some(now + self.config.silence_max);
        }
        self.send(Message::Query { seen: self.epoch });
    }
}

fn check(from: ServerId, roles: Roles, message: &Message) -> Result<(), Rejected> {
    let (named, leads, epochs) = match *message {
        Message::Announcement(announcement) => (announcement.priority.server, true, [announcement.epoch, 0]),
        Message::Claim(claim) => (claim.priority.server, true, [claim.epoch, claim.seen]),
        Message::Resign { epoch } => (from, true, [epoch, 0]),
        Message::Query { seen } => (from, false, [seen, 0]),
    };
    if named != from {
        return Err(Rejected::NotTheSender { from, named });
    }
    if leads && !roles.leader {
        return Err(Rejected::MayNotLead { from });
    }
    match epochs.into_iter().find(|epoch| epoch_round(*epoch) > ROUND_MAX) {
        Some(epoch) => Err(Rejected::EpochOutOfRange { from, epoch }),
        None => Ok(()),
    }
}
