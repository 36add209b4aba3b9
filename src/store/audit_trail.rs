//! `audit`: who changed what. Rows are written by the changes themselves, in their own
//! transactions ([`super::Store::acting_as`]); here they are read.
//!
//! The table is append-only in the database too: triggers refuse to change, delete or truncate.
//! One change passes them: rows of a client that was erased may lose what was personal in them
//! ([`super::erasure`]).

use async_trait::async_trait;
use uuid::Uuid;

use super::{Page, Result};
use crate::model::audit::{AuditEntry, AuditFilter, Note};

/// The audit.
#[async_trait]
pub trait AuditTrail: Send + Sync {
    /// Rows that pass the filter, the latest first, before the one named; before an unknown one,
    /// those that are older than it would be.
    async fn list(&self, filter: &AuditFilter, before: Option<Uuid>, limit: u32) -> Result<Page<AuditEntry>>;
    /// Writes a row of what is no change of one row: a run over many. Written before the run, it
    /// leaves nothing changed without it.
    async fn record(&self, note: Note) -> Result<()>;
}
