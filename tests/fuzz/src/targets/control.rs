//! What a leader and the content control manager say to each other, and what the latter signs.

use std::net::{Ipv4Addr, SocketAddr};

use common::control::{Notification, SessionStats, Source, ToCcm, ToLeader};
use common::credential::{Credential, Roles};
use common::digest::Digest;
use common::fleet::SegmentReport;
use common::framing;
use common::ids::{AssignmentNumber, ServerId};
use common::keys::{Signed, Statement};
use common::outcome::Report;
use common::ticket::Ticket;
use pressrun_simulator::server;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::segment::{credential as a_credential, publish_key, publish_keys, ticket as a_ticket};
use super::{Raw, assert_same_again, encoded};
use crate::{Shape, Target};

/// A signed statement whose bytes are the input: what another version of the CCM could have signed.
fn signed<T, S>(name: &'static str, what: &'static str, samples: Vec<Vec<u8>>) -> Target
where
    T: Statement + PartialEq + std::fmt::Debug + 'static,
    S: Statement + From<Vec<u8>> + 'static,
{
    Target {
        name,
        what,
        bytes_max: 16 << 10,
        samples,
        check: Box::new(|input| {
            // As it travels, damaged.
            if let Ok(travelled) = postcard::from_bytes::<Signed<T>>(input) {
                assert_same_again(&travelled);
                assert!(travelled.verify(&publish_keys()).is_err(), "nobody signed that");
            }
            let travelled = encoded(&Signed::sign(&S::from(input.to_vec()), &publish_key()));
            let travelled: Signed<T> = postcard::from_bytes(&travelled).expect("it has the form of a statement");
            match travelled.verify(&publish_keys()) {
                Ok(statement) => {
                    assert_same_again(&statement);
                    Shape::decoded(&statement)
                }
                Err(error) => Shape::refused(&error),
            }
        }),
    }
}

macro_rules! raw_statement {
    ($name:ident, $of:ty) => {
        /// Any bytes, signed as one of those.
        #[derive(Deserialize)]
        struct $name(Vec<u8>);

        impl From<Vec<u8>> for $name {
            fn from(bytes: Vec<u8>) -> Self {
                Self(bytes)
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                Raw(&self.0).serialize(serializer)
            }
        }

        impl Statement for $name {
            const DOMAIN: &'static str = <$of as Statement>::DOMAIN;
        }
    };
}

raw_statement!(RawTicket, Ticket);
raw_statement!(RawCredential, Credential);

pub(super) fn ticket() -> Target {
    signed::<Ticket, RawTicket>(
        "ticket",
        "tickets that are rightly signed, and signed tickets that are damaged",
        vec![encoded(&a_ticket()), encoded(&Signed::sign(&a_ticket(), &publish_key()))[1..].to_vec()],
    )
}

pub(super) fn credential() -> Target {
    signed::<Credential, RawCredential>(
        "credential",
        "credentials that are rightly signed, and signed ones that are damaged",
        vec![encoded(&a_credential(2))],
    )
}

fn framed<T>(name: &'static str, what: &'static str, samples: &[T]) -> Target
where
    T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug + 'static,
{
    Target {
        name,
        what,
        bytes_max: 64 << 10,
        samples: samples.iter().map(|sample| framing::encode(sample).expect("short")).collect(),
        check: Box::new(|input| {
            let Some((prefix, body)) = input.split_first_chunk::<4>() else { return Shape::refused(&"short") };
            let length = match framing::body_length(*prefix) {
                Ok(length) => length,
                Err(error) => return Shape::refused(&error),
            };
            assert!(length <= framing::MESSAGE_BYTES_MAX);
            match framing::decode::<T>(&body[..body.len().min(length)]) {
                Ok(message) => {
                    let again = framing::encode(&message).expect("what was read can be written");
                    assert_eq!(framing::decode::<T>(&again[4..]).as_ref(), Ok(&message));
                    Shape::decoded(&message)
                }
                Err(error) => Shape::refused(&error),
            }
        }),
    }
}

fn source() -> Source {
    Source { server: Some(ServerId([2; 16])), address: SocketAddr::from((Ipv4Addr::LOCALHOST, 7_000)) }
}

pub(super) fn notification() -> Notification {
    Notification {
        ticket: Signed::sign(&a_ticket(), &publish_key()),
        inline: Some(b"object".to_vec()),
        source: source(),
        last: false,
    }
}

pub(super) fn to_ccm() -> Target {
    let object = Digest::of(b"object");
    let stats = SessionStats { object_bytes: 6, complete: vec![ServerId([2; 16])], ..SessionStats::default() };
    let info = server::describe(server::id(1), Roles::default(), 4);
    let report = SegmentReport {
        segment: "s1".parse().expect("good"),
        epoch: 1 << 32,
        leader: server::id(1),
        members: vec![info],
    };
    let outcome =
        |number| Report { server: server::id(1), assignment: AssignmentNumber(4), outcome: server::outcome(number) };
    framed(
        "to-ccm",
        "messages of a leader to the content control manager",
        &[
            ToCcm::Hello { transfer_address: source().address, software: "0.1.0".into() },
            ToCcm::Segment(report),
            ToCcm::Holds { object },
            ToCcm::AskNext { object },
            ToCcm::FetchFailed { object, source: source(), reason: "none".into() },
            ToCcm::Session { assignment: AssignmentNumber(4), stats, finished: true },
            ToCcm::Reports(vec![outcome(1), outcome(3)]),
            ToCcm::Ping,
            ToCcm::ForwardFailed { object, to: ServerId([2; 16]), reason: "none".into() },
            ToCcm::Overflow { assignment: AssignmentNumber(4), server: ServerId([2; 16]), frames: 17 },
        ],
    )
}

pub(super) fn to_leader() -> Target {
    let object = Digest::of(b"object");
    framed(
        "to-leader",
        "messages of the content control manager to a leader",
        &[
            ToLeader::Notify(notification()),
            ToLeader::Next { object, next: Some((source(), notification())) },
            ToLeader::Next { object, next: None },
            ToLeader::Drop { object },
            ToLeader::Rest { object },
            ToLeader::Pong,
            ToLeader::ReportSegment,
        ],
    )
}
