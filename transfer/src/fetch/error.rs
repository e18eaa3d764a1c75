//! Why an object could not be had, and whether asking again may help.

use std::error::Error;
use std::io;
use std::net::SocketAddr;

use common::digest::Digest;
use hyper::StatusCode;
use rustls::AlertDescription;

use crate::chunk::TableError;
use crate::http::HttpError;
use crate::store::StoreError;
use crate::tls::{ConnectError, Peer};

/// Why an object could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// There is no connection to the source.
    #[error("the source at {address} cannot be reached")]
    Unreachable {
        /// Where it should be.
        address: SocketAddr,
        /// Why not.
        source: ConnectError,
    },
    /// Somebody else of the cluster is there.
    #[error("the source at {address} is not who it should be")]
    WrongPeer {
        /// Where it should be.
        address: SocketAddr,
        /// Who is there.
        source: ConnectError,
    },
    /// The source does not have the object, or not yet.
    #[error("{peer} at {address} does not hold object {object}")]
    NotHeld {
        /// The source.
        peer: Peer,
        /// Where.
        address: SocketAddr,
        /// The object.
        object: Digest,
    },
    /// A chunk is not what the object's digest says. Chunks verified before it stay.
    #[error("{peer} at {address} sent a wrong chunk {chunk} of object {object}")]
    Corrupt {
        /// The source.
        peer: Peer,
        /// Where.
        address: SocketAddr,
        /// The object.
        object: Digest,
        /// Index of the chunk.
        chunk: u32,
    },
    /// The chunk table is not the object's, or not as announced.
    #[error("{peer} at {address} sent a wrong chunk table of object {object}")]
    WrongTable {
        /// The source.
        peer: Peer,
        /// Where.
        address: SocketAddr,
        /// The object.
        object: Digest,
        /// What is wrong with it.
        source: TableError,
    },
    /// The ticket describes an object that cannot be.
    #[error("the ticket of object {object} is not usable")]
    Ticket {
        /// The object.
        object: Digest,
        /// What is wrong.
        source: TableError,
    },
    /// The source refuses, or cannot.
    #[error("{peer} at {address} answered {status}: {reason}")]
    Refused {
        /// The source.
        peer: Peer,
        /// Where.
        address: SocketAddr,
        /// The HTTP status.
        status: StatusCode,
        /// The first line of its answer.
        reason: String,
    },
    /// The answer does not belong to the question.
    #[error("{peer} at {address} answered with other bytes of object {object} than asked for")]
    Malformed {
        /// The source.
        peer: Peer,
        /// Where.
        address: SocketAddr,
        /// The object.
        object: Digest,
    },
    /// The connection broke, and trying again did not help.
    #[error("the object could not be read from {address}")]
    Lost {
        /// Where.
        address: SocketAddr,
        /// What happened last.
        source: HttpError,
    },
    /// The source fell silent, and trying again did not help.
    #[error("the source at {address} fell silent")]
    TimedOut {
        /// Where.
        address: SocketAddr,
        /// What was waited for last.
        source: HttpError,
    },
    /// It cannot be kept here.
    #[error("the object cannot be stored")]
    Store(#[from] StoreError),
}

impl FetchError {
    pub(super) fn of_http(address: SocketAddr, error: HttpError) -> Self {
        match error {
            HttpError::Connect { source: source @ ConnectError::WrongPeer { .. }, .. } => {
                Self::WrongPeer { address, source }
            }
            HttpError::Connect { source, .. } => Self::Unreachable { address, source },
            HttpError::TimedOut { .. } => Self::TimedOut { address, source: error },
            HttpError::Lost { .. } | HttpError::TooLong { .. } => Self::Lost { address, source: error },
        }
    }

    /// Whether the same question to the same source may fare better in a moment.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable { source, .. } => match source {
                ConnectError::Unreachable { .. } | ConnectError::TimedOut { .. } => true,
                ConnectError::Handshake { source, .. } => !is_about_identity(source),
                ConnectError::WrongPeer { .. } | ConnectError::Protocol { .. } => false,
            },
            Self::Lost { source, .. } => match source {
                HttpError::Lost { source, .. } => !is_about_identity(source),
                HttpError::Connect { .. } | HttpError::TimedOut { .. } => true,
                HttpError::TooLong { .. } => false,
            },
            Self::TimedOut { .. } => true,
            Self::Refused { status, .. } => status.is_server_error(),
            Self::Store(_)
            | Self::WrongPeer { .. }
            | Self::NotHeld { .. }
            | Self::Corrupt { .. }
            | Self::WrongTable { .. }
            | Self::Ticket { .. }
            | Self::Malformed { .. } => false,
        }
    }
}

/// Whether TLS failed because one side does not believe the other, which no second try changes.
fn is_about_identity(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        let tls = error.downcast_ref::<rustls::Error>().or_else(|| {
            let inner = error.downcast_ref::<io::Error>()?.get_ref()?;
            inner.downcast_ref::<rustls::Error>()
        });
        match tls {
            Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => return true,
            Some(rustls::Error::AlertReceived(alert)) => {
                return matches!(
                    alert,
                    AlertDescription::CertificateRequired
                        | AlertDescription::BadCertificate
                        | AlertDescription::UnsupportedCertificate
                        | AlertDescription::CertificateRevoked
                        | AlertDescription::CertificateExpired
                        | AlertDescription::CertificateUnknown
                        | AlertDescription::UnknownCA
                        | AlertDescription::AccessDenied
                        | AlertDescription::NoApplicationProtocol
                );
            }
            Some(_) | None => next = error.source(),
        }
    }
    false
}

/// Why a notification led to nothing.
#[derive(Debug, thiserror::Error)]
pub enum NotifyError {
    /// There is no connection.
    #[error("{peer} at {address} cannot be notified")]
    Unreachable {
        /// To whom.
        peer: Peer,
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: ConnectError,
    },
    /// It does not want the object; trying again is of no use.
    #[error("{peer} at {address} does not want the object: {reason}")]
    Unwanted {
        /// Who.
        peer: Peer,
        /// Where.
        address: SocketAddr,
        /// Its reason.
        reason: String,
    },
    /// It wanted the object and could not get it, or is too busy.
    #[error("{peer} at {address} could not get the object: {reason}")]
    Failed {
        /// Who.
        peer: Peer,
        /// Where.
        address: SocketAddr,
        /// Its reason.
        reason: String,
    },
    /// Another answer than a notification gets.
    #[error("{peer} at {address} answered {status}: {reason}")]
    Refused {
        /// Who.
        peer: Peer,
        /// Where.
        address: SocketAddr,
        /// The HTTP status.
        status: StatusCode,
        /// The first line of its answer.
        reason: String,
    },
    /// No answer within the time given. The object may still arrive there.
    #[error("{peer} at {address} has not answered a notification in time")]
    TimedOut {
        /// Who.
        peer: Peer,
        /// Where.
        address: SocketAddr,
        /// What was waited for.
        source: HttpError,
    },
    /// The connection broke while waiting for the answer. The object may still arrive there.
    #[error("{peer} at {address} was lost before it answered a notification")]
    Lost {
        /// Who.
        peer: Peer,
        /// Where.
        address: SocketAddr,
        /// What happened.
        source: HttpError,
    },
    /// More bytes than a receiver takes; nothing was sent.
    #[error("a notification of {bytes} bytes is longer than the {bytes_max} allowed")]
    TooLong {
        /// Its length.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
}
