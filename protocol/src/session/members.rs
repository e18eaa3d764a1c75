//! The members of a session as its leader sees them: who is still waited for, who has fallen silent,
//! who gets no further, and how much of what was sent they lose.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use common::ids::ServerId;
use common::time::Timestamp;

use super::message::Status;

/// Polls a member leaves unanswered before the leader no longer holds a repair pass back for it, and
/// asks it by name.
const SUSPECT_POLLS: u32 = 3;
/// Unanswered polls after which a member may have been started again, and have forgotten the session.
const UNAWARE_POLLS: u32 = 6;
/// Fewest unanswered polls of a member that is given up as silent: at a fifth of all datagrams lost
/// each way, a living member leaves so many unanswered once in three thousand times, and
/// `silence_min` asks for more.
const SILENT_POLLS_MIN: u32 = 8;
/// Fewest transmissions over which loss is measured.
const LOSS_SAMPLE_MIN: u32 = 200;
/// A member whose loss is above this, in parts per million, and above [`OUTLIER_TIMES`] the others'
/// median may be an outlier.
const OUTLIER_LOSS_PPM: u32 = 20_000;
const OUTLIER_TIMES: u32 = 4;
/// How many rounds in a row it is one before it no longer counts.
const OUTLIER_ROUNDS: u32 = 3;
/// At most one member in so many is set aside; when more lose much, it is the network.
const ASIDE_SHARE: usize = 5;
/// One that was set aside alone, and lacks more than the object's symbols over this, is left to unicast.
const UNICAST_SHARE: u32 = 20;

/// Why a member was not brought to the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// It answered no poll for [`SenderConfig::silence_min`](super::SenderConfig::silence_min).
    #[error("it answers no poll")]
    Silent,
    /// It answers, and holds no more than it did
    /// [`SenderConfig::progress_max`](super::SenderConfig::progress_max) ago.
    #[error("it answers and gets no further")]
    Stalled,
    /// It asks, is sent what it asks for, and holds no more than before, pass after pass
    /// ([`SenderConfig::fruitless_passes_max`](super::SenderConfig::fruitless_passes_max)).
    #[error("what it asks for was repeated again and again, and it still lacks it")]
    Fruitless,
    /// It loses far more than the others, who are complete.
    #[error("it loses far more than the others, who are complete")]
    Straggling,
    /// It declined.
    #[error("it declined to take part")]
    Declined,
    /// It left the segment.
    #[error("it left the segment")]
    Gone,
    /// The session has no sequence number left; another session must go on.
    #[error("the session ran out of sequence numbers")]
    Exhausted,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Waiting,
    Complete,
    Failed(Failure),
}

#[derive(Debug)]
struct Member {
    standing: Standing,
    /// Whether it was heard in this session at all.
    answered: bool,
    /// When it was last heard; the beginning counts.
    heard_at: Timestamp,
    unanswered_polls: u32,
    held_max: u32,
    /// When it last held more than ever before.
    progressed_at: Timestamp,
    /// Frames received and highest sequence when its loss was last measured.
    measured: Option<(u64, u32)>,
    /// The share lost, in parts per million, when it was last measured, and whether that was in this
    /// round.
    loss_ppm: Option<(u32, bool)>,
    /// Rounds in a row in which it lost far more than the others.
    outlier_rounds: u32,
    /// It loses so much that it would hold the others up: what it lacks is sent when they have it all.
    aside: bool,
    /// What it held when it last asked for something that was repeated then, and whether it asks in this
    /// round.
    asked_with: Option<u32>,
    asks: bool,
    /// Passes in a row that were sent for it and brought it nothing.
    fruitless: u32,
}

impl Member {
    fn new(now: Timestamp) -> Self {
        Self {
            standing: Standing::Waiting,
            answered: false,
            heard_at: now,
            unanswered_polls: 0,
            held_max: 0,
            progressed_at: now,
            measured: None,
            loss_ppm: None,
            outlier_rounds: 0,
            aside: false,
            asked_with: None,
            asks: false,
            fruitless: 0,
        }
    }

    fn is_waiting(&self) -> bool {
        self.standing == Standing::Waiting
    }

    /// It is waited for, and what it lacks is sent.
    fn is_served(&self) -> bool {
        self.is_waiting() && !self.aside
    }

    fn is_suspect(&self) -> bool {
        self.unanswered_polls >= SUSPECT_POLLS
    }

    /// The share lost since the last measurement, if enough was sent to tell.
    fn measure(&mut self, status: &Status) -> Option<u32> {
        let Some((received, highest)) = self.measured else {
            // When it began to listen is unknown, so its first report only sets the mark.
            self.measured = Some((status.received, status.highest));
            return None;
        };
        let Some(heard) = status.received.checked_sub(received) else {
            // It counts anew, so it restarted; or an older report came late, which the next one heals.
            self.measured = Some((status.received, status.highest));
            return None;
        };
        let sent = status.highest.checked_sub(highest).filter(|sent| *sent >= LOSS_SAMPLE_MIN)?;
        self.measured = Some((status.received, status.highest));
        let lost = u64::from(sent).saturating_sub(heard);
        u32::try_from(lost * 1_000_000 / u64::from(sent)).ok()
    }
}

/// What a report changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Heard {
    /// It is complete, and was not before.
    pub(super) completed: bool,
    /// It is still waited for.
    pub(super) waiting: bool,
    /// What it asks for is sent: it is not set aside.
    pub(super) served: bool,
}

/// What the reports of a round say about loss.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Losses {
    /// The worst loss of those who do not lose far more than the others, in parts per million.
    pub(super) worst_ppm: Option<u32>,
    /// These are set aside from here on.
    pub(super) set_aside: Vec<ServerId>,
}

/// The median of a sorted list without one of its elements; `None` when nothing is left.
fn median_without(sorted: &[u32], element: u32) -> Option<u32> {
    let middle = sorted.len().checked_sub(2)? / 2;
    let without_at = sorted.partition_point(|other| *other < element);
    sorted.get(if middle < without_at { middle } else { middle + 1 }).copied()
}

/// All members of a session.
#[derive(Debug)]
pub(super) struct Members(BTreeMap<ServerId, Member>);

impl Members {
    pub(super) fn new(servers: impl IntoIterator<Item = ServerId>, now: Timestamp) -> Self {
        Self(servers.into_iter().map(|server| (server, Member::new(now))).collect())
    }

    /// Waits for this server too, also when it failed before. Returns whether that is a change.
    pub(super) fn join(&mut self, server: ServerId, now: Timestamp) -> bool {
        let waited_for = self.0.get(&server).is_some_and(|member| match member.standing {
            Standing::Waiting | Standing::Complete => true,
            Standing::Failed(_) => false,
        });
        if !waited_for {
            self.0.insert(server, Member::new(now));
        }
        !waited_for
    }

    /// How many there are, whatever their standing.
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    pub(super) fn knows(&self, server: ServerId) -> bool {
        self.0.contains_key(&server)
    }

    fn servers(&self, wanted: impl Fn(&Member) -> bool) -> Vec<ServerId> {
        self.0.iter().filter(|(_, member)| wanted(member)).map(|(server, _)| *server).collect()
    }

    pub(super) fn waiting(&self) -> Vec<ServerId> {
        self.servers(Member::is_waiting)
    }

    pub(super) fn complete(&self) -> Vec<ServerId> {
        self.servers(|member| member.standing == Standing::Complete)
    }

    pub(super) fn failed(&self) -> Vec<ServerId> {
        self.servers(|member| matches!(member.standing, Standing::Failed(_)))
    }

    /// Those waited for that leave polls unanswered.
    pub(super) fn suspects(&self) -> Vec<ServerId> {
        self.servers(|member| member.is_waiting() && member.is_suspect())
    }

    /// Those whose answers are worth holding a repair pass back for.
    pub(super) fn attentive(&self) -> BTreeSet<ServerId> {
        self.servers(|member| member.is_served() && !member.is_suspect()).into_iter().collect()
    }

    /// So many of those waited for that were asked in vain least often.
    pub(super) fn least_asked(&self, count: usize) -> Vec<ServerId> {
        let mut waiting: Vec<(u32, ServerId)> = self
            .0
            .iter()
            .filter(|(_, member)| member.is_waiting())
            .map(|(server, m)| (m.unanswered_polls, *server))
            .collect();
        waiting.sort_unstable();
        waiting.into_iter().take(count).map(|(_, server)| server).collect()
    }

    pub(super) fn anyone_waits(&self) -> bool {
        self.0.values().any(Member::is_waiting)
    }

    /// Whether somebody who is waited for was never heard.
    pub(super) fn anyone_unheard(&self) -> bool {
        self.0.values().any(|member| member.is_waiting() && !member.answered)
    }

    /// Whether somebody who is waited for may not know of the session: it was never heard, and the
    /// announcement may not have reached it; or it has fallen silent, and may have been started again.
    pub(super) fn anyone_unaware(&self) -> bool {
        self.0
            .values()
            .any(|member| member.is_waiting() && (!member.answered || member.unanswered_polls >= UNAWARE_POLLS))
    }

    /// Whether those that were heard, and are served, have all left several polls in a row unanswered.
    pub(super) fn all_fell_silent(&self) -> bool {
        let mut heard = self.0.values().filter(|member| member.is_served() && member.answered).peekable();
        heard.peek().is_some() && heard.all(Member::is_suspect)
    }

    /// A poll goes out to everybody.
    pub(super) fn asked(&mut self) {
        for member in self.0.values_mut().filter(|member| member.is_waiting()) {
            member.unanswered_polls += 1;
        }
    }

    /// A poll goes out to these.
    pub(super) fn asked_by_name(&mut self, servers: &[ServerId]) {
        for server in servers {
            if let Some(member) = self.0.get_mut(server) {
                member.unanswered_polls += 1;
            }
        }
    }

    /// What this member asked for is neither on its way nor planned.
    pub(super) fn asks(&mut self, server: ServerId) {
        if let Some(member) = self.0.get_mut(&server) {
            member.asks = true;
        }
    }

    /// A round is over that makes another pass necessary. Returns those for whom so many passes in a row
    /// brought nothing.
    pub(super) fn passes(&mut self, fruitless_max: u32) -> Vec<ServerId> {
        let mut given_up = Vec::new();
        for (server, member) in &mut self.0 {
            if !std::mem::take(&mut member.asks) || !member.is_served() {
                continue;
            }
            let in_vain = member.asked_with.is_some_and(|held| member.held_max <= held);
            member.asked_with = Some(member.held_max);
            member.fruitless = if in_vain { member.fruitless + 1 } else { 0 };
            if member.fruitless >= fruitless_max {
                given_up.push(*server);
            }
        }
        given_up
    }

    /// What the round's reports say about loss: who loses far more than the others neither moves the
    /// rate, nor is waited for by them once that was so for some rounds.
    pub(super) fn losses(&mut self) -> Losses {
        let mut all: Vec<u32> =
            self.0.values().filter(|m| m.is_waiting()).filter_map(|m| m.loss_ppm).map(|(loss, _)| loss).collect();
        all.sort_unstable();
        let aside = self.0.values().filter(|member| member.aside).count();
        let mut places = (self.0.len() / ASIDE_SHARE).max(1).saturating_sub(aside);
        let mut losses = Losses::default();
        for (server, member) in self.0.iter_mut().filter(|(_, member)| member.is_served()) {
            let Some((loss, true)) = member.loss_ppm else { continue };
            member.loss_ppm = Some((loss, false));
            let median = median_without(&all, loss);
            let is_outlier = places > 0
                && median.is_some_and(|median| loss > OUTLIER_LOSS_PPM.max(median.saturating_mul(OUTLIER_TIMES)));
            if !is_outlier {
                member.outlier_rounds = 0;
                losses.worst_ppm = Some(losses.worst_ppm.map_or(loss, |worst| worst.max(loss)));
                continue;
            }
            member.outlier_rounds += 1;
            if member.outlier_rounds >= OUTLIER_ROUNDS {
                member.aside = true;
                places -= 1;
                losses.set_aside.push(*server);
            }
        }
        losses
    }

    /// When nobody is left but those who were set aside: they are served from here on. One alone that
    /// lacks much is returned instead: it is better off by unicast.
    pub(super) fn take_back(&mut self, symbols: u32) -> Option<ServerId> {
        let aside = self.servers(|member| member.is_waiting() && member.aside);
        if aside.is_empty() || self.0.values().any(Member::is_served) {
            return None;
        }
        if let [server] = aside[..]
            && self.0.get(&server).is_some_and(|m| symbols.saturating_sub(m.held_max) > symbols / UNICAST_SHARE)
        {
            return Some(server);
        }
        for member in self.0.values_mut() {
            member.aside = false;
            member.outlier_rounds = 0;
        }
        None
    }

    /// A report came in. Complete is final, and so is failure, unless the member proves otherwise by
    /// being complete.
    pub(super) fn hear(&mut self, server: ServerId, status: &Status, now: Timestamp) -> Option<Heard> {
        let member = self.0.get_mut(&server)?;
        member.answered = true;
        member.heard_at = now;
        member.unanswered_polls = 0;
        if status.held > member.held_max {
            member.held_max = status.held;
            member.progressed_at = now;
        }
        let completed = status.complete && member.standing != Standing::Complete;
        if completed {
            member.standing = Standing::Complete;
        }
        if let Some(loss_ppm) = member.measure(status) {
            member.loss_ppm = Some((loss_ppm, true));
        }
        Some(Heard { completed, waiting: member.is_waiting(), served: member.is_served() })
    }

    /// Gives up on a member. Returns whether it was waited for.
    pub(super) fn fail(&mut self, server: ServerId, failure: Failure) -> bool {
        let Some(member) = self.0.get_mut(&server).filter(|member| member.is_waiting()) else { return false };
        member.standing = Standing::Failed(failure);
        true
    }

    /// Those that are silent, or got no further since the later of their last progress and
    /// `offered_at`, when something new was last sent.
    pub(super) fn overdue(
        &self,
        silence_min: Duration,
        progress_max: Duration,
        offered_at: Timestamp,
        now: Timestamp,
    ) -> Vec<(ServerId, Failure)> {
        let failure = |member: &Member| {
            if member.unanswered_polls >= SILENT_POLLS_MIN && member.heard_at + silence_min <= now {
                Some(Failure::Silent)
            } else if member.answered && member.progressed_at.max(offered_at) + progress_max <= now {
                Some(Failure::Stalled)
            } else {
                None
            }
        };
        let waiting = self.0.iter().filter(|(_, member)| member.is_waiting());
        waiting.filter_map(|(server, member)| failure(member).map(|failure| (*server, failure))).collect()
    }

    /// When the next member is overdue, as far as no further poll is needed to tell.
    pub(super) fn overdue_at(
        &self,
        silence_min: Duration,
        progress_max: Duration,
        offered_at: Timestamp,
    ) -> Option<Timestamp> {
        let silent_at =
            |member: &Member| (member.unanswered_polls >= SILENT_POLLS_MIN).then(|| member.heard_at + silence_min);
        let stalled_at = |member: &Member| member.answered.then(|| member.progressed_at.max(offered_at) + progress_max);
        let waiting = self.0.values().filter(|member| member.is_waiting());
        waiting.flat_map(|member| silent_at(member).into_iter().chain(stalled_at(member))).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: ServerId = ServerId([1; 16]);

    fn status(received: u64, highest: u32, held: u32) -> Status {
        Status {
            session: 1,
            poll: 0,
            received,
            highest,
            held,
            missing: Vec::new(),
            deficits: Vec::new(),
            more: false,
            complete: false,
        }
    }

    fn members() -> Members {
        Members::new([SERVER], Timestamp::ZERO)
    }

    fn loss(members: &mut Members, received: u64, highest: u32) -> Option<u32> {
        members.hear(SERVER, &status(received, highest, 0), Timestamp::ZERO);
        members.losses().worst_ppm
    }

    #[test]
    fn loss_is_measured_between_reports_over_enough_transmissions() {
        let mut members = members();
        assert_eq!(loss(&mut members, 10, 500), None, "nobody knows when it began to listen");
        assert_eq!(loss(&mut members, 109, 699), None, "199 are too few");
        assert_eq!(loss(&mut members, 160, 700), Some(250_000), "150 of 200 arrived");
        assert_eq!(loss(&mut members, 360, 900), Some(0));
        assert_eq!(loss(&mut members, 900, 1100), Some(0), "duplicates are no loss");
        assert_eq!(loss(&mut members, 5, 1400), None, "it restarted");
        assert_eq!(loss(&mut members, 105, 1600), Some(500_000));
    }

    #[test]
    fn a_member_is_silent_only_after_both_the_time_and_the_polls() {
        let (second, minute) = (Duration::from_secs(1), Duration::from_secs(60));
        let mut members = members();
        let at = |seconds: u64| Timestamp(seconds * 1_000_000);
        let overdue = |members: &Members, now| members.overdue(second, minute, Timestamp::ZERO, now);
        (1..SILENT_POLLS_MIN).for_each(|_| members.asked());
        assert_eq!(overdue(&members, at(5)), vec![]);
        assert_eq!(members.overdue_at(second, minute, Timestamp::ZERO), None);
        members.asked();
        assert_eq!(members.overdue_at(second, minute, Timestamp::ZERO), Some(at(1)));
        assert_eq!(overdue(&members, Timestamp(999_999)), vec![]);
        assert_eq!(overdue(&members, at(1)), vec![(SERVER, Failure::Silent)]);
        members.hear(SERVER, &status(0, 0, 0), at(1));
        assert_eq!(overdue(&members, at(5)), vec![]);
    }

    #[test]
    fn a_member_that_answers_and_gets_no_further_is_given_up() {
        let (second, minute) = (Duration::from_secs(1), Duration::from_secs(60));
        let mut members = members();
        let at = |seconds: u64| Timestamp(seconds * 1_000_000);
        members.hear(SERVER, &status(0, 0, 7), at(10));
        members.hear(SERVER, &status(0, 0, 3), at(20));
        members.hear(SERVER, &status(0, 0, 7), at(30));
        assert_eq!(members.overdue(second, minute, at(0), at(69)), vec![]);
        assert_eq!(members.overdue(second, minute, at(0), at(70)), vec![(SERVER, Failure::Stalled)]);
        assert_eq!(members.overdue(second, minute, at(11), at(70)), vec![], "it had nothing to get");
    }

    #[test]
    fn complete_is_final_and_outweighs_an_earlier_failure() {
        let mut members = members();
        assert!(members.fail(SERVER, Failure::Silent));
        assert!(!members.fail(SERVER, Failure::Gone));
        let complete = Status { complete: true, ..status(1, 1, 1) };
        let heard = members.hear(SERVER, &complete, Timestamp::ZERO).expect("a member");
        assert!(heard.completed && !heard.waiting);
        assert!(!members.fail(SERVER, Failure::Gone));
        assert_eq!(members.complete(), vec![SERVER]);
        assert!(!members.join(SERVER, Timestamp::ZERO));
        let heard = members.hear(SERVER, &complete, Timestamp::ZERO).expect("a member");
        assert!(!heard.completed);
    }

    fn id(n: u8) -> ServerId {
        ServerId([n; 16])
    }

    /// Rounds in which 1,000 frames are sent and each member loses so many of them.
    fn rounds(members: &mut Members, lost: &[u64], from: u32, count: u32) -> Vec<Losses> {
        let mut all = Vec::new();
        for round in from..from + count {
            for (n, lost) in lost.iter().enumerate() {
                let sent = round * 1000;
                let received = u64::from(sent) - u64::from(round) * lost;
                members.hear(id(n as u8), &status(received, sent, round), Timestamp::ZERO);
            }
            all.push(members.losses());
        }
        all
    }

    #[test]
    fn one_that_loses_far_more_than_the_others_moves_no_rate_and_is_set_aside_after_three_rounds() {
        let mut members = Members::new((0..4).map(id), Timestamp::ZERO);
        let losses = rounds(&mut members, &[1, 300, 2, 0], 0, 4);
        let worst: Vec<_> = losses.iter().map(|losses| losses.worst_ppm).collect();
        assert_eq!(worst, vec![None, Some(2_000), Some(2_000), Some(2_000)]);
        assert_eq!(losses[2].set_aside, vec![]);
        assert_eq!(losses[3].set_aside, vec![id(1)]);
        let heard = members.hear(id(1), &status(0, 0, 0), Timestamp::ZERO).expect("a member");
        assert!(heard.waiting && !heard.served);
        assert!(!members.attentive().contains(&id(1)));
        assert_eq!(members.take_back(100), None, "the others are not complete");
        for n in [0, 2, 3] {
            assert!(members.fail(id(n), Failure::Gone));
        }
        assert_eq!(members.take_back(100), Some(id(1)), "it lacks 97 of 100");
        assert_eq!(members.take_back(3), None, "it lacks nothing");
        assert!(members.attentive().contains(&id(1)));
    }

    #[test]
    fn when_more_than_a_fifth_lose_much_it_is_the_network() {
        let mut members = Members::new((0..10).map(id), Timestamp::ZERO);
        let losses = rounds(&mut members, &[300, 300, 300, 0, 0, 0, 0, 0, 0, 0], 0, 5);
        assert_eq!(losses.iter().map(|losses| losses.set_aside.len()).sum::<usize>(), 2);
        assert_eq!(losses[4].worst_ppm, Some(300_000));
        let mut alone = Members::new([id(0)], Timestamp::ZERO);
        let losses = rounds(&mut alone, &[300], 0, 5);
        assert!(losses.iter().all(|losses| losses.set_aside.is_empty()));
        assert_eq!(losses[4].worst_ppm, Some(300_000));
        let mut spread = Members::new((0..5).map(id), Timestamp::ZERO);
        let losses = rounds(&mut spread, &[50, 40, 100, 60, 30], 0, 5);
        assert!(losses.iter().all(|losses| losses.set_aside.is_empty()), "twice the others' is no outlier");
    }

    #[test]
    fn a_member_that_asks_in_vain_pass_after_pass_is_given_up_and_one_that_gains_is_not() {
        let mut members = Members::new([id(0), id(1)], Timestamp::ZERO);
        for pass in 0..=10 {
            members.hear(id(0), &status(0, 0, 5), Timestamp::ZERO);
            members.hear(id(1), &status(0, 0, pass), Timestamp::ZERO);
            members.asks(id(0));
            members.asks(id(1));
            assert_eq!(members.passes(10), if pass < 10 { vec![] } else { vec![id(0)] });
            assert_eq!(members.passes(10), vec![], "nobody asked");
        }
    }
}
