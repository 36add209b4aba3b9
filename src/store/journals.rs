//! `journals`: what each process's journal says of itself, so that others know what is still to
//! come, and so that it finds out when the store has lost what it had committed.

use async_trait::async_trait;
use jiff::Timestamp;
use uuid::Uuid;

use super::Result;

/// What a journal reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalReport {
    /// The uuid of its folder.
    pub id: Uuid,
    /// Whose it is, as events name it.
    pub node: String,
    /// All that arrived before is in the store.
    pub clear_until: Timestamp,
    /// The number of the report, from 1.
    pub beat: i64,
}

/// A row of `journals`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalRecord {
    /// The uuid of its folder.
    pub id: Uuid,
    /// Whose it is.
    pub node: String,
    /// All that arrived before is in the store.
    pub clear_until: Timestamp,
    /// When it said so, by the store's clock.
    pub reported_at: Timestamp,
}

/// Journals.
#[async_trait]
pub trait JournalStore: Send + Sync {
    /// Writes a report; the beat of the one before as the store has it, none where it has none.
    async fn report(&self, report: &JournalReport) -> Result<Option<i64>>;
    /// A journal owes nothing any more and is gone.
    async fn forget(&self, id: Uuid) -> Result<()>;
    /// All journals that are not gone, by node and id.
    async fn journals(&self) -> Result<Vec<JournalRecord>>;
    /// `CLUSTER/TIMELINE`, of which the second part changes when a standby was promoted or the
    /// store was restored to a point in time, where the store has such a thing (PostgreSQL).
    async fn timeline(&self) -> Result<Option<String>>;
}
