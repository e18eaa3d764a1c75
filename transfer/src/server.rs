//! Handing objects out, and taking notifications in.
//!
//! - `GET /o/<digest>`: the object, or one range of it. An unfinished object is served as far as its
//!   chunks are verified: the answer may then hold less than was asked for, never something else.
//! - `GET /o/<digest>/table`: its packed chunk table.
//! - `POST /o/<digest>/pieces`: the bytes of the object that the request names, packed, one piece after the
//!   other; of a whole object only.
//! - `POST /notify`: a packed [`Notification`]; answered when the object has been fetched here, or
//!   will not be.
//!
//! Nothing is told to those without a certificate of the cluster (401), nor to those who may not
//! have the object (403): not even whether it is here. Objects are read in small pieces as the
//! network takes them, so that memory does not grow with their size.
//!
//! Leaves to others: who may have what, what a notification is worth (its ticket's signature), and
//! fetching.

mod accept;
pub(crate) mod pieces;
mod range;

use std::error::Error;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::control::{INLINE_BYTES_MAX, Notification};
use common::digest::Digest;
use common::framing;
use futures_util::TryStreamExt as _;
use futures_util::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited, StreamBody};
use hyper::body::{Body, Frame};
use hyper::header::{ACCEPT_RANGES, ALLOW, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use tokio::sync::{mpsc, oneshot};

use crate::store::{Assembler, ObjectStore, StoreError};
use crate::task::blocking;
use crate::tls::Peer;
pub use accept::{ServerTls, serve, serve_stream};
use range::{Selection, select};

/// Longest notification, in bytes: a ticket for some 3,000 servers with a small object inside.
pub const NOTIFICATION_BYTES_MAX: usize = 64 << 10;

/// How long a client may take to send its notification.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// How much of an object is in memory per answer, in bytes.
const PIECE_BYTES: u64 = 256 << 10;

/// The body of an answer.
pub type ChunkBody = UnsyncBoxBody<Bytes, io::Error>;

/// Says whether somebody may have an object.
pub type May = Arc<dyn Fn(&Peer, Digest) -> bool + Send + Sync>;

/// Why a notification did not lead to the object being here. The text goes to the sender, in one
/// line for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotifyFailure {
    /// Not wanted here: not believed, not for us, out of date. Trying again is of no use.
    Refused(String),
    /// Could not be fetched. Another try, or another source, may help.
    Failed(String),
}

/// A notification that came in.
#[derive(Debug)]
pub struct Incoming {
    /// From whom, by certificate.
    pub peer: Peer,
    /// What. Its ticket has not been verified yet.
    pub notification: Notification,
    /// To be answered once the object is here, or will not be. Closed when the sender has gone,
    /// which is no reason to stop fetching.
    pub answer: oneshot::Sender<Result<(), NotifyFailure>>,
}

/// Answers requests for objects. Knows nothing of connections: agents and the CCM can both put it
/// behind what they listen with.
#[derive(Clone)]
pub struct ChunkService {
    /// Where the objects are.
    pub store: Arc<ObjectStore>,
    /// Asked before anything is said about an object. Must not block.
    pub may: May,
    /// Takes notifications. When it is full, senders are told to come again.
    pub notify: mpsc::Sender<Incoming>,
}

enum Target {
    Object(Digest),
    Table(Digest),
    Pieces(Digest),
    Notify,
}

fn target(path: &str) -> Option<Target> {
    if path == "/notify" {
        return Some(Target::Notify);
    }
    let name = path.strip_prefix("/o/")?;
    match name.split_once('/') {
        Some((hex, "table")) => Some(Target::Table(hex.parse().ok()?)),
        Some((hex, "pieces")) => Some(Target::Pieces(hex.parse().ok()?)),
        Some(_) => None,
        None => Some(Target::Object(name.parse().ok()?)),
    }
}

/// The path of an object.
pub(crate) fn object_path(digest: Digest) -> String {
    format!("/o/{digest}")
}

/// The path of an object's chunk table.
pub(crate) fn table_path(digest: Digest) -> String {
    format!("/o/{digest}/table")
}

/// The path of pieces of an object.
pub(crate) fn pieces_path(digest: Digest) -> String {
    format!("/o/{digest}/pieces")
}

/// Bytes to be sent.
struct Part {
    file: Arc<File>,
    range: Range<u64>,
    length: u64,
    whole: bool,
}

enum Found {
    Part(Part),
    NotHeld,
    Unsatisfiable { length: u64 },
}

impl ChunkService {
    /// Answers one request. `peer` is who sent it by its certificate, which the connection's
    /// handshake has checked.
    pub async fn handle<B>(&self, peer: Option<Peer>, request: Request<B>) -> Response<ChunkBody>
    where
        B: Body,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let Some(target) = target(request.uri().path()) else {
            return plain(StatusCode::NOT_FOUND, "no such resource");
        };
        let Some(peer) = peer else {
            return plain(StatusCode::UNAUTHORIZED, "a certificate of the cluster is needed");
        };
        let method = match target {
            Target::Object(_) | Target::Table(_) => Method::GET,
            Target::Pieces(_) | Target::Notify => Method::POST,
        };
        if request.method() != method {
            let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "another method is needed");
            response.headers_mut().insert(ALLOW, HeaderValue::from_str(method.as_str()).expect("a plain word"));
            return response;
        }
        match target {
            Target::Object(digest) | Target::Table(digest) | Target::Pieces(digest) if !(self.may)(&peer, digest) => {
                plain(StatusCode::FORBIDDEN, "not for you")
            }
            Target::Object(digest) => self.object(digest, request.headers()).await,
            Target::Table(digest) => self.table(digest).await,
            Target::Pieces(digest) => self.pieces(digest, request.into_body()).await,
            Target::Notify => self.take_notification(peer, request.into_body()).await,
        }
    }

    async fn object(&self, digest: Digest, headers: &HeaderMap) -> Response<ChunkBody> {
        let (store, headers) = (Arc::clone(&self.store), headers.clone());
        match blocking(move || find(&store, digest, &headers)).await {
            Ok(Found::Part(part)) => send(digest, part),
            Ok(Found::NotHeld) => plain(StatusCode::NOT_FOUND, "not held here"),
            Ok(Found::Unsatisfiable { length }) => {
                let mut response = plain(StatusCode::RANGE_NOT_SATISFIABLE, "no such range");
                response.headers_mut().insert(CONTENT_RANGE, text(&format!("bytes */{length}")));
                response
            }
            Err(error) => failed(digest, &error),
        }
    }

    async fn table(&self, digest: Digest) -> Response<ChunkBody> {
        let store = Arc::clone(&self.store);
        let table = blocking(move || match store.table(digest) {
            Err(StoreError::Missing { .. }) => {
                let assembler = store.readable(digest)?.and_then(|readable| readable.assembler);
                Ok(assembler.map(|assembler| assembler.table().to_bytes()))
            }
            other => other.map(|table| Some(table.to_bytes())),
        });
        match table.await {
            Ok(Some(bytes)) => bytes_response(StatusCode::OK, "application/octet-stream", bytes),
            Ok(None) => plain(StatusCode::NOT_FOUND, "not held here"),
            Err(error) => failed(digest, &error),
        }
    }

    async fn pieces<B>(&self, digest: Digest, body: B) -> Response<ChunkBody>
    where
        B: Body,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let bytes = match whole(body, pieces::REQUEST_BYTES_MAX, "the request").await {
            Ok(bytes) => bytes,
            Err(refusal) => return refusal,
        };
        let Ok(wanted) = framing::decode::<pieces::Pieces>(&bytes) else {
            return plain(StatusCode::BAD_REQUEST, "not a request for pieces that this version of pressrun can read");
        };
        let store = Arc::clone(&self.store);
        let readable = match blocking(move || store.readable(digest)).await {
            Ok(readable) => readable.filter(|readable| readable.assembler.is_none()),
            Err(error) => return failed(digest, &error),
        };
        let Some(readable) = readable else { return plain(StatusCode::NOT_FOUND, "not held here") };
        match wanted.ranges(readable.length) {
            Ok(ranges) => pieces::send(digest, readable.file, ranges),
            Err(error) => plain(StatusCode::BAD_REQUEST, &error.to_string()),
        }
    }

    async fn take_notification<B>(&self, peer: Peer, body: B) -> Response<ChunkBody>
    where
        B: Body,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let bytes = match whole(body, NOTIFICATION_BYTES_MAX, "the notification").await {
            Ok(bytes) => bytes,
            Err(refusal) => return refusal,
        };
        let Ok(notification) = framing::decode::<Notification>(&bytes) else {
            return plain(StatusCode::BAD_REQUEST, "not a notification this version of pressrun can read");
        };
        if notification.inline.as_ref().is_some_and(|object| object.len() > INLINE_BYTES_MAX) {
            return plain(StatusCode::BAD_REQUEST, "the object inside the notification is too long");
        }
        let (answer, answered) = oneshot::channel();
        match self.notify.try_send(Incoming { peer, notification, answer }) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => {
                return plain(StatusCode::SERVICE_UNAVAILABLE, "busy with other notifications");
            }
            Err(mpsc::error::TrySendError::Closed(_)) => {
                return plain(StatusCode::SERVICE_UNAVAILABLE, "takes no notifications any more");
            }
        }
        match answered.await {
            Ok(Ok(())) => plain(StatusCode::OK, "the object is here"),
            Ok(Err(NotifyFailure::Refused(reason))) => plain(StatusCode::CONFLICT, &reason),
            Ok(Err(NotifyFailure::Failed(reason))) => plain(StatusCode::SERVICE_UNAVAILABLE, &reason),
            Err(_) => plain(StatusCode::SERVICE_UNAVAILABLE, "the notification was dropped"),
        }
    }
}

/// A request's body, or the refusal of it.
async fn whole<B>(body: B, bytes_max: usize, what: &str) -> Result<Bytes, Response<ChunkBody>>
where
    B: Body,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    match tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, bytes_max).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            Err(plain(StatusCode::PAYLOAD_TOO_LARGE, &format!("{what} is too long")))
        }
        Ok(Err(_)) => Err(plain(StatusCode::BAD_REQUEST, &format!("{what} did not arrive whole"))),
        Err(_) => Err(plain(StatusCode::REQUEST_TIMEOUT, &format!("{what} took too long"))),
    }
}

fn find(store: &ObjectStore, digest: Digest, headers: &HeaderMap) -> Result<Found, StoreError> {
    let Some(readable) = store.readable(digest)? else { return Ok(Found::NotHeld) };
    let length = readable.length;
    let (asked, whole) = match select(headers, length) {
        Selection::Whole => (0..length, true),
        Selection::Part(range) => (range, false),
        Selection::Unsatisfiable => return Ok(Found::Unsatisfiable { length }),
    };
    let range = match &readable.assembler {
        None => asked,
        Some(assembler) => verified_part(assembler, &asked),
    };
    let nothing = range.is_empty() && length > 0;
    // Less than was asked for can be said of a range, not of the whole.
    let cut = whole && range != (0..length);
    if nothing || cut {
        return Ok(Found::NotHeld);
    }
    Ok(Found::Part(Part { file: readable.file, range, length, whole }))
}

/// How far from its start the range lies in verified chunks.
fn verified_part(assembler: &Assembler, range: &Range<u64>) -> Range<u64> {
    let chunk_bytes = u64::from(assembler.table().chunk_bytes());
    let mut end = range.start;
    while end < range.end {
        let index = end / chunk_bytes;
        if !u32::try_from(index).is_ok_and(|index| assembler.has(index)) {
            break;
        }
        end = range.end.min((index + 1) * chunk_bytes);
    }
    range.start..end
}

fn send(digest: Digest, part: Part) -> Response<ChunkBody> {
    let Part { file, range, length, whole } = part;
    let bytes = range.end - range.start;
    let (status, content_range) = match whole {
        true => (StatusCode::OK, None),
        false => (StatusCode::PARTIAL_CONTENT, Some(format!("bytes {}-{}/{length}", range.start, range.end - 1))),
    };
    // The open file outlives its name: an object that is removed meanwhile is still sent whole. An
    // unfinished one may be cut; then the connection breaks, and the client asks elsewhere.
    let pieces = stream::try_unfold((file, range), move |(file, range)| async move {
        if range.is_empty() {
            return Ok(None);
        }
        let end = range.end.min(range.start + PIECE_BYTES);
        let (piece, file) = blocking(move || {
            let mut piece = vec![0; usize::try_from(end - range.start).expect("a piece fits into memory")];
            file.read_exact_at(&mut piece, range.start).map(|()| (piece, file))
        })
        .await
        .inspect_err(|error| tracing::warn!(object = %digest, error = error as &dyn Error, "cannot read an object"))?;
        Ok::<_, io::Error>(Some((Bytes::from(piece), (file, end..range.end))))
    });
    let mut response = Response::new(StreamBody::new(pieces.map_ok(Frame::data)).boxed_unsync());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if let Some(content_range) = content_range {
        headers.insert(CONTENT_RANGE, text(&content_range));
    }
    response
}

fn text(value: &str) -> HeaderValue {
    HeaderValue::from_str(value).expect("plain words and digits")
}

fn bytes_response(status: StatusCode, content_type: &'static str, bytes: Vec<u8>) -> Response<ChunkBody> {
    let body = Full::from(bytes).map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn plain(status: StatusCode, reason: &str) -> Response<ChunkBody> {
    bytes_response(status, "text/plain; charset=utf-8", format!("{reason}\n").into_bytes())
}

/// The reason stays here: it names paths.
fn failed(digest: Digest, error: &StoreError) -> Response<ChunkBody> {
    if let StoreError::Missing { .. } = error {
        return plain(StatusCode::NOT_FOUND, "not held here");
    }
    tracing::warn!(object = %digest, error = error as &dyn Error, "cannot serve an object");
    plain(StatusCode::INTERNAL_SERVER_ERROR, "the object cannot be read here")
}

#[cfg(test)]
mod tests;
