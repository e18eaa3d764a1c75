//! The sending side: a leader's distribution without the leader.

use std::fs::File;
use std::io::{BufRead as _, Write as _};
use std::sync::Arc;

use common::digest::Digest;
use common::ids::{AssignmentNumber, RunNumber, ServerId};
use common::keys::Signed;
use common::ticket::Ticket;
use common::time::{Timestamp, WallTime};
use group_leader::distribute::{Distribution, Next, is_for_leader};
use lan_channel::frames::FrameKey;
use lan_channel::secrets::{SessionName, SessionSecret};
use protocol::session::rate::RateConfig;
use protocol::session::{Announcement, Geometry, Message, SYMBOL_BYTES, SenderConfig, SenderOutput};
use serde_json::json;
use transfer::store::ObjectStore;

use crate::party::{CastError, Channel, Clock, EPOCH, LEADER, Party, number, server, wall_time};
use crate::{SendArguments, most_memory, say, unicast};

/// How long a ticket is good.
const TICKET_MILLIS: u64 = 3_600_000;

/// An object to be sent.
struct Object {
    file: File,
    digest: Digest,
    length: u64,
}

impl Object {
    fn of(arguments: &SendArguments) -> std::io::Result<Self> {
        let file = match &arguments.file {
            Some(path) => File::open(path)?,
            None => {
                let mut file = tempfile::tempfile()?;
                let bytes: Vec<u8> = std::iter::repeat_with(rand::random).take(arguments.bytes).collect();
                file.write_all(&bytes)?;
                file
            }
        };
        let length = file.metadata()?.len();
        let mut hasher = blake3::Hasher::new();
        std::io::copy(&mut Whole(&file, 0), &mut hasher)?;
        Ok(Self { digest: hasher.finalize().into(), length, file })
    }
}

/// Reads a file from its beginning, wherever its own position is.
struct Whole<'a>(&'a File, u64);

impl std::io::Read for Whole<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = std::os::unix::fs::FileExt::read_at(self.0, buffer, self.1)?;
        self.1 += read as u64;
        Ok(read)
    }
}

/// Sends all objects, each after a line of standard input.
pub(crate) async fn run(arguments: &SendArguments) -> Result<(), CastError> {
    let system = |what| move |source| CastError::System { what, source };
    let mut party = Party::join(&arguments.party, LEADER)?;
    let clock = Clock::start();
    let first_session: u32 = rand::random::<u32>() >> 1;
    let identities = arguments.party.identities.as_deref();
    let mut store = None;
    if let Some(directory) = identities {
        unicast::make_identities(directory, arguments.members)?;
        let served = Arc::new(ObjectStore::open(directory.join("objects"))?);
        party.transfer_port = unicast::serve_objects(directory, party.channels.own(0), served.clone()).await?;
        store = Some(served);
    }
    for count in 0..arguments.sessions {
        let object = Object::of(arguments).map_err(system("reading the object"))?;
        if let (Some(store), Some(directory)) = (&store, identities) {
            let copy = directory.join("copy");
            File::create(&copy)
                .and_then(|mut copy| std::io::copy(&mut Whole(&object.file, 0), &mut copy))
                .map_err(system("copying the object"))?;
            store.put_file(&copy, object.digest)?;
        }
        say(&json!({ "event": "ready", "object": object.digest.to_string(), "bytes": object.length }));
        let line = tokio::task::spawn_blocking(|| std::io::stdin().lock().read_line(&mut String::new())).await;
        if matches!(line, Ok(Ok(0)) | Err(_)) {
            return Ok(());
        }
        session(&mut party, clock, arguments, object, first_session + count).await?;
    }
    if identities.is_some() {
        let rest = tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink()));
        // However it ends, it ends.
        rest.await.ok();
    }
    Ok(())
}

async fn session(
    party: &mut Party,
    clock: Clock,
    arguments: &SendArguments,
    object: Object,
    session: u32,
) -> Result<(), CastError> {
    let members: Vec<ServerId> = (1..=arguments.members).map(server).collect();
    let ticket = Ticket {
        cluster: party.cluster,
        site: "bench".parse().expect("a good name"),
        assignment: AssignmentNumber(u64::from(session)),
        run: RunNumber(1),
        object: object.digest,
        length: object.length,
        chunk_bytes: transfer::chunk::chunk_bytes_for(object.length),
        targets: members.clone(),
        expires: WallTime(wall_time().0 + TICKET_MILLIS),
        channel: None,
    };
    // The CCM has signed before a session begins.
    let signed = Signed::sign(&ticket, &party.publish_key);
    let geometry = Geometry::new(object.length, SYMBOL_BYTES)?;
    let config = match arguments.rate_bytes_per_sec {
        Some(rate_bytes_per_sec) => SenderConfig {
            rate: RateConfig { rate_bytes_per_sec, adaptive: false, ..RateConfig::default() },
            ..SenderConfig::default()
        },
        None => SenderConfig::default(),
    };
    let started_at = clock.now();
    let name = SessionName { session, leader: party.id, epoch: EPOCH };
    let secret = SessionSecret(rand::random());
    let announcement = Announcement {
        session,
        epoch: EPOCH,
        key_id: 0,
        ticket: signed,
        table_bytes: 0,
        grants: party.grants(&ticket, name, secret),
    };
    let key = FrameKey::derive(&party.segment_key, secret, name);
    let mut distribution = Distribution::start(config, announcement, geometry, object.file, key, &members, started_at);
    let mut seen = Vec::new();
    loop {
        pump(&mut distribution, party, &mut seen, started_at, clock);
        let next = distribution.send_frames(clock.now(), &party.channels.data_send);
        pump(&mut distribution, party, &mut seen, started_at, clock);
        if distribution.is_finished() {
            return Ok(());
        }
        let wait = async {
            match next {
                Next::Soon => tokio::task::yield_now().await,
                Next::WhenDue | Next::WhenWritable => clock.sleep_until(distribution.poll_timeout()).await,
            }
        };
        tokio::select! {
            _ = party.channels.control_unicast.readable() => {}
            _ = party.channels.data_send.writable(), if next == Next::WhenWritable => {}
            () = wait => {}
        }
        while let Some((from, _, message)) = party.hear(Channel::Unicast) {
            if is_for_leader(&message) && message.session() == session {
                heard(&mut distribution, from, &message, clock.now());
            }
        }
        distribution.timeout(clock.now());
    }
}

fn heard(distribution: &mut Distribution, from: ServerId, message: &Message, now: Timestamp) {
    if let Message::Status(status) = message {
        distribution.status(from, status, now);
    } else if let Message::Decline { .. } = message {
        distribution.decline(from, now);
    }
}

/// Does what is to be done. What became of the members is kept in `seen` until the session is over: who is told
/// of it meanwhile takes the time of those who are measured.
fn pump(
    distribution: &mut Distribution,
    party: &mut Party,
    seen: &mut Vec<serde_json::Value>,
    started_at: Timestamp,
    clock: Clock,
) {
    while let Some(output) = distribution.poll_output() {
        let micros = || u64::try_from(clock.now().since(started_at).as_micros()).unwrap_or(u64::MAX);
        match output {
            SenderOutput::Multicast(message) => party.say(None, message),
            SenderOutput::MemberComplete(server) => {
                seen.push(json!({ "event": "complete", "member": number(server), "micros": micros() }));
            }
            SenderOutput::MemberFailed(server, failure) => seen.push(
                json!({ "event": "failed", "member": number(server), "micros": micros(), "why": failure.to_string() }),
            ),
            SenderOutput::Finished(stats) => {
                seen.push(json!({
                    "event": "finished", "micros": micros(), "sent_bytes": stats.sent_bytes, "passes": stats.passes,
                    "repaired_symbols": stats.repaired_symbols, "object_bytes": stats.object_bytes,
                    "memory_bytes": most_memory(),
                }));
                seen.drain(..).for_each(|event| say(&event));
            }
        }
    }
}
