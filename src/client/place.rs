//! Where the content control manager is, why it is believed, and who asks.
//!
//! Each of the three is looked for in this order: its own flag, the directory of `--data`, its own
//! environment variable, the directory of `PRESSRUN_DATA`.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use common::digest::Digest;
use hyper::header::HeaderValue;

use crate::exit::Exit;

/// Port when the address names none.
const DEFAULT_PORT: u16 = 7443;

/// What every command takes that asks the content control manager.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct ClientArgs {
    /// The content control manager, as https://HOST:PORT [env: PRESSRUN_CCM]
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) ccm: Option<Url>,
    /// File with the API token [env: PRESSRUN_TOKEN_FILE, or PRESSRUN_TOKEN with the token itself]
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
    /// The cluster's certificate authority: a PEM file, or the 64 digits at the end of a join token
    /// [env: PRESSRUN_CA]
    #[arg(long, global = true, value_name = "FILE|DIGEST")]
    pub(crate) ca: Option<String>,
    /// On the content control manager's host: its data directory, instead of all of the above
    /// [env: PRESSRUN_DATA]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Print the API's JSON on standard output, and errors as JSON on standard error
    #[arg(long, global = true, help_heading = "Output")]
    pub(crate) json: bool,
}

/// Why it is not known whom to ask, or how to prove who asks.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlaceError {
    /// Nobody said where.
    #[error(
        "where is the content control manager? On its host say --data DIR (or set PRESSRUN_DATA); elsewhere \
         say --ccm https://HOST:7443, --token-file FILE and --ca FILE (or PRESSRUN_CCM, PRESSRUN_TOKEN, PRESSRUN_CA)"
    )]
    NoAddress,
    /// An address, and no token.
    #[error("no API token: say --token-file FILE, or set PRESSRUN_TOKEN_FILE or PRESSRUN_TOKEN")]
    NoToken,
    /// An address, and nothing to believe it by.
    #[error(
        "nothing to recognise the content control manager by: say --ca FILE with a copy of its keys/ca.pem, \
         or --ca DIGEST with the last part of a join token, or set PRESSRUN_CA"
    )]
    NoAuthority,
    /// The data directory is none.
    #[error(
        "{} says nothing about a content control manager: has `pressrun ccm --data {}` been started?",
        path.display(), data.display()
    )]
    NotStarted {
        /// The directory.
        data: PathBuf,
        /// The file that is missing.
        path: PathBuf,
    },
    /// A file cannot be read.
    #[error("{} cannot be read", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An address is none.
    #[error("the content control manager's address from {from} cannot be used")]
    BadUrl {
        /// Where it was found.
        from: String,
        /// What is wrong with it.
        source: UrlError,
    },
    /// A token is none.
    #[error("the API token from {from} is not one line of plain text")]
    BadToken {
        /// Where it was found.
        from: String,
    },
}

impl PlaceError {
    /// The exit code.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::NoAddress | Self::NoToken | Self::NoAuthority | Self::BadUrl { .. } => Exit::Usage,
            Self::File { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => Exit::NotAuthorised,
            Self::BadToken { .. } => Exit::NotAuthorised,
            Self::NotStarted { .. } | Self::File { .. } => Exit::Failed,
        }
    }
}

/// Why a text is no address of a content control manager.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not of the form https://HOST or https://HOST:PORT")]
pub(crate) struct UrlError {
    text: String,
}

/// An address of a content control manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Url {
    host: String,
    port: u16,
}

impl Url {
    /// Name or address, without brackets.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Host and port as in a URL.
    pub(crate) fn authority(&self) -> String {
        let Self { host, port } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}", self.authority())
    }
}

impl FromStr for Url {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let error = || UrlError { text: text.chars().take(200).collect() };
        let rest = text.strip_prefix("https://").ok_or_else(error)?;
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = match rest.strip_prefix('[') {
            Some(rest) => {
                let (host, rest) = rest.split_once(']').ok_or_else(error)?;
                host.parse::<std::net::Ipv6Addr>().map_err(|_| error())?;
                (host, rest.strip_prefix(':').or(rest.is_empty().then_some("")).ok_or_else(error)?)
            }
            None => rest.split_once(':').unwrap_or((rest, "")),
        };
        let good = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':');
        if host.is_empty() || !host.bytes().all(good) || (rest.ends_with(':')) {
            return Err(error());
        }
        let port = if port.is_empty() { DEFAULT_PORT } else { port.parse().map_err(|_| error())? };
        Ok(Self { host: host.to_owned(), port })
    }
}

/// Why the content control manager is believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Anchor {
    /// Its certificate is of this authority, PEM.
    Authority(String),
    /// Its root document has this digest, and names the authority.
    RootDigest(Digest),
}

/// Whom to ask, why to believe, who asks.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// Where.
    pub(crate) url: Url,
    /// Why to believe.
    pub(crate) anchor: Anchor,
    /// Who asks; marked as secret.
    pub(crate) authorization: HeaderValue,
}

impl Place {
    /// Finds it from flags and environment.
    ///
    /// # Errors
    /// [`PlaceError`].
    pub(crate) fn find(args: &ClientArgs, env: impl Fn(&str) -> Option<String>) -> Result<Self, PlaceError> {
        let env = |name: &str| env(name).filter(|value| !value.is_empty());
        let data_of_env = env("PRESSRUN_DATA").map(PathBuf::from);
        // Flags win over the environment, whichever of the two names the directory.
        let (flagged, ambient) = (args.data.as_deref(), data_of_env.as_deref());
        let parse = |text: String, from: String| {
            let url = text.trim_end().parse().map_err(|source| PlaceError::BadUrl { from, source });
            url.map(Some)
        };
        let address_in = |data: &Path| {
            let path = data.join("ccm.address");
            parse(read_of_data(data, &path)?, path.display().to_string())
        };
        let url = if let Some(url) = &args.ccm {
            Some(url.clone())
        } else if let Some(data) = flagged {
            address_in(data)?
        } else if let Some(text) = env("PRESSRUN_CCM") {
            parse(text, "PRESSRUN_CCM".to_owned())?
        } else if let Some(data) = ambient {
            address_in(data)?
        } else {
            None
        };
        let url = url.ok_or(PlaceError::NoAddress)?;

        let (token, from) = match (&args.token_file, flagged) {
            (Some(path), _) => (read(path)?, path.display().to_string()),
            (None, Some(data)) => token_in(data)?,
            (None, None) => match (env("PRESSRUN_TOKEN_FILE"), env("PRESSRUN_TOKEN"), ambient) {
                (Some(path), ..) => (read(Path::new(&path))?, path),
                (None, Some(token), _) => (token, "PRESSRUN_TOKEN".to_owned()),
                (None, None, Some(data)) => token_in(data)?,
                (None, None, None) => return Err(PlaceError::NoToken),
            },
        };
        let authorization = HeaderValue::from_str(&format!("Bearer {}", token.trim()));
        let mut authorization = authorization.map_err(|_| PlaceError::BadToken { from })?;
        authorization.set_sensitive(true);

        let anchor = if let Some(text) = &args.ca {
            anchor_named(text)?
        } else if let Some(data) = flagged {
            authority_in(data)?
        } else if let Some(text) = env("PRESSRUN_CA") {
            anchor_named(&text)?
        } else if let Some(data) = ambient {
            authority_in(data)?
        } else {
            return Err(PlaceError::NoAuthority);
        };
        Ok(Self { url, anchor, authorization })
    }
}

fn read(path: &Path) -> Result<String, PlaceError> {
    std::fs::read_to_string(path).map_err(|source| PlaceError::File { path: path.to_owned(), source })
}

fn read_of_data(data: &Path, path: &Path) -> Result<String, PlaceError> {
    match read(path) {
        Err(PlaceError::File { source, path }) if source.kind() == io::ErrorKind::NotFound => {
            Err(PlaceError::NotStarted { data: data.to_owned(), path })
        }
        result => result,
    }
}

fn token_in(data: &Path) -> Result<(String, String), PlaceError> {
    let path = data.join("admin.token");
    Ok((read_of_data(data, &path)?, path.display().to_string()))
}

fn authority_in(data: &Path) -> Result<Anchor, PlaceError> {
    Ok(Anchor::Authority(read_of_data(data, &data.join("keys/ca.pem"))?))
}

fn anchor_named(text: &str) -> Result<Anchor, PlaceError> {
    match text.parse() {
        Ok(digest) => Ok(Anchor::RootDigest(digest)),
        Err(_) => Ok(Anchor::Authority(read(Path::new(text))?)),
    }
}
