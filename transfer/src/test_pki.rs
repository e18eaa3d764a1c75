//! A small certificate authority for tests.

use std::sync::Arc;

use common::ids::ServerId;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    SanType,
};
use rustls::{ClientConfig, ServerConfig};

use crate::http::ALPN;
use crate::tls::{Authority, ClientAuth, DNS_NAME, Identity, Peer, client_config, server_config};

pub(crate) struct TestCa(CertifiedIssuer<'static, KeyPair>);

pub(crate) fn server(number: u8) -> Peer {
    Peer::Server(ServerId([number; 16]))
}

impl TestCa {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn authority(&self) -> Authority {
        Authority::from_pem(&self.0.pem()).unwrap()
    }

    pub(crate) fn identity_with_uris(&self, uris: &[&str]) -> Identity {
        self.issue(&[DNS_NAME], uris)
    }

    pub(crate) fn issue(&self, names: &[&str], uris: &[&str]) -> Identity {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.subject_alt_names.extend(uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Identity::from_pem(&certificate.pem(), &key.serialize_pem(), &self.0.pem()).unwrap()
    }

    pub(crate) fn identity(&self, peer: Peer) -> Identity {
        self.identity_with_uris(&[&peer.to_uri()])
    }

    pub(crate) fn server_config(&self, peer: Peer, client_auth: ClientAuth) -> Arc<ServerConfig> {
        server_config(&self.identity(peer), &[ALPN], client_auth).unwrap()
    }

    pub(crate) fn client_config(&self, peer: Peer) -> Arc<ClientConfig> {
        client_config(Some(&self.identity(peer)), &self.authority(), &[ALPN]).unwrap()
    }
}
