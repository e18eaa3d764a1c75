//! The control connection to the CCM: opened while this server leads, opened again when lost.
//!
//! Whatever must survive a lost connection is said again by the owner when [`Event::Connected`]
//! arrives; nothing is queued across connections.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use common::control::{ToCcm, ToLeader};
use common::framing;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

/// A byte stream to the CCM, authenticated both ways.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Opens the stream.
pub type Connect =
    Arc<dyn Fn() -> Pin<Box<dyn Future<Output = std::io::Result<Box<dyn Stream>>> + Send>> + Send + Sync>;

/// First pause before connecting again; doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(100);
/// Longest pause before connecting again.
const RETRY_MAX: Duration = Duration::from_secs(2);
/// How often something is said, so that both sides notice a dead connection.
const PING_INTERVAL: Duration = Duration::from_secs(5);
/// A CCM that says nothing for this long is taken for gone.
const SILENCE_MAX: Duration = Duration::from_secs(15);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const QUEUE_MAX: usize = 1024;

/// What happens on the connection.
#[derive(Debug)]
pub enum Event {
    /// It stands; nothing said before counts.
    Connected,
    /// The CCM says this.
    Message(Box<ToLeader>),
    /// It is gone; another attempt is under way.
    Disconnected,
}

/// The connection, for as long as it is held. Dropping it closes it.
#[derive(Debug)]
pub struct Uplink {
    messages: mpsc::Sender<ToCcm>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Uplink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Uplink {
    /// Starts connecting. `hello` is the first message on every connection.
    #[must_use]
    pub fn start(connect: Connect, hello: ToCcm, events: mpsc::Sender<Event>) -> Self {
        let (messages, queue) = mpsc::channel(QUEUE_MAX);
        let task = tokio::spawn(run(connect, hello, queue, events));
        Self { messages, task }
    }

    /// Says something. When the connection is down or does not keep up the message is dropped: the
    /// state that it carried is said again on the next connection.
    pub fn say(&self, message: ToCcm) {
        if self.messages.try_send(message).is_err() {
            tracing::debug!("the control connection does not keep up; a message was dropped");
        }
    }
}

async fn run(connect: Connect, hello: ToCcm, mut queue: mpsc::Receiver<ToCcm>, events: mpsc::Sender<Event>) {
    let mut pause = RETRY_MIN;
    loop {
        match timeout(CONNECT_TIMEOUT, connect()).await {
            Ok(Ok(stream)) => {
                while queue.try_recv().is_ok() {}
                let since = Instant::now();
                if let Err(error) = converse(stream, &hello, &mut queue, &events).await {
                    tracing::info!(%error, "the control connection to the content control manager is lost");
                }
                if events.send(Event::Disconnected).await.is_err() {
                    return;
                }
                // A CCM that refuses us at once is not hammered.
                pause = if since.elapsed() > RETRY_MAX { RETRY_MIN } else { (pause * 2).min(RETRY_MAX) };
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, "the content control manager cannot be reached");
                pause = (pause * 2).min(RETRY_MAX);
            }
            Err(_) => tracing::debug!("the content control manager does not answer"),
        }
        sleep(pause).await;
    }
}

async fn converse(
    stream: Box<dyn Stream>,
    hello: &ToCcm,
    queue: &mut mpsc::Receiver<ToCcm>,
    events: &mpsc::Sender<Event>,
) -> std::io::Result<()> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    write(&mut writer, hello).await?;
    let gone = || std::io::Error::from(std::io::ErrorKind::BrokenPipe);
    events.send(Event::Connected).await.map_err(|_| gone())?;
    let read = async {
        loop {
            let message = timeout(SILENCE_MAX, read(&mut reader))
                .await
                .map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
            if message != ToLeader::Pong {
                events.send(Event::Message(Box::new(message))).await.map_err(|_| gone())?;
            }
        }
    };
    let write = async {
        let mut ping = tokio::time::interval(PING_INTERVAL);
        loop {
            let message = tokio::select! {
                message = queue.recv() => message.ok_or_else(gone)?,
                _ = ping.tick() => ToCcm::Ping,
            };
            write(&mut writer, &message).await?;
        }
    };
    tokio::select! { result = read => result, result = write => result }
}

async fn write(writer: &mut (impl AsyncWrite + Unpin), message: &ToCcm) -> std::io::Result<()> {
    let bytes = framing::encode(message).map_err(std::io::Error::other)?;
    writer.write_all(&bytes).await?;
    writer.flush().await
}

async fn read(reader: &mut (impl AsyncRead + Unpin)) -> std::io::Result<ToLeader> {
    let mut prefix = [0; 4];
    reader.read_exact(&mut prefix).await?;
    let length = framing::body_length(prefix).map_err(std::io::Error::other)?;
    let mut body = Vec::new();
    reader.take(length as u64).read_to_end(&mut body).await?;
    framing::decode(&body).map_err(std::io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_lost_connection_is_opened_again_and_starts_with_hello() {
        let (servers, mut accepted) = mpsc::channel(4);
        let connect: Connect = Arc::new(move || {
            let servers = servers.clone();
            Box::pin(async move {
                let (client, server) = tokio::io::duplex(4096);
                servers.send(server).await.map_err(std::io::Error::other)?;
                Ok(Box::new(client) as Box<dyn Stream>)
            })
        });
        let hello =
            ToCcm::Hello { transfer_address: std::net::SocketAddr::from(([127, 0, 0, 1], 1)), software: "1".into() };
        let (events, mut happened) = mpsc::channel(4);
        let _uplink = Uplink::start(connect, hello.clone(), events);
        for _ in 0..2 {
            let mut server = accepted.recv().await.expect("connects");
            let mut prefix = [0; 4];
            server.read_exact(&mut prefix).await.expect("a message");
            let mut body = vec![0; framing::body_length(prefix).expect("short")];
            server.read_exact(&mut body).await.expect("a message");
            assert_eq!(framing::decode::<ToCcm>(&body), Ok(hello.clone()));
            assert!(matches!(happened.recv().await, Some(Event::Connected)));
            server.write_all(&framing::encode(&ToLeader::ReportSegment).expect("short")).await.expect("writes");
            assert!(
                matches!(happened.recv().await, Some(Event::Message(message)) if *message == ToLeader::ReportSegment)
            );
            drop(server);
            assert!(matches!(happened.recv().await, Some(Event::Disconnected)));
        }
    }
}
