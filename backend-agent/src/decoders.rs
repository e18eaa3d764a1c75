//! The readers of this crate that nothing outside of it can reach, each by itself: what an agent finds in its
//! own files, and what it is answered when it enrols. For those who try them with damaged bytes
//! (`tests/fuzz`); the agent itself does not come by here.
//!
//! Each reads as the agent does and writes what it understood again; `None` when the bytes are refused.

use std::net::{Ipv4Addr, SocketAddr};

use common::hex::hex;
use common::ids::ServerId;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::content::{Index, Journal, seal, unseal};
use crate::enroll::{Answer, Root};
use crate::identity::Identity;
use crate::peers::{Peer, Peers};
use crate::spool::Remains;
use crate::worker::Notes;

/// A file of a site's state directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateFile {
    /// `journal`.
    Journal,
    /// One of `manifests/`.
    Manifest,
    /// `index`.
    Index,
}

/// The whole file.
#[must_use]
pub fn state_file(file: StateFile, bytes: &[u8]) -> Option<Vec<u8>> {
    match file {
        StateFile::Journal => sealed::<Journal>(bytes),
        StateFile::Manifest => sealed::<common::manifest::Manifest>(bytes),
        StateFile::Index => sealed::<Index>(bytes),
    }
}

fn sealed<T: Serialize + DeserializeOwned>(bytes: &[u8]) -> Option<Vec<u8>> {
    seal(&unseal::<T>(bytes).ok()?).ok()
}

/// Runs of symbols: first and count.
pub type Runs = Vec<(u32, u32)>;

/// `spool/DIGEST.held`. Returned is also what it claims to be held.
#[must_use]
pub fn spool_note(bytes: &[u8]) -> Option<(Vec<u8>, Runs)> {
    let remains = Remains::read(bytes)?;
    Some((postcard::to_stdvec(&remains).ok()?, remains.held))
}

/// `identity.json`.
#[must_use]
pub fn identity(bytes: &[u8]) -> Option<Vec<u8>> {
    Some(Identity::read(std::str::from_utf8(bytes).ok()?).ok()?.to_text().into_bytes())
}

/// `sites.json`.
#[must_use]
pub fn site_notes(bytes: &[u8]) -> Option<Vec<u8>> {
    serde_json::to_vec(&serde_json::from_slice::<Notes>(bytes).ok()?).ok()
}

/// `peers.json`, and what the CCM answers about the segment: of it the servers that are learned.
#[must_use]
pub fn peers(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut peers = Peers::new(ServerId([1; 16]), SocketAddr::from((Ipv4Addr::LOCALHOST, 1)), Vec::new());
    peers.learn(&serde_json::from_slice::<Vec<Peer>>(bytes).ok()?);
    Some(peers.to_text().into_bytes())
}

/// The root document: cluster, authority and publish keys.
#[must_use]
pub fn root_document(bytes: &[u8]) -> Option<Vec<u8>> {
    let root: Root = serde_json::from_slice(bytes).ok()?;
    let keys = crate::identity::publish_keys(&root.publish_keys).ok()?;
    let keys = keys.keys.iter().map(|(epoch, key)| serde_json::json!({ "epoch": epoch, "key": hex(&key.0) }));
    let keys: Vec<_> = keys.collect();
    let root = serde_json::json!({ "cluster": root.cluster, "ca": root.ca, "publish_keys": keys });
    serde_json::to_vec(&root).ok()
}

/// The answer to an enrolment.
#[must_use]
pub fn enrolment_answer(bytes: &[u8]) -> Option<Vec<u8>> {
    let answer: Answer = serde_json::from_slice(bytes).ok()?;
    let (server, credential, segment_key) = answer.understood().ok()?;
    let credential = postcard::to_stdvec(&credential).ok()?;
    let answer = serde_json::json!({
        "server": server.to_string(),
        "certificate": answer.certificate,
        "credential": hex(&credential),
        "segment_key": hex(&segment_key.0),
    });
    serde_json::to_vec(&answer).ok()
}
