//! Why anybody believes anybody: the cluster's keys, certificates, and secrets.
//!
//! Made at the first start and kept in the data directory, private to its owner: the certificate
//! authority that names servers in TLS ([`certificates`]), the publish key that signs what servers
//! do, and the root document that binds both to the cluster. A join token pins the root document by
//! its digest, so that an agent knows the right CCM from a wrong one before it says anything
//! ([`enrol`]). People and programs prove themselves with passwords, sessions and API tokens
//! ([`login`]); of their secrets only digests are kept ([`secrets`]).
//!
//! Leaves to others: serving TLS, the routes, who may do what.

pub mod certificates;
pub mod enrol;
mod files;
pub mod login;
pub mod secrets;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use common::digest::Digest;
use common::hex::{hex, parse_hex};
use common::ids::ClusterId;
use common::keys::{PublishKey, PublishKeys, SecretKey};
use common::time::WallTime;
use serde::{Deserialize, Serialize};

use crate::store::{Role, Store, StoreError};
use certificates::Authority;
pub use certificates::{Identity, TLS_NAME};

/// The user that the first start makes.
pub const FIRST_USER: &str = "admin";

/// Why the cluster's trust could not be set up or used.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// A file of the data directory could not be read or written.
    #[error("cannot {doing} {path}")]
    File {
        /// What was tried.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file of the data directory, or what the database says of it, is not what was written there.
    #[error("{path} does not fit the cluster: {reason}; restore the data directory from its backup")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: &'static str,
    },
    /// A key or certificate could not be made or read.
    #[error("cannot make or read {what}")]
    Certificate {
        /// What.
        what: &'static str,
        /// Why.
        source: rcgen::Error,
    },
    /// A password could not be hashed.
    #[error("cannot hash a password: {reason}")]
    Password {
        /// Why.
        reason: String,
    },
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What the first start made and nobody will see again.
pub struct TrustCreated {
    /// The password of the user [`FIRST_USER`], to be printed once.
    pub admin_password: String,
}

impl std::fmt::Debug for TrustCreated {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TrustCreated")
    }
}

/// The root document: what makes a cluster this cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootDocument {
    /// The cluster's id, in hexadecimal digits.
    pub cluster: String,
    /// Certificate of its authority, PEM.
    pub ca: String,
    /// The publish keys that servers trust.
    pub publish_keys: Vec<RootKey>,
}

/// A publish key in the root document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootKey {
    /// Counts rotations from 1.
    pub epoch: u32,
    /// The public key, in hexadecimal digits.
    pub key: String,
}

/// The cluster's keys and the operations on them.
#[derive(Debug)]
pub struct Trust {
    data: PathBuf,
    store: Store,
    cluster: ClusterId,
    authority: Authority,
    publish_key: PublishKey,
    root: Vec<u8>,
}

impl Trust {
    /// Opens the cluster's trust in a data directory, or makes it at the first start.
    ///
    /// # Errors
    /// [`TrustError`]. What exists is never replaced: a data directory that lacks a key of a cluster
    /// that the database knows is [`TrustError::File`] or [`TrustError::Damaged`], because new keys
    /// would cut off every server.
    pub fn open_or_create(
        data: &Path,
        store: Store,
        now: WallTime,
    ) -> Result<(Self, Option<TrustCreated>), TrustError> {
        files::make_private_directory(data)?;
        files::make_private_directory(&data.join("keys"))?;
        // The cluster's id is written last: without it, an interrupted first start begins afresh.
        let created = match store.meta("cluster")? {
            Some(_) => None,
            None => Some(Self::create(data, &store, now)?),
        };
        let trust = Self::open(data, store)?;
        trust.ensure_admin_token(now)?;
        Ok((trust, created))
    }

    fn create(data: &Path, store: &Store, now: WallTime) -> Result<TrustCreated, TrustError> {
        let cluster = ClusterId::random();
        let (certificate, key) = certificates::make_authority(&cluster, now)?;
        files::write_private(&ca_key_path(data), key.as_bytes())?;
        files::write_private(&ca_path(data), certificate.as_bytes())?;
        let publish_key = SecretKey::generate();
        files::write_private(&publish_key_path(data), publish_key_text(1, &publish_key).as_bytes())?;

        let root = RootDocument {
            cluster: cluster.to_string(),
            ca: certificate,
            publish_keys: vec![RootKey { epoch: 1, key: hex(&publish_key.public().0) }],
        };
        let root = serde_json::to_vec(&root).expect("texts and numbers have a JSON form");
        let admin_password = secrets::make_password();
        login::set_password(store, FIRST_USER, &admin_password, Role::Admin, now)?;
        store.set_meta("root", &root)?;
        store.set_meta("cluster", &cluster.0)?;
        Ok(TrustCreated { admin_password })
    }

    fn open(data: &Path, store: Store) -> Result<Self, TrustError> {
        let damaged = |path: PathBuf, reason| TrustError::Damaged { path, reason };
        let cluster = store
            .meta("cluster")?
            .and_then(|bytes| bytes.try_into().ok())
            .map(ClusterId)
            .ok_or_else(|| damaged(data.to_owned(), "the database holds no cluster id"))?;
        let root =
            store.meta("root")?.ok_or_else(|| damaged(data.to_owned(), "the database holds no root document"))?;
        let document: RootDocument = serde_json::from_slice(&root)
            .map_err(|_| damaged(data.to_owned(), "the root document in the database is unreadable"))?;

        let ca_path = ca_path(data);
        let certificate = files::read_text(&ca_path)?;
        if certificate != document.ca || document.cluster != cluster.to_string() {
            return Err(damaged(ca_path, "the root document names another certificate or cluster"));
        }
        let authority = Authority::read(&certificate, &files::read_text(&ca_key_path(data))?)
            .map_err(|source| TrustError::Certificate { what: "the authority's key", source })?
            .ok_or_else(|| damaged(ca_key_path(data), "it is not the key of ca.pem"))?;

        let path = publish_key_path(data);
        let publish_key = read_publish_key(&files::read_text(&path)?)
            .ok_or_else(|| damaged(path.clone(), "it is not an epoch and 64 hexadecimal digits"))?;
        let public = RootKey { epoch: publish_key.epoch, key: hex(&publish_key.key.public().0) };
        if !document.publish_keys.contains(&public) {
            return Err(damaged(path, "the root document names another publish key"));
        }
        Ok(Self { data: data.to_owned(), store, cluster, authority, publish_key, root })
    }

    /// The cluster.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// Signs assignments, tickets and credentials.
    #[must_use]
    pub fn publish_key(&self) -> &PublishKey {
        &self.publish_key
    }

    /// What servers trust signatures by.
    #[must_use]
    pub fn publish_keys(&self) -> PublishKeys {
        PublishKeys { keys: vec![(self.publish_key.epoch, self.publish_key.key.public())] }
    }

    /// The certificate of the cluster's authority, PEM.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        self.authority.certificate_pem()
    }

    /// The same in its binary form, as a trust anchor for TLS.
    #[must_use]
    pub fn ca_der(&self) -> rustls::pki_types::CertificateDer<'static> {
        self.authority.certificate_der()
    }

    /// The root document, byte for byte as join tokens pin it.
    #[must_use]
    pub fn root(&self) -> &[u8] {
        &self.root
    }

    /// What a join token pins.
    #[must_use]
    pub fn root_digest(&self) -> Digest {
        Digest::of(&self.root)
    }

    /// A certificate and fresh key for the CCM's TLS listeners, valid for a year: named
    /// `pressrun://ccm`, [`TLS_NAME`], `localhost`, the loopback addresses, and `names` (addresses or
    /// DNS names that clients use).
    ///
    /// # Errors
    /// [`TrustError::Certificate`], for instance when a name is neither address nor DNS name.
    pub fn ccm_identity(&self, names: &[String], now: WallTime) -> Result<Identity, TrustError> {
        self.authority
            .ccm_identity(names, now)
            .map_err(|source| TrustError::Certificate { what: "the CCM's certificate", source })
    }

    /// Writes down where the API is, for commands on the same machine (`ccm.address`).
    ///
    /// # Errors
    /// [`TrustError::File`].
    pub fn save_address(&self, address: &str) -> Result<(), TrustError> {
        files::write_private(&self.data.join("ccm.address"), format!("{address}\n").as_bytes())
    }

    fn admin_token_path(&self) -> PathBuf {
        self.data.join("admin.token")
    }
}

fn ca_path(data: &Path) -> PathBuf {
    data.join("keys/ca.pem")
}

fn ca_key_path(data: &Path) -> PathBuf {
    data.join("keys/ca.key")
}

fn publish_key_path(data: &Path) -> PathBuf {
    data.join("keys/publish.key")
}

fn publish_key_text(epoch: u32, key: &SecretKey) -> String {
    format!("{epoch} {}\n", hex(&key.to_bytes()))
}

/// Reads the text of a publish key file: its epoch, a space, 64 hexadecimal digits.
#[must_use]
pub fn read_publish_key(text: &str) -> Option<PublishKey> {
    let (epoch, key) = text.trim_end().split_once(' ')?;
    Some(PublishKey { epoch: epoch.parse().ok()?, key: SecretKey::from_bytes(&parse_hex(key).ok()?) })
}
