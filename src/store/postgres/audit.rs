//! Whether events and rollups say the same, and how far back events go.

use async_trait::async_trait;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use uuid::Uuid;

use super::Postgres;
use super::events::event;
use super::pool::{Lease, MIGRATE, Params, WORK};
use super::row::{Columns, all};
use super::trail::note;
use crate::model::id::ClientId;
use crate::model::usage::REJECTED;
use crate::store::Result;
use crate::store::audit::{Amounts, AuditStore, ClientBooks, HourBooks, LISTED, NotRebuilt, first_id, hour_after};
use crate::store::events::{EVENT, EventRow, ids_around};
use crate::store::trail::{Pen, rebuild_note};

/// One statement: events and rollups of one moment.
const COMPARE: &str = "
    WITH told AS (
        SELECT client_id, CASE kind WHEN 'stream' THEN 0 ELSE 1 END AS er, units AS eu, bytes_in AS ei, bytes_out AS eo, duration_us AS ed,
            0 AS rr, 0 AS ru, 0 AS ri, 0 AS ro, 0 AS rd
        FROM usage_events
        WHERE id > $1 AND id < $2 AND occurred_at >= $3 AND occurred_at < $4 AND ($5::uuid IS NULL OR client_id = $5)
        UNION ALL
        SELECT client_id, 0, 0, 0, 0, 0, requests, units, bytes_in, bytes_out, duration_us
        FROM usage_hourly WHERE hour = $3 AND outcome <> $6 AND ($5::uuid IS NULL OR client_id = $5)
        UNION ALL
        SELECT client_id, 0, 0, 0, 0, 0, requests, units, bytes_in, bytes_out, duration_us
        FROM usage_adjustments WHERE hour = $3 AND outcome <> $6 AND ($5::uuid IS NULL OR client_id = $5)),
    clients AS MATERIALIZED (
        SELECT client_id, sum(er)::bigint AS er, sum(eu)::bigint AS eu, sum(ei)::bigint AS ei, sum(eo)::bigint AS eo,
            sum(ed)::bigint AS ed, sum(rr)::bigint AS rr, sum(ru)::bigint AS ru, sum(ri)::bigint AS ri,
            sum(ro)::bigint AS ro, sum(rd)::bigint AS rd
        FROM told GROUP BY client_id)
    SELECT NULL::uuid, coalesce(sum(er), 0)::bigint, coalesce(sum(eu), 0)::bigint, coalesce(sum(ei), 0)::bigint,
        coalesce(sum(eo), 0)::bigint, coalesce(sum(ed), 0)::bigint, coalesce(sum(rr), 0)::bigint,
        coalesce(sum(ru), 0)::bigint, coalesce(sum(ri), 0)::bigint, coalesce(sum(ro), 0)::bigint,
        coalesce(sum(rd), 0)::bigint
    FROM clients
    UNION ALL
    (SELECT * FROM clients WHERE (er, eu, ei, eo, ed) IS DISTINCT FROM (rr, ru, ri, ro, rd)
     ORDER BY client_id LIMIT $7)";

const REBUILD: &str = "
    INSERT INTO usage_hourly (hour, client_id, api_key_id, route, status, outcome, reason,
        requests, units, bytes_in, bytes_out, duration_us)
    SELECT $3::timestamptz, client_id, coalesce(api_key_id, '00000000-0000-0000-0000-000000000000'), route,
        coalesce(status, 0), outcome, coalesce(reason, ''), count(*) FILTER (WHERE kind <> 'stream'), sum(units),
        sum(bytes_in), sum(bytes_out), sum(duration_us)
    FROM usage_events
    WHERE id > $1 AND id < $2 AND occurred_at >= $3 AND occurred_at < $4
    GROUP BY 2, 3, 4, 5, 6, 7";

const MARK: &str = "
    INSERT INTO usage_retention (before, first_id) VALUES ($1, $2)
    ON CONFLICT (one) DO UPDATE SET before = excluded.before, first_id = excluded.first_id, set_at = now()
    WHERE excluded.before > usage_retention.before";

/// Partitions all of whose ids lie before the mark. Their bounds are in their names, and nobody
/// else makes partitions of these names.
const DROPPABLE: &str = "
    SELECT c.relname::text, greatest(c.reltuples, 0)::bigint
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = 'usage_events'::regclass AND c.relname ~ '^usage_events_\\d{4,}_\\d{2}$'
      AND (to_date(substring(c.relname FROM 14), 'YYYY_MM') + interval '1 month') AT TIME ZONE 'UTC'
          <= (SELECT before FROM usage_retention)
    ORDER BY 1 LIMIT 1";

#[async_trait]
impl AuditStore for Postgres {
    async fn compare_hour(&self, hour: Timestamp, client: Option<ClientId>) -> Result<HourBooks> {
        let end = hour_after(hour);
        let ((first, last), client, most) = (ids_around(hour, end), client.map(|id| id.0), i64::from(LISTED));
        let values: Params<'_> = &[&first, &last, &hour, &end, &client, &REJECTED, &most];
        let mut lease = self.work.lease("compare usage", WORK).await?;
        let mut books = HourBooks::default();
        for row in lease.rows(COMPARE, values).await? {
            let mut row = Columns::of("usage_hourly", &row);
            let client_id: Option<Uuid> = row.take("client_id")?;
            let (events, rollups) = (amounts(&mut row)?, amounts(&mut row)?);
            match client_id {
                None => (books.events, books.rollups) = (events, rollups),
                Some(client_id) => books.differing.push(ClientBooks { client_id, events, rollups }),
            }
        }
        Ok(books)
    }

    async fn events_of(&self, ids: &[Uuid]) -> Result<Vec<EventRow>> {
        let mut lease = self.work.lease("find usage events", WORK).await?;
        // With the bounds of what is asked for, so that other partitions are not opened.
        let (Some(first), Some(last)) = (ids.iter().min(), ids.iter().max()) else { return Ok(Vec::new()) };
        let statement = format!("SELECT {EVENT} FROM usage_events WHERE id = ANY($1) AND id >= $2 AND id <= $3");
        all("usage_events", &lease.rows(&statement, &[&ids, first, last]).await?, event)
    }

    async fn rebuild(&self, hours: &[Timestamp]) -> Result<std::result::Result<(), NotRebuilt>> {
        let mut lease = self.work.lease("rebuild rollups", MIGRATE).await?;
        let rebuilt = rebuild(&mut lease, &self.pen, hours).await;
        if !matches!(rebuilt, Ok(Ok(()))) {
            // Its transaction goes with it.
            lease.discard();
        }
        rebuilt
    }

    async fn retention_mark(&self) -> Result<Option<Timestamp>> {
        let mut lease = self.work.lease("read retention", WORK).await?;
        mark(&mut lease).await
    }

    /// A month at a time. The mark stands, committed, before anything is dropped; whoever writes
    /// events holds the table, so that dropping waits for those who have not seen it.
    async fn retire_events(&self, before: Timestamp) -> Result<u64> {
        let mut lease = self.work.lease("retire usage events", WORK).await?;
        let before = before.to_zoned(TimeZone::UTC).date().first_of_month().to_zoned(TimeZone::UTC);
        let before = before.map_or(Timestamp::UNIX_EPOCH, |zoned| zoned.timestamp());
        lease.execute(MARK, &[&before, &first_id(before)]).await?;
        let Some(row) = lease.row(DROPPABLE, &[]).await? else { return Ok(0) };
        let mut row = Columns::of("pg_class", &row);
        let (partition, rows): (String, i64) = (row.take("relname")?, row.take("reltuples")?);
        // The name is ours: letters, digits and underscores. Whoever reads for long is not waited
        // for, since all that come after wait behind; the next round tries again.
        let drop = format!("BEGIN; SET LOCAL lock_timeout = '3s'; DROP TABLE \"{partition}\"; COMMIT");
        if let Err(error) = lease.batch(&drop).await {
            lease.discard();
            return Err(error);
        }
        Ok(rows.unsigned_abs().max(1))
    }
}

fn amounts(row: &mut Columns<'_>) -> Result<Amounts> {
    Ok(Amounts {
        requests: row.take("requests")?,
        units: row.take("units")?,
        bytes_in: row.take("bytes_in")?,
        bytes_out: row.take("bytes_out")?,
        duration_us: row.take("duration_us")?,
    })
}

async fn mark(lease: &mut Lease) -> Result<Option<Timestamp>> {
    let row = lease.row("SELECT before FROM usage_retention", &[]).await?;
    row.map(|row| Columns::of("usage_retention", &row).take("before")).transpose()
}

/// The lock keeps out whoever adds to rollups, so that what they add is not lost.
async fn rebuild(lease: &mut Lease, pen: &Pen, hours: &[Timestamp]) -> Result<std::result::Result<(), NotRebuilt>> {
    lease.batch("BEGIN; LOCK TABLE usage_hourly IN SHARE ROW EXCLUSIVE MODE").await?;
    if let Some(before) = mark(lease).await?
        && hours.iter().any(|hour| *hour < before)
    {
        return Ok(Err(NotRebuilt::PastRetention { before }));
    }
    let closed = "SELECT 1 FROM unnest($1::timestamptz[]) AS h (hour)
        JOIN closed_months c ON h.hour >= c.starts AND h.hour < c.ends LIMIT 1";
    if lease.row(closed, &[&hours]).await?.is_some() {
        return Ok(Err(NotRebuilt::Closed));
    }
    lease.execute("DELETE FROM usage_hourly WHERE hour = ANY($1) AND outcome <> $2", &[&hours, &REJECTED]).await?;
    for hour in hours {
        let end = hour_after(*hour);
        let (first, last) = ids_around(*hour, end);
        lease.execute(REBUILD, &[&first, &last, hour, &end]).await?;
    }
    note(lease, pen, rebuild_note(hours)).await?;
    lease.batch("COMMIT").await?;
    Ok(Ok(()))
}
