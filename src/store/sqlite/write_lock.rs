//! The file's write lock, held on purpose. See `store::scratch`.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::error::Failure;
use crate::store::Result;

/// A transaction that writes nothing and keeps all others from writing until it is dropped.
pub(in crate::store) struct WriteLock(#[expect(dead_code, reason = "its transaction is what counts")] Connection);

impl WriteLock {
    pub(in crate::store) fn take(path: &Path) -> Result<Self> {
        let take = || -> std::result::Result<Connection, rusqlite::Error> {
            let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let connection = Connection::open_with_flags(path, flags)?;
            connection.busy_timeout(Duration::from_secs(5))?;
            connection.execute_batch("BEGIN IMMEDIATE")?;
            Ok(connection)
        };
        take().map(Self).map_err(|error| Failure::from(error).of("take the write lock"))
    }
}
