//! The receiving side: a member without an agent.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use backend_agent::receive::{Announced, Event, Receptions};
use common::digest::Digest;
use common::ids::ServerId;
use common::ticket::Ticket;
use lan_channel::data::FrameBatch;
use lan_channel::doorbell::Doze;
use lan_channel::secrets::SessionName;
use protocol::session::Message;
use serde_json::json;
use tokio::sync::mpsc;
use transfer::store::ObjectStore;

use crate::party::{CastError, Channel, Clock, LEADER, Party, Place, server, wall_time};
use crate::{ReceiveArguments, most_memory, say, unicast};

/// Frames that are taken before anything else is looked after, as an agent does it.
const FRAMES_PER_DRAIN: usize = 16_384;

struct Member {
    party: Party,
    clock: Clock,
    receptions: Receptions,
    batch: FrameBatch,
    doze: Doze,
    objects: Arc<ObjectStore>,
    stored: mpsc::UnboundedSender<Stored>,
    leaders: BTreeMap<ServerId, Place>,
    number: u16,
    identities: Option<PathBuf>,
    /// Whether the last object was what it should be.
    verified: bool,
    /// The last object, if it is to be removed when its session is over.
    to_be_forgotten: Option<Digest>,
    forget: bool,
    frames: usize,
    calls: usize,
}

struct Stored {
    session: u32,
    result: Result<(), String>,
}

/// Receives until the process is stopped.
pub(crate) async fn run(arguments: &ReceiveArguments) -> Result<(), CastError> {
    let system = |what| move |source| CastError::System { what, source };
    let party = Party::join(&arguments.party, arguments.number)?;
    std::fs::create_dir_all(&arguments.directory).map_err(system("making the directory"))?;
    let receptions = Receptions::new(&arguments.directory.join("spool"), party.id, party.segment_key)
        .map_err(system("preparing the spool"))?;
    let objects = Arc::new(ObjectStore::open(arguments.directory.join("objects"))?);
    let (stored, mut inbox) = mpsc::unbounded_channel();
    let mut member = Member {
        party,
        clock: Clock::start(),
        receptions,
        batch: FrameBatch::default(),
        doze: Doze::default(),
        objects,
        stored,
        leaders: BTreeMap::new(),
        number: arguments.number,
        identities: arguments.party.identities.clone(),
        verified: false,
        to_be_forgotten: None,
        forget: arguments.forget,
        frames: 0,
        calls: 0,
    };
    say(&json!({ "event": "ready", "buffer_bytes": member.party.channels.data_buffer_bytes }));
    loop {
        member.pump();
        let timeout = member.receptions.poll_timeout();
        let data = async {
            match member.doze.until() {
                Some(at) => member.clock.sleep_until(Some(at)).await,
                None => drop(member.party.channels.data_receive.readable().await),
            }
        };
        tokio::select! {
            Some(stored) = inbox.recv() => member.stored(&stored),
            _ = member.party.channels.control_multicast.readable() => member.control(Channel::Multicast),
            _ = member.party.channels.control_unicast.readable() => member.control(Channel::Unicast),
            () = data => {}
            () = member.clock.sleep_until(timeout) => {}
        }
        member.drain_data();
        let now = member.clock.now();
        if member.receptions.poll_timeout().is_some_and(|at| at <= now) {
            member.receptions.timeout(now);
        }
    }
}

impl Member {
    fn drain_data(&mut self) {
        let before = self.frames;
        // What comes faster than it can be taken keeps neither the control channel nor answers waiting.
        while self.frames - before < FRAMES_PER_DRAIN {
            let now = self.clock.now();
            let Self { party, batch, receptions, .. } = self;
            let taken = party.channels.data_receive.take(batch, |frame| receptions.frame(frame, now));
            if taken == 0 {
                break;
            }
            self.frames += taken;
            self.calls += 1;
            receptions.settle(now);
            if receptions.poll_timeout().is_some_and(|at| at <= now) {
                receptions.timeout(now);
            }
            self.pump();
        }
        self.doze.took(self.frames - before, self.clock.now());
    }

    fn control(&mut self, channel: Channel) {
        while let Some((from, place, message)) = self.party.hear(channel) {
            // What was sent before a message is heard before it.
            self.drain_data();
            self.leaders.insert(from, place);
            let now = self.clock.now();
            match &message {
                // Only who leads distributes.
                Message::Announce { .. } if from != server(LEADER) => {}
                Message::Announce { session, ticket, table_bytes, layout, epoch, grants }
                    if !self.receptions.knows(*session) =>
                {
                    let Ok(ticket) = ticket.verify(&self.party.publish_keys) else { continue };
                    let is_good = ticket.cluster == self.party.cluster && ticket.expires >= wall_time();
                    if !is_good || ticket.targets.binary_search(&self.party.id).is_err() {
                        continue;
                    }
                    let name = SessionName { session: *session, leader: from, epoch: *epoch };
                    let Some(secret) = self.party.secret(grants, &ticket, name) else { continue };
                    let here = self.objects.contains(ticket.object);
                    let announced = Announced {
                        session: *session,
                        ticket,
                        layout: *layout,
                        table_bytes: *table_bytes,
                        leader: from,
                        epoch: *epoch,
                        secret,
                    };
                    self.verified = false;
                    if let Err(error) = self.receptions.begin(announced, here, rand::random(), now) {
                        let reason = error.to_string();
                        self.party.say(Some((from, place.control)), Message::Decline { session: *session, reason });
                    }
                }
                Message::Announce { .. }
                | Message::Poll(_)
                | Message::Close { .. }
                | Message::Plan { .. }
                | Message::Status(_)
                | Message::Overflow { .. }
                | Message::Decline { .. } => self.receptions.message(from, &message, now),
            }
            self.pump();
            // Others cannot end it.
            if matches!(message, Message::Close { .. }) && from == server(LEADER) {
                self.report();
                if let Some(object) = self.to_be_forgotten.take()
                    && let Err(error) = self.objects.remove(object)
                {
                    say(&json!({ "event": "not forgotten", "why": error.to_string() }));
                }
            }
        }
    }

    fn pump(&mut self) {
        while let Some(event) = self.receptions.poll_event() {
            match event {
                Event::Say { leader, message } => {
                    let to = self.leaders.get(&leader).map(|place| (leader, place.control));
                    self.party.say(to, message);
                }
                Event::Verify { session, ticket, path, mut growth, .. } => {
                    self.to_be_forgotten = Some(ticket.object).filter(|_| self.forget);
                    let (objects, stored) = (self.objects.clone(), self.stored.clone());
                    tokio::task::spawn_blocking(move || {
                        let result = objects.put_file_read_by(&path, ticket.object, &mut growth);
                        if !growth.is_abandoned() {
                            let result = result.map_err(|error| error.to_string());
                            // Fails only when the process ends.
                            stored.send(Stored { session, result }).ok();
                        }
                    });
                }
                Event::Incomplete { ticket, leader } => {
                    say(&json!({ "event": "incomplete", "object": ticket.object.to_string() }));
                    self.fetch(ticket, leader);
                }
            }
        }
    }

    fn fetch(&mut self, ticket: Ticket, leader: ServerId) {
        let (Some(identities), Some(place)) = (self.identities.clone(), self.leaders.get(&leader)) else { return };
        let (number, store, source) = (self.number, self.objects.clone(), (leader, place.transfer));
        let beginning = self.receptions.beginning(ticket.object, self.clock.now());
        tokio::spawn(async move {
            match unicast::fetch(&identities, number, store, source, &ticket, beginning).await {
                Ok(()) => say(&json!({ "event": "fetched" })),
                Err(error) => say(&json!({ "event": "not fetched", "why": format!("{error:?}") })),
            }
        });
    }

    fn stored(&mut self, stored: &Stored) {
        match &stored.result {
            Ok(()) => self.receptions.confirm(stored.session, self.clock.now()),
            Err(reason) => self.receptions.fail(stored.session, reason),
        }
        self.pump();
        self.verified = stored.result.is_ok();
    }

    /// Says what was seen, when the session is over: while others are served it would take their time.
    fn report(&self) {
        let overflows = self.party.channels.data_receive.overflows();
        say(&json!({
            "event": "over", "verified": self.verified, "overflows": overflows,
            "frames": self.frames, "calls": self.calls, "memory_bytes": most_memory(),
        }));
    }
}
