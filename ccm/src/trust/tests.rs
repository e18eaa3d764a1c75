use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::Duration;

use common::credential::Roles;
use common::ids::{SegmentName, ServerName};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, SanType};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName as TlsName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use x509_parser::extensions::GeneralName;

use super::certificates::RequestError;
use super::certificates::{CCM_URI, LEAF_VALIDITY, server_uri};
use super::enrol::{EnrolError, EnrolRequest, Enrolled, TokenGrant};
use super::*;

const NOW: WallTime = WallTime(1_900_000_000_000);
const HOUR: Duration = Duration::from_secs(3600);

struct Cluster {
    folder: tempfile::TempDir,
    trust: Trust,
    password: String,
}

fn cluster() -> Cluster {
    let folder = tempfile::tempdir().unwrap();
    let (trust, created) = Trust::open_or_create(folder.path(), Store::in_memory().unwrap(), NOW).unwrap();
    Cluster { folder, trust, password: created.expect("the first start makes a password").admin_password }
}

fn request_for(key: &KeyPair) -> String {
    let mut parameters = CertificateParams::default();
    // A name that the CCM must not take over.
    parameters.subject_alt_names = vec![SanType::URI(CCM_URI.try_into().unwrap())];
    parameters.serialize_request(key).unwrap().pem().unwrap()
}

fn enrol_request(token: &str) -> EnrolRequest {
    EnrolRequest {
        token: token.to_owned(),
        name: ServerName::new("web1").unwrap(),
        segment: Some(SegmentName::new("s1").unwrap()),
        csr: request_for(&KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()),
        control_key: SecretKey::from_bytes(&[7; 32]).public(),
        roles: Roles::default(),
        location: String::new(),
    }
}

fn grant() -> TokenGrant {
    TokenGrant { segment: None, uses: 1, lifetime: HOUR, roles: None }
}

impl Cluster {
    fn token(&self, grant: TokenGrant) -> String {
        self.trust.create_join_token(grant, NOW).unwrap().token
    }

    fn enrol(&self, request: EnrolRequest) -> Result<Enrolled, EnrolError> {
        self.trust.enrol(request, NOW)
    }
}

fn uris(certificate: &CertificateDer<'_>) -> Vec<String> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).unwrap();
    let names = parsed.subject_alternative_name().unwrap().unwrap();
    let uri = |name: &GeneralName<'_>| if let GeneralName::URI(uri) = name { Some((*uri).to_owned()) } else { None };
    names.value.general_names.iter().filter_map(uri).collect()
}

fn at(time: WallTime) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_millis(time.0))
}

fn roots(trust: &Trust) -> Arc<rustls::RootCertStore> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(trust.ca_der()).unwrap();
    Arc::new(roots)
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

#[test]
fn the_first_start_makes_private_files_and_the_second_finds_the_same_cluster() {
    let Cluster { folder, trust, password } = cluster();
    for file in ["keys/ca.key", "keys/ca.pem", "keys/publish.key", "admin.token"] {
        assert_eq!(folder.path().join(file).metadata().unwrap().permissions().mode() & 0o777, 0o600, "{file}");
    }
    assert_eq!(folder.path().metadata().unwrap().permissions().mode() & 0o777, 0o700);
    let token = std::fs::read_to_string(folder.path().join("admin.token")).unwrap();
    assert_eq!(trust.bearer(token.trim_end(), NOW).unwrap().unwrap().role, Role::Admin);

    let (again, created) = Trust::open_or_create(folder.path(), trust.store.clone(), NOW).unwrap();
    assert!(created.is_none());
    assert_eq!((again.cluster(), again.root()), (trust.cluster(), trust.root()));
    assert_eq!(again.publish_keys(), trust.publish_keys());
    assert_eq!(std::fs::read_to_string(folder.path().join("admin.token")).unwrap(), token);
    assert!(again.login("admin", &password, NOW).unwrap().is_some());
}

#[test]
fn a_data_directory_that_lost_or_changed_a_key_is_refused_and_left_alone() {
    for file in ["keys/ca.key", "keys/ca.pem", "keys/publish.key"] {
        let Cluster { folder, trust, .. } = cluster();
        let path = folder.path().join(file);
        std::fs::remove_file(&path).unwrap();
        let lost = Trust::open_or_create(folder.path(), trust.store.clone(), NOW);
        assert!(matches!(lost, Err(TrustError::File { .. })), "{file}");
        assert!(!path.exists());
        let other = cluster();
        std::fs::copy(other.folder.path().join(file), &path).unwrap();
        let swapped = Trust::open_or_create(folder.path(), trust.store.clone(), NOW);
        assert!(matches!(swapped, Err(TrustError::Damaged { .. })), "{file}");
    }
}

#[test]
fn removing_the_admin_token_file_revokes_the_token() {
    let Cluster { folder, trust, .. } = cluster();
    let path = folder.path().join("admin.token");
    let old = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    let (trust, _) = Trust::open_or_create(folder.path(), trust.store.clone(), NOW).unwrap();
    let new = std::fs::read_to_string(&path).unwrap();
    assert!(trust.bearer(old.trim_end(), NOW).unwrap().is_none());
    assert!(trust.bearer(new.trim_end(), NOW).unwrap().is_some());
}

#[test]
fn the_root_document_names_cluster_authority_and_publish_key() {
    let Cluster { trust, .. } = cluster();
    let root: RootDocument = serde_json::from_slice(trust.root()).unwrap();
    assert_eq!(root.cluster, trust.cluster().to_string());
    assert_eq!(root.ca, trust.ca_pem());
    assert_eq!(root.publish_keys, [RootKey { epoch: 1, key: hex(&trust.publish_key().key.public().0) }]);
    let token = trust.create_join_token(grant(), NOW).unwrap();
    let (_, digest) = secrets::Secret::from_join_token(&token.token).unwrap();
    assert_eq!(digest, Digest::of(trust.root()));
    assert_eq!(token.expires, NOW.after(HOUR));
}

#[test]
fn the_ccm_is_believed_under_its_names_for_a_year_and_by_its_own_cluster_only() {
    let Cluster { trust, .. } = cluster();
    let names = ["192.0.2.7", "ccm.example.org", "0.0.0.0", "127.0.0.1"].map(str::to_owned);
    let identity = trust.ccm_identity(&names, NOW).unwrap();
    assert_eq!(uris(&identity.chain[0]), [CCM_URI]);
    let verifies = |trust: &Trust, name: &str, time| {
        let verifier = WebPkiServerVerifier::builder_with_provider(roots(trust), provider()).build().unwrap();
        let name = TlsName::try_from(name.to_owned()).unwrap();
        verifier.verify_server_cert(&identity.chain[0], &identity.chain[1..], &name, &[], at(time)).is_ok()
    };
    for name in [TLS_NAME, "localhost", "127.0.0.1", "::1", "192.0.2.7", "ccm.example.org"] {
        assert!(verifies(&trust, name, NOW), "{name}");
    }
    assert!(!verifies(&trust, "other.example.org", NOW));
    assert!(!verifies(&trust, "0.0.0.0", NOW));
    assert!(verifies(&trust, TLS_NAME, NOW.after(LEAF_VALIDITY - HOUR)));
    assert!(!verifies(&trust, TLS_NAME, NOW.after(LEAF_VALIDITY + HOUR)));
    assert!(!verifies(&cluster().trust, TLS_NAME, NOW));
    assert!(rustls::crypto::aws_lc_rs::sign::any_supported_type(&identity.key).is_ok());
    assert!(trust.ccm_identity(&["n\u{e4}me".to_owned()], NOW).is_err());
}

#[test]
fn an_enrolled_server_gets_a_certificate_and_credential_that_others_believe() {
    let cluster = cluster();
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let request = EnrolRequest { csr: request_for(&key), ..enrol_request(&cluster.token(grant())) };
    let enrolled = cluster.enrol(request.clone()).unwrap();
    let trust = &cluster.trust;

    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(enrolled.certificate.as_bytes()).map(Result::unwrap).collect();
    assert_eq!(chain.len(), 2);
    assert_eq!(uris(&chain[0]), [server_uri(&enrolled.server)], "the request's own names are not taken over");
    let (_, parsed) = x509_parser::parse_x509_certificate(&chain[0]).unwrap();
    assert_eq!(parsed.public_key().subject_public_key.data.as_ref(), key.public_key_raw());
    assert!(!parsed.is_ca());
    let as_client = WebPkiClientVerifier::builder_with_provider(roots(trust), provider()).build().unwrap();
    as_client.verify_client_cert(&chain[0], &chain[1..], at(NOW)).unwrap();
    let as_server = WebPkiServerVerifier::builder_with_provider(roots(trust), provider()).build().unwrap();
    let name = TlsName::try_from(TLS_NAME).unwrap();
    as_server.verify_server_cert(&chain[0], &chain[1..], &name, &[], at(NOW)).unwrap();

    let credential = enrolled.credential.verify(&trust.publish_keys()).unwrap();
    assert_eq!((credential.server, credential.cluster), (enrolled.server, trust.cluster()));
    assert_eq!((credential.name, credential.key), (request.name.clone(), request.control_key));
    assert_eq!(credential.expires, NOW.after(LEAF_VALIDITY));

    let record = trust.store.server(&enrolled.server).unwrap().unwrap();
    assert_eq!((record.name, record.control_key, record.enrolled), (request.name, request.control_key, NOW));
    let segment = trust.store.segment(&record.segment).unwrap().unwrap();
    assert_eq!(segment.key, enrolled.segment_key);
}

#[test]
fn servers_of_a_segment_share_its_key_and_others_do_not() {
    let cluster = cluster();
    let token = cluster.token(TokenGrant { uses: 3, ..grant() });
    let enrol = |name: &str, segment: &str| {
        let segment = Some(SegmentName::new(segment).unwrap());
        let request = EnrolRequest { name: ServerName::new(name).unwrap(), segment, ..enrol_request(&token) };
        cluster.enrol(request).unwrap().segment_key
    };
    let (a, b, c) = (enrol("a", "s1"), enrol("b", "s1"), enrol("c", "s2"));
    assert_eq!(a, b);
    assert_ne!(a, c);
}

#[test]
fn a_token_that_is_wrong_in_any_part_admits_nobody() {
    let cluster = cluster();
    let token = cluster.token(grant());
    let parts: Vec<&str> = token.split('.').collect();
    let (zero16, zero64) = ("0".repeat(16), "0".repeat(64));
    let [prefix, id, secret, root] = [parts[0], parts[1], parts[2], parts[3]];
    let wrong = [
        String::new(),
        format!("prt2.{id}.{secret}.{root}"),
        format!("{prefix}.{zero16}.{secret}.{root}"),
        format!("{prefix}.{id}.{zero64}.{root}"),
        format!("{prefix}.{id}.{secret}.{zero64}"),
        format!("{prefix}.{id}.{secret}"),
        self::cluster().token(grant()),
    ];
    for token in wrong {
        assert!(matches!(cluster.enrol(enrol_request(&token)), Err(EnrolError::TokenInvalid)), "{token}");
    }
    cluster.enrol(enrol_request(&token)).unwrap();
}

#[test]
fn a_token_admits_only_what_it_grants() {
    let cluster = cluster();
    let segment = |name| Some(SegmentName::new(name).unwrap());
    let only_server = Roles { server: true, leader: false };
    let token = cluster.token(TokenGrant { segment: segment("s2"), roles: Some(only_server), ..grant() });
    let asked = enrol_request(&token);
    assert!(matches!(cluster.enrol(asked.clone()), Err(EnrolError::TokenSegment { .. })));
    let asked = EnrolRequest { segment: None, ..asked };
    assert!(matches!(cluster.enrol(asked.clone()), Err(EnrolError::TokenRoles { role: "leader" })));
    let none = EnrolRequest { roles: Roles { server: false, leader: false }, ..asked.clone() };
    assert!(matches!(cluster.enrol(none), Err(EnrolError::NoRole)));

    let late = cluster.trust.enrol(EnrolRequest { roles: only_server, ..asked.clone() }, NOW.after(HOUR));
    assert!(matches!(late, Err(EnrolError::TokenExpired { .. })));
    let enrolled = cluster.enrol(EnrolRequest { roles: only_server, ..asked.clone() }).unwrap();
    let record = cluster.trust.store.server(&enrolled.server).unwrap().unwrap();
    assert_eq!((Some(record.segment), record.roles), (segment("s2"), only_server));
    let again = EnrolRequest { roles: only_server, name: ServerName::new("web2").unwrap(), ..asked };
    assert!(matches!(cluster.enrol(again), Err(EnrolError::TokenUsedUp { .. })));

    let anywhere = EnrolRequest { segment: None, ..enrol_request(&cluster.token(grant())) };
    assert!(matches!(cluster.enrol(anywhere), Err(EnrolError::NoSegment)));
}

#[test]
fn a_taken_name_uses_no_token_up() {
    let cluster = cluster();
    cluster.enrol(enrol_request(&cluster.token(grant()))).unwrap();
    let token = cluster.token(grant());
    assert!(matches!(cluster.enrol(enrol_request(&token)), Err(EnrolError::NameTaken { .. })));
    cluster.enrol(EnrolRequest { name: ServerName::new("web2").unwrap(), ..enrol_request(&token) }).unwrap();
}

#[test]
fn a_request_that_its_key_did_not_sign_or_for_another_kind_of_key_is_refused() {
    let cluster = cluster();
    let token = cluster.token(grant());
    let refused = |csr: String| match cluster.enrol(EnrolRequest { csr, ..enrol_request(&token) }) {
        Err(EnrolError::Request { source, .. }) => source,
        other => panic!("must be refused: {other:?}"),
    };
    assert!(matches!(refused("nonsense".to_owned()), RequestError::Unreadable(_)));
    let p384 = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    assert!(matches!(refused(request_for(&p384)), RequestError::NotP256));

    // The same request with another key of the same kind in it: the signature is the first key's.
    let keys = [(); 2].map(|()| KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap());
    let parameters = CertificateParams::default();
    let mut der = parameters.serialize_request(&keys[0]).unwrap().der().to_vec();
    let own = keys[0].public_key_raw();
    let place = der.windows(own.len()).position(|part| part == own).unwrap();
    der[place..place + own.len()].copy_from_slice(keys[1].public_key_raw());
    let csr = pem("CERTIFICATE REQUEST", &der);
    assert!(matches!(refused(csr), RequestError::Unreadable(rcgen::Error::InvalidCertificationRequestSignature)));
}

#[test]
fn a_password_opens_a_session_until_it_ends() {
    let Cluster { trust, password, .. } = cluster();
    for (user, password) in [("admin", "wrong"), ("nobody", password.as_str()), ("admin", "")] {
        assert!(trust.login(user, password, NOW).unwrap().is_none());
    }
    let login = trust.login("admin", &password, NOW).unwrap().unwrap();
    assert_eq!(trust.session(&login.cookie, NOW).unwrap().as_ref(), Some(&login.principal));
    let end = NOW.after(login::SESSION_LIFETIME);
    assert!(trust.session(&login.cookie, WallTime(end.0 - 1)).unwrap().is_some());
    assert!(trust.session(&login.cookie, end).unwrap().is_none());
    assert!(trust.bearer(&format!("pra1.{}", login.cookie), NOW).unwrap().is_none(), "a session is no API token");

    trust.logout(login.principal.session.as_deref().unwrap()).unwrap();
    assert!(trust.session(&login.cookie, NOW).unwrap().is_none());
    let login = trust.login("admin", &password, NOW).unwrap().unwrap();
    trust.set_password("admin", "another one", Role::Viewer, NOW).unwrap();
    assert!(trust.session(&login.cookie, NOW).unwrap().is_none(), "a new password ends the sessions");
    assert_eq!(trust.login("admin", "another one", NOW).unwrap().unwrap().principal.role, Role::Viewer);
}

#[test]
fn an_api_token_is_worth_its_role_until_it_expires() {
    let Cluster { trust, .. } = cluster();
    let token = trust.create_api_token("pipeline", Role::Publisher, Some(HOUR), NOW).unwrap();
    let bearer = trust.bearer(&token, NOW).unwrap().unwrap();
    assert_eq!((bearer.name.as_str(), bearer.role, bearer.session), ("pipeline", Role::Publisher, None));
    assert!(trust.bearer(&token, NOW.after(HOUR)).unwrap().is_none());
    let mut altered = token.clone();
    let last = if altered.pop() == Some('0') { '1' } else { '0' };
    altered.push(last);
    assert!(trust.bearer(&altered, NOW).unwrap().is_none());
}

fn pem(label: &str, der: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in der.chunks(3) {
        let bits = group.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for place in 0..4 {
            let digit = char::from(DIGITS[(bits >> (18 - 6 * place) & 63) as usize]);
            text.push(if place > group.len() { '=' } else { digit });
        }
    }
    let lines: Vec<&str> = (0..text.len()).step_by(64).map(|at| &text[at..(at + 64).min(text.len())]).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}
