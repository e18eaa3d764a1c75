//! The accept loop: how many connections there may be, and how long each may do nothing.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep, sleep};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::ChunkService;
use crate::tls::{Peer, peer_of_server_connection};

/// Read buffer of a connection, in bytes: requests are short.
const BUFFER_BYTES: usize = 64 << 10;

#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Connections at a time. More wait until the system accepts them.
    pub(super) connections: usize,
    /// Longest handshake.
    pub(super) handshake: Duration,
    /// Longest pause between two requests.
    pub(super) idle: Duration,
    /// Longest time in which a client takes not one byte of an answer.
    pub(super) stall: Duration,
    /// How long answers under way may go on after the shutdown.
    pub(super) farewell: Duration,
    /// Pause after the system refused to accept, for want of descriptors as a rule.
    pub(super) after_failure: Duration,
}

impl Limits {
    pub(super) const DEFAULT: Self = Self {
        connections: 256,
        handshake: Duration::from_secs(5),
        idle: Duration::from_secs(30),
        stall: Duration::from_secs(30),
        farewell: Duration::from_secs(5),
        after_failure: Duration::from_millis(100),
    };
}

/// The TLS configuration of [`serve`]: one for good, or the latest of those that follow each other
/// as certificates are renewed.
#[derive(Debug, Clone)]
pub enum ServerTls {
    /// The same for every connection.
    Fixed(Arc<ServerConfig>),
    /// Every new connection takes the latest.
    Renewed(watch::Receiver<Arc<ServerConfig>>),
}

impl From<Arc<ServerConfig>> for ServerTls {
    fn from(config: Arc<ServerConfig>) -> Self {
        Self::Fixed(config)
    }
}

impl From<watch::Receiver<Arc<ServerConfig>>> for ServerTls {
    fn from(configs: watch::Receiver<Arc<ServerConfig>>) -> Self {
        Self::Renewed(configs)
    }
}

impl ServerTls {
    fn current(&self) -> Arc<ServerConfig> {
        match self {
            Self::Fixed(config) => Arc::clone(config),
            Self::Renewed(configs) => Arc::clone(&configs.borrow()),
        }
    }
}

/// Serves until `shutdown` is done: up to 256 connections at a time, 5 s for a handshake, 30 s of
/// idleness. Then lets answers under way go on for up to 5 s. Dropping it ends all at once.
pub async fn serve(
    listener: TcpListener,
    tls: impl Into<ServerTls>,
    service: Arc<ChunkService>,
    shutdown: impl Future<Output = ()>,
) {
    serve_within(Limits::DEFAULT, listener, tls.into(), service, shutdown).await;
}

pub(super) async fn serve_within(
    limits: Limits,
    listener: TcpListener,
    tls: ServerTls,
    service: Arc<ChunkService>,
    shutdown: impl Future<Output = ()>,
) {
    let mut shutdown = pin!(shutdown);
    let places = Arc::new(Semaphore::new(limits.connections));
    let stop = CancellationToken::new();
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            Some(ended) = connections.join_next() => report(ended),
            accepted = accept(&listener, &places) => match accepted {
                Ok((stream, place)) => {
                    let (config, service, stop) = (tls.current(), Arc::clone(&service), stop.clone());
                    connections.spawn(async move {
                        connection(limits, stream, config, service, stop).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "cannot accept a connection");
                    sleep(limits.after_failure).await;
                }
            },
        }
    }
    drop(listener);
    stop.cancel();
    let farewell = async {
        while let Some(ended) = connections.join_next().await {
            report(ended);
        }
    };
    _ = tokio::time::timeout(limits.farewell, farewell).await;
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(error = &error as &dyn std::error::Error, "a connection ended in a defect");
    }
}

async fn accept(listener: &TcpListener, places: &Arc<Semaphore>) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.expect("the semaphore is never closed");
    let (stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok((stream, place))
}

async fn connection(
    limits: Limits,
    stream: TcpStream,
    config: Arc<ServerConfig>,
    service: Arc<ChunkService>,
    stop: CancellationToken,
) {
    let handshake = tokio::time::timeout(limits.handshake, TlsAcceptor::from(config).accept(stream));
    let stream = tokio::select! {
        () = stop.cancelled() => return,
        stream = handshake => stream,
    };
    match stream {
        Ok(Ok(stream)) => {
            let peer = peer_of_server_connection(stream.get_ref().1);
            serve_stream_within(limits, stream, peer, service, stop.cancelled()).await;
        }
        Ok(Err(error)) => tracing::debug!(error = &error as &dyn std::error::Error, "a TLS handshake failed"),
        Err(_) => tracing::debug!("a TLS handshake took too long"),
    }
}

/// Serves one connection whose handshake is done and whose client is `peer`: for those who accept
/// connections of several protocols themselves. After `stop`, the answer under way is the last.
pub async fn serve_stream<S>(stream: S, peer: Option<Peer>, service: Arc<ChunkService>, stop: impl Future<Output = ()>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    serve_stream_within(Limits::DEFAULT, stream, peer, service, stop).await;
}

async fn serve_stream_within<S>(
    limits: Limits,
    stream: S,
    peer: Option<Peer>,
    service: Arc<ChunkService>,
    stop: impl Future<Output = ()>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let answer = service_fn(move |request| {
        let service = Arc::clone(&service);
        async move { Ok::<_, Infallible>(service.handle(peer, request).await) }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.idle)
            .max_buf_size(BUFFER_BYTES)
            .serve_connection(TokioIo::new(Guarded::new(stream, limits.stall)), answer)
    );
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = stop => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error = &error as &dyn std::error::Error, "a connection broke");
    }
}

/// A stream on which no write may stall for ever: a client that stops reading would otherwise hold
/// its place as long as it likes.
struct Guarded<S> {
    stream: S,
    stall: Duration,
    deadline: Pin<Box<Sleep>>,
    stalled: bool,
}

impl<S: Unpin> Guarded<S> {
    fn new(stream: S, stall: Duration) -> Self {
        Self { stream, stall, deadline: Box::pin(sleep(stall)), stalled: false }
    }

    fn guard<T>(
        &mut self,
        context: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut S>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        match write(Pin::new(&mut self.stream), context) {
            Poll::Ready(done) => {
                self.stalled = false;
                Poll::Ready(done)
            }
            Poll::Pending => {
                if !self.stalled {
                    self.stalled = true;
                    self.deadline.as_mut().reset(Instant::now() + self.stall);
                }
                ready!(self.deadline.as_mut().poll(context));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().guard(context, |stream, context| stream.poll_write(context, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().guard(context, |stream, context| stream.poll_write_vectored(context, slices))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().guard(context, AsyncWrite::poll_flush)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().guard(context, AsyncWrite::poll_shutdown)
    }
}
