//! Whether events and rollups say the same, and how far back events go.

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::{Connection, TransactionBehavior, params};
use uuid::Uuid;

use super::error::Failure;
use super::events::event;
use super::lane::{REPORT, WRITE};
use super::row::Columns;
use super::trail::note;
use super::usage::retention_mark;
use super::{Sqlite, time};
use crate::model::id::ClientId;
use crate::model::usage::REJECTED;
use crate::store::Result;
use crate::store::audit::{Amounts, AuditStore, ClientBooks, HourBooks, LISTED, NotRebuilt, first_id, hour_after};
use crate::store::events::{EVENT, EventRow, ids_around};
use crate::store::trail::{Pen, rebuild_note};

/// How many events one transaction deletes: the drain waits so long.
const DELETED_AT_ONCE: u32 = 5_000;

const COMPARE: &str = "
    WITH told AS (
        SELECT client_id, CASE kind WHEN 'stream' THEN 0 ELSE 1 END AS er, units AS eu, bytes_in AS ei, bytes_out AS eo, duration_us AS ed,
            0 AS rr, 0 AS ru, 0 AS ri, 0 AS ro, 0 AS rd
        FROM usage_events
        WHERE id > ?1 AND id < ?2 AND occurred_at >= ?3 AND occurred_at < ?4 AND (?5 IS NULL OR client_id = ?5)
        UNION ALL
        SELECT client_id, 0, 0, 0, 0, 0, requests, units, bytes_in, bytes_out, duration_us
        FROM usage_hourly WHERE hour = ?3 AND outcome <> ?6 AND (?5 IS NULL OR client_id = ?5)
        UNION ALL
        SELECT client_id, 0, 0, 0, 0, 0, requests, units, bytes_in, bytes_out, duration_us
        FROM usage_adjustments WHERE hour = ?3 AND outcome <> ?6 AND (?5 IS NULL OR client_id = ?5)),
    clients AS MATERIALIZED (
        SELECT client_id, sum(er) AS er, sum(eu) AS eu, sum(ei) AS ei, sum(eo) AS eo, sum(ed) AS ed,
            sum(rr) AS rr, sum(ru) AS ru, sum(ri) AS ri, sum(ro) AS ro, sum(rd) AS rd
        FROM told GROUP BY client_id)
    SELECT NULL, coalesce(sum(er), 0), coalesce(sum(eu), 0), coalesce(sum(ei), 0), coalesce(sum(eo), 0),
        coalesce(sum(ed), 0), coalesce(sum(rr), 0), coalesce(sum(ru), 0), coalesce(sum(ri), 0), coalesce(sum(ro), 0),
        coalesce(sum(rd), 0)
    FROM clients
    UNION ALL
    SELECT * FROM (
        SELECT * FROM clients WHERE (er, eu, ei, eo, ed) IS NOT (rr, ru, ri, ro, rd) ORDER BY client_id LIMIT ?7)";

#[async_trait]
impl AuditStore for Sqlite {
    async fn compare_hour(&self, hour: Timestamp, client: Option<ClientId>) -> Result<HourBooks> {
        let compare = move |connection: &mut Connection| {
            let (first, last) = ids_around(hour, hour_after(hour));
            let mut statement = connection.prepare_cached(COMPARE)?;
            let mut rows = statement.query(params![
                first.to_string(),
                last.to_string(),
                time::text(hour),
                time::text(hour_after(hour)),
                client.map(|id| id.to_string()),
                REJECTED,
                LISTED,
            ])?;
            let mut books = HourBooks::default();
            while let Some(row) = rows.next()? {
                let mut row = Columns::of("usage_hourly", row);
                let client_id = row.id_or_null("client_id")?;
                let (events, rollups) = (amounts(&mut row)?, amounts(&mut row)?);
                match client_id {
                    None => (books.events, books.rollups) = (events, rollups),
                    Some(client_id) => books.differing.push(ClientBooks { client_id, events, rollups }),
                }
            }
            Ok(books)
        };
        self.reports.run("compare usage", REPORT, compare).await
    }

    async fn events_of(&self, ids: &[Uuid]) -> Result<Vec<EventRow>> {
        let ids = ids.to_vec();
        let select = move |connection: &mut Connection| {
            let mut statement =
                connection.prepare_cached(&format!("SELECT {EVENT} FROM usage_events WHERE id = ?1"))?;
            let mut found = Vec::new();
            for id in ids {
                let mut rows = statement.query([id.to_string()])?;
                if let Some(row) = rows.next()? {
                    found.push(event(&mut Columns::of("usage_events", row))?);
                }
            }
            Ok(found)
        };
        self.reports.run("find usage events", REPORT, select).await
    }

    async fn rebuild(&self, hours: &[Timestamp]) -> Result<std::result::Result<(), NotRebuilt>> {
        let (hours, pen) = (hours.to_vec(), self.pen.clone());
        self.writer.run("rebuild rollups", WRITE, move |connection| rebuild(connection, &pen, &hours)).await
    }

    async fn retention_mark(&self) -> Result<Option<Timestamp>> {
        self.reports.run("read retention", REPORT, |connection| retention_mark(connection)).await
    }

    async fn retire_events(&self, before: Timestamp) -> Result<u64> {
        let retire = move |connection: &mut Connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            transaction.execute(
                "INSERT INTO usage_retention (one, before, first_id) VALUES (1, ?1, ?2)
                 ON CONFLICT (one) DO UPDATE SET before = excluded.before, first_id = excluded.first_id,
                     set_at = strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')
                 WHERE excluded.before > usage_retention.before",
                params![time::text(before), first_id(before).to_string()],
            )?;
            let deleted = transaction.execute(
                "DELETE FROM usage_events WHERE id IN (
                     SELECT id FROM usage_events WHERE id < (SELECT first_id FROM usage_retention) ORDER BY id LIMIT ?1)",
                [DELETED_AT_ONCE],
            )?;
            transaction.commit()?;
            Ok(deleted as u64)
        };
        self.writer.run("retire usage events", WRITE, retire).await
    }
}

fn amounts(row: &mut Columns<'_, '_>) -> Result<Amounts> {
    Ok(Amounts {
        requests: row.take("requests")?,
        units: row.take("units")?,
        bytes_in: row.take("bytes_in")?,
        bytes_out: row.take("bytes_out")?,
        duration_us: row.take("duration_us")?,
    })
}

fn rebuild(
    connection: &mut Connection,
    pen: &Pen,
    hours: &[Timestamp],
) -> std::result::Result<std::result::Result<(), NotRebuilt>, Failure> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if let Some(before) = retention_mark(&transaction)?
        && hours.iter().any(|hour| *hour < before)
    {
        return Ok(Err(NotRebuilt::PastRetention { before }));
    }
    for hour in hours {
        let closed: bool = transaction
            .prepare_cached("SELECT EXISTS (SELECT 1 FROM closed_months WHERE ?1 >= starts AND ?1 < ends)")?
            .query_row([time::text(*hour)], |row| row.get(0))?;
        if closed {
            return Ok(Err(NotRebuilt::Closed));
        }
        transaction
            .prepare_cached("DELETE FROM usage_hourly WHERE hour = ?1 AND outcome <> ?2")?
            .execute(params![time::text(*hour), REJECTED])?;
        let (first, last) = ids_around(*hour, hour_after(*hour));
        transaction
            .prepare_cached(
                "INSERT INTO usage_hourly (hour, client_id, api_key_id, route, status, outcome, reason,
                     requests, units, bytes_in, bytes_out, duration_us)
                 SELECT ?3, client_id, coalesce(api_key_id, '00000000-0000-0000-0000-000000000000'), route,
                     coalesce(status, 0), outcome, coalesce(reason, ''), count(*) FILTER (WHERE kind <> 'stream'),
                     sum(units), sum(bytes_in), sum(bytes_out), sum(duration_us)
                 FROM usage_events
                 WHERE id > ?1 AND id < ?2 AND occurred_at >= ?3 AND occurred_at < ?4
                 GROUP BY 2, 3, 4, 5, 6, 7",
            )?
            .execute(params![first.to_string(), last.to_string(), time::text(*hour), time::text(hour_after(*hour))])?;
    }
    note(&transaction, pen, rebuild_note(hours))?;
    transaction.commit()?;
    Ok(Ok(()))
}
