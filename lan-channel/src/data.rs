//! The data channel's two ends: frames go out and come in by the batch.
//!
//! One system call carries many frames each way: segmentation offload (GSO) when sending, several
//! datagrams and coalesced ones (GRO) when receiving. Where the kernel has neither, the same calls
//! carry one frame each.
//!
//! The send buffer is small on purpose: a link that is slower than the sender shows as a full
//! socket, and not as loss in the queue below it.
//!
//! Leaves to others: what a frame holds and when it is sent.

use std::future::poll_fn;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::task::{Context, Poll};

use quinn_udp::{RecvMeta, Transmit, UdpSocketState};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use crate::doorbell::Doorbell;

/// Most bytes that are handed to the kernel in one piece: what a UDP length field can count, less
/// the headers.
const PIECE_BYTES_MAX: usize = 65_000;
/// What one receive slot holds: the largest coalesced piece there can be.
const SLOT_BYTES: usize = 1 << 16;

/// How the data channel took frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// They are on their way, or lost like any other.
    Yes,
    /// The socket is full; offer them again.
    Full,
}

/// Where frames go to.
pub trait FrameSink {
    /// How many frames of this length one call takes, at least 1.
    fn frames_max(&self, frame_bytes: usize) -> usize;

    /// Takes frames that lie one behind the other, all `frame_bytes` long but the last, which may be
    /// shorter.
    fn offer(&mut self, frames: &[u8], frame_bytes: usize) -> Taken;
}

/// The sending end.
#[derive(Debug)]
pub struct DataSender {
    socket: UdpSocket,
    state: UdpSocketState,
    to: SocketAddr,
}

impl DataSender {
    /// Sends to this address by this socket, if nothing else is said.
    ///
    /// # Errors
    /// When the socket refuses an option that sending by the batch needs.
    pub fn new(socket: UdpSocket, to: SocketAddr) -> io::Result<Self> {
        let state = UdpSocketState::new((&socket).into())?;
        Ok(Self { socket, state, to })
    }

    /// Waits until the socket takes frames again.
    ///
    /// # Errors
    /// When the socket cannot be waited for.
    pub async fn writable(&self) -> io::Result<()> {
        self.socket.writable().await
    }

    /// The sending end towards this channel.
    #[must_use]
    pub fn to(&self, channel: SocketAddr) -> DataSink<'_> {
        DataSink { sender: self, to: channel }
    }

    fn try_send(&self, to: SocketAddr, frames: &[u8], frame_bytes: usize) -> io::Result<()> {
        let transmit = Transmit {
            destination: to,
            ecn: None,
            contents: frames,
            segment_size: Some(frame_bytes).filter(|bytes| *bytes < frames.len()),
            src_ip: None,
        };
        self.socket.try_io(Interest::WRITABLE, || self.state.try_send((&self.socket).into(), &transmit))
    }
}

/// The sending end as one session uses it.
#[derive(Debug, Clone, Copy)]
pub struct DataSink<'a> {
    sender: &'a DataSender,
    to: SocketAddr,
}

impl FrameSink for &DataSender {
    fn frames_max(&self, frame_bytes: usize) -> usize {
        self.to(self.to).frames_max(frame_bytes)
    }

    fn offer(&mut self, frames: &[u8], frame_bytes: usize) -> Taken {
        self.to(self.to).offer(frames, frame_bytes)
    }
}

impl FrameSink for DataSink<'_> {
    fn frames_max(&self, frame_bytes: usize) -> usize {
        self.sender.state.max_gso_segments().min(PIECE_BYTES_MAX / frame_bytes.max(1)).max(1)
    }

    fn offer(&mut self, frames: &[u8], frame_bytes: usize) -> Taken {
        match self.sender.try_send(self.to, frames, frame_bytes) {
            Ok(()) => Taken::Yes,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Taken::Full,
            Err(error) => {
                // Also how a network card that cannot segment is found out: from here on the kernel is
                // given single frames, and these are mended like lost ones.
                tracing::debug!(%error, bytes = frames.len(), "frames were not sent");
                Taken::Yes
            }
        }
    }
}

/// The receiving end.
#[derive(Debug)]
pub struct DataReceiver {
    socket: std::net::UdpSocket,
    bell: Doorbell,
    state: UdpSocketState,
    inode: u64,
    buffer_bytes: usize,
}

/// Room for the frames of one system call. One per task that receives.
pub struct FrameBatch {
    slots: Vec<u8>,
    metas: [RecvMeta; quinn_udp::BATCH_SIZE],
}

impl std::fmt::Debug for FrameBatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FrameBatch(..)")
    }
}

impl Default for FrameBatch {
    fn default() -> Self {
        // Pages that no datagram reaches are never touched.
        Self { slots: vec![0; SLOT_BYTES * quinn_udp::BATCH_SIZE], metas: Default::default() }
    }
}

impl DataReceiver {
    /// Receives by this socket, which does not block and whose buffer is so large.
    ///
    /// # Errors
    /// When the socket refuses an option that receiving by the batch needs, or cannot be watched.
    pub fn new(socket: std::net::UdpSocket, buffer_bytes: usize) -> io::Result<Self> {
        let state = UdpSocketState::new((&socket).into())?;
        let inode = rustix::fs::fstat(&socket)?.st_ino;
        let bell = Doorbell::of(&socket)?;
        Ok(Self { socket, bell, state, inode, buffer_bytes })
    }

    /// What the kernel really gave as receive buffer, in bytes of datagrams.
    #[must_use]
    pub fn buffer_bytes(&self) -> usize {
        self.buffer_bytes
    }

    /// Waits until a frame is here.
    ///
    /// # Errors
    /// When the socket cannot be waited for.
    pub async fn readable(&self) -> io::Result<()> {
        poll_fn(|context| self.poll_readable(context)).await
    }

    /// As [`DataReceiver::readable`], for who waits for several.
    ///
    /// # Errors
    /// When the socket cannot be waited for.
    pub fn poll_readable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.bell.poll_rung(&self.socket, context)
    }

    /// Takes what has arrived, as much as one call gives.
    /// Returns how many frames that were; 0 when none waits.
    pub fn take(&self, batch: &mut FrameBatch, mut frame: impl FnMut(&mut [u8])) -> usize {
        let FrameBatch { slots, metas } = batch;
        let mut rest = slots.chunks_exact_mut(SLOT_BYTES);
        let mut room: [IoSliceMut<'_>; quinn_udp::BATCH_SIZE] =
            std::array::from_fn(|_| IoSliceMut::new(rest.next().expect("there is a slot for each")));
        let received = match self.state.recv((&self.socket).into(), &mut room, metas) {
            Ok(received) => received,
            Err(error) => {
                if error.kind() != io::ErrorKind::WouldBlock {
                    tracing::debug!(%error, "frames could not be received");
                }
                return 0;
            }
        };
        let mut frames = 0;
        for (slot, meta) in room.iter_mut().zip(metas.iter()).take(received) {
            // An empty datagram has no stride.
            for datagram in slot[..meta.len].chunks_mut(meta.stride.max(1)) {
                frame(datagram);
                frames += 1;
            }
        }
        // Empty datagrams are nothing to their hearer, and no sign that none waits.
        frames.max(received)
    }

    /// How many frames the kernel has dropped because this socket's buffer was full; `None` where it
    /// does not say.
    #[must_use]
    pub fn overflows(&self) -> Option<u64> {
        let version = if self.socket.local_addr().ok()?.is_ipv4() { "udp" } else { "udp6" };
        overflows_in(&std::fs::read_to_string(format!("/proc/thread-self/net/{version}")).ok()?, self.inode)
    }
}

/// The drops of the socket with this inode in the kernel's table.
fn overflows_in(table: &str, inode: u64) -> Option<u64> {
    let inode = inode.to_string();
    let mut lines = table.lines().map(str::split_ascii_whitespace);
    lines.find_map(|fields| {
        let fields: Vec<&str> = fields.collect();
        let [.., own, _references, _pointer, drops] = fields.as_slice() else { return None };
        (*own == inode).then(|| drops.parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    async fn ends() -> (DataSender, DataReceiver) {
        let receive = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("binds");
        receive.set_nonblocking(true).expect("can be");
        let to = receive.local_addr().expect("bound");
        let send = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("binds");
        (DataSender::new(send, to).expect("a sender"), DataReceiver::new(receive, 0).expect("a receiver"))
    }

    #[tokio::test]
    async fn frames_that_go_out_in_one_piece_arrive_one_by_one_and_whole() {
        let (sender, receiver) = ends().await;
        let mut sender = &sender;
        let frames_max = sender.frames_max(1000);
        assert!((1..=65).contains(&frames_max), "{frames_max}");
        let sent: Vec<Vec<u8>> = (0..10u8).map(|n| vec![n; if n == 9 { 7 } else { 1000 }]).collect();
        for frames in sent.chunks(frames_max) {
            sender.socket.writable().await.expect("waits");
            assert_eq!(sender.offer(&frames.concat(), 1000), Taken::Yes);
        }
        let (mut heard, mut batch) = (Vec::new(), FrameBatch::default());
        while heard.len() < sent.len() {
            receiver.readable().await.expect("waits");
            receiver.take(&mut batch, |frame| heard.push(frame.to_vec()));
        }
        assert_eq!(heard, sent);
        assert_eq!(receiver.take(&mut batch, |_| panic!("nothing is left")), 0);
    }

    #[tokio::test]
    async fn what_the_kernel_drops_is_counted() {
        let (sender, receiver) = ends().await;
        assert_eq!(receiver.overflows(), Some(0));
        socket2::SockRef::from(&receiver.socket).set_recv_buffer_size(1).expect("the kernel's least");
        for _ in 0..100 {
            sender.socket.writable().await.expect("waits");
            assert_eq!((&sender).offer(&[1; 1000], 1000), Taken::Yes);
        }
        let (mut heard, mut batch) = (0, FrameBatch::default());
        while receiver.take(&mut batch, |_| heard += 1) > 0 {}
        assert!(heard > 0 && heard < 100, "{heard}");
        assert_eq!(receiver.overflows(), Some(100 - heard));
    }

    #[test]
    fn the_kernels_table_is_read_by_inode() {
        let table = "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n\
            1091: 0100007F:1F90 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4711 2 0000000000000000 12\n\
            1092: 0100007F:1F91 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4712 2 0000000000000000 0\n";
        assert_eq!(overflows_in(table, 4711), Some(12));
        assert_eq!(overflows_in(table, 4712), Some(0));
        assert_eq!(overflows_in(table, 471), None);
    }
}
