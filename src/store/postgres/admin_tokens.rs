//! `admin_tokens`

use async_trait::async_trait;
use jiff::Timestamp;
use uuid::Uuid;

use super::Postgres;
use super::erasure::refuse_erased;
use super::pool::{LOOK_UP, Lease, Params, WORK};
use super::row::{Columns, all};
use super::trail::note;
use crate::model::admin::{AdminToken, NewAdminToken};
use crate::model::audit::Note;
use crate::model::id::ClientId;
use crate::model::key::KeyHash;
use crate::store::columns;
use crate::store::operators::AdminTokenStore;
use crate::store::{Page, Result};

/// The columns of [`token`].
const TOKEN: &str =
    "t.id, t.name, t.token_id, t.role, t.clients, t.created_at, t.expires_at, t.revoked_at, t.last_used_at";

#[async_trait]
impl AdminTokenStore for Postgres {
    async fn create(&self, new: NewAdminToken) -> Result<AdminToken> {
        let statement = format!(
            "INSERT INTO admin_tokens AS t (name, token_id, token_hash, role, clients, expires_at)
             VALUES ($1, $2, $3, $4, $5, $6) RETURNING {TOKEN}"
        );
        let clients: Vec<Uuid> = new.reach.clients.iter().map(|id| id.0).collect();
        let hash = new.hash.to_hex();
        let values: Params<'_> =
            &[&new.name, &new.token_id, &hash, &new.reach.role.as_str(), &clients, &new.expires_at];
        let mut lease = self.work.lease("create admin token", WORK).await?;
        lease.begin().await?;
        refuse_erased(&mut lease, &new.reach.clients).await?;
        let rows = lease.rows(&statement, values).await?;
        let made = token(&mut Columns::of("admin_tokens", &rows[0]))?;
        note(&mut lease, &self.pen, Note::of("token.create", None, Some(&made))).await?;
        lease.commit().await?;
        Ok(made)
    }

    async fn find(&self, id: Uuid) -> Result<Option<AdminToken>> {
        let mut lease = self.look_ups.lease("find admin token", LOOK_UP).await?;
        one(&mut lease, &format!("SELECT {TOKEN} FROM admin_tokens t WHERE t.id = $1"), &[&id]).await
    }

    async fn find_by_hash(&self, hash: &KeyHash) -> Result<Option<AdminToken>> {
        let hash = hash.to_hex();
        let mut lease = self.look_ups.lease("find admin token by hash", LOOK_UP).await?;
        one(&mut lease, &format!("SELECT {TOKEN} FROM admin_tokens t WHERE t.token_hash = $1"), &[&hash]).await
    }

    async fn find_by_token_id(&self, token_id: &str) -> Result<Option<AdminToken>> {
        let mut lease = self.look_ups.lease("find admin token by token_id", LOOK_UP).await?;
        one(&mut lease, &format!("SELECT {TOKEN} FROM admin_tokens t WHERE t.token_id = $1"), &[&token_id]).await
    }

    async fn list(&self, after: Option<Uuid>, limit: u32) -> Result<Page<AdminToken>> {
        let statement = format!(
            "SELECT {TOKEN} FROM admin_tokens t
             WHERE (t.created_at, t.id) > (
                 CASE WHEN $1::uuid IS NULL THEN '-infinity'::timestamptz ELSE
                     (SELECT created_at FROM admin_tokens WHERE id = $1) END,
                 coalesce($1, '00000000-0000-0000-0000-000000000000'))
             ORDER BY t.created_at, t.id
             LIMIT $2"
        );
        let mut lease = self.work.lease("list admin tokens", WORK).await?;
        let rows = lease.rows(&statement, &[&after, &(i64::from(limit) + 1)]).await?;
        Ok(Page::cut(all("admin_tokens", &rows, token)?, limit))
    }

    async fn revoke(&self, id: Uuid, at: Timestamp) -> Result<Option<AdminToken>> {
        let find = format!("SELECT {TOKEN} FROM admin_tokens t WHERE t.id = $1 FOR UPDATE");
        let update = format!(
            "UPDATE admin_tokens AS t SET revoked_at = coalesce(t.revoked_at, $2) WHERE t.id = $1 RETURNING {TOKEN}"
        );
        let mut lease = self.work.lease("revoke admin token", WORK).await?;
        lease.begin().await?;
        let before = one(&mut lease, &find, &[&id]).await?;
        let after = one(&mut lease, &update, &[&id, &at]).await?;
        note(&mut lease, &self.pen, Note::of("token.revoke", before.as_ref(), after.as_ref())).await?;
        lease.commit().await?;
        Ok(after)
    }

    async fn note_use(&self, id: Uuid, at: Timestamp) -> Result<()> {
        let statement = "UPDATE admin_tokens SET last_used_at = greatest(last_used_at, $2) WHERE id = $1";
        let mut lease = self.work.lease("note use of admin token", WORK).await?;
        lease.execute(statement, &[&id, &at]).await?;
        Ok(())
    }
}

async fn one(lease: &mut Lease, statement: &str, values: Params<'_>) -> Result<Option<AdminToken>> {
    let row = lease.row(statement, values).await?;
    row.map(|row| token(&mut Columns::of("admin_tokens", &row))).transpose()
}

fn token(row: &mut Columns<'_>) -> Result<AdminToken> {
    Ok(AdminToken {
        id: row.take("id")?,
        name: row.take("name")?,
        token_id: row.take("token_id")?,
        role: columns::role("admin_tokens", row.take("role")?)?,
        clients: row.take::<Vec<Uuid>>("clients")?.into_iter().map(ClientId).collect(),
        created_at: row.take("created_at")?,
        expires_at: row.take("expires_at")?,
        revoked_at: row.take("revoked_at")?,
        last_used_at: row.take("last_used_at")?,
    })
}
