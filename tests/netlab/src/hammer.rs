//! Visitors who ask for pages again and again, to see whether a switch is ever noticed.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::address::Host;
use crate::command::LabError;
use crate::lab::Lab;

/// Longer than any answer takes; a visitor who waits this long has been failed.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a visitor looks at a page before the next, unless told to leave: it leaves the machine
/// some time for the farm.
const LOOK: Duration = Duration::from_millis(2);
/// How many failures are kept word for word.
const FAILURES_KEPT: usize = 10;

/// Fetches a page over HTTP/1.0 and gives its body.
///
/// # Errors
/// A sentence that says what went wrong: no connection, a status other than 200, a short body.
pub fn fetch(server: SocketAddr, path: &str) -> Result<Vec<u8>, String> {
    let stream = TcpStream::connect_timeout(&server, PATIENCE).map_err(|error| format!("connect: {error}"))?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(|error| error.to_string())?;
    let mut stream = stream;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {server}\r\n\r\n").map_err(|error| format!("send: {error}"))?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_err(|error| format!("receive: {error}"))?;
    let head_end = answer.windows(4).position(|four| four == b"\r\n\r\n").ok_or("the answer has no end of head")?;
    let head = String::from_utf8_lossy(&answer[..head_end]).into_owned();
    let body = answer.split_off(head_end + 4);
    let status = head.split_whitespace().nth(1).unwrap_or("none");
    if status != "200" {
        return Err(format!("status {status}"));
    }
    let declared = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    match declared {
        Some(length) if length != body.len() => Err(format!("{} bytes of {length}", body.len())),
        Some(_) | None => Ok(body),
    }
}

/// What the visitors of one server have seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Pages asked for.
    pub requests: u64,
    /// Pages not rightly received.
    pub failed: u64,
    /// The first failures, path and reason.
    pub failures: Vec<String>,
    /// For every path the different bodies that came, as `std`'s default hash of them.
    pub bodies: BTreeMap<String, BTreeSet<u64>>,
}

/// A visitor of one server, on that server's own namespace.
#[derive(Debug)]
pub struct Hammer {
    /// Dropped to end the visit.
    leave: Option<Sender<()>>,
    requests: Arc<Requests>,
    visitor: Option<JoinHandle<Seen>>,
}

/// How many requests there were, and who waits for more.
#[derive(Debug, Default)]
struct Requests {
    count: Mutex<u64>,
    more: Condvar,
}

impl Hammer {
    /// Starts to ask a server for the paths (each with its leading `/`), one after the other, in a loop.
    ///
    /// # Errors
    /// [`LabError`] when there is no such host.
    pub fn start(lab: &Lab, host: Host, paths: Vec<String>) -> Result<Self, LabError> {
        let (leave, left) = mpsc::channel();
        let requests = Arc::<Requests>::default();
        let server = SocketAddr::from((host.address(), 80));
        let counted = Arc::clone(&requests);
        let visitor = lab.thread(host, move || {
            let mut seen = Seen::default();
            for path in paths.iter().cycle() {
                seen.requests += 1;
                match fetch(server, path) {
                    Ok(body) => {
                        seen.bodies.entry(path.clone()).or_default().insert(body_hash(&body));
                    }
                    Err(reason) => {
                        seen.failed += 1;
                        if seen.failures.len() < FAILURES_KEPT {
                            seen.failures.push(format!("{path}: {reason}"));
                        }
                    }
                }
                *counted.count.lock().unwrap_or_else(PoisonError::into_inner) += 1;
                counted.more.notify_all();
                if left.recv_timeout(LOOK) != Err(RecvTimeoutError::Timeout) {
                    break;
                }
            }
            seen
        })?;
        Ok(Self { leave: Some(leave), requests, visitor: Some(visitor) })
    }

    /// How many requests have been made so far.
    #[must_use]
    pub fn requests(&self) -> u64 {
        *self.requests.count.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until so many requests have been made in all; false when they are not in that time.
    #[must_use]
    pub fn wait_for_requests(&self, enough: u64, within: Duration) -> bool {
        let count = self.requests.count.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.requests.more.wait_timeout_while(count, within, |count| *count < enough);
        let (_count, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        !waited.timed_out()
    }

    /// Ends the visit.
    #[must_use]
    pub fn stop(mut self) -> Seen {
        self.leave = None;
        let visitor = self.visitor.take().expect("taken only here and when dropped");
        visitor.join().expect("a visitor does not panic")
    }
}

impl Drop for Hammer {
    fn drop(&mut self) {
        self.leave = None;
        if let Some(visitor) = self.visitor.take() {
            visitor.join().ok();
        }
    }
}

/// The hash under which [`Seen::bodies`] keeps a body.
#[must_use]
pub fn body_hash(body: &[u8]) -> u64 {
    use std::hash::{DefaultHasher, Hasher as _};
    let mut hasher = DefaultHasher::new();
    hasher.write(body);
    hasher.finish()
}
