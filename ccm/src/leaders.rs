//! The control connections of group leaders, as the CCM's side drives them.
//!
//! Who a leader is says its certificate; which segment it may speak for says its enrolment. What it
//! reports about other servers is held against their enrolments, too.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use common::control::{ToCcm, ToLeader};
use common::errors::chain;
use common::fleet::SegmentReport;
use common::framing;
use common::ids::{SegmentName, ServerId};
use common::outcome::SiteState;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::engine::delivery::Leader;
use crate::engine::{Engine, now};
use crate::store::ServerRecord;

/// A leader that says nothing for this long is taken for gone; it pings every five seconds.
const SILENCE_MAX: Duration = Duration::from_secs(15);

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub enum LeaderError {
    /// Its certificate is of a server that is not enrolled.
    #[error("server {server} is not enrolled here")]
    Unknown {
        /// The server.
        server: ServerId,
    },
    /// It may not lead.
    #[error("server {server} does not have the role leader")]
    Role {
        /// The server.
        server: ServerId,
    },
    /// It says something that it may not say, or out of order.
    #[error("the leader broke the protocol: {what}")]
    Protocol {
        /// What it did.
        what: &'static str,
    },
    /// The connection failed.
    #[error("the connection failed")]
    Io(#[from] io::Error),
    /// What it says cannot be read.
    #[error("a message cannot be read")]
    Frame(#[from] framing::FrameError),
    /// The database failed.
    #[error("the database failed")]
    Store(#[from] crate::store::StoreError),
    /// Another connection took its place, or it does not read.
    #[error("another leader took over, or this one does not read what it is told")]
    Replaced,
}

/// Serves one connection to its end.
pub async fn serve(
    engine: Arc<Engine>,
    stream: impl AsyncRead + AsyncWrite + Send + Unpin,
    server: ServerId,
    peer: SocketAddr,
) {
    if let Err(error) = converse(&engine, stream, server, peer).await {
        tracing::info!(%server, %peer, error = chain(&error), "a leader's connection ended");
    }
}

fn enrolled(engine: &Engine, server: ServerId) -> Result<ServerRecord, LeaderError> {
    let record = engine.store.server(&server)?.ok_or(LeaderError::Unknown { server })?;
    if record.roles.leader { Ok(record) } else { Err(LeaderError::Role { server }) }
}

async fn converse(
    engine: &Arc<Engine>,
    stream: impl AsyncRead + AsyncWrite + Send + Unpin,
    server: ServerId,
    peer: SocketAddr,
) -> Result<(), LeaderError> {
    let record = enrolled(engine, server)?;
    let (mut reader, mut writer) = tokio::io::split(stream);
    let hello = timeout(SILENCE_MAX, read(&mut reader)).await.map_err(|_| silent())??;
    let ToCcm::Hello { mut transfer_address, software } = hello else {
        return Err(LeaderError::Protocol { what: "its first message is not a hello" });
    };
    if transfer_address.ip().is_unspecified() {
        transfer_address.set_ip(peer.ip());
    }
    let segment = record.segment.clone();
    tracing::info!(%segment, leader = %record.name, software, "a group leader connected");
    let (connection, mut queue) = engine.hub.connect(Leader { server, transfer_address });
    let reading = async {
        let mut seen = Vec::new();
        loop {
            let message = timeout(SILENCE_MAX, read(&mut reader)).await.map_err(|_| silent())??;
            let message = admit(engine, &record, message)?;
            if !engine.hub.heard(&segment, connection, &message) {
                return Err(LeaderError::Replaced);
            }
            if let ToCcm::Segment(report) = &message {
                let now_seen: Vec<(ServerId, Vec<SiteState>)> =
                    report.members.iter().map(|member| (member.server, member.sites.clone())).collect();
                if now_seen != seen {
                    seen = now_seen;
                    engine.tell_fleet();
                }
            }
        }
    };
    let writing = write_all(&mut writer, &mut queue);
    let result: Result<(), LeaderError> = tokio::select! { result = reading => result, result = writing => result };
    engine.hub.disconnect(&segment, connection);
    forget_leader(engine, &segment);
    engine.tell_fleet();
    result
}

fn silent() -> LeaderError {
    LeaderError::Io(io::Error::from(io::ErrorKind::TimedOut))
}

fn forget_leader(engine: &Engine, segment: &SegmentName) {
    if engine.hub.segments().contains_key(segment) {
        return;
    }
    if let Err(error) = engine.store.save_leader(segment, None) {
        tracing::error!(error = chain(&error), "the segment's leader could not be recorded");
    }
}

/// Holds a message against what the leader may say, and keeps what is to be kept of it.
fn admit(engine: &Engine, record: &ServerRecord, message: ToCcm) -> Result<ToCcm, LeaderError> {
    match message {
        ToCcm::Hello { .. } => Err(LeaderError::Protocol { what: "a second hello" }),
        ToCcm::Segment(report) => {
            let report = admit_segment(engine, record, report)?;
            engine.store.save_members(&report.members, now())?;
            engine.store.save_leader(&report.segment, Some((report.leader, report.epoch)))?;
            Ok(ToCcm::Segment(report))
        }
        ToCcm::Reports(mut reports) => {
            let mut of_segment = std::collections::BTreeMap::new();
            reports.retain(|report| {
                *of_segment.entry(report.server).or_insert_with(|| {
                    matches!(engine.store.server(&report.server), Ok(Some(server)) if server.segment == record.segment)
                })
            });
            Ok(ToCcm::Reports(reports))
        }
        ToCcm::Overflow { .. }
        | ToCcm::Holds { .. }
        | ToCcm::AskNext { .. }
        | ToCcm::FetchFailed { .. }
        | ToCcm::ForwardFailed { .. }
        | ToCcm::Session { .. }
        | ToCcm::Ping => Ok(message),
    }
}

fn admit_segment(
    engine: &Engine,
    record: &ServerRecord,
    mut report: SegmentReport,
) -> Result<SegmentReport, LeaderError> {
    if report.segment != record.segment || report.leader != record.id {
        return Err(LeaderError::Protocol { what: "it reports a segment that it does not lead" });
    }
    let mut kept = Vec::with_capacity(report.members.len());
    for member in report.members {
        match engine.store.server(&member.server)? {
            Some(server) if server.segment == record.segment && server.name == member.name => kept.push(member),
            Some(_) | None => {
                tracing::warn!(server = %member.server, name = %member.name, "a leader reports a server that is not of its segment");
            }
        }
    }
    report.members = kept;
    Ok(report)
}

async fn write_all(
    writer: &mut (impl AsyncWrite + Unpin),
    queue: &mut mpsc::Receiver<ToLeader>,
) -> Result<(), LeaderError> {
    while let Some(message) = queue.recv().await {
        writer.write_all(&framing::encode(&message)?).await?;
        if queue.is_empty() {
            writer.flush().await?;
        }
    }
    Err(LeaderError::Replaced)
}

async fn read(reader: &mut (impl AsyncRead + Unpin)) -> Result<ToCcm, LeaderError> {
    let mut prefix = [0; 4];
    reader.read_exact(&mut prefix).await?;
    let length = framing::body_length(prefix)?;
    let mut body = Vec::new();
    reader.take(length as u64).read_to_end(&mut body).await?;
    Ok(framing::decode(&body)?)
}
