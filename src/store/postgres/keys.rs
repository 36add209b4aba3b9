//! `api_keys`, and look-ups of credentials.

use async_trait::async_trait;
use jiff::Timestamp;

use super::Postgres;
use super::pool::{LOOK_UP, Lease, Params, WORK};
use super::row::{CLIENT, Columns, KEY, all, client, key};
use crate::model::id::{ApiKeyId, ClientId};
use crate::model::key::{ApiKey, CredentialRecord, KeyHash, NewApiKey};
use crate::store::{KeyStore, Page, Result, preferred};

#[async_trait]
impl KeyStore for Postgres {
    async fn create(&self, new: NewApiKey) -> Result<ApiKey> {
        let statement = format!(
            "INSERT INTO api_keys AS k (client_id, name, key_id, api_key_hash, pepper_version, scopes, expires_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING {KEY}"
        );
        let scopes: Vec<&str> = new.scopes.iter().collect();
        let hash = new.hash.to_hex();
        let values: Params<'_> =
            &[&new.client_id.0, &new.name, &new.key_id, &hash, &new.pepper_version, &scopes, &new.expires_at];
        let mut lease = self.work.lease("create key", WORK).await?;
        let rows = lease.rows(&statement, values).await?;
        key(&mut Columns::of("api_keys", &rows[0]))
    }

    async fn find_by_hash(&self, hashes: &[KeyHash]) -> Result<Option<CredentialRecord>> {
        let statement = format!(
            "WITH hit (client_id, key_row, hash, pepper_version) AS (
                 SELECT client_id, id, api_key_hash, pepper_version FROM api_keys WHERE api_key_hash = ANY ($1)
                 UNION ALL
                 SELECT id, NULL, api_key_hash, api_key_pepper_version FROM clients WHERE api_key_hash = ANY ($1))
             SELECT hit.key_row IS NOT NULL, hit.hash, hit.pepper_version, {CLIENT}, {KEY}
             FROM hit JOIN clients c ON c.id = hit.client_id LEFT JOIN api_keys k ON k.id = hit.key_row"
        );
        let wanted: Vec<String> = hashes.iter().map(|hash| hash.to_hex()).collect();
        let mut lease = self.look_ups.lease("find key by hash", LOOK_UP).await?;
        let rows = lease.rows(&statement, &[&wanted]).await?;
        let found = all("api_keys", &rows, credential)?;
        Ok(preferred(found.into_iter().flatten().collect(), hashes))
    }

    async fn find(&self, id: ApiKeyId) -> Result<Option<ApiKey>> {
        let mut lease = self.look_ups.lease("find key", LOOK_UP).await?;
        one(&mut lease, &format!("SELECT {KEY} FROM api_keys k WHERE k.id = $1"), &[&id.0]).await
    }

    async fn find_by_key_id(&self, key_id: &str) -> Result<Option<ApiKey>> {
        let mut lease = self.look_ups.lease("find key by key_id", LOOK_UP).await?;
        one(&mut lease, &format!("SELECT {KEY} FROM api_keys k WHERE k.key_id = $1"), &[&key_id]).await
    }

    async fn list(&self, of: Option<ClientId>, after: Option<ApiKeyId>, limit: u32) -> Result<Page<ApiKey>> {
        // Two texts, so that each has a plan that fits.
        let filter = if of.is_some() { "k.client_id = $3" } else { "$3::uuid IS NULL" };
        let statement = format!(
            "SELECT {KEY} FROM api_keys k
             WHERE {filter} AND (k.created_at, k.id) > (
                 CASE WHEN $1::uuid IS NULL THEN '-infinity'::timestamptz ELSE
                     (SELECT created_at FROM api_keys WHERE id = $1) END,
                 coalesce($1, '00000000-0000-0000-0000-000000000000'))
             ORDER BY k.created_at, k.id
             LIMIT $2"
        );
        let values: Params<'_> = &[&after.map(|id| id.0), &(i64::from(limit) + 1), &of.map(|id| id.0)];
        let mut lease = self.work.lease("list keys", WORK).await?;
        let rows = lease.rows(&statement, values).await?;
        Ok(Page::cut(all("api_keys", &rows, key)?, limit))
    }

    async fn revoke(&self, id: ApiKeyId, at: Timestamp) -> Result<Option<ApiKey>> {
        // One revoked for a later time is revoked now; one revoked already keeps its time.
        let statement =
            format!("UPDATE api_keys AS k SET revoked_at = least(k.revoked_at, $2) WHERE k.id = $1 RETURNING {KEY}");
        let mut lease = self.work.lease("revoke key", WORK).await?;
        one(&mut lease, &statement, &[&id.0, &at]).await
    }

    async fn note_pepper_version(&self, id: ApiKeyId, version: i32) -> Result<()> {
        let statement = "UPDATE api_keys SET pepper_version = $2 WHERE id = $1 AND pepper_version IS NULL";
        let mut lease = self.work.lease("note pepper version", WORK).await?;
        lease.execute(statement, &[&id.0, &version]).await?;
        Ok(())
    }
}

async fn one(lease: &mut Lease, statement: &str, params: Params<'_>) -> Result<Option<ApiKey>> {
    let row = lease.row(statement, params).await?;
    row.map(|row| key(&mut Columns::of("api_keys", &row))).transpose()
}

fn credential(row: &mut Columns<'_>) -> Result<Option<CredentialRecord>> {
    let of_key: bool = row.take("id")?;
    // What matched is one of those asked for, so it reads back.
    let Some(matched) = KeyHash::from_hex(row.take("api_key_hash")?) else { return Ok(None) };
    let pepper_version = row.take("pepper_version")?;
    let client = client(row)?;
    let key = if of_key { Some(key(row)?) } else { None };
    Ok(Some(CredentialRecord { client, key, matched, pepper_version }))
}
