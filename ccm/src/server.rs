//! The CCM's two doors: one TLS port for agents, leaders, fetches and the API, and a plain port on
//! loopback for the console of whoever sits at the machine.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use common::control::ALPN;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt as _;
use transfer::server::ChunkService;
use transfer::store::ObjectStore;
use transfer::tls::{ClientAuth, Peer, peer_of_server_connection, server_config};

use crate::api::{self, ApiState};
use crate::engine::channels::ChannelRange;
use crate::engine::hub::Hub;
use crate::engine::operations::Desk;
use crate::engine::{Engine, EngineError, Parts, now};
use crate::ingest::content::ContentStore;
use crate::leaders;
use crate::store::Store;
use crate::trust::Trust;

/// Port of the TLS door when nothing else is said.
pub const DEFAULT_PORT: u16 = 7443;
/// Port of the console's door when nothing else is said.
pub const DEFAULT_CONSOLE_PORT: u16 = 7480;
/// Connections at once, over both doors.
const CONNECTIONS_MAX: usize = 4096;
/// How long a stranger may take to prove who he is, or to say what he wants.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);

/// What an administrator says about a CCM.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where it keeps everything.
    pub data: PathBuf,
    /// The TLS door.
    pub listen: SocketAddr,
    /// The console's door; loopback only.
    pub console: SocketAddr,
    /// Where the data channels of content groups are taken from.
    pub channels: ChannelRange,
}

/// Why a CCM does not run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A file or directory failed.
    #[error("{path} cannot be {action}")]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another CCM uses the data directory.
    #[error("another content control manager uses {path}")]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// A door cannot be opened.
    #[error("cannot listen on {address}; is it in use? choose another with {flag}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// The flag that changes it.
        flag: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The console would be open to the network without encryption.
    #[error("the console's plain port may only be on loopback, not on {address}; use the TLS port instead")]
    ConsoleNotLocal {
        /// What was asked for.
        address: SocketAddr,
    },
    /// The database failed.
    #[error("the database cannot be opened")]
    Store(#[from] crate::store::StoreError),
    /// Keys could not be made or read.
    #[error("the cluster's keys cannot be used")]
    Trust(#[from] crate::trust::TrustError),
    /// The content store failed.
    #[error("the content store cannot be opened")]
    Content(#[from] crate::ingest::content::ContentError),
    /// The object store failed.
    #[error("the object store cannot be opened")]
    Objects(#[from] transfer::store::StoreError),
    /// The engine failed.
    #[error("runs cannot be executed")]
    Engine(#[from] EngineError),
    /// TLS could not be set up.
    #[error("TLS cannot be set up")]
    Tls(#[from] transfer::tls::TlsError),
}

/// What a CCM says when its doors are open.
#[derive(Debug, Clone)]
pub struct Ready {
    /// The TLS door as it really is.
    pub listen: SocketAddr,
    /// The console's address.
    pub console: SocketAddr,
    /// The one-time password of `admin`, at the first start only.
    pub admin_password: Option<String>,
}

/// Runs a CCM until `stop` resolves.
///
/// # Errors
/// [`ServeError`] when it cannot start; once its doors are open it goes on.
pub async fn serve(
    config: Config,
    ready: impl FnOnce(&Ready),
    stop: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    if !config.console.ip().is_loopback() {
        return Err(ServeError::ConsoleNotLocal { address: config.console });
    }
    create_private_dir(&config.data)?;
    let _lock = lock(&config.data)?;
    let listener = listen(config.listen, "--listen").await?;
    let console = listen(config.console, "--console").await?;
    let address = local(&listener, config.listen, "--listen")?;
    let console_address = local(&console, config.console, "--console")?;

    let store = Store::open(&config.data.join("ccm.db"))?;
    let (trust, created) = Trust::open_or_create(&config.data, store.clone(), now())?;
    let trust = Arc::new(trust);
    let objects = Arc::new(ObjectStore::open(config.data.join("objects"))?);
    let hub = Arc::new(Hub::default());
    let engine = Engine::new(Parts {
        store: store.clone(),
        trust: trust.clone(),
        content: ContentStore::open(&config.data.join("content"))?,
        objects: objects.clone(),
        hub,
        directory: config.data.clone(),
        transfer_address: address,
        channels: config.channels,
    })?;
    engine.start();

    let (notify, notifications) = mpsc::channel(1);
    // Nobody notifies the CCM: it is where notifications come from.
    drop(notifications);
    let enrolled = store.clone();
    let may = move |peer: &Peer, _| match peer {
        Peer::Server(server) => matches!(enrolled.server(server), Ok(Some(_))),
        Peer::Ccm => false,
    };
    let chunks = ChunkService { store: objects, may: Arc::new(may), notify };
    let state = ApiState::new(store, trust.clone(), Arc::new(Desk(engine.clone())), web_ui::asset);
    let plain = api::router(state.clone());
    let app = api::router(state.for_https());
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let door = Arc::new(Door { engine: engine.clone(), chunks: chunks.clone(), app, places: places.clone() });
    let plain_door = Arc::new(Door { engine, chunks, app: plain, places });

    let own = trust.ccm_identity(&[address.ip().to_string()], now())?;
    let authority = transfer::tls::Authority::from_pem(trust.ca_pem())?;
    let identity = transfer::tls::Identity::new(own.chain, own.key, authority);
    let tls = server_config(&identity, &[ALPN, b"http/1.1"], ClientAuth::Optional)?;
    trust.save_address(&format!("https://{}", reachable(address)))?;
    let admin_password = created.map(|created| created.admin_password);
    ready(&Ready { listen: address, console: console_address, admin_password });

    let tls_door = tokio::spawn(accept(listener, Some(TlsAcceptor::from(tls)), door));
    let console_door = tokio::spawn(accept(console, None, plain_door));
    stop.await;
    tls_door.abort();
    console_door.abort();
    tracing::info!("the content control manager stops; unfinished runs go on at its next start");
    Ok(())
}

fn create_private_dir(path: &Path) -> Result<(), ServeError> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|source| ServeError::File {
        action: "created",
        path: path.to_owned(),
        source,
    })
}

fn lock(data: &Path) -> Result<std::fs::File, ServeError> {
    let path = data.join("lock");
    let file = |action| {
        let path = path.clone();
        move |source| ServeError::File { action, path, source }
    };
    let lock = std::fs::File::create(&path).map_err(file("opened"))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(std::fs::TryLockError::WouldBlock) => Err(ServeError::InUse { path: data.to_owned() }),
        Err(std::fs::TryLockError::Error(source)) => Err(file("locked")(source)),
    }
}

async fn listen(address: SocketAddr, flag: &'static str) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address).await.map_err(|source| ServeError::Listen { address, flag, source })
}

fn local(listener: &TcpListener, asked: SocketAddr, flag: &'static str) -> Result<SocketAddr, ServeError> {
    listener.local_addr().map_err(|source| ServeError::Listen { address: asked, flag, source })
}

/// How the command line on this machine reaches a door that is open to every address.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    address
}

struct Door {
    engine: Arc<Engine>,
    chunks: ChunkService,
    app: axum::Router,
    places: Arc<Semaphore>,
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, door: Arc<Door>) {
    loop {
        let Ok(place) = door.places.clone().acquire_owned().await else { return };
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, most likely: existing connections end and free some.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        stream.set_nodelay(true).ok();
        let (door, tls) = (door.clone(), tls.clone());
        tokio::spawn(async move {
            match tls {
                Some(tls) => secure(stream, peer, tls, &door).await,
                None => http(TokioIo::new(stream), peer, None, &door).await,
            }
            drop(place);
        });
    }
}

async fn secure(stream: TcpStream, peer: SocketAddr, tls: TlsAcceptor, door: &Arc<Door>) {
    let stream = match tokio::time::timeout(HANDSHAKE_MAX, tls.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%peer, %error, "a TLS handshake failed");
            return;
        }
        Err(_) => return,
    };
    let (_, connection) = stream.get_ref();
    let identity = peer_of_server_connection(connection);
    if connection.alpn_protocol() == Some(ALPN) {
        match identity {
            Some(Peer::Server(server)) => leaders::serve(door.engine.clone(), stream, server, peer).await,
            Some(Peer::Ccm) | None => tracing::warn!(%peer, "a control connection without a server's certificate"),
        }
        return;
    }
    http(TokioIo::new(stream), peer, identity, door).await;
}

async fn http<S>(stream: TokioIo<S>, peer: SocketAddr, identity: Option<Peer>, door: &Arc<Door>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(|mut request: hyper::Request<Incoming>| {
        let (door, identity) = (door.clone(), identity);
        request.extensions_mut().insert(axum::extract::ConnectInfo(peer));
        if let Some(identity) = identity {
            request.extensions_mut().insert(identity);
        }
        async move {
            let path = request.uri().path();
            if path.starts_with("/o/") || path == "/notify" {
                let response = door.chunks.handle(identity, request).await;
                return Ok::<_, std::convert::Infallible>(response.map(axum::body::Body::new));
            }
            door.app.clone().oneshot(request.map(axum::body::Body::new)).await
        }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HANDSHAKE_MAX)
        .serve_connection(stream, service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%peer, %error, "an HTTP connection ended early");
    }
}
