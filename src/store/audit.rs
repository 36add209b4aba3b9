//! Whether the books balance: events against rollups, hour by hour, and journals against events;
//! and how far back events go.

use async_trait::async_trait;
use jiff::{Timestamp, ToSpan as _};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::events::EventRow;
use super::{Result, StoreError};
use crate::model::id::ClientId;
use crate::model::usage::UsageEvent;

/// The most differences of one hour that are listed.
pub const LISTED: u32 = 1_000;

/// What is compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[expect(missing_docs, reason = "the columns of `usage_hourly`")]
pub struct Amounts {
    pub requests: i64,
    pub units: i64,
    pub bytes_in: i64,
    pub bytes_out: i64,
    pub duration_us: i64,
}

/// One hour, as it is told twice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HourBooks {
    /// By its events.
    pub events: Amounts,
    /// By rollups and adjustments, refusals apart.
    pub rollups: Amounts,
    /// Clients for whom the two differ, by id; at most [`LISTED`].
    pub differing: Vec<ClientBooks>,
}

/// A client whose hour is told in two ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientBooks {
    /// Whose.
    pub client_id: Uuid,
    /// By its events.
    pub events: Amounts,
    /// By rollups and adjustments.
    pub rollups: Amounts,
}

/// Why rollups were not made anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotRebuilt {
    /// Events of these hours were deleted.
    #[error("events of these hours are deleted (they lie before {before}): the rollups are all that is left of them")]
    PastRetention {
        /// All before are gone.
        before: Timestamp,
    },
    /// A month was closed.
    #[error("an hour of these lies in a month that is closed: what it was frozen at stays")]
    Closed,
}

/// Audits.
#[async_trait]
pub trait AuditStore: Send + Sync {
    /// Compares an hour, at one moment. Only this client's, or everybody's.
    async fn compare_hour(&self, hour: Timestamp, client: Option<ClientId>) -> Result<HourBooks>;
    /// Those of these events that are in the table.
    async fn events_of(&self, ids: &[Uuid]) -> Result<Vec<EventRow>>;
    /// Makes the rollups of these hours anew from their events, all or none, and says so in the audit;
    /// refusals stay as they are.
    async fn rebuild(&self, hours: &[Timestamp]) -> Result<std::result::Result<(), NotRebuilt>>;
    /// Before when events were deleted.
    async fn retention_mark(&self) -> Result<Option<Timestamp>>;
    /// Marks events that arrived before as deleted, so that none is ever taken in again, and
    /// deletes a part of them: to be called again until it says 0. What is kept whole (a partition)
    /// goes when all of it lies before the mark. Rollups stay.
    async fn retire_events(&self, before: Timestamp) -> Result<u64>;
}

/// The smallest id of a moment.
pub(super) fn first_id(moment: Timestamp) -> Uuid {
    Uuid::from_u128(u128::try_from(moment.as_millisecond()).unwrap_or(0) << 80)
}

/// The hour's end.
pub(super) fn hour_after(hour: Timestamp) -> Timestamp {
    hour.checked_add(1.hour()).unwrap_or(Timestamp::MAX)
}

/// An error if some of `events` lie before the mark of retention.
pub(super) fn refuse_past(mark: Option<Timestamp>, events: &[UsageEvent]) -> Result<()> {
    let Some(before) = mark else { return Ok(()) };
    if events.iter().any(|event| event.id.is_before(before)) {
        Err(StoreError::PastRetention { before })
    } else {
        Ok(())
    }
}
