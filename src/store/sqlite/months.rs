//! Closed months, and what came afterwards.

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension as _, Transaction, TransactionBehavior, params};
use uuid::Uuid;

use super::error::Failure;
use super::lane::{REPORT, WRITE};
use super::row::Columns;
use super::trail::note;
use super::{Sqlite, time};
use crate::model::id::ClientId;
use crate::model::month::Month;
use crate::model::usage::REJECTED;
use crate::store::columns::sum;
use crate::store::months::{Adjustment, ClosedMonth, Closing, Debtor, MonthStore};
use crate::store::rotation::LIVE_SECONDS;
use crate::store::trail::{Pen, month_note};
use crate::store::{Result, UsageSum};

/// Journals that may have entries for the month, and processes that serve and keep none that is
/// known. `?2` is a list, as JSON.
const OWING: &str = "
    SELECT node, id, clear_until, reported_at FROM journals
    WHERE clear_until < ?1 AND node NOT IN (SELECT value FROM json_each(?2)) AND id NOT IN (SELECT value FROM json_each(?2))
    UNION ALL
    SELECT DISTINCT n.name, NULL, NULL, NULL FROM nodes n
    WHERE n.seen_at > strftime('%Y-%m-%dT%H:%M:%f000Z', 'now', '-' || ?3 || ' seconds')
      AND n.name NOT IN (SELECT value FROM json_each(?2))
      AND NOT EXISTS (SELECT 1 FROM journals j WHERE j.node = n.name)
    ORDER BY 1, 2";

const FREEZE: &str = "
    INSERT INTO closed_month_totals (month, client_id, requests, units, bytes_in, bytes_out, duration_us, rejected)
    SELECT ?1, client_id, sum(CASE outcome WHEN ?4 THEN 0 ELSE requests END), sum(units), sum(bytes_in),
        sum(bytes_out), sum(duration_us), sum(CASE outcome WHEN ?4 THEN requests ELSE 0 END)
    FROM (
        SELECT client_id, outcome, requests, units, bytes_in, bytes_out, duration_us
        FROM usage_hourly WHERE hour >= ?2 AND hour < ?3
        UNION ALL
        SELECT client_id, outcome, requests, units, bytes_in, bytes_out, duration_us
        FROM usage_adjustments WHERE booked >= ?2 AND booked < ?3)
    GROUP BY client_id";

#[async_trait]
impl MonthStore for Sqlite {
    async fn close(&self, month: Month, without: &[String]) -> Result<Closing> {
        let without = without.to_vec();
        let pen = self.pen.clone();
        self.writer.run("close month", WRITE, move |connection| close(connection, &pen, month, &without)).await
    }

    async fn closed(&self, month: Month) -> Result<Option<ClosedMonth>> {
        let select = move |connection: &mut Connection| {
            let mut statement =
                connection.prepare_cached("SELECT month, closed_at, without FROM closed_months WHERE month = ?1")?;
            let mut rows = statement.query([month.to_string()])?;
            let Some(row) = rows.next()? else { return Ok(None) };
            let mut row = Columns::of("closed_months", row);
            Ok(Some(ClosedMonth {
                month: row.take("month")?,
                closed_at: row.time("closed_at")?,
                without: row.take("without")?,
            }))
        };
        self.reports.run("find month", REPORT, select).await
    }

    async fn totals(&self, month: Month, client: Option<ClientId>) -> Result<Vec<(Uuid, UsageSum)>> {
        let select = move |connection: &mut Connection| {
            let mut statement = connection.prepare_cached(
                "SELECT client_id, requests, units, bytes_in, bytes_out, duration_us, rejected
                 FROM closed_month_totals WHERE month = ?1 AND (?2 IS NULL OR client_id = ?2) ORDER BY client_id",
            )?;
            let mut rows = statement.query(params![month.to_string(), client.map(|id| id.to_string())])?;
            let mut totals = Vec::new();
            while let Some(row) = rows.next()? {
                let mut row = Columns::of("closed_month_totals", row);
                totals.push((row.id("client_id")?, sums(&mut row)?));
            }
            Ok(totals)
        };
        self.reports.run("list month", REPORT, select).await
    }

    async fn adjustments(&self, from: Timestamp, to: Timestamp, client: Option<ClientId>) -> Result<Vec<Adjustment>> {
        let select = move |connection: &mut Connection| {
            let mut statement = connection.prepare_cached(
                "SELECT client_id, corrects, sum(CASE outcome WHEN ?4 THEN 0 ELSE requests END), sum(units),
                     sum(bytes_in), sum(bytes_out), sum(duration_us),
                     sum(CASE outcome WHEN ?4 THEN requests ELSE 0 END)
                 FROM usage_adjustments
                 WHERE booked >= ?1 AND booked < ?2 AND (?3 IS NULL OR client_id = ?3)
                 GROUP BY client_id, corrects ORDER BY client_id, corrects",
            )?;
            let client = client.map(|id| id.to_string());
            let mut rows = statement.query(params![time::text(from), time::text(to), client, REJECTED])?;
            let mut adjustments = Vec::new();
            while let Some(row) = rows.next()? {
                let mut row = Columns::of("usage_adjustments", row);
                let (client_id, corrects) = (row.id("client_id")?, row.take("corrects")?);
                adjustments.push(Adjustment { client_id, corrects, sum: sums(&mut row)? });
            }
            Ok(adjustments)
        };
        self.reports.run("list adjustments", REPORT, select).await
    }
}

/// A transaction that writes keeps everybody else from writing.
fn close(
    connection: &mut Connection,
    pen: &Pen,
    month: Month,
    without: &[String],
) -> std::result::Result<Closing, Failure> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let name = month.to_string();
    let closed =
        transaction.query_row("SELECT 1 FROM closed_months WHERE month = ?1", [&name], |_| Ok(())).optional()?;
    if closed.is_some() {
        return Ok(Closing::Already);
    }
    let (starts, ends) = (time::text(month.starts()), time::text(month.ends()));
    let over: bool =
        transaction.query_row("SELECT strftime('%Y-%m-%dT%H:%M:%f000Z', 'now') >= ?1", [&ends], |row| row.get(0))?;
    if !over {
        return Ok(Closing::NotOver);
    }
    let owing = owing(&transaction, &ends, without)?;
    if !owing.is_empty() {
        return Ok(Closing::Owing(owing));
    }
    transaction.execute(
        "INSERT INTO closed_months (month, starts, ends, without) VALUES (?1, ?2, ?3, ?4)",
        params![name, starts, ends, without.join(" ")],
    )?;
    transaction.execute(FREEZE, params![name, starts, ends, REJECTED])?;
    note(&transaction, pen, Some(month_note(month, without)))?;
    transaction.commit()?;
    Ok(Closing::Closed)
}

fn owing(transaction: &Transaction<'_>, ends: &str, without: &[String]) -> std::result::Result<Vec<Debtor>, Failure> {
    let without = serde_json::to_string(without).unwrap_or_default();
    let mut statement = transaction.prepare(OWING)?;
    let mut rows = statement.query(params![ends, without, LIVE_SECONDS])?;
    let mut owing = Vec::new();
    while let Some(row) = rows.next()? {
        let mut row = Columns::of("journals", row);
        owing.push(Debtor {
            node: row.take("node")?,
            journal: row.id_or_null("id")?,
            clear_until: row.time_or_null("clear_until")?,
            reported_at: row.time_or_null("reported_at")?,
        });
    }
    Ok(owing)
}

fn sums(row: &mut Columns<'_, '_>) -> Result<UsageSum> {
    Ok(UsageSum {
        by: Vec::new(),
        requests: sum("requests", row.take("requests")?)?,
        units: sum("units", row.take("units")?)?,
        bytes_in: sum("bytes_in", row.take("bytes_in")?)?,
        bytes_out: sum("bytes_out", row.take("bytes_out")?)?,
        duration_us: sum("duration_us", row.take("duration_us")?)?,
        rejected: sum("rejected", row.take("rejected")?)?,
        would_reject: 0,
    })
}
