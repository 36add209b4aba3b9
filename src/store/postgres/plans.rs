//! `plans`, `quota_marks`, and the sums that quotas start from

use async_trait::async_trait;
use jiff::Timestamp;
use uuid::Uuid;

use super::Postgres;
use super::pool::{LOOK_UP, Lease, Params, WORK};
use super::row::{Columns, PLAN, all, plan};
use super::trail::note;
use crate::model::audit::Note;
use crate::model::id::ClientId;
use crate::model::plan::{NewPlan, Plan, PlanChange, QuotaMark};
use crate::model::quota::Window;
use crate::store::columns;
use crate::store::plans::{MarkPlace, Pieces, PlanStore, QuotaStore};
use crate::store::{Page, Result, StoreError};

/// One statement, so that all parts are of one moment: a commit between them would be in neither
/// or in both.
const UNITS: &str = "
    SELECT (SELECT coalesce(sum(units), 0) FROM usage_hourly WHERE client_id = $1 AND hour >= $2 AND hour < $3)::bigint
         + (SELECT coalesce(sum(units), 0) FROM usage_adjustments
            WHERE client_id = $1 AND hour >= $2 AND hour < $3)::bigint
         + (SELECT coalesce(sum(e.units), 0)
            FROM unnest($4::timestamptz[], $5::timestamptz[], $6::uuid[], $7::uuid[]) AS edge (since, until, first, last)
            JOIN usage_events e ON e.id >= edge.first AND e.id < edge.last AND e.client_id = $1
                AND e.occurred_at >= edge.since AND e.occurred_at < edge.until)::bigint";

#[async_trait]
impl PlanStore for Postgres {
    async fn create(&self, new: NewPlan) -> Result<Plan> {
        let statement =
            format!("INSERT INTO plans AS p (name, policies, concurrency) VALUES ($1, $2, $3) RETURNING {PLAN}");
        let policies = columns::policies_value(&new.policies);
        let concurrency = new.concurrency.map(|most| i64::from(most.get()));
        let mut lease = self.work.lease("create plan", WORK).await?;
        lease.begin().await?;
        let rows = lease.rows(&statement, &[&new.name, &policies, &concurrency]).await?;
        let made = plan(&mut Columns::of("plans", &rows[0]))?;
        note(&mut lease, &self.pen, Note::of("plan.create", None, Some(&made))).await?;
        lease.commit().await?;
        Ok(made)
    }

    async fn find(&self, id: Uuid) -> Result<Option<Plan>> {
        let mut lease = self.look_ups.lease("find plan", LOOK_UP).await?;
        by_id(&mut lease, id, "").await
    }

    async fn find_by_name(&self, name: &str) -> Result<Option<Plan>> {
        let mut lease = self.look_ups.lease("find plan by name", LOOK_UP).await?;
        let row = lease.row(&format!("SELECT {PLAN} FROM plans p WHERE p.name = $1"), &[&name]).await?;
        row.map(|row| plan(&mut Columns::of("plans", &row))).transpose()
    }

    async fn list(&self, after: Option<Uuid>, limit: u32) -> Result<Page<Plan>> {
        let statement = format!(
            "SELECT {PLAN} FROM plans p
             WHERE (p.created_at, p.id) > (
                 CASE WHEN $1::uuid IS NULL THEN '-infinity'::timestamptz ELSE
                     (SELECT created_at FROM plans WHERE id = $1) END,
                 coalesce($1, '00000000-0000-0000-0000-000000000000'))
             ORDER BY p.created_at, p.id
             LIMIT $2"
        );
        let mut lease = self.work.lease("list plans", WORK).await?;
        let rows = lease.rows(&statement, &[&after, &(i64::from(limit) + 1)]).await?;
        Ok(Page::cut(all("plans", &rows, plan)?, limit))
    }

    async fn update(&self, id: Uuid, change: PlanChange) -> Result<Option<Plan>> {
        let statement = format!(
            "UPDATE plans AS p SET
                 name = coalesce($2, p.name),
                 policies = coalesce($3, p.policies),
                 concurrency = CASE WHEN $4::boolean THEN $5 ELSE p.concurrency END,
                 updated_at = now()
             WHERE p.id = $1 RETURNING {PLAN}"
        );
        let policies = change.policies.as_ref().map(columns::policies_value);
        let concurrency = change.concurrency.flatten().map(|most| i64::from(most.get()));
        let values: Params<'_> = &[&id, &change.name, &policies, &change.concurrency.is_some(), &concurrency];
        let mut lease = self.work.lease("update plan", WORK).await?;
        lease.begin().await?;
        let before = by_id(&mut lease, id, "FOR UPDATE").await?;
        if let (Some(read), Some(before)) = (&change.only_if, &before)
            && before != read.as_ref()
        {
            lease.roll_back().await?;
            return Err(StoreError::Changed);
        }
        let row = lease.row(&statement, values).await?;
        let changed = row.map(|row| plan(&mut Columns::of("plans", &row))).transpose()?;
        note(&mut lease, &self.pen, Note::of("plan.update", before.as_ref(), changed.as_ref())).await?;
        lease.commit().await?;
        Ok(changed)
    }
}

async fn by_id(lease: &mut Lease, id: Uuid, lock: &'static str) -> Result<Option<Plan>> {
    let row = lease.row(&format!("SELECT {PLAN} FROM plans p WHERE p.id = $1 {lock}"), &[&id]).await?;
    row.map(|row| plan(&mut Columns::of("plans", &row))).transpose()
}

#[async_trait]
impl QuotaStore for Postgres {
    async fn units(&self, client: ClientId, window: Window) -> Result<i64> {
        let pieces = Pieces::of(window);
        let mut edges = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (from, to, first, last) in pieces.edges_with_ids() {
            edges.0.push(from);
            edges.1.push(to);
            edges.2.push(first);
            edges.3.push(last);
        }
        let values: Params<'_> = &[&client.0, &pieces.hours.0, &pieces.hours.1, &edges.0, &edges.1, &edges.2, &edges.3];
        let mut lease = self.work.lease("sum quota", WORK).await?;
        let rows = lease.rows(UNITS, values).await?;
        Columns::of("usage_hourly", &rows[0]).take("units")
    }

    async fn note_mark(&self, mark: &QuotaMark) -> Result<bool> {
        let statement = "INSERT INTO quota_marks
                 (client_id, policy, window_start, percent, window_end, quota, used, mode, reached_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
             ON CONFLICT (client_id, policy, window_start, percent) DO NOTHING RETURNING percent";
        let (quota, used) = (columns::count(mark.quota), columns::count(mark.used));
        let (percent, mode) = (i32::from(mark.percent), mark.mode.as_str());
        let values: Params<'_> = &[
            &mark.client_id.0,
            &mark.policy,
            &mark.window_start,
            &percent,
            &mark.window_end,
            &quota,
            &used,
            &mode,
            &mark.reached_at,
        ];
        let mut lease = self.work.lease("note quota mark", WORK).await?;
        Ok(lease.row(statement, values).await?.is_some())
    }

    async fn marks(
        &self,
        client: Option<ClientId>,
        since: Timestamp,
        after: Option<MarkPlace>,
        limit: u32,
    ) -> Result<Vec<QuotaMark>> {
        let statement = "SELECT client_id, policy, window_start, window_end, percent, quota, used, mode, reached_at
             FROM quota_marks WHERE reached_at >= $1 AND ($2::uuid IS NULL OR client_id = $2)
               AND ($4::timestamptz IS NULL OR reached_at < $4 OR reached_at = $4 AND (client_id > $5::uuid
                    OR client_id = $5 AND (policy > $6::text OR policy = $6 AND percent < $7::int)))
             ORDER BY reached_at DESC, client_id, policy, percent DESC LIMIT $3";
        let mut lease = self.work.lease("list quota marks", WORK).await?;
        let (reached_at, client_id, policy, percent) = match &after {
            Some(place) => {
                (Some(place.reached_at), Some(place.client_id.0), Some(&place.policy), Some(i32::from(place.percent)))
            }
            None => (None, None, None, None),
        };
        let (client, limit) = (client.map(|id| id.0), i64::from(limit));
        let values: Params<'_> = &[&since, &client, &limit, &reached_at, &client_id, &policy, &percent];
        let rows = lease.rows(statement, values).await?;
        all("quota_marks", &rows, |row| {
            Ok(QuotaMark {
                client_id: ClientId(row.take("client_id")?),
                policy: row.take("policy")?,
                window_start: row.take("window_start")?,
                window_end: row.take("window_end")?,
                percent: u8::try_from(row.take::<i32>("percent")?).unwrap_or(u8::MAX),
                quota: columns::sum("quota", row.take("quota")?)?,
                used: columns::sum("used", row.take("used")?)?,
                mode: columns::mode(row.take("mode")?)?,
                reached_at: row.take("reached_at")?,
            })
        })
    }
}
