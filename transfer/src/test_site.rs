//! Sites that serve objects over real TLS on the loopback, and a wire between them that counts and
//! breaks, for tests.

use std::io::Read as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::control::{Notification, Source};
use common::digest::Digest;
use common::ids::{AssignmentNumber, ClusterId, RunNumber, SiteName};
use common::keys::{PublishKey, SecretKey, Signed};
use common::ticket::Ticket;
use common::time::WallTime;
use rustls::ServerConfig;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use crate::chunk::chunk_bytes_for;
use crate::fetch::{Fetcher, Patience};
use crate::server::{ChunkService, Incoming, serve};
use crate::store::ObjectStore;
use crate::test_pki::TestCa;
use crate::tls::{ClientAuth, Peer};

pub(crate) fn content(length: usize) -> Vec<u8> {
    (0..length as u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u8).collect()
}

pub(crate) fn ticket(bytes: &[u8]) -> Ticket {
    let length = bytes.len() as u64;
    Ticket {
        cluster: ClusterId([1; 16]),
        site: SiteName::new("www").unwrap(),
        assignment: AssignmentNumber(1),
        run: RunNumber(1),
        object: Digest::of(bytes),
        length,
        chunk_bytes: chunk_bytes_for(length),
        targets: Vec::new(),
        expires: WallTime(u64::MAX),
        channel: None,
    }
}

pub(crate) fn notification(bytes: &[u8], source: &Source) -> Notification {
    let key = PublishKey { epoch: 1, key: SecretKey::from_bytes(&[7; 32]) };
    Notification { ticket: Signed::sign(&ticket(bytes), &key), inline: None, source: source.clone(), last: true }
}

pub(crate) fn source(peer: Peer, address: SocketAddr) -> Source {
    let server = match peer {
        Peer::Ccm => None,
        Peer::Server(id) => Some(id),
    };
    Source { server, address }
}

pub(crate) fn read(store: &ObjectStore, digest: Digest) -> Vec<u8> {
    let mut bytes = Vec::new();
    store.open_object(digest).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

/// Tries again at once, so that tests need not wait.
pub(crate) const QUICK: Patience = Patience {
    tries: 5,
    first_pause: Duration::from_millis(5),
    longest_pause: Duration::from_millis(20),
    idle: Duration::from_secs(10),
};

/// Whoever holds objects; serves them once [`Site::serve`] was called.
pub(crate) struct Site {
    pub(crate) peer: Peer,
    pub(crate) store: Arc<ObjectStore>,
    pub(crate) service: Arc<ChunkService>,
    pub(crate) notifications: mpsc::Receiver<Incoming>,
    /// Objects that were asked about, one entry per request.
    pub(crate) asked: Arc<Mutex<Vec<(Peer, Digest)>>>,
    /// Objects that nobody may have.
    pub(crate) secret: Arc<Mutex<Vec<Digest>>>,
    config: Arc<ServerConfig>,
    client: Arc<rustls::ClientConfig>,
    _dir: TempDir,
}

pub(crate) struct Serving {
    pub(crate) address: SocketAddr,
    pub(crate) task: AbortOnDropHandle<()>,
}

impl Site {
    pub(crate) fn new(ca: &TestCa, peer: Peer) -> Self {
        Self::with_client_auth(ca, peer, ClientAuth::Required)
    }

    pub(crate) fn with_client_auth(ca: &TestCa, peer: Peer, client_auth: ClientAuth) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(ObjectStore::open(dir.path()).unwrap());
        let (asked, secret) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Vec::new())));
        let (log, hidden) = (Arc::clone(&asked), Arc::clone(&secret));
        let may = move |peer: &Peer, digest| {
            log.lock().unwrap().push((*peer, digest));
            !hidden.lock().unwrap().contains(&digest)
        };
        let (notify, notifications) = mpsc::channel(1);
        let service = Arc::new(ChunkService { store: Arc::clone(&store), may: Arc::new(may), notify });
        let (config, client) = (ca.server_config(peer, client_auth), ca.client_config(peer));
        Self { peer, store, service, notifications, asked, secret, config, client, _dir: dir }
    }

    pub(crate) async fn serve(&self) -> Serving {
        self.serve_at("127.0.0.1:0".parse().unwrap()).await
    }

    pub(crate) async fn serve_at(&self, address: SocketAddr) -> Serving {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = serve(listener, Arc::clone(&self.config), Arc::clone(&self.service), std::future::pending());
        Serving { address, task: AbortOnDropHandle::new(tokio::spawn(serving)) }
    }

    pub(crate) fn source(&self, address: SocketAddr) -> Source {
        source(self.peer, address)
    }

    pub(crate) fn fetcher(&self) -> Fetcher {
        Fetcher::new(Arc::clone(&self.client), Arc::clone(&self.store)).with_patience(QUICK)
    }

    pub(crate) fn client(&self) -> Arc<rustls::ClientConfig> {
        Arc::clone(&self.client)
    }
}

/// What happens to the bytes that go towards the client on one connection.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    None,
    /// The connection ends after so many bytes.
    Cut(u64),
    /// The byte at this place changes.
    Flip(u64),
}

/// Passes connections on and counts the bytes towards the client, per connection.
pub(crate) struct Wire {
    pub(crate) address: SocketAddr,
    carried: Arc<Mutex<Vec<u64>>>,
    _task: AbortOnDropHandle<()>,
}

impl Wire {
    /// The n-th connection suffers the n-th fault; later ones none.
    pub(crate) async fn to(target: SocketAddr, faults: Vec<Fault>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let carried = Arc::new(Mutex::new(Vec::new()));
        let counts = Arc::clone(&carried);
        let task = tokio::spawn(async move {
            let mut faults = faults.into_iter();
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let fault = faults.next().unwrap_or(Fault::None);
                let counts = Arc::clone(&counts);
                let number = {
                    let mut counts = counts.lock().unwrap();
                    counts.push(0);
                    counts.len() - 1
                };
                connections.spawn(async move {
                    let Ok(server) = TcpStream::connect(target).await else { return };
                    let (mut from_client, mut to_client) = client.into_split();
                    let (mut from_server, mut to_server) = server.into_split();
                    let up = AbortOnDropHandle::new(tokio::spawn(async move {
                        _ = tokio::io::copy(&mut from_client, &mut to_server).await;
                    }));
                    let mut buffer = vec![0; 64 << 10];
                    let mut passed = 0;
                    while let Ok(mut bytes @ 1..) = from_server.read(&mut buffer).await {
                        let before = passed;
                        match fault {
                            Fault::None => {}
                            Fault::Cut(after) => bytes = bytes.min(usize::try_from(after - before).unwrap()),
                            Fault::Flip(place) => {
                                if (before..before + bytes as u64).contains(&place) {
                                    buffer[usize::try_from(place - before).unwrap()] ^= 1;
                                }
                            }
                        }
                        if to_client.write_all(&buffer[..bytes]).await.is_err() {
                            break;
                        }
                        passed += bytes as u64;
                        counts.lock().unwrap()[number] = passed;
                        if matches!(fault, Fault::Cut(after) if after == passed) {
                            break;
                        }
                    }
                    drop(up);
                });
            }
        });
        Self { address, carried, _task: AbortOnDropHandle::new(task) }
    }

    /// Bytes towards the client, per connection.
    pub(crate) fn carried(&self) -> Vec<u64> {
        self.carried.lock().unwrap().clone()
    }

    pub(crate) fn total(&self) -> u64 {
        self.carried().iter().sum()
    }
}

/// A server that gives the same text to every request, and none at all when it is empty.
pub(crate) async fn parrot(ca: &TestCa, peer: Peer, answer: &'static str) -> Serving {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(ca.server_config(peer, ClientAuth::Required));
    let task = tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            connections.spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let mut request = Vec::new();
                let mut buffer = [0; 1024];
                while let Ok(bytes @ 1..) = stream.read(&mut buffer).await {
                    request.extend_from_slice(&buffer[..bytes]);
                    if request.ends_with(b"\r\n\r\n") && !answer.is_empty() {
                        request.clear();
                        _ = stream.write_all(answer.as_bytes()).await;
                        _ = stream.flush().await;
                    }
                }
            });
        }
    });
    Serving { address, task: AbortOnDropHandle::new(task) }
}
