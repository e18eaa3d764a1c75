//! Believing a content control manager by the digest of its root document.
//!
//! Join tokens carry the digest. The document is fetched over a connection that proves nothing and
//! is believed only when it has the digest; it names the authority that every further connection
//! must show. Nothing secret goes over the first one.

use std::sync::Arc;
use std::time::Duration;

use common::digest::Digest;
use http_body_util::Full;
use hyper::Request;
use hyper::header::HOST;
use rustls::ClientConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use transfer::tls::{ConnectError, DNS_NAME, TlsError};

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
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|source| ClientError::Authority(TlsError::Version { source }))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Unproven(provider)))
        .with_no_client_auth();
    let addresses = lookup(url).await?;
    let address = addresses[0];
    let unreachable = |source| ClientError::Unreachable {
        url: url.clone(),
        source: Box::new(ConnectError::Unreachable { address, source }),
    };
    let stream = TcpStream::connect(addresses.as_slice()).await.map_err(unreachable)?;
    let name = ServerName::try_from(DNS_NAME).expect("a fixed, good name");
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(unreachable)?;
    let request = Request::builder()
        .uri(ROOT_PATH)
        .header(HOST, url.authority())
        .body(Full::default())
        .expect("a fixed, good request");
    converse(url, stream, request, ROOT_BYTES_MAX).await
}

/// Takes any certificate: for a document that is believed by its digest, and for nothing else.
#[derive(Debug)]
struct Unproven(Arc<CryptoProvider>);

impl ServerCertVerifier for Unproven {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not spoken here".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
