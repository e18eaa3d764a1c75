//! Believing a content control manager by the digest of its root document.
//!
//! Join tokens carry the digest. The document is fetched over a connection that proves nothing and
//! is believed only when it has the digest; it names the authority that every further connection
//! must show. Nothing secret goes over the first one.

use std::time::Duration;

use common::digest::Digest;
use http_body_util::Full;
use hyper::Request;
use hyper::header::HOST;
use rustls::pki_types::ServerName;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use transfer::tls::{ConnectError, DNS_NAME};

use super::{ClientError, Url, converse, lookup, within};

const ROOT_PATH: &str = "/api/v1/root";

/// Longest root document that is read, in bytes.
const ROOT_BYTES_MAX: usize = 1 << 20;

/// How long fetching it may take.
const ROOT_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
struct Root {
    ca: String,
}

/// The authority of the cluster with this root document, PEM.
///
/// # Errors
/// [`ClientError::OtherCluster`] when another document comes; others as for any request.
pub(super) async fn authority(url: &Url, digest: Digest) -> Result<String, ClientError> {
    let (status, body) = within(url, ROOT_TIMEOUT, fetch(url)).await?;
    if !status.is_success() || Digest::of(&body) != digest {
        return Err(ClientError::OtherCluster { url: url.clone() });
    }
    let root: Root = serde_json::from_slice(&body).map_err(|source| ClientError::Unreadable {
        url: url.clone(),
        path: ROOT_PATH.to_owned(),
        source,
    })?;
    Ok(root.ca)
}

async fn fetch(url: &Url) -> Result<(hyper::StatusCode, hyper::body::Bytes), ClientError> {
    let config = transfer::unproven::client_config().map_err(ClientError::Authority)?;
    let addresses = lookup(url).await?;
    let address = addresses[0];
    let unreachable = |source| ClientError::Unreachable {
        url: url.clone(),
        source: Box::new(ConnectError::Unreachable { address, source }),
    };
    let stream = TcpStream::connect(addresses.as_slice()).await.map_err(unreachable)?;
    let name = ServerName::try_from(DNS_NAME).expect("a fixed, good name");
    let stream = TlsConnector::from(config).connect(name, stream).await.map_err(unreachable)?;
    let request = Request::builder()
        .uri(ROOT_PATH)
        .header(HOST, url.authority())
        .body(Full::default())
        .expect("a fixed, good request");
    converse(url, stream, request, ROOT_BYTES_MAX).await
}
