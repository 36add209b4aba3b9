//! Single rows of `usage_events`

use async_trait::async_trait;
use uuid::Uuid;

use super::Postgres;
use super::pool::{Params, WORK};
use super::row::{Columns, all};
use crate::store::Result;
use crate::store::events::{EVENT, EventQuery, EventRow, EventStore};

#[async_trait]
impl EventStore for Postgres {
    async fn events(&self, query: &EventQuery, after: Option<Uuid>, limit: u32) -> Result<Vec<EventRow>> {
        let (first, last) = query.ids(after);
        let statement = format!(
            "SELECT {EVENT} FROM usage_events
             WHERE id > $1 AND id < $2 AND occurred_at >= $3 AND occurred_at < $4
               AND ($5::uuid IS NULL OR client_id = $5) AND ($6::text IS NULL OR outcome = $6)
               AND ($7::text IS NULL OR route = $7)
               AND ($8::text IS NULL OR request_id = $8)
             ORDER BY id LIMIT $9"
        );
        let (client, limit) = (query.client.map(|id| id.0), i64::from(limit));
        let values: Params<'_> =
            &[&first, &last, &query.from, &query.to, &client, &query.outcome, &query.route, &query.request_id, &limit];
        let mut lease = self.work.lease("list usage events", WORK).await?;
        all("usage_events", &lease.rows(&statement, values).await?, event)
    }
}

/// Reads [`EVENT`].
pub(super) fn event(row: &mut Columns<'_>) -> Result<EventRow> {
    Ok(EventRow {
        id: row.take("id")?,
        request_id: row.take("request_id")?,
        client_id: row.take("client_id")?,
        api_key_id: row.take("api_key_id")?,
        token_id: row.take("token_id")?,
        occurred_at: row.take("occurred_at")?,
        route: row.take("route")?,
        method: row.take("method")?,
        status: row.take("status")?,
        outcome: row.take("outcome")?,
        reason: row.take("reason")?,
        duration_us: row.take("duration_us")?,
        bytes_in: row.take("bytes_in")?,
        bytes_out: row.take("bytes_out")?,
        units: row.take("units")?,
        node: row.take("node")?,
        kind: row.take("kind")?,
        parent_id: row.take("parent_id")?,
        corrects: row.take("corrects")?,
    })
}
