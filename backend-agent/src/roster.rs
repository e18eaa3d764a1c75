//! Asking the content control manager who else is in the segment, and telling it where this server is.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use serde::{Deserialize, Serialize};
use transfer::tls::Peer as TlsPeer;

use crate::enroll::{EnrollError, ask};
use crate::peers::Peer;

/// Between two questions while multicast reaches everybody: the answer is not needed now.
pub const INTERVAL_AT_REST: Duration = Duration::from_secs(600);
/// Between two questions where it does not.
pub const INTERVAL: Duration = Duration::from_secs(30);
/// Between two questions while nobody else was found.
pub const INTERVAL_ALONE: Duration = Duration::from_secs(5);

#[derive(Serialize)]
struct Question {
    control: SocketAddr,
}

#[derive(Deserialize)]
struct Answer {
    peers: Vec<Peer>,
}

/// Says where this server hears what is said to it alone, and returns where the servers of its segment do.
///
/// # Errors
/// [`EnrollError`] when the content control manager does not answer or refuses.
pub async fn exchange(url: &str, tls: Arc<ClientConfig>, control: SocketAddr) -> Result<Vec<Peer>, EnrollError> {
    let body = serde_json::to_vec(&Question { control }).expect("plain data");
    let answer = ask(url, tls, TlsPeer::Ccm, "/api/v1/roster", body).await?;
    let answer: Answer =
        serde_json::from_slice(&answer).map_err(|error| EnrollError::Answer { what: error.to_string() })?;
    Ok(answer.peers)
}
