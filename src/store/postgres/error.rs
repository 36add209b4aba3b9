//! What an error of PostgreSQL means.

use std::fmt;

use deadpool_postgres::{HookError, PoolError};
use tokio_postgres::error::DbError;

use crate::store::{Source, StoreError};

/// What the server said, without its DETAIL, which repeats whole rows and keys.
#[derive(Debug)]
pub(super) struct Said {
    code: String,
    message: String,
    hint: Option<String>,
}

impl From<&DbError> for Said {
    fn from(error: &DbError) -> Self {
        Self {
            code: error.code().code().to_owned(),
            message: error.message().to_owned(),
            hint: error.hint().map(ToOwned::to_owned),
        }
    }
}

impl fmt::Display for Said {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} (SQLSTATE {})", self.message, self.code)?;
        match &self.hint {
            Some(hint) => write!(out, "; {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Said {}

/// The store's error of a failed statement.
pub(super) fn of_statement(operation: &'static str, error: tokio_postgres::Error) -> StoreError {
    let Some(server) = error.as_db_error() else {
        // The connection: refused, reset, closed, no TLS. Values and columns do not come here.
        return StoreError::Unavailable { operation, source: error.into() };
    };
    let said = Said::from(server);
    match kind_of(&said.code) {
        Kind::Unavailable => StoreError::Unavailable { operation, source: said.into() },
        Kind::Conflict => StoreError::contradiction(operation, &said.message),
        Kind::Rule => StoreError::Conflict(match said.hint {
            Some(hint) => format!("{}. {hint}", said.message),
            None => said.message,
        }),
        Kind::Refused => StoreError::Refused { operation, source: said.into() },
    }
}

/// The store's error when no connection was to be had.
pub(super) fn of_pool(operation: &'static str, error: PoolError) -> StoreError {
    let source: Source = match error {
        PoolError::Backend(error) | PoolError::PostCreateHook(HookError::Backend(error)) => {
            match error.as_db_error().map(Said::from) {
                Some(said) => said.into(),
                None => error.into(),
            }
        }
        other => other.into(),
    };
    StoreError::Unavailable { operation, source }
}

/// Whether the session is no longer what this process takes it for: a prepared statement is
/// gone, or its table was altered. Another connection mends it.
pub(super) fn spoils_session(error: &tokio_postgres::Error) -> bool {
    error.code().is_none_or(|code| matches!(code.code(), "0A000" | "26000" | "25P02"))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Unavailable,
    Conflict,
    /// A sentence that a function or migration wrote for whoever reads it.
    Rule,
    Refused,
}

/// By SQLSTATE (PostgreSQL's manual, appendix A).
fn kind_of(code: &str) -> Kind {
    match code {
        // Unique and foreign keys: another row contradicts.
        "23505" | "23503" => Kind::Conflict,
        // `RAISE EXCEPTION`.
        "P0001" => Kind::Rule,
        // Serialisation failure, deadlock, read-only transaction (a standby), lock not available,
        // cancelled by a time-out, and the two of `spoils_session` that another connection mends.
        "40001" | "40P01" | "25006" | "55P03" | "57014" | "0A000" | "26000" => Kind::Unavailable,
        // Connection, authorisation and catalogue while connecting (a password being rotated, a
        // database being restored), resources, shutdown and start, the server's own disk.
        _ if ["08", "28", "3D", "53", "57P", "58"].iter().any(|class| code.starts_with(class)) => Kind::Unavailable,
        _ => Kind::Refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_say_whether_to_try_again() {
        for (code, expected) in [
            ("08006", Kind::Unavailable),
            ("57P01", Kind::Unavailable),
            ("57P03", Kind::Unavailable),
            ("57014", Kind::Unavailable),
            ("53300", Kind::Unavailable),
            ("53100", Kind::Unavailable),
            ("40001", Kind::Unavailable),
            ("40P01", Kind::Unavailable),
            ("25006", Kind::Unavailable),
            ("55P03", Kind::Unavailable),
            ("28P01", Kind::Unavailable),
            ("3D000", Kind::Unavailable),
            ("23505", Kind::Conflict),
            ("23503", Kind::Conflict),
            ("P0001", Kind::Rule),
            ("23514", Kind::Refused),
            ("23502", Kind::Refused),
            ("22021", Kind::Refused),
            ("22P05", Kind::Refused),
            ("42P01", Kind::Refused),
            ("42501", Kind::Refused),
            ("XX000", Kind::Refused),
        ] {
            assert_eq!(kind_of(code), expected, "{code}");
        }
    }
}
