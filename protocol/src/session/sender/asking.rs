//! What the leader asks and announces: by a frame while there is something to send, else by message.

use std::collections::BTreeSet;
use std::time::Duration;

use common::ids::ServerId;
use common::time::Timestamp;

use super::super::message::{Message, Poll, Roll, take_what_fits};
use super::super::sender_config::Repair;
use super::super::suppression::Large;
use super::{Output, POLLS_KEPT, Sender};

/// Answers to a poll by message are spread over this much for each member asked.
const REPLY_WINDOW_PER_MEMBER: Duration = Duration::from_micros(20);
/// Longest window asked for; what receivers accept by default.
const REPLY_WINDOW_MAX: Duration = Duration::from_millis(100);

impl Sender {
    /// Whether the frame that is being made shall ask, though more follow it.
    pub(super) fn is_time_to_ask(&self, now: Timestamp) -> bool {
        match self.config.repair {
            Repair::EndOfPass => false,
            // Nobody lacks anything new before further blocks were sent whole.
            Repair::InStream if self.large().is_some() => {
                self.poll_at <= now && self.asked_blocks < self.geometry.blocks_within(self.requests.sent_through())
            }
            Repair::InStream => self.poll_at <= now,
        }
    }

    /// The frame that was just numbered asks.
    pub(super) fn ask_by_frame(&mut self, ended: bool, now: Timestamp) {
        self.asked_blocks = self.geometry.blocks_within(self.requests.sent_through());
        let window = self.large().map_or(self.config.reply_window, Large::window);
        self.open_round(window, self.members.attentive(), now);
        self.quiet_interval = window + self.config.reply_hold + self.patience();
        self.poll_at =
            now + if ended { self.quiet_interval } else { self.config.poll_interval.max(self.quiet_interval) };
        if self.large().is_some() {
            self.push_plan();
            return;
        }
        self.members.asked();
        // A member may hear the frames and have answered its share of flags; by name it always answers.
        let suspects = self.members.suspects();
        if !suspects.is_empty() {
            self.push_poll(&suspects, self.config.reply_window);
        }
    }

    pub(super) fn ask_by_message(&mut self, now: Timestamp) {
        let waiting = self.members.waiting();
        let reply_window = match self.large() {
            Some(large) => {
                let named = self.members.least_asked(large.named_at_once());
                self.push_poll(&named, large.window());
                self.members.asked_by_name(&named);
                self.open_round(large.window(), BTreeSet::new(), now);
                large.window()
            }
            None => {
                let members = u32::try_from(waiting.len()).unwrap_or(u32::MAX);
                let reply_window = REPLY_WINDOW_PER_MEMBER
                    .saturating_mul(members)
                    .clamp(self.config.reply_window.min(REPLY_WINDOW_MAX), REPLY_WINDOW_MAX);
                self.push_poll(&waiting, reply_window);
                self.members.asked();
                self.open_round(reply_window, self.members.attentive(), now);
                reply_window
            }
        };
        let stalled = self.requests.sent_through() < self.geometry.symbols();
        let interval_max = if stalled { self.config.stall_poll_interval_max } else { self.config.poll_interval_max };
        self.quiet_interval = (self.quiet_interval * 3 / 2).min(interval_max);
        self.poll_at = now + self.quiet_interval.max(reply_window + self.config.reply_hold);
    }

    /// Tells a large session what is going to be sent.
    pub(super) fn push_plan(&mut self) {
        let parity = take_what_fits(&mut self.deficits.plan(), &mut 0);
        self.outputs.push_back(Output::Multicast(Message::Plan { session: self.announcement.session, parity }));
    }

    pub(super) fn push_poll(&mut self, asked: &[ServerId], reply_window: Duration) {
        self.polls = self.polls.saturating_add(1);
        self.recent_polls.push_front((self.polls, self.sequence));
        self.recent_polls.truncate(POLLS_KEPT);
        let roll = match self.large() {
            Some(_) => Roll::Waiting(asked.to_vec()),
            None => Roll::of(self.members.complete().iter(), asked.iter()),
        };
        self.outputs.push_back(Output::Multicast(Message::Poll(Poll {
            session: self.announcement.session,
            poll: self.polls,
            pass: u8::try_from(self.pass).unwrap_or(u8::MAX),
            sent_through: self.requests.sent_through(),
            reply_window_micros: u32::try_from(reply_window.as_micros()).unwrap_or(u32::MAX),
            roll,
        })));
    }

    /// Announces, and again after growing intervals.
    pub(super) fn announce_anew(&mut self, now: Timestamp) {
        self.push_announcement();
        let interval = self.config.announce_interval;
        self.announce = Some((now + interval + self.patience(), interval));
    }

    pub(super) fn push_announcement(&mut self) {
        self.outputs.push_back(Output::Multicast(Message::Announce {
            session: self.announcement.session,
            ticket: self.announcement.ticket.clone(),
            table_bytes: self.announcement.table_bytes,
            layout: self.geometry.layout(self.members.count()),
            epoch: self.announcement.epoch,
            grants: self.announcement.grants.clone(),
        }));
    }
}
