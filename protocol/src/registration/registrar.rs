//! The leader's side of the registration.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use common::fleet::MemberInfo;
use common::ids::{ServerId, ServerName};
use common::time::Timestamp;

use super::parts::{self, Assembly};
use super::{
    Config, Destination, Event, InfoError, MEMBER_INFO_BYTES_MAX, MEMBERS_MAX, Message, Output, Rejected, Roster,
    digest, encode,
};

/// Members in one part of the list: 16 bytes of identity and at most 5 of digest each.
const ROSTER_PART_MEMBERS: usize = 48;
/// How often the list is said after a change before it is said at its regular interval only.
const ROSTER_SAYINGS: u8 = 3;

#[derive(Debug)]
struct Registered {
    revision: u64,
    digest: u32,
    info: MemberInfo,
    heard_at: Timestamp,
}

/// A registration in parts that is not complete.
#[derive(Debug)]
struct Arriving {
    revision: u64,
    since: Timestamp,
    assembly: Assembly,
}

/// The collector of registrations; exists while its server leads. Feed with `handle_*`, then drain
/// [`Registrar::poll_output`] until `None`, then sleep until [`Registrar::poll_timeout`].
#[derive(Debug)]
pub struct Registrar {
    server: ServerId,
    epoch: u64,
    config: Config,
    /// Only these are taken, when the administrator says who the members are.
    roster: Option<BTreeSet<ServerName>>,
    members: BTreeMap<ServerId, Registered>,
    arriving: BTreeMap<ServerId, Arriving>,
    /// Who left, with its last revision, until when: older registrations may still be on their way.
    left: BTreeMap<ServerId, (u64, Timestamp)>,
    /// When to look for silent members.
    check_at: Timestamp,
    /// When to say the list, its latest time, and how often it was said since the last change.
    roster_at: Timestamp,
    roster_latest: Option<Timestamp>,
    roster_said: u8,
    changed_at: Option<Timestamp>,
    changed_last: Option<Timestamp>,
    full_reported: Option<ServerId>,
    outputs: VecDeque<Output>,
}

impl Registrar {
    /// A new leader, its own first member. Asks all others to register.
    ///
    /// # Errors
    /// [`InfoError`] when its own description is too large.
    pub fn new(own: MemberInfo, epoch: u64, config: Config, now: Timestamp) -> Result<Self, InfoError> {
        let mut registrar = Self {
            server: own.server,
            epoch,
            check_at: now,
            roster_at: now,
            config,
            roster: None,
            members: BTreeMap::new(),
            arriving: BTreeMap::new(),
            left: BTreeMap::new(),
            roster_latest: None,
            roster_said: 0,
            changed_at: None,
            changed_last: None,
            full_reported: None,
            outputs: VecDeque::new(),
        };
        registrar.update_own(own, now)?;
        registrar.request(Destination::Segment);
        Ok(registrar)
    }

    /// Takes these servers only: a roster that the administrator fixed.
    pub fn set_roster(&mut self, roster: BTreeSet<ServerName>) {
        self.roster = Some(roster);
    }

    /// The election gave this leader a higher epoch: all register again.
    pub fn renew(&mut self, epoch: u64, now: Timestamp) {
        self.epoch = epoch;
        self.request(Destination::Segment);
        self.plan_roster(now);
    }

    /// What the leader says about itself.
    ///
    /// # Errors
    /// [`InfoError`] when the description is too large; the previous one stands.
    pub fn update_own(&mut self, own: MemberInfo, now: Timestamp) -> Result<(), InfoError> {
        let digest = digest(&encode(&own)?);
        if self.members.get(&self.server).is_none_or(|known| known.digest != digest) {
            self.members.insert(self.server, Registered { revision: 0, digest, info: own, heard_at: now });
            self.changed(now);
        }
        Ok(())
    }

    /// All members that are alive, the leader included, in ascending order.
    #[must_use]
    pub fn members(&self) -> Vec<MemberInfo> {
        self.members.values().map(|member| member.info.clone()).collect()
    }

    /// How many they are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.members.len()
    }

    /// Any authenticated packet of a server: it is alive.
    pub fn heard_from(&mut self, server: ServerId, now: Timestamp) {
        if let Some(member) = self.members.get_mut(&server) {
            member.heard_at = now;
        }
    }

    /// A message from a server whose identity is proven.
    ///
    /// # Errors
    /// [`Rejected`] when it makes no sense. Nothing but the sender's own entry can be concerned.
    pub fn handle_message(&mut self, from: ServerId, message: &Message, now: Timestamp) -> Result<(), Rejected> {
        if from == self.server {
            return Ok(()); // Our own, come back by multicast.
        }
        self.heard_from(from, now);
        match message {
            Message::Register { revision, part, parts, bytes } => {
                self.on_register(from, *revision, (*part, *parts), bytes, now)?;
            }
            Message::KeepAlive { digest } => {
                if self.members.get(&from).is_none_or(|member| member.digest != *digest) {
                    self.request(Destination::Server(from));
                }
            }
            Message::Leave { revision } => {
                self.arriving.remove(&from);
                if self.members.get(&from).is_some_and(|member| member.revision <= *revision) {
                    self.members.remove(&from);
                    self.left.insert(from, (*revision, now + self.config.silence_max));
                    self.changed(now);
                }
            }
            // What leaders say; the election settles who is one.
            Message::Request { .. } | Message::Registered { .. } | Message::Roster(_) | Message::Probe { .. } => (),
        }
        self.handle_timeout(now);
        Ok(())
    }

    /// Does what is due. Harmless when called early.
    pub fn handle_timeout(&mut self, now: Timestamp) {
        if self.check_at <= now {
            self.drop_silent(now);
        }
        if self.changed_at.is_some_and(|at| at <= now) {
            self.changed_at = None;
            self.changed_last = Some(now);
            self.outputs.push_back(Output::Event(Event::Changed(self.members())));
        }
        if self.roster_at <= now {
            self.say_roster(now);
        }
    }

    /// When [`Registrar::handle_timeout`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        let next = self.check_at.min(self.roster_at);
        Some(self.changed_at.map_or(next, |at| at.min(next)))
    }

    /// The next thing to carry out.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn on_register(
        &mut self,
        from: ServerId,
        revision: u64,
        (part, parts): (u16, u16),
        bytes: &[u8],
        now: Timestamp,
    ) -> Result<(), Rejected> {
        if !parts::plausible(part, parts, bytes.len(), MEMBER_INFO_BYTES_MAX / parts::PART_BYTES) {
            return Err(Rejected::BadParts { from });
        }
        let held = self.members.get(&from).map(|member| (member.revision, member.digest));
        let left = self.left.get(&from).map(|(revision, _)| (*revision, 0));
        if let Some((held, digest)) = held.or(left)
            && held >= revision
        {
            // A repetition, or older than what is known: say what is known, once for all parts.
            if part + 1 == parts {
                let message = Message::Registered { epoch: self.epoch, revision: held, digest };
                self.outputs.push_back(Output::Send { to: Destination::Server(from), message });
            }
            return Ok(());
        }
        if held.is_none()
            && self.members.len() + self.arriving.len() >= MEMBERS_MAX
            && !self.arriving.contains_key(&from)
        {
            if self.full_reported != Some(from) {
                self.full_reported = Some(from);
                self.outputs.push_back(Output::Event(Event::SegmentFull { server: from }));
            }
            return Ok(());
        }
        let arriving = self.arriving.get(&from);
        if arriving.is_some_and(|arriving| arriving.revision > revision) {
            return Ok(());
        }
        if arriving.is_none_or(|arriving| arriving.revision < revision) {
            self.arriving.insert(from, Arriving { revision, since: now, assembly: Assembly::new(parts) });
        }
        let Some(arriving) = self.arriving.get_mut(&from) else { return Ok(()) };
        let Some(whole) = arriving.assembly.add(part, parts, bytes) else { return Ok(()) };
        self.arriving.remove(&from);
        let info: MemberInfo = parts::decoded(&whole).ok_or(Rejected::Unreadable { from })?;
        if info.server != from {
            return Err(Rejected::NotTheSender { from, named: info.server });
        }
        if self.roster.as_ref().is_some_and(|roster| !roster.contains(&info.name)) {
            return Err(Rejected::NotOnRoster { from });
        }
        let digest = digest(&whole);
        self.left.remove(&from);
        let before = self.members.insert(from, Registered { revision, digest, info, heard_at: now });
        if before.is_none_or(|before| before.digest != digest) {
            self.changed(now);
        } else {
            self.plan_roster(now);
        }
        Ok(())
    }

    fn request(&mut self, to: Destination) {
        self.outputs.push_back(Output::Send { to, message: Message::Request { epoch: self.epoch } });
    }

    /// The first change is told at once; those that follow closely are told together.
    fn changed(&mut self, now: Timestamp) {
        let earliest = self.changed_last.map_or(now, |last| last + self.config.changed_gap);
        self.changed_at.get_or_insert(earliest.max(now));
        self.plan_roster(now);
        self.handle_timeout(now);
    }

    fn plan_roster(&mut self, now: Timestamp) {
        let latest = *self.roster_latest.get_or_insert(now + self.config.roster_delay_max);
        self.roster_at = latest.min(now + self.config.roster_quiet);
        self.roster_said = 0;
    }

    fn say_roster(&mut self, now: Timestamp) {
        self.roster_latest = None;
        self.roster_said = self.roster_said.saturating_add(1);
        let wait: Duration =
            if self.roster_said < ROSTER_SAYINGS { self.config.roster_quiet * 4 } else { self.config.roster_interval };
        self.roster_at = now + wait;
        let total = u32::try_from(self.members.len()).unwrap_or(u32::MAX);
        let listed: Vec<_> = self.members.iter().map(|(server, member)| (*server, member.digest)).collect();
        let mut after = None;
        let mut rest = listed.as_slice();
        loop {
            let (part, others) = rest.split_at(rest.len().min(ROSTER_PART_MEMBERS));
            let until = if others.is_empty() { None } else { part.last().map(|(server, _)| *server) };
            let roster = Roster { epoch: self.epoch, total, after, until, members: part.to_vec() };
            self.outputs.push_back(Output::Send { to: Destination::Segment, message: Message::Roster(roster) });
            if until.is_none() {
                return;
            }
            (after, rest) = (until, others);
        }
    }

    fn drop_silent(&mut self, now: Timestamp) {
        let silence_max = self.config.silence_max;
        let own = self.server;
        let before = self.members.len();
        self.members.retain(|server, member| *server == own || member.heard_at + silence_max > now);
        self.left.retain(|_, (_, until)| *until > now);
        // What is not complete after so many repetitions belongs to a server that is gone.
        self.arriving.retain(|_, arriving| arriving.since + silence_max * 4 > now);
        // Before a server counts as gone it is asked, some times: a few lost signs of life in a row are
        // nothing unusual in a busy network.
        let (probe_after, probe_again) = (self.config.keep_alive * 9 / 4, self.config.keep_alive / 4);
        let mut next = now + probe_after;
        for (server, member) in self.members.iter().filter(|(server, _)| **server != own) {
            let probe_at = member.heard_at + probe_after;
            if probe_at > now {
                next = next.min(probe_at);
            } else {
                next = next.min(now + probe_again).min(member.heard_at + silence_max);
                let message = Message::Probe { epoch: self.epoch };
                self.outputs.push_back(Output::Send { to: Destination::Server(*server), message });
            }
        }
        self.check_at = next;
        if self.members.len() != before {
            self.changed(now);
        }
    }
}
