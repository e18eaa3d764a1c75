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
/// Fewest unanswered polls of a member that is given up as silent: at a fifth of all datagrams lost
/// each way, a living member leaves so many unanswered once in three thousand times, and
/// `silence_min` asks for more.
const SILENT_POLLS_MIN: u32 = 8;
/// Fewest transmissions over which loss is measured.
const LOSS_SAMPLE_MIN: u32 = 200;

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
        }
    }

    fn is_waiting(&self) -> bool {
        self.standing == Standing::Waiting
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
    /// It is still waited for: what it asks for counts.
    pub(super) waiting: bool,
    /// The share it lost lately, in parts per million.
    pub(super) loss_ppm: Option<u32>,
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
        self.servers(|member| member.is_waiting() && !member.is_suspect()).into_iter().collect()
    }

    pub(super) fn anyone_waits(&self) -> bool {
        self.0.values().any(Member::is_waiting)
    }

    /// Whether somebody who is waited for was never heard: the announcement may not have reached it.
    pub(super) fn anyone_unheard(&self) -> bool {
        self.0.values().any(|member| member.is_waiting() && !member.answered)
    }

    /// A poll goes out.
    pub(super) fn asked(&mut self) {
        for member in self.0.values_mut().filter(|member| member.is_waiting()) {
            member.unanswered_polls += 1;
        }
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
        let waiting = member.is_waiting();
        Some(Heard { completed, waiting, loss_ppm: member.measure(status).filter(|_| waiting) })
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
        Status { session: 1, poll: 0, received, highest, held, missing: Vec::new(), complete: false }
    }

    fn members() -> Members {
        Members::new([SERVER], Timestamp::ZERO)
    }

    fn loss(members: &mut Members, received: u64, highest: u32) -> Option<u32> {
        members.hear(SERVER, &status(received, highest, 0), Timestamp::ZERO).and_then(|heard| heard.loss_ppm)
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
}
