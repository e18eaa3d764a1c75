//! What a server does of itself: claims, leads, follows, asks, hands over.

use std::time::Duration;

use common::ids::ServerId;
use common::time::Timestamp;
use rand_chacha::rand_core::Rng;

use super::super::{
    LeaderAnnouncement, LeaderClaim, Message, Mode, Output, Priority, ROUND_MAX, Rejected, epoch_round,
};
use super::{CLAIMS_PER_VOTE, Election, OPENING_ANNOUNCEMENTS, State, UNANNOUNCED_SILENCES};

impl Election {
    pub(super) fn may_claim(&self) -> bool {
        let is_named = match self.mode {
            Mode::Elected => true,
            Mode::Fixed { leader } => leader == Some(self.server),
        };
        self.may_lead && !self.retired && is_named
    }

    /// Where the administrator names the leader, nobody else leads, and nobody claims.
    pub(super) fn check_named(&self, from: ServerId, message: &Message) -> Result<(), Rejected> {
        let Mode::Fixed { leader } = self.mode else { return Ok(()) };
        let is_of_a_leader = match message {
            Message::Announcement(_)
            | Message::Verified { .. }
            | Message::Claiming { .. }
            | Message::Claim(_)
            | Message::Resign { .. }
            | Message::HandOver { .. }
            | Message::Challenge { .. } => true,
            Message::Query { .. } | Message::Probe { .. } | Message::Heard { .. } | Message::Verify { .. } => false,
        };
        if is_of_a_leader && leader != Some(from) { Err(Rejected::NotNamed { from }) } else { Ok(()) }
    }

    pub(super) fn next_round(&self) -> u32 {
        let above_led = epoch_round(self.led_seen.max(self.epoch)).saturating_add(1);
        above_led.max(self.round_claimed).min(ROUND_MAX)
    }

    pub(super) fn epoch_of(&self, round: u32, now: Timestamp) -> u64 {
        let strength = u64::from(self.priority(now).strength());
        u64::from(round) << 32 | strength << 24 | u64::from(self.tag)
    }

    /// The stronger, the sooner (002: "at an interval determined by how strong a claim the candidate
    /// has"); a tenth of the span is chance, between servers of equal strength.
    pub(super) fn claim_wait(&mut self, now: Timestamp) -> Duration {
        if let Mode::Fixed { .. } = self.mode {
            return Duration::ZERO; // There is nobody to wait for.
        }
        let span = self.config.claim_wait_max - self.config.claim_wait_min;
        let weakness = 255 - u32::from(self.priority(now).strength());
        let chance = self.random_up_to(span / 10);
        self.config.claim_wait_min + span * 9 / 10 * weakness / 255 + chance
    }

    pub(super) fn random_up_to(&mut self, max: Duration) -> Duration {
        let micros = u64::try_from(max.as_micros()).unwrap_or(u64::MAX).saturating_add(1);
        Duration::from_micros(self.rng.next_u64() % micros)
    }

    pub(super) fn send(&mut self, message: Message) {
        self.outputs.push_back(Output::Send(message));
    }

    pub(super) fn send_to(&mut self, to: ServerId, message: Message) {
        self.outputs.push_back(Output::SendTo { to, message });
    }

    pub(super) fn become_unknown(&mut self, now: Timestamp) {
        let claims_at = now + self.claim_wait(now);
        let may_claim = self.may_claim();
        self.state = State::Unknown { claims_at: may_claim.then_some(claims_at) };
        if !may_claim && self.query_at.is_none() {
            self.query_at = Some(now + self.config.silence_max);
        }
    }

    /// Whoever is followed next has to answer first.
    pub(super) fn leave_leader(&mut self) {
        self.proof.forget();
        self.outputs.push_back(Output::LostLeader);
    }

    pub(super) fn lose_leader(&mut self, now: Timestamp) {
        self.leave_leader();
        self.become_unknown(now);
    }

    pub(super) fn concede(&mut self, to: Priority, round: u32, now: Timestamp) {
        self.state = State::Conceding { to, round, until: now + self.config.concede };
    }

    /// A weaker claim was heard: answer while its vote is open, the strongest server first.
    pub(super) fn claim_within_vote(&mut self, claims_at: Option<Timestamp>, now: Timestamp) {
        let latest = now + self.claim_wait(now);
        self.state = State::Unknown { claims_at: Some(claims_at.map_or(latest, |at| at.min(latest))) };
    }

    pub(super) fn claim(&mut self, now: Timestamp) {
        let epoch = self.epoch_of(self.next_round(), now);
        if epoch <= self.epoch {
            self.state = State::Unknown { claims_at: None }; // Rounds are used up.
            return;
        }
        self.query_at = None;
        if let Mode::Fixed { .. } = self.mode {
            self.lead(epoch, now); // Nobody else may.
            return;
        }
        self.state = State::VotingOpen { epoch, decides_at: now + self.config.vote, claimed_at: now, repeat_at: now };
        self.send_claim(epoch, now);
    }

    pub(super) fn send_claim(&mut self, epoch: u64, now: Timestamp) {
        let repeat = self.config.vote / CLAIMS_PER_VOTE;
        if let State::VotingOpen { ref mut claimed_at, ref mut repeat_at, .. } = self.state {
            *claimed_at = now;
            *repeat_at = now + repeat;
        }
        self.round_claimed = self.round_claimed.max(epoch_round(epoch));
        self.send(Message::Claim(self.claim_of(epoch, now)));
    }

    pub(super) fn claim_of(&self, epoch: u64, now: Timestamp) -> LeaderClaim {
        LeaderClaim { epoch, priority: self.priority(now), seen: self.epoch }
    }

    pub(super) fn hasten_claim(&mut self) {
        if let State::VotingOpen { claimed_at, ref mut repeat_at, .. } = self.state {
            *repeat_at = (*repeat_at).min(claimed_at + self.config.answer_gap);
        }
    }

    /// Somebody obeyed more than what is claimed here: claim above it, and let all hear it.
    /// Returns the round claimed then, 0 when none is.
    pub(super) fn raise_claim(&mut self, now: Timestamp) -> u32 {
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
    pub(super) fn reopen_vote(&mut self, now: Timestamp) {
        self.deposed_at = Some(now);
        self.leave_leader();
        self.round_claimed = self.round_claimed.max(self.next_round());
        self.claim(now);
    }

    pub(super) fn lead(&mut self, epoch: u64, now: Timestamp) {
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

    pub(super) fn announce(&mut self, now: Timestamp) {
        let Some(announcement) = self.announcement(now) else { return };
        if let State::Leading { ref mut announced_at, ref mut announce_at, ref mut opening, .. } = self.state {
            *announced_at = now;
            *opening = opening.saturating_sub(1);
            let wait = if *opening == 0 { self.config.announce_interval } else { self.config.announce_interval / 5 };
            *announce_at = now + wait;
        }
        self.send(Message::Announcement(announcement));
    }

    pub(super) fn hasten_announcement(&mut self) {
        if let State::Leading { announced_at, ref mut announce_at, .. } = self.state {
            *announce_at = (*announce_at).min(announced_at + self.config.answer_gap);
        }
    }

    pub(super) fn follow(&mut self, heard: LeaderAnnouncement, now: Timestamp) {
        let (leader, epoch) = (heard.priority.server, heard.epoch);
        let before = self.leader();
        if self.is_leader() {
            self.deposed_at = Some(now);
        }
        let challenges = self.may_claim() && self.priority(now).is_much_stronger_than(&heard.priority);
        let planned = match self.state {
            State::Known { leader: known, challenge_at, .. } if known == leader => challenge_at,
            State::Unknown { .. }
            | State::Conceding { .. }
            | State::VotingOpen { .. }
            | State::Leading { .. }
            | State::Known { .. } => None,
        };
        let challenge_at = self.config.preempt_after.filter(|_| challenges).map(|wait| planned.unwrap_or(now + wait));
        self.state = State::Known {
            leader,
            epoch,
            strength: heard.priority,
            announced_at: now,
            silent_at: now + self.config.silence_max,
            unannounced_at: now + self.config.silence_max * UNANNOUNCED_SILENCES,
            gives_up_at: None,
            challenge_at,
        };
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

    /// The leader is not heard: perhaps others hear it.
    pub(super) fn miss_leader(&mut self, now: Timestamp) {
        let wait = self.config.probe;
        let State::Known { leader, epoch, ref mut gives_up_at, .. } = self.state else { return };
        if wait.is_zero() {
            self.lose_leader(now);
        } else {
            *gives_up_at = Some(now + wait);
            self.send(Message::Probe { leader, epoch });
        }
    }

    pub(super) fn hand_over(&mut self, epoch: u64, to: ServerId, now: Timestamp) {
        self.say_twice(Message::HandOver { epoch, to });
        self.leave_leader();
        self.await_successor(epoch, to, now);
    }

    /// Nobody votes while the successor has the time to announce itself.
    pub(super) fn await_successor(&mut self, epoch: u64, to: ServerId, now: Timestamp) {
        let named = Priority { preassigned: u8::MAX, led_recently: true, factor: u8::MAX, score: u16::MAX, server: to };
        self.concede(named, epoch_round(epoch).saturating_add(1), now);
    }

    pub(super) fn challenge(&mut self, now: Timestamp) {
        let priority = self.priority(now);
        let Some(wait) = self.config.preempt_after else { return };
        if let State::Known { epoch, strength, ref mut challenge_at, .. } = self.state {
            *challenge_at = Some(now + wait);
            if self.may_claim() && priority.is_much_stronger_than(&strength) {
                self.send(Message::Challenge { epoch, priority });
            }
        }
    }

    /// Twice, because nobody is here to repeat it when it is lost.
    pub(super) fn say_twice(&mut self, message: Message) {
        self.send(message);
        self.send(message);
    }

    /// Somebody leads or claims without knowing how far epochs are: tell, after a short random wait,
    /// because others want to tell the same.
    pub(super) fn ask_soon(&mut self, now: Timestamp) {
        let wait = self.random_up_to(self.config.announce_interval / 4);
        let earliest = self.queried_at.map_or(now, |at| at + self.config.announce_interval / 2);
        let at = (now + wait).max(earliest);
        self.query_at = Some(self.query_at.map_or(at, |planned| planned.min(at)));
    }

    pub(super) fn ask(&mut self, now: Timestamp) {
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
