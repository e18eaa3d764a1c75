//! Files of an agent and of a content control manager. Those with a checksum are given a right one, so that what
//! stands behind it is read.

use std::path::Path;
use std::time::Duration;

use backend_agent::decoders::{StateFile, state_file as read_state_file};
use backend_agent::identity::Identity;
use backend_agent::lan::Lan;
use backend_agent::settings::Settings;
use ccm::trust::read_publish_key;
use common::credential::Roles;
use common::digest::Digest;
use common::keys::{SecretKey, Signed};
use common::time::Timestamp;
use lan_channel::envelope::SegmentKey;
use pressrun_simulator::server::{self, Disk, Running};
use protocol::election::Standing;
use protocol::session::{Announcement, Geometry, Receiver, ReceiverConfig, Sender};
use transfer::chunk::ChunkTable;
use transfer::decoders::bitmap as read_bitmap;

use super::content::base;
use super::encoded;
use super::segment::{credential, publish_key, publish_keys, ticket};
use crate::{Shape, Target};

/// A reader that writes what it understood again.
pub(super) type Reread = fn(&[u8]) -> Option<Vec<u8>>;

/// What is understood is understood the same when it is written again.
pub(super) fn reread(read: impl Fn(&[u8]) -> Option<Vec<u8>>, input: &[u8]) -> Shape {
    match read(input) {
        Some(again) => {
            assert_eq!(read(&again).as_ref(), Some(&again), "it is not the same when it is written and read again");
            Shape::decoded(&String::from_utf8_lossy(&again))
        }
        None => Shape::refused(&"refused"),
    }
}

/// The first byte says which of several readers; the rest is for it.
pub(super) fn one_of<T: Copy>(all: &[T], input: &[u8]) -> Option<(T, usize)> {
    let number = usize::from(*input.first()?) % all.len();
    Some((all[number], number))
}

fn with_number(number: u8, bytes: &[u8]) -> Vec<u8> {
    [&[number], bytes].concat()
}

const STATE_FILES: [StateFile; 3] = [StateFile::Journal, StateFile::Manifest, StateFile::Index];

/// A file of a state directory around its content.
fn sealed(content: &[u8]) -> Vec<u8> {
    let mut file = b"PRBESTAT".to_vec();
    file.extend_from_slice(&1_u16.to_le_bytes());
    file.extend_from_slice(content);
    let digest = Digest::of(&file);
    file.extend_from_slice(&digest.0);
    file
}

/// The journal of a site that was never published to, in the form that stands in it, and of one in the middle
/// of a swap.
fn journals() -> [Vec<u8>; 2] {
    let state = |handled: u8| {
        let mut body = encoded(&"shop");
        body.extend([9, 1]);
        body.extend([7; 32]);
        // From assignment 4, before it was the backup; a pattern; the backup with its version.
        body.extend([1, 4, 2, 1]);
        body.extend(encoded(&"*.log"));
        body.extend([1, 1]);
        body.extend([6; 32]);
        body.extend([12, 0]);
        // Committed, undone, handled: each a list.
        body.extend([1, 4, 0, handled]);
        if handled == 1 {
            body.extend([4, 9, 3]);
            body.extend([7; 32]);
        }
        body
    };
    let mut between = state(1);
    between.push(0);
    let mut during = state(0);
    during.extend([1, 0, 0, 11, 12, 1]);
    during.extend(encoded(&"uploads"));
    during.extend([13, 1, 2, 14, 15, 0, 0]);
    during.extend(state(0));
    [between, during]
}

/// The first byte says which file; its highest bit that the rest is the file as it is.
pub(super) fn state_file() -> Target {
    let [between, during] = journals();
    let mut index = vec![1, 5, 33, 2, 3, 2, 3];
    index.extend([1; 32]);
    Target {
        name: "state-file",
        what: "journals, manifests and indexes of a site's state directory",
        bytes_max: 16 << 10,
        samples: vec![
            with_number(0, &between),
            with_number(0, &during),
            with_number(1, &encoded(&base())),
            with_number(2, &index),
            with_number(0x83, &sealed(&between)),
        ],
        check: Box::new(|input| {
            let Some((file, _)) = one_of(&STATE_FILES, input) else { return Shape::refused(&"empty") };
            let bytes = if input[0] & 0x80 == 0 { sealed(&input[1..]) } else { input[1..].to_vec() };
            reread(|bytes| read_state_file(file, bytes), &bytes)
        }),
    }
}

fn identity() -> Identity {
    Identity {
        server: credential(2).server,
        cluster: credential(2).cluster,
        name: credential(2).name,
        segment: credential(2).segment,
        roles: Roles { server: true, leader: true },
        ccm: "https://ccm:7443".into(),
        certificate: "certificate".into(),
        key: "key".into(),
        ca: "authority".into(),
        credential: Signed::sign(&credential(2), &publish_key()),
        control_key: SecretKey::from_bytes(&[2; 32]),
        segment_key: SegmentKey([3; 32]),
        publish_keys: publish_keys(),
    }
}

/// Runs that a note claims lead to no more symbols than the object has.
fn spool_note(bytes: &[u8]) -> Option<Vec<u8>> {
    let (again, runs) = backend_agent::decoders::spool_note(bytes)?;
    let geometry = Geometry::new(100_000, 1_000).expect("fits").with_blocks();
    let config = ReceiverConfig { members: 2, ..ReceiverConfig::default() };
    let mut receiver = Receiver::new(config, server::id(3), 1, geometry, 1, Timestamp(1));
    for (first, count) in runs {
        receiver.mark_have(first, count);
    }
    assert!(receiver.held().runs().all(|run| run.end <= geometry.symbols()), "symbols that there are not");
    while receiver.poll_output().is_some() {}
    Some(again)
}

const AGENT_FILES: [Reread; 6] = [
    backend_agent::decoders::identity,
    backend_agent::decoders::site_notes,
    spool_note,
    backend_agent::decoders::root_document,
    backend_agent::decoders::enrolment_answer,
    backend_agent::decoders::peers,
];

pub(super) fn agent_file() -> Target {
    let root = format!(
        r#"{{"cluster":"{}","ca":"PEM","publish_keys":[{{"epoch":1,"key":"{}"}}]}}"#,
        "09".repeat(16),
        "07".repeat(32)
    );
    let signed = encoded(&Signed::sign(&credential(2), &publish_key()));
    let answer = format!(
        r#"{{"server":"{}","certificate":"PEM","credential":"{}","segment_key":"{}"}}"#,
        "02".repeat(16),
        common::hex::hex(&signed),
        "03".repeat(32)
    );
    let sites = format!(r#"{{"sites":{{"shop":"/srv/www/shop"}},"hooked":{{"shop":"{}"}}}}"#, "05".repeat(32));
    let peers = format!(r#"[{{"server":"{}","name":"web2","control":"10.0.0.2:7000"}}]"#, "02".repeat(16));
    let note = encoded(&(1_u8, 100_000_u64, 1_000_u16, vec![(0_u32, 3_u32), (90, 10)]));
    Target {
        name: "agent-file",
        what: "identity, sites, addresses and spool notes of an agent, and what it is answered when it enrols",
        bytes_max: 16 << 10,
        samples: vec![
            with_number(0, identity().to_text().as_bytes()),
            with_number(1, sites.as_bytes()),
            with_number(2, &note),
            with_number(3, root.as_bytes()),
            with_number(4, answer.as_bytes()),
            with_number(5, peers.as_bytes()),
        ],
        check: Box::new(|input| match one_of(&AGENT_FILES, input) {
            Some((read, _)) => reread(read, &input[1..]),
            None => Shape::refused(&"empty"),
        }),
    }
}

fn publish_key_file(bytes: &[u8]) -> Option<Vec<u8>> {
    let key = read_publish_key(std::str::from_utf8(bytes).ok()?)?;
    Some(format!("{} {}\n", key.epoch, common::hex::hex(&key.key.to_bytes())).into_bytes())
}

/// Readers, and the magic number with which the file begins that they read behind a checksum.
const CCM_FILES: [(Reread, Option<&[u8; 8]>); 3] = [
    (ccm::decoders::scan_index, Some(b"PRINDEX2")),
    (ccm::decoders::manifest, Some(b"PRMANIF1")),
    (publish_key_file, None),
];

/// The first byte says which file; its highest bit that the rest is the file as it is.
pub(super) fn ccm_file() -> Target {
    // One directory of contents that rested and one that did not, then one row of one directory.
    let stamp = [8, 1, 5, 33, 2, 3, 2, 3];
    let mut row = encoded(&("b", 0o644_u32));
    row.extend(stamp);
    row.extend([1; 32]);
    let mut index = Vec::new();
    for part in [&[&[2, 1][..], &stamp, &[0]].concat(), b"a".as_slice(), &row] {
        index.extend(u32::try_from(part.len()).expect("a few bytes").to_le_bytes());
        index.extend(part);
    }
    Target {
        name: "ccm-file",
        what: "scan indexes, manifests and the publish key of a content control manager",
        bytes_max: 16 << 10,
        samples: vec![
            with_number(0, &index),
            with_number(1, &encoded(&base())),
            with_number(2, format!("1 {}\n", "07".repeat(32)).as_bytes()),
            // 128 of three is the third again: a reader has no use for a checksum of what has none.
            with_number(129, b"PRINDEX2"),
        ],
        check: Box::new(|input| {
            let Some(((read, magic), _)) = one_of(&CCM_FILES, input) else { return Shape::refused(&"empty") };
            let rest = &input[1..];
            let bytes = match magic {
                Some(magic) if input[0] & 0x80 == 0 => [magic.as_slice(), &Digest::of(rest).0, rest].concat(),
                Some(_) | None => rest.to_vec(),
            };
            reread(read, &bytes)
        }),
    }
}

/// The input is what stands behind the head, about an object of nine chunks; a first byte that is odd says
/// that it is the whole file.
pub(super) fn bitmap() -> Target {
    let object = vec![1; 9 * 65_536 - 5];
    let table = ChunkTable::of(&object[..], object.len() as u64, 65_536).expect("memory is read");
    let mut head = b"PRBM\x01".to_vec();
    head.extend_from_slice(&table.root().0);
    head.extend_from_slice(&table.length().to_le_bytes());
    head.extend_from_slice(&table.chunk_bytes().to_le_bytes());
    let checked = |bytes: Vec<u8>| [bytes.as_slice(), &Digest::of(&bytes).0].concat();
    let whole = checked([head.as_slice(), &[0xff, 1]].concat());
    Target {
        name: "bitmap",
        what: "notes of which chunks of an unfinished object are verified",
        bytes_max: 256,
        samples: vec![vec![0, 0xff, 1], vec![0, 0x12, 0], with_number(1, &whole)],
        check: Box::new(move |input| {
            let Some((how, rest)) = input.split_first() else { return Shape::refused(&"empty") };
            let bytes = if how & 1 == 0 { checked([head.as_slice(), rest].concat()) } else { rest.to_vec() };
            if let Some(again) = read_bitmap(&bytes, &table) {
                assert_eq!(again, bytes, "a bitmap has one form");
            }
            reread(|bytes| read_bitmap(bytes, &table), &bytes)
        }),
    }
}

const SETTINGS: [&str; 4] = [
    "[lan]\ntransport = \"unicast\"\nport = 7001\npeers = [\"10.0.0.2:7001\"]\n",
    "[lan]\npreset = \"fast\"\nrank = 3\nfactor = 150\npreempt_after = \"30s\"\nroster = [\"web1\", \"web2\"]\n\
     [election]\nvote = \"75ms\"\nclaims_reopen_vote = true\n[registration]\nkeep_alive = \"0.3s\"\n\
     [reports]\ngather = \"5ms\"\n[sender]\nrepair_every = 8\nreply_window = \"900us\"\n[receiver]\nidle_max = \"5s\"\n",
    "[lan]\nelection = \"fixed\"\nleader = \"web1\"\nroster = [\"web1\"]\npreset = \"seed\"\nask_again = \"1m\"\n",
    "[hooks]\ntimeout = \"5s\"\nbefore = [[\"/bin/true\", \"x\"]]\nafter = [[\"/bin/true\"]]\n\
     [hooks.site.shop]\nbefore = []\n",
];

pub(super) fn settings() -> Target {
    Target {
        name: "settings",
        what: "configuration files of an agent, and machines that run as they say",
        bytes_max: 4_096,
        samples: SETTINGS.iter().map(|sample| sample.as_bytes().to_vec()).collect(),
        check: Box::new(|input| {
            let text = String::from_utf8_lossy(input);
            match Settings::parse(&text, Path::new("agent.toml")) {
                Ok(settings) => {
                    lives_with(&settings.lan);
                    Shape::decoded(&settings)
                }
                Err(error) => Shape::refused(&error.to_string()),
            }
        }),
    }
}

/// Moments at which a machine does something that are looked at.
const MOMENTS: usize = 64;
/// How many of them may follow each other in one microsecond.
const AT_ONCE_MAX: usize = 16;

/// What is accepted is what machines can live with: time goes on between what they do.
fn lives_with(lan: &Lan) {
    assert!(lan.validate().is_ok(), "what was accepted is good");
    assert!(lan.timers.election.silence_max <= Duration::from_secs(86_400), "a day is the longest time");
    let mut disk = Disk { boot: 1 << 20, ..Disk::default() };
    let roles = Roles { server: true, leader: true };
    let begin = Timestamp(1_000_000);
    let mut running = Running::start(server::id(1), roles, Standing::default(), &disk, &lan.timers, 1, begin);
    sleeps(|now| {
        running.wake(now);
        running.pump(&mut disk, now);
        running.take_facts();
        running.take_sent();
        running.wakes_at()
    });
    for available in [0, OBJECT_BYTES] {
        let mut sender = leader_of_nobody_that_answers(lan, available);
        sleeps(|now| {
            sender.handle_timeout(now);
            while sender.poll_frame(now).is_some() {}
            while sender.poll_output().is_some() {}
            sender.poll_timeout()
        });
    }
    let geometry = Geometry::new(OBJECT_BYTES, 1_000).expect("fits").with_blocks();
    let mut receiver = Receiver::new(lan.receiver.clone(), server::id(3), 1, geometry, 1, begin);
    sleeps(|now| {
        receiver.handle_timeout(now);
        while receiver.poll_output().is_some() {}
        receiver.poll_timeout()
    });
}

/// Long enough that some of it is left to be sent when it is looked at last.
const OBJECT_BYTES: u64 = 100_000;

fn leader_of_nobody_that_answers(lan: &Lan, available: u64) -> Sender {
    let announcement = Announcement {
        session: 1,
        epoch: 1,
        key_id: 0,
        ticket: Signed::sign(&ticket(), &publish_key()),
        table_bytes: 0,
        grants: Vec::new(),
    };
    let geometry = Geometry::new(OBJECT_BYTES, 1_000).expect("fits").with_blocks();
    Sender::new(lan.sender.clone(), announcement, geometry, [server::id(3)], available, Timestamp(1_000_000))
}

/// Goes from one moment to the next at which a machine wants to be woken.
fn sleeps(mut wake: impl FnMut(Timestamp) -> Option<Timestamp>) {
    let mut now = Timestamp(1_000_000);
    let mut at_once = 0;
    for _ in 0..MOMENTS {
        let Some(next) = wake(now) else { break };
        at_once = if next > now { 0 } else { at_once + 1 };
        assert!(at_once < AT_ONCE_MAX, "it never sleeps");
        now = now.max(next);
    }
}
