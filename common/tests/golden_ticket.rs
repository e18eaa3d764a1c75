//! Tickets of every format that was ever written, as they were written: they are believed, or refused.
//!
//! `golden/ticket-2.signed` was written by this test with `PRESSRUN_WRITE_GOLDEN` naming a directory; a new
//! format gets a new file, and the old ones stay.

#![allow(clippy::unwrap_used, reason = "what goes wrong in it is a failed test")]

use pressrun_common::digest::Digest;
use pressrun_common::ids::{AssignmentNumber, ClusterId, RunNumber, ServerId};
use pressrun_common::keys::{PublishKey, PublishKeys, SecretKey, Signed, Statement};
use pressrun_common::ticket::Ticket;
use pressrun_common::time::WallTime;
use serde::{Deserialize, Serialize};

fn golden(format: u8) -> Vec<u8> {
    std::fs::read(format!("{}/tests/golden/ticket-{format}.signed", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn key() -> PublishKey {
    PublishKey { epoch: 3, key: SecretKey::from_bytes(&[42; 32]) }
}

fn keys() -> PublishKeys {
    PublishKeys { keys: vec![(3, key().key.public())] }
}

fn ticket() -> Ticket {
    Ticket {
        cluster: ClusterId([1; 16]),
        site: "shop".parse().unwrap(),
        assignment: AssignmentNumber(12),
        run: RunNumber(7),
        object: Digest([5; 32]),
        length: 8_000_000,
        chunk_bytes: 65_536,
        targets: vec![ServerId([2; 16]), ServerId([3; 16])],
        expires: WallTime(1_700_086_400_000),
        channel: Some("239.192.1.2:30000".parse().unwrap()),
    }
}

/// A ticket as format 1 had it.
#[derive(Serialize, Deserialize)]
struct Ticket1 {
    cluster: ClusterId,
    site: String,
    assignment: AssignmentNumber,
    run: RunNumber,
    object: Digest,
    length: u64,
    chunk_bytes: u32,
    targets: Vec<ServerId>,
    expires: WallTime,
}

impl Statement for Ticket1 {
    const DOMAIN: &'static str = "pressrun ticket 1";
}

fn ticket_1() -> Ticket1 {
    let Ticket { cluster, site, assignment, run, object, length, chunk_bytes, targets, expires, channel: _ } = ticket();
    Ticket1 { cluster, site: site.to_string(), assignment, run, object, length, chunk_bytes, targets, expires }
}

#[test]
fn a_ticket_of_format_2_is_believed_and_says_what_it_said() {
    let anew = postcard::to_stdvec(&Signed::sign(&ticket(), &key())).unwrap();
    if let Some(directory) = std::env::var_os("PRESSRUN_WRITE_GOLDEN") {
        let directory = std::path::Path::new(&directory);
        std::fs::write(directory.join("ticket-2.signed"), &anew).unwrap();
        std::fs::write(
            directory.join("ticket-1.signed"),
            postcard::to_stdvec(&Signed::sign(&ticket_1(), &key())).unwrap(),
        )
        .unwrap();
    }
    assert_eq!(anew, golden(2), "the same words make the same bytes");
    let read: Signed<Ticket> = postcard::from_bytes(&golden(2)).unwrap();
    assert_eq!(read.verify(&keys()).unwrap(), ticket());
}

#[test]
fn a_ticket_of_format_1_is_no_ticket_any_more() {
    let read: Signed<Ticket> = postcard::from_bytes(&golden(1)).unwrap();
    assert!(read.verify(&keys()).is_err());
    let as_it_was: Signed<Ticket1> = postcard::from_bytes(&golden(1)).unwrap();
    assert_eq!(as_it_was.verify(&keys()).unwrap().length, ticket().length);
}
