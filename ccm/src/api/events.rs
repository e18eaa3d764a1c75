//! Events: one stream that says what changed, and goes on where it was left.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::IntoResponse as _;
use axum::response::sse::{self, KeepAlive, Sse};
use common::time::WallTime;
use futures_util::stream;
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, timeout_at};

use super::ApiState;
use super::extract::{Answer, blocking};
use super::fleet;
use super::problem::Problem;
use crate::store::{Event, Run, RunSummary, Schedule, Store, StoreError};

/// Kind of the events that tell of a run; their data is a run summary.
pub const RUN_EVENT: &str = "run";

/// Kind of the events that tell of a schedule; their data is the schedule.
pub const SCHEDULE_EVENT: &str = "schedule";

/// Kind of the events that tell of the fleet; their data is the status.
pub const FLEET_EVENT: &str = "fleet";

/// How long one stream lasts. Followers come back with the last id, and are asked again who they are.
const STREAM_LIFETIME: Duration = Duration::from_secs(3600);

/// How many events are read at a time.
const BATCH: usize = 100;

/// Puts the state of a run among the events. Bump [`super::operations::Operations::changes`] after.
///
/// # Errors
/// [`StoreError`].
pub fn add_run_event(store: &Store, run: &Run, now: WallTime) -> Result<i64, StoreError> {
    let summary = serde_json::to_value(RunSummary::from(run));
    let summary = summary.map_err(|source| StoreError::Encode { what: "a run's summary", source: source.into() })?;
    store.add_event(RUN_EVENT, &summary, now)
}

/// Puts the state of a schedule among the events. Bump the changes after.
///
/// # Errors
/// [`StoreError`].
pub fn add_schedule_event(store: &Store, schedule: &Schedule, now: WallTime) -> Result<i64, StoreError> {
    let data = serde_json::to_value(schedule);
    let data = data.map_err(|source| StoreError::Encode { what: "a schedule", source: source.into() })?;
    store.add_event(SCHEDULE_EVENT, &data, now)
}

/// Puts the state of the fleet among the events. Bump the changes after.
///
/// # Errors
/// [`StoreError`].
pub fn add_fleet_event(
    store: &Store,
    cluster: &str,
    online: &std::collections::BTreeSet<common::ids::ServerId>,
    now: WallTime,
) -> Result<i64, StoreError> {
    let status = serde_json::to_value(fleet::status(store, cluster, online)?);
    let status = status.map_err(|source| StoreError::Encode { what: "the status", source: source.into() })?;
    store.add_event(FLEET_EVENT, &status, now)
}

struct Follower {
    store: Store,
    changes: watch::Receiver<u64>,
    last: i64,
    ready: VecDeque<Event>,
    until: Instant,
    _place: OwnedSemaphorePermit,
}

impl Follower {
    /// The next event; `None` when the stream's time is over or the CCM stops.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                self.last = event.id;
                return Some(event);
            }
            // Seen before the events are read: what happens in between wakes us again.
            self.changes.borrow_and_update();
            let (store, last) = (self.store.clone(), self.last);
            let events: Result<_, Problem> = blocking(move || store.events_after(last, BATCH)).await;
            self.ready = events.ok()?.into();
            if self.ready.is_empty() {
                timeout_at(self.until, self.changes.changed()).await.ok()?.ok()?;
            }
        }
    }
}

pub(super) async fn follow(State(state): State<ApiState>, headers: HeaderMap) -> Answer {
    let place = state.limits.follower()?;
    let last = match headers.get("last-event-id") {
        Some(id) => id
            .to_str()
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .ok_or_else(|| Problem::bad("bad-event-id", "Last-Event-ID is not a number"))?,
        None => {
            let store = state.store.clone();
            blocking(move || store.last_event()).await?
        }
    };
    let follower = Follower {
        changes: state.operations.changes(),
        store: state.store,
        last,
        ready: VecDeque::new(),
        until: Instant::now() + STREAM_LIFETIME,
        _place: place,
    };
    let events = stream::unfold(follower, |mut follower| async move {
        let event = follower.next().await?;
        Some((Ok::<_, Infallible>(to_sse(&event)), follower))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::default()).into_response())
}

fn to_sse(event: &Event) -> sse::Event {
    let data: &Value = &event.data;
    sse::Event::default().id(event.id.to_string()).event(&event.kind).data(data.to_string())
}
