//! Where the servers of a segment are reached, as they say themselves.

use std::net::SocketAddr;

use common::ids::{SegmentName, ServerId, ServerName};
use rusqlite::params;

use super::error::StoreError;
use super::row::{server_id, text};
use super::{Doing as _, Store};

/// A server with its address on its segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlAddress {
    /// Who.
    pub server: ServerId,
    /// Its name.
    pub name: ServerName,
    /// Where it hears what is said to it alone.
    pub address: SocketAddr,
}

impl Store {
    /// Keeps where a server is. Nothing happens when it is not enrolled any more.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn save_control_address(&self, server: &ServerId, address: SocketAddr) -> Result<(), StoreError> {
        self.lock()
            .execute(
                "INSERT INTO control_addresses (server, address) SELECT id, ?2 FROM servers WHERE id = ?1 \
                 ON CONFLICT (server) DO UPDATE SET address = ?2 WHERE address <> ?2",
                params![server.0, address.to_string()],
            )
            .doing("keeping a server's address")?;
        Ok(())
    }

    /// The servers of a segment that have said where they are, by name.
    ///
    /// # Errors
    /// [`StoreError::Sql`].
    pub fn control_addresses(&self, segment: &SegmentName) -> Result<Vec<ControlAddress>, StoreError> {
        let connection = self.lock();
        let mut statement = connection
            .prepare_cached(
                "SELECT id, name, address FROM servers JOIN control_addresses ON server = id WHERE segment = ?1 \
                 ORDER BY name",
            )
            .doing("reading the addresses of a segment")?;
        let rows = statement
            .query_map(params![segment.as_str()], |row| {
                Ok(ControlAddress { server: server_id(row, 0)?, name: text(row, 1)?, address: text(row, 2)? })
            })
            .doing("reading the addresses of a segment")?;
        rows.collect::<rusqlite::Result<_>>().doing("reading the addresses of a segment")
    }
}
