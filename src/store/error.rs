//! What can go wrong with a store, by whose fault and whether trying again makes sense.
//!
//! *Not found* is no error: finders return `Ok(None)`. The three kinds here are the difference
//! between a 503 (the store is away), a 500 (a row we cannot read) and a refusal.

use std::time::Duration;

use thiserror::Error;

/// Any underlying cause: kept for the log, never shown to a caller.
pub type Source = Box<dyn std::error::Error + Send + Sync + 'static>;

/// A store's failure.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The store could not be reached, or answered that it cannot serve now (starting, shutting
    /// down, read-only, serialisation failure, time-out). Transient: the same call may work later.
    #[error("the store is unavailable ({operation})")]
    Unavailable {
        /// What was tried, for the log and the metric.
        operation: &'static str,
        /// The driver's own words.
        #[source]
        source: Source,
    },
    /// A row holds what this version cannot read. Permanent until somebody mends the row.
    #[error("{table}.{column} holds a value this version cannot read: {detail}")]
    Corrupt {
        /// The table.
        table: &'static str,
        /// The column.
        column: &'static str,
        /// What is wrong with it; never the value of a secret.
        detail: String,
    },
    /// The change contradicts what is there (a unique or foreign key).
    #[error("{0}")]
    Conflict(String),
    /// The change was to be made only if the row is still as it was read, and it is not.
    #[error("it was changed since it was read: read it again")]
    Changed,
    /// The store refuses the content or the statement: permanent for this input.
    #[error("the store refused the statement ({operation})")]
    Refused {
        /// What was tried.
        operation: &'static str,
        /// The driver's own words.
        #[source]
        source: Source,
    },
    /// Events that arrived before were deleted, having been billed: none is taken in again. What
    /// else there was in the batch was recorded.
    #[error("events from before {before} are past retention")]
    PastRetention {
        /// The mark.
        before: jiff::Timestamp,
    },
}

impl StoreError {
    /// Whether the same call may work later, unchanged.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unavailable { .. } => true,
            Self::Corrupt { .. }
            | Self::Conflict(_)
            | Self::Changed
            | Self::Refused { .. }
            | Self::PastRetention { .. } => false,
        }
    }

    /// Another row contradicts; `said` is what the database says of it.
    pub(super) fn contradiction(operation: &'static str, said: &dyn std::fmt::Display) -> Self {
        let said = said.to_string();
        let taken = [("a plan", ["plans.name", "plans_name"]), ("an operator", ["operators.name", "operators_name"])];
        for (what, names) in taken {
            if names.iter().any(|name| said.contains(name)) {
                return Self::Conflict(format!(
                    "there is {what} of this name already: change that one, or take another name"
                ));
            }
        }
        Self::Conflict(format!("{operation}: {said}"))
    }

    /// A value that cannot be read.
    pub(super) fn corrupt(table: &'static str, column: &'static str, detail: impl Into<String>) -> Self {
        Self::Corrupt { table, column, detail: detail.into() }
    }

    /// A call that took longer than it may.
    pub(super) fn too_late(operation: &'static str, limit: Duration) -> Self {
        let source = std::io::Error::new(std::io::ErrorKind::TimedOut, format!("no answer within {limit:?}"));
        Self::Unavailable { operation, source: source.into() }
    }
}
