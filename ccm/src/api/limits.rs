//! Bounds on what callers can make the CCM do at once.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use axum::http::StatusCode;
use common::time::WallTime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::problem::Problem;

/// Most requests that wait for a change or follow events at the same time.
const FOLLOWERS_MAX: usize = 256;

/// Most passwords that are hashed at the same time: each takes a processor and 19 MiB.
const HASHES_MAX: usize = 2;

/// Stretch of time in which failed logins are counted, in milliseconds.
const LOGIN_WINDOW_MILLIS: u64 = 60_000;

/// Most failed logins of one user in the window.
const LOGINS_OF_USER_MAX: usize = 5;

/// Most failed logins altogether in the window; also bounds the memory of the count.
const LOGINS_MAX: usize = 60;

/// The bounds, shared by all listeners.
pub(super) struct Limits {
    followers: Arc<Semaphore>,
    hashes: Arc<Semaphore>,
    logins: Mutex<BTreeMap<String, VecDeque<WallTime>>>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            followers: Arc::new(Semaphore::new(FOLLOWERS_MAX)),
            hashes: Arc::new(Semaphore::new(HASHES_MAX)),
            logins: Mutex::default(),
        }
    }
}

impl Limits {
    /// A place for a request that waits or follows.
    pub(super) fn follower(&self) -> Result<OwnedSemaphorePermit, Problem> {
        self.followers.clone().try_acquire_owned().map_err(|_| {
            let detail = "too many requests wait for changes; ask again without waiting";
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "busy", detail).retry_after(5)
        })
    }

    /// A place for hashing a password.
    pub(super) async fn hash(&self) -> Option<OwnedSemaphorePermit> {
        self.hashes.clone().acquire_owned().await.ok()
    }

    /// Counts an attempt to log in, before it is looked at, so that many at once do not slip through.
    pub(super) fn begin_login(&self, user: &str, now: WallTime) -> Result<(), Problem> {
        let mut logins = self.logins.lock().unwrap_or_else(PoisonError::into_inner);
        let since = WallTime(now.0.saturating_sub(LOGIN_WINDOW_MILLIS));
        for attempts in logins.values_mut() {
            attempts.retain(|attempt| *attempt > since);
        }
        logins.retain(|_, attempts| !attempts.is_empty());
        let total: usize = logins.values().map(VecDeque::len).sum();
        if total >= LOGINS_MAX || logins.get(user).is_some_and(|attempts| attempts.len() >= LOGINS_OF_USER_MAX) {
            let detail = "too many failed logins; wait a minute and try again";
            let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, "too-many-logins", detail);
            return Err(problem.retry_after(LOGIN_WINDOW_MILLIS / 1000));
        }
        logins.entry(user.to_owned()).or_default().push_back(now);
        Ok(())
    }

    /// Forgets a user's failed attempts: the right password was given.
    pub(super) fn login_succeeded(&self, user: &str) {
        self.logins.lock().unwrap_or_else(PoisonError::into_inner).remove(user);
    }
}
