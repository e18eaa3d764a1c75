//! Certificates: who is who in TLS.
//!
//! One authority per cluster. Every certificate carries two names: a URI that says who its holder is
//! (`pressrun://ccm`, `pressrun://server/<id>`), which is what decides, and the DNS name
//! [`TLS_NAME`], which is what TLS libraries insist on comparing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use common::ids::{ClusterId, ServerId};
use common::time::WallTime;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData as _,
    SanType,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::TrustError;

/// The DNS name that every certificate of a cluster carries; clients ask for it whatever address
/// they connect to, and then look at the URI.
pub const TLS_NAME: &str = transfer::tls::DNS_NAME;

/// The URI in the CCM's certificate.
pub const CCM_URI: &str = "pressrun://ccm";

/// How long a server's or the CCM's certificate is valid: a year.
pub const LEAF_VALIDITY: Duration = Duration::from_secs(365 * 24 * 3600);

/// How long the authority's certificate is valid: ten years.
const AUTHORITY_VALIDITY: Duration = Duration::from_secs(3652 * 24 * 3600);

/// Certificates are valid from this long before they are made, for servers whose clocks lag.
const BACKDATED: Duration = Duration::from_secs(24 * 3600);

/// The URI in a server's certificate.
#[must_use]
pub fn server_uri(server: &ServerId) -> String {
    format!("pressrun://server/{server}")
}

/// A certificate chain with its key, for a TLS listener or client.
pub struct Identity {
    /// The holder's certificate, then the authority's.
    pub chain: Vec<CertificateDer<'static>>,
    /// The key.
    pub key: PrivateKeyDer<'static>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Identity")
    }
}

/// Why a certificate signing request was not granted.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// It cannot be read, asks for what is not known, or its signature does not fit its key.
    #[error("the certificate signing request cannot be read or is not signed by its own key")]
    Unreadable(#[source] rcgen::Error),
    /// Another kind of key than P-256.
    #[error("the certificate signing request is for another kind of key than ECDSA P-256")]
    NotP256,
    /// The certificate could not be signed.
    #[error("the certificate could not be signed")]
    Sign(#[source] rcgen::Error),
}

/// The certificate authority of a cluster.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    der: CertificateDer<'static>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authority")
    }
}

fn parameters(common_name: &str, now: WallTime, validity: Duration) -> CertificateParams {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let now = Duration::from_millis(now.0);
    let mut parameters = CertificateParams::default();
    parameters.not_before = epoch + now.saturating_sub(BACKDATED);
    parameters.not_after = epoch + (now + validity);
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, common_name);
    parameters
}

fn leaf_parameters(uri: &str, now: WallTime) -> Result<CertificateParams, rcgen::Error> {
    let mut parameters = parameters(uri, now, LEAF_VALIDITY);
    parameters.subject_alt_names = vec![SanType::URI(uri.try_into()?), SanType::DnsName(TLS_NAME.try_into()?)];
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    parameters.use_authority_key_identifier_extension = true;
    Ok(parameters)
}

/// Makes the authority of a new cluster: its certificate and its key, both PEM.
pub(super) fn make_authority(cluster: &ClusterId, now: WallTime) -> Result<(String, String), TrustError> {
    let failed = |source| TrustError::Certificate { what: "the authority's certificate", source };
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
    let mut parameters = parameters(&format!("Pressrun cluster {cluster}"), now, AUTHORITY_VALIDITY);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = parameters.self_signed(&key).map_err(failed)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

impl Authority {
    /// Reads certificate and key; `None` when they do not belong together.
    pub(super) fn read(certificate: &str, key: &str) -> Result<Option<Self>, rcgen::Error> {
        let key = KeyPair::from_pem(key)?;
        let der = CertificateDer::from_pem_slice(certificate.as_bytes())
            .map_err(|_| rcgen::Error::CouldNotParseCertificate)?;
        let (_, parsed) =
            x509_parser::parse_x509_certificate(&der).map_err(|_| rcgen::Error::CouldNotParseCertificate)?;
        if parsed.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Ok(None);
        }
        let issuer = Issuer::from_ca_cert_der(&der, key)?;
        Ok(Some(Self { issuer, pem: certificate.to_owned(), der }))
    }

    pub(super) fn certificate_pem(&self) -> &str {
        &self.pem
    }

    pub(super) fn certificate_der(&self) -> CertificateDer<'static> {
        self.der.clone()
    }

    pub(super) fn ccm_identity(&self, names: &[String], now: WallTime) -> Result<Identity, rcgen::Error> {
        let mut parameters = leaf_parameters(CCM_URI, now)?;
        let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        parameters.subject_alt_names.extend(loopback.map(SanType::IpAddress));
        parameters.subject_alt_names.push(SanType::DnsName("localhost".try_into()?));
        for name in names {
            let san = match name.parse::<IpAddr>() {
                Ok(address) if address.is_unspecified() => continue,
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(name.as_str().try_into()?),
            };
            if !parameters.subject_alt_names.contains(&san) {
                parameters.subject_alt_names.push(san);
            }
        }
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let certificate = parameters.signed_by(&key, &self.issuer)?;
        Ok(Identity {
            chain: vec![certificate.der().clone(), self.der.clone()],
            key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
        })
    }

    /// Signs a server's certificate: its chain, PEM. Of the request only the public key is used;
    /// names and purposes are what the CCM says.
    pub(super) fn server_certificate(
        &self,
        server: &ServerId,
        request: &str,
        now: WallTime,
    ) -> Result<String, RequestError> {
        let request = CertificateSigningRequestParams::from_pem(request).map_err(RequestError::Unreadable)?;
        // The algorithm is that of the signature, which other curves can have too: an uncompressed
        // point of P-256 has 65 bytes, beginning with 4.
        let point = request.public_key.der_bytes();
        if *request.public_key.algorithm() != PKCS_ECDSA_P256_SHA256 || point.len() != 65 || point[0] != 4 {
            return Err(RequestError::NotP256);
        }
        let parameters = leaf_parameters(&server_uri(server), now).map_err(RequestError::Sign)?;
        let certificate = parameters.signed_by(&request.public_key, &self.issuer).map_err(RequestError::Sign)?;
        Ok(format!("{}{}", certificate.pem(), self.pem))
    }
}
