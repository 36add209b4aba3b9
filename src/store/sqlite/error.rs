//! What an error of SQLite means.

use std::io;

use rusqlite::ErrorCode;
use rusqlite::ffi;

use crate::store::StoreError;

/// What can go wrong in a job, before it is known which operation it belongs to.
#[derive(Debug)]
pub(super) enum Failure {
    /// SQLite's own.
    Sqlite(rusqlite::Error),
    /// The file or its folder cannot be made.
    File(io::Error),
    /// Ours: a row that cannot be read, a table in the way.
    Store(StoreError),
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Failure {
    /// The store's error, now that the operation is known.
    pub(super) fn of(self, operation: &'static str) -> StoreError {
        match self {
            Self::Store(error) => error,
            Self::File(error) => StoreError::Unavailable { operation, source: error.into() },
            Self::Sqlite(error) => of_sqlite(operation, error),
        }
    }
}

fn of_sqlite(operation: &'static str, error: rusqlite::Error) -> StoreError {
    match error.sqlite_error_code() {
        Some(
            ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::DiskFull
            | ErrorCode::ReadOnly
            | ErrorCode::CannotOpen
            | ErrorCode::SystemIoFailure
            | ErrorCode::PermissionDenied
            | ErrorCode::OperationInterrupted
            | ErrorCode::OutOfMemory
            | ErrorCode::FileLockingProtocolFailed
            | ErrorCode::SchemaChanged,
        ) => StoreError::Unavailable { operation, source: error.into() },
        Some(ErrorCode::ConstraintViolation) if contradicts(&error) => {
            // SQLite names the column and no value: "UNIQUE constraint failed: api_keys.api_key_hash".
            StoreError::contradiction(operation, &error)
        }
        _ => StoreError::Refused { operation, source: error.into() },
    }
}

/// Whether the constraint is one between rows, and not about the content of one.
fn contradicts(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_extended_error_code(),
        Some(
            ffi::SQLITE_CONSTRAINT_UNIQUE
                | ffi::SQLITE_CONSTRAINT_PRIMARYKEY
                | ffi::SQLITE_CONSTRAINT_ROWID
                | ffi::SQLITE_CONSTRAINT_FOREIGNKEY
        )
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_become_the_error_that_says_whether_to_try_again() {
        let kind = |code: std::ffi::c_int| match of_sqlite(
            "test",
            rusqlite::Error::SqliteFailure(ffi::Error::new(code), None),
        ) {
            StoreError::Unavailable { .. } => "unavailable",
            StoreError::Conflict(_) => "conflict",
            StoreError::Changed => "changed",
            StoreError::Refused { .. } => "refused",
            StoreError::PastRetention { .. } => "past retention",
            StoreError::Corrupt { .. } => "corrupt",
        };
        for (code, expected) in [
            (ffi::SQLITE_BUSY, "unavailable"),
            (ffi::SQLITE_BUSY_SNAPSHOT, "unavailable"),
            (ffi::SQLITE_LOCKED, "unavailable"),
            (ffi::SQLITE_FULL, "unavailable"),
            (ffi::SQLITE_READONLY, "unavailable"),
            (ffi::SQLITE_CANTOPEN, "unavailable"),
            (ffi::SQLITE_IOERR_WRITE, "unavailable"),
            (ffi::SQLITE_CONSTRAINT_UNIQUE, "conflict"),
            (ffi::SQLITE_CONSTRAINT_PRIMARYKEY, "conflict"),
            (ffi::SQLITE_CONSTRAINT_FOREIGNKEY, "conflict"),
            (ffi::SQLITE_CONSTRAINT_CHECK, "refused"),
            (ffi::SQLITE_CONSTRAINT_NOTNULL, "refused"),
            (ffi::SQLITE_CONSTRAINT_TRIGGER, "refused"),
            (ffi::SQLITE_ERROR, "refused"),
            (ffi::SQLITE_NOTADB, "refused"),
            (ffi::SQLITE_CORRUPT, "refused"),
        ] {
            assert_eq!(kind(code), expected, "{code}");
        }
    }
}
