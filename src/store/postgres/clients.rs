//! `clients`

use async_trait::async_trait;
use uuid::Uuid;

use super::Postgres;
use super::erasure::refuse_erased;
use super::pool::{LOOK_UP, Lease, WORK};
use super::row::{CLIENT, Columns, all, client};
use super::trail::note;
use crate::model::audit::Note;
use crate::model::client::{Client, ClientChange, ClientStatus, NewClient};
use crate::model::id::ClientId;
use crate::store::trail::client_note;
use crate::store::{ClientStore, Page, Result, StoreError};

#[async_trait]
impl ClientStore for Postgres {
    async fn create(&self, new: NewClient) -> Result<Client> {
        let statement = format!(
            "INSERT INTO clients AS c (name, rate, burst, metadata, plan_id, quota, concurrency)
             VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING {CLIENT}"
        );
        let rate = new.rate.map(|rate| rate.to_string());
        let burst = new.burst.map(|burst| i64::from(burst.get()));
        let quota = new.quota.map(|quota| quota.to_string());
        let concurrency = new.concurrency.map(|most| i64::from(most.get()));
        let mut lease = self.work.lease("create client", WORK).await?;
        lease.begin().await?;
        let rows = lease
            .rows(&statement, &[&new.name, &rate, &burst, &new.metadata, &new.plan_id, &quota, &concurrency])
            .await?;
        let made = client(&mut Columns::of("clients", &rows[0]))?;
        note(&mut lease, &self.pen, Note::of("client.create", None, Some(&made))).await?;
        lease.commit().await?;
        Ok(made)
    }

    async fn find(&self, id: ClientId) -> Result<Option<Client>> {
        let mut lease = self.look_ups.lease("find client", LOOK_UP).await?;
        by_id(&mut lease, id, "").await
    }

    async fn find_many(&self, ids: &[ClientId]) -> Result<Vec<Client>> {
        let statement = format!("SELECT {CLIENT} FROM clients c WHERE c.id = ANY($1)");
        let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
        // Not with the look-ups: callers that come meanwhile are authenticated there.
        let mut lease = self.work.lease("find clients", WORK).await?;
        all("clients", &lease.rows(&statement, &[&ids]).await?, client)
    }

    async fn find_by_name(&self, name: &str) -> Result<Vec<Client>> {
        let statement = format!("SELECT {CLIENT} FROM clients c WHERE c.name = $1 ORDER BY c.created_at, c.id");
        let mut lease = self.look_ups.lease("find client by name", LOOK_UP).await?;
        all("clients", &lease.rows(&statement, &[&name]).await?, client)
    }

    async fn list(&self, after: Option<ClientId>, limit: u32) -> Result<Page<Client>> {
        let statement = format!(
            "SELECT {CLIENT} FROM clients c
             WHERE (c.created_at, c.id) > (
                 CASE WHEN $1::uuid IS NULL THEN '-infinity'::timestamptz ELSE
                     (SELECT created_at FROM clients WHERE id = $1) END,
                 coalesce($1, '00000000-0000-0000-0000-000000000000'))
             ORDER BY c.created_at, c.id
             LIMIT $2"
        );
        let mut lease = self.work.lease("list clients", WORK).await?;
        let rows = lease.rows(&statement, &[&after.map(|id| id.0), &(i64::from(limit) + 1)]).await?;
        Ok(Page::cut(all("clients", &rows, client)?, limit))
    }

    async fn update(&self, id: ClientId, change: ClientChange) -> Result<Option<Client>> {
        let statement = format!(
            "UPDATE clients AS c SET
                 name = coalesce($2, c.name),
                 status = coalesce($3, c.status),
                 rate = CASE WHEN $4::boolean THEN $5 ELSE c.rate END,
                 burst = CASE WHEN $6::boolean THEN $7 ELSE c.burst END,
                 metadata = coalesce($8, c.metadata),
                 plan_id = CASE WHEN $9::boolean THEN $10 ELSE c.plan_id END,
                 quota = CASE WHEN $11::boolean THEN $12 ELSE c.quota END,
                 concurrency = CASE WHEN $13::boolean THEN $14 ELSE c.concurrency END,
                 updated_at = now()
             WHERE c.id = $1 RETURNING {CLIENT}"
        );
        let status = change.status.map(ClientStatus::as_str);
        let rate = change.rate.flatten().map(|rate| rate.to_string());
        let burst = change.burst.flatten().map(|burst| i64::from(burst.get()));
        let plan_id = change.plan_id.flatten();
        let quota = change.quota.as_ref().map(|quota| quota.as_ref().map(ToString::to_string));
        let quota = quota.flatten();
        let concurrency = change.concurrency.flatten().map(|most| i64::from(most.get()));
        let mut lease = self.work.lease("update client", WORK).await?;
        lease.begin().await?;
        let Some(before) = by_id(&mut lease, id, "FOR UPDATE OF c").await? else {
            lease.roll_back().await?;
            return Ok(None);
        };
        if change.only_if.is_some_and(|read| !before.is_still(&read)) {
            lease.roll_back().await?;
            return Err(StoreError::Changed);
        }
        refuse_erased(&mut lease, &[id]).await?;
        let row = lease
            .row(
                &statement,
                &[
                    &id.0,
                    &change.name,
                    &status,
                    &change.rate.is_some(),
                    &rate,
                    &change.burst.is_some(),
                    &burst,
                    &change.metadata,
                    &change.plan_id.is_some(),
                    &plan_id,
                    &change.quota.is_some(),
                    &quota,
                    &change.concurrency.is_some(),
                    &concurrency,
                ],
            )
            .await?;
        let changed = row.map(|row| client(&mut Columns::of("clients", &row))).transpose()?;
        note(&mut lease, &self.pen, client_note(&before, changed.as_ref())).await?;
        lease.commit().await?;
        Ok(changed)
    }
}

pub(super) async fn by_id(lease: &mut Lease, id: ClientId, lock: &'static str) -> Result<Option<Client>> {
    let row = lease.row(&format!("SELECT {CLIENT} FROM clients c WHERE c.id = $1 {lock}"), &[&id.0]).await?;
    row.map(|row| client(&mut Columns::of("clients", &row))).transpose()
}
