//! What several tests need.

use common::credential::{Credential, Roles};
use common::ids::{ClusterId, ServerId};
use common::keys::SecretKey;
use common::time::WallTime;

/// A server's credential, good until 2000.
pub(crate) fn credential(server: u8, segment: &str, key: &SecretKey) -> Credential {
    Credential {
        cluster: ClusterId([9; 16]),
        server: ServerId([server; 16]),
        name: "web1".parse().expect("good"),
        segment: segment.parse().expect("good"),
        roles: Roles::default(),
        key: key.public(),
        expires: WallTime(2000),
    }
}
