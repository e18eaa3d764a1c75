//! One HTTP/1.1 connection to somebody known.
//!
//! Requests go out one after the other. Every wait has an end, and nothing is read beyond what the
//! caller allows for.
//!
//! Leaves to others: what is asked for (`fetch`), what is answered (`server`).

use std::future::Future;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONTENT_RANGE, CONTENT_TYPE, HOST, HeaderMap, RANGE};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use tokio_util::task::AbortOnDropHandle;

use crate::tls::{self, ConnectError, DNS_NAME, Peer};

/// Protocol name in the TLS handshake.
pub const ALPN: &[u8] = b"http/1.1";

/// How long an answer, or the next piece of one, may keep us waiting.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest reason that is read from a refusal, in bytes. More is cut off.
const REASON_BYTES_MAX: usize = 1024;

/// Read buffer of a connection, in bytes: bounds the head of an answer, and how much of a body lies
/// in memory before it is asked for.
const BUFFER_BYTES: usize = 256 << 10;

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// There is no connection.
    #[error("no connection to {}", peer)]
    Connect {
        /// To whom.
        peer: Peer,
        /// Why.
        source: ConnectError,
    },
    /// The connection broke, or what came over it was no HTTP.
    #[error("the connection to {peer} at {address} was lost")]
    Lost {
        /// To whom.
        peer: Peer,
        /// Where.
        address: SocketAddr,
        /// What happened.
        source: hyper::Error,
    },
    /// Nothing came for too long.
    #[error("{peer} at {address} sent nothing for {} s", waited.as_secs())]
    TimedOut {
        /// Who.
        peer: Peer,
        /// Where.
        address: SocketAddr,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The answer is longer than it may be.
    #[error("the answer of {peer} at {address} is longer than {bytes_max} bytes")]
    TooLong {
        /// Who.
        peer: Peer,
        /// Where.
        address: SocketAddr,
        /// The limit.
        bytes_max: usize,
    },
}

/// A connection to somebody whose certificate was checked. Closed when dropped.
#[derive(Debug)]
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    end: End,
    _driver: AbortOnDropHandle<()>,
}

/// Who is at the other end, for errors, and how patient we are.
#[derive(Debug, Clone, Copy)]
struct End {
    peer: Peer,
    address: SocketAddr,
    idle: Duration,
}

impl End {
    fn lost(self, source: hyper::Error) -> HttpError {
        HttpError::Lost { peer: self.peer, address: self.address, source }
    }

    async fn within<T>(
        self,
        waited: Duration,
        work: impl Future<Output = Result<T, hyper::Error>>,
    ) -> Result<T, HttpError> {
        match tokio::time::timeout(waited, work).await {
            Ok(result) => result.map_err(|source| self.lost(source)),
            Err(_) => Err(HttpError::TimedOut { peer: self.peer, address: self.address, waited }),
        }
    }
}

impl Connection {
    /// Connects to `peer`, who must be at `address`.
    ///
    /// # Errors
    /// [`HttpError::Connect`], or [`HttpError::Lost`].
    pub async fn open(config: &Arc<ClientConfig>, address: SocketAddr, peer: Peer) -> Result<Self, HttpError> {
        let stream = tls::connect(config, address, peer).await.map_err(|source| HttpError::Connect { peer, source })?;
        let end = End { peer, address, idle: IDLE_TIMEOUT };
        let (sender, driver) = http1::Builder::new()
            .max_buf_size(BUFFER_BYTES)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|source| end.lost(source))?;
        let driver = tokio::spawn(async move {
            // The request that suffers from it reports it.
            _ = driver.await;
        });
        Ok(Self { sender, end, _driver: AbortOnDropHandle::new(driver) })
    }

    /// Waits so long for an answer to begin or to go on, instead of [`IDLE_TIMEOUT`].
    #[must_use]
    pub fn with_idle_timeout(mut self, idle: Duration) -> Self {
        self.end.idle = idle;
        self
    }

    /// Asks for a resource, or for these bytes of it. An empty range asks for all.
    ///
    /// # Errors
    /// [`HttpError::Lost`] or [`HttpError::TimedOut`].
    ///
    /// # Panics
    /// When `path` is no valid path of a URI; ours are fixed or made of digests.
    pub async fn get(&mut self, path: &str, range: Option<Range<u64>>) -> Result<Response, HttpError> {
        let mut request = Request::builder().method(Method::GET).uri(path).header(HOST, DNS_NAME);
        if let Some(range) = range.filter(|range| !range.is_empty()) {
            request = request.header(RANGE, format!("bytes={}-{}", range.start, range.end - 1));
        }
        let request = request.body(Full::default()).expect("our own paths and headers are well-formed");
        self.send(request, self.end.idle).await
    }

    /// Sends `body` and waits up to `wait` for the answer to begin.
    ///
    /// # Errors
    /// [`HttpError::Lost`] or [`HttpError::TimedOut`].
    ///
    /// # Panics
    /// As [`Connection::get`].
    pub async fn post(&mut self, path: &str, body: Vec<u8>, wait: Duration) -> Result<Response, HttpError> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(HOST, DNS_NAME)
            .header(CONTENT_TYPE, "application/octet-stream")
            .body(Full::from(body))
            .expect("our own paths and headers are well-formed");
        self.send(request, wait).await
    }

    async fn send(&mut self, request: Request<Full<Bytes>>, wait: Duration) -> Result<Response, HttpError> {
        let end = self.end;
        let sending = async {
            self.sender.ready().await?;
            self.sender.send_request(request).await
        };
        let (head, body) = end.within(wait, sending).await?.into_parts();
        Ok(Response { status: head.status, headers: head.headers, body, end })
    }
}

/// An answer whose body is still to be read.
#[derive(Debug)]
pub struct Response {
    status: StatusCode,
    headers: HeaderMap,
    body: Incoming,
    end: End,
}

impl Response {
    /// The status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// Which bytes of how many follow, when the answer says so in a form we know.
    #[must_use]
    pub fn content_range(&self) -> Option<(Range<u64>, u64)> {
        let (range, length) =
            self.headers.get(CONTENT_RANGE)?.to_str().ok()?.strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
        let length = length.parse().ok()?;
        (first <= last && last < length).then_some((first..last + 1, length))
    }

    /// The next piece of the body; `None` at its end.
    ///
    /// # Errors
    /// [`HttpError::Lost`] when the body ends before its declared length, [`HttpError::TimedOut`].
    pub async fn next(&mut self) -> Result<Option<Bytes>, HttpError> {
        loop {
            match self.end.within(self.end.idle, self.body.frame().map(Option::transpose)).await? {
                None => return Ok(None),
                Some(frame) => match frame.into_data() {
                    Ok(data) if !data.is_empty() => return Ok(Some(data)),
                    // Trailers mean nothing here.
                    Ok(_) | Err(_) => {}
                },
            }
        }
    }

    /// The whole body, when it is at most `bytes_max` long.
    ///
    /// # Errors
    /// [`HttpError::TooLong`], [`HttpError::Lost`] or [`HttpError::TimedOut`].
    pub async fn read(mut self, bytes_max: usize) -> Result<Vec<u8>, HttpError> {
        let too_long = HttpError::TooLong { peer: self.end.peer, address: self.end.address, bytes_max };
        if self.body.size_hint().lower() > bytes_max as u64 {
            return Err(too_long);
        }
        let mut bytes = Vec::new();
        while let Some(piece) = self.next().await? {
            if piece.len() > bytes_max - bytes.len() {
                return Err(too_long);
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes)
    }

    /// What a refusal gives as its reason, cut to one line of bounded length, for people.
    pub async fn reason(mut self) -> String {
        let mut bytes = Vec::new();
        while bytes.len() < REASON_BYTES_MAX {
            let Ok(Some(piece)) = self.next().await else { break };
            bytes.extend_from_slice(&piece[..piece.len().min(REASON_BYTES_MAX - bytes.len())]);
        }
        let text = String::from_utf8_lossy(&bytes);
        let line: String = text.chars().take_while(|c| *c != '\n').filter(|c| !c.is_control()).collect();
        line.trim().to_owned()
    }
}
