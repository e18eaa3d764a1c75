//! What a member that multicast leaves behind does: it fetches the rest from the sender, as an agent does from
//! its leader.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use common::control::Source;
use common::ids::ServerId;
use common::ticket::Ticket;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    SanType,
};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use transfer::fetch::{Beginning, Fetcher};
use transfer::http::ALPN;
use transfer::server::{ChunkService, serve};
use transfer::store::ObjectStore;
use transfer::tls::{ClientAuth, DNS_NAME, Identity, Peer, client_config, server_config};

use crate::party::{CastError, LEADER, server};

/// Makes an authority, and certificates under it for the sender and this many members.
pub(crate) fn make_identities(directory: &Path, members: u16) -> Result<(), CastError> {
    let certificates = |source| CastError::Certificates { source };
    let mut params = CertificateParams::new(Vec::new()).map_err(certificates)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().map_err(certificates)?);
    let authority = authority.map_err(certificates)?;
    let write = |name: String, text: String| {
        fs::write(directory.join(name), text).map_err(|source| CastError::System { what: "writing a key", source })
    };
    for number in 0..=members {
        let mut params = CertificateParams::new(vec![DNS_NAME.to_owned()]).map_err(certificates)?;
        let uri = Peer::Server(server(number)).to_uri().try_into().map_err(certificates)?;
        params.subject_alt_names.push(SanType::URI(uri));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().map_err(certificates)?;
        let certificate = params.signed_by(&key, &authority).map_err(certificates)?;
        write(format!("{number}.pem"), certificate.pem())?;
        write(format!("{number}.key"), key.serialize_pem())?;
    }
    write("ca.pem".to_owned(), authority.pem())
}

fn identity(directory: &Path, number: u16) -> Result<Identity, CastError> {
    let read = |name: String| {
        fs::read_to_string(directory.join(name)).map_err(|source| CastError::System { what: "reading a key", source })
    };
    let (chain, key) = (read(format!("{number}.pem"))?, read(format!("{number}.key"))?);
    Ok(Identity::from_pem(&chain, &key, &read("ca.pem".to_owned())?)?)
}

/// Serves objects from this store to all members, at a port of this address; gives the port.
pub(crate) async fn serve_objects(
    directory: &Path,
    address: SocketAddr,
    store: Arc<ObjectStore>,
) -> Result<u16, CastError> {
    let system = |what| move |source| CastError::System { what, source };
    let config = server_config(&identity(directory, LEADER)?, &[ALPN], ClientAuth::Required)?;
    let listener = TcpListener::bind(address).await.map_err(system("listening"))?;
    let port = listener.local_addr().map_err(system("listening"))?.port();
    let (notify, _) = mpsc::channel(1);
    let service = Arc::new(ChunkService { store, may: Arc::new(|_, _| true), notify });
    tokio::spawn(serve(listener, config, service, std::future::pending()));
    Ok(port)
}

/// Fetches what is lacking of an object from its sender.
pub(crate) async fn fetch(
    directory: &Path,
    number: u16,
    store: Arc<ObjectStore>,
    (leader, address): (ServerId, SocketAddr),
    ticket: &Ticket,
    beginning: Option<Beginning>,
) -> Result<(), CastError> {
    let identity = identity(directory, number)?;
    let fetcher = Fetcher::new(client_config(Some(&identity), identity.authority(), &[ALPN])?, store);
    let source = Source { server: Some(leader), address };
    fetcher.fetch_rest(ticket, &source, beginning, |_| ()).await.map_err(|error| CastError::Fetch(Box::new(error)))
}
