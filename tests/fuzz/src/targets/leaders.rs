//! A leader's whole conversation with the content control manager, through to what the manager believes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use ccm::engine::channels::ChannelRange;
use ccm::engine::delivery::{Delivery, Leader};
use ccm::engine::hub::Hub;
use ccm::engine::{Engine, Parts};
use ccm::ingest::content::ContentStore;
use ccm::store::{ServerRecord, Store};
use ccm::trust::Trust;
use common::control::{SessionStats, ToCcm, ToLeader};
use common::credential::Roles;
use common::digest::Digest;
use common::fleet::SegmentReport;
use common::framing;
use common::ids::{AssignmentNumber, SegmentName, ServerId};
use common::keys::{SecretKey, Signed};
use common::outcome::Report;
use common::time::WallTime;
use planner::policy::WanPolicy;
use pressrun_simulator::server;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use transfer::store::ObjectStore;

use super::segment::{publish_key, ticket};
use super::{Renewed, encoded};
use crate::{Shape, Target};

const NOW: WallTime = WallTime(1_900_000_000_000);
/// Inputs after which a manager begins anew, so that what one input did is not hidden by all before it.
const LIFE: u64 = 512;
const ASSIGNMENT: AssignmentNumber = AssignmentNumber(4);
/// The servers of the leader that speaks, which is the first, and one of another segment.
const OURS: [u16; 2] = [1, 2];
const THEIRS: u16 = 3;
/// Most bytes on their way in one direction.
const PIPE_BYTES: usize = 1 << 20;

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn segment(server: u16) -> SegmentName {
    if server == THEIRS { "s2" } else { "s1" }.parse().expect("good")
}

fn object() -> Digest {
    Digest::of(b"object")
}

fn report(leader: u16, members: &[u16], epoch: u64) -> ToCcm {
    let members = members.iter().map(|number| server::describe(server::id(*number), Roles::default(), epoch)).collect();
    ToCcm::Segment(SegmentReport { segment: segment(leader), epoch, leader: server::id(leader), members })
}

struct Manager {
    _folder: tempfile::TempDir,
    engine: Arc<Engine>,
    hub: Arc<Hub>,
    /// What the leader of the other segment is told.
    told: mpsc::Receiver<ToLeader>,
}

impl Manager {
    /// A manager with an assignment on its way to both segments, of which the other one has a leader.
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a directory");
        let store = Store::in_memory().expect("a database");
        let (trust, _) = Trust::open_or_create(folder.path(), store.clone(), NOW).expect("keys are made");
        for number in OURS.into_iter().chain([THEIRS]) {
            let name = server::describe(server::id(number), Roles::default(), 0).name;
            store.segment_or_create(&segment(number), [3; 32]).expect("it is new");
            let record = ServerRecord {
                id: server::id(number),
                name,
                segment: segment(number),
                roles: Roles { server: true, leader: true },
                control_key: SecretKey::from_bytes(&[2; 32]).public(),
                location: String::new(),
                enrolled: NOW,
                last_seen: None,
                info: None,
            };
            store.enrol(&record).expect("it is new");
        }
        let hub = Arc::new(Hub::default());
        let engine = Engine::new(Parts {
            store,
            trust: Arc::new(trust),
            content: ContentStore::open(&folder.path().join("content")).expect("an empty store"),
            objects: Arc::new(ObjectStore::open(folder.path().join("objects")).expect("an empty store")),
            hub: Arc::clone(&hub),
            directory: folder.path().to_owned(),
            transfer_address: loopback(1),
            channels: ChannelRange::default(),
        });
        let (theirs, told) = hub.connect(Leader { server: server::id(THEIRS), transfer_address: loopback(THEIRS) });
        hub.heard(&segment(THEIRS), theirs, &report(THEIRS, &[THEIRS], 1 << 32));
        Self { _folder: folder, engine: engine.expect("its directories can be made"), hub, told }
    }

    fn deliver(&self) {
        let targets: BTreeMap<SegmentName, BTreeSet<ServerId>> =
            [(segment(1), OURS.map(server::id).into()), (segment(THEIRS), [server::id(THEIRS)].into())].into();
        let ticket = Signed::sign(&ticket(), &publish_key());
        self.hub.deliver(ASSIGNMENT, Delivery::new(ticket, object(), None, targets, WanPolicy::Tree, loopback(1)));
    }
}

fn framed(messages: &[ToCcm]) -> Vec<u8> {
    let mut input = vec![0];
    for message in messages {
        let body = encoded(message);
        input.extend_from_slice(&u16::try_from(body.len()).expect("samples are short").to_le_bytes());
        input.extend_from_slice(&body);
    }
    input
}

fn samples() -> Vec<Vec<u8>> {
    let hello = || ToCcm::Hello { transfer_address: loopback(9), software: "0.1.0".into() };
    let said = |number: u16, outcome: u64| Report {
        server: server::id(number),
        assignment: ASSIGNMENT,
        outcome: server::outcome(outcome),
    };
    let stats = SessionStats { object_bytes: 6, complete: vec![server::id(2)], ..SessionStats::default() };
    let object = object();
    let failed = ToCcm::ForwardFailed { object, to: server::id(THEIRS), reason: "none".into() };
    let source = common::control::Source { server: None, address: loopback(1) };
    vec![
        framed(&[
            hello(),
            report(1, &OURS, 1 << 32),
            ToCcm::Holds { object },
            ToCcm::AskNext { object },
            ToCcm::Session { assignment: ASSIGNMENT, stats, finished: true },
            ToCcm::Reports(vec![said(1, 1), said(2, 3), said(THEIRS, 1)]),
            ToCcm::Ping,
        ]),
        framed(&[
            hello(),
            report(1, &[1, 2, THEIRS], 2 << 32),
            ToCcm::FetchFailed { object, source, reason: "none".into() },
            failed,
            report(1, &[1], 3 << 32),
        ]),
        framed(&[hello(), report(THEIRS, &[THEIRS], 1 << 32)]),
        framed(&[hello(), hello()]),
    ]
}

/// The first byte says whether the rest are messages behind their lengths (`u16`), or the stream as it is.
pub(super) fn leader() -> Target {
    let mut managers = Renewed::every(LIFE, Manager::start);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    Target {
        name: "leader",
        what: "a leader's conversation with the content control manager, and what that believes",
        bytes_max: 8 << 10,
        samples: samples(),
        check: Box::new(move |input| {
            let Some((how, mut rest)) = input.split_first() else { return Shape::refused(&"empty") };
            let manager = managers.next();
            let mut words: Vec<Vec<u8>> = Vec::new();
            while how & 1 == 0
                && let Some((length, behind)) = rest.split_first_chunk::<2>()
            {
                let (body, behind) = behind.split_at(usize::from(u16::from_le_bytes(*length)).min(behind.len()));
                words.push([&u32::try_from(body.len()).expect("short").to_le_bytes(), body].concat());
                rest = behind;
            }
            if how & 1 == 1 {
                words.push(rest.to_vec());
            }
            manager.deliver();
            let answers = runtime.block_on(async {
                let (near, mut far) = tokio::io::duplex(PIPE_BYTES);
                let serving = ccm::leaders::serve(Arc::clone(&manager.engine), near, server::id(1), loopback(5));
                let speaking = async {
                    // It may end the conversation at any word.
                    for word in &words {
                        far.write_all(word).await.ok();
                        // So that what follows from it is said before the next.
                        tokio::task::yield_now().await;
                    }
                    far.shutdown().await.ok();
                    let mut answers = Vec::new();
                    far.read_to_end(&mut answers).await.ok();
                    answers
                };
                tokio::join!(serving, speaking).1
            });
            let mut kinds = String::new();
            let mut left = &answers[..];
            while let Some((prefix, behind)) = left.split_first_chunk::<4>() {
                let length = framing::body_length(*prefix).expect("it says no more than a leader takes");
                let Some((body, behind)) = behind.split_at_checked(length) else { break };
                kinds.push(match framing::decode::<ToLeader>(body).expect("it speaks so that a leader understands") {
                    ToLeader::Notify(_) => 'N',
                    ToLeader::Next { next: Some(_), .. } => 'T',
                    ToLeader::Next { next: None, .. } => 'O',
                    ToLeader::Drop { .. } => 'D',
                    ToLeader::Rest { .. } => 'S',
                    ToLeader::Pong => 'P',
                    ToLeader::ReportSegment => 'R',
                    ToLeader::MoveControl { .. } => 'M',
                });
                left = behind;
            }
            let online = manager.hub.online();
            assert!(
                online.keys().eq([&server::id(THEIRS)]),
                "who is gone is gone, and the other segment is left alone"
            );
            let progress = manager.hub.progress(ASSIGNMENT).expect("it is under way");
            let is_ours = |server: &ServerId| OURS.map(server::id).contains(server);
            assert!(progress.outcomes.keys().all(is_ours), "it speaks for servers of its segment only");
            let heard = (progress.outcomes.len(), progress.sessions.len());
            manager.hub.finish(ASSIGNMENT);
            while manager.told.try_recv().is_ok() {}
            let heard = format!("{heard:?}").bytes().map(|byte| char::from(byte | 0x40)).collect::<String>();
            let shape = (kinds, heard);
            if answers.is_empty() { Shape::refused(&shape) } else { Shape::decoded(&shape) }
        }),
    }
}
