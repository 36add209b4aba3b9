//! Single rows of `usage_events`, read page by page in the order of their ids, which is that of time.

use async_trait::async_trait;
use jiff::{Timestamp, ToSpan as _};
use uuid::Uuid;

use super::Result;
use super::audit::first_id;
use crate::model::id::ClientId;

/// Which events.
#[derive(Clone, Debug)]
pub struct EventQuery {
    /// Of requests that arrived from then on.
    pub from: Timestamp,
    /// And before then.
    pub to: Timestamp,
    /// Only this client's.
    pub client: Option<ClientId>,
    /// Only of this outcome.
    pub outcome: Option<String>,
    /// Only of this route.
    pub route: Option<String>,
    /// Only of this request, by the id that its caller was told. No index leads there: where we made the
    /// id it is also the event's, and the time in that is the way.
    pub request_id: Option<String>,
}

impl EventQuery {
    /// All events of a time.
    #[must_use]
    pub fn between(from: Timestamp, to: Timestamp) -> Self {
        Self { from, to, client: None, outcome: None, route: None, request_id: None }
    }

    /// The ids that these events can have: an id is made when a request arrives, or within a moment
    /// of it. So a time range is a range of the primary key, and of partitions.
    pub(super) fn ids(&self, after: Option<Uuid>) -> (Uuid, Uuid) {
        let (first, last) = ids_around(self.from, self.to);
        (after.map_or(first, |after| after.max(first)), last)
    }
}

/// The ids that events of this time can have, with a moment before and after it.
pub(super) fn ids_around(from: Timestamp, to: Timestamp) -> (Uuid, Uuid) {
    let id_at = |moment: Timestamp, seconds: i64| first_id(moment.checked_add(seconds.seconds()).unwrap_or(moment));
    (id_at(from, -2), id_at(to, 2))
}

/// A row of `usage_events`, as it stands there.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the columns of `usage_events`")]
pub struct EventRow {
    pub id: Uuid,
    pub request_id: String,
    pub client_id: Uuid,
    pub api_key_id: Option<Uuid>,
    pub token_id: Option<Uuid>,
    pub occurred_at: Timestamp,
    pub route: String,
    pub method: String,
    pub status: Option<i32>,
    pub outcome: String,
    pub reason: Option<String>,
    pub duration_us: i64,
    pub bytes_in: i64,
    pub bytes_out: i64,
    pub units: i64,
    pub node: String,
    pub kind: String,
    pub parent_id: Option<Uuid>,
    pub corrects: Option<Uuid>,
}

/// Reads single events.
#[async_trait]
pub trait EventStore: Send + Sync {
    /// The next events after the one named, in the order of their ids; fewer than `limit`: the last.
    async fn events(&self, query: &EventQuery, after: Option<Uuid>, limit: u32) -> Result<Vec<EventRow>>;
}

/// The columns, in the order of [`EventRow`].
pub(super) const EVENT: &str = "id, request_id, client_id, api_key_id, token_id, occurred_at, route, method, status, \
     outcome, reason, duration_us, bytes_in, bytes_out, units, node, kind, parent_id, corrects";
