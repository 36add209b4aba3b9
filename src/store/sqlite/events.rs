//! Single rows of `usage_events`

use async_trait::async_trait;
use rusqlite::{Connection, params};
use uuid::Uuid;

use super::lane::REPORT;
use super::row::Columns;
use super::{Sqlite, time};
use crate::store::Result;
use crate::store::events::{EVENT, EventQuery, EventRow, EventStore};

#[async_trait]
impl EventStore for Sqlite {
    async fn events(&self, query: &EventQuery, after: Option<Uuid>, limit: u32) -> Result<Vec<EventRow>> {
        let query = query.clone();
        let select = move |connection: &mut Connection| {
            let (first, last) = query.ids(after);
            let mut statement = connection.prepare_cached(&format!(
                "SELECT {EVENT} FROM usage_events
                 WHERE id > ?1 AND id < ?2 AND occurred_at >= ?3 AND occurred_at < ?4
                   AND (?5 IS NULL OR client_id = ?5) AND (?6 IS NULL OR outcome = ?6) AND (?7 IS NULL OR route = ?7)
                   AND (?8 IS NULL OR request_id = ?8)
                 ORDER BY id LIMIT ?9"
            ))?;
            let mut rows = statement.query(params![
                first.to_string(),
                last.to_string(),
                time::text(query.from),
                time::text(query.to),
                query.client.map(|id| id.to_string()),
                query.outcome,
                query.route,
                query.request_id,
                limit,
            ])?;
            let mut events = Vec::new();
            while let Some(row) = rows.next()? {
                events.push(event(&mut Columns::of("usage_events", row))?);
            }
            Ok(events)
        };
        self.reports.run("list usage events", REPORT, select).await
    }
}

/// Reads [`EVENT`].
pub(super) fn event(row: &mut Columns<'_, '_>) -> Result<EventRow> {
    Ok(EventRow {
        id: row.id("id")?,
        request_id: row.take("request_id")?,
        client_id: row.id("client_id")?,
        api_key_id: row.id_or_null("api_key_id")?,
        token_id: row.id_or_null("token_id")?,
        occurred_at: row.time("occurred_at")?,
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
        parent_id: row.id_or_null("parent_id")?,
        corrects: row.id_or_null("corrects")?,
    })
}
