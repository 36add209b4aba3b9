//! The file's write lock, held on purpose. See `store::scratch`.

use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::error::Failure;
use crate::store::Result;

/// How often it is looked whether somebody writes; a drain does each second.
const LOOK: Duration = Duration::from_millis(1);
/// So many looks, and nobody wrote.
const LOOKS: u32 = 1_500;
/// So many attempts, and whoever writes is still at it.
const ATTEMPTS: u32 = 200_000;

/// A transaction that writes nothing and keeps all others from writing until it is dropped.
pub(in crate::store) struct WriteLock(#[expect(dead_code, reason = "its transaction is what counts")] Connection);

impl WriteLock {
    pub(in crate::store) fn take(path: &Path) -> Result<Self> {
        let take = || -> std::result::Result<Connection, rusqlite::Error> {
            let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let connection = Connection::open_with_flags(path, flags)?;
            if !take_behind_a_writer(&connection)? {
                connection.busy_timeout(Duration::from_secs(5))?;
                connection.execute_batch("BEGIN IMMEDIATE")?;
            }
            Ok(connection)
        };
        take().map(Self).map_err(|error| Failure::from(error).of("take the write lock"))
    }
}

/// Takes it the moment that a writer lets go of it: there, what should be one transaction and is
/// two can be seen. Whether there was a writer.
fn take_behind_a_writer(connection: &Connection) -> std::result::Result<bool, rusqlite::Error> {
    connection.busy_timeout(Duration::ZERO)?;
    let is_free = || match connection.execute_batch("BEGIN IMMEDIATE") {
        Ok(()) => Ok(true),
        Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => Ok(false),
        Err(error) => Err(error),
    };
    for _ in 0..LOOKS {
        if is_free()? {
            connection.execute_batch("ROLLBACK")?;
            sleep(LOOK);
            continue;
        }
        for _ in 0..ATTEMPTS {
            if is_free()? {
                return Ok(true);
            }
        }
    }
    Ok(false)
}
