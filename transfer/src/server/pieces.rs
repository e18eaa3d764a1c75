//! Answering `POST /o/<digest>/pieces`: the bytes of an object that somebody lacks, one piece after the other.
//!
//! Who took part in a multicast session that did not bring everything lacks many short pieces. One request
//! names them all; the answer is their bytes without anything between, so that only what is missing crosses.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use bytes::Bytes;
use common::digest::Digest;
use futures_util::{TryStreamExt as _, stream};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use serde::{Deserialize, Serialize};

use super::{ChunkBody, PIECE_BYTES};
use crate::task::blocking;

/// Most pieces of one request.
pub(crate) const PIECES_MAX: usize = 16_384;
/// Longest request, in bytes: each piece is two numbers of at most ten bytes.
pub(crate) const REQUEST_BYTES_MAX: usize = 20 * PIECES_MAX + 16;

/// Pieces of an object, ascending, as a request names them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pieces(
    /// For each: bytes between the end of the one before, or the object's beginning, and this; its length.
    Vec<(u64, u64)>,
);

/// Why pieces are not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PiecesError {
    /// None, or more than are served at once.
    #[error("one to {PIECES_MAX} pieces can be asked for at once")]
    Count,
    /// A piece of no bytes.
    #[error("a piece is empty")]
    Empty,
    /// A piece that ends after the object.
    #[error("a piece goes beyond the object's end")]
    Beyond,
}

impl Pieces {
    /// Of ranges that ascend and do not touch.
    pub(crate) fn of(ranges: &[Range<u64>]) -> Self {
        let mut end = 0;
        let piece = |range: &Range<u64>| {
            let gap = range.start.saturating_sub(end);
            end = range.end;
            (gap, range.end.saturating_sub(range.start))
        };
        Self(ranges.iter().map(piece).collect())
    }

    /// The ranges, if an object of this length has them.
    pub(crate) fn ranges(&self, length: u64) -> Result<Vec<Range<u64>>, PiecesError> {
        if self.0.is_empty() || self.0.len() > PIECES_MAX {
            return Err(PiecesError::Count);
        }
        let mut end = 0_u64;
        let mut ranges = Vec::with_capacity(self.0.len());
        for (gap, bytes) in self.0.iter().copied() {
            if bytes == 0 {
                return Err(PiecesError::Empty);
            }
            let start = end.checked_add(gap).ok_or(PiecesError::Beyond)?;
            end = start.checked_add(bytes).filter(|end| *end <= length).ok_or(PiecesError::Beyond)?;
            ranges.push(start..end);
        }
        Ok(ranges)
    }
}

/// Sends the bytes of these ranges, which the file has.
pub(super) fn send(digest: Digest, file: Arc<File>, ranges: Vec<Range<u64>>) -> Response<ChunkBody> {
    let bytes: u64 = ranges.iter().map(|range| range.end - range.start).sum();
    let state = (file, ranges.into_iter(), None);
    let stream =
        stream::try_unfold(state, move |(file, mut ranges, mut rest): (_, _, Option<Range<u64>>)| async move {
            let read = blocking(move || {
                let mut bytes = Vec::new();
                while (bytes.len() as u64) < PIECE_BYTES {
                    let Some(range) = rest.take().or_else(|| ranges.next()) else { break };
                    let room = PIECE_BYTES - bytes.len() as u64;
                    let end = range.end.min(range.start + room);
                    let from = bytes.len();
                    bytes.resize(from + usize::try_from(end - range.start).expect("a piece fits into memory"), 0);
                    file.read_exact_at(&mut bytes[from..], range.start)?;
                    rest = Some(end..range.end).filter(|rest| !rest.is_empty());
                }
                Ok::<_, io::Error>((bytes, (file, ranges, rest)))
            });
            let (bytes, state) = read.await.inspect_err(|error| {
                tracing::warn!(object = %digest, error = error as &dyn std::error::Error, "cannot read an object");
            })?;
            Ok::<_, io::Error>((!bytes.is_empty()).then(|| (Bytes::from(bytes), state)))
        });
    let mut response = Response::new(StreamBody::new(stream.map_ok(Frame::data)).boxed_unsync());
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    headers.insert(CONTENT_LENGTH, HeaderValue::from(bytes));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::single_range_in_vec_init, reason = "a list of one range is what is meant")]
    fn ranges_come_back_as_they_were_named() {
        for ranges in [vec![0..1], vec![0..10, 20..30, 99..100], vec![50..100]] {
            assert_eq!(Pieces::of(&ranges).ranges(100), Ok(ranges));
        }
    }

    #[test]
    fn what_the_object_does_not_have_is_refused_by_name() {
        assert_eq!(Pieces(vec![]).ranges(100), Err(PiecesError::Count));
        assert_eq!(Pieces(vec![(0, 1); PIECES_MAX + 1]).ranges(u64::MAX), Err(PiecesError::Count));
        assert_eq!(Pieces(vec![(5, 0)]).ranges(100), Err(PiecesError::Empty));
        for beyond in [vec![(0, 101)], vec![(100, 1)], vec![(u64::MAX, 1)], vec![(1, u64::MAX)], vec![(50, 40), (5, 6)]]
        {
            assert_eq!(Pieces(beyond.clone()).ranges(100), Err(PiecesError::Beyond), "{beyond:?}");
        }
    }
}
