//! What a server makes of each message: the rows of the table in `docs/protocol.md`.

use common::credential::Roles;
use common::ids::ServerId;
use common::time::Timestamp;

use super::super::{LeaderAnnouncement, LeaderClaim, Message, Mode, Priority, ROUND_MAX, Rejected, epoch_round};
use super::{Election, State, UNANNOUNCED_SILENCES};

impl Election {
    pub(super) fn on_announcement(&mut self, from: ServerId, heard: LeaderAnnouncement, now: Timestamp) {
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
                    self.follow(heard, now);
                } else {
                    self.ask_soon(now);
                }
            }
            State::VotingOpen { .. } if heard.epoch < self.epoch => self.hasten_claim(),
            State::Leading { .. }
            | State::Known { .. }
            | State::Unknown { .. }
            | State::Conceding { .. }
            | State::VotingOpen { .. } => self.follow(heard, now),
        }
    }

    /// Whether a leader that is behind is to be followed in the end: nobody heeds what a server without
    /// the role says about epochs, so it would be without a leader for ever when all that may lead have
    /// lost their memory.
    pub(super) fn yields_to(&mut self, leader: ServerId, now: Timestamp) -> bool {
        let patience = self.config.silence_max * UNANNOUNCED_SILENCES;
        match self.behind {
            Some((known, since)) if known == leader => !self.may_lead && now.since(since) >= patience,
            Some(_) | None => {
                self.behind = Some((leader, now));
                false
            }
        }
    }

    pub(super) fn on_claim(&mut self, from: ServerId, heard: LeaderClaim, now: Timestamp) {
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
            State::Leading { .. } if self.reopens_for(&heard) => {
                let message = self.proof.ask(from, now);
                self.send_to(from, message);
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

    /// Claim 35's rule, where it is the policy.
    pub(super) fn reopens_for(&self, claim: &LeaderClaim) -> bool {
        matches!(self.state, State::Leading { epoch, .. }
            if self.config.claims_reopen_vote && epoch_round(claim.epoch) >= epoch_round(epoch))
    }

    /// Somebody heard this server lead or claim, and wants to know whether it still does.
    pub(super) fn on_verify(&mut self, from: ServerId, number: u64, now: Timestamp) {
        match self.state {
            State::Leading { .. } => {
                if let Some(announcement) = self.announcement(now) {
                    self.send_to(from, Message::Verified { announcement, number });
                }
            }
            State::VotingOpen { epoch, .. } => {
                let claim = self.claim_of(epoch, now);
                self.send_to(from, Message::Claiming { claim, number });
            }
            State::Unknown { .. } | State::Conceding { .. } | State::Known { .. } => (),
        }
    }

    pub(super) fn on_resign(&mut self, from: ServerId, epoch: u64, now: Timestamp) {
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

    pub(super) fn on_query(&mut self, from: ServerId, seen: u64, now: Timestamp) {
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
    pub(super) fn answer_as_leader(&mut self, seen: u64, now: Timestamp) {
        match self.state {
            State::Leading { epoch, .. } if seen > epoch => {
                let renewed = self.epoch_of(self.next_round(), now);
                self.lead(renewed, now);
            }
            State::Leading { .. } => self.hasten_announcement(),
            State::Unknown { .. } | State::Conceding { .. } | State::VotingOpen { .. } | State::Known { .. } => (),
        }
    }

    pub(super) fn on_probe(&mut self, leader: ServerId, epoch: u64, now: Timestamp) {
        let wait = self.random_up_to(self.config.answer_gap);
        match self.state {
            State::Known { leader: known, epoch: followed, announced_at, silent_at, unannounced_at, .. }
                if (known, followed) == (leader, epoch) =>
            {
                let missed_at = silent_at.min(unannounced_at);
                if now.since(announced_at) <= self.config.announce_interval * 2 {
                    if self.may_lead {
                        self.heard_at.get_or_insert(now + wait);
                    }
                } else if missed_at <= now + self.config.probe
                    && let State::Known { ref mut gives_up_at, .. } = self.state
                {
                    // The question is asked: one is enough for all.
                    gives_up_at.get_or_insert(missed_at + self.config.probe);
                }
            }
            State::Leading { epoch: led, .. } if self.server == leader && led >= epoch => self.hasten_announcement(),
            State::Unknown { .. }
            | State::Conceding { .. }
            | State::VotingOpen { .. }
            | State::Leading { .. }
            | State::Known { .. } => (),
        }
    }

    /// Another server hears the leader: this one has gone deaf to it, and waits. To claim would take the
    /// leader from all others.
    pub(super) fn on_heard(&mut self, leader: ServerId, epoch: u64, now: Timestamp) {
        if let State::Known {
            leader: known,
            epoch: followed,
            ref mut silent_at,
            ref mut unannounced_at,
            ref mut gives_up_at,
            ..
        } = self.state
            && (known, followed) == (leader, epoch)
        {
            self.heard_at = None;
            if gives_up_at.take().is_some() {
                *silent_at = now + self.config.silence_max;
                *unannounced_at = now + self.config.silence_max * UNANNOUNCED_SILENCES;
            }
        }
    }

    pub(super) fn on_hand_over(&mut self, from: ServerId, epoch: u64, to: ServerId, now: Timestamp) {
        let State::Known { leader, epoch: followed, .. } = self.state else { return };
        if leader != from || epoch < followed {
            return;
        }
        self.led_seen = self.led_seen.max(epoch);
        self.resigned = Some((from, epoch, now + self.config.silence_max));
        if to == self.server && self.may_claim() {
            let epoch = self.epoch_of(self.next_round(), now);
            self.lead(epoch, now);
        } else {
            self.leave_leader();
            self.await_successor(epoch, to, now);
        }
    }

    pub(super) fn on_challenge(&mut self, challenged: u64, challenger: Priority, now: Timestamp) {
        if let State::Leading { epoch, .. } = self.state
            && challenged == epoch
            && self.config.preempt_after.is_some()
            && !self.is_busy
            && self.mode == Mode::Elected
            && challenger.is_much_stronger_than(&self.priority(now))
        {
            self.hand_over(epoch, challenger.server, now);
        }
    }
}

pub(super) fn check(from: ServerId, roles: Roles, message: &Message) -> Result<(), Rejected> {
    let (named, leads, epochs) = match *message {
        Message::Announcement(announcement) | Message::Verified { announcement, .. } => {
            (announcement.priority.server, true, [announcement.epoch, 0])
        }
        Message::Claim(claim) | Message::Claiming { claim, .. } => {
            (claim.priority.server, true, [claim.epoch, claim.seen])
        }
        Message::Query { seen } => (from, false, [seen, 0]),
        Message::Verify { .. } => (from, false, [0, 0]),
        Message::Probe { epoch, .. } => (from, false, [epoch, 0]),
        // Whoever hears a leader must be able to lead, else a member that was taken over could keep a dead
        // leader in office.
        Message::Heard { epoch, .. } | Message::Resign { epoch } | Message::HandOver { epoch, .. } => {
            (from, true, [epoch, 0])
        }
        Message::Challenge { epoch, priority } => (priority.server, true, [epoch, 0]),
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
