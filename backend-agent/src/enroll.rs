//! Joining a cluster: with a token, over TLS that the token pins.
//!
//! The token carries the digest of the cluster's root document. The document is fetched first, over
//! a connection that proves nothing, and believed only if it has that digest; it names the
//! certificate authority that the second connection must show. The token's secret goes over the
//! second one only.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::credential::Credential;
use common::digest::Digest;
use common::errors::chain;
use common::hex::{hex, parse_hex, unhex};
use common::ids::{SegmentName, ServerId, ServerName};
use common::keys::{SecretKey, Signed};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use lan_channel::envelope::SegmentKey;
use rustls::ClientConfig;
use rustls::pki_types::ServerName as TlsName;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use transfer::tls::{Peer, TlsError};

use crate::config::Config;
use crate::identity::{Identity, PublishKeyText, publish_keys};

/// Longest answer that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 1 << 20;
const TIMEOUT: Duration = Duration::from_secs(20);
/// How often a CCM that does not answer yet is tried: agents and CCM are often started together.
const TRIES: u32 = 20;

/// Why a server could not join.
#[derive(Debug, thiserror::Error)]
pub enum EnrollError {
    /// Something must be said at the first start.
    #[error("this server is not enrolled yet: give {what}")]
    Missing {
        /// The flag.
        what: &'static str,
    },
    /// The token is no token.
    #[error("the join token is not of the form prt1.ID.SECRET.DIGEST; make one with `pressrun token create`")]
    Token,
    /// The address is no address.
    #[error("{url:?} is no address of a content control manager; it looks like https://host:7443")]
    Address {
        /// What was given.
        url: String,
    },
    /// There is no TLS to be had.
    #[error("a connection to the content control manager cannot be secured")]
    Tls(#[source] TlsError),
    /// The CCM does not answer.
    #[error("the content control manager at {url} does not answer")]
    Unreachable {
        /// Where.
        url: String,
        /// Why.
        source: std::io::Error,
    },
    /// The connection broke, or its certificate is not the cluster's.
    #[error("the conversation with the content control manager at {url} failed: {what}")]
    Conversation {
        /// Where.
        url: String,
        /// What happened.
        what: String,
    },
    /// The root document is not the one that the token names.
    #[error("the server at {url} is not the cluster that the token was made for")]
    WrongCluster {
        /// Where.
        url: String,
    },
    /// The CCM refuses.
    #[error("the content control manager refuses this server: {detail}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// Its words.
        detail: String,
    },
    /// The answer cannot be used.
    #[error("the content control manager's answer cannot be used: {what}")]
    Answer {
        /// What is wrong with it.
        what: String,
    },
    /// No key could be made.
    #[error("no key could be made")]
    Key(#[source] rcgen::Error),
}

/// Host and port of `https://host:port`; the port is 7443 when it is left out.
///
/// # Errors
/// [`EnrollError::Address`].
pub fn host_and_port(url: &str) -> Result<String, EnrollError> {
    let error = || EnrollError::Address { url: url.chars().take(200).collect() };
    let rest = url.strip_prefix("https://").ok_or_else(error)?.trim_end_matches('/');
    if rest.is_empty() || rest.contains('/') {
        return Err(error());
    }
    let has_port = rest.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    Ok(if has_port { rest.to_owned() } else { format!("{rest}:7443") })
}

/// The digest of the root document that a token pins.
fn pinned(token: &str) -> Result<Digest, EnrollError> {
    let mut parts = token.split('.');
    match (parts.next(), parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some("prt1"), Some(_), Some(_), Some(digest), None) => digest.parse().map_err(|_| EnrollError::Token),
        _ => Err(EnrollError::Token),
    }
}

#[derive(Deserialize)]
pub(crate) struct Root {
    pub(crate) cluster: String,
    pub(crate) ca: String,
    pub(crate) publish_keys: Vec<PublishKeyText>,
}

#[derive(Serialize)]
struct Request<'a> {
    token: &'a str,
    name: &'a ServerName,
    segment: &'a SegmentName,
    csr: &'a str,
    control_key: String,
    roles: common::credential::Roles,
    location: &'a str,
}

#[derive(Deserialize)]
pub(crate) struct Answer {
    server: String,
    pub(crate) certificate: String,
    credential: String,
    segment_key: String,
}

impl Answer {
    /// Whom it says that we are, the CCM's word for it, and the key of the segment; nothing is verified yet.
    pub(crate) fn understood(&self) -> Result<(ServerId, Signed<Credential>, SegmentKey), EnrollError> {
        let answer = |what: &dyn std::fmt::Display| EnrollError::Answer { what: what.to_string() };
        let credential = unhex(&self.credential).ok_or_else(|| answer(&"the credential is not hexadecimal"))?;
        let credential = postcard::from_bytes(&credential).map_err(|error| answer(&error))?;
        let server = self.server.parse().map_err(|error| answer(&error))?;
        let segment_key = SegmentKey(parse_hex(&self.segment_key).map_err(|error| answer(&error))?);
        Ok((server, credential, segment_key))
    }
}

#[derive(Deserialize)]
struct Problem {
    #[serde(default)]
    detail: String,
    #[serde(default)]
    title: String,
}

/// Joins the cluster.
///
/// # Errors
/// [`EnrollError`]; nothing is kept then.
pub async fn enroll(config: &Config) -> Result<Identity, EnrollError> {
    let url = config.ccm.clone().ok_or(EnrollError::Missing { what: "--ccm URL" })?;
    let token = config.token.as_deref().ok_or(EnrollError::Missing { what: "--token TOKEN" })?;
    let name = config.name.clone().ok_or(EnrollError::Missing { what: "--name NAME" })?;
    let segment = config.segment.clone().ok_or(EnrollError::Missing { what: "--segment NAME" })?;
    let digest = pinned(token)?;

    let unproven = transfer::unproven::client_config().map_err(EnrollError::Tls)?;
    let document = get(&url, unproven, None, "/api/v1/root", None).await?;
    if Digest::of(&document) != digest {
        return Err(EnrollError::WrongCluster { url });
    }
    let answer = |what: &dyn std::fmt::Display| EnrollError::Answer { what: what.to_string() };
    let root: Root = serde_json::from_slice(&document).map_err(|error| answer(&error))?;

    let key = rcgen::KeyPair::generate().map_err(EnrollError::Key)?;
    let csr = rcgen::CertificateParams::new(Vec::<String>::new())
        .and_then(|params| params.serialize_request(&key))
        .and_then(|request| request.pem())
        .map_err(EnrollError::Key)?;
    let control_key = SecretKey::generate();
    let request = Request {
        token,
        name: &name,
        segment: &segment,
        csr: &csr,
        control_key: hex(&control_key.public().0),
        roles: config.roles,
        location: &config.location,
    };
    let body = serde_json::to_vec(&request).expect("plain data");
    let proven = transfer::tls::Authority::from_pem(&root.ca)
        .and_then(|authority| transfer::tls::client_config(None, &authority, &[]))
        .map_err(|error| EnrollError::Answer { what: chain(&error) })?;
    let reply = get(&url, proven, Some(Peer::Ccm), "/api/v1/enroll", Some(body)).await?;
    let reply: Answer = serde_json::from_slice(&reply).map_err(|error| answer(&error))?;
    let (server, credential, segment_key) = reply.understood()?;
    let publish_keys = publish_keys(&root.publish_keys).map_err(|what| EnrollError::Answer { what })?;
    let vouched = credential.verify(&publish_keys).map_err(|error| answer(&error))?;
    let fits = vouched.cluster.to_string() == root.cluster
        && vouched.server == server
        && vouched.name == name
        && vouched.segment == segment
        && vouched.key == control_key.public();
    if !fits {
        return Err(answer(&"the credential is not this server's"));
    }
    Ok(Identity {
        server,
        cluster: vouched.cluster,
        name,
        segment,
        roles: config.roles,
        ccm: url,
        certificate: reply.certificate,
        key: key.serialize_pem(),
        ca: root.ca,
        credential,
        control_key,
        segment_key,
        publish_keys,
    })
}

/// One request: GET, or POST when there is a body. Tries again while nobody listens.
async fn get(
    url: &str,
    config: Arc<ClientConfig>,
    expect: Option<Peer>,
    path: &str,
    body: Option<Vec<u8>>,
) -> Result<Bytes, EnrollError> {
    let address = host_and_port(url)?;
    let mut tries = 0;
    let stream = loop {
        match TcpStream::connect(&address).await {
            Ok(stream) => break stream,
            Err(source) => {
                tries += 1;
                if tries >= TRIES {
                    return Err(EnrollError::Unreachable { url: url.to_owned(), source });
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        }
    };
    match tokio::time::timeout(TIMEOUT, converse(url, stream, config, expect, path, body)).await {
        Ok(result) => result,
        Err(_) => {
            let what = format!("no answer within {} s", TIMEOUT.as_secs());
            Err(EnrollError::Conversation { url: url.to_owned(), what })
        }
    }
}

/// One POST to the content control manager, tried once.
///
/// # Errors
/// [`EnrollError`] when it does not answer or refuses.
pub(crate) async fn ask(
    url: &str,
    config: Arc<ClientConfig>,
    expect: Peer,
    path: &str,
    body: Vec<u8>,
) -> Result<Bytes, EnrollError> {
    let address = host_and_port(url)?;
    let work = async {
        let connected = TcpStream::connect(&address).await;
        let stream = connected.map_err(|source| EnrollError::Unreachable { url: url.to_owned(), source })?;
        converse(url, stream, config, Some(expect), path, Some(body)).await
    };
    tokio::time::timeout(TIMEOUT, work).await.unwrap_or_else(|_| {
        let what = format!("no answer within {} s", TIMEOUT.as_secs());
        Err(EnrollError::Conversation { url: url.to_owned(), what })
    })
}

async fn converse(
    url: &str,
    stream: TcpStream,
    config: Arc<ClientConfig>,
    expect: Option<Peer>,
    path: &str,
    body: Option<Vec<u8>>,
) -> Result<Bytes, EnrollError> {
    let failed =
        |error: &dyn std::fmt::Display| EnrollError::Conversation { url: url.to_owned(), what: error.to_string() };
    let name = TlsName::try_from(transfer::tls::DNS_NAME).expect("a constant name");
    let stream = TlsConnector::from(config).connect(name, stream).await.map_err(|error| failed(&error))?;
    // Every server of the cluster has a certificate that fits so far. The token is for the CCM only.
    let actual = stream.get_ref().1.peer_certificates().and_then(|chain| Peer::of_certificate(chain.first()?));
    if expect.is_some() && actual != expect {
        return Err(EnrollError::WrongCluster { url: url.to_owned() });
    }
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
    let driver = tokio::spawn(connection);
    let method = if body.is_some() { hyper::Method::POST } else { hyper::Method::GET };
    let request = hyper::Request::builder()
        .method(method)
        .uri(path)
        .header(hyper::header::HOST, transfer::tls::DNS_NAME)
        .header(hyper::header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body.unwrap_or_default())))
        .map_err(|error| failed(&error))?;
    let response = sender.send_request(request).await.map_err(|error| failed(&error))?;
    let status = response.status();
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await.map_err(|error| failed(&error))?;
    driver.abort();
    let bytes = body.to_bytes();
    if status.is_success() {
        return Ok(bytes);
    }
    let detail = match serde_json::from_slice::<Problem>(&bytes) {
        Ok(problem) if problem.detail.is_empty() => problem.title,
        Ok(problem) => problem.detail,
        Err(_) => format!("status {status}"),
    };
    Err(EnrollError::Refused { status: status.as_u16(), detail })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_https_with_a_host_and_perhaps_a_port() {
        assert_eq!(host_and_port("https://ccm.example:1").expect("good"), "ccm.example:1");
        assert_eq!(host_and_port("https://10.0.0.1/").expect("good"), "10.0.0.1:7443");
        for bad in ["http://ccm", "ccm:7443", "https://", "https://a/b", ""] {
            assert!(matches!(host_and_port(bad), Err(EnrollError::Address { .. })), "{bad}");
        }
    }

    #[test]
    fn a_token_pins_the_digest_of_the_root_document() {
        let digest = Digest::of(b"root");
        assert_eq!(pinned(&format!("prt1.id.secret.{digest}")).expect("good"), digest);
        for bad in ["", "prt1.id.secret", "prt2.id.secret.00", "prt1.a.b.zz", "prt1.a.b.00.c"] {
            assert!(matches!(pinned(bad), Err(EnrollError::Token)), "{bad}");
        }
    }
}
