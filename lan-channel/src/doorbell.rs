//! Waits for a socket without being woken for every datagram.
//!
//! A socket that the reactor watches wakes its thread with each datagram that arrives, and at a hundred
//! thousand a second, among sixteen servers on one machine, waking takes more of the processor than what is
//! received. So the socket is watched by an epoll instance of its own, which rings once and is then silent
//! until it is set again; the reactor watches that one. Who is busy lets frames gather ([`Doze`]), takes them
//! together, and only sets the bell again when none comes.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use common::time::Timestamp;
use rustix::event::{Timespec, epoll};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Rings when its socket can be read.
#[derive(Debug)]
pub(crate) struct Doorbell {
    epoll: AsyncFd<OwnedFd>,
    is_set: AtomicBool,
}

impl Doorbell {
    /// A bell for this socket, not set yet.
    #[expect(deprecated, reason = "its successor is unsafe for types that do not own what they name; this one does")]
    pub(crate) fn of(socket: impl AsFd) -> io::Result<Self> {
        let bell: OwnedFd = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&bell, socket, epoll::EventData::new_u64(0), epoll::EventFlags::ONESHOT)?;
        let epoll = AsyncFd::with_interest(bell, Interest::READABLE)?;
        Ok(Self { epoll, is_set: AtomicBool::new(false) })
    }

    /// Sets the bell, and is ready when it has rung. Rings at once when something lies there already.
    pub(crate) fn poll_rung(&self, socket: impl AsFd, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.is_set.swap(true, Ordering::Relaxed) {
            let events = epoll::EventFlags::IN | epoll::EventFlags::ONESHOT;
            epoll::modify(&self.epoll, socket, epoll::EventData::new_u64(0), events)?;
        }
        loop {
            let Poll::Ready(ready) = self.epoll.poll_read_ready(context) else { return Poll::Pending };
            let mut ready = ready?;
            let rung = self.silence()?;
            // Whatever rings from here on, the reactor tells again.
            ready.clear_ready();
            if rung {
                self.is_set.store(false, Ordering::Relaxed);
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Takes note of the ring, if there was one; it stays silent then.
    fn silence(&self) -> io::Result<bool> {
        let mut events = [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }];
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        let rung = epoll::wait(&self.epoll, &mut events[..], Some(&at_once))?;
        Ok(rung > 0)
    }
}

/// When frames are to be waited for, and when to let them gather. Pure.
///
/// A member of a long session hears frames in short intervals. It then sleeps a little after taking those that
/// are there, and takes many at a time; what it says about them is due milliseconds later in any case.
#[derive(Debug, Clone, Copy, Default)]
pub struct Doze {
    /// Frames in a row without a gap.
    row: usize,
    last: Option<Timestamp>,
    until: Option<Timestamp>,
}

/// So many frames in a row are a long session: more than the largest burst that an object of one burst is.
const ROW_MIN: usize = 128;
/// A pause as long as this ends a row.
const GAP: Duration = Duration::from_millis(4);
/// How long frames gather. At 10 Gbit/s these are 1.2 MB, a seventh of the socket's buffer.
const GATHER: Duration = Duration::from_millis(1);

impl Doze {
    /// So many frames were there just now.
    pub fn took(&mut self, frames: usize, now: Timestamp) {
        let is_in_a_row = self.last.is_some_and(|last| now.since(last) < GAP);
        if frames > 0 {
            self.row = if is_in_a_row { self.row.saturating_add(frames) } else { frames };
            self.last = Some(now);
            self.until = (self.row >= ROW_MIN).then(|| now + GATHER);
        } else if self.until.is_some_and(|until| until <= now) {
            // They had time to gather, and none came.
            self.until = None;
        }
    }

    /// Until when nobody need wait for frames; `None`: wait for the next.
    #[must_use]
    pub fn until(&self) -> Option<Timestamp> {
        self.until
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::net::UdpSocket;

    use super::*;

    fn pair() -> (UdpSocket, UdpSocket) {
        let receive = UdpSocket::bind("127.0.0.1:0").expect("binds");
        receive.set_nonblocking(true).expect("can be");
        let send = UdpSocket::bind("127.0.0.1:0").expect("binds");
        send.connect(receive.local_addr().expect("bound")).expect("connects");
        (send, receive)
    }

    #[tokio::test]
    async fn the_bell_rings_once_for_what_arrives_and_again_for_what_was_left() {
        let (send, receive) = pair();
        let bell = Doorbell::of(&receive).expect("a bell");
        let rings = || poll_fn(|context| bell.poll_rung(&receive, context));
        for _ in 0..3 {
            send.send(b"x").expect("sends");
        }
        rings().await.expect("rings");
        assert!(!bell.silence().expect("can be asked"), "it is silent until it is set again");
        rings().await.expect("three datagrams lie there");
        let mut buffer = [0; 8];
        while receive.recv(&mut buffer).is_ok() {}
        let mut waiting = Box::pin(rings());
        let is_pending = poll_fn(|context| Poll::Ready(waiting.as_mut().poll(context).is_pending())).await;
        assert!(is_pending, "nothing has arrived");
        send.send(b"x").expect("sends");
        waiting.await.expect("rings");
    }

    #[test]
    fn only_a_long_row_of_frames_is_let_gather_and_only_as_long_as_it_goes_on() {
        let at = |micros: u64| Timestamp(1_000_000 + micros);
        let mut doze = Doze::default();
        // An object of one burst, and a pause.
        doze.took(64, at(0));
        assert_eq!(doze.until(), None);
        doze.took(64, at(5_000));
        assert_eq!(doze.until(), None, "a row begins anew after a pause");
        doze.took(64, at(6_000));
        assert_eq!(doze.until(), Some(at(7_000)));
        doze.took(1, at(7_000));
        doze.took(0, at(7_100));
        assert_eq!(doze.until(), Some(at(8_000)));
        doze.took(0, at(8_000));
        assert_eq!(doze.until(), None, "none has come: the next one wakes");
        doze.took(1, at(9_000));
        assert_eq!(doze.until(), Some(at(10_000)), "the row goes on");
    }
}
