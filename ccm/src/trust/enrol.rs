//! Enrolment: how a server becomes a member, with a join token and nothing else.
//!
//! A token is a capability: it says how many servers it admits, until when, to which segment, and in
//! which roles at most. The agent has checked the CCM against the token's digest before it sends
//! anything; the CCM checks the token before it looks at anything else.

use std::time::Duration;

use common::credential::{Credential, Roles};
use common::digest::Digest;
use common::ids::{ClusterId, SegmentName, ServerId, ServerName};
use common::keys::{PublicKey, Signed};
use common::time::WallTime;

use super::certificates::{LEAF_VALIDITY, RequestError};
use super::secrets::Secret;
use super::{Trust, TrustError};
use crate::store::{JoinToken, ServerRecord, StoreError};

/// What a new join token shall grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenGrant {
    /// The only segment; `None`: any.
    pub segment: Option<SegmentName>,
    /// How many servers.
    pub uses: u32,
    /// For how long.
    pub lifetime: Duration,
    /// The most; `None`: any role.
    pub roles: Option<Roles>,
}

/// A join token as it is shown once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewJoinToken {
    /// Its public part.
    pub id: String,
    /// The whole.
    pub token: String,
    /// Admits nobody from this on.
    pub expires: WallTime,
}

/// What a server asks for.
#[derive(Debug, Clone)]
pub struct EnrolRequest {
    /// The join token, whole.
    pub token: String,
    /// Its name.
    pub name: ServerName,
    /// Where it belongs; `None`: where the token says.
    pub segment: Option<SegmentName>,
    /// Certificate signing request, PEM.
    pub csr: String,
    /// Will sign its control messages and reports.
    pub control_key: PublicKey,
    /// What it wants to be.
    pub roles: Roles,
    /// Location given by its administrator; empty when none.
    pub location: String,
}

/// What an enrolled server gets.
#[derive(Debug, Clone)]
pub struct Enrolled {
    /// Its identity for life.
    pub server: ServerId,
    /// The cluster.
    pub cluster: ClusterId,
    /// Its certificate and the authority's, PEM.
    pub certificate: String,
    /// What other servers of its segment believe it by.
    pub credential: Signed<Credential>,
    /// Seals its segment's control channel.
    pub segment_key: [u8; 32],
}

/// Why a server was not enrolled.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// No such token, a wrong secret, or a token of another cluster: not said which.
    #[error("the join token is not one of this cluster; make one with `pressrun token create`")]
    TokenInvalid,
    /// Its time is over.
    #[error("the join token {id} has expired; make a new one with `pressrun token create`")]
    TokenExpired {
        /// The token's id.
        id: String,
    },
    /// It admitted as many servers as it was made for.
    #[error("the join token {id} is used up; make a new one with `pressrun token create`")]
    TokenUsedUp {
        /// The token's id.
        id: String,
    },
    /// It is for another segment.
    #[error("the join token admits to segment {granted}, not to {asked}")]
    TokenSegment {
        /// What it grants.
        granted: SegmentName,
        /// What was asked for.
        asked: SegmentName,
    },
    /// It does not grant a role that was asked for.
    #[error("the join token does not grant the role {role}")]
    TokenRoles {
        /// The first such role.
        role: &'static str,
    },
    /// Neither the token nor the request names a segment.
    #[error("neither the join token nor the request says which segment the server belongs to")]
    NoSegment,
    /// The server wants to be nothing.
    #[error("a server needs at least one role: server or leader")]
    NoRole,
    /// The certificate signing request was refused.
    #[error("no certificate can be given to {name}")]
    Request {
        /// The server.
        name: ServerName,
        /// Why.
        source: RequestError,
    },
    /// The name is taken.
    #[error("there already is a server called {name}; choose another name, or remove that server first")]
    NameTaken {
        /// The name.
        name: ServerName,
    },
    /// The database failed.
    #[error(transparent)]
    Store(StoreError),
}

impl Trust {
    /// Makes a join token.
    ///
    /// # Errors
    /// [`TrustError::Store`].
    pub fn create_join_token(&self, grant: TokenGrant, now: WallTime) -> Result<NewJoinToken, TrustError> {
        let secret = Secret::generate();
        let expires = now.after(grant.lifetime);
        self.store.create_join_token(&JoinToken {
            id: secret.id.clone(),
            secret: secret.digest(),
            segment: grant.segment,
            roles: grant.roles,
            uses: grant.uses,
            uses_left: grant.uses,
            created: now,
            expires,
        })?;
        Ok(NewJoinToken { token: secret.to_join_token(&self.root_digest()), id: secret.id, expires })
    }

    /// Enrols a server: the token is used once, the server is known, and its certificate, credential
    /// and segment key are returned; or nothing changes.
    ///
    /// # Errors
    /// [`EnrolError`], about the token first.
    pub fn enrol(&self, request: EnrolRequest, now: WallTime) -> Result<Enrolled, EnrolError> {
        let token = self.check_token(&request.token, now)?;
        let segment = match (token.segment, request.segment) {
            (Some(granted), Some(asked)) if granted != asked => {
                return Err(EnrolError::TokenSegment { granted, asked });
            }
            (Some(segment), Some(_) | None) | (None, Some(segment)) => segment,
            (None, None) => return Err(EnrolError::NoSegment),
        };
        check_roles(request.roles, token.roles)?;

        let server = ServerRecord {
            id: ServerId::random(),
            name: request.name,
            segment,
            roles: request.roles,
            control_key: request.control_key,
            location: request.location,
            enrolled: now,
            last_seen: None,
            info: None,
        };
        let certificate = self
            .authority
            .server_certificate(&server.id, &request.csr, now)
            .map_err(|source| EnrolError::Request { name: server.name.clone(), source })?;
        let segment = self.store.enrol_with_token(&token.id, &server, rand::random(), now).map_err(|e| match e {
            // Removed or spent between the check and here.
            StoreError::Unknown { .. } => EnrolError::TokenInvalid,
            StoreError::TokenSpent { id, expired: true } => EnrolError::TokenExpired { id },
            StoreError::TokenSpent { id, expired: false } => EnrolError::TokenUsedUp { id },
            StoreError::Exists { .. } => EnrolError::NameTaken { name: server.name.clone() },
            StoreError::Create { .. }
            | StoreError::Open { .. }
            | StoreError::Migrate(_)
            | StoreError::Sql { .. }
            | StoreError::Encode { .. }
            | StoreError::Busy { .. }
            | StoreError::RunIsFinal { .. } => EnrolError::Store(e),
        })?;
        let credential = Credential {
            cluster: self.cluster,
            server: server.id,
            name: server.name,
            segment: server.segment,
            roles: server.roles,
            key: server.control_key,
            expires: now.after(LEAF_VALIDITY),
        };
        Ok(Enrolled {
            server: server.id,
            cluster: self.cluster,
            certificate,
            credential: Signed::sign(&credential, &self.publish_key),
            segment_key: segment.key,
        })
    }

    fn check_token(&self, text: &str, now: WallTime) -> Result<JoinToken, EnrolError> {
        let (secret, root): (Secret, Digest) = Secret::from_join_token(text).ok_or(EnrolError::TokenInvalid)?;
        let token = self.store.join_token(&secret.id).map_err(EnrolError::Store)?.ok_or(EnrolError::TokenInvalid)?;
        if !secret.fits(&token.secret) || root != self.root_digest() {
            return Err(EnrolError::TokenInvalid);
        }
        if token.expires <= now {
            return Err(EnrolError::TokenExpired { id: token.id });
        }
        if token.uses_left == 0 {
            return Err(EnrolError::TokenUsedUp { id: token.id });
        }
        Ok(token)
    }
}

fn check_roles(asked: Roles, granted: Option<Roles>) -> Result<(), EnrolError> {
    if !asked.server && !asked.leader {
        return Err(EnrolError::NoRole);
    }
    let granted = granted.unwrap_or(Roles { server: true, leader: true });
    if asked.server && !granted.server {
        return Err(EnrolError::TokenRoles { role: "server" });
    }
    if asked.leader && !granted.leader {
        return Err(EnrolError::TokenRoles { role: "leader" });
    }
    Ok(())
}
