//! Getting an object from a source that has it, and telling others to get theirs.
//!
//! The missing chunks are asked for in as few requests as their gaps allow: one for an object that
//! is not here at all, before it one for the chunk table when there is more than one chunk. Every
//! chunk is verified before it counts. When the connection breaks, the next one asks only for what
//! is still missing; after a restart of the program too, from what had been made durable.
//!
//! A chunk that is wrong ends the fetch at once: the connection is protected, so it is the source
//! that is wrong, and it would be wrong again.
//!
//! Leaves to others: choosing sources, and verifying the ticket's signature before it comes here.

mod beginning;
mod error;
mod patch;

use std::collections::BTreeMap;
use std::error::Error;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use common::control::{Notification, Source};
use common::digest::Digest;
use common::ticket::Ticket;
use hyper::StatusCode;
use rustls::ClientConfig;
use tokio::sync::Mutex as AsyncMutex;
use tokio::task::JoinHandle;

use crate::chunk::{ChunkTable, TABLE_BYTES_MAX, TableError};
use crate::http::{Connection, HttpError, IDLE_TIMEOUT, Response};
use crate::server::{NOTIFICATION_BYTES_MAX, object_path, table_path};
use crate::store::{Assembler, ObjectStore, StoreError};
use crate::task::{blocking, joined};
use crate::tls::Peer;
pub use beginning::Beginning;
pub use error::{FetchError, NotifyError};

/// How often and how soon a source is asked again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// Tries in a row that bring not a single chunk, after which the fetch fails. Default 5: with
    /// the pauses below, a source may restart within some 4 s unnoticed.
    pub tries: u32,
    /// Pause before the second try; doubles with each. Default 250 ms.
    pub first_pause: Duration,
    /// Longest pause. Default 8 s.
    pub longest_pause: Duration,
    /// How long an answer may keep us waiting. Default [`IDLE_TIMEOUT`].
    pub idle: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            tries: 5,
            first_pause: Duration::from_millis(250),
            longest_pause: Duration::from_secs(8),
            idle: IDLE_TIMEOUT,
        }
    }
}

impl Patience {
    fn pause_after(&self, tries: u32) -> Duration {
        self.first_pause.saturating_mul(1_u32 << tries.saturating_sub(1).min(16)).min(self.longest_pause)
    }
}

/// Fetches objects into a store.
#[derive(Debug)]
pub struct Fetcher {
    tls: Mutex<Arc<ClientConfig>>,
    store: Arc<ObjectStore>,
    patience: Patience,
    /// One fetch per object at a time: who comes second finds the object here.
    turns: Mutex<BTreeMap<Digest, Weak<AsyncMutex<()>>>>,
}

fn peer_of(source: &Source) -> Peer {
    source.server.map_or(Peer::Ccm, Peer::Server)
}

impl Fetcher {
    /// Fetches under this identity into this store. The configuration must offer
    /// [`crate::http::ALPN`].
    #[must_use]
    pub fn new(tls: Arc<ClientConfig>, store: Arc<ObjectStore>) -> Self {
        Self { tls: Mutex::new(tls), store, patience: Patience::default(), turns: Mutex::default() }
    }

    /// Is patient in another way than the usual one.
    #[must_use]
    pub fn with_patience(mut self, patience: Patience) -> Self {
        self.patience = patience;
        self
    }

    /// Takes another TLS configuration for all connections from now on: the certificate was renewed.
    pub fn renew(&self, tls: Arc<ClientConfig>) {
        *self.tls.lock().unwrap_or_else(PoisonError::into_inner) = tls;
    }

    fn tls(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.tls.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn turn(&self, object: Digest) -> Arc<AsyncMutex<()>> {
        let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = turns.get(&object).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::new(AsyncMutex::new(()));
        turns.insert(object, Arc::downgrade(&turn));
        turn
    }

    /// Gets the object of a ticket from a source. Returns when it is here, complete, verified and
    /// durable; at once when it was already. `progress` hears how many of its bytes are verified.
    ///
    /// Dropping the future ends the fetch; what was verified stays for the next one.
    ///
    /// # Errors
    /// [`FetchError`]. Errors that may pass were met with [`Patience`] before they are returned.
    pub async fn fetch(
        &self,
        ticket: &Ticket,
        source: &Source,
        progress: impl Fn(u64) + Send + Sync,
    ) -> Result<(), FetchError> {
        self.fetch_rest(ticket, source, None, |assembler| progress(assembler.verified_bytes())).await
    }

    /// As [`Fetcher::fetch`], and does not fetch what a file holds already. `progress` is shown what is here
    /// of the object, after each chunk; it is called on the thread of the fetch and must not block.
    ///
    /// # Errors
    /// As [`Fetcher::fetch`].
    pub async fn fetch_rest(
        &self,
        ticket: &Ticket,
        source: &Source,
        beginning: Option<Beginning>,
        progress: impl Fn(&Assembler) + Send + Sync,
    ) -> Result<(), FetchError> {
        let turn = self.turn(ticket.object);
        let _turn = turn.lock().await;
        let (store, object) = (Arc::clone(&self.store), ticket.object);
        if blocking(move || store.contains(object)).await {
            return Ok(());
        }
        let mut work = Work {
            fetcher: self,
            ticket,
            peer: peer_of(source),
            address: source.address,
            progress: &progress,
            beginning,
            connection: None,
            held: Held(None),
            verified_bytes: 0,
            damaged: false,
        };
        let mut tries = 0;
        let result = loop {
            let before = work.verified_bytes;
            let Err(error) = work.attempt().await else { break Ok(()) };
            work.connection = None;
            tries = if work.verified_bytes > before { 1 } else { tries + 1 };
            if !error.may_pass() || tries >= self.patience.tries {
                break Err(error);
            }
            let pause = self.patience.pause_after(tries);
            tracing::debug!(%object, error = &error as &dyn Error, ?pause, "the fetch is tried again");
            tokio::time::sleep(pause).await;
        };
        // What is verified becomes durable before the caller hears of the end.
        let held = work.held.0.take();
        blocking(move || drop(held)).await;
        result
    }

    /// Tells somebody where an object can be had, and waits up to `wait` until it is there.
    ///
    /// # Errors
    /// [`NotifyError`]. Tried once: notifications can be repeated without harm.
    pub async fn notify(&self, to: &Source, notification: &Notification, wait: Duration) -> Result<(), NotifyError> {
        let (peer, address) = (peer_of(to), to.address);
        let body = postcard::to_stdvec(notification).expect("plain data has a binary form");
        if body.len() > NOTIFICATION_BYTES_MAX {
            return Err(NotifyError::TooLong { bytes: body.len(), bytes_max: NOTIFICATION_BYTES_MAX });
        }
        let failed = |error: HttpError| match error {
            HttpError::Connect { source, .. } => NotifyError::Unreachable { peer, address, source },
            HttpError::TimedOut { .. } => NotifyError::TimedOut { peer, address, source: error },
            HttpError::Lost { .. } | HttpError::TooLong { .. } => NotifyError::Lost { peer, address, source: error },
        };
        let mut connection = Connection::open(&self.tls(), address, peer).await.map_err(failed)?;
        let response = connection.post("/notify", body, wait).await.map_err(failed)?;
        match response.status() {
            StatusCode::OK => Ok(()),
            StatusCode::CONFLICT => Err(NotifyError::Unwanted { peer, address, reason: response.reason().await }),
            StatusCode::SERVICE_UNAVAILABLE => {
                Err(NotifyError::Failed { peer, address, reason: response.reason().await })
            }
            status => Err(NotifyError::Refused { peer, address, status, reason: response.reason().await }),
        }
    }
}

/// An assembler that is not let go on an async thread, where making its state durable would block
/// others.
struct Held(Option<Assembler>);

impl Drop for Held {
    fn drop(&mut self) {
        let Some(assembler) = self.0.take() else { return };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn_blocking(move || drop(assembler));
        }
    }
}

/// One fetch under way.
struct Work<'a, P> {
    fetcher: &'a Fetcher,
    ticket: &'a Ticket,
    peer: Peer,
    address: SocketAddr,
    progress: &'a P,
    /// Taken over before anything is fetched.
    beginning: Option<Beginning>,
    connection: Option<Connection>,
    held: Held,
    verified_bytes: u64,
    /// Whether verified chunks once read back wrong.
    damaged: bool,
}

/// Missing chunks as runs of neighbours: first and last of each.
fn runs(missing: &[u32]) -> Vec<(u32, u32)> {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for index in missing {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == *index => *last = *index,
            Some(_) | None => runs.push((*index, *index)),
        }
    }
    runs
}

impl<P: Fn(&Assembler) + Send + Sync> Work<'_, P> {
    async fn attempt(&mut self) -> Result<(), FetchError> {
        let assembler = match &self.held.0 {
            Some(assembler) => assembler.clone(),
            None => self.begin().await?,
        };
        loop {
            let asked = assembler.clone();
            let missing = blocking(move || asked.missing()).await;
            for (first, last) in runs(&missing) {
                self.get_run(&assembler, first, last).await?;
            }
            if !missing.is_empty() {
                continue;
            }
            let finishing = assembler.clone();
            match blocking(move || finishing.finish()).await {
                // Chunks that our own disk lost are missing again. A disk that does so twice is
                // given up on.
                Err(StoreError::Damaged { .. }) if !self.damaged => {
                    self.damaged = true;
                    self.verified_bytes = assembler.verified_bytes();
                }
                finished => return Ok(finished?),
            }
        }
    }

    async fn begin(&mut self) -> Result<Assembler, FetchError> {
        let Ticket { object, length, chunk_bytes, .. } = *self.ticket;
        let table = match ChunkTable::single(object, length, chunk_bytes) {
            Ok(table) => table,
            Err(TableError::Malformed { .. }) => self.get_table().await?,
            Err(source) => return Err(FetchError::Ticket { object, source }),
        };
        let (store, beginning) = (Arc::clone(&self.fetcher.store), self.beginning.take());
        let whole = beginning.clone();
        let (assembler, verified_bytes) = blocking(move || {
            let assembler = store.partial(object, length, table)?;
            if let Some(beginning) = whole {
                beginning.take_over(&assembler, length)?;
            }
            let verified_bytes = assembler.verified_bytes();
            Ok::<_, StoreError>((assembler, verified_bytes))
        })
        .await?;
        self.held.0 = Some(assembler.clone());
        self.verified_bytes = verified_bytes;
        (self.progress)(&assembler);
        if let Some(beginning) = beginning {
            self.patch(&assembler, beginning).await?;
        }
        Ok(assembler)
    }

    async fn connection(&mut self) -> Result<&mut Connection, FetchError> {
        if self.connection.is_none() {
            let opened = Connection::open(&self.fetcher.tls(), self.address, self.peer).await;
            let opened = opened.map_err(|error| self.http(error))?;
            self.connection = Some(opened.with_idle_timeout(self.fetcher.patience.idle));
        }
        Ok(self.connection.as_mut().expect("was just opened"))
    }

    fn http(&self, error: HttpError) -> FetchError {
        FetchError::of_http(self.address, error)
    }

    fn malformed(&self) -> FetchError {
        FetchError::Malformed { peer: self.peer, address: self.address, object: self.ticket.object }
    }

    async fn refused(&self, response: Response) -> FetchError {
        let (peer, address, object) = (self.peer, self.address, self.ticket.object);
        match response.status() {
            StatusCode::NOT_FOUND => FetchError::NotHeld { peer, address, object },
            status => FetchError::Refused { peer, address, status, reason: response.reason().await },
        }
    }

    async fn get_table(&mut self) -> Result<ChunkTable, FetchError> {
        let Ticket { object, length, chunk_bytes, .. } = *self.ticket;
        let response = self.connection().await?.get(&table_path(object), None).await;
        let response = response.map_err(|error| self.http(error))?;
        if response.status() != StatusCode::OK {
            return Err(self.refused(response).await);
        }
        let bytes = response.read(TABLE_BYTES_MAX).await.map_err(|error| self.http(error))?;
        let table = ChunkTable::from_bytes(&bytes, object)
            .and_then(|table| table.check_announced(length, chunk_bytes).map(|()| table));
        table.map_err(|source| FetchError::WrongTable { peer: self.peer, address: self.address, object, source })
    }

    /// Asks for neighbouring chunks in one request. A source that is still fetching itself may give
    /// fewer of them, though at least one.
    async fn get_run(&mut self, assembler: &Assembler, first: u32, last: u32) -> Result<(), FetchError> {
        let table = assembler.table();
        let (Some(from), Some(to)) = (table.range(first), table.range(last)) else { return Ok(()) };
        let asked = from.start..to.end;
        let object = self.ticket.object;
        let response = self.connection().await?.get(&object_path(object), Some(asked.clone())).await;
        let response = response.map_err(|error| self.http(error))?;
        if response.status() != StatusCode::PARTIAL_CONTENT {
            return Err(self.refused(response).await);
        }
        let given = response.content_range();
        let given = given.filter(|(range, length)| {
            *length == self.ticket.length && range.start == asked.start && range.end <= asked.end
        });
        let Some((given, _)) = given.filter(|(range, _)| range.end >= from.end) else { return Err(self.malformed()) };
        let mut writing = None;
        let read = self.read_chunks(response, assembler, first, given.end, &mut writing).await;
        // A wrong chunk says more than what went wrong after it.
        self.settle(&mut writing).await?;
        read
    }

    /// Cuts what arrives into chunks. While one is verified and written, the next is read.
    async fn read_chunks(
        &mut self,
        mut response: Response,
        assembler: &Assembler,
        first: u32,
        end: u64,
        writing: &mut Option<Writing>,
    ) -> Result<(), FetchError> {
        let mut index = first;
        let mut chunk: Vec<u8> = Vec::new();
        while let Some(mut piece) = response.next().await.map_err(|error| self.http(error))? {
            while !piece.is_empty() {
                let range = assembler.table().range(index).filter(|range| range.end <= end);
                let Some(range) = range else { return Err(self.malformed()) };
                let bytes = usize::try_from(range.end - range.start).expect("a chunk fits into memory");
                chunk.reserve_exact(bytes - chunk.len());
                let taken = piece.split_to(piece.len().min(bytes - chunk.len()));
                chunk.extend_from_slice(&taken);
                if chunk.len() == bytes {
                    self.settle(writing).await?;
                    *writing = Some(Writing::start(assembler.clone(), index, std::mem::take(&mut chunk)));
                    index += 1;
                }
            }
        }
        let reached = assembler.table().range(index).map_or(assembler.table().length(), |range| range.start);
        if chunk.is_empty() && reached == end { Ok(()) } else { Err(self.malformed()) }
    }

    /// Waits for the chunk that is being written, and counts it.
    async fn settle(&mut self, writing: &mut Option<Writing>) -> Result<(), FetchError> {
        let Some(Writing { index, bytes, task }) = writing.take() else { return Ok(()) };
        if !joined(task).await? {
            let (peer, address, object) = (self.peer, self.address, self.ticket.object);
            return Err(FetchError::Corrupt { peer, address, object, chunk: index });
        }
        self.verified_bytes += bytes;
        if let Some(assembler) = &self.held.0 {
            (self.progress)(assembler);
        }
        Ok(())
    }
}

/// A chunk on its way to the disk.
struct Writing {
    index: u32,
    bytes: u64,
    task: JoinHandle<Result<bool, StoreError>>,
}

impl Writing {
    fn start(assembler: Assembler, index: u32, chunk: Vec<u8>) -> Self {
        let bytes = chunk.len() as u64;
        let task = tokio::task::spawn_blocking(move || assembler.write_chunk(index, &chunk));
        Self { index, bytes, task }
    }
}

#[cfg(test)]
mod tests;
