//! Taking over keys that were made elsewhere: all of them or none.
//!
//! A row names a client and brings a key as one of three: its hash under our pepper, its plain
//! SHA-256, or the key itself. A raw key is hashed as its row is taken and then forgotten.
//!
//! | file | owns |
//! |---|---|
//! | `read` | from bytes to rows: CSV, NDJSON, members of a JSON body; line numbers |
//! | `check` | from a row to a key, or the reason why not; duplicates |
//!
//! Every row is checked, also against the store, before anything is written; every bad one is
//! told with its line. No message repeats a value: where columns are mixed up it may be a key.
//!
//! Refuses to know where rows come from: the command line and the admin API bring them.

mod check;
mod read;

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use check::{Checker, Hasher, misplaced_key};
pub use read::{Row, rows};

use crate::store::{self, Store};

/// How rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// RFC 4180, the first row names the columns.
    Csv,
    /// One JSON object a line.
    Ndjson,
}

/// What is wrong with a row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = ImportProblem)]
pub struct Problem {
    /// Which one.
    pub line: u64,
    /// Without any value of it.
    pub reason: String,
}

/// What an import came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = ImportOutcome)]
pub struct Outcome {
    /// Whether all rows are good.
    pub ok: bool,
    /// Whether nothing was to be written.
    pub dry_run: bool,
    /// Rows that were imported, or, in a dry run, would be.
    pub imported: u64,
    /// Everything that is wrong, by line. If anything is, nothing is imported.
    pub problems: Vec<Problem>,
}

impl Outcome {
    /// Of rows of which some cannot be imported.
    #[must_use]
    pub fn refused(mut problems: Vec<Problem>, dry_run: bool) -> Self {
        problems.sort_by_key(|problem| problem.line);
        Self { ok: false, dry_run, imported: 0, problems }
    }

    /// Why nothing was imported; none: it was.
    #[must_use]
    pub fn refusal(&self) -> Option<String> {
        match self.problems.len() {
            0 => None,
            1 => Some("1 problem; nothing was imported".to_owned()),
            count => Some(format!("{count} problems; nothing was imported")),
        }
    }
}

/// Imports the rows that were taken, unless one of them, or one that could not even be read, is bad.
///
/// # Errors
/// The store's.
pub async fn finish(
    checker: Checker,
    unreadable: Vec<Problem>,
    dry_run: bool,
    store: &Store,
) -> store::Result<Outcome> {
    let (keys, mut problems) = checker.finish(store).await?;
    problems.extend(unreadable);
    if !problems.is_empty() {
        return Ok(Outcome::refused(problems, dry_run));
    }
    let imported = if dry_run { keys.len() as u64 } else { store.keys.import(keys).await? };
    Ok(Outcome { ok: true, dry_run, imported, problems })
}
