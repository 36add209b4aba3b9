//! `usage_events` and `usage_hourly`

use std::collections::BTreeMap;

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior, params, params_from_iter};
use uuid::Uuid;

use super::error::Failure;
use super::lane::{REPORT, WRITE};
use super::row::Columns;
use super::{Sqlite, time};
use crate::model::usage::{OBSERVED, REJECTED, RejectedCount, UsageEvent};
use crate::store::audit::{first_id, refuse_past};
use crate::store::columns::{count, hour_of, sum};
use crate::store::last_used::{STEP, last_uses};
use crate::store::{Page, Result, UsageColumn, UsageQuery, UsageStore, UsageSum};

#[async_trait]
impl UsageStore for Sqlite {
    async fn record(&self, events: &[UsageEvent]) -> Result<u64> {
        let events = events.to_vec();
        self.writer.run("record usage", WRITE, move |connection| record(connection, &events)).await
    }

    async fn add_rejected(&self, counts: &[RejectedCount]) -> Result<()> {
        let counts = counts.to_vec();
        let insert = move |connection: &mut Connection| {
            let mut rollup = Rollup::default();
            for one in counts.iter().filter(|one| !one.observed) {
                let key = Key {
                    hour: hour_of(one.hour),
                    client: one.client_id.0,
                    credential: one.api_key_id.0,
                    route: &one.route,
                    status: one.status,
                    outcome: REJECTED,
                    reason: one.reason,
                };
                rollup.entry(key).or_default().requests += count(one.requests);
            }
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            add(&transaction, &rollup)?;
            add_observed(&transaction, &counts)?;
            transaction.commit()?;
            Ok(())
        };
        self.writer.run("add rejected", WRITE, insert).await
    }

    async fn sums(&self, query: &UsageQuery) -> Result<Vec<UsageSum>> {
        let query = query.clone();
        self.reports.run("sum usage", REPORT, move |connection| sums(connection, &query, None, None)).await
    }

    async fn sums_page(&self, query: &UsageQuery, after: Option<&[String]>, limit: u32) -> Result<Page<UsageSum>> {
        let (query, after) = (query.clone(), after.map(<[String]>::to_vec));
        let select = move |connection: &mut Connection| {
            let sums = sums(connection, &query, after.as_deref(), Some(i64::from(limit) + 1))?;
            Ok(Page::cut(sums, limit))
        };
        self.reports.run("list sums of usage", REPORT, select).await
    }
}

/// What makes a row of `usage_hourly`, in the order of its primary key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key<'e> {
    hour: Timestamp,
    client: Uuid,
    credential: Uuid,
    route: &'e str,
    status: u16,
    outcome: &'static str,
    reason: &'static str,
}

/// What is added to a row.
#[derive(Clone, Copy, Debug, Default)]
struct Amounts {
    requests: i64,
    units: i64,
    bytes_in: i64,
    bytes_out: i64,
    duration_us: i64,
}

type Rollup<'e> = BTreeMap<Key<'e>, Amounts>;

/// One transaction: what the insert took is what the rollups get. SQLite has no data-modifying
/// CTE, so the sums are made here.
pub(super) fn record(connection: &mut Connection, events: &[UsageEvent]) -> std::result::Result<u64, Failure> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mark = retention_mark(&transaction)?;
    let first = mark.map(first_id);
    let mut rollup = Rollup::default();
    let mut inserted = 0;
    {
        let mut insert = transaction.prepare_cached(
            "INSERT INTO usage_events (id, request_id, client_id, api_key_id, token_id, occurred_at, route, method,
                 status, outcome, reason, duration_us, bytes_in, bytes_out, units, node, kind, parent_id)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18)
             ON CONFLICT (id) DO NOTHING",
        )?;
        for event in events.iter().filter(|event| first.is_none_or(|first| event.id.0 >= first)) {
            let new = insert.execute(params![
                event.id.to_string(),
                event.request_id,
                event.client_id.to_string(),
                id_or_null(event.api_key_id.map(|id| id.0)),
                id_or_null(event.token_id.map(|id| id.0)),
                time::text(event.occurred_at),
                event.route,
                event.method,
                event.status,
                event.outcome.as_str(),
                event.reason.map(crate::model::usage::CutReason::as_str),
                count(event.duration_us),
                count(event.bytes_in),
                count(event.bytes_out),
                event.units,
                event.node,
                event.kind.as_str(),
                id_or_null(event.kind.parent().map(|id| id.0)),
            ])?;
            if new == 1 {
                inserted += 1;
                sum_up(&mut rollup, event);
            }
        }
    }
    add(&transaction, &rollup)?;
    if let Err(error) = note_uses(&transaction, events) {
        tracing::warn!(%error, "when keys were last used was not written");
    }
    transaction.commit()?;
    refuse_past(mark, events)?;
    Ok(inserted)
}

/// Before when events were deleted.
pub(super) fn retention_mark(connection: &Connection) -> std::result::Result<Option<Timestamp>, Failure> {
    let mut select = connection.prepare_cached("SELECT before FROM usage_retention")?;
    let mut rows = select.query([])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    Ok(Some(Columns::of("usage_retention", row).time("before")?))
}

/// A step a key and not a join: SQLite knows nothing of how long a list of ours is, and would as
/// soon read the whole table.
fn note_uses(transaction: &Transaction<'_>, events: &[UsageEvent]) -> rusqlite::Result<()> {
    let mut update = transaction.prepare_cached(
        "UPDATE api_keys SET last_used_at = ?2
         WHERE id = ?1 AND (last_used_at IS NULL OR replace(last_used_at, ' ', 'T') < ?3)",
    )?;
    for (key, at) in last_uses(events) {
        let due = at.saturating_sub(STEP).unwrap_or(at);
        update.execute(params![key.to_string(), time::text(at), time::text(due)])?;
    }
    Ok(())
}

fn sum_up<'e>(rollup: &mut Rollup<'e>, event: &'e UsageEvent) {
    let key = Key {
        hour: hour_of(event.occurred_at),
        client: event.client_id.0,
        credential: event.api_key_id.map_or(Uuid::nil(), |id| id.0),
        route: &event.route,
        status: event.status.unwrap_or(0),
        outcome: event.outcome.as_str(),
        reason: event.reason.map_or("", crate::model::usage::CutReason::as_str),
    };
    let amounts = rollup.entry(key).or_default();
    // An interim record is no request of its own.
    amounts.requests += i64::from(event.kind.parent().is_none());
    amounts.units = amounts.units.saturating_add(i64::from(event.units));
    amounts.bytes_in = amounts.bytes_in.saturating_add(count(event.bytes_in));
    amounts.bytes_out = amounts.bytes_out.saturating_add(count(event.bytes_out));
    amounts.duration_us = amounts.duration_us.saturating_add(count(event.duration_us));
}

/// Adds to the rollups, or, where the hour's month is closed, to the adjustments of this one.
fn add(transaction: &Transaction<'_>, rollup: &Rollup<'_>) -> std::result::Result<(), Failure> {
    let mut closed = transaction.prepare_cached("SELECT month FROM closed_months WHERE ?1 >= starts AND ?1 < ends")?;
    let mut month: Option<(Timestamp, Option<String>)> = None;
    for (key, amounts) in rollup {
        // Hours come in order: one look each.
        if month.as_ref().is_none_or(|(hour, _)| *hour != key.hour) {
            let found = closed.query_row([time::text(key.hour)], |row| row.get(0)).optional()?;
            month = Some((key.hour, found));
        }
        match month.as_ref().and_then(|(_, month)| month.as_deref()) {
            None => add_to_hour(transaction, key, amounts)?,
            Some(month) => adjust(transaction, month, key, amounts)?,
        }
    }
    Ok(())
}

/// What would have been refused: no part of any bill, so months do not close for it.
fn add_observed(transaction: &Transaction<'_>, counts: &[RejectedCount]) -> rusqlite::Result<()> {
    let mut upsert = transaction.prepare_cached(
        "INSERT INTO usage_observed (hour, client_id, api_key_id, route, status, reason, requests)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
         ON CONFLICT (hour, client_id, api_key_id, route, status, reason) DO UPDATE SET
             requests = requests + excluded.requests",
    )?;
    for one in counts.iter().filter(|one| one.observed) {
        upsert.execute(params![
            time::text(hour_of(one.hour)),
            one.client_id.to_string(),
            one.api_key_id.to_string(),
            one.route,
            one.status,
            one.reason,
            count(one.requests),
        ])?;
    }
    Ok(())
}

fn add_to_hour(transaction: &Transaction<'_>, key: &Key<'_>, amounts: &Amounts) -> std::result::Result<(), Failure> {
    let mut upsert = transaction.prepare_cached(
        "INSERT INTO usage_hourly (hour, client_id, api_key_id, route, status, outcome, reason,
             requests, units, bytes_in, bytes_out, duration_us)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)
         ON CONFLICT (hour, client_id, api_key_id, route, status, outcome, reason) DO UPDATE SET
             requests = requests + excluded.requests,
             units = units + excluded.units,
             bytes_in = bytes_in + excluded.bytes_in,
             bytes_out = bytes_out + excluded.bytes_out,
             duration_us = duration_us + excluded.duration_us",
    )?;
    upsert.execute(params![
        time::text(key.hour),
        key.client.to_string(),
        key.credential.to_string(),
        key.route,
        key.status,
        key.outcome,
        key.reason,
        amounts.requests,
        amounts.units,
        amounts.bytes_in,
        amounts.bytes_out,
        amounts.duration_us,
    ])?;
    Ok(())
}

fn adjust(
    transaction: &Transaction<'_>,
    month: &str,
    key: &Key<'_>,
    amounts: &Amounts,
) -> std::result::Result<(), Failure> {
    let mut upsert = transaction.prepare_cached(
        "INSERT INTO usage_adjustments (booked, corrects, hour, client_id, api_key_id, route, status, outcome, reason,
             requests, units, bytes_in, bytes_out, duration_us)
         VALUES (strftime('%Y-%m-%dT%H:00:00.000000Z', 'now'), ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)
         ON CONFLICT (booked, hour, client_id, api_key_id, route, status, outcome, reason) DO UPDATE SET
             requests = requests + excluded.requests,
             units = units + excluded.units,
             bytes_in = bytes_in + excluded.bytes_in,
             bytes_out = bytes_out + excluded.bytes_out,
             duration_us = duration_us + excluded.duration_us",
    )?;
    upsert.execute(params![
        month,
        time::text(key.hour),
        key.client.to_string(),
        key.credential.to_string(),
        key.route,
        key.status,
        key.outcome,
        key.reason,
        amounts.requests,
        amounts.units,
        amounts.bytes_in,
        amounts.bytes_out,
        amounts.duration_us,
    ])?;
    Ok(())
}

fn sums(
    connection: &Connection,
    query: &UsageQuery,
    after: Option<&[String]>,
    limit: Option<i64>,
) -> std::result::Result<Vec<UsageSum>, Failure> {
    let by: String = query.by.iter().map(|column| [expression(*column), ", "].concat()).collect();
    let positions: Vec<String> = (1..=query.by.len()).map(|position| position.to_string()).collect();
    let group =
        if positions.is_empty() { String::new() } else { format!("GROUP BY {0} ORDER BY {0}", positions.join(", ")) };
    let onwards = after.map_or_else(String::new, |after| {
        let places: Vec<String> = (5..).take(after.len()).map(|place| format!("?{place}")).collect();
        // Before they are grouped: what came on pages before is not sorted again.
        format!("WHERE ({}) > ({})", by.trim_end_matches(", "), places.join(", "))
    });
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {by}
             coalesce(sum(CASE WHEN outcome IN ('{REJECTED}', '{OBSERVED}') THEN 0 ELSE requests END), 0),
             coalesce(sum(units), 0), coalesce(sum(bytes_in), 0), coalesce(sum(bytes_out), 0),
             coalesce(sum(duration_us), 0),
             coalesce(sum(CASE outcome WHEN '{REJECTED}' THEN requests ELSE 0 END), 0),
             coalesce(sum(CASE outcome WHEN '{OBSERVED}' THEN requests ELSE 0 END), 0)
         FROM (
             SELECT hour, client_id, api_key_id, route, status, outcome, requests, units, bytes_in, bytes_out, duration_us
             FROM usage_hourly
             WHERE hour >= ?1 AND hour < ?2 AND (?3 IS NULL OR client_id = ?3)
             UNION ALL
             SELECT booked, client_id, api_key_id, route, status, outcome, requests, units, bytes_in, bytes_out,
                 duration_us
             FROM usage_adjustments
             WHERE booked >= ?1 AND booked < ?2 AND (?3 IS NULL OR client_id = ?3)
             UNION ALL
             SELECT hour, client_id, api_key_id, route, status, '{OBSERVED}', requests, 0, 0, 0, 0
             FROM usage_observed
             WHERE hour >= ?1 AND hour < ?2 AND (?3 IS NULL OR client_id = ?3))
         {onwards} {group} LIMIT coalesce(?4, -1)"
    ))?;
    let client = query.client.map(|id| id.to_string());
    let mut values: Vec<Value> =
        vec![time::text(query.from).into(), time::text(query.to).into(), client.into(), limit.into()];
    values.extend(after.unwrap_or_default().iter().cloned().map(Value::from));
    let mut rows = statement.query(params_from_iter(values))?;
    let mut sums = Vec::new();
    while let Some(row) = rows.next()? {
        let mut row = Columns::of("usage_hourly", row);
        sums.push(UsageSum {
            by: query.by.iter().map(|_| row.take("hour")).collect::<Result<_>>()?,
            requests: sum("requests", row.take("requests")?)?,
            units: sum("units", row.take("units")?)?,
            bytes_in: sum("bytes_in", row.take("bytes_in")?)?,
            bytes_out: sum("bytes_out", row.take("bytes_out")?)?,
            duration_us: sum("duration_us", row.take("duration_us")?)?,
            rejected: sum("requests", row.take("requests")?)?,
            would_reject: sum("requests", row.take("requests")?)?,
        });
    }
    Ok(sums)
}

/// An id, or null where it is nil.
fn id_or_null(id: Option<Uuid>) -> Option<String> {
    id.filter(|id| !id.is_nil()).map(|id| id.to_string())
}

/// A column as text; hours are `YYYY-MM-DDTHH:00:00.000000Z`, so a day is a prefix.
fn expression(column: UsageColumn) -> &'static str {
    match column {
        UsageColumn::Client => "client_id",
        UsageColumn::Key => "api_key_id",
        UsageColumn::Route => "route",
        UsageColumn::Status => "CAST(status AS TEXT)",
        UsageColumn::Outcome => "outcome",
        UsageColumn::Hour => "substr(hour, 1, 13) || ':00:00Z'",
        UsageColumn::Day => "substr(hour, 1, 10) || 'T00:00:00Z'",
        UsageColumn::Month => "substr(hour, 1, 7) || '-01T00:00:00Z'",
    }
}
