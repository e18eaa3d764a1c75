//! People and programs at the API: passwords, sessions, API tokens.

use std::sync::OnceLock;
use std::time::Duration;

use argon2::{Argon2, PasswordHasher as _, PasswordVerifier as _};
use common::time::WallTime;

use super::secrets::{Secret, make_password};
use super::{Trust, TrustError, files};
use crate::store::{ApiToken, Role, Session, Store, StoreError, User};

/// How long a login lasts: a working day.
pub const SESSION_LIFETIME: Duration = Duration::from_secs(12 * 3600);

/// Longest password that is looked at, in bytes: hashing more would only cost time.
pub const PASSWORD_BYTES_MAX: usize = 1024;

/// Label of the API token in `admin.token`.
const LOCAL_LABEL: &str = "local commands";

/// Who asks, and what they may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// A user's name or a token's label.
    pub name: String,
    /// What they may do.
    pub role: Role,
    /// The session's id, when it is a session.
    pub session: Option<String>,
}

/// A login that succeeded.
#[derive(Debug)]
pub struct Login {
    /// The session cookie's value.
    pub cookie: String,
    /// Who it is.
    pub principal: Principal,
}

fn hash(password: &str) -> Result<String, TrustError> {
    let hash: argon2::password_hash::phc::PasswordHash = Argon2::default()
        .hash_password(password.as_bytes())
        .map_err(|e| TrustError::Password { reason: e.to_string() })?;
    Ok(hash.to_string())
}

/// Keeps a user's password and role; the user's sessions end.
pub(super) fn set_password(
    store: &Store,
    user: &str,
    password: &str,
    role: Role,
    now: WallTime,
) -> Result<(), TrustError> {
    let user = User { name: user.to_owned(), password: hash(password)?, role, created: now };
    store.save_user(&user)?;
    store.delete_sessions_of(&user.name)?;
    Ok(())
}

impl Trust {
    /// Adds a user, or gives one a new password and role; the user's sessions end.
    ///
    /// # Errors
    /// [`TrustError`].
    pub fn set_password(&self, user: &str, password: &str, role: Role, now: WallTime) -> Result<(), TrustError> {
        set_password(&self.store, user, password, role, now)
    }

    /// Checks a password and begins a session; `None` when user or password are wrong. Takes as long
    /// for a user that does not exist. Costs a tenth of a second and 19 MiB: callers bound how many
    /// run at once.
    ///
    /// # Errors
    /// [`TrustError`].
    pub fn login(&self, user: &str, password: &str, now: WallTime) -> Result<Option<Login>, TrustError> {
        static NOBODY: OnceLock<String> = OnceLock::new();
        if password.len() > PASSWORD_BYTES_MAX {
            return Ok(None);
        }
        let known = self.store.user(user)?;
        let kept = match &known {
            Some(user) => user.password.as_str(),
            None => match NOBODY.get() {
                Some(hash) => hash,
                None => {
                    let made = hash(&make_password())?;
                    NOBODY.get_or_init(|| made)
                }
            },
        };
        let fits = Argon2::default().verify_password(password.as_bytes(), kept).is_ok();
        let Some(user) = known.filter(|_| fits) else { return Ok(None) };

        let secret = Secret::generate();
        self.store.create_session(&Session {
            id: secret.id.clone(),
            secret: secret.digest(),
            user: user.name.clone(),
            created: now,
            expires: now.after(SESSION_LIFETIME),
        })?;
        let principal = Principal { name: user.name, role: user.role, session: Some(secret.id.clone()) };
        Ok(Some(Login { cookie: secret.to_cookie(), principal }))
    }

    /// Whose session a cookie is; `None` when it is nobody's or over.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn session(&self, cookie: &str, now: WallTime) -> Result<Option<Principal>, StoreError> {
        let Some(secret) = Secret::from_cookie(cookie) else { return Ok(None) };
        let Some(session) = self.store.session(&secret.id)? else { return Ok(None) };
        if !secret.fits(&session.secret) || session.expires <= now {
            return Ok(None);
        }
        let user = self.store.user(&session.user)?;
        Ok(user.map(|user| Principal { name: user.name, role: user.role, session: Some(session.id) }))
    }

    /// Ends a session.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn logout(&self, session: &str) -> Result<(), StoreError> {
        self.store.delete_session(session)
    }

    /// Whose API token this is; `None` when it is nobody's or over.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn bearer(&self, token: &str, now: WallTime) -> Result<Option<Principal>, StoreError> {
        let Some(secret) = Secret::from_api_token(token) else { return Ok(None) };
        let Some(token) = self.store.api_token(&secret.id)? else { return Ok(None) };
        if !secret.fits(&token.secret) || token.expires.is_some_and(|expires| expires <= now) {
            return Ok(None);
        }
        Ok(Some(Principal { name: token.label, role: token.role, session: None }))
    }

    /// Makes an API token; it is shown once.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn create_api_token(
        &self,
        label: &str,
        role: Role,
        lifetime: Option<Duration>,
        now: WallTime,
    ) -> Result<String, StoreError> {
        let secret = Secret::generate();
        self.store.save_api_token(&ApiToken {
            id: secret.id.clone(),
            secret: secret.digest(),
            label: label.to_owned(),
            role,
            created: now,
            expires: lifetime.map(|lifetime| now.after(lifetime)),
        })?;
        Ok(secret.to_api_token())
    }

    /// Sees to it that `admin.token` holds a token that works: removing the file revokes the old one.
    pub(super) fn ensure_admin_token(&self, now: WallTime) -> Result<(), TrustError> {
        let path = self.admin_token_path();
        if path.exists() && self.bearer(files::read_text(&path)?.trim_end(), now)?.is_some() {
            return Ok(());
        }
        self.store.delete_api_tokens_labelled(LOCAL_LABEL)?;
        let token = self.create_api_token(LOCAL_LABEL, Role::Admin, None, now)?;
        files::write_private(&path, format!("{token}\n").as_bytes())
    }
}
