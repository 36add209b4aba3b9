//! Closed months: what they were frozen at, and what came afterwards.
//!
//! The rule is kept where usage is recorded, in its one atomic step: an hour of a month that is
//! closed takes nothing more; what comes for it goes to `usage_adjustments`, under the hour in
//! which it came.

use async_trait::async_trait;
use jiff::Timestamp;
use uuid::Uuid;

use super::{Result, UsageSum};
use crate::model::id::ClientId;
use crate::model::month::Month;

/// Whether a month could be closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Closing {
    /// It is closed by now.
    Closed,
    /// It was before.
    Already,
    /// It lasts still, by the store's clock.
    NotOver,
    /// These may have entries for it that the store does not have.
    Owing(Vec<Debtor>),
}

/// Who keeps a month from being closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Debtor {
    /// Its node.
    pub node: String,
    /// Its journal; none: a process that serves and says nothing of its journal.
    pub journal: Option<Uuid>,
    /// Up to when it owes nothing.
    pub clear_until: Option<Timestamp>,
    /// When it said so.
    pub reported_at: Option<Timestamp>,
}

/// A closed month.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClosedMonth {
    /// Which.
    pub month: String,
    /// When it was closed.
    pub closed_at: Timestamp,
    /// Nodes and journals that were not waited for.
    pub without: String,
}

/// What a client has to pay in one month for another, which was closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adjustment {
    /// Whose.
    pub client_id: Uuid,
    /// The month that was closed.
    pub corrects: String,
    /// What came for it.
    pub sum: UsageSum,
}

/// Months.
#[async_trait]
pub trait MonthStore: Send + Sync {
    /// Freezes a month, unless somebody may still have entries for it. `without`: nodes and
    /// journals that are not waited for.
    async fn close(&self, month: Month, without: &[String]) -> Result<Closing>;
    /// The month, if it is closed.
    async fn closed(&self, month: Month) -> Result<Option<ClosedMonth>>;
    /// What a closed month was frozen at, a client each, by id.
    async fn totals(&self, month: Month, client: Option<ClientId>) -> Result<Vec<(Uuid, UsageSum)>>;
    /// What was booked in this time for months that were closed, by client and month.
    async fn adjustments(&self, from: Timestamp, to: Timestamp, client: Option<ClientId>) -> Result<Vec<Adjustment>>;
}
