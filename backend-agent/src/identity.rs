//! Who this server is: made at enrolment, kept in one private file.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use common::credential::{Credential, Roles};
use common::hex::{hex, parse_hex, unhex};
use common::ids::{ClusterId, SegmentName, ServerId, ServerName};
use common::keys::{PublicKey, PublishKeys, SecretKey, Signed};
use lan_channel::doctor::DoctorChannel;
use lan_channel::envelope::SegmentKey;
use serde::{Deserialize, Serialize};

const FILE: &str = "identity.json";

/// Who this server is.
pub struct Identity {
    /// The server.
    pub server: ServerId,
    /// The cluster.
    pub cluster: ClusterId,
    /// Its name.
    pub name: ServerName,
    /// Its segment.
    pub segment: SegmentName,
    /// What it may be.
    pub roles: Roles,
    /// The content control manager, as `https://host:port`.
    pub ccm: String,
    /// TLS certificate chain, PEM.
    pub certificate: String,
    /// TLS key, PEM.
    pub key: String,
    /// The cluster's certificate authority, PEM.
    pub ca: String,
    /// The CCM's word for it towards the segment.
    pub credential: Signed<Credential>,
    /// Signs its control messages.
    pub control_key: SecretKey,
    /// The segment's group key.
    pub segment_key: SegmentKey,
    /// The keys that assignments are signed with.
    pub publish_keys: PublishKeys,
}

/// Why the identity cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file or its directory failed.
    #[error("{path} cannot be {action}")]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not what was written.
    #[error("{path} is damaged ({what}); enrol this server anew with a token and an empty data directory")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
}

/// A publish key as the root document and the file say it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PublishKeyText {
    /// Its epoch.
    pub epoch: u32,
    /// The key, hexadecimal.
    pub key: String,
}

/// Reads publish keys from their text.
///
/// # Errors
/// Says which is no key.
pub fn publish_keys(texts: &[PublishKeyText]) -> Result<PublishKeys, String> {
    let keys = texts
        .iter()
        .map(|text| match parse_hex::<32>(&text.key) {
            Ok(key) => Ok((text.epoch, PublicKey(key))),
            Err(error) => Err(format!("publish key {}: {error}", text.epoch)),
        })
        .collect::<Result<Vec<_>, _>>()?;
    Ok(PublishKeys { keys })
}

#[derive(Serialize, Deserialize)]
struct Stored {
    server: String,
    cluster: String,
    name: String,
    segment: String,
    roles: Roles,
    ccm: String,
    certificate: String,
    key: String,
    ca: String,
    credential: String,
    control_key: String,
    segment_key: String,
    publish_keys: Vec<PublishKeyText>,
}

impl Identity {
    /// How this server speaks with doctors, and as one.
    #[must_use]
    pub fn doctor_channel(&self) -> DoctorChannel {
        DoctorChannel::new(
            self.server,
            self.cluster,
            self.segment.clone(),
            self.segment_key,
            &self.credential,
            self.publish_keys.clone(),
        )
    }

    /// The identity in a data directory; `None` before the enrolment.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn load(data: &Path) -> Result<Option<Self>, IdentityError> {
        let path = data.join(FILE);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(IdentityError::File { action: "read", path, source }),
        };
        Self::read(&text).map(Some).map_err(|what| IdentityError::Damaged { path, what })
    }

    /// Reads the identity from the text of its file.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn read(text: &str) -> Result<Self, String> {
        let stored: Stored = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let said = |error: &dyn std::fmt::Display| error.to_string();
        let credential = unhex(&stored.credential).ok_or("the credential is not hexadecimal")?;
        let credential: Signed<Credential> = postcard::from_bytes(&credential).map_err(|error| said(&error))?;
        let control_key: [u8; 32] = parse_hex(&stored.control_key).map_err(|error| said(&error))?;
        Ok(Self {
            server: stored.server.parse().map_err(|error| said(&error))?,
            cluster: stored.cluster.parse().map_err(|error| said(&error))?,
            name: stored.name.parse().map_err(|error| said(&error))?,
            segment: stored.segment.parse().map_err(|error| said(&error))?,
            roles: stored.roles,
            ccm: stored.ccm,
            certificate: stored.certificate,
            key: stored.key,
            ca: stored.ca,
            credential,
            control_key: SecretKey::from_bytes(&control_key),
            segment_key: SegmentKey(parse_hex(&stored.segment_key).map_err(|error| said(&error))?),
            publish_keys: publish_keys(&stored.publish_keys)?,
        })
    }

    /// Writes the identity, whole or not at all, readable by its owner only.
    ///
    /// # Errors
    /// [`IdentityError::File`].
    pub fn save(&self, data: &Path) -> Result<(), IdentityError> {
        write_private(&data.join(FILE), self.to_text().as_bytes())
    }

    /// The text of the identity's file.
    ///
    /// # Panics
    /// Never: all of it has a text form.
    #[must_use]
    pub fn to_text(&self) -> String {
        let stored = Stored {
            server: self.server.to_string(),
            cluster: self.cluster.to_string(),
            name: self.name.to_string(),
            segment: self.segment.to_string(),
            roles: self.roles,
            ccm: self.ccm.clone(),
            certificate: self.certificate.clone(),
            key: self.key.clone(),
            ca: self.ca.clone(),
            credential: hex(&postcard::to_stdvec(&self.credential).expect("a credential is plain data")),
            control_key: hex(&self.control_key.to_bytes()),
            segment_key: hex(&self.segment_key.0),
            publish_keys: self
                .publish_keys
                .keys
                .iter()
                .map(|(epoch, key)| PublishKeyText { epoch: *epoch, key: hex(&key.0) })
                .collect(),
        };
        serde_json::to_string_pretty(&stored).expect("plain data")
    }
}

/// Makes a directory that only its owner can enter.
///
/// # Errors
/// [`IdentityError::File`].
pub fn create_private_dir(path: &Path) -> Result<(), IdentityError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|source| IdentityError::File {
        action: "created",
        path: path.to_owned(),
        source,
    })
}

/// Replaces a private file durably.
///
/// # Errors
/// [`IdentityError::File`].
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), IdentityError> {
    let new = path.with_extension("new");
    let write = || -> io::Result<()> {
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        if let Some(directory) = path.parent() {
            fs::File::open(directory)?.sync_all()?;
        }
        Ok(())
    };
    write().map_err(|source| IdentityError::File { action: "written", path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use common::keys::PublishKey;
    use common::time::WallTime;

    use super::*;

    #[test]
    fn an_identity_is_read_as_it_was_written_and_private() {
        let directory = tempfile::tempdir().expect("a directory");
        assert!(Identity::load(directory.path()).expect("reads").is_none());
        let key = PublishKey { epoch: 1, key: SecretKey::from_bytes(&[1; 32]) };
        let control_key = SecretKey::from_bytes(&[2; 32]);
        let credential = Credential {
            cluster: ClusterId([1; 16]),
            server: ServerId([2; 16]),
            name: "web1".parse().expect("good"),
            segment: "s1".parse().expect("good"),
            roles: Roles::default(),
            key: control_key.public(),
            expires: WallTime(5),
        };
        let identity = Identity {
            server: credential.server,
            cluster: credential.cluster,
            name: credential.name.clone(),
            segment: credential.segment.clone(),
            roles: credential.roles,
            ccm: "https://ccm:7443".into(),
            certificate: "c".into(),
            key: "k".into(),
            ca: "a".into(),
            credential: Signed::sign(&credential, &key),
            control_key,
            segment_key: SegmentKey([3; 32]),
            publish_keys: PublishKeys { keys: vec![(1, key.key.public())] },
        };
        identity.save(directory.path()).expect("writes");
        let read = Identity::load(directory.path()).expect("reads").expect("is there");
        assert_eq!(read.server, identity.server);
        assert_eq!(read.credential.verify(&read.publish_keys), Ok(credential));
        assert_eq!(read.control_key.to_bytes(), identity.control_key.to_bytes());
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &fs::metadata(directory.path().join(FILE)).expect("is there").permissions(),
        );
        assert_eq!(mode & 0o777, 0o600);
        fs::write(directory.path().join(FILE), "{}").expect("writes");
        assert!(matches!(Identity::load(directory.path()), Err(IdentityError::Damaged { .. })));
    }
}
