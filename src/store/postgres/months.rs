//! Closed months, and what came afterwards.

use async_trait::async_trait;
use jiff::Timestamp;
use uuid::Uuid;

use super::Postgres;
use super::pool::{Lease, WORK};
use super::row::{Columns, all};
use super::trail::note;
use crate::model::id::ClientId;
use crate::model::month::Month;
use crate::model::usage::REJECTED;
use crate::store::columns::sum;
use crate::store::months::{Adjustment, ClosedMonth, Closing, Debtor, MonthStore};
use crate::store::rotation::LIVE_SECONDS;
use crate::store::trail::{Pen, month_note};
use crate::store::{Result, UsageSum};

/// Journals that may have entries for the month, and processes that serve and keep none that is
/// known.
const OWING: &str = "
    SELECT node, id, clear_until, reported_at FROM journals
    WHERE clear_until < $1 AND NOT (node = ANY($2) OR id::text = ANY($2))
    UNION ALL
    SELECT DISTINCT n.name, NULL::uuid, NULL::timestamptz, NULL::timestamptz FROM nodes n
    WHERE n.seen_at > now() - $3 * interval '1 second' AND n.name <> ALL($2)
      AND NOT EXISTS (SELECT FROM journals j WHERE j.node = n.name)
    ORDER BY 1, 2";

const FREEZE: &str = "
    INSERT INTO closed_month_totals (month, client_id, requests, units, bytes_in, bytes_out, duration_us, rejected)
    SELECT $1, client_id, coalesce(sum(requests) FILTER (WHERE outcome <> $4), 0), sum(units), sum(bytes_in),
        sum(bytes_out), sum(duration_us), coalesce(sum(requests) FILTER (WHERE outcome = $4), 0)
    FROM (
        SELECT client_id, outcome, requests, units, bytes_in, bytes_out, duration_us
        FROM usage_hourly WHERE hour >= $2 AND hour < $3
        UNION ALL
        SELECT client_id, outcome, requests, units, bytes_in, bytes_out, duration_us
        FROM usage_adjustments WHERE booked >= $2 AND booked < $3) AS used
    GROUP BY client_id";

#[async_trait]
impl MonthStore for Postgres {
    async fn close(&self, month: Month, without: &[String]) -> Result<Closing> {
        let mut lease = self.work.lease("close month", WORK).await?;
        let closing = close(&mut lease, &self.pen, month, without).await;
        if !matches!(closing, Ok(Closing::Closed)) {
            // Its transaction goes with it.
            lease.discard();
        }
        closing
    }

    async fn closed(&self, month: Month) -> Result<Option<ClosedMonth>> {
        let mut lease = self.work.lease("find month", WORK).await?;
        find(&mut lease, month).await
    }

    async fn totals(&self, month: Month, client: Option<ClientId>) -> Result<Vec<(Uuid, UsageSum)>> {
        let statement = "SELECT client_id, requests, units, bytes_in, bytes_out, duration_us, rejected
             FROM closed_month_totals WHERE month = $1 AND ($2::uuid IS NULL OR client_id = $2) ORDER BY client_id";
        let mut lease = self.work.lease("list month", WORK).await?;
        let rows = lease.rows(statement, &[&month.to_string(), &client.map(|id| id.0)]).await?;
        all("closed_month_totals", &rows, |row| Ok((row.take("client_id")?, sums(row)?)))
    }

    async fn adjustments(&self, from: Timestamp, to: Timestamp, client: Option<ClientId>) -> Result<Vec<Adjustment>> {
        let statement = "SELECT client_id, corrects,
                 coalesce(sum(requests) FILTER (WHERE outcome <> $4), 0)::bigint, sum(units)::bigint,
                 sum(bytes_in)::bigint, sum(bytes_out)::bigint, sum(duration_us)::bigint,
                 coalesce(sum(requests) FILTER (WHERE outcome = $4), 0)::bigint
             FROM usage_adjustments
             WHERE booked >= $1 AND booked < $2 AND ($3::uuid IS NULL OR client_id = $3)
             GROUP BY client_id, corrects ORDER BY client_id, corrects COLLATE \"C\"";
        let mut lease = self.work.lease("list adjustments", WORK).await?;
        let rows = lease.rows(statement, &[&from, &to, &client.map(|id| id.0), &REJECTED]).await?;
        all("usage_adjustments", &rows, |row| {
            Ok(Adjustment { client_id: row.take("client_id")?, corrects: row.take("corrects")?, sum: sums(row)? })
        })
    }
}

async fn close(lease: &mut Lease, pen: &Pen, month: Month, without: &[String]) -> Result<Closing> {
    // Whoever records waits, and sees the month closed.
    lease.batch("BEGIN; LOCK TABLE usage_hourly IN SHARE ROW EXCLUSIVE MODE").await?;
    if find(lease, month).await?.is_some() {
        return Ok(Closing::Already);
    }
    if lease.row("SELECT 1 WHERE clock_timestamp() >= $1::timestamptz", &[&month.ends()]).await?.is_none() {
        return Ok(Closing::NotOver);
    }
    let rows = lease.rows(OWING, &[&month.ends(), &without, &f64::from(LIVE_SECONDS)]).await?;
    if !rows.is_empty() {
        let debtor = |row: &mut Columns<'_>| {
            let (node, journal) = (row.take("node")?, row.take("id")?);
            Ok(Debtor { node, journal, clear_until: row.take("clear_until")?, reported_at: row.take("reported_at")? })
        };
        return Ok(Closing::Owing(all("journals", &rows, debtor)?));
    }
    let name = month.to_string();
    let insert = "INSERT INTO closed_months (month, starts, ends, without) VALUES ($1, $2, $3, $4)";
    lease.execute(insert, &[&name, &month.starts(), &month.ends(), &without.join(" ")]).await?;
    lease.execute(FREEZE, &[&name, &month.starts(), &month.ends(), &REJECTED]).await?;
    note(lease, pen, Some(month_note(month, without))).await?;
    lease.batch("COMMIT").await?;
    Ok(Closing::Closed)
}

async fn find(lease: &mut Lease, month: Month) -> Result<Option<ClosedMonth>> {
    let statement = "SELECT month, closed_at, without FROM closed_months WHERE month = $1";
    let row = lease.row(statement, &[&month.to_string()]).await?;
    row.map(|row| {
        let mut row = Columns::of("closed_months", &row);
        Ok(ClosedMonth { month: row.take("month")?, closed_at: row.take("closed_at")?, without: row.take("without")? })
    })
    .transpose()
}

fn sums(row: &mut Columns<'_>) -> Result<UsageSum> {
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
