//! Objects for members that do not hear multicast: what the leader offers them, and what a member does
//! with an offer.

use std::net::SocketAddr;

use common::control::{Source, ToCcm};
use common::credential::Credential;
use common::digest::Digest;
use common::ids::ServerId;
use common::keys::Signed;
use common::ticket::Ticket;
use common::time::Timestamp;
use protocol::direct::{Answer, Message, Output};
use protocol::message::Control;

use super::Agent;
use super::leading::{Leading, Session};

impl Agent {
    pub(super) fn direct(&mut self, sender: &Credential, from: SocketAddr, message: Message, now: Timestamp) {
        match message {
            Message::Offer { ticket, transfer_port } => {
                let mut transfer = from;
                transfer.set_port(transfer_port);
                self.offered(sender, transfer, &ticket);
            }
            Message::Answer { object, answer } => {
                let active = self.leading.as_mut().and_then(|leading| leading.active.get_mut(&object));
                if let Some(active) = active {
                    active.offers.handle_answer(sender.server, &answer, now);
                }
            }
        }
    }

    /// The leader has an object for this server, which it is to fetch.
    fn offered(&mut self, sender: &Credential, transfer: SocketAddr, ticket: &Signed<Ticket>) {
        let leads = self.part.leader().is_some_and(|(leader, _)| leader == sender.server);
        let Some(ticket) = self.believed(sender, ticket).filter(|_| leads) else { return };
        let (leader, object) = (sender.server, ticket.object);
        if self.handled.contains_key(&ticket.assignment) || self.objects.contains(object) {
            self.apply(ticket);
            return self.answer(leader, object, Answer::Holds);
        }
        if let Some(decline) = self.obstacle(&ticket) {
            self.answer(leader, object, Answer::Declines(decline.to_string()));
            return self.refuse(&ticket, &decline);
        }
        // A session that does not reach this server is not waited for.
        self.receptions.abandon(object, self.clock.now());
        self.offered.insert(object, leader);
        self.answer(leader, object, Answer::Fetches);
        if self.fetching.insert(object) {
            self.fetch(ticket, Source { server: Some(leader), address: transfer });
        }
    }

    fn answer(&mut self, leader: ServerId, object: Digest, answer: Answer) {
        self.unicast(leader, &Control::Direct(Message::Answer { object, answer }));
    }

    /// An object was fetched; who offered it hears that it is here. Of a fetch that failed it hears nothing,
    /// and offers it again.
    pub(super) fn offered_is_here(&mut self, object: Digest, is_here: bool) {
        if let Some(leader) = self.offered.remove(&object)
            && is_here
        {
            self.answer(leader, object, Answer::Holds);
        }
    }

    /// At the leader: this member gets by unicast what sessions were bringing it.
    pub(super) fn leave_sessions(&mut self, server: ServerId) {
        let now = self.clock.now();
        let Some(leading) = &mut self.leading else { return };
        for active in leading.active.values_mut() {
            if let Some(Session { distribution, .. }) = &mut active.session {
                distribution.gone(server, now);
            }
        }
    }

    pub(super) fn pump_offers(&mut self) -> bool {
        let mut any = false;
        while let Some((object, output)) = self.leading.as_mut().and_then(Leading::offer_output) {
            any = true;
            let Some(active) = self.leading.as_mut().and_then(|leading| leading.active.get_mut(&object)) else {
                continue;
            };
            match output {
                Output::Offer(server) => {
                    let (ticket, transfer_port) = (active.signed.clone(), self.transfer_address.port());
                    self.unicast(server, &Control::Direct(Message::Offer { ticket, transfer_port }));
                }
                Output::Served(server) => {
                    active.audience.served(server);
                    self.say_offers(object);
                }
                Output::Declined(server, reason) => {
                    tracing::info!(%server, reason, "a member does not take an object");
                    active.audience.failed(server);
                    self.say_offers(object);
                }
            }
        }
        any
    }

    /// Where no session tells the content control manager how far an object is, this does.
    fn say_offers(&mut self, object: Digest) {
        let Some(leading) = &mut self.leading else { return };
        let Some(active) = leading.active.get(&object).filter(|active| active.session.is_none()) else { return };
        let mut stats = active.stats.clone();
        for server in active.offers.served() {
            stats.failed.retain(|failed| failed != server);
            if !stats.complete.contains(server) {
                stats.complete.push(*server);
            }
        }
        let (assignment, finished) = (active.ticket.assignment, active.offers.is_idle());
        leading.say(ToCcm::Session { assignment, stats, finished });
    }
}
