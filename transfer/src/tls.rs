//! Who is at the other end of a connection.
//!
//! TLS 1.3 on both sides, under the cluster's own certificate authority. A certificate says who its
//! holder is in exactly one URI (`pressrun://ccm` or `pressrun://server/<id>`); host names and
//! addresses mean nothing, because servers move between both. So that the ordinary, complete check
//! of a certificate applies unchanged (chain, validity, purpose, signature of the handshake), every
//! certificate of the cluster also carries one fixed DNS name, [`DNS_NAME`]. It is what the check is
//! given as the name; the URI is compared afterwards, and not a byte is sent before.
//!
//! Sessions are not resumed: a certificate that ran out must not live on in a ticket.
//!
//! Leaves to others: making certificates, renewing them, the list of those who are no longer
//! welcome, and how a new server comes to know the authority.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use common::ids::ServerId;
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use x509_parser::extensions::GeneralName;

/// The DNS name in every certificate of a cluster. Whoever issues certificates must put it in, next
/// to the URI of [`Peer::to_uri`]. It tells nobody apart.
pub const DNS_NAME: &str = "pressrun.internal";

/// How long connecting may take, handshake included.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

const URI_SCHEME: &str = "pressrun://";
const URI_CCM: &str = "pressrun://ccm";
const URI_SERVER: &str = "pressrun://server/";

/// Why TLS cannot be used with what is at hand.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// No certificate where one is needed.
    #[error("no certificate in the {what}")]
    NoCertificate {
        /// Where it was looked for.
        what: &'static str,
    },
    /// The PEM text cannot be read.
    #[error("the {what} is not readable PEM")]
    Pem {
        /// What was read.
        what: &'static str,
        /// What is wrong with it.
        source: rustls::pki_types::pem::Error,
    },
    /// A certificate is no authority's.
    #[error("a certificate of the certificate authority cannot be used")]
    Authority {
        /// What is wrong with it.
        source: rustls::Error,
    },
    /// The authority cannot check clients.
    #[error("clients cannot be checked against the certificate authority")]
    ClientCheck {
        /// What is wrong.
        source: VerifierBuilderError,
    },
    /// The chain and the key do not go together, or the key's kind is unknown.
    #[error("the certificate and its key cannot be used")]
    Identity {
        /// What is wrong with them.
        source: rustls::Error,
    },
    /// The cryptography does not do TLS 1.3.
    #[error("TLS 1.3 is not to be had")]
    Version {
        /// What it says.
        source: rustls::Error,
    },
}

/// Why there is no connection to the one expected.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nobody listens there, or the way is broken.
    #[error("{address} does not answer")]
    Unreachable {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// It took longer than [`CONNECT_TIMEOUT`].
    #[error("{address} did not finish connecting within {} s", CONNECT_TIMEOUT.as_secs())]
    TimedOut {
        /// Where.
        address: SocketAddr,
    },
    /// The handshake failed: the certificate is not the cluster's, or ours was not liked.
    #[error("the TLS handshake with {address} failed")]
    Handshake {
        /// Where.
        address: SocketAddr,
        /// What TLS said.
        source: io::Error,
    },
    /// Somebody of the cluster, yet not the one expected.
    #[error("{address} should be {expected} and is {}", describe(*actual))]
    WrongPeer {
        /// Where.
        address: SocketAddr,
        /// Who should be there.
        expected: Peer,
        /// Who is; `None` when the certificate does not say.
        actual: Option<Peer>,
    },
    /// It speaks none of the protocols asked for.
    #[error("{address} speaks another protocol")]
    Protocol {
        /// Where.
        address: SocketAddr,
    },
}

fn describe(peer: Option<Peer>) -> String {
    peer.map_or_else(|| "somebody without a Pressrun identity".to_owned(), |peer| peer.to_string())
}

/// Somebody of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Peer {
    /// The content control manager.
    Ccm,
    /// A server that enrolled.
    Server(ServerId),
}

impl Peer {
    /// The URI that stands for it in a certificate.
    #[must_use]
    pub fn to_uri(self) -> String {
        match self {
            Self::Ccm => URI_CCM.to_owned(),
            Self::Server(id) => format!("{URI_SERVER}{id}"),
        }
    }

    /// Reads the URI; `None` unless it is spelt exactly as [`Peer::to_uri`] spells it.
    #[must_use]
    pub fn from_uri(uri: &str) -> Option<Self> {
        let peer = match uri.strip_prefix(URI_SERVER) {
            Some(id) => Self::Server(ServerId::from_str(id).ok()?),
            None => Self::Ccm,
        };
        (peer.to_uri() == uri).then_some(peer)
    }

    /// Whom a certificate names. `None` when it names nobody, or more than one.
    ///
    /// Says nothing about whether the certificate is to be believed.
    #[must_use]
    pub fn of_certificate(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (rest, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
        if !rest.is_empty() {
            return None;
        }
        let names = certificate.subject_alternative_name().ok()??;
        let uri = |name: &GeneralName<'_>| if let GeneralName::URI(uri) = name { Some(uri.to_string()) } else { None };
        let mut uris = names.value.general_names.iter().filter_map(uri).filter(|uri| uri.starts_with(URI_SCHEME));
        match (uris.next(), uris.next()) {
            (Some(uri), None) => Self::from_uri(&uri),
            (None, _) | (Some(_), Some(_)) => None,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ccm => f.write_str("the CCM"),
            Self::Server(id) => write!(f, "server {id}"),
        }
    }
}

fn certificates(pem: &str, what: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let certificates = read.map_err(|source| TlsError::Pem { what, source })?;
    if certificates.is_empty() { Err(TlsError::NoCertificate { what }) } else { Ok(certificates) }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// The cluster's certificate authority. Several certificates while one replaces the other.
#[derive(Debug, Clone)]
pub struct Authority {
    roots: Arc<RootCertStore>,
}

impl Authority {
    /// Reads one or more certificates.
    ///
    /// # Errors
    /// [`TlsError::Pem`], [`TlsError::NoCertificate`] or [`TlsError::Authority`].
    pub fn from_pem(pem: &str) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(pem, "certificate authority")? {
            roots.add(certificate).map_err(|source| TlsError::Authority { source })?;
        }
        Ok(Self { roots: Arc::new(roots) })
    }
}

/// Who we are: certificate chain, key, and the authority that both sides believe.
pub struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    authority: Authority,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity(of {})", describe(self.peer()))
    }
}

impl Clone for Identity {
    fn clone(&self) -> Self {
        Self { chain: self.chain.clone(), key: self.key.clone_key(), authority: self.authority.clone() }
    }
}

impl Identity {
    /// From parts that were read or made elsewhere.
    #[must_use]
    pub fn new(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>, authority: Authority) -> Self {
        Self { chain, key, authority }
    }

    /// Reads PEM texts: the chain (own certificate first), its key, the authority.
    ///
    /// # Errors
    /// [`TlsError::Pem`], [`TlsError::NoCertificate`] or [`TlsError::Authority`]. Whether key and
    /// certificate go together shows in [`server_config`] and [`client_config`].
    pub fn from_pem(chain: &str, key: &str, ca: &str) -> Result<Self, TlsError> {
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
            .map_err(|source| TlsError::Pem { what: "private key", source })?;
        Ok(Self { chain: certificates(chain, "certificate chain")?, key, authority: Authority::from_pem(ca)? })
    }

    /// Whom our own certificate names.
    #[must_use]
    pub fn peer(&self) -> Option<Peer> {
        self.chain.first().and_then(Peer::of_certificate)
    }

    /// The authority.
    #[must_use]
    pub fn authority(&self) -> &Authority {
        &self.authority
    }
}

/// What a server demands of clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuth {
    /// A certificate of the cluster, or no connection.
    Required,
    /// A certificate of the cluster or none at all; a foreign one is still refused.
    Optional,
}

/// TLS for those who listen.
///
/// # Errors
/// [`TlsError::Identity`], [`TlsError::ClientCheck`] or [`TlsError::Version`].
pub fn server_config(
    identity: &Identity,
    alpn: &[&[u8]],
    client_auth: ClientAuth,
) -> Result<Arc<ServerConfig>, TlsError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&identity.authority.roots), provider());
    let verifier = match client_auth {
        ClientAuth::Required => verifier,
        ClientAuth::Optional => verifier.allow_unauthenticated(),
    };
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|source| TlsError::Version { source })?
        .with_client_cert_verifier(verifier.build().map_err(|source| TlsError::ClientCheck { source })?)
        .with_single_cert(identity.chain.clone(), identity.key.clone_key())
        .map_err(|source| TlsError::Identity { source })?;
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// TLS for those who connect; without an identity the server learns nothing about us.
///
/// # Errors
/// [`TlsError::Identity`] or [`TlsError::Version`].
pub fn client_config(
    identity: Option<&Identity>,
    authority: &Authority,
    alpn: &[&[u8]],
) -> Result<Arc<ClientConfig>, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|source| TlsError::Version { source })?
        .with_root_certificates(Arc::clone(&authority.roots));
    let mut config = match identity {
        Some(identity) => builder
            .with_client_auth_cert(identity.chain.clone(), identity.key.clone_key())
            .map_err(|source| TlsError::Identity { source })?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// Connects, and gives the connection only when `expect` is at the other end: its certificate is of
/// the cluster, names it, and one of the protocols asked for is spoken.
///
/// # Errors
/// [`ConnectError`].
pub async fn connect(
    config: &Arc<ClientConfig>,
    address: SocketAddr,
    expect: Peer,
) -> Result<TlsStream<TcpStream>, ConnectError> {
    let name = ServerName::try_from(DNS_NAME).expect("a fixed, good name");
    let connecting = async {
        let unreachable = |source| ConnectError::Unreachable { address, source };
        let stream = TcpStream::connect(address).await.map_err(unreachable)?;
        stream.set_nodelay(true).map_err(unreachable)?;
        let connector = TlsConnector::from(Arc::clone(config));
        connector.connect(name, stream).await.map_err(|source| ConnectError::Handshake { address, source })
    };
    let stream =
        tokio::time::timeout(CONNECT_TIMEOUT, connecting).await.map_err(|_| ConnectError::TimedOut { address })??;
    let connection = stream.get_ref().1;
    let actual = named(connection.peer_certificates());
    if actual != Some(expect) {
        return Err(ConnectError::WrongPeer { address, expected: expect, actual });
    }
    if !config.alpn_protocols.is_empty() && connection.alpn_protocol().is_none() {
        return Err(ConnectError::Protocol { address });
    }
    Ok(stream)
}

fn named(chain: Option<&[CertificateDer<'_>]>) -> Option<Peer> {
    chain?.first().and_then(Peer::of_certificate)
}

/// Who the client of a finished handshake is; `None` when it has no certificate, or one that names
/// nobody. The handshake has checked the certificate itself.
#[must_use]
pub fn peer_of_server_connection(connection: &rustls::ServerConnection) -> Option<Peer> {
    named(connection.peer_certificates())
}

#[cfg(test)]
mod tests;
