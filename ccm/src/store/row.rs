//! Stored forms of the types of `common`, checked when they are read back.

use std::error::Error;

use common::digest::{Digest, Version};
use common::ids::ServerId;
use common::time::WallTime;
use rusqlite::Row;
use rusqlite::types::{FromSql, Type};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::StoreError;

/// Reads a column through a check that can fail.
pub(super) fn checked<S: FromSql, T, E: Into<Box<dyn Error + Send + Sync>>>(
    row: &Row<'_>,
    column: usize,
    check: impl FnOnce(S) -> Result<T, E>,
) -> rusqlite::Result<T> {
    check(row.get(column)?).map_err(|e| rusqlite::Error::FromSqlConversionFailure(column, Type::Blob, e.into()))
}

/// As [`checked`], for a column that may be empty.
pub(super) fn checked_option<S: FromSql, T, E: Into<Box<dyn Error + Send + Sync>>>(
    row: &Row<'_>,
    column: usize,
    check: impl FnOnce(S) -> Result<T, E>,
) -> rusqlite::Result<Option<T>> {
    row.get::<_, Option<S>>(column)?
        .map(check)
        .transpose()
        .map_err(|e| rusqlite::Error::FromSqlConversionFailure(column, Type::Blob, e.into()))
}

/// A name or other text with a parser.
pub(super) fn text<T: std::str::FromStr>(row: &Row<'_>, column: usize) -> rusqlite::Result<T>
where
    T::Err: Error + Send + Sync + 'static,
{
    checked(row, column, |text: String| text.parse::<T>())
}

pub(super) fn server_id(row: &Row<'_>, column: usize) -> rusqlite::Result<ServerId> {
    row.get(column).map(ServerId)
}

pub(super) fn digest(row: &Row<'_>, column: usize) -> rusqlite::Result<Digest> {
    row.get(column).map(Digest)
}

pub(super) fn version(row: &Row<'_>, column: usize) -> rusqlite::Result<Version> {
    digest(row, column).map(Version)
}

pub(super) fn version_option(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Version>> {
    Ok(row.get::<_, Option<[u8; 32]>>(column)?.map(|bytes| Version(Digest(bytes))))
}

pub(super) fn number(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    checked(row, column, |number: i64| u64::try_from(number))
}

pub(super) fn number_option(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<u64>> {
    checked_option(row, column, |number: i64| u64::try_from(number))
}

pub(super) fn time(row: &Row<'_>, column: usize) -> rusqlite::Result<WallTime> {
    number(row, column).map(WallTime)
}

pub(super) fn time_option(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<WallTime>> {
    Ok(number_option(row, column)?.map(WallTime))
}

pub(super) fn json<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    checked(row, column, |text: String| serde_json::from_str(&text))
}

pub(super) fn json_option<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<T>> {
    checked_option(row, column, |text: String| serde_json::from_str(&text))
}

/// SQLite's integers are signed: what lies beyond is stored as the greatest, which no number that
/// Pressrun counts reaches, and which a time beyond it means anyway (never).
pub(super) fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn to_json<T: Serialize + ?Sized>(what: &'static str, value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|source| StoreError::Encode { what, source: source.into() })
}

pub(super) fn to_postcard<T: Serialize + ?Sized>(what: &'static str, value: &T) -> Result<Vec<u8>, StoreError> {
    postcard::to_stdvec(value).map_err(|source| StoreError::Encode { what, source: source.into() })
}
