//! Visitors who ask for pages again and again, to see whether a switch is ever noticed.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::address::Host;
use crate::command::LabError;
use crate::lab::Lab;

/// Longer than any answer takes; a visitor who waits this long has been failed.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between requests, so that the visitors leave the machine some time for the farm.
const PAUSE: Duration = Duration::from_millis(2);
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
    stop: Arc<AtomicBool>,
    requests: Arc<AtomicU64>,
    visitor: Option<JoinHandle<Seen>>,
}

impl Hammer {
    /// Starts to ask a server for the paths (each with its leading `/`), one after the other, in a loop.
    ///
    /// # Errors
    /// [`LabError`] when there is no such host.
    pub fn start(lab: &Lab, host: Host, paths: Vec<String>) -> Result<Self, LabError> {
        let stop = Arc::new(AtomicBool::new(false));
        let requests = Arc::new(AtomicU64::new(0));
        let server = SocketAddr::from((host.address(), 80));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&requests));
        let visitor = lab.thread(host, move || {
            let mut seen = Seen::default();
            for path in paths.iter().cycle() {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
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
                counted.fetch_add(1, Ordering::Relaxed);
                thread::sleep(PAUSE);
            }
            seen
        })?;
        Ok(Self { stop, requests, visitor: Some(visitor) })
    }

    /// How many requests have been made so far.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Ends the visit.
    #[must_use]
    pub fn stop(mut self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        let visitor = self.visitor.take().expect("taken only here and when dropped");
        visitor.join().expect("a visitor does not panic")
    }
}

impl Drop for Hammer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
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
