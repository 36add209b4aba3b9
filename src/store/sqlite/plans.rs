//! `plans`, `quota_marks`, and the sums that quotas start from

use async_trait::async_trait;
use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};
use uuid::Uuid;

use super::error::Failure;
use super::lane::{LOOK_UP, REPORT, WRITE};
use super::row::{Columns, PLAN, plan};
use super::trail::note;
use super::{Sqlite, time};
use crate::model::audit::Note;
use crate::model::id::ClientId;
use crate::model::plan::{NewPlan, Plan, PlanChange, QuotaMark};
use crate::model::quota::Window;
use crate::store::columns;
use crate::store::plans::{MarkPlace, Pieces, PlanStore, QuotaStore};
use crate::store::{Page, Result, StoreError};

#[async_trait]
impl PlanStore for Sqlite {
    async fn create(&self, new: NewPlan) -> Result<Plan> {
        let pen = self.pen.clone();
        let insert = move |connection: &mut Connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let id: String = transaction.query_row(
                "INSERT INTO plans (name, policies, concurrency) VALUES (?1, ?2, ?3) RETURNING id",
                params![
                    new.name,
                    columns::policies_text(&new.policies),
                    new.concurrency.map(std::num::NonZeroU32::get)
                ],
                |row| row.get(0),
            )?;
            let made = one(&transaction, "p.id = ?1", &id)?.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
            note(&transaction, &pen, Note::of("plan.create", None, Some(&made)))?;
            transaction.commit()?;
            Ok(made)
        };
        self.writer.run("create plan", WRITE, insert).await
    }

    async fn find(&self, id: Uuid) -> Result<Option<Plan>> {
        self.readers.run("find plan", LOOK_UP, move |connection| one(connection, "p.id = ?1", &id.to_string())).await
    }

    async fn find_by_name(&self, name: &str) -> Result<Option<Plan>> {
        let name = name.to_owned();
        self.readers.run("find plan by name", LOOK_UP, move |connection| one(connection, "p.name = ?1", &name)).await
    }

    async fn list(&self, after: Option<Uuid>, limit: u32) -> Result<Page<Plan>> {
        let select = move |connection: &mut Connection| {
            let mut statement = connection.prepare_cached(&format!(
                "SELECT {PLAN} FROM plans p
                 WHERE (replace(p.created_at, ' ', 'T'), p.id) > (
                     CASE WHEN ?1 IS NULL THEN '' ELSE
                         (SELECT replace(created_at, ' ', 'T') FROM plans WHERE id = ?1) END,
                     coalesce(?1, ''))
                 ORDER BY replace(p.created_at, ' ', 'T'), p.id
                 LIMIT ?2"
            ))?;
            let mut rows = statement.query(params![after.map(|id| id.to_string()), i64::from(limit) + 1])?;
            let mut plans = Vec::new();
            while let Some(row) = rows.next()? {
                plans.push(plan(&mut Columns::of("plans", row))?);
            }
            Ok(Page::cut(plans, limit))
        };
        self.reports.run("list plans", REPORT, select).await
    }

    async fn update(&self, id: Uuid, change: PlanChange) -> Result<Option<Plan>> {
        let pen = self.pen.clone();
        let update = move |connection: &mut Connection| {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let id = id.to_string();
            let Some(before) = one(&transaction, "p.id = ?1", &id)? else { return Ok(None) };
            if change.only_if.is_some_and(|read| before != *read) {
                return Err(StoreError::Changed.into());
            }
            transaction.execute(
                "UPDATE plans SET
                     name = coalesce(?2, name),
                     policies = coalesce(?3, policies),
                     concurrency = CASE WHEN ?4 THEN ?5 ELSE concurrency END,
                     updated_at = strftime('%Y-%m-%dT%H:%M:%f000Z', 'now')
                 WHERE id = ?1",
                params![
                    id,
                    change.name,
                    change.policies.as_ref().map(columns::policies_text),
                    change.concurrency.is_some(),
                    change.concurrency.flatten().map(std::num::NonZeroU32::get),
                ],
            )?;
            let changed = one(&transaction, "p.id = ?1", &id)?;
            note(&transaction, &pen, Note::of("plan.update", Some(&before), changed.as_ref()))?;
            transaction.commit()?;
            Ok(changed)
        };
        self.writer.run("update plan", WRITE, update).await
    }
}

#[async_trait]
impl QuotaStore for Sqlite {
    async fn units(&self, client: ClientId, window: Window) -> Result<i64> {
        let sum = move |connection: &mut Connection| {
            // Both parts of one moment: a commit between them would be in neither or in both.
            let transaction = connection.transaction()?;
            let (client, pieces) = (client.to_string(), Pieces::of(window));
            let mut units: i64 = transaction
                .prepare_cached(
                    "SELECT (SELECT coalesce(sum(units), 0) FROM usage_hourly
                             WHERE client_id = ?1 AND hour >= ?2 AND hour < ?3)
                          + (SELECT coalesce(sum(units), 0) FROM usage_adjustments
                             WHERE client_id = ?1 AND hour >= ?2 AND hour < ?3)",
                )?
                .query_row(params![client, time::text(pieces.hours.0), time::text(pieces.hours.1)], |row| row.get(0))?;
            for (from, to, first, last) in pieces.edges_with_ids() {
                let mut edge = transaction.prepare_cached(
                    "SELECT coalesce(sum(units), 0) FROM usage_events
                     WHERE id >= ?1 AND id < ?2 AND client_id = ?3 AND occurred_at >= ?4 AND occurred_at < ?5",
                )?;
                let values = params![first.to_string(), last.to_string(), client, time::text(from), time::text(to)];
                units += edge.query_row(values, |row| row.get::<_, i64>(0))?;
            }
            Ok(units)
        };
        self.quotas.run("sum quota", REPORT, sum).await
    }

    async fn note_mark(&self, mark: &QuotaMark) -> Result<bool> {
        let mark = mark.clone();
        let insert = move |connection: &mut Connection| {
            let new = connection.execute(
                "INSERT INTO quota_marks (client_id, policy, window_start, percent, window_end, quota, used, mode, reached_at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
                 ON CONFLICT (client_id, policy, window_start, percent) DO NOTHING",
                params![
                    mark.client_id.to_string(),
                    mark.policy,
                    time::text(mark.window_start),
                    mark.percent,
                    time::text(mark.window_end),
                    columns::count(mark.quota),
                    columns::count(mark.used),
                    mark.mode.as_str(),
                    time::text(mark.reached_at),
                ],
            )?;
            Ok(new == 1)
        };
        self.writer.run("note quota mark", WRITE, insert).await
    }

    async fn marks(
        &self,
        client: Option<ClientId>,
        since: Timestamp,
        after: Option<MarkPlace>,
        limit: u32,
    ) -> Result<Vec<QuotaMark>> {
        let select = move |connection: &mut Connection| {
            let mut statement = connection.prepare_cached(
                "SELECT client_id, policy, window_start, window_end, percent, quota, used, mode, reached_at
                 FROM quota_marks WHERE reached_at >= ?1 AND (?2 IS NULL OR client_id = ?2)
                   AND (?4 IS NULL OR reached_at < ?4 OR reached_at = ?4 AND (client_id > ?5 OR client_id = ?5
                        AND (policy > ?6 OR policy = ?6 AND percent < ?7)))
                 ORDER BY reached_at DESC, client_id, policy, percent DESC LIMIT ?3",
            )?;
            let mut rows = statement.query(params![
                time::text(since),
                client.map(|id| id.to_string()),
                limit,
                after.as_ref().map(|after| time::text(after.reached_at)),
                after.as_ref().map(|after| after.client_id.to_string()),
                after.as_ref().map(|after| &after.policy),
                after.as_ref().map(|after| after.percent),
            ])?;
            let mut marks = Vec::new();
            while let Some(row) = rows.next()? {
                let mut row = Columns::of("quota_marks", row);
                marks.push(QuotaMark {
                    client_id: ClientId(row.id("client_id")?),
                    policy: row.take("policy")?,
                    window_start: row.time("window_start")?,
                    window_end: row.time("window_end")?,
                    percent: row.take("percent")?,
                    quota: columns::sum("quota", row.take("quota")?)?,
                    used: columns::sum("used", row.take("used")?)?,
                    mode: columns::mode(&row.take::<String>("mode")?)?,
                    reached_at: row.time("reached_at")?,
                });
            }
            Ok(marks)
        };
        self.reports.run("list quota marks", REPORT, select).await
    }
}

fn one(connection: &Connection, condition: &str, value: &str) -> std::result::Result<Option<Plan>, Failure> {
    let mut statement = connection.prepare_cached(&format!("SELECT {PLAN} FROM plans p WHERE {condition}"))?;
    let found = statement.query_row([value], |row| Ok(plan(&mut Columns::of("plans", row)))).optional()?;
    Ok(found.transpose()?)
}
