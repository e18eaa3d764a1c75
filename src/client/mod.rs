//! Asking the content control manager.
//!
//! In reading order: where it is and who we are ([`place`]), believing it by the digest of its root
//! document ([`pin`]), requests, in this file, and the stream of events ([`events`]). TLS 1.3 always; the certificate must be of the
//! cluster and name the content control manager, and not a byte of the token is sent before.
//!
//! Leaves to others: what is asked for (`commands`), what the answers mean (`view`).

mod events;
mod pin;
mod place;
#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use transfer::tls::{self, Authority, ConnectError, Peer, TlsError};

use crate::exit::Exit;

pub(crate) use events::Event;
pub(crate) use place::{Anchor, ClientArgs, Place, PlaceError, Url};

/// Longest answer that is read, in bytes: a diff with texts of a large change.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// How long an ordinary request may take. It reads or writes a few rows.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long a request may take for which the content control manager reads a whole tree.
pub(crate) const SCAN_TIMEOUT: Duration = Duration::from_secs(1800);

/// Why a request was not answered as hoped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// The host's name has no address.
    #[error("the host of {url} is not known")]
    Lookup {
        /// Where.
        url: Url,
        /// What the resolver said.
        source: io::Error,
    },
    /// Nobody listens.
    #[error("the content control manager at {url} does not answer; is `pressrun ccm` running?")]
    Unreachable {
        /// Where.
        url: Url,
        /// What the system said.
        source: Box<ConnectError>,
    },
    /// Somebody listens who is not the cluster's content control manager.
    #[error(
        "whoever answers at {url} is not the content control manager of this cluster; \
         check --ccm, and that --ca (or --data) is of the same cluster"
    )]
    Untrusted {
        /// Where.
        url: Url,
        /// What is wrong with him.
        source: Box<ConnectError>,
    },
    /// The root document is another than the one pinned.
    #[error("the content control manager at {url} is not of the cluster with this digest; check --ccm and --ca")]
    OtherCluster {
        /// Where.
        url: Url,
    },
    /// TLS cannot be used with the authority at hand.
    #[error("the cluster's certificate authority cannot be used")]
    Authority(#[source] TlsError),
    /// The connection broke.
    #[error("the connection to the content control manager at {url} was lost")]
    Lost {
        /// Where.
        url: Url,
        /// What happened.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No answer in time.
    #[error("the content control manager at {url} gave no answer within {seconds} s; its log may say why")]
    TimedOut {
        /// Where.
        url: Url,
        /// How long it was waited for.
        seconds: u64,
    },
    /// It answered with a refusal.
    #[error("{}", problem.sentence())]
    Refused {
        /// HTTP status.
        status: u16,
        /// Its words.
        problem: Box<Problem>,
    },
    /// The answer is not what the API promises.
    #[error("the answer of {url} to {path} cannot be read; is it the same release of pressrun?")]
    Unreadable {
        /// Where.
        url: Url,
        /// What was asked for.
        path: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

impl ClientError {
    /// The exit code.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::TimedOut { .. } => Exit::Timeout,
            Self::Refused { status, .. } => Exit::of_http_status(*status),
            Self::Lookup { .. }
            | Self::Unreachable { .. }
            | Self::Untrusted { .. }
            | Self::OtherCluster { .. }
            | Self::Authority(_)
            | Self::Lost { .. }
            | Self::Unreadable { .. } => Exit::Failed,
        }
    }

    /// Whether the same request may well succeed a little later: the content control manager is
    /// being started again, or has too much to do.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Lost { .. } | Self::TimedOut { .. } => true,
            Self::Refused { status, .. } => *status == 503,
            Self::Lookup { .. }
            | Self::Untrusted { .. }
            | Self::OtherCluster { .. }
            | Self::Authority(_)
            | Self::Unreadable { .. } => false,
        }
    }
}

/// A refusal, as the API words it.
#[derive(Debug)]
pub(crate) struct Problem {
    /// The whole document, for programs.
    pub(crate) document: Value,
}

impl Problem {
    fn read(status: StatusCode, body: &[u8]) -> Self {
        let document = match serde_json::from_slice(body) {
            Ok(document @ Value::Object(_)) => document,
            // Somebody in between answers in his own way.
            Ok(_) | Err(_) => serde_json::json!({
                "type": "about:blank",
                "title": status.canonical_reason().unwrap_or("Error"),
                "status": status.as_u16(),
                "code": "unknown",
            }),
        };
        Self { document }
    }

    fn word(&self, member: &str) -> Option<&str> {
        self.document[member].as_str().filter(|word| !word.is_empty())
    }

    /// What is wrong, for people.
    fn sentence(&self) -> String {
        let said = self.word("detail").or_else(|| self.word("title")).unwrap_or("the request was refused");
        match self.document["status"].as_u64() {
            Some(401) => format!("not authorised: {said}"),
            Some(403) => format!("not allowed: {said}"),
            _ => said.to_owned(),
        }
    }
}

/// An answer: what the API said, to be passed on as it is or to be read.
#[derive(Debug)]
pub(crate) struct Answer {
    url: Url,
    path: String,
    body: Bytes,
}

impl Answer {
    /// The text, byte for byte; `{}` when there was none.
    pub(crate) fn text(&self) -> String {
        if self.body.is_empty() { "{}".to_owned() } else { String::from_utf8_lossy(&self.body).into_owned() }
    }

    /// Reads it.
    ///
    /// # Errors
    /// [`ClientError::Unreadable`].
    pub(crate) fn read<T: DeserializeOwned>(&self) -> Result<T, ClientError> {
        serde_json::from_slice(&self.body).map_err(|source| ClientError::Unreadable {
            url: self.url.clone(),
            path: self.path.clone(),
            source,
        })
    }
}

/// A client of one content control manager.
#[derive(Debug)]
pub(crate) struct Client {
    url: Url,
    authorization: HeaderValue,
    tls: Arc<ClientConfig>,
}

impl Client {
    /// Gets ready to ask. Asks for the root document when the cluster is known by its digest only.
    ///
    /// # Errors
    /// [`ClientError`].
    pub(crate) async fn new(place: Place) -> Result<Self, ClientError> {
        let authority = match place.anchor {
            Anchor::Authority(pem) => pem,
            Anchor::RootDigest(digest) => pin::authority(&place.url, digest).await?,
        };
        let authority = Authority::from_pem(&authority).map_err(ClientError::Authority)?;
        let tls = tls::client_config(None, &authority, &[transfer::http::ALPN]).map_err(ClientError::Authority)?;
        Ok(Self { url: place.url, authorization: place.authorization, tls })
    }

    /// Asks for something.
    ///
    /// # Errors
    /// [`ClientError`].
    pub(crate) async fn get(&self, path: &str) -> Result<Answer, ClientError> {
        self.ask(Method::GET, path, None, ANSWER_TIMEOUT).await
    }

    /// Asks for something that may keep us waiting so much longer.
    ///
    /// # Errors
    /// [`ClientError`].
    pub(crate) async fn get_waiting(&self, path: &str, wait: Duration) -> Result<Answer, ClientError> {
        self.ask(Method::GET, path, None, ANSWER_TIMEOUT + wait).await
    }

    /// Orders something.
    ///
    /// # Errors
    /// [`ClientError`].
    pub(crate) async fn post(&self, path: &str, body: &Value) -> Result<Answer, ClientError> {
        self.ask(Method::POST, path, Some(body), ANSWER_TIMEOUT).await
    }

    /// Orders something for which trees are read.
    ///
    /// # Errors
    /// [`ClientError`].
    pub(crate) async fn post_scanning(&self, path: &str, body: &Value) -> Result<Answer, ClientError> {
        self.ask(Method::POST, path, Some(body), SCAN_TIMEOUT).await
    }

    /// Removes something.
    ///
    /// # Errors
    /// [`ClientError`].
    pub(crate) async fn delete(&self, path: &str) -> Result<Answer, ClientError> {
        self.ask(Method::DELETE, path, None, ANSWER_TIMEOUT).await
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        patience: Duration,
    ) -> Result<Answer, ClientError> {
        let path = format!("/api/v1{path}");
        let asking = async {
            let stream = self.connect().await?;
            let body = body.map(ToString::to_string).unwrap_or_default();
            let request = Request::builder()
                .method(method)
                .uri(&path)
                .header(HOST, self.url.authority())
                .header(AUTHORIZATION, self.authorization.clone())
                .header(CONTENT_TYPE, "application/json")
                .body(Full::from(body))
                .expect("our own paths are well-formed");
            converse(&self.url, stream, request, ANSWER_BYTES_MAX).await
        };
        let (status, body) = within(&self.url, patience, asking).await?;
        if status.is_success() {
            return Ok(Answer { url: self.url.clone(), path, body });
        }
        let problem = Box::new(Problem::read(status, &body));
        Err(ClientError::Refused { status: status.as_u16(), problem })
    }

    /// A connection to the content control manager, whichever of its addresses answers.
    async fn connect(&self) -> Result<impl AsyncRead + AsyncWrite + Unpin + Send + 'static, ClientError> {
        let mut last = None;
        for address in lookup(&self.url).await? {
            match tls::connect(&self.tls, address, Peer::Ccm).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = Some(error),
            }
        }
        Err(describe(&self.url, last.expect("a name has an address, or looking it up failed")))
    }
}

fn describe(url: &Url, error: ConnectError) -> ClientError {
    let (url, untrusted) = match &error {
        ConnectError::Unreachable { .. } | ConnectError::TimedOut { .. } => (url.clone(), false),
        // A handshake that ends in the middle is a peer that went away, not one that lies.
        ConnectError::Handshake { source, .. } => (url.clone(), source.kind() == io::ErrorKind::InvalidData),
        ConnectError::WrongPeer { .. } | ConnectError::Protocol { .. } => (url.clone(), true),
    };
    let source = Box::new(error);
    if untrusted { ClientError::Untrusted { url, source } } else { ClientError::Unreachable { url, source } }
}

/// All addresses of a host; at least one.
async fn lookup(url: &Url) -> Result<Vec<SocketAddr>, ClientError> {
    let failed = |source| ClientError::Lookup { url: url.clone(), source };
    let addresses: Vec<SocketAddr> = tokio::net::lookup_host((url.host(), url.port())).await.map_err(failed)?.collect();
    if addresses.is_empty() {
        return Err(failed(io::Error::new(io::ErrorKind::NotFound, "it has no address")));
    }
    Ok(addresses)
}

async fn within<T>(
    url: &Url,
    patience: Duration,
    work: impl Future<Output = Result<T, ClientError>>,
) -> Result<T, ClientError> {
    match tokio::time::timeout(patience, work).await {
        Ok(result) => result,
        Err(_) => Err(ClientError::TimedOut { url: url.clone(), seconds: patience.as_secs() }),
    }
}

/// One request and its answer over a fresh connection.
async fn converse(
    url: &Url,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
    bytes_max: usize,
) -> Result<(StatusCode, Bytes), ClientError> {
    let lost = |source: Box<dyn std::error::Error + Send + Sync>| ClientError::Lost { url: url.clone(), source };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| lost(e.into()))?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(|e| lost(e.into()))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), bytes_max).collect().await.map_err(|source| {
            if source.is::<LengthLimitError>() { lost("its answer is too long".into()) } else { lost(source) }
        })?;
        Ok((status, body.to_bytes()))
    };
    tokio::pin!(exchange, connection);
    tokio::select! {
        biased;
        result = &mut exchange => result,
        // What went wrong on the connection shows in the exchange, too.
        _ = &mut connection => exchange.await,
    }
}

/// A part of a path, with everything escaped that means something in a URL.
pub(crate) fn path_part(text: &str) -> String {
    let mut part = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'~') || (byte == b'.' && text.len() > 2) {
            part.push(byte as char);
        } else {
            part.push_str(&format!("%{byte:02X}"));
        }
    }
    part
}
