//! How what this server says reaches the others: by multicast, by copies, or to one; and where they are.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use common::errors::chain;
use common::fleet::MemberInfo;
use common::ids::ServerId;
use common::time::Timestamp;
use protocol::jumbo;
use protocol::message::Control;
use protocol::reach::{Output, Transport};
use rustls::ClientConfig;

use lan_channel::data::FrameSink as _;
use lan_channel::envelope::To;

use super::{Agent, Event};
use crate::peers::Peer;
use crate::roster;

/// Addresses are written down so often at most.
const KEEP_INTERVAL: Duration = Duration::from_secs(1);

/// What is known of the conversation with the content control manager about addresses.
pub(super) struct Roster {
    tls: Arc<ClientConfig>,
    asked_at: Option<Timestamp>,
    is_asking: bool,
    /// When to keep what is new next.
    keep_at: Timestamp,
}

impl Roster {
    pub(super) fn new(tls: Arc<ClientConfig>) -> Self {
        Self { tls, asked_at: None, is_asking: false, keep_at: Timestamp::ZERO }
    }
}

impl Agent {
    /// Sends to the whole segment, each server by the way in which it hears.
    pub(super) fn say_to_all(&mut self, message: &Control) {
        let datagram = self.seal(None, message);
        if self.reach.transport() != Transport::Unicast {
            self.put(&datagram, self.control_channel);
        }
        let now = self.clock.now();
        let targets = self.peers.targets();
        for (server, address) in &targets {
            if self.reach.needs_copy(*server, *address, targets.len(), now) {
                self.put(&datagram, *address);
            }
        }
    }

    /// Sends to those who hear multicast, and to nobody else.
    pub(super) fn multicast(&mut self, message: &Control) {
        if self.reach.transport() != Transport::Unicast {
            let datagram = self.seal(None, message);
            self.put(&datagram, self.control_channel);
        }
    }

    /// Sends to all who are on a control channel: the segment's, or another.
    pub(super) fn say_on(&mut self, channel: SocketAddr, message: &Control) {
        if channel == self.control_channel {
            self.say_to_all(message);
        } else if self.reach.transport() != Transport::Unicast {
            // Who does not hear what is multicast is told on the segment's own.
            let datagram = self.seal(None, message);
            self.put(&datagram, channel);
        }
    }

    /// Sends to one server. One whose address is not known may hear it by multicast.
    pub(super) fn unicast(&mut self, server: ServerId, message: &Control) {
        let group = self.control_channel;
        let to = match (self.peers.address_of(server), self.reach.transport()) {
            (Some(address), _) => address,
            (None, Transport::Auto | Transport::Multicast) => group,
            (None, Transport::Unicast) => return tracing::debug!(%server, "nobody has said where a server is"),
        };
        let datagram = self.seal(Some(server), message);
        self.put(&datagram, to);
    }

    fn seal(&mut self, receiver: Option<ServerId>, message: &Control) -> Vec<u8> {
        let body = postcard::to_stdvec(message).expect("messages are plain data");
        let Self { sealer, opener, pairs, .. } = self;
        let to = receiver.map_or(To::Segment, |server| {
            let pair = opener.key_of(server).and_then(|key| pairs.with(key));
            pair.map_or(To::Stranger(server), |pair| To::Peer(server, pair))
        });
        sealer.seal(to, &body)
    }

    fn put(&self, datagram: &[u8], to: SocketAddr) {
        if let Err(error) = self.channels.control_unicast.try_send_to(datagram, to) {
            // Like a datagram that is lost on the way: every protocol here repeats what matters.
            tracing::debug!(%error, %to, "a control datagram was not sent");
        }
    }

    pub(super) fn pump_reach(&mut self) -> bool {
        let mut any = false;
        while let Some(output) = self.reach.poll_output() {
            any = true;
            match output {
                Output::Multicast(message) => self.multicast(&Control::Reach(message)),
                Output::Send { to, message } => self.unicast(to, &Control::Reach(message)),
                Output::Deaf(server) => {
                    tracing::warn!(%server, "a member does not hear what is multicast: it is served by unicast; see `pressrun doctor`");
                    self.leave_sessions(server);
                    self.probe_long_packets(&self.part.members());
                }
                Output::Hears(server) => {
                    tracing::debug!(%server, "a member hears what is multicast");
                    self.probe_long_packets(&self.part.members());
                }
            }
        }
        any
    }

    /// At the leader: whose packets may be long.
    pub(super) fn probe_long_packets(&mut self, members: &[MemberInfo]) {
        let own = self.identity.server;
        let hears = |member: &&MemberInfo| member.server != own && !self.reach.is_served_by_unicast(member.server);
        let mtus = members.iter().filter(hears).map(|member| (member.server, member.mtu));
        self.jumbo.members(self.channels.attachment.mtu(), mtus, self.clock.now());
    }

    pub(super) fn pump_jumbo(&mut self) -> bool {
        let mut any = false;
        while let Some(output) = self.jumbo.poll_output() {
            any = true;
            match output {
                jumbo::Output::Probe { symbol_bytes } => self.probe(symbol_bytes),
                jumbo::Output::Send { to, message } => self.unicast(to, &Control::Jumbo(message)),
                jumbo::Output::Pass { symbol_bytes } => {
                    tracing::info!(symbol_bytes, "long packets reach all members, and sessions have them");
                }
                jumbo::Output::Stuck { members } => {
                    let members: Vec<String> = members.iter().map(ServerId::to_string).collect();
                    tracing::warn!(
                        members = members.join(" "),
                        "interfaces take long packets, and these members get none: something between does not carry them"
                    );
                }
            }
        }
        any
    }

    /// Multicasts a datagram as long as a frame with symbols of that length, in one packet.
    fn probe(&mut self, symbol_bytes: u16) {
        let probe = |padding| Control::Jumbo(jumbo::Message::Probe { symbol_bytes, padding: vec![0; padding] });
        let unpadded_bytes = self.seal(None, &probe(0)).len();
        let datagram = self.seal(None, &probe(jumbo::padding_bytes(symbol_bytes, unpadded_bytes)));
        self.channels.data_send.to(self.control_channel).offer(&datagram, datagram.len());
    }

    /// When to ask the content control manager for addresses again; `None` while it is being asked.
    pub(super) fn roster_at(&self) -> Option<Timestamp> {
        if self.roster.is_asking {
            return None;
        }
        let Some(asked_at) = self.roster.asked_at else { return Some(Timestamp::ZERO) };
        let is_alone = match self.part.leader() {
            None => true,
            Some((leader, _)) => leader == self.identity.server && self.part.members().len() < 2,
        };
        let interval = if self.reach.is_whole(self.clock.now()) {
            roster::INTERVAL_AT_REST
        } else if is_alone {
            roster::INTERVAL_ALONE
        } else {
            roster::INTERVAL
        };
        Some(asked_at + interval)
    }

    pub(super) fn ask_for_roster(&mut self, now: Timestamp) {
        if self.roster_at().is_none_or(|at| at > now) {
            return;
        }
        self.roster.asked_at = Some(now);
        self.roster.is_asking = true;
        let (url, tls, events) = (self.identity.ccm.clone(), self.roster.tls.clone(), self.events.clone());
        let own = self.own_address;
        tokio::spawn(async move {
            let result = roster::exchange(&url, tls, own).await.map_err(|error| chain(&error));
            // Fails only when the agent has stopped.
            events.send(Event::Roster(result)).await.ok();
        });
    }

    pub(super) fn roster(&mut self, result: Result<Vec<Peer>, String>) {
        self.roster.is_asking = false;
        match result {
            Ok(peers) => {
                self.peers.learn(&peers);
                self.keep_peers(self.clock.now());
            }
            Err(error) => {
                tracing::debug!(error, "the content control manager does not say where the other servers are");
            }
        }
    }

    /// Not after each that is heard: in a large segment many are at one moment.
    pub(super) fn keep_peers(&mut self, now: Timestamp) {
        if now < self.roster.keep_at {
            return;
        }
        self.roster.keep_at = now + KEEP_INTERVAL;
        if let Err(error) = self.peers.save(&self.config.data) {
            tracing::warn!(error = chain(&error), "the addresses of other servers cannot be kept");
        }
    }
}
