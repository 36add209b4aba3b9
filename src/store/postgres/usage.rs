//! `usage_events` and `usage_hourly`

use std::collections::BTreeMap;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::Postgres;
use super::pool::{Lease, Params, WORK};
use super::row::{Columns, all};
use crate::model::usage::{CutReason, OBSERVED, REJECTED, RejectedCount, UsageEvent};
use crate::store::audit::refuse_past;
use crate::store::columns::{count, hour_of, sum};
use crate::store::last_used::{STEP, last_uses};
use crate::store::{Page, Result, UsageColumn, UsageQuery, UsageStore, UsageSum};

/// One statement: what the insert took is what the rollups get, or, where the hour's month is
/// closed, the adjustments of this one. Events go in by id and rollups by key, so that two drains
/// that meet wait for each other and never in a circle. Closing a month locks the rollups first: a
/// statement that waited for it sees the month closed.
const RECORD: &str = "
    WITH inserted AS (
        INSERT INTO usage_events (id, request_id, client_id, api_key_id, token_id, occurred_at, route, method,
            status, outcome, reason, duration_us, bytes_in, bytes_out, units, node, kind, parent_id)
        SELECT * FROM unnest($1::uuid[], $2::text[], $3::uuid[], $4::uuid[], $5::uuid[], $6::timestamptz[],
            $7::text[], $8::text[], $9::integer[], $10::text[], $11::text[], $12::bigint[], $13::bigint[],
            $14::bigint[], $15::bigint[], $16::text[], $17::text[], $18::uuid[]) AS event (id)
        WHERE event.id >= coalesce((SELECT first_id FROM usage_retention), '00000000-0000-0000-0000-000000000000')
        ORDER BY 1
        ON CONFLICT (id) DO NOTHING
        RETURNING occurred_at, client_id, api_key_id, route, status, outcome, reason, units, bytes_in, bytes_out,
            duration_us, kind),
    sums AS (
        SELECT date_trunc('hour', occurred_at, 'UTC') AS hour, client_id,
            coalesce(api_key_id, '00000000-0000-0000-0000-000000000000') AS api_key_id, route,
            coalesce(status, 0) AS status, outcome, coalesce(reason, '') AS reason,
            count(*) FILTER (WHERE kind <> 'stream') AS requests,
            sum(units) AS units, sum(bytes_in) AS bytes_in, sum(bytes_out) AS bytes_out,
            sum(duration_us) AS duration_us
        FROM inserted
        GROUP BY 1, 2, 3, 4, 5, 6, 7),
    summed AS (
        INSERT INTO usage_hourly AS h (hour, client_id, api_key_id, route, status, outcome, reason,
            requests, units, bytes_in, bytes_out, duration_us)
        SELECT * FROM sums s
        WHERE NOT EXISTS (SELECT FROM closed_months c WHERE s.hour >= c.starts AND s.hour < c.ends)
        ORDER BY 1, 2, 3, 4, 5, 6, 7
        ON CONFLICT (hour, client_id, api_key_id, route, status, outcome, reason) DO UPDATE SET
            requests = h.requests + excluded.requests,
            units = h.units + excluded.units,
            bytes_in = h.bytes_in + excluded.bytes_in,
            bytes_out = h.bytes_out + excluded.bytes_out,
            duration_us = h.duration_us + excluded.duration_us),
    adjusted AS (
        INSERT INTO usage_adjustments AS a (booked, corrects, hour, client_id, api_key_id, route, status, outcome,
            reason, requests, units, bytes_in, bytes_out, duration_us)
        SELECT date_trunc('hour', now(), 'UTC'), c.month, s.*
        FROM sums s JOIN closed_months c ON s.hour >= c.starts AND s.hour < c.ends
        ORDER BY s.hour, s.client_id, s.api_key_id, s.route, s.status, s.outcome, s.reason
        ON CONFLICT (booked, hour, client_id, api_key_id, route, status, outcome, reason) DO UPDATE SET
            requests = a.requests + excluded.requests,
            units = a.units + excluded.units,
            bytes_in = a.bytes_in + excluded.bytes_in,
            bytes_out = a.bytes_out + excluded.bytes_out,
            duration_us = a.duration_us + excluded.duration_us)
    SELECT (SELECT count(*) FROM inserted), (SELECT before FROM usage_retention)";

/// Rows that others hold are passed over: the next batch comes soon.
const NOTE_USES: &str = "
    WITH due AS (
        SELECT k.id, used.at
        FROM unnest($1::uuid[], $2::timestamptz[], $3::timestamptz[]) AS used (id, at, due)
        JOIN api_keys k ON k.id = used.id
        WHERE k.last_used_at IS NULL OR k.last_used_at < used.due
        FOR NO KEY UPDATE OF k SKIP LOCKED)
    UPDATE api_keys AS k SET last_used_at = due.at FROM due WHERE k.id = due.id";

/// What would have been refused is no part of any bill: months do not close for it.
const ADD_REJECTED: &str = "
    WITH counted AS (
        SELECT * FROM unnest($1::timestamptz[], $2::uuid[], $3::uuid[], $4::text[], $5::integer[], $6::text[],
            $7::bigint[], $8::boolean[])
            AS counted (hour, client_id, api_key_id, route, status, reason, requests, observed)),
    noted AS (
        INSERT INTO usage_observed AS o (hour, client_id, api_key_id, route, status, reason, requests)
        SELECT hour, client_id, api_key_id, route, status, reason, requests FROM counted WHERE observed
        ORDER BY 1, 2, 3, 4, 5, 6
        ON CONFLICT (hour, client_id, api_key_id, route, status, reason) DO UPDATE SET
            requests = o.requests + excluded.requests),
    refused AS (
        SELECT hour, client_id, api_key_id, route, status, $9::text AS outcome, reason, requests,
            0::bigint AS units, 0::bigint AS bytes_in, 0::bigint AS bytes_out, 0::bigint AS duration_us
        FROM counted WHERE NOT observed),
    adjusted AS (
        INSERT INTO usage_adjustments AS a (booked, corrects, hour, client_id, api_key_id, route, status, outcome,
            reason, requests, units, bytes_in, bytes_out, duration_us)
        SELECT date_trunc('hour', now(), 'UTC'), c.month, r.*
        FROM refused r JOIN closed_months c ON r.hour >= c.starts AND r.hour < c.ends
        ORDER BY r.hour, r.client_id, r.api_key_id, r.route, r.status, r.outcome, r.reason
        ON CONFLICT (booked, hour, client_id, api_key_id, route, status, outcome, reason) DO UPDATE SET
            requests = a.requests + excluded.requests)
    INSERT INTO usage_hourly AS h (hour, client_id, api_key_id, route, status, outcome, reason,
        requests, units, bytes_in, bytes_out, duration_us)
    SELECT * FROM refused r
    WHERE NOT EXISTS (SELECT FROM closed_months c WHERE r.hour >= c.starts AND r.hour < c.ends)
    ORDER BY 1, 2, 3, 4, 5, 6, 7
    ON CONFLICT (hour, client_id, api_key_id, route, status, outcome, reason) DO UPDATE SET
        requests = h.requests + excluded.requests";

#[async_trait]
impl UsageStore for Postgres {
    async fn record(&self, events: &[UsageEvent]) -> Result<u64> {
        if events.is_empty() {
            return Ok(0);
        }
        let mut lease = self.work.lease("record usage", WORK).await?;
        self.partitions.ensure(&mut lease, events).await?;
        let ids = column(events, |event| event.id.0);
        let request_ids = column(events, |event| event.request_id.as_str());
        let clients = column(events, |event| event.client_id.0);
        let keys = column(events, |event| event.api_key_id.map(|id| id.0).filter(|id| !id.is_nil()));
        let tokens = column(events, |event| event.token_id.map(|id| id.0).filter(|id| !id.is_nil()));
        let times = column(events, |event| event.occurred_at);
        let routes = column(events, |event| event.route.as_str());
        let methods = column(events, |event| event.method);
        let statuses = column(events, |event| event.status.map(i32::from));
        let outcomes = column(events, |event| event.outcome.as_str());
        let reasons = column(events, |event| event.reason.map(CutReason::as_str));
        let durations = column(events, |event| count(event.duration_us));
        let bytes_in = column(events, |event| count(event.bytes_in));
        let bytes_out = column(events, |event| count(event.bytes_out));
        let units = column(events, |event| i64::from(event.units));
        let nodes = column(events, |event| event.node.as_str());
        let kinds = column(events, |event| event.kind.as_str());
        let parents = column(events, |event| event.kind.parent().map(|id| id.0));
        let values: [&(dyn ToSql + Sync); 18] = [
            &ids,
            &request_ids,
            &clients,
            &keys,
            &tokens,
            &times,
            &routes,
            &methods,
            &statuses,
            &outcomes,
            &reasons,
            &durations,
            &bytes_in,
            &bytes_out,
            &units,
            &nodes,
            &kinds,
            &parents,
        ];
        let rows = lease.rows(RECORD, &values).await?;
        note_uses(&mut lease, events).await;
        let mut row = Columns::of("usage_hourly", &rows[0]);
        let new = sum("requests", row.take("requests")?)?;
        refuse_past(row.take("before")?, events)?;
        Ok(new)
    }

    async fn add_rejected(&self, counts: &[RejectedCount]) -> Result<()> {
        // Equal keys are summed first: one statement may touch a row only once.
        let mut rollup = BTreeMap::<_, i64>::new();
        for one in counts {
            let key = (hour_of(one.hour), one.client_id, one.api_key_id, one.route.as_str(), one.status, one.reason);
            *rollup.entry((key, one.observed)).or_default() += count(one.requests);
        }
        if rollup.is_empty() {
            return Ok(());
        }
        let hours: Vec<Timestamp> = rollup.keys().map(|(key, _)| key.0).collect();
        let clients: Vec<Uuid> = rollup.keys().map(|(key, _)| key.1.0).collect();
        let keys: Vec<Uuid> = rollup.keys().map(|(key, _)| key.2.0).collect();
        let routes: Vec<&str> = rollup.keys().map(|(key, _)| key.3).collect();
        let statuses: Vec<i32> = rollup.keys().map(|(key, _)| i32::from(key.4)).collect();
        let reasons: Vec<&str> = rollup.keys().map(|(key, _)| key.5).collect();
        let observed: Vec<bool> = rollup.keys().map(|(_, observed)| *observed).collect();
        let requests: Vec<i64> = rollup.values().copied().collect();
        let mut lease = self.work.lease("add rejected", WORK).await?;
        let values: [&(dyn ToSql + Sync); 9] =
            [&hours, &clients, &keys, &routes, &statuses, &reasons, &requests, &observed, &REJECTED];
        lease.execute(ADD_REJECTED, &values).await?;
        Ok(())
    }

    async fn sums(&self, query: &UsageQuery) -> Result<Vec<UsageSum>> {
        let mut lease = self.work.lease("sum usage", WORK).await?;
        sums(&mut lease, query, None, None).await
    }

    async fn sums_page(&self, query: &UsageQuery, after: Option<&[String]>, limit: u32) -> Result<Page<UsageSum>> {
        let mut lease = self.work.lease("list sums of usage", WORK).await?;
        Ok(Page::cut(sums(&mut lease, query, after, Some(i64::from(limit) + 1)).await?, limit))
    }
}

async fn sums(
    lease: &mut Lease,
    query: &UsageQuery,
    after: Option<&[String]>,
    limit: Option<i64>,
) -> Result<Vec<UsageSum>> {
    let client = query.client.map(|id| id.0);
    let mut values: Vec<&(dyn ToSql + Sync)> = vec![&query.from, &query.to, &client, &limit];
    values.extend(after.unwrap_or_default().iter().map(|value| value as &(dyn ToSql + Sync)));
    let values: Params<'_> = &values;
    let rows = lease.rows_of(&sums_statement(&query.by, after.is_some()), values).await?;
    all("usage_hourly", &rows, |row| {
        Ok(UsageSum {
            by: query.by.iter().map(|_| row.take("hour")).collect::<Result<_>>()?,
            requests: sum("requests", row.take("requests")?)?,
            units: sum("units", row.take("units")?)?,
            bytes_in: sum("bytes_in", row.take("bytes_in")?)?,
            bytes_out: sum("bytes_out", row.take("bytes_out")?)?,
            duration_us: sum("duration_us", row.take("duration_us")?)?,
            rejected: sum("requests", row.take("requests")?)?,
            would_reject: sum("requests", row.take("requests")?)?,
        })
    })
}

/// After the events and not with them: they must not wait for a row that somebody holds.
async fn note_uses(lease: &mut Lease, events: &[UsageEvent]) {
    let uses = last_uses(events);
    if uses.is_empty() {
        return;
    }
    let keys: Vec<Uuid> = uses.keys().copied().collect();
    let times: Vec<Timestamp> = uses.values().copied().collect();
    let due: Vec<Timestamp> = uses.values().map(|at| at.saturating_sub(STEP).unwrap_or(*at)).collect();
    if let Err(error) = lease.execute(NOTE_USES, &[&keys, &times, &due]).await {
        tracing::warn!(error = &error as &dyn std::error::Error, "when keys were last used was not written");
    }
}

fn column<'e, T>(events: &'e [UsageEvent], value: impl Fn(&'e UsageEvent) -> T) -> Vec<T> {
    events.iter().map(value).collect()
}

/// Summed by the columns' own values, which are small and quick to compare, and written as text
/// afterwards: there are far fewer sums than rows.
fn sums_statement(by: &[UsageColumn], goes_on: bool) -> String {
    let columns = || by.iter().zip(0..).map(|(column, place)| (*column, format!("b{place}")));
    let values: Vec<String> = columns().map(|(column, name)| format!("{} AS {name}, ", value(column))).collect();
    let texts: Vec<String> =
        columns().map(|(column, name)| format!("{} COLLATE \"C\", ", text(column, &name))).collect();
    let (values, texts) = (values.concat(), texts.concat());
    let onwards = if goes_on {
        let places: Vec<String> = (5..).take(by.len()).map(|place| format!("${place}::text")).collect();
        format!("WHERE ({}) > ({})", texts.trim_end_matches(", "), places.join(", "))
    } else {
        String::new()
    };
    let positions: Vec<String> = (1..=by.len()).map(|position| position.to_string()).collect();
    let positions = positions.join(", ");
    let (group, order) = if by.is_empty() {
        (String::new(), String::new())
    } else {
        (format!("GROUP BY {positions}"), format!("ORDER BY {positions}"))
    };
    format!(
        "SELECT {texts} requests, units, bytes_in, bytes_out, duration_us, rejected, would_reject
         FROM (
             SELECT {values}
                 coalesce(sum(requests) FILTER (WHERE outcome NOT IN ('{REJECTED}', '{OBSERVED}')), 0)::bigint AS requests,
                 coalesce(sum(units), 0)::bigint AS units, coalesce(sum(bytes_in), 0)::bigint AS bytes_in,
                 coalesce(sum(bytes_out), 0)::bigint AS bytes_out,
                 coalesce(sum(duration_us), 0)::bigint AS duration_us,
                 coalesce(sum(requests) FILTER (WHERE outcome = '{REJECTED}'), 0)::bigint AS rejected,
                 coalesce(sum(requests) FILTER (WHERE outcome = '{OBSERVED}'), 0)::bigint AS would_reject
             FROM (
                 SELECT hour, client_id, api_key_id, route, status, outcome, requests, units, bytes_in, bytes_out,
                     duration_us
                 FROM usage_hourly
                 WHERE hour >= $1 AND hour < $2 AND ($3::uuid IS NULL OR client_id = $3)
                 UNION ALL
                 SELECT booked, client_id, api_key_id, route, status, outcome, requests, units, bytes_in, bytes_out,
                     duration_us
                 FROM usage_adjustments
                 WHERE booked >= $1 AND booked < $2 AND ($3::uuid IS NULL OR client_id = $3)
                 UNION ALL
                 SELECT hour, client_id, api_key_id, route, status, '{OBSERVED}', requests, 0, 0, 0, 0
                 FROM usage_observed
                 WHERE hour >= $1 AND hour < $2 AND ($3::uuid IS NULL OR client_id = $3)) AS booked
             {group}
         ) AS summed
         {onwards} {order} LIMIT $4::bigint"
    )
}

/// What rows are grouped by.
fn value(column: UsageColumn) -> &'static str {
    match column {
        UsageColumn::Client => "client_id",
        UsageColumn::Key => "api_key_id",
        UsageColumn::Route => "route",
        UsageColumn::Status => "status",
        UsageColumn::Outcome => "outcome",
        UsageColumn::Hour => "hour",
        // Days of UTC all have 24 hours.
        UsageColumn::Day => "date_bin('1 day', hour, timestamptz 'epoch')",
        UsageColumn::Month => "date_trunc('month', hour, 'UTC')",
    }
}

/// The same as text.
fn text(column: UsageColumn, value: &str) -> String {
    match column {
        UsageColumn::Client | UsageColumn::Key | UsageColumn::Status => format!("{value}::text"),
        UsageColumn::Route | UsageColumn::Outcome => value.to_owned(),
        UsageColumn::Hour | UsageColumn::Day | UsageColumn::Month => {
            format!("to_char({value} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:00:00\"Z\"')")
        }
    }
}
